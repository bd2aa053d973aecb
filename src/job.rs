//! Jobs: work that somebody submits and that runs as an owner, in the background.
//!
//! Like a run, a job is three transactions: [`claim`] marks it as running and commits, with a session
//! advisory lock that tells whether it is alive; [`perform`] does the work and stores the result in one
//! commit; on an error, [`record_failure`] stores it in a transaction of its own. The scan worker does so
//! between two looks for due detectors, `CALL anomaly.run_due()` through the functions at the end of this
//! file. A job is done once at most: one whose session died shows as crashed and is not tried again, and
//! one whose session was told to end goes back into the queue ([`put_back`]).

pub mod cancel_job;
pub mod submit;

use std::cell::RefCell;

use pgrx::{
    JsonB, PgSqlErrorCode,
    datum::{DatumWithOid, TimestampWithTimeZone},
    pg_sys,
    prelude::*,
};
use serde_json::{Map, Value};

use crate::{
    detector::catalog::{is_admin, may_see_all},
    error::{SqlResult, invalid, report, required},
    gucs,
    pg::{bgworker, internal_rights, locks, session, snapshot, subxact::Caught, xact},
    run, sql,
};

/// Rows and bytes of a result that are kept. A thousand alerts are more than anybody reads of a job; the
/// function itself, in a session, answers all.
const MAX_ROWS: usize = 1_000;
const MAX_BYTES: usize = 1 << 20;
/// How long a finished job can be looked at, and how many of an owner.
const KEPT_MICROS: i64 = 30 * 86_400_000_000;
const KEPT_JOBS: i64 = 1_000;

/// What the value of an argument is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Type {
    Text,
    Interval,
    Timestamp,
    Object,
}

impl Type {
    fn cast(self) -> &'static str {
        match self {
            Type::Text => "",
            Type::Interval => "::pg_catalog.interval",
            Type::Timestamp => "::pg_catalog.timestamptz",
            Type::Object => "::pg_catalog.jsonb",
        }
    }
}

struct Argument {
    name: &'static str,
    of: Type,
    required: bool,
}

const fn argument(name: &'static str, of: Type, required: bool) -> Argument {
    Argument { name, of, required }
}

/// What can be submitted: functions of schema anomaly, called by name with the arguments that were given.
struct Kind {
    name: &'static str,
    arguments: &'static [Argument],
    /// The result is an array of rows, and not one row.
    many: bool,
}

const DETECTOR: Argument = argument("detector", Type::Text, true);
const SINCE: Argument = argument("since", Type::Interval, false);
const UNTIL: Argument = argument("until_ts", Type::Timestamp, false);
const SETTINGS: Argument = argument("settings", Type::Object, false);

const KINDS: &[Kind] = &[
    Kind { name: "train", arguments: &[DETECTOR], many: false },
    Kind { name: "scan", arguments: &[DETECTOR], many: false },
    Kind { name: "backtest", arguments: &[DETECTOR, SINCE, UNTIL, SETTINGS], many: true },
    Kind { name: "backtest_summary", arguments: &[DETECTOR, SINCE, UNTIL, SETTINGS], many: false },
    Kind {
        name: "preview",
        arguments: &[argument("source", Type::Text, true), SINCE, SETTINGS],
        many: false,
    },
];

impl Kind {
    /// # Errors
    /// 22023 naming all kinds.
    fn of(name: &str) -> SqlResult<&'static Kind> {
        KINDS.iter().find(|kind| kind.name == name).ok_or_else(|| {
            let names: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
            invalid(
                format!("a job cannot be a \"{name}\""),
                format!("kinds of jobs are {}", names.join(", ")),
            )
        })
    }

    /// Calls the function in this session. Names come from the table above, values are parameters.
    fn call(&self, args: &Map<String, Value>) -> SqlResult<Outcome> {
        let mut names = Vec::new();
        let mut values: Vec<DatumWithOid> = Vec::new();
        for argument in self.arguments {
            let value = match args.get(argument.name) {
                None | Some(Value::Null) => continue,
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
            };
            values.push(value.into());
            names.push(format!("{} => ${}{}", argument.name, values.len(), argument.of.cast()));
        }
        let limit = if self.many { MAX_ROWS + 1 } else { 1 };
        let query = format!(
            "SELECT pg_catalog.to_jsonb(r)::pg_catalog.text FROM anomaly.{}({}) r LIMIT {limit}",
            self.name,
            names.join(", ")
        );
        // What it does is not read-only for PostgreSQL: a statement that writes.
        let rows = sql::execute_returning(&query, &values, |row| row.must::<String>(1))?;
        Ok(if self.many {
            Outcome::of_rows(rows)
        } else {
            Outcome { json: rows.into_iter().next(), truncated: false }
        })
    }
}

/// A result as JSON text, which PostgreSQL reads: its numbers keep every digit.
struct Outcome {
    json: Option<String>,
    truncated: bool,
}

impl Outcome {
    fn of_rows(rows: Vec<String>) -> Self {
        let (mut json, mut kept) = ("[".to_owned(), 0);
        let all = rows.len();
        for row in rows {
            if kept == MAX_ROWS || json.len() + row.len() > MAX_BYTES {
                break;
            }
            if kept > 0 {
                json.push(',');
            }
            json.push_str(&row);
            kept += 1;
        }
        json.push(']');
        Outcome { json: Some(json), truncated: kept < all }
    }
}

/// A job that this session has claimed.
#[derive(Clone, Debug)]
pub struct Job {
    pub job_id: i64,
    pub kind: String,
    args: Value,
}

/// First transaction: the owner's next job, the oldest first. `None` when none is queued, or another
/// session is at the only one. `before`: submitted by then.
pub fn claim(owner: pg_sys::Oid, before: Option<i64>, now: i64) -> SqlResult<Option<Job>> {
    internal_rights::with(|| {
        let found = sql::execute_returning(
            "UPDATE anomaly.job SET status = 'running', started_at = $3, pid = $4 WHERE job_id = ( \
                SELECT job_id FROM anomaly.job \
                 WHERE owner = $1::oid AND status = 'queued' \
                   AND ($2 IS NULL OR submitted_at <= $2) \
                 ORDER BY job_id LIMIT 1 FOR UPDATE SKIP LOCKED) \
             RETURNING job_id, kind, args",
            &[
                owner.into(),
                before.map(sql::timestamptz).transpose()?.into(),
                sql::timestamptz(now)?.into(),
                bgworker::my_pid().into(),
            ],
            |row| {
                Ok(Job { job_id: row.must(1)?, kind: row.must(2)?, args: row.must::<JsonB>(3)?.0 })
            },
        )?;
        let job = found.into_iter().next();
        if let Some(job) = &job {
            // Nobody else can have the lock of a job that was queued.
            locks::try_lock(locks::job_key(job.job_id), locks::Until::Released);
        }
        Ok(job)
    })
}

/// Second transaction, in a session of the owner's: the work and its result.
pub fn perform(job: &Job) -> SqlResult<()> {
    if locks::extension(locks::Wait::Yes).is_none() {
        return Err(report(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "extension anomaly_detection was dropped",
        ));
    }
    let none = Map::new();
    let outcome = Kind::of(&job.kind)?.call(job.args.as_object().unwrap_or(&none))?;
    let updated = internal_rights::with(|| {
        sql::execute(
            "UPDATE anomaly.job SET status = 'succeeded', finished_at = $2, result = $3::jsonb, \
                truncated = $4 WHERE job_id = $1 AND status = 'running'",
            &[
                job.job_id.into(),
                sql::timestamptz(session::now())?.into(),
                outcome.json.into(),
                outcome.truncated.into(),
            ],
        )
    })?;
    if updated == 1 {
        return Ok(());
    }
    Err(report(
        PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        format!("job {} was declared dead while it was running", job.job_id),
    )
    .set_hint("its work is rolled back; submit it again"))
}

/// Third transaction of a job that ended with an error. Answers whether it was cancelled.
pub fn record_failure(job: &Job, caught: &Caught, timed_out: bool, now: i64) -> SqlResult<bool> {
    if locks::extension(locks::Wait::Yes).is_none() {
        return Ok(false);
    }
    let cancelled = caught.sqlstate == "57014" && !timed_out;
    let (message, hint) = if timed_out {
        (
            format!(
                "took longer than anomaly_detection.job_time_limit ({} ms)",
                gucs::job_time_limit().unwrap_or_default().as_millis()
            ),
            Some("submit it for less time or fewer rows, or have the limit raised"),
        )
    } else {
        (caught.message.clone(), caught.hint.as_deref())
    };
    internal_rights::with(|| {
        sql::execute(
            "UPDATE anomaly.job SET status = $2, finished_at = $3, error_code = $4, \
                error_message = $5, error_hint = $6 \
             WHERE job_id = $1 AND status = 'running'",
            &[
                job.job_id.into(),
                if cancelled { "cancelled" } else { "failed" }.into(),
                sql::timestamptz(now)?.into(),
                caught.sqlstate.as_str().into(),
                message.into(),
                hint.into(),
            ],
        )
    })?;
    Ok(cancelled)
}

/// The session was told to end in the middle of it: after a restart it is done from the beginning.
pub fn put_back(job: &Job) -> SqlResult<()> {
    // No waiting here: the process is on its way out.
    if locks::extension(locks::Wait::No).is_none() {
        return Ok(());
    }
    internal_rights::with(|| {
        sql::execute(
            "UPDATE anomaly.job SET status = 'queued', started_at = NULL, pid = NULL \
             WHERE job_id = $1 AND status = 'running'",
            &[job.job_id.into()],
        )
    })?;
    Ok(())
}

/// Gives the lock of a job back.
pub fn release(job: &Job) {
    locks::release(locks::job_key(job.job_id));
}

/// Marks jobs as crashed whose session is gone.
pub fn reap_crashed(now: i64) -> SqlResult<()> {
    internal_rights::with(|| {
        let running =
            sql::rows("SELECT job_id FROM anomaly.job WHERE status = 'running'", &[], |row| {
                row.must::<i64>(1)
            })?;
        for job_id in running {
            if locks::is_held(locks::job_key(job_id)) {
                continue;
            }
            sql::execute(
                "UPDATE anomaly.job SET status = 'crashed', finished_at = $2, \
                    error_message = 'the session ended without a word' \
                 WHERE job_id = $1 AND status = 'running'",
                &[job_id.into(), sql::timestamptz(now)?.into()],
            )?;
        }
        Ok(())
    })
}

/// Jobs of an owner that no session can be will never run.
pub fn give_up(owner: pg_sys::Oid, reason: &str) -> SqlResult<()> {
    sql::execute(
        "UPDATE anomaly.job SET status = 'failed', finished_at = clock_timestamp(), \
            error_code = '55000', error_message = $2 \
         WHERE owner = $1::oid AND status = 'queued'",
        &[owner.into(), reason.into()],
    )?;
    Ok(())
}

/// Forgets jobs that ended long ago.
pub fn make_room(now: i64) -> SqlResult<()> {
    internal_rights::with(|| {
        sql::execute(
            "DELETE FROM anomaly.job WHERE finished_at < $1",
            &[sql::timestamptz(now.saturating_sub(KEPT_MICROS))?.into()],
        )
    })?;
    Ok(())
}

/// A job of somebody, for those who may act on it.
struct OwnedJob {
    status: String,
}

impl OwnedJob {
    /// For members of the owner and of anomaly_admin.
    ///
    /// # Errors
    /// 42704 for a job that does not exist, or that the caller does not see; 42501 for one that they may
    /// only look at.
    fn load(job_id: i64) -> SqlResult<OwnedJob> {
        let unknown = || {
            report(PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT, format!("job {job_id} does not exist"))
                .set_hint("SELECT job_id, kind, status FROM anomaly.jobs")
        };
        let (owner, status) = internal_rights::with(|| {
            sql::row(
                "SELECT owner::oid, status FROM anomaly.job WHERE job_id = $1",
                &[job_id.into()],
                |row| Ok((row.must::<pg_sys::Oid>(1)?, row.must::<String>(2)?)),
            )
        })?
        .ok_or_else(unknown)?;
        if session::has_privileges_of(session::current_user(), owner) || is_admin()? {
            return Ok(OwnedJob { status });
        }
        if may_see_all()? {
            return Err(report(
                PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
                format!("must be owner of job {job_id}"),
            )
            .set_hint("SET ROLE to its owner, whom anomaly.jobs names, or ask for anomaly_admin"));
        }
        Err(unknown())
    }
}

// What CALL anomaly.run_due() is made of; as in run.rs.

thread_local! {
    static CLAIMED: RefCell<Option<Job>> = const { RefCell::new(None) };
}

/// The CALL was cancelled between two steps: without the lock, its job shows as crashed.
fn drop_claim() {
    if let Some(job) = CLAIMED.take() {
        release(&job);
    }
}

fn claimed(job_id: i64) -> SqlResult<Job> {
    CLAIMED.with_borrow(|job| job.clone()).filter(|job| job.job_id == job_id).ok_or_else(|| {
        invalid(
            format!("job {job_id} was not claimed by this session"),
            "CALL anomaly.run_due() does what is due",
        )
    })
}

/// Claims the caller's next job that was submitted before then; NULL when there is none. The caller
/// commits.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe, strict)]
pub fn claim_next_job(submitted_before: TimestampWithTimeZone) -> SqlResult<Option<i64>> {
    let owner = run::check_may_run_due("run_due")?;
    locks::extension(locks::Wait::Yes);
    let now = session::now();
    reap_crashed(now)?;
    let before = pg_sys::TimestampTz::from(submitted_before).min(now);
    let Some(job) = claim(owner, Some(before), now)? else { return Ok(None) };
    let job_id = job.job_id;
    CLAIMED.replace(Some(job));
    xact::after_each_transaction(|| {}, drop_claim);
    Ok(Some(job_id))
}

/// Does the work of a claimed job and stores its result.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe, strict)]
pub fn perform_job(job: i64) -> SqlResult<()> {
    perform(&claimed(job)?)
}

/// Ends a claimed job: records its error if there is one, and gives its lock back. Answers whether it was
/// cancelled.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe)]
pub fn settle_job(
    job: Option<i64>,
    error_code: Option<String>,
    error_message: Option<String>,
    error_hint: Option<String>,
) -> SqlResult<bool> {
    let job = claimed(required(job, "job")?)?;
    let cancelled = match error_code {
        Some(sqlstate) => {
            let caught = Caught {
                sqlstate,
                message: error_message.unwrap_or_default(),
                detail: None,
                // plpgsql knows no difference between empty and not there
                hint: error_hint.filter(|text| !text.is_empty()),
            };
            record_failure(&job, &caught, false, session::now())?
        }
        None => false,
    };
    CLAIMED.take();
    release(&job);
    Ok(cancelled)
}

/// Whether a job whose row said 'running' has not crashed: a session holds its lock, or it has ended since
/// the row was read.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe, strict)]
pub fn job_is_alive(job: i64) -> SqlResult<bool> {
    if locks::is_held(locks::job_key(job)) {
        return Ok(true);
    }
    let ended = snapshot::latest(|| {
        internal_rights::with(|| {
            sql::row(
                "SELECT status <> 'running' FROM anomaly.job WHERE job_id = $1",
                &[job.into()],
                |row| row.must::<bool>(1),
            )
        })
    })?;
    Ok(ended.unwrap_or(false))
}
