//! How each stage of an answer behaved when it was asked to open cells.

use std::collections::BTreeMap;

use lockstep_verify::receipt::Receipt;
use lockstep_verify::sign::NodeId;

use super::{Exchange, NoAnswer};

/// What one stage made of the challenges that it was posed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conduct {
    /// The stage, by its place in the route.
    pub stage: u32,
    /// Its node.
    pub node: NodeId,
    /// Challenges that were drawn for it.
    pub asked: u32,
    /// Those that it answered, rightly or wrongly.
    pub answered: u32,
    /// Those that it owed an answer and did not answer.
    pub withheld: u32,
    /// Why challenges have no answer, and how many each.
    pub unanswered: BTreeMap<NoAnswer, u32>,
}

/// The conduct of every stage of an answer, in the order of the ring.
#[must_use]
pub fn conduct(receipt: &Receipt, exchanges: &[Exchange]) -> Vec<Conduct> {
    let of_stage = |(stage, node): (u32, NodeId)| {
        let mut conduct = Conduct {
            stage,
            node,
            asked: 0,
            answered: 0,
            withheld: 0,
            unanswered: BTreeMap::new(),
        };
        let was_asked = |exchange: &&Exchange| {
            exchange.stage == stage && exchange.answer != Err(NoAnswer::NoStage)
        };
        for exchange in exchanges.iter().filter(was_asked) {
            conduct.asked = conduct.asked.saturating_add(1);
            match &exchange.answer {
                Ok(_) => conduct.answered = conduct.answered.saturating_add(1),
                Err(why) => {
                    let count = conduct.unanswered.entry(*why).or_default();
                    *count = count.saturating_add(1);
                }
            }
            conduct.withheld = conduct.withheld.saturating_add(exchange.is_withheld.into());
        }
        conduct
    };
    let nodes = receipt.segments.iter().map(|segment| segment.node);
    (0..).zip(nodes).map(of_stage).collect()
}
