// From values to pixels, with round numbers on the axis.

/** The smallest of 1, 2, 5 times a power of ten that is at least `value`. */
export function niceCeil(value) {
  if (!(value > 0) || !Number.isFinite(value)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  const step = [1, 2, 5, 10].find((s) => s * power >= value * (1 - 1e-12)) ?? 10;
  return step * power;
}

/** Maps `[from, to]` to `[low, high]` in a straight line. */
export function linear(from, to, low, high) {
  const slope = to === from ? 0 : (high - low) / (to - from);
  return (value) => low + (value - from) * slope;
}

/** A value on an axis, short. */
export function short(value) {
  const units = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];
  const [size, unit] = units.find(([s]) => Math.abs(value) >= s) ?? [1, ""];
  const scaled = value / size;
  return `${Number(scaled.toFixed(Math.abs(scaled) < 10 && scaled % 1 ? 1 : 0))}${unit}`;
}

/** Moves labels apart: positions at least `gap` from each other, within `[low, high]` while they fit. */
export function spread(positions, gap, low, high) {
  const order = positions.map((y, i) => ({ y, i })).sort((a, b) => a.y - b.y);
  order.forEach((p, k) => {
    p.y = Math.max(p.y, low, k ? order[k - 1].y + gap : low);
  });
  for (let k = order.length - 1; k >= 0; k -= 1) {
    const limit = k === order.length - 1 ? high : order[k + 1].y - gap;
    order[k].y = Math.min(order[k].y, limit);
  }
  const placed = [];
  order.forEach((p) => {
    placed[p.i] = p.y;
  });
  return placed;
}
