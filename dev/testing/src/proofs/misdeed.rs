//! What a stage of a ring of proofs does wrong: a lie of the catalogue, or a slip that no server's
//! code could make.

use lockstep_exact::blob::Blob;
use lockstep_exact::feed_forward::Experts;
use lockstep_exact::manifest::Manifest;
use lockstep_exact::matrix::Packed;
use lockstep_exact::names::ProductName;
use lockstep_exact::plan::Activation;
use lockstep_exact::weights::{LayerWeights, Product};

use crate::liar::weights;
use crate::lie::{Aim, Lie, Script};

/// Positions that [`Lie::TruncatedContext`] attends to.
const WINDOW: u32 = 4;

/// A deviation of one stage from the protocol. Layers and positions are absolute.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Misdeed {
    /// It tells a lie that a server could tell.
    Lie(Script),
    /// It is at odds with itself in a way that no server's code could be.
    Slip(Slip),
}

/// Returns the misdeed of a stage that tells `lie` in the layer `layer` and at `position`. A lie
/// about neither takes no notice of them.
#[must_use]
pub const fn told(lie: Lie, layer: u32, position: u32) -> Misdeed {
    Misdeed::Lie(lie.at(layer, position))
}

/// Returns the misdeed of a stage that makes `slip`.
#[must_use]
pub const fn slip(slip: Slip) -> Misdeed {
    Misdeed::Slip(slip)
}

/// A way of being at odds with oneself that needs no lie of the catalogue: a single statement, row
/// or weight that is not what it must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Slip {
    /// Ends its own marks in another chain than it signs.
    Chain,
    /// Adds one to a weight code of a layer's down products.
    Code(u32),
    /// Signs other embedding digests than it computes from.
    EmbeddingDigest(u32),
    /// Commits to another KV row than attention read.
    KvRowCommitted(u32, u32),
    /// Marks another input than it got, as [`Lie::OtherMarkInput`] does, and shows a mark of its
    /// own making as the one that it got.
    MarkInputShown,
    /// Normalises the weights of a layer's experts where the plan does not, or the other way round.
    NormalisesExperts(u32),
    /// Leaves out the bias of a layer's down product.
    OmitsDownBias(u32),
    /// Neither computes nor opens the shared expert of a layer.
    OmitsShared(u32),
    /// Leaves out the sigmoid's gate of the shared expert of a layer.
    OmitsSharedGate(u32),
    /// Changes a byte of an opening, if it has one there.
    OpeningByte(usize),
    /// Computes from another state than it received and marks, and commits to that.
    OtherInput(u32),
    /// Signs another root for what it sent.
    OutputRoot,
    /// Signs and opens as if it had computed one position less.
    Positions,
    /// Commits to another received state than it computes from and marks.
    ReceivedColumn(u32),
    /// Commits to another last state than it sends and marks.
    SentColumn(u32, u32),
    /// Uses one expert of a layer less than the plan says.
    SkipsExpert(u32),
    /// Claims the sums of a cell's experts in another order.
    SumsSwapped,
}

/// Returns the layer and position at which one of these misdeeds tells the lie `wanted`, if one
/// does.
pub(super) fn aim(misdeeds: &[Misdeed], wanted: Lie) -> Option<Aim> {
    misdeeds.iter().find_map(|misdeed| match misdeed {
        Misdeed::Lie(Script { lie, aim }) if *lie == wanted => Some(*aim),
        Misdeed::Lie(_) | Misdeed::Slip(_) => None,
    })
}

/// Returns whether one of these misdeeds is a lie of the sampler that is told at a position: from
/// its aim on.
pub(super) fn samples(misdeeds: &[Misdeed], wanted: Lie, position: u32) -> bool {
    aim(misdeeds, wanted).is_some_and(|aim| position >= aim.position)
}

/// Returns a blob as a stage with these misdeeds loads it.
pub(super) fn blob(misdeeds: &[Misdeed], manifest: &Manifest, index: u32, honest: Blob) -> Blob {
    misdeeds.iter().fold(honest, |blob, misdeed| match misdeed {
        Misdeed::Lie(script) => weights::blob(Some(*script), manifest, index, blob),
        Misdeed::Slip(_) => blob,
    })
}

/// Makes a layer's weights those that a misdeed is done with.
pub(super) fn alter(layer: &mut LayerWeights<Packed>, misdeed: Misdeed) {
    match misdeed {
        Misdeed::Lie(script) => {
            weights::leave_out(Some(script), std::slice::from_mut(layer));
            if script.aim.layer == layer.layer {
                lie_in_weights(layer, script.lie);
            }
        }
        Misdeed::Slip(Slip::Code(of)) if of == layer.layer => {
            use ProductName::{Down, ExpertDown, SharedDown};
            for (name, product) in layer.parts.feed_forward.products_mut() {
                if matches!(name, Down | ExpertDown(_) | SharedDown) {
                    change_code(&mut product.matrix);
                }
            }
        }
        Misdeed::Slip(Slip::OmitsDownBias(of)) if of == layer.layer => {
            layer.parts.feed_forward.dense_mut().unwrap().down.bias = None;
        }
        Misdeed::Slip(
            slip @ (Slip::NormalisesExperts(of)
            | Slip::OmitsShared(of)
            | Slip::OmitsSharedGate(of)
            | Slip::SkipsExpert(of)),
        ) if of == layer.layer => misuse(layer.parts.feed_forward.experts_mut().unwrap(), slip),
        Misdeed::Slip(_) => {}
    }
}

/// The lies that a server tells in its operations, as weights and plans that give the same.
fn lie_in_weights(layer: &mut LayerWeights<Packed>, lie: Lie) {
    match lie {
        Lie::OtherChoice => {
            scale(&mut layer.parts.feed_forward.experts_mut().unwrap().router, -1.0)
        }
        Lie::OtherWeights => {
            scale(&mut layer.parts.feed_forward.experts_mut().unwrap().router, 1.01);
        }
        Lie::TruncatedContext => layer.plan.attention.window = WINDOW,
        Lie::WrongActivation => {
            layer.plan.activation = match layer.plan.activation {
                Activation::Silu => Activation::GeluTanh,
                Activation::GeluTanh => Activation::Silu,
            };
        }
        _ => {}
    }
}

fn misuse(experts: &mut Experts<Product<Packed>>, slip: Slip) {
    match slip {
        Slip::NormalisesExperts(_) => experts.rule.normalise ^= true,
        Slip::OmitsShared(_) => experts.shared = None,
        Slip::OmitsSharedGate(_) => scale(&mut experts.shared.as_mut().unwrap().gate, 0.0),
        Slip::SkipsExpert(_) => experts.rule.used -= 1,
        _ => {}
    }
}

fn scale(product: &mut Product<Packed>, factor: f32) {
    product.scales.iter_mut().for_each(|scale| *scale *= factor);
}

/// One code of one row, in the first block; 255 is the largest.
fn change_code(matrix: &mut Packed) {
    let mut bytes = matrix.bytes().to_vec();
    bytes[0] = if bytes[0] == 255 { 254 } else { bytes[0] + 1 };
    let len = bytes.len();
    let slice = Blob::new(bytes).slice(0, len).unwrap();
    *matrix = Packed::new(matrix.shape(), slice).unwrap();
}
