//! What Linux says about the machine in `/proc`, read from text that the caller fetched.
//!
//! Formats: proc(5), and `Documentation/admin-guide/iostats.rst` of the kernel for `diskstats`.
//! Each function answers `None` for a text that does not hold what it looks for; a line that does
//! not parse is left out rather than guessed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Time of one processor, or of all of them, since boot in clock ticks (usually 1/100 s).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuTimes {
    /// Neither idle nor waiting for a disk. Time stolen by the hypervisor counts: the machine
    /// wanted to work then.
    pub busy: u64,
    pub total: u64,
}

/// `/proc/stat`: all processors together and each by its number.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Processors {
    pub all: Option<CpuTimes>,
    pub each: BTreeMap<u32, CpuTimes>,
}

/// `/proc/meminfo`, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    pub total: u64,
    /// What programs could get without swapping.
    pub available: u64,
}

/// Bytes moved since boot by a disk or a network interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    /// Read from the disk, or received.
    pub input: u64,
    /// Written to the disk, or sent.
    pub output: u64,
}

/// Parses `/proc/stat`.
pub fn processors(stat: &str) -> Option<Processors> {
    let mut found = Processors::default();
    for line in stat.lines() {
        let mut words = line.split_ascii_whitespace();
        let Some(number) = words.next().and_then(|name| name.strip_prefix("cpu")) else { continue };
        let Some(times) = cpu_times(words) else { continue };
        if number.is_empty() {
            found.all = Some(times);
        } else if let Ok(number) = number.parse() {
            found.each.insert(number, times);
        }
    }
    found.all.is_some().then_some(found)
}

/// The columns user, nice, system, idle, iowait, irq, softirq, steal. Those behind (guest times) are
/// contained in user and nice.
fn cpu_times<'a>(words: impl Iterator<Item = &'a str>) -> Option<CpuTimes> {
    let columns: Vec<u64> = words.take(8).map(str::parse).collect::<Result<_, _>>().ok()?;
    let idle = *columns.get(3)?;
    let iowait = columns.get(4).copied().unwrap_or(0);
    let total = columns.iter().try_fold(0u64, |sum, &ticks| sum.checked_add(ticks))?;
    Some(CpuTimes { busy: total - idle - iowait, total })
}

/// The load average over one minute, from `/proc/loadavg`.
pub fn load1(loadavg: &str) -> Option<f64> {
    let load: f64 = loadavg.split_ascii_whitespace().next()?.parse().ok()?;
    (load.is_finite() && load >= 0.0).then_some(load)
}

/// Parses `/proc/meminfo`. Kernels before 3.14 have no `MemAvailable`; free memory, buffers and page
/// cache stand in for it.
pub fn memory(meminfo: &str) -> Option<Memory> {
    let kib: BTreeMap<&str, u64> = meminfo
        .lines()
        .filter_map(|line| {
            let (name, rest) = line.split_once(':')?;
            Some((name, rest.split_ascii_whitespace().next()?.parse().ok()?))
        })
        .collect();
    let total = *kib.get("MemTotal")?;
    let available = match kib.get("MemAvailable") {
        Some(&available) => available,
        None => ["MemFree", "Buffers", "Cached"]
            .iter()
            .try_fold(0u64, |sum, name| sum.checked_add(*kib.get(name)?))?,
    };
    (total > 0).then_some(Memory {
        total: total.checked_mul(1024)?,
        available: available.min(total) * 1024,
    })
}

/// Whole disks of `/proc/diskstats`. Partitions are part of their disk, and devices that lie on top
/// of other ones (dm, md, loop) or hold no disk (ram, zram, sr, fd) would count the same bytes twice
/// or none.
pub fn disks(diskstats: &str) -> Option<BTreeMap<String, Transfer>> {
    // The kernel counts in units of 512 bytes whatever the disk's sector size is.
    const SECTOR: u64 = 512;
    let rows: BTreeMap<&str, Transfer> = diskstats
        .lines()
        .filter_map(|line| {
            let columns: Vec<&str> = line.split_ascii_whitespace().collect();
            let sectors = |column: usize| columns.get(column)?.parse::<u64>().ok();
            let transfer = Transfer {
                input: sectors(5)?.checked_mul(SECTOR)?,
                output: sectors(9)?.checked_mul(SECTOR)?,
            };
            Some((*columns.get(2)?, transfer))
        })
        .collect();
    let whole: BTreeMap<String, Transfer> = rows
        .iter()
        .filter(|(name, _)| {
            !starts_with_any(name, &["dm-", "md", "loop", "ram", "zram", "sr", "fd", "nbd"])
                && !rows.keys().any(|disk| is_partition_of(name, disk))
        })
        .map(|(name, transfer)| ((*name).to_owned(), *transfer))
        .collect();
    (!whole.is_empty()).then_some(whole)
}

/// `sda1` of `sda`, `nvme0n1p2` of `nvme0n1`; not `sdaa` of `sda`, not `nvme0n10` of `nvme0n1`.
fn is_partition_of(name: &str, disk: &str) -> bool {
    let Some(rest) = name.strip_prefix(disk) else { return false };
    let number = if disk.ends_with(|c: char| c.is_ascii_digit()) {
        rest.strip_prefix('p')
    } else {
        Some(rest)
    };
    number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// Interfaces of `/proc/net/dev` through which bytes enter or leave the machine: without loopback,
/// bridges, tunnels, containers' ends, VLANs and bonds, whose bytes pass through another one too.
pub fn interfaces(net_dev: &str) -> Option<BTreeMap<String, Transfer>> {
    const VIRTUAL: &[&str] = &[
        "veth", "docker", "br-", "virbr", "vnet", "tun", "tap", "wg", "ifb", "dummy", "bond",
        "team", "cni", "flannel", "cali", "cilium", "vxlan", "sit", "gre", "ip6tnl", "tunl",
    ];
    let found: BTreeMap<String, Transfer> = net_dev
        .lines()
        .filter_map(|line| {
            let (name, counters) = line.split_once(':')?;
            let name = name.trim();
            if name == "lo" || name.contains('.') || starts_with_any(name, VIRTUAL) {
                return None;
            }
            let columns: Vec<&str> = counters.split_ascii_whitespace().collect();
            let bytes = |column: usize| columns.get(column)?.parse::<u64>().ok();
            Some((name.to_owned(), Transfer { input: bytes(0)?, output: bytes(8)? }))
        })
        .collect();
    (!found.is_empty()).then_some(found)
}

fn starts_with_any(name: &str, prefixes: &[&str]) -> bool {
    prefixes.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Recorded on a machine with two processors; the last two columns are guest times.
    const STAT: &str = "\
cpu  103718 12 19435 158667 2836 5 304 647 40 2
cpu0 49679 0 8097 84018 701 0 25 310 0 0
cpu1 54038 0 11337 74648 2135 0 278 337 0 0
intr 10223337 0 9 0 0 0
ctxt 19938271
btime 1763812016
processes 24754
procs_running 3
";

    #[test]
    fn processors_are_busy_when_neither_idle_nor_waiting() {
        let found = processors(STAT).unwrap();
        let all = found.all.unwrap();
        assert_eq!(all.total, 103718 + 12 + 19435 + 158667 + 2836 + 5 + 304 + 647);
        assert_eq!(all.busy, 103718 + 12 + 19435 + 5 + 304 + 647);
        assert_eq!(found.each.len(), 2);
        assert_eq!(found.each[&1], CpuTimes { busy: 65990, total: 142773 });
    }

    #[test]
    fn processors_of_old_kernels_have_four_columns() {
        let all = processors("cpu 10 20 30 40\n").unwrap().all.unwrap();
        assert_eq!(all, CpuTimes { busy: 60, total: 100 });
    }

    #[test]
    fn damaged_processor_lines_are_left_out() {
        assert_eq!(processors(""), None);
        assert_eq!(processors("cpu\n"), None);
        assert_eq!(processors("cpu 1 2 x 4\n"), None);
        assert_eq!(processors("cpu 1 2 -3 4\n"), None);
        assert_eq!(processors(&format!("cpu {} 1 1 1\n", u64::MAX)), None, "sum overflows");
        assert_eq!(processors("cpu0 1 2 3 4\n"), None, "no line for all of them");
        let found = processors("cpu 1 2 3 4\ncpu0 1 2 3 4\ncpux 1 2 3 4\ncpu1 1 2\n").unwrap();
        assert_eq!(found.each.keys().collect::<Vec<_>>(), [&0]);
    }

    #[test]
    fn load_is_the_first_number() {
        assert_eq!(load1("2.10 1.29 0.86 3/121 24754\n"), Some(2.10));
        for text in ["", "x 1 2", "-1 0 0", "nan 1 1", "inf 1 1"] {
            assert_eq!(load1(text), None, "{text}");
        }
    }

    #[test]
    fn memory_prefers_the_kernels_own_estimate() {
        let text = "MemTotal:       24684084 kB\nMemFree:        20555412 kB\n\
                    MemAvailable:   23733796 kB\nBuffers:           40628 kB\nCached: 3132164 kB\n";
        let found = memory(text).unwrap();
        assert_eq!(found, Memory { total: 24684084 * 1024, available: 23733796 * 1024 });
        let old = text.replace("MemAvailable", "Elsewhere");
        assert_eq!(memory(&old).unwrap().available, (20555412 + 40628 + 3132164) * 1024);
    }

    #[test]
    fn memory_needs_a_total_and_something_free() {
        assert_eq!(memory(""), None);
        assert_eq!(memory("MemTotal: 0 kB\nMemAvailable: 0 kB\n"), None);
        assert_eq!(memory("MemTotal: 10 kB\nMemFree: 1 kB\n"), None);
        assert_eq!(memory("MemTotal: ten kB\nMemAvailable: 1 kB\n"), None);
        let odd = memory("MemTotal: 10 kB\nMemAvailable: 11 kB\n").unwrap();
        assert_eq!(odd.available, odd.total, "never more available than there is");
    }

    #[test]
    fn disks_are_counted_once() {
        let found = disks(
            "   7       0 loop0 5 0 50 0 0 0 0 0 0 0 0\n\
             8       0 sda 100 1 2000 5 200 2 4000 6 0 7 8 0 0 0 0\n\
             8       1 sda1 90 1 1900 5 200 2 4000 6 0 7 8 0 0 0 0\n\
             65     160 sdaa 1 0 10 0 1 0 20 0 0 0 0\n\
             259     0 nvme0n1 1 0 8 0 1 0 16 0 0 0 0\n\
             259     1 nvme0n1p1 1 0 8 0 1 0 16 0 0 0 0\n\
             259     9 nvme0n10 1 0 2 0 1 0 2 0 0 0 0\n\
             202     1 xvda1 1 0 4 0 1 0 4 0 0 0 0\n\
             253     0 zram0 0 0 9 0 0 0 9 0 0 0 0\n\
             252     0 dm-0 90 1 1900 5 200 2 4000 6 0 7 8\n",
        )
        .unwrap();
        assert_eq!(
            found.keys().map(String::as_str).collect::<Vec<_>>(),
            ["nvme0n1", "nvme0n10", "sda", "sdaa", "xvda1"]
        );
        assert_eq!(found["sda"], Transfer { input: 2000 * 512, output: 4000 * 512 });
    }

    #[test]
    fn no_disk_is_absent_not_zero() {
        assert_eq!(disks(""), None);
        assert_eq!(disks(" 7 0 loop0 0 0 0 0 0 0 0 0 0 0 0\n"), None);
        assert_eq!(disks(" 8 0 sda 1 2 3\n"), None, "a short line");
        assert_eq!(
            disks(&format!(" 8 0 sda 1 0 {} 0 1 0 1 0 0 0 0\n", u64::MAX)),
            None,
            "overflow"
        );
    }

    #[test]
    fn interfaces_without_those_that_repeat_others() {
        let found = interfaces(
            "Inter-|   Receive                                                |  Transmit\n \
             face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
             lo:    3193      29    0    0    0     0          0         0     3193      29    0    0    0     0       0          0\n  \
             eth0: 410641245   14012    0    0    0     0          0         0   731849    7819    0    0    0     0       0          0\n\
             eth1:5 1 0 0 0 0 0 0 6 1 0 0 0 0 0 0\n\
             eth0.100: 9 1 0 0 0 0 0 0 9 1 0 0 0 0 0 0\n\
             docker0: 9 1 0 0 0 0 0 0 9 1 0 0 0 0 0 0\n\
             broken0: 9 1\n",
        )
        .unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found["eth0"], Transfer { input: 410641245, output: 731849 });
        assert_eq!(found["eth1"], Transfer { input: 5, output: 6 });
        assert_eq!(interfaces(""), None);
        assert_eq!(interfaces("lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n"), None);
    }
}
