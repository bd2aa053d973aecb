# A server with fifty databases, ten of them with detectors: nobody stays in the others, and each of the ten gets its turn.
use strict;
use warnings;
use AnomalyNode;
use Test::More;

my $DATABASES = 50;
my $BUSY = 10;
my $node = AnomalyNode->start_new('many', create => 0, conf => <<'CONF');
anomaly_detection.max_workers = 2
anomaly_detection.linger_ms = 0
CONF
$node->psql('postgres', 'ALTER DATABASE template1 CONNECTION LIMIT -1');

# One is set up, the others are copies of it; a copy is paused until somebody resumes it.
$node->safe_psql('postgres', 'CREATE DATABASE busy_1');
$node->safe_psql('busy_1', q{
	CREATE EXTENSION anomaly_detection;
	CREATE TABLE reading AS SELECT now() - i * interval '1 minute' AS at, (i * 7 % 11)::double precision AS v FROM generate_series(1, 100) i;
	SELECT anomaly.watch('reading', value => 'v', at => 'at', strategy => 'mad', every => '1 second', name => 'd');
	SELECT anomaly.pause()});
$node->wait_for_idle('busy_1');
$node->safe_psql('postgres', "CREATE DATABASE busy_$_ TEMPLATE busy_1") for 2 .. $BUSY;
$node->safe_psql('postgres', "CREATE DATABASE plain_$_") for $BUSY + 1 .. $DATABASES;
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_database WHERE datname ~ '^(busy|plain)_'}), $DATABASES, "$DATABASES databases");
$node->safe_psql("busy_$_", 'SELECT anomaly.resume()') for 1 .. $BUSY;

sub runs { my ($database) = @_; return $node->safe_psql($database, q{SELECT count(*) FROM anomaly.runs WHERE status = 'succeeded'}); }

subtest 'fault_s11_every_database_has_its_turn' => sub {
	my @before = map { runs("busy_$_") } 1 .. $BUSY;
	for my $i (1 .. $BUSY)
	{
		$node->wait_until("SELECT count(*) >= $before[$i - 1] + 3 FROM anomaly.runs WHERE status = 'succeeded'", "busy_$i never runs", "busy_$i");
	}
	my @runs = sort { $a <=> $b } map { runs("busy_$_") - $before[ $_ - 1 ] } 1 .. $BUSY;
	cmp_ok($runs[0], '>=', 3, 'each has run');
	cmp_ok($runs[-1], '<=', 5 * $runs[0], "none has had much more than its share: @runs");
};

subtest 'fault_s11_no_worker_in_databases_without_the_extension' => sub {
	# Looked at over a while; each has been visited once, when it was new.
	$node->safe_psql('postgres', 'CREATE TABLE seen (datname name)');
	$node->safe_psql('postgres', q{DO $$ BEGIN FOR i IN 1 .. 100 LOOP
		INSERT INTO seen SELECT datname FROM pg_stat_activity WHERE backend_type LIKE 'anomaly_detection%' AND datname IS NOT NULL;
		PERFORM pg_sleep(0.05), pg_stat_clear_snapshot(); END LOOP; END $$});
	is($node->safe_psql('postgres', q{SELECT count(*) FROM seen WHERE datname LIKE 'plain%'}), '0', 'none of our processes is in any of them');
	cmp_ok($node->safe_psql('postgres', q{SELECT count(DISTINCT datname) FROM seen WHERE datname LIKE 'busy%'}), '>=', 2, 'while they work elsewhere');
	cmp_ok(scalar($node->workers('scan worker')), '<=', 2, 'at most two scan workers');
	$node->safe_psql('postgres', 'DROP DATABASE plain_50');
	$node->safe_psql('postgres', 'CREATE DATABASE plain_50 TEMPLATE plain_49');
	pass('they can be dropped and copied');
	is($node->safe_psql('busy_1', q{SELECT max_workers, workers <= 2, visits > 0 FROM anomaly.scheduler}), '2|t|t', 'the view of the scheduler counts');
	# Ten want two places each second: whom a visit finds without one is up to the machine.
	my $starved = 0;
	for (1 .. 60)
	{
		$starved = grep { $node->safe_psql("busy_$_", 'SELECT starved > 0 FROM anomaly.scheduler') eq 't' } 1 .. $BUSY;
		last if $starved;
		sleep 1;
	}
	cmp_ok($starved, '>', 0, '... and due work that has found no worker');
};

subtest 'fault_s11_restart' => sub {
	$node->restart;
	my @before = map { runs("busy_$_") } 1 .. $BUSY;
	for my $i (1 .. $BUSY)
	{
		$node->wait_until("SELECT count(*) > $before[$i - 1] FROM anomaly.runs WHERE status = 'succeeded'", "busy_$i does not go on", "busy_$i");
	}
	pass('all go on after a restart');
};

$node->stop;
done_testing();
