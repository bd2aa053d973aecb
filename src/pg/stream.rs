//! Reading a query row by row without keeping it.
//!
//! SPI's own results and cursors copy every tuple. Here the executor hands each row to a callback
//! through a `DestReceiver` of our own, so that reading a million rows allocates nothing per row.

use std::ffi::CString;

use pgrx::{PgSqlErrorCode, pg_guard, pg_sys};

use crate::error::{SqlResult, report};

/// One row, valid during the callback only. Columns are counted from 0 and must have been cast in
/// the query to the type that is read.
pub struct Row<'a> {
    values: &'a [pg_sys::Datum],
    nulls: &'a [bool],
}

impl Row<'_> {
    /// A `double precision` column.
    pub fn float8(&self, column: usize) -> Option<f64> {
        self.datum(column).map(|d| f64::from_bits(d.value() as u64))
    }

    /// A `bigint` or `timestamptz` column (µs since 2000-01-01 UTC).
    pub fn int8(&self, column: usize) -> Option<i64> {
        self.datum(column).map(|d| d.value() as i64)
    }

    /// Hands the bytes of a `text` or `bytea` column to `read`. They are copied only if they were
    /// stored compressed or out of line.
    pub fn with_bytes<R>(&self, column: usize, read: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let datum = self.datum(column)?;
        // SAFETY: the query casts the column to a varlena type and the row is alive; a detoasted
        // copy is ours and freed after its last use.
        unsafe {
            let stored: *mut pg_sys::varlena = datum.cast_mut_ptr();
            let plain = pg_sys::pg_detoast_datum_packed(stored);
            let bytes = std::slice::from_raw_parts(
                pgrx::varlena::vardata_any(plain).cast::<u8>(),
                pgrx::varlena::varsize_any_exhdr(plain),
            );
            let result = read(bytes);
            if plain != stored {
                pg_sys::pfree(plain.cast());
            }
            Some(result)
        }
    }

    /// A `text` column, copied.
    pub fn text(&self, column: usize) -> Option<String> {
        self.with_bytes(column, |bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    fn datum(&self, column: usize) -> Option<pg_sys::Datum> {
        match self.nulls.get(column) {
            Some(false) => self.values.get(column).copied(),
            _ => None,
        }
    }
}

/// A query parameter.
pub enum Param<'a> {
    TimestampTz(Option<i64>),
    Int8(i64),
    Text(&'a str),
}

type Callback<'a> = dyn FnMut(&Row) -> SqlResult<()> + 'a;

#[repr(C)]
struct Receiver<'a> {
    // First, because PostgreSQL passes a pointer to it back.
    base: pg_sys::DestReceiver,
    callback: &'a mut Callback<'a>,
    failure: Option<pg_sys::panic::ErrorReport>,
}

impl<'a> Receiver<'a> {
    fn new(callback: &'a mut Callback<'a>) -> Self {
        Receiver {
            base: pg_sys::DestReceiver {
                receiveSlot: Some(receive),
                rStartup: Some(start_up),
                rShutdown: Some(shut_down),
                rDestroy: Some(shut_down),
                mydest: pg_sys::CommandDest::DestNone,
            },
            callback,
            failure: None,
        }
    }
}

/// Calls `each` for the next rows of a cursor, this many at most; answers how many there were. An error from
/// `each` is returned, and `each` must not run SQL.
///
/// # Safety
/// `portal` is an open cursor of a query that is a SELECT.
pub(super) unsafe fn fetch<'a>(
    portal: pg_sys::Portal,
    rows: u32,
    each: &'a mut Callback<'a>,
) -> SqlResult<u64> {
    let mut receiver = Receiver::new(each);
    // SAFETY: the caller's promise; the receiver outlives the call, and is not kept by the cursor.
    let fetched = unsafe {
        pg_sys::PortalRunFetch(
            portal,
            pg_sys::FetchDirection::FETCH_FORWARD,
            rows.into(),
            (&raw mut receiver).cast(),
        )
    };
    match receiver.failure {
        Some(failure) => Err(failure),
        None => Ok(fetched),
    }
}

/// Runs one query as the current user and calls `each` for every row. An error from `each` ends the
/// query and is returned. `each` may run SQL as a function of the query might, with the rights that the query
/// has.
pub fn for_each_row<'a>(
    query: &str,
    params: &[Param],
    each: &'a mut Callback<'a>,
) -> SqlResult<()> {
    let text = CString::new(query)
        .map_err(|_| report(PgSqlErrorCode::ERRCODE_SYNTAX_ERROR, "query contains a zero byte"))?;
    let mut receiver = Receiver::new(each);
    // SAFETY: SPI is connected and finished around the call; the text, the parameters (allocated in
    // SPI's procedure context) and the receiver outlive it. If it raises, the transaction's abort
    // ends SPI, and `receiver` holds nothing that PostgreSQL still points to by then.
    unsafe {
        pg_sys::SPI_connect();
        let mut options = pg_sys::SPIExecuteOptions {
            params: param_list(params),
            dest: (&raw mut receiver).cast(),
            ..Default::default()
        };
        let code = pg_sys::SPI_execute_extended(text.as_ptr(), &raw mut options);
        pg_sys::SPI_finish();
        if code < 0 {
            return Err(report(
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                format!("the source did not run as a query (SPI code {code})"),
            ));
        }
    }
    match receiver.failure {
        Some(failure) => Err(failure),
        None => Ok(()),
    }
}

/// # Safety
/// Inside a memory context that lives as long as the query.
unsafe fn param_list(params: &[Param]) -> pg_sys::ParamListInfo {
    if params.is_empty() {
        return std::ptr::null_mut();
    }
    // SAFETY: makeParamList allocates room for as many parameters as it is asked for.
    unsafe {
        let list = pg_sys::makeParamList(params.len() as i32);
        let slots = (*list).params.as_mut_slice(params.len());
        for (slot, param) in slots.iter_mut().zip(params) {
            let (value, isnull, ptype) = match *param {
                Param::TimestampTz(at) => {
                    (pg_sys::Datum::from(at.unwrap_or(0)), at.is_none(), pg_sys::TIMESTAMPTZOID)
                }
                Param::Int8(n) => (pg_sys::Datum::from(n), false, pg_sys::INT8OID),
                Param::Text(s) => {
                    let datum = pgrx::IntoDatum::into_datum(s);
                    (datum.unwrap_or(pg_sys::Datum::from(0)), datum.is_none(), pg_sys::TEXTOID)
                }
            };
            *slot = pg_sys::ParamExternData {
                value,
                isnull,
                pflags: pg_sys::PARAM_FLAG_CONST as u16,
                ptype,
            };
        }
        list
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn receive(
    slot: *mut pg_sys::TupleTableSlot,
    this: *mut pg_sys::DestReceiver,
) -> bool {
    // SAFETY: the executor passes the receiver that `for_each_row` gave it and a filled slot.
    unsafe {
        let receiver = &mut *this.cast::<Receiver>();
        let columns = (*(*slot).tts_tupleDescriptor).natts;
        if i32::from((*slot).tts_nvalid) < columns {
            pg_sys::slot_getsomeattrs_int(slot, columns);
        }
        let row = Row {
            values: std::slice::from_raw_parts((*slot).tts_values, columns as usize),
            nulls: std::slice::from_raw_parts((*slot).tts_isnull, columns as usize),
        };
        match (receiver.callback)(&row) {
            Ok(()) => true,
            Err(failure) => {
                receiver.failure = Some(failure);
                false
            }
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn start_up(
    _this: *mut pg_sys::DestReceiver,
    _operation: i32,
    _types: pg_sys::TupleDesc,
) {
}

#[pg_guard]
unsafe extern "C-unwind" fn shut_down(_this: *mut pg_sys::DestReceiver) {}
