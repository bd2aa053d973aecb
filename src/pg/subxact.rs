//! Catching an error of a piece of work and going on: the only way PostgreSQL allows it.

use std::{panic::AssertUnwindSafe, time::Duration};

use pgrx::{
    PgSqlErrorCode, PgTryBuilder, pg_sys,
    pg_sys::panic::{CaughtError, ErrorReport, ErrorReportable},
};

use crate::{
    error::{SqlResult, report},
    pg::{timer, xact},
};

/// An error that was caught and whose work was rolled back.
#[derive(Debug, Clone, Default)]
pub struct Caught {
    pub sqlstate: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

impl Caught {
    /// Whether it says nothing about what was done: another session was in the way, and the same may
    /// work a moment later.
    pub fn is_transient(&self) -> bool {
        // serialization_failure, deadlock_detected, object_in_use, lock_not_available
        ["40001", "40P01", "55006", "55P03"].contains(&self.sqlstate.as_str())
    }

    /// The error again, to be raised after all.
    pub fn into_report(self) -> ErrorReport {
        let code = self
            .sqlstate
            .bytes()
            .rev()
            .fold(0i32, |packed, c| packed << 6 | i32::from(c.wrapping_sub(b'0') & 0x3f));
        let mut error = report(PgSqlErrorCode::from(code), self.message);
        if let Some(detail) = self.detail {
            error = error.set_detail(detail);
        }
        if let Some(hint) = self.hint {
            error = error.set_hint(hint);
        }
        error
    }
}

/// As [`run`], for work that answers its errors.
pub fn attempt<R>(work: impl FnOnce() -> SqlResult<R>) -> Result<R, Caught> {
    run(|| work().unwrap_or_report())
}

/// Runs `work` in a subtransaction that is rolled back whatever comes of it: what it answers is all that
/// is left.
///
/// # Errors
/// Those of `work`.
pub fn rehearse<R>(work: impl FnOnce() -> SqlResult<R>) -> SqlResult<R> {
    // The error is how it is rolled back; what the work answers goes past it.
    let mut answer = None;
    let caught = run(|| {
        answer = Some(work());
        let end = report(PgSqlErrorCode::ERRCODE_RAISE_EXCEPTION, "the rehearsal is over");
        Err::<(), ErrorReport>(end).unwrap_or_report()
    });
    match (answer, caught) {
        (Some(answer), _) => answer,
        (None, Err(caught)) => Err(caught.into_report()),
        (None, Ok(())) => Err(report(
            PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            "a rehearsal ended without an answer",
        )),
    }
}

/// Runs `work` in a subtransaction: committed when it returns, rolled back when it raises. Cancel
/// (57014) and shutdown (57P01) are never swallowed.
pub fn run<R>(work: impl FnOnce() -> R) -> Result<R, Caught> {
    guarded(work).map_err(|error| caught_unless(error, &["57014", "57P01"]))
}

/// The same for work that may take `limit`, after which it is cancelled: an error like any other, marked with
/// true. A cancel by somebody else is raised again.
pub fn run_within<R>(
    limit: Duration,
    work: impl FnOnce() -> SqlResult<R>,
) -> Result<R, (Caught, bool)> {
    let timer = timer::arm(Some(limit));
    let outcome = guarded(|| work().unwrap_or_report());
    let timed_out = timer.disarm();
    if timed_out {
        xact::forget_cancel();
    }
    outcome.map_err(|error| {
        let raised: &[&str] = if timed_out { &["57P01"] } else { &["57014", "57P01"] };
        (caught_unless(error, raised), timed_out)
    })
}

/// Raises an error with one of these codes again.
fn caught_unless(error: CaughtError, raised: &[&str]) -> Caught {
    let caught = describe(&error);
    if raised.contains(&caught.sqlstate.as_str()) {
        error.rethrow();
    }
    caught
}

fn guarded<R>(work: impl FnOnce() -> R) -> Result<R, CaughtError> {
    // SAFETY: the protocol of plpgsql's exception blocks: remember context and owner, begin, and
    // put both back after the release or the rollback, because each of them changes both.
    unsafe {
        let context = pg_sys::CurrentMemoryContext;
        let owner = pg_sys::CurrentResourceOwner;
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(context);
        let outcome = PgTryBuilder::new(AssertUnwindSafe(|| Ok(work())))
            .catch_others(|error| Err(error))
            .execute();
        match outcome {
            Ok(value) => {
                pg_sys::ReleaseCurrentSubTransaction();
                pg_sys::MemoryContextSwitchTo(context);
                pg_sys::CurrentResourceOwner = owner;
                Ok(value)
            }
            Err(error) => {
                pg_sys::MemoryContextSwitchTo(context);
                pg_sys::RollbackAndReleaseCurrentSubTransaction();
                pg_sys::MemoryContextSwitchTo(context);
                pg_sys::CurrentResourceOwner = owner;
                Err(error)
            }
        }
    }
}

pub(crate) fn describe(error: &CaughtError) -> Caught {
    let report = match error {
        CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => report,
        CaughtError::RustPanic { ereport, .. } => ereport,
    };
    Caught {
        sqlstate: sqlstate(report.sql_error_code() as i32),
        message: report.message().into(),
        detail: report.detail().map(str::to_owned),
        hint: report.hint().map(str::to_owned),
    }
}

/// The five characters of a code that PostgreSQL packs six bits each.
fn sqlstate(mut packed: i32) -> String {
    (0..5)
        .map(|_| {
            let c = char::from((packed & 0x3f) as u8 + b'0');
            packed >>= 6;
            c
        })
        .collect()
}
