//! A symmetric positive definite system of a few dozen unknowns.

/// The lower triangle of L with A = L·Lᵀ (Cholesky), row by row.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Cholesky {
    size: usize,
    rows: Vec<f64>,
}

fn start(row: usize) -> usize {
    row * (row + 1) / 2
}

impl Cholesky {
    /// Of the lower triangle of A, row by row. A direction that A says nothing about (a pivot below
    /// 1e-10 of its diagonal) is given up: its unknown becomes 0.
    pub fn new(size: usize, mut rows: Vec<f64>) -> Self {
        for i in 0..size {
            let diagonal = rows[start(i) + i];
            for j in 0..=i {
                let (si, sj) = (start(i), start(j));
                let dot: f64 = (0..j).map(|k| rows[si + k] * rows[sj + k]).sum();
                let rest = rows[si + j] - dot;
                rows[si + j] = if j < i {
                    let pivot = rows[sj + j];
                    if pivot.is_finite() { rest / pivot } else { 0.0 }
                } else if rest > 1e-10 * diagonal && rest > 0.0 {
                    rest.sqrt()
                } else {
                    f64::INFINITY
                };
            }
        }
        Cholesky { size, rows }
    }

    pub fn size(&self) -> usize {
        self.size
    }

    pub fn rows(&self) -> &[f64] {
        &self.rows
    }

    /// From stored rows; `None` if they are no triangle of that size with diagonal above 0.
    pub fn from_rows(size: usize, rows: Vec<f64>) -> Option<Self> {
        let valid = rows.len() == start(size)
            && (0..size).all(|i| {
                rows[start(i) + i] > 0.0
                    && rows[start(i)..start(i) + i].iter().all(|v| v.is_finite())
            });
        valid.then_some(Cholesky { size, rows })
    }

    /// L⁻¹·b.
    pub fn forward(&self, b: &mut [f64]) {
        for i in 0..self.size {
            let row = &self.rows[start(i)..=start(i) + i];
            let dot: f64 = row[..i].iter().zip(&*b).map(|(l, b)| l * b).sum();
            b[i] = (b[i] - dot) / row[i];
        }
    }

    /// A⁻¹·b.
    pub fn solve(&self, b: &mut [f64]) {
        self.forward(b);
        for i in (0..self.size).rev() {
            let dot: f64 = (i + 1..self.size).map(|k| self.rows[start(k) + i] * b[k]).sum();
            b[i] = (b[i] - dot) / self.rows[start(i) + i];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systems_are_solved_and_empty_directions_are_0() {
        let l = Cholesky::new(3, vec![4.0, 2.0, 5.0, 1.0, 3.0, 6.0]);
        let mut b = [1.0, 2.0, 3.0];
        l.solve(&mut b);
        let a = [[4.0, 2.0, 1.0], [2.0, 5.0, 3.0], [1.0, 3.0, 6.0]];
        for (row, expected) in a.iter().zip([1.0, 2.0, 3.0]) {
            let sum: f64 = row.iter().zip(&b).map(|(a, b)| a * b).sum();
            assert!((sum - expected).abs() < 1e-12);
        }
        // the second unknown is the first once more
        let l = Cholesky::new(3, vec![2.0, 2.0, 2.0, 0.0, 0.0, 4.0]);
        let mut b = [6.0, 6.0, 2.0];
        l.solve(&mut b);
        assert!((b[0] - 3.0).abs() < 1e-12 && b[1] == 0.0 && b[2] == 0.5, "{b:?}");
    }
}
