-- The schema of everything that is managed. Plain CREATE, never IF NOT EXISTS: a schema that somebody
-- else made beforehand must stop the installation, not be adopted (CVE-2022-2625).
CREATE SCHEMA anomaly;
COMMENT ON SCHEMA anomaly IS 'anomaly_detection: detectors, alerts, runs and their settings';
GRANT USAGE ON SCHEMA anomaly TO PUBLIC;

-- Roles belong to the cluster, not to an extension, so they are made only where they are missing.
DO $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) 'anomaly_monitor') THEN
        CREATE ROLE anomaly_monitor NOLOGIN;
    END IF;
    IF NOT EXISTS (SELECT 1 FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) 'anomaly_admin') THEN
        CREATE ROLE anomaly_admin NOLOGIN;
    END IF;
END
$$;
