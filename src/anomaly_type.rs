//! Anomaly types that users add, and the names of all: what a detector looks for, in a word.

mod create_anomaly_type;
mod drop_anomaly_type;

use anomaly_core::strategy::anomaly_type_info;
use pgrx::pg_sys;

use crate::{
    error::{SqlResult, from_core},
    pg::internal_rights,
    sql,
};

struct Registered {
    owner: pg_sys::Oid,
    family: String,
}

fn find(anomaly_type: &str) -> SqlResult<Option<Registered>> {
    internal_rights::with(|| {
        sql::row(
            "SELECT owner::oid, family FROM anomaly.anomaly_type \
              WHERE anomaly_type = $1 AND NOT builtin",
            &[anomaly_type.into()],
            |row| Ok(Registered { owner: row.must(1)?, family: row.must(2)? }),
        )
    })
}

/// # Errors
/// 22023 for a type that there is not.
pub fn check(anomaly_type: &str) -> SqlResult<()> {
    match anomaly_type_info(anomaly_type) {
        Err(unknown) if find(anomaly_type)?.is_none() => Err(from_core(unknown)),
        _ => Ok(()),
    }
}

/// The family of a type that a user has added; `None` of those that are built in.
pub fn own_family(anomaly_type: &str) -> SqlResult<Option<String>> {
    if anomaly_type_info(anomaly_type).is_ok() {
        return Ok(None);
    }
    Ok(find(anomaly_type)?.map(|found| found.family))
}
