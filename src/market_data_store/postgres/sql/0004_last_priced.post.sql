-- Where the last prices are that code of schema 3 stored: that did not note it. Reads everything that has a price, once;
-- where the role is no superuser, nobody else reads or writes these tables meanwhile.
DO $$
DECLARE
    name text;
    hidden CONSTANT boolean := row_security_active('mds.trades');
BEGIN
    -- An owner that is no superuser sees the rows of all tenants only so.
    IF hidden THEN
        FOREACH name IN ARRAY ARRAY['trades', 'quotes', 'bars', 'last_priced'] LOOP
            EXECUTE format('ALTER TABLE mds.%I NO FORCE ROW LEVEL SECURITY', name);
        END LOOP;
    END IF;
    INSERT INTO mds.last_priced AS l (tenant_id, table_name, vendor, symbol, ts_event)
    SELECT tenant_id, 'trades', vendor, symbol, max(ts_event) FROM mds.trades
    WHERE price IS NOT NULL GROUP BY tenant_id, vendor, symbol
    UNION ALL
    SELECT tenant_id, 'quotes', vendor, symbol, max(ts_event) FROM mds.quotes
    WHERE bid_price IS NOT NULL AND ask_price IS NOT NULL GROUP BY tenant_id, vendor, symbol
    UNION ALL
    SELECT tenant_id, 'bars', vendor, symbol, max(ts_event) FROM mds.bars
    WHERE close IS NOT NULL GROUP BY tenant_id, vendor, symbol
    ON CONFLICT (tenant_id, symbol, vendor, table_name) DO UPDATE SET ts_event = excluded.ts_event
    WHERE l.ts_event < excluded.ts_event;
    IF hidden THEN
        FOREACH name IN ARRAY ARRAY['trades', 'quotes', 'bars', 'last_priced'] LOOP
            EXECUTE format('ALTER TABLE mds.%I FORCE ROW LEVEL SECURITY', name);
        END LOOP;
    END IF;
END
$$;
