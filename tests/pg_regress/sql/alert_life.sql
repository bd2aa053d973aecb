-- What becomes of an alert after it has opened: it escalates, ends, is opened again, flaps, and settles.
SET TIME ZONE 'UTC';
SELECT anomaly.create_detector('system_cpu', 'zscore', 'life', threshold => 3, min_data_points => 50, clear_after => 1, cool_down => '10 minutes', name => 'life');
CREATE TABLE life_clock AS SELECT date_trunc('hour', now()) - interval '2 hours' AS zero;
-- The value at a minute; what it did to the latest alert.
CREATE FUNCTION pg_temp.feed(minute int, value float8, entity text DEFAULT 'a') RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM anomaly.process_data_point(jsonb_build_object('life', value, 'entity_id', entity, 'timestamp', zero + minute * interval '1 minute')) FROM life_clock;
    RETURN (SELECT concat_ws(' ', count(*) OVER (), status, severity, points || ' points', 'peak ' || a.value, NULLIF(reopened, 0) || ' times again', CASE WHEN flapping THEN 'flapping' END, CASE WHEN resolved_by IS NULL THEN 'after ' || duration END)
              FROM anomaly.alerts a WHERE a.detector = 'life' AND a.entity = $3 ORDER BY id DESC LIMIT 1);
END $$;
SELECT count(pg_temp.feed(i, 52 + ((i + 200) * 7919 % 101 - 50) ^ 3 / 12500.0, e)) AS alerts FROM generate_series(-90, -1) i, unnest('{a,b}'::text[]) e;

-- The severity rises within one alert.
SELECT pg_temp.feed(0, 66);
SELECT pg_temp.feed(1, 90);
SELECT pg_temp.feed(2, 52);
-- check_c39_cool_down: what comes within it is the same alert, what comes later another one
SELECT pg_temp.feed(10, 80);
SELECT pg_temp.feed(11, 95);
SELECT pg_temp.feed(12, 52);
SELECT pg_temp.feed(23, 80);
SELECT pg_temp.feed(24, 52);
-- From the third time on it is flapping, until it has been quiet for the cool-down.
SELECT m, pg_temp.feed(m, CASE m % 2 WHEN 0 THEN 52 ELSE 80 END) FROM generate_series(25, 32) m;
SELECT pg_temp.feed(42, 52);
SELECT pg_temp.feed(43, 52);
-- Trained anew, an episode and its cool-down go on.
SELECT pg_temp.feed(44, 80, 'b');
SELECT pg_temp.feed(45, 52, 'b');
SELECT status FROM anomaly.train('life');
SELECT pg_temp.feed(46, 80, 'b');
SELECT pg_temp.feed(47, 52, 'b');

-- check_c39_acknowledged_and_resolved: by hand, each once; an anomalous point after that opens another alert
CREATE FUNCTION pg_temp.latest() RETURNS bigint LANGUAGE sql AS $$ SELECT max(id) FROM anomaly.alerts WHERE detector = 'life' $$;
SELECT pg_temp.feed(60, 80);
SELECT anomaly.acknowledge(pg_temp.latest(), 'on it'), anomaly.acknowledge(pg_temp.latest()), anomaly.acknowledge(pg_temp.latest(), note => 'still on it');
SELECT pg_temp.feed(61, 99);
SELECT status, acknowledged_at >= raised_at AS acknowledged, acknowledged_by = current_user AS by_me, note, duration FROM anomaly.alerts WHERE id = pg_temp.latest();
SELECT anomaly.resolve(pg_temp.latest(), 'fixed'), anomaly.resolve(pg_temp.latest()), anomaly.acknowledge(pg_temp.latest());
SELECT status, resolved_by = current_user AS by_me, note, duration > '0' AS lasted FROM anomaly.alerts WHERE id = pg_temp.latest();
SELECT pg_temp.feed(62, 99);
-- Opened again, an alert wants to be acknowledged again.
SELECT anomaly.acknowledge(pg_temp.latest());
SELECT pg_temp.feed(63, 52);
SELECT pg_temp.feed(64, 99);
SELECT anomaly.resolve(alert => pg_temp.latest());
SELECT pg_temp.feed(65, 52);
SELECT pg_temp.feed(66, 99);

-- Whose alert it is.
CREATE ROLE life_stranger;
CREATE ROLE life_looker IN ROLE anomaly_monitor;
CREATE ROLE life_admin IN ROLE anomaly_admin;
GRANT SELECT ON life_clock TO life_stranger, life_looker, life_admin;
CREATE TABLE life_latest AS SELECT pg_temp.latest() AS id;
GRANT SELECT ON life_latest TO PUBLIC;
SET ROLE life_stranger;
SELECT anomaly.acknowledge(id) FROM life_latest;
SELECT anomaly.resolve(id) FROM life_latest;
SET ROLE life_looker;
SELECT anomaly.acknowledge(id) FROM life_latest;
SELECT anomaly.resolve(id) FROM life_latest;
SET ROLE life_admin;
SELECT anomaly.acknowledge(id), anomaly.resolve(id) FROM life_latest;
SELECT status, acknowledged_by, resolved_by FROM anomaly.alerts WHERE id = (SELECT id FROM life_latest);
RESET ROLE;
DROP TABLE life_latest;
DROP OWNED BY life_stranger, life_looker, life_admin;
DROP ROLE life_stranger, life_looker, life_admin;
SELECT anomaly.acknowledge(-1);
SELECT anomaly.resolve(9000000000000000000);
SELECT anomaly.acknowledge(NULL);
SELECT anomaly.resolve(NULL, 'x');

SELECT anomaly.watch('SELECT zero AS at, 1 AS v FROM life_clock', cool_down => '-1 s', strategy => 'mad');
SELECT anomaly.create_detector('system_cpu', 'zscore', 'x', cool_down => '-1 s');
SELECT anomaly.create_detector('system_cpu', 'zscore', 'x', cool_down => NULL);
SELECT cool_down FROM anomaly.detectors WHERE detector = 'life';

SELECT anomaly.drop_detector('life');
-- Other files count alerts.
DELETE FROM anomaly.alert WHERE detector = 'life';
ALTER SEQUENCE anomaly.alert_id_seq RESTART;
DELETE FROM anomaly.sample WHERE metric = 'life';
DROP TABLE life_clock;
