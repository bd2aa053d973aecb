//! Registering, starting, connecting and ending background workers.

use std::{
    cell::Cell,
    ffi::{CStr, CString},
};

use pgrx::{FromDatum, pg_guard, pg_sys};

use crate::worker::{dispatcher, launcher, scan_worker};

/// Whether shared_preload_libraries is being processed, outside pg_upgrade.
pub fn may_register() -> bool {
    // SAFETY: reads variables of the postmaster.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress && !pg_sys::IsBinaryUpgrade }
}

/// Seconds until the postmaster restarts a launcher that ended.
const LAUNCHER_RESTART_SECONDS: i32 = 5;

/// Registers the launcher. Only when [`may_register`].
pub fn register_launcher() {
    let mut worker = describe("launcher", "anomaly_detection_launcher", LAUNCHER_RESTART_SECONDS);
    // SAFETY: copies the structure.
    unsafe { pg_sys::RegisterBackgroundWorker(&mut worker) }
}

/// A dispatcher that the launcher started.
pub struct Started(*mut pg_sys::BackgroundWorkerHandle);

impl Started {
    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        let mut pid: pg_sys::pid_t = 0;
        // SAFETY: the handle comes from RegisterDynamicBackgroundWorker and lives in the context
        // that was current then, which in the launcher is never reset.
        let status = unsafe { pg_sys::GetBackgroundWorkerPid(self.0, &mut pid) };
        status == pg_sys::BgwHandleStatus::BGWH_STOPPED
    }

    /// Gives the handle's memory back.
    pub fn forget(self) {
        // SAFETY: allocated by palloc in RegisterDynamicBackgroundWorker; not used any more.
        unsafe { pg_sys::pfree(self.0.cast()) }
    }
}

/// Starts a dispatcher for a database; this process's latch is set when it ends. `None` when
/// `max_worker_processes` are taken.
pub fn start_dispatcher(database: u32) -> Option<Started> {
    let mut worker =
        describe("dispatcher", "anomaly_detection_dispatcher", pg_sys::BGW_NEVER_RESTART);
    worker.bgw_main_arg = pg_sys::Datum::from(database);
    // SAFETY: reads a backend-local variable.
    worker.bgw_notify_pid = unsafe { pg_sys::MyProcPid };
    start(worker)
}

/// Starts a scan worker in a reserved slot. False when `max_worker_processes` are taken.
pub fn start_scan_worker(slot: usize, generation: u32) -> bool {
    let mut worker =
        describe("scan worker", "anomaly_detection_scan_worker", pg_sys::BGW_NEVER_RESTART);
    let argument = (i64::from(generation) << 32) | slot as i64;
    worker.bgw_main_arg = pg_sys::Datum::from(argument);
    start(worker).is_some()
}

fn start(mut worker: pg_sys::BackgroundWorker) -> Option<Started> {
    let mut handle = std::ptr::null_mut();
    // SAFETY: the structure is copied; on success the handle is palloc'd in the current context,
    // which for the launcher's main loop is TopMemoryContext.
    unsafe {
        pg_sys::RegisterDynamicBackgroundWorker(&mut worker, &mut handle).then_some(Started(handle))
    }
}

fn describe(role: &str, entry: &str, restart_seconds: i32) -> pg_sys::BackgroundWorker {
    let mut worker = pg_sys::BackgroundWorker {
        bgw_flags: (pg_sys::BGWORKER_SHMEM_ACCESS | pg_sys::BGWORKER_BACKEND_DATABASE_CONNECTION)
            as i32,
        bgw_start_time: pg_sys::BgWorkerStartTime::BgWorkerStart_RecoveryFinished,
        bgw_restart_time: restart_seconds,
        ..Default::default()
    };
    let name = format!("anomaly_detection {role}");
    copy(&mut worker.bgw_name, &name);
    copy(&mut worker.bgw_type, &name);
    copy(&mut worker.bgw_library_name, "anomaly_detection");
    copy(&mut worker.bgw_function_name, entry);
    worker
}

/// Copies what fits and leaves a NUL behind it: the structure starts zeroed.
fn copy(into: &mut [std::ffi::c_char], text: &str) {
    let room = into.len().saturating_sub(1);
    for (to, from) in into.iter_mut().zip(text.bytes().take(room)) {
        *to = from as std::ffi::c_char;
    }
}

/// Connects to no database: enough to read the shared catalogues and to be seen in pg_stat_activity.
pub fn connect_to_server() {
    // SAFETY: once, at the start of a worker.
    unsafe {
        pg_sys::BackgroundWorkerInitializeConnection(std::ptr::null(), std::ptr::null(), 0);
    }
}

/// Detectors of a role that may not log in can run from PostgreSQL 17 on.
#[cfg(feature = "pg18")]
const WITHOUT_LOGIN: u32 = pg_sys::BGWORKER_BYPASS_ROLELOGINCHECK;
#[cfg(not(feature = "pg18"))]
const WITHOUT_LOGIN: u32 = 0;

/// Connects to a database as a role, or as the bootstrap superuser for `None`. If the database or
/// the role is gone or may not log in, the worker ends here with PostgreSQL's own message.
pub fn connect(database: u32, role: Option<u32>) {
    // SAFETY: once, at the start of a worker.
    unsafe {
        pg_sys::BackgroundWorkerInitializeConnectionByOid(
            pg_sys::Oid::from(database),
            role.map_or(pg_sys::InvalidOid, pg_sys::Oid::from),
            WITHOUT_LOGIN,
        );
    }
}

/// The database of this session.
pub fn my_database() -> pg_sys::Oid {
    // SAFETY: reads a backend-local variable.
    unsafe { pg_sys::MyDatabaseId }
}

/// The process number of this session.
pub fn my_pid() -> i32 {
    // SAFETY: reads a backend-local variable.
    unsafe { pg_sys::MyProcPid }
}

/// What pg_stat_activity and ps show: `Some` is what is being done, `None` is idle.
pub fn report_activity(doing: Option<&str>) {
    let text = CString::new(doing.unwrap_or("").replace('\0', "")).unwrap_or_default();
    let ps = if doing.is_some() { text.as_c_str() } else { c"idle" };
    // SAFETY: both functions copy the text.
    unsafe {
        if doing.is_some() {
            pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, text.as_ptr());
        } else {
            pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_IDLE, std::ptr::null());
        }
        show_in_ps(ps);
    }
}

#[cfg(feature = "pg15")]
unsafe fn show_in_ps(text: &CStr) {
    // SAFETY: copies the text.
    unsafe { pg_sys::set_ps_display(text.as_ptr()) }
}

#[cfg(not(feature = "pg15"))]
unsafe fn show_in_ps(text: &CStr) {
    // SAFETY: copies the text.
    unsafe { pg_sys::set_ps_display_with_len(text.as_ptr(), text.to_bytes().len()) }
}

/// Ends this process. The postmaster restarts the launcher after any code but 0, and after 0 never.
pub fn exit(code: i32) -> ! {
    // SAFETY: runs the exit callbacks and does not return.
    unsafe {
        pg_sys::proc_exit(code);
    }
    // PostgreSQL 18's bindings do not say that it never returns, those before do.
    #[allow(unreachable_code)]
    std::process::abort()
}

thread_local! {
    static AT_EXIT: Cell<Option<fn()>> = const { Cell::new(None) };
    static AT_END: Cell<Option<fn()>> = const { Cell::new(None) };
}

/// Calls `last` when this process ends, with its database connection still there: it may run a
/// transaction of its own. Register after connecting. Callable again with another function.
pub fn before_exit(last: fn()) {
    if AT_EXIT.replace(Some(last)).is_none() {
        // SAFETY: the callback lives as long as the library. Callbacks run in reverse order, so
        // this one runs before PostgreSQL's, which ends the connection.
        unsafe { pg_sys::before_shmem_exit(Some(run_at_exit), pg_sys::Datum::from(0)) }
    }
}

/// Calls `last` when this process ends, without transactions. Register before connecting, so that
/// it also runs when connecting fails.
pub fn at_end(last: fn()) {
    if AT_END.replace(Some(last)).is_none() {
        // SAFETY: the callback lives as long as the library and touches shared memory only.
        unsafe { pg_sys::before_shmem_exit(Some(run_at_end), pg_sys::Datum::from(0)) }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn run_at_exit(_code: i32, _arg: pg_sys::Datum) {
    AT_EXIT.take().into_iter().for_each(|last| last());
}

#[pg_guard]
unsafe extern "C-unwind" fn run_at_end(_code: i32, _arg: pg_sys::Datum) {
    AT_END.take().into_iter().for_each(|last| last());
}

// The entry points that the postmaster finds by name.

#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn anomaly_detection_launcher(_arg: pg_sys::Datum) {
    launcher::run();
}

#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn anomaly_detection_dispatcher(arg: pg_sys::Datum) {
    dispatcher::run(arg.value() as u32);
}

#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn anomaly_detection_scan_worker(arg: pg_sys::Datum) {
    // SAFETY: `start_scan_worker` passes an i64 by value.
    let argument = unsafe { i64::from_datum(arg, false) }.unwrap_or(-1);
    scan_worker::run((argument & 0xffff_ffff) as usize, (argument >> 32) as u32);
}
