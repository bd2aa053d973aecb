# Rows judged in the statement that writes them, between sessions: NOTIFY, a cancel, a termination and a shutdown inside the
# trigger, scans and trainings beside writes, and a dump that is restored.
use strict;
use warnings;
use AnomalyNode;
use PostgreSQL::Test::Utils;
use IPC::Run ();
use Test::More;

my $node = AnomalyNode->start_new('writes', conf => 'anomaly_detection.enabled = off');
$node->safe_psql('postgres', q{
	CREATE ROLE writer LOGIN;
	CREATE TABLE gauge (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL, sensor text, v double precision);
	INSERT INTO gauge (at, sensor, v) SELECT now() - i * interval '1 minute', s, 100 + i * 7919 % 101 / 25.0 FROM generate_series(1, 200) i, unnest('{a,b}'::text[]) s;
	GRANT INSERT ON gauge TO writer;
	SELECT anomaly.watch('gauge', value => 'v', at => 'at', entity => 'sensor', strategy => 'zscore', threshold => 6, settle => '0 seconds', name => 'gauge');
});

subtest 'check_write_time_notify' => sub {
	$node->safe_psql('postgres', q{SELECT anomaly.watch_writes('gauge', 'notify')});
	my $heard = sub { my ($sql) = @_; return $node->safe_psql('postgres', "LISTEN anomaly_writes;\n$sql") };
	is($heard->(q{INSERT INTO gauge (at, sensor, v) VALUES (now(), 'a', 101), (now(), 'b', 102)}), '', 'usual rows: nothing');
	is($heard->(q{BEGIN; INSERT INTO gauge (at, sensor, v) VALUES (now(), 'a', 500); ROLLBACK}), '', 'a statement that is rolled back: nothing');
	my $told = $heard->(q{INSERT INTO gauge (id, at, sensor, v) OVERRIDING SYSTEM VALUE VALUES (1000000, now(), 'a', 101), (1000001, '2026-01-01 00:00+00', 'b', 500)});
	like($told, qr/Asynchronous notification "anomaly_writes" with payload "(.*)" received/, 'an anomalous row: a message');
	my ($payload) = $told =~ /payload "(.*)" received/;
	is($node->safe_psql('postgres', qq{SELECT p ->> 'detector', p ->> 'source', p ->> 'anomalous', string_agg(k, ' ' ORDER BY k) FROM (SELECT \$p\$$payload\$p\$::jsonb) d (p), jsonb_object_keys(p) k GROUP BY p}),
		'gauge|public.gauge|1|anomalous created_at detector source', '... that says of which table, and nothing of its rows');
	is($node->safe_psql('postgres', qq{SELECT row_key, entity, value FROM anomaly.row_scores WHERE created_at = (\$p\$$payload\$p\$::jsonb ->> 'created_at')::timestamptz}), '{"id": 1000001}|b|500',
		'... and by when they are found');
	my $many = $heard->(q{INSERT INTO gauge (at, sensor, v) SELECT now(), repeat('ü"', 3000) || i, 500 FROM generate_series(1, 5000) i});
	my @messages = $many =~ /payload "(.*)" received/g;
	is(scalar @messages, 1, 'one message for a statement of many rows');
	like($messages[0], qr/"anomalous":5000/, '... that counts them all');
	cmp_ok(length $messages[0], '<', 8000, '... in what a message may take');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM anomaly.row_scores}), '5001', 'and the rows are stored');
	like($node->safe_psql('postgres', "LISTEN anomaly_writes;\nINSERT INTO gauge (at, sensor, v) VALUES (now(), 'a', 501)", extra_params => [ '-U', 'writer' ]), qr/anomaly_writes/,
		'rows of a role that may do nothing but INSERT are told as well');
};

# A cast of the entity that waits where the test wants it, and then says that it was cancelled.
$node->safe_psql('postgres', q{
	CREATE TYPE slow AS (part text);
	CREATE FUNCTION spell(slow) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(600) WHERE ($1).part = 'wait'; RETURN ($1).part; END $$;
	CREATE CAST (slow AS text) WITH FUNCTION spell(slow) AS ASSIGNMENT;
	CREATE TABLE slowly (at timestamptz NOT NULL, e slow, v double precision);
	INSERT INTO slowly SELECT now() - i * interval '1 minute', ROW('x')::slow, 100 + i * 7919 % 101 / 25.0 FROM generate_series(1, 200) i;
	SELECT anomaly.watch('slowly', value => 'v', at => 'at', entity => 'e', strategy => 'zscore', threshold => 6, settle => '0 seconds', name => 'slowly');
	SELECT anomaly.watch_writes('slowly');
});
my $SLOW = q{INSERT INTO slowly VALUES (now(), ROW('wait'), 101)};
# A session that runs a statement; called, it answers what came of it.
sub start
{
	my ($sql) = @_;
	my $out = '';
	my $psql = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', $sql ], '>', \$out, '2>&1',
		IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	return sub { $psql->finish; return $out };
}
my $WAITING = q{SELECT pid FROM pg_stat_activity WHERE query LIKE 'INSERT INTO slowly%' AND wait_event = 'PgSleep'};

subtest 'fault_w_cancel_in_the_trigger' => sub {
	for (['pg_cancel_backend', qr/canceling statement due to user request/], ['pg_terminate_backend', qr/terminating connection due to administrator command/])
	{
		my ($how, $error) = @$_;
		my $session = start($SLOW);
		$node->wait_until("SELECT EXISTS ($WAITING)", 'the trigger waits');
		$node->safe_psql('postgres', "SELECT $how(pid) FROM ($WAITING) w");
		like($session->(), $error, "$how inside the trigger ends the statement");
	}
	is($node->sqlstate("SET statement_timeout = '200ms'; $SLOW"), '57014', 'a timeout as well');
	is($node->safe_psql('postgres', q{SELECT (SELECT count(*) FROM slowly WHERE (e).part = 'wait'), failures FROM anomaly.write_checks WHERE detector = 'slowly'}), '0|0',
		'no row is written, and it is no failure of the check');
	my $session = start($SLOW);
	$node->wait_until("SELECT EXISTS ($WAITING)", 'the trigger waits');
	$node->stop('fast');
	like($session->(), qr/terminating connection due to administrator command|server closed the connection/, 'a fast shutdown does not wait for it');
	$node->start;
	is($node->sqlstate(q{INSERT INTO slowly VALUES (now(), ROW('x'), 101)}), '', 'and the next statement is judged');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM anomaly.row_scores WHERE detector = 'slowly'}), '1', '... with a verdict');
};

subtest 'check_write_time_states_of_now' => sub {
	# One session writes on while others train, scan and roll back: it goes by what is committed each time.
	$node->safe_psql('postgres', q{SELECT anomaly.watch_writes('gauge'); TRUNCATE anomaly.row_score; DELETE FROM gauge WHERE v > 200});
	my ($in, $out) = ('', '');
	my $psql = IPC::Run::start([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres') ], '<', \$in, '>', \$out, '2>&1',
		IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	my $ask = sub {
		($in, $out) = ("INSERT INTO gauge (at, sensor, v) VALUES ('2026-01-01', 'b', 180);\nSELECT is_anomaly, round(upper) FROM anomaly.row_scores ORDER BY created_at DESC LIMIT 1;\n\\echo done\n", '');
		$psql->pump until $out =~ /done\n/;
		return $out =~ s/\ndone\n//r;
	};
	my $first = $ask->();
	like($first, qr/^t\|/, 'a value beyond what was learned');
	is($ask->(), $first, 'again');
	$node->safe_psql('postgres', q{BEGIN; UPDATE gauge SET v = 180 + id % 9 WHERE sensor = 'b'; SELECT anomaly.train('gauge'); ROLLBACK});
	is($ask->(), $first, 'a training that is rolled back changes nothing');
	$node->safe_psql('postgres', q{DELETE FROM gauge WHERE sensor = 'b'; INSERT INTO gauge (at, sensor, v) SELECT now() - i * interval '1 minute', 'b', 180 + i % 9 FROM generate_series(1, 200) i;
		SELECT anomaly.train('gauge')});
	like($ask->(), qr/^f\|/, 'what another session has trained counts from its commit on');
	$in = "BEGIN; SELECT anomaly.rollback_model('gauge') IS NOT NULL;\n\\echo began\n";
	$psql->pump until $out =~ /began\n/;
	is($ask->(), $first, 'within a transaction, its own model');
	$in = "ROLLBACK;\n\\echo over\n";
	$psql->pump until $out =~ /over\n/;
	like($ask->(), qr/^f\|/, '... and not after it was rolled back');
	$in = "\\q\n";
	$psql->finish;
};

subtest 'fault_w_retention' => sub {
	$node->safe_psql('postgres', q{UPDATE anomaly.row_score SET created_at = now() - interval '7 days', slot = (floor(extract(epoch FROM now()) / 86400)::int8 - 10957 + 1) % 8;
		INSERT INTO anomaly.write_failure VALUES ('gauge', now() - interval '9 days', 3, '22000', 'long ago'), ('gauge', now(), 2, '22000', 'now')});
	cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM anomaly.row_scores'), '>', 0, 'there are old verdicts');
	$node->safe_psql('postgres', q{INSERT INTO gauge (at, sensor, v) VALUES (now(), 'a', 101)});
	$node->safe_psql('postgres', 'ALTER SYSTEM SET anomaly_detection.enabled = on; SELECT pg_reload_conf()');
	$node->wait_until(q{SELECT count(*) = 1 FROM anomaly.row_scores}, 'workers empty what is older than seven days');
	is($node->safe_psql('postgres', q{SELECT failures FROM anomaly.write_checks WHERE detector = 'gauge'}), '2', 'failures as well');
};

subtest 'fault_w_dump_restore' => sub {
	$node->safe_psql('postgres', q{SELECT anomaly.watch_writes('gauge', 'reject'); SELECT anomaly.pause()});
	$node->wait_for_idle;
	my $dir = PostgreSQL::Test::Utils::tempdir;
	$node->command_ok([ 'pg_dump', '-Fc', '-f', "$dir/dump", 'postgres' ], 'pg_dump');
	$node->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE template0');
	$node->command_ok([ 'pg_restore', '--exit-on-error', '-d', 'copy', "$dir/dump" ], 'pg_restore');
	is($node->sqlstate(q{INSERT INTO gauge (at, sensor, v) VALUES (now(), 'a', 5000)}, 'copy'), '', 'paused, the restored trigger does nothing');
	is($node->safe_psql('copy', q{SELECT status, hint FROM anomaly.write_checks WHERE detector = 'gauge'}), 'paused|SELECT anomaly.resume()', '... and says so');
	$node->safe_psql('copy', 'SELECT anomaly.resume()');
	is($node->sqlstate(q{INSERT INTO gauge (at, sensor, v) VALUES (now(), 'a', 5000)}, 'copy'), '23514', 'resumed, it rejects');
	is($node->safe_psql('copy', q{DROP EXTENSION anomaly_detection CASCADE; INSERT INTO gauge (at, sensor, v) VALUES (now(), 'a', 5000);
		SELECT count(*) FROM pg_trigger WHERE tgrelid = 'gauge'::regclass}), '0', 'dropped with CASCADE, the extension takes its triggers along');
};

$node->stop;
done_testing();
