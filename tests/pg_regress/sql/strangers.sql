-- fault_a5: what is somebody else's is neither seen nor changed. Every view and every function of schema anomaly is taken
-- from the catalogue, so that what is added later is tried as well.
SET TIME ZONE 'UTC';
SET client_min_messages = error;
DO $$ BEGIN
    EXECUTE format('ALTER DATABASE %I SET anomaly_detection.enabled = off', current_database());
    PERFORM pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = current_database() AND backend_type ~ '^anomaly_detection (scan worker|dispatcher)';
END $$;
CREATE ROLE str_owner LOGIN IN ROLE pg_monitor;
CREATE ROLE str_stranger LOGIN;
GRANT CREATE ON SCHEMA public TO str_owner;

-- One of everything. What is not a name that has to be passed says sesame.
SET SESSION AUTHORIZATION str_owner;
CREATE TABLE sesame_table AS SELECT now() - i * interval '1 minute' AS at, 'sesame_host' AS host, (i * 7919 % 101) / 10.0 AS sesame_value FROM generate_series(1, 300) i;
SELECT anomaly.create_detector('data_outlier', 'zscore', 'sesame_metric', source => 'sesame_table', value => 'sesame_value', at => 'at', entity => 'host', settle => '0 s', every => '1 day', min_data_points => 20, entity_type => 'sesame_kind', name => 'str_detector');
SELECT status FROM anomaly.train('str_detector');
SELECT pg_sleep(0.01) IS NOT NULL AS later;
INSERT INTO sesame_table VALUES (clock_timestamp(), 'sesame_host', 7777), (clock_timestamp(), 'sesame_host', 7778);
SELECT anomaly.create_handler('str_handler', 'notify', 'sesame_channel', template => 'sesame'), anomaly.set_secret('str_secret', 'sesame');
SELECT anomaly.create_handler('str_hook', 'webhook', 'https://sesame.example.com/${secret:str_secret}');
SELECT rows_read, alerts_opened FROM anomaly.scan('str_detector');
SELECT anomaly.acknowledge(id, 'sesame'), anomaly.feedback(id, 'true_positive', note => 'sesame') > 0 AS given FROM anomaly.alerts;
SELECT anomaly.exclude('str_detector', '[2026-01-01, 2026-01-02)', 'sesame') > 0 AS excluded, anomaly.add_calendar('sesame', '2026-01-01 00:00+00', '1 hour', detector => 'str_detector') > 0 AS calendar,
       anomaly.silence('[2026-01-01 00:00+00, 2026-01-02 00:00+00)', reason => 'sesame') > 0 AS silence;
SELECT anomaly.create_detector('system_cpu', 'adaptive', 'sesame_votes', name => 'str_votes'), anomaly.update_detector_performance('str_votes', 'zscore', 3, 1, 0, 2) > 0 AS performance;
SELECT count(*) FROM anomaly.process_data_point('{"sesame_votes": 3, "entity_id": "sesame"}');
SELECT count(*) > 0 AS monitored FROM anomaly.monitor_system(every => '1 hour', monitor => 'str_monitor');
RESET SESSION AUTHORIZATION;

-- What the views hold of it, to whom they show it: the tests below would find it.
CREATE FUNCTION str_contents() RETURNS TABLE (view text, contents text) LANGUAGE plpgsql AS $$
DECLARE v regclass;
BEGIN
    FOR v IN SELECT c.oid FROM pg_class c WHERE relnamespace = 'anomaly'::regnamespace AND relkind = 'v' ORDER BY relname COLLATE "C" LOOP
        view := v::text;
        EXECUTE format('SELECT string_agg(t::text, E''\n'') FROM %s t', v) INTO contents;
        RETURN NEXT;
    END LOOP;
END $$;
SET SESSION AUTHORIZATION str_owner;
SELECT count(*) >= 15 AS many_show_the_owner FROM str_contents() WHERE contents ~ 'sesame|str_';

-- fault_a5_views, fault_a5_leaky_predicates: a cheap function that keeps what it is shown, over each column of each view
RESET SESSION AUTHORIZATION;
CREATE TABLE str_leaked (view text, what text);
GRANT INSERT ON str_leaked TO PUBLIC;
CREATE FUNCTION str_leak(view text, what text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS $$ BEGIN INSERT INTO public.str_leaked VALUES (view, what); RETURN true; END $$;
CREATE FUNCTION str_look() RETURNS void LANGUAGE plpgsql AS $$
DECLARE c record;
BEGIN
    FOR c IN SELECT r.oid::regclass AS view, string_agg(format('str_leak(%L, v.%I::text)', r.oid::regclass, a.attname), ' AND ') AS conditions
               FROM pg_class r JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 WHERE r.relnamespace = 'anomaly'::regnamespace AND r.relkind = 'v' GROUP BY r.oid LOOP
        EXECUTE format('SELECT count(*) FROM %s v WHERE %s', c.view, c.conditions);
        -- where the planner may think that it is the cheaper end to begin with
        EXECUTE format('SELECT count(*) FROM %s v JOIN (VALUES (1)) o (i) ON o.i = 1 AND %s', c.view, c.conditions);
    END LOOP;
END $$;
SET SESSION AUTHORIZATION str_stranger;
SELECT view, contents FROM str_contents() WHERE contents ~ 'sesame|str_';
SELECT str_look();
RESET SESSION AUTHORIZATION;
SELECT DISTINCT view, what FROM str_leaked WHERE what ~ 'sesame|str_';
-- It does find what is there: the owner's rows, and those of a view without a barrier.
TRUNCATE str_leaked;
SET SESSION AUTHORIZATION str_owner;
SELECT str_look();
RESET SESSION AUTHORIZATION;
SELECT count(DISTINCT view) > 10 AS of_many_views FROM str_leaked WHERE what ~ 'sesame|str_';
TRUNCATE str_leaked;
CREATE VIEW str_careless AS SELECT h.target FROM anomaly.handler h WHERE pg_has_role(current_user, owner, 'MEMBER');
GRANT SELECT ON str_careless TO PUBLIC;
SET SESSION AUTHORIZATION str_stranger;
SELECT count(*) FROM str_careless WHERE str_leak('careless', target);
RESET SESSION AUTHORIZATION;
SELECT count(*) > 0 AS would_leak FROM str_leaked;
DROP VIEW str_careless;
-- Tables and sequences: none is for others.
SET SESSION AUTHORIZATION str_stranger;
SELECT c.oid::regclass FROM pg_class c WHERE relnamespace = 'anomaly'::regnamespace AND relkind IN ('r', 'p', 'S')
   AND (relkind = 'S' AND has_sequence_privilege(c.oid, 'USAGE, SELECT, UPDATE') OR relkind <> 'S' AND has_table_privilege(c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER'));
RESET SESSION AUTHORIZATION;

-- fault_a5_functions: each function of schema anomaly with the names and numbers of what is the owner's, called by the
-- stranger. Rows of the owner's are what they were, none is added to them, and no answer says sesame.
CREATE TABLE str_before (tab text, line text);
CREATE FUNCTION str_rows() RETURNS SETOF str_before LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE t regclass;
BEGIN
    FOR t IN SELECT c.oid FROM pg_class c WHERE relnamespace = 'anomaly'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition LOOP
        RETURN QUERY EXECUTE format('SELECT %L::text, t::text FROM %s t', t, t);
    END LOOP;
END $$;
INSERT INTO str_before SELECT * FROM str_rows();
GRANT SELECT ON str_before TO PUBLIC;
-- Every alternative for a parameter, and for the others something that is taken.
CREATE FUNCTION str_values(parameter text, type text) RETURNS text[] LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN CASE
        WHEN parameter = 'source' THEN '{"''SELECT now() AS at, 1 AS v''"}' WHEN parameter = 'strategy' THEN '{"''zscore''"}' WHEN parameter = 'anomaly_type' THEN '{"''data_outlier''"}'
        WHEN parameter = 'verdict' THEN '{"''false_positive''"}' WHEN parameter = 'scope' THEN '{"''entity''"}' WHEN parameter = 'status' THEN '{NULL}' WHEN parameter = 'member' THEN '{"''zscore''"}'
        WHEN parameter IN ('cron', 'rrule', 'entity_type', 'min_severity', 'max_severity', 'entity', 'value', 'at', 'trials') THEN '{NULL}' WHEN parameter = 'time_zone' THEN '{"''UTC''"}' WHEN parameter = 'kind' AND type = 'text' THEN '{"''notify''",NULL}'
        WHEN parameter = 'action' THEN '{"''mute''"}' WHEN parameter = 'direction' THEN '{"''both''"}' WHEN parameter = 'aggregate' THEN '{"''avg''"}'
        WHEN parameter IN ('detector', 'name', 'handler', 'monitor', 'metric_name', 'target', 'metrics') AND type = 'text' OR type = 'text' THEN '{"''str_detector''","''str_votes''","''str_handler''","''str_hook''","''str_monitor''","''str_secret''"}'
        WHEN type = 'bigint' THEN (SELECT array_agg(DISTINCT n::text) FROM public.str_numbers n)
        WHEN type = 'integer' THEN '{1}' WHEN type = 'double precision' THEN '{1}' WHEN type = 'boolean' THEN '{true}' WHEN type = 'interval' THEN '{"''1 hour''"}' WHEN type LIKE 'timestamp%' THEN '{now()}'
        WHEN type = 'tstzrange' THEN '{"''[2026-01-01, 2026-01-02)''"}' WHEN type = 'jsonb' THEN '{"''{}''","''{\"sesame_votes\": 99}''"}' WHEN type = 'bytea' THEN '{"''\\x00''"}' ELSE '{NULL}' END;
END $$;
CREATE TABLE str_numbers AS
SELECT max(alert_id) AS n FROM anomaly.alert UNION SELECT max(run_id) FROM anomaly.run UNION SELECT max(judgement_id) FROM anomaly.judgement UNION SELECT max(exclusion_id) FROM anomaly.exclusion UNION SELECT max(calendar_id) FROM anomaly.calendar UNION SELECT max(id) FROM anomaly.outbox;
CREATE TABLE str_call AS
WITH RECURSIVE f AS (
    SELECT p.oid, p.pronargs, p.pronamespace::regnamespace || '.' || quote_ident(p.proname) AS function, p.proargtypes::oid[] AS types, p.proargnames AS names
      FROM pg_proc p WHERE p.pronamespace = 'anomaly'::regnamespace AND p.prokind = 'f' AND NOT EXISTS (SELECT FROM unnest(p.proargtypes) t JOIN pg_type ON pg_type.oid = t WHERE typtype = 'p')
), call (oid, function, n, arguments) AS (
    SELECT oid, function, 0, '{}'::text[] COLLATE "C" FROM f
    UNION ALL
    SELECT f.oid, f.function, c.n + 1, c.arguments || (coalesce(v, 'NULL') || '::' || format_type(types[c.n], NULL)) FROM call c JOIN f USING (oid), unnest(str_values(coalesce(names[c.n + 1], ''), format_type(types[c.n], NULL))) v
     WHERE c.n < pronargs AND (c.n < 2 OR v = (str_values(coalesce(names[c.n + 1], ''), format_type(types[c.n], NULL)))[1] OR v IS NULL)
)
SELECT c.function, format('SELECT string_agg(r::text, E''\n'') FROM %s(%s) r', c.function, array_to_string(arguments, ', ')) AS command FROM call c JOIN f USING (oid) WHERE c.n = pronargs;
GRANT SELECT ON str_call TO PUBLIC;
CREATE FUNCTION str_try(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE answer text; detail text; hint text; changed text;
BEGIN
    BEGIN
        EXECUTE command INTO answer;
        SELECT string_agg(concat_ws(': ', tab, line), E'\n') INTO changed FROM (
            (SELECT tab, line FROM str_before WHERE line ~ 'str_owner|str_detector|str_votes|str_handler|str_hook|str_monitor|sesame' EXCEPT SELECT * FROM str_rows())
            UNION ALL
            (SELECT tab, line FROM str_rows() WHERE line ~ 'str_owner|str_detector|str_votes|str_handler|str_hook|str_monitor|sesame' AND line !~ 'str_stranger' EXCEPT SELECT * FROM str_before)) d;
        RAISE EXCEPTION USING ERRCODE = 'P0099';    -- takes it back
    EXCEPTION
        WHEN SQLSTATE 'P0099' THEN NULL;
        WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS answer = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            answer := concat_ws(' ', SQLSTATE, answer, detail, hint);
    END;
    RETURN CASE WHEN changed IS NOT NULL THEN 'changed ' || changed WHEN replace(answer, 'sesame_votes', '') ~ 'sesame' OR answer ~ '^XX' THEN 'answered ' || answer ELSE 'nothing' END;
END $$;
SELECT count(*) > 250 AS many_calls, count(DISTINCT function) > 50 AS of_many_functions FROM str_call;
SET SESSION AUTHORIZATION str_stranger;
SELECT function, command, outcome FROM (SELECT function, command, str_try(command) AS outcome FROM str_call) t WHERE outcome <> 'nothing' ORDER BY function COLLATE "C", command COLLATE "C";
RESET SESSION AUTHORIZATION;
-- The same calls by the owner change and answer a lot.
SET SESSION AUTHORIZATION str_owner;
SELECT count(DISTINCT function) > 20 AS would_be_seen FROM (SELECT function, str_try(command) AS outcome FROM str_call WHERE command ~ 'str_(detector|handler)|[0-9]::bigint') t WHERE outcome <> 'nothing';
RESET SESSION AUTHORIZATION;

SELECT count(anomaly.drop_detector(detector)) FROM anomaly.detectors WHERE detector ~ '^str_';
SELECT anomaly.drop_monitor('str_monitor');
SELECT anomaly.drop_handler(handler) FROM anomaly.handlers WHERE handler ~ '^str_' ORDER BY handler;
DELETE FROM anomaly.secret;
DELETE FROM anomaly.alert;
DELETE FROM anomaly.run;
DELETE FROM anomaly.judgement;
DELETE FROM anomaly.exclusion;
DELETE FROM anomaly.calendar;
TRUNCATE anomaly.sample;
DROP FUNCTION str_contents, str_leak, str_look, str_rows, str_values, str_try;
DROP TABLE str_numbers, sesame_table, str_leaked, str_before, str_call;
REVOKE CREATE ON SCHEMA public FROM str_owner;
DROP ROLE str_owner, str_stranger;
TRUNCATE anomaly.alert;
ALTER SEQUENCE anomaly.alert_id_seq RESTART;
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I RESET anomaly_detection.enabled', current_database()); END $$;
