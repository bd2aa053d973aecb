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
        state.guidance.excluded = vec![100..=299];
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
