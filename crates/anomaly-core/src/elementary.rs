//! Logarithms and exponentials of many numbers at a time, several times as fast as one by one.
//!
//! Without branches and tables, which lets compilers use vectors (of two where there is nothing better:
//! lengths are even), and of plain IEEE operations, which give the same bits everywhere.

/// 2^52, which has room for an exponent in its low bits.
const ROOM: f64 = 4_503_599_627_370_496.0;

/// ln of positive, normal numbers in place. The error is below 5e-16, of logarithms beyond 1 below so
/// much of their size.
#[inline(always)]
pub(crate) fn ln_each<const N: usize>(numbers: &mut [f64; N]) {
    const ONE: u64 = 1.0_f64.to_bits();
    const OFFSET: u64 = ONE - std::f64::consts::FRAC_1_SQRT_2.to_bits();
    const MANTISSA: u64 = (1 << 52) - 1;
    const C: [f64; 10] = {
        let mut c = [0.0; 10];
        let mut n = 0;
        while n < 10 {
            c[n] = 1.0 / (2 * n + 3) as f64;
            n += 1;
        }
        c
    };
    for x in numbers {
        // x = m·2^k with m from 1/√2 to √2, and ln m = 2 artanh s
        let bits = x.to_bits() + OFFSET;
        let k = f64::from_bits(ROOM.to_bits() | bits >> 52) - (ROOM + 1023.0);
        let m = f64::from_bits((bits & MANTISSA) + (ONE - OFFSET));
        let s = (m - 1.0) / (m + 1.0);
        // artanh s = s + s·(s²/3 + s⁴/5 + …)
        let z = s * s;
        let (z2, z4) = (z * z, z * z * (z * z));
        let low = C[0] + C[1] * z + (C[2] + C[3] * z) * z2;
        let high = C[4] + C[5] * z + (C[6] + C[7] * z) * z2;
        let series = low + (high + (C[8] + C[9] * z) * z4) * z4;
        *x = k * std::f64::consts::LN_2 + 2.0 * (s + s * (series * z));
    }
}

/// eˣ in place, the relative error below 1e-15; x counts as −708 or 709 where it is beyond.
#[inline(always)]
pub(crate) fn exp_each<const N: usize>(numbers: &mut [f64; N]) {
    const LN_2_HIGH: f64 = f64::from_bits(std::f64::consts::LN_2.to_bits() & !0xffff_ffff);
    // ln 2 less that
    const LN_2_LOW: f64 = 4.749_325_039_031_672_6e-7;
    // rounds what is added to it to a whole number, in its low bits
    const ROUND: f64 = 1.5 * ROOM;
    const C: [f64; 14] = {
        let mut c = [1.0; 14];
        let mut n = 1;
        while n < 14 {
            c[n] = c[n - 1] / n as f64;
            n += 1;
        }
        c
    };
    for x in numbers {
        // x = k·ln 2 + r with |r| ≤ ½ ln 2, and e^r by its series
        let v = if *x > -708.0 { *x } else { -708.0 };
        let v = if v < 709.0 { v } else { 709.0 };
        let shifted = v * std::f64::consts::LOG2_E + ROUND;
        let k = shifted - ROUND;
        let r = v - k * LN_2_HIGH - k * LN_2_LOW;
        let r2 = r * r;
        let r4 = r2 * r2;
        let a = C[0] + C[1] * r + (C[2] + C[3] * r) * r2;
        let b = C[4] + C[5] * r + (C[6] + C[7] * r) * r2;
        let c = C[8] + C[9] * r + (C[10] + C[11] * r) * r2;
        let series = a + (b + (c + (C[12] + C[13] * r) * r4) * r4) * r4;
        let power = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(1023) << 52;
        *x = series * f64::from_bits(power);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whole numbers and thirds of steps over a range, four at a time.
    fn over(from: f64, to: f64, mut check: impl FnMut([f64; 4])) {
        let steps = 200_000;
        for i in 0..steps {
            let x = from + (to - from) * f64::from(i) / f64::from(steps);
            check([x, x.round(), x / 3.0, x * 1e-9]);
        }
    }

    #[test]
    fn logarithms_are_those_of_libm() {
        let close = |numbers: [f64; 4]| {
            let mut logarithms = numbers;
            ln_each(&mut logarithms);
            for (x, ln) in numbers.into_iter().zip(logarithms) {
                let (exact, error) = (libm::log(x), ln - libm::log(x));
                assert!(
                    error.abs() <= 5e-16 * exact.abs().max(1.0),
                    "ln {x}: {ln}, off by {error}"
                );
            }
        };
        close([1.0, f64::MIN_POSITIVE, f64::MAX, std::f64::consts::SQRT_2]);
        close([0.5, std::f64::consts::FRAC_1_SQRT_2, 1.0 - 1e-16, 1.0 + 3e-16]);
        over(-700.0, 700.0, |x| close(x.map(libm::exp)));
        over(0.51, 3.0, close);
    }

    #[test]
    fn exponentials_are_those_of_libm() {
        let close = |numbers: [f64; 4]| {
            let mut powers = numbers;
            exp_each(&mut powers);
            for (x, power) in numbers.into_iter().zip(powers) {
                let error = power / libm::exp(x) - 1.0;
                assert!(error.abs() <= 1e-15, "e^{x}: {power}, off by {error}");
            }
        };
        over(-708.0, 709.0, close);
        over(-1.0, 1.0, close);
        let mut beyond = [f64::MIN, f64::NEG_INFINITY, f64::MAX, f64::INFINITY];
        exp_each(&mut beyond);
        assert!(beyond[0] > 0.0 && beyond[0] < 1e-300 && beyond[1] == beyond[0], "{beyond:?}");
        assert!(beyond[2].is_finite() && beyond[2] > 1e300 && beyond[3] == beyond[2], "{beyond:?}");
    }
}
