//! What a case records: bits, with any NaN as one, because none ever leaves an operation.

use lockstep_exact::flags::Flags;
use lockstep_exact::state::State;

/// All bits that came out of a case, in order, with what they are.
#[derive(Default)]
pub(crate) struct Record {
    bytes: Vec<u8>,
    /// Where each part ends, and its name.
    parts: Vec<(usize, String)>,
}

impl Record {
    pub(crate) const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn put(&mut self, what: impl Into<String>, bytes: impl IntoIterator<Item = u8>) {
        self.bytes.extend(bytes);
        self.parts.push((self.bytes.len(), what.into()));
    }

    pub(crate) fn floats(&mut self, what: impl Into<String>, values: &[f32]) {
        let bits = |x: &f32| if x.is_nan() { 0x7fc0_0000 } else { x.to_bits() };
        self.put(what, values.iter().flat_map(|x| bits(x).to_le_bytes()));
    }

    pub(crate) fn codes(&mut self, what: impl Into<String>, values: &[i16]) {
        self.put(what, values.iter().flat_map(|x| x.to_le_bytes()));
    }

    pub(crate) fn sums(&mut self, what: impl Into<String>, values: &[i64]) {
        self.put(what, values.iter().flat_map(|x| x.to_le_bytes()));
    }

    pub(crate) fn bytes(&mut self, what: impl Into<String>, values: &[u8]) {
        self.put(what, values.iter().copied());
    }

    pub(crate) fn state(&mut self, what: impl Into<String>, state: &State) {
        self.put(what, state.to_bytes());
    }

    pub(crate) fn flags(&mut self, what: impl Into<String>, rows: usize, flags: &Flags) {
        self.put(what, (0..rows).map(|row| u8::from(flags.get(row))));
    }

    pub(crate) fn digest(&self) -> String {
        blake3::hash(&self.bytes).to_hex().to_string()
    }

    /// Equality; what differs is named by the part that it is in.
    #[track_caller]
    pub(crate) fn assert_equal(&self, expected: &Self, what: &str) {
        let differs = self.bytes.iter().zip(&expected.bytes).position(|(a, b)| a != b);
        if let Some(at) = differs {
            let part = self.parts.iter().position(|(end, _)| at < *end).unwrap();
            let start = if part == 0 { 0 } else { self.parts[part - 1].0 };
            let (end, name) = &self.parts[part];
            let wrong = (start..*end).filter(|&at| self.bytes[at] != expected.bytes[at]).count();
            panic!("{what}: {name}: byte {} of {}, {wrong} wrong", at - start, end - start);
        }
        assert_eq!(self.bytes.len(), expected.bytes.len(), "{what}: lengths");
    }
}
