//! Layers, gradients and training of networks, against TensorFlow and against finite differences.
//!
//! Reference numbers are of TensorFlow 2.21.0 with every parameter and input set by [`fill`], tensor
//! number i (kernel, recurrent kernel, bias of each layer in turn) with phase 3 + i.

use anomaly_core::neural::lstm::Trace;
use anomaly_core::neural::{Activation, Adam, Dense, Lstm, Random};

/// `0.5·sin(0.37·j + phase)`.
fn fill(n: usize, phase: f64) -> Vec<f32> {
    (0..n).map(|j| (0.5 * libm::sin(0.37 * j as f64 + phase)) as f32).collect()
}

const STEPS: usize = 5;
const BATCH: usize = 3;

/// LSTM(6), LSTM(3), Dense(1) over two columns.
struct Recurrent {
    first: Lstm,
    second: Lstm,
    output: Dense,
    parameters: Vec<f32>,
    sizes: [usize; 8],
    x: Vec<f32>,
    y: Vec<f32>,
    traces: [Trace; 2],
    out: Vec<f32>,
}

impl Recurrent {
    fn new() -> Self {
        let first = Lstm { at: 0, inputs: 2, units: 6 };
        let second = Lstm { at: first.parameters(), inputs: 6, units: 3 };
        let at = second.at + second.parameters();
        let output = Dense { at, inputs: 3, outputs: 1, activation: Activation::Linear };
        let sizes = [2 * 24, 6 * 24, 24, 6 * 12, 3 * 12, 12, 3, 1];
        let parameters: Vec<f32> =
            sizes.iter().enumerate().flat_map(|(i, n)| fill(*n, 3.0 + i as f64)).collect();
        assert_eq!(parameters.len(), at + output.parameters());
        Recurrent {
            first,
            second,
            output,
            parameters,
            sizes,
            x: fill(STEPS * BATCH * 2, 1.0),
            y: fill(STEPS * BATCH, 2.0),
            traces: Default::default(),
            out: Vec::new(),
        }
    }

    fn loss(&mut self) -> f64 {
        let [first, second] = &mut self.traces;
        self.first.forward(&self.parameters, &self.x, BATCH, first);
        self.second.forward(&self.parameters, &first.h, BATCH, second);
        self.output.forward(&self.parameters, &second.h, &mut self.out);
        let off = |(o, y): (&f32, &f32)| f64::from(o - y) * f64::from(o - y);
        self.out.iter().zip(&self.y).map(off).sum::<f64>() / self.y.len() as f64
    }

    /// After [`Recurrent::loss`], by the parameters and by the inputs.
    fn gradient(&mut self) -> (Vec<f32>, Vec<f32>) {
        let n = self.y.len() as f32;
        let mut dy: Vec<f32> =
            self.out.iter().zip(&self.y).map(|(o, y)| 2.0 * (o - y) / n).collect();
        let mut gradient = vec![0.0; self.parameters.len()];
        let [first, second] = &mut self.traces;
        let p = &self.parameters;
        let mut dh = vec![0.0; second.h.len()];
        let h = second.h.clone();
        self.output.backward(p, &h, &self.out, &mut dy, &mut gradient, Some(&mut dh));
        let mut dx = vec![0.0; first.h.len()];
        let seen = first.h.clone();
        self.second.backward(p, &seen, BATCH, second, &dh, &mut gradient, Some(&mut dx));
        let mut inputs = vec![0.0; self.x.len()];
        self.first.backward(p, &self.x, BATCH, first, &dx, &mut gradient, Some(&mut inputs));
        (gradient, inputs)
    }
}

#[rustfmt::skip]
const FORWARD: [f64; 15] = [
    -0.27181146, -0.27316564, -0.27468809, -0.2756238, -0.27663976, -0.2718778, -0.27338979,
    -0.27467, -0.27564588, -0.27672556, -0.27210453, -0.27359945, -0.27467906, -0.27576709,
    -0.27677175,
];
const LOSS: f64 = 0.14975926;
/// Of each tensor: sum, sum of sizes, first, last.
#[rustfmt::skip]
const GRADIENTS: [[f64; 4]; 8] = [
    [-5.6221004e-05, 0.0031912818, -3.7449005e-05, -5.6167613e-05],
    [0.00032537535, 0.0082343007, 2.7791333e-07, 9.7343458e-05],
    [-0.00053756544, 0.015193395, 8.7435474e-06, -0.00064527214],
    [0.0079763988, 0.050517116, -1.0051455e-05, 0.0012873843],
    [0.0028677075, 0.019823924, -0.00023790449, 0.00077083742],
    [-0.011069389, 0.067783907, 0.0032150084, -0.0063781776],
    [0.17031731, 0.17031731, 0.045567591, 0.065749526],
    [-0.42002031, 0.42002031, -0.42002031, -0.42002031],
];
/// Before each of six steps of Adam with rate 0.01.
#[rustfmt::skip]
const LOSSES: [f64; 6] = [0.14975926, 0.14264788, 0.13641481, 0.13101162, 0.12638195, 0.12247112];
#[rustfmt::skip]
const AFTER: [f64; 15] = [
    -0.18653737, -0.17236623, -0.16350383, -0.15803517, -0.15433152, -0.18703774, -0.1729537,
    -0.16381633, -0.15835863, -0.15447845, -0.18777506, -0.17335047, -0.16417055, -0.15869586,
    -0.15463574,
];

/// TensorFlow has the batch first.
fn by_example(out: &[f32]) -> Vec<f32> {
    (0..BATCH).flat_map(|b| (0..STEPS).map(move |t| out[t * BATCH + b])).collect()
}

fn near(own: &[f32], reference: &[f64], tolerance: f64) {
    assert_eq!(own.len(), reference.len());
    for (a, b) in own.iter().zip(reference) {
        assert!((f64::from(*a) - b).abs() < tolerance, "{own:?} for {reference:?}");
    }
}

#[test]
fn lstm_is_that_of_tensorflow() {
    let mut net = Recurrent::new();
    let loss = net.loss();
    near(&by_example(&net.out), &FORWARD, 1e-6);
    assert!((loss - LOSS).abs() < 1e-6, "{loss}");
    let (gradient, _) = net.gradient();
    let mut at = 0;
    for (n, reference) in net.sizes.into_iter().zip(GRADIENTS) {
        let own: Vec<f64> = gradient[at..at + n].iter().map(|g| f64::from(*g)).collect();
        let figures = [own.iter().sum(), own.iter().map(|g| g.abs()).sum(), own[0], own[n - 1]];
        for (a, b) in figures.into_iter().zip(reference) {
            let size = reference[1] / n as f64;
            assert!((a - b).abs() < 2e-3 * size + 1e-3 * b.abs(), "{figures:?} for {reference:?}");
        }
        at += n;
    }
}

#[test]
fn six_steps_of_adam_are_those_of_tensorflow() {
    let mut net = Recurrent::new();
    let mut adam = Adam::new(net.parameters.len(), 0.01);
    for reference in LOSSES {
        let loss = net.loss();
        assert!((loss - reference).abs() < 3e-5, "{loss} for {reference}");
        let (gradient, _) = net.gradient();
        adam.step(&mut net.parameters, &gradient);
    }
    net.loss();
    // the first steps divide gradients of 1e-7 by their own size, and these are rounded differently
    near(&by_example(&net.out), &AFTER, 3e-4);
}

/// Central differences.
#[test]
fn lstm_gradients_are_slopes() {
    let mut net = Recurrent::new();
    // away from saturation, so that every part of the gradient shows
    net.parameters.iter_mut().for_each(|p| *p *= 0.7);
    net.loss();
    let (gradient, inputs) = net.gradient();
    let size = gradient.iter().map(|g| f64::from(g.abs())).sum::<f64>() / gradient.len() as f64;
    const E: f32 = 0.02;
    for (i, own) in gradient.iter().enumerate() {
        let p = net.parameters[i];
        net.parameters[i] = p + E;
        let up = net.loss();
        net.parameters[i] = p - E;
        let down = net.loss();
        net.parameters[i] = p;
        let slope = (up - down) / (2.0 * f64::from(E));
        let own = f64::from(*own);
        assert!((slope - own).abs() < 0.02 * size + 0.01 * own.abs(), "{i}: {own} for {slope}");
    }
    let size = inputs.iter().map(|g| f64::from(g.abs())).sum::<f64>() / inputs.len() as f64;
    for (i, own) in inputs.iter().enumerate() {
        let x = net.x[i];
        net.x[i] = x + E;
        let up = net.loss();
        net.x[i] = x - E;
        let down = net.loss();
        net.x[i] = x;
        let slope = (up - down) / (2.0 * f64::from(E));
        let own = f64::from(*own);
        assert!((slope - own).abs() < 0.02 * size + 0.01 * own.abs(), "{i}: {own} for {slope}");
    }
}

const WIDTHS: [(usize, usize, Activation); 4] = [
    (4, 3, Activation::Relu),
    (3, 2, Activation::Tanh),
    (2, 3, Activation::Sigmoid),
    (3, 4, Activation::Linear),
];

/// A chain of [`WIDTHS`] that gives back its input.
struct Chain {
    layers: Vec<Dense>,
    parameters: Vec<f32>,
    x: Vec<f32>,
    outputs: Vec<Vec<f32>>,
}

impl Chain {
    fn new() -> Self {
        let mut at = 0;
        let mut parameters = Vec::new();
        let mut layers = Vec::new();
        let mut tensor = 0.0;
        for (inputs, outputs, activation) in WIDTHS {
            let layer = Dense { at, inputs, outputs, activation };
            at += layer.parameters();
            layers.push(layer);
            for n in [inputs * outputs, outputs] {
                parameters.extend(fill(n, 0.5 * tensor * tensor).iter().map(|p| 2.0 * p));
                tensor += 1.0;
            }
        }
        let x = fill(20, 1.0).iter().map(|x| 2.0 * x).collect();
        Chain { layers, parameters, x, outputs: vec![Vec::new(); 4] }
    }

    fn loss(&mut self) -> f64 {
        let mut x = self.x.clone();
        for (layer, y) in self.layers.iter().zip(&mut self.outputs) {
            layer.forward(&self.parameters, &x, y);
            x.clone_from(y);
        }
        let off = |(a, b): (&f32, &f32)| f64::from(a - b) * f64::from(a - b);
        x.iter().zip(&self.x).map(off).sum::<f64>() / x.len() as f64
    }

    fn gradient(&self) -> Vec<f32> {
        let n = self.x.len() as f32;
        let mut gradient = vec![0.0; self.parameters.len()];
        let mut dy: Vec<f32> =
            self.outputs[3].iter().zip(&self.x).map(|(a, b)| 2.0 * (a - b) / n).collect();
        for i in (0..4).rev() {
            let x = if i == 0 { &self.x } else { &self.outputs[i - 1] };
            let mut dx = vec![0.0; x.len()];
            let y = &self.outputs[i];
            self.layers[i].backward(&self.parameters, x, y, &mut dy, &mut gradient, Some(&mut dx));
            dy = dx;
        }
        gradient
    }
}

#[rustfmt::skip]
const DENSE_FORWARD: [f64; 20] = [
    0.060923398, 0.56096953, 0.98509103, 1.2758851, 0.050560296, 0.43897063, 0.76796836,
    0.99302518, -0.0093226433, 0.35208952, 0.66584796, 0.88948703, -0.011944532, 0.3520658,
    0.66842562, 0.89431715, 0.049427629, 0.5479883, 0.97238135, 1.2651671,
];
#[rustfmt::skip]
const DENSE_LOSSES: [f64; 6] = [0.74842483, 0.71150678, 0.6782645, 0.64867014, 0.62255782, 0.59954321];

/// Relu, tanh, sigmoid and linear layers; tensor number i has amplitude 1 and phase i²/2.
#[test]
fn dense_layers_are_those_of_tensorflow() {
    let mut chain = Chain::new();
    chain.loss();
    near(&chain.outputs[3], &DENSE_FORWARD, 1e-6);
    let mut adam = Adam::new(chain.parameters.len(), 0.01);
    for reference in DENSE_LOSSES {
        let loss = chain.loss();
        assert!((loss - reference).abs() < 1e-5, "{loss} for {reference}");
        let gradient = chain.gradient();
        adam.step(&mut chain.parameters, &gradient);
    }
}

#[test]
fn dense_gradients_are_slopes() {
    let mut chain = Chain::new();
    chain.loss();
    let gradient = chain.gradient();
    const E: f32 = 1e-2;
    for (i, own) in gradient.iter().enumerate() {
        let p = chain.parameters[i];
        chain.parameters[i] = p + E;
        let up = chain.loss();
        chain.parameters[i] = p - E;
        let down = chain.loss();
        chain.parameters[i] = p;
        let (slope, own) = ((up - down) / (2.0 * f64::from(E)), f64::from(*own));
        assert!((slope - own).abs() < 2e-3, "{i}: {own} for {slope}");
    }
}

/// A sequence alone gives the bits that it gives among others.
#[test]
fn batches_change_nothing() {
    let mut net = Recurrent::new();
    net.loss();
    let together = by_example(&net.out);
    for b in 0..BATCH {
        let x: Vec<f32> =
            (0..STEPS).flat_map(|t| net.x[(t * BATCH + b) * 2..][..2].to_vec()).collect();
        let [first, second] = &mut net.traces;
        net.first.forward(&net.parameters, &x, 1, first);
        net.second.forward(&net.parameters, &first.h, 1, second);
        net.output.forward(&net.parameters, &second.h, &mut net.out);
        assert_eq!(net.out, together[b * STEPS..][..STEPS]);
    }
}

#[test]
fn the_start_follows_from_the_seed() {
    let net = Recurrent::new();
    let start = |seed| {
        let mut p = vec![9.0; net.parameters.len()];
        let mut random = Random::new(seed, 0);
        net.first.initialise(&mut p, &mut random);
        net.second.initialise(&mut p, &mut random);
        net.output.initialise(&mut p, &mut random);
        p
    };
    assert_eq!(start(1), start(1));
    assert_ne!(start(1), start(2));
    assert!(start(1).iter().all(|p| p.abs() <= 1.5));
    // the forget gate's biases
    let at = net.first.at + 24 * 8;
    assert_eq!(start(1)[at..at + 24], [[0.0; 6], [1.0; 6], [0.0; 6], [0.0; 6]].concat());
}
