//! The scores that weigh all rows of a window alike.

use super::moments::{Moments, ratio_or_infinity};
use super::order_window::OrderWindow;
use super::robust::{self, Correction};
use super::{MovingScore, score_of};
use crate::Result;

/// `(x − mean) / sd` with the population's standard deviation. Needs 2 other values.
#[derive(Debug, Default)]
pub struct ZscoreWindow {
    others: Moments,
    last: Option<f64>,
}

impl MovingScore for ZscoreWindow {
    #[inline]
    fn push(&mut self, value: Option<f64>) -> Result<()> {
        if let Some(x) = self.last.filter(|x| x.is_finite()) {
            self.others.insert(x);
        }
        self.last = value;
        Ok(())
    }

    #[inline]
    fn pop(&mut self, value: Option<f64>) -> bool {
        let Some(x) = value.filter(|x| x.is_finite()) else { return true };
        if self.others.count() == 0 {
            return false;
        }
        self.others.remove(x);
        self.others.precise()
    }

    #[inline]
    fn score(&mut self) -> Option<f64> {
        score_of(self.last, self.others.count(), 2, |x| Some(self.others.standardize(x, 1.0)))
    }
}

/// The other rows in order, and the last one.
#[derive(Debug, Default)]
struct Ordered {
    others: OrderWindow,
    last: Option<f64>,
}

impl Ordered {
    #[inline]
    fn push(&mut self, value: Option<f64>) -> Result<()> {
        if let Some(x) = self.last.filter(|x| x.is_finite()) {
            self.others.insert(x)?;
        }
        self.last = value;
        Ok(())
    }

    #[inline]
    fn pop(&mut self, value: Option<f64>) -> bool {
        match value.filter(|x| x.is_finite()) {
            Some(x) => self.others.remove(x),
            None => true,
        }
    }

    #[inline(always)]
    fn score(
        &mut self,
        needed: u64,
        measure: impl FnOnce(&mut OrderWindow, f64) -> Option<f64>,
    ) -> Option<f64> {
        score_of(self.last, self.others.len() as u64, needed, |x| measure(&mut self.others, x))
    }
}

/// `a − b`, `c − d` in one scale on which neither overflows.
#[inline]
fn differences(a: f64, b: f64, c: f64, d: f64) -> (f64, f64) {
    let (first, second) = (a - b, c - d);
    if first.is_finite() && second.is_finite() {
        (first, second)
    } else {
        (a / 2.0 - b / 2.0, c / 2.0 - d / 2.0)
    }
}

/// `factor · (x − median) / MAD`, scaled only at the end.
#[inline]
fn robust_ratio(x: f64, median: f64, mad: f64) -> f64 {
    let (distance, mad) = differences(x, median, mad, 0.0);
    ratio_or_infinity(distance, mad)
}

/// `0.6745 · (x − median) / MAD` (Iglewicz and Hoaglin, How to Detect and Handle Outliers, 1993).
/// Needs 3 other values.
#[derive(Debug, Default)]
pub struct ModifiedZscoreWindow(Ordered);

impl MovingScore for ModifiedZscoreWindow {
    #[inline]
    fn push(&mut self, value: Option<f64>) -> Result<()> {
        self.0.push(value)
    }

    #[inline]
    fn pop(&mut self, value: Option<f64>) -> bool {
        self.0.pop(value)
    }

    #[inline]
    fn score(&mut self) -> Option<f64> {
        self.0.score(3, |others, x| {
            let median = others.median()?;
            let mad = others.mad(median)?;
            Some(0.6745 * robust_ratio(x, median, mad))
        })
    }
}

/// Signed distance beyond the nearer quartile in interquartile ranges, 0 between the quartiles (type
/// 7). Tukey's fences stand at ±1.5. Needs 4 other values.
#[derive(Debug, Default)]
pub struct IqrScoreWindow(Ordered);

impl MovingScore for IqrScoreWindow {
    #[inline]
    fn push(&mut self, value: Option<f64>) -> Result<()> {
        self.0.push(value)
    }

    #[inline]
    fn pop(&mut self, value: Option<f64>) -> bool {
        self.0.pop(value)
    }

    #[inline]
    fn score(&mut self) -> Option<f64> {
        self.0.score(4, |others, x| {
            let (lower, upper) = (others.quantile(0.25)?, others.quantile(0.75)?);
            let quartile = if x > upper {
                upper
            } else if x < lower {
                lower
            } else {
                return Some(0.0);
            };
            let (beyond, iqr) = differences(x, quartile, upper, lower);
            Some(ratio_or_infinity(beyond, iqr))
        })
    }
}

/// `1 − p` of the robust z, `p` two-sided from Student's t with small-sample corrections
/// ([`robust::p_value`]). Between 0 and 1; nominal for frames that are near normal. Needs
/// [`robust::MIN_OTHERS`] other values.
#[derive(Debug, Default)]
pub struct AnomalyScoreWindow {
    rows: Ordered,
    correction: Correction,
}

impl MovingScore for AnomalyScoreWindow {
    #[inline]
    fn push(&mut self, value: Option<f64>) -> Result<()> {
        self.rows.push(value)
    }

    #[inline]
    fn pop(&mut self, value: Option<f64>) -> bool {
        self.rows.pop(value)
    }

    #[inline]
    fn score(&mut self) -> Option<f64> {
        let correction = &mut self.correction;
        let score = self.rows.score(robust::MIN_OTHERS as u64, |others, x| {
            let median = others.median()?;
            let mad = others.mad(median)?;
            let z = robust_ratio(x, median, mad).abs() / robust::MAD_TO_SD;
            Some(1.0 - correction.of(others.len()).p_value(z))
        })?;
        Some(if score.is_infinite() { 1.0 } else { score })
    }
}
