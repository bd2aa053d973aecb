//! What the scheduler can say about itself: the rows of kind 'system' in `anomaly.health`, and who is
//! running for `anomaly.progress`.

use pgrx::{datum::TimestampWithTimeZone, pg_sys::panic::ErrorReport, prelude::*};

use crate::{
    error::SqlResult,
    gucs,
    pg::{bgworker, internal_rights, session, shmem, shmem::Outcome},
    run, sql, worker,
};

/// Starvation is shown for this long after it was last seen.
const STARVED_MICROS: i64 = 120_000_000;

struct Problem {
    status: &'static str,
    reason: String,
    hint: &'static str,
}

/// The scheduler's problems in this database, most fundamental first.
fn problems() -> SqlResult<Vec<Problem>> {
    let mut found = Vec::new();
    let mut add = |status, reason: String, hint| found.push(Problem { status, reason, hint });
    if session::in_recovery() {
        add("standby", "this server is a standby".to_owned(), "scheduling starts at promotion");
        return Ok(found);
    }
    if !worker::is_preloaded() {
        add(
            "not preloaded",
            "no background workers: anomaly_detection is not in shared_preload_libraries"
                .to_owned(),
            "add it and restart the server, or CALL anomaly.run_due() regularly",
        );
    }
    if let Some(reason) = run::paused()? {
        add("paused", reason, "SELECT anomaly.resume()");
    }
    if !gucs::enabled() {
        add(
            "disabled",
            "anomaly_detection.enabled is off".to_owned(),
            "SET it to on in postgresql.conf, or for this database with ALTER DATABASE",
        );
    }
    let here = bgworker::my_database().to_u32();
    let known = shmem::read(|shared| {
        let entry = shared.databases.iter().find(|d| d.oid == here).copied();
        (shared.launcher_pid, entry)
    });
    if let Some((launcher, entry)) = known {
        if launcher == 0 {
            add(
                "no launcher",
                "the launcher is not running".to_owned(),
                "it restarts within seconds; if not, the server's log says why",
            );
        }
        if let Some(entry) = entry {
            match entry.outcome {
                Outcome::UnknownVersion => add(
                    "version mismatch",
                    "the installed SQL objects are of a version this library does not schedule"
                        .to_owned(),
                    "ALTER EXTENSION anomaly_detection UPDATE",
                ),
                Outcome::Failed | Outcome::Busy if entry.failures > 1 => add(
                    "failing",
                    format!("{} attempts to start work here failed in a row", entry.failures),
                    "the server's log says why",
                ),
                _ => {}
            }
            if entry.starved > 0
                && entry.last_starved.abs_diff(session::now()) < STARVED_MICROS.unsigned_abs()
            {
                add(
                    "starved",
                    format!("due work found no worker slot, {} times so far", entry.starved),
                    "raise anomaly_detection.max_workers or max_worker_processes",
                );
            }
        }
    }
    Ok(found)
}

/// One row per problem of the scheduler, or one that says ok.
// pgrx sees that this returns a table only if `Result` is written out.
#[allow(clippy::type_complexity)]
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe)]
fn scheduler_health() -> Result<
    TableIterator<
        'static,
        (
            name!(name, String),
            name!(status, String),
            name!(reason, Option<String>),
            name!(hint, Option<String>),
        ),
    >,
    ErrorReport,
> {
    let mut rows: Vec<_> = problems()?
        .into_iter()
        .map(|p| {
            ("scheduler".to_owned(), p.status.to_owned(), Some(p.reason), Some(p.hint.to_owned()))
        })
        .collect();
    if rows.is_empty() {
        rows.push(("scheduler".to_owned(), "ok".to_owned(), None, None));
    }
    Ok(TableIterator::new(rows))
}

/// What the scheduler knows of this database, since the server started. No row without
/// shared_preload_libraries.
// pgrx sees that this returns a table only if `Result` is written out.
#[allow(clippy::type_complexity)]
#[pg_extern(schema = "anomaly", volatile, parallel_restricted)]
fn scheduler_state() -> Result<
    TableIterator<
        'static,
        (
            name!(launcher_pid, Option<i32>),
            name!(workers, i32),
            name!(workers_here, i32),
            name!(max_workers, i32),
            name!(visits, i64),
            name!(failed_visits, i64),
            name!(next_visit_at, Option<TimestampWithTimeZone>),
            name!(starved, i64),
            name!(last_starved_at, Option<TimestampWithTimeZone>),
        ),
    >,
    ErrorReport,
> {
    let here = bgworker::my_database().to_u32();
    let known = shmem::read(|shared| {
        let count = |wanted: &dyn Fn(u32) -> bool| {
            shared.slots.iter().filter(|s| s.database != 0 && wanted(s.database)).count()
        };
        let entry = shared.databases.iter().find(|d| d.oid == here).copied();
        (shared.launcher_pid, count(&|_| true), count(&|d| d == here), entry)
    });
    let Some((launcher, workers, workers_here, entry)) = known else {
        return Ok(TableIterator::new(Vec::new()));
    };
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let time = |at: i64| -> SqlResult<Option<TimestampWithTimeZone>> {
        if at == 0 || at == shmem::NEVER { Ok(None) } else { sql::timestamptz(at).map(Some) }
    };
    let row = (
        (launcher != 0).then_some(launcher),
        workers as i32,
        workers_here as i32,
        i32::try_from(gucs::max_workers()).unwrap_or(i32::MAX),
        entry.map_or(0, |e| number(e.visits)),
        entry.map_or(0, |e| i64::from(e.failures)),
        time(entry.map_or(0, |e| e.next_due.max(e.not_before)))?,
        entry.map_or(0, |e| number(e.starved)),
        time(entry.map_or(0, |e| e.last_starved))?,
    );
    Ok(TableIterator::new(vec![row]))
}

/// Scan workers of this database and the run each is executing. Numbers only: what they stand for
/// is filtered by the view.
#[pg_extern(schema = "anomaly", volatile, parallel_restricted)]
fn running_workers()
-> TableIterator<'static, (name!(pid, i32), name!(run_id, i64), name!(rows_read, i64))> {
    let here = bgworker::my_database().to_u32();
    let rows = shmem::read(|shared| {
        let mut rows = Vec::with_capacity(shmem::MAX_SLOTS);
        for slot in shared.slots.iter().filter(|s| s.database == here && s.run_id != 0) {
            rows.push((slot.pid, slot.run_id, slot.rows));
        }
        rows
    });
    TableIterator::new(rows.unwrap_or_default())
}

/// What is due and visible to the caller, but owned by another role.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe)]
fn due_of_others() -> Result<SetOfIterator<'static, String>, ErrorReport> {
    let me = session::current_user();
    let rows = internal_rights::with(|| {
        sql::rows(
            "SELECT format('detector %I of %s', d.detector, d.owner) \
               FROM anomaly.detector d JOIN anomaly.detector_state s ON s.detector = d.detector \
              WHERE d.enabled AND s.status <> 'broken' AND s.next_due <= clock_timestamp() \
                AND d.owner::oid <> $1 \
                AND EXISTS (SELECT FROM pg_roles r WHERE pg_has_role($1, r.oid, 'MEMBER') \
                    AND (r.oid = d.owner OR r.rolname IN ('anomaly_admin', 'anomaly_monitor'))) \
              ORDER BY 1",
            &[me.into()],
            |row| row.must::<String>(1),
        )
    })?;
    Ok(SetOfIterator::new(rows))
}
