-- When detectors are due, as the catalogue and the errors tell it. What workers make of it is in tests/tap.
\set SHOW_CONTEXT never
CREATE TABLE scheduled AS SELECT timestamptz '2026-01-01' + i * interval '1 minute' AS at, (i % 7)::double precision AS v FROM generate_series(1, 50) i;
CREATE FUNCTION at_cron(cron text, zone text DEFAULT 'UTC') RETURNS text LANGUAGE plpgsql AS $$
DECLARE code text; message text; hint text;
BEGIN
    PERFORM anomaly.create_detector('data_outlier', 'mad', 'v', source => 'scheduled', at => 'at', cron => at_cron.cron, time_zone => zone, name => 'by ' || left(at_cron.cron, 40));
    RETURN 'created';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
    RETURN code || ': ' || left(message, 100) || ' (' || left(hint, 60) || '…)';
END $$;

-- fault_s6_bad_syntax_is_22023_with_position
SELECT cron, at_cron(cron) FROM unnest('{61 * * * *,*/0 * * * *,5-1 * * * *,* * * * 9,* * 32 * *,* * * FOO *,1;;2 * * * *,* * * *,* * * * * * *,0 0 30 2 *,soon,"",@reboot}'::text[]) WITH ORDINALITY c (cron, n) ORDER BY n;
SELECT at_cron('1,,2 * * * *'), at_cron(repeat('1,', 2000) || '1 * * * *'), at_cron('* * * * *', 'Mars/Olympus');
-- fault_s6_thousand_characters
SELECT at_cron(c || repeat(' ', 1000 - length(c))), length(c || repeat(' ', 1000 - length(c)))
  FROM (SELECT string_agg(i::text, ',') || ' * * * *' FROM generate_series(0, 59) i) q (c);
SELECT at_cron('30 2,14 L * *', 'Europe/Berlin'), at_cron('0 0 * * MON#2'), at_cron('@daily');
SELECT kind, name, every, left(cron, 30) AS cron, time_zone, enabled, next_due IS NOT NULL AS is_due, consecutive_failures, coalesced
  FROM anomaly.schedule WHERE name LIKE 'by %' ORDER BY name COLLATE "C";

-- what a due time that was missed becomes
SHOW anomaly_detection.misfire;
SET anomaly_detection.misfire = 'skip';
SET anomaly_detection.misfire = 'all';
RESET anomaly_detection.misfire;
SELECT workers_here >= 0 AS works, max_workers, next_visit_at IS NULL OR visits >= 0 AS counts FROM anomaly.scheduler;
SELECT anomaly.owner_problem(oid) FROM pg_roles WHERE rolname = current_user;
SELECT anomaly.owner_problem(4000000000);

SELECT format($$SELECT anomaly.drop_detector(%L) AS dropped$$, name) FROM anomaly.schedule WHERE name LIKE 'by %' ORDER BY name COLLATE "C" \gexec
DROP FUNCTION at_cron; DROP TABLE scheduled;
