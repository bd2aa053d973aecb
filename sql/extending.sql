-- What users add to the registries.

-- Operators and functions of these statements are core's, whatever the installation's schema holds.
SET LOCAL search_path TO pg_catalog, pg_temp;

CREATE VIEW anomaly.own_strategies WITH (security_barrier) AS
SELECT s.strategy, s.owner, s.score_function AS score, s.train_function AS train, s.expected_function AS expected,
       s.description, s.created_at
  FROM anomaly.strategy s
 WHERE NOT s.builtin
   AND (pg_catalog.pg_has_role(CURRENT_USER, s.owner, 'MEMBER')
        OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_monitor', 'MEMBER')
        OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_admin', 'MEMBER'));
COMMENT ON VIEW anomaly.own_strategies IS 'strategies made of SQL functions that the reader owns or may see';

GRANT SELECT ON anomaly.own_strategies TO PUBLIC;

SET LOCAL search_path TO @extschema@, pg_temp;
