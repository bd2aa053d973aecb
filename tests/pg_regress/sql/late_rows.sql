-- Rows of the late_window that come after the scan that passed them, or change: they are judged as if they had been there in
-- time. settle puts the clock of each detector where the test wants it.
SET TIME ZONE 'UTC';

CREATE TABLE late_clock AS SELECT date_trunc('day', now()) - interval '20 hours' AS zero;
CREATE FUNCTION pg_temp.set_clock(minute int) RETURNS bigint LANGUAGE sql AS $$
    WITH moved AS (UPDATE anomaly.detector SET settle = clock_timestamp() - zero - minute * interval '1 minute' FROM late_clock WHERE detector ~ '^late_' RETURNING 1) SELECT count(*) FROM moved $$;
CREATE FUNCTION pg_temp.minute(at timestamptz) RETURNS int LANGUAGE sql AS $$ SELECT extract(epoch FROM at - zero)::int / 60 FROM late_clock $$;
CREATE FUNCTION pg_temp.scan(name text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    run bigint;
BEGIN
    SELECT run_id INTO run FROM anomaly.scan(name);
    RETURN (SELECT format('%s rows, %s points, %s opened, %s resolved; again %s entities: %s amended, %s withdrawn', rows_read, points_scored,
                          alerts_opened, alerts_resolved, entities_replayed, alerts_amended, alerts_withdrawn) FROM anomaly.runs WHERE run_id = run);
END $$;
-- The first one is shown, the others are compared with their twins at the end.
CREATE FUNCTION pg_temp.scan() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_temp.scan(detector) FROM anomaly.detectors WHERE detector ~ '^late_' AND detector !~ '_twin$|^late_z$' ORDER BY detector;
    RETURN pg_temp.scan('late_z');
END $$;
CREATE VIEW late_alert AS
SELECT entity, row_number() OVER (ORDER BY id) AS nr, status, extract(epoch FROM at - zero)::int / 60 AS first, extract(epoch FROM last_at - zero)::int / 60 AS last, points,
       extract(epoch FROM peak_at - zero)::int / 60 AS peak, value, substring(description FROM '[0-9]+') AS described, extract(epoch FROM resolved_at - zero)::int / 60 AS resolved
  FROM anomaly.alerts, late_clock WHERE detector = 'late_z';

-- Three sensors, a value a minute.
CREATE FUNCTION pg_temp.usual(minute int, sensor text) RETURNS double precision LANGUAGE sql AS $$ SELECT 100 * (ascii(sensor) - 96) + (minute + 400) * 7919 % 101 / 25.0 $$;
CREATE TABLE meter (minute int, at timestamptz, sensor text, v double precision);
CREATE FUNCTION pg_temp.measure(first int, last int) RETURNS void LANGUAGE sql AS $$
    INSERT INTO meter SELECT i, zero + i * interval '1 minute' + interval '30 seconds', s, pg_temp.usual(i, s) FROM late_clock, generate_series(first, last) i, unnest('{a,b,c}'::text[]) s $$;
SELECT pg_temp.measure(-300, -1);

SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', source => 'meter', value => 'v', at => 'at', entity => 'sensor', training_window => '10 hours', threshold => 6, late_window => w, name => n)
  FROM (VALUES ('late_z', interval '1 hour'), ('late_z_twin', '0')) d (n, w);
SELECT anomaly.create_detector('data_outlier', s, 'v', source => 'meter', value => 'v', at => 'at', entity => 'sensor', training_window => '10 hours', alerts_per_day => 20, late_window => w, name => 'late_' || s || n)
  FROM unnest('{mad,ewma,seasonal,auto}'::text[]) s, (VALUES ('', interval '1 hour'), ('_twin', '0')) d (n, w) ORDER BY 1;
SELECT anomaly.create_detector('data_volume', 'mad', 'n', source => 'meter', at => 'at', entity => 'sensor', bucket => '5 minutes', aggregate => 'count', training_window => '10 hours', late_window => w, name => 'late_count' || n)
  FROM (VALUES ('', interval '1 hour'), ('_twin', '0')) d (n, w) ORDER BY 1;
SELECT anomaly.create_detector('data_missing', 'mad', 'v', source => 'meter', value => 'v', at => 'at', entity => 'sensor', bucket => '1 minute', on_missing => rule, fire_after => 2, training_window => '10 hours', late_window => w, name => 'late_' || rule || n)
  FROM unnest('{anomaly,interpolate,previous}'::text[]) rule, (VALUES ('', interval '1 hour'), ('_twin', '0')) d (n, w) ORDER BY 1;
-- Alerts that are opened again: what comes late splits one, joins two, or ends a cool-down.
SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', source => 'meter', value => 'v', at => 'at', entity => 'sensor', training_window => '10 hours', threshold => 6, clear_after => 1, cool_down => '45 minutes', late_window => w, name => 'late_cool' || n)
  FROM (VALUES ('', interval '1 hour'), ('_twin', '0')) d (n, w) ORDER BY 1;
SELECT pg_temp.set_clock(0);
SELECT d.detector, t.status, t.trained_rows FROM anomaly.detectors d, anomaly.train(d.detector) t WHERE d.detector ~ '^late_' ORDER BY d.detector COLLATE "C";

-- Of a, minute 20 has not come; b has a wrong value at 10; c has a spike at 12 to 14; a is in an episode when the scan comes.
SELECT pg_temp.measure(0, 29);
DELETE FROM meter WHERE sensor = 'a' AND minute = 20;
UPDATE meter SET v = 900 WHERE sensor = 'b' AND minute = 10;
UPDATE meter SET v = 380 + minute WHERE sensor = 'c' AND minute BETWEEN 12 AND 14;
UPDATE meter SET v = 600 WHERE sensor = 'a' AND minute = 29;
SELECT pg_temp.set_clock(30);
SELECT pg_temp.scan();
SELECT * FROM late_alert ORDER BY nr;
SELECT pg_temp.scan();

-- A row comes late, with a spike that nobody saw; a value is corrected; a scan that is rolled back leaves nothing.
INSERT INTO meter SELECT 20, zero + interval '20 minutes 30 seconds', 'a', 500 FROM late_clock;
UPDATE meter SET v = 201 WHERE sensor = 'b' AND minute = 10;
BEGIN;
SELECT pg_temp.scan();
ROLLBACK;
SELECT entity, nr, status FROM late_alert ORDER BY nr;
SELECT pg_temp.scan();
SELECT * FROM late_alert ORDER BY nr;
-- Twice in a row, and nothing twice.
SELECT pg_temp.scan();
SELECT pg_temp.scan();
SELECT count(*) FROM late_alert;

-- The correction was wrong: the alert is there again, the same one. The peak of c was even higher, and began earlier.
UPDATE meter SET v = 900 WHERE sensor = 'b' AND minute = 10;
UPDATE meter SET v = 450 WHERE sensor = 'c' AND minute = 13;
UPDATE meter SET v = 370 WHERE sensor = 'c' AND minute = 11;
SELECT pg_temp.scan();
SELECT * FROM late_alert ORDER BY nr;

-- Acknowledged meanwhile, an open alert stays so. The episode of a goes on, then is over.
UPDATE anomaly.alert SET status = 'acknowledged' WHERE detector = 'late_z' AND entity = 'a' AND status = 'open';
UPDATE meter SET v = 610 WHERE sensor = 'a' AND minute = 29;
SELECT pg_temp.scan();
SELECT * FROM late_alert WHERE status = 'acknowledged';
SELECT pg_temp.measure(30, 69);
UPDATE meter SET v = 620 WHERE sensor = 'a' AND minute = 30;
SELECT pg_temp.set_clock(70);
SELECT pg_temp.scan();
SELECT * FROM late_alert ORDER BY nr;

-- That a moment later c had no incident at all: its rows are taken back, and come back as one that is split in two.
DELETE FROM meter WHERE sensor = 'c' AND minute BETWEEN 11 AND 14;
SELECT pg_temp.scan();
SELECT * FROM late_alert WHERE entity = 'c';
INSERT INTO meter SELECT i, zero + i * interval '1 minute' + interval '30 seconds', 'c', CASE WHEN i IN (8, 9, 14, 15) THEN 400 + i ELSE pg_temp.usual(i, 'c') END FROM late_clock, generate_series(8, 15) i;
DELETE FROM meter WHERE sensor = 'c' AND v < 400 AND minute IN (8, 9, 15);
SELECT pg_temp.scan();
SELECT * FROM late_alert WHERE entity = 'c' ORDER BY nr;

-- An entity of which everything comes late.
INSERT INTO meter SELECT i, zero + i * interval '1 minute' + interval '30 seconds', 'd', pg_temp.usual(i, 'd') FROM late_clock, generate_series(25, 69) i;
SELECT pg_temp.scan();
SELECT entity, status, points FROM anomaly.explain_detector('late_z') WHERE entity = 'd';

-- Over the next checkpoints, at 90 and 150, which are made anew when the past before them changes.
SELECT pg_temp.measure(70, 99);
SELECT pg_temp.set_clock(100);
SELECT pg_temp.scan();
UPDATE meter SET v = 700 WHERE sensor = 'b' AND minute IN (60, 95);
SELECT pg_temp.scan();
SELECT pg_temp.measure(100, 159);
SELECT pg_temp.set_clock(160);
SELECT pg_temp.scan();
UPDATE meter SET v = v + 80 WHERE sensor = 'b' AND minute IN (94, 155);
INSERT INTO meter SELECT 130, zero + interval '130 minutes 31 seconds', 'a', 333 FROM late_clock;
SELECT pg_temp.scan();
SELECT pg_temp.scan();
SELECT * FROM late_alert ORDER BY nr;
SELECT detector, count(DISTINCT at) AS checkpoints, min(pg_temp.minute(at)) AS oldest FROM anomaly.checkpoint WHERE detector ~ '^late_' GROUP BY 1 ORDER BY detector COLLATE "C";

-- Whatever else happens to the last fifty minutes while time goes on: rows that vanish, change, come twice, lose their value.
CREATE FUNCTION pg_temp.wander(step int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    clock CONSTANT int := 160 + 7 * step;
    h bigint;
    m int;
    s text;
BEGIN
    PERFORM pg_temp.measure(clock - 7, clock - 1), pg_temp.set_clock(clock);
    FOR i IN 1 .. 3 LOOP
        h := hashint4(step * 10 + i)::bigint + 2147483648;
        m := clock - 1 - h % 50;
        s := chr(97 + (h / 50 % 4)::int);
        CASE h / 200 % 5
            WHEN 0 THEN DELETE FROM meter WHERE minute BETWEEN m - 2 AND m AND sensor = s;
            WHEN 1 THEN UPDATE meter SET v = NULL WHERE minute = m AND sensor = s;
            WHEN 2 THEN INSERT INTO meter SELECT m, zero + m * interval '1 minute' + interval '31 seconds', s, pg_temp.usual(m, s) + h % 7 * 20 FROM late_clock;
            ELSE UPDATE meter SET v = pg_temp.usual(minute, s) + h % 3 * 60 WHERE minute BETWEEN m - 3 AND m AND sensor = s;
        END CASE;
    END LOOP;
    PERFORM pg_temp.scan();
END $$;
DO $$ BEGIN FOR step IN 1 .. 40 LOOP PERFORM pg_temp.wander(step); COMMIT; END LOOP; END $$;
SELECT count(*) > 50 AS replayed, sum(alerts_amended) > 10 AS amended, sum(alerts_withdrawn) > 10 AS withdrawn, sum(alerts_opened) > 10 AS opened, max(entities_replayed) AS at_most
  FROM anomaly.runs WHERE detector ~ '^late_' AND entities_replayed > 0;

-- All of it is what one scan gives that sees everything in time.
SELECT pg_temp.set_clock(440);
SELECT count(pg_temp.scan(detector)) FROM anomaly.detectors WHERE detector ~ '^late_.*_twin$';
SELECT count(pg_temp.scan(detector)) FROM anomaly.detectors WHERE detector ~ '^late_' AND detector !~ '_twin$';
CREATE VIEW late_result AS SELECT regexp_replace(detector, '_twin$', '') AS detector, detector ~ '_twin$' AS is_twin, concat_ws(' ', entity, at, last_at, points, peak_at, value, expected, lower, upper, deviation, score,
       p_value, severity, direction, replace(status, 'acknowledged', 'open'), resolved_at, reopened, flapping, description, suggestion, metadata) AS said FROM anomaly.alerts WHERE detector ~ '^late_' AND status <> 'withdrawn'
UNION ALL
SELECT regexp_replace(detector, '_twin$', ''), detector ~ '_twin$', concat_ws(' ', 'state', entity, md5(payload)) FROM anomaly.entity_state s WHERE detector ~ '^late_'
   AND NOT EXISTS (SELECT FROM anomaly.alerts a WHERE a.detector = s.detector AND COALESCE(a.entity, '') = s.entity 
      -- a state holds the number of its alert while that is open or may be opened again
      AND (a.status IN ('open', 'acknowledged') OR s.detector ~ '^late_cool' AND pg_temp.minute(a.resolved_at) > 390));
SELECT detector, count(*) FILTER (WHERE said !~ '^state') > 0 AS has_alerts, count(*) FILTER (WHERE said ~ '^state') > 0 AS has_states FROM late_result WHERE is_twin GROUP BY 1 ORDER BY detector COLLATE "C";
SELECT detector, is_twin, said FROM late_result l WHERE NOT EXISTS (SELECT FROM late_result o WHERE o.detector = l.detector AND o.is_twin <> l.is_twin AND o.said = l.said) ORDER BY 1, 3, 2;
SELECT max(reopened) > 2 AS reopened, bool_or(flapping) AS flapping FROM anomaly.alerts WHERE detector = 'late_cool' AND status <> 'withdrawn';
SELECT d.detector, d.points_processed = t.points_processed AS all_counted FROM anomaly.detectors d JOIN anomaly.detectors t ON t.detector = d.detector || '_twin' WHERE d.detector IN ('late_z', 'late_mad') ORDER BY 1;

-- What is older than the oldest checkpoint is not looked at any more.
INSERT INTO meter SELECT 5, zero + interval '5 minutes 31 seconds', 'a', 999 FROM late_clock;
SELECT pg_temp.scan();
-- Retrained, a detector begins anew: its baseline has seen what came late before.
SELECT status FROM anomaly.train('late_z');
SELECT pg_temp.scan('late_z');
SELECT version, count(DISTINCT at) FROM anomaly.checkpoint WHERE detector = 'late_z' GROUP BY 1;

SELECT anomaly.watch('meter', entity => 'sensor', late_window => '-1 s', strategy => 'mad');
SELECT anomaly.watch('meter', entity => 'sensor', late_window => NULL, strategy => 'mad');
SELECT anomaly.create_detector('data_outlier', 'mad', 'v', late_window => '1 hour');
SELECT anomaly.drop_detector(detector) FROM anomaly.detectors WHERE detector ~ '^late_' ORDER BY detector COLLATE "C";
SELECT count(*) FROM anomaly.checkpoint;
-- Other files count alerts and runs.
DELETE FROM anomaly.alert WHERE detector ~ '^late_';
DELETE FROM anomaly.run WHERE detector ~ '^late_';
ALTER SEQUENCE anomaly.alert_id_seq RESTART;
-- Resolved by hand, an alert stays resolved when its points are judged again, and what came after it keeps its own.
TRUNCATE meter;
SELECT pg_temp.measure(-300, 29);
SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', source => 'meter', value => 'v', at => 'at', entity => 'sensor', training_window => '10 hours', threshold => 6, late_window => '1 hour', name => 'late_hand');
SELECT pg_temp.set_clock(0);
SELECT status FROM anomaly.train('late_hand');
UPDATE meter SET v = 600 + minute WHERE sensor = 'a' AND minute BETWEEN 20 AND 29;
SELECT pg_temp.set_clock(30);
SELECT pg_temp.scan('late_hand');
SELECT anomaly.resolve(id) FROM anomaly.alerts WHERE detector = 'late_hand';
SELECT pg_temp.measure(30, 39);
UPDATE meter SET v = 600 + minute WHERE sensor = 'a' AND minute BETWEEN 30 AND 33;
SELECT pg_temp.set_clock(40);
SELECT pg_temp.scan('late_hand');
CREATE VIEW late_by_hand AS SELECT row_number() OVER (ORDER BY id) AS nr, status, resolved_by IS NOT NULL AS by_hand, pg_temp.minute(at) AS first, pg_temp.minute(last_at) AS last, points, value FROM anomaly.alerts WHERE detector = 'late_hand';
SELECT * FROM late_by_hand ORDER BY nr;
UPDATE meter SET v = 900 WHERE sensor = 'a' AND minute IN (25, 32);
SELECT pg_temp.scan('late_hand');
SELECT * FROM late_by_hand ORDER BY nr;
SELECT anomaly.drop_detector('late_hand');
DELETE FROM anomaly.alert WHERE detector = 'late_hand';
DELETE FROM anomaly.run WHERE detector = 'late_hand';
ALTER SEQUENCE anomaly.alert_id_seq RESTART;
DROP VIEW late_by_hand;
DROP VIEW late_result, late_alert;
DROP TABLE meter, late_clock;
