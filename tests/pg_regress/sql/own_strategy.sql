-- check_c42: strategies, and anomaly types, that users write in SQL. They go the way of those that are built in.
SET TIME ZONE 'UTC';
CREATE SCHEMA own;
CREATE TABLE own.clock AS SELECT date_trunc('day', now()) - interval '40 hours' AS zero;
CREATE FUNCTION pg_temp.set_clock(minute int) RETURNS void LANGUAGE sql AS $$
    UPDATE anomaly.detector SET settle = clock_timestamp() - zero - minute * interval '1 minute' FROM own.clock WHERE detector ~ '^own_' $$;
CREATE FUNCTION own.at(minute int) RETURNS timestamptz LANGUAGE sql STABLE AS $$ SELECT zero + minute * interval '1 minute' FROM own.clock $$;
-- Three hosts, a value a minute: noise without a point beyond four standard deviations, and incidents far outside.
CREATE TABLE own.reading AS
SELECT own.at(i) + interval '10 seconds' AS at, h AS host,
       CASE WHEN (h, i) IN (('a', 50), ('a', 450), ('b', 455)) THEN 100
            WHEN h = 'b' AND i BETWEEN 130 AND 133 THEN 80 + i % 7
            WHEN (h, i) = ('c', 222) THEN '-20' WHEN (h, i) = ('c', 333) THEN 'Infinity' WHEN (h, i) = ('c', 340) THEN 'NaN'
            ELSE 40 + (i + 900) * 7919 % 101 / 25.0 + ((i + 900) * 104729 + ascii(h)) % 103 / 25.0 END::float8 AS v
  FROM generate_series(-900, 599) i, unnest('{a,b,c}'::text[]) h;

-- A plain z-score.
CREATE FUNCTION own.train(at timestamptz[], value float8[], params jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT jsonb_build_object('mean', avg(v), 'sd', stddev(v)) FROM unnest(value) v $$;
CREATE FUNCTION own.score(state jsonb, at timestamptz, value float8, params jsonb) RETURNS float8 LANGUAGE sql IMMUTABLE AS $$
    SELECT abs(value - (state->>'mean')::float8) / (state->>'sd')::float8 $$;
CREATE FUNCTION own.expected(state jsonb, at timestamptz, params jsonb) RETURNS float8 LANGUAGE sql IMMUTABLE AS $$ SELECT (state->>'mean')::float8 $$;

SELECT anomaly.create_strategy('plain_zscore', 'own.score', train => 'own.train', expected => 'own.expected', description => 'distance from the mean');
SELECT strategy, owner = CURRENT_USER::regrole AS mine, score, train, expected, description FROM anomaly.own_strategies;
SELECT * FROM anomaly.strategies WHERE strategy = 'plain_zscore';

-- What cannot be a strategy, and what to type instead.
CREATE FUNCTION own.volatile_score(state jsonb, at timestamptz, value float8, params jsonb) RETURNS float8 LANGUAGE sql AS $$ SELECT random() $$;
CREATE FUNCTION own.many(state jsonb, at timestamptz, value float8, params jsonb) RETURNS SETOF float8 LANGUAGE sql STABLE AS $$ SELECT 1.0::float8 $$;
CREATE FUNCTION own.text_score(state jsonb, at timestamptz, value float8, params jsonb) RETURNS text LANGUAGE sql STABLE AS $$ SELECT 'a' $$;
CREATE FUNCTION pg_temp.score(state jsonb, at timestamptz, value float8, params jsonb) RETURNS float8 LANGUAGE sql STABLE AS $$ SELECT 1.0::float8 $$;
SELECT call, helper.attempt('SELECT anomaly.create_strategy(' || call || ')') FROM unnest(ARRAY[
    $$NULL, 'own.score'$$, $$'x', NULL$$, $$'zscore', 'own.score'$$, $$'deep_lstm', 'own.score'$$, $$'plain_zscore', 'own.score'$$, $$'Plain', 'own.score'$$, $$'', 'own.score'$$,
    $$'x', 'own.scor'$$, $$'x', 'own.score(jsonb)'$$, $$'x', 'no_schema.score'$$, $$'x', 'own.volatile_score'$$, $$'x', 'own.many'$$, $$'x', 'own.text_score'$$, $$'x', 'pg_temp.score'$$,
    $$'x', 'own.score; DROP TABLE own.clock'$$, $$'x', 'own.score', train => 'own.score'$$, $$'x', 'own.score', expected => 'own.train'$$, $$'x', 'own.score', description => repeat('d', 3000)$$]) call;
SELECT anomaly.create_strategy('by_signature', 'own.score(jsonb, timestamptz, double precision, jsonb)', 'own.train'), anomaly.drop_strategy('by_signature'), anomaly.drop_strategy('by_signature');

-- check_c42_own_zscore_alerts_on_the_points_of_the_built_in_one: under a threshold that only incidents pass
SELECT anomaly.create_detector('data_outlier', s, 'v', source => 'own.reading', value => 'v', at => 'at', entity => 'host', training_window => '15 hours', threshold => 8, name => 'own_' || s)
  FROM unnest('{zscore,plain_zscore}'::text[]) s;
-- and one by rate, one of buckets (none of which begins where training does: the clock is some milliseconds late)
SELECT anomaly.create_detector('data_outlier', 'plain_zscore', 'v', source => 'own.reading', value => 'v', at => 'at', entity => 'host', training_window => '15 hours', alerts_per_day => 5, name => 'own_rate', params => '{"history": 500, "k": 3}');
SELECT anomaly.create_detector('data_outlier', 'plain_zscore', 'v', source => 'own.reading', value => 'v', at => 'at', entity => 'host', training_window => '14 hours 57.5 minutes', alerts_per_day => 5, bucket => '5 minutes', aggregate => 'max', on_missing => 'interpolate', name => 'own_bucket');
SELECT pg_temp.set_clock(0);
SELECT d.detector, t.status, t.trained_rows, t.entities FROM anomaly.detectors d, anomaly.train(d.detector) t WHERE d.detector ~ '^own_' ORDER BY 1;
DO $$
BEGIN
    FOR minute IN 60..600 BY 60 LOOP
        PERFORM pg_temp.set_clock(minute);
        PERFORM anomaly.scan(detector) FROM anomaly.detectors WHERE detector ~ '^own_' ORDER BY detector;
        COMMIT;
    END LOOP;
END $$;
SELECT detector, entity, extract(epoch FROM at - own.at(0))::int / 60 AS minute, points, value, direction, severity FROM anomaly.alerts WHERE detector = 'own_plain_zscore' ORDER BY at, entity;
SELECT count(*) AS differences FROM (
    (SELECT entity, at, last_at, points, value, direction FROM anomaly.alerts WHERE detector = 'own_plain_zscore' EXCEPT SELECT entity, at, last_at, points, value, direction FROM anomaly.alerts WHERE detector = 'own_zscore')
    UNION ALL
    (SELECT entity, at, last_at, points, value, direction FROM anomaly.alerts WHERE detector = 'own_zscore' EXCEPT SELECT entity, at, last_at, points, value, direction FROM anomaly.alerts WHERE detector = 'own_plain_zscore')) d;
SELECT count(*) FILTER (WHERE value IN (100, -20, 'Infinity') OR value BETWEEN 80 AND 86) AS incidents, count(*) FILTER (WHERE value BETWEEN 30 AND 60) AS others FROM anomaly.alerts WHERE detector = 'own_rate';
-- what is said: in the metric's unit, with the score and its limit
SELECT round(expected) AS expected, lower BETWEEN 36 AND 41 AS lower, upper BETWEEN 47 AND 52 AS upper, metadata ? 'score' AS score, (metadata->>'score_limit')::float8 BETWEEN 1.5 AND 10 AS score_limit,
       regexp_replace(description, '[0-9]+\.[0-9e-]+', 'N', 'g') AS description, detection_strategy
  FROM anomaly.alerts WHERE detector = 'own_rate' AND entity = 'a' ORDER BY at LIMIT 1;
SELECT entity, strategy, status, explanation->'state' ? 'mean' AS state, explanation->>'history' AS history FROM anomaly.explain_detector('own_rate') ORDER BY 1;

-- check_c42_backtest_equals_live_for_an_own_strategy: to the last bit
CREATE VIEW own.difference AS
WITH live AS (SELECT detector, entity, at, last_at, points, severity::text, peak_at, value, expected, lower, upper, p_value, deviation, direction, description, resolved_at FROM anomaly.alerts WHERE detector IN ('own_plain_zscore', 'own_rate', 'own_bucket')),
     replayed AS (SELECT d.detector, b.* FROM anomaly.detectors d, anomaly.backtest(d.detector, own.at(600) - own.at(0), own.at(600)) b WHERE d.detector IN ('own_plain_zscore', 'own_rate', 'own_bucket'))
SELECT 'live only' AS which, l.* FROM (TABLE live EXCEPT SELECT detector, entity, at, last_at, points, severity, peak_at, value, expected, lower, upper, p_value, deviation, direction, description, resolved_at FROM replayed) l
UNION ALL
SELECT 'replayed only', r.* FROM (SELECT detector, entity, at, last_at, points, severity, peak_at, value, expected, lower, upper, p_value, deviation, direction, description, resolved_at FROM replayed EXCEPT TABLE live) r;
SELECT count(*) AS differences FROM own.difference;
SELECT count(DISTINCT detector) AS detectors_with_alerts FROM anomaly.alerts WHERE detector IN ('own_plain_zscore', 'own_rate', 'own_bucket');

-- check_c42_an_own_strategy_keeps_the_promise_on_quiet_data: 20 promised in four days of 5760 points
CREATE TABLE own.quiet AS
SELECT now() - i * interval '1 minute' AS at, 100 + 5 * (SELECT sum(('x' || substr(md5(i || '.' || k), 1, 8))::bit(32)::bigint / 4294967296.0) - 6 FROM generate_series(1, 12) k) AS v FROM generate_series(1, 10080) i;
-- on a scale of its own
CREATE FUNCTION own.odd_score(state jsonb, at timestamptz, value float8, params jsonb) RETURNS float8 LANGUAGE sql IMMUTABLE AS $$
    SELECT 1e-6 * exp(abs(value - (state->>'mean')::float8) / (state->>'sd')::float8) - 7 $$;
SELECT anomaly.create_strategy('odd', 'own.odd_score', 'own.train');
SELECT status, alerts BETWEEN 5 AND 35 AS as_promised, points > 5000 AS many_points FROM anomaly.preview('own.quiet', '4 days', '{"strategy": "odd", "alerts_per_day": 5, "training_window": "3 days"}');

-- watch, alter, detect_anomalies
SELECT detector, status FROM anomaly.watch('own.quiet', strategy => 'odd', settle => '0 s', name => 'watched');
SELECT changed, effect FROM anomaly.alter_detector('watched', '{"strategy": "mad"}');
SELECT changed, effect FROM anomaly.alter_detector('watched', '{"strategy": "plain_zscore"}');
INSERT INTO own.quiet VALUES (clock_timestamp(), 200);
SELECT alerts_opened FROM anomaly.scan('watched');
SELECT detection_strategy, round(expected) AS expected FROM anomaly.alerts WHERE detector = 'watched';
SELECT count(*) FILTER (WHERE is_anomaly AND v.value = 200) AS found FROM detect_anomalies('own.quiet', strategy => 'plain_zscore', only_anomalies => true) v;

-- points that are brought, learned from anomaly.sample
SELECT anomaly.create_detector('data_outlier', 'plain_zscore', 'own_metric', min_data_points => 50, threshold => 8);
SELECT count(*) AS alerts FROM generate_series(100, 1, -1) i, anomaly.process_data_point(jsonb_build_object('own_metric', 10 + i * 7919 % 101 / 25.0, 'timestamp', now() - i * interval '1 minute'));
SELECT severity, value, round(expected) AS expected, suggestion FROM anomaly.process_data_point('{"own_metric": 99}');
SELECT status, trained_rows FROM anomaly.train('data_outlier_plain_zscore_own_metric');

-- late rows: a spike that comes after its time was judged
SELECT anomaly.create_detector('data_outlier', 'plain_zscore', 'v', source => 'own.reading', value => 'v', at => 'at', entity => 'host', training_window => '12 hours', late_window => '2 hours', threshold => 8, name => 'own_late');
SELECT pg_temp.set_clock(300);
SELECT status FROM anomaly.train('own_late');
SELECT pg_temp.set_clock(420), alerts_opened FROM anomaly.scan('own_late');
SELECT pg_temp.set_clock(500), alerts_opened FROM anomaly.scan('own_late');
INSERT INTO own.reading VALUES (own.at(470) + interval '20 seconds', 'c', 90);
SELECT pg_temp.set_clock(510);
SELECT alerts_opened FROM anomaly.scan('own_late');
SELECT entity, value FROM anomaly.alerts WHERE detector = 'own_late' AND at > own.at(300) ORDER BY at;

-- A strategy without a state: a rule that looks at the time of the point and at the detector's parameters.
CREATE FUNCTION own.opening_hours(state jsonb, at timestamptz, value float8, params jsonb) RETURNS float8 LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN value > coalesce((params->>'most')::float8, 0) THEN value ELSE 0 END $$;
SELECT anomaly.create_strategy('rule', 'own.opening_hours');
SELECT anomaly.create_detector('data_outlier', 'rule', 'v', source => 'own.reading', value => 'v', at => 'at', entity => 'host', params => '{"most": 60}', training_window => '15 hours', name => 'own_rule');
SELECT pg_temp.set_clock(0);
SELECT status FROM anomaly.train('own_rule');
SELECT pg_temp.set_clock(600);
SELECT alerts_opened FROM anomaly.scan('own_rule');
SELECT entity, value FROM anomaly.alerts WHERE detector = 'own_rule' ORDER BY at, entity;

-- What goes wrong in a function is the error of the run, which says where; other detectors go on.
CREATE FUNCTION own.faulty(state jsonb, at timestamptz, value float8, params jsonb) RETURNS float8 LANGUAGE plpgsql STABLE AS $$
DECLARE
    fault text = current_setting('own.fault', true);
BEGIN
    CASE coalesce(fault, '')
        WHEN 'null' THEN RETURN NULL;
        WHEN 'nan' THEN RETURN 'NaN';
        WHEN 'infinity' THEN RETURN '-Infinity';
        WHEN 'raise' THEN RAISE EXCEPTION 'out of ideas' USING HINT = 'think';
        WHEN 'division' THEN RETURN 1 / (value - value);
        WHEN 'write' THEN CREATE TABLE own.scratch (); RETURN 1;
        WHEN 'role' THEN PERFORM set_config('role', 'pg_monitor', false); RETURN 1;
        ELSE RETURN abs(value);
    END CASE;
END $$;
CREATE FUNCTION own.faulty_train(at timestamptz[], value float8[], params jsonb) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
BEGIN
    CASE coalesce(current_setting('own.fault', true), '')
        WHEN 'state_null' THEN RETURN NULL;
        WHEN 'state_large' THEN RETURN to_jsonb(repeat('x', 1048577));
        ELSE RETURN jsonb_build_object('first', at[1], 'points', cardinality(value), 'sorted', at = (SELECT array_agg(t ORDER BY t) FROM unnest(at) t));
    END CASE;
END $$;
SELECT anomaly.create_strategy('faulty', 'own.faulty', 'own.faulty_train');
SELECT anomaly.create_detector('data_outlier', 'faulty', 'v', source => 'own.reading', value => 'v', at => 'at', entity => 'host', training_window => '15 hours', name => 'own_faulty');
SELECT pg_temp.set_clock(0);
SELECT status FROM anomaly.train('own_faulty');
SELECT explanation->'state'->>'sorted' AS sorted FROM anomaly.explain_detector('own_faulty', 'a');
SELECT pg_temp.set_clock(60);
CREATE FUNCTION pg_temp.with_fault(fault text, call text) RETURNS text LANGUAGE sql AS $$
    SELECT set_config('own.fault', fault, false);
    SELECT regexp_replace(helper.attempt('SELECT anomaly.' || call || '(''own_faulty'')'), '[0-9-]{10}T[0-9:.]+Z?(\+00)?(:00)?', 'TIME') $$;
SELECT fault, pg_temp.with_fault(fault, 'scan') FROM unnest('{"null",nan,infinity,raise,division,write,role}'::text[]) fault;
SELECT fault, pg_temp.with_fault(fault, 'train') FROM unnest('{state_null,state_large}'::text[]) fault;
SELECT set_config('own.fault', '', false), current_user = session_user AS same_role;
SELECT helper.attempt('SELECT anomaly.scan(''own_faulty'')');
-- altered, dropped
ALTER FUNCTION own.faulty VOLATILE;
SELECT helper.attempt('SELECT anomaly.train(''own_faulty'')');
DROP FUNCTION own.faulty;
SELECT helper.attempt('SELECT anomaly.train(''own_faulty'')');
SELECT helper.attempt('SELECT anomaly.create_detector(''data_outlier'', ''faulty'', ''other'')');
-- it can be looked at, altered and dropped all the same
SELECT count(*) FROM anomaly.explain_detector('own_faulty');
SELECT detector, trained, reason FROM anomaly.train_all() WHERE detector IN ('own_faulty', 'own_rate') ORDER BY 1;
-- replaced: a state that the former function has made does not reach the new one
CREATE OR REPLACE FUNCTION own.train(at timestamptz[], value float8[], params jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT jsonb_build_object('centre', percentile_cont(0.5) WITHIN GROUP (ORDER BY v)) FROM unnest(value) v $$;
CREATE OR REPLACE FUNCTION own.score(state jsonb, at timestamptz, value float8, params jsonb) RETURNS float8 LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF NOT state ? 'centre' THEN RAISE 'a state of the former function'; END IF;
    RETURN abs(value - (state->>'centre')::float8);
END $$;
CREATE OR REPLACE FUNCTION own.expected(state jsonb, at timestamptz, params jsonb) RETURNS float8 LANGUAGE sql IMMUTABLE AS $$ SELECT (state->>'centre')::float8 $$;
INSERT INTO own.reading VALUES (own.at(605), 'a', 44), (own.at(606), 'a', 110);
SELECT pg_temp.set_clock(610);
SELECT alerts_opened FROM anomaly.scan('own_rate');
SELECT round(expected) AS expected, value FROM anomaly.alerts WHERE detector = 'own_rate' AND at > own.at(600);

-- Rights: a strategy is for its owner and members of that role; its functions run as the detector's owner, in a session of theirs.
CREATE ROLE own_author;
CREATE ROLE own_reader LOGIN;
GRANT USAGE ON SCHEMA own TO own_author, own_reader;
GRANT SELECT ON own.reading, own.clock TO own_reader;
SET SESSION AUTHORIZATION own_reader;
SELECT count(*) AS visible_to_others FROM anomaly.own_strategies;
SELECT helper.attempt('SELECT anomaly.create_detector(''data_outlier'', ''plain_zscore'', ''v'', source => ''own.reading'', value => ''v'', name => ''theirs'')');
SELECT helper.attempt('SELECT anomaly.drop_strategy(''plain_zscore'')');
RESET SESSION AUTHORIZATION;
GRANT own_author TO own_reader;
SET SESSION AUTHORIZATION own_reader;
SET ROLE own_author;
SELECT anomaly.create_strategy('of_the_group', 'own.score', 'own.train');
RESET ROLE;
SELECT strategy, owner FROM anomaly.own_strategies;
SELECT anomaly.create_detector('data_outlier', 'of_the_group', 'v', source => 'own.reading', value => 'v', entity => 'host', name => 'theirs');
SELECT trained_rows > 3000 AS trained FROM anomaly.train('theirs');
RESET SESSION AUTHORIZATION;
REVOKE EXECUTE ON FUNCTION own.score FROM PUBLIC;
SET SESSION AUTHORIZATION own_reader;
SELECT helper.attempt('SELECT anomaly.train(''theirs'')');
RESET SESSION AUTHORIZATION;
GRANT EXECUTE ON FUNCTION own.score TO own_reader;
-- not for whoever has taken the owner's role: a function could take back what SET ROLE gave away
CREATE FUNCTION own.rows() RETURNS jsonb LANGUAGE sql AS $$ SELECT jsonb_agg(jsonb_build_object('at', at, 'v', v, 'host', host)) FROM own.reading $$;
SET ROLE own_reader;
SELECT helper.attempt(format('SELECT anomaly.train(''theirs'', rows => %L)', own.rows()));
RESET ROLE;
SELECT anomaly.drop_detector('theirs');

-- While detectors use it, a strategy stays; members of ensembles are strategies that are built in.
SELECT helper.attempt('SELECT anomaly.drop_strategy(''rule'')');
SELECT helper.attempt('SELECT anomaly.drop_strategy(''zscore'')');
SELECT helper.attempt('SELECT anomaly.create_detector(''data_outlier'', ''ensemble'', ''own_member'', params => ''{"detectors": [{"strategy": "mad"}, {"strategy": "rule"}]}'')');

-- Anomaly types: a family decides what is suggested.
SELECT anomaly.create_anomaly_type('shop_fraud', 'user', 'orders that nobody placed'), anomaly.create_anomaly_type('shop_other');
SELECT * FROM anomaly.anomaly_types WHERE anomaly_type ~ '^shop' ORDER BY 1;
SELECT call, helper.attempt('SELECT anomaly.' || call) FROM unnest(ARRAY[$$create_anomaly_type('shop_fraud')$$, $$create_anomaly_type('system_cpu')$$, $$create_anomaly_type('Shop')$$, $$create_anomaly_type('shop', 'shop')$$,
    $$create_anomaly_type(NULL)$$, $$drop_anomaly_type('system_cpu')$$, $$drop_anomaly_type('no_such')$$, $$create_detector('shop', 'mad', 'x')$$]) call;
SELECT anomaly.create_detector('shop_fraud', 'mad', 'orders', min_data_points => 20);
SELECT count(*) AS alerts FROM generate_series(60, 1, -1) i, anomaly.process_data_point(jsonb_build_object('orders', 10 + i % 5, 'timestamp', now() - i * interval '1 minute'), ARRAY['shop_fraud']);
SELECT detector, suggestion FROM anomaly.process_data_point('{"orders": 900}', ARRAY['shop_fraud']);
SELECT count(*) FROM anomaly.get_alerts(anomaly_types => ARRAY['shop_fraud']);
SELECT helper.attempt('SELECT anomaly.drop_anomaly_type(''shop_fraud'')');
SET SESSION AUTHORIZATION own_reader;
SELECT helper.attempt('SELECT anomaly.drop_anomaly_type(''shop_other'')');
RESET SESSION AUTHORIZATION;

SELECT count(anomaly.drop_detector(detector)) AS dropped FROM anomaly.detectors WHERE detector ~ '^own_' OR detector = 'watched' OR metric_name IN ('own_metric', 'orders');
SELECT anomaly.drop_strategy('plain_zscore'), anomaly.drop_strategy('odd'), anomaly.drop_strategy('rule'), anomaly.drop_strategy('faulty'), anomaly.drop_strategy('of_the_group'), anomaly.drop_anomaly_type('shop_fraud'), anomaly.drop_anomaly_type('shop_other');
SET client_min_messages = warning;
DROP SCHEMA own CASCADE;
DROP OWNED BY own_author, own_reader;
DROP ROLE own_author, own_reader;
