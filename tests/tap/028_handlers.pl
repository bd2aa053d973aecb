# What a worker tells handlers of alerts: after the commit of the scan, in their order, as their owner, once, whatever fails in between.
use strict;
use warnings;
use AnomalyNode;
use Readings;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = AnomalyNode->start_new('handlers', conf => 'anomaly_detection.handler_timeout = 700');
my @alice = Readings::as('alice');
Readings::create($node);
$node->safe_psql('postgres', q{
	CREATE ROLE alice LOGIN;
	CREATE ROLE powerful;
	GRANT powerful TO alice;
	GRANT SELECT ON reading TO alice;
	CREATE SCHEMA told AUTHORIZATION alice;
});
$node->safe_psql('postgres', q{
	CREATE TABLE told.message (nr int GENERATED ALWAYS AS IDENTITY, handler text, alert int8, sequence int, transition text, entity text, run text, run_as name DEFAULT current_user, logged_in_as name DEFAULT session_user);
	CREATE FUNCTION told.write(alert jsonb) RETURNS void LANGUAGE sql AS $$
		INSERT INTO told.message (handler, alert, sequence, transition, entity, run)
		SELECT alert ->> 'handler', (alert ->> 'id')::int8, (alert ->> 'sequence')::int, alert ->> 'transition', alert ->> 'entity',
		       (SELECT status FROM anomaly.runs WHERE run_id = (alert ->> 'run_id')::int8) $$;
	CREATE FUNCTION told.fail(alert jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM told.write(alert); RAISE 'no, thank you'; END $$;
	-- swallows the first cancel
	CREATE FUNCTION told.hang(alert jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM told.write(alert); BEGIN PERFORM pg_sleep(600); EXCEPTION WHEN query_canceled THEN PERFORM pg_sleep(600); END; END $$;
	-- fails when it commits
	CREATE FUNCTION told.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'too late'; END $$;
	CREATE TABLE told.late (i int);
	CREATE CONSTRAINT TRIGGER late AFTER INSERT ON told.late DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION told.refuse();
	CREATE FUNCTION told.defer(alert jsonb) RETURNS void LANGUAGE sql AS $$ INSERT INTO told.late VALUES (1) $$;
	-- waits where the test wants it
	CREATE FUNCTION told.wait(alert jsonb) RETURNS void LANGUAGE sql AS $$ SELECT told.write(alert), pg_advisory_xact_lock_shared(1) $$;

	SELECT anomaly.watch('reading', value => 'value', at => 'at', entity => 'entity', every => '1 second', settle => '0 seconds', strategy => 'zscore', threshold => 8, name => 'watched');
	SELECT anomaly.create_handler('first', 'function', 'told.write', rank => 1);
	SELECT anomaly.create_handler('fails', 'function', 'told.fail', '{"entity": "a", "transitions": "opened"}', rank => 2);
	SELECT anomaly.create_handler('hangs', 'function', 'told.hang', '{"entity": "a", "transitions": "opened"}', rank => 3);
	SELECT anomaly.create_handler('defers', 'function', 'told.defer', '{"entity": "a", "transitions": "opened"}', rank => 4);
	SELECT anomaly.create_handler('last', 'function', 'told.write', rank => 5);
}, @alice);

# Every message that there should be: of each alert what happened to it, to both handlers that work.
my $TOLD_OF = q{SELECT string_agg(transition, ' ' ORDER BY nr) FROM told.message WHERE handler = '%s' AND entity = '%s'};

subtest 'check_c11_in_order_after_the_commit' => sub {
	Readings::insert_incident($node, 'a', 5000, 3);
	$node->wait_until(q{SELECT count(*) >= 2 FROM told.message WHERE handler = 'last'}, 'all is told');
	for my $handler ('first', 'last')
	{
		is($node->safe_psql('postgres', sprintf $TOLD_OF, $handler, 'a'), 'opened resolved', "the handler called $handler hears of both, in order");
	}
	is($node->safe_psql('postgres', q{SELECT string_agg(handler, ' ' ORDER BY nr) FROM told.message WHERE transition = 'opened'}), 'first last', 'handlers are called in the order of rank');
	is($node->safe_psql('postgres', q{SELECT DISTINCT run, run_as, logged_in_as FROM told.message}), 'succeeded|alice|alice', 'after the commit of the scan, as their owner');
	is($node->safe_psql('postgres', q{SELECT status, points FROM anomaly.alerts}), 'resolved|2', 'the alert is there');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM anomaly.runs WHERE status <> 'succeeded'}), '0', 'no run has failed of it');
};

subtest 'check_c11_failing_handlers, fault_q14_failing_and_hanging_handlers' => sub {
	$node->wait_until(q{SELECT count(*) = 3 AND bool_and(attempts >= 2) FROM anomaly.deliveries WHERE status = 'failing'}, 'they are tried again');
	is($node->safe_psql('postgres', q{SELECT handler, transition, last_error FROM anomaly.deliveries ORDER BY handler}), join("\n",
		'defers|opened|too late (P0001)', 'fails|opened|no, thank you (P0001)', 'hangs|opened|took longer than anomaly_detection.handler_timeout (700 ms)'), 'each says what is wrong');
	is($node->safe_psql('postgres', q{SELECT name, status, reason, hint FROM anomaly.health WHERE kind = 'handler' AND name = 'fails'}),
		q{fails|failing|no, thank you (P0001)|SELECT * FROM anomaly.deliveries WHERE handler = 'fails' ORDER BY id}, 'anomaly.health shows it');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM told.message WHERE handler NOT IN ('first', 'last')}), '0', 'and what they did is rolled back');
	is($node->safe_psql('postgres', q{SELECT status FROM anomaly.health WHERE name IN ('watched', 'last') ORDER BY name}), "ok\nok", 'the others are well');
	$node->safe_psql('postgres', q{CREATE OR REPLACE FUNCTION told.fail(alert jsonb) RETURNS void LANGUAGE sql AS 'SELECT told.write(alert)';
		SELECT anomaly.enable_handler('fails')}, @alice);
	$node->wait_until(q{SELECT EXISTS (SELECT FROM told.message WHERE handler = 'fails')}, 'repaired, it is told');
	is($node->safe_psql('postgres', sprintf $TOLD_OF, 'fails', 'a'), 'opened', 'once');
	$node->safe_psql('postgres', q{SELECT anomaly.drop_handler(h) FROM unnest('{fails,hangs,defers}'::text[]) h}, @alice);
	is($node->safe_psql('postgres', 'SELECT count(*) FROM anomaly.deliveries'), '0', 'dropped handlers leave nothing');
};

subtest 'fault_a4_a_handler_does_not_leave_its_owner' => sub {
	my $superuser = $node->safe_psql('postgres', 'SELECT current_user');
	my %escapes = (
		set_role      => q{EXECUTE 'SET ROLE powerful'},
		reset_role    => q{EXECUTE 'RESET ROLE'},
		set_session   => qq{EXECUTE 'SET SESSION AUTHORIZATION "$superuser"'},
		reset_session => q{EXECUTE 'RESET SESSION AUTHORIZATION'},
		set_superuser => qq{EXECUTE 'SET ROLE "$superuser"'});
	my %fails = map { $_ => 1 } qw(set_role set_session set_superuser);
	my $rank = 10;
	for my $how (sort keys %escapes)
	{
		$node->safe_psql('postgres', qq{CREATE FUNCTION told.$how(alert jsonb) RETURNS void LANGUAGE plpgsql AS \$\$ BEGIN $escapes{$how}; PERFORM told.write(alert); END \$\$;
			SELECT anomaly.create_handler('$how', 'function', 'told.$how', '{"transitions": "opened"}', rank => $rank);
			SELECT anomaly.create_handler('after $how', 'function', 'told.write', '{"transitions": "opened"}', rank => @{[ $rank + 1 ]})}, @alice);
		$rank += 2;
	}
	$node->safe_psql('postgres', 'GRANT USAGE ON SCHEMA told TO PUBLIC; GRANT INSERT ON told.message TO PUBLIC');
	Readings::insert_incident($node, 'b', 5000, 3);
	$node->wait_until(q{SELECT count(DISTINCT handler) = 5 FROM told.message WHERE handler LIKE 'after %'}, 'those after them are told');
	for my $how (sort keys %escapes)
	{
		is($node->safe_psql('postgres', qq{SELECT COALESCE((SELECT substring(last_error FROM '\\(.*\\)') FROM anomaly.deliveries WHERE handler = '$how'), 'told')}),
			$fails{$how} ? '(42501)' : 'told', "$how: " . ($fails{$how} ? 'refused' : 'changes nothing'));
	}
	is($node->safe_psql('postgres', q{SELECT DISTINCT run_as, logged_in_as FROM told.message}), 'alice|alice', 'all of them ran as their owner');
	$node->safe_psql('postgres', qq{SELECT anomaly.drop_handler(handler) FROM anomaly.handlers WHERE handler NOT IN ('first', 'last')}, @alice);
};

subtest 'check_c11_off_switch' => sub {
	$node->safe_psql('postgres', 'TRUNCATE told.message; ALTER ROLE alice SET anomaly_detection.notifications = off');
	$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'anomaly_detection scan worker'});
	$node->wait_for_idle;
	Readings::insert_incident($node, 'c', 5000, 3);
	$node->wait_for_alert('watched', q{entity = 'c' AND status = 'resolved'});
	is($node->safe_psql('postgres', q{SELECT count(*) FROM told.message WHERE entity = 'c'}), '0', 'stored, and nobody is told');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM anomaly.deliveries}), '0', '... now or later');
	$node->safe_psql('postgres', 'ALTER ROLE alice RESET anomaly_detection.notifications');
};

subtest 'defect_s29_once_whatever_restarts' => sub {
	$node->safe_psql('postgres', q{TRUNCATE told.message; SELECT anomaly.create_handler('waits', 'function', 'told.wait', rank => 3)}, @alice);
	for my $mode ('immediate', 'fast', 'immediate')
	{
		# The server goes while a handler is called: of what it did there is nothing left.
		my $holder = $node->background_psql('postgres');
		$holder->query_safe('SELECT pg_advisory_lock(1)');
		Readings::insert_incident($node, 'd', 5000, 3);
		$node->wait_until(q{SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'anomaly_detection scan worker' AND wait_event_type = 'Lock')}, 'it waits in its handler');
		$node->stop($mode);
		eval { $holder->quit };
		$node->start;
	}
	my $alerts = $node->safe_psql('postgres', q{SELECT count(*) FROM anomaly.alerts WHERE entity = 'd'});
	cmp_ok($alerts, '>=', 1, "there are $alerts alerts");
	$node->wait_until(q{SELECT count(*) = 0 FROM anomaly.deliveries}, 'all of it is told');
	$node->wait_until(q{SELECT bool_and(status = 'resolved') FROM anomaly.alerts}, 'all alerts have ended');
	$node->wait_until(q{SELECT count(*) = 0 FROM anomaly.deliveries}, 'and that is told');
	is($node->safe_psql('postgres', q{SELECT handler, alert, sequence, count(*) FROM told.message GROUP BY 1, 2, 3 HAVING count(*) > 1}), '', 'nothing is told twice');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM anomaly.alerts a, unnest('{first,waits,last}'::text[]) h WHERE entity = 'd'
		AND (SELECT string_agg(transition, ' ' ORDER BY sequence) FROM told.message WHERE handler = h AND alert = a.id AND transition IN ('opened', 'resolved')) IS DISTINCT FROM 'opened resolved'}),
		'0', 'nothing is lost');
};

unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal/, 'nothing has crashed');
$node->stop;
done_testing();
