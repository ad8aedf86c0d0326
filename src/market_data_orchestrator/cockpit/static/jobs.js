// View 4: work with an end, such as a replay: how far it is, what it refused, why it failed.

import { panel, el } from "./dom.js";
import { count, num, text } from "./format.js";
import { levelOf } from "./state.js";
import { Table } from "./table.js";

const columns = [
  { label: "job", kind: "text", scope: "row", value: (j) => text(j.id) },
  { label: "kind", kind: "text", value: (j) => text(j.kind) },
  { label: "state", kind: "state", value: (j) => text(j.state), level: (j) => levelOf(j.state) },
  { label: "progress", kind: "progress", width: "bar", value: (j) => (num(j.fraction) === null ? null : Math.min(1, Math.max(0, num(j.fraction)))) },
  { label: "rows", kind: "num", value: (j) => count(j.rows) },
  { label: "rejected", kind: "num", value: (j) => count(j.rejected), level: (j) => (num(j.rejected) ? "warn" : null) },
  { label: "detail", kind: "text", width: "wide", value: (j) => text(j.detail) },
  { label: "error", kind: "text", width: "wide", value: (j) => text(j.error), level: (j) => (j.error ? "bad" : null) },
];

export class Jobs {
  title = "Jobs";
  #table = new Table({ caption: "Jobs", columns, empty: "No jobs. A replay or backfill appears here when it starts." });

  constructor() {
    this.root = el("div", { class: "view tall" }, panel("jobs", "Jobs", this.#table.root));
  }

  update({ status }) {
    this.#table.update(status.jobs);
  }
}
