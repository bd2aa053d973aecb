//! `anomaly.set_secret`, `anomaly.drop_secret` and `anomaly.handler_target`: what an address must not show, a token or a
//! password, is kept apart, where no dump takes it along, and named in the address as `${secret:name}`.
//!
//! Nobody reads it back but a delivery server, a member of anomaly_delivery.

use pgrx::{PgSqlErrorCode, pg_sys, prelude::*, spi::quote_literal};

use crate::{
    error::{SqlResult, invalid, not_null, report},
    pg::{internal_rights, quiet, session},
    run, sql,
};

/// Bytes of a name and of a value.
const MAX_NAME: usize = 63;
const MAX_VALUE: usize = 4096;

const BEGIN: &str = "${secret:";
const END: char = '}';

/// An address in parts: plain text, and the name of the secret that follows it.
struct Parts<'a> {
    secrets: Vec<(&'a str, &'a str)>,
    rest: &'a str,
}

/// # Errors
/// 22023 for a reference that does not end or whose name cannot be one.
fn parts(target: &str) -> SqlResult<Parts<'_>> {
    let mut secrets = Vec::new();
    let mut rest = target;
    while let Some((before, reference)) = rest.split_once(BEGIN) {
        let Some((name, after)) = reference.split_once(END) else {
            return Err(invalid(
                format!("a reference {BEGIN}…}} in the target does not end"),
                "for example 'https://example.com/${secret:token}'",
            ));
        };
        check_name(name)?;
        secrets.push((before, name));
        rest = after;
    }
    Ok(Parts { secrets, rest })
}

fn check_name(name: &str) -> SqlResult<()> {
    let fits = |c: char| c.is_ascii_alphanumeric() || ['_', '-', '.'].contains(&c);
    if !name.is_empty() && name.len() <= MAX_NAME && name.chars().all(fits) {
        return Ok(());
    }
    Err(invalid(
        "the name of a secret is not one",
        format!("name it by 1 to {MAX_NAME} letters, digits, dots, hyphens and underscores"),
    ))
}

/// Checks the target of a handler that the delivery server serves: secrets that it names have been set, and it holds no
/// password itself.
///
/// # Errors
/// 22023 for what cannot be, 42704 for a secret that the owner has not set.
pub fn check_target(target: &str, owner: pg_sys::Oid) -> SqlResult<()> {
    let parts = parts(target)?;
    for (_, name) in &parts.secrets {
        if value_of(owner, name)?.is_none() {
            return Err(missing(name).set_hint(set_it(name)));
        }
    }
    // what is left without the references: user:password@ before the host
    let mut plain: String = parts.secrets.iter().map(|(before, _)| *before).collect();
    plain.push_str(parts.rest);
    let authority = plain.split_once("://").map_or("", |(_, rest)| rest);
    let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
    let password = authority.rsplit_once('@').and_then(|(user, _)| user.split_once(':'));
    if password.is_some_and(|(_, password)| !password.is_empty()) {
        return Err(invalid(
            "the target holds a password, which dumps of the database would show",
            "SELECT anomaly.set_secret('password', …), and write ${secret:password} in its place",
        ));
    }
    Ok(())
}

fn missing(name: &str) -> pg_sys::panic::ErrorReport {
    report(PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT, format!("secret \"{name}\" is not set"))
}

fn set_it(name: &str) -> String {
    format!("SELECT anomaly.set_secret({}, …) as the handler's owner", quote_literal(name))
}

fn value_of(owner: pg_sys::Oid, name: &str) -> SqlResult<Option<String>> {
    internal_rights::with(|| {
        sql::row(
            "SELECT value FROM anomaly.secret WHERE owner = $1::oid AND name = $2",
            &[owner.into(), name.into()],
            |row| row.must::<String>(1),
        )
    })
}

/// Sets a secret of the current role, or another value for it. Answers how to name it in the target of a handler.
///
/// # Errors
/// 22023 for a name or a value that cannot be one. None shows the value, and the log shows no statement beside them.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe)]
fn set_secret(name: Option<&str>, value: Option<&str>) -> String {
    quiet::without_statement(|| {
        not_null!(name, value);
        run::check_writable("set_secret")?;
        check_name(name)?;
        if value.is_empty() || value.len() > MAX_VALUE {
            return Err(invalid(
                format!("a secret of {} bytes", value.len()),
                format!("give a value of 1 to {MAX_VALUE} bytes"),
            ));
        }
        let owner = session::current_user();
        internal_rights::with(|| {
            sql::execute(
                "INSERT INTO anomaly.secret (owner, name, value) VALUES ($1::oid, $2, $3) \
                 ON CONFLICT (owner, name) DO UPDATE SET value = EXCLUDED.value, set_at = now()",
                &[owner.into(), name.into(), value.into()],
            )
        })?;
        Ok(format!("{BEGIN}{name}{END}"))
    })
}

/// Forgets a secret of the current role; true when there was one.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe, strict)]
fn drop_secret(name: &str) -> SqlResult<bool> {
    run::check_writable("drop_secret")?;
    let owner = session::current_user();
    let dropped = internal_rights::with(|| {
        sql::execute(
            "DELETE FROM anomaly.secret WHERE owner = $1::oid AND name = $2",
            &[owner.into(), name.into()],
        )
    })?;
    Ok(dropped == 1)
}

/// A handler's target with its secrets filled in. For the delivery server: EXECUTE is granted to anomaly_delivery only.
///
/// # Errors
/// 42704 for an unknown handler and for a secret that is not set.
#[pg_extern(schema = "anomaly", stable, parallel_unsafe, strict)]
fn handler_target(handler: &str) -> SqlResult<String> {
    let found = internal_rights::with(|| {
        sql::row(
            "SELECT owner::oid, kind IN ('function', 'notify'), target FROM anomaly.handler WHERE handler = $1",
            &[handler.into()],
            |row| Ok((row.must::<pg_sys::Oid>(1)?, row.must::<bool>(2)?, row.must::<String>(3)?)),
        )
    })?;
    let Some((owner, is_plain, target)) = found else {
        return Err(report(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("handler \"{handler}\" does not exist"),
        )
        .set_hint("SELECT handler FROM anomaly.handlers"));
    };
    if is_plain {
        return Ok(target);
    }
    let Parts { secrets, rest } = parts(&target)?;
    let mut filled = String::with_capacity(target.len());
    for (before, name) in secrets {
        filled.push_str(before);
        match value_of(owner, name)? {
            Some(value) => filled.push_str(&value),
            None => return Err(missing(name).set_hint(set_it(name))),
        }
    }
    filled.push_str(rest);
    Ok(filled)
}

extension_sql!(
    r#"
COMMENT ON FUNCTION anomaly.set_secret(text, text) IS
'sets a secret of the current role, which targets of its handlers name as ${secret:name}; nobody reads it back but the delivery server, and no dump holds it';
COMMENT ON FUNCTION anomaly.drop_secret(text) IS 'forgets a secret of the current role; true when there was one';
COMMENT ON FUNCTION anomaly.handler_target(text) IS 'a handler''s target with its secrets filled in, for the delivery server';
REVOKE EXECUTE ON FUNCTION anomaly.handler_target(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION anomaly.handler_target(text) TO anomaly_delivery;
"#,
    name = "secrets_comments",
    requires = [set_secret, drop_secret, handler_target, "secrets"]
);
