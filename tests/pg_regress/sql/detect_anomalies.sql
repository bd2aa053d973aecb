-- A verdict for every point, without any set-up.
SET TIME ZONE 'UTC';

CREATE TABLE metric (id int, note int, host varchar(20), at timestamptz, cpu real, memory numeric, kind text);
INSERT INTO metric SELECT i, i % 3, 'web' || h, timestamptz '2024-05-01 00:00+00' + i * interval '1 minute', 40 * h + (i * 7919 % 101) / 10.0, i % 10, 'x' FROM generate_series(1, 300) i, generate_series(1, 2) h;
UPDATE metric SET id = NULL, note = NULL;
INSERT INTO metric VALUES (NULL, NULL, 'web1', '2024-05-01 04:10:30+00', 400, 3, 'x');

-- Zero configuration: the first time column, the first numeric column, the first that reads like a name. A bad first choice is overridden.
SELECT entity, count(*), count(value), count(*) FILTER (WHERE status = 'missing') AS missing FROM detect_anomalies('metric') GROUP BY entity ORDER BY entity;
SELECT at, entity, value, round(expected) AS expected, lower > 30 AND upper < 60 AS range, score > 0.99999 AS score, p_value < 1e-5 AS p, deviation > 5 AS deviation, direction, is_anomaly, status, regexp_replace(reasons[1], '\(.*', '') AS reason, array_length(reasons, 1) AS reasons
  FROM detect_anomalies('metric', value => 'cpu') WHERE is_anomaly;
SELECT entity, count(*) FROM detect_anomalies('metric', value => 'memory', entity => 'kind') GROUP BY entity;
SELECT count(*), count(entity) AS entities FROM detect_anomalies('metric', value => 'cpu', entity => '');
-- What reads like a name; an integer does not, unless it is said to be one.
SELECT t, count(entity) AS with_entity, count(DISTINCT entity) AS entities
  FROM unnest('{text,varchar,char(3),name,uuid,anomaly.severity,integer,boolean,jsonb}'::text[]) t,
       detect_anomalies(format('SELECT timestamptz ''2024-01-01'' + i * interval ''1 minute'' AS at, i::float8 AS v, %s AS e FROM generate_series(1, 4) i',
           CASE t WHEN 'uuid' THEN 'md5((i % 2)::text)::uuid' WHEN 'anomaly.severity' THEN '(CASE WHEN i % 2 = 0 THEN ''info'' ELSE ''critical'' END)::anomaly.severity' WHEN 'boolean' THEN 'i % 2 = 0' WHEN 'jsonb' THEN 'to_jsonb(i % 2)' ELSE format('(i %% 2)::%s', t) END))
 GROUP BY t ORDER BY t;
SELECT DISTINCT entity FROM detect_anomalies($$SELECT timestamptz '2024-01-01' AS at, 1.5 AS v, 7 AS device$$, entity => 'device');

-- Every form of a source
SELECT count(*) FROM detect_anomalies('  select at, cpu from metric  ');
SELECT count(*) FROM detect_anomalies('TABLE metric', value => 'cpu');
SELECT count(*) FROM detect_anomalies('WITH m AS (SELECT at, cpu FROM metric) SELECT * FROM m');
SELECT count(*), min(value), max(value) FROM detect_anomalies($$VALUES (date '2024-01-01', 1), ('2024-01-02', 2)$$);
SELECT count(*) FROM detect_anomalies('public.metric', value => 'cpu', at => 'at', entity => 'host');

-- Settings reach the detector.
SELECT direction, count(*) FROM detect_anomalies('SELECT at, cpu FROM metric WHERE host = ''web2'' UNION ALL VALUES (''2024-05-01 04:10:30+00''::timestamptz, -500.0), (''2024-05-01 04:20:30+00'', 700)', direction => 'below') WHERE is_anomaly GROUP BY 1;
SELECT count(*) FROM detect_anomalies('metric', value => 'cpu', min_effect => 1000) WHERE is_anomaly;
SELECT count(*) FROM detect_anomalies('metric', value => 'cpu', min_relative_effect => 100) WHERE is_anomaly;
SELECT strategy, count(*) FILTER (WHERE is_anomaly) > 50 AS by_its_own_rule FROM unnest('{zscore,iqr,mad}'::text[]) strategy, detect_anomalies('metric', value => 'cpu', strategy => strategy, threshold => 0.1) GROUP BY 1 ORDER BY 1;

-- A bad series among good ones: rows that say so, and the others as if it were not there.
CREATE TEMP VIEW mixed AS
SELECT timestamptz '2024-01-01' + CASE e WHEN 'same time' THEN 0 ELSE i END * interval '1 minute' AS at, e, CASE e WHEN 'all null' THEN NULL WHEN 'all nan' THEN 'NaN'::float8 WHEN 'constant' THEN 7 WHEN 'infinite' THEN CASE i % 2 WHEN 0 THEN 'Infinity'::float8 ELSE '-Infinity' END WHEN 'huge' THEN 1e308 * (1 - i % 3)
       WHEN 'tiny' THEN 5e-324::float8 * (i % 2) WHEN 'same time' THEN i % 5 ELSE (i * 7919 % 101) / 10.0 END::float8 AS v
  FROM generate_series(1, 60) i, unnest('{all null,all nan,constant,infinite,huge,tiny,short,good,same time}'::text[]) e WHERE e <> 'short' OR i <= 3;
SELECT entity, count(*), string_agg(DISTINCT status, ', ' ORDER BY status) FILTER (WHERE status !~ 'warming') AS statuses, max(status) FILTER (WHERE status ~ 'warming') AS warming, count(*) FILTER (WHERE is_anomaly) AS anomalies,
       bool_and(value IS NULL OR deviation BETWEEN 0 AND 1e6) AS finite, count(deviation) AS judged
  FROM detect_anomalies('SELECT at, e, v FROM mixed') GROUP BY entity ORDER BY entity;
SELECT bool_and(a.verdict = b.verdict) AS alone_as_among_others FROM (SELECT at, (value, expected, deviation, status)::text AS verdict FROM detect_anomalies('SELECT at, e, v FROM mixed', threshold => 3) WHERE entity = 'good') a
  JOIN (SELECT at, (value, expected, deviation, status)::text AS verdict FROM detect_anomalies('SELECT at, v FROM mixed WHERE e = ''good''', threshold => 3)) b USING (at);
-- Only the anomalies, and the last row of each series that could not be judged at all: no other row, and none that differs.
SELECT entity, count(*), count(*) FILTER (WHERE is_anomaly) AS anomalies, max(status) FILTER (WHERE NOT is_anomaly) AS why, max(at) FILTER (WHERE NOT is_anomaly) AS at
  FROM detect_anomalies('SELECT at, e, v FROM mixed', only_anomalies => true) GROUP BY entity ORDER BY entity;
CREATE TEMP TABLE each_row AS SELECT brief, rule, d.at, entity, value, deviation, is_anomaly, status, reasons, CASE WHEN is_anomaly THEN (expected, lower, upper)::text END AS range, bool_or(status = 'ok' OR is_anomaly) OVER (PARTITION BY brief, rule, entity) AS judged
  FROM unnest('{f,t}'::boolean[]) brief, unnest('{ignore,zero,anomaly}'::text[]) rule,
       detect_anomalies('SELECT at, e, v FROM mixed UNION ALL SELECT ''2024-01-01 01:10'', ''good'', 99', bucket => '1 minute', on_missing => rule, only_anomalies => brief) d;
SELECT rule, count(*) FILTER (WHERE is_anomaly) AS anomalies, count(*) FILTER (WHERE NOT judged) AS not_judged, count(*) AS rows FROM each_row WHERE brief GROUP BY rule ORDER BY rule;
CREATE TEMP VIEW wanted AS SELECT rule, at, entity, value, deviation, is_anomaly, status, reasons, range FROM each_row WHERE NOT brief AND is_anomaly UNION ALL
  (SELECT DISTINCT ON (rule, entity) rule, at, entity, value, deviation, is_anomaly, status, reasons, range FROM each_row WHERE NOT brief AND NOT judged ORDER BY rule, entity, at DESC);
SELECT count(*) AS lost FROM (TABLE wanted EXCEPT ALL SELECT rule, at, entity, value, deviation, is_anomaly, status, reasons, range FROM each_row WHERE brief) q;
SELECT count(*) AS not_wanted FROM (SELECT rule, at, entity, value, deviation, is_anomaly, status, reasons, range FROM each_row WHERE brief EXCEPT ALL TABLE wanted) q;
SELECT count(*) FROM detect_anomalies('metric', value => 'cpu', only_anomalies => NULL);
SELECT count(*) FROM detect_anomalies('SELECT at, cpu FROM metric WHERE false', only_anomalies => true);
DROP VIEW wanted;
DROP TABLE each_row;
-- Rows in any order, several at one time, without time, without entity, at no finite time
SELECT count(*), count(DISTINCT d::text) AS different FROM (SELECT md5(string_agg((at, value, deviation)::text, ',' ORDER BY at, value)) AS d FROM unnest('{at,"at DESC","random()"}'::text[]) o, detect_anomalies(format('SELECT at, v FROM mixed WHERE e IN (''good'', ''constant'') ORDER BY %s', o)) GROUP BY o) q;
SELECT at, entity, value FROM detect_anomalies($$VALUES (timestamptz '2024-01-01', NULL, 1.0), (NULL, 'a', 2), ('infinity', 'a', 3), ('-infinity', 'a', 4), ('2024-01-02', '', 5), ('2024-01-01', 'a', 6)$$);
SELECT count(*) FROM detect_anomalies('SELECT at, cpu FROM metric WHERE false');
SELECT count(*) FROM detect_anomalies(NULL);

-- The promise of alerts_per_day is over all entities: the more points a day, the rarer an anomaly has to be.
SELECT rate, count(*) FILTER (WHERE is_anomaly) <= 12 AS few FROM unnest('{1,2000}'::float8[]) rate, detect_anomalies('SELECT timestamptz ''2024-01-01'' + i * interval ''1 minute'' AS at, h::text AS host, (hashint8(i * 1000 + h) % 1000 + hashint8(i * 7777 + h) % 1000 + hashint8(i * 31 + h * 77) % 1000) / 1000.0 AS v FROM generate_series(1, 720) i, generate_series(1, 40) h', alerts_per_day => rate) GROUP BY 1 ORDER BY 1;

-- A long replay can be cancelled.
SET statement_timeout = '300ms';
SELECT count(*) FROM detect_anomalies('SELECT timestamptz ''2024-01-01'' + i * interval ''1 second'' AS at, i % 7 AS v FROM generate_series(1, 30000000) i');
\echo :LAST_ERROR_SQLSTATE
RESET statement_timeout;

-- Bad settings
SELECT count(*) FROM detect_anomalies('metrics');
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM detect_anomalies('metric', value => 'host');
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM detect_anomalies('metric', entity => 'hosts');
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM detect_anomalies('SELECT 1 AS v');
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM detect_anomalies('metric', strategy => 'madd');
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM detect_anomalies('metric', alerts_per_day => 0);
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM detect_anomalies('metric', min_data_points => -5);
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM detect_anomalies('metric', direction => 'up');
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM detect_anomalies('metric', time_zone => 'Mars');
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM detect_anomalies('WITH gone AS (DELETE FROM metric RETURNING *) SELECT * FROM gone');
\echo :LAST_ERROR_SQLSTATE
DROP VIEW mixed;
DROP TABLE metric;
