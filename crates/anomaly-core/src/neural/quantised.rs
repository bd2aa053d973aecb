//! Parameters in one byte each: 8 bits with a step per group, symmetric around 0 (Jacob et al.,
//! "Quantization and training of neural networks for efficient integer-arithmetic-only inference",
//! CVPR 2018, §2, with a zero point of 0). A network that is stored so is also used so: what decodes
//! is what was encoded.

use crate::Result;
use crate::codec::Reader;

const STEPS: f32 = 127.0;
/// Parameters with a common step.
const GROUP: usize = 64;
/// No trained network has a parameter beyond some tens.
const MAX_STEP: f32 = 1e6;

#[derive(Debug, Clone, PartialEq)]
pub struct Quantised {
    steps: Vec<f32>,
    levels: Vec<i8>,
}

impl Quantised {
    /// The nearest to finite parameters.
    pub fn of(parameters: &[f32]) -> Self {
        let mut levels = Vec::with_capacity(parameters.len());
        let steps = parameters
            .chunks(GROUP)
            .map(|group| {
                let largest =
                    group.iter().fold(0.0f32, |a, p| if p.abs() > a { p.abs() } else { a });
                let step = (largest / STEPS).min(MAX_STEP);
                let level = |p: f32| (p / step).round().clamp(-STEPS, STEPS) as i8;
                levels.extend(group.iter().map(|p| if step > 0.0 { level(*p) } else { 0 }));
                step
            })
            .collect();
        Quantised { steps, levels }
    }

    pub fn parameters(&self) -> Vec<f32> {
        let groups = self.levels.chunks(GROUP).zip(&self.steps);
        groups.flat_map(|(group, step)| group.iter().map(move |l| f32::from(*l) * step)).collect()
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        for step in &self.steps {
            out.extend_from_slice(&step.to_le_bytes());
        }
        out.extend(self.levels.iter().map(|l| *l as u8));
    }

    pub fn decode(reader: &mut Reader<'_>, parameters: usize) -> Result<Self> {
        let groups = reader.take(4 * parameters.div_ceil(GROUP))?.as_chunks::<4>().0;
        let steps: Vec<f32> = groups.iter().map(|b| f32::from_le_bytes(*b)).collect();
        // written so that NaN is refused
        if !steps.iter().all(|step| (0.0..=MAX_STEP).contains(step)) {
            return Err(reader.corrupted("step of parameters out of range"));
        }
        let levels = reader.take(parameters)?.iter().map(|l| *l as i8).collect();
        Ok(Quantised { steps, levels })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::neural::Random;

    #[test]
    fn stored_parameters_are_near_and_come_back_the_same() {
        let mut random = Random::new(5, 6);
        let mut parameters: Vec<f32> = (0..1000).map(|_| random.normal() as f32).collect();
        parameters[64..128].fill(0.0);
        let quantised = Quantised::of(&parameters);
        let near = quantised.parameters();
        for (group, exact) in near.chunks(GROUP).zip(parameters.chunks(GROUP)) {
            let largest = exact.iter().fold(0.0f32, |a, p| a.max(p.abs()));
            assert!(group.iter().zip(exact).all(|(a, b)| (a - b).abs() <= 0.51 * largest / STEPS));
        }
        let mut bytes = Vec::new();
        quantised.encode(&mut bytes);
        assert_eq!(bytes.len(), 1000 + 4 * 16);
        let mut reader = Reader::new(&bytes);
        assert_eq!(Quantised::decode(&mut reader, 1000).as_ref(), Ok(&quantised));
        assert_eq!(reader.remaining(), 0);
        assert!(Quantised::decode(&mut Reader::new(&bytes[..900]), 1000).is_err());
        for bad in [f32::NAN, f32::INFINITY, -1.0, 1e7] {
            bytes[..4].copy_from_slice(&bad.to_le_bytes());
            assert!(Quantised::decode(&mut Reader::new(&bytes), 1000).is_err(), "{bad}");
        }
    }
}
