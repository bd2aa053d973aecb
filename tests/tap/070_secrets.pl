# fault_a8: a secret that a handler's address names is shown nowhere: not by views, functions and errors, not to others in
# pg_stat_activity, not in the server's log and not in a dump. A delivery server reads it, and nobody else.
use strict;
use warnings;
use AnomalyNode;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = AnomalyNode->start_new('secrets', conf => "log_statement = 'all'\nlog_min_messages = debug1");
my $copy = AnomalyNode->start_new('restored', create => 0);
# What logs statements that succeed is switched off by a superuser, as docs/security.md says.
$_->safe_psql('postgres', q{CREATE ROLE alice LOGIN; CREATE ROLE bob LOGIN; CREATE ROLE looker LOGIN IN ROLE pg_read_all_data;
	CREATE ROLE sender LOGIN; ALTER ROLE alice SET log_statement = 'none'; CREATE DATABASE app OWNER alice}) for $node, $copy;
$node->safe_psql('app', 'CREATE EXTENSION anomaly_detection; GRANT anomaly_delivery TO sender; GRANT anomaly_monitor, anomaly_admin TO looker');
my ($alice, $bob, $looker, $sender) = map { [ extra_params => [ '-U', $_ ] ] } qw(alice bob looker sender);

is($node->safe_psql('app', q{SELECT anomaly.set_secret('token', 'sesame-1'), anomaly.set_secret('token', 'sesame-2'), anomaly.set_secret('slack', 'https://hooks.slack.com/services/sesame-3')}, @$alice),
	'${secret:token}|${secret:token}|${secret:slack}', 'set, and set anew');
$node->safe_psql('app', q{SELECT anomaly.create_handler('hook', 'webhook', 'https://user:${secret:token}@hooks.example.com/${secret:token}?a=b');
	SELECT anomaly.create_handler('channel', 'slack', '${secret:slack}');}, @$alice);

subtest 'fault_a8_errors_and_log' => sub {
	my %refused = (
		q{SELECT anomaly.set_secret('no name', 'sesame-4')} => '22023',
		q{SELECT anomaly.set_secret('long', 'sesame-4' || repeat('x', 5000))} => '22023',
		q{SELECT anomaly.set_secret(NULL, 'sesame-4')} => '22004',
		q{BEGIN READ ONLY; SELECT anomaly.set_secret('x', 'sesame-4')} => '25006',
		q{SELECT anomaly.create_handler('x', 'webhook', 'https://user:sesame-4@hooks.example.com/')} => '22023',
		q{SELECT anomaly.create_handler('x', 'webhook', 'ftp://sesame-4')} => '22023',
		q[SELECT anomaly.create_handler('x', 'webhook', 'https://sesame-4/${secret:token')] => '22023',
		q{SELECT anomaly.create_handler('x', 'webhook', 'https://sesame-4/${secret:none}')} => '42704',
		q{SELECT anomaly.create_handler('x', 'pager', 'sesame-4')} => '22023');
	for my $sql (sort keys %refused)
	{
		is($node->sqlstate($sql, 'app', @$alice), $refused{$sql}, "refused: $sql");
		my ($rc, $out, $err) = $node->psql('app', $sql, @$alice);
		unlike($err =~ s/^LINE.*//mrs, qr/sesame/, '... and what is said does not repeat it');
	}
	is($node->sqlstate(q{SELECT 1 / 0}, 'app', @$alice), '22012', 'an error of another statement');
	my $log = slurp_file($node->logfile);
	unlike($log, qr/sesame/, 'the log has none of them');
	like($log, qr/STATEMENT:  SELECT 1 \/ 0/, '... and still has statements of other errors');
};

subtest 'fault_a8_shown_to_nobody' => sub {
	my $session = $node->background_psql('app', extra_params => [ '-U', 'alice' ]);
	$session->query_safe(q{SELECT anomaly.set_secret('token', 'sesame-5')});
	is($node->safe_psql('app', q{SELECT count(*) FROM pg_stat_activity WHERE query ~ 'sesame-5' AND pid <> pg_backend_pid()}, @$bob), '0', 'others do not see the statement');
	is($node->safe_psql('app', q{SELECT count(*) FROM pg_stat_activity WHERE query ~ 'sesame-5' AND pid <> pg_backend_pid()}), '1', '... which a superuser does');
	$session->quit;
	$node->safe_psql('app', q{CREATE FUNCTION public.contents() RETURNS text LANGUAGE plpgsql AS $f$
		DECLARE v regclass; part text; whole text := '';
		BEGIN
			FOR v IN SELECT oid FROM pg_class WHERE relnamespace = 'anomaly'::regnamespace AND relkind = 'v' LOOP
				EXECUTE format('SELECT string_agg(t::text, E''\n'') FROM %s t', v) INTO part;
				whole := concat_ws(E'\n', whole, part);
			END LOOP;
			RETURN whole;
		END $f$});
	for my $who ([ 'alice', $alice ], [ 'bob', $bob ], [ 'a superuser', [] ])
	{
		my $contents = $node->safe_psql('app', 'SELECT contents()', @{ $who->[1] });
		unlike($contents, qr/sesame/, "no view shows it to $who->[0]");
		next if $who->[0] eq 'bob';
		like($contents, qr/\$\{secret:token\}/, '... which show that there is one');
	}
	is($node->sqlstate('SELECT value FROM anomaly.secret', 'app', @$bob), '42501', 'the table is for nobody');
	is($node->sqlstate('SELECT value FROM anomaly.secret', 'app', @$alice), '42501', '... nor for its owner');
	is($node->sqlstate(q{SELECT anomaly.handler_target('hook')}, 'app', @$_), '42501', 'handler_target is not for all') for $alice, $bob;
	is($node->safe_psql('app', q{SELECT anomaly.handler_target('hook'), anomaly.handler_target('channel')}, @$sender),
		'https://user:sesame-5@hooks.example.com/sesame-5?a=b|https://hooks.slack.com/services/sesame-3', 'a delivery server reads the address');
	is($node->safe_psql('app', q{SELECT anomaly.drop_secret('token')}, @$bob), 'f', 'bob does not drop what is of alice');
};

subtest 'fault_a8_dump' => sub {
	my $dir = PostgreSQL::Test::Utils::tempdir;
	$node->command_ok([ 'pg_dump', '-f', "$dir/dump.sql", 'app' ], 'pg_dump');
	$node->command_ok([ 'pg_dumpall', '-f', "$dir/all.sql" ], 'pg_dumpall');
	unlike(slurp_file("$dir/$_"), qr/sesame/, "$_ holds no secret") for 'dump.sql', 'all.sql';
	$copy->psql('app', slurp_file("$dir/dump.sql"), on_error_stop => 0);
	is($copy->safe_psql('app', 'SELECT count(*) FROM anomaly.handlers'), '2', 'the handlers are restored');
	is($copy->safe_psql('app', q{SELECT name, status, reason FROM anomaly.health WHERE kind = 'handler' AND status = 'broken' ORDER BY name}),
		"channel|broken|secret \"slack\" is not set, as after a restore\n" . join("\n", ('hook|broken|secret "token" is not set, as after a restore') x 2), 'anomaly.health says what is missing');
	is($copy->sqlstate(q{SELECT anomaly.handler_target('hook')}, 'app'), '42704', 'and it is not sent without');
	$copy->safe_psql('app', q{SELECT anomaly.set_secret('token', 'again'), anomaly.set_secret('slack', 'https://other')}, @$alice);
	is($copy->safe_psql('app', q{SELECT anomaly.handler_target('hook'), (SELECT count(*) FROM anomaly.health WHERE status = 'broken')}), 'https://user:again@hooks.example.com/again?a=b|0', 'set again, all is well');
};
$_->stop for $node, $copy;
done_testing();
