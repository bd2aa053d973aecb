//! Inverted dropout (Srivastava et al., "Dropout", JMLR 15, 2014): what is kept grows by 1/(1 − rate), so that
//! nothing has to change when the network is used.

use super::Random;

/// A mask of factors, 0 or 1/(1 − rate).
pub fn mask(random: &mut Random, rate: f32, n: usize) -> Vec<f32> {
    if rate <= 0.0 {
        return vec![1.0; n];
    }
    let kept = 1.0 / (1.0 - rate);
    (0..n).map(|_| if random.unit() < f64::from(rate) { 0.0 } else { kept }).collect()
}

/// Forwards on values and backwards on their gradients alike.
pub fn apply(values: &mut [f32], mask: &[f32]) {
    for (v, m) in values.iter_mut().zip(mask) {
        *v *= m;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_mean() {
        let mask = mask(&mut Random::new(3, 4), 0.2, 50_000);
        let mean = mask.iter().map(|m| f64::from(*m)).sum::<f64>() / 50_000.0;
        assert!((mean - 1.0).abs() < 0.01, "{mean}");
        assert!(mask.iter().all(|m| *m == 0.0 || (*m - 1.25).abs() < 1e-6));
        let mut values = vec![2.0; 50_000];
        apply(&mut values, &mask);
        assert!(values.iter().zip(&mask).all(|(v, m)| *v == 2.0 * m));
        assert_eq!(super::mask(&mut Random::new(3, 4), 0.0, 3), [1.0; 3]);
    }
}
