//! The one place where errors become SQLSTATEs.

use anomaly_core::Error;
use pgrx::{PgSqlErrorCode, pg_sys::panic::ErrorReport};

/// What every SQL function of this extension returns on failure: only an `ErrorReport` keeps its
/// code through pgrx, anything else would be raised as 22000.
pub type SqlResult<T> = Result<T, ErrorReport>;

/// Builds an error with a code and a message.
pub fn report(code: PgSqlErrorCode, message: impl Into<String>) -> ErrorReport {
    ErrorReport::new(code, message.into(), "anomaly_detection")
}

/// 22023 with a hint that names the fix.
pub fn invalid(message: impl Into<String>, hint: impl Into<String>) -> ErrorReport {
    report(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, message).set_hint(hint.into())
}

/// The value of an argument that has to be given; 22004 for NULL. Functions with optional arguments
/// cannot be STRICT, and pgrx panics when a plain argument is NULL.
pub fn required<T>(value: Option<T>, name: &str) -> SqlResult<T> {
    value.ok_or_else(|| {
        report(PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED, format!("{name} must not be NULL"))
            .set_hint(format!("give a value for {name}, or leave it out if it has a default"))
    })
}

/// [`required`] for each of these arguments, which keep their names.
macro_rules! not_null {
    ($($argument:ident),+ $(,)?) => {
        $(let $argument = $crate::error::required($argument, stringify!($argument))?;)+
    };
}
pub(crate) use not_null;

/// Maps the core's error to its SQLSTATE. A function, because neither type is ours.
pub fn from_core(error: Error) -> ErrorReport {
    use PgSqlErrorCode::*;
    let message = error.to_string();
    match error {
        Error::InvalidParameter { hint, .. } => invalid(message, hint),
        Error::OutOfRange(_) => report(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE, message),
        Error::Data(_) => report(ERRCODE_DATA_EXCEPTION, message),
        Error::TooLarge(_) => report(ERRCODE_PROGRAM_LIMIT_EXCEEDED, message),
        Error::MemoryLimit { hint, .. } => report(ERRCODE_OUT_OF_MEMORY, message).set_hint(hint),
        Error::TimeLimit { hint, .. } => {
            report(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED, message).set_hint(hint)
        }
        Error::Corrupted(_) => report(ERRCODE_DATA_CORRUPTED, message),
        Error::NewerFormat(_) => report(ERRCODE_FEATURE_NOT_SUPPORTED, message)
            .set_hint("install the version of anomaly_detection that wrote it, or a newer one"),
        Error::Unsupported(_) => report(ERRCODE_FEATURE_NOT_SUPPORTED, message)
            .set_hint("SELECT strategy FROM anomaly.strategies WHERE available"),
        Error::Stopped => report(ERRCODE_QUERY_CANCELED, message),
    }
}
