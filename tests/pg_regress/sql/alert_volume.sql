-- fault_r1: with many alerts, what is asked for is found by an index, and what is old goes a slot at a time, leaving nothing to vacuum.
SET TIME ZONE 'UTC';
SET client_min_messages = error;
DO $$ BEGIN
    EXECUTE format('ALTER DATABASE %I SET anomaly_detection.enabled = off', current_database());
    PERFORM pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = current_database() AND backend_type ~ '^anomaly_detection (scan worker|dispatcher)';
END $$;
-- Five thousand a month for sixteen months; those of one slot are from before the ring's last turn.
INSERT INTO anomaly.alert (slot, alert_id, detector, owner, status, anomaly_type, detection_strategy, severity, entity, metric_name, at, last_at, raised_at, points, peak_at, value, deviation, score, p_value, direction, description, model_version)
SELECT (extract(year FROM t) * 12 + extract(month FROM t))::int % 16, i, 'volume_' || i % 50, CURRENT_USER::regrole, CASE WHEN i % 500 = 0 THEN 'open' ELSE 'resolved' END, (ARRAY['data_outlier', 'data_drift', 'system_cpu'])[1 + i % 3], 'statistical_mad',
       (ARRAY['info', 'warning', 'critical', 'emergency'])[1 + i % 4]::anomaly.severity, 'e' || i, 'v', t, t, t, 1, t, 1, 3, 0.99, 0.01, 'above', repeat('text ', 20), 1
  FROM generate_series(1, 80000) i, LATERAL (SELECT now() - interval '15 months' + i * interval '15 months' / 80000 AS t) at;
INSERT INTO anomaly.alert (slot, alert_id, detector, owner, status, anomaly_type, detection_strategy, severity, entity, metric_name, at, last_at, raised_at, points, peak_at, value, deviation, score, p_value, direction, description, model_version)
SELECT (extract(year FROM n) * 12 + extract(month FROM n))::int % 16, 100000 + i, 'volume_old', CURRENT_USER::regrole, 'resolved', 'data_outlier', 'statistical_mad', 'info', 'old' || i, 'v', t, t, t, 1, t, 1, 3, 0.99, 0.01, 'above', repeat('text ', 20), 1
  FROM generate_series(1, 5000) i, LATERAL (SELECT now() + interval '1 month' AS n, now() - interval '15 months 20 days' AS t) at;
ANALYZE anomaly.alert;

-- fault_r1_plans: as the planner chooses, slots of more than a thousand rows that are read whole
CREATE FUNCTION pg_temp.whole_slots(query text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE line text; found text[] := '{}';
BEGIN
    FOR line IN EXECUTE 'EXPLAIN (COSTS OFF, ANALYZE, TIMING OFF, SUMMARY OFF) ' || query LOOP
        IF line ~ 'Seq Scan on alert_' AND line !~ 'never executed' THEN
            found := array_append(found, substring(line FROM ' on (alert_\d+)'));
        END IF;
    END LOOP;
    RETURN (SELECT count(*) FROM unnest(found) f JOIN pg_class c ON c.relname = f AND c.relnamespace = 'anomaly'::regnamespace AND c.reltuples > 1000);
END $$;
SELECT what, pg_temp.whole_slots(query) AS slots_read_whole FROM (VALUES ('by id', 'SELECT * FROM anomaly.alerts WHERE id = 41000'), ('as acknowledge does', 'UPDATE anomaly.alert SET note = note WHERE alert_id = 41000')) q (what, query);

-- check_c10_indexes, fault_r1_pages: a page comes out of an index, in its order, and reads little more of it than it shows
-- (of a month that has just begun, the few rows are read without one)
CREATE TEMP VIEW slot AS SELECT i.indexrelid, i.idx_tup_read, t.relid, t.seq_tup_read FROM pg_stat_user_indexes i JOIN pg_stat_user_tables t USING (relid) WHERE t.schemaname = 'anomaly' AND t.relname ~ '^alert_\d\d$';
CREATE FUNCTION pg_temp.forget() RETURNS boolean LANGUAGE sql AS $$ SELECT count(pg_stat_reset_single_table_counters(oid)) > 100 FROM (SELECT indexrelid AS oid FROM slot UNION SELECT relid FROM slot) o $$;
CREATE ROLE volume_nobody;
SELECT pg_stat_force_next_flush() IS NOT NULL AS flushed;
SELECT pg_temp.forget() AS forgotten;
SELECT cardinality(anomaly.alert_page(NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 100, 0, NULL)) AS "newest", pg_stat_force_next_flush() IS NOT NULL AS flushed;
SELECT sum(idx_tup_read) <= 200 AS little_is_read, max(seq_tup_read) <= 1000 AS no_slot_is_read_whole FROM slot;
SELECT pg_temp.forget() AS forgotten;
SELECT cardinality(anomaly.alert_page(now() - interval '40 days 1 hour', now() - interval '40 days', NULL, NULL, NULL, NULL, NULL, NULL, 100, 0, NULL)) AS "an hour", pg_stat_force_next_flush() IS NOT NULL AS flushed;
SELECT sum(idx_tup_read) <= 200 AS little_is_read, max(seq_tup_read) <= 1000 AS no_slot_is_read_whole FROM slot;
SELECT pg_temp.forget() AS forgotten;
SELECT cardinality(anomaly.alert_page(NULL, NULL, '{system_cpu}', NULL, NULL, NULL, NULL, NULL, 100, 0, NULL)) AS "type", pg_stat_force_next_flush() IS NOT NULL AS flushed;
SELECT sum(idx_tup_read) <= 500 AS little_is_read, max(seq_tup_read) <= 1000 AS no_slot_is_read_whole FROM slot;
SELECT pg_temp.forget() AS forgotten;
SELECT cardinality(anomaly.alert_page(NULL, NULL, NULL, '{emergency}', NULL, NULL, NULL, NULL, 100, 0, NULL)) AS "severe", pg_stat_force_next_flush() IS NOT NULL AS flushed;
SELECT sum(idx_tup_read) <= 600 AS little_is_read, max(seq_tup_read) <= 1000 AS no_slot_is_read_whole FROM slot;
SELECT pg_temp.forget() AS forgotten;
SELECT cardinality(anomaly.alert_page(NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 100, 0, 40000)) AS "next page", pg_stat_force_next_flush() IS NOT NULL AS flushed;
SELECT sum(idx_tup_read) <= 200 AS little_is_read, max(seq_tup_read) <= 1000 AS no_slot_is_read_whole FROM slot;
SELECT pg_temp.forget() AS forgotten;
SELECT cardinality(anomaly.alert_page(NULL, NULL, NULL, NULL, NULL, NULL, 'volume_7', NULL, 100, 0, NULL)) AS "detector", pg_stat_force_next_flush() IS NOT NULL AS flushed;
SELECT sum(idx_tup_read) <= 8000 AS little_is_read, max(seq_tup_read) <= 1000 AS no_slot_is_read_whole FROM slot;
SELECT pg_temp.forget() AS forgotten;
SELECT cardinality(anomaly.alert_page(NULL, NULL, NULL, NULL, 'e70001', NULL, NULL, NULL, 100, 0, NULL)) AS "entity", pg_stat_force_next_flush() IS NOT NULL AS flushed;
SELECT sum(idx_tup_read) <= 40 AS little_is_read, max(seq_tup_read) <= 1000 AS no_slot_is_read_whole FROM slot;
SELECT pg_temp.forget() AS forgotten;
SET ROLE volume_nobody;
SELECT cardinality(anomaly.alert_page(NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 100, 0, NULL)) AS "of nobody", pg_stat_force_next_flush() IS NOT NULL AS flushed;
RESET ROLE;
SELECT sum(idx_tup_read) <= 40 AS little_is_read, max(seq_tup_read) <= 1000 AS no_slot_is_read_whole FROM slot;
DROP ROLE volume_nobody;
SELECT count(*) AS page FROM anomaly.get_alerts();
SELECT anomaly.acknowledge(80000), anomaly.resolve(80000);

-- fault_r1_retention: the slot of next month is emptied, by truncating it; the others stay
SELECT count(*) AS emptied_slots FROM pg_class WHERE relname ~ '^alert_\d\d$' AND relkind = 'r' AND pg_relation_size(oid) = 0;
CALL anomaly.run_due();
SELECT count(*) AS emptied_slots, (SELECT count(*) FROM anomaly.alert WHERE detector = 'volume_old') AS old, (SELECT count(*) > 70000 FROM anomaly.alert) AS others_stay
  FROM pg_class WHERE relname ~ '^alert_\d\d$' AND relkind = 'r' AND pg_relation_size(oid) = 0;
-- Runs: one slot a day
DELETE FROM anomaly.run;
VACUUM anomaly.run;
INSERT INTO anomaly.run (slot, detector, owner, kind, started_by, status, pid, started_at) SELECT i % 16, 'volume', CURRENT_USER::regrole, 'scan', 'worker', 'succeeded', 1, now() - interval '15 days' FROM generate_series(1, 1600) i;
CALL anomaly.run_due();
SELECT count(*) FROM anomaly.run;

TRUNCATE anomaly.alert, anomaly.run;
ALTER SEQUENCE anomaly.alert_id_seq RESTART;
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I RESET anomaly_detection.enabled', current_database()); END $$;
