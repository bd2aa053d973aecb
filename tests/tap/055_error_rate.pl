# A quiet control day of 200 entities through real scans: no more alerts than a promise of so many a day explains, for
# auto and for mad; and what is put into the day is told.
use strict;
use warnings;
use AnomalyNode;
use Test::More;

my $node = AnomalyNode->start_new('quiet');
# Noise, a daily course, a daily course with AR(1) noise, AR(1) noise by itself, lognormal values: three weeks and a day, a value every 20 minutes.
$node->safe_psql('postgres', q{
	CREATE TABLE reading (at timestamptz, host int, v float8);
	CREATE TABLE clock AS SELECT date_trunc('day', now()) AS day_end;
	CREATE FUNCTION normal() RETURNS float8 LANGUAGE sql VOLATILE AS 'SELECT sqrt(-2 * ln(1 - random())) * cos(2 * pi() * random())';
	DO $$
	DECLARE
		noise float8; season float8; level float8[]; STEPS CONSTANT int := 22 * 72;
	BEGIN
		PERFORM setseed(0.42);
		FOR host IN 1 .. 200 LOOP
			noise := normal();
			level := '{}';
			FOR step IN 1 .. STEPS LOOP
				noise := CASE WHEN host % 5 IN (2, 3) THEN 0.6 * noise + 0.8 * normal() ELSE normal() END;
				season := CASE WHEN host % 5 IN (1, 2) THEN 30 * sin(step * pi() / 36) + 8 * cos(step * pi() / 18) ELSE 0 END;
				level := level || CASE WHEN host % 5 = 4 THEN 100 * exp(0.5 * noise) ELSE 100 + season + 3 * noise END;
			END LOOP;
			INSERT INTO reading SELECT day_end - (STEPS - n) * interval '20 minutes', host, v FROM clock, unnest(level) WITH ORDINALITY l (v, n);
		END LOOP;
	END $$;
	ALTER DATABASE postgres SET anomaly_detection.enabled = off;    -- no worker comes between the scans
});

my $PER_DAY = 20;
my $MOST = 28;    # a Poisson variable of mean 20 is larger once in twenty times at most
for my $strategy ('auto', 'mad')
{
	$node->safe_psql('postgres', qq{SELECT anomaly.create_detector('data_outlier', '$strategy', 'v', source => 'reading', value => 'v', at => 'at', entity => 'host',
		training_window => '21 days', alerts_per_day => $PER_DAY, name => 'quiet_$strategy')});
	my $set_clock = sub { qq{UPDATE anomaly.detector SET settle = clock_timestamp() - day_end + interval '$_[0] hours' FROM clock WHERE detector = 'quiet_$strategy'} };
	$node->safe_psql('postgres', $set_clock->(24));
	is($node->safe_psql('postgres', "SELECT status, trained_rows > 200 * 21 * 70 FROM anomaly.train('quiet_$strategy')"), 'active|t', "$strategy is trained");
	for my $hour (reverse 0 .. 5)
	{
		$node->safe_psql('postgres', $set_clock->(4 * $hour));
		$node->safe_psql('postgres', "SELECT anomaly.scan('quiet_$strategy')");
	}
	is($node->safe_psql('postgres', "SELECT points_processed >= 200 * 71 FROM anomaly.detectors WHERE detector = 'quiet_$strategy'"), 't', '... and has judged the day');
	my $alerts = $node->safe_psql('postgres', "SELECT count(*) FROM anomaly.alerts WHERE detector = 'quiet_$strategy'");
	cmp_ok($alerts, '<=', $MOST, "the promised rate holds on a quiet day for $strategy: $alerts alerts, $PER_DAY promised");
	# Its silence is none of a detector that tells nothing: the same day with spikes.
	$node->safe_psql('postgres', "INSERT INTO reading SELECT day_end + i * interval '20 minutes', host, CASE WHEN i = 2 THEN 5000 ELSE 100 END FROM clock, generate_series(1, 2) i, generate_series(1, 10) host")
	  if $strategy eq 'auto';
	$node->safe_psql('postgres', $set_clock->(-1));
	$node->safe_psql('postgres', "SELECT anomaly.scan('quiet_$strategy')");
	is($node->safe_psql('postgres', "SELECT count(DISTINCT entity) FROM anomaly.alerts, clock WHERE detector = 'quiet_$strategy' AND last_at >= day_end + interval '40 minutes'"),
		'10', '... and ten spikes of ten hosts are told');
}
$node->stop;
done_testing();
