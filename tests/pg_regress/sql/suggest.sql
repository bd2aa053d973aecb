-- anomaly.suggest: what of a table is worth watching. Every call that it proposes runs as it is.
SET TIME ZONE 'UTC';
CREATE FUNCTION pg_temp.suggested(source text) RETURNS TABLE (rank int, watches text, why text, entities bigint, points_per_day numeric) LANGUAGE sql AS $$
    SELECT rank, watches, regexp_replace(why, '^\d+ rows', 'some rows'), entities, round(points_per_day::numeric, -1) FROM anomaly.suggest($1, 20) ORDER BY rank $$;
-- Series: a row of each host each minute.
CREATE TABLE suggest_hosts AS SELECT i AS id, now() - i / 3 * interval '1 minute' AS at, 'web' || i % 3 AS host, 50 + i * 7919 % 101 / 10.0 AS cpu, (1e9 + i % 17)::bigint AS memory, 5432 AS port, 1 AS constant FROM generate_series(1, 1200) i;
ALTER TABLE suggest_hosts ADD PRIMARY KEY (id);
SELECT * FROM pg_temp.suggested('suggest_hosts');
-- Events: orders as they come. Keys, codes and counters are no magnitudes.
CREATE TABLE suggest_customers AS SELECT i AS customer FROM generate_series(1, 200) i;
ALTER TABLE suggest_customers ADD PRIMARY KEY (customer);
CREATE TABLE "Suggest Orders" AS SELECT i AS number, now() - (hashint4(i)::bigint & 2147483647) % 500000 * interval '1 second' AS created_at, now() AS updated_at, (i * 104729 % 200 + 1)::int AS customer, 'c' || i % 4 AS country, 10000 + i * 31 % 89999 AS zip,
    (i * 7919 % 997)::numeric AS "Amount", i * 104729 % 50 / 7.0 AS latency_ms, i % 40 = 0 AS failed, NULL::float8 AS nothing, i * 7919 % 5000 AS "sessionID", md5(i::text) AS note FROM generate_series(1, 3000) i;
ALTER TABLE "Suggest Orders" ADD FOREIGN KEY (customer) REFERENCES suggest_customers;
SELECT * FROM pg_temp.suggested('"Suggest Orders"');
SELECT count(*) AS keys_as_magnitudes FROM anomaly.suggest('"Suggest Orders"', 50) WHERE call ~ 'value => ''(number|customer|zip|sessionID)''' AND call !~ 'count_distinct';
-- A query, and rows of long ago, without a time zone.
SELECT * FROM pg_temp.suggested('SELECT created_at, "Amount" FROM "Suggest Orders"');
CREATE TABLE suggest_old AS SELECT timestamp '2020-01-01' + i * interval '1 hour' AS day, i % 7 AS temperature FROM generate_series(1, 500) i;
SELECT rank, watches, regexp_replace(why, '\d+ days old', 'n days old') AS why, call ~ 'training_window' AS looks_back FROM anomaly.suggest('suggest_old');
-- Each runs, and so does the call that says what it would cost; what is watched is not proposed again.
CREATE TEMP TABLE proposed AS SELECT s AS source, p.* FROM unnest('{suggest_hosts,"\"Suggest Orders\"",suggest_old}'::text[]) s, anomaly.suggest(s, 50) p;
SELECT source, count(*) AS calls, count(DISTINCT call) AS different, count(*) FILTER (WHERE helper.attempt(call) = 'accepted') AS accepted FROM proposed GROUP BY 1 ORDER BY 1;
SELECT helper.attempt(call) FROM proposed WHERE helper.attempt(call) <> 'accepted';
-- No worker comes between.
UPDATE anomaly.detector SET enabled = false WHERE detector ~* '^suggest';
SELECT count(*) AS detectors, count(*) FILTER (WHERE status = 'active') AS trained, count(*) FILTER (WHERE status = 'warming') AS warming FROM anomaly.detectors WHERE detector ~* '^suggest';
SELECT count(*) AS again FROM unnest('{suggest_hosts,"\"Suggest Orders\"",suggest_old}'::text[]) s, anomaly.suggest(s, 50);
SELECT helper.attempt(cost) FROM proposed WHERE source = 'suggest_hosts' OR watches ~ '^(avg of failed|sum of)' ORDER BY watches;
-- Of a large table, pages drawn at random.
CREATE TABLE suggest_large AS SELECT now() - i * interval '1 second' AS at, i * 7919 % 101 AS v FROM generate_series(1, 100000) i;
ANALYZE suggest_large;
SELECT watches, entities, abs(points_per_day - 86400) < 4000 AS near FROM anomaly.suggest('suggest_large');

CREATE TABLE suggest_empty (at timestamptz, v float8);
SELECT helper.attempt(command) FROM unnest(ARRAY[
    'SELECT anomaly.suggest(NULL)', 'SELECT anomaly.suggest(''suggest_empty'')', 'SELECT anomaly.suggest(''suggest_customers'')', 'SELECT anomaly.suggest(''suggest_hots'')', 'SELECT anomaly.suggest(''suggest_hosts'', 0)',
    'SELECT anomaly.suggest(''SELECT now() AS at; SELECT 1'')']) command;
INSERT INTO suggest_empty VALUES (now(), 1), (now(), 'NaN'), ('infinity', 'Infinity'), (NULL, NULL);
SELECT count(*) FROM anomaly.suggest('suggest_empty');
CREATE ROLE suggest_stranger;
SET ROLE suggest_stranger;
SELECT helper.attempt('SELECT anomaly.suggest(''suggest_hosts'')');
RESET ROLE;

-- anomaly.estimate_cost: by a rehearsal it is what a scan takes afterwards; by its runs what these took.
SELECT count(anomaly.drop_detector(detector)) > 10 AS dropped FROM anomaly.detectors WHERE detector ~* '^suggest';
CREATE TABLE cost_rows AS SELECT now() - i * interval '10 seconds' AS at, 'h' || h AS host, 50 + (i * 7919 + h) % 101 / 10.0 AS v FROM generate_series(1, 1000) i, generate_series(1, 20) h;
CREATE TABLE cost_said AS SELECT * FROM anomaly.estimate_cost('cost_rows', '10 minutes', '{"value": "v", "entity": "host", "strategy": "zscore"}');
SELECT round((rows_per_scan / 1200)::numeric, 1) AS rows, ms_per_scan > 0 AND ms_per_scan < 60000 AS ms, scans_per_day, share_of_a_core BETWEEN 0 AND 0.1 AS share, abs(share_of_a_core * 600000 - ms_per_scan) < 1e-6 AS of_ms, entities, bytes_per_entity BETWEEN 100 AND 20000 AS bytes, state_bytes = round(bytes_per_entity * entities) AS in_all,
       regexp_replace(basis, '\d+', 'n', 'g') AS basis FROM cost_said;
SELECT count(*) AS left_over FROM anomaly.detector WHERE detector ~ 'backend';
SELECT detector, status FROM anomaly.watch('cost_rows', value => 'v', entity => 'host', strategy => 'zscore', settle => '10 minutes', every => '10 minutes', name => 'cost_real');
UPDATE anomaly.detector SET settle = '0' WHERE detector = 'cost_real';
SELECT status, rows_read / 1200.0 BETWEEN 0.9 AND 1.2 AS as_said FROM anomaly.scan('cost_real');
SELECT s.entities = count(*) AS entities, s.state_bytes::float8 / sum(octet_length(e.payload)) BETWEEN 0.5 AND 2 AS bytes FROM cost_said s, anomaly.entity_state e JOIN anomaly.model m USING (detector, version) WHERE detector = 'cost_real' AND active GROUP BY s.entities, s.state_bytes;
-- Generous, because the machine may be busy.
SELECT s.ms_per_scan / (extract(epoch FROM r.duration)::float8 * 1000) BETWEEN 0.02 AND 50 AS ms FROM cost_said s, anomaly.runs r WHERE r.detector = 'cost_real' AND kind = 'scan';
SELECT round((rows_per_scan / 1200)::numeric, 1) AS rows, entities, basis ~ '^its latest 1 scans' AS by_runs FROM anomaly.estimate_cost('cost_real');
SELECT round((rows_per_scan / 120)::numeric, 1) AS rows, scans_per_day FROM anomaly.estimate_cost('cost_real', '1 minute');
SELECT helper.attempt(command) FROM unnest(ARRAY[
    'SELECT anomaly.estimate_cost(NULL)', 'SELECT anomaly.estimate_cost(''cost_real'', ''0 s'')', 'SELECT anomaly.estimate_cost(''cost_rows'', ''-1 minute'')', 'SELECT anomaly.estimate_cost(''suggest_customers'')',
    'SELECT anomaly.estimate_cost(''cost_rows'', settings => ''{"strategy": "magic"}'')', 'SELECT anomaly.estimate_cost(''cost_rows'', settings => ''{"evry": 1}'')', 'SELECT anomaly.estimate_cost(''SELECT now() AS at, 1 AS v WHERE false'')',
    'SELECT anomaly.estimate_cost(anomaly.create_detector(''data_outlier'', ''zscore'', ''cost_brought''))']) command;
SELECT count(anomaly.drop_detector(detector)) AS dropped FROM anomaly.detectors WHERE detector ~ 'cost_';
DROP TABLE suggest_hosts, "Suggest Orders", suggest_customers, suggest_old, suggest_large, suggest_empty, cost_rows, cost_said;
DROP ROLE suggest_stranger;
TRUNCATE anomaly.alert;
SELECT setval('anomaly.alert_id_seq', 1, false);
