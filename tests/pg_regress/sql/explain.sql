-- anomaly.explain: why there is an alert.
SET TIME ZONE 'UTC';
CREATE FUNCTION pg_temp.explained(detector text) RETURNS jsonb LANGUAGE sql AS $$ SELECT anomaly.explain(a.id) FROM anomaly.alerts a WHERE a.detector = $1 $$;
-- Relations of the schema in which the reader sees a text.
CREATE FUNCTION pg_temp.shown_in(needle text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE relation regclass; shown bigint;
BEGIN
    FOR relation IN SELECT oid FROM pg_class WHERE relnamespace = 'anomaly'::regnamespace AND relkind IN ('r', 'p', 'v', 'm') AND has_table_privilege(oid, 'SELECT') ORDER BY relname COLLATE "C" LOOP
        EXECUTE format('SELECT count(*) FROM %s AS r WHERE strpos(r::text, $1) > 0', relation) INTO shown USING needle;
        IF shown > 0 THEN RETURN NEXT relation::text; END IF;
    END LOOP;
END $$;
CREATE ROLE explain_owner LOGIN;
CREATE ROLE explain_member LOGIN;
CREATE ROLE explain_monitor LOGIN;
CREATE ROLE explain_stranger LOGIN;
GRANT explain_owner TO explain_member;
GRANT anomaly_monitor TO explain_monitor;
CREATE ROLE explain_admin LOGIN;
GRANT anomaly_admin TO explain_admin;
CREATE SCHEMA explained AUTHORIZATION explain_owner;
SET SESSION AUTHORIZATION explain_owner;
CREATE TABLE explained.load (at timestamptz, host text, cpu float8, users int, errors int);
INSERT INTO explained.load SELECT now() - i * interval '5 minutes', 'web', 50 + u + (i * 104729 % 13) / 10.0, 1000 + 10 * u, i % 2 FROM generate_series(1, 700) i, LATERAL (SELECT (i * 7919 % 41)::int) AS s (u);
SELECT detector, status FROM anomaly.watch('explained.load', value => 'cpu', entity => 'host', strategy => 'mad', settle => '0 s', name => 'explain_mad');
SELECT detector, status FROM anomaly.watch('explained.load', value => 'cpu', entity => 'host', features => '{users,errors}', strategy => 'one_class_svm', alerts_per_day => 0.5, settle => '0 s', name => 'explain_svm');
INSERT INTO explained.load VALUES (clock_timestamp(), 'web', 500, 1020, NULL);
SELECT detector, alerts_opened FROM unnest('{explain_mad,explain_svm}'::text[]) detector, anomaly.scan(detector);

-- What can be told is told: by the verdict, the strategy and the model.
SELECT string_agg(key, ' ' ORDER BY key COLLATE "C") AS keys FROM jsonb_object_keys(pg_temp.explained('explain_mad')) key;
SELECT e->'alert' = to_jsonb(a.id) AS number, e->>'detector' AS detector, e->>'entity' AS entity, e->>'severity' AS severity, e->>'strategy' AS strategy, e->'points' AS points,
       (e->'verdict'->>'value')::float8 AS value, round((e->'verdict'->>'upper')::numeric, 6) = round(a.upper::numeric, 6) AND round((e->'verdict'->>'deviation')::numeric, 6) = round(a.deviation::numeric, 6) AND (e->'verdict'->>'at')::timestamptz = a.peak_at AS verdict,
       e->'model'->'version' AS version, e->'model'->'trained_rows' AS trained_rows, e->'model'->'active' AS active, ARRAY(SELECT jsonb_object_keys(e->'metadata')) = ARRAY(SELECT jsonb_object_keys(a.metadata)) AS metadata, e->'reasons' AS reasons
  FROM anomaly.alerts a, anomaly.explain(a.id) e WHERE a.detector = 'explain_mad';
SELECT regexp_replace(replace(e->>'explanation', a.description, '(description)'), '\d{4}-\S+', '(time)') AS explanation FROM anomaly.alerts a, anomaly.explain(alert => a.id) e WHERE a.detector = 'explain_mad';
-- The features of the row are kept with the alert.
SELECT metadata->'features' AS features FROM anomaly.alerts WHERE detector = 'explain_svm';
RESET SESSION AUTHORIZATION;
-- Shares of columns have their names: the value's, the features', and the rest together.
UPDATE anomaly.alert SET metadata = metadata || '{"contributions": [0.25, 0.5, 0.0625, 0.125, 0.0625], "nearest_normal": [52, 1020, 0]}' WHERE detector = 'explain_svm';
SET SESSION AUTHORIZATION explain_member;
SELECT pg_temp.explained('explain_svm')->'reasons' AS reasons;
SELECT (regexp_match(pg_temp.explained('explain_svm')->>'explanation', '\)\. (.*) Judged'))[1] AS most;
SELECT pg_temp.explained('explain_svm')->'metadata'->'nearest_normal' AS nearest_normal;

-- fault_a6_explain: who sees the alert but not the owner's rows sees no value of them but the alert's own
SET SESSION AUTHORIZATION explain_monitor;
SELECT pg_temp.explained('explain_svm')->'reasons' AS reasons, pg_temp.explained('explain_svm')->'metadata' ?| '{features,nearest_normal}' AS rows, metadata ?| '{features,nearest_normal}' AS rows_in_view FROM anomaly.alerts WHERE detector = 'explain_svm';
-- fault_a6_rows_of_the_owner: values of other columns of an alert's row and of a data point, and what models keep of
-- rows, are the owner's wherever one looks: in no relation of the schema, in no answer of a function
SET SESSION AUTHORIZATION explain_owner;
SELECT detector, status FROM anomaly.watch('explained.load', value => 'cpu', entity => 'host', features => '{users,errors}', strategy => 'auto', settle => '0 s', name => 'explain_auto');
SELECT anomaly.create_detector('system_cpu', 'one_class_svm', 'explain_point', features => '{errors}', name => 'explain_points');
INSERT INTO explained.load VALUES (clock_timestamp(), 'web', 900, 1020, 7771234);
SELECT alerts_opened FROM anomaly.scan('explain_auto');
SELECT count(*) AS alerts FROM anomaly.process_data_point('{"explain_point": 5, "errors": 7771234}');
SELECT pg_temp.shown_in('7771234') AS shown_to_the_owner;
SET SESSION AUTHORIZATION explain_member;
SELECT pg_temp.shown_in('7771234') AS shown_to_a_member;
SELECT strpos(pg_temp.explained('explain_auto')::text, '7771234') > 0 AS explained;
SET SESSION AUTHORIZATION explain_monitor;
SELECT pg_temp.shown_in('7771234') AS shown_to_a_monitor;
SELECT count(*) AS alerts, count(*) FILTER (WHERE value = 900) AS with_their_value, count(*) FILTER (WHERE metadata->'contributions' IS NOT NULL) AS with_shares FROM anomaly.alerts WHERE detector = 'explain_auto';
SELECT strpos(pg_temp.explained('explain_auto')::text, '7771234') > 0 AS explained, pg_temp.explained('explain_auto')->'reasons'->0->>'column' AS "column";
SELECT explanation FROM anomaly.explain_detector('explain_auto');
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.export_model('explain_auto');
\echo :LAST_ERROR_SQLSTATE
-- (an admin maintains everybody's samples, and sees no more of the alerts)
SET SESSION AUTHORIZATION explain_admin;
SELECT pg_temp.shown_in('7771234') AS shown_to_an_admin;
SELECT strpos(pg_temp.explained('explain_auto')::text, '7771234') > 0 AS explained;
SET SESSION AUTHORIZATION explain_owner;
SELECT count(anomaly.drop_detector(d)) FROM unnest('{explain_auto,explain_points}'::text[]) d;
-- fault_a5_explain: nobody else sees that there is one
SET SESSION AUTHORIZATION explain_stranger;
SELECT anomaly.explain(a) FROM unnest(ARRAY[-1, 0, 9223372036854775807]) a;
\echo :LAST_ERROR_SQLSTATE
RESET SESSION AUTHORIZATION;
SELECT id AS explained_id FROM anomaly.alerts WHERE detector = 'explain_svm' \gset
SET SESSION AUTHORIZATION explain_stranger;
SELECT anomaly.explain(:explained_id) IS NULL;
\echo :LAST_ERROR_SQLSTATE
SELECT anomaly.explain(NULL) IS NULL AS of_null;

-- What is left when the model, and when the detector, is gone
SET SESSION AUTHORIZATION explain_owner;
SET anomaly_detection.keep_model_versions = 1;
SELECT model_version FROM anomaly.train('explain_mad');
RESET anomaly_detection.keep_model_versions;
SELECT pg_temp.explained('explain_mad')->'model' AS model, pg_temp.explained('explain_mad')->>'explanation' ~ 'Judged by statistical_mad, by a model that is gone\.$' AS says_so;
SELECT anomaly.drop_detector('explain_svm');
SELECT pg_temp.explained('explain_svm')->'reasons' AS reasons;
SELECT status FROM anomaly.watch('explained.load', value => 'users', strategy => 'mad', settle => '0 s', name => 'explain_svm');
SELECT pg_temp.explained('explain_svm')->'model' AS not_the_new_one;
SELECT count(anomaly.drop_detector(d)) FROM unnest('{explain_mad,explain_svm}'::text[]) d;
RESET SESSION AUTHORIZATION;
DELETE FROM anomaly.alert WHERE detector LIKE 'explain_%';
DELETE FROM anomaly.sample WHERE metric = 'explain_point';
TRUNCATE anomaly.alert;
SELECT setval('anomaly.alert_id_seq', 1, false);
DROP SCHEMA explained CASCADE;
DROP ROLE explain_admin, explain_member, explain_monitor, explain_stranger, explain_owner;
