//! Keys and values of a session in the form that attention multiplies.
//!
//! A page holds 256 positions of one layer. Keys lie like weights: blocks of 16 *positions*, in
//! each step of 4 elements a line `[16 positions][4 elements]` of `code + 128`. Values lie
//! across: blocks of 16 *elements*, in each step of 4 positions a line `[16 elements][4
//! positions]` of signed codes. So both products of attention are sums over lines with 4
//! broadcast numbers each.
//!
//! What lies at positions that are not (or no longer) written is unspecified; nothing reads it
//! into a result.

use lockstep_exact::kv::{KvCache, KvRow, KvRowError, KvShape, PAGE};

/// Lanes of a line.
pub(crate) const LANES: usize = 16;
/// Depth of a line.
pub(crate) const DEPTH: usize = 4;

/// 16 lanes of 4 codes: what one step of a product reads.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Line(pub(crate) [u8; LANES * DEPTH]);

/// A session's keys and values for a span of layers.
#[derive(Clone, Debug, Default)]
pub struct Kv {
    layers: Vec<Layer>,
}

#[derive(Clone, Debug)]
struct Layer {
    shape: KvShape,
    len: usize,
    pages: Vec<Page>,
}

/// 256 positions of one layer.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    head_dim: usize,
    /// `[kv_heads][256 / 16][steps of 4 elements]`.
    keys: Vec<Line>,
    /// `[kv_heads][blocks of 16 elements][256 / 4]`.
    values: Vec<Line>,
    /// `[kv_heads][256]`.
    key_scales: Vec<f32>,
    /// `[kv_heads][256]`.
    value_scales: Vec<f32>,
}

/// Codes and scales of one position, before they are put in place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowRef<'a> {
    pub(crate) key_codes: &'a [i8],
    pub(crate) value_codes: &'a [i8],
    pub(crate) key_scales: &'a [f32],
    pub(crate) value_scales: &'a [f32],
}

impl Kv {
    /// The page with the positions `256 · chunk` and following.
    pub(crate) fn page(&self, layer: usize, chunk: usize) -> &Page {
        &self.layers[layer].pages[chunk]
    }

    /// Puts a row in its place; rows are written without gaps, a row that is there is replaced.
    pub(crate) fn put(&mut self, layer: usize, position: usize, row: RowRef<'_>) {
        let layer = &mut self.layers[layer];
        assert!(position <= layer.len, "position {position} after {} rows", layer.len);
        if position / PAGE == layer.pages.len() {
            layer.pages.push(Page::new(layer.shape));
        }
        layer.pages[position / PAGE].put(position % PAGE, row);
        layer.len = layer.len.max(position + 1);
    }
}

impl KvCache for Kv {
    fn new(layers: &[KvShape]) -> Self {
        let layer = |&shape| Layer { shape, len: 0, pages: Vec::new() };
        Self { layers: layers.iter().map(layer).collect() }
    }

    fn len(&self) -> usize {
        self.layers.iter().map(|layer| layer.len).min().unwrap_or(0)
    }

    fn pages(&self) -> usize {
        self.layers.iter().map(|layer| layer.pages.len()).sum()
    }

    fn truncate(&mut self, len: usize) {
        for layer in &mut self.layers {
            layer.len = layer.len.min(len);
            layer.pages.truncate(len.div_ceil(PAGE));
        }
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
        let Layer { shape, len, pages } = &self.layers[layer];
        assert!(position < *len, "position {position} of {len} rows");
        pages[position / PAGE].read(position % PAGE, shape.kv_heads, out);
    }
}

impl Page {
    fn new(KvShape { kv_heads, head_dim }: KvShape) -> Self {
        let keys = kv_heads * PAGE / LANES * head_dim.div_ceil(DEPTH);
        let values = kv_heads * head_dim.div_ceil(LANES) * PAGE / DEPTH;
        Self {
            head_dim,
            keys: vec![Line([128; LANES * DEPTH]); keys],
            values: vec![Line([0; LANES * DEPTH]); values],
            key_scales: vec![0.0; kv_heads * PAGE],
            value_scales: vec![0.0; kv_heads * PAGE],
        }
    }

    /// The keys of a head: blocks of 16 positions, each `head_dim / 4` lines (rounded up).
    pub(crate) fn keys(&self, kv_head: usize) -> &[Line] {
        let lines = PAGE / LANES * self.head_dim.div_ceil(DEPTH);
        &self.keys[kv_head * lines..][..lines]
    }

    /// The values of a head: blocks of 16 elements, each 64 lines.
    pub(crate) fn values(&self, kv_head: usize) -> &[Line] {
        let lines = self.head_dim.div_ceil(LANES) * PAGE / DEPTH;
        &self.values[kv_head * lines..][..lines]
    }

    /// One scale per position.
    pub(crate) fn key_scales(&self, kv_head: usize) -> &[f32] {
        &self.key_scales[kv_head * PAGE..][..PAGE]
    }

    /// One scale per position.
    pub(crate) fn value_scales(&self, kv_head: usize) -> &[f32] {
        &self.value_scales[kv_head * PAGE..][..PAGE]
    }

    fn put(&mut self, place: usize, row: RowRef<'_>) {
        let head_dim = self.head_dim;
        let steps = head_dim.div_ceil(DEPTH);
        for (head, codes) in row.key_codes.chunks_exact(head_dim).enumerate() {
            let first = (head * PAGE / LANES + place / LANES) * steps;
            let lane = place % LANES * DEPTH;
            for (line, codes) in self.keys[first..first + steps].iter_mut().zip(codes.chunks(DEPTH))
            {
                for (to, &code) in line.0[lane..lane + DEPTH].iter_mut().zip(codes) {
                    *to = code.cast_unsigned() ^ 0x80;
                }
            }
            self.key_scales[head * PAGE + place] = row.key_scales[head];
        }
        let blocks = head_dim.div_ceil(LANES);
        for (head, codes) in row.value_codes.chunks_exact(head_dim).enumerate() {
            for (block, codes) in codes.chunks(LANES).enumerate() {
                let line = (head * blocks + block) * (PAGE / DEPTH) + place / DEPTH;
                let line = &mut self.values[line].0;
                for (lane, &code) in codes.iter().enumerate() {
                    line[lane * DEPTH + place % DEPTH] = code.cast_unsigned();
                }
            }
            self.value_scales[head * PAGE + place] = row.value_scales[head];
        }
    }

    fn read(&self, place: usize, kv_heads: usize, out: &mut Vec<u8>) {
        out.reserve(KvShape { kv_heads, head_dim: self.head_dim }.row_bytes());
        let steps = self.head_dim.div_ceil(DEPTH);
        for head in 0..kv_heads {
            let keys = &self.keys(head)[place / LANES * steps..][..steps];
            let start = out.len();
            for line in keys {
                let lane = &line.0[place % LANES * DEPTH..][..DEPTH];
                out.extend(lane.iter().map(|byte| byte ^ 0x80));
            }
            out.truncate(start + self.head_dim);
        }
        for head in 0..kv_heads {
            let start = out.len();
            for block in self.values(head).chunks_exact(PAGE / DEPTH) {
                let lanes = block[place / DEPTH].0.chunks_exact(DEPTH);
                out.extend(lanes.map(|lane| lane[place % DEPTH]));
            }
            out.truncate(start + self.head_dim);
        }
        for scales in [&self.key_scales, &self.value_scales] {
            let scales = scales.chunks_exact(PAGE).map(|head| head[place]);
            out.extend(scales.flat_map(f32::to_le_bytes));
        }
    }
}
