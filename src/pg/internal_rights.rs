//! Writing the catalogue on behalf of a caller who has no rights on it.
//!
//! There is no SECURITY DEFINER function: inside one, `current_user` is the definer and ownership
//! would be recorded as the superuser's. Instead a function takes the caller's identity first and
//! then runs fixed SQL inside [`with`]. No user query, function, handler or strategy may run there.

use std::ffi::CStr;

use pgrx::{PgSqlErrorCode, Spi, pg_sys};

use crate::error::{SqlResult, report};

/// The rights and settings to go back to.
struct Switched {
    user: pg_sys::Oid,
    context: i32,
    guc_level: i32,
}

impl Drop for Switched {
    fn drop(&mut self) {
        // While an error unwinds, the abort of the (sub)transaction restores both.
        if std::thread::panicking() {
            return;
        }
        // SAFETY: both functions only assign backend-local state; the level was taken by
        // NewGUCNestLevel in `with` and inner levels have ended, because guards drop in order.
        unsafe {
            pg_sys::AtEOXact_GUC(false, self.guc_level);
            pg_sys::SetUserIdAndSecContext(self.user, self.context);
        }
    }
}

/// Settings under which the SQL runs.
const SETTINGS: [(&CStr, &CStr); 2] = [
    // pg_temp last: named nowhere, it would be searched first for tables and types.
    (c"search_path", c"pg_catalog, pg_temp"),
    // Plans over the rings of partitions are estimated dear and run in milliseconds: compiling one took 16 s.
    (c"jit", c"off"),
];

/// Runs `work`, which must contain fixed SQL only, as the owner of the extension, under a search
/// path that nobody else can write to.
pub fn with<R>(work: impl FnOnce() -> SqlResult<R>) -> SqlResult<R> {
    let owner = extension_owner()?;
    let mut switched = Switched { user: pg_sys::InvalidOid, context: 0, guc_level: 0 };
    // SAFETY: plain reads and writes of backend-local state, undone by `Switched::drop` or by the
    // abort of the surrounding (sub)transaction.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut switched.user, &mut switched.context);
        pg_sys::SetUserIdAndSecContext(
            owner,
            switched.context
                | (pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION)
                    as i32,
        );
        switched.guc_level = pg_sys::NewGUCNestLevel();
        for (name, value) in SETTINGS {
            pg_sys::set_config_option(
                name.as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_USERSET,
                pg_sys::GucSource::PGC_S_SESSION,
                pg_sys::GucAction::GUC_ACTION_SAVE,
                true,
                0,
                false,
            );
        }
    }
    let result = work();
    drop(switched);
    result
}

fn extension_owner() -> SqlResult<pg_sys::Oid> {
    let owner = Spi::connect(|client| {
        client
            .select(
                "SELECT extowner FROM pg_catalog.pg_extension \
                 WHERE extname OPERATOR(pg_catalog.=) 'anomaly_detection'",
                Some(1),
                &[],
            )?
            .next()
            .map(|row| row.get::<pg_sys::Oid>(1))
            .transpose()
    })
    .map_err(|e| report(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, e.to_string()))?
    .flatten();
    owner.ok_or_else(|| {
        report(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "extension anomaly_detection is not installed in this database",
        )
        .set_hint("CREATE EXTENSION anomaly_detection;")
    })
}
