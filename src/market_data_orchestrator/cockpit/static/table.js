// A table that draws only the rows in sight. Order is that of the items: rows never move by themselves.

import { el, setAttr, setText } from "./dom.js";
import { GLYPH, label } from "./state.js";

export const ROW_PX = 24;
const OVERSCAN = 6;
const ALL_UP_TO = 60; // short tables are drawn whole: nothing to gain, and they print and search well

/**
 * Columns are `{ label, kind, value(item), level(item)? , width? }`; `kind` is "text", "num", "state" or "progress".
 * `value` gives text; for "progress" it gives a fraction or null. `level` colours the cell, with its glyph.
 */
export class Table {
  #items = [];
  #body = el("tbody");
  #table;
  #sizer;

  constructor({ caption, columns, empty }) {
    this.columns = columns;
    const head = el("tr", { "aria-rowindex": "1" });
    for (const column of columns) head.append(el("th", { scope: "col", class: classOf(column) }, column.label));
    this.#table = el("table", {}, el("caption", { class: "unseen" }, caption), el("thead", {}, head), this.#body);
    this.#sizer = el("div", { class: "sizer" }, this.#table);
    this.#empty = el("p", { class: "empty" }, empty);
    // Focusable, so that arrows, Page, Home and End scroll it.
    this.#scroller = el("div", { class: "scroller", tabindex: "0", role: "region", "aria-label": caption }, this.#sizer);
    this.root = el("div", { class: "grid" }, this.#scroller, this.#empty);
    this.#scroller.addEventListener("scroll", () => this.#draw(), { passive: true });
    new ResizeObserver(() => this.#draw()).observe(this.#scroller);
  }

  #empty;
  #scroller;

  /** Shows these items; `empty`, if given, is the sentence for when there are none. */
  update(items, empty) {
    this.#items = items;
    if (empty !== undefined) setText(this.#empty, empty);
    this.#empty.hidden = items.length > 0;
    this.#scroller.hidden = items.length === 0;
    setAttr(this.#table, "aria-rowcount", String(items.length + 1));
    this.#draw();
  }

  #draw() {
    const total = this.#items.length;
    const whole = total <= ALL_UP_TO;
    const { scrollTop, clientHeight } = this.#scroller;
    const fits = Math.ceil((clientHeight || 600) / ROW_PX);
    const first = whole ? 0 : Math.max(0, Math.min(Math.floor(scrollTop / ROW_PX) - OVERSCAN, total - fits));
    const last = whole ? total : Math.min(total, first + fits + 2 * OVERSCAN);
    this.#sizer.style.height = `${(total + 1) * ROW_PX}px`;
    this.#table.style.top = `${first * ROW_PX}px`;
    const rows = this.#body.children;
    while (rows.length > last - first) this.#body.lastElementChild.remove();
    while (rows.length < last - first) this.#body.append(this.#row());
    for (let i = first; i < last; i += 1) this.#fill(rows[i - first], this.#items[i], i);
  }

  #row() {
    const row = el("tr");
    for (const column of this.columns) {
      const cell = el(column.scope === "row" ? "th" : "td", { class: classOf(column), ...(column.scope && { scope: column.scope }) });
      if (column.kind === "progress") cell.append(el("progress", { max: "1", "aria-label": column.label }), el("span"));
      else cell.append(el("span", { class: "cell" }));
      row.append(cell);
    }
    return row;
  }

  #fill(row, item, index) {
    setAttr(row, "aria-rowindex", String(index + 2));
    this.columns.forEach((column, i) => {
      const cell = row.children[i];
      const value = column.value(item);
      if (column.kind === "progress") fillProgress(cell, value);
      else {
        const level = column.level?.(item) ?? null;
        const shown = level in GLYPH ? label(level, value) : value;
        setText(cell.firstElementChild, shown);
        setAttr(cell.firstElementChild, "data-level", level);
        setAttr(cell.firstElementChild, "title", shown.length > 12 ? shown : null);
      }
    });
  }
}

function classOf(column) {
  return [column.kind, column.width && `w-${column.width}`].filter(Boolean).join(" ");
}

function fillProgress(cell, fraction) {
  const [bar, words] = cell.children;
  bar.hidden = fraction === null;
  if (fraction !== null) setAttr(bar, "value", String(fraction));
  setText(words, fraction === null ? "–" : `${Math.floor(fraction * 100)} %`);
}
