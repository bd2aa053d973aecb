//! Everything that touches PostgreSQL's C interface. The only place where `unsafe` is allowed.

pub mod agg;
pub mod bgworker;
pub mod catalog;
pub mod counts;
pub mod database_list;
pub mod distinct;
pub mod filesystem;
pub mod float_array;
pub mod forest;
pub mod guc_prefix;
pub mod internal_rights;
pub mod interrupts;
pub mod latch;
pub mod locks;
pub mod memory;
pub mod parse;
pub mod result_set;
pub mod session;
pub mod shmem;
pub mod signals;
pub mod snapshot;
pub mod stream;
pub mod subxact;
pub mod timer;
pub mod varlena;
pub mod xact;
