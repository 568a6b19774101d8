// Helpers, data in the page, colours and charts. The scripts here are one when they run.

const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const narrow = () => window.innerWidth < 640;
const number = new Intl.NumberFormat("en-US", { maximumSignificantDigits: 4 });
const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const show = (value) =>
  value === null ? "–" : (Math.abs(value) >= 1000 ? whole : number).format(value).replace("-", "−");
/** Text as plotly has to get it, to show it as it is. */
const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;");
const collator = new Intl.Collator("en", { numeric: true });

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

async function inflate(script) {
  const text = atob(script.textContent.trim());
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function loadPlotly() {
  const source = new TextDecoder().decode(await inflate($("#plotly")));
  document.head.append(element("script", {}, source));
  if (!window.Plotly) throw new Error("the chart library did not start");
}

const ROLES = [
  "ink",
  "median",
  "inner",
  "outer",
  "accent",
  "second",
  "third",
  "muted",
  "alert",
  "grid",
  "soft",
  "paper",
  "card",
];

function palette() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(
    [...ROLES, "rule"].map((name) => [name, style.getPropertyValue(`--${name}`).trim()]),
  );
}

function coloured(value, colours, isColour = false) {
  if (typeof value === "string")
    return isColour && value[0] === "@" ? (colours[value.slice(1)] ?? value) : value;
  if (Array.isArray(value))
    return isColour || typeof value[0] === "object"
      ? value.map((v) => coloured(v, colours, isColour))
      : value;
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, v]) => [key, coloured(v, colours, isColour || /color/i.test(key))]),
  );
}

function merged(base, over) {
  const result = { ...base };
  for (const [key, value] of Object.entries(over)) {
    const nested = value && typeof value === "object" && !Array.isArray(value) && base[key];
    result[key] = nested && typeof nested === "object" ? merged(nested, value) : value;
  }
  return result;
}

function layoutFor(layout, colours) {
  const axis = {
    gridcolor: colours.grid,
    linecolor: colours.rule,
    zerolinecolor: colours.rule,
    tickcolor: colours.rule,
    tickfont: { color: colours.soft },
    automargin: true,
    exponentformat: "B",
    minexponent: 6,
    separatethousands: true,
    title: { standoff: 12, font: { color: colours.soft, size: 12 } },
  };
  const base = {
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colours.ink },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    separators: ".,",
    colorway: [colours.accent, colours.second, colours.third, colours.muted, colours.ink],
    margin: { l: 8, r: 8, t: 8, b: 8 },
    hovermode: "x unified",
    hoverlabel: { bgcolor: colours.card, bordercolor: colours.rule, font: { color: colours.ink } },
    showlegend: false,
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
  };
  const given = coloured(layout, colours);
  const axes = new Set(["xaxis", "yaxis", ...Object.keys(given).filter((key) => /^[xy]axis\d+$/.test(key))]);
  for (const name of axes)
    base[name] = {
      ...axis,
      ...(name[0] === "x" ? { showgrid: false, tickangle: 0, ...(narrow() ? { nticks: 4 } : {}) } : {}),
    };
  return merged(base, given);
}

const SIGNS = { "triangle-up": "▲", diamond: "◆", x: "✕", circle: "●", square: "■", star: "★" };

/** What a trace looks like, small. */
function swatch(trace) {
  const mark = SIGNS[trace.marker?.symbol];
  if (mark) return element("i", { style: `color: ${trace.marker.color}` }, mark);
  const fill = trace.fillcolor ?? (trace.type === "bar" ? trace.marker?.color : null);
  if (fill) return element("i", { class: "fill", style: `background: ${fill}` });
  const dashed = trace.line?.dash && trace.line.dash !== "solid";
  return element("i", {
    class: "line",
    style: `border-top: 2px ${dashed ? "dashed" : "solid"} ${trace.line?.color}`,
  });
}

/** The names of the traces above the plot, where they wrap on a phone and take no room from it. */
function explain(plot, data) {
  const named = data.filter((trace) => trace.name && trace.showlegend !== false);
  named.sort((a, b) => (a.legendrank ?? 0) - (b.legendrank ?? 0));
  const items = named.map((trace) =>
    element("li", {}, swatch(trace), trace.name.replace(/&lt;/g, "<").replace(/&amp;/g, "&")),
  );
  if (!plot.previousElementSibling?.classList.contains("legend"))
    plot.before(element("ul", { class: "legend" }));
  plot.previousElementSibling.replaceChildren(...(items.length > 1 ? items : []));
}

function draw(plot, data, layout, colours) {
  const height = layout.height ?? plot.clientHeight;
  plot.style.minHeight = `${height}px`;
  const config = { responsive: true, displayModeBar: false };
  const painted = coloured(data, colours);
  explain(plot, painted);
  return Plotly.react(plot, painted, layoutFor({ ...layout, height }, colours), config);
}

class Chart {
  constructor(figure) {
    this.plot = $(".plot", figure);
    this.figure = JSON.parse($("script", figure).textContent);
  }
  draw(colours) {
    return draw(this.plot, this.figure.data, this.figure.layout ?? {}, colours);
  }
}
