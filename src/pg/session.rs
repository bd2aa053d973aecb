//! Who is calling, and when.

use std::cell::Cell;

use pgrx::pg_sys;

thread_local! {
    /// What the clock shows instead of the time, while something is replayed.
    static REPLAYED: Cell<Option<i64>> = const { Cell::new(None) };
}

/// Puts the clock of this session to another time, until it is dropped.
pub struct Clock(());

impl Clock {
    pub fn at(time: i64) -> Self {
        REPLAYED.set(Some(time));
        Clock(())
    }

    pub fn set(&self, time: i64) {
        REPLAYED.set(Some(time));
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        REPLAYED.set(None);
    }
}

/// Whether the past is replayed, of which nothing will be left.
pub fn is_replaying() -> bool {
    REPLAYED.get().is_some()
}

/// The role whose rights apply now.
pub fn current_user() -> pg_sys::Oid {
    // SAFETY: reads a backend-local variable.
    unsafe { pg_sys::GetUserId() }
}

/// The role that logged in (or was set by a superuser with SET SESSION AUTHORIZATION).
pub fn session_user() -> pg_sys::Oid {
    // SAFETY: reads a backend-local variable.
    unsafe { pg_sys::GetSessionUserId() }
}

/// Whether there is such a role.
pub fn exists(role: pg_sys::Oid) -> bool {
    // SAFETY: a catalogue look-up inside a transaction, which every SQL function is in; with noerr the answer for a
    // missing role is NULL, and the name is freed with the memory context.
    unsafe { !pg_sys::GetUserNameFromId(role, true).is_null() }
}

/// Whether the role is a superuser.
pub fn is_superuser(role: pg_sys::Oid) -> bool {
    // SAFETY: a catalogue look-up inside a transaction, which every SQL function is in.
    unsafe { pg_sys::superuser_arg(role) }
}

/// Whether `role` has the rights of `of` (is it, or is a member that inherits).
pub fn has_privileges_of(role: pg_sys::Oid, of: pg_sys::Oid) -> bool {
    // SAFETY: a catalogue look-up inside a transaction, which every SQL function is in.
    unsafe { pg_sys::has_privs_of_role(role, of) }
}

/// The clock, µs since 2000-01-01 UTC.
pub fn now() -> i64 {
    // SAFETY: asks the operating system for the time.
    REPLAYED.get().unwrap_or_else(|| unsafe { pg_sys::GetCurrentTimestamp() })
}

/// Whether this server is replaying WAL and cannot write.
pub fn in_recovery() -> bool {
    // SAFETY: reads shared state that exists in every backend.
    unsafe { pg_sys::RecoveryInProgress() }
}
