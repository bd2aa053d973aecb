//! Time cut into buckets of one length, for sources whose rows are counted or averaged.
//!
//! A length of hours or less is absolute: such buckets are equally long and know no time zone. Days,
//! weeks and months are those of the detector's time zone, so that a day has 23 or 25 hours where the
//! clock changes. Buckets of days are counted from 0001-01-01, a Monday: seven days are a week.

use crate::calendar::Calendar;
use crate::{Error, Result};

const SECOND: i64 = 1_000_000;
const DAY_SECONDS: i64 = 86_400;
const DAY: i64 = DAY_SECONDS * SECOND;
/// Days from 0001-01-01 to 2000-01-01, in the Gregorian calendar.
const ORIGIN_DAYS: i64 = 730_119;
/// 0001-01-01 in microseconds since 2000-01-01.
const ORIGIN: i64 = -ORIGIN_DAYS * DAY;
/// How far the clock of a time zone may be from UTC and from itself before a change, with room.
const CLOCK_CHANGE: i64 = 2 * DAY_SECONDS;

/// How long a bucket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// So many microseconds.
    Fixed(i64),
    /// So many local days.
    Days(i64),
    /// So many local months: 1, 3 or 12.
    Months(i64),
}

/// Buckets of one length, numbered; negative before year 1.
#[derive(Debug, Clone)]
pub struct Bucket {
    length: Length,
    calendar: Calendar,
}

impl Bucket {
    /// Buckets of an interval, given as PostgreSQL stores it. `InvalidParameter` for one that is
    /// shorter than a second, mixes units, or is of months but neither 1, 3 nor 12.
    pub fn new(months: i32, days: i32, micros: i64, calendar: Calendar) -> Result<Self> {
        let length = match (months, days, micros) {
            (0, 0, micros) if micros >= SECOND => Length::Fixed(micros),
            (0, days, 0) if days >= 1 => Length::Days(days.into()),
            (1 | 3 | 12, 0, 0) => Length::Months(months.into()),
            (0, 0, _) | (0, ..=0, 0) => {
                return Err(Error::invalid(
                    "bucket must be at least one second",
                    "Use a length such as 5 minutes, 1 hour, 1 day or 1 month.",
                ));
            }
            (_, 0, 0) => {
                return Err(Error::invalid(
                    format!("a bucket cannot be {months} months long"),
                    "Of months, use 1 month, 3 months or 1 year.",
                ));
            }
            _ => {
                return Err(Error::invalid(
                    "bucket mixes months, days and shorter units",
                    "Use one unit: 36 hours, 1 day, 7 days, 1 month.",
                ));
            }
        };
        Ok(Bucket { length, calendar })
    }

    pub fn length(&self) -> Length {
        self.length
    }

    /// The time zone whose days and months count.
    pub fn zone(&self) -> &str {
        self.calendar.zone()
    }

    /// When a bucket begins. Where the clock shows that twice, the later time; where it skips it, the
    /// time of the change.
    pub fn start(&self, index: i64) -> i64 {
        let day = match self.length {
            Length::Fixed(micros) => {
                return saturated(i128::from(index) * i128::from(micros) + i128::from(ORIGIN));
            }
            Length::Days(days) => index.saturating_mul(days).saturating_sub(ORIGIN_DAYS),
            Length::Months(months) => {
                let month = index.saturating_mul(months);
                day_of_date(month.div_euclid(12), month.rem_euclid(12) + 1)
            }
        };
        self.time_of(day.saturating_mul(DAY_SECONDS)).saturating_mul(SECOND)
    }

    /// The bucket that has begun last at a time.
    pub fn index(&self, at: i64) -> i64 {
        let bin = match self.length {
            Length::Fixed(_) => at,
            _ => self.calendar.local_second(at).saturating_mul(SECOND),
        };
        let index = self.index_of_bin(bin);
        // The later of two midnights has not come yet.
        if self.start(index) > at { index - 1 } else { index }
    }

    /// The bucket of a time on the axis that buckets are cut on: for fixed lengths UTC, else local
    /// time, in microseconds since 2000-01-01 00:00.
    pub fn index_of_bin(&self, bin: i64) -> i64 {
        match self.length {
            Length::Fixed(micros) => floor_div(bin, micros),
            Length::Days(days) => floor_div(bin, days.saturating_mul(DAY)),
            Length::Months(months) => {
                let (year, month) = date_of_day(bin.div_euclid(DAY));
                (year * 12 + month - 1).div_euclid(months)
            }
        }
    }

    /// The first bucket that begins at a time or after it.
    pub fn first_from(&self, at: i64) -> i64 {
        let index = self.index(at);
        if self.start(index) < at { index + 1 } else { index }
    }

    /// How far rows of a bucket may lie outside it, in microseconds: local time may come twice, and
    /// its rules differ between two versions of the time zone database.
    pub fn slack(&self) -> i64 {
        match self.length {
            Length::Fixed(_) => 0,
            Length::Days(_) | Length::Months(_) => DAY,
        }
    }

    /// The time, in seconds since 2000-01-01 UTC, at which the clock on the wall shows a time.
    fn time_of(&self, local: i64) -> i64 {
        let around = [local.saturating_sub(CLOCK_CHANGE), local.saturating_add(CLOCK_CHANGE)];
        let [before, after] =
            around.map(|utc| self.calendar.local_second(utc.saturating_mul(SECOND)) - utc);
        // The smaller offset gives the later time.
        for offset in [before.min(after), before.max(after)] {
            let time = local.saturating_sub(offset);
            if self.calendar.local_second(time.saturating_mul(SECOND)) == local {
                return time;
            }
        }
        local.saturating_sub(before)
    }
}

fn saturated(v: i128) -> i64 {
    i64::try_from(v).unwrap_or(if v < 0 { i64::MIN } else { i64::MAX })
}

/// In which stretch of `width` from year 1 on a time lies.
fn floor_div(at: i64, width: i64) -> i64 {
    saturated((i128::from(at) - i128::from(ORIGIN)).div_euclid(i128::from(width)))
}

/// Year and month of a day since 2000-01-01, Gregorian, with a year 0.
fn date_of_day(day: i64) -> (i64, i64) {
    // Counted from 1 March 0000, so that the leap day ends a year; 400 years are 146,097 days.
    let day = day + ORIGIN_DAYS + 306;
    let (cycle, of_cycle) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let year = (of_cycle - of_cycle / 1460 + of_cycle / 36_524 - of_cycle / 146_096) / 365;
    let of_year = of_cycle - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let january = i64::from(month >= 10);
    (cycle * 400 + year + january, month + 3 - 12 * january)
}

/// The day since 2000-01-01 on which a month begins.
fn day_of_date(year: i64, month: i64) -> i64 {
    let march_year = year.saturating_sub(i64::from(month <= 2));
    let march_month = (month + 9) % 12;
    let (cycle, of_cycle) = (march_year.div_euclid(400), march_year.rem_euclid(400));
    let of_year = (153 * march_month + 2) / 5;
    let of_cycle = of_cycle * 365 + of_cycle / 4 - of_cycle / 100 + of_year;
    cycle.saturating_mul(146_097).saturating_add(of_cycle - 306 - ORIGIN_DAYS)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_microsecond() - 946_684_800 * SECOND
    }

    fn bucket(months: i32, days: i32, micros: i64, zone: &str) -> Bucket {
        Bucket::new(months, days, micros, Calendar::new(zone).unwrap()).unwrap()
    }

    const MINUTE: i64 = 60 * SECOND;

    #[test]
    fn a_bucket_begins_where_its_clock_says() {
        for (length, zone, inside, start) in [
            ((0, 0, 5 * MINUTE), "UTC", "2026-03-01T12:04:59.999999Z", "2026-03-01T12:00:00Z"),
            ((0, 0, 5 * MINUTE), "Asia/Kathmandu", "2026-03-01T12:05:00Z", "2026-03-01T12:05:00Z"),
            ((0, 0, 60 * MINUTE), "UTC", "1999-12-31T23:59:59Z", "1999-12-31T23:00:00Z"),
            ((0, 1, 0), "Europe/Berlin", "2026-07-01T22:30:00Z", "2026-07-01T22:00:00Z"),
            ((0, 1, 0), "Europe/Berlin", "2026-01-01T22:30:00Z", "2025-12-31T23:00:00Z"),
            ((0, 7, 0), "UTC", "2026-11-22T23:00:00Z", "2026-11-16T00:00:00Z"),
            ((1, 0, 0), "UTC", "2024-02-29T23:00:00Z", "2024-02-01T00:00:00Z"),
            ((3, 0, 0), "America/New_York", "2024-01-01T04:00:00Z", "2023-10-01T04:00:00Z"),
            ((12, 0, 0), "UTC", "1900-06-01T00:00:00Z", "1900-01-01T00:00:00Z"),
            // The clock goes back from 01:00 to 00:00 in Havana: midnight comes twice.
            ((0, 1, 0), "America/Havana", "2024-11-03T05:00:00Z", "2024-11-03T05:00:00Z"),
            ((0, 1, 0), "America/Havana", "2024-11-03T04:30:00Z", "2024-11-02T04:00:00Z"),
            // It goes forward from 00:00 to 01:00 in São Paulo: there is no midnight.
            ((0, 1, 0), "America/Sao_Paulo", "2018-11-04T03:00:00Z", "2018-11-04T03:00:00Z"),
            ((0, 1, 0), "America/Sao_Paulo", "2018-11-04T02:59:59Z", "2018-11-03T03:00:00Z"),
        ] {
            let bucket = bucket(length.0, length.1, length.2, zone);
            let index = bucket.index(at(inside));
            assert_eq!(bucket.start(index), at(start), "{length:?} {zone} {inside}");
            assert!(bucket.start(index + 1) > at(inside), "{length:?} {zone} {inside}");
        }
    }

    #[test]
    fn a_length_is_of_one_unit() {
        let calendar = Calendar::default();
        for (months, days, micros) in [
            (0, 0, 0),
            (0, 0, SECOND - 1),
            (0, 0, -SECOND),
            (0, -1, 0),
            (0, 1, 1),
            (1, 1, 0),
            (-1, 0, 0),
            (2, 0, 0),
            (1, 0, SECOND),
            (24, 0, 0),
        ] {
            let made = Bucket::new(months, days, micros, calendar.clone());
            assert!(
                matches!(made, Err(Error::InvalidParameter { .. })),
                "{months} {days} {micros}"
            );
        }
        for (months, days, micros) in [(0, 0, SECOND), (0, i32::MAX, 0), (0, 0, i64::MAX)] {
            Bucket::new(months, days, micros, calendar.clone()).unwrap();
        }
    }

    #[test]
    fn any_time_and_any_number_has_an_answer() {
        for (months, days, micros) in
            [(0, 0, SECOND), (0, 0, i64::MAX), (0, 1, 0), (0, i32::MAX, 0), (1, 0, 0), (12, 0, 0)]
        {
            let bucket = bucket(months, days, micros, "America/New_York");
            for v in [i64::MIN, i64::MIN + 1, -1, 0, 1, i64::MAX] {
                bucket.index(v);
                bucket.start(v);
                bucket.first_from(v);
                bucket.index_of_bin(v);
            }
        }
    }

    proptest! {
        #[test]
        fn buckets_follow_each_other_without_a_gap(
            zone in prop::sample::select(vec![
                "UTC", "Europe/Berlin", "America/Havana", "America/Sao_Paulo", "America/St_Johns", "Asia/Kathmandu",
            ]),
            length in prop::sample::select(vec![
                (0, 0, SECOND), (0, 0, 7 * MINUTE), (0, 1, 0), (0, 7, 0), (0, 10, 0), (1, 0, 0), (3, 0, 0), (12, 0, 0),
            ]),
            at in -3_000_000_000_000_000i64..3_000_000_000_000_000,
        ) {
            let bucket = bucket(length.0, length.1, length.2, zone);
            let index = bucket.index(at);
            prop_assert!(bucket.start(index) <= at && at < bucket.start(index + 1));
            prop_assert_eq!(bucket.index(bucket.start(index)), index);
            prop_assert_eq!(bucket.first_from(bucket.start(index)), index);
            prop_assert_eq!(bucket.first_from(bucket.start(index) + 1), index + 1);
            // What the server cuts on the same axis is the same bucket.
            prop_assert_eq!(bucket.index_of_bin(match bucket.length() {
                Length::Fixed(_) => bucket.start(index),
                _ => Calendar::new(zone).unwrap().local_second(bucket.start(index)) * SECOND,
            }), index);
        }

        #[test]
        fn months_are_those_of_the_calendar(day in -700_000i64..2_900_000) {
            let date = jiff::civil::date(2000, 1, 1).checked_add(jiff::Span::new().days(day)).unwrap();
            let (year, month) = date_of_day(day);
            prop_assert_eq!((year, month), (i64::from(date.year()), i64::from(date.month())));
            prop_assert_eq!(day_of_date(year, month) + i64::from(date.day()) - 1, day);
        }
    }
}
