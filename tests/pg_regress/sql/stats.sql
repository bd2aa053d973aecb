-- anomaly.stats and the problems of anomaly.health.
SET TIME ZONE 'UTC';
SET client_min_messages = error;
-- No worker comes between the calls: none is started in this database, and those that linger leave.
SELECT format('ALTER DATABASE %I SET anomaly_detection.enabled = off', current_database()) \gexec
DO $$ BEGIN
    WHILE EXISTS (SELECT FROM pg_stat_activity WHERE backend_type ~ '^anomaly_detection (scan|disp)' AND datname = current_database()) LOOP
        PERFORM pg_sleep(0.1), pg_stat_clear_snapshot();
    END LOOP;
END $$;
CREATE ROLE stat_owner LOGIN;
CREATE ROLE stat_other LOGIN;
CREATE SCHEMA stat_data AUTHORIZATION stat_owner;
CREATE VIEW stat_row AS SELECT detector, scans, failures, rows_read, points, anomalies, alerts,
    mean_scan_ms > 0 AND mean_scan_ms <= max_scan_ms AND abs(total_scan_ms - mean_scan_ms * scans) < 0.001 AS has_times, stats_since <= now() AS since FROM anomaly.stats WHERE detector ~ '^stat_';
GRANT SELECT ON stat_row TO PUBLIC;
SET SESSION AUTHORIZATION stat_owner;
CREATE TABLE stat_data.reading AS SELECT now() - i * interval '1 minute' AS at, 50 + i * 7919 % 101 / 25.0 AS v FROM generate_series(1, 300) i;
SELECT status FROM anomaly.watch('stat_data.reading', value => 'v', at => 'at', strategy => 'zscore', threshold => 6, settle => '0 s', name => 'stat_v');
SELECT anomaly.create_detector('data_outlier', 'zscore', 'load', threshold => 6, min_data_points => 3, name => 'stat_points');
SELECT * FROM stat_row ORDER BY detector;
INSERT INTO stat_data.reading VALUES (clock_timestamp(), 51), (clock_timestamp(), 400);
SELECT pg_sleep(0.01);
SELECT alerts_opened FROM anomaly.scan('stat_v');
INSERT INTO stat_data.reading VALUES (clock_timestamp(), 52);
SELECT pg_sleep(0.01);
SELECT alerts_opened FROM anomaly.scan('stat_v');
SELECT count(*) AS alerts FROM generate_series(1, 6) i, anomaly.process_data_point(jsonb_build_object('load', CASE WHEN i = 6 THEN 99 ELSE 1 + i % 3 END));
SELECT * FROM stat_row ORDER BY detector;

-- reset: one, and all of the caller's
SELECT anomaly.reset_stats('stat_v');
SELECT * FROM stat_row ORDER BY detector;
INSERT INTO stat_data.reading VALUES (clock_timestamp(), 52);
SELECT pg_sleep(0.01);
SELECT points_scored FROM anomaly.scan('stat_v');
SELECT anomaly.reset_stats();
SELECT * FROM stat_row ORDER BY detector;
SELECT points_processed > 0 AS unchanged FROM anomaly.detectors WHERE detector ~ '^stat_' ORDER BY detector;
SELECT helper.attempt($$SELECT anomaly.reset_stats('stat_w')$$);
RESET SESSION AUTHORIZATION;
SET SESSION AUTHORIZATION stat_other;
SELECT count(*) AS seen FROM anomaly.stats;
SELECT helper.attempt($$SELECT anomaly.reset_stats('stat_v')$$), anomaly.reset_stats() AS of_none;
RESET SESSION AUTHORIZATION;

-- a scan that fails, by what runs what is due
SET SESSION AUTHORIZATION stat_owner;
SELECT changed FROM anomaly.alter_detector('stat_v', '{"every": "1 hour"}');
ALTER TABLE stat_data.reading RENAME v TO w;
SELECT anomaly.enable('stat_v');
CALL anomaly.run_due();
SELECT * FROM stat_row WHERE detector = 'stat_v';
SELECT status, problem, since IS NOT NULL AS since, reason, hint, consecutive_failures FROM anomaly.health WHERE name = 'stat_v';
ALTER TABLE stat_data.reading RENAME w TO v;
SELECT anomaly.enable('stat_v');
CALL anomaly.run_due();
SELECT scans, failures FROM stat_row WHERE detector = 'stat_v';
SELECT status, problem, since FROM anomaly.health WHERE name = 'stat_v';
RESET SESSION AUTHORIZATION;

-- what else can be the matter: each problem with its reason and what to type; times are those of the rows below
CREATE FUNCTION pg_temp.problem(what text) RETURNS TABLE (status text, problem text, since_hours numeric, reason text, hint text) LANGUAGE sql AS $$
    SELECT status, problem, round(extract(epoch FROM now() - since) / 3600), regexp_replace(reason, '(since|until) [A-Z].*$', '\1 T'), hint FROM anomaly.health WHERE name = what $$;
UPDATE anomaly.detector_state SET watermark = now() - interval '5 hours', next_due = now() + interval '1 hour' WHERE detector = 'stat_v';
SELECT * FROM pg_temp.problem('stat_v');
UPDATE anomaly.detector_state SET watermark = now(), next_due = now() - interval '2 hours' WHERE detector = 'stat_v';
SELECT * FROM pg_temp.problem('stat_v');
UPDATE anomaly.detector_state SET last_scan_at = NULL WHERE detector = 'stat_v';
UPDATE anomaly.detector SET created_at = now() - interval '7 hours' WHERE detector = 'stat_v';
SELECT * FROM pg_temp.problem('stat_v');
UPDATE anomaly.detector_state SET last_scan_at = now(), next_due = now() + interval '1 hour', status = 'warming', status_reason = 'warming (3 of 100)' WHERE detector = 'stat_v';
SELECT * FROM pg_temp.problem('stat_v');
UPDATE anomaly.detector SET created_at = now() - interval '201 hours' WHERE detector = 'stat_v';
SELECT * FROM pg_temp.problem('stat_v');
UPDATE anomaly.detector_state SET status = 'broken', status_reason = 'gave up after 10 failures in a row; the last: no', consecutive_failures = 10, next_due = NULL WHERE detector = 'stat_v';
SELECT status, problem, reason, hint FROM pg_temp.problem('stat_v');
SELECT anomaly.disable('stat_v');
SELECT * FROM pg_temp.problem('stat_v');
SELECT anomaly.enable('stat_v');
UPDATE anomaly.detector SET created_at = now() - interval '26 hours' WHERE detector = 'stat_points';
UPDATE anomaly.detector_state SET last_scan_at = NULL WHERE detector = 'stat_points';
SELECT * FROM pg_temp.problem('stat_points');

-- handlers: what waits for long, and what was given up
SELECT anomaly.create_handler('stat_hook', 'webhook', 'https://example.com/hook');
INSERT INTO anomaly.outbox (alert_id, sequence, transition, handler, owner, detector, payload, created_at)
SELECT 0, i, 'opened', 'stat_hook', current_user::regrole, 'stat_v', '{}', now() - i * interval '1 hour' FROM generate_series(1, 3) i;
SELECT * FROM pg_temp.problem('stat_hook');
UPDATE anomaly.outbox SET dead = true, last_error = 'no route' WHERE handler = 'stat_hook' AND sequence = 3;
SELECT * FROM pg_temp.problem('stat_hook');
SELECT anomaly.drop_handler('stat_hook');
SELECT anomaly.pause() IS NOT NULL AS paused;
SELECT name, problem, since IS NOT NULL AS since, hint FROM anomaly.health WHERE kind = 'system';
SELECT anomaly.resume() IS NOT NULL AS resumed;

SELECT count(anomaly.drop_detector(detector)) AS dropped FROM anomaly.detectors WHERE detector ~ '^stat_';
DELETE FROM anomaly.alert WHERE detector ~ '^stat_';
DROP VIEW stat_row;
DROP SCHEMA stat_data CASCADE;
DROP ROLE stat_owner, stat_other;
SELECT format('ALTER DATABASE %I RESET anomaly_detection.enabled', current_database()) \gexec
RESET client_min_messages;
