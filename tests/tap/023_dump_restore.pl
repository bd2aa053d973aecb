# pg_dump and pg_restore into another cluster: everything is there, nothing runs before anomaly.resume(), and then it
# goes on from where it was.
use strict;
use warnings;
use AnomalyNode;
use Readings;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);

my $node = AnomalyNode->start_new('original');
my $copy = AnomalyNode->start_new('restored', create => 0);
$node->safe_psql('postgres', q{CREATE ROLE "Old Owner" LOGIN; CREATE SCHEMA "My Schema" AUTHORIZATION "Old Owner"});
Readings::create($node);

# What users have added to the registries, with a detector of it.
$node->safe_psql('postgres', q{
	CREATE FUNCTION "My Schema"."Score"(state jsonb, at timestamptz, value double precision, params jsonb) RETURNS double precision LANGUAGE sql IMMUTABLE AS 'SELECT abs(value - 50)';
	SELECT anomaly.create_anomaly_type('own_type', description => 'added by a user'), anomaly.create_strategy('own_strategy', '"My Schema"."Score"');
	SELECT anomaly.create_detector('own_type', 'own_strategy', 'own', min_data_points => 40, threshold => 100);
	SELECT count(*) FROM generate_series(1, 60) i, anomaly.process_data_point(jsonb_build_object('own', 50 + i % 7, 'timestamp', now() - (61 - i) * interval '1 s'));
}, Readings::as('Old Owner'));

# A superuser's table watched on a schedule; a role's table and column with names that need quotes; a query; points.
$node->safe_psql('postgres', q{SELECT anomaly.watch('reading', value => 'value', at => 'at', entity => 'entity', every => '1 second',
	strategy => 'zscore', threshold => 6, settle => '0 seconds', name => 'cpu')});
$node->safe_psql('postgres', q{
	CREATE TABLE "My Schema"."Orders; --" ("When" timestamp, "Amount €" numeric);
	INSERT INTO "My Schema"."Orders; --" SELECT now() AT TIME ZONE 'UTC' - i * interval '1 minute', 50 + i % 7 FROM generate_series(1, 300) i;
	SELECT anomaly.watch('"My Schema"."Orders; --"', cron => '*/5 * * * *', time_zone => 'Europe/Berlin', name => 'orders of "Old Owner"', strategy => 'mad');
	SELECT anomaly.create_detector('data_volume', 'iqr', 'n', source => $$SELECT "When" AS at, count(*) AS n FROM "My Schema"."Orders; --" GROUP BY 1$$,
	       value => 'n', at => 'at', every => '1 hour', params => '{"sketch_capacity": 256}', name => 'a query');
	SELECT anomaly.create_detector('system_cpu', 'mad', 'load', threshold => 9, min_data_points => 20);
	SELECT count(*) FROM generate_series(1, 60) i, anomaly.process_data_point(jsonb_build_object('load', 1 + (i % 5) / 10.0, 'timestamp', now() - (61 - i) * interval '1 s'));
	SELECT count(*) FROM anomaly.process_data_point('{"load": 77}');
	SELECT anomaly.create_detector('system_cpu', 'adaptive', 'votes', name => 'of several');
	SELECT anomaly.update_detector_performance('of several', 'iqr', true_positives => 9, false_positives => 1);
	SELECT anomaly.feedback(id, 'false_positive') FROM anomaly.alerts WHERE metric_name = 'load';
	SELECT anomaly.exclude('a query', tstzrange(now(), NULL), 'for good');
	SELECT anomaly.add_calendar('nightly', '2026-01-01 02:30+01', '1 hour', 'FREQ=DAILY', 'Europe/Berlin', detector => 'a query'),
	       anomaly.silence(tstzrange(now() - interval '2 days', now() - interval '1 day'), max_severity => 'warning');
}, Readings::as('Old Owner'));

# One incident that is over, one whose episode is still open when the dump is made.
Readings::insert_incident($node, 'a', 150, 3);
Readings::insert($node, [ 4, 'b', 260 ], [ 4.1, 'b', 270 ]);
$node->wait_for_alert('cpu', q{entity = 'a' AND status = 'resolved'});
$node->wait_for_alert('cpu', q{entity = 'b' AND status = 'open' AND points = 2});
$node->safe_psql('postgres', q{SELECT anomaly.scan('orders of "Old Owner"')}, Readings::as('Old Owner'));
$node->safe_psql('postgres', 'SELECT anomaly.pause()');
$node->wait_until(q{SELECT NOT EXISTS (SELECT FROM anomaly.runs WHERE status = 'running') AND NOT EXISTS (SELECT FROM pg_stat_activity
	WHERE backend_type LIKE 'anomaly_detection %worker')}, 'nothing runs any more');

my $dir = PostgreSQL::Test::Utils::tempdir;
$node->command_ok([ 'pg_dumpall', '--roles-only', '-f', "$dir/roles.sql" ], 'dump of the roles');
$node->command_ok([ 'pg_dump', '-Fc', '-f', "$dir/dump", 'postgres' ], 'fault_d8_dump: pg_dump');
$copy->psql('postgres', slurp_file("$dir/roles.sql"), on_error_stop => 0);
$copy->safe_psql('template1', 'DROP DATABASE postgres');
$copy->safe_psql('template1', 'CREATE DATABASE postgres TEMPLATE template0');
$copy->command_ok([ 'pg_restore', '--exit-on-error', '-d', 'postgres', "$dir/dump" ], 'fault_d8_restore: pg_restore without an error');
my $restored = time;

# Every table and sequence of the extension; that one table names the database that may run is the point of it.
my @relations = split /\n/, $node->safe_psql('postgres', q{SELECT c.oid::regclass || ':' || c.relkind::text FROM pg_depend d JOIN pg_class c ON c.oid = d.objid
	JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'anomaly_detection'
	WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND c.relkind IN ('r', 'p', 'S')
	AND c.oid <> 'anomaly.setting'::regclass ORDER BY 1});
my ($compared, $filled, @different) = (0, 0);
for (@relations)
{
	my ($relation, $kind) = /(.*):(.)/;
	my $query = $kind eq 'S' ? "SELECT last_value, is_called FROM $relation"
	  : "SELECT count(*), md5(string_agg(t::text, E'\\n' ORDER BY t::text COLLATE \"C\")) FROM $relation t";
	my ($here, $there) = map { $_->safe_psql('postgres', $query) } $node, $copy;
	push @different, "$relation: $here, restored $there" if $here ne $there;
	$filled++ unless $here =~ /^(0\||1\|f)/;
	$compared++;
}
is(join("\n", @different), '', "fault_d8_contents: all $compared tables and sequences are equal, $filled of them not empty");
is($copy->safe_psql('postgres', q{SELECT (SELECT count(*) FROM anomaly.detectors), (SELECT count(*) >= 3 FROM anomaly.models),
	(SELECT count(*) > 5 FROM anomaly.entity_state), (SELECT count(*) FROM anomaly.alerts), (SELECT count(*) > 3 FROM anomaly.runs), (SELECT f1_score > 0.9 FROM anomaly.member_performances)}), '6|t|t|3|t|t',
	'fault_d8_power: there is something of everything');
is($copy->safe_psql('postgres', q{SELECT (SELECT count(*) FROM anomaly.anomaly_type WHERE builtin), (SELECT count(*) FROM anomaly.anomaly_type WHERE NOT builtin),
	(SELECT count(*) FROM anomaly.strategy)}), $node->safe_psql('postgres', q{SELECT (SELECT count(*) FROM anomaly.anomaly_type) - 1, 1, (SELECT count(*) FROM anomaly.strategy)}),
	'fault_d8_registries: built-in rows once, the user\'s own row as well');
is($copy->safe_psql('postgres', 'SELECT strategy, owner, score FROM anomaly.own_strategies'), 'own_strategy|"Old Owner"|"My Schema"."Score"', '... and the strategy that is made of functions');
is($copy->safe_psql('postgres', 'SELECT count(*) FROM anomaly.setting'), '0', 'which database may run is not restored');

# Paused: by hand, by schedule.
my $runs = $copy->safe_psql('postgres', 'SELECT count(*), max(run_id) FROM anomaly.runs');
like($copy->safe_psql('postgres', q{SELECT status || ': ' || reason || ' ' || hint FROM anomaly.health WHERE kind = 'system'}),
	qr/^paused: .*restored or copied SELECT anomaly\.resume\(\)$/, 'anomaly.health says that it is paused and what to type');
is($copy->sqlstate(q{SELECT anomaly.scan('cpu')}), '55000', 'anomaly.scan refuses');
is($copy->sqlstate('CALL anomaly.run_due()'), '55000', 'anomaly.run_due refuses');
is($copy->sqlstate(q{SELECT anomaly.process_data_point('{"load": 1}')}), '55000', 'anomaly.process_data_point refuses');
sleep 7 - (time - $restored) if time - $restored < 7;    # the launcher looks for new databases every 5 seconds
is($copy->safe_psql('postgres', 'SELECT count(*), max(run_id) FROM anomaly.runs'), $runs, 'fault_d8_nothing_runs: no run before anomaly.resume()');

# The same readings in both: a new incident, and the end of the open episode.
my $now = int(time * 1000);
for ($node, $copy)
{
	$_->safe_psql('postgres', 'INSERT INTO reading VALUES ' . join ', ',
		map { sprintf "(to_timestamp(%d / 1000.0), '%s', %d)", $now + $_->[0], $_->[1], $_->[2] }
		  [ 1500, 'b', 201 ], [ 1501, 'b', 200 ], [ 1502, 'b', 199 ], [ 1500, 'c', 380 ], [ 1501, 'c', 390 ], [ 1502, 'c', 300 ]);
}
sleep 2;
for ($node, $copy)
{
	like($_->safe_psql('postgres', 'SELECT anomaly.resume()'), qr/running/, $_->name . ': anomaly.resume()');
	$_->wait_for_alert('cpu', q{entity = 'c' AND points = 2});
}
is($copy->safe_psql('postgres', q{SELECT count(*), sum(rows_read) FROM anomaly.runs WHERE detector = 'cpu' AND rows_read > 0 AND run_id > }
	. (split /\|/, $runs)[1]), '1|6', 'fault_d8_next_scan: it judges what is new and nothing again');
is(Readings::alerts($copy, 'cpu'), Readings::alerts($node, 'cpu'), '... and alerts as the original does');
is($copy->safe_psql('postgres', q{SELECT count(*), count(DISTINCT id), bool_and(id > 0), (SELECT string_agg(entity || ' ' || status, ', ' ORDER BY id)
	FROM anomaly.alerts WHERE detector = 'cpu') FROM anomaly.alerts}), '4|4|t|a resolved, b resolved, c open', '... with numbers of their own, the open episode ended');
is($copy->safe_psql('postgres', q{SELECT count(DISTINCT version) FROM anomaly.models WHERE detector = 'cpu'}), '1', '... without having been trained again');
is($copy->safe_psql('postgres', q{SELECT detector, value FROM anomaly.process_data_point('{"own": 999}')}, Readings::as('Old Owner')), 'own_type_own_strategy_own|999',
	'check_c42_dump: a detector of an own strategy goes on with its functions');
$_->stop for $node, $copy;
done_testing();
