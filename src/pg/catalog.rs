//! Look-ups in the catalogue that SQL has no function for.

use pgrx::pg_sys;

/// The type below all domains.
pub fn base_type(oid: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: a syscache look-up inside a transaction; raises for an unknown type.
    unsafe { pg_sys::getBaseType(oid) }
}
