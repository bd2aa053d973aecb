//! One alert is one episode, whatever is stored in between.

mod common;

use anomaly_core::strategy::STRATEGIES;
use anomaly_core::{
    Detector, DetectorConfig, EntityState, Episode, Error, Phase, Point, Transition,
};
use common::{Rng, config, trained};
use proptest::prelude::*;

fn detector(fire_after: u32, clear_after: u32) -> Detector {
    Detector::new(DetectorConfig { fire_after, clear_after, ..config("zscore") }).unwrap()
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
            match detector.process(state, None, &Point::new(at, value)).transition {
                None => '-',
                Some(Transition::Opened(_)) => 'O',
                Some(Transition::Updated(_)) => 'U',
                Some(Transition::Resolved(_)) => 'R',
            }
        })
        .collect()
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

proptest! {
    /// However a series is cut into scans, its transitions are the same.
    #[test]
    fn cutting_a_series_into_scans_changes_nothing(
        points in "[!.?]{1,60}",
        cut in 0..60usize,
        fire in 1..4u32,
        clear in 1..4u32,
    ) {
        let detector = detector(fire, clear);
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
            parts.push(match outcome.transition {
                None => '-',
                Some(Transition::Opened(_)) => 'O',
                Some(Transition::Updated(_)) => 'U',
                Some(Transition::Resolved(_)) => 'R',
            });
        }
        prop_assert_eq!(&parts, &whole);
        // an alert opens once and is resolved before the next
        let marks: String = whole.chars().filter(|c| "OR".contains(*c)).collect();
        prop_assert!(marks.as_bytes().windows(2).all(|w| w[0] != w[1]), "{}", marks);
        prop_assert!(!marks.starts_with('R'));
    }
}
