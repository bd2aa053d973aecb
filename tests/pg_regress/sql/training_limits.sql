-- What a training may take: memory, time, and nobody's patience.
-- What a statement raises: code, message, detail and hint.
CREATE FUNCTION pg_temp.raised(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE code text; message text; detail text; hint text;
BEGIN
    EXECUTE query;
    RETURN 'nothing';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN format('%s: %s%s%s', code, message, CASE WHEN detail <> '' THEN ' (DETAIL: ' || detail || ')' END, CASE WHEN hint <> '' THEN ' (HINT: ' || hint || ')' END);
END $$;

-- fault_m5_train_memory, fault_m5_train_time_limit: a training that takes more than it may ends, and nothing has changed
SELECT anomaly.create_detector('data_outlier', 'auto', 'v', source => 'SELECT now() - i * interval ''1 minute'' AS at, ''e'' || i % 4000 AS entity, i % 13 AS v FROM generate_series(1, 40000) i',
       value => 'v', at => 'at', entity => 'entity', settle => '0 s', min_data_points => 2, name => 'large');
SET anomaly_detection.train_memory = '1MB';
SELECT pg_temp.raised($$SELECT anomaly.train('large')$$);
SELECT pg_temp.raised($$SELECT isolation_forest(ARRAY[i, i * i % 97]::float8[], '{"n_estimators": 1000, "max_samples": 800}') FROM generate_series(1, 3000) i$$);
RESET anomaly_detection.train_memory;
SET anomaly_detection.train_time_limit = '50ms';
SELECT pg_temp.raised($$SELECT anomaly.train('large')$$);
SELECT pg_temp.raised($$SELECT isolation_forest(ARRAY[i, i * i % 97]::float8[], '{"n_estimators": 1000, "max_samples": 800, "variant": "auto", "ntry": 64}') FROM generate_series(1, 8000) i$$);
SELECT status FROM anomaly.detectors WHERE detector = 'large';
-- fault_m5_cancel: within a second from inside a training
SET anomaly_detection.train_time_limit = 0;
SELECT anomaly.create_detector('data_outlier', 'lstm', 'v', source => 'SELECT now() - i * interval ''1 minute'' AS at, ''e'' || i % 400 AS entity, i % 13 AS v FROM generate_series(1, 400000) i',
       value => 'v', at => 'at', entity => 'entity', settle => '0 s', min_data_points => 2, training_window => '1 year', name => 'long');
SELECT clock_timestamp() AS started \gset
\set VERBOSITY terse
SET statement_timeout = '1s';
SELECT anomaly.train('long');
RESET statement_timeout;
\set VERBOSITY default
SELECT clock_timestamp() - :'started' < interval '10 s' AS soon, (SELECT status FROM anomaly.detectors WHERE detector = 'long') AS status;
RESET anomaly_detection.train_time_limit;


SELECT count(anomaly.drop_detector(detector)) AS dropped FROM anomaly.detectors;
