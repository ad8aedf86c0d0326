// View 2: every symbol, found by a few letters of its name or vendor.

import { el, panel, setText } from "./dom.js";
import { count, text } from "./format.js";
import { quoteColumns, quoteRows } from "./quotes.js";
import { Table } from "./table.js";

const NONE = "No quotes yet. They appear with the first event of a symbol.";

export class Market {
  title = "Market";
  #input = el("input", { type: "search", id: "filter", autocomplete: "off", spellcheck: "false", maxlength: "80" });
  #found = el("span", { class: "note", role: "status" });
  #table = new Table({ caption: "Symbols", columns: quoteColumns, empty: NONE });

  /** `onFilter` is called with the text of the filter when a person changes it. */
  constructor({ onFilter }) {
    const filter = panel("symbols", "Symbols", this.#table.root);
    filter.firstElementChild.append(el("label", { for: "filter" }, "Filter"), this.#input, this.#found);
    this.root = el("div", { class: "view tall" }, filter);
    this.#input.addEventListener("input", () => onFilter(this.#input.value));
  }

  /** Takes the filter of the address. */
  show(params) {
    const wanted = params.get("q") ?? "";
    if (this.#input.value !== wanted) this.#input.value = wanted;
  }

  focusFilter() {
    this.#input.focus();
    this.#input.select();
  }

  update({ status, drift }) {
    const wanted = this.#input.value.trim().toLowerCase();
    const all = quoteRows(status, drift);
    const found = wanted ? all.filter((q) => `${text(q.symbol)} ${text(q.vendor)}`.toLowerCase().includes(wanted)) : all;
    setText(this.#found, wanted ? `${count(found.length)} of ${count(all.length)}` : `${count(all.length)} symbols`);
    this.#table.update(found, all.length ? `No symbol has “${wanted}” in its name or vendor. Esc clears the filter.` : NONE);
  }
}
