//! A fully connected layer.

use super::Random;
use super::math::{
    add_rows, multiply_add, multiply_transposed_add, outer_add, sigmoid_all, tanh_all,
};
use crate::{Error, Result};

/// What is applied to each output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    Linear,
    Relu,
    Tanh,
    Sigmoid,
}

impl Activation {
    pub const ALL: [Activation; 4] =
        [Activation::Linear, Activation::Relu, Activation::Tanh, Activation::Sigmoid];

    pub fn as_str(self) -> &'static str {
        match self {
            Activation::Linear => "linear",
            Activation::Relu => "relu",
            Activation::Tanh => "tanh",
            Activation::Sigmoid => "sigmoid",
        }
    }

    pub(crate) fn code(self) -> u8 {
        self as u8
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Activation::ALL.into_iter().find(|a| a.code() == code)
    }

    fn apply(self, values: &mut [f32]) {
        match self {
            Activation::Linear => {}
            Activation::Relu => {
                values.iter_mut().for_each(|v| *v = if *v > 0.0 { *v } else { 0.0 })
            }
            Activation::Tanh => tanh_all(values),
            Activation::Sigmoid => sigmoid_all(values),
        }
    }

    /// The derivative from the output itself.
    fn slope(self, y: f32) -> f32 {
        match self {
            Activation::Linear => 1.0,
            Activation::Relu => f32::from(u8::from(y > 0.0)),
            Activation::Tanh => 1.0 - y * y,
            Activation::Sigmoid => y * (1.0 - y),
        }
    }
}

impl std::str::FromStr for Activation {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        Activation::ALL.into_iter().find(|a| a.as_str() == s).ok_or_else(|| {
            Error::invalid(
                format!("unknown activation \"{s}\""),
                "Activations are linear, relu, tanh and sigmoid.",
            )
        })
    }
}

/// y = a(x·W + b); of its parameters W (`inputs`×`outputs`) comes first, then b.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dense {
    /// Where its parameters begin.
    pub at: usize,
    pub inputs: usize,
    pub outputs: usize,
    pub activation: Activation,
}

impl Dense {
    pub fn parameters(&self) -> usize {
        (self.inputs + 1) * self.outputs
    }

    fn split<'a>(&self, parameters: &'a [f32]) -> (&'a [f32], &'a [f32]) {
        parameters[self.at..][..self.parameters()].split_at(self.inputs * self.outputs)
    }

    /// Uniform weights of variance 2/(inputs + outputs) (Glorot & Bengio 2010), biases 0.
    pub fn initialise(&self, parameters: &mut [f32], random: &mut Random) {
        let limit = (6.0 / (self.inputs + self.outputs) as f64).sqrt();
        let own = &mut parameters[self.at..][..self.parameters()];
        let (w, b) = own.split_at_mut(self.inputs * self.outputs);
        w.iter_mut().for_each(|w| *w = (limit * (2.0 * random.unit() - 1.0)) as f32);
        b.fill(0.0);
    }

    /// Outputs of a batch; `y` becomes rows×outputs.
    pub fn forward(&self, parameters: &[f32], x: &[f32], y: &mut Vec<f32>) {
        let (w, b) = self.split(parameters);
        y.clear();
        for _ in 0..x.len() / self.inputs {
            y.extend_from_slice(b);
        }
        multiply_add(x, w, y, self.inputs, self.outputs);
        self.activation.apply(y);
    }

    /// From the gradient by the outputs (spoilt afterwards) to those by the parameters, which are
    /// added to `gradient`, and by the inputs, which are added to `dx`.
    pub fn backward(
        &self,
        parameters: &[f32],
        x: &[f32],
        y: &[f32],
        dy: &mut [f32],
        gradient: &mut [f32],
        dx: Option<&mut [f32]>,
    ) {
        for (d, y) in dy.iter_mut().zip(y) {
            *d *= self.activation.slope(*y);
        }
        let own = &mut gradient[self.at..][..self.parameters()];
        let (dw, db) = own.split_at_mut(self.inputs * self.outputs);
        outer_add(x, dy, dw, self.inputs, self.outputs);
        add_rows(dy, db);
        if let Some(dx) = dx {
            let (w, _) = self.split(parameters);
            multiply_transposed_add(dy, w, dx, self.outputs, self.inputs);
        }
    }
}
