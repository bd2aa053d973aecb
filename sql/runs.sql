-- Runs: what was executed when, by whom and how it ended. One slot a day in a fixed ring; the slot
-- that will be used tomorrow is emptied today. Partitions are made here, because partitions made
-- later do not survive a dump.

-- Operators and functions of these statements are core's, whatever the installation's schema holds.
SET LOCAL search_path TO pg_catalog, pg_temp;

CREATE SEQUENCE anomaly.run_id_seq;
COMMENT ON SEQUENCE anomaly.run_id_seq IS 'numbers of runs';

CREATE TABLE anomaly.run (
    slot             smallint    NOT NULL,
    run_id           bigint      NOT NULL DEFAULT pg_catalog.nextval('anomaly.run_id_seq'::regclass),
    detector         text,
    monitor          text,
    owner            regrole     NOT NULL,
    kind             text        NOT NULL CHECK (kind IN ('scan', 'train', 'collect')),
    started_by       text        NOT NULL CHECK (started_by IN ('worker', 'scan', 'train', 'run_due')),
    -- crashed: the session ended without a word, its lock is free
    status           text        NOT NULL CHECK (status IN ('running', 'succeeded', 'failed', 'cancelled', 'crashed')),
    pid              integer     NOT NULL,
    started_at       timestamptz NOT NULL,
    finished_at      timestamptz,
    window_from      timestamptz,
    window_until     timestamptz,
    rows_read        bigint,
    points_scored    bigint,
    alerts_opened    bigint,
    alerts_resolved  bigint,
    entities         bigint,
    entities_skipped bigint,
    entities_replayed bigint,
    alerts_amended   bigint,
    alerts_withdrawn bigint,
    alerts_suppressed bigint,
    error_code       text,
    error_message    text,
    PRIMARY KEY (run_id, slot),
    CHECK ((detector IS NULL) OPERATOR(pg_catalog.<>) (monitor IS NULL))
) PARTITION BY LIST (slot);
COMMENT ON TABLE anomaly.run IS 'executions of detectors and monitors, kept for two weeks';

CREATE TABLE anomaly.run_00 PARTITION OF anomaly.run FOR VALUES IN (0) WITH (fillfactor = 80);
CREATE TABLE anomaly.run_01 PARTITION OF anomaly.run FOR VALUES IN (1) WITH (fillfactor = 80);
CREATE TABLE anomaly.run_02 PARTITION OF anomaly.run FOR VALUES IN (2) WITH (fillfactor = 80);
CREATE TABLE anomaly.run_03 PARTITION OF anomaly.run FOR VALUES IN (3) WITH (fillfactor = 80);
CREATE TABLE anomaly.run_04 PARTITION OF anomaly.run FOR VALUES IN (4) WITH (fillfactor = 80);
CREATE TABLE anomaly.run_05 PARTITION OF anomaly.run FOR VALUES IN (5) WITH (fillfactor = 80);
CREATE TABLE anomaly.run_06 PARTITION OF anomaly.run FOR VALUES IN (6) WITH (fillfactor = 80);
CREATE TABLE anomaly.run_07 PARTITION OF anomaly.run FOR VALUES IN (7) WITH (fillfactor = 80);
CREATE TABLE anomaly.run_08 PARTITION OF anomaly.run FOR VALUES IN (8) WITH (fillfactor = 80);
CREATE TABLE anomaly.run_09 PARTITION OF anomaly.run FOR VALUES IN (9) WITH (fillfactor = 80);
CREATE TABLE anomaly.run_10 PARTITION OF anomaly.run FOR VALUES IN (10) WITH (fillfactor = 80);
CREATE TABLE anomaly.run_11 PARTITION OF anomaly.run FOR VALUES IN (11) WITH (fillfactor = 80);
CREATE TABLE anomaly.run_12 PARTITION OF anomaly.run FOR VALUES IN (12) WITH (fillfactor = 80);
CREATE TABLE anomaly.run_13 PARTITION OF anomaly.run FOR VALUES IN (13) WITH (fillfactor = 80);
CREATE TABLE anomaly.run_14 PARTITION OF anomaly.run FOR VALUES IN (14) WITH (fillfactor = 80);
CREATE TABLE anomaly.run_15 PARTITION OF anomaly.run FOR VALUES IN (15) WITH (fillfactor = 80);

-- The running ones are looked up at every visit, and the last ones by the health view.
CREATE INDEX run_running ON anomaly.run (run_id) WHERE status OPERATOR(pg_catalog.=) 'running';
CREATE INDEX run_detector ON anomaly.run (detector, started_at DESC);

SET LOCAL search_path TO @extschema@, pg_temp;
