-- hybrid_ensemble and hybrid_adaptive as detectors: members, weights, scores, and feedback that changes the next result.
SET TIME ZONE 'UTC';

-- about 100 ± 20
CREATE TABLE voted (at timestamptz, v double precision);
INSERT INTO voted SELECT now() - i * interval '1 hour', 100 + 20 * ((i * 7919 % 1009 + i * 104729 % 1013 + i * 1299709 % 1019) / 1013.0 - 1.5) * 2 FROM generate_series(1, 700) i;

-- check_c23_default_members: with their weights, by the common scale; check_c28: the range is in the metric's own unit
SELECT anomaly.create_detector('data_outlier', 'ensemble', 'v', source => 'voted', settle => '0 s', name => 'voted_default');
SELECT status FROM anomaly.train('voted_default');
INSERT INTO voted VALUES (clock_timestamp(), 5000);
SELECT points_scored, alerts_opened FROM anomaly.scan('voted_default');
-- defect_s3_severity: 5000 was less than a warning
SELECT severity, detection_strategy, value, expected BETWEEN 80 AND 120 AS expected, lower BETWEEN -100 AND expected AS lower, upper BETWEEN expected AND 300 AS upper,
       metadata -> 'weights' AS weights, (metadata ->> 'weighted_score')::float8 BETWEEN 0.9 AND 1 AS score, (metadata ->> 'threshold')::float8 BETWEEN 0 AND 1 AS threshold,
       metadata ->> 'combine' AS combine, metadata ? 'adaptive_weights' AS adaptive
  FROM anomaly.alerts WHERE detector = 'voted_default';
SELECT s.key AS member, s.value::float8 BETWEEN 0.9 AND 1 AS sure FROM anomaly.alerts, jsonb_each_text(metadata -> 'detector_results') s WHERE detector = 'voted_default' ORDER BY 1;
-- check_c27_members: each member that fires is listed
SELECT regexp_replace(description, '-?[0-9]+(\.[0-9]+)?(e-?[0-9]+)?', 'N', 'g') AS description FROM anomaly.alerts WHERE detector = 'voted_default';
SELECT explanation -> 'members' -> 0 ->> 'member' AS first_member, explanation ->> 'combine' AS combine, strategy FROM anomaly.explain_detector('voted_default');

-- check_c23_own_members: by short or full name, weights divided by their sum, ensemble_weights before those of the list
SELECT anomaly.create_detector('data_outlier', 'hybrid_ensemble', 'v', source => 'voted', settle => '0 s', name => 'voted_own',
    params => '{"detectors": [{"type": "statistical", "strategy": "zscore", "weight": 5}, {"strategy": "statistical_mad", "params": {"sketch_capacity": 256}}], "ensemble_weights": {"zscore": 3}, "combine": "vote"}');
SELECT status FROM anomaly.train('voted_own');
INSERT INTO voted VALUES (clock_timestamp(), -300);
SELECT alerts_opened FROM anomaly.scan('voted_own');
SELECT value, direction, metadata -> 'weights' AS weights, metadata ->> 'combine' AS combine FROM anomaly.alerts WHERE detector = 'voted_own';
SELECT params ->> 'combine' AS combine FROM anomaly.detectors WHERE detector = 'voted_own';
-- every point with its range
SELECT bool_and(lower <= expected AND expected <= upper) AS ranges, count(*) FILTER (WHERE is_anomaly AND value BETWEEN 40 AND 160) AS false_alarms,
       array_agg(DISTINCT value) FILTER (WHERE is_anomaly AND value NOT BETWEEN 40 AND 160) AS found
  FROM detect_anomalies('voted', strategy => 'ensemble', threshold => 3.5);

-- defect_s16_one_alone: one member of 0.3, however sure, is below 0.6; with 0.7 it is not
SELECT weight, (SELECT count(*) FROM detect_anomalies('voted', strategy => 'ensemble', params => jsonb_build_object('ensemble_threshold', 0.6, 'detectors', jsonb_build_array(
           jsonb_build_object('strategy', 'zscore', 'weight', weight),
           jsonb_build_object('strategy', 'threshold', 'weight', 1 - weight, 'params', '{"min": -1e9, "max": 1e9}'::jsonb)))) WHERE is_anomaly) AS found
  FROM unnest('{0.3,0.7}'::float8[]) weight;

-- what is refused
SELECT params, helper.attempt(format('SELECT anomaly.create_detector(''data_outlier'', ''ensemble'', ''v'', name => ''refused'', params => %L)', params)) FROM unnest(ARRAY[
    '{"detectors": []}', '{"detectors": [{"strategy": "magic"}]}', '{"detectors": [{"strategy": "adaptive"}]}', '{"detectors": [{"strategy": "zscore", "weight": -1}]}',
    '{"detectors": [{"strategy": "zscore", "weight": 0}]}', '{"detectors": [{"strategy": "zscore", "type": "learning"}]}', '{"ensemble_weights": {"magic": 1}}',
    '{"ensemble_threshold": 2}', '{"combine": "sum"}', '{"member": 1}']) params;
SELECT helper.attempt($$SELECT anomaly.create_detector('data_outlier', 'ensemble', 'v', name => 'refused', kind => 'count', params => '{"detectors": [{"strategy": "zscore"}, {"strategy": "esd"}]}')$$);
SELECT count(*) FROM anomaly.detectors WHERE detector = 'refused';

DELETE FROM voted WHERE v NOT BETWEEN 0 AND 200;
-- check_c24_feedback: two members, of which one never finds anything, and 0.3 is not enough for the other
SELECT anomaly.create_detector('data_outlier', 'adaptive', 'v', source => 'voted', settle => '0 s', name => 'voted_adaptive', clear_after => 1,
    params => '{"ensemble_threshold": 0.6, "detectors": [{"strategy": "zscore", "weight": 0.3}, {"strategy": "threshold", "weight": 0.7, "params": {"min": -1e9, "max": 1e9}}]}');
SELECT status FROM anomaly.train('voted_adaptive');
INSERT INTO voted VALUES (clock_timestamp(), 100000);
SELECT points_scored, alerts_opened FROM anomaly.scan('voted_adaptive');
SELECT round(anomaly.update_detector_performance('voted_adaptive', 'zscore', true_positives => 30, false_positives => 4, false_negatives => 1)::numeric, 6) AS f1;
SELECT round(anomaly.update_detector_performance(detector => 'voted_adaptive', member => 'statistical_zscore', true_positives => 10, false_positives => 1, true_negatives => 500, false_negatives => 4)::numeric, 6) AS f1;
SELECT anomaly.update_detector_performance('voted_adaptive', 'statistical_threshold', false_negatives => 40) AS f1;
-- check_c25_exact: 40 / 45, 40 / 45
SELECT detector, member, true_positives AS tp, false_positives AS fp, true_negatives AS tn, false_negatives AS fn, round(precision::numeric, 9) AS precision,
       round(recall::numeric, 9) AS recall, round(f1_score::numeric, 9) AS f1, last_update <= clock_timestamp() AS updated
  FROM anomaly.member_performances WHERE detector = 'voted_adaptive' ORDER BY member;
INSERT INTO voted VALUES (clock_timestamp(), 100000);
SELECT points_scored, alerts_opened FROM anomaly.scan('voted_adaptive');
SELECT metadata -> 'weights' AS weights, (metadata -> 'adaptive_weights' ->> 'statistical_zscore')::float8 > 0.6 AS follows, (metadata ->> 'weighted_score')::float8 >= 0.6 AS score
  FROM anomaly.alerts WHERE detector = 'voted_adaptive';
-- with a threshold nobody promises a rate
SELECT expected_alerts_per_day, round((explanation -> 'members' -> 0 ->> 'configured_weight')::numeric, 3) AS configured FROM anomaly.explain_detector('voted_adaptive');
-- training keeps the counts
SELECT status FROM anomaly.train('voted_adaptive');
SELECT count(*) FROM anomaly.member_performances WHERE detector = 'voted_adaptive';

SELECT call, helper.attempt('SELECT anomaly.update_detector_performance(' || call || ')') FROM unnest(ARRAY[$$'nothing', 'zscore'$$, $$'voted_adaptive', 'mad'$$, $$'voted_adaptive', 'magic', 1$$,
    $$'voted_adaptive', 'zscore', -1$$, $$'voted_adaptive', NULL, 1$$, $$'voted_adaptive', 'zscore', NULL$$, $$'voted_adaptive', 'zscore', 9223372036854775807$$]) call;
SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', name => 'voted_alone');
SELECT helper.attempt($$SELECT anomaly.update_detector_performance('voted_alone', 'zscore', 1)$$);
-- somebody else neither sees nor changes it
CREATE ROLE voted_stranger;
SET ROLE voted_stranger;
SELECT helper.attempt($$SELECT anomaly.update_detector_performance('voted_adaptive', 'zscore', 1)$$);
SELECT count(*) FROM anomaly.member_performances;
SELECT helper.attempt('SELECT * FROM anomaly.member_performance');
RESET ROLE;
DROP ROLE voted_stranger;

SELECT count(anomaly.drop_detector(d)) FROM unnest('{voted_default,voted_own,voted_adaptive,voted_alone}'::text[]) d;
SELECT count(*) AS counts_left_behind FROM anomaly.member_performance;
DROP TABLE voted;
