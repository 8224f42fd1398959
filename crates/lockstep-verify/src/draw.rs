//! Which cells are opened: drawn by the client after it holds the signed roots of all stages.
//!
//! The draw is a function of the audit seed, to which the request is bound, and of the receipt, so
//! that nobody could know it before the roots were signed and everybody can repeat it afterwards.
//! It is stratified, so that no place is left in which a stage could be wrong unseen: in *every*
//! layer it draws cells of the prompt and cells of the answer, and layer 0 is opened wherever the
//! prompt is, which binds what server 1 read to what the client sent. Within a stratum all cells
//! are equally likely. The head opens the first token, the last and some others, and the last layer
//! the cells that gave the head its states there: otherwise the last stage could send another state
//! than it commits to.
//!
//! How many challenges that takes is known before a session begins: [`check_length`].
//!
//! A [`Stratum`] says how cells were drawn; [`crate::rates`] derives from it what a draw finds.
#![deny(clippy::arithmetic_side_effects, clippy::integer_division)]

use core::fmt;
use core::ops::Range;
use std::collections::{BTreeMap, BTreeSet};

use lockstep_exact::bytes::{Canonical, DecodeError, Reader};
use lockstep_exact::invariant::Broken;
use lockstep_exact::manifest::Manifest;

use crate::challenge::{Side, Target};
use crate::limits;
use crate::links::{Border, Dispute, Linked, Meeting};
use crate::price::{LayerPrice, Prices, per_part};
use crate::request::AuditSeed;
use crate::statement::Segment;

/// Random cells of each stage in a sampled audit, at least, if it has as many: prompt and answer
/// get their share of them, spread over the layers, and no layer gets none.
pub const CELLS: u32 = 18;
/// Positions of the prompt at which a sampled audit opens layer 0: all of a prompt that is not
/// longer, so many random ones of a prompt that is.
pub const PROMPT_CELLS: u32 = 1024;
/// Head cells of a sampled audit, if there are as many: those of the first token, of the last one,
/// and random others.
pub const HEAD_CELLS: u32 = 4;

/// The share of an answer's cells that is opened.
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
    /// In the order of the ring; none holds more than one opening may. Those about states that
    /// neighbours signed differently come last.
    /// Each stands beside the index of the segment whose stage has to answer it.
    pub targets: Vec<(u32, Target)>,
    /// Per segment, how its cells were drawn.
    pub strata: Vec<Vec<Stratum>>,
    /// The stratum of the head's cells.
    pub head: Stratum,
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "full",
            Self::Sampled => "sampled",
        })
    }
}

/// More would have to be opened than an audit takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong {
    /// The extent of the audit that was wanted.
    pub extent: Extent,
    /// Positions of the session: its prompt's, and those that its answer may take.
    pub positions: u32,
    /// The most challenges that such an audit may take.
    pub challenges: u64,
    /// The most challenges that an audit may have.
    pub most: u64,
    /// With how many positions, of the same prompt, it would not be too long; 0 if with none.
    pub most_positions: u32,
}

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { extent, positions, challenges, most, most_positions } = self;
        write!(
            f,
            "a {extent} audit of {positions} positions may take {challenges} openings, and an \
             audit takes at most {most}: "
        )?;
        match (most_positions, extent) {
            (0, _) => f.write_str("take a shorter prompt")?,
            _ => write!(f, "let prompt and answer take at most {most_positions} positions")?,
        }
        match extent {
            Extent::Full => f.write_str(", or take a sampled audit"),
            Extent::Sampled => Ok(()),
        }
    }
}

impl core::error::Error for TooLong {}

/// Checks that at most `most` challenges, [`limits::AUDIT_CHALLENGES`] as a rule, are enough to
/// audit a session of this model that has a prompt of `prompt_len` tokens and runs for at most
/// `positions` positions. To be asked before it begins: the answer is the same afterwards, whatever
/// the stages sign, because states that they sign differently are not counted.
///
/// # Errors
/// [`TooLong`].
pub fn check_length(
    most: u64,
    manifest: &Manifest,
    extent: Extent,
    prompt_len: u32,
    positions: u32,
) -> Result<(), TooLong> {
    let prices = Prices::of(manifest);
    let layers = 0..manifest.layer_count();
    let takes = |positions| {
        let cells = cell_challenges(&prices, extent, layers.clone(), positions);
        cells.saturating_add(head_challenges(&prices, extent, prompt_len, positions))
    };
    check(most, (extent, prompt_len, positions), takes)
}

/// Checks the length of a session that is over, as [`check_length`] does: where stages took over,
/// each segment is opened as a stage of its own.
///
/// # Errors
/// [`TooLong`].
pub(crate) fn check_linked(
    most: u64,
    manifest: &Manifest,
    extent: Extent,
    linked: &Linked<'_>,
) -> Result<(), TooLong> {
    let prices = Prices::of(manifest);
    let prompt_len = linked.first_head().saturating_add(1);
    let takes = |positions| {
        let cells = |segment: &Segment| {
            let positions = segment.positions.min(positions);
            cell_challenges(&prices, extent, segment.first..segment.end, positions)
        };
        let heads = head_challenges(&prices, extent, prompt_len, positions);
        linked.receipt().segments.iter().map(cells).fold(heads, u64::saturating_add)
    };
    check(most, (extent, prompt_len, linked.positions()), takes)
}

/// Whether at most `most` challenges are enough, of which `takes` says how many so many positions
/// take.
fn check(
    most: u64,
    (extent, prompt_len, positions): (Extent, u32, u32),
    takes: impl Fn(u32) -> u64,
) -> Result<(), TooLong> {
    let needed = takes(positions);
    if needed <= most {
        return Ok(());
    }
    // Longer sessions never take fewer.
    let (mut fits, mut fails) = (0, positions);
    while fails.saturating_sub(fits) > 1 {
        let middle = fits.midpoint(fails);
        if takes(middle) <= most { fits = middle } else { fails = middle }
    }
    let most_positions = if fits < prompt_len { 0 } else { fits };
    Err(TooLong { extent, positions, challenges: needed, most, most_positions })
}

/// The challenges for the cells of some layers: all of a full audit, at most so many of a sampled
/// one.
fn cell_challenges(prices: &Prices, extent: Extent, layers: Range<u32>, positions: u32) -> u64 {
    if extent == Extent::Full {
        return prices.full_audit_challenges(layers, positions, 0);
    }
    let of_layer = |layer: u32| {
        // The prompt's and the answer's draw, and what the head reads.
        let drawn = CELLS.saturating_mul(2).saturating_add(HEAD_CELLS);
        let whole = if layer == 0 { PROMPT_CELLS } else { 0 };
        let cells = u64::from(drawn.saturating_add(whole).min(positions));
        // Parts full of KV rows, and one that is not; and each cell can end the part before it, and
        // one of rows.
        let rows = u64::from(positions).saturating_add(1);
        let parts = rows.div_ceil(rows_per_part(prices.layer(layer)).into());
        parts.saturating_add(cells.saturating_mul(2))
    };
    layers.map(of_layer).fold(0, u64::saturating_add)
}

/// The same for the cells of the head.
fn head_challenges(prices: &Prices, extent: Extent, prompt_len: u32, positions: u32) -> u64 {
    let heads = positions.saturating_sub(prompt_len.saturating_sub(1));
    match extent {
        Extent::Full => prices.full_audit_challenges(0..0, 0, heads),
        Extent::Sampled => u64::from(heads.min(HEAD_CELLS)),
    }
}

/// KV rows of a part that holds nothing else.
fn rows_per_part(price: LayerPrice) -> u32 {
    per_part(price.kv_row)
}

/// The part of a session that cells are drawn from separately.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Positions of the prompt.
    Prompt,
    /// Positions of the answer.
    Answer,
}

/// Cells of one layer, or of the head, that are drawn alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stratum {
    /// The layer; the number of layers stands for the head.
    pub layer: u32,
    /// The part of the session.
    pub part: Part,
    /// The number of cells in the stratum.
    pub cells: u64,
    /// The number of cells that are opened whatever the seed: everybody can foresee these.
    pub certain: u64,
    /// Independent draws, each uniform and without repetition. Every cell that is not certain can
    /// be drawn by each of them.
    pub samples: Vec<Sample>,
}

/// A uniform draw without repetition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sample {
    /// The number of cells from which the draw is made.
    pub of: u64,
    /// The number of cells that are drawn.
    pub chosen: u64,
}

/// Draws the challenges of an audit.
///
/// Where neighbours signed different marks for a frame between them, the receiver is asked for the
/// mark that it got; where they signed the same marks but different roots, or roots of columns of
/// different lengths, both are asked to open that edge. Where a stage that took over marked another
/// output than the one before it, all cells of both are opened up to there.
///
/// # Soundness
/// To be called only once all segments of the receipt are signed: whoever knows the seed before can
/// choose which cells to compute.
///
/// # Errors
/// [`Broken`]: a cell that is to be opened has no stage, although the links hold.
pub fn draw(
    linked: &Linked<'_>,
    manifest: &Manifest,
    seed: &AuditSeed,
    extent: Extent,
) -> Result<Draw, Broken> {
    let mut lots = Lots { numbers: Numbers::new(seed, linked), linked, cells: Cells::new() };
    let (strata, heads, head) = match extent {
        Extent::Full => lots.everything(),
        Extent::Sampled => lots.some()?,
    };
    let unsettled = linked.unsettled();
    unsettled.disputes.iter().for_each(|dispute| lots.disputed(dispute));
    let prices = Prices::of(manifest);
    let mut targets = layer_targets(&prices, lots.cells);
    let pieces = heads.chunks(prices.heads_per_opening()).map(<[u32]>::to_vec);
    targets.extend(pieces.map(|positions| (0, Target::Head { positions })));
    let asked = |&Meeting { to, layer, position }: &Meeting| (to, Target::Mark { layer, position });
    targets.extend(unsettled.marks.iter().map(asked));
    for border in unsettled.roots.iter().chain(&unsettled.seams) {
        let sent = edges(linked, manifest, border, Side::Sent);
        targets.extend(sent.into_iter().map(|edge| (border.from, edge)));
        let received = edges(linked, manifest, border, Side::Received);
        targets.extend(received.into_iter().map(|edge| (border.to, edge)));
    }
    Ok(Draw { targets, strata, head })
}

/// Positions to open, by segment and layer.
type Cells = BTreeMap<(u32, u32), BTreeSet<u32>>;

/// A draw under way.
struct Lots<'a> {
    numbers: Numbers,
    linked: &'a Linked<'a>,
    cells: Cells,
}

/// Strata by stage, head cells, and the head's stratum.
type Drawn = (Vec<Vec<Stratum>>, Vec<u32>, Stratum);

impl<'a> Lots<'a> {
    /// All segments, by their indexes.
    fn segments(&self) -> impl Iterator<Item = (u32, &'a Segment)> + use<'a> {
        (0..).zip(&self.linked.receipt().segments)
    }

    /// Positions of the prompt, and those of the answer after them, of those that a segment has.
    fn parts(&self, segment: &Segment) -> [(Part, Range<u32>); 2] {
        let all = segment.positions;
        let prompt = self.linked.first_head().saturating_add(1).min(all);
        [(Part::Prompt, 0..prompt), (Part::Answer, prompt..all)]
    }

    fn everything(&mut self) -> Drawn {
        let heads: Vec<u32> = self.linked.head_positions().collect();
        let mut strata = Vec::new();
        for (index, segment) in self.segments() {
            let (span, parts) = (segment.first..segment.end, self.parts(segment));
            let mut of_stage = Vec::new();
            for (layer, (part, positions)) in
                span.flat_map(|layer| parts.clone().map(|part| (layer, part)))
            {
                let cells = positions.len() as u64;
                self.cells.entry((index, layer)).or_default().extend(positions);
                of_stage.push(Stratum { certain: cells, ..Stratum::new(layer, part, cells) });
            }
            strata.push(of_stage);
        }
        let certain = heads.len() as u64;
        let head = Stratum { certain, ..Stratum::new(self.linked.layers(), Part::Answer, certain) };
        (strata, heads, head)
    }

    fn some(&mut self) -> Result<Drawn, Broken> {
        let mut strata = Vec::new();
        for (index, segment) in self.segments() {
            strata.push(self.stage(index, segment)?);
        }
        let (heads, head) = self.heads();
        let last = self.linked.layers().saturating_sub(1);
        for &position in &heads {
            let index = self.linked.sender_to_head(position);
            let index = index.ok_or_else(|| Broken::new("no stage sent the head a state"))?;
            self.cells.entry((index, last)).or_default().insert(position);
        }
        // Of several last stages none gave the head all its states: what was opened of them because
        // of the head is not counted.
        let of_last = strata.iter_mut().flatten().filter(|stratum| stratum.layer == last);
        let of_last: Vec<&mut Stratum> = of_last.collect();
        if of_last.len() <= 2 {
            of_last.into_iter().for_each(|stratum| read_by_head(stratum, &head));
        }
        Ok((strata, heads, head))
    }

    /// All cells of two stages of one place, up to where they differ.
    fn disputed(&mut self, dispute: &Dispute) {
        let places = [dispute.taken.saturating_sub(1), dispute.taken];
        for (index, segment) in self.segments().filter(|(index, _)| places.contains(index)) {
            for layer in segment.first..segment.end {
                self.cells.entry((index, layer)).or_default().extend(0..dispute.end);
            }
        }
    }

    /// Random cells of every layer of a stage, of the prompt and of the answer.
    fn stage(&mut self, index: u32, segment: &Segment) -> Result<Vec<Stratum>, Broken> {
        let span = segment.first..segment.end;
        let layers = span.len() as u64;
        let total = u64::from(segment.positions);
        let mut strata = Vec::new();
        for (place, layer) in (0..).zip(span) {
            for (part, positions) in self.parts(segment) {
                let cells = positions.len() as u64;
                let chosen = match (layer, part) {
                    (0, Part::Prompt) => PROMPT_CELLS,
                    (_, Part::Prompt | Part::Answer) => chosen_of(place, layers, cells, total)?,
                };
                let chosen = self.numbers.choose(chosen, positions);
                let mut stratum = Stratum::new(layer, part, cells);
                stratum.add(Sample { of: cells, chosen: chosen.len() as u64 });
                strata.push(stratum);
                self.cells.entry((index, layer)).or_default().extend(chosen);
            }
        }
        Ok(strata)
    }

    /// The first head cell, the last one, and some random others.
    fn heads(&mut self) -> (Vec<u32>, Stratum) {
        let all = self.linked.head_positions();
        let last = all.end.saturating_sub(1);
        let ends = [all.start, last].into_iter().filter(|position| all.contains(position));
        let mut heads: BTreeSet<u32> = ends.collect();
        let mut head = Stratum::new(self.linked.layers(), Part::Answer, all.len() as u64);
        head.certain = heads.len() as u64;
        let others = all.start.saturating_add(1)..last;
        let of = others.len() as u64;
        let chosen = self.numbers.choose(HEAD_CELLS.saturating_sub(2), others);
        head.add(Sample { of, chosen: chosen.len() as u64 });
        heads.extend(chosen);
        (heads.into_iter().collect(), head)
    }
}

impl Stratum {
    /// With nothing opened.
    const fn new(layer: u32, part: Part, cells: u64) -> Self {
        Self { layer, part, cells, certain: 0, samples: Vec::new() }
    }

    /// Adds an independent draw; one that takes all there is makes its cells certain.
    fn add(&mut self, sample: Sample) {
        if sample.chosen >= sample.of {
            self.certain = self.certain.saturating_add(sample.of).min(self.cells);
        } else if sample.chosen > 0 {
            self.samples.push(sample);
        }
    }

    /// Returns the number of cells that are not certain to be opened: where a cheat can hide.
    #[must_use]
    pub const fn hidden(&self) -> u64 {
        self.cells.saturating_sub(self.certain)
    }
}

/// How many cells of a part of the session a stage draws in its layer at `place`: the part's share
/// of [`CELLS`], dealt to the layers in turn, and one in each at least.
fn chosen_of(place: u64, layers: u64, cells: u64, known: u64) -> Result<u32, Broken> {
    let share = u64::from(CELLS).saturating_mul(cells).div_ceil(known.max(1)).max(layers);
    let (Some(each), Some(more)) = (share.checked_div(layers), share.checked_rem(layers)) else {
        return Err(Broken::new("a stage has no layers"));
    };
    let each = each.saturating_add(u64::from(place < more));
    u32::try_from(each).map_err(|_| Broken::new("a layer's share is more than all that is drawn"))
}

/// The last layer opens the cells that gave the head its states, where the head is opened: the
/// prompt's last, which gives the first token, and those of the answer.
fn read_by_head(stratum: &mut Stratum, head: &Stratum) {
    if stratum.hidden() == 0 {
        return;
    }
    let first = head.certain.min(1);
    match stratum.part {
        Part::Prompt => stratum.certain = stratum.certain.saturating_add(first),
        Part::Answer => {
            let others = head.certain.saturating_sub(first);
            stratum.certain = stratum.certain.saturating_add(others).min(stratum.cells);
            stratum.samples.extend(head.samples.iter().copied());
        }
    }
}

/// Cuts what is opened of each layer into parts.
fn layer_targets(prices: &Prices, cells: Cells) -> Vec<(u32, Target)> {
    let mut targets = Vec::new();
    for ((index, layer), positions) in cells {
        let parts = parts(layer, prices.layer(layer), positions);
        targets.extend(parts.into_iter().map(|part| (index, part)));
    }
    targets
}

/// Cuts what is opened of a layer into parts. `positions` increase.
pub(crate) fn parts(
    layer: u32,
    price: LayerPrice,
    positions: impl IntoIterator<Item = u32>,
) -> Vec<Target> {
    let (cells, targets) = (Vec::new(), Vec::new());
    let mut parts = Parts { layer, price, first: 0, end: 0, cells, bytes: 0, targets };
    positions.into_iter().for_each(|position| parts.add(position));
    parts.flush();
    parts.targets
}

/// The parts of one layer: KV rows from position 0 on, and cells among them.
struct Parts {
    layer: u32,
    price: LayerPrice,
    /// The part under way.
    first: u32,
    end: u32,
    cells: Vec<u32>,
    bytes: u64,
    targets: Vec<Target>,
}

impl Parts {
    /// Opens a cell, with all KV rows up to it that no part has yet.
    fn add(&mut self, position: u32) {
        let after = position.saturating_add(1);
        loop {
            let rows = after.saturating_sub(self.end);
            let kv = self.price.kv_row.saturating_mul(rows.into());
            let bytes = kv.saturating_add(self.price.cell);
            let is_room = self.bytes.saturating_add(bytes) <= limits::PART_BYTES as u64
                && self.cells.len() < limits::CHALLENGE_POSITIONS;
            // A part holds a row or a cell at least, whatever its size.
            let is_least = self.first == self.end && rows <= 1;
            if is_room || is_least {
                self.end = self.end.max(after);
                self.bytes = self.bytes.saturating_add(bytes);
                self.cells.push(position);
                return;
            }
            if self.first < self.end {
                self.flush();
                continue;
            }
            let most = rows_per_part(self.price);
            self.end = self.end.saturating_add(most.min(rows.saturating_sub(1).max(1)));
            self.flush();
        }
    }

    /// Ends the part under way.
    fn flush(&mut self) {
        if self.first == self.end {
            return;
        }
        let positions = core::mem::take(&mut self.cells);
        let (layer, first, end) = (self.layer, self.first, self.end);
        self.targets.push(Target::Layer { layer, first, end, positions });
        (self.first, self.bytes) = (self.end, 0);
    }
}

/// All rows of one side of a border, in pieces that fit an opening.
fn edges(linked: &Linked<'_>, manifest: &Manifest, border: &Border, side: Side) -> Vec<Target> {
    let layer = match side {
        Side::Sent => border.layer.saturating_sub(1),
        Side::Received => border.layer,
    };
    let most = per_part(manifest.state_row_bytes() as u64);
    let frames = linked.frames_of(&border.positions).map(|step| step.count);
    let edge = |(first, count): (u32, u32)| {
        let first = border.positions.start.saturating_add(first);
        Target::Edge { layer, side, first, count }
    };
    pieces(frames, most).into_iter().map(edge).collect()
}

/// Cuts frames of so many positions into pieces of at most `most`: the first position of each, and
/// how many it has. A piece ends with a frame, because marks are of whole frames; one that is
/// larger is a piece of its own.
fn pieces(frames: impl IntoIterator<Item = u32>, most: u32) -> Vec<(u32, u32)> {
    let mut pieces = Vec::new();
    let (mut first, mut count) = (0_u32, 0_u32);
    for frame in frames {
        if count > 0 && count.saturating_add(frame) > most {
            pieces.push((first, count));
            first = first.saturating_add(count);
            count = 0;
        }
        count = count.saturating_add(frame);
    }
    pieces.push((first, count));
    pieces
}

/// A random number's remainder, unless the number is one of those beyond the last multiple of
/// `bound`: with them, small remainders would be more likely.
fn fair(number: u64, bound: u32) -> Option<u32> {
    let bound = u64::from(bound.max(1));
    let biased = u64::MAX.checked_rem(bound)?;
    if number >= u64::MAX.saturating_sub(biased) {
        return None;
    }
    // A remainder of a u32 has no more than its four bytes.
    let [a, b, c, d, ..] = number.checked_rem(bound)?.to_le_bytes();
    Some(u32::from_le_bytes([a, b, c, d]))
}

/// The stream of random numbers of one audit.
struct Numbers(blake3::OutputReader);

impl Numbers {
    fn new(seed: &AuditSeed, linked: &Linked<'_>) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("lockstep 2026 challenge draw");
        hasher.update(seed.expose());
        hasher.update(&linked.receipt().digest().0);
        Self(hasher.finalize_xof())
    }

    /// A number below `bound`, all equally likely.
    fn below(&mut self, bound: u32) -> u32 {
        loop {
            let mut bytes = [0; 8];
            self.0.fill(&mut bytes);
            if let Some(below) = fair(u64::from_le_bytes(bytes), bound) {
                return below;
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_part_has_more_cells_than_a_challenge_may() {
        let price = LayerPrice { cell: 1, kv_row: 1 };
        let cells: Vec<usize> = parts(0, price, 0..5000)
            .iter()
            .map(|part| match part {
                Target::Layer { positions, .. } => positions.len(),
                Target::Head { .. } | Target::Edge { .. } | Target::Mark { .. } => 0,
            })
            .collect();
        assert_eq!(cells, [limits::CHALLENGE_POSITIONS, 5000 - limits::CHALLENGE_POSITIONS]);
    }

    #[test]
    fn edges_are_cut_between_frames_and_none_is_empty() {
        assert_eq!(pieces([3, 3, 3, 1], 7), [(0, 6), (6, 4)]);
        assert_eq!(pieces([9, 1, 1], 7), [(0, 9), (9, 2)]);
        assert_eq!(pieces([7], 7), [(0, 7)]);
    }

    #[test]
    fn every_remainder_has_as_many_numbers_as_any_other() {
        for bound in [1, 2, 3, 7, 1000, u32::MAX] {
            let above = u64::MAX - u64::MAX % u64::from(bound);
            // What is taken is a whole number of rounds of all remainders.
            assert_eq!(fair(above - 1, bound), Some(bound - 1));
            assert_eq!((fair(above, bound), fair(u64::MAX, bound)), (None, None));
            assert_eq!((fair(0, bound), fair(1, bound)), (Some(0), Some(1 % bound)));
        }
    }
}
