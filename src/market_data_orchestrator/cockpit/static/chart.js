// A strip chart on a canvas: fixed five-minute window, zero-based, last value as a tag, its words for those who cannot see it.

import { el, setAttr, setText } from "./dom.js";
import { DASH } from "./format.js";
import { WINDOW_MS } from "./history.js";
import { linear, niceCeil, short, spread } from "./scale.js";

const LEFT = 36;
const RIGHT = 58;
const TOP = 8;
const BOTTOM = 18;
// This long without a sample, or this many times the usual interval, is a hole and not a slope.
const GAP_MS = 10_000;
const GAP_INTERVALS = 3;

/** One chart. `series` is a list of `{ key, name, token, dash }`: `token` names a colour, `dash` is a line pattern. */
export class StripChart {
  #canvas = el("canvas", { role: "img" });
  #legend = el("p", { class: "legend" });
  #values = [];
  #last = null;

  /** `figure` writes a value: rate or count. */
  constructor({ title, unit, series, figure }) {
    Object.assign(this, { title, unit, series, figure });
    this.root = el("figure", { class: "chart" }, el("figcaption", {}, el("h3", {}, `${title}, ${unit}`), this.#legend), this.#canvas);
    for (const line of series) {
      const value = el("span", { class: "figure" }, DASH);
      this.#values.push(value);
      this.#legend.append(el("span", { class: `key key-${line.token}${line.dash ? " dashed" : ""}` }), `${line.name} `, value, " ");
    }
    new ResizeObserver(() => this.#last && this.#paint(...this.#last)).observe(this.#canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#last && this.#paint(...this.#last));
  }

  /** Draws the samples of a History up to `now`, milliseconds since the epoch. */
  update(samples, now) {
    const newest = samples.at(-1);
    const words = this.series.map((line, i) => {
      const value = this.figure(newest?.[line.key]);
      setText(this.#values[i], value);
      const seen = samples.map((s) => s[line.key]).filter((v) => v !== null);
      const range = seen.length ? `, between ${this.figure(Math.min(...seen))} and ${this.figure(Math.max(...seen))}` : "";
      return `${line.name} ${value}${range}`;
    });
    setAttr(this.#canvas, "aria-label", `${this.title} in ${this.unit}, last five minutes: ${words.join("; ")}`);
    this.#last = [samples, now];
    this.#paint(samples, now);
  }

  #paint(samples, now) {
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    if (!width || !height) return;
    const ratio = devicePixelRatio || 1;
    const pixels = [Math.round(width * ratio), Math.round(height * ratio)];
    if (this.#canvas.width !== pixels[0] || this.#canvas.height !== pixels[1]) [this.#canvas.width, this.#canvas.height] = pixels;
    const g = this.#canvas.getContext("2d");
    const style = getComputedStyle(this.#canvas);
    const colour = (token) => style.getPropertyValue(`--${token}`).trim();
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    g.clearRect(0, 0, width, height);
    g.font = `11px ${style.getPropertyValue("--mono")}`;
    g.textBaseline = "middle";
    const shown = samples.filter((s) => s.t >= now - WINDOW_MS - 5000);
    const peak = Math.max(0, ...this.series.flatMap((line) => shown.map((s) => s[line.key] ?? 0)));
    const top = niceCeil(peak);
    const x = linear(now - WINDOW_MS, now, LEFT, width - RIGHT);
    const y = linear(0, top, height - BOTTOM, TOP);
    this.#axes(g, { x, y, top, now, width, height, line: colour("line"), muted: colour("muted") });
    g.save();
    g.beginPath();
    g.rect(LEFT, 0, width - RIGHT - LEFT, height);
    g.clip();
    for (const line of this.series) trace(g, shown, { line, x, y, stroke: colour(line.token) });
    g.restore();
    this.#tags(g, shown.at(-1), { y, width, height, colour });
  }

  #axes(g, { x, y, top, now, width, height, line, muted }) {
    g.lineWidth = 1;
    g.strokeStyle = line;
    g.fillStyle = muted;
    g.textAlign = "right";
    for (const value of [0, top / 2, top]) {
      const at = Math.round(y(value)) + 0.5;
      g.beginPath();
      g.moveTo(LEFT, at);
      g.lineTo(width - RIGHT, at);
      g.stroke();
      g.fillText(short(value), LEFT - 4, at);
    }
    g.textAlign = "center";
    const end = width - RIGHT;
    for (let t = Math.ceil((now - WINDOW_MS) / 60_000) * 60_000; t <= now; t += 60_000) {
      const at = x(t);
      if (at - 16 < LEFT - 8 || at + 16 > end) continue;
      g.fillText(new Date(t).toISOString().slice(11, 16), at, height - 7);
    }
    g.textAlign = "left";
    g.fillText("UTC", end + 6, height - 7);
  }

  #tags(g, newest, { y, width, height, colour }) {
    const lines = this.series.filter((line) => newest && newest[line.key] !== null);
    const wanted = lines.map((line) => y(newest[line.key]));
    const at = spread(wanted, 13, TOP, height - BOTTOM - 2);
    g.textAlign = "left";
    lines.forEach((line, i) => {
      g.fillStyle = colour(line.token);
      g.fillText(short(newest[line.key]), width - RIGHT + 6, at[i]);
    });
  }
}

function trace(g, samples, { line, x, y, stroke }) {
  g.strokeStyle = stroke;
  g.lineWidth = 1;
  g.setLineDash(line.dash ?? []);
  g.beginPath();
  const usual = samples.length > 1 ? (samples.at(-1).t - samples[0].t) / (samples.length - 1) : 0;
  const gap = Math.max(GAP_MS, GAP_INTERVALS * usual);
  let before = null;
  for (const sample of samples) {
    const value = sample[line.key];
    if (value === null) {
      before = null;
      continue;
    }
    if (before === null || sample.t - before > gap) g.moveTo(x(sample.t), y(value));
    else g.lineTo(x(sample.t), y(value));
    before = sample.t;
  }
  g.stroke();
  g.setLineDash([]);
}
