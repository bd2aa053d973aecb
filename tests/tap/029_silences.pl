# NOTIFY counts the alerts that are not silenced, whoever judges.
use strict;
use warnings;
use AnomalyNode;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = AnomalyNode->start_new('silences', conf => 'anomaly_detection.enabled = off');
$node->safe_psql('postgres', q{
	CREATE TABLE reading AS SELECT now() - i * interval '1 minute' AS at, e AS entity, 50 + i * 7919 % 101 / 25.0 AS v FROM generate_series(1, 300) i, unnest('{a,b}'::text[]) e;
	SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', source => 'reading', value => 'v', at => 'at', entity => 'entity', threshold => 8, settle => '0 s', every => '1 hour', clear_after => 1, name => 'scanned');
	SELECT anomaly.train('scanned');
	SELECT anomaly.create_detector('data_outlier', 'zscore', 'brought', threshold => 8, min_data_points => 50, clear_after => 1, name => 'brought');
	SELECT count(*) FROM generate_series(1, 100) i, unnest('{a,b,c,d}'::text[]) e,
	       anomaly.process_data_point(jsonb_build_object('brought', 50 + i % 5, 'entity_id', e, 'timestamp', now() - interval '1 day' + i * interval '1 minute'));
	CREATE FUNCTION value(v float8, entity text DEFAULT 'a') RETURNS jsonb LANGUAGE sql AS $$ SELECT jsonb_build_object('brought', v, 'entity_id', entity) $$;
});

# How many alerts listeners hear of when a session does this.
sub told
{
	my ($sql) = @_;
	my $out = $node->safe_psql('postgres', "LISTEN anomaly_alert;\n$sql;\nSELECT 1");
	return join ' ', $out =~ /"anomaly_alert" with payload "\{.*?"count" : (\d+)\}"/g;
}

my $DUE = q{UPDATE anomaly.detector_state SET next_due = now() WHERE detector = 'scanned'};
my $INCIDENT = q{INSERT INTO reading VALUES (clock_timestamp(), 'a', 900), (clock_timestamp(), 'b', 900)};
my $OVER = q{INSERT INTO reading SELECT clock_timestamp(), e, 50 FROM unnest('{a,b}'::text[]) e};
my @by = (
	[ 'anomaly.scan()', q{SELECT anomaly.scan('scanned')}, $INCIDENT, 2 ],
	[ 'run_due()', 'CALL anomaly.run_due()', "$INCIDENT; $DUE", 2 ],
	[ 'process_data_point()', q{SELECT count(*) FROM anomaly.process_data_point(value(900))}, 'SELECT', 1 ],
	[ 'process_data()', q{SELECT anomaly.process_data('data_outlier', value(900, 'b') - 'entity_id', 'b')}, 'SELECT', 1 ],
	[ 'process_batch()', q{SELECT count(*) FROM anomaly.process_batch(jsonb_build_array(value(900, 'c'), value(900, 'd')))}, 'SELECT', 2 ]);
my $END = "SELECT count(*) FROM unnest('{a,b,c,d}'::text[]) e, anomaly.process_data_point(value(52, e)); $OVER; SELECT anomaly.scan('scanned')";

$node->safe_psql('postgres', 'DELETE FROM reading WHERE at > now()');
for (@by)
{
	my ($name, $sql, $before, $count) = @$_;
	$node->safe_psql('postgres', "$before; SELECT pg_sleep(0.01)");
	is(told($sql), $count, "$name tells of $count");
	$node->safe_psql('postgres', $END);
}
my $silence = $node->safe_psql('postgres', q{SELECT anomaly.silence(tstzrange(now() - interval '1 second', now() + interval '1 day'))});
for (@by)
{
	my ($name, $sql, $before) = @$_;
	$node->safe_psql('postgres', "$before; SELECT pg_sleep(0.01)");
	is(told($sql), '', "silenced, $name tells nobody");
	is($node->safe_psql('postgres', "SELECT bool_and(silenced_by = $silence), count(*) > 0 FROM anomaly.alerts WHERE status = 'open'"), 't|t', 'and the alerts are there');
	$node->safe_psql('postgres', $END);
}

# One that outlasts its silence is told of by what finds its next point; until then nothing of it is.
$node->safe_psql('postgres', $INCIDENT);
is(told(q{SELECT anomaly.scan('scanned')}), '', 'silenced');
$node->safe_psql('postgres', "SELECT anomaly.drop_calendar($silence); $INCIDENT; SELECT pg_sleep(0.01)");
is(told(q{SELECT anomaly.scan('scanned')}), '2', 'and told of when it goes on afterwards');
is($node->safe_psql('postgres', q{SELECT count(*) FROM anomaly.alerts WHERE status = 'open' AND silenced_by IS NULL AND points > 1}), '2', 'not silenced any more');

done_testing();
