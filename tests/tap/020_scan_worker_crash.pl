# A scan worker that is killed without warning. PostgreSQL restarts the server then, and it must be as if the run had
# never begun, wherever it was: reading, or with its alerts and states already written.
use strict;
use warnings;
use AnomalyNode;
use Readings;
use Test::More;

$SIG{PIPE} = 'IGNORE';
my $CRASH_WAIT = 15;    # longer than it takes to look at what the crash has left
my $node = AnomalyNode->start_new('crash',
	conf => "anomaly_detection.crash_wait_ms = @{[ $CRASH_WAIT * 1000 ]}\nanomaly_detection.scan_lock_timeout_ms = 60000");

# A run stops at place 1 or 2 while another session holds the advisory lock of that number.
Readings::create($node);
$node->safe_psql('postgres', q{
	CREATE FUNCTION place_1(value double precision) RETURNS double precision LANGUAGE plpgsql AS
	$$ BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN value; END $$;
	CREATE VIEW feed AS SELECT at, entity, place_1(value) AS value FROM reading;

	CREATE FUNCTION place_2() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF NEW.watermark IS DISTINCT FROM OLD.watermark
		   AND EXISTS (SELECT FROM anomaly.alert a WHERE a.detector = NEW.detector AND a.raised_at >= now()) THEN
			PERFORM pg_advisory_xact_lock_shared(2);
		END IF;
		RETURN NEW;
	END $$;
	CREATE TRIGGER place_2 BEFORE UPDATE ON anomaly.detector_state FOR EACH ROW EXECUTE FUNCTION place_2();
});
$node->safe_psql('postgres', q{SELECT anomaly.watch('feed', value => 'value', at => 'at', entity => 'entity', every => '1 second',
	strategy => 'zscore', threshold => 6, settle => '0 seconds', name => 'cpu')});
Readings::twin($node, 'cpu');

sub kill_at
{
	my ($place, $entity, $value) = @_;
	my $holder = $node->background_psql('postgres');
	$holder->query_safe("SELECT pg_advisory_lock($place)");
	my $last_run = $node->safe_psql('postgres', q{SELECT coalesce(max(run_id), 0) FROM anomaly.runs});
	Readings::insert_incident($node, $entity, $value, 3);
	$node->wait_until(qq{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'anomaly_detection scan worker'
		AND wait_event_type = 'Lock' AND wait_event = 'advisory'}, 'the run is held up');
	my ($pid, $run) = split /\|/, $node->safe_psql('postgres', qq{SELECT pid, run_id FROM anomaly.runs WHERE status = 'running' AND detector = 'cpu'});
	cmp_ok($run, '>', $last_run, 'a new run is under way');
	my $before = $node->safe_psql('postgres', q{SELECT watermark FROM anomaly.detectors WHERE detector = 'cpu'});
	my $alerts = Readings::alerts($node, 'cpu');

	is(kill('KILL', $pid), 1, 'the worker is killed');
	eval { $holder->quit };    # its server is gone
	$node->wait_until(qq{SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid) AND NOT pg_is_in_recovery()}, 'the server is back');

	is($node->safe_psql('postgres', qq{SELECT status FROM anomaly.runs WHERE run_id = $run}), 'crashed', 'the run is shown as crashed');
	is($node->safe_psql('postgres', q{SELECT watermark FROM anomaly.detectors WHERE detector = 'cpu'}), $before, 'the watermark has not moved');
	is(Readings::alerts($node, 'cpu'), $alerts, 'nothing that the run has written is visible');

	my $next = qq{FROM anomaly.runs WHERE detector = 'cpu' AND run_id > $run};
	$node->wait_until(qq{SELECT count(*) > 0 $next AND status = 'succeeded'}, 'a later run succeeds');
	is($node->safe_psql('postgres', qq{SELECT status, window_from = '$before', window_until >= (SELECT max(at) FROM reading),
		rows_read = (SELECT count(*) FROM reading WHERE at > '$before') $next ORDER BY run_id LIMIT 1}),
		'succeeded|t|t|t', 'the next run covers the same window');
	my $rest = $node->safe_psql('postgres', qq{SELECT extract(epoch FROM (SELECT min(started_at) $next) - finished_at) FROM anomaly.runs WHERE run_id = $run});
	cmp_ok($rest, '>=', $CRASH_WAIT, 'the detector rested for crash_wait in between');
	Readings::is_as_undisturbed($node, 'cpu', 'the alerts are those of an undisturbed run');
	is($node->safe_psql('postgres', q{SELECT consecutive_failures, status FROM anomaly.detectors WHERE detector = 'cpu'}), '0|active', 'all is well again');
	return;
}

subtest 'fault_p1_kill_scan_worker_while_it_reads' => sub { kill_at(1, 'b', 260); };
subtest 'fault_p1_kill_scan_worker_after_it_has_written' => sub { kill_at(2, 'c', 380); };
is($node->safe_psql('postgres', q{SELECT count(*), count(DISTINCT (entity, at)), min(points), max(points) FROM anomaly.alerts WHERE detector = 'cpu'}),
	'2|2|2|2', 'fault_p1_one_alert_each: one alert of two points for each incident');
my $killed = () = PostgreSQL::Test::Utils::slurp_file($node->logfile) =~ /terminated by signal 9/g;
is($killed, 2, 'the server was taken down twice');
$node->stop;
done_testing();
