//! Locks that outlive a transaction, and the one that keeps DROP EXTENSION and a run apart.
//!
//! * A *run* holds an advisory session lock on its number from its claim to its end. A row of
//!   anomaly.run that says 'running' and whose lock is free has crashed, whatever took it down.
//! * A *detector* or *monitor* is locked while it runs, so that two runs of it exclude each other.
//! * Every transaction of a run first takes a share lock on the extension itself. DROP EXTENSION
//!   takes the same object exclusively before anything else, so it waits for the run, or the run for
//!   it, and never each for the other.
//!
//! Advisory locks here use their own number in the fourth field, which SQL's functions cannot set.

use std::hash::{Hash, Hasher};

use pgrx::pg_sys;

const RUN_LOCK: u16 = 2601;
const ITEM_LOCK: u16 = 2602;
const JOB_LOCK: u16 = 2603;

/// What is locked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key {
    high: u32,
    low: u32,
    class: u16,
}

/// The lock of a run.
pub fn run_key(run_id: i64) -> Key {
    split(run_id as u64, RUN_LOCK)
}

/// The lock of a job.
pub fn job_key(job_id: i64) -> Key {
    split(job_id as u64, JOB_LOCK)
}

/// The lock of a detector or a monitor, named `d…` or `m…`. Two names that fall on the same 64 bits
/// would only wait for each other.
pub fn item_key(prefix: char, name: &str) -> Key {
    // The same name must give the same key in every process and version: FNV-1a, written out,
    // because std's hashers promise no such thing.
    struct Fnv(u64);
    impl Hasher for Fnv {
        fn finish(&self) -> u64 {
            self.0
        }
        fn write(&mut self, bytes: &[u8]) {
            for &b in bytes {
                self.0 = (self.0 ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        }
    }
    let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
    prefix.hash(&mut hasher);
    hasher.write(name.as_bytes());
    split(hasher.finish(), ITEM_LOCK)
}

impl Key {
    /// As pg_locks shows it: classid, objid, objsubid.
    pub fn in_pg_locks(self) -> (pg_sys::Oid, pg_sys::Oid, i16) {
        (pg_sys::Oid::from(self.high), pg_sys::Oid::from(self.low), self.class as i16)
    }

    fn tag(self) -> pg_sys::LOCKTAG {
        pg_sys::LOCKTAG {
            // SAFETY: reads a backend-local variable.
            locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
            locktag_field2: self.high,
            locktag_field3: self.low,
            locktag_field4: self.class,
            locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
            locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
        }
    }
}

fn split(value: u64, class: u16) -> Key {
    Key { high: (value >> 32) as u32, low: value as u32, class }
}

/// How long a lock is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Until {
    TransactionEnd,
    Released,
}

/// Takes the lock if nobody else has it. Answers false otherwise, and also when this session has it
/// already, for a run must not start inside another run of the same detector.
pub fn try_lock(key: Key, until: Until) -> bool {
    let tag = key.tag();
    let session = until == Until::Released;
    // SAFETY: the tag is a valid advisory lock; no waiting.
    unsafe {
        if held_by_this_session(&tag) {
            return false;
        }
        pg_sys::LockAcquire(&tag, pg_sys::ExclusiveLock as i32, session, true)
            != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
    }
}

/// Takes the lock until the end of the transaction if no other session has it; again where this one has it.
pub fn try_lock_in_transaction(key: Key) -> bool {
    let tag = key.tag();
    // SAFETY: the tag is a valid advisory lock; no waiting.
    unsafe {
        pg_sys::LockAcquire(&tag, pg_sys::ExclusiveLock as i32, false, true)
            != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
    }
}

/// Gives a session lock back. Harmless if it is gone (a user query may call
/// pg_advisory_unlock_all()).
pub fn release(key: Key) {
    let tag = key.tag();
    // SAFETY: only released when held, else PostgreSQL would warn.
    unsafe {
        if held_by_this_session(&tag) {
            pg_sys::LockRelease(&tag, pg_sys::ExclusiveLock as i32, true);
        }
    }
}

/// Whether some session holds the lock. Askers do not disturb each other, because they ask in share
/// mode.
pub fn is_held(key: Key) -> bool {
    let tag = key.tag();
    let mode = pg_sys::ShareLock as i32;
    // SAFETY: no waiting, and what is taken is given back at once.
    unsafe {
        if held_by_this_session(&tag) {
            return true;
        }
        if pg_sys::LockAcquire(&tag, mode, false, true)
            == pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
        {
            return true;
        }
        pg_sys::LockRelease(&tag, mode, false);
    }
    false
}

/// # Safety
/// The tag must be valid.
unsafe fn held_by_this_session(tag: &pg_sys::LOCKTAG) -> bool {
    // SAFETY: as promised by the caller; a lookup in backend-local memory.
    #[cfg(feature = "pg18")]
    unsafe {
        pg_sys::LockHeldByMe(tag, pg_sys::ExclusiveLock as i32, false)
    }
    #[cfg(not(feature = "pg18"))]
    // SAFETY: as above.
    unsafe {
        pg_sys::LockHeldByMe(tag, pg_sys::ExclusiveLock as i32)
    }
}

/// Whether to wait for somebody who changes the extension.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// Up to `lock_timeout`, then 55P03.
    Yes,
    No,
}

/// Holds the extension in place until the end of the transaction. `None` when it is not installed,
/// or somebody is dropping it and `wait` is `No`.
pub fn extension(wait: Wait) -> Option<pg_sys::Oid> {
    // SAFETY: catalogue look-ups and a lock inside a transaction. The second look-up sees a DROP
    // that committed while we waited, because it follows AcceptInvalidationMessages.
    unsafe {
        let oid = pg_sys::get_extension_oid(c"anomaly_detection".as_ptr(), true);
        if oid == pg_sys::InvalidOid {
            return None;
        }
        let tag = pg_sys::LOCKTAG {
            locktag_field1: pg_sys::MyDatabaseId.to_u32(),
            locktag_field2: pg_sys::ExtensionRelationId.to_u32(),
            locktag_field3: oid.to_u32(),
            locktag_field4: 0,
            locktag_type: pg_sys::LockTagType::LOCKTAG_OBJECT as u8,
            locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
        };
        let mode = pg_sys::AccessShareLock as i32;
        if pg_sys::LockAcquire(&tag, mode, false, wait == Wait::No)
            == pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
        {
            return None;
        }
        pg_sys::AcceptInvalidationMessages();
        let now = pg_sys::get_extension_oid(c"anomaly_detection".as_ptr(), true);
        (now == oid).then_some(oid)
    }
}

/// Locks a relation, if there is one of that OID, as a query that reads it does, until the end of the transaction.
pub fn read_relation(relation: pg_sys::Oid) {
    // SAFETY: inside a transaction, whose end or abort releases it; of an OID that nothing has it keeps nobody waiting.
    unsafe { pg_sys::LockRelationOid(relation, pg_sys::AccessShareLock as pg_sys::LOCKMODE) }
}
