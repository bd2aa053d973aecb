# The disk is full: runs fail with 53100, back off, and go on by themselves when there is room; no alert is lost or told twice.
use strict;
use warnings;
use AnomalyNode;
use Preload;
use PostgreSQL::Test::Utils;
use Test::More;

my $preload = Preload->new;
my $node = AnomalyNode->start_new('full', conf => 'anomaly_detection.max_consecutive_failures = 1000');
sub sql { my ($query) = @_; return $node->safe_psql('postgres', $query); }

sql(q{
	CREATE TABLE reading AS SELECT now() - i * interval '10 seconds' AS at, (i * 7 % 11)::double precision AS v FROM generate_series(2, 300) i;
	SELECT anomaly.watch('reading', value => 'v', at => 'at', strategy => 'mad', threshold => 9, every => '1 second', settle => '0 seconds', name => 'watched'),
	       anomaly.watch('reading', value => 'v', at => 'at', strategy => 'zscore', threshold => 9, every => '1 second', settle => '0 seconds', name => 'beside')});
$node->wait_until(q{SELECT count(DISTINCT detector) = 2 FROM anomaly.runs WHERE status = 'succeeded'}, 'both run');
# Runs have had rows before, so that theirs fit into pages that are there; the first alert needs a page of its own.
$node->wait_until(q{SELECT count(*) > 6 FROM anomaly.runs WHERE status = 'succeeded'}, 'a few runs');
is(sql(q{SELECT sum(pg_relation_size(relid)) FROM pg_partition_tree('anomaly.alert') WHERE isleaf}), '0', 'no alert so far');

subtest 'fault_p11_disk_full_on_alert_insert' => sub {
	# As the trigger of a disk that is full just for alerts would.
	sql(q{
		CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN RAISE disk_full USING MESSAGE = 'could not extend file "base/1/1": No space left on device'; END $$;
		CREATE TRIGGER no_room BEFORE INSERT ON anomaly.alert FOR EACH ROW EXECUTE FUNCTION no_room();
		INSERT INTO reading VALUES (now() + interval '2 seconds', 500)});
	$node->wait_until(q{SELECT count(*) >= 2 FROM anomaly.runs WHERE detector = 'watched' AND status = 'failed' AND error_code = '53100'}, 'runs do not fail');
	like(sql(q{SELECT status || ': ' || reason FROM anomaly.health WHERE name = 'watched'}), qr/^failing: could not extend file.*No space left/, 'runs fail with 53100, and the health view says why');
	is(sql(q{SELECT count(*) FROM anomaly.alerts}), '0', 'there is no alert');
	cmp_ok(sql(q{SELECT consecutive_failures FROM anomaly.detectors WHERE detector = 'watched'}), '>=', 2, 'they back off');
	sql(q{DROP TRIGGER no_room ON anomaly.alert});
	$node->wait_until(q{SELECT count(*) = 2 FROM anomaly.alerts WHERE value = 500}, 'the alert is lost');
	is(sql(q{SELECT count(*), count(DISTINCT detector), min(points) FROM anomaly.alerts}), '2|2|1', 'then each has its alert, once');
	$node->wait_until(q{SELECT bool_and(status = 'ok') FROM anomaly.health WHERE kind = 'detector'}, 'they are not well again');
	pass('all is well again, by itself');
	sql(q{INSERT INTO reading SELECT now() + interval '2 seconds' + i * interval '10 milliseconds', i FROM generate_series(1, 10) i});
	$node->wait_until(q{SELECT bool_and(status = 'resolved') FROM anomaly.alerts}, 'the alerts stay open');
};

subtest 'fault_p11_disk_full_for_everything' => sub {
	sql(q{INSERT INTO reading VALUES (now() + interval '4 seconds', 700)});
	$preload->fill_disk;
	my $error;
	$node->psql('postgres', q{CREATE TABLE filler AS SELECT repeat('x', 1000) FROM generate_series(1, 10000)}, stderr => \$error);
	like($error, qr/No space left on device/, 'the disk is full');
	# Runs may fail, or not even be written down. Either way the server stays up and nothing is believed to be running.
	sleep 8;
	$preload->free_disk;
	$node->wait_until(q{SELECT count(*) = 2 FROM anomaly.alerts WHERE value = 700}, 'the alert is lost');
	is(sql(q{SELECT count(*), count(DISTINCT (detector, at)) FROM anomaly.alerts WHERE kind = 'anomaly'}), '4|4', 'no alert is lost or comes twice');
	$node->wait_until(q{SELECT bool_and(status = 'ok') FROM anomaly.health WHERE kind = 'detector'}, 'they are not well again');
	is(sql(q{SELECT count(*) FROM anomaly.runs r WHERE status = 'running' AND EXISTS (SELECT FROM anomaly.runs l WHERE l.detector = r.detector AND l.run_id > r.run_id)}), '0',
		'no run is believed to go on');
};

unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal/, 'the server stayed up');
$node->stop;
done_testing();
