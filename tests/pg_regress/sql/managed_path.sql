-- From a table to an alert, in one session: what a worker does too, but here with the clock in hand.
SET TIME ZONE 'UTC';

CREATE TABLE host_cpu (at timestamptz NOT NULL, host text, cpu double precision);
INSERT INTO host_cpu
SELECT date_trunc('minute', now()) - interval '2 days' + i * interval '5 minutes', 'web' || h,
       40 * h + 10 * sin(i / 46.0) + (i * 7919 + h * 104729) % 100 / 25.0
  FROM generate_series(1, 570) i, generate_series(1, 3) h;

SELECT detector, status, chosen, next_step
  FROM anomaly.watch('host_cpu', value => 'cpu', at => 'at', entity => 'host', every => '1 hour', settle => '0 seconds', strategy => 'mad');
SELECT detector, status, enabled, strategy, anomaly_type, source_kind, source, trained_rows, entities, model_version
  FROM anomaly.detectors;

-- Nothing unusual, nothing said.
INSERT INTO host_cpu SELECT clock_timestamp(), 'web' || h, 40 * h + 5 FROM generate_series(1, 3) h;
SELECT status, rows_read, points_scored, alerts_opened, alerts_resolved FROM anomaly.scan('host_cpu_cpu');

-- check_c29: each entity by its own normal: 120 is usual for web3 only
INSERT INTO host_cpu VALUES (clock_timestamp(), 'web1', 120), (clock_timestamp(), 'web3', 121);
SELECT status, rows_read, points_scored, alerts_opened, alerts_resolved FROM anomaly.scan('host_cpu_cpu');
SELECT id, status, severity, entity, metric_name, value, round(expected) AS expected, lower < 40 AND upper < 120 AS range_of_web1,
       direction, points, is_critical, deviation >= 5 AS far, score = 1 AS score_is_1, metadata ? 'threshold' AS has_metadata
  FROM anomaly.alerts;

-- One row per episode: more anomalous points change the row, enough normal ones resolve it.
INSERT INTO host_cpu VALUES (clock_timestamp(), 'web1', 300);
SELECT alerts_opened, alerts_resolved FROM anomaly.scan('host_cpu_cpu');
SELECT id, status, value, points FROM anomaly.alerts;
INSERT INTO host_cpu SELECT clock_timestamp() + i * interval '1 microsecond', 'web1', 41 FROM generate_series(1, 3) i;
SELECT alerts_opened, alerts_resolved FROM anomaly.scan('host_cpu_cpu');
SELECT id, status, value, points, resolved_at > at AS resolved_later FROM anomaly.alerts;
-- Nothing is judged twice.
SELECT rows_read, alerts_opened FROM anomaly.scan('host_cpu_cpu');

-- Training again makes a new version and keeps the one before.
SELECT status, trained_rows, entities, model_version FROM anomaly.train('host_cpu_cpu');
SELECT version, active, entities FROM anomaly.models ORDER BY version;

-- Too little data is a state, not an error.
CREATE TABLE young (at timestamptz, v real);
INSERT INTO young SELECT now() - i * interval '1 minute', i FROM generate_series(1, 12) i;
SELECT detector, status FROM anomaly.watch('young', settle => '0 seconds', strategy => 'mad');
INSERT INTO young SELECT clock_timestamp() + i * interval '1 microsecond', i % 9 FROM generate_series(1, 90) i;
SELECT status, rows_read FROM anomaly.scan('young_v');
SELECT detector, status, trained_rows FROM anomaly.detectors WHERE detector = 'young_v';

-- Points that the caller brings.
SELECT anomaly.create_detector('system_cpu', 'zscore', 'cpu_usage', threshold => 3, min_data_points => 20);
SELECT count(*) AS alerts FROM generate_series(1, 40) i,
    anomaly.process_data_point(jsonb_build_object('cpu_usage', 0.5 + (i % 5) / 100.0, 'entity_id', 'db1', 'timestamp', now() - i * interval '1 s'));
SELECT detector, severity, entity, metric_name, value, round(expected::numeric, 2) AS expected, suggestion
  FROM anomaly.process_data_point('{"cpu_usage": 0.99, "entity_id": "db1", "unknown_metric": 3}');
SELECT count(*) FROM anomaly.process_data_point('{"cpu_usage": null}');
SELECT count(*) FROM anomaly.process_data_point('{"cpu_usage": "NaN", "entity_id": "db1"}');
SELECT count(*) FROM anomaly.process_data_point('{"cpu_usage": 0.99, "entity_id": "db1"}', ARRAY['system_memory']);

-- Stop, start, forget.
SELECT anomaly.disable('young_v'), anomaly.disable('no such');
SELECT enabled FROM anomaly.detectors WHERE detector = 'young_v';
SELECT anomaly.enable('young_v'), anomaly.drop_detector('young_v'), anomaly.drop_detector('young_v');
SELECT count(*) FROM anomaly.detectors WHERE detector = 'young_v';

-- A verdict for every point, without a detector.
SELECT entity, count(*), count(*) FILTER (WHERE status = 'ok') AS judged, count(*) FILTER (WHERE is_anomaly) AS anomalies
  FROM detect_anomalies('SELECT at, host, cpu FROM host_cpu', entity => 'host', strategy => 'mad', threshold => 6) GROUP BY entity ORDER BY entity;

-- Bad input: a typed error that names the fix.
SELECT anomaly.watch('host_cp', strategy => 'mad');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.watch('host_cpu', value => 'cpuu', name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.watch('host_cpu', value => 'host', name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.watch('host_cpu', at => 'cpu', name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.watch('host_cpu', strategy => 'zscor', name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.watch('host_cpu', params => '{"window": 3}', name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.watch('host_cpu', threshold => -1, name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.watch('host_cpu', threshold => 'NaN', name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.watch('host_cpu', alerts_per_day => 0, name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.watch('host_cpu', every => '-1 minute', name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.watch('host_cpu', every => '1 minute', cron => '* * * * *', name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.watch('host_cpu', cron => '* * 77 * *', name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.watch('host_cpu', time_zone => 'Mars/Olympus', name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.watch('host_cpu', anomaly_type => 'nonsense', name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.watch('host_cpu', value => 'cpu', strategy => 'mad');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.watch('SELECT 1; DROP TABLE host_cpu', name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.watch('SELECT at, cpu FROM host_cpu) AS q; DROP TABLE host_cpu; --', name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.watch('SELECT now() AS at INTO stolen', name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.watch('pg_type_oid_index', name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.scan('no such detector');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.train('no such detector');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.create_detector('system_cpu', 'zscore', 'cpu_usage', every => '1 minute', name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.process_data_point('[1]');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.process_data_point('{"cpu_usage": "high", "entity_id": "db1"}');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.process_data_point('{"cpu_usage": 1, "timestamp": "yesterday-ish"}');
\echo :LAST_ERROR_SQLSTATE

-- What arrives late, with a time that was scanned already, is not judged any more; training sees it.
CREATE TABLE tardy (at timestamptz, v double precision);
INSERT INTO tardy SELECT now() - i * interval '1 minute', 10 + i % 7 FROM generate_series(1, 200) i;
SELECT status FROM anomaly.watch('tardy', settle => '0 s', name => 'tardy', strategy => 'mad');
INSERT INTO tardy VALUES (now() - interval '90 seconds', 1000), (clock_timestamp(), 1001);
SELECT rows_read, points_scored, alerts_opened FROM anomaly.scan('tardy');
SELECT value FROM anomaly.alerts WHERE detector = 'tardy';
SELECT trained_rows FROM anomaly.train('tardy');
SELECT rows_read FROM anomaly.scan('tardy');
SELECT anomaly.drop_detector('tardy');
DROP TABLE tardy;

-- A table that goes away is named.
CREATE TABLE gone (at timestamptz, v int);
SELECT detector, status FROM anomaly.watch('gone', strategy => 'mad');
DROP TABLE gone;
SELECT pg_sleep(0.01);
SELECT anomaly.scan('gone_v');
\echo :LAST_ERROR_SQLSTATE
-- Nobody has to name a strategy.
SELECT detector, status FROM anomaly.watch('host_cpu', value => 'cpu', at => 'at', entity => 'host', name => 'by_default');
SELECT strategy, threshold, alerts_per_day FROM anomaly.detectors WHERE detector = 'by_default';
SELECT anomaly.drop_detector('by_default'), anomaly.drop_detector('gone_v'), anomaly.drop_detector('host_cpu_cpu'), anomaly.drop_detector('system_cpu_statistical_zscore_cpu_usage');
DROP TABLE host_cpu, young;
