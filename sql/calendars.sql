-- Silences and calendars: what is known beforehand of times that come once, or again and again.

-- Operators and functions of these statements are core's, whatever the installation's schema holds.
SET LOCAL search_path TO pg_catalog, pg_temp;

CREATE SEQUENCE anomaly.calendar_id_seq;
COMMENT ON SEQUENCE anomaly.calendar_id_seq IS 'numbers of calendars';

CREATE TABLE anomaly.calendar (
    calendar_id  bigint      NOT NULL PRIMARY KEY DEFAULT pg_catalog.nextval('anomaly.calendar_id_seq'::regclass),
    name         text        NOT NULL CHECK (name <> ''),
    owner        regrole     NOT NULL,
    -- NULL: all of the owner's, all entities, all anomaly types
    detector     text        REFERENCES anomaly.detector ON DELETE CASCADE,
    entity       text,
    anomaly_type text,
    -- of a mute: the alerts that it silences, bounds included
    min_severity anomaly.severity,
    max_severity anomaly.severity,
    action       text        NOT NULL CHECK (action IN ('mute', 'exclude', 'expect')),
    starts_at    timestamptz NOT NULL CHECK (pg_catalog.isfinite(starts_at)),
    duration     interval    NOT NULL CHECK (duration > interval '0'),
    -- RFC 5545; NULL: once
    rrule        text,
    time_zone    text        NOT NULL,
    reason       text,
    created_by   regrole     NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT pg_catalog.now(),
    CHECK (min_severity <= max_severity),
    CHECK (action = 'mute' OR (min_severity IS NULL AND max_severity IS NULL))
);
COMMENT ON TABLE anomaly.calendar IS 'times at which alerts are muted, points are not learned, or everything is expected';
CREATE INDEX calendar_detector ON anomaly.calendar (detector);
CREATE INDEX calendar_owner ON anomaly.calendar (owner) WHERE detector IS NULL;

CREATE VIEW anomaly.calendars WITH (security_barrier) AS
SELECT c.calendar_id AS id, c.name, c.owner, c.action, c.detector, c.entity, c.anomaly_type, c.min_severity, c.max_severity,
       c.starts_at, c.duration, c.rrule, c.time_zone, pg_catalog.lower(n.during) AS next_from, pg_catalog.upper(n.during) AS next_until,
       c.reason, c.created_by, c.created_at
  FROM anomaly.calendar c
 CROSS JOIN LATERAL (
       SELECT anomaly.next_occurrence(c.starts_at, c.duration, c.rrule, c.time_zone, pg_catalog.now()) AS during) n
 WHERE pg_catalog.pg_has_role(CURRENT_USER, c.owner, 'MEMBER')
    OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_monitor', 'MEMBER')
    OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_admin', 'MEMBER');
COMMENT ON VIEW anomaly.calendars IS 'silences and calendars that the reader owns or may see; next_from and next_until are of the occurrence that is going on, or else of the next one';

GRANT SELECT ON anomaly.calendars TO PUBLIC;

SET LOCAL search_path TO @extschema@, pg_temp;
