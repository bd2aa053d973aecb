-- What a detector has learned, entity by entity.
CREATE TABLE explained (at timestamptz, host text, v float8);
INSERT INTO explained SELECT now() - i * interval '1 minute', h, 50 + i % 5 FROM generate_series(1, 200) i, unnest('{b,a}'::text[]) h;
INSERT INTO explained SELECT now() - i * interval '1 minute', 'new', 50 FROM generate_series(1, 7) i;
INSERT INTO explained SELECT now() - i * interval '1 minute', NULL, 1 FROM generate_series(1, 100) i;
SELECT status FROM anomaly.watch('explained', entity => 'host', strategy => 'mad', settle => '0 seconds', alerts_per_day => 2);
SELECT entity, strategy, status, points, expected_alerts_per_day, explanation ?& '{expected_now,lower_now,upper_now}' AS has_range
  FROM anomaly.explain_detector('explained_v');
SELECT entity, (explanation->>'expected_now')::float8 AS expected, (explanation->>'lower_now')::float8 < 50 AND (explanation->>'upper_now')::float8 > 54 AS range
  FROM anomaly.explain_detector(detector => 'explained_v', entity => 'a');
SELECT count(*) AS of_an_unknown_entity FROM anomaly.explain_detector('explained_v', 'zzz');
-- with a threshold nobody promises a rate
SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', source => 'explained', threshold => 3, name => 'by_threshold');
SELECT count(*) AS not_trained_yet FROM anomaly.explain_detector('by_threshold');
SELECT status FROM anomaly.train('by_threshold');
SELECT entity, strategy, status, points, expected_alerts_per_day FROM anomaly.explain_detector('by_threshold');
SELECT * FROM anomaly.explain_detector(NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM anomaly.explain_detector('nothing');
\echo :LAST_ERROR_SQLSTATE
CREATE ROLE explain_stranger;
SET ROLE explain_stranger;
SELECT * FROM anomaly.explain_detector('by_threshold');
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
DROP ROLE explain_stranger;
SELECT count(anomaly.drop_detector(d)) FROM unnest('{explained_v,by_threshold}'::text[]) d;
DROP TABLE explained;
