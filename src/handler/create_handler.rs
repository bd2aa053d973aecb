//! `anomaly.create_handler`: registers who is told what happens to the alerts of the current role.

use anomaly_core::handler::{KINDS, Matchers, Template};
use pgrx::{JsonB, PgSqlErrorCode, prelude::*};

use crate::{
    detector::create_detector::check_login,
    error::{SqlResult, from_core, invalid, not_null, report},
    function,
    handler::{outbox, secrets},
    pg::{internal_rights, json_arg::JsonArg, quiet, session},
    run, sql,
};

/// Bytes of an address and of a template.
const MAX_TARGET: usize = 2048;
const MAX_TEMPLATE: usize = 65_536;
/// Bytes of the name of a channel that LISTEN takes.
const MAX_CHANNEL: usize = 63;

/// Answers the handler's name.
///
/// # Errors
/// 22023 for what cannot be, naming what can; 42883 and 42501 for a function that is not there or not
/// the caller's to execute; 42710 when the name is taken; 55000 for an owner that no worker can be.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe)]
fn create_handler(
    name: Option<&str>,
    kind: Option<&str>,
    target: Option<&str>,
    matchers: default!(Option<JsonArg>, "'{}'"),
    template: default!(Option<&str>, "NULL"),
    rank: default!(Option<i32>, "0"),
    per: default!(Option<&str>, "NULL"),
) -> String {
    // A target that is refused may hold a secret.
    quiet::without_statement(|| create(name, kind, target, matchers, template, rank, per))
}

fn create(
    name: Option<&str>,
    kind: Option<&str>,
    target: Option<&str>,
    matchers: Option<JsonArg>,
    template: Option<&str>,
    rank: Option<i32>,
    per: Option<&str>,
) -> SqlResult<String> {
    not_null!(name, kind, target, matchers, rank);
    run::check_writable("create_handler")?;
    if name.is_empty() || name.len() > 512 {
        return Err(invalid(
            format!("handler name of {} bytes", name.len()),
            "give a name of 1 to 512 bytes",
        ));
    }
    let parsed = Matchers::parse(&matchers.0).map_err(from_core)?;
    for anomaly_type in parsed.anomaly_types() {
        crate::anomaly_type::check(anomaly_type)?;
    }
    if let Some(template) = template {
        if template.len() > MAX_TEMPLATE {
            return Err(invalid(
                format!("template of {} bytes", template.len()),
                format!("shorten it to {MAX_TEMPLATE} bytes"),
            ));
        }
        Template::parse(template, &outbox::FIELDS).map_err(from_core)?;
    }
    let per = match (per, kind) {
        (Some(per @ ("alert" | "incident")), _) => per,
        (Some(per), _) => {
            return Err(invalid(
                format!("a handler is told per alert or per incident, not per \"{per}\""),
                "give per => 'alert' or per => 'incident', or leave it out",
            ));
        }
        // People want to hear once of what is one thing, programs of everything.
        (None, "slack" | "smtp") => "incident",
        (None, _) => "alert",
    };
    let owner = session::current_user();
    let target = checked_target(kind, target)?;
    if outbox::is_delivered_here(kind) {
        check_login(owner)?;
    } else {
        secrets::check_target(&target, owner)?;
    }
    let inserted = internal_rights::with(|| {
        sql::execute(
            "INSERT INTO anomaly.handler (handler, owner, kind, target, matchers, template, rank, per) \
             VALUES ($1, $2::oid, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING",
            &[
                name.into(),
                owner.into(),
                kind.into(),
                target.into(),
                JsonB(parsed.to_json()).into(),
                template.into(),
                rank.into(),
                per.into(),
            ],
        )
    })?;
    if inserted == 1 {
        return Ok(name.to_owned());
    }
    Err(report(
        PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
        format!("handler \"{name}\" already exists"),
    )
    .set_hint(format!(
        "give another name, or SELECT anomaly.drop_handler({})",
        pgrx::spi::quote_literal(name)
    )))
}

extension_sql!(
    r#"COMMENT ON FUNCTION anomaly.create_handler(text, text, text, jsonb, text, integer, text) IS
'registers who is told what happens to the alerts of the current role: a function(jsonb), a channel of NOTIFY, or an address';"#,
    name = "create_handler_comment",
    requires = [create_handler]
);

/// The target as it is stored.
fn checked_target(kind: &str, target: &str) -> SqlResult<String> {
    if target.trim().is_empty() || target.len() > MAX_TARGET {
        return Err(invalid(
            format!("target of {} bytes", target.len()),
            format!("give a target of 1 to {MAX_TARGET} bytes"),
        ));
    }
    match kind {
        "function" => function_of(target),
        "notify" if target.len() > MAX_CHANNEL => Err(invalid(
            format!("channel of {} bytes", target.len()),
            format!("name a channel of up to {MAX_CHANNEL} bytes"),
        )),
        "notify" => Ok(target.to_owned()),
        "webhook" | "slack" | "alertmanager"
            if !target.starts_with("${secret:")
                && !target.starts_with("https://")
                && !target.starts_with("http://") =>
        {
            // The address may hold a secret, which no message repeats.
            Err(invalid(
                format!("the target of a {kind} handler is no address of HTTP"),
                "for example 'https://example.com/alerts'",
            ))
        }
        "smtp" if !target.contains('@') => Err(invalid(
            "the target of a smtp handler is no address of mail",
            "for example 'ops@example.com'",
        )),
        kind if KINDS.contains(&kind) => Ok(target.to_owned()),
        kind => Err(invalid(
            format!("unknown kind of handler \"{kind}\""),
            format!("kinds are {}", KINDS.join(", ")),
        )),
    }
}

/// The qualified name of a function of one jsonb that the caller may execute.
fn function_of(target: &str) -> SqlResult<String> {
    let name = match target.trim().split_once('(') {
        None => target.trim(),
        Some((name, "jsonb)" | "pg_catalog.jsonb)")) => name,
        Some(_) => {
            return Err(invalid(
                format!("a handler function takes one jsonb, not as in {target}"),
                "for example 'my_schema.my_function(jsonb)'",
            ));
        }
    };
    let shown = format!("{name}(jsonb)");
    let Some(function) = function::find(&format!("{name}(pg_catalog.jsonb)"))? else {
        return Err(report(
            PgSqlErrorCode::ERRCODE_UNDEFINED_FUNCTION,
            format!("function {shown} does not exist"),
        )
        .set_hint(format!("CREATE FUNCTION {name}(alert jsonb) RETURNS void …")));
    };
    if !function.is_plain {
        return Err(invalid(
            format!("{shown} is no plain function"),
            "name a function, not a procedure or an aggregate",
        ));
    }
    function.check_callable(&shown)?;
    Ok(function.name)
}
