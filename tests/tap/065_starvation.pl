# All of max_worker_processes are taken by others: what is due stays due and nothing is filled, neither the log nor the run
# history; and runs that take longer than their interval do not pile up.
use strict;
use warnings;
use AnomalyNode;
use IPC::Run ();
use SlowDetector;
use PostgreSQL::Test::Utils;
use Test::More;

# Five: launcher, dispatcher and one scan worker of ours, or two of them and parallel workers.
my $node = AnomalyNode->start_new('starved', conf => <<'CONF');
max_worker_processes = 5
max_logical_replication_workers = 0
max_parallel_workers = 5
anomaly_detection.linger_ms = 0
CONF
my $began = time;
sub sql { my ($query) = @_; return $node->safe_psql('postgres', $query); }

sql(q{
	CREATE TABLE reading AS SELECT now() - i * interval '1 minute' AS at, (i * 7 % 11)::double precision AS v FROM generate_series(1, 100) i;
	CREATE TABLE wide AS SELECT i FROM generate_series(1, 100000) i; ANALYZE wide;
	SELECT anomaly.watch('reading', value => 'v', at => 'at', strategy => 'mad', every => '1 second', name => 'd')});
my $RUNS = q{SELECT count(*) FROM anomaly.runs};
$node->wait_until("SELECT ($RUNS) >= 2", 'it runs');

subtest 'fault_s1_no_process_slot' => sub {
	# Parallel workers that sleep hold the slots; the query is started until it has got all that ours leave for a moment.
	my $hold = q{SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; SET max_parallel_workers_per_gather = 4;
		SET parallel_leader_participation = off; SELECT count(*) FROM wide WHERE pg_sleep(600) IS NOT NULL;};
	my $holders = q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'parallel worker'};
	my @holding;
	for my $try (1 .. 40)
	{
		push @holding, IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', $hold ], '<', \undef, '>', \my $out, '2>', \my $err);
		sleep 1;
		last if sql($holders) >= 4;
	}
	is(sql($holders), '4', 'parallel workers have all slots but the launcher\'s');
	my $before = sql($RUNS);
	my $starved = sql('SELECT starved FROM anomaly.scheduler');
	$node->wait_until("SELECT starved >= $starved + 3 FROM anomaly.scheduler", 'nobody notices');
	is(sql($RUNS), $before, 'no row in the history for a run that could not start');
	is(sql(q{SELECT next_due < clock_timestamp() FROM anomaly.schedule WHERE name = 'd'}), 't', 'it stays due');
	is(sql(q{SELECT consecutive_failures FROM anomaly.schedule WHERE name = 'd'}), '0', '... which is no failure');
	my ($status, $reason, $hint) = split /\|/, sql(q{SELECT status, reason, hint FROM anomaly.health WHERE kind = 'system'});
	is("$status: $hint", 'starved: raise anomaly_detection.max_workers or max_worker_processes', 'the health view says what to do');
	like($reason, qr/found no worker slot, \d+ times so far/, '... and how often');
	my @warnings = slurp_file($node->logfile) =~ /WARNING:  anomaly_detection: due detectors wait for a worker slot\n.*HINT:  Raise/g;
	cmp_ok(scalar @warnings, '>=', 1, 'the log has a warning with a hint');
	cmp_ok(scalar @warnings, '<=', 1 + (time - $began) / 60, '... once a minute at most');
	sql(q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()});
	$_->finish for @holding;
	$node->wait_until("SELECT ($RUNS) >= $before + 2", 'it does not run again');
	pass('once slots are free, it runs');
};

subtest 'fault_s3_run_longer_than_its_interval' => sub {
	sql(q{SELECT anomaly.drop_detector('d')});
	my $slow = SlowDetector->new($node);
	$slow->wait_for_success_after(0);
	my $before = sql(q{SELECT coalesced FROM anomaly.schedule WHERE name = 'slow_v'});
	my $run = $slow->last_run;
	$slow->sql('UPDATE watched.nap SET seconds = 4');
	$node->wait_until("SELECT count(*) >= 2 FROM anomaly.runs WHERE status = 'succeeded' AND run_id > $run AND duration > '3 seconds'", 'no long runs');
	is(sql("SELECT count(*) FROM anomaly.runs a JOIN anomaly.runs b ON b.run_id > a.run_id AND b.started_at < a.finished_at WHERE a.run_id > $run"), '0', 'no two of them at once');
	cmp_ok(sql(q{SELECT coalesced FROM anomaly.schedule WHERE name = 'slow_v'}), '>=', $before + 6, 'due times that passed meanwhile are counted');
	# Two runs of four seconds: eight due times, if each had its own run.
	$slow->unblock;
	my ($rate, $late) = (undef, $slow->last_run);
	$slow->wait_for_success_after($late);
	my $quick = $slow->last_run;
	sleep 3;
	cmp_ok($slow->last_run - $quick, '<=', 5, 'afterwards none of them is made up for one by one');
};

subtest 'fault_s10_reloaded_at_the_next_tick' => sub {
	my $last = q{SELECT coalesce(max(run_id), 0) FROM anomaly.runs WHERE detector = 'slow_v'};
	sql(q{SET SESSION AUTHORIZATION watcher; SELECT anomaly.alter_detector('slow_v', '{"every": "1 hour"}')});
	$node->wait_for_idle;
	my $run = sql($last);
	sleep 3;
	is(sql($last), $run, 'a longer interval is in force');
	sql(q{SET SESSION AUTHORIZATION watcher; SELECT anomaly.alter_detector('slow_v', '{"every": "1 second"}')});
	$node->wait_until("SELECT ($last) >= $run + 2", 'a shorter interval is not in force');
	sql('SELECT anomaly.pause()');
	$node->wait_for_idle;
	$run = sql($last);
	sleep 3;
	is(sql($last), $run, 'pause() stops it');
	sql('SELECT anomaly.resume()');
	$node->wait_until("SELECT ($last) > $run", 'resume() does nothing');
	pass('resume() lets it go on');
	$node->append_conf('postgresql.conf', "anomaly_detection.max_consecutive_failures = 2\nanomaly_detection.scan_lock_timeout_ms = 200");
	$node->reload;
	my $holder = $node->background_psql('postgres');
	$holder->query_safe('BEGIN; LOCK TABLE watched.reading');
	$node->wait_until(q{SELECT status = 'broken' FROM anomaly.health WHERE name = 'slow_v'}, 'the new limit is not in force');
	is(sql(q{SELECT count(*) FROM anomaly.runs WHERE detector = 'slow_v' AND status = 'failed' AND error_code = '55P03'}), '2', 'new limits for failures and locks are');
	$holder->quit;
};

$node->stop;
done_testing();
