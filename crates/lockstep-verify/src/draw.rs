//! Which cells are opened: drawn by the client after it holds the signed roots of all stages.
//!
//! The draw is a function of the audit seed, to which the request is bound, and of the receipt, so
//! that nobody could know it before the roots were signed and everybody can repeat it afterwards.
//! It is stratified: every stage opens random layers at random positions; the head opens the last
//! token and some others, and the last layer opens the cells that gave the head its states there:
//! otherwise the last stage could send another state than it commits to.
#![deny(clippy::arithmetic_side_effects, clippy::integer_division)]

use std::collections::{BTreeMap, BTreeSet};

use core::ops::Range;

use lockstep_exact::bytes::{Canonical, DecodeError, Reader};
use lockstep_exact::manifest::{LayerPlan, Manifest};
use lockstep_exact::sample::Finish;
use lockstep_exact::weights::kv_shape;

use crate::challenge::{Side, Target};
use crate::links::Linked;
use crate::request::AuditSeed;
use crate::slots::slots;
use crate::{limits, sums};

/// Random layers of each stage in a sampled audit, if it has as many.
pub const LAYERS: u32 = 4;
/// Random cells of each stage in a sampled audit, if there are as many.
pub const CELLS: u32 = 16;
/// Head cells of a sampled audit, if there are as many; the last token's is always one of them.
pub const HEAD_CELLS: u32 = 4;

/// How much is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Every cell of every stage and of the head.
    Full,
    /// A random, stratified part.
    Sampled,
}

impl Canonical for Extent {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(match self {
            Self::Full => 0,
            Self::Sampled => 1,
        });
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(input)? {
            0 => Ok(Self::Full),
            1 => Ok(Self::Sampled),
            tag => Err(input.unknown_tag("extent", tag)),
        }
    }
}

/// The challenges of an audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draw {
    /// In the order of the ring; none holds more than one opening may.
    pub targets: Vec<Target>,
    /// Per stage, what nobody could foresee.
    pub drawn: Vec<Drawn>,
}

/// The random part of what a stage opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drawn {
    /// Layers.
    pub layers: u32,
    /// Cells.
    pub cells: u64,
}

/// Draws the challenges of an audit.
///
/// Where neighbours signed different roots for the states between them, both are asked to open that
/// edge.
///
/// # Soundness
/// To be called only once all segments of the receipt are signed: whoever knows the seed before can
/// choose which cells to compute.
#[must_use]
pub fn draw(linked: &Linked<'_>, manifest: &Manifest, seed: &AuditSeed, extent: Extent) -> Draw {
    let mut numbers = Numbers::new(seed, linked);
    let (mut cells, mut drawn) = (Cells::new(), Vec::new());
    for segment in &linked.receipt().segments {
        let span = segment.first..segment.end;
        let chosen = match extent {
            Extent::Full => span.map(|layer| (layer, all(linked.known()))).collect(),
            Extent::Sampled => numbers.stage(span, linked.known()),
        };
        drawn.push(Drawn {
            layers: u32::try_from(chosen.len()).unwrap_or(u32::MAX),
            cells: chosen.iter().map(|(_, positions)| positions.len() as u64).sum(),
        });
        for (layer, positions) in chosen {
            cells.entry(layer).or_default().extend(positions);
        }
    }
    let heads = match extent {
        Extent::Full => head_positions(linked).collect(),
        Extent::Sampled => numbers.heads(head_positions(linked)),
    };
    let last_layer = linked.layers().saturating_sub(1);
    let known = heads.iter().filter(|position| **position < linked.known());
    cells.entry(last_layer).or_default().extend(known);
    if let Finish::Overflow { position, layer } = linked.receipt().finish
        && layer < linked.layers()
    {
        cells.entry(layer).or_default().insert(position);
    }
    let mut targets = layer_targets(linked, manifest, cells);
    let pieces = heads.chunks(heads_per_opening(manifest)).map(<[u32]>::to_vec);
    targets.extend(pieces.map(|positions| Target::Head { positions }));
    for &layer in linked.unsettled() {
        let sender = layer.saturating_sub(1);
        targets.extend(edges(linked, manifest, sender, Side::Sent));
        targets.extend(edges(linked, manifest, layer, Side::Received));
    }
    Draw { targets, drawn }
}

/// Positions to open, by layer.
type Cells = BTreeMap<u32, BTreeSet<u32>>;

/// Cuts the cells of each layer into challenges.
fn layer_targets(linked: &Linked<'_>, manifest: &Manifest, cells: Cells) -> Vec<Target> {
    let mut targets = Vec::new();
    for (layer, positions) in cells {
        let Some(plan) = manifest.layers.get(layer as usize) else { continue };
        let most = cells_per_opening(manifest, plan, linked.positions());
        let positions: Vec<u32> = positions.into_iter().collect();
        let pieces = positions.chunks(most).map(<[u32]>::to_vec);
        targets.extend(pieces.map(|positions| Target::Layer { layer, positions }));
    }
    targets
}

/// The positions of the states that the head read.
#[must_use]
pub fn head_positions(linked: &Linked<'_>) -> Range<u32> {
    let first = linked.first_head();
    let tokens = u32::try_from(linked.receipt().answer.len()).unwrap_or(u32::MAX);
    let at_head = match linked.receipt().finish {
        Finish::Overflow { layer, .. } => u32::from(layer == linked.layers()),
        Finish::EndToken | Finish::StopString | Finish::Length | Finish::Context => 0,
    };
    first..first.saturating_add(tokens).saturating_add(at_head)
}

/// All rows of one side of an edge, in pieces that fit an opening.
fn edges(linked: &Linked<'_>, manifest: &Manifest, layer: u32, side: Side) -> Vec<Target> {
    let row = manifest.state_row_bytes().max(1);
    let most = budget().checked_div(row).unwrap_or(1);
    let most = u32::try_from(most).unwrap_or(u32::MAX).max(1);
    let mut targets = Vec::new();
    let (mut first, mut count) = (0_u32, 0_u32);
    // Pieces end with a frame, because marks are of whole frames.
    for step in &linked.receipt().steps {
        if count > 0 && count.saturating_add(step.count) > most {
            targets.push(Target::Edge { layer, side, first, count });
            first = first.saturating_add(count);
            count = 0;
        }
        count = count.saturating_add(step.count);
    }
    targets.push(Target::Edge { layer, side, first, count });
    targets
}

fn all(end: u32) -> Vec<u32> {
    (0..end).collect()
}

/// Half of what an opening may hold: the other half is for slices' chunks and siblings.
const fn budget() -> usize {
    limits::OPENING_BYTES >> 1
}

fn cells_per_opening(manifest: &Manifest, plan: &LayerPlan, positions: u32) -> usize {
    let slots = slots(plan);
    let sums = slots.iter().map(|slot| slot.width().saturating_mul(sums::width(slot.shape)));
    let states = manifest.state_row_bytes().saturating_mul(2);
    let cell = sums.fold(states, usize::saturating_add);
    let kv = kv_shape(plan).row_bytes().saturating_mul(positions as usize);
    let most = budget().saturating_sub(kv).checked_div(cell).unwrap_or(1);
    most.clamp(1, limits::CHALLENGE_POSITIONS)
}

fn heads_per_opening(manifest: &Manifest) -> usize {
    let shape = manifest.head.output.shape();
    let sums = shape.rows.saturating_mul(sums::width(shape));
    let cell = sums.saturating_add(manifest.state_row_bytes());
    budget().checked_div(cell).unwrap_or(1).clamp(1, limits::CHALLENGE_POSITIONS)
}

/// The stream of random numbers of one audit.
struct Numbers(blake3::OutputReader);

impl Numbers {
    fn new(seed: &AuditSeed, linked: &Linked<'_>) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("lockstep 2026 challenge draw");
        hasher.update(&seed.0);
        hasher.update(&linked.receipt().digest().0);
        Self(hasher.finalize_xof())
    }

    /// A number below `bound`, all equally likely.
    fn below(&mut self, bound: u32) -> u32 {
        let bound = u64::from(bound.max(1));
        let biased = u64::MAX.checked_rem(bound).unwrap_or(0);
        loop {
            let mut bytes = [0; 8];
            self.0.fill(&mut bytes);
            let number = u64::from_le_bytes(bytes);
            if number < u64::MAX.saturating_sub(biased) {
                let below = number.checked_rem(bound).unwrap_or(0);
                return u32::try_from(below).unwrap_or(0);
            }
        }
    }

    /// `count` different numbers of a range, in order; all of them if there are no more.
    fn choose(&mut self, count: u32, from: Range<u32>) -> Vec<u32> {
        let size = from.end.saturating_sub(from.start);
        let count = count.min(size);
        // Floyd's algorithm.
        let mut chosen = BTreeSet::new();
        for last in size.saturating_sub(count)..size {
            let number = self.below(last.saturating_add(1));
            if !chosen.insert(number) {
                chosen.insert(last);
            }
        }
        chosen.into_iter().map(|number| from.start.saturating_add(number)).collect()
    }

    /// Random layers of a stage with random positions each.
    fn stage(&mut self, span: Range<u32>, positions: u32) -> Vec<(u32, Vec<u32>)> {
        let positions = positions.max(1);
        let layers = LAYERS.max(CELLS.div_ceil(positions));
        let layers = self.choose(layers, span);
        let count = u32::try_from(layers.len()).unwrap_or(u32::MAX).max(1);
        let each = CELLS.div_ceil(count);
        let column = |layer| (layer, self.choose(each, 0..positions));
        layers.into_iter().map(column).collect()
    }

    /// The last head cell and some random others.
    fn heads(&mut self, all: Range<u32>) -> Vec<u32> {
        let Some(last) = all.end.checked_sub(1).filter(|last| all.contains(last)) else {
            return Vec::new();
        };
        let mut chosen = self.choose(HEAD_CELLS.saturating_sub(1), all.start..last);
        chosen.push(last);
        chosen
    }
}
