//! Values of the vector files: f32 by their bits in hexadecimal, 64-bit words and bytes in
//! hexadecimal, other integers as numbers. A missing or malformed field panics with its name.

use lockstep_exact::digest::Digest;
use serde_json::{Map, Value, json};

/// The inputs of a case, by name.
#[derive(Clone, Copy)]
pub(crate) struct Input<'a>(pub(crate) &'a Map<String, Value>);

impl<'a> Input<'a> {
    /// Whether a field is there.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// A field as it is.
    pub(crate) fn value(&self, name: &str) -> &'a Value {
        self.0.get(name).unwrap_or_else(|| panic!("no field {name}"))
    }

    /// An object.
    pub(crate) fn object(&self, name: &str) -> Self {
        Input(self.value(name).as_object().unwrap_or_else(|| panic!("{name}: not an object")))
    }

    /// A list.
    pub(crate) fn list(&self, name: &str) -> &'a [Value] {
        self.value(name).as_array().unwrap_or_else(|| panic!("{name}: not a list"))
    }

    /// A list of objects.
    /// An object, unless it is null.
    pub(crate) fn maybe(self, name: &str) -> Option<Self> {
        (!self.value(name).is_null()).then(|| self.object(name))
    }

    pub(crate) fn objects(&self, name: &str) -> Vec<Self> {
        let object = |value: &'a Value| Input(value.as_object().expect("a list of objects"));
        self.list(name).iter().map(object).collect()
    }

    /// Text.
    pub(crate) fn text(&self, name: &str) -> &'a str {
        self.value(name).as_str().unwrap_or_else(|| panic!("{name}: not text"))
    }

    /// true or false.
    pub(crate) fn bool(&self, name: &str) -> bool {
        self.value(name).as_bool().unwrap_or_else(|| panic!("{name}: not a boolean"))
    }

    /// An integer.
    pub(crate) fn int<T: TryFrom<i64>>(&self, name: &str) -> T {
        int(self.value(name)).unwrap_or_else(|| panic!("{name}: not an integer of its range"))
    }

    /// A list of integers.
    pub(crate) fn ints<T: TryFrom<i64>>(&self, name: &str) -> Vec<T> {
        let each = |value| int(value).unwrap_or_else(|| panic!("{name}: not integers"));
        self.list(name).iter().map(each).collect()
    }

    /// An f32.
    pub(crate) fn f32(&self, name: &str) -> f32 {
        f32_of(self.text(name))
    }

    /// f32 separated by spaces.
    pub(crate) fn f32s(&self, name: &str) -> Vec<f32> {
        self.text(name).split_whitespace().map(f32_of).collect()
    }

    /// 64 bits.
    pub(crate) fn u64(&self, name: &str) -> u64 {
        u64_of(self.text(name))
    }

    /// 64-bit words separated by spaces.
    pub(crate) fn u64s(&self, name: &str) -> Vec<u64> {
        self.text(name).split_whitespace().map(u64_of).collect()
    }

    /// Bytes.
    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        bytes_of(self.text(name))
    }

    /// A list of byte strings.
    pub(crate) fn byte_strings(&self, name: &str) -> Vec<Vec<u8>> {
        self.list(name).iter().map(|v| bytes_of(v.as_str().expect("hexadecimal"))).collect()
    }

    /// A digest.
    pub(crate) fn digest(&self, name: &str) -> Digest {
        Digest::parse(self.text(name)).unwrap_or_else(|| panic!("{name}: not a digest"))
    }
}

fn int<T: TryFrom<i64>>(value: &Value) -> Option<T> {
    T::try_from(value.as_i64()?).ok()
}

fn f32_of(text: &str) -> f32 {
    assert_eq!(text.len(), 8, "an f32 has 8 digits: {text}");
    f32::from_bits(u32::from_str_radix(text, 16).expect("hexadecimal"))
}

fn u64_of(text: &str) -> u64 {
    assert_eq!(text.len(), 16, "a word has 16 digits: {text}");
    u64::from_str_radix(text, 16).expect("hexadecimal")
}

fn bytes_of(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "whole bytes");
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal");
    (0..text.len()).step_by(2).map(byte).collect()
}

/// The bits of an f32; one pattern stands for all NaN, whose bits differ between machines.
fn digits(x: &f32) -> String {
    let bits = if x.is_nan() { 0x7fc0_0000 } else { x.to_bits() };
    format!("{bits:08x}")
}

/// An f32.
pub(crate) fn f32_text(x: f32) -> Value {
    json!(digits(&x))
}

/// f32s.
pub(crate) fn f32s_text(values: &[f32]) -> Value {
    words(values.iter().map(digits))
}

/// 64-bit words.
pub(crate) fn u64s_text(values: &[u64]) -> Value {
    words(values.iter().map(|x| format!("{x:016x}")))
}

/// Bytes.
pub(crate) fn hex(bytes: &[u8]) -> Value {
    json!(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// Byte strings.
pub(crate) fn hexes<T: AsRef<[u8]>>(strings: &[T]) -> Value {
    strings.iter().map(|bytes| hex(bytes.as_ref())).collect()
}

fn words(words: impl Iterator<Item = String>) -> Value {
    json!(words.collect::<Vec<_>>().join(" "))
}
