//! The Python scripts that have tests pass them. Where there is no Python they are not run.

use std::path::Path;
use std::process::Command;

#[test]
fn the_comparison_with_another_engine_passes_its_own_tests() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../test_compare_llama.py");
    let Ok(done) = Command::new("python3").arg(script).output() else { return };
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && said.contains("OK"), "{said}");
}
