# A PostgreSQL::Test::Cluster with this extension and what its tests wait for.
#
#   my $node = AnomalyNode->start_new('main');                       # extension in database postgres
#   my $node = AnomalyNode->start_new('plain', preload => 0, create => 0, conf => "work_mem = '1MB'");
#   AnomalyNode->init_new($name, …)   is initialised only; install_path => … takes another server.
#   AnomalyNode->new($name) gives a node that is neither initialised nor started (standbys).
package AnomalyNode;
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils ();    # not its functions: they would hide the methods of their names
use Test::More;
use Time::HiRes qw(usleep);
our @ISA = ('PostgreSQL::Test::Cluster');

# Naps, lingering and waits shortened, so that a test takes seconds where a server takes minutes.
my $FAST = <<'CONF';
shared_preload_libraries = 'anomaly_detection'
anomaly_detection.launcher_naptime_ms = 200
anomaly_detection.linger_ms = 500
anomaly_detection.crash_wait_ms = 1000
CONF

sub start_new
{
	my ($class, $name, %options) = @_;
	my $node = $class->init_new($name, %options);
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION anomaly_detection') if $options{create} // 1;
	return $node;
}

# Neither started nor with the extension in it; install_path names another server than the one that is tested.
sub init_new
{
	my ($class, $name, %options) = @_;
	my $node = $class->new($name, $options{install_path} ? (install_path => $options{install_path}) : ());
	$node->init(
		allows_streaming => $options{allows_streaming} // 0,
		extra            => [ '--encoding=UTF8', '--locale=C', @{ $options{initdb} // [] } ]);
	# The framework turns restarts after a crash off; our tests are about them.
	$node->append_conf('postgresql.conf', "restart_after_crash = on\nmax_worker_processes = 16\n");
	$node->append_conf('postgresql.conf', $FAST) if $options{preload} // 1;
	$node->append_conf('postgresql.conf', "$options{conf}\n") if $options{conf};
	return $node;
}

# Waits until the query answers 't'; fails the test with what it answered last.
sub wait_until
{
	my ($self, $query, $title, $database) = @_;
	my $met = $self->poll_query_until($database // 'postgres', $query);
	Test::More::fail("timed out: $title") unless $met;
	return $met;
}

# wait_for_alert($detector, $condition): until the detector has an alert for which the SQL condition holds.
sub wait_for_alert
{
	my ($self, $detector, $condition, $database) = @_;
	$condition //= 'true';
	return $self->wait_until(
		"SELECT EXISTS (SELECT FROM anomaly.alerts WHERE detector = '$detector' AND ($condition))",
		"no alert of $detector where $condition", $database);
}

# Process ids of the extension's processes: kind is launcher, dispatcher or scan worker; all without it.
sub workers
{
	my ($self, $kind) = @_;
	my $like = 'anomaly_detection ' . ($kind // '%');
	return split /\n/, $self->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type LIKE '$like' ORDER BY pid");
}

# sqlstate($sql): the SQLSTATE that the statement fails with; empty when it succeeds.
sub sqlstate
{
	my ($self, $sql, $database, %options) = @_;
	my ($rc, $out, $err) = $self->psql($database // 'postgres', "\\set VERBOSITY sqlstate\n$sql", %options);
	return '' if $rc == 0;
	return $err =~ /(?:ERROR|FATAL):\s+([0-9A-Z]{5})/ ? $1 : "no SQLSTATE in: $err";
}

# The same, repeated for as long as a worker is at it.
sub sqlstate_when_idle
{
	my ($self, @arguments) = @_;
	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		my $sqlstate = $self->sqlstate(@arguments);
		return $sqlstate if $sqlstate ne '55006';
		usleep(100_000);
	}
	return 'running all the time';
}

# Waits until none of the extension's processes is left but the launcher.
sub wait_for_idle
{
	my ($self, $database) = @_;
	my $where = defined $database ? "AND datname = '$database'" : '';
	return $self->wait_until("SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type ~ '^anomaly_detection (scan worker|dispatcher)' $where",
		'a process of ours stays');
}

1;
