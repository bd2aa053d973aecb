-- A detector with :strategy that has learned the history, and the rows that it has not seen.
SELECT anomaly.drop_detector(detector) FROM anomaly.detectors;
TRUNCATE host_cpu;
INSERT INTO host_cpu SELECT at, host, cpu FROM history ORDER BY at;
SELECT status FROM anomaly.watch('host_cpu', value => 'cpu', at => 'at', entity => 'host',
    strategy => :'strategy', every => '1 hour', settle => '0 seconds');
SELECT clock_timestamp() AS trained_at \gset
INSERT INTO host_cpu SELECT :'trained_at'::timestamptz + i * interval '1 microsecond', host, cpu FROM arriving ORDER BY i;
SELECT pg_sleep(greatest(0, 1.1 - extract(epoch FROM clock_timestamp() - :'trained_at'::timestamptz)));
VACUUM (ANALYZE) host_cpu;
CHECKPOINT;
