//! The launcher: knows which database has work due when, and sends a dispatcher there.
//!
//! It has no database, so that it stands in nobody's way, and reads nothing but pg_database. It starts
//! after recovery, hence never on a standby and by itself at promotion.

use std::time::Duration;

use crate::{
    gucs,
    pg::{
        bgworker::{self, Started},
        database_list, latch, session, shmem,
        shmem::{NEVER, Outcome},
        signals,
    },
    worker::{back_off_micros, micros},
};

/// Dispatchers at the same time. Two, so that one that waits for a lock does not hold up all other
/// databases, while most of `max_worker_processes` is left to others.
const MAX_DISPATCHERS: usize = 2;

/// How often new databases are looked for.
const LIST_EVERY: Duration = Duration::from_secs(5);

/// Never returns: a launcher that exits with 0 would be gone until the server restarts.
pub fn run() -> ! {
    signals::install();
    bgworker::at_end(|| {
        shmem::change(|shared| {
            if shared.launcher_pid == bgworker::my_pid() {
                shared.launcher_pid = 0;
                shared.launcher_latch = 0;
            }
        });
    });
    bgworker::connect_to_server();
    shmem::change(|shared| {
        shared.launcher_pid = bgworker::my_pid();
        shared.launcher_latch = latch::mine();
        // A predecessor's dispatchers are not known any more; a second visitor does no harm.
        for entry in shared.databases.iter_mut().filter(|d| d.visiting) {
            entry.visiting = false;
            entry.next_due = 0;
        }
    });

    let mut visitors: Vec<(u32, Started)> = Vec::with_capacity(MAX_DISPATCHERS);
    let mut list_at = 0;
    let mut last_seen = 0;
    loop {
        latch::serve_interrupts();
        let now = session::now();
        forget_ended(&mut visitors, now);
        if now < last_seen {
            // The clock was set back: what is "due later" must be looked at again.
            list_at = 0;
            shmem::change(|shared| {
                for entry in shared.databases.iter_mut().filter(|d| d.oid != 0) {
                    entry.not_before = 0;
                    entry.clock_checked = false;
                    if has_extension(entry.outcome) {
                        entry.next_due = now;
                    }
                }
            });
        }
        last_seen = now;
        if gucs::enabled() {
            if now >= list_at {
                list_at = now.saturating_add(micros(LIST_EVERY));
                bgworker::report_activity(Some("looking for new databases"));
                take_over(&database_list::connectable(), now);
                bgworker::report_activity(None);
            }
            while visitors.len() < MAX_DISPATCHERS
                && let Some(database) = take_due(now)
            {
                match bgworker::start_dispatcher(database) {
                    Some(started) => visitors.push((database, started)),
                    None => {
                        starved(database, now);
                        break;
                    }
                }
            }
        }
        latch::wait(time_to_sleep(visitors.len() < MAX_DISPATCHERS, list_at));
    }
}

fn has_extension(outcome: Outcome) -> bool {
    !matches!(outcome, Outcome::Absent | Outcome::Unvisited)
}

/// Clears the mark of dispatchers that have ended; one that never reported has failed.
fn forget_ended(visitors: &mut Vec<(u32, Started)>, now: i64) {
    let mut at = 0;
    while let Some((database, started)) = visitors.get(at) {
        if !started.has_ended() {
            at += 1;
            continue;
        }
        let database = *database;
        shmem::change(|shared| {
            if let Some(entry) = shared.databases.iter_mut().find(|d| d.oid == database) {
                entry.visiting = false;
                if !entry.reported {
                    entry.outcome = Outcome::Failed;
                    entry.failures = entry.failures.saturating_add(1);
                    entry.not_before = now + back_off_micros(entry.failures);
                    entry.next_due = entry.next_due.min(entry.not_before);
                }
            }
        });
        visitors.swap_remove(at).1.forget();
    }
}

/// Makes the map agree with pg_database. A new database is due at once.
fn take_over(databases: &[pgrx::pg_sys::Oid], now: i64) {
    let left_out = shmem::change(|shared| {
        for entry in shared.databases.iter_mut().filter(|d| d.oid != 0) {
            if !databases.iter().any(|oid| oid.to_u32() == entry.oid) && !entry.visiting {
                entry.oid = 0;
            }
        }
        let mut left_out = 0;
        for oid in databases {
            match shared.database(oid.to_u32()) {
                Some(entry) => {
                    if entry.visits == 0 && !entry.visiting {
                        entry.next_due = entry.next_due.min(now);
                    }
                }
                None => left_out += 1,
            }
        }
        left_out
    });
    if let Some(left_out @ 1..) = left_out {
        pgrx::warning!(
            "anomaly_detection: {left_out} databases beyond the first {} are not looked after",
            shmem::MAX_DATABASES
        );
    }
}

/// The database that has been due for longest, marked as being visited.
fn take_due(now: i64) -> Option<u32> {
    shmem::change(|shared| {
        let entry = shared
            .databases
            .iter_mut()
            .filter(|d| d.oid != 0 && !d.visiting && d.next_due <= now && d.not_before <= now)
            .min_by_key(|d| d.next_due)?;
        entry.visiting = true;
        entry.reported = false;
        entry.visits += 1;
        // What is reported due from here on comes on top of what the visitor finds.
        entry.next_due = NEVER;
        Some(entry.oid)
    })
    .flatten()
}

/// No process could be started: the work stays due and is tried again in a second.
fn starved(database: u32, now: i64) {
    let warn = shmem::change(|shared| {
        if let Some(entry) = shared.database(database) {
            entry.visiting = false;
            entry.next_due = now;
            entry.not_before = now + back_off_micros(1);
        }
        super::dispatcher::note_starvation(shared, database, now)
    });
    if warn == Some(true) {
        super::dispatcher::warn_of_starvation();
    }
}

fn time_to_sleep(may_start: bool, list_at: i64) -> Duration {
    let naptime = gucs::launcher_naptime();
    if !gucs::enabled() {
        return naptime;
    }
    let now = session::now();
    let next = shmem::read(|shared| {
        shared
            .databases
            .iter()
            .filter(|d| d.oid != 0 && !d.visiting && may_start)
            .map(|d| d.next_due.max(d.not_before))
            .min()
            .unwrap_or(NEVER)
    })
    .unwrap_or(NEVER)
    .min(list_at);
    let micros = u64::try_from(next.saturating_sub(now)).unwrap_or(0);
    // At least a millisecond, the latch's unit.
    Duration::from_micros(micros).max(Duration::from_millis(1)).min(naptime)
}
