//! An ordinary f32 forward pass over a file's dequantised weights, against which quality is
//! measured.
//!
//! This is a measuring instrument, not part of any answer: it uses floating-point sums and the
//! platform's functions. It walks the importer's description of the model, for every family alike,
//! and takes weights as the file has them: not quantised again, not balanced. Nothing that serves
//! or verifies calls it.
#![expect(
    clippy::indexing_slicing,
    reason = "a measuring instrument: lengths are those of the model it has just read"
)]

use std::f64::consts::TAU;

use lockstep_exact::feed_forward::{Experts, FeedForward, Gated};
use lockstep_exact::norm::Norm;
use lockstep_exact::plan::Activation;
use lockstep_exact::tree::LayerTree;

use crate::families::{LayerTensors, Model, ProductTensors, Tensors};
use crate::gguf::GgufError;
use crate::package::{ModelError, ModelFile};

/// A model whose weights are dequantised to f32, for comparisons with the exact arithmetic.
pub struct FloatModel {
    model: Model,
    embedding: Dense,
    layers: Vec<FloatLayer>,
    norm: Norm,
    output: Option<Dense>,
}

struct FloatLayer {
    rope: Vec<u64>,
    window: usize,
    parts: LayerTree<Dense, Vec<f32>>,
}

/// A dense matrix of f32, row after row, and the bias of its products.
struct Dense {
    rows: usize,
    columns: usize,
    data: Vec<f32>,
    bias: Option<Vec<f32>>,
}

impl Dense {
    fn read(source: &ProductTensors<'_>) -> Result<Self, GgufError> {
        let [rows, columns] = source.size();
        let mut data = vec![0.0; rows * columns];
        for (out, (part, row)) in data.chunks_exact_mut(columns).zip(source.each_row()) {
            part.read(row, out)?;
        }
        Ok(Self { rows, columns, data, bias: source.bias.clone() })
    }

    fn row(&self, row: usize) -> &[f32] {
        &self.data[row * self.columns..(row + 1) * self.columns]
    }

    /// Computes `x · Wᵀ`, plus the bias, for rows of `columns` numbers; each row of weights is read
    /// once.
    fn multiply(&self, x: &[f32]) -> Vec<f32> {
        let count = x.len() / self.columns;
        let mut out = vec![0.0; count * self.rows];
        for (n, weights) in self.data.chunks_exact(self.columns).enumerate() {
            for (row, x) in x.chunks_exact(self.columns).enumerate() {
                out[row * self.rows + n] = dot(weights, x);
            }
        }
        if let Some(bias) = &self.bias {
            out.chunks_exact_mut(self.rows).for_each(|row| add(row, bias));
        }
        out
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0.0_f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = a_chunks.remainder().iter().zip(b_chunks.remainder());
    let tail: f32 = rest.map(|(a, b)| a * b).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f32>() + tail
}

impl FloatLayer {
    fn read(model: &Model, layer: usize, tensors: &LayerTensors<'_>) -> Result<Self, GgufError> {
        let (rope, window) = model.positions.layers[layer];
        Ok(Self {
            rope: model.positions.ropes[rope as usize].clone(),
            window: window as usize,
            parts: tensors.try_map(
                &mut (),
                |(), _, product| Dense::read(product),
                |(), _, vector| Ok::<_, GgufError>(vector.clone()),
            )?,
        })
    }
}

impl FloatModel {
    /// Reads a model file, and dequantises its weights.
    ///
    /// # Errors
    /// A tensor holds a number that is not finite.
    pub fn read(file: &ModelFile<'_>) -> Result<Self, ModelError> {
        let (gguf, model) = file.parts();
        let tensors = Tensors::new(gguf);
        let head = tensors.head(model)?;
        let layers = (0..model.layers)
            .map(|layer| {
                Ok(FloatLayer::read(model, layer as usize, &tensors.layer(model, layer)?)?)
            })
            .collect::<Result<Vec<_>, ModelError>>()?;
        let whole = |rows| Dense::read(&ProductTensors::of(vec![rows]));
        Ok(Self {
            model: model.clone(),
            embedding: whole(head.embedding)?,
            layers,
            norm: head.norm,
            output: head.output.map(whole).transpose()?,
        })
    }

    /// Returns the logits after every token of a text that starts at position 0.
    #[must_use]
    pub fn logits(&self, tokens: &[u32]) -> Vec<Vec<f32>> {
        self.logits_and_states(tokens, |_, _| ())
    }

    /// Returns the logits as [`FloatModel::logits`] does; `see` gets the states after each layer,
    /// row after row.
    #[must_use]
    pub fn logits_and_states(
        &self,
        tokens: &[u32],
        see: impl FnMut(usize, &[f32]),
    ) -> Vec<Vec<f32>> {
        self.rows_of_logits(&self.states(tokens, see))
    }

    /// Returns the number of elements of one state.
    #[must_use]
    pub const fn hidden(&self) -> usize {
        self.model.hidden as usize
    }

    /// Returns the states that the output matrix gets, row after row, of a text that starts at
    /// position 0; `see` gets the states after each layer.
    #[must_use]
    pub fn states(&self, tokens: &[u32], mut see: impl FnMut(usize, &[f32])) -> Vec<f32> {
        let mut x: Vec<f32> = Vec::new();
        for &token in tokens {
            let row = self.embedding.row(token as usize).iter();
            x.extend(row.map(|value| value * self.model.embedding_scale));
        }
        for (index, layer) in self.layers.iter().enumerate() {
            self.layer(layer, &mut x);
            see(index, &x);
        }
        normalise(&mut x, &self.norm);
        x
    }

    /// Returns the logits of some of these [`states`](Self::states): a row of as many numbers as
    /// there are token ids for each.
    #[must_use]
    pub fn rows_of_logits(&self, states: &[f32]) -> Vec<Vec<f32>> {
        let output = self.output.as_ref().unwrap_or(&self.embedding);
        output.multiply(states).chunks_exact(output.rows).map(<[f32]>::to_vec).collect()
    }

    fn layer(&self, layer: &FloatLayer, x: &mut [f32]) {
        let parts = &layer.parts;
        let fused = parts.qkv.multiply(&normalised(x, &parts.attention_norm));
        let [mut query, mut key, value] = self.split(&fused);
        if let Some(norms) = &parts.head_norms {
            normalise(&mut query, &norms.query);
            normalise(&mut key, &norms.key);
        }
        let model = &self.model;
        self.rotate(&mut query, model.query_width(), &layer.rope, model.positions.gain);
        self.rotate(&mut key, model.kv_width(), &layer.rope, 1.0);
        let mut attended = parts.output.multiply(&self.attend(layer, &query, &key, &value));
        if let Some(norms) = &parts.post_norms {
            normalise(&mut attended, &norms.attention);
        }
        add(x, &attended);
        let inputs = normalised(x, &parts.ffn_norm);
        let mut out = match &parts.feed_forward {
            FeedForward::Dense(gated) => self.gated(gated, &inputs),
            FeedForward::Experts(experts) => {
                let rows = inputs.chunks_exact(self.model.hidden as usize);
                rows.flat_map(|row| self.experts(experts, row)).collect()
            }
        };
        if let Some(norms) = &parts.post_norms {
            normalise(&mut out, &norms.ffn);
        }
        add(x, &out);
    }

    /// Returns queries, keys and values of all positions, out of rows that have them one after
    /// another.
    fn split(&self, fused: &[f32]) -> [Vec<f32>; 3] {
        let (queries, kv) = (self.model.query_width(), self.model.kv_width());
        let rows = || fused.chunks_exact(queries + 2 * kv);
        [(0, queries), (queries, kv), (queries + kv, kv)].map(|(first, count)| {
            rows().flat_map(|row| row[first..first + count].iter().copied()).collect()
        })
    }

    fn gated(&self, gated: &Gated<Dense>, x: &[f32]) -> Vec<f32> {
        let mut inner = Vec::new();
        for row in gated.gate_up.multiply(x).chunks_exact(gated.gate_up.rows) {
            let (gate, up) = row.split_at(row.len() / 2);
            inner.extend(gate.iter().zip(up).map(|(&gate, up)| self.activated(gate) * up));
        }
        gated.down.multiply(&inner)
    }

    /// Computes the feed-forward part of one row from the experts that it chooses.
    fn experts(&self, of: &Experts<Dense>, x: &[f32]) -> Vec<f32> {
        let logits = of.router.multiply(x);
        let top = logits.iter().fold(f32::NEG_INFINITY, |top, &logit| top.max(logit));
        let shares: Vec<f32> = logits.iter().map(|logit| (logit - top).exp()).collect();
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        let chosen = &order[..of.rule.used as usize];
        let total: f32 = match of.rule.normalise {
            true => chosen.iter().map(|&expert| shares[expert]).sum(),
            false => shares.iter().sum(),
        };
        let mut out = vec![0.0; x.len()];
        let mut add_weighted = |weight: f32, row: Vec<f32>| {
            out.iter_mut().zip(row).for_each(|(out, x)| *out += weight * x);
        };
        for &expert in chosen {
            add_weighted(shares[expert] / total, self.gated(&of.experts[expert], x));
        }
        if let Some(shared) = &of.shared {
            let weight = 1.0 / (1.0 + (-shared.gate.multiply(x)[0]).exp());
            add_weighted(weight, self.gated(&shared.gated, x));
        }
        out
    }

    fn activated(&self, x: f32) -> f32 {
        match self.model.family.activation {
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::GeluTanh => {
                let inner = (2.0 / std::f32::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
                0.5 * x * (1.0 + inner.tanh())
            }
        }
    }

    /// Rotates element `i` of each head with element `i + pairs`, and multiplies both by `gain`;
    /// a position has `width` elements.
    fn rotate(&self, x: &mut [f32], width: usize, rope: &[u64], gain: f32) {
        let (dim, pairs) = (self.model.head_dim as usize, rope.len());
        for (position, row) in x.chunks_exact_mut(width).enumerate() {
            for head in row.chunks_exact_mut(dim) {
                for (pair, &frequency) in rope.iter().enumerate() {
                    let turn = frequency as f64 / 18_446_744_073_709_551_616.0;
                    let angle = (position as f64 * turn).fract() * TAU;
                    let (sine, cosine) = (angle.sin() as f32 * gain, angle.cos() as f32 * gain);
                    let (a, b) = (head[pair], head[pair + pairs]);
                    head[pair] = a * cosine - b * sine;
                    head[pair + pairs] = b * cosine + a * sine;
                }
            }
        }
    }

    fn attend(&self, layer: &FloatLayer, query: &[f32], key: &[f32], value: &[f32]) -> Vec<f32> {
        let (heads, kv_heads) = (self.model.heads as usize, self.model.kv_heads as usize);
        let dim = self.model.head_dim as usize;
        let mut out = vec![0.0; query.len()];
        for (at, (q, out)) in query.chunks_exact(dim).zip(out.chunks_exact_mut(dim)).enumerate() {
            let (position, head) = (at / heads, at % heads);
            let kv = head * kv_heads / heads * dim;
            let past = |x: usize| x * kv_heads * dim + kv..x * kv_heads * dim + kv + dim;
            let first = match layer.window {
                0 => 0,
                window => (position + 1).saturating_sub(window),
            };
            let score = |x| dot(q, &key[past(x)]) * self.model.head_scale;
            let scores: Vec<f32> = (first..=position).map(score).collect();
            let top = scores.iter().fold(f32::NEG_INFINITY, |top, &score| top.max(score));
            let weights: Vec<f32> = scores.iter().map(|score| (score - top).exp()).collect();
            let total: f32 = weights.iter().sum();
            for (x, weight) in (first..).zip(&weights) {
                for (out, value) in out.iter_mut().zip(&value[past(x)]) {
                    *out += weight / total * value;
                }
            }
        }
        out
    }
}

/// Returns the rows of `x` normalised.
fn normalised(x: &[f32], norm: &Norm) -> Vec<f32> {
    let mut out = x.to_vec();
    normalise(&mut out, norm);
    out
}

/// Normalises rows of as many numbers as there are gains.
fn normalise(x: &mut [f32], norm: &Norm) {
    for row in x.chunks_exact_mut(norm.gain.len()) {
        let mean = row.iter().map(|x| x * x).sum::<f32>() / row.len() as f32;
        let r = 1.0 / (mean + norm.eps).sqrt();
        row.iter_mut().zip(&norm.gain).for_each(|(x, gain)| *x = *x * r * gain);
    }
}

fn add(x: &mut [f32], delta: &[f32]) {
    for (x, delta) in x.iter_mut().zip(delta) {
        *x += delta;
    }
}
