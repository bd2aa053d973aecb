# fault_p12_soak: processes are killed at random for minutes while readings come in, and whatever dies: each incident is one
# alert, each alert is told once, no run stays 'running', and neither memory nor files nor shared memory are lost.
#
# ANOMALY_SOAK_SECONDS is for how long, 120 by default; bench/soak runs it for half an hour. ANOMALY_SEED repeats its choices.
use strict;
use warnings;
use AnomalyNode;
use List::Util qw(max sum);
use PostgreSQL::Test::Utils;
use Readings;
use Test::More;
use Time::HiRes qw(time sleep);

my $seconds = $ENV{ANOMALY_SOAK_SECONDS} || 120;
my $seed = $ENV{ANOMALY_SEED} || int(time * 1000) % 1_000_000;
srand $seed;
diag "ANOMALY_SEED=$seed, $seconds seconds";

my $node = AnomalyNode->start_new('soak', conf => <<'CONF');
anomaly_detection.launcher_naptime_ms = 100
anomaly_detection.linger_ms = 3000
anomaly_detection.crash_wait_ms = 300
anomaly_detection.max_consecutive_failures = 1000
dynamic_shared_memory_type = mmap
CONF
my @alice = Readings::as('alice');
Readings::create($node);
$node->safe_psql('postgres', 'CREATE ROLE alice LOGIN; GRANT SELECT, INSERT ON reading TO alice; CREATE SCHEMA told AUTHORIZATION alice');
$node->safe_psql('postgres', q{
	CREATE TABLE told.message (alert int8, sequence int, transition text);
	CREATE FUNCTION told.write(alert jsonb) RETURNS void LANGUAGE sql AS $$ INSERT INTO told.message SELECT (alert ->> 'id')::int8, (alert ->> 'sequence')::int, alert ->> 'transition' $$;
	SELECT anomaly.create_handler('writes', 'function', 'told.write', '{"transitions": ["opened", "resolved"]}');
	SELECT anomaly.watch('reading', value => 'value', at => 'at', entity => 'entity', every => '1 second', settle => '1 second', strategy => 'zscore', threshold => 8, name => 'watched');
	SELECT anomaly.watch('reading', value => 'value', at => 'at', entity => 'entity', every => '1 second', settle => '1 second', strategy => 'auto', name => 'other');
}, @alice);
Readings::twin($node, 'watched', 'alice');

# What the server has at hand: kB of the launcher, its open files, and segments of shared memory.
sub holdings
{
	my ($launcher) = $node->workers('launcher');
	return if !defined $launcher || !-d "/proc/$launcher";
	my ($rss) = slurp_file("/proc/$launcher/status") =~ /VmRSS:\s+(\d+)/;
	my @files = eval { glob "/proc/$launcher/fd/*" };
	my @segments = glob $node->data_dir . '/pg_dynshmem/mmap.*';
	return { pid => $launcher, rss => $rss, files => scalar @files, segments => scalar @segments };
}

# One process of a kind, ended if it is to be. A dispatcher lives for a moment only.
$node->safe_psql('postgres', q{
	CREATE FUNCTION find(kind text, terminate boolean) RETURNS integer LANGUAGE plpgsql AS $$
	DECLARE
		found_pid integer;
	BEGIN
		FOR attempt IN 1 .. 1000 LOOP
			SELECT pid INTO found_pid FROM pg_stat_activity WHERE backend_type = 'anomaly_detection ' || kind ORDER BY random() LIMIT 1;
			EXIT WHEN FOUND AND (NOT terminate OR pg_terminate_backend(found_pid));
			found_pid := NULL;
			PERFORM pg_sleep(0.001), pg_stat_clear_snapshot();
		END LOOP;
		RETURN found_pid;
	END $$});

my %killed;
# A scan worker, the dispatcher or the launcher ends as pg_terminate_backend ends it, or with SIGKILL, which restarts the whole
# server; or the server goes down.
sub strike
{
	my $dice = rand;
	if ($dice < 0.08)
	{
		my $mode = rand() < 0.5 ? 'immediate' : 'fast';
		$node->stop($mode);
		$node->start;
		return "server, $mode";
	}
	my $kind = $dice < 0.6 ? 'scan worker' : $dice < 0.8 ? 'dispatcher' : 'launcher';
	my $hard = $kind eq 'scan worker' && rand() < 0.25;
	my $pid = $node->safe_psql('postgres', "SELECT find('$kind', " . ($hard ? 'false' : 'true') . ')');
	return if $pid eq '';
	if ($hard)
	{
		kill 'KILL', $pid or return;
		$node->poll_query_until('postgres', 'SELECT true') or die 'the server does not come back';
		return 'scan worker, SIGKILL';
	}
	return $kind;
}

my ($incidents, $next_incident, $began) = (0, 0, time);
my (@before, @after);
# The quick ones among the first seconds are not looked at: caches fill.
my $settled = $began + max(10, $seconds / 6);
while (time < $began + $seconds)
{
	if (time >= $next_incident)
	{
		Readings::insert_incident($node, $Readings::ENTITIES[ rand @Readings::ENTITIES ], 5000 + int rand 1000, 3 + rand);
		$incidents++;
		$next_incident = time + 5 + rand 4;
	}
	sleep 0.3 + rand 1.5;
	my $kind = strike();
	$killed{$kind}++ if defined $kind;
	my $holdings = holdings();
	push @{ time < $settled ? \@before : \@after }, $holdings if $holdings;
}
diag join ', ', map { "$_: $killed{$_}" } sort keys %killed;
cmp_ok(sum(values %killed), '>=', $seconds / 6, 'fault_p12_power: ' . sum(values %killed) . " processes were killed within $incidents incidents");

$node->wait_until(q{SELECT bool_and(watermark >= (SELECT max(at) FROM reading)) FROM anomaly.detectors WHERE detector IN ('watched', 'other')}, 'everything is judged');
$node->wait_until(q{SELECT count(*) = 0 FROM anomaly.deliveries}, 'everything is told');
$node->safe_psql('postgres', q{SELECT anomaly.disable('watched'), anomaly.disable('other')}, @alice);
$node->wait_for_idle;
is($node->safe_psql('postgres', q{SELECT run_id, status FROM anomaly.runs WHERE status NOT IN ('succeeded', 'cancelled', 'crashed')}), '', 'fault_p12_no_run_is_stuck: nor has one failed');
is($node->safe_psql('postgres', q{SELECT run_id FROM anomaly.run WHERE status = 'running'}), '', '... in the table neither');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'}), '0', '... and no lock is left');
my $alerts = Readings::is_as_undisturbed($node, 'watched', 'fault_p12_alerts_are_those_of_an_undisturbed_scan', 'alice');
is($alerts, $incidents, "... one for each of the $incidents incidents");
is($node->safe_psql('postgres', q{SELECT a.id FROM anomaly.alerts a WHERE detector IN ('watched', 'other')
		AND (SELECT string_agg(transition, ' ' ORDER BY sequence) FROM told.message WHERE alert = a.id) IS DISTINCT FROM CASE status WHEN 'open' THEN 'opened' ELSE 'opened resolved' END}), '',
	'fault_p12_told_once: of each alert its beginning and its end');
is($node->safe_psql('postgres', q{SELECT alert, sequence FROM told.message GROUP BY 1, 2 HAVING count(*) > 1}), '', '... none twice');

# Of the launchers that lived long enough to be seen twice: none grows.
my %by_pid;
push @{ $by_pid{ $_->{pid} } }, $_ for @after;
my @grown = grep { my @seen = @{ $by_pid{$_} }; @seen > 1 && ($seen[-1]{rss} - $seen[0]{rss} > 2048 || $seen[-1]{files} > $seen[0]{files} + 2) } keys %by_pid;
is(scalar @grown, 0, 'fault_p12_no_leak: no launcher grows by memory or files') or diag explain [ @by_pid{@grown} ];
my ($most_before, $most_after) = map { my $of = $_; max(map { $_->{rss} } @$of) // 0 } \@before, \@after;
cmp_ok($most_after, '<=', $most_before + 4096, "... nor the next one by what the last has left ($most_before, then $most_after kB)") if @before;
my @segments = map { $_->{segments} } @after;
cmp_ok($segments[-1] // 0, '<=', ($segments[0] // 0) + 2, '... and shared memory is given back');
my $errors = () = slurp_file($node->logfile) =~ /PANIC|TRAP:|could not be recorded/g;
is($errors, 0, 'nothing worse in the log');
$node->stop;
done_testing();
