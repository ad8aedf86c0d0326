// What needs a person, worst first: what, since when, against which limit.

import { el, panel, setAttr, setText, sync } from "./dom.js";
import { DASH, duration, epochSeconds, moment, text } from "./format.js";
import { label, levelOf, rank } from "./state.js";

const WORDS = { bad: "alarm", warn: "warning", stale: "stale" };
const SEVERITIES = Object.keys(WORDS);

/** The lines to show, worst first and oldest first among equals: `{ severity, what, component, limit, since }`. */
export function attentionOf(status) {
  const lines = status.attention.map((line) => ({
    severity: SEVERITIES.includes(line.severity) ? line.severity : "warn",
    what: text(line.what),
    component: text(line.component),
    limit: text(line.limit),
    since: epochSeconds(line.since_ts),
  }));
  if (lines.length === 0) lines.push(...unwell(status));
  return lines.sort((a, b) => rank(a.severity) - rank(b.severity) || (a.since ?? Infinity) - (b.since ?? Infinity) || 0);
}

// A service that calls itself unwell and lists nothing must not read as "nothing needs attention".
function unwell(status) {
  return status.health.components
    .map((c) => ({ c, severity: levelOf(c.state) }))
    .filter(({ severity }) => SEVERITIES.includes(severity))
    .map(({ c, severity }) => ({ severity, what: text(c.detail ?? c.details ?? c.state), component: text(c.name), limit: DASH, since: null }));
}

function quiet(status) {
  const level = levelOf(status.health.state);
  if (level === "ok") return "Nothing needs attention.";
  return `The service is ${text(status.health.state) === DASH ? "silent about its health" : text(status.health.state)} and lists no cause; view 9 has all it says.`;
}

export class Attention {
  #list = el("ol", { class: "attention" });
  #empty = el("p", { class: "empty" });
  #parts = el("ul", { class: "parts", "aria-label": "Health of the parts" });
  #said = new Set();

  constructor() {
    this.root = panel("attention", "Needs attention", this.#list, this.#empty, this.#parts);
    this.announce = document.getElementById("announce");
  }

  update(status, nowS) {
    const lines = attentionOf(status);
    this.#list.hidden = lines.length === 0;
    this.#empty.hidden = lines.length > 0;
    setText(this.#empty, quiet(status));
    sync(this.#list, lines, makeLine, (node, line) => {
      const [glyph, what, facts] = node.children;
      setAttr(node, "data-level", line.severity);
      setText(glyph, label(line.severity, WORDS[line.severity]));
      setText(what, line.component === DASH ? line.what : `${line.component}: ${line.what}`);
      const since = line.since === null ? "" : `since ${moment(line.since, nowS)} UTC, ${duration(nowS - line.since)}`;
      const limit = line.limit === DASH ? "" : `limit ${line.limit}`;
      setText(facts, [since, limit].filter(Boolean).join(" · "));
    });
    sync(this.#parts, status.health.components, () => el("li"), (node, part) => {
      const level = levelOf(part.state);
      setText(node, label(level, level === "ok" ? text(part.name) : `${text(part.name)} ${text(part.state)}`));
      setAttr(node, "data-level", level);
      const detail = text(part.detail ?? part.details);
      setAttr(node, "title", detail === DASH ? null : detail);
    });
    this.#say(lines);
  }

  // The list itself is no live region: its ages change every second.
  #say(lines) {
    const now = new Set(lines.map((line) => `${WORDS[line.severity]}: ${line.component} ${line.what}`));
    const fresh = [...now].filter((line) => !this.#said.has(line));
    if (fresh.length) setText(this.announce, fresh.join(". "));
    this.#said = now;
  }
}

function makeLine() {
  return el("li", {}, el("span", { class: "chip" }), el("span", { class: "what" }), el("span", { class: "facts" }));
}
