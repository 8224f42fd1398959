//! Keys and values of a session in the form that attention multiplies.
//!
//! A *slab* holds 256 positions of all layers, each layer head by head: scales of keys, keys, scales
//! of values, values, in the order in which they are read. So all heads of a layer are one range of
//! memory. Keys lie like weights: blocks of 16
//! *positions*, in each step of 4 elements a line `[16 positions][4 elements]` of `code + 128`.
//! Values lie across: blocks of 16 *elements*, in each step of 4 positions a line `[16
//! elements][4 positions]` of signed codes. So both products of attention are sums over lines with
//! 4 broadcast numbers each. The 4 positions of a step are 16 apart ([`value_place`]): registers
//! of 16 weights then make up the broadcast numbers without any permutation.
//!
//! What lies at positions that are not (or no longer) written is unspecified, but scales are
//! always finite; nothing reads it into a result.

use lockstep_exact::kv::{KvCache, KvRow, KvRowError, KvShape, PAGE};

use crate::slabs::Slabs;

/// Lanes of a line.
pub(crate) const LANES: usize = 16;
/// Depth of a line.
pub(crate) const DEPTH: usize = 4;
/// Positions whose values fill whole lines.
pub(crate) const SPAN: usize = LANES * DEPTH;
/// Blocks of keys that lie side by side.
pub(crate) const KEY_SIDE: usize = 4;

/// 16 lanes of 4 codes: what one step of a product reads.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Line(pub(crate) [u8; LANES * DEPTH]);

/// Lines of 256 scales.
const SCALE_LINES: usize = PAGE * size_of::<f32>() / size_of::<Line>();

/// A session's keys and values for a span of layers.
#[derive(Debug, Default)]
pub struct Kv {
    layers: Vec<Layer>,
    /// `[layers][kv_heads][key scales, keys, value scales, values]`, 256 positions of each.
    slabs: Slabs,
}

#[derive(Clone, Copy, Debug)]
struct Layer {
    shape: KvShape,
    len: usize,
    /// Where the layer begins in each slab.
    first: usize,
}

/// What one head reads of 256 positions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head<'a> {
    /// All that is read with keys: their scales, then keys.
    pub(crate) key_half: &'a [Line],
    /// As `key_half`.
    pub(crate) value_half: &'a [Line],
    /// `[256 / 64][steps of 4 elements][4 blocks of 16 positions]`.
    pub(crate) keys: &'a [Line],
    /// `[64 steps of 4 positions][blocks of 16 elements]`.
    pub(crate) values: &'a [Line],
}

/// Codes and scales of one position, before they are put in place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowRef<'a> {
    pub(crate) key_codes: &'a [i8],
    pub(crate) value_codes: &'a [i8],
    pub(crate) key_scales: &'a [f32],
    pub(crate) value_scales: &'a [f32],
}

/// The line and the place in its depth of a position's values.
pub(crate) const fn value_place(place: usize) -> (usize, usize) {
    (place / SPAN * LANES + place % LANES, place % SPAN / LANES)
}

/// Where the lines of a position's key begin; they are [`KEY_SIDE`] apart.
const fn key_place(shape: KvShape, place: usize) -> usize {
    place / SPAN * KEY_SIDE * steps(shape) + place % SPAN / LANES
}

/// Lines of a block of keys.
const fn steps(shape: KvShape) -> usize {
    shape.head_dim.div_ceil(DEPTH)
}

/// Lines of a head's keys.
const fn key_lines(shape: KvShape) -> usize {
    PAGE / LANES * steps(shape)
}

/// Lines of a head's values.
const fn value_lines(shape: KvShape) -> usize {
    shape.head_dim.div_ceil(LANES) * PAGE / DEPTH
}

impl Line {
    /// Lines as numbers, 16 to a line.
    const fn numbers(lines: &[Self]) -> &[f32] {
        // SAFETY: a line is 64 bytes, well aligned, and any bytes are f32.
        unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * LANES) }
    }

    const fn numbers_mut(lines: &mut [Self]) -> &mut [f32] {
        // SAFETY: as above, and borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * LANES) }
    }
}

impl<'a> Head<'a> {
    fn new(shape: KvShape, lines: &'a [Line]) -> Self {
        let (key_half, value_half) = lines.split_at(SCALE_LINES + key_lines(shape));
        let (keys, values) = (&key_half[SCALE_LINES..], &value_half[SCALE_LINES..]);
        Self { key_half, value_half, keys, values }
    }

    /// One scale per position.
    pub(crate) fn key_scales(&self) -> &'a [f32] {
        Line::numbers(&self.key_half[..SCALE_LINES])
    }

    /// One scale per position.
    pub(crate) fn value_scales(&self) -> &'a [f32] {
        Line::numbers(&self.value_half[..SCALE_LINES])
    }
}

impl Layer {
    const fn head_lines(&self) -> usize {
        2 * SCALE_LINES + key_lines(self.shape) + value_lines(self.shape)
    }

    const fn lines(&self) -> usize {
        self.shape.kv_heads * self.head_lines()
    }
}

impl Kv {
    /// What `kv_head` reads of the positions `256 · chunk` and following.
    pub(crate) fn head(&self, layer: usize, chunk: usize, kv_head: usize) -> Head<'_> {
        let layer = &self.layers[layer];
        let count = layer.head_lines();
        let lines = &self.slabs.slab(chunk)[layer.first + kv_head * count..][..count];
        Head::new(layer.shape, lines)
    }

    /// Puts a row in its place; rows are written without gaps, a row that is there is replaced.
    pub(crate) fn put(&mut self, layer: usize, position: usize, row: RowRef<'_>) {
        let len = self.layers[layer].len;
        assert!(position <= len, "position {position} after {len} rows");
        if position / PAGE == self.slabs.len() {
            self.slabs.push();
        }
        let slab = self.slabs.slab_mut(position / PAGE);
        put(&self.layers[layer], slab, position % PAGE, row);
        self.layers[layer].len = len.max(position + 1);
    }
}

impl KvCache for Kv {
    fn new(layers: &[KvShape]) -> Self {
        let mut lines = 0;
        let layer = |&shape: &KvShape| {
            let layer = Layer { shape, len: 0, first: lines };
            lines += layer.lines();
            layer
        };
        let layers = layers.iter().map(layer).collect();
        Self { layers, slabs: Slabs::new(lines) }
    }

    fn len(&self) -> usize {
        self.layers.iter().map(|layer| layer.len).min().unwrap_or(0)
    }

    fn pages(&self) -> usize {
        self.layers.iter().map(|layer| layer.len.div_ceil(PAGE)).sum()
    }

    fn truncate(&mut self, len: usize) {
        for layer in &mut self.layers {
            layer.len = layer.len.min(len);
        }
        self.slabs.truncate(len.div_ceil(PAGE));
    }

    fn write_row(&mut self, layer: usize, position: usize, row: &[u8]) -> Result<(), KvRowError> {
        let KvRow { key_codes, value_codes, key_scales, value_scales } =
            KvRow::parse(self.layers[layer].shape, row)?;
        let row = RowRef {
            key_codes: &key_codes,
            value_codes: &value_codes,
            key_scales: &key_scales,
            value_scales: &value_scales,
        };
        self.put(layer, position, row);
        Ok(())
    }

    fn read_row(&self, layer: usize, position: usize, out: &mut Vec<u8>) {
        let Layer { shape, len, .. } = self.layers[layer];
        assert!(position < len, "position {position} of {len} rows");
        out.reserve(shape.row_bytes());
        let heads = || (0..shape.kv_heads).map(|head| self.head(layer, position / PAGE, head));
        let place = position % PAGE;
        for head in heads() {
            let start = out.len();
            let lines = head.keys[key_place(shape, place)..].iter().step_by(KEY_SIDE);
            for line in lines.take(steps(shape)) {
                let lane = &line.0[place % LANES * DEPTH..][..DEPTH];
                out.extend(lane.iter().map(|byte| byte ^ 0x80));
            }
            out.truncate(start + shape.head_dim);
        }
        let (step, depth) = value_place(place);
        for head in heads() {
            let start = out.len();
            let blocks = shape.head_dim.div_ceil(LANES);
            for line in &head.values[step * blocks..][..blocks] {
                out.extend(line.0.chunks_exact(DEPTH).map(|lane| lane[depth]));
            }
            out.truncate(start + shape.head_dim);
        }
        out.extend(heads().flat_map(|head| head.key_scales()[place].to_le_bytes()));
        out.extend(heads().flat_map(|head| head.value_scales()[place].to_le_bytes()));
    }
}

/// Writes a row at its place in the lines of a slab.
fn put(layer: &Layer, slab: &mut [Line], place: usize, row: RowRef<'_>) {
    let shape = layer.shape;
    let lines = slab[layer.first..].chunks_exact_mut(layer.head_lines());
    let keys = row.key_codes.chunks_exact(shape.head_dim).zip(row.key_scales);
    let values = row.value_codes.chunks_exact(shape.head_dim).zip(row.value_scales);
    for (lines, ((key, &key_scale), (value, &value_scale))) in lines.zip(keys.zip(values)) {
        let (keys, values) = lines.split_at_mut(SCALE_LINES + key_lines(shape));
        let (key_scales, keys) = keys.split_at_mut(SCALE_LINES);
        let (value_scales, values) = values.split_at_mut(SCALE_LINES);
        put_key(&mut keys[key_place(shape, place)..], place % LANES, key);
        put_value(values, place, value);
        Line::numbers_mut(key_scales)[place] = key_scale;
        Line::numbers_mut(value_scales)[place] = value_scale;
    }
}

fn put_key(block: &mut [Line], lane: usize, codes: &[i8]) {
    for (line, codes) in block.iter_mut().step_by(KEY_SIDE).zip(codes.chunks(DEPTH)) {
        for (to, &code) in line.0[lane * DEPTH..][..DEPTH].iter_mut().zip(codes) {
            *to = code.cast_unsigned() ^ 0x80;
        }
    }
}

fn put_value(values: &mut [Line], place: usize, codes: &[i8]) {
    let (step, depth) = value_place(place);
    let codes = codes.chunks(LANES);
    for (line, codes) in values[step * codes.len()..].iter_mut().zip(codes) {
        for (lane, &code) in line.0.chunks_exact_mut(DEPTH).zip(codes) {
            lane[depth] = code.cast_unsigned();
        }
    }
}
