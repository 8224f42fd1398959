//! Everything between the products: [`Device`] on the threads.

use std::convert::Infallible;

use lockstep_exact::flags::Flags;
use lockstep_exact::matrix::{BLOCK_ROWS, Codec, GROUP, Packed};
use lockstep_exact::norm::Norm;
use lockstep_exact::num;
use lockstep_exact::ops::{AttentionLayer, Device, Place};
use lockstep_exact::plan::Activation;
use lockstep_exact::state::{self, State};

use super::kernels::Kernels;
use super::values::{Codes, Form, Rows, Sums};
use crate::append::{Fused, Quantised};
use crate::attend::{self, Batch};
use crate::kv::Kv;
use crate::pool::Chunks;
use crate::rows::{self, Block, StateRow};

/// Rows that are dequantised together: their sums lie side by side.
const ROWS_TOGETHER: usize = 8;
impl Kernels {
    /// Quantises `rows` rows of `width` numbers, `each` at a time: what `values` makes of a part
    /// for a row, given its number in the batch and in the part.
    fn quantise_parts<P: Send>(
        &self,
        [rows, width, each]: [usize; 3],
        parts: impl Iterator<Item = P>,
        out: &mut Codes,
        flags: &mut Flags,
        values: impl for<'p> Fn(usize, usize, &'p mut P) -> &'p [f32] + Sync,
    ) {
        let (inputs, scales) = out.inputs_mut();
        inputs.reshape(self.isa, rows, width);
        scales.resize(rows, 0.0);
        let mut overflows = vec![false; rows];
        let codes = inputs.parts_mut(each).zip(scales.chunks_mut(each));
        let codes = codes.zip(overflows.chunks_mut(each));
        let parts = codes.zip(parts).enumerate().collect();
        self.pool.each(parts, |(part, (((mut inputs, scales), overflows), mut from))| {
            for (at, (scale, overflow)) in scales.iter_mut().zip(overflows).enumerate() {
                let values = values(part * each + at, at, &mut from);
                let result = inputs.fill(at, |codes| rows::quantise_i16(self.isa, values, codes));
                *overflow = result.is_err();
                // default: a row that overflows is flagged, and its scale is defined as zero
                *scale = result.unwrap_or(0.0);
            }
        });
        flags.merge(0, &overflows);
    }

    fn gate_row(&self, activation: Activation, gate_up: &[f32], out: &mut [f32]) {
        let (gate, up) = gate_up.split_at(out.len());
        match activation {
            Activation::Silu => rows::silu_gate(self.isa, gate, up, out),
            Activation::GeluTanh => rows::gelu_gate(self.isa, gate, up, out),
        }
    }
}

/// The mantissas and exponents of some neighbouring rows of a state.
struct StateRows<'a> {
    first: usize,
    width: usize,
    mantissas: &'a mut [i16],
    exponents: &'a mut [u8],
    overflows: &'a mut [bool],
}

impl<'a> StateRows<'a> {
    /// All rows of `out`, `each` at a time.
    fn parts(out: &'a mut State, overflows: &'a mut [bool], each: usize) -> Vec<Self> {
        let (width, groups) = (out.width(), out.groups());
        let (mantissas, exponents) = out.parts_mut();
        let mantissas = mantissas.chunks_mut((each * width).max(1));
        let exponents = exponents.chunks_mut((each * groups).max(1));
        let parts = mantissas.zip(exponents).zip(overflows.chunks_mut(each));
        let part = |(part, ((mantissas, exponents), overflows))| Self {
            first: part * each,
            width,
            mantissas,
            exponents,
            overflows,
        };
        parts.enumerate().map(part).collect()
    }

    /// A row, and where to say that it overflowed.
    fn row(&mut self, at: usize) -> (StateRow<'_>, &mut bool) {
        let groups = self.width.div_ceil(state::GROUP);
        let mantissas = &mut self.mantissas[at * self.width..][..self.width];
        let exponents = &mut self.exponents[at * groups..][..groups];
        (StateRow { mantissas, exponents }, &mut self.overflows[at])
    }

    /// Lets `write` write each row; false from it marks the row as overflowed.
    fn write(self, mut write: impl FnMut(usize, StateRow<'_>) -> bool) {
        let mantissas = self.mantissas.chunks_exact_mut(self.width);
        let exponents = self.exponents.chunks_exact_mut(self.width.div_ceil(state::GROUP));
        let rows = mantissas.zip(exponents).zip(self.overflows);
        for (at, ((mantissas, exponents), overflow)) in rows.enumerate() {
            *overflow = !write(self.first + at, StateRow { mantissas, exponents });
        }
    }
}

impl Device for Kernels {
    type State = State;
    type Rows = Rows;
    type Codes = Codes;
    type Sums = Sums;
    type Flags = Flags;
    type Vector = Vec<f32>;
    type Rope = Vec<u64>;
    type Kv = Kv;
    type Error = Infallible;

    fn scope<R>(&self, body: impl FnOnce() -> R) -> R {
        self.pool.scope(body)
    }

    fn embed(&self, table: &Packed, scale: f32, tokens: &[u32], out: &mut State) {
        let width = table.shape().columns;
        out.reshape(tokens.len(), width);
        let mut overflows = vec![false; tokens.len()];
        let each = self.rows_each(tokens.len(), width);
        self.pool.each(StateRows::parts(out, &mut overflows, each), |part| {
            let mut values = vec![0.0; width];
            part.write(|row, out| {
                embedding_row(table, tokens[row] as usize, scale, &mut values);
                rows::encode(self.isa, &values, out)
            });
        });
        for (row, _) in overflows.iter().enumerate().filter(|(_, overflow)| **overflow) {
            out.mark_overflow(row);
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
        let width = x.width();
        out.reshape(x.rows(), width);
        let each = self.rows_each(x.rows(), width);
        self.pool.parts(out.parts_mut(each), |part, out| {
            let first = part * each;
            for (at, out) in out.chunks_exact_mut(width).enumerate() {
                let row = first + at;
                rows::norm(self.isa, x.mantissas(row), x.exponents(row), eps, gain, out);
            }
        });
    }

    fn norm_rows(&self, eps: f32, gain: &Vec<f32>, rows: &mut Rows, flags: &mut Flags) {
        let (count, width) = (rows.count(), rows.width);
        let mut overflows = vec![false; count];
        let each = self.rows_each(count, width);
        let parts = (rows.parts_mut(each), Chunks::new(&mut overflows, each));
        self.pool.parts(parts, |_, (rows, overflows)| {
            let mut block = Block::default();
            for (row, overflow) in rows.chunks_exact_mut(width).zip(overflows) {
                *overflow = !rows::norm_in_place(self.isa, row, eps, gain, &mut block);
            }
        });
        flags.merge(0, &overflows);
    }

    fn quantise(&self, x: &Rows, out: &mut Codes, flags: &mut Flags) {
        let (rows, width) = (x.count(), x.width);
        let each = self.rows_each(rows, width);
        let parts = x.data.chunks((each * width).max(1));
        self.quantise_parts([rows, width, each], parts, out, flags, |_, at, part| {
            &part[at * width..][..width]
        });
    }

    fn norm_quantise(
        &self,
        x: &State,
        norm: &Norm,
        rows: &mut Rows,
        out: &mut Codes,
        flags: &mut Flags,
    ) {
        let (count, width) = (x.rows(), x.width());
        rows.reshape(count, width);
        let each = self.rows_each(count, width);
        let parts = rows.data.chunks_mut((each * width).max(1));
        self.quantise_parts([count, width, each], parts, out, flags, |row, at, normal| {
            let normal = &mut normal[at * width..][..width];
            let (mantissas, exponents) = (x.mantissas(row), x.exponents(row));
            rows::norm(self.isa, mantissas, exponents, norm.eps, &norm.gain, normal);
            normal
        });
    }

    fn dequant(&self, sums: &Sums, x: &Codes, scales: &Vec<f32>, out: &mut Rows) {
        out.reshape(sums.rows, sums.width);
        let each = self.rows_each(sums.rows, sums.width);
        self.pool.parts(out.parts_mut(each), |part, out| {
            let first = part * each;
            for (at, out) in out.chunks_mut(ROWS_TOGETHER * sums.width).enumerate() {
                let first = first + at * ROWS_TOGETHER;
                let tokens = &x.scales[first..][..out.len() / sums.width];
                rows::dequant(self.isa, &sums.data, sums.rows, first, scales, tokens, out);
            }
        });
    }

    fn add_bias(&self, bias: &Vec<f32>, rows: &mut Rows) {
        let (count, width) = (rows.count(), rows.width);
        let each = self.rows_each(count, width);
        self.pool.parts(rows.parts_mut(each), |_, rows| {
            for row in rows.chunks_exact_mut(width) {
                rows::add_bias(self.isa, bias, row);
            }
        });
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
        let fused = Fused { layer, rows: &qkv.data, places, wanted };
        let each = self.rows_each(places.len(), qkv.width);
        let mut quantised = Quantised::default();
        if let Form::Queries(codes) = &mut queries.form {
            quantised.query_codes = std::mem::take(codes);
        }
        quantised.query_scales = std::mem::take(&mut queries.scales);
        fused.append(self.isa, &self.pool, each, caches, &mut quantised);
        flags.merge(0, &quantised.overflows);
        queries.form = Form::Queries(quantised.query_codes);
        queries.scales = quantised.query_scales;
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
        out.reshape(places.len(), layer.plan.query_width());
        let mut overflows = vec![false; places.len()];
        let (queries, scales) = (queries.queries(), queries.scales.as_slice());
        let batch = Batch { layer, queries, scales, places, caches };
        attend::attend(self.isa, &self.pool, batch, &mut out.data, &mut overflows);
        flags.merge(0, &overflows);
    }

    fn gate(&self, activation: Activation, gate_up: &Rows, out: &mut Rows) {
        let (rows, inner) = (gate_up.count(), gate_up.width / 2);
        out.reshape(rows, inner);
        let each = self.rows_each(rows, gate_up.width);
        self.pool.parts(out.parts_mut(each), |part, out| {
            for (at, out) in out.chunks_exact_mut(inner).enumerate() {
                self.gate_row(activation, gate_up.row(part * each + at), out);
            }
        });
    }

    fn gate_quantise(
        &self,
        activation: Activation,
        gate_up: &Rows,
        rows: &mut Rows,
        out: &mut Codes,
        flags: &mut Flags,
    ) {
        let (count, inner) = (gate_up.count(), gate_up.width / 2);
        rows.reshape(count, inner);
        let each = self.rows_each(count, gate_up.width);
        let parts = rows.data.chunks_mut((each * inner).max(1));
        self.quantise_parts([count, inner, each], parts, out, flags, |row, at, gated| {
            let gated = &mut gated[at * inner..][..inner];
            self.gate_row(activation, gate_up.row(row), gated);
            gated
        });
    }

    fn zero_rows(&self, rows: usize, width: usize, out: &mut Rows) {
        out.reshape(rows, width);
        out.data.fill(0.0);
    }

    fn select_rows(&self, from: &Rows, indexes: &[usize], out: &mut Rows) {
        let width = from.width;
        out.reshape(indexes.len(), width);
        let each = self.rows_each(indexes.len(), width);
        self.pool.parts(out.parts_mut(each), |part, out| {
            let indexes = indexes.iter().skip(part * each);
            for (out, &index) in out.chunks_exact_mut(width.max(1)).zip(indexes) {
                out.copy_from_slice(from.row(index));
            }
        });
    }

    fn accumulate(&self, rows: &Rows, indexes: &[usize], weights: &[f32], out: &mut Rows) {
        let width = rows.width;
        let each = self.rows_each(indexes.len(), width);
        let mut indexes = indexes.iter().peekable();
        // Indexes increase: one pass over the rows of `out` finds them all.
        let members = out.data.chunks_exact_mut(width.max(1)).enumerate();
        let members = members.filter(|(row, _)| indexes.next_if_eq(&row).is_some());
        let values = rows.data.chunks_exact(width.max(1)).zip(weights);
        let mut members: Vec<_> = members.map(|(_, out)| out).zip(values).collect();
        self.pool.each(members.chunks_mut(each).collect(), |members| {
            for (out, (row, weight)) in members {
                rows::add_weighted(self.isa, **weight, row, out);
            }
        });
    }

    fn accumulate_gated(&self, rows: &Rows, gates: &Rows, out: &mut Rows) {
        let weights: Vec<f32> = gates.data.iter().map(|&gate| num::sigmoid(gate)).collect();
        let all: Vec<usize> = (0..weights.len()).collect();
        self.accumulate(rows, &all, &weights, out);
    }

    fn residual(&self, x: &State, delta: &Rows, out: &mut State, flags: &mut Flags) {
        let (rows, width) = (x.rows(), x.width());
        out.reshape(rows, width);
        let mut overflows = vec![false; rows];
        let each = self.rows_each(rows, width);
        self.pool.each(StateRows::parts(out, &mut overflows, each), |part| {
            part.write(|row, out| {
                let (mantissas, exponents) = (x.mantissas(row), x.exponents(row));
                rows::add(self.isa, mantissas, exponents, delta.row(row), out)
            });
        });
        flags.merge(0, &overflows);
        for row in (0..rows).filter(|&row| flags.get(row)) {
            out.mark_overflow(row);
        }
    }

    fn residual_norm_quantise(
        &self,
        x: &State,
        delta: &Rows,
        sum: &mut State,
        norm: &Norm,
        rows: &mut Rows,
        out: &mut Codes,
        flags: &mut Flags,
    ) {
        let (count, width) = (x.rows(), x.width());
        sum.reshape(count, width);
        rows.reshape(count, width);
        let mut overflows = vec![false; count];
        let each = self.rows_each(count, width);
        let sums = StateRows::parts(sum, &mut overflows, each);
        let parts = sums.into_iter().zip(rows.data.chunks_mut((each * width).max(1)));
        let flagged = flags.clone();
        self.quantise_parts([count, width, each], parts, out, flags, |row, at, (sums, normal)| {
            let normal = &mut normal[at * width..][..width];
            let (sum, overflow) = sums.row(at);
            let (mantissas, exponents) = (x.mantissas(row), x.exponents(row));
            let fits = rows::add(self.isa, mantissas, exponents, delta.row(row), sum);
            *overflow = !fits;
            let (sum, _) = sums.row(at);
            if !fits || flagged.get(row) {
                sum.mantissas.fill(0);
                sum.exponents.fill(state::OVERFLOW);
            }
            rows::norm(self.isa, sum.mantissas, sum.exponents, norm.eps, &norm.gain, normal);
            normal
        });
        flags.merge(0, &overflows);
    }
}

/// `(f32(weight) · row_scale) · scale` for one row of a table.
fn embedding_row(table: &Packed, row: usize, scale: f32, out: &mut [f32]) {
    let shape = table.shape();
    if shape.codec == Codec::W4 {
        let row_scale = table.row_scale(row);
        for (column, out) in out.iter_mut().enumerate() {
            *out = (table.weight(row, column) as f32 * row_scale) * scale;
        }
        return;
    }
    let row_scale = table.row_scale(row);
    let lane = row % BLOCK_ROWS;
    let block = table.block(row / BLOCK_ROWS);
    let group_scales = block[shape.group_scales_offset()..].chunks_exact(BLOCK_ROWS);
    let lines = block.chunks_exact(BLOCK_ROWS * 4);
    let group_lines = GROUP / 4;
    for (group, (out, scales)) in out.chunks_mut(GROUP).zip(group_scales).enumerate() {
        let group_scale = i32::from(scales[lane]);
        let lines = lines.clone().skip(group * group_lines);
        for (out, line) in out.chunks_mut(4).zip(lines) {
            for (out, &byte) in out.iter_mut().zip(&line[lane * 4..]) {
                let weight = group_scale * (i32::from(byte) - 128);
                *out = (weight as f32 * row_scale) * scale;
            }
        }
    }
}
