//! Quotas: what one role may take of what all share. They are settings, so that ALTER ROLE … SET gives a role
//! another one; superusers have none.

use anomaly_core::schedule;
use pgrx::{PgSqlErrorCode, datum::Interval, pg_sys};

use crate::{
    detector::create_detector::interval_micros,
    error::{SqlResult, from_core, report},
    gucs,
    pg::session,
    run, sql,
};

/// Times of a cron expression that are looked at for the shortest time between two of them.
const FIRES: usize = 16;

fn is_exempt(owner: pg_sys::Oid) -> bool {
    session::is_superuser(owner) || session::is_superuser(session::current_user())
}

/// Called with the rights of the extension's owner, once the new detector is stored.
///
/// # Errors
/// 53400 when the owner has more than anomaly_detection.max_detectors_per_role.
pub fn check_detectors(owner: pg_sys::Oid) -> SqlResult<()> {
    let most = gucs::max_detectors_per_role();
    if most < 0 || session::is_superuser(owner) {
        return Ok(());
    }
    let owned = sql::row(
        "SELECT count(*) FROM anomaly.detector WHERE owner = $1::oid",
        &[owner.into()],
        |row| row.must::<i64>(1),
    )?
    .unwrap_or(0);
    if owned <= most {
        return Ok(());
    }
    Err(report(
        PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
        format!(
            "the role owns {} detectors already: anomaly_detection.max_detectors_per_role is {most}",
            owned - 1
        ),
    )
    .set_hint(
        "one detector watches all entities of a table (entity => 'column'); SELECT anomaly.drop_detector(…), \
         or ask a superuser for ALTER ROLE … SET anomaly_detection.max_detectors_per_role",
    ))
}

/// # Errors
/// 53400 for a schedule that is shorter than anomaly_detection.min_interval.
pub fn check_interval(
    every: Option<&Interval>,
    cron: Option<&str>,
    time_zone: &str,
    owner: pg_sys::Oid,
) -> SqlResult<()> {
    let least = run::micros(gucs::min_interval());
    let shortest = match (every, cron) {
        (Some(every), _) => i64::try_from(interval_micros(every)).unwrap_or(i64::MAX),
        // Nothing shorter than a second can be written down as one.
        (None, Some(cron)) if least > 1_000_000 => shortest_of_cron(cron, time_zone)?,
        _ => return Ok(()),
    };
    if shortest >= least || is_exempt(owner) {
        return Ok(());
    }
    Err(report(
        PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
        format!(
            "a scan every {} s is more often than anomaly_detection.min_interval ({} s)",
            shortest / 1_000_000,
            least / 1_000_000
        ),
    )
    .set_hint(format!(
        "every => '{} seconds', or ask a superuser for ALTER ROLE … SET anomaly_detection.min_interval",
        least.div_euclid(1_000_000) + i64::from(least % 1_000_000 > 0)
    )))
}

fn shortest_of_cron(cron: &str, time_zone: &str) -> SqlResult<i64> {
    let mut at = schedule::next_fire(cron, time_zone, session::now()).map_err(from_core)?;
    let mut shortest = i64::MAX;
    for _ in 0..FIRES {
        let next = schedule::next_fire(cron, time_zone, at).map_err(from_core)?;
        shortest = shortest.min(next - at);
        at = next;
    }
    Ok(shortest)
}
