//! Honest work for a verifier, to measure it with: no bundle, no peers, no clock.
//!
//! Random numbers are a function of the sizes, so a measurement can be repeated.

use lockstep_exact::Digest;
use lockstep_exact::bytes::Canonical as _;
use lockstep_exact::matrix::{CODE_MAX, INPUT_MAX, Packed, Shape};
use lockstep_exact::ops::Ops;
use lockstep_exact::state::{self, State};
use lockstep_exact::weights::LayerWeights;

use crate::archive::{Archive, OpenError, Prover};
use crate::cells::checks;
use crate::challenge::Target;
use crate::fault::{Blame, Fault, Reason};
use crate::key::{LayerKey, ProductKey};
use crate::layer::{LayerCells, Session};
use crate::opening::Opening;
use crate::statement::LayerRoots;

const SECRET: [u8; 32] = [7; 32];
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
    pub fn check<O: Ops>(&self, ops: &O) -> bool {
        let mut all = self.0.iter();
        all.all(|Claimed { key, inputs, sums }| key.first_wrong(ops, inputs, sums).is_none())
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

/// The committed columns of one layer over some random states, and an honest opening of the last
/// positions.
pub struct Column {
    key: LayerKey,
    weights: LayerWeights<()>,
    hidden: usize,
    positions: u32,
    opened: Vec<u32>,
    before: Digest,
    roots: LayerRoots,
    body: Vec<u8>,
    digest: Digest,
}

impl Column {
    /// Puts `positions` states through a layer, and opens the last `cells` of them. The layer is
    /// taken as one inside a model, whatever its index.
    ///
    /// # Errors
    /// [`OpenError::TooLarge`] when an opening cannot hold so many cells, [`OpenError::OutOfRange`]
    /// when there are none.
    pub fn new<O>(
        ops: &O,
        weights: &LayerWeights<Packed>,
        positions: u32,
        cells: u32,
    ) -> Result<Self, OpenError>
    where
        O: Ops<Matrix = Packed, Error = core::convert::Infallible>,
    {
        let layer = weights.layer.max(1);
        let weights = LayerWeights { layer, is_last: false, ..weights.clone() };
        let hidden = weights.attention_norm.gain.len();
        let mut archive = Archive::new(layer..layer.saturating_add(1), positions);
        archive.states(&states(positions, hidden));
        let layers = core::slice::from_ref(&weights);
        let prover = Prover::rebuild(ops, layers, None, &archive)?;
        let opened: Vec<u32> = (positions.saturating_sub(cells)..positions).collect();
        let target = Target::Layer { layer, positions: opened.clone() };
        let body = prover.open(&target)?.to_bytes();
        if body.len() > crate::limits::OPENING_BYTES {
            return Err(OpenError::TooLarge { bytes: body.len() });
        }
        let before = prover.columns().input.root();
        let roots = *prover.columns().roots().first().ok_or(OpenError::OutOfRange)?;
        let key = LayerKey::of(ops, &SECRET, &weights);
        let digest = Digest::of(&body);
        let weights = without_matrices(&weights);
        Ok(Self { key, weights, hidden, positions, opened, before, roots, body, digest })
    }

    /// Audits the cells as an audit does, but for the signature: digest of the opening, decoding,
    /// paths, ranges, products, everything between them, equality with what is committed. Gives the
    /// number of products checked.
    ///
    /// # Errors
    /// None for what [`Column::new`] made; a fault all the same if something is wrong.
    pub fn check<O: Ops>(&self, ops: &O) -> Result<u64, Fault> {
        let cells = LayerCells {
            layer: self.weights.layer,
            positions: &self.opened,
            stage: 0,
            blame: Blame::Receipt,
            roots: self.roots,
            before: self.before,
            edges: (false, false),
            is_last: false,
            first_output: 0,
        };
        if Digest::of(&self.body) != self.digest {
            return Err(cells.fault(None, Reason::Signature("opening")));
        }
        let opening = Opening::from_bytes(&self.body)
            .map_err(|error| cells.fault(None, Reason::Encoding(error)))?;
        let Opening::Layer(opening) = opening else {
            return Err(cells.fault(None, Reason::Shape("the kind of cells")));
        };
        let LayerWeights { layer, is_last, ref plan, ref rope, .. } = self.weights;
        let weights = checks(&self.key, layer, is_last, plan.clone(), rope.clone());
        let (hidden, positions) = (self.hidden, self.positions);
        let session = Session { ops, hidden, positions, first_head: positions.saturating_sub(1) };
        cells.check_inside(&session, &weights, &opening)
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
        attention_norm: weights.attention_norm.clone(),
        qkv: none(),
        output: none(),
        ffn_norm: weights.ffn_norm.clone(),
        feed_forward: weights.feed_forward.map(|_, _| none()),
        head_norms: weights.head_norms.clone(),
        post_norms: weights.post_norms.clone(),
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
    use lockstep_exact::fixture::TinyModel;
    use lockstep_exact::matrix::Codec;
    use lockstep_exact::reference::Reference;
    use lockstep_exact::weights::load_span;

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
    fn the_column_of_an_exercise_passes_and_a_changed_one_does_not() {
        let model = TinyModel::new(3);
        let layers = load_span(&Reference, &model.manifest, 2..3, |b| model.blob(b)).unwrap();
        let mut column = Column::new(&Reference, &layers[0], 20, 5).unwrap();
        assert_eq!(column.check(&Reference).unwrap(), 20);
        column.roots.kv = Digest::ZERO;
        assert!(column.check(&Reference).is_err());
    }
}
