//! The record that this machine keeps of servers: whom routes avoid, and what an audit adds.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use lockstep_node::record::{Deeds, Record, RecordError, Standing};
use lockstep_proto::client::Conduct;
use lockstep_verify::audit::{Unverified, Verified};
use lockstep_verify::receipt::Receipt;
use lockstep_verify::sign::NodeId;

use crate::place::Place;

/// The reason why routes avoid a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Avoided {
    /// It failed the audit of some of its answers.
    Failed {
        /// The number of answers whose audit failed.
        failed: u64,
        /// The number of all its answers.
        answers: u64,
    },
    /// It withheld openings of some of its answers.
    Withholds {
        /// The number of answers of which it withheld openings.
        withheld: u64,
        /// The number of all its answers.
        answers: u64,
    },
}

impl fmt::Display for Avoided {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed { failed, answers } => {
                write!(f, "it failed the audit of {failed} of {answers} answers")
            }
            Self::Withholds { withheld, answers } => {
                write!(f, "it withheld openings of {withheld} of {answers} answers")
            }
        }
    }
}

/// Returns why routes avoid a node of these deeds; `None` if they don't.
#[must_use]
pub fn why_avoided(deeds: &Deeds) -> Option<Avoided> {
    let Deeds { answers, failed, withheld, .. } = *deeds;
    match deeds.standing() {
        Standing::Good => None,
        Standing::Failed => Some(Avoided::Failed { failed, answers }),
        Standing::Withholds => Some(Avoided::Withholds { withheld, answers }),
    }
}

/// Returns for each node of an audited answer what the audit adds to the record about that node.
pub(crate) fn deeds(
    verdict: &Result<Verified<Receipt>, Unverified>,
    conduct: &[Conduct],
) -> Vec<(NodeId, Deeds)> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let last_unix_s = now.map_or(0, |now| now.as_secs());
    let convicted = match verdict {
        Err(Unverified::Failed(fault)) => fault.node(),
        Ok(_) | Err(Unverified::NotChecked { .. }) => None,
    };
    let of = |conduct: &Conduct| Deeds {
        answers: 1,
        verified: verdict.is_ok().into(),
        failed: (convicted == Some(conduct.node)).into(),
        withheld: (conduct.withheld > 0).into(),
        openings_asked: conduct.asked.into(),
        openings_answered: conduct.answered.into(),
        openings_withheld: conduct.withheld.into(),
        last_unix_s,
    };
    conduct.iter().map(|conduct| (conduct.node, of(conduct))).collect()
}

/// Adds what was seen to the record in the home folder.
///
/// # Errors
/// [`RecordError`]: the answer and its verdict stand all the same.
pub(crate) fn remember(place: &Place, seen: Vec<(NodeId, Deeds)>) -> Result<(), RecordError> {
    let add =
        |record: &mut Record| seen.into_iter().for_each(|(node, deeds)| record.add(node, deeds));
    Record::change(&place.home.nodes(), add).map(drop)
}
