//! What comes again: rules of RFC 5545 (iCalendar, `RRULE`) in a time zone.
//!
//! A rule is about the clock on the wall, for hours and minutes too: every day at 02:30, every
//! twenty minutes. A time that a clock change skips comes as much later as clocks go forward; of a
//! time that comes twice the first is meant; times that thereby meet in one instant are one. So RFC
//! 5545 has it (3.3.5, 3.3.10), and python-dateutil, with which tests/recurrence.rs compares.
//!
//! Where the RFC leaves it open: the start is an occurrence only if the rule names it.

use std::ops::Range;
use std::str::FromStr;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

use crate::{Error, Result};

/// 2000-01-01 00:00 UTC in microseconds since 1970.
const EPOCH: i64 = 946_684_800_000_000;
const DAY: i64 = 86_400_000_000;
/// The first and the last day that a recurrence reaches, in days since 2000-01-01: of the years 1
/// and 9998, so that no time zone takes it out of what can be written.
const DAYS: Range<i64> = -730_119..2_921_575;
/// Times on the wall and instants differ by less: Samoa left out a day.
const SLACK_DAYS: i64 = 3;
/// A rule with COUNT is counted from its start.
const MOST_COUNT: u32 = 1_000_000;
const MOST_INTERVAL: u32 = 1_000_000;
const MOST_TEXT: usize = 1000;
const SUPPORTED: &str = "Write for example FREQ=WEEKLY;BYDAY=MO,TH;BYHOUR=2 with parts of FREQ, INTERVAL, COUNT, UNTIL, \
     BYMONTH, BYMONTHDAY, BYDAY, BYHOUR, BYMINUTE, BYSETPOS and WKST.";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Frequency {
    Yearly,
    Monthly,
    Weekly,
    Daily,
    Hourly,
    Minutely,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    /// The end of this day, on the wall.
    Day(i64),
    /// A time on the wall.
    Wall(DateTime),
    /// µs since 2000-01-01 UTC.
    Instant(i64),
}

/// The parts of a rule, as written.
#[derive(Debug, Clone, PartialEq)]
struct Rule {
    frequency: Frequency,
    interval: i64,
    count: Option<u32>,
    until: Option<Until>,
    by_month: Vec<i64>,
    by_month_day: Vec<i64>,
    /// 0 is Monday; which of them in the month or year, 0: all.
    by_day: Vec<(i64, i64)>,
    by_hour: Vec<i64>,
    by_minute: Vec<i64>,
    by_set_pos: Vec<i64>,
    week_start: i64,
}

fn bad(part: &str, what: impl std::fmt::Display) -> Error {
    Error::invalid(format!("recurrence rule: {part}: {what}"), SUPPORTED)
}

fn number(part: &str, text: &str, range: std::ops::RangeInclusive<i64>) -> Result<i64> {
    match text.parse::<i64>() {
        Ok(n) if range.contains(&n) => Ok(n),
        Ok(n) => Err(bad(part, format!("{n} is not from {} to {}", range.start(), range.end()))),
        Err(_) => Err(bad(part, format!("\"{text}\" is no whole number"))),
    }
}

fn numbers(part: &str, text: &str, range: std::ops::RangeInclusive<i64>) -> Result<Vec<i64>> {
    let mut all =
        text.split(',').map(|n| number(part, n, range.clone())).collect::<Result<Vec<i64>>>()?;
    if *range.start() < 0 && all.contains(&0) {
        return Err(bad(part, "0 counts from neither end"));
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

fn weekday(part: &str, text: &str) -> Result<i64> {
    ["MO", "TU", "WE", "TH", "FR", "SA", "SU"]
        .iter()
        .position(|day| *day == text)
        .map(|day| day as i64)
        .ok_or_else(|| bad(part, format!("\"{text}\" is none of MO, TU, WE, TH, FR, SA, SU")))
}

fn until(text: &str) -> Result<Until> {
    let wrong = || {
        bad("UNTIL", format!("\"{text}\" is none of 20301231, 20301231T120000, 20301231T120000Z"))
    };
    let digits = |from: usize, length: usize| -> Result<i64> {
        let digits =
            text.get(from..from + length).filter(|d| d.bytes().all(|b| b.is_ascii_digit()));
        digits.and_then(|d| d.parse().ok()).ok_or_else(wrong)
    };
    let (year, month, day) = (digits(0, 4)?, digits(4, 2)?, digits(6, 2)?);
    let date = jiff::civil::Date::new(year as i16, month as i8, day as i8).map_err(|_| wrong())?;
    if text.len() == 8 {
        return Ok(Until::Day(day_number(year, month, day)));
    }
    let (hour, minute, second) = (digits(9, 2)?, digits(11, 2)?, digits(13, 2)?);
    let time = jiff::civil::Time::new(hour as i8, minute as i8, second as i8, 0);
    let wall = date.to_datetime(time.map_err(|_| wrong())?);
    match (text.get(8..9), text.get(15..)) {
        (Some("T"), Some("")) => Ok(Until::Wall(wall)),
        (Some("T"), Some("Z")) => {
            Ok(Until::Instant(instant(&TimeZone::UTC, wall).ok_or_else(wrong)?))
        }
        _ => Err(wrong()),
    }
}

impl FromStr for Rule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Rule> {
        if text.len() > MOST_TEXT {
            return Err(bad("text", format!("{} bytes, more than {MOST_TEXT}", text.len())));
        }
        let upper = text.trim().to_ascii_uppercase();
        let parts = upper.strip_prefix("RRULE:").unwrap_or(&upper);
        let mut frequency = None;
        let mut rule = Rule {
            frequency: Frequency::Daily,
            interval: 1,
            count: None,
            until: None,
            by_month: Vec::new(),
            by_month_day: Vec::new(),
            by_day: Vec::new(),
            by_hour: Vec::new(),
            by_minute: Vec::new(),
            by_set_pos: Vec::new(),
            week_start: 0,
        };
        let mut seen: Vec<&str> = Vec::new();
        for part in parts.split(';') {
            let Some((name, value)) = part.split_once('=') else {
                return Err(bad("text", format!("\"{part}\" is no NAME=VALUE")));
            };
            if seen.contains(&name) {
                return Err(bad(name, "is there twice"));
            }
            seen.push(name);
            match name {
                "FREQ" => {
                    frequency = Some(match value {
                        "YEARLY" => Frequency::Yearly,
                        "MONTHLY" => Frequency::Monthly,
                        "WEEKLY" => Frequency::Weekly,
                        "DAILY" => Frequency::Daily,
                        "HOURLY" => Frequency::Hourly,
                        "MINUTELY" => Frequency::Minutely,
                        _ => {
                            return Err(bad(
                                name,
                                format!(
                                    "\"{value}\" is none of YEARLY, MONTHLY, WEEKLY, DAILY, HOURLY, MINUTELY"
                                ),
                            ));
                        }
                    });
                }
                "INTERVAL" => rule.interval = number(name, value, 1..=MOST_INTERVAL.into())?,
                "COUNT" => rule.count = Some(number(name, value, 1..=MOST_COUNT.into())? as u32),
                "UNTIL" => rule.until = Some(until(value)?),
                "BYMONTH" => rule.by_month = numbers(name, value, 1..=12)?,
                "BYMONTHDAY" => rule.by_month_day = numbers(name, value, -31..=31)?,
                "BYDAY" => {
                    for day in value.split(',') {
                        let at = day.len().saturating_sub(2);
                        let (which, name_of_day) = match day.is_char_boundary(at) {
                            true => day.split_at(at),
                            false => ("", day),
                        };
                        let weekday = weekday(name, name_of_day)?;
                        let which = match which {
                            "" => 0,
                            _ => numbers(name, which, -53..=53)?[0],
                        };
                        rule.by_day.push((which, weekday));
                    }
                }
                "BYHOUR" => rule.by_hour = numbers(name, value, 0..=23)?,
                "BYMINUTE" => rule.by_minute = numbers(name, value, 0..=59)?,
                "BYSETPOS" => rule.by_set_pos = numbers(name, value, -366..=366)?,
                "WKST" => rule.week_start = weekday(name, value)?,
                _ => return Err(bad(name, "is not supported")),
            }
        }
        rule.frequency = frequency.ok_or_else(|| bad("FREQ", "is missing"))?;
        rule.check()?;
        Ok(rule)
    }
}

impl Rule {
    /// What the RFC forbids, or leaves without meaning.
    fn check(&self) -> Result<()> {
        let most = match self.frequency {
            Frequency::Yearly if self.by_month.is_empty() => 53,
            Frequency::Yearly | Frequency::Monthly => 5,
            _ => 0,
        };
        if let Some((which, _)) = self.by_day.iter().find(|(which, _)| which.abs() > most) {
            return Err(bad(
                "BYDAY",
                match most {
                    0 => format!(
                        "{which} of what? Only months and years have a first and a last Monday"
                    ),
                    _ => format!("there is no weekday {which} of the period"),
                },
            ));
        }
        if self.frequency == Frequency::Weekly && !self.by_month_day.is_empty() {
            return Err(bad(
                "BYMONTHDAY",
                "a week has no day of the month; use FREQ=MONTHLY or DAILY",
            ));
        }
        if self.count.is_some() && self.until.is_some() {
            return Err(bad("COUNT", "ends the rule, and so does UNTIL: give one of them"));
        }
        let others = [&self.by_month, &self.by_month_day, &self.by_hour, &self.by_minute];
        let others = self.by_day.is_empty() && others.iter().all(|by| by.is_empty());
        if !self.by_set_pos.is_empty() && others {
            return Err(bad(
                "BYSETPOS",
                "chooses among what another BY part names, and there is none",
            ));
        }
        Ok(())
    }
}

/// A time on the wall but for the seconds, which are those of the start: the day since 2000-01-01,
/// and the minute of the day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Wall {
    day: i64,
    minute: i64,
}

/// A start in a time zone, and the rule by which it comes again, if it does.
#[derive(Debug, Clone)]
pub struct Recurrence {
    zone: TimeZone,
    starts_at: i64,
    start: Wall,
    /// What is left of the start's minute, in nanoseconds.
    of_minute: i64,
    /// With what follows from the start where the rule says nothing.
    rule: Option<Rule>,
    /// Minutes of the day, for rules that choose days.
    minutes: Vec<i64>,
    /// The last occurrence, on the wall, of a rule with COUNT.
    last: Option<Wall>,
    /// No instant after it, by UNTIL.
    limit: i64,
}

impl Recurrence {
    /// `InvalidParameter` says what is wrong with the rule or the zone, or that nothing ever comes of
    /// it.
    pub fn new(starts_at: i64, zone: &str, rule: Option<&str>) -> Result<Self> {
        let zone = TimeZone::get(zone).map_err(|_| {
            Error::invalid(
                format!("unknown time zone \"{zone}\""),
                "Use a name such as UTC or Europe/Berlin; pg_timezone_names lists them.",
            )
        })?;
        let out_of_range =
            || Error::invalid("the start is out of range", "Give a time of the years 1 to 9998.");
        if !(DAYS.start + 1..DAYS.end - 1).contains(&starts_at.div_euclid(DAY)) {
            return Err(out_of_range());
        }
        let wall = wall(&zone, starts_at).ok_or_else(out_of_range)?;
        let of_day = wall.time().duration_since(jiff::civil::Time::midnight()).as_nanos() as i64;
        let start = Wall {
            day: day_number(wall.year().into(), wall.month().into(), wall.day().into()),
            minute: of_day / 60_000_000_000,
        };
        let mut recurrence = Recurrence {
            zone,
            starts_at,
            start,
            of_minute: of_day % 60_000_000_000,
            rule: rule.map(Rule::from_str).transpose()?,
            minutes: Vec::new(),
            last: None,
            limit: i64::MAX,
        };
        recurrence.complete();
        recurrence.bound()?;
        Ok(recurrence)
    }

    /// What follows from the start where the rule says nothing.
    fn complete(&mut self) {
        let Some(rule) = &mut self.rule else { return };
        let (_, month, day) = civil(self.start.day);
        if rule.by_day.is_empty() && rule.by_month_day.is_empty() {
            match rule.frequency {
                Frequency::Yearly => {
                    if rule.by_month.is_empty() {
                        rule.by_month = vec![month];
                    }
                    rule.by_month_day = vec![day];
                }
                Frequency::Monthly => rule.by_month_day = vec![day],
                Frequency::Weekly => rule.by_day = vec![(0, weekday_of(self.start.day))],
                _ => {}
            }
        }
        if rule.by_hour.is_empty() && rule.frequency < Frequency::Hourly {
            rule.by_hour = vec![self.start.minute / 60];
        }
        if rule.by_minute.is_empty() && rule.frequency < Frequency::Minutely {
            rule.by_minute = vec![self.start.minute % 60];
        }
        let hours = rule.by_hour.iter();
        self.minutes = hours.flat_map(|h| rule.by_minute.iter().map(move |m| h * 60 + m)).collect();
    }

    /// Where it ends.
    fn bound(&mut self) -> Result<()> {
        let Some(rule) = &self.rule else { return Ok(()) };
        self.limit = match rule.until {
            None => i64::MAX,
            Some(Until::Instant(at)) => at,
            Some(Until::Wall(at)) => instant(&self.zone, at).unwrap_or(i64::MAX),
            Some(Until::Day(day)) => {
                self.instant_of(Wall { day: day + 1, minute: 0 }, 0).map_or(i64::MAX, |at| at - 1)
            }
        };
        let never = || {
            Error::invalid(
                "recurrence rule: nothing comes of it",
                "Its parts and the start contradict each other, as the 30th of February does, or it \
                 ends before it begins.",
            )
        };
        if self.never_at_any_time_of_day() {
            return Err(never());
        }
        let (mut left, mut last) = (self.rule.as_ref().and_then(|r| r.count).unwrap_or(1), None);
        self.walk(self.start, &mut |wall| {
            last = Some(wall);
            left -= 1;
            left > 0
        });
        let Some(last) = last else { return Err(never()) };
        match self.rule.as_ref().and_then(|r| r.count) {
            Some(_) => self.last = Some(last),
            None if self.instant(last).is_some_and(|at| at > self.limit) => return Err(never()),
            None => {}
        }
        Ok(())
    }

    /// Of a rule by hours or minutes: whether none of the times of day that it can come to is one
    /// that it names. Everything else ends soon.
    fn never_at_any_time_of_day(&self) -> bool {
        let Some(rule) = &self.rule else { return false };
        let (per_day, start) = match rule.frequency {
            Frequency::Hourly => (24, self.start.minute / 60),
            Frequency::Minutely => (1440, self.start.minute),
            _ => return false,
        };
        let (mut a, mut b) = (rule.interval, per_day);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        let mut met = (start % a..per_day).step_by(a as usize);
        !met.any(|unit| match rule.frequency {
            Frequency::Hourly => has(&rule.by_hour, unit),
            _ => has(&rule.by_hour, unit / 60) && has(&rule.by_minute, unit % 60),
        })
    }

    /// When it comes within [from, until], ascending; `TooLarge` for more than `most` times.
    pub fn starts(&self, from: i64, until: i64, most: usize) -> Result<Vec<i64>> {
        let mut found = Vec::new();
        let Some(from_wall) = self.before(from) else { return Ok(found) };
        let last_day = until.min(self.limit).div_euclid(DAY).saturating_add(SLACK_DAYS);
        let mut too_many = false;
        self.walk(from_wall, &mut |wall| {
            if wall.day > last_day || self.last.is_some_and(|last| wall > last) {
                return false;
            }
            let at = self.instant(wall).filter(|at| *at <= self.limit);
            found.extend(at.filter(|at| (from..=until).contains(at)));
            too_many = found.len() > most;
            !too_many
        });
        if too_many {
            return Err(Error::TooLarge(format!("more than {most} occurrences in the period")));
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// A time on the wall that is certainly before an instant; `None` after the last one.
    fn before(&self, at: i64) -> Option<Wall> {
        let day = at.div_euclid(DAY).saturating_sub(SLACK_DAYS);
        let wall = Wall { day, minute: 0 }.max(self.start);
        DAYS.contains(&wall.day).then_some(wall)
    }

    fn instant(&self, wall: Wall) -> Option<i64> {
        // The start may be the second of a time that comes twice.
        if wall == self.start {
            return Some(self.starts_at);
        }
        self.instant_of(wall, self.of_minute).filter(|at| *at > self.starts_at)
    }

    fn instant_of(&self, wall: Wall, of_minute: i64) -> Option<i64> {
        let (year, month, day) = civil(wall.day);
        let (second, nanos) = (of_minute / 1_000_000_000, of_minute % 1_000_000_000);
        let (hour, minute) = (wall.minute / 60, wall.minute % 60);
        let wall = DateTime::new(
            year as i16,
            month as i8,
            day as i8,
            hour as i8,
            minute as i8,
            second as i8,
            nanos as i32,
        );
        instant(&self.zone, wall.ok()?)
    }

    /// Hands over the occurrences from a time on, ascending on the wall, until told to stop.
    fn walk(&self, from: Wall, each: &mut dyn FnMut(Wall) -> bool) {
        let from = from.max(self.start);
        let mut each = |wall: Wall| wall < from || each(wall);
        let Some(rule) = &self.rule else {
            if self.start >= from {
                each(self.start);
            }
            return;
        };
        // Positions are told in whole periods, also in the one of `from`.
        let first =
            |start: i64, at: i64| start + (at - start).div_euclid(rule.interval) * rule.interval;
        let mut days = Vec::new();
        match rule.frequency {
            Frequency::Yearly | Frequency::Monthly => {
                let per_year = if rule.frequency == Frequency::Yearly { 1 } else { 12 };
                let period = |day: i64| {
                    let (year, month, _) = civil(day);
                    year * per_year + (month - 1) * per_year / 12
                };
                let mut at = first(period(self.start.day), period(from.day));
                let end = period(DAYS.end);
                while at < end {
                    let (year, month) = (at.div_euclid(per_year), at.rem_euclid(per_year) + 1);
                    let begin = day_number(year, month, 1);
                    let next = at + 1;
                    let end =
                        day_number(next.div_euclid(per_year), next.rem_euclid(per_year) + 1, 1);
                    days.clear();
                    days.extend((begin..end).filter(|day| rule.names_day(*day)));
                    if !self.emit(rule, &days, &self.minutes, &mut each) {
                        return;
                    }
                    at += rule.interval;
                }
            }
            Frequency::Weekly => {
                let week = |day: i64| (day - rule.week_start + 5).div_euclid(7);
                let mut at = first(week(self.start.day), week(from.day));
                loop {
                    let begin = at * 7 + rule.week_start - 5;
                    if begin >= DAYS.end - 7 {
                        return;
                    }
                    days.clear();
                    days.extend((begin..begin + 7).filter(|day| rule.names_day(*day)));
                    if !self.emit(rule, &days, &self.minutes, &mut each) {
                        return;
                    }
                    at += rule.interval;
                }
            }
            Frequency::Daily => {
                let mut day = first(self.start.day, from.day);
                while day < DAYS.end {
                    if rule.names_day(day) && !self.emit(rule, &[day], &self.minutes, &mut each) {
                        return;
                    }
                    day += rule.interval;
                }
            }
            Frequency::Hourly | Frequency::Minutely => {
                let per_hour = if rule.frequency == Frequency::Hourly { 1 } else { 60 };
                let per_day = 24 * per_hour;
                let unit = |wall: Wall| wall.day * per_day + wall.minute * per_hour / 60;
                let start = unit(self.start);
                // the first that is due at or after a unit
                let due =
                    |unit: i64| start - (start - unit).div_euclid(rule.interval) * rule.interval;
                let mut at = first(start, unit(from));
                let mut asked = (i64::MIN, false);
                while at < DAYS.end * per_day {
                    let (day, of_day) = (at.div_euclid(per_day), at.rem_euclid(per_day));
                    if asked.0 != day {
                        asked = (day, rule.names_day(day));
                    }
                    let hour = of_day / per_hour;
                    if !asked.1 {
                        at = due((day + 1) * per_day);
                        continue;
                    }
                    if !has(&rule.by_hour, hour) {
                        at = due(day * per_day + (hour + 1) * per_hour);
                        continue;
                    }
                    let on = match rule.frequency {
                        Frequency::Hourly => {
                            let minutes: Vec<i64> =
                                rule.by_minute.iter().map(|m| hour * 60 + m).collect();
                            self.emit(rule, &[day], &minutes, &mut each)
                        }
                        _ if has(&rule.by_minute, of_day % 60) => {
                            self.emit(rule, &[day], &[of_day], &mut each)
                        }
                        _ => true,
                    };
                    if !on {
                        return;
                    }
                    at += rule.interval;
                }
            }
        }
    }

    /// The occurrences of one period: of all its times those that BYSETPOS chooses.
    fn emit(
        &self,
        rule: &Rule,
        days: &[i64],
        minutes: &[i64],
        each: &mut dyn FnMut(Wall) -> bool,
    ) -> bool {
        let all = (days.len() * minutes.len()) as i64;
        let at = |i: i64| {
            let (day, minute) = (i as usize / minutes.len(), i as usize % minutes.len());
            Wall { day: days[day], minute: minutes[minute] }
        };
        if rule.by_set_pos.is_empty() {
            return (0..all).all(|i| each(at(i)));
        }
        let chosen = rule.by_set_pos.iter().map(|p| if *p > 0 { p - 1 } else { all + p });
        let mut chosen: Vec<i64> = chosen.filter(|i| (0..all).contains(i)).collect();
        chosen.sort_unstable();
        chosen.dedup();
        chosen.into_iter().all(|i| each(at(i)))
    }
}

impl Rule {
    /// Whether the parts about days name a day.
    fn names_day(&self, number: i64) -> bool {
        let (year, month, day) = civil(number);
        if !has(&self.by_month, month) {
            return false;
        }
        let length = || day_number(year + month / 12, month % 12 + 1, 1) - number + day - 1;
        if !self.by_month_day.is_empty()
            && !self.by_month_day.contains(&day)
            && !self.by_month_day.contains(&(day - length() - 1))
        {
            return false;
        }
        let weekday = weekday_of(number);
        let in_year = self.frequency == Frequency::Yearly && self.by_month.is_empty();
        self.by_day.is_empty()
            || self.by_day.iter().any(|(which, of)| {
                if *of != weekday {
                    return false;
                }
                let (before, after) = match (which, in_year) {
                    (0, _) => return true,
                    (_, true) => {
                        (number - day_number(year, 1, 1), day_number(year + 1, 1, 1) - number - 1)
                    }
                    (_, false) => (day - 1, length() - day),
                };
                match *which {
                    n if n > 0 => before / 7 + 1 == n,
                    n => after / 7 + 1 == -n,
                }
            })
    }
}

/// Whether a part that may be missing names a number.
fn has(by: &[i64], n: i64) -> bool {
    by.is_empty() || by.contains(&n)
}

/// Year, month and day of a day since 2000-01-01, in the Gregorian calendar.
fn civil(number: i64) -> (i64, i64, i64) {
    // Counted from 1 March 2000, so that the leap day is the last of a year, a century and a cycle
    // of 400 years.
    let number = number - 60;
    let (cycle, of_cycle) = (number.div_euclid(146_097), number.rem_euclid(146_097));
    let century = (of_cycle / 36_524).min(3);
    let of_century = of_cycle - century * 36_524;
    let four = of_century / 1461;
    let of_four = of_century - four * 1461;
    let year = (of_four / 365).min(3);
    let of_year = of_four - year * 365;
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let year = 2000 + cycle * 400 + century * 100 + four * 4 + year;
    match month {
        0..10 => (year, month + 3, day),
        _ => (year + 1, month - 9, day),
    }
}

/// The inverse of [`civil`].
fn day_number(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let since = year - 2000;
    let leap_days = since.div_euclid(4) - since.div_euclid(100) + since.div_euclid(400);
    since * 365 + leap_days + (153 * month + 2) / 5 + day - 1 + 60
}

/// 0 is Monday; 2000-01-01 was a Saturday.
fn weekday_of(number: i64) -> i64 {
    (number + 5).rem_euclid(7)
}

/// The instant of a time on the wall: as much later as clocks go forward where there is none, the first
/// where there are two.
fn instant(zone: &TimeZone, wall: DateTime) -> Option<i64> {
    let at = zone.to_timestamp(wall).ok()?;
    Some(at.as_microsecond() - EPOCH)
}

fn wall(zone: &TimeZone, at: i64) -> Option<DateTime> {
    let at = Timestamp::from_microsecond(at.checked_add(EPOCH)?).ok()?;
    Some(zone.to_datetime(at))
}

/// How long something is: months and days by the calendar, so that a day ends at the same time on the
/// wall, and the rest as it elapses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Length {
    pub months: i32,
    pub days: i32,
    pub micros: i64,
}

/// What comes again, and how long it lasts each time.
#[derive(Debug, Clone)]
pub struct Occurrences {
    recurrence: Recurrence,
    length: Length,
}

impl Occurrences {
    /// `InvalidParameter` for a length that is not above nothing, or above a thousand years.
    pub fn new(recurrence: Recurrence, length: Length) -> Result<Self> {
        let Length { months, days, micros } = length;
        if months < 0 || days < 0 || micros < 0 || (months, days, micros) == (0, 0, 0) {
            return Err(Error::invalid(
                "the duration is not above 0",
                "Give for example '2 hours'.",
            ));
        }
        if months > 12_000 || days > 366_000 || micros > 366_000 * DAY {
            return Err(Error::invalid(
                "the duration is longer than 1000 years",
                "Give for example '2 hours'.",
            ));
        }
        Ok(Occurrences { recurrence, length })
    }

    /// No occurrence is longer, µs.
    fn longest(&self) -> i64 {
        let Length { months, days, micros } = self.length;
        (i64::from(months) * 31 + i64::from(days) + SLACK_DAYS) * DAY + micros
    }

    fn end(&self, start: i64) -> i64 {
        let Length { months, days, micros } = self.length;
        let of_calendar = || {
            let wall = wall(&self.recurrence.zone, start)?;
            let span = Span::new().try_months(months).ok()?.try_days(days).ok()?;
            instant(&self.recurrence.zone, wall.checked_add(span).ok()?)
        };
        let start = match (months, days) {
            (0, 0) => start,
            // What does not end within the years that can be written does not end.
            _ => of_calendar().unwrap_or(i64::MAX),
        };
        start.saturating_add(micros)
    }

    /// Those of which a part lies within [from, until], ascending by their beginning; they overlap
    /// where they last longer than until the next. `TooLarge` for more than `most`.
    pub fn between(&self, from: i64, until: i64, most: usize) -> Result<Vec<Range<i64>>> {
        let starts = self.recurrence.starts(from.saturating_sub(self.longest()), until, most)?;
        let all = starts.into_iter().map(|start| start..self.end(start));
        Ok(all.filter(|period| period.end > from).collect())
    }

    /// The one that is going on, or else the next one; `None` after the last.
    pub fn next(&self, at: i64) -> Option<Range<i64>> {
        let recurrence = &self.recurrence;
        let mut next: Option<Range<i64>> = None;
        // One that is later on the wall may be earlier where clocks change.
        let mut last_day = recurrence.limit.div_euclid(DAY).saturating_add(SLACK_DAYS);
        recurrence.walk(recurrence.before(at.saturating_sub(self.longest()))?, &mut |wall| {
            if wall.day > last_day || recurrence.last.is_some_and(|last| wall > last) {
                return false;
            }
            let start = recurrence.instant(wall).filter(|start| *start <= recurrence.limit);
            let Some(start) = start else { return true };
            let period = start..self.end(start);
            if period.end > at && next.as_ref().is_none_or(|next| start < next.start) {
                last_day = last_day.min(start.div_euclid(DAY) + SLACK_DAYS);
                next = Some(period);
            }
            true
        });
        next
    }
}
