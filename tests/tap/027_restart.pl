# A restart of the server and a second session: settings and models are there and detect, with no training in between.
use strict;
use warnings;
use AnomalyNode;
use Readings;
use Test::More;

# Without workers, so that nothing but the calls below can have trained.
my $node = AnomalyNode->start_new('restart', preload => 0);
Readings::create($node);
$node->safe_psql('postgres', q{
	SELECT anomaly.create_detector('data_outlier', 'zscore', 'value', source => 'reading', value => 'value', at => 'at', entity => 'entity',
	       training_window => '3 hours', min_data_points => 55, threshold => 4.5, alerts_per_day => 7, settle => '0 seconds', fire_after => 2,
	       clear_after => 4, max_entities => 77, entity_type => 'machine', time_zone => 'Asia/Tokyo', name => 'of_table');
	SELECT anomaly.create_detector('data_outlier', 'iqr', 'value', source => 'reading', value => 'value', at => 'at', entity => 'entity',
	       settle => '0 seconds', params => '{"sketch_capacity": 512}', name => 'by_quartiles');
	SELECT anomaly.create_detector('user_transaction_pattern', 'mad', 'amount', threshold => 6, min_data_points => 30);
	SELECT anomaly.train('of_table'), anomaly.train('by_quartiles');
	SELECT count(*) FROM generate_series(1, 50) i, anomaly.process_data_point(jsonb_build_object('amount', 20 + i % 7, 'entity_id', 'u1',
	       'timestamp', now() - (60 - i) * interval '1 s'));
});
my $KEPT = q{
	SELECT d.detector, d.anomaly_type, d.strategy, d.metric_name, d.entity_type, d.source, d.value_column, d.at_column, d.entity_column, d.time_zone,
	       d.settle, d.training_window, d.min_data_points, d.threshold, d.alerts_per_day, d.fire_after, d.clear_after, d.max_entities, d.params,
	       d.enabled, d.status, d.last_training_time, d.model_version, d.trained_rows, d.entities, md5(m.payload)
	  FROM anomaly.detectors d JOIN anomaly.model m ON m.detector = d.detector AND m.version = d.model_version ORDER BY 1};
my $before = $node->safe_psql('postgres', $KEPT);
is(() = $before =~ /^./mg, 3, 'three detectors with models');
like($before, qr{^of_table\|data_outlier\|statistical_zscore\|value\|machine\|reading\|value\|at\|entity\|Asia/Tokyo\|00:00:00\|03:00:00\|55\|4.5\|7\|2\|4\|77\|}m,
	'check_c5_settings: every setting is kept as given');

my $round = 0;
sub detects
{
	my ($title) = @_;
	$round++;
	$node->safe_psql('postgres', "INSERT INTO reading SELECT clock_timestamp() + i * interval '1 microsecond', e, CASE WHEN e = 'b' AND i > 2 THEN 250 + $round ELSE l END
		FROM generate_series(1, 5) i, (VALUES ('a', 100), ('b', 200)) v (e, l)");
	# each in a session of its own
	is($node->safe_psql('postgres', "SELECT pg_sleep(0.01); SELECT alerts_opened, points_scored FROM anomaly.scan('$_')"), "\n1|10", "$title: $_ alerts") for 'of_table', 'by_quartiles';
	is($node->safe_psql('postgres', qq{SELECT entity, value, severity FROM anomaly.process_data_point('{"amount": ${round}000, "entity_id": "u1"}')}),
		"u1|${round}000|emergency", "$title: a point alerts");
	is($node->safe_psql('postgres', qq{SELECT count(*) FROM anomaly.process_data_point('{"amount": 23, "entity_id": "u1"}')}), '0', '... and a normal one does not') for 1 .. 3;
	# the end of the episodes
	$node->safe_psql('postgres', "INSERT INTO reading SELECT clock_timestamp() + i * interval '1 microsecond', 'b', 200 FROM generate_series(1, 5) i");
	is($node->safe_psql('postgres', "SELECT pg_sleep(0.01); SELECT alerts_resolved FROM anomaly.scan('$_')"), "\n1", '... and it ends') for 'of_table', 'by_quartiles';
	return;
}
detects('check_c5_second_session');
$node->restart;
is($node->safe_psql('postgres', $KEPT), $before, 'check_c5_restart: settings and models are as before');
detects('check_c5_after_restart');
$node->stop('immediate');
$node->start;
is($node->safe_psql('postgres', $KEPT), $before, 'check_c5_crash: settings and models are as before');
detects('check_c5_after_crash');
is($node->safe_psql('postgres', $KEPT), $before, 'check_c5_no_training: the models that detected are the first ones');
$node->stop;
done_testing();
