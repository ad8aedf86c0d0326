-- name: versions_table
CREATE SCHEMA IF NOT EXISTS mds_meta;
CREATE TABLE IF NOT EXISTS mds_meta.migrations (
    version integer NOT NULL,
    name text PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT now()
);
-- Up to schema 2 a version was one step; now it may be two.
ALTER TABLE mds_meta.migrations DROP CONSTRAINT migrations_pkey, ADD PRIMARY KEY (name);
GRANT USAGE ON SCHEMA mds_meta TO PUBLIC;
GRANT SELECT ON mds_meta.migrations TO PUBLIC;

-- name: version_known
SELECT to_regclass('mds_meta.migrations') IS NOT NULL

-- name: versions
SELECT version, name FROM mds_meta.migrations

-- name: version_add
INSERT INTO mds_meta.migrations (version, name) VALUES (%s, %s)

-- name: migrating
SELECT pg_advisory_xact_lock(hashtextextended('mds.migrate', 0))

-- name: tenant_set
SELECT set_config('app.tenant_id', mds.tenant_key(%s), false)

-- name: tenant_clear
SELECT set_config('app.tenant_id', '', false)

-- name: role
SET ROLE mds_app

-- name: maintainer
SET ROLE mds_maintainer

-- name: durable
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'

-- name: statement_timeout
SELECT set_config('statement_timeout', %s, false)

-- name: query_settings
SELECT set_config('statement_timeout', %s, true), set_config('search_path', 'mds, pg_temp', true),
    set_config('TimeZone', 'UTC', true), set_config('standard_conforming_strings', 'on', true)

-- name: query_describe
SELECT column_name::text, data_type::text, is_nullable::text
FROM information_schema.columns WHERE table_schema = 'mds' AND table_name = %s ORDER BY ordinal_position

-- name: health
SELECT current_setting('server_version'),
    (SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'timescaledb'),
    EXISTS (
        SELECT FROM pg_catalog.pg_class c
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'mds_archive'
        WHERE c.relname = 'stale_days'
    )

-- name: archive_known
SELECT EXISTS (
    SELECT FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'mds_archive'
    WHERE c.relname = 'stale_days'
)

-- name: timescale
SELECT extversion, current_setting('timescaledb.license', true)
FROM pg_catalog.pg_extension WHERE extname = 'timescaledb'

-- name: archive_possible
SELECT EXISTS (
    SELECT FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'mds'
    WHERE c.relname = 'archived_days'
)

-- name: archive_owner
SELECT pg_catalog.pg_has_role(c.relowner, 'USAGE'), pg_catalog.pg_get_userbyid(c.relowner)
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'mds_archive'
WHERE c.relname = 'stale_days'

-- name: archive_settings
SELECT set_config('lock_timeout', '5s', false), set_config('search_path', quote_ident(n.nspname) || ', pg_temp', false)
FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
WHERE e.extname = 'timescaledb'

-- name: archive_alone
SELECT pg_advisory_lock(hashtextextended('mds.archive', 0))

-- name: archive_incoming
SELECT c.relname
FROM pg_catalog.pg_inherits i
JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
JOIN pg_catalog.pg_class p ON p.oid = i.inhparent AND p.relname = %s || '_incoming'
JOIN pg_catalog.pg_namespace n ON n.oid = p.relnamespace AND n.nspname = 'mds_archive'
ORDER BY c.relname

-- name: archive_take
SELECT mds_archive.take(%s, %s)

-- name: archive_settle
SELECT moved, bytes_before, bytes_after FROM mds_archive.settle(%s, %s)

-- name: archive_stale
SELECT day FROM mds_archive.stale_days WHERE table_name = %s ORDER BY day

-- name: archive_aggregate
CALL refresh_continuous_aggregate({aggregate}, {first_ns}::bigint, {end_ns}::bigint)

-- name: archive_aggregated
DELETE FROM mds_archive.stale_days WHERE table_name = %s AND day = %s

-- name: archived_dates
SELECT DISTINCT day FROM mds.archived_days WHERE table_name = %s AND day >= %s AND day < %s

-- name: tenant_register
SELECT mds.register_tenant(%s)

-- name: retain
SELECT mds.drop_partitions(%s, %s)

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
SELECT writer, position, covers, commits FROM mds.checkpoints WHERE table_name = %s AND writer <> ''

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

-- name: upserts_count
INSERT INTO mds.checkpoints AS c (tenant_id, writer, table_name, position, covers, row_count, commits)
VALUES (mds.current_tenant(), '', %s, 0, '{}', %s, 1)
ON CONFLICT (tenant_id, table_name, writer) DO UPDATE
SET row_count = c.row_count + excluded.row_count, commits = c.commits + 1

-- name: staging
CREATE TEMP TABLE IF NOT EXISTS {staging} ON COMMIT DELETE ROWS AS
SELECT {columns}, NULL::integer AS turn FROM mds.{table} WITH NO DATA

-- name: copy_in
COPY pg_temp.{staging} ({columns}) FROM STDIN (FORMAT BINARY)

-- name: insert_rows
INSERT INTO mds.{table} (tenant_id, {columns})
SELECT (SELECT mds.current_tenant()), {columns} FROM pg_temp.{staging}

-- name: append_versions
INSERT INTO mds.{table} AS b (tenant_id, {columns})
SELECT (SELECT mds.current_tenant()), {columns} FROM pg_temp.{staging} WHERE turn = {turn}
ON CONFLICT (tenant_id, {key}) DO UPDATE SET {changes}
WHERE (coalesce(excluded.revision, 0), coalesce(excluded.ts_known, 0), excluded.seq)
        > (coalesce(b.revision, 0), coalesce(b.ts_known, 0), b.seq)
    AND ({new_values}) IS DISTINCT FROM ({old_values})

-- name: upsert_versions
WITH done AS (
    INSERT INTO mds.{table} AS b (tenant_id, {columns})
    SELECT (SELECT mds.current_tenant()), {columns} FROM pg_temp.{staging} WHERE turn = {turn}
    ON CONFLICT (tenant_id, {key}) DO UPDATE SET {changes}, revision = coalesce(b.revision, 0) + 1
    WHERE ({new_values}) IS DISTINCT FROM ({old_values})
    RETURNING b.revision
)
SELECT count(*) FILTER (WHERE revision = 0), count(*) FILTER (WHERE revision > 0) FROM done

-- name: restore_new
INSERT INTO mds.{table} (tenant_id, {columns})
SELECT (SELECT mds.current_tenant()), {columns} FROM pg_temp.{staging} WHERE turn = {turn}
ON CONFLICT (tenant_id, {key}) DO NOTHING

-- name: restore_newer
INSERT INTO mds.{table} AS b (tenant_id, {columns})
SELECT (SELECT mds.current_tenant()), {columns} FROM pg_temp.{staging} WHERE turn = {turn}
ON CONFLICT (tenant_id, {key}) DO UPDATE SET {changes}
WHERE (coalesce(excluded.revision, 0), coalesce(excluded.ts_known, excluded.ts_recv), excluded.seq)
    > (coalesce(b.revision, 0), coalesce(b.ts_known, b.ts_recv), b.seq)

-- name: restore_older
INSERT INTO mds.{superseded} (tenant_id, {columns})
SELECT (SELECT mds.current_tenant()), {columns} FROM pg_temp.{staging} s
WHERE turn = {turn} AND NOT EXISTS (
    SELECT FROM mds.{versions} b
    WHERE {same_key} AND (coalesce(b.revision, 0), coalesce(b.ts_known, b.ts_recv), b.seq)
        = (coalesce(s.revision, 0), coalesce(s.ts_known, s.ts_recv), s.seq)
)

-- name: one_moment
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY

-- name: one_moment_of
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY;
LOCK TABLE ONLY mds.{table} IN ACCESS SHARE MODE

-- name: lock_for_reading
LOCK TABLE {tables} IN ACCESS SHARE MODE

-- name: partitions_of
SELECT c.relname
FROM pg_catalog.pg_inherits i
JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
JOIN pg_catalog.pg_class p ON p.oid = i.inhparent AND p.relname = %s
JOIN pg_catalog.pg_namespace n ON n.oid = p.relnamespace AND n.nspname = 'mds'

-- name: held
WITH held AS (SELECT FROM mds.{table})

-- name: select
{held} SELECT {columns} FROM {source} t WHERE {where} ORDER BY {order}

-- name: known
(SELECT * FROM {versions} WHERE coalesce(ts_known, ts_recv) <= %(as_of_ns)s)

-- name: newest_known
(
    SELECT DISTINCT ON ({key}) * FROM {versions} WHERE coalesce(ts_known, ts_recv) <= %(as_of_ns)s
    ORDER BY {key}, coalesce(revision, 0) DESC, coalesce(ts_known, 0) DESC, seq DESC
)

-- name: coverage
{held} SELECT vendor, symbol, to_char(date '1970-01-01' + (day)::int, 'YYYY-MM-DD'), rows, first_ts, last_ts
FROM (
    SELECT vendor, symbol, {day} AS day, count(*) AS rows, min(ts_event) AS first_ts, max(ts_event) AS last_ts
    FROM mds.{relation} WHERE {where} GROUP BY 1, 2, 3
) counted
ORDER BY vendor, symbol, day

-- name: coverage_with_archive
SELECT vendor, symbol, to_char(date '1970-01-01' + day::int, 'YYYY-MM-DD'), sum(rows)::bigint, min(first_ts), max(last_ts)
FROM (
    SELECT vendor, symbol, {day} AS day, count(*) AS rows, min(ts_event) AS first_ts, max(ts_event) AS last_ts
    FROM mds.{table} WHERE {where} GROUP BY 1, 2, 3
    UNION ALL
    SELECT vendor, symbol, day / 86400000000000, rows, first_ts, last_ts
    FROM mds.archived_days WHERE {days_where}
) counted
GROUP BY vendor, symbol, day
ORDER BY vendor, symbol, day

-- name: last_priced_known
SELECT EXISTS (SELECT FROM mds_meta.migrations WHERE name = '0004_last_priced.post.sql')

-- name: last_priced_note
INSERT INTO mds.last_priced AS l (tenant_id, table_name, vendor, symbol, ts_event)
SELECT (SELECT mds.current_tenant()), %(table)s, g.vendor, g.symbol, g.ts_event
FROM unnest(%(vendors)s::text[], %(symbols)s::text[], %(times)s::bigint[]) AS g (vendor, symbol, ts_event)
LEFT JOIN mds.last_priced k ON k.symbol = g.symbol AND k.vendor = g.vendor AND k.table_name = %(table)s
WHERE k.ts_event IS NULL OR k.ts_event < g.ts_event
ORDER BY g.symbol COLLATE "C", g.vendor COLLATE "C"
ON CONFLICT (tenant_id, symbol, vendor, table_name) DO UPDATE SET ts_event = excluded.ts_event
WHERE l.ts_event < excluded.ts_event

-- name: last_priced
SELECT table_name, vendor, symbol, ts_event FROM mds.last_priced
WHERE (%(symbols)s::text[] IS NULL OR symbol = ANY(%(symbols)s::text[]))
    AND (%(vendor)s::text IS NULL OR vendor = %(vendor)s)

-- name: price_at
SELECT wanted.vendor, wanted.symbol, found.price, found.ts_event
FROM unnest(%(vendors)s::text[], %(symbols)s::text[], %(times)s::bigint[]) AS wanted (vendor, symbol, ts_event)
CROSS JOIN LATERAL (
    SELECT {price} AS price, ts_event FROM mds.{relation} t
    WHERE ts_event = wanted.ts_event AND ts_event BETWEEN %(first_ns)s AND %(last_ns)s
        AND {same} AND ({price}) IS NOT NULL
    ORDER BY seq DESC LIMIT 1
) found

-- name: price_before
SELECT wanted.vendor, wanted.symbol, found.price, found.ts_event
FROM unnest(%(vendors)s::text[], %(symbols)s::text[], %(times)s::bigint[]) AS wanted (vendor, symbol, ts_event)
CROSS JOIN LATERAL (
    SELECT {price} AS price, ts_event FROM mds.{relation} t
    WHERE ts_event < wanted.ts_event AND {same} AND ({price}) IS NOT NULL
    ORDER BY ts_event DESC, seq DESC LIMIT 1
) found

-- name: latest_prices
SELECT vendor, symbol, price, price_timestamp FROM mds.latest_prices
WHERE (%(symbols)s::text[] IS NULL OR symbol = ANY(%(symbols)s::text[]))
    AND (%(vendor)s::text IS NULL OR vendor = %(vendor)s)

-- name: gap_put
INSERT INTO mds.gaps (tenant_id, vendor, symbol, kind, from_ns, to_ns, cause, state, detail)
VALUES (
    mds.current_tenant(), %(vendor)s, %(symbol)s, %(kind)s, %(from_ns)s, %(to_ns)s, %(cause)s, %(state)s, %(detail)s
)
ON CONFLICT (tenant_id, vendor, symbol, kind, from_ns, cause)
DO UPDATE SET to_ns = excluded.to_ns, state = excluded.state, detail = excluded.detail

-- name: job_add
INSERT INTO mds.jobs (tenant_id, job_type, payload, priority, idempotency_key, created_ns)
VALUES (mds.current_tenant(), %(job_type)s, %(payload)s, %(priority)s, %(idempotency_key)s, %(now_ns)s)
ON CONFLICT (tenant_id, idempotency_key) DO NOTHING

-- name: job_by_key
SELECT id, job_type, payload, priority, idempotency_key, state, attempts, owner, created_ns, lease_ns, error,
    job_type = %(job_type)s AND payload = %(payload)s AS same
FROM mds.jobs WHERE idempotency_key = %(idempotency_key)s

-- name: job_claim
UPDATE mds.jobs SET state = 'running', owner = %(owner)s, lease_ns = %(lease_ns)s, attempts = attempts + 1
WHERE id = (
    SELECT id FROM mds.jobs
    WHERE (state = 'queued' OR (state = 'running' AND lease_ns <= %(now_ns)s))
        AND (%(job_types)s::text[] IS NULL OR job_type = ANY(%(job_types)s::text[]))
    ORDER BY priority DESC, id LIMIT 1
    FOR UPDATE SKIP LOCKED
)
RETURNING id, job_type, payload, priority, idempotency_key, state, attempts, owner, created_ns, lease_ns, error

-- name: job_finish
UPDATE mds.jobs SET state = %(state)s, error = %(error)s, lease_ns = NULL
WHERE id = %(id)s AND owner = %(owner)s AND state = 'running'
RETURNING id, job_type, payload, priority, idempotency_key, state, attempts, owner, created_ns, lease_ns, error

-- name: job_list
SELECT id, job_type, payload, priority, idempotency_key, state, attempts, owner, created_ns, lease_ns, error
FROM mds.jobs WHERE %(state)s::text IS NULL OR state = %(state)s ORDER BY id DESC LIMIT %(limit)s
