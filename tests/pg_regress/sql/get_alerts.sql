-- Alerts by filter and page, as JSON, and under other names.
SET TIME ZONE 'UTC';

-- Real alerts of two types and all severities, an hour apart.
CREATE TABLE level AS SELECT timestamptz '2026-03-01' + i * interval '1 minute' AS at, e AS host, 100 + (i * 7919 % 101) / 10.0 AS v FROM generate_series(1, 400) i, unnest('{a,b}'::text[]) e;
SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', source => 'level', entity => 'host', settle => '0 s', training_window => '1000 days', alerts_per_day => 60, clear_after => 1, entity_type => 'host', name => 'outlier'),
       anomaly.create_detector('data_drift', 'zscore', 'v', source => 'SELECT at, v FROM level WHERE host = ''a''', settle => '0 s', training_window => '1000 days', alerts_per_day => 60, clear_after => 1, name => 'drift');
SELECT status FROM anomaly.train('outlier') UNION ALL SELECT status FROM anomaly.train('drift');
UPDATE anomaly.detector_state SET watermark = '2026-03-02';
INSERT INTO level SELECT timestamptz '2026-03-02 12:00' + i * interval '1 hour' + k * interval '1 minute', 'a', CASE WHEN k = 0 THEN 100 + v ELSE 105 END
  FROM (VALUES (0, 150), (1, 11.5), (2, 900), (3, 150), (4, -1.5), (5, 400)) p (i, v), generate_series(0, 2) k;
INSERT INTO level VALUES ('2026-03-02 15:00', 'b', 500);
SELECT alerts_opened FROM anomaly.scan('outlier') UNION ALL SELECT alerts_opened FROM anomaly.scan('drift');
SELECT detector, at, entity, severity, is_critical, is_critical = (severity IN ('critical', 'emergency')) AS as_defined FROM anomaly.get_alerts() ORDER BY at, detector, entity;

-- check_c10_filters, defect_s5_stored_alerts_are_found: newest first, bounds inclusive, any of, all together
CREATE FUNCTION pg_temp.found(VARIADIC arguments text[] DEFAULT '{}') RETURNS text LANGUAGE plpgsql AS $$
DECLARE result text;
BEGIN
    EXECUTE format('SELECT string_agg(concat_ws('' '', to_char(at, ''HH24:MI''), detector, entity), '', '') FROM anomaly.get_alerts(%s)', array_to_string(arguments, ', ')) INTO result;
    RETURN result;
END $$;
SELECT pg_temp.found() AS all;
SELECT pg_temp.found($$start_at => '2026-03-02 14:00', end_at => '2026-03-02 15:00'$$) AS inclusive;
SELECT pg_temp.found($$start_at => '2026-03-02 14:00:00.000001'$$, $$end_at => '2026-03-02 14:59:59.999999'$$) AS between;
SELECT pg_temp.found($$anomaly_types => '{data_drift}'$$) AS type, pg_temp.found($$anomaly_types => '{data_drift,data_outlier}'$$) = pg_temp.found() AS both, pg_temp.found($$anomaly_types => '{}'$$) AS none;
SELECT pg_temp.found($$severities => '{emergency}'$$) AS emergencies, pg_temp.found($$severities => '{info,warning,critical}'$$) AS others;
SELECT pg_temp.found($$entity => 'b'$$) AS entity, pg_temp.found($$entity_type => 'host'$$, $$detector => 'drift'$$) AS nothing, pg_temp.found($$status => 'open'$$) AS open;
SELECT pg_temp.found($$start_at => '2026-03-02 13:00', end_at => '2026-03-02 15:00', anomaly_types => '{data_outlier,data_missing}', severities => '{emergency,critical}', entity => 'a', entity_type => 'host'$$) AS combined;
-- Pages: by number, and by the last id of the page before
SELECT pg_temp.found('max_rows => 3') AS first, pg_temp.found('max_rows => 3', 'skip_rows => 3') AS second, pg_temp.found('max_rows => 0') AS none;
WITH RECURSIVE page (n, ids) AS (
    SELECT 1, (SELECT array_agg(id) FROM anomaly.get_alerts(max_rows => 4))
    UNION ALL SELECT n + 1, (SELECT array_agg(id) FROM anomaly.get_alerts(max_rows => 4, before_id => ids[cardinality(ids)])) FROM page WHERE cardinality(ids) > 0)
SELECT count(*) AS rows, (SELECT array_agg(id) FROM anomaly.get_alerts()) = array_agg(id ORDER BY n, place) AS in_order, count(DISTINCT n) AS pages
  FROM page, unnest(ids) WITH ORDINALITY u (id, place);
SELECT count(*) FROM anomaly.get_alerts(before_id => -1);
SELECT helper.answer('SELECT anomaly.get_alerts(' || call || ')') FROM unnest(ARRAY['max_rows => -1', 'skip_rows => -1', $$anomaly_types => '{nonsense}'$$, $$severities => '{high}'$$, $$status => 'closed'$$, $$start_at => 'soon'$$]) call;
SELECT count(*) FROM anomaly.get_alerts(NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
-- Who sees none, finds none.
CREATE ROLE reg5_nobody;
SET ROLE reg5_nobody;
SELECT count(*) FROM anomaly.get_alerts();
RESET ROLE;

-- check_c2_json: every field, and those that other programs know
SELECT string_agg(key, ' ' ORDER BY key COLLATE "C") AS fields FROM anomaly.alerts a, jsonb_object_keys(anomaly.alert_json(a.id)) key WHERE a.id = (SELECT min(id) FROM anomaly.alerts);
SELECT count(*) AS alerts, count(DISTINCT j ->> 'uuid') AS ids, bool_and((j ->> 'is_critical')::boolean = ((j ->> 'severity') IN ('critical', 'emergency'))) AS is_critical, bool_and((j ->> 'timestamp')::timestamptz = a.at) AS at, bool_and((j ->> 'metric_value')::float8 = a.value) AS value,
  bool_and((j -> 'expected_range' ->> 'upper')::float8 = a.upper) AS upper, bool_and((j ->> 'deviation_factor')::float8 = a.deviation) AS deviation, bool_and(jsonb_typeof(j -> 'related_alerts') = 'array' AND jsonb_typeof(j -> 'metadata') = 'object') AS nested
  FROM anomaly.alerts a, anomaly.alert_json(a.id) j;
SELECT helper.answer('SELECT anomaly.alert_json(-1)');

-- check_c13_views: under any name
CREATE SCHEMA "My Schema";
SELECT anomaly.alert_view('anomaly_alerts'), anomaly.alert_view('"My Schema"."Alerts; DROP TABLE level"'), anomaly.alert_view('public.Other');
\d anomaly_alerts
SELECT count(*), count(DISTINCT id) AS ids FROM "My Schema"."Alerts; DROP TABLE level";
SELECT "timestamp", anomaly_type, severity, entity_id, metric_name, metric_value, expected_range ?& '{lower,upper}' AS range, is_critical FROM public.other WHERE entity_id = 'b';
-- defect_s10_names: what is no name is an error, and nothing of it is run
SELECT helper.answer(format('SELECT anomaly.alert_view(%L)', name)) FROM unnest('{anomaly_alerts,my alerts,a.b.c,"","no_such_schema.alerts","x; DROP TABLE level","\"x","pg_catalog.x"}'::text[]) name;
-- A view shows each reader their own.
GRANT SELECT ON anomaly_alerts TO reg5_nobody;
SET ROLE reg5_nobody;
SELECT count(*) FROM anomaly_alerts;
SELECT helper.answer($$SELECT anomaly.alert_view('"My Schema".mine')$$);
RESET ROLE;
DROP VIEW anomaly_alerts, public.other;
DROP SCHEMA "My Schema" CASCADE;

SELECT count(anomaly.drop_detector(detector)) FROM anomaly.detectors;
DROP ROLE reg5_nobody;
DROP TABLE level;
TRUNCATE anomaly.alert;
ALTER SEQUENCE anomaly.alert_id_seq RESTART;
