# Traps: an ordinary role that may create objects in schema public has made one for every name that the extension could
# mean: operators, functions, aggregates, types, tables. Each trap raises an error or holds nothing. Installing the
# extension and calling every function of it, with public first on the search_path and the tables shadowed in pg_temp,
# gives what it gives without them.
use strict;
use warnings;
use AnomalyNode;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = AnomalyNode->start_new('traps', create => 0);
$node->safe_psql('postgres', 'CREATE ROLE mallory; CREATE DATABASE clean; CREATE DATABASE trapped');
my $version = $node->safe_psql('postgres', 'SHOW server_version_num');

$node->safe_psql('trapped', q{
	GRANT CREATE ON SCHEMA public TO mallory;
	SET ROLE mallory;
	DO $$
	DECLARE
		kinds CONSTANT text[] := '{smallint,integer,bigint,real,"double precision",numeric,text,name,"\"char\"",oid,regclass,regrole,boolean,
			interval,timestamptz,jsonb,bytea,"text[]","oid[]","bigint[]","double precision[]"}';
		l text; r text; o text; f record; made integer := 0;
	BEGIN
		-- One operator for each pair of types: where core has none it would be the exact match.
		FOREACH l IN ARRAY kinds LOOP
			FOREACH r IN ARRAY kinds LOOP
				EXECUTE format('CREATE FUNCTION public.trap(%s, %s) RETURNS boolean LANGUAGE plpgsql AS ''BEGIN RAISE EXCEPTION ''''trap sprung''''; END''', l, r);
				FOREACH o IN ARRAY '{=,<>,<,<=,>,>=,+,-,*,/,%,||,->>,?,@>,~}'::text[] LOOP
					EXECUTE format('CREATE OPERATOR public.%s (LEFTARG = %s, RIGHTARG = %s, PROCEDURE = public.trap)', o, l, r);
					made := made + 1;
				END LOOP;
			END LOOP;
		END LOOP;
		-- A twin of each of core's functions.
		FOR f IN SELECT proname, pg_get_function_identity_arguments(oid) AS args, pg_get_function_result(oid) AS result
			FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind = 'f' AND prorettype <> 'trigger'::regtype
			AND proname !~ '(in|out|recv|send|sel|support|handler|typmod.*|_transfn|_accum.*|_serialize|_deserialize|_combine)$' LOOP
			BEGIN
				EXECUTE format('CREATE FUNCTION public.%I(%s) RETURNS %s LANGUAGE plpgsql AS ''BEGIN RAISE EXCEPTION ''''trap sprung''''; END''', f.proname, f.args, f.result);
				made := made + 1;
			EXCEPTION WHEN invalid_function_definition OR feature_not_supported OR undefined_object OR syntax_error OR datatype_mismatch OR duplicate_function THEN
				NULL;    -- what only core can make
			END;
		END LOOP;
		FOR f IN SELECT a, k FROM unnest('{count,min,max,sum,avg,array_agg,bool_or}'::text[]) a, unnest('{*,text,integer,bigint,double precision,timestamptz,name}'::text[]) k LOOP
			IF f.k <> '*' OR f.a = 'count' THEN
				EXECUTE format('CREATE FUNCTION public.trap_%s(bigint%s) RETURNS bigint LANGUAGE plpgsql AS ''BEGIN RAISE EXCEPTION ''''trap sprung''''; END''',
					f.a, CASE f.k WHEN '*' THEN '' ELSE ', ' || f.k END);
				EXECUTE format('CREATE AGGREGATE public.%s(%s) (SFUNC = public.trap_%1$s, STYPE = bigint, INITCOND = 0)', f.a, f.k);
				made := made + 1;
			END IF;
		END LOOP;
		FOREACH l IN ARRAY '{text,name,oid,int2,int4,int8,float4,float8,"numeric",bool,timestamptz,"timestamp","interval",jsonb,bytea,uuid,regclass,regrole}'::text[] LOOP
			EXECUTE format('CREATE DOMAIN public.%I AS pg_catalog."char"', l);
			made := made + 1;
		END LOOP;
		IF made < 8000 THEN
			RAISE EXCEPTION 'only % traps', made;
		END IF;
	END $$;
	CREATE TABLE public.pg_extension (extname pg_catalog.name, extowner pg_catalog.oid);
	CREATE TABLE public.pg_class (oid pg_catalog.oid, relname pg_catalog.name);
});
isnt($node->psql('trapped', "SET search_path = public, pg_catalog; SELECT 'a' = 'b'::pg_catalog.text"), 0, 'fault_d12_power: the traps work');

my $rc = $node->psql('trapped', 'CREATE EXTENSION anomaly_detection', stderr => \my $installed);
is("$rc|$installed", '0|', 'fault_d11_traps: CREATE EXTENSION steps on none');
BAIL_OUT('nothing to test') if $rc != 0;
is($node->safe_psql('trapped', q{
	SET search_path = pg_catalog;
	SELECT DISTINCT pg_describe_object(d.classid, d.objid, d.objsubid) || ' uses ' || pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid)
	  FROM pg_depend d
	  LEFT JOIN pg_proc p ON d.refclassid = 'pg_proc'::regclass AND p.oid = d.refobjid
	  LEFT JOIN pg_operator o ON d.refclassid = 'pg_operator'::regclass AND o.oid = d.refobjid
	  LEFT JOIN pg_type t ON d.refclassid = 'pg_type'::regclass AND t.oid = d.refobjid
	  LEFT JOIN pg_class c ON d.refclassid = 'pg_class'::regclass AND c.oid = d.refobjid
	  LEFT JOIN pg_proc own_p ON d.classid = 'pg_proc'::regclass AND own_p.oid = d.objid
	  LEFT JOIN pg_operator own_o ON d.classid = 'pg_operator'::regclass AND own_o.oid = d.objid
	  LEFT JOIN pg_type own_t ON d.classid = 'pg_type'::regclass AND own_t.oid = d.objid
	  LEFT JOIN pg_class own_c ON d.classid = 'pg_class'::regclass AND own_c.oid = d.objid
	 WHERE coalesce(p.proowner, o.oprowner, t.typowner, c.relowner) = 'mallory'::regrole::oid
	   AND coalesce(own_p.proowner, own_o.oprowner, own_t.typowner, own_c.relowner, 10::oid) <> 'mallory'::regrole::oid LIMIT 10}), '',
	'... and nothing of the extension depends on any');

# Aggregates with the names and types of ours stop the installation, like the types and functions of 001_install.pl.
$node->safe_psql('clean', 'CREATE EXTENSION anomaly_detection');
my @aggregates = split /\n/, $node->safe_psql('clean', q{SELECT p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')' FROM pg_proc p
	JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e' JOIN pg_extension e ON e.oid = d.refobjid AND extname = 'anomaly_detection'
	WHERE prokind = 'a' AND NOT EXISTS (SELECT FROM pg_type t WHERE t.oid = ANY (proargtypes) AND (typnamespace <> 'pg_catalog'::regnamespace OR typtype = 'p'))});
cmp_ok(scalar @aggregates, '>=', 5, 'the extension has aggregates');
$node->safe_psql('postgres', 'CREATE DATABASE taken');
$node->safe_psql('taken', 'GRANT CREATE ON SCHEMA public TO mallory');
for (@aggregates)
{
	(my $aggregate = $_) =~ s/\w+ (double precision|boolean)/$1/g;
	my $arguments = $aggregate =~ s/^.*\(|\)$//gr;
	$node->safe_psql('taken', "SET ROLE mallory; CREATE FUNCTION public.step(text, $arguments) RETURNS text LANGUAGE sql AS \$\$ SELECT 'trap' \$\$;
		CREATE AGGREGATE public.$aggregate (SFUNC = public.step, STYPE = text)");
	is($node->sqlstate('CREATE EXTENSION anomaly_detection', 'taken'), '42723', "fault_d11_hostile_objects: aggregate $aggregate stops it");
	$node->safe_psql('taken', "DROP AGGREGATE public.$aggregate; DROP FUNCTION public.step");
}

# Two calls of this file must not see different hours: buckets end with them.
my $left = 3600 - time % 3600;
sleep $left + 1 if $left < 120;

# The same calls in both databases. They use neither operators nor casts themselves, and show nothing that depends on the clock.
my $base = int(time) - 100 * 300;
for my $database ('clean', 'trapped')
{
	$node->safe_psql($database, qq{
		SET search_path = pg_catalog;
		CREATE ROLE owner_in_$database LOGIN; GRANT pg_monitor TO owner_in_$database;
		CREATE SCHEMA data; GRANT USAGE ON SCHEMA data TO PUBLIC;
		CREATE TABLE data.points AS SELECT i, pg_catalog.to_timestamp($base + i * 300 - 400) AS at, e, (i * 7919 + h * 104729) % 100 / 25.0 + 40 * h + CASE WHEN i = 95 THEN 60 ELSE 0 END AS v,
			i % 3 <> 0 AS ok FROM pg_catalog.generate_series(1, 100) i, (VALUES ('one', 1), ('two', 2)) s (e, h);
		ALTER TABLE data.points ALTER v TYPE pg_catalog.float8; GRANT SELECT, INSERT, UPDATE ON data.points TO PUBLIC;
		CREATE FUNCTION data.score(state jsonb, at timestamptz, value float8, params jsonb) RETURNS float8 LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS 'SELECT abs(value - (state ->> ''mean'')::float8)';
		CREATE FUNCTION data.train(at timestamptz[], value float8[], params jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS 'SELECT jsonb_build_object(''mean'', avg(v)) FROM unnest(value) v';
		CREATE FUNCTION data.expected(state jsonb, at timestamptz, params jsonb) RETURNS float8 LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS 'SELECT (state ->> ''mean'')::float8';
		ALTER DATABASE $database SET search_path = public, pg_catalog;
		ALTER DATABASE $database SET anomaly_detection.enabled = off;    -- no worker comes between the calls
	});
}
my $TEMPORARY = join "\n", (map { "CREATE TEMPORARY TABLE $_ (trap pg_catalog.int4);" }
	qw(pg_class pg_type pg_proc pg_namespace pg_attribute pg_extension pg_roles pg_database pg_locks pg_stat_activity pg_authid pg_auth_members
	detector detector_state model entity_state alert run sample monitor setting strategy anomaly_type)),
  (map { "CREATE DOMAIN pg_temp.$_ AS pg_catalog.\"char\";" } qw(text name oid int2 int4 int8 float4 float8 bool timestamptz jsonb bytea uuid regclass regrole));

my $CALLS = q{
\set VERBOSITY terse
\pset null (null)
SELECT public.zscore(v) OVER w, public.modified_zscore(v) OVER w, public.iqr_score(v) OVER w, public.ewma_score(v, 0.3) OVER w, public.anomaly_score(v) OVER w
  FROM data.points WINDOW w AS (PARTITION BY e ORDER BY i ROWS 20 PRECEDING) ORDER BY e, i OFFSET 90 LIMIT 12;
SELECT public.num_vals(s), public.num_nulls(s), public.num_nans(s), public.num_infs(s), public.mean(s), public.stddev(s), public.variance(s), public.skewness(s), public.kurtosis(s),
  public.min_val(s), public.max_val(s), public.quantile(s, 0.9), public.median(s), public.mad(s), public.iqr(s), public.iqr_bounds(s, 1.5), public.zscore(s, 50),
  public.modified_zscore(s, 50), public.rank_error(s), s FROM (SELECT public.anomaly_summary(v) AS s FROM data.points GROUP BY e ORDER BY e) q;
SELECT public.mean(public.rollup(s)) FROM (SELECT public.anomaly_summary(v) AS s FROM data.points GROUP BY e) q;
SELECT public.completeness(v), public.uniqueness(e), public.validity(ok) FROM data.points;
SELECT public.model_info(m), public.anomaly_score(m, '{41, 90}'), public.anomaly_deviation(m, '{41, 90}'), public.is_anomaly(m, '{41, 90}'), public.explain_score(m, '{41, 90}')
  FROM (SELECT public.isolation_forest(ARRAY[v, v], '{"n_estimators": 10}') AS m FROM data.points) q;
SELECT public.anomaly_score_row(m, q), public.anomaly_score_json(m, '{"a": 41, "b": "90"}')
  FROM (SELECT public.isolation_forest(ARRAY[v, v], '{"n_estimators": 10, "features": ["a", "b"]}') AS m, 41 AS a, 90.5 AS b FROM data.points) q;
SELECT rows, expected, lower, upper, is_anomaly FROM public.volume_check('data.points', 'at', '1 hour', 'UNTIL') ORDER BY bucket_start LIMIT 5;
SELECT * FROM public.detect_anomalies('data.points', value => 'v', at => 'at', entity => 'e', threshold => 5) OFFSET 90 LIMIT 20;
SELECT is_anomaly, deviation FROM public.detect_anomalies('SELECT at, v FROM data.points', strategy => 'iqr') OFFSET 190;
SELECT is_anomaly, deviation FROM public.detect_anomalies('data.points', value => 'v', features => '{i,ok}', strategy => 'random_cut_forest', bucket => '30 minutes', aggregate => 'stddev') OFFSET 2 LIMIT 6;
SELECT is_anomaly, deviation FROM public.detect_anomalies('data.points', value => 'v', features => '{i}') OFFSET 90 LIMIT 6;
SELECT is_anomaly, deviation FROM public.detect_anomalies('data.points', value => 'v', entity => '', features => '{e}', strategy => 'one_class_svm', bucket => '30 minutes') OFFSET 2 LIMIT 6;
AGGREGATES
SELECT * FROM public.detect_periods((SELECT pg_catalog.array_agg(v ORDER BY i) FROM data.points));
SELECT * FROM public.decompose((SELECT pg_catalog.array_agg(v ORDER BY i) FROM data.points WHERE i OPERATOR(pg_catalog.<) 40)) LIMIT 5;
SELECT entity, value, status FROM public.detect_anomalies('data.points', value => 'v', trials => 'i', bucket => '30 minutes', on_missing => 'interpolate') OFFSET 2 LIMIT 6;
SELECT status FROM public.detect_anomalies('SELECT at OPERATOR(pg_catalog.-) pg_catalog.make_interval(years => i) AS at, v FROM data.points', bucket => '1 day', on_missing => 'previous') LIMIT 2;
SELECT status FROM public.detect_anomalies('SELECT at OPERATOR(pg_catalog.-) pg_catalog.make_interval(years => i) AS at, v FROM data.points', bucket => '1 month', time_zone => 'Europe/Berlin') LIMIT 2;

SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', source => 'data.points', value => 'v', at => 'at', entity => 'e', threshold => 6, settle => '0 s', name => 'created', min_data_points => 20, late_window => '1 hour');
SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', source => 'data.points', value => 'v', name => 'created');
SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', source => 'data.pints', name => 'x');
SELECT anomaly.create_detector('data_outlier', 'zscore', 'v', source => 'data.points', value => 'w', name => 'x');
SELECT anomaly.train('created');
SELECT anomaly.train('no such');
SELECT detector, status, chosen, next_step FROM anomaly.watch('SELECT at, v FROM data.points', cron => '0 3 * * *', time_zone => 'Europe/Berlin', strategy => 'iqr', settle => '0 s', min_data_points => 20, name => 'watched');
SELECT changed, effect FROM anomaly.alter_detector('watched', '{"no_data_after": "1 hour", "labels": ["x"], "depends_on": ["created"]}');
INSERT INTO data.points VALUES (101, pg_catalog.clock_timestamp(), 'one', 300, true), (102, pg_catalog.clock_timestamp(), 'two', 82, true);
SELECT pg_catalog.pg_sleep(0.01);
SELECT status, rows_read, points_scored, alerts_opened, alerts_resolved FROM anomaly.scan('created');
UPDATE data.points SET v = 82 WHERE i OPERATOR(pg_catalog.=) 101;
INSERT INTO data.points SELECT 103, at, 'two', 300, true FROM data.points WHERE i OPERATOR(pg_catalog.=) 101;
SELECT status, rows_read, points_scored, alerts_opened, alerts_resolved FROM anomaly.scan('created');
SELECT status, rows_read, points_scored, alerts_opened, alerts_resolved FROM anomaly.scan('watched');
SELECT anomaly.create_handler('channel', 'notify', 'told', '{"min_severity": "info", "transitions": ["opened", "resolved", "acknowledged"]}', '{{severity}} {{entity}}', rank => 1);
SELECT anomaly.create_handler('mail', 'smtp', 'ops@example.com');
SELECT anomaly.create_handler('function', 'function', 'pg_catalog.jsonb_typeof(jsonb)', '{"entity": ["a"]}');
SELECT anomaly.create_detector('system_cpu', 'mad', 'load', min_data_points => 3, threshold => 6, cool_down => '1 hour');
SELECT detector, severity FROM anomaly.process_data_point('{"load": 1, "entity_id": "a"}');
SELECT detector, severity FROM anomaly.process_data_point('{"load": 1.1, "entity_id": "a"}');
SELECT detector, severity FROM anomaly.process_data_point('{"load": 1.2, "entity_id": "a"}');
SELECT detector, severity FROM anomaly.process_data_point('{"load": 1.1, "entity_id": "a"}');
SELECT detector, severity FROM anomaly.process_data_point('{"load": 99, "entity_id": "a"}', ARRAY['system_cpu']);
SELECT anomaly.create_detector('system_cpu', 'random_cut_forest', 'busy', features => '{users}', min_data_points => 3, name => 'featured');
SELECT detector, severity FROM anomaly.process_data_point('{"busy": 1, "users": 10}');
SELECT detector, severity FROM anomaly.process_data_point('{"busy": 2, "features": {"users": "11"}}');
SELECT metric, value, features FROM anomaly.samples WHERE metric OPERATOR(pg_catalog.=) 'busy' ORDER BY at;
SELECT anomaly.create_strategy('own_strategy', 'data.score(pg_catalog.jsonb, pg_catalog.timestamptz, pg_catalog.float8, pg_catalog.jsonb)', 'data.train', 'data.expected', 'theirs'), anomaly.create_anomaly_type('own_type', 'data', 'theirs');
SELECT anomaly.create_detector('own_type', 'own_strategy', 'v', source => 'data.points', value => 'v', at => 'at', entity => 'e', settle => '0 s', min_data_points => 20, training_window => '1 year', threshold => 100, name => 'owned');
SELECT status, entities FROM anomaly.train('owned');
SELECT entity, points, status FROM anomaly.explain_detector('owned');
SELECT alerts_opened FROM anomaly.scan('owned');
SELECT anomaly.create_detector('system_cpu', 'adaptive', 'shared', name => 'voted');
SELECT anomaly.update_detector_performance('voted', 'zscore', 3, 1, 0, 2);
SELECT member, true_positives, false_positives, false_negatives, f1_score FROM anomaly.member_performances ORDER BY member;
SELECT row_number, status, detector, reason, value FROM anomaly.process_batch('[{"load": 1.1, "entity_id": "a"}, {"load": "x"}, {"busy": 3, "users": 4}]'::pg_catalog.jsonb);
SELECT row_number, status, detector, reason, value FROM anomaly.process_batch('SELECT at, e, v AS load FROM data.points ORDER BY at LIMIT 3', at => 'at', entity => 'e');
SELECT row_number, status, detector, reason, value FROM anomaly.process_batch('data.points');
SELECT pg_catalog.jsonb_extract_path(anomaly.process_data('system_cpu', '{"load": [1, 2, 99]}', 'a'), 'anomalies', '0', 'severity');
SELECT changed, effect FROM anomaly.alter_detector('created', '{"alerts_per_day": 2, "threshold": null, "settle": "1 s"}');
SELECT changed, effect FROM anomaly.alter_detector('created', '{"alerts_per_day": 1, "threshold": 6, "settle": "0 s"}');
SELECT changed FROM anomaly.alter_detector('featured', '{"strategy": "mad", "features": null}');
SELECT changed FROM anomaly.alter_detector('watched', '{"source": "SELECT at, v, i FROM data.points", "strategy": "zscore"}');
SELECT anomaly.unregister('watched'), anomaly.enable('watched');
SELECT anomaly.create_detector('system_cpu', 'mad', 'load', min_data_points => 3, threshold => 6, cool_down => '1 hour');
SELECT detector, trained, reason FROM anomaly.train_all('system_cpu');
SELECT status, trained_rows FROM anomaly.train('created', 'data.points');
SELECT status, trained_rows FROM anomaly.train('featured', rows => '[{"timestamp": "2026-01-01", "value": 1}, {"timestamp": "2026-01-02", "value": 2}, {"timestamp": "2026-01-03", "value": 3}]');
SELECT pg_catalog.cardinality(anomaly.alert_page(NULL, NULL, '{data_drift}', '{info,emergency}', NULL, NULL, NULL, 'open', 3, 0, NULL));
SELECT detector, entity, severity, value FROM anomaly.get_alerts('-infinity', 'infinity', '{system_cpu,data_outlier}', '{emergency,critical,warning,info}', skip_rows => 0, before_id => 9223372036854775807);
SELECT detector, entity, severity, value FROM anomaly.get_alerts('-infinity', 'infinity', '{data_outlier}', '{emergency}', 'one', NULL, 'created', 'resolved');
SELECT pg_catalog.jsonb_extract_path(anomaly.alert_json(a.id), 'metric_value') FROM anomaly.alerts a ORDER BY a.detector, a.entity, a.at;
SELECT anomaly.alert_view('pg_temp.renamed');
SELECT metric_value, severity, expected_range FROM pg_temp.renamed ORDER BY severity, metric_value;
DROP VIEW pg_temp.renamed;
SELECT detector, strategy, is_trained, data_points_processed, anomalies_detected, avg_detection_time_ms IS NULL FROM anomaly.detector_metrics ORDER BY detector;
SELECT detector, status, enabled, strategy, metric_name, source, threshold, params, points_processed, anomalies_detected, model_version, trained_rows, entities FROM anomaly.detectors ORDER BY detector;
SELECT detector, status, severity, entity, points, value, expected, lower, upper, deviation, description, suggestion, is_critical FROM anomaly.alerts ORDER BY detector, entity;
SELECT i.status, i.severity, x.place, x.detector, x.entity, x.kind, x.depends_on FROM anomaly.incidents i CROSS JOIN LATERAL anomaly.explain_incident(i.id) x WHERE x.detector OPERATOR(pg_catalog.=) 'system_cpu_statistical_mad_load' ORDER BY x.place;
SELECT anomaly.acknowledge_incident(i.id, 'seen'), i.alerts FROM anomaly.incidents i WHERE i.detectors OPERATOR(pg_catalog.@>) '{created}' ORDER BY i.id;
SELECT anomaly.acknowledge(id, 'seen'), anomaly.acknowledge(id) FROM anomaly.alerts WHERE detector OPERATOR(pg_catalog.=) 'system_cpu_statistical_mad_load';
SELECT anomaly.resolve(id, 'over'), anomaly.resolve(id) FROM anomaly.alerts WHERE detector OPERATOR(pg_catalog.=) 'system_cpu_statistical_mad_load';
SELECT status, note, reopened, flapping FROM anomaly.alerts ORDER BY detector, entity;
SELECT handler, kind, target, matchers, template, rank, enabled FROM anomaly.handlers ORDER BY handler;
SELECT handler, transition, sequence, status FROM anomaly.deliveries ORDER BY handler, sequence;
SELECT anomaly.set_secret('token', 'abc');
SELECT anomaly.create_handler('hook', 'webhook', 'https://example.com/${secret:token}', '{"entity": ["nobody"]}');
DO $$ BEGIN PERFORM anomaly.handler_target('hook'); EXCEPTION WHEN insufficient_privilege THEN NULL; END $$;
SELECT anomaly.drop_secret('token'), anomaly.drop_secret('token');
SELECT kind, name, status, reason FROM anomaly.warnings;
SELECT anomaly.drop_handler('hook');
DO $$ BEGIN PERFORM anomaly.ignore_replicated(); EXCEPTION WHEN feature_not_supported THEN NULL; END $$;
SELECT delivered, failed FROM anomaly.deliver();
SELECT anomaly.disable_handler('channel'), anomaly.enable_handler('channel');
SELECT pg_catalog.jsonb_extract_path(e, 'verdict', 'value'), pg_catalog.jsonb_extract_path(e, 'reasons') FROM anomaly.alerts a, anomaly.explain(a.id) e ORDER BY a.detector, a.entity;
SELECT pg_catalog.json_extract_path_text(r, 'v') FROM anomaly.alerts a, anomaly.rows(a.id) r WHERE a.detector OPERATOR(pg_catalog.=) 'created' ORDER BY a.id;
SELECT anomaly.feedback(a.id, 'false_positive') OPERATOR(pg_catalog.>) 0 FROM anomaly.alerts a WHERE a.detector OPERATOR(pg_catalog.=) 'watched' ORDER BY a.id;
SELECT anomaly.report_missed('watched', '2026-01-01 00:00+00', 'one') OPERATOR(pg_catalog.>) 0;
SELECT anomaly.withdraw_feedback(f.id) FROM anomaly.feedback_log f WHERE f.verdict OPERATOR(pg_catalog.=) 'missed';
SELECT anomaly.exclude('watched', '[2026-01-01, 2026-01-02)', 'no reason', 'one') OPERATOR(pg_catalog.>) 0;
SELECT detector, entity, reason FROM anomaly.exclusions;
SELECT detector, entity, verdict, side, distance FROM anomaly.feedback_log ORDER BY id;
SELECT detector, member, alerts, true_positives, false_positives, false_negatives, precision, precision_95, recall, f1_score FROM anomaly.quality ORDER BY detector, member;
SELECT anomaly.drop_exclusion(x.id) FROM anomaly.exclusions x;
SELECT detector, status, next_step FROM anomaly.create_shadow('created', '{"threshold": 3}', 'shadow');
SELECT detector, changed, effect FROM anomaly.promote('shadow');
SELECT detector, shadow_of FROM anomaly.shadows;
SELECT side, alerts, in_both, only_here, unjudged, true_positives, precision_95, f1_score FROM anomaly.shadow_comparison ORDER BY side;
SELECT detector, withheld, entity, value FROM anomaly.withheld_alerts ORDER BY detector, at;
SELECT changed FROM anomaly.promote('shadow');
SELECT anomaly.drop_detector('shadow');
SELECT anomaly.wilson_interval(1, 2);
SELECT entity, severity, value, label FROM anomaly.backtest('created', '8 hours') ORDER BY at, entity;
SELECT status, trainings, entities, points, alerts FROM anomaly.backtest_summary('created', '8 hours', settings => '{"strategy": "iqr"}');
SELECT status, entities, points, alerts, next_step FROM anomaly.preview('data.points', '8 hours', '{"entity": "e", "value": "v", "strategy": "mad"}');
SELECT reason, explanation FROM anomaly.why_not('created', (SELECT pg_catalog.max(at) FROM data.points WHERE i OPERATOR(pg_catalog.=) 99), 'one') WHERE reason OPERATOR(pg_catalog.<>) 'not_created_yet';
SELECT reason FROM anomaly.why_not('system_cpu_statistical_mad_load', (SELECT pg_catalog.max(at) FROM anomaly.samples WHERE metric OPERATOR(pg_catalog.=) 'load'), 'a');
SELECT d.dimensions, d.segment, d.actual, d.contribution, d.explains FROM anomaly.alerts a, anomaly.drilldown(a.id, '{ok}') d WHERE a.detector OPERATOR(pg_catalog.=) 'created' ORDER BY a.id, d.rank;
SELECT watches, entities, call FROM anomaly.suggest('data.points') ORDER BY rank;
SELECT rows_per_scan, entities, state_bytes FROM anomaly.estimate_cost('data.points', '1 hour', '{"value": "v", "entity": "e", "strategy": "zscore", "min_data_points": 20}');
SELECT entities, state_bytes FROM anomaly.estimate_cost('created', '1 hour');
SELECT anomaly.add_calendar('hours', '2026-01-01 00:00+00', '1 hour', 'FREQ=DAILY;COUNT=3', 'Europe/Berlin', 'watched', 'one') OPERATOR(pg_catalog.>) 0;
SELECT anomaly.silence('[2026-01-01 00:00+00, 2026-01-02 00:00+00)', max_severity => 'warning', anomaly_type => 'system_cpu') OPERATOR(pg_catalog.>) 0;
SELECT o.* FROM anomaly.calendars c, anomaly.calendar_occurrences(c.id, '2026-01-01 12:00+00', '2026-02-01 00:00+00') o;
SELECT anomaly.next_occurrence('2026-01-01 00:00+00', '1 day', 'FREQ=MONTHLY', 'UTC', '2026-03-15 00:00+00');
SELECT anomaly.alter_calendar(c.id, 'days', duration => '1 day', action => 'mute') FROM anomaly.calendars c WHERE c.rrule IS NOT NULL;
SELECT name, action, detector, entity, duration, rrule, next_from, max_severity FROM anomaly.calendars ORDER BY id;
SELECT anomaly.drop_calendar(c.id) FROM anomaly.calendars c ORDER BY c.id;
SELECT detector, version, active, entities, shared_bytes FROM anomaly.models ORDER BY detector, version;
SELECT entity, strategy, status, points, expected_alerts_per_day FROM anomaly.explain_detector('created');
SELECT entity, strategy, status, points, expected_alerts_per_day FROM anomaly.explain_detector('watched', 'no such');
SELECT anomaly.train('created');
SELECT status, model_version FROM anomaly.rollback_model('created');
SELECT anomaly.import_model('created', anomaly.export_model('created'));
SELECT detector, status FROM anomaly.watch('data.points', entity => 'e', bucket => '1 hour', aggregate => 'count', on_missing => 'anomaly', direction => 'above', min_effect => 1, settle => '0 s', min_data_points => 20, name => 'counted', strategy => 'mad');
SELECT status, alerts_opened FROM anomaly.scan('counted');
SELECT anomaly.drop_detector('counted');
SELECT detector, mode, chosen, next_step FROM anomaly.watch_writes('created', updates => true);
INSERT INTO data.points VALUES (104, '2026-01-01 00:00+00', 'one', 300, true), (105, '2026-01-01 00:05+00', 'two', 82, true), (106, '2026-01-01 00:05+00', 'three', 82, true);
UPDATE data.points SET v = 83 WHERE i OPERATOR(pg_catalog.=) 104;
SELECT mode, next_step FROM anomaly.watch_writes('data.points', 'reject', detector => 'created');
INSERT INTO data.points VALUES (107, '2026-01-01 00:10+00', 'one', 300, true);
SELECT mode, next_step FROM anomaly.watch_writes('data.points', 'notify', detector => 'created');
INSERT INTO data.points VALUES (107, '2026-01-01 00:10+00', 'one', 300, true);
SELECT row_key, entity, value, expected, lower, upper, deviation, is_anomaly, status FROM anomaly.row_scores ORDER BY created_at, entity, value;
SELECT detector, source, mode, updates, status, reason, hint, failures FROM anomaly.write_checks;
SELECT anomaly.check_written_rows();
SELECT anomaly.unwatch_writes('created'), anomaly.unwatch_writes('data.points', 'created');
SELECT metric, entity, value FROM anomaly.samples ORDER BY metric, value;
SELECT * FROM anomaly.strategies ORDER BY strategy;
SELECT * FROM anomaly.anomaly_types ORDER BY anomaly_type;
SELECT detector, kind, started_by, status, rows_read, alerts_opened, error_message FROM anomaly.runs ORDER BY detector, started_at;
SELECT detector, kind, rows_read FROM anomaly.progress;
SELECT kind, name, status, reason, hint, problem FROM anomaly.health ORDER BY kind, name;
SELECT anomaly.paused_reason();
SELECT * FROM anomaly.scheduler_health();
SELECT * FROM anomaly.running_workers();
SELECT anomaly.owner_problem(10), anomaly.owner_problem(1);
SELECT max_workers, workers_here FROM anomaly.scheduler_state();
SELECT max_workers, workers_here FROM anomaly.scheduler;
SELECT kind, name, every, cron, time_zone, enabled, consecutive_failures, coalesced FROM anomaly.schedule ORDER BY kind, name;
SELECT anomaly.run_is_alive(1);
SELECT * FROM anomaly.due_of_others();
SELECT anomaly.pause();
SELECT status FROM anomaly.scan('created');
CALL anomaly.run_due();
SELECT anomaly.resume();
SELECT anomaly.disable('created'), anomaly.disable('no such'), anomaly.enable('created');
-- Worker and CALL: the first is on a schedule, the monitor as well.
SELECT status, alerts_opened FROM anomaly.claim_next_due('-infinity') c, anomaly.runs;
SELECT anomaly.perform_claimed(0);
SELECT anomaly.settle_claimed(0, 0, NULL, NULL, NULL, NULL);
SELECT metric, unit, detector, next_step FROM anomaly.monitor_system(every => '1 hour') ORDER BY metric;
SELECT anomaly.disable_monitor('system'), anomaly.enable_monitor('system'), anomaly.enable_monitor('no such');
SELECT anomaly.submit('scan', '{"detector": "created"}') OPERATOR(pg_catalog.>) 0;
SELECT anomaly.submit('preview', '{"source": "data.points", "since": "8 hours", "settings": {"value": "v", "strategy": "mad"}}') OPERATOR(pg_catalog.>) 0;
SELECT anomaly.submit('backtest', '{"detector": "created", "since": "no time"}');
CALL anomaly.run_due();
SELECT kind, detector, status, args, pg_catalog.jsonb_typeof(result), truncated, error_code, error_message FROM anomaly.jobs ORDER BY job_id;
SELECT anomaly.cancel_job(j.job_id), pg_catalog.jsonb_typeof(anomaly.job_result(j.job_id)) FROM anomaly.jobs j WHERE j.kind OPERATOR(pg_catalog.=) 'scan' AND j.status OPERATOR(pg_catalog.=) 'succeeded';
SELECT anomaly.claim_next_job('-infinity'), anomaly.job_is_alive(0);
SELECT anomaly.perform_job(0);
SELECT anomaly.settle_job(0, NULL, NULL, NULL);
SELECT detector, scans, failures, rows_read, points, anomalies, alerts FROM anomaly.stats ORDER BY detector;
SELECT anomaly.reset_stats('created'), anomaly.reset_stats();
SELECT anomaly.drop_handler('channel'), anomaly.drop_handler('function'), anomaly.drop_handler('no such');
SELECT anomaly.drop_handler('channel'), anomaly.drop_handler('function'), anomaly.drop_handler('mail'), anomaly.drop_handler('no such');
SELECT anomaly.drop_monitor('system'), anomaly.drop_monitor('system');
SELECT anomaly.drop_detector('created'), anomaly.drop_detector('watched'), anomaly.drop_detector('created'), anomaly.drop_detector('system_cpu_statistical_mad_load'), anomaly.drop_detector('featured'), anomaly.drop_detector('voted'), anomaly.drop_detector('owned');
SELECT anomaly.drop_strategy('own_strategy'), anomaly.drop_anomaly_type('own_type'), anomaly.drop_strategy('own_strategy');
};
my $aggregates = join "\n", map { "SELECT entity, value, status FROM public.detect_anomalies('data.points', value => 'v', bucket => '30 minutes', aggregate => '$_', on_missing => 'zero') OFFSET 2 LIMIT 6;" }
  qw(avg sum count count_distinct min max median p95 stddev first last);
$CALLS =~ s/AGGREGATES/$aggregates/;
my $until = $node->safe_psql('postgres', "SET TimeZone = 'UTC'; SELECT to_timestamp($base + 100 * 300 - 400)");
$CALLS =~ s/'UNTIL'/'$until'/g;

# Whoever adds a function adds a call of it above. What aggregates and types consist of is called through them.
my @functions = split /\n/, $node->safe_psql('clean', q{
	SELECT DISTINCT n.nspname || '.' || p.proname FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) pronamespace
	  JOIN pg_catalog.pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
	  JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid AND extname = 'anomaly_detection'
	 WHERE NOT EXISTS (SELECT FROM pg_aggregate WHERE p.oid IN (aggtransfn, aggfinalfn, aggcombinefn, aggserialfn, aggdeserialfn, aggmtransfn, aggminvtransfn, aggmfinalfn))
	   AND NOT EXISTS (SELECT FROM pg_type WHERE p.oid IN (typinput, typoutput, typsend, typreceive)) ORDER BY 1});
cmp_ok(scalar @functions, '>', 40, 'the extension has ' . @functions . ' functions');
is_deeply([ grep { $CALLS !~ /\b\Q$_\E\(/ && $CALLS !~ /\b\Q$_\E\b/ } @functions ], [], 'fault_d12_complete: every function is called here');

for my $role (undef, 'owner_in_')
{
	my %output;
	for my $database ('clean', 'trapped')
	{
		my @options = defined $role ? (extra_params => [ '-U', "$role$database" ]) : ();
		# The table that is watched as it is written to has to be the caller's.
		$node->safe_psql($database, "ALTER TABLE data.points OWNER TO $role$database") if defined $role;
		my $preamble = "SET TimeZone = 'UTC';\n" . ($database eq 'trapped' ? $TEMPORARY : '');
		$node->psql($database, "$preamble\n$CALLS", stdout => \my $out, stderr => \my $err, on_error_stop => 0, @options);
		$err =~ s/^psql:<stdin>:\d+: //mg;
		$out =~ s/\b\Q$role$database\E\b/$role/g if defined $role;
		$output{$database} = "$out\n--- errors\n$err";
		$node->safe_psql($database, q{DELETE FROM data.points WHERE i OPERATOR(pg_catalog.>) 100; DELETE FROM anomaly.alert; DELETE FROM anomaly.judgement; DELETE FROM anomaly.run; DELETE FROM anomaly.sample; DELETE FROM anomaly.job});
	}
	my $who = defined $role ? 'a role' : 'a superuser';
	my @clean = split /\n/, $output{clean};
	cmp_ok(scalar @clean, '>', 130, "$who: the calls answer something");
	unlike($output{trapped}, qr/trap sprung/, "fault_d12_hostile_search_path: called by $who, nothing steps on a trap");
	is($output{trapped}, $output{clean}, '... and everything gives the same results');
	my @errors = grep { /ERROR/ } @clean;
	is(scalar @errors, 13, "... errors are the expected ones:\n" . join "\n", @errors);
}

# The dispatcher and the scan worker, whose sessions begin with the database's search_path.
for my $database ('clean', 'trapped')
{
	$node->safe_psql('postgres', "ALTER DATABASE $database RESET anomaly_detection.enabled");
	$node->safe_psql($database, qq{SELECT anomaly.watch('data.points', value => 'v', at => 'at', entity => 'e', every => '1 second', threshold => 6, settle => '0 s', min_data_points => 20, name => 'by_worker', strategy => 'mad')},
		extra_params => [ '-U', "owner_in_$database" ]);
	$node->safe_psql($database, q{INSERT INTO data.points SELECT i, pg_catalog.now() OPERATOR(pg_catalog.+) '3 seconds'::pg_catalog.interval, e, v, true
		FROM (VALUES (101, 'one', 300), (102, 'two', 82)) s (i, e, v)});
	$node->wait_for_alert('by_worker', undef, $database) if $database eq 'clean';
	$node->poll_query_until($database, q{SELECT 't'::pg_catalog.text FROM anomaly.alerts WHERE detector OPERATOR(pg_catalog.=) 'by_worker'}, 't')
	  or fail("no alert in $database");
	is($node->safe_psql($database, q{SELECT entity, value, severity, points FROM anomaly.alerts}), 'one|300|emergency|1', "fault_d12_worker: the alert in $database");
}
unlike(slurp_file($node->logfile), qr/worker.*trap sprung|anomaly_detection:.*trap/, 'no process of ours has stepped on a trap');
$node->stop;
done_testing();
