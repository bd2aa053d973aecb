-- Owners of detectors: what row security and column privileges let them see, and what happens to their detectors when the
-- role is renamed, gives its tables away, or goes.
SET TIME ZONE 'UTC';
SET client_min_messages = error;
DO $$ BEGIN
    EXECUTE format('ALTER DATABASE %I SET anomaly_detection.enabled = off', current_database());
    PERFORM pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = current_database() AND backend_type ~ '^anomaly_detection (scan worker|dispatcher)';
END $$;
CREATE ROLE own_a LOGIN;
CREATE ROLE own_b LOGIN;
CREATE ROLE own_above LOGIN BYPASSRLS;
CREATE TABLE shared (at timestamptz, tenant text, v float8, secret float8);
INSERT INTO shared SELECT now() - i * interval '1 minute', t, CASE t WHEN 'own_a' THEN 10 ELSE 5000 END + (i * 7919 % 101) / 100.0, 42 FROM generate_series(1, 300) i, unnest('{own_a,own_b}'::text[]) t;
ALTER TABLE shared ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON shared USING (tenant = current_user);
GRANT SELECT (at, tenant, v) ON shared TO own_a, own_b, own_above;

-- fault_a2_row_security: each owner's detector learns and judges their rows; others' rows are neither normal nor an alert
SET SESSION AUTHORIZATION own_a;
SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', source => 'shared', value => 'v', at => 'at', every => '1 hour', settle => '0 s', min_data_points => 20, name => 'own_a');
SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', source => 'SELECT at, v FROM shared', every => '1 hour', settle => '0 s', min_data_points => 20, name => 'own_a_query');
SELECT status, trained_rows FROM anomaly.train('own_a');
SELECT status, trained_rows FROM anomaly.train('own_a_query');
SELECT count(*) FROM detect_anomalies('shared', value => 'v', at => 'at');
SELECT points FROM anomaly.preview('shared', '1 day', '{"value": "v", "settle": "0 s"}');
RESET SESSION AUTHORIZATION;
SELECT pg_sleep(0.01);
INSERT INTO shared VALUES (clock_timestamp(), 'own_b', 9999, 42), (clock_timestamp(), 'own_a', 10.5, 42);
SET SESSION AUTHORIZATION own_a;
CALL anomaly.run_due();
SELECT detector, status, rows_read, alerts_opened FROM anomaly.runs WHERE kind = 'scan' ORDER BY detector;
-- fault_a2_column_privileges: at creation, where rows are read whole, and when they are taken away
SELECT anomaly.create_detector('data_outlier', 'zscore', 'secret', source => 'shared', value => 'secret', at => 'at', name => 'own_secret');
SELECT anomaly.watch('shared', value => 'secret', at => 'at');
SELECT anomaly.train('own_a', 'SELECT at, secret AS v FROM shared');
SELECT anomaly.process_batch('shared');
SELECT count(*) FROM detect_anomalies('shared', value => 'secret', at => 'at');
RESET SESSION AUTHORIZATION;
REVOKE SELECT (v) ON shared FROM own_a;
INSERT INTO shared VALUES (clock_timestamp(), 'own_a', 99999, 42);
UPDATE anomaly.detector_state SET next_due = clock_timestamp();
SET SESSION AUTHORIZATION own_a;
CALL anomaly.run_due();
SELECT detector, status, error_code, rows_read FROM anomaly.runs WHERE kind = 'scan' ORDER BY run_id DESC LIMIT 2;
RESET SESSION AUTHORIZATION;
GRANT SELECT (v) ON shared TO own_a;
-- fault_a2_who_sees_all_rows_is_flagged
SET SESSION AUTHORIZATION own_above;
SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', source => 'shared', value => 'v', at => 'at', settle => '0 s', min_data_points => 20, name => 'own_above');
SELECT status, trained_rows FROM anomaly.train('own_above');
SELECT kind, name, owner, status, reason, hint FROM anomaly.health WHERE name = 'own_above' ORDER BY status;
RESET SESSION AUTHORIZATION;
SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', source => 'shared', value => 'v', at => 'at', name => 'own_super');
SELECT name, status FROM anomaly.health WHERE status = 'all rows' ORDER BY name;
SET SESSION AUTHORIZATION own_a;
SELECT count(*) FROM anomaly.warnings;
RESET SESSION AUTHORIZATION;
ALTER TABLE shared DISABLE ROW LEVEL SECURITY;
SELECT name, status FROM anomaly.health WHERE status = 'all rows';

-- fault_d13_rename: the owner is the role, whatever it is called
ALTER ROLE own_a RENAME TO own_renamed;
SELECT detector, owner FROM anomaly.detectors WHERE detector ~ '^own_a' ORDER BY detector;
INSERT INTO shared VALUES (clock_timestamp(), 'own_b', 10.5, 42);
SELECT anomaly.enable('own_a');
SET SESSION AUTHORIZATION own_renamed;
CALL anomaly.run_due();
SELECT detector, owner, status, rows_read FROM anomaly.runs WHERE detector = 'own_a' ORDER BY run_id DESC LIMIT 1;
RESET SESSION AUTHORIZATION;
-- fault_d13_reassign_owned: tables go to another role, detectors stay with theirs, which may not read them any more
CREATE TABLE own_table AS SELECT at, v FROM shared;
ALTER TABLE own_table OWNER TO own_renamed;
SET SESSION AUTHORIZATION own_renamed;
SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', source => 'own_table', every => '1 hour', settle => '0 s', min_data_points => 20, name => 'own_reassigned'), anomaly.create_handler('own_handler', 'notify', 'own');
RESET SESSION AUTHORIZATION;
REASSIGN OWNED BY own_renamed TO own_b;
SELECT detector, owner FROM anomaly.detectors WHERE detector = 'own_reassigned';
SET SESSION AUTHORIZATION own_renamed;
CALL anomaly.run_due();
SELECT status, error_code, error_message FROM anomaly.runs WHERE detector = 'own_reassigned' ORDER BY run_id DESC LIMIT 1;
RESET SESSION AUTHORIZATION;
SELECT status, reason FROM anomaly.health WHERE name = 'own_reassigned';
-- fault_d13_drop_owned: grants go, and nothing of the extension; then the role can be dropped, and its detectors say so
DROP OWNED BY own_renamed;
SELECT count(*) FROM anomaly.detectors WHERE owner = 'own_renamed'::regrole;
DROP ROLE own_renamed;
SELECT kind, name, status, reason, hint FROM anomaly.health WHERE name ~ '^own_(a|a_query|reassigned|handler)$' ORDER BY name;
SELECT anomaly.scan('own_a');
SELECT count(*) AS alerts FROM anomaly.alerts WHERE detector ~ '^own_a';
CALL anomaly.run_due();
SELECT anomaly.drop_detector(detector) FROM anomaly.detectors WHERE detector ~ '^own' ORDER BY detector;
SELECT anomaly.drop_handler('own_handler');
DROP TABLE shared, own_table;
DROP ROLE own_b, own_above;
DELETE FROM anomaly.run;
DELETE FROM anomaly.alert;
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I RESET anomaly_detection.enabled', current_database()); END $$;
