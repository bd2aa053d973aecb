//! `anomaly.deliver`, and the steps of a delivery in the scan worker and in `CALL anomaly.run_due()`.
//!
//! 1. [`claim`] counts the attempt and puts the next one off, so that what takes the process down, or
//!    fails at its commit, is not tried over and over.
//! 2. [`perform`] calls the handler as its owner and takes the row out, in one transaction: what a function
//!    writes and that it was told are committed together, so that it is told once.
//! 3. On an error, [`record_error`] keeps what it was.

use anomaly_core::handler::{ATTEMPTS, pause};
use pgrx::{JsonB, PgSqlErrorCode, pg_sys, pg_sys::panic::ErrorReport, prelude::*};
use serde_json::{Map, Value, json};

use crate::{
    error::{SqlResult, report, required},
    gucs,
    pg::{
        internal_rights, locks, session,
        subxact::{self, Caught},
    },
    run, sql,
};

/// Bytes of a payload that NOTIFY takes, and of the description in one.
const MAX_PAYLOAD: usize = 7999;
const MAX_DESCRIPTION: usize = 2000;

/// Rows of the outbox that are delivered in the database, for a condition on what is due.
pub const DELIVERED_HERE: &str = "h.enabled AND h.kind IN ('function', 'notify') AND NOT o.dead";

/// One message to one handler.
#[derive(Debug, Clone)]
pub struct Delivery {
    id: i64,
    pub handler: String,
    kind: String,
    target: String,
    owner: pg_sys::Oid,
    attempts: i32,
    payload: Value,
}

/// The owner's next message that is due, the oldest first.
pub fn claim(owner: pg_sys::Oid, now: i64) -> SqlResult<Option<Delivery>> {
    internal_rights::with(|| {
        let found = sql::execute_returning(
            &format!(
                "SELECT o.id, o.handler, h.kind, h.target, o.attempts + 1, o.payload \
                   FROM anomaly.outbox o JOIN anomaly.handler h USING (handler) \
                  WHERE o.owner = $1::oid AND o.next_try <= $2 AND {DELIVERED_HERE} \
                  ORDER BY o.id LIMIT 1 FOR UPDATE OF o SKIP LOCKED"
            ),
            &[owner.into(), sql::timestamptz(now)?.into()],
            |row| {
                Ok(Delivery {
                    id: row.must(1)?,
                    handler: row.must(2)?,
                    kind: row.must(3)?,
                    target: row.must(4)?,
                    owner,
                    attempts: row.must(5)?,
                    payload: row.must::<JsonB>(6)?.0,
                })
            },
        )?;
        let Some(delivery) = found.into_iter().next() else { return Ok(None) };
        // Whoever has claimed it may be at it for as long as the timeout.
        let next_try = now
            .saturating_add(run::micros(gucs::handler_timeout()))
            .saturating_add(pause(delivery.attempts.unsigned_abs(), delivery.id as u64));
        sql::execute(
            "UPDATE anomaly.outbox SET attempts = $2, next_try = $3 WHERE id = $1",
            &[delivery.id.into(), delivery.attempts.into(), sql::timestamptz(next_try)?.into()],
        )?;
        Ok(Some(delivery))
    })
}

/// Calls the handler, in a session of its owner's, and takes the message out of the outbox. Nothing happens
/// when somebody else has claimed it meanwhile.
///
/// # Errors
/// What the handler raises; 42501 when it leaves another role behind.
pub fn perform(delivery: &Delivery) -> SqlResult<()> {
    locks::extension(locks::Wait::Yes);
    let taken = internal_rights::with(|| {
        sql::execute(
            "DELETE FROM anomaly.outbox WHERE id = $1 AND attempts = $2",
            &[delivery.id.into(), delivery.attempts.into()],
        )
    })?;
    if taken == 0 {
        return Ok(());
    }
    match delivery.kind.as_str() {
        "function" => {
            // The name was quoted when the handler was created.
            sql::execute(
                &format!("SELECT {}($1::pg_catalog.jsonb)", delivery.target),
                &[JsonB(delivery.payload.clone()).into()],
            )?;
        }
        _ => {
            if delivery.attempts > 1 {
                // A full queue stays full after its slowest listener has gone, until somebody asks.
                sql::execute("SELECT pg_catalog.pg_notification_queue_usage()", &[])?;
            }
            sql::execute(
                "SELECT pg_catalog.pg_notify($1, $2)",
                &[delivery.target.as_str().into(), message(&delivery.payload).into()],
            )?;
        }
    }
    if session::session_user() == delivery.owner && session::current_user() == delivery.owner {
        return Ok(());
    }
    Err(report(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        format!("handler \"{}\" left another role behind than its owner", delivery.handler),
    )
    .set_hint("a handler function must not end under another role: RESET ROLE"))
}

/// What NOTIFY carries: what happened to which alert, as far as there is room.
fn message(payload: &Value) -> String {
    let field = |name: &str| payload.get(name).cloned().unwrap_or_default();
    let mut map = Map::new();
    let mut text = field("text").as_str().unwrap_or_default().to_owned();
    if text.len() > MAX_DESCRIPTION {
        let cut = (0..=MAX_DESCRIPTION).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(cut.unwrap_or(0));
        text.push('…');
    }
    for name in
        ["id", "transition", "sequence", "status", "severity", "at", "value", "detector", "entity"]
    {
        map.insert(name.into(), field(name));
    }
    map.insert("text".into(), json!(text));
    let whole = Value::Object(map).to_string();
    if whole.len() <= MAX_PAYLOAD {
        return whole;
    }
    json!({"id": field("id"), "transition": field("transition"), "sequence": field("sequence")})
        .to_string()
}

/// Why a message could not be delivered, for people.
pub fn why(caught: &Caught, timed_out: bool) -> String {
    match timed_out {
        true => format!(
            "took longer than anomaly_detection.handler_timeout ({} ms)",
            gucs::handler_timeout().as_millis()
        ),
        false => format!("{} ({})", caught.message, caught.sqlstate),
    }
}

/// Keeps why a message could not be delivered; after so many attempts it is given up. Later messages about the
/// same alert wait with it, so that a handler hears of them in their order.
pub fn record_error(delivery: &Delivery, caught: &Caught, timed_out: bool) -> SqlResult<()> {
    if locks::extension(locks::Wait::Yes).is_none() {
        return Ok(());
    }
    internal_rights::with(|| {
        sql::execute(
            "UPDATE anomaly.outbox SET last_error = $3, dead = $4 WHERE id = $1 AND attempts = $2",
            &[
                delivery.id.into(),
                delivery.attempts.into(),
                why(caught, timed_out).into(),
                (delivery.attempts.unsigned_abs() >= ATTEMPTS).into(),
            ],
        )?;
        sql::execute(
            "UPDATE anomaly.outbox l SET next_try = e.next_try FROM anomaly.outbox e \
              WHERE e.id = $1 AND NOT e.dead AND l.handler = e.handler AND l.alert_id = e.alert_id \
                AND l.id > e.id AND l.next_try < e.next_try",
            &[delivery.id.into()],
        )
    })?;
    Ok(())
}

/// Delivers what the caller's handlers have yet to be told, at most so many messages, in the caller's
/// transaction: a handler that fails is rolled back by itself.
///
/// # Errors
/// 42501 after SET ROLE, 55000 while paused, 25006 on a standby.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe)]
fn deliver(
    at_most: default!(Option<i32>, "1000"),
) -> Result<TableIterator<'static, (name!(delivered, i64), name!(failed, i64))>, ErrorReport> {
    let at_most = required(at_most, "at_most")?;
    run::check_writable("deliver")?;
    if let Some(reason) = run::paused()? {
        return Err(report(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, reason)
            .set_hint("SELECT anomaly.resume()"));
    }
    let owner = session::current_user();
    if owner != session::session_user() {
        return Err(report(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "handlers run only in a session of their owner's",
        )
        .set_hint("log in as the owner; SET ROLE is not enough"));
    }
    let now = session::now();
    let (mut delivered, mut failed) = (0, 0);
    for _ in 0..at_most {
        let Some(delivery) = claim(owner, now)? else { break };
        match subxact::run_within(gucs::handler_timeout(), || perform(&delivery)) {
            Ok(()) => delivered += 1,
            Err((caught, timed_out)) => {
                pgrx::warning!(
                    "handler \"{}\" failed: {}",
                    delivery.handler,
                    why(&caught, timed_out)
                );
                record_error(&delivery, &caught, timed_out)?;
                failed += 1;
            }
        }
    }
    Ok(TableIterator::once((delivered, failed)))
}

extension_sql!(
    r#"COMMENT ON FUNCTION anomaly.deliver(integer) IS
'tells the caller''s handlers what they have yet to be told, as a background worker does; how many messages were delivered and how many failed';"#,
    name = "deliver_comment",
    requires = [deliver]
);
