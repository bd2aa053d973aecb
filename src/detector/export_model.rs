//! `anomaly.export_model`: a version of a detector's model as one value; `anomaly.import_model` takes
//! it in, here or in another database.

use anomaly_core::exported::ExportedModel;
use pgrx::{JsonB, prelude::*};
use serde_json::{Map, Value};

use crate::{
    detector::{
        catalog::DetectorRow,
        models::Version,
        states::{self, EntityStates},
    },
    error::{SqlResult, from_core, report, required},
    limits::TrainingLimits,
    pg::internal_rights,
    sql,
};

/// The active version, or the named one, with its entity states. Open episodes belong to alerts of this
/// database and stay here, and so does what the series have been like.
///
/// # Errors
/// 42704 for a detector or version that does not exist, 42501 for somebody else's detector, XX001 for a
/// damaged model, 54000 for one that does not fit into a value.
#[pg_extern(schema = "anomaly", stable, parallel_unsafe)]
fn export_model(
    detector: Option<&str>,
    version: default!(Option<i32>, "NULL"),
) -> SqlResult<Vec<u8>> {
    let detector = required(detector, "detector")?;
    let row = DetectorRow::load_owned(detector)?;
    row.check_model_fits()?;
    let detector = row.detector.as_str();
    let number = match (version, &row.model) {
        (Some(version), _) => version,
        (None, Some(active)) => active.version,
        (None, None) => {
            return Err(report(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("detector \"{detector}\" was never trained"),
            )
            .set_hint(format!("SELECT anomaly.train({})", pgrx::spi::quote_literal(detector))));
        }
    };
    let version = Version::load(detector, number)?;
    let core = row.detection(version.points_per_day)?;
    let mut limits = TrainingLimits::begin("exporting");
    let mut encoded = Vec::new();
    EntityStates::load(&row, number)?.for_each(detector, &core, &mut |name, state| {
        limits.at_row().map_err(from_core)?;
        state.detach();
        encoded.push((name.to_owned(), core.encode_state(state).map_err(from_core)?));
        Ok(())
    })?;
    encoded.sort();
    let mut shared = states::decode_shared(&core, detector, &version.payload)?;
    shared.detach();
    let shared = core.encode_state(&shared).map_err(from_core)?;
    let exported = ExportedModel {
        settings: settings(detector)?,
        trained_at: version.trained_at,
        trained_rows: u64::try_from(version.trained_rows).unwrap_or(0),
        trained_from: version.trained_from,
        trained_until: version.trained_until,
        points_per_day: version.points_per_day,
        shared: &shared,
        entities: encoded.iter().map(|(name, state)| (name.as_str(), state.as_slice())).collect(),
    };
    exported.encode().map_err(from_core)
}

/// What a model depends on: the settings that say what its numbers are, and how they were learned.
pub fn settings(detector: &str) -> SqlResult<Map<String, Value>> {
    // A length as text that no setting of the session changes, and that tells a day from 24 hours.
    let found = internal_rights::with(|| {
        sql::row(
            "SELECT jsonb_build_object('strategy', strategy, 'params', params, 'kind', kind, \
                'time_zone', time_zone, 'bucket', to_char(bucket, 'YYYY-MM-DD HH24:MI:SS.US'), \
                'aggregate', aggregate, 'on_missing', on_missing, \
                'features', feature_columns) \
                || CASE WHEN category_columns = '{}' THEN '{}' \
                   ELSE jsonb_build_object('categories', category_columns) END \
             FROM anomaly.detector WHERE detector = $1",
            &[detector.into()],
            |row| row.must::<JsonB>(1),
        )
    })?;
    match found {
        Some(JsonB(Value::Object(settings))) => Ok(settings),
        _ => Err(super::catalog::unknown(detector)),
    }
}

extension_sql!(
    r#"COMMENT ON FUNCTION anomaly.export_model(text, integer) IS
'a version of a detector''s model (the active one by default) as one value for anomaly.import_model';"#,
    name = "export_model_comment",
    requires = [export_model]
);
