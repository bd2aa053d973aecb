# What workers make of incidents, of a source that is empty and of one that is gone; and that a session which keeps its
# transaction open holds nobody up.
use strict;
use warnings;
use AnomalyNode;
use Readings;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = AnomalyNode->start_new('incidents', conf => "anomaly_detection.error_alert_after = 2");
my @alice = Readings::as('alice');
Readings::create($node);
$node->safe_psql('postgres', q{CREATE ROLE alice LOGIN; GRANT SELECT ON reading TO alice; CREATE SCHEMA told AUTHORIZATION alice});
$node->safe_psql('postgres', q{
	CREATE TABLE told.message (nr int GENERATED ALWAYS AS IDENTITY, handler text, alert int8, kind text, transition text, detector text, entity text, incident int8);
	CREATE FUNCTION told.write(alert jsonb) RETURNS void LANGUAGE sql AS $$ INSERT INTO told.message (handler, alert, kind, transition, detector, entity, incident)
		SELECT alert ->> 'handler', (alert ->> 'id')::int8, alert ->> 'kind', alert ->> 'transition', alert ->> 'detector', alert ->> 'entity', (alert ->> 'incident_id')::int8 $$;
	CREATE VIEW told.doubled AS SELECT at, entity, value * 2 AS value FROM public.reading;
	SELECT anomaly.watch('reading', value => 'value', at => 'at', entity => 'entity', every => '1 second', settle => '0 seconds', strategy => 'zscore', threshold => 8, name => 'watched');
	SELECT anomaly.watch('told.doubled', value => 'value', at => 'at', entity => 'entity', every => '1 second', settle => '0 seconds', strategy => 'zscore', threshold => 8, name => 'doubled');
	SELECT anomaly.create_handler('once', 'function', 'told.write', per => 'incident');
	SELECT anomaly.create_handler('each', 'function', 'told.write', rank => 1);
	SELECT anomaly.create_detector('system_cpu', 'mad', 'brought', threshold => 8, min_data_points => 20, name => 'brought');
	SELECT count(*) FROM generate_series(1, 50) i, anomaly.process_data_point(jsonb_build_object('brought', 50 + i % 5, 'entity_id', 'd', 'timestamp', now() - i * interval '1 minute'));
}, @alice);

subtest 'check_c39_one_message_of_an_incident' => sub {
	Readings::insert_incident($node, 'a', 5000, 3);
	$node->wait_until(q{SELECT count(*) >= 4 FROM told.message WHERE handler = 'each'}, 'all is told');
	$node->wait_until(q{SELECT count(*) = 0 FROM anomaly.deliveries}, 'nothing is left');
	is($node->safe_psql('postgres', q{SELECT count(*), count(DISTINCT incident_id), count(DISTINCT detector) FROM anomaly.alerts}), '2|1|2', 'two alerts of two sources, one incident');
	is($node->safe_psql('postgres', q{SELECT string_agg(transition, ' ' ORDER BY nr) FROM told.message WHERE handler = 'once'}), 'opened resolved', 'its beginning and its end');
	is($node->safe_psql('postgres', q{SELECT string_agg(transition, ' ' ORDER BY transition) FROM told.message WHERE handler = 'each'}), 'opened opened resolved resolved', 'and who wants to, hears of each alert');
	is($node->safe_psql('postgres', q{SELECT status, alerts FROM anomaly.incidents}), 'resolved|2', 'it is over');
};

subtest 'fault_q12_a_session_that_waits_holds_nobody_up' => sub {
	$node->safe_psql('postgres', 'TRUNCATE told.message', @alice);
	my $session = $node->background_psql('postgres', @alice);
	$session->query_safe(q{BEGIN});
	like($session->query_safe(q{SELECT alert FROM anomaly.process_data_point('{"brought": 900, "entity_id": "d"}')}), qr/^\d+$/, 'it has an alert');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid IN (SELECT pid FROM pg_stat_activity WHERE state = 'idle in transaction')}), '1', 'and holds the lock on the incidents of its owner');
	Readings::insert_incident($node, 'b', 5000, 3);
	$node->wait_for_alert('watched', q{entity = 'b' AND status = 'resolved'});
	$node->wait_for_alert('doubled', q{entity = 'b' AND status = 'resolved'});
	is($node->safe_psql('postgres', q{SELECT count(*) FROM anomaly.runs WHERE status NOT IN ('succeeded', 'running')}), '0', 'no run has failed of it');
	$node->wait_until(q{SELECT count(*) FILTER (WHERE transition = 'resolved') >= 2 FROM told.message WHERE handler = 'once'}, 'it is told while the session waits');
	$session->query_safe('COMMIT');
	$session->quit;
	is($node->safe_psql('postgres', q{SELECT count(*) FROM anomaly.alerts WHERE incident_id IS NULL}), '0', 'every alert has an incident');
};

subtest 'fault_q13_a_source_that_is_gone' => sub {
	$node->safe_psql('postgres', 'TRUNCATE told.message', @alice);
	Readings::insert($node, [ 2, 'c', 5000 ], [ 2.01, 'c', 5001 ]);
	$node->wait_for_alert('doubled', q{entity = 'c' AND status = 'open' AND points = 2});
	$node->safe_psql('postgres', 'ALTER VIEW told.doubled RENAME COLUMN value TO was_value', @alice);
	$node->wait_for_alert('doubled', q{kind = 'error'});
	is($node->safe_psql('postgres', q{SELECT kind, status, severity, points, value IS NULL AND deviation IS NULL FROM anomaly.alerts WHERE detector = 'doubled' AND status = 'open' ORDER BY kind}),
		"anomaly|open|emergency|2|f\nerror|open|critical|0|t", 'an error, and the anomaly stays open');
	$node->wait_until(q{SELECT EXISTS (SELECT FROM told.message WHERE handler = 'each' AND kind = 'error' AND transition = 'opened')}, 'it is told');
	$node->stop('immediate');
	$node->start;
	$node->safe_psql('postgres', q{SELECT anomaly.enable('doubled')}, @alice);
	$node->wait_until(q{SELECT count(*) >= 2 FROM anomaly.runs WHERE detector = 'doubled' AND status = 'failed'}, 'tried again, it fails again');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM anomaly.alerts WHERE kind = 'error'}), '1', 'which is the same alert');
	$node->safe_psql('postgres', q{ALTER VIEW told.doubled RENAME COLUMN was_value TO value; SELECT anomaly.enable('doubled')}, @alice);
	$node->wait_for_alert('doubled', q{kind = 'error' AND status = 'resolved'});
	like($node->safe_psql('postgres', q{SELECT description FROM anomaly.alerts WHERE kind = 'error'}), qr/is broken: .*; it works again after \d+ (s|min)/, 'resolved by a run that succeeds');
	is($node->safe_psql('postgres', q{SELECT status FROM anomaly.alerts WHERE detector = 'doubled' AND entity = 'c'}), 'open', 'the anomaly is open still');
	is($node->safe_psql('postgres', q{SELECT string_agg(transition, ' ' ORDER BY nr) FROM told.message WHERE handler = 'each' AND kind = 'error'}), 'opened resolved', 'each told once');
};

subtest 'fault_q13_no_data' => sub {
	$node->safe_psql('postgres', q{TRUNCATE told.message; SELECT anomaly.alter_detector('watched', '{"no_data_after": "3 seconds"}')}, @alice);
	Readings::insert($node, map { [ 2, $_, 100 ] } 'a', 'b');
	$node->wait_for_alert('watched', q{kind = 'no_data'});
	is($node->safe_psql('postgres', q{SELECT entity IS NULL, severity, status FROM anomaly.alerts WHERE kind = 'no_data'}), 't|critical|open', 'nothing comes from any of them: one alert');
	Readings::insert($node, [ 2, 'a', 100 ], [ 2, 'b', 100 ]);
	$node->wait_for_alert('watched', q{kind = 'no_data' AND status = 'resolved'});
	$node->wait_until(q{SELECT string_agg(transition, ' ' ORDER BY nr) LIKE 'opened resolved%' FROM told.message WHERE handler = 'each' AND kind = 'no_data'}, 'both told');
};

unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal|panicked/, 'nothing has crashed');
$node->stop;
done_testing();
