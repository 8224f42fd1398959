//! How well each layer is served, and the window of layers that is served worst.

use std::ops::Range;

use super::super::machines::LAYERS;

/// The supply of each layer, in tokens per second.
pub(super) struct Supply([f64; LAYERS as usize]);

impl Default for Supply {
    fn default() -> Self {
        Self([0.0; LAYERS as usize])
    }
}

impl Supply {
    /// Adds this much to every layer of a span.
    pub(super) fn add(&mut self, span: &Range<u32>, rate: f64) {
        for layer in span.clone() {
            self.0[layer as usize] += rate;
        }
    }

    /// Returns the supply of the layer that has least.
    pub(super) fn least(&self) -> f64 {
        self.0.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// Returns the window of `length` layers whose sorted supplies are the least in the order of a
    /// dictionary, and of equal ones the first.
    pub(super) fn weakest(&self, length: u32) -> Range<u32> {
        let length = length.clamp(1, LAYERS);
        let sorted = |first: u32| {
            let mut window = self.0[first as usize..(first + length) as usize].to_vec();
            window.sort_by(f64::total_cmp);
            window
        };
        let mut best = (sorted(0), 0);
        for first in 1..=LAYERS - length {
            let window = sorted(first);
            let mut unequal = window.iter().zip(&best.0).map(|(one, other)| one.total_cmp(other));
            if unequal.find(|order| order.is_ne()).is_some_and(std::cmp::Ordering::is_lt) {
                best = (window, first);
            }
        }
        best.1..best.1 + length
    }
}
