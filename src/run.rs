//! Runs: one execution of a detector's scan or training, or of a monitor's collection.
//!
//! A scheduled run is three transactions:
//!
//! 1. [`claim`] takes the item (SKIP LOCKED and an advisory lock), stores a row 'running', moves the
//!    due time on, and commits. From here on a crash leaves a trace.
//! 2. [`perform`] does the work and sets 'succeeded' in the same commit as states, alerts and the
//!    watermark. Only a row that still says 'running' can succeed: if somebody has declared the run
//!    dead meanwhile, all of it is rolled back.
//! 3. On an error, [`record_failure`] stores it in a transaction of its own and backs off.
//!
//! The scan worker does this with real transactions; `CALL anomaly.run_due()` (sql/runs.sql) does the
//! same through [`claim_next_due`], [`perform_claimed`] and [`settle_claimed`], with COMMIT between
//! them; `anomaly.scan()` is one transaction of the caller's ([`begin`], [`succeed`]).
//!
//! All functions take the time as an argument, so that tests need not wait.

use std::{
    cell::RefCell,
    fmt,
    time::{Duration, Instant},
};

use anomaly_core::schedule::{self, CronSchedule};
use pgrx::{datum::TimestampWithTimeZone, pg_sys, prelude::*};

use crate::{
    detector::{
        alerts, failures, incidents,
        scan::{self, ScanSummary},
        written_rows,
    },
    error::{SqlResult, from_core, invalid, report, required},
    gucs, handler, job,
    pg::{
        bgworker, internal_rights, locks, session, snapshot,
        subxact::{self, Caught},
        xact,
    },
    sql, worker,
};

/// SQL versions that this library can schedule. Another one is left alone until ALTER EXTENSION …
/// UPDATE.
const KNOWN_VERSIONS: [&str; 1] = [env!("CARGO_PKG_VERSION")];

/// Slots of the ring of anomaly.run, one a day.
const SLOTS: i64 = 16;
const DAY_MICROS: i64 = 86_400_000_000;
/// A slot is emptied the day before it is used again.
const KEEP_DAYS: i64 = SLOTS - 2;

/// What is run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Scan,
    Collect,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Scan => "scan",
            Kind::Collect => "collect",
        }
    }

    fn lock_prefix(self) -> char {
        match self {
            Kind::Scan => 'd',
            Kind::Collect => 'm',
        }
    }
}

/// Who runs it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartedBy {
    Worker,
    RunDue,
}

impl StartedBy {
    fn as_str(self) -> &'static str {
        match self {
            StartedBy::Worker => "worker",
            StartedBy::RunDue => "run_due",
        }
    }
}

/// A detector or monitor that may be due.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Item {
    pub kind: Kind,
    pub name: String,
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.kind {
            Kind::Scan => write!(f, "detector \"{}\"", self.name),
            Kind::Collect => write!(f, "monitor \"{}\"", self.name),
        }
    }
}

impl Item {
    fn lock(&self) -> locks::Key {
        locks::item_key(self.kind.lock_prefix(), &self.name)
    }
}

/// A run that this session has claimed.
#[derive(Clone, Debug)]
pub struct Claim {
    pub run_id: i64,
    pub kind: Kind,
    pub name: String,
    slot: i16,
    schedule: Schedule,
    /// What the due time was set to at the claim. If it is something else by the end of the run,
    /// somebody asked for another run meanwhile, and that stands.
    next_due: Option<i64>,
}

impl Claim {
    fn item(&self) -> Item {
        Item { kind: self.kind, name: self.name.clone() }
    }
}

/// When an item is due.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Schedule {
    /// After its monitor has collected, or when somebody asks.
    OnDemand,
    Every(i64),
    Cron {
        expression: String,
        time_zone: String,
    },
}

impl Schedule {
    fn new(every: Option<i64>, cron: Option<String>, time_zone: Option<String>) -> Self {
        match (every, cron) {
            (Some(every), _) if every > 0 => Schedule::Every(every),
            (_, Some(expression)) => Schedule::Cron {
                expression,
                time_zone: time_zone.unwrap_or_else(|| "UTC".to_owned()),
            },
            _ => Schedule::OnDemand,
        }
    }

    /// The first slot after `now`, in step with `due`.
    fn next(&self, due: i64, now: i64) -> SqlResult<Option<i64>> {
        match self {
            Schedule::OnDemand => Ok(None),
            Schedule::Every(every) => Ok(Some(schedule::next_due(*every, due, now))),
            Schedule::Cron { expression, time_zone } => {
                schedule::next_fire(expression, time_zone, now).map(Some).map_err(from_core)
            }
        }
    }

    /// How many slots after `due`, up to and including `now`, have passed.
    fn passed_over(&self, due: i64, now: i64) -> i64 {
        match self {
            Schedule::OnDemand => 0,
            Schedule::Every(every) => schedule::passed_over(*every, due, now),
            Schedule::Cron { expression, time_zone } => CronSchedule::new(expression, time_zone)
                .map_or(0, |cron| cron.fires_until(due, now, MOST_PASSED) as i64),
        }
    }

    /// The time between two slots, as a measure for backing off.
    fn interval(&self, now: i64) -> SqlResult<Option<i64>> {
        match self {
            Schedule::OnDemand => Ok(None),
            Schedule::Every(every) => Ok(Some(*every)),
            Schedule::Cron { .. } => {
                let Some(first) = self.next(now, now)? else { return Ok(None) };
                Ok(self.next(first, first)?.map(|second| second - first))
            }
        }
    }
}

/// Slots of a cron expression are counted up to here: it is a figure for people.
const MOST_PASSED: usize = 1_000;

/// The slot of a time in the ring of anomaly.run.
fn slot_of(at: i64) -> i16 {
    at.div_euclid(DAY_MICROS).rem_euclid(SLOTS) as i16
}

pub fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX / 4)
}

/// Whether the extension is installed in this database.
pub fn is_installed() -> SqlResult<bool> {
    Ok(version()?.is_some())
}

/// Whether the installed SQL objects are of a version that this library can schedule.
pub fn is_known_version() -> SqlResult<bool> {
    Ok(version()?.is_some_and(|v| KNOWN_VERSIONS.contains(&v.as_str())))
}

fn version() -> SqlResult<Option<String>> {
    sql::row(
        "SELECT extversion FROM pg_catalog.pg_extension \
         WHERE extname OPERATOR(pg_catalog.=) 'anomaly_detection'",
        &[],
        |row| row.must(1),
    )
}

/// Why nothing runs in this database by itself, or `None`.
///
/// The settings row names the database that may run detectors. It is not dumped, and a copied
/// database has another OID, so that a restore or a copy never scans or alerts by surprise.
pub fn paused() -> SqlResult<Option<String>> {
    let here = bgworker::my_database();
    let state = internal_rights::with(|| {
        sql::row(
            "SELECT (SELECT database_oid FROM anomaly.setting), \
                    EXISTS (SELECT FROM anomaly.detector) OR EXISTS (SELECT FROM anomaly.monitor)",
            &[],
            |row| Ok((row.get::<pg_sys::Oid>(1)?, row.must::<bool>(2)?)),
        )
    })?;
    Ok(match state {
        Some((Some(oid), _)) if oid == here => None,
        Some((None, false)) | None => None,
        Some((Some(pg_sys::InvalidOid), _)) => Some("paused by anomaly.pause()".to_owned()),
        Some(_) => Some("paused: this database was restored or copied".to_owned()),
    })
}

/// Lets a database run that has never had a detector or monitor: its first one needs no
/// `anomaly.resume()`. Call before storing it.
pub fn start_fresh_database(by: pg_sys::Oid) -> SqlResult<()> {
    internal_rights::with(|| {
        sql::execute(
            "INSERT INTO anomaly.setting (database_oid, resumed_by) SELECT $1, $2::oid \
              WHERE NOT EXISTS (SELECT FROM anomaly.detector) \
                AND NOT EXISTS (SELECT FROM anomaly.monitor) \
             ON CONFLICT DO NOTHING",
            &[bgworker::my_database().into(), by.into()],
        )
    })?;
    Ok(())
}

/// Due work of one owner.
pub struct OwnerDue {
    pub owner: pg_sys::Oid,
    pub next_due: i64,
    /// Why no session can run as this role.
    pub cannot_run: Option<String>,
}

const DUE: &str = "\
    SELECT owner::oid AS owner, 'collect' AS kind, monitor AS name, next_due \
      FROM anomaly.monitor WHERE enabled AND next_due IS NOT NULL \
    UNION ALL \
    SELECT d.owner::oid, 'scan', s.detector, s.next_due \
      FROM anomaly.detector_state s JOIN anomaly.detector d ON d.detector = s.detector \
     WHERE d.enabled AND s.status <> 'broken' AND s.next_due IS NOT NULL";

/// Also of what handlers have yet to be told and of jobs, which are no items: they are done between the runs.
fn due_or_deliverable() -> String {
    format!(
        "{DUE} UNION ALL SELECT o.owner::oid, 'deliver', o.handler, o.next_try \
           FROM anomaly.outbox o JOIN anomaly.handler h USING (handler) WHERE {} \
         UNION ALL SELECT j.owner::oid, 'job', j.kind, least(j.submitted_at, clock_timestamp()) \
           FROM anomaly.job j WHERE j.status = 'queued'",
        handler::deliver::DELIVERED_HERE
    )
}

/// When each owner is due, the longest waiting first.
pub fn due_by_owner(now: i64) -> SqlResult<Vec<OwnerDue>> {
    let owners = internal_rights::with(|| {
        sql::rows(
            &format!(
                "SELECT owner, min(next_due) FROM ({}) due GROUP BY owner ORDER BY 2, 1",
                due_or_deliverable()
            ),
            &[],
            |row| Ok((row.must(1)?, row.micros(2)?.unwrap_or(now))),
        )
    })?;
    owners
        .into_iter()
        .map(|(owner, next_due)| {
            let cannot_run = if next_due > now { None } else { owner_problem(owner)? };
            Ok(OwnerDue { owner, next_due, cannot_run })
        })
        .collect()
}

/// Why no background worker can run as this role; NULL when one can.
#[pg_extern(schema = "anomaly", stable, parallel_unsafe, strict)]
pub fn owner_problem(owner: pg_sys::Oid) -> SqlResult<Option<String>> {
    // A worker starts as a role without login from PostgreSQL 17 on (pg/bgworker.rs).
    let needs_login = cfg!(not(feature = "pg18"));
    internal_rights::with(|| {
        sql::row(
            "SELECT CASE WHEN r.oid IS NULL THEN 'the owner role no longer exists' \
                         WHEN $2 AND NOT r.rolcanlogin \
                              THEN format('owner role \"%s\" may not log in', r.rolname) \
                         WHEN NOT has_database_privilege(r.oid, $3, 'CONNECT') \
                              THEN format('owner role \"%s\" may not connect to this database', \
                                          r.rolname) END \
             FROM (SELECT $1::oid AS owner) o LEFT JOIN pg_roles r ON r.oid = o.owner",
            &[owner.into(), needs_login.into(), bgworker::my_database().into()],
            |row| row.get::<String>(1),
        )
    })
    .map(Option::flatten)
}

/// Marks everything of an owner as broken: nobody can run it.
pub fn break_owner(owner: pg_sys::Oid, reason: &str) -> SqlResult<()> {
    internal_rights::with(|| {
        sql::execute(
            "UPDATE anomaly.detector_state s SET status = 'broken', status_reason = $2, \
                status_hint = NULL, next_due = NULL \
             FROM anomaly.detector d \
             WHERE d.detector = s.detector AND d.owner::oid = $1 AND d.enabled",
            &[owner.into(), reason.into()],
        )?;
        sql::execute(
            "UPDATE anomaly.monitor SET next_due = NULL WHERE owner::oid = $1 AND enabled",
            &[owner.into()],
        )?;
        sql::execute(
            "UPDATE anomaly.outbox o SET dead = true, last_error = $2 FROM anomaly.handler h \
              WHERE h.handler = o.handler AND o.owner::oid = $1 AND NOT o.dead \
                AND h.kind IN ('function', 'notify')",
            &[owner.into(), reason.into()],
        )?;
        job::give_up(owner, reason)
    })?;
    failures::note_owner(owner, reason)
}

/// What an owner has due: collections first, because the scans of their detectors follow them.
pub fn due_items(owner: pg_sys::Oid, now: i64, limit: i64) -> SqlResult<Vec<Item>> {
    internal_rights::with(|| {
        sql::rows(
            &format!(
                "SELECT kind, name FROM ({DUE}) due WHERE owner = $1 AND next_due <= $2 \
                 ORDER BY kind, next_due, name LIMIT $3"
            ),
            &[owner.into(), sql::timestamptz(now)?.into(), limit.into()],
            |row| {
                let kind = match row.must::<String>(1)?.as_str() {
                    "collect" => Kind::Collect,
                    _ => Kind::Scan,
                };
                Ok(Item { kind, name: row.must(2)? })
            },
        )
    })
}

/// When an owner is due next.
pub fn next_due_of(owner: pg_sys::Oid) -> SqlResult<Option<i64>> {
    internal_rights::with(|| {
        sql::row(
            &format!("SELECT min(next_due) FROM ({}) due WHERE owner = $1", due_or_deliverable()),
            &[owner.into()],
            |row| row.micros(1),
        )
    })
    .map(Option::flatten)
}

/// The item's row as it is locked at the claim.
struct Due {
    next_due: i64,
    schedule: Schedule,
}

/// First transaction of a run. `None` when it is not due any more, or somebody else runs it.
pub fn claim(
    item: &Item,
    owner: pg_sys::Oid,
    started_by: StartedBy,
    now: i64,
) -> SqlResult<Option<Claim>> {
    internal_rights::with(|| {
        let Some(due) = lock_due(item, owner, now)? else { return Ok(None) };
        let next_due = due.schedule.next(due.next_due, now)?;
        let passed = due.schedule.passed_over(due.next_due, now);
        if !locks::try_lock(item.lock(), locks::Until::Released) {
            // A run is under way, which covers this slot.
            move_on(item, next_due, passed.saturating_add(1))?;
            return Ok(None);
        }
        let slot = slot_of(now);
        let claimed = (|| {
            if reap_item(item, now)? {
                return Ok(None);
            }
            let run_id = insert_run(item, owner, started_by.as_str(), slot, now)?;
            // Nobody else can have the lock of a number that was never used.
            locks::try_lock(locks::run_key(run_id), locks::Until::Released);
            move_on(item, next_due, passed)?;
            Ok(Some(Claim {
                run_id,
                kind: item.kind,
                name: item.name.clone(),
                slot,
                schedule: due.schedule,
                next_due,
            }))
        })();
        if !matches!(claimed, Ok(Some(_))) {
            locks::release(item.lock());
        }
        claimed
    })
}

fn lock_due(item: &Item, owner: pg_sys::Oid, now: i64) -> SqlResult<Option<Due>> {
    let query = match item.kind {
        Kind::Collect => {
            "SELECT next_due, (extract(epoch FROM every) * 1000000)::bigint, NULL::text, NULL::text \
               FROM anomaly.monitor \
              WHERE monitor = $1 AND owner::oid = $2 AND enabled AND next_due <= $3 \
                FOR UPDATE SKIP LOCKED"
        }
        Kind::Scan => {
            "SELECT s.next_due, (extract(epoch FROM d.every) * 1000000)::bigint, d.cron, d.time_zone \
               FROM anomaly.detector_state s JOIN anomaly.detector d ON d.detector = s.detector \
              WHERE s.detector = $1 AND d.owner::oid = $2 AND d.enabled AND s.status <> 'broken' \
                AND s.next_due <= $3 \
                FOR UPDATE OF s SKIP LOCKED"
        }
    };
    Ok(sql::execute_returning(
        query,
        &[item.name.as_str().into(), owner.into(), sql::timestamptz(now)?.into()],
        |row| {
            Ok(Due {
                next_due: row.micros(1)?.unwrap_or(now),
                schedule: Schedule::new(row.get(2)?, row.get(3)?, row.get(4)?),
            })
        },
    )?
    .into_iter()
    .next())
}

fn set_next_due(item: &Item, next_due: Option<i64>) -> SqlResult<()> {
    let statement = match item.kind {
        Kind::Collect => "UPDATE anomaly.monitor SET next_due = $2 WHERE monitor = $1",
        Kind::Scan => "UPDATE anomaly.detector_state SET next_due = $2 WHERE detector = $1",
    };
    let next_due = next_due.map(sql::timestamptz).transpose()?;
    sql::execute(statement, &[item.name.as_str().into(), next_due.into()])?;
    Ok(())
}

/// As [`set_next_due`], past `coalesced` due times that have no run of their own.
fn move_on(item: &Item, next_due: Option<i64>, coalesced: i64) -> SqlResult<()> {
    set_next_due(item, next_due)?;
    if coalesced > 0 {
        let statement = match item.kind {
            Kind::Collect => {
                "UPDATE anomaly.monitor SET coalesced = coalesced + $2 WHERE monitor = $1"
            }
            Kind::Scan => {
                "UPDATE anomaly.detector_state SET coalesced = coalesced + $2 WHERE detector = $1"
            }
        };
        sql::execute(statement, &[item.name.as_str().into(), coalesced.into()])?;
    }
    Ok(())
}

/// What to do about a due time that passed while nothing ran.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PostgresGucEnum)]
pub enum Misfire {
    /// One run makes up for all that were missed.
    #[name = c"once"]
    Once,
    /// The next one comes when it would have come anyway.
    #[name = c"skip"]
    Skip,
}

/// Decides about the owner's due times that passed long ago: the server was down, the machine asleep,
/// the database paused, or no worker free. Runs that make up for them are spread, so that what has
/// waited together does not begin together.
pub fn catch_up(owner: pg_sys::Oid, now: i64) -> SqlResult<()> {
    const LATE: [(Kind, &str); 2] = [
        (
            Kind::Collect,
            "SELECT monitor, next_due, (extract(epoch FROM every) * 1000000)::bigint, NULL::text, \
                NULL::text \
               FROM anomaly.monitor WHERE owner::oid = $1 AND enabled AND next_due < $2 \
              ORDER BY next_due, monitor FOR UPDATE SKIP LOCKED",
        ),
        (
            Kind::Scan,
            "SELECT s.detector, s.next_due, (extract(epoch FROM d.every) * 1000000)::bigint, d.cron, \
                d.time_zone \
               FROM anomaly.detector_state s JOIN anomaly.detector d ON d.detector = s.detector \
              WHERE d.owner::oid = $1 AND d.enabled AND s.status <> 'broken' AND s.next_due < $2 \
                AND (d.every IS NOT NULL OR d.cron IS NOT NULL) \
              ORDER BY s.next_due, s.detector FOR UPDATE OF s SKIP LOCKED",
        ),
    ];
    let late_before = sql::timestamptz(now.saturating_sub(micros(gucs::misfire_after())))?;
    let (policy, spread) = (gucs::misfire(), micros(gucs::catch_up_spread()));
    internal_rights::with(|| {
        let mut late: Vec<(Item, Due)> = Vec::new();
        for (kind, query) in LATE {
            late.extend(sql::execute_returning(
                query,
                &[owner.into(), late_before.into()],
                |row| {
                    let item = Item { kind, name: row.must(1)? };
                    let schedule = Schedule::new(row.get(3)?, row.get(4)?, row.get(5)?);
                    Ok((item, Due { next_due: row.micros(2)?.unwrap_or(now), schedule }))
                },
            )?);
        }
        let all = late.len() as u64;
        for (k, (item, due)) in late.iter().enumerate() {
            // A schedule without a next time is dealt with where it is claimed.
            let Ok(next) = due.schedule.next(due.next_due, now) else { continue };
            let passed = due.schedule.passed_over(due.next_due, now);
            match policy {
                Misfire::Skip => move_on(item, next, passed.saturating_add(1))?,
                Misfire::Once => {
                    let room = next.map_or(0, |next| next.saturating_sub(now)).min(spread);
                    let pause = schedule::catch_up(k as u64, all, room, jitter_seed(item, now));
                    move_on(item, Some(now.saturating_add(pause)), passed)?;
                }
            }
        }
        Ok(())
    })
}

/// Differs from item to item and from time to time.
fn jitter_seed(item: &Item, now: i64) -> u64 {
    item.name.bytes().fold(now as u64, |seed, b| seed.wrapping_mul(31).wrapping_add(b.into()))
}

fn insert_run(
    item: &Item,
    owner: pg_sys::Oid,
    started_by: &str,
    slot: i16,
    now: i64,
) -> SqlResult<i64> {
    let (detector, monitor) = match item.kind {
        Kind::Scan => (Some(item.name.as_str()), None),
        Kind::Collect => (None, Some(item.name.as_str())),
    };
    insert_run_row(detector, monitor, item.kind.as_str(), owner, started_by, slot, now)
}

fn insert_run_row(
    detector: Option<&str>,
    monitor: Option<&str>,
    kind: &str,
    owner: pg_sys::Oid,
    started_by: &str,
    slot: i16,
    now: i64,
) -> SqlResult<i64> {
    sql::execute_returning(
        "INSERT INTO anomaly.run (slot, detector, monitor, owner, kind, started_by, status, pid, \
            started_at) \
         VALUES ($1, $2, $3, $4::oid, $5, $6, 'running', $7, $8) RETURNING run_id",
        &[
            slot.into(),
            detector.into(),
            monitor.into(),
            owner.into(),
            kind.into(),
            started_by.into(),
            bgworker::my_pid().into(),
            sql::timestamptz(now)?.into(),
        ],
        |row| row.must(1),
    )?
    .into_iter()
    .next()
    .ok_or_else(|| report(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, "run was not stored"))
}

/// Second transaction: the work and its success. Answers how many alerts people are to hear of.
pub fn perform(claim: &Claim) -> SqlResult<i64> {
    if locks::extension(locks::Wait::Yes).is_none() {
        return Err(report(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "extension anomaly_detection was dropped",
        ));
    }
    let began = Instant::now();
    let summary = match claim.kind {
        Kind::Scan => scan::execute(&claim.name, Some(claim.run_id))?,
        Kind::Collect => collect(claim)?,
    };
    let now = session::now();
    succeed_in(claim.run_id, Some(claim.slot), &summary, now)?;
    let (next_due, coalesced) = match claim.next_due {
        // It took longer than its interval: the slots that passed are one.
        Some(due) if due <= now => {
            (claim.schedule.next(due, now)?, claim.schedule.passed_over(due, now).saturating_add(1))
        }
        other => (other, 0),
    };
    internal_rights::with(|| {
        let statement = match claim.kind {
            Kind::Scan => {
                "UPDATE anomaly.detector_state SET consecutive_failures = 0, last_scan_at = $2, \
                    coalesced = coalesced + CASE WHEN next_due IS NOT DISTINCT FROM $3 THEN $5 ELSE 0 END, \
                    next_due = CASE WHEN next_due IS NOT DISTINCT FROM $3 THEN $4 ELSE next_due END, \
                    scans = scans + 1, rows_read = rows_read + $6, \
                    alerts_opened = alerts_opened + $7, scan_ms = scan_ms + $8, \
                    max_scan_ms = greatest(max_scan_ms, $8) \
                 WHERE detector = $1"
            }
            Kind::Collect => {
                "UPDATE anomaly.monitor SET consecutive_failures = 0, \
                    coalesced = coalesced + CASE WHEN next_due IS NOT DISTINCT FROM $3 THEN $5 ELSE 0 END, \
                    next_due = CASE WHEN next_due IS NOT DISTINCT FROM $3 THEN $4 ELSE next_due END \
                 WHERE monitor = $1"
            }
        };
        sql::execute(
            statement,
            &[
                claim.name.as_str().into(),
                sql::timestamptz(now)?.into(),
                claim.next_due.map(sql::timestamptz).transpose()?.into(),
                next_due.map(sql::timestamptz).transpose()?.into(),
                coalesced.into(),
                summary.rows_read.into(),
                summary.alerts_opened.into(),
                (began.elapsed().as_secs_f64() * 1e3).into(),
            ],
        )
    })?;
    if claim.kind == Kind::Scan {
        failures::recovered(&claim.name)?;
    }
    Ok(summary.alerts_announced)
}

fn collect(claim: &Claim) -> SqlResult<ScanSummary> {
    let collected = crate::monitor::collect(&claim.name, claim.run_id)?;
    internal_rights::with(|| {
        sql::execute(
            "UPDATE anomaly.detector_state s SET next_due = clock_timestamp() \
             FROM anomaly.detector d \
             WHERE d.detector = s.detector AND d.monitor = $1 AND d.enabled \
               AND s.status <> 'broken' AND d.every IS NULL AND d.cron IS NULL",
            &[claim.name.as_str().into()],
        )
    })?;
    Ok(ScanSummary { rows_read: collected.values.len() as i64, ..ScanSummary::default() })
}

/// Starts a run inside the caller's own transaction, under the detector's lock until its end.
///
/// # Errors
/// 55006 when another session runs the detector, naming it.
pub fn begin(detector: &str, kind: &str, started_by: &str) -> SqlResult<i64> {
    check_writable(kind)?;
    let now = session::now();
    let owner = session::current_user();
    let key = locks::item_key(Kind::Scan.lock_prefix(), detector);
    if !locks::try_lock(key, locks::Until::TransactionEnd) {
        let by = match running(detector)? {
            Some((pid, since)) => format!("pid {pid}, since {since}"),
            None => "in this session".to_owned(),
        };
        return Err(report(
            PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
            format!("detector \"{detector}\" is already running ({by})"),
        )
        .set_hint("wait for it to end; anomaly.progress shows how far it is"));
    }
    internal_rights::with(|| {
        let run_id =
            insert_run_row(Some(detector), None, kind, owner, started_by, slot_of(now), now)?;
        locks::try_lock(locks::run_key(run_id), locks::Until::TransactionEnd);
        Ok(run_id)
    })
}

/// Marks a run of the caller's own transaction as succeeded.
pub fn succeed(run_id: i64, summary: &ScanSummary) -> SqlResult<()> {
    let now = session::now();
    succeed_in(run_id, None, summary, now)?;
    internal_rights::with(|| {
        sql::execute(
            "UPDATE anomaly.detector_state s SET last_scan_at = $2, consecutive_failures = 0, \
                scans = s.scans + 1, rows_read = s.rows_read + $3, \
                alerts_opened = s.alerts_opened + $4, \
                scan_ms = s.scan_ms + extract(epoch FROM $2 - r.started_at)::float8 * 1000, \
                max_scan_ms = \
                    greatest(s.max_scan_ms, extract(epoch FROM $2 - r.started_at)::float8 * 1000) \
             FROM anomaly.run r WHERE r.run_id = $1 AND r.kind = 'scan' AND s.detector = r.detector",
            &[
                run_id.into(),
                sql::timestamptz(now)?.into(),
                summary.rows_read.into(),
                summary.alerts_opened.into(),
            ],
        )
    })?;
    let scanned = internal_rights::with(|| {
        sql::row(
            "SELECT detector FROM anomaly.run WHERE run_id = $1 AND kind = 'scan'",
            &[run_id.into()],
            |row| row.must::<String>(1),
        )
    })?;
    scanned.map_or(Ok(()), |detector| failures::recovered(&detector))
}

fn succeed_in(run_id: i64, slot: Option<i16>, done: &ScanSummary, now: i64) -> SqlResult<()> {
    let updated = internal_rights::with(|| {
        sql::execute(
            "UPDATE anomaly.run SET status = 'succeeded', finished_at = $3, window_from = $4, \
                window_until = $5, rows_read = $6, points_scored = $7, alerts_opened = $8, \
                alerts_resolved = $9, entities = $10, entities_skipped = $11, \
                entities_replayed = $12, alerts_amended = $13, alerts_withdrawn = $14, \
                alerts_suppressed = $15 \
             WHERE run_id = $1 AND slot = COALESCE($2, slot) AND status = 'running'",
            &[
                run_id.into(),
                slot.into(),
                sql::timestamptz(now)?.into(),
                done.window_from.map(sql::timestamptz).transpose()?.into(),
                done.window_until.map(sql::timestamptz).transpose()?.into(),
                done.rows_read.into(),
                done.points_scored.into(),
                done.alerts_opened.into(),
                done.alerts_resolved.into(),
                done.entities.into(),
                done.entities_skipped.into(),
                done.entities_replayed.into(),
                done.alerts_amended.into(),
                done.alerts_withdrawn.into(),
                done.alerts_suppressed.into(),
            ],
        )
    })?;
    if updated == 1 {
        return Ok(());
    }
    Err(report(
        PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        format!("run {run_id} was declared dead while it was running"),
    )
    .set_hint("its work is rolled back and will be done again"))
}

/// Tells listeners on channel `anomaly_alert` how many alerts a run opened, without silenced ones. Ids and counts only: the
/// table is the truth.
pub fn notify(run_id: i64, count: i64) -> SqlResult<()> {
    if !gucs::notifications() {
        return Ok(());
    }
    sql::row(
        "SELECT pg_catalog.pg_notify('anomaly_alert', \
            pg_catalog.json_build_object('run_id', $1, 'count', $2)::pg_catalog.text)",
        &[run_id.into(), count.into()],
        |_| Ok(()),
    )?;
    Ok(())
}

/// Tells listeners of alerts that no run opened.
pub fn notify_alerts(count: i64) -> SqlResult<()> {
    if !gucs::notifications() {
        return Ok(());
    }
    sql::row(
        "SELECT pg_catalog.pg_notify('anomaly_alert', \
            pg_catalog.json_build_object('run_id', NULL, 'count', $1)::pg_catalog.text)",
        &[count.into()],
        |_| Ok(()),
    )?;
    Ok(())
}

/// [`notify`] after a scheduled run, in a small transaction of its own: NOTIFY takes a lock on the
/// whole cluster at commit.
pub fn announce(claim: &Claim, count: i64) -> SqlResult<()> {
    notify(claim.run_id, count)
}

/// What a failure means for the run and its schedule.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Somebody cancelled it; not the detector's fault.
    Cancelled,
    /// It cannot work until somebody acts.
    Broken,
    Failed,
}

fn judge(sqlstate: &str, timed_out: bool) -> Verdict {
    match sqlstate {
        "57014" if !timed_out => Verdict::Cancelled,
        // undefined_table, undefined_column, datatype_mismatch, invalid_schema_name
        "42P01" | "42703" | "42804" | "3F000" => Verdict::Broken,
        // data_corrupted, feature_not_supported: a model that cannot be read
        "XX001" | "0A000" => Verdict::Broken,
        _ => Verdict::Failed,
    }
}

/// Third transaction of a run that ended with an error.
pub fn record_failure(claim: &Claim, caught: &Caught, timed_out: bool, now: i64) -> SqlResult<()> {
    if locks::extension(locks::Wait::Yes).is_none() {
        return Ok(());
    }
    let verdict = judge(&caught.sqlstate, timed_out);
    let (status, message) = match verdict {
        Verdict::Cancelled => ("cancelled", "cancelled by user".to_owned()),
        _ if timed_out => (
            "failed",
            format!(
                "took longer than anomaly_detection.max_scan_duration_ms ({} ms)",
                gucs::max_scan_duration().unwrap_or_default().as_millis()
            ),
        ),
        _ => (
            "failed",
            match &caught.detail {
                // which model it is about
                Some(detail) if verdict == Verdict::Broken => {
                    format!("{}: {detail}", caught.message)
                }
                _ => caught.message.clone(),
            },
        ),
    };
    end_run(claim, status, &caught.sqlstate, &message, now)?;
    match verdict {
        Verdict::Cancelled => return Ok(()),
        Verdict::Broken => {
            internal_rights::with(|| {
                count_failure(&claim.item(), now)?;
                break_item(&claim.item(), &message, caught.hint.as_deref())
            })?;
        }
        Verdict::Failed => back_off(claim, &message, now)?,
    }
    note_failure(&claim.item(), &message)
}

/// Whether that makes an alert.
fn note_failure(item: &Item, message: &str) -> SqlResult<()> {
    match item.kind {
        Kind::Scan => failures::note(&item.name, message),
        Kind::Collect => Ok(()),
    }
}

/// The run ended because its session was told to end. Due again at once: after a restart it
/// continues where it was.
pub fn record_shutdown(claim: &Claim, now: i64) -> SqlResult<()> {
    // No waiting here: the process is on its way out.
    if locks::extension(locks::Wait::No).is_none() {
        return Ok(());
    }
    end_run(claim, "cancelled", "57P01", "cancelled (shutdown)", now)?;
    internal_rights::with(|| set_next_due(&claim.item(), Some(now)))
}

fn end_run(claim: &Claim, status: &str, code: &str, message: &str, now: i64) -> SqlResult<()> {
    internal_rights::with(|| {
        sql::execute(
            "UPDATE anomaly.run SET status = $3, finished_at = $4, error_code = $5, \
                error_message = $6 \
             WHERE (run_id, slot) = (SELECT run_id, slot FROM anomaly.run \
                WHERE run_id = $1 AND slot = $2 AND status = 'running' FOR UPDATE SKIP LOCKED)",
            &[
                claim.run_id.into(),
                claim.slot.into(),
                status.into(),
                sql::timestamptz(now)?.into(),
                code.into(),
                message.into(),
            ],
        )
    })?;
    Ok(())
}

fn break_item(item: &Item, reason: &str, hint: Option<&str>) -> SqlResult<()> {
    match item.kind {
        Kind::Scan => sql::execute(
            "UPDATE anomaly.detector_state SET status = 'broken', status_reason = $2, \
                status_hint = $3, next_due = NULL \
             WHERE detector = $1",
            &[item.name.as_str().into(), reason.into(), hint.into()],
        )?,
        Kind::Collect => sql::execute(
            "UPDATE anomaly.monitor SET next_due = NULL WHERE monitor = $1",
            &[item.name.as_str().into()],
        )?,
    };
    Ok(())
}

fn back_off(claim: &Claim, message: &str, now: i64) -> SqlResult<()> {
    let item = claim.item();
    internal_rights::with(|| {
        let failures = count_failure(&item, now)?;
        if failures >= gucs::max_consecutive_failures() {
            return break_item(
                &item,
                &format!("gave up after {failures} failures in a row; the last: {message}"),
                None,
            );
        }
        let Some(interval) = claim.schedule.interval(now)? else { return Ok(()) };
        let pause = schedule::backoff(failures.unsigned_abs(), interval, claim.run_id as u64);
        let coalesced = claim
            .next_due
            .filter(|due| *due <= now)
            .map_or(0, |due| claim.schedule.passed_over(due, now).saturating_add(1));
        move_on(&item, Some(now.saturating_add(pause)), coalesced)
    })
}

/// An item that could not even be claimed: without a pause, it would be tried without end and before
/// all others of its owner.
pub fn put_off(item: &Item, caught: &Caught, now: i64) -> SqlResult<()> {
    if locks::extension(locks::Wait::No).is_none() {
        return Ok(());
    }
    internal_rights::with(|| {
        let failures = count_failure(item, now)?;
        if failures >= gucs::max_consecutive_failures() {
            let reason =
                format!("gave up after {failures} failures in a row; the last: {}", caught.message);
            return break_item(item, &reason, caught.hint.as_deref());
        }
        set_next_due(item, Some(now.saturating_add(crash_pause(item, failures, now)?)))
    })?;
    note_failure(item, &caught.message)
}

/// How long an item rests after its run has crashed.
fn crash_pause(item: &Item, failures: i32, now: i64) -> SqlResult<i64> {
    let query = match item.kind {
        Kind::Collect => {
            "SELECT (extract(epoch FROM every) * 1000000)::bigint, NULL::text, NULL::text \
               FROM anomaly.monitor WHERE monitor = $1"
        }
        Kind::Scan => {
            "SELECT (extract(epoch FROM every) * 1000000)::bigint, cron, time_zone \
               FROM anomaly.detector WHERE detector = $1"
        }
    };
    let schedule = sql::row(query, &[item.name.as_str().into()], |row| {
        Ok(Schedule::new(row.get(1)?, row.get(2)?, row.get(3)?))
    })?;
    // Also for one that has no next time, whose claim fails for that reason.
    let interval = schedule.and_then(|s| s.interval(now).ok().flatten()).unwrap_or(0);
    let wait = micros(gucs::crash_wait());
    Ok(schedule::crash_backoff(failures.unsigned_abs(), interval, jitter_seed(item, now), wait))
}

fn count_failure(item: &Item, now: i64) -> SqlResult<i32> {
    let statement = match item.kind {
        Kind::Scan => {
            "UPDATE anomaly.detector_state SET consecutive_failures = consecutive_failures + 1, \
                failures = failures + 1, \
                failing_since = CASE consecutive_failures WHEN 0 THEN $2 ELSE failing_since END \
             WHERE detector = $1 RETURNING consecutive_failures"
        }
        Kind::Collect => {
            "UPDATE anomaly.monitor SET consecutive_failures = consecutive_failures + 1 \
             WHERE monitor = $1 RETURNING consecutive_failures"
        }
    };
    let args = [item.name.as_str().into(), sql::timestamptz(now)?.into()];
    let failures = sql::execute_returning(statement, &args, |row| row.must::<i32>(1))?;
    Ok(failures.first().copied().unwrap_or(0))
}

/// Gives the locks of a run back.
pub fn release(claim: &Claim) {
    locks::release(locks::run_key(claim.run_id));
    locks::release(claim.item().lock());
}

/// Marks runs as crashed whose session is gone, and lets their detectors rest.
pub fn reap_crashed(now: i64) -> SqlResult<()> {
    internal_rights::with(|| {
        let running = sql::rows(
            "SELECT run_id, detector, monitor FROM anomaly.run WHERE status = 'running'",
            &[],
            |row| Ok((row.must::<i64>(1)?, row.get::<String>(2)?, row.get::<String>(3)?)),
        )?;
        for (run_id, detector, monitor) in running {
            if locks::is_held(locks::run_key(run_id)) {
                continue;
            }
            let item = match (detector, monitor) {
                (Some(name), _) => Item { kind: Kind::Scan, name },
                (None, Some(name)) => Item { kind: Kind::Collect, name },
                (None, None) => continue,
            };
            mark_crashed(&item, Some(run_id), now)?;
        }
        Ok(())
    })?;
    job::reap_crashed(now)
}

/// The same for one item whose lock we hold, so that nothing of it can be running.
fn reap_item(item: &Item, now: i64) -> SqlResult<bool> {
    mark_crashed(item, None, now)
}

fn mark_crashed(item: &Item, run_id: Option<i64>, now: i64) -> SqlResult<bool> {
    let column = match item.kind {
        Kind::Scan => "detector",
        Kind::Collect => "monitor",
    };
    let marked = sql::execute(
        &format!(
            "UPDATE anomaly.run SET status = 'crashed', finished_at = $3, \
                error_message = 'the session ended without a word' \
             WHERE {column} = $1 AND run_id = COALESCE($2, run_id) AND status = 'running'"
        ),
        &[item.name.as_str().into(), run_id.into(), sql::timestamptz(now)?.into()],
    )?;
    if marked == 0 {
        return Ok(false);
    }
    let failures = count_failure(item, now)?;
    if failures >= gucs::max_consecutive_failures() {
        let reason = format!("gave up after {failures} failures in a row; the last one crashed");
        break_item(item, &reason, None)?;
        note_failure(item, &reason)?;
        return Ok(true);
    }
    note_failure(item, "the session ended without a word")?;
    let not_before = now.saturating_add(crash_pause(item, failures, now)?);
    let statement = match item.kind {
        Kind::Scan => {
            "UPDATE anomaly.detector_state SET next_due = greatest(next_due, $2) \
             WHERE detector = $1 AND status <> 'broken'"
        }
        Kind::Collect => {
            "UPDATE anomaly.monitor SET next_due = greatest(next_due, $2) WHERE monitor = $1"
        }
    };
    sql::execute(statement, &[item.name.as_str().into(), sql::timestamptz(not_before)?.into()])?;
    Ok(true)
}

/// A clock that was set back by more than this has been corrected: what it showed before counts no
/// more, as for cron. By less, cron expressions do not come at the same times again.
const CORRECTION: i64 = 3 * 3_600_000_000;

/// Brings due times back that lie further ahead than they can be set: the clock was set back. Cron
/// expressions are looked at only if `all`, because each has to be expanded.
pub fn clamp_due_times(now: i64, all: bool) -> SqlResult<()> {
    const AHEAD: [(Kind, &str); 2] = [
        (
            Kind::Collect,
            "SELECT monitor, next_due, (extract(epoch FROM every) * 1000000)::bigint, NULL::text, \
                NULL::text, consecutive_failures \
               FROM anomaly.monitor WHERE next_due > $1 + every AND $2 IS NOT NULL \
                FOR UPDATE SKIP LOCKED",
        ),
        (
            Kind::Scan,
            "SELECT s.detector, s.next_due, (extract(epoch FROM d.every) * 1000000)::bigint, d.cron, \
                d.time_zone, s.consecutive_failures \
               FROM anomaly.detector_state s JOIN anomaly.detector d ON d.detector = s.detector \
              WHERE s.next_due > $1 + d.every OR ($2 AND d.cron IS NOT NULL AND s.next_due > $1) \
                FOR UPDATE OF s SKIP LOCKED",
        ),
    ];
    let crash_wait = micros(gucs::crash_wait());
    internal_rights::with(|| {
        for (kind, query) in AHEAD {
            let ahead = sql::execute_returning(
                query,
                &[sql::timestamptz(now)?.into(), all.into()],
                |row| {
                    let item = Item { kind, name: row.must(1)? };
                    let schedule = Schedule::new(row.get(3)?, row.get(4)?, row.get(5)?);
                    let due = Due { next_due: row.micros(2)?.unwrap_or(now), schedule };
                    Ok((item, due, row.must::<i32>(6)?.unsigned_abs()))
                },
            )?;
            for (item, due, failures) in ahead {
                let Ok(Some(interval)) = due.schedule.interval(now) else { continue };
                let furthest = schedule::furthest_due(failures, interval, crash_wait);
                if failures > 0 && due.next_due <= now.saturating_add(furthest) {
                    continue;
                }
                let next = match &due.schedule {
                    // in step with what it was
                    Schedule::Every(every) => {
                        now + (due.next_due.saturating_sub(now) - 1).rem_euclid(*every) + 1
                    }
                    other => {
                        let Ok(Some(next)) = other.next(now, now) else { continue };
                        if due.next_due <= next || has_run_within(&item, now, CORRECTION)? {
                            continue;
                        }
                        next
                    }
                };
                set_next_due(&item, Some(next))?;
            }
        }
        Ok(())
    })
}

/// Whether its last run began later than now, by the clock as it was then, and not by more than
/// `most`.
fn has_run_within(item: &Item, now: i64, most: i64) -> SqlResult<bool> {
    let last = sql::row(
        "SELECT max(started_at) FROM anomaly.run WHERE detector = $1",
        &[item.name.as_str().into()],
        |row| row.micros(1),
    )?;
    Ok(last.flatten().is_some_and(|last| last > now && last - now <= most))
}

/// Empties the slots of the rings that will be used next: of runs and samples tomorrow's, of alerts
/// next month's. And the outbox of what is too old to be told.
pub fn make_room(now: i64) -> SqlResult<()> {
    let tomorrow = now.saturating_add(DAY_MICROS);
    let days_ago = |days: i64| now.saturating_sub(days * DAY_MICROS);
    empty_slot("run", slot_of(tomorrow), "started_at", days_ago(KEEP_DAYS))?;
    let sample_slot = scan::sample_slot(tomorrow.div_euclid(DAY_MICROS));
    empty_slot("sample", sample_slot, "at", days_ago(i64::from(scan::SAMPLE_SLOTS) - 2))?;
    let (alert_slot, kept_from) = alerts::next_slot(now)?;
    empty_slot("alert", alert_slot, "raised_at", kept_from)?;
    job::make_room(now)?;
    incidents::make_room(kept_from)?;
    let kept_from = days_ago(written_rows::SLOTS - 2);
    empty_slot("row_score", written_rows::slot(tomorrow), "created_at", kept_from)?;
    written_rows::forget_failures(kept_from)?;
    handler::outbox::make_room(now)
}

/// Takes out of a slot what was written one turn of the ring ago. The slot as a whole, which leaves
/// nothing to vacuum, unless something newer is in it already (a sample may be a day ahead).
fn empty_slot(ring: &str, slot: i16, time: &str, kept_from: i64) -> SqlResult<()> {
    internal_rights::with(|| {
        let found = sql::row(
            &format!(
                "SELECT EXISTS (SELECT FROM anomaly.{ring}_{slot:02} WHERE {time} < $1), \
                        EXISTS (SELECT FROM anomaly.{ring}_{slot:02} WHERE {time} >= $1)"
            ),
            &[sql::timestamptz(kept_from)?.into()],
            |row| Ok((row.must::<bool>(1)?, row.must::<bool>(2)?)),
        )?;
        match found {
            Some((true, false)) => {
                sql::execute(&format!("TRUNCATE anomaly.{ring}_{slot:02}"), &[])?;
            }
            Some((true, true)) => {
                sql::execute(
                    &format!("DELETE FROM anomaly.{ring}_{slot:02} WHERE {time} < $1"),
                    &[sql::timestamptz(kept_from)?.into()],
                )?;
            }
            _ => {}
        }
        Ok(())
    })
}

/// # Errors
/// 25006 on a standby, where PostgreSQL's own message would speak of transaction ids.
pub fn check_writable(what: &str) -> SqlResult<()> {
    if !session::in_recovery() {
        return Ok(());
    }
    Err(report(
        PgSqlErrorCode::ERRCODE_READ_ONLY_SQL_TRANSACTION,
        format!("cannot execute anomaly.{what}() on a standby"),
    )
    .set_hint("call it on the primary; scheduling starts here at promotion"))
}

/// Which session runs a detector, and since when. Sees a run of a transaction that has not ended,
/// through its lock.
pub fn running(detector: &str) -> SqlResult<Option<(i32, String)>> {
    let (high, low, class) = locks::item_key(Kind::Scan.lock_prefix(), detector).in_pg_locks();
    internal_rights::with(|| {
        sql::row(
            "SELECT l.pid, coalesce((SELECT max(r.started_at) FROM anomaly.run r \
                                      WHERE r.status = 'running' AND r.pid = l.pid), \
                                    a.xact_start, a.backend_start)::text \
             FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid \
             WHERE l.locktype = 'advisory' AND l.database = $1 AND l.classid = $2 \
               AND l.objid = $3 AND l.objsubid = $4 AND l.granted",
            &[bgworker::my_database().into(), high.into(), low.into(), class.into()],
            |row| Ok((row.must(1)?, row.get(2)?.unwrap_or_default())),
        )
    })
}

// What CALL anomaly.run_due() is made of. Its session may run other things between the steps, so the
// claim is kept here and the steps check that they fit together.

thread_local! {
    static CLAIMED: RefCell<Option<Claim>> = const { RefCell::new(None) };
}

/// The CALL was cancelled between two steps: without the locks, its run shows as crashed.
fn drop_claim() {
    if let Some(claim) = CLAIMED.take() {
        release(&claim);
    }
}

fn claimed(run_id: i64) -> SqlResult<Claim> {
    CLAIMED.with_borrow(|claim| claim.clone()).filter(|c| c.run_id == run_id).ok_or_else(|| {
        invalid(
            format!("run {run_id} was not claimed by this session"),
            "CALL anomaly.run_due() runs what is due",
        )
    })
}

/// Who runs what is due in this session: its user.
///
/// # Errors
/// 25006 on a standby, 55000 while paused, 42501 after SET ROLE.
pub fn check_may_run_due(what: &str) -> SqlResult<pg_sys::Oid> {
    check_writable(what)?;
    if let Some(reason) = paused()? {
        return Err(report(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, reason)
            .set_hint("SELECT anomaly.resume()"));
    }
    let owner = session::current_user();
    if owner == session::session_user() {
        return Ok(owner);
    }
    Err(report(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        "due detectors run only in a session of their owner's",
    )
    .set_hint("log in as the owner; SET ROLE is not enough"))
}

/// Claims the caller's next due detector or monitor; NULL when nothing is due. The caller commits.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe, strict)]
fn claim_next_due(due_before: TimestampWithTimeZone) -> SqlResult<Option<i64>> {
    let owner = check_may_run_due("run_due")?;
    locks::extension(locks::Wait::Yes);
    let now = session::now();
    reap_crashed(now)?;
    // What became due since the CALL began waits for the next one, else it might never end.
    let until = pg_sys::TimestampTz::from(due_before).min(now);
    for item in due_items(owner, until, 1_000)? {
        if let Some(claim) = claim(&item, owner, StartedBy::RunDue, now)? {
            let run_id = claim.run_id;
            CLAIMED.replace(Some(claim));
            xact::after_each_transaction(|| {}, drop_claim);
            return Ok(Some(run_id));
        }
    }
    clamp_due_times(now, true)?;
    let tidied = subxact::attempt(|| {
        internal_rights::with(|| {
            sql::execute("SELECT pg_catalog.set_config('lock_timeout', '2s', true)", &[])?;
            make_room(now)
        })
    });
    if let Err(caught) = tidied {
        // Somebody reads the slot that is to be emptied; the next CALL tries again.
        pgrx::log!("anomaly_detection: old rows were not removed: {}", caught.message);
    }
    Ok(None)
}

/// Does the work of a claimed run and marks it as succeeded; answers how many alerts people are to hear
/// of.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe, strict)]
fn perform_claimed(run_id: i64) -> SqlResult<i64> {
    perform(&claimed(run_id)?)
}

/// Ends a claimed run: records its error if there is one, else tells listeners about its alerts,
/// and gives its locks back. Answers whether the run was cancelled.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe)]
fn settle_claimed(
    run_id: Option<i64>,
    alerts: Option<i64>,
    error_code: Option<String>,
    error_message: Option<String>,
    error_detail: Option<String>,
    error_hint: Option<String>,
) -> SqlResult<bool> {
    let run_id = required(run_id, "run_id")?;
    let claim = claimed(run_id)?;
    let cancelled = error_code.as_deref() == Some("57014");
    match error_code {
        Some(sqlstate) => {
            let caught = Caught {
                sqlstate,
                message: error_message.unwrap_or_default(),
                // plpgsql knows no difference between empty and not there
                detail: error_detail.filter(|text| !text.is_empty()),
                hint: error_hint.filter(|text| !text.is_empty()),
            };
            record_failure(&claim, &caught, false, session::now())?;
        }
        None => {
            if let Some(count @ 1..) = alerts {
                notify(run_id, count)?;
            }
        }
    }
    CLAIMED.take();
    release(&claim);
    Ok(cancelled)
}

/// Whether a run whose row said 'running' has not crashed: a session holds its lock, or it has ended
/// since the row was read. The row is of the query's snapshot, the lock of this moment.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe, strict)]
fn run_is_alive(run_id: i64) -> SqlResult<bool> {
    if locks::is_held(locks::run_key(run_id)) {
        return Ok(true);
    }
    let ended = snapshot::latest(|| {
        internal_rights::with(|| {
            sql::row(
                "SELECT status <> 'running' FROM anomaly.run WHERE run_id = $1",
                &[run_id.into()],
                |row| row.must::<bool>(1),
            )
        })
    })?;
    Ok(ended.unwrap_or(false))
}

/// Why nothing runs in this database by itself; NULL when it may.
#[pg_extern(schema = "anomaly", stable, parallel_unsafe)]
fn paused_reason() -> SqlResult<Option<String>> {
    paused()
}

/// Lets this database run its detectors.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe)]
fn resume() -> SqlResult<String> {
    may_administer("resume")?;
    let by = session::current_user();
    let now = session::now();
    internal_rights::with(|| {
        sql::execute(
            "INSERT INTO anomaly.setting (database_oid, resumed_by) VALUES ($1, $2::oid) \
             ON CONFLICT (only_row) DO UPDATE SET database_oid = EXCLUDED.database_oid, \
                resumed_by = EXCLUDED.resumed_by, resumed_at = now()",
            &[bgworker::my_database().into(), by.into()],
        )
    })?;
    worker::notify_due(now);
    Ok(if worker::is_preloaded() {
        "running: due detectors start within seconds; SELECT * FROM anomaly.health".to_owned()
    } else {
        "resumed, but nothing runs by itself: anomaly_detection is not in shared_preload_libraries; \
         CALL anomaly.run_due()"
            .to_owned()
    })
}

/// Keeps this database from running its detectors until `resume()`. Runs under way end normally.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe)]
fn pause() -> SqlResult<String> {
    may_administer("pause")?;
    let by = session::current_user();
    internal_rights::with(|| {
        sql::execute(
            "INSERT INTO anomaly.setting (database_oid, resumed_by) VALUES (0, $1::oid) \
             ON CONFLICT (only_row) DO UPDATE SET database_oid = 0, \
                resumed_by = EXCLUDED.resumed_by, resumed_at = now()",
            &[by.into()],
        )
    })?;
    Ok("paused: no new runs start; SELECT anomaly.resume() to go on".to_owned())
}

fn may_administer(what: &str) -> SqlResult<()> {
    check_writable(what)?;
    let role = session::current_user();
    if session::is_superuser(role) {
        return Ok(());
    }
    let allowed = internal_rights::with(|| {
        sql::row(
            "SELECT pg_has_role($1, d.datdba, 'USAGE') OR EXISTS (SELECT FROM pg_roles \
                WHERE rolname = 'anomaly_admin' AND pg_has_role($1, oid, 'USAGE')) \
             FROM pg_database d WHERE d.oid = $2",
            &[role.into(), bgworker::my_database().into()],
            |row| row.must::<bool>(1),
        )
    })?;
    if allowed == Some(true) {
        return Ok(());
    }
    Err(report(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        format!("anomaly.{what}() is for superusers, members of anomaly_admin and the owner of the database"),
    )
    .set_hint("ask one of them, or to be granted anomaly_admin"))
}

#[cfg(any(test, feature = "pg_test"))]
#[pg_schema]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000_000;

    /// A detector of the current user over a query, due at `due` and then every hour.
    fn detector(name: &str, query: &str, due: i64) -> Item {
        Spi::run_with_args(
            "INSERT INTO anomaly.detector (detector, owner, anomaly_type, strategy, metric_name, \
                source_kind, source_query, value_column, at_column, every) \
             VALUES ($1, current_user::regrole, (SELECT min(anomaly_type) FROM anomaly.anomaly_type), \
                'statistical_mad', 'm', 'query', $2, 'v', 'at', '1 hour')",
            &[name.into(), query.into()],
        )
        .expect("a detector can be stored");
        Spi::run_with_args(
            "INSERT INTO anomaly.detector_state (detector, next_due) VALUES ($1, $2)",
            &[name.into(), sql::timestamptz(due).expect("in range").into()],
        )
        .expect("its state too");
        Item { kind: Kind::Scan, name: name.to_owned() }
    }

    fn owner() -> pg_sys::Oid {
        session::current_user()
    }

    fn state(item: &Item) -> (String, Option<i64>, i32) {
        sql::row(
            "SELECT status, next_due, consecutive_failures FROM anomaly.detector_state \
             WHERE detector = $1",
            &[item.name.as_str().into()],
            |row| Ok((row.must(1)?, row.micros(2)?, row.must(3)?)),
        )
        .expect("readable")
        .expect("there")
    }

    fn status(run_id: i64) -> String {
        sql::row("SELECT status FROM anomaly.run WHERE run_id = $1", &[run_id.into()], |r| {
            r.must(1)
        })
        .expect("readable")
        .expect("there")
    }

    fn claim_at(item: &Item, now: i64) -> Option<Claim> {
        claim(item, owner(), StartedBy::Worker, now).expect("no error")
    }

    #[pg_test]
    fn claiming_moves_the_due_time_on_and_excludes_others() {
        let now = session::now();
        let item = detector("claim_1", "SELECT now() AS at, 1.0 AS v", now);
        assert!(claim_at(&item, now - 1).is_none(), "not due yet");
        let first = claim_at(&item, now).expect("due");
        assert_eq!(status(first.run_id), "running");
        assert_eq!(state(&item).1, Some(now + HOUR), "in step with the due time");
        let is_alive = || run_is_alive(first.run_id).expect("no error");
        assert!(is_alive());
        set_next_due(&item, Some(now)).expect("stored");
        assert!(claim_at(&item, now).is_none(), "the detector's lock is held");
        assert_eq!(state(&item).1, Some(now + HOUR), "the slot is covered by the run under way");
        release(&first);
        assert!(!is_alive(), "its row still says running");
    }

    #[pg_test]
    fn somebody_elses_detector_cannot_be_claimed() {
        let now = session::now();
        let item = detector("claim_2", "SELECT now() AS at, 1.0 AS v", now);
        let other = pg_sys::Oid::from(3373); // pg_monitor
        assert!(claim(&item, other, StartedBy::Worker, now).expect("no error").is_none());
        assert!(due_items(other, now, 10).expect("readable").is_empty());
    }

    #[pg_test]
    fn a_dead_run_is_reaped_and_its_detector_rests() {
        let now = session::now();
        let item = detector("crash_1", "SELECT now() AS at, 1.0 AS v", now);
        let dead = claim_at(&item, now).expect("due");
        release(&dead);
        set_next_due(&item, Some(now)).expect("stored");
        reap_crashed(now).expect("reaped");
        assert_eq!(status(dead.run_id), "crashed");
        let (_, due, failures) = state(&item);
        let rest = (due.expect("due") - now) as f64 / HOUR as f64;
        assert!((1.0..=1.26).contains(&rest), "{rest}: longer than crash_wait, with jitter");
        assert_eq!(failures, 1);
    }

    #[pg_test]
    fn a_claim_finds_the_dead_run_before_it() {
        let now = session::now();
        let item = detector("crash_2", "SELECT now() AS at, 1.0 AS v", now);
        let dead = claim_at(&item, now).expect("due");
        release(&dead);
        assert!(claim_at(&item, now + HOUR).is_none(), "it must rest first");
        assert_eq!(status(dead.run_id), "crashed");
        let rest = (state(&item).1.expect("due") - now - HOUR) as f64 / HOUR as f64;
        assert!((1.0..=1.26).contains(&rest), "{rest}");
    }

    #[pg_test]
    fn a_run_that_was_declared_dead_cannot_succeed() {
        let now = session::now();
        let item = detector("fence", "SELECT now() AS at, 1.0 AS v", now);
        let claim = claim_at(&item, now).expect("due");
        sql::execute(
            "UPDATE anomaly.run SET status = 'crashed' WHERE run_id = $1",
            &[claim.run_id.into()],
        )
        .expect("stored");
        assert!(
            succeed_in(claim.run_id, Some(claim.slot), &ScanSummary::default(), now).is_err(),
            "its work must be rolled back"
        );
        release(&claim);
    }

    fn fail(item: &Item, sqlstate: &str, timed_out: bool, now: i64) -> i64 {
        let claim = claim_at(item, now).expect("due");
        let caught = Caught {
            sqlstate: sqlstate.to_owned(),
            message: "as told".to_owned(),
            ..Caught::default()
        };
        record_failure(&claim, &caught, timed_out, now).expect("recorded");
        release(&claim);
        claim.run_id
    }

    #[pg_test]
    fn failures_back_off_and_end_in_broken() {
        let now = session::now();
        let item = detector("fail_1", "SELECT now() AS at, 1.0 AS v", now);
        let mut waits = Vec::new();
        for n in 1..gucs::max_consecutive_failures() {
            assert_eq!(status(fail(&item, "22012", false, now)), "failed");
            let (status, due, failures) = state(&item);
            assert_eq!((status.as_str(), failures), ("new", n));
            waits.push((due.expect("due") - now) as f64 / HOUR as f64);
            set_next_due(&item, Some(now)).expect("stored");
        }
        for (wait, factor) in waits.iter().zip([1.0, 2.0, 4.0, 5.0, 5.0]) {
            assert!((0.87..=1.13).contains(&(wait / factor)), "{waits:?}");
        }
        fail(&item, "22012", false, now);
        let (status, due, _) = state(&item);
        assert_eq!((status.as_str(), due), ("broken", None));
    }

    #[pg_test]
    fn a_cancel_is_no_failure_but_a_timeout_is() {
        let now = session::now();
        let item = detector("fail_2", "SELECT now() AS at, 1.0 AS v", now);
        assert_eq!(status(fail(&item, "57014", false, now)), "cancelled");
        assert_eq!(state(&item).2, 0);
        set_next_due(&item, Some(now)).expect("stored");
        assert_eq!(status(fail(&item, "57014", true, now)), "failed");
        assert_eq!(state(&item).2, 1);
    }

    #[pg_test]
    fn a_missing_table_breaks_its_detector_only() {
        let now = session::now();
        let item = detector("fail_3", "SELECT now() AS at, 1.0 AS v", now);
        let other = detector("fail_4", "SELECT now() AS at, 1.0 AS v", now);
        fail(&item, "42P01", false, now);
        assert_eq!(state(&item).0, "broken");
        assert_eq!(state(&other), ("new".to_owned(), Some(now), 0));
    }

    #[pg_test]
    fn due_times_beyond_reach_are_brought_back() {
        let now = session::now();
        let item = detector("clock_1", "SELECT now() AS at, 1.0 AS v", now + 100 * HOUR);
        let near = detector("clock_2", "SELECT now() AS at, 1.0 AS v", now + 5 * HOUR);
        let set = |statement: &str| Spi::run(statement).expect("stored");
        set(
            "UPDATE anomaly.detector_state SET consecutive_failures = 4 WHERE detector = 'clock_2'",
        );
        clamp_due_times(now, false).expect("clamped");
        assert_eq!(state(&item).1, Some(now + HOUR), "in step");
        assert_eq!(state(&near).1, Some(now + 5 * HOUR), "backing off reaches that far");
        set(
            "UPDATE anomaly.detector_state SET consecutive_failures = 0 WHERE detector = 'clock_2'",
        );
        set_next_due(&near, Some(now + 5 * HOUR / 2)).expect("stored");
        clamp_due_times(now, false).expect("clamped");
        assert_eq!(state(&near).1, Some(now + HOUR / 2), "without failures nothing does");
    }

    #[pg_test]
    fn fault_s4_cron_slots_do_not_come_twice_when_the_clock_goes_back() {
        let now = session::now();
        // At the beginning of the hour after this one, which has been run by a clock that was ahead.
        let hour = now - now.rem_euclid(HOUR) + HOUR;
        let item = detector("clock_3", "SELECT now() AS at, 1.0 AS v", hour + 3 * HOUR);
        Spi::run(
            "UPDATE anomaly.detector SET every = NULL, cron = '0 * * * *', time_zone = 'UTC' \
              WHERE detector = 'clock_3'",
        )
        .expect("stored");
        let run_at = |at| insert_run(&item, owner(), "worker", slot_of(at), at).expect("stored");
        run_at(hour);
        clamp_due_times(now, false).expect("clamped");
        assert_eq!(state(&item).1, Some(hour + 3 * HOUR), "not looked at");
        clamp_due_times(now, true).expect("clamped");
        assert_eq!(state(&item).1, Some(hour + 3 * HOUR), "those hours have been run");
        run_at(hour + 8 * HOUR);
        clamp_due_times(now, true).expect("clamped");
        assert_eq!(state(&item).1, Some(hour), "a correction: it goes by the new clock");
        clamp_due_times(now, true).expect("clamped");
        assert_eq!(state(&item).1, Some(hour));
    }

    fn coalesced(item: &Item) -> i64 {
        sql::row(
            "SELECT coalesced FROM anomaly.detector_state WHERE detector = $1",
            &[item.name.as_str().into()],
            |row| row.must(1),
        )
        .expect("readable")
        .expect("there")
    }

    #[pg_test]
    fn fault_s3_slots_without_a_run_are_counted() {
        let now = session::now();
        let item = detector("slow", "SELECT now() AS at, 1.0 AS v", now - 3 * HOUR);
        let claim = claim_at(&item, now).expect("due");
        assert_eq!((state(&item).1, coalesced(&item)), (Some(now + HOUR), 3), "one run for all");
        assert!(claim_at(&item, now + HOUR).is_none(), "it is under way");
        assert_eq!((state(&item).1, coalesced(&item)), (Some(now + 2 * HOUR), 4));
        sql::execute(
            "UPDATE anomaly.run SET status = 'succeeded' WHERE run_id = $1",
            &[claim.run_id.into()],
        )
        .expect("stored");
        release(&claim);
        fail(&item, "22012", false, now + 2 * HOUR);
        assert_eq!(coalesced(&item), 4);
    }

    #[pg_test]
    fn fault_s5_what_was_missed_is_made_up_for_once() {
        let now = session::now();
        let items: Vec<Item> = (0..10)
            .map(|i| {
                detector(&format!("late_{i}"), "SELECT now() AS at, 1.0 AS v", now - 6 * HOUR - i)
            })
            .collect();
        let soon = detector("soon", "SELECT now() AS at, 1.0 AS v", now - 1);
        Spi::run("SET LOCAL anomaly_detection.catch_up_spread_ms = 60000").expect("set");
        catch_up(owner(), now).expect("decided");
        let mut dues: Vec<i64> =
            items.iter().map(|item| state(item).1.expect("due") - now).collect();
        dues.sort();
        assert_eq!(dues[0], 0, "{dues:?}");
        assert!(dues[9] < 60_000_000, "{dues:?}");
        assert!(dues.windows(2).all(|w| w[1] - w[0] <= 12_000_000), "spread: {dues:?}");
        assert!(items.iter().all(|item| coalesced(item) == 6));
        assert_eq!((state(&soon).1, coalesced(&soon)), (Some(now - 1), 0), "not late");
        let before = dues;
        catch_up(owner(), now).expect("decided");
        let mut after: Vec<i64> =
            items.iter().map(|item| state(item).1.expect("due") - now).collect();
        after.sort();
        assert_eq!(after, before, "once is enough");

        Spi::run("SET LOCAL anomaly_detection.misfire = 'skip'").expect("set");
        let item = detector("skipped", "SELECT now() AS at, 1.0 AS v", now - 6 * HOUR - HOUR / 2);
        catch_up(owner(), now).expect("decided");
        assert_eq!((state(&item).1, coalesced(&item)), (Some(now + HOUR / 2), 7), "in step");
    }

    #[pg_test]
    fn what_cannot_be_claimed_is_put_off_and_ends_in_broken() {
        let now = session::now();
        let item = detector("no_claim", "SELECT now() AS at, 1.0 AS v", now);
        Spi::run("UPDATE anomaly.detector SET every = NULL, cron = '0 0 30 2 *' WHERE detector = 'no_claim'")
            .expect("stored");
        assert!(claim(&item, owner(), StartedBy::Worker, now).is_err(), "it has no next time");
        let caught = Caught { message: "no next time".to_owned(), ..Caught::default() };
        put_off(&item, &caught, now).expect("recorded");
        let (status, due, failures) = state(&item);
        assert_eq!((status.as_str(), failures), ("new", 1));
        assert!(due.expect("due") >= now + micros(gucs::crash_wait()));
        for _ in 1..gucs::max_consecutive_failures() {
            put_off(&item, &caught, now).expect("recorded");
        }
        assert_eq!((state(&item).0.as_str(), state(&item).1), ("broken", None));
    }

    #[pg_test]
    fn tomorrows_slot_is_emptied() {
        let now = session::now();
        let old = now - 15 * DAY_MICROS;
        assert_eq!(slot_of(old), slot_of(now + DAY_MICROS));
        let item = Item { kind: Kind::Scan, name: "ring".to_owned() };
        insert_run(&item, owner(), "worker", slot_of(old), old).expect("stored");
        let kept = insert_run(&item, owner(), "worker", slot_of(now), now).expect("stored");
        make_room(now).expect("emptied");
        let left: Vec<i64> =
            sql::rows("SELECT run_id FROM anomaly.run", &[], |row| row.must(1)).expect("readable");
        assert_eq!(left, [kept]);
    }

    #[pg_test]
    fn samples_of_the_last_turn_make_room_for_those_of_tomorrow() {
        let now = session::now();
        let count = |metric: &str| {
            sql::row(
                "SELECT count(*) FROM anomaly.sample WHERE metric = $1",
                &[metric.into()],
                |row| row.must::<i64>(1),
            )
            .expect("readable")
        };
        let insert = |metric: &str, at: i64| {
            sql::execute(
                "INSERT INTO anomaly.sample (slot, owner, metric, at, value) \
                 VALUES ($1, $2::oid, $3, $4, 1)",
                &[
                    scan::sample_slot(at.div_euclid(DAY_MICROS)).into(),
                    owner().into(),
                    metric.into(),
                    sql::timestamptz(at).expect("in range").into(),
                ],
            )
            .expect("stored");
        };
        let turn = i64::from(scan::SAMPLE_SLOTS) * DAY_MICROS;
        insert("old", now + DAY_MICROS - turn);
        insert("recent", now - 5 * DAY_MICROS);
        make_room(now).expect("emptied");
        assert_eq!((count("old"), count("recent")), (Some(0), Some(1)));
        // With a sample of tomorrow in it, the slot is not emptied as a whole.
        insert("old", now + DAY_MICROS - turn);
        insert("ahead", now + DAY_MICROS);
        make_room(now).expect("emptied");
        assert_eq!((count("old"), count("ahead")), (Some(0), Some(1)));
    }

    #[pg_test]
    fn alerts_are_kept_for_fourteen_months() {
        let now = session::now();
        let (slot, kept_from) = alerts::next_slot(now).expect("known");
        assert!((0..16).contains(&slot));
        let months = (now - kept_from) as f64 / (30.44 * DAY_MICROS as f64);
        assert!((13.9..15.1).contains(&months), "{months}");
    }

    #[pg_test]
    fn a_copied_database_is_paused() {
        assert_eq!(paused().expect("readable"), None, "nothing there yet");
        detector("copy", "SELECT now() AS at, 1.0 AS v", session::now());
        assert!(paused().expect("readable").expect("paused").contains("restored or copied"));
        Spi::run("SELECT anomaly.resume()").expect("resumed");
        assert_eq!(paused().expect("readable"), None);
        Spi::run("SELECT anomaly.pause()").expect("paused");
        assert!(paused().expect("readable").expect("paused").contains("anomaly.pause()"));
    }

    #[pg_test]
    fn an_owner_without_login_is_named() {
        let now = session::now();
        Spi::run("CREATE ROLE run_nobody NOLOGIN").expect("created");
        detector("orphan", "SELECT now() AS at, 1.0 AS v", now);
        Spi::run("UPDATE anomaly.detector SET owner = 'run_nobody' WHERE detector = 'orphan'")
            .expect("stored");
        let due = due_by_owner(now).expect("readable");
        let reason = due.first().and_then(|o| o.cannot_run.clone());
        if cfg!(feature = "pg18") {
            assert_eq!(reason, None, "workers bypass the login check there");
        } else {
            let reason = reason.expect("it cannot run");
            assert!(reason.contains("may not log in"), "{reason}");
            break_owner(due[0].owner, &reason).expect("stored");
            assert_eq!(state(&Item { kind: Kind::Scan, name: "orphan".into() }).0, "broken");
        }
    }
}
