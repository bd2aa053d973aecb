//! Moving average and regression, row by row of the feature list, against figures computed here.

mod common;

use anomaly_core::{Detector, DetectorConfig, Error, Point, Verdict};
use common::Rng;
use common::available::{defaults, detector, is_available, trained_on};
use common::series::{DAY, HOUR, MINUTE, MONDAY, Sample, Shape, Times, series};
use serde_json::{Value, json};

fn with_params(strategy: &str, params: Value) -> DetectorConfig {
    DetectorConfig { params, ..defaults(strategy) }
}

fn close(a: f64, b: f64) {
    assert!((a - b).abs() <= 1e-9 * b.abs().max(1.0), "{a} is not {b}");
}

// ----------------------------------------------------------------------------------- moving average

/// Mean and standard deviation of the last `n`, as pandas' `rolling(n).mean()` and `.std()`.
fn moments(values: &[f64], n: usize) -> (f64, f64) {
    let last = &values[values.len() - n..];
    let mean = last.iter().sum::<f64>() / n as f64;
    (mean, (last.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1) as f64).sqrt())
}

fn metadata(detector: &Detector, samples: &[Sample], v: &Verdict) -> Value {
    Value::Object(trained_on(detector, samples).model.metadata(v, detector.rule()))
}

#[test]
fn check_c16_the_largest_z_of_three_windows_is_reported() {
    if !is_available("moving_average") {
        return;
    }
    let all = series(Shape::RandomWalk, Times::Every(HOUR), 400, 1);
    let values: Vec<f64> = all.samples.iter().map(|s| s.value).collect();
    for (params, w) in [
        (json!({}), 24usize),
        (json!({"window": 24}), 24),
        (json!({"window": 100}), 100),
        (json!({"window": 8}), 8),
    ] {
        let windows = [(w / 4).max(3), (w / 2).max(5), w];
        let config = with_params("moving_average", params.clone());
        let detector = detector(DetectorConfig { threshold: Some(2.5), ..config });
        let state = trained_on(&detector, &all.samples);
        for distance in [-40.0, -9.0, -2.5, -0.5, 0.5, 2.5, 5.0, 9.0, 40.0] {
            let x = values[399] + distance;
            let v = detector.judge(&state, &Point::new(MONDAY + 400 * HOUR, x));
            let z = windows.map(|n| {
                let (mean, std) = moments(&values, n);
                (x - mean) / std
            });
            let (mut largest, mut which) = (0.0f64, 0);
            for (z, n) in z.into_iter().zip(windows) {
                if z.abs() > largest.abs() {
                    (largest, which) = (z, n);
                }
            }
            assert!(
                (v.statistic.abs() / largest.abs() - 1.0).abs() < 1e-9,
                "{params}, {distance} from the last: {z:?} of {windows:?}, but {v:?}"
            );
            assert_eq!(v.is_anomaly, largest.abs() > 2.5, "{params}: {v:?}");
            let told = metadata(&detector, &all.samples, &v);
            assert_eq!(told["window"], json!(which), "{told}");
            let firing: Vec<(u64, f64)> = told["windows"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|w| (w["window"].as_u64().unwrap(), w["z_score"].as_f64().unwrap()))
                .collect();
            let expected: Vec<_> =
                z.into_iter().zip(windows).filter(|(z, _)| z.abs() > 2.5).collect();
            assert_eq!(firing.len(), expected.len(), "{params} {distance}: {told}");
            for ((n, z), (expected_z, expected_n)) in firing.into_iter().zip(expected) {
                assert_eq!(n as usize, expected_n, "{told}");
                close(z.abs(), expected_z.abs());
            }
        }
    }
    for bad in
        [json!({"window": 0}), json!({"window": -3}), json!({"window": "24"}), json!({"w": 24})]
    {
        let made = Detector::new(with_params("moving_average", bad.clone())).err();
        assert!(matches!(made, Some(Error::InvalidParameter { .. })), "{bad}: {made:?}");
    }
}

/// The original compared every later point with the last row of its training.
#[test]
fn check_c16_defect_s12_the_windows_follow_new_points() {
    if !is_available("moving_average") {
        return;
    }
    let quiet = detector(DetectorConfig { threshold: Some(6.0), ..defaults("moving_average") });
    let all = series(Shape::RandomWalk, Times::Every(HOUR), 1200, 2);
    let mut state = trained_on(&quiet, &all.samples[..300]);
    let rest = &all.samples[300..];
    let flagged = rest
        .iter()
        .filter(|s| quiet.process(&mut state, None, &s.point()).verdict.is_anomaly)
        .count();
    assert!(flagged * 20 < rest.len(), "{flagged} of {} points of a random walk", rest.len());
    // far from where it was trained, near where it is now
    let values: Vec<f64> = all.samples.iter().map(|s| s.value).collect();
    let v = quiet.judge(&state, &Point::new(MONDAY + 1200 * HOUR, values[1199]));
    let (low, high) = values[1176..]
        .iter()
        .fold((f64::MAX, f64::MIN), |(low, high), x| (low.min(*x), high.max(*x)));
    assert!(low <= v.expected && v.expected <= high, "{v:?} after {low} to {high}");
}

#[test]
fn check_c16_defect_s12_any_time_zone_and_any_order() {
    if !is_available("moving_average") {
        return;
    }
    let all = series(Shape::RandomWalk, Times::Every(HOUR), 300, 3);
    let mut unsorted = all.samples.clone();
    let mut rng = Rng(4);
    // neighbours change places, and the latest day comes before the day before it
    for i in 1..unsorted.len() {
        if rng.uniform() < 0.5 {
            unsorted.swap(i - 1, i);
        }
    }
    let mut verdicts = Vec::new();
    for zone in ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu"] {
        for samples in [&all.samples, &unsorted] {
            let config = DetectorConfig { time_zone: zone.into(), ..defaults("moving_average") };
            let detector = detector(DetectorConfig { threshold: Some(3.0), ..config });
            let state = trained_on(&detector, samples);
            for distance in [-30.0, 0.1, 30.0] {
                let value = all.samples[299].value + distance;
                let v = detector.judge(&state, &Point::new(MONDAY + 300 * HOUR, value));
                assert_eq!(v.is_anomaly, distance.abs() > 1.0, "{zone}: {v:?}");
                verdicts.push((distance.to_bits(), v.statistic));
            }
        }
    }
    for (distance, z) in &verdicts {
        let first = verdicts.iter().find(|(d, _)| d == distance).unwrap().1;
        close(*z, first);
    }
}

// --------------------------------------------------------------------------------------- regression

/// Hourly points of `course` with noise of 1, from Monday 2024-01-08 on.
fn hourly(n: usize, seed: u64, course: impl Fn(i64) -> f64) -> Vec<Sample> {
    let mut rng = Rng(seed);
    let mut samples = series(Shape::White, Times::Every(HOUR), n, seed).samples;
    for s in &mut samples {
        s.centre = course(s.at);
        s.value = s.centre + rng.normal();
    }
    samples
}

fn days(at: i64) -> f64 {
    (at - MONDAY) as f64 / DAY as f64
}

fn expected(params: Value, zone: &str, samples: &[Sample], at: i64) -> f64 {
    let config = with_params("regression", params);
    let detector = detector(DetectorConfig { time_zone: zone.into(), ..config });
    detector.judge(&trained_on(&detector, samples), &Point::new(at, 0.0)).expected
}

/// With everything else off, so that only one term can explain the course.
fn only(term: &str) -> Value {
    let mut params = json!({"include_trend": false, "include_seasonal": false, "include_hour": false, "include_weekday": false});
    if !term.is_empty() {
        params[term] = json!(true);
    }
    params
}

#[test]
fn check_c17_trend_on_and_off() {
    if !is_available("regression") {
        return;
    }
    let samples = hourly(600, 1, |at| 50.0 + 4.0 * days(at));
    for ahead in [1, 24, 240] {
        let at = MONDAY + (599 + ahead) * HOUR;
        let truth = 50.0 + 4.0 * days(at);
        let with = expected(only("include_trend"), "UTC", &samples, at);
        assert!((with - truth).abs() < 1.0, "{with} for {truth}, {ahead} hours ahead");
        let all = expected(json!({}), "UTC", &samples, at);
        assert!((all - truth).abs() < 2.0, "{all} for {truth}, {ahead} hours ahead");
        let without = expected(only(""), "UTC", &samples, at);
        assert!((without - truth).abs() > 8.0, "{without} for {truth} without a trend");
    }
    // the line through the points, by ordinary least squares (the errors are normal)
    let n = samples.len() as f64;
    let (mx, my) =
        samples.iter().fold((0.0, 0.0), |(x, y), s| (x + days(s.at) / n, y + s.value / n));
    let sxy: f64 = samples.iter().map(|s| (days(s.at) - mx) * (s.value - my)).sum();
    let sxx: f64 = samples.iter().map(|s| (days(s.at) - mx).powi(2)).sum();
    let at = MONDAY + 600 * HOUR;
    let line = my + sxy / sxx * (days(at) - mx);
    let with = expected(only("include_trend"), "UTC", &samples, at);
    assert!((with - line).abs() < 0.1, "{with}, by least squares {line}");
}

#[test]
fn check_c17_season_of_24_and_its_half_on_and_off() {
    if !is_available("regression") {
        return;
    }
    let angle = |at: i64| std::f64::consts::TAU * days(at);
    type Course = fn(f64) -> f64;
    let courses: [(&str, Course); 2] =
        [("24 hours", |a| 20.0 * libm::sin(a)), ("12 hours", |a| 20.0 * libm::cos(2.0 * a))];
    for (name, course) in courses {
        let samples = hourly(500, 2, |at| 100.0 + course(angle(at)));
        for ahead in [1, 7, 13, 19, 240] {
            let at = MONDAY + (499 + ahead) * HOUR;
            let truth = 100.0 + course(angle(at));
            let with = expected(only("include_seasonal"), "UTC", &samples, at);
            assert!((with - truth).abs() < 1.0, "{name}: {with} for {truth}, {ahead} hours ahead");
        }
        let at = MONDAY + 504 * HOUR + 6 * HOUR;
        let without = expected(only(""), "UTC", &samples, at);
        assert!((without - 100.0).abs() < 2.0, "{name}: {without} without a season");
    }
    // another period, in sampling intervals: 36 points of 20 minutes are 12 hours
    let mut samples = hourly(700, 3, |_| 0.0);
    for (i, s) in samples.iter_mut().enumerate() {
        s.at = MONDAY + i as i64 * 20 * MINUTE;
        s.value += 20.0 * libm::sin(std::f64::consts::TAU * i as f64 / 36.0);
    }
    let mut params = only("include_seasonal");
    params["seasonality"] = json!(36);
    let peak = MONDAY + (720 + 9) * 20 * MINUTE;
    let with = expected(params, "UTC", &samples, peak);
    assert!((with - 20.0).abs() < 1.0, "{with} for 20");
}

/// A job at 9 o'clock by the wall, also after the clocks have changed on 31 March.
#[test]
fn check_c17_the_hour_of_the_day_is_local() {
    if !is_available("regression") {
        return;
    }
    // In winter Berlin is one hour ahead of UTC, in summer two.
    let change = (8_856 - 8_773) * DAY + MONDAY + HOUR;
    let hour = |at: i64| ((at - MONDAY) / HOUR + if at < change { 1 } else { 2 }).rem_euclid(24);
    let job = |at: i64| if hour(at) == 9 { 60.0 } else { 20.0 };
    let mut samples = hourly(30 * 24, 4, |_| 0.0);
    for s in &mut samples {
        s.at += (change - MONDAY) / DAY * DAY - 33 * DAY;
        s.value += job(s.at);
    }
    let last = samples.last().unwrap().at;
    for ahead in (1..=24).chain(240..264) {
        let at = last + ahead * HOUR;
        let with = expected(only("include_hour"), "Europe/Berlin", &samples, at);
        assert!((with - job(at)).abs() < 2.0, "{with} for {}, {ahead} hours ahead", job(at));
        let without = expected(only(""), "Europe/Berlin", &samples, at);
        assert!((15.0..40.0).contains(&without), "{without} without hours");
    }
}

#[test]
fn check_c17_the_weekday_on_and_off() {
    if !is_available("regression") {
        return;
    }
    let level = |at: i64| if days(at).rem_euclid(7.0) >= 5.0 { 40.0 } else { 100.0 };
    let samples = hourly(5 * 168, 5, level);
    for ahead in [1, 3, 5, 6, 7] {
        let at = MONDAY + 5 * 7 * DAY + (ahead - 1) * DAY + 12 * HOUR;
        let with = expected(only("include_weekday"), "UTC", &samples, at);
        assert!((with - level(at)).abs() < 2.0, "{with} for {}, day {ahead}", level(at));
    }
    // who knows nothing of weekdays takes the weekend for the latest level
    let without = expected(only(""), "UTC", &samples, MONDAY + 5 * 7 * DAY + 12 * HOUR);
    assert!((without - 100.0).abs() > 20.0, "{without} without weekdays");
}

/// Outliers and a tenth of missing rows do not turn the forecast.
#[test]
fn check_c17_the_fit_is_robust() {
    if !is_available("regression") {
        return;
    }
    let course = |at: i64| 100.0 + 20.0 * libm::sin(std::f64::consts::TAU * days(at)) + days(at);
    let mut samples = hourly(800, 6, course);
    let mut rng = Rng(7);
    for s in &mut samples {
        if rng.uniform() < 0.03 {
            s.value += 500.0;
        }
    }
    samples.retain(|_| rng.uniform() > 0.1);
    for ahead in [1, 7, 13, 19, 240] {
        let at = MONDAY + (799 + ahead) * HOUR;
        let with = expected(json!({}), "UTC", &samples, at);
        assert!((with - course(at)).abs() < 4.0, "{with} for {}, {ahead} hours ahead", course(at));
    }
}

#[test]
fn check_c17_bad_parameters_are_refused() {
    if !is_available("regression") {
        return;
    }
    for bad in [
        json!({"seasonality": 0}),
        json!({"seasonality": -24}),
        json!({"include_trend": "yes"}),
        json!({"window": 0}),
        json!({"harmonics": 1e9}),
        json!({"period_seconds": -1}),
        json!({"trend": true}),
        json!([]),
    ] {
        let made = Detector::new(with_params("regression", bad.clone())).err();
        assert!(matches!(made, Some(Error::InvalidParameter { .. })), "{bad}: {made:?}");
    }
}
