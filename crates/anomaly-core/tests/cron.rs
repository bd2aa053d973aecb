//! Cron expressions: as croniter and zoneinfo have them, also where clocks are changed.

use anomaly_core::schedule::CronSchedule;

const SECOND: i64 = 1_000_000;
/// 2000-01-01 in seconds since 1970.
const EPOCH: i64 = 946_684_800;

/// `reference/cron.py` says what the columns are.
#[test]
fn fault_s6_next_fire_table_equals_that_of_croniter() {
    let (mut compared, mut times) = (0, 0);
    for line in include_str!("reference/cron.txt").lines() {
        let fields: Vec<&str> = line.split('|').collect();
        let number = |i: usize| fields[i].parse::<i64>().unwrap();
        let schedule = CronSchedule::new(fields[3], fields[2]).unwrap();
        let (first, last) = ((number(0) - EPOCH) * SECOND, (number(1) - EPOCH) * SECOND);
        let mut found = Vec::new();
        let mut at = schedule.next_fire(first).unwrap();
        while at <= last {
            assert_eq!(at % SECOND, 0);
            found.push(at / SECOND + EPOCH);
            let next = schedule.next_fire(at).unwrap();
            assert!(next > at, "{line}");
            if found.len() <= 20 {
                // The answer does not depend on where between two times it is asked for.
                for between in [at + 1, at + (next - at) / 2, next - 1] {
                    assert_eq!(schedule.next_fire(between).unwrap(), next, "{line} from {between}");
                }
            }
            at = next;
        }
        let shown: Vec<String> = found.iter().take(8).map(i64::to_string).collect();
        assert_eq!(shown.join(","), fields[6], "{line}");
        assert_eq!(found.len() as i64, number(4), "{line}");
        let hash = found.iter().fold(0u64, |hash, s| {
            hash.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(*s as u64)
        });
        assert_eq!(hash.to_string(), fields[5], "{line}");
        compared += 1;
        times += found.len();
    }
    assert!(compared > 600 && times > 20_000, "only {compared} expressions, {times} times");
}
