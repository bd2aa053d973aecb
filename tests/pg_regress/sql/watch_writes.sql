-- Rows judged in the statement that writes them. settle puts the clock of detectors where the test wants it: minutes are
-- counted from the training on.
SET TIME ZONE 'UTC';
CREATE ROLE writes_owner;
CREATE ROLE writes_writer;
GRANT USAGE, CREATE ON SCHEMA public TO writes_owner;
CREATE VIEW score AS
SELECT detector, row_key, entity, extract(minute FROM at)::int AS minute, value, round(expected::numeric, 1) AS expected, lower < value AND value < upper AS within,
       round(deviation::numeric, 1) AS deviation, is_anomaly, status FROM anomaly.row_scores;
-- Three sensors, two hours of a value a minute.
CREATE TABLE gauge (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, dropped text, at timestamptz, sensor text, v numeric, note text);
CREATE FUNCTION pg_temp.minute(i int) RETURNS timestamptz LANGUAGE sql AS $$ SELECT date_trunc('day', now()) - interval '20 hours' + i * interval '1 minute' $$;
INSERT INTO gauge (at, sensor, v) SELECT pg_temp.minute(i - 130), s, 100 * (ascii(s) - 96) + i * 7919 % 101 / 25.0
  FROM generate_series(0, 119) i, unnest('{a,b,c}'::text[]) s;
ALTER TABLE gauge DROP COLUMN dropped;
CREATE FUNCTION pg_temp.set_clock(i int) RETURNS void LANGUAGE sql AS $$ UPDATE anomaly.detector SET settle = clock_timestamp() - pg_temp.minute(i) WHERE detector = 'w_gauge' $$;
SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', source => 'gauge', value => 'v', at => 'at', entity => 'sensor', threshold => 6, name => 'w_gauge');
SELECT pg_temp.set_clock(-9);
SELECT status, trained_rows FROM anomaly.train('w_gauge');

-- What it did, and what to type next.
SELECT * FROM anomaly.watch_writes('gauge');
SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 'gauge'::regclass ORDER BY 1;
SELECT detector, source, mode, updates, status, reason, hint, failures FROM anomaly.write_checks;

-- Annotate: every row with a value has a verdict; NULL, NaN and infinities; an entity without a name, and one that is not known yet.
INSERT INTO gauge (at, sensor, v) VALUES (pg_temp.minute(1), 'a', 900), (pg_temp.minute(2), 'a', 101), (pg_temp.minute(3), 'b', 201), (pg_temp.minute(3), 'b', NULL), (pg_temp.minute(4), 'b', 'NaN'),
  (pg_temp.minute(5), 'c', '-Infinity'), (pg_temp.minute(6), 'new', 5), (pg_temp.minute(7), 'new', 500000), (pg_temp.minute(8), NULL, 101), (NULL, 'a', 101), ('infinity', 'a', 101);
SELECT * FROM score ORDER BY row_key -> 'id';
-- The same verdict as the scan's, and nothing has been learned or alerted by the trigger.
SELECT count(*) FROM anomaly.alerts WHERE detector = 'w_gauge';
SELECT points_processed, anomalies_detected FROM anomaly.detectors WHERE detector = 'w_gauge';
-- check_write_time_one_path: a scan of the same rows finds what was found as they were written
SELECT pg_temp.set_clock(10);
SELECT rows_read, alerts_opened FROM anomaly.scan('w_gauge');
SELECT a.entity, a.value, a.value = s.value AND a.expected = s.expected AND a.deviation = s.deviation AND a.lower = s.lower AND a.upper = s.upper AS as_written
  FROM anomaly.alerts a LEFT JOIN anomaly.row_scores s ON s.detector = a.detector AND s.entity = a.entity AND s.at = a.peak_at AND s.is_anomaly
 WHERE a.detector = 'w_gauge' ORDER BY 1;
-- After the scan, what it has learned is known: the entity that was new has a point or two of its own.
INSERT INTO gauge (at, sensor, v) VALUES (pg_temp.minute(11), 'new', 6) RETURNING sensor;
SELECT entity, value, status FROM score WHERE minute = 11;
TRUNCATE anomaly.row_score;

-- COPY, ON CONFLICT, statements without rows, a rolled back one.
COPY gauge (at, sensor, v) FROM stdin;
2026-01-01 00:00:00+00	a	102
2026-01-01 00:01:00+00	c	900
\.
CREATE UNIQUE INDEX gauge_once ON gauge (note);
INSERT INTO gauge (at, sensor, v, note) VALUES (pg_temp.minute(12), 'a', 103, 'x');
INSERT INTO gauge (at, sensor, v, note) VALUES (pg_temp.minute(13), 'a', 901, 'x') ON CONFLICT (note) DO NOTHING;
INSERT INTO gauge (at, sensor, v, note) VALUES (pg_temp.minute(14), 'a', 902, 'x') ON CONFLICT (note) DO UPDATE SET v = EXCLUDED.v;
INSERT INTO gauge (at, sensor, v) SELECT now(), 'a', 1 WHERE false;
BEGIN;
INSERT INTO gauge (at, sensor, v) VALUES (pg_temp.minute(15), 'a', 903);
ROLLBACK;
SELECT entity, value, is_anomaly FROM score ORDER BY value;
-- With updates, rows of an UPDATE, of ON CONFLICT DO UPDATE and of MERGE as well.
SELECT mode, chosen FROM anomaly.watch_writes('w_gauge', updates => true);
TRUNCATE anomaly.row_score;
UPDATE gauge SET v = 904 WHERE note = 'x';
INSERT INTO gauge (at, sensor, v, note) VALUES (pg_temp.minute(16), 'b', 905, 'x'), (pg_temp.minute(16), 'b', 906, 'y') ON CONFLICT (note) DO UPDATE SET v = EXCLUDED.v;
MERGE INTO gauge g USING (VALUES ('y', 907), ('z', 908)) s (note, v) ON g.note = s.note
  WHEN MATCHED THEN UPDATE SET v = s.v WHEN NOT MATCHED THEN INSERT (at, sensor, v, note) VALUES (pg_temp.minute(17), 'c', s.v, s.note);
SELECT entity, value, is_anomaly FROM score ORDER BY value;
TRUNCATE anomaly.row_score;

-- Notify: anomalous rows only. (Listeners: tests/tap/053_watch_writes.pl)
SELECT mode, next_step FROM anomaly.watch_writes('gauge', 'notify');
SELECT tgname FROM pg_trigger WHERE tgrelid = 'gauge'::regclass ORDER BY 1;
INSERT INTO gauge (at, sensor, v) SELECT pg_temp.minute(20), 'a', 101 + i % 3 + CASE WHEN i IN (7000, 8000) THEN 500 ELSE 0 END FROM generate_series(1, 10000) i;
SELECT count(*), min(value), count(*) FILTER (WHERE is_anomaly) FROM score;
TRUNCATE anomaly.row_score;
-- With room for the states of few entities all are judged, and alike.
SELECT mode FROM anomaly.watch_writes('gauge', 'annotate');
SET anomaly_detection.write_check_memory = '64kB';
INSERT INTO gauge (at, sensor, v) SELECT '2026-01-02', 'x' || i % 1000, 202 FROM generate_series(1, 5000) i;
INSERT INTO gauge (at, sensor, v) SELECT '2026-01-02', 'abc'::char(1), 102 FROM generate_series(1, 3) i;
RESET anomaly_detection.write_check_memory;
SELECT count(*), count(DISTINCT entity), count(DISTINCT created_at), count(DISTINCT (expected, deviation, status)) FROM anomaly.row_scores GROUP BY entity LIKE 'x%' ORDER BY 1;
TRUNCATE anomaly.row_score;

-- Reject: the statement fails, and says which row, why, and what to do; a usual one is written.
SELECT mode, next_step FROM anomaly.watch_writes('gauge', 'reject');
INSERT INTO gauge (at, sensor, v) VALUES ('2026-01-01 00:03+00', 'a', 101);
INSERT INTO gauge (id, at, sensor, v) OVERRIDING SYSTEM VALUE VALUES (20000, '2026-01-01 00:04+00', 'a', 101), (20001, '2026-01-01 00:05+00', 'b', 900), (20002, '2026-01-01 00:06+00', 'a', 990);
\echo :SQLSTATE
SELECT count(*) FROM gauge WHERE id >= 20000;
SET anomaly_detection.write_check = off;
INSERT INTO gauge (id, at, sensor, v) OVERRIDING SYSTEM VALUE VALUES (20001, '2026-01-01 00:05+00', 'b', 900);
RESET anomaly_detection.write_check;
SELECT count(*) FROM gauge WHERE id >= 20000;
SELECT count(*) FROM anomaly.row_scores;
-- What people have said counts: a value that was called normal is let in, one further out is not. So does what is expected.
SELECT anomaly.feedback(id, 'false_positive') > 0 FROM anomaly.alerts WHERE detector = 'w_gauge' AND entity = 'a';
\set VERBOSITY terse
INSERT INTO gauge (at, sensor, v) VALUES (pg_temp.minute(30), 'a', 890);
INSERT INTO gauge (at, sensor, v) VALUES (pg_temp.minute(40), 'a', 1990);
SELECT anomaly.add_calendar('w', pg_temp.minute(40), '1 hour', detector => 'w_gauge', entity => 'a', action => 'expect') > 0;
INSERT INTO gauge (at, sensor, v) VALUES (pg_temp.minute(40), 'a', 1991), (pg_temp.minute(99), 'a', 1992);
INSERT INTO gauge (at, sensor, v) VALUES (pg_temp.minute(100), 'a', 1993);
\set VERBOSITY default
SELECT v FROM gauge WHERE sensor = 'a' AND (v BETWEEN 880 AND 899 OR v BETWEEN 1980 AND 1999) ORDER BY 1;

-- Two detectors on one table: each its mode.
SELECT anomaly.create_detector('data_outlier', 'mad', 'v', source => 'gauge', value => 'v', at => 'at', name => 'w_second', threshold => 100000);
SELECT * FROM anomaly.watch_writes('w_second');
SELECT status FROM anomaly.train('w_second');
SELECT mode FROM anomaly.watch_writes('gauge');
SELECT mode FROM anomaly.watch_writes('gauge', detector => 'w_second');
INSERT INTO gauge (at, sensor, v) VALUES (pg_temp.minute(31), 'b', 203);
SELECT detector, entity, value, is_anomaly FROM score ORDER BY 1;
SELECT detector, mode, status FROM anomaly.write_checks ORDER BY 1;

-- What does not judge: disabled, paused, dropped. The triggers stay and do nothing.
TRUNCATE anomaly.row_score;
SELECT anomaly.disable('w_gauge');
SELECT detector, status, reason, hint FROM anomaly.write_checks ORDER BY 1;
INSERT INTO gauge (at, sensor, v) VALUES (pg_temp.minute(32), 'b', 901);
SELECT anomaly.enable('w_gauge');
SELECT anomaly.pause() IS NOT NULL;
INSERT INTO gauge (at, sensor, v) VALUES (pg_temp.minute(33), 'b', 902);
SELECT detector, status, hint FROM anomaly.write_checks ORDER BY 1;
SELECT anomaly.resume() IS NOT NULL;
SELECT detector, value FROM score ORDER BY 1, 2;
SELECT anomaly.drop_detector('w_second');
\set VERBOSITY terse
INSERT INTO gauge (at, sensor, v) VALUES (pg_temp.minute(34), 'b', 903);
\set VERBOSITY default

-- What cannot be judged is let in with one warning, counted, and shown with what to do: an altered detector, a column that is gone, a damaged state.
SELECT mode FROM anomaly.watch_writes('gauge', 'annotate');
UPDATE anomaly.detector_state SET needs_training = true WHERE detector = 'w_gauge';
INSERT INTO gauge (at, sensor, v) VALUES (pg_temp.minute(35), 'b', 904);
INSERT INTO gauge (at, sensor, v) VALUES (pg_temp.minute(35), 'b', 904);
SELECT status, reason, hint, failures FROM anomaly.write_checks;
SELECT status FROM anomaly.train('w_gauge');
INSERT INTO gauge (at, sensor, v) VALUES (pg_temp.minute(36), 'b', 905);
ALTER TABLE gauge RENAME sensor TO device;
INSERT INTO gauge (at, device, v) VALUES (pg_temp.minute(37), 'b', 203);
INSERT INTO gauge (at, device, v) VALUES (pg_temp.minute(37), 'b', 203);
ALTER TABLE gauge RENAME device TO sensor;
INSERT INTO gauge (at, sensor, v) VALUES (pg_temp.minute(38), 'b', 906);
UPDATE anomaly.entity_state SET payload = '\xdead' WHERE detector = 'w_gauge' AND entity = 'c';
UPDATE anomaly.detector_state SET consecutive_failures = 0 WHERE detector = 'w_gauge';
INSERT INTO gauge (at, sensor, v) VALUES (pg_temp.minute(39), 'c', 907);
INSERT INTO gauge (at, sensor, v) VALUES (pg_temp.minute(39), 'b', 907);
SELECT value FROM score ORDER BY 1;
SELECT anomaly.unwatch_writes('w_gauge'), anomaly.unwatch_writes('w_gauge'), anomaly.unwatch_writes('gauge');
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'gauge'::regclass;
SELECT anomaly.drop_detector('w_gauge');

-- A type that changes is read as it is now; several columns, categories, ratios.
SET ROLE writes_owner;
CREATE TABLE rated (host text, hour int, at timestamp, ratio real, requests int, kind text, PRIMARY KEY (hour, host));
INSERT INTO rated SELECT 'h' || i % 2, i, timestamp '2026-01-01' + i * interval '1 hour', 0.5 + i % 7 / 100.0, 1000, 'usual' FROM generate_series(1, 400) i;
SELECT anomaly.create_detector('data_outlier', 'zscore', 'r', source => 'rated', value => 'ratio', at => 'at', entity => 'host', trials => 'requests', name => 'w_ratio', training_window => '10 years');
SELECT anomaly.create_detector('data_outlier', 'one_class_svm', 'v', source => 'rated', value => 'requests', at => 'at', features => '{ratio,kind}', name => 'w_features', training_window => '10 years');
RESET ROLE;
SET SESSION AUTHORIZATION writes_owner;
SELECT d, t.status FROM unnest('{w_ratio,w_features}'::text[]) d, anomaly.train(d) t;
SELECT d, w.mode FROM unnest('{w_ratio,w_features}'::text[]) d, anomaly.watch_writes(d) w;
INSERT INTO rated VALUES ('h1', 401, '2026-01-17 17:00', 0.53, 1000, 'usual'), ('h1', 402, '2026-01-17 18:00', 0.9, 1000, 'new'), ('h1', 403, '2026-01-17 19:00', 0.9, 2, NULL);
SELECT detector, row_key, value::numeric(6, 2), is_anomaly, at FROM anomaly.row_scores ORDER BY detector COLLATE "C" DESC, at LIMIT 3;
SELECT detector, row_key, value, deviation >= 0 AS judged FROM anomaly.row_scores WHERE detector = 'w_features' ORDER BY at;
ALTER TABLE rated ALTER at TYPE timestamptz USING at AT TIME ZONE 'Asia/Tokyo';
INSERT INTO rated VALUES ('h1', 404, '2026-01-17 20:00+00', 0.53, 1000, 'usual');
SELECT at FROM anomaly.row_scores WHERE row_key @> '{"hour": 404}' AND detector = 'w_ratio';
-- The triggers of detectors that are gone do nothing, until they are dropped.
SELECT anomaly.drop_detector('w_ratio'), anomaly.drop_detector('w_features');
INSERT INTO rated VALUES ('h1', 405, '2026-01-17 21:00+00', 0.9, 1000, 'usual');
SELECT anomaly.unwatch_writes('rated'), anomaly.unwatch_writes('rated');
SELECT count(*) FROM anomaly.row_scores WHERE row_key @> '{"hour": 405}';

-- check_write_time_any_writer: whoever may INSERT writes, and is judged, with no rights on anything else; row security of the table does not matter.
CREATE TABLE owned (id int PRIMARY KEY, at timestamptz, v double precision);
INSERT INTO owned SELECT i, now() - i * interval '1 minute', 10 + i % 5 FROM generate_series(1, 200) i;
ALTER TABLE owned ENABLE ROW LEVEL SECURITY;
CREATE POLICY insert_only ON owned FOR INSERT TO writes_writer WITH CHECK (true);
GRANT INSERT ON owned TO writes_writer;
SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', source => 'owned', value => 'v', at => 'at', name => 'w_owned', threshold => 6, training_window => '1 day');
SELECT status FROM anomaly.train('w_owned');
SELECT mode FROM anomaly.watch_writes('owned');
SET SESSION AUTHORIZATION writes_writer;
INSERT INTO owned VALUES (1001, now(), 12), (1002, now(), 77);
SELECT id FROM owned;
SELECT count(*) FROM anomaly.row_scores;
SELECT * FROM anomaly.watch_writes('owned');
SELECT * FROM anomaly.watch_writes('w_owned');
SELECT anomaly.unwatch_writes('owned'), anomaly.unwatch_writes('w_owned');
SET SESSION AUTHORIZATION writes_owner;
SELECT row_key, value, is_anomaly FROM anomaly.row_scores WHERE detector = 'w_owned' ORDER BY 2;
SELECT mode FROM anomaly.watch_writes('owned', 'reject');
SET SESSION AUTHORIZATION writes_writer;
-- What is usual of rows that the writer may not read, the error does not say.
INSERT INTO owned VALUES (1003, '2026-01-01', 88);
INSERT INTO owned VALUES (1004, now(), 11);
-- The trigger on a table that nobody watches does nothing; called by hand it says what it is.
CREATE TEMP TABLE mine (at timestamptz, v double precision);
CREATE TRIGGER t AFTER INSERT ON mine REFERENCING NEW TABLE AS anomaly_written FOR EACH STATEMENT EXECUTE FUNCTION anomaly.check_written_rows();
INSERT INTO mine VALUES (now(), 1);
CREATE TRIGGER u AFTER INSERT ON mine FOR EACH ROW EXECUTE FUNCTION anomaly.check_written_rows();
INSERT INTO mine VALUES (now(), 1);
SELECT anomaly.check_written_rows();
SET SESSION AUTHORIZATION writes_owner;
-- Rows that their owner may not see are not judged.
ALTER TABLE owned FORCE ROW LEVEL SECURITY;
SELECT * FROM anomaly.watch_writes('owned');
CREATE POLICY all_of_it ON owned TO writes_owner USING (true);
INSERT INTO owned VALUES (1005, now(), 99);
ALTER TABLE owned NO FORCE ROW LEVEL SECURITY;
RESET SESSION AUTHORIZATION;
-- Nor those of a table that has become somebody else's.
ALTER TABLE owned OWNER TO writes_writer;
INSERT INTO owned VALUES (1006, now(), 99);
ALTER TABLE owned OWNER TO writes_owner;
INSERT INTO owned VALUES (1007, '2026-01-01', 99);
SELECT id FROM owned WHERE id > 1000 ORDER BY 1;

-- Partitioned tables: rows that are written to the table, wherever they go.
CREATE TABLE parted (id int, at timestamptz, v double precision) PARTITION BY RANGE (id);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (1000);
CREATE TABLE parted_2 (v double precision, at timestamptz, id int);
ALTER TABLE parted ATTACH PARTITION parted_2 FOR VALUES FROM (1000) TO (2000);
INSERT INTO parted SELECT i, now() - i * interval '1 minute', 10 + i % 5 FROM generate_series(1, 200) i;
SELECT d, anomaly.create_detector('data_outlier', 'zscore', 'v', source => d, value => 'v', at => 'at', name => 'w_' || d, threshold => 6, training_window => '1 day') FROM unnest('{parted,parted_1}'::text[]) d;
SELECT status FROM anomaly.train('w_parted');
SELECT chosen FROM anomaly.watch_writes('parted');
INSERT INTO parted VALUES (500, now(), 11), (1500, now(), 81);
INSERT INTO parted_1 VALUES (501, now(), 82);
SELECT row_key, value, is_anomaly FROM anomaly.row_scores WHERE detector = 'w_parted' ORDER BY 2;
SELECT * FROM anomaly.watch_writes('parted_1');
SELECT anomaly.drop_detector('w_parted_1');

-- What cannot be watched so, and what to do instead.
CREATE VIEW w_view AS SELECT * FROM parted;
CREATE FOREIGN DATA WRAPPER w_nothing;
CREATE SERVER w_nowhere FOREIGN DATA WRAPPER w_nothing;
CREATE FOREIGN TABLE w_foreign (at timestamptz, v double precision) SERVER w_nowhere;
SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', source => s, value => 'v', at => 'at', name => n) FROM (VALUES ('w_view', 'w_view'), ('gauge', 'w_foreign'), ('SELECT at, v FROM parted', 'w_query')) d (s, n);
UPDATE anomaly.detector SET source_relation = 'w_foreign' WHERE detector = 'w_foreign';
SELECT anomaly.create_detector('data_volume', 'zscore', 'v', source => 'parted', at => 'at', bucket => '1 hour', aggregate => 'count', name => 'w_bucket');
SELECT anomaly.create_detector('data_outlier', 'zscore', 'w_points', name => 'w_points');
SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', source => 'gauge', value => 'v', at => 'at', name => 'w_new');
CREATE FOREIGN TABLE parted_3 PARTITION OF parted FOR VALUES FROM (2000) TO (3000) SERVER w_nowhere;
SELECT * FROM anomaly.watch_writes('w_view');
SELECT * FROM anomaly.watch_writes('w_foreign');
SELECT * FROM anomaly.watch_writes('w_query');
SELECT * FROM anomaly.watch_writes('w_bucket');
SELECT * FROM anomaly.watch_writes('w_points');
SELECT * FROM anomaly.watch_writes('w_new');
SELECT * FROM anomaly.watch_writes('parted');
SELECT * FROM anomaly.watch_writes('SELECT 1 AS a');
SELECT * FROM anomaly.watch_writes('no_such');
SELECT * FROM anomaly.watch_writes('rated');
SELECT * FROM anomaly.watch_writes('gauge', detector => 'w_parted');
SELECT * FROM anomaly.watch_writes('gauge', 'warn');
SELECT * FROM anomaly.watch_writes(NULL);
SELECT anomaly.unwatch_writes('no_such');
SELECT anomaly.unwatch_writes(NULL);
SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', source => 'gauge', value => 'v', at => 'at', name => 'w_newer');
SELECT * FROM anomaly.watch_writes('gauge');
-- Several of one table are stopped together.
SELECT anomaly.unwatch_writes('owned'), anomaly.unwatch_writes('parted', 'w_parted');
SELECT count(*) FROM pg_trigger WHERE tgfoid = 'anomaly.check_written_rows()'::regprocedure AND tgrelid <> 'mine'::regclass;
SELECT count(*) FROM anomaly.write_checks;

SELECT count(anomaly.drop_detector(detector)) FROM anomaly.detectors WHERE detector ~ '^w_';
DROP VIEW w_view;
DROP TABLE gauge, rated, owned, parted, mine;
DROP FOREIGN DATA WRAPPER w_nothing CASCADE;
DELETE FROM anomaly.judgement WHERE detector = 'w_gauge';
TRUNCATE anomaly.row_score;
DROP VIEW score;
REVOKE ALL ON SCHEMA public FROM writes_owner;
DROP ROLE writes_owner, writes_writer;
