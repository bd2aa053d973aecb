//! `statistical_mad`: distance from the median in median absolute deviations.

use serde_json::{Map, Value};

use super::location_scale::{Baseline, Fit, LocationScale, finite};
use super::quantiles::{Derived, Spread, capacity_param};
use super::{Context, EntityModel, Kind, Strategy, json_number};
use crate::Result;
use crate::codec::Reader;
use crate::point::Point;
use crate::sketch::Sketch;
use crate::verdict::Verdict;

/// Median absolute deviation of the standard normal distribution: the factor of the modified
/// z-score (Iglewicz and Hoaglin 1993).
const FACTOR: f64 = 0.6745;
/// The same to full precision, where a standard deviation is meant.
const NORMAL_MAD: f64 = 0.674_489_750_196_081_7;
/// The standard deviation that the strategy's own rule takes for a constant series.
const CONSTANT_SD: f64 = 1e-6;

/// 0.6745·(x − median) / MAD; the rule is |modified z| > threshold.
pub struct Mad {
    empty: Sketch,
    kind: Kind,
}

impl Mad {
    /// Parameter `sketch_capacity`, see the documentation of the strategy.
    pub fn new(params: &Map<String, Value>, context: &Context) -> Result<Self> {
        let capacity = capacity_param("statistical_mad", params)?;
        Ok(Mad { empty: Sketch::new(capacity)?, kind: context.kind })
    }
}

impl Strategy for Mad {
    fn name(&self) -> &'static str {
        "statistical_mad"
    }

    fn short_name(&self) -> &'static str {
        "mad"
    }

    fn statistic_name(&self) -> &'static str {
        "modified z-score"
    }

    fn algorithm(&self) -> u16 {
        3
    }

    fn new_state(&self) -> Box<dyn EntityModel> {
        Box::new(LocationScale::new(Median(Derived::new(self.empty.clone()))).of_kind(self.kind))
    }

    fn decode_state(&self, reader: &mut Reader<'_>) -> Result<Box<dyn EntityModel>> {
        Ok(Box::new(LocationScale::decode(reader, |r| Derived::decode(r).map(Median))?))
    }
}

struct Median(Derived);

fn fit(spread: Spread) -> Fit {
    let n = spread.count as f64;
    let sd = if spread.mad > 0.0 { spread.mad / NORMAL_MAD } else { spread.wide };
    let spread_with_error = finite(sd * (1.0 + 1.57 / n).sqrt());
    Fit { centre: spread.median, below: spread_with_error, above: spread_with_error }
}

/// What a modified z of 1 is in the metric's unit.
fn unit_of_rule(spread: &Spread) -> f64 {
    if spread.mad > 0.0 {
        finite(spread.mad / FACTOR)
    } else if spread.wide > 0.0 {
        spread.wide
    } else {
        CONSTANT_SD
    }
}

impl Baseline for Median {
    /// Efficiency of the MAD as an estimate of the standard deviation of normal noise
    /// (Rousseeuw and Croux 1993: 37 %).
    const EFFICIENCY: f64 = 0.37;

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

    fn statistic(&self, point: &Point, _fit: &Fit) -> f64 {
        let x = point.value;
        let Some(s) = self.0.current() else { return 0.0 };
        finite((x - s.median) / unit_of_rule(&s))
    }

    fn bounds(&self, _point: &Point, _fit: &Fit, threshold: f64) -> (f64, f64) {
        let Some(s) = self.0.current() else { return (f64::NAN, f64::NAN) };
        let reach = threshold * unit_of_rule(&s);
        (finite(s.median - reach), finite(s.median + reach))
    }

    fn metadata(&self, verdict: &Verdict, map: &mut Map<String, Value>) {
        let Some(s) = self.0.current() else { return };
        map.insert("modified_z".into(), json_number(verdict.statistic));
        map.insert("median".into(), json_number(s.median));
        map.insert("mad".into(), json_number(s.mad));
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        self.0.encode(out)
    }
}
