-- The textbook rules with an explicit threshold, on data whose figures are known beforehand. Each probe is an entity of
-- its own, so that none changes another's baseline.
SET TIME ZONE 'UTC';

-- check_c14_strictly: mean 10, population standard deviation 2, both exact in binary; z = 3 is no alert, the next number is
CREATE TABLE z_known (entity text, at timestamptz, v double precision);
CREATE TABLE z_probe (entity text, v double precision);
INSERT INTO z_probe VALUES ('a: z = 3', 16), ('b: z > 3', 16.000000000000004), ('c: z = -3', 4), ('d: z < -3', 3.999999999999999), ('e: the mean', 10), ('f: far', 110);
INSERT INTO z_known SELECT entity, now() - interval '1 day' + i * interval '1 minute', CASE i WHEN 1 THEN -6 WHEN 2 THEN 26 ELSE 10 END FROM z_probe, generate_series(1, 128) i;
SELECT entity, avg(v), stddev_pop(v) FROM z_known GROUP BY entity ORDER BY entity LIMIT 1;
SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', source => 'z_known', value => 'v', at => 'at', entity => 'entity', threshold => 3, settle => '0 s', name => 'z');
SELECT status, trained_rows, entities FROM anomaly.train('z');
INSERT INTO z_known SELECT entity, clock_timestamp(), v FROM z_probe;
SELECT points_scored, alerts_opened FROM anomaly.scan('z');
SELECT entity, value, lower, upper, expected, direction, metadata -> 'z_score' AS z, metadata -> 'mean' AS mean, metadata -> 'std' AS std, metadata -> 'threshold' AS threshold, severity
  FROM anomaly.alerts WHERE detector = 'z' ORDER BY entity;

-- check_c14_training: mean and population standard deviation of any data, against core's own
CREATE TABLE z_any AS SELECT now() - interval '1 day' + i * interval '1 minute' AS at, 1e6 + (i * 7919 % 1009) * 0.37 AS v FROM generate_series(1, 500) i;
SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', source => 'z_any', threshold => 2.5, settle => '0 s', name => 'z_any');
SELECT status FROM anomaly.train('z_any');
CREATE TEMP TABLE z_figures AS SELECT avg(v::numeric) AS mean, stddev_pop(v::numeric) AS std FROM z_any;
INSERT INTO z_any VALUES (clock_timestamp(), 2e6);
SELECT alerts_opened FROM anomaly.scan('z_any');
SELECT abs((metadata ->> 'mean')::numeric / f.mean - 1) < 1e-12 AS mean, abs((metadata ->> 'std')::numeric / f.std - 1) < 1e-12 AS std,
       abs((metadata ->> 'z_score')::numeric / ((2e6 - f.mean) / f.std) - 1) < 1e-12 AS z,
       abs(lower::numeric - (f.mean - 2.5 * f.std)) < 1e-6 AS lower, abs(upper::numeric - (f.mean + 2.5 * f.std)) < 1e-6 AS upper,
       deviation BETWEEN 0 AND 1e6 AS deviation
  FROM anomaly.alerts, z_figures f WHERE detector = 'z_any';

-- check_c14_constant: where nothing ever differed, the rule takes 1e-6 for the standard deviation
CREATE TABLE constant (entity text, at timestamptz, v double precision);
INSERT INTO constant SELECT e, now() - interval '1 day' + i * interval '1 minute', 5 FROM generate_series(1, 120) i, unnest('{a: equal,b: within,c: beyond,d: far}'::text[]) e;
SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', source => 'constant', value => 'v', entity => 'entity', threshold => 3, settle => '0 s', name => 'z_constant');
SELECT anomaly.create_detector('data_outlier', 'iqr', 'v', source => 'constant', value => 'v', entity => 'entity', threshold => 3, settle => '0 s', name => 'iqr_constant');
SELECT d, status FROM unnest('{z_constant,iqr_constant}'::text[]) d, anomaly.train(d);
INSERT INTO constant VALUES ('a: equal', clock_timestamp(), 5), ('b: within', clock_timestamp(), 5.000002), ('c: beyond', clock_timestamp(), 5.000004), ('d: far', clock_timestamp(), -1e9);
SELECT alerts_opened FROM unnest('{z_constant,iqr_constant}'::text[]) d, anomaly.scan(d);
SELECT detector, entity, value, expected, round(lower::numeric, 9) AS lower, round(upper::numeric, 9) AS upper, deviation BETWEEN 0 AND 1e6 AS finite FROM anomaly.alerts WHERE detector LIKE '%_constant' ORDER BY 1, 2;

-- check_c15_strictly: 0, 1, …, 100 has the quartiles 25 and 75; with threshold 1.5 the bounds are -50 and 150
CREATE TABLE q_known (entity text, at timestamptz, v double precision);
CREATE TABLE q_probe (entity text, v double precision);
INSERT INTO q_probe VALUES ('a: upper bound', 150), ('b: above it', 150.00000000000003), ('c: lower bound', -50), ('d: below it', -50.0000000000001), ('e: inside', 60), ('f: far', 250), ('g: far below', -150);
INSERT INTO q_known SELECT entity, now() - interval '1 day' + i * interval '1 minute', i * 37 % 101 FROM q_probe, generate_series(0, 100) i;
SELECT anomaly.create_detector('data_outlier', 'iqr', 'v', source => 'q_known', value => 'v', at => 'at', entity => 'entity', threshold => 1.5, settle => '0 s', name => 'q');
SELECT status, trained_rows, entities FROM anomaly.train('q');
INSERT INTO q_known SELECT entity, clock_timestamp(), v FROM q_probe;
SELECT points_scored, alerts_opened FROM anomaly.scan('q');
SELECT entity, value, lower, upper, direction, metadata -> 'q1' AS q1, metadata -> 'q3' AS q3, metadata -> 'iqr' AS iqr, round((metadata ->> 'iqr_distance')::numeric, 9) AS iqr_distance, metadata -> 'threshold' AS threshold
  FROM anomaly.alerts WHERE detector = 'q' ORDER BY entity;

-- check_c15_training: quartiles between two values, against percentile_cont
CREATE TABLE q_any AS SELECT now() - interval '1 day' + i * interval '1 minute' AS at, ((i * 7919) % 1009) ^ 1.7 AS v FROM generate_series(1, 150) i;
SELECT anomaly.create_detector('data_outlier', 'iqr', 'v', source => 'q_any', threshold => 2, settle => '0 s', name => 'q_any');
SELECT status FROM anomaly.train('q_any');
CREATE TEMP TABLE q_figures AS SELECT percentile_cont(0.25) WITHIN GROUP (ORDER BY v) AS q1, percentile_cont(0.75) WITHIN GROUP (ORDER BY v) AS q3 FROM q_any;
INSERT INTO q_any VALUES (clock_timestamp(), 1e7);
SELECT alerts_opened FROM anomaly.scan('q_any');
SELECT abs((metadata ->> 'q1')::float8 / f.q1 - 1) < 1e-12 AS q1, abs((metadata ->> 'q3')::float8 / f.q3 - 1) < 1e-12 AS q3,
       abs(lower - (f.q1 - 2 * (f.q3 - f.q1))) < 1e-6 AS lower, abs(upper - (f.q3 + 2 * (f.q3 - f.q1))) < 1e-6 AS upper,
       abs((metadata ->> 'iqr_distance')::float8 / ((1e7 - f.q3) / (f.q3 - f.q1) - 2) - 1) < 1e-12 AS iqr_distance
  FROM anomaly.alerts, q_figures f WHERE detector = 'q_any';

-- check_c26_severity: by the deviation alone, the same for every strategy, and never falling with distance
CREATE TABLE graded (entity text, at timestamptz, v double precision);
INSERT INTO graded SELECT to_char(k, 'FM000'), now() - interval '2 days' + i * interval '1 minute', 50 + ((i * 7919) % 1009) / 100.0 + ((i * 104729) % 1013) / 100.0 + ((i * 1299709) % 997) / 100.0
  FROM generate_series(1, 150) i, generate_series(1, 60) k;
SELECT anomaly.create_detector('data_outlier', s, 'v', source => 'graded', value => 'v', entity => 'entity', threshold => 0.0001, settle => '0 s', name => 'graded_' || s) FROM unnest('{zscore,iqr,mad}'::text[]) s;
SELECT s, status FROM unnest('{zscore,iqr,mad}'::text[]) s, anomaly.train('graded_' || s);
INSERT INTO graded SELECT to_char(k, 'FM000'), clock_timestamp(), 65 + k + k * k / 10.0 FROM generate_series(1, 60) k;
SELECT s, alerts_opened > 40 AS enough FROM unnest('{zscore,iqr,mad}'::text[]) s, anomaly.scan('graded_' || s);
SELECT detection_strategy, count(DISTINCT severity) AS severities,
       count(*) FILTER (WHERE severity::text <> CASE WHEN deviation >= 5 THEN 'emergency' WHEN deviation >= 3 THEN 'critical' WHEN deviation >= 2 THEN 'warning' ELSE 'info' END) AS wrong,
       count(*) FILTER (WHERE is_critical <> (deviation >= 3)) AS wrongly_critical,
       count(*) FILTER (WHERE further.falls) AS falling
  FROM (SELECT *, deviation < lag(deviation) OVER (PARTITION BY detector ORDER BY value) AS falls FROM anomaly.alerts WHERE detector LIKE 'graded_%') further
 GROUP BY 1 ORDER BY 1;

SELECT count(anomaly.drop_detector(d)) FROM unnest('{z,z_any,z_constant,iqr_constant,q,q_any,graded_zscore,graded_iqr,graded_mad}'::text[]) d;
DROP TABLE z_known, z_probe, z_any, constant, q_known, q_probe, q_any, graded;
