-- Why there was no alert, or which one: what decided, in order, with the figures as they were judged.
SET TIME ZONE 'UTC';
CREATE TABLE why_clock AS SELECT date_trunc('day', now()) - interval '40 hours' AS zero;
CREATE FUNCTION pg_temp.set_clock(minute int) RETURNS void LANGUAGE sql AS $$
    UPDATE anomaly.detector SET settle = clock_timestamp() - zero - minute * interval '1 minute' FROM why_clock WHERE detector ~ '^why_' $$;
CREATE FUNCTION pg_temp.at(minute int) RETURNS timestamptz LANGUAGE sql STABLE AS $$ SELECT zero + minute * interval '1 minute' + interval '10 seconds' FROM why_clock $$;
-- The reasons, with times as minutes and numbers of alerts as how manieth of the detector.
CREATE FUNCTION pg_temp.why(detector text, minute int, host text DEFAULT 'a') RETURNS TABLE (reason text, figures text) LANGUAGE sql AS $$
    SELECT w.reason, (SELECT string_agg(key || ' ' || CASE WHEN f.value ~ '^\d{4}-\d\d-\d\dT' THEN 'minute ' || floor(extract(epoch FROM f.value::timestamptz - zero) / 60)
                                                           WHEN key = 'alert' THEN (SELECT count(*)::text FROM anomaly.alerts a WHERE a.detector = $1 AND a.id <= f.value::bigint)
                                                           WHEN f.value ~ '^[0-9.e-]+$' THEN round(f.value::numeric, 2)::text ELSE f.value END, ', ' ORDER BY key)
                        FROM jsonb_each_text(w.figures) f WHERE key NOT IN ('lower', 'upper', 'deviation', 'expected', 'p_value', 'created_at', 'updated_at', 'trained_at', 'run', 'calendar', 'last_at', 'next_due', 'alerts_above', 'alerts_below') AND f.value IS NOT NULL)
      FROM anomaly.why_not($1, pg_temp.at($2), $3) w, why_clock ORDER BY w.rank $$;
CREATE TABLE why AS
SELECT pg_temp.at(i) AS at, h AS host,
       CASE WHEN (h, i) IN (('a', 50), ('a', 450), ('a', 451), ('b', 455), ('a', 520)) THEN 100
            WHEN h = 'b' AND i BETWEEN 130 AND 160 THEN 80 + i % 7
            WHEN (h, i) = ('a', 222) THEN '-20' WHEN (h, i) = ('b', 333) THEN 'Infinity' WHEN (h, i) = ('b', 340) THEN 'NaN' WHEN (h, i) = ('b', 350) THEN NULL
            WHEN (h, i) = ('c', 590) THEN 500
            ELSE 40 + 10 * sin(i * pi() / 60) + (i + 900) * 7919 % 101 / 25.0 + (i + 900) * 104729 % 103 / 25.0 END::float8 AS v
  FROM generate_series(-900, 599) i, unnest('{a,b,c}'::text[]) h WHERE (h <> 'c' OR i > 570) AND (h, i) <> ('a', 400);

SELECT anomaly.create_detector('data_outlier', s, 'v', source => 'why', value => 'v', at => 'at', entity => 'host', training_window => '15 hours', alerts_per_day => 5, fire_after => f, name => 'why_' || s)
  FROM (VALUES ('zscore', 1), ('mad', 2), ('seasonal', 1)) s (s, f);
SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', source => 'why', value => 'v', at => 'at', entity => 'host', training_window => '15 hours', alerts_per_day => 5, direction => 'above', min_effect => 55, max_entities => 2, name => 'why_above');
SELECT anomaly.create_detector('data_volume', 'mad', 'v', source => 'why', value => 'v', at => 'at', entity => 'host', bucket => '5 minutes', aggregate => 'max', training_window => '14 hours 57.5 minutes', alerts_per_day => 5, on_missing => 'anomaly', name => 'why_bucket');
SELECT pg_temp.set_clock(0);
SELECT d.detector, t.status, t.trained_rows FROM anomaly.detectors d, anomaly.train(d.detector) t WHERE d.detector ~ '^why_' ORDER BY 1;
DO $$
BEGIN
    FOR minute IN 60..600 BY 60 LOOP
        IF minute = 540 THEN
            PERFORM anomaly.add_calendar('sale', pg_temp.at(519), '2 minutes', detector => 'why_zscore');
            PERFORM anomaly.silence(tstzrange(pg_temp.at(519), pg_temp.at(521)), detector => 'why_seasonal', reason => 'works');
        END IF;
        PERFORM pg_temp.set_clock(minute);
        PERFORM anomaly.scan(detector) FROM anomaly.detectors WHERE detector ~ '^why_' ORDER BY detector;
        IF minute = 60 THEN
            PERFORM anomaly.feedback(id, 'false_positive') FROM anomaly.alerts WHERE detector = 'why_above' AND value = 100;
        END IF;
        IF minute = 300 THEN
            PERFORM anomaly.train('why_mad');
        END IF;
        COMMIT;
    END LOOP;
END $$;
SELECT detector, count(*) FROM anomaly.alerts WHERE detector ~ '^why_' GROUP BY 1 ORDER BY 1;
CREATE TABLE why_left AS SELECT count(*) AS alerts FROM anomaly.alert;

-- The peak of each alert was judged with the figures that it says, to the last bit; each is found again.
SELECT detector, count(*) AS alerts, count(*) FILTER (WHERE w.value = a.value AND w.expected = a.expected AND w.lower = a.lower AND w.upper = a.upper AND w.deviation = a.deviation) AS same
  FROM anomaly.alerts a,
       LATERAL (SELECT (max(figures ->> 'value') FILTER (WHERE reason = 'anomalous'))::float8 AS value, (max(figures ->> 'expected') FILTER (WHERE reason = 'anomalous'))::float8 AS expected,
                       (max(figures ->> 'lower') FILTER (WHERE reason = 'anomalous'))::float8 AS lower, (max(figures ->> 'upper') FILTER (WHERE reason = 'anomalous'))::float8 AS upper,
                       (max(figures ->> 'deviation') FILTER (WHERE reason = 'anomalous'))::float8 AS deviation, max(figures ->> 'alert')::bigint AS alert FROM anomaly.why_not(a.detector, a.peak_at, a.entity)) w
 WHERE detector ~ '^why_(zscore|mad|seasonal|above)' AND w.alert = a.id GROUP BY 1 ORDER BY 1;
-- Each reason, in order.
SELECT * FROM pg_temp.why('why_zscore', 40);
SELECT * FROM pg_temp.why('why_zscore', 50);
SELECT * FROM pg_temp.why('why_zscore', 52);
SELECT * FROM pg_temp.why('why_mad', 50);
SELECT * FROM pg_temp.why('why_mad', 451);
SELECT * FROM pg_temp.why('why_above', 222);
SELECT * FROM pg_temp.why('why_above', 140, 'b');
SELECT * FROM pg_temp.why('why_above', 450);
SELECT * FROM pg_temp.why('why_zscore', 520);
SELECT * FROM pg_temp.why('why_seasonal', 520);
SELECT * FROM pg_temp.why('why_zscore', 333, 'b');
SELECT * FROM pg_temp.why('why_zscore', 340, 'b');
SELECT * FROM pg_temp.why('why_zscore', 350, 'b');
SELECT * FROM pg_temp.why('why_zscore', 400);
SELECT * FROM pg_temp.why('why_zscore', 590, 'c');
SELECT * FROM pg_temp.why('why_above', 590, 'c');
SELECT * FROM pg_temp.why('why_zscore', 590, 'nobody');
SELECT * FROM pg_temp.why('why_zscore', -100);
SELECT * FROM pg_temp.why('why_bucket', 222);
SELECT * FROM pg_temp.why('why_bucket', 300, 'c');
SELECT reason, regexp_replace(explanation, 'alert \d+', 'alert n') AS explanation FROM anomaly.why_not('why_zscore', pg_temp.at(50), 'a') ORDER BY rank;
-- What it would have taken: just beyond what it says there is an alert, just within there is none.
CREATE TEMP TABLE bound AS SELECT (figures ->> 'alerts_above')::float8 AS above, (figures ->> 'alerts_below')::float8 AS below FROM anomaly.why_not('why_zscore', pg_temp.at(40), 'a') WHERE reason = 'within_bounds';
CREATE FUNCTION pg_temp.with_value(v float8) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    UPDATE why SET v = $1 WHERE host = 'a' AND at = pg_temp.at(40);
    RETURN (SELECT string_agg(reason, ', ' ORDER BY rank) FROM anomaly.why_not('why_zscore', pg_temp.at(40), 'a'));
END $$;
SELECT pg_temp.with_value(above + 0.001) AS above, pg_temp.with_value(above - 0.001) AS not_above, pg_temp.with_value(below - 0.001) AS below, pg_temp.with_value(below + 0.001) AS not_below FROM bound;
-- A row that comes after the scan that passed its time.
INSERT INTO why VALUES (pg_temp.at(400), 'a', 100);
SELECT * FROM pg_temp.why('why_zscore', 400);
-- The last point of a long file that is not scanned yet, and a detector that does not run.
INSERT INTO why SELECT pg_temp.at(i), 'a', CASE i WHEN 610 THEN 100 ELSE 45 END FROM generate_series(600, 620) i;
SELECT * FROM pg_temp.why('why_zscore', 610);
SELECT anomaly.disable('why_zscore');
SELECT * FROM pg_temp.why('why_zscore', 605);
SELECT reason FROM pg_temp.why('why_zscore', 50);
SELECT anomaly.pause();
SELECT reason FROM pg_temp.why('why_mad', 605);
SELECT anomaly.resume();
SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', source => 'why', value => 'v', at => 'at', entity => 'host', name => 'why_new');
SELECT * FROM pg_temp.why('why_new', 50);
-- Points that were brought.
SELECT anomaly.create_detector('data_outlier', 'zscore', 'brought', threshold => 4, min_data_points => 20, name => 'why_brought');
SELECT count(*) FROM generate_series(1, 60) i, anomaly.process_data_point(jsonb_build_object('brought', CASE i WHEN 50 THEN 99 ELSE i % 7 END, 'timestamp', pg_temp.at(i))) p;
SELECT anomaly.train('why_brought') IS NOT NULL AS trained;
SELECT count(*) FROM generate_series(61, 80) i, anomaly.process_data_point(jsonb_build_object('brought', CASE i WHEN 70 THEN 99 ELSE i % 7 END, 'timestamp', pg_temp.at(i))) p;
SELECT * FROM pg_temp.why('why_brought', 70, NULL);
SELECT * FROM pg_temp.why('why_brought', 72, NULL);
-- Nothing is left of it.
SELECT count(*) AS copies FROM anomaly.detector WHERE detector ~ 'backend';
SELECT count(*) - alerts AS brought FROM anomaly.alert, why_left GROUP BY alerts;

SELECT helper.attempt(command) FROM unnest(ARRAY[
    'SELECT anomaly.why_not(''why_nothing'', now())', 'SELECT anomaly.why_not(NULL, now())', 'SELECT anomaly.why_not(''why_zscore'', NULL)',
    'SELECT anomaly.why_not(''why_zscore'', ''infinity'', ''a'')', 'SELECT anomaly.why_not(''why_zscore'', ''-infinity'', ''a'')', 'SELECT anomaly.why_not(''why_zscore'', now() + interval ''1 day'', ''a'')',
    'SELECT anomaly.why_not(''why_zscore'', now())']) command;
CREATE ROLE why_stranger;
CREATE ROLE why_member;
GRANT anomaly_monitor TO why_member;
SET ROLE why_stranger;
SELECT helper.attempt('SELECT anomaly.why_not(''why_zscore'', now(), ''a'')');
SET ROLE why_member;
SELECT helper.attempt('SELECT anomaly.why_not(''why_zscore'', now(), ''a'')');
RESET ROLE;
SELECT count(anomaly.drop_detector(detector)) FROM anomaly.detectors WHERE detector ~ '^why_';
SELECT count(anomaly.drop_calendar(id)) FROM anomaly.calendars;
DROP TABLE why, why_left, why_clock;
DROP ROLE why_stranger, why_member;
DELETE FROM anomaly.alert WHERE detector ~ '^why_';
DELETE FROM anomaly.sample WHERE metric = 'brought';
TRUNCATE anomaly.judgement;
TRUNCATE anomaly.alert;
SELECT setval('anomaly.alert_id_seq', 1, false);
