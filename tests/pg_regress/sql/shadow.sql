-- A shadow judges what its detector judges and tells nobody; the two are compared by the same labels. Each scan is the one
-- that a worker does; settle puts the clock where the test wants it.
SET TIME ZONE 'UTC';
CREATE TABLE trial_clock AS SELECT date_trunc('day', now()) - interval '20 hours' AS zero;
CREATE FUNCTION pg_temp.at(minute int) RETURNS timestamptz LANGUAGE sql AS $$ SELECT zero + minute * interval '1 minute' FROM trial_clock $$;
CREATE FUNCTION pg_temp.scan_until(minute int, VARIADIC detectors text[]) RETURNS TABLE (detector text, alerts_opened bigint) LANGUAGE plpgsql AS $$
BEGIN
    UPDATE anomaly.detector d SET settle = now() - pg_temp.at(minute) WHERE d.detector ~ '^trial_z';
    FOREACH detector IN ARRAY detectors LOOP
        SELECT s.alerts_opened INTO alerts_opened FROM anomaly.scan(detector) s;
        RETURN NEXT;
    END LOOP;
END $$;
-- Three hosts, a value a minute: 50, 51, 52, …
CREATE TABLE trial (at timestamptz, host text, v double precision);
CREATE FUNCTION pg_temp.measure(first int, last int) RETURNS void LANGUAGE sql AS $$
    INSERT INTO trial SELECT pg_temp.at(i), h, 50 + (i + 400) * 7919 % 101 / 25.0 FROM generate_series(first, last) i, unnest('{a,b,c}'::text[]) h $$;
CREATE FUNCTION pg_temp.spike(minute int, of_host text, value double precision) RETURNS void LANGUAGE sql AS $$
    UPDATE trial SET v = value WHERE at = pg_temp.at(minute) AND host = of_host $$;
CREATE FUNCTION pg_temp.minute(at timestamptz) RETURNS int LANGUAGE sql AS $$ SELECT (extract(epoch FROM at - zero) / 60)::int FROM trial_clock $$;
SELECT pg_temp.measure(-300, 39);
SELECT pg_temp.spike(5, 'a', 90), pg_temp.spike(10, 'b', 60), pg_temp.spike(15, 'c', 10), pg_temp.spike(20, 'a', 60);

SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', source => 'trial', value => 'v', at => 'at', entity => 'host', training_window => '10 hours',
    threshold => 12, name => 'trial_z');
SELECT helper.attempt($$SELECT anomaly.create_shadow('trial_z')$$) AS before_training;
UPDATE anomaly.detector SET settle = now() - pg_temp.at(0) WHERE detector = 'trial_z';
SELECT status, trained_rows FROM anomaly.train('trial_z');
-- A shadow with a lower threshold, for high values only.
SELECT * FROM anomaly.create_shadow('trial_z', '{"threshold": 5, "direction": "above"}');
SELECT detector, shadow_of, pg_temp.minute(since) AS since FROM anomaly.shadows;
SELECT detector, status, threshold, direction, pg_temp.minute(watermark) AS watermark FROM anomaly.detectors WHERE detector ~ '^trial' ORDER BY 1;
-- What is refused.
SELECT helper.attempt(command) FROM unnest(ARRAY[
    'SELECT anomaly.create_shadow(''trial_z'')', 'SELECT anomaly.create_shadow(''trial_z_shadow'')', 'SELECT anomaly.create_shadow(''trial_none'')',
    'SELECT anomaly.create_shadow(''trial_z'', ''{"treshold": 2}'', ''trial_other'')', 'SELECT anomaly.create_shadow(''trial_z'', ''[]'', ''trial_other'')',
    'SELECT anomaly.create_shadow(''trial_z'', name => '''')', 'SELECT anomaly.create_shadow(''trial_z'', NULL)', 'SELECT anomaly.create_shadow(NULL)',
    'SELECT anomaly.promote(''trial_z'')', 'SELECT anomaly.promote(''trial_none'')', 'SELECT anomaly.promote(NULL)']) command;

-- Only the detector is heard of: in the view, by handlers, among related alerts.
CREATE TABLE trial_told (detector text, transition text);
CREATE FUNCTION trial_tell(alert jsonb) RETURNS void LANGUAGE sql AS $$ INSERT INTO public.trial_told VALUES (alert ->> 'detector', alert ->> 'transition') $$;
SELECT anomaly.create_handler('trial tells', 'function', 'public.trial_tell(jsonb)');
SELECT * FROM pg_temp.scan_until(40, 'trial_z_shadow', 'trial_z');
SELECT detector, entity, pg_temp.minute(at) AS at, status, cardinality(related_alerts) AS related FROM anomaly.alerts WHERE detector ~ '^trial' ORDER BY at;
SELECT detector, withheld, entity, pg_temp.minute(at) AS at, status FROM anomaly.withheld_alerts ORDER BY at;
SELECT delivered > 0 AS delivered FROM anomaly.deliver();
SELECT * FROM trial_told ORDER BY 1, 2;
SELECT count(*) FROM anomaly.outbox WHERE detector ~ '^trial';
-- A replay of either is what it has told.
SELECT entity, at, points FROM anomaly.backtest('trial_z', '40 minutes', pg_temp.at(40)) EXCEPT SELECT entity, at, points FROM anomaly.alerts WHERE detector = 'trial_z';
SELECT count(*) FROM anomaly.backtest('trial_z_shadow', '40 minutes', pg_temp.at(40));

-- Figures by hand. Labels: the alert of a at 5 was right, that of c at 15 wrong; the one of b at 10 and another of c at 30 were missed. 117 points,
-- of which one is known to be anomalous. Nobody has judged what the shadow found of a at 20.
SELECT count(anomaly.feedback(id, CASE entity WHEN 'a' THEN 'true_positive' ELSE 'false_positive' END)) FROM anomaly.alerts WHERE detector = 'trial_z';
SELECT anomaly.report_missed('trial_z', pg_temp.at(9), 'b', pg_temp.at(11)) > 0 AS given, anomaly.report_missed('trial_z', pg_temp.at(30), 'c') > 0 AS given;
\x
SELECT shadow, live, side, pg_temp.minute(since) AS since, pg_temp.minute(until_ts) AS until, alerts, round(alerts_per_day) AS alerts_per_day, in_both, only_here, unjudged,
       true_positives, false_positives, false_negatives, precision, precision_95, recall, recall_95, f1_score, false_positive_rate = 1.0 / 116 AS is_one_of_116, false_positive_rate, false_positive_rate_95
  FROM anomaly.shadow_comparison ORDER BY side;
\x
SELECT anomaly.wilson_interval(1, 2) AS precision_of_live, anomaly.wilson_interval(1, 3) AS recall_of_live, anomaly.wilson_interval(1, 116) AS rate_of_live, anomaly.wilson_interval(2, 3) AS recall_of_shadow;
-- What nobody was told of can be judged as well, and is a label of both; once is enough.
SELECT count(anomaly.feedback(id, 'true_positive')) FROM anomaly.withheld_alerts WHERE entity = 'a';
SELECT side, alerts, unjudged, true_positives, false_positives, false_negatives FROM anomaly.shadow_comparison ORDER BY side;

-- A shadow goes by what is said of its detector: here that 90 is normal of b, so that neither tells of 91.
SELECT pg_temp.measure(40, 59);
SELECT pg_temp.spike(45, 'b', 90);
SELECT * FROM pg_temp.scan_until(50, 'trial_z', 'trial_z_shadow');
SELECT anomaly.feedback(max(id), 'expected_always') > 0 AS given FROM anomaly.alerts WHERE detector = 'trial_z';
SELECT pg_temp.spike(55, 'b', 91), pg_temp.spike(59, 'a', 80);
SELECT * FROM pg_temp.scan_until(59, 'trial_z', 'trial_z_shadow');

-- Promoted: settings change places, the open episode of a at 59 goes on, and the comparison begins anew.
SELECT detector, entity, status, points FROM anomaly.alerts WHERE status = 'open';
SELECT * FROM anomaly.promote('trial_z_shadow');
SELECT detector, threshold, direction FROM anomaly.detectors WHERE detector ~ '^trial' ORDER BY 1;
SELECT side, pg_temp.minute(since) AS since, pg_temp.minute(until_ts) AS until, alerts, alerts_per_day, true_positives, precision_95 FROM anomaly.shadow_comparison ORDER BY side;
SELECT pg_temp.measure(60, 79);
SELECT pg_temp.spike(60, 'a', 80), pg_temp.spike(70, 'a', 62);
SELECT * FROM pg_temp.scan_until(80, 'trial_z', 'trial_z_shadow');
SELECT entity, pg_temp.minute(at) AS at, status, points FROM anomaly.alerts WHERE detector = 'trial_z' AND last_at >= pg_temp.at(59) ORDER BY at;
SELECT side, alerts, in_both, only_here FROM anomaly.shadow_comparison ORDER BY side;
-- Another strategy is another model: it is trained, and the episode goes on all the same.
SELECT pg_temp.measure(80, 99);
SELECT pg_temp.spike(i, 'c', 95) FROM generate_series(89, 91) i;
SELECT changed, effect FROM anomaly.alter_detector('trial_z_shadow', '{"strategy": "mad", "threshold": 8}');
SELECT * FROM pg_temp.scan_until(89, 'trial_z', 'trial_z_shadow');
SELECT changed, effect FROM anomaly.promote('trial_z_shadow');
SELECT * FROM pg_temp.scan_until(95, 'trial_z');
SELECT d.strategy, a.entity, pg_temp.minute(a.at) AS at, a.status, a.points FROM anomaly.alerts a JOIN anomaly.detectors d USING (detector) WHERE a.detector = 'trial_z' AND a.at >= pg_temp.at(85);
-- Twice is as it was.
SELECT changed FROM anomaly.promote('trial_z_shadow');
SELECT detector, strategy, threshold FROM anomaly.detectors WHERE detector ~ '^trial' ORDER BY 1;

-- Of points that are brought: the answer is the detector's alone.
SELECT anomaly.create_detector('data_outlier', 'zscore', 'trial_load', threshold => 10, min_data_points => 20, name => 'trial_p');
SELECT count(*) FROM generate_series(1, 60) i, anomaly.process_data_point(jsonb_build_object('trial_load', 20 + i % 7, 'timestamp', now() - (100 - i) * interval '1 second'));
SELECT status FROM anomaly.train('trial_p');
SELECT detector, status FROM anomaly.create_shadow('trial_p', '{"threshold": 3}');
SELECT count(*) FROM anomaly.process_data_point('{"trial_load": 34}');
SELECT detector, value FROM anomaly.process_data_point('{"trial_load": 90}');
SELECT detector, withheld, value FROM anomaly.withheld_alerts WHERE detector ~ '^trial_p';

-- Others neither see nor touch it.
CREATE ROLE trial_stranger;
SELECT helper.attempt('SET ROLE trial_stranger'), helper.attempt('SELECT anomaly.promote(''trial_z_shadow'')') AS promote, helper.attempt('SELECT anomaly.create_shadow(''trial_z'')') AS create;
SET ROLE trial_stranger;
SELECT (SELECT count(*) FROM anomaly.shadows) AS shadows, (SELECT count(*) FROM anomaly.withheld_alerts) AS withheld, (SELECT count(*) FROM anomaly.shadow_comparison) AS comparison;
RESET ROLE;
-- A shadow goes with its detector.
SELECT anomaly.drop_detector('trial_z'), anomaly.drop_detector('trial_p');
SELECT count(*) FROM anomaly.detectors WHERE detector ~ '^trial';
SELECT anomaly.drop_handler('trial tells');
DROP ROLE trial_stranger;
DROP FUNCTION trial_tell(jsonb);
DROP TABLE trial, trial_clock, trial_told;
DELETE FROM anomaly.alert WHERE detector ~ '^trial';
TRUNCATE anomaly.judgement;
