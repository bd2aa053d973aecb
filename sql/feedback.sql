-- What people have said about alerts, and periods that never train. Rows keep what they need of detector, entity
-- and period: neither an alert nor a detector needs to be there any more.

-- Operators and functions of these statements are core's, whatever the installation's schema holds.
SET LOCAL search_path TO pg_catalog, pg_temp;

CREATE SEQUENCE anomaly.judgement_id_seq;
COMMENT ON SEQUENCE anomaly.judgement_id_seq IS 'numbers of judgements';

CREATE TABLE anomaly.judgement (
    judgement_id     bigint      NOT NULL PRIMARY KEY DEFAULT pg_catalog.nextval('anomaly.judgement_id_seq'::regclass),
    detector        text        NOT NULL,
    owner           regrole     NOT NULL,
    entity          text        NOT NULL,
    -- NULL of what nobody was told of
    alert_id        bigint,
    verdict         text        NOT NULL CHECK (verdict IN
                    ('true_positive', 'false_positive', 'expected_once', 'expected_always', 'missed', 'ignore_training')),
    scope           text        NOT NULL CHECK (scope IN ('alert', 'entity', 'detector')),
    from_at         timestamptz NOT NULL,
    until_at        timestamptz NOT NULL,
    points          integer     NOT NULL,
    -- from the first anomalous point to the alert
    detected_after  interval,
    -- What is accepted from now on, NULL where nothing is: a distance from the expected value on a side, or a deviation
    -- where the strategy knows none, of points of (effective_from, effective_until].
    side            text        CHECK (side IN ('above', 'below', 'at')),
    distance        double precision CHECK (distance > 0),
    effective_from  timestamptz,
    effective_until timestamptz,
    -- how each member of an ensemble voted, and so what was counted: member → whether it found the anomaly
    members         jsonb       NOT NULL DEFAULT '{}',
    note            text,
    given_by        regrole     NOT NULL,
    given_at        timestamptz NOT NULL DEFAULT pg_catalog.now(),
    withdrawn_by    regrole,
    withdrawn_at    timestamptz,
    CHECK ((side IS NULL) = (distance IS NULL)),
    CHECK (from_at <= until_at),
    CHECK ((withdrawn_by IS NULL) = (withdrawn_at IS NULL))
);
COMMENT ON TABLE anomaly.judgement IS 'judgements of alerts and reports of missed anomalies, with what follows from each; withdrawn ones stay';
-- One judgement of an alert is in force at a time.
CREATE UNIQUE INDEX judgement_alert ON anomaly.judgement (alert_id) WHERE withdrawn_at IS NULL;
CREATE INDEX judgement_detector ON anomaly.judgement (detector);

CREATE SEQUENCE anomaly.exclusion_id_seq;
COMMENT ON SEQUENCE anomaly.exclusion_id_seq IS 'numbers of exclusions';

CREATE TABLE anomaly.exclusion (
    exclusion_id bigint      NOT NULL PRIMARY KEY DEFAULT pg_catalog.nextval('anomaly.exclusion_id_seq'::regclass),
    detector     text        NOT NULL REFERENCES anomaly.detector ON DELETE CASCADE,
    -- NULL: all of them
    entity       text,
    during       tstzrange   NOT NULL CHECK (NOT pg_catalog.isempty(during)),
    reason       text        NOT NULL,
    excluded_by  regrole     NOT NULL,
    excluded_at  timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE anomaly.exclusion IS 'periods of a detector''s data that never train';
CREATE INDEX exclusion_detector ON anomaly.exclusion (detector);

CREATE VIEW anomaly.feedback_log WITH (security_barrier) AS
SELECT f.judgement_id AS id, f.detector, f.owner, NULLIF(f.entity, '') AS entity, f.alert_id AS alert, f.verdict, f.scope, f.from_at, f.until_at,
       f.side, f.distance, f.effective_from, f.effective_until, f.members, f.note, f.given_by, f.given_at, f.withdrawn_by, f.withdrawn_at
  FROM anomaly.judgement f
 WHERE pg_catalog.pg_has_role(CURRENT_USER, f.owner, 'MEMBER')
    OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_monitor', 'MEMBER')
    OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_admin', 'MEMBER');
COMMENT ON VIEW anomaly.feedback_log IS 'who said what about which alert, what followed from it, and who took it back';

CREATE VIEW anomaly.exclusions WITH (security_barrier) AS
SELECT e.exclusion_id AS id, e.detector, d.owner, e.entity, e.during, e.reason, e.excluded_by, e.excluded_at
  FROM anomaly.exclusion e
  JOIN anomaly.detector d ON d.detector OPERATOR(pg_catalog.=) e.detector
 WHERE pg_catalog.pg_has_role(CURRENT_USER, d.owner, 'MEMBER')
    OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_monitor', 'MEMBER')
    OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_admin', 'MEMBER');
COMMENT ON VIEW anomaly.exclusions IS 'periods that never train';

-- Precision and recall are of alerts and missed anomalies, the false positive rate is of points: there is no such thing
-- as the number of alerts that rightly were not raised.
CREATE VIEW anomaly.quality WITH (security_barrier) AS
SELECT q.detector, q.owner, q.member, q.alerts, q.true_positives, q.false_positives, q.false_negatives,
       q.true_positives OPERATOR(pg_catalog./) NULLIF(q.judged, 0)::double precision AS precision,
       anomaly.wilson_interval(q.true_positives, q.judged) AS precision_95,
       q.true_positives OPERATOR(pg_catalog./) NULLIF(q.anomalies, 0)::double precision AS recall,
       anomaly.wilson_interval(q.true_positives, q.anomalies) AS recall_95,
       (2 OPERATOR(pg_catalog.*) q.true_positives) OPERATOR(pg_catalog./)
           NULLIF(q.judged OPERATOR(pg_catalog.+) q.anomalies, 0)::double precision AS f1_score,
       q.false_positive_points OPERATOR(pg_catalog./) NULLIF(q.negatives, 0)::double precision AS false_positive_rate,
       anomaly.wilson_interval(q.false_positive_points, q.negatives) AS false_positive_rate_95,
       q.alerts OPERATOR(pg_catalog./) NULLIF(GREATEST(q.days, 0), 0) AS alerts_per_day, q.promised_alerts_per_day, q.median_time_to_detect
  FROM (SELECT d.detector, d.owner, m.member, m.alerts, m.true_positives, m.false_positives, m.false_negatives,
               m.true_positives OPERATOR(pg_catalog.+) m.false_positives AS judged,
               m.true_positives OPERATOR(pg_catalog.+) m.false_negatives AS anomalies,
               m.false_positive_points, m.negatives, m.days,
               CASE WHEN m.member IS NULL THEN d.alerts_per_day END AS promised_alerts_per_day, m.median_time_to_detect
          FROM anomaly.detector d
          JOIN anomaly.detector_state s ON s.detector OPERATOR(pg_catalog.=) d.detector
         CROSS JOIN LATERAL (
                WITH raised AS (
                    SELECT b.at, b.last_at, b.metadata OPERATOR(pg_catalog.->) 'threshold' AS threshold,
                           b.metadata OPERATOR(pg_catalog.->) 'detector_results' AS votes
                      FROM anomaly.alert b
                     WHERE b.detector OPERATOR(pg_catalog.=) d.detector AND b.raised_at OPERATOR(pg_catalog.>=) d.created_at
                       AND b.status OPERATOR(pg_catalog.<>) 'withdrawn' AND b.kind OPERATOR(pg_catalog.=) 'anomaly'
                        AND COALESCE(b.withheld, '') OPERATOR(pg_catalog.<>) 'chance'),
                -- From where the anomaly began, as far as anybody has said, until people were told.
                judged AS (
                    SELECT g.verdict, g.points, g.members, g.from_at OPERATOR(pg_catalog.+) g.detected_after
                               OPERATOR(pg_catalog.-) LEAST(g.from_at, (
                                   SELECT pg_catalog.min(o.from_at) FROM anomaly.judgement o
                                    WHERE o.detector OPERATOR(pg_catalog.=) g.detector AND o.entity OPERATOR(pg_catalog.=) g.entity
                                      AND o.verdict OPERATOR(pg_catalog.=) 'missed' AND o.withdrawn_at IS NULL
                                      AND o.from_at OPERATOR(pg_catalog.<=) g.until_at
                                      AND o.until_at OPERATOR(pg_catalog.>=) g.from_at)) AS time_to_detect
                      FROM anomaly.judgement g
                     WHERE g.detector OPERATOR(pg_catalog.=) d.detector AND g.withdrawn_at IS NULL
                       AND g.given_at OPERATOR(pg_catalog.>=) d.created_at),
                -- Since when it judges: its oldest model ends there; that one may be gone by now.
                period AS (
                    SELECT pg_catalog.count(*) AS alerts,
                           (EXTRACT(epoch FROM COALESCE(s.watermark, pg_catalog.max(r.last_at)) OPERATOR(pg_catalog.-) LEAST(pg_catalog.min(r.at), (
                               SELECT pg_catalog.min(v.trained_until) FROM anomaly.model v
                                WHERE v.detector OPERATOR(pg_catalog.=) d.detector)))
                               OPERATOR(pg_catalog./) 86400)::double precision AS days
                      FROM raised r)
                SELECT NULL::pg_catalog.text AS member, t.alerts, t.days, f.true_positives, f.false_positives, f.false_negatives,
                       f.false_positive_points,
                       GREATEST(s.points_processed OPERATOR(pg_catalog.-) s.anomalies_detected, 0)
                           OPERATOR(pg_catalog.+) f.false_positive_points AS negatives,
                       f.median_time_to_detect
                  FROM period t
                 CROSS JOIN (
                        SELECT pg_catalog.count(*) FILTER (WHERE j.verdict OPERATOR(pg_catalog.=) 'true_positive') AS true_positives,
                               pg_catalog.count(*) FILTER (WHERE j.verdict OPERATOR(pg_catalog.=) 'false_positive') AS false_positives,
                               pg_catalog.count(*) FILTER (WHERE j.verdict OPERATOR(pg_catalog.=) 'missed') AS false_negatives,
                               COALESCE(pg_catalog.sum(j.points) FILTER (WHERE j.verdict OPERATOR(pg_catalog.=) 'false_positive'), 0) AS false_positive_points,
                               pg_catalog.percentile_cont(0.5) WITHIN GROUP (ORDER BY j.time_to_detect)
                                   FILTER (WHERE j.verdict OPERATOR(pg_catalog.=) 'true_positive') AS median_time_to_detect
                          FROM judged j) f
                UNION ALL
                SELECT k.member, k.alerts, t.days, COALESCE(p.true_positives, 0), COALESCE(p.false_positives, 0), COALESCE(p.false_negatives, 0),
                       COALESCE(p.false_positives, 0), COALESCE(p.false_positives OPERATOR(pg_catalog.+) p.true_negatives, 0),
                       (SELECT pg_catalog.percentile_cont(0.5) WITHIN GROUP (ORDER BY j.time_to_detect) FROM judged j
                         WHERE j.verdict OPERATOR(pg_catalog.=) 'true_positive'
                           AND (j.members OPERATOR(pg_catalog.->) k.member) OPERATOR(pg_catalog.=) 'true'::jsonb)
                  FROM period t
                 CROSS JOIN (
                        SELECT v.member, pg_catalog.sum(v.found) AS alerts
                          FROM (SELECT n.member, 0 AS found FROM anomaly.member_performance n
                                 WHERE n.detector OPERATOR(pg_catalog.=) d.detector
                                UNION ALL
                                -- as feedback counts them: those that would have told it by themselves
                                SELECT e.member, CASE WHEN pg_catalog.jsonb_typeof(e.score) OPERATOR(pg_catalog.=) 'number'
                                                       AND e.score OPERATOR(pg_catalog.>=) r.threshold THEN 1 ELSE 0 END
                                  FROM raised r
                                 CROSS JOIN LATERAL pg_catalog.jsonb_each(
                                       CASE pg_catalog.jsonb_typeof(r.votes) WHEN 'object' THEN r.votes ELSE '{}' END) AS e (member, score)) v
                         GROUP BY v.member) k
                  LEFT JOIN anomaly.member_performance p
                    ON p.detector OPERATOR(pg_catalog.=) d.detector AND p.member OPERATOR(pg_catalog.=) k.member) m) q
 WHERE pg_catalog.pg_has_role(CURRENT_USER, q.owner, 'MEMBER')
    OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_monitor', 'MEMBER')
    OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_admin', 'MEMBER');
COMMENT ON VIEW anomaly.quality IS 'how good each detector and each member of an ensemble is, by what people have said about its alerts; _95 are Wilson intervals';

GRANT SELECT ON anomaly.feedback_log, anomaly.exclusions, anomaly.quality TO PUBLIC;

SET LOCAL search_path TO @extschema@, pg_temp;
