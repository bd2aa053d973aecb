-- What one role may take of what all share.
SET TIME ZONE 'UTC';
SET client_min_messages = error;
CREATE ROLE quota_owner LOGIN;

-- fault_a9_detectors_per_role
SET anomaly_detection.max_detectors_per_role = 2;
SET ROLE quota_owner;
SELECT helper.attempt(format($$SELECT anomaly.create_detector('data_outlier', 'mad', 'm', name => 'quota_%s')$$, i)) FROM generate_series(1, 3) i;
SELECT anomaly.drop_detector('quota_1');
SELECT helper.attempt($$SELECT anomaly.create_detector('data_outlier', 'mad', 'm', name => 'quota_3')$$);
SELECT helper.attempt('SET anomaly_detection.max_detectors_per_role = -1') AS not_for_everybody;
RESET ROLE;
SELECT helper.attempt(format($$SELECT anomaly.create_detector('data_outlier', 'mad', 'm', name => 'quota_super_%s')$$, i)) AS of_a_superuser FROM generate_series(1, 3) i;
RESET anomaly_detection.max_detectors_per_role;
ALTER ROLE quota_owner SET anomaly_detection.max_detectors_per_role = 5000;

-- fault_a9_min_interval: when a detector is created, and when it is altered
CREATE TABLE quota_reading AS SELECT now() - i * interval '1 minute' AS at, 'e' || e AS entity, 50 + (i + 7 * e) * 7919 % 101 / 25.0 AS v FROM generate_series(1, 300) i, generate_series(1, 20) e;
GRANT SELECT ON quota_reading TO quota_owner;
SET anomaly_detection.min_interval = '10 min';
SET ROLE quota_owner;
SELECT helper.attempt(format($$SELECT anomaly.create_detector('data_outlier', 'mad', 'v', source => 'quota_reading', value => 'v', at => 'at', name => 'quota_every', %s)$$, s))
  FROM unnest(ARRAY[$$every => '1 second'$$, $$every => '9 minutes 59 seconds'$$, $$cron => '* * * * *'$$, $$cron => '0,5 3 * * *'$$, $$cron => '*/10 * * * *'$$]) s;
SELECT helper.attempt($$SELECT anomaly.alter_detector('quota_every', '{"cron": null, "every": "1 minute"}')$$);
SELECT helper.attempt($$SELECT anomaly.alter_detector('quota_every', '{"cron": null, "every": "10 minutes"}')$$);
RESET ROLE;
SELECT helper.attempt($$SELECT anomaly.create_detector('data_outlier', 'mad', 'v', source => 'quota_reading', value => 'v', at => 'at', name => 'quota_super_every', every => '1 second')$$) AS of_a_superuser;
RESET anomaly_detection.min_interval;
SELECT count(anomaly.drop_detector(detector)) AS dropped FROM anomaly.detectors WHERE detector ~ '^quota_';

-- fault_a9_alerts_per_scan: the most deviating ones are opened, the others counted. Nothing of them is lost: those that go on are
-- opened by a later scan, as they would have been. A twin without the limit tells how.
CREATE TABLE quota_clock AS SELECT date_trunc('minute', now()) - interval '5 hours' AS zero;
CREATE FUNCTION pg_temp.at(minute int) RETURNS timestamptz LANGUAGE sql AS $$ SELECT zero + minute * interval '1 minute' FROM quota_clock $$;
CREATE FUNCTION pg_temp.set_clock(minute int) RETURNS void LANGUAGE sql AS $$
    UPDATE anomaly.detector SET settle = clock_timestamp() - zero - minute * interval '1 minute' FROM quota_clock WHERE detector ~ '^quota_' $$;
-- both detectors over the same minutes
CREATE FUNCTION pg_temp.scan_both(minute int, most int) RETURNS TABLE (opened bigint, suppressed bigint) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_temp.set_clock(minute);
    PERFORM anomaly.scan('quota_twin');
    PERFORM set_config('anomaly_detection.max_alerts_per_scan', most::text, true);
    PERFORM anomaly.scan('quota_v');
    RETURN QUERY SELECT r.alerts_opened, r.alerts_suppressed FROM anomaly.runs r WHERE r.detector = 'quota_v' ORDER BY r.run_id DESC LIMIT 1;
END $$;
UPDATE quota_reading SET at = pg_temp.at(0) - (row - 1) / 20 * interval '1 minute' FROM (SELECT ctid AS place, row_number() OVER (ORDER BY at DESC) AS row FROM quota_reading) r WHERE ctid = place;
-- an incident of entity n deviates by n more; three end within the first scan, those of 4 to 10 with the second, the others later; 6 and 8 are opened again while they cool down
INSERT INTO quota_reading SELECT pg_temp.at(i), 'e' || e,
       CASE WHEN i BETWEEN 2 AND CASE WHEN e <= 3 THEN 4 WHEN e <= 10 THEN 12 ELSE 25 END OR i = 16 AND e IN (6, 8) THEN 200 + e ELSE 50 + (i + 7 * e) * 7919 % 101 / 25.0 END
  FROM generate_series(1, 40) i, generate_series(1, 20) e;
SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', source => 'quota_reading', value => 'v', at => 'at', entity => 'entity', threshold => 6, training_window => '10 hours', cool_down => cool_down, name => name)
  FROM (VALUES ('quota_v', interval '2 minutes'), ('quota_twin', '2 minutes')) d (name, cool_down);
SELECT pg_temp.set_clock(0);
SELECT (anomaly.train(d)).status FROM unnest('{quota_v,quota_twin}'::text[]) d;
SELECT * FROM pg_temp.scan_both(10, 5);
SELECT entity, status, points FROM anomaly.alerts WHERE detector = 'quota_v' ORDER BY substr(entity, 2)::int;
SELECT status, problem, reason, hint, since IS NOT NULL AS since FROM anomaly.health WHERE name = 'quota_v';
SELECT * FROM pg_temp.scan_both(20, 5);
SELECT * FROM pg_temp.scan_both(40, -1);
SELECT problem FROM anomaly.health WHERE name = 'quota_v';
-- what had ended before there was room is missing, and nothing else; nothing is there twice
SELECT entity, t.at - pg_temp.at(0) AS began, t.points FROM anomaly.alerts t WHERE detector = 'quota_twin'
   AND NOT EXISTS (SELECT FROM anomaly.alerts a WHERE a.detector = 'quota_v' AND (a.entity, a.at, a.last_at, a.points, a.status, a.deviation, a.peak_at, a.expected, a.resolved_at) IS NOT DISTINCT FROM
       (t.entity, t.at, t.last_at, t.points, t.status, t.deviation, t.peak_at, t.expected, t.resolved_at)) ORDER BY substr(entity, 2)::int;
SELECT count(*), count(DISTINCT (entity, at)), count(description) FROM anomaly.alerts WHERE detector = 'quota_v';
-- the states have seen everything
SELECT count(DISTINCT (points_processed, anomalies_detected)) AS same FROM anomaly.detectors WHERE detector IN ('quota_v', 'quota_twin');

-- fault_m5_scan_memory: a scan that takes more than it may ends, and nothing has changed
SELECT anomaly.create_detector('data_outlier', 'auto', 'v', source => 'SELECT now() - i * interval ''1 minute'' AS at, ''e'' || e AS entity, i % 13 AS v FROM generate_series(0, 30) i, generate_series(1, 600) e',
       value => 'v', at => 'at', entity => 'entity', settle => '0 s', min_data_points => 2, name => 'quota_memory');
SELECT status FROM anomaly.train('quota_memory');
SELECT watermark AS watermark FROM anomaly.detectors WHERE detector = 'quota_memory' \gset
SET anomaly_detection.scan_memory = '1MB';
SELECT helper.attempt($$SELECT anomaly.scan('quota_memory')$$);
RESET anomaly_detection.scan_memory;
SELECT watermark = :'watermark' AS not_moved FROM anomaly.detectors WHERE detector = 'quota_memory';

-- fault_a9_payload: refused before it is read
SET anomaly_detection.max_payload = '1kB';
SELECT helper.attempt(format(c, repeat('x', 2000))) FROM unnest(ARRAY[
    $$SELECT anomaly.process_data_point('{"m": 1, "entity_id": "%s"}')$$, $$SELECT anomaly.process_batch('[{"m": 1, "entity_id": "%s"}]'::jsonb)$$,
    $$SELECT anomaly.process_batch('[{"m": 1, "entity_id": "%s"}]'::text)$$, $$SELECT anomaly.process_data('data_outlier', '{"m": 1, "n": "%s"}')$$,
    $$SELECT anomaly.train('quota_v', rows => '[{"v": "%s"}]')$$, $$SELECT anomaly.submit('train', '{"detector": "%s"}')$$]) c;
SELECT helper.attempt($$SELECT anomaly.process_data_point('{"m": 1}')$$);
-- compressed or not, it is as large
CREATE TEMP TABLE quota_point AS SELECT jsonb_build_object('m', 1, 'entity_id', repeat('x', 2000)) AS point;
SELECT pg_column_size(point) < 1000 AS is_small, helper.attempt('SELECT anomaly.process_data_point(point) FROM quota_point') FROM quota_point;
SET anomaly_detection.max_payload = -1;
SELECT helper.attempt(format($$SELECT anomaly.process_data_point('{"m": 1, "entity_id": "%s"}')$$, repeat('x', 2000)));
RESET anomaly_detection.max_payload;

SELECT count(anomaly.drop_detector(detector)) AS dropped FROM anomaly.detectors WHERE detector ~ '^quota_';
DELETE FROM anomaly.alert WHERE detector ~ '^quota_';
DROP TABLE quota_reading, quota_clock;
DROP OWNED BY quota_owner;
DROP ROLE quota_owner;
RESET client_min_messages;
