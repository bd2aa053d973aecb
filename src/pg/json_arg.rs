//! A `jsonb` that a caller passes, of a size that a session may bring.

use pgrx::callconv::{Arg, ArgAbi};
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::{FromDatum, JsonB, PgSqlErrorCode, impl_sql_translatable, nullable::Nullable, pg_sys};
use serde_json::Value;

use crate::{error::report, pg::payload};

/// Its error is 54000 for one that is too large.
#[derive(Debug)]
pub struct JsonArg(pub Value);

impl_sql_translatable!(JsonArg, arg_only = "jsonb");

impl FromDatum for JsonArg {
    unsafe fn from_polymorphic_datum(
        datum: pg_sys::Datum,
        is_null: bool,
        type_oid: pg_sys::Oid,
    ) -> Option<Self> {
        if is_null {
            return None;
        }
        // SAFETY: a datum of type jsonb that is not NULL is a varlena.
        unsafe { payload::check(datum) };
        // SAFETY: the caller's promise, passed on.
        unsafe { JsonB::from_polymorphic_datum(datum, is_null, type_oid) }
            .map(|json| JsonArg(json.0))
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
