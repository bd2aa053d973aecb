//! `statistical_persist`: the difference from the previous value.
//!
//! The forecast is the latest value, an anomalous one included, the spread the standard deviation of such differences
//! with a memory of 200 points; a difference beyond three standard deviations is learned as one of
//! three, unless it is the third in a row.
//!
//! Good at jumps of a metric that moves slowly, wherever it is: queue lengths, temperatures, counters
//! that only grow. Bad at everything else: of a level shift it sees the step and not the new level,
//! and of a spike the rise and the fall, which are one episode. For independent noise `zscore` is better by a factor √2. 26 bytes of state; no parameters.

use serde_json::{Map, Value};

use super::error_scale::ErrorScale;
use super::location_scale::{Baseline, Fit, LocationScale};
use super::{Context, EntityModel, Strategy, check_keys, json_number};
use crate::Result;
use crate::codec::Reader;
use crate::point::Point;
use crate::verdict::Verdict;

/// (x − previous) / standard deviation of the differences; the rule is |that| > threshold. The
/// forecast is the naive one, or persistence (Hyndman and Athanasopoulos, Forecasting: Principles
/// and Practice, 3rd ed. 2021, §5.2).
pub struct Persist;

impl Persist {
    /// Takes no parameters.
    pub fn new(params: &Map<String, Value>, _context: &Context) -> Result<Self> {
        check_keys("statistical_persist", params, &[])?;
        Ok(Persist)
    }
}

impl Strategy for Persist {
    fn name(&self) -> &'static str {
        "statistical_persist"
    }

    fn short_name(&self) -> &'static str {
        "persist"
    }

    fn statistic_name(&self) -> &'static str {
        "difference in standard deviations"
    }

    fn algorithm(&self) -> u16 {
        11
    }

    fn new_state(&self) -> Box<dyn EntityModel> {
        Box::new(LocationScale::new(Previous { latest: None, scale: ErrorScale::default() }))
    }

    fn decode_state(&self, reader: &mut Reader<'_>) -> Result<Box<dyn EntityModel>> {
        Ok(Box::new(LocationScale::decode(reader, Previous::decode)?))
    }
}

struct Previous {
    latest: Option<f64>,
    scale: ErrorScale,
}

impl Previous {
    fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let latest = match reader.u8()? {
            0 => None,
            1 => Some(reader.finite("previous value")?),
            _ => return Err(reader.corrupted("unknown mark")),
        };
        let scale = ErrorScale::decode(reader)?;
        if latest.is_none() && scale.count() > 0 {
            return Err(reader.corrupted("differences without a value"));
        }
        Ok(Previous { latest, scale })
    }
}

impl Baseline for Previous {
    const EFFICIENCY: f64 = 1.0;

    fn dof(&self, count: u64) -> f64 {
        ErrorScale::dof(count.saturating_sub(1))
    }

    fn count(&self) -> u64 {
        self.scale.count() + u64::from(self.latest.is_some())
    }

    fn push(&mut self, point: &Point) {
        if let Some(previous) = self.latest {
            self.scale.push(point.value - previous);
        }
        self.latest = Some(point.value);
    }

    /// Were an anomalous value left out, the next ones would be compared with one further and further
    /// back, and an extreme value that just passed would make anomalies of all that follow.
    const RUNS: bool = true;

    fn leave_out(&mut self, point: &Point) {
        self.push(point);
    }

    fn fit(&self, _point: &Point) -> Option<Fit> {
        let centre = self.latest?;
        let sd = self.scale.sd();
        Some(Fit { centre, below: sd, above: sd })
    }

    fn metadata(&self, verdict: &Verdict, map: &mut Map<String, Value>) {
        let Some(previous) = self.latest else { return };
        map.insert("z_score".into(), json_number(verdict.statistic));
        map.insert("previous".into(), json_number(previous));
        let difference = (verdict.value - previous).clamp(-f64::MAX, f64::MAX);
        map.insert("difference".into(), json_number(difference));
        map.insert("std".into(), json_number(self.scale.sd()));
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        match self.latest {
            None => out.push(0),
            Some(value) => {
                out.push(1);
                out.extend_from_slice(&value.to_le_bytes());
            }
        }
        self.scale.encode(out);
        Ok(())
    }
}
