# A model survives what happens to its server, and what happens to it stays its detector's matter.
use strict;
use warnings;
use AnomalyNode;
use Readings;
use Test::More;

# Without workers: nothing but the calls below trains or scans.
my $node = AnomalyNode->start_new('store', preload => 0);
Readings::create($node);
# A source that takes as long as the test wants.
$node->safe_psql('postgres', q{
	CREATE TABLE nap (seconds float8);
	INSERT INTO nap VALUES (0);
	CREATE VIEW slow AS SELECT r.* FROM reading r WHERE (SELECT s IS NOT NULL FROM nap, pg_sleep(seconds) s);
	SELECT anomaly.create_detector('data_outlier', 'seasonal', 'value', source => 'slow', at => 'at', entity => 'entity', settle => '0 s', name => 'killed');
	SELECT anomaly.train('killed')});

my $MODELS = q{SELECT m.detector, m.version, m.active, md5(m.payload), s.entity, md5(s.payload), d.status, d.last_training_time FROM anomaly.model m
	JOIN anomaly.entity_state s USING (detector, version) JOIN anomaly.detectors d USING (detector) ORDER BY m.detector, m.version, s.entity};
my $models = $node->safe_psql('postgres', $MODELS);
cmp_ok(scalar(split /\n/, $models), '==', @Readings::ENTITIES, 'one version is active, with a state for each entity');

# A session that is training, in the middle of reading its source.
sub train_in_background
{
	$node->safe_psql('postgres', 'UPDATE nap SET seconds = 600');
	my $session = $node->background_psql('postgres', on_error_stop => 0);
	$session->query_until(qr/training/, "\\echo training\nSELECT anomaly.train('killed');\n");
	$node->wait_until(q{SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep')}, 'it is not training');
	return $session;
}

sub unchanged
{
	my ($title) = @_;
	is($node->safe_psql('postgres', $MODELS), $models, "$title: the model that was active is, to the last byte");
	$node->safe_psql('postgres', 'UPDATE nap SET seconds = 0');
	is($node->safe_psql('postgres', q{SELECT status FROM anomaly.scan('killed')}), 'succeeded', '... and judges');
	$models = $node->safe_psql('postgres', $MODELS);
	return;
}

my $session = train_in_background();
$node->stop('immediate');
$session->{run}->kill_kill;
$node->start;
unchanged('fault_m3_server_killed_during_training');

# At the last moment: all is written, nothing committed.
$session = $node->background_psql('postgres', on_error_stop => 0);
is($session->query(q{BEGIN; SELECT model_version FROM anomaly.train('killed')}), 2, 'a training that is not committed');
$node->stop('immediate');
$session->{run}->kill_kill;
$node->start;
unchanged('fault_m3_server_killed_before_commit');

$session = train_in_background();
is($node->safe_psql('postgres', q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'}), 't', 'the training is cancelled');
$node->wait_until(q{SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep')}, 'it goes on');
unchanged('fault_m3_cancelled_training');
$session->{run}->kill_kill;
is($node->safe_psql('postgres', q{SELECT model_version FROM anomaly.train('killed')}), 2, 'and the next training is the next version');

# A damaged model is one detector's matter, in CALL anomaly.run_due() ...
my $DAMAGE = q{UPDATE anomaly.entity_state SET payload = set_byte(payload, 40, get_byte(payload, 40) # 4) WHERE detector = 'damaged' AND entity = 'b'};
my $STATUS = q{SELECT status, reason, hint FROM anomaly.health WHERE name = 'damaged'};
my $broken = q{broken|model checksum mismatch: state of entity "b" of detector "damaged"|SELECT anomaly.train('damaged') builds it anew};
sub detectors
{
	my ($on) = @_;
	$on->safe_psql('postgres', "SELECT anomaly.watch('reading', value => 'value', at => 'at', entity => 'entity', every => '1 second',
		settle => '0 s', name => '$_', strategy => 'mad')") for 'damaged', 'sound';
	return;
}
detectors($node);
$node->safe_psql('postgres', $DAMAGE);
Readings::insert_incident($node, 'b', 260, 0.2);
$node->wait_until(q{SELECT count(*) = 2 AND clock_timestamp() > (SELECT max(at) FROM reading) FROM anomaly.detectors WHERE next_due < clock_timestamp()}, 'they are not due');
my ($rc, $out, $err) = $node->psql('postgres', 'CALL anomaly.run_due()');
like($err, qr/WARNING:.*model checksum mismatch/, 'fault_m1_run_due: it says so');
is($node->safe_psql('postgres', $STATUS), $broken, '... the detector is broken, for a reason and with what to type');
is($node->safe_psql('postgres', q{SELECT detector, status, error_code FROM anomaly.runs WHERE started_by = 'run_due' ORDER BY detector}),
	"damaged|failed|XX001\nsound|succeeded|", '... and the other one went on');
is($node->safe_psql('postgres', q{SELECT status, model_version FROM anomaly.train('damaged')}), 'active|2', '... until it is trained');
$node->wait_until(q{SELECT next_due < clock_timestamp() FROM anomaly.detectors WHERE detector = 'damaged'}, 'it is not due again');
$node->safe_psql('postgres', 'CALL anomaly.run_due()');
is($node->safe_psql('postgres', q{SELECT status FROM anomaly.runs WHERE detector = 'damaged' ORDER BY run_id DESC LIMIT 1}), 'succeeded', '... and runs again');
$node->stop;

# ... and in a worker.
$node = AnomalyNode->start_new('workers');
Readings::create($node);
detectors($node);
$node->wait_until(q{SELECT count(DISTINCT detector) = 2 FROM anomaly.runs WHERE status = 'succeeded'}, 'they do not run');
$node->safe_psql('postgres', $DAMAGE);
Readings::insert_incident($node, 'b', 260, 0.2);
$node->wait_until(q{SELECT status = 'broken' FROM anomaly.detectors WHERE detector = 'damaged'}, 'it is not broken');
is($node->safe_psql('postgres', $STATUS), $broken, 'fault_m1_worker: the detector is broken, for a reason and with what to type');
my $run = $node->safe_psql('postgres', 'SELECT max(run_id) FROM anomaly.runs');
$node->wait_until("SELECT EXISTS (SELECT FROM anomaly.runs WHERE detector = 'sound' AND status = 'succeeded' AND run_id > $run)", 'the other one does not go on');
is($node->safe_psql('postgres', "SELECT count(*) FROM anomaly.runs WHERE detector = 'damaged' AND run_id > $run"), '0', '... which is not tried again');
$node->wait_for_alert('sound', q{entity = 'b'});
$node->safe_psql('postgres', q{SELECT anomaly.train('damaged')});
$node->wait_until("SELECT EXISTS (SELECT FROM anomaly.runs WHERE detector = 'damaged' AND status = 'succeeded' AND run_id > $run)", 'it does not run again');
is($node->safe_psql('postgres', q{SELECT status, status_reason IS NULL, status_hint IS NULL FROM anomaly.detectors WHERE detector = 'damaged'}), 'active|t|t',
	'... and a training repairs it');
$node->stop;
done_testing();
