//! The trigger of `anomaly.watch_writes` as PostgreSQL calls it, and the rows that its statement wrote.

use std::ffi::CString;

use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::{PgSqlErrorCode, pg_guard, pg_sys};

use super::stream::{self, Row};
use super::varlena::version_1;
use crate::detector::written_rows;
use crate::error::{SqlResult, report};

/// What the rows are called in a query that reads them.
pub const NAME: &str = "anomaly_written";

version_1!(pg_finfo_check_written_rows);

/// The rows of a statement, in a trigger on it.
pub struct WrittenRows {
    trigger: *mut pg_sys::TriggerData,
}

/// What is done with rows that are read.
pub trait Take {
    /// Takes one row. Must not run SQL.
    fn row(&mut self, row: &Row) -> SqlResult<()>;
    /// Called after some rows, and after the last: may run SQL. False for as much as is wanted.
    fn rest(&mut self) -> SqlResult<bool>;
}

impl WrittenRows {
    pub fn relation(&self) -> pg_sys::Oid {
        // SAFETY: made by `check_written_rows` only, from the data of a trigger that is running.
        unsafe { (*(*self.trigger).tg_relation).rd_id }
    }

    pub fn is_update(&self) -> bool {
        // SAFETY: as above.
        let event = unsafe { (*self.trigger).tg_event };
        event & pg_sys::TRIGGER_EVENT_OPMASK == pg_sys::TRIGGER_EVENT_UPDATE
    }

    /// Reads the rows by a query over the table [`NAME`], as the current user, so many at a time.
    ///
    /// # Errors
    /// Those of the query and of `take`.
    pub fn read(&self, query: &str, at_a_time: u32, take: &mut dyn Take) -> SqlResult<()> {
        let text = CString::new(query).map_err(|_| {
            report(PgSqlErrorCode::ERRCODE_SYNTAX_ERROR, "query contains a zero byte")
        })?;
        // SAFETY: SPI is connected and finished around all of it; plan and cursor are of this connection.
        // What `rest` runs is in connections of its own, within this one. If anything raises, the abort of
        // the surrounding subtransaction closes the cursor and ends SPI; the same where an error is
        // returned, because whoever calls this raises it there.
        unsafe {
            pg_sys::SPI_connect();
            let code = pg_sys::SPI_register_trigger_data(self.trigger);
            if code < 0 {
                return Err(report(
                    PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
                    format!("the written rows cannot be read (SPI code {code})"),
                ));
            }
            let plan = pg_sys::SPI_prepare(text.as_ptr(), 0, std::ptr::null_mut());
            if plan.is_null() {
                return Err(report(
                    PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
                    "the written rows cannot be read (no plan)",
                ));
            }
            let portal = pg_sys::SPI_cursor_open(
                std::ptr::null(),
                plan,
                std::ptr::null_mut(),
                std::ptr::null(),
                true,
            );
            loop {
                let fetched = stream::fetch(portal, at_a_time, &mut |row| take.row(row))?;
                if !take.rest()? || fetched < u64::from(at_a_time) {
                    break;
                }
            }
            pg_sys::SPI_cursor_close(portal);
            pg_sys::SPI_finish();
        }
        Ok(())
    }
}

/// `anomaly.check_written_rows()`, a trigger after INSERT or UPDATE, for each statement, with the new rows as
/// [`NAME`].
///
/// # Safety
/// Called by PostgreSQL as declared in SQL.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn check_written_rows(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: the running call; its context says whether it is a trigger's, and is its data then.
    let rows = unsafe {
        let context = (*fcinfo).context;
        let is_trigger = !context.is_null() && (*context).type_ == pg_sys::NodeTag::T_TriggerData;
        (is_trigger).then(|| WrittenRows { trigger: context.cast() })
    };
    // SAFETY: the data of a trigger that is running; the name of its table of rows ends with a zero byte.
    let rows = rows.filter(|rows| unsafe {
        let data = &*rows.trigger;
        let name = (*data.tg_trigger).tgnewtable;
        !data.tg_newtable.is_null()
            && !name.is_null()
            && std::ffi::CStr::from_ptr(name).to_bytes() == NAME.as_bytes()
    });
    let checked = match rows {
        Some(rows) => written_rows::check(&rows),
        None => Err(report(
            PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
            "anomaly.check_written_rows() is the trigger that anomaly.watch_writes() makes",
        )
        .set_hint("SELECT * FROM anomaly.watch_writes('your_table')")),
    };
    checked.unwrap_or_report();
    pg_sys::Datum::from(0)
}
