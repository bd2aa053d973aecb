//! From readings of a machine and a database to the metrics that `monitor_system` collects.
//!
//! Most sources are counters that only grow. A metric made from one is its growth between two
//! readings, so the first reading yields none of them, and a counter that is smaller than before
//! (reboot, statistics reset, replaced disk) starts anew without a value for that interval.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::host::{CpuTimes, Memory, Processors, Transfer};

/// Two readings closer than this yield no rates: processor time comes in ticks of 10 ms.
const SHORTEST_INTERVAL_MICROS: i64 = 100_000;

/// Space of a file system as `df` counts it, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filesystem {
    pub used: u64,
    /// Free for users other than root.
    pub available: u64,
}

/// One row of `pg_stat_database` and the sessions connected to that database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// When the counters were last reset, µs since 2000-01-01 UTC.
    pub reset_at: Option<i64>,
    /// Client sessions now.
    pub connections: u64,
    pub commits: u64,
    pub rollbacks: u64,
    pub blocks_hit: u64,
    pub blocks_read: u64,
    pub temp_bytes: u64,
    pub deadlocks: u64,
    /// Time that client sessions spent executing statements, µs.
    pub active_micros: u64,
    /// How long it took to ask for all this, µs: the response time of a statement that is always
    /// the same.
    pub probe_micros: u64,
}

/// Everything read at one moment; a source that could not be read is `None`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Readings {
    /// When, µs since 2000-01-01 UTC.
    pub at: i64,
    /// Differs after each boot; the machine's counters of two boots are not compared.
    pub boot_id: Option<String>,
    pub processors: Option<Processors>,
    pub load1: Option<f64>,
    pub memory: Option<Memory>,
    pub filesystem: Option<Filesystem>,
    pub disks: Option<BTreeMap<String, Transfer>>,
    pub interfaces: Option<BTreeMap<String, Transfer>>,
    pub database: Option<Database>,
    /// Bytes of WAL ever written.
    pub wal_bytes: Option<u64>,
}

/// Where a metric comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    Processors,
    Load,
    Memory,
    Filesystem,
    Disks,
    Interfaces,
    Database,
    Wal,
}

/// What `monitor_system` measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Metric {
    CpuUsage,
    CpuBusiestCore,
    Load1,
    MemoryUsage,
    DiskUsage,
    DiskReadBytes,
    DiskWriteBytes,
    NetworkTraffic,
    Connections,
    Commits,
    Rollbacks,
    Deadlocks,
    ErrorRate,
    ActiveSessions,
    Latency,
    CacheHitRatio,
    BlocksRead,
    TempBytes,
    WalBytes,
}

/// What is fixed about a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetricInfo {
    pub name: &'static str,
    pub unit: &'static str,
    pub source: Source,
    pub anomaly_type: &'static str,
    /// Needs two readings.
    pub is_rate: bool,
    /// Moves so slowly that a few neighbouring points all look alike and say nothing about what is
    /// normal: only a longer stretch does.
    pub is_slow: bool,
    /// A single occurrence matters, however short.
    pub is_event: bool,
    /// Whether it gets a detector of its own. Part of a sum that is watched does not.
    pub is_watched: bool,
}

impl Metric {
    pub const ALL: [Metric; 19] = [
        Metric::CpuUsage,
        Metric::CpuBusiestCore,
        Metric::Load1,
        Metric::MemoryUsage,
        Metric::DiskUsage,
        Metric::DiskReadBytes,
        Metric::DiskWriteBytes,
        Metric::NetworkTraffic,
        Metric::Connections,
        Metric::Commits,
        Metric::Rollbacks,
        Metric::Deadlocks,
        Metric::ErrorRate,
        Metric::ActiveSessions,
        Metric::Latency,
        Metric::CacheHitRatio,
        Metric::BlocksRead,
        Metric::TempBytes,
        Metric::WalBytes,
    ];

    pub fn info(self) -> MetricInfo {
        let gauge = |name, unit, source, anomaly_type| MetricInfo {
            name,
            unit,
            source,
            anomaly_type,
            is_rate: false,
            is_slow: false,
            is_event: false,
            is_watched: true,
        };
        let rate = |name, unit, source, anomaly_type| MetricInfo {
            is_rate: true,
            ..gauge(name, unit, source, anomaly_type)
        };
        let slow = |info| MetricInfo { is_slow: true, ..info };
        let event = |info| MetricInfo { is_event: true, ..info };
        let part = |info| MetricInfo { is_watched: false, ..info };
        use Source::*;
        match self {
            Metric::CpuUsage => rate("cpu_usage", "share", Processors, "system_cpu"),
            Metric::CpuBusiestCore => rate("cpu_busiest_core", "share", Processors, "system_cpu"),
            Metric::Load1 => slow(gauge("load1", "processes", Load, "system_cpu")),
            Metric::MemoryUsage => slow(gauge("memory_usage", "share", Memory, "system_memory")),
            Metric::DiskUsage => slow(gauge("disk_usage", "share", Filesystem, "system_disk")),
            Metric::DiskReadBytes => rate("disk_read_bytes", "bytes/s", Disks, "system_disk"),
            Metric::DiskWriteBytes => rate("disk_write_bytes", "bytes/s", Disks, "system_disk"),
            Metric::NetworkTraffic => {
                rate("network_traffic", "bytes/s", Interfaces, "system_network")
            }
            Metric::Connections => gauge("connections", "connections", Database, "system_network"),
            Metric::Commits => rate("commits", "transactions/s", Database, "system_network"),
            Metric::Rollbacks => {
                part(rate("rollbacks", "transactions/s", Database, "system_error_rate"))
            }
            Metric::Deadlocks => event(rate("deadlocks", "1/s", Database, "system_error_rate")),
            Metric::ErrorRate => rate("error_rate", "1/min", Database, "system_error_rate"),
            Metric::ActiveSessions => {
                rate("active_sessions", "sessions", Database, "system_latency")
            }
            Metric::Latency => gauge("latency", "s", Database, "system_latency"),
            Metric::CacheHitRatio => rate("cache_hit_ratio", "share", Database, "system_disk"),
            Metric::BlocksRead => rate("blocks_read", "blocks/s", Database, "system_disk"),
            Metric::TempBytes => rate("temp_bytes", "bytes/s", Database, "system_disk"),
            Metric::WalBytes => rate("wal_bytes", "bytes/s", Wal, "system_disk"),
        }
    }
}

/// The metrics that `now` yields, rates since `previous`. All values are finite and not negative.
pub fn measure(previous: Option<&Readings>, now: &Readings) -> Vec<(Metric, f64)> {
    Metric::ALL
        .into_iter()
        .filter_map(|metric| {
            let value =
                gauge(metric, now).or_else(|| Interval::between(previous?, now)?.value(metric))?;
            value.is_finite().then_some((metric, value))
        })
        .collect()
}

fn gauge(metric: Metric, now: &Readings) -> Option<f64> {
    match metric {
        Metric::Load1 => now.load1,
        Metric::MemoryUsage => {
            now.memory.and_then(|m| share(m.total.saturating_sub(m.available), m.total))
        }
        Metric::DiskUsage => {
            now.filesystem.and_then(|f| share(f.used, f.used.checked_add(f.available)?))
        }
        Metric::Connections => now.database.map(|d| d.connections as f64),
        Metric::Latency => now.database.map(|d| d.probe_micros as f64 / 1e6),
        _ => None,
    }
}

/// Two readings far enough apart.
struct Interval<'a> {
    before: &'a Readings,
    now: &'a Readings,
    seconds: f64,
}

impl<'a> Interval<'a> {
    fn between(before: &'a Readings, now: &'a Readings) -> Option<Self> {
        let micros = now.at.checked_sub(before.at)?;
        let seconds = micros as f64 / 1e6;
        (micros >= SHORTEST_INTERVAL_MICROS).then_some(Interval { before, now, seconds })
    }

    fn value(&self, metric: Metric) -> Option<f64> {
        match metric {
            Metric::CpuUsage => {
                let (before, now) = self.machine(|r| r.processors.as_ref())?;
                busy_share(before.all?, now.all?)
            }
            Metric::CpuBusiestCore => {
                let (before, now) = self.machine(|r| r.processors.as_ref())?;
                now.each
                    .iter()
                    .filter_map(|(core, times)| busy_share(*before.each.get(core)?, *times))
                    .reduce(f64::max)
            }
            Metric::DiskReadBytes => self.transferred(|r| r.disks.as_ref(), |t| t.input),
            Metric::DiskWriteBytes => self.transferred(|r| r.disks.as_ref(), |t| t.output),
            Metric::NetworkTraffic => {
                let received = self.transferred(|r| r.interfaces.as_ref(), |t| t.input)?;
                let sent = self.transferred(|r| r.interfaces.as_ref(), |t| t.output)?;
                Some(received + sent)
            }
            Metric::Commits => self.per_second(|d| d.commits),
            Metric::Rollbacks => self.per_second(|d| d.rollbacks),
            Metric::Deadlocks => self.per_second(|d| d.deadlocks),
            Metric::ErrorRate => {
                let errors =
                    self.per_second(|d| d.rollbacks)? + self.per_second(|d| d.deadlocks)?;
                Some(errors * 60.0)
            }
            // Seconds of work per second: how many sessions were at work on average.
            Metric::ActiveSessions => Some(self.per_second(|d| d.active_micros)? / 1e6),
            Metric::CacheHitRatio => {
                let hit = self.growth(|d| d.blocks_hit)?;
                share(hit, hit.checked_add(self.growth(|d| d.blocks_read)?)?)
            }
            Metric::BlocksRead => self.per_second(|d| d.blocks_read),
            Metric::TempBytes => self.per_second(|d| d.temp_bytes),
            Metric::WalBytes => {
                Some(self.now.wal_bytes?.checked_sub(self.before.wal_bytes?)? as f64 / self.seconds)
            }
            Metric::Load1
            | Metric::MemoryUsage
            | Metric::DiskUsage
            | Metric::Connections
            | Metric::Latency => None,
        }
    }

    /// A source of the machine in both readings, if both are of the same boot.
    fn machine<T: ?Sized>(
        &self,
        of: impl Fn(&'a Readings) -> Option<&'a T>,
    ) -> Option<(&'a T, &'a T)> {
        (self.before.boot_id == self.now.boot_id).then_some((of(self.before)?, of(self.now)?))
    }

    /// Bytes per second summed over the devices that are in both readings.
    fn transferred(
        &self,
        of: impl Fn(&'a Readings) -> Option<&'a BTreeMap<String, Transfer>>,
        direction: impl Fn(&Transfer) -> u64,
    ) -> Option<f64> {
        let (before, now) = self.machine(of)?;
        now.iter()
            .filter_map(|(device, transfer)| {
                direction(transfer).checked_sub(direction(before.get(device)?))
            })
            .map(|bytes| bytes as f64 / self.seconds)
            .reduce(|sum, rate| sum + rate)
    }

    /// How much a counter of the database grew, if it was not reset in between.
    fn growth(&self, counter: impl Fn(&Database) -> u64) -> Option<u64> {
        let (before, now) = (self.before.database.as_ref()?, self.now.database.as_ref()?);
        if before.reset_at != now.reset_at {
            return None;
        }
        counter(now).checked_sub(counter(before))
    }

    fn per_second(&self, counter: impl Fn(&Database) -> u64) -> Option<f64> {
        Some(self.growth(counter)? as f64 / self.seconds)
    }
}

/// The kernel's idle times may step back a little (proc(5)), so the share is kept within 0 and 1.
fn busy_share(before: CpuTimes, now: CpuTimes) -> Option<f64> {
    let total = now.total.checked_sub(before.total)?;
    share(now.busy.saturating_sub(before.busy), total).map(|busy| busy.min(1.0))
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(values: &[(Metric, f64)], metric: Metric) -> Option<f64> {
        values.iter().find(|(m, _)| *m == metric).map(|(_, v)| *v)
    }

    fn transfers(of: &[(&str, u64, u64)]) -> Option<BTreeMap<String, Transfer>> {
        Some(
            of.iter()
                .map(|&(name, input, output)| (name.to_owned(), Transfer { input, output }))
                .collect(),
        )
    }

    fn cores(of: &[(u64, u64)]) -> Option<Processors> {
        let each: BTreeMap<u32, CpuTimes> =
            (0..).zip(of).map(|(n, &(busy, total))| (n, CpuTimes { busy, total })).collect();
        let all = CpuTimes {
            busy: each.values().map(|c| c.busy).sum(),
            total: each.values().map(|c| c.total).sum(),
        };
        Some(Processors { all: Some(all), each })
    }

    fn before() -> Readings {
        Readings {
            at: 1_000_000,
            boot_id: Some("a".into()),
            processors: cores(&[(100, 1000), (100, 1000)]),
            load1: Some(0.5),
            memory: Some(Memory { total: 1000, available: 250 }),
            filesystem: Some(Filesystem { used: 30, available: 70 }),
            disks: transfers(&[("sda", 1000, 2000), ("sdb", 0, 0)]),
            interfaces: transfers(&[("eth0", 10, 20)]),
            database: Some(Database {
                reset_at: None,
                connections: 3,
                commits: 100,
                rollbacks: 10,
                blocks_hit: 1000,
                blocks_read: 100,
                temp_bytes: 0,
                deadlocks: 1,
                active_micros: 5_000_000,
                probe_micros: 700,
            }),
            wal_bytes: Some(1 << 40),
        }
    }

    /// Two seconds later: one core was fully busy.
    fn after() -> Readings {
        let then = before();
        Readings {
            at: 3_000_000,
            processors: cores(&[(300, 1200), (110, 1200)]),
            load1: Some(0.7),
            disks: transfers(&[("sda", 3000, 2000), ("sdb", 10, 4)]),
            interfaces: transfers(&[("eth0", 110, 220)]),
            database: then.database.map(|d| Database {
                connections: 5,
                commits: 118,
                rollbacks: 12,
                blocks_hit: 1090,
                blocks_read: 110,
                temp_bytes: 4096,
                deadlocks: 2,
                active_micros: 5_400_000,
                ..d
            }),
            wal_bytes: Some((1 << 40) + 16384),
            ..then
        }
    }

    #[test]
    fn the_first_reading_yields_levels_only() {
        let values = measure(None, &before());
        let names: Vec<_> = values.iter().map(|(m, _)| m.info().name).collect();
        assert_eq!(names, ["load1", "memory_usage", "disk_usage", "connections", "latency"]);
        assert_eq!(value(&values, Metric::MemoryUsage), Some(0.75));
        assert_eq!(value(&values, Metric::DiskUsage), Some(0.3));
        assert!(values.iter().all(|(m, _)| !m.info().is_rate));
    }

    #[test]
    fn two_readings_yield_every_metric() {
        let values = measure(Some(&before()), &after());
        let expected = [
            (Metric::CpuUsage, 210.0 / 400.0),
            (Metric::CpuBusiestCore, 1.0),
            (Metric::Load1, 0.7),
            (Metric::MemoryUsage, 0.75),
            (Metric::DiskUsage, 0.3),
            (Metric::DiskReadBytes, 1005.0),
            (Metric::DiskWriteBytes, 2.0),
            (Metric::NetworkTraffic, 150.0),
            (Metric::Connections, 5.0),
            (Metric::Commits, 9.0),
            (Metric::Rollbacks, 1.0),
            (Metric::Deadlocks, 0.5),
            (Metric::ErrorRate, 90.0),
            (Metric::ActiveSessions, 0.2),
            (Metric::Latency, 0.0007),
            (Metric::CacheHitRatio, 0.9),
            (Metric::BlocksRead, 5.0),
            (Metric::TempBytes, 2048.0),
            (Metric::WalBytes, 8192.0),
        ];
        assert_eq!(values, expected);
    }

    #[test]
    fn a_counter_that_became_smaller_yields_nothing_once() {
        let (then, mut now) = (before(), after());
        now.wal_bytes = Some(5);
        now.processors = cores(&[(1, 10), (1, 10)]);
        now.database = now.database.map(|d| Database { commits: 1, ..d });
        let values = measure(Some(&then), &now);
        for metric in [Metric::WalBytes, Metric::CpuUsage, Metric::CpuBusiestCore, Metric::Commits]
        {
            assert_eq!(value(&values, metric), None, "{metric:?}");
        }
        assert_eq!(value(&values, Metric::BlocksRead), Some(5.0), "the others go on");
        let mut later = now.clone();
        later.at += 1_000_000;
        later.wal_bytes = Some(105);
        assert_eq!(value(&measure(Some(&now), &later), Metric::WalBytes), Some(100.0));
    }

    #[test]
    fn counters_of_another_boot_or_after_a_reset_are_not_compared() {
        // Every counter is larger, so only the marks tell.
        let mut rebooted = after();
        rebooted.boot_id = Some("b".into());
        let values = measure(Some(&before()), &rebooted);
        for metric in [Metric::CpuUsage, Metric::DiskReadBytes, Metric::NetworkTraffic] {
            assert_eq!(value(&values, metric), None, "{metric:?}");
        }
        assert_eq!(value(&values, Metric::Commits), Some(9.0), "statistics survive a reboot");

        let mut reset = after();
        reset.database = reset.database.map(|d| Database { reset_at: Some(2_000_000), ..d });
        let values = measure(Some(&before()), &reset);
        assert_eq!(value(&values, Metric::Commits), None);
        assert_eq!(value(&values, Metric::Connections), Some(5.0));
        assert!(value(&values, Metric::CpuUsage).is_some());
    }

    #[test]
    fn a_new_device_brings_no_jump() {
        let (then, mut now) = (before(), after());
        now.disks = transfers(&[("sda", 3000, 2000), ("sdz", 1 << 50, 1 << 50)]);
        let values = measure(Some(&then), &now);
        assert_eq!(value(&values, Metric::DiskReadBytes), Some(1000.0));
        now.disks = transfers(&[("sdz", 1, 1)]);
        assert_eq!(value(&measure(Some(&then), &now), Metric::DiskReadBytes), None);
    }

    #[test]
    fn no_time_or_time_that_runs_back_yields_no_rates() {
        for at in [1_000_000, 1_000_001, 1_099_999, 0, i64::MIN] {
            let now = Readings { at, ..after() };
            let values = measure(Some(&before()), &now);
            assert!(values.iter().all(|(m, _)| !m.info().is_rate), "{at}: {values:?}");
        }
    }

    #[test]
    fn idle_time_that_steps_back_keeps_the_share_in_range() {
        let then = Readings { processors: cores(&[(100, 1000)]), ..before() };
        let more = Readings { processors: cores(&[(400, 1200)]), ..after() };
        assert_eq!(value(&measure(Some(&then), &more), Metric::CpuUsage), Some(1.0));
        let less = Readings { processors: cores(&[(90, 1200)]), ..after() };
        assert_eq!(value(&measure(Some(&then), &less), Metric::CpuUsage), Some(0.0));
    }

    #[test]
    fn absent_sources_yield_no_metrics() {
        let empty = Readings { at: 9_000_000, ..Readings::default() };
        assert_eq!(measure(None, &empty), []);
        assert_eq!(measure(Some(&before()), &empty), []);
        let silent = Readings { at: 9_000_000, ..before() };
        let values = measure(Some(&before()), &silent);
        assert_eq!(value(&values, Metric::CpuUsage), None, "no ticks passed");
        assert_eq!(value(&values, Metric::CacheHitRatio), None, "no block was asked for");
        assert_eq!(value(&values, Metric::Commits), Some(0.0));
    }

    #[test]
    fn readings_survive_storage() {
        let readings = after();
        let stored = serde_json::to_value(&readings).unwrap();
        assert_eq!(serde_json::from_value::<Readings>(stored).unwrap(), readings);
        // What an older or newer version stored may lack or add fields.
        let partial = r#"{"at": 5, "wal_bytes": 18446744073709551615, "later": true}"#;
        let readings: Readings = serde_json::from_str(partial).unwrap();
        assert_eq!((readings.at, readings.wal_bytes), (5, Some(u64::MAX)));
    }

    #[test]
    fn names_are_unique() {
        let names: std::collections::BTreeSet<_> =
            Metric::ALL.iter().map(|m| m.info().name).collect();
        assert_eq!(names.len(), Metric::ALL.len());
    }
}
