//! The one forward pass: serving, committing, auditing and replaying all call it.
//!
//! It runs a span of layers over a batch of rows, each of which belongs to an absolute position of
//! some session. The result of a row depends on that session alone: how rows are batched, chunked
//! or spread over spans cannot change a bit.

use crate::feed_forward::{Experts, FeedForward, Gated};
use crate::names::ProductName;
use crate::norm::Norm;
use crate::num::Overflow;
use crate::ops::{
    AttentionOf, Device, FlagsOf, Host as _, KvOf, Place, Products, StateOf, SumsOf, VectorOf,
};
use crate::probe::Watch;
use crate::weights::{Backend, HeadOf, LayerOf, ProductOf};

pub use crate::probe::{Probe, Row, Sees};

/// Buffers that a forward pass reuses from call to call.
pub struct Scratch<D: Device> {
    rows: D::Rows,
    wide: D::Rows,
    /// The inputs of experts, and, in `mixed`, the sum of their weighted outputs.
    input: D::Rows,
    mixed: D::Rows,
    /// The numbers whose sigmoid is the weight of a shared expert.
    gates: D::Rows,
    codes: D::Codes,
    queries: D::Codes,
    sums: D::Sums,
}

impl<D: Device> Default for Scratch<D> {
    fn default() -> Self {
        Self {
            rows: D::Rows::default(),
            wide: D::Rows::default(),
            input: D::Rows::default(),
            mixed: D::Rows::default(),
            gates: D::Rows::default(),
            codes: D::Codes::default(),
            queries: D::Codes::default(),
            sums: D::Sums::default(),
        }
    }
}

/// Runs `layers` over a batch. `state` holds one row per entry of `rows`; rows of one session come
/// with increasing positions and no gap after what its cache holds.
///
/// Returns the state after the span: one row per entry of `rows`, or, if the span ends with the
/// model's last layer, one per entry that feeds the head. Rows that overflowed are overflow
/// markers.
///
/// # Errors
/// [`Products::Error`]: a product that is refused, or a device that has failed.
pub fn forward<O: Products, P: Probe>(
    ops: &O,
    layers: &[LayerOf<O>],
    rows: &[Row],
    caches: &mut [&mut KvOf<O>],
    mut state: StateOf<O>,
    scratch: &mut Scratch<O::Device>,
    probe: &mut P,
) -> Result<StateOf<O>, O::Error> {
    let mut watch = Watch::new(ops.device(), probe);
    for (index, weights) in layers.iter().enumerate() {
        let mut layer = Layer { ops, weights, index, scratch, watch: &mut watch };
        state = ops.device().scope(|| layer.run(rows, caches, state))?;
    }
    watch.finish()?;
    Ok(state)
}

/// Does what [`forward`] does, at once where the backend can ([`Backend::span`]): what serving
/// calls.
///
/// # Errors
/// As [`forward`].
pub fn serve<O: Backend, P: Probe>(
    ops: &O,
    layers: &[LayerOf<O>],
    rows: &[Row],
    caches: &mut [&mut KvOf<O>],
    state: StateOf<O>,
    scratch: &mut Scratch<O::Device>,
    probe: &mut P,
) -> Result<StateOf<O>, O::Error> {
    match ops.span(layers, rows, caches, &state, probe)? {
        Some(state) => Ok(state),
        None => forward(ops, layers, rows, caches, state, scratch, probe),
    }
}

/// One layer of a forward pass, while it runs.
struct Layer<'a, 'b, O: Products, P> {
    ops: &'a O,
    weights: &'a LayerOf<O>,
    index: usize,
    scratch: &'a mut Scratch<O::Device>,
    watch: &'a mut Watch<'b, O::Device, P>,
}

impl<O: Products, P: Probe> Layer<'_, '_, O, P> {
    fn run(
        &mut self,
        rows: &[Row],
        caches: &mut [&mut KvOf<O>],
        state: StateOf<O>,
    ) -> Result<StateOf<O>, O::Error> {
        let mut flags = self.ops.device().flags(&state);
        let wanted: Vec<usize> =
            (0..rows.len()).filter(|&row| !self.weights.is_last || rows[row].feeds_head).collect();
        self.append(rows, &wanted, caches, &state, &mut flags)?;
        let selected: Vec<Row> = wanted.iter().map(|&row| rows[row]).collect();
        let (state, mut flags) = if wanted.len() == rows.len() {
            (state, flags)
        } else {
            let device = self.ops.device();
            (device.select_state(&state, &wanted), device.select_flags(&flags, &wanted))
        };
        if selected.is_empty() {
            return Ok(state);
        }
        let middle = self.attend(&selected, caches, &state, &mut flags)?;
        let out = self.feed_forward(&selected, &middle, &mut flags)?;
        self.watch.state(self.weights.layer, &selected, &out);
        Ok(out)
    }

    /// Normalises the state, multiplies it by qkv, rotates and quantises the result, and appends
    /// keys and values to the caches.
    fn append(
        &mut self,
        rows: &[Row],
        wanted: &[usize],
        caches: &mut [&mut KvOf<O>],
        state: &StateOf<O>,
        flags: &mut FlagsOf<O>,
    ) -> Result<(), O::Error> {
        let weights = self.weights;
        let Scratch { rows: normal, codes, .. } = &mut *self.scratch;
        self.ops.device().norm_quantise(state, &weights.parts.attention_norm, normal, codes, flags);
        self.product_of_codes(ProductName::Qkv, rows, &weights.parts.qkv)?;
        let places: Vec<Place> = rows.iter().map(|row| row.place).collect();
        let Scratch { rows: qkv, queries, .. } = &mut *self.scratch;
        self.ops.device().append(
            attention::<O>(weights, self.index),
            qkv,
            &places,
            wanted,
            caches,
            queries,
            flags,
        );
        self.watch.kv(weights.layer, self.index, rows, caches);
        Ok(())
    }

    /// Computes attention and its output product, and adds them to the state. The input of the
    /// feed-forward part is in `scratch.rows` and `scratch.codes` afterwards.
    fn attend(
        &mut self,
        rows: &[Row],
        caches: &[&mut KvOf<O>],
        state: &StateOf<O>,
        flags: &mut FlagsOf<O>,
    ) -> Result<StateOf<O>, O::Error> {
        let weights = self.weights;
        let places: Vec<Place> = rows.iter().map(|row| row.place).collect();
        let Scratch { rows: out, queries, .. } = &mut *self.scratch;
        self.ops.device().attend(
            attention::<O>(weights, self.index),
            queries,
            &places,
            caches,
            out,
            flags,
        );
        self.product(ProductName::Output, rows, &weights.parts.output, flags)?;
        self.post_norm(weights.parts.post_norms.as_ref().map(|norms| &norms.attention), flags);
        let mut middle = StateOf::<O>::default();
        let Scratch { rows: delta, wide: normal, codes, .. } = &mut *self.scratch;
        let norm = &weights.parts.ffn_norm;
        self.ops.device().residual_norm_quantise(
            state,
            delta,
            &mut middle,
            norm,
            normal,
            codes,
            flags,
        );
        std::mem::swap(delta, normal);
        self.watch.middle(weights.layer, rows, &middle);
        Ok(middle)
    }

    /// Computes the feed-forward part of what [`Layer::attend`] has left, and adds it to the state.
    fn feed_forward(
        &mut self,
        rows: &[Row],
        middle: &StateOf<O>,
        flags: &mut FlagsOf<O>,
    ) -> Result<StateOf<O>, O::Error> {
        let weights = self.weights;
        match &weights.parts.feed_forward {
            FeedForward::Dense(of) => self.gated(ProductName::DENSE, rows, of, flags)?,
            FeedForward::Experts(of) => self.experts(rows, of, flags)?,
        }
        self.post_norm(weights.parts.post_norms.as_ref().map(|norms| &norms.ffn), flags);
        let mut out = StateOf::<O>::default();
        self.ops.device().residual(middle, &self.scratch.rows, &mut out, flags);
        Ok(out)
    }

    /// Puts `scratch.codes` through a gated part and leaves the result in `scratch.rows`.
    fn gated(
        &mut self,
        [gate_up, down]: [ProductName; 2],
        rows: &[Row],
        of: &Gated<ProductOf<O>>,
        flags: &mut FlagsOf<O>,
    ) -> Result<(), O::Error> {
        self.product_of_codes(gate_up, rows, &of.gate_up)?;
        std::mem::swap(&mut self.scratch.rows, &mut self.scratch.wide);
        let Scratch { rows: gated, wide, codes, .. } = &mut *self.scratch;
        self.ops.device().gate_quantise(self.weights.plan.activation, wide, gated, codes, flags);
        self.product_of_codes(down, rows, &of.down)
    }

    /// Puts each row of `scratch.rows`, whose codes are in `scratch.codes`, through the experts
    /// that its router logits choose, and leaves the weighted sums there. Each expert takes all of
    /// its rows at once.
    fn experts(
        &mut self,
        rows: &[Row],
        of: &Experts<ProductOf<O>>,
        flags: &mut FlagsOf<O>,
    ) -> Result<(), O::Error> {
        let device = self.ops.device();
        let width = self.weights.hidden();
        let all: Vec<usize> = (0..rows.len()).collect();
        std::mem::swap(&mut self.scratch.rows, &mut self.scratch.input);
        device.zero_rows(rows.len(), width, &mut self.scratch.mixed);
        self.product_of_codes(ProductName::Router, rows, &of.router)?;
        let choice = device.choose(of.rule, of.experts.len(), &self.scratch.rows, flags)?;
        self.watch.probe.choice(self.weights.layer, &choice);
        for group in choice.groups(of.experts.len()) {
            let expert = &of.experts[group.expert as usize];
            let names = ProductName::of_expert(group.expert);
            self.gated_of_input(names, rows, &group.rows, expert, flags)?;
            let Scratch { rows: given, mixed, .. } = &mut *self.scratch;
            device.accumulate(given, &group.rows, &group.weights, mixed);
        }
        if let Some(shared) = &of.shared {
            self.product_of_input(ProductName::SharedGate, rows, &shared.gate, flags)?;
            std::mem::swap(&mut self.scratch.rows, &mut self.scratch.gates);
            self.gated_of_input(ProductName::SHARED, rows, &all, &shared.gated, flags)?;
            let Scratch { rows: given, gates, mixed, .. } = &mut *self.scratch;
            device.accumulate_gated(given, gates, mixed);
        }
        std::mem::swap(&mut self.scratch.rows, &mut self.scratch.mixed);
        Ok(())
    }

    /// Computes a product as [`Layer::product`] does, of `scratch.input`.
    fn product_of_input(
        &mut self,
        name: ProductName,
        rows: &[Row],
        product: &ProductOf<O>,
        flags: &mut FlagsOf<O>,
    ) -> Result<(), O::Error> {
        let all: Vec<usize> = (0..rows.len()).collect();
        let Scratch { rows: input, input: from, .. } = &mut *self.scratch;
        self.ops.device().select_rows(from, &all, input);
        self.product(name, rows, product, flags)
    }

    /// Computes a gated product as [`Layer::gated`] does, of the rows of `scratch.input` at
    /// `members`.
    fn gated_of_input(
        &mut self,
        names: [ProductName; 2],
        rows: &[Row],
        members: &[usize],
        of: &Gated<ProductOf<O>>,
        flags: &mut FlagsOf<O>,
    ) -> Result<(), O::Error> {
        let Scratch { rows: input, input: from, .. } = &mut *self.scratch;
        self.ops.device().select_rows(from, members, input);
        let rows: Vec<Row> = members.iter().map(|&member| rows[member]).collect();
        let mut own = self.ops.device().select_flags(flags, members);
        let Scratch { rows: input, codes, .. } = &mut *self.scratch;
        self.ops.device().quantise(input, codes, &mut own);
        self.gated(names, &rows, of, &mut own)?;
        self.ops.device().merge_flags(&own, members, flags);
        Ok(())
    }

    /// Quantises `scratch.rows`, multiplies, and leaves the dequantised result in `scratch.rows`.
    fn product(
        &mut self,
        name: ProductName,
        rows: &[Row],
        product: &ProductOf<O>,
        flags: &mut FlagsOf<O>,
    ) -> Result<(), O::Error> {
        let Scratch { rows: input, codes, .. } = &mut *self.scratch;
        self.ops.device().quantise(input, codes, flags);
        self.product_of_codes(name, rows, product)
    }

    /// Multiplies `scratch.codes` and leaves the dequantised result in `scratch.rows`.
    fn product_of_codes(
        &mut self,
        name: ProductName,
        rows: &[Row],
        product: &ProductOf<O>,
    ) -> Result<(), O::Error> {
        let (ops, layer) = (self.ops, self.weights.layer);
        let watch = &mut *self.watch;
        let see = |sums: &SumsOf<O>| watch.sums(layer, name, rows, sums);
        multiply::<O, P>(ops, product, self.scratch, see)?;
        if let Some(bias) = &product.bias {
            ops.device().add_bias(bias, &mut self.scratch.rows);
        }
        Ok(())
    }

    /// Normalises `scratch.rows` if the plan says so.
    fn post_norm(&mut self, norm: Option<&Norm<VectorOf<O>>>, flags: &mut FlagsOf<O>) {
        if let Some(norm) = norm {
            self.ops.device().norm_rows(norm.eps, &norm.gain, &mut self.scratch.rows, flags);
        }
    }
}

const fn attention<O: Products>(weights: &LayerOf<O>, index: usize) -> AttentionOf<'_, O::Device> {
    AttentionOf::<O::Device> {
        plan: &weights.plan.attention,
        rope: &weights.rope,
        norms: weights.parts.head_norms.as_ref(),
        index,
    }
}

/// Multiplies `scratch.codes`, lets `see` see the sums if `P` does, and leaves the dequantised
/// result in `scratch.rows`.
fn multiply<O: Products, P: Probe>(
    ops: &O,
    product: &ProductOf<O>,
    scratch: &mut Scratch<O::Device>,
    see: impl FnOnce(&SumsOf<O>),
) -> Result<(), O::Error> {
    let Scratch { rows, codes, sums, .. } = scratch;
    if !P::SEES.sums {
        return ops.product(&product.matrix, &product.scales, codes, sums, rows);
    }
    ops.matmul(&product.matrix, codes, sums)?;
    see(sums);
    ops.device().dequant(sums, codes, &product.scales, rows);
    Ok(())
}

/// Computes the head's logits for every row of `state`, in order, one number for each token id.
///
/// A row whose state is the overflow marker, or that overflows here, gives `Err(Overflow)` in its
/// place.
///
/// # Errors
/// [`Products::Error`]: a product that is refused, or a device that has failed.
pub fn logits<O: Products, P: Probe>(
    ops: &O,
    head: &HeadOf<O>,
    rows: &[Row],
    state: &StateOf<O>,
    scratch: &mut Scratch<O::Device>,
    probe: &mut P,
) -> Result<Vec<Result<Vec<f32>, Overflow>>, O::Error> {
    let device = ops.device();
    let mut flags = device.flags(state);
    let mut watch = Watch::new(device, probe);
    let logits = device.scope(|| -> Result<_, O::Error> {
        let Scratch { rows: normal, codes, .. } = &mut *scratch;
        device.norm_quantise(state, &head.norm, normal, codes, &mut flags);
        let see = |sums: &SumsOf<O>| watch.sums(u32::MAX, ProductName::Logits, rows, sums);
        multiply::<O, P>(ops, &head.output, scratch, see)?;
        Ok(device.read_logits(&scratch.rows, head.output_shape.rows, &flags)?)
    })?;
    watch.finish()?;
    Ok(logits)
}
