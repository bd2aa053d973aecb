# A detector's query runs with its owner's rights and with nobody else's, whoever asks for it and whatever is in it.
use strict;
use warnings;
use AnomalyNode;
use Readings;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = AnomalyNode->start_new('rights', conf => 'anomaly_detection.max_consecutive_failures = 1000');
my $superuser = $node->safe_psql('postgres', 'SELECT current_user');
my @alice = Readings::as('alice');
my @mallory = Readings::as('mallory');

sub sqlstate_as
{
	my ($role, $sql) = @_;
	return $node->sqlstate_when_idle($sql, 'postgres', Readings::as($role));
}

$node->safe_psql('postgres', q{
	CREATE ROLE alice LOGIN;
	CREATE ROLE mallory LOGIN;
	CREATE TABLE secret (at timestamptz, v double precision);
	INSERT INTO secret SELECT now() - i * interval '1 minute', i % 9 FROM generate_series(1, 300) i;
	-- Who a function inside a source runs as.
	CREATE TABLE seen (step text, run_as name DEFAULT current_user, logged_in_as name DEFAULT session_user,
	                   superuser text DEFAULT current_setting('is_superuser'), backend text DEFAULT NULL);
	GRANT INSERT ON seen TO PUBLIC;
	CREATE FUNCTION public.see(value double precision) RETURNS double precision LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO public.seen (step, backend) SELECT 'source', backend_type FROM pg_stat_activity WHERE pid = pg_backend_pid();
		RETURN value;
	END $$;
	GRANT CREATE ON SCHEMA public TO alice, mallory;
});

subtest 'fault_a1_unreadable_table' => sub {
	for my $source (q{'secret'}, q{'SELECT at, v FROM secret'})
	{
		is(sqlstate_as('alice', "SELECT anomaly.watch($source, name => 'x', strategy => 'mad')"), '42501', "watch($source)");
		is(sqlstate_as('alice', "SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', source => $source, name => 'x')"), '42501', "create_detector($source)");
		is(sqlstate_as('alice', "SELECT count(*) FROM detect_anomalies($source)"), '42501', "detect_anomalies($source)");
	}
	is(sqlstate_as('alice', q{SELECT volume_check('secret', 'at', '1 hour')}), '42501', 'volume_check');
	$node->safe_psql('postgres', 'GRANT SELECT (at) ON secret TO alice');
	is(sqlstate_as('alice', q{SELECT anomaly.watch('secret', name => 'x', strategy => 'mad')}), '42501', 'a column that it cannot read');
	is($node->safe_psql('postgres', 'SELECT count(*) FROM anomaly.detectors'), '0', 'no detector is made');
};

subtest 'fault_a1_runs_as_owner' => sub {
	$node->safe_psql('postgres', 'GRANT SELECT ON secret TO alice');
	$node->safe_psql('postgres', q{
		CREATE VIEW watched AS SELECT at, see(v) AS v FROM secret;
		SELECT anomaly.watch('watched', every => '1 hour', settle => '0 seconds', name => 'hers', strategy => 'mad')}, @alice);
	# Somebody else asks, first of all the superuser: a worker does it as its owner.
	for (1 .. 3)
	{
		$node->safe_psql('postgres', q{INSERT INTO secret VALUES (now(), 3)});
		is($node->safe_psql('postgres', q{SELECT status FROM anomaly.scan('hers')}), 'queued', 'asked for by a superuser, the scan is queued');
		is($node->safe_psql('postgres', q{SET ROLE alice; SELECT status FROM anomaly.scan('hers')}), 'queued', 'SET ROLE makes no difference');
		$node->wait_until(q{SELECT watermark >= (SELECT max(at) FROM secret) FROM anomaly.detectors WHERE detector = 'hers'}, 'it is done');
	}
	is($node->sqlstate(q{SELECT anomaly.train('hers')}), '42501', 'a superuser cannot train it');
	is($node->sqlstate(q{SET ROLE alice; SELECT anomaly.train('hers')}), '42501', '... nor with SET ROLE');
	is(sqlstate_as('mallory', q{SELECT anomaly.scan('hers')}), '42704', 'somebody else does not even see it');
	$node->safe_psql('postgres', q{INSERT INTO secret VALUES (now(), 3)});
	is(sqlstate_as('alice', q{SELECT anomaly.scan('hers')}), '', 'its owner scans it in a session');
	is($node->safe_psql('postgres', q{SELECT DISTINCT run_as, logged_in_as, superuser FROM seen}), 'alice|alice|off',
		'the source was only ever read by its owner, logged in as such');
	is($node->safe_psql('postgres', q{SELECT string_agg(DISTINCT backend, ', ' ORDER BY backend) FROM seen}), 'anomaly_detection scan worker, client backend',
		'fault_a1_power: in a worker and in the owner\'s session');
};

subtest 'fault_a1_points_of_others' => sub {
	my $points = sub { "SELECT count(*) FROM generate_series(1, 40) i, anomaly.process_data_point(jsonb_build_object('load', $_[0] + i % 5));
		SELECT count(*) FROM anomaly.process_data_point('{\"load\": 5000}')" };
	my $create = q{SELECT anomaly.create_detector('system_cpu', 'mad', 'load', threshold => 9, min_data_points => 20, name => 'load of ' || current_user)};
	$node->safe_psql('postgres', "$create; " . $points->(1));
	my $not_hers = q{SELECT detector, status, points_processed FROM anomaly.detectors WHERE owner <> 'alice'::regrole;
		SELECT count(*), max(value) FROM anomaly.samples WHERE owner <> 'alice'::regrole};
	my $before = $node->safe_psql('postgres', $not_hers);
	like($before, qr/^load of \S+\|active\|40\n41\|5000$/, 'the superuser has a detector that has seen points');
	is($node->safe_psql('postgres', $points->(100), @mallory), "0\n0", 'a role without detectors: its points go nowhere');
	is($node->safe_psql('postgres', "$create; " . $points->(200), @alice), "load of alice\n0\n1", 'a role with one: it gets the points and alerts');
	is($node->safe_psql('postgres', $not_hers), $before, 'the superuser\'s detector has seen nothing of it');
	is($node->safe_psql('postgres', q{SELECT count(*), min(value) FROM anomaly.samples}, @alice), '41|200', 'and it is the role that owns what is kept');
	is($node->safe_psql('postgres', q{SELECT owner, count(*) FROM anomaly.alerts GROUP BY owner ORDER BY 1}), "$superuser|1\nalice|1", 'one alert each');
	$node->safe_psql('postgres', q{SELECT anomaly.drop_detector('load of ' || current_user)}, @$_) for [], \@alice;
};

subtest 'fault_a1_privilege_revoked_later' => sub {
	$node->safe_psql('postgres', q{SELECT anomaly.watch('secret', every => '1 second', settle => '0 seconds', name => 'direct', strategy => 'mad')}, @alice);
	$node->wait_until(q{SELECT EXISTS (SELECT FROM anomaly.runs WHERE detector = 'direct' AND status = 'succeeded')}, 'it runs');
	my $alerts = $node->safe_psql('postgres', 'SELECT count(*) FROM anomaly.alerts');
	$node->safe_psql('postgres', q{REVOKE SELECT ON secret FROM alice; INSERT INTO secret VALUES (now() + interval '3 seconds', 1e6)});
	$node->wait_until(q{SELECT EXISTS (SELECT FROM anomaly.runs WHERE detector = 'direct' AND status = 'failed' AND error_code = '42501'
		AND error_message LIKE '%secret%')}, 'runs fail');
	pass('runs fail with 42501 and name the table');
	is(sqlstate_as('alice', q{SELECT anomaly.scan('direct')}), '42501', 'anomaly.scan fails as well');
	my $settled = $node->safe_psql('postgres', 'SELECT max(at) FROM secret');
	$node->wait_until(qq{SELECT count(*) >= 2 FROM anomaly.runs WHERE detector = 'direct' AND error_code = '42501' AND started_at > '$settled'}, 'it is tried again');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM anomaly.alerts WHERE kind = 'anomaly'}), $alerts, 'what it may not read raises no alert');
	is($node->safe_psql('postgres', q{SELECT status FROM anomaly.health WHERE name = 'direct'}), 'failing', 'anomaly.health shows it');
	$node->safe_psql('postgres', 'GRANT SELECT ON secret TO alice');
	$node->safe_psql('postgres', q{SELECT anomaly.enable('direct')}, @alice);
	$node->wait_for_alert('direct', 'value = 1e6');
	pass('once it may read again, nothing is lost');
};
$node->safe_psql('postgres', q{SELECT anomaly.drop_detector('hers'), anomaly.drop_detector('direct')}, @alice);

# Every way in which a source can carry code, and every escape that it can try.
my %escapes = (
	alter_role            => q{EXECUTE 'ALTER ROLE mallory SUPERUSER'},
	grant_role            => q{EXECUTE 'GRANT pg_read_all_data TO mallory'},
	set_role              => qq{EXECUTE 'SET ROLE "$superuser"'},
	set_session           => qq{EXECUTE 'SET SESSION AUTHORIZATION "$superuser"'},
	reset_role            => q{EXECUTE 'RESET ROLE'},
	reset_session         => q{EXECUTE 'RESET SESSION AUTHORIZATION'},
	set_config            => qq{PERFORM set_config('session_authorization', '$superuser', false)},
	discard               => q{EXECUTE 'SET SESSION AUTHORIZATION DEFAULT'},
	base_table            => q{EXECUTE 'UPDATE anomaly.detector SET owner = 10'},
	read_secret           => q{PERFORM * FROM public.not_for_mallory});
my %denied = map { $_ => 1 } qw(alter_role grant_role set_role set_session set_config base_table read_secret);

subtest 'fault_a3_escapes' => sub {
	$node->safe_psql('postgres', 'CREATE TABLE not_for_mallory (i int); TRUNCATE seen; GRANT CREATE ON DATABASE postgres TO mallory');
	$node->safe_psql('postgres', q{
		CREATE SCHEMA mallory;
		CREATE TABLE mallory.m (at timestamptz, v double precision, e text);
		INSERT INTO mallory.m SELECT now() - i * interval '1 minute', i % 9, 'x' FROM generate_series(1, 300) i;
		CREATE FUNCTION mallory.attack(how text, value double precision) RETURNS double precision LANGUAGE plpgsql AS $$
		BEGIN
			INSERT INTO public.seen (step) VALUES (how);
			CASE how } . join(' ', map { "WHEN '$_' THEN $escapes{$_};" } sort keys %escapes) . q{ END CASE;
			INSERT INTO public.seen (step) VALUES (how || ' returned');
			RETURN value;
		END $$;}, @mallory);
	for my $how (sort keys %escapes)
	{
		# Created while it does no harm; from then on a worker runs it every second.
		$node->safe_psql('postgres', qq{
			CREATE VIEW mallory."$how" AS SELECT at, v, e FROM mallory.m;
			SELECT anomaly.watch('mallory."$how"', every => '1 second', settle => '0 seconds', name => '$how', strategy => 'mad');
			CREATE OR REPLACE VIEW mallory."$how" AS SELECT at, mallory.attack('$how', v) AS v, e FROM mallory.m;}, @mallory);
	}
	$node->safe_psql('postgres', q{INSERT INTO mallory.m VALUES (now() + interval '3 seconds', 3, 'x')}, @mallory);
	my $after = $node->safe_psql('postgres', 'SELECT max(at) FROM mallory.m');
	$node->wait_until(qq{SELECT count(DISTINCT detector) = (SELECT count(*) FROM anomaly.detectors) FROM anomaly.runs
		WHERE started_at > '$after' AND status IN ('failed', 'succeeded')}, 'every one has run');
	for my $how (sort keys %escapes)
	{
		my $result = $node->safe_psql('postgres', qq{SELECT string_agg(DISTINCT concat_ws(' ', status, error_code), ', ') FROM anomaly.runs
			WHERE detector = '$how' AND started_at > '$after' AND status <> 'running'});
		is($result, $denied{$how} ? 'failed 42501' : 'succeeded', "$how: " . ($denied{$how} ? 'denied' : 'changes nothing'));
		is(sqlstate_as('mallory', qq{INSERT INTO mallory.m VALUES (clock_timestamp(), 3, 'x'); SELECT pg_sleep(0.01); SELECT anomaly.scan('$how')}),
			$denied{$how} ? '42501' : '', '... in a session as in a worker');
	}
	is($node->safe_psql('postgres', q{SELECT DISTINCT run_as, logged_in_as, superuser FROM seen}), 'mallory|mallory|off', 'all of it ran as its owner');
	is($node->safe_psql('postgres', q{SELECT rolsuper, (SELECT count(*) FROM pg_auth_members WHERE member = r.oid) FROM pg_roles r WHERE rolname = 'mallory'}),
		'f|0', 'who is what it was');
	is($node->safe_psql('postgres', q{SELECT DISTINCT owner FROM anomaly.detectors}), 'mallory', 'and owns what it owned');
};

subtest 'fault_a3_other_code_of_a_source' => sub {
	# A cast to text of the entity column, a rule of a domain, a row security policy, and a trigger that fires at commit.
	$node->safe_psql('postgres', 'TRUNCATE seen');
	$node->safe_psql('postgres', q{
		CREATE TYPE mallory.name AS (part text);
		CREATE FUNCTION mallory.spell(mallory.name) RETURNS text LANGUAGE plpgsql AS
		$$ BEGIN INSERT INTO public.seen (step) VALUES ('cast'); RETURN ($1).part; END $$;
		CREATE CAST (mallory.name AS text) WITH FUNCTION mallory.spell(mallory.name) AS ASSIGNMENT;
		CREATE FUNCTION mallory.at_commit() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN INSERT INTO public.seen (step) VALUES ('commit'); EXECUTE 'RESET ROLE'; INSERT INTO public.seen (step) VALUES ('commit'); RETURN NULL; END $$;
		CREATE TABLE mallory.late (v double precision);
		CREATE CONSTRAINT TRIGGER late AFTER INSERT ON mallory.late DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION mallory.at_commit();
		CREATE FUNCTION mallory.later(v double precision) RETURNS double precision LANGUAGE plpgsql AS
		$$ BEGIN INSERT INTO mallory.late VALUES (v); RETURN v; END $$;
		CREATE TABLE mallory.named (at timestamptz, v double precision, e mallory.name);
		INSERT INTO mallory.named SELECT now() - i * interval '1 minute', i % 9, ROW ('x')::mallory.name FROM generate_series(1, 300) i;
		CREATE VIEW mallory.carrier AS SELECT at, mallory.later(v) AS v, e FROM mallory.named;
		SELECT anomaly.watch('mallory.carrier', entity => 'e', every => '1 second', settle => '0 seconds', name => 'carrier', strategy => 'mad');
		TRUNCATE mallory.late;}, @mallory);
	# Without a new row a scan runs none of it: what is seen from here on is of the scan that reads one.
	my $ours = q{FROM seen WHERE step IN ('cast', 'commit')};
	my $seen = $node->safe_psql('postgres', "SELECT count(*) $ours");
	$node->safe_psql('postgres', q{INSERT INTO mallory.named VALUES (now() + interval '3 seconds', 3, ROW ('x'))}, @mallory);
	$node->wait_until(q{SELECT EXISTS (SELECT FROM anomaly.runs WHERE detector = 'carrier' AND rows_read > 0 AND status = 'succeeded')}, 'a worker has run it');
	cmp_ok($node->safe_psql('postgres', "SELECT count(*) $ours"), '>', $seen, 'the worker ran all of it');
	is($node->safe_psql('postgres', "SELECT string_agg(DISTINCT step, ', ' ORDER BY step), string_agg(DISTINCT concat_ws(' ', run_as, logged_in_as, superuser), ', ') $ours"),
		'cast, commit|mallory mallory off', 'as its owner');
};
unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal/, 'nothing has crashed');
$node->stop;
done_testing();
