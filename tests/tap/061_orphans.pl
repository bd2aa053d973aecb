# Owners that cannot run any more: their detectors are orphaned, with the reason and what to type; all others go on, and so
# does the scheduler.
use strict;
use warnings;
use AnomalyNode;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = AnomalyNode->start_new('orphans', conf => 'anomaly_detection.max_workers = 8');
my $version = $node->safe_psql('postgres', q{SELECT current_setting('server_version_num')::int / 10000});
my @owners = ('stays', 'dropped', 'no_login', 'no_connect', 'reads_only', 'other_role');

sub sql { my ($query) = @_; return $node->safe_psql('postgres', $query); }
sub health { my ($name) = @_; return sql("SELECT status, reason, hint FROM anomaly.health WHERE name = '$name'"); }

sql('REVOKE CONNECT ON DATABASE postgres FROM PUBLIC; CREATE ROLE idle');
for my $owner (@owners)
{
	sql(qq{
		CREATE ROLE $owner LOGIN; GRANT CONNECT ON DATABASE postgres TO $owner; CREATE SCHEMA $owner AUTHORIZATION $owner;
		SET SESSION AUTHORIZATION $owner;
		CREATE TABLE $owner.reading AS SELECT now() - i * interval '1 minute' AS at, (i * 7 % 11)::double precision AS v FROM generate_series(1, 100) i;
		SELECT anomaly.watch('$owner.reading', value => 'v', at => 'at', strategy => 'mad', every => '1 second', name => '$owner')});
}
sub wait_for_run
{
	my ($names, $title) = @_;
	my $run = sql('SELECT coalesce(max(run_id), 0) FROM anomaly.runs');
	my $n = split /,/, $names;
	return $node->wait_until("SELECT count(DISTINCT detector) = $n FROM anomaly.runs WHERE detector = ANY ('{$names}') AND status = 'succeeded' AND run_id > $run", $title);
}
ok(wait_for_run(join(',', @owners), 'all run'), 'all run, each in a worker of its own');

subtest 'fault_s7_role_dropped' => sub {
	sql('DROP OWNED BY dropped; DROP ROLE dropped');
	$node->wait_until(q{SELECT status = 'broken' FROM anomaly.detector_state WHERE detector = 'dropped'}, 'it is not given up');
	is(health('dropped'), q{orphaned|the owner role no longer exists|SELECT anomaly.drop_detector('dropped')}, 'it is orphaned, and the health view says why');
	$node->wait_until(q{SELECT count(*) = 0 FROM pg_stat_activity a WHERE backend_type = 'anomaly_detection scan worker'
		AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = a.usesysid)}, 'its worker stays');
	ok(wait_for_run('stays,no_login,no_connect', 'others stop'), 'the others go on');
};

subtest 'fault_s7_role_without_login' => sub {
	sql('ALTER ROLE no_login NOLOGIN');
	if ($version >= 18)
	{
		ok(wait_for_run('no_login', 'it stops'), 'from PostgreSQL 17 on, a worker needs no login');
	}
	else
	{
		$node->wait_until(q{SELECT status = 'broken' FROM anomaly.detector_state WHERE detector = 'no_login'}, 'it is not given up');
		is(health('no_login'), q{orphaned|owner role "no_login" may not log in|ALTER ROLE no_login LOGIN; SELECT anomaly.enable('no_login')},
			'it is orphaned, and the health view says what to type');
		ok(wait_for_run('stays,no_connect', 'others stop'), 'the others go on');
		sql(q{ALTER ROLE no_login LOGIN; SELECT anomaly.enable('no_login')});
		ok(wait_for_run('no_login', 'it stays broken'), 'which brings it back');
	}
};

subtest 'fault_s7_role_without_connect' => sub {
	sql('REVOKE CONNECT ON DATABASE postgres FROM no_connect');
	$node->wait_until(q{SELECT status = 'broken' FROM anomaly.detector_state WHERE detector = 'no_connect'}, 'it is not given up');
	is(health('no_connect'), q{orphaned|owner role "no_connect" may not connect to this database|GRANT CONNECT ON DATABASE postgres TO no_connect; SELECT anomaly.enable('no_connect')},
		'it is orphaned, and the health view says what to type');
	ok(wait_for_run('stays', 'others stop'), 'the others go on');
	sql(q{GRANT CONNECT ON DATABASE postgres TO no_connect});
	is(health('no_connect'), q{broken|owner role "no_connect" may not connect to this database|SELECT anomaly.enable('no_connect')}, 'it says what is left to do');
	sql(q{SELECT anomaly.enable('no_connect')});
	ok(wait_for_run('no_connect', 'it stays broken'), 'which brings it back');
};

subtest 'fault_s7_settings_of_a_role' => sub {
	sql(qq{ALTER ROLE reads_only SET default_transaction_read_only = on; ALTER ROLE reads_only SET search_path = nowhere;
		ALTER ROLE reads_only SET default_transaction_isolation = 'serializable'; ALTER ROLE reads_only SET work_mem = '64kB';
		GRANT idle TO other_role; ALTER ROLE other_role SET role = 'idle'});
	my $run = sql('SELECT max(run_id) FROM anomaly.runs');
	$node->restart;
	ok(wait_for_run('reads_only,stays', 'it stops'), 'those of a role that would only read do not stop its runs');
	# It is another role than the one that logged in and that may read its rows.
	$node->wait_until(qq{SELECT EXISTS (SELECT FROM anomaly.runs WHERE detector = 'other_role' AND run_id > $run AND status <> 'running')}, 'it does nothing');
	is(sql(qq{SELECT DISTINCT status, error_code FROM anomaly.runs WHERE detector = 'other_role' AND run_id > $run AND status <> 'running'}), 'failed|42501',
		'a role that becomes another one has the rights of that');
	ok(wait_for_run('stays', 'others stop'), 'which stops nobody else');
};

my $log = slurp_file($node->logfile);
unlike($log, qr/PANIC|terminated by signal/, 'nothing crashed');
my @failed = $log =~ /FATAL:  (?:role|permission denied for database|database)[^\n]*/g;
cmp_ok(scalar @failed, '<=', 5, 'no worker is started in vain over and over') or diag join "\n", @failed;
is(sql(q{SELECT status FROM anomaly.health WHERE kind = 'system'}), 'ok', 'the scheduler is well');
$node->stop;
done_testing();
