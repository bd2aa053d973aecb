//! Exponentially weighted mean and standard deviation over a moving window.

use super::moments::Moments;
use super::{MovingScore, score_of};
use crate::{Error, Result};

/// `(x − mean) / sd` with exponential weights: the newest other value weighs 1, each older one
/// `1 − alpha` times its successor, over the other values of the window only. Mean and deviation are
/// those of pandas' `ewm(alpha, adjust=True, ignore_na=True)` at its default `bias=False`:
/// the biased variance times `(Σw)² / ((Σw)² − Σw²)`.
/// Needs 2 other values. With `alpha` 1 only the newest other value counts and there is no spread.
#[derive(Debug, Default)]
pub struct EwmaScoreWindow {
    others: Moments,
    last: Option<f64>,
    /// 0 before the first row.
    alpha: f64,
    /// Powers for the number of other values seen last: a moving frame keeps asking for the same.
    powers: Powers,
    /// Bias correction, kept likewise.
    bias: Bias,
}

/// For `count` values: the oldest one's weight, and the sum of the weights without it.
#[derive(Debug, Default)]
struct Powers {
    count: u64,
    oldest: f64,
    rest: f64,
    /// Relative error of `oldest`.
    error: f64,
}

#[derive(Debug, Default)]
struct Bias {
    count: u64,
    factor: f64,
}

/// `1 − (1 − alpha)^n` without cancellation.
fn one_minus_power(alpha: f64, n: u64) -> f64 {
    -libm::expm1(n as f64 * libm::log1p(-alpha))
}

impl EwmaScoreWindow {
    fn bias_factor(&mut self) -> f64 {
        let n = self.others.count();
        if self.bias.count != n {
            // (Σw)² / ((Σw)² − Σw²) of a geometric series, in closed form.
            let retain = 1.0 - self.alpha;
            let factor = (1.0 + retain) * one_minus_power(self.alpha, n)
                / (2.0 * retain * one_minus_power(self.alpha, n - 1));
            self.bias = Bias { count: n, factor };
        }
        self.bias.factor
    }
}

impl MovingScore for EwmaScoreWindow {
    const PARAMETERS: usize = 1;

    fn configure(&mut self, parameters: &[Option<f64>]) -> Result<()> {
        let alpha = parameters.first().copied().flatten();
        match alpha {
            Some(alpha) if alpha == self.alpha && alpha > 0.0 => Ok(()),
            Some(alpha) if alpha > 0.0 && alpha <= 1.0 => {
                if self.alpha != 0.0 {
                    return Err(Error::invalid(
                        format!("alpha changes from {} to {alpha} inside a frame", self.alpha),
                        "use one alpha for all rows",
                    ));
                }
                self.alpha = alpha;
                Ok(())
            }
            _ => Err(Error::invalid(
                match alpha {
                    Some(alpha) => format!("alpha is {alpha}, it must be above 0 and at most 1"),
                    None => "alpha is NULL, it must be above 0 and at most 1".to_string(),
                },
                "the newest row weighs more the larger alpha is; try 0.1",
            )),
        }
    }

    fn push(&mut self, value: Option<f64>) -> Result<()> {
        if let Some(x) = self.last.filter(|x| x.is_finite()) {
            self.others.decay_and_insert(x, 1.0 - self.alpha);
        }
        self.last = value;
        Ok(())
    }

    fn pop(&mut self, value: Option<f64>) -> bool {
        let Some(x) = value.filter(|x| x.is_finite()) else { return true };
        let n = self.others.count();
        if n == 0 {
            return false;
        }
        if self.powers.count != n {
            let oldest =
                if n > 1 { libm::exp((n - 1) as f64 * libm::log1p(-self.alpha)) } else { 1.0 };
            let rest = one_minus_power(self.alpha, n - 1) / self.alpha;
            // n roundings on the way in, the exponential on the way out.
            let error = f64::EPSILON * (n as f64 - libm::log(oldest).max(-800.0));
            self.powers = Powers { count: n, oldest, rest, error };
        }
        self.others.remove_weighted(x, self.powers.oldest, self.powers.error);
        if n > 1 {
            self.others.set_weight(self.powers.rest);
        }
        self.others.precise()
    }

    fn score(&mut self) -> Option<f64> {
        let count = self.others.count();
        let factor = if count >= 2 { self.bias_factor() } else { 1.0 };
        score_of(self.last, count, 2, |x| Some(self.others.standardize(x, factor)))
    }
}
