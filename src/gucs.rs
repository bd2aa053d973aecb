//! The settings of the extension, all `anomaly_detection.*`. One private static, one typed accessor
//! and one reason for the default each.

use std::time::Duration;

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};

use crate::pg::guc_prefix;

static ENABLED: GucSetting<bool> = GucSetting::<bool>::new(true);
static LAUNCHER_NAPTIME: GucSetting<i32> = GucSetting::<i32>::new(1_000);
static MAX_WORKERS: GucSetting<i32> = GucSetting::<i32>::new(3);
static LINGER: GucSetting<i32> = GucSetting::<i32>::new(5_000);
static SCAN_LOCK_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(5_000);
static MAX_SCAN_DURATION: GucSetting<i32> = GucSetting::<i32>::new(600_000);
static CRASH_WAIT: GucSetting<i32> = GucSetting::<i32>::new(300_000);
static MAX_CONSECUTIVE_FAILURES: GucSetting<i32> = GucSetting::<i32>::new(10);
static KEEP_MODEL_VERSIONS: GucSetting<i32> = GucSetting::<i32>::new(5);
static TRAIN_MEMORY: GucSetting<i32> = GucSetting::<i32>::new(512 << 10);
static NOTIFICATIONS: GucSetting<bool> = GucSetting::<bool>::new(true);
static HANDLER_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(5_000);
static TRAIN_TIME_LIMIT: GucSetting<i32> = GucSetting::<i32>::new(600_000);
static WRITE_CHECK: GucSetting<bool> = GucSetting::<bool>::new(true);
static WRITE_CHECK_MEMORY: GucSetting<i32> = GucSetting::<i32>::new(64 << 10);

const DAY_MS: i32 = 86_400_000;

/// Whether workers start runs. Default on. Off stops new runs at the next tick and leaves running
/// ones alone; `ALTER DATABASE … SET` turns one database off.
pub fn enabled() -> bool {
    ENABLED.get()
}

/// Longest sleep of the launcher. Default 1 s: it wakes by itself when something is due, so this
/// only bounds how late it notices a reloaded configuration or a clock that was set back.
pub fn launcher_naptime() -> Duration {
    millis(&LAUNCHER_NAPTIME)
}

/// How many scan workers run at the same time in the whole server. Default 3: with the launcher and
/// two dispatchers that leaves two of PostgreSQL's default 8 `max_worker_processes` to others.
pub fn max_workers() -> usize {
    usize::try_from(MAX_WORKERS.get()).unwrap_or(0)
}

/// How long a scan worker waits for work that is due soon before it exits. Default 5 s: a new
/// connection costs some milliseconds plus a cold catalogue cache, while an attached worker keeps
/// plain DROP DATABASE and CREATE DATABASE … TEMPLATE from working.
pub fn linger() -> Duration {
    millis(&LINGER)
}

/// `lock_timeout` of a scheduled run. Default 5 s: a migration that waits for a scan's lock is
/// never held up for longer by the scan's own waiting.
pub fn scan_lock_timeout() -> Duration {
    millis(&SCAN_LOCK_TIMEOUT)
}

/// Longest scheduled run. Default 10 min: a scan holds back vacuum while it reads. None when 0.
pub fn max_scan_duration() -> Option<Duration> {
    Some(millis(&MAX_SCAN_DURATION)).filter(|d| !d.is_zero())
}

/// How long a detector rests after its run died without a word. Default 5 min, so that an operator
/// can disable a detector that takes the server down before it does so again.
pub fn crash_wait() -> Duration {
    millis(&CRASH_WAIT)
}

/// After how many failures in a row a detector is marked broken. Default 10: with the back-off that
/// is some forty intervals, longer than most outages of a source.
pub fn max_consecutive_failures() -> i32 {
    MAX_CONSECUTIVE_FAILURES.get()
}

/// How many versions of a detector's model are kept. Default 5: a bad one is noticed within some
/// trainings, and each version has as many entity states as the active one.
pub fn keep_model_versions() -> i64 {
    KEEP_MODEL_VERSIONS.get().into()
}

/// Bytes that training may take. Default 512 MB: 10,000 entities, the default `max_entities`, take 380 MB
/// with `auto` (38 kB each; `lstm` 210 kB, `random_cut_forest` 310 kB), and the largest forest that is
/// not refused at once 384 MB.
pub fn train_memory() -> usize {
    usize::try_from(TRAIN_MEMORY.get()).unwrap_or(0) << 10
}

/// Longest training. Default 10 min, as long as a scheduled run may take. None when 0.
pub fn train_time_limit() -> Option<Duration> {
    Some(millis(&TRAIN_TIME_LIMIT)).filter(|d| !d.is_zero())
}

/// Whether handlers are told what happens to alerts. Default on. Off stores alerts all the same; what happens
/// meanwhile is not told later.
pub fn notifications() -> bool {
    NOTIFICATIONS.get()
}

/// Longest call of a handler function. Default 5 s: long enough to write rows, and short enough that one that
/// hangs does not keep its owner's scans for long.
pub fn handler_timeout() -> Duration {
    millis(&HANDLER_TIMEOUT)
}

/// Whether rows are judged as they are written, by detectors of `anomaly.watch_writes`. Default on. Anybody may turn it
/// off: a row that was rejected and is right has to get in, and a check that can be wrong keeps nobody out.
pub fn write_check() -> bool {
    WRITE_CHECK.get()
}

/// Bytes of decoded states that a session keeps for rows that it writes. Default 64 MB: 10,000 entities of the statistical
/// strategies, some 1,700 of `auto`; beyond, states are read again.
pub fn write_check_memory() -> usize {
    usize::try_from(WRITE_CHECK_MEMORY.get()).unwrap_or(0) << 10
}

fn millis(setting: &GucSetting<i32>) -> Duration {
    Duration::from_millis(u64::try_from(setting.get()).unwrap_or(0))
}

/// Defines all settings and reserves the prefix, so that a misspelt name is an error.
pub fn init() {
    GucRegistry::define_bool_guc(
        c"anomaly_detection.enabled",
        c"Lets background workers run detectors.",
        c"When off, running scans finish and no new ones start.",
        &ENABLED,
        GucContext::Suset,
        GucFlags::default(),
    );
    let int = |name, short, long, setting, min, max, context, flags| {
        GucRegistry::define_int_guc(name, short, long, setting, min, max, context, flags);
    };
    int(
        c"anomaly_detection.launcher_naptime_ms",
        c"Longest sleep of the launcher.",
        c"It wakes earlier when a detector is due.",
        &LAUNCHER_NAPTIME,
        10,
        60_000,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    int(
        c"anomaly_detection.max_workers",
        c"Scan workers that may run at the same time in the whole server.",
        c"They come out of max_worker_processes.",
        &MAX_WORKERS,
        0,
        i32::try_from(crate::pg::shmem::MAX_SLOTS).unwrap_or(i32::MAX),
        GucContext::Sighup,
        GucFlags::default(),
    );
    int(
        c"anomaly_detection.linger_ms",
        c"How long a scan worker waits for work that is due soon.",
        c"An attached worker keeps DROP DATABASE without FORCE from working.",
        &LINGER,
        0,
        600_000,
        GucContext::Suset,
        GucFlags::UNIT_MS,
    );
    int(
        c"anomaly_detection.scan_lock_timeout_ms",
        c"How long a scheduled run waits for a lock.",
        c"A run that gives up is retried; 0 waits without limit.",
        &SCAN_LOCK_TIMEOUT,
        0,
        DAY_MS,
        GucContext::Suset,
        GucFlags::UNIT_MS,
    );
    int(
        c"anomaly_detection.max_scan_duration_ms",
        c"Longest scheduled run.",
        c"A longer run is cancelled and counts as a failure; 0 means no limit.",
        &MAX_SCAN_DURATION,
        0,
        DAY_MS,
        GucContext::Suset,
        GucFlags::UNIT_MS,
    );
    int(
        c"anomaly_detection.crash_wait_ms",
        c"How long a detector rests after its run crashed.",
        c"Time for an operator to disable it.",
        &CRASH_WAIT,
        0,
        DAY_MS,
        GucContext::Suset,
        GucFlags::UNIT_MS,
    );
    int(
        c"anomaly_detection.max_consecutive_failures",
        c"Failures in a row after which a detector is marked broken.",
        c"anomaly.enable() brings it back.",
        &MAX_CONSECUTIVE_FAILURES,
        1,
        1_000,
        GucContext::Suset,
        GucFlags::default(),
    );
    int(
        c"anomaly_detection.keep_model_versions",
        c"How many versions of a detector's model are kept.",
        c"anomaly.rollback_model() returns to one of them.",
        &KEEP_MODEL_VERSIONS,
        1,
        1_000,
        GucContext::Userset,
        GucFlags::default(),
    );
    int(
        c"anomaly_detection.train_memory",
        c"Memory that a training may take.",
        c"A training that needs more ends with an error.",
        &TRAIN_MEMORY,
        1 << 10,
        1 << 30,
        GucContext::Userset,
        GucFlags::UNIT_KB,
    );
    int(
        c"anomaly_detection.train_time_limit",
        c"Longest training.",
        c"A longer one ends with an error; 0 means no limit.",
        &TRAIN_TIME_LIMIT,
        0,
        DAY_MS,
        GucContext::Userset,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_bool_guc(
        c"anomaly_detection.notifications",
        c"Tells handlers what happens to alerts.",
        c"When off, alerts are stored and handlers hear nothing of them.",
        &NOTIFICATIONS,
        GucContext::Userset,
        GucFlags::default(),
    );
    int(
        c"anomaly_detection.handler_timeout",
        c"Longest call of a handler function.",
        c"A longer one is cancelled and tried again later.",
        &HANDLER_TIMEOUT,
        1,
        600_000,
        GucContext::Suset,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_bool_guc(
        c"anomaly_detection.write_check",
        c"Judges rows as they are written, where anomaly.watch_writes() asked for it.",
        c"When off, rows are written without a verdict, and those that would be rejected as well.",
        &WRITE_CHECK,
        GucContext::Userset,
        GucFlags::default(),
    );
    int(
        c"anomaly_detection.write_check_memory",
        c"Memory for what detectors know, in a session that writes rows they judge.",
        c"What does not fit is read again when it is needed.",
        &WRITE_CHECK_MEMORY,
        64,
        1 << 30,
        GucContext::Userset,
        GucFlags::UNIT_KB,
    );
    guc_prefix::reserve();
}
