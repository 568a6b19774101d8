// Lines, bands and marks of one panel as plotly traces.

const milliseconds = (time) => Date.parse(`${time.replace(" ", "T")}${time.length > 10 ? "Z" : ""}`);

/** Runs of neighbouring times that have a value; a hole in the times ends a run too. */
function runs(track, known) {
  const found = [];
  let run = [];
  track.stamps.forEach((stamp, t) => {
    const hole = t > 0 && stamp - track.stamps[t - 1] > 1.5 * track.interval;
    if (run.length && (hole || !known(t))) {
      found.push(run);
      run = [];
    }
    if (known(t)) run.push(t);
  });
  if (run.length) found.push(run);
  return found;
}

/** Points of a line, with a break between runs; a run of a single point gets a marker. */
function line(track, values, from) {
  const x = [],
    y = [],
    at = [],
    size = [];
  for (const run of runs(track, (t) => t >= from && values[t] !== null)) {
    if (x.length) {
      x.push(track.times[run[0]]);
      y.push(null);
      at.push(-1);
      size.push(0);
    }
    for (const t of run) {
      x.push(track.times[t]);
      y.push(values[t]);
      at.push(t);
      size.push(run.length > 1 ? 0 : 5);
    }
  }
  return {
    x,
    y,
    at,
    mode: size.some((s) => s) ? "lines+markers" : "lines",
    marker: { size, opacity: 1, line: { width: 0 } },
  };
}

function area(track, low, high, from) {
  const x = [],
    y = [];
  for (const run of runs(track, (t) => t >= from && low[t] !== null && high[t] !== null)) {
    if (x.length) {
      x.push(null);
      y.push(null);
    }
    for (const t of run) {
      x.push(track.times[t]);
      y.push(high[t]);
    }
    for (const t of [...run].reverse()) {
      x.push(track.times[t]);
      y.push(low[t]);
    }
    x.push(track.times[run[0]]);
    y.push(high[run[0]]);
  }
  return { x, y };
}

const SYMBOLS = ["triangle-up", "diamond", "x", "circle", "square", "star"];

function bandColour(i, n) {
  return i === n - 1 && n > 1 ? "@inner" : "@outer";
}

function tracesOf(track, data, from, axes, legend) {
  const { columns, marks } = data;
  const traces = [];
  const add = (label, legendrank, trace) => {
    if (!trace.x.length) return;
    traces.push({
      type: "scatter",
      name: plain(label),
      legendrank,
      legendgroup: label,
      showlegend: !legend.has(label),
      ...axes,
      ...trace,
    });
    legend.add(label);
  };
  const hover = (t) =>
    track.bands
      .map((b) => `${plain(b.label)}  <b>${show(columns[b.low][t])} – ${show(columns[b.high][t])}</b>`)
      .join("<br>");
  track.bands.forEach((band, i) => {
    const colour = bandColour(i, track.bands.length);
    add(band.label, 20 - i, {
      ...area(track, columns[band.low], columns[band.high], from),
      mode: "lines",
      fill: "toself",
      fillcolor: colour,
      line: { width: 1, color: colour },
      hoverinfo: "skip",
    });
  });
  const centre = track.expected ? columns[track.expected.column] : null;
  if (centre) {
    const expected = track.expected.colour ?? (track.actual ? "@accent" : "@median");
    const points = line(track, centre, from);
    add(track.expected.label, 2, {
      ...points,
      line: { color: expected, width: 1.75, dash: "5px,3px" },
      marker: { ...points.marker, color: expected },
      text: points.at.map((t) =>
        t < 0
          ? ""
          : `${plain(track.expected.label)}  <b>${show(centre[t])}</b>${track.bands.length ? `<br>${hover(t)}` : ""}`,
      ),
      hovertemplate: "%{text}<extra></extra>",
    });
  }
  const actual = track.actual ? columns[track.actual.column] : null;
  if (actual) {
    const points = line(track, actual, from);
    const colour = track.actual.colour ?? "@ink";
    add(track.actual.label, 1, {
      ...points,
      line: { color: colour, width: 1.5 },
      marker: { ...points.marker, color: colour },
      text: points.at.map((t) =>
        t < 0
          ? ""
          : `${plain(track.actual.label)}  <b>${show(actual[t])}</b>${!centre && track.bands.length ? `<br>${hover(t)}` : ""}`,
      ),
      hovertemplate: "%{text}<extra></extra>",
    });
  }
  const height = (t) => actual?.[t] ?? centre?.[t] ?? null;
  const known = columns.flat().filter((v) => v !== null);
  const floor = known.length ? Math.min(...known) : 0;
  track.marks.forEach((mark, m) => {
    const at = track.times.map((_, t) => t).filter((t) => t >= from && marks[m].some((label) => label[t]));
    const named = (t) =>
      mark.labels
        .filter((text, k) => text && marks[m][k][t])
        .map(plain)
        .join(", ");
    add(mark.label, 30 + m, {
      x: at.map((t) => track.times[t]),
      y: at.map((t) => height(t) ?? floor),
      mode: "markers",
      marker: {
        symbol: SYMBOLS[m % SYMBOLS.length],
        size: 8,
        color: mark.colour,
        line: { width: 1, color: "@card" },
      },
      text: at.map((t) => [plain(mark.label), named(t)].filter(Boolean).join("  ")),
      hovertemplate: "%{text}<extra></extra>",
    });
  });
  return traces;
}
