//! Reading a detector's configuration, state and active model. All of it is fixed SQL under the
//! rights of the extension's owner; whether the caller may see the detector is checked here.

use anomaly_core::{
    Detector, DetectorConfig,
    durations::Durations,
    nearest::nearest,
    strategy::{OwnFunctions, Performance, full_ids},
    verdict::Direction,
};
use pgrx::{JsonB, PgSqlErrorCode, datum::Interval, pg_sys, spi::quote_literal};
use serde_json::json;

use crate::{
    anomaly_type,
    detector::{
        sampling::{Features, Sampling, Wanted},
        source::{Columns, Source},
    },
    error::{SqlResult, from_core, report},
    pg::{internal_rights, locks, session, snapshot},
    sql, strategy,
};

/// Where points come from.
#[derive(Debug, Clone)]
pub enum Feed {
    Relation {
        oid: pg_sys::Oid,
        name: String,
        columns: Columns,
    },
    Query {
        text: String,
        columns: Columns,
    },
    /// Rows of `anomaly.sample` with the detector's metric and owner.
    Samples,
    /// Brought by `process_data_point`, kept in `anomaly.sample`.
    Points {
        features: Vec<String>,
    },
}

/// The active version of a detector's shared model.
#[derive(Debug, Clone)]
pub struct ActiveModel {
    pub version: i32,
    pub points_per_day: Option<f64>,
    pub entities: i64,
    pub payload: Vec<u8>,
}

/// A detector as the catalogue has it.
#[derive(Debug, Clone)]
pub struct DetectorRow {
    pub detector: String,
    pub owner: pg_sys::Oid,
    pub anomaly_type: String,
    pub strategy: String,
    /// Functions of a strategy of the user's own.
    pub own: Option<OwnFunctions>,
    /// Of an anomaly type of the user's own.
    pub family: Option<String>,
    pub metric_name: String,
    pub entity_type: Option<String>,
    pub feed: Feed,
    pub time_zone: String,
    pub min_data_points: i32,
    pub threshold: Option<f64>,
    pub alerts_per_day: f64,
    /// The share of false alarms among those that are told; `None`: only alerts_per_day decides.
    pub fdr: Option<f64>,
    /// The detector that it is compared with, for one that nobody hears of.
    pub shadow_of: Option<String>,
    pub fire_after: i32,
    pub clear_after: i32,
    pub max_entities: i32,
    pub sampling: Sampling,
    /// The side that counts, `None` for both.
    pub direction: Option<Direction>,
    pub min_effect: f64,
    pub min_relative_effect: f64,
    pub params: serde_json::Value,
    /// How often members of an ensemble were right.
    pub performance: Vec<(String, Performance)>,
    pub status: String,
    /// Settings were altered so that the active model does not fit them any more.
    pub needs_training: bool,
    /// A training is due that `retrain_every` asks for, or what people have said.
    pub retraining_due: bool,
    pub consecutive_failures: i32,
    pub durations: Durations,
    pub watermark: Option<i64>,
    /// now − settle: no point later than this is looked at. With buckets, the start of the one that
    /// holds that time.
    pub settled_until: i64,
    /// settled_until − training_window: training looks no further back.
    pub training_from: i64,
    /// µs; rows that come so much later than the scan that passed their time are judged all the same.
    pub late_window: i64,
    /// µs; for so long after its end an alert is opened again instead of a new one.
    pub cool_down: i64,
    /// µs without a point after which that is an alert.
    pub no_data_after: Option<i64>,
    /// Detectors whose open alerts keep those of this one from being told.
    pub depends_on: Vec<String>,
    pub labels: Vec<String>,
    /// Alerts of kind error and no_data that are open, of the detector as a whole.
    pub error_alert: Option<i64>,
    pub no_data_alert: Option<i64>,
    pub model: Option<ActiveModel>,
}

impl DetectorRow {
    /// Reads a detector without asking who wants to know. In the id, a strategy may have its short name.
    ///
    /// # Errors
    /// 42704 when there is none of that id.
    pub fn load(detector: &str) -> SqlResult<DetectorRow> {
        Self::find(detector)?.ok_or_else(|| unknown(detector))
    }

    fn find(detector: &str) -> SqlResult<Option<DetectorRow>> {
        let mut found = Self::stored(detector)?;
        if let Some(row) = &mut found {
            row.own = strategy::functions(&row.strategy, row.owner, &row.params, &row.detector)?;
            row.family = anomaly_type::own_family(&row.anomaly_type)?;
        }
        Ok(found)
    }

    fn stored(detector: &str) -> SqlResult<Option<DetectorRow>> {
        internal_rights::with(|| {
            let now = sql::timestamptz(session::now())?;
            let exact = sql::row(LOAD, &[detector.into(), now.into()], from_row)?;
            if exact.is_some() {
                return Ok(exact);
            }
            for id in full_ids(detector) {
                let found = sql::row(LOAD, &[id.into(), now.into()], from_row)?;
                if found.is_some() {
                    return Ok(found);
                }
            }
            Ok(None)
        })
    }

    /// Reads a detector that the caller owns (through membership too).
    ///
    /// # Errors
    /// 42704 when there is none that the caller may see, 42501 when it is visible but not theirs.
    pub fn load_owned(detector: &str) -> SqlResult<DetectorRow> {
        Self::find_owned(detector)?.ok_or_else(|| unknown(detector))
    }

    /// As `load_owned`, but `None` where there is none that the caller may see.
    pub fn find_owned(detector: &str) -> SqlResult<Option<DetectorRow>> {
        let Some(row) = Self::find(detector)? else { return Ok(None) };
        if session::has_privileges_of(session::current_user(), row.owner) {
            return Ok(Some(row));
        }
        if may_see_all()? {
            return Err(report(
                PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
                format!("must be owner of detector \"{detector}\""),
            )
            .set_hint("SET ROLE to its owner; anomaly.detectors names it"));
        }
        Ok(None)
    }

    /// Reads a detector whose settings the caller may change: its owner and members of that role, and
    /// members of anomaly_admin.
    ///
    /// # Errors
    /// As [`DetectorRow::load_owned`].
    pub fn load_administered(detector: &str) -> SqlResult<DetectorRow> {
        let row = Self::find(detector)?;
        if let Some(row) = row.filter(|_| is_admin().unwrap_or(false)) {
            return Ok(row);
        }
        Self::load_owned(detector)
    }

    /// The detector whose alerts people judge: a shadow goes by what they say of the one that it shadows.
    pub fn judged_as(&self) -> &str {
        self.shadow_of.as_deref().unwrap_or(&self.detector)
    }

    /// # Errors
    /// 55000 while the active model is one of earlier settings.
    pub fn check_model_fits(&self) -> SqlResult<()> {
        if !self.needs_training {
            return Ok(());
        }
        Err(report(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("detector \"{}\" was altered and has not been trained since", self.detector),
        )
        .set_hint(format!(
            "SELECT anomaly.train({}), or wait for its next run",
            pgrx::spi::quote_literal(&self.detector)
        )))
    }

    /// Whether this session may run the detector's SQL: only as its owner and only when no SET
    /// ROLE stands between, so that the query cannot act with rights that its owner lacks.
    pub fn runs_here(&self) -> bool {
        session::session_user() == self.owner && session::current_user() == self.owner
    }

    /// Whether points may be judged and learned while rows are read: a user's functions must not be called
    /// where rows are read with the rights of the extension.
    pub fn runs_between_rows(&self) -> bool {
        self.own.is_none() || self.columns().is_some()
    }

    /// Names of the further columns that are judged together with the value.
    pub fn features(&self) -> &[String] {
        match &self.feed {
            Feed::Relation { columns, .. } | Feed::Query { columns, .. } => &columns.features,
            Feed::Points { features } => features,
            Feed::Samples => &[],
        }
    }

    /// The columns that it reads of a source.
    pub fn columns(&self) -> Option<&Columns> {
        match &self.feed {
            Feed::Relation { columns, .. } | Feed::Query { columns, .. } => Some(columns),
            Feed::Samples | Feed::Points { .. } => None,
        }
    }

    /// A place for the further columns of a row.
    pub fn new_features(&self) -> Features {
        match self.columns() {
            Some(columns) => columns.new_features(),
            None => Features::numbers(self.features().len()),
        }
    }

    /// The configured detection path. `points_per_day` of the model, or the given estimate.
    pub fn detection(&self, points_per_day: Option<f64>) -> SqlResult<Detector> {
        Detector::new(DetectorConfig {
            strategy: self.strategy.clone(),
            own: self.own.clone(),
            params: self.params.clone(),
            threshold: self.threshold,
            alerts_per_day: self.alerts_per_day,
            points_per_day,
            entities: self.model.as_ref().map_or(1, |m| m.entities.max(1) as u64),
            min_data_points: self.min_data_points as u64,
            fire_after: self.fire_after as u32,
            clear_after: self.clear_after as u32,
            cool_down: self.cool_down,
            metric_name: self.metric_name.clone(),
            anomaly_type: self.anomaly_type.clone(),
            family: self.family.clone(),
            time_zone: self.time_zone.clone(),
            kind: self.sampling.kind,
            performance: self.performance.clone(),
            direction: self.direction,
            min_effect: self.min_effect,
            min_relative_effect: self.min_relative_effect,
            features: self.features().to_vec(),
            categories: self.columns().map(|c| c.categories.clone()).unwrap_or_default(),
        })
        .map_err(from_core)
    }

    /// The source with its columns as they are now.
    ///
    /// # Errors
    /// 42P01 naming the table when it is gone, 42703 and 42804 naming a column that is, or has another type.
    pub fn source(&self) -> SqlResult<Option<(Source, &Columns)>> {
        let found = match &self.feed {
            // What changes it is waited for here, and its columns are those that the query will find.
            Feed::Relation { oid, .. } => {
                locks::read_relation(*oid);
                snapshot::latest(|| self.unchecked_source())?
            }
            _ => self.unchecked_source()?,
        };
        if let Some((source, columns)) = &found {
            columns.check(source, &self.sampling, &self.detector)?;
        }
        Ok(found)
    }

    /// The source as it is now, whether or not it has the detector's columns.
    ///
    /// # Errors
    /// 42P01 naming the table when it is gone.
    pub fn unchecked_source(&self) -> SqlResult<Option<(Source, &Columns)>> {
        match &self.feed {
            Feed::Relation { oid, name, columns } => match Source::of_relation(*oid)? {
                Some(source) => Ok(Some((source, columns))),
                None => Err(report(
                    PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
                    format!("{name}, the source of detector \"{}\", is gone", self.detector),
                )
                .set_hint(format!(
                    "name another one: SELECT anomaly.alter_detector({id}, {}), or SELECT anomaly.drop_detector({id})",
                    quote_literal(json!({"source": name}).to_string()),
                    id = quote_literal(&self.detector)
                ))),
            },
            Feed::Query { text, columns } => Ok(Some((Source::resolve(text)?, columns))),
            Feed::Samples | Feed::Points { .. } => Ok(None),
        }
    }
}

/// 42704 for an id that does not exist or that the caller may not see, with the nearest of those that
/// they do.
pub fn unknown(detector: &str) -> pg_sys::panic::ErrorReport {
    let error = report(
        PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
        format!("detector \"{detector}\" does not exist"),
    );
    let visible = sql::rows(
        "SELECT detector FROM anomaly.detectors ORDER BY detector LIMIT 10000",
        &[],
        |row| row.must::<String>(1),
    )
    .unwrap_or_default();
    let names: Vec<&str> = visible.iter().map(String::as_str).collect();
    let near = nearest(detector, &names)
        .or_else(|| full_ids(detector).iter().find_map(|id| nearest(id, &names)));
    error.set_hint(match near {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => "SELECT detector FROM anomaly.detectors".to_owned(),
    })
}

/// Whether the caller may act for all owners.
pub fn is_admin() -> SqlResult<bool> {
    let is_member = sql::row(
        "SELECT pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_admin', 'MEMBER')",
        &[],
        |row| row.must::<bool>(1),
    )?;
    Ok(is_member.unwrap_or(false))
}

/// Whether the caller may see what others own.
pub fn may_see_all() -> SqlResult<bool> {
    Ok(sql::row(
        "SELECT pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_monitor', 'MEMBER') \
             OR pg_catalog.pg_has_role(CURRENT_USER, 'anomaly_admin', 'MEMBER')",
        &[],
        |row| row.must::<bool>(1),
    )?
    .unwrap_or(false))
}

const LOAD: &str = "\
    SELECT d.detector, d.owner::oid, d.anomaly_type, d.strategy, d.metric_name, d.entity_type, \
           d.source_kind, d.source_relation::oid, d.source_name, d.source_query, \
           d.value_column, d.at_column, d.entity_column, d.time_zone, \
           d.min_data_points, d.threshold, d.alerts_per_day, d.fire_after, d.clear_after, \
           d.max_entities, d.params, s.status, s.watermark, \
           $2 - d.settle, $2 - d.settle - d.training_window, \
           m.version, m.points_per_day, m.payload, \
           d.trials_column, d.kind, d.direction, d.min_effect, d.min_relative_effect, \
           m.entities, d.bucket, d.aggregate, d.on_missing, \
            (extract(epoch FROM d.late_window) * 1000000)::bigint, d.feature_columns, \
            (SELECT jsonb_object_agg(p.member, jsonb_build_array(p.true_positives, \
                    p.false_positives, p.true_negatives, p.false_negatives)) \
               FROM anomaly.member_performance p WHERE p.detector = d.detector), \
            s.needs_training AND m.version IS NOT NULL, \
            (s.retrain_requested OR $2 >= COALESCE(s.last_training_time, m.trained_at) \
                                         + d.retrain_every) \
                AND (s.retry_training_at IS NULL OR $2 >= s.retry_training_at), \
            s.consecutive_failures, s.detection_times, d.category_columns, \
            (extract(epoch FROM d.cool_down) * 1000000)::bigint, \
            (extract(epoch FROM d.no_data_after) * 1000000)::bigint, d.depends_on, d.labels, \
            s.error_alert, s.no_data_alert, \
            d.fdr, (SELECT h.live FROM anomaly.shadow h WHERE h.detector = d.detector) \
      FROM anomaly.detector d JOIN anomaly.detector_state s USING (detector) \
      LEFT JOIN anomaly.model m ON m.detector = d.detector AND m.active \
     WHERE d.detector = $1";

fn from_row(row: &sql::Row) -> SqlResult<DetectorRow> {
    let features: Vec<String> = row.must(39)?;
    let columns = |features| -> SqlResult<Columns> {
        Ok(Columns {
            value: row.get(11)?,
            at: row.must(12)?,
            entity: row.get(13)?,
            trials: row.get(29)?,
            features,
            categories: row.must(45)?,
        })
    };
    let feed = match row.must::<String>(7)?.as_str() {
        "relation" => {
            Feed::Relation { oid: row.must(8)?, name: row.must(9)?, columns: columns(features)? }
        }
        "query" => Feed::Query { text: row.must(10)?, columns: columns(features)? },
        "samples" => Feed::Samples,
        _ => Feed::Points { features },
    };
    let model = match row.get::<i32>(26)? {
        Some(version) => {
            let (points_per_day, entities) = (row.get(27)?, row.must(34)?);
            Some(ActiveModel { version, points_per_day, entities, payload: row.must(28)? })
        }
        None => None,
    };
    let sampling = Sampling::check(&Wanted {
        kind: Some(&row.must::<String>(30)?),
        trials: row.get::<String>(29)?.as_deref(),
        bucket: row.get::<Interval>(35)?,
        aggregate: &row.must::<String>(36)?,
        on_missing: Some(&row.must::<String>(37)?),
        time_zone: &row.must::<String>(14)?,
    })?;
    Ok(DetectorRow {
        detector: row.must(1)?,
        owner: row.must(2)?,
        anomaly_type: row.must(3)?,
        strategy: row.must(4)?,
        own: None,
        family: None,
        metric_name: row.must(5)?,
        entity_type: row.get(6)?,
        feed,
        time_zone: row.must(14)?,
        min_data_points: row.must(15)?,
        threshold: row.get(16)?,
        alerts_per_day: row.must(17)?,
        fire_after: row.must(18)?,
        clear_after: row.must(19)?,
        max_entities: row.must(20)?,
        direction: Direction::side(&row.must::<String>(31)?).map_err(from_core)?,
        min_effect: row.must(32)?,
        min_relative_effect: row.must(33)?,
        params: row.must::<JsonB>(21)?.0,
        performance: row.get::<JsonB>(40)?.map_or_else(Vec::new, |counts| performance(&counts.0)),
        status: row.must(22)?,
        needs_training: row.must(41)?,
        retraining_due: row.get(42)?.unwrap_or(false),
        consecutive_failures: row.must(43)?,
        durations: Durations::from_array(&row.must::<Vec<f64>>(44)?),
        watermark: row.micros(23)?,
        settled_until: sampling.settled(row.micros(24)?.unwrap_or(i64::MIN)),
        sampling,
        training_from: row.micros(25)?.unwrap_or(i64::MIN),
        late_window: row.must(38)?,
        cool_down: row.must(46)?,
        no_data_after: row.get(47)?,
        depends_on: row.must(48)?,
        labels: row.must(49)?,
        error_alert: row.get(50)?,
        no_data_alert: row.get(51)?,
        fdr: row.get(52)?,
        shadow_of: row.get(53)?,
        model,
    })
}

/// Counts by member, in the order of [`LOAD`].
fn performance(counts: &serde_json::Value) -> Vec<(String, Performance)> {
    let members = counts.as_object().into_iter().flatten();
    members
        .map(|(member, counts)| {
            let count = |i: usize| counts.get(i).and_then(serde_json::Value::as_u64).unwrap_or(0);
            let performance = Performance {
                true_positives: count(0),
                false_positives: count(1),
                true_negatives: count(2),
                false_negatives: count(3),
            };
            (member.clone(), performance)
        })
        .collect()
}
