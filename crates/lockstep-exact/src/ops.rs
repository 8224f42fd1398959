//! The operations that the network is made of, split along what an auditor replaces.
//!
//! - [`Device`]: everything between the products, on numbers that a backend keeps where it likes.
//! - [`Products`]: the integer matrix products. A backend computes them; an audit puts a claimed
//!   product in the place of a computed one.
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
//!
//! **Waiting.** A device may be a processor of its own, to which operations are sent in order and
//! which does them later. So an operation returns nothing to the host, and a copy to the host is a
//! ticket ([`Copied`]) that is waited for when the batch is through ([`Host::wait`]). On the host's
//! own processor a copy is a borrow, and there is nothing to wait for.
//!
//! **Failing.** A device that is lost, or has no memory left, *has failed*: its operations do
//! nothing from then on, and every function that returns its error ([`Device::Error`]) returns it.
//! No result of a failed device reaches the host, because each goes through such a function.

use core::fmt;
use std::borrow::Cow;

use crate::experts::Choice;
use crate::feed_forward::Rule;
use crate::kv::{KvCache, ReadKv};
use crate::matrix::Packed;
use crate::norm::{HeadNorms, Norm};
use crate::num::Overflow;
use crate::plan::{Activation, AttentionPlan};
use crate::state::State;

/// The place of a batch's row: the cache that it belongs to, and its absolute position there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index into the caches given with the batch.
    pub slot: usize,
    /// Absolute position in the session.
    pub position: usize,
}

/// The parts of a layer's plan that attention uses; `V` and `R` are a device's [`Device::Vector`]
/// and [`Device::Rope`].
#[derive(Debug)]
pub struct AttentionLayer<'a, V = Vec<f32>, R = Vec<u64>> {
    /// The heads, their sizes, the window and the scale.
    pub plan: &'a AttentionPlan,
    /// Turn per position of each rotated pair, in units of 2^-64.
    pub rope: &'a R,
    /// Normalisation of query and key heads, before they are rotated.
    pub norms: Option<&'a HeadNorms<V>>,
    /// The layer's index in the caches.
    pub index: usize,
}

impl<V, R> Clone for AttentionLayer<'_, V, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V, R> Copy for AttentionLayer<'_, V, R> {}

/// [`AttentionLayer`] with the vectors of a device.
pub type AttentionOf<'a, D> = AttentionLayer<'a, <D as Device>::Vector, <D as Device>::Rope>;

/// The operations between the products, and the types of what they work on.
///
/// All that they work on is in associated types, so that a backend may keep it anywhere. Output
/// arguments are resized by the callee, which lets a caller reuse their memory.
pub trait Device {
    /// Rows of block-i16: what crosses the boundary of a layer.
    type State: Default;
    /// Rows of f32 numbers in the device's memory.
    type Rows: Default;
    /// Rows of quantised numbers with one or more scales per row.
    type Codes: Default;
    /// Rows of exact sums in the device's memory.
    type Sums: Default;
    /// Which rows of a batch have overflowed.
    type Flags;
    /// The f32 of weights: gains, biases, and the scales of a matrix's rows.
    type Vector;
    /// Turn per position of each rotated pair, in units of 2^-64.
    type Rope;
    /// The cache of keys and values of one session.
    type Kv: KvCache;
    /// The error with which the device fails. `Infallible` for a device that cannot fail.
    type Error: core::error::Error + Send + Sync + 'static;

    /// Brackets the operations of one layer, so that workers can stay awake inside.
    fn scope<R>(&self, body: impl FnOnce() -> R) -> R {
        body()
    }

    /// Writes the embedding rows of `tokens` (ids below the table's rows) times `scale` to `out`,
    /// as states: `(f32(weight) · row_scale) · scale`, block-i16.
    fn embed(&self, table: &Packed, scale: f32, tokens: &[u32], out: &mut Self::State);

    /// Copies the rows of `from` at `indexes`, in that order.
    fn select_state(&self, from: &Self::State, indexes: &[usize]) -> Self::State;

    /// Flags the rows of `state` that are overflow markers.
    fn flags(&self, state: &Self::State) -> Self::Flags;

    /// Copies the flags of the rows at `indexes`, in that order.
    fn select_flags(&self, from: &Self::Flags, indexes: &[usize]) -> Self::Flags;

    /// Flags the row `indexes[i]` in `out` for every flagged row `i` of `from`.
    fn merge_flags(&self, from: &Self::Flags, indexes: &[usize], out: &mut Self::Flags);

    /// Writes the RMS normalisation of states to `out`: `(x · r) · gain` with
    /// `r = 1/sqrt(mean(x²) + eps)`, where the sum of squares is an integer sum over block
    /// mantissas.
    fn norm(&self, x: &Self::State, eps: f32, gain: &Self::Vector, out: &mut Self::Rows);

    /// Normalises f32 rows in place, which first become block-i16: as [`Device::norm`] of that
    /// state. A row that overflows becomes zeros and is flagged.
    fn norm_rows(
        &self,
        eps: f32,
        gain: &Self::Vector,
        rows: &mut Self::Rows,
        flags: &mut Self::Flags,
    );

    /// Quantises each row of `x` to ±32512 with one scale.
    fn quantise(&self, x: &Self::Rows, out: &mut Self::Codes, flags: &mut Self::Flags);

    /// Does [`Device::norm`] to `rows`, then [`Device::quantise`] of them: a backend may fuse them.
    fn norm_quantise(
        &self,
        x: &Self::State,
        norm: &Norm<Self::Vector>,
        rows: &mut Self::Rows,
        out: &mut Self::Codes,
        flags: &mut Self::Flags,
    ) {
        self.norm(x, norm.eps, &norm.gain, rows);
        self.quantise(rows, out, flags);
    }

    /// Writes `f32(sum) · (row_scale · token_scale)` to `out` for every sum; `scales` are the row
    /// scales of the matrix, `x` has the scales of its inputs.
    fn dequant(
        &self,
        sums: &Self::Sums,
        x: &Self::Codes,
        scales: &Self::Vector,
        out: &mut Self::Rows,
    );

    /// Adds one number per column to every row.
    fn add_bias(&self, bias: &Self::Vector, rows: &mut Self::Rows);

    /// Splits fused query, key and value rows, normalises the heads of queries and keys if the
    /// layer says so, rotates them to their positions, quantises all three per head, appends keys
    /// and values to the caches, and returns the queries of the rows `wanted` (increasing indexes)
    /// with their scales times the layer's score scale.
    #[expect(clippy::too_many_arguments, reason = "one fused step; splitting it would copy rows")]
    fn append(
        &self,
        layer: AttentionOf<'_, Self>,
        qkv: &Self::Rows,
        places: &[Place],
        wanted: &[usize],
        caches: &mut [&mut Self::Kv],
        queries: &mut Self::Codes,
        flags: &mut Self::Flags,
    );

    /// Writes the attention of each query over the positions up to its own, in the plan's window,
    /// to `out`.
    fn attend(
        &self,
        layer: AttentionOf<'_, Self>,
        queries: &Self::Codes,
        places: &[Place],
        caches: &[&mut Self::Kv],
        out: &mut Self::Rows,
        flags: &mut Self::Flags,
    );

    /// Writes `activation(gate) · up` of fused gate and up rows to `out`.
    fn gate(&self, activation: Activation, gate_up: &Self::Rows, out: &mut Self::Rows);

    /// Does [`Device::gate`] to `rows`, then [`Device::quantise`] of them: a backend may fuse them.
    fn gate_quantise(
        &self,
        activation: Activation,
        gate_up: &Self::Rows,
        rows: &mut Self::Rows,
        out: &mut Self::Codes,
        flags: &mut Self::Flags,
    ) {
        self.gate(activation, gate_up, rows);
        self.quantise(rows, out, flags);
    }

    /// Makes `out` `rows` rows of zeros, each with `width` elements.
    fn zero_rows(&self, rows: usize, width: usize, out: &mut Self::Rows);

    /// Copies the rows of `from` at `indexes`, in that order, to `out`.
    fn select_rows(&self, from: &Self::Rows, indexes: &[usize], out: &mut Self::Rows);

    /// Adds `weights[i] · rows[i]` to `out[indexes[i]]`, for every i: the product is rounded, then
    /// the sum. `indexes` increase.
    fn accumulate(
        &self,
        rows: &Self::Rows,
        indexes: &[usize],
        weights: &[f32],
        out: &mut Self::Rows,
    );

    /// Adds `sigmoid(gates[i]) · rows[i]` to `out[i]`, for every i, rounded as
    /// [`Device::accumulate`] does; `gates` has one number a row.
    fn accumulate_gated(&self, rows: &Self::Rows, gates: &Self::Rows, out: &mut Self::Rows);

    /// Writes `x + delta` to `out` as states; the overflow marker for flagged rows and for rows
    /// that overflow here, which are flagged too.
    fn residual(
        &self,
        x: &Self::State,
        delta: &Self::Rows,
        out: &mut Self::State,
        flags: &mut Self::Flags,
    );

    /// Does [`Device::residual`] to `sum`, then [`Device::norm_quantise`] of it: a backend may fuse
    /// them.
    #[expect(clippy::too_many_arguments, reason = "three steps that each row goes through alone")]
    fn residual_norm_quantise(
        &self,
        x: &Self::State,
        delta: &Self::Rows,
        sum: &mut Self::State,
        norm: &Norm<Self::Vector>,
        rows: &mut Self::Rows,
        out: &mut Self::Codes,
        flags: &mut Self::Flags,
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
    /// The device that computes everything between the products, and reads it.
    type Device: Host;
    /// A weight matrix that has been prepared for products.
    type Matrix;
    /// Why a product could not be had: the device has failed, or an audit, which checks a claimed
    /// product instead of computing it, refuses it. `Infallible` for products that are always
    /// computed.
    type Error: From<<Self::Device as Device>::Error> + fmt::Display;

    /// Returns the device that the inputs of these products come from and their sums go to.
    fn device(&self) -> &Self::Device;

    /// Computes the exact sums `Σ_k w[n][k] · x[k]` of every row of `x`, as integers, into `out`.
    ///
    /// # Errors
    /// [`Products::Error`].
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
        scales: &VectorOf<Self>,
        x: &CodesOf<Self>,
        sums: &mut SumsOf<Self>,
        out: &mut RowsOf<Self>,
    ) -> Result<(), Self::Error> {
        self.matmul(weights, x, sums)?;
        self.device().dequant(sums, x, scales, out);
        Ok(())
    }
}

/// States on the device of some products.
pub type StateOf<O> = <<O as Products>::Device as Device>::State;
/// Rows of f32 on the device of some products.
pub type RowsOf<O> = <<O as Products>::Device as Device>::Rows;
/// The inputs of some products, on their device.
pub type CodesOf<O> = <<O as Products>::Device as Device>::Codes;
/// The sums of some products, on their device.
pub type SumsOf<O> = <<O as Products>::Device as Device>::Sums;
/// Which rows have overflowed, on the device of some products.
pub type FlagsOf<O> = <<O as Products>::Device as Device>::Flags;
/// The f32 of weights, on the device of some products.
pub type VectorOf<O> = <<O as Products>::Device as Device>::Vector;
/// The turns of rotated pairs, on the device of some products.
pub type RopeOf<O> = <<O as Products>::Device as Device>::Rope;
/// The keys and values of one session, on the device of some products.
pub type KvOf<O> = <<O as Products>::Device as Device>::Kv;

/// A copy of a device's numbers to the host; `K` is the ticket of one that is under way.
pub enum Copied<'a, T: ToOwned + ?Sized, K> {
    /// The numbers are in the host's memory.
    Here(Cow<'a, T>),
    /// The device copies them after what it was told before, and before what it is told next.
    /// [`Host::wait`] gives them.
    UnderWay(K),
}

/// A copy of a `T` that the device `D` makes.
pub type CopiedOf<'a, D, T> = Copied<'a, T, <D as Host>::Ticket<<T as ToOwned>::Owned>>;

/// Reads the canonical rows at `places` of a layer of some caches, one after the other.
#[must_use]
pub fn read_kv<K: ReadKv>(caches: &[&mut K], layer: usize, places: &[Place]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for place in places {
        caches[place.slot].read_row(layer, place.position, &mut bytes);
    }
    bytes
}

/// The exchange of what a device holds with the host's memory.
///
/// What goes to the host is taken, which starts a copy, and waited for: later where that is
/// possible, at once by the functions that are named `read`.
pub trait Host: Device {
    /// The ticket of a copy under way that gives a `T`. `Infallible` where copies are borrows.
    type Ticket<T>;

    /// Waits for a copy that is under way.
    ///
    /// # Errors
    /// The device has failed.
    fn wait<T>(&self, ticket: Self::Ticket<T>) -> Result<T, Self::Error>;

    /// Waits for a copy, if it is not there already.
    ///
    /// # Errors
    /// As [`Host::wait`].
    fn arrived<'a, T: ToOwned + ?Sized>(
        &self,
        copied: CopiedOf<'a, Self, T>,
    ) -> Result<Cow<'a, T>, Self::Error> {
        match copied {
            Copied::Here(numbers) => Ok(numbers),
            Copied::UnderWay(ticket) => self.wait(ticket).map(Cow::Owned),
        }
    }

    /// Takes in a vector of f32 that belongs to weights.
    ///
    /// # Errors
    /// The device has failed.
    fn put_vector(&self, values: Vec<f32>) -> Result<Self::Vector, Self::Error>;

    /// Takes in the turns of rotated pairs.
    ///
    /// # Errors
    /// The device has failed.
    fn put_rope(&self, turns: Vec<u64>) -> Result<Self::Rope, Self::Error>;

    /// Takes states into the device's memory.
    ///
    /// # Errors
    /// The device has failed.
    fn put_state(&self, state: State) -> Result<Self::State, Self::Error>;

    /// Starts a copy of states to the host.
    fn take_state<'a>(&self, state: &'a Self::State) -> CopiedOf<'a, Self, State>;

    /// Starts a copy of the canonical KV rows at `places` of the layer with the index `layer` in
    /// the caches, one after the other.
    fn take_kv(
        &self,
        caches: &[&mut Self::Kv],
        layer: usize,
        places: &[Place],
    ) -> CopiedOf<'static, Self, [u8]>;

    /// Starts a copy of f32 rows, row after row.
    fn take_rows<'a>(&self, rows: &'a Self::Rows) -> CopiedOf<'a, Self, [f32]>;

    /// Starts a copy of codes, row after row.
    fn take_codes<'a>(&self, codes: &'a Self::Codes) -> CopiedOf<'a, Self, [i16]>;

    /// Starts a copy of sums, row after row.
    fn take_sums<'a>(&self, sums: &'a Self::Sums) -> CopiedOf<'a, Self, [i64]>;

    /// Waits for a copy of states, and returns it.
    ///
    /// # Errors
    /// As [`Host::wait`].
    fn read_state<'a>(&self, state: &'a Self::State) -> Result<Cow<'a, State>, Self::Error> {
        self.arrived::<State>(self.take_state(state))
    }

    /// Reads f32 rows, row after row.
    ///
    /// # Errors
    /// As [`Host::wait`].
    fn read_rows<'a>(&self, rows: &'a Self::Rows) -> Result<Cow<'a, [f32]>, Self::Error> {
        self.arrived::<[f32]>(self.take_rows(rows))
    }

    /// Reads codes, row after row.
    ///
    /// # Errors
    /// As [`Host::wait`].
    fn read_codes<'a>(&self, codes: &'a Self::Codes) -> Result<Cow<'a, [i16]>, Self::Error> {
        self.arrived::<[i16]>(self.take_codes(codes))
    }

    /// Reads sums, row after row.
    ///
    /// # Errors
    /// As [`Host::wait`].
    fn read_sums<'a>(&self, sums: &'a Self::Sums) -> Result<Cow<'a, [i64]>, Self::Error> {
        self.arrived::<[i64]>(self.take_sums(sums))
    }

    /// Reads rows of `width` logits, each on its own; `Err(Overflow)` for rows that are flagged or
    /// in which a logit is too large.
    ///
    /// # Errors
    /// As [`Host::wait`].
    fn read_logits(
        &self,
        rows: &Self::Rows,
        width: usize,
        flags: &Self::Flags,
    ) -> Result<Vec<Result<Vec<f32>, Overflow>>, Self::Error>;

    /// Reads `experts` router logits a row and decides which experts each row goes to by
    /// [`Choice::new`]. This is the one result that the host needs within a layer: it says which
    /// products come next, and on which rows.
    ///
    /// # Errors
    /// As [`Host::wait`].
    fn choose(
        &self,
        rule: Rule,
        experts: usize,
        logits: &Self::Rows,
        flags: &mut Self::Flags,
    ) -> Result<Choice, Self::Error>;

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

    /// Computes what [`FieldDots::field_dots_i64`] computes, for 16-bit values.
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
