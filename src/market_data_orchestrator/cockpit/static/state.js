// What a state word means: glyph, level, and which is worst. A state is never said by colour alone.

import { text } from "./format.js";

export const GLYPH = { ok: "●", warn: "◆", bad: "■", stale: "◇", off: "○" };

const LEVELS = {
  ok: ["healthy", "live", "running", "connected", "ok", "open", "up", "ready", "active"],
  warn: ["degraded", "waiting", "recovering", "retrying", "reconnecting", "connecting", "stopping", "draining"],
  bad: ["unhealthy", "failed", "conflict", "down", "disconnected", "error"],
  off: ["done", "stopped", "closed", "halted", "paused", "pending", "starting", "queued", "cancelled", "succeeded", "completed", "finished"],
};
const LEVEL_OF = new Map(Object.entries(LEVELS).flatMap(([level, words]) => words.map((word) => [word, level])));
const WORST_FIRST = ["bad", "warn", "stale", "off", "ok"];

/** The level of a state word; a word nobody knows is stale, never fine. */
export function levelOf(word) {
  return LEVEL_OF.get(text(word).toLowerCase()) ?? "stale";
}

/** Sorts worst first; for comparing levels. */
export function rank(level) {
  const at = WORST_FIRST.indexOf(level);
  return at < 0 ? WORST_FIRST.indexOf("stale") : at;
}

/** The worse of two levels. */
export function worse(a, b) {
  return rank(a) <= rank(b) ? a : b;
}

/** Glyph and word as one text. */
export function label(level, word) {
  return `${GLYPH[level] ?? GLYPH.stale} ${word}`;
}
