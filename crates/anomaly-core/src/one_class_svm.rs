//! One-class support vector machines (Schölkopf, Platt, Shawe-Taylor, Smola & Williamson, "Estimating
//! the support of a high-dimensional distribution", Neural Computation 13, 2001).
//!
//! The dual in LIBSVM's scaling (Chang & Lin 2011, §2.3): minimise ½ αᵀKα, 0 ≤ α ≤ 1, Σα = ν·n; the
//! decision function is f(x) = Σ αᵢ k(xᵢ, x) − ρ, negative outside the support, where at most the
//! share ν of the training rows lies.
//!
//! Up to [`EXACT_ROWS`] rows the dual is solved by sequential minimal optimisation with the working
//! set of Fan, Chen & Lin (2005), kernel rows being computed when they are first needed. More rows
//! are mapped to random Fourier features (Rahimi & Recht 2007), and the linear machine over these is
//! solved by descent on pairs of coordinates (Chou, Lin & Lin 2020), whose cost is linear in rows.
//!
//! With the RBF kernel f is −ρ wherever x is far from all rows, however far: whoever ranks by it adds
//! how far a row is outside the training range.

use crate::codec::Reader;
use crate::neural::math;
use crate::neural::{Budget, Random};
use crate::{Error, Result};

/// Kernel matrices have at most so many rows: 16 MB in `f32`.
pub const EXACT_ROWS: usize = 2000;
/// Of more rows so many are drawn for the linear machine.
pub const LINEAR_ROWS: usize = 20_000;
/// Random Fourier features: their kernel is off by some 1/√512.
const FOURIER: usize = 512;
/// More columns than this are an error.
pub const MAX_COLUMNS: usize = 10_000;
/// Largest violation of optimality that is left, LIBSVM's default.
const TOLERANCE: f64 = 1e-3;
/// Of an indefinite or flat direction.
const LEAST_CURVATURE: f64 = 1e-12;
/// Passes over all pairs of the linear machine.
const PASSES: usize = 60;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// exp(−γ·|x − y|²).
    Rbf,
    /// x·y.
    Linear,
    /// (γ·x·y + 1)³.
    Poly,
}

impl Kernel {
    pub const ALL: [Kernel; 3] = [Kernel::Rbf, Kernel::Linear, Kernel::Poly];

    pub fn as_str(self) -> &'static str {
        match self {
            Kernel::Rbf => "rbf",
            Kernel::Linear => "linear",
            Kernel::Poly => "poly",
        }
    }
}

impl std::str::FromStr for Kernel {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        Kernel::ALL.into_iter().find(|k| k.as_str() == s).ok_or_else(|| {
            Error::invalid(format!("unknown kernel \"{s}\""), "Kernels are rbf, linear and poly.")
        })
    }
}

/// γ of the RBF and the polynomial kernel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Gamma {
    /// 1/(columns · variance of all entries).
    Scale,
    /// 1/columns.
    Auto,
    Value(f64),
}

/// What a machine is told; see [`OneClassSvmOptions::check`] for the ranges.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OneClassSvmOptions {
    pub kernel: Kernel,
    /// Above 0, at most 1: the largest share of training rows outside, and the least share of support
    /// vectors.
    pub nu: f64,
    pub gamma: Gamma,
    pub seed: u64,
}

impl Default for OneClassSvmOptions {
    fn default() -> Self {
        OneClassSvmOptions { kernel: Kernel::Rbf, nu: 0.05, gamma: Gamma::Scale, seed: 42 }
    }
}

impl OneClassSvmOptions {
    /// `InvalidParameter` for nu outside (0, 1] and gamma that is not a number above 0.
    pub fn check(&self) -> Result<()> {
        if !(self.nu > 0.0 && self.nu <= 1.0) {
            return Err(Error::invalid(
                format!("nu is {}", self.nu),
                "nu must be a number above 0 and at most 1, for example 0.05.",
            ));
        }
        if let Gamma::Value(gamma) = self.gamma
            && !(gamma > 0.0 && gamma.is_finite())
        {
            return Err(Error::invalid(
                format!("gamma is {gamma}"),
                "gamma must be \"scale\", \"auto\" or a number above 0.",
            ));
        }
        Ok(())
    }
}

/// What the decision function is a sum over.
#[derive(Debug, Clone, PartialEq)]
enum Terms {
    /// Weights αᵢ/ν·n of support vectors, which are stored column by column.
    Vectors { weights: Vec<f32>, columns: Vec<f32> },
    /// Of the linear machine: one weight for each feature √(2/D)·cos(ω·x + b), ω column by column.
    Fourier { weights: Vec<f32>, columns: Vec<f32>, phases: Vec<f32> },
}

/// A trained machine.
#[derive(Debug, Clone, PartialEq)]
pub struct OneClassSvm {
    kernel: Kernel,
    gamma: f32,
    /// ν·n, so that [`OneClassSvm::decision`] is in LIBSVM's units.
    scale: f64,
    /// ρ/(ν·n).
    rho: f64,
    /// Columns of a row.
    width: usize,
    terms: Terms,
}

/// Rows of a matrix: `Data` when the values are no whole number of rows or not all finite.
fn check_rows(rows: &[f64], width: usize) -> Result<usize> {
    if width == 0 || width > MAX_COLUMNS {
        return Err(Error::TooLarge(format!(
            "rows have {width} columns instead of 1 to {MAX_COLUMNS}"
        )));
    }
    if rows.is_empty() || !rows.len().is_multiple_of(width) {
        return Err(Error::Data(format!("{} values are no rows of {width} columns", rows.len())));
    }
    let limit = f64::from(f32::MAX).sqrt() / (width as f64).sqrt();
    if let Some(bad) = rows.iter().find(|x| x.is_nan() || x.abs() >= limit) {
        return Err(Error::Data(format!(
            "a row holds {bad}; standardise rows and fill what is missing"
        )));
    }
    Ok(rows.len() / width)
}

fn to_f32(rows: &[f64]) -> Vec<f32> {
    rows.iter().map(|x| *x as f32).collect()
}

/// The columns of a row-major matrix one after the other.
fn transposed(rows: &[f32], width: usize) -> Vec<f32> {
    let n = rows.len() / width;
    (0..width).flat_map(|c| (0..n).map(move |r| rows[r * width + c])).collect()
}

impl OneClassSvm {
    /// Fits a machine to finite rows of `width` columns, best standardised ones.
    ///
    /// The optimum does not depend on the order of rows, the path to it and the sample of more than
    /// [`LINEAR_ROWS`] do: the same rows in the same order give the same machine.
    ///
    /// `Data` for missing values and for no rows, `TooLarge` for too many columns or more memory than
    /// the budget has, `Stopped` when the budget's progress says so. When time or work run out the
    /// machine is what it had become.
    pub fn fit(
        rows: &[f64],
        width: usize,
        options: &OneClassSvmOptions,
        budget: &mut Budget<'_>,
    ) -> Result<Self> {
        options.check()?;
        let n = check_rows(rows, width)?;
        let gamma = match options.gamma {
            Gamma::Value(gamma) => gamma,
            Gamma::Auto => 1.0 / width as f64,
            Gamma::Scale => {
                let count = rows.len() as f64;
                let mean = rows.iter().sum::<f64>() / count;
                let variance = rows.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / count;
                if variance > 0.0 { 1.0 / (width as f64 * variance) } else { 1.0 }
            }
        };
        // what an f32 can hold, with room for products
        let gamma = gamma.clamp(1e-18, 1e18) as f32;
        if n <= EXACT_ROWS {
            exact(&to_f32(rows), width, gamma, options, budget)
        } else {
            linear(rows, width, gamma, options, budget)
        }
    }

    pub fn width(&self) -> usize {
        self.width
    }

    /// Support vectors, or random features.
    pub fn terms(&self) -> usize {
        match &self.terms {
            Terms::Vectors { weights, .. } | Terms::Fourier { weights, .. } => weights.len(),
        }
    }

    /// f(x) in LIBSVM's units, negative outside. `row` has [`OneClassSvm::width`] finite columns; fewer
    /// count as 0 and more are not looked at.
    pub fn decision(&self, row: &[f64]) -> f64 {
        self.scale * (self.similarity(row) - self.rho)
    }

    /// How unusual a row is, from 0 on and 1 on the border of the support: (2ρ − Σαk)/ρ or, where the
    /// kernel is never negative, 1 + ln(ρ/Σαk), in which the outside is not squeezed together.
    pub fn score(&self, row: &[f64]) -> f64 {
        let similarity = self.similarity(row);
        if self.kernel == Kernel::Rbf
            && self.rho > 0.0
            && matches!(self.terms, Terms::Vectors { .. })
        {
            let ratio = (self.rho / similarity.max(1e-300)).clamp(1e-300, 1e300);
            return (1.0 + libm::log(ratio)).max(0.0);
        }
        let rho = self.rho.abs().max(1e-9);
        (1.0 + (self.rho - similarity) / rho).clamp(0.0, 1e6)
    }

    /// Σ αᵢ k(xᵢ, x)/ν·n.
    fn similarity(&self, row: &[f64]) -> f64 {
        const LANES: usize = 16;
        let (weights, columns) = match &self.terms {
            Terms::Vectors { weights, columns } | Terms::Fourier { weights, columns, .. } => {
                (weights, columns)
            }
        };
        let n = weights.len();
        let limit = f32::MAX.sqrt() / (self.width as f32).sqrt();
        let mut sum = 0.0f64;
        for first in (0..n).step_by(LANES) {
            let lanes = LANES.min(n - first);
            let mut acc = [0.0f32; LANES];
            let direct = matches!(self.terms, Terms::Vectors { .. }) && self.kernel == Kernel::Rbf;
            for (column, x) in columns.chunks_exact(n).zip(row) {
                let x = (*x as f32).clamp(-limit, limit);
                let column = &column[first..first + lanes];
                if direct {
                    for (a, c) in acc.iter_mut().zip(column) {
                        *a += (x - c) * (x - c);
                    }
                } else {
                    for (a, c) in acc.iter_mut().zip(column) {
                        *a += x * c;
                    }
                }
            }
            match &self.terms {
                Terms::Fourier { phases, .. } => {
                    for (a, b) in acc.iter_mut().zip(&phases[first..]) {
                        *a = libm::cosf(*a + b);
                    }
                }
                Terms::Vectors { .. } => {
                    for a in &mut acc {
                        *a = of_product(self.kernel, self.gamma, *a);
                    }
                }
            }
            for (a, w) in acc.iter().zip(&weights[first..first + lanes]) {
                sum += f64::from(*a) * f64::from(*w);
            }
        }
        if sum.is_nan() { 0.0 } else { sum.clamp(-1e300, 1e300) }
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(match self.kernel {
            Kernel::Rbf => 0,
            Kernel::Linear => 1,
            Kernel::Poly => 2,
        });
        out.extend_from_slice(&self.gamma.to_le_bytes());
        out.extend_from_slice(&self.scale.to_le_bytes());
        out.extend_from_slice(&self.rho.to_le_bytes());
        out.extend_from_slice(&(self.width as u32).to_le_bytes());
        let (mark, parts): (u8, Vec<&Vec<f32>>) = match &self.terms {
            Terms::Vectors { weights, columns } => (0, vec![weights, columns]),
            Terms::Fourier { weights, columns, phases } => (1, vec![weights, columns, phases]),
        };
        out.push(mark);
        out.extend_from_slice(&(self.terms() as u32).to_le_bytes());
        for value in parts.into_iter().flatten() {
            out.extend_from_slice(&value.to_le_bytes());
        }
    }

    /// Reads what [`OneClassSvm::encode`] wrote; `Corrupted` for anything else.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let kernel = match reader.u8()? {
            0 => Kernel::Rbf,
            1 => Kernel::Linear,
            2 => Kernel::Poly,
            _ => return Err(reader.corrupted("unknown kernel")),
        };
        let gamma = f32::from_bits(reader.u32()?);
        let scale = reader.non_negative("scale of the decision")?;
        let rho = reader.finite("offset of the decision")?;
        let width = reader.u32()? as usize;
        let fourier = match reader.u8()? {
            0 => false,
            1 => true,
            _ => return Err(reader.corrupted("unknown kind of machine")),
        };
        let terms = reader.u32()? as usize;
        // written so that NaN is refused
        let sound = (1e-18..=1e18).contains(&gamma)
            && scale <= 1e15
            && rho.abs() <= 1e300
            && (1..=MAX_COLUMNS).contains(&width)
            && (1..=EXACT_ROWS).contains(&terms);
        if !sound {
            return Err(reader.corrupted("support vector machine out of range"));
        }
        let mut read = |n: usize| -> Result<Vec<f32>> {
            let values: Vec<f32> = reader
                .take(4 * n)?
                .as_chunks::<4>()
                .0
                .iter()
                .map(|b| f32::from_le_bytes(*b))
                .collect();
            if values.iter().all(|v| v.is_finite()) {
                Ok(values)
            } else {
                Err(Error::Corrupted("stored state: support vectors are not finite".into()))
            }
        };
        let weights = read(terms)?;
        let columns = read(terms * width)?;
        let terms = if fourier {
            Terms::Fourier { weights, columns, phases: read(terms)? }
        } else {
            Terms::Vectors { weights, columns }
        };
        Ok(OneClassSvm { kernel, gamma, scale, rho, width, terms })
    }
}

/// A kernel from |x − y|² or from x·y.
#[inline(always)]
fn of_product(kernel: Kernel, gamma: f32, product: f32) -> f32 {
    match kernel {
        Kernel::Rbf => math::exp(-gamma * product),
        Kernel::Linear => product,
        Kernel::Poly => {
            let base = gamma * product + 1.0;
            base * base * base
        }
    }
}

/// The kernel matrix, row by row as it is asked for.
struct Rows<'a> {
    kernel: Kernel,
    gamma: f32,
    rows: &'a [f32],
    columns: Vec<f32>,
    width: usize,
    computed: Vec<Option<Box<[f32]>>>,
}

impl Rows<'_> {
    fn get(&mut self, i: usize) -> &[f32] {
        let (n, width) = (self.computed.len(), self.width);
        let (kernel, gamma) = (self.kernel, self.gamma);
        let (rows, columns) = (self.rows, &self.columns);
        self.computed[i].get_or_insert_with(|| {
            let mut out = vec![0.0f32; n];
            for (column, x) in columns.chunks_exact(n).zip(&rows[i * width..][..width]) {
                if kernel == Kernel::Rbf {
                    for (o, c) in out.iter_mut().zip(column) {
                        *o += (x - c) * (x - c);
                    }
                } else {
                    for (o, c) in out.iter_mut().zip(column) {
                        *o += x * c;
                    }
                }
            }
            out.iter_mut().for_each(|o| *o = of_product(kernel, gamma, *o));
            out.into_boxed_slice()
        })
    }

    fn diagonal(&self, i: usize) -> f64 {
        let row = &self.rows[i * self.width..][..self.width];
        let product =
            if self.kernel == Kernel::Rbf { 0.0 } else { row.iter().map(|x| x * x).sum() };
        f64::from(of_product(self.kernel, self.gamma, product))
    }
}

/// The first ⌊ν·n⌋ coefficients 1, and the rest of ν·n in the next one.
fn start(n: usize, nu: f64) -> Vec<f64> {
    let total = nu * n as f64;
    (0..n).map(|i| (total - i as f64).clamp(0.0, 1.0)).collect()
}

/// Moves from j to i what lessens the objective most; whether anything changed.
fn exchange(alpha: &mut [f64], i: usize, j: usize, step: f64) -> f64 {
    let step = step.min(1.0 - alpha[i]).min(alpha[j]).max(0.0);
    alpha[i] += step;
    alpha[j] -= step;
    step
}

/// ρ: the gradient of free coefficients, or the middle of what the others allow.
fn offset(alpha: &[f64], gradient: &[f64]) -> f64 {
    let (mut free, mut sum) = (0u32, 0.0);
    let (mut low, mut high) = (f64::NEG_INFINITY, f64::INFINITY);
    for (a, g) in alpha.iter().zip(gradient) {
        if *a >= 1.0 {
            low = low.max(*g);
        } else if *a <= 0.0 {
            high = high.min(*g);
        } else {
            free += 1;
            sum += g;
        }
    }
    if free > 0 {
        sum / f64::from(free)
    } else if high.is_infinite() {
        low
    } else if low.is_infinite() {
        high
    } else {
        0.5 * (low + high)
    }
}

fn exact(
    rows: &[f32],
    width: usize,
    gamma: f32,
    options: &OneClassSvmOptions,
    budget: &mut Budget<'_>,
) -> Result<OneClassSvm> {
    let n = rows.len() / width;
    budget.check_bytes(4 * n * n + 8 * rows.len())?;
    let mut kernel = Rows {
        kernel: options.kernel,
        gamma,
        rows,
        columns: transposed(rows, width),
        width,
        computed: vec![None; n],
    };
    let diagonal: Vec<f64> = (0..n).map(|i| kernel.diagonal(i)).collect();
    let mut alpha = start(n, options.nu);
    let mut gradient = vec![0.0f64; n];
    let ticks = (2_000_000 / (n * (width + 8))).max(1);
    for (i, a) in alpha.iter().enumerate() {
        if i.is_multiple_of(ticks) {
            budget.progress.tick()?;
        }
        if *a > 0.0 {
            for (g, k) in gradient.iter_mut().zip(kernel.get(i)) {
                *g += a * f64::from(*k);
            }
        }
    }
    let mut work = 0u64;
    // as LIBSVM: a bound on cycling, far above what is ever needed
    for iteration in 0..10_000_000u64.max(100 * n as u64) {
        if iteration.is_multiple_of(ticks as u64) {
            budget.progress.tick()?;
            if work > budget.work || budget.is_late() {
                break;
            }
        }
        work += (n * (width + 4)) as u64;
        let mut least = f64::INFINITY;
        let mut i = usize::MAX;
        let mut greatest = f64::NEG_INFINITY;
        for (t, (a, g)) in alpha.iter().zip(&gradient).enumerate() {
            if *a < 1.0 && *g < least {
                (least, i) = (*g, t);
            }
            if *a > 0.0 && *g > greatest {
                greatest = *g;
            }
        }
        if i == usize::MAX || greatest - least <= TOLERANCE {
            break;
        }
        let row = kernel.get(i);
        let (mut best, mut j) = (0.0, usize::MAX);
        for (t, (a, g)) in alpha.iter().zip(&gradient).enumerate() {
            let gain = g - least;
            if *a > 0.0 && gain > 0.0 {
                let curvature = diagonal[i] + diagonal[t] - 2.0 * f64::from(row[t]);
                let value = gain * gain / curvature.max(LEAST_CURVATURE);
                if value > best {
                    (best, j) = (value, t);
                }
            }
        }
        if j == usize::MAX {
            break;
        }
        let curvature = (diagonal[i] + diagonal[j] - 2.0 * f64::from(row[j])).max(LEAST_CURVATURE);
        let step = exchange(&mut alpha, i, j, (gradient[j] - least) / curvature);
        for (g, k) in gradient.iter_mut().zip(kernel.get(i)) {
            *g += step * f64::from(*k);
        }
        for (g, k) in gradient.iter_mut().zip(kernel.get(j)) {
            *g -= step * f64::from(*k);
        }
    }
    let scale = (options.nu * n as f64).max(f64::MIN_POSITIVE);
    let rho = offset(&alpha, &gradient) / scale;
    let vectors: Vec<usize> = (0..n).filter(|i| alpha[*i] > 0.0).collect();
    let columns =
        (0..width).flat_map(|c| vectors.iter().map(move |i| rows[i * width + c])).collect();
    let weights = vectors.iter().map(|i| (alpha[*i] / scale) as f32).collect();
    Ok(OneClassSvm {
        kernel: options.kernel,
        gamma,
        scale,
        rho,
        width,
        terms: Terms::Vectors { weights, columns },
    })
}

/// The linear machine over random Fourier features or, for the other kernels, over so many rows as
/// can be solved exactly.
fn linear(
    rows: &[f64],
    width: usize,
    gamma: f32,
    options: &OneClassSvmOptions,
    budget: &mut Budget<'_>,
) -> Result<OneClassSvm> {
    let n = rows.len() / width;
    let mut random = Random::new(options.seed, 7);
    let most = if options.kernel == Kernel::Rbf { LINEAR_ROWS } else { EXACT_ROWS };
    let mut picked: Vec<usize> = (0..n).collect();
    // the first of a shuffle: a sample without replacement
    for i in 0..most.min(n) {
        let other = i + random.below(n - i);
        picked.swap(i, other);
    }
    picked.truncate(most);
    let sample: Vec<f32> =
        picked.iter().flat_map(|i| rows[i * width..][..width].iter().map(|x| *x as f32)).collect();
    if options.kernel != Kernel::Rbf {
        return exact(&sample, width, gamma, options, budget);
    }
    let n = picked.len();
    budget.check_bytes(4 * (n + width) * FOURIER + 16 * n + 4 * sample.len())?;
    // k(x, y) = E cos(ω·x + b)·cos(ω·y + b)·2 with ω normal of variance 2γ
    let spread = (2.0 * f64::from(gamma)).sqrt();
    let frequencies: Vec<f32> =
        (0..width * FOURIER).map(|_| (spread * random.normal()) as f32).collect();
    let phases: Vec<f32> =
        (0..FOURIER).map(|_| (std::f64::consts::TAU * random.unit()) as f32).collect();
    let amplitude = (2.0 / FOURIER as f32).sqrt();
    let mut features = Vec::with_capacity(n * FOURIER);
    let ticks = (400_000 / (FOURIER * (width + 4))).max(1);
    for (i, row) in sample.chunks_exact(width).enumerate() {
        if i.is_multiple_of(ticks) {
            budget.progress.tick()?;
        }
        let mut z = phases.clone();
        math::multiply_add(row, &frequencies, &mut z, width, FOURIER);
        features.extend(z.iter().map(|z| amplitude * libm::cosf(*z)));
    }
    let feature = |i: usize| &features[i * FOURIER..][..FOURIER];
    let mut alpha = start(n, options.nu);
    let mut w = vec![0.0f32; FOURIER];
    for (i, a) in alpha.iter().enumerate().filter(|(_, a)| **a > 0.0) {
        for (w, z) in w.iter_mut().zip(feature(i)) {
            *w += *a as f32 * z;
        }
    }
    let mut order: Vec<usize> = (0..n).collect();
    let mut gradient = vec![0.0f64; n];
    for pass in 0..PASSES {
        let mut greatest = f64::NEG_INFINITY;
        let mut least = f64::INFINITY;
        for i in 0..n {
            if i.is_multiple_of(1000) {
                budget.progress.tick()?;
            }
            gradient[i] = f64::from(math::dot(&w, feature(i)));
            if alpha[i] < 1.0 {
                least = least.min(gradient[i]);
            }
            if alpha[i] > 0.0 {
                greatest = greatest.max(gradient[i]);
            }
        }
        let work = (pass * n * FOURIER * 3) as u64;
        if greatest - least <= TOLERANCE || work > budget.work || budget.is_late() {
            break;
        }
        // Those that want less first, those that want more last: the pairs with the most to gain,
        // for the two sides stay apart while w changes little.
        order.sort_unstable_by(|a, b| gradient[*b].total_cmp(&gradient[*a]).then(a.cmp(b)));
        let givers: Vec<usize> = order.iter().copied().filter(|i| alpha[*i] > 0.0).collect();
        let takers: Vec<usize> = order.iter().rev().copied().filter(|i| alpha[*i] < 1.0).collect();
        for (count, (j, i)) in givers.iter().zip(&takers).enumerate() {
            if count.is_multiple_of(1000) {
                budget.progress.tick()?;
            }
            if gradient[*j] <= gradient[*i] {
                break;
            }
            let (zi, zj) = (feature(*i), feature(*j));
            let (mut gain, mut curvature) = (0.0f32, 0.0f32);
            let mut parts = [(0.0f32, 0.0f32); 8];
            for ((wc, ic), jc) in
                w.as_chunks::<8>().0.iter().zip(zi.as_chunks::<8>().0).zip(zj.as_chunks::<8>().0)
            {
                for l in 0..8 {
                    let d = jc[l] - ic[l];
                    parts[l].0 += wc[l] * d;
                    parts[l].1 += d * d;
                }
            }
            for (g, c) in parts {
                gain += g;
                curvature += c;
            }
            if gain <= 0.0 {
                continue;
            }
            let step = f64::from(gain) / f64::from(curvature).max(LEAST_CURVATURE);
            let step = exchange(&mut alpha, *i, *j, step) as f32;
            for ((w, zi), zj) in w.iter_mut().zip(zi).zip(zj) {
                *w += step * (zi - zj);
            }
        }
    }
    for (i, g) in gradient.iter_mut().enumerate() {
        *g = f64::from(math::dot(&w, feature(i)));
    }
    let scale = options.nu * n as f64;
    // The share ν outside is what ρ stands for; where the descent ended early, free coefficients do
    // not agree on it as exactly as ranks do.
    let mut sorted = gradient.clone();
    sorted.sort_unstable_by(f64::total_cmp);
    let rank = ((options.nu * n as f64) as usize).min(n - 1);
    let rho = sorted[rank] / scale;
    let weights = w.iter().map(|w| (f64::from(w * amplitude) / scale) as f32).collect();
    let terms = Terms::Fourier { weights, columns: frequencies, phases };
    Ok(OneClassSvm { kernel: options.kernel, gamma, scale, rho, width, terms })
}
