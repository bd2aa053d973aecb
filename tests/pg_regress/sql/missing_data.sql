-- Buckets without a value. settle puts the clock of each detector where the test wants it.
SET TIME ZONE 'UTC';

CREATE TABLE clock AS SELECT date_trunc('hour', now()) - interval '10 hours' AS zero;
CREATE FUNCTION pg_temp.set_clock(minute int) RETURNS bigint LANGUAGE sql AS $$
    WITH moved AS (UPDATE anomaly.detector SET settle = clock_timestamp() - zero - minute * interval '1 minute' FROM clock RETURNING 1) SELECT count(*) FROM moved $$;
CREATE FUNCTION pg_temp.minute(at timestamptz) RETURNS int LANGUAGE sql AS $$ SELECT extract(epoch FROM at - zero)::int / 60 FROM clock $$;

-- Entity a has a value each minute; b lacks one in sixty. From minute 0 on, a misses 4 and 5, and b falls silent until 12.
CREATE TABLE beat (at timestamptz, sensor text, v double precision);
INSERT INTO beat SELECT zero + i * interval '1 minute' + interval '7 seconds', s, 50 + ((i + 300) * 7919 % 101) / 10.0 FROM clock, generate_series(-300, 20) i, unnest('{a,b}'::text[]) s
 WHERE NOT (s = 'b' AND (i % 60 = -30 OR i BETWEEN 0 AND 11)) AND NOT (s = 'a' AND i IN (4, 5));
-- A row without a value is as good as none.
INSERT INTO beat SELECT zero + interval '4 minutes', 'a', NULL FROM clock;

SELECT anomaly.create_detector('data_missing', 'mad', 'v', source => 'beat', value => 'v', at => 'at', entity => 'sensor', bucket => '1 minute', on_missing => rule, training_window => '5 hours', name => 'on_' || rule)
  FROM unnest('{ignore,zero,previous,interpolate,anomaly}'::text[]) rule;
SELECT anomaly.create_detector('data_volume', 'mad', 'n', source => 'beat', at => 'at', entity => 'sensor', bucket => '1 minute', aggregate => 'count', training_window => '5 hours', name => 'counted');
SELECT detector, aggregate, on_missing, kind FROM anomaly.detectors ORDER BY detector COLLATE "C";
SELECT pg_temp.set_clock(0);
-- 299 whole minutes of a; of b, 294 and five that are missing. What stands in is trained on like a value.
SELECT d.detector, t.status, t.trained_rows FROM anomaly.detectors d, anomaly.train(d.detector) t ORDER BY d.detector COLLATE "C";

SELECT pg_temp.set_clock(10);
SELECT d.detector, s.rows_read, s.points_scored, s.alerts_opened, s.alerts_resolved FROM anomaly.detectors d, anomaly.scan(d.detector) s ORDER BY d.detector COLLATE "C";
SELECT detector, entity, status, pg_temp.minute(at) AS first, pg_temp.minute(last_at) AS last, points, value, direction, regexp_replace(description, '[(;].*', '') AS description, metadata -> 'missing_in_a_row' AS in_a_row, severity >= 'warning' AS warns
  FROM anomaly.alerts WHERE detector ~ '^(on_|counted)' ORDER BY detector COLLATE "C", entity, at;
-- Again at the same time: nothing is missing twice.
SELECT d.detector, s.points_scored FROM anomaly.detectors d, anomaly.scan(d.detector) s WHERE s.points_scored <> 0;
-- Retraining in the middle of a silence: it stays one episode.
SELECT status, model_version FROM anomaly.train('on_anomaly');
SELECT pg_temp.set_clock(13);
SELECT d.detector, s.rows_read, s.points_scored, s.alerts_opened, s.alerts_resolved FROM anomaly.detectors d, anomaly.scan(d.detector) s ORDER BY d.detector COLLATE "C";
SELECT pg_temp.set_clock(21);
SELECT d.detector, s.rows_read, s.points_scored, s.alerts_opened, s.alerts_resolved FROM anomaly.detectors d, anomaly.scan(d.detector) s ORDER BY d.detector COLLATE "C";
SELECT detector, entity, status, pg_temp.minute(at) AS first, pg_temp.minute(last_at) AS last, points FROM anomaly.alerts WHERE detector = 'on_anomaly' ORDER BY entity, at;

-- The same by detect_anomalies.
SELECT rule, entity, count(*) AS points, count(*) FILTER (WHERE value IS NULL) AS nulls, count(*) FILTER (WHERE status = 'missing') AS missing, count(*) FILTER (WHERE is_anomaly AND status = 'missing') AS anomalies, count(*) FILTER (WHERE reasons::text LIKE '%stands in%') AS filled
  FROM unnest('{ignore,zero,previous,interpolate,anomaly}'::text[]) rule, detect_anomalies('beat', value => 'v', bucket => '1 minute', on_missing => rule, min_data_points => 100) GROUP BY 1, 2 ORDER BY 1, 2;
SELECT pg_temp.minute(at) AS minute, round(value::numeric, 2) AS value, status, reasons FROM detect_anomalies('SELECT at, v FROM beat WHERE sensor = ''a''', bucket => '1 minute', on_missing => 'interpolate', min_data_points => 100) WHERE pg_temp.minute(at) BETWEEN 3 AND 6;
SELECT pg_temp.minute(at) AS minute, value, expected > 40 AS expected, status, is_anomaly, deviation > 2 AND status = 'missing' AS deviates, regexp_replace(reasons[1], '[,;].*', '') AS reason
  FROM detect_anomalies('SELECT at, v FROM beat WHERE sensor = ''a''', bucket => '1 minute', on_missing => 'anomaly', min_data_points => 100) WHERE pg_temp.minute(at) BETWEEN 3 AND 6;
-- An entity that has fallen silent for good is missing up to the last bucket of any.
SELECT entity, count(*), max(at) FROM detect_anomalies($$VALUES (timestamptz '2024-01-01', 'x', 1.0), ('2024-01-01 00:02', 'x', 2), ('2024-01-01 00:05', 'y', 7)$$, bucket => '1 minute', on_missing => 'previous') GROUP BY 1 ORDER BY 1;
-- Of a gap of eight years, the first 10000 minutes.
SELECT count(*), max(at) FILTER (WHERE reasons::text LIKE '%stands in%') AS filled_until FROM detect_anomalies($$VALUES (timestamptz '2016-01-01', 1.0), ('2024-01-01', 2)$$, bucket => '1 minute', on_missing => 'zero');

-- Bad settings
SELECT anomaly.watch('beat', bucket => '1 minute', on_missing => 'nothing', name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.watch('beat', on_missing => 'zero', name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM detect_anomalies('beat', on_missing => 'anomaly');
\echo :LAST_ERROR_SQLSTATE

SELECT count(anomaly.drop_detector(detector)) FROM anomaly.detectors;
DROP TABLE beat, clock;
