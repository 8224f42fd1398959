//! Exit codes, and errors that carry one.

use std::fmt;
use std::process::ExitCode;

/// How the program ends. The numbers are part of the command line's contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done; verified, or audits were switched off on request.
    Done = 0,
    /// Something went wrong.
    Error = 1,
    /// The command line was wrong.
    Usage = 2,
    /// A server computed something else than it should have.
    Failed = 3,
    /// The answer could not be checked.
    NotChecked = 4,
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

impl std::error::Error for UsageError {}

/// A usage error as the program's error type.
pub(crate) fn usage(message: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(UsageError(message.into()))
}
