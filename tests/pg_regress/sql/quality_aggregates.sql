-- completeness, uniqueness, validity and volume_check.
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
SET timezone = 'UTC';

SELECT completeness(v), uniqueness(v), validity(v > 2) FROM unnest('{1,1,2,NULL,5}'::int[]) AS v;

-- fault_i1: no rows, untyped NULL, all NULL, NaN
SELECT completeness(v), uniqueness(v), validity(v > 2) FROM generate_series(1, 0) AS v;
SELECT completeness(NULL), uniqueness(NULL), validity(NULL) FROM generate_series(1, 3);
SELECT completeness(v), uniqueness(v), validity(v > 2) FROM unnest('{NULL,NULL}'::float8[]) AS v;
SELECT completeness(v), uniqueness(v), validity(v < 100) FROM unnest('{NaN,NaN,Infinity,1}'::float8[]) AS v;

-- fault_i4: any type that can be sorted; equality is that of the type
SELECT uniqueness(v::numeric) AS as_numeric, uniqueness(v) AS as_text FROM unnest('{1.0,1.00,2}'::text[]) AS v;
SELECT uniqueness(v) AS jsonb, completeness(v) FROM unnest(ARRAY['{"a":1}', '{"a": 1}', NULL]::jsonb[]) AS v;
SELECT uniqueness(ARRAY[i % 3]) AS arrays, uniqueness((i % 4, 'x'::text)) AS rows, uniqueness(repeat('é', 3000) || i % 2) AS long_text,
       uniqueness(i % 2 = 0) AS booleans, uniqueness(''::bytea) AS bytes, uniqueness(make_interval(hours => i)) AS intervals
FROM generate_series(1, 12) AS i;
SELECT pg_temp.raised($$SELECT uniqueness('a') FROM generate_series(1, 3)$$);
SELECT pg_temp.raised($$SELECT uniqueness(point(i, i)) FROM generate_series(1, 3) AS i$$);
SELECT completeness(point(i, i)) FROM generate_series(1, 3) AS i;

-- spilled to disk: exact all the same
SET work_mem = '64kB';
SELECT round(uniqueness(i % 40000)::numeric, 6) AS spilled FROM generate_series(1, 100000) AS i;
SELECT count(*), min(u), max(u) FROM (SELECT uniqueness(i % 2) AS u FROM generate_series(1, 20000) AS i GROUP BY i % 1000) AS t;
RESET work_mem;

-- fault_i7: FILTER, DISTINCT, ORDER BY, windows, parallel plans
SELECT completeness(v) FILTER (WHERE v > 1) AS filtered, uniqueness(v ORDER BY v DESC) AS ordered,
       uniqueness(DISTINCT v) AS uniq, validity(DISTINCT v > 1) AS valid
FROM unnest('{1,1,2,NULL,5}'::int[]) AS v;
SELECT v, completeness(v) OVER (ORDER BY o ROWS 1 PRECEDING), validity(v > 1) OVER (ORDER BY o)
FROM unnest('{1,NULL,2}'::int[]) WITH ORDINALITY AS t(v, o) ORDER BY o;
SELECT pg_temp.raised($$SELECT uniqueness(v) OVER () FROM generate_series(1, 3) AS v$$);
SELECT pg_temp.raised($$SELECT completeness_trans('{1}', 1)$$);
SELECT pg_temp.raised($$SELECT share_final('{{1,2}}')$$);
SELECT pg_temp.raised($$SELECT count_pair_combine('{9223372036854775807,0}', '{1,0}')$$);
CREATE TABLE quality_rows AS SELECT i, CASE WHEN i % 10 > 0 THEN i END AS v FROM generate_series(1, 20000) AS i;
SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
SET max_parallel_workers_per_gather = 2;
EXPLAIN (COSTS OFF) SELECT completeness(v), validity(v > 10000) FROM quality_rows;
SELECT completeness(v), round(validity(v > 10000)::numeric, 6) AS validity FROM quality_rows;
EXPLAIN (COSTS OFF) SELECT uniqueness(v) FROM quality_rows;
SELECT uniqueness(v) FROM quality_rows;
RESET parallel_setup_cost; RESET parallel_tuple_cost; RESET min_parallel_table_scan_size; RESET max_parallel_workers_per_gather;

-- volume_check: a missing day, a burst, the unfinished day left out
CREATE TABLE "Volume rows" ("Created at" timestamptz, local_at timestamp, day date, label text, at_domain timestamptz);
INSERT INTO "Volume rows"
SELECT t, t AT TIME ZONE 'UTC', t::date, 'x', t
FROM generate_series('2024-03-01'::timestamptz, '2024-03-14 23:59', '15 min') AS t WHERE t::date <> '2024-03-06';
INSERT INTO "Volume rows" SELECT t, t AT TIME ZONE 'UTC', t::date, 'x', t FROM generate_series('2024-03-10'::timestamptz, '2024-03-10 23:59', '1 min') AS t;
INSERT INTO "Volume rows" VALUES (NULL), ('infinity'), (now()), (now() + '10 years');
SELECT bucket_start, rows, round(expected::numeric, 2) AS expected, round(lower::numeric, 2) AS lower,
       round(upper::numeric, 2) AS upper, round(deviation::numeric, 2) AS deviation, is_anomaly
FROM volume_check(source => '"Volume rows"', at => 'Created at', bucket => '1 day', until_ts => '2024-03-16 12:00');
DELETE FROM "Volume rows" WHERE "Created at" IS NULL OR "Created at" > '2025-01-01';
SELECT count(*), count(*) FILTER (WHERE is_anomaly) AS unusual, max(bucket_start) FROM volume_check('"Volume rows"', 'Created at', '1 day');
SELECT bucket_start, rows FROM volume_check('"Volume rows"', 'local_at', '1 day') WHERE is_anomaly;
SELECT bucket_start, rows FROM volume_check('"Volume rows"', 'day', '1 day') WHERE is_anomaly;
SELECT count(*), count(*) FILTER (WHERE rows = 0) AS empty FROM volume_check('"Volume rows"', 'Created at', '1 hour');
SELECT bucket_start, rows, expected, is_anomaly FROM volume_check('"Volume rows"', 'Created at', '7 days');
-- local days: in New York the change to daylight saving on 10 March leaves each day one bucket
SET timezone = 'America/New_York';
SELECT bucket_start, rows FROM volume_check('"Volume rows"', 'Created at', '1 day') WHERE bucket_start BETWEEN '2024-03-08' AND '2024-03-12';
SET timezone = 'UTC';
-- no rows, too few buckets
SELECT * FROM volume_check('"Volume rows"', 'Created at', '1 day', until_ts => '2020-01-01');
SELECT rows, is_anomaly FROM volume_check('"Volume rows"', 'Created at', '1 day', until_ts => '2024-03-04');
-- errors
SELECT pg_temp.raised($$SELECT * FROM volume_check('"Volume rows"', 'created_at', '1 day')$$);
SELECT pg_temp.raised($$SELECT * FROM volume_check('"Volume rows"', 'x; DROP TABLE y', '1 day')$$);
SELECT pg_temp.raised($$SELECT * FROM volume_check('"Volume rows"', 'label', '1 day')$$);
SELECT pg_temp.raised($$SELECT * FROM volume_check('"Volume rows"', 'Created at', '0')$$);
SELECT pg_temp.raised($$SELECT * FROM volume_check('"Volume rows"', 'Created at', '-1 day')$$);
SELECT pg_temp.raised($$SELECT * FROM volume_check('"Volume rows"', 'Created at', '1 month')$$);
SELECT pg_temp.raised($$SELECT * FROM volume_check('"Volume rows"', 'Created at', '1 second')$$);
SELECT pg_temp.raised($$SELECT * FROM volume_check('"Volume rows"', NULL, '1 day')$$);
SELECT pg_temp.raised($$SELECT * FROM volume_check('no_such_table', 'at', '1 day')$$);
SELECT pg_temp.raised($$SELECT * FROM volume_check(1::oid::regclass, 'at', '1 day')$$);
CREATE ROLE quality_stranger;
SELECT pg_temp.raised($$SET LOCAL ROLE quality_stranger; SELECT * FROM volume_check('"Volume rows"', 'Created at', '1 day')$$);
DROP ROLE quality_stranger;
-- within a read-only transaction
BEGIN READ ONLY;
SELECT count(*) FROM volume_check('"Volume rows"', 'Created at', '1 day');
COMMIT;

SELECT p.proname FROM pg_proc AS p
WHERE p.proname IN ('completeness', 'uniqueness', 'validity', 'volume_check', 'completeness_trans', 'validity_trans',
                    'uniqueness_trans', 'uniqueness_final', 'count_pair_combine', 'share_final')
  AND obj_description(p.oid, 'pg_proc') IS NULL;

DROP TABLE quality_rows, "Volume rows";
