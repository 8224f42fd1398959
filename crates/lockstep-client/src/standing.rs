//! The record that this machine keeps of servers: whom routes avoid, and what an audit adds.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use lockstep_node::record::{Conviction, Deeds, Record, RecordError, Standing};
use lockstep_proto::client::Conduct;
use lockstep_proto::swarm::trust::Experience;
use lockstep_verify::audit::{Unverified, Verified};
use lockstep_verify::fault::Fault;
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

/// Returns the fault that an audit found, if it found one.
pub(crate) const fn fault(verdict: &Result<Verified<Receipt>, Unverified>) -> Option<&Fault> {
    match verdict {
        Err(Unverified::Failed(fault)) => Some(fault),
        Ok(_) | Err(Unverified::NotChecked { .. }) => None,
    }
}

/// Returns for each node of an audited answer what the audit adds to the record about that node.
pub(crate) fn deeds(
    verdict: &Result<Verified<Receipt>, Unverified>,
    conduct: &[Conduct],
) -> Vec<(NodeId, Deeds)> {
    let last_unix_s = unix_s();
    let convicted = fault(verdict).and_then(Fault::node);
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

/// Adds what was seen to the record in the home folder; the receipt at `evidence` holds what
/// convicts whoever was convicted. Returns the record.
///
/// # Errors
/// [`RecordError`]: the answer and its verdict stand all the same.
pub(crate) fn remember(
    place: &Place,
    seen: &[(NodeId, Deeds)],
    convicted: Option<&Fault>,
    evidence: Option<&Path>,
) -> Result<Record, RecordError> {
    Record::change(&place.home.nodes(), |record| {
        seen.iter().for_each(|(node, deeds)| record.add(*node, *deeds));
        if let Some((node, fault)) = convicted.and_then(|fault| Some((fault.node()?, fault))) {
            let reason = fault.to_string();
            record.convict(node, Conviction::new(&place.home, &reason, evidence, unix_s()));
        }
    })
}

/// Bans the node that a saved bundle convicts, as a failed audit of it would have, with the bundle
/// at `evidence`. Does nothing if it is banned already, or if `fault` convicts nobody. Returns the
/// node that was banned.
///
/// # Soundness
/// The key must be this home's own: one that somebody else made can convict anybody.
///
/// # Errors
/// [`RecordError`]: the verdict stands all the same.
pub fn ban(place: &Place, fault: &Fault, evidence: &Path) -> Result<Option<NodeId>, RecordError> {
    let Some(node) = fault.node() else { return Ok(None) };
    let path = place.home.nodes();
    if Record::read(&path)?.deeds(&node).standing() == Standing::Failed {
        return Ok(None);
    }
    let deeds = Deeds { failed: 1, last_unix_s: unix_s(), ..Deeds::default() };
    let whole = std::path::absolute(evidence).unwrap_or_else(|_| evidence.to_owned());
    remember(place, &[(node, deeds)], Some(fault), Some(&whole)).map(|_| Some(node))
}

/// Returns what a client knows of servers before it asks them: those that a person `named`, and
/// those of which the record says that an audit verified or convicted them.
pub(crate) fn experience(record: &Record, named: &BTreeSet<NodeId>, secret: u64) -> Experience {
    let mut own = Experience::new(secret);
    named.iter().for_each(|node| own.named(*node));
    for (node, deeds) in record.nodes() {
        if deeds.standing() == Standing::Failed {
            own.convicted(*node);
        } else if deeds.verified > 0 {
            own.verified(*node);
        }
    }
    own
}

/// Returns the seconds since the Unix epoch; 0 if the clock is before it.
fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs())
}
