//! `anomaly.rollback_model`: makes an earlier version of a detector's model the active one.

use pgrx::{pg_sys::panic::ErrorReport, prelude::*};

use crate::{
    detector::{
        catalog::DetectorRow,
        models::{self, Standing, Version},
        scan::lock,
        states::{self, EntityStates},
    },
    error::{SqlResult, required},
    limits::TrainingLimits,
    pg::internal_rights,
    sql,
};

/// Returns to the version before the active one, or to the named one. Nothing is learned or judged
/// anew: the version goes on from what it had learned when it was left, with the episodes of now.
#[allow(clippy::type_complexity)]
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe)]
fn rollback_model(
    detector: Option<&str>,
    version: default!(Option<i32>, "NULL"),
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
    let detector = required(detector, "detector")?;
    let row = lock(&DetectorRow::load_owned(detector)?.detector)?;
    row.check_model_fits()?;
    let detector = row.detector.as_str();
    let number = match version {
        Some(version) => version,
        None => version_before(&row)?,
    };
    let version = Version::load(detector, number)?;
    if row.model.as_ref().is_none_or(|active| active.version != number) {
        let core = row.detection(version.points_per_day)?;
        states::decode_shared(&core, detector, &version.payload)?;
        // Decoded as a whole, so that a damaged version is refused and not found to be so later.
        let mut states = EntityStates::load(&row, number)?;
        let mut limits = TrainingLimits::begin("rolling back");
        states.go_on_from(&row, &core, &mut limits)?;
        models::activate(&row, number, &version, &mut states, Standing::default())?;
        states.save(detector, &core, number)?;
    }
    Ok(TableIterator::once((version.status(&row), version.trained_rows, version.entities, number)))
}

fn version_before(row: &DetectorRow) -> SqlResult<i32> {
    let active = row.model.as_ref().map(|model| model.version);
    let before = internal_rights::with(|| {
        sql::row(
            "SELECT max(version) FROM anomaly.model WHERE detector = $1 AND version < $2",
            &[row.detector.as_str().into(), active.into()],
            |row| row.get::<i32>(1),
        )
    })?;
    before.flatten().ok_or_else(|| {
        let which = active.map_or("version".to_owned(), |v| format!("version before {v}"));
        models::no_version(&row.detector, &which)
    })
}

extension_sql!(
    r#"COMMENT ON FUNCTION anomaly.rollback_model(text, integer) IS
'makes the version of a detector''s model before the active one, or the named one, the active one';"#,
    name = "rollback_model_comment",
    requires = [rollback_model]
);
