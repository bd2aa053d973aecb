-- anomaly.drilldown: which segments of the rows behind an alert explain it.
SET TIME ZONE 'UTC';
-- 15 days of sales by hour. In the last one Germany sells 40 more by the plan "pro", and 5 are of no country.
CREATE TABLE drill_clock AS SELECT date_trunc('hour', now()) AS zero;
CREATE TABLE drill AS
SELECT zero - i * interval '1 hour' + n * interval '1 second' AS at, country, plan, n % 2 = 0 AS mobile, 10 + 2 * length(plan) + (i * 7919 + n) % 5 AS amount, 100 + n AS visits, 'x' || n AS note, NULL::text AS nothing
  FROM drill_clock, generate_series(1, 360) i, unnest('{DE,FR,US}'::text[]) country, unnest('{free,pro,team}'::text[]) plan, LATERAL generate_series(1, 3 + (i * 104729 + ascii(country) + length(plan)) % 3) n;
INSERT INTO drill SELECT zero - interval '50 minutes' + n * interval '1 second', CASE WHEN n <= 40 THEN 'DE' END, 'pro', true, 100, 200 FROM drill_clock, generate_series(1, 45) n;
SELECT anomaly.create_detector('data_volume', 'mad', 'sales', source => 'drill', value => v, at => 'at', bucket => '1 hour', aggregate => a, kind => 'value', threshold => 6, settle => clock_timestamp() - zero + interval '1 hour', name => 'drill_' || a)
  FROM drill_clock, (VALUES ('count', NULL), ('sum', 'amount'), ('avg', 'amount'), ('max', 'amount')) s (a, v);
SELECT d.detector, t.status, t.trained_rows FROM anomaly.detectors d, anomaly.train(d.detector) t WHERE d.detector ~ '^drill_' ORDER BY 1;
UPDATE anomaly.detector SET settle = '0' WHERE detector ~ '^drill_';
SELECT d.detector, s.alerts_opened FROM anomaly.detectors d, anomaly.scan(d.detector) s WHERE d.detector ~ '^drill_' ORDER BY 1;
CREATE FUNCTION pg_temp.alert(detector text) RETURNS bigint LANGUAGE sql STABLE AS $$ SELECT id FROM anomaly.alerts a WHERE a.detector = $1 $$;
CREATE FUNCTION pg_temp.drill(detector text, dimensions text[], depth int DEFAULT 1, max_segments int DEFAULT 10, baseline interval DEFAULT NULL)
RETURNS TABLE (rank int, dimensions text, segment text[], actual numeric, expected numeric, share numeric, within numeric, mix numeric, surprise numeric, explains bool, segments bigint, compared_with text) LANGUAGE sql AS $$
    SELECT rank, array_to_string(d.dimensions, ' × '), segment, round(actual::numeric, 3), round(expected::numeric, 3), round(contribution::numeric, 3), round(within::numeric, 3), round(mix::numeric, 3), round(surprise::numeric, 4), explains, segments, compared_with
      FROM anomaly.drilldown(pg_temp.alert($1), $2, $3, $4, $5) d ORDER BY rank $$;

-- Counts add up. NULL is a segment of its own.
SELECT * FROM pg_temp.drill('drill_count', '{country,plan}', 2);
-- It is what the rows say: the same hour of the last two weeks.
SELECT d.segment[1] AS country, d.actual = count(*) FILTER (WHERE r.at >= zero - interval '1 hour') AS actual, d.expected = count(*) FILTER (WHERE r.at < zero - interval '1 hour') / 2.0 AS expected
  FROM anomaly.drilldown(pg_temp.alert('drill_count'), '{country}') d, drill_clock JOIN drill r ON r.at >= zero - interval '1 hour' OR r.at >= zero - interval '7 days 1 hour' AND r.at < zero - interval '7 days' OR r.at >= zero - interval '14 days 1 hour' AND r.at < zero - interval '14 days'
 WHERE r.country IS NOT DISTINCT FROM d.segment[1] GROUP BY d.segment[1], d.actual, d.expected ORDER BY 1;
-- The parts make up the whole, in each dimension.
SELECT detector, d.dimensions, round(sum(d.contribution)::numeric, 9) AS whole, round(sum(d.change)::numeric, 3) AS change FROM unnest('{drill_count,drill_sum,drill_avg}'::text[]) detector, anomaly.drilldown(pg_temp.alert(detector), '{country,plan,note}', 2, 2) d GROUP BY 1, 2 ORDER BY 1, 2;
SELECT * FROM pg_temp.drill('drill_sum', '{plan}');
-- An average changes within segments, and by how much there is of each.
SELECT * FROM pg_temp.drill('drill_avg', '{country}');
-- What there are too many of is one segment at the end.
SELECT * FROM pg_temp.drill('drill_count', '{note}', 1, 2);
-- By default by what reads like a name.
SELECT DISTINCT d.dimensions FROM anomaly.drilldown(pg_temp.alert('drill_count')) d ORDER BY 1;
SELECT * FROM pg_temp.drill('drill_count', '{mobile,nothing}', baseline => '1 day');

SELECT helper.attempt(replace(command, '?', pg_temp.alert('drill_count')::text)) FROM unnest(ARRAY[
    'SELECT anomaly.drilldown(NULL)', 'SELECT anomaly.drilldown(-1)', 'SELECT anomaly.drilldown(?, ''{county}'')', 'SELECT anomaly.drilldown(?, ''{country,country}'')', 'SELECT anomaly.drilldown(?, ''{NULL}'')',
    'SELECT anomaly.drilldown(?, ''{country,plan,mobile,amount,visits,note,nothing,at,country}'')', 'SELECT anomaly.drilldown(?, depth => 3)', 'SELECT anomaly.drilldown(?, max_segments => 0)',
    'SELECT anomaly.drilldown(?, baseline => ''1 minute'')', 'SELECT anomaly.drilldown(?, baseline => ''-1 day'')', 'SELECT anomaly.drilldown(?, baseline => ''1 year'')', 'SELECT anomaly.drilldown(?, ''{}'')']) command;
SELECT helper.attempt(format('SELECT anomaly.drilldown(%s)', pg_temp.alert('drill_max')));
-- Values that are no numbers, or too large to be added up, are left out and break nothing.
ALTER TABLE drill ALTER amount TYPE float8;
UPDATE drill SET amount = 'NaN' WHERE note = 'x1';
UPDATE drill SET amount = '-Infinity' WHERE note = 'x2';
UPDATE drill SET amount = 1e308 WHERE note = 'x3';
SELECT segment, round(actual::numeric, 2) AS actual, round(expected::numeric, 2) AS expected FROM anomaly.drilldown(pg_temp.alert('drill_sum'), '{note}') ORDER BY rank;
-- Of an entity its own rows, of a ratio by its trials, and of a query; right before where there is no earlier week.
CREATE TABLE drill_rate AS SELECT zero - i * interval '1 minute' AS at, 'web' || h AS host, path, 50 + i % 5 AS visits, CASE WHEN i <= 3 AND h = 1 AND path = '/pay' THEN 0.8 ELSE 0.1 + (i * 7919 % 11) / 1000.0 END AS errors
  FROM drill_clock, generate_series(1, 300) i, generate_series(1, 2) h, unnest('{/,/pay,/cart}'::text[]) path;
SELECT anomaly.create_detector('system_error_rate', 'zscore', 'errors', source => 'SELECT at, host, path, visits, errors FROM drill_rate', value => 'errors', at => 'at', entity => 'host', trials => 'visits', bucket => '1 minute', threshold => 6, settle => clock_timestamp() - zero + interval '10 minutes', name => 'drill_rate') FROM drill_clock;
SELECT status FROM anomaly.train('drill_rate');
UPDATE anomaly.detector SET settle = '0' WHERE detector = 'drill_rate';
SELECT alerts_opened FROM anomaly.scan('drill_rate');
SELECT * FROM pg_temp.drill('drill_rate', '{path}');
-- Of rows that are points themselves, the day before.
CREATE TABLE drill_point AS SELECT zero - i * interval '5 minutes' AS at, CASE i % 2 WHEN 0 THEN 'x' ELSE 'y' END AS version, 50 + i * 7919 % 101 / 10.0 + CASE WHEN i IN (1, 2) THEN 500 ELSE 0 END AS v FROM drill_clock, generate_series(1, 500) i;
SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', source => 'drill_point', value => 'v', at => 'at', threshold => 6, settle => clock_timestamp() - zero + interval '1 hour', name => 'drill_point') FROM drill_clock;
SELECT status FROM anomaly.train('drill_point');
UPDATE anomaly.detector SET settle = '0' WHERE detector = 'drill_point';
SELECT alerts_opened FROM anomaly.scan('drill_point');
SELECT * FROM pg_temp.drill('drill_point', '{version}');
SELECT DISTINCT compared_with FROM pg_temp.drill('drill_point', '{version}', baseline => '2 hours');
-- The query is the owner's, and so are its rows.
CREATE ROLE drill_monitor LOGIN;
GRANT anomaly_monitor TO drill_monitor;
CREATE ROLE drill_stranger LOGIN;
SELECT set_config('drill.alert', pg_temp.alert('drill_count')::text, false) <> '' AS kept;
SET ROLE drill_monitor;
SELECT regexp_replace(helper.attempt('SELECT anomaly.drilldown(' || current_setting('drill.alert') || ')'), '\d+(?= )', 'N');
SET ROLE drill_stranger;
SELECT regexp_replace(helper.attempt('SELECT anomaly.drilldown(' || current_setting('drill.alert') || ')'), 'alert \d+', 'alert N');
RESET ROLE;
SELECT count(anomaly.drop_detector(detector)) FROM anomaly.detectors WHERE detector ~ '^drill_';
DROP TABLE drill, drill_clock, drill_rate, drill_point;
DROP ROLE drill_monitor, drill_stranger;
DELETE FROM anomaly.alert WHERE detector ~ '^drill_';
TRUNCATE anomaly.alert;
SELECT setval('anomaly.alert_id_seq', 1, false);
