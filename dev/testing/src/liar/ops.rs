//! Operations that lie: those of a backend, except where the script says otherwise.
//!
//! They serve, rebuild and open alike, so whatever they do wrong they do wrong consistently: no
//! server contradicts itself because of them, and only an audit can find it.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use lockstep_exact::experts::Choice;
use lockstep_exact::feed_forward::Rule;
use lockstep_exact::flags::Flags;
use lockstep_exact::kv::{KvCache as _, ReadKv};
use lockstep_exact::matrix::Packed;
use lockstep_exact::names::ProductName;
use lockstep_exact::num::Overflow;
use lockstep_exact::ops::{
    AttentionLayer, CodesOf, CopiedOf, Device, Host, KvOf, Place, Products, RowsOf, SumsOf,
};
use lockstep_exact::plan::{Activation, AttentionPlan};
use lockstep_exact::state::State;
use lockstep_exact::weights::{Backend, LayerWeights, PrepareError};

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

/// Products on a device whose numbers are the host's own: what a liar can change at will.
pub trait InMemory:
    Products<
        Error = Infallible,
        Device: Host<
            State = State,
            Flags = Flags,
            Vector = Vec<f32>,
            Rope = Vec<u64>,
            Kv: ReadKv,
            Error = Infallible,
        >,
    >
{
}

impl<O> InMemory for O where
    O: Products<
            Error = Infallible,
            Device: Host<
                State = State,
                Flags = Flags,
                Vector = Vec<f32>,
                Rope = Vec<u64>,
                Kv: ReadKv,
                Error = Infallible,
            >,
        >
{
}

/// The operations of a backend, of which one lies as the script says.
pub struct LyingOps<O> {
    inner: O,
    script: Option<Script>,
    at: At,
    /// The position whose logits are computed; the executor's wrapper knows it.
    pub head: Arc<AtomicU32>,
}

impl<O> LyingOps<O> {
    /// Wraps a backend's operations; without a script they stay as they are.
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

impl<O: Backend + InMemory> Backend for LyingOps<O> {
    fn prepare(&self, matrix: Packed) -> Result<Self::Matrix, PrepareError<Infallible>> {
        let matrix = self.inner.prepare(matrix)?;
        Ok(Named { layer: u32::MAX, name: ProductName::Logits, matrix })
    }
}

impl<O: InMemory> Device for LyingOps<O> {
    type State = State;
    type Rows = RowsOf<O>;
    type Codes = CodesOf<O>;
    type Sums = SumsOf<O>;
    type Flags = Flags;
    type Vector = Vec<f32>;
    type Rope = Vec<u64>;
    type Kv = KvOf<O>;
    type Error = Infallible;

    fn scope<R>(&self, body: impl FnOnce() -> R) -> R {
        self.inner.device().scope(body)
    }

    fn embed(&self, table: &Packed, scale: f32, tokens: &[u32], out: &mut State) {
        let is_left_out = self.script.is_some_and(|it| it.lie == Lie::UnscaledEmbedding);
        let scale = if is_left_out { 1.0 } else { scale };
        self.inner.device().embed(table, scale, tokens, out);
    }

    fn select_state(&self, from: &State, indexes: &[usize]) -> State {
        self.inner.device().select_state(from, indexes)
    }

    fn flags(&self, state: &State) -> Flags {
        self.inner.device().flags(state)
    }

    fn select_flags(&self, from: &Flags, indexes: &[usize]) -> Flags {
        self.inner.device().select_flags(from, indexes)
    }

    fn merge_flags(&self, from: &Flags, indexes: &[usize], out: &mut Flags) {
        self.inner.device().merge_flags(from, indexes, out);
    }

    fn norm(&self, x: &State, eps: f32, gain: &Vec<f32>, out: &mut RowsOf<O>) {
        self.inner.device().norm(x, eps, gain, out);
    }

    fn norm_rows(&self, eps: f32, gain: &Vec<f32>, rows: &mut RowsOf<O>, flags: &mut Flags) {
        self.inner.device().norm_rows(eps, gain, rows, flags);
    }

    fn quantise(&self, x: &RowsOf<O>, out: &mut CodesOf<O>, flags: &mut Flags) {
        self.inner.device().quantise(x, out, flags);
    }

    fn dequant(&self, sums: &SumsOf<O>, x: &CodesOf<O>, scales: &Vec<f32>, out: &mut RowsOf<O>) {
        self.inner.device().dequant(sums, x, scales, out);
        if !self.is_aimed_token() {
            return;
        }
        // The best token's sum becomes one that loses: what is opened are the sums as they were.
        let Ok(values) = self.inner.device().read_sums(sums);
        let mut values = values.into_owned();
        {
            let Ok(logits) = self.inner.device().read_rows(out);
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

    fn add_bias(&self, bias: &Vec<f32>, rows: &mut RowsOf<O>) {
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
        self.inner.device().accumulate(rows, indexes, weights, out);
    }

    fn accumulate_gated(&self, rows: &RowsOf<O>, gates: &RowsOf<O>, out: &mut RowsOf<O>) {
        if !self.tells(Lie::LeftOutSharedExpert) {
            self.inner.device().accumulate_gated(rows, gates, out);
        }
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

impl<O: InMemory> Products for LyingOps<O> {
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

impl<O: InMemory> Host for LyingOps<O> {
    type Ticket<T> = <O::Device as Host>::Ticket<T>;

    fn wait<T>(&self, ticket: Self::Ticket<T>) -> Result<T, Infallible> {
        self.inner.device().wait(ticket)
    }

    fn put_vector(&self, values: Vec<f32>) -> Result<Vec<f32>, Infallible> {
        self.inner.device().put_vector(values)
    }

    fn put_rope(&self, turns: Vec<u64>) -> Result<Vec<u64>, Infallible> {
        self.inner.device().put_rope(turns)
    }

    fn put_state(&self, state: State) -> Result<State, Infallible> {
        self.inner.device().put_state(state)
    }

    fn take_state<'a>(&self, state: &'a State) -> CopiedOf<'a, Self, State> {
        self.inner.device().take_state(state)
    }

    fn take_kv(
        &self,
        caches: &[&mut KvOf<O>],
        layer: usize,
        places: &[Place],
    ) -> CopiedOf<'static, Self, [u8]> {
        self.inner.device().take_kv(caches, layer, places)
    }

    fn take_rows<'a>(&self, rows: &'a RowsOf<O>) -> CopiedOf<'a, Self, [f32]> {
        self.inner.device().take_rows(rows)
    }

    fn take_codes<'a>(&self, codes: &'a CodesOf<O>) -> CopiedOf<'a, Self, [i16]> {
        self.inner.device().take_codes(codes)
    }

    fn take_sums<'a>(&self, sums: &'a SumsOf<O>) -> CopiedOf<'a, Self, [i64]> {
        self.inner.device().take_sums(sums)
    }

    fn read_logits(
        &self,
        rows: &RowsOf<O>,
        width: usize,
        flags: &Flags,
    ) -> Result<Vec<Result<Vec<f32>, Overflow>>, Infallible> {
        self.inner.device().read_logits(rows, width, flags)
    }

    fn choose(
        &self,
        rule: Rule,
        experts: usize,
        logits: &RowsOf<O>,
        flags: &mut Flags,
    ) -> Result<Choice, Infallible> {
        let factor = match () {
            () if self.tells(Lie::OtherChoice) => -1.0,
            () if self.tells(Lie::OtherWeights) => 1.01,
            () => return self.inner.device().choose(rule, experts, logits, flags),
        };
        let Ok(logits) = self.inner.device().read_rows(logits);
        let logits: Vec<f32> = logits.iter().map(|z| z * factor).collect();
        Ok(Choice::new(rule, experts, &logits, flags))
    }

    fn write_sums(&self, width: usize, values: &[i64], out: &mut SumsOf<O>) {
        self.inner.device().write_sums(width, values, out);
    }
}
