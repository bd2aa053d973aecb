//! `anomaly.create_anomaly_type`: adds a type to those that detectors, handlers and calendars name.

use anomaly_core::strategy::anomaly_type_info;
use pgrx::prelude::*;

use crate::{
    error::{SqlResult, invalid, not_null},
    pg::{internal_rights, session},
    run, sql,
    strategy::create_strategy::{check_description, check_name, taken},
};

const FAMILIES: [&str; 4] = ["system", "user", "data", "other"];

/// Answers the type. All roles may use it; the family decides what alerts suggest to do.
///
/// # Errors
/// 22023 for a name or a family that cannot be, 42710 when the name is taken.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe)]
fn create_anomaly_type(
    anomaly_type: Option<&str>,
    family: default!(Option<&str>, "'other'"),
    description: default!(Option<&str>, "NULL"),
) -> SqlResult<String> {
    not_null!(anomaly_type, family);
    run::check_writable("create_anomaly_type")?;
    check_name("anomaly type", anomaly_type)?;
    if anomaly_type_info(anomaly_type).is_ok() {
        return Err(taken("anomaly type", anomaly_type));
    }
    if !FAMILIES.contains(&family) {
        return Err(invalid(
            format!("unknown family \"{family}\""),
            format!("families are {}", FAMILIES.join(", ")),
        ));
    }
    let description = check_description(description)?;
    let owner = session::current_user();
    let inserted = internal_rights::with(|| {
        sql::execute(
            "INSERT INTO anomaly.anomaly_type (anomaly_type, family, description, owner) \
             VALUES ($1, $2, $3, $4::oid) ON CONFLICT DO NOTHING",
            &[anomaly_type.into(), family.into(), description.into(), owner.into()],
        )
    })?;
    match inserted {
        1 => Ok(anomaly_type.to_owned()),
        _ => Err(taken("anomaly type", anomaly_type)),
    }
}

extension_sql!(
    r#"COMMENT ON FUNCTION anomaly.create_anomaly_type(text, text, text) IS
'adds an anomaly type to those that detectors, handlers and calendars name; its family (system, user, data or other) decides what alerts suggest to do';"#,
    name = "create_anomaly_type_comment",
    requires = [create_anomaly_type]
);
