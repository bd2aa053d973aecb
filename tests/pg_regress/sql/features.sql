-- Further columns that are judged together with the value: detect_anomalies, detectors of sources, data points.
SET TIME ZONE 'UTC';

-- Load follows users; the last rows of each host are: usual, and usual values that do not belong together.
CREATE TABLE load (at timestamptz, host text, cpu float8, users int, weekend boolean, note text, part numeric(6,2));
INSERT INTO load
SELECT '2024-01-01 UTC'::timestamptz + i * interval '5 minutes', h, 50 + u + (i * 104729 % 13) / 10.0, 1000 + 10 * u, i % 7 > 4, 'n' || i % 3, u / 2.0
  FROM generate_series(1, 700) i, unnest('{a,b}'::text[]) h, LATERAL (SELECT (i * 7919 % 41)::int) AS s (u);
CREATE TABLE load_odd AS SELECT * FROM load
 UNION ALL SELECT '2024-01-01 UTC'::timestamptz + 701 * interval '5 minutes', 'a', 85, 1350, false, '', 17
 UNION ALL SELECT '2024-01-01 UTC'::timestamptz + 701 * interval '5 minutes', 'b', 85, 1020, false, '', 17;

-- check_c22_features_in_detect_anomalies: each number is usual, only together they are not
SELECT 'with' AS users, entity, value, is_anomaly FROM detect_anomalies('load_odd', value => 'cpu', strategy => 'one_class_svm', alerts_per_day => 0.5, features => '{users}') WHERE at = '2024-01-03 10:25'
UNION ALL SELECT 'without', entity, value, is_anomaly FROM detect_anomalies('load_odd', value => 'cpu', strategy => 'one_class_svm', alerts_per_day => 0.5) WHERE at = '2024-01-03 10:25'
ORDER BY 1, 2;
-- check_c22_auto_of_rows: without a strategy, the combination is found as well; with features only
SELECT 'with' AS users, entity, value, is_anomaly, position('found by' IN reasons::text) > 0 AS says_who FROM detect_anomalies('load_odd', value => 'cpu', alerts_per_day => 0.5, features => '{users}') WHERE at = '2024-01-03 10:25'
UNION ALL SELECT 'without', entity, value, is_anomaly, position('found by' IN reasons::text) > 0 FROM detect_anomalies('load_odd', value => 'cpu', alerts_per_day => 0.5) WHERE at = '2024-01-03 10:25'
ORDER BY 1, 2;
-- The value that nobody names is no feature, and so is the entity.
SELECT DISTINCT entity IS NULL AS no_entity, value BETWEEN 0 AND 20 AS of_part FROM detect_anomalies('SELECT at, cpu, users, part FROM load LIMIT 100', strategy => 'one_class_svm', features => '{cpu,users}');

-- check_c22_missing_features: NULL and NaN are missing alike, and are no reason for an error; booleans are 0 and 1
CREATE FUNCTION pg_temp.verdicts(query text, features text[], bucket interval DEFAULT NULL, aggregate text DEFAULT 'avg', value text DEFAULT 'cpu') RETURNS text AS
$$ SELECT md5(string_agg(v::text, ',' ORDER BY v.entity, v.at)) FROM detect_anomalies(query, value => value, entity => 'host', strategy => 'one_class_svm', features => features, bucket => bucket, aggregate => aggregate) v $$ LANGUAGE sql;
CREATE VIEW few AS SELECT * FROM load WHERE at < '2024-01-02';
SELECT pg_temp.verdicts('SELECT *, CASE WHEN users % 3 > 0 THEN users END AS f FROM few', '{f}')
     = pg_temp.verdicts('SELECT *, CASE WHEN users % 3 > 0 THEN users ELSE ''NaN''::float8 END AS f FROM few', '{f}') AS null_is_nan,
       pg_temp.verdicts('SELECT *, users > 1200 AS f FROM few', '{f}') = pg_temp.verdicts('SELECT *, (users > 1200)::int AS f FROM few', '{f}') AS boolean_is_number,
       pg_temp.verdicts('SELECT * FROM few', '{users,part}') = pg_temp.verdicts('SELECT *, users::real AS u, part::float8 AS p FROM few', '{u,p}') AS any_number,
       pg_temp.verdicts('SELECT * FROM few', '{users}') <> pg_temp.verdicts('SELECT * FROM few', '{}') AS matters,
       pg_temp.verdicts('SELECT * FROM few', '{}') = pg_temp.verdicts('SELECT * FROM few', NULL) AS none;
SELECT bool_and(deviation IS NOT NULL AND deviation < 'Infinity') AS finite FROM detect_anomalies('SELECT *, CASE users % 5 WHEN 0 THEN ''Infinity'' WHEN 1 THEN ''-Infinity'' WHEN 2 THEN 1e308 ELSE users END::float8 AS f FROM few', value => 'cpu', strategy => 'random_cut_forest', features => '{f}') WHERE status = 'ok';
SELECT bool_and(NOT is_anomaly) AS constant_and_empty FROM detect_anomalies('SELECT at, cpu, 5 AS five, NULL::int AS nothing FROM few WHERE host = ''a''', strategy => 'one_class_svm', value => 'cpu', features => '{five,nothing}') WHERE status = 'ok';

-- With buckets features are aggregated as the value is, and averaged where rows are counted.
SELECT a, pg_temp.verdicts('few', '{users,weekend}', '20 minutes', a) = pg_temp.verdicts(format('SELECT date_bin(''20 minutes'', at, ''2000-01-03'') AS at, host, %1$s AS cpu, %2$s AS users, %3$s AS weekend FROM few GROUP BY 1, 2', c, replace(c, 'cpu', 'users'), replace(c, 'cpu', 'weekend::int')), '{users,weekend}', '20 minutes') AS as_by_hand
  FROM (VALUES ('avg', 'avg(cpu)'), ('max', 'max(cpu)'), ('p75', 'percentile_cont(0.75) WITHIN GROUP (ORDER BY cpu)'), ('last', '(array_agg(cpu ORDER BY at DESC))[1]')) AS t (a, c);
SELECT DISTINCT expected IS NOT NULL AS counted FROM detect_anomalies('few', value => 'note', entity => '', strategy => 'one_class_svm', bucket => '20 minutes', aggregate => 'count', features => '{users}') WHERE status = 'ok';

-- check_c22_features_of_a_detector: trained and scanned with them
CREATE TABLE load_now (LIKE load);
INSERT INTO load_now SELECT at + (now() - '2024-01-03 10:25 UTC'), host, cpu, users, weekend, note, part FROM load;
SELECT anomaly.create_detector('system_cpu', 'one_class_svm', 'cpu', source => 'load_now', value => 'cpu', entity => 'host', features => '{users,weekend}', settle => '0 s', alerts_per_day => 0.5, name => 'load_features');
SELECT detector, status, split_part(chosen, '; ', 1) AS chosen FROM anomaly.watch('load_now', value => 'cpu', entity => 'host', features => ARRAY['users'], strategy => 'random_cut_forest', settle => '0 s', alerts_per_day => 0.5, name => 'load_watch');
SELECT detector, value_column, feature_columns FROM anomaly.detectors WHERE detector LIKE 'load_%' ORDER BY detector;
SELECT status, trained_rows, entities FROM anomaly.train('load_features');
SELECT entity, explanation->'features' AS features FROM anomaly.explain_detector('load_features');
INSERT INTO load_now VALUES (clock_timestamp(), 'a', 85, 1350, false), (clock_timestamp(), 'b', 85, 1020, false);
SELECT points_scored, alerts_opened FROM anomaly.scan('load_features');
SELECT entity, value FROM anomaly.alerts WHERE detector = 'load_features';
-- A detector by auto says of what it is made and why; its states go through the catalogue.
SELECT anomaly.create_detector('system_cpu', 'auto', 'cpu', source => 'load_now', value => 'cpu', entity => 'host', features => '{users}', settle => '0 s', alerts_per_day => 0.5, name => 'load_auto');
SELECT status, trained_rows, entities FROM anomaly.train('load_auto');
SELECT entity, strategy, explanation->>'because' AS because, jsonb_path_query_array(explanation, '$.members[*].member') AS members FROM anomaly.explain_detector('load_auto') ORDER BY entity;
INSERT INTO load_now VALUES (clock_timestamp(), 'a', 85, 1020, false);
SELECT points_scored, alerts_opened FROM anomaly.scan('load_auto');
SELECT entity, value, detection_strategy, reason->>'column' AS most_by FROM anomaly.alerts a, LATERAL (SELECT anomaly.explain(a.id)->'reasons'->0) AS e (reason) WHERE detector = 'load_auto';

-- check_c22_categories: text and enums; a level that was never seen is unusual, NULL is not, and a new identifier among identifiers neither
CREATE TYPE plan_of_visit AS ENUM ('free', 'paid', 'trial');
CREATE TABLE visits (at timestamptz, host text, ms float8, plan plan_of_visit, country varchar(20), session text);
INSERT INTO visits SELECT '2024-01-01 UTC'::timestamptz + i * interval '5 minutes', h, CASE WHEN i % 3 = 0 THEN 200 ELSE 100 END + (i * 104729 % 13), CASE WHEN i % 3 = 0 THEN 'free' ELSE 'paid' END::plan_of_visit, CASE i % 5 WHEN 0 THEN 'de' WHEN 1 THEN NULL ELSE 'fr' END, md5(i::text)
  FROM generate_series(1, 700) i, unnest('{a,b}'::text[]) h;
SELECT d.what, s.strategy, v.is_anomaly FROM (VALUES ('1 usual', 'paid', 'fr'), ('2 NULL', 'paid', NULL), ('3 new level', 'paid', 'xx'), ('4 value of another level', 'free', 'fr')) AS d (what, plan, country), unnest('{auto,isolation_forest,one_class_svm}'::text[]) s (strategy),
       LATERAL (SELECT * FROM detect_anomalies(format('SELECT at, ms, plan, country, session FROM visits WHERE host = ''a'' UNION ALL SELECT ''2024-01-03 10:25 UTC'', 106, %L, %L, ''new''', d.plan, d.country), value => 'ms', entity => '', strategy => s.strategy, alerts_per_day => 1, features => '{plan,country,session}') ORDER BY at DESC LIMIT 1) v ORDER BY 1, 2;
-- the buckets of a category have its most frequent level
SELECT pg_temp.verdicts('SELECT at, host, ms AS cpu, country FROM visits', '{country}', '20 minutes') = pg_temp.verdicts($$SELECT date_bin('20 minutes', at, '2000-01-03') AS at, host, avg(ms) AS cpu, mode() WITHIN GROUP (ORDER BY country COLLATE "C") AS country FROM visits GROUP BY 1, 2$$, '{country}', '20 minutes') AS as_by_hand;
UPDATE visits SET at = at + (now() - '2024-01-03 10:25 UTC');
SELECT anomaly.create_detector('system_latency', 'one_class_svm', 'ms', source => 'visits', value => 'ms', entity => 'host', features => '{country,plan}', settle => '0 s', alerts_per_day => 0.5, late_window => '1 hour', name => 'load_visits');
SELECT feature_columns, category_columns FROM anomaly.detectors WHERE detector = 'load_visits';
SELECT status, trained_rows FROM anomaly.train('load_visits');
INSERT INTO visits VALUES (clock_timestamp(), 'a', 106, 'paid', 'fr'), (clock_timestamp(), 'b', 106, 'paid', 'xx');
SELECT points_scored, alerts_opened FROM anomaly.scan('load_visits');
SELECT entity, metadata->'features' AS features, anomaly.explain(id)->'reasons'->0->'column' AS "column", anomaly.explain(id)->'reasons'->0->'value' AS value FROM anomaly.alerts WHERE detector = 'load_visits';
-- a model of categories is told from one of numbers
SELECT anomaly.create_detector('system_latency', 'one_class_svm', 'ms', source => 'SELECT at, ms, host, 1 AS country, 2 AS plan FROM visits', value => 'ms', entity => 'host', features => '{country,plan}', settle => '0 s', name => 'load_numbers');
SELECT anomaly.import_model('load_numbers', anomaly.export_model('load_visits'));
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.drop_detector('load_numbers');
-- a category that becomes a number stays a category
ALTER TABLE visits ALTER country TYPE int USING 1;
SELECT status FROM anomaly.scan('load_visits');

-- A feature that is corrected later counts as a row that comes late.
SELECT anomaly.create_detector('system_cpu', 'random_cut_forest', 'cpu', source => 'load_now', value => 'cpu', entity => 'host', features => '{users}', late_window => '1 day', settle => '0 s', name => 'load_late');
SELECT status FROM anomaly.train('load_late');
INSERT INTO load_now VALUES (clock_timestamp(), 'a', 60, 1100, false), (clock_timestamp(), 'b', 60, 1100, false);
SELECT points_scored FROM anomaly.scan('load_late');
UPDATE load_now SET users = 1101 WHERE host = 'b' AND at = (SELECT max(at) FROM load_now WHERE host = 'b');
SELECT status FROM anomaly.scan('load_late');
SELECT status FROM anomaly.scan('load_late');
SELECT entities_replayed FROM anomaly.runs WHERE detector = 'load_late' ORDER BY run_id;

-- fault_m4_features: the type of a column that changes later, a column that goes
ALTER TABLE load_now ALTER weekend TYPE text;
SELECT * FROM anomaly.scan('load_features');
\echo :LAST_ERROR_SQLSTATE
ALTER TABLE load_now DROP weekend;
SELECT * FROM anomaly.train('load_features');
\echo :LAST_ERROR_SQLSTATE

-- check_c6_features_of_a_data_point: keys of the point, or of its object "features"
SELECT anomaly.create_detector('system_cpu', 'one_class_svm', 'busy', features => '{users,weekend}', alerts_per_day => 0.5, min_data_points => 300, settle => '0 s', name => 'busy_points');
SELECT count(*) AS alerts
  FROM (SELECT at + (now() - '2024-01-03 10:25 UTC') AS at, cpu, users, weekend FROM load WHERE host = 'a' ORDER BY at) l,
       anomaly.process_data_point(jsonb_build_object('busy', cpu, 'timestamp', at) || CASE WHEN users % 20 = 0 THEN jsonb_build_object('users', users, 'weekend', weekend) ELSE jsonb_build_object('features', jsonb_build_object('users', users::text, 'weekend', weekend::int)) END);
SELECT count(*) AS kept, count(features->>'users') AS with_users, sum((features->>'weekend')::float8) AS weekend FROM anomaly.samples WHERE metric = 'busy';
SELECT count(*) AS usual FROM anomaly.process_data_point('{"busy": 85, "users": 1350, "weekend": false}');
SELECT entity, value FROM anomaly.process_data_point('{"busy": 85, "users": 1020, "weekend": false}');
SELECT count(*) AS missing FROM anomaly.process_data_point('{"busy": 70, "users": null}');
SELECT count(*) AS infinite FROM anomaly.process_data_point(jsonb_build_object('busy', 70, 'users', 'Infinity', 'timestamp', now() + interval '1 minute'));
SELECT features FROM anomaly.samples WHERE metric = 'busy' ORDER BY at DESC LIMIT 1;
-- The same points train the same model, whoever brought them.
CREATE TABLE busy_table AS SELECT at, value AS busy, (features->>'users')::float8 AS users, (features->>'weekend')::float8 AS weekend FROM anomaly.samples WHERE metric = 'busy';
SELECT anomaly.create_detector('system_cpu', 'one_class_svm', 'busy', source => 'busy_table', value => 'busy', features => '{users,weekend}', settle => '0 s', alerts_per_day => 0.5, min_data_points => 300, name => 'busy_from_table');
DELETE FROM anomaly.alert WHERE detector = 'busy_points';
UPDATE anomaly.detector_state SET watermark = now() WHERE detector ~ '^busy_';
SELECT detector, status, trained_rows FROM unnest('{busy_points,busy_from_table}'::text[]) AS d (detector), anomaly.train(detector);
SELECT count(*), count(DISTINCT md5(payload)) FROM anomaly.model WHERE detector ~ '^busy_' AND active;
SELECT anomaly.process_data_point('{"busy": 70, "users": "many"}');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.process_data_point('{"busy": 70, "users": [1000]}');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.process_data_point('{"busy": 70, "features": 1000}');
\echo :LAST_ERROR_SQLSTATE

-- What no detector judges by now is nobody's error.
SELECT anomaly.create_detector('system_cpu', 'one_class_svm', 'busy', features => '{remark}', name => 'busy_off');
SELECT anomaly.disable('busy_off');
SELECT count(*) AS alerts FROM anomaly.process_data_point('{"busy": 70, "users": 1200, "weekend": false, "remark": "text", "entity_id": "other"}');

-- check_c6_one_point: several metrics, whose detectors are trained and enabled; a filter by type; an unknown metric, null
SELECT count(anomaly.create_detector(t, 'zscore', m, min_data_points => 20, name => n)) FROM (VALUES ('system_cpu', 'c6_load', 'c6_a'), ('system_memory', 'c6_load', 'c6_b'), ('system_disk', 'c6_disk', 'c6_c'), ('system_disk', 'c6_disk', 'c6_off'), ('system_disk', 'c6_other', 'c6_new')) AS d (t, m, n);
SELECT anomaly.disable('c6_off');
SELECT count(*) AS alerts FROM generate_series(1, 60) i, anomaly.process_data_point(jsonb_build_object('c6_load', 10 + i % 7, 'c6_disk', 5 + i % 3, 'entity_id', 'e' || i % 2, 'entity_type', 'host', 'timestamp', to_char(now() - (61 - i) * interval '1 s', 'YYYY-MM-DD"T"HH24:MI:SSOF')));
SELECT detector, entity, metric_name, value FROM anomaly.process_data_point('{"c6_load": 500, "c6_disk": 900, "c6_other": 900, "unknown": 900, "entity_id": "e1", "entity_type": "host"}') ORDER BY detector;
SELECT detector, entity_type FROM anomaly.alerts WHERE detector ~ '^c6_' ORDER BY detector;
SELECT detector FROM anomaly.process_data_point('{"c6_load": 600, "c6_disk": 900, "entity_id": "e0"}', anomaly_types => '{system_memory}');
SELECT count(*) AS of_null_or_unknown FROM anomaly.process_data_point('{"c6_load": null, "unknown": 900, "entity_id": "e0"}');

-- Bad features: a typed error that says what to type.
SELECT count(*) FROM detect_anomalies('load', value => 'cpu', strategy => 'novelty', features => '{users}');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.watch('load', value => 'cpu', features => '{users}', strategy => 'mad');
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM detect_anomalies('load', value => 'cpu', strategy => 'one_class_svm', features => '{user}');
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM detect_anomalies('load', value => 'cpu', strategy => 'random_cut_forest', features => '{note}');
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM detect_anomalies('load', value => 'cpu', strategy => 'one_class_svm', features => '{at}');
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM detect_anomalies('load', value => 'cpu', strategy => 'one_class_svm', features => '{users,users}');
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM detect_anomalies('load', value => 'cpu', strategy => 'one_class_svm', features => '{cpu}');
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM detect_anomalies('load', value => 'cpu', strategy => 'one_class_svm', features => '{users,NULL}');
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM detect_anomalies('load', value => 'cpu', strategy => 'one_class_svm', features => '{""}');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.create_detector('system_cpu', 'one_class_svm', 'c', features => ARRAY(SELECT 'f' || i FROM generate_series(1, 17) i), name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.create_detector('system_cpu', 'mad', 'c', features => '{users}', name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.create_detector('system_cpu', 'one_class_svm', 'c', features => '{entity_id}', name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.create_detector('system_cpu', 'one_class_svm', 'c', features => '{c}', name => 'x');
\echo :LAST_ERROR_SQLSTATE

SELECT count(anomaly.drop_detector(d)) FROM unnest('{load_features,load_auto,load_visits,load_watch,load_late,busy_points,busy_from_table,busy_off,c6_a,c6_b,c6_c,c6_off,c6_new}'::text[]) d;
DELETE FROM anomaly.alert WHERE detector ~ '^(load|busy|c6)_';
-- The next file counts its alerts from 1.
TRUNCATE anomaly.alert;
SELECT setval('anomaly.alert_id_seq', 1, false);
DELETE FROM anomaly.sample WHERE metric ~ '^(busy|c6)';
DROP VIEW few;
DROP TABLE visits, load, load_odd, load_now, busy_table;
DROP TYPE plan_of_visit;
