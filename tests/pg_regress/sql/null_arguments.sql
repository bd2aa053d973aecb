-- fault_i1_null_arguments: each function of the extension with NULL for one argument after the other, and for all of
-- them: a result, or an error that says what is missing, but no panic (XX000). Lists the offenders.
CREATE FUNCTION pg_temp.outcome(command text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE command;
    RAISE EXCEPTION USING ERRCODE = 'P0099';    -- takes it back
EXCEPTION
    WHEN SQLSTATE 'P0099' THEN RETURN 'ok';
    WHEN OTHERS THEN RETURN SQLSTATE || ' ' || SQLERRM;
END $$;

CREATE TABLE null_source AS SELECT now() - i * interval '1 minute' AS at, i % 7 AS v FROM generate_series(1, 200) i;
-- A value for each parameter that is not NULL: by name where a type is not enough.
CREATE FUNCTION pg_temp.value(parameter text, type text) RETURNS text LANGUAGE sql AS $$
    SELECT CASE WHEN parameter = 'source' THEN '''null_source''' WHEN parameter = 'at' AND type = 'text' THEN '''at''' WHEN parameter IN ('value', 'metric_name') THEN '''v'''
        WHEN parameter = 'entity' THEN 'NULL' WHEN parameter = 'strategy' THEN '''zscore''' WHEN parameter = 'anomaly_type' THEN '''data_outlier'''
        WHEN parameter IN ('cron', 'entity_type', 'until_ts', 'anomaly_types') THEN 'NULL' WHEN parameter = 'time_zone' THEN '''UTC''' WHEN parameter = 'point' THEN '''{"v": 1}'''
        WHEN type = 'interval' THEN '''1 hour''' WHEN type = 'jsonb' THEN '''{}''' WHEN type IN ('integer', 'bigint', 'double precision') THEN '2' WHEN type = 'text' THEN '''null_test'''
        WHEN type LIKE 'timestamp%' THEN '''2026-01-01''' ELSE 'NULL' END $$;
CREATE TEMP TABLE call AS
WITH argument AS (
    SELECT p.oid, p.pronamespace::regnamespace || '.' || quote_ident(p.proname) AS function, p.pronargs, a.n::int, format_type(a.type, NULL) AS type, coalesce(p.proargnames[a.n], '') AS name
      FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
      JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'anomaly_detection', unnest(p.proargtypes) WITH ORDINALITY a (type, n)
     WHERE p.prokind = 'f' AND NOT EXISTS (SELECT FROM unnest(p.proargtypes) t JOIN pg_type ON pg_type.oid = t WHERE typtype = 'p'))
SELECT function, missing, format('SELECT * FROM %s(%s)', function,
       string_agg(CASE WHEN missing IN (0, n) THEN 'NULL' ELSE pg_temp.value(name, type) END || '::' || type, ', ' ORDER BY n)) AS command
  FROM argument, LATERAL (SELECT missing FROM generate_series(0, pronargs) missing) m GROUP BY oid, function, missing;
SELECT count(*) > 100 AS many_calls FROM call;
SELECT function, missing, outcome FROM (SELECT *, pg_temp.outcome(command) AS outcome FROM call) c
 WHERE outcome LIKE 'XX%' ORDER BY function COLLATE "C", missing;

-- Each function with all its parameters by name. Lists those that cannot be called so.
CREATE TEMP TABLE named_call AS
SELECT p.pronamespace::regnamespace || '.' || quote_ident(p.proname) AS function, format('SELECT * FROM %s(%s)', p.pronamespace::regnamespace || '.' || quote_ident(p.proname),
       string_agg(format('%s => %s::%s', p.proargnames[a.n], pg_temp.value(p.proargnames[a.n], format_type(a.type, NULL)), format_type(a.type, NULL)), ', ' ORDER BY a.n)) AS command
  FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
  JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'anomaly_detection', unnest(p.proargtypes) WITH ORDINALITY a (type, n)
 WHERE p.prokind = 'f' AND NOT EXISTS (SELECT FROM unnest(p.proargtypes) t JOIN pg_type ON pg_type.oid = t WHERE typtype = 'p') AND p.proargnames[1] <> ''
 GROUP BY p.oid;
SELECT count(*) > 30 AS many_named_calls, count(*) FILTER (WHERE command LIKE '%on_missing =>%') AS with_on_missing FROM named_call;
-- the text is no name => value where it does not parse, or names a parameter that is not there
SELECT function, outcome FROM (SELECT *, pg_temp.outcome(command) AS outcome FROM named_call) c WHERE outcome ~ '^(42601|42883|XX)' ORDER BY function COLLATE "C";
DROP TABLE null_source;
