-- Handlers hear of alerts through the outbox: a row is written in the commit that changes the alert, and taken out in the
-- commit that delivers it.

-- Operators and functions of these statements are core's, whatever the installation's schema holds.
SET LOCAL search_path TO pg_catalog, pg_temp;

CREATE TABLE anomaly.handler (
    handler    text        NOT NULL PRIMARY KEY CHECK (handler <> '' AND pg_catalog.octet_length(handler) <= 512),
    owner      regrole     NOT NULL,
    -- function and notify are delivered in the database, the others by the delivery server
    kind       text        NOT NULL CHECK (kind IN ('function', 'notify', 'webhook', 'slack', 'alertmanager', 'smtp')),
    -- a function's qualified name, a channel, or an address
    target     text        NOT NULL,
    matchers   jsonb       NOT NULL DEFAULT '{}',
    template   text,
    -- alert: told of each; incident: of its first alert, of what is worse than all before, and of its end
    per        text        NOT NULL DEFAULT 'alert' CHECK (per IN ('alert', 'incident')),
    -- handlers of one transition are called in this order
    rank       integer     NOT NULL DEFAULT 0,
    enabled    boolean     NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE anomaly.handler IS 'who is told what happens to alerts';

CREATE SEQUENCE anomaly.outbox_id_seq;
COMMENT ON SEQUENCE anomaly.outbox_id_seq IS 'numbers of deliveries';

CREATE TABLE anomaly.outbox (
    id         bigint      NOT NULL PRIMARY KEY DEFAULT pg_catalog.nextval('anomaly.outbox_id_seq'::regclass),
    alert_id   bigint      NOT NULL,
    -- of the transition among those of its alert
    sequence   integer     NOT NULL,
    transition text        NOT NULL CHECK (transition IN ('opened', 'escalated', 'reopened', 'acknowledged', 'resolved', 'withdrawn', 'summary')),
    handler    text        NOT NULL REFERENCES anomaly.handler ON DELETE CASCADE,
    owner      regrole     NOT NULL,
    detector   text        NOT NULL,
    -- the alert as it was when the row was written, the transition, and the text for people
    payload    jsonb       NOT NULL,
    created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    attempts   integer     NOT NULL DEFAULT 0,
    next_try   timestamptz NOT NULL DEFAULT pg_catalog.now(),
    last_error text,
    -- given up; anomaly.enable_handler() tries it again
    dead       boolean     NOT NULL DEFAULT false,
    -- never twice, whoever writes it
    UNIQUE (alert_id, sequence, handler)
) WITH (fillfactor = 70);
COMMENT ON TABLE anomaly.outbox IS 'what handlers have yet to be told: one row per transition of an alert and handler';
CREATE INDEX outbox_due ON anomaly.outbox (owner, next_try) WHERE NOT dead;
CREATE INDEX outbox_created ON anomaly.outbox (created_at);
CREATE INDEX outbox_handler ON anomaly.outbox (handler, alert_id);

CREATE VIEW anomaly.handlers WITH (security_barrier) AS
SELECT h.handler, h.owner, h.kind,
       -- addresses can carry secrets: others than the owner see where they lead, and no more
       CASE WHEN h.kind IN ('function', 'notify') OR pg_catalog.pg_has_role(CURRENT_USER, h.owner, 'MEMBER') THEN h.target
            ELSE pg_catalog.regexp_replace(h.target, '^([a-z]+://)?([^/@]*@)?([^/?#:]*).*$', '\1\3') END AS target,
       h.matchers, h.template, h.rank, h.enabled, h.created_at, h.per
  FROM anomaly.handler h
 WHERE pg_catalog.pg_has_role(CURRENT_USER, h.owner, 'MEMBER')
    OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_monitor', 'MEMBER')
    OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_admin', 'MEMBER');
COMMENT ON VIEW anomaly.handlers IS 'handlers that the reader owns or may see';

CREATE VIEW anomaly.deliveries WITH (security_barrier) AS
SELECT o.id, o.alert_id AS alert, o.sequence, o.transition, o.handler, h.kind, o.owner, o.detector,
       CASE WHEN o.dead THEN 'dead' WHEN NOT h.enabled THEN 'disabled'
            WHEN o.last_error IS NOT NULL THEN 'failing' ELSE 'pending' END AS status,
       o.created_at, o.attempts, o.next_try, o.last_error
  FROM anomaly.outbox o
  JOIN anomaly.handler h ON h.handler OPERATOR(pg_catalog.=) o.handler
 WHERE pg_catalog.pg_has_role(CURRENT_USER, o.owner, 'MEMBER')
    OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_monitor', 'MEMBER')
    OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_admin', 'MEMBER');
COMMENT ON VIEW anomaly.deliveries IS 'what the handlers that the reader owns or may see have yet to be told, and why not yet; what is delivered is gone';

GRANT SELECT ON anomaly.handlers, anomaly.deliveries TO PUBLIC;

SET LOCAL search_path TO @extschema@, pg_temp;
