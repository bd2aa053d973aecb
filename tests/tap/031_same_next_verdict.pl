# Whatever stops it, a detector goes on as if nothing had been: for every strategy the alerts and states after scans
# with restarts and a crash between them, and those of a restored copy, are those of one scan that nothing disturbed.
use strict;
use warnings;
use AnomalyNode;
use EveryStrategy;
use Readings;
use PostgreSQL::Test::Utils;
use Test::More;

# Without workers: nothing but the calls below scans.
my $node = AnomalyNode->start_new('original', preload => 0);
my $copy = AnomalyNode->start_new('restored', preload => 0, create => 0);
EveryStrategy::create($node, 'calm', 'spike', 'shift', 'flat');
EveryStrategy::by_hand($node, $_) for 'cut', 'whole';
my @strategies = EveryStrategy::strategies($node);
is($node->safe_psql('postgres', q{SELECT count(*) FROM anomaly.detectors WHERE status = 'active'}), 2 * @strategies,
	"two detectors each of @strategies");

# Points $from to $from + 39 of each entity, a millisecond apart from now on; returns when they are in the past.
sub insert
{
	my ($from, @nodes) = @_;
	my $begin = $nodes[0]->safe_psql('postgres', 'SELECT clock_timestamp()');
	$_->safe_psql('postgres', qq{INSERT INTO metric
		SELECT timestamptz '$begin' + (k - $from) * interval '1 millisecond', e.name,
		CASE e.name WHEN 'spike' THEN 100 + ((k * k + 7 * k) % 401 - 200) / 100.0 + CASE WHEN k % 25 = 11 THEN 60 + k ELSE 0 END
		            WHEN 'shift' THEN 100 + ((k * k + 3 * k) % 401 - 200) / 100.0 + CASE WHEN k > 30 THEN 30 ELSE 0 END
		            WHEN 'flat' THEN CASE WHEN k > 20 THEN 100.5 ELSE 100 + ((k * k + 5 * k) % 401 - 200) / 100.0 END
		            ELSE 100 + ((k * k) % 401 - 200) / 100.0 END
		FROM generate_series($from, $from + 39) k, (VALUES ('calm'), ('spike'), ('shift'), ('flat')) e (name)}) for @nodes;
	sleep 1;
	return;
}

sub scan
{
	my ($on, $prefix) = @_;
	$on->safe_psql('postgres', "SELECT anomaly.scan('${prefix}_$_')") for @strategies;
	return;
}

insert(0, $node);
scan($node, 'cut');
$node->restart;
insert(40, $node);
scan($node, 'cut');
$node->stop('immediate');
$node->start;

my $dir = PostgreSQL::Test::Utils::tempdir;
$node->command_ok([ 'pg_dumpall', '--roles-only', '-f', "$dir/roles.sql" ], 'dump of the roles');
$node->command_ok([ 'pg_dump', '-Fc', '-f', "$dir/dump", 'postgres' ], 'pg_dump');
$copy->psql('postgres', slurp_file("$dir/roles.sql"), on_error_stop => 0);
$copy->safe_psql('template1', 'DROP DATABASE postgres');
$copy->safe_psql('template1', 'CREATE DATABASE postgres TEMPLATE template0');
$copy->command_ok([ 'pg_restore', '--exit-on-error', '-d', 'postgres', "$dir/dump" ], 'pg_restore');
$copy->safe_psql('postgres', 'SELECT anomaly.resume()');

# Both go on: 40 points, a last scan of those that were interrupted, and the only one of the others.
insert(80, $node, $copy);
for my $on ($node, $copy)
{
	scan($on, 'cut');
	is($on->safe_psql('postgres', q{SELECT DISTINCT detector || ': ' || error_message FROM anomaly.runs WHERE status <> 'succeeded'}), '', $on->name . ': no run has failed');
}
scan($node, 'whole');

# States hold the number of an open alert: those of entities without one are compared to the last byte.
sub states
{
	my ($on, $prefix, $strategy) = @_;
	return $on->safe_psql('postgres', qq{SELECT s.entity, s.version, md5(s.payload) FROM anomaly.entity_state s
		JOIN anomaly.model m ON (m.detector, m.version) = (s.detector, s.version) AND m.active
		WHERE s.detector = '${prefix}_$strategy' AND NOT EXISTS (SELECT FROM anomaly.alerts a
		WHERE a.detector = s.detector AND a.entity = s.entity AND a.status IN ('open', 'acknowledged')) ORDER BY s.entity});
}

my $alerts = 0;
for my $strategy (@strategies)
{
	my $whole = Readings::alerts($node, "whole_$strategy");
	my $count = () = $whole =~ /^./mg;
	$alerts += $count;
	is(Readings::alerts($node, "cut_$strategy"), $whole, "same_next_verdict_$strategy: $count alerts after a restart and a crash are those of one scan");
	is(states($node, 'cut', $strategy), states($node, 'whole', $strategy), '... and so are the states');
	is(Readings::alerts($copy, "cut_$strategy"), $whole, "fault_d8_same_next_verdict_$strategy: and those of the restored copy");
	is(states($copy, 'cut', $strategy), states($node, 'cut', $strategy), '... and its states');
}
cmp_ok($alerts, '>=', 3 * @strategies, "power: $alerts alerts in all");
$_->stop for $node, $copy;
done_testing();
