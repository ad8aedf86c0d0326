// Values as text. A missing or impossible value is a dash; nothing here throws.

export const DASH = "–";

const grouped = new Intl.NumberFormat("en-US");
const groupedTenths = new Intl.NumberFormat("en-US", { minimumFractionDigits: 1, maximumFractionDigits: 1 });

/** A finite number, or null. Integers too large for a number arrive as BigInt and lose digits only here. */
export function num(value) {
  const n = typeof value === "bigint" ? Number(value) : value;
  return typeof n === "number" && Number.isFinite(n) ? n : null;
}

/** An exact whole count with thousands separated. */
export function count(value) {
  if (typeof value === "bigint") return grouped.format(value);
  const n = num(value);
  return n === null ? DASH : grouped.format(Math.round(n));
}

/** Events a second: tenths below a hundred. */
export function rate(value) {
  const n = num(value);
  if (n === null) return DASH;
  return Math.abs(n) < 99.95 && n !== 0 ? groupedTenths.format(n) : grouped.format(Math.round(n));
}

const BYTE_UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/** A size with its binary unit. */
export function bytes(value) {
  let n = num(value);
  if (n === null) return DASH;
  let unit = 0;
  while (Math.abs(n) >= 1024 && unit < BYTE_UNITS.length - 1) {
    n /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? grouped.format(n) : groupedTenths.format(n)} ${BYTE_UNITS[unit]}`;
}

/** A length of time given in seconds, in the unit that people would use for it. */
export function duration(value) {
  const s = num(value);
  if (s === null) return DASH;
  if (s < 0) return "0.0 s"; // clocks of two machines differ; nothing is younger than now
  if (s < 9.95) return `${s.toFixed(1)} s`;
  if (s < 119.5) return `${Math.round(s)} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${grouped.format(Math.floor(s / 86400))} d`;
}

/** A price with the decimals of its instrument, so that digits do not come and go. */
export function price(value, decimals) {
  const n = num(value);
  if (n === null) return DASH;
  const places = num(decimals);
  if (places !== null && Number.isInteger(places) && places >= 0 && places <= 12) return n.toFixed(places);
  return String(n);
}

/** Seconds since the epoch, whether seconds or nanoseconds were given; null if neither. */
export function epochSeconds(value) {
  const n = num(value);
  if (n === null) return null;
  const s = Math.abs(n) > 1e14 ? n / 1e9 : n;
  return Math.abs(s) <= 8.64e12 ? s : null; // the range of Date
}

/** Time of day in UTC, without the word. */
export function clock(value) {
  const s = epochSeconds(value);
  return s === null ? DASH : new Date(s * 1000).toISOString().slice(-13, -5);
}

/** Day and time of day in UTC when the day is not today's, else the time alone. */
export function moment(value, nowS) {
  const s = epochSeconds(value);
  if (s === null) return DASH;
  const iso = new Date(s * 1000).toISOString();
  const today = new Date(nowS * 1000).toISOString();
  const day = iso.slice(0, -14);
  return day === today.slice(0, -14) ? iso.slice(-13, -5) : `${day} ${iso.slice(-13, -5)}`;
}

/** Whatever it is, as one line of text. */
export function text(value) {
  if (value === null || value === undefined || value === "") return DASH;
  if (typeof value === "string") return value;
  if (typeof value === "object") {
    return JSON.stringify(value, (_, v) => (typeof v === "bigint" ? String(v) : v)).slice(0, 200);
  }
  return String(value);
}

/** Cut to a number of characters, with an ellipsis. */
export function cut(value, chars) {
  return value.length <= chars ? value : `${value.slice(0, chars - 1)}…`;
}
