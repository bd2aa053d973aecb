//! What one forecast of the default LSTM costs, and one of its training steps: the least of many, in
//! microseconds. `cargo run --release -p anomaly-core --example lstm_cost`

use std::time::Instant;

use anomaly_core::lstm::{LstmForecaster, LstmOptions, Sequence, Workspace};
use anomaly_core::neural::{Budget, FitOptions};
use anomaly_core::progress::Unbounded;

fn least(times: usize, mut work: impl FnMut()) -> f64 {
    (0..times)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed().as_secs_f64() * 1e6
        })
        .fold(f64::INFINITY, f64::min)
}

fn main() -> anomaly_core::Result<()> {
    let options = LstmOptions::default();
    let network = LstmForecaster::new(1, &options)?;
    let rows: Vec<f32> = (0..10).map(|i| i as f32 / 10.0).collect();
    let mut space = Workspace::default();
    let mut sum = 0.0;
    let forecast = least(2000, || sum += network.forecast(&rows, &mut space));
    println!("forecast from 10 rows, 64 and 32 units: {forecast:.1} us ({sum})");

    let xs: Vec<f32> = (0..1025).map(|i| libm::sinf(i as f32 / 4.0)).collect();
    let follows: Vec<bool> = (0..1024).map(|i| i > 0).collect();
    let sequence =
        Sequence { rows: &xs[..1024], targets: &xs[1..], follows: &follows, season: None };
    let one = LstmOptions { fit: FitOptions { epochs: 1, ..options.fit }, ..options };
    let mut unbounded = Unbounded;
    let epoch = least(5, || {
        let mut network = network.clone();
        let trained = network.train(&sequence, &one, &mut Budget::unbounded(&mut unbounded));
        assert!(trained.is_ok());
    });
    println!("training, one epoch over 1024 rows: {epoch:.0} us");
    Ok(())
}
