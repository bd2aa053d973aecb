# DDL on what our processes use: it works while they are idle, and ends or waits for a scan otherwise.
use strict;
use warnings;
use AnomalyNode;
use SlowDetector;
use Time::HiRes qw(time);
use Test::More;

my $node = AnomalyNode->start_new('ddl');

# A database with a detector that has run, and is due again in an hour.
sub idle_database
{
	my ($name) = @_;
	$node->safe_psql('postgres', "CREATE DATABASE $name");
	$node->safe_psql($name, 'CREATE EXTENSION anomaly_detection');
	my $slow = SlowDetector->new($node, $name);
	$slow->wait_for_success_after(0);
	$slow->sql(q(UPDATE anomaly.detector SET every = '1 hour'; UPDATE anomaly.detector_state SET next_due = now() + interval '1 hour'));
	$node->wait_until("SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = '$name'", "somebody stays in $name");
	return $slow;
}

subtest 'fault_d2_drop_database_idle' => sub {
	idle_database('idle');
	my $began = time;
	$node->safe_psql('postgres', 'DROP DATABASE idle');
	note sprintf 'dropped after %.2f s', time - $began;
	pass('DROP DATABASE works without FORCE');
};

subtest 'fault_d2_drop_database_force' => sub {
	$node->safe_psql('postgres', 'CREATE DATABASE busy');
	$node->safe_psql('busy', 'CREATE EXTENSION anomaly_detection');
	my $slow = SlowDetector->new($node, 'busy');
	$slow->block;
	my $began = time;
	$node->safe_psql('postgres', 'DROP DATABASE busy WITH (FORCE)');
	my $took = time - $began;
	note sprintf 'dropped after %.2f s', $took;
	cmp_ok($took, '<', 120, 'DROP DATABASE … WITH (FORCE) ends a sleeping scan');
	is($node->safe_psql('postgres', 'SELECT count(*) FROM pg_database WHERE datconnlimit = -2'), '0', 'no invalid database is left');
};

subtest 'fault_d3_rename_and_template' => sub {
	my $slow = idle_database('old_name');
	$node->safe_psql('postgres', 'CREATE DATABASE a_copy TEMPLATE old_name');
	$node->safe_psql('postgres', 'ALTER DATABASE old_name RENAME TO new_name');
	my $renamed = bless { %$slow, database => 'new_name' }, 'SlowDetector';
	my $run = $renamed->last_run;
	$renamed->sql(q(SELECT anomaly.enable('slow_v')));
	$renamed->wait_for_success_after($run);
	pass('a renamed database goes on');

	my $copy = bless { %$slow, database => 'a_copy' }, 'SlowDetector';
	like($copy->sql(q(SELECT reason FROM anomaly.health WHERE kind = 'system' AND status = 'paused')), qr/restored or copied/,
		'a copied database is paused and says so');
	$run = $copy->last_run;
	$copy->sql(q(SELECT anomaly.enable('slow_v'))); # asks for a run, which must not come
	$node->wait_until(q(SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = 'a_copy'), 'somebody stays in the copy');
	is($copy->last_run, $run, 'nothing runs there');
	$copy->sql('SELECT anomaly.resume()');
	$copy->wait_for_success_after($run);
	pass('until anomaly.resume()');
	$copy->sql('SELECT anomaly.pause()');
	like($copy->sql(q(SELECT reason FROM anomaly.health WHERE kind = 'system' AND status = 'paused')), qr/anomaly\.pause/, 'anomaly.pause() stops it');
};

subtest 'fault_d1_drop_extension' => sub {
	my $slow = SlowDetector->new($node);
	my $pid = $slow->block;

	# Somebody drops the extension while a scan runs: the DROP waits for it, without a deadlock.
	my $dropper = $node->background_psql('postgres');
	$dropper->query_safe('BEGIN');
	$dropper->query_until(qr/dropping/, "\\echo dropping\nDROP EXTENSION anomaly_detection;\n");
	$node->wait_until(q(SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'DROP EXTENSION%' AND wait_event_type = 'Lock')),
		'DROP EXTENSION does not wait');
	$slow->sql('UPDATE watched.nap SET seconds = 0');
	$slow->sql("SELECT pg_cancel_backend($pid)");
	is($dropper->query_safe(q(SELECT count(*) FROM pg_extension WHERE extname = 'anomaly_detection')), '0', 'it is dropped when the scan has ended');
	$node->wait_until(q(SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'anomaly_detection scan worker'), 'the worker stays');

	$dropper->query_safe('ROLLBACK');
	$slow->wait_for_success_after($slow->last_run);
	pass('after a rollback of the DROP scheduling goes on');

	$dropper->query_safe('DROP EXTENSION anomaly_detection');
	$dropper->quit;
	$node->wait_until(q(SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type LIKE 'anomaly_detection %' AND datname = 'postgres'),
		'somebody of ours stays');
	my $log = -s $node->logfile;
	sleep 3;
	my $later = PostgreSQL::Test::Utils::slurp_file($node->logfile, $log);
	unlike($later, qr/anomaly_detection.*(?:ERROR|FATAL|failed)/, 'and nothing is logged over and over');
	is(scalar($node->workers('launcher')), 1, 'the launcher is still there');

	$node->safe_psql('postgres', 'DROP SCHEMA watched CASCADE; CREATE EXTENSION anomaly_detection');
	SlowDetector->new($node)->wait_for_success_after(0);
	pass('and works for a new installation');
};

$node->stop;
done_testing();
