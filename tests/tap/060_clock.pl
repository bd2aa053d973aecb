# A server whose clock is set back and forward while detectors run: intervals keep their pace, cron expressions do not come
# twice, and what was missed is made up for once.
use strict;
use warnings;
use AnomalyNode;
use Preload;
use Test::More;

my $preload = Preload->new;
my $node = AnomalyNode->start_new('clock', conf => <<'CONF');
anomaly_detection.catch_up_spread_ms = 6000
anomaly_detection.misfire_after_ms = 60000
CONF
my $HOUR = 3600;

sub sql { my ($query) = @_; return $node->safe_psql('postgres', $query); }
sub runs { my ($condition) = @_; return "FROM anomaly.runs WHERE status = 'succeeded' AND $condition"; }
sub last_run { return sql('SELECT coalesce(max(run_id), 0) FROM anomaly.runs'); }

# A cron expression's time must not come between two looks: it comes every 20 seconds.
sub away_from_its_time { sql(q{SELECT pg_sleep(CASE WHEN rest > 8 THEN 0 ELSE rest + 1 END) FROM (SELECT 20 - extract(epoch FROM clock_timestamp())::numeric % 20 AS rest) q}); return; }

sql(q{
	CREATE TABLE reading (at timestamptz, v double precision);
	INSERT INTO reading SELECT now() - i * interval '1 minute', i * 7 % 11 FROM generate_series(1, 300) i;
	SELECT anomaly.watch('reading', value => 'v', at => 'at', strategy => 'mad', every => '2 seconds', name => 'quick'),
	       anomaly.watch('reading', value => 'v', at => 'at', strategy => 'mad', every => '1 hour', name => 'hourly');
	SELECT anomaly.create_detector('data_outlier', 'mad', 'v', source => 'reading', at => 'at', cron => '*/20 * * * * *', name => 'by_clock');
	SELECT anomaly.train('by_clock');
});
$node->wait_until("SELECT count(*) > 0 @{[ runs(q{detector = 'quick'}) ]}", 'the interval runs');
$node->wait_until("SELECT count(*) > 0 @{[ runs(q{detector = 'by_clock'}) ]}", 'the cron expression comes');

subtest 'fault_s4_clock_goes_back_two_hours' => sub {
	away_from_its_time();
	my $run = last_run();
	my $before = sql('SELECT clock_timestamp()');
	$preload->set_clock(-2 * $HOUR);
	is(sql("SELECT clock_timestamp() BETWEEN '$before'::timestamptz - interval '2 hours' AND '$before'::timestamptz - interval '1 hour'"), 't', 'the clock is set back');
	$node->wait_until("SELECT count(*) >= 3 @{[ runs(qq{detector = 'quick' AND run_id > $run AND started_at < '$before'}) ]}", 'the interval stalls');
	is(sql(q{SELECT next_due <= clock_timestamp() + every FROM anomaly.schedule WHERE name = 'quick'}), 't', 'an interval of seconds goes on');
	is(sql(q{SELECT next_due BETWEEN clock_timestamp() AND clock_timestamp() + every FROM anomaly.schedule WHERE name = 'hourly'}), 't',
		'one of an hour is at most an hour away');
	is(sql("SELECT next_due > '$before' FROM anomaly.schedule WHERE name = 'by_clock'"), 't', 'the cron expression waits for a time that it has not had');
	is(sql("SELECT count(*) @{[ runs(qq{detector = 'by_clock' AND run_id > $run}) ]}"), '0', '... and no time comes twice');
};

subtest 'fault_s4_clock_goes_on_as_it_was' => sub {
	my $run = last_run();
	$preload->set_clock(0);
	$node->wait_until("SELECT count(*) >= 1 @{[ runs(qq{detector = 'by_clock' AND run_id > $run}) ]}", 'the cron expression goes on');
	is(sql(q{SELECT count(*) - count(DISTINCT floor(extract(epoch FROM started_at) / 20)) FROM anomaly.runs WHERE detector = 'by_clock'}), '0',
		'one run for each of its times, over all of it');
};

subtest 'fault_s4_clock_was_a_year_ahead' => sub {
	$preload->set_clock(365 * 24 * $HOUR);
	my $run = last_run();
	$node->wait_until("SELECT count(DISTINCT detector) = 2 @{[ runs(qq{detector IN ('by_clock', 'quick') AND run_id > $run}) ]}", 'they go on in the other year');
	$preload->set_clock(0);
	$run = last_run();
	$node->wait_until("SELECT count(DISTINCT detector) = 2 @{[ runs(qq{detector IN ('by_clock', 'quick') AND run_id > $run}) ]}", 'they go on in this year');
	is(sql(q{SELECT count(*) FROM anomaly.schedule WHERE next_due > clock_timestamp() + interval '1 hour'}), '0', 'nothing waits for the other year');
};

subtest 'fault_s5_clock_goes_forward_six_hours' => sub {
	sql(q{SELECT anomaly.watch('reading', value => 'v', at => 'at', strategy => 'mad', every => '15 minutes', name => 'each_' || i) FROM generate_series(1, 6) i;
		SELECT anomaly.enable('each_' || i) FROM generate_series(1, 6) i});
	$node->wait_until("SELECT count(DISTINCT detector) = 6 @{[ runs(q{detector LIKE 'each%'}) ]}", 'six more run');
	my $run = last_run();
	my %coalesced = map { split /\|/ } split /\n/, sql(q{SELECT name, coalesced FROM anomaly.schedule WHERE name LIKE 'each%'});
	$preload->set_clock(6 * $HOUR);
	$node->wait_until("SELECT count(DISTINCT detector) = 6 @{[ runs(qq{detector LIKE 'each%' AND run_id > $run}) ]}", 'what was missed is not made up for');
	is(sql("SELECT max(n) FROM (SELECT count(*) AS n @{[ runs(qq{detector LIKE 'each%' AND run_id > $run}) ]} GROUP BY detector) q"), '1', 'once each');
	my ($first, $last) = split /\|/, sql("SELECT extract(epoch FROM min(started_at) - min(min(started_at)) OVER ())::int,
		extract(epoch FROM max(started_at) - min(started_at))::int @{[ runs(qq{detector LIKE 'each%' AND run_id > $run}) ]}");
	cmp_ok($last, '>=', 3, 'spread over a time');
	is(sql(q{SELECT count(*) FROM anomaly.schedule WHERE name LIKE 'each%' AND coalesced BETWEEN 22 AND 24}), '6', 'what had no run of its own is counted');
};

subtest 'fault_s5_skip' => sub {
	sql(q{ALTER ROLE CURRENT_USER SET anomaly_detection.misfire = 'skip'});
	$node->restart;
	my $run = last_run();
	$preload->set_clock(12 * $HOUR);
	$node->wait_until(q{SELECT bool_and(next_due > clock_timestamp() AND coalesced >= 44) FROM anomaly.schedule WHERE name LIKE 'each%'}, 'they are not put off');
	is(sql("SELECT count(*) @{[ runs(qq{detector LIKE 'each%' AND run_id > $run}) ]}"), '0', 'what was missed is left out');
	$node->wait_until("SELECT count(*) > 0 @{[ runs(qq{detector = 'quick' AND run_id > $run}) ]}", 'nothing runs');
	pass('what is due by now goes on');
};

$node->stop;
done_testing();
