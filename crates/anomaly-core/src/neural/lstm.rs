//! A long short-term memory layer (Hochreiter & Schmidhuber 1997) with a forget gate (Gers,
//! Schmidhuber & Cummins 2000) and without peepholes, as every library has it:
//!
//! ```text
//!   i, f, o = σ(x·Wx + h'·Wh + b),  g = tanh(…),  c = f∘c' + i∘g,  h = o∘tanh c
//! ```

use super::Random;
use super::math::{add_rows, multiply_add, multiply_transposed_add, outer_add, sigmoid, tanh};

/// Of its parameters Wx (`inputs`×4·`units`) comes first, then Wh (`units`×4·`units`), then b, each
/// with the gates in the order i, f, g, o.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lstm {
    /// Where its parameters begin.
    pub at: usize,
    pub inputs: usize,
    pub units: usize,
}

/// What a pass forwards leaves for the one backwards, step by step.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Trace {
    /// i, f, g, o of each row.
    gates: Vec<f32>,
    cell: Vec<f32>,
    tanh_cell: Vec<f32>,
    /// The outputs.
    pub h: Vec<f32>,
}

impl Lstm {
    pub fn parameters(&self) -> usize {
        4 * self.units * (self.inputs + self.units + 1)
    }

    /// Multiplications and additions of one step of one example, without activations.
    pub fn work(&self) -> u64 {
        4 * self.units as u64 * (self.inputs + self.units) as u64
    }

    fn split<'a>(&self, parameters: &'a [f32]) -> (&'a [f32], &'a [f32], &'a [f32]) {
        let own = &parameters[self.at..][..self.parameters()];
        let (wx, rest) = own.split_at(4 * self.units * self.inputs);
        let (wh, b) = rest.split_at(4 * self.units * self.units);
        (wx, wh, b)
    }

    /// Weights as of a dense layer with one gate's outputs; biases 0, those of the forget gate 1
    /// (Jozefowicz, Zaremba & Sutskever 2015).
    pub fn initialise(&self, parameters: &mut [f32], random: &mut Random) {
        let units = self.units;
        let own = &mut parameters[self.at..][..self.parameters()];
        let (w, b) = own.split_at_mut(4 * units * (self.inputs + units));
        for (row, weights) in w.chunks_exact_mut(4 * units).enumerate() {
            let inputs = if row < self.inputs { self.inputs } else { units };
            let limit = (6.0 / (inputs + units) as f64).sqrt();
            weights.iter_mut().for_each(|w| *w = (limit * (2.0 * random.unit() - 1.0)) as f32);
        }
        b.fill(0.0);
        b[units..2 * units].fill(1.0);
    }

    /// Runs over sequences from a state of 0: `x` is steps×batch×inputs, `trace.h` becomes
    /// steps×batch×units.
    pub fn forward(&self, parameters: &[f32], x: &[f32], batch: usize, trace: &mut Trace) {
        let (units, width) = (self.units, 4 * self.units);
        let (wx, wh, b) = self.split(parameters);
        let rows = x.len() / self.inputs;
        trace.gates.clear();
        for _ in 0..rows {
            trace.gates.extend_from_slice(b);
        }
        multiply_add(x, wx, &mut trace.gates, self.inputs, width);
        for values in [&mut trace.cell, &mut trace.tanh_cell, &mut trace.h] {
            values.clear();
            values.resize(rows * units, 0.0);
        }
        for first in (0..rows).step_by(batch) {
            let gates = &mut trace.gates[first * width..][..batch * width];
            let (before, h) = trace.h.split_at_mut(first * units);
            let (cell_before, cell) = trace.cell.split_at_mut(first * units);
            let previous = first.saturating_sub(batch) * units;
            if first > 0 {
                multiply_add(&before[previous..], wh, gates, units, width);
            }
            for row in 0..batch {
                let gates = &mut gates[row * width..][..width];
                let (i, rest) = gates.split_at_mut(units);
                let (f, rest) = rest.split_at_mut(units);
                let (g, o) = rest.split_at_mut(units);
                let c = &mut cell[row * units..][..units];
                let t = &mut trace.tanh_cell[(first + row) * units..][..units];
                let h = &mut h[row * units..][..units];
                if first > 0 {
                    c.copy_from_slice(&cell_before[previous + row * units..][..units]);
                }
                for u in 0..units {
                    i[u] = sigmoid(i[u]);
                    f[u] = sigmoid(f[u]);
                    g[u] = tanh(g[u]);
                    o[u] = sigmoid(o[u]);
                    c[u] = f[u] * c[u] + i[u] * g[u];
                    t[u] = tanh(c[u]);
                    h[u] = o[u] * t[u];
                }
            }
        }
    }

    /// From the gradient by the outputs of all steps to those by the parameters, which are added to
    /// `gradient`, and by the inputs, which are added to `dx`. The trace is spoilt afterwards.
    #[allow(clippy::too_many_arguments)]
    pub fn backward(
        &self,
        parameters: &[f32],
        x: &[f32],
        batch: usize,
        trace: &mut Trace,
        dh: &[f32],
        gradient: &mut [f32],
        dx: Option<&mut [f32]>,
    ) {
        let (units, width) = (self.units, 4 * self.units);
        let (wx, wh, _) = self.split(parameters);
        let rows = x.len() / self.inputs;
        let mut dh_next = vec![0.0f32; batch * units];
        let mut dc_next = vec![0.0f32; batch * units];
        for first in (0..rows).step_by(batch).rev() {
            let zeros = vec![0.0f32; units];
            for row in 0..batch {
                let gates = &mut trace.gates[(first + row) * width..][..width];
                let (i, rest) = gates.split_at_mut(units);
                let (f, rest) = rest.split_at_mut(units);
                let (g, o) = rest.split_at_mut(units);
                let at = (first + row) * units;
                let before = if first == 0 {
                    &zeros[..]
                } else {
                    &trace.cell[at - batch * units..][..units]
                };
                let t = &trace.tanh_cell[at..][..units];
                let dh = &dh[at..][..units];
                let dh_next = &dh_next[row * units..][..units];
                let dc_next = &mut dc_next[row * units..][..units];
                for u in 0..units {
                    let dh = dh[u] + dh_next[u];
                    let dc = dc_next[u] + dh * o[u] * (1.0 - t[u] * t[u]);
                    dc_next[u] = dc * f[u];
                    // each gate becomes the gradient by what went into it
                    o[u] = dh * t[u] * o[u] * (1.0 - o[u]);
                    f[u] = dc * before[u] * f[u] * (1.0 - f[u]);
                    let di = dc * g[u] * i[u] * (1.0 - i[u]);
                    g[u] = dc * i[u] * (1.0 - g[u] * g[u]);
                    i[u] = di;
                }
            }
            if first > 0 {
                dh_next.fill(0.0);
                let gates = &trace.gates[first * width..][..batch * width];
                multiply_transposed_add(gates, wh, &mut dh_next, width, units);
            }
        }
        let own = &mut gradient[self.at..][..self.parameters()];
        let (dwx, rest) = own.split_at_mut(width * self.inputs);
        let (dwh, db) = rest.split_at_mut(width * units);
        outer_add(x, &trace.gates, dwx, self.inputs, width);
        let kept = rows.saturating_sub(batch);
        outer_add(&trace.h[..kept * units], &trace.gates[batch * width..], dwh, units, width);
        add_rows(&trace.gates, db);
        if let Some(dx) = dx {
            multiply_transposed_add(&trace.gates, wx, dx, width, self.inputs);
        }
    }
}
