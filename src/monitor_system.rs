//! `anomaly.monitor_system`: watches this machine and this database.
//!
//! Everything is read by the server process itself: `/proc` for the machine, the statistics views
//! for the database. What each metric means is in `anomaly_core::system_metrics`.

use std::collections::HashMap;

use anomaly_core::{
    Calendar, host,
    strategy::{Context, Kind},
    system_metrics::{Database, Metric, MetricInfo, Readings, Source, measure},
};
use pgrx::{
    JsonB, PgSqlErrorCode, datum::Interval, pg_sys, pg_sys::panic::ErrorReport, prelude::*,
    spi::quote_literal,
};

use crate::{
    detector::create_detector::{FeedSetting, Settings, check_login, create, interval_micros},
    detector::scan::sample_slot,
    error::{SqlResult, from_core, invalid, not_null, report},
    monitor::CollectSummary,
    pg::{filesystem, internal_rights, session},
    run, sql, worker,
};

const SECOND: i128 = 1_000_000;
/// An alert needs this many deviating collections in a row …
const FIRE_AFTER: i128 = 3;
/// … that together last this long: shorter bursts of load are everyday life.
const FIRE_AFTER_MICROS: i128 = 5 * SECOND;
/// A metric that moves slowly is learned over at least this long.
const SLOW_MICROS: i128 = 30 * 60 * SECOND;
/// The detectors of the default monitor have no prefix.
const DEFAULT_NAME: &str = "system";

/// Collects measurements of this machine and this database `every` so often and watches each of
/// them. Called again, it changes the settings and keeps models and samples.
///
/// # Errors
/// 42501 for a role outside pg_monitor, 42710 for a name that is taken and for a second system
/// monitor of the same role, 22023 for a setting out of range, 25006 on a standby, 55000 for a role
/// that no worker can connect as.
#[allow(clippy::type_complexity)]
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe)]
fn monitor_system(
    every: default!(Option<Interval>, "'1 minute'"),
    min_data_points: default!(Option<i32>, "100"),
    strategy: default!(Option<&str>, "'statistical_mad'"),
    alerts_per_day: default!(Option<f64>, "1"),
    monitor: default!(Option<&str>, "'system'"),
) -> Result<
    TableIterator<
        'static,
        (
            name!(metric, String),
            name!(value, Option<f64>),
            name!(unit, String),
            name!(detector, Option<String>),
            name!(status, String),
            name!(next_step, Option<String>),
        ),
    >,
    ErrorReport,
> {
    not_null!(every, min_data_points, strategy, alerts_per_day, monitor);
    let owner = session::current_user();
    check_member(owner)?;
    if session::in_recovery() {
        return Err(report(
            PgSqlErrorCode::ERRCODE_READ_ONLY_SQL_TRANSACTION,
            "cannot create a monitor on a standby",
        )
        .set_hint("create it on the primary"));
    }
    if monitor.is_empty() || monitor.len() > 63 {
        return Err(invalid(
            format!("monitor name of {} bytes", monitor.len()),
            "give a name of 1 to 63 bytes",
        ));
    }
    let micros = interval_micros(&every);
    if micros < SECOND {
        return Err(invalid(
            "every must be at least one second",
            "for example every => '1 minute'",
        ));
    }
    if min_data_points < 2 {
        return Err(invalid(
            format!("min_data_points must be at least 2, not {min_data_points}"),
            "leave out min_data_points for its default",
        ));
    }
    if !(alerts_per_day > 0.0 && alerts_per_day.is_finite()) {
        return Err(invalid(
            format!("alerts_per_day must be a positive number, not {alerts_per_day}"),
            "the default is 1",
        ));
    }
    let context = Context::new(Calendar::default(), Kind::Value);
    let strategy = anomaly_core::strategy::strategy(strategy, &serde_json::Value::Null, &context)
        .map_err(from_core)?;
    let (strategy, tells_once) = (strategy.name(), strategy.tells_once());
    check_login(owner)?;

    register(monitor, owner, every)?;
    let collected = collect(monitor, owner, None)?;
    let values: HashMap<&str, f64> = collected.values.iter().copied().collect();
    let absent: HashMap<Source, &str> =
        collected.absent.iter().map(|(source, reason)| (*source, reason.as_str())).collect();
    remove_other_strategies(monitor, strategy)?;

    let mut rows = Vec::new();
    for info in Metric::ALL.map(Metric::info) {
        let value = values.get(info.name).copied();
        let name = info.name.to_owned();
        let unit = info.unit.to_owned();
        if let Some(reason) = absent.get(&info.source) {
            rows.push((name, None, unit, None, format!("absent: {reason}"), None));
            continue;
        }
        if !info.is_watched {
            let show = format!(
                "SELECT at, value FROM anomaly.samples WHERE metric = {} ORDER BY at DESC LIMIT 10;",
                quote_literal(info.name)
            );
            rows.push((name, value, unit, None, "collected".to_owned(), Some(show)));
            continue;
        }
        let common =
            Watch { monitor, strategy, tells_once, every, min_data_points, alerts_per_day };
        let (detector, status) = watch(&common, &info)?;
        let next = if worker::is_preloaded() {
            format!("SELECT * FROM anomaly.alerts WHERE detector = {};", quote_literal(&detector))
        } else {
            "CALL anomaly.run_due();".to_owned()
        };
        rows.push((name, value, unit, Some(detector), status, Some(next)));
    }
    if !worker::is_preloaded() {
        pgrx::warning!(
            "monitor \"{monitor}\" will not run by itself: anomaly_detection is not in \
             shared_preload_libraries (add it and restart, or CALL anomaly.run_due())"
        );
    }
    worker::notify_due(session::now());
    Ok(TableIterator::new(rows))
}

extension_sql!(
    r#"COMMENT ON FUNCTION anomaly.monitor_system(interval, integer, text, double precision, text) IS
'collects measurements of this machine and this database on a schedule and watches them; for members of pg_monitor';"#,
    name = "monitor_system_comment",
    requires = [monitor_system]
);

/// Stores the monitor, or its new interval. The next collection comes one interval from now.
fn register(monitor: &str, owner: pg_sys::Oid, every: Interval) -> SqlResult<()> {
    run::start_fresh_database(owner)?;
    let other = internal_rights::with(|| {
        sql::execute(
            "INSERT INTO anomaly.monitor (monitor, owner, kind, every, next_due) \
             SELECT $1, $2::oid, 'system', $3, $4 + $3 \
             WHERE NOT EXISTS (SELECT FROM anomaly.monitor WHERE kind = 'system' AND owner = $2 \
                AND monitor <> $1) \
             ON CONFLICT (monitor) DO UPDATE \
                SET every = EXCLUDED.every, next_due = EXCLUDED.next_due, enabled = true, \
                    consecutive_failures = 0 \
                WHERE monitor.owner = $2",
            &[monitor.into(), owner.into(), every.into(), sql::timestamptz(session::now())?.into()],
        )?;
        sql::row(
            "SELECT monitor, owner = $2 FROM anomaly.monitor \
             WHERE monitor = $1 AND owner <> $2 \
                OR kind = 'system' AND owner = $2 AND monitor <> $1",
            &[monitor.into(), owner.into()],
            |row| Ok((row.must::<String>(1)?, row.must::<bool>(2)?)),
        )
    })?;
    match other {
        None => Ok(()),
        Some((name, true)) => Err(report(
            PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
            format!("the current role already monitors the system, as \"{name}\""),
        )
        .set_hint(format!(
            "change that one with monitor => {}, or SELECT anomaly.drop_monitor({0})",
            quote_literal(&name)
        ))),
        Some((name, false)) => Err(report(
            PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
            format!("monitor \"{name}\" already exists and belongs to another role"),
        )
        .set_hint("give another name: monitor => '…'")),
    }
}

/// After a change of strategy the detectors of the former one have nothing to do any more.
fn remove_other_strategies(monitor: &str, strategy: &str) -> SqlResult<()> {
    internal_rights::with(|| {
        sql::execute(
            "UPDATE anomaly.alert SET status = 'resolved', resolved_at = $3 \
             WHERE status IN ('open', 'acknowledged') AND detector IN \
                (SELECT detector FROM anomaly.detector WHERE monitor = $1 AND strategy <> $2)",
            &[monitor.into(), strategy.into(), sql::timestamptz(session::now())?.into()],
        )?;
        sql::execute(
            "DELETE FROM anomaly.detector WHERE monitor = $1 AND strategy <> $2",
            &[monitor.into(), strategy.into()],
        )
    })?;
    Ok(())
}

/// What the detectors of a monitor have in common.
struct Watch<'a> {
    monitor: &'a str,
    strategy: &'a str,
    /// Whether the strategy tells an event by a single anomalous point.
    tells_once: bool,
    every: Interval,
    min_data_points: i32,
    alerts_per_day: f64,
}

/// Makes the detector of a metric, or gives the one there is the new settings. Answers its id and
/// how it stands.
fn watch(common: &Watch, info: &MetricInfo) -> SqlResult<(String, String)> {
    let every = interval_micros(&common.every);
    let points_in = |micros: i128| i32::try_from(div_ceil(micros, every)).unwrap_or(i32::MAX);
    let min_data_points = if info.is_slow {
        common.min_data_points.max(points_in(SLOW_MICROS))
    } else {
        common.min_data_points
    };
    let fire_after = if info.is_event || common.tells_once {
        1
    } else {
        points_in(FIRE_AFTER_MICROS).max(FIRE_AFTER as i32)
    };

    let existing = internal_rights::with(|| {
        sql::execute_returning(
            "UPDATE anomaly.detector d SET min_data_points = $3, alerts_per_day = $4, \
                fire_after = $5, enabled = true, updated_at = $6 \
             FROM anomaly.detector_state s \
             WHERE s.detector = d.detector AND d.monitor = $1 AND d.metric_name = $2 \
             RETURNING d.detector, s.status, \
                (SELECT trained_rows FROM anomaly.model m \
                  WHERE m.detector = d.detector AND m.active) + s.points_processed",
            &[
                common.monitor.into(),
                info.name.into(),
                min_data_points.into(),
                common.alerts_per_day.into(),
                fire_after.into(),
                sql::timestamptz(session::now())?.into(),
            ],
            |row| Ok((row.must::<String>(1)?, row.must::<String>(2)?, row.get::<i64>(3)?)),
        )
    })?;
    if let Some((detector, status, points)) = existing.into_iter().next() {
        let status = match status.as_str() {
            "new" | "warming" => {
                format!("warming ({} of {min_data_points})", points.unwrap_or(0))
            }
            _ => status,
        };
        return Ok((detector, status));
    }
    let prefix =
        if common.monitor == DEFAULT_NAME { String::new() } else { format!("{}_", common.monitor) };
    let name = format!("{prefix}{}_{}_{}", info.anomaly_type, common.strategy, info.name);
    let detector = create(Settings {
        name: Some(&name),
        anomaly_type: info.anomaly_type,
        strategy: common.strategy,
        metric_name: info.name,
        entity_type: None,
        feed: FeedSetting::Samples { monitor: common.monitor },
        // The monitor has the schedule.
        every: None,
        cron: None,
        time_zone: "UTC",
        settle: days(0)?,
        late_window: days(0)?,
        cool_down: days(0)?,
        training_window: days(30)?,
        min_data_points,
        threshold: None,
        alerts_per_day: common.alerts_per_day,
        fdr: None,
        fire_after,
        clear_after: FIRE_AFTER as i32,
        max_entities: 1,
        retrain_every: None,
        kind: None,
        bucket: None,
        aggregate: "avg",
        on_missing: None,
        direction: "both",
        min_effect: 0.0,
        min_relative_effect: 0.0,
        // Disks and interfaces come and go, and that a monitor does not measure is in its own health.
        no_data_after: None,
        depends_on: Vec::new(),
        labels: Vec::new(),
        params: serde_json::json!({}),
        trained_by_caller: false,
    })?
    .detector;
    Ok((detector, format!("warming (0 of {min_data_points})")))
}

fn days(days: i32) -> SqlResult<Interval> {
    Interval::new(0, days, 0)
        .map_err(|e| report(PgSqlErrorCode::ERRCODE_INTERVAL_FIELD_OVERFLOW, e.to_string()))
}

fn div_ceil(a: i128, b: i128) -> i128 {
    (a + b - 1) / b
}

/// Length of a slot of `anomaly.sample`, µs.
const DAY: i64 = 86_400_000_000;

/// Measures the machine and the database and stores one sample per metric, owned by `owner`.
///
/// # Errors
/// 42501 when the owner is not a member of pg_monitor (any more).
pub fn collect(
    monitor: &str,
    owner: pg_sys::Oid,
    run_id: Option<i64>,
) -> SqlResult<CollectSummary> {
    check_member(owner)?;
    let (now, absent) = read_sources()?;
    internal_rights::with(|| {
        // Two collections at once would both count the same growth: the second waits here.
        let previous = sql::execute_returning(
            "SELECT readings FROM anomaly.counter WHERE monitor = $1 FOR UPDATE",
            &[monitor.into()],
            |row| row.must::<JsonB>(1),
        )?;
        // Readings that this version cannot understand are as good as none: rates start anew.
        let previous: Option<Readings> =
            previous.into_iter().next().and_then(|stored| serde_json::from_value(stored.0).ok());
        let values: Vec<(&str, f64)> = measure(previous.as_ref(), &now)
            .into_iter()
            .map(|(metric, value)| (metric.info().name, value))
            .collect();

        let stored = serde_json::to_value(&now).map_err(|e| {
            report(
                PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
                format!("readings do not serialize: {e}"),
            )
        })?;
        sql::execute(
            "INSERT INTO anomaly.counter (monitor, run_id, readings) VALUES ($1, $2, $3) \
             ON CONFLICT (monitor) DO UPDATE \
                SET run_id = EXCLUDED.run_id, readings = EXCLUDED.readings",
            &[monitor.into(), run_id.into(), JsonB(stored).into()],
        )?;
        store(owner, now.at, previous.map(|p| p.at), &values)?;
        Ok(CollectSummary { values, absent })
    })
}

/// Inserts the samples into the slot of their day. Entering a new day clears what this owner left in
/// its slot one turn of the ring ago.
fn store(
    owner: pg_sys::Oid,
    at: i64,
    previous: Option<i64>,
    values: &[(&'static str, f64)],
) -> SqlResult<()> {
    let day = at.div_euclid(DAY);
    let slot = sample_slot(day);
    if previous.is_none_or(|p| p.div_euclid(DAY) != day) {
        sql::execute(
            "DELETE FROM anomaly.sample WHERE slot = $1 AND owner = $2 AND at < $3",
            &[slot.into(), owner.into(), sql::timestamptz(day * DAY)?.into()],
        )?;
    }
    let (metrics, values): (Vec<&str>, Vec<f64>) = values.iter().copied().unzip();
    sql::execute(
        "INSERT INTO anomaly.sample (slot, owner, metric, at, value) \
         SELECT $1, $2::oid, metric, $3, value FROM unnest($4::text[], $5::float8[]) AS s (metric, value) \
         ON CONFLICT DO NOTHING",
        &[slot.into(), owner.into(), sql::timestamptz(at)?.into(), metrics.into(), values.into()],
    )?;
    Ok(())
}

/// # Errors
/// 42501 for a role that is no member of pg_monitor. A superuser is a member of every role.
fn check_member(role: pg_sys::Oid) -> SqlResult<()> {
    if session::has_privileges_of(role, pg_sys::Oid::from(pg_sys::ROLE_PG_MONITOR)) {
        return Ok(());
    }
    let name = sql::row(
        "SELECT rolname::pg_catalog.text FROM pg_catalog.pg_roles \
         WHERE oid OPERATOR(pg_catalog.=) $1",
        &[role.into()],
        |row| row.must::<String>(1),
    )?
    .unwrap_or_else(|| role.to_u32().to_string());
    Err(report(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        format!("role \"{name}\" may not monitor the system"),
    )
    .set_hint(format!("as a superuser: GRANT pg_monitor TO {}", pgrx::spi::quote_identifier(name))))
}

/// Reads every source now. What cannot be read is left out and named with the reason.
fn read_sources() -> SqlResult<(Readings, Vec<(Source, String)>)> {
    let mut absent = Vec::new();
    let mut now = Readings {
        boot_id: std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .ok()
            .map(|id| id.trim().to_owned()),
        processors: parsed(&mut absent, Source::Processors, "/proc/stat", host::processors),
        load1: parsed(&mut absent, Source::Load, "/proc/loadavg", host::load1),
        memory: parsed(&mut absent, Source::Memory, "/proc/meminfo", host::memory),
        disks: parsed(&mut absent, Source::Disks, "/proc/diskstats", host::disks),
        interfaces: parsed(&mut absent, Source::Interfaces, "/proc/net/dev", host::interfaces),
        ..Readings::default()
    };
    match filesystem::of_data_directory() {
        Ok(found) => now.filesystem = Some(found),
        Err(e) => absent.push((Source::Filesystem, format!("statvfs of the data directory: {e}"))),
    }
    let (database, wal_bytes) = internal_rights::with(read_database)?;
    now.database = database;
    now.wal_bytes = wal_bytes;
    if now.database.is_none() {
        absent.push((Source::Database, "pg_stat_database has no row of this database".into()));
    }
    if now.wal_bytes.is_none() {
        absent.push((Source::Wal, "no WAL position while in recovery".into()));
    }
    now.at = session::now();
    Ok((now, absent))
}

fn parsed<T>(
    absent: &mut Vec<(Source, String)>,
    source: Source,
    path: &str,
    parse: fn(&str) -> Option<T>,
) -> Option<T> {
    let found = match std::fs::read_to_string(path) {
        Ok(text) => parse(&text).ok_or_else(|| format!("{path} holds nothing to measure")),
        Err(e) => Err(format!("{path}: {e}")),
    };
    found.map_err(|reason| absent.push((source, reason))).ok()
}

/// Counters of this database and the bytes of WAL so far.
fn read_database() -> SqlResult<(Option<Database>, Option<u64>)> {
    // Statistics are cached for the length of a transaction: forget them to read the present.
    sql::execute("SELECT pg_stat_clear_snapshot()", &[])?;
    let wal_bytes = if session::in_recovery() {
        None
    } else {
        sql::row("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint", &[], |row| {
            row.must::<i64>(1)
        })?
        .map(unsigned)
    };
    let asked = session::now();
    let database = sql::row(
        "SELECT stats_reset, \
                (SELECT count(*) FROM pg_stat_activity \
                  WHERE datid = d.datid AND backend_type = 'client backend'), \
                xact_commit, xact_rollback, blks_hit, blks_read, temp_bytes, deadlocks, \
                (active_time * 1000)::bigint \
           FROM pg_stat_database d WHERE datname = current_database()",
        &[],
        |row| {
            let counter = |column| row.must::<i64>(column).map(unsigned);
            Ok(Database {
                reset_at: row.micros(1)?,
                connections: counter(2)?,
                commits: counter(3)?,
                rollbacks: counter(4)?,
                blocks_hit: counter(5)?,
                blocks_read: counter(6)?,
                temp_bytes: counter(7)?,
                deadlocks: counter(8)?,
                active_micros: counter(9)?,
                probe_micros: 0,
            })
        },
    )?
    .map(|found| Database { probe_micros: unsigned(session::now() - asked), ..found });
    Ok((database, wal_bytes))
}

/// PostgreSQL's counters never go below zero; a difference of clock readings may.
fn unsigned(counter: i64) -> u64 {
    u64::try_from(counter).unwrap_or(0)
}

#[cfg(any(test, feature = "pg_test"))]
#[pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::{monitor, pg::subxact, sql};

    fn text(query: &str) -> String {
        sql::row(query, &[], |row| row.must::<String>(1)).unwrap().unwrap()
    }

    fn count(query: &str) -> i64 {
        sql::row(query, &[], |row| row.must::<i64>(1)).unwrap().unwrap()
    }

    fn raised(statement: &str) -> subxact::Caught {
        subxact::run(|| Spi::run(statement)).unwrap_err()
    }

    #[pg_test]
    fn only_members_of_pg_monitor_may() {
        Spi::run("CREATE ROLE system_watcher LOGIN; SET ROLE system_watcher").unwrap();
        let refused = raised("SELECT anomaly.monitor_system()");
        assert_eq!(refused.sqlstate, "42501");
        assert_eq!(refused.message, "role \"system_watcher\" may not monitor the system");
        Spi::run("RESET ROLE; GRANT pg_monitor TO system_watcher; SET ROLE system_watcher")
            .unwrap();
        Spi::run("SELECT anomaly.monitor_system()").unwrap();
        assert_eq!(
            text("SELECT string_agg(DISTINCT owner::text, ',') FROM anomaly.detectors"),
            "system_watcher"
        );
        assert!(
            count("SELECT count(*) FROM anomaly.samples WHERE owner = 'system_watcher'::regrole")
                > 0
        );

        // Membership is asked for at every collection.
        Spi::run("RESET ROLE; REVOKE pg_monitor FROM system_watcher").unwrap();
        let refused = subxact::run(|| {
            // Before the subtransaction has written, pgrx reads with the snapshot of this statement,
            // which began before there was a monitor.
            Spi::run("CREATE TEMP TABLE written ()").unwrap();
            if let Err(raised) = monitor::collect("system", 1) {
                raised.report(PgLogLevel::ERROR);
            }
        })
        .unwrap_err();
        assert_eq!(refused.sqlstate, "42501");
    }

    #[pg_test]
    fn every_metric_is_watched_collected_or_absent() {
        Spi::run(
            "CREATE TEMP TABLE answer AS SELECT * FROM anomaly.monitor_system(every => '1 second', \
             min_data_points => 30, strategy => 'mad', alerts_per_day => 2, monitor => 'system')",
        )
        .unwrap();
        assert_eq!(
            count("SELECT count(DISTINCT metric) FROM answer"),
            super::Metric::ALL.len() as i64
        );
        assert_eq!(
            count(
                "SELECT count(*) FROM answer a FULL JOIN anomaly.detectors d USING (detector) \
                 WHERE (a.detector IS NOT NULL OR d.detector IS NOT NULL) \
                   AND (a.metric = d.metric_name AND d.monitor = 'system' AND d.source_kind = 'samples' \
                        AND d.every IS NULL AND d.alerts_per_day = 2) IS NOT TRUE"
            ),
            0
        );
        assert_eq!(
            text("SELECT detector FROM answer WHERE metric = 'cpu_usage'"),
            "system_cpu_statistical_mad_cpu_usage"
        );
        assert_eq!(
            text(
                "SELECT d.min_data_points || '/' || fire_after FROM anomaly.detectors d WHERE metric_name = 'cpu_usage'"
            ),
            "30/5"
        );
        assert_eq!(
            text(
                "SELECT d.min_data_points || '/' || fire_after FROM anomaly.detectors d WHERE metric_name = 'memory_usage'"
            ),
            "1800/5"
        );
        // The levels are measured at once, the rates from the next collection on.
        assert_eq!(
            text(
                "SELECT string_agg(metric, ',' ORDER BY metric) FROM answer WHERE value IS NOT NULL"
            ),
            "connections,disk_usage,latency,load1,memory_usage"
        );
    }

    #[pg_test]
    fn two_collections_make_rates() {
        Spi::run("SELECT anomaly.monitor_system()").unwrap();
        Spi::run("SELECT pg_sleep(0.2)").unwrap();
        let second = monitor::collect("system", 42).unwrap();
        assert!(second.values.iter().any(|(metric, _)| *metric == "cpu_usage"), "{second:?}");
        assert_eq!(
            count("SELECT count(*) FROM anomaly.samples WHERE metric IN ('load1', 'memory_usage')"),
            4
        );
        assert_eq!(
            count(
                "SELECT count(*) FROM anomaly.samples \
                 WHERE metric IN ('cpu_usage', 'cpu_busiest_core', 'commits', 'active_sessions', \
                    'wal_bytes', 'error_rate')"
            ),
            6
        );
        assert_eq!(
            count(
                "SELECT count(*) FROM anomaly.samples WHERE value < 0 \
                    OR metric IN ('cpu_usage', 'cpu_busiest_core', 'memory_usage', 'disk_usage', \
                        'cache_hit_ratio') AND value > 1"
            ),
            0
        );
        assert_eq!(
            count(
                "SELECT count(*) FROM anomaly.sample WHERE slot <> mod(extract(day FROM \
                    date_trunc('day', at AT TIME ZONE 'UTC') - timestamp '2000-01-01')::int, 32)"
            ),
            0
        );
        assert_eq!(count("SELECT run_id FROM anomaly.counter"), 42);
    }

    #[pg_test]
    fn counters_that_shrank_yield_no_negative_rates() {
        Spi::run("SELECT anomaly.monitor_system()").unwrap();
        Spi::run(
            "UPDATE anomaly.counter SET readings = \
             jsonb_set(readings, '{wal_bytes}', '9000000000000000000')",
        )
        .unwrap();
        Spi::run("SELECT pg_sleep(0.2)").unwrap();
        let second = monitor::collect("system", 1).unwrap();
        assert!(!second.values.iter().any(|(metric, _)| *metric == "wal_bytes"), "{second:?}");
        assert!(second.values.iter().any(|(metric, _)| *metric == "commits"), "{second:?}");
        Spi::run("SELECT pg_sleep(0.2)").unwrap();
        let third = monitor::collect("system", 2).unwrap();
        assert!(third.values.iter().any(|(metric, _)| *metric == "wal_bytes"), "{third:?}");
    }

    #[pg_test]
    fn readings_that_cannot_be_understood_start_anew() {
        Spi::run("SELECT anomaly.monitor_system()").unwrap();
        for damaged in [r#"{"at": "noon"}"#, "[]", "null"] {
            Spi::run(&format!("UPDATE anomaly.counter SET readings = '{damaged}'")).unwrap();
            let next = monitor::collect("system", 1).unwrap();
            assert!(next.values.iter().any(|(metric, _)| *metric == "load1"), "{next:?}");
            assert!(!next.values.iter().any(|(metric, _)| *metric == "commits"), "{next:?}");
        }
    }

    #[pg_test]
    fn calling_again_changes_settings_and_keeps_detectors() {
        Spi::run("SELECT anomaly.monitor_system(every => '1 second', min_data_points => 30)")
            .unwrap();
        let made = "SELECT md5(string_agg(detector || created_at, ',' ORDER BY detector)) FROM anomaly.detectors";
        let before = text(made);
        Spi::run("SELECT anomaly.monitor_system(every => '5 seconds', min_data_points => 40)")
            .unwrap();
        assert_eq!(text(made), before);
        assert_eq!(text("SELECT every::text FROM anomaly.monitors"), "00:00:05");
        assert_eq!(
            text(
                "SELECT d.min_data_points || '/' || fire_after FROM anomaly.detectors d WHERE metric_name = 'cpu_usage'"
            ),
            "40/3"
        );
        // Another strategy takes the place of the former one.
        Spi::run("SELECT anomaly.monitor_system(strategy => 'statistical_zscore')").unwrap();
        assert_eq!(
            text("SELECT string_agg(DISTINCT strategy, ',') FROM anomaly.detectors"),
            "statistical_zscore"
        );
    }

    #[pg_test]
    fn of_what_is_told_once_no_second_point_is_waited_for() {
        Spi::run("SELECT anomaly.monitor_system(strategy => 'cusum')").unwrap();
        assert_eq!(
            text(
                "SELECT DISTINCT strategy || ' ' || fire_after || '/' || clear_after FROM anomaly.detectors"
            ),
            "statistical_cusum 1/3"
        );
        assert_eq!(
            raised("SELECT anomaly.monitor_system(strategy => 'threshold')").sqlstate,
            "22023"
        );
    }

    #[pg_test]
    fn one_system_monitor_per_role_and_name() {
        Spi::run("SELECT anomaly.monitor_system()").unwrap();
        assert_eq!(raised("SELECT anomaly.monitor_system(monitor => 'second')").sqlstate, "42710");
        Spi::run("CREATE ROLE other_watcher LOGIN IN ROLE pg_monitor; SET ROLE other_watcher")
            .unwrap();
        assert_eq!(raised("SELECT anomaly.monitor_system()").sqlstate, "42710");
        Spi::run("SELECT anomaly.monitor_system(monitor => 'second')").unwrap();
        assert_eq!(
            text(
                "SELECT detector FROM anomaly.detectors WHERE metric_name = 'cpu_usage' AND owner = 'other_watcher'::regrole"
            ),
            "second_system_cpu_statistical_mad_cpu_usage"
        );
    }

    #[pg_test]
    fn settings_out_of_range_are_refused() {
        for arguments in [
            "every => '0'",
            "every => '999 milliseconds'",
            "every => '-1 day'",
            "min_data_points => 1",
            "alerts_per_day => 0",
            "alerts_per_day => 'NaN'",
            "alerts_per_day => 'Infinity'",
            "strategy => 'guess'",
            "monitor => ''",
        ] {
            let refused = raised(&format!("SELECT anomaly.monitor_system({arguments})"));
            assert_eq!(refused.sqlstate, "22023", "{arguments}: {}", refused.message);
        }
        Spi::run("CREATE ROLE nologin_watcher IN ROLE pg_monitor; SET ROLE nologin_watcher")
            .unwrap();
        #[cfg(not(feature = "pg18"))]
        assert_eq!(raised("SELECT anomaly.monitor_system()").sqlstate, "55000");
    }
}
