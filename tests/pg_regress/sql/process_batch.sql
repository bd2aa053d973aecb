-- Many points at once: an array, a table, a query; what fails stops nothing else.
SET TIME ZONE 'UTC';

-- Two metrics, and for each of them the same detector once more under another metric's name: fed one by one, and as a batch.
CREATE TABLE measured AS SELECT i, date_trunc('minute', now()) - interval '400 minutes' + i * interval '1 minute' AS at, 'web' || i % 3 AS host, 50 + (i * 7919 % 101) / 10.0 + CASE WHEN i IN (250, 251, 280) THEN 500 ELSE 0 END AS cpu,
    CASE WHEN i % 50 = 0 THEN NULL ELSE (i * 104729 % 97)::numeric + CASE WHEN i = 270 THEN 9000 ELSE 0 END END AS ram FROM generate_series(1, 300) i;
SELECT anomaly.create_detector(t, s, m || '_' || how, min_data_points => 50, clear_after => 2) IS NOT NULL AS created
  FROM (VALUES ('system_cpu', 'mad', 'cpu'), ('system_cpu', 'zscore', 'cpu'), ('system_memory', 'iqr', 'ram')) d (t, s, m), unnest('{single,array,table,query}'::text[]) how ORDER BY m, s, how;
SELECT count(*) FROM (SELECT * FROM measured ORDER BY i) m, anomaly.process_data_point(jsonb_build_object('timestamp', at, 'entity_id', host, 'cpu_single', cpu, 'ram_single', ram));
SELECT row_number, status, detector, reason, severity, entity, metric_name, value FROM anomaly.process_batch((SELECT jsonb_agg(jsonb_build_object('timestamp', at, 'entity_id', host, 'cpu_array', cpu, 'ram_array', ram) ORDER BY i) FROM measured));
CREATE TABLE "Measured Now" AS SELECT at AS "timestamp", host AS entity_id, cpu AS cpu_table, ram AS ram_table FROM measured ORDER BY i DESC;
SELECT count(*), min(row_number), max(row_number) FROM anomaly.process_batch('"Measured Now"');
SELECT count(*) FROM anomaly.process_batch('SELECT at, host, cpu AS cpu_query, ram AS ram_query FROM measured ORDER BY i', at => 'at', entity => 'host');
-- check_c7_equal: alerts, states and counters are those of point by point, whichever way they came
CREATE TEMP VIEW outcome AS SELECT regexp_replace(metric_name, '_[a-z]+$', '') AS metric, regexp_replace(metric_name, '.*_', '') AS how, detection_strategy,
    count(*) AS alerts, md5(string_agg(concat_ws('|', status, severity, entity, at, last_at, points, peak_at, value, expected, lower, upper, deviation, score, p_value, direction, metadata), E'\n' ORDER BY at, entity)) AS fields
  FROM anomaly.alerts WHERE detector IN (SELECT detector FROM anomaly.detectors) GROUP BY 1, 2, 3;
SELECT metric, detection_strategy, min(alerts) AS alerts, count(*) AS ways, count(DISTINCT (alerts, fields)) AS different FROM outcome GROUP BY 1, 2 ORDER BY 1, 2;
SELECT regexp_replace(d.metric_name, '_[a-z]+$', '') AS metric, d.strategy, count(DISTINCT s.payload) AS states, count(*) AS ways FROM anomaly.entity_state s JOIN anomaly.detector d USING (detector) JOIN anomaly.model m USING (detector, version)
 WHERE m.active AND s.entity = 'web1' GROUP BY 1, 2 ORDER BY 1, 2;
-- check_c12_metrics: exact counters, and a time per point
SELECT detector, anomaly_type, strategy, metric_name, training_window, threshold, is_trained, data_points_processed, anomalies_detected, last_training_time IS NOT NULL AS trained, avg_detection_time_ms > 0 AS measured
  FROM anomaly.detector_metrics ORDER BY detector;
SELECT count(anomaly.drop_detector(detector)) FROM anomaly.detectors;

-- check_c7_bad_rows: bad rows are told by number, the others are judged
SELECT anomaly.create_detector('system_cpu', 'zscore', 'cpu', min_data_points => 20, name => 'sound', threshold => 4);
SELECT anomaly.create_detector('system_cpu', 'random_cut_forest', 'cpu', min_data_points => 20, name => 'featured', features => '{users}');
SELECT count(*) FROM anomaly.process_batch((SELECT jsonb_agg(jsonb_build_object('timestamp', now() - i * interval '1 minute', 'cpu', 50 + i % 7, 'users', i % 5) ORDER BY i DESC) FROM generate_series(1, 100) i));
SELECT row_number, status, detector, reason, value FROM anomaly.process_batch('[{"cpu": 51}, 7, {"cpu": "much"}, null, {"cpu": 52, "timestamp": "yesterday-ish"}, {"cpu": null}, {}, {"cpu": 53, "users": "many"}, {"ram": "x"}, {"cpu": 54}]')
 WHERE status = 'failed' ORDER BY row_number;
SELECT detector, points_processed FROM anomaly.detectors ORDER BY detector;

-- check_c8_isolated: a detector that fails is recorded, and the others judge
UPDATE anomaly.entity_state SET payload = '\xdeadbeef' WHERE detector = 'featured';
SELECT row_number, status, detector, reason, value FROM anomaly.process_batch('[{"cpu": 51}, {"cpu": 5000}]') ORDER BY row_number, status;
SELECT detector, severity, value FROM anomaly.process_data_point('{"cpu": 6000}');
SELECT name, status, reason, hint, consecutive_failures FROM anomaly.health WHERE kind = 'detector' ORDER BY name;
SELECT detector, points_processed, consecutive_failures FROM anomaly.detectors ORDER BY detector;
SELECT status FROM anomaly.train('featured');
SELECT count(*) FROM anomaly.process_batch('[{"cpu": 51}]');
SELECT name, status, reason FROM anomaly.health WHERE kind = 'detector' ORDER BY name;

-- Nothing to judge is nothing; what is no batch is an error.
SELECT count(*) FROM anomaly.process_batch('[]');
SELECT count(*) FROM anomaly.process_batch('SELECT 1 AS x WHERE false');
SELECT count(*) FROM anomaly.process_batch('[{"cpu": 6000}]', '{user_login_pattern}'::text[]);
SELECT helper.answer('SELECT anomaly.process_batch(' || call || ')') FROM unnest(ARRAY['NULL::jsonb', 'NULL::text', $$'{"cpu": 1}'::jsonb$$, $$'[{]'$$, $$'measure'$$, $$'measured', at => 'a'$$, $$'measured', entity => 'hots'$$,
    $$'[]'::jsonb, '{nonsense}'$$, $$'SELECT 1/0 AS cpu'$$]) call;
-- no query and no name: PostgreSQL's own error, which depends on its version
SELECT helper.answer($$SELECT anomaly.process_batch('DELETE FROM measured')$$) ~ '^(42602|42P01)' AS refused;
-- A cancel is not taken for a failing row.
SET statement_timeout = '300ms';
SELECT count(*) FROM anomaly.process_batch('SELECT at, cpu FROM measured WHERE pg_sleep(0.1) IS NOT NULL');
RESET statement_timeout;

SELECT anomaly.drop_detector('featured');
-- check_c43_process_data: values or series by metric, and what is anomalous among them
SELECT jsonb_pretty(jsonb_path_query_array(anomaly.process_data('system_cpu', '{"cpu": [51, 52, 7000], "no such": 3, "ram": null}'), '$.anomalies[*].keyvalue() ? (@.key == "type" || @.key == "metric" || @.key == "severity" || @.key == "value" || @.key == "suggestion").value'));
SELECT anomaly.process_data('system_memory', '{"cpu": 9000}');
SELECT jsonb_array_length(anomaly.process_data('system_cpu', jsonb_build_object('cpu', jsonb_build_array(jsonb_build_object('timestamp', now(), 'value', 52))), 'web9') -> 'anomalies') AS anomalies;
SELECT helper.answer('SELECT anomaly.process_data(' || call || ')') FROM unnest(ARRAY[$$'nonsense', '{}'$$, $$'system_cpu', '[]'$$, $$'system_cpu', NULL$$, $$'system_cpu', '{"cpu": "much"}'$$, $$'system_cpu', '{"cpu": [{"at": 3}]}'$$, $$'system_cpu', '{}'$$]) call;

SELECT count(anomaly.drop_detector(detector)) FROM anomaly.detectors;
DROP VIEW outcome;
DROP TABLE measured, "Measured Now";
TRUNCATE anomaly.sample;
