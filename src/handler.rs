//! Handlers: who is told what happens to alerts.
//!
//! [`outbox`] writes a row per transition of an alert and handler in the commit that changes the alert.
//! [`deliver`] takes what is due, one row in one transaction: in the scan worker that connected as the
//! owner, in `CALL anomaly.run_due()`, and by hand. `create_handler`, `drop_handler` and
//! `enable_handler` are what users call; [`secrets`] keep what addresses must not show.

mod create_handler;
pub mod deliver;
mod drop_handler;
mod enable_handler;
pub mod outbox;
mod secrets;

use pgrx::{PgSqlErrorCode, pg_sys};

use crate::{
    detector::catalog::may_see_all,
    error::{SqlResult, report},
    pg::{internal_rights, session},
    sql,
};

/// Whether there is a handler of that name that the caller owns (through membership too).
///
/// # Errors
/// 42501 when the caller may see it, but it is somebody else's.
fn is_owned(handler: &str) -> SqlResult<bool> {
    let owner = internal_rights::with(|| {
        sql::row(
            "SELECT owner::oid FROM anomaly.handler WHERE handler = $1",
            &[handler.into()],
            |row| row.must::<pg_sys::Oid>(1),
        )
    })?;
    let Some(owner) = owner else { return Ok(false) };
    if session::has_privileges_of(session::current_user(), owner) {
        return Ok(true);
    }
    if may_see_all()? {
        return Err(report(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("must be owner of handler \"{handler}\""),
        )
        .set_hint("SET ROLE to its owner; anomaly.handlers names it"));
    }
    Ok(false)
}
