//! What fuzzing does with arbitrary bytes, the same in bounded tests and under a fuzzer: decoders
//! must not panic, and what they accept has one encoding.

#![allow(dead_code, reason = "each test binary and fuzz target uses another part")]

use lockstep_exact::bytes::Canonical;
use lockstep_verify::bundle::Bundle;
use lockstep_verify::key::Key;
use lockstep_verify::opening::Opening;

/// What decodes is what was encoded.
pub(crate) fn unique<T: Canonical>(bytes: &[u8]) {
    if let Ok(value) = T::from_bytes(bytes) {
        assert_eq!(value.to_bytes(), bytes, "two encodings of one value");
    }
}

/// A receipt bundle.
pub(crate) fn bundle(bytes: &[u8]) {
    unique::<Bundle>(bytes);
}

/// The body of an opening.
pub(crate) fn opening(bytes: &[u8]) {
    unique::<Opening>(bytes);
}

/// A key file.
pub(crate) fn key(bytes: &[u8]) {
    match Key::from_file(bytes) {
        Ok(key) => assert_eq!(*key.to_file(), bytes, "two encodings of one key"),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
