//! Folders of safetensors files: translated, and imported if they open.
#![no_main]

#[path = "../../crates/lockstep-import/tests/support/drive.rs"]
mod drive;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    drive::folder(bytes);
});
