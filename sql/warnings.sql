-- What works and yet is not as it should be: rows of anomaly.health.

-- Operators and functions of these statements are core's, whatever the installation's schema holds.
SET LOCAL search_path TO pg_catalog, pg_temp;

CREATE VIEW anomaly.warnings WITH (security_barrier) AS
SELECT u.kind, u.name, u.owner, u.status, u.reason, u.hint FROM (
SELECT 'handler'::pg_catalog.text AS kind, h.handler AS name, h.owner, 'broken'::pg_catalog.text AS status,
       pg_catalog.format('secret "%s" is not set, as after a restore', r.reference[1]) AS reason,
       pg_catalog.format('SELECT anomaly.set_secret(%L, …) as %s', r.reference[1], h.owner) AS hint
  FROM anomaly.handler h,
       pg_catalog.regexp_matches(h.target, '\$\{secret:([A-Za-z0-9_.-]+)\}', 'g') AS r (reference)
 WHERE h.kind IN ('webhook', 'slack', 'alertmanager', 'smtp')
   AND NOT EXISTS (SELECT FROM anomaly.secret s WHERE s.owner OPERATOR(pg_catalog.=) h.owner
                                                  AND s.name OPERATOR(pg_catalog.=) r.reference[1])
UNION ALL
SELECT 'detector', d.detector, d.owner, 'all rows',
       pg_catalog.format('%s has row security, which does not hold for %s, a %s', d.source_relation, d.owner,
                         CASE WHEN o.rolsuper THEN 'superuser' ELSE 'role with BYPASSRLS' END),
       'let a role own the detector that sees what it should'
  FROM anomaly.detector d
  JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) d.source_relation AND c.relrowsecurity
  JOIN pg_catalog.pg_roles o ON o.oid OPERATOR(pg_catalog.=) d.owner AND (o.rolsuper OR o.rolbypassrls)) u
 WHERE pg_catalog.pg_has_role(CURRENT_USER, u.owner, 'MEMBER')
    OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_monitor', 'MEMBER')
    OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_admin', 'MEMBER');
COMMENT ON VIEW anomaly.warnings IS 'what works and yet is not as it should be: handlers without their secrets, detectors that row security does not hold back';

GRANT SELECT ON anomaly.warnings TO PUBLIC;

SET LOCAL search_path TO @extschema@, pg_temp;
