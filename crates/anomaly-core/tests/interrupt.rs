//! What fits itself anew between two points asks whether to go on. A file of its own: the hook is for
//! the whole process.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use anomaly_core::{Point, progress};
use common::{Rng, with_alpha};

static ASKED: AtomicU64 = AtomicU64::new(0);
static STOP_AT: AtomicU64 = AtomicU64::new(u64::MAX);

fn interrupt() {
    let asked = ASKED.fetch_add(1, Ordering::Relaxed) + 1;
    assert!(asked < STOP_AT.load(Ordering::Relaxed), "interrupted");
}

#[test]
fn fault_m5_a_fit_can_be_interrupted() {
    progress::interrupt_by(interrupt);
    // As many points as the first fit waits for.
    for (strategy, points) in
        [("learning_one_class_svm", 300), ("learning_autoencoder", 300), ("learning_lstm", 770)]
    {
        let detector = with_alpha(strategy, 0.001);
        let train = || {
            let mut rng = Rng(7);
            let mut state = detector.new_state();
            for i in 0..points {
                let point = Point::new(i * 600_000_000, (i % 144) as f64 / 7.0 + rng.normal());
                detector.train(&mut state, &point);
            }
            detector.encode_state(&state).unwrap()
        };
        ASKED.store(0, Ordering::Relaxed);
        STOP_AT.store(u64::MAX, Ordering::Relaxed);
        let whole = train();
        let asked = ASKED.load(Ordering::Relaxed);
        assert!(asked >= 20, "{strategy} asked {asked} times");

        ASKED.store(0, Ordering::Relaxed);
        STOP_AT.store(asked / 2, Ordering::Relaxed);
        assert!(catch_unwind(AssertUnwindSafe(train)).is_err(), "{strategy} went on");
        assert_eq!(ASKED.load(Ordering::Relaxed), asked / 2, "{strategy} went on");

        // Nothing of the one that was interrupted is left anywhere.
        STOP_AT.store(u64::MAX, Ordering::Relaxed);
        assert_eq!(train(), whole, "{strategy}");
    }
}
