-- What monitors remember from one collection to the next.

CREATE TABLE anomaly.counter (
    monitor  text        NOT NULL PRIMARY KEY REFERENCES anomaly.monitor ON DELETE CASCADE,
    run_id   bigint,
    readings jsonb       NOT NULL
) WITH (fillfactor = 50);
COMMENT ON TABLE anomaly.counter IS 'the latest readings of each monitor, from which the next collection makes rates';

CREATE VIEW anomaly.monitors WITH (security_barrier) AS
SELECT m.monitor, m.owner, m.kind, m.every, m.params, m.enabled, m.created_at, m.next_due, m.consecutive_failures
  FROM anomaly.monitor m
 WHERE pg_catalog.pg_has_role(CURRENT_USER, m.owner, 'MEMBER')
    OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_monitor', 'MEMBER')
    OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_admin', 'MEMBER');
COMMENT ON VIEW anomaly.monitors IS 'monitors that the reader owns or may see';

GRANT SELECT ON anomaly.monitors TO PUBLIC;
