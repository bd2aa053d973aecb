# A detector whose scan takes as long as the test wants.
#
#   my $slow = SlowDetector->new($node, $database);  # detector slow_v of role watcher, quick at first
#   $slow->block;                                    # its next scan sleeps; returns when that scan is running
#   $slow->unblock;                                  # scans after this one are quick again
#   $slow->wait_for_success_after($run);             # and none that began before sleeps on
package SlowDetector;
use strict;
use warnings;

sub new
{
	my ($class, $node, $database) = @_;
	my $self = bless { node => $node, database => $database // 'postgres' }, $class;
	$node->safe_psql($self->{database}, <<'SQL');
DO $$ BEGIN CREATE ROLE watcher LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
CREATE SCHEMA watched AUTHORIZATION watcher;
SET SESSION AUTHORIZATION watcher;
CREATE TABLE watched.reading (at timestamptz, v float8);
INSERT INTO watched.reading SELECT now() - i * interval '1 minute', 50 + 3 * sin(i) FROM generate_series(1, 500) i;
CREATE TABLE watched.nap (seconds float8);
INSERT INTO watched.nap VALUES (0);
CREATE VIEW watched.slow AS SELECT at, v FROM watched.reading WHERE (SELECT s IS NOT NULL FROM watched.nap, pg_sleep(seconds) s);
SELECT anomaly.watch('watched.slow', value => 'v', at => 'at', every => '1 second', name => 'slow_v', strategy => 'mad');
SQL
	return $self;
}

sub sql
{
	my ($self, $query) = @_;
	return $self->{node}->safe_psql($self->{database}, $query);
}

sub wait_until
{
	my ($self, $query, $title) = @_;
	return $self->{node}->wait_until($query, $title, $self->{database});
}

sub block
{
	my ($self) = @_;
	$self->sql('UPDATE watched.nap SET seconds = 600');
	$self->wait_until(q(SELECT EXISTS (SELECT FROM pg_stat_activity
		WHERE backend_type = 'anomaly_detection scan worker' AND datname = current_database() AND wait_event = 'PgSleep')),
		'no scan is sleeping');
	return $self->sql(q(SELECT pid FROM anomaly.progress WHERE detector = 'slow_v'));
}

sub unblock
{
	my ($self) = @_;
	$self->sql('UPDATE watched.nap SET seconds = 0');
	return;
}

# Number of the last run so far, to tell later ones from earlier ones.
sub last_run
{
	my ($self) = @_;
	return $self->sql(q(SELECT COALESCE(max(run_id), 0) FROM anomaly.runs));
}

# A scan that read the nap before unblock() shortened it sleeps for ten minutes, whenever that was: it is cancelled.
sub wait_for_success_after
{
	my ($self, $run) = @_;
	return $self->wait_until(
		"SELECT (SELECT count(pg_cancel_backend(pid)) >= 0 FROM pg_stat_activity WHERE backend_type = 'anomaly_detection scan worker'
			AND datname = current_database() AND wait_event = 'PgSleep')
		AND EXISTS (SELECT FROM anomaly.runs WHERE detector = 'slow_v' AND status = 'succeeded' AND run_id > $run)",
		"no successful run after run $run");
}

# A second detector of another role whose scan computes without waiting; returns its worker's pid.
sub spin
{
	my ($self) = @_;
	$self->sql(<<'SQL');
CREATE ROLE spinner LOGIN;
CREATE SCHEMA spinning AUTHORIZATION spinner;
SET SESSION AUTHORIZATION spinner;
CREATE TABLE spinning.knob (rows int8);
INSERT INTO spinning.knob VALUES (1);
CREATE VIEW spinning.busy AS SELECT now() - interval '1 minute' - i * interval '1 second' AS at, i::float8 AS v FROM generate_series(1, 500) i
 WHERE (SELECT count(*) > 0 FROM spinning.knob, LATERAL generate_series(1, rows) x);
SELECT anomaly.watch('spinning.busy', value => 'v', at => 'at', every => '1 second', name => 'busy_v', strategy => 'mad');
UPDATE spinning.knob SET rows = 1000000000000;
SQL
	$self->wait_until(q(SELECT EXISTS (SELECT FROM anomaly.progress WHERE detector = 'busy_v' AND running_for > '300 ms')), 'no scan is computing');
	return $self->sql(q(SELECT pid FROM anomaly.progress WHERE detector = 'busy_v'));
}

1;
