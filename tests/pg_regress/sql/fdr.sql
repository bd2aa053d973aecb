-- alerts_per_day bounds how many false alarms there are, fdr which share of what is told is false: bucket by bucket, over all
-- entities at once. settle puts the clock where the test wants it.
SET TIME ZONE 'UTC';
CREATE TABLE rate_clock AS SELECT date_trunc('day', now()) - interval '20 hours' AS zero;
CREATE FUNCTION pg_temp.at(minute int) RETURNS timestamptz LANGUAGE sql AS $$ SELECT zero + minute * interval '1 minute' FROM rate_clock $$;
CREATE FUNCTION pg_temp.minute(at timestamptz) RETURNS int LANGUAGE sql AS $$ SELECT (extract(epoch FROM at - zero) / 60)::int FROM rate_clock $$;
CREATE FUNCTION pg_temp.set_clock(minute int) RETURNS void LANGUAGE sql AS $$
    UPDATE anomaly.detector SET settle = now() - pg_temp.at(minute) WHERE detector ~ '^rate_' $$;
-- Noise of spread 1 around 50, the same on every machine: sums of twelve remainders.
CREATE FUNCTION pg_temp.noise(host int, minute int) RETURNS double precision LANGUAGE sql IMMUTABLE AS $$
    SELECT sum(('x' || substr(md5(host || ' ' || minute), 1 + 2 * i, 2))::bit(8)::int) / 256.0 - 6 + 12 / 512.0 FROM generate_series(0, 11) i $$;
CREATE TABLE rate (at timestamptz, host int, v double precision);
CREATE FUNCTION pg_temp.measure(first int, last int) RETURNS void LANGUAGE sql AS $$
    INSERT INTO rate SELECT pg_temp.at(i), h, 50 + pg_temp.noise(h, i) FROM generate_series(first, last) i, generate_series(1, 40) h $$;
CREATE FUNCTION pg_temp.raise(minute int, first int, last int, sigmas double precision) RETURNS void LANGUAGE sql AS $$
    UPDATE rate SET v = 50 + sigmas WHERE at = pg_temp.at(minute) AND host BETWEEN first AND last $$;
SELECT pg_temp.measure(-400, 59);

-- What is refused.
SELECT helper.attempt(format($$SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', source => 'rate', entity => 'host', name => 'rate_refused', %s)$$, settings)) FROM unnest(ARRAY[
    'fdr => 0', 'fdr => 1', 'fdr => ''NaN''', 'fdr => ''Infinity''', 'fdr => -0.1, bucket => ''1 minute''', 'fdr => 0.1', 'fdr => 0.1, bucket => ''1 minute'', late_window => ''1 hour''']) settings;

-- Two detectors over the same, one scanned at once and one minute by minute; and a third without fdr.
SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', source => 'rate', value => 'v', at => 'at', entity => 'host', bucket => '1 minute', training_window => '10 hours',
    alerts_per_day => 1200, clear_after => 2, fdr => fdr, name => name) FROM (VALUES ('rate_all', NULL), ('rate_once', 0.1), ('rate_often', 0.1)) d (name, fdr);
SELECT pg_temp.set_clock(0);
SELECT DISTINCT status FROM unnest('{rate_all,rate_once,rate_often}'::text[]) d, anomaly.train(d);
-- One that is 3 sigmas off is one of 40, and chance. All at once are no chance. Far out one is enough.
SELECT pg_temp.raise(10, 7, 7, 3), pg_temp.raise(20, 1, 40, 3), pg_temp.raise(30, 8, 8, 9);
-- An episode that begins as if by chance is told once it is no chance any more.
SELECT pg_temp.raise(40, 9, 9, 3), pg_temp.raise(41, 9, 9, 3), pg_temp.raise(42, 9, 9, 9);
CREATE FUNCTION pg_temp.told(name text) RETURNS TABLE (minute int, told bigint, withheld bigint) LANGUAGE sql AS $$
    SELECT pg_temp.minute(at), count(*) FILTER (WHERE withheld IS NULL), count(withheld) FROM anomaly.alert
     WHERE detector = name AND pg_temp.minute(at) IN (10, 20, 30, 40) GROUP BY at $$;
-- Before that: nobody has heard of it.
SELECT pg_temp.set_clock(42);
SELECT count(*) FROM anomaly.scan('rate_often');
SELECT * FROM pg_temp.told('rate_often') ORDER BY minute;
DO $$ BEGIN FOR i IN 43 .. 60 LOOP PERFORM pg_temp.set_clock(i); COMMIT; PERFORM anomaly.scan('rate_often'); COMMIT; END LOOP; END $$;
SELECT count(*) FROM anomaly.scan('rate_once') o, anomaly.scan('rate_all') a;
SELECT * FROM pg_temp.told('rate_all') ORDER BY minute;
SELECT * FROM pg_temp.told('rate_once') ORDER BY minute;
-- However scans cut time: the same alerts, and the same of them told.
SELECT entity, at, last_at, points, withheld, p_value FROM anomaly.alert WHERE detector = 'rate_once' EXCEPT SELECT entity, at, last_at, points, withheld, p_value FROM anomaly.alert WHERE detector = 'rate_often';
SELECT count(DISTINCT withheld) AS withheld, count(*) > 42 AS with_chance FROM anomaly.alert WHERE detector = 'rate_often';
-- And the same judgements as without fdr: what is told is no part of what is judged.
SELECT entity, at, points, p_value FROM anomaly.alert WHERE detector = 'rate_once' EXCEPT SELECT entity, at, points, p_value FROM anomaly.alert WHERE detector = 'rate_all';
SELECT count(*) FROM anomaly.withheld_alerts WHERE detector = 'rate_once' AND pg_temp.minute(at) = 10;
-- A replay tells what was told.
SELECT entity, at, points FROM anomaly.backtest('rate_once', '60 minutes', pg_temp.at(60)) EXCEPT SELECT entity, at, points FROM anomaly.alerts WHERE detector = 'rate_once';
SELECT (SELECT count(*) FROM anomaly.backtest('rate_once', '60 minutes', pg_temp.at(60))) = count(*) AS as_many FROM anomaly.alerts WHERE detector = 'rate_once';
-- Of what is withheld, handlers hear nothing, and of what is told later, that it was opened.
CREATE TABLE rate_heard (host text, minute int, transition text);
CREATE FUNCTION rate_hear(alert jsonb) RETURNS void LANGUAGE sql AS $$
    INSERT INTO public.rate_heard SELECT alert ->> 'entity', (extract(epoch FROM (alert ->> 'at')::timestamptz - zero) / 60)::int, alert ->> 'transition' FROM public.rate_clock $$;
SELECT anomaly.create_handler('rate hears', 'function', 'public.rate_hear(jsonb)', matchers => '{"detector": "rate_often"}');
SELECT pg_temp.measure(60, 99);
SELECT pg_temp.raise(70, 9, 9, 3), pg_temp.raise(80, 9, 9, 3), pg_temp.raise(81, 9, 9, 9);
SELECT pg_temp.set_clock(81);
SELECT count(*) FROM anomaly.scan('rate_often');
SELECT delivered >= 0 AS delivered FROM anomaly.deliver();
SELECT transition FROM rate_heard WHERE host = '9' AND minute IN (70, 80);
SELECT pg_temp.set_clock(100);
SELECT count(*) FROM anomaly.scan('rate_often');
SELECT delivered >= 0 AS delivered FROM anomaly.deliver();
SELECT minute, transition FROM rate_heard WHERE host = '9' AND minute IN (70, 80) ORDER BY transition;
-- Taken away, what is found from then on is told.
SELECT * FROM anomaly.alter_detector('rate_often', '{"fdr": null}');
SELECT helper.attempt($$SELECT anomaly.alter_detector('rate_often', '{"fdr": 2}')$$), helper.attempt($$SELECT anomaly.alter_detector('rate_once', '{"late_window": "1 hour"}')$$);
SELECT pg_temp.measure(100, 119);
SELECT pg_temp.raise(110, 9, 9, 3.2);
SELECT pg_temp.set_clock(120);
SELECT count(*) FROM anomaly.scan('rate_often');
SELECT count(*) FROM anomaly.alerts WHERE detector = 'rate_often' AND entity = '9' AND pg_temp.minute(at) = 110;

SELECT anomaly.drop_detector(d) FROM unnest('{rate_all,rate_once,rate_often}'::text[]) d;
SELECT anomaly.drop_handler('rate hears');
DROP FUNCTION rate_hear(jsonb);
DROP TABLE rate, rate_clock, rate_heard;
DELETE FROM anomaly.alert WHERE detector ~ '^rate_';
