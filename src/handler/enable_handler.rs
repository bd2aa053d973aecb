//! `anomaly.enable_handler` and `anomaly.disable_handler`: whether a handler is told anything.

use pgrx::prelude::*;

use crate::{
    error::SqlResult,
    handler::is_owned,
    pg::{internal_rights, session},
    run, sql, worker,
};

/// Lets a handler hear of alerts again, first of all of what it could not be told so far. False when
/// there is none of that name.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe, strict)]
fn enable_handler(name: &str) -> SqlResult<bool> {
    run::check_writable("enable_handler")?;
    if !is_owned(name)? {
        return Ok(false);
    }
    let now = session::now();
    internal_rights::with(|| {
        sql::execute(
            "UPDATE anomaly.handler SET enabled = true WHERE handler = $1",
            &[name.into()],
        )?;
        sql::execute(
            "UPDATE anomaly.outbox SET attempts = 0, next_try = $2, last_error = NULL, dead = false \
              WHERE handler = $1 AND (attempts > 0 OR next_try > $2)",
            &[name.into(), sql::timestamptz(now)?.into()],
        )
    })?;
    worker::notify_due(now);
    Ok(true)
}

/// Keeps a handler from being told anything. What happens meanwhile it does not hear of later either;
/// what was written for it before waits. False when there is none of that name.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe, strict)]
fn disable_handler(name: &str) -> SqlResult<bool> {
    run::check_writable("disable_handler")?;
    if !is_owned(name)? {
        return Ok(false);
    }
    internal_rights::with(|| {
        sql::execute(
            "UPDATE anomaly.handler SET enabled = false WHERE handler = $1",
            &[name.into()],
        )
    })?;
    Ok(true)
}

extension_sql!(
    r#"
COMMENT ON FUNCTION anomaly.enable_handler(text) IS
'lets a handler hear of alerts again, and tries what failed anew; false when there is none of that name';
COMMENT ON FUNCTION anomaly.disable_handler(text) IS
'keeps a handler from being told anything; false when there is none of that name';
"#,
    name = "enable_handler_comments",
    requires = [enable_handler, disable_handler]
);
