//! When something is due: fixed intervals, cron expressions in a time zone, waiting after failures.
//!
//! Times and intervals are microseconds, times since 2000-01-01 00:00 UTC.

use std::str::FromStr;

use croner::Cron;
use croner::errors::CronError;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use crate::random::mix;
use crate::{Error, Result};

/// 2000-01-01 00:00 UTC in microseconds since 1970.
const EPOCH: i64 = 946_684_800_000_000;

/// The next due time after a run that was due at `last_due` and is decided at `now`.
///
/// Keeps the cadence: `last_due` plus a multiple of `interval`, the first after `now`; however many
/// were missed are made up for by one. A `last_due` more than an interval ahead of `now` (the clock
/// was set back, or the row was copied) is brought back to one interval after `now`.
///
/// `interval` must be positive; anything less counts as one microsecond.
pub fn next_due(interval: i64, last_due: i64, now: i64) -> i64 {
    let interval = i128::from(interval.max(1));
    let (last, now) = (i128::from(last_due), i128::from(now));
    let due = if last > now + interval {
        now + interval
    } else if last > now {
        last
    } else {
        last + ((now - last) / interval + 1) * interval
    };
    due.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

/// How long to wait after the n-th consecutive failure: interval · 2^(n−1), at most 5 intervals,
/// ±13 % so that what failed together does not come back together. The same seed and count give the
/// same wait.
pub fn backoff(failures: u32, interval: i64, jitter_seed: u64) -> i64 {
    if failures == 0 {
        return interval.max(1);
    }
    let factor = 2f64.powi((failures - 1).min(8) as i32).min(5.0);
    let hash = mix(jitter_seed ^ mix(u64::from(failures)));
    // 53 random bits as a fraction in [0, 1)
    let fraction = (hash >> 11) as f64 / (1u64 << 53) as f64;
    let jitter = 1.0 + 0.13 * (2.0 * fraction - 1.0);
    ((interval.max(1) as f64 * factor * jitter) as i64).max(1)
}

/// As [`backoff`], after a run that ended in a crash: at least `crash_wait`, so that an operator has
/// time to disable what takes the server down.
pub fn crash_backoff(failures: u32, interval: i64, jitter_seed: u64, crash_wait: i64) -> i64 {
    backoff(failures, interval, jitter_seed).max(crash_wait)
}

/// A cron expression in a time zone.
///
/// Five fields (minute, hour, day of month, month, day of week), or six with seconds in front, or a
/// name such as `@hourly`. When clocks go forward, a job at a fixed time inside the gap runs right
/// after it and repeating ones skip it; when clocks go back, a job at a fixed time runs once, at the
/// first of the two, and repeating ones run in both.
#[derive(Debug, Clone)]
pub struct CronSchedule {
    cron: Cron,
    zone: TimeZone,
}

impl CronSchedule {
    /// `InvalidParameter` names the field of a syntax error and its position, an unknown time zone,
    /// or an expression that never comes true.
    pub fn new(expression: &str, time_zone: &str) -> Result<Self> {
        let zone = TimeZone::get(time_zone).map_err(|_| {
            Error::invalid(
                format!("unknown time zone \"{time_zone}\""),
                "Use a name such as UTC or Europe/Berlin; pg_timezone_names lists them.",
            )
        })?;
        let cron = Cron::from_str(expression).map_err(|e| syntax_error(expression, &e))?;
        let schedule = CronSchedule { cron, zone };
        // a date that does not exist, as 30 February, is valid syntax
        schedule.next_fire(0)?;
        Ok(schedule)
    }

    /// The first time after `after` (exclusive).
    pub fn next_fire(&self, after: i64) -> Result<i64> {
        let start = after
            .checked_add(EPOCH)
            .and_then(|us| Timestamp::from_microsecond(us).ok())
            .ok_or_else(|| Error::OutOfRange(format!("time {after} is out of range")))?;
        let start: Zoned = start.to_zoned(self.zone.clone());
        let next = self.cron.find_next_occurrence(&start, false).map_err(|_| {
            Error::invalid(
                format!("cron expression \"{}\" never comes true", self.cron.as_str()),
                "Check day of month and month: 30 February does not exist.",
            )
        })?;
        Ok(next.timestamp().as_microsecond() - EPOCH)
    }
}

/// As [`CronSchedule::next_fire`], for callers that do not keep the schedule.
pub fn next_fire(expression: &str, time_zone: &str, after: i64) -> Result<i64> {
    CronSchedule::new(expression, time_zone)?.next_fire(after)
}

const FIELDS: [&str; 6] = ["second", "minute", "hour", "day of month", "month", "day of week"];

/// Finds the first field that does not parse beside stars.
fn syntax_error(expression: &str, error: &CronError) -> Error {
    const HINT: &str = "Write minute, hour, day of month, month and day of week, for example \
                        \"*/5 * * * *\" for every five minutes or \"30 2 * * 1\" for Mondays at 02:30.";
    let mut fields = Vec::new();
    let mut start = None;
    for (i, c) in expression.char_indices().chain([(expression.len(), ' ')]) {
        match (c.is_whitespace(), start) {
            (false, None) => start = Some(i),
            (true, Some(s)) => {
                fields.push((s, &expression[s..i]));
                start = None;
            }
            _ => {}
        }
    }
    let names = match fields.len() {
        5 => &FIELDS[1..],
        6 => &FIELDS[..],
        n => {
            return Error::invalid(
                format!("cron expression \"{expression}\" has {n} fields instead of 5 or 6"),
                HINT,
            );
        }
    };
    for (k, (at, text)) in fields.iter().enumerate() {
        let alone: Vec<&str> =
            (0..fields.len()).map(|j| if j == k { *text } else { "*" }).collect();
        if Cron::from_str(&alone.join(" ")).is_err() {
            let position = expression[..*at].chars().count() + 1;
            return Error::invalid(
                format!(
                    "cron expression \"{expression}\": bad {} \"{text}\" at position {position}",
                    names[k]
                ),
                HINT,
            );
        }
    }
    Error::invalid(format!("cron expression \"{expression}\": {error}"), HINT)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: i64 = 1_000_000;
    const MINUTE: i64 = 60 * SECOND;
    const HOUR: i64 = 60 * MINUTE;

    fn at(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_microsecond() - EPOCH
    }

    fn show(time: i64) -> String {
        Timestamp::from_microsecond(time + EPOCH).unwrap().to_string()
    }

    /// The next `n` times after `start`.
    fn fires(expression: &str, zone: &str, start: &str, n: usize) -> Vec<String> {
        let schedule = CronSchedule::new(expression, zone).unwrap();
        let mut time = at(start);
        (0..n)
            .map(|_| {
                time = schedule.next_fire(time).unwrap();
                show(time)
            })
            .collect()
    }

    #[test]
    fn the_epoch_is_that_of_postgresql() {
        assert_eq!(at("2000-01-01T00:00:00Z"), 0);
    }

    #[test]
    fn cadence_is_kept_and_missed_runs_become_one() {
        assert_eq!(next_due(MINUTE, 0, 1), MINUTE);
        assert_eq!(next_due(MINUTE, 0, 0), MINUTE);
        assert_eq!(next_due(MINUTE, 0, MINUTE), 2 * MINUTE);
        // seven missed
        assert_eq!(next_due(MINUTE, 30 * SECOND, 8 * MINUTE), 8 * MINUTE + 30 * SECOND);
        // not yet due stays as it is
        assert_eq!(next_due(MINUTE, 90 * SECOND, 80 * SECOND), 90 * SECOND);
        // the clock went back by a day
        assert_eq!(next_due(MINUTE, 24 * HOUR, 0), MINUTE);
        assert_eq!(next_due(0, 0, 5), 6);
        assert_eq!(next_due(i64::MAX, i64::MIN, i64::MAX), i64::MAX);
    }

    #[test]
    fn failures_wait_longer_up_to_five_intervals() {
        for (n, factor) in [(1, 1.0), (2, 2.0), (3, 4.0), (4, 5.0), (5, 5.0), (u32::MAX, 5.0)] {
            for seed in 0..500 {
                let wait = backoff(n, MINUTE, seed) as f64 / MINUTE as f64 / factor;
                assert!((0.87..=1.13).contains(&wait), "{n}: {wait}");
                assert_eq!(backoff(n, MINUTE, seed), backoff(n, MINUTE, seed));
            }
            let waits: std::collections::HashSet<i64> =
                (0..500).map(|seed| backoff(n, MINUTE, seed)).collect();
            assert!(waits.len() > 490);
            let (min, max) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
            assert!((max - min) as f64 > 0.2 * factor * MINUTE as f64, "hardly any jitter");
        }
        assert_eq!(backoff(0, MINUTE, 1), MINUTE);
        assert!(backoff(9, i64::MAX, 1) > 0);
        assert_eq!(crash_backoff(1, SECOND, 1, 300 * SECOND), 300 * SECOND);
        assert_eq!(crash_backoff(1, HOUR, 1, SECOND), backoff(1, HOUR, 1));
    }

    #[test]
    fn cron_fires_in_its_time_zone() {
        assert_eq!(
            fires("*/15 * * * *", "UTC", "2026-03-01T11:50:00Z", 3),
            ["2026-03-01T12:00:00Z", "2026-03-01T12:15:00Z", "2026-03-01T12:30:00Z"]
        );
        assert_eq!(
            fires("30 2 * * 1", "America/New_York", "2026-01-01T00:00:00Z", 2),
            ["2026-01-05T07:30:00Z", "2026-01-12T07:30:00Z"]
        );
        assert_eq!(
            fires("@daily", "Asia/Kolkata", "2026-01-01T00:00:00Z", 1),
            ["2026-01-01T18:30:00Z"]
        );
        // seconds, when there are six fields
        assert_eq!(
            fires("*/20 * * * * *", "UTC", "2026-01-01T00:00:00Z", 2),
            ["2026-01-01T00:00:20Z", "2026-01-01T00:00:40Z"]
        );
        // exclusive of the start, and of fractions of a second after it
        assert_eq!(fires("0 * * * *", "UTC", "2026-01-01T01:00:00Z", 1), ["2026-01-01T02:00:00Z"]);
        assert_eq!(
            fires("0 * * * *", "UTC", "2026-01-01T00:59:59.999999Z", 1),
            ["2026-01-01T01:00:00Z"]
        );
        assert_eq!(
            next_fire("0 0 29 2 *", "UTC", at("2026-01-01T00:00:00Z")).map(show),
            Ok("2028-02-29T00:00:00Z".into())
        );
    }

    /// Berlin, 29 March 2026: 02:00 to 03:00 does not exist.
    #[test]
    fn clocks_going_forward() {
        assert_eq!(
            fires("30 2 * * *", "Europe/Berlin", "2026-03-28T00:00:00Z", 3),
            ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"],
            "a fixed time inside the gap runs right after it"
        );
        assert_eq!(
            fires("*/30 * * * *", "Europe/Berlin", "2026-03-29T00:15:00Z", 3),
            ["2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z"],
            "a repeating job keeps its distance"
        );
    }

    /// Berlin, 25 October 2026: 02:00 to 03:00 comes twice.
    #[test]
    fn clocks_going_back() {
        assert_eq!(
            fires("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2),
            ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"],
            "a fixed time runs once"
        );
        assert_eq!(
            fires("*/30 * * * *", "Europe/Berlin", "2026-10-25T00:15:00Z", 4),
            [
                "2026-10-25T00:30:00Z",
                "2026-10-25T01:00:00Z",
                "2026-10-25T01:30:00Z",
                "2026-10-25T02:00:00Z"
            ],
            "a repeating job runs in both hours"
        );
    }

    #[test]
    fn syntax_errors_name_field_and_position() {
        for (expression, part) in [
            ("61 * * * *", "bad minute \"61\" at position 1"),
            ("* 24 * * *", "bad hour \"24\" at position 3"),
            ("*  *  x * *", "bad day of month \"x\" at position 7"),
            ("* * * 13 *", "bad month \"13\" at position 7"),
            ("* * * * 9", "bad day of week \"9\" at position 9"),
            ("99 * * * * *", "bad second \"99\" at position 1"),
            ("* * * *", "has 4 fields instead of 5 or 6"),
            ("", "has 0 fields"),
            ("soon", "has 1 fields"),
            ("* * * * * * * *", "has 8 fields"),
            ("é * * * *", "bad minute \"é\" at position 1"),
        ] {
            let Err(Error::InvalidParameter { message, hint }) =
                CronSchedule::new(expression, "UTC")
            else {
                panic!("{expression:?} was accepted");
            };
            assert!(message.contains(part), "{message}");
            assert!(hint.contains("*/5 * * * *"));
        }
    }

    #[test]
    fn impossible_dates_and_unknown_zones_are_refused() {
        let Err(Error::InvalidParameter { message, .. }) = CronSchedule::new("0 0 30 2 *", "UTC")
        else {
            panic!("30 February was accepted");
        };
        assert!(message.contains("never"), "{message}");
        for zone in ["", "Mars/Olympus", "Europe/Berlin ", "../etc/passwd"] {
            let Err(Error::InvalidParameter { message, .. }) = CronSchedule::new("* * * * *", zone)
            else {
                panic!("{zone:?} was accepted");
            };
            assert!(message.contains(&format!("\"{zone}\"")), "{message}");
        }
        let schedule = CronSchedule::new("* * * * *", "UTC").unwrap();
        assert!(matches!(schedule.next_fire(i64::MAX), Err(Error::OutOfRange(_))));
        assert!(matches!(schedule.next_fire(i64::MIN), Err(Error::OutOfRange(_))));
    }

    proptest! {
        #[test]
        fn next_due_is_after_now_on_the_grid_and_at_most_an_interval_away(
            interval in 1..10 * HOUR, last in -HOUR..HOUR, now in -HOUR..HOUR,
        ) {
            let due = next_due(interval, last, now);
            prop_assert!(due > now && due <= now + interval);
            prop_assert!((due - last) % interval == 0 || last > now + interval);
        }

        #[test]
        fn any_text_is_a_schedule_or_an_error(text in "\\PC{0,20}", zone in "\\PC{0,10}") {
            let _ = CronSchedule::new(&text, &zone);
            let _ = CronSchedule::new(&text, "UTC");
        }
    }
}
