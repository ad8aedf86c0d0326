// The last five minutes of a few figures, kept in the browser.

import { num } from "./format.js";

export const WINDOW_MS = 300_000;
const CLOSEST_MS = 250; // a faster service replaces its last sample instead of filling memory

const sum = (items, field) => {
  const found = items.map((item) => num(item[field])).filter((n) => n !== null);
  return found.length ? found.reduce((a, b) => a + b, 0) : null;
};
const largest = (items, field) => {
  const found = items.map((item) => num(item[field])).filter((n) => n !== null);
  return found.length ? Math.max(...found) : null;
};

/** What is charted of one status; null where the service did not say. */
export function sampleOf(status, t) {
  return {
    t,
    in: sum(status.sources, "rate_events_s") ?? num(status.provider.rate_events_s),
    out: sum(status.consumers, "rate_events_s"),
    lag: largest(status.consumers, "lag_events"),
    queued: num(status.ledger.queued),
    inFlight: num(status.ledger.in_flight),
  };
}

export class History {
  samples = []; // ascending by t, milliseconds since the epoch

  add(sample) {
    const last = this.samples.at(-1);
    if (last && sample.t < last.t) this.samples.length = 0; // the clock of this machine was set back
    if (last && sample.t - this.samples.at(-2)?.t < CLOSEST_MS) this.samples.pop();
    this.samples.push(sample);
    const from = sample.t - WINDOW_MS - 5000; // one sample beyond the left edge, so that the line reaches it
    const keep = this.samples.findIndex((s) => s.t >= from);
    if (keep > 0) this.samples.splice(0, keep);
  }
}
