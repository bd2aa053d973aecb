# pg_upgrade from PostgreSQL 16 to 18: nothing of ours runs during it, and afterwards models, summaries and forests are
# what they were and detectors go on where they stopped.
use strict;
use warnings;
use AnomalyNode;
use EveryStrategy;
use Readings;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'pg_upgrade is tried with 18 when 16 was built in the same run: make test SUITES=tap PG="16 18"' unless $ENV{UPGRADE_FROM};

my $VERBOSE = "log_min_messages = debug1\nanomaly_detection.enabled = off";
my $old = AnomalyNode->start_new('old', install_path => $ENV{UPGRADE_FROM}, conf => $VERBOSE);
my $new = AnomalyNode->init_new('new', initdb => ['--no-data-checksums'], conf => $VERBOSE);
like($old->safe_psql('postgres', 'SHOW server_version'), qr/^16/, 'the old server is 16');

# Detectors of all strategies that only this test scans, one that is due all the time, a forest and a summary in tables.
EveryStrategy::create($old, 'calm', 'spike');
my @strategies = EveryStrategy::by_hand($old, 'kept');
$old->safe_psql('postgres', q{
	SELECT anomaly.watch('metric', value => 'value', at => 'at', entity => 'entity', every => '1 second', name => 'due', strategy => 'mad');
	CREATE TABLE kept AS SELECT isolation_forest(ARRAY[value, extract(second FROM at)] ORDER BY at, entity) AS model, anomaly_summary(value) AS summary FROM metric;
	INSERT INTO metric SELECT now() - (40 - k) * interval '1 millisecond', e.name,
	       100 + ((k * k + 7 * k) % 401 - 200) / 100.0 + CASE WHEN e.name = 'spike' AND k % 25 = 11 THEN 60 + k ELSE 0 END
	  FROM generate_series(1, 40) k, (VALUES ('calm'), ('spike')) e (name)});
is($old->safe_psql('postgres', q{SELECT count(*) FROM anomaly.detectors WHERE status = 'active'}), @strategies + 1, "detectors of @strategies are trained");

my $STORED = q{SELECT md5(model::text), md5(summary::text), model_info(model), anomaly_deviation(model, '{170, 3}'), is_anomaly(model, '{100, 3}'),
	quantile(summary, 0.9), mean(summary) FROM kept};
my $MODELS = q{SELECT m.detector, m.version, m.active, md5(m.payload), s.entity, md5(s.payload) FROM anomaly.model m
	JOIN anomaly.entity_state s USING (detector, version) ORDER BY m.detector, m.version, s.entity};
my $SCAN = join ';', map { "SELECT anomaly.scan('kept_$_')" } @strategies;
my $RUNS = 'SELECT count(*), max(run_id) FROM anomaly.runs';
my $DUE = q{SELECT next_due, watermark FROM anomaly.detectors WHERE detector = 'due'};

# States that hold the number of an open alert, which differs from one scan to the next, left out.
my $STATES = q{SELECT 'state', s.detector, s.entity, md5(s.payload) FROM anomaly.entity_state s WHERE detector LIKE 'kept%' AND NOT EXISTS (SELECT FROM anomaly.alerts a
	WHERE a.detector = s.detector AND a.entity = s.entity AND a.status = 'open') ORDER BY detector, entity};
my $ALERTS = q{SELECT 'alert', detector, entity, at, last_at, points, value, expected, lower, upper, deviation, direction, status, severity, description, metadata
	FROM anomaly.alerts ORDER BY detector, entity, at};

sub answers { my ($node, $query) = @_; return $node->safe_psql('postgres', $query) }
my ($stored, $models, $runs, $due) = map { answers($old, $_) } $STORED, $MODELS, $RUNS, $DUE;
# What the next scan says, taken back: the one on the new server has to say the same.
my $expected = $old->safe_psql('postgres', "BEGIN; SET LOCAL client_min_messages = error; $SCAN; SELECT '--'; $ALERTS; $STATES; ROLLBACK");
$expected =~ s/.*?^--\n//ms;
my $found = () = $expected =~ /^alert/mg;
cmp_ok($found, '>=', @strategies, "power: the next scans open $found alerts");

$old->stop;
like(slurp_file($old->logfile), qr/background worker process "anomaly_detection launcher"/, 'power: the log of a server tells of our launcher');
chdir $PostgreSQL::Test::Utils::tmp_check;
my ($from, $to) = ("$ENV{UPGRADE_FROM}/bin", $new->config_data('--bindir'));
command_ok([ 'pg_upgrade', '--no-sync', '--retain', '-d', $old->data_dir, '-D', $new->data_dir, '-b', $from, '-B', $to,
		'-s', $new->host, '-p', $old->port, '-P', $new->port ], 'fault_d9_pg_upgrade: from 16 to 18');
my @logs = glob($new->data_dir . '/pg_upgrade_output.d/*/log/pg_upgrade_server.log');
is(scalar @logs, 1, 'the log of the servers during the upgrade is there');
my $log = join '', map { slurp_file($_) } @logs;
like($log, qr/DEBUG:/, '... and tells as much');
unlike($log, qr/anomaly_detection (launcher|dispatcher|scan worker)/, 'fault_d9_no_workers: none in binary upgrade');

$new->start;
like($new->safe_psql('postgres', 'SHOW server_version'), qr/^18/, 'the new server is 18');
is(answers($new, $MODELS), $models, 'fault_d9_models: the same bytes');
is(answers($new, $STORED), $stored, 'fault_d9_values: a forest and a summary in a table say the same');
is(answers($new, $RUNS), $runs, 'fault_d9_no_runs: nothing has run since');
is(answers($new, $DUE), $due, '... nor been put off');
$new->safe_psql('postgres', $SCAN);
is($new->safe_psql('postgres', "$ALERTS; $STATES"), $expected, 'fault_d9_same_next_verdict: alerts and states after the next scan of each strategy');

# The new server has the same version of the extension: there is nothing to update.
my $CONTENTS = q{SELECT count(*), md5(string_agg(pg_describe_object(classid, objid, 0), ';' ORDER BY classid, objid)) FROM pg_depend
	WHERE refclassid = 'pg_extension'::regclass AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'anomaly_detection')};
my $contents = answers($new, $CONTENTS);
my ($rc, $out, $err) = $new->psql('postgres', 'ALTER EXTENSION anomaly_detection UPDATE');
is($rc, 0, 'fault_d9_update: ALTER EXTENSION UPDATE');
like($err, qr/already installed/, '... has nothing to do');
is(answers($new, $CONTENTS), $contents, '... and changes nothing');

# And the workers go on.
$new->append_conf('postgresql.conf', 'anomaly_detection.enabled = on');
$new->reload;
$new->wait_until(q{SELECT EXISTS (SELECT FROM anomaly.runs WHERE detector = 'due' AND started_by = 'worker' AND status = 'succeeded')}, 'no worker has run');
pass('fault_d9_workers: they run on the new server');
$new->stop;
done_testing();
