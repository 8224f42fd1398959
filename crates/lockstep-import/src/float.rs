//! An ordinary f32 forward pass over a GGUF file's dequantised weights: what quality is judged by.
//!
//! This is a measuring instrument, not part of any answer: it uses floating-point sums, the
//! platform's `exp`, and the file's own interleaved rotary pairing. Nothing that serves or verifies
//! calls it. Files have been checked by [`crate::package::ModelFile`] before.
#![expect(
    clippy::indexing_slicing,
    reason = "a measuring instrument: lengths are those of the model it has just read"
)]

use crate::gguf::{Gguf, GgufError};

/// A Llama-family model in f32.
pub struct FloatModel {
    hidden: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    eps: f32,
    rope_base: f32,
    embedding: Dense,
    layers: Vec<FloatLayer>,
    norm: Vec<f32>,
    output: Option<Dense>,
}

struct FloatLayer {
    attention_norm: Vec<f32>,
    query: Dense,
    key: Dense,
    value: Dense,
    output: Dense,
    ffn_norm: Vec<f32>,
    gate: Dense,
    up: Dense,
    down: Dense,
}

/// A dense matrix, row after row.
struct Dense {
    rows: usize,
    columns: usize,
    data: Vec<f32>,
}

impl Dense {
    fn read(gguf: &Gguf<'_>, name: &str, rows: usize, columns: usize) -> Result<Self, GgufError> {
        let matrix = gguf.matrix(name, rows, columns)?;
        let mut data = vec![0.0; rows * columns];
        for (row, out) in data.chunks_exact_mut(columns).enumerate() {
            matrix.read_row(row, out)?;
        }
        Ok(Self { rows, columns, data })
    }

    fn row(&self, row: usize) -> &[f32] {
        &self.data[row * self.columns..(row + 1) * self.columns]
    }

    /// `x · Wᵀ` for rows of `columns` numbers; each row of weights is read once.
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

impl FloatModel {
    /// Dequantises a GGUF file of the Llama family.
    ///
    /// # Errors
    /// A key or tensor is missing, or has another type or shape.
    pub fn read(gguf: &Gguf<'_>) -> Result<Self, GgufError> {
        let size = |key: &str| -> Result<usize, GgufError> {
            let missing = || GgufError::MissingKey { key: key.to_owned() };
            Ok(gguf.optional_u64(key)?.ok_or_else(missing)? as usize)
        };
        let hidden = size("llama.embedding_length")?;
        let heads = size("llama.attention.head_count")?;
        let kv_heads = size("llama.attention.head_count_kv")?;
        let inner = size("llama.feed_forward_length")?;
        let head_dim = hidden / heads.max(1);
        let vocabulary = gguf.tensor("token_embd.weight").map_or(0, |t| t.dims()[1] as usize);
        let layers = (0..size("llama.block_count")?)
            .map(|layer| {
                let name = |part: &str| format!("blk.{layer}.{part}.weight");
                let dense = |part, rows, columns| Dense::read(gguf, &name(part), rows, columns);
                Ok(FloatLayer {
                    attention_norm: gguf.vector(&name("attn_norm"), hidden)?,
                    query: dense("attn_q", heads * head_dim, hidden)?,
                    key: dense("attn_k", kv_heads * head_dim, hidden)?,
                    value: dense("attn_v", kv_heads * head_dim, hidden)?,
                    output: dense("attn_output", hidden, heads * head_dim)?,
                    ffn_norm: gguf.vector(&name("ffn_norm"), hidden)?,
                    gate: dense("ffn_gate", inner, hidden)?,
                    up: dense("ffn_up", inner, hidden)?,
                    down: dense("ffn_down", hidden, inner)?,
                })
            })
            .collect::<Result<Vec<_>, GgufError>>()?;
        let output = match gguf.tensor("output.weight") {
            Some(_) => Some(Dense::read(gguf, "output.weight", vocabulary, hidden)?),
            None => None,
        };
        Ok(Self {
            hidden,
            heads,
            kv_heads,
            head_dim,
            eps: gguf.optional_f32("llama.attention.layer_norm_rms_epsilon")?.unwrap_or(1e-5),
            rope_base: gguf.optional_f32("llama.rope.freq_base")?.unwrap_or(10_000.0),
            embedding: Dense::read(gguf, "token_embd.weight", vocabulary, hidden)?,
            layers,
            norm: gguf.vector("output_norm.weight", hidden)?,
            output,
        })
    }

    /// The logits after every token of a text that starts at position 0.
    #[must_use]
    pub fn logits(&self, tokens: &[u32]) -> Vec<Vec<f32>> {
        let mut x: Vec<f32> = Vec::with_capacity(tokens.len() * self.hidden);
        for &token in tokens {
            x.extend_from_slice(self.embedding.row(token as usize));
        }
        for layer in &self.layers {
            self.layer(layer, &mut x);
        }
        let x = self.normalised(&x, &self.norm);
        let output = self.output.as_ref().unwrap_or(&self.embedding);
        output.multiply(&x).chunks_exact(output.rows).map(<[f32]>::to_vec).collect()
    }

    fn layer(&self, layer: &FloatLayer, x: &mut [f32]) {
        let normalised = self.normalised(x, &layer.attention_norm);
        let mut query = layer.query.multiply(&normalised);
        let mut key = layer.key.multiply(&normalised);
        let value = layer.value.multiply(&normalised);
        self.rotate(&mut query, self.heads);
        self.rotate(&mut key, self.kv_heads);
        let attended = self.attend(&query, &key, &value);
        add(x, &layer.output.multiply(&attended));
        let normalised = self.normalised(x, &layer.ffn_norm);
        let mut gate = layer.gate.multiply(&normalised);
        let up = layer.up.multiply(&normalised);
        for (gate, up) in gate.iter_mut().zip(up) {
            *gate = *gate / (1.0 + (-*gate).exp()) * up;
        }
        add(x, &layer.down.multiply(&gate));
    }

    fn normalised(&self, x: &[f32], gain: &[f32]) -> Vec<f32> {
        let mut out = Vec::with_capacity(x.len());
        for row in x.chunks_exact(self.hidden) {
            let mean = row.iter().map(|x| x * x).sum::<f32>() / self.hidden as f32;
            let r = 1.0 / (mean + self.eps).sqrt();
            out.extend(row.iter().zip(gain).map(|(x, gain)| x * r * gain));
        }
        out
    }

    /// Rotates neighbouring pairs: the file's rows are permuted for that.
    fn rotate(&self, x: &mut [f32], heads: usize) {
        for (position, row) in x.chunks_exact_mut(heads * self.head_dim).enumerate() {
            for head in row.chunks_exact_mut(self.head_dim) {
                for (pair, values) in head.chunks_exact_mut(2).enumerate() {
                    let exponent = -2.0 * pair as f64 / self.head_dim as f64;
                    let angle = position as f64 * f64::from(self.rope_base).powf(exponent);
                    let (sine, cosine) = (angle.sin() as f32, angle.cos() as f32);
                    let (a, b) = (values[0], values[1]);
                    values[0] = a * cosine - b * sine;
                    values[1] = a * sine + b * cosine;
                }
            }
        }
    }

    fn attend(&self, query: &[f32], key: &[f32], value: &[f32]) -> Vec<f32> {
        let (dim, width) = (self.head_dim, self.kv_heads * self.head_dim);
        let scale = 1.0 / (dim as f32).sqrt();
        let mut out = vec![0.0; query.len()];
        for (at, (q, out)) in query.chunks_exact(dim).zip(out.chunks_exact_mut(dim)).enumerate() {
            let (position, head) = (at / self.heads, at % self.heads);
            let kv = head * self.kv_heads / self.heads * dim;
            let past = |x: usize| x * width + kv..x * width + kv + dim;
            let scores: Vec<f32> = (0..=position).map(|x| dot(q, &key[past(x)]) * scale).collect();
            let top = scores.iter().fold(f32::NEG_INFINITY, |top, &score| top.max(score));
            let weights: Vec<f32> = scores.iter().map(|score| (score - top).exp()).collect();
            let total: f32 = weights.iter().sum();
            for (x, weight) in weights.iter().enumerate() {
                for (out, value) in out.iter_mut().zip(&value[past(x)]) {
                    *out += weight / total * value;
                }
            }
        }
        out
    }
}

fn add(x: &mut [f32], delta: &[f32]) {
    for (x, delta) in x.iter_mut().zip(delta) {
        *x += delta;
    }
}
