//! `statistical_zscore`: distance from the mean in standard deviations.

use serde_json::{Map, Value};

use super::location_scale::{Baseline, Fit, LocationScale, finite};
use super::moments::Moments;
use super::{Context, EntityModel, Kind, Strategy, check_keys, json_number};
use crate::Result;
use crate::codec::Reader;
use crate::point::Point;
use crate::verdict::Verdict;

/// The standard deviation that the strategy's own rule takes for a constant series.
const CONSTANT_SD: f64 = 1e-6;

/// z = (x − mean) / population standard deviation; the rule is |z| > threshold.
pub struct Zscore {
    kind: Kind,
}

impl Zscore {
    /// Takes no parameters.
    pub fn new(params: &Map<String, Value>, context: &Context) -> Result<Self> {
        check_keys("statistical_zscore", params, &[])?;
        Ok(Zscore { kind: context.kind })
    }
}

impl Strategy for Zscore {
    fn name(&self) -> &'static str {
        "statistical_zscore"
    }

    fn short_name(&self) -> &'static str {
        "zscore"
    }

    fn statistic_name(&self) -> &'static str {
        "z-score"
    }

    fn algorithm(&self) -> u16 {
        1
    }

    fn new_state(&self) -> Box<dyn EntityModel> {
        Box::new(LocationScale::new(Mean(Moments::default())).of_kind(self.kind))
    }

    fn decode_state(&self, reader: &mut Reader<'_>) -> Result<Box<dyn EntityModel>> {
        Ok(Box::new(LocationScale::decode(reader, |r| Moments::decode(r).map(Mean))?))
    }
}

struct Mean(Moments);

impl Mean {
    fn sd_of_rule(&self) -> f64 {
        let sd = self.0.population_sd();
        if sd > 0.0 { sd } else { CONSTANT_SD }
    }
}

impl Baseline for Mean {
    const EFFICIENCY: f64 = 1.0;

    fn count(&self) -> u64 {
        self.0.count()
    }

    fn push(&mut self, point: &Point) {
        self.0.push(point.value);
    }

    fn fit(&self, _point: &Point) -> Option<Fit> {
        let n = self.0.count() as f64;
        if n == 0.0 {
            return None;
        }
        // (x − mean) / (s·√(1 + 1/n)) of normal noise has Student's t distribution with n − 1
        // degrees of freedom.
        let spread = finite(self.0.sample_sd() * (1.0 + 1.0 / n).sqrt());
        Some(Fit { centre: self.0.mean(), below: spread, above: spread })
    }

    fn statistic(&self, point: &Point, _fit: &Fit) -> f64 {
        let x = point.value;
        finite((x - self.0.mean()) / self.sd_of_rule())
    }

    fn bounds(&self, _point: &Point, _fit: &Fit, threshold: f64) -> (f64, f64) {
        let mean = self.0.mean();
        let reach = threshold * self.sd_of_rule();
        (finite(mean - reach), finite(mean + reach))
    }

    fn metadata(&self, verdict: &Verdict, map: &mut Map<String, Value>) {
        map.insert("z_score".into(), json_number(verdict.statistic));
        map.insert("mean".into(), json_number(self.0.mean()));
        map.insert("std".into(), json_number(self.0.population_sd()));
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        self.0.encode(out);
        Ok(())
    }
}
