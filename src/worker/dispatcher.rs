//! The dispatcher: one short visit to one database.
//!
//! It finds out whether anything may run there, clears up after crashed runs and vanished owners,
//! starts a scan worker for each owner with due work, tells the launcher when to come back, and ends.
//! It runs fixed SQL only, as superuser; whatever a user wrote runs in scan workers as its owner.

use pgrx::pg_sys;

use crate::{
    error::SqlResult,
    gucs,
    pg::{
        bgworker, guc_prefix, latch, locks, session, shmem,
        shmem::{NEVER, Outcome, Shared},
        signals,
        subxact::Caught,
        xact,
    },
    run,
    worker::{REGULAR_VISIT, back_off_micros, micros},
};

/// Longest time a visit may take: its statements are short, but a lock can be held by anybody.
const LOCK_TIMEOUT: &str = "1s";

/// A reservation whose worker has not started by then has failed to start.
const RESERVATION_MICROS: i64 = 30_000_000;

/// At most one warning in this time, however often there is no slot.
const WARN_EVERY_MICROS: i64 = 60_000_000;

/// How soon a database that is disabled or of an unknown version is looked at again: nobody
/// announces ALTER DATABASE … SET or ALTER EXTENSION … UPDATE.
const REVISIT_MICROS: i64 = 60_000_000;

/// What a visit found.
struct Visit {
    outcome: Outcome,
    next_due: i64,
}

/// Entry point; `database` is its OID.
pub fn run(database: u32) {
    signals::install();
    bgworker::connect(database, None);
    guc_prefix::set_option(c"application_name", "anomaly_detection dispatcher");
    guc_prefix::set_option(c"search_path", "pg_catalog, pg_temp");
    guc_prefix::set_option(c"synchronous_commit", "local");
    guc_prefix::set_option(c"lock_timeout", LOCK_TIMEOUT);
    guc_prefix::set_option(c"default_transaction_isolation", "read committed");
    bgworker::report_activity(Some("looking for due detectors"));
    let clock_checked = check_clock(database, true);
    match visit(database, !clock_checked) {
        Ok(visit) => report(database, visit),
        Err(caught) => {
            check_clock(database, clock_checked);
            // Not a warning: the usual reason is a lock that somebody holds for a moment.
            pgrx::log!(
                "anomaly_detection: visit to database {database} failed: {} ({})",
                caught.message,
                caught.sqlstate
            );
            report(database, Visit { outcome: Outcome::Failed, next_due: session::now() });
        }
    }
    bgworker::report_activity(None);
}

/// Notes that due times are being looked at by the clock as it goes now, or that they were not;
/// answers what was noted before.
fn check_clock(database: u32, checked: bool) -> bool {
    shmem::change(|shared| {
        shared
            .database(database)
            .is_some_and(|entry| std::mem::replace(&mut entry.clock_checked, checked))
    })
    .unwrap_or(false)
}

fn report(database: u32, visit: Visit) {
    let now = session::now();
    shmem::change(|shared| {
        if let Some(entry) = shared.database(database) {
            entry.reported = true;
            entry.outcome = visit.outcome;
            entry.next_due = entry.next_due.min(visit.next_due);
            if matches!(visit.outcome, Outcome::Failed | Outcome::Busy) {
                entry.failures = entry.failures.saturating_add(1);
                entry.not_before = now + back_off_micros(entry.failures);
            } else {
                entry.failures = 0;
            }
        }
    });
}

fn visit(database: u32, clock_may_have_changed: bool) -> Result<Visit, Caught> {
    let now = session::now();
    if let Some(early) = xact::run(|| may_run(now))? {
        return Ok(early);
    }
    xact::run(|| run::reap_crashed(now))?;
    xact::run(|| run::clamp_due_times(now, clock_may_have_changed))?;
    if let Err(caught) = xact::run(|| run::make_room(now)) {
        // Somebody reads the slot that is to be emptied; the next visit tries again.
        pgrx::log!("anomaly_detection: old runs were not removed: {}", caught.message);
    }
    let mut owners = xact::run(|| run::due_by_owner(now))?;
    let owner_served = |owner: pg_sys::Oid| {
        shmem::read(|shared| shared.turn_of(database, owner.to_u32())).unwrap_or(0)
    };
    // Whoever has waited longest for a worker, not for a scan: an owner with more detectors than can be
    // scanned in time always has the one that has been due for longest.
    owners.sort_by_cached_key(|owner| (owner_served(owner.owner), owner.next_due));
    let mut next_due = now.saturating_add(micros(REGULAR_VISIT));
    for owner in owners {
        if owner.next_due > now {
            if !has_worker(database, owner.owner) {
                next_due = next_due.min(owner.next_due);
            }
            continue;
        }
        if let Some(reason) = owner.cannot_run {
            xact::run(|| run::break_owner(owner.owner, &reason))?;
            pgrx::log!("anomaly_detection: detectors of one owner are broken: {reason}");
            continue;
        }
        match reserve(database, owner.owner, now) {
            Reservation::Busy => {}
            Reservation::Slot(index, generation) => {
                if !bgworker::start_scan_worker(index, generation) {
                    shmem::change(|shared| {
                        if let Some(slot) = shared.slot(index, generation) {
                            slot.database = 0;
                        }
                    });
                    starved(database, now);
                    next_due = now;
                }
            }
            Reservation::Full => {
                starved(database, now);
                next_due = now;
            }
        }
    }
    Ok(Visit { outcome: Outcome::Scheduling, next_due })
}

/// `None` when scheduling may go on, else what to report.
fn may_run(now: i64) -> SqlResult<Option<Visit>> {
    let stop = |outcome, next_due| Ok(Some(Visit { outcome, next_due }));
    if session::in_recovery() {
        return stop(Outcome::Busy, now);
    }
    if !run::is_installed()? {
        return stop(Outcome::Absent, NEVER);
    }
    if locks::extension(locks::Wait::No).is_none() {
        return stop(Outcome::Busy, now);
    }
    if !run::is_known_version()? {
        return stop(Outcome::UnknownVersion, now + REVISIT_MICROS);
    }
    if !gucs::enabled() {
        return stop(Outcome::Disabled, now + REVISIT_MICROS);
    }
    if run::paused()?.is_some() {
        // resume() wakes us.
        return stop(Outcome::Paused, now.saturating_add(micros(REGULAR_VISIT)));
    }
    Ok(None)
}

enum Reservation {
    Slot(usize, u32),
    /// The owner's worker is at it; it was told to look again.
    Busy,
    Full,
}

fn reserve(database: u32, owner: pg_sys::Oid, now: i64) -> Reservation {
    let owner = owner.to_u32();
    let limit = gucs::max_workers();
    let mut wake = 0;
    let reservation = shmem::change(|shared| {
        for slot in shared.slots.iter_mut() {
            if slot.database != 0
                && slot.pid == 0
                // either way: the clock may have been set
                && slot.reserved_at.abs_diff(now) > RESERVATION_MICROS.unsigned_abs()
            {
                slot.database = 0;
            }
        }
        if let Some(slot) =
            shared.slots.iter_mut().find(|s| s.database == database && s.owner == owner)
        {
            slot.look_again = true;
            wake = slot.latch;
            return Reservation::Busy;
        }
        if shared.slots.iter().filter(|s| s.database != 0).count() >= limit {
            return Reservation::Full;
        }
        let Some((index, slot)) =
            shared.slots.iter_mut().enumerate().find(|(_, s)| s.database == 0)
        else {
            return Reservation::Full;
        };
        *slot = shmem::Slot {
            database,
            owner,
            generation: slot.generation.wrapping_add(1),
            pid: 0,
            latch: 0,
            reserved_at: now,
            look_again: false,
            run_id: 0,
            rows: 0,
        };
        let generation = slot.generation;
        shared.note_served(database, owner);
        Reservation::Slot(index, generation)
    });
    latch::set(wake);
    reservation.unwrap_or(Reservation::Full)
}

fn has_worker(database: u32, owner: pg_sys::Oid) -> bool {
    shmem::read(|shared| {
        shared.slots.iter().any(|s| s.database == database && s.owner == owner.to_u32())
    })
    .unwrap_or(false)
}

fn starved(database: u32, now: i64) {
    let warn = shmem::change(|shared| {
        if let Some(entry) = shared.database(database) {
            entry.not_before = now + back_off_micros(1);
        }
        note_starvation(shared, database, now)
    });
    if warn == Some(true) {
        warn_of_starvation();
    }
}

/// Counts due work without a worker; answers whether it is time to warn.
pub fn note_starvation(shared: &mut Shared, database: u32, now: i64) -> bool {
    if let Some(entry) = shared.database(database) {
        entry.starved = entry.starved.saturating_add(1);
        entry.last_starved = now;
    }
    // One message for the whole server: all databases wait for the same slots.
    let warn = shared.last_warned.abs_diff(now) >= WARN_EVERY_MICROS.unsigned_abs();
    if warn {
        shared.last_warned = now;
    }
    warn
}

/// The one message about missing worker slots.
pub fn warn_of_starvation() {
    crate::error::report(
        pgrx::PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
        "anomaly_detection: due detectors wait for a worker slot",
    )
    .set_hint(
        "Raise anomaly_detection.max_workers or max_worker_processes. Detectors stay due; this \
         message is repeated once a minute at most.",
    )
    .report(pgrx::PgLogLevel::WARNING);
}
