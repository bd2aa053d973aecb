# A detector for every available strategy, all over one table.
#
#   EveryStrategy::create($node, @entities);    # table metric: at, entity, value, with the same history for each entity
#   EveryStrategy::watch($node);                # detectors s_<strategy> that run every second; returns the short names
#   EveryStrategy::by_hand($node, $prefix);     # detectors <prefix>_<strategy> that only anomaly.scan() runs; the same
package EveryStrategy;
use strict;
use warnings;

# What a strategy cannot do without.
my %PARAMS = (threshold => '{"min": 90, "max": 110}');

my $COLUMNS = q(value => 'value', at => 'at', entity => 'entity', alerts_per_day => 100, settle => '0 seconds');

# 700 points every 10 seconds up to half a minute ago, 100 give or take 2, in an order without a season.
sub create
{
	my ($node, @entities) = @_;
	my $entities = join ', ', map { "('$_')" } @entities;
	$node->safe_psql('postgres', qq{
		CREATE TABLE metric (at timestamptz NOT NULL, entity text NOT NULL, value double precision NOT NULL);
		CREATE INDEX metric_at ON metric (at);
		INSERT INTO metric
		SELECT now() - interval '30 seconds' - (700 - i) * interval '10 seconds', e.name, 100 + ((i * i + 31 * i) % 401 - 200) / 100.0
		  FROM generate_series(1, 700) i, (VALUES $entities) e (name);
	});
	return;
}

sub strategies
{
	my ($node) = @_;
	return split /\n/, $node->safe_psql('postgres', 'SELECT short_name FROM anomaly.strategies WHERE available ORDER BY 1');
}

sub params
{
	my ($strategy) = @_;
	return $PARAMS{$strategy} // '{}';
}

sub watch
{
	my ($node) = @_;
	my @strategies = strategies($node);
	$node->safe_psql('postgres', qq{SELECT anomaly.watch('metric', $COLUMNS, every => '1 second', strategy => '$_',
		params => '@{[ params($_) ]}', name => 's_$_')}) for @strategies;
	return @strategies;
}

sub by_hand
{
	my ($node, $prefix) = @_;
	my @strategies = strategies($node);
	$node->safe_psql('postgres', qq{
		SELECT anomaly.create_detector('data_outlier', '$_', 'value', source => 'metric', $COLUMNS, params => '@{[ params($_) ]}',
		       name => '${prefix}_$_');
		SELECT anomaly.train('${prefix}_$_')}) for @strategies;
	return @strategies;
}

1;
