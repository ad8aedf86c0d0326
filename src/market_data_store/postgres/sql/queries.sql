-- name: versions_table
CREATE SCHEMA IF NOT EXISTS mds_meta;
CREATE TABLE IF NOT EXISTS mds_meta.migrations (
    version integer PRIMARY KEY,
    name text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
GRANT USAGE ON SCHEMA mds_meta TO PUBLIC;
GRANT SELECT ON mds_meta.migrations TO PUBLIC;

-- name: version_known
SELECT to_regclass('mds_meta.migrations') IS NOT NULL

-- name: version
SELECT coalesce(max(version), 0) FROM mds_meta.migrations

-- name: version_add
INSERT INTO mds_meta.migrations (version, name) VALUES (%s, %s)

-- name: migrating
SELECT pg_advisory_xact_lock(hashtextextended('mds.migrate', 0))

-- name: tenant_set
SELECT set_config('app.tenant_id', %s, false)

-- name: tenant_clear
SELECT set_config('app.tenant_id', '', false)

-- name: role
SET ROLE mds_app

-- name: durable
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'

-- name: partition
SELECT mds.ensure_partition(%s, %s)

-- name: partition_counts
SELECT c.relname, count(i.inhrelid)
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'mds'
LEFT JOIN pg_catalog.pg_inherits i ON i.inhparent = c.oid
WHERE c.relkind = 'p'
GROUP BY c.relname

-- name: checkpoints
SELECT table_name, writer, position, covers, row_count FROM mds.checkpoints

-- name: checkpoints_of
SELECT writer, position, covers, commits FROM mds.checkpoints WHERE table_name = %s

-- name: checkpoint_make
INSERT INTO mds.checkpoints (tenant_id, writer, table_name, position, covers, row_count, commits)
VALUES (mds.current_tenant(), %s, %s, %s, '{}', 0, 0)
ON CONFLICT DO NOTHING
RETURNING position

-- name: checkpoint_lock
SELECT position, commits FROM mds.checkpoints WHERE writer = %s AND table_name = %s FOR UPDATE

-- name: checkpoint_move
UPDATE mds.checkpoints
SET position = %s, covers = covers || %s, row_count = row_count + %s, commits = commits + 1
WHERE writer = %s AND table_name = %s

-- name: staging
CREATE TEMP TABLE IF NOT EXISTS {staging} ON COMMIT DELETE ROWS AS
SELECT {columns}, NULL::integer AS turn FROM mds.{table} WITH NO DATA

-- name: copy_in
COPY pg_temp.{staging} ({columns}) FROM STDIN (FORMAT BINARY)

-- name: insert_rows
INSERT INTO mds.{table} (tenant_id, {columns})
SELECT (SELECT mds.current_tenant()), {columns} FROM pg_temp.{staging}

-- name: upsert_bars
INSERT INTO mds.bars AS b (tenant_id, {columns})
SELECT (SELECT mds.current_tenant()), {columns} FROM pg_temp.{staging} WHERE turn = {turn}
ON CONFLICT (ts_event, tenant_id, symbol, "interval", vendor, what, session, source) DO UPDATE
SET ts_recv = excluded.ts_recv, seq = excluded.seq, flags = excluded.flags, origin = excluded.origin,
    open = excluded.open, high = excluded.high, low = excluded.low, close = excluded.close,
    volume = excluded.volume, vwap = excluded.vwap, trade_count = excluded.trade_count,
    revision = excluded.revision, ts_known = excluded.ts_known, reason = excluded.reason
WHERE (coalesce(excluded.revision, 0), coalesce(excluded.ts_known, 0), excluded.seq)
        > (coalesce(b.revision, 0), coalesce(b.ts_known, 0), b.seq)
    AND (excluded.open, excluded.high, excluded.low, excluded.close, excluded.volume, excluded.vwap,
            excluded.trade_count)
        IS DISTINCT FROM (b.open, b.high, b.low, b.close, b.volume, b.vwap, b.trade_count)

-- name: read
SELECT {columns} FROM mds.{table}
WHERE ts_event >= %(start_ns)s AND ts_event <= %(last_ns)s
    AND (%(vendor)s::text IS NULL OR vendor = %(vendor)s)
    AND (%(symbol)s::text IS NULL OR symbol = %(symbol)s)
    AND (%(below_seq)s::bigint IS NULL OR seq < %(below_seq)s)
ORDER BY ts_event, seq

-- name: bars
SELECT DISTINCT ON (ts_event, vendor, symbol, "interval", what, session, source) {columns}
FROM mds.{table}
WHERE symbol = %(symbol)s AND "interval" = %(interval)s AND what = %(what)s AND session = %(session)s
    AND ts_event >= %(start_ns)s AND ts_event <= %(last_ns)s
    AND (%(vendor)s::text IS NULL OR vendor = %(vendor)s)
    AND (%(source)s::text IS NULL OR source = %(source)s)
    AND (%(as_of_ns)s::bigint IS NULL OR coalesce(ts_known, ts_recv) <= %(as_of_ns)s)
ORDER BY ts_event, vendor, symbol, "interval", what, session, source,
    coalesce(revision, 0) DESC, coalesce(ts_known, 0) DESC, seq DESC
