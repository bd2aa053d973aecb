//! `anomaly.cancel_job` and `anomaly.job_result`: what becomes of a job.

use pgrx::{JsonB, PgSqlErrorCode, prelude::*};

use crate::{
    error::{SqlResult, report},
    job::OwnedJob,
    pg::{bgworker, internal_rights, locks, session, subxact::Caught},
    run, sql,
};

/// Takes a job out of the queue, or cancels the session that is at it. False when it had ended before.
///
/// # Errors
/// 42704 and 42501 for the job, 25006 on a standby.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe, strict)]
pub fn cancel_job(job: i64) -> SqlResult<bool> {
    run::check_writable("cancel_job")?;
    OwnedJob::load(job)?;
    let (high, low, class) = locks::job_key(job).in_pg_locks();
    // Numbers, because pgrx takes the oid 0 for NULL.
    let (high, low) = (i64::from(high.to_u32()), i64::from(low.to_u32()));
    internal_rights::with(|| {
        let queued = sql::execute(
            "UPDATE anomaly.job SET status = 'cancelled', finished_at = $2, error_code = '57014', \
                error_message = 'cancelled before it began' \
             WHERE job_id = $1 AND status = 'queued'",
            &[job.into(), sql::timestamptz(session::now())?.into()],
        )?;
        if queued == 1 {
            return Ok(true);
        }
        // Whoever holds its lock is at it, and at nothing else.
        let signalled = sql::rows(
            "SELECT pg_cancel_backend(l.pid) FROM pg_locks l \
              WHERE l.locktype = 'advisory' AND l.database = $1 \
                AND l.classid::bigint = $2 AND l.objid::bigint = $3 AND l.objsubid = $4 AND l.granted AND l.mode = 'ExclusiveLock'",
            &[bgworker::my_database().into(), high.into(), low.into(), class.into()],
            |row| row.must::<bool>(1),
        )?;
        Ok(signalled.contains(&true))
    })
}

/// What came of a job: what the function that it stands for answers, as JSON; NULL while there is nothing
/// yet.
///
/// # Errors
/// That of the job when it has failed, 55000 when it was cancelled or crashed; 42704 and 42501 for the job.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe, strict)]
pub fn job_result(job: i64) -> SqlResult<Option<JsonB>> {
    let found = OwnedJob::load(job)?;
    match found.status.as_str() {
        "queued" => Ok(None),
        "running" if super::job_is_alive(job)? => Ok(None),
        "succeeded" => internal_rights::with(|| {
            sql::row("SELECT result FROM anomaly.job WHERE job_id = $1", &[job.into()], |row| {
                row.get(1)
            })
        })
        .map(Option::flatten),
        "failed" => {
            let caught = internal_rights::with(|| {
                sql::row(
                    "SELECT error_code, error_message, error_hint FROM anomaly.job WHERE job_id = $1",
                    &[job.into()],
                    |row| {
                        let message = row.get::<String>(2)?.unwrap_or_default();
                        Ok(Caught {
                            sqlstate: row.get(1)?.unwrap_or_else(|| "XX000".to_owned()),
                            message: format!("job {job} has failed: {message}"),
                            detail: None,
                            hint: row.get(3)?,
                        })
                    },
                )
            })?;
            Err(caught.unwrap_or_default().into_report())
        }
        // Not 57014, by which a client would take its own question for cancelled.
        "cancelled" => Err(report(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("job {job} was cancelled"),
        )
        .set_hint("submit it again")),
        _ => Err(report(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("job {job} crashed: its session ended without a word"),
        )
        .set_hint("the server's log says why; submit it again")),
    }
}
