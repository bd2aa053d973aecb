-- Alerts that are no anomalies: that there is no data, and that runs fail. Each scan is the one that a worker does; settle puts
-- the clock where the test wants it.
SET TIME ZONE 'UTC';
DO $$ BEGIN
    EXECUTE format('ALTER DATABASE %I SET anomaly_detection.enabled = off', current_database());
    PERFORM pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = current_database() AND backend_type ~ '^anomaly_detection (scan worker|dispatcher)';
END $$;
CREATE FUNCTION pg_temp.attempt(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    hint text;
BEGIN
    EXECUTE command;
    RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
    RETURN regexp_replace(concat_ws(' | ', SQLSTATE, SQLERRM, hint), '(alert |resolve\()\d+', '\1N', 'g');
END $$;
CREATE TABLE gone_clock AS SELECT date_trunc('day', now()) - interval '20 hours' AS zero;
CREATE FUNCTION pg_temp.at(minute int) RETURNS timestamptz LANGUAGE sql AS $$ SELECT zero + minute * interval '1 minute' FROM gone_clock $$;
CREATE FUNCTION pg_temp.minute(at timestamptz) RETURNS int LANGUAGE sql AS $$ SELECT extract(epoch FROM at - zero)::int / 60 FROM gone_clock $$;
-- Hosts with a value a minute: 50, 51, 52, …
CREATE TABLE gone (at timestamptz, host text, v double precision);
CREATE FUNCTION pg_temp.measure(first int, last int, hosts text[] DEFAULT '{a,b,c}') RETURNS void LANGUAGE sql AS $$
    INSERT INTO gone SELECT pg_temp.at(i), h, 50 + (i + 400) * 7919 % 101 / 25.0 FROM generate_series(first, last) i, unnest(hosts) h $$;
CREATE FUNCTION pg_temp.scan(minute int) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    UPDATE anomaly.detector SET settle = clock_timestamp() - pg_temp.at(minute) WHERE detector ~ '^gone_';
    RETURN (SELECT concat('read ', rows_read, ', opened ', alerts_opened, ', resolved ', alerts_resolved) FROM anomaly.scan('gone_z'));
END $$;
CREATE VIEW gone_alert AS
SELECT row_number() OVER (ORDER BY id) AS nr, id, kind, entity, status, severity, pg_temp.minute(at) AS since, pg_temp.minute(peak_at) AS fired, pg_temp.minute(last_at) AS last, duration, points, value, round(deviation) AS deviation, score, direction, description
  FROM anomaly.alerts WHERE detector ~ '^gone_';
CREATE TABLE gone_message (nr int GENERATED ALWAYS AS IDENTITY, kind text, transition text, entity text, severity text, text text);
CREATE FUNCTION gone_write(alert jsonb) RETURNS void LANGUAGE sql AS $$
    INSERT INTO public.gone_message (kind, transition, entity, severity, text) SELECT alert ->> 'kind', alert ->> 'transition', alert ->> 'entity', alert ->> 'severity', alert ->> 'text' $$;
CREATE FUNCTION pg_temp.told() RETURNS TABLE (kind text, transition text, entity text, severity text, text text) LANGUAGE plpgsql AS $$
BEGIN
    TRUNCATE gone_message;
    PERFORM anomaly.deliver();
    RETURN QUERY SELECT m.kind, m.transition, m.entity, m.severity, m.text FROM gone_message m ORDER BY m.nr;
END $$;
SELECT anomaly.create_handler('gone', 'function', 'public.gone_write', template => '{{kind}} {{transition}}: {{description}}');

SELECT pg_temp.measure(-300, 20);
SELECT pg_temp.measure(-300, -200, '{long ago}');
SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', source => 'gone', value => 'v', at => 'at', entity => 'host', training_window => '10 hours', threshold => 6, clear_after => 2, no_data_after => '10 minutes', name => 'gone_z');
UPDATE anomaly.detector SET settle = clock_timestamp() - pg_temp.at(0) WHERE detector = 'gone_z';
SELECT anomaly.train('gone_z') IS NOT NULL AS trained;
SELECT no_data_after, depends_on, labels FROM anomaly.detectors WHERE detector = 'gone_z';

-- fault_q13_no_data: what was there and is not there any more is an alert of its own. An anomaly that is open stays open.
UPDATE gone SET v = 90 WHERE at = pg_temp.at(20) AND host = 'b';
SELECT pg_temp.scan(20);
SELECT pg_temp.measure(21, 40, '{a,c}');
SELECT pg_temp.scan(29);
SELECT pg_temp.scan(30);
SELECT pg_temp.scan(40);
SELECT nr, kind, entity, status, severity, since, fired, last, duration, points, value, deviation, score, direction, description FROM gone_alert;
SELECT * FROM pg_temp.told();
-- It is an alert like any other.
SELECT anomaly.acknowledge(id, 'moving it') FROM gone_alert WHERE nr = 2;
SELECT pg_temp.attempt(format('SELECT anomaly.feedback(%s, ''false_positive'')', id)) FROM gone_alert WHERE nr = 2;
SELECT anomaly.explain(id) ->> 'explanation' AS explanation, anomaly.explain(id) ->> 'kind' AS kind FROM gone_alert WHERE nr = 2;
SELECT anomaly.alert_json(id) ->> 'kind' AS kind FROM gone_alert WHERE nr = 2;
-- A training neither ends it nor leaves its time out; a replay is not about it.
SELECT trained_rows FROM anomaly.train('gone_z');
SELECT count(*) FROM anomaly.backtest('gone_z', '1 day') WHERE value IS NULL;
SELECT nr, kind, status FROM gone_alert;
-- There is data again: resolved, with how long it lasted. What says how the anomaly ends is its points.
SELECT pg_temp.measure(41, 50, '{a,c}'), pg_temp.measure(45, 50, '{b}');
SELECT pg_temp.scan(50);
SELECT nr, kind, entity, status, since, last, duration, description FROM gone_alert;
SELECT kind, transition, text FROM pg_temp.told();

-- Nothing comes at all: one alert, and not one per entity. When some of it is back, those that are not have their own.
SELECT pg_temp.scan(65);
SELECT nr, kind, entity, status, severity, since, fired, description FROM gone_alert WHERE nr > 2;
SELECT pg_temp.measure(66, 70, '{c}');
SELECT pg_temp.scan(70);
SELECT nr, kind, entity, status, severity, since, fired, duration, description FROM gone_alert WHERE nr > 2;
SELECT kind, transition, entity, severity FROM pg_temp.told();
-- Ended by hand, it is not missed until it has been there again.
SELECT anomaly.resolve(id, 'gone for good') FROM gone_alert WHERE entity = 'a' AND status = 'open';
SELECT pg_temp.measure(71, 90, '{c}');
SELECT pg_temp.scan(90);
SELECT nr, entity, status, duration IS NOT NULL AS ended, description FROM gone_alert WHERE nr > 3;
SELECT pg_temp.measure(91, 95, '{a,b,c}');
SELECT pg_temp.scan(95);
SELECT pg_temp.measure(96, 110, '{b,c}');
SELECT pg_temp.scan(110);
SELECT nr, entity, status, since, fired FROM gone_alert WHERE nr > 4;
SELECT count(*) FROM pg_temp.told();

-- Silenced, it is told when it outlasts the silence. In times of which nothing is expected nothing is missed.
SELECT anomaly.silence(tstzrange(pg_temp.at(100), pg_temp.at(140)), 'gone_z') > 0 AS silenced;
SELECT pg_temp.measure(111, 130, '{a,c}');
SELECT pg_temp.scan(130);
SELECT nr, entity, status FROM gone_alert WHERE nr > 5;
SELECT kind, transition, entity FROM pg_temp.told();
SELECT pg_temp.measure(131, 145, '{a,c}');
SELECT pg_temp.scan(145);
SELECT kind, transition, entity FROM pg_temp.told();
SELECT anomaly.add_calendar('gone closed', pg_temp.at(146), '60 minutes', action => 'expect', detector => 'gone_z') > 0 AS added;
SELECT pg_temp.scan(200);
SELECT pg_temp.scan(209);
SELECT pg_temp.scan(211);
SELECT nr, entity, status, since, description FROM gone_alert WHERE nr > 6;
-- Switched off, what is open ends.
SELECT (anomaly.alter_detector('gone_z', '{"no_data_after": null}')).effect;
SELECT kind, count(*) FROM gone_alert WHERE status <> 'resolved' GROUP BY kind;
SELECT count(*) FROM anomaly.last_data;
SELECT entity, regexp_replace(description, 'after .*', 'after …') AS description FROM gone_alert ORDER BY nr DESC LIMIT 2;
-- One detector without entities, and one that says in the first scan that the last point was long ago.
SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', source => 'SELECT at, v FROM gone WHERE host = ''c''', value => 'v', at => 'at', training_window => '10 hours', threshold => 6, no_data_after => '5 minutes', name => 'gone_one');
UPDATE anomaly.detector SET settle = clock_timestamp() - pg_temp.at(145) WHERE detector = 'gone_one';
SELECT anomaly.train('gone_one') IS NOT NULL AS trained;
UPDATE anomaly.detector SET settle = clock_timestamp() - pg_temp.at(155) WHERE detector = 'gone_one';
SELECT alerts_opened FROM anomaly.scan('gone_one');
SELECT alerts_opened FROM anomaly.scan('gone_one');
SELECT entity, status, severity, since, fired, description FROM gone_alert ORDER BY nr DESC LIMIT 1;
SELECT anomaly.drop_detector('gone_one');
SELECT status FROM gone_alert ORDER BY nr DESC LIMIT 1;
SELECT kind, transition, entity FROM pg_temp.told();
TRUNCATE gone_message;

-- fault_q13_error: runs that fail are an alert of the detector. What is open of its metric stays open.
CREATE VIEW gone_view AS SELECT at, v / 1 AS v FROM gone WHERE host = 'b';
SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', source => 'gone_view', value => 'v', at => 'at', training_window => '10 hours', threshold => 6, clear_after => 2, every => '1 hour', name => 'gone_err');
CREATE FUNCTION pg_temp.due(minute int) RETURNS void LANGUAGE sql AS $$
    UPDATE anomaly.detector SET settle = clock_timestamp() - pg_temp.at(minute) WHERE detector = 'gone_err';
    UPDATE anomaly.detector_state SET next_due = clock_timestamp() - interval '1 second' WHERE detector = 'gone_err' $$;
\set VERBOSITY terse
\set SHOW_CONTEXT never
SET client_min_messages = error;
SELECT pg_temp.due(220);
CALL anomaly.run_due();
INSERT INTO gone VALUES (pg_temp.at(230), 'b', 90);
SELECT pg_temp.due(230);
CALL anomaly.run_due();
CREATE OR REPLACE VIEW gone_view AS SELECT at, v / 0 AS v FROM gone WHERE host = 'b';
SELECT pg_temp.measure(235, 245, '{b}');
SELECT pg_temp.due(240);
CALL anomaly.run_due();
SELECT pg_temp.due(241);
CALL anomaly.run_due();
SELECT kind, entity, status FROM anomaly.alerts WHERE detector = 'gone_err' ORDER BY id;
SELECT pg_temp.due(242);
CALL anomaly.run_due();
SELECT kind, entity, status, severity, points, value, round(deviation) AS deviation, description FROM anomaly.alerts WHERE detector = 'gone_err' ORDER BY id;
SELECT at = (SELECT min(finished_at) FROM anomaly.runs WHERE detector = 'gone_err' AND status = 'failed') AS since_the_first, at < peak_at AS fired_later FROM anomaly.alerts WHERE kind = 'error';
SELECT kind, transition, severity, text FROM gone_message ORDER BY nr;
TRUNCATE gone_message;
-- broken: worse
DROP VIEW gone_view;
SELECT pg_temp.due(243);
CALL anomaly.run_due();
SELECT kind, status, severity, description FROM anomaly.alerts WHERE detector = 'gone_err' ORDER BY id;
SELECT kind, transition, severity FROM gone_message ORDER BY nr;
TRUNCATE gone_message;
SELECT count(*) FROM anomaly.alerts a JOIN anomaly.incidents i ON i.id = a.incident_id WHERE a.kind = 'error' AND i.status = 'open';
-- It works again.
CREATE VIEW gone_view AS SELECT at, v FROM gone WHERE host = 'b';
SELECT (anomaly.alter_detector('gone_err', '{"source": "gone_view"}')).changed;
SELECT status FROM anomaly.detectors WHERE detector = 'gone_err';
SELECT pg_temp.due(244);
CALL anomaly.run_due();
SELECT kind, status, regexp_replace(description, '.*; (.*) after \d+ s$', '… \1 after N s') AS description FROM anomaly.alerts WHERE detector = 'gone_err' ORDER BY id;
SELECT kind, transition FROM gone_message ORDER BY nr;
RESET client_min_messages;
-- Points that are brought: three in a row that a detector cannot judge.
SELECT anomaly.create_detector('data_outlier', 'zscore', 'gone_brought', threshold => 6, min_data_points => 10, name => 'gone_brought');
SELECT count(*) FROM generate_series(1, 20) i, anomaly.process_data_point(jsonb_build_object('gone_brought', 50 + i % 5, 'timestamp', pg_temp.at(i)));
UPDATE anomaly.entity_state SET payload = '\x00' WHERE detector = 'gone_brought';
SET client_min_messages = error;
SELECT count(*) FROM generate_series(21, 24) i, anomaly.process_data_point(jsonb_build_object('gone_brought', 50, 'timestamp', pg_temp.at(i)));
SELECT kind, status, severity, description FROM anomaly.alerts WHERE detector = 'gone_brought';
SELECT anomaly.train('gone_brought') IS NOT NULL AS trained;
SELECT count(*) FROM anomaly.process_data_point(jsonb_build_object('gone_brought', 50, 'timestamp', pg_temp.at(25)));
RESET client_min_messages;
SELECT kind, status FROM anomaly.alerts WHERE detector = 'gone_brought';
SELECT count(*) FROM pg_temp.told();

-- What cannot be.
SELECT pg_temp.attempt(command) FROM unnest(ARRAY[
    $$SELECT anomaly.create_detector('data_outlier', 'zscore', 'x', no_data_after => '1 hour')$$,
    $$SELECT anomaly.alter_detector('gone_brought', '{"no_data_after": "1 hour"}')$$,
    $$SELECT anomaly.alter_detector('gone_z', '{"no_data_after": "0"}')$$,
    $$SELECT anomaly.alter_detector('gone_z', '{"no_data_after": "soon"}')$$]) command;

SELECT anomaly.drop_calendar(id) FROM anomaly.calendars WHERE name IN ('gone closed', 'silence');
SELECT anomaly.drop_detector(detector) FROM anomaly.detectors WHERE detector ~ '^gone_' ORDER BY detector;
SELECT anomaly.drop_handler('gone');
DELETE FROM anomaly.alert WHERE detector ~ '^gone_';
DELETE FROM anomaly.incident i WHERE NOT EXISTS (SELECT FROM anomaly.alert a WHERE a.incident_id = i.incident_id);
DELETE FROM anomaly.run WHERE detector ~ '^gone_';
DELETE FROM anomaly.sample WHERE metric ~ '^gone_';
DROP VIEW gone_alert, gone_view;
DROP TABLE gone, gone_clock, gone_message;
DROP FUNCTION gone_write;
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I RESET anomaly_detection.enabled', current_database()); END $$;
