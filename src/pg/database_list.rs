//! The databases of this server, read the way the autovacuum launcher does: as a catalogue scan, for
//! a process without a database cannot run SQL.

use pgrx::{PgRelation, pg_sys};

/// Databases that take connections and are no templates.
pub fn connectable() -> Vec<pg_sys::Oid> {
    let mut found = Vec::new();
    // SAFETY: within a transaction with a snapshot; the relation and the scan are closed again, and
    // if anything raises, the abort of the transaction does it. `FormData_pg_database` holds the
    // fixed part of the row, which is never NULL.
    unsafe {
        pg_sys::StartTransactionCommand();
        pg_sys::GetTransactionSnapshot();
        let relation =
            PgRelation::with_lock(pg_sys::DatabaseRelationId, pg_sys::AccessShareLock as i32);
        let scan = pg_sys::table_beginscan_catalog(relation.as_ptr(), 0, std::ptr::null_mut());
        loop {
            let tuple = pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection);
            if tuple.is_null() {
                break;
            }
            let row = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_database>();
            // A negative limit other than -1 marks a database whose DROP was interrupted.
            if row.datallowconn && !row.datistemplate && row.datconnlimit >= -1 {
                found.push(row.oid);
            }
        }
        pg_sys::table_endscan(scan);
        drop(relation);
        pg_sys::CommitTransactionCommand();
    }
    found
}
