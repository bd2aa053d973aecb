# What our processes take of the server, and what shows of them: autovacuum finds our tables, pg_stat_activity says what a worker
# does, and a table of many partitions takes no more locks than the partitions that are looked at.
use strict;
use warnings;
use AnomalyNode;
use PostgreSQL::Test::Utils;
use SlowDetector;
use Test::More;
use Time::HiRes qw(usleep);

my $node = AnomalyNode->start_new('resources', conf => "max_connections = 20\nautovacuum_naptime = 1");
# Locks for some thousand objects in all: max_locks_per_transaction times connections and workers, and what is left over.
# (CREATE EXTENSION takes more.)
$node->append_conf('postgresql.conf', 'max_locks_per_transaction = 10');
$node->restart;

subtest 'fault_r5_workers_are_visible' => sub {
	my $slow = SlowDetector->new($node);
	my $pid = $slow->block;
	is($node->safe_psql('postgres', "SELECT state, query ~ '^scan slow_v \\(run [0-9]+\\)\$', application_name, usename, backend_type, xact_start IS NOT NULL FROM pg_stat_activity WHERE pid = $pid"),
		'active|t|anomaly_detection: slow_v|watcher|anomaly_detection scan worker|t', 'while it scans: what, for whom');
	my $run = $slow->last_run;
	$slow->unblock;
	$slow->wait_for_success_after($run);
	# fault_r3: between two runs nothing holds back vacuum
	$node->wait_until(q{SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'anomaly_detection scan worker' AND xact_start IS NULL AND backend_xmin IS NULL)}, 'between two runs it holds no transaction');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'anomaly_detection launcher' AND (xact_start IS NOT NULL OR backend_xmin IS NOT NULL)}), '0', 'the launcher holds none');
};

subtest 'fault_r5_autovacuum_sees_our_tables' => sub {
	# The worker is one process for all of it: what it has changed shows while it lives.
	$node->safe_psql('postgres', q{ALTER SYSTEM SET anomaly_detection.linger_ms = 5000; ALTER SYSTEM SET autovacuum_vacuum_threshold = 5; ALTER SYSTEM SET autovacuum_vacuum_scale_factor = 0; SELECT pg_reload_conf()});
	my $counted = 0;
	for (1 .. 40)
	{
		my ($pid) = $node->workers('scan worker');
		if (!$pid)
		{
			usleep(200_000);
			next;
		}
		my $before = $node->safe_psql('postgres', q{SELECT n_tup_upd FROM pg_stat_user_tables WHERE relid = 'anomaly.detector_state'::regclass});
		for (1 .. 50)
		{
			usleep(100_000);
			my $now = $node->safe_psql('postgres', qq{SELECT n_tup_upd > $before + 2, EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid) FROM pg_stat_user_tables WHERE relid = 'anomaly.detector_state'::regclass});
			$counted = 1 if $now eq 't|t';
			last if $now ne 'f|t';
		}
		last if $counted;
	}
	ok($counted, 'updates are counted while the worker that makes them lives');
	$node->wait_until(q{SELECT autovacuum_count > 0 FROM pg_stat_user_tables WHERE relid = 'anomaly.detector_state'::regclass}, 'autovacuum comes');
	$node->wait_until(q{SELECT sum(autovacuum_count) > 0 FROM pg_stat_user_tables WHERE schemaname = 'anomaly' AND relname ~ '^run_'}, '... to the runs as well');
	ok(1, 'states and runs are vacuumed by themselves');
	is($node->safe_psql('postgres', q{SELECT bool_and('fillfactor=70' = ANY (reloptions)) FROM pg_class WHERE oid IN ('anomaly.detector_state'::regclass, 'anomaly.outbox'::regclass)}), 't', 'what is updated often has room for it');
};

subtest 'fault_r7_many_partitions' => sub {
	# 40 times 100 days, up to ten days ahead
	$node->safe_psql('postgres', q{CREATE TABLE daily (at timestamptz NOT NULL, v float8) PARTITION BY RANGE (at)});
	my $day = sub { "date_trunc('day', now()) + ($_[0] - 3990) * interval '1 day'" };
	my $sql = "SET synchronous_commit = off; SET TimeZone = 'UTC';\n";
	for my $part (0 .. 39)
	{
		# a transaction each: one for all of them would itself need too many locks
		$sql .= "CREATE TABLE daily_$part PARTITION OF daily FOR VALUES FROM (" . $day->(100 * $part) . ') TO (' . $day->(100 * $part + 100) . ") PARTITION BY RANGE (at);\n";
		$sql .= "CREATE TABLE daily_${part}_$_ PARTITION OF daily_$part FOR VALUES FROM (" . $day->(100 * $part + $_) . ') TO (' . $day->(100 * $part + $_ + 1) . ");\n" for 0 .. 99;
	}
	$node->safe_psql('postgres', $sql);
	$node->safe_psql('postgres', q{INSERT INTO daily SELECT now() - i * interval '1 hour', i % 7 FROM generate_series(1, 1000) i});
	is($node->sqlstate('SELECT count(*) FROM daily'), '53200', 'reading all of it needs more locks than there are');
	$node->safe_psql('postgres', q{SELECT anomaly.watch('daily', value => 'v', at => 'at', strategy => 'zscore', threshold => 5, settle => '0 s', every => '1 second', name => 'daily')});
	$node->safe_psql('postgres', q{INSERT INTO daily VALUES (now() + interval '3 seconds', 1000)});
	$node->wait_for_alert('daily', 'value = 1000');
	is($node->safe_psql('postgres', q{SELECT status, trained_rows > 600 FROM anomaly.detectors WHERE detector = 'daily'}), 'active|t', 'trained and scanned, with the partitions of its windows only');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM anomaly.runs WHERE detector = 'daily' AND status NOT IN ('succeeded', 'running')}), '0', 'no run has failed');
	# Where the time does not choose the partitions, the error is said, and is no other detector's.
	$node->safe_psql('postgres', q{CREATE VIEW undated AS SELECT at + interval '0' AS at, v FROM daily});
	is($node->sqlstate(q{SELECT anomaly.watch('undated', value => 'v', at => 'at', strategy => 'zscore', name => 'undated')}), '53200', 'a view that hides the time from the planner: out of locks');
	$node->safe_psql('postgres', q{SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', source => 'undated', value => 'v', at => 'at', every => '1 second', name => 'undated')});
	$node->wait_until(q{SELECT EXISTS (SELECT FROM anomaly.runs WHERE detector = 'undated' AND status = 'failed' AND error_code = '53200')}, 'its run fails');
	my $last = $node->safe_psql('postgres', 'SELECT max(run_id) FROM anomaly.runs');
	$node->wait_until("SELECT EXISTS (SELECT FROM anomaly.runs WHERE detector = 'daily' AND status = 'succeeded' AND run_id > $last)", 'the other one goes on');
	is($node->safe_psql('postgres', q{SELECT status FROM anomaly.health WHERE name = 'undated'}), 'failing', 'anomaly.health says so');
};

subtest 'fault_r8_temp_file_limit' => sub {
	$node->safe_psql('postgres', q{CREATE ROLE sorter LOGIN; ALTER ROLE sorter SET work_mem = '64kB'; ALTER ROLE sorter SET temp_file_limit = '1MB'; CREATE SCHEMA sorting AUTHORIZATION sorter});
	$node->safe_psql('postgres', q{CREATE TABLE sorting.big AS SELECT now() - (i * 7919 % 200000) * interval '1 second' AS at, (i * 7919 % 101)::float8 AS v, 'e' || i % 10 AS e FROM generate_series(1, 200000) i;
		ALTER TABLE sorting.big OWNER TO sorter});
	$node->safe_psql('postgres', q{SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', source => 'sorting.big', value => 'v', at => 'at', entity => 'e', every => '1 second', settle => '0 s', name => 'sorted')}, extra_params => [ '-U', 'sorter' ]);
	$node->wait_until(q{SELECT EXISTS (SELECT FROM anomaly.runs WHERE detector = 'sorted' AND status = 'failed' AND error_code = '53400')}, 'a run that sorts on disk ends at the limit');
	like($node->safe_psql('postgres', q{SELECT reason FROM anomaly.health WHERE name = 'sorted'}), qr/temporary file size exceeds/, 'anomaly.health says why');
	is($node->safe_psql('postgres', q{SELECT watermark IS NULL FROM anomaly.detectors WHERE detector = 'sorted'}), 't', 'nothing of it is left');
	$node->safe_psql('postgres', q{ALTER ROLE sorter RESET temp_file_limit});
	$node->safe_psql('postgres', q{SELECT anomaly.enable('sorted')}, extra_params => [ '-U', 'sorter' ]);
	$node->wait_until(q{SELECT EXISTS (SELECT FROM anomaly.runs WHERE detector = 'sorted' AND status = 'succeeded')}, 'with more room it is done');
	is($node->safe_psql('postgres', q{SELECT trained_rows > 190000 FROM anomaly.detectors WHERE detector = 'sorted'}), 't', '... all of it');
};
unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal/, 'nothing has crashed');
$node->stop;
done_testing();
