-- Rows aggregated to buckets of time before they are judged.
SET TIME ZONE 'UTC';

CREATE TABLE visit (at timestamptz, site text, visitor uuid, ms double precision);
INSERT INTO visit
SELECT timestamptz '2024-03-01 00:00+00' + i * interval '37 seconds', 'site ' || i % 2, md5((i % 9)::text)::uuid, CASE WHEN i % 50 = 0 THEN NULL ELSE 100 + (i * 7919) % 101 END
  FROM generate_series(0, 400) i;

-- Every aggregate against plain SQL over the same buckets.
CREATE TEMP VIEW plain AS
SELECT date_bin('5 minutes', at, '2000-01-01') AS at, site AS entity, count(*)::float8 AS count, count(DISTINCT visitor)::float8 AS count_distinct, avg(ms) AS avg, sum(ms) AS sum, min(ms) AS min, max(ms) AS max,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY ms) AS median, percentile_cont(0.95) WITHIN GROUP (ORDER BY ms) AS p95, percentile_cont(0.999) WITHIN GROUP (ORDER BY ms) AS "p99.9", stddev_samp(ms) AS stddev,
       (array_agg(ms ORDER BY at) FILTER (WHERE ms IS NOT NULL))[1] AS first, (array_agg(ms ORDER BY at DESC) FILTER (WHERE ms IS NOT NULL))[1] AS last
  FROM visit GROUP BY 1, 2;
CREATE FUNCTION pg_temp.differs(aggregate text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE found bigint;
BEGIN
    EXECUTE format('SELECT count(*) FROM (SELECT at, entity, %1$I AS value FROM plain) p FULL JOIN (SELECT at, entity, d.value FROM detect_anomalies(''visit'', bucket => ''5 minutes'', aggregate => %1$L, value => %2$s) d) d USING (at, entity)
        WHERE (p.value IS DISTINCT FROM d.value AND abs(p.value - d.value) < 1e-9 IS NOT TRUE) OR p IS NULL OR d IS NULL',
        aggregate, CASE aggregate WHEN 'count' THEN 'NULL' WHEN 'count_distinct' THEN '''visitor''' ELSE '''ms''' END) INTO found;
    RETURN found;
END $$;
SELECT aggregate, pg_temp.differs(aggregate) AS differing FROM unnest('{avg,sum,count,count_distinct,min,max,median,p95,p99.9,stddev,first,last}'::text[]) aggregate;
SELECT count(*), count(DISTINCT entity) AS entities, min(at), max(at), sum(value) AS rows FROM detect_anomalies('visit', entity => '', bucket => '10 minutes', aggregate => 'count');
-- count of a column leaves its NULLs out
SELECT sum(value) FROM detect_anomalies('visit', value => 'ms', bucket => '1 hour', aggregate => 'count');

-- Days, weeks and months are those of the time zone, hours are absolute; Berlin's clock goes forward on 31 March 2024.
CREATE TABLE night AS SELECT timestamptz '2024-03-29 12:00+00' + i * interval '30 minutes' AS at, 1 AS v FROM generate_series(0, 191) i;
SELECT at, value FROM detect_anomalies('night', bucket => '1 day', aggregate => 'count', time_zone => 'Europe/Berlin');
SELECT at, value FROM detect_anomalies('night', bucket => '24 hours', aggregate => 'count', time_zone => 'Europe/Berlin');
SELECT at, value FROM detect_anomalies('night', bucket => '7 days', aggregate => 'count', time_zone => 'Europe/Berlin');
SELECT at, value FROM detect_anomalies('night', bucket => '1 month', aggregate => 'count', time_zone => 'Europe/Berlin');
SELECT at, value FROM detect_anomalies('night', bucket => '3 months', aggregate => 'sum', time_zone => 'Europe/Berlin');
SELECT at, value FROM detect_anomalies('night', bucket => '1 year', aggregate => 'sum', time_zone => 'Europe/Berlin');
-- A column without time zone is local time.
SELECT at, value FROM detect_anomalies('SELECT (at AT TIME ZONE ''Europe/Berlin'')::timestamp AS at, v FROM night', bucket => '1 day', aggregate => 'count', time_zone => 'Europe/Berlin') LIMIT 2;
-- The ratio of a bucket is that of all its trials.
SELECT at, value FROM detect_anomalies('SELECT at, ok, tried FROM (VALUES (timestamptz ''2024-01-01 00:00+00'', 0.5, 10), (''2024-01-01 00:01+00'', 0.1, 90), (''2024-01-01 00:02+00'', NULL, 1000), (''2024-01-01 01:01+00'', NULL, 0)) v (at, ok, tried)',
    trials => 'tried', bucket => '1 hour');
-- The bucket that is still going on is no point.
SELECT count(*) FROM detect_anomalies('SELECT now() AS at, 1 AS v', bucket => '1 day');

-- Watched: the rows of a table per second, without any column of values.
CREATE TABLE hit (at timestamptz, path text);
INSERT INTO hit SELECT date_trunc('second', now()) - interval '10 minutes' + i * interval '0.05 seconds', '/' || i % 2 FROM generate_series(0, 11900) i WHERE (i * 7919) % 11 > 0;
SELECT detector, status, chosen FROM anomaly.watch('hit', bucket => '1 second', aggregate => 'count', on_missing => 'ignore', settle => '0 s', strategy => 'mad');
SELECT detector, value_column, metric_name, kind, bucket, aggregate, trained_rows AS seconds, round((points_per_day / 86400)::numeric, 1) AS per_second, watermark = date_trunc('second', watermark) AS watermark_is_a_start FROM anomaly.detectors;
-- A burst in a bucket that is not over: nothing is judged, whatever the scan sees of it. Once it is over, all of it is one point.
CREATE TEMP TABLE burst AS SELECT date_trunc('second', clock_timestamp()) + interval '3 seconds' AS at;
INSERT INTO hit SELECT at + i * interval '1 millisecond', '/burst' FROM burst, generate_series(0, 299) i;
SELECT alerts_opened FROM anomaly.scan('hit_count');
SELECT window_until <= at AS not_yet FROM burst, anomaly.scan('hit_count');
SELECT pg_sleep(4.1);
SELECT alerts_opened FROM anomaly.scan('hit_count');
SELECT a.at = b.at AS at_is_the_start, value, direction, points FROM anomaly.alerts a, burst b WHERE detector = 'hit_count';
SELECT rows_read, alerts_opened FROM anomaly.scan('hit_count');
SELECT status, trained_rows AS seconds FROM anomaly.train('hit_count');
SELECT chosen FROM anomaly.watch('hit', value => 'path', entity => 'path', bucket => '1 second', aggregate => 'count_distinct', on_missing => 'ignore', name => 'paths', strategy => 'mad');
SELECT chosen FROM anomaly.watch('visit', value => 'ms', entity => 'site', bucket => '15 minutes', aggregate => 'p95', training_window => '100 years', name => 'slow', strategy => 'mad');
SELECT anomaly.create_detector('data_outlier', 'mad', 'n', source => 'hit', bucket => '1 hour', aggregate => 'count', kind => 'value', name => 'plain');
SELECT detector, kind, bucket, aggregate FROM anomaly.detectors ORDER BY detector COLLATE "C";

-- Bad settings
SELECT anomaly.watch('hit', bucket => '1 hour', aggregate => 'mode', name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.watch('hit', bucket => '1 hour', aggregate => 'p100', name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.watch('hit', bucket => '1 hour', aggregate => 'p', name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.watch('hit', bucket => '1 hour', aggregate => 'p9e1', name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.watch('hit', aggregate => 'count', name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.watch('hit', bucket => '1 hour', name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.watch('hit', bucket => '1 hour', aggregate => 'count_distinct', name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.watch('hit', bucket => '0 s', aggregate => 'count', name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.watch('hit', bucket => '-1 day', aggregate => 'count', name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.watch('hit', bucket => '1 day 1 hour', aggregate => 'count', name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.watch('hit', bucket => '2 months', aggregate => 'count', name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.watch('visit', value => 'ms', trials => 'ms', bucket => '1 hour', aggregate => 'max', name => 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.create_detector('system_cpu', 'zscore', 'cpu', bucket => '1 hour', name => 'x');
\echo :LAST_ERROR_SQLSTATE
-- Beyond the largest number: a value that says so for that bucket, and nothing is lost of the others. An average is no larger than its values.
CREATE TABLE extreme (at timestamptz, e text, v float8, n float8);
INSERT INTO extreme SELECT timestamptz '2024-01-01' + i * interval '10 seconds', e,
       CASE WHEN i BETWEEN 30 AND 35 OR e IN ('denormal', 'tiny weights') THEN CASE e WHEN 'ordinary' THEN i WHEN 'max' THEN 1.7976931348623157e308 WHEN 'min' THEN -1.7976931348623157e308 WHEN 'both' THEN 1e308 * (1 - 2 * (i % 2)) WHEN 'one' THEN CASE i WHEN 32 THEN 1.5e308 ELSE i END WHEN 'middle' THEN 1e160 * (i - 32)
            WHEN 'infinite' THEN CASE i WHEN 31 THEN 'Infinity'::float8 ELSE 1 END WHEN 'nan' THEN CASE i WHEN 33 THEN 'NaN'::float8 ELSE 1e308 END WHEN 'denormal' THEN 5e-324 * (i % 2) WHEN 'tiny weights' THEN 1e-300 END ELSE i END,
       CASE e WHEN 'tiny weights' THEN 1e-49 WHEN 'denormal' THEN CASE i WHEN 33 THEN 5e-324 ELSE 1 END ELSE 10 END
  FROM generate_series(0, 239) i, unnest('{ordinary,max,min,both,one,middle,infinite,nan,denormal,tiny weights}'::text[]) e;
SELECT a, e AS entity, min(value) FILTER (WHERE at = '2024-01-01 00:05+00') AS at_five, min(status) FILTER (WHERE at = '2024-01-01 00:05+00') AS status, count(*) FILTER (WHERE status = 'ok' OR at <= '2024-01-01 00:05+00') AS rows
  FROM unnest('{avg,sum,stddev,median,p30}'::text[]) a, detect_anomalies('extreme', value => 'v', entity => 'e', bucket => '1 minute', aggregate => a, min_data_points => 4) d (at, e, value, expected, lower, upper, score, p, deviation, direction, is_anomaly, status, reasons) GROUP BY a, e ORDER BY a, e COLLATE "C";
SELECT entity, min(value) FILTER (WHERE at = '2024-01-01 00:05+00') AS at_five, count(*) AS rows FROM detect_anomalies('extreme', value => 'v', trials => 'n', entity => 'e', bucket => '1 minute') GROUP BY entity ORDER BY entity COLLATE "C";
-- as far as core's aggregates go, to the last digit
SELECT a, count(*), count(*) FILTER (WHERE d.value IS DISTINCT FROM CASE a WHEN 'avg' THEN p.avg WHEN 'sum' THEN p.sum ELSE p.stddev END) AS differing
  FROM unnest('{avg,sum,stddev}'::text[]) a, detect_anomalies('extreme', value => 'v', entity => 'e', bucket => '1 minute', aggregate => a) d
  JOIN (SELECT date_bin('1 minute', at, '2000-01-01') AS at, e AS entity, avg(v), sum(v), stddev_samp(v) AS stddev FROM extreme WHERE v < 1e100 AND v <> 'NaN' AND v > -1e100 GROUP BY 1, 2 HAVING count(*) = 6) p USING (at, entity) GROUP BY a ORDER BY a;
SELECT anomaly.create_detector('data_outlier', 'mad', 'v', source => 'extreme', value => 'v', entity => 'e', bucket => '1 minute', aggregate => 'sum', training_window => '100 years', name => 'sums');
SELECT trained_rows, entities FROM anomaly.train('sums');
DROP TABLE extreme;

SELECT count(anomaly.drop_detector(detector)) FROM anomaly.detectors;
DROP VIEW plain;
DROP TABLE visit, night, hit;
