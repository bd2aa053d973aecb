-- An isolation forest over 1,000,000 rows of 10 numbers: trained, every row scored, and the scores written to a table; beside
-- the usual way outside the database: export, scikit-learn with as many trees (100 of 256 rows) on one core, write back.
-- @repetitions 3

-- @setup
\setenv PGDATABASE :DBNAME
SELECT setseed(0.42);
CREATE FUNCTION normal() RETURNS double precision LANGUAGE sql AS 'SELECT sqrt(-2 * ln(1 - random())) * cos(2 * pi() * random())';
CREATE TABLE measured AS
SELECT i AS id, normal() AS f1, normal() AS f2, normal() AS f3, normal() AS f4, normal() AS f5, normal() AS f6, normal() AS f7, normal() AS f8,
       normal() AS f9, normal() AS f10
FROM generate_series(1, 1000000) AS i;
VACUUM (ANALYZE, FREEZE) measured;

-- @expect Parallel Seq Scan on measured
SET max_parallel_workers_per_gather = 2;
EXPLAIN (COSTS OFF) SELECT id, anomaly_score((SELECT isolation_forest(ARRAY[f1, f2, f3, f4, f5, f6, f7, f8, f9, f10]) FROM measured),
    ARRAY[f1, f2, f3, f4, f5, f6, f7, f8, f9, f10]) AS score FROM measured;

-- @case read_and_write rows=1_000_000
DROP TABLE IF EXISTS scored;
-- @timed
CREATE TABLE scored AS SELECT id, f1 + f2 + f3 + f4 + f5 + f6 + f7 + f8 + f9 + f10 AS score FROM measured;
-- @case train rows=1_000_000
SELECT length(isolation_forest(ARRAY[f1, f2, f3, f4, f5, f6, f7, f8, f9, f10])::text) FROM measured;
-- @case train_score_write rows=1_000_000 owed="ms <= 2200"
DROP TABLE scored;
-- @timed
CREATE TABLE scored AS
SELECT id, anomaly_score((SELECT isolation_forest(ARRAY[f1, f2, f3, f4, f5, f6, f7, f8, f9, f10]) FROM measured),
    ARRAY[f1, f2, f3, f4, f5, f6, f7, f8, f9, f10]) AS score
FROM measured;
-- @case train_score_write_2_workers rows=1_000_000 parallel=yes beside=train_score_write owed="ms <= 1300"
DROP TABLE scored;
SET max_parallel_workers_per_gather = 2;
-- @timed
CREATE TABLE scored AS
SELECT id, anomaly_score((SELECT isolation_forest(ARRAY[f1, f2, f3, f4, f5, f6, f7, f8, f9, f10]) FROM measured),
    ARRAY[f1, f2, f3, f4, f5, f6, f7, f8, f9, f10]) AS score
FROM measured;
-- @case export_scikit_learn_write_back rows=1_000_000 parallel=yes beside=train_score_write
DROP TABLE scored;
-- @timed
\echo `target/venv-bench/bin/python bench/sklearn_forest.py`
