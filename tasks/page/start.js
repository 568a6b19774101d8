function fail(error) {
  const problem = $("#problem");
  problem.textContent = `The charts of this page could not be drawn (${error.message}). They need a browser of 2023 or later.`;
  problem.hidden = false;
  console.error(error);
}

async function start() {
  if ($(".plot")) await loadPlotly();
  const charts = $$("figure.chart").map((figure) => new Chart(figure));
  const explorers = $$("figure.explorer")
    .filter((figure) => $(".plot", figure))
    .map((figure) => new Explorer(figure));
  for (const explorer of explorers) await explorer.open();
  const drawAll = async () => {
    const colours = palette();
    for (const part of [...explorers, ...charts]) await part.draw(colours);
  };
  await drawAll();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawAll().catch(fail));
  addEventListener("hashchange", () => explorers.forEach((explorer) => explorer.follow().catch(fail)));
  document.documentElement.dataset.ready = "true";
}

start().catch(fail);
