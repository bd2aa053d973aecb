//! Space of the file system that holds the data directory.

use std::io;
use std::mem::MaybeUninit;

use anomaly_core::system_metrics::Filesystem;

/// Asks about the current directory, which in a server process is the data directory.
pub fn of_data_directory() -> io::Result<Filesystem> {
    let mut found = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path is NUL-terminated and the buffer has the type that statvfs fills.
    let failed = unsafe { libc::statvfs(c".".as_ptr(), found.as_mut_ptr()) } != 0;
    if failed {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: statvfs succeeded, so it filled the whole struct.
    let found = unsafe { found.assume_init() };
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    Ok(Filesystem {
        used: bytes(found.f_blocks.saturating_sub(found.f_bfree)),
        available: bytes(found.f_bavail),
    })
}
