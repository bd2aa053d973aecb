-- fault_i3_json_numbers, fault_i4_json_nesting: every function that takes jsonb, with numbers beyond double precision and with
-- values nested deeper than it can read: an error that says so. Lists what answers otherwise.
CREATE FUNCTION pg_temp.outcome(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE hint text;
BEGIN
    EXECUTE command;
    RAISE EXCEPTION USING ERRCODE = 'P0099';    -- takes it back
EXCEPTION
    WHEN SQLSTATE 'P0099' THEN RETURN 'ok';
    WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
        RETURN concat_ws(' | ', SQLSTATE, SQLERRM, hint);
END $$;
CREATE TABLE json_limits AS SELECT now() - i * interval '1 minute' AS at, i % 7 AS v FROM generate_series(1, 100) i;
CREATE FUNCTION pg_temp.value(parameter text, type text) RETURNS text LANGUAGE sql AS $$
    SELECT CASE WHEN type = 'jsonb' THEN '%s' WHEN parameter = 'source' THEN '''json_limits''' WHEN parameter = 'at' THEN '''at''' WHEN parameter IN ('value', 'metric_name') THEN '''v'''
        WHEN parameter = 'strategy' THEN '''zscore''' WHEN parameter = 'anomaly_type' THEN '''data_outlier''' WHEN parameter IN ('cron', 'entity', 'entity_type', 'until_ts') THEN 'NULL' WHEN parameter = 'time_zone' THEN '''UTC'''
        WHEN type = 'interval' THEN '''1 hour''' WHEN type IN ('integer', 'bigint', 'double precision') THEN '2' WHEN type = 'double precision[]' THEN '''{1}''' WHEN type = 'text' THEN '''json_test''' ELSE 'NULL' END $$;
CREATE TEMP TABLE takes_json AS
SELECT p.oid::regprocedure AS function, p.proname, format('SELECT * FROM %s(%s)', p.pronamespace::regnamespace || '.' || quote_ident(p.proname),
       string_agg(pg_temp.value(coalesce(p.proargnames[a.n], ''), format_type(a.type, NULL)) || '::' || format_type(a.type, NULL), ', ' ORDER BY a.n)) AS command
  FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
  JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'anomaly_detection', unnest(p.proargtypes) WITH ORDINALITY a (type, n)
 WHERE p.prokind = 'f' AND 'jsonb'::regtype = ANY (p.proargtypes) AND p.prorettype <> 'anomaly_sample'::regtype
   -- of models: what is no double precision number is said in their own words
   AND 'anomaly_model'::regtype <> ALL (p.proargtypes) GROUP BY p.oid;
SELECT count(*) >= 10 AS many FROM takes_json;
CREATE TEMP TABLE json_case AS SELECT * FROM (VALUES ('number', $$'{"v": 1e400, "cpu": [1, 2]}'$$), ('negative', $$'[{"v": -1e309}]'$$), ('digits', $$('{"v": 1' || repeat('0', 100000) || '}')$$),
    ('nested', $$(repeat('[', 5000) || repeat(']', 5000))$$), ('objects', $$(repeat('{"v": ', 200) || '1' || repeat('}', 200))$$)) c (name, json);
SELECT name, outcome, count(*) = (SELECT count(*) FROM takes_json) AS all_of_them
  FROM (SELECT name, pg_temp.outcome(replace(command, '%s', json)) AS outcome FROM takes_json, json_case) o GROUP BY name, outcome ORDER BY name, outcome;
-- which these are, should one not be among them
SELECT function, name, outcome FROM (SELECT function, name, pg_temp.outcome(replace(command, '%s', json)) AS outcome FROM takes_json, json_case) o WHERE outcome !~ '^(22003|54000)' ORDER BY function::text COLLATE "C", name;
-- What can be read is read: subnormal and largest numbers, and 100 levels.
SELECT pg_temp.outcome($$SELECT anomaly.process_data_point('{"v": 1.7976931348623157e308, "w": 4.9e-324, "x": 1e-400, "y": 123456789012345678901234567890}')$$);
SELECT pg_temp.outcome($$SELECT anomaly.process_data_point(('{"entity_type": ' || repeat('[', 100) || repeat(']', 100) || '}')::jsonb)$$);
SELECT pg_temp.outcome($$SELECT isolation_forest(ARRAY[i], '{"trees": 1e400}') FROM generate_series(1, 9) i$$);
SELECT row_number, status, reason FROM anomaly.process_batch('[{"v": 1e400}]'::text);
DROP TABLE json_limits;
