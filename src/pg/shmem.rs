//! What our processes share: which database has work due when, and who is running.
//!
//! Everything here is a hint that can be rebuilt: after a restart of the server it is empty and the
//! launcher visits every database once. What must not be lost is in tables. Both arrays are bounded,
//! guarded by one lightweight lock, and nothing that can raise or wait happens while it is held.

use pgrx::{PGRXSharedMemory, PgLwLock, pg_guard, pg_sys};

use crate::pg::{latch, latch::LatchAddress};

/// Databases the launcher can keep in mind. 64 bytes each; beyond it a server has databases whose
/// detectors nobody runs, and the launcher says so.
pub const MAX_DATABASES: usize = 1024;
/// Upper limit of `anomaly_detection.max_workers`.
pub const MAX_SLOTS: usize = 64;
/// Owners whose latest worker is remembered: more than have workers at a time, so that whoever has been
/// forgotten was served longer ago than all that are remembered.
pub const MAX_SERVED: usize = 256;
/// "Never", as a due time.
pub const NEVER: i64 = i64::MAX;

/// How the last visit to a database ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Outcome {
    /// Not visited since the server started.
    Unvisited,
    /// No extension there.
    Absent,
    /// Scheduling works.
    Scheduling,
    /// Nobody has resumed this restored, copied or paused database.
    Paused,
    /// `anomaly_detection.enabled` is off for this database.
    Disabled,
    /// The SQL objects are of a version that this library does not know.
    UnknownVersion,
    /// Somebody is changing the extension.
    Busy,
    /// The visitor ended with an error.
    Failed,
}

/// What is known of one database.
#[derive(Clone, Copy)]
pub struct Database {
    pub oid: u32,
    pub outcome: Outcome,
    /// A dispatcher has been started and has not ended.
    pub visiting: bool,
    /// The visitor has reported back.
    pub reported: bool,
    /// Visits and workers that ended with an error in a row.
    pub failures: u32,
    /// When something is due there, µs; [`NEVER`].
    pub next_due: i64,
    /// No visit before this time, whatever is due (back-off).
    pub not_before: i64,
    pub visits: u64,
    /// How often due work found no worker slot.
    pub starved: u64,
    pub last_starved: i64,
    /// Due times have been looked at by the clock as it goes now.
    pub clock_checked: bool,
}

const NO_DATABASE: Database = Database {
    oid: 0,
    outcome: Outcome::Unvisited,
    visiting: false,
    reported: false,
    failures: 0,
    next_due: NEVER,
    not_before: 0,
    visits: 0,
    starved: 0,
    last_starved: 0,
    clock_checked: false,
};

/// A scan worker, from the moment a dispatcher reserves it.
#[derive(Clone, Copy)]
pub struct Slot {
    /// Zero: free.
    pub database: u32,
    pub owner: u32,
    /// Goes up with each reservation, so that a worker that starts too late does not take over
    /// somebody else's slot.
    pub generation: u32,
    /// Zero until the worker has started.
    pub pid: i32,
    pub latch: LatchAddress,
    pub reserved_at: i64,
    /// A dispatcher saw more due work of this owner while the worker was busy.
    pub look_again: bool,
    pub run_id: i64,
    pub rows: i64,
}

const NO_SLOT: Slot = Slot {
    database: 0,
    owner: 0,
    generation: 0,
    pid: 0,
    latch: 0,
    reserved_at: 0,
    look_again: false,
    run_id: 0,
    rows: 0,
};

/// When an owner was given a worker last.
#[derive(Clone, Copy)]
pub struct Served {
    /// Zero: none.
    pub database: u32,
    pub owner: u32,
    /// Turns and not times: the clock may be set back.
    pub turn: u64,
}

const NOT_SERVED: Served = Served { database: 0, owner: 0, turn: 0 };

/// The shared area.
#[derive(Clone, Copy)]
pub struct Shared {
    pub launcher_pid: i32,
    pub launcher_latch: LatchAddress,
    /// When the server last warned that due work has no worker.
    pub last_warned: i64,
    pub databases: [Database; MAX_DATABASES],
    pub slots: [Slot; MAX_SLOTS],
    pub served: [Served; MAX_SERVED],
}

impl Shared {
    /// The entry of a database, made if there is room.
    pub fn database(&mut self, oid: u32) -> Option<&mut Database> {
        let at = self
            .databases
            .iter()
            .position(|d| d.oid == oid)
            .or_else(|| self.databases.iter().position(|d| d.oid == 0))?;
        let entry = self.databases.get_mut(at)?;
        if entry.oid == 0 {
            *entry = Database { oid, ..NO_DATABASE };
        }
        Some(entry)
    }

    /// The turn in which an owner was given a worker last; zero when that is not remembered.
    pub fn turn_of(&self, database: u32, owner: u32) -> u64 {
        self.served
            .iter()
            .find(|s| s.database == database && s.owner == owner)
            .map_or(0, |s| s.turn)
    }

    /// Remembers that an owner is given a worker now, in the place of what is longest ago.
    pub fn note_served(&mut self, database: u32, owner: u32) {
        let turn = self.served.iter().map(|s| s.turn).max().unwrap_or(0) + 1;
        let known = self.served.iter().position(|s| s.database == database && s.owner == owner);
        let oldest = || self.served.iter().enumerate().min_by_key(|(_, s)| s.turn).map(|(i, _)| i);
        let place = known.or_else(oldest).and_then(|i| self.served.get_mut(i));
        if let Some(place) = place {
            *place = Served { database, owner, turn };
        }
    }

    /// The slot of a worker, if it is still this reservation's.
    pub fn slot(&mut self, index: usize, generation: u32) -> Option<&mut Slot> {
        self.slots.get_mut(index).filter(|s| s.database != 0 && s.generation == generation)
    }
}

// SAFETY: plain integers, enums and arrays of them; no pointers that are followed as Rust references.
unsafe impl PGRXSharedMemory for Shared {}

// SAFETY: the name is ours alone.
static SHARED: PgLwLock<Shared> = unsafe { PgLwLock::new(c"anomaly_detection") };
static REQUESTED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// Asks for the shared area. Only while shared_preload_libraries is being processed.
pub fn request() {
    pgrx::pg_shmem_init!(
        SHARED = Shared {
            launcher_pid: 0,
            launcher_latch: 0,
            last_warned: 0,
            databases: [NO_DATABASE; MAX_DATABASES],
            slots: [NO_SLOT; MAX_SLOTS],
            served: [NOT_SERVED; MAX_SERVED],
        }
    );
    REQUESTED.store(true, std::sync::atomic::Ordering::Relaxed);
}

/// Whether the library was preloaded and the area is there. Inherited from the postmaster.
pub fn is_there() -> bool {
    REQUESTED.load(std::sync::atomic::Ordering::Relaxed)
}

/// Reads under the lock; `None` without preload. `read` must not raise.
pub fn read<R>(read: impl FnOnce(&Shared) -> R) -> Option<R> {
    is_there().then(|| read(&SHARED.share()))
}

/// Changes under the lock; `None` without preload. `change` must not raise.
pub fn change<R>(change: impl FnOnce(&mut Shared) -> R) -> Option<R> {
    is_there().then(|| change(&mut SHARED.exclusive()))
}

/// Wakes the launcher, if there is one.
pub fn wake_launcher() {
    if let Some(address) = read(|shared| shared.launcher_latch) {
        latch::set(address);
    }
}
