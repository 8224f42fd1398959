//! The one forward pass: serving, committing, auditing and replaying all call it.
//!
//! It runs a span of layers over a batch of rows, each of which belongs to an absolute position of
//! some session. The result of a row depends on that session alone: how rows are batched, chunked
//! or spread over spans cannot change a bit.

use crate::experts::Choice;
use crate::feed_forward::{Experts, FeedForward, Gated};
use crate::flags::Flags;
use crate::names::ProductName;
use crate::norm::Norm;
use crate::num::{self, Overflow};
use crate::ops::{AttentionLayer, Device, Host, KvOf, Place, Products, SumsOf};
use crate::state::State;
use crate::weights::{HeadWeights, LayerWeights, Product};

/// One row of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Session slot and absolute position.
    pub place: Place,
    /// Whether the model's last layer must give a state for the head here.
    pub feeds_head: bool,
}

/// Sees every named intermediate of a forward pass on a device, in order. `()` sees nothing.
pub trait Probe<D: Device> {
    /// Whether [`Probe::sums`] looks at sums: if not, it is not called and sums need not be kept.
    const SEES_SUMS: bool = true;

    /// The exact sums of a product, one row per entry of `rows`. Experts come in increasing order,
    /// each with the rows that chose it, in the order of the batch.
    fn sums(
        &mut self,
        _device: &D,
        _layer: u32,
        _name: ProductName,
        _rows: &[Row],
        _sums: &D::Sums,
    ) {
    }

    /// Keys and values have been appended for `rows`; `index` is the layer's index in the caches.
    fn kv(&mut self, _layer: u32, _index: usize, _rows: &[Row], _caches: &[&mut D::Kv]) {}

    /// The router of a layer has chosen the experts that the rows of `choice` go to.
    fn choice(&mut self, _layer: u32, _choice: &Choice) {}

    /// The state between attention and feed-forward part.
    fn middle(&mut self, _layer: u32, _rows: &[Row], _state: &State) {}

    /// The state after the layer; in the last layer only of rows that feed the head.
    fn state(&mut self, _layer: u32, _rows: &[Row], _state: &State) {}
}

impl<D: Device> Probe<D> for () {
    const SEES_SUMS: bool = false;
}

/// Buffers that a forward pass reuses from call to call.
pub struct Scratch<D: Device> {
    rows: D::Rows,
    wide: D::Rows,
    /// What experts get, and the sum of what they give.
    input: D::Rows,
    mixed: D::Rows,
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
/// What [`Products::matmul`] refuses.
pub fn forward<O: Products, P: Probe<O::Device>>(
    ops: &O,
    layers: &[LayerWeights<O::Matrix>],
    rows: &[Row],
    caches: &mut [&mut KvOf<O>],
    mut state: State,
    scratch: &mut Scratch<O::Device>,
    probe: &mut P,
) -> Result<State, O::Error> {
    for (index, weights) in layers.iter().enumerate() {
        let mut layer = Layer { ops, weights, index, scratch, probe };
        state = ops.device().scope(|| layer.run(rows, caches, state))?;
    }
    Ok(state)
}

/// One layer of a forward pass.
struct Layer<'a, O: Products, P> {
    ops: &'a O,
    weights: &'a LayerWeights<O::Matrix>,
    index: usize,
    scratch: &'a mut Scratch<O::Device>,
    probe: &'a mut P,
}

impl<O: Products, P: Probe<O::Device>> Layer<'_, O, P> {
    fn run(
        &mut self,
        rows: &[Row],
        caches: &mut [&mut KvOf<O>],
        state: State,
    ) -> Result<State, O::Error> {
        let mut flags = Flags::of(&state);
        let wanted: Vec<usize> =
            (0..rows.len()).filter(|&row| !self.weights.is_last || rows[row].feeds_head).collect();
        self.append(rows, &wanted, caches, &state, &mut flags)?;
        let selected: Vec<Row> = wanted.iter().map(|&row| rows[row]).collect();
        let (state, mut flags) = if wanted.len() == rows.len() {
            (state, flags)
        } else {
            (state.select(&wanted), flags.select(&wanted))
        };
        if selected.is_empty() {
            return Ok(state);
        }
        let middle = self.attend(&selected, caches, &state, &mut flags)?;
        let out = self.feed_forward(&selected, &middle, &mut flags)?;
        self.probe.state(self.weights.layer, &selected, &out);
        Ok(out)
    }

    /// Normalise, multiply by qkv, rotate, quantise, append to the caches.
    fn append(
        &mut self,
        rows: &[Row],
        wanted: &[usize],
        caches: &mut [&mut KvOf<O>],
        state: &State,
        flags: &mut Flags,
    ) -> Result<(), O::Error> {
        let weights = self.weights;
        let Scratch { rows: normal, codes, .. } = &mut *self.scratch;
        self.ops.device().norm_quantise(state, &weights.parts.attention_norm, normal, codes, flags);
        self.product_of_codes(ProductName::Qkv, rows, &weights.parts.qkv)?;
        let places: Vec<Place> = rows.iter().map(|row| row.place).collect();
        let Scratch { rows: qkv, queries, .. } = &mut *self.scratch;
        self.ops.device().append(
            attention(weights, self.index),
            qkv,
            &places,
            wanted,
            caches,
            queries,
            flags,
        );
        self.probe.kv(weights.layer, self.index, rows, caches);
        Ok(())
    }

    /// Attention and its output product, added to the state. What the feed-forward part takes of
    /// the sum is in `scratch.rows` and `scratch.codes` afterwards.
    fn attend(
        &mut self,
        rows: &[Row],
        caches: &[&mut KvOf<O>],
        state: &State,
        flags: &mut Flags,
    ) -> Result<State, O::Error> {
        let weights = self.weights;
        let places: Vec<Place> = rows.iter().map(|row| row.place).collect();
        let Scratch { rows: out, queries, .. } = &mut *self.scratch;
        self.ops.device().attend(
            attention(weights, self.index),
            queries,
            &places,
            caches,
            out,
            flags,
        );
        self.product(ProductName::Output, rows, &weights.parts.output, flags)?;
        self.post_norm(weights.parts.post_norms.as_ref().map(|norms| &norms.attention), flags);
        let mut middle = State::default();
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
        self.probe.middle(weights.layer, rows, &middle);
        Ok(middle)
    }

    /// The feed-forward part of what [`Layer::attend`] has left, added to the state.
    fn feed_forward(
        &mut self,
        rows: &[Row],
        middle: &State,
        flags: &mut Flags,
    ) -> Result<State, O::Error> {
        let weights = self.weights;
        match &weights.parts.feed_forward {
            FeedForward::Dense(of) => self.gated(ProductName::DENSE, rows, of, flags)?,
            FeedForward::Experts(of) => self.experts(rows, of, flags)?,
        }
        self.post_norm(weights.parts.post_norms.as_ref().map(|norms| &norms.ffn), flags);
        let mut out = State::default();
        self.ops.device().residual(middle, &self.scratch.rows, &mut out, flags);
        Ok(out)
    }

    /// Puts `scratch.codes` through a gated part and leaves the result in `scratch.rows`.
    fn gated(
        &mut self,
        [gate_up, down]: [ProductName; 2],
        rows: &[Row],
        of: &Gated<Product<O::Matrix>>,
        flags: &mut Flags,
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
        of: &Experts<Product<O::Matrix>>,
        flags: &mut Flags,
    ) -> Result<(), O::Error> {
        let device = self.ops.device();
        let width = self.weights.parts.ffn_norm.gain.len();
        let all: Vec<usize> = (0..rows.len()).collect();
        std::mem::swap(&mut self.scratch.rows, &mut self.scratch.input);
        device.zero_rows(rows.len(), width, &mut self.scratch.mixed);
        self.product_of_codes(ProductName::Router, rows, &of.router)?;
        let choice = device.choose(of.rule, of.experts.len(), &self.scratch.rows, flags);
        self.probe.choice(self.weights.layer, &choice);
        for group in choice.groups(of.experts.len()) {
            let Some(expert) = of.experts.get(group.expert as usize) else { continue };
            let names = ProductName::of_expert(group.expert);
            self.gated_of_input(names, rows, &group.rows, expert, flags)?;
            let Scratch { rows: given, mixed, .. } = &mut *self.scratch;
            device.accumulate(given, &group.rows, &group.weights, mixed);
        }
        if let Some(shared) = &of.shared {
            self.product_of_input(ProductName::SharedGate, rows, &shared.gate, flags)?;
            let gates = device.read_rows(&self.scratch.rows);
            let weights: Vec<f32> = gates.iter().map(|&gate| num::sigmoid(gate)).collect();
            self.gated_of_input(ProductName::SHARED, rows, &all, &shared.gated, flags)?;
            let Scratch { rows: given, mixed, .. } = &mut *self.scratch;
            device.accumulate(given, &all, &weights, mixed);
        }
        std::mem::swap(&mut self.scratch.rows, &mut self.scratch.mixed);
        Ok(())
    }

    /// As [`Layer::product`], of `scratch.input`.
    fn product_of_input(
        &mut self,
        name: ProductName,
        rows: &[Row],
        product: &Product<O::Matrix>,
        flags: &mut Flags,
    ) -> Result<(), O::Error> {
        let all: Vec<usize> = (0..rows.len()).collect();
        let Scratch { rows: input, input: from, .. } = &mut *self.scratch;
        self.ops.device().select_rows(from, &all, input);
        self.product(name, rows, product, flags)
    }

    /// As [`Layer::gated`], of the rows of `scratch.input` at `members`.
    fn gated_of_input(
        &mut self,
        names: [ProductName; 2],
        rows: &[Row],
        members: &[usize],
        of: &Gated<Product<O::Matrix>>,
        flags: &mut Flags,
    ) -> Result<(), O::Error> {
        let Scratch { rows: input, input: from, .. } = &mut *self.scratch;
        self.ops.device().select_rows(from, members, input);
        let rows: Vec<Row> = members.iter().map(|&member| rows[member]).collect();
        let mut own = flags.select(members);
        let Scratch { rows: input, codes, .. } = &mut *self.scratch;
        self.ops.device().quantise(input, codes, &mut own);
        self.gated(names, &rows, of, &mut own)?;
        let flagged = members.iter().enumerate().filter(|(at, _)| own.get(*at));
        flagged.for_each(|(_, &member)| flags.set(member));
        Ok(())
    }

    /// Quantises `scratch.rows`, multiplies, and leaves the dequantised result in `scratch.rows`.
    fn product(
        &mut self,
        name: ProductName,
        rows: &[Row],
        product: &Product<O::Matrix>,
        flags: &mut Flags,
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
        product: &Product<O::Matrix>,
    ) -> Result<(), O::Error> {
        let (ops, layer) = (self.ops, self.weights.layer);
        let probe = &mut *self.probe;
        let see = |sums: &SumsOf<O>| probe.sums(ops.device(), layer, name, rows, sums);
        multiply::<O, P>(ops, product, self.scratch, see)?;
        if let Some(bias) = &product.bias {
            ops.device().add_bias(bias, &mut self.scratch.rows);
        }
        Ok(())
    }

    /// Normalises `scratch.rows` if the plan says so.
    fn post_norm(&mut self, norm: Option<&Norm>, flags: &mut Flags) {
        if let Some(norm) = norm {
            self.ops.device().norm_rows(norm.eps, &norm.gain, &mut self.scratch.rows, flags);
        }
    }
}

const fn attention<M>(weights: &LayerWeights<M>, index: usize) -> AttentionLayer<'_> {
    AttentionLayer {
        plan: &weights.plan.attention,
        rope: weights.rope.as_slice(),
        norms: weights.parts.head_norms.as_ref(),
        index,
    }
}

/// Multiplies `scratch.codes`, lets `see` see the sums if `P` does, and leaves the dequantised
/// result in `scratch.rows`.
fn multiply<O: Products, P: Probe<O::Device>>(
    ops: &O,
    product: &Product<O::Matrix>,
    scratch: &mut Scratch<O::Device>,
    see: impl FnOnce(&SumsOf<O>),
) -> Result<(), O::Error> {
    let Scratch { rows, codes, sums, .. } = scratch;
    if !P::SEES_SUMS {
        return ops.product(&product.matrix, &product.scales, codes, sums, rows);
    }
    ops.matmul(&product.matrix, codes, sums)?;
    see(sums);
    ops.device().dequant(sums, codes, &product.scales, rows);
    Ok(())
}

/// The head's logits for every row of `state`, row after row; `vocabulary` numbers each.
///
/// A row whose state is the overflow marker, or that overflows here, gives `Err(Overflow)` in its
/// place.
///
/// # Errors
/// What [`Products::matmul`] refuses.
pub fn logits<O: Products, P: Probe<O::Device>>(
    ops: &O,
    head: &HeadWeights<O::Matrix>,
    rows: &[Row],
    state: &State,
    scratch: &mut Scratch<O::Device>,
    probe: &mut P,
) -> Result<Vec<Result<Vec<f32>, Overflow>>, O::Error> {
    let mut flags = Flags::of(state);
    let device = ops.device();
    device.scope(|| {
        let Scratch { rows: normal, codes, .. } = &mut *scratch;
        device.norm_quantise(state, &head.norm, normal, codes, &mut flags);
        let see = |sums: &SumsOf<O>| probe.sums(device, u32::MAX, ProductName::Logits, rows, sums);
        multiply::<O, P>(ops, &head.output, scratch, see)?;
        Ok(device.read_logits(&scratch.rows, head.output.scales.len(), &flags))
    })
}
