# A detector that takes its process down each time it runs: it is left alone longer and longer, and then for good, until
# somebody asks for it; the others go on.
use strict;
use warnings;
use AnomalyNode;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = AnomalyNode->start_new('crashing', conf => <<'CONF');
anomaly_detection.crash_wait_ms = 2000
anomaly_detection.max_consecutive_failures = 3
CONF

# Each command comes by a connection of its own: a crash ends all that there are.
sub sql
{
	my ($query) = @_;
	for (1 .. 100)
	{
		my ($rc, $out) = $node->psql('postgres', $query);
		return $out if $rc == 0;
		sleep 1;
	}
	die "no answer to $query";
}

sql(q{
	CREATE TABLE reading AS SELECT now() - i * interval '1 minute' AS at, (i * 7 % 11)::double precision AS v FROM generate_series(1, 100) i;
	CREATE TABLE switch (deadly boolean); INSERT INTO switch VALUES (false);
	CREATE FUNCTION shell_of_a_backend(value double precision) RETURNS double precision LANGUAGE plpgsql AS $$
	BEGIN
		IF (SELECT deadly FROM switch) AND EXISTS (SELECT FROM pg_stat_activity WHERE pid = pg_backend_pid() AND backend_type LIKE '%scan worker') THEN
			EXECUTE 'COPY (SELECT 1) TO PROGRAM ''kill -9 $PPID''';
			PERFORM pg_sleep(600);
		END IF;
		RETURN value;
	END $$;
	CREATE VIEW deadly AS SELECT at, shell_of_a_backend(v) AS v FROM reading;
	CREATE ROLE other LOGIN; GRANT SELECT ON reading TO other;
	SELECT anomaly.watch('deadly', value => 'v', at => 'at', strategy => 'mad', every => '1 second', name => 'deadly'),
	       anomaly.watch('reading', value => 'v', at => 'at', strategy => 'mad', every => '1 second', name => 'beside');
});
sql(q{SET SESSION AUTHORIZATION other; SELECT anomaly.watch('reading', value => 'v', at => 'at', strategy => 'mad', every => '1 second', name => 'of_other')});
$node->wait_until(q{SELECT count(DISTINCT detector) = 3 FROM anomaly.runs WHERE status = 'succeeded'}, 'all run');

my $run = sql(q{UPDATE switch SET deadly = true; INSERT INTO reading VALUES (now() + interval '1 second', 3); SELECT coalesce(max(run_id), 0) FROM anomaly.runs});
$node->wait_until(q{SELECT status = 'broken' FROM anomaly.detector_state WHERE detector = 'deadly'}, 'it is never given up');

subtest 'fault_p10_crashes_back_off_and_end_in_quarantine' => sub {
	my @crashes = split /\n/, sql(q{SELECT extract(epoch FROM started_at - lag(finished_at) OVER (ORDER BY run_id)) FROM anomaly.runs
		WHERE detector = 'deadly' AND status = 'crashed' ORDER BY run_id OFFSET 1});
	is(scalar @crashes, 2, 'three crashes in all');
	cmp_ok($crashes[0], '>=', 2, 'it rests for crash_wait');
	cmp_ok($crashes[1], '>=', 4, '... and then for longer');
	cmp_ok(abs($crashes[0] * 2 - $crashes[1]), '>', 0.001, '... not to the point');
	my ($status, $reason, $hint) = split /\|/, sql(q{SELECT status, reason, hint FROM anomaly.health WHERE name = 'deadly'});
	is($status, 'broken', 'it is in quarantine');
	like($reason, qr/gave up after 3 failures in a row; the last one crashed/, 'the health view says why');
	is($hint, q{SELECT anomaly.enable('deadly')}, '... and what to type');
	sleep 6;
	is(sql(q{SELECT count(*) FROM anomaly.runs WHERE detector = 'deadly' AND status = 'crashed'}), '3', 'it is not run any more');
};

subtest 'fault_p10_others_are_not_affected' => sub {
	for my $name ('beside', 'of_other')
	{
		is(sql("SELECT count(*) > 3 FROM anomaly.runs WHERE detector = '$name' AND status = 'succeeded' AND run_id > $run"), 't', "$name runs between the crashes");
		$node->wait_until("SELECT status = 'ok' FROM anomaly.health WHERE name = '$name'", "$name is not well");
		is(sql("SELECT consecutive_failures FROM anomaly.detectors WHERE detector = '$name'"), '0', '... and is well');
	}
};

subtest 'fault_p10_enable_lifts_it' => sub {
	sql(q{UPDATE switch SET deadly = false; SELECT anomaly.enable('deadly')});
	$node->wait_until(qq{SELECT EXISTS (SELECT FROM anomaly.runs WHERE detector = 'deadly' AND status = 'succeeded' AND run_id > $run)}, 'it stays broken');
	is(sql(q{SELECT status FROM anomaly.health WHERE name = 'deadly'}), 'ok', 'one command brings it back');
};

my $killed = () = slurp_file($node->logfile) =~ /terminated by signal 9/g;
is($killed, 3, 'the server was taken down three times');
$node->stop;
done_testing();
