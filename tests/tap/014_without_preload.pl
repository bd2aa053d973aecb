# Without shared_preload_libraries everything works except what needs a background worker.
use strict;
use warnings;
use AnomalyNode;
use SlowDetector;
use Test::More;

my $node = AnomalyNode->start_new('plain', preload => 0, conf => 'anomaly_detection.crash_wait_ms = 1000');

subtest 'fault_s9_not_preloaded' => sub {
	my ($rc, $out, $err) = $node->psql('postgres', <<'SQL');
CREATE TABLE public.reading AS SELECT now() - i * interval '1 minute' AS at, sin(i) AS v FROM generate_series(1, 300) i;
SELECT anomaly.watch('reading', value => 'v', at => 'at', every => '1 second', strategy => 'mad');
SQL
	is($rc, 0, 'a detector can be created');
	like($err, qr/WARNING:.*shared_preload_libraries/s, 'with a warning that says how to make it run');
	is($node->safe_psql('postgres', q(SELECT status FROM anomaly.health WHERE kind = 'system')), 'not preloaded', 'the health view says so');
	is($node->safe_psql('postgres', 'SELECT count(*) FROM anomaly.progress'), '0', 'there is no progress');
	is($node->safe_psql('postgres', q(SELECT status FROM anomaly.scan('reading_v'))), 'succeeded', 'scan() works');
	is(scalar($node->workers), 0, 'no process of ours runs');
};

subtest 'run_due' => sub {
	my $slow = SlowDetector->new($node);
	my $runs = $slow->last_run;
	$slow->wait_until(q(SELECT next_due < clock_timestamp() FROM anomaly.detectors WHERE detector = 'slow_v'), 'it is not due');
	my $as_watcher = "SET SESSION AUTHORIZATION watcher;\n";
	$slow->sql("${as_watcher}CALL anomaly.run_due()");
	is($slow->sql("SELECT detector || ' ' || status || ' ' || started_by FROM anomaly.runs WHERE run_id > $runs"), 'slow_v succeeded run_due',
		'it runs the caller\'s due detector and no other');
	$slow->sql("GRANT anomaly_monitor TO watcher");
	# the cluster's superuser is named after who runs the test
	my $superuser = $node->safe_psql('postgres', 'SELECT current_user');
	my ($rc, $out, $err) = $node->psql('postgres', "${as_watcher}CALL anomaly.run_due()");
	like($err, qr/NOTICE:\s+skipped: detector reading_v of \Q$superuser\E\n/, 'and names what it skipped');
	is($node->sqlstate('SET ROLE watcher; CALL anomaly.run_due()'), '42501', 'SET ROLE is not enough');

	$runs = $slow->last_run;
	$slow->sql('ALTER TABLE watched.nap RENAME COLUMN seconds TO s; ALTER TABLE watched.nap RENAME COLUMN s TO seconds');
	$slow->sql('UPDATE watched.nap SET seconds = 600');
	my $caller = $node->background_psql('postgres', on_error_stop => 0);
	$caller->query_safe('SET SESSION AUTHORIZATION watcher');
	my $pid = $caller->query_safe('SELECT pg_backend_pid()');
	$slow->sql(q(UPDATE anomaly.detector_state SET next_due = now() WHERE detector = 'slow_v'));
	$caller->query_until(qr/began/, "\\echo began\nCALL anomaly.run_due();\n");
	$node->wait_until("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid AND wait_event = 'PgSleep')", 'run_due() does not sleep');
	$slow->sql("SELECT pg_cancel_backend($pid)");
	$node->wait_until("SELECT EXISTS (SELECT FROM anomaly.runs WHERE run_id > $runs AND status = 'cancelled')", 'the run is not cancelled');
	$slow->sql('UPDATE watched.nap SET seconds = 0');

	# Killed in the middle, the run is found to have crashed, and rests.
	$runs = $slow->last_run;
	$slow->sql('UPDATE watched.nap SET seconds = 600');
	$slow->sql(q(UPDATE anomaly.detector_state SET next_due = now() WHERE detector = 'slow_v'));
	$caller->{stdin} .= "CALL anomaly.run_due();\n";
	$caller->{run}->pump_nb;
	$node->wait_until("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid AND wait_event = 'PgSleep')", 'run_due() does not sleep');
	$slow->sql("SELECT pg_terminate_backend($pid)");
	$node->wait_until("SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid", 'the session does not end');
	is($slow->sql("SELECT status FROM anomaly.runs WHERE run_id > $runs"), 'crashed', 'a run whose session is gone shows as crashed');
	$slow->sql('UPDATE watched.nap SET seconds = 0');
	$slow->sql("${as_watcher}CALL anomaly.run_due()");
	is($slow->sql(q(SELECT consecutive_failures FROM anomaly.detectors WHERE detector = 'slow_v')), '1', 'it counts as a failure');
	$slow->wait_until(q(SELECT next_due < clock_timestamp() FROM anomaly.detectors WHERE detector = 'slow_v'), 'it is not due again');
	$slow->sql("${as_watcher}CALL anomaly.run_due()");
	$slow->wait_for_success_after($runs);
	eval { $caller->quit };
};

subtest 'a broken source' => sub {
	my $slow = bless { node => $node, database => 'postgres' }, 'SlowDetector';
	$slow->sql('DROP VIEW watched.slow');
	$slow->wait_until(q(SELECT next_due < clock_timestamp() FROM anomaly.detectors WHERE detector = 'slow_v'), 'it is not due again');
	my ($rc, $out, $err) = $node->psql('postgres', "SET SESSION AUTHORIZATION watcher;\nCALL anomaly.run_due()");
	is($rc, 0, 'one failing detector does not end the call');
	like($err, qr/WARNING:.*run \d+ failed/, 'but is reported');
	is($slow->sql(q(SELECT status FROM anomaly.health WHERE name = 'slow_v')), 'broken', 'the detector is broken');
	is($slow->sql(q(SELECT status FROM anomaly.health WHERE name = 'reading_v')), 'ok', 'the other is not touched');
};

$node->stop;
done_testing();
