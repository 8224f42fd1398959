//! Honest work for a verifier, to measure what verification costs: `lockstep bench --verify` times
//! [`Algebra::check`] and [`Column::check`]. There is no bundle, no peer and no clock.
//!
//! Whoever wants to see both ends at work, part by part, commits to columns of his own with
//! [`CommittedLayer`]. Random numbers are a function of the sizes, so a measurement can be
//! repeated.

use lockstep_exact::Digest;
use lockstep_exact::bytes::Canonical as _;
use lockstep_exact::matrix::{CODE_MAX, INPUT_MAX, Packed, Shape};
use lockstep_exact::ops::{Device, FieldDots, Products};
use lockstep_exact::state::{self, State};
use lockstep_exact::weights::LayerWeights;

use crate::archive::{Archive, OpenError, Prover};
use crate::auditor::{Session, checks};
use crate::challenge::Target;
use crate::column::Columns;
use crate::device::AuditDevice;
use crate::fault::{Blame, Fault, Reason};
use crate::key::{LayerKey, ProductKey, layer_key_of};
use crate::layer::LayerCells;
use crate::opening::Opening;
use crate::price::LayerPrice;
use crate::run::Filled;
use crate::statement::LayerRoots;

const SECRET: [u8; 32] = [7; 32];
/// The largest element of the left factor of a matrix of rank one.
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
        // default: any number is a number to measure with
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
    layer: CommittedLayer,
    parts: Vec<Opened>,
}

/// One layer of a session as a verifier knows it: its key and the roots of its columns.
pub struct CommittedLayer {
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
        let weights = inner_layer(weights);
        let layers = core::slice::from_ref(&weights);
        let layer = weights.layer;
        let mut archive = Archive::new(layer..layer.saturating_add(1), positions);
        archive.states(&seeded_states(positions, weights.parts.attention_norm.gain.len()));
        let prover = Prover::rebuild(ops, layers, None, &archive, layer, None)?;
        let layer = CommittedLayer::new(ops, &weights, prover.columns(), positions)?;
        let opened = positions.saturating_sub(cells)..positions;
        let parts = layer.parts(opened).into_iter().map(|target| open(&prover, target));
        Ok(Self { parts: parts.collect::<Result<_, OpenError>>()?, layer })
    }

    /// Audits the cells as an audit does, but for the signature: digest of the opening, decoding,
    /// paths, ranges, products, everything between them, equality with what is committed. Gives the
    /// number of products checked.
    ///
    /// # Errors
    /// None for what [`Column::new`] made; a fault all the same if something is wrong.
    pub fn check<D: AuditDevice>(&self, device: &D) -> Result<u64, Fault> {
        let mut audit = LayerAudit::new(device, &self.layer);
        let each = self.parts.iter().map(|part| audit.check(&part.target, &part.body, part.digest));
        each.sum()
    }
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

/// Returns the layer as one inside a model, whatever its index: its inputs come from a layer before
/// it, and no head reads its outputs.
#[must_use]
pub fn inner_layer(weights: &LayerWeights<Packed>) -> LayerWeights<Packed> {
    LayerWeights { layer: weights.layer.max(1), is_last: false, ..weights.clone() }
}

impl CommittedLayer {
    /// Takes the roots of the columns that a stage has of this layer over `positions` positions,
    /// and makes the verifier's key for its weights.
    ///
    /// # Errors
    /// [`OpenError::OutOfRange`] when `columns` has no layer, or no key can be made of the weights.
    pub fn new<O>(
        ops: &O,
        weights: &LayerWeights<Packed>,
        columns: &Columns,
        positions: u32,
    ) -> Result<Self, OpenError>
    where
        O: Products<Matrix = Packed, Error = core::convert::Infallible>,
        O::Device: AuditDevice + Device<Vector = Vec<f32>, Rope = Vec<u64>>,
    {
        let before = columns.input.root();
        let roots = *columns.roots().first().ok_or(OpenError::OutOfRange)?;
        let key = layer_key_of(ops.device(), &SECRET, weights).ok_or(OpenError::OutOfRange)?;
        let hidden = weights.parts.attention_norm.gain.len();
        let weights = without_matrices(weights);
        Ok(Self { key, weights, hidden, positions, before, roots })
    }

    /// Returns the targets in which a challenge asks for the positions `opened`: each is a part of
    /// an opening that is no larger than a part may be.
    #[must_use]
    pub fn parts(&self, opened: impl IntoIterator<Item = u32>) -> Vec<Target> {
        let state_row = state::row_bytes(self.hidden) as u64;
        let price = LayerPrice::of(&self.weights.plan, state_row);
        crate::draw::parts(self.weights.layer, price, opened)
    }
}

/// An audit of one layer under way: the parts of its opening come in order, and nothing is kept of
/// a part but its KV rows.
pub struct LayerAudit<'a, D: AuditDevice> {
    device: &'a D,
    layer: &'a CommittedLayer,
    filled: Filled<D::Kv>,
}

impl<'a, D: AuditDevice> LayerAudit<'a, D> {
    /// Begins an audit that has seen no part.
    #[must_use]
    pub fn new(device: &'a D, layer: &'a CommittedLayer) -> Self {
        Self { device, layer, filled: Filled::new(layer.weights.kv_shape()) }
    }

    /// Checks one part, as an audit does but for the signature: `body` is the opening's canonical
    /// bytes and `digest` what its signature would hold them to. Gives the number of products
    /// checked.
    ///
    /// # Errors
    /// The fault of the first thing that is wrong.
    pub fn check(&mut self, target: &Target, body: &[u8], digest: Digest) -> Result<u64, Fault> {
        let Self {
            device,
            layer: CommittedLayer { key, weights, hidden, positions, before, roots },
            ..
        } = *self;
        let nothing = &[][..];
        let (kv, opened) = match target {
            Target::Layer { first, end, positions, .. } => (*first..*end, positions.as_slice()),
            Target::Head { .. } | Target::Edge { .. } | Target::Mark { .. } => (0..0, nothing),
        };
        let cells = LayerCells {
            layer: weights.layer,
            kv,
            positions: opened,
            segment: 0,
            blame: Blame::Receipt,
            roots: *roots,
            before: *before,
            edges: (false, false),
            is_last: false,
            first_output: 0,
        };
        if Digest::of(body) != digest {
            return Err(cells.fault(None, Reason::Signature("opening")));
        }
        let opening = Opening::from_bytes(body)
            .map_err(|error| cells.fault(None, Reason::Encoding(error)))?;
        let Opening::Layer(opening) = opening else {
            return Err(cells.fault(None, Reason::Shape("the kind of cells")));
        };
        let LayerWeights { layer, is_last, plan, rope, .. } = weights;
        let weights = checks(device, key, *layer, *is_last, plan.clone(), rope.clone());
        let (hidden, positions) = (*hidden, *positions);
        let session =
            Session { device, hidden, positions, first_head: positions.saturating_sub(1) };
        cells.check_inside(&session, &weights, &opening, &mut self.filled)
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

/// Returns the canonical bytes of `rows` pseudo-random states of `width` elements, of magnitude
/// about one; the same for the same sizes.
#[must_use]
pub fn seeded_states(rows: u32, width: usize) -> Vec<u8> {
    let mut numbers = Numbers::new("states");
    let mut state = State::zeros(rows as usize, width);
    for row in 0..state.rows() {
        let (mantissas, exponents) = state.row_mut(row);
        for group in mantissas.chunks_mut(state::GROUP) {
            for mantissa in group.iter_mut() {
                // default: any number is a number to measure with
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
        let mut hasher = blake3::Hasher::new_derive_key("lockstep 2026 measured states");
        hasher.update(what.as_bytes());
        Self(hasher.finalize_xof())
    }

    /// A number in `-most..=most`.
    fn within(&mut self, most: i64) -> i64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        // default: between -1 and 1 there is 0 alone
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
    fn honest_claims_are_true_and_others_are_not() {
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
    fn an_honest_column_passes_and_a_changed_one_does_not() {
        let model = TinyModel::new(3);
        let layers = load_span(&Reference, &model.manifest, 2..3, |b| model.blob(b)).unwrap();
        let mut column = Column::new(&Reference, &layers[0], 20, 5).unwrap();
        assert_eq!(column.check(&Reference).unwrap(), 20);
        column.layer.roots.kv = Digest::ZERO;
        assert!(column.check(&Reference).is_err());
    }
}
