//! What the statistical half of the product promises, on series whose truth is known.
//!
//! A strategy that is not there yet is named on stderr and skipped; once it is registered, its tests
//! count. The promised rates over 1,000 series are in the calibration tests; here are the situations.

mod common;

use anomaly_core::strategy::Kind;
use anomaly_core::{Detector, DetectorConfig, EntityState, Error, Transition, Verdict};
use common::Rng;
use common::available::{
    defaults, detector, each, every, is_available, of_kind, others, some, takes, trained_on,
};
use common::series::{
    Anomaly, DAY, HOUR, MINUTE, MONDAY, SHAPES, Sample, Series, Shape, Times, plain, series,
};

/// A detector that flags this share of quiet points.
fn with_alpha(config: DetectorConfig, alpha: f64) -> Detector {
    detector(DetectorConfig { alerts_per_day: alpha, points_per_day: Some(1.0), ..config })
}

/// The first `n` samples are the history, the others are judged and learned: verdicts and openings.
fn watch(detector: &Detector, samples: &[Sample], n: usize) -> (Vec<Verdict>, Vec<bool>) {
    let mut state = trained_on(detector, &samples[..n]);
    watch_on(detector, &mut state, &samples[n..])
}

fn watch_on(
    detector: &Detector,
    state: &mut EntityState,
    samples: &[Sample],
) -> (Vec<Verdict>, Vec<bool>) {
    let outcomes = samples.iter().map(|s| detector.process(state, None, &s.point()));
    outcomes.map(|o| (o.verdict, matches!(o.transition, Some(Transition::Opened(_))))).unzip()
}

/// The most events that a promise of so many explains, but for once in a thousand times.
fn poisson_limit(expected: f64) -> f64 {
    expected + 3.1 * expected.sqrt() + 1.0
}

// ----------------------------------------------------------------------------------------- season

/// `100 + 30 sin` with a period of 24 hours and noise of 1.5, the first sample at 3 in the morning.
fn sine(step: i64, days: i64, seed: u64) -> Series {
    let mut rng = Rng(seed);
    let mut samples = plain((0..days * DAY / step).map(|_| 0.0));
    for (i, s) in samples.iter_mut().enumerate() {
        s.at = MONDAY + 3 * HOUR + i as i64 * step;
        s.centre = 100.0 + sine_at(s.at);
        s.value = s.centre + 1.5 * rng.normal();
    }
    Series { samples, kind: Kind::Value, spread: 1.5, step }
}

/// At 3, 9, 15 and 21 o'clock it is 21 away from the mean.
fn sine_at(at: i64) -> f64 {
    30.0 * libm::sin(std::f64::consts::TAU * (at - MONDAY) as f64 / DAY as f64)
}

/// After three weeks of hourly points and of points every 5 minutes, no matter how they came in.
#[test]
fn check_c17_defect_s1r_on_a_clean_24_hour_sine_the_future_is_silent_and_the_opposite_phase_alerts()
{
    each(&["regression", "seasonal", "holt_winters", "auto"], |strategy| {
        for (step, seed) in [(HOUR, 1), (HOUR, 2), (HOUR, 3), (5 * MINUTE, 4), (5 * MINUTE, 5)] {
            let all = sine(step, 21, seed);
            let detector = detector(DetectorConfig {
                points_per_day: Some((DAY / step) as f64),
                alerts_per_day: 0.05,
                ..defaults(strategy)
            });
            let learned = trained_on(&detector, &all.samples);
            let mut watched = trained_on(&detector, &all.samples[..all.samples.len() / 3]);
            let quiet = watch_on(&detector, &mut watched, &all.samples[all.samples.len() / 3..]);
            let opened = quiet.1.iter().filter(|o| **o).count();
            // 14 days at 0.05 a day
            assert!(opened as f64 <= poisson_limit(0.7), "{strategy}: {opened} alerts");
            let last = all.samples.last().unwrap().at;
            for (state, how) in [(&learned, "trained"), (&watched, "watched")] {
                for ahead in [HOUR, 7 * HOUR, 13 * HOUR, 19 * HOUR, 10 * DAY] {
                    // on the hour
                    let at = last + step - HOUR + ahead;
                    let at = if ahead == 10 * DAY { at + HOUR } else { at };
                    let judge = |value| {
                        let sample = Sample { at, value, trials: f64::NAN, centre: value };
                        detector.judge(state, &sample.point())
                    };
                    let context =
                        format!("{strategy} every {step} us, {how}, {} h on", ahead / HOUR);
                    for noise in [-1.5, 0.0, 1.5] {
                        let v = judge(100.0 + sine_at(at) + noise);
                        assert!(!v.is_anomaly && v.deviation() < 3.0, "{context}: {v:?}");
                    }
                    let v = judge(100.0 - sine_at(at));
                    assert!(v.is_anomaly, "{context}: {v:?}");
                    // the range is that of the hour, not of the day
                    assert!((v.expected - 100.0 - sine_at(at)).abs() < 5.0, "{context}: {v:?}");
                }
            }
        }
    });
}

/// The noon of a weekday is an incident on a Sunday.
#[test]
fn check_c17_the_week_is_known_after_four_of_them() {
    each(&["regression", "seasonal", "auto"], |strategy| {
        let shape = Shape::Seasonal { weekly: true, trend: 0.0 };
        let all = series(shape, Times::Every(HOUR), 6 * 168, 3);
        let detector = detector(DetectorConfig {
            points_per_day: Some(24.0),
            alerts_per_day: 0.05,
            ..defaults(strategy)
        });
        let (verdicts, opened) = watch(&detector, &all.samples, 4 * 168);
        let alerts = opened.iter().filter(|o| **o).count() as f64;
        assert!(alerts <= poisson_limit(0.05 * 14.0), "{strategy}: {alerts} alerts in two weeks");
        let state = trained_on(&detector, &all.samples);
        // the following Sunday, 08:00: the course of a Friday is 50 % higher
        let friday = all.samples[4 * 24 + 8];
        let sunday = Sample { at: MONDAY + (42 + 6) * DAY + 8 * HOUR, ..friday };
        let v = detector.judge(&state, &sunday.point());
        assert!(v.is_anomaly, "{strategy}: {v:?}");
        let v = detector.judge(&state, &sunday.with(friday.centre * 0.67).point());
        assert!(!v.is_anomaly, "{strategy}: {v:?}");
        assert_eq!(verdicts.len(), 2 * 168);
    });
}

// -------------------------------------------------------------------------------------- level shift

/// What a level shift of so many spreads gives: how many points after it the alerts are, and whether
/// the last third is silent.
fn after_shift(
    detector: &Detector,
    mut all: Series,
    at: usize,
    spreads: f64,
) -> (Vec<usize>, bool) {
    // no chance extremes, so that every further alert is the strategy's own
    for s in &mut all.samples {
        s.value = s.value.clamp(s.centre - 3.0 * all.spread, s.centre + 3.0 * all.spread);
    }
    all.inject(at, Anomaly::LevelShift(spreads));
    let (verdicts, opened) = watch(detector, &all.samples, at - 200);
    assert!(!opened[..200].iter().any(|o| *o), "an alert before the shift");
    let (verdicts, opened) = (&verdicts[200..], &opened[200..]);
    let alerts = (0..opened.len()).filter(|i| opened[*i]).collect();
    let silent = !verdicts[verdicts.len() * 2 / 3..].iter().any(|v| v.is_anomaly);
    (alerts, silent)
}

/// One event within 100 points, then the new normal.
#[test]
fn a_level_shift_gives_exactly_one_event_and_then_silence() {
    each(&["level_shift", "changepoint", "seasonal", "holt_winters", "ewma", "auto"], |strategy| {
        let detector = with_alpha(defaults(strategy), 1e-5);
        for seed in 0..4 {
            for spreads in [12.0, -12.0] {
                let all = series(Shape::White, Times::Every(MINUTE), 2700, 50 + seed);
                let (alerts, silent) = after_shift(&detector, all, 1200, spreads);
                let context = format!("{strategy}, seed {seed}, {spreads} spreads");
                assert_eq!(alerts.len(), 1, "{context}: alerts after {alerts:?} points");
                assert!(alerts[0] < 100, "{context}: only after {alerts:?} points");
                assert!(silent, "{context}: the new level is not normal after 1,000 points");
            }
        }
    });
}

#[test]
fn a_level_shift_of_a_daily_course_gives_exactly_one_event_and_then_silence() {
    each(&["seasonal", "auto"], |strategy| {
        let detector = with_alpha(defaults(strategy), 1e-5);
        for seed in 0..3 {
            for spreads in [12.0, -12.0] {
                let shape = Shape::Seasonal { weekly: false, trend: 0.0 };
                let all = series(shape, Times::Every(HOUR), 75 * 24, 60 + seed);
                let (alerts, silent) = after_shift(&detector, all, 45 * 24, spreads);
                let context = format!("{strategy}, seed {seed}, {spreads} spreads");
                assert_eq!(alerts.len(), 1, "{context}: alerts after {alerts:?} points");
                assert!(alerts[0] < 24, "{context}: only after {alerts:?} points");
                assert!(silent, "{context}: the new level is not normal after 20 days");
            }
        }
    });
}

/// What an event explains is its own size, not what comes on top of it.
#[test]
fn a_spike_from_a_new_level_is_told() {
    each(&["auto"], |strategy| {
        let detector = with_alpha(defaults(strategy), 1e-5);
        for later in [3, 8] {
            for sign in [1.0, -1.0] {
                let shape = Shape::Seasonal { weekly: false, trend: 0.0 };
                let mut all = series(shape, Times::Every(HOUR), 50 * 24, 60);
                let at = 45 * 24;
                all.inject(at, Anomaly::LevelShift(sign * 12.0));
                all.inject(at + later, Anomaly::Spike(sign * 20.0));
                let (verdicts, _) = watch(&detector, &all.samples, at);
                let context = format!("{later} hours after a shift by {sign} times 12 spreads");
                assert!(verdicts[0].is_anomaly, "{context}: {:?}", verdicts[0]);
                assert!(!verdicts[later - 1].is_anomaly, "{context}: {:?}", verdicts[later - 1]);
                assert!(verdicts[later].is_anomaly, "{context}: {:?}", verdicts[later]);
            }
        }
    });
}

/// `anomaly.explain_detector` names the periods and the trend, and what the promise was worth.
#[test]
fn auto_explains_what_it_found() {
    each(&["auto"], |strategy| {
        let shape = Shape::Seasonal { weekly: false, trend: 3.0 };
        let all = series(shape, Times::Every(HOUR), 40 * 24, 7);
        let explained = trained_on(&detector(defaults(strategy)), &all.samples).model.explain();
        assert_eq!(explained["strategy"], "seasonal");
        let data = &explained["data"];
        let seasons = data["seasons"].as_array().unwrap();
        assert!(seasons.iter().any(|s| s["period_seconds"] == 86_400.0), "{data}");
        assert!(data["trend_per_day"].as_f64().is_some(), "{data}");
        assert_eq!(explained["share_of_points_by_p"].as_array().unwrap().len(), 2);
    });
}

/// What the others do with a level shift, for the docs: `cargo test level_shift -- --nocapture`.
#[test]
fn a_level_shift_is_noticed_by_every_strategy_that_looks_at_the_level() {
    every(|strategy| {
        let detector = with_alpha(defaults(strategy), 1e-5);
        let all = series(Shape::White, Times::Every(MINUTE), 2700, 55);
        let (alerts, silent) = after_shift(&detector, all, 1200, 12.0);
        println!("{strategy}: alerts after {alerts:?} points, silent in the end: {silent}");
        if !["threshold", "volatility_shift", "flat_line"].contains(&strategy) {
            assert!(!alerts.is_empty(), "{strategy} saw no shift of 12 spreads");
        }
    });
}

// ------------------------------------------------------------------------------- counts and ratios

/// Those that make no promise of a rate.
const WITHOUT_RATE: [&str; 3] = ["threshold", "flat_line", "esd"];

/// Those that promise one for values of a kind.
fn with_rate(kind: Kind) -> Vec<&'static str> {
    let mut with = others(&WITHOUT_RATE);
    with.retain(|s| takes(s, kind));
    with
}

/// Who does not know how a kind of values varies says so, and who does.
#[test]
fn kinds_that_a_strategy_does_not_know_are_refused() {
    let mut refused = 0;
    every(|strategy| {
        for kind in Kind::ALL {
            let made = Detector::new(DetectorConfig { kind, ..defaults(strategy) });
            if takes(strategy, kind) {
                assert!(made.is_ok(), "{strategy} refuses {kind:?}");
                continue;
            }
            let Err(Error::InvalidParameter { message, hint }) = made else {
                panic!("{strategy} takes {kind:?}");
            };
            assert!(message.contains(strategy) && message.contains(kind.as_str()), "{message}");
            for other in ["zscore", "mad", "quantile", "seasonal"] {
                assert!(hint.contains(other) && takes(other, kind), "{hint}");
            }
            assert!(!hint.contains(strategy) && hint.contains("kind value"), "{hint}");
            assert_eq!(hint.contains("without trials"), kind == Kind::Ratio, "{hint}");
        }
    });
    for strategy in others(&[]) {
        assert!(takes(strategy, Kind::Value), "{strategy}");
        refused += u32::from(!takes(strategy, Kind::Ratio));
    }
    assert_eq!(refused, 8);
}

/// Share of the points after the history that are flagged, beside how many there were.
fn flagged(detector: &Detector, samples: &[Sample], n: usize) -> (f64, f64) {
    let (verdicts, _) = watch(detector, samples, n);
    (verdicts.iter().filter(|v| v.is_anomaly).count() as f64, verdicts.len() as f64)
}

#[test]
fn poisson_counts_do_not_alarm_beyond_1_2_times_nominal() {
    each(&with_rate(Kind::Count), |strategy| {
        for alpha in [0.01, 0.001] {
            let detector = with_alpha(of_kind(strategy, Kind::Count), alpha);
            let (mut hits, mut points) = (0.0, 0.0);
            let rates = [0.3, 1.0, 2.0, 5.0, 20.0, 50.0].into_iter().enumerate();
            for (seed, rate) in some(strategy, 3, rates) {
                let shape = Shape::Poisson { rate };
                let all = series(shape, Times::Every(MINUTE), 5000, 70 + seed as u64);
                let (h, n) = flagged(&detector, &all.samples, 2000);
                println!(
                    "{strategy} alpha {alpha} rate {rate}: {:.2} times nominal",
                    h / n / alpha
                );
                hits += h;
                points += n;
            }
            let limit = poisson_limit(1.2 * alpha * points);
            assert!(hits <= limit, "{strategy} at {alpha}: {hits} of {points}, more than {limit}");
        }
    });
}

/// Two failures where one in two hundred is usual are nothing among 10 trials, and everything among
/// a thousand times as many with the same share.
#[test]
fn small_denominators_do_not_alarm() {
    each(&with_rate(Kind::Ratio), |strategy| {
        // the rate: half of the rows have a tenth of the trials
        let alpha = 0.01;
        let detector = with_alpha(of_kind(strategy, Kind::Ratio), alpha);
        let (mut hits, mut points, mut small_hits, mut small) = (0.0, 0.0, 0.0, 0.0);
        for (seed, share) in some(strategy, 2, [0.005, 0.05, 0.3, 0.98].into_iter().enumerate()) {
            let shape = Shape::Ratio { share, trials: 500.0 };
            let all = series(shape, Times::Every(MINUTE), 5000, 80 + seed as u64);
            let (verdicts, _) = watch(&detector, &all.samples, 2000);
            let before = (small_hits, small);
            for (v, s) in verdicts.iter().zip(&all.samples[2000..]) {
                let few = f64::from(u8::from(s.trials < 100.0));
                let hit = f64::from(u8::from(v.is_anomaly));
                (hits, points) = (hits + hit, points + 1.0);
                (small_hits, small) = (small_hits + hit * few, small + few);
            }
            let ratio = (small_hits - before.0) / (small - before.1) / alpha;
            println!("{strategy}, share {share}: few trials {ratio:.2} times nominal");
        }
        let limit = poisson_limit(1.2 * alpha * points);
        assert!(hits <= limit, "{strategy}: {hits} of {points}, more than {limit}");
        let limit = poisson_limit(1.2 * alpha * small);
        assert!(small_hits <= limit, "{strategy}: {small_hits} of {small} with few trials");

        // one row
        let detector = with_alpha(of_kind(strategy, Kind::Ratio), 1e-3);
        let shape = Shape::Ratio { share: 0.005, trials: 10_000.0 };
        let all = series(shape, Times::Every(MINUTE), 2000, 90);
        let state = trained_on(&detector, &all.samples);
        let judge = |failures: f64, trials: f64| {
            let at = MONDAY + 2000 * MINUTE;
            let sample = Sample { at, value: failures / trials, trials, centre: 0.005 };
            detector.judge(&state, &sample.point())
        };
        let chance = judge(1.0, 5.0);
        assert!(!chance.is_anomaly, "{strategy}: 1 of 5 has a p of 0.025, {chance:?}");
        let incident = judge(2000.0, 10_000.0);
        assert!(incident.is_anomaly, "{strategy}: 20 % of 10,000, {incident:?}");
        assert!(incident.deviation() > chance.deviation(), "{strategy}: {chance:?} {incident:?}");
    });
}

// -------------------------------------------------------------------------------------- alert rate

/// 30 days of one point a minute: as many alerts as promised, give or take chance.
#[test]
fn the_promised_alert_rate_holds_on_quiet_series_for_auto() {
    if !is_available("auto") {
        return;
    }
    let points = 30 * 1440;
    for (name, shape, seed) in [
        ("white", Shape::White, 1),
        ("ar(1)", Shape::Ar1 { phi: 0.6 }, 2),
        ("daily", Shape::Seasonal { weekly: false, trend: 0.2 }, 3),
        ("counts", Shape::Poisson { rate: 3.0 }, 4),
    ] {
        let all = series(shape, Times::Every(MINUTE), points + 10_080, seed);
        let detector = detector(DetectorConfig {
            alerts_per_day: 1.0,
            points_per_day: Some(1440.0),
            ..of_kind("auto", all.kind)
        });
        let (_, opened) = watch(&detector, &all.samples, 10_080);
        let alerts = opened.iter().filter(|o| **o).count() as f64;
        println!("auto, {name}: {alerts} alerts in 30 days at 1 a day");
        assert!(alerts <= poisson_limit(30.0), "{name}: {alerts} alerts in 30 days");
        // episodes take several points in autocorrelated noise, and counts are coarse
        let least = if name == "white" { 12.0 } else { 2.0 };
        assert!(alerts >= least, "{name}: only {alerts} alerts in 30 days");
    }
}

/// The same for all others, shorter.
#[test]
fn the_promised_alert_rate_is_not_exceeded_on_white_noise() {
    each(&others(&WITHOUT_RATE), |strategy| {
        let all = series(Shape::White, Times::Every(MINUTE), 7 * 1440, 5);
        let detector = detector(DetectorConfig {
            alerts_per_day: 6.0,
            points_per_day: Some(1440.0),
            ..defaults(strategy)
        });
        let (_, opened) = watch(&detector, &all.samples, 2 * 1440);
        let alerts = opened.iter().filter(|o| **o).count() as f64;
        println!("{strategy}: {alerts} alerts in 5 days at 6 a day");
        assert!(alerts <= poisson_limit(30.0), "{strategy}: {alerts} alerts instead of 30");
    });
}

// ------------------------------------------------------------------------------------------ monotone

/// In a series that is being watched, with its history, gaps and everything: the larger the spike or
/// drop that is put in, the larger the deviation of its point and of its alert.
#[test]
fn monotone_a_larger_injected_spike_or_drop_never_scores_lower() {
    every(|strategy| {
        for (i, (name, shape, times)) in SHAPES.iter().enumerate() {
            let quiet = series(*shape, *times, 460, 500 + i as u64);
            let detector = detector(of_kind(strategy, quiet.kind));
            let (history, rest) = quiet.split(400);
            let mut state = trained_on(&detector, history);
            watch_on(&detector, &mut state, &rest[..50]);
            let bytes = detector.encode_state(&state).unwrap();
            let own = detector.judge(&state, &rest[50].point());
            let centre = if own.expected.is_nan() { rest[50].value } else { own.expected };
            for side in [1.0, -1.0] {
                let (mut deviation, mut peak) = (0.0, 0.0);
                for size in [1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 30.0, 100.0, 1e3, 1e4, 1e6, 1e9] {
                    let mut state = detector.decode_state(&bytes).unwrap();
                    let value = centre + side * size * quiet.spread;
                    let outcome = detector.process(&mut state, None, &rest[50].with(value).point());
                    let context = format!("{strategy}, {name}: {value}, {:?}", outcome.verdict);
                    assert!(outcome.verdict.deviation() >= deviation * (1.0 - 1e-9), "{context}");
                    deviation = outcome.verdict.deviation();
                    if let Some(transition) = outcome.transition {
                        let now = transition.episode().peak.deviation;
                        assert!(now >= peak * (1.0 - 1e-9), "{context}: peak {now} after {peak}");
                        peak = now;
                    }
                }
            }
        }
    });
}

// ------------------------------------------------------------------------ what each strategy is for

/// Strategy, series, history, what is put in at sample `history + 300`, and within how many points it
/// must be told.
type Case = (&'static str, Shape, Times, usize, Anomaly, usize);

const DAILY: Shape = Shape::Seasonal { weekly: false, trend: 0.0 };
const MINUTELY: Times = Times::Every(MINUTE);

const CASES: &[Case] = &[
    ("zscore", Shape::White, MINUTELY, 1000, Anomaly::Spike(10.0), 1),
    ("zscore", Shape::White, MINUTELY, 1000, Anomaly::Spike(-10.0), 1),
    ("iqr", Shape::White, MINUTELY, 1000, Anomaly::Spike(10.0), 1),
    ("mad", Shape::T3, MINUTELY, 1000, Anomaly::Spike(40.0), 1),
    ("quantile", Shape::White, MINUTELY, 1000, Anomaly::Spike(-10.0), 1),
    ("esd", Shape::White, MINUTELY, 1000, Anomaly::Spike(10.0), 1),
    ("moving_average", Shape::White, MINUTELY, 1000, Anomaly::Spike(12.0), 1),
    ("ewma", Shape::White, MINUTELY, 1000, Anomaly::Spike(10.0), 1),
    ("ewma", Shape::RandomWalk, MINUTELY, 1000, Anomaly::Spike(30.0), 1),
    ("persist", Shape::RandomWalk, MINUTELY, 1000, Anomaly::Spike(10.0), 1),
    ("threshold", Shape::White, MINUTELY, 1000, Anomaly::Spike(1000.0), 1),
    ("cusum", Shape::White, MINUTELY, 1000, Anomaly::LevelShift(1.5), 100),
    ("cusum", Shape::White, MINUTELY, 1000, Anomaly::Drift(300, -3.0), 300),
    ("level_shift", Shape::White, MINUTELY, 1000, Anomaly::LevelShift(4.0), 100),
    ("level_shift", Shape::White, MINUTELY, 1000, Anomaly::LevelShift(-4.0), 100),
    ("volatility_shift", Shape::White, MINUTELY, 1000, Anomaly::Volatility(300, 5.0), 150),
    ("flat_line", Shape::White, MINUTELY, 1000, Anomaly::Flat(200), 100),
    ("changepoint", Shape::White, MINUTELY, 1000, Anomaly::LevelShift(6.0), 60),
    ("seasonal", DAILY, Times::Every(HOUR), 840, Anomaly::PhaseReversal(12), 12),
    ("seasonal", DAILY, Times::Every(15 * MINUTE), 2880, Anomaly::Spike(10.0), 1),
    ("seasonal", DAILY, Times::Missing(15 * MINUTE, 0.1), 2880, Anomaly::Spike(-10.0), 1),
    ("regression", DAILY, Times::Every(HOUR), 840, Anomaly::PhaseReversal(12), 12),
    ("regression", DAILY, Times::Every(15 * MINUTE), 2880, Anomaly::Spike(12.0), 1),
    ("holt_winters", DAILY, Times::Every(HOUR), 840, Anomaly::PhaseReversal(12), 12),
    ("matrix_profile", DAILY, Times::Every(15 * MINUTE), 2880, Anomaly::PhaseReversal(96), 96),
    ("random_cut_forest", Shape::White, MINUTELY, 1000, Anomaly::Spike(12.0), 1),
    ("isolation_forest", Shape::White, MINUTELY, 1000, Anomaly::Spike(12.0), 1),
    ("one_class_svm", Shape::White, MINUTELY, 1000, Anomaly::Spike(12.0), 1),
    ("autoencoder", Shape::White, MINUTELY, 1000, Anomaly::Spike(12.0), 1),
    ("autoencoder", DAILY, Times::Every(HOUR), 840, Anomaly::PhaseReversal(12), 12),
    ("lstm", Shape::White, MINUTELY, 1000, Anomaly::Spike(12.0), 1),
    ("lstm", DAILY, Times::Every(HOUR), 840, Anomaly::PhaseReversal(12), 12),
    ("novelty", DAILY, Times::Every(15 * MINUTE), 2880, Anomaly::PhaseReversal(48), 48),
    ("novelty", Shape::White, MINUTELY, 1000, Anomaly::Spike(12.0), 1),
    ("auto", Shape::White, MINUTELY, 1000, Anomaly::Spike(10.0), 1),
    ("auto", Shape::T3, MINUTELY, 1000, Anomaly::Spike(40.0), 1),
    ("auto", Shape::Ar1 { phi: 0.9 }, MINUTELY, 1000, Anomaly::Spike(10.0), 1),
    ("auto", DAILY, Times::Every(HOUR), 840, Anomaly::PhaseReversal(12), 12),
    ("auto", DAILY, Times::Every(15 * MINUTE), 2880, Anomaly::Spike(10.0), 1),
    ("auto", Shape::RandomWalk, MINUTELY, 1000, Anomaly::Spike(15.0), 1),
    ("auto", Shape::Poisson { rate: 20.0 }, MINUTELY, 1000, Anomaly::Spike(12.0), 1),
    ("auto", Shape::White, MINUTELY, 1000, Anomaly::LevelShift(8.0), 20),
    ("ensemble", Shape::White, MINUTELY, 1000, Anomaly::Spike(10.0), 1),
    ("ensemble", Shape::White, MINUTELY, 1000, Anomaly::Spike(-10.0), 1),
    ("ensemble", Shape::Poisson { rate: 20.0 }, MINUTELY, 1000, Anomaly::Spike(12.0), 1),
    ("adaptive", Shape::White, MINUTELY, 1000, Anomaly::Spike(10.0), 1),
];

#[test]
fn every_strategy_finds_what_it_is_for() {
    every(|strategy| {
        let own: Vec<_> = CASES.iter().filter(|c| c.0 == strategy).collect();
        assert!(!own.is_empty(), "say in CASES what {strategy} is for");
        own.into_iter().for_each(finds);
    });
}

fn finds(&(strategy, shape, times, history, anomaly, within): &Case) {
    let seeds = 6;
    let mut found = 0;
    for seed in 0..seeds {
        let mut all = series(shape, times, history + 300 + within, 600 + seed);
        let detector = with_alpha(of_kind(strategy, all.kind), 1e-3);
        all.inject(history + 300, anomaly);
        let (verdicts, _) = watch(&detector, &all.samples, history);
        found += u64::from(verdicts[300..].iter().any(|v| v.is_anomaly));
    }
    println!("{strategy} {shape:?} {anomaly:?}: {found} of {seeds}");
    assert!(found + 1 >= seeds, "{strategy} {shape:?} {anomaly:?}: {found} of {seeds}");
}
