-- What addresses of handlers must not show. Not registered for dump, on purpose: after a restore secrets are set anew.

-- Operators and functions of these statements are core's, whatever the installation's schema holds.
SET LOCAL search_path TO pg_catalog, pg_temp;

-- Roles belong to the cluster, not to an extension, so they are made only where they are missing.
DO $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) 'anomaly_delivery') THEN
        CREATE ROLE anomaly_delivery NOLOGIN;
    END IF;
END
$$;

CREATE TABLE anomaly.secret (
    owner  regrole     NOT NULL,
    name   text        NOT NULL,
    value  text        NOT NULL,
    set_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    PRIMARY KEY (owner, name)
);
COMMENT ON TABLE anomaly.secret IS 'not dumped: what targets of handlers name as ${secret:name}';

CREATE VIEW anomaly.secrets WITH (security_barrier) AS
SELECT s.name, s.owner, s.set_at
  FROM anomaly.secret s
 WHERE pg_catalog.pg_has_role(CURRENT_USER, s.owner, 'MEMBER')
    OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_admin', 'MEMBER');
COMMENT ON VIEW anomaly.secrets IS 'names of the reader''s secrets; their values nobody sees';

GRANT SELECT ON anomaly.secrets TO PUBLIC;

SET LOCAL search_path TO @extschema@, pg_temp;
