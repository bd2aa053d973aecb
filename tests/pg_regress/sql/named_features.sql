-- Isolation forests with named features, which score rows and JSON objects by name.
SET extra_float_digits = 0;
CREATE FUNCTION pg_temp.raised(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE code text; message text; hint text;
BEGIN
    EXECUTE query;
    RETURN 'nothing';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
    RETURN format('%s: %s%s', code, message, CASE WHEN hint <> '' THEN ' (HINT: ' || hint || ')' END);
END $$;
CREATE DOMAIN price AS numeric(8,2) CHECK (VALUE >= 0);
CREATE TABLE sale (id int, note text, price price, items smallint, age int, rush boolean);
INSERT INTO sale SELECT i, 'n' || i, i * 7919 % 101, i % 9 + 1, CASE WHEN i % 50 > 0 THEN 20 + i * 104729 % 47 END, i % 3 = 0 FROM generate_series(1, 1000) i;
CREATE TABLE sale_model AS
SELECT k AS kind, isolation_forest(ARRAY[price, items, age, rush::int], jsonb_build_object('variant', k, 'features', '["price", "items", "age", "rush"]'::jsonb) ORDER BY id) AS m
  FROM sale, unnest('{mixed,auto}'::text[]) k GROUP BY k;
SELECT kind, model_info(m)->'names' AS names, model_info(m)->'features' AS features FROM sale_model ORDER BY kind;

-- check_c22_rows_by_name: a row, an object and an array of the same numbers score alike
SELECT kind, count(*) AS rows, bool_and(anomaly_score_row(m, sale) = s) AS of_table, bool_and(anomaly_score_json(m, to_jsonb(sale)) = s) AS of_json,
       bool_and(anomaly_score_row(m, t) = s) AS of_any_order, count(DISTINCT s) > 200 AS differ
  FROM sale_model, sale, anomaly_score(m, ARRAY[price, items, age, rush::int]) s, LATERAL (SELECT rush, age::float8, items::bigint, id, price::real AS price) t GROUP BY kind ORDER BY kind;
-- The row's type may change from row to row, and with it where the columns are.
SELECT anomaly_score_row(m, CASE WHEN n = 1 THEN (SELECT r FROM (SELECT 500 AS price, 1 AS items, 30 AS age, true AS rush) r) ELSE (SELECT r FROM (SELECT true AS rush, 30::numeric AS age, 1 AS items, 500::float4 AS price) r) END) = anomaly_score(m, '{500,1,30,1}') AS same
  FROM sale_model, generate_series(1, 2) n WHERE kind = 'mixed';
DO $$
DECLARE m anomaly_model; a float8; b float8;
BEGIN
    SELECT s.m INTO m FROM sale_model s WHERE kind = 'mixed';
    CREATE TEMP TABLE changing (price float8, items int, age int, rush boolean);
    INSERT INTO changing VALUES (500, 1, 30, true);
    FOR i IN 1..2 LOOP
        SELECT anomaly_score_row(m, c) INTO a FROM changing c;
        b := coalesce(b, a);
        ALTER TABLE changing ALTER price TYPE numeric, ALTER rush TYPE int USING rush::int;
        ALTER TABLE changing DROP items, ADD items bigint DEFAULT 1;
    END LOOP;
    RAISE NOTICE 'after a change of types: %', a = b;
END $$;
-- What is not there is missing: a column, a key, NULL.
SELECT anomaly_score_row(m, t) = s AS column_is_missing, anomaly_score_json(m, '{"price": 500, "age": 30, "other": "text"}') = s AS key_is_missing, anomaly_score_json(m, '{"price": 500, "age": 30, "items": null, "rush": null}') = s AS null_is_missing,
       anomaly_score_json(m, '{}') = anomaly_score(m, '{NULL,NULL,NULL,NULL}') AS all_are_missing
  FROM sale_model, (SELECT 30 AS age, 500 AS price, NULL::boolean AS rush) t, anomaly_score(m, '{500,NULL,30,NULL}') s WHERE kind = 'auto';
SELECT anomaly_score_json(m, '{"price": "500", "items": 1.0, "age": " 3e1 ", "rush": true}') = anomaly_score(m, '{500,1,30,1}') AS numeric_text FROM sale_model WHERE kind = 'mixed';
SELECT anomaly_score_row(NULL, t) IS NULL AND anomaly_score_row(m, NULL) IS NULL AND anomaly_score_json(m, NULL) IS NULL AS nulls FROM sale_model, (SELECT 1 AS price) t WHERE kind = 'mixed';
SELECT anomaly_score_row(m, t) BETWEEN 0 AND 1 AS extreme FROM sale_model, (SELECT 1e400::numeric AS price, 'NaN'::float8 AS items, '-Infinity'::float4 AS age) t WHERE kind = 'mixed';
SELECT anomaly_score_row(model => m, features => t) = anomaly_score_json(model => m, features => '{"price": 5}') AS by_name FROM sale_model, (SELECT 5 AS price) t WHERE kind = 'mixed';

-- Names instead of positions, in options and in explanations
SELECT anomaly_deviation(a, '{50,3}') = anomaly_deviation(b, '{50,3}') AND is_anomaly(a, '{50,12}') = is_anomaly(b, '{50,12}') AS categorical_by_name, model_info(b)->'names' AS none
  FROM (SELECT isolation_forest(ARRAY[price, items], '{"features": ["price", "items"], "categorical": ["items"]}' ORDER BY id) AS a, isolation_forest(ARRAY[price, items], '{"categorical": [2]}' ORDER BY id) AS b FROM sale) t;
SELECT why->'names' AS names, why->>'reason' LIKE 'price is 5000.00, %' AS says_so FROM sale_model, explain_score(m, '{5000,1,30,0}') why WHERE kind = 'mixed';

-- Bad rows, bad names
SELECT pg_temp.raised($$SELECT anomaly_score_row(m, t) FROM sale_model, (SELECT 1 AS cost) t$$);
SELECT pg_temp.raised($$SELECT anomaly_score_row(m, t) FROM sale_model, (SELECT 'x' AS price) t$$);
SELECT pg_temp.raised($$SELECT anomaly_score_row(m, t) FROM sale_model, (SELECT ARRAY[1] AS price) t$$);
SELECT v, pg_temp.raised(format('SELECT anomaly_score_json(m, %L) FROM sale_model', v)) FROM unnest('{"[1]","5","null","\"x\"","{\"price\": \"x\"}","{\"price\": [1]}","{\"price\": {}}","{\"price\": \"\"}","{\"price\": 1e400}"}'::text[]) v;
SELECT pg_temp.raised($$SELECT anomaly_score_json(isolation_forest(ARRAY[price, items]), '{"price": 1}') FROM sale$$);
SELECT pg_temp.raised($$SELECT anomaly_score_row(isolation_forest(ARRAY[price, items]), ROW(1)) FROM sale$$);
SELECT o, pg_temp.raised(format('SELECT isolation_forest(ARRAY[price, items], %L) FROM sale', o)) FROM unnest(ARRAY['{"features": ["price"]}', '{"features": ["a", "a"]}', '{"features": "price"}', '{"features": [1, 2]}', '{"features": ["", "a"]}',
    '{"features": ["price", "items"], "categorical": ["age"]}', '{"categorical": ["items"]}']) o;

-- Two arguments of unknown type, such as a driver's parameters, are a model and an array. They would be ambiguous beside a second form
-- of two arguments, which is why a detector is asked by other functions.
PREPARE untyped AS SELECT round(anomaly_score($1, $2)::numeric, 6) = round(anomaly_score(m, '{5,1,30,0}')::numeric, 6) AS same FROM sale_model WHERE kind = 'mixed';
SELECT m::text AS model FROM sale_model WHERE kind = 'mixed' \gset
EXECUTE untyped(:'model', '{5,1,30,0}');
CREATE FUNCTION anomaly_score(detector text, value double precision) RETURNS text LANGUAGE sql AS $$ SELECT 'detector' $$;
SELECT q, pg_temp.raised(q) AS raised FROM unnest(ARRAY['SELECT anomaly_score(''cpu'', 5)', 'SELECT anomaly_score(''cpu'', ''5'')', 'SELECT anomaly_score(''cpu'', NULL)', 'PREPARE p AS SELECT anomaly_score($1, $2)']) q;
DROP FUNCTION anomaly_score(text, double precision);

-- A parallel plan scores rows, too
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
CREATE TABLE sales AS SELECT sale.* FROM sale, generate_series(1, 40);
ANALYZE sales;
DO $$
DECLARE line text; plan text := '';
BEGIN
    FOR line IN EXPLAIN (COSTS OFF) SELECT sum(anomaly_score_row((SELECT m FROM sale_model WHERE kind = 'mixed'), sales)) FROM sales LOOP plan := plan || trim(line) || E'\n'; END LOOP;
    RAISE NOTICE 'workers score: %', plan ~ 'Partial Aggregate\s+-> *Parallel Seq Scan on sales';
END $$;
SELECT round(sum(anomaly_score_row((SELECT m FROM sale_model WHERE kind = 'mixed'), sales))::numeric, 6) = round(sum(anomaly_score((SELECT m FROM sale_model WHERE kind = 'mixed'), ARRAY[price, items, age, rush::int]))::numeric, 6) AS same FROM sales;
DROP TABLE sale, sale_model, sales;
DROP DOMAIN price;
