-- detect_anomalies over 1,000 series of 1,000 hourly points beside the usual way outside the database: export, STL per
-- series with statsmodels, and distances in median absolute deviations of what STL leaves over. The robust fit is what
-- detection needs, because the plain one bends towards the anomalies; both are shown. The plain and the robust case
-- tell which points are anomalies, as detect_auto_anomalies does; detect_auto answers every point with its range. They
-- work on the first 50 series only, so that the benchmark ends in minutes; time per row is what is compared.
-- @repetitions 3

-- @setup
\setenv PGDATABASE :DBNAME
SELECT setseed(0.42);
CREATE TABLE metric AS
SELECT s AS series, timestamptz '2026-01-01Z' + i * interval '1 hour' AS at,
       100 + s % 50 + 20 * sin(2 * pi() * i / 24) + sqrt(-2 * ln(1 - random())) * cos(2 * pi() * random())
       + CASE WHEN (s * 1000 + i) % 997 = 0 THEN 15 ELSE 0 END AS value
FROM generate_series(0, 999) AS s, generate_series(0, 999) AS i;
VACUUM (ANALYZE, FREEZE) metric;

-- @case detect_auto rows=1_000_000
SELECT '@fact found ' || count(*) FILTER (WHERE is_anomaly) || ' of ' || count(*)
FROM detect_anomalies('SELECT at, series::text, value FROM metric', entity => 'series', strategy => 'auto');
-- @case detect_auto_anomalies rows=1_000_000
SELECT '@fact found ' || count(*)
FROM detect_anomalies('SELECT at, series::text, value FROM metric', entity => 'series', strategy => 'auto',
                      only_anomalies => true) WHERE is_anomaly;
-- @case detect_seasonal rows=1_000_000
SELECT '@fact found ' || count(*) FILTER (WHERE is_anomaly) || ' of ' || count(*)
FROM detect_anomalies('SELECT at, series::text, value FROM metric', entity => 'series', strategy => 'seasonal');
-- @case statsmodels_robust_stl rows=50_000 beside=detect_auto_anomalies parallel=yes owed="ratio >= 20"
\echo `target/venv-bench/bin/python bench/stl_mad.py robust`
-- @case statsmodels_stl rows=50_000 beside=detect_auto_anomalies parallel=yes
\echo `target/venv-bench/bin/python bench/stl_mad.py plain`
