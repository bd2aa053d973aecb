//! Returning many rows from a function without holding them in memory: PostgreSQL's materialise
//! mode, which spills to disk above work_mem. pgrx's iterators return one row a call instead.

use pgrx::{IntoDatum, PgSqlErrorCode, pg_sys};

use crate::error::{SqlResult, report};

/// The result of a set-returning function that is being filled.
pub struct ResultSet {
    store: *mut pg_sys::Tuplestorestate,
    columns: pg_sys::TupleDesc,
    values: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
    /// Holds the values of the current row and nothing else.
    row_context: pg_sys::MemoryContext,
}

impl ResultSet {
    /// Begins the result of the running function, whose SQL declaration is RETURNS TABLE.
    ///
    /// # Errors
    /// 0A000 where the caller takes no set, raised by PostgreSQL.
    pub fn begin(fcinfo: pg_sys::FunctionCallInfo) -> SqlResult<ResultSet> {
        // SAFETY: fcinfo is that of the running call; InitMaterializedSRF raises unless resultinfo
        // is a ReturnSetInfo that allows materialise mode, and fills setResult and setDesc.
        let (store, columns, count) = unsafe {
            pg_sys::InitMaterializedSRF(fcinfo, 0);
            let info = (*fcinfo).resultinfo.cast::<pg_sys::ReturnSetInfo>();
            ((*info).setResult, (*info).setDesc, (*(*info).setDesc).natts)
        };
        // SAFETY: a child of the current context, which lives as long as the call and takes the child
        // along when it goes.
        let row_context = unsafe {
            pg_sys::AllocSetContextCreateExtended(
                pg_sys::CurrentMemoryContext,
                c"row of a result".as_ptr(),
                pg_sys::ALLOCSET_SMALL_MINSIZE as usize,
                pg_sys::ALLOCSET_SMALL_INITSIZE as usize,
                pg_sys::ALLOCSET_SMALL_MAXSIZE as usize,
            )
        };
        let count = usize::try_from(count).map_err(|_| {
            report(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, "a result without columns")
        })?;
        Ok(ResultSet {
            store,
            columns,
            values: Vec::with_capacity(count),
            nulls: Vec::with_capacity(count),
            row_context,
        })
    }

    /// Appends a column to the current row.
    pub fn column<T: IntoDatum>(&mut self, value: Option<T>) -> &mut Self {
        // SAFETY: the context lives as long as `self`, and the one before comes back at once: making
        // a datum runs no SQL.
        let datum = unsafe {
            let before = pg_sys::MemoryContextSwitchTo(self.row_context);
            let datum = value.and_then(IntoDatum::into_datum);
            pg_sys::MemoryContextSwitchTo(before);
            datum
        };
        self.nulls.push(datum.is_none());
        self.values.push(datum.unwrap_or(pg_sys::Datum::from(0)));
        self
    }

    /// Ends the current row.
    ///
    /// # Errors
    /// XX000 when the row has not as many columns as the function declares.
    pub fn end_row(&mut self) -> SqlResult<()> {
        // SAFETY: the descriptor lives as long as the call.
        let declared = unsafe { (*self.columns).natts } as usize;
        if self.values.len() != declared {
            return Err(report(
                PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
                format!("a row of {} columns instead of {declared}", self.values.len()),
            ));
        }
        // SAFETY: both arrays have as many elements as the descriptor has attributes; the tuple
        // store copies them.
        unsafe {
            pg_sys::tuplestore_putvalues(
                self.store,
                self.columns,
                self.values.as_mut_ptr(),
                self.nulls.as_mut_ptr(),
            );
        }
        // SAFETY: nothing refers to the values of the row any more.
        unsafe { pg_sys::MemoryContextReset(self.row_context) };
        self.values.clear();
        self.nulls.clear();
        Ok(())
    }
}
