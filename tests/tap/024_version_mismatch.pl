# SQL objects of another version than the library: nothing crashes, nothing runs, and somebody is told. And updates
# from every released version end in what a fresh installation has.
use strict;
use warnings;
use AnomalyNode;
use Readings;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $node = AnomalyNode->start_new('mismatch');
Readings::create($node);
$node->safe_psql('postgres', q{SELECT anomaly.watch('reading', value => 'value', at => 'at', entity => 'entity', every => '1 second',
	settle => '0 seconds', name => 'cpu', strategy => 'mad')});
my $has_run = q{SELECT EXISTS (SELECT FROM anomaly.runs WHERE status = 'succeeded' AND started_at > now() - interval '1 second')};
$node->wait_until($has_run, 'the detector runs');
my ($launcher) = $node->workers('launcher');
my $started = $node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()');

for my $version ('0.0.1', '999.0')
{
	my $log = -s $node->logfile;
	my $installed = $node->safe_psql('postgres', q{SELECT extversion FROM pg_extension WHERE extname = 'anomaly_detection'});
	$node->safe_psql('postgres', qq{UPDATE pg_extension SET extversion = '$version' WHERE extname = 'anomaly_detection'});
	$node->wait_until(q{SELECT EXISTS (SELECT FROM anomaly.health WHERE kind = 'system' AND status = 'version mismatch'
		AND hint LIKE '%ALTER EXTENSION%UPDATE%')}, 'anomaly.health says so');
	pass("fault_d10_idle: with SQL of version $version anomaly.health asks for ALTER EXTENSION … UPDATE");
	$node->wait_for_idle;
	my $runs = $node->safe_psql('postgres', 'SELECT count(*) FROM anomaly.runs');
	sleep 3;
	is($node->safe_psql('postgres', 'SELECT count(*) FROM anomaly.runs'), $runs, '... nothing runs');
	$node->wait_for_idle;    # a dispatcher comes now and then to find out whether the versions agree
	is_deeply([ $node->workers('launcher') ], [$launcher], '... the launcher is the same');
	my $lines = () = substr(slurp_file($node->logfile), $log) =~ /anomaly_detection:/g;
	cmp_ok($lines, '<=', 3, "... and has not filled the log: $lines lines");

	$node->safe_psql('postgres', qq{UPDATE pg_extension SET extversion = '$installed' WHERE extname = 'anomaly_detection'; SELECT anomaly.resume()});
	$node->wait_until($has_run, 'the detector runs again');
	pass('... once the versions agree, it runs again');
}

# The version is right, but somebody has damaged the objects: errors, not crashes, and only there.
$node->safe_psql('postgres', 'CREATE DATABASE damaged');
$node->safe_psql('damaged', q{CREATE EXTENSION anomaly_detection; CREATE TABLE t AS SELECT now() - i * interval '1 minute' AS at, i % 9 AS v FROM generate_series(1, 300) i;
	SELECT anomaly.watch('t', every => '1 second', strategy => 'mad')});
$node->wait_until($has_run, 'it runs there', 'damaged');
for (['ALTER EXTENSION anomaly_detection DROP VIEW anomaly.progress; DROP VIEW anomaly.progress', ''],
	['ALTER TABLE anomaly.setting RENAME TO elsewhere', '42P01'],
	['ALTER TABLE anomaly.detector_state RENAME watermark TO mark', '42703'])
{
	my ($damage, $sqlstate) = @$_;
	# A worker that reads what is taken away may be in the way: a deadlock takes all of it back.
	for (1 .. 20)
	{
		my $failed = $node->sqlstate("BEGIN; $damage; COMMIT", 'damaged');
		last if $failed eq '';
		die "cannot do the damage: $failed" if $failed !~ /^(?:40P01|XX000)$/;
	}
	sleep 1.5;
	is($node->sqlstate_when_idle(q{SELECT anomaly.disable('t_v'); SELECT pg_sleep(0.5); SELECT anomaly.scan('t_v')}, 'damaged'), $sqlstate,
		"fault_d10_damaged: after $damage anomaly.scan answers " . ($sqlstate || 'as before'));
	$node->psql('damaged', q{SELECT anomaly.enable('t_v')});
}
$node->wait_until($has_run, 'the other database');
is($node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()'), $started, '... the server is up');
unlike(slurp_file($node->logfile), qr/terminated by signal|PANIC|reinitializing/, '... and nothing has crashed');
is_deeply([ $node->workers('launcher') ], [$launcher], '... not even the launcher');

# Everything that an installation consists of, without OIDs: descriptions, definitions, rights.
my $CONTENTS = q{
	SELECT pg_describe_object(d.classid, d.objid, 0) AS object,
	       CASE d.classid WHEN 'pg_proc'::regclass THEN (SELECT concat_ws(' ', prokind, provolatile, proparallel, proisstrict, prosecdef, prosrc, probin, proargnames,
	                       pg_get_function_arguments(p.oid), pg_get_function_result(p.oid), proacl, proconfig) FROM pg_proc p WHERE p.oid = d.objid)
	            WHEN 'pg_class'::regclass THEN (SELECT concat_ws(' ', relkind, relacl, reloptions, CASE relkind WHEN 'v' THEN pg_get_viewdef(c.oid) END,
	                       (SELECT string_agg(concat_ws(' ', attname, format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid)), ', ' ORDER BY attnum)
	                          FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped),
	                       (SELECT string_agg(pg_get_constraintdef(oid), ', ' ORDER BY conname) FROM pg_constraint WHERE conrelid = c.oid),
	                       (SELECT string_agg(pg_get_indexdef(indexrelid), ', ' ORDER BY indexrelid::regclass::text) FROM pg_index WHERE indrelid = c.oid))
	                       FROM pg_class c WHERE c.oid = d.objid) END AS definition,
	       obj_description(d.objid, (SELECT relname FROM pg_class WHERE oid = d.classid)) AS comment
	  FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'anomaly_detection'
	 WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
	UNION ALL
	SELECT 'extconfig', array_agg(c.oid::regclass ORDER BY c.oid::regclass::text)::text, array_to_string(extcondition, ',')
	  FROM pg_extension e, pg_class c WHERE extname = 'anomaly_detection' AND c.oid = ANY (extconfig) GROUP BY extcondition
	 ORDER BY 1, 2};
$node->safe_psql('postgres', 'CREATE DATABASE fresh');
$node->safe_psql('fresh', 'CREATE EXTENSION anomaly_detection');
my $fresh = $node->safe_psql('fresh', $CONTENTS);
cmp_ok(scalar(split /\n/, $fresh), '>', 50, 'a fresh installation has contents');
$node->safe_psql('fresh', q{ALTER FUNCTION anomaly.resume() STABLE});
isnt($node->safe_psql('fresh', $CONTENTS), $fresh, 'fault_d10_power: a single change is noticed');

my $current = $node->safe_psql('postgres', q{SELECT default_version FROM pg_available_extensions WHERE name = 'anomaly_detection'});
my @released = split /\n/, $node->safe_psql('postgres', qq{SELECT version FROM pg_available_extension_versions WHERE name = 'anomaly_detection' AND version <> '$current'});
my @updates = split /\n/, $node->safe_psql('postgres', qq{SELECT source FROM pg_extension_update_paths('anomaly_detection') WHERE target = '$current' AND path IS NOT NULL});
is_deeply([ sort @updates ], [ sort @released ], 'fault_d10_update_paths: ' . (@released ? "from @released" : 'no version has been released before this one'));
for my $version (@released)
{
	(my $database = "from_$version") =~ tr/./_/;
	$node->safe_psql('postgres', "CREATE DATABASE $database");
	$node->safe_psql($database, "CREATE EXTENSION anomaly_detection VERSION '$version'; ALTER EXTENSION anomaly_detection UPDATE");
	is($node->safe_psql($database, $CONTENTS), $fresh, "fault_d10_update: from $version");
}
$node->stop;
done_testing();
