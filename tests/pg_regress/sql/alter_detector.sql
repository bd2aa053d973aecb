-- Registering again, unregistering, and other settings for a detector that there is.
SET TIME ZONE 'UTC';

CREATE TABLE reading (at timestamptz, host text, v double precision, w double precision);
INSERT INTO reading SELECT now() - interval '1 day' + i * interval '1 minute', 'h' || i % 2, 100 + (i * 7919 % 101) / 10.0, 5 + (i * 104729 % 97) / 50.0 FROM generate_series(1, 600) i;

-- check_c3_id: the id is type, strategy and metric; a short name of the strategy will do, there and later
SELECT anomaly.create_detector('system_cpu', 'zscore', 'cpu_usage');
SELECT detector, training_window, threshold, min_data_points, params, enabled FROM anomaly.detectors;
SELECT anomaly.disable('system_cpu_zscore_cpu_usage'), anomaly.enable('system_cpu_zscore_cpu_usage');
SELECT helper.answer(format('SELECT anomaly.%s', call)) AS outcome FROM unnest('{"train(''system_cpu_zscore_cpu_usag'')","scan(''nothing like it'')","export_model(''system_cpu_statistical_zscore_cpu'')",
    "alter_detector(''system_cpu_zscor_cpu_usage'', ''{}'')","rollback_model(''systemcpu_statistical_zscore_cpu_usage'')","explain_detector(''system_cpu_statistical_zscore_cpu_usages'')"}'::text[]) call;
SELECT anomaly.drop_detector('system_cpu_zscore_cpu_usage'), anomaly.drop_detector('system_cpu_zscore_cpu_usage');

-- check_c3_settings, defect_s8_settings: every setting is kept
SELECT anomaly.create_detector('data_outlier', 'isolation_forest', 'v', source => 'reading', value => 'v', at => 'at', entity => 'host', every => '1 hour', time_zone => 'Europe/Berlin',
    training_window => '7 days', min_data_points => 50, threshold => 1.5, alerts_per_day => 2, params => '{"contamination": 0.1, "random_state": 7}', settle => '1 s', fire_after => 2, clear_after => 4,
    max_entities => 10, entity_type => 'host', name => 'all', direction => 'above', min_effect => 1, min_relative_effect => 0.01, bucket => '1 minute', aggregate => 'max', on_missing => 'previous',
    late_window => '1 hour', features => '{w}', retrain_every => '1 day');
\x
SELECT detector, strategy, metric_name, entity_type, source, value_column, at_column, entity_column, feature_columns, kind, bucket, aggregate, on_missing, every, cron, time_zone, settle, late_window, training_window,
    retrain_every, min_data_points, threshold, alerts_per_day, fire_after, clear_after, max_entities, direction, min_effect, min_relative_effect, params FROM anomaly.detectors;
\x
SELECT anomaly.drop_detector('all');

-- check_c4_register: unregistered once, registered again with what it has learned
SELECT detector, status FROM anomaly.watch('reading', value => 'v', settle => '0 s', strategy => 'mad');
SELECT anomaly.unregister('reading_v'), anomaly.unregister('reading_v'), anomaly.unregister('no such');
SELECT enabled, model_version FROM anomaly.detectors;
-- defect_s9_registered_again_runs, defect_s22_registered_again_keeps_its_model
SELECT detector, status, chosen FROM anomaly.watch('reading', value => 'v', settle => '0 s', strategy => 'mad');
SELECT enabled, model_version, trained_rows, next_due <= now() + interval '1 s' AS due FROM anomaly.detectors;
SELECT anomaly.create_detector('data_outlier', 'mad', 'v', source => 'reading', value => 'v', every => '60 seconds', settle => '0 s', name => 'reading_v');
SELECT count(*) AS models FROM anomaly.models;
-- With other settings it is another detector, and the hint says what to type.
SELECT helper.answer($$SELECT anomaly.create_detector('data_outlier', 'iqr', 'v', source => 'reading', value => 'v', every => '2 minutes', threshold => 3, settle => '0 s', name => 'reading_v')$$);
SELECT helper.answer($$SELECT anomaly.create_detector('data_drift', 'mad', 'v', source => 'reading', value => 'v', every => '60 seconds', settle => '0 s', name => 'reading_v')$$);
SELECT helper.answer($$SELECT anomaly.create_detector('data_outlier', 'mad', 'v', name => 'reading_v')$$);
CREATE ROLE reg5_other;
GRANT SELECT ON reading TO reg5_other;
SET ROLE reg5_other;
SELECT helper.answer($$SELECT anomaly.create_detector('data_outlier', 'mad', 'v', source => 'reading', value => 'v', settle => '0 s', name => 'reading_v')$$);
RESET ROLE;

-- What is not the model's counts at the next scan, and the model stays.
SELECT changed, effect FROM anomaly.alter_detector('reading_v', '{"alerts_per_day": 0.5, "threshold": 4, "direction": "above", "fire_after": 2, "every": "5 minutes"}');
SELECT threshold, alerts_per_day, direction, fire_after, every, updated_at > created_at AS updated, model_version, next_due > updated_at AS later FROM anomaly.detectors;
INSERT INTO reading SELECT clock_timestamp() + i * interval '1 microsecond', 'h0', 1e6 FROM generate_series(1, 2) i;
SELECT alerts_opened FROM anomaly.scan('reading_v');
SELECT points, value, direction, model_version FROM anomaly.alerts;
-- null is the default, the same again is nothing, and one schedule takes the place of the other
SELECT changed, effect FROM anomaly.alter_detector('reading_v', '{"threshold": null, "fire_after": null, "cron": "0 3 * * *"}');
SELECT threshold, fire_after, every, cron FROM anomaly.detectors;
SELECT changed, effect FROM anomaly.alter_detector('reading_v', '{"threshold": null, "every": null}');
SELECT changed, effect FROM anomaly.alter_detector('reading_v', '{}');
SELECT changed, effect FROM anomaly.alter_detector('reading_v', '{"cron": null}');
SELECT every, cron, next_due FROM anomaly.detectors;

-- Another model of the same series: trained at once without a schedule, and the alert that is open goes on.
SELECT changed, effect ~ '^trained anew on 60[0-9] rows: active$' AS trained FROM anomaly.alter_detector('reading_v', '{"strategy": "iqr"}');
SELECT strategy, model_version, (SELECT count(*) FROM anomaly.models) AS models FROM anomaly.detectors;
SELECT status, detection_strategy FROM anomaly.alerts;
INSERT INTO reading VALUES (clock_timestamp(), 'h0', 2e6);
SELECT alerts_opened, alerts_resolved FROM anomaly.scan('reading_v');
SELECT status, points, value FROM anomaly.alerts;

-- With a schedule, at its next run; until then nothing takes the old model for the new one.
SELECT changed, effect FROM anomaly.alter_detector('reading_v', '{"every": "1 hour"}');
SELECT changed, effect FROM anomaly.alter_detector('reading_v', '{"strategy": "quantile", "params": {}}');
SELECT helper.answer($$SELECT anomaly.export_model('reading_v')$$);
SELECT helper.answer($$SELECT anomaly.rollback_model('reading_v')$$);
SELECT helper.answer($$SELECT anomaly.explain_detector('reading_v')$$);
SELECT next_due <= clock_timestamp() AS due, status FROM anomaly.detectors;
INSERT INTO reading VALUES (clock_timestamp(), 'h0', 3e6);
SELECT rows_read, points_scored, alerts_opened FROM anomaly.scan('reading_v');
SELECT strategy, status, version FROM anomaly.models JOIN anomaly.detectors USING (detector, strategy);
SELECT status, points, value FROM anomaly.alerts;
SELECT helper.answer($$SELECT anomaly.rollback_model('reading_v')$$);

-- Another series: nothing of the old one is left.
SELECT changed, effect FROM anomaly.alter_detector('reading_v', '{"value": "w", "entity": "host", "every": null}');
SELECT value_column, entity_column, entities, status FROM anomaly.detectors;
SELECT status FROM anomaly.alerts;
SELECT changed FROM anomaly.alter_detector('reading_v', '{"source": "SELECT at, host, w * 2 AS w FROM reading"}');
SELECT source_kind, source FROM anomaly.detectors;

-- One that is fed has its points to train on.
SELECT anomaly.create_detector('system_cpu', 'zscore', 'cpu', min_data_points => 20, name => 'fed');
SELECT count(*) FROM generate_series(1, 30) i, anomaly.process_data_point(jsonb_build_object('cpu', 50 + i % 5, 'load', i % 3, 'timestamp', now() - i * interval '1 s'));
SELECT changed, effect FROM anomaly.alter_detector('fed', '{"strategy": "random_cut_forest", "features": ["load"]}');
SELECT strategy, feature_columns, status, trained_rows FROM anomaly.detectors WHERE detector = 'fed';

-- check_c4_stopped: one that is unregistered judges nothing, until it is registered again
SELECT anomaly.unregister('fed');
SELECT count(*) FROM anomaly.process_data_point('{"cpu": 9000, "load": 1}');
SELECT anomaly.create_detector('system_cpu', 'random_cut_forest', 'cpu', min_data_points => 20, features => '{load}', name => 'fed');
SELECT count(*), min(value) AS value FROM anomaly.process_data_point('{"cpu": 9000, "load": 1}');

-- Bad settings: what create_detector says, and nothing changed.
SELECT helper.answer(format('SELECT anomaly.alter_detector(%L, %L)', d, s)) FROM (VALUES
    ('reading_v', '{"thresold": 3}'), ('reading_v', '{"nonsense": 3}'), ('reading_v', '{"metric_name": "x"}'), ('reading_v', '{"name": "x"}'), ('reading_v', '[1]'), ('reading_v', '3'),
    ('reading_v', '{"threshold": -1}'), ('reading_v', '{"threshold": "3"}'), ('reading_v', '{"min_data_points": 1}'), ('reading_v', '{"min_data_points": 1e12}'), ('reading_v', '{"every": "soon"}'),
    ('reading_v', '{"every": "1 ms"}'), ('reading_v', '{"every": "1 h", "cron": "0 3 * * *"}'), ('reading_v', '{"strategy": null}'), ('reading_v', '{"strategy": "nonsense"}'), ('reading_v', '{"source": null}'),
    ('reading_v', '{"value": "host"}'), ('reading_v', '{"value": "x"}'), ('reading_v', '{"source": "readin"}'), ('reading_v', '{"params": {"nonsense": 1}}'), ('reading_v', '{"features": "w"}'),
    ('reading_v', '{"retrain_every": "1 s"}'), ('reading_v', '{"kind": "ratio"}'), ('reading_v', '{"trials": "w"}'), ('reading_v', '{"time_zone": "Mars"}'), ('reading_v', '{"direction": "up"}'),
    ('fed', '{"source": "reading"}'), ('fed', '{"bucket": "1 hour"}'), ('fed', '{"every": "1 hour"}'), ('fed', '{"features": ["cpu"]}'), ('no such', '{}'), (NULL, '{}'), ('fed', NULL)) c (d, s);
SELECT detector, strategy, threshold, value_column, entity_column, every, model_version IS NOT NULL AS trained FROM anomaly.detectors ORDER BY detector;

-- Who may: members of the owner, and of anomaly_admin all but what is read with the owner's rights.
SELECT anomaly.alter_detector('reading_v', '{"source": "reading"}') IS NOT NULL AS altered;
SET ROLE reg5_other;
SELECT helper.answer($$SELECT anomaly.alter_detector('reading_v', '{"threshold": 3}')$$);
RESET ROLE;
GRANT anomaly_monitor TO reg5_other;
SET ROLE reg5_other;
SELECT helper.answer($$SELECT anomaly.alter_detector('reading_v', '{"threshold": 3}')$$);
RESET ROLE;
GRANT anomaly_admin TO reg5_other;
SET ROLE reg5_other;
SELECT helper.answer($$SELECT anomaly.alter_detector('reading_v', '{"threshold": 3}')$$);
SELECT helper.answer($$SELECT anomaly.alter_detector('reading_v', '{"source": "SELECT now() AS at, 1 AS w, ''h'' AS host"}')$$);
SELECT helper.answer($$SELECT anomaly.alter_detector('reading_v', '{"value": "v"}')$$);
RESET ROLE;
REVOKE anomaly_admin, anomaly_monitor FROM reg5_other;
DROP TABLE reading;
SELECT helper.answer($$SELECT anomaly.alter_detector('reading_v', '{"value": "v"}')$$);
-- What looks at nothing is altered all the same.
SELECT changed, effect FROM anomaly.alter_detector('reading_v', '{"threshold": 5}');

SELECT count(anomaly.drop_detector(detector)) FROM anomaly.detectors;
DROP ROLE reg5_other;
TRUNCATE anomaly.alert;
ALTER SEQUENCE anomaly.alert_id_seq RESTART;
TRUNCATE anomaly.sample;
