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
	SELECT anomaly.create_detector('system_cpu', 'adaptive', 'load', min_data_points => 30, params => '{"ensemble_threshold": 0.6, "detectors": [
	       {"strategy": "zscore", "weight": 0.3}, {"strategy": "threshold", "weight": 0.7, "params": {"min": -1e9, "max": 1e9}}]}', name => 'voted');
	SELECT anomaly.train('of_table'), anomaly.train('by_quartiles');
	SELECT count(*) FROM generate_series(1, 150) i, unnest('{u1,u2}'::text[]) u, anomaly.process_data_point(jsonb_build_object('load', 20 + i % 7, 'entity_id', u,
	       'timestamp', now() - (160 - i) * interval '1 s'));
	SELECT count(*) FROM generate_series(1, 50) i, anomaly.process_data_point(jsonb_build_object('amount', 20 + i % 7, 'entity_id', 'u1',
	       'timestamp', now() - (60 - i) * interval '1 s'));
});
my $KEPT = q{
	SELECT d.detector, d.anomaly_type, d.strategy, d.metric_name, d.entity_type, d.source, d.value_column, d.at_column, d.entity_column, d.time_zone,
	       d.settle, d.training_window, d.min_data_points, d.threshold, d.alerts_per_day, d.fire_after, d.clear_after, d.max_entities, d.params,
	       d.enabled, d.status, d.last_training_time, d.model_version, d.trained_rows, d.entities, md5(m.payload)
	  FROM anomaly.detectors d JOIN anomaly.model m ON m.detector = d.detector AND m.version = d.model_version ORDER BY 1};
my $before = $node->safe_psql('postgres', $KEPT);
is(() = $before =~ /^./mg, 4, 'four detectors with models');
is($node->safe_psql('postgres', q{SELECT count(*) FROM anomaly.process_data_point('{"load": 900, "entity_id": "u2"}')}), '0', 'nothing alerts that one member of 0.3 finds alone');
$node->safe_psql('postgres', q{SELECT anomaly.update_detector_performance('voted', 'zscore', true_positives => 40, false_positives => 2),
	anomaly.update_detector_performance('voted', 'threshold', true_negatives => 7, false_negatives => 40)});
my $COUNTS = 'SELECT * FROM anomaly.member_performances ORDER BY member';
my $counts = $node->safe_psql('postgres', $COUNTS);
like($counts, qr/^voted\|postgres\|statistical_threshold\|0\|0\|7\|40\|0\|0\|0\|.*\nvoted\|postgres\|statistical_zscore\|40\|2\|0\|0\|0\.95/, 'counts of two members');
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
	(my $check = $title) =~ s/c5/c24/;
	is($node->safe_psql('postgres', $COUNTS), $counts, "$check: counts of members are as before");
	is($node->safe_psql('postgres', qq{SELECT value FROM anomaly.process_data_point('{"load": ${round}000, "entity_id": "u1"}')}), "${round}000", '... and weights follow them');
	is($node->safe_psql('postgres', qq{SELECT count(*) FROM anomaly.process_data_point('{"load": 23, "entity_id": "u1"}')}), '0', '... and a normal point does not alert') for 1 .. 3;
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
