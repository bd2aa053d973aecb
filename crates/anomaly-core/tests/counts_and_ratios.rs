//! Counts and ratios on the path that every caller takes: chance alone gives no alarms.

mod common;

use anomaly_core::strategy::Kind;
use anomaly_core::{Detector, DetectorConfig, Point};
use common::{Rng, config, trained};

fn detector(strategy: &str, kind: Kind, alpha: f64) -> Detector {
    Detector::new(DetectorConfig {
        kind,
        alerts_per_day: alpha,
        points_per_day: Some(1.0),
        ..config(strategy)
    })
    .unwrap()
}

/// By inversion.
fn poisson(rng: &mut Rng, mean: f64) -> f64 {
    let (mut k, mut p) = (0.0, libm::exp(-mean));
    let mut u = rng.uniform() - p;
    while u > 0.0 && k < 1e4 {
        k += 1.0;
        p *= mean / k;
        u -= p;
    }
    k
}

#[test]
fn poisson_counts_are_flagged_no_more_often_than_promised() {
    for strategy in common::STRATEGIES {
        for mean in [0.3, 1.0, 5.0, 50.0] {
            for alpha in [0.01, 0.001] {
                let detector = detector(strategy, Kind::Count, alpha);
                let (mut flagged, mut judged) = (0, 0);
                for seed in 0..2 {
                    let mut rng = Rng(1000 + seed);
                    let mut state = trained(&detector, (0..2000).map(|_| poisson(&mut rng, mean)));
                    for i in 0..10_000 {
                        let point = Point::new(2000 + i, poisson(&mut rng, mean));
                        let outcome = detector.process(&mut state, None, &point);
                        flagged += u32::from(outcome.verdict.is_anomaly);
                        judged += 1;
                    }
                }
                let share = f64::from(flagged) / f64::from(judged) / alpha;
                assert!(share <= 1.2, "{strategy}, mean {mean}: {share} of {alpha}");
                // and not for want of any: the atoms of a count decide how far below the promise
                assert!(mean < 50.0 || share > 0.5, "{strategy}, mean {mean}: {share} of {alpha}");
            }
        }
    }
}

#[test]
fn a_count_far_from_its_mean_is_an_anomaly_with_bounds_around_the_mean() {
    for strategy in common::STRATEGIES {
        let detector = detector(strategy, Kind::Count, 0.001);
        let mut rng = Rng(3);
        let state = trained(&detector, (0..1000).map(|_| poisson(&mut rng, 0.3)));
        let judge = |x: f64| detector.judge(&state, &Point::new(0, x));
        assert!(!judge(0.0).is_anomaly && !judge(2.0).is_anomaly && judge(8.0).is_anomaly);
        assert!((judge(0.0).expected - 0.3).abs() < 0.1, "{strategy}: {}", judge(0.0).expected);
        let bound = judge(0.0).upper;
        assert!(judge(bound + 1e-3).is_anomaly && !judge(bound - 1e-3).is_anomaly, "{bound}");
        assert_eq!(judge(0.0).lower, 0.0);
        let mut last = 0.0;
        for x in 0..2000 {
            let deviation = judge(f64::from(x * x)).deviation();
            assert!(deviation >= last, "{strategy} {x}");
            last = deviation;
        }
        assert!(last > 20.0, "{strategy}: {last}");
        // without a rate of its own, 3 of 0.3 are as rare as Poisson says: 1 in 278, two-sided 1 in 139
        assert!((judge(3.0).deviation() - 2.45).abs() < 0.35, "{}", judge(3.0).deviation());
    }
}

#[test]
fn small_denominators_do_not_alarm() {
    for strategy in common::STRATEGIES {
        let detector = detector(strategy, Kind::Ratio, 0.001);
        let mut rng = Rng(9);
        let mut state = detector.new_state();
        let mut flagged = 0;
        for i in 0..12_000 {
            // a base rate of 5 %, of 1 to 1000 requests
            let trials = libm::exp(7.0 * rng.uniform()).floor();
            let errors = (0..trials as u32).filter(|_| rng.uniform() < 0.05).count();
            let point = Point { trials, ..Point::new(i, errors as f64 / trials) };
            let anomaly = detector.process(&mut state, None, &point).verdict.is_anomaly;
            flagged += u32::from(anomaly && i >= 2000);
        }
        assert!(flagged <= 18, "{strategy}: {flagged} of 10,000, 10 promised");
        let judge = |errors: f64, trials: f64| {
            detector.judge(&state, &Point { trials, ..Point::new(0, errors / trials) })
        };
        assert!(!judge(1.0, 1.0).is_anomaly && !judge(2.0, 3.0).is_anomaly, "{strategy}");
        assert!(judge(300.0, 1000.0).is_anomaly && judge(0.0, 1000.0).is_anomaly, "{strategy}");
        assert!(judge(300.0, 1000.0).deviation() > 10.0);
        assert!((judge(5.0, 100.0).expected - 0.05).abs() < 0.005);
        let wide = judge(1.0, 20.0).upper - judge(100.0, 2000.0).upper;
        assert!(wide > 0.1, "{strategy}: more trials, narrower bounds: {wide}");
        // whatever the denominators are
        for trials in [f64::NAN, 0.0, -3.0, 1e300, 0.5] {
            for value in [0.0, 0.05, 1.0, 7.0, -1.0, f64::NAN] {
                let verdict = detector.judge(&state, &Point { trials, ..Point::new(0, value) });
                assert!(verdict.deviation().is_finite() || value.is_nan());
                assert!(!verdict.lower.is_nan() && !verdict.upper.is_nan());
            }
        }
    }
}

#[test]
fn overdispersed_counts_keep_the_promise() {
    for strategy in common::STRATEGIES {
        let detector = detector(strategy, Kind::Count, 0.01);
        let mut rng = Rng(21);
        // exponential rates: negative binomial of size 1, variance 20 + 400
        let draw = |rng: &mut Rng| {
            let rate = 20.0 * rng.exponential();
            poisson(rng, rate)
        };
        let mut state = trained(&detector, (0..3000).map(|_| draw(&mut rng)));
        let flagged = (0..20_000)
            .filter(|i| {
                let point = Point::new(3000 + i, draw(&mut rng));
                detector.process(&mut state, None, &point).verdict.is_anomaly
            })
            .count();
        assert!((80..=240).contains(&flagged), "{strategy}: {flagged} of 20,000, 200 promised");
    }
}
