-- The names that users may write. The same lists are in anomaly-core (strategy, anomaly_type); a test compares them.

INSERT INTO anomaly.strategy (strategy, short_name, family, description, available, builtin) VALUES
    ('statistical_zscore', 'zscore', 'statistical', 'distance from the mean in standard deviations', true, true),
    ('statistical_iqr', 'iqr', 'statistical', 'distance past the quartiles in interquartile ranges', true, true),
    ('statistical_mad', 'mad', 'statistical', 'distance from the median in median absolute deviations', true, true),
    ('statistical_moving_average', 'moving_average', 'statistical', 'distance from rolling means of three windows', false, true),
    ('statistical_regression', 'regression', 'statistical', 'distance from trend, season, hour and weekday', false, true),
    ('learning_isolation_forest', 'isolation_forest', 'learning', 'how quickly random splits isolate the row', false, true),
    ('learning_one_class_svm', 'one_class_svm', 'learning', 'distance outside the support of the training rows', false, true),
    ('learning_autoencoder', 'autoencoder', 'learning', 'reconstruction error of a dense network', false, true),
    ('learning_lstm', 'lstm', 'learning', 'prediction error of a recurrent network', false, true),
    ('hybrid_ensemble', 'ensemble', 'hybrid', 'weighted vote of calibrated members', false, true),
    ('hybrid_adaptive', 'adaptive', 'hybrid', 'ensemble that learns its weights from feedback', false, true);

INSERT INTO anomaly.anomaly_type (anomaly_type, family, description, builtin) VALUES
    ('system_cpu', 'system', 'processor load', true),
    ('system_memory', 'system', 'memory use', true),
    ('system_disk', 'system', 'disk use', true),
    ('system_network', 'system', 'network traffic', true),
    ('system_error_rate', 'system', 'errors per time', true),
    ('system_latency', 'system', 'response time', true),
    ('user_login_pattern', 'user', 'logins of a user', true),
    ('user_access_pattern', 'user', 'what a user accesses', true),
    ('user_transaction_pattern', 'user', 'transactions of a user', true),
    ('user_content_pattern', 'user', 'content a user handles', true),
    ('data_outlier', 'data', 'values out of the ordinary', true),
    ('data_drift', 'data', 'a distribution or schema that moves', true),
    ('data_missing', 'data', 'missing values', true),
    ('data_inconsistency', 'data', 'values that contradict each other', true),
    ('data_volume', 'data', 'row counts out of the ordinary', true),
    ('data_quality', 'data', 'any other fault of data', true);
