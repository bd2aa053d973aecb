-- Who is told what happens to alerts: handlers, the outbox, and delivering by hand. Workers deliver in tests/tap.
SET TIME ZONE 'UTC';
DO $$ BEGIN
    EXECUTE format('ALTER DATABASE %I SET anomaly_detection.enabled = off', current_database());
    PERFORM pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = current_database() AND backend_type ~ '^anomaly_detection (scan worker|dispatcher)';
END $$;
CREATE SCHEMA told;
CREATE TABLE told.message (nr int GENERATED ALWAYS AS IDENTITY, handler text, transition text, status text, severity text, text text, reopened int, sequence int);
CREATE FUNCTION told.write(alert jsonb) RETURNS void LANGUAGE sql AS $$
    INSERT INTO told.message (handler, transition, status, severity, text, reopened, sequence) SELECT alert ->> 'handler', alert ->> 'transition', alert ->> 'status', alert ->> 'severity', alert ->> 'text', (alert ->> 'reopened')::int, (alert ->> 'sequence')::int $$;
CREATE FUNCTION told.fail(alert jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN INSERT INTO told.message (handler) VALUES ('leaves nothing'); RAISE 'no, thank you'; END $$;
CREATE FUNCTION told.hang(alert jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(600); EXCEPTION WHEN query_canceled THEN PERFORM pg_sleep(600); END $$;
CREATE TABLE told_clock AS SELECT date_trunc('hour', now()) - interval '2 hours' AS zero;
CREATE FUNCTION pg_temp.feed(minute int, load float8, entity text DEFAULT 'a') RETURNS bigint LANGUAGE sql AS $$
    SELECT count(*) FROM told_clock, anomaly.process_data_point(jsonb_build_object('told', load, 'entity_id', entity, 'timestamp', zero + minute * interval '1 minute')) $$;
SELECT anomaly.create_detector('system_cpu', 'zscore', 'told', threshold => 3, min_data_points => 50, clear_after => 1, cool_down => '10 minutes', name => 'told');
SELECT sum(pg_temp.feed(i, 52 + ((i + 200) * 7919 % 101 - 50) ^ 3 / 12500.0, e)) AS alerts FROM generate_series(-90, -1) i, unnest('{a,b,c}'::text[]) e;

-- What can be created.
SELECT anomaly.create_handler('told all', 'function', 'told.write(jsonb)');
SELECT anomaly.create_handler('told first', 'function', ' told.write', matchers => '{"transitions": "opened", "entity": "a"}', template => '{{severity}}: {{ metric_name }} of {{entity}}', rank => -1);
SELECT anomaly.create_handler('told severe', 'function', 'told.write(pg_catalog.jsonb)', '{"min_severity": "emergency", "detector": ["other", "told"]}', rank => 5);
SELECT anomaly.create_handler('told listeners', 'notify', 'told channel', '{"transitions": ["resolved"]}');
SELECT anomaly.set_secret('told_password', 'sesame');
SELECT anomaly.create_handler('told hook', 'webhook', 'https://user:${secret:told_password}@hooks.example.com:8443/services/secret?key=1', '{"entity": "nobody"}');
SELECT handler, kind, target, matchers, template, rank, enabled FROM anomaly.handlers WHERE handler ~ '^told' ORDER BY handler COLLATE "C";

-- check_c11_stored_and_told: an alert of each transition; the handlers in their order
SELECT pg_temp.feed(0, 66), pg_temp.feed(1, 90), pg_temp.feed(2, 52), pg_temp.feed(5, 80);
SELECT anomaly.acknowledge(id) FROM anomaly.alerts WHERE detector = 'told' AND status = 'open';
SELECT anomaly.resolve(id) FROM anomaly.alerts WHERE detector = 'told' AND status = 'acknowledged';
SELECT handler, transition, sequence, status, attempts FROM anomaly.deliveries ORDER BY id;
SELECT * FROM anomaly.deliver(at_most => 3);
SELECT * FROM anomaly.deliver();
SELECT * FROM anomaly.deliver();
SELECT * FROM told.message ORDER BY nr;
SELECT count(*) FROM anomaly.deliveries;

-- check_c39_related_alerts: of the same entity, or of the same detector
SELECT anomaly.create_detector('system_cpu', 'zscore', 'told_too', threshold => 3.5, min_data_points => 50, name => 'told_too');
SELECT count(*) FROM generate_series(-90, -1) i, told_clock, anomaly.process_data_point(jsonb_build_object('told_too', 50 + i * 7919 % 101 / 25.0, 'entity_id', 'b', 'timestamp', zero + i * interval '1 minute'));
SELECT pg_temp.feed(20, 90, 'b'), pg_temp.feed(20, 90, 'c');
SELECT count(*) FROM told_clock, anomaly.process_data_point(jsonb_build_object('told_too', 90, 'entity_id', 'b', 'timestamp', zero + interval '20 minutes'));
SELECT a.detector, a.entity, (SELECT array_agg(r.detector || ' ' || r.entity ORDER BY r.id) FROM anomaly.alerts r WHERE r.uuid = ANY (a.related_alerts)) AS related FROM anomaly.alerts a WHERE detector ~ '^told' AND entity <> 'a' ORDER BY id;
SELECT anomaly.drop_detector('told_too');
SELECT * FROM anomaly.deliver();
TRUNCATE told.message RESTART IDENTITY;

-- One that flaps is heard of when it begins to, and when it has stayed quiet.
SELECT sum(pg_temp.feed(m, CASE m % 2 WHEN 0 THEN 52 ELSE 80 END, 'a')) AS flaps FROM generate_series(30, 42) m;
SELECT pg_temp.feed(60, 52);
SELECT * FROM anomaly.deliver();
SELECT handler, transition, reopened, sequence FROM told.message WHERE handler = 'told all' ORDER BY nr;
TRUNCATE told.message RESTART IDENTITY;

-- defect_s29_a_failing_handler_is_told_again_and_others_once; check_c11_one_failing_does_not_stop_others
SELECT anomaly.create_handler('told fails', 'function', 'told.fail', '{"transitions": ["opened"]}', rank => -5);
SELECT anomaly.create_handler('told hangs', 'function', 'told.hang', '{"transitions": ["opened"]}', rank => -4);
SET anomaly_detection.handler_timeout = 300;
SELECT pg_temp.feed(70, 90);
SELECT * FROM anomaly.deliver();
SELECT * FROM anomaly.deliver();
SELECT handler, transition FROM told.message ORDER BY nr;
SELECT handler, status, attempts, next_try > now() AS later, last_error FROM anomaly.deliveries ORDER BY id;
SELECT status, points FROM anomaly.alerts WHERE detector = 'told' AND status = 'open' AND entity = 'a';
SELECT kind, name, status, reason, hint, consecutive_failures FROM anomaly.health WHERE kind = 'handler' AND name ~ '^told' ORDER BY name COLLATE "C";
-- It waits a little longer each time. What comes later waits for its turn. In the end it is given up, until somebody says otherwise.
SELECT anomaly.drop_handler('told hangs');
UPDATE anomaly.handler SET matchers = '{}' WHERE handler = 'told fails';
SELECT pg_temp.feed(71, 52);
SELECT * FROM anomaly.deliver();
SELECT transition, attempts, next_try = max(next_try) OVER () AS same_time FROM anomaly.deliveries ORDER BY id;
UPDATE anomaly.outbox SET attempts = 9, next_try = now() - interval '1 hour' WHERE transition = 'opened';
SELECT * FROM anomaly.deliver();
SELECT handler, transition, status, attempts FROM anomaly.deliveries ORDER BY id;
SELECT name, status, reason, hint FROM anomaly.health WHERE kind = 'handler' AND name = 'told fails';
CREATE OR REPLACE FUNCTION told.fail(alert jsonb) RETURNS void LANGUAGE sql AS $$ SELECT told.write(alert) $$;
SELECT anomaly.enable_handler('told fails');
SELECT * FROM anomaly.deliver();
SELECT handler, transition FROM told.message WHERE handler = 'told fails' ORDER BY nr;
SELECT status FROM anomaly.health WHERE kind = 'handler' AND name = 'told fails';
TRUNCATE told.message RESTART IDENTITY;

-- check_c11_off_switch: alerts are stored and nobody is told; a disabled handler does not hear either
SET anomaly_detection.notifications = off;
SELECT pg_temp.feed(90, 90), pg_temp.feed(91, 52);
RESET anomaly_detection.notifications;
SELECT count(*) FROM anomaly.deliveries;
SELECT count(*) FROM anomaly.alerts WHERE detector = 'told' AND points = 1 AND at = (SELECT zero + interval '90 minutes' FROM told_clock);
SELECT anomaly.disable_handler(handler) FROM anomaly.handlers WHERE handler IN ('told all', 'told fails', 'told severe') ORDER BY 1;
SELECT pg_temp.feed(120, 90);
SELECT * FROM anomaly.deliver();
SELECT handler, transition, text FROM told.message ORDER BY nr;
SELECT name, status, hint FROM anomaly.health WHERE name = 'told all';

-- What is for a delivery server waits for it, two weeks at most.
UPDATE anomaly.handler SET matchers = '{}' WHERE handler = 'told hook';
SELECT pg_temp.feed(121, 52);
CALL anomaly.run_due();
SELECT handler, transition, status FROM anomaly.deliveries ORDER BY id;
SELECT name, status FROM anomaly.health WHERE kind = 'handler' AND name = 'told hook';
UPDATE anomaly.outbox SET created_at = now() - interval '15 days';
CALL anomaly.run_due();
SELECT count(*) FROM anomaly.deliveries;

-- What cannot be.
SELECT anomaly.create_handler('told all', 'function', 'told.write');
SELECT anomaly.create_handler('', 'function', 'told.write');
SELECT anomaly.create_handler('x', 'pager', 'y');
SELECT anomaly.create_handler('x', 'function', 'told.nothing(jsonb)');
SELECT anomaly.create_handler('x', 'function', 'told.write(text)');
SELECT anomaly.create_handler('x', 'function', 'pg_catalog.jsonb_agg');
SELECT anomaly.create_handler('x', 'function', 'told.write(jsonb); DROP TABLE told.message');
SELECT anomaly.create_handler('x', 'notify', repeat('c', 64));
SELECT anomaly.create_handler('x', 'notify', ' ');
SELECT anomaly.create_handler('x', 'webhook', 'ftp://secret');
SELECT anomaly.create_handler('x', 'smtp', 'nobody');
SELECT anomaly.create_handler('x', 'function', 'told.write', '{"severity": "critical"}');
SELECT anomaly.create_handler('x', 'function', 'told.write', '{"anomaly_type": "no_such"}');
SELECT anomaly.create_handler('x', 'function', 'told.write', '{"transitions": ["closed"]}');
SELECT anomaly.create_handler('x', 'function', 'told.write', template => '{{colour}}');
SELECT anomaly.create_handler('x', 'function', NULL);
SELECT anomaly.drop_handler('no such'), anomaly.enable_handler('no such'), anomaly.disable_handler('no such');
SELECT * FROM anomaly.deliver(NULL);
INSERT INTO anomaly.outbox (alert_id, sequence, transition, handler, owner, detector, payload) SELECT 1, 1, 'opened', 'told all', owner, 'told', '{}' FROM anomaly.handler, generate_series(1, 2) WHERE handler = 'told all';

-- Whose handler it is. A role that may not execute a function cannot have it called.
CREATE ROLE told_owner LOGIN;
CREATE ROLE told_stranger LOGIN;
CREATE ROLE told_looker LOGIN IN ROLE anomaly_monitor;
CREATE ROLE told_nologin;
REVOKE EXECUTE ON FUNCTION told.fail(jsonb) FROM PUBLIC;
GRANT USAGE ON SCHEMA told TO told_owner, told_looker;
SET ROLE told_owner;
SELECT anomaly.create_handler('hers', 'function', 'told.fail');
SELECT anomaly.create_handler('hers', 'slack', 'https://hooks.example.com/services/secret');
SELECT handler, target FROM anomaly.handlers;
SELECT * FROM anomaly.deliver();
SET ROLE told_looker;
SELECT handler, target FROM anomaly.handlers ORDER BY handler COLLATE "C";
SELECT anomaly.drop_handler('hers');
SELECT anomaly.enable_handler('hers');
SET ROLE told_stranger;
SELECT handler FROM anomaly.handlers;
SELECT count(*) FROM anomaly.deliveries;
SELECT anomaly.drop_handler('hers'), anomaly.disable_handler('hers');
SELECT anomaly.create_handler('x', 'function', 'told.write');
-- A role without LOGIN has no worker before PostgreSQL 18.
SET ROLE told_nologin;
DO $$
DECLARE
    has_worker CONSTANT boolean := current_setting('server_version_num')::int >= 180000;
BEGIN
    PERFORM anomaly.create_handler('x', 'notify', 'channel');
    ASSERT has_worker AND anomaly.drop_handler('x');
EXCEPTION WHEN object_not_in_prerequisite_state THEN
    ASSERT NOT has_worker;
END $$;
RESET ROLE;
SELECT anomaly.drop_handler('hers');
DROP OWNED BY told_owner, told_stranger, told_looker, told_nologin;
DROP ROLE told_owner, told_stranger, told_looker, told_nologin;

SELECT anomaly.drop_detector('told');
SELECT anomaly.drop_handler(handler) FROM anomaly.handlers ORDER BY handler COLLATE "C";
SELECT count(*) FROM anomaly.outbox;
DELETE FROM anomaly.alert WHERE detector ~ '^told';
ALTER SEQUENCE anomaly.alert_id_seq RESTART;
DELETE FROM anomaly.sample WHERE metric ~ '^told';
DROP TABLE told_clock;
\set VERBOSITY terse
DROP SCHEMA told CASCADE;
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I RESET anomaly_detection.enabled', current_database()); END $$;
