-- What a value is, and which of its anomalies matter: kind, trials, direction, min_effect, min_relative_effect.
SET TIME ZONE 'UTC';

CREATE TABLE request (at timestamptz, error_rate double precision, requests int, note text);
INSERT INTO request SELECT now() - interval '1 day' + i * interval '1 minute', 0.05 + (i * 7919 % 101) / 10000.0, 1000 + i % 7 FROM generate_series(1, 300) i;

-- The same points for each setting: one far above, one far below.
CREATE TABLE side (entity text, at timestamptz, v double precision);
INSERT INTO side SELECT e, now() - interval '1 day' + i * interval '1 minute', 100 + (i * 7919 % 101) / 10.0 FROM generate_series(1, 300) i, unnest('{up,down}'::text[]) e;
SELECT anomaly.create_detector('data_outlier', 'mad', 'v', source => 'side', entity => 'entity', settle => '0 s', direction => d, name => 'side_' || d) FROM unnest('{both,above,below}'::text[]) d;
SELECT anomaly.create_detector('data_outlier', 'mad', 'v', source => 'side', entity => 'entity', settle => '0 s', min_effect => e, name => 'effect_' || e) FROM unnest('{50,500}'::int[]) e;
SELECT anomaly.create_detector('data_outlier', 'mad', 'v', source => 'side', entity => 'entity', settle => '0 s', min_relative_effect => e, name => 'relative_' || e) FROM unnest('{0.5,5}'::float8[]) e;
SELECT detector, kind, trials_column, direction, min_effect, min_relative_effect FROM anomaly.detectors ORDER BY detector COLLATE "C";
SELECT count(*) FROM anomaly.detectors d, anomaly.train(d.detector) t WHERE t.status = 'active';
INSERT INTO side VALUES ('up', clock_timestamp(), 300), ('down', clock_timestamp(), -100);
SELECT detector, alerts_opened FROM anomaly.detectors d, anomaly.scan(d.detector) ORDER BY detector COLLATE "C";
SELECT detector, entity, direction FROM anomaly.alerts WHERE detector ~ '^(side|effect|relative)_' ORDER BY detector COLLATE "C", entity;

-- A ratio has its denominators, told or inferred; they are not taken for the value.
SELECT detector, status FROM anomaly.watch('SELECT at, requests, error_rate FROM request', trials => 'requests', settle => '0 s', name => 'ratio', strategy => 'mad');
SELECT status, chosen FROM anomaly.watch('request', value => 'error_rate', kind => 'ratio', trials => 'requests', name => 'ratio_told', strategy => 'mad');
SELECT status FROM anomaly.watch('request', value => 'requests', kind => 'count', name => 'count_told', strategy => 'mad');
SELECT anomaly.create_detector('system_cpu', 'zscore', 'cpu', kind => 'count', direction => 'above', min_effect => 3, min_relative_effect => 0.1, name => 'points');
SELECT detector, value_column, kind, trials_column, direction, min_effect, min_relative_effect FROM anomaly.detectors WHERE detector ~ 'ratio_told|count|points|ratio$' ORDER BY detector COLLATE "C";
-- The direction holds for points that the caller brings, too.
SELECT count(*) FROM generate_series(1, 120) i, anomaly.process_data_point(jsonb_build_object('cpu', 50 + i % 5, 'timestamp', now() - i * interval '1 s'));
SELECT count(*) AS below FROM anomaly.process_data_point('{"cpu": 1}');
SELECT value AS above FROM anomaly.process_data_point('{"cpu": 5000}');

-- Bad settings: a typed error that lists what is valid.
SELECT anomaly.watch('side', kind => 'counts', name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.watch('side', direction => 'up', name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.watch('side', direction => 'at', name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.watch('side', direction => NULL, name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.watch('side', min_effect => -1, name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.watch('side', min_effect => 'NaN', name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.watch('side', min_relative_effect => 'Infinity', name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.watch('request', value => 'error_rate', kind => 'ratio', name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.watch('request', value => 'error_rate', kind => 'value', trials => 'requests', name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.watch('request', value => 'error_rate', trials => 'request', name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.watch('request', value => 'error_rate', trials => 'note', name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.create_detector('system_cpu', 'zscore', 'cpu', trials => 'requests', name => 'x');
\echo :LAST_ERROR_SQLSTATE

-- What a strategy cannot do is refused when the detector is made, not when it is first run.
SELECT anomaly.create_detector('data_outlier', 'cusum', 'v', source => 'side', fire_after => 2, name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.create_detector('data_outlier', 'level_shift', 'v', source => 'side', fire_after => 2, name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.create_detector('data_outlier', 'volatility_shift', 'v', fire_after => 3, name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.watch('side', strategy => 'changepoint', fire_after => 2, name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.create_detector('data_outlier', 'flat_line', 'v', source => 'side', direction => 'above', name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.create_detector('data_outlier', 'flat_line', 'v', source => 'side', min_effect => 1, name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.watch('side', strategy => 'flat_line', min_relative_effect => 0.1, name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.create_detector('data_outlier', 'threshold', 'v', source => 'side', params => '{"min": 0}', threshold => 3, name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.watch('side', strategy => 'esd', threshold => 3, name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.watch('side', strategy => 'esd', kind => 'count', name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.create_detector('data_outlier', 'mad', '', name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.create_detector('data_outlier', 'mad', 'v', fire_after => 0, name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM anomaly.detectors WHERE detector = 'x';

SELECT count(anomaly.drop_detector(detector)) FROM anomaly.detectors;
DROP TABLE request, side;
