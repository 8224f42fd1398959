//! What a stage of a ring of proofs does wrong, and the weights that it does it with.

use lockstep_exact::feed_forward::Experts;
use lockstep_exact::matrix::Packed;
use lockstep_exact::names::ProductName;
use lockstep_exact::plan::Activation;
use lockstep_exact::weights::{LayerWeights, Product};

/// What a stage does wrong. Positions and layers are absolute.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Lie {
    /// Opens the cells of other positions than it is asked for.
    AnotherPosition,
    /// Ends its own marks in another chain than it signs.
    Chain,
    /// Adds one to a weight code of a layer.
    Codes(u32),
    /// Signs other embedding digests than it computes from.
    EmbeddingDigest(u32),
    /// Embeds another token at this position, and says so in its column.
    EmbeddingOpen(u32),
    /// Embeds another token at this position, but commits to the right embedding.
    EmbeddingHidden(u32),
    /// Misuses the experts of a layer.
    Experts(u32, Misuse),
    /// Flips the lowest bit of a state.
    FlipBit(u32, u32),
    /// Goes on after the rules end the answer.
    GoesOn,
    /// Samples with another seed than the client's.
    IgnoresSeed,
    /// Signs another root for what it received.
    InputRoot,
    /// Puts a wrong KV row into cache and column.
    KvRow(u32, u32),
    /// Commits to another KV row than attention read.
    KvRowCommitted(u32, u32),
    /// Leaves out what only some model families have, in a layer.
    Omits(u32, Part),
    /// Changes a byte of an opening, if it has one there.
    OpeningByte(usize),
    /// Signs another root for what it sent.
    OutputRoot,
    /// Says that the head gives no token at this index.
    Overflow(u32),
    /// Gives a token where the head gives none.
    IgnoresOverflow,
    /// Gives the state of the position before.
    OldState(u32, u32),
    /// Signs another input in its marks than the stage before signed as output.
    MarkInput,
    /// As [`Lie::MarkInput`], and shows a mark of its own making as the one that it got.
    MarkInputShown,
    /// Commits to another received state than it computes from and marks.
    ReceivedColumn(u32),
    /// Answers with openings of another session.
    Replay,
    /// Multiplies the f32 row scales of a layer by 1.001.
    RowScales(u32),
    /// Signs another root for the states of a layer than it opens.
    StatesRoot(u32),
    /// Signs another root for the KV rows of a layer than it opens.
    KvRoot(u32),
    /// Chooses the second-best token at this index.
    SecondBest(u32),
    /// Gives a layer's input as its output.
    SkipsLayer(u32),
    /// Commits to another last state than it sends and marks.
    SentColumn(u32, u32),
    /// Says that the answer ended after so many tokens.
    StopsEarly(u32),
    /// Claims sums that are too large to be any.
    SumsOutOfRange,
    /// Claims the sums of a cell's experts in another order.
    SumsSwapped,
    /// Claims a sum that is one too large.
    SumsWrong,
    /// Attends to the last four positions only, in a layer.
    TruncatesContext(u32),
    /// Signs and opens as if it had computed one position less.
    Positions,
    /// Signs one mark for the next stage and another for the client, for the frame that holds this
    /// position.
    TwoMarks(u32),
    /// Gives zeros.
    Zeros(u32),
}

/// What can be done wrong with experts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Misuse {
    /// Sends rows to the experts of the lowest logits: the router's sums are right.
    Choice,
    /// Normalises the weights where the plan does not, and the other way round.
    Normalise,
    /// Leaves out the shared expert.
    OmitsShared,
    /// Leaves out the sigmoid's gate of the shared expert.
    OmitsSharedGate,
    /// Multiplies by the matrices of the next expert.
    OtherExpert,
    /// Multiplies by another router.
    Router,
    /// Uses one expert less than the plan says, where it is the second.
    Skips,
    /// Weights the right experts by other numbers.
    Weights,
}

/// A part of a layer that only some model families have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Part {
    /// The activation: SiLU is computed instead.
    Activation,
    /// The bias of the down product.
    DownBias,
    /// The norms of query and key heads.
    HeadNorms,
    /// The norms after attention and feed-forward part.
    PostNorms,
    /// The bias of the qkv product.
    QkvBias,
    /// Rotary pairs but the first two.
    Rope,
    /// The window of attention.
    Window,
}

/// Lies that are in a layer's weights.
pub(super) fn alter(layer: &mut LayerWeights<Packed>, lie: Lie) {
    match lie {
        Lie::RowScales(of) if of == layer.layer => {
            layer.parts.qkv.scales.iter_mut().for_each(|scale| *scale *= 1.001);
            let products = layer.parts.feed_forward.products_mut().into_iter();
            products.for_each(|(_, product)| scale(product, 1.001));
        }
        Lie::Codes(of) if of == layer.layer => {
            use ProductName::{Down, ExpertDown, SharedDown};
            for (name, product) in layer.parts.feed_forward.products_mut() {
                if matches!(name, Down | ExpertDown(_) | SharedDown) {
                    change_code(&mut product.matrix);
                }
            }
        }
        Lie::Experts(of, misuse) if of == layer.layer => {
            misuse_experts(layer.parts.feed_forward.experts_mut().unwrap(), misuse);
        }
        Lie::Omits(of, part) if of == layer.layer => omit(layer, part),
        Lie::TruncatesContext(of) if of == layer.layer => layer.plan.attention.window = 4,
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
    let slice = lockstep_exact::blob::Blob::new(bytes).slice(0, len).unwrap();
    *matrix = Packed::new(matrix.shape(), slice).unwrap();
}

fn misuse_experts(experts: &mut Experts<Product<Packed>>, misuse: Misuse) {
    match misuse {
        Misuse::Choice => scale(&mut experts.router, -1.0),
        Misuse::Normalise => experts.rule.normalise ^= true,
        Misuse::OmitsShared => experts.shared = None,
        Misuse::OmitsSharedGate => scale(&mut experts.shared.as_mut().unwrap().gate, 0.0),
        Misuse::OtherExpert => experts.experts.rotate_left(1),
        Misuse::Router => change_code(&mut experts.router.matrix),
        Misuse::Skips => experts.rule.used -= 1,
        Misuse::Weights => scale(&mut experts.router, 1.01),
    }
}

fn omit(layer: &mut LayerWeights<Packed>, part: Part) {
    match part {
        Part::Activation => layer.plan.activation = Activation::Silu,
        Part::DownBias => layer.parts.feed_forward.dense_mut().unwrap().down.bias = None,
        Part::HeadNorms => layer.parts.head_norms = None,
        Part::PostNorms => layer.parts.post_norms = None,
        Part::QkvBias => layer.parts.qkv.bias = None,
        Part::Rope => layer.rope.truncate(2),
        Part::Window => layer.plan.attention.window = 0,
    }
}
