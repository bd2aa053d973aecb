//! `anomaly.drop_handler`: forgets a handler and what it has yet to be told.

use pgrx::prelude::*;

use crate::{error::SqlResult, handler::is_owned, pg::internal_rights, run, sql};

/// True when it existed, false when not (as the caller sees it).
///
/// # Errors
/// 42501 for somebody else's handler.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe, strict)]
fn drop_handler(name: &str) -> SqlResult<bool> {
    run::check_writable("drop_handler")?;
    if !is_owned(name)? {
        return Ok(false);
    }
    let deleted = internal_rights::with(|| {
        sql::execute("DELETE FROM anomaly.handler WHERE handler = $1", &[name.into()])
    })?;
    Ok(deleted == 1)
}

extension_sql!(
    r#"COMMENT ON FUNCTION anomaly.drop_handler(text) IS
'forgets a handler and what it has yet to be told; true when it existed';"#,
    name = "drop_handler_comment",
    requires = [drop_handler]
);
