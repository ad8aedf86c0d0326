// A status message as the views may rely on it: lists are lists, records are records, numbers may still be missing.

const isRecord = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const record = (value) => (isRecord(value) ? value : {});
const records = (value) => (Array.isArray(value) ? value.filter(isRecord) : []);

/** Parses a message; whole numbers too large for a number become BigInt, so that counts stay exact. */
export function parse(raw) {
  return JSON.parse(raw, (_, value, context) => {
    if (typeof value !== "number" || Number.isSafeInteger(value) || !Number.isInteger(value)) return value;
    return /^-?\d+$/.test(context?.source ?? "") ? BigInt(context.source) : value;
  });
}

/** The data of a status message with every container in place, or null if it is not one. */
export function statusOf(message) {
  if (!isRecord(message) || message.type !== "status" || !isRecord(message.data)) return null;
  const data = message.data;
  const health = record(data.health);
  const store = record(data.store);
  return {
    ...data,
    runtime: record(data.runtime),
    health: { ...health, components: records(health.components) },
    provider: record(data.provider),
    sources: records(data.sources),
    log: record(data.log),
    store: { ...store, tables: Object.entries(record(store.tables)).map(([name, t]) => ({ ...record(t), name })) },
    consumers: records(data.consumers).map((c) => ({ ...c, nodes: records(c.nodes) })),
    ledger: record(data.ledger),
    attention: records(data.attention),
    symbols: records(data.symbols),
    jobs: records(data.jobs),
  };
}

/** Indents JSON text without parsing it: every digit stays as it was sent. */
export function indented(raw) {
  const out = [];
  let depth = 0;
  const line = () => `\n${"  ".repeat(depth)}`;
  const tokens = raw.match(/"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/g) ?? [];
  tokens.forEach((token, i) => {
    const empty = (token === "{" || token === "[") && (tokens[i + 1] === "}" || tokens[i + 1] === "]");
    const closesEmpty = i > 0 && (tokens[i - 1] === "{" || tokens[i - 1] === "[");
    if (token === "{" || token === "[") {
      depth += 1;
      out.push(token, empty ? "" : line());
    } else if (token === "}" || token === "]") {
      depth = Math.max(0, depth - 1);
      out.push(closesEmpty ? "" : line(), token);
    } else if (token === ",") out.push(token, line());
    else out.push(token === ":" ? ": " : token);
  });
  return out.join("");
}
