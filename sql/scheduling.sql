-- Scheduling as people see it: run history, health, progress, and running what is due by hand.

-- Operators and functions of these statements are core's, whatever the installation's schema holds.
SET LOCAL search_path TO pg_catalog, pg_temp;

CREATE VIEW anomaly.runs WITH (security_barrier) AS
SELECT r.run_id, r.detector, r.monitor, r.owner, r.kind, r.started_by,
       -- A row that was restored from a dump, or that nobody has cleared up yet.
       CASE WHEN r.status OPERATOR(pg_catalog.<>) 'running' OR anomaly.run_is_alive(r.run_id)
            THEN r.status ELSE 'crashed' END AS status,
       r.pid, r.started_at, r.finished_at, r.finished_at OPERATOR(pg_catalog.-) r.started_at AS duration,
       r.window_from, r.window_until, r.rows_read, r.points_scored, r.alerts_opened, r.alerts_resolved,
       r.entities, r.entities_skipped, r.entities_replayed, r.alerts_amended, r.alerts_withdrawn, r.alerts_suppressed,
       r.error_code, r.error_message
  FROM anomaly.run r
 WHERE pg_catalog.pg_has_role(CURRENT_USER, r.owner, 'MEMBER')
    OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_monitor', 'MEMBER')
    OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_admin', 'MEMBER');
COMMENT ON VIEW anomaly.runs IS 'runs of the detectors and monitors that the reader owns or may see';

CREATE VIEW anomaly.progress WITH (security_barrier) AS
SELECT r.run_id, r.detector, r.monitor, r.owner, r.kind, p.pid, r.started_at,
       pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) r.started_at AS running_for, p.rows_read
  FROM anomaly.running_workers() p
  JOIN anomaly.run r ON r.run_id OPERATOR(pg_catalog.=) p.run_id AND r.status OPERATOR(pg_catalog.=) 'running'
 WHERE pg_catalog.pg_has_role(CURRENT_USER, r.owner, 'MEMBER')
    OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_monitor', 'MEMBER')
    OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_admin', 'MEMBER');
COMMENT ON VIEW anomaly.progress IS 'runs that a background worker is executing now, and how many rows they have read';

-- The planner takes a UNION ALL apart before it looks at security_barrier: as the outermost part of a view it would let a
-- condition of the reader see rows before they are filtered. Hence the SELECT around it.
CREATE VIEW anomaly.health WITH (security_barrier) AS
SELECT u.kind, u.name, u.owner, u.status, u.reason, u.hint, u.next_due, u.consecutive_failures, u.problem, u.since FROM (
SELECT 'system'::pg_catalog.text AS kind, h.name, NULL::regrole AS owner, h.status, h.reason, h.hint,
       NULL::pg_catalog.timestamptz AS next_due, NULL::pg_catalog.int4 AS consecutive_failures,
       CASE WHEN h.status OPERATOR(pg_catalog.=) 'starved' THEN 'worker limit reached'
            WHEN h.status NOT IN ('ok', 'standby') THEN h.status END AS problem,
       CASE h.status WHEN 'paused' THEN (SELECT t.resumed_at FROM anomaly.setting t) END AS since
  FROM anomaly.scheduler_health() h
UNION ALL
SELECT w.kind, w.name, w.owner, w.status, w.reason, w.hint, NULL, NULL, w.status, NULL FROM anomaly.warnings w
UNION ALL
SELECT i.kind, i.name, i.owner, j.status, j.reason, j.hint, i.next_due, i.consecutive_failures, q.problem,
       CASE WHEN q.problem IN ('failing', 'quarantined', 'broken') THEN COALESCE(i.oldest, l.since)
            WHEN q.problem IN ('undelivered', 'backlog') THEN i.oldest
            WHEN q.problem IN ('never run', 'stuck warming') THEN i.created_at
            WHEN q.problem OPERATOR(pg_catalog.=) 'late' THEN CASE WHEN i.late_at OPERATOR(pg_catalog.<) pg_catalog.now() THEN i.watermark ELSE i.next_due END
            WHEN q.problem OPERATOR(pg_catalog.=) 'alerts suppressed' THEN i.last_scan_at END AS since
  FROM (SELECT 'detector'::pg_catalog.text AS kind, d.detector AS name, d.owner, d.enabled, s.status, s.status_reason, s.status_hint,
               s.next_due, s.consecutive_failures, d.every, d.min_data_points,
               COALESCE(m.enabled, true) AS monitor_enabled, 'enable' AS enable,
               d.created_at, s.last_scan_at, s.watermark, s.alerts_suppressed, d.every IS NOT NULL OR d.cron IS NOT NULL AS is_scheduled,
               -- with its watermark, it is late from then on
               s.watermark OPERATOR(pg_catalog.+) d.settle OPERATOR(pg_catalog.+) COALESCE(d.bucket, '0'::pg_catalog.interval)
                   OPERATOR(pg_catalog.+) GREATEST(d.every OPERATOR(pg_catalog.*) 3::pg_catalog.float8, CASE WHEN d.every IS NOT NULL THEN '1 minute'::pg_catalog.interval END) AS late_at,
               -- twice the time in which as many points as it needs can come
               d.created_at OPERATOR(pg_catalog.+) GREATEST('1 day'::pg_catalog.interval, COALESCE(d.bucket, d.every, '0'::pg_catalog.interval)
                   OPERATOR(pg_catalog.*) (2 OPERATOR(pg_catalog.*) d.min_data_points)::pg_catalog.float8) AS warm_by,
               NULL::pg_catalog.timestamptz AS oldest, NULL::pg_catalog.int8 AS waiting
          FROM anomaly.detector d
          JOIN anomaly.detector_state s ON s.detector OPERATOR(pg_catalog.=) d.detector
          LEFT JOIN anomaly.monitor m ON m.monitor OPERATOR(pg_catalog.=) d.monitor
        UNION ALL
        SELECT 'monitor', m.monitor, m.owner, m.enabled,
               CASE WHEN m.enabled AND m.next_due IS NULL THEN 'broken' ELSE 'active' END, NULL, NULL,
               m.next_due, m.consecutive_failures, m.every, NULL, true, 'enable_monitor',
               m.created_at, NULL, NULL, 0, true, NULL, NULL, NULL, NULL
          FROM anomaly.monitor m
        UNION ALL
        SELECT 'handler', h.handler, h.owner, h.enabled, CASE WHEN o.dead THEN 'broken' ELSE 'active' END, o.last_error, NULL,
               o.next_try, COALESCE(o.attempts, 0), NULL, NULL, true, 'enable_handler',
               h.created_at, NULL, NULL, 0, false, NULL, NULL, o.oldest, o.waiting
          FROM anomaly.handler h
          LEFT JOIN LATERAL (
                -- what waits for the delivery server is not ours to be late with
                SELECT pg_catalog.bool_or(o.dead) AS dead, pg_catalog.max(o.attempts) FILTER (WHERE o.last_error IS NOT NULL) AS attempts,
                       pg_catalog.min(o.next_try) FILTER (WHERE NOT o.dead AND h.kind IN ('function', 'notify')) AS next_try,
                       pg_catalog.min(o.created_at) AS oldest, pg_catalog.count(*) FILTER (WHERE NOT o.dead) AS waiting,
                       (pg_catalog.array_agg(o.last_error ORDER BY o.dead DESC, o.id DESC) FILTER (WHERE o.last_error IS NOT NULL))[1] AS last_error
                  FROM anomaly.outbox o WHERE o.handler OPERATOR(pg_catalog.=) h.handler) o ON true) i
  LEFT JOIN pg_catalog.pg_roles o ON o.oid OPERATOR(pg_catalog.=) i.owner
  LEFT JOIN LATERAL (
        SELECT r.status, r.error_message,
               (SELECT pg_catalog.min(f.started_at) FROM anomaly.run f
                 WHERE f.detector OPERATOR(pg_catalog.=) i.name AND i.kind OPERATOR(pg_catalog.=) 'detector' AND f.status IN ('failed', 'crashed')
                   AND f.started_at OPERATOR(pg_catalog.>) COALESCE(i.last_scan_at, '-infinity'::pg_catalog.timestamptz)) AS since
          FROM anomaly.run r
         WHERE i.consecutive_failures OPERATOR(pg_catalog.>) 0
           AND r.status IN ('failed', 'crashed')
           AND i.kind OPERATOR(pg_catalog.<>) 'handler'
           AND CASE i.kind WHEN 'detector' THEN r.detector ELSE r.monitor END OPERATOR(pg_catalog.=) i.name
         ORDER BY r.started_at DESC LIMIT 1) l ON true
 CROSS JOIN LATERAL (
        -- what the delivery server takes needs no role that can run
        SELECT CASE WHEN i.kind OPERATOR(pg_catalog.<>) 'handler' OR o.oid IS NULL THEN anomaly.owner_problem(i.owner) END AS reason) w
 CROSS JOIN LATERAL (
        SELECT CASE WHEN w.reason IS NOT NULL THEN 'orphaned'
                    WHEN NOT i.enabled OR NOT i.monitor_enabled THEN 'disabled'
                    WHEN i.status OPERATOR(pg_catalog.=) 'broken' THEN 'broken'
                    WHEN i.consecutive_failures OPERATOR(pg_catalog.>) 0 THEN 'failing'
                    WHEN i.status IN ('new', 'warming') THEN 'warming'
                    WHEN i.late_at OPERATOR(pg_catalog.<) pg_catalog.clock_timestamp() OR
                         i.next_due OPERATOR(pg_catalog.<) (pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-)
                         GREATEST(COALESCE(i.every, '1 minute'::pg_catalog.interval), '1 minute'::pg_catalog.interval)) THEN 'late'
                    ELSE 'ok' END AS status) c
 CROSS JOIN LATERAL (
        SELECT CASE WHEN o.oid IS NULL THEN 'owner gone'
                    WHEN c.status OPERATOR(pg_catalog.=) 'disabled' THEN NULL
                    WHEN c.status OPERATOR(pg_catalog.=) 'orphaned' THEN CASE WHEN o.rolcanlogin THEN 'owner may not connect' ELSE 'owner without login' END
                    WHEN c.status OPERATOR(pg_catalog.=) 'broken' AND i.kind OPERATOR(pg_catalog.=) 'handler' THEN 'undelivered'
                    WHEN c.status OPERATOR(pg_catalog.=) 'broken' AND i.status_reason OPERATOR(pg_catalog.~) '^gave up after ' THEN 'quarantined'
                    WHEN c.status IN ('broken', 'failing') THEN c.status
                    WHEN i.kind OPERATOR(pg_catalog.=) 'detector' AND i.last_scan_at IS NULL
                         AND (c.status OPERATOR(pg_catalog.=) 'late' OR i.created_at OPERATOR(pg_catalog.<) (pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-)
                              CASE WHEN i.every IS NULL THEN '1 day'::pg_catalog.interval
                                   ELSE GREATEST(i.every OPERATOR(pg_catalog.*) 3::pg_catalog.float8, '5 minutes'::pg_catalog.interval) END)) THEN 'never run'
                    WHEN c.status OPERATOR(pg_catalog.=) 'warming' AND i.warm_by OPERATOR(pg_catalog.<) pg_catalog.clock_timestamp() THEN 'stuck warming'
                    WHEN c.status OPERATOR(pg_catalog.=) 'late' AND i.kind OPERATOR(pg_catalog.<>) 'handler' THEN 'late'
                    WHEN i.waiting OPERATOR(pg_catalog.>) 0 AND i.oldest OPERATOR(pg_catalog.<) (pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) '15 minutes'::pg_catalog.interval)
                         THEN 'backlog'
                    WHEN c.status OPERATOR(pg_catalog.=) 'late' THEN 'late'
                    WHEN i.alerts_suppressed OPERATOR(pg_catalog.>) 0 THEN 'alerts suppressed' END AS problem) q
 CROSS JOIN LATERAL (
        SELECT c.status,
               CASE WHEN w.reason IS NOT NULL THEN w.reason
                    WHEN c.status OPERATOR(pg_catalog.=) 'disabled' AND NOT i.monitor_enabled THEN 'its monitor is disabled'
                    WHEN c.status IN ('failing', 'broken')
                         THEN COALESCE(i.status_reason, l.error_message, 'it cannot run')
                    WHEN c.status OPERATOR(pg_catalog.=) 'warming' THEN i.status_reason
                    WHEN q.problem OPERATOR(pg_catalog.=) 'backlog' THEN pg_catalog.format('%s messages wait, the oldest since %s', i.waiting, i.oldest)
                    WHEN c.status OPERATOR(pg_catalog.=) 'late' AND i.late_at OPERATOR(pg_catalog.<) pg_catalog.clock_timestamp()
                         THEN pg_catalog.format('it has judged what came until %s', i.watermark)
                    WHEN c.status OPERATOR(pg_catalog.=) 'late' THEN pg_catalog.format('due since %s', i.next_due)
                    WHEN q.problem OPERATOR(pg_catalog.=) 'alerts suppressed'
                         THEN pg_catalog.format('the latest scan would have opened %s more alerts than anomaly_detection.max_alerts_per_scan', i.alerts_suppressed)
                    WHEN q.problem OPERATOR(pg_catalog.=) 'never run' THEN 'it has judged nothing yet' END AS reason,
               CASE WHEN o.oid IS NULL THEN pg_catalog.format('SELECT anomaly.drop_%s(%L)', i.kind, i.name)
                    WHEN c.status OPERATOR(pg_catalog.=) 'orphaned'
                         THEN pg_catalog.format('%s; SELECT anomaly.%s(%L)',
                              CASE WHEN o.rolcanlogin THEN pg_catalog.format('GRANT CONNECT ON DATABASE %I TO %I', pg_catalog.current_database(), o.rolname)
                                   ELSE pg_catalog.format('ALTER ROLE %I LOGIN', o.rolname) END, i.enable, i.name)
                    WHEN c.status IN ('broken', 'failing') AND i.status_hint IS NOT NULL THEN i.status_hint
                    WHEN c.status IN ('broken', 'disabled') AND i.monitor_enabled
                         THEN pg_catalog.format('SELECT anomaly.%s(%L)', i.enable, i.name)
                    WHEN (c.status OPERATOR(pg_catalog.=) 'failing' OR q.problem OPERATOR(pg_catalog.=) 'backlog') AND i.kind OPERATOR(pg_catalog.=) 'handler'
                         THEN pg_catalog.format('SELECT * FROM anomaly.deliveries WHERE handler = %L ORDER BY id', i.name)
                    WHEN c.status OPERATOR(pg_catalog.=) 'failing' OR q.problem OPERATOR(pg_catalog.=) 'stuck warming'
                         THEN pg_catalog.format('SELECT * FROM anomaly.runs WHERE %I = %L ORDER BY run_id DESC', i.kind, i.name)
                    WHEN c.status OPERATOR(pg_catalog.=) 'late' OR q.problem OPERATOR(pg_catalog.=) 'never run' AND i.is_scheduled THEN 'see the rows of kind system'
                    WHEN q.problem OPERATOR(pg_catalog.=) 'alerts suppressed'
                         THEN 'lower alerts_per_day with anomaly.alter_detector, or raise anomaly_detection.max_alerts_per_scan' END AS hint) j
 WHERE pg_catalog.pg_has_role(CURRENT_USER, i.owner, 'MEMBER')
    OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_monitor', 'MEMBER')
    OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_admin', 'MEMBER')) u;
COMMENT ON VIEW anomaly.health IS 'what runs and what does not, why, and what to type about it; problem is NULL where nobody has to do anything';

GRANT SELECT ON anomaly.runs, anomaly.progress, anomaly.health TO PUBLIC;

-- One run is three transactions, as in a scan worker: claim, work, record. The subtransaction around
-- the work lets its error be recorded; a cancel is recorded too and then raised again.
-- No SET clause: a procedure with one cannot COMMIT. So every name is qualified.
CREATE PROCEDURE anomaly.run_due() LANGUAGE plpgsql AS $$
DECLARE
    began   CONSTANT pg_catalog.timestamptz := pg_catalog.clock_timestamp();
    run     pg_catalog.int8;
    alerts  pg_catalog.int8;
    code    pg_catalog.text;
    message pg_catalog.text;
    detail  pg_catalog.text;
    hint    pg_catalog.text;
    skipped pg_catalog.text;
    cancelled pg_catalog.bool;
    handled pg_catalog.int8;
    job     pg_catalog.int8;
BEGIN
    LOOP
        run := anomaly.claim_next_due(began);
        EXIT WHEN run IS NULL;
        COMMIT;
        alerts := NULL;
        code := NULL;
        message := NULL;
        BEGIN
            alerts := anomaly.perform_claimed(run);
        EXCEPTION WHEN OTHERS OR query_canceled THEN
            GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
        END;
        IF code IS NULL THEN
            COMMIT;
        END IF;
        cancelled := anomaly.settle_claimed(run, alerts, code, message, detail, hint);
        COMMIT;
        IF cancelled THEN
            RAISE query_canceled USING MESSAGE = message;
        ELSIF code IS NOT NULL THEN
            RAISE WARNING 'run % failed: %', run, message USING ERRCODE = code;
        END IF;
    END LOOP;
    COMMIT;
    LOOP
        job := anomaly.claim_next_job(began);
        EXIT WHEN job IS NULL;
        COMMIT;
        code := NULL;
        message := NULL;
        BEGIN
            PERFORM anomaly.perform_job(job);
        EXCEPTION WHEN OTHERS OR query_canceled THEN
            GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
        END;
        IF code IS NULL THEN
            COMMIT;
        END IF;
        cancelled := anomaly.settle_job(job, code, message, hint);
        COMMIT;
        IF cancelled THEN
            RAISE query_canceled USING MESSAGE = message;
        ELSIF code IS NOT NULL THEN
            RAISE WARNING 'job % failed: %', job, message USING ERRCODE = code;
        END IF;
    END LOOP;
    COMMIT;
    -- Each message in a transaction of its own, as a worker does; a thousand at most, because a handler may cause more.
    FOR i IN 1 .. 1000 LOOP
        SELECT d.delivered OPERATOR(pg_catalog.+) d.failed INTO handled FROM anomaly.deliver(1) d;
        COMMIT;
        EXIT WHEN handled OPERATOR(pg_catalog.=) 0;
    END LOOP;
    FOR skipped IN SELECT * FROM anomaly.due_of_others() LOOP
        RAISE NOTICE 'skipped: %', skipped USING HINT = 'Its owner has to CALL anomaly.run_due(), or a background worker to run it.';
    END LOOP;
END
$$;
COMMENT ON PROCEDURE anomaly.run_due() IS 'runs the caller''s due detectors and monitors and does the caller''s jobs, each in its own transactions, and tells handlers of their alerts; for servers without shared_preload_libraries';

COMMENT ON FUNCTION anomaly.claim_next_due(timestamptz) IS 'first step of anomaly.run_due(): claims the caller''s next due detector or monitor; NULL when nothing is due';
COMMENT ON FUNCTION anomaly.perform_claimed(bigint) IS 'second step of anomaly.run_due(): does the work of a claimed run; the number of alerts that it opened and that are not silenced';
COMMENT ON FUNCTION anomaly.settle_claimed(bigint, bigint, text, text, text, text) IS 'third step of anomaly.run_due(): records how a claimed run ended; whether it was cancelled';
COMMENT ON FUNCTION anomaly.due_of_others() IS 'what is due and visible to the caller, but owned by another role';
COMMENT ON FUNCTION anomaly.run_is_alive(bigint) IS 'whether a run that showed as running has not crashed: a session holds its lock, or it has ended meanwhile';
COMMENT ON FUNCTION anomaly.paused_reason() IS 'why nothing runs in this database by itself; NULL when it may';
COMMENT ON FUNCTION anomaly.running_workers() IS 'scan workers of this database and the run each is executing; empty without shared_preload_libraries';
COMMENT ON FUNCTION anomaly.owner_problem(oid) IS 'why no background worker can run as this role; NULL when one can';
COMMENT ON FUNCTION anomaly.scheduler_state() IS 'what the scheduler knows of this database since the server started; no row without shared_preload_libraries';
COMMENT ON FUNCTION anomaly.scheduler_health() IS 'one row per problem of the scheduler, or one row that says ok';
COMMENT ON FUNCTION anomaly.resume() IS 'lets this database run its detectors, after a restore, a copy or anomaly.pause()';
COMMENT ON FUNCTION anomaly.pause() IS 'keeps this database from running its detectors until anomaly.resume()';

-- The functions check the caller themselves, by membership, which a grant could not express.
REVOKE EXECUTE ON FUNCTION anomaly.resume(), anomaly.pause() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION anomaly.resume(), anomaly.pause() TO anomaly_admin, pg_database_owner;

SET LOCAL search_path TO @extschema@, pg_temp;
