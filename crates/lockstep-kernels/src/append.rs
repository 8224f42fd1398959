//! Turns fused query, key and value rows into queries and cache rows: rotates, quantises and stores
//! them.

use std::cell::RefCell;

use lockstep_exact::norm::Norm;
use lockstep_exact::num::Overflow;
use lockstep_exact::ops::{AttentionLayer, Place};

use crate::isa::Isa;
use crate::kv::{Kv, RowRef, RowTarget};
use crate::pool::Pool;
use crate::rows::{Angles, Block, norm_in_place, quantise_i8, quantise_i16, rotate};

/// Fused rows and where they belong.
#[derive(Clone, Copy)]
pub(crate) struct Fused<'a> {
    pub(crate) layer: AttentionLayer<'a>,
    /// `[rows][query heads, key heads, value heads][head_dim]`.
    pub(crate) rows: &'a [f32],
    pub(crate) places: &'a [Place],
    /// Rows whose queries are asked for, increasing.
    pub(crate) wanted: &'a [usize],
}

/// The quantised queries of the wanted rows, and which rows overflowed.
#[derive(Default)]
pub(crate) struct Quantised {
    /// `[wanted rows][heads][head_dim]`.
    pub(crate) query_codes: Vec<i16>,
    /// `[wanted rows][heads]`, times the layer's score scale.
    pub(crate) query_scales: Vec<f32>,
    /// Rows in which a head overflowed.
    pub(crate) overflows: Vec<bool>,
}

/// The angles of a batch's rows. Layers share them, because they depend on positions only.
#[derive(Default)]
struct Table {
    rope: Vec<u64>,
    positions: Vec<usize>,
    rows: Vec<Angles>,
}

thread_local! {
    static TABLE: RefCell<Table> = RefCell::default();
}

impl Table {
    /// Makes this the table of `places`, unless it is already.
    fn set(&mut self, rope: &[u64], places: &[Place]) {
        let same = self.positions.iter().eq(places.iter().map(|place| &place.position));
        if same && self.rope == rope {
            return;
        }
        rope.clone_into(&mut self.rope);
        self.positions.clear();
        self.positions.extend(places.iter().map(|place| place.position));
        self.rows.resize_with(places.len(), Angles::default);
        for (row, &position) in self.rows.iter_mut().zip(&self.positions) {
            row.set(rope, position);
        }
    }
}

/// Neighbouring rows of a batch and where their results go.
struct Part<'a> {
    first: usize,
    wanted: &'a [usize],
    query_codes: &'a mut [i16],
    query_scales: &'a mut [f32],
    targets: &'a [RowTarget],
    overflows: &'a mut [bool],
}

impl Fused<'_> {
    /// Rotates and quantises all rows, `each` at a time, and puts keys and values in their pages;
    /// memory of `out` is reused.
    ///
    /// # Panics
    /// When a session's rows do not come in order, without gaps.
    pub(crate) fn append(
        &self,
        isa: Isa,
        pool: &Pool,
        each: usize,
        caches: &mut [&mut Kv],
        out: &mut Quantised,
    ) {
        let plan = self.layer.plan;
        let (rows, wanted) = (self.places.len(), self.wanted.len());
        out.query_codes.resize(wanted * plan.query_width(), 0);
        out.query_scales.resize(wanted * plan.heads as usize, 0.0);
        out.overflows.clear();
        out.overflows.resize(rows, false);
        let targets = self.targets(caches);
        TABLE.with_borrow_mut(|table| {
            table.set(self.layer.rope, self.places);
            let angles = table.rows.as_slice();
            // SAFETY: no two targets are the same (`Fused::targets`), each is in one part, and the
            // caches are borrowed here.
            let append = |part| unsafe { self.append_part(isa, angles, part) };
            pool.each(self.parts(&targets, each, out), append);
        });
    }

    /// Returns the targets for the keys and values of each row; each target occurs once.
    fn targets(&self, caches: &mut [&mut Kv]) -> Vec<RowTarget> {
        let mut last = vec![None; caches.len()];
        let target = |&Place { slot, position }: &Place| {
            let before = last[slot].replace(position);
            assert!(before.is_none_or(|before| before < position), "rows of a session in order");
            caches[slot].make_room(self.layer.index, position)
        };
        self.places.iter().map(target).collect()
    }

    fn parts<'a>(
        &'a self,
        targets: &'a [RowTarget],
        each: usize,
        out: &'a mut Quantised,
    ) -> Vec<Part<'a>> {
        let plan = self.layer.plan;
        let (mut wanted, mut codes) = (self.wanted, out.query_codes.as_mut_slice());
        let mut scales = out.query_scales.as_mut_slice();
        let rows = targets.chunks(each).zip(out.overflows.chunks_mut(each));
        rows.enumerate()
            .map(|(index, (targets, overflows))| {
                let first = index * each;
                let count = wanted.partition_point(|&row| row < first + each);
                let query_codes = codes.split_off_mut(..count * plan.query_width());
                let query_scales = scales.split_off_mut(..count * plan.heads as usize);
                Part {
                    first,
                    // default: the slices are as long as all parts together; behind them is nothing
                    wanted: wanted.split_off(..count).unwrap_or_default(),
                    // default: as above
                    query_codes: query_codes.unwrap_or_default(),
                    // default: as above
                    query_scales: query_scales.unwrap_or_default(),
                    targets,
                    overflows,
                }
            })
            .collect()
    }

    /// # Safety
    /// The caches that the part's targets are in are not used by others, and nobody else has the
    /// same targets.
    unsafe fn append_part(&self, isa: Isa, angles: &[Angles], part: Part<'_>) {
        let plan = self.layer.plan;
        let (query_width, kv_width) = (plan.query_width(), plan.kv_width());
        let (head_dim, heads) = (plan.head_dim as usize, plan.heads as usize);
        let kv_heads = plan.kv_heads as usize;
        let (query_norm, key_norm) = self.layer.norms.map(|n| (&n.query, &n.key)).unzip();
        let mut block = Block::default();
        let mut buffer = Vec::with_capacity(query_width.max(2 * kv_width));
        let mut kv = KeyValue::new(kv_width, kv_heads);
        let codes = part.query_codes.chunks_exact_mut(query_width);
        let mut queries = codes.zip(part.query_scales.chunks_exact_mut(heads));
        for (at, (target, overflow)) in part.targets.iter().zip(part.overflows).enumerate() {
            let row = part.first + at;
            let fused = &self.rows[row * (query_width + 2 * kv_width)..];
            let (query, key_value) = fused[..query_width + 2 * kv_width].split_at(query_width);
            let angles = &angles[row];

            buffer.clear();
            buffer.extend_from_slice(key_value);
            for head in buffer[..kv_width].chunks_exact_mut(head_dim) {
                normalise(isa, head, key_norm, &mut block, overflow);
                rotate(isa, angles, head);
            }
            let heads = buffer.chunks_exact(head_dim).zip(kv.codes.chunks_exact_mut(head_dim));
            for ((values, codes), scale) in heads.zip(&mut kv.scales) {
                *scale = or_zero(quantise_i8(isa, values, codes), overflow);
            }
            // SAFETY: the caller's.
            unsafe { target.put(kv.row()) };
            if part.wanted.binary_search(&row).is_err() {
                continue;
            }
            let Some((codes, scales)) = queries.next() else { continue };
            buffer.clear();
            buffer.extend_from_slice(query);
            let heads = buffer.chunks_exact_mut(head_dim).zip(codes.chunks_exact_mut(head_dim));
            for ((values, codes), scale) in heads.zip(scales) {
                normalise(isa, values, query_norm, &mut block, overflow);
                rotate(isa, angles, values);
                let quantised = quantise_i16(isa, values, codes);
                *scale = or_zero(quantised, overflow) * plan.score_scale;
            }
        }
    }
}

/// Quantised keys and values of one row, before they are put in place.
struct KeyValue {
    /// `[keys, values][kv_heads][head_dim]`.
    codes: Vec<i8>,
    /// The scales, as `[keys, values][kv_heads]`.
    scales: Vec<f32>,
}

impl KeyValue {
    fn new(width: usize, heads: usize) -> Self {
        Self { codes: vec![0; 2 * width], scales: vec![0.0; 2 * heads] }
    }

    fn row(&self) -> RowRef<'_> {
        let (key_codes, value_codes) = self.codes.split_at(self.codes.len() / 2);
        let (key_scales, value_scales) = self.scales.split_at(self.scales.len() / 2);
        RowRef { key_codes, value_codes, key_scales, value_scales }
    }
}

/// Normalises a head if the layer says so.
fn normalise(
    isa: Isa,
    head: &mut [f32],
    norm: Option<&Norm>,
    block: &mut Block,
    overflow: &mut bool,
) {
    if let Some(norm) = norm {
        *overflow |= !norm_in_place(isa, head, norm.eps, &norm.gain, block);
    }
}

fn or_zero(scale: Result<f32, Overflow>, overflow: &mut bool) -> f32 {
    // default: a head that overflows is flagged, and its scale is defined as zero
    scale.unwrap_or_else(|Overflow| {
        *overflow = true;
        0.0
    })
}
