//! Receipt bundles: read, and written back.
#![no_main]

#[path = "../../crates/lockstep-verify/tests/support/drive.rs"]
mod drive;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| drive::bundle(bytes));
