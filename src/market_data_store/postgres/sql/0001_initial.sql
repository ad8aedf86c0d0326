-- Market data of many tenants. Times are bigint nanoseconds since the epoch, UTC. Needs PostgreSQL 15.

CREATE SCHEMA mds;

-- Roles belong to the whole server; another database of it may have made this one.
DO $$
BEGIN
    CREATE ROLE mds_app NOLOGIN;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN NULL;
END
$$;

GRANT mds_app TO CURRENT_USER;

CREATE TABLE mds.quotes (
    tenant_id text COLLATE "C" NOT NULL,
    vendor text COLLATE "C",
    symbol text COLLATE "C",
    ts_event bigint NOT NULL,
    ts_recv bigint NOT NULL,
    seq bigint NOT NULL,
    flags integer,
    origin text COLLATE "C",
    bid_price double precision,
    bid_size double precision,
    ask_price double precision,
    ask_size double precision
) PARTITION BY RANGE (ts_event);
CREATE INDEX quotes_time ON mds.quotes (ts_event, tenant_id, symbol);

CREATE TABLE mds.trades (
    tenant_id text COLLATE "C" NOT NULL,
    vendor text COLLATE "C",
    symbol text COLLATE "C",
    ts_event bigint NOT NULL,
    ts_recv bigint NOT NULL,
    seq bigint NOT NULL,
    flags integer,
    origin text COLLATE "C",
    price double precision,
    size double precision,
    exchange text,
    conditions text,
    trade_id text,
    aggressor_side text
) PARTITION BY RANGE (ts_event);
CREATE INDEX trades_time ON mds.trades (ts_event, tenant_id, symbol);

CREATE TABLE mds.bars (
    tenant_id text COLLATE "C" NOT NULL,
    vendor text COLLATE "C",
    symbol text COLLATE "C",
    ts_event bigint NOT NULL,
    ts_recv bigint NOT NULL,
    seq bigint NOT NULL,
    flags integer,
    origin text COLLATE "C",
    "interval" text COLLATE "C",
    what text COLLATE "C",
    session text COLLATE "C",
    source text COLLATE "C",
    open double precision,
    high double precision,
    low double precision,
    close double precision,
    volume double precision,
    vwap double precision,
    trade_count bigint,
    revision integer,
    ts_known bigint,
    reason text,
    CONSTRAINT bars_key UNIQUE NULLS NOT DISTINCT (ts_event, tenant_id, symbol, "interval", vendor, what, session, source)
) PARTITION BY RANGE (ts_event);

-- Versions of bars that a newer one has taken the place of.
CREATE TABLE mds.bars_superseded (
    tenant_id text COLLATE "C" NOT NULL,
    vendor text COLLATE "C",
    symbol text COLLATE "C",
    ts_event bigint NOT NULL,
    ts_recv bigint NOT NULL,
    seq bigint NOT NULL,
    flags integer,
    origin text COLLATE "C",
    "interval" text COLLATE "C",
    what text COLLATE "C",
    session text COLLATE "C",
    source text COLLATE "C",
    open double precision,
    high double precision,
    low double precision,
    close double precision,
    volume double precision,
    vwap double precision,
    trade_count bigint,
    revision integer,
    ts_known bigint,
    reason text
);
CREATE INDEX bars_superseded_time ON mds.bars_superseded (ts_event, tenant_id, symbol);

CREATE TABLE mds.depth (
    tenant_id text COLLATE "C" NOT NULL,
    vendor text COLLATE "C",
    symbol text COLLATE "C",
    ts_event bigint NOT NULL,
    ts_recv bigint NOT NULL,
    seq bigint NOT NULL,
    flags integer,
    origin text COLLATE "C",
    action text,
    side text,
    level integer,
    price double precision,
    size double precision,
    order_id text,
    sequence bigint
) PARTITION BY RANGE (ts_event);
CREATE INDEX depth_time ON mds.depth (ts_event, tenant_id, symbol);

CREATE TABLE mds.options (
    tenant_id text COLLATE "C" NOT NULL,
    vendor text COLLATE "C",
    symbol text COLLATE "C",
    ts_event bigint NOT NULL,
    ts_recv bigint NOT NULL,
    seq bigint NOT NULL,
    flags integer,
    origin text COLLATE "C",
    underlying text,
    expiry text,
    strike double precision,
    "right" text,
    bid_price double precision,
    ask_price double precision,
    last_price double precision,
    volume double precision,
    open_interest double precision,
    underlying_price double precision,
    implied_vol double precision,
    delta double precision,
    gamma double precision,
    vega double precision,
    theta double precision,
    rho double precision
) PARTITION BY RANGE (ts_event);
CREATE INDEX options_time ON mds.options (ts_event, tenant_id, symbol);

CREATE TABLE mds.definitions (
    tenant_id text COLLATE "C" NOT NULL,
    vendor text COLLATE "C",
    symbol text COLLATE "C",
    ts_event bigint NOT NULL,
    ts_recv bigint NOT NULL,
    seq bigint NOT NULL,
    flags integer,
    origin text COLLATE "C",
    valid_from bigint,
    valid_to bigint,
    tick_size double precision,
    size_step double precision,
    multiplier double precision,
    currency text,
    calendar text,
    expiry text
) PARTITION BY RANGE (ts_event);
CREATE INDEX definitions_time ON mds.definitions (ts_event, tenant_id, symbol);

CREATE TABLE mds.status (
    tenant_id text COLLATE "C" NOT NULL,
    vendor text COLLATE "C",
    symbol text COLLATE "C",
    ts_event bigint NOT NULL,
    ts_recv bigint NOT NULL,
    seq bigint NOT NULL,
    flags integer,
    origin text COLLATE "C",
    status text,
    reason text
) PARTITION BY RANGE (ts_event);
CREATE INDEX status_time ON mds.status (ts_event, tenant_id, symbol);

CREATE TABLE mds.taq (
    tenant_id text COLLATE "C" NOT NULL,
    vendor text COLLATE "C",
    symbol text COLLATE "C",
    ts_event bigint NOT NULL,
    ts_recv bigint NOT NULL,
    seq bigint NOT NULL,
    flags integer,
    origin text COLLATE "C",
    price double precision,
    size double precision,
    exchange text,
    conditions text,
    trade_id text,
    aggressor_side text,
    bid_price double precision,
    bid_size double precision,
    ask_price double precision,
    ask_size double precision,
    quote_ts_event bigint
) PARTITION BY RANGE (ts_event);
CREATE INDEX taq_time ON mds.taq (ts_event, tenant_id, symbol);

CREATE TABLE mds.analytics (
    tenant_id text COLLATE "C" NOT NULL,
    vendor text COLLATE "C",
    symbol text COLLATE "C",
    ts_event bigint NOT NULL,
    ts_recv bigint NOT NULL,
    seq bigint NOT NULL,
    flags integer,
    origin text COLLATE "C",
    name text,
    value double precision
) PARTITION BY RANGE (ts_event);
CREATE INDEX analytics_time ON mds.analytics (ts_event, tenant_id, symbol);

CREATE TABLE mds.quarantine (
    tenant_id text COLLATE "C" NOT NULL,
    vendor text COLLATE "C",
    symbol text COLLATE "C",
    ts_event bigint NOT NULL,
    ts_recv bigint NOT NULL,
    seq bigint NOT NULL,
    flags integer,
    origin text COLLATE "C",
    kind text,
    source_id text,
    line bigint,
    reason text,
    raw text
) PARTITION BY RANGE (ts_recv);
CREATE INDEX quarantine_time ON mds.quarantine (ts_recv, tenant_id, symbol);

-- Up to where each writer has got; it moves with its rows, in their transaction.
CREATE TABLE mds.checkpoints (
    tenant_id text COLLATE "C" NOT NULL,
    writer text COLLATE "C" NOT NULL,
    table_name text COLLATE "C" NOT NULL,
    position bigint NOT NULL,
    covers jsonb NOT NULL,
    row_count bigint NOT NULL,
    commits bigint NOT NULL,
    PRIMARY KEY (tenant_id, table_name, writer)
);

-- The tenant of this connection; null, which equals nothing, where none is set.
CREATE FUNCTION mds.current_tenant() RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN nullif(current_setting('app.tenant_id', true), '');

CREATE FUNCTION mds.keep_superseded_bar() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    INSERT INTO mds.bars_superseded SELECT OLD.*;
    RETURN NULL;
END
$$;

CREATE TRIGGER keep_superseded AFTER UPDATE ON mds.bars
    FOR EACH ROW EXECUTE FUNCTION mds.keep_superseded_bar();

-- Make the partition that a time falls into. Runs as the owner, because only an owner may attach; what it makes is
-- decided here, not by the caller. Attaching, unlike CREATE ... PARTITION OF, lets others go on reading and writing.
CREATE FUNCTION mds.ensure_partition(parent text, ts_ns bigint) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET "TimeZone" = 'UTC'
    AS $$
DECLARE
    unit CONSTANT text := CASE WHEN parent IN ('bars', 'definitions', 'status') THEN 'month' ELSE 'day' END;
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
    EXECUTE format('CREATE TABLE mds.%I (LIKE mds.%I)', child, parent);
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
    RETURN true;
END
$$;

REVOKE ALL ON FUNCTION mds.ensure_partition(text, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION mds.ensure_partition(text, bigint) TO mds_app;
GRANT USAGE ON SCHEMA mds TO mds_app;

-- For the staging tables; some servers take it from PUBLIC.
DO $$
BEGIN
    EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO mds_app', current_database());
END
$$;

-- A row belongs to its tenant: for reading, for writing, and for the owner of the tables too.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY[
        'quotes', 'trades', 'bars', 'bars_superseded', 'depth', 'options', 'definitions', 'status', 'taq', 'analytics',
        'quarantine', 'checkpoints'
    ] LOOP
        EXECUTE format('ALTER TABLE mds.%I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE mds.%I FORCE ROW LEVEL SECURITY', name);
        -- As a subquery the tenant is asked for once a statement, not once a row.
        EXECUTE format(
            'CREATE POLICY tenant ON mds.%I USING (tenant_id = (SELECT mds.current_tenant()))'
            ' WITH CHECK (tenant_id = (SELECT mds.current_tenant()))', name
        );
        EXECUTE format('GRANT SELECT, INSERT ON mds.%I TO mds_app', name);
    END LOOP;
END
$$;

GRANT UPDATE ON mds.bars, mds.checkpoints TO mds_app;
