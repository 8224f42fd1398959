//! The naive reference: the definition of the answer, kept for ever as the oracle.
//!
//! Each operation is written as its definition in `docs/arithmetic.md` reads, one element at a
//! time.

use std::borrow::Cow;
use std::convert::Infallible;

use crate::attend;
use crate::experts::Choice;
use crate::feed_forward::Rule;
use crate::flags::Flags;
use crate::kv::{KvRow, ReferenceKv};
use crate::matrix::{INPUT_MAX, Packed, Shape};
use crate::norm::Norm;
use crate::num::{self, Overflow};
use crate::ops::{
    AttentionLayer, Copied, CopiedOf, Device, FieldDots, Host, Place, Products, read_kv,
};
use crate::plan::Activation;
use crate::state::{self, State};
use crate::weights::{Backend, PrepareError};

/// Rows of f32 numbers, as the reference holds them.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Rows {
    /// The number of elements of a row.
    pub width: usize,
    /// The numbers, row after row.
    pub data: Vec<f32>,
}

impl Rows {
    /// Makes this `rows` rows of `width` zeros.
    pub fn reset(&mut self, rows: usize, width: usize) {
        self.width = width;
        self.data.clear();
        self.data.resize(rows * width, 0.0);
    }

    /// Returns the rows in order.
    pub fn iter(&self) -> impl Iterator<Item = &[f32]> {
        self.data.chunks_exact(self.width.max(1))
    }
}

/// Rows of quantised numbers, as the reference holds them.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Codes {
    /// The number of elements of a row.
    pub width: usize,
    /// The codes, row after row.
    pub codes: Vec<i16>,
    /// Scales, row after row; one per row, or one per head.
    pub scales: Vec<f32>,
}

/// Rows of exact sums, as the reference holds them.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Sums {
    /// The number of sums of a row.
    pub width: usize,
    /// The sums, row after row.
    pub data: Vec<i64>,
}

/// The reference implementation of the operations, which defines the answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference;

impl Device for Reference {
    type State = State;
    type Rows = Rows;
    type Codes = Codes;
    type Sums = Sums;
    type Flags = Flags;
    type Vector = Vec<f32>;
    type Rope = Vec<u64>;
    type Kv = ReferenceKv;
    type Error = Infallible;

    fn embed(&self, table: &Packed, scale: f32, tokens: &[u32], out: &mut State) {
        let width = table.shape().columns;
        *out = State::zeros(tokens.len(), width);
        for (row, &token) in tokens.iter().enumerate() {
            let token = token as usize;
            let row_scale = table.row_scale(token);
            let value = |k| (table.weight(token, k) as f32 * row_scale) * scale;
            let values: Vec<f32> = (0..width).map(value).collect();
            if !encode_row(&values, out, row) {
                out.mark_overflow(row);
            }
        }
    }

    fn select_state(&self, from: &State, indexes: &[usize]) -> State {
        from.select(indexes)
    }

    fn flags(&self, state: &State) -> Flags {
        Flags::of(state)
    }

    fn select_flags(&self, from: &Flags, indexes: &[usize]) -> Flags {
        from.select(indexes)
    }

    fn merge_flags(&self, from: &Flags, indexes: &[usize], out: &mut Flags) {
        out.merge_at(from, indexes);
    }

    fn norm(&self, x: &State, eps: f32, gain: &Vec<f32>, out: &mut Rows) {
        norm(x, eps, gain, out);
    }

    fn norm_rows(&self, eps: f32, gain: &Vec<f32>, rows: &mut Rows, flags: &mut Flags) {
        for (row, values) in rows.data.chunks_exact_mut(gain.len()).enumerate() {
            if normalise(values, eps, gain).is_err() {
                flags.set(row);
            }
        }
    }

    fn quantise(&self, x: &Rows, out: &mut Codes, flags: &mut Flags) {
        out.width = x.width;
        out.codes.clear();
        out.scales.clear();
        for (row, values) in x.iter().enumerate() {
            let mut codes = vec![0_i16; x.width];
            let scale = num::quantise(values, INPUT_MAX as f32, &mut codes);
            if scale.is_err() {
                flags.set(row);
            }
            out.codes.extend(codes);
            // default: the scale of a row that overflows is 0, as its codes are
            out.scales.push(scale.unwrap_or(0.0));
        }
    }

    fn dequant(&self, sums: &Sums, x: &Codes, scales: &Vec<f32>, out: &mut Rows) {
        out.width = sums.width;
        out.data.clear();
        for (sums, token_scale) in sums.data.chunks_exact(sums.width.max(1)).zip(&x.scales) {
            let rows = sums.iter().zip(scales);
            out.data.extend(rows.map(|(&sum, scale)| sum as f32 * (scale * token_scale)));
        }
    }

    fn add_bias(&self, bias: &Vec<f32>, rows: &mut Rows) {
        for row in rows.data.chunks_exact_mut(bias.len()) {
            row.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
        }
    }

    fn append(
        &self,
        layer: AttentionLayer<'_>,
        qkv: &Rows,
        places: &[Place],
        wanted: &[usize],
        caches: &mut [&mut ReferenceKv],
        queries: &mut Codes,
        flags: &mut Flags,
    ) {
        let plan = layer.plan;
        let (query_width, kv_width) = (plan.query_width(), plan.kv_width());
        *queries = Codes { width: query_width, ..Codes::default() };
        for (row, (fused, place)) in qkv.iter().zip(places).enumerate() {
            let (query, key_value) = fused.split_at(query_width);
            let (key, value) = key_value.split_at(kv_width);
            let mut overflow = false;
            let key = normalised(key, layer.norms.map(|norms| &norms.key), &mut overflow);
            let key = rotated(&key, layer, place.position);
            let (key_codes, key_scales) = quantise_heads::<i8>(&key, layer, 127.0, &mut overflow);
            let (value_codes, value_scales) =
                quantise_heads::<i8>(value, layer, 127.0, &mut overflow);
            let kv_row = KvRow { key_codes, value_codes, key_scales, value_scales };
            caches[place.slot].put(layer.index, place.position, kv_row);
            if wanted.contains(&row) {
                let norm = layer.norms.map(|norms| &norms.query);
                let query = normalised(query, norm, &mut overflow);
                let query = rotated(&query, layer, place.position);
                let (codes, scales) =
                    quantise_heads::<i16>(&query, layer, INPUT_MAX as f32, &mut overflow);
                queries.codes.extend(codes);
                queries.scales.extend(scales.iter().map(|scale| scale * plan.score_scale));
            }
            if overflow {
                flags.set(row);
            }
        }
    }

    fn attend(
        &self,
        layer: AttentionLayer<'_>,
        queries: &Codes,
        places: &[Place],
        caches: &[&mut ReferenceKv],
        out: &mut Rows,
        flags: &mut Flags,
    ) {
        let plan = layer.plan;
        let (heads, head_dim) = (plan.heads as usize, plan.head_dim as usize);
        let heads_per_kv = heads / plan.kv_heads as usize;
        out.reset(places.len(), plan.query_width());
        for (row, place) in places.iter().enumerate() {
            for head in 0..heads {
                let at = (row * heads + head) * head_dim;
                let query = attend::Query {
                    codes: &queries.codes[at..at + head_dim],
                    scale: queries.scales[row * heads + head],
                };
                let kv_head = head / heads_per_kv;
                let past = |position| {
                    let row = caches[place.slot].row(layer.index, position);
                    let codes = kv_head * head_dim..(kv_head + 1) * head_dim;
                    attend::Past {
                        key: &row.key_codes[codes.clone()],
                        key_scale: row.key_scales[kv_head],
                        value: &row.value_codes[codes],
                        value_scale: row.value_scales[kv_head],
                    }
                };
                let first = attend::first_position(plan.window, place.position);
                let out = &mut out.data[at..at + head_dim];
                if attend::head(query, first..place.position + 1, past, out).is_err() {
                    out.fill(0.0);
                    flags.set(row);
                }
            }
        }
    }

    fn gate(&self, activation: Activation, gate_up: &Rows, out: &mut Rows) {
        let inner = gate_up.width / 2;
        out.width = inner;
        out.data.clear();
        for row in gate_up.iter() {
            let (gate, up) = row.split_at(inner);
            let activated = gate.iter().map(|&x| match activation {
                Activation::Silu => x * num::sigmoid(x),
                Activation::GeluTanh => num::gelu_tanh(x),
            });
            out.data.extend(activated.zip(up).map(|(gate, up)| gate * up));
        }
    }

    fn zero_rows(&self, rows: usize, width: usize, out: &mut Rows) {
        out.reset(rows, width);
    }

    fn select_rows(&self, from: &Rows, indexes: &[usize], out: &mut Rows) {
        let row = |&index: &usize| &from.data[index * from.width..][..from.width];
        *out = Rows { width: from.width, data: indexes.iter().flat_map(row).copied().collect() };
    }

    fn accumulate(&self, rows: &Rows, indexes: &[usize], weights: &[f32], out: &mut Rows) {
        for ((row, index), weight) in rows.iter().zip(indexes).zip(weights) {
            for (element, value) in row.iter().enumerate() {
                out.data[index * out.width + element] += weight * value;
            }
        }
    }

    fn accumulate_gated(&self, rows: &Rows, gates: &Rows, out: &mut Rows) {
        let weights: Vec<f32> = gates.data.iter().map(|&gate| num::sigmoid(gate)).collect();
        let all: Vec<usize> = (0..weights.len()).collect();
        self.accumulate(rows, &all, &weights, out);
    }

    fn residual(&self, x: &State, delta: &Rows, out: &mut State, flags: &mut Flags) {
        *out = State::zeros(x.rows(), x.width());
        for (row, delta) in delta.iter().enumerate() {
            let values: Vec<f32> =
                delta.iter().enumerate().map(|(k, delta)| x.value(row, k) + delta).collect();
            if !encode_row(&values, out, row) {
                flags.set(row);
            }
            if flags.get(row) {
                out.mark_overflow(row);
            }
        }
    }
}

impl Products for Reference {
    type Device = Self;
    type Matrix = Packed;
    type Error = Infallible;

    fn device(&self) -> &Self {
        self
    }

    fn matmul(&self, weights: &Packed, x: &Codes, out: &mut Sums) -> Result<(), Infallible> {
        let Shape { rows, columns, .. } = weights.shape();
        debug_assert_eq!(columns, x.width, "input width of a product");
        out.width = rows;
        out.data.clear();
        for input in x.codes.chunks_exact(columns) {
            for n in 0..rows {
                let products =
                    (0..columns).map(|k| i64::from(weights.weight(n, k)) * i64::from(input[k]));
                out.data.push(products.sum());
            }
        }
        Ok(())
    }
}

impl FieldDots for Reference {}

impl Host for Reference {
    type Ticket<T> = Infallible;

    fn wait<T>(&self, ticket: Infallible) -> Result<T, Infallible> {
        match ticket {}
    }

    fn put_vector(&self, values: Vec<f32>) -> Result<Vec<f32>, Infallible> {
        Ok(values)
    }

    fn put_rope(&self, turns: Vec<u64>) -> Result<Vec<u64>, Infallible> {
        Ok(turns)
    }

    fn put_state(&self, state: State) -> Result<State, Infallible> {
        Ok(state)
    }

    fn take_state<'a>(&self, state: &'a State) -> CopiedOf<'a, Self, State> {
        Copied::Here(Cow::Borrowed(state))
    }

    fn take_kv(
        &self,
        caches: &[&mut ReferenceKv],
        layer: usize,
        places: &[Place],
    ) -> CopiedOf<'static, Self, [u8]> {
        Copied::Here(Cow::Owned(read_kv(caches, layer, places)))
    }

    fn take_rows<'a>(&self, rows: &'a Rows) -> CopiedOf<'a, Self, [f32]> {
        Copied::Here(Cow::Borrowed(&rows.data))
    }

    fn take_codes<'a>(&self, codes: &'a Codes) -> CopiedOf<'a, Self, [i16]> {
        Copied::Here(Cow::Borrowed(&codes.codes))
    }

    fn take_sums<'a>(&self, sums: &'a Sums) -> CopiedOf<'a, Self, [i64]> {
        Copied::Here(Cow::Borrowed(&sums.data))
    }

    fn read_logits(
        &self,
        rows: &Rows,
        width: usize,
        flags: &Flags,
    ) -> Result<Vec<Result<Vec<f32>, Overflow>>, Infallible> {
        let logits = |(row, logits): (usize, &[f32])| {
            let fits = num::amax_bits(logits) < num::OVERFLOW_BITS && !flags.get(row);
            if fits { Ok(logits.to_vec()) } else { Err(Overflow) }
        };
        Ok(rows.data.chunks_exact(width.max(1)).enumerate().map(logits).collect())
    }

    fn choose(
        &self,
        rule: Rule,
        experts: usize,
        logits: &Rows,
        flags: &mut Flags,
    ) -> Result<Choice, Infallible> {
        Ok(Choice::new(rule, experts, &logits.data, flags))
    }

    fn write_sums(&self, width: usize, values: &[i64], out: &mut Sums) {
        *out = Sums { width, data: values.to_vec() };
    }
}

impl Backend for Reference {
    fn prepare(&self, matrix: Packed) -> Result<Packed, PrepareError<Infallible>> {
        Ok(matrix)
    }
}

/// Writes `values` as block-i16; false is overflow.
fn encode_row(values: &[f32], out: &mut State, row: usize) -> bool {
    let (mantissas, exponents) = out.row_mut(row);
    let groups = values.chunks(state::GROUP).zip(mantissas.chunks_mut(state::GROUP));
    let mut fits = true;
    for ((values, mantissas), exponent) in groups.zip(exponents) {
        match state::encode_group(values, mantissas) {
            Ok(byte) => *exponent = byte,
            Err(Overflow) => fits = false,
        }
    }
    fits
}

/// Computes the mean of squares of a row, from an integer sum of block sums, each shifted to the
/// largest exponent.
fn mean_of_squares(x: &State, row: usize) -> f32 {
    let blocks = || x.mantissas(row).chunks(state::GROUP).zip(x.exponents(row));
    let used = |byte: &u8| !matches!(*byte, 0 | state::OVERFLOW);
    let exponents = blocks().filter(|(_, byte)| used(byte)).map(|(_, &b)| state::exponent(b));
    let Some(largest) = exponents.max() else { return 0.0 };
    let mut sum = 0_u64;
    for (mantissas, &byte) in blocks().filter(|(_, byte)| used(byte)) {
        let squares: i64 = mantissas.iter().map(|&m| i64::from(m) * i64::from(m)).sum();
        let shift = 2 * (largest - state::exponent(byte)) as u32;
        sum += ((squares as u64) << 16).unbounded_shr(shift);
    }
    (sum as f32 * num::pow2(2 * largest - 16)) / x.width() as f32
}

/// Writes the RMS normalisation of states to `out`, as [`Device::norm`] defines it.
fn norm(x: &State, eps: f32, gain: &[f32], out: &mut Rows) {
    let width = x.width();
    out.reset(x.rows(), width);
    for row in 0..x.rows() {
        let r = 1.0 / (mean_of_squares(x, row) + eps).sqrt();
        for (element, gain) in gain.iter().enumerate() {
            out.data[row * width + element] = (x.value(row, element) * r) * gain;
        }
    }
}

/// Normalises f32, by way of block-i16, in place; zeros if they overflow.
fn normalise(values: &mut [f32], eps: f32, gain: &[f32]) -> Result<(), Overflow> {
    let mut state = State::zeros(1, values.len());
    let fits = encode_row(values, &mut state, 0);
    if !fits {
        state = State::zeros(1, values.len());
    }
    let mut out = Rows::default();
    norm(&state, eps, gain, &mut out);
    values.copy_from_slice(&out.data);
    if fits { Ok(()) } else { Err(Overflow) }
}

/// Heads after the normalisation of each, if there is one.
fn normalised(heads: &[f32], norm: Option<&Norm>, overflow: &mut bool) -> Vec<f32> {
    let mut out = heads.to_vec();
    let Some(norm) = norm else { return out };
    for head in out.chunks_exact_mut(norm.gain.len()) {
        *overflow |= normalise(head, norm.eps, &norm.gain).is_err();
    }
    out
}

/// Heads rotated to a position: element i with element i + pairs.
fn rotated(heads: &[f32], layer: AttentionLayer<'_>, position: usize) -> Vec<f32> {
    let mut out = heads.to_vec();
    let pairs = layer.rope.len();
    for head in out.chunks_exact_mut(layer.plan.head_dim as usize) {
        for (pair, frequency) in layer.rope.iter().enumerate() {
            let phase = frequency.wrapping_mul(position as u64);
            let (sine, cosine) = num::sin_cos_of_turn(phase);
            let (a, b) = (head[pair], head[pair + pairs]);
            head[pair] = a * cosine - b * sine;
            head[pair + pairs] = b * cosine + a * sine;
        }
    }
    out
}

fn quantise_heads<T: num::Code + Default>(
    heads: &[f32],
    layer: AttentionLayer<'_>,
    qmax: f32,
    overflow: &mut bool,
) -> (Vec<T>, Vec<f32>) {
    let mut codes = vec![T::default(); heads.len()];
    let head_dim = layer.plan.head_dim as usize;
    let quantised = heads.chunks_exact(head_dim).zip(codes.chunks_exact_mut(head_dim));
    let scales = quantised
        .map(|(values, codes)| {
            // default: the scale of what overflows is 0, and its row is flagged
            num::quantise(values, qmax, codes).unwrap_or_else(|Overflow| {
                *overflow = true;
                0.0
            })
        })
        .collect();
    (codes, scales)
}
