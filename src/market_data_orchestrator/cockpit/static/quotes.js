// The columns of quotes, and when a quote is stale.

import { count, duration, num, price, text } from "./format.js";
import { levelOf } from "./state.js";

export const STALE_AFTER_S = 60;

/**
 * The state of a symbol: the worst of its own age and its source. A source that is done or stopped has closed quotes,
 * which are old and not stale.
 */
export function quoteState(symbol, sources) {
  const source = sources.get(symbol.vendor);
  const level = source === undefined ? "ok" : levelOf(source);
  if (level === "bad") return { level: "bad", word: text(source) };
  if (level === "off" && source !== "pending" && source !== "starting") return { level: "off", word: "closed" };
  const age = num(symbol.age_s);
  if (age === null) return { level: "stale", word: "no event" };
  return age > STALE_AFTER_S ? { level: "stale", word: "stale" } : { level: "ok", word: "live" };
}

/** Rows for `quoteColumns`: each symbol with its state and its age now, `drift` seconds after the message. */
export function quoteRows(status, drift) {
  const sources = new Map(status.sources.map((s) => [s.name, s.state]));
  const provider = status.provider;
  if (provider.name !== undefined && !sources.has(provider.name)) sources.set(provider.name, provider.state);
  return status.symbols.map((symbol) => {
    const age = num(symbol.age_s);
    const aged = { ...symbol, age_s: age === null ? null : age + drift };
    return { ...aged, ...quoteState(aged, sources) };
  });
}

const at = (name) => ({ label: name, kind: "num", value: (q) => price(q[name], q.decimals) });

export const quoteColumns = [
  { label: "symbol", kind: "text", scope: "row", value: (q) => text(q.symbol) },
  { label: "vendor", kind: "text", value: (q) => text(q.vendor) },
  { label: "state", kind: "state", value: (q) => q.word, level: (q) => q.level },
  at("bid"),
  at("ask"),
  at("last"),
  { label: "age", kind: "num", width: "few", value: (q) => duration(q.age_s), level: (q) => (q.level === "stale" ? "aged" : null) },
  { label: "events", kind: "num", width: "count", value: (q) => count(q.events) },
];
