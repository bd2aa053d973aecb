-- What is known beforehand of times that come once, or again and again: muted, excluded or expected. Each scan is the one
-- that a worker does; settle puts the clock where the test wants it.
SET TIME ZONE 'UTC';
DO $$ BEGIN
    EXECUTE format('ALTER DATABASE %I SET anomaly_detection.enabled = off', current_database());
    PERFORM pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = current_database() AND backend_type ~ '^anomaly_detection (scan worker|dispatcher)';
END $$;
CREATE TABLE cal_clock AS SELECT date_trunc('day', now()) - interval '20 hours' AS zero;
CREATE FUNCTION pg_temp.set_clock(minute int) RETURNS void LANGUAGE sql AS $$
    UPDATE anomaly.detector SET settle = clock_timestamp() - zero - minute * interval '1 minute' FROM cal_clock WHERE detector ~ '^cal_' $$;
CREATE FUNCTION pg_temp.at(minute int) RETURNS timestamptz LANGUAGE sql AS $$ SELECT zero + minute * interval '1 minute' FROM cal_clock $$;
-- Three hosts, a value a minute: 50, 51, 52, …
CREATE TABLE cal (at timestamptz, host text, v double precision);
CREATE FUNCTION pg_temp.measure(first int, last int) RETURNS void LANGUAGE sql AS $$
    INSERT INTO cal SELECT pg_temp.at(i), h, 50 + (i + 400) * 7919 % 101 / 25.0 FROM generate_series(first, last) i, unnest('{a,b,c}'::text[]) h $$;
CREATE FUNCTION pg_temp.spike(minute int, hosts text[], value double precision) RETURNS void LANGUAGE sql AS $$
    UPDATE cal SET v = value WHERE at = pg_temp.at(minute) AND host = ANY (hosts) $$;
CREATE FUNCTION pg_temp.scan(last int) RETURNS bigint LANGUAGE sql AS $$ SELECT pg_temp.set_clock(last); SELECT alerts_opened FROM anomaly.scan('cal_z') $$;
CREATE VIEW cal_alert AS
SELECT row_number() OVER (ORDER BY id) AS nr, entity, extract(epoch FROM at - (SELECT zero FROM cal_clock))::int / 60 AS first, points, status, severity, name AS silenced_by FROM anomaly.alerts LEFT JOIN (SELECT id AS calendar, name FROM anomaly.calendars) c ON c.calendar = silenced_by WHERE detector = 'cal_z';
SELECT pg_temp.measure(-300, 99);
SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', source => 'cal', value => 'v', at => 'at', entity => 'host', training_window => '10 hours', clear_after => 1, alerts_per_day => 20, name => 'cal_z');
SELECT pg_temp.set_clock(0);
SELECT status, trained_rows FROM anomaly.train('cal_z');
CREATE TABLE cal_said (nr int GENERATED ALWAYS AS IDENTITY, transition text, entity text);
CREATE FUNCTION public.cal_write(alert jsonb) RETURNS void LANGUAGE sql AS $$ INSERT INTO public.cal_said (transition, entity) SELECT alert ->> 'transition', alert ->> 'entity' $$;
SELECT anomaly.create_handler('cal writes', 'function', 'public.cal_write');

-- Muted: alerts are stored and marked, and nobody is told; of that entity, and up to that severity
SELECT anomaly.silence(tstzrange(pg_temp.at(4), pg_temp.at(8)), 'cal_z', 'a', reason => 'changing a disk') > 0 AS silence;
SELECT pg_temp.spike(3, '{a}', 90), pg_temp.spike(5, '{a,b}', 90);
SELECT pg_temp.spike(8, '{a}', 90);
SELECT pg_temp.scan(9);
SELECT * FROM cal_alert ORDER BY nr;
SELECT delivered, failed FROM anomaly.deliver();
SELECT transition, entity FROM cal_said ORDER BY nr;
TRUNCATE cal_said;
-- What is still going on when the silence ends is told of then. Several scans or one make no difference.
SELECT anomaly.silence(tstzrange(pg_temp.at(10), pg_temp.at(20), '[]'), reason => 'all of mine') > 0 AS silence;
SELECT pg_temp.spike(m, '{c}', 90) FROM generate_series(18, 22) m;
SELECT pg_temp.spike(19, '{b}', 90);
BEGIN;
SELECT pg_temp.scan(24);
SELECT * FROM cal_alert WHERE nr > 4 ORDER BY nr;
SELECT transition, detector, (SELECT entity FROM anomaly.alerts WHERE id = alert) AS entity FROM anomaly.deliveries ORDER BY id;
ROLLBACK;
SELECT pg_temp.scan(18);
SELECT * FROM cal_alert WHERE nr > 4 ORDER BY nr;
SELECT pg_temp.scan(20);
SELECT * FROM cal_alert WHERE nr > 4 ORDER BY nr;
SELECT anomaly.acknowledge(max(id)) FROM anomaly.alerts WHERE detector = 'cal_z' AND entity = 'c';
SELECT count(*) AS told FROM anomaly.deliveries;
SELECT pg_temp.scan(24);
SELECT * FROM cal_alert WHERE nr > 4 ORDER BY nr;
SELECT delivered, failed FROM anomaly.deliver();
SELECT transition, entity FROM cal_said ORDER BY nr;
TRUNCATE cal_said;
-- By severity; one that becomes more severe than what is silenced is told of.
SELECT anomaly.silence(tstzrange(pg_temp.at(25), pg_temp.at(40)), max_severity => 'critical', anomaly_type => 'data_outlier') > 0 AS silence;
SELECT anomaly.silence(tstzrange(pg_temp.at(25), pg_temp.at(40)), anomaly_type => 'system_cpu') > 0 AS other;
SELECT pg_temp.spike(26, '{a}', 56), pg_temp.spike(27, '{a}', 56.1), pg_temp.spike(30, '{b}', 56), pg_temp.spike(31, '{b}', 500), pg_temp.spike(33, '{c}', 500);
SELECT pg_temp.scan(30);
SELECT * FROM cal_alert WHERE nr > 6 ORDER BY nr;
SELECT pg_temp.scan(39);
SELECT * FROM cal_alert WHERE nr > 6 ORDER BY nr;
SELECT transition, (SELECT entity FROM anomaly.alerts WHERE id = alert) AS entity FROM anomaly.deliveries ORDER BY id;

-- Expected: nothing is an anomaly, nothing is learned; every twenty minutes for two, of all entities or one
SELECT anomaly.add_calendar('backups', pg_temp.at(-600), '2 minutes', 'FREQ=MINUTELY;INTERVAL=20', detector => 'cal_z', entity => 'a', reason => 'nightly copies') > 0 AS calendar;
SELECT retrain_requested FROM anomaly.detector_state WHERE detector = 'cal_z';
SELECT anomaly.add_calendar('holiday', pg_temp.at(70), '10 minutes', action => 'exclude') > 0 AS calendar;
SELECT pg_temp.spike(40, '{a,b}', 90), pg_temp.spike(41, '{a}', 90), pg_temp.spike(42, '{a}', 90);
SELECT pg_temp.scan(49);
SELECT * FROM cal_alert WHERE nr > 9 ORDER BY nr;
-- A backtest knows of it.
SELECT entity, extract(epoch FROM b.at - zero)::int / 60 AS first FROM cal_clock, anomaly.backtest('cal_z', '10 minutes', pg_temp.at(49)) b ORDER BY b.at, entity;
-- excluded points are judged and not learned, and neither kind trains
SELECT pg_temp.spike(m, '{c}', 300) FROM generate_series(71, 78) m;
SELECT pg_temp.spike(60, '{a}', 1e6), pg_temp.spike(61, '{a}', 1e6);
SELECT pg_temp.scan(99);
SELECT * FROM cal_alert WHERE nr > 10 ORDER BY nr;
DELETE FROM cal WHERE at > pg_temp.at(99);
SELECT trained_rows FROM anomaly.train('cal_z');
BEGIN;
SELECT anomaly.drop_calendar(id) FROM anomaly.calendars WHERE name = 'holiday';
SELECT retrain_requested FROM anomaly.detector_state WHERE detector = 'cal_z';
SELECT trained_rows FROM anomaly.train('cal_z');
ROLLBACK;
BEGIN;
SELECT anomaly.alter_calendar(id, action => 'mute') FROM anomaly.calendars WHERE name = 'backups';
SELECT retrain_requested FROM anomaly.detector_state WHERE detector = 'cal_z';
SELECT trained_rows FROM anomaly.train('cal_z');
ROLLBACK;
-- one that lies ahead, or that only mutes, asks for no training
UPDATE anomaly.detector_state SET retrain_requested = false WHERE detector = 'cal_z';
SELECT anomaly.add_calendar('ahead', pg_temp.at(20000), '1 day', 'FREQ=YEARLY') > 0 AS calendar, anomaly.silence(tstzrange(pg_temp.at(0), pg_temp.at(90))) > 0 AS silence, anomaly.add_calendar('before', '2001-01-01', '1 day', 'FREQ=DAILY;COUNT=100') > 0 AS long_ago;
SELECT retrain_requested FROM anomaly.detector_state WHERE detector = 'cal_z';

-- Points that are brought, whatever their time: every week for a day.
SELECT anomaly.create_detector('system_cpu', 'zscore', 'cal_load', threshold => 9, min_data_points => 50, clear_after => 1, name => 'cal_points');
CREATE FUNCTION pg_temp.bring(at timestamptz, load float8) RETURNS bigint LANGUAGE sql AS $$ SELECT count(*) FROM anomaly.process_data_point(jsonb_build_object('cal_load', load, 'timestamp', at)) $$;
SELECT sum(pg_temp.bring(now() - interval '10 days' + i * interval '1 minute', 50 + i * 7919 % 101 / 25.0)) FROM generate_series(1, 100) i;
SELECT anomaly.add_calendar('a day', date_trunc('day', now()) - interval '701 days', '1 day', 'FREQ=WEEKLY', detector => 'cal_points') > 0 AS calendar;
SELECT after, pg_temp.bring(date_trunc('day', now()) - interval '1 day' + after, 400) AS alerts FROM unnest('{-1 minute,0,12 hours,23:59:59.999999,24 hours,-6 days -1 minute,-7 days}'::interval[]) WITH ORDINALITY AS t (after, n) ORDER BY n;
SELECT status, points_processed, anomalies_detected FROM anomaly.detectors WHERE detector = 'cal_points';
SELECT anomaly.add_calendar('sundays', '2020-01-05 00:00+01', '1 day', 'FREQ=WEEKLY', 'Europe/Berlin', detector => 'cal_points', entity => 'nobody') > 0 AS calendar;

-- When: days of the calendar, 23 hours long where clocks go forward; what has begun before.
SELECT o.starts_at, o.ends_at, o.ends_at - o.starts_at AS length FROM anomaly.calendars c, anomaly.calendar_occurrences(c.id, '2020-03-21', '2020-03-30') o WHERE name = 'sundays';
SELECT lower(n), upper(n) FROM anomaly.next_occurrence('2024-01-01 02:30+01', '36 hours', 'FREQ=DAILY', 'Europe/Berlin', '2024-03-31 12:00+00') n;
SELECT anomaly.next_occurrence('2024-01-31', '1 month', NULL, 'UTC', at => '2024-02-20');
SELECT anomaly.next_occurrence('2024-01-31', '1 month', NULL, 'UTC', at => '2024-03-01');
SELECT anomaly.next_occurrence('2024-01-31', '1 hour', 'FREQ=MONTHLY;BYDAY=-1FR;COUNT=3', 'UTC', at => '-infinity');
SELECT anomaly.next_occurrence('2024-01-31', '1 hour', 'FREQ=MONTHLY;BYDAY=-1FR;COUNT=3', 'UTC', at => 'infinity');
SELECT name, action, detector, entity, anomaly_type, min_severity, max_severity, duration, rrule, time_zone, next_from > now() - interval '1 day' AS next, reason FROM anomaly.calendars ORDER BY id;

-- What cannot be.
SELECT command, regexp_replace(helper.attempt(command), 'calendar \d+', 'calendar N') AS attempt FROM unnest(ARRAY[
    $$SELECT anomaly.add_calendar(NULL, now(), '1 hour')$$,
    $$SELECT anomaly.add_calendar('', now(), '1 hour')$$,
    $$SELECT anomaly.add_calendar('x', NULL, '1 hour')$$,
    $$SELECT anomaly.add_calendar('x', now(), NULL)$$,
    $$SELECT anomaly.add_calendar('x', now(), '0')$$,
    $$SELECT anomaly.add_calendar('x', now(), '-1 hour')$$,
    $$SELECT anomaly.add_calendar('x', now(), '1 month -1 day')$$,
    $$SELECT anomaly.add_calendar('x', now(), '2000 years')$$,
    $$SELECT anomaly.add_calendar('x', 'infinity', '1 hour')$$,
    $$SELECT anomaly.add_calendar('x', '-infinity', '1 hour')$$,
    $$SELECT anomaly.add_calendar('x', '20000-01-01', '1 hour')$$,
    $$SELECT anomaly.add_calendar('x', now(), '1 hour', 'FREQ=SOMETIMES')$$,
    $$SELECT anomaly.add_calendar('x', now(), '1 hour', 'FREQ=YEARLY;BYWEEKNO=20')$$,
    $$SELECT anomaly.add_calendar('x', '2026-01-01', '1 hour', 'FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30')$$,
    $$SELECT anomaly.add_calendar('x', now(), '1 hour', time_zone => 'Mars/Olympus')$$,
    $$SELECT anomaly.add_calendar('x', now(), '1 hour', action => 'ignore')$$,
    $$SELECT anomaly.add_calendar('x', now(), '1 hour', detector => 'nobody')$$,
    $$SELECT anomaly.add_calendar('x', now(), '1 hour', anomaly_type => 'nothing')$$,
    $$SELECT anomaly.silence(NULL)$$,
    $$SELECT anomaly.silence('empty')$$,
    $$SELECT anomaly.silence('(2026-01-01 00:00+00, 2026-01-01 00:00:00.000001+00)')$$,
    $$SELECT anomaly.silence(tstzrange(now(), NULL))$$,
    $$SELECT anomaly.silence(tstzrange('-infinity', now()))$$,
    $$SELECT anomaly.silence('(,)')$$,
    $$SELECT anomaly.silence(tstzrange(now(), now() + interval '1 hour'), min_severity => 'bad')$$,
    $$SELECT anomaly.silence(tstzrange(now(), now() + interval '1 hour'), min_severity => 'critical', max_severity => 'info')$$,
    $$SELECT anomaly.silence(tstzrange(now(), now() + interval '1 hour'), 'nobody')$$,
    $$SELECT anomaly.alter_calendar(NULL)$$,
    $$SELECT anomaly.alter_calendar(-1)$$,
    $$SELECT anomaly.alter_calendar(id, rrule => 'FREQ=DAILY;COUNT=0') FROM anomaly.calendars WHERE name = 'holiday'$$,
    $$SELECT anomaly.alter_calendar(id, action => 'expect') FROM anomaly.calendars WHERE max_severity IS NOT NULL$$,
    $$SELECT anomaly.calendar_occurrences(-1, now(), now())$$,
    $$SELECT anomaly.calendar_occurrences(id, now(), now() - interval '1 day') FROM anomaly.calendars WHERE name = 'backups'$$,
    $$SELECT anomaly.calendar_occurrences(id, '-infinity', 'infinity') FROM anomaly.calendars WHERE name = 'backups'$$,
    $$SELECT anomaly.next_occurrence(now(), '1 hour', '', 'UTC', now())$$]) command;
SELECT anomaly.drop_calendar(-1), anomaly.drop_calendar(NULL);
SELECT anomaly.alter_calendar(id, 'once', '2026-01-01 10:00+00', '3 hours', '', 'Asia/Tokyo', 'exclude', 'moved') FROM anomaly.calendars WHERE name = 'backups';
SELECT name, starts_at, duration, rrule, time_zone, action, detector, entity, reason, next_from, next_until FROM anomaly.calendars WHERE name = 'once';

-- Rights: members of the owner and of anomaly_admin; anomaly_monitor looks on.
CREATE ROLE cal_stranger;
CREATE ROLE cal_watcher;
CREATE ROLE cal_chief;
GRANT anomaly_monitor TO cal_watcher;
GRANT anomaly_admin TO cal_chief;
CREATE TABLE cal_id AS SELECT id FROM anomaly.calendars WHERE name = 'once';
GRANT SELECT ON cal_id TO PUBLIC;
SET ROLE cal_stranger;
SELECT count(*) FROM anomaly.calendars;
SELECT helper.attempt($$SELECT anomaly.add_calendar('x', now(), '1 hour', detector => 'cal_z')$$), helper.attempt($$SELECT anomaly.silence(tstzrange(now(), now() + interval '1 hour'), 'cal_z')$$);
SELECT anomaly.drop_calendar(id), helper.attempt(format('SELECT anomaly.alter_calendar(%s)', id)) ~ '^42704' AS unknown, helper.attempt(format('SELECT anomaly.calendar_occurrences(%s, now(), now())', id)) ~ '^42704' AS no_occurrences FROM cal_id;
SELECT helper.attempt('SELECT * FROM anomaly.calendar');
SELECT anomaly.add_calendar('of a stranger', now() - interval '20 years', '1 day', 'FREQ=DAILY') > 0 AS of_their_own;
SET ROLE cal_watcher;
SELECT count(*) > 5 AS sees FROM anomaly.calendars;
SELECT regexp_replace(helper.attempt(format('SELECT anomaly.drop_calendar(%s)', id)), 'calendar \d+', 'calendar N'), helper.attempt(format('SELECT anomaly.alter_calendar(%s)', id)) ~ '^42501' AS refused, helper.attempt($$SELECT anomaly.silence(tstzrange(now(), now() + interval '1 hour'), 'cal_z')$$) AS silence FROM cal_id;
SET ROLE cal_chief;
SELECT anomaly.silence(tstzrange(now(), now() + interval '1 hour'), 'cal_z') > 0 AS silence;
SELECT owner = (SELECT owner FROM anomaly.detectors WHERE detector = 'cal_z') AS of_the_owner, created_by FROM anomaly.calendars WHERE created_by = 'cal_chief'::regrole;
SELECT anomaly.drop_calendar(id) FROM cal_id;
RESET ROLE;
-- Those of a stranger are about their own detectors only.
SELECT trained_rows > 1000 AS still FROM anomaly.train('cal_z');
SELECT anomaly.drop_calendar(id) FROM anomaly.calendars WHERE owner = 'cal_stranger'::regrole OR created_by = 'cal_chief'::regrole;
DROP ROLE cal_stranger, cal_watcher, cal_chief;

-- A calendar goes with its detector.
SELECT anomaly.drop_detector('cal_points');
SELECT count(*) FROM anomaly.calendars WHERE name IN ('sundays', 'a day');
SELECT anomaly.drop_detector('cal_z'), anomaly.drop_handler('cal writes');
SELECT count(anomaly.drop_calendar(id)) > 0 AS dropped FROM anomaly.calendars;
DELETE FROM anomaly.sample WHERE metric ~ '^cal_';
DELETE FROM anomaly.alert WHERE detector ~ '^cal_';
ALTER SEQUENCE anomaly.alert_id_seq RESTART;
DROP VIEW cal_alert;
DROP TABLE cal, cal_clock, cal_said, cal_id;
DROP FUNCTION public.cal_write;
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I RESET anomaly_detection.enabled', current_database()); END $$;
