//! Chat templates: parsed and rendered.
#![no_main]

#[path = "../../crates/lockstep-import/tests/support/drive.rs"]
mod drive;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| drive::template(bytes));
