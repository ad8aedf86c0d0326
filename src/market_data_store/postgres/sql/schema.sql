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

-- For who looks after the database of all tenants: names tenants, drops what is too old.
DO $$
BEGIN
    CREATE ROLE mds_maintainer NOLOGIN;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN NULL;
END
$$;

GRANT mds_maintainer TO CURRENT_USER;

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
CREATE TABLE mds.bars_superseded (LIKE mds.bars) PARTITION BY RANGE (ts_event);
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

-- Statements about instruments that may be corrected: the current version, keyed, and those that it took the place of.
CREATE TABLE mds.fundamentals (
    tenant_id text COLLATE "C" NOT NULL,
    vendor text COLLATE "C",
    symbol text COLLATE "C",
    ts_event bigint NOT NULL,
    ts_recv bigint NOT NULL,
    seq bigint NOT NULL,
    flags integer,
    origin text COLLATE "C",
    total_assets double precision,
    total_liabilities double precision,
    net_income double precision,
    eps double precision,
    revision integer,
    ts_known bigint,
    reason text,
    CONSTRAINT fundamentals_key UNIQUE NULLS NOT DISTINCT (ts_event, tenant_id, symbol, vendor)
);
CREATE TABLE mds.fundamentals_superseded (LIKE mds.fundamentals);
CREATE INDEX fundamentals_superseded_time ON mds.fundamentals_superseded (ts_event, tenant_id, symbol);

CREATE TABLE mds.news (
    tenant_id text COLLATE "C" NOT NULL,
    vendor text COLLATE "C",
    symbol text COLLATE "C",
    ts_event bigint NOT NULL,
    ts_recv bigint NOT NULL,
    seq bigint NOT NULL,
    flags integer,
    origin text COLLATE "C",
    id text COLLATE "C",
    title text,
    url text,
    sentiment_score double precision,
    revision integer,
    ts_known bigint,
    reason text,
    CONSTRAINT news_key UNIQUE NULLS NOT DISTINCT (tenant_id, vendor, id)
);
CREATE INDEX news_time ON mds.news (ts_event, tenant_id, symbol);
CREATE TABLE mds.news_superseded (LIKE mds.news);
CREATE INDEX news_superseded_key ON mds.news_superseded (tenant_id, vendor, id);

CREATE TABLE mds.option_snapshots (
    tenant_id text COLLATE "C" NOT NULL,
    vendor text COLLATE "C",
    symbol text COLLATE "C",
    ts_event bigint NOT NULL,
    ts_recv bigint NOT NULL,
    seq bigint NOT NULL,
    flags integer,
    origin text COLLATE "C",
    expiry text COLLATE "C",
    strike double precision,
    "right" text COLLATE "C",
    implied_vol double precision,
    delta double precision,
    gamma double precision,
    vega double precision,
    theta double precision,
    open_interest double precision,
    volume double precision,
    underlying_price double precision,
    revision integer,
    ts_known bigint,
    reason text,
    CONSTRAINT option_snapshots_key UNIQUE NULLS NOT DISTINCT (ts_event, tenant_id, symbol, expiry, strike, "right", vendor)
) PARTITION BY RANGE (ts_event);
CREATE TABLE mds.option_snapshots_superseded (LIKE mds.option_snapshots) PARTITION BY RANGE (ts_event);
CREATE INDEX option_snapshots_superseded_time ON mds.option_snapshots_superseded (ts_event, tenant_id, symbol);

CREATE TABLE mds.corporate_actions (
    tenant_id text COLLATE "C" NOT NULL,
    vendor text COLLATE "C",
    symbol text COLLATE "C",
    ts_event bigint NOT NULL,
    ts_recv bigint NOT NULL,
    seq bigint NOT NULL,
    flags integer,
    origin text COLLATE "C",
    action text COLLATE "C",
    split_factor double precision,
    price_factor double precision,
    reference_price double precision,
    revision integer,
    ts_known bigint,
    reason text,
    CONSTRAINT corporate_actions_key UNIQUE NULLS NOT DISTINCT (ts_event, tenant_id, symbol, action, vendor)
);
CREATE TABLE mds.corporate_actions_superseded (LIKE mds.corporate_actions);
CREATE INDEX corporate_actions_superseded_time ON mds.corporate_actions_superseded (ts_event, tenant_id, symbol);

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

-- What is known not to be there; a range of time, `to_ns` exclusive and null while it goes on.
CREATE TABLE mds.gaps (
    tenant_id text COLLATE "C" NOT NULL,
    id bigint GENERATED ALWAYS AS IDENTITY,
    vendor text COLLATE "C" NOT NULL,
    symbol text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    from_ns bigint NOT NULL,
    to_ns bigint CHECK (to_ns >= from_ns),
    cause text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'filling', 'filled', 'unfillable')),
    detail text NOT NULL DEFAULT '',
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, vendor, symbol, kind, from_ns, cause)
);
CREATE INDEX gaps_time ON mds.gaps (tenant_id, from_ns, id);

-- Work that was asked for. Who claims a job has it until `lease_ns`.
CREATE TABLE mds.jobs (
    tenant_id text COLLATE "C" NOT NULL,
    id bigint GENERATED ALWAYS AS IDENTITY,
    job_type text COLLATE "C" NOT NULL,
    payload jsonb NOT NULL,
    priority integer NOT NULL,
    idempotency_key text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'running', 'done', 'failed')),
    attempts integer NOT NULL DEFAULT 0,
    owner text,
    created_ns bigint NOT NULL,
    lease_ns bigint,
    error text,
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, idempotency_key),
    CHECK ((state = 'running') = (lease_ns IS NOT NULL))
);
CREATE INDEX jobs_unfinished ON mds.jobs (tenant_id, priority DESC, id) WHERE state IN ('queued', 'running');

-- Tenants that were given a name. Rows bear the name; one that is not here bears its own.
CREATE TABLE mds.tenants (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text COLLATE "C" NOT NULL UNIQUE CHECK (name ~ '^[A-Za-z0-9_-]{1,64}$'),
    created timestamptz NOT NULL DEFAULT now(),
    -- A name that looked like an id could be another tenant's.
    CHECK (name !~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$')
);

-- The tenant of this connection; null, which equals nothing, where none is set.
CREATE FUNCTION mds.current_tenant() RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN nullif(current_setting('app.tenant_id', true), '');

-- Once a statement, not once a row: rows then go over together.
CREATE FUNCTION mds.keep_superseded() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    EXECUTE format('INSERT INTO mds.%I SELECT * FROM replaced', TG_TABLE_NAME || '_superseded');
    RETURN NULL;
END
$$;

CREATE TRIGGER keep_superseded AFTER UPDATE ON mds.bars REFERENCING OLD TABLE AS replaced
    FOR EACH STATEMENT EXECUTE FUNCTION mds.keep_superseded();
CREATE TRIGGER keep_superseded AFTER UPDATE ON mds.fundamentals REFERENCING OLD TABLE AS replaced
    FOR EACH STATEMENT EXECUTE FUNCTION mds.keep_superseded();
CREATE TRIGGER keep_superseded AFTER UPDATE ON mds.news REFERENCING OLD TABLE AS replaced
    FOR EACH STATEMENT EXECUTE FUNCTION mds.keep_superseded();
CREATE TRIGGER keep_superseded AFTER UPDATE ON mds.option_snapshots REFERENCING OLD TABLE AS replaced
    FOR EACH STATEMENT EXECUTE FUNCTION mds.keep_superseded();
CREATE TRIGGER keep_superseded AFTER UPDATE ON mds.corporate_actions REFERENCING OLD TABLE AS replaced
    FOR EACH STATEMENT EXECUTE FUNCTION mds.keep_superseded();

-- How much time a partition covers.
CREATE FUNCTION mds.partition_unit(parent text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE
        WHEN parent IN (
            'bars', 'bars_superseded', 'option_snapshots', 'option_snapshots_superseded', 'definitions', 'status'
        ) THEN 'month'
        ELSE 'day'
    END;

-- Make the partition that a time falls into, and that of former versions with it. Runs as the owner, because only an
-- owner may attach; what it makes is decided here, not by the caller. Attaching, unlike CREATE ... PARTITION OF, lets
-- others go on reading and writing.
CREATE FUNCTION mds.ensure_partition(parent text, ts_ns bigint) RETURNS boolean
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

-- Drop the partitions of a table, of all tenants, that lie before a time as a whole, and former versions and archived
-- days with them. Who still reads them is waited for, but not so long that others have to queue behind us.
CREATE FUNCTION mds.drop_partitions(parent text, before_ns bigint) RETURNS SETOF text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET "TimeZone" = 'UTC'
    SET lock_timeout = '5s'
    AS $$
DECLARE
    unit CONSTANT text := mds.partition_unit(parent);
    form CONSTANT text := CASE unit WHEN 'month' THEN 'YYYYMM' ELSE 'YYYYMMDD' END;
    child text;
    archived CONSTANT boolean := EXISTS (
        SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = 'mds_archive' AND c.relname = parent
    );
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = 'mds' AND c.relname = parent AND c.relkind = 'p'
    ) THEN
        RAISE undefined_table USING MESSAGE = format('no partitioned table mds.%s', parent);
    END IF;
    IF archived THEN
        -- Before the table is locked: who archives has this first, too.
        PERFORM pg_advisory_xact_lock(hashtextextended('mds.archive', 0));
    END IF;
    FOR child IN
        SELECT c.relname
        FROM pg_inherits i
        JOIN pg_class p ON p.oid = i.inhparent AND p.relname IN (parent, parent || '_superseded')
        JOIN pg_namespace n ON n.oid = p.relnamespace AND n.nspname = 'mds'
        JOIN pg_class c ON c.oid = i.inhrelid AND c.relname ~ ('^' || p.relname || '_[0-9]+$')
        ORDER BY c.relname
    LOOP
        IF extract(epoch FROM to_date(substring(child FROM '[0-9]+$'), form) + ('1 ' || unit)::interval) * 1000000000
            <= before_ns
        THEN
            EXECUTE format('DROP TABLE mds.%I', child);
            RETURN NEXT child;
        END IF;
    END LOOP;
    IF archived THEN
        RETURN QUERY EXECUTE 'SELECT mds_archive.drop_days($1, $2)' USING parent, before_ns;
    END IF;
END
$$;

REVOKE ALL ON FUNCTION mds.ensure_partition(text, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION mds.ensure_partition(text, bigint) TO mds_app;
GRANT USAGE ON SCHEMA mds TO mds_app, mds_maintainer;

-- For the staging tables; some servers take it from PUBLIC.
DO $$
BEGIN
    EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO mds_app', current_database());
END
$$;

-- What a tenant's rows bear: of one that is registered its name, found by name or id; else what it calls itself. Runs as
-- the owner because it is asked before the tenant is set; who knows an id is told its name, and nothing else.
CREATE FUNCTION mds.tenant_key(given text) RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT coalesce(
        CASE WHEN given ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN
            (SELECT name FROM mds.tenants WHERE id = given::uuid)
        END,
        given
    )
$$;

-- Give a tenant an id by which it can be named as well; again, the same.
CREATE FUNCTION mds.register_tenant(given text) RETURNS uuid
    LANGUAGE sql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
    INSERT INTO mds.tenants (name) VALUES (given) ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING id
$$;

REVOKE ALL ON FUNCTION mds.keep_superseded(), mds.partition_unit(text), mds.tenant_key(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION mds.drop_partitions(text, bigint), mds.register_tenant(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION mds.tenant_key(text) TO mds_app;
GRANT EXECUTE ON FUNCTION mds.drop_partitions(text, bigint), mds.register_tenant(text) TO mds_maintainer;

-- A row belongs to its tenant: for reading, for writing, and for the owner of the tables too.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY[
        'quotes', 'trades', 'bars', 'bars_superseded', 'depth', 'options', 'definitions', 'status', 'taq', 'analytics',
        'quarantine', 'fundamentals', 'fundamentals_superseded', 'news', 'news_superseded', 'option_snapshots',
        'option_snapshots_superseded', 'corporate_actions', 'corporate_actions_superseded', 'checkpoints',
        'last_priced', 'gaps', 'jobs'
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
-- A key is never changed; a new version takes the place of another.
GRANT UPDATE (
    ts_recv, seq, flags, origin, total_assets, total_liabilities, net_income, eps, revision, ts_known, reason
) ON mds.fundamentals TO mds_app;
GRANT UPDATE (symbol, ts_event, ts_recv, seq, flags, origin, title, url, sentiment_score, revision, ts_known, reason)
    ON mds.news TO mds_app;
GRANT UPDATE (
    ts_recv, seq, flags, origin, implied_vol, delta, gamma, vega, theta, open_interest, volume,
    underlying_price, revision, ts_known, reason
) ON mds.option_snapshots TO mds_app;
GRANT UPDATE (ts_recv, seq, flags, origin, split_factor, price_factor, reference_price, revision, ts_known, reason)
    ON mds.corporate_actions TO mds_app;
GRANT UPDATE (ts_event) ON mds.last_priced TO mds_app;
GRANT UPDATE (to_ns, state, detail) ON mds.gaps TO mds_app;
GRANT UPDATE (state, attempts, owner, lease_ns, error) ON mds.jobs TO mds_app;

-- A tenant may look itself up. Who owns the table registers them, and finds one before it is known which it is.
ALTER TABLE mds.tenants ENABLE ROW LEVEL SECURITY;
ALTER TABLE mds.tenants FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON mds.tenants TO mds_app USING (name = (SELECT mds.current_tenant())) WITH CHECK (false);
CREATE POLICY registrar ON mds.tenants TO CURRENT_ROLE USING (true) WITH CHECK (true);
GRANT SELECT ON mds.tenants TO mds_app;

-- Every version of everything that has versions.
CREATE VIEW mds.bars_versions WITH (security_invoker = true) AS
    SELECT * FROM mds.bars
    UNION ALL
    SELECT * FROM mds.bars_superseded;
CREATE VIEW mds.fundamentals_versions WITH (security_invoker = true) AS
    SELECT * FROM mds.fundamentals
    UNION ALL
    SELECT * FROM mds.fundamentals_superseded;
CREATE VIEW mds.news_versions WITH (security_invoker = true) AS
    SELECT * FROM mds.news
    UNION ALL
    SELECT * FROM mds.news_superseded;
CREATE VIEW mds.option_snapshots_versions WITH (security_invoker = true) AS
    SELECT * FROM mds.option_snapshots
    UNION ALL
    SELECT * FROM mds.option_snapshots_superseded;
CREATE VIEW mds.corporate_actions_versions WITH (security_invoker = true) AS
    SELECT * FROM mds.corporate_actions
    UNION ALL
    SELECT * FROM mds.corporate_actions_superseded;

-- The tenant's rows that were archived.
CREATE VIEW mds.quotes_archived WITH (security_invoker = true) AS
    SELECT * FROM mds.quotes WHERE false;
CREATE VIEW mds.trades_archived WITH (security_invoker = true) AS
    SELECT * FROM mds.trades WHERE false;
CREATE VIEW mds.depth_archived WITH (security_invoker = true) AS
    SELECT * FROM mds.depth WHERE false;
CREATE VIEW mds.options_archived WITH (security_invoker = true) AS
    SELECT * FROM mds.options WHERE false;
CREATE VIEW mds.taq_archived WITH (security_invoker = true) AS
    SELECT * FROM mds.taq WHERE false;
CREATE VIEW mds.analytics_archived WITH (security_invoker = true) AS
    SELECT * FROM mds.analytics WHERE false;

-- All rows, wherever they lie. Where there is no archive these are the tables themselves: with a UNION, though of
-- nothing, the server would merge days that it can as well read one after the other.
CREATE VIEW mds.quotes_all WITH (security_invoker = true) AS SELECT * FROM mds.quotes;
CREATE VIEW mds.trades_all WITH (security_invoker = true) AS SELECT * FROM mds.trades;
CREATE VIEW mds.depth_all WITH (security_invoker = true) AS SELECT * FROM mds.depth;
CREATE VIEW mds.options_all WITH (security_invoker = true) AS SELECT * FROM mds.options;
CREATE VIEW mds.taq_all WITH (security_invoker = true) AS SELECT * FROM mds.taq;
CREATE VIEW mds.analytics_all WITH (security_invoker = true) AS SELECT * FROM mds.analytics;

-- Which days lie in the archive: how many rows of an instrument, and from when to when. `day` is its start, all are
-- nanoseconds.
CREATE VIEW mds.archived_days WITH (security_invoker = true) AS
    SELECT tenant_id, table_name, vendor, symbol, ts_event AS day, ts_event AS rows, ts_event AS first_ts,
        ts_event AS last_ts
    FROM mds.last_priced WHERE false;

GRANT SELECT ON mds.quotes_archived, mds.trades_archived, mds.depth_archived, mds.options_archived, mds.taq_archived,
    mds.analytics_archived, mds.quotes_all, mds.trades_all, mds.depth_all, mds.options_all, mds.taq_all,
    mds.analytics_all, mds.archived_days TO mds_app;

-- Of each instrument the last trade; the middle of the last two-sided quote where there never was a trade, the last
-- close where there was neither. price_timestamp is ts_event in nanoseconds; for a bar, its start.
CREATE VIEW mds.latest_prices WITH (security_invoker = true) AS
    SELECT DISTINCT ON (tenant_id, vendor, symbol)
        tenant_id, vendor, symbol, price, price_timestamp
    FROM (
        SELECT tenant_id, vendor, symbol, price, ts_event AS price_timestamp, 0 AS rank, seq
        FROM mds.trades_all
        WHERE price IS NOT NULL
        UNION ALL
        SELECT tenant_id, vendor, symbol, (bid_price + ask_price) / 2, ts_event, 1, seq
        FROM mds.quotes_all
        WHERE bid_price IS NOT NULL AND ask_price IS NOT NULL
        UNION ALL
        SELECT tenant_id, vendor, symbol, close, ts_event, 2, seq
        FROM mds.bars
        WHERE close IS NOT NULL
    ) prices
    ORDER BY tenant_id, vendor, symbol, rank, price_timestamp DESC, seq DESC;

-- How far each table reaches, by vendor and symbol.
CREATE VIEW mds.data_freshness WITH (security_invoker = true) AS
    SELECT tenant_id, 'quotes' AS table_name, vendor, symbol, max(ts_event) AS ts_event, max(ts_recv) AS ts_recv
    FROM mds.quotes_all GROUP BY tenant_id, vendor, symbol
    UNION ALL
    SELECT tenant_id, 'trades', vendor, symbol, max(ts_event), max(ts_recv)
    FROM mds.trades_all GROUP BY tenant_id, vendor, symbol
    UNION ALL
    SELECT tenant_id, 'bars', vendor, symbol, max(ts_event), max(ts_recv)
    FROM mds.bars GROUP BY tenant_id, vendor, symbol
    UNION ALL
    SELECT tenant_id, 'depth', vendor, symbol, max(ts_event), max(ts_recv)
    FROM mds.depth_all GROUP BY tenant_id, vendor, symbol
    UNION ALL
    SELECT tenant_id, 'options', vendor, symbol, max(ts_event), max(ts_recv)
    FROM mds.options_all GROUP BY tenant_id, vendor, symbol
    UNION ALL
    SELECT tenant_id, 'definitions', vendor, symbol, max(ts_event), max(ts_recv)
    FROM mds.definitions GROUP BY tenant_id, vendor, symbol
    UNION ALL
    SELECT tenant_id, 'status', vendor, symbol, max(ts_event), max(ts_recv)
    FROM mds.status GROUP BY tenant_id, vendor, symbol
    UNION ALL
    SELECT tenant_id, 'taq', vendor, symbol, max(ts_event), max(ts_recv)
    FROM mds.taq_all GROUP BY tenant_id, vendor, symbol
    UNION ALL
    SELECT tenant_id, 'analytics', vendor, symbol, max(ts_event), max(ts_recv)
    FROM mds.analytics_all GROUP BY tenant_id, vendor, symbol
    UNION ALL
    SELECT tenant_id, 'quarantine', vendor, symbol, max(ts_event), max(ts_recv)
    FROM mds.quarantine GROUP BY tenant_id, vendor, symbol
    UNION ALL
    SELECT tenant_id, 'fundamentals', vendor, symbol, max(ts_event), max(ts_recv)
    FROM mds.fundamentals GROUP BY tenant_id, vendor, symbol
    UNION ALL
    SELECT tenant_id, 'news', vendor, symbol, max(ts_event), max(ts_recv)
    FROM mds.news GROUP BY tenant_id, vendor, symbol
    UNION ALL
    SELECT tenant_id, 'option_snapshots', vendor, symbol, max(ts_event), max(ts_recv)
    FROM mds.option_snapshots GROUP BY tenant_id, vendor, symbol
    UNION ALL
    SELECT tenant_id, 'corporate_actions', vendor, symbol, max(ts_event), max(ts_recv)
    FROM mds.corporate_actions GROUP BY tenant_id, vendor, symbol;

GRANT SELECT ON mds.latest_prices, mds.data_freshness TO mds_app;
GRANT SELECT ON mds.bars_versions, mds.fundamentals_versions, mds.news_versions, mds.option_snapshots_versions,
    mds.corporate_actions_versions TO mds_app;

-- As the embedded lake's queries show times; to the microsecond, which is all that a timestamp here holds.
CREATE FUNCTION mds.to_timestamp_nanos(ts_ns bigint) RETURNS timestamp
    LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
    RETURN timestamp '1970-01-01' + floor(ts_ns / 1000.0)::bigint * interval '1 microsecond';
REVOKE ALL ON FUNCTION mds.to_timestamp_nanos(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION mds.to_timestamp_nanos(bigint) TO mds_app;

-- As the embedded lake's queries call it.
CREATE VIEW mds.bars_revisions WITH (security_invoker = true) AS
    SELECT * FROM mds.bars
    UNION ALL
    SELECT * FROM mds.bars_superseded;
GRANT SELECT ON mds.bars_revisions TO mds_app;
