//! The processes of the managed path.
//!
//! ```text
//! postmaster ── launcher        one per server, registered at start-up, no database
//!                  │ starts, at most two at a time, when something is due
//!                  ▼
//!               dispatcher      one per visit to a database, superuser, some milliseconds
//!                  │ starts, at most anomaly_detection.max_workers in the server
//!                  ▼
//!               scan worker     one per (database, owner with due work), connected as the owner
//! ```
//!
//! *What makes each of them one.* The launcher is one because it is registered once. A database has
//! one dispatcher because the launcher marks its entry in shared memory and holds the handle. An
//! owner has one worker because its slot in shared memory is reserved under the lock. None of this
//! is needed for correctness: a run is claimed with SKIP LOCKED and holds advisory locks (pg/locks.rs),
//! so that two workers, or a worker beside `anomaly.scan()`, still exclude each other.
//!
//! *Who wakes whom.* A session that changes a due time calls [`notify_due`]; after its commit the
//! database's entry gets the time and the launcher's latch is set. A scan worker reports its next due
//! time when it ends. Every ten minutes each database with the extension is visited anyway, which
//! makes good a hint that got lost (a prepared transaction, a full map).
//!
//! *What is never done.* No process stays in a database that has nothing due, so that DROP DATABASE,
//! ALTER DATABASE … RENAME and CREATE DATABASE … TEMPLATE work. No SIGKILL: it restarts the server.
//! The launcher never exits with 0, which would unregister it.

pub mod dispatcher;
pub mod launcher;
pub mod scan_worker;

use std::{cell::Cell, time::Duration};

use crate::pg::{bgworker, shmem, shmem::NEVER, xact};

/// How often a database with the extension is visited even if nothing is known to be due.
const REGULAR_VISIT: Duration = Duration::from_secs(600);

/// Registers the launcher and its shared memory. From `_PG_init`; does nothing without preload and
/// under pg_upgrade.
pub fn init() {
    if bgworker::may_register() {
        shmem::request();
        bgworker::register_launcher();
    }
}

/// Whether background workers exist, that is, whether the library is in shared_preload_libraries.
pub fn is_preloaded() -> bool {
    shmem::is_there()
}

thread_local! {
    /// The earliest due time that this transaction has set.
    static PENDING: Cell<i64> = const { Cell::new(NEVER) };
}

/// Tells the scheduler, once this transaction has committed, that something is due at `due_at` (µs)
/// in this database. Without preload there is nobody to tell.
pub fn notify_due(due_at: i64) {
    if !is_preloaded() {
        return;
    }
    xact::after_each_transaction(publish_pending, forget_pending);
    PENDING.set(PENDING.get().min(due_at));
}

fn forget_pending() {
    PENDING.set(NEVER);
}

fn publish_pending() {
    let due_at = PENDING.replace(NEVER);
    if due_at == NEVER {
        return;
    }
    let database = bgworker::my_database().to_u32();
    shmem::change(|shared| {
        if let Some(entry) = shared.database(database) {
            entry.next_due = entry.next_due.min(due_at);
            entry.not_before = 0;
        }
    });
    shmem::wake_launcher();
}

thread_local! {
    /// This scan worker's slot: index and generation.
    static MY_SLOT: Cell<Option<(usize, u32)>> = const { Cell::new(None) };
}

/// Shows in `anomaly.progress` how many rows the current run has read. Free outside a scan worker.
pub fn progress_report(rows: i64) {
    if let Some((index, generation)) = MY_SLOT.get() {
        shmem::change(|shared| {
            if let Some(slot) = shared.slot(index, generation) {
                slot.rows = rows;
            }
        });
    }
}

/// Whether this process is a scan worker.
pub fn is_scan_worker() -> bool {
    MY_SLOT.get().is_some()
}

/// µs of a duration, for adding to a timestamp.
fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX / 4)
}

/// Seconds to stay away after `failures` failures in a row: 1, 2, 4 … 256.
fn back_off_micros(failures: u32) -> i64 {
    1_000_000i64 << failures.saturating_sub(1).min(8)
}
