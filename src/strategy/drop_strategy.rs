//! `anomaly.drop_strategy`: forgets a strategy of a user's own.

use anomaly_core::strategy::resolve_name;
use pgrx::{PgSqlErrorCode, prelude::*};

use super::find;
use crate::{
    detector::catalog::is_admin,
    error::{SqlResult, invalid, report},
    pg::{internal_rights, session},
    run, sql,
};

/// True when it existed. Its functions stay.
///
/// # Errors
/// 22023 for one that is built in, 42501 for somebody else's, 2BP01 while detectors use it.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe, strict)]
fn drop_strategy(strategy: &str) -> SqlResult<bool> {
    run::check_writable("drop_strategy")?;
    if resolve_name(strategy).is_ok() {
        return Err(invalid(
            format!("strategy \"{strategy}\" is built in"),
            "SELECT strategy FROM anomaly.own_strategies",
        ));
    }
    let Some(found) = find(strategy)? else { return Ok(false) };
    check_owner("strategy", strategy, found.owner)?;
    check_unused(
        "strategy",
        strategy,
        "SELECT detector, owner::oid FROM anomaly.detector WHERE strategy = $1 ORDER BY detector",
        r#"'{"strategy": "auto"}'"#,
    )?;
    let deleted = internal_rights::with(|| {
        sql::execute(
            "DELETE FROM anomaly.strategy WHERE strategy = $1 AND NOT builtin",
            &[strategy.into()],
        )
    })?;
    Ok(deleted == 1)
}

extension_sql!(
    r#"COMMENT ON FUNCTION anomaly.drop_strategy(text) IS
'forgets a strategy of one''s own, which no detector uses; true when it existed. Its functions stay';"#,
    name = "drop_strategy_comment",
    requires = [drop_strategy]
);

/// # Errors
/// 42501 for what is somebody else's.
pub fn check_owner(what: &str, name: &str, owner: pg_sys::Oid) -> SqlResult<()> {
    if session::has_privileges_of(session::current_user(), owner) || is_admin()? {
        return Ok(());
    }
    Err(report(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        format!("must be owner of {what} \"{name}\""),
    )
    .set_hint("SET ROLE to its owner"))
}

/// # Errors
/// 2BP01 while the query finds detectors (and their owners) that use it; the hint names one of the caller's.
pub fn check_unused(what: &str, name: &str, users: &str, instead: &str) -> SqlResult<()> {
    let users = internal_rights::with(|| {
        sql::rows(users, &[name.into()], |row| {
            Ok((row.must::<String>(1)?, row.must::<pg_sys::Oid>(2)?))
        })
    })?;
    if users.is_empty() {
        return Ok(());
    }
    let caller = session::current_user();
    let own = users.iter().find(|(_, owner)| session::has_privileges_of(caller, *owner));
    let hint = match (own, instead.is_empty()) {
        (Some((detector, _)), false) => format!(
            "SELECT anomaly.alter_detector({0}, {instead}), or anomaly.drop_detector({0})",
            pgrx::spi::quote_literal(detector)
        ),
        (Some((detector, _)), true) => {
            format!("SELECT anomaly.drop_detector({})", pgrx::spi::quote_literal(detector))
        }
        (None, _) => "their owners have to drop or to alter them first".to_owned(),
    };
    Err(report(
        PgSqlErrorCode::ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST,
        match users.len() {
            1 => format!("{what} \"{name}\" is used by a detector"),
            n => format!("{what} \"{name}\" is used by {n} detectors"),
        },
    )
    .set_hint(hint))
}
