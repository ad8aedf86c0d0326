// The pipeline as a picture: sources → log → consumers → store, with rates and lag on the edges; the same as a list.

import { el, panel, setText, svg, sync } from "./dom.js";
import { bytes, count, cut, duration, num, rate, text } from "./format.js";
import { short } from "./scale.js";
import { label, levelOf, rank, worse } from "./state.js";

const NODE_W = 148;
const LINE_H = 15;
const GAP_Y = 12;
const MOST = 6; // per column; the rest is one node that says how many
const STUB = 86; // room for the figures of an edge, before edges join

// An edge has room for a dozen characters; the tables have every digit.
const brief = (value) => (Math.abs(num(value) ?? 0) >= 1e6 ? short(num(value)) : count(value));
const perSecond = (value) => (Math.abs(num(value) ?? 0) >= 1e6 ? short(num(value)) : rate(value));

/** Sources, log, consumers and store as boxes: `{ title, level, word, lines, edge }`, `edge` being the figures of its edge. */
export function boxesOf(status) {
  const sources = status.sources.map((s) => ({
    title: text(s.name),
    level: s.problem ? worse(levelOf(s.state), "warn") : levelOf(s.state),
    word: text(s.state),
    lines: [],
    edge: [`${perSecond(s.rate_events_s)}/s`, num(s.refused) ? `refused ${brief(s.refused)}` : ""],
  }));
  const consumers = status.consumers.map((c) => {
    const lost = num(c.unaccounted) || c.nodes.some((n) => num(n.unaccounted));
    let level = levelOf(c.state);
    if (c.problem) level = worse(level, "warn");
    return {
      title: text(c.name),
      level: lost ? "bad" : level,
      word: lost ? "unaccounted" : text(c.state),
      lines: [],
      edge: [`${perSecond(c.rate_events_s)}/s`, `lag ${brief(c.lag_events)}`],
      commit: [num(c.commit_age_s) === null ? "" : `commit ${duration(c.commit_age_s)}`, num(c.restarts) ? `restarts ${brief(c.restarts)}` : ""],
    };
  });
  const { log, store } = status;
  const logLevel = log.full === true ? "bad" : log.problem ? "warn" : Object.keys(log).length ? "ok" : "stale";
  const logBox = {
    title: "log",
    level: logLevel,
    word: log.full === true ? "full" : log.problem ? "problem" : logLevel === "ok" ? "open" : "unknown",
    lines: [`end ${count(log.end)}`, `durable ${count(log.durable_end)}`, bytes(log.size_bytes)],
  };
  const storeLevel = store.problem ? "bad" : Object.keys(store).length > 1 || store.tables.length ? "ok" : "stale";
  const storeBox = {
    title: "store",
    level: storeLevel,
    word: store.problem ? "problem" : storeLevel === "ok" ? "open" : "unknown",
    lines: tableLines(store.tables),
  };
  return { sources: capped(sources), log: logBox, consumers: capped(consumers), store: storeBox };
}

function tableLines(tables) {
  const lines = tables.map((t) => `${cut(t.name, 9)} ${count(t.rows)}`);
  return lines.length <= MOST ? lines : [...lines.slice(0, MOST - 1), `${lines.length - MOST + 1} more tables`];
}

// Worst first only where some must be left out: otherwise nodes keep their places.
function capped(boxes) {
  if (boxes.length <= MOST) return boxes;
  const worst = [...boxes].sort((a, b) => rank(a.level) - rank(b.level));
  const left = worst.slice(MOST - 1);
  const more = { title: `${left.length} more`, level: left[0].level, word: `worst: ${left[0].word}`, lines: [], edge: [], commit: [] };
  return [...worst.slice(0, MOST - 1), more];
}

export class Graph {
  #picture = svg("svg", { class: "graph", "aria-hidden": "true" });
  #list = el("ol", { class: "graph-list" });
  #boxes = null;
  #drawn = "";

  constructor() {
    this.root = panel("pipeline", "Pipeline", this.#picture, this.#list);
    this.root.firstElementChild.append(el("span", { class: "note" }, "events/s and lag in events on the edges, rows in the store"));
    new ResizeObserver(() => this.#boxes && this.#draw(this.#boxes)).observe(this.root);
  }

  update(status) {
    this.#boxes = boxesOf(status);
    const { sources, log, consumers, store } = this.#boxes;
    const all = [...sources, log, ...consumers, store];
    sync(this.#list, all, () => el("li", {}, el("span"), el("span", { class: "facts" })), (node, box) => {
      setText(node.children[0], label(box.level, `${box.title} ${box.word}`));
      node.children[0].dataset.level = box.level;
      setText(node.children[1], [...(box.edge ?? []), ...box.lines].filter(Boolean).join(" · "));
    });
    this.#draw(this.#boxes);
  }

  #draw(boxes) {
    const width = this.#picture.clientWidth;
    const key = `${width} ${JSON.stringify(boxes)}`;
    if (!width || key === this.#drawn) return;
    this.#drawn = key;
    const { shapes, height } = layout(boxes, width);
    this.#picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.#picture.setAttribute("height", height);
    this.#picture.replaceChildren(...shapes);
  }
}

const heightOf = (box) => 38 + box.lines.length * LINE_H;

function layout({ sources, log, consumers, store }, width) {
  const columns = [sources, [log], consumers, [store]];
  const tall = columns.map((boxes) => boxes.reduce((sum, box) => sum + heightOf(box) + GAP_Y, -GAP_Y));
  const height = Math.max(...tall, 120) + 8;
  const step = (width - NODE_W - 2) / 3;
  const placed = columns.map((boxes, c) => {
    let y = (height - tall[c]) / 2;
    return boxes.map((box) => {
      const at = { box, x: 1 + c * step, y, h: heightOf(box) };
      y += at.h + GAP_Y;
      return { ...at, mid: at.y + at.h / 2 };
    });
  });
  const [from, [hub], to, [sink]] = placed;
  const edges = [
    ...from.flatMap((n) => edge({ x1: n.x + NODE_W, y1: n.mid, x2: hub.x, y2: hub.mid, stubAtStart: true, figures: n.box.edge })),
    ...to.flatMap((n) => edge({ x1: hub.x + NODE_W, y1: hub.mid, x2: n.x, y2: n.mid, stubAtStart: false, figures: n.box.edge })),
    ...to.flatMap((n) => edge({ x1: n.x + NODE_W, y1: n.mid, x2: sink.x, y2: sink.mid, stubAtStart: true, figures: n.box.commit })),
  ];
  const empties = [[from, 0, "no sources"], [to, 2, "no consumers"]]
    .filter(([nodes]) => nodes.length === 0)
    .map(([, c, words]) => svg("text", { x: 1 + c * step, y: height / 2, class: "edge-text" }, words));
  return { shapes: [...edges, ...placed.flat().map(node), ...empties], height };
}

// Edges run level beside their own node, where their figures stand, and join on one upright.
function edge({ x1, y1, x2, y2, stubAtStart, figures }) {
  const turn = stubAtStart ? Math.min(x1 + STUB + 8, x2 - 12) : Math.max(x2 - STUB - 14, x1 + 8);
  const path = svg("path", { d: `M${x1} ${y1}H${turn}V${y2}H${x2 - 1}`, class: "edge" });
  const head = svg("path", { d: `M${x2 - 7} ${y2 - 3.5}L${x2 - 1} ${y2}L${x2 - 7} ${y2 + 3.5}`, class: "edge" });
  const x = stubAtStart ? x1 + 5 : x2 - 10;
  const words = figures.map((figure, i) =>
    svg("text", { x, y: y1At(i, stubAtStart ? y1 : y2), class: "edge-text", "text-anchor": stubAtStart ? "start" : "end" }, figure));
  return [path, head, ...words];
}

const y1At = (i, y) => (i === 0 ? y - 4 : y + 13);

function node({ box, x, y, h }) {
  const lines = box.lines.map((line, i) => svg("text", { x: x + 8, y: y + 46 + i * LINE_H, class: "node-line" }, cut(line, 20)));
  return svg(
    "g",
    { "data-level": box.level },
    svg("title", {}, `${box.title} ${box.word}`),
    svg("rect", { x, y: Math.round(y) + 0.5, width: NODE_W, height: h, rx: 4, class: "node" }),
    svg("text", { x: x + 8, y: y + 16, class: "node-title" }, cut(box.title, 18)),
    svg("text", { x: x + 8, y: y + 31, class: "node-state" }, cut(label(box.level, box.word), 20)),
    ...lines,
  );
}
