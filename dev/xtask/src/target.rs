//! What this machine has for building and running programs of other machines.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Returns whether the standard library of a Rust target is installed.
///
/// # Errors
/// If the compiler can't be asked.
pub(crate) fn is_installed(target: &str) -> Result<bool, String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = Command::new(rustc);
    command.args(["--print", "target-libdir", "--target", target]);
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()).is_dir())
}

/// Returns whether a program starts and tells its version.
pub(crate) fn starts(program: impl AsRef<OsStr>) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
