# A hot standby: nothing runs there, reading works, and scheduling starts at promotion.
use strict;
use warnings;
use AnomalyNode;
use SlowDetector;
use Test::More;

my $primary = AnomalyNode->start_new('primary', allows_streaming => 1);
my $slow = SlowDetector->new($primary);
$slow->wait_for_success_after(0);
$primary->backup('base');
my $standby = AnomalyNode->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;

subtest 'fault_s8_standby' => sub {
	is(scalar($standby->workers), 0, 'no process of ours runs');
	is($standby->safe_psql('postgres', q(SELECT status FROM anomaly.health WHERE kind = 'system')), 'standby', 'the health view says so');
	cmp_ok($standby->safe_psql('postgres', 'SELECT count(*) FROM anomaly.runs'), '>', 0, 'views can be read');
	is($standby->sqlstate('SELECT anomaly.resume()'), '25006', 'what writes says that it cannot');
	is($standby->sqlstate('SET SESSION AUTHORIZATION watcher; CALL anomaly.run_due()'), '25006', 'run_due() too');
	is($standby->sqlstate(q(SET SESSION AUTHORIZATION watcher; SELECT anomaly.scan('slow_v'))), '25006', 'scanning too');
	is($standby->sqlstate(q(SELECT anomaly.watch('watched.reading', value => 'v', at => 'at', strategy => 'mad'))), '25006', 'creating a detector too');
};

subtest 'fault_s8_promotion' => sub {
	# The old primary dies in the middle of a scan, which the standby sees as running for ever.
	$slow->block;
	my $run = $slow->sql(q(SELECT run_id FROM anomaly.progress WHERE detector = 'slow_v'));
	$primary->wait_for_catchup($standby);
	$primary->stop('immediate');
	is($standby->safe_psql('postgres', "SELECT status FROM anomaly.runs WHERE run_id = $run"), 'crashed', 'a run of the old primary shows as crashed');
	$standby->promote;
	my $promoted = bless { node => $standby, database => 'postgres' }, 'SlowDetector';
	$promoted->unblock;
	$promoted->wait_until("SELECT EXISTS (SELECT FROM anomaly.run WHERE run_id = $run AND status = 'crashed')", 'the run is not cleared up');
	$promoted->wait_for_success_after($run);
	pass('scheduling starts');
};

$standby->stop;
done_testing();
