-- What the scans of each detector have cost and found since somebody has reset it.

-- Operators and functions of these statements are core's, whatever the installation's schema holds.
SET LOCAL search_path TO pg_catalog, pg_temp;

CREATE VIEW anomaly.stats WITH (security_barrier) AS
SELECT d.detector, d.owner, s.stats_since, s.scans, s.failures, s.rows_read,
       s.points_processed OPERATOR(pg_catalog.-) s.points_before AS points,
       s.anomalies_detected OPERATOR(pg_catalog.-) s.anomalies_before AS anomalies,
       s.alerts_opened AS alerts,
       s.scan_ms AS total_scan_ms,
       CASE WHEN s.scans OPERATOR(pg_catalog.>) 0 THEN s.scan_ms OPERATOR(pg_catalog./) s.scans::float8 END AS mean_scan_ms,
       CASE WHEN s.scans OPERATOR(pg_catalog.>) 0 THEN s.max_scan_ms END AS max_scan_ms,
       s.last_scan_at
  FROM anomaly.detector d
  JOIN anomaly.detector_state s ON s.detector OPERATOR(pg_catalog.=) d.detector
 WHERE pg_catalog.pg_has_role(CURRENT_USER, d.owner, 'MEMBER')
    OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_monitor', 'MEMBER')
    OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_admin', 'MEMBER');
COMMENT ON VIEW anomaly.stats IS 'scans, failures, rows, points, alerts and milliseconds of each detector since stats_since; anomaly.reset_stats() begins anew';
GRANT SELECT ON anomaly.stats TO PUBLIC;

COMMENT ON FUNCTION anomaly.reset_stats(text) IS
'sets the counters of anomaly.stats to zero, for one detector or for all that the caller owns; how many detectors that were';

SET LOCAL search_path TO @extschema@, pg_temp;
