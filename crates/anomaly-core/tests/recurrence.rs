//! Recurrence rules: as python-dateutil has them, what is refused, and the edges.

use std::ops::Range;
use std::time::Instant;

use anomaly_core::recurrence::{Length, Occurrences, Recurrence};
use anomaly_core::{Error, Result};

const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3600 * SECOND;
const DAY: i64 = 24 * HOUR;
/// 2000-01-01 in seconds since 1970.
const EPOCH: i64 = 946_684_800;

fn at(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>().unwrap().as_microsecond() - EPOCH * SECOND
}

fn text(at: i64) -> String {
    jiff::Timestamp::from_microsecond(at + EPOCH * SECOND).unwrap().to_string()
}

fn texts(all: Vec<i64>) -> Vec<String> {
    all.into_iter().map(text).collect()
}

/// `reference/recurrence.py` says what the columns are.
#[test]
fn two_hundred_random_rules_come_when_dateutil_says() {
    let mut compared = 0;
    for line in include_str!("reference/recurrence.txt").lines() {
        let fields: Vec<&str> = line.split('|').collect();
        let number = |i: usize| fields[i].parse::<i64>().unwrap();
        let start = (number(0) - EPOCH) * SECOND;
        let recurrence = Recurrence::new(start, fields[1], Some(fields[2])).unwrap();
        let end = (number(3) - EPOCH) * SECOND;
        let found = recurrence.starts(i64::MIN, end - 1, usize::MAX).unwrap();
        let seconds = || found.iter().map(|at| at / SECOND + EPOCH);
        let first: Vec<String> = seconds().take(8).map(|s| s.to_string()).collect();
        assert_eq!(first.join(","), fields[6], "{line}");
        assert_eq!(found.len() as i64, number(4), "{line}");
        let hash = seconds().fold(0u64, |hash, s| {
            hash.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(s as u64)
        });
        assert_eq!(hash.to_string(), fields[5], "{line}");

        // A part of it is that part, wherever it begins.
        for share in [3, 7] {
            let from = start + (end - start) / share;
            let until = from + 40 * DAY;
            let part = recurrence.starts(from, until, usize::MAX).unwrap();
            let whole = found.iter().copied().filter(|at| (from..=until).contains(at));
            assert!(part.into_iter().eq(whole), "{line} from {}", text(from));
        }
        // And so is the next.
        let hour = Length { months: 0, days: 0, micros: 1 };
        let occurrences = Occurrences::new(recurrence, hour).unwrap();
        for i in [0, found.len() / 2, found.len() - 1] {
            assert_eq!(occurrences.next(found[i]).map(|o| o.start), Some(found[i]), "{line}");
            if let Some(next) = found.get(i + 1) {
                let found = occurrences.next(found[i] + 1).map(|o| o.start);
                assert_eq!(found, Some(*next), "{line}");
            }
        }
        compared += 1;
    }
    assert_eq!(compared, 200);
}

fn starts(start: &str, zone: &str, rule: &str, until: &str) -> Vec<String> {
    let recurrence = Recurrence::new(at(start), zone, Some(rule)).unwrap();
    texts(recurrence.starts(i64::MIN, at(until), 10_000).unwrap())
}

#[test]
fn the_clock_on_the_wall_counts_where_clocks_change() {
    let berlin = |start, rule, until| starts(start, "Europe/Berlin", rule, until);
    // 02:30 does not exist on 31 March 2024, and comes twice on 27 October.
    assert_eq!(
        berlin("2024-03-30T01:30:00Z", "FREQ=DAILY;COUNT=3", "2025-01-01T00:00:00Z"),
        ["2024-03-30T01:30:00Z", "2024-03-31T01:30:00Z", "2024-04-01T00:30:00Z"]
    );
    assert_eq!(
        berlin("2024-10-26T00:30:00Z", "FREQ=DAILY;COUNT=3", "2025-01-01T00:00:00Z"),
        ["2024-10-26T00:30:00Z", "2024-10-27T00:30:00Z", "2024-10-28T01:30:00Z"]
    );
    // 02:30 and 03:30 are one instant on that day in March: three are counted, two come.
    assert_eq!(
        berlin("2024-03-31T00:30:00Z", "FREQ=HOURLY;COUNT=3", "2025-01-01T00:00:00Z"),
        ["2024-03-31T00:30:00Z", "2024-03-31T01:30:00Z"]
    );
    // A start at the second 02:30 is that; what follows goes by the wall.
    assert_eq!(
        berlin("2024-10-27T01:30:00Z", "FREQ=DAILY;COUNT=2", "2025-01-01T00:00:00Z"),
        ["2024-10-27T01:30:00Z", "2024-10-28T01:30:00Z"]
    );
    assert_eq!(
        berlin("2024-10-27T01:30:00Z", "FREQ=MINUTELY;INTERVAL=15;COUNT=4", "2025-01-01T00:00:00Z"),
        ["2024-10-27T01:30:00Z", "2024-10-27T02:00:00Z", "2024-10-27T02:15:00Z"]
    );
}

#[test]
fn rules_end_as_they_say() {
    let utc = |rule| starts("2024-01-01T12:00:00.25Z", "UTC", rule, "2024-01-05T00:00:00Z").len();
    assert_eq!(utc("FREQ=DAILY"), 4);
    assert_eq!(utc("FREQ=DAILY;COUNT=2"), 2);
    assert_eq!(utc("FREQ=DAILY;UNTIL=20240103"), 3);
    assert_eq!(utc("freq=daily;until=20240103t120000z"), 2);
    assert_eq!(utc("RRULE:FREQ=DAILY;UNTIL=20240103T120001"), 3);
    let once = Recurrence::new(at("2024-01-01T12:00:00.25Z"), "Asia/Tokyo", None).unwrap();
    let all = once.starts(i64::MIN, i64::MAX, 1).unwrap();
    assert_eq!(texts(all), ["2024-01-01T12:00:00.25Z"]);
    assert!(once.starts(i64::MIN, at("2024-01-01T12:00:00Z"), 1).unwrap().is_empty());
    // The local end of a day: 22:00 UTC in summer.
    let found = starts(
        "2024-07-01T20:30:00Z",
        "Europe/Berlin",
        "FREQ=HOURLY;UNTIL=20240701",
        "2025-01-01T00:00:00Z",
    );
    assert_eq!(found, ["2024-07-01T20:30:00Z", "2024-07-01T21:30:00Z"]);
}

fn problem<T>(result: Result<T>) -> String {
    match result {
        Err(Error::InvalidParameter { message, hint }) => {
            assert!(!hint.is_empty());
            message
        }
        Err(other) => panic!("{other:?}"),
        Ok(_) => "accepted".into(),
    }
}

#[test]
fn bad_rules_say_what_is_wrong() {
    for (rule, expected) in [
        ("", "\"\" is no NAME=VALUE"),
        ("FREQ", "\"FREQ\" is no NAME=VALUE"),
        ("BYDAY=MO", "FREQ: is missing"),
        ("FREQ=SECONDLY", "\"SECONDLY\" is none of"),
        ("FREQ=DAILY;", "\"\" is no NAME=VALUE"),
        ("FREQ=DAILY;FREQ=DAILY", "FREQ: is there twice"),
        ("FREQ=DAILY;INTERVAL=0", "0 is not from 1 to"),
        ("FREQ=DAILY;INTERVAL=99999999999999999999", "is no whole number"),
        ("FREQ=DAILY;COUNT=0", "COUNT: 0 is not from 1"),
        ("FREQ=DAILY;COUNT=2;UNTIL=20300101", "give one of them"),
        ("FREQ=DAILY;UNTIL=20300132", "\"20300132\" is none of"),
        ("FREQ=DAILY;UNTIL=20300101T10", "is none of"),
        ("FREQ=DAILY;UNTIL=20300101Té000é", "is none of"),
        ("FREQ=DAILY;UNTIL=20300101T100000+", "is none of"),
        ("FREQ=DAILY;UNTIL=tomorrow", "\"TOMORROW\" is none of"),
        ("FREQ=YEARLY;BYMONTH=13", "13 is not from 1 to 12"),
        ("FREQ=MONTHLY;BYMONTHDAY=0", "0 counts from neither end"),
        ("FREQ=MONTHLY;BYMONTHDAY=-32", "-32 is not from"),
        ("FREQ=WEEKLY;BYMONTHDAY=1", "a week has no day of the month"),
        ("FREQ=WEEKLY;BYDAY=XX", "\"XX\" is none of"),
        ("FREQ=WEEKLY;BYDAY=é", "\"é\" is none of"),
        ("FREQ=WEEKLY;BYDAY=", "\"\" is none of"),
        ("FREQ=WEEKLY;BYDAY=1MO", "1 of what?"),
        ("FREQ=MONTHLY;BYDAY=6MO", "there is no weekday 6"),
        ("FREQ=MONTHLY;BYDAY=0MO", "0 counts from neither end"),
        ("FREQ=DAILY;BYHOUR=24", "24 is not from 0 to 23"),
        ("FREQ=DAILY;BYMINUTE=", "\"\" is no whole number"),
        ("FREQ=MONTHLY;BYSETPOS=1", "BYSETPOS: chooses"),
        ("FREQ=YEARLY;BYWEEKNO=3", "BYWEEKNO: is not supported"),
        ("FREQ=DAILY;BYSECOND=1", "BYSECOND: is not supported"),
        ("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30", "nothing comes of it"),
        ("FREQ=DAILY;UNTIL=20231231", "nothing comes of it"),
        ("FREQ=MINUTELY;INTERVAL=2;BYMINUTE=1", "nothing comes of it"),
        ("FREQ=HOURLY;INTERVAL=12;BYHOUR=1", "nothing comes of it"),
        ("FREQ=DAILY;BYDAY=MO;BYSETPOS=2", "nothing comes of it"),
    ] {
        let message = problem(Recurrence::new(at("2024-01-01T12:00:00Z"), "UTC", Some(rule)));
        assert!(message.contains(expected), "{rule}: {message}");
    }
    let long = format!("FREQ=DAILY;BYHOUR={}", "1,".repeat(1000));
    assert!(problem(Recurrence::new(0, "UTC", Some(&long))).contains("bytes, more than"));
    assert!(problem(Recurrence::new(0, "Mars/Olympus", None)).contains("unknown time zone"));
    for start in [i64::MIN, i64::MAX, at("9999-06-01T00:00:00Z")] {
        assert!(problem(Recurrence::new(start, "UTC", None)).contains("out of range"));
    }
}

#[test]
fn occurrences_last_days_by_the_calendar_and_hours_as_they_elapse() {
    let of = |length, rule| {
        let start = at("2024-03-29T23:00:00Z"); // midnight in Berlin, a day before clocks go forward
        Occurrences::new(Recurrence::new(start, "Europe/Berlin", rule).unwrap(), length).unwrap()
    };
    let day = of(Length { months: 0, days: 1, micros: 0 }, Some("FREQ=DAILY"));
    let found = day.between(at("2024-03-30T23:00:00Z"), at("2024-03-31T21:59:59Z"), 9).unwrap();
    assert_eq!(
        found,
        vec![Range { start: at("2024-03-30T23:00:00Z"), end: at("2024-03-31T22:00:00Z") }]
    );
    let hours = of(Length { months: 0, days: 0, micros: 24 * HOUR }, Some("FREQ=DAILY"));
    let found = hours.between(at("2024-03-31T21:59:00Z"), at("2024-03-31T21:59:00Z"), 9).unwrap();
    assert_eq!(
        found,
        vec![Range { start: at("2024-03-30T23:00:00Z"), end: at("2024-03-31T23:00:00Z") }]
    );
    let month = of(Length { months: 1, days: 0, micros: HOUR }, None);
    assert_eq!(month.next(0), Some(at("2024-03-29T23:00:00Z")..at("2024-04-29T23:00:00Z")));

    // What lasts longer than until it comes again overlaps: all that touch the period are told.
    let long = of(Length { months: 0, days: 3, micros: 0 }, Some("FREQ=DAILY"));
    let noon = at("2024-06-01T12:00:00Z");
    assert_eq!(long.between(noon, noon, 9).unwrap().len(), 3);
    assert_eq!(long.next(noon).map(|o| o.start), Some(at("2024-05-29T22:00:00Z")));
    // The end does not belong to it.
    assert_eq!(
        day.between(at("2024-03-30T22:59:59Z"), at("2024-03-30T23:00:00Z"), 9).unwrap().len(),
        2
    );
    assert_eq!(month.between(at("2024-04-29T23:00:00Z"), i64::MAX, 9).unwrap(), []);
    assert_eq!(month.next(at("2024-04-29T23:00:00Z")), None);
    assert_eq!(month.next(i64::MAX), None);
    assert_eq!(month.next(i64::MIN).map(|o| o.start), Some(at("2024-03-29T23:00:00Z")));

    for (months, days, micros) in [
        (0, 0, 0),
        (0, 0, -1),
        (0, -1, DAY),
        (-1, 40, 0),
        (i32::MAX, 0, 0),
        (0, i32::MAX, 0),
        (0, 0, i64::MAX),
    ] {
        let recurrence = Recurrence::new(0, "UTC", None).unwrap();
        let length = Length { months, days, micros };
        assert!(problem(Occurrences::new(recurrence, length)).contains("the duration is"));
    }
}

#[test]
fn expansion_is_bounded_and_fast_from_long_ago() {
    let started = Instant::now();
    for rule in [
        "FREQ=YEARLY;BYDAY=-1SU",
        "FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-1",
        "FREQ=WEEKLY;INTERVAL=2",
        "FREQ=DAILY;BYMONTH=1",
        "FREQ=HOURLY;INTERVAL=5",
        "FREQ=MINUTELY;INTERVAL=7",
        "FREQ=MINUTELY;COUNT=1000000",
    ] {
        let recurrence =
            Recurrence::new(at("1900-01-01T00:00:00Z"), "Europe/Berlin", Some(rule)).unwrap();
        for _ in 0..20 {
            recurrence
                .starts(at("2026-01-01T00:00:00Z"), at("2026-02-15T00:00:00Z"), 10_000)
                .unwrap();
        }
    }
    // Milliseconds; a walk from 1900 for each of them takes minutes in this profile.
    assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
    let recurrence = Recurrence::new(0, "UTC", Some("FREQ=MINUTELY")).unwrap();
    assert!(matches!(recurrence.starts(0, i64::MAX, 1000), Err(Error::TooLarge(_))));
    assert_eq!(recurrence.starts(0, 999 * 60 * SECOND, 1000).unwrap().len(), 1000);
}
