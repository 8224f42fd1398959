//! Metadata in the form in which GGUF files hold them.

/// Pairs of key and value, written one after another.
#[derive(Debug, Default)]
pub(super) struct Metadata {
    count: usize,
    bytes: Vec<u8>,
}

impl Metadata {
    /// Returns the number of pairs, and their bytes.
    pub(super) fn parts(&self) -> (usize, &[u8]) {
        (self.count, &self.bytes)
    }

    fn pair(&mut self, key: &str, ty: u32, value: &[u8]) {
        self.count += 1;
        self.string(key);
        self.bytes.extend(ty.to_le_bytes());
        self.bytes.extend(value);
    }

    fn string(&mut self, text: &str) {
        self.bytes.extend((text.len() as u64).to_le_bytes());
        self.bytes.extend(text.as_bytes());
    }

    fn array(&mut self, key: &str, ty: u32, len: usize) {
        self.pair(key, 9, &ty.to_le_bytes());
        self.bytes.extend((len as u64).to_le_bytes());
    }

    pub(super) fn text(&mut self, key: &str, text: &str) {
        self.pair(key, 8, &[]);
        self.string(text);
    }

    pub(super) fn bool(&mut self, key: &str, flag: bool) {
        self.pair(key, 7, &[flag.into()]);
    }

    pub(super) fn integer(&mut self, key: &str, number: u64) {
        self.pair(key, 10, &number.to_le_bytes());
    }

    pub(super) fn float(&mut self, key: &str, number: f32) {
        self.pair(key, 6, &number.to_le_bytes());
    }

    pub(super) fn texts(&mut self, key: &str, texts: &[impl AsRef<str>]) {
        self.array(key, 8, texts.len());
        texts.iter().for_each(|text| self.string(text.as_ref()));
    }

    pub(super) fn integers(&mut self, key: &str, numbers: &[i32]) {
        self.array(key, 5, numbers.len());
        self.bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    }

    pub(super) fn floats(&mut self, key: &str, numbers: &[f32]) {
        self.array(key, 6, numbers.len());
        self.bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    }
}
