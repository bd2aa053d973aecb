//! What all random numbers of the crate are made of. Their streams are part of what models and states
//! depend on.

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014).
pub(crate) fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// [0, 1) in steps of 2⁻⁵³ from random bits.
pub(crate) fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// A whole number below `n` ≥ 1 from random bits, by multiplication (Lemire 2019, without the
/// rejection: off from uniform by at most n·2⁻⁶⁴).
pub(crate) fn below(bits: u64, n: usize) -> usize {
    ((u128::from(bits) * n as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_stream() {
        assert_eq!(mix(0), 0xE220_A839_7B1D_CDAF);
        assert_eq!(mix(0x9E37_79B9_7F4A_7C15), 0x6E78_9E6A_A1B9_65F4);
    }

    #[test]
    fn ends_of_the_ranges() {
        assert_eq!((unit(0), below(0, 7)), (0.0, 0));
        assert!(unit(u64::MAX) < 1.0);
        assert_eq!((below(u64::MAX, 7), below(u64::MAX, 1)), (6, 0));
    }
}
