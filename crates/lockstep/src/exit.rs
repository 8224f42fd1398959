//! Exit codes, and errors that carry one.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

use serde_json::{Value, json};

/// The exit code of the program. The numbers are part of the command line's contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done; if servers answered, verified.
    Done = 0,
    /// The command ended with an error.
    Error = 1,
    /// The arguments on the command line were wrong.
    Usage = 2,
    /// An audit failed: a server computed something else than it should have, or the receipt is not
    /// what was signed.
    Failed = 3,
    /// The answer was not checked: it could not be, or audits were switched off.
    NotChecked = 4,
    /// A server did not open what it had promised to open.
    Withheld = 5,
}

impl Exit {
    /// Returns the worse of two ends: a server that cheats is the worst.
    pub(crate) const fn worse(self, other: Self) -> Self {
        if other.weight() > self.weight() { other } else { self }
    }

    const fn weight(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::NotChecked => 1,
            Self::Error => 2,
            Self::Usage => 3,
            Self::Withheld => 4,
            Self::Failed => 5,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A mistake in the arguments: exit code 2.
#[derive(Debug)]
pub(crate) struct UsageError(pub String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for UsageError {}

/// Returns a usage error as the program's error type.
pub(crate) fn usage(message: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(UsageError(message.into()))
}

/// Returns an error as JSON, for scripts.
pub(crate) fn error_json(text: &str, exit: Exit) -> Value {
    json!({ "error": text, "exit_code": exit as u8 })
}

/// Returns an error with its causes, each said once: many say their cause themselves.
pub(crate) fn in_full(error: &anyhow::Error) -> String {
    joined(error.chain())
}

/// Returns the same of an error of a library.
pub(crate) fn all_of(error: &(dyn Error + 'static)) -> String {
    joined(std::iter::successors(Some(error), |error| (*error).source()))
}

fn joined<'e>(causes: impl Iterator<Item = &'e (dyn Error + 'static)>) -> String {
    let mut text = String::new();
    for cause in causes.map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::{Context as _, anyhow};

    use super::*;

    #[test]
    fn a_cause_that_was_said_is_not_said_again() {
        let inner = anyhow!("permission denied");
        let outer = inner.context("/a: permission denied").context("can't read the settings");
        assert_eq!(in_full(&outer), "can't read the settings: /a: permission denied");
        let silent = Err::<(), _>(anyhow!("no space left")).context("can't write").unwrap_err();
        assert_eq!(in_full(&silent), "can't write: no space left");
    }
}
