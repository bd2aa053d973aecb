-- check_same_bytes, fault_i9_same_models: the same rows give the same models on every version of PostgreSQL and machine.
SET TIME ZONE 'UTC';
CREATE TABLE same_rows AS
SELECT timestamptz '2020-01-01' + i * interval '10 minutes' AS at, 50 + 20 * (i % 144 / 144.0) + (i::bigint * i * 31 + i * 7919) % 1009 / 100.0 + CASE WHEN i % 700 = 0 THEN 90 ELSE 0 END AS v FROM generate_series(1, 2000) i;
SELECT anomaly.create_detector('data_outlier', s, 'v', source => 'same_rows', settle => '0 s', training_window => '100 years', name => 'same_' || s) FROM unnest('{auto,autoencoder,lstm,matrix_profile,one_class_svm,random_cut_forest,seasonal}'::text[]) s;
SELECT d.strategy, t.status, t.trained_rows FROM anomaly.detectors d, anomaly.train(d.detector) t WHERE detector LIKE 'same!_%' ESCAPE '!' ORDER BY detector COLLATE "C";
SELECT detector, md5(payload) AS state FROM anomaly.entity_state WHERE detector LIKE 'same!_%' ESCAPE '!' ORDER BY detector COLLATE "C";
SELECT md5(isolation_forest(ARRAY[v, extract(hour FROM at)] ORDER BY at)::text) AS isolation_forest FROM same_rows;

SELECT count(anomaly.drop_detector(detector)) AS dropped FROM anomaly.detectors;
DROP TABLE same_rows;
