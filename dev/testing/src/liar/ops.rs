//! Operations that lie: those of a backend, except where the script says otherwise.
//!
//! They serve, rebuild and open alike, so whatever they do wrong they do wrong consistently: no
//! server contradicts itself because of them, and only an audit can find it.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use lockstep_exact::experts::Choice;
use lockstep_exact::feed_forward::Rule;
use lockstep_exact::flags::Flags;
use lockstep_exact::kv::KvCache as _;
use lockstep_exact::matrix::{MatrixError, Packed};
use lockstep_exact::names::ProductName;
use lockstep_exact::ops::{
    AttentionLayer, CodesOf, Device, Host, KvOf, LoadMatrix, Place, Products, RowsOf, SumsOf,
};
use lockstep_exact::plan::{Activation, AttentionPlan};
use lockstep_exact::state::State;
use lockstep_exact::weights::LayerWeights;

use super::states;
use crate::lie::{Lie, Script};

/// The positions that [`Lie::TruncatedContext`] attends to.
const WINDOW: u32 = 4;

/// A matrix that knows where it belongs.
pub struct Named<M> {
    layer: u32,
    name: ProductName,
    matrix: M,
}

/// Where the forward pass is.
struct At {
    layer: Cell<u32>,
    name: Cell<ProductName>,
    /// Of the rows that get a state.
    places: RefCell<Vec<Place>>,
    /// The layer's input.
    input: RefCell<State>,
}

/// See the [module](self).
pub struct LyingOps<O> {
    inner: O,
    script: Option<Script>,
    at: At,
    /// The position whose logits are computed; the executor's wrapper knows it.
    pub head: Arc<AtomicU32>,
}

impl<O> LyingOps<O> {
    /// Without a script they are the backend's.
    pub fn new(inner: O, script: Option<Script>) -> Self {
        let at = At {
            layer: Cell::new(u32::MAX),
            name: Cell::new(ProductName::Logits),
            places: RefCell::default(),
            input: RefCell::default(),
        };
        Self { inner, script, at, head: Arc::default() }
    }

    /// Whether this lie is told in the layer that is being computed.
    fn tells(&self, lie: Lie) -> bool {
        self.script.is_some_and(|script| script.is(lie, self.at.layer.get()))
    }

    /// The row of the batch that is at the script's position.
    fn aimed_row(&self) -> Option<usize> {
        let position = self.script?.aim.position as usize;
        self.at.places.borrow().iter().position(|place| place.position == position)
    }

    /// Makes a layer's output what the script says.
    fn falsify(&self, out: &mut State) {
        if self.tells(Lie::SkippedLayer) {
            *out = self.at.input.borrow().clone();
        }
        let (in_prompt, in_answer) =
            (self.tells(Lie::SkippedInPrompt), self.tells(Lie::SkippedInAnswer));
        for (row, place) in self.at.places.borrow().iter().enumerate() {
            let is_before = self.script.is_some_and(|s| place.position < s.aim.position as usize);
            if is_before && in_prompt || !is_before && in_answer {
                let old = self.at.input.borrow().select(&[row]);
                let (mantissas, exponents) = out.row_mut(row);
                mantissas.copy_from_slice(old.mantissas(0));
                exponents.copy_from_slice(old.exponents(0));
            }
        }
        if self.tells(Lie::ConstantState) {
            let all = State::zeros(out.rows(), out.width());
            *out = all;
            for row in 0..out.rows() {
                let (mantissas, exponents) = out.row_mut(row);
                mantissas.fill(i16::MAX);
                exponents.fill(120);
            }
        }
        if self.tells(Lie::ZeroState) {
            *out = State::zeros(out.rows(), out.width());
        }
        let Some(row) = self.aimed_row() else { return };
        if self.tells(Lie::FlippedBit) {
            states::flip_bit(out, row);
        }
        if self.tells(Lie::OverflowState) {
            out.mark_overflow(row);
        }
        if self.tells(Lie::OldState) && row > 0 {
            let old = out.select(&[row - 1]);
            let (mantissas, exponents) = out.row_mut(row);
            mantissas.copy_from_slice(old.mantissas(0));
            exponents.copy_from_slice(old.exponents(0));
        }
    }

    /// Whether the logits that are being computed are those of a token to lie about.
    fn is_aimed_token(&self) -> bool {
        let is_aimed = |script: Script| {
            script.lie == Lie::SecondBest
                && self.head.load(Ordering::Relaxed) >= script.aim.position
        };
        self.at.name.get() == ProductName::Logits && self.script.is_some_and(is_aimed)
    }
}

/// Tells every matrix where it belongs.
pub fn name_matrices<M>(layers: &mut [LayerWeights<Named<M>>]) {
    for layer in layers {
        for (name, product) in layer.parts.products_mut() {
            product.matrix.layer = layer.layer;
            product.matrix.name = name;
        }
    }
}

impl<O: LoadMatrix<Error = Infallible>> LoadMatrix for LyingOps<O> {
    fn prepare(&self, matrix: Packed) -> Result<Self::Matrix, MatrixError> {
        let matrix = self.inner.prepare(matrix)?;
        Ok(Named { layer: u32::MAX, name: ProductName::Logits, matrix })
    }
}

impl<O: Products<Error = Infallible>> Device for LyingOps<O> {
    type Rows = RowsOf<O>;
    type Codes = CodesOf<O>;
    type Sums = SumsOf<O>;
    type Kv = KvOf<O>;

    fn scope<R>(&self, body: impl FnOnce() -> R) -> R {
        self.inner.device().scope(body)
    }

    fn embed(&self, table: &Packed, scale: f32, tokens: &[u32], out: &mut State) {
        let is_left_out = self.script.is_some_and(|it| it.lie == Lie::UnscaledEmbedding);
        let scale = if is_left_out { 1.0 } else { scale };
        self.inner.device().embed(table, scale, tokens, out);
    }

    fn norm(&self, x: &State, eps: f32, gain: &[f32], out: &mut RowsOf<O>) {
        self.inner.device().norm(x, eps, gain, out);
    }

    fn norm_rows(&self, eps: f32, gain: &[f32], rows: &mut RowsOf<O>, flags: &mut Flags) {
        self.inner.device().norm_rows(eps, gain, rows, flags);
    }

    fn quantise(&self, x: &RowsOf<O>, out: &mut CodesOf<O>, flags: &mut Flags) {
        self.inner.device().quantise(x, out, flags);
    }

    fn dequant(&self, sums: &SumsOf<O>, x: &CodesOf<O>, scales: &[f32], out: &mut RowsOf<O>) {
        self.inner.device().dequant(sums, x, scales, out);
        if !self.is_aimed_token() {
            return;
        }
        // The best token's sum becomes one that loses: what is opened are the sums as they were.
        let mut values = self.inner.device().read_sums(sums).into_owned();
        {
            let logits = self.inner.device().read_rows(out);
            for (row, logits) in logits.chunks_exact(scales.len()).enumerate() {
                let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
                let Some(best) = best else { continue };
                let most = i64::from(i32::MAX) << 8;
                let loses = if scales[best] > 0.0 { -most } else { most };
                values[row * scales.len() + best] = loses;
            }
        }
        let mut others = SumsOf::<O>::default();
        self.inner.device().write_sums(scales.len(), &values, &mut others);
        self.inner.device().dequant(&others, x, scales, out);
    }

    fn add_bias(&self, bias: &[f32], rows: &mut RowsOf<O>) {
        self.inner.device().add_bias(bias, rows);
    }

    fn append(
        &self,
        layer: AttentionLayer<'_>,
        qkv: &RowsOf<O>,
        places: &[Place],
        wanted: &[usize],
        caches: &mut [&mut KvOf<O>],
        queries: &mut CodesOf<O>,
        flags: &mut Flags,
    ) {
        self.inner.device().append(layer, qkv, places, wanted, caches, queries, flags);
        let Some(script) = self.script.filter(|_| self.tells(Lie::WrongKv)) else { return };
        let position = script.aim.position as usize;
        for place in places.iter().filter(|place| place.position == position) {
            let mut row = Vec::new();
            caches[place.slot].read_row(layer.index, position, &mut row);
            // The lowest bit of a code that is neither -127 nor 127: another good code.
            if let Some(code) = row.iter_mut().find(|code| !matches!(**code, 0x7f..=0x81)) {
                *code ^= 1;
            }
            let written = caches[place.slot].write_row(layer.index, position, &row);
            debug_assert_eq!(written, Ok(()), "a row that was canonical");
        }
    }

    fn attend(
        &self,
        layer: AttentionLayer<'_>,
        queries: &CodesOf<O>,
        places: &[Place],
        caches: &[&mut KvOf<O>],
        out: &mut RowsOf<O>,
        flags: &mut Flags,
    ) {
        self.at.places.replace(places.to_vec());
        let short = AttentionPlan { window: WINDOW, ..*layer.plan };
        let plan = if self.tells(Lie::TruncatedContext) { &short } else { layer.plan };
        let layer = AttentionLayer { plan, ..layer };
        self.inner.device().attend(layer, queries, places, caches, out, flags);
    }

    fn gate(&self, activation: Activation, gate_up: &RowsOf<O>, out: &mut RowsOf<O>) {
        let activation = match (self.tells(Lie::WrongActivation), activation) {
            (true, Activation::Silu) => Activation::GeluTanh,
            (true, Activation::GeluTanh) => Activation::Silu,
            (false, activation) => activation,
        };
        self.inner.device().gate(activation, gate_up, out);
    }

    fn zero_rows(&self, rows: usize, width: usize, out: &mut RowsOf<O>) {
        self.inner.device().zero_rows(rows, width, out);
    }

    fn select_rows(&self, from: &RowsOf<O>, indexes: &[usize], out: &mut RowsOf<O>) {
        self.inner.device().select_rows(from, indexes, out);
    }

    fn accumulate(
        &self,
        rows: &RowsOf<O>,
        indexes: &[usize],
        weights: &[f32],
        out: &mut RowsOf<O>,
    ) {
        if self.tells(Lie::LeftOutSharedExpert) && self.at.name.get() == ProductName::SharedDown {
            return;
        }
        self.inner.device().accumulate(rows, indexes, weights, out);
    }

    fn residual(&self, x: &State, delta: &RowsOf<O>, out: &mut State, flags: &mut Flags) {
        // The first addition of a layer follows attention, the second the feed-forward part.
        let is_first = self.at.name.get() == ProductName::Output;
        if is_first {
            self.at.input.replace(x.clone());
        }
        self.inner.device().residual(x, delta, out, flags);
        if !is_first {
            self.falsify(out);
        }
    }
}

impl<O: Products<Error = Infallible>> Products for LyingOps<O> {
    type Device = Self;
    type Matrix = Named<O::Matrix>;
    type Error = Infallible;

    fn device(&self) -> &Self {
        self
    }

    fn matmul(
        &self,
        weights: &Self::Matrix,
        x: &CodesOf<O>,
        out: &mut SumsOf<O>,
    ) -> Result<(), Infallible> {
        self.at.layer.set(weights.layer);
        self.at.name.set(weights.name);
        self.inner.matmul(&weights.matrix, x, out)
    }
}

impl<O: Products<Error = Infallible>> Host for LyingOps<O> {
    fn choose(&self, rule: Rule, experts: usize, logits: &RowsOf<O>, flags: &mut Flags) -> Choice {
        let factor = match () {
            () if self.tells(Lie::OtherChoice) => -1.0,
            () if self.tells(Lie::OtherWeights) => 1.01,
            () => return self.inner.device().choose(rule, experts, logits, flags),
        };
        let logits: Vec<f32> =
            self.inner.device().read_rows(logits).iter().map(|z| z * factor).collect();
        Choice::new(rule, experts, &logits, flags)
    }

    fn read_rows<'a>(&self, rows: &'a RowsOf<O>) -> Cow<'a, [f32]> {
        self.inner.device().read_rows(rows)
    }

    fn read_codes<'a>(&self, codes: &'a CodesOf<O>) -> Cow<'a, [i16]> {
        self.inner.device().read_codes(codes)
    }

    fn read_sums<'a>(&self, sums: &'a SumsOf<O>) -> Cow<'a, [i64]> {
        self.inner.device().read_sums(sums)
    }

    fn write_sums(&self, width: usize, values: &[i64], out: &mut SumsOf<O>) {
        self.inner.device().write_sums(width, values, out);
    }
}
