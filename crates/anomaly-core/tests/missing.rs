//! Missing buckets as anomalies, from the verdict to the episode.

mod common;

use anomaly_core::bucket::Bucket;
use anomaly_core::calendar::Calendar;
use anomaly_core::gaps::{Gaps, OnMissing};
use anomaly_core::{
    Detector, DetectorConfig, EntityState, Error, Outcome, Point, Severity, Status, Transition,
};
use common::config;

const MINUTE: i64 = 60_000_000;

struct Series {
    detector: Detector,
    gaps: Gaps,
    bucket: Bucket,
    state: EntityState,
}

impl Series {
    fn new(rule: OnMissing) -> Self {
        let config = DetectorConfig { clear_after: 2, ..config("mad") };
        let detector = Detector::new(config).unwrap();
        let bucket = Bucket::new(0, 0, MINUTE, Calendar::default()).unwrap();
        let gaps = Gaps::new(&bucket, rule).unwrap();
        let state = detector.new_state();
        Series { detector, gaps, bucket, state }
    }

    /// The value of a minute, and what came of it and of the gap before it.
    fn at(&mut self, minute: i64, value: f64) -> Vec<Outcome> {
        let index = self.bucket.index(minute * MINUTE);
        let point = Point::new(minute * MINUTE, value);
        let mut outcomes = Vec::new();
        self.gaps
            .arrive(&mut self.state, |s| &mut s.presence, index, &point, &mut |state, arrival| {
                outcomes.push(self.detector.process_arrival(state, None, &arrival));
                Ok::<(), Error>(())
            })
            .unwrap();
        outcomes
    }

    fn silent_until(&mut self, minute: i64) -> Vec<Outcome> {
        let end = self.bucket.index(minute * MINUTE);
        let mut outcomes = Vec::new();
        self.gaps
            .pass(&mut self.state, |s| &mut s.presence, end, &mut |state, arrival| {
                outcomes.push(self.detector.process_arrival(state, None, &arrival));
                Ok::<(), Error>(())
            })
            .unwrap();
        outcomes
    }

    fn warm(rule: OnMissing) -> Self {
        let mut series = Series::new(rule);
        for minute in 0..200 {
            let outcomes = series.at(minute, 50.0 + (minute % 7) as f64);
            assert!(outcomes.len() == 1 && !outcomes[0].verdict.is_anomaly);
        }
        series
    }
}

#[test]
fn a_silence_is_one_episode_that_grows() {
    let mut series = Series::warm(OnMissing::Anomaly);
    let outcomes = series.silent_until(230);
    assert_eq!(outcomes.len(), 30);
    assert!(matches!(outcomes[0].transition, Some(Transition::Opened(_))));
    let mut before = 0.0;
    for (i, outcome) in outcomes.iter().enumerate() {
        let verdict = &outcome.verdict;
        assert!(verdict.is_anomaly && verdict.value.is_nan());
        assert_eq!(verdict.status, Status::Missing);
        assert_eq!((verdict.at, verdict.statistic), ((200 + i as i64) * MINUTE, i as f64 + 1.0));
        assert!(verdict.deviation() > before && verdict.expected > 0.0);
        before = verdict.deviation();
        if i > 0 {
            assert!(
                matches!(
                    outcome.transition,
                    Some(Transition::Updated(_) | Transition::Escalated(_))
                ),
                "{i}"
            );
            let metadata = outcome.metadata.as_ref().unwrap();
            assert_eq!(metadata["missing_in_a_row"], i as u64 + 1);
        }
    }
    assert_eq!(outcomes[0].verdict.severity(), Severity::Warning);
    assert!(outcomes[29].verdict.severity() >= Severity::Critical);
    let text = series.detector.description(&outcomes[2].verdict);
    assert!(text.starts_with("value is missing (3 in a row, p = "), "{text}");

    // Stored in the middle of it, and read again.
    let bytes = series.detector.encode_state(&series.state).unwrap();
    series.state = series.detector.decode_state(&bytes).unwrap();
    assert_eq!(series.detector.encode_state(&series.state).unwrap(), bytes);
    for cut in 0..bytes.len() {
        assert!(series.detector.decode_state(&bytes[..cut]).is_err());
    }

    assert_eq!(series.at(230, 53.0)[0].transition, None);
    let Some(Transition::Resolved(ended)) = series.at(231, 53.0)[0].transition else {
        panic!("not resolved after clear_after points");
    };
    assert_eq!((ended.started_at, ended.points), (200 * MINUTE, 30));
    // The silence taught the baseline nothing.
    assert!(!series.at(232, 55.0)[0].verdict.is_anomaly);
    assert!(series.at(233, 500.0)[0].verdict.is_anomaly);
}

#[test]
fn a_young_series_has_no_missing_anomalies() {
    let mut series = Series::new(OnMissing::Anomaly);
    series.at(0, 1.0);
    for outcome in series.silent_until(20) {
        assert!(!outcome.verdict.is_anomaly && outcome.transition.is_none());
        assert_eq!(outcome.verdict.status, Status::Missing);
    }
}

#[test]
fn zeros_for_missing_values_are_judged_like_zeros() {
    let mut series = Series::warm(OnMissing::Zero);
    let outcomes = series.silent_until(203);
    assert_eq!(outcomes.len(), 3);
    for outcome in &outcomes {
        assert_eq!(outcome.verdict.value, 0.0);
        assert!(outcome.verdict.is_anomaly && outcome.verdict.status == Status::Ok);
    }
    assert!(Series::warm(OnMissing::Interpolate).silent_until(300).is_empty());
}
