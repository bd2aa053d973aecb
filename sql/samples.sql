-- Measurements that monitors collect and that process_data_point was given. One slot a day.

CREATE TABLE anomaly.sample (
    slot   smallint    NOT NULL,
    owner  regrole     NOT NULL,
    metric text        NOT NULL,
    entity text        NOT NULL DEFAULT '',
    at     timestamptz NOT NULL CHECK (pg_catalog.isfinite(at)),
    value  double precision NOT NULL,
    -- numbers by name, those that detectors of source_kind points judge together with the value
    features jsonb,
    PRIMARY KEY (owner, metric, at, entity, slot)
) PARTITION BY LIST (slot);
COMMENT ON TABLE anomaly.sample IS 'collected measurements: the history that detectors of source_kind samples and points train on';

CREATE TABLE anomaly.sample_00 PARTITION OF anomaly.sample FOR VALUES IN (0);
CREATE TABLE anomaly.sample_01 PARTITION OF anomaly.sample FOR VALUES IN (1);
CREATE TABLE anomaly.sample_02 PARTITION OF anomaly.sample FOR VALUES IN (2);
CREATE TABLE anomaly.sample_03 PARTITION OF anomaly.sample FOR VALUES IN (3);
CREATE TABLE anomaly.sample_04 PARTITION OF anomaly.sample FOR VALUES IN (4);
CREATE TABLE anomaly.sample_05 PARTITION OF anomaly.sample FOR VALUES IN (5);
CREATE TABLE anomaly.sample_06 PARTITION OF anomaly.sample FOR VALUES IN (6);
CREATE TABLE anomaly.sample_07 PARTITION OF anomaly.sample FOR VALUES IN (7);
CREATE TABLE anomaly.sample_08 PARTITION OF anomaly.sample FOR VALUES IN (8);
CREATE TABLE anomaly.sample_09 PARTITION OF anomaly.sample FOR VALUES IN (9);
CREATE TABLE anomaly.sample_10 PARTITION OF anomaly.sample FOR VALUES IN (10);
CREATE TABLE anomaly.sample_11 PARTITION OF anomaly.sample FOR VALUES IN (11);
CREATE TABLE anomaly.sample_12 PARTITION OF anomaly.sample FOR VALUES IN (12);
CREATE TABLE anomaly.sample_13 PARTITION OF anomaly.sample FOR VALUES IN (13);
CREATE TABLE anomaly.sample_14 PARTITION OF anomaly.sample FOR VALUES IN (14);
CREATE TABLE anomaly.sample_15 PARTITION OF anomaly.sample FOR VALUES IN (15);
CREATE TABLE anomaly.sample_16 PARTITION OF anomaly.sample FOR VALUES IN (16);
CREATE TABLE anomaly.sample_17 PARTITION OF anomaly.sample FOR VALUES IN (17);
CREATE TABLE anomaly.sample_18 PARTITION OF anomaly.sample FOR VALUES IN (18);
CREATE TABLE anomaly.sample_19 PARTITION OF anomaly.sample FOR VALUES IN (19);
CREATE TABLE anomaly.sample_20 PARTITION OF anomaly.sample FOR VALUES IN (20);
CREATE TABLE anomaly.sample_21 PARTITION OF anomaly.sample FOR VALUES IN (21);
CREATE TABLE anomaly.sample_22 PARTITION OF anomaly.sample FOR VALUES IN (22);
CREATE TABLE anomaly.sample_23 PARTITION OF anomaly.sample FOR VALUES IN (23);
CREATE TABLE anomaly.sample_24 PARTITION OF anomaly.sample FOR VALUES IN (24);
CREATE TABLE anomaly.sample_25 PARTITION OF anomaly.sample FOR VALUES IN (25);
CREATE TABLE anomaly.sample_26 PARTITION OF anomaly.sample FOR VALUES IN (26);
CREATE TABLE anomaly.sample_27 PARTITION OF anomaly.sample FOR VALUES IN (27);
CREATE TABLE anomaly.sample_28 PARTITION OF anomaly.sample FOR VALUES IN (28);
CREATE TABLE anomaly.sample_29 PARTITION OF anomaly.sample FOR VALUES IN (29);
CREATE TABLE anomaly.sample_30 PARTITION OF anomaly.sample FOR VALUES IN (30);
CREATE TABLE anomaly.sample_31 PARTITION OF anomaly.sample FOR VALUES IN (31);
