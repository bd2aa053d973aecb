-- What people read. security_barrier keeps a leaky predicate of the reader from running before the filter.

-- Operators and functions of these statements are core's, whatever the installation's schema holds.
SET LOCAL search_path TO pg_catalog, pg_temp;

CREATE VIEW anomaly.detectors WITH (security_barrier) AS
SELECT d.detector, d.owner, s.status, s.status_reason, s.status_hint, d.enabled, d.monitor, d.anomaly_type, d.strategy, d.metric_name,
       d.entity_type, d.source_kind, COALESCE(d.source_relation::pg_catalog.text, d.source_query) AS source,
       d.value_column, d.at_column, d.entity_column, d.trials_column, d.feature_columns, d.category_columns, d.kind, d.bucket,
       d.aggregate, d.on_missing, d.every, d.cron, d.time_zone, d.settle, d.late_window, d.training_window,
       d.retrain_every, d.min_data_points, d.threshold, d.alerts_per_day, d.fdr, d.fire_after, d.clear_after, d.cool_down, d.max_entities, d.direction,
       d.min_effect, d.min_relative_effect, d.params,
       d.created_at, d.updated_at, s.watermark, s.next_due, s.last_scan_at, s.last_training_time, s.consecutive_failures,
       s.points_processed, s.anomalies_detected, s.entities_skipped,
       m.version AS model_version, m.trained_rows, m.entities, m.points_per_day,
       d.no_data_after, d.depends_on, d.labels
  FROM anomaly.detector d
  JOIN anomaly.detector_state s ON s.detector OPERATOR(pg_catalog.=) d.detector
  LEFT JOIN anomaly.model m ON m.detector OPERATOR(pg_catalog.=) d.detector AND m.active
 WHERE pg_catalog.pg_has_role(CURRENT_USER, d.owner, 'MEMBER')
    OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_monitor', 'MEMBER')
    OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_admin', 'MEMBER');
COMMENT ON VIEW anomaly.detectors IS 'detectors that the reader owns or may see: configuration, status and model';

CREATE VIEW anomaly.alerts WITH (security_barrier) AS
SELECT a.alert_id AS id, a.uuid, a.detector, a.owner, a.status, a.severity, a.anomaly_type, a.detection_strategy, a.metric_name,
       NULLIF(a.entity, '') AS entity, a.entity_type, a.at, a.last_at, a.raised_at, a.resolved_at,
       CASE a.status WHEN 'resolved' THEN a.resolved_at OPERATOR(pg_catalog.-) a.at END AS duration,
       a.reopened, a.flapping, a.acknowledged_at, a.acknowledged_by, a.resolved_by, a.note, a.silenced_by, a.points, a.peak_at,
       a.value, a.expected, a.lower, a.upper, a.deviation, a.score, a.p_value, a.direction, a.description, a.suggestion,
       a.related_alerts,
       -- rows of the source are the owner's data; values and what was expected of them are what alerts are for
       CASE WHEN pg_catalog.pg_has_role(CURRENT_USER, a.owner, 'MEMBER') THEN a.metadata
            ELSE a.metadata OPERATOR(pg_catalog.-) '{features,nearest_normal}'::text[] END AS metadata,
       a.model_version, a.run_id,
       a.severity OPERATOR(pg_catalog.>=) 'critical'::anomaly.severity AS is_critical, a.severity_rank,
       a.kind, a.incident_id, a.inhibited_by
  FROM anomaly.alert a
 WHERE a.withheld IS NULL
   AND (pg_catalog.pg_has_role(CURRENT_USER, a.owner, 'MEMBER')
    OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_monitor', 'MEMBER')
    OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_admin', 'MEMBER'));
COMMENT ON VIEW anomaly.alerts IS 'alerts that the reader owns or may see, one row per episode';

CREATE VIEW anomaly.models WITH (security_barrier) AS
SELECT m.detector, d.owner, m.version, m.active, m.strategy, m.trained_at, m.trained_rows, m.trained_from, m.trained_until,
       m.entities, m.points_per_day, pg_catalog.octet_length(m.payload) AS shared_bytes
  FROM anomaly.model m
  JOIN anomaly.detector d ON d.detector OPERATOR(pg_catalog.=) m.detector
 WHERE pg_catalog.pg_has_role(CURRENT_USER, d.owner, 'MEMBER')
    OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_monitor', 'MEMBER')
    OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_admin', 'MEMBER');
COMMENT ON VIEW anomaly.models IS 'model versions of the detectors that the reader owns or may see';

CREATE VIEW anomaly.member_performances WITH (security_barrier) AS
SELECT p.detector, d.owner, p.member, p.true_positives, p.false_positives, p.true_negatives, p.false_negatives,
       p.precision, p.recall, p.f1_score, p.last_update
  FROM anomaly.member_performance p
  JOIN anomaly.detector d ON d.detector OPERATOR(pg_catalog.=) p.detector
 WHERE pg_catalog.pg_has_role(CURRENT_USER, d.owner, 'MEMBER')
    OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_monitor', 'MEMBER')
    OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_admin', 'MEMBER');
COMMENT ON VIEW anomaly.member_performances IS 'how often the members of ensembles that the reader owns or may see were right';

-- Measured values are the owner's data: unlike states and alerts they are not shown to anomaly_monitor.
CREATE VIEW anomaly.samples WITH (security_barrier) AS
SELECT s.metric, NULLIF(s.entity, '') AS entity, s.at, s.value, s.owner, s.features
  FROM anomaly.sample s
 WHERE pg_catalog.pg_has_role(CURRENT_USER, s.owner, 'MEMBER')
    OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_admin', 'MEMBER');
COMMENT ON VIEW anomaly.samples IS 'collected measurements of the reader';

CREATE VIEW anomaly.strategies AS
SELECT s.strategy, s.short_name, s.family, s.available, s.description FROM anomaly.strategy s;
COMMENT ON VIEW anomaly.strategies IS 'detection strategies by name';

CREATE VIEW anomaly.anomaly_types AS
SELECT t.anomaly_type, t.family, t.description FROM anomaly.anomaly_type t;
COMMENT ON VIEW anomaly.anomaly_types IS 'anomaly types by name';

GRANT SELECT ON anomaly.detectors, anomaly.alerts, anomaly.models, anomaly.member_performances, anomaly.samples, anomaly.strategies, anomaly.anomaly_types TO PUBLIC;

SET LOCAL search_path TO @extschema@, pg_temp;
