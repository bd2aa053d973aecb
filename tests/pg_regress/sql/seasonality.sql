-- detect_periods and decompose
SELECT setseed(0.5);
CREATE TABLE hourly AS
SELECT i, 100 + i / 50.0 + 20 * sin(2 * pi() * i / 24) + 8 * sin(2 * pi() * i / 168) + 2 * random() AS v
  FROM generate_series(1, 1344) i;
SELECT period, round(exact_period) AS exact, strength > 0.5 AS strong FROM detect_periods((SELECT array_agg(v ORDER BY i) FROM hourly));
-- missing values do not matter
SELECT period FROM detect_periods((SELECT array_agg(CASE WHEN i % 10 = 3 THEN NULL WHEN i % 50 = 7 THEN 'NaN' ELSE v END ORDER BY i) FROM hourly));
SELECT count(*) AS of_a_line FROM detect_periods((SELECT array_agg(i::float8) FROM generate_series(1, 500) i));
SELECT count(*) AS of_nothing FROM detect_periods('{}');
SELECT count(*) AS of_nulls FROM detect_periods('{NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL}');
SELECT count(*) AS of_a_constant FROM detect_periods(array_fill(5::float8, ARRAY[200]));

-- the parts sum up to the value, and the spike is in the residual
SELECT count(*), max(abs(value - trend - residual - (SELECT sum(s) FROM unnest(seasonals) s)))::numeric(5, 3) AS error, max(array_length(seasonals, 1)) AS seasons
  FROM decompose((SELECT array_agg(v ORDER BY i) FROM hourly));
SELECT i, round(residual) AS residual, round(trend) AS trend
  FROM decompose(series => (SELECT array_agg(CASE i WHEN 700 THEN v + 50 ELSE v END ORDER BY i) FROM hourly), periods => '{24,168}', robust => true, windows => NULL)
 ORDER BY abs(residual) DESC LIMIT 1;
SELECT i, value, round(trend::numeric, 6) AS trend, seasonals, round(residual::numeric, 6) AS residual FROM decompose('{1,2,NULL,4,NaN,6}');
SELECT count(*) FROM decompose('{}');
SELECT i, trend IS NULL AS no_trend FROM decompose('{NULL,NULL}');
SELECT count(*) FROM decompose(ARRAY[1, 2, 3, 4, 5, 6], '{4}');
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM decompose(ARRAY[1, 2, 3, 4, 5, 6], '{2,NULL}');
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM decompose(ARRAY[1, 2, 3, 4, 5, 6], '{-2}');
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM decompose(ARRAY[1, 2, 3, 4, 5, 6], '{2}', windows => '{4}');
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM decompose(NULL);
\echo :LAST_ERROR_SQLSTATE
DROP TABLE hourly;
