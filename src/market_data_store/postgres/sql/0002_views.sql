-- Every version of every bar.
CREATE VIEW mds.bars_versions WITH (security_invoker = true) AS
    SELECT * FROM mds.bars
    UNION ALL
    SELECT * FROM mds.bars_superseded;

-- Of each instrument the last trade; the middle of the last two-sided quote where there never was a trade, the last
-- close where there was neither. price_timestamp is ts_event in nanoseconds; for a bar, its start.
CREATE VIEW mds.latest_prices WITH (security_invoker = true) AS
    SELECT DISTINCT ON (tenant_id, vendor, symbol)
        tenant_id, vendor, symbol, price, price_timestamp
    FROM (
        SELECT tenant_id, vendor, symbol, price, ts_event AS price_timestamp, 0 AS rank, seq
        FROM mds.trades
        WHERE price IS NOT NULL
        UNION ALL
        SELECT tenant_id, vendor, symbol, (bid_price + ask_price) / 2, ts_event, 1, seq
        FROM mds.quotes
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
    FROM mds.quotes GROUP BY tenant_id, vendor, symbol
    UNION ALL
    SELECT tenant_id, 'trades', vendor, symbol, max(ts_event), max(ts_recv)
    FROM mds.trades GROUP BY tenant_id, vendor, symbol
    UNION ALL
    SELECT tenant_id, 'bars', vendor, symbol, max(ts_event), max(ts_recv)
    FROM mds.bars GROUP BY tenant_id, vendor, symbol
    UNION ALL
    SELECT tenant_id, 'depth', vendor, symbol, max(ts_event), max(ts_recv)
    FROM mds.depth GROUP BY tenant_id, vendor, symbol
    UNION ALL
    SELECT tenant_id, 'options', vendor, symbol, max(ts_event), max(ts_recv)
    FROM mds.options GROUP BY tenant_id, vendor, symbol
    UNION ALL
    SELECT tenant_id, 'definitions', vendor, symbol, max(ts_event), max(ts_recv)
    FROM mds.definitions GROUP BY tenant_id, vendor, symbol
    UNION ALL
    SELECT tenant_id, 'status', vendor, symbol, max(ts_event), max(ts_recv)
    FROM mds.status GROUP BY tenant_id, vendor, symbol
    UNION ALL
    SELECT tenant_id, 'taq', vendor, symbol, max(ts_event), max(ts_recv)
    FROM mds.taq GROUP BY tenant_id, vendor, symbol
    UNION ALL
    SELECT tenant_id, 'analytics', vendor, symbol, max(ts_event), max(ts_recv)
    FROM mds.analytics GROUP BY tenant_id, vendor, symbol
    UNION ALL
    SELECT tenant_id, 'quarantine', vendor, symbol, max(ts_event), max(ts_recv)
    FROM mds.quarantine GROUP BY tenant_id, vendor, symbol;

GRANT SELECT ON mds.bars_versions, mds.latest_prices, mds.data_freshness TO mds_app;
