-- Incidents: which alerts belong together, who is told of them, which is the root. Each scan is the one that a worker does;
-- settle puts the clock where the test wants it.
SET TIME ZONE 'UTC';
DO $$ BEGIN
    EXECUTE format('ALTER DATABASE %I SET anomaly_detection.enabled = off', current_database());
    PERFORM pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = current_database() AND backend_type ~ '^anomaly_detection (scan worker|dispatcher)';
END $$;
CREATE TABLE inc_clock AS SELECT date_trunc('day', now()) - interval '20 hours' AS zero;
CREATE FUNCTION pg_temp.at(minute int) RETURNS timestamptz LANGUAGE sql AS $$ SELECT zero + minute * interval '1 minute' FROM inc_clock $$;
CREATE FUNCTION pg_temp.minute(at timestamptz) RETURNS int LANGUAGE sql AS $$ SELECT extract(epoch FROM at - zero)::int / 60 FROM inc_clock $$;
CREATE FUNCTION pg_temp.set_clock(minute int) RETURNS void LANGUAGE sql AS $$
    UPDATE anomaly.detector SET settle = clock_timestamp() - pg_temp.at(minute) WHERE detector ~ '^inc_' $$;
-- Three services on hosts, a value a minute around 52.
CREATE TABLE inc_web (at timestamptz, host text, v double precision);
CREATE TABLE inc_db (LIKE inc_web);
CREATE TABLE inc_far (LIKE inc_web);
CREATE FUNCTION pg_temp.measure(first int, last int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    source text;
BEGIN
    FOREACH source IN ARRAY '{inc_web,inc_db,inc_far}'::text[] LOOP
        EXECUTE format('INSERT INTO %I SELECT pg_temp.at(i), h, 52 + ((i + 400) * 7919 %% 101 - 50) ^ 3 / 12500.0 FROM generate_series(%s, %s) i, unnest(%L::text[]) h', source, first, last,
                       CASE source WHEN 'inc_far' THEN '{x}' ELSE '{a,b}' END);
    END LOOP;
END $$;
CREATE FUNCTION pg_temp.spike(source text, minute int, hosts text[], value double precision) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('UPDATE %I SET v = %s WHERE at = pg_temp.at(%s) AND host = ANY (%L)', source, value, minute, hosts);
END $$;
CREATE FUNCTION pg_temp.scan(minute int) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_temp.set_clock(minute);
    RETURN (SELECT string_agg(concat(d.detector, ' +', s.alerts_opened, ' -', s.alerts_resolved), ', ' ORDER BY d.detector)
              FROM (SELECT detector FROM anomaly.detectors WHERE detector ~ '^inc_' ORDER BY detector OFFSET 0) d, anomaly.scan(d.detector) s);
END $$;
-- Incidents and what is in them, numbered from one.
CREATE VIEW inc AS SELECT rank() OVER (ORDER BY id) AS nr, * FROM anomaly.incidents WHERE detectors IS NULL OR detectors[1] ~ '^inc_';
CREATE VIEW inc_alert AS
SELECT (SELECT nr FROM inc WHERE inc.id = a.incident_id) AS incident, a.detector, a.entity, pg_temp.minute(a.at) AS first, a.points, a.status, a.severity, a.inhibited_by IS NOT NULL AS inhibited
  FROM anomaly.alerts a WHERE a.detector ~ '^inc_';
CREATE TABLE inc_message (nr int GENERATED ALWAYS AS IDENTITY, handler text, transition text, detector text, entity text, severity text, alerts int, further int, text text);
CREATE FUNCTION inc_write(alert jsonb) RETURNS void LANGUAGE sql AS $$
    INSERT INTO public.inc_message (handler, transition, detector, entity, severity, alerts, further, text) SELECT alert ->> 'handler', alert ->> 'transition', alert ->> 'detector', alert ->> 'entity',
           alert ->> 'severity', (alert -> 'incident' ->> 'alerts')::int, (alert ->> 'further')::int, regexp_replace(alert ->> 'text', '[0-9]+\.[0-9]+', '#', 'g') $$;
CREATE FUNCTION pg_temp.told() RETURNS TABLE (handler text, transition text, detector text, entity text, severity text, alerts int) LANGUAGE plpgsql AS $$
BEGIN
    TRUNCATE inc_message;
    PERFORM anomaly.deliver();
    RETURN QUERY SELECT m.handler, m.transition, m.detector, m.entity, m.severity, m.alerts FROM inc_message m ORDER BY m.nr;
END $$;

SELECT pg_temp.measure(-300, 9);
SELECT anomaly.create_detector('data_outlier', 'zscore', source, source => source, value => 'v', at => 'at', entity => 'host', training_window => '10 hours', threshold => 3, clear_after => 2, name => source)
  FROM unnest('{inc_web,inc_db,inc_far}'::text[]) source;
SELECT pg_temp.set_clock(0);
SELECT count(*) FROM unnest('{inc_web,inc_db,inc_far}'::text[]) d, anomaly.train(d);
-- Mail and chat are told per incident, programs of each alert, unless somebody says otherwise.
SELECT anomaly.create_handler('inc each', 'function', 'public.inc_write');
SELECT anomaly.create_handler('inc once', 'function', 'public.inc_write', rank => 1, per => 'incident');
SELECT anomaly.create_handler('inc mail', 'smtp', 'ops@example.com');
SELECT anomaly.create_handler('inc hook', 'webhook', 'https://example.com', '{"entity": "nobody"}');
SELECT handler, kind, per FROM anomaly.handlers WHERE handler ~ '^inc' ORDER BY handler;

-- check_c39_one_incident_one_message: detectors of two tables that share an entity; one that shares nothing is another incident
SELECT pg_temp.spike('inc_db', 5, '{a}', 66), pg_temp.spike('inc_web', 6, '{a}', 66), pg_temp.spike('inc_far', 6, '{x}', 66);
-- fault_q10_rolled_back: of a scan that is rolled back nothing is told, and nothing is left
BEGIN;
SELECT pg_temp.scan(6);
SELECT count(*) FROM anomaly.deliveries;
ROLLBACK;
SELECT count(*) FROM anomaly.deliveries;
SELECT count(*) FROM inc;
SELECT pg_temp.scan(6);
SELECT * FROM inc_alert ORDER BY incident, first;
SELECT nr, status, severity, alerts, open_alerts, detectors, entities, pg_temp.minute(started_at) AS started, resolved_at FROM inc ORDER BY nr;
SELECT handler, transition, detector FROM anomaly.deliveries WHERE handler = 'inc mail' ORDER BY id;
SELECT * FROM pg_temp.told();

-- Worse than all before: told. Another alert that is not: not told.
SELECT pg_temp.measure(10, 19);
SELECT pg_temp.spike('inc_web', 11, '{b}', 66), pg_temp.spike('inc_db', 12, '{b}', 90);
SELECT pg_temp.scan(13);
SELECT incident, detector, entity, severity, status FROM inc_alert ORDER BY incident, first, detector;
SELECT * FROM pg_temp.told() WHERE handler = 'inc once';

-- Acknowledged as one.
SELECT anomaly.acknowledge_incident(id, 'on it') FROM inc WHERE nr = 1;
SELECT anomaly.acknowledge_incident(id) FROM inc WHERE nr = 1;
SELECT nr, status, open_alerts FROM inc ORDER BY nr;
SELECT DISTINCT a.status, note FROM anomaly.alerts a JOIN inc ON inc.id = a.incident_id WHERE nr = 1 AND a.status <> 'resolved';
SELECT * FROM pg_temp.told() WHERE handler = 'inc once';

-- The end: when the last of its alerts has ended, once.
SELECT pg_temp.scan(19);
SELECT nr, status, alerts, open_alerts, duration FROM inc ORDER BY nr;
SELECT * FROM pg_temp.told() WHERE handler = 'inc once';

-- The likely root: what began first, unless something depends on it.
SELECT x.place, x.detector, x.entity, x.severity, pg_temp.minute(x.at) AS first, x.depends_on, x.reason FROM inc, anomaly.explain_incident(inc.id) x WHERE nr = 1 ORDER BY place;
SELECT (anomaly.alter_detector('inc_db', '{"depends_on": ["inc_web"]}')).effect;
SELECT x.place, x.detector, x.entity, x.depends_on, x.reason FROM inc, anomaly.explain_incident(inc.id) x WHERE nr = 1 ORDER BY place;

-- Soon after the end it goes on: what is over when it is known is not told, what is open is. Later it is another incident.
-- What it depends on keeps a detector from being told.
SELECT pg_temp.measure(20, 79);
SELECT pg_temp.spike('inc_web', 22, '{a}', 66), pg_temp.spike('inc_web', 28, '{a}', 66), pg_temp.spike('inc_db', 60, '{a,b}', 66), pg_temp.spike('inc_web', 59, '{b}', 66);
SELECT pg_temp.scan(26);
SELECT * FROM pg_temp.told() WHERE handler = 'inc once';
SELECT pg_temp.scan(28);
SELECT * FROM pg_temp.told() WHERE handler = 'inc once';
SELECT pg_temp.scan(40);
SELECT pg_temp.scan(59);
SELECT * FROM pg_temp.told() WHERE handler = 'inc once';
-- the parent first, as it is
SELECT (SELECT alerts_opened FROM anomaly.scan('inc_web')) FROM pg_temp.set_clock(60);
SELECT pg_temp.scan(60);
SELECT incident, detector, entity, first, status, inhibited FROM inc_alert WHERE first > 20 ORDER BY first, detector, entity;
SELECT * FROM pg_temp.told();
SELECT nr, status, alerts, inhibited_alerts FROM inc ORDER BY nr;
-- The parent is well again and the child still is not: now it is told.
UPDATE inc_db SET v = 66 WHERE at > pg_temp.at(60) AND host = 'b';
SELECT pg_temp.scan(63);
SELECT detector, entity, status, inhibited FROM inc_alert WHERE first = 60 ORDER BY entity;
SELECT pg_temp.scan(65);
SELECT detector, entity, status, inhibited FROM inc_alert WHERE first = 60 ORDER BY entity;
SELECT * FROM pg_temp.told() WHERE handler = 'inc each';
UPDATE inc_db SET v = 52 WHERE at > pg_temp.at(65) AND host = 'b';
SELECT pg_temp.scan(79);
SELECT count(*) FROM pg_temp.told();

-- A label, and the gap.
SELECT anomaly.alter_detector(d, '{"labels": ["service:shop"], "depends_on": []}') FROM unnest('{inc_db,inc_far}'::text[]) d;
SELECT pg_temp.measure(80, 139);
SELECT pg_temp.spike('inc_db', 100, '{a}', 66), pg_temp.spike('inc_far', 106, '{x}', 66), pg_temp.spike('inc_web', 120, '{b}', 66), pg_temp.spike('inc_db', 128, '{b}', 66);
SELECT pg_temp.scan(110);
SET anomaly_detection.incident_gap = '5 min';
SELECT pg_temp.scan(139);
RESET anomaly_detection.incident_gap;
SELECT incident, detector, entity, first, status FROM inc_alert WHERE first >= 100 ORDER BY first;
SELECT count(*) > 0 AS told FROM pg_temp.told();

-- Withdrawn alerts leave: the row was wrong, and is corrected within late_window.
SELECT (anomaly.alter_detector('inc_far', '{"late_window": "1 hour", "labels": []}')).effect;
SELECT pg_temp.measure(140, 199);
SELECT pg_temp.scan(145);
SELECT pg_temp.spike('inc_far', 150, '{x}', 66);
SELECT pg_temp.scan(151);
SELECT status, alerts, severity FROM inc ORDER BY nr DESC LIMIT 1;
SELECT * FROM pg_temp.told() WHERE handler = 'inc once';
SELECT pg_temp.spike('inc_far', 150, '{x}', 51);
SELECT pg_temp.scan(152);
SELECT status, alerts, severity, detectors FROM inc ORDER BY nr DESC LIMIT 1;
SELECT count(*) FROM inc, anomaly.explain_incident(inc.id) WHERE inc.status = 'withdrawn';
SELECT * FROM pg_temp.told() WHERE handler = 'inc once';

-- fault_q12_alert_storm: all alerts are stored; a handler hears of twenty one by one, and of the others in one message
CREATE TABLE inc_storm AS SELECT pg_temp.at(i) AS at, 'h' || h AS host, CASE WHEN i < 160 THEN 50 + (i + 400 + h) * 7919 % 101 / 25.0 WHEN i = 160 THEN 56 + h ELSE 50 END AS v
  FROM generate_series(-100, 170) i, generate_series(1, 30) h;
SELECT anomaly.create_detector('data_outlier', 'zscore', 'storm', source => 'inc_storm', value => 'v', at => 'at', entity => 'host', training_window => '10 hours', threshold => 4, clear_after => 1, name => 'inc_storm');
SELECT pg_temp.set_clock(159);
SELECT trained_rows FROM anomaly.train('inc_storm');
SELECT alerts_opened FROM pg_temp.set_clock(160), anomaly.scan('inc_storm');
SELECT count(*), count(DISTINCT incident_id) AS incidents FROM anomaly.alerts WHERE detector = 'inc_storm';
SELECT count(*) FROM pg_temp.told() WHERE handler = 'inc once';
SELECT transition, count(*), max(further) AS further FROM inc_message WHERE handler = 'inc each' GROUP BY 1 ORDER BY 1;
SELECT severity, text FROM inc_message WHERE transition = 'summary';
SET anomaly_detection.messages_per_scan = 29;
SELECT alerts_resolved FROM pg_temp.set_clock(161), anomaly.scan('inc_storm');
RESET anomaly_detection.messages_per_scan;
SELECT count(*) FROM pg_temp.told() WHERE handler = 'inc once';
SELECT transition, count(*) FROM inc_message WHERE handler = 'inc each' GROUP BY 1 ORDER BY 1;
SELECT regexp_replace(text, ';.*', '') AS text FROM inc_message WHERE transition = 'summary';

-- What a replay does takes no part in incidents, and waits for none.
SELECT count(*) AS before FROM anomaly.incident \gset
SELECT count(*) > 20 AS alerts FROM anomaly.backtest('inc_storm', now() - pg_temp.at(150), settings => '{"training_window": "5 hours"}');
SELECT count(*) - :before AS further FROM anomaly.incident;

-- What cannot be.
SELECT helper.attempt(command) FROM unnest(ARRAY[
    $$SELECT anomaly.create_handler('x', 'function', 'public.inc_write', per => 'day')$$,
    $$SELECT anomaly.alter_detector('inc_db', '{"depends_on": ["inc_wep"]}')$$,
    $$SELECT anomaly.alter_detector('inc_db', '{"depends_on": ["inc_db"]}')$$,
    $$SELECT anomaly.alter_detector('inc_db', '{"labels": [""]}')$$,
    $$SELECT anomaly.alter_detector('inc_db', '{"labels": "shop"}')$$,
    $$SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', labels => '{NULL}')$$,
    $$SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', depends_on => '{nothing like it}')$$,
    $$SELECT anomaly.acknowledge_incident(-1)$$,
    $$SELECT anomaly.acknowledge_incident(NULL)$$,
    $$SELECT anomaly.explain_incident(-1)$$]) command;

-- Whose incident it is.
CREATE ROLE inc_stranger;
CREATE ROLE inc_looker IN ROLE anomaly_monitor;
CREATE ROLE inc_chief IN ROLE anomaly_admin;
CREATE TABLE inc_id AS SELECT id FROM inc WHERE status = 'resolved' ORDER BY nr LIMIT 1;
GRANT SELECT ON inc_id TO PUBLIC;
SET ROLE inc_stranger;
SELECT count(*) FROM anomaly.incidents;
SELECT helper.attempt(format('SELECT anomaly.acknowledge_incident(%s)', id)) ~ '^42704' AS unknown, helper.attempt(format('SELECT anomaly.explain_incident(%s)', id)) ~ '^42704' AS unknown_too FROM inc_id;
SET ROLE inc_looker;
SELECT count(*) > 3 AS sees FROM anomaly.incidents;
SELECT helper.attempt(format('SELECT anomaly.acknowledge_incident(%s)', id)) ~ '^42501' AS refused, (SELECT count(*) FROM anomaly.explain_incident(id)) AS explained FROM inc_id;
SET ROLE inc_chief;
SELECT anomaly.acknowledge_incident(id) FROM inc_id;
RESET ROLE;
DROP ROLE inc_stranger, inc_looker, inc_chief;

SELECT anomaly.drop_detector(detector) FROM anomaly.detectors WHERE detector ~ '^inc_' ORDER BY detector;
SELECT anomaly.drop_handler(handler) FROM anomaly.handlers WHERE handler ~ '^inc' ORDER BY handler;
SELECT count(*) FROM anomaly.incident_hearing;
DELETE FROM anomaly.alert WHERE detector ~ '^inc_';
DELETE FROM anomaly.incident i WHERE NOT EXISTS (SELECT FROM anomaly.alert a WHERE a.incident_id = i.incident_id);
DROP VIEW inc_alert, inc;
DROP TABLE inc_web, inc_db, inc_far, inc_storm, inc_clock, inc_id, inc_message;
DROP FUNCTION inc_write;
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I RESET anomaly_detection.enabled', current_database()); END $$;
