//! The files in which a rule does not hold yet. The list may only shrink: an entry that excuses
//! nothing any more is itself a finding, and a new one needs a reason that survives review.

use super::{Broken, Finding};

/// A rule that one file may break.
pub(super) struct Exception {
    pub(super) rule: &'static str,
    pub(super) path: &'static str,
    /// Why, for whoever wants to remove it.
    pub(super) reason: &'static str,
}

pub(super) const EXCEPTIONS: &[Exception] = &[];

/// Removes what is excused; reports exceptions that excuse nothing.
pub(super) fn apply(exceptions: &[Exception], broken: Vec<Broken>) -> Vec<Broken> {
    let excuses = |exception: &Exception, each: &Broken| {
        !each.finding.warning && exception.rule == each.rule && exception.path == each.finding.path
    };
    let stale: Vec<Broken> = exceptions
        .iter()
        .filter(|exception| !broken.iter().any(|each| excuses(exception, each)))
        .map(|exception| Broken {
            rule: "exceptions",
            finding: Finding::new(
                exception.path,
                0,
                format!("excuses nothing: remove it ({}: {})", exception.rule, exception.reason),
            ),
        })
        .collect();
    let mut left = broken;
    left.retain(|each| !exceptions.iter().any(|exception| excuses(exception, each)));
    left.extend(stale);
    left
}
