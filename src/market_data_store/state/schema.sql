-- The schema as the numbered migrations leave it; a test holds the two together.
CREATE TABLE ingests (
    source_id TEXT PRIMARY KEY,
    path TEXT NOT NULL,
    rows INTEGER NOT NULL,
    rejected INTEGER NOT NULL,
    ts INTEGER NOT NULL
) STRICT;

CREATE TABLE jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    params TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'running', 'done', 'failed', 'cancelled')),
    idempotency_key TEXT UNIQUE,
    owner TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    cancel_requested INTEGER NOT NULL DEFAULT 0,
    created_ns INTEGER NOT NULL,
    heartbeat_ns INTEGER,
    finished_ns INTEGER,
    progress TEXT NOT NULL DEFAULT '{}',
    result TEXT,
    error TEXT
) STRICT;

CREATE INDEX jobs_unfinished ON jobs (id) WHERE state IN ('queued', 'running');

CREATE TABLE gaps (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    vendor TEXT NOT NULL,
    symbol TEXT NOT NULL,
    kind TEXT NOT NULL,
    from_ns INTEGER NOT NULL,
    to_ns INTEGER CHECK (to_ns >= from_ns),
    cause TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'filling', 'filled', 'unfillable')),
    detail TEXT NOT NULL DEFAULT '',
    UNIQUE (vendor, symbol, kind, from_ns, cause)
) STRICT;

CREATE INDEX gaps_by_time ON gaps (from_ns, id);

CREATE TABLE flags (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE audit_heads (
    log TEXT PRIMARY KEY,
    seq INTEGER NOT NULL,
    hash TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE sessions (
    key_hash TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    role TEXT NOT NULL,
    created_ns INTEGER NOT NULL,
    seen_ns INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
