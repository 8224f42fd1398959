//! How each stage of an answer behaved when it was asked to open cells.

use std::collections::BTreeMap;

use lockstep_verify::receipt::Receipt;
use lockstep_verify::sign::NodeId;
use lockstep_verify::statement::Segment;

use super::{Exchange, NoAnswer};

/// The conduct of one stage: how it answered the challenges that it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conduct {
    /// The index of the stage's segment in the receipt.
    pub segment: u32,
    /// The place of the stage in the route. Where a stage took over, both have the same.
    pub stage: u32,
    /// The node id of the stage.
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

impl Conduct {
    /// Returns the conduct of every stage of an answer, in the order of the ring, before any
    /// challenge was sent.
    #[must_use]
    pub fn before_challenges(receipt: &Receipt) -> Vec<Self> {
        let of = |(segment, (stage, signed)): (u32, (u32, &Segment))| Self {
            segment,
            stage,
            node: signed.node,
            asked: 0,
            answered: 0,
            withheld: 0,
            unanswered: BTreeMap::new(),
        };
        (0..).zip(receipt.places().into_iter().zip(&receipt.segments)).map(of).collect()
    }

    /// Counts what came of a challenge for the stage that was asked.
    pub fn count(all: &mut [Self], exchange: &Exchange) {
        if matches!(exchange.answer, Err(NoAnswer::NoStage | NoAnswer::NotPosed(_))) {
            return;
        }
        let is_its = |conduct: &&mut Self| conduct.segment == exchange.stage;
        let Some(conduct) = all.iter_mut().find(is_its) else {
            return;
        };
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
}
