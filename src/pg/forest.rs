//! The types behind isolation forests as PostgreSQL sees them, and the functions that run once per
//! row.
//!
//! `anomaly_sample` is the aggregate's state: flat words (see `varlena.rs`), so that partial states
//! travel between processes without functions of their own, changed in place. `anomaly_model` holds
//! the bytes that the core has encoded; decoding them takes as long as scoring some thousand rows, so
//! what scores keeps decoded models for as long as its query runs.

use std::ffi::CStr;

use anomaly_core::forest::sampler::{self, Room};
use anomaly_core::forest::{Explanation, Model, Sample, Scored, Scratch};
use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::datum::Datum;
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;
use pgrx::{
    FromDatum, IntoDatum, JsonB, PgMemoryContexts, direct_function_call_as_datum,
    impl_sql_translatable, nullable::Nullable, pg_sys, varlena,
};

use super::float_array::features;
use super::record::{self, Places};
use super::varlena::{FlatWords, Value, argument, message, own_state, return_null, version_1};
use crate::error::{SqlResult, from_core, report};
use crate::isolation_forest::{
    explanation_json, feature_names, first_state, model_error, read_json, row_error, score_error,
};
use crate::pg::json_arg::JsonArg;

version_1!(
    pg_finfo_isolation_forest_trans,
    pg_finfo_isolation_forest_combine,
    pg_finfo_anomaly_sample_recv,
    pg_finfo_anomaly_model_recv,
    pg_finfo_model_anomaly_score,
    pg_finfo_model_anomaly_deviation,
    pg_finfo_model_is_anomaly,
    pg_finfo_model_explain_score,
    pg_finfo_model_score_row,
    pg_finfo_model_score_json,
);

struct SampleWords;

impl FlatWords for SampleWords {
    const NAME: &str = "anomaly_sample";
    const HEADER: usize = sampler::HEADER;
}

/// A sample that a SQL function received, detoasted.
pub struct SampleArg<'fcx> {
    words: &'fcx [u64],
}

impl SampleArg<'_> {
    /// The rows of the sample; XX001 for a damaged value.
    pub fn sample(&self) -> SqlResult<Sample> {
        Sample::from_words(self.words).map_err(from_core)
    }

    /// The options that the aggregate was called with.
    pub fn options(&self) -> SqlResult<Vec<u8>> {
        sampler::options(self.words).map_err(from_core)
    }

    pub fn encode(&self) -> SqlResult<Vec<u8>> {
        sampler::encode(self.words).map_err(from_core)
    }
}

/// A sample that a SQL function returns.
pub struct SampleValue(pub Vec<u64>);

/// The bytes of a model that a SQL function received.
pub struct ModelArg<'fcx> {
    bytes: &'fcx [u8],
}

impl<'fcx> ModelArg<'fcx> {
    pub fn bytes(&self) -> &'fcx [u8] {
        self.bytes
    }
}

/// An encoded model that a SQL function returns.
pub struct ModelValue(pub Vec<u8>);

impl_sql_translatable!(SampleArg<'_>, "anomaly_sample");
impl_sql_translatable!(SampleValue, "anomaly_sample");
impl_sql_translatable!(ModelArg<'_>, "anomaly_model");
impl_sql_translatable!(ModelValue, "anomaly_model");

impl FromDatum for SampleArg<'_> {
    unsafe fn from_polymorphic_datum(
        datum: pg_sys::Datum,
        is_null: bool,
        _type: pg_sys::Oid,
    ) -> Option<Self> {
        if is_null {
            return None;
        }
        // SAFETY: a datum of type anomaly_sample that is not NULL points to a varlena; the detoasted
        // value lives as long as the call's memory context, and nobody writes to an argument.
        Some(SampleArg { words: unsafe { Value::<SampleWords>::detoasted(datum).words() } })
    }
}

impl FromDatum for ModelArg<'_> {
    unsafe fn from_polymorphic_datum(
        datum: pg_sys::Datum,
        is_null: bool,
        _type: pg_sys::Oid,
    ) -> Option<Self> {
        // SAFETY: a datum of type anomaly_model that is not NULL points to a varlena; the detoasted
        // value lives as long as the call's memory context.
        (!is_null).then(|| ModelArg { bytes: unsafe { model_bytes(datum) } })
    }
}

/// Declares how a type of argument is read, from how its datum is.
macro_rules! argument_by_datum {
    ($($type:ident),+) => { $(
        // SAFETY: unboxes what the type's own FromDatum unboxes.
        unsafe impl<'fcx> ArgAbi<'fcx> for $type<'fcx> {
            unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
                // SAFETY: the caller's promise, passed on.
                match unsafe { arg.unbox_arg_using_from_datum() } {
                    Some(value) => value,
                    None => Err(report(
                        PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
                        "argument must not be NULL",
                    ))
                    .unwrap_or_report(),
                }
            }

            unsafe fn unbox_nullable_arg(arg: Arg<'_, 'fcx>) -> Nullable<Self> {
                // SAFETY: the caller's promise, passed on.
                unsafe { arg.unbox_arg_using_from_datum() }.into()
            }
        }
    )+ };
}
argument_by_datum!(SampleArg, ModelArg);

// SAFETY: returns a palloc'd varlena of the declared type.
unsafe impl BoxRet for SampleValue {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        let value = Value::<SampleWords>::copied(&self.0);
        // SAFETY: a valid value of the return type in the caller's memory context.
        unsafe { fcinfo.return_raw_datum(value.datum()) }
    }
}

// SAFETY: returns a palloc'd varlena of the declared type.
unsafe impl BoxRet for ModelValue {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        let datum = model_datum(&self.0);
        // SAFETY: a valid value of the return type in the caller's memory context.
        unsafe { fcinfo.return_raw_datum(datum) }
    }
}

/// A varlena of these bytes in the current memory context. Its length is bounded by what the core
/// trains (`isolation_forest.rs`) and by what PostgreSQL hands in, half a GB.
fn model_datum(bytes: &[u8]) -> pg_sys::Datum {
    pgrx::rust_byte_slice_to_bytea(bytes).into_pg().into()
}

/// # Safety
/// `datum` is a non-NULL datum of type anomaly_model that lives during `'a`.
unsafe fn model_bytes<'a>(datum: pg_sys::Datum) -> &'a [u8] {
    // SAFETY: the caller's promise; the detoasted value is plain or has a short header.
    unsafe { varlena::varlena_to_byte_slice(pg_sys::pg_detoast_datum_packed(datum.cast_mut_ptr())) }
}

/// `isolation_forest_trans(anomaly_sample, double precision[] [, jsonb])`: adds a row to a sample.
///
/// # Safety
/// Called by PostgreSQL with arguments of these types.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn isolation_forest_trans(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: arguments as declared in SQL; the state is ours alone, see `own_state`.
    unsafe {
        let state = argument(fcinfo, 0);
        let Some(row) = argument(fcinfo, 1) else {
            return state.unwrap_or_else(|| return_null(fcinfo));
        };
        let row = features(row).unwrap_or_report();
        let mut value: Value<SampleWords> = match state {
            Some(state) => own_state(fcinfo, state),
            None => {
                let options = if (*fcinfo).nargs > 2 { argument(fcinfo, 2) } else { None };
                let options = options.and_then(|datum| JsonArg::from_datum(datum, false));
                let words = first_state(row.len(), options.map(|json| json.0)).unwrap_or_report();
                Value::copied(&words)
            }
        };
        loop {
            match sampler::add(value.words_mut(), &row).map_err(row_error).unwrap_or_report() {
                Room::Ready => return value.datum(),
                Room::Grow(words) => value = value.grown(words),
            }
        }
    }
}

/// `isolation_forest_combine(anomaly_sample, anomaly_sample)`: the sample of the rows of both.
///
/// # Safety
/// Called by PostgreSQL with two arguments of these types.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn isolation_forest_combine(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: arguments as declared in SQL; the other state is only read, the first is ours alone.
    unsafe {
        let (state, other) = (argument(fcinfo, 0), argument(fcinfo, 1));
        let Some(other) = other else {
            return state.unwrap_or_else(|| return_null(fcinfo));
        };
        let other = Value::<SampleWords>::detoasted(other).words();
        let Some(state) = state else {
            let used = sampler::used(other).map_err(from_core).unwrap_or_report();
            // A copy: the other state is not ours to hand on.
            return Value::<SampleWords>::copied(&other[..used]).datum();
        };
        let mut value: Value<SampleWords> = own_state(fcinfo, state);
        loop {
            match sampler::merge(value.words_mut(), other).map_err(row_error).unwrap_or_report() {
                Room::Ready => return value.datum(),
                Room::Grow(words) => value = value.grown(words),
            }
        }
    }
}

/// `anomaly_sample_recv(internal)`: reads the binary form.
///
/// # Safety
/// Called by PostgreSQL with a message buffer.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn anomaly_sample_recv(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: one argument, as declared in SQL.
    let Some(bytes) = (unsafe { message(fcinfo) }) else {
        // SAFETY: the running call.
        return unsafe { return_null(fcinfo) };
    };
    let words = sampler::decode(bytes).map_err(from_core).unwrap_or_report();
    Value::<SampleWords>::copied(&words).datum()
}

/// `anomaly_model_recv(internal)`: reads the binary form.
///
/// # Safety
/// Called by PostgreSQL with a message buffer.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn anomaly_model_recv(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: one argument, as declared in SQL.
    let Some(bytes) = (unsafe { message(fcinfo) }) else {
        // SAFETY: the running call.
        return unsafe { return_null(fcinfo) };
    };
    Model::decode(bytes).map_err(model_error).unwrap_or_report();
    model_datum(bytes)
}

/// What tells models apart within a query: the envelope's header, with length and checksum, or for a
/// value that is stored out of line where it is stored, which is known without fetching it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Key {
    Header([u8; 16]),
    Stored([u8; 16]),
}

const _: () = assert!(size_of::<pg_sys::varatt_external>() == 16);

impl Key {
    /// # Safety
    /// `datum` is a non-NULL datum of type anomaly_model.
    #[inline]
    unsafe fn of(datum: pg_sys::Datum) -> Option<Key> {
        let ptr = datum.cast_mut_ptr::<pg_sys::varlena>();
        // SAFETY: the caller's promise; the tag tells how many bytes follow.
        unsafe {
            if varlena::varatt_is_1b_e(ptr) {
                const ON_DISK: u32 = pg_sys::vartag_external::VARTAG_ONDISK;
                if u32::from(varlena::vartag_external(ptr)) != ON_DISK {
                    return None;
                }
                return Some(Key::Stored(varlena::vardata_1b_e(ptr).cast::<[u8; 16]>().read()));
            }
            if !varlena::varatt_is_4b_u(ptr) {
                return None;
            }
            let bytes = varlena::varlena_to_byte_slice(ptr);
            bytes.first_chunk().map(|header| Key::Header(*header))
        }
    }
}

/// Encoded bytes of models that one place in a query keeps decoded; in memory they take some five
/// times as much. A query may score each row by the model of its group.
const MOST_HELD: usize = 16 << 20;

struct Known {
    key: Key,
    bytes: usize,
    model: Model,
    /// Where records have its features.
    places: Places,
}

/// Decoded models of one place in a query; dropped with the memory of that place.
#[derive(Default)]
struct Models {
    known: Vec<Known>,
    held: usize,
    /// Where the last row's model is.
    last: usize,
    scratch: Scratch,
    /// The row at hand where it is not an array.
    row: Vec<f64>,
}

impl Models {
    /// # Safety
    /// `datum` is a non-NULL datum of type anomaly_model.
    #[inline]
    unsafe fn find(&mut self, datum: pg_sys::Datum) -> SqlResult<usize> {
        // SAFETY: the caller's promise.
        let key = unsafe { Key::of(datum) };
        if key.is_some() && self.known.get(self.last).map(|known| known.key) == key {
            return Ok(self.last);
        }
        // SAFETY: the caller's promise.
        unsafe { self.find_other(datum, key) }
    }

    /// # Safety
    /// As for `find`.
    #[cold]
    unsafe fn find_other(&mut self, datum: pg_sys::Datum, key: Option<Key>) -> SqlResult<usize> {
        let place = |known: &[Known], key| known.iter().position(|known| known.key == key);
        if let Some(at) = key.and_then(|key| place(&self.known, key)) {
            self.last = at;
            return Ok(at);
        }
        // SAFETY: the caller's promise; the bytes are used in this call only.
        let bytes: &[u8] = unsafe { model_bytes(datum) };
        let header = bytes.first_chunk().copied().unwrap_or_default();
        let key = key.unwrap_or(Key::Header(header));
        if let Some(at) = place(&self.known, key) {
            self.last = at;
            return Ok(at);
        }
        let model = Model::decode(bytes).map_err(model_error)?;
        while self.held + bytes.len() > MOST_HELD && !self.known.is_empty() {
            self.held -= self.known.remove(0).bytes;
        }
        self.held += bytes.len();
        self.known.push(Known { key, bytes: bytes.len(), model, places: Places::default() });
        self.last = self.known.len() - 1;
        Ok(self.last)
    }
}

/// What a function of (anomaly_model, row) says about the row.
///
/// # Safety
/// `fcinfo` is that of the running call of a STRICT function whose first argument is a model.
#[inline(always)]
unsafe fn with_known<T>(
    fcinfo: pg_sys::FunctionCallInfo,
    ask: impl FnOnce(&mut Known, pg_sys::Datum, &mut Vec<f64>, &mut Scratch) -> SqlResult<T>,
) -> Option<T> {
    // SAFETY: the caller's promise. Only this function uses `fn_extra` of what calls it, in the
    // memory context that lives as long.
    unsafe {
        let (model, row) = (argument(fcinfo, 0)?, argument(fcinfo, 1)?);
        let place = (*fcinfo).flinfo;
        if (*place).fn_extra.is_null() {
            (*place).fn_extra = PgMemoryContexts::For((*place).fn_mcxt)
                .leak_and_drop_on_delete(Models::default())
                .cast();
        }
        let models = &mut *(*place).fn_extra.cast::<Models>();
        let at = models.find(model).unwrap_or_report();
        let said = ask(&mut models.known[at], row, &mut models.row, &mut models.scratch);
        Some(said.unwrap_or_report())
    }
}

/// What a function of (anomaly_model, double precision[]) says about the row.
///
/// # Safety
/// `fcinfo` is that of the running call of a STRICT function with these arguments.
#[inline(always)]
unsafe fn with_model<T>(
    fcinfo: pg_sys::FunctionCallInfo,
    ask: impl FnOnce(&Model, &[f64], &mut Scratch) -> anomaly_core::Result<T>,
) -> Option<T> {
    // SAFETY: the caller's promise: the row is a double precision[].
    unsafe {
        with_known(fcinfo, |known, row, _, scratch| {
            ask(&known.model, &features(row)?, scratch).map_err(score_error)
        })
    }
}

/// The score of a row whose features are found by their names.
///
/// # Safety
/// `fcinfo` is that of the running call of a STRICT function whose first argument is a model, and
/// `read` takes its second argument.
unsafe fn scored_by_name(
    fcinfo: pg_sys::FunctionCallInfo,
    read: impl FnOnce(pg_sys::Datum, &[String], &mut Places, &mut Vec<f64>) -> SqlResult<()>,
) -> pg_sys::Datum {
    // SAFETY: the caller's promise.
    let scored = unsafe {
        with_known(fcinfo, |Known { model, places, .. }, datum, row, scratch| {
            read(datum, feature_names(model)?, places, row)?;
            model.judge(row, scratch).map_err(score_error)
        })
    };
    match scored {
        Some(scored) => pg_sys::Datum::from(scored.anomaly_score().to_bits()),
        // SAFETY: the running call.
        None => unsafe { return_null(fcinfo) },
    }
}

/// # Safety
/// As for `with_model`.
#[inline(always)]
unsafe fn judged(
    fcinfo: pg_sys::FunctionCallInfo,
    answer: impl FnOnce(Scored) -> pg_sys::Datum,
) -> pg_sys::Datum {
    // SAFETY: the caller's promise.
    unsafe {
        match with_model(fcinfo, |model, row, scratch| model.judge(row, scratch)) {
            Some(scored) => answer(scored),
            None => return_null(fcinfo),
        }
    }
}

/// `anomaly_score(anomaly_model, double precision[])`.
///
/// # Safety
/// Called by PostgreSQL as declared in SQL.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn model_anomaly_score(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: arguments as declared in SQL.
    unsafe { judged(fcinfo, |scored| pg_sys::Datum::from(scored.anomaly_score().to_bits())) }
}

/// `anomaly_score_row(anomaly_model, record)`.
///
/// # Safety
/// Called by PostgreSQL as declared in SQL.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn model_score_row(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: arguments as declared in SQL: the second is a record.
    unsafe {
        scored_by_name(fcinfo, |datum, names, places, row| {
            record::numbers(datum, names, places, row)
        })
    }
}

/// `anomaly_score_json(anomaly_model, jsonb)`.
///
/// # Safety
/// Called by PostgreSQL as declared in SQL.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn model_score_json(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: arguments as declared in SQL: the second is a jsonb, of which core's function makes a
    // text in the current memory context.
    unsafe {
        scored_by_name(fcinfo, |datum, names, _, row| {
            let text = direct_function_call_as_datum(pg_sys::jsonb_out, &[Some(datum)]);
            let text = text.map_or(c"null", |text| CStr::from_ptr(text.cast_mut_ptr()));
            read_json(text, names, row)
        })
    }
}

/// `anomaly_deviation(anomaly_model, double precision[])`.
///
/// # Safety
/// Called by PostgreSQL as declared in SQL.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn model_anomaly_deviation(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: arguments as declared in SQL.
    unsafe { judged(fcinfo, |scored| pg_sys::Datum::from(scored.deviation().to_bits())) }
}

/// `is_anomaly(anomaly_model, double precision[])`.
///
/// # Safety
/// Called by PostgreSQL as declared in SQL.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn model_is_anomaly(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: arguments as declared in SQL.
    unsafe { judged(fcinfo, |scored| pg_sys::Datum::from(scored.is_anomaly)) }
}

/// `explain_score(anomaly_model, double precision[])`.
///
/// # Safety
/// Called by PostgreSQL as declared in SQL.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn model_explain_score(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    let explain = |model: &Model, row: &[f64], scratch: &mut Scratch| {
        let why: Explanation = model.explain(row, scratch)?;
        Ok(explanation_json(&why, row))
    };
    // SAFETY: arguments as declared in SQL.
    unsafe {
        let json = with_model(fcinfo, explain).and_then(|json| JsonB(json).into_datum());
        json.unwrap_or_else(|| return_null(fcinfo))
    }
}
