-- Moving scores beside core's own sum(int4), whose transition and inverse transition are the cheapest that
-- PostgreSQL has: what is left is the cost of the window itself. avg and stddev of double precision have no
-- inverse transition, so the server computes each frame anew; they run over fewer rows, compared per row.
-- @repetitions 5

-- @setup
SELECT setseed(0.42);
-- A daily cycle of 1,440 points with normal noise and one gross spike in a thousand.
CREATE TABLE reading AS
SELECT i::int4 AS i,
       100 + 20 * sin(2 * pi() * i / 1440) + 5 * sqrt(-2 * ln(1 - random())) * cos(2 * pi() * random())
       + CASE WHEN random() < 0.001 THEN 300 ELSE 0 END AS v,
       (random() * 1000)::int4 AS k
FROM generate_series(1, 1000000) AS i;
CREATE UNIQUE INDEX ON reading (i);
VACUUM (ANALYZE, FREEZE) reading;

-- @case sum_int4_100 rows=1_000_000
SELECT count(x) FROM (SELECT sum(k) OVER (ORDER BY i ROWS 100 PRECEDING) AS x FROM reading) AS q;
-- @case zscore_100 rows=1_000_000 beside=sum_int4_100 owed="ratio <= 1.2"
SELECT count(x) FROM (SELECT zscore(v) OVER (ORDER BY i ROWS 100 PRECEDING) AS x FROM reading) AS q;
-- @case modified_zscore_100 rows=1_000_000 beside=sum_int4_100 owed="ratio <= 2.2"
SELECT count(x) FROM (SELECT modified_zscore(v) OVER (ORDER BY i ROWS 100 PRECEDING) AS x FROM reading) AS q;
-- @case iqr_score_100 rows=1_000_000 beside=sum_int4_100 owed="ratio <= 2.2"
SELECT count(x) FROM (SELECT iqr_score(v) OVER (ORDER BY i ROWS 100 PRECEDING) AS x FROM reading) AS q;
-- @case anomaly_score_100 rows=1_000_000 beside=sum_int4_100 owed="ratio <= 2.2"
SELECT count(x) FROM (SELECT anomaly_score(v) OVER (ORDER BY i ROWS 100 PRECEDING) AS x FROM reading) AS q;
-- @case ewma_score_100 rows=1_000_000 beside=sum_int4_100
SELECT count(x) FROM (SELECT ewma_score(v, 0.1) OVER (ORDER BY i ROWS 100 PRECEDING) AS x FROM reading) AS q;

-- @case sum_int4_1000 rows=1_000_000
SELECT count(x) FROM (SELECT sum(k) OVER (ORDER BY i ROWS 1000 PRECEDING) AS x FROM reading) AS q;
-- @case zscore_1000 rows=1_000_000 beside=sum_int4_1000 owed="ratio <= 1.2"
SELECT count(x) FROM (SELECT zscore(v) OVER (ORDER BY i ROWS 1000 PRECEDING) AS x FROM reading) AS q;
-- @case modified_zscore_1000 rows=1_000_000 beside=sum_int4_1000 owed="ratio <= 2.2"
SELECT count(x) FROM (SELECT modified_zscore(v) OVER (ORDER BY i ROWS 1000 PRECEDING) AS x FROM reading) AS q;
-- @case iqr_score_1000 rows=1_000_000 beside=sum_int4_1000 owed="ratio <= 2.2"
SELECT count(x) FROM (SELECT iqr_score(v) OVER (ORDER BY i ROWS 1000 PRECEDING) AS x FROM reading) AS q;
-- @case anomaly_score_1000 rows=1_000_000 beside=sum_int4_1000 owed="ratio <= 2.2"
SELECT count(x) FROM (SELECT anomaly_score(v) OVER (ORDER BY i ROWS 1000 PRECEDING) AS x FROM reading) AS q;
-- @case ewma_score_1000 rows=1_000_000 beside=sum_int4_1000
SELECT count(x) FROM (SELECT ewma_score(v, 0.1) OVER (ORDER BY i ROWS 1000 PRECEDING) AS x FROM reading) AS q;

-- @case sum_int4_10000 rows=1_000_000
SELECT count(x) FROM (SELECT sum(k) OVER (ORDER BY i ROWS 10000 PRECEDING) AS x FROM reading) AS q;
-- @case zscore_10000 rows=1_000_000 beside=sum_int4_10000 owed="ratio <= 1.2"
SELECT count(x) FROM (SELECT zscore(v) OVER (ORDER BY i ROWS 10000 PRECEDING) AS x FROM reading) AS q;
-- @case modified_zscore_10000 rows=1_000_000 beside=sum_int4_10000 owed="ratio <= 3.5"
SELECT count(x) FROM (SELECT modified_zscore(v) OVER (ORDER BY i ROWS 10000 PRECEDING) AS x FROM reading) AS q;
-- @case iqr_score_10000 rows=1_000_000 beside=sum_int4_10000 owed="ratio <= 3.5"
SELECT count(x) FROM (SELECT iqr_score(v) OVER (ORDER BY i ROWS 10000 PRECEDING) AS x FROM reading) AS q;
-- @case anomaly_score_10000 rows=1_000_000 beside=sum_int4_10000 owed="ratio <= 3.5"
SELECT count(x) FROM (SELECT anomaly_score(v) OVER (ORDER BY i ROWS 10000 PRECEDING) AS x FROM reading) AS q;
-- @case ewma_score_10000 rows=1_000_000 beside=sum_int4_10000
SELECT count(x) FROM (SELECT ewma_score(v, 0.1) OVER (ORDER BY i ROWS 10000 PRECEDING) AS x FROM reading) AS q;

-- How many times longer core's own functions take per row than zscore over the same frame.
-- @case avg_stddev_100 rows=200_000 beside=zscore_100 owed="ratio >= 10"
SELECT count(x) FROM (
    SELECT (v - avg(v) OVER w) / nullif(stddev(v) OVER w, 0) AS x FROM reading WHERE i <= 200000
    WINDOW w AS (ORDER BY i ROWS 100 PRECEDING)) AS q;
-- @case avg_stddev_1000 rows=20_000 beside=zscore_1000 owed="ratio >= 100"
SELECT count(x) FROM (
    SELECT (v - avg(v) OVER w) / nullif(stddev(v) OVER w, 0) AS x FROM reading WHERE i <= 20000
    WINDOW w AS (ORDER BY i ROWS 1000 PRECEDING)) AS q;
