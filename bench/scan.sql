-- Managed scans: a detector with one state per entity, trained on 100 points of each of 10,000 entities, judges
-- 1,000,000 new points. Timed is the scan alone, one statement and one transaction: reading the new rows in
-- the order of time, judging, and writing states, alerts and the run's row, durably. All on one core.
--
-- The new rows lie between the moment of training and now, a microsecond apart, because a scan takes up
-- where training ended. They visit the entities in turn, which is the worst order for the processor's caches.
-- One in ten thousand is a gross spike.
-- @repetitions 3

-- @setup
SELECT setseed(0.42);
CREATE TABLE history AS
SELECT now() - interval '2 hours' + t * interval '1 minute' + e * interval '1 millisecond' AS at,
       'host-' || lpad(e::text, 5, '0') AS host,
       50 + e % 100 + 5 * sqrt(-2 * ln(1 - random())) * cos(2 * pi() * random()) AS cpu
FROM generate_series(1, 100) AS t, generate_series(0, 9999) AS e;
CREATE TABLE arriving AS
SELECT i::int8 AS i,
       'host-' || lpad((i % 10000)::text, 5, '0') AS host,
       50 + i % 100 + 5 * sqrt(-2 * ln(1 - random())) * cos(2 * pi() * random())
       + CASE WHEN i % 10007 = 0 THEN 500 ELSE 0 END AS cpu
FROM generate_series(1, 1000000) AS i;
VACUUM (ANALYZE, FREEZE) history, arriving;
CREATE TABLE host_cpu (at timestamptz NOT NULL, host text NOT NULL, cpu double precision);
CREATE INDEX ON host_cpu (at);

-- @case scan_mad rows=1_000_000 owed="rows_per_s >= 400000"
\set strategy statistical_mad
\i bench/scan/prepare.sql
-- @timed
SELECT '@fact points_scored ' || points_scored || E'\n@fact alerts_opened ' || alerts_opened
FROM anomaly.scan((SELECT detector FROM anomaly.detectors));

-- @case scan_zscore rows=1_000_000 owed="rows_per_s >= 400000"
\set strategy statistical_zscore
\i bench/scan/prepare.sql
-- @timed
SELECT '@fact points_scored ' || points_scored || E'\n@fact alerts_opened ' || alerts_opened
FROM anomaly.scan((SELECT detector FROM anomaly.detectors));

-- @case scan_iqr rows=1_000_000 owed="rows_per_s >= 400000"
\set strategy statistical_iqr
\i bench/scan/prepare.sql
-- @timed
SELECT '@fact points_scored ' || points_scored || E'\n@fact alerts_opened ' || alerts_opened
FROM anomaly.scan((SELECT detector FROM anomaly.detectors));

-- @case scan_seasonal rows=1_000_000 owed="rows_per_s >= 200000"
\set strategy statistical_seasonal
\i bench/scan/prepare.sql
-- @timed
SELECT '@fact points_scored ' || points_scored || E'\n@fact alerts_opened ' || alerts_opened
FROM anomaly.scan((SELECT detector FROM anomaly.detectors));

-- For scale: what core needs to read and group the same rows.
-- @case group_by_entity rows=1_000_000 beside=scan_mad
SELECT count(*) FROM (
    SELECT host, count(*), avg(cpu) FROM host_cpu WHERE at > :'trained_at'::timestamptz GROUP BY host) AS q;
