//! Why a point is, or is not, an anomaly: what [`Detector::process`] decides of it, step by step.

use super::{Detector, EntityState};
use crate::gaps::Arrival;
use crate::guidance::Guidance;
use crate::strategy::Rule;
use crate::verdict::{Direction, Status, Verdict};

/// What was decided of one point, before it was learned.
#[derive(Debug, Clone, PartialEq)]
pub struct Examination {
    /// As `process` gives it, with the range of normal values.
    pub verdict: Verdict,
    /// Points that the entity's own baseline has, and how many it needs to judge by itself.
    pub points: u64,
    pub needed: u64,
    /// The own baseline has too few points, and the one of all entities has judged.
    pub by_shared: bool,
    /// The rule alone calls it an anomaly: what follows excuses it.
    pub unusual: bool,
    /// It is no further out than what people have called normal.
    pub accepted: bool,
    /// Everything is expected at this time.
    pub expected: bool,
    /// It lies on the side that does not count.
    pub wrong_side: bool,
    /// Its distance from the expected value, and the one from which on it matters.
    pub effect: f64,
    pub least_effect: f64,
    pub too_small: bool,
    /// Beyond which values a point at this time is an anomaly that counts; `None` where none is, and
    /// where other columns have a say as well.
    pub alerts_above: Option<f64>,
    pub alerts_below: Option<f64>,
}

impl Detector {
    /// What [`Detector::process_arrival`] would decide of it; changes nothing.
    pub fn examine(
        &self,
        state: &EntityState,
        shared: Option<&EntityState>,
        arrival: &Arrival,
    ) -> Examination {
        let point = match arrival {
            Arrival::Point(point) | Arrival::Filled(point) => point,
            Arrival::Missing { at } => return self.examine_missing(state, *at),
        };
        let warming = !self.is_warm(state);
        let shared = shared.filter(|s| warming && s.entities >= 2 && self.is_warm(s));
        let judge = shared.map_or(&state.model, |s| &s.model).as_ref();
        let rule = Rule { range: true, ..*self.rule_of(judge) };
        let by = |guidance: &Guidance| self.verdict_by(&rule, judge, guidance, point);

        let unusual = by(&Guidance::default()).is_anomaly;
        let accepting =
            Guidance { accepted: state.guidance.accepted.clone(), ..Guidance::default() };
        let mut verdict = by(&state.guidance);
        if warming && verdict.status == Status::Ok {
            verdict.status =
                Status::Warming { have: state.model.count(), need: self.config.min_data_points };
            verdict.is_anomaly &= shared.is_some();
        }
        let effect = (verdict.value - verdict.expected).abs();
        let least_effect = self.least_effect(&verdict);
        let wrong_side = self.config.direction.is_some_and(|side| side != verdict.direction);
        verdict.is_anomaly &= self.matters(&verdict);

        let judges = (!warming || shared.is_some()) && self.strategy.has_sides();
        let (mut alerts_above, mut alerts_below) = (None, None);
        if judges && self.config.features.is_empty() {
            let counts = |side| self.config.direction.is_none_or(|counts| counts == side);
            let (above, below) = (
                verdict.upper.max(verdict.expected + least_effect),
                verdict.lower.min(verdict.expected - least_effect),
            );
            let known = |bound: f64, x: f64| bound.is_finite() && x.is_finite();
            alerts_above =
                Some(above).filter(|x| known(verdict.upper, *x) && counts(Direction::High));
            alerts_below =
                Some(below).filter(|x| known(verdict.lower, *x) && counts(Direction::Low));
        }
        Examination {
            verdict,
            points: state.model.count(),
            needed: self.config.min_data_points,
            by_shared: shared.is_some(),
            unusual,
            accepted: unusual && !by(&accepting).is_anomaly,
            expected: state.guidance.expected.contain(point.at),
            wrong_side,
            effect,
            least_effect,
            too_small: effect < least_effect,
            alerts_above,
            alerts_below,
        }
    }

    fn examine_missing(&self, state: &EntityState, at: i64) -> Examination {
        Examination {
            verdict: self.missing(state, at),
            points: state.model.count(),
            needed: self.config.min_data_points,
            by_shared: false,
            unusual: true,
            accepted: false,
            expected: state.guidance.expected.contain(at),
            wrong_side: false,
            effect: f64::NAN,
            least_effect: 0.0,
            too_small: false,
            alerts_above: None,
            alerts_below: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DetectorConfig;
    use crate::guidance::Accepted;
    use crate::point::Point;

    fn detector(config: DetectorConfig) -> Detector {
        let config = DetectorConfig { min_data_points: 30, ..config };
        Detector::new(config).unwrap().with_ranges_of_anomalies_only()
    }

    /// Around 50, give or take 2.
    fn trained(detector: &Detector, entity: u64) -> EntityState {
        let mut state = detector.new_state();
        for i in 0..500i64 {
            let value = 50.0 + ((i * 7919 + entity as i64 * 31) % 101) as f64 / 25.0 - 2.0;
            detector.train(&mut state, &Point::new(i * 60_000_000, value));
        }
        state
    }

    const AT: i64 = 500 * 60_000_000;

    fn examined(detector: &Detector, state: &EntityState, value: f64) -> Examination {
        detector.examine(state, None, &Arrival::Point(Point::new(AT, value)))
    }

    /// NaN is equal to itself here.
    fn same(a: f64, b: f64) -> bool {
        a.to_bits() == b.to_bits()
    }

    #[test]
    fn it_is_what_process_decides() {
        for (strategy, entities) in
            [("zscore", 1), ("iqr", 1), ("mad", 500), ("ewma", 1), ("seasonal", 1), ("cusum", 1)]
        {
            for direction in [None, Some(Direction::High), Some(Direction::Low)] {
                let detector = detector(DetectorConfig {
                    strategy: strategy.into(),
                    entities,
                    direction: direction.filter(|_| strategy != "cusum"),
                    min_effect: if strategy == "cusum" { 0.0 } else { 4.0 },
                    ..DetectorConfig::default()
                });
                let mut state = trained(&detector, 1);
                state.guidance.accepted =
                    Accepted::of(Direction::Low, 20.0, 50.0, 9.0, 0).into_iter().collect();
                state.guidance.expected = [AT + 5..=AT + 9].into_iter().collect();
                let values = [50.0, 53.0, 99.0, 21.0, -99.0, 200.0, 51.0, f64::NAN, f64::INFINITY];
                for (i, value) in (0i64..).zip(values.into_iter().cycle().take(40)) {
                    let point = Point::new(AT + i, value);
                    let examined = detector.examine(&state, None, &Arrival::Point(point));
                    let verdict = detector.process(&mut state, None, &point).verdict;
                    assert_eq!(
                        examined.verdict.is_anomaly, verdict.is_anomaly,
                        "{strategy} {value}"
                    );
                    assert!(same(examined.verdict.expected, verdict.expected));
                    assert!(same(examined.verdict.ln_p(), verdict.ln_p()));
                    assert_eq!(examined.verdict.status, verdict.status);
                }
            }
        }
    }

    #[test]
    fn it_says_beyond_which_value_a_point_would_have_been_an_anomaly() {
        for min_effect in [0.0, 30.0] {
            let detector = detector(DetectorConfig { min_effect, ..DetectorConfig::default() });
            let state = trained(&detector, 1);
            let normal = examined(&detector, &state, 50.0);
            let (above, below) = (normal.alerts_above.unwrap(), normal.alerts_below.unwrap());
            assert!(below < 48.0 && above > 52.0 && above - below >= 2.0 * min_effect);
            let is_anomaly = |value| examined(&detector, &state, value).verdict.is_anomaly;
            assert!(is_anomaly(above + 1e-3) && !is_anomaly(above - 1e-3));
            assert!(is_anomaly(below - 1e-3) && !is_anomaly(below + 1e-3));
        }
        let detector = detector(DetectorConfig {
            direction: Some(Direction::High),
            ..DetectorConfig::default()
        });
        let low = examined(&detector, &trained(&detector, 1), 10.0);
        assert!(low.unusual && low.wrong_side && !low.verdict.is_anomaly);
        assert!(low.alerts_below.is_none() && low.alerts_above.is_some());
    }

    #[test]
    fn each_excuse_is_told_by_name() {
        let detector = detector(DetectorConfig { min_effect: 60.0, ..DetectorConfig::default() });
        let mut state = trained(&detector, 1);
        let small = examined(&detector, &state, 100.0);
        assert!(small.unusual && small.too_small && !small.verdict.is_anomaly);
        assert_eq!(small.least_effect, 60.0);
        assert!(examined(&detector, &state, 120.0).verdict.is_anomaly);
        state.guidance.accepted =
            Accepted::of(Direction::High, 120.0, 50.0, 9.0, 0).into_iter().collect();
        let accepted = examined(&detector, &state, 120.0);
        assert!(accepted.unusual && accepted.accepted && !accepted.expected);
        state.guidance = Guidance::default();
        state.guidance.expected = [AT..=AT].into_iter().collect();
        let expected = examined(&detector, &state, 120.0);
        assert!(expected.expected && !expected.accepted && !expected.verdict.is_anomaly);
    }

    #[test]
    fn a_new_entity_is_judged_by_all_or_not_at_all() {
        let detector = detector(DetectorConfig::default());
        let mut shared = trained(&detector, 1);
        let new = detector.new_state();
        let point = Arrival::Point(Point::new(AT, 500.0));
        shared.entities = 2;
        let judged = detector.examine(&new, Some(&shared), &point);
        assert!(judged.by_shared && judged.verdict.is_anomaly);
        assert_eq!((judged.points, judged.needed), (0, 30));
        shared.entities = 1;
        let warming = detector.examine(&new, Some(&shared), &point);
        assert!(!warming.by_shared && !warming.verdict.is_anomaly);
        assert_eq!((warming.alerts_above, warming.alerts_below), (None, None));
    }
}
