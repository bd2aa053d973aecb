//! One alert is one episode, whatever is stored in between.

mod common;

use anomaly_core::strategy::STRATEGIES;
use anomaly_core::{
    Detector, DetectorConfig, EntityState, Episode, Error, FLAPPING, Outcome, Phase, Point,
    Transition,
};
use common::{Rng, config, trained};
use proptest::prelude::*;

fn detector(fire_after: u32, clear_after: u32) -> Detector {
    Detector::new(DetectorConfig { fire_after, clear_after, ..config("zscore") }).unwrap()
}

fn cooling(fire_after: u32, clear_after: u32, cool_down: i64) -> Detector {
    let config = DetectorConfig { fire_after, clear_after, cool_down, ..config("zscore") };
    Detector::new(config).unwrap()
}

fn warm(detector: &Detector) -> EntityState {
    let mut rng = Rng(1);
    trained(detector, (0..500).map(|_| 50.0 + rng.normal()))
}

/// `!` stands for 80 + its position, `.` for 50, `?` for NaN; answers one letter per point.
fn run(detector: &Detector, state: &mut EntityState, from: i64, points: &str) -> String {
    points
        .chars()
        .enumerate()
        .map(|(i, c)| {
            let at = from + i as i64;
            let value = match c {
                '!' => 80.0 + i as f64,
                '.' => 50.0,
                _ => f64::NAN,
            };
            letter(&detector.process(state, None, &Point::new(at, value)))
        })
        .collect()
}

/// `S` stands for a point that did nothing but let an alert settle.
fn letter(outcome: &Outcome) -> char {
    match outcome.transition {
        None if outcome.settled.is_some() => 'S',
        None => '-',
        Some(Transition::Opened(_)) => 'O',
        Some(Transition::Updated(_)) => 'U',
        Some(Transition::Escalated(_)) => 'E',
        Some(Transition::Reopened(_)) => 'A',
        Some(Transition::Resolved(_)) => 'R',
    }
}

#[test]
fn transitions_follow_fire_after_and_clear_after() {
    for (fire, clear, points, expected) in [
        (1, 3, "..!...", "--O--R"),
        (1, 1, "!.!.", "OROR"),
        (1, 3, "!..!..!...", "O--U--U--R"),
        (1, 3, "!!!!...!", "OUUU--RO"),
        (2, 2, "!.!.!!.!..", "-----O-U-R"),
        (3, 1, "!!.!!!!.", "-----OUR"),
        // NaN is neither: it does not clear and does not fire
        (1, 2, "!.?.", "O--R"),
        (2, 1, "!?!.", "--OR"),
        (1, 3, "???", "---"),
    ] {
        let detector = detector(fire, clear);
        assert_eq!(run(&detector, &mut warm(&detector), 0, points), expected, "{points}");
    }
}

#[test]
fn an_episode_carries_what_its_alert_needs() {
    let detector = detector(2, 2);
    let mut state = warm(&detector);
    let mut feed = |at: i64, x: f64| detector.process(&mut state, None, &Point::new(at, x));
    assert!(feed(10, 70.0).transition.is_none());
    let opened = feed(20, 90.0);
    let Some(Transition::Opened(e)) = opened.transition else { panic!("{opened:?}") };
    assert_eq!((e.phase, e.started_at, e.last_at, e.points), (Phase::Open, 10, 20, 2));
    assert_eq!((e.peak.at, e.peak.value), (20, 90.0));
    assert_eq!(e.peak.deviation, opened.verdict.deviation());
    assert_eq!(e.peak.ln_p, opened.verdict.ln_p());
    let z = opened.metadata.unwrap()["z_score"].as_f64().unwrap();
    assert_eq!(z, opened.verdict.statistic);
    // not a new peak: no metadata
    let updated = feed(30, 75.0);
    let Some(Transition::Updated(e)) = updated.transition else { panic!("{updated:?}") };
    assert_eq!((e.last_at, e.points, e.peak.at), (30, 3, 20));
    assert!(updated.metadata.is_none());
    // a new peak
    let higher = feed(40, 95.0);
    assert_eq!(higher.metadata.unwrap()["z_score"].as_f64().unwrap(), higher.verdict.statistic);
    assert!(feed(50, 50.0).transition.is_none());
    let Some(Transition::Resolved(e)) = feed(60, 50.0).transition else { panic!() };
    assert_eq!((e.started_at, e.last_at, e.points, e.peak.value), (10, 40, 4, 95.0));
    assert_eq!(state.episode, Episode::default());
}

/// With fire_after above 1 the alert opens on a later point than its peak.
#[test]
fn metadata_of_a_new_alert_is_that_of_its_peak() {
    let detector = detector(2, 1);
    let mut state = warm(&detector);
    detector.process(&mut state, None, &Point::new(1, 95.0));
    let opened = detector.process(&mut state, None, &Point::new(2, 70.0));
    let peak = opened.transition.unwrap().episode().peak;
    assert_eq!(peak.value, 95.0);
    assert_eq!(opened.metadata.unwrap()["z_score"].as_f64().unwrap(), peak.statistic);
}

/// What tells an event by one point opens its alert with that point, and refuses to wait for a second
/// one that never comes.
#[test]
fn fire_after_is_refused_where_an_event_is_one_point() {
    let mut rng = Rng(2);
    let noise: Vec<f64> = (0..1000).map(|_| rng.normal()).collect();
    let mut events = Vec::new();
    for info in STRATEGIES.iter().filter(|s| s.is_available()) {
        let params = common::available::needed_params(info.short_name);
        let with = |fire_after| {
            let params = params.clone();
            Detector::new(DetectorConfig { fire_after, params, ..config(info.name) })
        };
        let once = with(1).unwrap();
        if !once.strategy().tells_once() {
            assert!(with(3).is_ok(), "{}", info.name);
            continue;
        }
        let Err(Error::InvalidParameter { message, hint }) = with(2) else {
            panic!("{} takes fire_after => 2", info.name);
        };
        assert!(message.contains("fire_after is 2") && message.contains(info.name), "{message}");
        assert!(hint.contains("fire_after"), "{hint}");
        // another level and another spread: both are seen by whatever looks for shifts
        let mut state = trained(&once, noise[..700].iter().copied());
        let mut opened = 0;
        for (i, x) in noise.iter().enumerate().skip(700) {
            let x = if i < 800 { *x } else { 12.0 + 6.0 * x };
            let outcome = once.process(&mut state, None, &Point::new(i as i64, x));
            if matches!(outcome.transition, Some(Transition::Opened(_))) && i >= 800 {
                opened += 1;
            }
        }
        assert!((1..=3).contains(&opened), "{}: {opened} alerts", info.name);
        events.push(info.short_name);
    }
    assert_eq!(events, ["cusum", "level_shift", "volatility_shift", "changepoint"]);
}

#[test]
fn late_points_widen_an_episode() {
    let detector = detector(1, 3);
    let mut state = warm(&detector);
    detector.process(&mut state, None, &Point::new(100, 80.0));
    detector.process(&mut state, None, &Point::new(40, 80.0));
    let e = state.episode;
    assert_eq!((e.started_at, e.last_at, e.points), (40, 100, 2));
    assert!(e.covers(&Point::new(70, 0.0)) && !e.covers(&Point::new(101, 0.0)));
}

#[test]
fn the_alert_id_is_kept_until_the_episode_ends() {
    let detector = detector(1, 2);
    let mut state = warm(&detector);
    run(&detector, &mut state, 0, "!");
    state.episode.alert_id = 42;
    let mut state = detector.decode_state(&detector.encode_state(&state).unwrap()).unwrap();
    let updated = detector.process(&mut state, None, &Point::new(1, 90.0)).transition.unwrap();
    assert_eq!(updated.episode().alert_id, 42);
    detector.process(&mut state, None, &Point::new(2, 50.0));
    let resolved = detector.process(&mut state, None, &Point::new(3, 50.0)).transition.unwrap();
    assert_eq!(resolved.episode().alert_id, 42);
    assert_eq!(state.episode.alert_id, 0);
}

/// check_c39_cool_down: within it the same alert opens again; a run counts that begins in time.
#[test]
fn check_c39_an_alert_is_opened_again_within_its_cool_down() {
    for (fire, clear, cool, points, expected) in [
        (1, 1, 3, "!.!.", "ORAR"),
        (1, 1, 3, "!..!.", "OR-AR"),
        (1, 1, 2, "!...!.", "OR--OR"),
        (1, 2, 2, "!..!", "O-RA"),
        (2, 1, 2, "!!.!.!!.", "-OR---OR"),
        // begun in time, and counted to the end
        (2, 1, 2, "!!..!!", "-OR--A"),
        // each end begins a new cool-down; the alert flaps from the third time on
        (1, 1, 2, "!.!.!.!.!.....", "ORARARARAR--S-"),
        (1, 1, 2, "!.!.!.!...!", "ORARARAR--O"),
        (1, 1, 2, "!.!.!....", "ORARAR---"),
        // NaN changes nothing
        (1, 1, 2, "!.!.!.!.????.", "ORARARAR----S"),
        (1, 1, 0, "!.!.", "OROR"),
    ] {
        let detector = cooling(fire, clear, cool);
        let mut state = warm(&detector);
        assert_eq!(run(&detector, &mut state, 0, points), expected, "{points} cool {cool}");
    }
    assert!(Detector::new(DetectorConfig { cool_down: -1, ..config("zscore") }).is_err());
}

#[test]
fn an_alert_that_is_opened_again_is_of_all_its_points() {
    let detector = cooling(2, 1, 100);
    let mut state = warm(&detector);
    let mut feed = |at: i64, x: f64| detector.process(&mut state, None, &Point::new(at, x));
    feed(10, 95.0);
    feed(20, 90.0);
    assert!(feed(30, 50.0).transition.is_some());
    assert!(feed(40, 85.0).transition.is_none());
    let again = feed(50, 80.0);
    let Some(Transition::Reopened(e)) = again.transition else { panic!("{again:?}") };
    assert_eq!((e.started_at, e.last_at, e.points, e.reopened), (10, 50, 4, 1));
    assert_eq!((e.peak.at, e.peak_is_learned), (10, true));
    assert!(again.metadata.is_none(), "the figures of its peak are known");
    assert!(feed(60, 50.0).transition.is_some());
    feed(70, 99.0);
    let again = feed(80, 80.0);
    let Some(Transition::Reopened(e)) = again.transition else { panic!("{again:?}") };
    assert_eq!((e.points, e.reopened, e.peak.at, e.peak_is_learned), (6, 2, 70, false));
    let z = again.metadata.unwrap()["z_score"].as_f64().unwrap();
    assert_eq!(z, e.peak.statistic, "of the run's peak, not of the point that opened it again");
}

/// Of an episode only the peak is learned, once: what opens again without exceeding it adds nothing.
#[test]
fn a_peak_is_learned_once() {
    let detector = cooling(1, 1, 1000);
    let count = |points: &[f64]| {
        let mut state = warm(&detector);
        for (at, x) in points.iter().enumerate() {
            detector.process(&mut state, None, &Point::new(at as i64, *x));
        }
        state.model.count()
    };
    assert_eq!(count(&[90.0, 50.0, 80.0, 50.0]), count(&[90.0, 50.0, 50.0]));
    assert_eq!(count(&[90.0, 50.0, 95.0, 50.0]), count(&[90.0, 50.0, 50.0]) + 1);
}

/// A higher severity within an open episode is said once, as it rises.
#[test]
fn severity_escalates_within_an_episode() {
    let detector = detector(1, 3);
    let mut state = warm(&detector);
    let mut feed = |at: i64, z: f64| {
        let outcome = detector.process(&mut state, None, &Point::new(at, 50.0 + z));
        (letter(&outcome), outcome.metadata.is_some())
    };
    // four spreads from the mean are critical, nine an emergency
    assert_eq!(feed(1, 4.2), ('O', true));
    assert_eq!(feed(2, 4.3), ('U', true));
    assert_eq!(feed(3, 9.0), ('E', true));
    assert_eq!(feed(4, 9.5), ('U', true));
    assert_eq!(feed(5, 4.2), ('U', false));
}

#[test]
fn a_state_that_cools_is_stored_with_its_alert() {
    let detector = cooling(2, 1, 50);
    let mut state = warm(&detector);
    run(&detector, &mut state, 0, "!!");
    state.episode.renumber(|_| 42);
    run(&detector, &mut state, 2, ".!!.!");
    assert_eq!((state.episode.phase, state.episode.latest_alert()), (Phase::Pending, 42));
    assert_eq!(state.episode.cooling.unwrap().reopened, 1);
    let bytes = detector.encode_state(&state).unwrap();
    let back = detector.decode_state(&bytes).unwrap();
    assert_eq!(back.episode, state.episode);
    assert_eq!(back.episode.cooling.unwrap().episode().points, 4);
    let mut open = back;
    run(&detector, &mut open, 7, "!");
    let again = detector.decode_state(&detector.encode_state(&open).unwrap()).unwrap();
    assert_eq!(again.episode, open.episode);
    assert_eq!((again.episode.alert_id, again.episode.reopened), (42, 2));
    assert!(again.episode.reopened < FLAPPING);
}

proptest! {
    /// However a series is cut into scans, its transitions are the same.
    #[test]
    fn cutting_a_series_into_scans_changes_nothing(
        points in "[!.?]{1,60}",
        cut in 0..60usize,
        fire in 1..4u32,
        clear in 1..4u32,
        cool_down in prop_oneof![Just(0i64), 1..20i64],
    ) {
        let detector = cooling(fire, clear, cool_down);
        let whole = run(&detector, &mut warm(&detector), 0, &points);
        let cut = cut.min(points.len());
        let mut state = warm(&detector);
        // values depend on the position, so both runs go through the same string
        let mut parts = String::new();
        for (i, c) in points.char_indices() {
            if i == cut {
                state = detector.decode_state(&detector.encode_state(&state).unwrap()).unwrap();
            }
            let value = match c { '!' => 80.0 + i as f64, '.' => 50.0, _ => f64::NAN };
            let outcome = detector.process(&mut state, None, &Point::new(i as i64, value));
            parts.push(letter(&outcome));
        }
        prop_assert_eq!(&parts, &whole);
        // an alert opens once and is resolved before the next, or before it opens again
        let marks: String =
            whole.replace('A', "O").chars().filter(|c| "OR".contains(*c)).collect();
        prop_assert!(marks.as_bytes().windows(2).all(|w| w[0] != w[1]), "{}", marks);
        prop_assert!(!marks.starts_with('R'));
    }
}
