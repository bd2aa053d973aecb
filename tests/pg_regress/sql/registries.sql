-- The names that users may write, from the feature list and not from the extension's own registries.

-- check_c1_anomaly_types: each listed one is accepted and kept
CREATE TEMP TABLE listed_type (anomaly_type text);
INSERT INTO listed_type VALUES ('system_cpu'), ('system_memory'), ('system_disk'), ('system_network'), ('system_error_rate'), ('system_latency'),
    ('user_login_pattern'), ('user_access_pattern'), ('user_transaction_pattern'), ('user_content_pattern'),
    ('data_outlier'), ('data_drift'), ('data_missing'), ('data_inconsistency'), ('data_volume'), ('data_quality');
SELECT count(*) FROM listed_type;
SELECT anomaly_type, helper.attempt(format('SELECT anomaly.create_detector(%L, ''zscore'', ''c1_metric'')', anomaly_type)) FROM listed_type ORDER BY 1;
SELECT detector, anomaly_type, strategy FROM anomaly.detectors WHERE metric_name = 'c1_metric' ORDER BY 1;
(TABLE listed_type EXCEPT SELECT anomaly_type FROM anomaly.anomaly_types) UNION ALL (SELECT anomaly_type FROM anomaly.anomaly_types EXCEPT TABLE listed_type);

-- check_c1_other_anomaly_types: any other is refused, and the listed ones are named
SELECT anomaly_type, helper.attempt(format('SELECT anomaly.create_detector(%L, ''zscore'', ''c1_other'')', anomaly_type))
  FROM unnest('{system_gpu,SYSTEM_CPU," system_cpu",system_cpu_,"",data_outlier''; DROP TABLE x; --}'::text[]) AS anomaly_type;
SELECT helper.attempt('SELECT * FROM anomaly.process_data_point(''{"c1_metric": 1}'', ARRAY[''system_gpu''])');

-- check_c1_strategies: each listed one is accepted, or refused as one that this version does not have; short forms alike
-- what a strategy cannot do without
CREATE FUNCTION pg_temp.least_params(strategy text) RETURNS text LANGUAGE sql AS $$ SELECT CASE strategy WHEN 'statistical_threshold' THEN '{"min": 0}' ELSE '{}' END $$;
CREATE TEMP TABLE listed_strategy (strategy text);
INSERT INTO listed_strategy VALUES ('statistical_zscore'), ('statistical_iqr'), ('statistical_moving_average'), ('statistical_regression'),
    ('learning_isolation_forest'), ('learning_one_class_svm'), ('learning_autoencoder'), ('learning_lstm'), ('learning_deep_lstm'),
    ('hybrid_ensemble'), ('hybrid_adaptive'), ('hybrid_auto'), ('statistical_mad'),
    ('statistical_ewma'), ('statistical_cusum'), ('statistical_esd'), ('statistical_quantile'), ('statistical_threshold'), ('statistical_persist'),
    ('statistical_level_shift'), ('statistical_volatility_shift'), ('statistical_flat_line'), ('statistical_seasonal'), ('statistical_holt_winters'),
    ('statistical_changepoint'), ('statistical_novelty'), ('learning_matrix_profile'), ('learning_random_cut_forest');
SELECT strategy, helper.attempt(format('SELECT anomaly.create_detector(''system_cpu'', %L, ''c1_strategy'', name => %L, params => %L)', strategy, 'full ' || strategy, params)) AS full_name,
       helper.attempt(format('SELECT anomaly.create_detector(''system_cpu'', %L, ''c1_strategy'', name => %L, params => %L)', short, 'short ' || short, params))
       = helper.attempt(format('SELECT anomaly.create_detector(''system_cpu'', %L, ''c1_strategy'', name => %L, params => %L)', strategy, 'short again ' || short, params)) AS short_name_alike
  FROM listed_strategy, regexp_replace(strategy, '^[a-z]+_', '') AS short, pg_temp.least_params(strategy) AS params ORDER BY 1;
SELECT detector, strategy FROM anomaly.detectors WHERE metric_name = 'c1_strategy' AND detector NOT LIKE 'short again %' ORDER BY 1;
(SELECT strategy FROM listed_strategy WHERE strategy <> 'learning_deep_lstm' EXCEPT SELECT strategy FROM anomaly.strategies)
UNION ALL (SELECT strategy FROM anomaly.strategies EXCEPT TABLE listed_strategy);
-- what is said to be available is, and nothing else
SELECT strategy, available, helper.attempt(format('SELECT anomaly.create_detector(''system_cpu'', %L, ''c1_available'', name => %L, params => %L)', strategy, 'available ' || strategy, params)) = 'accepted' AS accepted
  FROM anomaly.strategies, pg_temp.least_params(strategy) AS params ORDER BY 1;

-- check_c1_other_strategies
SELECT strategy, helper.attempt(format('SELECT anomaly.create_detector(''system_cpu'', %L, ''c1_other'')', strategy))
  FROM unnest('{statistical_zscor,ZSCORE,"zscore ","",magic,learning_zscore}'::text[]) AS strategy;
SELECT count(*) AS refused_ones_left_behind FROM anomaly.detectors WHERE metric_name = 'c1_other';

-- check_c1_severities: info < warning < critical < emergency, and no other
SELECT a, b, a < b AS less FROM unnest('{info,warning,critical,emergency}'::anomaly.severity[]) WITH ORDINALITY x (a, i), unnest('{info,warning,critical,emergency}'::anomaly.severity[]) WITH ORDINALITY y (b, j)
 WHERE (a < b) <> (i < j);
SELECT enum_range(NULL::anomaly.severity), max(s), min(s) FROM unnest('{warning,info,emergency,critical}'::anomaly.severity[]) s;
SELECT severity, helper.attempt(format('SELECT %L::anomaly.severity', severity)) FROM unnest('{error,INFO,fatal,""}'::text[]) AS severity;

SELECT count(anomaly.drop_detector(detector)) AS dropped FROM anomaly.detectors WHERE metric_name LIKE 'c1_%';
