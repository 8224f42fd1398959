//! Rotates queries and keys by their positions.

use lockstep_exact::num::sin_cos_of_turn;

use crate::isa::per_isa;

/// Sines and cosines of one position's pairs: made once, used by every head.
#[derive(Clone, Debug, Default)]
pub(crate) struct Angles {
    sines: Vec<f32>,
    cosines: Vec<f32>,
}

impl Angles {
    /// Sets the angles to those at `position`, from the turn per position of each pair.
    pub(crate) fn set(&mut self, frequencies: &[u64], position: usize) {
        self.sines.clear();
        self.cosines.clear();
        for frequency in frequencies {
            let (sine, cosine) = sin_cos_of_turn(frequency.wrapping_mul(position as u64));
            self.sines.push(sine);
            self.cosines.push(cosine);
        }
    }
}

/// Rotates a head: element i with element i + pairs.
pub(crate) fn rotate(isa: crate::isa::Isa, angles: &Angles, head: &mut [f32]) {
    let (first, rest) = head.split_at_mut(angles.sines.len());
    let second = &mut rest[..angles.sines.len()];
    rotate_pairs(isa, &angles.sines, &angles.cosines, first, second);
}

per_isa! {
    fn rotate_pairs(
        isa: Isa,
        sines: &[f32],
        cosines: &[f32],
        first: &mut [f32],
        second: &mut [f32],
    ) {
        let pairs = first.iter_mut().zip(second);
        for ((a, b), (sine, cosine)) in pairs.zip(sines.iter().zip(cosines)) {
            (*a, *b) = (*a * cosine - *b * sine, *b * cosine + *a * sine);
        }
    }
}
