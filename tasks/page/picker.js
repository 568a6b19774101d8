/** A searchable selector. */
class Picker {
  constructor(root, explorer, place) {
    Object.assign(this, {
      root,
      explorer,
      place,
      input: $("input", root),
      list: $("ul", root),
      active: 0,
      found: [],
    });
    this.input.addEventListener("focus", () => {
      this.input.select();
      this.search("");
    });
    this.input.addEventListener("input", () => this.search(this.input.value));
    this.input.addEventListener("blur", () => {
      this.close();
      this.show();
    });
    this.input.addEventListener("keydown", (event) => this.key(event));
    this.list.addEventListener("pointerdown", (event) => event.preventDefault());
    this.list.addEventListener("click", (event) => {
      const item = event.target.closest("[data-code]");
      if (item) this.take(Number(item.dataset.code));
    });
    for (const button of $$(".step", root))
      button.addEventListener("click", () => this.step(Number(button.dataset.step)));
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
    this.found = wanted
      ? [...starts, ...all.filter((code) => !label(code).startsWith(wanted) && label(code).includes(wanted))]
      : all;
    this.active = Math.max(0, wanted ? 0 : this.found.indexOf(this.explorer.chosen[this.place]));
    this.list.hidden = false;
    this.input.setAttribute("aria-expanded", "true");
    this.items();
  }

  items() {
    const limit = 100;
    const first = Math.max(0, Math.min(this.active - 50, this.found.length - limit));
    const items = this.found.slice(first, first + limit).map((code, i) =>
      element(
        "li",
        {
          role: "option",
          id: `${this.list.id}-${i}`,
          "data-code": code,
          "aria-selected": String(first + i === this.active),
        },
        this.explorer.label(this.place, code),
      ),
    );
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
    else if (move && this.found.length) {
      this.active = (this.active + move + this.found.length) % this.found.length;
      this.items();
    } else if (event.key === "Enter" && !this.list.hidden) {
      if (this.found.length) this.take(this.found[this.active]);
    } else if (event.key === "Escape") {
      this.close();
      this.show();
    } else return;
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
