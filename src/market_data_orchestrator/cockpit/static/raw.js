// View 9: the whole last message as JSON, held still so that it can be read and copied.

import { el, panel, setText } from "./dom.js";
import { duration } from "./format.js";
import { indented } from "./model.js";

export class Raw {
  title = "Status";
  #text = el("pre", { tabindex: "0", role: "region", "aria-label": "Last message as JSON" });
  #note = el("span", { class: "note" });
  #result = el("span", { class: "note", role: "status" });
  #latest = null;
  #takenAt = null;

  constructor() {
    const take = el("button", { type: "button" }, "Take the newest");
    const copy = el("button", { type: "button" }, "Copy");
    take.addEventListener("click", () => this.#take());
    copy.addEventListener("click", () => this.#copy());
    const root = panel("status-json", "Status as JSON", this.#text);
    root.firstElementChild.append(this.#note, take, copy, this.#result);
    this.root = el("div", { class: "view tall" }, root);
  }

  show() {
    this.#takenAt = null; // coming back to the view takes a new message
  }

  update({ raw, receivedAt, perfNow }) {
    this.#latest = { raw, receivedAt };
    if (this.#takenAt === null) this.#take();
    setText(this.#note, `received ${duration((perfNow - this.#takenAt) / 1000)} ago`);
  }

  #take() {
    if (this.#latest === null) return;
    this.#takenAt = this.#latest.receivedAt;
    setText(this.#text, indented(this.#latest.raw));
    setText(this.#result, "");
  }

  async #copy() {
    try {
      await navigator.clipboard.writeText(this.#text.textContent);
      setText(this.#result, "Copied.");
    } catch {
      // Browsers keep the clipboard from pages over plain HTTP from another machine, or ask and are refused.
      getSelection().selectAllChildren(this.#text);
      setText(this.#result, "The browser refused; the text is selected, copy it with the keyboard.");
    }
  }
}
