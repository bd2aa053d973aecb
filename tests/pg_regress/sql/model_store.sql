-- The versions of a model: kept, returned to, damaged, and whose they are.
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

CREATE TABLE stored (at timestamptz, host text, v double precision);
CREATE INDEX ON stored (at);
INSERT INTO stored SELECT now() - i * interval '1 minute', 'web' || h, 100 * h + (i * 7919 + h) % 101 / 10.0 FROM generate_series(1, 300) i, generate_series(1, 3) h;
SELECT anomaly.create_detector('data_outlier', 'mad', 'v', source => 'stored', entity => 'host', settle => '0 s', name => 'kept');
SELECT pg_temp.raised($$SELECT anomaly.rollback_model('kept')$$);
SELECT status, entities, model_version FROM anomaly.train('kept');

-- Each training is a version, active at once.
INSERT INTO stored SELECT clock_timestamp(), 'web1', 104.5 FROM generate_series(1, 50);
SELECT alerts_opened FROM anomaly.scan('kept');
SELECT status, entities, model_version FROM anomaly.train('kept');
SELECT status, entities, model_version FROM anomaly.train('kept');
SELECT version, active FROM anomaly.models WHERE detector = 'kept' ORDER BY version;

-- Back to the version before, and to one by its number; the one that is active already is that.
SELECT status, entities, model_version FROM anomaly.rollback_model('kept');
SELECT version, active FROM anomaly.models WHERE detector = 'kept' ORDER BY version;
SELECT status, model_version FROM anomaly.rollback_model(detector => 'kept', version => 3);
SELECT status, model_version FROM anomaly.rollback_model('kept', 3);
SELECT model_version FROM anomaly.rollback_model('kept', 1);
SELECT detector, status, model_version FROM anomaly.detectors WHERE detector = 'kept';
SELECT alerts_opened FROM anomaly.scan('kept');

-- An open episode goes on under whatever version is active: one alert from begin to end.
INSERT INTO stored VALUES (clock_timestamp(), 'web2', 900);
SELECT alerts_opened FROM anomaly.scan('kept');
SELECT model_version FROM anomaly.rollback_model('kept', 2);
INSERT INTO stored VALUES (clock_timestamp(), 'web2', 901);
SELECT alerts_opened, alerts_resolved FROM anomaly.scan('kept');
SELECT status, value, points, model_version FROM anomaly.alerts WHERE detector = 'kept';
INSERT INTO stored SELECT clock_timestamp() + i * interval '1 microsecond', 'web2', 205 FROM generate_series(1, 3) i;
SELECT alerts_opened, alerts_resolved FROM anomaly.scan('kept');
-- ... and one that has ended meanwhile does not come back with the version that knew it.
SELECT model_version FROM anomaly.rollback_model('kept', 1);
INSERT INTO stored VALUES (clock_timestamp(), 'web2', 205);
SELECT alerts_opened, alerts_resolved FROM anomaly.scan('kept');
SELECT status, points FROM anomaly.alerts WHERE detector = 'kept';

-- The next version has a number of its own, and the latest are kept.
SELECT model_version FROM anomaly.train('kept');
SET anomaly_detection.keep_model_versions = 2;
SELECT model_version FROM anomaly.train('kept');
SELECT version, active FROM anomaly.models WHERE detector = 'kept' ORDER BY version;
SELECT version, count(*) FROM anomaly.entity_state WHERE detector = 'kept' GROUP BY version ORDER BY version;
-- the active one in any case
SELECT model_version FROM anomaly.rollback_model('kept', 4);
SET anomaly_detection.keep_model_versions = 1;
SELECT model_version FROM anomaly.train('kept');
SELECT version, active FROM anomaly.models WHERE detector = 'kept' ORDER BY version;
RESET anomaly_detection.keep_model_versions;
SELECT pg_temp.raised($$SELECT anomaly.rollback_model('kept')$$);
SELECT model_version FROM anomaly.train('kept');

-- What there is not
SELECT pg_temp.raised($$SELECT anomaly.rollback_model('kept', 99)$$);
SELECT pg_temp.raised($$SELECT anomaly.rollback_model('no such')$$);
SELECT pg_temp.raised($$SELECT anomaly.rollback_model(NULL)$$);

-- A second detector over the same rows
SELECT anomaly.create_detector('data_outlier', 'mad', 'v', source => 'stored', entity => 'host', settle => '0 s', name => 'copy');
SELECT model_version FROM anomaly.train('copy');
SELECT model_version FROM anomaly.train('copy');

-- fault_m1_flipped_bit: of one entity, of the shared model, of a version that is not active; others go on
UPDATE anomaly.entity_state SET payload = pg_temp.flipped(payload) WHERE (detector, version, entity) = ('copy', 2, 'web2');
SELECT pg_temp.raised($$SELECT anomaly.explain_detector('copy')$$);
INSERT INTO stored VALUES (clock_timestamp(), 'web2', 205);
SELECT pg_temp.raised($$SELECT anomaly.scan('copy')$$);
SELECT status FROM anomaly.scan('kept');
SELECT status, model_version FROM anomaly.rollback_model('copy', 1);
SELECT status FROM anomaly.scan('copy');
SELECT pg_temp.raised($$SELECT anomaly.rollback_model('copy', 2)$$);
UPDATE anomaly.model SET payload = pg_temp.flipped(payload) WHERE detector = 'copy' AND active;
INSERT INTO stored VALUES (clock_timestamp(), 'web2', 206);
SELECT pg_temp.raised($$SELECT anomaly.scan('copy')$$);
SELECT status, model_version FROM anomaly.train('copy');
SELECT status FROM anomaly.scan('copy');
-- fault_m2_newer_model: refused with both versions
UPDATE anomaly.entity_state SET payload = set_byte(payload, 4, 9) WHERE (detector, version, entity) = ('copy', 3, 'web2');
INSERT INTO stored VALUES (clock_timestamp(), 'web2', 207);
SELECT pg_temp.raised($$SELECT anomaly.scan('copy')$$);
SELECT status FROM anomaly.scan('kept');

-- An alert whose state is lost ends with it: nobody would ever end it.
INSERT INTO stored VALUES (clock_timestamp(), 'web1', 950);
SELECT alerts_opened FROM anomaly.scan('kept');
UPDATE anomaly.entity_state s SET payload = pg_temp.flipped(s.payload) FROM anomaly.model m WHERE (m.detector, m.version) = (s.detector, s.version) AND m.active AND m.detector = 'kept' AND entity = 'web1';
SELECT status FROM anomaly.train('kept');
SELECT status, value FROM anomaly.alerts WHERE detector = 'kept' ORDER BY id DESC LIMIT 1;

-- What a scan looks back at begins anew with each version.
SELECT anomaly.create_detector('data_outlier', 'mad', 'v', source => 'stored', entity => 'host', settle => '0 s', late_window => '1 hour', name => 'looks_back');
SELECT model_version FROM anomaly.train('looks_back');
INSERT INTO stored VALUES (clock_timestamp(), 'web1', 105);
SELECT status FROM anomaly.scan('looks_back');
SELECT version, count(*) > 0 AS checkpoint FROM anomaly.checkpoint WHERE detector = 'looks_back' GROUP BY version;
SELECT model_version FROM anomaly.train('looks_back');
SELECT model_version FROM anomaly.rollback_model('looks_back');
SELECT count(*) AS checkpoints FROM anomaly.checkpoint WHERE detector = 'looks_back';
INSERT INTO stored VALUES (now() - interval '90 seconds', 'web1', 900), (clock_timestamp(), 'web1', 105);
SELECT status, alerts_opened FROM anomaly.scan('looks_back');
INSERT INTO stored VALUES (clock_timestamp() - interval '1 microsecond', 'web1', 901);
SELECT status, alerts_opened FROM anomaly.scan('looks_back');

-- fault_a5_models, fault_a6_model_rows: what a model holds is its owner's: nobody else exports, imports, rolls back or reads one
CREATE ROLE model_stranger;
CREATE ROLE model_monitor IN ROLE anomaly_monitor;
SET ROLE model_stranger;
SELECT call, pg_temp.raised(call) FROM unnest(ARRAY[$$SELECT anomaly.rollback_model('kept', 1)$$, $$SELECT anomaly.explain_detector('kept')$$,
    $$SELECT payload FROM anomaly.model$$, $$SELECT payload FROM anomaly.entity_state$$]) call;
SELECT count(*) AS models FROM anomaly.models;
SET ROLE model_monitor;
SELECT call, pg_temp.raised(call) FROM unnest(ARRAY[$$SELECT anomaly.rollback_model('kept', 1)$$, $$SELECT anomaly.explain_detector('kept')$$,
    $$SELECT payload FROM anomaly.model$$, $$SELECT payload FROM anomaly.entity_state$$]) call;
SELECT count(*) > 0 AS models, bool_or(m::text ~ 'ANOM|414e4f4d') AS has_payload FROM anomaly.models m;
SELECT count(*) AS statistics FROM pg_stats WHERE schemaname = 'anomaly' AND tablename IN ('model', 'entity_state');
RESET ROLE;
DROP ROLE model_stranger, model_monitor;
SELECT attname AS column_with_bytes FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid AND relkind = 'v' JOIN pg_type t ON t.oid = atttypid WHERE relnamespace = 'anomaly'::regnamespace AND typname IN ('bytea', 'anomaly_model');

SELECT count(anomaly.drop_detector(detector)) AS dropped FROM anomaly.detectors;
DROP TABLE stored;
