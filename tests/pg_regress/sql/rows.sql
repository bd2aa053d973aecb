-- anomaly.rows: the rows behind an alert.
SET TIME ZONE 'UTC';
CREATE TABLE behind (at timestamptz, host text, v double precision, note text, amount numeric);
INSERT INTO behind SELECT now() - i * interval '1 minute', h, i * 7919 % 101, 'row ' || i || ' of ' || h, i + 0.12345678901234567890 FROM generate_series(1, 600) i, unnest('{a,b}'::text[]) h;
SELECT anomaly.create_detector('data_outlier', 'mad', 'v', source => 'behind', value => 'v', at => 'at', entity => 'host', settle => '0', name => 'behind_v');
SELECT anomaly.create_detector('data_outlier', 'mad', 'v', source => $$SELECT at, v, '$5' AS e FROM behind WHERE host = 'a'$$, value => 'v', at => 'at', entity => 'e', bucket => '1 hour', aggregate => 'max', min_data_points => 5, settle => '0', name => 'behind_hours');
SELECT d.detector, t.status FROM anomaly.detectors d, anomaly.train(d.detector) t WHERE d.detector ~ '^behind_' ORDER BY 1;
INSERT INTO behind VALUES (clock_timestamp(), 'a', 9000, 'first', 1.5), (clock_timestamp(), 'b', 3, 'another host', 2), (clock_timestamp() + interval '1 microsecond', 'a', 9001, E'second, with a "quote"', 3.12345678901234567890);
SELECT pg_sleep(0.01);
SELECT alerts_opened FROM anomaly.scan('behind_v');
SELECT r ->> 'note' AS note, r ->> 'v' AS v, r ->> 'amount' AS amount, (SELECT count(*) FROM json_object_keys(r)) AS columns FROM anomaly.alerts a, anomaly.rows(a.id) r WHERE detector = 'behind_v';
SELECT r ->> 'note' AS note FROM anomaly.alerts a, anomaly.rows(alert => a.id, max_rows => 1) r WHERE detector = 'behind_v';
-- A bucket is all of its rows. The hour that is still going on is not over: one that is.
UPDATE behind SET v = 9000 WHERE note = 'row 120 of a';
SELECT status FROM anomaly.train('behind_hours');
BEGIN;
DELETE FROM anomaly.model WHERE detector = 'behind_hours';
UPDATE anomaly.detector_state SET watermark = NULL WHERE detector = 'behind_hours';
UPDATE anomaly.detector SET settle = '3 hours 30 minutes' WHERE detector = 'behind_hours';
SELECT status FROM anomaly.train('behind_hours');
UPDATE anomaly.detector SET settle = '0' WHERE detector = 'behind_hours';
SELECT alerts_opened FROM anomaly.scan('behind_hours');
SELECT count(*), max((r ->> 'v')::float8) FROM anomaly.alerts a, anomaly.rows(a.id, 1000) r WHERE detector = 'behind_hours';
ROLLBACK;
-- Points that were brought
SELECT anomaly.create_detector('system_cpu', 'mad', 'behind_load', min_data_points => 5, threshold => 6, features => '{}');
SELECT count(*) FROM generate_series(1, 20) i, anomaly.process_data_point(jsonb_build_object('behind_load', i % 3, 'timestamp', now() - (21 - i) * interval '1 s'));
SELECT detector FROM anomaly.process_data_point('{"behind_load": 50}');
SELECT r ->> 'value' AS value, r ->> 'metric' AS metric FROM anomaly.alerts a, anomaly.rows(a.id) r WHERE detector ~ 'behind_load';
-- Who may: the session of the owner only
CREATE ROLE behind_monitor IN ROLE anomaly_monitor;
SELECT id AS alert FROM anomaly.alerts WHERE detector = 'behind_v' \gset
SET ROLE behind_monitor;
SELECT anomaly.rows(:alert);
RESET ROLE;
SELECT anomaly.rows(-1);
SELECT anomaly.rows(NULL);
SELECT anomaly.rows(:alert, 0);
ALTER TABLE behind RENAME host TO machine;
SELECT anomaly.rows(:alert);
SELECT anomaly.drop_detector('behind_v'), anomaly.drop_detector('behind_hours'), anomaly.drop_detector('system_cpu_statistical_mad_behind_load');
\set VERBOSITY sqlstate
SELECT anomaly.rows(:alert);
\set VERBOSITY default
DROP TABLE behind;
DROP ROLE behind_monitor;
DELETE FROM anomaly.sample WHERE metric = 'behind_load';
DELETE FROM anomaly.alert WHERE detector ~ 'behind_';
