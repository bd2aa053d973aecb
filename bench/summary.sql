-- anomaly_summary (counts, extremes, moments and quantiles in one pass) beside core's aggregates that answer
-- one question each. The times include reading the table.
-- @repetitions 5

-- @setup
SELECT setseed(0.42);
CREATE TABLE reading AS
SELECT 100 + 20 * sqrt(-2 * ln(1 - random())) * cos(2 * pi() * random()) AS v
FROM generate_series(1, 5000000);
VACUUM (ANALYZE, FREEZE) reading;
CREATE TABLE reading_small AS SELECT * FROM reading LIMIT 1000000;
VACUUM (ANALYZE, FREEZE) reading_small;
-- A second session beside this one, with the library loaded and the table looked up.
CREATE EXTENSION dblink;
SELECT dblink_connect('other', format('host=%s port=%s dbname=%s', current_setting('unix_socket_directories'),
    current_setting('port'), current_database()));
SELECT * FROM dblink('other', 'SELECT median(anomaly_summary(v)) FROM reading') AS answer(median double precision);

-- @expect Partial Aggregate
SET max_parallel_workers_per_gather = 2;
EXPLAIN (COSTS OFF) SELECT anomaly_summary(v) FROM reading;

-- @case count rows=5_000_000
SELECT count(v) FROM reading;
-- @case stddev rows=5_000_000
SELECT stddev(v) FROM reading;
-- @case anomaly_summary rows=5_000_000 beside=stddev owed="ns_per_row <= 90"
SELECT median(anomaly_summary(v)) FROM reading;
-- @case percentile_cont rows=1_000_000 beside=anomaly_summary
SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY v) FROM reading_small;
-- What two cores can give at most on this machine, where they may share one core's units, cache or clock: the same
-- statement in two sessions at once.
-- @case anomaly_summary_2_sessions rows=10_000_000 parallel=yes beside=anomaly_summary
SELECT dblink_send_query('other', 'SELECT median(anomaly_summary(v)) FROM reading');
SELECT median(anomaly_summary(v)) FROM reading;
SELECT * FROM dblink_get_result('other') AS answer(median double precision);
SELECT * FROM dblink_get_result('other') AS answer(median double precision); -- takes the end of the results
-- Two workers, and the leader that only gathers: two busy processes. 1.8 is owed where two cores do twice the work of one.
-- @case anomaly_summary_2_workers rows=5_000_000 parallel=yes beside=anomaly_summary capacity=anomaly_summary_2_sessions owed="speedup >= 1.8, of_capacity >= 0.9"
SET max_parallel_workers_per_gather = 2;
SET parallel_leader_participation = off;
-- @timed
SELECT median(anomaly_summary(v)) FROM reading;
-- @case stddev_2_workers rows=5_000_000 parallel=yes beside=stddev
SET max_parallel_workers_per_gather = 2;
SET parallel_leader_participation = off;
-- @timed
SELECT stddev(v) FROM reading;
