//! Frames: read as every direction, and written back.
#![no_main]

#[path = "../../crates/lockstep-proto/tests/support/drive.rs"]
mod drive;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| drive::frame(bytes));
