# check_c42: a strategy made of SQL functions in the worker: as the detector's owner, cancelled like any query, and its faults are
# those of its detector alone.
use strict;
use warnings;
use AnomalyNode;
use Readings;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = AnomalyNode->start_new('own');
my @alice = Readings::as('alice');
Readings::create($node);
$node->safe_psql('postgres', q{
	CREATE ROLE alice LOGIN;
	GRANT SELECT ON reading TO alice;
	CREATE SCHEMA own AUTHORIZATION alice;
	CREATE TABLE public.fault (kind text);
	INSERT INTO public.fault VALUES ('');
	GRANT SELECT ON public.fault TO alice;
});
$node->safe_psql('postgres', q{
	CREATE FUNCTION own.train(at timestamptz[], value float8[], params jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS
		$$ SELECT jsonb_build_object('mean', avg(v), 'run_as', current_user, 'logged_in_as', session_user) FROM unnest(value) v $$;
	CREATE FUNCTION own.score(state jsonb, at timestamptz, value float8, params jsonb) RETURNS float8 LANGUAGE plpgsql STABLE AS $$
	DECLARE
		kind text = (SELECT f.kind FROM public.fault f);
	BEGIN
		IF kind = 'raise' THEN RAISE 'out of ideas'; END IF;
		IF kind = 'hang' THEN PERFORM pg_sleep(600); END IF;
		RETURN abs(value - (state ->> 'mean')::float8);
	END $$;
	SELECT anomaly.create_strategy('distance', 'own.score', 'own.train');
	SELECT anomaly.watch('reading', value => 'value', at => 'at', entity => 'entity', every => '1 second', settle => '0 seconds', strategy => 'distance', threshold => 30, name => 'own');
	SELECT anomaly.watch('reading', value => 'value', at => 'at', entity => 'entity', every => '1 second', settle => '0 seconds', strategy => 'zscore', threshold => 8, name => 'other');
}, @alice);
is($node->safe_psql('postgres', q{SELECT DISTINCT explanation -> 'state' ->> 'run_as', explanation -> 'state' ->> 'logged_in_as' FROM anomaly.explain_detector('own')}, @alice),
	'alice|alice', 'it is trained as its owner');
Readings::twin($node, 'own', 'alice');

subtest 'check_c42_own_strategy_in_the_worker' => sub {
	Readings::insert_incident($node, 'a', 5000, 3);
	$node->wait_for_alert('own', q{entity = 'a' AND status = 'resolved'});
	Readings::is_as_undisturbed($node, 'own', 'scans of the worker tell what one scan by hand tells', 'alice');
};

subtest 'check_c42_a_fault_is_that_of_its_detector' => sub {
	$node->safe_psql('postgres', q{UPDATE public.fault SET kind = 'raise'});
	Readings::insert_incident($node, 'b', 5000, 3);
	$node->wait_for_alert('other', q{entity = 'b' AND status = 'resolved'});
	$node->wait_until(q{SELECT EXISTS (SELECT FROM anomaly.runs WHERE detector = 'own' AND status = 'failed')}, 'the run has failed');
	like($node->safe_psql('postgres', q{SELECT DISTINCT error_message FROM anomaly.runs WHERE detector = 'own' AND status = 'failed'}),
		qr/^function score of strategy "distance" \(detector "own"\): out of ideas/, 'it says whose fault it is');
	like($node->safe_psql('postgres', q{SELECT reason FROM anomaly.health WHERE name = 'own'}), qr/out of ideas/, 'and so does anomaly.health');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM anomaly.alerts WHERE detector = 'own' AND entity = 'b'}), '0', 'it has judged nothing meanwhile');
};

subtest 'check_c42_a_function_can_be_cancelled' => sub {
	$node->safe_psql('postgres', q{UPDATE public.fault SET kind = 'hang'});
	my ($out, $err) = ('', '');
	is($node->psql('postgres', q{SET statement_timeout = 500; SELECT anomaly.backtest('own', '10 minutes')}, stderr => \$err, @alice), 3, 'the statement ends');
	like($err, qr/canceling statement due to statement timeout/, 'by its timeout');
};

subtest 'check_c42_nothing_is_lost' => sub {
	$node->safe_psql('postgres', q{UPDATE public.fault SET kind = ''});
	$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type LIKE 'anomaly_detection scan worker%' AND wait_event = 'PgSleep'});
	$node->safe_psql('postgres', q{SELECT anomaly.enable('own')}, @alice);
	$node->wait_for_alert('own', q{entity = 'b' AND points = 2});
	Readings::is_as_undisturbed($node, 'own', 'what was not judged then is judged now', 'alice');
};
$node->stop;
done_testing();
