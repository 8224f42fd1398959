//! Honest work for a verifier, to measure it with: no bundle, no peers, no clock.
//!
//! Random numbers are a function of the sizes, so a measurement can be repeated.

use lockstep_exact::Digest;
use lockstep_exact::bytes::Canonical as _;
use lockstep_exact::forward::Scratch;
use lockstep_exact::matrix::{CODE_MAX, INPUT_MAX, Packed, Shape};
use lockstep_exact::ops::{Device, FieldDots, Products};
use lockstep_exact::state::{self, State};
use lockstep_exact::weights::LayerWeights;

use core::ops::Range;

use crate::archive::{Archive, OpenError, Prover};
use crate::auditor::{Session, checks};
use crate::challenge::Target;
use crate::column::{Column as Rows, Columns, Keep, Recorder};
use crate::device::AuditDevice;
use crate::fault::{Blame, Fault, Reason};
use crate::key::{LayerKey, ProductKey, layer_key_of};
use crate::layer::LayerCells;
use crate::opening::Opening;
use crate::price::LayerPrice;
use crate::run::{Filled, LayerRun};
use crate::statement::LayerRoots;

const SECRET: [u8; 32] = [7; 32];
/// Positions whose rows are repeated where a session is too long to be computed.
const REPEATED: u32 = 128;
/// Bytes that are appended to a column at once: what waits to be hashed is no larger.
const APPENDED: usize = 64 << 10;
/// The largest element of the left factor of an exercise's matrices.
const LEFT_MAX: i64 = 63;

/// True claims for the products of one layer, for some cells, with the keys that check them.
pub struct Algebra(Vec<Claimed>);

struct Claimed {
    key: ProductKey,
    inputs: Vec<i16>,
    sums: Vec<i64>,
}

impl Algebra {
    /// Claims for matrices of these sizes and so many cells. The matrices are of rank one, so no
    /// weights are needed; keys, inputs and the size of sums are as in earnest.
    #[must_use]
    pub fn new(shapes: impl IntoIterator<Item = Shape>, cells: usize) -> Self {
        Self(shapes.into_iter().map(|shape| Claimed::new(shape, cells)).collect())
    }

    /// Checks all claims; true.
    #[must_use]
    pub fn check<D: FieldDots>(&self, device: &D) -> bool {
        let mut all = self.0.iter();
        all.all(|Claimed { key, inputs, sums }| key.first_wrong(device, inputs, sums).is_none())
    }
}

impl Claimed {
    fn new(shape: Shape, cells: usize) -> Self {
        let mut numbers = Numbers::new("algebra");
        let code = i64::from(CODE_MAX);
        let left: Vec<i64> = (0..shape.rows).map(|_| numbers.within(LEFT_MAX)).collect();
        let right: Vec<i64> = (0..shape.columns).map(|_| numbers.within(code)).collect();
        let count = shape.columns.saturating_mul(cells);
        let input = |_| i16::try_from(numbers.within(INPUT_MAX.into())).unwrap_or(0);
        let inputs: Vec<i16> = (0..count).map(input).collect();
        let mut sums = Vec::with_capacity(shape.rows.saturating_mul(cells));
        for row in inputs.chunks_exact(shape.columns) {
            let products = row.iter().zip(&right).map(|(&x, &w)| i64::from(x).wrapping_mul(w));
            let dot: i64 = products.sum();
            sums.extend(left.iter().map(|w| w.wrapping_mul(dot)));
        }
        Self { key: ProductKey::of_outer(&SECRET, &left, &right), inputs, sums }
    }
}

/// The committed columns of one layer over some random states, and an honest opening of some
/// positions, in parts.
pub struct Column {
    layer: Committed,
    parts: Vec<Opened>,
}

/// What a verifier knows of the layer.
struct Committed {
    key: LayerKey,
    weights: LayerWeights<()>,
    hidden: usize,
    positions: u32,
    before: Digest,
    roots: LayerRoots,
}

/// A part of an opening.
struct Opened {
    target: Target,
    body: Vec<u8>,
    digest: Digest,
}

/// Why an exercise did not go through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExerciseError {
    /// Something was not opened.
    Open(OpenError),
    /// Something that is right was found wrong.
    Fault(Fault),
}

impl core::fmt::Display for ExerciseError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Open(error) => error.fmt(f),
            Self::Fault(fault) => fault.fmt(f),
        }
    }
}

impl core::error::Error for ExerciseError {}

impl From<OpenError> for ExerciseError {
    fn from(error: OpenError) -> Self {
        Self::Open(error)
    }
}

impl From<Fault> for ExerciseError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl Column {
    /// Puts `positions` states through a layer, and opens the last `cells` of them. The layer is
    /// taken as one inside a model, whatever its index.
    ///
    /// # Errors
    /// [`OpenError::OutOfRange`] when there are none.
    pub fn new<O>(
        ops: &O,
        weights: &LayerWeights<Packed>,
        positions: u32,
        cells: u32,
    ) -> Result<Self, OpenError>
    where
        O: Products<Matrix = Packed, Error = core::convert::Infallible>,
        O::Device: AuditDevice + Device<Vector = Vec<f32>, Rope = Vec<u64>>,
    {
        let columns = |layers: &[LayerWeights<Packed>], archive: &Archive, _: &[u8]| {
            let layer = archive.span().start;
            Ok(Prover::rebuild(ops, layers, None, archive, layer, None)?.into_columns())
        };
        with_layer(ops, weights, positions, columns, |prover, layer| {
            let opened = positions.saturating_sub(cells)..positions;
            let parts = layer.parts(opened).into_iter().map(|target| open(prover, target));
            Ok(Self { parts: parts.collect::<Result<_, OpenError>>()?, layer })
        })
    }

    /// Audits the cells as an audit does, but for the signature: digest of the opening, decoding,
    /// paths, ranges, products, everything between them, equality with what is committed. Gives the
    /// number of products checked.
    ///
    /// # Errors
    /// None for what [`Column::new`] made; a fault all the same if something is wrong.
    pub fn check<D: AuditDevice>(&self, device: &D) -> Result<u64, Fault> {
        let mut filled = Filled::new(self.layer.weights.kv_shape());
        let each = self.parts.iter().map(|part| self.layer.check(device, part, &mut filled));
        each.sum()
    }
}

/// How far [`stream`] is: who has worked since it was told so before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The columns of the layer are there.
    Committed,
    /// The stage has opened a part of so many bytes.
    Opened(usize),
    /// The auditor has checked the part against the root and dropped it.
    Checked,
}

/// Commits to a layer's columns over `positions` random states, opens those that are given, which
/// increase, in parts, and audits each part as it comes, as [`Column`] does with all at once:
/// nothing of a part is kept but its KV rows. `each` hears of every step. Gives the number of
/// products checked.
///
/// Only the opened positions are put through the layer, each after the KV rows before it; all other
/// rows are those of a few positions, repeated. Commitments, openings and checks are as in earnest,
/// without the hours of a forward pass.
///
/// # Errors
/// [`ExerciseError`].
pub fn stream<O>(
    ops: &O,
    weights: &LayerWeights<Packed>,
    positions: u32,
    opened: impl IntoIterator<Item = u32>,
    mut each: impl FnMut(Progress),
) -> Result<u64, ExerciseError>
where
    O: Products<Matrix = Packed, Error = core::convert::Infallible>,
    O::Device: AuditDevice + Device<Vector = Vec<f32>, Rope = Vec<u64>>,
{
    let opened: Vec<u32> = opened.into_iter().collect();
    let columns = |layers: &[LayerWeights<Packed>], archive: &Archive, input: &[u8]| {
        repeated(ops, layers, (archive.span(), positions), input, &opened)
    };
    with_layer(ops, weights, positions, columns, |prover, layer| {
        each(Progress::Committed);
        let mut filled = Filled::new(layer.weights.kv_shape());
        let mut products = 0_u64;
        for target in layer.parts(opened.iter().copied()) {
            let part = open(prover, target)?;
            each(Progress::Opened(part.body.len()));
            products = products.saturating_add(layer.check(ops.device(), &part, &mut filled)?);
            drop(part);
            each(Progress::Checked);
        }
        Ok(products)
    })
}

/// The columns of a layer of which only the opened positions are computed, over their own inputs
/// and the KV rows before them.
fn repeated<O>(
    ops: &O,
    layers: &[LayerWeights<Packed>],
    (span, positions): (Range<u32>, u32),
    input: &[u8],
    opened: &[u32],
) -> Result<Columns, OpenError>
where
    O: Products<Matrix = Packed, Error = core::convert::Infallible>,
    O::Device: AuditDevice + Device<Vector = Vec<f32>, Rope = Vec<u64>>,
{
    let weights = layers.first().ok_or(OpenError::OutOfRange)?;
    let hidden = weights.parts.attention_norm.gain.len();
    let (state_row, kv_row) = (state::row_bytes(hidden), weights.kv_shape().row_bytes());
    let few = REPEATED.min(positions) as usize;
    let mut archive = Archive::new(span.clone(), positions);
    archive.states(input.get(..few.saturating_mul(state_row)).ok_or(OpenError::OutOfRange)?);
    let base = Prover::rebuild(ops, layers, None, &archive, span.start, None)?.into_columns();
    let base = base.layers.into_iter().next().ok_or(OpenError::OutOfRange)?;
    let mut kv = repeat(&base.kv, kv_row, positions);
    let mut states = repeat(&base.states, state_row, positions);
    let mut filled = Filled::new(weights.kv_shape());
    let mut computed = Vec::new();
    for &position in opened {
        let at = (position as usize).saturating_mul(state_row);
        let row = input.get(at..at.saturating_add(state_row)).ok_or(OpenError::OutOfRange)?;
        let mut columns = Columns::new(span.clone(), Keep::Bytes);
        let mut run = LayerRun {
            ops,
            weights,
            first_head: positions,
            kv: &kv,
            first: 0,
            filled: &mut filled,
            scratch: Scratch::default(),
        };
        let mut recorder = Recorder { sessions: &mut [&mut columns] };
        run.through(&[position], State::parse(hidden, row)?, &mut recorder)
            .map_err(|_| OpenError::Diverged)?;
        computed.push((position as usize, columns.layers.into_iter().next()));
    }
    for (position, columns) in computed {
        let columns = columns.ok_or(OpenError::OutOfRange)?;
        put(&mut kv, position, &columns.kv)?;
        put(&mut states, position, &columns.states)?;
    }
    let mut columns = Columns::new(span, Keep::Bytes);
    columns.reserve(positions as usize, state_row, kv_row);
    input.chunks(APPENDED).for_each(|bytes| columns.receive(bytes));
    let layer = columns.layers.first_mut().ok_or(OpenError::OutOfRange)?;
    kv.chunks(APPENDED).for_each(|bytes| layer.kv.append(bytes));
    drop(kv);
    states.chunks(APPENDED).for_each(|bytes| layer.states.append(bytes));
    Ok(columns)
}

/// The rows of a column, one after the other and again from the first, so many in all.
fn repeat(rows: &Rows, row_bytes: usize, count: u32) -> Vec<u8> {
    let bytes = rows.bytes().unwrap_or_default().iter().copied();
    bytes.cycle().take(row_bytes.saturating_mul(count as usize)).collect()
}

/// Puts the one row of a column into its place.
fn put(all: &mut [u8], position: usize, row: &Rows) -> Result<(), OpenError> {
    let row = row.bytes().ok_or(OpenError::OutOfRange)?;
    let start = position.saturating_mul(row.len());
    let place = all.get_mut(start..start.saturating_add(row.len()));
    place.ok_or(OpenError::OutOfRange)?.copy_from_slice(row);
    Ok(())
}

/// A prover of a layer over random states, from columns that are made of them, and what a verifier
/// knows of it.
fn with_layer<O, R, E: From<OpenError>>(
    ops: &O,
    weights: &LayerWeights<Packed>,
    positions: u32,
    columns: impl FnOnce(&[LayerWeights<Packed>], &Archive, &[u8]) -> Result<Columns, OpenError>,
    body: impl FnOnce(&Prover<'_, O>, Committed) -> Result<R, E>,
) -> Result<R, E>
where
    O: Products<Matrix = Packed, Error = core::convert::Infallible>,
    O::Device: AuditDevice + Device<Vector = Vec<f32>, Rope = Vec<u64>>,
{
    let layer = weights.layer.max(1);
    let weights = LayerWeights { layer, is_last: false, ..weights.clone() };
    let hidden = weights.parts.attention_norm.gain.len();
    let mut archive = Archive::new(layer..layer.saturating_add(1), positions);
    let input = states(positions, hidden);
    archive.states(&input);
    let layers = core::slice::from_ref(&weights);
    let columns = columns(layers, &archive, &input)?;
    drop(input);
    let prover = Prover::with_columns(ops, layers, None, &archive, columns);
    let before = prover.columns().input.root();
    let roots = *prover.columns().roots().first().ok_or(OpenError::OutOfRange)?;
    let key = layer_key_of(ops.device(), &SECRET, &weights).ok_or(OpenError::OutOfRange)?;
    let weights = without_matrices(&weights);
    body(&prover, Committed { key, weights, hidden, positions, before, roots })
}

fn open<O>(prover: &Prover<'_, O>, target: Target) -> Result<Opened, OpenError>
where
    O: Products<Error = core::convert::Infallible>,
{
    let body = prover.open(&target)?.to_bytes();
    if body.len() > crate::limits::OPENING_BYTES {
        return Err(OpenError::TooLarge { bytes: body.len() });
    }
    let digest = Digest::of(&body);
    Ok(Opened { target, body, digest })
}

impl Committed {
    fn parts(&self, opened: impl IntoIterator<Item = u32>) -> Vec<Target> {
        let state_row = state::row_bytes(self.hidden) as u64;
        let price = LayerPrice::of(&self.weights.plan, state_row);
        crate::draw::parts(self.weights.layer, price, opened)
    }

    fn check<D: AuditDevice>(
        &self,
        device: &D,
        part: &Opened,
        filled: &mut Filled<D::Kv>,
    ) -> Result<u64, Fault> {
        let nothing = &[][..];
        let (kv, opened) = match &part.target {
            Target::Layer { first, end, positions, .. } => (*first..*end, positions.as_slice()),
            Target::Head { .. } | Target::Edge { .. } | Target::Mark { .. } => (0..0, nothing),
        };
        let cells = LayerCells {
            layer: self.weights.layer,
            kv,
            positions: opened,
            segment: 0,
            blame: Blame::Receipt,
            roots: self.roots,
            before: self.before,
            edges: (false, false),
            is_last: false,
            first_output: 0,
        };
        if Digest::of(&part.body) != part.digest {
            return Err(cells.fault(None, Reason::Signature("opening")));
        }
        let opening = Opening::from_bytes(&part.body)
            .map_err(|error| cells.fault(None, Reason::Encoding(error)))?;
        let Opening::Layer(opening) = opening else {
            return Err(cells.fault(None, Reason::Shape("the kind of cells")));
        };
        let LayerWeights { layer, is_last, ref plan, ref rope, .. } = self.weights;
        let weights = checks(device, &self.key, layer, is_last, plan.clone(), rope.clone());
        let (hidden, positions) = (self.hidden, self.positions);
        let session =
            Session { device, hidden, positions, first_head: positions.saturating_sub(1) };
        cells.check_inside(&session, &weights, &opening, filled)
    }
}

fn without_matrices<M>(weights: &LayerWeights<M>) -> LayerWeights<()> {
    use lockstep_exact::weights::Product;
    let none = || Product { matrix: (), scales: Vec::new(), bias: None };
    LayerWeights {
        layer: weights.layer,
        is_last: weights.is_last,
        plan: weights.plan.clone(),
        rope: weights.rope.clone(),
        parts: weights.parts.map(|_, _| none(), |_, vector| vector.clone()),
    }
}

/// Random states of magnitude about one.
fn states(rows: u32, width: usize) -> Vec<u8> {
    let mut numbers = Numbers::new("states");
    let mut state = State::zeros(rows as usize, width);
    for row in 0..state.rows() {
        let (mantissas, exponents) = state.row_mut(row);
        for group in mantissas.chunks_mut(state::GROUP) {
            for mantissa in group.iter_mut() {
                *mantissa = i16::try_from(numbers.within(i16::MAX.into())).unwrap_or(0);
            }
            if let Some(first) = group.first_mut() {
                *first = 1 << 14;
            }
        }
        exponents.fill(128 - 14);
    }
    state.to_bytes()
}

struct Numbers(blake3::OutputReader);

impl Numbers {
    fn new(what: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("lockstep 2026 exercise");
        hasher.update(what.as_bytes());
        Self(hasher.finalize_xof())
    }

    /// A number in `-most..=most`.
    fn within(&mut self, most: i64) -> i64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        i64::from_le_bytes(bytes).checked_rem(most.saturating_add(1)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Cell;
    use crate::slice::prove;
    use lockstep_exact::kv::KvRowError;
    use lockstep_exact::matrix::Codec;
    use lockstep_exact::reference::Reference;
    use lockstep_exact::weights::load_span;
    use lockstep_testing::tiny_model::{Sizes, TinyModel};

    #[test]
    fn the_claims_of_an_exercise_are_true_and_others_are_not() {
        let shapes = [(48, 64), (64, 40), (160, 64), (64, 96)];
        let shapes = shapes.map(|(rows, columns)| Codec::W8.shape(rows, columns));
        let mut algebra = Algebra::new(shapes, 3);
        assert!(algebra.check(&Reference));
        algebra.0[2].sums[300] += 1;
        assert!(!algebra.check(&Reference));
    }

    #[test]
    fn a_row_that_no_cell_reads_is_refused_if_it_is_not_canonical() {
        // 33 KiB of KV rows a position: three parts, of which only the last has a cell.
        let sizes = Sizes { layers: 2, hidden: 32, heads: 32, kv_heads: 32, ..Sizes::default() };
        let model = TinyModel::with_sizes(5, Sizes { head_dim: 512, ..sizes });
        let layers = load_span(&Reference, &model.manifest, 1..2, |b| model.blob(b)).unwrap();
        let mut column = Column::new(&Reference, &layers[0], 70, 1).unwrap();
        let row = layers[0].kv_shape().row_bytes();
        let (mut kv, mut openings) = (Vec::new(), Vec::new());
        for part in &column.parts {
            let Target::Layer { first, end, .. } = part.target else { panic!("a layer") };
            let Ok(Opening::Layer(opening)) = Opening::from_bytes(&part.body) else {
                panic!("a layer")
            };
            let range = first as usize * row..end as usize * row;
            // Slices begin with a whole chunk.
            kv.extend_from_slice(&opening.kv.bytes[range.start % 1024..][..range.len()]);
            openings.push((opening, range.start as u64..range.end as u64));
        }
        assert_eq!(openings.len(), 3);
        kv[5 * row] = 0x80;
        column.layer.roots.kv = Digest::of(&kv);
        for (part, (mut opening, range)) in column.parts.iter_mut().zip(openings) {
            opening.kv = prove(&kv, range).unwrap();
            part.body = Opening::Layer(opening).to_bytes();
            part.digest = Digest::of(&part.body);
        }
        let fault = column.check(&Reference).unwrap_err();
        assert_eq!(fault.cell, Some(Cell { position: 5, layer: 1 }));
        assert_eq!(fault.reason, Reason::KvRow(KvRowError::Code));
    }

    #[test]
    fn the_column_of_an_exercise_passes_and_a_changed_one_does_not() {
        let model = TinyModel::new(3);
        let layers = load_span(&Reference, &model.manifest, 2..3, |b| model.blob(b)).unwrap();
        let mut column = Column::new(&Reference, &layers[0], 20, 5).unwrap();
        assert_eq!(column.check(&Reference).unwrap(), 20);
        column.layer.roots.kv = Digest::ZERO;
        assert!(column.check(&Reference).is_err());
    }
}
