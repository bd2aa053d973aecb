# Deterministic readings that know nothing of the detectors that watch them, and how alert sets are compared.
#
#   Readings::create($node);             # table reading: at, entity, value, with an hour of history
#   Readings::insert($node, [$offset, $entity, $value], ...);    # at = now + $offset seconds; far enough ahead that
#                                                                # no scan can have passed it when it is stored
#   Readings::twin($node, 'cpu');        # detector cpu_twin: the same settings, but nothing ever scans it by itself
#   Readings::is_as_undisturbed($node, 'cpu', $title);           # after one scan of the twin
# The last two take the detector's owner as one more argument, if it is not the superuser; the twin then what it reads
# instead of reading.
package Readings;
use strict;
use warnings;
use Test::More;

our @ENTITIES = ('a', 'b', 'c', 'd');

# What entity number $i (from 1) usually reads, give or take 2.
sub level { my ($i) = @_; return 100 * $i; }

# An hour of history up to 15 seconds ago: every 10 seconds, a different pattern for each entity.
sub create
{
	my ($node, $database) = @_;
	my $entities = join ', ', map { "($_, '$ENTITIES[$_ - 1]')" } 1 .. @ENTITIES;
	$node->safe_psql($database // 'postgres', qq{
		CREATE TABLE reading (at timestamptz NOT NULL, entity text NOT NULL, value double precision NOT NULL);
		CREATE INDEX reading_at ON reading (at);
		INSERT INTO reading
		SELECT now() - interval '15 seconds' - (360 - i) * interval '10 seconds', e.name,
		       100 * e.number + ((i * 7919 + e.number * 104729) % 401 - 200) / 100.0
		  FROM generate_series(1, 360) i, (VALUES $entities) e (number, name);
	});
	return;
}

sub insert
{
	my ($node, @rows) = @_;
	my $values = join ', ', map { sprintf "(now() + interval '%.6f seconds', '%s', %s)", @$_ } @rows;
	$node->safe_psql('postgres', "INSERT INTO reading VALUES $values");
	return;
}

# An incident of two points in one entity and quiet ones around it, $offset seconds from now.
sub insert_incident
{
	my ($node, $entity, $value, $offset) = @_;
	my ($i) = grep { $ENTITIES[ $_ - 1 ] eq $entity } 1 .. @ENTITIES;
	my @rows;
	for my $step (0 .. 6)
	{
		for my $k (1 .. @ENTITIES)
		{
			my $v = $k == $i && ($step == 2 || $step == 3) ? $value + $step : level($k) + $step / 10;
			push @rows, [ $offset + $step / 100 + $k / 10000, $ENTITIES[ $k - 1 ], $v ];
		}
	}
	insert($node, @rows);
	return;
}

my $SETTINGS = 'anomaly_type, strategy, metric_name, value_column, at_column, entity_column, settle, training_window, min_data_points,
	threshold, alerts_per_day, fire_after, clear_after, max_entities, params';

# Made beside its original, before there is anything to scan, and trained on the same rows. It reads table
# reading itself, so that whatever slows the original's source does not slow it.
sub twin
{
	my ($node, $detector, $owner, $source) = @_;
	$source //= 'reading';
	$node->safe_psql('postgres', qq{
		SELECT anomaly.create_detector(d.anomaly_type, d.strategy, d.metric_name, source => '$source', value => d.value_column,
		       at => d.at_column, entity => d.entity_column, settle => d.settle, training_window => d.training_window,
		       min_data_points => d.min_data_points, threshold => d.threshold, alerts_per_day => d.alerts_per_day,
		       fire_after => d.fire_after, clear_after => d.clear_after, max_entities => d.max_entities, params => d.params,
		       name => d.detector || '_twin')
		  FROM anomaly.detectors d WHERE d.detector = '$detector';
		SELECT anomaly.train('${detector}_twin');
	}, as($owner));
	is($node->safe_psql('postgres', "SELECT count(*) FROM (SELECT DISTINCT $SETTINGS FROM anomaly.detectors
			WHERE detector IN ('$detector', '${detector}_twin')) q"), '1', "$detector and its twin have the same settings");
	is($node->safe_psql('postgres', "SELECT count(*), count(DISTINCT trained_rows), count(DISTINCT model_version) FROM anomaly.detectors
			WHERE detector IN ('$detector', '${detector}_twin') AND status = 'active'"), '2|1|1', '... and the same training');
	return;
}

sub as
{
	my ($role) = @_;
	return defined $role ? (extra_params => [ '-U', $role ]) : ();
}

# All of an alert but its numbers and the time of day at which it was raised.
my $ALERT = 'entity, at, last_at, points, peak_at, value, expected, lower, upper, deviation, score, p_value, direction, severity, status,
	resolved_at, anomaly_type, detection_strategy, metric_name, entity_type, description, suggestion, metadata, model_version';

sub alerts
{
	my ($node, $detector) = @_;
	return $node->safe_psql('postgres', "SELECT $ALERT FROM anomaly.alerts WHERE detector = '$detector' AND status <> 'withdrawn'
		ORDER BY at, entity, id");
}

# A state's bytes, its episode included; equal only once no episode is open, because that holds the alert's number.
sub states
{
	my ($node, $detector) = @_;
	return $node->safe_psql('postgres', "SELECT s.entity, s.version, md5(s.payload) FROM anomaly.entity_state s
		JOIN anomaly.model m ON (m.detector, m.version) = (s.detector, s.version) AND m.active
		WHERE s.detector = '$detector' ORDER BY s.entity");
}

# The twin sees everything at once, in one scan that nothing disturbs. Withdrawn alerts do not count.
sub is_as_undisturbed
{
	my ($node, $detector, $title, $owner) = @_;
	$node->safe_psql('postgres', "SELECT anomaly.scan('${detector}_twin')", as($owner));
	my $undisturbed = alerts($node, "${detector}_twin");
	my $count = () = $undisturbed =~ /^./mg;
	cmp_ok($count, '>', 0, "the undisturbed run of $detector has $count alerts");
	is(alerts($node, $detector), $undisturbed, $title);
	is(states($node, $detector), states($node, "${detector}_twin"), '... and so are the states of its entities');
	return $count;
}

1;
