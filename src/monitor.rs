//! Monitors: sources that a worker runs on a schedule, whose measurements land in `anomaly.sample`.
//!
//! `monitor_system` makes the only kind there is so far. The scan worker calls [`collect`] and then
//! scans the monitor's detectors, which read the new samples.

use anomaly_core::system_metrics::Source;
use pgrx::{PgSqlErrorCode, pg_sys, prelude::*};

use crate::{
    error::{SqlResult, report},
    monitor_system,
    pg::{internal_rights, session},
    sql, worker,
};

/// What one collection brought.
#[derive(Debug, Clone)]
pub struct CollectSummary {
    /// Samples stored, by metric.
    pub values: Vec<(&'static str, f64)>,
    /// Sources that could not be read, and why.
    pub absent: Vec<(Source, String)>,
}

/// A row of `anomaly.monitor`.
#[derive(Debug)]
struct MonitorRow {
    owner: pg_sys::Oid,
    kind: String,
}

impl MonitorRow {
    /// The monitor of a name, whoever asks.
    fn find(monitor: &str) -> SqlResult<Option<MonitorRow>> {
        internal_rights::with(|| {
            sql::row(
                "SELECT owner::oid, kind FROM anomaly.monitor WHERE monitor = $1",
                &[monitor.into()],
                |row| Ok(MonitorRow { owner: row.must(1)?, kind: row.must(2)? }),
            )
        })
    }

    /// The monitor of a name, if it belongs to the current user (through membership too). `None`
    /// where there is none that they may see.
    ///
    /// # Errors
    /// 42501 for somebody else's monitor that they may see.
    fn find_owned(monitor: &str) -> SqlResult<Option<MonitorRow>> {
        let Some(row) = Self::find(monitor)? else { return Ok(None) };
        if session::has_privileges_of(session::current_user(), row.owner) {
            return Ok(Some(row));
        }
        let visible = sql::row(
            "SELECT 1 FROM anomaly.monitors WHERE monitor OPERATOR(pg_catalog.=) $1",
            &[monitor.into()],
            |_| Ok(()),
        )?;
        if visible.is_none() {
            return Ok(None);
        }
        Err(report(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("must be owner of monitor \"{monitor}\""),
        )
        .set_hint("SET ROLE to its owner; anomaly.monitors names it"))
    }
}

/// Measures what the monitor measures and stores the samples, in the current transaction and for
/// the monitor's owner.
///
/// # Errors
/// 42704 for an unknown monitor, 42501 when its owner has lost the right to what it reads.
pub fn collect(monitor: &str, run_id: i64) -> SqlResult<CollectSummary> {
    let row = MonitorRow::find(monitor)?.ok_or_else(|| {
        report(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("monitor \"{monitor}\" does not exist"),
        )
        .set_hint("SELECT monitor FROM anomaly.monitors")
    })?;
    match row.kind.as_str() {
        "system" => monitor_system::collect(monitor, row.owner, Some(run_id)),
        kind => Err(report(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!(
                "monitor \"{monitor}\" is of the kind \"{kind}\", which this library does not know"
            ),
        )
        .set_hint("ALTER EXTENSION anomaly_detection UPDATE, or install a newer library")),
    }
}

/// Forgets a monitor and its detectors with their models. Its samples and alerts stay. True when it
/// existed, false when not (as the caller sees it).
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe, strict)]
fn drop_monitor(monitor: &str) -> SqlResult<bool> {
    if MonitorRow::find_owned(monitor)?.is_none() {
        return Ok(false);
    }
    internal_rights::with(|| {
        let detectors = sql::rows(
            "SELECT detector FROM anomaly.detector WHERE monitor = $1",
            &[monitor.into()],
            |row| row.must::<String>(1),
        )?;
        // First, because it waits for scans that are running; what these raise is seen below.
        let deleted =
            sql::execute("DELETE FROM anomaly.monitor WHERE monitor = $1", &[monitor.into()])?;
        // Alerts that are open now will never be judged again: they end with their detectors.
        sql::execute(
            "UPDATE anomaly.alert SET status = 'resolved', resolved_at = $2 \
             WHERE status IN ('open', 'acknowledged') AND detector = ANY ($1)",
            &[detectors.into(), sql::timestamptz(session::now())?.into()],
        )?;
        Ok(deleted == 1)
    })
}

/// Lets a monitor collect again, from now on. False when there is none of that name.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe, strict)]
fn enable_monitor(monitor: &str) -> SqlResult<bool> {
    set_enabled(monitor, true)
}

/// Stops a monitor from collecting, and so its detectors from scanning; models are kept. False when
/// there is none of that name.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe, strict)]
fn disable_monitor(monitor: &str) -> SqlResult<bool> {
    set_enabled(monitor, false)
}

fn set_enabled(monitor: &str, enabled: bool) -> SqlResult<bool> {
    if MonitorRow::find_owned(monitor)?.is_none() {
        return Ok(false);
    }
    let now = session::now();
    internal_rights::with(|| {
        sql::execute(
            "UPDATE anomaly.monitor SET enabled = $2, next_due = CASE WHEN $2 THEN $3 END, \
                consecutive_failures = 0 \
             WHERE monitor = $1",
            &[monitor.into(), enabled.into(), sql::timestamptz(now)?.into()],
        )
    })?;
    if enabled {
        worker::notify_due(now);
    }
    Ok(true)
}

extension_sql!(
    r#"
COMMENT ON FUNCTION anomaly.drop_monitor(text) IS
'forgets a monitor and its detectors; true when it existed. Its samples and alerts stay readable';
COMMENT ON FUNCTION anomaly.enable_monitor(text) IS
'lets a stopped monitor collect again; false when there is none of that name';
COMMENT ON FUNCTION anomaly.disable_monitor(text) IS
'stops a monitor from collecting and keeps its detectors'' models; false when there is none of that name';
"#,
    name = "monitor_comments",
    requires = [drop_monitor, enable_monitor, disable_monitor]
);

#[cfg(any(test, feature = "pg_test"))]
#[pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::{error::SqlResult, pg::subxact, sql};

    fn answer(query: &str) -> bool {
        sql::row(query, &[], |row| row.must::<bool>(1)).unwrap().unwrap()
    }

    fn count(query: &str) -> i64 {
        sql::row(query, &[], |row| row.must::<i64>(1)).unwrap().unwrap()
    }

    fn code_of<R>(work: impl FnOnce() -> SqlResult<R>) -> String {
        subxact::run(|| {
            if let Err(raised) = work() {
                raised.report(PgLogLevel::ERROR);
            }
        })
        .unwrap_err()
        .sqlstate
    }

    #[pg_test]
    fn an_unknown_monitor_is_no_error_to_drop_but_to_collect() {
        assert!(!answer("SELECT anomaly.drop_monitor('nothing')"));
        assert!(!answer("SELECT anomaly.enable_monitor('nothing')"));
        assert!(!answer("SELECT anomaly.disable_monitor('nothing')"));
        assert_eq!(code_of(|| super::collect("nothing", 1)), "42704");
    }

    #[pg_test]
    fn dropping_a_monitor_keeps_its_samples() {
        Spi::run("SELECT anomaly.monitor_system()").unwrap();
        let samples = count("SELECT count(*) FROM anomaly.samples");
        assert!(samples > 0);
        assert!(answer("SELECT anomaly.drop_monitor('system')"));
        assert!(!answer("SELECT anomaly.drop_monitor(monitor => 'system')"));
        assert_eq!(count("SELECT count(*) FROM anomaly.detectors"), 0);
        assert_eq!(count("SELECT count(*) FROM anomaly.counter"), 0);
        assert_eq!(count("SELECT count(*) FROM anomaly.samples"), samples);
    }

    #[pg_test]
    fn a_disabled_monitor_is_not_due() {
        Spi::run("SELECT anomaly.monitor_system()").unwrap();
        assert!(answer("SELECT anomaly.disable_monitor('system')"));
        assert!(answer("SELECT anomaly.disable_monitor(monitor => 'system')"));
        let due = "SELECT enabled AND next_due IS NOT NULL FROM anomaly.monitors";
        assert!(!answer(due));
        assert!(answer("SELECT anomaly.enable_monitor('system')"));
        assert!(answer(due));
    }

    #[pg_test]
    fn a_monitor_of_somebody_else_is_out_of_reach() {
        Spi::run("SELECT anomaly.monitor_system()").unwrap();
        Spi::run("CREATE ROLE monitor_stranger; SET ROLE monitor_stranger").unwrap();
        assert_eq!(count("SELECT count(*) FROM anomaly.monitors"), 0);
        assert!(!answer("SELECT anomaly.drop_monitor('system')"));
        Spi::run(
            "RESET ROLE; GRANT anomaly_monitor TO monitor_stranger; SET ROLE monitor_stranger",
        )
        .unwrap();
        assert_eq!(count("SELECT count(*) FROM anomaly.monitors"), 1);
        let raised =
            subxact::run(|| Spi::run("SELECT anomaly.drop_monitor('system')")).unwrap_err();
        assert_eq!(raised.sqlstate, "42501");
    }
}
