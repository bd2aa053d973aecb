-- Changes that logical replication brings: which database may run its detectors is not for another server to say, and
-- what handlers have yet to be told is told where it happened.

-- Operators and functions of these statements are core's, whatever the installation's schema holds.
SET LOCAL search_path TO pg_catalog, pg_temp;

CREATE FUNCTION anomaly.ignore_replicated() RETURNS trigger SET search_path TO pg_catalog, pg_temp LANGUAGE plpgsql AS $$
BEGIN
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION anomaly.ignore_replicated() IS 'trigger for what a subscriber of logical replication must not take over';
CREATE TRIGGER ignore_replicated BEFORE INSERT OR UPDATE ON anomaly.setting FOR EACH ROW EXECUTE FUNCTION anomaly.ignore_replicated();
ALTER TABLE anomaly.setting ENABLE REPLICA TRIGGER ignore_replicated;
CREATE TRIGGER ignore_replicated BEFORE INSERT OR UPDATE ON anomaly.outbox FOR EACH ROW EXECUTE FUNCTION anomaly.ignore_replicated();
ALTER TABLE anomaly.outbox ENABLE REPLICA TRIGGER ignore_replicated;

SET LOCAL search_path TO @extschema@, pg_temp;
