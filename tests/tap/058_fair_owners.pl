# fault_a9_fair_queue: a role with more due detectors than can be scanned in time takes its turns, and no more.
use strict;
use warnings;
use AnomalyNode;
use Test::More;

# One worker for all, and a role whose detectors are due each second and take half a minute to go through once: its oldest has
# always been due for longer than anybody else's.
my $node = AnomalyNode->start_new('fair', conf => <<'CONF');
anomaly_detection.max_workers = 1
anomaly_detection.min_interval = 1000
CONF
$node->safe_psql('postgres', <<'SQL');
CREATE ROLE flood LOGIN;
CREATE ROLE modest LOGIN;
CREATE SCHEMA flood AUTHORIZATION flood;
CREATE SCHEMA modest AUTHORIZATION modest;
SET SESSION AUTHORIZATION flood;
CREATE TABLE flood.reading AS SELECT now() - i * interval '1 minute' AS at, sin(i) AS v FROM generate_series(1, 200) i;
CREATE VIEW flood.slow AS SELECT at, v FROM flood.reading WHERE (SELECT s IS NOT NULL FROM pg_sleep(0.1) s);
SELECT count(anomaly.create_detector('data_outlier', 'zscore', 'v', source => 'flood.slow', value => 'v', at => 'at', every => '1 second', name => 'flood_' || i)) FROM generate_series(1, 300) i;
SQL
$node->wait_until(q(SELECT count(*) > 15 FROM anomaly.runs WHERE status = 'succeeded' AND detector ~ '^flood'), 'the flood has not begun');
$node->safe_psql('postgres', <<'SQL');
SET SESSION AUTHORIZATION modest;
CREATE TABLE modest.reading AS SELECT now() - i * interval '1 minute' AS at, sin(i) AS v FROM generate_series(1, 200) i;
SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', source => 'modest.reading', value => 'v', at => 'at', every => '1 second', name => 'modest_v');
SQL
$node->wait_until(q(SELECT count(*) >= 4 FROM anomaly.runs WHERE status = 'succeeded' AND detector = 'modest_v'), 'fault_a9_fair_queue: the modest role is starved');
my $between = $node->safe_psql('postgres', q(SELECT max(flood - before) FROM (SELECT flood, lag(flood) OVER (ORDER BY run_id) AS before FROM
	(SELECT run_id, (SELECT count(*) FROM anomaly.runs f WHERE f.run_id < r.run_id AND f.detector ~ '^flood') AS flood FROM anomaly.runs r WHERE detector = 'modest_v') r) r));
cmp_ok($between, '<', 100, "fault_a9_fair_queue: at most $between runs between two of the modest role, not one of each detector of the flood");
cmp_ok($between, '>', 1, 'and the flood goes on');
$node->wait_until(q(SELECT count(*) > 0 FROM anomaly.health WHERE kind = 'system' AND problem = 'worker limit reached'), 'the limit is not shown');

# fault_a9_detectors_per_role: by default a role cannot have ten thousand
is($node->sqlstate(q(SET SESSION AUTHORIZATION flood; SELECT anomaly.create_detector('data_outlier', 'mad', 'm', name => 'point_' || i) FROM generate_series(1, 701) i)), '53400', 'fault_a9_detectors_per_role');
is($node->sqlstate(q(ALTER ROLE flood SET anomaly_detection.max_detectors_per_role = 2000)), '', 'a role can be given more');
is($node->sqlstate(q(SELECT anomaly.create_detector('data_outlier', 'mad', 'm', name => 'point_' || i) FROM generate_series(1, 701) i), 'postgres', extra_params => [ '-U', 'flood' ]), '', 'and has them in its sessions');
$node->stop('immediate');
done_testing();
