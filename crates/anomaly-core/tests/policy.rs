//! What counts as an anomaly besides its probability: its side and its size.

mod common;

use anomaly_core::guidance::Accepted;
use anomaly_core::strategy::Kind;
use anomaly_core::{Detector, DetectorConfig, Direction, Error, Point};
use common::{config, trained};

/// 100 points of 50 ± 1, then one point of 50 ± 30.
fn verdict(config: DetectorConfig, value: f64) -> bool {
    let detector = Detector::new(config).unwrap();
    let mut state = trained(&detector, (0..100).map(|i| 50.0 + f64::from(i % 3 - 1)));
    let judged = detector.judge(&state, &Point::new(100, value)).is_anomaly;
    let processed = detector.process(&mut state, None, &Point::new(100, value)).verdict;
    assert_eq!(judged, processed.is_anomaly);
    // The side and the size decide what counts, not how improbable it is.
    assert!(processed.deviation() > 5.0);
    judged
}

#[test]
fn only_the_wanted_side_counts() {
    for (direction, high, low) in [
        (None, true, true),
        (Some(Direction::High), true, false),
        (Some(Direction::Low), false, true),
    ] {
        for strategy in common::STRATEGIES {
            let config = || DetectorConfig { direction, ..config(strategy) };
            assert_eq!(
                (verdict(config(), 80.0), verdict(config(), 20.0)),
                (high, low),
                "{strategy}"
            );
        }
    }
}

#[test]
fn an_effect_that_is_too_small_does_not_count() {
    for (min_effect, min_relative_effect, counts) in
        [(0.0, 0.0, true), (29.0, 0.5, true), (31.0, 0.0, false), (0.0, 0.7, false)]
    {
        let config = DetectorConfig { min_effect, min_relative_effect, ..config("zscore") };
        assert_eq!(verdict(config, 80.0), counts, "{min_effect} {min_relative_effect}");
    }
}

#[test]
fn what_does_not_count_opens_nothing_and_is_not_learned_as_normal() {
    let wanted = DetectorConfig { direction: Some(Direction::High), ..config("zscore") };
    let detector = Detector::new(wanted).unwrap();
    let mut state = trained(&detector, (0..100).map(|i| 50.0 + f64::from(i % 3 - 1)));
    for i in 0..5 {
        let outcome = detector.process(&mut state, None, &Point::new(100 + i, -1e6));
        assert!(outcome.transition.is_none() && !outcome.verdict.is_anomaly);
    }
    let verdict = detector.judge(&state, &Point::new(105, 80.0));
    assert!(verdict.is_anomaly && (verdict.expected - 50.0).abs() < 1.0, "{verdict:?}");
    assert!(detector.judge(&state, &Point::new(105, f64::INFINITY)).is_anomaly);
}

#[test]
fn bad_policies_are_refused() {
    for config in [
        DetectorConfig { direction: Some(Direction::None), ..config("zscore") },
        DetectorConfig { min_effect: -1.0, ..config("zscore") },
        DetectorConfig { min_relative_effect: f64::NAN, ..config("zscore") },
        DetectorConfig { time_zone: "Mars/Olympus".into(), ..config("zscore") },
    ] {
        assert!(matches!(Detector::new(config), Err(Error::InvalidParameter { .. })));
    }
    assert!("ratios".parse::<Kind>().is_err());
    assert!(Kind::ALL.iter().all(|k| k.as_str().parse() == Ok(*k)));
}

#[test]
fn what_people_called_normal_is_normal_of_that_entity_and_on_that_side() {
    for strategy in common::STRATEGIES {
        let detector = Detector::new(config(strategy)).unwrap();
        let entity = || trained(&detector, (0..100).map(|i| 50.0 + f64::from(i % 3 - 1)));
        let mut state = entity();
        let alert = detector.judge(&state, &Point::new(100, 80.0));
        assert!(alert.is_anomaly, "{strategy}");
        state.guidance.accepted = vec![
            Accepted::of(alert.direction, alert.value, alert.expected, alert.deviation(), 100)
                .unwrap(),
        ];
        let judge = |value: f64| detector.judge(&state, &Point::new(101, value));
        let (like_it, further) = (judge(85.0), judge(90.0));
        assert!(!like_it.is_anomaly && further.is_anomaly, "{strategy}");
        assert!(like_it.upper > 85.0 && further.upper < 90.0, "{strategy} {further:?}");
        assert!(judge(20.0).is_anomaly, "{strategy}");
        // Another entity knows nothing of it, and neither does the time before.
        assert!(detector.judge(&entity(), &Point::new(101, 80.0)).is_anomaly, "{strategy}");
        assert!(detector.judge(&state, &Point::new(100, 80.0)).is_anomaly, "{strategy}");

        // Nothing is opened, and the baseline grows into it.
        for i in 0..100 {
            let outcome = detector.process(&mut state, None, &Point::new(101 + i, 80.0));
            assert!(outcome.transition.is_none(), "{strategy} {i}");
        }
        state.guidance.accepted.clear();
        let known = detector.judge(&state, &Point::new(201, 80.0));
        assert!(!known.is_anomaly, "{strategy} {known:?}");
    }
}

#[test]
fn excluded_periods_are_judged_and_never_learned() {
    for strategy in common::STRATEGIES {
        let detector = Detector::new(config(strategy)).unwrap();
        let normal = || (0..100).map(|i| 50.0 + f64::from(i % 3 - 1));
        let (mut state, mut twin) = (trained(&detector, normal()), trained(&detector, normal()));
        state.guidance.excluded = [100..=299].into_iter().collect();
        // Normal values, what is unusual, and what lasts until it would be the new normal.
        for at in 100..300 {
            let value = if at < 150 { 50.5 } else { 90.0 };
            let outcome = detector.process(&mut state, None, &Point::new(at, value));
            assert_eq!(outcome.verdict.is_anomaly, at >= 150, "{strategy} {at}");
        }
        // Afterwards nothing has become of it, at the end of the episode neither.
        for at in 300..310 {
            detector.process(&mut state, None, &Point::new(at, 50.0));
            detector.process(&mut twin, None, &Point::new(at, 50.0));
        }
        assert_eq!(
            detector.encode_state(&state).unwrap(),
            detector.encode_state(&twin).unwrap(),
            "{strategy}"
        );
    }
}

#[test]
fn nothing_is_an_anomaly_in_expected_periods_and_nothing_is_learned() {
    for strategy in common::STRATEGIES {
        let detector = Detector::new(config(strategy)).unwrap();
        let normal = || (0..100).map(|i| 50.0 + f64::from(i % 3 - 1));
        let (mut state, mut twin) = (trained(&detector, normal()), trained(&detector, normal()));
        state.guidance.expected = [100..=299].into_iter().collect();
        for at in 100..300 {
            let value = match at {
                100..150 => 50.5,
                150 => f64::INFINITY,
                151 => f64::NAN,
                _ => 90.0,
            };
            assert!(!detector.judge(&state, &Point::new(at, value)).is_anomaly, "{strategy} {at}");
            let outcome = detector.process(&mut state, None, &Point::new(at, value));
            assert!(!outcome.verdict.is_anomaly, "{strategy} {at}");
            assert!(outcome.transition.is_none(), "{strategy} {at}");
            assert_eq!(outcome.verdict.value.to_bits(), value.to_bits());
        }
        // Afterwards everything is as if it had not been.
        for at in 300..310 {
            detector.process(&mut state, None, &Point::new(at, 50.0));
            detector.process(&mut twin, None, &Point::new(at, 50.0));
        }
        assert_eq!(
            detector.encode_state(&state).unwrap(),
            detector.encode_state(&twin).unwrap(),
            "{strategy}"
        );
        assert!(detector.judge(&state, &Point::new(310, 90.0)).is_anomaly, "{strategy}");
    }
}

#[test]
fn an_episode_ends_in_an_expected_period_and_gaps_are_none() {
    use anomaly_core::gaps::Arrival;
    let detector = Detector::new(config("zscore")).unwrap();
    let mut state = trained(&detector, (0..100).map(|i| 50.0 + f64::from(i % 3 - 1)));
    state.guidance.expected = [102..=120].into_iter().collect();
    let mut step = |at: i64| {
        let outcome = detector.process(&mut state, None, &Point::new(at, 1e6));
        outcome.transition.map(|t| match t {
            anomaly_core::Transition::Opened(_) => "opened",
            anomaly_core::Transition::Updated(_) => "updated",
            anomaly_core::Transition::Resolved(_) => "resolved",
            _ => "something else",
        })
    };
    let steps: Vec<_> = (100..107).map(&mut step).collect();
    let clear_after = detector.config().clear_after as usize;
    assert_eq!(steps[..2], [Some("opened"), Some("updated")]);
    assert_eq!(steps.iter().position(|s| *s == Some("resolved")), Some(1 + clear_after));
    for (at, is_anomaly) in [(120, false), (121, true)] {
        let missing = detector.process_arrival(&mut state, None, &Arrival::Missing { at });
        assert_eq!(missing.verdict.is_anomaly, is_anomaly, "{at}");
    }
}
