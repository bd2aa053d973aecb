//! From a residual to a probability.
//!
//! A [`Calibrator`] sees residuals of points that the baseline had not learned yet, each divided by
//! the baseline's spread, and answers how improbable a residual is when nothing is unusual.
//!
//! **Scale.** Each residual r is moved to the scale e(r) = −ln p of the prior, Student's t with the
//! degrees of freedom that the baseline's spread has; normal noise gives e an exponential
//! distribution with mean 1, however young the baseline is. What is learned is how the metric's own
//! noise differs from that.
//!
//! **Inside**, a side's p is the share of residuals at least as far out on that side (conformal
//! prediction: Vovk, Gammerman and Shafer 2005), counted together with ten residuals of normal noise,
//! so that the first residuals move p only a little and the thousandth hardly feels the prior.
//!
//! **Beyond** the outer few per cent a generalised Pareto distribution takes over (Pickands 1975;
//! Coles 2001, §4), fitted to the counts beyond the threshold. On the scale e light tails have shape
//! 0 whatever the spread is, and a tail like r^−ν has shape 2/ν. The shape is the posterior mean
//! under an exponential prior, over a grid along the profile of the likelihood (Grimshaw 1993).
//!
//! Residuals beyond 30 spreads or so count as 30, which bounds what a gross outlier can do.
//!
//! **Anomalous points** that the baseline leaves out are counted too, because what is never counted
//! seems impossible, and more and more of the noise would be called anomalous. But incidents are not
//! noise: a residual so far out that only a quarter of one is expected among all remembered ones is
//! counted where that begins, and each further one for less.
//!
//! **Two sides.** p is the side's share divided by the part of all alarms that the side may raise:
//! one half each where both tails are alike, more for the longer one where they are not.
//!
//! **Memory** is bounded and fades: at [`MEMORY`] residuals every count loses a quarter.

use std::sync::LazyLock;

use crate::Result;
use crate::codec::{self, Reader};
use crate::distribution::{MIN_LN_P, deviation_from_ln_p, ln_p_normal_two_sided};
use crate::elementary::{exp_each, ln_each};
use crate::verdict::Tail;

/// A probability between 0 and 1 that is asked for again and again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Alpha {
    /// Its natural logarithm, finite and below 0.
    pub ln_p: f64,
    /// Its two-sided normal quantile.
    pub z: f64,
}

impl Alpha {
    /// Of a logarithm, which is brought below 0 and above that of the largest deviation.
    pub fn from_ln(ln_p: f64) -> Self {
        let ln_p = ln_p.clamp(MIN_LN_P, -f64::EPSILON);
        Alpha { ln_p, z: deviation_from_ln_p(ln_p) }
    }
}

/// Cells of a histogram: of width ⅛ up to e = 5 and ¼ up to 9, then each 15 % wider than the one
/// before.
const CELLS: usize = 84;
const FINE: usize = 40;
const MEDIUM: usize = 56;
const GROWTH: f64 = 1.15;

/// The lower edge of each cell on the scale e.
const EDGES: [f64; CELLS] = {
    let mut edges = [0.0; CELLS];
    let mut i = 1;
    while i < CELLS {
        edges[i] = if i <= FINE {
            0.125 * i as f64
        } else if i <= MEDIUM {
            edges[i - 1] + 0.25
        } else {
            GROWTH * edges[i - 1]
        };
        i += 1;
    }
    edges
};

/// The same on the scale of the normal quantile z, where finding a cell needs no logarithm.
static Z_EDGES: LazyLock<[f64; CELLS]> = LazyLock::new(|| EDGES.map(|e| deviation_from_ln_p(-e)));

/// Steps to one of z in [`Z_STARTS`].
const Z_STEPS: f64 = 16.0;

/// The cell that each step of z begins in, up to the last cell.
static Z_STARTS: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let steps = (Z_EDGES[CELLS - 1] * Z_STEPS) as usize + 1;
    (0..=steps).map(|step| cell_from(0, step as f64 / Z_STEPS) as u8).collect()
});

/// The cell of z, which is not below the given one.
fn cell_from(first: usize, z: f64) -> usize {
    let edges = &Z_EDGES[first + 1..];
    first + edges.iter().position(|edge| *edge > z).unwrap_or(edges.len())
}

/// P of the prior at the edges.
static PRIOR_SURVIVAL: LazyLock<[f64; CELLS]> = LazyLock::new(|| EDGES.map(|e| libm::exp(-e)));

/// A residual is counted as so many units: counts that fade need fractions.
const UNITS: u32 = 16;
/// The calibrator remembers at most so many residuals, three quarters of that at least. A function of
/// the counts alone: one residual fades to a tenth within 16,000 later ones.
const MEMORY: u32 = 8192;
/// The calibrator starts as if it had seen so many residuals of normal noise.
const PRIOR: f64 = 10.0;
/// Spreads from fewer degrees of freedom say nothing about the noise.
const MIN_DOF_TO_LEARN: f64 = 3.0;
/// Below 1 degree of freedom a spread is a guess, beyond 500 the tail is normal in all practical respects.
const DOF: (f64, f64) = (1.0, 500.0);

/// Share of all residuals that lie beyond a side's threshold: the tail is fitted to many where there
/// are few, and to fewer where there are many, as the theory asks (k/n → 0, k → ∞).
fn tail_share(n: f64) -> f64 {
    (2.7 / libm::sqrt(n + 1.0)).clamp(0.03, 0.25)
}

/// Means of the exponential priors of the shape: below 0, and above 0 from k exceedances. A few dozen
/// of them often look heavier than they are; that makes no spike usual yet.
const LIGHT: f64 = 0.15;
fn heavy(k: f64) -> f64 {
    0.15 + 0.0025 * k
}
/// Tails heavier than r^−2 are not believed.
const MAX_SHAPE: f32 = 1.0;
/// So many exceedances of an exponential tail are added to those seen.
const TAIL_PRIOR: f64 = 4.0;
/// θ·(median excess)/ln 2, for the grid of shapes; −0.27 is shape −0.3, 1.4 is shape 1. The
/// exponential distribution, shape 0, is between the first so many and the others.
const GRID: [f64; 12] = [-0.27, -0.18, -0.1, -0.04, 0.05, 0.11, 0.19, 0.3, 0.45, 0.65, 0.95, 1.4];
const LIGHTER: usize = 4;

/// Inner points at which the distribution of one side is kept.
const KNOTS: usize = 12;
/// Logarithms of probabilities are kept to this resolution.
const RESOLUTION: f64 = 4096.0;

/// z of a residual: the normal quantile of Student's t, by Wallace's approximation (1959), which is
/// strictly monotone, within 4 % of the exact one and has a closed inverse.
fn z_of_residual(r: f64, dof: f64) -> f64 {
    let dof = dof.clamp(DOF.0, DOF.1);
    let r = if r.is_infinite() { f64::MAX } else { r.abs() };
    let ln = if r > 1e100 { 2.0 * libm::log(r) - libm::log(dof) } else { libm::log1p(r * r / dof) };
    (8.0 * dof + 1.0) / (8.0 * dof + 3.0) * libm::sqrt(dof * ln)
}

/// The inverse of [`z_of_residual`], at most `f64::MAX`.
fn residual_of_z(z: f64, dof: f64) -> f64 {
    let dof = dof.clamp(DOF.0, DOF.1);
    let z = z * ((8.0 * dof + 3.0) / (8.0 * dof + 1.0));
    let ln = z * z / dof;
    if ln < 400.0 {
        libm::sqrt(dof * libm::expm1(ln))
    } else {
        libm::exp((0.5 * (libm::log(dof) + ln)).min(709.7)).min(f64::MAX)
    }
}

/// Where p of a [`Calibrator`] crosses some probability, below and above, as normal quantiles: what
/// remains to be done for each number of degrees of freedom is cheap.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Critical {
    below: f64,
    above: f64,
}

impl Critical {
    /// The |residual| below and above, each at most `f64::MAX`.
    pub fn residuals(&self, dof: f64) -> (f64, f64) {
        (residual_of_z(self.below, dof), residual_of_z(self.above, dof))
    }
}

/// So many residuals as far out as a gross outlier are expected among all that are remembered.
const GROSS: f64 = 0.25;

/// The tail of one side as of the last refresh.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SideTail {
    /// −ln p in units of 1/[`RESOLUTION`] at the edges [`SideTail::edge`], rising.
    ln_p: [u16; KNOTS],
    /// The cell where the Pareto tail begins, 1 to CELLS − 1.
    top: u8,
    /// Scale of the Pareto tail on the scale e, above 0.
    scale: f32,
    /// Its shape, above 0.
    shape: f32,
}

impl SideTail {
    /// Edge of knot `i`; those of small `top` repeat.
    fn edge(&self, i: usize) -> f64 {
        EDGES[(i + 1) * usize::from(self.top) / KNOTS]
    }

    fn knot(&self, i: usize) -> f64 {
        -f64::from(self.ln_p[i]) / RESOLUTION
    }

    /// How much ln p falls over an excess y ≥ 0 beyond the threshold.
    fn loss(&self, y: f64) -> f64 {
        let (x, shape) = (y / f64::from(self.scale), f64::from(self.shape));
        let end = self.splice(shape);
        if x <= end {
            return libm::log1p(shape * x) / shape;
        }
        let far = libm::log1p(f64::from(MIN_SHAPE) * MAX_HAZARD * (x - end)) / f64::from(MIN_SHAPE);
        far - libm::log(MAX_HAZARD) / shape
    }

    /// The inverse of [`SideTail::loss`].
    fn excess(&self, loss: f64) -> f64 {
        let shape = f64::from(self.shape);
        let near = if shape > 0.0 { f64::INFINITY } else { -libm::log(MAX_HAZARD) / shape };
        let x = if loss <= near {
            libm::expm1((shape * loss).min(700.0)) / shape
        } else {
            let far = libm::expm1((f64::from(MIN_SHAPE) * (loss - near)).min(700.0));
            self.splice(shape) + far / (f64::from(MIN_SHAPE) * MAX_HAZARD)
        };
        x * f64::from(self.scale)
    }

    /// A tail of negative shape ends somewhere; where its hazard has grown to [`MAX_HAZARD`] times
    /// that at the threshold, a light tail with the same hazard takes over.
    fn splice(&self, shape: f64) -> f64 {
        if shape > 0.0 { f64::INFINITY } else { (1.0 / MAX_HAZARD - 1.0) / shape }
    }

    /// ln p at e ≥ 0.
    fn ln_p(&self, e: f64) -> f64 {
        let threshold = self.edge(KNOTS - 1);
        if e.is_nan() {
            return f64::NAN;
        }
        if e >= threshold {
            return self.knot(KNOTS - 1) - self.loss(e - threshold);
        }
        let (mut e0, mut l0) = (0.0, 0.0);
        for i in 0..KNOTS {
            let (e1, l1) = (self.edge(i), self.knot(i));
            if e < e1 {
                // straight in p itself: a cell that holds most of a side tells nothing about where
                let share = libm::expm1(l1 - l0) * ((e - e0) / (e1 - e0));
                return l0 + libm::log1p(share);
            }
            (e0, l0) = (e1, l1);
        }
        l0
    }

    /// The e with the given ln p ≤ 0.
    fn e(&self, ln_p: f64) -> f64 {
        let last = self.knot(KNOTS - 1);
        if ln_p <= last {
            return self.edge(KNOTS - 1) + self.excess(last - ln_p);
        }
        let (mut e0, mut l0) = (0.0, 0.0);
        for i in 0..KNOTS {
            let (e1, l1) = (self.edge(i), self.knot(i));
            if ln_p >= l1 && e1 > e0 {
                return e0 + (e1 - e0) * (libm::expm1(ln_p - l0) / libm::expm1(l1 - l0));
            }
            (e0, l0) = (e1, l1);
        }
        e0
    }

    /// ln p of a residual on this side; 0 at 0, strictly falling with |residual|, finite.
    pub(crate) fn ln_p_of_residual(&self, residual: f64, dof: f64) -> f64 {
        self.ln_p(-ln_p_normal_two_sided(z_of_residual(residual, dof)))
    }

    /// The normal quantile z of the residuals with the given p.
    fn z(&self, ln_p: f64) -> f64 {
        deviation_from_ln_p(-self.e(ln_p))
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.top);
        out.extend_from_slice(&self.scale.to_le_bytes());
        out.extend_from_slice(&self.shape.to_le_bytes());
        for v in self.ln_p {
            out.extend_from_slice(&v.to_le_bytes());
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let top = reader.u8()?;
        let scale = f32::from_bits(reader.u32()?);
        let shape = f32::from_bits(reader.u32()?);
        let mut ln_p = [0; KNOTS];
        for v in &mut ln_p {
            *v = reader.u16()?;
        }
        let side = SideTail { ln_p, top, scale, shape };
        // written so that NaN is refused
        let sound = (1..CELLS).contains(&usize::from(top))
            && (MIN_SCALE..=MAX_SCALE).contains(&scale)
            && (MIN_SHAPE..=MAX_SHAPE).contains(&shape.abs())
            && (0..KNOTS).all(|i| {
                let (e0, l0) = if i == 0 { (0.0, 0) } else { (side.edge(i - 1), ln_p[i - 1]) };
                if side.edge(i) > e0 { ln_p[i] > l0 } else { ln_p[i] == l0 }
            });
        if sound { Ok(side) } else { Err(reader.corrupted("calibration out of range")) }
    }
}

const MIN_SCALE: f32 = 1e-3;
const MAX_SCALE: f32 = 1e3;
/// Above 0, so that p falls for ever but never to 0.
const MIN_SHAPE: f32 = 1e-3;
const MAX_HAZARD: f64 = 4.0;

/// The histogram of one side.
type Cells = [u32; CELLS];

/// Units at least as far out as each edge.
fn beyond(cells: &Cells) -> Cells {
    let mut sum = 0;
    let mut out = [0; CELLS];
    for i in (0..CELLS).rev() {
        sum += cells[i];
        out[i] = sum;
    }
    out
}

/// Scale and shape of the tail from the cells at and beyond `top`, `n` residuals in all.
fn fit_tail(cells: &Cells, beyond: &Cells, top: usize) -> (f64, f64) {
    let k = beyond[top];
    // excess of the cell's middle and number of residuals there
    let mut data = [(0.0, 0.0); CELLS];
    let mut len = 0;
    let mut median = None;
    let mut sum = 0;
    for i in top..CELLS {
        if beyond[i] == 0 {
            break;
        }
        if cells[i] == 0 {
            continue;
        }
        let upper = EDGES.get(i + 1).copied().unwrap_or(EDGES[i]);
        let y = 0.5 * (EDGES[i] + upper) - EDGES[top];
        data[len] = (y, f64::from(cells[i]) / f64::from(UNITS));
        len += 1;
        sum += cells[i];
        if median.is_none() && 2 * sum >= k {
            median = Some(y);
        }
    }
    let data = &data[..len];
    let k = f64::from(k) / f64::from(UNITS);
    let total = k + TAIL_PRIOR;
    let typical = (TAIL_PRIOR + k * median.unwrap_or(1.0) / std::f64::consts::LN_2) / total;
    // The exponential distribution as two points (Gauss and Laguerre).
    let prior = [
        (0.585_786_437_626_905, 0.853_553_390_593_274),
        (3.414_213_562_373_095, 0.146_446_609_406_726),
    ]
    .map(|(y, w)| (y * typical, TAIL_PRIOR * w));

    // Σ w·ln(1 + θy) over data and prior, for all θ at a time. Where a θ is not feasible, the sum
    // means nothing and is not used.
    let theta = GRID.map(|t| t / typical);
    let (mut shapes, mut mean) = ([0.0; GRID.len()], 0.0);
    for (y, w) in data.iter().chain(&prior) {
        let mut ln = theta;
        for v in &mut ln {
            let x = 1.0 + *v * y;
            *v = if x > 0.01 { x } else { 0.01 };
        }
        ln_each(&mut ln);
        for (sum, ln) in shapes.iter_mut().zip(ln) {
            *sum += w * ln;
        }
        mean += w * y;
    }
    shapes.iter_mut().for_each(|sum| *sum /= total);
    let mut ln_scales = theta;
    for (scale, shape) in ln_scales.iter_mut().zip(&shapes) {
        *scale = (shape / *scale).max(f64::MIN_POSITIVE);
    }
    ln_each(&mut ln_scales);
    let furthest = data.last().map_or(0.0, |(y, _)| *y);
    let mut fits = [(0.0, 0.0, f64::MIN); GRID.len() + 1];
    for (i, fit) in fits.iter_mut().enumerate() {
        let (ln_scale, shape) = if i == LIGHTER {
            (libm::log(mean / total), 0.0)
        } else {
            let i = i - usize::from(i > LIGHTER);
            if 1.0 + theta[i] * furthest < 0.05 {
                continue;
            }
            (ln_scales[i], shapes[i])
        };
        let prior = if shape < 0.0 { -shape / LIGHT } else { shape / heavy(k) };
        *fit = (ln_scale, shape, -total * (ln_scale + shape) - prior);
    }
    let best = fits.iter().fold(f64::MIN, |best, f| best.max(f.2));
    let (mut weight, mut scale, mut shape) = (0.0, 0.0, 0.0);
    let feasible = fits.iter().position(|f| f.2 > f64::MIN).unwrap_or(0);
    let fits = &fits[feasible..];
    let mut likelihoods = [f64::MIN; GRID.len() + 2];
    for (likelihood, fit) in likelihoods.iter_mut().zip(fits) {
        *likelihood = fit.2 - best;
    }
    exp_each(&mut likelihoods);
    for i in 0..fits.len() {
        // trapezoids in the shape
        let before = fits[i.saturating_sub(1)].1;
        let after = fits[(i + 1).min(fits.len() - 1)].1;
        let w = likelihoods[i] * (after - before);
        weight += w;
        scale += w * fits[i].0;
        shape += w * fits[i].1;
    }
    // What is not known about the scale makes the predictive tail heavier: of exponential noise with
    // a scale from k values it is Pareto with shape 1/k.
    let shape = shape / weight + 1.0 / (total + 10.0);
    (libm::exp(scale / weight), shape)
}

/// What one side is before the two are weighed against each other.
struct Side<'a> {
    cells: &'a Cells,
    /// Units at or beyond each edge.
    beyond: Cells,
    /// Residuals on both sides.
    n: f64,
    /// How many of the prior's lie on this side.
    prior: f64,
    /// The cell where the tail begins.
    top: usize,
    /// Mean excess over the threshold in normal standard deviations.
    reach: f64,
}

impl<'a> Side<'a> {
    /// `n` residuals on both sides; `prior` is the share of the prior's that lie on this one.
    fn new(cells: &'a Cells, n: f64, prior: f64) -> Self {
        let beyond = beyond(cells);
        let mut side = Side { cells, beyond, n, prior: PRIOR * prior, top: CELLS - 1, reach: 0.0 };
        // The first cell with so few beyond; survival falls from edge to edge.
        let share = tail_share(n);
        let (mut low, mut high) = (1, CELLS - 1);
        while low < high {
            let i = usize::midpoint(low, high);
            if side.survival(i) <= share {
                high = i;
            } else {
                low = i + 1;
            }
        }
        let top = low;
        let z = &*Z_EDGES;
        let mut sum = TAIL_PRIOR * 0.4;
        let tail = cells.iter().enumerate().skip(top).take_while(|(i, _)| side.beyond[*i] > 0);
        for (i, count) in tail {
            let middle = z.get(i + 1).map_or(z[i], |next| 0.5 * (z[i] + next));
            sum += f64::from(*count) / f64::from(UNITS) * (middle - z[top]);
        }
        let k = f64::from(side.beyond[top]) / f64::from(UNITS);
        side.top = top;
        side.reach = sum / (k + TAIL_PRIOR);
        side
    }

    /// Share of all residuals at or beyond an edge, the prior included.
    fn survival(&self, edge: usize) -> f64 {
        let seen = f64::from(self.beyond[edge]) / f64::from(UNITS);
        let share = (self.prior * PRIOR_SURVIVAL[edge] + seen) / (PRIOR + self.n);
        share.max(0.125 / (self.n + 1.0))
    }

    /// The frozen tail, given which part of all alarms this side may raise.
    fn tail(&self, part: f64) -> SideTail {
        let (scale, shape) = fit_tail(self.cells, &self.beyond, self.top);
        let shape = (shape as f32).clamp(-MAX_SHAPE, MAX_SHAPE);
        let mut side = SideTail {
            ln_p: [0; KNOTS],
            top: self.top as u8,
            scale: (scale as f32).clamp(MIN_SCALE, MAX_SCALE),
            shape: if shape.abs() < MIN_SHAPE { MIN_SHAPE } else { shape },
        };
        let mut ln_p: [f64; KNOTS] =
            std::array::from_fn(|i| self.survival((i + 1) * self.top / KNOTS) / part);
        ln_each(&mut ln_p);
        let (mut e0, mut l0) = (0.0, 0u16);
        for (i, ln_p) in ln_p.into_iter().enumerate() {
            let e1 = side.edge(i);
            if e1 > e0 {
                let exact = -ln_p * RESOLUTION;
                l0 = (exact.clamp(0.0, 60_000.0).round() as u16).max(l0 + 1);
            }
            side.ln_p[i] = l0;
            e0 = e1;
        }
        side
    }
}

/// Both frozen tails, of a one-sided statistic twice the same.
///
/// The side with the longer tail may raise more of the alarms, in proportion to the mean excesses:
/// that makes the range of normal values the shortest one (equal densities at both ends), and does
/// not waste half of the promise on the side of, say, a lognormal metric where nothing unusual can
/// be. Noise that is the same on both sides is given one half each.
fn fit(below: &Cells, above: &Cells, n: f64, one_sided: bool) -> (SideTail, SideTail) {
    if one_sided {
        let tail = Side::new(above, n, 1.0).tail(1.0);
        return (tail, tail);
    }
    let (below, above) = (Side::new(below, n, 0.5), Side::new(above, n, 0.5));
    let part = (above.reach / (above.reach + below.reach)).clamp(LEAST_PART, 1.0 - LEAST_PART);
    (below.tail(1.0 - part), above.tail(part))
}

/// Which part of all alarms a side may always raise.
const LEAST_PART: f64 = 0.1;

/// Turns standardised out-of-sample residuals into probabilities: see the head of this file.
///
/// Strictly monotone in |residual| on each side, continuous, finite for every finite residual, and
/// defined from the first residual on.
///
/// `dof` is how many degrees of freedom the estimate of the spread has: with a spread estimated from
/// few points even normal noise has Student's tails.
#[derive(Debug, Clone, PartialEq)]
pub struct Calibrator {
    below: Cells,
    above: Cells,
    /// Sum of all cells.
    units: u32,
    /// Residuals since the last refresh.
    pending: u16,
    /// What judges, as of the last refresh.
    tails: (SideTail, SideTail),
    /// Cells beyond which a residual is a gross outlier, as of the last refresh.
    limits: (u8, u8),
    /// Gross outliers among the residuals remembered, in units.
    gross: u32,
    one_sided: bool,
}

impl Calibrator {
    /// For signed residuals: p is two-sided.
    pub fn new() -> Self {
        Self::with_sides(false)
    }

    /// For a statistic that is never negative and large where something is unusual, with the
    /// distribution of |Z|, Z normal, as the prior: p is the share of statistics as large.
    pub fn one_sided() -> Self {
        Self::with_sides(true)
    }

    fn with_sides(one_sided: bool) -> Self {
        let empty = [0; CELLS];
        let tails = fit(&empty, &empty, 0.0, one_sided);
        let mut new = Calibrator {
            below: empty,
            above: empty,
            units: 0,
            pending: 0,
            tails,
            limits: (0, 0),
            gross: 0,
            one_sided,
        };
        new.limits = new.limits();
        new
    }

    /// Residuals it remembers.
    pub fn remembered(&self) -> f64 {
        f64::from(self.units) / f64::from(UNITS)
    }

    /// Learns the residual of one point, made before the baseline learned that point. NaN, and a
    /// residual by a spread of fewer than three degrees of freedom, are left out.
    pub fn learn(&mut self, residual: f64, dof: f64) {
        if let Some(cell) = Self::cell(residual, dof) {
            self.count(residual, cell, UNITS);
        }
    }

    /// Learns the residual of a point that was called anomalous: the tail of the noise, or an
    /// incident. A gross outlier is counted where it begins to be one, and the j-th for 1/j.
    pub fn learn_anomalous(&mut self, residual: f64, dof: f64) {
        let Some(cell) = Self::cell(residual, dof) else { return };
        let limit = usize::from(if residual < 0.0 { self.limits.0 } else { self.limits.1 });
        if cell <= limit {
            self.count(residual, cell, UNITS);
            return;
        }
        self.gross = self.gross.saturating_add(UNITS).min(MEMORY * UNITS);
        self.count(residual, limit, UNITS * UNITS / self.gross);
    }

    fn cell(residual: f64, dof: f64) -> Option<usize> {
        if residual.is_nan() || dof.is_nan() || dof < MIN_DOF_TO_LEARN {
            return None;
        }
        let z = z_of_residual(residual, dof);
        // a step is narrower than most cells
        let start = Z_STARTS.get((z * Z_STEPS) as usize).copied();
        Some(start.map_or(CELLS - 1, |start| cell_from(usize::from(start), z)))
    }

    fn count(&mut self, residual: f64, cell: usize, units: u32) {
        if self.one_sided || residual > 0.0 {
            self.above[cell] += units;
        } else if residual < 0.0 {
            self.below[cell] += units;
        } else {
            self.above[cell] += units / 2;
            self.below[cell] += units / 2;
        }
        self.units += units;
        self.pending = self.pending.saturating_add(1);
        if self.units >= MEMORY * UNITS {
            self.units = fade(&mut self.below) + fade(&mut self.above);
            self.gross = self.gross / 4 * 3;
        }
    }

    fn limits(&self) -> (u8, u8) {
        let ln_p = libm::log(GROSS / (self.remembered() + PRIOR));
        let limit = |tail: &SideTail| {
            let e = tail.e(ln_p);
            EDGES.partition_point(|edge| *edge <= e).saturating_sub(1) as u8
        };
        (limit(&self.tails.0), limit(&self.tails.1))
    }

    /// Makes what was learned so far count, when that is an eighth of what is remembered: a function
    /// of the counts alone. Whether it was; until then the distribution stands still, which is what
    /// allows critical values to be kept.
    pub fn refresh_when_due(&mut self) -> bool {
        let due = self.pending > 0 && f64::from(self.pending) >= self.remembered() / 8.0;
        if due {
            self.refresh();
        }
        due
    }

    /// Makes what was learned so far count, at once.
    pub fn refresh(&mut self) {
        self.pending = 0;
        self.tails = fit(&self.below, &self.above, self.remembered(), self.one_sided);
        self.limits = self.limits();
    }

    /// What judges residuals below 0 and above, as of the last refresh.
    pub(crate) fn tails(&self) -> (SideTail, SideTail) {
        self.tails
    }

    fn side(&self, residual: f64) -> SideTail {
        if residual < 0.0 { self.tails.0 } else { self.tails.1 }
    }

    /// The tail beyond a residual, unevaluated.
    pub fn tail(&self, residual: f64, dof: f64) -> Tail {
        Tail::Calibrated { residual, dof, side: self.side(residual) }
    }

    /// ln p of a residual. NaN gives NaN.
    pub fn ln_p(&self, residual: f64, dof: f64) -> f64 {
        self.side(residual).ln_p_of_residual(residual, dof)
    }

    /// The |residual| below and above beyond which p is less than `alpha`, each at most `f64::MAX`.
    pub fn quantiles(&self, alpha: &Alpha, dof: f64) -> (f64, f64) {
        self.critical(alpha).residuals(dof)
    }

    /// The same for whatever degrees of freedom there will be before the next refresh.
    pub fn critical(&self, alpha: &Alpha) -> Critical {
        Critical { below: self.tails.0.z(alpha.ln_p), above: self.tails.1.z(alpha.ln_p) }
    }

    /// A flag, both sides' cells up to the last used one as varints, both tails. At most 470 bytes, 60
    /// when empty.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.one_sided));
        for cells in [&self.below, &self.above] {
            let used = cells.iter().rposition(|c| *c > 0).map_or(0, |last| last + 1);
            out.push(used as u8);
            cells[..used].iter().for_each(|c| codec::put_varint(out, *c));
        }
        self.tails.0.encode(out);
        self.tails.1.encode(out);
        out.extend_from_slice(&[self.limits.0, self.limits.1]);
        out.extend_from_slice(&self.gross.to_le_bytes());
        out.extend_from_slice(&self.pending.to_le_bytes());
    }

    /// Reads what [`Calibrator::encode`] wrote; `Corrupted` for anything else.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let one_sided = match reader.u8()? {
            0 => false,
            1 => true,
            _ => return Err(reader.corrupted("unknown kind of calibration")),
        };
        let mut sides = [[0u32; CELLS]; 2];
        let mut units = 0u32;
        for cells in &mut sides {
            let used = usize::from(reader.u8()?);
            let cells = cells
                .get_mut(..used)
                .ok_or_else(|| reader.corrupted("calibration has too many cells"))?;
            for c in &mut *cells {
                *c = reader.varint()?;
                if *c >= MEMORY * UNITS {
                    return Err(reader.corrupted("calibration count out of range"));
                }
                units += *c;
            }
            if cells.last() == Some(&0) {
                return Err(reader.corrupted("calibration ends with an empty cell"));
            }
        }
        if units >= MEMORY * UNITS {
            return Err(reader.corrupted("calibration remembers too much"));
        }
        let tails = (SideTail::decode(reader)?, SideTail::decode(reader)?);
        let limits = (reader.u8()?, reader.u8()?);
        let gross = reader.u32()?;
        let pending = reader.u16()?;
        let too_far = usize::from(limits.0.max(limits.1)) >= CELLS;
        if too_far || gross > MEMORY * UNITS {
            return Err(reader.corrupted("gross outliers out of range"));
        }
        let [below, above] = sides;
        Ok(Calibrator { below, above, units, pending, tails, limits, gross, one_sided })
    }
}

impl Default for Calibrator {
    fn default() -> Self {
        Self::new()
    }
}

/// Takes a quarter of every count; what rounding loses goes to the next cell inwards. The new sum.
fn fade(cells: &mut Cells) -> u32 {
    let (mut carry, mut sum) = (0, 0);
    for c in cells.iter_mut().rev() {
        let scaled = *c * 3 + carry;
        carry = scaled % 4;
        *c = scaled / 4;
        sum += *c;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SplitMix64, Box and Muller.
    struct Rng(u64);

    impl Rng {
        fn uniform(&mut self) -> f64 {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            (((z ^ (z >> 31)) >> 11) as f64 + 0.5) / (1u64 << 53) as f64
        }

        fn normal(&mut self) -> f64 {
            let radius = (-2.0 * libm::log(self.uniform())).sqrt();
            radius * libm::cos(std::f64::consts::TAU * self.uniform())
        }

        fn t3(&mut self) -> f64 {
            let chi2: f64 = (0..3).map(|_| self.normal().powi(2)).sum();
            self.normal() / (chi2 / 3.0).sqrt()
        }
    }

    #[test]
    fn a_residual_is_counted_in_the_cell_whose_edges_are_around_it() {
        for dof in [3.0, 20.0, 500.0] {
            for i in 0..100_000 {
                let residual = f64::from(i) * 1e-3 - 50.0;
                let z = z_of_residual(residual, dof);
                let cell = Calibrator::cell(residual, dof).unwrap();
                assert!(Z_EDGES[cell] <= z, "{residual}");
                assert!(Z_EDGES.get(cell + 1).is_none_or(|next| *next > z), "{residual}");
            }
        }
        for far in [1e3, 1e300, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(Calibrator::cell(far, 500.0), Some(CELLS - 1));
        }
        assert_eq!(Calibrator::cell(0.0, 500.0), Some(0));
    }

    fn learned(n: usize, mut noise: impl FnMut() -> f64) -> Calibrator {
        let mut calibrator = Calibrator::new();
        learn(&mut calibrator, n, &mut noise);
        calibrator
    }

    fn learn(calibrator: &mut Calibrator, n: usize, mut noise: impl FnMut() -> f64) {
        for _ in 0..n {
            calibrator.learn(noise(), 500.0);
            calibrator.refresh_when_due();
        }
        calibrator.refresh();
    }

    fn upper_normal(z: f64) -> f64 {
        0.5 * libm::erfc(z * std::f64::consts::FRAC_1_SQRT_2)
    }

    fn upper_t3(t: f64) -> f64 {
        0.5 * libm::exp(crate::distribution::ln_p_student_t_two_sided(t, 3.0))
    }

    /// Mean over 50 calibrations of the exact probability beyond both critical residuals, divided by
    /// the promised one.
    fn share(
        n: usize,
        alpha: f64,
        draw: impl Fn(&mut Rng) -> f64,
        above: impl Fn(f64) -> f64,
        below: impl Fn(f64) -> f64,
    ) -> f64 {
        let sum: f64 = (0..50)
            .map(|seed| {
                let mut rng = Rng(0xCA11 + seed);
                let calibrator = learned(n, || draw(&mut rng));
                let (low, high) = calibrator.quantiles(&Alpha::from_ln(libm::log(alpha)), 500.0);
                (above(high) + below(low)) / alpha
            })
            .sum();
        sum / 50.0
    }

    #[test]
    fn exact_shares_are_those_promised() {
        let ok = |name: &str, share: f64| {
            assert!((0.8..1.2).contains(&share), "{name}: {share} of what was promised");
        };
        for alpha in [0.01, 0.001] {
            for n in [2000, 8000] {
                ok("normal", share(n, alpha, Rng::normal, upper_normal, upper_normal));
                // a spread that is wrong by a factor of 3
                let third = |z: f64| upper_normal(z / 3.0);
                ok("wide", share(n, alpha, |r| 3.0 * r.normal(), third, third));
                // lognormal from its mean: nearly all of what is unusual lies above
                let mean = libm::exp(0.125);
                let above = |x: f64| upper_normal(2.0 * libm::log(mean + x));
                let below =
                    |x: f64| if x < mean { upper_normal(-2.0 * libm::log(mean - x)) } else { 0.0 };
                let draw = |r: &mut Rng| libm::exp(0.5 * r.normal()) - mean;
                ok("lognormal", share(n, alpha, draw, above, below));
            }
            ok("t(3)", share(8000, alpha, Rng::t3, upper_t3, upper_t3));
        }
        // never far above the promise while there is little to go by
        for n in [0, 1, 10, 100, 300] {
            for alpha in [0.05, 0.01, 0.001] {
                let share = share(n, alpha, Rng::normal, upper_normal, upper_normal);
                let least = if n < 100 { 0.1 } else { 0.7 };
                assert!((least..1.4).contains(&share), "{n} residuals, {alpha}: {share}");
            }
        }
    }

    #[test]
    fn without_residuals_it_is_the_prior() {
        let calibrator = Calibrator::new();
        for r in [-9.0, -4.0, -1.0, -0.1, 0.0, 0.3, 2.0, 3.3, 6.0] {
            let exact = ln_p_normal_two_sided(r);
            let ln_p = calibrator.ln_p(r, 1e9);
            // up to the uncertainty that the first residuals remove
            assert!(ln_p <= 0.0 && (ln_p - exact).abs() < 0.02 + 0.85 * exact.abs(), "{r}: {ln_p}");
            assert!(r.abs() < 1.0 || ln_p >= exact - 0.02, "{r}: {ln_p} {exact}");
        }
        // fewer degrees of freedom, heavier tail
        assert!(calibrator.ln_p(5.0, 2.0) > calibrator.ln_p(5.0, 20.0));
        assert!(calibrator.ln_p(5.0, 20.0) > calibrator.ln_p(5.0, 500.0));
        assert_eq!(calibrator.ln_p(0.0, 7.0), 0.0);
        assert!(calibrator.ln_p(f64::NAN, 7.0).is_nan());
    }

    /// Residual, degrees of freedom, norm.isf(t.sf(residual, dof)) by scipy.stats 1.17.1.
    const Z_OF_T: [(f64, f64, f64); 13] = [
        (0.5, 3.0, 0.451752),
        (2.0, 3.0, 1.478306),
        (10.0, 3.0, 3.071705),
        (100.0, 3.0, 4.733710),
        (1.0, 5.0, 0.909251),
        (4.0, 5.0, 2.564804),
        (30.0, 5.0, 4.942350),
        (2.0, 10.0, 1.790410),
        (8.0, 10.0, 4.381714),
        (3.0, 50.0, 2.862608),
        (8.0, 50.0, 6.389591),
        (4.0, 500.0, 3.966564),
        (12.0, 500.0, 11.243732),
    ];

    #[test]
    fn the_normal_quantile_of_students_t_is_close() {
        for (r, dof, z) in Z_OF_T {
            let error = z_of_residual(r, dof) / z - 1.0;
            assert!(error.abs() < 0.04, "{r} {dof}: {error}");
        }
        for dof in [1.0, 3.0, 7.7, 500.0] {
            for r in [1e-150, 1e-9, 0.5, 3.0, 100.0, 1e30, 1e200, 1e308] {
                let back = residual_of_z(z_of_residual(r, dof), dof);
                assert!((back / r - 1.0).abs() < 1e-9, "{r} {dof}: {back}");
            }
        }
    }

    fn histories() -> Vec<Calibrator> {
        let mut rng = Rng(1);
        let mut all = vec![Calibrator::new(), Calibrator::one_sided()];
        for n in [1, 2, 5, 30, 200, 3000, 20_000] {
            all.push(learned(n, || rng.normal()));
            all.push(learned(n, || rng.t3()));
            all.push(learned(n, || libm::exp(rng.normal()) - 1.0));
            all.push(learned(n, || rng.uniform().powi(3)));
            all.push(learned(n, || 0.0));
            all.push(learned(n, || 1e308));
            all.push(learned(n, || -5e-324));
            all.push(learned(n, || (3.0 * rng.uniform()).floor() - 1.0));
            all.push(learned(n, || if rng.uniform() < 0.01 { 1e12 } else { rng.normal() }));
        }
        all
    }

    #[test]
    fn p_falls_strictly_and_continuously_on_each_side_to_the_end_of_the_numbers() {
        for calibrator in histories() {
            for dof in [1.0, 4.0, 500.0, f64::INFINITY] {
                for sign in [-1.0, 1.0] {
                    let mut last = calibrator.ln_p(sign * 1e-3, dof);
                    assert!(last < 0.0);
                    let mut r = 1e-3;
                    while r < 1e300 {
                        r *= 1.01;
                        let ln_p = calibrator.ln_p(sign * r, dof);
                        assert!(ln_p < last && ln_p.is_finite(), "{r}: {ln_p} after {last}");
                        last = ln_p;
                        if r > 1e3 {
                            r *= 10.0;
                        }
                    }
                    // no jump: the two sides of every edge
                    for z in *Z_EDGES {
                        let r = residual_of_z(z, dof);
                        let near = |f: f64| calibrator.ln_p(sign * r * f, dof);
                        let (l, h) = (near(1.0 - 1e-12), near(1.0 + 1e-12));
                        assert!(l - h < 1e-6 * (1.0 + h.abs()), "a jump at {r}: {l} {h}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_quantile_is_the_inverse() {
        for calibrator in histories() {
            for dof in [1.0, 4.0, 77.0, 500.0] {
                for alpha in [0.9, 0.3, 0.05, 0.01, 0.001, 1e-5, 1e-12] {
                    let alpha = Alpha::from_ln(libm::log(alpha));
                    let (below, above) = calibrator.quantiles(&alpha, dof);
                    for r in [-below, above] {
                        if r.abs() < 1e300 {
                            let error = calibrator.ln_p(r, dof) - alpha.ln_p;
                            assert!(error.abs() < 1e-9, "{} at {r}: {error}", alpha.ln_p);
                        }
                    }
                }
            }
        }
    }

    /// Gross outliers do not make everything usual, and light noise gets light tails.
    #[test]
    fn a_spike_stays_a_spike() {
        let mut lost = 0;
        for seed in 0..200 {
            let mut rng = Rng(seed);
            let clean = learned(300, || rng.normal());
            for dof in [111.0, 300.0] {
                let ln_p = clean.ln_p(93.0, dof).max(clean.ln_p(-93.0, dof));
                lost += u32::from(ln_p > libm::log(7e-8));
                assert!(ln_p < libm::log(1e-6), "seed {seed}: {ln_p}");
            }
            let mut i = 0;
            let soiled = learned(1000, || {
                i += 1;
                if i == 500 { 1e12 } else { rng.normal() }
            });
            let (ten, three) = (soiled.ln_p(10.0, 500.0), soiled.ln_p(3.0, 500.0));
            assert!(ten < libm::log(1.0 / 1440.0), "seed {seed}: {ten}");
            assert!(three > libm::log(1.0 / 1440.0), "seed {seed}: {three}");
        }
        assert!(lost <= 2, "{lost} of 400");
    }

    #[test]
    fn old_noise_fades() {
        let mut rng = Rng(5);
        let mut calibrator = learned(20_000, || 5.0 * rng.normal());
        let before = calibrator.ln_p(9.0, 500.0);
        assert!(before > libm::log(0.05));
        learn(&mut calibrator, 60_000, || rng.normal());
        assert!(calibrator.ln_p(9.0, 500.0) < libm::log(1e-5));
        assert!(calibrator.remembered() < 8192.0 && calibrator.remembered() > 6000.0);
    }

    #[test]
    fn a_one_sided_statistic_is_promised_one_side() {
        for alpha in [0.01, 0.001] {
            let mut sum = 0.0;
            for seed in 0..100 {
                let mut rng = Rng(seed);
                let mut calibrator = Calibrator::one_sided();
                learn(&mut calibrator, 4000, || -libm::log(rng.uniform()));
                let (_, critical) = calibrator.quantiles(&Alpha::from_ln(libm::log(alpha)), 500.0);
                sum += libm::exp(-critical) / alpha;
            }
            assert!((80.0..120.0).contains(&sum), "{alpha}: {sum} %");
        }
    }

    #[test]
    fn it_is_small_and_survives_storage() {
        for calibrator in histories() {
            let mut bytes = Vec::new();
            calibrator.encode(&mut bytes);
            assert!(bytes.len() <= 400, "{} bytes", bytes.len());
            assert!(calibrator.units > 0 || bytes.len() <= 85, "{} bytes when empty", bytes.len());
            let mut reader = Reader::new(&bytes);
            assert_eq!(Calibrator::decode(&mut reader).as_ref(), Ok(&calibrator));
            assert_eq!(reader.remaining(), 0);
            for cut in 0..bytes.len() {
                assert!(Calibrator::decode(&mut Reader::new(&bytes[..cut])).is_err());
            }
            // whatever the bytes: refused, or in order
            for i in 0..bytes.len() {
                for flip in [1, 0x10, 0x80, 0xff] {
                    let mut damaged = bytes.clone();
                    damaged[i] ^= flip;
                    if let Ok(mut read) = Calibrator::decode(&mut Reader::new(&damaged)) {
                        assert!(read.ln_p(3.0, 9.0) < read.ln_p(1.0, 9.0));
                        (0..100).for_each(|_| read.learn(1.0, 9.0));
                        read.refresh();
                        assert!(read.ln_p(1e300, 9.0).is_finite());
                    }
                }
            }
        }
    }
}
