-- What people say about alerts acts at the next scan, can be taken back, and is what quality is measured by. Each scan is the
-- one that a worker does; settle puts the clock where the test wants it.
SET TIME ZONE 'UTC';
CREATE TABLE said_clock AS SELECT date_trunc('day', now()) - interval '20 hours' AS zero;
CREATE FUNCTION pg_temp.set_clock(minute int) RETURNS void LANGUAGE sql AS $$
    UPDATE anomaly.detector SET settle = clock_timestamp() - zero - minute * interval '1 minute' FROM said_clock WHERE detector ~ '^said_' $$;
CREATE FUNCTION pg_temp.at(minute int) RETURNS timestamptz LANGUAGE sql AS $$ SELECT zero + minute * interval '1 minute' FROM said_clock $$;
-- Three hosts, a value a minute: 50, 51, 52, …
CREATE TABLE said (at timestamptz, host text, v double precision);
CREATE FUNCTION pg_temp.measure(first int, last int) RETURNS void LANGUAGE sql AS $$
    INSERT INTO said SELECT pg_temp.at(i), h, 50 + (i + 400) * 7919 % 101 / 25.0 FROM generate_series(first, last) i, unnest('{a,b,c}'::text[]) h $$;
CREATE FUNCTION pg_temp.spike(minute int, hosts text[], value double precision) RETURNS void LANGUAGE sql AS $$
    UPDATE said SET v = value WHERE at = pg_temp.at(minute) AND host = ANY (hosts) $$;
CREATE VIEW said_alert AS
SELECT row_number() OVER (ORDER BY id) AS nr, entity, extract(epoch FROM at - zero)::int / 60 AS first, points, value FROM anomaly.alerts, said_clock WHERE detector = 'said_z';
CREATE FUNCTION pg_temp.alert(number bigint) RETURNS bigint LANGUAGE sql AS $$
    SELECT id FROM (SELECT id, row_number() OVER (ORDER BY id) AS nr FROM anomaly.alerts WHERE detector = 'said_z') a WHERE nr = number $$;
SELECT pg_temp.measure(-300, 9);
SELECT pg_temp.spike(5, '{a,b,c}', 90);

SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', source => 'said', value => 'v', at => 'at', entity => 'host', training_window => '10 hours', alerts_per_day => 20, name => 'said_z');
SELECT pg_temp.set_clock(0);
SELECT status, trained_rows FROM anomaly.train('said_z');
SELECT pg_temp.set_clock(10);
SELECT alerts_opened FROM anomaly.scan('said_z');
SELECT * FROM said_alert ORDER BY nr;

-- check_c25_false_positive: the next spike like it is normal of that entity and no other, on that side, with a fifth on top
SELECT anomaly.feedback(pg_temp.alert(1), 'false_positive', note => 'the nightly copy') > 0 AS given;
SELECT entity, verdict, scope, side, round(distance) AS distance, date_trunc('minute', effective_from) = pg_temp.at(10) AS from_now_on, effective_until, note FROM anomaly.feedback_log;
SELECT pg_temp.measure(10, 39);
SELECT pg_temp.spike(15, '{a,b}', 96);
SELECT pg_temp.spike(25, '{a}', 103);
SELECT pg_temp.spike(35, '{a}', 10);
SELECT pg_temp.set_clock(40);
BEGIN;
SELECT alerts_opened FROM anomaly.scan('said_z');
SELECT * FROM said_alert WHERE nr > 3 ORDER BY nr;
ROLLBACK;
-- taken back before the scan: as if it had never been given
BEGIN;
SELECT anomaly.withdraw_feedback(max(id)), anomaly.withdraw_feedback(max(id)) AS again FROM anomaly.feedback_log;
SELECT alerts_opened FROM anomaly.scan('said_z');
SELECT * FROM said_alert WHERE nr > 3 ORDER BY nr;
ROLLBACK;
SELECT alerts_opened FROM anomaly.scan('said_z');
-- and after it: from then on
SELECT anomaly.withdraw_feedback(max(id)) FROM anomaly.feedback_log;
SELECT verdict, date_trunc('minute', effective_until) = pg_temp.at(40) AS until_now, withdrawn_by = current_user::regrole AS by_me FROM anomaly.feedback_log;
SELECT pg_temp.measure(40, 49);
SELECT pg_temp.spike(45, '{a}', 110);
SELECT pg_temp.set_clock(50);
SELECT alerts_opened FROM anomaly.scan('said_z');

-- Of all entities; and with scope alert it only counts.
BEGIN;
SELECT anomaly.feedback(pg_temp.alert(2), 'expected_always', scope => 'detector') > 0 AS given;
SELECT pg_temp.measure(50, 59);
SELECT pg_temp.spike(55, '{a,b,c}', 94);
SELECT pg_temp.set_clock(60);
SELECT alerts_opened FROM anomaly.scan('said_z');
ROLLBACK;
BEGIN;
SELECT anomaly.feedback(pg_temp.alert(2), 'false_positive', scope => 'alert') > 0 AS given;
SELECT pg_temp.measure(50, 59);
SELECT pg_temp.spike(55, '{a,b,c}', 94);
SELECT pg_temp.set_clock(60);
SELECT alerts_opened FROM anomaly.scan('said_z');
ROLLBACK;

-- A second judgement takes the place of the first; the figures of anomaly.quality by hand: of 7 alerts 3 were right, 1 was wrong (one
-- point), 1 was expected, 2 nobody has judged; 2 were missed.
SELECT nr, entity, first, points, value FROM said_alert ORDER BY nr;
SELECT count(*) FROM (SELECT anomaly.feedback(pg_temp.alert(n), 'false_positive', 'alert') FROM generate_series(1, 4) n) f;
SELECT count(*) FROM (SELECT anomaly.feedback(pg_temp.alert(n), 'true_positive') FROM generate_series(2, 4) n) f;
SELECT anomaly.feedback(pg_temp.alert(5), 'expected_once') > 0 AS given;
SELECT anomaly.report_missed('said_z', pg_temp.at(-100), 'b', pg_temp.at(-90)) > 0 AS given, anomaly.report_missed('said_z', pg_temp.at(-50), 'c', note => 'found by hand') > 0 AS given;
SELECT verdict, count(*), count(withdrawn_at) AS withdrawn FROM anomaly.feedback_log GROUP BY 1 ORDER BY 1;
-- check_c25_figures
SELECT alerts, true_positives, false_positives, false_negatives, precision, recall, f1_score, round(precision_95[1]::numeric, 4) AS precision_from, round(precision_95[2]::numeric, 4) AS precision_to,
       round(recall_95[1]::numeric, 4) AS recall_from, round(recall_95[2]::numeric, 4) AS recall_to, promised_alerts_per_day FROM anomaly.quality WHERE detector = 'said_z';
SELECT false_positive_rate = 1.0 / (points_processed - anomalies_detected + 1) AS false_positive_rate, round((q.alerts_per_day * (extract(epoch FROM watermark - pg_temp.at(0)) / 86400))::numeric, 6) AS alerts_per_day_times_days
  FROM anomaly.quality q JOIN anomaly.detectors USING (detector) WHERE detector = 'said_z';
SELECT anomaly.wilson_interval(0, 0), anomaly.wilson_interval(1, 1);
-- Time to detect, of the three that were right: two at 5, told by the first scan, and one told by the second, sooner after it began. So the median is that of the
-- two; and when somebody reports that they had begun at 0 and at -5, that of the one at 0.
SELECT q.median_time_to_detect = a.raised_at - pg_temp.at(5) AS from_the_first_point FROM anomaly.quality q, anomaly.alerts a WHERE q.detector = 'said_z' AND a.id = pg_temp.alert(2);
BEGIN;
SELECT anomaly.report_missed('said_z', pg_temp.at(0), 'b', pg_temp.at(5)) > 0 AS given, anomaly.report_missed('said_z', pg_temp.at(-5), 'c', pg_temp.at(5)) > 0 AS given;
SELECT q.median_time_to_detect = a.raised_at - pg_temp.at(0) AS from_what_was_reported FROM anomaly.quality q, anomaly.alerts a WHERE q.detector = 'said_z' AND a.id = pg_temp.alert(2);
ROLLBACK;

-- What trains: all but alerts (the wrong one trains) and what was missed.
SELECT count(*) FILTER (WHERE verdict <> 'missed') AS judged, sum(CASE WHEN verdict = 'missed' THEN extract(epoch FROM until_at - from_at) / 60 + 1 END)::int AS missed_points FROM anomaly.feedback_log WHERE withdrawn_at IS NULL;
SELECT trained_rows, (SELECT count(*) FROM said WHERE at <= pg_temp.at(50)) AS rows, (SELECT sum(points) FROM said_alert) AS alerted FROM anomaly.train('said_z');
-- Excluded periods, of one entity or of all, with open and closed ends.
SELECT anomaly.exclude('said_z', tstzrange(pg_temp.at(-20), pg_temp.at(-10)), 'migration') AS all_of_them \gset
SELECT anomaly.exclude('said_z', tstzrange(pg_temp.at(-40), pg_temp.at(-30), '[]'), 'a was away', 'a') AS only_a \gset
SELECT anomaly.exclude('said_z', tstzrange(NULL, pg_temp.at(-290), '(]'), 'before the move') AS early \gset
SELECT entity, reason, excluded_by = current_user::regrole AS by_me FROM anomaly.exclusions ORDER BY id;
SELECT trained_rows FROM anomaly.train('said_z');
SELECT anomaly.drop_exclusion(:only_a), anomaly.drop_exclusion(:only_a) AS again, anomaly.drop_exclusion(:early) AS early;
SELECT trained_rows FROM anomaly.train('said_z');
-- One that lies ahead is judged, and nothing of it is learned.
SELECT anomaly.exclude('said_z', tstzrange(pg_temp.at(60), pg_temp.at(80)), 'load test') > 0 AS given;
SELECT pg_temp.measure(50, 89);
SELECT pg_temp.spike(i, '{a}', 90) FROM generate_series(60, 79) i;
SELECT pg_temp.set_clock(90);
SELECT alerts_opened FROM anomaly.scan('said_z');
SELECT entity, first, points FROM said_alert ORDER BY nr DESC LIMIT 1;
INSERT INTO said VALUES (pg_temp.at(95), 'a', 75);
SELECT pg_temp.set_clock(100);
SELECT alerts_opened FROM anomaly.scan('said_z');

-- check_c25_members: each member is counted by what it found of the alert
CREATE TABLE said_votes AS SELECT pg_temp.at(i) AS at, 100 + 20 * ((i * 7919 % 1009 + i * 104729 % 1013 + i * 1299709 % 1019) / 1013.0 - 1.5) * 2 AS v FROM generate_series(1, 700) i;
SELECT anomaly.create_detector('data_outlier', 'adaptive', 'v', source => 'said_votes', settle => '0 s', name => 'said_votes', params => '{"detectors": [{"strategy": "zscore"}, {"strategy": "mad"}]}');
SELECT status FROM anomaly.train('said_votes');
INSERT INTO said_votes VALUES (clock_timestamp(), 5000);
SELECT alerts_opened FROM anomaly.scan('said_votes');
SELECT anomaly.feedback(id, 'true_positive') AS right_one FROM anomaly.alerts WHERE detector = 'said_votes' \gset
SELECT member, true_positives, false_positives, f1_score FROM anomaly.quality WHERE detector = 'said_votes' ORDER BY member;
-- alerts that a member found by itself, how many a day that is, and how soon
SELECT m.member, m.alerts, m.alerts_per_day = d.alerts_per_day AS same_rate, m.median_time_to_detect = d.median_time_to_detect AS same_time, m.precision_95, m.false_positive_rate
  FROM anomaly.quality m, anomaly.quality d WHERE m.detector = 'said_votes' AND d.detector = 'said_votes' AND m.member IS NOT NULL AND d.member IS NULL ORDER BY 1;
SELECT anomaly.withdraw_feedback(:right_one);
SELECT anomaly.feedback(id, 'false_positive') > 0 AS given FROM anomaly.alerts WHERE detector = 'said_votes';
SELECT member, true_positives, false_positives, precision FROM anomaly.quality WHERE detector = 'said_votes' ORDER BY member;
SELECT anomaly.report_missed('said_votes', now()) > 0 AS given;
SELECT member, true_positives, false_positives, false_negatives FROM anomaly.quality WHERE detector = 'said_votes' ORDER BY member;

-- Who may, and what is refused.
SELECT helper.attempt(command) FROM unnest(ARRAY[
    format('SELECT anomaly.feedback(%s, ''wrong'')', pg_temp.alert(1)), format('SELECT anomaly.feedback(%s, ''missed'')', pg_temp.alert(1)),
    format('SELECT anomaly.feedback(%s, ''true_positive'', ''all'')', pg_temp.alert(1)),
    'SELECT anomaly.feedback(-1, ''true_positive'')', 'SELECT anomaly.feedback(NULL, ''true_positive'')', 'SELECT anomaly.withdraw_feedback(-1)',
    'SELECT anomaly.report_missed(''said_nothing'', now())', 'SELECT anomaly.report_missed(''said_z'', now(), until_ts => ''-infinity'')',
    'SELECT anomaly.exclude(''said_z'', ''empty'', ''no reason'')', 'SELECT anomaly.exclude(''said_z'', NULL, ''no reason'')', 'SELECT anomaly.exclude(''said_z'', tstzrange(now(), NULL), NULL)',
    'SELECT anomaly.wilson_interval(2, 1)', 'SELECT anomaly.wilson_interval(-1, 1)']) command;
CREATE ROLE said_stranger;
CREATE ROLE said_monitor IN ROLE anomaly_monitor;
CREATE ROLE said_admin IN ROLE anomaly_admin;
SELECT pg_temp.alert(6) AS unjudged, max(id) AS last FROM anomaly.feedback_log \gset
CREATE FUNCTION attempt(command text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN EXECUTE command; RETURN 'accepted'; EXCEPTION WHEN OTHERS THEN RETURN concat_ws(' | ', SQLSTATE, regexp_replace(SQLERRM, '[0-9]+', 'N')); END $$;
SET ROLE said_stranger;
SELECT count(*) FROM anomaly.feedback_log;
SELECT count(*) FROM anomaly.quality;
SELECT count(*) FROM anomaly.exclusions;
SELECT attempt(format('SELECT anomaly.feedback(%s, ''true_positive'')', :unjudged)), attempt(format('SELECT anomaly.withdraw_feedback(%s)', :last)), attempt('SELECT anomaly.exclude(''said_z'', tstzrange(now(), NULL), ''mine'')'), anomaly.drop_exclusion(:all_of_them);
SET ROLE said_monitor;
SELECT count(*) > 0 AS sees FROM anomaly.feedback_log;
SELECT attempt(format('SELECT anomaly.feedback(%s, ''true_positive'')', :unjudged)), attempt(format('SELECT anomaly.withdraw_feedback(%s)', :last)), attempt('SELECT anomaly.exclude(''said_z'', tstzrange(now(), NULL), ''mine'')'), attempt(format('SELECT anomaly.drop_exclusion(%s)', :all_of_them));
SET ROLE said_admin;
SELECT anomaly.feedback(:unjudged, 'true_positive') > 0 AS given;
RESET ROLE;
SELECT given_by FROM anomaly.feedback_log WHERE alert = :unjudged;

-- An infinite value and a missing one are no distance to go by; judgements outlive their detector, and one of the same name knows nothing of them.
INSERT INTO said VALUES (pg_temp.at(105), 'a', 'Infinity');
SELECT pg_temp.set_clock(110);
SELECT alerts_opened FROM anomaly.scan('said_z');
SELECT anomaly.feedback(max(id), 'false_positive') > 0 AS given FROM anomaly.alerts WHERE detector = 'said_z';
SELECT side, distance FROM anomaly.feedback_log ORDER BY id DESC LIMIT 1;
SELECT anomaly.explain(max(id)) -> 'verdict' -> 'value' AS value FROM anomaly.alerts WHERE detector = 'said_z';
SELECT anomaly.feedback(pg_temp.alert(1), 'false_positive') > 0 AS given;
SELECT anomaly.drop_detector('said_z'), anomaly.drop_detector('said_votes');
SELECT count(*) > 5 AS kept FROM anomaly.feedback_log WHERE detector = 'said_z';
SELECT count(*) FROM anomaly.quality WHERE detector ~ '^said';
SELECT anomaly.withdraw_feedback(max(id)) FROM anomaly.feedback_log WHERE detector = 'said_z' AND withdrawn_at IS NULL;
SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', source => 'said', value => 'v', at => 'at', entity => 'host', training_window => '10 hours', alerts_per_day => 20, name => 'said_z');
SELECT true_positives, false_positives, alerts FROM anomaly.quality WHERE detector = 'said_z';
SELECT anomaly.drop_detector('said_z');
DROP ROLE said_stranger, said_monitor, said_admin;
DROP FUNCTION attempt(text);
DROP VIEW said_alert;
DROP TABLE said, said_votes, said_clock;
DELETE FROM anomaly.alert WHERE detector ~ '^said_';
TRUNCATE anomaly.judgement;
