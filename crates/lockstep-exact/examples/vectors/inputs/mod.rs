//! The inputs of all vectors, in the files that hold them. The same build gives the same inputs.

mod attention;
mod encodings;
mod layer;
mod manifest;
mod models;
mod numbers;
mod sampler;

use lockstep_testing::numbers::Numbers;
use serde_json::Value;

/// One file of vectors.
pub(crate) struct File {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) cases: Cases,
}

/// Operations and their inputs.
pub(crate) type Cases = Vec<(&'static str, Value)>;

/// All files.
pub(crate) fn files() -> Vec<File> {
    let file = |name, about, cases| File { name, about, cases };
    vec![
        file("attention.json", "rotation, KV rows and attention", attention::cases()),
        file("encodings.json", "digests and canonical bytes", encodings::cases()),
        file("field.json", "integers modulo 2^61 - 1", numbers::field_cases()),
        file("layer.json", "the other operations of a layer", layer::cases()),
        file("manifest.json", "a manifest, its bytes and what is refused", manifest::cases()),
        file("model.json", "seeded models end to end", models::cases()),
        file("numbers.json", "numbers, blocks and quantisation", numbers::cases()),
        file("sampler.json", "sampling and stop rules", sampler::cases()),
    ]
}

/// Seeded inputs.
pub(crate) struct Dice(Numbers);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Numbers::new(seed))
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0.below(bound)
    }

    pub(crate) fn word(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Any sign and mantissa, with a binary exponent in `low..=high`.
    pub(crate) fn f32(&mut self, low: i32, high: i32) -> f32 {
        let exponent = low + self.0.below((high - low + 1) as u64) as i32;
        let bits = (self.0.next_u64() as u32 & 0x807f_ffff) | ((exponent + 127) as u32) << 23;
        f32::from_bits(bits)
    }

    pub(crate) fn f32s(&mut self, count: usize, low: i32, high: i32) -> Vec<f32> {
        (0..count).map(|_| self.f32(low, high)).collect()
    }

    /// An integer of magnitude up to `largest`.
    pub(crate) fn signed(&mut self, largest: i64) -> i64 {
        self.0.below(2 * largest as u64 + 1) as i64 - largest
    }
}
