-- Rows judged in the statement that writes them: what anomaly.watch_writes() sets up, and what its triggers find.

-- Operators and functions of these statements are core's, whatever the installation's schema holds.
SET LOCAL search_path TO pg_catalog, pg_temp;

-- A detector reads one table. The triggers on it are the table's own: they ask here which detectors they are for,
-- so that one of a detector that is gone does nothing.
CREATE TABLE anomaly.write_check (
    detector        text        NOT NULL PRIMARY KEY REFERENCES anomaly.detector ON DELETE CASCADE,
    source_relation regclass    NOT NULL,
    mode            text        NOT NULL CHECK (mode IN ('annotate', 'notify', 'reject')),
    -- rows of UPDATE as well
    updates         boolean     NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE anomaly.write_check IS 'detectors that judge the rows of their table in the statement that writes them';
CREATE INDEX write_check_relation ON anomaly.write_check (source_relation);

-- Rows are only ever added here: sessions that counted in one row would wait for each other.
CREATE TABLE anomaly.write_failure (
    detector   text        NOT NULL REFERENCES anomaly.detector ON DELETE CASCADE,
    failed_at  timestamptz NOT NULL,
    -- of one session, since it said so the last time
    statements bigint      NOT NULL CHECK (statements >= 1),
    error_code text        NOT NULL,
    message    text        NOT NULL,
    hint       text
);
COMMENT ON TABLE anomaly.write_failure IS 'statements whose rows could not be judged, and why: a row per session and minute at most';
CREATE INDEX write_failure_detector ON anomaly.write_failure (detector, failed_at);

-- One slot a day, by the day of created_at.
CREATE TABLE anomaly.row_score (
    slot       smallint    NOT NULL,
    detector   text        NOT NULL,
    owner      regrole     NOT NULL,
    -- its primary key
    row_key    jsonb,
    entity     text        NOT NULL,
    at         timestamptz NOT NULL,
    value      double precision NOT NULL,
    expected   double precision,
    lower      double precision,
    upper      double precision,
    score      double precision NOT NULL,
    p_value    double precision NOT NULL,
    deviation  double precision NOT NULL,
    is_anomaly boolean     NOT NULL,
    status     text        NOT NULL,
    created_at timestamptz NOT NULL
) PARTITION BY LIST (slot);
COMMENT ON TABLE anomaly.row_score IS 'verdicts on rows as they were written, of the last seven days';

CREATE TABLE anomaly.row_score_00 PARTITION OF anomaly.row_score FOR VALUES IN (0);
CREATE TABLE anomaly.row_score_01 PARTITION OF anomaly.row_score FOR VALUES IN (1);
CREATE TABLE anomaly.row_score_02 PARTITION OF anomaly.row_score FOR VALUES IN (2);
CREATE TABLE anomaly.row_score_03 PARTITION OF anomaly.row_score FOR VALUES IN (3);
CREATE TABLE anomaly.row_score_04 PARTITION OF anomaly.row_score FOR VALUES IN (4);
CREATE TABLE anomaly.row_score_05 PARTITION OF anomaly.row_score FOR VALUES IN (5);
CREATE TABLE anomaly.row_score_06 PARTITION OF anomaly.row_score FOR VALUES IN (6);
CREATE TABLE anomaly.row_score_07 PARTITION OF anomaly.row_score FOR VALUES IN (7);

-- Every written row is one here: what is kept up for each of them is as small as can be.
CREATE INDEX row_score_created ON anomaly.row_score USING brin (created_at);
CREATE INDEX row_score_anomalous ON anomaly.row_score (detector, created_at) WHERE is_anomaly;

-- Written values and keys are the owner's data: unlike alerts they are not shown to anomaly_monitor.
CREATE VIEW anomaly.row_scores WITH (security_barrier) AS
SELECT r.detector, r.owner, r.row_key, NULLIF(r.entity, '') AS entity, r.at, r.value, r.expected, r.lower, r.upper,
       r.score, r.p_value, r.deviation, r.is_anomaly, r.status, r.created_at
  FROM anomaly.row_score r
 WHERE pg_catalog.pg_has_role(CURRENT_USER, r.owner, 'MEMBER')
    OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_admin', 'MEMBER');
COMMENT ON VIEW anomaly.row_scores IS 'what the reader''s detectors said of rows as they were written, of the last seven days; row_key is the row''s primary key';

CREATE FUNCTION anomaly.check_written_rows() RETURNS trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'check_written_rows';
COMMENT ON FUNCTION anomaly.check_written_rows() IS 'the trigger of anomaly.watch_writes(): does nothing on tables that are not watched so';

CREATE VIEW anomaly.write_checks WITH (security_barrier) AS
SELECT w.detector, d.owner, w.source_relation::pg_catalog.text AS source, w.mode, w.updates, j.status, j.reason, j.hint,
       COALESCE(f.failures, 0) AS failures, l.failed_at AS last_failed_at, w.created_at
  FROM anomaly.write_check w
  JOIN anomaly.detector d ON d.detector OPERATOR(pg_catalog.=) w.detector
  JOIN anomaly.detector_state s ON s.detector OPERATOR(pg_catalog.=) w.detector
  LEFT JOIN LATERAL (
        SELECT pg_catalog.sum(f.statements)::pg_catalog.int8 AS failures
          FROM anomaly.write_failure f WHERE f.detector OPERATOR(pg_catalog.=) w.detector) f ON true
  LEFT JOIN LATERAL (
        SELECT f.failed_at, f.message, f.hint FROM anomaly.write_failure f
         WHERE f.detector OPERATOR(pg_catalog.=) w.detector ORDER BY f.failed_at DESC LIMIT 1) l ON true
 CROSS JOIN LATERAL (
        SELECT NOT EXISTS (SELECT FROM pg_catalog.pg_trigger t
                            WHERE t.tgrelid OPERATOR(pg_catalog.=) w.source_relation::pg_catalog.oid
                              AND t.tgfoid OPERATOR(pg_catalog.=) 'anomaly.check_written_rows()'::pg_catalog.regprocedure::pg_catalog.oid
                              AND t.tgenabled IN ('O', 'A')) AS no_trigger,
               anomaly.paused_reason() AS paused,
               l.failed_at OPERATOR(pg_catalog.>) (pg_catalog.now() OPERATOR(pg_catalog.-) '1 hour'::pg_catalog.interval) AS is_failing) t
 CROSS JOIN LATERAL (
        SELECT CASE WHEN t.no_trigger THEN 'no trigger' WHEN t.paused IS NOT NULL THEN 'paused' WHEN NOT d.enabled THEN 'disabled'
                    WHEN t.is_failing THEN 'failing' ELSE 'ok' END AS status,
               CASE WHEN t.no_trigger THEN 'its trigger is gone or disabled' WHEN t.paused IS NOT NULL THEN t.paused
                    WHEN NOT d.enabled THEN 'the detector is disabled' WHEN t.is_failing THEN l.message END AS reason,
               CASE WHEN t.no_trigger THEN pg_catalog.format('SELECT * FROM anomaly.watch_writes(%L, %L)', w.detector, w.mode)
                    WHEN t.paused IS NOT NULL THEN 'SELECT anomaly.resume()'
                    WHEN NOT d.enabled THEN pg_catalog.format('SELECT anomaly.enable(%L)', w.detector) WHEN t.is_failing THEN l.hint END AS hint) j
 WHERE pg_catalog.pg_has_role(CURRENT_USER, d.owner, 'MEMBER')
    OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_monitor', 'MEMBER')
    OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_admin', 'MEMBER');
COMMENT ON VIEW anomaly.write_checks IS 'which tables judge rows as they are written, whether they do, and how many statements could not be judged in the last seven days';

GRANT SELECT ON anomaly.row_scores, anomaly.write_checks TO PUBLIC;

SET LOCAL search_path TO @extschema@, pg_temp;
