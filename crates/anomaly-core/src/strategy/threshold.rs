//! `statistical_threshold`: outside a range of valid values.
//!
//! What is valid is told, not learned: the first point is judged like the thousandth, and nothing
//! inside the range is unusual. Outside it the deviation starts at 10, beyond every promised rate,
//! and grows with the distance: by 1 per range width (with one bound: per size of the bound, at
//! least 1).
//!
//! Good at limits that are known: a percentage, a temperature, a price that cannot be negative. There
//! is no rate to keep, so `alerts_per_day` plays no part. 8 bytes of state.
//!
//! Parameters: `min` and `max`, inclusive; one of them at least.

use serde_json::{Map, Value};

use super::statistic::non_finite;
use super::{Context, EntityModel, Rule, Strategy, check_keys, json_number, number_param};
use crate::codec::Reader;
use crate::distribution::{MAX_DEVIATION, ln_p_normal_two_sided};
use crate::point::Point;
use crate::verdict::{Direction, Tail, Verdict};
use crate::{Error, Result};

/// The deviation right outside the range.
const LEAST_DEVIATION: f64 = 10.0;

/// Below `min` or above `max` is an anomaly.
pub struct Threshold(Range);

#[derive(Debug, Clone, Copy, PartialEq)]
struct Range {
    min: f64,
    max: f64,
}

impl Threshold {
    /// Parameters `min` and `max`, one of them at least, `min` ≤ `max`.
    pub fn new(params: &Map<String, Value>, _context: &Context) -> Result<Self> {
        check_keys("statistical_threshold", params, &["min", "max"])?;
        let all = f64::MIN..=f64::MAX;
        let min = number_param(params, "min", all.clone())?;
        let max = number_param(params, "max", all)?;
        if min.is_none() && max.is_none() {
            return Err(Error::invalid(
                "statistical_threshold has neither \"min\" nor \"max\"",
                "Give the range of valid values, for example {\"min\": 0, \"max\": 100}.",
            ));
        }
        let range = Range { min: min.unwrap_or(f64::MIN), max: max.unwrap_or(f64::MAX) };
        if range.min > range.max {
            return Err(Error::invalid(
                format!("parameter \"min\" is {}, above \"max\" {}", range.min, range.max),
                "\"min\" must be at most \"max\".",
            ));
        }
        Ok(Threshold(range))
    }
}

impl Strategy for Threshold {
    fn name(&self) -> &'static str {
        "statistical_threshold"
    }

    fn short_name(&self) -> &'static str {
        "threshold"
    }

    fn statistic_name(&self) -> &'static str {
        "distance outside the range"
    }

    fn algorithm(&self) -> u16 {
        10
    }

    fn check_threshold(&self, threshold: f64) -> Result<()> {
        Err(Error::invalid(
            format!("threshold is {threshold}, and statistical_threshold takes none"),
            "Give the range of valid values by the parameters \"min\" and \"max\" instead.",
        ))
    }

    fn new_state(&self) -> Box<dyn EntityModel> {
        Box::new(Valid { range: self.0, count: 0 })
    }

    fn decode_state(&self, reader: &mut Reader<'_>) -> Result<Box<dyn EntityModel>> {
        Ok(Box::new(Valid { range: self.0, count: reader.u64()? }))
    }
}

impl Range {
    /// Signed distance outside, 0 inside.
    fn outside(&self, x: f64) -> f64 {
        if x > self.max {
            (x - self.max).min(f64::MAX)
        } else if x < self.min {
            (x - self.min).max(f64::MIN)
        } else {
            0.0
        }
    }

    /// Between the bounds, or the only one.
    fn middle(&self) -> f64 {
        match (self.min > f64::MIN, self.max < f64::MAX) {
            (true, true) => 0.5 * self.min + 0.5 * self.max,
            (true, false) => self.min,
            (false, true) => self.max,
            (false, false) => 0.0,
        }
    }

    /// What is far for this range.
    fn unit(&self) -> f64 {
        let width = self.max - self.min;
        if self.min > f64::MIN && self.max < f64::MAX && width > 0.0 {
            width.min(f64::MAX)
        } else {
            self.middle().abs().max(1.0)
        }
    }
}

struct Valid {
    range: Range,
    count: u64,
}

impl EntityModel for Valid {
    fn count(&self) -> u64 {
        self.count
    }

    fn is_warm(&self, _least: u64) -> bool {
        true
    }

    fn judge(&self, point: &Point, _rule: &Rule) -> Verdict {
        let mut verdict = Verdict::without_baseline(point);
        verdict.expected = self.range.middle();
        (verdict.lower, verdict.upper) = (self.range.min, self.range.max);
        if non_finite(point, &mut verdict) {
            return verdict;
        }
        let outside = self.range.outside(point.value);
        verdict.direction = Direction::of(point.value, verdict.expected);
        verdict.statistic = outside;
        verdict.is_anomaly = outside != 0.0;
        if verdict.is_anomaly {
            let deviation = LEAST_DEVIATION + outside.abs() / self.range.unit();
            verdict.tail = Tail::LnP(ln_p_normal_two_sided(deviation.min(MAX_DEVIATION)));
        }
        verdict
    }

    fn learn(&mut self, point: &Point) {
        if point.value.is_finite() {
            self.count = self.count.saturating_add(1);
        }
    }

    fn learn_clipped(&mut self, _point: &Point) {}

    fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(&self.count.to_le_bytes());
        Ok(())
    }

    fn metadata(&self, verdict: &Verdict, _rule: &Rule) -> Map<String, Value> {
        let mut map = Map::new();
        if self.range.min > f64::MIN {
            map.insert("min".into(), json_number(self.range.min));
        }
        if self.range.max < f64::MAX {
            map.insert("max".into(), json_number(self.range.max));
        }
        map.insert("outside".into(), json_number(verdict.statistic));
        map.insert("p_value".into(), json_number(verdict.p_value()));
        map.insert("ln_p".into(), json_number(verdict.ln_p()));
        map
    }
}
