-- One row per episode. The ring has one slot a month by the time the alert was raised; retention
-- truncates the slot that is about to be used again. Partitions are made here and not at run time,
-- because partitions made later do not survive a dump (DESIGN.md).

-- Operators and functions of these statements are core's, whatever the installation's schema holds.
SET LOCAL search_path TO pg_catalog, pg_temp;

CREATE SEQUENCE anomaly.alert_id_seq;
COMMENT ON SEQUENCE anomaly.alert_id_seq IS 'numbers of alerts';

CREATE TABLE anomaly.alert (
    slot               smallint    NOT NULL,
    alert_id           bigint      NOT NULL DEFAULT pg_catalog.nextval('anomaly.alert_id_seq'::regclass),
    uuid               uuid        NOT NULL DEFAULT pg_catalog.gen_random_uuid(),
    detector           text        NOT NULL,
    owner              regrole     NOT NULL,
    -- anomaly: of points; no_data: none have come for no_data_after; error: the detector's runs fail
    kind               text        NOT NULL DEFAULT 'anomaly' CHECK (kind IN ('anomaly', 'no_data', 'error')),
    status             text        NOT NULL CHECK (status IN ('open', 'acknowledged', 'resolved', 'withdrawn')),
    anomaly_type       text        NOT NULL,
    detection_strategy text        NOT NULL,
    severity           anomaly.severity NOT NULL,
    -- The same as a number: what compares it says nothing of other rows, so that the view of those that the
    -- reader may see finds the index. What compares an enum may.
    severity_rank      smallint    NOT NULL GENERATED ALWAYS AS
                       (CASE WHEN severity OPERATOR(pg_catalog.=) 'info' THEN 0 WHEN severity OPERATOR(pg_catalog.=) 'warning' THEN 1
                             WHEN severity OPERATOR(pg_catalog.=) 'critical' THEN 2 ELSE 3 END) STORED,
    entity             text        NOT NULL,
    entity_type        text,
    metric_name        text        NOT NULL,
    at                 timestamptz NOT NULL,
    last_at            timestamptz NOT NULL,
    raised_at          timestamptz NOT NULL DEFAULT pg_catalog.now(),
    resolved_at        timestamptz,
    -- how often it was opened again within cool_down of its end; flapping: so often that people hear of it no more
    -- until it has stayed quiet for so long
    reopened           integer     NOT NULL DEFAULT 0,
    flapping           boolean     NOT NULL DEFAULT false,
    acknowledged_at    timestamptz,
    acknowledged_by    text,
    note               text,
    -- by hand: who, and up to where the detector had judged; points until then belong to it, later ones to another alert
    resolved_by        text,
    closed_through     timestamptz,
    -- the calendar because of which nobody is told of it
    silenced_by        bigint,
    -- the alert of a detector that this one depends on, because of which nobody is told either
    inhibited_by       bigint,
    -- NULL only where there was no incident to speak of: alerts of an earlier version
    incident_id        bigint,
    -- why it is told to nobody: of a shadow, or as likely as not to be chance (fdr)
    withheld           text        CHECK (withheld IN ('shadow', 'chance')),
    points             integer     NOT NULL,
    -- the most deviating point so far
    peak_at            timestamptz NOT NULL,
    -- NULL where that there is none is the anomaly
    value              double precision,
    expected           double precision,
    lower              double precision,
    upper              double precision,
    -- what a model says: there is none of it where none has judged
    deviation          double precision,
    score              double precision,
    p_value            double precision,
    direction          text,
    description        text        NOT NULL,
    suggestion         text,
    -- how many numbers were given to transitions that handlers hear of
    transitions        integer     NOT NULL DEFAULT 0,
    related_alerts     uuid[]      NOT NULL DEFAULT '{}',
    metadata           jsonb       NOT NULL DEFAULT '{}',
    model_version      integer,
    run_id             bigint,
    CHECK (kind <> 'anomaly' OR (deviation IS NOT NULL AND score IS NOT NULL AND p_value IS NOT NULL
                                 AND direction IS NOT NULL AND model_version IS NOT NULL)),
    PRIMARY KEY (alert_id, slot)
) PARTITION BY LIST (slot);
COMMENT ON TABLE anomaly.alert IS 'alerts: one row per episode of anomalous points of one entity, of missing data, or of failing runs';

CREATE TABLE anomaly.alert_00 PARTITION OF anomaly.alert FOR VALUES IN (0);
CREATE TABLE anomaly.alert_01 PARTITION OF anomaly.alert FOR VALUES IN (1);
CREATE TABLE anomaly.alert_02 PARTITION OF anomaly.alert FOR VALUES IN (2);
CREATE TABLE anomaly.alert_03 PARTITION OF anomaly.alert FOR VALUES IN (3);
CREATE TABLE anomaly.alert_04 PARTITION OF anomaly.alert FOR VALUES IN (4);
CREATE TABLE anomaly.alert_05 PARTITION OF anomaly.alert FOR VALUES IN (5);
CREATE TABLE anomaly.alert_06 PARTITION OF anomaly.alert FOR VALUES IN (6);
CREATE TABLE anomaly.alert_07 PARTITION OF anomaly.alert FOR VALUES IN (7);
CREATE TABLE anomaly.alert_08 PARTITION OF anomaly.alert FOR VALUES IN (8);
CREATE TABLE anomaly.alert_09 PARTITION OF anomaly.alert FOR VALUES IN (9);
CREATE TABLE anomaly.alert_10 PARTITION OF anomaly.alert FOR VALUES IN (10);
CREATE TABLE anomaly.alert_11 PARTITION OF anomaly.alert FOR VALUES IN (11);
CREATE TABLE anomaly.alert_12 PARTITION OF anomaly.alert FOR VALUES IN (12);
CREATE TABLE anomaly.alert_13 PARTITION OF anomaly.alert FOR VALUES IN (13);
CREATE TABLE anomaly.alert_14 PARTITION OF anomaly.alert FOR VALUES IN (14);
CREATE TABLE anomaly.alert_15 PARTITION OF anomaly.alert FOR VALUES IN (15);

-- The second wall behind "one row per episode": the same episode cannot be stored twice in a slot.
CREATE UNIQUE INDEX alert_episode ON anomaly.alert (detector, entity, at, kind, slot);
-- Few alerts are open at a time: what is related to a new one is looked for among them.
CREATE INDEX alert_open ON anomaly.alert (detector, alert_id) WHERE status IN ('open', 'acknowledged');
CREATE INDEX alert_open_entity ON anomaly.alert (entity, alert_id) WHERE status IN ('open', 'acknowledged');
-- What has ended a moment ago may belong together with what begins now.
CREATE INDEX alert_ended ON anomaly.alert (resolved_at) WHERE status = 'resolved';
CREATE INDEX alert_incident ON anomaly.alert (incident_id);
-- Pages of get_alerts, the newest first: of all, of an owner, and by what is filtered most.
CREATE INDEX alert_at ON anomaly.alert (at DESC, alert_id DESC) WHERE withheld IS NULL;
CREATE INDEX alert_owner_at ON anomaly.alert (owner, at DESC, alert_id DESC) WHERE withheld IS NULL;
CREATE INDEX alert_type_at ON anomaly.alert (anomaly_type, at DESC) WHERE withheld IS NULL;
CREATE INDEX alert_severity_at ON anomaly.alert (severity_rank, at DESC) WHERE withheld IS NULL;
CREATE INDEX alert_entity_at ON anomaly.alert (entity, at DESC) WHERE withheld IS NULL;

SET LOCAL search_path TO @extschema@, pg_temp;
