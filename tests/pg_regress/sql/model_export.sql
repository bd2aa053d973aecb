-- Models as one value: exported, imported, and refused where they do not fit.
SET TIME ZONE 'UTC';
-- What a statement raises: code, message, detail and hint.
CREATE FUNCTION pg_temp.raised(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE code text; message text; detail text; hint text;
BEGIN
    EXECUTE query;
    RETURN 'nothing';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN format('%s: %s%s%s', code, message, CASE WHEN detail <> '' THEN ' (DETAIL: ' || detail || ')' END, CASE WHEN hint <> '' THEN ' (HINT: ' || hint || ')' END);
END $$;
-- A byte in the middle with one bit flipped.
CREATE FUNCTION pg_temp.flipped(bytes bytea) RETURNS bytea LANGUAGE sql AS $$ SELECT set_bit(bytes, 4 * length(bytes), 1 - get_bit(bytes, 4 * length(bytes))) $$;
-- With the checksum of its envelope put right: CRC-32 of bytes 4 to 12 and those from 16 on.
CREATE FUNCTION pg_temp.crc32(bytes bytea) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE crc bigint := 4294967295;
BEGIN
    FOR i IN 0..length(bytes) - 1 LOOP
        crc := crc # get_byte(bytes, i);
        FOR k IN 1..8 LOOP crc := CASE WHEN crc & 1 = 1 THEN (crc >> 1) # 3988292384 ELSE crc >> 1 END; END LOOP;
    END LOOP;
    RETURN crc # 4294967295;
END $$;
CREATE FUNCTION pg_temp.sealed(bytes bytea) RETURNS bytea LANGUAGE sql AS $$
    SELECT overlay(bytes PLACING set_byte(set_byte(set_byte(set_byte('\x00000000'::bytea, 0, (crc & 255)::int), 1, (crc >> 8 & 255)::int), 2, (crc >> 16 & 255)::int), 3, (crc >> 24 & 255)::int) FROM 13 FOR 4)
      FROM pg_temp.crc32(substring(bytes FROM 5 FOR 8) || substring(bytes FROM 17)) crc $$;

CREATE TABLE stored (at timestamptz, host text, v double precision);
CREATE INDEX ON stored (at);
INSERT INTO stored SELECT now() - i * interval '1 minute', 'web' || h, 100 * h + (i * 7919 + h) % 101 / 10.0 FROM generate_series(1, 300) i, generate_series(1, 3) h;
SELECT anomaly.create_detector('data_outlier', 'mad', 'v', source => 'stored', entity => 'host', settle => '0 s', name => 'given');
SELECT status, entities, model_version FROM anomaly.train('given');

-- Exported and imported: another detector with the same settings judges as the first.
SELECT anomaly.create_detector('data_outlier', 'mad', 'v', source => 'stored', entity => 'host', settle => '0 s', name => 'taken');
SELECT pg_temp.raised($$SELECT anomaly.export_model('taken')$$);
SELECT anomaly.import_model('taken', anomaly.export_model('given')) AS version;
SELECT detector, status, model_version, trained_rows, entities, points_per_day > 0 AS has_rate, watermark > now() - interval '1 minute' AS scans_from_now_on FROM anomaly.detectors WHERE detector IN ('given', 'taken') ORDER BY detector;
SELECT anomaly.export_model('taken') = anomaly.export_model('given') AS same_bytes, anomaly.export_model('taken', 1) = anomaly.export_model(detector => 'given', version => 1) AS by_version;
SELECT alerts_opened FROM anomaly.scan('given');
INSERT INTO stored SELECT clock_timestamp(), 'web3', 400;
SELECT alerts_opened FROM anomaly.scan('given');
SELECT alerts_opened FROM anomaly.scan('taken');
SELECT count(*) AS alerts, count(DISTINCT (entity, at, value, expected, lower, upper, deviation)) AS verdicts FROM anomaly.alerts WHERE value = 400;
-- not active before it is told to
SELECT anomaly.import_model('taken', anomaly.export_model('given'), activate => false) AS version;
SELECT version, active FROM anomaly.models WHERE detector = 'taken' ORDER BY version;
SELECT status, model_version FROM anomaly.rollback_model('taken', 2);
-- the open episode is still the alert's
INSERT INTO stored SELECT clock_timestamp() + i * interval '1 microsecond', 'web3', 305 FROM generate_series(1, 3) i;
SELECT alerts_opened, alerts_resolved FROM anomaly.scan('taken');

-- fault_m4_settings_differ: what does not fit is named
SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', source => 'stored', entity => 'host', settle => '0 s', name => 'other_strategy');
SELECT anomaly.create_detector('data_outlier', 'mad', 'v', source => 'stored', entity => 'host', params => '{"sketch_capacity": 256}', bucket => '1 day', name => 'other_settings');
SELECT anomaly.create_detector('data_outlier', 'mad', 'v', source => 'stored', entity => 'host', max_entities => 2, name => 'too_few');
SELECT d, pg_temp.raised(format('SELECT anomaly.import_model(%L, anomaly.export_model(''given''))', d)) FROM unnest('{other_strategy,other_settings,too_few}'::text[]) d;
SELECT count(*) AS nothing_stored FROM anomaly.models WHERE detector IN ('other_strategy', 'other_settings', 'too_few');

-- fault_a10_import_crafted: whatever the bytes, a typed error and nothing stored
CREATE TEMP TABLE export AS SELECT anomaly.export_model('given') AS bytes;
SELECT b, pg_temp.raised(format('SELECT anomaly.import_model(''given'', %L)', b)) FROM unnest('{"","\\x00","\\x414e4f4d","\\x414e4f4d0100c80000000000","\\x414e4f4dffffc800000000000000000000"}'::bytea[]) b;
SELECT DISTINCT pg_temp.raised(format('SELECT anomaly.import_model(''given'', %L)', set_byte(bytes, at, get_byte(bytes, at) # 16))) FROM export, generate_series(16, length(bytes) - 1, 97) at;
SELECT DISTINCT substring(pg_temp.raised(format('SELECT anomaly.import_model(''given'', %L)', substring(bytes FOR at))) FOR 21) FROM export, generate_series(0, length(bytes) - 1, 97) at;
-- with a checksum that fits: lengths and counts that are not so
SELECT DISTINCT pg_temp.raised(format('SELECT anomaly.import_model(''given'', %L)', pg_temp.sealed(overlay(bytes PLACING x FROM at FOR length(x)))))
  FROM export, (VALUES (17, '\xffffffff'::bytea), (17, '\x00000000'), (21, '\x5b'), (21, '\xff')) damage (at, x);
SELECT pg_temp.raised(format('SELECT anomaly.import_model(''given'', %L)', pg_temp.sealed(overlay(bytes PLACING '\x7f' FROM position('web1'::bytea IN bytes))))) AS out_of_order FROM export;
-- one of the states is damaged, or a stored state where an export should be
SELECT pg_temp.raised(format('SELECT anomaly.import_model(''given'', %L)', pg_temp.sealed(overlay(bytes PLACING '\x99' FROM position('web1'::bytea IN bytes) + 60)))) FROM export;
SELECT pg_temp.raised(format('SELECT anomaly.import_model(''given'', %L)', payload)) FROM anomaly.model WHERE detector = 'given' AND active;
-- fault_m2_newer_export: both versions are named
SELECT pg_temp.raised(format('SELECT anomaly.import_model(''given'', %L)', pg_temp.sealed(set_byte(bytes, 4, 9)))) FROM export;
SELECT max(version) AS unchanged FROM anomaly.models WHERE detector = 'given';

-- Damaged here: not given out
UPDATE anomaly.entity_state SET payload = pg_temp.flipped(payload) WHERE (detector, version, entity) = ('taken', 2, 'web2');
SELECT pg_temp.raised($$SELECT anomaly.export_model('taken')$$);
SELECT pg_temp.raised($$SELECT anomaly.export_model('taken', 1)$$);

-- What there is not
SELECT pg_temp.raised($$SELECT anomaly.export_model('no such')$$);
SELECT pg_temp.raised($$SELECT anomaly.export_model('given', -1)$$);
SELECT pg_temp.raised($$SELECT anomaly.import_model('no such', '')$$);
SELECT pg_temp.raised($$SELECT anomaly.import_model('given', NULL)$$);
SELECT pg_temp.raised($$SELECT anomaly.import_model('given', '', NULL)$$);

-- fault_a6_export: what a model holds is its owner's
CREATE ROLE export_stranger;
CREATE ROLE export_monitor IN ROLE anomaly_monitor;
SET ROLE export_stranger;
SELECT call, pg_temp.raised(call) FROM unnest(ARRAY[$$SELECT anomaly.export_model('given')$$, $$SELECT anomaly.import_model('given', '')$$]) call;
SET ROLE export_monitor;
SELECT call, pg_temp.raised(call) FROM unnest(ARRAY[$$SELECT anomaly.export_model('given')$$, $$SELECT anomaly.import_model('given', '')$$]) call;
RESET ROLE;
DROP ROLE export_stranger, export_monitor;

SELECT count(anomaly.drop_detector(detector)) AS dropped FROM anomaly.detectors;
DROP TABLE stored;
