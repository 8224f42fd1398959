//! A device that exists only in tests: the reference behind handles that nobody can look into, with
//! copies that arrive when they are waited for. It can be told to fail.

use std::cell::{Cell, RefCell};
use std::fmt;

use lockstep_exact::experts::Choice;
use lockstep_exact::feed_forward::Rule;
use lockstep_exact::flags::Flags;
use lockstep_exact::forward::{Probe, Row, Scratch, forward};
use lockstep_exact::kv::{KvCache, KvRowError, KvShape, ReferenceKv};
use lockstep_exact::matrix::Packed;
use lockstep_exact::norm::{HeadNorms, Norm};
use lockstep_exact::num::Overflow;
use lockstep_exact::ops::{
    AttentionLayer, AttentionOf, Copied, CopiedOf, Device, Host, Place, Products, read_kv,
};
use lockstep_exact::plan::Activation;
use lockstep_exact::reference::{Codes, Reference, Rows, Sums};
use lockstep_exact::state::State;
use lockstep_exact::weights::{Backend, LayerOf, PrepareError};

/// A number, or many, in the memory of the device: only this module sees what.
#[derive(Default)]
pub struct Handle<T>(T);

/// A copy under way: it is complete, but nobody gets it without waiting.
pub struct Ticket<T>(T);

/// The error of a device that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost;

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the device is gone")
    }
}

impl std::error::Error for Lost {}

/// The numbers of the things that the host has asked of the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Copies that were started.
    pub tickets: usize,
    /// Copies that were waited for within a layer.
    pub waits_in_layers: usize,
    /// Copies that were waited for elsewhere.
    pub waits: usize,
    /// Choices of experts that the host had to make within a layer.
    pub choices: usize,
    /// Times that logits were read.
    pub logits: usize,
}

/// A device without a processor of its own. Every function that can fail counts as an answer; after
/// as many as [`Stub::that_answers`] was given, all of them fail.
#[derive(Default)]
pub struct Stub {
    is_in_layer: Cell<bool>,
    asked: RefCell<Asked>,
    /// Answers that the device still gives before it is gone.
    left: Cell<Option<usize>>,
    /// How many spans it has computed at once; `None` if it computes none so.
    spans: Cell<Option<usize>>,
}

impl Stub {
    /// Creates a device that is gone after it has answered `times` times.
    #[must_use]
    pub fn that_answers(times: usize) -> Self {
        Self { left: Cell::new(Some(times)), ..Self::default() }
    }

    /// Returns a device that computes spans at once.
    #[must_use]
    pub fn of_spans() -> Self {
        Self { spans: Cell::new(Some(0)), ..Self::default() }
    }

    /// Returns how many spans it has computed at once; `None` if it computes none so.
    #[must_use]
    pub const fn spans(&self) -> Option<usize> {
        self.spans.get()
    }

    /// Returns what the host has asked of the device so far.
    #[must_use]
    pub fn asked(&self) -> Asked {
        *self.asked.borrow()
    }

    /// Every function that can fail goes through here.
    fn answer<T>(&self, value: T) -> Result<T, Lost> {
        match self.left.get() {
            Some(0) => Err(Lost),
            left => {
                self.left.set(left.map(|left| left - 1));
                Ok(value)
            }
        }
    }

    fn start<T: ToOwned + ?Sized>(&self, value: &T) -> CopiedOf<'static, Self, T> {
        self.asked.borrow_mut().tickets += 1;
        Copied::UnderWay(Ticket(value.to_owned()))
    }
}

/// A cache of keys and values in the memory of the device, which the host cannot read.
pub struct Cache(ReferenceKv);

impl KvCache for Cache {
    fn new(layers: &[KvShape]) -> Self {
        Self(ReferenceKv::new(layers))
    }

    fn enter(&mut self, layer: usize) {
        self.0.enter(layer);
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn pages(&self) -> usize {
        self.0.pages()
    }

    fn truncate(&mut self, len: usize) {
        self.0.truncate(len);
    }

    fn write_row(&mut self, layer: usize, position: usize, row: &[u8]) -> Result<(), KvRowError> {
        self.0.write_row(layer, position, row)
    }
}

/// Norms and rotations of a layer as the reference takes them.
struct Layer {
    norms: Option<HeadNorms>,
    index: usize,
}

impl Layer {
    fn of(layer: AttentionOf<'_, Stub>) -> Self {
        let norm = |norm: &Norm<Handle<Vec<f32>>>| of_norm(norm);
        let norms =
            layer.norms.map(|norms| HeadNorms { query: norm(&norms.query), key: norm(&norms.key) });
        Self { norms, index: layer.index }
    }

    fn get<'a>(&'a self, layer: AttentionOf<'a, Stub>) -> AttentionLayer<'a> {
        let norms = self.norms.as_ref();
        AttentionLayer { plan: layer.plan, rope: &layer.rope.0, norms, index: self.index }
    }
}

fn of_norm(norm: &Norm<Handle<Vec<f32>>>) -> Norm {
    Norm::new(norm.eps, norm.gain.0.clone())
}

/// The reference's caches, for as long as an operation takes.
fn caches<'a>(caches: &'a mut [&mut Cache]) -> Vec<&'a mut ReferenceKv> {
    caches.iter_mut().map(|cache| &mut cache.0).collect()
}

impl Device for Stub {
    type State = Handle<State>;
    type Rows = Handle<Rows>;
    type Codes = Handle<Codes>;
    type Sums = Handle<Sums>;
    type Flags = Handle<Flags>;
    type Vector = Handle<Vec<f32>>;
    type Rope = Handle<Vec<u64>>;
    type Kv = Cache;
    type Error = Lost;

    fn scope<R>(&self, body: impl FnOnce() -> R) -> R {
        assert!(!self.is_in_layer.replace(true), "one layer at a time");
        let result = body();
        self.is_in_layer.set(false);
        result
    }

    fn embed(&self, table: &Packed, scale: f32, tokens: &[u32], out: &mut Self::State) {
        Reference.embed(table, scale, tokens, &mut out.0);
    }

    fn select_state(&self, from: &Self::State, indexes: &[usize]) -> Self::State {
        Handle(Reference.select_state(&from.0, indexes))
    }

    fn flags(&self, state: &Self::State) -> Self::Flags {
        Handle(Reference.flags(&state.0))
    }

    fn select_flags(&self, from: &Self::Flags, indexes: &[usize]) -> Self::Flags {
        Handle(Reference.select_flags(&from.0, indexes))
    }

    fn merge_flags(&self, from: &Self::Flags, indexes: &[usize], out: &mut Self::Flags) {
        Reference.merge_flags(&from.0, indexes, &mut out.0);
    }

    fn norm(&self, x: &Self::State, eps: f32, gain: &Self::Vector, out: &mut Self::Rows) {
        Reference.norm(&x.0, eps, &gain.0, &mut out.0);
    }

    fn norm_rows(
        &self,
        eps: f32,
        gain: &Self::Vector,
        rows: &mut Self::Rows,
        flags: &mut Self::Flags,
    ) {
        Reference.norm_rows(eps, &gain.0, &mut rows.0, &mut flags.0);
    }

    fn quantise(&self, x: &Self::Rows, out: &mut Self::Codes, flags: &mut Self::Flags) {
        Reference.quantise(&x.0, &mut out.0, &mut flags.0);
    }

    fn dequant(
        &self,
        sums: &Self::Sums,
        x: &Self::Codes,
        scales: &Self::Vector,
        out: &mut Self::Rows,
    ) {
        Reference.dequant(&sums.0, &x.0, &scales.0, &mut out.0);
    }

    fn add_bias(&self, bias: &Self::Vector, rows: &mut Self::Rows) {
        Reference.add_bias(&bias.0, &mut rows.0);
    }

    fn append(
        &self,
        layer: AttentionOf<'_, Self>,
        qkv: &Self::Rows,
        places: &[Place],
        wanted: &[usize],
        all: &mut [&mut Self::Kv],
        queries: &mut Self::Codes,
        flags: &mut Self::Flags,
    ) {
        let (of, mut all) = (Layer::of(layer), caches(all));
        let (queries, flags) = (&mut queries.0, &mut flags.0);
        Reference.append(of.get(layer), &qkv.0, places, wanted, &mut all, queries, flags);
    }

    fn attend(
        &self,
        layer: AttentionOf<'_, Self>,
        queries: &Self::Codes,
        places: &[Place],
        all: &[&mut Self::Kv],
        out: &mut Self::Rows,
        flags: &mut Self::Flags,
    ) {
        let mut copies: Vec<ReferenceKv> = all.iter().map(|cache| cache.0.clone()).collect();
        let all: Vec<&mut ReferenceKv> = copies.iter_mut().collect();
        let of = Layer::of(layer);
        Reference.attend(of.get(layer), &queries.0, places, &all, &mut out.0, &mut flags.0);
    }

    fn gate(&self, activation: Activation, gate_up: &Self::Rows, out: &mut Self::Rows) {
        Reference.gate(activation, &gate_up.0, &mut out.0);
    }

    fn zero_rows(&self, rows: usize, width: usize, out: &mut Self::Rows) {
        Reference.zero_rows(rows, width, &mut out.0);
    }

    fn select_rows(&self, from: &Self::Rows, indexes: &[usize], out: &mut Self::Rows) {
        Reference.select_rows(&from.0, indexes, &mut out.0);
    }

    fn accumulate(
        &self,
        rows: &Self::Rows,
        indexes: &[usize],
        weights: &[f32],
        out: &mut Self::Rows,
    ) {
        Reference.accumulate(&rows.0, indexes, weights, &mut out.0);
    }

    fn accumulate_gated(&self, rows: &Self::Rows, gates: &Self::Rows, out: &mut Self::Rows) {
        Reference.accumulate_gated(&rows.0, &gates.0, &mut out.0);
    }

    fn residual(
        &self,
        x: &Self::State,
        delta: &Self::Rows,
        out: &mut Self::State,
        flags: &mut Self::Flags,
    ) {
        Reference.residual(&x.0, &delta.0, &mut out.0, &mut flags.0);
    }
}

impl Products for Stub {
    type Device = Self;
    type Matrix = Handle<Packed>;
    type Error = Lost;

    fn device(&self) -> &Self {
        self
    }

    fn matmul(
        &self,
        weights: &Self::Matrix,
        x: &Handle<Codes>,
        out: &mut Handle<Sums>,
    ) -> Result<(), Lost> {
        let Ok(()) = Reference.matmul(&weights.0, &x.0, &mut out.0);
        if self.left.get() == Some(0) { Err(Lost) } else { Ok(()) }
    }
}

impl Backend for Stub {
    fn prepare(&self, matrix: Packed) -> Result<Self::Matrix, PrepareError<Lost>> {
        Ok(Handle(matrix))
    }

    fn span<P: Probe>(
        &self,
        layers: &[LayerOf<Self>],
        rows: &[Row],
        caches: &mut [&mut Cache],
        state: &Handle<State>,
        probe: &mut P,
    ) -> Result<Option<Handle<State>>, Lost> {
        let Some(done) = self.spans.get().filter(|_| !P::SEES.sums) else { return Ok(None) };
        self.spans.set(Some(done + 1));
        let (state, scratch) = (Handle(state.0.clone()), &mut Scratch::default());
        forward(self, layers, rows, caches, state, scratch, probe).map(Some)
    }
}

impl Host for Stub {
    type Ticket<T> = Ticket<T>;

    fn wait<T>(&self, ticket: Ticket<T>) -> Result<T, Lost> {
        let mut asked = self.asked.borrow_mut();
        let waits = match self.is_in_layer.get() {
            true => &mut asked.waits_in_layers,
            false => &mut asked.waits,
        };
        *waits += 1;
        self.answer(ticket.0)
    }

    fn put_vector(&self, values: Vec<f32>) -> Result<Self::Vector, Lost> {
        Ok(Handle(values))
    }

    fn put_rope(&self, turns: Vec<u64>) -> Result<Self::Rope, Lost> {
        Ok(Handle(turns))
    }

    fn put_state(&self, state: State) -> Result<Self::State, Lost> {
        Ok(Handle(state))
    }

    fn take_state<'a>(&self, state: &'a Self::State) -> CopiedOf<'a, Self, State> {
        self.start(&state.0)
    }

    fn take_kv(
        &self,
        all: &[&mut Cache],
        layer: usize,
        places: &[Place],
    ) -> CopiedOf<'static, Self, [u8]> {
        let mut copies: Vec<ReferenceKv> = all.iter().map(|cache| cache.0.clone()).collect();
        let all: Vec<&mut ReferenceKv> = copies.iter_mut().collect();
        self.start(read_kv(&all, layer, places).as_slice())
    }

    fn take_rows<'a>(&self, rows: &'a Self::Rows) -> CopiedOf<'a, Self, [f32]> {
        self.start(rows.0.data.as_slice())
    }

    fn take_codes<'a>(&self, codes: &'a Self::Codes) -> CopiedOf<'a, Self, [i16]> {
        self.start(codes.0.codes.as_slice())
    }

    fn take_sums<'a>(&self, sums: &'a Self::Sums) -> CopiedOf<'a, Self, [i64]> {
        self.start(sums.0.data.as_slice())
    }

    fn read_logits(
        &self,
        rows: &Self::Rows,
        width: usize,
        flags: &Self::Flags,
    ) -> Result<Vec<Result<Vec<f32>, Overflow>>, Lost> {
        self.asked.borrow_mut().logits += 1;
        let Ok(logits) = Reference.read_logits(&rows.0, width, &flags.0);
        self.answer(logits)
    }

    fn choose(
        &self,
        rule: Rule,
        experts: usize,
        logits: &Self::Rows,
        flags: &mut Self::Flags,
    ) -> Result<Choice, Lost> {
        assert!(self.is_in_layer.get(), "experts are chosen within a layer");
        self.asked.borrow_mut().choices += 1;
        let Ok(choice) = Reference.choose(rule, experts, &logits.0, &mut flags.0);
        self.answer(choice)
    }

    fn write_sums(&self, width: usize, values: &[i64], out: &mut Self::Sums) {
        Reference.write_sums(width, values, &mut out.0);
    }
}
