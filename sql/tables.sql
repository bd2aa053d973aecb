-- Base tables have singular names and are granted to nobody; people read the plural views of views.sql,
-- which filter by role membership. Written only through src/pg/internal_rights.rs.

-- Operators and functions of these statements are core's, whatever the installation's schema holds.
SET LOCAL search_path TO pg_catalog, pg_temp;

CREATE TYPE anomaly.severity AS ENUM ('info', 'warning', 'critical', 'emergency');
COMMENT ON TYPE anomaly.severity IS 'how far a point is from normal: deviation >= 2 warning, >= 3 critical, >= 5 emergency, else info';

CREATE TABLE anomaly.setting (
    only_row     boolean     NOT NULL DEFAULT true PRIMARY KEY CHECK (only_row),
    database_oid oid         NOT NULL,
    resumed_at   timestamptz NOT NULL DEFAULT pg_catalog.now(),
    resumed_by   regrole     NOT NULL
);
COMMENT ON TABLE anomaly.setting IS 'not dumped: names the database that may run detectors; missing or different means paused (restored or copied)';

CREATE TABLE anomaly.anomaly_type (
    anomaly_type text    NOT NULL PRIMARY KEY,
    family       text    NOT NULL CHECK (family IN ('system', 'user', 'data', 'other')),
    description  text    NOT NULL,
    builtin      boolean NOT NULL DEFAULT false,
    -- of those that users have added
    owner        regrole CHECK (builtin OR owner IS NOT NULL)
);
COMMENT ON TABLE anomaly.anomaly_type IS 'registry of anomaly types';

CREATE TABLE anomaly.strategy (
    strategy    text    NOT NULL PRIMARY KEY,
    short_name  text    NOT NULL UNIQUE,
    family      text    NOT NULL CHECK (family IN ('statistical', 'learning', 'hybrid', 'own')),
    description text    NOT NULL,
    available   boolean NOT NULL,
    builtin     boolean NOT NULL DEFAULT false,
    -- of those that users have made: qualified names of functions, as text, because a regprocedure stands in the way of pg_upgrade
    owner       regrole,
    score_function    text,
    train_function    text,
    expected_function text,
    created_at  timestamptz,
    CHECK (builtin OR owner IS NOT NULL AND score_function IS NOT NULL)
);
COMMENT ON TABLE anomaly.strategy IS 'registry of detection strategies; available says whether this version implements it';

-- A monitor collects measurements on a schedule; its detectors are scanned right after each collection.
CREATE TABLE anomaly.monitor (
    monitor      text        NOT NULL PRIMARY KEY,
    owner        regrole     NOT NULL,
    kind         text        NOT NULL CHECK (kind IN ('system')),
    every        interval    NOT NULL CHECK (every > interval '0'),
    params       jsonb       NOT NULL DEFAULT '{}',
    enabled      boolean     NOT NULL DEFAULT true,
    created_at   timestamptz NOT NULL DEFAULT pg_catalog.now(),
    next_due     timestamptz,
    consecutive_failures integer NOT NULL DEFAULT 0,
    coalesced    bigint      NOT NULL DEFAULT 0
);
COMMENT ON TABLE anomaly.monitor IS 'sources that a worker runs on a schedule and whose measurements land in anomaly.sample';

CREATE TABLE anomaly.detector (
    detector        text        NOT NULL PRIMARY KEY CHECK (detector <> '' AND pg_catalog.octet_length(detector) <= 512),
    owner           regrole     NOT NULL,
    monitor         text        REFERENCES anomaly.monitor ON DELETE CASCADE,
    anomaly_type    text        NOT NULL REFERENCES anomaly.anomaly_type,
    strategy        text        NOT NULL REFERENCES anomaly.strategy,
    metric_name     text        NOT NULL,
    entity_type     text,
    -- relation: source_relation; query: source_query; samples: rows of anomaly.sample with this metric_name;
    -- points: fed by process_data_point, which keeps them in anomaly.sample as training history.
    source_kind     text        NOT NULL CHECK (source_kind IN ('relation', 'query', 'samples', 'points')),
    source_relation regclass,
    source_name     text,
    source_query    text,
    value_column    text,
    at_column       text,
    entity_column   text,
    -- judged together with the value; of source_kind points, keys of the data point
    feature_columns text[]      NOT NULL DEFAULT '{}' CHECK (pg_catalog.array_position(feature_columns, NULL) IS NULL),
    -- those of them that are categories
    category_columns text[]     NOT NULL DEFAULT '{}' CHECK (category_columns OPERATOR(pg_catalog.<@) feature_columns),
    every           interval    CHECK (every > interval '0'),
    cron            text,
    time_zone       text        NOT NULL DEFAULT 'UTC',
    settle          interval    NOT NULL DEFAULT '5 seconds' CHECK (settle >= interval '0'),
    -- how long after that a row may still come, or be corrected, and be judged
    late_window     interval    NOT NULL DEFAULT '0' CHECK (late_window >= interval '0'),
    training_window interval    NOT NULL DEFAULT '30 days' CHECK (training_window > interval '0'),
    min_data_points integer     NOT NULL DEFAULT 100 CHECK (min_data_points >= 2),
    threshold       double precision CHECK (threshold > 0 AND threshold < 'Infinity'),
    alerts_per_day  double precision NOT NULL DEFAULT 1 CHECK (alerts_per_day > 0 AND alerts_per_day < 'Infinity'),
    -- the share of false alarms among those that are told, NULL where only alerts_per_day decides
    fdr             double precision CHECK (fdr > 0 AND fdr < 1),
    fire_after      integer     NOT NULL DEFAULT 1 CHECK (fire_after >= 1),
    clear_after     integer     NOT NULL DEFAULT 3 CHECK (clear_after >= 1),
    -- for how long after its end an alert is opened again instead of a new one
    cool_down       interval    NOT NULL DEFAULT '0' CHECK (cool_down >= interval '0'),
    max_entities    integer     NOT NULL DEFAULT 10000 CHECK (max_entities >= 1),
    -- how long after a training the next one is due, NULL where none is by itself
    retrain_every   interval    CHECK (retrain_every >= interval '1 minute'),
    kind            text        NOT NULL DEFAULT 'value' CHECK (kind IN ('value', 'count', 'ratio')),
    trials_column   text,
    -- how long a bucket is, NULL where each row is a point, and what is made of its rows
    bucket          interval    CHECK (bucket >= interval '1 second'),
    aggregate       text        NOT NULL DEFAULT 'avg'
                    CHECK (aggregate ~ '^(avg|sum|count|count_distinct|min|max|median|stddev|first|last|p[0-9.]+)$'),
    on_missing      text        NOT NULL DEFAULT 'ignore'
                    CHECK (on_missing IN ('ignore', 'zero', 'previous', 'interpolate', 'anomaly')),
    direction       text        NOT NULL DEFAULT 'both' CHECK (direction IN ('both', 'above', 'below')),
    min_effect      double precision NOT NULL DEFAULT 0 CHECK (min_effect >= 0 AND min_effect < 'Infinity'),
    min_relative_effect double precision NOT NULL DEFAULT 0 CHECK (min_relative_effect >= 0 AND min_relative_effect < 'Infinity'),
    -- after how long without a point that is an alert, NULL where it is none
    no_data_after   interval    CHECK (no_data_after > interval '0'),
    -- detectors whose open alerts keep those of this one from being told
    depends_on      text[]      NOT NULL DEFAULT '{}' CHECK (pg_catalog.array_position(depends_on, NULL) IS NULL),
    -- alerts of detectors that share one belong together
    labels          text[]      NOT NULL DEFAULT '{}' CHECK (pg_catalog.array_position(labels, NULL) IS NULL),
    params          jsonb       NOT NULL DEFAULT '{}',
    enabled         boolean     NOT NULL DEFAULT true,
    created_at      timestamptz NOT NULL DEFAULT pg_catalog.now(),
    updated_at      timestamptz NOT NULL DEFAULT pg_catalog.now(),
    CHECK (every IS NULL OR cron IS NULL),
    CHECK ((kind = 'ratio') = (trials_column IS NOT NULL)),
    CHECK (bucket IS NOT NULL OR (aggregate = 'avg' AND on_missing = 'ignore')),
    CHECK (fdr IS NULL OR (bucket IS NOT NULL AND late_window = interval '0'))
);
COMMENT ON TABLE anomaly.detector IS 'configuration of each detector; what changes at each scan is in anomaly.detector_state';

CREATE TABLE anomaly.detector_state (
    detector       text        NOT NULL PRIMARY KEY REFERENCES anomaly.detector ON DELETE CASCADE,
    -- new: never trained; warming: too few points; active; broken: cannot run until somebody acts
    status         text        NOT NULL DEFAULT 'new' CHECK (status IN ('new', 'warming', 'active', 'broken')),
    status_reason  text,
    -- what to type about it, where enabling it would not do
    status_hint    text,
    watermark      timestamptz,
    next_due       timestamptz,
    consecutive_failures integer NOT NULL DEFAULT 0,
    -- due times that had no run of their own: the next one covers them
    coalesced      bigint      NOT NULL DEFAULT 0,
    -- the first failure of the latest failures in a row
    failing_since  timestamptz,
    -- alerts that are open: of failing runs, and of no data from any entity
    error_alert    bigint,
    no_data_alert  bigint,
    last_scan_at   timestamptz,
    last_training_time timestamptz,
    -- what it may learn from is something else now: trained anew at its next run
    retrain_requested boolean  NOT NULL DEFAULT false,
    -- the settings were altered so that the active model does not fit them any more
    needs_training boolean     NOT NULL DEFAULT false,
    -- when a scheduled training that failed is tried again
    retry_training_at timestamptz,
    -- how long the latest detections took: numbers of points and milliseconds in turn
    detection_times double precision[] NOT NULL DEFAULT '{}',
    points_processed bigint    NOT NULL DEFAULT 0,
    anomalies_detected bigint  NOT NULL DEFAULT 0,
    entities_skipped bigint    NOT NULL DEFAULT 0,
    -- of the latest scan: more than it may open
    alerts_suppressed bigint   NOT NULL DEFAULT 0,
    -- anomaly.stats: counted in the same row as everything else that a run changes
    stats_since    timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    scans          bigint      NOT NULL DEFAULT 0,
    failures       bigint      NOT NULL DEFAULT 0,
    rows_read      bigint      NOT NULL DEFAULT 0,
    alerts_opened  bigint      NOT NULL DEFAULT 0,
    scan_ms        double precision NOT NULL DEFAULT 0,
    max_scan_ms    double precision NOT NULL DEFAULT 0,
    -- what the counters above them were then
    points_before  bigint      NOT NULL DEFAULT 0,
    anomalies_before bigint    NOT NULL DEFAULT 0
) WITH (fillfactor = 70);
COMMENT ON TABLE anomaly.detector_state IS 'where each detector stands: watermark, next due time, status';

-- Insert-then-activate: training writes version n + 1 and its entity states, then moves active.
CREATE TABLE anomaly.model (
    detector       text        NOT NULL REFERENCES anomaly.detector ON DELETE CASCADE,
    version        integer     NOT NULL,
    active         boolean     NOT NULL,
    strategy       text        NOT NULL,
    trained_at     timestamptz NOT NULL DEFAULT pg_catalog.now(),
    trained_rows   bigint      NOT NULL,
    trained_from   timestamptz,
    trained_until  timestamptz,
    entities       bigint      NOT NULL,
    points_per_day double precision,
    payload        bytea       NOT NULL,
    PRIMARY KEY (detector, version)
);
COMMENT ON TABLE anomaly.model IS 'versions of each detector''s shared model (header, checksum, payload)';
CREATE UNIQUE INDEX model_active ON anomaly.model (detector) WHERE active;

CREATE TABLE anomaly.entity_state (
    detector text    NOT NULL,
    version  integer NOT NULL,
    entity   text    NOT NULL,
    payload  bytea   NOT NULL,
    PRIMARY KEY (detector, version, entity),
    FOREIGN KEY (detector, version) REFERENCES anomaly.model ON DELETE CASCADE
) WITH (fillfactor = 80);
COMMENT ON TABLE anomaly.entity_state IS 'one small state per entity: baseline and episode; entity is empty for a detector without entities';

-- From the oldest checkpoint on rows are read again at each scan; see DESIGN.md, "Late rows".
CREATE TABLE anomaly.checkpoint (
    detector text        NOT NULL,
    version  integer     NOT NULL,
    at       timestamptz NOT NULL,
    entity   text        NOT NULL,
    -- NULL where the entity had no state yet
    payload  bytea,
    -- of the alert that was open
    metadata jsonb,
    -- of the points between this checkpoint and the next, as they were judged
    points   bigint      NOT NULL DEFAULT 0,
    digest   bigint      NOT NULL DEFAULT 0,
    PRIMARY KEY (detector, version, at, entity),
    FOREIGN KEY (detector, version) REFERENCES anomaly.model ON DELETE CASCADE
) WITH (fillfactor = 80);
COMMENT ON TABLE anomaly.checkpoint IS 'earlier states of entities, from which they are judged again when rows of their late_window change';

-- Only of detectors with no_data_after. What has been there of a series is no matter of a model's version.
CREATE TABLE anomaly.last_data (
    detector      text        NOT NULL REFERENCES anomaly.detector ON DELETE CASCADE,
    entity        text        NOT NULL,
    -- of the latest point
    at            timestamptz NOT NULL,
    -- up to when a calendar has excused that there is none
    excused_until timestamptz,
    -- of no data, while it is open
    alert_id      bigint,
    PRIMARY KEY (detector, entity)
) WITH (fillfactor = 70);
COMMENT ON TABLE anomaly.last_data IS 'when each entity of a detector with no_data_after has had its latest point';

CREATE TABLE anomaly.member_performance (
    detector        text    NOT NULL REFERENCES anomaly.detector ON DELETE CASCADE,
    -- full name of the member's strategy
    member          text    NOT NULL,
    true_positives  bigint  NOT NULL DEFAULT 0 CHECK (true_positives >= 0),
    false_positives bigint  NOT NULL DEFAULT 0 CHECK (false_positives >= 0),
    true_negatives  bigint  NOT NULL DEFAULT 0 CHECK (true_negatives >= 0),
    false_negatives bigint  NOT NULL DEFAULT 0 CHECK (false_negatives >= 0),
    precision       double precision NOT NULL DEFAULT 0,
    recall          double precision NOT NULL DEFAULT 0,
    f1_score        double precision NOT NULL DEFAULT 0,
    last_update     timestamptz NOT NULL DEFAULT pg_catalog.now(),
    PRIMARY KEY (detector, member)
);
COMMENT ON TABLE anomaly.member_performance IS 'how often each member of an ensemble was right, as people have judged; the weights of hybrid_adaptive follow from it';

SET LOCAL search_path TO @extschema@, pg_temp;
