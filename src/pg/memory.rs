//! How much memory Rust's heap holds, so that work can be ended before the server runs out of it.
//!
//! PostgreSQL knows nothing of what Rust allocates: it counts neither against `work_mem` nor for
//! `pg_backend_memory_contexts`, and an allocation that fails ends the whole server. So every allocation
//! is counted, and long work looks at the count as often as it asks whether it was cancelled. Nothing is
//! refused here: an allocator must not unwind.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

struct Counted;

#[global_allocator]
static ALLOCATOR: Counted = Counted;

static HELD: AtomicUsize = AtomicUsize::new(0);

/// Bytes that this process holds now.
pub fn held() -> usize {
    HELD.load(Relaxed)
}

// A backend has one thread, so that reading and writing in two steps loses nothing and needs no locked
// instruction; with more threads the count would merely be off.
#[inline]
fn add(bytes: usize) {
    HELD.store(HELD.load(Relaxed).wrapping_add(bytes), Relaxed);
}

#[inline]
fn subtract(bytes: usize) {
    HELD.store(HELD.load(Relaxed).wrapping_sub(bytes), Relaxed);
}

// SAFETY: the system's allocator does the work and is called with what the caller promises; counting
// allocates nothing.
unsafe impl GlobalAlloc for Counted {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    #[inline]
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        subtract(layout.size());
        add(new_size);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(ptr, layout, new_size) }
    }

    #[inline]
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        subtract(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(ptr, layout) }
    }
}
