//! What an opening costs, in bytes, before it is computed: the formula by which the draw cuts its
//! cells into challenges, and by which a server refuses challenges that no draw would pose.
//!
//! A price counts the rows and sums of the opened cells and the KV rows that they read; the paths
//! to the roots are not in it. Memory and time of an opening grow with its price.
#![deny(clippy::arithmetic_side_effects, clippy::integer_division)]

use core::ops::Range;

use lockstep_exact::manifest::Manifest;
use lockstep_exact::plan::LayerPlan;
use lockstep_exact::weights::kv_shape;

use crate::challenge::Target;
use crate::opening::runs;
use crate::slots::slots;
use crate::{limits, sums};

/// The most bytes that a slice takes beside its rows: the rest of its first and its last chunk of
/// 1 KiB, two siblings of 32 bytes on each of 40 levels, which is a tree over 2^50 bytes, and two
/// lengths.
const PROOF_BYTES: u64 = 2 * 1024 + 2 * 32 * 40 + 2 * 4;
/// The most bytes that tags and lengths take in an opening, beside those of its slices.
const FRAMING_BYTES: u64 = 16 + 4 * limits::SLOTS as u64;

/// The bytes that an opening of one layer's cells takes, by their parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerPrice {
    /// The state in and out of a cell, and its sums.
    pub cell: u64,
    /// The KV row of one position.
    pub kv_row: u64,
}

impl LayerPrice {
    /// Computes the prices of the layer `plan`, whose states take `state_row` bytes a row.
    #[must_use]
    pub fn of(plan: &LayerPlan, state_row: u64) -> Self {
        let sums = slots(plan).into_iter().map(|slot| {
            let each = sums::most_bytes(slot.shape) as u64;
            each.saturating_mul(slot.times as u64)
        });
        Self {
            cell: sums.fold(state_row.saturating_mul(2), u64::saturating_add),
            kv_row: kv_shape(plan).row_bytes() as u64,
        }
    }
}

/// The bytes that openings of a model's cells take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prices {
    /// The prices of each layer, in order.
    pub layers: Vec<LayerPrice>,
    /// A cell of the head: its state and its sums.
    pub head_cell: u64,
    /// The bytes of a row of states.
    pub state_row: u64,
}

impl Prices {
    /// Computes the prices of a model from the plans in its manifest.
    #[must_use]
    pub fn of(manifest: &Manifest) -> Self {
        let state_row = manifest.state_row_bytes() as u64;
        let layer = |plan: &LayerPlan| LayerPrice::of(plan, state_row);
        let head = manifest.head.output.shape();
        let head_sums = sums::most_bytes(head) as u64;
        Self {
            layers: manifest.layers.iter().map(layer).collect(),
            head_cell: head_sums.saturating_add(state_row),
            state_row,
        }
    }

    /// Returns the bytes of the rows and sums in an opening of these cells, without proofs.
    #[must_use]
    pub fn opening(&self, target: &Target) -> u64 {
        match target {
            Target::Layer { layer, first, end, positions } => {
                let price = self.layer(*layer);
                let cells = (positions.len() as u64).saturating_mul(price.cell);
                let rows = end.saturating_sub(*first);
                cells.saturating_add(price.kv_row.saturating_mul(rows.into()))
            }
            Target::Head { positions } => self.head_cell.saturating_mul(positions.len() as u64),
            Target::Edge { count, .. } => self.state_row.saturating_mul((*count).into()),
            Target::Mark { .. } => limits::MARK_BYTES,
        }
    }

    /// Returns the most bytes that an opening of these cells has on the wire if they are of the
    /// layer whose cells are longest, with what proves that its rows are under the roots. What is
    /// longer is no answer, and need not be kept. The cells of another layer are let through,
    /// although they are no answer either: they convict whoever signed them.
    #[must_use]
    pub fn longest_opening(&self, target: &Target) -> u64 {
        let (slices, rows) = match target {
            Target::Layer { first, end, positions, .. } => {
                let most =
                    |of: fn(&LayerPrice) -> u64| self.layers.iter().map(of).fold(0, u64::max);
                let cell = most(|price| price.cell);
                let kv_row = most(|price| price.kv_row);
                let cells = cell.saturating_mul(positions.len() as u64);
                let kv = kv_row.saturating_mul(end.saturating_sub(*first).into());
                // Keys and values; and of each run what went in, and what came out.
                let slices = (runs(positions).len() as u64).saturating_mul(2).saturating_add(1);
                (slices, cells.saturating_add(kv))
            }
            Target::Edge { .. } => (1, self.opening(target)),
            Target::Head { .. } | Target::Mark { .. } => (0, self.opening(target)),
        };
        let proofs = slices.saturating_mul(PROOF_BYTES);
        let most = rows.saturating_add(proofs).saturating_add(FRAMING_BYTES);
        most.min(limits::OPENING_BYTES as u64)
    }

    /// Returns the bytes that have to be read and computed to open these cells: their own, and of
    /// the cells of a later part the KV rows of all parts before, because attention reads them.
    #[must_use]
    pub fn work(&self, target: &Target) -> u64 {
        let before = match target {
            Target::Layer { layer, first, positions, .. } if !positions.is_empty() => {
                self.layer(*layer).kv_row.saturating_mul((*first).into())
            }
            Target::Layer { .. }
            | Target::Head { .. }
            | Target::Edge { .. }
            | Target::Mark { .. } => 0,
        };
        self.opening(target).saturating_add(before)
    }

    /// Returns the work, in bytes, of opening every cell of the layers `span` over `positions`
    /// positions, and `heads` cells of the head, in the challenges of a full audit.
    #[must_use]
    pub fn full_audit(&self, span: Range<u32>, positions: u32, heads: u32) -> u64 {
        let layer = |layer: u32| {
            let (price, positions) = (self.layer(layer), u64::from(positions));
            let each = price.cell.saturating_add(price.kv_row);
            let of_part = self.cells_per_part(layer);
            // Part i reads the rows of the i parts before it.
            let parts = positions.div_ceil(of_part);
            let before = parts.saturating_mul(parts.saturating_sub(1)) >> 1;
            let before = before.saturating_mul(of_part).saturating_mul(price.kv_row);
            each.saturating_mul(positions).saturating_add(before)
        };
        let head = self.head_cell.saturating_mul(heads.into());
        span.map(layer).fold(head, u64::saturating_add)
    }

    /// Returns the number of challenges that a full audit of `positions` positions of the layers
    /// `span` and of `heads` cells of the head takes.
    #[must_use]
    pub fn full_audit_challenges(&self, span: Range<u32>, positions: u32, heads: u32) -> u64 {
        let layer = |layer: u32| u64::from(positions).div_ceil(self.cells_per_part(layer));
        let head = u64::from(heads).div_ceil(self.heads_per_opening() as u64);
        span.map(layer).fold(head, u64::saturating_add)
    }

    /// Cells of a layer, each with its KV row, that one part of a full audit holds.
    fn cells_per_part(&self, layer: u32) -> u64 {
        let price = self.layer(layer);
        let cells = per_part(price.cell.saturating_add(price.kv_row));
        u64::from(cells).min(limits::CHALLENGE_POSITIONS as u64)
    }

    /// Returns the number of cells of the head that one opening may hold.
    #[must_use]
    pub fn heads_per_opening(&self) -> usize {
        (per_part(self.head_cell) as usize).min(limits::CHALLENGE_POSITIONS)
    }

    /// Returns the prices of a layer; one that the model does not have costs more than anybody may
    /// ask for.
    pub(crate) fn layer(&self, layer: u32) -> LayerPrice {
        match self.layers.get(layer as usize) {
            Some(price) => *price,
            None => LayerPrice { cell: u64::MAX, kv_row: 0 },
        }
    }
}

/// Returns the number of rows or cells of `bytes` bytes each that one part of an opening holds: one
/// at least, whatever its size, and one if it has no bytes.
pub(crate) fn per_part(bytes: u64) -> u32 {
    const PART: u32 = 1 << 20;
    const { assert!(PART as usize == limits::PART_BYTES, "the bytes of a part") };
    match u32::try_from(bytes) {
        Ok(bytes) => PART.checked_div(bytes).map_or(1, |rows| rows.max(1)),
        Err(_) => 1,
    }
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
        let layer = |first, end, positions: &[u32]| Target::Layer {
            layer: 1,
            first,
            end,
            positions: positions.to_vec(),
        };
        assert_eq!(prices().opening(&layer(0, 1, &[0])), 10_000 + 400);
        assert_eq!(prices().opening(&layer(0, 100, &[0, 99])), 20_000 + 40_000);
        assert_eq!(prices().opening(&layer(60, 100, &[99])), 10_000 + 16_000);
        assert_eq!(prices().opening(&Target::Head { positions: vec![3, 4] }), 400_000);
        let side = crate::challenge::Side::Sent;
        let edge = Target::Edge { layer: 1, side, first: 7, count: 5 };
        assert_eq!(prices().opening(&edge), 6_000);
    }

    #[test]
    fn the_parts_of_a_layer_cost_together_what_a_full_audit_costs_and_none_more_than_it_may() {
        let (prices, positions) = (prices(), 3_000);
        let parts = crate::draw::parts(1, prices.layers[1], 0..positions);
        assert!(parts.len() > 10);
        assert!(parts.iter().all(|part| prices.opening(part) <= limits::PART_BYTES as u64));
        let all: u64 = parts.iter().map(|part| prices.work(part)).sum();
        assert_eq!(all, prices.full_audit(1..2, positions, 0));
        assert_eq!(parts.len() as u64, prices.full_audit_challenges(1..2, positions, 0));
        assert_eq!(prices.full_audit_challenges(0..0, 0, 6), 2);
        let heads = (0..u32::try_from(prices.heads_per_opening()).unwrap()).collect();
        let heads = prices.opening(&Target::Head { positions: heads });
        assert!(heads <= limits::PART_BYTES as u64);
        assert_eq!(prices.full_audit(0..0, positions, 5), 1_000_000);
    }
}
