//! A `jsonb` that a caller passes.
//!
//! PostgreSQL takes what serde_json does not: numbers beyond double precision, and values nested more than 127 deep.
//! pgrx's `JsonB` panics on these (XX000), so functions take this type instead.

use std::ffi::CStr;

use pgrx::callconv::{Arg, ArgAbi};
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::{
    FromDatum, PgSqlErrorCode, direct_function_call, impl_sql_translatable, nullable::Nullable,
    pg_sys,
};
use serde_json::Value;

use crate::{error::report, json, pg::payload};

/// Its error is 22003 for a number, 54000 for nesting and for more than a session may bring.
#[derive(Debug)]
pub struct JsonArg(pub Value);

impl_sql_translatable!(JsonArg, arg_only = "jsonb");

impl FromDatum for JsonArg {
    unsafe fn from_polymorphic_datum(
        datum: pg_sys::Datum,
        is_null: bool,
        _type: pg_sys::Oid,
    ) -> Option<Self> {
        if is_null {
            return None;
        }
        // SAFETY: a datum of type jsonb that is not NULL is a varlena.
        unsafe { payload::check(datum) };
        // SAFETY: a datum of type jsonb that is not NULL; jsonb_out detoasts it and answers a C string of ours.
        let text = unsafe { direct_function_call::<&CStr>(pg_sys::jsonb_out, &[Some(datum)]) }?;
        let value = json::parse(&text.to_string_lossy()).unwrap_or_report();
        // SAFETY: palloc'd by jsonb_out, and not used any more.
        unsafe { pg_sys::pfree(text.as_ptr().cast_mut().cast()) };
        Some(JsonArg(value))
    }
}

// SAFETY: unboxes what the type's own FromDatum unboxes.
unsafe impl<'fcx> ArgAbi<'fcx> for JsonArg {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the caller's promise, passed on.
        match unsafe { arg.unbox_arg_using_from_datum() } {
            Some(json) => json,
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
