# fault_q11: what NOTIFY cannot carry, or not now, costs no alert. Payloads beyond 8000 bytes, transactions that are prepared, and
# a queue that is full.
use strict;
use warnings;
use AnomalyNode;
use Readings;
use PostgreSQL::Test::Utils;
use Test::More;

my $has_small_queue = 0;
my $node = AnomalyNode->init_new('notify', conf => "max_prepared_transactions = 4");
$node->start;
$has_small_queue = $node->safe_psql('postgres', 'SHOW server_version_num') >= 170000;
if ($has_small_queue)
{
	$node->append_conf('postgresql.conf', 'max_notify_queue_pages = 64');
	$node->restart;
}
$node->safe_psql('postgres', 'CREATE EXTENSION anomaly_detection; CREATE ROLE alice LOGIN; CREATE SCHEMA told AUTHORIZATION alice');
my @alice = Readings::as('alice');

subtest 'fault_q11_long_payload' => sub {
	my $listener = $node->background_psql('postgres');
	$listener->query_safe('LISTEN told');
	$node->safe_psql('postgres', q{
		CREATE TABLE told.long (at timestamptz, e text, v float8);
		INSERT INTO told.long SELECT now() - i * interval '1 minute', e, (i * 7919 % 101) / 25.0 FROM generate_series(1, 200) i, unnest(ARRAY['short', repeat('long ', 1500), repeat('ä', 5000)]) e;
		SELECT anomaly.watch('told.long', value => 'v', at => 'at', entity => 'e', every => '1 second', settle => '0 s', strategy => 'zscore', threshold => 8, name => 'long');
		SELECT anomaly.create_handler('channel', 'notify', 'told', '{"transitions": "opened"}', template => '{{entity}} {{entity}} {{entity}}');
		INSERT INTO told.long SELECT now() + interval '3 seconds', e, 1000 FROM (SELECT DISTINCT e FROM told.long) e}, @alice);
	$node->wait_until(q{SELECT count(*) = 3 FROM anomaly.alerts WHERE detector = 'long'}, 'an alert of each entity');
	$node->wait_until(q{SELECT count(*) = 0 FROM anomaly.deliveries}, 'all are told');
	my $heard = $listener->query('SELECT 1');
	my @told = $heard =~ /notification "told" with payload "(\{.*\})" received/g;
	is(scalar @told, 3, 'three messages');
	is(scalar(grep { length($_) < 8000 && /"id":/ && /"transition":"opened"/ } @told), 3, 'each short enough, and saying which alert it is');
	is(scalar(grep { /"entity":"short"/ } @told), 1, 'what fits is there');
	is($node->safe_psql('postgres', q{SELECT count(DISTINCT entity) FROM anomaly.alerts WHERE detector = 'long'}), '3', 'the alerts have all of it');
	$listener->quit;
};

subtest 'fault_q11_two_phase_commit' => sub {
	my $alert = q{SELECT count(*) FROM anomaly.process_data_point('{"load": 99}')};
	$node->safe_psql('postgres', q{SELECT anomaly.create_detector('system_cpu', 'mad', 'load', threshold => 9, min_data_points => 20, name => 'brought');
		SELECT count(*) FROM generate_series(1, 60) i, anomaly.process_data_point(jsonb_build_object('load', 1 + (i % 5) / 10.0, 'timestamp', now() - (61 - i) * interval '1 s'))}, @alice);
	is($node->sqlstate("BEGIN; $alert; PREPARE TRANSACTION 'one'", 'postgres', @alice), '0A000', 'PostgreSQL prepares no transaction that has sent a NOTIFY');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM anomaly.alerts WHERE detector = 'brought'}), '0', '... and takes all of it back');
	$node->safe_psql('postgres', "SET anomaly_detection.notifications = off; BEGIN; $alert; PREPARE TRANSACTION 'two'", @alice);
	is($node->safe_psql('postgres', q{SELECT count(*) FROM anomaly.alerts WHERE detector = 'brought'}), '0', 'prepared, with notifications off');
	is($node->sqlstate("SET lock_timeout = '200ms'; $alert", 'postgres', @alice) =~ /^5/ ? 'in the way' : 'not', 'in the way', 'until it ends, no other point is judged beside it');
	$node->restart;
	$node->safe_psql('postgres', q{COMMIT PREPARED 'two'}, @alice);
	is($node->safe_psql('postgres', q{SELECT status, value FROM anomaly.alerts WHERE detector = 'brought'}), 'open|99', 'committed after a restart: the alert is there');
};

subtest 'fault_q11_full_queue' => sub {
	plan skip_all => 'the queue takes 8 GB before PostgreSQL 17' unless $has_small_queue;
	my $idler = $node->background_psql('postgres');
	$idler->query_safe('LISTEN anything');
	$idler->query_safe('BEGIN; SELECT 1');
	my $full = '';
	for (1 .. 400)
	{
		$full = $node->sqlstate(q{SELECT pg_notify('anything', repeat('x', 7900) || i) FROM generate_series(1, 5) i});
		last if $full ne '';
	}
	is($full, '54000', 'the queue is full');
	my $runs = $node->safe_psql('postgres', q{SELECT max(run_id) FROM anomaly.runs});
	$node->safe_psql('postgres', q{INSERT INTO told.long SELECT now() + interval '3 seconds', 'short', 5 * pow(-1, i) * i FROM generate_series(1, 1) i;
		INSERT INTO told.long VALUES (now() + interval '4 seconds', 'short', 2), (now() + interval '5 seconds', 'short', 2), (now() + interval '6 seconds', 'short', 2), (now() + interval '7 seconds', 'short', 7000)}, @alice);
	$node->wait_for_alert('long', 'value = 7000');
	is($node->safe_psql('postgres', "SELECT count(*) FROM anomaly.runs WHERE run_id > $runs AND status NOT IN ('succeeded', 'running')"), '0', 'the alert is stored, and no run fails');
	$node->wait_until(q{SELECT EXISTS (SELECT FROM anomaly.deliveries WHERE status = 'failing' AND last_error ~ 'too many notifications')}, 'the handler of the channel is tried again');
	$idler->query_safe('COMMIT');
	$idler->quit;
	$node->safe_psql('postgres', q{SELECT anomaly.enable_handler('channel')}, @alice);
	$node->wait_until(q{SELECT count(*) = 0 FROM anomaly.deliveries}, 'and told when there is room');
	ok(1, 'delivered in the end');
};
unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal/, 'nothing has crashed');
$node->stop;
done_testing();
