# fault_d14: alerts are published to another server that has the extension too. They arrive, with what happens to them later;
# the subscriber scans nothing and tells nobody, even where all of it is published.
use strict;
use warnings;
use AnomalyNode;
use Readings;
use Test::More;
use Time::HiRes qw(sleep);

my $publisher = AnomalyNode->start_new('publisher', allows_streaming => 'logical');
my $subscriber = AnomalyNode->start_new('subscriber', allows_streaming => 'logical');
my @alice = Readings::as('alice');
for ($publisher, $subscriber)
{
	$_->safe_psql('postgres', q{CREATE ROLE alice LOGIN; CREATE SCHEMA told AUTHORIZATION alice;});
	$_->safe_psql('postgres', q{CREATE TABLE told.message (sequence int, transition text);
		CREATE FUNCTION told.write(alert jsonb) RETURNS void LANGUAGE sql AS $$ INSERT INTO told.message SELECT (alert ->> 'sequence')::int, alert ->> 'transition' $$}, @alice);
}
Readings::create($publisher);
$subscriber->safe_psql('postgres', 'CREATE TABLE reading (at timestamptz NOT NULL, entity text NOT NULL, value double precision NOT NULL)');
$_->safe_psql('postgres', 'GRANT SELECT ON reading TO alice') for $publisher, $subscriber;
$publisher->safe_psql('postgres', q{SELECT anomaly.create_handler('writes', 'function', 'told.write'), anomaly.create_handler('waits', 'webhook', 'https://example.com/');
	SELECT anomaly.watch('reading', value => 'value', at => 'at', entity => 'entity', every => '1 second', settle => '0 seconds', strategy => 'zscore', threshold => 8, name => 'watched')}, @alice);

sub caught_up
{
	my ($title) = @_;
	$publisher->wait_for_catchup($_) for 'alerts', 'rest';
	return;
}

my $connection = $publisher->connstr . ' dbname=postgres';
$publisher->safe_psql('postgres', q{CREATE PUBLICATION alerts FOR TABLE anomaly.alert;
	CREATE PUBLICATION rest FOR TABLE anomaly.setting, anomaly.detector, anomaly.detector_state, anomaly.model, anomaly.entity_state, anomaly.handler, anomaly.outbox, reading});
$subscriber->safe_psql('postgres', "CREATE SUBSCRIPTION $_ CONNECTION '$connection' PUBLICATION $_") for 'alerts', 'rest';
$subscriber->wait_until(q{SELECT count(*) > 0 AND bool_and(srsubstate IN ('r', 's')) FROM pg_subscription_rel}, 'the tables are copied');
is($publisher->safe_psql('postgres', q{SELECT count(*) FROM anomaly.setting}), '1', 'what the publisher has');

Readings::insert_incident($publisher, 'a', 5000, 3);
$publisher->wait_for_alert('watched', q{entity = 'a' AND status = 'resolved'});
Readings::insert_incident($publisher, 'b', 5000, 3);
$publisher->wait_for_alert('watched', q{entity = 'b'});
$publisher->safe_psql('postgres', q{SELECT anomaly.acknowledge(id, 'seen') FROM anomaly.alerts WHERE entity = 'b'}, @alice);
$publisher->wait_until(q{SELECT count(*) >= 4 FROM told.message}, 'the publisher has told its handler');
$publisher->wait_until(q{SELECT bool_and(status = 'resolved') FROM anomaly.alerts}, 'all is over');
caught_up();
my $ALERTS = 'SELECT id, uuid, entity, status, severity, severity_rank, points, note, value, at, last_at, owner FROM anomaly.alerts ORDER BY id';
is($subscriber->safe_psql('postgres', $ALERTS), $publisher->safe_psql('postgres', $ALERTS), 'fault_d14_alerts_arrive: with every change');
is($subscriber->safe_psql('postgres', $ALERTS, @alice), $publisher->safe_psql('postgres', $ALERTS, @alice), '... for who may see them');
is($subscriber->safe_psql('postgres', 'SELECT count(*) FROM anomaly.detectors'), '1', 'fault_d14_power: the detector, its source and its handlers are there');
is($subscriber->safe_psql('postgres', 'SELECT count(*) FROM reading') + 0, $publisher->safe_psql('postgres', 'SELECT count(*) FROM reading') + 0, '... and something to judge');
is($subscriber->safe_psql('postgres', 'SELECT oid FROM pg_database WHERE datname = current_database()'), $publisher->safe_psql('postgres', 'SELECT database_oid FROM anomaly.setting'),
	'... and the database has the number that the setting names');
cmp_ok($publisher->safe_psql('postgres', q{SELECT count(*) FROM anomaly.outbox}), '>', 0, '... and messages wait at the publisher');

sleep 6;    # the launcher looks for new databases every 5 seconds
is($subscriber->safe_psql('postgres', q{SELECT (SELECT count(*) FROM anomaly.runs), (SELECT count(*) FROM told.message), (SELECT count(*) FROM anomaly.deliveries), (SELECT count(*) FROM anomaly.setting)}),
	'0|0|0|0', 'fault_d14_nothing_runs: no scan, no message');
like($subscriber->safe_psql('postgres', q{SELECT string_agg(status, ' ') FROM anomaly.health WHERE kind = 'system'}), qr/paused/, 'anomaly.health says why');
is($subscriber->sqlstate(q{SELECT anomaly.scan('watched')}, 'postgres', @alice), '55000', 'nor by hand');
$publisher->safe_psql('postgres', 'SELECT anomaly.pause()');
$publisher->safe_psql('postgres', 'SELECT anomaly.resume()');
caught_up();
is($subscriber->safe_psql('postgres', 'SELECT count(*) FROM anomaly.setting'), '0', 'what is changed later does not start it either');
is($subscriber->safe_psql('postgres', 'SELECT anomaly.resume() IS NOT NULL'), 't', 'fault_d14_take_over: when somebody says so, it goes on');
$subscriber->safe_psql('postgres', 'DROP SUBSCRIPTION alerts; DROP SUBSCRIPTION rest');
$subscriber->wait_until(q{SELECT EXISTS (SELECT FROM anomaly.runs WHERE status = 'succeeded')}, 'it scans');
$_->stop for $publisher, $subscriber;
done_testing();
