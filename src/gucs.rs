//! The settings of the extension, all `anomaly_detection.*`. One private static, one typed accessor
//! and one reason for the default each.

use std::time::Duration;

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};

use crate::{pg::guc_prefix, run::Misfire};

static ENABLED: GucSetting<bool> = GucSetting::<bool>::new(true);
static LAUNCHER_NAPTIME: GucSetting<i32> = GucSetting::<i32>::new(1_000);
static MAX_WORKERS: GucSetting<i32> = GucSetting::<i32>::new(3);
static LINGER: GucSetting<i32> = GucSetting::<i32>::new(5_000);
static SCAN_LOCK_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(5_000);
static MAX_SCAN_DURATION: GucSetting<i32> = GucSetting::<i32>::new(600_000);
static CRASH_WAIT: GucSetting<i32> = GucSetting::<i32>::new(300_000);
static MAX_CONSECUTIVE_FAILURES: GucSetting<i32> = GucSetting::<i32>::new(10);
static MISFIRE: GucSetting<Misfire> = GucSetting::<Misfire>::new(Misfire::Once);
static MISFIRE_AFTER: GucSetting<i32> = GucSetting::<i32>::new(300_000);
static CATCH_UP_SPREAD: GucSetting<i32> = GucSetting::<i32>::new(60_000);
static KEEP_MODEL_VERSIONS: GucSetting<i32> = GucSetting::<i32>::new(5);
static TRAIN_MEMORY: GucSetting<i32> = GucSetting::<i32>::new(512 << 10);
static NOTIFICATIONS: GucSetting<bool> = GucSetting::<bool>::new(true);
static HANDLER_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(5_000);
static INCIDENT_GAP: GucSetting<i32> = GucSetting::<i32>::new(15 * 60_000);
static ERROR_ALERT_AFTER: GucSetting<i32> = GucSetting::<i32>::new(3);
static MESSAGES_PER_SCAN: GucSetting<i32> = GucSetting::<i32>::new(20);
static TRAIN_TIME_LIMIT: GucSetting<i32> = GucSetting::<i32>::new(600_000);
static SCAN_MEMORY: GucSetting<i32> = GucSetting::<i32>::new(1 << 20);
static JOB_TIME_LIMIT: GucSetting<i32> = GucSetting::<i32>::new(1_800_000);
static MAX_QUEUED_JOBS: GucSetting<i32> = GucSetting::<i32>::new(100);
static MAX_DETECTORS_PER_ROLE: GucSetting<i32> = GucSetting::<i32>::new(1_000);
static MIN_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(1_000);
static MAX_ALERTS_PER_SCAN: GucSetting<i32> = GucSetting::<i32>::new(10_000);
static MAX_PAYLOAD: GucSetting<i32> = GucSetting::<i32>::new(16 << 10);
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

/// What becomes of a due time that passed while nothing ran. Default once: a scan reads all that has
/// come since the last, so one is as good as many, and without it alerts would be late as well.
pub fn misfire() -> Misfire {
    MISFIRE.get()
}

/// How late a due time is missed. Default 5 min: less is a restart or a queue.
pub fn misfire_after() -> Duration {
    millis(&MISFIRE_AFTER)
}

/// Time over which an owner's missed runs are made up for. Default 1 min: long enough for a server
/// that has just started to serve others too.
pub fn catch_up_spread() -> Duration {
    millis(&CATCH_UP_SPREAD)
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

/// Whether handlers and listeners are told what happens to alerts. Default on. Off stores alerts all the same; what happens
/// meanwhile is not told later.
pub fn notifications() -> bool {
    NOTIFICATIONS.get()
}

/// Longest call of a handler function. Default 5 s: long enough to write rows, and short enough that one that
/// hangs does not keep its owner's scans for long.
pub fn handler_timeout() -> Duration {
    millis(&HANDLER_TIMEOUT)
}

/// Bytes that a scan may take. Default 1 GB: twice what the training of as many entities may, because a
/// scan holds their states and what it has to say of them.
pub fn scan_memory() -> usize {
    usize::try_from(SCAN_MEMORY.get()).unwrap_or(0) << 10
}

/// Longest job. Default 30 min: a backtest of months takes minutes, and the scans of its owner wait for it.
/// None when 0.
pub fn job_time_limit() -> Option<Duration> {
    Some(millis(&JOB_TIME_LIMIT)).filter(|d| !d.is_zero())
}

/// How many jobs of one owner may wait; negative: as many as they like. Default 100: a training of each
/// detector of a large set, and no more rows than a look at the table takes in.
pub fn max_queued_jobs() -> i64 {
    MAX_QUEUED_JOBS.get().into()
}

/// How many detectors a role may own; negative: as many as it likes. Default 1000: at a scan of 20 ms each
/// one worker is through with them in 20 s.
pub fn max_detectors_per_role() -> i64 {
    MAX_DETECTORS_PER_ROLE.get().into()
}

/// Shortest time between two scans of a detector. Default 1 s, below which a run costs more than it reads.
pub fn min_interval() -> Duration {
    millis(&MIN_INTERVAL)
}

/// How many alerts one scan may open; `None`: as many as there are. Default 10,000: one for each entity that a
/// detector has by default, which is more than anybody reads.
pub fn max_alerts_per_scan() -> Option<usize> {
    usize::try_from(MAX_ALERTS_PER_SCAN.get()).ok()
}

/// Bytes of JSON that a session may bring at a time; `None`: as many as PostgreSQL takes. Default 16 MB, some
/// hundred thousand points: reading JSON takes ten times its size in memory.
pub fn max_payload() -> Option<usize> {
    usize::try_from(MAX_PAYLOAD.get()).ok().map(|kilobytes| kilobytes << 10)
}

/// How far apart in time alerts may lie that belong to one incident. Default 15 min: what has one cause is seen by
/// detectors that run every minute and by those that run every ten.
pub fn incident_gap() -> Duration {
    millis(&INCIDENT_GAP)
}

/// After how many failures in a row there is an alert of it. Default 3: with the back-off that is some three
/// intervals, so that a restart of what is read alerts nobody.
pub fn error_alert_after() -> i32 {
    ERROR_ALERT_AFTER.get()
}

/// Of how many alerts one scan tells a handler one by one. Default 20: as many as somebody reads; of the others
/// it says how many there are.
pub fn messages_per_scan() -> usize {
    usize::try_from(MESSAGES_PER_SCAN.get()).unwrap_or(1)
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
    GucRegistry::define_enum_guc(
        c"anomaly_detection.misfire",
        c"What becomes of runs that were due while nothing ran.",
        c"once: one run makes up for all of them; skip: the next one comes when it would have come anyway.",
        &MISFIRE,
        GucContext::Userset,
        GucFlags::default(),
    );
    int(
        c"anomaly_detection.misfire_after_ms",
        c"How late a run is missed.",
        c"See anomaly_detection.misfire.",
        &MISFIRE_AFTER,
        1_000,
        DAY_MS,
        GucContext::Userset,
        GucFlags::UNIT_MS,
    );
    int(
        c"anomaly_detection.catch_up_spread_ms",
        c"Time over which runs that were missed are made up for.",
        c"Never longer than the detector's interval; 0 begins with all at once.",
        &CATCH_UP_SPREAD,
        0,
        DAY_MS,
        GucContext::Userset,
        GucFlags::UNIT_MS,
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
        c"Tells handlers and listeners what happens to alerts.",
        c"When off, alerts are stored and nobody hears of them.",
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
    int(
        c"anomaly_detection.scan_memory",
        c"Memory that a scan may take.",
        c"A scan that needs more ends with an error and counts as a failure.",
        &SCAN_MEMORY,
        1 << 10,
        1 << 30,
        GucContext::Suset,
        GucFlags::UNIT_KB,
    );
    int(
        c"anomaly_detection.job_time_limit",
        c"Longest job.",
        c"A longer one is cancelled; 0 means no limit.",
        &JOB_TIME_LIMIT,
        0,
        DAY_MS,
        GucContext::Suset,
        GucFlags::UNIT_MS,
    );
    int(
        c"anomaly_detection.max_queued_jobs",
        c"Jobs of one owner that may wait at a time.",
        c"-1 means no limit; superusers have none.",
        &MAX_QUEUED_JOBS,
        -1,
        1_000_000,
        GucContext::Suset,
        GucFlags::default(),
    );
    int(
        c"anomaly_detection.max_detectors_per_role",
        c"Detectors that a role may own.",
        c"-1 means no limit; superusers have none.",
        &MAX_DETECTORS_PER_ROLE,
        -1,
        i32::MAX,
        GucContext::Suset,
        GucFlags::default(),
    );
    int(
        c"anomaly_detection.min_interval",
        c"Shortest time between two scans of a detector.",
        c"Asked for when a detector is created or altered, but not of superusers.",
        &MIN_INTERVAL,
        1_000,
        DAY_MS,
        GucContext::Suset,
        GucFlags::UNIT_MS,
    );
    int(
        c"anomaly_detection.max_alerts_per_scan",
        c"Alerts that one scan may open.",
        c"The most deviating ones are opened, the others counted; -1 means no limit.",
        &MAX_ALERTS_PER_SCAN,
        -1,
        i32::MAX,
        GucContext::Suset,
        GucFlags::default(),
    );
    int(
        c"anomaly_detection.max_payload",
        c"Size of the JSON that a session may bring at a time.",
        c"A larger one is refused before it is read; -1 means no limit.",
        &MAX_PAYLOAD,
        -1,
        1 << 20,
        GucContext::Suset,
        GucFlags::UNIT_KB,
    );
    int(
        c"anomaly_detection.incident_gap",
        c"How far apart in time alerts may lie that belong to one incident.",
        c"Alerts that share an entity, a source, a label or a dependency.",
        &INCIDENT_GAP,
        0,
        DAY_MS,
        GucContext::Userset,
        GucFlags::UNIT_MS,
    );
    int(
        c"anomaly_detection.error_alert_after",
        c"Failures in a row after which there is an alert of kind error.",
        c"A detector that is broken has one at once.",
        &ERROR_ALERT_AFTER,
        1,
        1_000,
        GucContext::Userset,
        GucFlags::default(),
    );
    int(
        c"anomaly_detection.messages_per_scan",
        c"Of how many alerts one scan tells a handler one by one.",
        c"Of those beyond, the handler gets one summary.",
        &MESSAGES_PER_SCAN,
        1,
        100_000,
        GucContext::Userset,
        GucFlags::default(),
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
