//! Kernels that the compiler can vectorise, and the transcendental functions of networks.
//!
//! Every sum has one order, which does not depend on how rows are grouped into batches: the same row
//! gives the same bits alone and in company. Products and sums are never fused.

const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln 2 in two parts, the first short enough that its small multiples are exact (Cody and Waite).
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;
/// 1.5·2^23: adding it rounds to a whole number, which is then in the lowest bits.
const ROUND: f32 = 12_582_912.0;

/// e^x with a relative error below 3e-7, x limited to ±87. NaN gives NaN.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 87.0 { 87.0 } else { x };
    let rounded = x * LOG2_E + ROUND;
    let k = rounded - ROUND;
    let r = (x - k * LN_2_HIGH) - k * LN_2_LOW;
    let p = 1.0 / 120.0 + r * (1.0 / 720.0);
    let p = 1.0 / 24.0 + r * p;
    let p = 1.0 / 6.0 + r * p;
    let p = 0.5 + r * p;
    let p = 1.0 + r * p;
    let p = 1.0 + r * p;
    // the low bits of `rounded` are k: into the exponent with them
    p * f32::from_bits((rounded.to_bits() << 23).wrapping_add(127 << 23))
}

/// 1/(1 + e^-x), absolute error below 2e-7.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// tanh x, absolute error below 4e-7.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
}

pub fn sigmoid_all(xs: &mut [f32]) {
    for x in xs {
        *x = sigmoid(*x);
    }
}

pub fn tanh_all(xs: &mut [f32]) {
    for x in xs {
        *x = tanh(*x);
    }
}

/// Columns of a tile: four registers of four, or two of eight.
const COLUMNS: usize = 8;
const ROWS: usize = 4;

/// y += x·w for x of `rows`×`inner`, w of `inner`×`columns`, y of `rows`×`columns`.
pub fn multiply_add(x: &[f32], w: &[f32], y: &mut [f32], inner: usize, columns: usize) {
    if inner == 0 || columns == 0 {
        return;
    }
    let rows = y.len() / columns;
    let mut row = 0;
    while row + ROWS <= rows {
        let x: [&[f32]; ROWS] = std::array::from_fn(|r| &x[(row + r) * inner..][..inner]);
        tiles::<ROWS>(x, w, &mut y[row * columns..][..ROWS * columns], columns);
        row += ROWS;
    }
    while row < rows {
        tiles::<1>([&x[row * inner..][..inner]], w, &mut y[row * columns..][..columns], columns);
        row += 1;
    }
}

#[inline(always)]
fn tiles<const R: usize>(x: [&[f32]; R], w: &[f32], y: &mut [f32], columns: usize) {
    let mut column = 0;
    if R == 1 {
        while column + 4 * COLUMNS <= columns {
            tile::<R, { 4 * COLUMNS }>(x, w, y, columns, column);
            column += 4 * COLUMNS;
        }
    }
    while column + COLUMNS <= columns {
        tile::<R, COLUMNS>(x, w, y, columns, column);
        column += COLUMNS;
    }
    while column < columns {
        tile::<R, 1>(x, w, y, columns, column);
        column += 1;
    }
}

#[inline(always)]
fn tile<const R: usize, const C: usize>(
    x: [&[f32]; R],
    w: &[f32],
    y: &mut [f32],
    columns: usize,
    column: usize,
) {
    let mut sums = [[0.0f32; C]; R];
    for (r, sum) in sums.iter_mut().enumerate() {
        sum.copy_from_slice(&y[r * columns + column..][..C]);
    }
    for (i, w) in w.chunks_exact(columns).take(x[0].len()).enumerate() {
        let w = &w[column..][..C];
        for r in 0..R {
            let v = x[r][i];
            for c in 0..C {
                sums[r][c] += v * w[c];
            }
        }
    }
    for (r, sum) in sums.iter().enumerate() {
        y[r * columns + column..][..C].copy_from_slice(sum);
    }
}

/// A scalar product in eight partial sums, added pairwise at the end.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 8;
    let mut sums = [0.0f32; LANES];
    let (a_parts, a_rest) = a.as_chunks::<LANES>();
    let (b_parts, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_parts.iter().zip(b_parts) {
        for l in 0..LANES {
            sums[l] += a[l] * b[l];
        }
    }
    let mut rest = 0.0;
    for (a, b) in a_rest.iter().zip(b_rest) {
        rest += a * b;
    }
    ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7])) + rest
}

/// y += x·wᵀ for x of `rows`×`inner`, w of `columns`×`inner`, y of `rows`×`columns`.
pub fn multiply_transposed_add(x: &[f32], w: &[f32], y: &mut [f32], inner: usize, columns: usize) {
    if inner == 0 || columns == 0 {
        return;
    }
    for (x, y) in x.chunks_exact(inner).zip(y.chunks_exact_mut(columns)) {
        for (w, y) in w.chunks_exact(inner).zip(y) {
            *y += dot(x, w);
        }
    }
}

/// w += xᵀ·y for x of `rows`×`inner`, y of `rows`×`columns`, w of `inner`×`columns`: the gradient of
/// weights.
pub fn outer_add(x: &[f32], y: &[f32], w: &mut [f32], inner: usize, columns: usize) {
    if inner == 0 || columns == 0 {
        return;
    }
    let mut i = 0;
    while i + ROWS <= inner {
        let w = &mut w[i * columns..][..ROWS * columns];
        outer_rows::<ROWS>(x, y, w, i, inner, columns);
        i += ROWS;
    }
    while i < inner {
        outer_rows::<1>(x, y, &mut w[i * columns..][..columns], i, inner, columns);
        i += 1;
    }
}

#[inline(always)]
fn outer_rows<const R: usize>(
    x: &[f32],
    y: &[f32],
    w: &mut [f32],
    i: usize,
    inner: usize,
    columns: usize,
) {
    let mut column = 0;
    while column + COLUMNS <= columns {
        outer_tile::<R, COLUMNS>(x, y, w, i, inner, columns, column);
        column += COLUMNS;
    }
    while column < columns {
        outer_tile::<R, 1>(x, y, w, i, inner, columns, column);
        column += 1;
    }
}

#[inline(always)]
fn outer_tile<const R: usize, const C: usize>(
    x: &[f32],
    y: &[f32],
    w: &mut [f32],
    i: usize,
    inner: usize,
    columns: usize,
    column: usize,
) {
    let mut sums = [[0.0f32; C]; R];
    for (r, sum) in sums.iter_mut().enumerate() {
        sum.copy_from_slice(&w[r * columns + column..][..C]);
    }
    for (x, y) in x.chunks_exact(inner).zip(y.chunks_exact(columns)) {
        let (x, y) = (&x[i..][..R], &y[column..][..C]);
        for r in 0..R {
            for c in 0..C {
                sums[r][c] += x[r] * y[c];
            }
        }
    }
    for (r, sum) in sums.iter().enumerate() {
        w[r * columns + column..][..C].copy_from_slice(sum);
    }
}

/// Adds up the rows of y.
pub fn add_rows(y: &[f32], sum: &mut [f32]) {
    for row in y.chunks_exact(sum.len().max(1)) {
        for (s, v) in sum.iter_mut().zip(row) {
            *s += v;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::neural::Random;

    #[test]
    fn functions_are_as_exact_as_they_say() {
        for i in -90_000..=90_000 {
            let x = i as f32 * 1e-3;
            let exact = libm::exp(f64::from(x.clamp(-87.0, 87.0)));
            assert!((f64::from(exp(x)) / exact - 1.0).abs() < 3e-7, "exp({x})");
            let exact = 1.0 / (1.0 + libm::exp(-f64::from(x)));
            assert!((f64::from(sigmoid(x)) - exact).abs() < 2e-7, "sigmoid({x})");
            let exact = libm::tanh(f64::from(x));
            assert!((f64::from(tanh(x)) - exact).abs() < 4e-7, "tanh({x})");
        }
        for x in [f32::MAX, f32::MIN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 1e-45] {
            assert!(exp(x).is_finite() && exp(x) > 0.0);
            assert!(sigmoid(x).is_finite() && tanh(x).abs() <= 1.0, "{x}");
        }
        assert!(exp(f32::NAN).is_nan() && tanh(f32::NAN).is_nan() && sigmoid(f32::NAN).is_nan());
        assert_eq!(tanh(0.0), 0.0);
    }

    fn matrix(random: &mut Random, n: usize) -> Vec<f32> {
        (0..n).map(|_| random.normal() as f32).collect()
    }

    /// Against sums in f64, for shapes that fill tiles and that do not.
    #[test]
    fn products_are_those_of_matrices() {
        let mut random = Random::new(1, 2);
        for (rows, inner, columns) in
            [(1, 1, 1), (3, 5, 7), (4, 8, 8), (9, 33, 40), (6, 64, 256), (1, 64, 70), (5, 3, 1)]
        {
            let x = matrix(&mut random, rows * inner);
            let w = matrix(&mut random, inner * columns);
            let start = matrix(&mut random, rows * columns);
            let exact = |r: usize, c: usize| -> f64 {
                (0..inner)
                    .map(|i| f64::from(x[r * inner + i]) * f64::from(w[i * columns + c]))
                    .sum::<f64>()
                    + f64::from(start[r * columns + c])
            };
            let mut y = start.clone();
            multiply_add(&x, &w, &mut y, inner, columns);
            let transposed: Vec<f32> = (0..columns)
                .flat_map(|c| (0..inner).map(move |i| (c, i)))
                .map(|(c, i)| w[i * columns + c])
                .collect();
            let mut z = start.clone();
            multiply_transposed_add(&x, &transposed, &mut z, inner, columns);
            for r in 0..rows {
                for c in 0..columns {
                    let at = r * columns + c;
                    assert!((f64::from(y[at]) - exact(r, c)).abs() < 1e-4, "{rows} {inner}");
                    assert!((f64::from(z[at]) - exact(r, c)).abs() < 1e-4, "{rows} {inner}");
                }
                // alone as in company
                let mut alone = start[r * columns..][..columns].to_vec();
                multiply_add(&x[r * inner..][..inner], &w, &mut alone, inner, columns);
                assert_eq!(alone, y[r * columns..][..columns]);
            }
            let mut g = w.clone();
            outer_add(&x, &start, &mut g, inner, columns);
            for i in 0..inner {
                for c in 0..columns {
                    let exact = (0..rows)
                        .map(|r| f64::from(x[r * inner + i]) * f64::from(start[r * columns + c]))
                        .sum::<f64>()
                        + f64::from(w[i * columns + c]);
                    assert!((f64::from(g[i * columns + c]) - exact).abs() < 1e-4);
                }
            }
        }
    }
}
