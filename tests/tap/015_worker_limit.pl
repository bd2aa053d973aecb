# Fewer worker slots than owners with due work: everybody gets a turn, and nobody's log is filled.
use strict;
use warnings;
use AnomalyNode;
use SlowDetector;
use Test::More;

my $node = AnomalyNode->start_new('limit', conf => <<'CONF');
anomaly_detection.max_workers = 1
anomaly_detection.linger_ms = 5000
anomaly_detection.max_consecutive_failures = 1000
CONF
my $began = time;
my $first = SlowDetector->new($node);
$node->safe_psql('postgres', <<'SQL');
CREATE ROLE rival LOGIN;
CREATE SCHEMA rival AUTHORIZATION rival;
SET SESSION AUTHORIZATION rival;
CREATE TABLE rival.reading AS SELECT now() - i * interval '1 minute' AS at, sin(i) AS v FROM generate_series(1, 300) i;
SELECT anomaly.watch('rival.reading', value => 'v', at => 'at', every => '1 second', name => 'rival_v', strategy => 'mad');
SQL

subtest 'owners_take_turns' => sub {
	for my $round (1 .. 2)
	{
		my $run = $first->last_run;
		$node->wait_until("SELECT count(DISTINCT detector) = 2 FROM anomaly.runs WHERE status = 'succeeded' AND run_id > $run",
			'one owner never gets the only slot');
	}
	is($node->safe_psql('postgres', q(SELECT count(*) FROM anomaly.runs WHERE status NOT IN ('succeeded', 'running'))), '0',
		'fault_s1_no_slot: waiting is no failed run');
	is($node->safe_psql('postgres', q(SELECT status FROM anomaly.health WHERE kind = 'system')), 'starved', 'the health view says that slots are missing');
	my $log = PostgreSQL::Test::Utils::slurp_file($node->logfile);
	my @warnings = $log =~ /WARNING:.*wait for a worker slot/g;
	cmp_ok(scalar(@warnings), '>=', 1, 'somebody is told');
	cmp_ok(scalar(@warnings), '<=', 1 + (time - $began) / 60, 'one warning a minute');
};

subtest 'fault_s10_limit_is_reloaded' => sub {
	$node->append_conf('postgresql.conf', 'anomaly_detection.max_workers = 0');
	$node->reload;
	$node->wait_for_idle;
	my $run = $first->last_run;
	sleep 2;
	is($first->last_run, $run, 'no run starts any more');
	$node->append_conf('postgresql.conf', 'anomaly_detection.max_workers = 4');
	$node->reload;
	$first->wait_for_success_after($run);
	pass('until the limit is raised');
};

subtest 'fault_s10_enabled_is_reloaded' => sub {
	$node->append_conf('postgresql.conf', 'anomaly_detection.enabled = off');
	$node->reload;
	$node->wait_until(q(SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'anomaly_detection scan worker'), 'a worker stays');
	like($node->safe_psql('postgres', q(SELECT string_agg(status, ' ') FROM anomaly.health WHERE kind = 'system')), qr/disabled/, 'the health view says so');
	my $run = $first->last_run;
	$node->append_conf('postgresql.conf', 'anomaly_detection.enabled = on');
	$node->reload;
	$first->wait_for_success_after($run);
	pass('on again');
};

subtest 'max_scan_duration' => sub {
	$node->append_conf('postgresql.conf', "anomaly_detection.max_scan_duration_ms = 1000");
	$node->reload;
	# A worker reads the setting between two runs: one that began after it was made has read it.
	$first->wait_for_success_after($first->last_run) for 1 .. 2;
	$first->sql('UPDATE watched.nap SET seconds = 600');
	$node->wait_until(q(SELECT EXISTS (SELECT FROM anomaly.runs WHERE detector = 'slow_v' AND status = 'failed' AND error_code = '57014')), 'the run goes on');
	# While it is blocked, every run fails like this one.
	like($first->sql(q(SELECT reason FROM anomaly.health WHERE name = 'slow_v' AND status = 'failing')), qr/took longer than anomaly_detection.max_scan_duration_ms/,
		'the detector is failing, and says why');
	my $run = $first->last_run;
	$first->unblock;
	$first->wait_for_success_after($run);
	is($first->sql(q(SELECT status FROM anomaly.health WHERE name = 'slow_v')), 'ok', 'and is well again when its source is quick');
};

$node->stop;
done_testing();
