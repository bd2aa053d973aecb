-- Jobs: submitted now, done as the owner by CALL anomaly.run_due() here, by background workers in tests/tap/057_jobs.pl.
SET TIME ZONE 'UTC';
CREATE FUNCTION pg_temp.attempt(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    hint text;
BEGIN
    EXECUTE command;
    RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
    RETURN regexp_replace(concat_ws(' | ', SQLSTATE, SQLERRM, hint), 'job \d+', 'job N');
END $$;
-- No worker comes between the calls: none is started in this database, and those that linger leave.
SELECT format('ALTER DATABASE %I SET anomaly_detection.enabled = off', current_database()) \gexec
DO $$ BEGIN
    WHILE EXISTS (SELECT FROM pg_stat_activity WHERE backend_type ~ '^anomaly_detection (scan|disp)' AND datname = current_database()) LOOP
        PERFORM pg_sleep(0.1), pg_stat_clear_snapshot();
    END LOOP;
END $$;
CREATE ROLE job_owner LOGIN;
CREATE ROLE job_other LOGIN;
CREATE ROLE job_admin LOGIN IN ROLE anomaly_admin;
CREATE ROLE job_reader LOGIN IN ROLE anomaly_monitor;
CREATE SCHEMA job_data AUTHORIZATION job_owner;

SET SESSION AUTHORIZATION job_owner;
SET client_min_messages = error;
CREATE TABLE job_data.reading AS SELECT now() - i * interval '1 minute' AS at, 50 + i * 7919 % 101 / 25.0 + CASE WHEN i IN (30, 31, 90) THEN 90 ELSE 0 END AS v FROM generate_series(1, 600) i;
SELECT status FROM anomaly.watch('job_data.reading', value => 'v', at => 'at', strategy => 'zscore', threshold => 6, settle => '0 s', name => 'job_v');

-- each kind, with what its function answers
SELECT anomaly.submit('train', '{"detector": "job_v"}') AS train \gset
SELECT anomaly.submit('scan', '{"detector": "job_v"}') AS scan \gset
SELECT anomaly.submit('backtest', '{"detector": "job_v", "since": "5 hours", "settings": {"threshold": 7}}') AS backtest \gset
SELECT anomaly.submit(kind => 'backtest_summary', args => '{"detector": "job_v", "since": "5 hours", "until_ts": "now"}') AS summary \gset
SELECT anomaly.submit('preview', '{"source": "job_data.reading", "since": "5 hours", "settings": {"value": "v", "strategy": "zscore", "threshold": 6}}') AS preview \gset
SELECT count(*) AS waiting, count(*) FILTER (WHERE started_at IS NULL AND result IS NULL) AS untouched FROM anomaly.jobs WHERE status = 'queued';
SELECT anomaly.job_result(:train) IS NULL AS nothing_yet;
CALL anomaly.run_due();
SELECT kind, detector, owner, submitted_by, status, error_message, truncated, started_at >= submitted_at AND finished_at >= started_at AS in_order FROM anomaly.jobs ORDER BY job_id;
SELECT anomaly.job_result(:train)->'status' AS status, (anomaly.job_result(:train)->'trained_rows')::int > 500 AS trained, anomaly.job_result(:train)->'model_version' AS version;
SELECT anomaly.job_result(:scan)->'status' AS status;
SELECT jsonb_array_length(anomaly.job_result(:backtest)) AS alerts, anomaly.job_result(:backtest)->0->'severity' AS severity;
SELECT anomaly.job_result(:summary)->'alerts' AS alerts, anomaly.job_result(:preview)->'alerts' AS previewed;
-- the same as in a session
SELECT anomaly.job_result(:backtest) = (SELECT jsonb_agg(to_jsonb(b)) FROM anomaly.backtest('job_v', '5 hours', NULL, '{"threshold": 7}') b) AS same;
SELECT args FROM anomaly.jobs WHERE kind IN ('train', 'preview') ORDER BY job_id;

-- what is asked for is checked now
SELECT pg_temp.attempt(c) FROM unnest(ARRAY[
    $$SELECT anomaly.submit(NULL)$$, $$SELECT anomaly.submit('train', NULL)$$, $$SELECT anomaly.submit('vacuum')$$, $$SELECT anomaly.submit('train')$$,
    $$SELECT anomaly.submit('train', '[]')$$, $$SELECT anomaly.submit('train', '{"detector": 7}')$$, $$SELECT anomaly.submit('train', '{"detector": null}')$$,
    $$SELECT anomaly.submit('train', '{"detector": "job_v", "rows": []}')$$, $$SELECT anomaly.submit('train', '{"detector": "job_w"}')$$,
    $$SELECT anomaly.submit('backtest', '{"detector": "job_v", "since": "a while"}')$$, $$SELECT anomaly.submit('backtest', '{"detector": "job_v", "until_ts": "soon"}')$$,
    $$SELECT anomaly.submit('backtest', '{"detector": "job_v", "settings": "none"}')$$, $$SELECT anomaly.submit('preview', '{"source": "job_data.nothing"}')$$,
    $$SELECT anomaly.submit('preview', '{"source": "SELECT 1; DROP TABLE job_data.reading"}')$$,
    $$SELECT anomaly.cancel_job(0)$$, $$SELECT anomaly.job_result(0)$$, $$SELECT anomaly.perform_job(0)$$]) c;
SELECT anomaly.cancel_job(NULL) IS NULL AS nothing, anomaly.job_result(NULL) IS NULL AS nothing, count(*) AS jobs FROM anomaly.jobs;

-- a job that fails says why, and the others are done
ALTER TABLE job_data.reading RENAME TO moved;
SELECT anomaly.submit('preview', '{"source": "job_data.moved", "settings": {"strategy": "no such"}}') AS failing \gset
SELECT anomaly.submit('train', '{"detector": "job_v"}') AS after \gset
DROP TABLE job_data.moved;
CALL anomaly.run_due();
SELECT kind, status, error_code, error_message, error_hint, result FROM anomaly.jobs WHERE job_id IN (:failing, :after) ORDER BY job_id;
SELECT pg_temp.attempt(format('SELECT anomaly.job_result(%s)', :failing));

-- cancelled before it begins
SELECT anomaly.submit('scan', '{"detector": "job_v"}') AS waiting \gset
SELECT anomaly.cancel_job(:waiting) AS cancelled, anomaly.cancel_job(:waiting) AS again, anomaly.cancel_job(:train) AS finished;
CALL anomaly.run_due();
SELECT status, started_at, finished_at IS NOT NULL AS has_ended FROM anomaly.jobs WHERE job_id = :waiting;
SELECT pg_temp.attempt(format('SELECT anomaly.job_result(%s)', :waiting));

-- fault_a9_large_result: no more rows than anybody reads
CREATE TABLE job_data.many AS SELECT now() - i * interval '1 minute' AS at, 'e' || e AS entity, CASE WHEN i = 2 THEN 99.0 ELSE 1 END AS v FROM generate_series(1, 6) i, generate_series(1, 1100) e;
SELECT anomaly.create_detector('data_outlier', 'threshold', 'v', source => 'job_data.many', value => 'v', at => 'at', entity => 'entity', params => '{"max": 10}', settle => '0 s', min_data_points => 2, name => 'job_many');
SELECT anomaly.submit('backtest', '{"detector": "job_many", "since": "210 seconds"}') AS many \gset
CALL anomaly.run_due();
SELECT status, truncated, jsonb_array_length(result) AS rows FROM anomaly.jobs WHERE job_id = :many;

-- fault_a5_jobs_of_others: others see none of it; who may see all sees no results
RESET SESSION AUTHORIZATION;
SET SESSION AUTHORIZATION job_other;
SELECT count(*) AS seen FROM anomaly.jobs;
SELECT pg_temp.attempt(format(c, :many)) FROM unnest(ARRAY['SELECT anomaly.job_result(%s)', 'SELECT anomaly.cancel_job(%s)', $$SELECT anomaly.submit('scan', '{"detector": "job_v"}')$$]) c;
RESET SESSION AUTHORIZATION;
SET SESSION AUTHORIZATION job_reader;
SELECT count(*) > 5 AS seen, count(result) AS results FROM anomaly.jobs;
SELECT pg_temp.attempt(format(c, :many)) FROM unnest(ARRAY['SELECT anomaly.job_result(%s)', 'SELECT anomaly.cancel_job(%s)', $$SELECT anomaly.submit('scan', '{"detector": "job_v"}')$$]) c;
-- an administrator has work done as the owner, but does not choose what the owner's session reads
RESET SESSION AUTHORIZATION;
SET SESSION AUTHORIZATION job_admin;
SELECT pg_temp.attempt($$SELECT anomaly.submit('backtest', '{"detector": "job_many", "settings": {"source": "SELECT now() AS at, 1 AS v"}}')$$);
SELECT anomaly.submit('train', '{"detector": "job_many"}') AS for_owner \gset
CALL anomaly.run_due();
SELECT status, owner, submitted_by FROM anomaly.jobs WHERE job_id = :for_owner;
RESET SESSION AUTHORIZATION;
SET SESSION AUTHORIZATION job_owner;
CALL anomaly.run_due();
SELECT status, owner, submitted_by FROM anomaly.jobs WHERE job_id = :for_owner;
-- after SET ROLE nothing is done
RESET SESSION AUTHORIZATION;
SET ROLE job_owner;
SELECT pg_temp.attempt($$SELECT anomaly.claim_next_job('infinity')$$);
RESET ROLE;

-- fault_a9_queued_jobs: so many may wait
SET anomaly_detection.max_queued_jobs = 1;
SET SESSION AUTHORIZATION job_owner;
SELECT anomaly.submit('scan', '{"detector": "job_many"}') > 0 AS first;
SELECT pg_temp.attempt($$SELECT anomaly.submit('scan', '{"detector": "job_many"}')$$);
RESET SESSION AUTHORIZATION;
RESET anomaly_detection.max_queued_jobs;
-- a row that says running, of a session that is gone; its owner's next call clears up
UPDATE anomaly.job SET status = 'running', started_at = now(), pid = 1 WHERE owner = 'job_owner'::regrole AND status = 'queued' RETURNING job_id AS orphan \gset
SELECT status FROM anomaly.jobs WHERE job_id = :orphan;
SELECT pg_temp.attempt(format('SELECT anomaly.job_result(%s)', :orphan));
SET SESSION AUTHORIZATION job_owner;
CALL anomaly.run_due();
RESET SESSION AUTHORIZATION;
SELECT status, finished_at IS NOT NULL AS has_ended, error_message FROM anomaly.job WHERE job_id = :orphan;
-- kept for a month, and a thousand of each owner
UPDATE anomaly.job SET finished_at = now() - interval '31 days' WHERE job_id = :train;
INSERT INTO anomaly.job (owner, submitted_by, kind, args, status, finished_at) SELECT 'job_owner', 'job_owner', 'scan', '{}', 'succeeded', now() FROM generate_series(1, 1200);
SET SESSION AUTHORIZATION job_owner;
CALL anomaly.run_due();
SELECT anomaly.submit('scan', '{"detector": "job_many"}') > 0 AS submitted;
SELECT count(*) AS kept, count(*) FILTER (WHERE job_id = :train) AS old FROM anomaly.jobs;
RESET SESSION AUTHORIZATION;

DELETE FROM anomaly.job;
SELECT count(anomaly.drop_detector(detector)) AS dropped FROM anomaly.detectors WHERE detector ~ '^job_';
DROP SCHEMA job_data CASCADE;
DROP ROLE job_owner, job_other, job_admin, job_reader;
SELECT format('ALTER DATABASE %I RESET anomaly_detection.enabled', current_database()) \gexec
RESET client_min_messages;
