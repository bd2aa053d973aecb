//! `double precision[]` read in place.

use std::borrow::Cow;

use pgrx::{pg_sys, varlena};

use crate::error::{SqlResult, invalid};

/// The elements of an array, NaN where it has NULL; 22023 for more than one dimension.
///
/// # Safety
/// `datum` is a non-NULL `double precision[]` that lives during `'a`.
pub unsafe fn features<'a>(datum: pg_sys::Datum) -> SqlResult<Cow<'a, [f64]>> {
    let ptr = datum.cast_mut_ptr::<pg_sys::varlena>();
    // SAFETY: the caller's promise; a detoasted copy lives in the memory context of the call.
    let array = unsafe {
        let plain =
            varlena::varatt_is_4b_u(ptr) && (ptr as usize).is_multiple_of(align_of::<f64>());
        if plain { ptr } else { pg_sys::pg_detoast_datum_copy(ptr) }
    };
    let head = array.cast::<pg_sys::ArrayType>();
    // SAFETY: a plain array, so its head is readable.
    let (dimensions, data_offset) = unsafe { ((*head).ndim, (*head).dataoffset) };
    if dimensions == 0 {
        return Ok(Cow::Borrowed(&[]));
    }
    if dimensions != 1 {
        return Err(invalid(
            format!("the array of features has {dimensions} dimensions"),
            "give each row an array of one dimension, such as ARRAY[amount, items, age]",
        ));
    }
    const HEAD: usize = size_of::<pg_sys::ArrayType>();
    // One length and one lower bound.
    const BITMAP: usize = HEAD + 8;
    // SAFETY: an array of one dimension has its length after its head, then its elements or, if it
    // has a data offset, a bitmap of the elements that are not NULL, and at that offset those.
    // Elements are aligned as PostgreSQL aligns double precision, and the array's start to 8.
    unsafe {
        let start = array.cast::<u8>();
        let n = *start.add(HEAD).cast::<i32>() as usize;
        if data_offset == 0 {
            let elements = start.add(BITMAP.next_multiple_of(align_of::<f64>())).cast::<f64>();
            return Ok(Cow::Borrowed(std::slice::from_raw_parts(elements, n)));
        }
        let mut next = start.add(data_offset as usize).cast::<f64>();
        let values = (0..n).map(|i| {
            if *start.add(BITMAP + i / 8) & 1 << (i % 8) == 0 {
                return f64::NAN;
            }
            let x = *next;
            next = next.add(1);
            x
        });
        Ok(Cow::Owned(values.collect()))
    }
}
