//! `anomaly.train`: learns the baseline of every entity from the training window.

use std::{collections::HashMap, ops::RangeInclusive};

use anomaly_core::{EntityState, gaps::Arrival, guidance::Periods};
use pgrx::{
    pg_sys::panic::ErrorReport,
    prelude::*,
    spi::{quote_identifier, quote_literal},
};
use serde_json::Value;

use crate::{
    detector::{
        calendars,
        catalog::{DetectorRow, Feed},
        exclude,
        models::{self, Standing, Version},
        no_data,
        scan::{lock, read_points, read_source},
        source::{self, Columns, Named, Source},
        states::EntityStates,
    },
    error::{SqlResult, from_core, invalid, report, required},
    limits::TrainingLimits,
    pg::{internal_rights, json_arg::JsonArg, session, snapshot, stream, subxact},
    sql, worker,
};

const DAY: f64 = 86_400e6;
const TICK_ROWS: u64 = 4096;
/// Points of an entity whose learning may be put off.
const PUT_OFF: usize = 512;

/// What training did.
#[derive(Debug, Clone)]
pub struct Trained {
    pub status: String,
    pub trained_rows: i64,
    pub entities: i64,
    /// The active version, `None` where there is none.
    pub version: Option<i32>,
    /// Whether there were rows enough.
    pub is_enough: bool,
}

/// Trains a detector on the last `training_window` of its data and makes the new model version the
/// active one. Too few rows are not an error: the status is then `warming (n of N)`.
///
/// On rows that are passed, as a table, a query or a JSON array, it is trained instead of its own; the
/// window ends with the latest of them. Too few of them are refused, and everything stays as it was.
///
/// # Errors
/// 42704 and 42501 for the detector; those of `create_detector` for a source.
#[allow(clippy::type_complexity)]
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe)]
fn train(
    detector: Option<&str>,
    source: default!(Option<&str>, "NULL"),
    rows: default!(Option<JsonArg>, "NULL"),
) -> Result<
    TableIterator<
        'static,
        (
            name!(status, String),
            name!(trained_rows, i64),
            name!(entities, i64),
            name!(model_version, Option<i32>),
        ),
    >,
    ErrorReport,
> {
    let row = DetectorRow::load_owned(required(detector, "detector")?)?;
    let given = match (source, rows) {
        (Some(_), Some(_)) => {
            return Err(invalid("both source and rows are given", "give one of them"));
        }
        (Some(source), None) => Some(Given::of_source(&row, source)?),
        (None, Some(rows)) => Some(Given::of_rows(&row, &rows.0)?),
        (None, None) => None,
    };
    let trained = match given {
        Some(given) => learn(&lock(&row.detector)?, given.until, Some(&given.query))?,
        None => {
            check_runs_here(&row)?;
            execute(&lock(&row.detector)?)?
        }
    };
    Ok(TableIterator::once((
        trained.status,
        trained.trained_rows,
        trained.entities,
        trained.version,
    )))
}

/// Trains every enabled detector that the caller may train, or those of one anomaly type. One that cannot
/// be trained does not stop the others: its row says why.
///
/// # Errors
/// 22023 for an unknown anomaly type.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe)]
fn train_all(
    anomaly_type: default!(Option<&str>, "NULL"),
) -> Result<
    TableIterator<
        'static,
        (name!(detector, String), name!(trained, bool), name!(reason, Option<String>)),
    >,
    ErrorReport,
> {
    if let Some(anomaly_type) = anomaly_type {
        crate::anomaly_type::check(anomaly_type)?;
    }
    let detectors = sql::rows(
        "SELECT detector FROM anomaly.detectors \
          WHERE enabled AND pg_catalog.pg_has_role(CURRENT_USER, owner, 'USAGE') \
            AND ($1 IS NULL OR anomaly_type OPERATOR(pg_catalog.=) $1) ORDER BY detector",
        &[anomaly_type.into()],
        |row| row.must::<String>(1),
    )?;
    let mut rows = Vec::with_capacity(detectors.len());
    for detector in detectors {
        let trained = subxact::attempt(|| {
            check_runs_here(&DetectorRow::load(&detector)?)?;
            execute(&lock(&detector)?)
        });
        let (trained, reason) = match trained {
            Ok(trained) => (trained.is_enough, (!trained.is_enough).then_some(trained.status)),
            Err(caught) => (false, Some(caught.message)),
        };
        rows.push((detector, trained, reason));
    }
    Ok(TableIterator::new(rows))
}

extension_sql!(
    r#"
COMMENT ON FUNCTION anomaly.train(text, text, jsonb) IS
'learns a detector''s baselines anew from its training window, or from the rows that are passed, and activates them';
COMMENT ON FUNCTION anomaly.train_all(text) IS
'trains the caller''s enabled detectors, or those of one anomaly type; for each whether it was trained, and why not';
"#,
    name = "train_comment",
    requires = [train, train_all]
);

/// # Errors
/// 42501 in a session that is not the owner's.
pub fn check_runs_here(row: &DetectorRow) -> SqlResult<()> {
    if row.runs_here() {
        return Ok(());
    }
    Err(report(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        format!("detector \"{}\" runs its query only as its owner", row.detector),
    )
    .set_hint("log in as the owner (SET ROLE does not suffice)"))
}

/// Rows that somebody passed, which are read as the caller.
struct Given {
    /// As [`source::read_query`] makes it.
    query: String,
    /// The time of the latest.
    until: i64,
}

impl Given {
    /// A table or query whose columns are named as the detector's, or as the keys of a data point.
    fn of_source(row: &DetectorRow, text: &str) -> SqlResult<Given> {
        if text.trim_start().starts_with('[') {
            let rows = serde_json::from_str(text).map_err(|error| {
                invalid(format!("the rows are not valid JSON: {error}"), ROWS_EXAMPLE)
            })?;
            return Self::of_rows(row, &rows);
        }
        let source = Source::resolve(text)?;
        let first_of =
            |names: &[&'static str]| names.iter().copied().find(|name| source.has_column(name));
        let own = row.columns();
        let named = Named {
            value: match own {
                Some(columns) => columns.value.as_deref(),
                None if source.has_column(&row.metric_name) => Some(&row.metric_name),
                None => first_of(&["value"]),
            },
            at: match own {
                Some(columns) => Some(&columns.at),
                None => first_of(&["timestamp", "at"]),
            },
            entity: match own {
                Some(columns) => columns.entity.as_deref(),
                None => first_of(&["entity_id", "entity"]),
            },
            trials: own.and_then(|columns| columns.trials.as_deref()),
            features: row.features(),
        };
        Self::of_columns(row, &source, &named)
    }

    /// A JSON array of objects; keys as of a data point, or the names of the detector's columns.
    fn of_rows(row: &DetectorRow, rows: &Value) -> SqlResult<Given> {
        let Some(array) = rows.as_array() else {
            return Err(invalid("the rows are not a JSON array", ROWS_EXAMPLE));
        };
        if let Some(other) = array.iter().find(|element| !element.is_object()) {
            return Err(invalid(format!("the row {other} is not a JSON object"), ROWS_EXAMPLE));
        }
        let own = row.columns();
        let key =
            |name: &str| format!("(r.point OPERATOR(pg_catalog.->>) {})", quote_literal(name));
        let first_of = |own: Option<&str>, others: &[&str]| {
            let keys: Vec<String> = own.iter().chain(others).map(|name| key(name)).collect();
            format!("COALESCE({})", keys.join(", "))
        };
        let value_name = match own {
            Some(columns) => columns.value.as_deref(),
            None => Some(row.metric_name.as_str()),
        };
        let value_type = if row.sampling.aggregate.counts() { "text" } else { "float8" };
        let mut columns = vec![
            format!(
                "{}::pg_catalog.timestamptz AS at",
                first_of(own.map(|c| c.at.as_str()), &["timestamp", "at"])
            ),
            format!("{}::pg_catalog.{value_type} AS value", first_of(value_name, &["value"])),
            format!(
                "{} AS entity",
                first_of(own.and_then(|c| c.entity.as_deref()), &["entity_id", "entity"])
            ),
            format!(
                "{}::pg_catalog.float8 AS trials",
                first_of(own.and_then(|c| c.trials.as_deref()), &["trials"])
            ),
        ];
        // Names of the detector's, which may be those of the columns above.
        let names: Vec<String> =
            (1..=row.features().len()).map(|i| format!("feature {i}")).collect();
        for (name, alias) in row.features().iter().zip(&names) {
            let text = format!(
                "COALESCE(((r.point OPERATOR(pg_catalog.->) 'features') OPERATOR(pg_catalog.->>) {}), {})",
                quote_literal(name),
                key(name)
            );
            let is_category = own.is_some_and(|columns| columns.categories.contains(name));
            let feature = if is_category {
                text
            } else {
                format!(
                    "(CASE WHEN {text} OPERATOR(pg_catalog.=) 'true' THEN '1' \
                         WHEN {text} OPERATOR(pg_catalog.=) 'false' THEN '0' ELSE {text} END)\
                     ::pg_catalog.float8"
                )
            };
            columns.push(format!("{feature} AS {}", quote_identifier(alias)));
        }
        let query = format!(
            "SELECT {} FROM pg_catalog.jsonb_array_elements({}::pg_catalog.jsonb) AS r (point)",
            columns.join(", "),
            quote_literal(rows.to_string())
        );
        let has_trials = own.is_some_and(|columns| columns.trials.is_some());
        let counts_rows = own.is_some_and(|columns| columns.value.is_none());
        let named = Named {
            value: (!counts_rows).then_some("value"),
            at: Some("at"),
            entity: Some("entity"),
            trials: has_trials.then_some("trials"),
            features: &names,
        };
        Self::of_columns(row, &Source::resolve(&query)?, &named)
    }

    fn of_columns(row: &DetectorRow, source: &Source, named: &Named) -> SqlResult<Given> {
        let columns = Columns::choose(source, named, &row.sampling)?;
        let numbers = || vec![false; row.features().len()];
        if columns.kinds() != row.columns().map_or_else(numbers, Columns::kinds) {
            return Err(report(
                PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
                "features are numbers where the detector has categories, or the other way round",
            )
            .set_hint(
                "SELECT feature_columns FROM anomaly.detectors; cast them to what they are there",
            ));
        }
        let latest = sql::row(
            &source::latest_query(source, &columns, &row.sampling, &row.time_zone)?,
            &[],
            |row| row.micros(1),
        )?;
        Ok(Given {
            query: source::read_query(source, &columns, &row.sampling, &row.time_zone)?,
            until: latest.flatten().unwrap_or(i64::MAX).min(session::now()),
        })
    }
}

const ROWS_EXAMPLE: &str = r#"for example '[{"timestamp": "2026-01-31T12:00:00Z", "value": 0.7}]'"#;

/// Trains in the current transaction; the caller holds the detector's lock.
pub fn execute(row: &DetectorRow) -> SqlResult<Trained> {
    // Never past the watermark: a point that was learned before it was judged would not alert.
    train_until(row, row.watermark.map_or(row.settled_until, |at| at.min(row.settled_until)))
}

/// As [`execute`], on everything up to now: for points that were brought, not scanned.
pub fn execute_all(row: &DetectorRow) -> SqlResult<Trained> {
    train_until(row, session::now())
}

/// The training that `retrain_every`, or what people have said, asks for. One that fails leaves the model as it is and is tried
/// again after a tenth of the time, or ten minutes: detection goes on.
pub fn on_schedule(detector: &str) -> SqlResult<()> {
    let row = DetectorRow::load(detector)?;
    // A run that was cancelled because it took too long may have been so because of this: the next
    // one judges only.
    let failure = if row.consecutive_failures > 0 {
        "put off, because the last run has failed".to_owned()
    } else {
        // The alerts that have just been stored are left out like any other.
        let trained = snapshot::with_own_writes(|| {
            subxact::attempt(|| match row.feed {
                Feed::Points { .. } => execute_all(&row),
                _ => execute(&row),
            })
        });
        match trained {
            Ok(_) => return Ok(()),
            Err(caught) => caught.message,
        }
    };
    internal_rights::with(|| {
        sql::execute(
            "UPDATE anomaly.detector_state s SET \
                retry_training_at = $2 + COALESCE(d.retrain_every / 10, '10 minutes'), \
                status_reason = 'scheduled training: ' || $3 \
             FROM anomaly.detector d WHERE d.detector = s.detector AND s.detector = $1",
            &[detector.into(), sql::timestamptz(session::now())?.into(), failure.into()],
        )
    })?;
    Ok(())
}

/// A warming detector that has seen enough points by now is trained, so that its baselines and its
/// rate of points come from all of them.
pub fn leave_warming(row: &DetectorRow, until: i64) -> SqlResult<()> {
    let seen = internal_rights::with(|| {
        sql::row(
            "SELECT s.points_processed + m.trained_rows FROM anomaly.detector_state s \
             JOIN anomaly.model m USING (detector) WHERE s.detector = $1 AND m.active",
            &[row.detector.as_str().into()],
            |r| r.must::<i64>(1),
        )
    })?;
    if seen.unwrap_or(0) >= i64::from(row.min_data_points) {
        train_until(row, until)?;
    }
    Ok(())
}

fn train_until(row: &DetectorRow, until: i64) -> SqlResult<Trained> {
    learn(row, until, None)
}

/// Learns the training window that ends at `until`: of the detector's own points, or by a query for
/// rows that were passed.
fn learn(row: &DetectorRow, until: i64, given: Option<&str>) -> SqlResult<Trained> {
    let core = row.detection(None)?;
    let mut limits = TrainingLimits::begin("training");
    let mut shared = core.new_state();
    let mut states = EntityStates::new(row.max_entities as usize);
    let (mut rows_read, mut learned) = (0u64, 0i64);
    let mut span: Option<(i64, i64)> = None;
    let from = until.saturating_sub(row.settled_until.saturating_sub(row.training_from));
    let left_out = LeftOut::within(row, from, until)?;
    let settles = given.is_some() || row.runs_between_rows();
    let mut learn = |entity: &[u8], state: &mut EntityState, arrival: Arrival| {
        let at = arrival.at();
        if left_out.covers(entity, at) {
            return Ok(());
        }
        let (Arrival::Point(point) | Arrival::Filled(point)) = arrival else { return Ok(()) };
        core.train(state, &point);
        core.train(&mut shared, &point);
        if settles {
            core.settle(state, PUT_OFF);
            core.settle(&mut shared, PUT_OFF);
        }
        learned += 1;
        // Each point: one may make a model fit itself anew, which takes a good part of a second.
        limits.at_row().map_err(from_core)?;
        span = Some(span.map_or((at, at), |(first, last)| (at.min(first), at.max(last))));
        Ok(())
    };
    let mut entity = Vec::new();
    // By position, when the latest point was.
    let mut latest: Vec<Option<i64>> = Vec::new();
    let mut features = row.new_features();
    let mut take = |read: &stream::Row| {
        rows_read += 1;
        if rows_read.is_multiple_of(TICK_ROWS) {
            pgrx::check_for_interrupts!();
            worker::progress_report(rows_read as i64);
        }
        let Some(reading) = row.sampling.read(read).filter(|r| r.value.is_some()) else {
            return Ok(());
        };
        entity.clear();
        read.with_bytes(2, |name| entity.extend_from_slice(name));
        let Some(position) = states.position(&entity)? else { return Ok(()) };
        if position >= latest.len() {
            latest.resize(position + 1, None);
        }
        latest[position] = latest[position].max(Some(reading.at));
        let (_, state) = states.at(&row.detector, &core, position)?;
        features.read(read, |_, _| {});
        row.sampling.arrive(state, &reading, &features.values, &mut |state, arrival| {
            learn(&entity, state, arrival)
        })
    };
    match given {
        Some(query) => read_source(query, &row.sampling, from, until, &mut take)?,
        None => read_points(row, from, until, &mut take)?,
    }
    if row.sampling.fills_silence() {
        states.for_each(&row.detector, &core, &mut |name, state| {
            let entity = name.as_bytes();
            row.sampling.pass(state, until, &mut |state, arrival| learn(entity, state, arrival))
        })?;
    }
    states.settle(&core);
    core.settle(&mut shared, 0);

    if given.is_some() {
        if learned < i64::from(row.min_data_points) {
            return Ok(Trained {
                status: format!(
                    "refused: {learned} of {rows_read} rows are usable, {} are needed \
                     (min_data_points)",
                    row.min_data_points
                ),
                trained_rows: learned,
                entities: states.len() as i64,
                version: row.model.as_ref().map(|model| model.version),
                is_enough: false,
            });
        }
        // Where the rows end is no place in the detector's own series.
        states.detach();
    }
    if given.is_none() {
        no_data::seed(row, &states, &latest, until)?;
    }
    states.keep_episodes(row, &core)?;
    shared.entities = states.len() as u64;
    let (skipped, skipped_names) = states.skipped();
    let reason = (skipped > 0).then(|| {
        let names: Vec<&str> = skipped_names.iter().map(String::as_str).collect();
        format!(
            "more than max_entities ({}) entities; not modelled: {}{}",
            row.max_entities,
            names.join(", "),
            if names.len() < 20 { "" } else { ", …" }
        )
    });
    let trained_at = session::now();
    let version = Version {
        strategy: row.strategy.clone(),
        trained_at,
        trained_rows: learned,
        trained_from: span.map(|s| s.0),
        trained_until: span.map(|s| s.1),
        entities: states.len() as i64,
        points_per_day: points_per_day(learned, span),
        payload: core.encode_state(&shared).map_err(from_core)?,
    };
    let standing = Standing {
        reason,
        watermark: given.is_none().then_some(until),
        trained_at: Some(trained_at),
        skipped: Some(skipped as i64),
    };
    let number = version.store(&row.detector)?;
    states.save(&row.detector, &core, number)?;
    models::activate(row, number, &version, &mut states, standing)?;
    Ok(Trained {
        status: version.status(row),
        trained_rows: learned,
        entities: version.entities,
        version: Some(number),
        is_enough: version.is_enough(row),
    })
}

/// Periods that never train.
struct LeftOut {
    of_all: Periods,
    by_entity: HashMap<Vec<u8>, Periods>,
}

impl LeftOut {
    /// Incidents are not what is normal: from the first to the last anomalous point of each alert since
    /// `from`, but for those that people have called false alarms or expected for good. What they have
    /// reported as missed, and excluded, is left out as well, and what calendars exclude or expect.
    fn within(row: &DetectorRow, from: i64, until: i64) -> SqlResult<Self> {
        let mut of_all = Vec::new();
        let mut by_entity: HashMap<Vec<u8>, Vec<RangeInclusive<i64>>> = HashMap::new();
        let periods = internal_rights::with(|| {
            sql::rows(
                "SELECT a.entity, a.at, a.last_at FROM anomaly.alert a \
                   JOIN anomaly.detector d USING (detector) \
                  WHERE detector = $1 AND a.owner = $2::oid AND a.last_at >= $3 \
                    AND a.raised_at >= d.created_at AND a.status <> 'withdrawn' AND a.kind = 'anomaly' \
                    AND NOT EXISTS (SELECT FROM anomaly.judgement j \
                         WHERE (j.alert_id = a.alert_id \
                                OR j.detector = $5 AND j.detector <> a.detector AND j.entity = a.entity \
                                   AND j.from_at <= a.last_at AND j.until_at >= a.at) \
                           AND j.given_at <= $4 AND j.withdrawn_at IS NULL \
                           AND j.verdict IN ('false_positive', 'expected_always')) \
                 UNION ALL \
                 SELECT j.entity, j.from_at, j.until_at FROM anomaly.judgement j \
                   JOIN anomaly.detector d USING (detector) \
                  WHERE detector = $5 AND j.owner = $2::oid AND j.until_at >= $3 \
                    AND j.given_at >= d.created_at AND j.given_at <= $4 AND j.withdrawn_at IS NULL \
                    AND j.verdict NOT IN ('false_positive', 'expected_always')",
                &[
                    row.detector.as_str().into(),
                    row.owner.into(),
                    sql::timestamptz(from)?.into(),
                    sql::timestamptz(session::now())?.into(),
                    row.judged_as().into(),
                ],
                |r| Ok((r.must::<String>(1)?, r.micros(2)?, r.micros(3)?)),
            )
        })?;
        for (entity, at, last_at) in periods {
            if let (Some(at), Some(last_at)) = (at, last_at) {
                by_entity.entry(entity.into_bytes()).or_default().push(at..=last_at);
            }
        }
        let of_calendars = calendars::periods(row, &["exclude", "expect"], (from, until))?;
        for (entity, period) in exclude::periods(row.judged_as())?.into_iter().chain(of_calendars) {
            match entity {
                None => of_all.push(period),
                Some(entity) => {
                    by_entity.entry(entity.into_bytes()).or_default().push(period);
                }
            }
        }
        Ok(LeftOut {
            of_all: of_all.into_iter().collect(),
            by_entity: by_entity
                .into_iter()
                .map(|(entity, periods)| (entity, periods.into_iter().collect()))
                .collect(),
        })
    }

    fn covers(&self, entity: &[u8], at: i64) -> bool {
        self.of_all.contain(at) || self.by_entity.get(entity).is_some_and(|own| own.contain(at))
    }
}

/// Has the detector trained anew at its next run: what it may learn from is something else now.
pub fn retrain(detector: &str) -> SqlResult<()> {
    internal_rights::with(|| {
        sql::execute(
            "UPDATE anomaly.detector_state SET retrain_requested = true \
              WHERE detector = $1 \
                 OR detector IN (SELECT h.detector FROM anomaly.shadow h WHERE h.live = $1)",
            &[detector.into()],
        )
    })?;
    Ok(())
}

/// Points a day over all entities; `None` from fewer than two instants.
fn points_per_day(points: i64, span: Option<(i64, i64)>) -> Option<f64> {
    let (first, last) = span?;
    if last <= first {
        return None;
    }
    // n instants span n − 1 intervals; with several entities the error is below 1 / instants.
    Some(points as f64 * DAY / (last - first) as f64)
}
