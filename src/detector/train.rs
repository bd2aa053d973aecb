//! `anomaly.train`: learns the baseline of every entity from the training window.

use std::{collections::HashMap, ops::RangeInclusive};

use anomaly_core::{EntityState, gaps::Arrival};
use pgrx::{pg_sys::panic::ErrorReport, prelude::*};

use crate::{
    detector::{
        catalog::DetectorRow,
        exclude,
        models::{self, Standing, Version},
        scan::{lock, read_points},
        states::EntityStates,
    },
    error::{SqlResult, from_core, report},
    limits::TrainingLimits,
    pg::{internal_rights, session},
    sql, worker,
};

const DAY: f64 = 86_400e6;
const TICK_ROWS: u64 = 4096;

/// What training did.
#[derive(Debug, Clone)]
pub struct Trained {
    pub status: String,
    pub trained_rows: i64,
    pub entities: i64,
    pub version: i32,
}

/// Trains a detector on the last `training_window` of its data and makes the new model version the
/// active one. Too few rows are not an error: the status is then `warming (n of N)`.
#[allow(clippy::type_complexity)]
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe, strict)]
fn train(
    detector: &str,
) -> Result<
    TableIterator<
        'static,
        (
            name!(status, String),
            name!(trained_rows, i64),
            name!(entities, i64),
            name!(model_version, i32),
        ),
    >,
    ErrorReport,
> {
    let row = DetectorRow::load_owned(detector)?;
    if !row.runs_here() {
        return Err(report(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("detector \"{detector}\" runs its query only as its owner"),
        )
        .set_hint("log in as the owner (SET ROLE does not suffice)"));
    }
    let trained = execute(&lock(detector)?)?;
    Ok(TableIterator::once((
        trained.status,
        trained.trained_rows,
        trained.entities,
        trained.version,
    )))
}

extension_sql!(
    r#"COMMENT ON FUNCTION anomaly.train(text) IS
'learns a detector''s baselines anew from its training window and activates them';"#,
    name = "train_comment",
    requires = [train]
);

/// Trains in the current transaction; the caller holds the detector's lock.
pub fn execute(row: &DetectorRow) -> SqlResult<Trained> {
    // Never past the watermark: a point that was learned before it was judged would not alert.
    train_until(row, row.watermark.map_or(row.settled_until, |at| at.min(row.settled_until)))
}

/// As [`execute`], on everything up to now: for points that were brought, not scanned.
pub fn execute_all(row: &DetectorRow) -> SqlResult<Trained> {
    train_until(row, session::now())
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
    let core = row.detection(None)?;
    let mut limits = TrainingLimits::begin("training");
    let mut shared = core.new_state();
    let mut states = EntityStates::new(row.max_entities as usize);
    let (mut rows_read, mut learned) = (0u64, 0i64);
    let mut span: Option<(i64, i64)> = None;
    let from = until.saturating_sub(row.settled_until.saturating_sub(row.training_from));
    let left_out = LeftOut::since(row, from)?;
    let mut learn = |entity: &[u8], state: &mut EntityState, arrival: Arrival| {
        let at = arrival.at();
        if left_out.covers(entity, at) {
            return Ok(());
        }
        let (Arrival::Point(point) | Arrival::Filled(point)) = arrival else { return Ok(()) };
        core.train(state, &point);
        core.train(&mut shared, &point);
        learned += 1;
        // Each point: one may make a model fit itself anew, which takes a good part of a second.
        limits.at_row().map_err(from_core)?;
        span = Some(span.map_or((at, at), |(first, last)| (at.min(first), at.max(last))));
        Ok(())
    };
    let mut entity = Vec::new();
    let mut features = row.new_features();
    read_points(row, from, until, &mut |read| {
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
        let Some((_, state)) = states.get(&row.detector, &core, &entity)? else { return Ok(()) };
        features.read(read, |_, _| {});
        row.sampling.arrive(state, &reading, &features.values, &mut |state, arrival| {
            learn(&entity, state, arrival)
        })
    })?;
    if row.sampling.fills_silence() {
        states.for_each(&row.detector, &core, &mut |name, state| {
            let entity = name.as_bytes();
            row.sampling.pass(state, until, &mut |state, arrival| learn(entity, state, arrival))
        })?;
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
        watermark: Some(until),
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
        version: number,
    })
}

/// Periods that never train.
struct LeftOut {
    of_all: Vec<RangeInclusive<i64>>,
    by_entity: HashMap<Vec<u8>, Vec<RangeInclusive<i64>>>,
}

impl LeftOut {
    /// Incidents are not what is normal: from the first to the last anomalous point of each alert since
    /// `from`, but for those that people have called false alarms or expected for good. What they have
    /// reported as missed, and excluded, is left out as well.
    fn since(row: &DetectorRow, from: i64) -> SqlResult<Self> {
        let mut left_out = LeftOut { of_all: Vec::new(), by_entity: HashMap::new() };
        let periods = internal_rights::with(|| {
            sql::rows(
                "SELECT a.entity, a.at, a.last_at FROM anomaly.alert a \
                   JOIN anomaly.detector d USING (detector) \
                  WHERE detector = $1 AND a.owner = $2::oid AND a.last_at >= $3 \
                    AND a.raised_at >= d.created_at AND a.status <> 'withdrawn' \
                    AND NOT EXISTS (SELECT FROM anomaly.judgement j \
                         WHERE j.alert_id = a.alert_id AND j.withdrawn_at IS NULL \
                           AND j.verdict IN ('false_positive', 'expected_always')) \
                 UNION ALL \
                 SELECT j.entity, j.from_at, j.until_at FROM anomaly.judgement j \
                   JOIN anomaly.detector d USING (detector) \
                  WHERE detector = $1 AND j.owner = $2::oid AND j.until_at >= $3 \
                    AND j.given_at >= d.created_at AND j.withdrawn_at IS NULL \
                    AND j.verdict NOT IN ('false_positive', 'expected_always')",
                &[row.detector.as_str().into(), row.owner.into(), sql::timestamptz(from)?.into()],
                |r| Ok((r.must::<String>(1)?, r.micros(2)?, r.micros(3)?)),
            )
        })?;
        for (entity, at, last_at) in periods {
            if let (Some(at), Some(last_at)) = (at, last_at) {
                left_out.by_entity.entry(entity.into_bytes()).or_default().push(at..=last_at);
            }
        }
        for (entity, period) in exclude::periods(&row.detector)? {
            match entity {
                None => left_out.of_all.push(period),
                Some(entity) => {
                    left_out.by_entity.entry(entity.into_bytes()).or_default().push(period);
                }
            }
        }
        Ok(left_out)
    }

    fn covers(&self, entity: &[u8], at: i64) -> bool {
        let of_entity = self.by_entity.get(entity).into_iter().flatten();
        self.of_all.iter().chain(of_entity).any(|period| period.contains(&at))
    }
}

/// Has the detector trained anew at its next run: what it may learn from is something else now.
pub fn retrain(detector: &str) -> SqlResult<()> {
    internal_rights::with(|| {
        sql::execute(
            "UPDATE anomaly.detector_state SET retrain_requested = true WHERE detector = $1",
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
