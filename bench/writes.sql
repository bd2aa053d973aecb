-- Write-time scoring: INSERTs of 1,000 rows each into a table with 10,000 entities, plain and with the rows judged by a
-- detector in each of the modes of anomaly.watch_writes(). Timed are 100 such statements of one session, each its own
-- transaction, after one that has read the states: what a writer that stays connected pays for. Each statement's rows are of
-- 1,000 different entities, all of them after ten statements. Nothing is anomalous but in the case that says so.
--
-- Owed is what a row takes more than in the plain INSERT beside it.
-- @repetitions 5

-- @setup
SELECT setseed(0.42);
CREATE TABLE host_cpu (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL, host text NOT NULL, cpu double precision);
INSERT INTO host_cpu (at, host, cpu)
SELECT now() - interval '2 hours' + t * interval '1 minute' + e * interval '1 millisecond', 'host-' || lpad(e::text, 5, '0'),
       50 + e % 100 + 5 * sqrt(-2 * ln(1 - random())) * cos(2 * pi() * random())
FROM generate_series(1, 100) AS t, generate_series(0, 9999) AS e;
CREATE TABLE arriving AS
SELECT i / 1000 AS batch, 'host-' || lpad((i % 10000)::text, 5, '0') AS host, 50 + i % 100 + 5 * (i * 7919 % 101 / 101.0 - 0.5) AS cpu
FROM generate_series(0, 99999) AS i;
CREATE INDEX ON arriving (batch);
VACUUM (ANALYZE, FREEZE) host_cpu, arriving;
SELECT status FROM anomaly.watch('host_cpu', value => 'cpu', at => 'at', entity => 'host', strategy => 'mad', every => '1 hour', settle => '0 seconds', name => 'host_cpu');
CREATE PROCEDURE write_batches(first int, last int, spike double precision DEFAULT 0) LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN first .. last LOOP
        INSERT INTO host_cpu (at, host, cpu) SELECT clock_timestamp(), host, CASE WHEN host LIKE '%777' THEN cpu + spike ELSE cpu END FROM arriving WHERE batch = i;
        COMMIT;
    END LOOP;
END $$;

-- @expect 100|100
SELECT * FROM anomaly.watch_writes('host_cpu', 'notify');
CALL write_batches(0, 99, 5000);
SELECT count(*), count(*) FILTER (WHERE is_anomaly) FROM anomaly.row_scores;
TRUNCATE anomaly.row_score;

-- @case insert rows=100_000
SELECT anomaly.unwatch_writes('host_cpu');
CALL write_batches(0, 9);
-- @timed
CALL write_batches(0, 99);

-- @case insert_annotate rows=100_000 beside=insert owed="added_us_per_row <= 20"
SELECT anomaly.watch_writes('host_cpu', 'annotate');
CALL write_batches(0, 9);
-- @timed
CALL write_batches(0, 99);

-- @case insert_notify rows=100_000 beside=insert owed="added_us_per_row <= 20"
SELECT anomaly.watch_writes('host_cpu', 'notify');
CALL write_batches(0, 9);
-- @timed
CALL write_batches(0, 99);

-- One row in a thousand is anomalous.
-- @case insert_notify_spikes rows=100_000 beside=insert owed="added_us_per_row <= 20"
SELECT anomaly.watch_writes('host_cpu', 'notify');
CALL write_batches(0, 9);
-- @timed
CALL write_batches(0, 99, 5000);

-- @case insert_reject rows=100_000 beside=insert owed="added_us_per_row <= 20"
SELECT anomaly.watch_writes('host_cpu', 'reject');
CALL write_batches(0, 9);
-- @timed
CALL write_batches(0, 99);

-- Not owed: what a statement of one row costs.
-- @case insert_single rows=1_000
SELECT anomaly.unwatch_writes('host_cpu');
-- @timed
DO $$ BEGIN FOR i IN 0 .. 999 LOOP INSERT INTO host_cpu (at, host, cpu) VALUES (clock_timestamp(), 'host-' || lpad(i::text, 5, '0'), 50 + i % 100); END LOOP; END $$;

-- @case insert_single_notify rows=1_000 beside=insert_single
SELECT anomaly.watch_writes('host_cpu', 'notify');
CALL write_batches(0, 9);
-- @timed
DO $$ BEGIN FOR i IN 0 .. 999 LOOP INSERT INTO host_cpu (at, host, cpu) VALUES (clock_timestamp(), 'host-' || lpad(i::text, 5, '0'), 50 + i % 100); END LOOP; END $$;
