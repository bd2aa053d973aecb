# A larger spike or drop never scores lower, for every strategy, end to end through the worker.
use strict;
use warnings;
use AnomalyNode;
use EveryStrategy;
use Test::More;

my $node = AnomalyNode->start_new('monotone');

# One entity for each size and side, which differ in nothing but the point at which they part.
my @SIZES = (0.5, 1, 2, 4, 8, 16, 32, 64, 256, 1e3, 1e6, 1e9, 1e12);
my @cases = map { my $side = $_; map { [ $side, $_ ] } @SIZES } 1, -1;
my $cases = join ', ', map { sprintf "('%s %s', %d, %s::float8)", $_->[0] > 0 ? 'up' : 'down', $_->[1], @$_ } @cases;
EveryStrategy::create($node, map { sprintf '%s %s', $_->[0] > 0 ? 'up' : 'down', $_->[1] } @cases);
$node->safe_psql('postgres', "CREATE TABLE injected (entity text PRIMARY KEY, side int, size float8); INSERT INTO injected VALUES $cases");
my @strategies = EveryStrategy::watch($node);
cmp_ok(scalar @strategies, '>=', 3, "strategies: @strategies");

# Three quiet points, the anomaly, three quiet points, all a little later than now, so that every detector sees them together.
$node->safe_psql('postgres', q{INSERT INTO metric
	SELECT now() + interval '10 seconds' + i * interval '1 millisecond', entity, 100.25 + i / 8.0 + CASE WHEN i = 4 THEN side * size ELSE 0 END
	  FROM injected, generate_series(1, 7) i});
$node->wait_until(q{SELECT NOT EXISTS (SELECT FROM anomaly.detectors WHERE watermark IS NULL OR watermark < (SELECT max(at) FROM metric))},
	'the workers have not seen the points');
is($node->safe_psql('postgres', q{SELECT DISTINCT detector || ': ' || error_message FROM anomaly.runs WHERE status NOT IN ('succeeded', 'running')}), '', 'no run has failed');
is($node->safe_psql('postgres', q{SELECT count(*) FROM anomaly.runs WHERE status = 'succeeded' AND started_by <> 'worker' AND kind = 'scan'}), '0',
	'the workers have scanned, nobody else');

# The deviation of the alert of each entity, 0 where there is none. Its peak may be the way back: then it has no side.
sub scores
{
	my ($strategy) = @_;
	return qq{SELECT i.side, i.size, COALESCE(a.deviation, 0) AS deviation,
		CASE WHEN a.peak_at = p.at THEN a.direction END AS direction
		FROM injected i CROSS JOIN LATERAL (SELECT at FROM metric m WHERE m.entity = i.entity ORDER BY at DESC OFFSET 3 LIMIT 1) p
		LEFT JOIN anomaly.alerts a ON a.detector = 's_$strategy' AND a.entity = i.entity AND p.at BETWEEN a.at AND a.last_at};
}

# These look at how values vary or repeat, or at the level of several: a single spike may be nothing to them.
my %BLIND = map { $_ => 1 } qw(flat_line volatility_shift level_shift changepoint);
for my $strategy (@strategies)
{
	my $scores = scores($strategy);
	is($node->safe_psql('postgres', qq{SELECT side, size, deviation, before
		FROM (SELECT *, lag(deviation) OVER (PARTITION BY side ORDER BY size) AS before FROM ($scores) s) q
		WHERE deviation < before * (1 - 1e-9) ORDER BY side, size}), '', "monotone_$strategy: a larger spike or drop never scores lower");
	is($node->safe_psql('postgres', qq{SELECT side, size, direction FROM ($scores) s
		WHERE direction <> CASE side WHEN 1 THEN 'above' ELSE 'below' END}), '', '... and spikes are above, drops below');
	my $told = $node->safe_psql('postgres', qq{SELECT string_agg(side || ': ' || n, ', ' ORDER BY side DESC) FROM
		(SELECT side, count(*) FILTER (WHERE deviation > 0) AS n FROM ($scores) s GROUP BY side) q});
	note("$strategy: alerts of @{[ scalar @SIZES ]} sizes: $told");
	next if $BLIND{$strategy};
	is($node->safe_psql('postgres', qq{SELECT side FROM ($scores) s GROUP BY side HAVING max(deviation) <= 3
		OR count(*) FILTER (WHERE deviation > 0) < 4}), '', '... and the large ones are told');
}
$node->stop;
done_testing();
