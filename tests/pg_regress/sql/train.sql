-- Training on passed rows, of all detectors, and by itself.
SET TIME ZONE 'UTC';
TRUNCATE anomaly.sample;    -- of other files: it is learned from

-- A hundred days, one row an hour; the level was another one until thirty days ago.
CREATE TABLE hourly AS SELECT date_trunc('hour', now()) - i * interval '1 hour' AS at, CASE WHEN i > 720 THEN 1000 ELSE 10 END + (i * 7919 % 101) / 100.0 AS v FROM generate_series(1, 2400) i;
SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', source => 'hourly', settle => '0 s', name => w, training_window => w::interval) FROM unnest('{"7 days","30 days","90 days"}'::text[]) w;
-- defect_s24_training_window: only its rows are used
SELECT d.detector, t.status FROM anomaly.detectors d, anomaly.train(d.detector) t ORDER BY d.training_window;
SELECT detector, d.trained_rows BETWEEN extract(day FROM training_window) * 24 - 1 AND extract(day FROM training_window) * 24 AS all_of_it, m.trained_from >= now() - training_window AS none_before
  FROM anomaly.detectors d JOIN anomaly.models m USING (detector) ORDER BY training_window;

-- check_c9_passed_rows: a table, a query, an array; the window ends with the latest of them, and too few are refused
CREATE TABLE history AS SELECT timestamptz '2020-01-01' + i * interval '1 hour' AS at, 500 + i % 10 AS v FROM generate_series(1, 2000) i;
SELECT status, trained_rows, entities, model_version FROM anomaly.train('7 days', 'history');
SELECT trained_from, trained_until FROM anomaly.models WHERE detector = '7 days' AND active;
SELECT status, trained_rows, model_version FROM anomaly.train('7 days', source => 'SELECT at, v FROM history WHERE v < 505');
SELECT status, trained_rows, model_version FROM anomaly.train('7 days', rows => (SELECT jsonb_agg(jsonb_build_object('timestamp', at, 'value', v)) FROM history));
SELECT status, trained_rows, model_version FROM anomaly.train('7 days', (SELECT jsonb_agg(jsonb_build_object('at', at, 'v', v))::text FROM history));
SELECT status, trained_rows, model_version FROM anomaly.train('7 days', 'SELECT * FROM history LIMIT 99');
SELECT status, trained_rows, model_version FROM anomaly.train('7 days', 'SELECT at, CASE WHEN v < 504 THEN v END AS v FROM history');
SELECT status, trained_rows, model_version FROM anomaly.train('7 days', rows => '[]');
SELECT status, trained_rows, model_version FROM anomaly.train('7 days', rows => '[{"timestamp": null, "value": 3}, {"value": "NaN", "timestamp": "2020-01-01"}]');
SELECT version, trained_rows, active FROM anomaly.models WHERE detector = '7 days' ORDER BY version;
-- What was not judged before is judged by what was passed.
INSERT INTO hourly VALUES (clock_timestamp(), 10.5);
SELECT rows_read, alerts_opened FROM anomaly.scan('7 days');
SELECT value, round(expected) AS expected FROM anomaly.alerts WHERE detector = '7 days';
-- One that is fed takes the keys of its points.
SELECT anomaly.create_detector('system_cpu', 'random_cut_forest', 'cpu', features => '{users,weekend}', name => 'fed');
SELECT status, trained_rows, entities FROM anomaly.train('fed', rows => (SELECT jsonb_agg(jsonb_build_object('timestamp', timestamptz '2020-01-01' + i * interval '1 hour', 'cpu', 50 + i % 9, 'entity_id', 'web' || i % 2, 'users', i % 5, 'features', jsonb_build_object('weekend', i % 7 > 4)))
  FROM generate_series(1, 400) i));
SELECT count(*) FROM anomaly.process_data_point('{"cpu": 9000, "entity_id": "web1", "users": 3}');
SELECT status, trained_rows FROM anomaly.train('fed', 'SELECT at AS "timestamp", v AS cpu, 3 AS users, true AS weekend FROM history');
SELECT helper.answer(format('SELECT anomaly.train(%s)', call)) FROM unnest(ARRAY[$$'fed', '[{]'$$, $$'fed', rows => '{}'$$, $$'fed', rows => '[3]'$$, $$'fed', 'hitsory'$$, $$'fed', 'history', '[]'$$, $$'fed', rows => '[{"timestamp": "soon", "value": 3}]'$$,
    $$'fed', rows => '[{"timestamp": "2020-01-01", "cpu": "much"}]'$$, $$'7 days', 'SELECT 1 AS v'$$, $$'7 days', 'SELECT now() AS at'$$, $$NULL$$, $$'no such', rows => '[]'$$]) call;

-- check_c9_train_all: a row for each, with the reason where it was not
CREATE TABLE empty (at timestamptz, v float8);
SELECT anomaly.create_detector('data_drift', 'zscore', 'v', source => 'empty', name => 'empty');
SELECT anomaly.create_detector('data_drift', 'zscore', 'v', source => 'SELECT at, 1 / v AS v FROM empty', name => 'failing');
INSERT INTO empty VALUES (now() - interval '1 hour', 0);
SELECT anomaly.create_detector('data_drift', 'zscore', 'v', source => 'hourly', name => 'off') AS off, anomaly.disable('off');
SELECT * FROM anomaly.train_all() ORDER BY detector;
SELECT * FROM anomaly.train_all('data_drift') ORDER BY detector;
SELECT helper.answer($$SELECT anomaly.train_all('nonsense')$$);
CREATE ROLE reg5_trainer;
SET ROLE reg5_trainer;
SELECT * FROM anomaly.train_all();
RESET ROLE;
GRANT anomaly_monitor TO reg5_trainer;
SET ROLE reg5_trainer;
SELECT * FROM anomaly.train_all();
SELECT helper.answer($$SELECT anomaly.train('7 days', 'SELECT now() AS at, 1 AS v')$$);
RESET ROLE;
DROP ROLE reg5_trainer;

-- check_c41_retraining: by itself, with versions, once it is due
SELECT anomaly.create_detector('data_outlier', 'mad', 'v', source => 'hourly', settle => '0 s', retrain_every => '1 day', name => 'renewed');
SELECT status FROM anomaly.train('renewed');
INSERT INTO hourly VALUES (clock_timestamp(), 10.5);
SELECT alerts_opened FROM anomaly.scan('renewed');
SELECT version, active FROM anomaly.models WHERE detector = 'renewed' ORDER BY version;
UPDATE anomaly.detector_state SET last_training_time = last_training_time - interval '25 hours' WHERE detector = 'renewed';
INSERT INTO hourly VALUES (clock_timestamp(), 10.6), (clock_timestamp(), 9999);
SELECT alerts_opened FROM anomaly.scan('renewed');
SELECT version, active, trained_until > now() - interval '1 minute' AS with_the_latest FROM anomaly.models WHERE detector = 'renewed' ORDER BY version;
SELECT retrain_every, model_version, last_training_time > now() - interval '1 minute' AS just_now FROM anomaly.detectors WHERE detector = 'renewed';
SELECT count(*) AS open FROM anomaly.alerts WHERE detector = 'renewed' AND status = 'open';
-- A training that fails costs no detection: it is tried again later.
UPDATE anomaly.detector_state SET last_training_time = last_training_time - interval '25 hours' WHERE detector = 'renewed';
SET anomaly_detection.train_time_limit = 1;
INSERT INTO hourly VALUES (clock_timestamp(), 10.7);
SELECT rows_read FROM anomaly.scan('renewed');
RESET anomaly_detection.train_time_limit;
SELECT model_version, status, status_reason FROM anomaly.detectors WHERE detector = 'renewed';
INSERT INTO hourly VALUES (clock_timestamp(), 10.7);
SELECT rows_read FROM anomaly.scan('renewed');
SELECT model_version FROM anomaly.detectors WHERE detector = 'renewed';
UPDATE anomaly.detector_state SET retry_training_at = now() WHERE detector = 'renewed';
INSERT INTO hourly VALUES (clock_timestamp(), 10.7);
SELECT rows_read FROM anomaly.scan('renewed');
SELECT model_version, status, status_reason FROM anomaly.detectors WHERE detector = 'renewed';

-- What people have said is learned from at the next scan, without a schedule as well.
SELECT changed FROM anomaly.alter_detector('renewed', '{"retrain_every": null}');
UPDATE anomaly.detector_state SET retrain_requested = true WHERE detector = 'renewed';
INSERT INTO hourly VALUES (clock_timestamp(), 10.7);
SELECT rows_read FROM anomaly.scan('renewed');
SELECT version, active FROM anomaly.models WHERE detector = 'renewed' ORDER BY version;
SELECT retrain_requested FROM anomaly.detector_state WHERE detector = 'renewed';
-- What the same scan has just called an anomaly is not learned by it.
UPDATE anomaly.detector_state SET retrain_requested = true WHERE detector = 'renewed';
INSERT INTO hourly VALUES (clock_timestamp(), 99);
SELECT rows_read, alerts_opened FROM anomaly.scan('renewed');
SELECT version, trained_rows - lag(trained_rows) OVER (ORDER BY version) AS more FROM anomaly.models WHERE detector = 'renewed' ORDER BY version DESC LIMIT 1;

SELECT count(anomaly.drop_detector(detector)) FROM anomaly.detectors;
DROP TABLE hourly, history, empty;
TRUNCATE anomaly.sample;
