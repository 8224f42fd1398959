//! What the audit of every opening of one receipt is given: operations, key, and the receipt whose
//! parts fit each other.
//!
//! The key becomes weights here, as the forward pass takes them, with [`Check`]s for matrices.
#![deny(clippy::arithmetic_side_effects, clippy::integer_division)]

use lockstep_exact::invariant::Broken;
use lockstep_exact::names::ProductName;
use lockstep_exact::plan::LayerPlan;
use lockstep_exact::weights::{LayerWeights, Product};

use crate::checked::{Check, CheckedLayer};
use crate::device::AuditDevice;
use crate::key::{Key, LayerKey, ProductKey};
use crate::links::Linked;

/// The operations, the key and the checked receipt that openings are audited with.
pub(crate) struct Auditor<'a, D> {
    pub(crate) device: &'a D,
    pub(crate) key: &'a Key,
    pub(crate) linked: Linked<'a>,
}

impl<'a, D: AuditDevice> Auditor<'a, D> {
    /// Returns what the cells of a segment are checked with, besides the weights.
    ///
    /// # Errors
    /// [`Broken`]: the receipt has no such segment, although one of its cells was drawn.
    pub(crate) fn session(&self, index: u32) -> Result<Session<'a, D>, Broken> {
        let segment = self.linked.receipt().segments.get(index as usize);
        let segment = segment.ok_or_else(|| Broken::new("a drawn cell has no segment"))?;
        Ok(Session {
            device: self.device,
            hidden: self.key.manifest().hidden as usize,
            positions: segment.positions,
            first_head: self.linked.first_head(),
        })
    }

    /// Returns a layer's weights as the forward pass takes them: a check in the place of each
    /// matrix.
    ///
    /// # Errors
    /// [`Broken`]: the key has no such layer, although the links of the receipt hold, and its
    /// segments tile the layers of the key's model.
    pub(crate) fn weights(&self, layer: u32, is_last: bool) -> Result<CheckedLayer<'_, D>, Broken> {
        let manifest = self.key.manifest();
        let plan = manifest.layers.get(layer as usize).cloned();
        let (Some(plan), Some(key)) = (plan, self.key.layer(layer)) else {
            return Err(Broken::new("the key lacks a layer of its model"));
        };
        let rope = manifest.ropes.get(plan.attention.rope as usize);
        let rope = rope.ok_or_else(|| Broken::new("a layer's rotary table is missing"))?;
        Ok(checks(self.device, key, layer, is_last, plan, rope.frequencies.clone()))
    }
}

/// The facts of a session that its cells are checked with.
#[derive(Clone, Copy)]
pub(crate) struct Session<'a, D> {
    pub(crate) device: &'a D,
    /// The number of elements of a state.
    pub(crate) hidden: usize,
    pub(crate) positions: u32,
    /// The first position whose state the head reads.
    pub(crate) first_head: u32,
}

impl<D> Session<'_, D> {
    pub(crate) const fn row_bytes(&self) -> usize {
        lockstep_exact::state::row_bytes(self.hidden)
    }
}

/// Makes a layer's key into weights as the forward pass takes them.
pub(crate) fn checks<'k, D: AuditDevice>(
    device: &D,
    key: &'k LayerKey,
    layer: u32,
    is_last: bool,
    plan: LayerPlan,
    rope: Vec<u64>,
) -> CheckedLayer<'k, D> {
    let Ok(rope) = device.put_rope(rope);
    let product = |name, key| product(device, name, key);
    let parts = key.map(product, |_, vector| put_vector(device, vector.clone()));
    LayerWeights { layer, is_last, rope, parts, plan }
}

/// Makes the key of a product into its weights as the forward pass takes them.
pub(crate) fn product<'k, D: AuditDevice>(
    device: &D,
    name: ProductName,
    key: &'k ProductKey,
) -> Product<Check<'k>, D::Vector> {
    let scales = put_vector(device, key.scales().to_vec());
    let bias = key.bias().map(|bias| put_vector(device, bias.to_vec()));
    Product { matrix: Check { name, key }, scales, bias }
}

/// Gives a vector to a device, which cannot fail.
pub(crate) fn put_vector<D: AuditDevice>(device: &D, values: Vec<f32>) -> D::Vector {
    let Ok(vector) = device.put_vector(values);
    vector
}
