-- What programs ask the engine: alerts by filter and page, and counters of each detector.

-- Operators and functions of these statements are core's, whatever the installation's schema holds.
SET LOCAL search_path TO pg_catalog, pg_temp;

-- Which rows: src/detector/get_alerts.rs. What is in them: the view.
CREATE FUNCTION anomaly.get_alerts(
    start_at timestamptz DEFAULT NULL, end_at timestamptz DEFAULT NULL, anomaly_types text[] DEFAULT NULL,
    severities text[] DEFAULT NULL, entity text DEFAULT NULL, entity_type text DEFAULT NULL, detector text DEFAULT NULL,
    status text DEFAULT NULL, max_rows integer DEFAULT 100, skip_rows integer DEFAULT 0, before_id bigint DEFAULT NULL)
RETURNS SETOF anomaly.alerts STABLE PARALLEL UNSAFE SET search_path TO pg_catalog, pg_temp LANGUAGE sql AS $$
    SELECT a.* FROM anomaly.alerts a
     WHERE a.id OPERATOR(pg_catalog.=) ANY (anomaly.alert_page($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11))
     ORDER BY a.at DESC, a.id DESC
$$;
COMMENT ON FUNCTION anomaly.get_alerts IS
'alerts that the caller may see, the newest first: by time (bounds included), types, severities, entity, detector, status; page by before_id, the last id of the page before, or by skip_rows';

-- In SQL: numbers keep every digit, as nothing but the server reads them.
CREATE FUNCTION anomaly.alert_json(alert bigint) RETURNS jsonb STABLE STRICT PARALLEL UNSAFE
SET search_path TO pg_catalog, pg_temp LANGUAGE plpgsql AS $$
DECLARE
    found jsonb;
BEGIN
    SELECT pg_catalog.to_jsonb(a) OPERATOR(pg_catalog.||) pg_catalog.jsonb_build_object(
               'timestamp', a.at, 'entity_id', a.entity, 'metric_value', a.value,
               'expected_range', pg_catalog.jsonb_build_object('lower', a.lower, 'upper', a.upper), 'deviation_factor', a.deviation)
      INTO found FROM anomaly.alerts a WHERE a.id OPERATOR(pg_catalog.=) alert_json.alert;
    IF found IS NULL THEN
        RAISE undefined_object USING MESSAGE = pg_catalog.format('alert %s does not exist', alert), HINT = 'SELECT id, description FROM anomaly.alerts';
    END IF;
    RETURN found;
END
$$;
COMMENT ON FUNCTION anomaly.alert_json(bigint) IS
'an alert as a JSON object: all columns of anomaly.alerts, and timestamp, entity_id, metric_value, expected_range, deviation_factor';

CREATE VIEW anomaly.detector_metrics WITH (security_barrier) AS
SELECT d.detector, d.owner, d.anomaly_type, d.strategy, d.metric_name, d.training_window, d.threshold,
       m.version IS NOT NULL AND NOT s.needs_training AND s.status OPERATOR(pg_catalog.=) 'active' AS is_trained,
       s.points_processed AS data_points_processed, s.anomalies_detected, s.last_training_time,
       (SELECT pg_catalog.sum(t.x) FILTER (WHERE t.i OPERATOR(pg_catalog.%) 2 OPERATOR(pg_catalog.=) 0)
               OPERATOR(pg_catalog./) pg_catalog.sum(t.x) FILTER (WHERE t.i OPERATOR(pg_catalog.%) 2 OPERATOR(pg_catalog.=) 1)
          FROM pg_catalog.unnest(s.detection_times) WITH ORDINALITY t (x, i)) AS avg_detection_time_ms
  FROM anomaly.detector d
  JOIN anomaly.detector_state s ON s.detector OPERATOR(pg_catalog.=) d.detector
  LEFT JOIN anomaly.model m ON m.detector OPERATOR(pg_catalog.=) d.detector AND m.active
 WHERE pg_catalog.pg_has_role(CURRENT_USER, d.owner, 'MEMBER')
    OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_monitor', 'MEMBER')
    OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_admin', 'MEMBER');
COMMENT ON VIEW anomaly.detector_metrics IS 'what each detector has done: points, anomalies, last training, and milliseconds per point over the latest thousand';
GRANT SELECT ON anomaly.detector_metrics TO PUBLIC;

SET LOCAL search_path TO @extschema@, pg_temp;
