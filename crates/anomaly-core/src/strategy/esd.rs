//! `statistical_esd`: generalised extreme studentised deviate test over the latest points.
//!
//! Rosner's test takes the most extreme of n values out, again and again up to r times, and compares each
//! with what the most extreme of so many normal values would be; the largest number of values whose
//! last one passes are outliers. Testing all r steps before deciding is what keeps outliers from hiding
//! each other.
//!
//! The latest w − 1 points are freed of their outliers by that test at level 0.05, and the new point is
//! judged as the next step would: by Student's t of its distance from the mean of what is left. p is
//! that of one point, not Rosner's of the most extreme of n, because each point is tested once. Outliers
//! stay in the window, up to r of them do no harm, and more are the new normal.
//!
//! For normal noise without trend or season. There is no calibrated rate: heavy tails and
//! autocorrelation give more alerts than promised. State 8·w bytes; O(w) per point.
//!
//! Parameters: `window` (15 to 500, default 60), w in points, the tested one included; `max_outliers`
//! (1 to a third of the window, default a tenth), r.

use std::cell::RefCell;

use serde_json::{Map, Value};

use super::location_scale::{OffCentre, ROUNDING, finite};
use super::statistic::{describe, non_finite};
use super::{Context, EntityModel, Rule, Strategy, check_keys, integer_param, json_number};
use crate::codec::Reader;
use crate::distribution::{
    ln_p_student_t_two_sided, student_t_quantile_from_normal, student_t_quantile_two_sided,
};
use crate::point::Point;
use crate::verdict::{Direction, Tail, Verdict};
use crate::{Error, Result};

const WINDOWS: std::ops::RangeInclusive<u64> = 15..=500;
const DEFAULT_WINDOW: u64 = 60;
/// Level at which the window is freed of outliers.
const LEVEL: f64 = 0.05;
/// Fewer values say too little.
const FEWEST: usize = 5;

/// Generalised ESD.
///
/// B. Rosner, Percentage points for a generalized ESD many-outlier procedure, Technometrics 25 (1983).
pub struct Esd {
    window: usize,
    max_outliers: usize,
}

impl Esd {
    /// Parameters `window` and `max_outliers`, in points.
    pub fn new(params: &Map<String, Value>, _context: &Context) -> Result<Self> {
        check_keys("statistical_esd", params, &["window", "max_outliers"])?;
        let window = integer_param(params, "window", DEFAULT_WINDOW, WINDOWS)?;
        let max_outliers =
            integer_param(params, "max_outliers", (window / 10).max(1), 1..=window / 3)?;
        Ok(Esd { window: window as usize, max_outliers: max_outliers as usize })
    }
}

impl Strategy for Esd {
    fn name(&self) -> &'static str {
        "statistical_esd"
    }

    fn short_name(&self) -> &'static str {
        "esd"
    }

    fn statistic_name(&self) -> &'static str {
        "studentised deviate"
    }

    fn algorithm(&self) -> u16 {
        8
    }

    fn check_threshold(&self, threshold: f64) -> Result<()> {
        Err(Error::invalid(
            format!("threshold is {threshold}, and statistical_esd takes none"),
            "Its critical value follows from the rate of alerts: set alerts_per_day instead.",
        ))
    }

    fn new_state(&self) -> Box<dyn EntityModel> {
        Box::new(Latest {
            window: self.window,
            max_outliers: self.max_outliers,
            count: 0,
            values: std::collections::VecDeque::with_capacity(self.window),
            clean: RefCell::new(None),
            lambdas: RefCell::new((0, Vec::new())),
        })
    }

    fn decode_state(&self, reader: &mut Reader<'_>) -> Result<Box<dyn EntityModel>> {
        let count = reader.u64()?;
        let len = reader.u32()? as usize;
        if len >= self.window || len as u64 != count.min(self.window as u64 - 1) {
            return Err(reader.corrupted("window of another size"));
        }
        let mut values = std::collections::VecDeque::with_capacity(self.window);
        for _ in 0..len {
            values.push_back(reader.finite("value of a window")?);
        }
        Ok(Box::new(Latest {
            window: self.window,
            max_outliers: self.max_outliers,
            count,
            values,
            clean: RefCell::new(None),
            lambdas: RefCell::new((0, Vec::new())),
        }))
    }
}

/// Rosner's λ of the steps 1 to r for n values at a level.
fn critical_values(n: usize, r: usize, level: f64) -> Vec<f64> {
    (1..=r)
        .take_while(|i| n > i + 1)
        .map(|i| {
            let left = (n - i) as f64;
            let dof = left - 1.0;
            let p = level / (left + 1.0);
            let t = student_t_quantile_two_sided(libm::log(p), dof);
            left * t / ((dof + t * t) * (left + 1.0)).sqrt()
        })
        .collect()
}

/// What is left when the outliers are gone.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Clean {
    count: f64,
    mean: f64,
    /// Sample standard deviation.
    sd: f64,
    outliers: usize,
}

/// Rosner's test of values, ascending; `lambdas` are the critical values of its steps.
///
/// The most extreme value is the first or the last of those left, so that each step is O(1) from sums.
/// They are of distances from the median in units of the largest, which neither overflow nor cancel
/// much; one outlier far beyond the rest makes the unit again smaller when it is gone.
fn generalised_esd(sorted: &[f64], lambdas: &[f64]) -> Clean {
    let median = 0.5 * sorted[(sorted.len() - 1) / 2] + 0.5 * sorted[sorted.len() / 2];
    let (mut first, mut last) = (0, sorted.len());
    let mut outliers = (0, 0, sorted.len());
    let moments = |first: usize, last: usize| {
        let part = &sorted[first..last];
        let n = part.len() as f64;
        let unit = (part[0] - median).abs().max((part[part.len() - 1] - median).abs());
        let unit = unit.min(f64::MAX);
        if unit == 0.0 {
            return (median, 0.0, n);
        }
        let scaled = |x: f64| x / unit - median / unit;
        let mean = part.iter().map(|x| scaled(*x)).sum::<f64>() / n;
        let m2 = part.iter().map(|x| (scaled(*x) - mean).powi(2)).sum::<f64>();
        let sd = (m2 / (n - 1.0)).sqrt();
        (finite(median + mean * unit), finite(sd * unit), n)
    };
    for (i, lambda) in lambdas.iter().enumerate() {
        let (mean, sd, _) = moments(first, last);
        let (low, high) = (mean - sorted[first], sorted[last - 1] - mean);
        let extreme = low.max(high);
        if sd == 0.0 {
            break;
        }
        if low > high {
            first += 1;
        } else {
            last -= 1;
        }
        if extreme / sd > *lambda {
            outliers = (i + 1, first, last);
        }
    }
    let (outliers, first, last) = outliers;
    let (mean, sd, count) = moments(first, last);
    Clean { count, mean, sd, outliers }
}

struct Latest {
    window: usize,
    max_outliers: usize,
    count: u64,
    /// At most `window` − 1, oldest first.
    values: std::collections::VecDeque<f64>,
    /// Derived from the values; made when first needed.
    clean: RefCell<Option<Clean>>,
    /// Critical values for so many values.
    lambdas: RefCell<(usize, Vec<f64>)>,
}

impl Latest {
    fn clean(&self) -> Option<Clean> {
        let n = self.values.len();
        if n < FEWEST {
            return None;
        }
        let mut clean = self.clean.borrow_mut();
        let clean = clean.get_or_insert_with(|| {
            let mut sorted: Vec<f64> = self.values.iter().copied().collect();
            sorted.sort_by(f64::total_cmp);
            let mut lambdas = self.lambdas.borrow_mut();
            if lambdas.0 != n {
                // Half of few values are not outliers.
                *lambdas = (n, critical_values(n, self.max_outliers.min(n / 3), LEVEL));
            }
            generalised_esd(&sorted, &lambdas.1)
        });
        Some(*clean)
    }

    fn push(&mut self, x: f64) {
        if self.values.len() + 1 >= self.window {
            self.values.pop_front();
        }
        self.values.push_back(x + 0.0);
        self.count = self.count.saturating_add(1);
        *self.clean.get_mut() = None;
    }
}

impl Clean {
    /// The standard deviation of a further value's distance from the mean.
    fn spread(&self) -> f64 {
        finite(self.sd * (1.0 + 1.0 / self.count).sqrt())
    }

    fn is_degenerate(&self) -> bool {
        self.spread() <= ROUNDING * self.mean.abs()
    }

    fn dof(&self) -> f64 {
        self.count - 1.0
    }
}

impl EntityModel for Latest {
    fn count(&self) -> u64 {
        self.count
    }

    fn judge(&self, point: &Point, rule: &Rule) -> Verdict {
        let mut verdict = Verdict::without_baseline(point);
        let Some(clean) = self.clean() else {
            non_finite(point, &mut verdict);
            return verdict;
        };
        let degenerate = clean.is_degenerate();
        let reach = if degenerate {
            OffCentre::default().quantile(clean.mean, self.count, &rule.alpha())
        } else {
            let t = student_t_quantile_from_normal(rule.ln_alpha, rule.z_alpha, clean.dof());
            finite(t * clean.spread())
        };
        verdict.expected = clean.mean;
        (verdict.lower, verdict.upper) = (finite(clean.mean - reach), finite(clean.mean + reach));
        if non_finite(point, &mut verdict) {
            return verdict;
        }
        let x = point.value;
        verdict.direction = Direction::of(x, clean.mean);
        let d = finite(x - clean.mean);
        if degenerate {
            verdict.statistic = d;
            verdict.tail = Tail::LnP(OffCentre::default().ln_p(clean.mean, self.count, x));
            verdict.is_anomaly = verdict.ln_p() < rule.ln_alpha;
        } else {
            verdict.statistic = finite(d / clean.spread());
            verdict.tail = Tail::LnP(ln_p_student_t_two_sided(verdict.statistic, clean.dof()));
            verdict.is_anomaly = d.abs() > reach;
        }
        verdict
    }

    fn learn(&mut self, point: &Point) {
        if point.value.is_finite() {
            self.push(point.value);
        }
    }

    fn leave_out(&mut self, point: &Point) {
        self.learn(point);
    }

    fn learn_clipped(&mut self, _point: &Point) {}

    fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&(self.values.len() as u32).to_le_bytes());
        for x in &self.values {
            out.extend_from_slice(&x.to_le_bytes());
        }
        Ok(())
    }

    fn metadata(&self, verdict: &Verdict, rule: &Rule) -> Map<String, Value> {
        let mut map = Map::new();
        map.insert("studentised_deviate".into(), json_number(verdict.statistic));
        if let Some(clean) = self.clean() {
            map.insert("mean".into(), json_number(clean.mean));
            map.insert("std".into(), json_number(clean.sd));
            map.insert("outliers_in_window".into(), Value::from(clean.outliers));
        }
        map.insert("window".into(), Value::from(self.window));
        map.insert("max_outliers".into(), Value::from(self.max_outliers));
        describe(verdict, rule, self.count, &mut map);
        map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rosner's data as in the NIST/SEMATECH e-Handbook of Statistical Methods, §1.3.5.17.3: with up to ten
    /// outliers at level 0.05 the three largest of 54 are, although the first two steps alone do not
    /// pass. λ of the steps 1, 2, 3 and 10 from the same table.
    #[test]
    fn rosners_example_has_three_outliers() {
        let mut values = [
            -0.25, 0.68, 0.94, 1.15, 1.20, 1.26, 1.26, 1.34, 1.38, 1.43, 1.49, 1.49, 1.55, 1.56,
            1.58, 1.65, 1.69, 1.70, 1.76, 1.77, 1.81, 1.91, 1.94, 1.96, 1.99, 2.06, 2.09, 2.10,
            2.14, 2.15, 2.23, 2.24, 2.26, 2.35, 2.37, 2.40, 2.47, 2.54, 2.62, 2.64, 2.90, 2.92,
            2.92, 2.93, 3.21, 3.26, 3.30, 3.59, 3.68, 4.30, 4.64, 5.34, 5.42, 6.01,
        ];
        values.sort_by(f64::total_cmp);
        let lambdas = critical_values(54, 10, 0.05);
        for (i, lambda) in [(0, 3.159), (1, 3.151), (2, 3.144), (9, 3.085)] {
            assert!((lambdas[i] - lambda).abs() < 6e-4, "{}: {}", i + 1, lambdas[i]);
        }
        let clean = generalised_esd(&values, &lambdas);
        assert_eq!((clean.outliers, clean.count), (3, 51.0));
        // numpy: mean and std(ddof=1) of the other 51
        assert!((clean.mean - MEAN_51).abs() < 1e-12 && (clean.sd - SD_51).abs() < 1e-12);
        assert_eq!(generalised_esd(&values, &lambdas[..2]).outliers, 0);
    }

    const MEAN_51: f64 = 2.128_431_372_549_02;
    const SD_51: f64 = 0.893_739_050_392_271;

    #[test]
    fn extreme_values_do_not_overflow() {
        let lambdas = critical_values(20, 3, 0.05);
        for largest in [1e308, f64::MAX, 5e-324] {
            let mut values = [0.0; 20];
            values[18] = largest / 2.0;
            values[19] = largest;
            let clean = generalised_esd(&values, &lambdas);
            assert!(clean.mean.is_finite() && clean.sd.is_finite());
            values[0] = -largest;
            let clean = generalised_esd(&values, &lambdas);
            assert!(clean.mean.is_finite() && clean.sd.is_finite());
        }
    }
}
