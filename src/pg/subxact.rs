//! Catching an error of a piece of work and going on: the only way PostgreSQL allows it.

use pgrx::pg_sys::panic::CaughtError;

/// An error that was caught and whose work was rolled back.
#[derive(Debug, Clone, Default)]
pub struct Caught {
    pub sqlstate: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

/// Runs `work` in a subtransaction: committed when it returns, rolled back when it raises. Cancel
/// (57014) and shutdown (57P01) are never swallowed.
#[cfg(any(test, feature = "pg_test"))]
pub fn run<R>(work: impl FnOnce() -> R) -> Result<R, Caught> {
    use pgrx::{PgTryBuilder, pg_sys};
    use std::panic::AssertUnwindSafe;

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
                let caught = describe(&error);
                if matches!(caught.sqlstate.as_str(), "57014" | "57P01") {
                    error.rethrow();
                }
                Err(caught)
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
