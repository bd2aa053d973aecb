-- A window of more rows than are judged at a time (65,536): rows are held and judged entity by entity, and nobody can
-- tell. Each entity's points are judged in the order of time, across the borders too; alerts are numbered in it.
CREATE TABLE many (at timestamptz NOT NULL, entity text, v double precision);
INSERT INTO many SELECT now() - interval '2 days' + i * interval '1 minute', e, 1 FROM generate_series(1, 200) i, unnest(ARRAY['a', 'b', 'c']) e;
SELECT anomaly.create_detector('data_outlier', 'threshold', 'v', source => 'many', value => 'v', at => 'at', entity => 'entity',
    params => '{"max": 10}', clear_after => 1, settle => '0 s', name => 'many');
SELECT status, trained_rows FROM anomaly.train('many');
SELECT window_until AS trained_at FROM anomaly.scan('many') \gset
-- a, b and c in turn, a microsecond apart, from the moment of training on. Between rows 60,000 and 70,000 c has no values.
INSERT INTO many
SELECT :'trained_at'::timestamptz + i * interval '1 microsecond', (ARRAY['a', 'b', 'c'])[1 + i % 3],
       CASE WHEN i % 3 = 2 AND i BETWEEN 60000 AND 70000 THEN NULL
            WHEN i % 3 = 0 AND i BETWEEN 65500 AND 65600 THEN 100000 - i  -- the peak comes first
            WHEN i % 3 = 1 AND (i BETWEEN 65530 AND 65540 OR i BETWEEN 65544 AND 65550) THEN i -- the peak comes last
            WHEN i % 3 = 2 AND i IN (59999, 70001, 139997) THEN i
            WHEN i IN (100000, 131073) THEN 500
            ELSE 1 END
  FROM generate_series(1, 140000) i;
SELECT pg_sleep(greatest(0, 0.2 - extract(epoch FROM clock_timestamp() - :'trained_at'::timestamptz)));
SELECT rows_read, points_scored, alerts_opened, alerts_resolved FROM anomaly.scan('many');
CREATE FUNCTION pg_temp.row_of(timestamptz, timestamptz) RETURNS bigint LANGUAGE sql AS 'SELECT round(extract(epoch FROM $2 - $1) * 1000000)::bigint';
SELECT entity, pg_temp.row_of(:'trained_at', at) AS from_row, pg_temp.row_of(:'trained_at', last_at) AS to_row, pg_temp.row_of(:'trained_at', resolved_at) AS resolved,
       points, pg_temp.row_of(:'trained_at', peak_at) AS peak, value, status
  FROM anomaly.alerts WHERE detector = 'many' ORDER BY id;

-- New entities in the second half, and one too many.
UPDATE anomaly.detector SET max_entities = 4 WHERE detector = 'many';
SELECT window_until AS scanned_at FROM anomaly.scan('many') \gset
INSERT INTO many
SELECT :'scanned_at'::timestamptz + i * interval '1 microsecond', CASE WHEN i <= 70000 THEN 'a' ELSE (ARRAY['beyond', 'new'])[1 + i % 2] END, CASE WHEN i % 30000 < 2 THEN 99 ELSE 1 END
  FROM generate_series(1, 100000) i;
SELECT pg_sleep(greatest(0, 0.2 - extract(epoch FROM clock_timestamp() - :'scanned_at'::timestamptz)));
SELECT rows_read, points_scored, alerts_opened, alerts_resolved FROM anomaly.scan('many');
SELECT entity, pg_temp.row_of(:'scanned_at', at) AS from_row, pg_temp.row_of(:'scanned_at', last_at) AS to_row, points FROM anomaly.alerts WHERE detector = 'many' AND at > :'scanned_at' ORDER BY id;
SELECT anomaly.drop_detector('many');
DROP TABLE many;
