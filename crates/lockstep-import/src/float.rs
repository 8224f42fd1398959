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
use lockstep_exact::plan::Activation;

use crate::families::{HeadNorms, LayerTensors, Model, Rows, Stacked, Tensors};
use crate::gguf::GgufError;
use crate::package::{ModelError, ModelFile};

/// A model whose weights are dequantised to f32, for comparisons with the exact arithmetic.
pub struct FloatModel {
    model: Model,
    embedding: Dense,
    layers: Vec<FloatLayer>,
    norm: Vec<f32>,
    output: Option<Dense>,
}

struct FloatLayer {
    rope: Vec<u64>,
    window: usize,
    attention_norm: Vec<f32>,
    query: Dense,
    key: Dense,
    value: Dense,
    qkv_bias: Option<Vec<f32>>,
    head_norms: Option<HeadNorms>,
    output: Dense,
    output_bias: Option<Vec<f32>>,
    post_norms: Option<(Vec<f32>, Vec<f32>)>,
    ffn_norm: Vec<f32>,
    feed_forward: FeedForward<Dense>,
}

/// A dense matrix of f32, row after row.
struct Dense {
    rows: usize,
    columns: usize,
    data: Vec<f32>,
}

impl Dense {
    fn read(source: &Rows<'_>) -> Result<Self, GgufError> {
        Self::stacked(&Stacked(vec![*source]))
    }

    fn stacked(source: &Stacked<'_>) -> Result<Self, GgufError> {
        let [rows, columns] = source.size();
        let mut data = vec![0.0; rows * columns];
        let all = source.0.iter().flat_map(|part| (0..part.count).map(move |row| (part, row)));
        for (out, (part, row)) in data.chunks_exact_mut(columns).zip(all) {
            part.read(row, out)?;
        }
        Ok(Self { rows, columns, data })
    }

    fn row(&self, row: usize) -> &[f32] {
        &self.data[row * self.columns..(row + 1) * self.columns]
    }

    /// Computes `x · Wᵀ` for rows of `columns` numbers; each row of weights is read once.
    fn multiply(&self, x: &[f32]) -> Vec<f32> {
        let count = x.len() / self.columns;
        let mut out = vec![0.0; count * self.rows];
        for (n, weights) in self.data.chunks_exact(self.columns).enumerate() {
            for (row, x) in x.chunks_exact(self.columns).enumerate() {
                out[row * self.rows + n] = dot(weights, x);
            }
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
    fn read(model: &Model, layer: usize, tensors: LayerTensors<'_>) -> Result<Self, GgufError> {
        let (rope, window) = model.positions.layers[layer];
        Ok(Self {
            rope: model.positions.ropes[rope as usize].clone(),
            window: window as usize,
            query: Dense::read(&tensors.query)?,
            key: Dense::read(&tensors.key)?,
            value: Dense::read(&tensors.value)?,
            output: Dense::read(&tensors.output)?,
            feed_forward: tensors.feed_forward.try_map(|_, rows| Dense::stacked(rows))?,
            attention_norm: tensors.attention_norm,
            qkv_bias: tensors.qkv_bias,
            head_norms: tensors.head_norms,
            output_bias: tensors.output_bias,
            post_norms: tensors.post_norms,
            ffn_norm: tensors.ffn_norm,
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
            .map(|layer| Ok(FloatLayer::read(model, layer as usize, tensors.layer(model, layer)?)?))
            .collect::<Result<Vec<_>, ModelError>>()?;
        Ok(Self {
            model: model.clone(),
            embedding: Dense::read(&head.embedding)?,
            layers,
            norm: head.norm,
            output: head.output.as_ref().map(Dense::read).transpose()?,
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
        self.normalise(&mut x, &self.norm);
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
        let mut normalised = x.to_vec();
        self.normalise(&mut normalised, &layer.attention_norm);
        let mut query = layer.query.multiply(&normalised);
        let mut key = layer.key.multiply(&normalised);
        let mut value = layer.value.multiply(&normalised);
        if let Some(bias) = &layer.qkv_bias {
            let (of_query, rest) = bias.split_at(layer.query.rows);
            let (of_key, of_value) = rest.split_at(layer.key.rows);
            add_bias(&mut query, of_query);
            add_bias(&mut key, of_key);
            add_bias(&mut value, of_value);
        }
        if let Some(norms) = &layer.head_norms {
            self.normalise(&mut query, &norms.query);
            self.normalise(&mut key, &norms.key);
        }
        self.rotate(&mut query, layer.query.rows, &layer.rope, self.model.positions.gain);
        self.rotate(&mut key, layer.key.rows, &layer.rope, 1.0);
        let mut attended = layer.output.multiply(&self.attend(layer, &query, &key, &value));
        if let Some(bias) = &layer.output_bias {
            add_bias(&mut attended, bias);
        }
        let (of_attention, of_ffn) =
            layer.post_norms.as_ref().map(|(one, other)| (one, other)).unzip();
        if let Some(gain) = of_attention {
            self.normalise(&mut attended, gain);
        }
        add(x, &attended);
        let mut normalised = x.to_vec();
        self.normalise(&mut normalised, &layer.ffn_norm);
        let mut out = match &layer.feed_forward {
            FeedForward::Dense(gated) => self.gated(gated, &normalised),
            FeedForward::Experts(experts) => {
                let rows = normalised.chunks_exact(self.model.hidden as usize);
                rows.flat_map(|row| self.experts(experts, row)).collect()
            }
        };
        if let Some(gain) = of_ffn {
            self.normalise(&mut out, gain);
        }
        add(x, &out);
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

    /// Normalises rows of as many numbers as there are gains.
    fn normalise(&self, x: &mut [f32], gain: &[f32]) {
        for row in x.chunks_exact_mut(gain.len()) {
            let mean = row.iter().map(|x| x * x).sum::<f32>() / row.len() as f32;
            let r = 1.0 / (mean + self.model.eps).sqrt();
            row.iter_mut().zip(gain).for_each(|(x, gain)| *x = *x * r * gain);
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

fn add_bias(x: &mut [f32], bias: &[f32]) {
    x.chunks_exact_mut(bias.len()).for_each(|row| add(row, bias));
}

fn add(x: &mut [f32], delta: &[f32]) {
    for (x, delta) in x.iter_mut().zip(delta) {
        *x += delta;
    }
}
