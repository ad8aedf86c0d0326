-- Where days are read that were archived: an archive is made where TimescaleDB is (timescale.sql), and empty everywhere
-- else. Code of schema 4 goes on working beside it as long as nothing is archived.

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
CREATE OR REPLACE VIEW mds.latest_prices WITH (security_invoker = true) AS
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
CREATE OR REPLACE VIEW mds.data_freshness WITH (security_invoker = true) AS
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

-- Drop the partitions of a table, of all tenants, that lie before a time as a whole, and former versions and archived
-- days with them. Who still reads them is waited for, but not so long that others have to queue behind us.
CREATE OR REPLACE FUNCTION mds.drop_partitions(parent text, before_ns bigint) RETURNS SETOF text
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
