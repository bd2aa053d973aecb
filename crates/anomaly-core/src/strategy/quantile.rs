//! `statistical_quantile`: beyond quantiles of the history.
//!
//! A value counts by how far past the median it lies, in units of the distance from the median to the
//! lower or upper quantile: 1 is at the quantile. Each side has its own, so that skewed data keep
//! their long side. Quantiles come from the sketch (exact up to its capacity), renewed with every 3 %
//! of growth.
//!
//! Good at skewed metrics whose usual range somebody knows as "the 1st to the 99th percentile". Bad
//! at trends and seasons. A state of 1.8 kB.
//!
//! Parameters: `lower` (0.001 to 0.45, default 0.05), `upper` (0.55 to 0.999, default 0.95),
//! `sketch_capacity` (128 to 4096, default 160): for quantiles further out than 1 in 50 take more.

use serde_json::{Map, Value};

use super::location_scale::{Baseline, Fit, LocationScale, finite};
use super::quantiles::{CAPACITIES, DEFAULT_CAPACITY};
use super::{
    Context, EntityModel, Kind, Strategy, check_keys, integer_param, json_number, number_param,
};
use crate::Result;
use crate::codec::Reader;
use crate::distribution::deviation_from_ln_p;
use crate::point::Point;
use crate::sketch::Sketch;
use crate::verdict::Verdict;

/// (x − median) / (quantile − median) by side; the rule is |that| > threshold, so that threshold 1 is
/// outside the quantiles.
///
/// The sketch: Karnin, Lang and Liberty, Optimal quantile approximation in streams, FOCS 2016.
pub struct Quantile {
    levels: Levels,
    kind: Kind,
    empty: Sketch,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Levels {
    lower: f64,
    upper: f64,
    /// |normal quantile| of the levels.
    z_lower: f64,
    z_upper: f64,
}

/// |z| of the standard normal distribution with the share `p` < ½ beyond it.
fn normal_quantile(p: f64) -> f64 {
    deviation_from_ln_p(libm::log(2.0 * p))
}

impl Quantile {
    /// Parameters `lower`, `upper` and `sketch_capacity`, see the documentation of the strategy.
    pub fn new(params: &Map<String, Value>, context: &Context) -> Result<Self> {
        check_keys("statistical_quantile", params, &["lower", "upper", "sketch_capacity"])?;
        let lower = number_param(params, "lower", 0.001..=0.45)?.unwrap_or(0.05);
        let upper = number_param(params, "upper", 0.55..=0.999)?.unwrap_or(0.95);
        let capacity = integer_param(params, "sketch_capacity", DEFAULT_CAPACITY, CAPACITIES)?;
        let levels = Levels {
            lower,
            upper,
            z_lower: normal_quantile(lower),
            z_upper: normal_quantile(1.0 - upper),
        };
        Ok(Quantile { levels, kind: context.kind, empty: Sketch::new(capacity as usize)? })
    }
}

impl Strategy for Quantile {
    fn name(&self) -> &'static str {
        "statistical_quantile"
    }

    fn short_name(&self) -> &'static str {
        "quantile"
    }

    fn statistic_name(&self) -> &'static str {
        "distance in quantile ranges"
    }

    fn algorithm(&self) -> u16 {
        9
    }

    fn new_state(&self) -> Box<dyn EntityModel> {
        let history =
            History { levels: self.levels, count: 0, known: None, sketch: self.empty.clone() };
        Box::new(LocationScale::new(history).of_kind(self.kind))
    }

    fn decode_state(&self, reader: &mut Reader<'_>) -> Result<Box<dyn EntityModel>> {
        Ok(Box::new(LocationScale::decode(reader, |r| History::decode(r, self.levels))?))
    }
}

/// The quantiles as of the last refresh.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Known {
    count: u64,
    lower: f64,
    median: f64,
    upper: f64,
}

struct History {
    levels: Levels,
    count: u64,
    known: Option<Known>,
    sketch: Sketch,
}

impl History {
    fn decode(reader: &mut Reader<'_>, levels: Levels) -> Result<Self> {
        let count = reader.u64()?;
        let known = Known {
            count,
            lower: reader.finite("lower quantile")?,
            median: reader.finite("median")?,
            upper: reader.finite("upper quantile")?,
        };
        let sketch = Sketch::decode(reader.rest())?;
        let view = sketch.view()?;
        let seen = view.num_vals();
        if count > seen || (count == 0) != (seen == 0) {
            return Err(reader.corrupted("counts contradict each other"));
        }
        if !CAPACITIES.contains(&(view.capacity() as u64)) {
            return Err(reader.corrupted("capacity out of range"));
        }
        if !(known.lower <= known.median && known.median <= known.upper) {
            return Err(reader.corrupted("quantiles out of order"));
        }
        Ok(History { levels, count: seen, known: (count > 0).then_some(known), sketch })
    }
}

impl Baseline for History {
    /// Unused: see `dof`.
    const EFFICIENCY: f64 = 1.0;

    /// Asymptotic variance of a sample quantile of normal noise, p(1 − p) / (n f²), against its
    /// distance z from the middle: a relative variance of 1 / (2·dof).
    fn dof(&self, count: u64) -> f64 {
        let share = |p: f64, z: f64| {
            let density = libm::exp(-0.5 * z * z) * 0.398_942_280_401_432_7;
            z * z * density * density / (2.0 * p * (1.0 - p))
        };
        let Levels { lower, upper, z_lower, z_upper } = self.levels;
        share(lower, z_lower).min(share(upper, z_upper)) * count.saturating_sub(1) as f64
    }

    fn count(&self) -> u64 {
        self.count
    }

    fn push(&mut self, point: &Point) {
        // Fails past 2^40 times the capacity; such a history no longer moves anyway.
        if self.sketch.push(point.value + 0.0).is_ok() {
            self.count += 1;
        }
    }

    fn refresh(&mut self) {
        let quantiles = self
            .sketch
            .view()
            .and_then(|v| v.quantiles([self.levels.lower, 0.5, self.levels.upper]));
        if let Ok(Some([lower, median, upper])) = quantiles {
            self.known = Some(Known { count: self.count, lower, median, upper });
        }
    }

    fn fit(&self, _point: &Point) -> Option<Fit> {
        let k = self.known?;
        let error = (1.0 + 1.57 / k.count as f64).sqrt();
        Some(Fit {
            centre: k.median,
            below: finite((k.median - k.lower) / self.levels.z_lower * error),
            above: finite((k.upper - k.median) / self.levels.z_upper * error),
        })
    }

    fn statistic(&self, point: &Point, _fit: &Fit) -> f64 {
        let Some(k) = self.known else { return 0.0 };
        let d = finite(point.value - k.median);
        let range = finite(if d < 0.0 { k.median - k.lower } else { k.upper - k.median });
        // A constant history has no range: any other value is beyond every multiple of it.
        if d == 0.0 { 0.0 } else { finite(finite(d) / finite(range)) }
    }

    fn bounds(&self, _point: &Point, _fit: &Fit, threshold: f64) -> (f64, f64) {
        let Some(k) = self.known else { return (f64::NAN, f64::NAN) };
        let below = finite(threshold * finite(k.median - k.lower));
        let above = finite(threshold * finite(k.upper - k.median));
        (finite(k.median - below), finite(k.median + above))
    }

    fn metadata(&self, verdict: &Verdict, map: &mut Map<String, Value>) {
        let Some(k) = self.known else { return };
        map.insert("quantile_distance".into(), json_number(verdict.statistic));
        map.insert("lower_quantile".into(), json_number(k.lower));
        map.insert("upper_quantile".into(), json_number(k.upper));
        map.insert("median".into(), json_number(k.median));
        map.insert("lower_level".into(), json_number(self.levels.lower));
        map.insert("upper_level".into(), json_number(self.levels.upper));
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        let known = self.known.unwrap_or(Known { count: 0, lower: 0.0, median: 0.0, upper: 0.0 });
        out.extend_from_slice(&known.count.to_le_bytes());
        for v in [known.lower, known.median, known.upper] {
            out.extend_from_slice(&v.to_le_bytes());
        }
        out.extend_from_slice(&self.sketch.encode()?);
        Ok(())
    }
}
