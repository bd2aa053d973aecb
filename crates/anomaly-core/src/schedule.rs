//! When something is due: fixed intervals, cron expressions in a time zone, waiting after failures.
//!
//! Times and intervals are microseconds, times since 2000-01-01 00:00 UTC.

use std::str::FromStr;

use croner::Cron;
use croner::errors::CronError;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp, Zoned};

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

/// How many due times after `last_due`, up to and including `now`, [`next_due`] passes over.
pub fn passed_over(interval: i64, last_due: i64, now: i64) -> i64 {
    let passed = (i128::from(now) - i128::from(last_due)) / i128::from(interval.max(1));
    passed.clamp(0, i128::from(i64::MAX)) as i64
}

/// The waits of failures and crashes grow up to so many intervals.
const MOST_INTERVALS: f64 = 5.0;
/// What failed together does not come back together: waits differ by up to so much either way.
const JITTER: f64 = 0.13;

/// How long to wait after the n-th consecutive failure: interval · 2^(n−1), at most 5 intervals,
/// ±13 %. The same seed and count give the same wait.
pub fn backoff(failures: u32, interval: i64, jitter_seed: u64) -> i64 {
    if failures == 0 {
        return interval.max(1);
    }
    let jitter = 1.0 + JITTER * (2.0 * fraction(failures, jitter_seed) - 1.0);
    ((interval.max(1) as f64 * growth(failures) * jitter) as i64).max(1)
}

/// As [`backoff`], after a run that ended in a crash: of intervals of at least `crash_wait`, and never
/// shorter than without jitter, so that an operator has time to disable what takes the server down.
pub fn crash_backoff(failures: u32, interval: i64, jitter_seed: u64, crash_wait: i64) -> i64 {
    let jitter = 1.0 + 2.0 * JITTER * fraction(failures, jitter_seed);
    (interval.max(crash_wait).max(1) as f64 * growth(failures) * jitter) as i64
}

fn growth(failures: u32) -> f64 {
    2f64.powi(failures.saturating_sub(1).min(8) as i32).min(MOST_INTERVALS)
}

/// 53 random bits as a fraction in [0, 1).
fn fraction(failures: u32, seed: u64) -> f64 {
    (mix(seed ^ mix(u64::from(failures))) >> 11) as f64 / (1u64 << 53) as f64
}

/// How far ahead a due time can lie that was set at this moment or before. One further ahead was set
/// when the clock showed a later time than now.
pub fn furthest_due(failures: u32, interval: i64, crash_wait: i64) -> i64 {
    if failures == 0 {
        return interval.max(1);
    }
    // Whether it failed or crashed is not known.
    let longest = interval.max(crash_wait).max(1) as f64 * growth(failures) * (1.0 + 2.0 * JITTER);
    (longest as i64).saturating_add(1)
}

/// Where the k-th of n late runs begins in a time of `spread` that they are to share: evenly, a
/// little apart from other sets of runs by `jitter_seed`, and the first at once.
pub fn catch_up(k: u64, n: u64, spread: i64, jitter_seed: u64) -> i64 {
    if k == 0 || k >= n {
        return 0;
    }
    let place = k as f64 + fraction(0, jitter_seed);
    (place / n as f64 * spread.max(0) as f64) as i64
}

/// A cron expression in a time zone.
///
/// Five fields (minute, hour, day of month, month, day of week), or six with seconds in front, or a
/// name such as `@hourly`. At clock changes it does what cron has always done. What comes at given
/// times (no `*`, range or step in its hours and minutes) comes once a day: right after the gap if
/// clocks skip it, at the first of the two if it comes twice. What repeats goes by the clock on the
/// wall: nothing in the gap, and twice what the clock shows twice.
#[derive(Debug, Clone)]
pub struct CronSchedule {
    cron: Cron,
    zone: TimeZone,
    /// At given times, not repeating.
    fixed: bool,
}

/// A longer one is no schedule that somebody has written: all values of all fields take 600 bytes.
const MAX_EXPRESSION: usize = 2_000;
/// Longer than any gap of a clock: Samoa left out a day.
const LONGEST_GAP: SignedDuration = SignedDuration::from_hours(25);

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
        if expression.len() > MAX_EXPRESSION {
            return Err(Error::invalid(
                format!(
                    "cron expression is {} bytes long, at most {MAX_EXPRESSION} are taken",
                    expression.len()
                ),
                CRON_HINT,
            ));
        }
        let fields: Vec<&str> = expression.split_whitespace().collect();
        // A seventh field would be a year, after which the schedule had no next time.
        let has_name = fields.len() == 1 && expression.contains('@');
        if !has_name && fields.len() != 5 && fields.len() != 6 {
            return Err(wrong_number_of_fields(expression, fields.len()));
        }
        let cron = if fields.iter().any(|field| has_empty_place(field)) {
            Err(CronError::InvalidPattern("a list has an empty place".to_owned()))
        } else {
            Cron::from_str(expression)
        }
        .map_err(|e| syntax_error(expression, &e))?;
        let day = fields.len().saturating_sub(3);
        let fixed = if has_name {
            !expression.trim().eq_ignore_ascii_case("@hourly")
        } else {
            !fields[..day].iter().any(|field| field.contains(['*', '-', '/']))
        };
        let schedule = CronSchedule { cron, zone, fixed };
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
        let next = if self.fixed { self.next_on_wall(start)? } else { self.next_repeated(start)? };
        Ok(next.as_microsecond() - EPOCH)
    }

    fn next_repeated(&self, start: Timestamp) -> Result<Timestamp> {
        let start: Zoned = start.to_zoned(self.zone.clone());
        let next = self.cron.find_next_occurrence(&start, false).map_err(|_| self.never())?;
        Ok(next.timestamp())
    }

    /// Finds times on the wall and asks when each is.
    fn next_on_wall(&self, start: Timestamp) -> Result<Timestamp> {
        let offset = self.zone.to_offset(start);
        let mut wall = offset.to_datetime(start);
        // Where the clock has been changed of late, what it skipped may be yet to come.
        let before = start.checked_sub(LONGEST_GAP).unwrap_or(start);
        if self.zone.to_offset(before) != offset {
            wall = wall.checked_sub(LONGEST_GAP).unwrap_or(wall);
        }
        loop {
            wall = self.cron.find_next_occurrence(&wall, false).map_err(|_| self.never())?;
            let at = self.instant(wall)?;
            if at > start {
                return Ok(at);
            }
        }
    }

    /// When the clock shows this: the first time it does, or right after the gap that it is in.
    fn instant(&self, wall: DateTime) -> Result<Timestamp> {
        let out_of_range = || Error::OutOfRange(format!("time {wall} is out of range"));
        match self.zone.to_ambiguous_timestamp(wall).offset() {
            AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(wall),
            AmbiguousOffset::Fold { before, .. } => before.to_timestamp(wall),
            AmbiguousOffset::Gap { after, .. } => {
                let early = after.to_timestamp(wall).map_err(|_| out_of_range())?;
                return self
                    .zone
                    .following(early)
                    .next()
                    .map(|t| t.timestamp())
                    .ok_or_else(out_of_range);
            }
        }
        .map_err(|_| out_of_range())
    }

    /// How many times come after `after`, up to and including `until`; counts no further than `most`.
    pub fn fires_until(&self, after: i64, until: i64, most: usize) -> usize {
        let mut at = after;
        for n in 0..most {
            match self.next_fire(at) {
                Ok(next) if next <= until => at = next,
                _ => return n,
            }
        }
        most
    }

    fn never(&self) -> Error {
        Error::invalid(
            format!("cron expression \"{}\" never comes true", self.cron.as_str()),
            "Check day of month and month: 30 February does not exist.",
        )
    }
}

/// As [`CronSchedule::next_fire`], for callers that do not keep the schedule.
pub fn next_fire(expression: &str, time_zone: &str, after: i64) -> Result<i64> {
    CronSchedule::new(expression, time_zone)?.next_fire(after)
}

const FIELDS: [&str; 6] = ["second", "minute", "hour", "day of month", "month", "day of week"];
const CRON_HINT: &str = "Write minute, hour, day of month, month and day of week, for example \
                         \"*/5 * * * *\" for every five minutes or \"30 2 * * 1\" for Mondays at 02:30.";

fn wrong_number_of_fields(expression: &str, n: usize) -> Error {
    Error::invalid(
        format!("cron expression \"{expression}\" has {n} fields instead of 5 or 6"),
        CRON_HINT,
    )
}

/// The parser takes `1,,2`, where something was meant.
fn has_empty_place(field: &str) -> bool {
    field.split(',').any(str::is_empty)
}

/// Finds the first field that does not parse beside stars.
fn syntax_error(expression: &str, error: &CronError) -> Error {
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
        n => return wrong_number_of_fields(expression, n),
    };
    for (k, (at, text)) in fields.iter().enumerate() {
        let alone: Vec<&str> =
            (0..fields.len()).map(|j| if j == k { *text } else { "*" }).collect();
        if has_empty_place(text) || Cron::from_str(&alone.join(" ")).is_err() {
            let position = expression[..*at].chars().count() + 1;
            return Error::invalid(
                format!(
                    "cron expression \"{expression}\": bad {} \"{text}\" at position {position}",
                    names[k]
                ),
                CRON_HINT,
            );
        }
    }
    Error::invalid(format!("cron expression \"{expression}\": {error}"), CRON_HINT)
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
    }

    #[test]
    fn fault_p10_crashes_wait_at_least_crash_wait_and_longer_each_time() {
        for (interval, wait, base) in
            [(SECOND, 300 * SECOND, 300 * SECOND), (HOUR, 300 * SECOND, HOUR), (0, 0, 1)]
        {
            for (n, factor) in [(1, 1), (2, 2), (3, 4), (4, 5), (9, 5), (u32::MAX, 5)] {
                let waits: Vec<i64> =
                    (0..200).map(|seed| crash_backoff(n, interval, seed, wait)).collect();
                let (least, most) = (base * factor, (base * factor) as f64 * 1.26 + 1.0);
                assert!(waits.iter().all(|&w| w >= least && w as f64 <= most), "{n}: {waits:?}");
                if base > 1 {
                    let different: std::collections::HashSet<&i64> = waits.iter().collect();
                    assert!(different.len() > 190, "no jitter");
                }
                assert!(waits.iter().all(|&w| w <= furthest_due(n, interval, wait)));
            }
        }
        assert_eq!(furthest_due(0, MINUTE, 300 * SECOND), MINUTE);
        for n in 1..12 {
            assert!((0..200).all(|seed| backoff(n, HOUR, seed) <= furthest_due(n, HOUR, SECOND)));
        }
    }

    #[test]
    fn fault_s5_late_runs_share_a_time() {
        for n in [1, 2, 7, 1000] {
            let starts: Vec<i64> = (0..n).map(|k| catch_up(k, n, MINUTE, k * 31)).collect();
            assert_eq!(starts[0], 0);
            assert!(starts.is_sorted() && starts.iter().all(|&s| s < MINUTE), "{starts:?}");
            let widest = starts.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(0);
            assert!(widest <= 2 * MINUTE / n as i64, "{n}: {widest}");
        }
        assert_eq!(catch_up(3, 0, MINUTE, 1), 0);
        assert_eq!(catch_up(1, 2, -5, 1), 0);
    }

    #[test]
    fn fault_s3_due_times_passed_over_are_counted() {
        assert_eq!(passed_over(MINUTE, 0, MINUTE - 1), 0);
        assert_eq!(passed_over(MINUTE, 0, MINUTE), 1);
        assert_eq!(passed_over(MINUTE, 0, 7 * MINUTE + 1), 7);
        assert_eq!(passed_over(MINUTE, HOUR, 0), 0);
        assert_eq!(passed_over(0, i64::MIN, i64::MAX), i64::MAX);
        let cron = CronSchedule::new("*/10 * * * *", "UTC").unwrap();
        assert_eq!(cron.fires_until(0, HOUR, 100), 6);
        assert_eq!(cron.fires_until(0, HOUR, 4), 4);
        assert_eq!(cron.fires_until(HOUR, 0, 100), 0);
        assert_eq!(cron.fires_until(i64::MAX, i64::MAX, 100), 0);
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

    /// Given times come once a day, repeating ones by the clock on the wall.
    #[test]
    fn fault_s6_several_given_times_at_clock_changes() {
        assert_eq!(
            fires("30 2,14 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", 3),
            ["2026-03-28T13:30:00Z", "2026-03-29T01:00:00Z", "2026-03-29T12:30:00Z"],
            "what the gap skips comes right after it"
        );
        assert_eq!(
            fires("0,30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", 2),
            ["2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"],
            "two times in the gap are one"
        );
        assert_eq!(
            fires("0,30 2 * * *", "Europe/Berlin", "2026-10-25T00:15:00Z", 2),
            ["2026-10-25T00:30:00Z", "2026-10-26T01:00:00Z"],
            "none comes twice"
        );
        // asked from within the hour that comes again
        assert_eq!(
            fires("45 2 * * *", "Europe/Berlin", "2026-10-25T01:10:00Z", 1),
            ["2026-10-26T01:45:00Z"]
        );
        // Samoa had no 30 December 2011
        assert_eq!(
            fires("0 12 * * *", "Pacific/Apia", "2011-12-29T22:30:00Z", 2),
            ["2011-12-30T10:00:00Z", "2011-12-30T22:00:00Z"]
        );
    }

    #[test]
    fn fault_s6_odd_expressions() {
        for (expression, part) in [
            ("*/0 * * * *", "bad minute \"*/0\" at position 1"),
            ("* * * * * * *", "has 7 fields"),
            ("0 0 0 1 1 * 2020", "has 7 fields"),
            ("5-1 * * * *", "bad minute \"5-1\" at position 1"),
            ("* * 0 * *", "bad day of month \"0\" at position 5"),
            ("* * * 0 *", "bad month \"0\" at position 7"),
            ("* * * * 1#6", "bad day of week \"1#6\" at position 9"),
            ("@reboot", "has 1 fields"),
            ("-1 * * * *", "at position 1"),
            ("1,,2 * * * *", "at position 1"),
            ("99999999999999999999 * * * *", "at position 1"),
        ] {
            let Err(Error::InvalidParameter { message, .. }) = CronSchedule::new(expression, "UTC")
            else {
                panic!("{expression:?} was accepted");
            };
            assert!(message.contains(part), "{message}");
        }
        let values = |to: u32| (0..=to).map(|v| v.to_string()).collect::<Vec<_>>().join(",");
        let long = format!("{}  {}  {} * *", values(59), values(23), &values(31)[2..]);
        let long = format!("{long}{}", " ".repeat(1_000 - long.len()));
        assert_eq!(long.len(), 1_000);
        assert_eq!(fires(&long, "UTC", "2026-01-01T00:00:30Z", 1), ["2026-01-01T00:01:00Z"]);
        let Err(Error::InvalidParameter { message, .. }) =
            CronSchedule::new(&"1,".repeat(1_000_000), "UTC")
        else {
            panic!("accepted");
        };
        assert!(message.contains("2000000 bytes long"), "{message}");
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
