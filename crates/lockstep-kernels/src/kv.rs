//! Keys and values of a session in the form that attention multiplies.
//!
//! A *slab* holds 256 positions of all layers, each layer head by head: first the keys, then the
//! values, so that what one head reads is one range of memory. Keys lie like weights: blocks of 16
//! *positions*, in each step of 4 elements a line `[16 positions][4 elements]` of `code + 128`.
//! Values lie across: blocks of 16 *elements*, in each step of 4 positions a line `[16
//! elements][4 positions]` of signed codes. So both products of attention are sums over lines with
//! 4 broadcast numbers each. The 4 positions of a step are 16 apart ([`value_place`]): registers
//! of 16 weights then make up the broadcast numbers without any permutation.
//!
//! What lies at positions that are not (or no longer) written is unspecified, but scales are
//! always finite; nothing reads it into a result.

use lockstep_exact::kv::{KvCache, KvRow, KvRowError, KvShape, PAGE};

use crate::huge;

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

/// A session's keys and values for a span of layers.
#[derive(Clone, Debug, Default)]
pub struct Kv {
    layers: Vec<Layer>,
    slabs: Vec<Slab>,
}

#[derive(Clone, Copy, Debug)]
struct Layer {
    shape: KvShape,
    len: usize,
    /// Where the layer begins in each slab.
    lines: usize,
    scales: usize,
}

/// 256 positions of all layers.
#[derive(Clone, Debug)]
struct Slab {
    /// `[layers][kv_heads][keys, values]`.
    lines: Vec<Line>,
    /// `[layers][kv_heads][keys, values][256]`.
    scales: Vec<f32>,
}

/// What one head reads of 256 positions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head<'a> {
    /// `[256 / 64][steps of 4 elements][4 blocks of 16 positions]`.
    pub(crate) keys: &'a [Line],
    /// `[64 steps of 4 positions][blocks of 16 elements]`.
    pub(crate) values: &'a [Line],
    /// One scale per position.
    pub(crate) key_scales: &'a [f32],
    /// One scale per position.
    pub(crate) value_scales: &'a [f32],
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

impl Layer {
    const fn head_lines(&self) -> usize {
        key_lines(self.shape) + value_lines(self.shape)
    }
}

impl Kv {
    /// What `kv_head` reads of the positions `256 · chunk` and following.
    pub(crate) fn head(&self, layer: usize, chunk: usize, kv_head: usize) -> Head<'_> {
        let layer = &self.layers[layer];
        let slab = &self.slabs[chunk];
        let count = layer.head_lines();
        let lines = &slab.lines[layer.lines + kv_head * count..][..count];
        let (keys, values) = lines.split_at(key_lines(layer.shape));
        let scales = &slab.scales[layer.scales + kv_head * 2 * PAGE..][..2 * PAGE];
        let (key_scales, value_scales) = scales.split_at(PAGE);
        Head { keys, values, key_scales, value_scales }
    }

    /// Makes room for the row at `position`, which is then to be put there. Rows come without
    /// gaps; a row that is there is replaced.
    pub(crate) fn make_room(&mut self, layer: usize, position: usize) -> Room {
        let len = self.layers[layer].len;
        assert!(position <= len, "position {position} after {len} rows");
        if position / PAGE == self.slabs.len() {
            self.slabs.push(Slab::new(&self.layers));
        }
        self.layers[layer].len = len.max(position + 1);
        let Layer { shape, lines, scales, .. } = self.layers[layer];
        let slab = &mut self.slabs[position / PAGE];
        let end = lines + shape.kv_heads * self.layers[layer].head_lines();
        assert!(end <= slab.lines.len(), "lines of a layer");
        assert!(scales + shape.kv_heads * 2 * PAGE <= slab.scales.len(), "scales of a layer");
        // SAFETY: inside the memory of the slab, as asserted; no reference to it is made, which
        // would end what other rooms may do.
        let (lines, scales) = unsafe {
            (slab.lines.as_mut_ptr().add(lines).cast(), slab.scales.as_mut_ptr().add(scales))
        };
        Room { shape, place: position % PAGE, lines, scales }
    }

    /// Puts a row in its place, as [`Kv::make_room`] says.
    fn put(&mut self, layer: usize, position: usize, row: RowRef<'_>) {
        let room = self.make_room(layer, position);
        // SAFETY: the cache is borrowed here, and this is the only room that is written to.
        unsafe { room.put(row) };
    }
}

impl KvCache for Kv {
    fn new(layers: &[KvShape]) -> Self {
        let (mut lines, mut scales) = (0, 0);
        let layer = |&shape: &KvShape| {
            let layer = Layer { shape, len: 0, lines, scales };
            lines += shape.kv_heads * layer.head_lines();
            scales += shape.kv_heads * 2 * PAGE;
            layer
        };
        Self { layers: layers.iter().map(layer).collect(), slabs: Vec::new() }
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
        out.extend(heads().flat_map(|head| head.key_scales[place].to_le_bytes()));
        out.extend(heads().flat_map(|head| head.value_scales[place].to_le_bytes()));
    }
}

impl Slab {
    fn new(layers: &[Layer]) -> Self {
        let end = layers.last().map_or((0, 0), |layer| {
            let heads = layer.shape.kv_heads;
            (layer.lines + heads * layer.head_lines(), layer.scales + heads * 2 * PAGE)
        });
        let mut lines = huge::with_capacity(end.0);
        lines.resize(end.0, Line([0; LANES * DEPTH]));
        Self { lines, scales: vec![0.0; end.1] }
    }
}

/// Where one position's row of a layer goes. Threads may put rows of different positions at once:
/// they lie in the same lines, but share no byte.
#[derive(Clone, Copy)]
pub(crate) struct Room {
    shape: KvShape,
    /// The position in its slab.
    place: usize,
    /// The layer's lines, byte by byte, and scales.
    lines: *mut u8,
    scales: *mut f32,
}

// SAFETY: it points to plain numbers; `Room::put` asks for what keeps writes apart.
unsafe impl Send for Room {}
// SAFETY: as above.
unsafe impl Sync for Room {}

impl Room {
    /// Writes the row.
    ///
    /// # Safety
    /// The cache that this is a room of lives and is not truncated; meanwhile nobody else reads the
    /// layer or writes this position of it.
    pub(crate) unsafe fn put(self, row: RowRef<'_>) {
        let Self { shape, place, lines, scales } = self;
        let key_bytes = key_lines(shape) * size_of::<Line>();
        let head_bytes = key_bytes + value_lines(shape) * size_of::<Line>();
        let keys = row.key_codes.chunks_exact(shape.head_dim).zip(row.key_scales);
        let values = row.value_codes.chunks_exact(shape.head_dim).zip(row.value_scales);
        for (head, ((key, &key_scale), (value, &value_scale))) in
            keys.zip(values).take(shape.kv_heads).enumerate()
        {
            // SAFETY: `Kv::make_room` has seen that there are lines and scales for all heads, and
            // what is written of them belongs to this position.
            unsafe {
                let keys = lines.add(head * head_bytes);
                put_key(keys, shape, place, key);
                put_value(keys.add(key_bytes), place, value);
                scales.add(head * 2 * PAGE + place).write(key_scale);
                scales.add(head * 2 * PAGE + PAGE + place).write(value_scale);
            }
        }
    }
}

/// # Safety
/// `keys` are the lines of a head's keys, which nobody else reads, or writes at this place.
unsafe fn put_key(keys: *mut u8, shape: KvShape, place: usize, codes: &[i8]) {
    let first = key_place(shape, place) * size_of::<Line>() + place % LANES * DEPTH;
    let stored = |code: i8| code.cast_unsigned() ^ 0x80;
    let (whole, rest) = codes.as_chunks::<DEPTH>();
    // SAFETY: a lane of the keys, as the caller says.
    let lane = |step| unsafe { keys.add(first + step * KEY_SIDE * size_of::<Line>()) };
    for (step, codes) in whole.iter().enumerate() {
        // SAFETY: as above; a lane is as many bytes.
        unsafe { lane(step).cast::<[u8; DEPTH]>().write(codes.map(stored)) };
    }
    for (at, &code) in rest.iter().enumerate() {
        // SAFETY: as above: fewer bytes than a lane has.
        unsafe { lane(whole.len()).add(at).write(stored(code)) };
    }
}

/// # Safety
/// As [`put_key`], of values.
unsafe fn put_value(values: *mut u8, place: usize, codes: &[i8]) {
    let (step, depth) = value_place(place);
    let first = step * codes.len().div_ceil(LANES) * size_of::<Line>() + depth;
    for (lane, &code) in codes.iter().enumerate() {
        // SAFETY: in a line of the values, as the caller says: lines of 16 elements follow one
        // another.
        unsafe { values.add(first + lane * DEPTH).write(code.cast_unsigned()) };
    }
}
