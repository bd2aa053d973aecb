-- Jobs: what takes long and runs as an owner, in the background: submitted now, done by the owner's scan worker or by
-- CALL anomaly.run_due().

-- Operators and functions of these statements are core's, whatever the installation's schema holds.
SET LOCAL search_path TO pg_catalog, pg_temp;

CREATE SEQUENCE anomaly.job_id_seq;
COMMENT ON SEQUENCE anomaly.job_id_seq IS 'numbers of jobs';

CREATE TABLE anomaly.job (
    job_id       bigint      NOT NULL PRIMARY KEY DEFAULT pg_catalog.nextval('anomaly.job_id_seq'::regclass),
    -- as whom it runs, and who asked for it
    owner        regrole     NOT NULL,
    submitted_by text        NOT NULL,
    kind         text        NOT NULL CHECK (kind IN ('train', 'scan', 'backtest', 'backtest_summary', 'preview')),
    detector     text,
    args         jsonb       NOT NULL,
    -- crashed: the session ended without a word, its lock is free
    status       text        NOT NULL DEFAULT 'queued' CHECK (status IN ('queued', 'running', 'succeeded', 'failed', 'cancelled', 'crashed')),
    submitted_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    started_at   timestamptz,
    finished_at  timestamptz,
    pid          integer,
    result       jsonb,
    -- the result is the beginning of what there was
    truncated    boolean     NOT NULL DEFAULT false,
    error_code   text,
    error_message text,
    error_hint   text
) WITH (fillfactor = 80);
COMMENT ON TABLE anomaly.job IS 'work that somebody has submitted, its state and its result; the latest thousand of each owner, for 30 days';

CREATE INDEX job_owner ON anomaly.job (owner, job_id);
-- Few are waiting or at work at a time: looked up at every visit of the scheduler.
CREATE INDEX job_waiting ON anomaly.job (owner, job_id) WHERE status IN ('queued', 'running');
CREATE INDEX job_finished ON anomaly.job (finished_at);

CREATE VIEW anomaly.jobs WITH (security_barrier) AS
SELECT j.job_id, j.kind, j.detector, j.owner, j.submitted_by,
       -- A row that was restored from a dump, or that nobody has cleared up yet.
       CASE WHEN j.status OPERATOR(pg_catalog.<>) 'running' OR anomaly.job_is_alive(j.job_id)
            THEN j.status ELSE 'crashed' END AS status,
       j.submitted_at, j.started_at, j.finished_at, j.finished_at OPERATOR(pg_catalog.-) j.started_at AS duration,
       -- while a background worker is at it
       p.rows_read,
       j.args,
       -- what comes of the owner's data is the owner's
       CASE WHEN pg_catalog.pg_has_role(CURRENT_USER, j.owner, 'MEMBER')
              OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_admin', 'MEMBER') THEN j.result END AS result,
       j.truncated, j.error_code, j.error_message, j.error_hint
  FROM anomaly.job j
  LEFT JOIN anomaly.running_workers() p ON p.run_id OPERATOR(pg_catalog.=) (OPERATOR(pg_catalog.-) j.job_id)
 WHERE pg_catalog.pg_has_role(CURRENT_USER, j.owner, 'MEMBER')
    OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_monitor', 'MEMBER')
    OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_admin', 'MEMBER');
COMMENT ON VIEW anomaly.jobs IS 'jobs that run as a role of the reader, or that the reader may see: state, result, and why one has failed';
GRANT SELECT ON anomaly.jobs TO PUBLIC;

COMMENT ON FUNCTION anomaly.submit(text, jsonb) IS
'has a training, scan, backtest or preview done in the background, as the owner of the detector; the number of the job';
COMMENT ON FUNCTION anomaly.cancel_job(bigint) IS
'ends a job that waits or is at work; false when it had ended before';
COMMENT ON FUNCTION anomaly.job_result(bigint) IS
'what came of a job: NULL while there is nothing yet, the job''s own error when it has failed';
COMMENT ON FUNCTION anomaly.job_is_alive(bigint) IS
'whether a job that showed as running has not crashed: a session holds its lock, or it has ended meanwhile';
COMMENT ON FUNCTION anomaly.claim_next_job(timestamptz) IS
'first step of a job in anomaly.run_due(): claims the caller''s next one that was submitted before then; NULL when there is none';
COMMENT ON FUNCTION anomaly.perform_job(bigint) IS
'second step of a job in anomaly.run_due(): does the work and stores its result';
COMMENT ON FUNCTION anomaly.settle_job(bigint, text, text, text) IS
'third step of a job in anomaly.run_due(): records the error of one that has failed; whether it was cancelled';

SET LOCAL search_path TO @extschema@, pg_temp;
