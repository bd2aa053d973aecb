-- What runs when, and what the scheduler has counted.

-- Operators and functions of these statements are core's, whatever the installation's schema holds.
SET LOCAL search_path TO pg_catalog, pg_temp;

CREATE VIEW anomaly.schedule WITH (security_barrier) AS
SELECT i.kind, i.name, i.owner, i.enabled, i.every, i.cron, i.time_zone, i.next_due, i.consecutive_failures, i.coalesced
  FROM (SELECT 'detector'::pg_catalog.text AS kind, d.detector AS name, d.owner, d.enabled AND s.status OPERATOR(pg_catalog.<>) 'broken' AS enabled,
               d.every, d.cron, CASE WHEN d.cron IS NOT NULL THEN d.time_zone END AS time_zone, s.next_due, s.consecutive_failures, s.coalesced
          FROM anomaly.detector d
          JOIN anomaly.detector_state s ON s.detector OPERATOR(pg_catalog.=) d.detector
        UNION ALL
        SELECT 'monitor', m.monitor, m.owner, m.enabled, m.every, NULL, NULL, m.next_due, m.consecutive_failures, m.coalesced
          FROM anomaly.monitor m) i
 WHERE pg_catalog.pg_has_role(CURRENT_USER, i.owner, 'MEMBER')
    OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_monitor', 'MEMBER')
    OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_admin', 'MEMBER');
COMMENT ON VIEW anomaly.schedule IS 'when each detector and monitor that the reader owns or may see is due, and how many due times had no run of their own';

CREATE VIEW anomaly.scheduler WITH (security_barrier) AS
SELECT * FROM anomaly.scheduler_state();
COMMENT ON VIEW anomaly.scheduler IS 'the background workers and what they have counted in this database since the server started; empty without shared_preload_libraries';

GRANT SELECT ON anomaly.schedule, anomaly.scheduler TO PUBLIC;

SET LOCAL search_path TO @extschema@, pg_temp;
