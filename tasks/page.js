"use strict";
(() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
  const narrow = () => window.innerWidth < 640;
  const number = new Intl.NumberFormat("en-US", { maximumSignificantDigits: 4 });
  const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
  const show = (value) => (value === null ? "–" : Math.abs(value) >= 1000 ? whole.format(value) : number.format(value));
  const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;");
  const collator = new Intl.Collator("en", { numeric: true });

  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  // ---- data in the page -------------------------------------------------------------------------

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

  // ---- colours and layout -----------------------------------------------------------------------

  const ROLES = ["ink", "median", "inner", "outer", "accent", "second", "third", "muted", "alert", "grid", "soft", "paper", "card"];

  function palette() {
    const style = getComputedStyle(document.documentElement);
    return Object.fromEntries(
      [...ROLES, "rule"].map((name) => [name, style.getPropertyValue(`--${name}`).trim()]),
    );
  }

  function coloured(value, colours, isColour = false) {
    if (typeof value === "string") return isColour && value[0] === "@" ? colours[value.slice(1)] ?? value : value;
    if (Array.isArray(value)) return isColour || typeof value[0] === "object" ? value.map((v) => coloured(v, colours, isColour)) : value;
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
      gridcolor: colours.grid, linecolor: colours.rule, zerolinecolor: colours.rule, tickcolor: colours.rule,
      tickfont: { color: colours.soft }, automargin: true, exponentformat: "none", separatethousands: true,
      title: { standoff: 12, font: { color: colours.soft, size: 12 } },
    };
    const base = {
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colours.ink },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", separators: ".,",
      colorway: [colours.accent, colours.second, colours.third, colours.muted, colours.ink],
      margin: { l: 8, r: 8, t: 8, b: 8 }, hovermode: "x unified",
      hoverlabel: { bgcolor: colours.card, bordercolor: colours.rule, font: { color: colours.ink } },
      legend: { orientation: "h", x: 0, xanchor: "left", y: 1.02, yanchor: "bottom", bgcolor: "rgba(0,0,0,0)" },
      dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    };
    const given = coloured(layout, colours);
    const axes = new Set(["xaxis", "yaxis", ...Object.keys(given).filter((key) => /^[xy]axis\d+$/.test(key))]);
    for (const name of axes) base[name] = { ...axis, ...(name[0] === "x" ? { showgrid: false } : {}) };
    return merged(base, given);
  }

  function draw(plot, data, layout, colours) {
    const height = layout.height ?? plot.clientHeight;
    plot.style.minHeight = `${height}px`;
    const config = { responsive: true, displayModeBar: false };
    return Plotly.react(plot, coloured(data, colours), layoutFor({ ...layout, height }, colours), config);
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

  // ---- explorer: decoding -----------------------------------------------------------------------

  class Series {
    constructor(root) {
      this.header = JSON.parse($("script.header", root).textContent);
      this.scripts = $$("script.chunk", root);
      this.index = $("script.index", root);
      this.cache = new Map();
    }

    async open() {
      const { series, key, about } = this.header;
      const bytes = await inflate(this.index);
      const columns = [];
      for (let c = 0; c < key.length + about.length; c++) {
        const codes = new Uint32Array(series);
        for (let plane = 0; plane < 4; plane++) {
          const from = (c * 4 + plane) * series;
          for (let i = 0; i < series; i++) codes[i] |= bytes[from + i] << (8 * plane);
        }
        columns.push(codes);
      }
      this.keys = columns.slice(0, key.length);
      this.about = columns.slice(key.length);
    }

    async get(number) {
      const starts = this.header.starts;
      let chunk = starts.length - 1;
      while (starts[chunk] > number) chunk--;
      if (!this.cache.has(chunk)) {
        if (this.cache.size > 50) this.cache.clear();
        this.cache.set(chunk, inflate(this.scripts[chunk]));
      }
      const size = (starts[chunk + 1] ?? this.header.series) - starts[chunk];
      return this.decode(await this.cache.get(chunk), size, number - starts[chunk]);
    }

    decode(bytes, size, row) {
      const view = new DataView(bytes.buffer, bytes.byteOffset);
      let at = 0;
      return this.header.tracks.map((track) => {
        const times = track.times.length;
        const count = size * track.columns * times;
        const origin = view.getFloat64(at + 8 * row, true);
        const step = view.getFloat64(at + 8 * (size + row), true);
        at += 16 * size;
        const previous = new Uint16Array(times);
        const columns = [];
        for (let c = 0; c < track.columns; c++) {
          const from = at + (row * track.columns + c) * times;
          columns.push(Array.from({ length: times }, (_, t) => {
            previous[t] += bytes[from + t] | (bytes[from + t + count] << 8);
            return previous[t] ? (origin + previous[t] - 1) * step : null;
          }));
        }
        at += 2 * count;
        const marks = track.marks.map((mark) => mark.labels.map(() => {
          const from = at;
          at += Math.ceil((size * times) / 8);
          return Array.from({ length: times }, (_, t) => {
            const bit = row * times + t;
            return (bytes[from + (bit >> 3)] >> (bit & 7)) & 1;
          });
        }));
        return { columns, marks };
      });
    }
  }

  // ---- explorer: drawing ------------------------------------------------------------------------

  const milliseconds = (time) => Date.parse(`${time.replace(" ", "T")}${time.length > 10 ? "Z" : ""}`);

  /** Runs of neighbouring times that have a value; a hole in the times ends a run too. */
  function runs(track, known) {
    const found = [];
    let run = [];
    track.stamps.forEach((stamp, t) => {
      const hole = t > 0 && stamp - track.stamps[t - 1] > 1.5 * track.interval;
      if (run.length && (hole || !known(t))) { found.push(run); run = []; }
      if (known(t)) run.push(t);
    });
    if (run.length) found.push(run);
    return found;
  }

  /** Points of a line, with a break between runs; a run of a single point gets a marker. */
  function line(track, values, from) {
    const x = [], y = [], at = [], size = [];
    for (const run of runs(track, (t) => t >= from && values[t] !== null)) {
      if (x.length) { x.push(track.times[run[0]]); y.push(null); at.push(-1); size.push(0); }
      for (const t of run) { x.push(track.times[t]); y.push(values[t]); at.push(t); size.push(run.length > 1 ? 0 : 5); }
    }
    return { x, y, at, mode: size.some((s) => s) ? "lines+markers" : "lines", marker: { size, opacity: 1, line: { width: 0 } } };
  }

  function area(track, low, high, from) {
    const x = [], y = [];
    for (const run of runs(track, (t) => t >= from && low[t] !== null && high[t] !== null)) {
      if (x.length) { x.push(null); y.push(null); }
      for (const t of run) { x.push(track.times[t]); y.push(high[t]); }
      for (const t of [...run].reverse()) { x.push(track.times[t]); y.push(low[t]); }
      x.push(track.times[run[0]]); y.push(high[run[0]]);
    }
    return { x, y };
  }

  const SYMBOLS = ["triangle-up", "x", "diamond", "circle", "square", "star", "triangle-down", "cross"];
  const MARKS = ["@accent", "@alert", "@third", "@second", "@muted"];

  function bandColour(i, n) {
    return i === n - 1 && n > 1 ? "@inner" : "@outer";
  }

  function tracesOf(track, data, from, axes, legend) {
    const { columns, marks } = data;
    const traces = [];
    const add = (label, trace) => {
      if (!trace.x.length) return;
      traces.push({ type: "scatter", name: plain(label), legendgroup: label, showlegend: !legend.has(label), ...axes, ...trace });
      legend.add(label);
    };
    const hover = (t) => track.bands.map((b) => `${plain(b.label)}  <b>${show(columns[b.low][t])} – ${show(columns[b.high][t])}</b>`).join("<br>");
    track.bands.forEach((band, i) => {
      const colour = bandColour(i, track.bands.length);
      add(band.label, { ...area(track, columns[band.low], columns[band.high], from), mode: "lines", fill: "toself", fillcolor: colour, line: { width: 1, color: colour }, hoverinfo: "skip" });
    });
    const centre = track.expected ? columns[track.expected.column] : null;
    if (centre) {
      const points = line(track, centre, from);
      add(track.expected.label, {
        ...points, line: { color: "@median", width: 1.75, dash: "5px,3px" }, marker: { ...points.marker, color: "@median" },
        text: points.at.map((t) => (t < 0 ? "" : `${plain(track.expected.label)}  <b>${show(centre[t])}</b>${track.bands.length ? `<br>${hover(t)}` : ""}`)),
        hovertemplate: "%{text}<extra></extra>",
      });
    }
    const actual = track.actual ? columns[track.actual.column] : null;
    if (actual) {
      const points = line(track, actual, from);
      add(track.actual.label, {
        ...points, line: { color: "@ink", width: 1.5 }, marker: { ...points.marker, color: "@ink" },
        text: points.at.map((t) => (t < 0 ? "" : `${plain(track.actual.label)}  <b>${show(actual[t])}</b>${!centre && track.bands.length ? `<br>${hover(t)}` : ""}`)),
        hovertemplate: "%{text}<extra></extra>",
      });
    }
    const height = (t) => actual?.[t] ?? centre?.[t] ?? null;
    const known = columns.flat().filter((v) => v !== null);
    const floor = known.length ? Math.min(...known) : 0;
    track.marks.forEach((mark, m) => mark.labels.forEach((text, k) => {
      const at = track.times.map((_, t) => t).filter((t) => t >= from && marks[m][k][t]);
      const label = text ? `${mark.label}: ${text}` : mark.label;
      add(label, {
        x: at.map((t) => track.times[t]), y: at.map((t) => height(t) ?? floor), mode: "markers",
        marker: { symbol: SYMBOLS[(m + k) % SYMBOLS.length], size: 8, color: MARKS[(m + k) % MARKS.length], line: { width: 1, color: "@card" } },
        hovertemplate: `${plain(label)}<extra></extra>`,
      });
    }));
    return traces;
  }

  class Explorer {
    constructor(root) {
      this.root = root;
      this.plot = $(".plot", root);
      this.series = new Series(root);
      const header = (this.header = this.series.header);
      this.columns = header.key.map((_, i) => i).filter((i) => header.key[i].column !== header.panels);
      this.panel = header.key.findIndex((k) => k.column === header.panels);
      this.chosen = this.columns.map(() => 0);
      this.recent = header.recent;
      for (const track of header.tracks) {
        track.stamps = track.times.map(milliseconds);
        track.interval = track.stamps.slice(1).reduce((least, stamp, i) => Math.min(least, stamp - track.stamps[i]), Infinity);
      }
      this.pickers = $$(".picker", root).map((picker, place) => new Picker(picker, this, place));
      this.prepareRange();
    }

    prepareRange() {
      const all = [...new Set(this.header.tracks.flatMap((track) => track.times))].sort();
      if (!this.recent || all.length <= this.recent) { this.recent = null; return; }
      this.cut = all[all.length - this.recent];
      const range = $(".range", this.root);
      range.hidden = false;
      for (const button of $$("button", range)) {
        button.addEventListener("click", () => {
          this.all = button.dataset.all === "1";
          for (const other of $$("button", range)) other.setAttribute("aria-pressed", String(other === button));
          this.draw(palette());
        });
      }
    }

    /** The series whose first `places` selectors are as chosen. */
    matching(places) {
      const found = [];
      for (let s = 0; s < this.header.series; s++) {
        let same = true;
        for (let p = 0; p < places && same; p++) same = this.series.keys[this.columns[p]][s] === this.chosen[p];
        if (same) found.push(s);
      }
      return found;
    }

    label(place, code) {
      return this.header.labels[this.columns[place]][code];
    }

    /** Codes to choose from at a selector, given those before it, in natural order. */
    options(place) {
      const codes = this.series.keys[this.columns[place]];
      const found = new Set(this.matching(place).map((s) => codes[s]));
      return [...found].sort((a, b) => collator.compare(this.label(place, a), this.label(place, b)));
    }

    async open() {
      await this.series.open();
      const start = { ...this.header.start };
      for (const [name, value] of this.inAddress() ?? []) start[name] = value;
      this.fill(0, start);
    }

    /** Set the selectors from `place` on: to `wanted` where it exists, else as they were, else to the first. */
    fill(place, wanted = {}) {
      for (let p = place; p < this.columns.length; p++) {
        const options = this.options(p);
        const value = wanted[this.header.key[this.columns[p]].column];
        const code = options.find((c) => this.label(p, c) === value);
        if (code !== undefined) this.chosen[p] = code;
        else if (!options.includes(this.chosen[p])) this.chosen[p] = options[0];
      }
      for (const picker of this.pickers) picker.show();
    }

    inAddress() {
      const given = new URLSearchParams(location.hash.slice(1));
      const names = this.columns.map((c) => this.header.key[c].column);
      return names.every((name) => given.has(name)) ? names.map((name) => [name, given.get(name)]) : null;
    }

    async follow() {
      const wanted = this.inAddress();
      if (!wanted) return;
      this.fill(0, Object.fromEntries(wanted));
      this.root.closest("section").scrollIntoView();
      await this.draw(palette());
    }

    async choose(place, code) {
      this.chosen[place] = code;
      this.fill(place + 1);
      const query = new URLSearchParams(this.columns.map((c, p) => [this.header.key[c].column, this.label(p, this.chosen[p])]));
      history.replaceState(null, "", `#${query}`);
      await this.draw(palette());
    }

    async draw(colours) {
      const turn = (this.turn = {});
      const numbers = this.matching(this.columns.length);
      const name = (s) => (this.panel < 0 ? "" : this.header.labels[this.panel][this.series.keys[this.panel][s]]);
      numbers.sort((a, b) => collator.compare(name(a), name(b)));
      const panels = await Promise.all(numbers.map(async (s) => ({ name: name(s), data: await this.series.get(s) })));
      if (turn !== this.turn) return;
      this.describe(numbers[0]);
      this.tabulate(panels);
      const legend = new Set();
      const traces = [];
      const single = this.panel < 0;
      const gap = 0.14 / Math.max(1, panels.length);
      const last = panels.length > 1 ? panels.length : "";
      const layout = {
        height: single ? (narrow() ? 360 : 440) : 110 + 120 * panels.length,
        xaxis: { type: "date", hoverformat: this.hoverFormat(), anchor: `y${last}`, ...(narrow() ? { nticks: 5 } : {}) },
        hovermode: "x unified", hoversubplots: "axis",
      };
      panels.forEach((panel, i) => {
        const axis = i ? `yaxis${i + 1}` : "yaxis";
        layout[axis] = {
          title: { text: single ? plain(this.header.unit) : plain(panel.name) },
          domain: single ? [0, 1] : [1 - (i + 1) / panels.length + gap, 1 - i / panels.length],
          rangemode: "normal", ...(narrow() || !single ? { nticks: 5 } : {}),
        };
        this.header.tracks.forEach((track, t) => {
          const from = this.recent && !this.all ? track.times.findIndex((time) => time >= this.cut) : 0;
          if (from < 0) return;
          traces.push(...tracesOf(track, panel.data[t], from, { yaxis: i ? `y${i + 1}` : "y", xaxis: "x" }, legend));
        });
      });
      if (single && traces.every((trace) => trace.y.every((v) => v === null || v >= 0))) layout.yaxis.rangemode = "tozero";
      await draw(this.plot, traces, layout, colours);
      this.plot.dataset.key = JSON.stringify(this.columns.map((_, p) => this.label(p, this.chosen[p])));
    }

    hoverFormat() {
      return this.header.tracks.some((track) => track.times[0]?.length > 10) ? "%Y-%m-%d %H:%M" : "%Y-%m-%d";
    }

    describe(s) {
      const parts = this.header.about.map((column, i) => [column.label, column.labels[this.series.about[i][s]]]).filter(([, text]) => text);
      $(".about", this.root).replaceChildren(...parts.flatMap(([label, text], i) => [i ? " · " : "", `${label}: `, element("b", {}, text)]));
    }

    tabulate(panels) {
      const tables = this.header.tracks.map((track, t) => ({ track, t })).filter(({ track }) => track.expected || track.bands.length);
      const { track, t } = tables.at(-1) ?? { track: this.header.tracks.at(-1), t: this.header.tracks.length - 1 };
      const heads = [];
      if (track.actual) heads.push([track.actual.label, track.actual.column]);
      for (const band of track.bands) heads.push([`${band.label}, from`, band.low]);
      heads.splice(track.actual ? 1 : 0, 0, ...(track.expected ? [[track.expected.label, track.expected.column]] : []));
      for (const [i, band] of track.bands.entries()) heads.splice(heads.findIndex((h) => h[1] === track.bands[i].low) + 1, 0, [`${band.label}, to`, band.high]);
      const rows = [];
      for (const panel of panels) {
        const columns = panel.data[t].columns;
        const times = track.times.map((_, i) => i).filter((i) => columns.some((column) => column[i] !== null)).slice(-200);
        for (const i of times) {
          const cells = heads.map(([, c]) => element("td", { class: "n" }, show(columns[c][i])));
          rows.push(element("tr", {}, ...(this.panel < 0 ? [] : [element("td", {}, panel.name)]), element("td", {}, track.times[i]), ...cells));
        }
      }
      const head = element("tr", {}, ...(this.panel < 0 ? [] : [element("th", {}, this.header.key[this.panel].label)]), element("th", {}, "Time"), ...heads.map(([label]) => element("th", { class: "n" }, label)));
      $(".numbers .scroll", this.root).replaceChildren(element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)));
    }
  }

  // ---- explorer: a searchable selector -----------------------------------------------------------

  class Picker {
    constructor(root, explorer, place) {
      Object.assign(this, { root, explorer, place, input: $("input", root), list: $("ul", root), active: 0, found: [] });
      this.input.addEventListener("focus", () => { this.input.select(); this.search(""); });
      this.input.addEventListener("input", () => this.search(this.input.value));
      this.input.addEventListener("blur", () => { this.close(); this.show(); });
      this.input.addEventListener("keydown", (event) => this.key(event));
      this.list.addEventListener("pointerdown", (event) => event.preventDefault());
      this.list.addEventListener("click", (event) => {
        const item = event.target.closest("[data-code]");
        if (item) this.take(Number(item.dataset.code));
      });
      for (const button of $$(".step", root)) button.addEventListener("click", () => this.step(Number(button.dataset.step)));
    }

    show() {
      this.input.value = this.explorer.label(this.place, this.explorer.chosen[this.place]) ?? "";
    }

    step(by) {
      const options = this.explorer.options(this.place);
      const at = options.indexOf(this.explorer.chosen[this.place]);
      this.explorer.choose(this.place, options[(at + by + options.length) % options.length]);
    }

    search(text) {
      const wanted = text.trim().toLowerCase();
      const all = this.explorer.options(this.place);
      const label = (code) => this.explorer.label(this.place, code).toLowerCase();
      const starts = all.filter((code) => label(code).startsWith(wanted));
      this.found = wanted ? [...starts, ...all.filter((code) => !label(code).startsWith(wanted) && label(code).includes(wanted))] : all;
      this.active = Math.max(0, wanted ? 0 : this.found.indexOf(this.explorer.chosen[this.place]));
      this.list.hidden = false;
      this.input.setAttribute("aria-expanded", "true");
      this.items();
    }

    items() {
      const limit = 100;
      const first = Math.max(0, Math.min(this.active - 50, this.found.length - limit));
      const items = this.found.slice(first, first + limit).map((code, i) => element("li", { role: "option", id: `${this.list.id}-${i}`, "data-code": code, "aria-selected": String(first + i === this.active) }, this.explorer.label(this.place, code)));
      const rest = this.found.length - items.length;
      if (!items.length) items.push(element("li", { class: "more" }, "Nothing matches"));
      if (rest > 0) items.push(element("li", { class: "more" }, `${whole.format(rest)} more; type to search`));
      this.list.replaceChildren(...items);
      const selected = $('[aria-selected="true"]', this.list);
      if (!selected) return;
      this.input.setAttribute("aria-activedescendant", selected.id);
      this.list.scrollTop = selected.offsetTop - this.list.clientHeight / 2;
    }

    key(event) {
      const move = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (move && this.list.hidden) this.search("");
      else if (move && this.found.length) { this.active = (this.active + move + this.found.length) % this.found.length; this.items(); }
      else if (event.key === "Enter" && !this.list.hidden) { if (this.found.length) this.take(this.found[this.active]); }
      else if (event.key === "Escape") { this.close(); this.show(); }
      else return;
      event.preventDefault();
    }

    take(code) {
      this.close();
      this.explorer.choose(this.place, code);
    }

    close() {
      this.list.hidden = true;
      this.input.setAttribute("aria-expanded", "false");
      this.input.removeAttribute("aria-activedescendant");
    }
  }

  // ---- start ------------------------------------------------------------------------------------

  function fail(error) {
    const problem = $("#problem");
    problem.textContent = `The charts of this page could not be drawn (${error.message}). They need a browser of 2023 or later.`;
    problem.hidden = false;
    console.error(error);
  }

  async function start() {
    if ($(".plot")) await loadPlotly();
    const charts = $$("figure.chart").map((figure) => new Chart(figure));
    const explorers = $$("figure.explorer").filter((figure) => $(".plot", figure)).map((figure) => new Explorer(figure));
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
})();
