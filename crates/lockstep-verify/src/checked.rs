//! Operations that check claimed products instead of computing them.
//!
//! [`Checked`] is any [`Ops`] in which a matrix is a verifier's [`ProductKey`] and a product is a
//! claim: it is compared in the field and then used as if it had been computed. Everything between
//! the products is done by the operations that serve.
//!
//! # Soundness
//! Claims must have been read by [`crate::sums::decode`], which refuses sums outside the range of
//! the matrix.
#![deny(clippy::arithmetic_side_effects, clippy::integer_division)]

use core::cell::RefCell;
use core::marker::PhantomData;
use std::borrow::Cow;

use lockstep_exact::experts::Choice;
use lockstep_exact::feed_forward::Rule;
use lockstep_exact::flags::Flags;
use lockstep_exact::matrix::Packed;
use lockstep_exact::names::ProductName;
use lockstep_exact::ops::{AttentionLayer, Ops, Place};
use lockstep_exact::plan::Activation;
use lockstep_exact::state::State;

use crate::key::ProductKey;

/// A product by name, with what checks it.
#[derive(Clone, Copy)]
pub(crate) struct Check<'k> {
    pub(crate) name: ProductName,
    pub(crate) key: &'k ProductKey,
}

/// The claimed sums of each kind of product for the rows of one call of the forward pass.
#[derive(Clone, Default)]
pub(crate) struct Claims<'a>(pub(crate) Vec<Claim<'a>>);

/// The claimed sums of a kind of product, row after row.
#[derive(Clone, Copy)]
pub(crate) struct Claim<'a> {
    pub(crate) kind: ProductName,
    /// How many products of the kind a row has, one after the other.
    pub(crate) times: usize,
    pub(crate) sums: &'a [i64],
}

impl<'a> Claims<'a> {
    pub(crate) fn of_logits(sums: &'a [i64]) -> Self {
        Self(vec![Claim { kind: ProductName::Logits, times: 1, sums }])
    }
}

/// The claimed sums of one product, and the rows of the batch that they belong to if these are not
/// all.
struct Claimed<'a> {
    sums: Cow<'a, [i64]>,
    rows: Option<Vec<usize>>,
}

/// A claim that is not the product.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WrongProduct {
    pub(crate) name: ProductName,
    /// The row of the batch.
    pub(crate) row: usize,
}

/// See the [module](self).
pub(crate) struct Checked<'a, 'k, O> {
    ops: &'a O,
    claims: RefCell<Claims<'a>>,
    /// The experts that the rows of the present layer go to, by its audited router.
    choice: RefCell<Choice>,
    keys: PhantomData<&'k ProductKey>,
}

impl<'a, O> Checked<'a, '_, O> {
    pub(crate) fn new(ops: &'a O) -> Self {
        Self { ops, claims: RefCell::default(), choice: RefCell::default(), keys: PhantomData }
    }

    /// Sets the claims for the next call of the forward pass.
    pub(crate) fn claim(&self, claims: Claims<'a>) {
        self.claims.replace(claims);
    }

    /// The claim for a product with `width` outputs. Of an expert, a row's claims are in the order
    /// of its experts.
    fn claimed(&self, name: ProductName, width: usize) -> Claimed<'a> {
        let claims = self.claims.borrow();
        let Some(claim) = claims.0.iter().find(|claim| claim.kind == name.kind()).copied() else {
            return Claimed { sums: Cow::Borrowed(&[]), rows: None };
        };
        let Some(expert) = name.expert() else {
            return Claimed { sums: Cow::Borrowed(claim.sums), rows: None };
        };
        let (mut sums, mut rows) = (Vec::new(), Vec::new());
        for (row, rank) in self.choice.borrow().rows_of(expert) {
            let at = row.saturating_mul(claim.times).saturating_add(rank);
            let start = at.saturating_mul(width);
            let own = claim.sums.get(start..start.saturating_add(width));
            sums.extend_from_slice(own.unwrap_or_default());
            rows.push(row);
        }
        Claimed { sums: Cow::Owned(sums), rows: Some(rows) }
    }
}

impl<'k, O: Ops> Ops for Checked<'_, 'k, O> {
    type Matrix = Check<'k>;
    type Rows = O::Rows;
    type Codes = O::Codes;
    type Sums = O::Sums;
    type Kv = O::Kv;
    type Error = WrongProduct;

    fn scope<R>(&self, body: impl FnOnce() -> R) -> R {
        self.ops.scope(body)
    }

    fn embed(&self, table: &Packed, scale: f32, tokens: &[u32], out: &mut State) {
        self.ops.embed(table, scale, tokens, out);
    }

    fn norm(&self, x: &State, eps: f32, gain: &[f32], out: &mut O::Rows) {
        self.ops.norm(x, eps, gain, out);
    }

    fn norm_rows(&self, eps: f32, gain: &[f32], rows: &mut O::Rows, flags: &mut Flags) {
        self.ops.norm_rows(eps, gain, rows, flags);
    }

    fn quantise(&self, x: &O::Rows, out: &mut O::Codes, flags: &mut Flags) {
        self.ops.quantise(x, out, flags);
    }

    fn matmul(
        &self,
        weights: &Check<'k>,
        x: &O::Codes,
        out: &mut O::Sums,
    ) -> Result<(), WrongProduct> {
        let (name, key) = (weights.name, weights.key);
        let shape = key.shape();
        let (codes, claimed) = (self.ops.read_codes(x), self.claimed(name, shape.rows));
        if let Some(wrong) = key.first_wrong(self.ops, &codes, &claimed.sums) {
            let row = claimed.rows.map_or(Some(wrong), |rows| rows.get(wrong).copied());
            return Err(WrongProduct { name, row: row.unwrap_or(wrong) });
        }
        self.ops.write_sums(shape.rows, &claimed.sums, out);
        Ok(())
    }

    fn dequant(&self, sums: &O::Sums, x: &O::Codes, scales: &[f32], out: &mut O::Rows) {
        self.ops.dequant(sums, x, scales, out);
    }

    fn add_bias(&self, bias: &[f32], rows: &mut O::Rows) {
        self.ops.add_bias(bias, rows);
    }

    fn append(
        &self,
        layer: AttentionLayer<'_>,
        qkv: &O::Rows,
        places: &[Place],
        wanted: &[usize],
        caches: &mut [&mut O::Kv],
        queries: &mut O::Codes,
        flags: &mut Flags,
    ) {
        self.ops.append(layer, qkv, places, wanted, caches, queries, flags);
    }

    fn attend(
        &self,
        layer: AttentionLayer<'_>,
        queries: &O::Codes,
        places: &[Place],
        caches: &[&mut O::Kv],
        out: &mut O::Rows,
        flags: &mut Flags,
    ) {
        self.ops.attend(layer, queries, places, caches, out, flags);
    }

    fn gate(&self, activation: Activation, gate_up: &O::Rows, out: &mut O::Rows) {
        self.ops.gate(activation, gate_up, out);
    }

    fn choose(&self, rule: Rule, experts: usize, logits: &O::Rows, flags: &mut Flags) -> Choice {
        let choice = self.ops.choose(rule, experts, logits, flags);
        self.choice.replace(choice.clone());
        choice
    }

    fn zero_rows(&self, rows: usize, width: usize, out: &mut O::Rows) {
        self.ops.zero_rows(rows, width, out);
    }

    fn select_rows(&self, from: &O::Rows, indexes: &[usize], out: &mut O::Rows) {
        self.ops.select_rows(from, indexes, out);
    }

    fn accumulate(&self, rows: &O::Rows, indexes: &[usize], weights: &[f32], out: &mut O::Rows) {
        self.ops.accumulate(rows, indexes, weights, out);
    }

    fn residual(&self, x: &State, delta: &O::Rows, out: &mut State, flags: &mut Flags) {
        self.ops.residual(x, delta, out, flags);
    }

    fn field_dots_i64(&self, weights: &[u64], values: &[i64], out: &mut [u64]) {
        self.ops.field_dots_i64(weights, values, out);
    }

    fn field_dots_i16(&self, weights: &[u64], values: &[i16], out: &mut [u64]) {
        self.ops.field_dots_i16(weights, values, out);
    }

    fn field_transposed(&self, matrix: &Packed, residues: &[u64]) -> Vec<u64> {
        self.ops.field_transposed(matrix, residues)
    }

    fn read_rows<'r>(&self, rows: &'r O::Rows) -> Cow<'r, [f32]> {
        self.ops.read_rows(rows)
    }

    fn read_codes<'r>(&self, codes: &'r O::Codes) -> Cow<'r, [i16]> {
        self.ops.read_codes(codes)
    }

    fn read_sums<'r>(&self, sums: &'r O::Sums) -> Cow<'r, [i64]> {
        self.ops.read_sums(sums)
    }

    fn write_sums(&self, width: usize, values: &[i64], out: &mut O::Sums) {
        self.ops.write_sums(width, values, out);
    }
}
