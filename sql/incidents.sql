-- Incidents: alerts that belong together. What an incident says is read off its alerts, so that nobody has to wait for
-- a row that somebody else is changing; DESIGN.md, "Incidents".

-- Operators and functions of these statements are core's, whatever the installation's schema holds.
SET LOCAL search_path TO pg_catalog, pg_temp;

CREATE SEQUENCE anomaly.incident_id_seq;
COMMENT ON SEQUENCE anomaly.incident_id_seq IS 'numbers of incidents';

CREATE TABLE anomaly.incident (
    incident_id bigint      NOT NULL PRIMARY KEY DEFAULT pg_catalog.nextval('anomaly.incident_id_seq'::regclass),
    uuid        uuid        NOT NULL DEFAULT pg_catalog.gen_random_uuid(),
    owner       regrole     NOT NULL,
    -- when its first alert began, and when it was raised
    started_at  timestamptz NOT NULL,
    raised_at   timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE anomaly.incident IS 'incidents: alerts of one owner that share an entity, a source, a label or a dependency at about the same time';
CREATE INDEX incident_raised ON anomaly.incident (raised_at);

-- Outbox rows go when they are delivered: what was told is needed for as long as the incident goes on.
CREATE TABLE anomaly.incident_hearing (
    incident_id   bigint   NOT NULL REFERENCES anomaly.incident ON DELETE CASCADE,
    handler       text     NOT NULL REFERENCES anomaly.handler ON DELETE CASCADE,
    -- the highest so far, as severity_rank of alerts
    severity_rank smallint NOT NULL,
    ended         boolean  NOT NULL,
    PRIMARY KEY (incident_id, handler)
);
COMMENT ON TABLE anomaly.incident_hearing IS 'what handlers that are told per incident have heard of each';
CREATE INDEX incident_hearing_handler ON anomaly.incident_hearing (handler);

CREATE VIEW anomaly.incidents WITH (security_barrier) AS
SELECT i.incident_id AS id, i.uuid, i.owner,
       CASE WHEN s.unseen OPERATOR(pg_catalog.>) 0 THEN 'open' WHEN s.open_alerts OPERATOR(pg_catalog.>) 0 THEN 'acknowledged'
            WHEN s.alerts OPERATOR(pg_catalog.>) 0 THEN 'resolved' ELSE 'withdrawn' END AS status,
       s.severity, s.alerts, s.open_alerts, s.inhibited_alerts, s.detectors, s.entities, s.started_at, s.last_at,
       CASE s.open_alerts WHEN 0 THEN s.resolved_at END AS resolved_at,
       CASE s.open_alerts WHEN 0 THEN s.resolved_at OPERATOR(pg_catalog.-) s.started_at END AS duration, i.raised_at
  FROM anomaly.incident i
 CROSS JOIN LATERAL (
        SELECT pg_catalog.count(*) AS members,
               pg_catalog.count(*) FILTER (WHERE a.status OPERATOR(pg_catalog.=) 'open') AS unseen,
               pg_catalog.count(*) FILTER (WHERE a.status IN ('open', 'acknowledged')) AS open_alerts,
               pg_catalog.count(*) FILTER (WHERE a.status OPERATOR(pg_catalog.<>) 'withdrawn') AS alerts,
               pg_catalog.count(*) FILTER (WHERE a.status OPERATOR(pg_catalog.<>) 'withdrawn' AND a.inhibited_by IS NOT NULL) AS inhibited_alerts,
               pg_catalog.max(a.severity) FILTER (WHERE a.status OPERATOR(pg_catalog.<>) 'withdrawn') AS severity,
               pg_catalog.array_agg(DISTINCT a.detector) FILTER (WHERE a.status OPERATOR(pg_catalog.<>) 'withdrawn') AS detectors,
               pg_catalog.array_agg(DISTINCT a.entity) FILTER (WHERE a.status OPERATOR(pg_catalog.<>) 'withdrawn'
                                                                 AND a.entity OPERATOR(pg_catalog.<>) '') AS entities,
               pg_catalog.min(a.at) FILTER (WHERE a.status OPERATOR(pg_catalog.<>) 'withdrawn') AS started_at,
               pg_catalog.max(a.last_at) FILTER (WHERE a.status OPERATOR(pg_catalog.<>) 'withdrawn') AS last_at,
               pg_catalog.max(a.resolved_at) FILTER (WHERE a.status OPERATOR(pg_catalog.<>) 'withdrawn') AS resolved_at
          FROM anomaly.alert a WHERE a.incident_id OPERATOR(pg_catalog.=) i.incident_id AND a.withheld IS NULL) s
 WHERE s.members OPERATOR(pg_catalog.>) 0
   AND (pg_catalog.pg_has_role(CURRENT_USER, i.owner, 'MEMBER')
        OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_monitor', 'MEMBER')
        OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_admin', 'MEMBER'));
COMMENT ON VIEW anomaly.incidents IS 'incidents that the reader owns or may see: alerts that belong together, without withdrawn ones';

GRANT SELECT ON anomaly.incidents TO PUBLIC;

SET LOCAL search_path TO @extschema@, pg_temp;
