//! `anomaly.import_model`: takes in a model that `anomaly.export_model` gave out.
//!
//! The bytes may come from anybody: they are decoded within bounds, state by state, and stored as this
//! server encodes what it has read.

use anomaly_core::{Error, exported::ExportedModel};
use pgrx::prelude::*;

use crate::{
    detector::{
        catalog::DetectorRow,
        export_model,
        models::{self, Standing, Version},
        scan::lock,
        states::EntityStates,
    },
    error::{SqlResult, from_core, invalid, not_null, report},
    limits::TrainingLimits,
};

/// Stores the model as the detector's next version, whose number it answers, and makes it the active one
/// unless told not to. Points up to now count as judged for a detector that has never been trained.
///
/// # Errors
/// 42704 and 42501 as for the other commands, XX001 for bytes that are damaged or no model, 0A000 for a
/// newer format, 22023 naming the settings that differ.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe)]
fn import_model(
    detector: Option<&str>,
    model: Option<&[u8]>,
    activate: default!(Option<bool>, "true"),
) -> SqlResult<i32> {
    not_null!(detector, model, activate);
    let row = lock(&DetectorRow::load_owned(detector)?.detector)?;
    let detector = row.detector.as_str();
    let exported = ExportedModel::decode(model).map_err(import_error)?;
    exported.check_settings(&export_model::settings(detector)?, detector).map_err(from_core)?;
    if exported.entities.len() > row.max_entities as usize {
        return Err(invalid(
            format!(
                "the model has {} entities, more than max_entities ({}) of detector \"{detector}\"",
                exported.entities.len(),
                row.max_entities
            ),
            "import it into a detector with a larger max_entities",
        ));
    }
    let core = row.detection(exported.points_per_day)?;
    let mut limits = TrainingLimits::begin("importing");
    let mut states = EntityStates::new(row.max_entities as usize);
    for (name, bytes) in &exported.entities {
        limits.at_row().map_err(from_core)?;
        let state = core.decode_state(bytes).map_err(import_error)?;
        states.insert(name, state)?;
    }
    let mut shared = core.decode_state(exported.shared).map_err(import_error)?;
    shared.detach();
    let version = Version {
        strategy: row.strategy.clone(),
        trained_at: exported.trained_at,
        trained_rows: i64::try_from(exported.trained_rows).unwrap_or(i64::MAX),
        trained_from: exported.trained_from,
        trained_until: exported.trained_until,
        entities: states.len() as i64,
        points_per_day: exported.points_per_day,
        payload: core.encode_state(&shared).map_err(from_core)?,
    };
    let number = version.store(detector)?;
    if activate {
        states.go_on_from(&row, &core, &mut limits)?;
        states.save(detector, &core, number)?;
        models::activate(&row, number, &version, &mut states, Standing::default())?;
    } else {
        states.detach();
        states.save(detector, &core, number)?;
        models::keep_latest(detector)?;
    }
    Ok(number)
}

/// As [`from_core`], for bytes that somebody brought.
fn import_error(error: Error) -> pgrx::pg_sys::panic::ErrorReport {
    match error {
        Error::Corrupted(what) => report(
            PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
            format!("damaged model: {}", what.trim_start_matches("stored state: ")),
        )
        .set_hint("give what anomaly.export_model() has given out, whole and unchanged"),
        error => from_core(error),
    }
}

extension_sql!(
    r#"COMMENT ON FUNCTION anomaly.import_model(text, bytea, boolean) IS
'takes in what anomaly.export_model gave out as a detector''s next model version, and activates it by default; its number';"#,
    name = "import_model_comment",
    requires = [import_model]
);
