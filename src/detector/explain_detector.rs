//! `anomaly.explain_detector`: what a detector has learned of each entity, which strategy judges it
//! and why, and how often it will alert.

use anomaly_core::Point;
use pgrx::{JsonB, pg_sys::panic::ErrorReport, prelude::*};

use crate::{
    detector::{catalog::DetectorRow, states::EntityStates},
    error::{SqlResult, required},
    pg::session,
};

/// One row per entity of the active model, or of the named entity only.
///
/// # Errors
/// 42704 for a detector that does not exist or is not the caller's.
#[allow(clippy::type_complexity)]
#[pg_extern(schema = "anomaly", stable, parallel_unsafe)]
fn explain_detector(
    detector: Option<&str>,
    entity: default!(Option<&str>, "NULL"),
) -> Result<
    TableIterator<
        'static,
        (
            name!(entity, Option<String>),
            name!(strategy, String),
            name!(status, String),
            name!(points, i64),
            name!(expected_alerts_per_day, Option<f64>),
            name!(explanation, JsonB),
        ),
    >,
    ErrorReport,
> {
    let row = DetectorRow::load_owned(required(detector, "detector")?)?;
    row.check_model_fits()?;
    Ok(TableIterator::new(explain(&row, entity)?))
}

type Explained = (Option<String>, String, String, i64, Option<f64>, JsonB);

fn explain(row: &DetectorRow, entity: Option<&str>) -> SqlResult<Vec<Explained>> {
    let Some(model) = &row.model else { return Ok(Vec::new()) };
    let core = row.detection(model.points_per_day)?;
    let mut states = match entity {
        Some(entity) => EntityStates::load_one(row, model.version, entity, None)?,
        None => EntityStates::load(row, model.version)?,
    };
    // The promise is for all entities together, and each has its share of the points.
    let share = 1.0 / model.entities.max(1) as f64;
    let expected = core.rule().threshold.is_none().then_some(row.alerts_per_day * share);
    let mut rows: Vec<Explained> = states
        .decoded(&row.detector, &core)?
        .into_iter()
        .map(|(name, state)| {
            let mut explanation = state.model.explain();
            let strategy = match explanation.remove("strategy") {
                Some(serde_json::Value::String(chosen)) => chosen,
                _ => row.strategy.clone(),
            };
            // A value that is none: what is asked for is the range it would be judged by.
            let now = core.judge(state, &Point::new(session::now(), f64::NAN));
            for (key, bound) in
                [("expected_now", now.expected), ("lower_now", now.lower), ("upper_now", now.upper)]
            {
                if let Some(bound) = serde_json::Number::from_f64(bound) {
                    explanation.insert(key.to_owned(), bound.into());
                }
            }
            let have = state.model.count();
            let status = if core.is_warm(state) {
                "ok".to_owned()
            } else {
                format!("warming ({have} of {})", row.min_data_points)
            };
            let name = (!name.is_empty()).then(|| name.to_owned());
            let points = i64::try_from(have).unwrap_or(i64::MAX);
            (name, strategy, status, points, expected, JsonB(explanation.into()))
        })
        .collect();
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(rows)
}

extension_sql!(
    r#"COMMENT ON FUNCTION anomaly.explain_detector IS
'what a detector has learned of each entity: the strategy that judges it, why, and how many alerts a day it expects on quiet data (NULL with a threshold)';"#,
    name = "explain_detector_comment",
    requires = [explain_detector]
);
