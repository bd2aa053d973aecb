# What our processes and functions do to others: they hold back vacuum for no longer than a scan may take, and end soon when
# they are told to, in the middle of computing.
use strict;
use warnings;
use AnomalyNode;
use SlowDetector;
use Test::More;
use Time::HiRes qw(time usleep);

my $node = AnomalyNode->start_new('polite', conf => <<'CONF');
anomaly_detection.linger_ms = 600000
anomaly_detection.max_scan_duration_ms = 1000
anomaly_detection.max_consecutive_failures = 1000
CONF
my $slow = SlowDetector->new($node);

subtest 'fault_r3_idle_workers_hold_no_transaction' => sub {
	$slow->wait_for_success_after(0);
	# Every second a scan of milliseconds: of many looks, nearly all find the worker waiting.
	my ($idle, $looks, $bad) = (0, 40, 0);
	for (1 .. $looks)
	{
		my ($waiting, $holding) = split /\|/, $node->safe_psql('postgres', q(SELECT count(*) FILTER (WHERE wait_event_type IN ('Extension', 'Activity')),
			count(*) FILTER (WHERE wait_event_type IN ('Extension', 'Activity') AND (xact_start IS NOT NULL OR backend_xmin IS NOT NULL OR backend_xid IS NOT NULL))
			FROM pg_stat_activity WHERE backend_type ~ '^anomaly_detection (scan worker|launcher)'));
		$idle++ if $waiting;
		$bad += $holding;
		usleep(50_000);
	}
	cmp_ok($idle, '>', $looks / 4, "a process of ours waits in $idle of $looks looks");
	is($bad, 0, 'and none of those holds a transaction or a snapshot');
};

subtest 'fault_r3_a_scan_holds_xmin_no_longer_than_max_scan_duration' => sub {
	my $run = $slow->last_run;
	$slow->sql('UPDATE watched.nap SET seconds = 600');
	$slow->wait_until("SELECT count(*) >= 1 FROM anomaly.runs WHERE detector = 'slow_v' AND status = 'failed' AND run_id > $run", 'no scan is cut off');
	my $oldest = $slow->sql("SELECT round(max(extract(epoch FROM duration)), 1) FROM anomaly.runs WHERE run_id > $run AND status = 'failed'");
	note("the longest scan took $oldest s");
	cmp_ok($oldest, '<', 10, 'a scan that would take ten minutes is cut off after one second');
	$slow->unblock;
	$slow->wait_for_success_after($run);
	is($slow->sql(q(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'anomaly_detection scan worker' AND now() - xact_start > '10 s')), '0', 'nothing holds on to it');
};

# Elapsed seconds beyond a statement_timeout of half a second, and the SQLSTATE.
sub overshoot
{
	my ($sql) = @_;
	my $began = time;
	my $sqlstate = $node->sqlstate("SET anomaly_detection.train_time_limit = 0; SET statement_timeout = 500; $sql");
	return ($sqlstate, time - $began - 0.5);
}

subtest 'fault_r4_statement_timeout_inside_computation' => sub {
	$node->safe_psql('postgres', <<'SQL');
CREATE TABLE wide AS SELECT now() - i * interval '1 minute' AS at, 50 + 10 * sin(i / 50.0) + (i * 7919 % 101) / 25.0 AS v, i % 17 AS w, 'e' || i % 50 AS entity FROM generate_series(1, 200000) i;
ALTER TABLE wide ALTER v TYPE float8;
ANALYZE wide;
SELECT anomaly.create_detector('data_outlier', s, 'v', source => 'wide', value => 'v', at => 'at', entity => 'entity', training_window => '1 year', settle => '0 s', name => 'r4_' || s)
  FROM unnest('{auto,zscore,lstm}'::text[]) s;
SELECT anomaly.train('r4_zscore');
UPDATE anomaly.detector_state SET watermark = now() - interval '100 days' WHERE detector = 'r4_zscore';
SQL
	my %calls = (
		'detect_anomalies auto' => q{SELECT count(*) FROM detect_anomalies('wide', value => 'v', at => 'at', entity => '', strategy => 'auto')},
		'detect_anomalies matrix_profile' => q{SELECT count(*) FROM detect_anomalies('wide', value => 'v', at => 'at', entity => '', strategy => 'matrix_profile')},
		'detect_anomalies random_cut_forest' => q{SELECT count(*) FROM detect_anomalies('wide', value => 'v', at => 'at', entity => '', features => '{w}', strategy => 'random_cut_forest')},
		'isolation_forest' => q{SELECT model_info(isolation_forest(ARRAY[v, w, v * w], '{"n_estimators": 1000, "max_samples": 4096}')) FROM wide},
		'decompose' => q{SELECT count(*) FROM decompose((SELECT array_agg(v ORDER BY at) FROM wide))},
		'anomaly.train auto' => q{SELECT anomaly.train('r4_auto')},
		'anomaly.train lstm' => q{SELECT anomaly.train('r4_lstm')},
		'anomaly.backtest' => q{SELECT anomaly.backtest_summary('r4_auto', '90 days')},
		'anomaly_score over' => q{SELECT max(s) FROM (SELECT anomaly_score(v) OVER (ORDER BY at ROWS 10000 PRECEDING) AS s FROM wide, generate_series(1, 10)) q});
	for my $call (sort keys %calls)
	{
		my ($sqlstate, $late) = overshoot($calls{$call});
	  SKIP: {
			skip "$call was ready before", 2 if $sqlstate eq '';
			is($sqlstate, '57014', "$call is cut off");
			# one second is owed on an idle machine
			cmp_ok($late, '<', 5, sprintf('... within %.2f s', $late));
		}
	}
	is($node->safe_psql('postgres', q(SELECT string_agg(status, ' ') FROM anomaly.detectors WHERE detector IN ('r4_auto', 'r4_lstm'))), 'new new', 'nothing of the trainings is left');
};

subtest 'fault_r4_lock_timeout_and_cancel_of_a_scan' => sub {
	my $holder = $node->background_psql('postgres');
	$holder->query_safe('BEGIN');
	$holder->query_safe('LOCK TABLE wide IN ACCESS EXCLUSIVE MODE');
	my $began = time;
	is($node->sqlstate(q{SET lock_timeout = 300; SELECT anomaly.scan('r4_zscore')}), '55P03', 'lock_timeout holds for the source of a scan');
	cmp_ok(time - $began, '<', 10, '... soon');
	$holder->query_safe('ROLLBACK');
	$holder->quit;
	my $before = $node->safe_psql('postgres', q(SELECT watermark, points_processed FROM anomaly.detectors WHERE detector = 'r4_zscore'));
	# computing without a wait: rows times a thousand
	$node->safe_psql('postgres', q(CREATE VIEW more AS SELECT at, v, entity FROM wide, generate_series(1, 1000);
		SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', source => 'more', value => 'v', at => 'at', entity => 'entity', training_window => '1 hour', min_data_points => 2, settle => '0 s', name => 'r4_more');
		SELECT anomaly.train('r4_more'); UPDATE anomaly.detector_state SET watermark = now() - interval '100 days' WHERE detector = 'r4_more'));
	my $scan = $node->background_psql('postgres', on_error_stop => 0);
	my $pid = $scan->query_safe('SELECT pg_backend_pid()');
	$scan->query_until(qr/began/, "\\echo began\nSELECT anomaly.scan('r4_more');\n");
	$node->wait_until("SELECT now() - query_start > '300 ms' AND state = 'active' FROM pg_stat_activity WHERE pid = $pid", 'no scan is computing');
	$began = time;
	$node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
	$node->wait_until("SELECT state <> 'active' FROM pg_stat_activity WHERE pid = $pid", 'the scan goes on');
	cmp_ok(time - $began, '<', 5, sprintf('a cancelled scan ends within %.2f s', time - $began));
	eval { $scan->quit };
	is($node->safe_psql('postgres', q(SELECT watermark < now() - interval '99 days', points_processed FROM anomaly.detectors WHERE detector = 'r4_more')), 't|0', 'and has changed nothing');
};

$node->stop;
done_testing();
