// Every event accounted, written as the equation it is. Events nobody can account for are the loudest thing on the page.

import { el, panel, setAttr, setText, sync } from "./dom.js";
import { DASH, count } from "./format.js";
import { label } from "./state.js";

const TERMS = ["stored", "absorbed", "duplicate", "filtered", "late", "suppressed", "quarantined", "failed", "in_flight", "queued"];

const whole = (value) => typeof value === "bigint" || Number.isSafeInteger(value);

/** What the ledger says of itself: `{ level, words }`. */
export function verdictOf(ledger) {
  const unaccounted = ledger.unaccounted;
  if (!whole(unaccounted)) return { level: "stale", words: "balance unknown" };
  if (BigInt(unaccounted) !== 0n) return { level: "bad", words: `${count(unaccounted)} unaccounted` };
  // Summed again here, where all terms are known: a balance that does not add up is no balance.
  const terms = TERMS.map((term) => ledger[term]);
  if (![ledger.received, ...terms].every(whole)) return { level: "stale", words: "balanced, some terms unknown" };
  const rest = BigInt(ledger.received) - terms.reduce((sum, term) => sum + BigInt(term), 0n);
  return rest === 0n ? { level: "ok", words: "balanced" } : { level: "warn", words: `terms differ by ${count(rest)}` };
}

const term = (sign) => el("div", { class: "term" }, el("span", { class: "sign", "aria-hidden": "true" }, sign), el("dl", {}, el("dt"), el("dd")));

export class Ledger {
  #verdict = el("span", { class: "verdict" });
  #terms = el("div", { class: "equation" });

  constructor() {
    this.root = panel("ledger", "Ledger", this.#terms);
    this.root.firstElementChild.append(el("span", { class: "note" }, "events since this store began, each counted once"), this.#verdict);
  }

  update(ledger) {
    const { level, words } = verdictOf(ledger);
    setText(this.#verdict, label(level, words));
    setAttr(this.#verdict, "data-level", level);
    setAttr(this.root, "data-level", level === "bad" ? "bad" : null);
    const names = ["received", ...TERMS, "unaccounted"];
    sync(this.#terms, names, () => term(""), (node, name) => {
      const [sign, list] = node.children;
      const value = ledger[name];
      setText(sign, name === "received" ? "" : name === TERMS[0] ? "=" : "+");
      setText(list.children[0], name.replace("_", " "));
      setText(list.children[1], whole(value) ? count(value) : DASH);
      const loud = name === "unaccounted" && level === "bad";
      setAttr(node, "data-level", loud ? "bad" : !whole(value) || BigInt(value) === 0n ? "nil" : null);
    });
  }
}
