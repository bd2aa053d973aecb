//! `statistical_moving_average`: distance from moving averages over three windows.
//!
//! Good at: values that wander slowly; a series of which only the latest stretch matters. Bad at:
//! seasons (a window knows the latest hours, not the same hour of yesterday), and outliers, which
//! widen the window's spread until they have left it. Cost: the window per point, 0.4 µs at 24.
//! Parameter: `window`, the longest of the windows in points, 24 by default; the others are
//! max(3, window/4) and max(5, window/2). Windows are of the latest points by their time, in whatever
//! order they come.

use std::cmp::Ordering;

use serde_json::{Map, Value, json};

use super::forecast::of_rule;
use super::location_scale::{Baseline, Fit, LocationScale, finite};
use super::moments::Moments;
use super::{Context, EntityModel, Kind, Strategy, check_keys, integer_param, json_number};
use crate::Result;
use crate::codec::Reader;
use crate::point::Point;
use crate::verdict::{Direction, Verdict};

/// With fewer points there is no standard deviation to speak of.
const MIN_POINTS: usize = 3;

/// z = (x − mean) / sample standard deviation over each of three windows; the rule is that the
/// largest |z| exceeds the threshold. Without a threshold the longest window decides: its mean, its
/// spread, and what the calibrator knows about its residuals.
pub struct MovingAverage {
    window: usize,
    kind: Kind,
}

impl MovingAverage {
    /// `window`: 3 to 1000 points.
    pub fn new(params: &Map<String, Value>, context: &Context) -> Result<Self> {
        check_keys("statistical_moving_average", params, &["window"])?;
        let window = integer_param(params, "window", 24, 3..=1000)? as usize;
        Ok(MovingAverage { window, kind: context.kind })
    }
}

impl Strategy for MovingAverage {
    fn name(&self) -> &'static str {
        "statistical_moving_average"
    }

    fn short_name(&self) -> &'static str {
        "moving_average"
    }

    fn statistic_name(&self) -> &'static str {
        "z-score"
    }

    fn algorithm(&self) -> u16 {
        4
    }

    fn new_state(&self) -> Box<dyn EntityModel> {
        Box::new(LocationScale::new(Windows::new(self.window)).of_kind(self.kind))
    }

    fn decode_state(&self, reader: &mut Reader<'_>) -> Result<Box<dyn EntityModel>> {
        Ok(Box::new(LocationScale::decode(reader, |r| Windows::decode(r, self.window))?))
    }
}

/// The latest points by time, and the moments of each window.
struct Windows {
    lengths: [usize; 3],
    /// Points learned, those included that have left the window.
    count: u64,
    /// Time and value, ascending by time; at most the longest window.
    points: Vec<(i64, f64)>,
    moments: [Moments; 3],
}

fn z_score(moments: &Moments, x: f64) -> f64 {
    finite((x - moments.mean()) / of_rule(moments.sample_sd(), moments.mean()))
}

impl Windows {
    fn new(window: usize) -> Self {
        // The formula's short windows may exceed a long one below 5.
        let lengths = [(window / 4).max(3), (window / 2).max(5), window].map(|w| w.min(window));
        Windows { lengths, count: 0, points: Vec::new(), moments: Default::default() }
    }

    /// The moments of the latest `length` of some points.
    fn moments_of(points: &[(i64, f64)], length: usize) -> Moments {
        let mut moments = Moments::default();
        for (_, value) in &points[points.len().saturating_sub(length)..] {
            moments.push(*value);
        }
        moments
    }

    fn recompute(&mut self) {
        for (moments, length) in self.moments.iter_mut().zip(self.lengths) {
            *moments = Windows::moments_of(&self.points, length);
        }
    }

    /// The windows that end at a time. A time before all but a few of the points is compared with the
    /// first ones there are.
    fn at(&self, at: i64) -> [Moments; 3] {
        if self.points.last().is_none_or(|(last, _)| *last <= at) {
            return self.moments;
        }
        let before = self.points.partition_point(|(time, _)| *time <= at).max(MIN_POINTS);
        let points = &self.points[..before.min(self.points.len())];
        self.lengths.map(|length| Windows::moments_of(points, length))
    }

    /// z of each window that has enough points; of fewer points than that, of what there is.
    fn z_scores(&self, point: &Point) -> [f64; 3] {
        self.at(point.at).map(|moments| z_score(&moments, point.value))
    }

    fn largest(z: &[f64; 3]) -> usize {
        // of equal ones the longest window
        (0..3)
            .max_by(|a, b| z[*a].abs().partial_cmp(&z[*b].abs()).unwrap_or(Ordering::Equal))
            .unwrap_or(2)
    }

    fn decode(reader: &mut Reader<'_>, window: usize) -> Result<Self> {
        let mut windows = Windows::new(window);
        windows.count = reader.u64()?;
        let n = reader.u32()? as usize;
        if n > window || n as u64 > windows.count || n > reader.remaining() / 16 {
            return Err(reader.corrupted("more points than the window has"));
        }
        for _ in 0..n {
            windows.points.push((reader.i64()?, reader.finite("value")?));
        }
        if windows.points.windows(2).any(|p| p[0].0 > p[1].0) {
            return Err(reader.corrupted("points are not in order"));
        }
        windows.recompute();
        Ok(windows)
    }
}

impl Baseline for Windows {
    const EFFICIENCY: f64 = 1.0;

    fn dof(&self, count: u64) -> f64 {
        count.min(self.lengths[2] as u64).saturating_sub(1) as f64
    }

    fn count(&self) -> u64 {
        self.count
    }

    fn push(&mut self, point: &Point) {
        self.count += 1;
        let place = self.points.partition_point(|(time, _)| *time <= point.at);
        let full = self.points.len() == self.lengths[2];
        if full && place == 0 {
            // older than the whole window
            return;
        }
        if full {
            self.points.copy_within(1..place, 0);
            self.points[place - 1] = (point.at, point.value);
        } else {
            self.points.insert(place, (point.at, point.value));
        }
        self.recompute();
    }

    fn fit(&self, point: &Point) -> Option<Fit> {
        if self.points.is_empty() {
            return None;
        }
        let moments = self.at(point.at)[2];
        let n = moments.count();
        // As of zscore: with it, residuals of normal noise have Student's t distribution.
        let spread = if n >= MIN_POINTS as u64 {
            finite(moments.sample_sd() * (1.0 + 1.0 / n as f64).sqrt())
        } else {
            0.0
        };
        Some(Fit { centre: moments.mean(), below: spread, above: spread })
    }

    fn statistic(&self, point: &Point, _fit: &Fit) -> f64 {
        let z = self.z_scores(point);
        z[Windows::largest(&z)]
    }

    /// Inside the bounds no window fires. Where the windows exclude each other there is no such value,
    /// and both bounds are halfway between.
    fn bounds(&self, point: &Point, _fit: &Fit, threshold: f64) -> (f64, f64) {
        let (mut lower, mut upper) = (-f64::MAX, f64::MAX);
        for moments in self.at(point.at) {
            let reach = threshold * of_rule(moments.sample_sd(), moments.mean());
            lower = lower.max(finite(moments.mean() - reach));
            upper = upper.min(finite(moments.mean() + reach));
        }
        if lower > upper {
            lower = lower / 2.0 + upper / 2.0;
            upper = lower;
        }
        (lower, upper)
    }

    fn metadata(&self, verdict: &Verdict, map: &mut Map<String, Value>) {
        let point = Point::new(verdict.at, verdict.value);
        let moments = self.at(verdict.at);
        let z = self.z_scores(&point);
        let largest = Windows::largest(&z);
        map.insert("z_score".into(), json_number(z[largest]));
        map.insert("mean".into(), json_number(moments[largest].mean()));
        map.insert("std".into(), json_number(moments[largest].sample_sd()));
        map.insert("window".into(), Value::from(self.lengths[largest]));
        // A window fires when its own bound is violated: |z| above that at the bound of all.
        let bound = if verdict.direction == Direction::Low { verdict.lower } else { verdict.upper };
        let at_bound = self.z_scores(&Point { value: bound, ..point });
        let limit = at_bound[Windows::largest(&at_bound)].abs();
        let firing = (0..3).filter(|k| z[*k].abs() > limit);
        let firing: Vec<Value> = firing
            .map(|k| json!({"window": self.lengths[k], "z_score": json_number(z[k])}))
            .collect();
        map.insert("windows".into(), Value::Array(firing));
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&(self.points.len() as u32).to_le_bytes());
        for (at, value) in &self.points {
            out.extend_from_slice(&at.to_le_bytes());
            out.extend_from_slice(&value.to_le_bytes());
        }
        Ok(())
    }
}
