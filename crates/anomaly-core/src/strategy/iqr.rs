//! `statistical_iqr`: distance past the quartiles in interquartile ranges.

use serde_json::{Map, Value};

use super::location_scale::{Baseline, Fit, LocationScale, finite};
use super::quantiles::{Derived, Spread, capacity_param};
use super::{Context, EntityModel, Kind, Strategy, json_number};
use crate::Result;
use crate::codec::Reader;
use crate::point::Point;
use crate::sketch::Sketch;
use crate::verdict::Verdict;

/// The interquartile range that the strategy's own rule takes for a constant middle.
const CONSTANT_IQR: f64 = 1e-6;
/// Third quartile of the standard normal distribution.
const NORMAL_Q3: f64 = 0.674_489_750_196_081_7;

/// Bounds q1 − t·IQR and q3 + t·IQR; outside them is an anomaly.
pub struct Iqr {
    empty: Sketch,
    kind: Kind,
}

impl Iqr {
    /// Parameter `sketch_capacity`, see the documentation of the strategy.
    pub fn new(params: &Map<String, Value>, context: &Context) -> Result<Self> {
        let capacity = capacity_param("statistical_iqr", params)?;
        Ok(Iqr { empty: Sketch::new(capacity)?, kind: context.kind })
    }
}

impl Strategy for Iqr {
    fn name(&self) -> &'static str {
        "statistical_iqr"
    }

    fn short_name(&self) -> &'static str {
        "iqr"
    }

    fn statistic_name(&self) -> &'static str {
        "IQR distance"
    }

    fn algorithm(&self) -> u16 {
        2
    }

    fn new_state(&self) -> Box<dyn EntityModel> {
        Box::new(LocationScale::new(Quartiles(Derived::new(self.empty.clone()))).of_kind(self.kind))
    }

    fn decode_state(&self, reader: &mut Reader<'_>) -> Result<Box<dyn EntityModel>> {
        Ok(Box::new(LocationScale::decode(reader, |r| Derived::decode(r).map(Quartiles))?))
    }
}

struct Quartiles(Derived);

fn iqr(spread: &Spread) -> f64 {
    finite(spread.q3 - spread.q1)
}

fn iqr_of_rule(spread: &Spread) -> f64 {
    let iqr = iqr(spread);
    if iqr > 0.0 { iqr } else { CONSTANT_IQR }
}

fn fit(spread: Spread) -> Fit {
    let whole = iqr(&spread) / (2.0 * NORMAL_Q3);
    let side = |half: f64| {
        if whole > 0.0 {
            // each side by its own half, so that skewed data keep their long side; a half of almost
            // nothing says little about that side
            (half / NORMAL_Q3).max(whole / 4.0).min(f64::MAX)
        } else {
            spread.wide
        }
    };
    let n = spread.count as f64;
    let centre_error = (1.0 + 1.57 / n).sqrt();
    Fit {
        centre: spread.median,
        below: finite(side(spread.median - spread.q1) * centre_error),
        above: finite(side(spread.q3 - spread.median) * centre_error),
    }
}

impl Baseline for Quartiles {
    /// The estimated distance from median to quartile varies as if it came from a standard deviation of
    /// this share of the points: 1 / (2·3.2), from the asymptotic variance of sample quantiles of normal
    /// noise (3.2/n relative).
    const EFFICIENCY: f64 = 0.156;

    fn count(&self) -> u64 {
        self.0.count()
    }

    fn push(&mut self, point: &Point) {
        self.0.push(point.value);
    }

    fn refresh(&mut self) {
        self.0.refresh();
    }

    fn fit(&self, _point: &Point) -> Option<Fit> {
        self.0.current().map(fit)
    }

    fn fit_for_learning(&self, _point: &Point) -> Option<Fit> {
        self.0.lagging().map(fit)
    }

    /// Signed distance past the nearer quartile in interquartile ranges, 0 between the quartiles.
    fn statistic(&self, point: &Point, _fit: &Fit) -> f64 {
        let x = point.value;
        let Some(s) = self.0.current() else { return 0.0 };
        let past = if x > s.q3 {
            x - s.q3
        } else if x < s.q1 {
            x - s.q1
        } else {
            0.0
        };
        finite(past / iqr_of_rule(&s))
    }

    fn bounds(&self, _point: &Point, _fit: &Fit, threshold: f64) -> (f64, f64) {
        let Some(s) = self.0.current() else { return (f64::NAN, f64::NAN) };
        let reach = threshold * iqr_of_rule(&s);
        (finite(s.q1 - reach), finite(s.q3 + reach))
    }

    fn metadata(&self, verdict: &Verdict, map: &mut Map<String, Value>) {
        let Some(s) = self.0.current() else { return };
        map.insert("q1".into(), json_number(s.q1));
        map.insert("q3".into(), json_number(s.q3));
        map.insert("iqr".into(), json_number(iqr(&s)));
        map.insert("median".into(), json_number(s.median));
        // how far past the violated bound, and how far past the quartile
        let past = (verdict.value - verdict.upper).max(verdict.lower - verdict.value).max(0.0);
        map.insert("iqr_distance".into(), json_number(finite(past / iqr_of_rule(&s))));
        map.insert("quartile_distance".into(), json_number(verdict.statistic));
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        self.0.encode(out)
    }
}
