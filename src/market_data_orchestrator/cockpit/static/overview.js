// View 1: is every event accounted, does it flow, what needs a person.

import { Attention } from "./attention.js";
import { StripChart } from "./chart.js";
import { el, panel } from "./dom.js";
import { DASH, count, duration, num, rate, text } from "./format.js";
import { Graph } from "./graph.js";
import { Ledger } from "./ledger.js";
import { STALE_AFTER_S, quoteColumns, quoteRows } from "./quotes.js";
import { levelOf } from "./state.js";
import { Table } from "./table.js";

const trouble = (value) => (value ? "warn" : null);
const lostBy = (item) => num(item.unaccounted) || null;

// A consumer's own words, and which of its nodes lost events.
function problemOf(consumer) {
  const nodes = consumer.nodes.filter(lostBy).map((n) => `${text(n.name)}: ${count(n.unaccounted)} unaccounted`);
  return [consumer.problem && text(consumer.problem), ...nodes].filter(Boolean).join("; ") || DASH;
}

const sourceColumns = [
  { label: "source", kind: "text", scope: "row", value: (s) => text(s.name) },
  { label: "state", kind: "state", value: (s) => text(s.state), level: (s) => levelOf(s.state) },
  { label: "events/s", kind: "num", width: "few", value: (s) => rate(s.rate_events_s) },
  { label: "events", kind: "num", width: "count", value: (s) => count(s.events) },
  { label: "refused", kind: "num", width: "few", value: (s) => count(s.refused), level: (s) => trouble(num(s.refused)) },
  { label: "age", kind: "num", width: "few", value: (s) => duration(s.age_s) },
  { label: "problem", kind: "text", value: (s) => text(s.problem), level: (s) => (s.problem && levelOf(s.state) === "bad" ? "bad" : trouble(s.problem)) },
];

const consumerColumns = [
  { label: "consumer", kind: "text", scope: "row", value: (c) => text(c.name) },
  { label: "state", kind: "state", value: (c) => text(c.state), level: (c) => levelOf(c.state) },
  { label: "events/s", kind: "num", width: "few", value: (c) => rate(c.rate_events_s) },
  { label: "lag", kind: "num", width: "count", value: (c) => count(c.lag_events) },
  { label: "unaccounted", kind: "num", width: "count", value: (c) => count(c.unaccounted), level: (c) => (lostBy(c) ? "bad" : null) },
  { label: "problem", kind: "text", value: problemOf, level: (c) => (problemOf(c) === DASH ? null : levelOf(c.state) === "bad" ? "bad" : "warn") },
];

const CHARTS = [
  { title: "Throughput", unit: "events/s", figure: rate, series: [{ key: "in", name: "in", token: "accent" }, { key: "out", name: "out", token: "muted", dash: [4, 3] }] },
  { title: "Lag of the slowest consumer", unit: "events", figure: count, series: [{ key: "lag", name: "lag", token: "accent" }] },
  { title: "Queue", unit: "events", figure: count, series: [{ key: "queued", name: "queued", token: "accent" }, { key: "inFlight", name: "in flight", token: "muted", dash: [4, 3] }] },
];

export class Overview {
  title = "Overview";
  #attention = new Attention();
  #ledger = new Ledger();
  #graph = new Graph();
  #charts = CHARTS.map((options) => new StripChart(options));
  #sources = new Table({ caption: "Sources", columns: sourceColumns, empty: "No sources. The configuration names the providers to take from." });
  #consumers = new Table({ caption: "Consumers", columns: consumerColumns, empty: "No consumers. The log keeps every event until one reads it." });
  #quotes = new Table({ caption: "Feed", columns: quoteColumns, empty: "No quotes yet. They appear with the first event of a symbol." });

  constructor() {
    const strips = panel("strips", "Last five minutes", el("div", { class: "charts" }, ...this.#charts.map((c) => c.root)));
    const takers = el("div", { class: "takers" }, panel("sources", "Sources", this.#sources.root), panel("consumers", "Consumers", this.#consumers.root));
    const feed = panel("feed", "Feed", this.#quotes.root);
    feed.firstElementChild.append(el("span", { class: "note" }, `stale after ${STALE_AFTER_S} s without an event`));
    this.root = el("div", { class: "view overview" }, this.#attention.root, this.#ledger.root, this.#graph.root, strips, takers, feed);
  }

  update({ status, drift, nowS, history, now }) {
    this.#attention.update(status, nowS);
    this.#ledger.update(status.ledger);
    this.#graph.update(status);
    for (const chart of this.#charts) chart.update(history, now);
    this.#sources.update(status.sources.map((s) => ({ ...s, age_s: num(s.age_s) === null ? null : num(s.age_s) + drift })));
    this.#consumers.update(status.consumers);
    this.#quotes.update(quoteRows(status, drift));
  }
}
