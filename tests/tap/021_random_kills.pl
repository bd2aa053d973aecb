# Killing the scan worker, the dispatcher or the server at 20 random moments while readings come in, some of them late.
# Whatever dies: each reading is judged once, and each incident is one alert, as if nothing had happened.
#
# The readings are made here, from a seed and from nothing that the extension says. ANOMALY_SEED repeats a run's
# choices; where in a scan they strike is up to the machine.
use strict;
use warnings;
use AnomalyNode;
use List::Util qw(max shuffle sum);
use Readings;
use Test::More;
use Time::HiRes qw(time sleep);

my $SETTLE = 6;    # seconds that a reading has to arrive
my $LEAD = 6;      # seconds that readings are ahead of the clock, at most, when they are stored
my $LEAST = 3;     # and at least
my %KILLS = ('server' => 8, 'scan worker' => 8, 'dispatcher' => 4);
my $seed = $ENV{ANOMALY_SEED} || int(time * 1000) % 1_000_000;
srand $seed;
diag "ANOMALY_SEED=$seed";

my $node = AnomalyNode->start_new('kills', conf => <<'CONF');
anomaly_detection.launcher_naptime_ms = 50
anomaly_detection.linger_ms = 0
anomaly_detection.crash_wait_ms = 300
anomaly_detection.max_consecutive_failures = 1000
anomaly_detection.error_alert_after = 1000
CONF

# Reading what is new takes a while, so that most moments are in the middle of a run.
Readings::create($node);
$node->safe_psql('postgres', q{
	CREATE FUNCTION slowly(at timestamptz, value double precision) RETURNS double precision LANGUAGE plpgsql AS
	$$ BEGIN IF at > now() - interval '1 minute' THEN PERFORM pg_sleep(0.004); END IF; RETURN value; END $$;
	CREATE VIEW feed AS SELECT at, entity, slowly(at, value) AS value FROM reading;
	CREATE ROLE other LOGIN;
	GRANT SELECT ON feed, reading TO other;
	-- With those that come when scans have passed their time; it is read twice where any have.
	CREATE TABLE straggler (LIKE reading);
	CREATE VIEW late_reading AS SELECT * FROM reading UNION ALL SELECT * FROM straggler;
	CREATE VIEW late_feed AS SELECT * FROM late_reading WHERE (SELECT pg_sleep(0.1) IS NOT NULL);
	GRANT anomaly_monitor TO other;

	-- Ends one process of a kind, as soon as there is one.
	CREATE FUNCTION strike(kind text) RETURNS integer LANGUAGE plpgsql AS $$
	DECLARE
		victim integer;
	BEGIN
		FOR attempt IN 1 .. 3000 LOOP
			SELECT pid INTO victim FROM pg_stat_activity WHERE backend_type = 'anomaly_detection ' || kind ORDER BY random() LIMIT 1;
			IF FOUND AND pg_terminate_backend(victim) THEN
				RETURN victim;
			END IF;
			PERFORM pg_sleep(0.001), pg_stat_clear_snapshot();
		END LOOP;
		RETURN NULL;
	END $$;
});

# One by the textbook rule, whose alerts can be foretold; one by rate; one of another owner, hence of another worker;
# one that looks back.
my %owner = (by_rule => undef, by_rate => undef, of_other => 'other', of_late => undef);
my %settings = (
	by_rule  => q{strategy => 'zscore', threshold => 8},
	by_rate  => q{strategy => 'mad', alerts_per_day => 50},
	of_other => q{strategy => 'iqr', fire_after => 2, clear_after => 2},
	of_late  => q{strategy => 'zscore', threshold => 8, fire_after => 2, late_window => '30 seconds'});
for my $name (sort keys %owner)
{
	my ($feed, $reading) = $name eq 'of_late' ? ('late_feed', 'late_reading') : ('feed', 'reading');
	$node->safe_psql('postgres', "SELECT anomaly.watch('$feed', value => 'value', at => 'at', entity => 'entity', every => '1 second',
		settle => '$SETTLE seconds', name => '$name', $settings{$name})", Readings::as($owner{$name}));
	Readings::twin($node, $name, $owner{$name}, $reading);
}

# The readings, ten a second for each entity. An incident is 1 to 5 of them, far off to one side; incidents are
# rare, so that the baseline is what it is without them.
my @entities = map { { name => $Readings::ENTITIES[ $_ - 1 ], level => Readings::level($_), quiet => 5 + int rand 60, left => 0 } } 1 .. @Readings::ENTITIES;
my (@incidents, %late);
my ($first_tick, $next_tick, $stored, $stragglers, $too_late, $calm) = (0, 0, 0, 0, 0, 0);

sub reading
{
	my ($entity, $tick) = @_;
	if ($entity->{left} == 0 && $entity->{quiet} == 0 && !$calm)
	{
		$entity->{left} = 1 + int rand 5;
		$entity->{sign} = rand() < 0.5 ? -1 : 1;
		push @incidents, { entity => $entity->{name}, first => $tick, points => 0, far => 0 };
		$entity->{incident} = $incidents[-1];
	}
	if ($entity->{left} > 0)
	{
		my ($incident, $far) = ($entity->{incident}, sprintf '%.3f', 30 + rand 30);
		my $value = sprintf '%.3f', $entity->{level} + $entity->{sign} * $far;
		$incident->{last} = $tick;
		$incident->{points}++;
		($incident->{far}, $incident->{value}) = ($far, $value) if $far > $incident->{far};
		$entity->{quiet} = 40 + int rand 60 if --$entity->{left} == 0;
		return $value;
	}
	$entity->{quiet}-- if $entity->{quiet} > 0;
	return sprintf '%.3f', $entity->{level} - 2 + rand 4;
}

# Stores readings up to $LEAD seconds ahead of the clock. Those for which it is too late are never made.
sub feed
{
	my $first = max($next_tick, int((time + $LEAST) * 10));
	my $last = int((time + $LEAD) * 10);
	return if $last < $first;
	my @rows;
	for my $tick ($first .. $last)
	{
		push @rows, map { "(to_timestamp($tick / 10.0), '$_->{name}', " . reading($_, $tick) . ')' } @entities;
	}
	$node->safe_psql('postgres', 'INSERT INTO reading VALUES ' . join ', ', @rows);
	$too_late++ if time > $first / 10 + $SETTLE;
	$stored += @rows;
	$next_tick = $last + 1;
	$first_tick ||= $first;
	return;
}

# Readings between two others that come when a scan has passed them: usual ones, and spikes that begin, end or join
# incidents. Answers how many.
sub feed_late
{
	my $passed = $node->safe_psql('postgres', q{SELECT floor(extract(epoch FROM watermark) * 10) FROM anomaly.detectors WHERE detector = 'of_late'});
	my @rows;
	for (1 .. 2 + int rand 5)
	{
		my $entity = $entities[ rand @entities ];
		my $tick = $passed - 1 - int rand 150;
		next if $tick < $first_tick || $late{"$entity->{name} $tick"}++;
		my $value = sprintf '%.3f', $entity->{level} + (rand() < 0.6 ? rand(4) - 2 : 30 + rand 30);
		push @rows, "(to_timestamp($tick / 10.0 + 0.05), '$entity->{name}', $value)";
	}
	$node->safe_psql('postgres', 'INSERT INTO straggler VALUES ' . join ', ', @rows) if @rows;
	$stragglers += @rows;
	return scalar @rows;
}

my %killed = map { $_ => 0 } keys %KILLS;
my @order = shuffle map { ($_) x $KILLS{$_} } sort keys %KILLS;
my $CUT = q{SELECT count(*) FROM anomaly.runs WHERE status IN ('crashed', 'cancelled')};
# Where they strike is up to the machine: on some, more are needed to cut enough runs short.
while (@order || $killed{server} < 40 && $node->safe_psql('postgres', $CUT) < 4)
{
	feed();
	sleep rand 1.2;
	feed();
	feed_late();
	my $kind = $order[0] // 'server';
	if ($kind eq 'server')
	{
		# Every other time in the middle of a run, which on a quick machine a random moment seldom is.
		if ($killed{server} % 2)
		{
			for (1 .. 100) { last if $node->safe_psql('postgres', "SELECT EXISTS (SELECT FROM anomaly.runs WHERE status = 'running')") eq 't' }
		}
		$node->stop('immediate');
		$node->start;
	}
	else
	{
		my $pid = $node->safe_psql('postgres', "SELECT strike('$kind')");
		next if $pid eq '';
	}
	shift @order;
	$killed{$kind}++;
	note sprintf 'kill %d: %s at %.3f', sum(values %killed), $kind, time;
}
note join ', ', map { "$_: $killed{$_}" } sort keys %killed;

# However many of them were killed, some scans find what has come late.
my $AGAIN = q{FROM anomaly.runs WHERE detector = 'of_late' AND entities_replayed > 0 AND status = 'succeeded'};
for (1 .. 3)
{
	my $before = $node->safe_psql('postgres', "SELECT count(*) $AGAIN");
	feed();
	sleep 0.2 until feed_late();
	$node->wait_until("SELECT count(*) > $before $AGAIN", 'nobody judges again what has come late');
}

# Quiet readings at the end close the last episodes.
$calm = 1;
feed();
sleep 1;
feed();
$node->wait_until("SELECT count(*) = 4 FROM anomaly.detectors WHERE detector IN ('by_rule', 'by_rate', 'of_other', 'of_late')
	AND watermark >= (SELECT max(at) FROM reading)", 'everything is judged');
$node->safe_psql('postgres', "SELECT anomaly.disable('$_')", Readings::as($owner{$_})) for sort keys %owner;
$node->wait_for_idle;

is($too_late, 0, 'every reading was stored in time');
my $cut = $node->safe_psql('postgres', $CUT);
cmp_ok($cut, '>=', 4, "fault_p2_power: $cut runs were cut short");
is($node->safe_psql('postgres', q{SELECT run_id, status, error_message FROM anomaly.runs WHERE status NOT IN ('crashed', 'cancelled', 'succeeded')}), '',
	'no run has failed or seems to be running');

cmp_ok(scalar @incidents, '>=', 5, 'fault_p2_power: ' . @incidents . " incidents in $stored readings");
my $foretold = join "\n", map { "$_->{entity}|$_->{first}|$_->{last}|$_->{points}|$_->{value}|resolved" }
  sort { $a->{first} <=> $b->{first} || $a->{entity} cmp $b->{entity} } @incidents;
is($node->safe_psql('postgres', q{SELECT entity, round(extract(epoch FROM at) * 10), round(extract(epoch FROM last_at) * 10), points,
		round(value::numeric, 3), status FROM anomaly.alerts WHERE detector = 'by_rule' ORDER BY at, entity}),
	$foretold, 'fault_p2_alerts_are_the_incidents: one alert for each incident, none besides');
my $again = $node->safe_psql('postgres', "SELECT count(*) $AGAIN");
cmp_ok($again, '>=', 3, "fault_p2_power: $again runs judged again what $stragglers readings came late for");
for my $name (sort keys %owner)
{
	my $judged = $stored + ($name eq 'of_late' ? $stragglers : 0);
	Readings::is_as_undisturbed($node, $name, "fault_p2_as_undisturbed: alerts of $name", $owner{$name});
	is($node->safe_psql('postgres', qq{SELECT points_processed,
			(SELECT sum(points_scored) FROM anomaly.runs WHERE detector = '$name' AND status = 'succeeded'),
			(SELECT count(*) FROM (SELECT DISTINCT entity, at FROM anomaly.alerts WHERE detector = '$name') q)
			= (SELECT count(*) FROM anomaly.alerts WHERE detector = '$name')
			FROM anomaly.detectors WHERE detector = '$name'}), "$judged|$judged|t", "fault_p2_no_gap_no_duplicate: $name judged each reading once");
}
$node->stop;
done_testing();
