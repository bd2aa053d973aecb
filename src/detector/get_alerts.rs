//! `anomaly.get_alerts` (sql/engine.sql): what of its arguments SQL does not check by itself.

use anomaly_core::Severity;
use pgrx::prelude::*;

use crate::error::{SqlResult, from_core, invalid};

const STATUSES: [&str; 4] = ["open", "acknowledged", "resolved", "withdrawn"];

/// True for arguments of get_alerts that can find something.
///
/// # Errors
/// 22023 that lists what is valid.
#[pg_extern(schema = "anomaly", immutable, parallel_safe)]
pub fn check_alert_filter(
    anomaly_types: Option<Vec<Option<String>>>,
    status: Option<&str>,
    max_rows: Option<i32>,
    skip_rows: Option<i32>,
) -> SqlResult<bool> {
    for name in anomaly_types.into_iter().flatten().flatten() {
        crate::anomaly_type::check(&name)?;
    }
    if let Some(status) = status.filter(|status| !STATUSES.contains(status)) {
        return Err(invalid(
            format!("unknown status \"{status}\""),
            format!("an alert is {}", STATUSES.join(", ")),
        ));
    }
    for (name, number) in [("max_rows", max_rows), ("skip_rows", skip_rows)] {
        if number.is_some_and(|number| number < 0) {
            return Err(invalid(
                format!("{name} must not be negative"),
                format!("leave out {name} for its default"),
            ));
        }
    }
    Ok(true)
}

/// Severities as numbers, from 0 for info to 3; NULL for NULL.
///
/// # Errors
/// 22023 that lists what is valid.
#[pg_extern(schema = "anomaly", immutable, parallel_safe, strict)]
pub fn severity_ranks(severities: Vec<Option<String>>) -> SqlResult<Vec<i16>> {
    severities
        .into_iter()
        .flatten()
        .map(|name| Ok(name.parse::<Severity>().map_err(from_core)? as i16))
        .collect()
}

extension_sql!(
    r#"
COMMENT ON FUNCTION anomaly.check_alert_filter(text[], text, integer, integer) IS
'part of anomaly.get_alerts: raises an error for arguments that name nothing there is';
COMMENT ON FUNCTION anomaly.severity_ranks(text[]) IS
'severities as the numbers of severity_rank in anomaly.alerts: 0 for info to 3 for emergency';
"#,
    name = "get_alerts_comments",
    requires = [check_alert_filter, severity_ranks]
);
