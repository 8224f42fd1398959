//! Which sums an opening of a layer carries: one slot per kind of product, in order of use.
//!
//! Their sizes follow from the plan alone. A cell with experts carries the sums of as many as a row
//! uses, in increasing order of their indexes; which these are follows from the router's sums.
#![deny(clippy::arithmetic_side_effects, clippy::integer_division)]

use lockstep_exact::matrix::Shape;
use lockstep_exact::names::ProductName;
use lockstep_exact::plan::LayerPlan;

/// The products that share a place in an opening.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    /// The product; of experts, that of the first.
    pub(crate) kind: ProductName,
    pub(crate) shape: Shape,
    /// The number of products of the slot's kind that a cell has.
    pub(crate) times: usize,
}

impl Slot {
    /// Returns the number of sums that a cell has in the slot.
    pub(crate) const fn width(&self) -> usize {
        self.shape.rows.saturating_mul(self.times)
    }

    /// Returns whether positions that give no state have these sums too.
    pub(crate) fn is_of_every_position(&self) -> bool {
        self.kind == ProductName::Qkv
    }
}

/// Returns the slots of a layer.
pub(crate) fn slots(plan: &LayerPlan) -> Vec<Slot> {
    let products = plan.parts.products_of_a_row().into_iter();
    products.map(|(kind, times, product)| Slot { kind, shape: product.shape(), times }).collect()
}
