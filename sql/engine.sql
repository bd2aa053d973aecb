-- What programs ask the engine: alerts by filter and page, and counters of each detector.

-- Operators and functions of these statements are core's, whatever the installation's schema holds.
SET LOCAL search_path TO pg_catalog, pg_temp;

-- What a security barrier holds is planned by itself, and so without the order of the query around it: a page of the newest would
-- be sorted out of everything. With the order inside it is read from the ends of the slots' indexes. (In anomaly.alerts it
-- would be in the way of whoever counts.) Made of the other's definition, so that they cannot differ.
DO $$
BEGIN
    EXECUTE 'CREATE VIEW anomaly.alerts_newest_first WITH (security_barrier) AS '
        OPERATOR(pg_catalog.||) pg_catalog.rtrim(pg_catalog.pg_get_viewdef('anomaly.alerts'::pg_catalog.regclass), ';')
        OPERATOR(pg_catalog.||) ' ORDER BY a.at DESC, a.alert_id DESC';
END
$$;
COMMENT ON VIEW anomaly.alerts_newest_first IS 'anomaly.alerts in the order of time, for pages of the newest: ORDER BY at DESC, id DESC LIMIT n finds an index';
GRANT SELECT ON anomaly.alerts_newest_first TO PUBLIC;

-- One statement without SET, so that the planner takes it in where it is called: conditions that are NULL
-- vanish, and what is left finds the indexes. Every name is qualified instead.
CREATE FUNCTION anomaly.get_alerts(
    start_at timestamptz DEFAULT NULL, end_at timestamptz DEFAULT NULL, anomaly_types text[] DEFAULT NULL,
    severities text[] DEFAULT NULL, entity text DEFAULT NULL, entity_type text DEFAULT NULL, detector text DEFAULT NULL,
    status text DEFAULT NULL, max_rows integer DEFAULT 100, skip_rows integer DEFAULT 0, before_id bigint DEFAULT NULL)
RETURNS SETOF anomaly.alerts STABLE PARALLEL SAFE LANGUAGE sql AS $$
    SELECT a.* FROM anomaly.alerts_newest_first a
     -- no OR: what depends on now() is no constant yet when the plan is made, and has to find the index all the same
     WHERE a.at OPERATOR(pg_catalog.>=) COALESCE($1, '-infinity')
       AND a.at OPERATOR(pg_catalog.<=) COALESCE($2, 'infinity')
       AND ($3 IS NULL OR a.anomaly_type OPERATOR(pg_catalog.=) ANY ($3))
       AND ($4 IS NULL OR a.severity_rank OPERATOR(pg_catalog.=) ANY (anomaly.severity_ranks($4)))
       AND ($5 IS NULL OR a.entity OPERATOR(pg_catalog.=) $5)
       AND ($6 IS NULL OR a.entity_type OPERATOR(pg_catalog.=) $6)
       AND ($7 IS NULL OR a.detector OPERATOR(pg_catalog.=) $7)
       AND ($8 IS NULL OR a.status OPERATOR(pg_catalog.=) $8)
       AND ($11 IS NULL OR ROW(a.at, a.id) OPERATOR(pg_catalog.<) (SELECT b.at, b.id FROM anomaly.alerts b WHERE b.id OPERATOR(pg_catalog.=) $11))
     -- The order is the view's: with one here as well, the view would be planned for all of its rows, and not for the first.
     LIMIT $9
     -- looked at before anything else
    OFFSET CASE WHEN anomaly.check_alert_filter($3, $8, $9, $10) THEN $10 END
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
