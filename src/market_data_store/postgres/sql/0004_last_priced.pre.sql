-- Room for corrections of bars, and where the last price of each instrument is. Code of schema 3 goes on working beside
-- it.

-- Make the partition that a time falls into, and that of former versions with it. Runs as the owner, because only an
-- owner may attach; what it makes is decided here, not by the caller. Attaching, unlike CREATE ... PARTITION OF, lets
-- others go on reading and writing.
CREATE OR REPLACE FUNCTION mds.ensure_partition(parent text, ts_ns bigint) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET "TimeZone" = 'UTC'
    AS $$
DECLARE
    unit CONSTANT text := mds.partition_unit(parent);
    form CONSTANT text := CASE unit WHEN 'month' THEN 'YYYYMM' ELSE 'YYYYMMDD' END;
    first timestamp;
    child text;
    low numeric;
    high numeric;
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = 'mds' AND c.relname = parent AND c.relkind = 'p'
    ) THEN
        RAISE undefined_table USING MESSAGE = format('no partitioned table mds.%s', parent);
    END IF;
    first := date_trunc(unit, timestamp '1970-01-01' + floor(ts_ns::numeric / 1000000000)::bigint * interval '1 second');
    child := parent || '_' || to_char(first, form);
    IF to_regclass(format('mds.%I', child)) IS NOT NULL THEN
        RETURN false;
    END IF;
    -- Who waited here has to look again, by a query: names as to_regclass has them may be remembered from before.
    EXECUTE format('LOCK TABLE mds.%I IN SHARE UPDATE EXCLUSIVE MODE', parent);
    IF EXISTS (
        SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = 'mds' AND c.relname = child
    ) THEN
        RETURN false;
    END IF;
    low := extract(epoch FROM first) * 1000000000;
    high := extract(epoch FROM first + ('1 ' || unit)::interval) * 1000000000;
    -- A version that takes the place of another finds room beside it, and the key's index stays as it is. Bars are
    -- corrected many at a time, so each page has room for one version more of every bar in it.
    EXECUTE format(
        'CREATE TABLE mds.%I (LIKE mds.%I) %s', child, parent,
        CASE parent
            WHEN 'bars' THEN 'WITH (fillfactor = 50)'
            WHEN 'option_snapshots' THEN 'WITH (fillfactor = 85)'
            ELSE ''
        END
    );
    -- Nobody has rights on a partition itself; should somebody be given some, its own policies, of which there are
    -- none, still let nothing through.
    EXECUTE format('ALTER TABLE mds.%I ENABLE ROW LEVEL SECURITY', child);
    EXECUTE format('ALTER TABLE mds.%I FORCE ROW LEVEL SECURITY', child);
    -- The first and the last partition reach beyond what nanoseconds in 64 bits can say.
    EXECUTE format(
        'ALTER TABLE mds.%I ATTACH PARTITION mds.%I FOR VALUES FROM (%s) TO (%s)', parent, child,
        CASE WHEN low < -9223372036854775808 THEN 'MINVALUE' ELSE trunc(low)::text END,
        CASE WHEN high > 9223372036854775807 THEN 'MAXVALUE' ELSE trunc(high)::text END
    );
    -- In the same transaction, so that where there is a partition there is one for what leaves it.
    IF parent IN ('bars', 'option_snapshots') THEN
        PERFORM mds.ensure_partition(parent || '_superseded', ts_ns);
    END IF;
    RETURN true;
END
$$;

-- What is there gets the room from the next page on.
DO $$
DECLARE
    child text;
BEGIN
    FOR child IN SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'mds.bars'::regclass LOOP
        EXECUTE format('ALTER TABLE %s SET (fillfactor = 50)', child);
    END LOOP;
END
$$;

-- When each instrument last had a price, by the table that has it; what lies there is where to look, not the price. It
-- moves with the rows, in their transaction, and never back.
CREATE TABLE mds.last_priced (
    tenant_id text COLLATE "C" NOT NULL,
    table_name text COLLATE "C" NOT NULL,
    vendor text COLLATE "C",
    symbol text COLLATE "C",
    ts_event bigint NOT NULL,
    CONSTRAINT last_priced_key UNIQUE NULLS NOT DISTINCT (tenant_id, symbol, vendor, table_name)
) WITH (fillfactor = 50);

-- As a subquery the tenant is asked for once a statement, not once a row.
ALTER TABLE mds.last_priced ENABLE ROW LEVEL SECURITY;
ALTER TABLE mds.last_priced FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON mds.last_priced USING (tenant_id = (SELECT mds.current_tenant()))
    WITH CHECK (tenant_id = (SELECT mds.current_tenant()));
GRANT SELECT, INSERT ON mds.last_priced TO mds_app;
GRANT UPDATE (ts_event) ON mds.last_priced TO mds_app;
