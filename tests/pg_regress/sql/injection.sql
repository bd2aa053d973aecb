-- fault_a7: texts of users are names and values, whatever is in them, and never SQL.
SET TIME ZONE 'UTC';
SET client_min_messages = error;
DO $$ BEGIN
    EXECUTE format('ALTER DATABASE %I SET anomaly_detection.enabled = off', current_database());
    PERFORM pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = current_database() AND backend_type ~ '^anomaly_detection (scan worker|dispatcher)';
END $$;
CREATE TABLE inj_victim (i int);
CREATE TABLE inj_text AS SELECT unnest(ARRAY[$q$'; DROP TABLE inj_victim; --$q$, $q$"; DROP TABLE inj_victim; --$q$, $q$$$; DROP TABLE inj_victim; $$$q$, $q$\'; DROP TABLE inj_victim; --$q$,
    $q$x)); DROP TABLE inj_victim; --$q$, $q$%s %I %L %1$s {} {{x}} ${secret:x} $1 :x$q$, E'a\nb\t"''\\', $q$(SELECT 1)$q$, $q$x"."y$q$]) AS hostile;

-- fault_a7_every_function: each text, text[] and jsonb argument of each function in turn. A text that got into a statement
-- unquoted would be a syntax error (42601) or an unknown column (42703), or end inj_victim.
CREATE FUNCTION inj_value(parameter text, type text) RETURNS text LANGUAGE sql AS $$
    SELECT CASE WHEN parameter = 'source' THEN '''inj_source''' WHEN parameter = 'at' AND type = 'text' THEN '''at''' WHEN parameter IN ('value', 'metric_name') THEN '''v''' WHEN parameter = 'strategy' THEN '''zscore''' WHEN parameter = 'anomaly_type' THEN '''data_outlier'''
        WHEN parameter IN ('cron', 'rrule', 'entity', 'entity_type', 'until_ts', 'anomaly_types', 'trials', 'min_severity', 'max_severity', 'on_missing', 'bucket') THEN 'NULL' WHEN parameter = 'kind' THEN 'NULL' WHEN parameter = 'time_zone' THEN '''UTC''' WHEN parameter = 'aggregate' THEN '''avg''' WHEN parameter = 'direction' THEN '''both'''
        WHEN parameter = 'detector' THEN '''inj_detector''' WHEN parameter = 'settings' THEN '''{}''' WHEN parameter = 'verdict' THEN '''false_positive''' WHEN parameter = 'scope' THEN '''entity''' WHEN parameter = 'member' THEN '''zscore''' WHEN parameter = 'action' THEN '''mute'''
        WHEN parameter = 'point' THEN '''{"v": 1}''' WHEN parameter = 'alert' THEN '(SELECT max(id) FROM anomaly.alerts)' WHEN type = 'interval' THEN '''1 hour''' WHEN type = 'jsonb' THEN '''{}''' WHEN type IN ('integer', 'bigint', 'double precision') THEN '2' WHEN type = 'boolean' THEN 'true' WHEN type = 'text' THEN '''inj_test'''
        WHEN type = 'tstzrange' THEN '''[2026-01-01, 2026-01-02)''' WHEN type LIKE 'timestamp%' THEN '''2026-01-01''' ELSE 'NULL' END $$;
CREATE TABLE inj_source AS SELECT now() - i * interval '1 minute' AS at, (i * 7919 % 101) / 10.0 AS v, 'h' || i % 2 AS host FROM generate_series(1, 300) i;
SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', source => 'inj_source', entity => 'host', settle => '0 s', min_data_points => 20, name => 'inj_detector');
SELECT status FROM anomaly.train('inj_detector');
SELECT pg_sleep(0.01) IS NOT NULL AS later;
INSERT INTO inj_source VALUES (clock_timestamp(), 7777, 'h1');
SELECT alerts_opened FROM anomaly.scan('inj_detector');
CREATE TABLE inj_call AS
WITH f AS (
    SELECT p.oid, p.pronamespace::regnamespace || '.' || quote_ident(p.proname) AS function, a.n, coalesce(p.proargnames[a.n], '') AS name, format_type(a.type, NULL) AS type
      FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e' JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'anomaly_detection', unnest(p.proargtypes) WITH ORDINALITY a (type, n)
     WHERE p.prokind = 'f' AND NOT EXISTS (SELECT FROM unnest(p.proargtypes) t JOIN pg_type ON pg_type.oid = t WHERE typtype = 'p'))
SELECT t.function, t.name AS parameter, h.hostile, (SELECT format('SELECT count(*) FROM %s(%s) r', t.function, string_agg(CASE WHEN f.n <> t.n THEN inj_value(f.name, f.type) WHEN f.type = 'text' THEN quote_literal(h.hostile) WHEN f.type = 'text[]' THEN quote_literal(ARRAY[h.hostile])
           ELSE quote_literal(jsonb_build_object(h.hostile, h.hostile, 'detector', h.hostile, 'entity', h.hostile, 'source', h.hostile, 'value', h.hostile, 'entity_id', h.hostile, 'v', 1)) END || '::' || f.type, ', ' ORDER BY f.n)) FROM f WHERE f.oid = t.oid) AS command
  FROM f t, inj_text h WHERE t.type IN ('text', 'text[]', 'jsonb');
CREATE FUNCTION inj_try(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE gone boolean;
BEGIN
    EXECUTE command;
    gone := to_regclass('inj_victim') IS NULL;
    RAISE EXCEPTION USING ERRCODE = 'P0099';    -- takes it back
EXCEPTION
    WHEN SQLSTATE 'P0099' THEN RETURN CASE WHEN gone THEN 'dropped' ELSE 'ok' END;
    WHEN OTHERS THEN RETURN SQLSTATE || ' ' || SQLERRM;
END $$;
SELECT count(*) > 500 AS many_calls, count(DISTINCT function) > 30 AS of_many_functions FROM inj_call;
CREATE TABLE inj_outcome AS SELECT function, parameter, hostile, inj_try(command) AS outcome FROM inj_call;
-- A source that is a query, and a name that is no column of a source, are said to be none.
SELECT function, parameter, hostile, outcome FROM inj_outcome WHERE outcome ~ '^(dropped|XX|42601|42703|42704 type|42883|22P02)'
   AND NOT (outcome ~ '^42601' AND parameter = 'source' AND hostile = '(SELECT 1)') AND outcome !~ '^42703 column ".*" does not exist in' ORDER BY function COLLATE "C", parameter COLLATE "C", hostile COLLATE "C";
SELECT count(*) FILTER (WHERE outcome = 'ok') > 50 AS some_are_taken FROM inj_outcome;

-- fault_a7_names: everything is called as if to break out, and all of it works
\set q 'it''s "mine"; DROP TABLE inj_victim; --'
CREATE SCHEMA :"q";
CREATE TABLE :"q".:"q" (:"q" timestamptz, "v') FROM x; --" double precision, "e""')" text, "n%s" int, "t)" int);
INSERT INTO :"q".:"q" SELECT now() - i * interval '1 minute', (i * 7919 % 101) / 10.0, :'q' || i % 2, i % 3, 9 FROM generate_series(1, 300) i;
SELECT format('%I.%I', :'q', :'q') AS relation \gset
SELECT detector, status FROM anomaly.watch(:'relation', value => 'v'') FROM x; --', at => :'q', entity => 'e"'')', strategy => 'zscore', threshold => 8, settle => '0 s', min_data_points => 20, every => '1 day', name => :'q' || 1);
SELECT anomaly.create_detector('data_volume', 'zscore', :'q', source => format('SELECT %I AS %I, count(*) AS %I FROM %s GROUP BY 1', :'q', :'q', :'q' || 2, :'relation'), value => :'q' || 2, at => :'q', settle => '0 s', min_data_points => 20, name => :'q' || 2),
       anomaly.create_detector('data_outlier', 'random_cut_forest', :'q', source => :'relation', value => 'v'') FROM x; --', at => :'q', features => '{n%s}', settle => '0 s', min_data_points => 20, name => :'q' || 3),
       anomaly.create_detector('data_outlier', 'zscore', :'q', source => :'relation', value => 'n%s', trials => 't)', kind => 'ratio', at => :'q', bucket => '10 minutes', settle => '0 s', min_data_points => 20, name => :'q' || 4);
SELECT detector, status FROM unnest(ARRAY[:'q' || 2, :'q' || 3, :'q' || 4]) detector, anomaly.train(detector) t;
SELECT anomaly.create_handler(:'q', 'notify', left(:'q', 30), jsonb_build_object('detector', :'q' || 1, 'entity', :'q' || 1), template => '{{entity}} ''; --');
SELECT anomaly.add_calendar(:'q', '2026-01-01 00:00+00', '1 hour', 'FREQ=DAILY', 'Europe/Berlin', :'q' || 1, :'q') > 0 AS calendar, anomaly.exclude(:'q' || 1, '[2026-01-01, 2026-01-02)', :'q', :'q') > 0 AS exclusion;
SELECT pg_sleep(0.01) IS NOT NULL AS later;
INSERT INTO :"q".:"q" VALUES (clock_timestamp(), 9999, :'q' || 1, 1, 9);
SELECT d, rows_read > 0 AS read, alerts_opened FROM generate_series(1, 4) i, LATERAL (SELECT :'q' || i AS d) n, anomaly.scan(d) s;
SELECT detector, entity, metric_name, value FROM anomaly.alerts WHERE detector <> 'inj_detector' ORDER BY id;
SELECT anomaly.acknowledge(id, :'q'), anomaly.feedback(id, 'true_positive', note => :'q') > 0 AS given, anomaly.explain(id) -> 'verdict' ->> 'value' AS value, (SELECT count(*) FROM anomaly.rows(id)) AS rows FROM anomaly.alerts WHERE detector = :'q' || 1;
SELECT count(*) FROM anomaly.get_alerts(entity => :'q' || 1, detector => :'q' || 1);
SELECT handler, transition FROM anomaly.deliveries ORDER BY id;
SELECT * FROM anomaly.deliver();
SELECT status, points > 0 AS points FROM anomaly.backtest_summary(:'q' || 1, '2 hours');
SELECT anomaly.import_model(:'q' || 1, anomaly.export_model(:'q' || 1));
SELECT changed FROM anomaly.alter_detector(:'q' || 1, jsonb_build_object('entity', NULL, 'source', format('SELECT * FROM %s', :'relation')));
SELECT anomaly.alert_view(format('%I.%I', :'q', 'alerts; --'));
-- What hints say can be typed: nothing of a name gets out of its quotes.
DROP TABLE :"q".:"q";
SELECT anomaly.scan(:'q' || 3);
UPDATE anomaly.detector SET every = '1 hour' WHERE detector ~ '^it';
UPDATE anomaly.detector_state SET next_due = clock_timestamp() WHERE detector ~ '^it';
CALL anomaly.run_due();
SELECT name, status, hint FROM anomaly.health WHERE name ~ '^it' AND status <> 'ok' ORDER BY name COLLATE "C";
SELECT left(outcome, 5) AS outcome, count(*) FROM (SELECT inj_try(trim(trailing ')' FROM (regexp_match(hint, 'SELECT anomaly\.(?:drop_detector|enable)\(.*\)'))[1]) || ')') AS outcome FROM anomaly.health WHERE name ~ '^it' AND status = 'broken') t GROUP BY 1;

-- fault_a7_queries: a source is one query that only reads
SELECT source, inj_try(format('SELECT anomaly.create_detector(''data_outlier'', ''zscore'', ''v'', source => %L, name => ''inj_q'')', source)) FROM unnest(ARRAY['SELECT now() AS at, 1 AS v; DROP TABLE inj_victim', 'SELECT now() AS at, 1 AS v) AS q; DROP TABLE inj_victim; --',
    'WITH d AS (DELETE FROM inj_victim RETURNING 1) SELECT now() AS at, 1 AS v', 'SELECT now() AS at, 1 AS v INTO inj_new', 'SELECT now() AS at, 1 AS v FROM inj_victim FOR UPDATE', 'TABLE inj_victim; --', 'VALUES (now(), 1)); --', 'SELECT now() AS at, 1 AS v -- a comment']) source;
SELECT detail, inj_try(format('SELECT anomaly.create_detector(''data_outlier'', ''zscore'', ''v'', source => ''inj_source'', name => ''inj_q'', %s)', detail)) FROM unnest(ARRAY['cron => ''* * * * *; DROP TABLE inj_victim''', 'cron => ''* * * * *) --''', 'time_zone => ''UTC''''; DROP TABLE inj_victim; --''',
    'aggregate => ''avg(v); DROP TABLE inj_victim; --'', bucket => ''1 h''', 'kind => ''value''''--''', 'strategy => NULL::text']) detail;
SELECT count(*) AS there FROM pg_class WHERE relname = 'inj_victim';

SELECT count(anomaly.drop_detector(detector)) FROM anomaly.detectors;
SELECT count(anomaly.drop_handler(handler)) FROM anomaly.handlers;
SELECT count(anomaly.drop_calendar(id)) FROM anomaly.calendars;
DELETE FROM anomaly.alert;
DELETE FROM anomaly.run;
DELETE FROM anomaly.judgement;
DELETE FROM anomaly.exclusion;
TRUNCATE anomaly.sample;
DROP FUNCTION inj_value, inj_try;
DROP TABLE inj_victim, inj_text, inj_source, inj_call, inj_outcome;
DROP SCHEMA :"q" CASCADE;
ALTER SEQUENCE anomaly.alert_id_seq RESTART;
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I RESET anomaly_detection.enabled', current_database()); END $$;
