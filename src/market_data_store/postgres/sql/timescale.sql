-- The archive, made by `migrate` in a database that has TimescaleDB: whole closed days of the tables that have a view
-- mds.*_archived lie here as compressed hypertables. The extension compresses no table with row level security, so only
-- the owner may use this schema, and others read through views of the owner's that show a tenant its own rows.
-- Safe to run again.

DO $$
BEGIN
    EXECUTE format('SET LOCAL ROLE %I', (SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'mds'));
    PERFORM set_config('search_path', quote_ident(n.nspname) || ', pg_temp', true)
    FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'timescaledb';
END
$$;

CREATE SCHEMA IF NOT EXISTS mds_archive;
REVOKE ALL ON SCHEMA mds_archive FROM PUBLIC;

-- Days whose rows changed since they were last aggregated. They are marked with the rows, in their transaction, because
-- an aggregate does not see what comes to a day that it has passed.
CREATE TABLE IF NOT EXISTS mds_archive.stale_days (
    table_name text COLLATE "C" NOT NULL,
    day bigint NOT NULL,
    PRIMARY KEY (table_name, day)
);

CREATE OR REPLACE FUNCTION mds_archive.now_ns() RETURNS bigint
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN (extract(epoch FROM now()) * 1000000000)::bigint;

-- The start of the day that a partition covers, in nanoseconds.
CREATE OR REPLACE FUNCTION mds_archive.day_of(child text) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (to_date(substring(child FROM '[0-9]+$'), 'YYYYMMDD') - date '1970-01-01') * 86400000000000;

-- Take a day's partition out of its table. Its rows stay where they are on disk and are read as archived ones from here
-- on, by who has an older snapshot too. Waits for who uses the table, but then takes no time.
CREATE OR REPLACE FUNCTION mds_archive.take(parent text, child text) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    EXECUTE format('LOCK TABLE ONLY mds.%I IN ACCESS EXCLUSIVE MODE', parent);
    EXECUTE format('ALTER TABLE mds.%I DETACH PARTITION mds.%I', parent, child);
    EXECUTE format('ALTER TABLE mds.%I SET SCHEMA mds_archive', child);
    EXECUTE format('ALTER TABLE mds_archive.%I INHERIT mds_archive.%I', child, parent || '_incoming');
    INSERT INTO mds_archive.stale_days VALUES (parent, mds_archive.day_of(child)) ON CONFLICT DO NOTHING;
END
$$;

-- Move the rows of a partition that was taken into the hypertable, compress their day, and drop it.
CREATE OR REPLACE FUNCTION mds_archive.settle(
    parent text, child text, OUT moved bigint, OUT bytes_before bigint, OUT bytes_after bigint
)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    AS $$
DECLARE
    taken CONSTANT regclass := format('mds_archive.%I', child)::regclass;
    hypertable CONSTANT regclass := format('mds_archive.%I', parent)::regclass;
    lock_readers_out CONSTANT text := format('LOCK TABLE ONLY mds.%I IN ACCESS EXCLUSIVE MODE', parent);
    there bigint;
    was_there boolean;
    chunk record;
BEGIN
    was_there := EXISTS (
        SELECT FROM timescaledb_information.chunks c
        WHERE c.hypertable_schema = 'mds_archive' AND c.hypertable_name = parent
            AND c.range_start_integer = mds_archive.day_of(child)
    );
    bytes_before := pg_total_relation_size(taken);
    -- Read through what it inherits from: its own forced policies, of which there are none, let nothing through.
    EXECUTE format('SELECT count(*) FROM mds_archive.%I WHERE tableoid = $1', parent || '_incoming')
        INTO there USING taken;
    EXECUTE format(
        'INSERT INTO mds_archive.%I SELECT * FROM mds_archive.%I WHERE tableoid = $1', parent, parent || '_incoming'
    ) USING taken;
    GET DIAGNOSTICS moved = ROW_COUNT;
    IF moved <> there THEN
        RAISE EXCEPTION 'moved % of % rows of %', moved, there, taken;
    END IF;
    -- A snapshot from before our commit does not show the rows where they are now, so nobody may go on with one.
    -- Readers lock the table before they take theirs: whom we do not have to wait for takes it after our commit. Nobody
    -- sees a new chunk until then, so they may read on while it is compressed.
    IF was_there THEN
        EXECUTE lock_readers_out;
    END IF;
    SELECT c.chunk_schema, c.chunk_name INTO chunk FROM timescaledb_information.chunks c
    WHERE c.hypertable_schema = 'mds_archive' AND c.hypertable_name = parent
        AND c.range_start_integer = mds_archive.day_of(child);
    bytes_after := 0;
    IF FOUND THEN
        CALL convert_to_columnstore(format('%I.%I', chunk.chunk_schema, chunk.chunk_name)::regclass);
        SELECT s.total_bytes INTO bytes_after FROM chunks_detailed_size(hypertable) s
        WHERE s.chunk_schema = chunk.chunk_schema AND s.chunk_name = chunk.chunk_name;
    END IF;
    EXECUTE lock_readers_out;
    EXECUTE format('DROP TABLE %s', taken);
END
$$;

-- Drop the archived days of a table that lie before a time as a whole, and return their names.
CREATE OR REPLACE FUNCTION mds_archive.drop_days(parent text, before_ns bigint) RETURNS SETOF text
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    AS $$
DECLARE
    aggregate record;
    child text;
BEGIN
    FOR child IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = format('mds_archive.%I', parent || '_incoming')::regclass
            AND mds_archive.day_of(c.relname)::numeric + 86400000000000 <= before_ns
        ORDER BY c.relname
    LOOP
        EXECUTE format('DROP TABLE mds_archive.%I', child);
        RETURN NEXT 'mds_archive.' || child;
    END LOOP;
    RETURN QUERY
        SELECT 'mds_archive.' || parent || '_'
            || to_char(date '1970-01-01' + (c.range_start_integer / 86400000000000)::int, 'YYYYMMDD')
        FROM timescaledb_information.chunks c
        WHERE c.hypertable_schema = 'mds_archive' AND c.hypertable_name = parent AND c.range_end_integer <= before_ns
        ORDER BY c.range_start_integer;
    PERFORM drop_chunks(format('mds_archive.%I', parent)::regclass, older_than => before_ns);
    SELECT a.materialization_hypertable_schema AS schema, a.materialization_hypertable_name AS name INTO aggregate
    FROM timescaledb_information.continuous_aggregates a
    WHERE a.view_schema = 'mds_archive' AND a.view_name = parent || '_days';
    EXECUTE format('DELETE FROM %I.%I WHERE day::numeric + 86400000000000 <= $1', aggregate.schema, aggregate.name)
        USING before_ns;
    DELETE FROM mds_archive.stale_days s WHERE s.table_name = parent AND s.day::numeric + 86400000000000 <= before_ns;
END
$$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA mds_archive FROM PUBLIC;

DO $$
DECLARE
    name text;
    legs text[] := '{}';
BEGIN
    FOR name IN
        SELECT left(relname, -length('_archived')) FROM pg_class
        WHERE relnamespace = 'mds'::regnamespace AND relkind = 'v' AND relname LIKE '%\_archived'
        ORDER BY oid
    LOOP
        IF to_regclass(format('mds_archive.%I', name)) IS NULL THEN
            EXECUTE format('CREATE TABLE mds_archive.%I (LIKE mds.%I)', name, name);
            -- What was taken out of its table and is not moved yet; each day a table that inherits from this one.
            EXECUTE format('CREATE TABLE mds_archive.%I (LIKE mds.%I)', name || '_incoming', name);
            PERFORM create_hypertable(
                format('mds_archive.%I', name)::regclass, by_range('ts_event', 86400000000000),
                create_default_indexes => false
            );
            PERFORM set_integer_now_func(format('mds_archive.%I', name)::regclass, 'mds_archive.now_ns'::regproc);
            EXECUTE format(
                'ALTER TABLE mds_archive.%I SET (timescaledb.enable_columnstore,'
                ' timescaledb.segmentby = ''tenant_id, vendor, symbol'', timescaledb.orderby = ''ts_event, seq'')', name
            );
            EXECUTE format(
                'CREATE MATERIALIZED VIEW mds_archive.%I'
                ' WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS'
                ' SELECT tenant_id, vendor, symbol, time_bucket(86400000000000, ts_event) AS day, count(*) AS rows,'
                '     min(ts_event) AS first_ts, max(ts_event) AS last_ts'
                ' FROM mds_archive.%I GROUP BY 1, 2, 3, 4 WITH NO DATA', name || '_days', name
            );
        END IF;
        -- The tenant is compared outside the UNION: the planner dissolves a view that is a UNION itself, and its barrier
        -- with it, and would then let functions of the caller's see rows before that.
        EXECUTE format(
            'CREATE OR REPLACE VIEW mds.%I WITH (security_barrier = true) AS'
            ' SELECT * FROM (SELECT * FROM mds_archive.%I UNION ALL SELECT * FROM mds_archive.%I) archived'
            ' WHERE tenant_id = (SELECT mds.current_tenant())',
            name || '_archived', name || '_incoming', name
        );
        EXECUTE format(
            'CREATE OR REPLACE VIEW mds.%I WITH (security_invoker = true) AS'
            ' SELECT * FROM mds.%I UNION ALL SELECT * FROM mds.%I', name || '_all', name, name || '_archived'
        );
        legs := legs || format(
            'SELECT tenant_id, %L::text COLLATE "C" AS table_name, vendor, symbol, day, rows, first_ts, last_ts'
            ' FROM mds_archive.%I d'
            ' WHERE NOT EXISTS (SELECT FROM mds_archive.stale_days s WHERE s.table_name = %L AND s.day = d.day)'
            ' UNION ALL'
            ' SELECT r.tenant_id, %L, r.vendor, r.symbol, s.day, r.rows, r.first_ts, r.last_ts'
            ' FROM mds_archive.stale_days s CROSS JOIN LATERAL ('
            '     SELECT tenant_id, vendor, symbol, count(*) AS rows,'
            '         min(ts_event) AS first_ts, max(ts_event) AS last_ts'
            '     FROM mds.%I WHERE ts_event >= s.day AND ts_event < s.day + 86400000000000 GROUP BY 1, 2, 3'
            ' ) r WHERE s.table_name = %L',
            name, name || '_days', name, name, name || '_archived', name
        );
    END LOOP;
    EXECUTE 'CREATE OR REPLACE VIEW mds.archived_days WITH (security_barrier = true) AS SELECT * FROM ('
        || array_to_string(legs, ' UNION ALL ') || ') days WHERE tenant_id = (SELECT mds.current_tenant())';
END
$$;
