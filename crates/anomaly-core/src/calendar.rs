//! Local time of day, weekday and day of the month of a time, in one time zone.
//!
//! Times are microseconds since 2000-01-01 00:00 UTC. Every time has exactly one local time: those a
//! clock change skips never come up, and those it repeats come up twice.

use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::{Error, Result};

/// 2000-01-01 00:00 UTC in seconds since 1970.
const EPOCH: i64 = 946_684_800;
const MICROSECONDS: i64 = 1_000_000;
const DAY_SECONDS: i64 = 86_400;
/// What the table of UTC offsets covers, 1970 to 2100, in seconds since 2000; beyond it the zone
/// itself is asked, at some hundred times the cost.
const TABLE: std::ops::Range<i64> = -EPOCH..3_155_760_000;

/// Clock changes are at least some weeks apart, so that a stretch holds one or two.
const STRETCH: u32 = 22;

/// A local date and time of day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Local {
    /// Days since 2000-01-01, local.
    pub day: i32,
    /// Second of the day, 0 to 86,399, by the clock on the wall.
    pub second: u32,
    /// 0 is Monday.
    pub weekday: u8,
    /// 1 to 31.
    pub day_of_month: u8,
    /// 28 to 31.
    pub days_in_month: u8,
}

impl Local {
    /// 0 to 23.
    pub fn hour(&self) -> u32 {
        self.second / 3600
    }

    /// 0 (Monday 00:00) to 167.
    pub fn hour_of_week(&self) -> u32 {
        u32::from(self.weekday) * 24 + self.hour()
    }

    /// Saturday or Sunday.
    pub fn is_weekend(&self) -> bool {
        self.weekday >= 5
    }

    /// 0 on the last day of the month.
    pub fn days_to_month_end(&self) -> u8 {
        self.days_in_month - self.day_of_month
    }
}

/// A time zone, with its UTC offsets at hand: [`Calendar::local`] costs some 10 ns.
#[derive(Debug, Clone)]
pub struct Calendar {
    zone: TimeZone,
    /// From when on, in seconds since 2000, which offset in seconds east of UTC. Ascending; the
    /// first entry is at the start of [`TABLE`].
    offsets: Arc<[(i64, i32)]>,
    /// For each stretch of 2^[`STRETCH`] seconds (48 days) the entry of `offsets` at its start.
    index: Arc<[u16]>,
}

impl Default for Calendar {
    /// UTC.
    fn default() -> Self {
        Calendar::from_zone(TimeZone::UTC)
    }
}

impl Calendar {
    /// The calendar of an IANA time zone, upper or lower case. `InvalidParameter` for an unknown one.
    pub fn new(zone: &str) -> Result<Self> {
        let zone = TimeZone::get(zone).map_err(|_| {
            Error::invalid(
                format!("unknown time zone \"{zone}\""),
                "Use a name such as UTC or Europe/Berlin; pg_timezone_names lists them.",
            )
        })?;
        Ok(Calendar::from_zone(zone))
    }

    fn from_zone(zone: TimeZone) -> Self {
        let start = timestamp(TABLE.start);
        let mut offsets = vec![(TABLE.start, zone.to_offset(start).seconds())];
        for change in zone.following(start) {
            let second = change.timestamp().as_second() - EPOCH;
            if second >= TABLE.end {
                break;
            }
            let offset = change.offset().seconds();
            if offsets.last().is_some_and(|(_, last)| *last != offset) {
                offsets.push((second, offset));
            }
        }
        let stretches = (TABLE.end - TABLE.start) >> STRETCH;
        let index = (0..=stretches).map(|stretch| {
            let start = TABLE.start + (stretch << STRETCH);
            let after = offsets.partition_point(|(from, _)| *from <= start);
            after.saturating_sub(1) as u16
        });
        Calendar { zone, index: index.collect(), offsets: offsets.into() }
    }

    /// The name of the time zone, `Europe/Berlin`.
    pub fn zone(&self) -> &str {
        self.zone.iana_name().unwrap_or("UTC")
    }

    /// Seconds east of UTC at a second since 2000.
    fn offset(&self, second: i64) -> i32 {
        if !TABLE.contains(&second) {
            return self.zone.to_offset(timestamp(second)).seconds();
        }
        let mut entry = usize::from(self.index[((second - TABLE.start) >> STRETCH) as usize]);
        while self.offsets.get(entry + 1).is_some_and(|(from, _)| *from <= second) {
            entry += 1;
        }
        self.offsets[entry].1
    }

    /// Seconds since 2000-01-01 00:00 local: what the clock on the wall shows.
    pub fn local_second(&self, at: i64) -> i64 {
        let second = at.div_euclid(MICROSECONDS);
        second + i64::from(self.offset(second))
    }

    /// The local date and time of day. Defined for every `at`, PostgreSQL's ±infinity included.
    pub fn local(&self, at: i64) -> Local {
        let second = self.local_second(at);
        // 2^63 µs are 107 million days
        let day = second.div_euclid(DAY_SECONDS) as i32;
        let (day_of_month, days_in_month) = day_of_month(day);
        Local {
            day,
            second: second.rem_euclid(DAY_SECONDS) as u32,
            // 2000-01-01 was a Saturday
            weekday: (day + 5).rem_euclid(7) as u8,
            day_of_month,
            days_in_month,
        }
    }
}

/// The nearest time that a zone can be asked for.
fn timestamp(second: i64) -> Timestamp {
    let second = second.saturating_add(EPOCH);
    let nearest = if second < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::from_second(second).unwrap_or(nearest)
}

/// Day of the month and length of the month of a day since 2000-01-01, in the Gregorian calendar.
fn day_of_month(day: i32) -> (u8, u8) {
    // Counted from 1 March 2000, so that the leap day is the last of a year, a century and a cycle of
    // 400 years (146,097 days).
    const TO_MARCH: i32 = 60;
    let of_cycle = (day - TO_MARCH).rem_euclid(146_097);
    let century = (of_cycle / 36_524).min(3);
    let of_century = of_cycle - century * 36_524;
    let of_four = of_century % 1461;
    let year = (of_four / 365).min(3);
    let of_year = of_four - year * 365;
    // March to January repeat in 153 days of five months: 31, 30, 31, 30, 31.
    let month = (5 * of_year + 2) / 153;
    let start = (153 * month + 2) / 5;
    let length = if month < 11 {
        (153 * (month + 1) + 2) / 5 - start
    } else {
        // This February ends the March year: it has 29 days if the year that it lies in is leap. Every
        // fourth is (year 3 of the four), but for the last of a century, but for that of a cycle.
        let leap = year == 3 && (of_century / 1461 != 24 || century == 3);
        28 + i32::from(leap)
    };
    ((of_year - start + 1) as u8, length as u8)
}

#[cfg(test)]
mod tests {
    use jiff::civil::Date;
    use proptest::prelude::*;

    use super::*;

    const HOUR: i64 = 3600 * MICROSECONDS;
    const DAY: i64 = 24 * HOUR;

    fn at(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_microsecond() - EPOCH * MICROSECONDS
    }

    /// The same by jiff's own civil time.
    fn reference(zone: &str, at: i64) -> Local {
        let zone = TimeZone::get(zone).unwrap();
        let time = Timestamp::from_microsecond(at + EPOCH * MICROSECONDS).unwrap();
        let civil = zone.to_datetime(time);
        let first: Date = jiff::civil::date(2000, 1, 1);
        let day = first.until((jiff::Unit::Day, civil.date())).unwrap().get_days();
        let of_day = civil.time().duration_since(jiff::civil::Time::midnight());
        Local {
            day,
            second: of_day.as_secs() as u32,
            weekday: civil.weekday().to_monday_zero_offset() as u8,
            day_of_month: civil.day() as u8,
            days_in_month: civil.days_in_month() as u8,
        }
    }

    #[test]
    fn the_epoch_is_a_saturday() {
        let local = Calendar::default().local(0);
        let expected = Local { day: 0, second: 0, weekday: 5, day_of_month: 1, days_in_month: 31 };
        assert_eq!(local, expected);
        assert!(local.is_weekend());
        assert_eq!(local.days_to_month_end(), 30);
        assert_eq!(Calendar::default().local(-1).second, 86_399);
        assert_eq!(Calendar::default().local(-1).hour_of_week(), 4 * 24 + 23);
    }

    #[test]
    fn unknown_zones_are_refused_with_a_hint() {
        for name in ["Europe/Berln", "", "UTC+2", "\0", "é"] {
            let Err(Error::InvalidParameter { message, hint }) = Calendar::new(name) else {
                panic!("{name} was accepted");
            };
            assert!(message.contains(name), "{message}");
            assert!(hint.contains("Europe/Berlin"));
        }
        assert_eq!(Calendar::new("europe/berlin").unwrap().zone(), "Europe/Berlin");
        assert_eq!(Calendar::new("UTC").unwrap().zone(), "UTC");
    }

    #[test]
    fn clock_changes_skip_an_hour_and_repeat_one() {
        let calendar = Calendar::new("Europe/Berlin").unwrap();
        // Forward on 2024-03-31 at 01:00 UTC: 02:00 to 02:59 does not exist.
        let hours: Vec<u32> =
            (0..4).map(|h| calendar.local(at("2024-03-31T00:00:00Z") + h * HOUR).hour()).collect();
        assert_eq!(hours, [1, 3, 4, 5]);
        // Back on 2024-10-27 at 01:00 UTC: 02:00 to 02:59 comes twice.
        let hours: Vec<u32> =
            (0..4).map(|h| calendar.local(at("2024-10-26T23:30:00Z") + h * HOUR).hour()).collect();
        assert_eq!(hours, [1, 2, 2, 3]);
        // Lord Howe Island changes by half an hour, and Kathmandu is 5:45 ahead.
        let howe = Calendar::new("Australia/Lord_Howe").unwrap();
        assert_eq!(howe.local(at("2024-10-05T15:29:59Z")).second, 2 * 3600 - 1);
        assert_eq!(howe.local(at("2024-10-05T15:30:00Z")).second, 5 * 1800);
        let kathmandu = Calendar::new("Asia/Kathmandu").unwrap();
        assert_eq!(kathmandu.local(0).second, 5 * 3600 + 45 * 60);
        // Samoa had no 30 December 2011.
        let apia = Calendar::new("Pacific/Apia").unwrap();
        assert_eq!(apia.local(at("2011-12-30T09:59:59Z")).day_of_month, 29);
        assert_eq!(apia.local(at("2011-12-30T10:00:00Z")).day_of_month, 31);
    }

    #[test]
    fn every_month_has_its_length() {
        let calendar = Calendar::default();
        for (date, day, length) in [
            ("2000-02-29", 29, 29),
            ("1900-02-28", 28, 28),
            ("2100-02-28", 28, 28),
            ("2400-02-29", 29, 29),
            ("2023-02-01", 1, 28),
            ("2024-02-10", 10, 29),
            ("2024-12-31", 31, 31),
            ("2024-04-30", 30, 30),
        ] {
            let local = calendar.local(at(&format!("{date}T12:00:00Z")));
            assert_eq!((local.day_of_month, local.days_in_month), (day, length), "{date}");
        }
        // and every day of 1,200 years as jiff has it
        let mut date = jiff::civil::date(1600, 1, 1);
        let mut day = jiff::civil::date(2000, 1, 1).until(date).unwrap().get_days();
        while date.year() < 2800 {
            let expected = (date.day() as u8, date.days_in_month() as u8);
            assert_eq!(day_of_month(day), expected, "{date}");
            date = date.tomorrow().unwrap();
            day += 1;
        }
    }

    #[test]
    fn any_time_at_all_has_a_local_time() {
        for zone in ["UTC", "America/New_York", "Africa/Casablanca"] {
            let calendar = Calendar::new(zone).unwrap();
            for at in [i64::MIN, i64::MIN + 1, i64::MAX, -DAY * 2_000_000, DAY * 3_000_000] {
                let local = calendar.local(at);
                assert!(local.weekday < 7 && local.second < 86_400);
                assert!((1..=local.days_in_month).contains(&local.day_of_month));
            }
        }
    }

    #[test]
    fn the_table_ends_where_the_zone_takes_over() {
        let calendar = Calendar::new("America/New_York").unwrap();
        for edge in [TABLE.start, TABLE.end] {
            for around in -3..=3 {
                let at = (edge + around) * MICROSECONDS;
                assert_eq!(calendar.local(at), reference("America/New_York", at));
            }
        }
        let beyond = at("2150-07-01T00:00:00Z");
        assert_eq!(calendar.local(beyond).hour(), 20);
    }

    proptest! {
        #[test]
        fn local_time_is_that_of_the_zone(
            zone in prop::sample::select(vec![
                "UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu",
                "Africa/Casablanca", "Pacific/Apia", "America/Sao_Paulo", "Asia/Tehran",
            ]),
            at in -4_000_000_000_000_000i64..8_000_000_000_000_000,
        ) {
            prop_assert_eq!(Calendar::new(zone).unwrap().local(at), reference(zone, at));
        }

        #[test]
        fn local_time_is_that_of_the_zone_around_a_change(
            minute in -200i64..200, zone in prop::sample::select(vec!["Europe/Berlin", "Europe/London"]),
        ) {
            // the last Sunday of March 2025, 01:00 UTC
            let at = at("2025-03-30T01:00:00Z") + minute * 60 * MICROSECONDS;
            prop_assert_eq!(Calendar::new(zone).unwrap().local(at), reference(zone, at));
        }
    }
}
