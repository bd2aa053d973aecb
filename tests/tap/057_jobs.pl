# Jobs in background workers: done as the owner beside the scans, cancelled, cut off when they take too long, and what
# becomes of one whose worker, or whose server, ends in the middle.
use strict;
use warnings;
use AnomalyNode;
use SlowDetector;
use Test::More;

$SIG{PIPE} = 'IGNORE';
my $node = AnomalyNode->start_new('jobs', conf => 'anomaly_detection.max_consecutive_failures = 1000');
my $slow = SlowDetector->new($node);
# As its detector does, this one reads a source that takes as long as the test wants, but nobody scans it by itself.
$slow->sql(<<'SQL');
SET SESSION AUTHORIZATION watcher;
CREATE TABLE watched.job_nap (seconds float8);
INSERT INTO watched.job_nap VALUES (0);
CREATE VIEW watched.job_source AS SELECT at, v FROM watched.reading WHERE (SELECT s IS NOT NULL FROM watched.job_nap, pg_sleep(seconds) s);
SELECT anomaly.create_detector('data_outlier', 'mad', 'v', source => 'watched.job_source', value => 'v', at => 'at', name => 'job_v');
SQL

sub submit { return $slow->sql(qq{SET SESSION AUTHORIZATION watcher; SELECT anomaly.submit('$_[0]', '{"detector": "job_v"}')}); }
sub status { return $slow->sql("SELECT status FROM anomaly.jobs WHERE job_id = $_[0]"); }
sub wait_for { return $slow->wait_until("SELECT status = '$_[1]' FROM anomaly.jobs WHERE job_id = $_[0]", "the job is not $_[1]"); }
sub nap { return $slow->sql("UPDATE watched.job_nap SET seconds = $_[0]"); }

# Submits a training that sleeps; its number and its worker's pid.
sub sleeping_job
{
	nap(600);
	my $job = submit('train');
	$slow->wait_until("SELECT EXISTS (SELECT FROM anomaly.jobs j JOIN anomaly.job p USING (job_id) JOIN pg_stat_activity a ON a.pid = p.pid
		WHERE job_id = $job AND j.status = 'running' AND a.wait_event = 'PgSleep')", 'no job is sleeping');
	# it has read for how long; later ones are quick
	nap(0);
	return ($job, $slow->sql("SELECT pid FROM anomaly.job WHERE job_id = $job"));
}

subtest 'done by the owner\'s worker' => sub {
	my $runs = $slow->last_run;
	my @jobs = map { submit($_) } qw(train backtest_summary scan);
	wait_for($_, 'succeeded') for @jobs;
	is($slow->sql("SELECT anomaly.job_result($jobs[0])->>'status', anomaly.job_result($jobs[2])->>'status'"), 'active|succeeded', 'with their results');
	$slow->wait_for_success_after($runs);
	pass('and the owner\'s detectors are scanned as well');
	is($slow->sql(q(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2603)), '0', 'no lock is left');
	# submitted by an administrator, as who could not read the source
	$node->safe_psql('postgres', 'CREATE ROLE manager LOGIN IN ROLE anomaly_admin');
	my $job = $slow->sql(q{SET SESSION AUTHORIZATION manager; SELECT anomaly.submit('train', '{"detector": "job_v"}')});
	wait_for($job, 'succeeded');
	is($slow->sql("SELECT owner, submitted_by FROM anomaly.jobs WHERE job_id = $job"), 'watcher|manager', 'for an administrator it runs as the owner');
};

subtest 'check_jobs_cancel' => sub {
	my ($job, $pid) = sleeping_job();
	my $waiting = submit('scan');
	is($slow->sql("SELECT count(*) FROM pg_stat_activity WHERE pid = $pid AND query = 'train (job $job)' AND usename = 'watcher'"), '1', 'the process says what it is at');
	is($slow->sql("SET SESSION AUTHORIZATION watcher; SELECT anomaly.cancel_job($waiting)"), 't', 'one that waits is cancelled');
	is($slow->sql("SET SESSION AUTHORIZATION watcher; SELECT anomaly.cancel_job($job)"), 't', 'and one that is at work');
	wait_for($job, 'cancelled');
	is(status($waiting), 'cancelled', 'the other never began');
	wait_for(submit('train'), 'succeeded');
	unlike(PostgreSQL::Test::Utils::slurp_file($node->logfile), qr/scan worker" \(PID $pid\) exited with exit code 1/, 'and the worker goes on');
};

subtest 'job_time_limit' => sub {
	$node->append_conf('postgresql.conf', 'anomaly_detection.job_time_limit = 500');
	$node->reload;
	# a worker reads the setting between two jobs
	wait_for(submit('scan'), 'succeeded');
	my ($job) = sleeping_job();
	wait_for($job, 'failed');
	like($slow->sql("SELECT error_message FROM anomaly.jobs WHERE job_id = $job"), qr/^took longer than anomaly_detection.job_time_limit \(500 ms\)$/, 'it says why');
	$node->append_conf('postgresql.conf', 'anomaly_detection.job_time_limit = 0');
	$node->reload;
	wait_for(submit('train'), 'succeeded');
};

subtest 'told to end' => sub {
	my ($job, $pid) = sleeping_job();
	$slow->sql("SELECT pg_terminate_backend($pid)");
	wait_for($job, 'succeeded');
	is($slow->sql("SELECT pid <> $pid FROM anomaly.job WHERE job_id = $job"), 't', 'another worker has done it from the beginning');

	($job) = sleeping_job();
	my $waiting = submit('scan');
	$node->stop('fast');
	$node->start;
	wait_for($_, 'succeeded') for $job, $waiting;
	pass('what was at work and what waited are done after a restart');
};

subtest 'fault_p1_kill_worker_in_a_job' => sub {
	my ($job, $pid) = sleeping_job();
	my $waiting = submit('scan');
	my $version = $slow->sql(q(SELECT model_version FROM anomaly.detectors WHERE detector = 'job_v'));
	is(kill('KILL', $pid), 1, 'the worker is killed');
	$node->wait_until("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid) AND NOT pg_is_in_recovery()", 'the server is back');
	is(status($job), 'crashed', 'the job is shown as crashed at once');
	wait_for($waiting, 'succeeded');
	$slow->wait_until("SELECT status = 'crashed' AND finished_at IS NOT NULL FROM anomaly.job WHERE job_id = $job", 'it is not recorded');
	is($node->sqlstate("SELECT anomaly.job_result($job)"), '55000', 'its result says so');
	is($slow->sql(q(SELECT model_version FROM anomaly.detectors WHERE detector = 'job_v')), $version, 'nothing of its work is left, and it is not done again');
	wait_for(submit('train'), 'succeeded');
};

subtest 'an owner that no worker can be' => sub {
	$node->wait_for_idle;
	$slow->sql('ALTER ROLE watcher NOLOGIN');
	my $job = $slow->sql(q{INSERT INTO anomaly.job (owner, submitted_by, kind, detector, args) VALUES ('watcher', 'watcher', 'scan', 'job_v', '{"detector": "job_v"}') RETURNING job_id});
	# whoever submits one gets an error; this one was submitted before
	$slow->sql('SELECT anomaly.resume()');
	if ($node->safe_psql('postgres', 'SHOW server_version_num') < 170000)
	{
		is($node->sqlstate(q{SET ROLE watcher; SELECT anomaly.submit('scan', '{"detector": "job_v"}')}), '55000', 'it is refused');
		wait_for($job, 'failed');
		like($slow->sql("SELECT error_message FROM anomaly.jobs WHERE job_id = $job"), qr/may not log in/, 'and one that waits has failed');
		is($slow->sql(q(SELECT problem || ': ' || hint FROM anomaly.health WHERE name = 'slow_v')), q(owner without login: ALTER ROLE watcher LOGIN; SELECT anomaly.enable('slow_v')), 'the health view says what to type');
	}
	else
	{
		wait_for($job, 'succeeded');
		pass('one that may not log in can work all the same');
	}
};

$node->stop;
done_testing();
