//! What an opening costs, in bytes, before it is computed: the formula by which the draw cuts its
//! cells into challenges, and by which a server refuses challenges that no draw would pose.
//!
//! A price counts the rows and sums of the opened cells and the KV rows that they read; the paths
//! to the roots are not in it. Memory and time of an opening grow with its price.
#![deny(clippy::arithmetic_side_effects, clippy::integer_division)]

use core::ops::Range;

use lockstep_exact::manifest::{LayerPlan, Manifest};
use lockstep_exact::weights::kv_shape;

use crate::challenge::Target;
use crate::slots::slots;
use crate::{limits, sums};

/// What cells of one layer cost, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerPrice {
    /// The state in and out of a cell, and its sums.
    pub cell: u64,
    /// The KV row of one position; a challenge opens those of all positions up to its last.
    pub kv_row: u64,
}

/// What openings of a model's cells cost, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prices {
    /// Of each layer.
    pub layers: Vec<LayerPrice>,
    /// A cell of the head: its state and its sums.
    pub head_cell: u64,
    /// A row of states.
    pub state_row: u64,
}

impl Prices {
    /// The prices of a model.
    #[must_use]
    pub fn of(manifest: &Manifest) -> Self {
        let state_row = manifest.state_row_bytes() as u64;
        let layer = |plan: &LayerPlan| {
            let sums = slots(plan).into_iter().map(|slot| {
                let each = sums::most_bytes(slot.shape) as u64;
                each.saturating_mul(slot.times as u64)
            });
            LayerPrice {
                cell: sums.fold(state_row.saturating_mul(2), u64::saturating_add),
                kv_row: kv_shape(plan).row_bytes() as u64,
            }
        };
        let head = manifest.head.output.shape();
        let head_sums = sums::most_bytes(head) as u64;
        Self {
            layers: manifest.layers.iter().map(layer).collect(),
            head_cell: head_sums.saturating_add(state_row),
            state_row,
        }
    }

    /// What it costs to open these cells.
    #[must_use]
    pub fn opening(&self, target: &Target) -> u64 {
        match target {
            Target::Layer { layer, positions } => {
                let price = self.layer(*layer);
                let cells = (positions.len() as u64).saturating_mul(price.cell);
                let end = positions.last().map_or(0, |last| last.saturating_add(1));
                cells.saturating_add(price.kv_row.saturating_mul(end.into()))
            }
            Target::Head { positions } => self.head_cell.saturating_mul(positions.len() as u64),
            Target::Edge { count, .. } => self.state_row.saturating_mul((*count).into()),
            Target::Mark { .. } => limits::MARK_BYTES,
        }
    }

    /// What it costs to open every cell of a span over so many positions, and so many cells of the
    /// head, in the challenges of a full audit.
    #[must_use]
    pub fn full_audit(&self, span: Range<u32>, positions: u32, heads: u32) -> u64 {
        let layer = |layer: u32| {
            let price = self.layer(layer);
            let each = self.cells_per_opening(layer, positions) as u64;
            let openings = u64::from(positions).div_ceil(each.max(1));
            let kv = price.kv_row.saturating_mul(positions.into()).saturating_mul(openings);
            price.cell.saturating_mul(positions.into()).saturating_add(kv)
        };
        let head = self.head_cell.saturating_mul(heads.into());
        span.map(layer).fold(head, u64::saturating_add)
    }

    /// Cells of a layer that one opening may hold, in a session of so many positions.
    #[must_use]
    pub fn cells_per_opening(&self, layer: u32, positions: u32) -> usize {
        let price = self.layer(layer);
        let kv = price.kv_row.saturating_mul(positions.into());
        most_of(budget().saturating_sub(kv), price.cell)
    }

    /// Cells of the head that one opening may hold.
    #[must_use]
    pub fn heads_per_opening(&self) -> usize {
        most_of(budget(), self.head_cell)
    }

    /// A layer that the model does not have costs more than anybody may ask for.
    fn layer(&self, layer: u32) -> LayerPrice {
        let never = LayerPrice { cell: u64::MAX, kv_row: 0 };
        self.layers.get(layer as usize).copied().unwrap_or(never)
    }
}

/// Half of what an opening may hold: the other half is for slices' chunks and siblings.
const fn budget() -> u64 {
    (limits::OPENING_BYTES as u64) >> 1
}

fn most_of(budget: u64, each: u64) -> usize {
    let most = budget.checked_div(each).and_then(|most| usize::try_from(most).ok()).unwrap_or(1);
    most.clamp(1, limits::CHALLENGE_POSITIONS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prices() -> Prices {
        let layer = LayerPrice { cell: 10_000, kv_row: 400 };
        Prices { layers: vec![layer; 3], head_cell: 200_000, state_row: 1_200 }
    }

    #[test]
    fn a_challenge_costs_its_cells_and_the_keys_and_values_before_them() {
        let layer = |positions: &[u32]| Target::Layer { layer: 1, positions: positions.to_vec() };
        assert_eq!(prices().opening(&layer(&[0])), 10_000 + 400);
        assert_eq!(prices().opening(&layer(&[0, 99])), 20_000 + 40_000);
        assert_eq!(prices().opening(&Target::Head { positions: vec![3, 4] }), 400_000);
        let side = crate::challenge::Side::Sent;
        let edge = Target::Edge { layer: 1, side, first: 7, count: 5 };
        assert_eq!(prices().opening(&edge), 6_000);
    }

    #[test]
    fn what_the_draw_asks_in_one_challenge_is_never_above_what_an_opening_holds() {
        let most = budget();
        for positions in [1, 1_000, 20_000] {
            let each = u32::try_from(prices().cells_per_opening(0, positions)).unwrap();
            let cells = (positions.saturating_sub(each)..positions).collect();
            let price = prices().opening(&Target::Layer { layer: 0, positions: cells });
            assert!(price <= most, "{positions}: {price}");
        }
        let heads = (0..u32::try_from(prices().heads_per_opening()).unwrap()).collect();
        assert!(prices().opening(&Target::Head { positions: heads }) <= most);
    }

    #[test]
    fn a_full_audit_costs_what_its_challenges_cost_together() {
        let (prices, positions) = (prices(), 3_000_u32);
        let each = prices.cells_per_opening(0, positions);
        let all: Vec<u32> = (0..positions).collect();
        let pieces = all.chunks(each).map(<[u32]>::to_vec);
        let asked: u64 = pieces
            .map(|positions| prices.opening(&Target::Layer { layer: 0, positions }))
            .sum::<u64>()
            * 2;
        let bound = prices.full_audit(0..2, positions, 0);
        assert!((asked..asked * 2).contains(&bound), "{asked} {bound}");
        assert_eq!(prices.full_audit(0..0, positions, 5), 1_000_000);
    }
}
