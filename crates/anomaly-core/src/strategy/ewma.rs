//! `statistical_ewma`: distance from an exponentially weighted moving average.
//!
//! The forecast is the average of the values so far, the newest with weight 1, each older one with
//! 1 − alpha times the weight of its successor (Roberts 1959; as pandas' `ewm(alpha, adjust=True)`).
//! The spread is the standard deviation of the forecast errors themselves, with a memory of its own of
//! 200 points. Both learn an error beyond three standard deviations as one of three, unless it is the
//! third in a row: an outlier moves neither, and a new level is followed within a few points.
//!
//! Good at slowly drifting metrics without a season, at a price of 41 bytes of state. Bad at seasons,
//! and at slow drifts that are the anomaly: it follows them.
//!
//! Parameter `alpha` (0.001 to 1, default 0.1): the weight of the newest value; 1 is the previous
//! value.

use serde_json::{Map, Value};

use super::error_scale::ErrorScale;
use super::location_scale::{Baseline, Fit, LocationScale, finite};
use super::{Context, EntityModel, Kind, Strategy, check_keys, json_number, number_param};
use crate::Result;
use crate::codec::Reader;
use crate::point::Point;
use crate::verdict::Verdict;

const DEFAULT_ALPHA: f64 = 0.1;

/// (x − ewma) / standard deviation of the forecast errors; the rule is |that| > threshold.
///
/// S. W. Roberts, Control chart tests based on geometric moving averages, Technometrics 1 (1959).
pub struct Ewma {
    alpha: f64,
    kind: Kind,
}

impl Ewma {
    /// Parameter `alpha`, above 0.001 and at most 1.
    pub fn new(params: &Map<String, Value>, context: &Context) -> Result<Self> {
        check_keys("statistical_ewma", params, &["alpha"])?;
        let alpha = number_param(params, "alpha", 0.001..=1.0)?.unwrap_or(DEFAULT_ALPHA);
        Ok(Ewma { alpha, kind: context.kind })
    }
}

impl Strategy for Ewma {
    fn name(&self) -> &'static str {
        "statistical_ewma"
    }

    fn short_name(&self) -> &'static str {
        "ewma"
    }

    fn statistic_name(&self) -> &'static str {
        "distance in standard deviations"
    }

    fn algorithm(&self) -> u16 {
        6
    }

    fn new_state(&self) -> Box<dyn EntityModel> {
        let level =
            Level { alpha: self.alpha, weight: 0.0, level: 0.0, scale: ErrorScale::default() };
        Box::new(LocationScale::new(level).of_kind(self.kind))
    }

    fn decode_state(&self, reader: &mut Reader<'_>) -> Result<Box<dyn EntityModel>> {
        Ok(Box::new(LocationScale::decode(reader, |r| Level::decode(r, self.alpha))?))
    }
}

struct Level {
    alpha: f64,
    /// Sum of the weights of all values; 0 before the first.
    weight: f64,
    level: f64,
    scale: ErrorScale,
}

impl Level {
    fn decode(reader: &mut Reader<'_>, alpha: f64) -> Result<Self> {
        let weight = reader.non_negative("sum of weights")?;
        let level = reader.finite("level")?;
        let scale = ErrorScale::decode(reader)?;
        // The sum starts with 1 and stays below 1/alpha.
        let started = (1.0..=1001.0).contains(&weight);
        if !(started || weight == 0.0 && scale.count() == 0) {
            return Err(reader.corrupted("sum of weights out of range"));
        }
        Ok(Level { alpha, weight, level, scale })
    }
}

impl Baseline for Level {
    const EFFICIENCY: f64 = 1.0;

    fn dof(&self, count: u64) -> f64 {
        ErrorScale::dof(count.saturating_sub(1))
    }

    fn count(&self) -> u64 {
        // The first value has no error.
        self.scale.count() + u64::from(self.weight > 0.0)
    }

    fn push(&mut self, point: &Point) {
        let x = point.value;
        if self.weight == 0.0 {
            (self.weight, self.level) = (1.0, x);
            return;
        }
        self.weight = 1.0 + (1.0 - self.alpha) * self.weight;
        let error = self.scale.push(x - self.level);
        self.level = finite(self.level + error / self.weight);
    }

    fn fit(&self, _point: &Point) -> Option<Fit> {
        if self.weight == 0.0 {
            return None;
        }
        let sd = self.scale.sd();
        Some(Fit { centre: self.level, below: sd, above: sd })
    }

    fn metadata(&self, verdict: &Verdict, map: &mut Map<String, Value>) {
        map.insert("z_score".into(), json_number(verdict.statistic));
        map.insert("ewma".into(), json_number(self.level));
        map.insert("std".into(), json_number(self.scale.sd()));
        map.insert("smoothing_alpha".into(), json_number(self.alpha));
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(&self.weight.to_le_bytes());
        out.extend_from_slice(&self.level.to_le_bytes());
        self.scale.encode(out);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `pandas.Series(x).ewm(alpha=0.3, adjust=True).mean()` (pandas 3.1) of 2, 4, 3, 5, 4, 6.
    #[test]
    fn the_average_is_that_of_pandas() {
        let mut level = Level { alpha: 0.3, weight: 0.0, level: 0.0, scale: ErrorScale::default() };
        for (x, mean) in [2.0, 4.0, 3.0, 5.0, 4.0, 6.0].into_iter().zip(PANDAS) {
            level.push(&Point::new(0, x));
            assert!((level.level - mean).abs() < 1e-12, "{} is not {mean}", level.level);
        }
    }

    const PANDAS: [f64; 6] = [
        2.0,
        3.176_470_588_235_294_4,
        3.095_890_410_958_904_5,
        3.847_611_527_832_609_7,
        3.902_563_917_637_301,
        4.615_693_754_526_26,
    ];
}
