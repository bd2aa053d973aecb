//! `anomaly.drop_anomaly_type`: takes away a type that a user has added.

use anomaly_core::strategy::anomaly_type_info;
use pgrx::prelude::*;

use super::find;
use crate::{
    error::{SqlResult, invalid},
    pg::internal_rights,
    run, sql,
    strategy::drop_strategy::{check_owner, check_unused},
};

/// True when it existed.
///
/// # Errors
/// 22023 for one that is built in, 42501 for somebody else's, 2BP01 while detectors use it.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe, strict)]
fn drop_anomaly_type(anomaly_type: &str) -> SqlResult<bool> {
    run::check_writable("drop_anomaly_type")?;
    if anomaly_type_info(anomaly_type).is_ok() {
        return Err(invalid(
            format!("anomaly type \"{anomaly_type}\" is built in"),
            "only those that create_anomaly_type has added can be dropped",
        ));
    }
    let Some(found) = find(anomaly_type)? else { return Ok(false) };
    check_owner("anomaly type", anomaly_type, found.owner)?;
    check_unused(
        "anomaly type",
        anomaly_type,
        "SELECT detector, owner::oid FROM anomaly.detector WHERE anomaly_type = $1 ORDER BY detector",
        "",
    )?;
    let deleted = internal_rights::with(|| {
        sql::execute(
            "DELETE FROM anomaly.anomaly_type WHERE anomaly_type = $1 AND NOT builtin",
            &[anomaly_type.into()],
        )
    })?;
    Ok(deleted == 1)
}

extension_sql!(
    r#"COMMENT ON FUNCTION anomaly.drop_anomaly_type(text) IS
'takes away an anomaly type that create_anomaly_type has added and no detector has; true when it existed';"#,
    name = "drop_anomaly_type_comment",
    requires = [drop_anomaly_type]
);
