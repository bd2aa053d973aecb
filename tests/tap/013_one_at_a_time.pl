# A detector runs once at a time, whoever asks.
use strict;
use warnings;
use AnomalyNode;
use SlowDetector;
use Test::More;

my $node = AnomalyNode->start_new('once');
my $slow = SlowDetector->new($node);

subtest 'fault_s2_scan_beside_worker' => sub {
	my $pid = $slow->block;
	my $runs = $slow->last_run;
	my ($rc, $out, $err) = $node->psql('postgres', q(SET SESSION AUTHORIZATION watcher; SELECT anomaly.scan('slow_v')));
	like($err, qr/already running \(pid $pid, since \d{4}-/, 'scan() says who runs it and since when');
	is($node->sqlstate(q(SET SESSION AUTHORIZATION watcher; SELECT anomaly.scan('slow_v'))), '55006', 'with its SQLSTATE');
	is($slow->last_run, $runs, 'no other run was begun');
	$slow->unblock;
	$slow->sql("SELECT pg_cancel_backend($pid)");
	$slow->wait_for_success_after($runs);
};

subtest 'a run that ends while somebody looks has not crashed' => sub {
	my $pid = $slow->block;
	my $run = $slow->last_run;
	my $reader = $node->background_psql('postgres');
	$reader->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
	my $status = "SELECT status FROM anomaly.runs WHERE run_id = $run";
	is($reader->query_safe($status), 'running', 'it is seen to run');
	$slow->unblock;
	$slow->sql("SELECT pg_cancel_backend($pid)");
	$slow->wait_for_success_after($run);
	is($slow->sql($status), 'cancelled', 'and ends');
	is($reader->query_safe($status), 'running', 'for who has seen it run, it runs to the end of the transaction');
	$reader->query_safe('COMMIT');
	is($reader->query_safe($status), 'cancelled', 'not longer');
	$reader->quit;
};

subtest 'fault_s2_worker_beside_scan' => sub {
	# A session scans in a transaction that it leaves open: the worker lets the slots pass.
	$slow->sql(q(SELECT anomaly.disable('slow_v')));
	$node->wait_for_idle;
	my $session = $node->background_psql('postgres');
	$session->query_safe('SET SESSION AUTHORIZATION watcher');
	$session->query_safe('BEGIN');
	$session->query_safe(q(SELECT anomaly.scan('slow_v')));
	my $runs = $slow->last_run;
	$slow->sql(q(UPDATE anomaly.detector SET enabled = true));
	sleep 3;
	is($slow->last_run, $runs, 'the worker begins no run');
	$session->query_safe('COMMIT');
	$session->quit;
	$slow->sql(q(SELECT anomaly.enable('slow_v')));
	$slow->wait_for_success_after($slow->last_run);
	pass('and goes on afterwards');
};

subtest 'fault_s2_two_run_due' => sub {
	$slow->sql(q(SELECT anomaly.pause()));
	$node->wait_for_idle;
	# pause() keeps run_due() back too; only the workers shall be out of the way.
	$node->append_conf('postgresql.conf', 'anomaly_detection.max_workers = 0');
	$node->reload;
	$slow->sql(q(SELECT anomaly.resume()));
	my $runs = $slow->last_run;
	$slow->sql(q(UPDATE anomaly.detector_state SET next_due = now()));
	my @calls = map { $node->background_psql('postgres') } 1 .. 2;
	$_->query_safe('SET SESSION AUTHORIZATION watcher') for @calls;
	# The first call's run ends when it is let go and not before, however long everything else takes.
	$slow->sql(<<'SQL');
SET SESSION AUTHORIZATION watcher;
CREATE TABLE watched.gate (is_open boolean);
CREATE FUNCTION watched.wait_at_gate() RETURNS boolean LANGUAGE plpgsql AS
$$ BEGIN WHILE NOT EXISTS (SELECT FROM watched.gate) LOOP PERFORM pg_sleep(0.01); END LOOP; RETURN true; END $$;
CREATE OR REPLACE VIEW watched.slow AS SELECT at, v FROM watched.reading WHERE (SELECT watched.wait_at_gate());
SQL
	$calls[0]->query_until(qr/began/, "\\echo began\nCALL anomaly.run_due();\n");
	$node->wait_until("SELECT EXISTS (SELECT FROM anomaly.runs WHERE run_id > $runs AND status = 'running')", 'run_due() does not run');
	# Due again, so that nothing but the run under way keeps the second call from running it.
	$node->wait_until(q(SELECT next_due < clock_timestamp() FROM anomaly.detectors WHERE detector = 'slow_v'), 'it is not due again');
	$calls[1]->query_safe('CALL anomaly.run_due()');
	is($slow->sql("SELECT string_agg(status, ',') FROM anomaly.runs WHERE run_id > $runs"), 'running', 'the second call leaves alone what the first one runs');
	$slow->sql('INSERT INTO watched.gate VALUES (true)');
	$calls[0]->query_safe('SELECT 1');
	$_->quit for @calls;
	is($slow->sql("SELECT string_agg(status || ' ' || started_by, ',') FROM anomaly.runs WHERE run_id > $runs"), 'succeeded run_due', 'one of two calls ran it');
};

$node->stop;
done_testing();
