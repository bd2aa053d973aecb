//! Types of flat words as PostgreSQL sees them: a varlena of 8 header bytes (the length word and four
//! zero bytes) followed by the core's words; and the functions of `anomaly_sketch`.
//!
//! The transition and the combine function are written against the version-1 call convention
//! directly, because they run once per row: the state is changed in place when an aggregate node
//! calls, and no PostgreSQL function is called on the way of an ordinary row. Where a state must
//! grow, a larger copy is returned in the current (per-row) memory context; the executor copies it into
//! the aggregate's context and frees the old one, so growing by doubling costs two copies.

use std::marker::PhantomData;
use std::ptr::NonNull;

use anomaly_core::sketch::{self, HEADER, Room, Sketch, View};
use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::datum::Datum;
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;
use pgrx::{FromDatum, impl_sql_translatable, nullable::Nullable, pg_sys, varlena};

use crate::error::{SqlResult, from_core, report};

/// Bytes before the words.
const PREFIX: usize = 8;

/// Declares the record by which PostgreSQL recognises the call convention of a raw function.
macro_rules! version_1 {
    ($($record:ident),+ $(,)?) => { $(
        #[unsafe(no_mangle)]
        #[doc(hidden)]
        pub extern "C" fn $record() -> &'static pg_sys::Pg_finfo_record {
            const VERSION_1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
            &VERSION_1
        }
    )+ };
}
pub(super) use version_1;

version_1!(
    pg_finfo_anomaly_summary_trans,
    pg_finfo_anomaly_summary_combine,
    pg_finfo_anomaly_sketch_recv
);

/// A sketch that a SQL function received, detoasted.
#[derive(Clone, Copy)]
pub struct SketchArg<'fcx> {
    words: &'fcx [u64],
}

impl<'fcx> SketchArg<'fcx> {
    /// Read access; XX001 for a damaged value.
    pub fn view(&self) -> SqlResult<View<'fcx>> {
        View::new(self.words).map_err(from_core)
    }

    /// The flat form, unchecked.
    pub fn words(&self) -> &'fcx [u64] {
        self.words
    }
}

/// A sketch that a SQL function returns.
pub struct SketchValue(pub Vec<u64>);

impl_sql_translatable!(SketchArg<'_>, "anomaly_sketch");
impl_sql_translatable!(SketchValue, "anomaly_sketch");

impl FromDatum for SketchArg<'_> {
    unsafe fn from_polymorphic_datum(
        datum: pg_sys::Datum,
        is_null: bool,
        _type: pg_sys::Oid,
    ) -> Option<Self> {
        if is_null {
            return None;
        }
        // SAFETY: a datum of type anomaly_sketch that is not NULL points to a varlena, and the
        // detoasted value lives as long as the function call's memory context.
        let value = unsafe { Value::<SketchWords>::detoasted(datum) };
        // SAFETY: as above; nobody writes to an argument during the call.
        Some(SketchArg { words: unsafe { value.words() } })
    }
}

// SAFETY: unboxes what the type's own FromDatum unboxes.
unsafe impl<'fcx> ArgAbi<'fcx> for SketchArg<'fcx> {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the caller's promise, passed on.
        match unsafe { arg.unbox_arg_using_from_datum() } {
            Some(sketch) => sketch,
            None => Err(report(
                PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
                "sketch must not be NULL",
            ))
            .unwrap_or_report(),
        }
    }

    unsafe fn unbox_nullable_arg(arg: Arg<'_, 'fcx>) -> Nullable<Self> {
        // SAFETY: the caller's promise, passed on.
        unsafe { arg.unbox_arg_using_from_datum() }.into()
    }
}

// SAFETY: returns a palloc'd varlena of the declared type.
unsafe impl BoxRet for SketchValue {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        let value = Value::<SketchWords>::copied(&self.0);
        // SAFETY: a valid value of the return type in the caller's memory context.
        unsafe { fcinfo.return_raw_datum(value.datum()) }
    }
}

/// A plain (not compressed, not short, aligned) varlena of this type.
pub(super) struct Value<T>(NonNull<pg_sys::varlena>, PhantomData<T>);

/// A type whose values are flat words.
pub(super) trait FlatWords {
    const NAME: &str;
    /// Words that every value has.
    const HEADER: usize;
}

struct SketchWords;

impl FlatWords for SketchWords {
    const NAME: &str = "anomaly_sketch";
    const HEADER: usize = HEADER;
}

impl<T: FlatWords> Value<T> {
    /// Zeroed, in the current memory context. `words` is bounded by the core's capacity.
    fn new(words: usize) -> Self {
        let bytes = PREFIX + 8 * words;
        // SAFETY: palloc0 returns `bytes` aligned zero bytes or raises; the length word is written
        // before anyone reads it.
        unsafe {
            let ptr = pg_sys::palloc0(bytes).cast::<pg_sys::varlena>();
            varlena::set_varsize_4b(ptr, bytes as i32);
            Value(NonNull::new_unchecked(ptr), PhantomData)
        }
    }

    /// In the current memory context.
    pub(super) fn copied(words: &[u64]) -> Self {
        let value = Self::new(words.len());
        // SAFETY: just allocated, nobody else knows it.
        unsafe { value.words_mut() }.copy_from_slice(words);
        value
    }

    /// # Safety
    /// `datum` is a non-NULL datum of a varlena type.
    pub(super) unsafe fn detoasted(datum: pg_sys::Datum) -> Self {
        let ptr = datum.cast_mut_ptr::<pg_sys::varlena>();
        // SAFETY: the caller's promise; pg_detoast_datum returns a plain aligned varlena.
        unsafe {
            let plain = varlena::varatt_is_4b_u(ptr) && aligned(ptr);
            let ptr = if plain { ptr } else { pg_sys::pg_detoast_datum_copy(ptr) };
            Value(NonNull::new_unchecked(ptr), PhantomData)
        }
    }

    fn words_len(&self) -> usize {
        // SAFETY: a plain varlena, so its length word is readable.
        let bytes = unsafe { varlena::varsize_4b(self.0.as_ptr()) };
        if bytes < PREFIX + 8 * T::HEADER || bytes % 8 != 0 {
            let message = format!("damaged {}: it has {bytes} bytes", T::NAME);
            Err(report(PgSqlErrorCode::ERRCODE_DATA_CORRUPTED, message)).unwrap_or_report()
        }
        (bytes - PREFIX) / 8
    }

    /// # Safety
    /// The memory lives and nobody writes to it during `'a`.
    pub(super) unsafe fn words<'a>(&self) -> &'a [u64] {
        // SAFETY: the varlena is as long as its length word says and aligned to 8.
        unsafe { std::slice::from_raw_parts(self.start(), self.words_len()) }
    }

    /// # Safety
    /// The memory lives and nobody else uses it during `'a`.
    pub(super) unsafe fn words_mut<'a>(&self) -> &'a mut [u64] {
        // SAFETY: the varlena is as long as its length word says and aligned to 8.
        unsafe { std::slice::from_raw_parts_mut(self.start(), self.words_len()) }
    }

    fn start(&self) -> *mut u64 {
        // SAFETY: every value is longer than the prefix (`words_len`, `new`).
        unsafe { self.0.as_ptr().cast::<u8>().add(PREFIX).cast() }
    }

    pub(super) fn datum(&self) -> pg_sys::Datum {
        pg_sys::Datum::from(self.0.as_ptr())
    }

    /// A copy with room for `len` words.
    pub(super) fn grown(&self, len: usize) -> Self {
        let larger = Self::new(len);
        // SAFETY: the new value is ours alone; the old one is read only here.
        unsafe {
            let old = self.words();
            larger.words_mut()[..old.len()].copy_from_slice(old);
        }
        larger
    }
}

fn aligned(ptr: *mut pg_sys::varlena) -> bool {
    (ptr as usize).is_multiple_of(align_of::<u64>())
}

/// Whether an aggregate or window node calls, which allows changing the first argument in place.
/// What `AggCheckCallContext` tests, without leaving Rust.
///
/// # Safety
/// `fcinfo` is that of the running call.
pub(super) unsafe fn in_aggregate(fcinfo: pg_sys::FunctionCallInfo) -> bool {
    // SAFETY: the context of a call is NULL or a node.
    unsafe {
        let context = (*fcinfo).context;
        !context.is_null()
            && matches!(
                (*context).type_,
                pg_sys::NodeTag::T_AggState | pg_sys::NodeTag::T_WindowAggState
            )
    }
}

/// Argument `i` of the running call.
///
/// # Safety
/// `fcinfo` is that of the running call and has more than `i` arguments.
#[inline]
pub(super) unsafe fn argument(fcinfo: pg_sys::FunctionCallInfo, i: usize) -> Option<pg_sys::Datum> {
    // SAFETY: the caller's promise.
    let argument = unsafe { *(&raw const (*fcinfo).args).cast::<pg_sys::NullableDatum>().add(i) };
    (!argument.isnull).then_some(argument.value)
}

/// # Safety
/// `fcinfo` is that of the running call.
pub(super) unsafe fn return_null(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: the caller's promise.
    unsafe { (*fcinfo).isnull = true };
    pg_sys::Datum::null()
}

/// The state that a transition may change: argument 0 itself inside an aggregate, a copy elsewhere.
///
/// # Safety
/// `fcinfo` is that of the running call and argument 0 has type `T`.
#[inline]
pub(super) unsafe fn own_state<T: FlatWords>(
    fcinfo: pg_sys::FunctionCallInfo,
    state: pg_sys::Datum,
) -> Value<T> {
    // SAFETY: the caller's promise. In an aggregate the state is the node's own copy.
    unsafe {
        let ptr = state.cast_mut_ptr::<pg_sys::varlena>();
        if in_aggregate(fcinfo) && varlena::varatt_is_4b_u(ptr) && aligned(ptr) {
            Value(NonNull::new_unchecked(ptr), PhantomData)
        } else {
            Value(NonNull::new_unchecked(pg_sys::pg_detoast_datum_copy(ptr)), PhantomData)
        }
    }
}

fn initial() -> Value<SketchWords> {
    Value::copied(&sketch::initial())
}

/// `anomaly_summary_trans(anomaly_sketch, double precision)`: adds one row to a state.
///
/// # Safety
/// Called by PostgreSQL with two arguments of these types.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn anomaly_summary_trans(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: two arguments, as declared in SQL.
    let (state, x) = unsafe { (argument(fcinfo, 0), argument(fcinfo, 1)) };
    let mut value = match state {
        // SAFETY: argument 0 is declared as anomaly_sketch.
        Some(state) => unsafe { own_state(fcinfo, state) },
        None => initial(),
    };
    loop {
        // SAFETY: the state is ours alone, see `own_state`.
        let words = unsafe { value.words_mut() };
        // `words_len` has made sure of the header, so this always matches.
        if let Some((header, tail)) = words.split_first_chunk_mut::<HEADER>() {
            let done = match x {
                Some(x) => sketch::push(header, tail, f64::from_bits(x.value() as u64)),
                None => {
                    sketch::push_null(header);
                    true
                }
            };
            if done {
                return value.datum();
            }
        }
        if let Room::Grow(len) = sketch::make_room(words).map_err(from_core).unwrap_or_report() {
            value = value.grown(len);
        }
    }
}

/// `anomaly_summary_combine(anomaly_sketch, anomaly_sketch)`: joins two states; also the transition of
/// `rollup`. A NULL argument adds nothing.
///
/// # Safety
/// Called by PostgreSQL with two arguments of these types.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn anomaly_summary_combine(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: two arguments, as declared in SQL.
    let (state, other) = unsafe { (argument(fcinfo, 0), argument(fcinfo, 1)) };
    let Some(other) = other else {
        // SAFETY: the running call.
        return state.unwrap_or_else(|| unsafe { return_null(fcinfo) });
    };
    // SAFETY: argument 1 is declared as anomaly_sketch and is only read.
    let other = unsafe { Value::<SketchWords>::detoasted(other).words() };
    let Some(state) = state else {
        View::new(other).map_err(from_core).unwrap_or_report();
        // A copy: the other state is not ours to hand on.
        return Value::<SketchWords>::copied(other).datum();
    };
    // SAFETY: argument 0 is declared as anomaly_sketch.
    let mut value = unsafe { own_state::<SketchWords>(fcinfo, state) };
    loop {
        // SAFETY: the state is ours alone, see `own_state`.
        let words = unsafe { value.words_mut() };
        match sketch::merge(words, other).map_err(from_core).unwrap_or_report() {
            Room::Ready => return value.datum(),
            Room::Grow(len) => value = value.grown(len),
        }
    }
}

/// `anomaly_sketch_recv(internal)`: reads the binary form.
///
/// # Safety
/// Called by PostgreSQL with a message buffer.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn anomaly_sketch_recv(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: one argument, as declared in SQL.
    let Some(bytes) = (unsafe { message(fcinfo) }) else {
        // SAFETY: the running call.
        return unsafe { return_null(fcinfo) };
    };
    let sketch = Sketch::decode(bytes).map_err(from_core).unwrap_or_report();
    Value::<SketchWords>::copied(sketch.words()).datum()
}

/// The rest of the message that a function for binary input is called with.
///
/// # Safety
/// `fcinfo` is that of the running call, whose first argument is a StringInfo or NULL.
pub(super) unsafe fn message<'a>(fcinfo: pg_sys::FunctionCallInfo) -> Option<&'a [u8]> {
    // SAFETY: the caller's promise; the cursor is inside the message's length.
    unsafe {
        let buffer = argument(fcinfo, 0)?.cast_mut_ptr::<pg_sys::StringInfoData>();
        let len = (*buffer).len - (*buffer).cursor;
        let start = pg_sys::pq_getmsgbytes(buffer, len);
        Some(std::slice::from_raw_parts(start.cast::<u8>(), len as usize))
    }
}

/// Two numbers returned as the row type that the SQL declaration gives as OUT columns.
pub struct Pair(pub f64, pub f64);

impl_sql_translatable!(Pair, "record");

// SAFETY: returns a tuple of the declared row type, or raises.
unsafe impl BoxRet for Pair {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        let mut values =
            [pg_sys::Datum::from(self.0.to_bits()), pg_sys::Datum::from(self.1.to_bits())];
        let mut nulls = [false; 2];
        // SAFETY: the running call; the declaration has two double precision OUT columns, which are
        // passed by value.
        unsafe {
            let mut row_type = std::ptr::null_mut();
            let kind = pg_sys::get_call_result_type(
                fcinfo.as_mut_ptr(),
                std::ptr::null_mut(),
                &mut row_type,
            );
            if kind != pg_sys::TypeFuncClass::TYPEFUNC_COMPOSITE || (*row_type).natts != 2 {
                Err(report(
                    PgSqlErrorCode::ERRCODE_INVALID_FUNCTION_DEFINITION,
                    "the function must be declared with two OUT columns",
                ))
                .unwrap_or_report()
            }
            let row_type = pg_sys::BlessTupleDesc(row_type);
            let tuple = pg_sys::heap_form_tuple(row_type, values.as_mut_ptr(), nulls.as_mut_ptr());
            fcinfo.return_raw_datum(pg_sys::HeapTupleHeaderGetDatum((*tuple).t_data))
        }
    }
}
