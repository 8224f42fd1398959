//! The operations that the network is made of, split along what an auditor replaces.
//!
//! - [`Device`]: everything between the products, on rows that a backend keeps where it likes.
//! - [`Products`]: the integer matrix products. A backend computes them; an audit puts a claimed
//!   product in the place of a computed one.
//! - [`LoadMatrix`]: how the products of a backend take in weights.
//! - [`Host`]: the exchange of what a device holds with the host's memory.
//! - [`FieldDots`]: the dot products over a prime field that a verifier compares products with.
//!
//! The forward pass takes [`Products`] and does the rest on their [`Products::device`]. A backend
//! is its own device; an audit names the backend's device and implements products alone, so that
//! what lies between the products is computed by the same code that serves.
//!
//! [`crate::reference::Reference`] defines the answer; a backend may only be faster. Every method
//! works on a batch of rows, one row per position of some session.
//!
//! **Overflow.** Wherever f32 become integers, a row whose largest magnitude is 2^55 or more (so
//! also infinity and NaN) is *flagged*: its codes and scales become zero, computing goes on with
//! those, and the layer's output state for that row is the overflow marker. A marker reads as
//! zeros and flags its row again in the next layer. So overflow is as deterministic as everything
//! else, and auditable.

use std::borrow::Cow;

use crate::experts::Choice;
use crate::feed_forward::Rule;
use crate::flags::Flags;
use crate::kv::KvCache;
use crate::matrix::{MatrixError, Packed};
use crate::norm::{HeadNorms, Norm};
use crate::num::{self, Overflow};
use crate::plan::{Activation, AttentionPlan};
use crate::state::State;

/// Where a row of a batch belongs: which cache, and which absolute position in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index into the caches given with the batch.
    pub slot: usize,
    /// Absolute position in the session.
    pub position: usize,
}

/// What attention needs to know of a layer.
#[derive(Clone, Copy, Debug)]
pub struct AttentionLayer<'a> {
    /// Heads, sizes, window and scale.
    pub plan: &'a AttentionPlan,
    /// Turn per position of each rotated pair, in units of 2^-64.
    pub rope: &'a [u64],
    /// Normalisation of query and key heads, before they are rotated.
    pub norms: Option<&'a HeadNorms>,
    /// The layer's index in the caches.
    pub index: usize,
}

/// The operations between the products, and the types of what they work on.
///
/// Activations, codes, sums and caches are associated types, so that a backend may keep them
/// anywhere. Output arguments are resized by the callee, which lets a caller reuse their memory.
pub trait Device {
    /// Rows of f32.
    type Rows: Default;
    /// Rows of quantised numbers with one or more scales per row.
    type Codes: Default;
    /// Rows of exact sums.
    type Sums: Default;
    /// Keys and values of one session.
    type Kv: KvCache;

    /// Brackets the operations of one layer, so that workers can stay awake inside.
    fn scope<R>(&self, body: impl FnOnce() -> R) -> R {
        body()
    }

    /// The embedding rows of `tokens` (ids below the table's rows) times `scale`, as states:
    /// `(f32(weight) · row_scale) · scale`, block-i16.
    fn embed(&self, table: &Packed, scale: f32, tokens: &[u32], out: &mut State);

    /// RMS normalisation of states: `(x · r) · gain` with `r = 1/sqrt(mean(x²) + eps)`, where the
    /// sum of squares is an integer sum over block mantissas.
    fn norm(&self, x: &State, eps: f32, gain: &[f32], out: &mut Self::Rows);

    /// RMS normalisation in place of f32 rows, which first become block-i16: as [`Device::norm`] of
    /// that state. A row that overflows becomes zeros and is flagged.
    fn norm_rows(&self, eps: f32, gain: &[f32], rows: &mut Self::Rows, flags: &mut Flags);

    /// Quantises each row to ±32512 with one scale.
    fn quantise(&self, x: &Self::Rows, out: &mut Self::Codes, flags: &mut Flags);

    /// [`Device::norm`] to `rows`, then [`Device::quantise`] of them.
    fn norm_quantise(
        &self,
        x: &State,
        norm: &Norm,
        rows: &mut Self::Rows,
        out: &mut Self::Codes,
        flags: &mut Flags,
    ) {
        self.norm(x, norm.eps, &norm.gain, rows);
        self.quantise(rows, out, flags);
    }

    /// `f32(sum) · (row_scale · token_scale)` for every sum.
    fn dequant(&self, sums: &Self::Sums, x: &Self::Codes, scales: &[f32], out: &mut Self::Rows);

    /// Adds one number per column to every row.
    fn add_bias(&self, bias: &[f32], rows: &mut Self::Rows);

    /// Splits fused query, key and value rows, normalises the heads of queries and keys if the
    /// layer says so, rotates them to their positions, quantises all three per head, appends keys
    /// and values to the caches, and returns the queries of the rows `wanted` (increasing indexes)
    /// with their scales times the layer's score scale.
    #[expect(clippy::too_many_arguments, reason = "one fused step; splitting it would copy rows")]
    fn append(
        &self,
        layer: AttentionLayer<'_>,
        qkv: &Self::Rows,
        places: &[Place],
        wanted: &[usize],
        caches: &mut [&mut Self::Kv],
        queries: &mut Self::Codes,
        flags: &mut Flags,
    );

    /// Attention of each query over the positions up to its own, in the plan's window.
    fn attend(
        &self,
        layer: AttentionLayer<'_>,
        queries: &Self::Codes,
        places: &[Place],
        caches: &[&mut Self::Kv],
        out: &mut Self::Rows,
        flags: &mut Flags,
    );

    /// `activation(gate) · up` of fused gate and up rows.
    fn gate(&self, activation: Activation, gate_up: &Self::Rows, out: &mut Self::Rows);

    /// [`Device::gate`] to `rows`, then [`Device::quantise`] of them.
    fn gate_quantise(
        &self,
        activation: Activation,
        gate_up: &Self::Rows,
        rows: &mut Self::Rows,
        out: &mut Self::Codes,
        flags: &mut Flags,
    ) {
        self.gate(activation, gate_up, rows);
        self.quantise(rows, out, flags);
    }

    /// Makes `out` so many rows of zeros.
    fn zero_rows(&self, rows: usize, width: usize, out: &mut Self::Rows);

    /// The rows of `from` at `indexes`, in that order.
    fn select_rows(&self, from: &Self::Rows, indexes: &[usize], out: &mut Self::Rows);

    /// `out[indexes[i]] + weights[i] · rows[i]` in place, for every i: the product is rounded, then
    /// the sum. `indexes` increase.
    fn accumulate(
        &self,
        rows: &Self::Rows,
        indexes: &[usize],
        weights: &[f32],
        out: &mut Self::Rows,
    );

    /// `x + delta` as states; the overflow marker for flagged rows and for rows that overflow here,
    /// which are flagged too.
    fn residual(&self, x: &State, delta: &Self::Rows, out: &mut State, flags: &mut Flags);

    /// [`Device::residual`] to `sum`, then [`Device::norm_quantise`] of it.
    #[expect(clippy::too_many_arguments, reason = "three steps that each row goes through alone")]
    fn residual_norm_quantise(
        &self,
        x: &State,
        delta: &Self::Rows,
        sum: &mut State,
        norm: &Norm,
        rows: &mut Self::Rows,
        out: &mut Self::Codes,
        flags: &mut Flags,
    ) {
        self.residual(x, delta, sum, flags);
        self.norm_quantise(sum, norm, rows, out, flags);
    }
}

/// The matrix products: what an auditor replaces.
///
/// A backend computes them. An audit implements this trait with a verifier's key for a matrix and
/// a claimed product for the result, and takes all other operations from the backend's device.
pub trait Products {
    /// What computes everything between the products, and reads it.
    type Device: Host;
    /// A weight matrix, prepared.
    type Matrix;
    /// Why a product could not be had. `Infallible` for a backend that computes; an audit checks a
    /// claimed product instead and may refuse it.
    type Error;

    /// The device that the inputs of these products come from and their sums go to.
    fn device(&self) -> &Self::Device;

    /// Computes the exact sums `Σ_k w[n][k] · x[k]` of every row of `x`, as integers, into `out`.
    ///
    /// # Errors
    /// [`Products::Error`], from products that are checked instead of computed.
    fn matmul(
        &self,
        weights: &Self::Matrix,
        x: &CodesOf<Self>,
        out: &mut SumsOf<Self>,
    ) -> Result<(), Self::Error>;

    /// Computes [`Products::matmul`], then [`Device::dequant`] with `scales`, which are the row
    /// scales of `weights`: for callers that do not look at the sums, so that a backend may fuse
    /// the two. What `sums` holds afterwards is unspecified.
    ///
    /// # Errors
    /// As [`Products::matmul`].
    fn product(
        &self,
        weights: &Self::Matrix,
        scales: &[f32],
        x: &CodesOf<Self>,
        sums: &mut SumsOf<Self>,
        out: &mut RowsOf<Self>,
    ) -> Result<(), Self::Error> {
        self.matmul(weights, x, sums)?;
        self.device().dequant(sums, x, scales, out);
        Ok(())
    }
}

/// The rows of f32 on the device of some products.
pub type RowsOf<O> = <<O as Products>::Device as Device>::Rows;
/// The inputs of some products, on their device.
pub type CodesOf<O> = <<O as Products>::Device as Device>::Codes;
/// The sums of some products, on their device.
pub type SumsOf<O> = <<O as Products>::Device as Device>::Sums;
/// The keys and values of one session on the device of some products.
pub type KvOf<O> = <<O as Products>::Device as Device>::Kv;

/// How a backend takes in weights.
pub trait LoadMatrix: Products {
    /// Prepares a checked matrix for [`Products::matmul`].
    ///
    /// # Errors
    /// [`MatrixError`] when the backend cannot take a matrix of this shape.
    fn prepare(&self, matrix: Packed) -> Result<Self::Matrix, MatrixError>;
}

/// The exchange of what a device holds with the host's memory.
pub trait Host: Device {
    /// Which experts each row goes to: rows of router logits, `experts` numbers each.
    fn choose(&self, rule: Rule, experts: usize, logits: &Self::Rows, flags: &mut Flags) -> Choice {
        Choice::new(rule, experts, &self.read_rows(logits), flags)
    }

    /// All rows of f32, row after row.
    fn read_rows<'a>(&self, rows: &'a Self::Rows) -> Cow<'a, [f32]>;

    /// Rows of `width` logits, each on its own; `Err(Overflow)` for rows that are flagged or in
    /// which a logit is too large.
    fn read_logits(
        &self,
        rows: &Self::Rows,
        width: usize,
        flags: &Flags,
    ) -> Vec<Result<Vec<f32>, Overflow>> {
        let all = self.read_rows(rows);
        let logits = |(row, logits): (usize, &[f32])| {
            let fits = num::amax_bits(logits) < num::OVERFLOW_BITS && !flags.get(row);
            if fits { Ok(logits.to_vec()) } else { Err(Overflow) }
        };
        all.chunks_exact(width.max(1)).enumerate().map(logits).collect()
    }

    /// All codes, row after row.
    fn read_codes<'a>(&self, codes: &'a Self::Codes) -> Cow<'a, [i16]>;

    /// All sums, row after row.
    fn read_sums<'a>(&self, sums: &'a Self::Sums) -> Cow<'a, [i64]>;

    /// Makes `out` rows of `width` sums with these values: how claimed sums enter.
    fn write_sums(&self, width: usize, values: &[i64], out: &mut Self::Sums);
}

/// The dot products over the prime field of [`crate::field`] that a verifier compares products
/// with.
///
/// They work on numbers in the host's memory. The bodies given here define the result; a backend
/// may only be faster.
pub trait FieldDots {
    /// Computes `Σ weights[i] · row[i]` for each row of `values`: as many rows as `out` has
    /// elements, each as long as `weights`. Weights are residues.
    fn field_dots_i64(&self, weights: &[u64], values: &[i64], out: &mut [u64]) {
        for (row, out) in out.iter_mut().enumerate() {
            let start = row * weights.len();
            *out = crate::field::dot_i64(weights, &values[start..start + weights.len()]);
        }
    }

    /// As [`FieldDots::field_dots_i64`], for 16-bit values.
    fn field_dots_i16(&self, weights: &[u64], values: &[i16], out: &mut [u64]) {
        for (row, out) in out.iter_mut().enumerate() {
            let start = row * weights.len();
            *out = crate::field::dot_i16(weights, &values[start..start + weights.len()]);
        }
    }

    /// Computes `Σ_n weight(n, column) · residues[n]` for every column of `matrix`: one residue for
    /// each of its rows.
    fn field_transposed(&self, matrix: &Packed, residues: &[u64]) -> Vec<u64> {
        let weight = |row, column| i64::from(matrix.weight(row, column));
        let column = |column| {
            let weights: Vec<i64> = (0..residues.len()).map(|row| weight(row, column)).collect();
            crate::field::dot_i64(residues, &weights)
        };
        (0..matrix.shape().columns).map(column).collect()
    }
}
