# Installing and removing: what may stop CREATE EXTENSION, and that nothing is left behind.
use strict;
use warnings;
use AnomalyNode;
use Test::More;

my $node = AnomalyNode->start_new('preloaded', create => 0);

# Everything that an extension can add to, with the number of rows; roles are the cluster's.
my $CATALOGS = join "\nUNION ALL\n",
  map { "SELECT '$_' AS catalog, count(*) FROM $_" }
  qw(pg_class pg_type pg_proc pg_aggregate pg_namespace pg_cast pg_operator pg_opclass pg_am pg_trigger pg_rewrite pg_constraint
  pg_attrdef pg_depend pg_description pg_init_privs pg_default_acl pg_event_trigger pg_policy pg_publication pg_extension);

subtest 'removal leaves nothing but roles' => sub {
	my $before = $node->safe_psql('postgres', $CATALOGS);
	$node->safe_psql('postgres', 'CREATE EXTENSION anomaly_detection');
	isnt($node->safe_psql('postgres', $CATALOGS), $before, 'the catalogs notice the extension');
	$node->safe_psql('postgres', 'DROP EXTENSION anomaly_detection');
	is($node->safe_psql('postgres', $CATALOGS), $before, 'and are as before after DROP EXTENSION');
	is($node->safe_psql('postgres', q(SELECT string_agg(rolname, ' ' ORDER BY rolname) FROM pg_roles WHERE rolname LIKE 'anomaly%')),
		'anomaly_admin anomaly_delivery anomaly_monitor', 'the roles stay');
	$node->safe_psql('postgres', 'CREATE EXTENSION anomaly_detection');
	pass('CREATE EXTENSION works again with the roles there');
};

subtest 'installation into a schema of the user\'s choice' => sub {
	$node->safe_psql('postgres', 'CREATE DATABASE elsewhere');
	$node->safe_psql('elsewhere', 'CREATE SCHEMA "Tools 1"; CREATE EXTENSION anomaly_detection SCHEMA "Tools 1"');
	is($node->safe_psql('elsewhere', q(SELECT string_agg(DISTINCT n.nspname, ',' ORDER BY n.nspname) FROM pg_depend d
		JOIN pg_class c ON d.classid = 'pg_class'::regclass AND d.objid = c.oid JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE d.deptype = 'e' AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'anomaly_detection'))),
		'anomaly', 'tables and views are in schema anomaly all the same');
};

subtest 'only a superuser installs' => sub {
	$node->safe_psql('postgres', 'CREATE DATABASE ordinary; CREATE ROLE ordinary LOGIN; GRANT ALL ON DATABASE ordinary TO ordinary');
	is($node->sqlstate('SET ROLE ordinary; CREATE EXTENSION anomaly_detection', 'ordinary'), '42501', 'permission denied');
};

# Objects of another user where the extension's own ones go: CREATE EXTENSION must fail, and must leave them alone.
$node->safe_psql('postgres', 'CREATE DATABASE hostile; CREATE ROLE mallory; GRANT ALL ON DATABASE hostile TO mallory');
$node->safe_psql('hostile', 'GRANT ALL ON SCHEMA public TO mallory');

sub refuses
{
	my ($object, $create, $drop, $owner_query, $sqlstate) = @_;
	$node->safe_psql('hostile', "SET ROLE mallory; $create");
	is($node->sqlstate('CREATE EXTENSION anomaly_detection', 'hostile'), $sqlstate, "fault_d11_hostile_objects: $object stops it");
	is($node->safe_psql('hostile', "SELECT count(*) FROM pg_extension WHERE extname = 'anomaly_detection'"), '0', '... nothing is installed');
	is($node->safe_psql('hostile', $owner_query), 'mallory', '... and it is still its owner\'s');
	$node->safe_psql('hostile', $drop);
	return;
}

refuses('schema anomaly', 'CREATE SCHEMA anomaly', 'DROP SCHEMA anomaly',
	"SELECT nspowner::regrole FROM pg_namespace WHERE nspname = 'anomaly'", '42P06');

# Types, and functions that can be made beforehand (no argument of a type of ours), as an installation names them.
my $member = q(pg_depend d JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
	AND e.extname = 'anomaly_detection');
my @types = split /\n/, $node->safe_psql('postgres', qq(SELECT typname FROM $member
	JOIN pg_type t ON d.classid = 'pg_type'::regclass AND d.objid = t.oid WHERE typnamespace = 'public'::regnamespace
	AND t.typelem = 0)); # an array type of that name moves out of the way
for my $type (@types)
{
	refuses("type $type", "CREATE TYPE public.$type AS ENUM ('trap')", "DROP TYPE public.$type",
		"SELECT typowner::regrole FROM pg_type WHERE typname = '$type' AND typnamespace = 'public'::regnamespace", '42710');
}
my @functions = split /\n/, $node->safe_psql('postgres', qq(SELECT proname || '(' || oidvectortypes(proargtypes) || ')' FROM $member
	JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
	WHERE pronamespace = 'public'::regnamespace AND prokind = 'f' AND pg_catalog.array_position(proargtypes::oid[], 'internal'::regtype) IS NULL
	AND NOT EXISTS (SELECT FROM pg_type t WHERE t.oid = ANY (proargtypes) AND typnamespace <> 'pg_catalog'::regnamespace)
	AND NOT EXISTS (SELECT FROM pg_type t WHERE t.oid = ANY (proargtypes) AND typtype = 'p') ORDER BY 1));
for my $function (@functions)
{
	refuses("function $function",
		"CREATE FUNCTION public.$function RETURNS text LANGUAGE sql AS \$\$ SELECT 'trap' \$\$", "DROP FUNCTION public.$function",
		"SELECT proowner::regrole FROM pg_proc WHERE oid = 'public.$function'::regprocedure", '42723');
}
$node->safe_psql('hostile', 'CREATE EXTENSION anomaly_detection');
pass('without them it installs');
$node->stop;

my $plain = AnomalyNode->start_new('not_preloaded', preload => 0);
is($plain->safe_psql('postgres', "SELECT count(*) FROM pg_extension WHERE extname = 'anomaly_detection'"), '1',
	'fault_s9_not_preloaded_create_extension: CREATE EXTENSION works without shared_preload_libraries');
is(scalar($plain->workers), 0, '... and no process of ours runs');
$plain->stop;

done_testing();
