//! The scan worker: runs one owner's due work, connected as that owner.
//!
//! One run is three transactions (run.rs). Between two runs the session is put back to its initial
//! state, so that what one detector's query left behind (settings, temporary tables, prepared
//! statements) never reaches another. When nothing is due, it waits `anomaly_detection.linger_ms` for
//! what comes soon and then ends. After each run, handlers are told what it has committed; between two looks
//! for what is due, one job is done.

use std::{
    cell::RefCell,
    collections::VecDeque,
    time::{Duration, Instant},
};

use pgrx::pg_sys;

use crate::{
    gucs,
    handler::deliver,
    job::{self, Job},
    pg::{
        bgworker, guc_prefix, latch, locks, session, shmem, signals, subxact::Caught, timer, xact,
    },
    run::{self, Claim, Item, StartedBy},
    worker::{MY_SLOT, back_off_micros, micros},
};

thread_local! {
    /// The run that is being executed, for the exit callback.
    static IN_FLIGHT: RefCell<Option<Claim>> = const { RefCell::new(None) };
    /// The job that is at work, for the same.
    static JOB_IN_FLIGHT: RefCell<Option<Job>> = const { RefCell::new(None) };
}

/// Due items taken over in one look at the tables.
const BATCH: i64 = 100;

/// Entry point, with the slot that a dispatcher reserved.
pub fn run(index: usize, generation: u32) {
    signals::install();
    let place = shmem::change(|shared| {
        shared.slot(index, generation).filter(|s| s.pid == 0).map(|slot| {
            slot.pid = bgworker::my_pid();
            slot.latch = latch::mine();
            (slot.database, slot.owner)
        })
    })
    .flatten();
    let Some((database, owner)) = place else {
        // Started so late that the reservation is somebody else's: nothing to do.
        return;
    };
    MY_SLOT.set(Some((index, generation)));
    bgworker::at_end(leave_after_failure);
    bgworker::connect(database, Some(owner));
    bgworker::before_exit(record_interruption);
    work(pg_sys::Oid::from(owner));
}

fn work(owner: pg_sys::Oid) {
    // Before anything else: what the role's own settings are is nothing to go by.
    prepare_session("anomaly_detection scan worker");
    let mut queue: VecDeque<Item> = VecDeque::new();
    let began = Instant::now();
    let mut clock = None;
    loop {
        latch::serve_interrupts();
        if must_yield(began) {
            // What this owner has due waits for its turn, the longest waiting owner being first.
            queue.clear();
            if leave(session::now()) {
                return;
            }
            continue;
        }
        let Some(item) = queue.pop_front() else {
            deliver_or_exit(owner);
            if has_lost_time(&mut clock)
                && let Err(caught) = xact::run(|| run::catch_up(owner, session::now()))
            {
                // Then what was missed begins at once.
                pgrx::log!("anomaly_detection: missed runs were not spread: {}", caught.message);
            }
            // One between two looks: jobs take long, and neither they nor scans keep the others waiting for
            // ever.
            let has_worked = work_on_job_or_exit(owner);
            match look(owner) {
                Ok(Look::Due(items)) => queue.extend(items),
                // There may be another.
                Ok(Look::Nothing { .. }) if has_worked => {}
                Ok(Look::Nothing { next_due }) => {
                    let wait = next_due.saturating_sub(session::now()).max(0);
                    if wait <= micros(gucs::linger()) {
                        bgworker::report_activity(None);
                        // What is due and yet not taken, another session has locked.
                        let least = if wait == 0 { PAUSE } else { MILLISECOND };
                        latch::wait(Duration::from_micros(wait as u64).max(least));
                    } else if leave(next_due) {
                        return;
                    }
                }
                Ok(Look::MayNotRun) => {
                    // The dispatcher's next visit finds out what is the matter.
                    if leave(session::now()) {
                        return;
                    }
                }
                Err(caught) => {
                    pgrx::log!(
                        "anomaly_detection: looking for due work failed: {} ({})",
                        caught.message,
                        caught.sqlstate
                    );
                    bgworker::exit(1);
                }
            }
            continue;
        };
        if let Err(caught) = execute(owner, &item) {
            // The failure itself could not be recorded. The run's row still says 'running', and
            // when this process is gone it will be found to have crashed.
            pgrx::log!(
                "anomaly_detection: the outcome of {item} could not be recorded: {} ({})",
                caught.message,
                caught.sqlstate
            );
            bgworker::exit(1);
        }
        deliver_or_exit(owner);
    }
}

/// What the clock may be ahead of the time that has passed.
const JUMP_MICROS: i64 = 60_000_000;

/// Whether there may be time during which nothing ran: before this process began, or because the
/// machine slept or its clock was set.
fn has_lost_time(clock: &mut Option<(Instant, i64)>) -> bool {
    let now = (Instant::now(), session::now());
    match clock.replace(now) {
        Some((then, shown)) => now.1 - shown - micros(now.0 - then) > JUMP_MICROS,
        None => true,
    }
}

fn deliver_or_exit(owner: pg_sys::Oid) {
    if let Err(caught) = deliver(owner) {
        pgrx::log!(
            "anomaly_detection: telling handlers failed: {} ({})",
            caught.message,
            caught.sqlstate
        );
        bgworker::exit(1);
    }
}

/// Whether there was a job.
fn work_on_job_or_exit(owner: pg_sys::Oid) -> bool {
    match work_on_job(owner) {
        Ok(has_worked) => has_worked,
        Err(caught) => {
            // The job's row still says 'running', and when this process is gone it will be found to have
            // crashed.
            pgrx::log!(
                "anomaly_detection: the outcome of a job could not be recorded: {} ({})",
                caught.message,
                caught.sqlstate
            );
            bgworker::exit(1);
        }
    }
}

/// Claims, does and records the owner's next job.
fn work_on_job(owner: pg_sys::Oid) -> Result<bool, Caught> {
    let claimed = xact::run(|| {
        let now = session::now();
        if may_run(owner)? { job::claim(owner, None, now) } else { Ok(None) }
    })?;
    let Some(job) = claimed else { return Ok(false) };
    JOB_IN_FLIGHT.replace(Some(job.clone()));
    // A job is shown beside the runs, as a number that no run has.
    show_run(-job.job_id);
    let title = format!("{} (job {})", job.kind, job.job_id);
    guc_prefix::set_option(c"application_name", &format!("anomaly_detection: job {}", job.job_id));
    bgworker::report_activity(Some(&title));

    let timer = timer::arm(gucs::job_time_limit());
    let outcome = xact::run(|| job::perform(&job));
    let timed_out = timer.disarm();
    xact::forget_cancel();

    let mut recorded = Ok(());
    if let Err(caught) = outcome {
        pgrx::log!("anomaly_detection: {title} failed: {} ({})", caught.message, caught.sqlstate);
        prepare_session("anomaly_detection scan worker");
        let record = || xact::run(|| job::record_failure(&job, &caught, timed_out, session::now()));
        recorded = record().map(drop);
        if recorded.as_ref().is_err_and(|caught| caught.sqlstate == "57014") {
            // Somebody has cancelled it twice.
            xact::forget_cancel();
            recorded = record().map(drop);
        }
    }
    JOB_IN_FLIGHT.replace(None);
    job::release(&job);
    show_run(0);
    reset_session();
    recorded.map(|()| true)
}

/// Messages to handlers between two looks at what else there is to do.
const DELIVERIES: usize = 100;

/// Tells the owner's handlers what they have yet to be told: what a run has just committed, and what is
/// tried again.
fn deliver(owner: pg_sys::Oid) -> Result<(), Caught> {
    for _ in 0..DELIVERIES {
        latch::serve_interrupts();
        let claimed = xact::run(|| {
            if may_run(owner)? { deliver::claim(owner, session::now()) } else { Ok(None) }
        })?;
        let Some(delivery) = claimed else { break };
        bgworker::report_activity(Some(&format!("telling handler {}", delivery.handler)));
        let timer = timer::arm(Some(gucs::handler_timeout()));
        let outcome = xact::run(|| deliver::perform(&delivery));
        let timed_out = timer.disarm();
        xact::forget_cancel();
        if outcome.is_err() {
            prepare_session("anomaly_detection scan worker");
        }
        if let Err(caught) = outcome {
            pgrx::log!(
                "anomaly_detection: handler \"{}\" failed: {}",
                delivery.handler,
                deliver::why(&caught, timed_out)
            );
            xact::run(|| deliver::record_error(&delivery, &caught, timed_out))?;
        }
        reset_session();
    }
    Ok(())
}

/// How long a worker keeps its slot although others wait for one.
const TURN: Duration = Duration::from_secs(1);
/// For how long a database without a slot counts as waiting.
const WAITING: Duration = Duration::from_secs(3);

/// Whether the slot belongs to somebody else: the limit was lowered, or due work found no slot while
/// this worker has had its turn. Without it, a worker whose detectors are due every second would
/// never end.
fn must_yield(began: Instant) -> bool {
    let turn = began.elapsed();
    // Those that waited before this worker began may have been waiting for it. How long ago they did
    // goes by a clock that may have been set.
    let waiting = micros(turn.min(WAITING)).unsigned_abs();
    let now = session::now();
    shmem::read(|shared| {
        let taken = shared.slots.iter().filter(|s| s.database != 0).count();
        let others_wait = || {
            shared.databases.iter().any(|d| d.oid != 0 && d.last_starved.abs_diff(now) < waiting)
        };
        taken > gucs::max_workers() || (turn > TURN && others_wait())
    })
    .unwrap_or(false)
}

const MILLISECOND: Duration = Duration::from_millis(1);
const PAUSE: Duration = Duration::from_millis(100);

enum Look {
    Due(Vec<Item>),
    Nothing { next_due: i64 },
    MayNotRun,
}

fn look(owner: pg_sys::Oid) -> Result<Look, Caught> {
    bgworker::report_activity(Some("looking for due detectors"));
    prepare_session("anomaly_detection scan worker");
    xact::run(|| {
        if !may_run(owner)? {
            return Ok(Look::MayNotRun);
        }
        let now = session::now();
        let items = run::due_items(owner, now, BATCH)?;
        Ok(if items.is_empty() {
            Look::Nothing { next_due: run::next_due_of(owner)?.unwrap_or(shmem::NEVER) }
        } else {
            Look::Due(items)
        })
    })
}

fn may_run(owner: pg_sys::Oid) -> crate::error::SqlResult<bool> {
    Ok(locks::extension(locks::Wait::No).is_some()
        && run::is_known_version()?
        && gucs::enabled()
        && run::paused()?.is_none()
        // A session outlives its role, and a right to connect that is taken away.
        && run::owner_problem(owner)?.is_none())
}

/// Claims, executes and records one item.
fn execute(owner: pg_sys::Oid, item: &Item) -> Result<(), Caught> {
    let claimed = xact::run(|| {
        if may_run(owner)? {
            run::claim(item, owner, StartedBy::Worker, session::now())
        } else {
            Ok(None)
        }
    });
    let claim = match claimed {
        Ok(Some(claim)) => claim,
        Ok(None) => return Ok(()),
        Err(caught) => {
            pgrx::log!(
                "anomaly_detection: {item} could not be claimed: {} ({})",
                caught.message,
                caught.sqlstate
            );
            // Gives back what locks it has.
            reset_session();
            if caught.sqlstate == "57014" {
                return Ok(());
            }
            return xact::run(|| run::put_off(item, &caught, session::now()));
        }
    };
    IN_FLIGHT.replace(Some(claim.clone()));
    show_run(claim.run_id);
    let title = format!("{} {} (run {})", claim.kind.as_str(), claim.name, claim.run_id);
    guc_prefix::set_option(c"application_name", &format!("anomaly_detection: {}", claim.name));
    bgworker::report_activity(Some(&title));

    let timer = timer::arm(gucs::max_scan_duration());
    let outcome = xact::run(|| run::perform(&claim));
    let timed_out = timer.disarm();
    xact::forget_cancel();

    let recorded = match outcome {
        Ok(raised) => {
            IN_FLIGHT.replace(None);
            if raised > 0
                && let Err(caught) = xact::run(|| run::announce(&claim, raised))
            {
                // The alerts are in the table; only the wake-up call is lost.
                pgrx::log!("anomaly_detection: NOTIFY failed: {}", caught.message);
            }
            Ok(())
        }
        Err(caught) => {
            pgrx::log!(
                "anomaly_detection: {title} failed: {} ({})",
                caught.message,
                caught.sqlstate
            );
            prepare_session("anomaly_detection scan worker");
            let recorded =
                xact::run(|| run::record_failure(&claim, &caught, timed_out, session::now()));
            IN_FLIGHT.replace(None);
            recorded
        }
    };
    run::release(&claim);
    show_run(0);
    reset_session();
    recorded
}

fn show_run(run_id: i64) {
    if let Some((index, generation)) = MY_SLOT.get() {
        shmem::change(|shared| {
            if let Some(slot) = shared.slot(index, generation) {
                slot.run_id = run_id;
                slot.rows = 0;
            }
        });
    }
}

/// The settings of this worker. Commits wait for no standby: an unsatisfiable one must not wedge the
/// scheduler, and after a failover states, watermark and alerts are missing together, so that the
/// window is simply scanned again.
fn prepare_session(application_name: &str) {
    guc_prefix::set_option(c"application_name", application_name);
    guc_prefix::set_option(c"synchronous_commit", "local");
    guc_prefix::set_option(c"default_transaction_isolation", "read committed");
    // A role that only reads by default would never have a run written down.
    guc_prefix::set_option(c"default_transaction_read_only", "off");
    guc_prefix::set_option(
        c"lock_timeout",
        &format!("{}ms", gucs::scan_lock_timeout().as_millis()),
    );
}

/// What DISCARD ALL does, which itself cannot run in a transaction.
const RESET: [&str; 9] = [
    "CLOSE ALL",
    "SET SESSION AUTHORIZATION DEFAULT",
    "RESET ALL",
    "DEALLOCATE ALL",
    "UNLISTEN *",
    "SELECT pg_catalog.pg_advisory_unlock_all()",
    "DISCARD PLANS",
    "DISCARD TEMP",
    "DISCARD SEQUENCES",
];

fn reset_session() {
    let reset = xact::run(|| {
        for statement in RESET {
            crate::sql::execute(statement, &[])?;
        }
        Ok(())
    });
    if let Err(caught) = reset {
        pgrx::log!("anomaly_detection: session could not be reset: {}", caught.message);
        bgworker::exit(1);
    }
    prepare_session("anomaly_detection scan worker");
}

/// Gives the slot back unless a dispatcher has meanwhile seen more work. True when given back.
fn leave(next_due: i64) -> bool {
    let Some((index, generation)) = MY_SLOT.get() else { return true };
    let now = session::now();
    let left = shmem::change(|shared| {
        let Some(slot) = shared.slot(index, generation) else { return true };
        if std::mem::take(&mut slot.look_again) {
            return false;
        }
        let database = slot.database;
        slot.database = 0;
        for entry in shared.databases.iter_mut().filter(|d| d.oid != 0) {
            if entry.oid == database {
                entry.next_due = entry.next_due.min(next_due);
            }
            // Whoever waited for a slot need not wait any longer.
            if entry.last_starved != 0 && entry.failures == 0 && entry.not_before > now {
                entry.not_before = now;
            }
        }
        true
    })
    .unwrap_or(true);
    if left {
        MY_SLOT.set(None);
        shmem::wake_launcher();
    }
    left
}

/// Exit callback: the process ends although it had not left. Its database is due again after a
/// pause that grows with each such end.
fn leave_after_failure() {
    let Some((index, generation)) = MY_SLOT.take() else { return };
    let now = session::now();
    shmem::change(|shared| {
        let Some(slot) = shared.slot(index, generation) else { return };
        let database = slot.database;
        slot.database = 0;
        if let Some(entry) = shared.database(database) {
            entry.failures = entry.failures.saturating_add(1);
            entry.next_due = now;
            entry.not_before = entry.not_before.max(now + back_off_micros(entry.failures));
        }
    });
    shmem::wake_launcher();
}

/// Exit callback: a run was under way when the process was told to end (shutdown, DROP DATABASE …
/// FORCE, pg_terminate_backend). PostgreSQL cleans up temporary tables at this point in the same way.
fn record_interruption() {
    let (claim, job) = (IN_FLIGHT.take(), JOB_IN_FLIGHT.take());
    if claim.is_none() && job.is_none() {
        return;
    }
    xact::abandon();
    guc_prefix::set_option(c"synchronous_commit", "local");
    if let Some(job) = job
        && let Err(caught) = xact::run(|| job::put_back(&job))
    {
        pgrx::log!("anomaly_detection: a job was not put back: {}", caught.message);
    }
    if let Some(claim) = claim
        && let Err(caught) = xact::run(|| run::record_shutdown(&claim, session::now()))
    {
        pgrx::log!("anomaly_detection: shutdown of a run was not recorded: {}", caught.message);
    }
}
