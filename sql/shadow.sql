-- Detectors on trial: each judges the points of another one and tells nobody.

-- Operators and functions of these statements are core's, whatever the installation's schema holds.
SET LOCAL search_path TO pg_catalog, pg_temp;

CREATE TABLE anomaly.shadow (
    detector      text        NOT NULL PRIMARY KEY REFERENCES anomaly.detector ON DELETE CASCADE,
    -- not dropped before its shadows are: they would begin to alert
    live          text        NOT NULL REFERENCES anomaly.detector,
    -- from when on the two are compared, and how many points the shadow had judged by then
    since         timestamptz NOT NULL,
    points_before bigint      NOT NULL DEFAULT 0,
    CHECK (detector <> live)
);
COMMENT ON TABLE anomaly.shadow IS 'detectors that are on trial beside another one, and from when on the two are compared';
CREATE INDEX shadow_live ON anomaly.shadow (live);

CREATE VIEW anomaly.shadows WITH (security_barrier) AS
SELECT h.detector, h.live AS shadow_of, d.owner, h.since
  FROM anomaly.shadow h
  JOIN anomaly.detector d ON d.detector OPERATOR(pg_catalog.=) h.detector
 WHERE pg_catalog.pg_has_role(CURRENT_USER, d.owner, 'MEMBER')
    OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_monitor', 'MEMBER')
    OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_admin', 'MEMBER');
COMMENT ON VIEW anomaly.shadows IS 'detectors that are on trial beside another one, and tell nobody';

CREATE VIEW anomaly.withheld_alerts WITH (security_barrier) AS
SELECT a.alert_id AS id, a.withheld, a.detector, a.owner, a.status, a.severity, NULLIF(a.entity, '') AS entity, a.at, a.last_at,
       a.raised_at, a.resolved_at, a.points, a.peak_at, a.value, a.expected, a.lower, a.upper, a.deviation, a.p_value, a.direction, a.description
  FROM anomaly.alert a
 WHERE a.withheld IS NOT NULL
   AND (pg_catalog.pg_has_role(CURRENT_USER, a.owner, 'MEMBER')
    OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_monitor', 'MEMBER')
    OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_admin', 'MEMBER'));
COMMENT ON VIEW anomaly.withheld_alerts IS 'what nobody was told of: alerts of shadows, and those that fdr takes for chance';

-- Both go by the same labels: what people have said of alerts of either, and have reported as missed. An alert meets a label
-- when the two overlap in time and are of the same entity.
CREATE VIEW anomaly.shadow_comparison WITH (security_barrier) AS
WITH pair AS (
    SELECT h.detector AS shadow, h.live, d.owner, d.created_at, h.since, d.bucket IS NOT NULL AS has_buckets,
           COALESCE(LEAST(ls.watermark, ss.watermark), pg_catalog.now()) AS until,
           GREATEST(ss.points_processed OPERATOR(pg_catalog.-) h.points_before, 0) AS points
      FROM anomaly.shadow h
      JOIN anomaly.detector d ON d.detector OPERATOR(pg_catalog.=) h.live
      JOIN anomaly.detector_state ls ON ls.detector OPERATOR(pg_catalog.=) h.live
      JOIN anomaly.detector_state ss ON ss.detector OPERATOR(pg_catalog.=) h.detector
     WHERE pg_catalog.pg_has_role(CURRENT_USER, d.owner, 'MEMBER')
        OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_monitor', 'MEMBER')
        OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_admin', 'MEMBER')),
side AS (
    SELECT p.*, 'live'::pg_catalog.text AS side, p.live AS detector FROM pair p
    UNION ALL
    SELECT p.*, 'shadow', p.shadow FROM pair p),
raised AS (
    SELECT s.shadow, s.side, a.alert_id, a.entity, a.at, a.last_at
      FROM side s
      JOIN anomaly.alert a ON a.detector OPERATOR(pg_catalog.=) s.detector
     WHERE a.raised_at OPERATOR(pg_catalog.>=) s.created_at AND a.status OPERATOR(pg_catalog.<>) 'withdrawn'
       AND COALESCE(a.withheld, '') OPERATOR(pg_catalog.<>) 'chance'
       AND (a.at OPERATOR(pg_catalog.>) s.since OR s.has_buckets AND a.at OPERATOR(pg_catalog.=) s.since)
       AND a.at OPERATOR(pg_catalog.<=) s.until),
said AS (
    SELECT p.shadow, p.live, j.judgement_id, j.detector, j.entity, j.from_at, j.until_at, j.points,
           j.verdict OPERATOR(pg_catalog.<>) 'false_positive' AS is_anomaly
      FROM pair p
      JOIN anomaly.judgement j ON j.detector OPERATOR(pg_catalog.=) p.live OR j.detector OPERATOR(pg_catalog.=) p.shadow
     WHERE j.withdrawn_at IS NULL AND j.given_at OPERATOR(pg_catalog.>=) p.created_at
       AND (j.verdict OPERATOR(pg_catalog.=) 'true_positive' OR j.verdict OPERATOR(pg_catalog.=) 'false_positive'
            OR j.verdict OPERATOR(pg_catalog.=) 'missed')
       AND j.until_at OPERATOR(pg_catalog.>=) p.since AND j.from_at OPERATOR(pg_catalog.<=) p.until),
-- What has been said of both alerts of one anomaly is one label.
label AS (
    SELECT s.* FROM said s
     WHERE s.detector OPERATOR(pg_catalog.=) s.live
        OR NOT EXISTS (SELECT FROM said o
                        WHERE o.shadow OPERATOR(pg_catalog.=) s.shadow AND o.detector OPERATOR(pg_catalog.=) s.live
                          AND o.entity OPERATOR(pg_catalog.=) s.entity
                          AND o.from_at OPERATOR(pg_catalog.<=) s.until_at AND o.until_at OPERATOR(pg_catalog.>=) s.from_at)),
met AS (
    SELECT s.shadow, s.side, l.judgement_id, l.is_anomaly, l.points,
           EXISTS (SELECT FROM raised r
                    WHERE r.shadow OPERATOR(pg_catalog.=) s.shadow AND r.side OPERATOR(pg_catalog.=) s.side
                      AND r.entity OPERATOR(pg_catalog.=) l.entity
                      AND r.at OPERATOR(pg_catalog.<=) l.until_at AND r.last_at OPERATOR(pg_catalog.>=) l.from_at) AS is_met
      FROM side s
      JOIN label l ON l.shadow OPERATOR(pg_catalog.=) s.shadow),
counted AS (
    SELECT s.shadow, s.live, s.owner, s.side, s.since, s.until, s.points, a.alerts, a.in_both, a.unjudged,
           m.true_positives, m.false_positives, m.false_negatives, m.false_positive_points, m.anomalous_points,
           EXTRACT(epoch FROM s.until OPERATOR(pg_catalog.-) s.since)::double precision OPERATOR(pg_catalog./) 86400 AS days
      FROM side s
     CROSS JOIN LATERAL (
            SELECT pg_catalog.count(*) AS alerts,
                   pg_catalog.count(*) FILTER (WHERE EXISTS (
                       SELECT FROM raised o
                        WHERE o.shadow OPERATOR(pg_catalog.=) r.shadow AND o.side OPERATOR(pg_catalog.<>) r.side
                          AND o.entity OPERATOR(pg_catalog.=) r.entity
                          AND o.at OPERATOR(pg_catalog.<=) r.last_at AND o.last_at OPERATOR(pg_catalog.>=) r.at)) AS in_both,
                   pg_catalog.count(*) FILTER (WHERE NOT EXISTS (
                       SELECT FROM label l
                        WHERE l.shadow OPERATOR(pg_catalog.=) r.shadow AND l.entity OPERATOR(pg_catalog.=) r.entity
                          AND l.from_at OPERATOR(pg_catalog.<=) r.last_at AND l.until_at OPERATOR(pg_catalog.>=) r.at)) AS unjudged
              FROM raised r
             WHERE r.shadow OPERATOR(pg_catalog.=) s.shadow AND r.side OPERATOR(pg_catalog.=) s.side) a
     CROSS JOIN LATERAL (
            SELECT pg_catalog.count(*) FILTER (WHERE t.is_anomaly AND t.is_met) AS true_positives,
                   pg_catalog.count(*) FILTER (WHERE NOT t.is_anomaly AND t.is_met) AS false_positives,
                   pg_catalog.count(*) FILTER (WHERE t.is_anomaly AND NOT t.is_met) AS false_negatives,
                   COALESCE(pg_catalog.sum(t.points) FILTER (WHERE NOT t.is_anomaly AND t.is_met), 0) AS false_positive_points,
                   COALESCE(pg_catalog.sum(t.points) FILTER (WHERE t.is_anomaly), 0) AS anomalous_points
              FROM met t
             WHERE t.shadow OPERATOR(pg_catalog.=) s.shadow AND t.side OPERATOR(pg_catalog.=) s.side) m),
shared AS (
    SELECT c.*, c.true_positives OPERATOR(pg_catalog.+) c.false_positives AS judged,
           c.true_positives OPERATOR(pg_catalog.+) c.false_negatives AS anomalies,
           GREATEST(c.points OPERATOR(pg_catalog.-) c.anomalous_points, c.false_positive_points) AS negatives
      FROM counted c)
SELECT c.shadow, c.live, c.owner, c.side, c.since, c.until AS until_ts, c.alerts,
       c.alerts OPERATOR(pg_catalog./) NULLIF(GREATEST(c.days, 0), 0) AS alerts_per_day,
       c.in_both, c.alerts OPERATOR(pg_catalog.-) c.in_both AS only_here, c.unjudged,
       c.true_positives, c.false_positives, c.false_negatives,
       c.true_positives OPERATOR(pg_catalog./) NULLIF(c.judged, 0)::double precision AS precision,
       anomaly.wilson_interval(c.true_positives, c.judged) AS precision_95,
       c.true_positives OPERATOR(pg_catalog./) NULLIF(c.anomalies, 0)::double precision AS recall,
       anomaly.wilson_interval(c.true_positives, c.anomalies) AS recall_95,
       (2 OPERATOR(pg_catalog.*) c.true_positives) OPERATOR(pg_catalog./)
           NULLIF(c.judged OPERATOR(pg_catalog.+) c.anomalies, 0)::double precision AS f1_score,
       c.false_positive_points OPERATOR(pg_catalog./) NULLIF(c.negatives, 0)::double precision AS false_positive_rate,
       anomaly.wilson_interval(c.false_positive_points, c.negatives) AS false_positive_rate_95
  FROM shared c;
COMMENT ON VIEW anomaly.shadow_comparison IS
'each shadow beside the detector that it shadows, over the same time and by the same labels: one row for either; _95 are Wilson intervals';

GRANT SELECT ON anomaly.shadows, anomaly.withheld_alerts, anomaly.shadow_comparison TO PUBLIC;

SET LOCAL search_path TO @extschema@, pg_temp;
