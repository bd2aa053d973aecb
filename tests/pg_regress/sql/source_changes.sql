-- What happens to detectors when their sources change under them, by runs as a worker does them.
SET TIME ZONE 'UTC';
SET client_min_messages = error;    -- run_due() warns with the numbers of runs
DO $$ BEGIN
    EXECUTE format('ALTER DATABASE %I SET anomaly_detection.enabled = off', current_database());
    PERFORM pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = current_database() AND backend_type ~ '^anomaly_detection (scan worker|dispatcher)';
END $$;
CREATE SCHEMA elsewhere;
CREATE TABLE changing AS SELECT now() - i * interval '1 minute' AS at, (i * 7919 % 101) / 10.0 AS v, 'web' || i % 2 AS host, i % 5 AS load FROM generate_series(1, 400) i;
SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', source => 'changing', value => 'v', at => 'at', entity => 'host', every => '1 hour', settle => '0 s', min_data_points => 20, name => 'ch''s "table"'),
       anomaly.create_detector('data_outlier', 'random_cut_forest', 'v', source => 'changing', value => 'v', at => 'at', features => '{load}', every => '1 hour', settle => '0 s', min_data_points => 20, name => 'ch_features'),
       anomaly.create_detector('data_outlier', 'zscore', 'v', source => 'SELECT at, v, host FROM changing', value => 'v', at => 'at', every => '1 hour', settle => '0 s', min_data_points => 20, name => 'ch_query');
SELECT d, t.status FROM unnest(ARRAY['ch''s "table"', 'ch_features', 'ch_query']) d, anomaly.train(d) t;
-- A new row, each detector's run, and what it came to; what was broken before is not run again.
CREATE VIEW ch_latest AS
SELECT d.detector, d.status, r.status AS run, r.rows_read, r.error_code, r.error_message, d.status_hint
  FROM anomaly.detectors d, LATERAL (SELECT * FROM anomaly.runs r WHERE r.detector = d.detector ORDER BY run_id DESC LIMIT 1) r WHERE d.detector ~ '^ch';
\set run 'UPDATE anomaly.detector_state SET next_due = clock_timestamp() WHERE status <> ''broken''; CALL anomaly.run_due(); SELECT * FROM ch_latest ORDER BY detector COLLATE "C";'
\set row 'SELECT pg_sleep(0.01) IS NOT NULL AS later; INSERT INTO changing (at, v, host, load) VALUES (clock_timestamp(), 3.5, ''web1'', 1);'

-- fault_d5_a_renamed_table_is_followed: and one in another schema; a query names its table
ALTER TABLE changing RENAME TO renamed;
ALTER TABLE renamed SET SCHEMA elsewhere;
INSERT INTO elsewhere.renamed VALUES (clock_timestamp(), 3.5, 'web1', 1);
:run
ALTER TABLE elsewhere.renamed SET SCHEMA public;
ALTER TABLE renamed RENAME TO changing;
SELECT anomaly.enable('ch_query');
:run

-- fault_d5_a_renamed_column_is_named: with detector and role, and with what to type
ALTER TABLE changing RENAME COLUMN v TO vv;
:run
SELECT name, status, reason FROM anomaly.health WHERE name ~ '^ch' ORDER BY name COLLATE "C";
-- what was said is typed
SELECT status_hint AS hint FROM anomaly.detectors WHERE detector = 'ch''s "table"' \gset
SELECT split_part(:'hint', 'name another one: ', 2) AS typed \gset
:typed;
SELECT anomaly.alter_detector('ch_features', '{"value": "vv"}');
SELECT anomaly.alter_detector('ch_query', '{"source": "SELECT at, vv AS v, host FROM changing"}');
:run
INSERT INTO changing VALUES (clock_timestamp(), 3.5, 'web1', 1);
:run

-- fault_d5_a_retyped_column: as another number it goes on, as a text it is named
ALTER TABLE changing ALTER COLUMN vv TYPE real;
INSERT INTO changing VALUES (clock_timestamp(), 3.5, 'web1', 1);
:run
ALTER TABLE changing ALTER COLUMN vv TYPE text, ALTER COLUMN load TYPE text, ALTER COLUMN at TYPE timestamp;
INSERT INTO changing VALUES (clock_timestamp(), '3.5', 'web1', '1');
:run
ALTER TABLE changing ALTER COLUMN vv TYPE float8 USING vv::float8;
SELECT anomaly.enable(detector) FROM anomaly.detectors WHERE detector ~ '^ch';
:run
ALTER TABLE changing ALTER COLUMN load TYPE int USING load::int, ALTER COLUMN at TYPE bigint USING 0;
SELECT anomaly.enable(detector) FROM anomaly.detectors WHERE detector ~ '^ch';
:run
ALTER TABLE changing ALTER COLUMN at TYPE timestamptz USING now() - interval '1 day';
SELECT anomaly.enable(detector) FROM anomaly.detectors WHERE detector ~ '^ch';

-- fault_d5_a_dropped_column
ALTER TABLE changing DROP COLUMN host, DROP COLUMN load;
INSERT INTO changing VALUES (clock_timestamp(), 3.5);
:run
ALTER TABLE changing ADD COLUMN host text DEFAULT 'web1', ADD COLUMN load int;
SELECT anomaly.enable(detector) FROM anomaly.detectors WHERE detector ~ '^ch';
INSERT INTO changing VALUES (clock_timestamp(), 3.5);
:run

-- fault_d4_a_dropped_table: named, and left alone from then on
DROP TABLE changing;
:run
SELECT count(*) AS runs FROM anomaly.runs WHERE detector ~ '^ch' \gset
UPDATE anomaly.detector_state SET next_due = clock_timestamp();
CALL anomaly.run_due();
SELECT count(*) - :runs AS more_runs FROM anomaly.runs WHERE detector ~ '^ch';
SELECT name, status, reason, hint FROM anomaly.health WHERE name ~ '^ch' ORDER BY name COLLATE "C";
-- In a session: the same error.
SELECT anomaly.scan('ch_features');
SELECT anomaly.train('ch_query');
SELECT anomaly.backtest('ch_features');
-- Another table of the name is another table: it is taken when somebody says so.
CREATE TABLE changing AS SELECT now() - i * interval '1 minute' AS at, (i * 7919 % 101) / 10.0 AS vv, 'web' || i % 2 AS host, i % 5 AS load FROM generate_series(1, 400) i;
SELECT anomaly.enable(detector) FROM anomaly.detectors WHERE detector ~ '^ch';
:run
SELECT status_hint AS hint FROM anomaly.detectors WHERE detector = 'ch_features' \gset
SELECT split_part(split_part(:'hint', 'name another one: ', 2), ', or ', 1) AS typed \gset
:typed;
INSERT INTO changing VALUES (clock_timestamp(), 3.5, 'web1', 1);
:run

SELECT count(anomaly.drop_detector(detector)) FROM anomaly.detectors WHERE detector ~ '^ch';
DROP VIEW ch_latest;
DROP TABLE changing;
DROP SCHEMA elsewhere;
DELETE FROM anomaly.alert;
DELETE FROM anomaly.run;
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I RESET anomaly_detection.enabled', current_database()); END $$;
