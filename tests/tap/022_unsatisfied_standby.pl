# synchronous_standby_names that no standby satisfies: detectors go on, and a fast shutdown does not hang.
use strict;
use warnings;
use AnomalyNode;
use Readings;
use Test::More;
use Time::HiRes qw(time);

my $node = AnomalyNode->start_new('unsatisfied', allows_streaming => 1, conf => 'anomaly_detection.scan_lock_timeout_ms = 60000');
Readings::create($node);
$node->safe_psql('postgres', q{
	CREATE FUNCTION held_up(value double precision) RETURNS double precision LANGUAGE plpgsql AS
	$$ BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN value; END $$;
	CREATE VIEW feed AS SELECT at, entity, held_up(value) AS value FROM reading;
	SELECT anomaly.watch('feed', value => 'value', at => 'at', entity => 'entity', every => '1 second', settle => '0 seconds',
	                     strategy => 'zscore', threshold => 6, name => 'cpu');
});
Readings::twin($node, 'cpu');
$node->wait_until(q{SELECT EXISTS (SELECT FROM anomaly.runs WHERE status = 'succeeded')}, 'the detector runs');

$node->append_conf('postgresql.conf', q{synchronous_standby_names = 'nobody'});
$node->reload;
my $waiter = $node->background_psql('postgres');
$waiter->query_until(qr/sent/, "\\echo sent\nCREATE TABLE waits_for_nobody (i int);\n");
$node->wait_until(q{SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep')}, 'an ordinary commit waits');
pass('fault_p4_power: an ordinary commit waits for the standby');

{
	local $ENV{PGOPTIONS} = '-c synchronous_commit=local';
	Readings::insert_incident($node, 'a', 150, 3);
}
$node->wait_for_alert('cpu', q{entity = 'a' AND status = 'resolved'});
is($node->safe_psql('postgres', q{SELECT points FROM anomaly.alerts WHERE detector = 'cpu'}), '2',
	'fault_p4_scans_go_on: an incident is alerted although no commit is acknowledged');

# The shutdown finds a run in its middle.
my $holder = $node->background_psql('postgres');
$holder->query_safe('SELECT pg_advisory_lock(1)');
{
	local $ENV{PGOPTIONS} = '-c synchronous_commit=local';
	Readings::insert_incident($node, 'd', 450, 3);
}
$node->wait_until(q{SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'anomaly_detection scan worker' AND wait_event = 'advisory')},
	'a run is under way');
my $run = $node->safe_psql('postgres', q{SELECT run_id FROM anomaly.runs WHERE status = 'running'});
my $began = time;
my $stopped = do { local $ENV{PGCTLTIMEOUT} = 120; $node->stop('fast', fail_ok => 1) };
my $took = sprintf '%.1f', time - $began;
ok($stopped, "fault_p4_fast_stop: the server stopped, in $took s");
eval { $_->quit } for $holder, $waiter;
$node->stop('immediate') unless $stopped;

$node->adjust_conf('postgresql.conf', 'synchronous_standby_names', q{''});
$node->start;
is($node->safe_psql('postgres', qq{SELECT status, error_message FROM anomaly.runs WHERE run_id = $run}), 'cancelled|cancelled (shutdown)',
	'the run that it ended is recorded as cancelled');
$node->wait_for_alert('cpu', q{entity = 'd' AND status = 'resolved'});
is($node->safe_psql('postgres', q{SELECT consecutive_failures FROM anomaly.detectors WHERE detector = 'cpu'}), '0', '... and not counted as a failure');
Readings::is_as_undisturbed($node, 'cpu', 'the alerts are those of an undisturbed run');
$node->stop;
done_testing();
