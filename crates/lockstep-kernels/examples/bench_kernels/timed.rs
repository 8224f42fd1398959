//! [`Kernels`] with a clock around every operation: where the time of a step goes.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use lockstep_exact::manifest::Activation;
use lockstep_exact::matrix::Packed;
use lockstep_exact::ops::{AttentionLayer, Flags, Ops, Place};
use lockstep_exact::state::State;
use lockstep_kernels::{Codes, Kernels, Kv, Rows, Sums};

/// Operations that add what they take to a table.
pub(crate) struct Timed<'a> {
    kernels: &'a Kernels,
    spent: RefCell<BTreeMap<&'static str, Duration>>,
}

impl<'a> Timed<'a> {
    pub(crate) fn new(kernels: &'a Kernels) -> Self {
        Self { kernels, spent: RefCell::default() }
    }

    /// Microseconds per operation's name, for each of `count` equal steps.
    pub(crate) fn table(&self, count: usize) -> String {
        let spent = self.spent.borrow();
        let entry = |(name, time): (_, &Duration)| {
            format!("{name} {:.0}", time.as_secs_f64() * 1e6 / count as f64)
        };
        spent.iter().map(entry).collect::<Vec<_>>().join(", ")
    }

    fn time<R>(&self, name: &'static str, body: impl FnOnce(&Kernels) -> R) -> R {
        let start = Instant::now();
        let result = body(self.kernels);
        *self.spent.borrow_mut().entry(name).or_default() += start.elapsed();
        result
    }
}

impl Ops for Timed<'_> {
    type Matrix = Packed;
    type Rows = Rows;
    type Codes = Codes;
    type Sums = Sums;
    type Kv = Kv;
    type Error = Infallible;

    fn scope<R>(&self, body: impl FnOnce() -> R) -> R {
        self.kernels.scope(body)
    }

    fn embed(&self, table: &Packed, scale: f32, tokens: &[u32], out: &mut State) {
        self.time("embed", |kernels| kernels.embed(table, scale, tokens, out));
    }

    fn norm(&self, x: &State, eps: f32, gain: &[f32], out: &mut Rows) {
        self.time("norm", |kernels| kernels.norm(x, eps, gain, out));
    }

    fn quantise(&self, x: &Rows, out: &mut Codes, flags: &mut Flags) {
        self.time("quantise", |kernels| kernels.quantise(x, out, flags));
    }

    fn matmul(&self, weights: &Packed, x: &Codes, out: &mut Sums) -> Result<(), Infallible> {
        let name = if weights.shape().rows > 32_768 { "head" } else { "matmul" };
        self.time(name, |kernels| kernels.matmul(weights, x, out))
    }

    fn product(
        &self,
        weights: &Packed,
        scales: &[f32],
        x: &Codes,
        sums: &mut Sums,
        out: &mut Rows,
    ) -> Result<(), Infallible> {
        let name = if weights.shape().rows > 32_768 { "head" } else { "product" };
        self.time(name, |kernels| kernels.product(weights, scales, x, sums, out))
    }

    fn dequant(&self, sums: &Sums, x: &Codes, scales: &[f32], out: &mut Rows) {
        self.time("dequant", |kernels| kernels.dequant(sums, x, scales, out));
    }

    fn append(
        &self,
        layer: AttentionLayer<'_>,
        qkv: &Rows,
        places: &[Place],
        wanted: &[usize],
        caches: &mut [&mut Kv],
        queries: &mut Codes,
        flags: &mut Flags,
    ) {
        self.time("append", |kernels| {
            kernels.append(layer, qkv, places, wanted, caches, queries, flags);
        });
    }

    fn attend(
        &self,
        layer: AttentionLayer<'_>,
        queries: &Codes,
        places: &[Place],
        caches: &[&mut Kv],
        out: &mut Rows,
        flags: &mut Flags,
    ) {
        self.time("attend", |kernels| kernels.attend(layer, queries, places, caches, out, flags));
    }

    fn gate(&self, activation: Activation, gate_up: &Rows, out: &mut Rows) {
        self.time("gate", |kernels| kernels.gate(activation, gate_up, out));
    }

    fn residual(&self, x: &State, delta: &Rows, out: &mut State, flags: &mut Flags) {
        self.time("residual", |kernels| kernels.residual(x, delta, out, flags));
    }

    fn read_rows<'r>(&self, rows: &'r Rows) -> Cow<'r, [f32]> {
        self.kernels.read_rows(rows)
    }

    fn read_codes<'r>(&self, codes: &'r Codes) -> Cow<'r, [i16]> {
        self.kernels.read_codes(codes)
    }

    fn read_sums<'r>(&self, sums: &'r Sums) -> Cow<'r, [i64]> {
        self.kernels.read_sums(sums)
    }

    fn write_sums(&self, width: usize, values: &[i64], out: &mut Sums) {
        self.kernels.write_sums(width, values, out);
    }
}
