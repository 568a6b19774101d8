// Series of an explorer, decoded chunk by chunk; `models.explorer` describes the encoding.

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
        columns.push(
          Array.from({ length: times }, (_, t) => {
            previous[t] += bytes[from + t] | (bytes[from + t + count] << 8);
            return previous[t] ? (origin + previous[t] - 1) * step : null;
          }),
        );
      }
      at += 2 * count;
      const marks = track.marks.map((mark) =>
        mark.labels.map(() => {
          const from = at;
          at += Math.ceil((size * times) / 8);
          return Array.from({ length: times }, (_, t) => {
            const bit = row * times + t;
            return (bytes[from + (bit >> 3)] >> (bit & 7)) & 1;
          });
        }),
      );
      return { columns, marks };
    });
  }
}
