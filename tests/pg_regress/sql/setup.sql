-- Runs first: every other file of this directory uses the extension in this database.
CREATE EXTENSION anomaly_detection;
SELECT extname, nspname AS schema, extrelocatable
FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace
WHERE extname = 'anomaly_detection';
