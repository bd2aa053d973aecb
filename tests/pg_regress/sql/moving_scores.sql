-- Moving scores: each row against the other rows of its frame.
\set VERBOSITY terse
CREATE TEMP TABLE series AS
SELECT t, v FROM unnest(ARRAY[12.5, 9.75, 10.25, 11, 30, 10.5, 9.5, 10, 10, -4, 11.5, 10.75]::float8[])
     WITH ORDINALITY AS d(v, t);

SELECT t, v,
       round((zscore(v) OVER w)::numeric, 4) AS zscore,
       round((modified_zscore(v) OVER w)::numeric, 4) AS modified,
       round((iqr_score(v) OVER w)::numeric, 4) AS iqr,
       round((ewma_score(v, 0.3) OVER w)::numeric, 4) AS ewma,
       round((anomaly_score(v) OVER w)::numeric, 4) AS score
FROM series WINDOW w AS (ORDER BY t ROWS 7 PRECEDING) ORDER BY t;

-- Plain aggregates score the last row of their order.
SELECT round(zscore(v ORDER BY t)::numeric, 4) AS zscore,
       round(modified_zscore(v ORDER BY t)::numeric, 4) AS modified,
       round(iqr_score(v ORDER BY t)::numeric, 4) AS iqr,
       round(ewma_score(v, 0.3 ORDER BY t)::numeric, 4) AS ewma,
       round(anomaly_score(v ORDER BY t)::numeric, 4) AS score
FROM series WHERE t <= 10;

-- No rows, one row, nothing but NULL.
SELECT zscore(v), modified_zscore(v), iqr_score(v), ewma_score(v, 0.3), anomaly_score(v) FROM series WHERE false;
SELECT zscore(v), modified_zscore(v), iqr_score(v), ewma_score(v, 0.3), anomaly_score(v) FROM series WHERE t = 1;
SELECT zscore(v), modified_zscore(v), iqr_score(v), ewma_score(v, 0.3), anomaly_score(v)
FROM (SELECT NULL::float8 AS v FROM series) AS d;

-- A constant series and a step, NULL, NaN and infinities in between.
SELECT t, v,
       round((zscore(v) OVER w)::numeric, 4) AS zscore,
       round((modified_zscore(v) OVER w)::numeric, 4) AS modified,
       round((iqr_score(v) OVER w)::numeric, 4) AS iqr,
       round((ewma_score(v, 0.3) OVER w)::numeric, 4) AS ewma,
       round((anomaly_score(v) OVER w)::numeric, 4) AS score
FROM unnest(ARRAY[5, 5, NULL, 5, 'NaN', 5, 'Infinity', 5, 5, 6, 4, '-Infinity', NULL]::float8[])
     WITH ORDINALITY AS d(v, t)
WINDOW w AS (ORDER BY t ROWS 8 PRECEDING)
ORDER BY t;

-- After 1e15 has left the frame nothing of it is left in the score.
SELECT t, round((zscore(v) OVER (ORDER BY t ROWS 5 PRECEDING))::numeric, 9) AS zscore
FROM unnest(ARRAY[1e15, 1.5, 1.25, 1.75, 1, 2, 1.5, 3]::float8[]) WITH ORDINALITY AS d(v, t)
ORDER BY t;

-- A row that FILTER keeps out scores NULL.
SELECT t, zscore(v) FILTER (WHERE v < 20) OVER (ORDER BY t ROWS 3 PRECEDING) IS NULL AS none
FROM series ORDER BY t;

-- The frame must end at the current row.
SELECT zscore(v) OVER () FROM series;
SELECT modified_zscore(v) OVER (ORDER BY t ROWS BETWEEN 2 PRECEDING AND 2 FOLLOWING) FROM series;
SELECT iqr_score(v) OVER (ORDER BY t ROWS BETWEEN 5 PRECEDING AND CURRENT ROW EXCLUDE CURRENT ROW) FROM series;
SELECT anomaly_score(v) OVER (ORDER BY t / 2) FROM series;
SELECT t, round((zscore(v) OVER (ORDER BY t / 2 RANGE BETWEEN 2 PRECEDING AND CURRENT ROW EXCLUDE TIES))::numeric, 4) AS zscore
FROM series ORDER BY t;

-- alpha must be above 0 and at most 1, and one for all rows.
SELECT ewma_score(v, 0) FROM series;
SELECT ewma_score(v, 1.5) OVER (ORDER BY t) FROM series;
SELECT ewma_score(v, 'NaN') FROM series;
SELECT ewma_score(v, NULL) FROM series;
SELECT ewma_score(v, t / 100.0) FROM series;

-- Never split between parallel workers: the rows' order matters.
SELECT p.proname, a.aggcombinefn = 0 AS never_partial, a.aggmtransfn <> 0 AS moves
FROM pg_aggregate AS a JOIN pg_proc AS p ON p.oid = a.aggfnoid
WHERE p.proname IN ('zscore', 'modified_zscore', 'iqr_score', 'ewma_score', 'anomaly_score') AND a.aggmtransfn <> 0
ORDER BY p.proname;
