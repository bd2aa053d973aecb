//! How large a value is, before it is read.

use pgrx::{PgSqlErrorCode, pg_sys, pg_sys::panic::ErrorReportable};

use crate::{
    error::{SqlResult, report},
    gucs,
};

/// Asks for the size of an argument without fetching or decompressing it, and raises when it is more than a
/// session may bring.
///
/// # Safety
/// `datum` is a varlena that is not NULL.
pub unsafe fn check(datum: pg_sys::Datum) {
    // SAFETY: the caller's promise; reads the header of the value, or of what points to it.
    let bytes = unsafe { pg_sys::toast_raw_datum_size(datum) };
    check_size(bytes).unwrap_or_report();
}

/// # Errors
/// 54000 naming the setting.
pub fn check_size(bytes: usize) -> SqlResult<()> {
    match gucs::max_payload() {
        Some(most) if bytes > most => Err(report(
            PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            format!(
                "{} kB of JSON are more than anomaly_detection.max_payload ({} kB)",
                bytes >> 10,
                most >> 10
            ),
        )
        .set_hint(
            "bring it in parts, or put it into a table and give the table's name: anomaly.process_batch('table')",
        )),
        _ => Ok(()),
    }
}
