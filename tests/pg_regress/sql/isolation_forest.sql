-- isolation_forest, its model and what scores rows by it.
SET extra_float_digits = 0;
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
-- Standard normal numbers by Box and Muller, from multiplicative congruential ones (Lehmer 1949).
CREATE TABLE forest_random (i int, z float8);
DO $$
DECLARE s bigint := 12345; u float8; v float8;
BEGIN
    FOR i IN 1..12000 LOOP
        s := s * 48271 % 2147483647; u := s / 2147483647.0;
        s := s * 48271 % 2147483647; v := s / 2147483647.0;
        INSERT INTO forest_random VALUES (i, sqrt(-2 * ln(u)) * cos(2 * pi() * v));
    END LOOP;
END $$;
CREATE TABLE metric AS SELECT i, 100 + 20 * z AS v FROM forest_random WHERE i <= 1000;
CREATE TABLE forest_rows AS
SELECT (i - 1) / 4 AS id, array_agg(z * (1 + (i - 1) % 4) ORDER BY i) AS f FROM forest_random GROUP BY 1;
CREATE TABLE forest_models AS
SELECT k AS kind, isolation_forest(ARRAY[v], jsonb_build_object('variant', k) ORDER BY i) AS m
  FROM metric, unnest('{mixed,standard,extended,sciforest,density,auto}'::text[]) k GROUP BY k;

-- check_c18_five_points: 105, 87.5 and 122.3 are silent, 1500 and 0.5 alert, 1500 as an emergency; finite deviations
SELECT kind, array_agg(is_anomaly(m, ARRAY[x]) ORDER BY x) AS is_anomaly, bool_and(anomaly_deviation(m, ARRAY[x]) BETWEEN 1 AND 1e6) FILTER (WHERE is_anomaly(m, ARRAY[x])) AS finite,
       max(explain_score(m, ARRAY[x])->>'severity') FILTER (WHERE x = 1500) AS of_1500
  FROM forest_models, unnest('{0.5,87.5,105,122.3,1500}'::float8[]) x GROUP BY kind ORDER BY kind;
-- check_c18_share_above_threshold: about 5 % of the training rows, or what contamination says
SELECT kind, count(*) FILTER (WHERE is_anomaly(m, ARRAY[v])) BETWEEN 40 AND 55 AS about_50_of_1000 FROM forest_models, metric GROUP BY kind ORDER BY kind;
SELECT c, count(*) FILTER (WHERE is_anomaly(m, ARRAY[v])) / 1000.0 BETWEEN 0.7 * c AND 1.2 * c AS about_the_share
  FROM (SELECT c, isolation_forest(ARRAY[v], jsonb_build_object('contamination', c) ORDER BY i) AS m FROM metric, unnest('{0.01,0.1,0.3}'::numeric[]) c GROUP BY c) t, metric GROUP BY c ORDER BY c;
-- check_c18_grows_with_distance, for ever
SELECT kind, bool_and(d > coalesce(last, 0)) AS grows FROM (
    SELECT kind, d, lag(d) OVER (PARTITION BY kind ORDER BY x) AS last
      FROM forest_models, unnest('{250,500,1500,1e4,1e6,1e9}'::float8[]) x, anomaly_deviation(m, ARRAY[x]) d) t GROUP BY kind ORDER BY kind;
-- check_c18_same_seed_same_model; another seed, another model
SELECT count(DISTINCT m::text) AS models FROM (
    SELECT isolation_forest(ARRAY[v], o ORDER BY i) AS m
      FROM metric, unnest('{"{}","{}","{\"random_state\": 42, \"n_estimators\": 100, \"contamination\": 0.05}","{\"random_state\": 7}"}'::jsonb[]) WITH ORDINALITY o(o, n) GROUP BY n) t;
SELECT kind, model_info(m) - 'bytes' AS info FROM forest_models WHERE kind IN ('mixed', 'auto') ORDER BY kind;

-- Scores are from 0 to 1, and rank as deviations do.
SELECT bool_and(s BETWEEN 0 AND 1) AS in_range, count(*) FILTER (WHERE s < last) AS out_of_order FROM (
    SELECT s, lag(s) OVER (ORDER BY d, s) AS last FROM (SELECT isolation_forest(f) AS m FROM forest_rows) t, forest_rows, anomaly_score(m, f) s, anomaly_deviation(m, f) d) t;

-- explain_score: contributions sum to 1, and the planted feature has the most
SELECT planted, array_position(c, (SELECT max(x) FROM unnest(c) x)) AS most, round((SELECT sum(x) FROM unnest(c) x)::numeric, 9) AS total, why->>'severity' AS severity,
       jsonb_array_length(why->'nearest_normal') AS nearest, jsonb_array_length(why->'ranges') AS ranges, (why->>'score')::float8 = anomaly_score(m, row) AS same_score,
       why->>'reason' LIKE format('feature %s is 60.00, above the usual range (%%); the most similar normal row has %%; it makes up %% of the deviation', planted) AS says_so
  FROM (SELECT isolation_forest(f ORDER BY id) AS m FROM forest_rows) t, generate_series(1, 4) planted,
       LATERAL (SELECT array_agg(CASE WHEN i = planted THEN 60 ELSE 0.1 * i END ORDER BY i)::float8[] AS row FROM generate_series(1, 4) i) r,
       explain_score(m, row) why, LATERAL (SELECT array_agg(x::float8 ORDER BY n) AS c FROM jsonb_array_elements_text(why->'contributions') WITH ORDINALITY e(x, n)) c ORDER BY planted;
SELECT explain_score(m, '{100}')->>'reason' AS usual, explain_score(m, '{NULL}')->'is_anomaly' AS missing_is_anomaly FROM forest_models WHERE kind = 'mixed';
SELECT explain_score(m, '{1,2}')->'nearest_normal' AS none_kept FROM (SELECT isolation_forest(ARRAY[i % 7, i % 5], '{"keep_rows": 0}') AS m FROM generate_series(1, 100) i) t;

-- fault_i1: NULL rows are left out, NULL elements are missing values; no rows
SELECT isolation_forest(NULL::float8[]) IS NULL AS nothing, (SELECT isolation_forest(f) IS NULL FROM forest_rows WHERE false) AS no_rows;
SELECT model_info(isolation_forest(CASE WHEN id % 2 = 0 THEN f END))->'rows' AS rows FROM forest_rows;
SELECT anomaly_score(NULL, '{1}') IS NULL AND anomaly_score(m, NULL) IS NULL AND explain_score(m, NULL) IS NULL AS nulls FROM forest_models WHERE kind = 'mixed';
SELECT is_anomaly(m, '{NULL,NULL,NULL,NULL}') AS all_missing, is_anomaly(m, '{0.1,NULL,0.2,0.3}') AS one_missing, is_anomaly(m, '{90,NULL,0.2,0.3}') AS one_missing_and_one_far,
       is_anomaly(m, '{NaN,0,0,0}') AS nan, is_anomaly(m, '{-Infinity,0,0,0}') AS infinity, anomaly_deviation(m, '{1e308,0,0,0}') < 'Infinity' AS finite
  FROM (SELECT isolation_forest(CASE WHEN id % 3 = 0 THEN ARRAY[f[1], NULL, f[3], f[4]] ELSE f END) AS m FROM forest_rows) t;
-- fault_i2: constant features, features that are always NULL, two rows, huge and tiny numbers
SELECT model_info(m)->'uninformative_features' AS uninformative, is_anomaly(m, '{7,0.5,NULL}') AS usual, is_anomaly(m, '{8,0.5,NULL}') AS other_constant
  FROM (SELECT isolation_forest(ARRAY[7, z, NULL]) AS m FROM forest_random) t;
SELECT is_anomaly(m, '{1}') AS seen, anomaly_deviation(m, '{1e9}') > 0 AS unseen FROM (SELECT isolation_forest(ARRAY[i::float8]) AS m FROM generate_series(1, 2) i) t;
SELECT is_anomaly(m, '{0,0}') AS middle, is_anomaly(m, '{1.7e308,1e-300}') AS end FROM (SELECT isolation_forest(ARRAY[z * 1e300, z * 1e-310]) AS m FROM forest_random) t;

-- fault_m4: another number of features; other bad rows
SELECT pg_temp.raised($$SELECT isolation_forest(CASE WHEN id = 5 THEN f || 1::float8 ELSE f END ORDER BY id) FROM forest_rows$$);
SELECT pg_temp.raised($$SELECT anomaly_score(m, '{1,2}') FROM forest_models$$);
SELECT pg_temp.raised($$SELECT anomaly_score(m, '{}') FROM forest_models$$);
SELECT pg_temp.raised($$SELECT anomaly_score(m, '{{1}}') FROM forest_models$$);
SELECT pg_temp.raised($$SELECT isolation_forest('{{1,2},{3,4}}'::float8[])$$);
SELECT pg_temp.raised($$SELECT isolation_forest('{}'::float8[])$$);
SELECT pg_temp.raised($$SELECT isolation_forest('{1}'::float8[])$$);
SELECT pg_temp.raised($$SELECT isolation_forest(array_fill(1::float8, ARRAY[20000]))$$);
-- fault_m5: memory is bounded before it is taken
SELECT pg_temp.raised($$SELECT isolation_forest(f, '{"n_estimators": 1000, "max_samples": 4096, "ndim": 64}') FROM forest_rows$$);
-- Bad options
SELECT o, pg_temp.raised(format('SELECT isolation_forest(f, %L) FROM forest_rows', o)) FROM unnest(ARRAY['{"trees": 5}', '{"n_estimators": 0}', '{"n_estimators": "many"}', '{"contamination": 0}',
    '{"contamination": 0.6}', '{"variant": "best"}', '{"max_samples": 1e9}', '{"categorical": [5]}', '{"random_state": -1}', '[1]']) o;
SELECT model_info(isolation_forest(f, NULL))->'n_estimators' AS null_options FROM forest_rows;

-- fault_a10: whatever the bytes, a typed error
SELECT pg_temp.raised(format('SELECT %L::anomaly_model', t)) FROM unnest(ARRAY['', 'x', '\x', '\x0', '\xzz', '\x00', '\x414e4f4d', '\x414e4f4dffff64000000000000000000']) t;
SELECT DISTINCT substring(pg_temp.raised(format('SELECT anomaly_score(%L::anomaly_model, ''{1}'')', overlay(m::text PLACING '5a' FROM at))) FOR 60) AS raised
  FROM forest_models, generate_series(35, 4000, 97) at WHERE kind = 'mixed';
SELECT pg_temp.raised(format('SELECT %L::anomaly_model', left(m::text, -2))) AS cut_off, pg_temp.raised(format('SELECT %L::anomaly_model', m::text || '00')) AS too_long FROM forest_models WHERE kind = 'mixed';
SELECT pg_temp.raised($$SELECT '\x41534d50'::anomaly_sample$$);

-- The same bytes on every version and machine
SELECT o, md5(isolation_forest(ARRAY[i * i % 97, i * 31 % 89, CASE WHEN i % 10 > 0 THEN i % 7 END], o ORDER BY i)::text) AS model
  FROM generate_series(1, 2000) i, unnest('{"{}","{\"variant\": \"auto\", \"n_estimators\": 20}","{\"categorical\": [3], \"variant\": \"density\"}"}'::jsonb[]) o GROUP BY o ORDER BY o;
-- Text in, text out: the same bytes, and the same scores
CREATE TABLE forest_copies AS SELECT kind, m::text::anomaly_model AS m FROM forest_models;
SELECT count(*) AS models, bool_and(a.m::text = b.m::text) AS same_bytes, bool_and(anomaly_deviation(a.m, ARRAY[x]) = anomaly_deviation(b.m, ARRAY[x])) AS same_answers
  FROM forest_models a JOIN forest_copies b USING (kind), unnest('{0.5,105,1500}'::float8[]) x;

-- Parallel plans: workers sample, the leader trains, the model is as good.
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET max_parallel_workers_per_gather = 2;
SET jit = off;
EXPLAIN (COSTS OFF) SELECT isolation_forest(f) FROM forest_rows;
CREATE TABLE forest_parallel AS SELECT isolation_forest(f) AS m FROM forest_rows;
SELECT model_info(m)->'rows' AS rows, is_anomaly(m, '{0.1,0.2,0.3,0.4}') AS usual, is_anomaly(m, '{9,0.2,0.3,0.4}') AS far,
       (SELECT count(*) FROM forest_rows WHERE is_anomaly(m, f)) BETWEEN 100 AND 190 AS about_150_of_3000 FROM forest_parallel;
-- Partial samples are put together, whatever the share of each process was.
SELECT model_info(isolation_forest_final(isolation_forest_combine(isolation_forest_trans(isolation_forest_trans(NULL, '{1,2}'), '{3,4}'), isolation_forest_trans(NULL, '{5,6}'))))->'rows' AS rows,
       isolation_forest_combine(NULL, NULL) IS NULL AS none, model_info(isolation_forest_final(isolation_forest_combine(NULL, isolation_forest_combine(s, s))))->'rows' AS twice
  FROM isolation_forest_trans(NULL, '{1}') s;
SELECT pg_temp.raised($$SELECT isolation_forest_combine(isolation_forest_trans(NULL, '{1}'), isolation_forest_trans(NULL, '{1,2}'))$$);
SELECT pg_temp.raised($$SELECT isolation_forest_combine(isolation_forest_trans(NULL, '{1}'), isolation_forest_trans(NULL, '{1}', '{"random_state": 1}'))$$);
-- More rows than the sample keeps
SELECT model_info(m)->'rows' AS rows, is_anomaly(m, '{0}') AS usual, is_anomaly(m, '{9}') AS far FROM (SELECT isolation_forest(ARRAY[z], '{"sample_size": 500}') AS m FROM forest_random) t;
-- Scoring by a model from a scalar subselect is for workers too.
CREATE FUNCTION pg_temp.plan(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE line text; plan text := '';
BEGIN
    FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP plan := plan || trim(line) || E'\n'; END LOOP;
    RETURN plan;
END $$;
SELECT pg_temp.plan('SELECT count(*) FROM forest_rows WHERE anomaly_score((SELECT isolation_forest(f) FROM forest_rows), f) > 0.99') ~ '-> *Parallel Seq Scan on forest_rows\s+Filter: .anomaly_score' AS workers_score;
RESET ALL;

-- A model per group: each row is scored by its own.
SELECT bool_and(anomaly_deviation(m, ARRAY[x]) < 3 AND anomaly_deviation(m, ARRAY[x + 1000]) > 5) AS by_its_own
  FROM (SELECT i % 20 AS g, isolation_forest(ARRAY[1000 * (i % 20) + z]) AS m FROM forest_random GROUP BY 1) models JOIN (SELECT i % 20 AS g, 1000 * (i % 20) + z / 4 AS x FROM forest_random WHERE i <= 200) r USING (g);

-- Training stops when told to.
SELECT clock_timestamp() AS started \gset
\set VERBOSITY terse
SET statement_timeout = '200ms';
SELECT isolation_forest(f, '{"n_estimators": 1000, "max_samples": 800, "variant": "auto", "ntry": 64}') FROM forest_rows;
RESET statement_timeout;
\set VERBOSITY default
SELECT clock_timestamp() - :'started' < interval '5 s' AS soon;
DROP TABLE forest_random, metric, forest_rows, forest_models, forest_copies, forest_parallel;
