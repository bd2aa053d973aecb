-- anomaly_summary, its type, its accessors and rollup.
-- Reference numbers: NumPy (quantile, var ddof=1) and SciPy (skew, kurtosis, median_abs_deviation).
SET extra_float_digits = 0;
SET datestyle = 'ISO, YMD';
-- What a statement raises: code, message and hint.
CREATE FUNCTION pg_temp.raised(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE code text; message text; hint text;
BEGIN
    EXECUTE query;
    RETURN 'nothing';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
    RETURN format('%s: %s%s', code, message, CASE WHEN hint <> '' THEN ' (HINT: ' || hint || ')' END);
END $$;

SELECT num_vals(s), num_nulls(s), num_nans(s), num_infs(s), mean(s), stddev(s), variance(s),
       round(skewness(s)::numeric, 12) AS skewness, round(kurtosis(s)::numeric, 12) AS kurtosis,
       min_val(s), max_val(s), quantile(s, 0.01), median(s), mad(s), iqr(s), rank_error(s)
FROM (SELECT anomaly_summary(v) AS s FROM unnest('{1,2,3,4,10}'::float8[]) AS v) AS t;
SELECT b.lower, b.upper, (iqr_bounds(s, k => 3)).*
FROM (SELECT anomaly_summary(v) AS s FROM unnest('{1,2,3,4,10}'::float8[]) AS v) AS t, iqr_bounds(s) AS b;
SELECT round(zscore(s, 7)::numeric, 12) AS z, modified_zscore(s, 7) AS m
FROM (SELECT anomaly_summary(v) AS s FROM unnest('{1,2,3,4,10}'::float8[]) AS v) AS t;

-- fault_i1: no rows, only NULL, only NaN and infinities, a mixture
SELECT anomaly_summary(v) IS NULL AS is_null FROM generate_series(1, 0) AS v;
SELECT num_vals(s), num_nulls(s), num_nans(s), num_infs(s), mean(s), stddev(s), skewness(s), median(s),
       mad(s), iqr(s), min_val(s), zscore(s, 1), modified_zscore(s, 1), iqr_bounds(s), rank_error(s)
FROM (SELECT anomaly_summary(v) AS s FROM unnest('{NULL,NULL}'::float8[]) AS v) AS t;
SELECT num_vals(s), num_nulls(s), num_nans(s), num_infs(s), mean(s), median(s)
FROM (SELECT anomaly_summary(v) AS s FROM unnest('{NaN,Infinity,-Infinity,NULL}'::float8[]) AS v) AS t;
SELECT num_vals(s), num_infs(s), mean(s), max_val(s), zscore(s, 'NaN'), zscore(s, 'Infinity'), zscore(s, NULL)
FROM (SELECT anomaly_summary(v) AS s FROM unnest('{1,Infinity,3}'::float8[]) AS v) AS t;

-- fault_i2: one value, a constant
SELECT mean(s), stddev(s), variance(s), skewness(s), median(s), mad(s), zscore(s, 8), modified_zscore(s, 8)
FROM (SELECT anomaly_summary(v) AS s FROM unnest('{7}'::float8[]) AS v) AS t;
SELECT stddev(s), skewness(s), kurtosis(s), mad(s), zscore(s, 0.1), zscore(s, 0.2), zscore(s, 0),
       modified_zscore(s, 0.1), modified_zscore(s, 0.2), iqr_bounds(s)
FROM (SELECT anomaly_summary(0.1) AS s FROM generate_series(1, 5000)) AS t;

-- fault_i3: the ends of double precision
SELECT mean(s), round((stddev(s) / 1e300)::numeric, 6) AS sd, round(skewness(s)::numeric, 9) AS skewness,
       round(kurtosis(s)::numeric, 9) AS kurtosis, round(zscore(s, 7e300)::numeric, 9) AS z
FROM (SELECT anomaly_summary(v * 1e300) AS s FROM unnest('{1,2,3,4,10}'::float8[]) AS v) AS t;
SELECT round((mean(s) * 1e300)::numeric, 9) AS mean, round(kurtosis(s)::numeric, 9) AS kurtosis
FROM (SELECT anomaly_summary(v * 1e-300) AS s FROM unnest('{1,2,3,4,10}'::float8[]) AS v) AS t;
SELECT pg_temp.raised($$SELECT variance(anomaly_summary(v)) FROM unnest('{1e308,-1e308}'::float8[]) AS v$$);
SELECT pg_temp.raised($$SELECT iqr(anomaly_summary(v)) FROM unnest('{1.7e308,-1.7e308,1.6e308,-1.6e308}'::float8[]) AS v$$);

-- fault_i6: bad parameters
SELECT pg_temp.raised($$SELECT quantile(anomaly_summary(v), 1.5) FROM generate_series(1, 3) AS v$$);
SELECT pg_temp.raised($$SELECT quantile(anomaly_summary(v), 'NaN') FROM generate_series(1, 3) AS v$$);
SELECT pg_temp.raised($$SELECT iqr_bounds(anomaly_summary(v), -1) FROM generate_series(1, 3) AS v$$);
SELECT pg_temp.raised($$SELECT iqr_bounds(anomaly_summary(v), 'Infinity') FROM generate_series(1, 3) AS v$$);

-- fault_i4: text and binary forms: round trip, and every kind of damage
SELECT anomaly_summary(v)::text AS golden FROM unnest('{1,2.5,-4,NaN,Infinity,NULL}'::float8[]) AS v;
CREATE TABLE summary_copies AS
SELECT n, anomaly_summary(v) AS s FROM generate_series(0, 5000, 1250) AS n, LATERAL generate_series(0, n) AS v GROUP BY n;
SELECT n, s::text::anomaly_sketch::text = s::text AS round_trip,
       sha256(anomaly_sketch_send(s)) = sha256(decode(substr(s::text, 3), 'hex')) AS send_is_text
FROM summary_copies ORDER BY n;
SELECT pg_temp.raised($$SELECT ''::anomaly_sketch$$);
SELECT pg_temp.raised($$SELECT '\x4'::anomaly_sketch$$);
SELECT pg_temp.raised($$SELECT '\xzz'::anomaly_sketch$$);
SELECT pg_temp.raised($$SELECT '\x'::anomaly_sketch$$);
SELECT pg_temp.raised($$SELECT '\x0011223344'::anomaly_sketch$$);
SELECT pg_temp.raised($$SELECT ('\x' || repeat('00', 156))::anomaly_sketch$$);
SELECT pg_temp.raised($$SELECT overlay(s::text placing '7' from 100)::anomaly_sketch FROM summary_copies WHERE n = 1250$$);
SELECT pg_temp.raised($$SELECT left(s::text, -16)::anomaly_sketch FROM summary_copies WHERE n = 1250$$);
SELECT pg_temp.raised($$SELECT overlay(s::text placing '02' from 11)::anomaly_sketch FROM summary_copies WHERE n = 1250$$);
COPY summary_copies TO '/dev/null' (FORMAT binary);

-- stored and rolled up: the same as one summary of all
CREATE TABLE summary_rows AS SELECT i, (i * 7919 % 10007)::float8 AS v, i % 100 AS g FROM generate_series(1, 20000) AS i;
CREATE TABLE summary_groups AS SELECT g, anomaly_summary(v) AS s FROM summary_rows GROUP BY g;
SELECT num_vals(r) = num_vals(w) AS same_count, abs(mean(r) / mean(w) - 1) < 1e-12 AS same_mean,
       abs(stddev(r) / stddev(w) - 1) < 1e-12 AS same_sd, abs(kurtosis(r) / kurtosis(w) - 1) < 1e-12 AS same_kurtosis,
       abs(median(r) - median(w)) / 10007 < rank_error(r) + rank_error(w) AS near_median,
       rank_error(r) < 0.005 AS bounded, pg_column_size(r) < 16400 AS small
FROM (SELECT rollup(s) AS r FROM summary_groups) AS a, (SELECT anomaly_summary(v) AS w FROM summary_rows) AS b;
SELECT rollup(s) IS NULL AS is_null FROM summary_groups WHERE false;
SELECT rollup(NULL::anomaly_sketch) IS NULL AS is_null FROM generate_series(1, 3);
SELECT num_vals(anomaly_summary_combine(a.s, b.s)), num_vals(anomaly_summary_combine(NULL, b.s)),
       num_vals(anomaly_summary_trans(a.s, 1)), num_vals(a.s) AS unchanged
FROM summary_groups AS a, summary_groups AS b WHERE a.g = 1 AND b.g = 2;

-- exact for each of many small groups, hashed
SET enable_sort = off;
EXPLAIN (COSTS OFF) SELECT g, anomaly_summary(v) FROM summary_rows GROUP BY g;
RESET enable_sort;
SELECT max(abs(m - p)) AS largest_difference
FROM (SELECT i / 4 AS g, median(anomaly_summary(v)) AS m, percentile_cont(0.5) WITHIN GROUP (ORDER BY v) AS p
      FROM summary_rows GROUP BY i / 4) AS t;

-- fault_i7: FILTER, DISTINCT, ORDER BY, window frames
SELECT num_vals(anomaly_summary(v) FILTER (WHERE i <= 10)) AS filtered, num_vals(anomaly_summary(DISTINCT g)) AS uniq,
       median(anomaly_summary(v ORDER BY v DESC) FILTER (WHERE i <= 11)) AS ordered
FROM summary_rows;
SELECT i, v, round(zscore(anomaly_summary(v) OVER (ORDER BY i ROWS 3 PRECEDING), v)::numeric, 9) AS z,
       num_vals(anomaly_summary(v) OVER (ORDER BY i)) AS n,
       median(anomaly_summary(v) OVER (ORDER BY i ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING)) AS m
FROM summary_rows WHERE i <= 6 ORDER BY i;

-- fault_i7: a parallel plan gives the serial answer
CREATE TABLE summary_serial AS SELECT anomaly_summary(v) AS s, completeness(v) AS c FROM summary_rows;
SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
SET max_parallel_workers_per_gather = 2;
EXPLAIN (COSTS OFF) SELECT anomaly_summary(v) FROM summary_rows;
CREATE TABLE summary_parallel AS SELECT anomaly_summary(v) AS s, completeness(v) AS c FROM summary_rows;
SELECT num_vals(p.s) = num_vals(w.s) AS same_count, abs(variance(p.s) / variance(w.s) - 1) < 1e-12 AS same_variance,
       abs(skewness(p.s) - skewness(w.s)) < 1e-12 AS same_skewness,
       abs(quantile(p.s, 0.9) - quantile(w.s, 0.9)) / 10007 < rank_error(p.s) + rank_error(w.s) AS near_quantile, p.c = w.c AS same_completeness
FROM summary_parallel AS p, summary_serial AS w;
EXPLAIN (COSTS OFF) SELECT rollup(s) FROM summary_groups;
SELECT num_vals(rollup(s)) FROM summary_groups;
RESET ALL;

-- every object of this page is described and labelled
SELECT p.proname, p.provolatile, p.proparallel, p.proisstrict
FROM pg_proc AS p
WHERE (p.prorettype = 'anomaly_sketch'::regtype OR 'anomaly_sketch'::regtype = ANY (p.proargtypes))
  AND (obj_description(p.oid, 'pg_proc') IS NULL OR p.proparallel <> 's' OR p.provolatile <> 'i');

DROP TABLE summary_copies, summary_rows, summary_groups, summary_serial, summary_parallel;
