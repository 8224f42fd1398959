//! The operations between products: [`Device`].

use lockstep_exact::matrix::Packed;
use lockstep_exact::ops::{AttentionOf, Device, Place, Products};
use lockstep_exact::plan::Activation;
use lockstep_exact::reference::Reference;
use lockstep_exact::state::State;

use super::{Cache, Cuda, Quantised, Slot, lock};
use crate::attention::{Batch, Heads, Scratch};
use crate::driver::{Buffer, Error};
use crate::kv::Kv;
use crate::products::Matrix;
use crate::rows::{Flags, Rows, States, Sums};

impl Device for Cuda {
    type State = Slot<States>;
    type Rows = Slot<Rows>;
    type Codes = Quantised;
    type Sums = Slot<Sums>;
    type Flags = Slot<Flags>;
    type Vector = Buffer<f32>;
    type Rope = Buffer<u64>;
    type Kv = Cache;
    type Error = Error;

    /// The table stays in the host's memory, and so does the work: a row of it for each token.
    fn embed(&self, table: &Packed, scale: f32, tokens: &[u32], out: &mut Self::State) {
        self.begin();
        let mut embedded = State::default();
        Reference.embed(table, scale, tokens, &mut embedded);
        self.run(|gpu| out.room(gpu)?.write(&embedded));
    }

    fn select_state(&self, from: &Self::State, indexes: &[usize]) -> Self::State {
        let mut out = Slot::default();
        self.run(|gpu| gpu.select_states(from.get()?, indexes, out.room(gpu)?));
        out
    }

    fn flags(&self, state: &Self::State) -> Self::Flags {
        let mut out = Slot::default();
        self.run(|gpu| gpu.flags_of(state.get()?, out.room(gpu)?));
        out
    }

    fn select_flags(&self, from: &Self::Flags, indexes: &[usize]) -> Self::Flags {
        self.give(|gpu| gpu.select_flags(from.get()?, indexes)).into()
    }

    fn merge_flags(&self, from: &Self::Flags, indexes: &[usize], out: &mut Self::Flags) {
        self.run(|gpu| gpu.merge_flags(from.get()?, indexes, out.get_mut()?));
    }

    fn norm(&self, x: &Self::State, eps: f32, gain: &Self::Vector, out: &mut Self::Rows) {
        self.run(|gpu| gpu.norm(x.get()?, eps, gain, out.room(gpu)?));
    }

    fn norm_rows(
        &self,
        eps: f32,
        gain: &Self::Vector,
        rows: &mut Self::Rows,
        flags: &mut Self::Flags,
    ) {
        self.run(|gpu| gpu.norm_rows(eps, gain, rows.get_mut()?, flags.get_mut()?));
    }

    fn quantise(&self, x: &Self::Rows, out: &mut Self::Codes, flags: &mut Self::Flags) {
        out.are_queries = false;
        self.run(|gpu| gpu.quantise(x.get()?, out.rows.room(gpu)?, flags.get_mut()?));
    }

    fn dequant(
        &self,
        sums: &Self::Sums,
        x: &Self::Codes,
        scales: &Self::Vector,
        out: &mut Self::Rows,
    ) {
        self.run(|gpu| gpu.dequant(sums.get()?, x.rows.get()?, scales, out.room(gpu)?));
    }

    fn add_bias(&self, bias: &Self::Vector, rows: &mut Self::Rows) {
        self.run(|gpu| gpu.add_bias(bias, rows.get_mut()?));
    }

    fn append(
        &self,
        layer: AttentionOf<'_, Self>,
        qkv: &Self::Rows,
        places: &[Place],
        wanted: &[usize],
        caches: &mut [&mut Self::Kv],
        queries: &mut Self::Codes,
        flags: &mut Self::Flags,
    ) {
        queries.are_queries = true;
        self.run(|gpu| {
            let caches = caches.iter_mut().map(|cache| cache.layer(gpu, layer.index));
            let mut caches = caches.collect::<Result<Vec<_>, _>>()?;
            let batch = Batch::new(gpu, places, &mut caches)?;
            let norms = layer.norms.map(|norms| (&norms.query, &norms.key));
            let heads = Heads { plan: layer.plan, rope: layer.rope, norms };
            let queries = queries.queries.room(gpu)?;
            gpu.append(heads, qkv.get()?, &batch, wanted, queries, flags.get_mut()?)
        });
    }

    fn attend(
        &self,
        layer: AttentionOf<'_, Self>,
        queries: &Self::Codes,
        places: &[Place],
        caches: &[&mut Self::Kv],
        out: &mut Self::Rows,
        flags: &mut Self::Flags,
    ) {
        self.run(|gpu| {
            let caches: Vec<&Kv> =
                caches.iter().map(|cache| cache.on_device(layer.index)).collect();
            let batch = Batch::of(gpu, places, &caches)?;
            let mut scratch = lock(&self.scratch);
            let scratch = match &mut *scratch {
                Some(scratch) => scratch,
                none => none.insert(Scratch::new(gpu)?),
            };
            let queries = queries.queries.get()?;
            let (out, flags) = (out.room(gpu)?, flags.get_mut()?);
            gpu.attend(layer.plan, queries, &batch, scratch, out, flags)
        });
    }

    fn gate(&self, activation: Activation, gate_up: &Self::Rows, out: &mut Self::Rows) {
        self.run(|gpu| gpu.gate(activation, gate_up.get()?, out.room(gpu)?));
    }

    fn zero_rows(&self, rows: usize, width: usize, out: &mut Self::Rows) {
        self.run(|gpu| gpu.zero_rows(rows, width, out.room(gpu)?));
    }

    fn select_rows(&self, from: &Self::Rows, indexes: &[usize], out: &mut Self::Rows) {
        self.run(|gpu| gpu.select_rows(from.get()?, indexes, out.room(gpu)?));
    }

    fn accumulate(
        &self,
        rows: &Self::Rows,
        indexes: &[usize],
        weights: &[f32],
        out: &mut Self::Rows,
    ) {
        self.run(|gpu| gpu.accumulate(rows.get()?, indexes, weights, out.get_mut()?));
    }

    fn accumulate_gated(&self, rows: &Self::Rows, gates: &Self::Rows, out: &mut Self::Rows) {
        self.run(|gpu| gpu.accumulate_gated(rows.get()?, gates.get()?, out.get_mut()?));
    }

    fn residual(
        &self,
        x: &Self::State,
        delta: &Self::Rows,
        out: &mut Self::State,
        flags: &mut Self::Flags,
    ) {
        self.run(|gpu| gpu.residual(x.get()?, delta.get()?, out.room(gpu)?, flags.get_mut()?));
    }
}

impl Products for Cuda {
    type Device = Self;
    type Matrix = Matrix;
    type Error = Error;

    fn device(&self) -> &Self {
        self
    }

    fn matmul(&self, weights: &Matrix, x: &Quantised, out: &mut Slot<Sums>) -> Result<(), Error> {
        self.answer(|gpu| {
            // The kernel dequantises as well, with the scales that the matrix has in it.
            let mut rows = Rows::new(gpu)?;
            gpu.product(weights, x.rows.get()?, None, Some(out.room(gpu)?), &mut rows)
        })
    }

    fn product(
        &self,
        weights: &Matrix,
        _scales: &Buffer<f32>,
        x: &Quantised,
        _sums: &mut Slot<Sums>,
        out: &mut Slot<Rows>,
    ) -> Result<(), Error> {
        self.answer(|gpu| gpu.product(weights, x.rows.get()?, None, None, out.room(gpu)?))
    }
}
