//! What this machine remembers of servers: whom routes avoid, and what an audit adds.

use std::time::{SystemTime, UNIX_EPOCH};

use lockstep_node::record::{Deeds, Record, RecordError, Standing};
use lockstep_proto::client::Conduct;
use lockstep_verify::audit::{Unverified, Verified};
use lockstep_verify::receipt::Receipt;
use lockstep_verify::sign::NodeId;

use crate::models::Place;

/// Why routes avoid a node, in words; `None` if they don't.
pub(crate) fn why_avoided(deeds: &Deeds) -> Option<String> {
    match deeds.standing() {
        Standing::Good => None,
        Standing::Failed => {
            Some(format!("it failed the audit of {} of {} answers", deeds.failed, deeds.answers))
        }
        Standing::Withholds => {
            Some(format!("it withheld openings of {} of {} answers", deeds.withheld, deeds.answers))
        }
    }
}

/// What one audited answer says of each of its nodes.
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
