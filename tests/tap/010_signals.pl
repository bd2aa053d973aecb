# What our processes do when somebody signals them: they obey as quickly as any backend, and come back.
use strict;
use warnings;
use AnomalyNode;
use SlowDetector;
use Time::HiRes qw(time usleep);
use Test::More;

# Whether a process is running: one whose parent has not yet asked for its exit status is not.
sub runs
{
	my ($pid) = @_;
	open(my $stat, '<', "/proc/$pid/stat") or return 0;
	my $line = <$stat> // '';
	close $stat;
	return $line =~ /^\d+ \(.*\) [^ZX]/;
}

my $node = AnomalyNode->start_new('signals');
my $slow = SlowDetector->new($node);

subtest 'fault_p5_cancel_scan' => sub {
	my $pid = $slow->block;
	my $run = $slow->sql(q(SELECT run_id FROM anomaly.progress WHERE detector = 'slow_v'));
	$slow->unblock;
	my $began = time;
	$slow->sql("SELECT pg_cancel_backend($pid)");
	$slow->wait_until("SELECT status = 'cancelled' FROM anomaly.runs WHERE run_id = $run", 'the run is not cancelled');
	my $took = time - $began;
	note sprintf 'cancelled after %.2f s', $took;
	cmp_ok($took, '<', 120, 'the scan ends although it would sleep for ten minutes');
	is($slow->sql("SELECT error_code || ' ' || error_message FROM anomaly.runs WHERE run_id = $run"), '57014 cancelled by user', 'its run says why');
	is($slow->sql(q(SELECT consecutive_failures FROM anomaly.detectors WHERE detector = 'slow_v')), '0', 'it is no failure');
	$slow->wait_for_success_after($run);
	pass('and the next one succeeds');
};

subtest 'fault_p6_terminate_launcher' => sub {
	my ($launcher) = $node->workers('launcher');
	my $run = $slow->last_run;
	$slow->sql("SELECT pg_terminate_backend($launcher)");
	$node->wait_until("SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'anomaly_detection launcher' AND pid <> $launcher",
		'the launcher does not come back');
	$slow->wait_for_success_after($run);
	$node->wait_until(q(SELECT status = 'ok' FROM anomaly.health WHERE kind = 'system'), 'the scheduler stays unhealthy');
	pass('the scheduler is healthy again');
};

subtest 'fault_p6_terminate_dispatcher' => sub {
	# A dispatcher that waits for a lock on our tables lives long enough to be caught.
	my $locker = $node->background_psql('postgres');
	$locker->query_safe('BEGIN; LOCK TABLE anomaly.setting');
	$node->wait_until(q(SELECT EXISTS (SELECT FROM pg_stat_activity a JOIN pg_locks l USING (pid)
		WHERE backend_type = 'anomaly_detection dispatcher' AND NOT granted)), 'no dispatcher is waiting');
	my $run = $slow->last_run;
	$slow->sql(q(SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'anomaly_detection dispatcher'));
	$locker->query_safe('COMMIT');
	$locker->quit;
	$slow->wait_for_success_after($run);
	pass('another dispatcher takes over');
};

subtest 'terminate_scan_worker' => sub {
	my $pid = $slow->block;
	my $run = $slow->sql(q(SELECT run_id FROM anomaly.progress WHERE detector = 'slow_v'));
	$slow->unblock;
	$slow->sql("SELECT pg_terminate_backend($pid)");
	$slow->wait_until("SELECT status = 'cancelled' FROM anomaly.runs WHERE run_id = $run", 'the run is not cancelled');
	is($slow->sql("SELECT error_message FROM anomaly.runs WHERE run_id = $run"), 'cancelled (shutdown)', 'its run says why');
	$slow->wait_for_success_after($run);
	pass('another worker takes over');
};

for my $mode (qw(fast smart))
{
	subtest "fault_p3_stop_$mode" => sub {
		$slow->block;
		my $run = $slow->sql(q(SELECT run_id FROM anomaly.progress WHERE detector = 'slow_v'));
		my $began = time;
		$node->stop($mode);
		my $took = time - $began;
		note sprintf 'stopped after %.2f s', $took;
		cmp_ok($took, '<', 120, 'the server stops although a scan sleeps for ten minutes');
		$node->start;
		$slow->unblock;
		is($slow->sql("SELECT status || ' ' || error_code || ' ' || error_message FROM anomaly.runs WHERE run_id = $run"),
			'cancelled 57P01 cancelled (shutdown)', 'its run says why');
		is($slow->sql(q(SELECT consecutive_failures FROM anomaly.detectors WHERE detector = 'slow_v')), '0', 'it is no failure');
		$slow->wait_for_success_after($run);
	};
}

subtest 'fault_p9_kill_postmaster' => sub {
	$slow->block;
	my @workers = $node->workers;
	cmp_ok(scalar(@workers), '>=', 2, 'a launcher and a scan worker are there');
	# A query that computes does not notice the postmaster's death by itself.
	my $busy = SlowDetector::spin($slow);
	push @workers, $busy;
	my $began = time;
	$node->kill9;
	my @left = @workers;
	while (@left && time - $began < 120)
	{
		usleep(10_000);
		my @gone = grep { !runs($_) } @left;
		note sprintf 'process %d was gone after %.2f s', $_, time - $began for @gone;
		@left = grep { runs($_) } @left;
	}
	note sprintf 'all gone after %.2f s', time - $began;
	is("@left", '', 'all processes end with the postmaster');
};

done_testing();
