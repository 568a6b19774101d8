const TABLE_ROWS = 200;

/** A figure with selectors, a chart of the chosen key and its numbers. */
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
      track.interval = track.stamps
        .slice(1)
        .reduce((least, stamp, i) => Math.min(least, stamp - track.stamps[i]), Infinity);
    }
    this.pickers = $$(".picker", root).map((picker, place) => new Picker(picker, this, place));
    this.prepareRange();
  }

  prepareRange() {
    const all = [...new Set(this.header.tracks.flatMap((track) => track.times))].sort();
    if (!this.recent || all.length <= this.recent) {
      this.recent = null;
      return;
    }
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
    const query = new URLSearchParams(
      this.columns.map((c, p) => [this.header.key[c].column, this.label(p, this.chosen[p])]),
    );
    history.replaceState(null, "", `#${query}`);
    await this.draw(palette());
  }

  async draw(colours) {
    const turn = (this.turn = {});
    const numbers = this.matching(this.columns.length);
    const name = (s) =>
      this.panel < 0 ? "" : this.header.labels[this.panel][this.series.keys[this.panel][s]];
    const rank = (s) => this.header.order.indexOf(name(s)) + 1 || Infinity;
    numbers.sort((a, b) => (rank(a) === rank(b) ? collator.compare(name(a), name(b)) : rank(a) - rank(b)));
    const panels = await Promise.all(
      numbers.map(async (s) => ({ name: name(s), data: await this.series.get(s) })),
    );
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
      xaxis: { type: "date", hoverformat: this.hoverFormat(), anchor: `y${last}` },
      hovermode: "x unified",
      hoversubplots: "axis",
    };
    panels.forEach((panel, i) => {
      const axis = i ? `yaxis${i + 1}` : "yaxis";
      layout[axis] = {
        title: { text: single ? plain(this.header.unit) : plain(panel.name) },
        domain: single ? [0, 1] : [1 - (i + 1) / panels.length + gap, 1 - i / panels.length],
        rangemode: "normal",
        ...(narrow() || !single ? { nticks: 5 } : {}),
      };
      this.header.tracks.forEach((track, t) => {
        const from = this.recent && !this.all ? track.times.findIndex((time) => time >= this.cut) : 0;
        if (from < 0) return;
        traces.push(
          ...tracesOf(track, panel.data[t], from, { yaxis: i ? `y${i + 1}` : "y", xaxis: "x" }, legend),
        );
      });
    });
    if (single && traces.every((trace) => trace.y.every((v) => v === null || v >= 0)))
      layout.yaxis.rangemode = "tozero";
    await draw(this.plot, traces, layout, colours);
    this.plot.dataset.key = JSON.stringify(this.columns.map((_, p) => this.label(p, this.chosen[p])));
  }

  hoverFormat() {
    return this.header.tracks.some((track) => track.times[0]?.length > 10) ? "%Y-%m-%d %H:%M" : "%Y-%m-%d";
  }

  describe(s) {
    const parts = this.header.about
      .map((column, i) => [column.label, column.labels[this.series.about[i][s]]])
      .filter(([, text]) => text);
    $(".about", this.root).replaceChildren(
      ...parts.flatMap(([label, text], i) => [i ? " · " : "", `${label}: `, element("b", {}, text)]),
    );
  }

  /** The table under the chart: the last track with expectations, else the last one. */
  tabulate(panels) {
    const { tracks, key } = this.header;
    const expecting = tracks.map((track) => Boolean(track.expected || track.bands.length));
    const place = expecting.includes(true) ? expecting.lastIndexOf(true) : tracks.length - 1;
    const track = tracks[place];
    const heads = [track.actual, track.expected].filter(Boolean);
    for (const band of track.bands) {
      heads.push({ label: `${band.label}, from`, column: band.low }, { label: "to", column: band.high });
    }
    const named = this.panel >= 0;
    const cell = (text, kind = "s") => element("td", { class: kind }, text);
    const rows = panels.flatMap((panel) => {
      const columns = panel.data[place].columns;
      const known = track.times.map((_, t) => t).filter((t) => columns.some((column) => column[t] !== null));
      return known.slice(-TABLE_ROWS).map((t) => {
        const values = heads.map((head) => cell(show(columns[head.column][t]), "n"));
        return element("tr", {}, ...(named ? [cell(panel.name)] : []), cell(track.times[t], "t"), ...values);
      });
    });
    const titles = [
      ...(named ? [[key[this.panel].label, "s"]] : []),
      ["Time", "t"],
      ...heads.map((h) => [h.label, "n"]),
    ];
    const head = element(
      "tr",
      {},
      ...titles.map(([text, kind]) => element("th", { class: kind, scope: "col" }, text)),
    );
    const table = element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows));
    $(".numbers .scroll", this.root).replaceChildren(table);
  }
}
