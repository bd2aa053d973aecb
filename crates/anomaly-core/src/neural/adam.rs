//! Adam (Kingma & Ba, "Adam: a method for stochastic optimization", ICLR 2015, algorithm 1).

const BETA_1: f64 = 0.9;
const BETA_2: f64 = 0.999;
const EPSILON: f32 = 1e-8;

/// The moments of all parameters of a network.
#[derive(Debug, Clone, PartialEq)]
pub struct Adam {
    learning_rate: f64,
    first: Vec<f32>,
    second: Vec<f32>,
    /// beta to the power of the steps made.
    beta_1: f64,
    beta_2: f64,
}

impl Adam {
    pub fn new(parameters: usize, learning_rate: f64) -> Self {
        Adam {
            learning_rate,
            first: vec![0.0; parameters],
            second: vec![0.0; parameters],
            beta_1: 1.0,
            beta_2: 1.0,
        }
    }

    /// Moves the parameters one step against their gradient.
    pub fn step(&mut self, parameters: &mut [f32], gradient: &[f32]) {
        self.beta_1 *= BETA_1;
        self.beta_2 *= BETA_2;
        let rate = (self.learning_rate / (1.0 - self.beta_1)) as f32;
        let scale = (1.0 / (1.0 - self.beta_2).sqrt()) as f32;
        let (b1, b2) = (BETA_1 as f32, BETA_2 as f32);
        let (c1, c2) = ((1.0 - BETA_1) as f32, (1.0 - BETA_2) as f32);
        let moments = self.first.iter_mut().zip(&mut self.second);
        for ((p, g), (m, v)) in parameters.iter_mut().zip(gradient).zip(moments) {
            *m = b1 * *m + c1 * g;
            *v = b2 * *v + c2 * (g * g);
            *p -= rate * *m / (v.sqrt() * scale + EPSILON);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first step is the learning rate whatever the gradient's size is, and a quadratic is
    /// brought to its minimum.
    #[test]
    fn steps_have_the_size_of_the_rate() {
        for scale in [1e-3f32, 1.0, 1e3] {
            let mut p = [1.0f32, -2.0];
            Adam::new(2, 0.01).step(&mut p, &[scale, -scale]);
            assert!((p[0] - 0.99).abs() < 1e-5 && (p[1] + 1.99).abs() < 1e-5, "{p:?}");
        }
        let mut p = [3.0f32];
        let mut adam = Adam::new(1, 0.05);
        for _ in 0..500 {
            let g = [2.0 * (p[0] - 1.0)];
            adam.step(&mut p, &g);
        }
        assert!((p[0] - 1.0).abs() < 1e-2, "{p:?}");
    }
}
