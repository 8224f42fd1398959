//! Keys and values of a session in the form that attention multiplies.
//!
//! A *slab* holds 256 positions of all layers, each layer head by head: scales of keys, keys,
//! scales of values, values, in the order in which they are read. So all heads of a layer are one
//! range of memory. Keys lie like weights: blocks of 16 *positions*, in each step of 4 elements a
//! line `[16 positions][4 elements]` of `code + 128`. Values lie across: blocks of 16 *elements*,
//! in each step of 4 positions a line `[16 elements][4 positions]` of signed codes. So both
//! products of attention are sums over lines with 4 broadcast numbers each. The 4 positions of a
//! step are 16 apart ([`value_place`]): registers of 16 weights then make up the broadcast numbers
//! without any permutation.
//!
//! What lies at positions that are not (or no longer) written is unspecified, but scales are
//! always finite; nothing reads it into a result.

use lockstep_exact::kv::{KvCache, KvRow, KvRowError, KvShape, PAGE, ReadKv};

use crate::line::{DEPTH, LANES, Line};
use crate::slabs::Slabs;

/// Positions whose values fill whole lines.
pub(crate) const SPAN: usize = LANES * DEPTH;
/// Blocks of keys that lie side by side.
pub(crate) const KEY_SIDE: usize = 4;

/// The number of lines that 256 scales take.
const SCALE_LINES: usize = PAGE * size_of::<f32>() / size_of::<Line>();

/// A session's keys and values for a span of layers.
#[derive(Debug, Default)]
pub struct Kv {
    layers: Vec<Layer>,
    /// `[layers][kv_heads][key scales, keys, value scales, values]`, 256 positions of each.
    slabs: Slabs,
    /// The layer from which layers are counted.
    entered: usize,
}

#[derive(Clone, Copy, Debug)]
struct Layer {
    shape: KvShape,
    len: usize,
    /// The line at which the layer begins in each slab.
    first: usize,
}

/// The lines that one head reads of 256 positions, or of as many of them as have been written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head<'a> {
    /// The number of spans, of 64 positions each.
    pub(crate) spans: usize,
    /// All that is read with keys: their scales, then keys.
    pub(crate) key_half: &'a [Line],
    /// The values' lines, laid out as `key_half` is.
    pub(crate) value_half: &'a [Line],
    /// `[spans][steps of 4 elements][4 blocks of 16 positions]`.
    pub(crate) keys: &'a [Line],
    /// `[spans][16 steps of 4 positions][blocks of 16 elements]`.
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

/// Returns the line within a head's values of a position in its page, and the position's place in
/// the depth of that line.
pub(crate) const fn value_place(place: usize) -> (usize, usize) {
    (place / SPAN * LANES + place % LANES, place % SPAN / LANES)
}

/// Returns the index within a head's keys of the first line of a position's key; the others follow
/// [`KEY_SIDE`] lines apart.
const fn key_place(shape: KvShape, place: usize) -> usize {
    place / SPAN * KEY_SIDE * steps(shape) + place % SPAN / LANES
}

/// Returns the number of lines of a block of keys.
const fn steps(shape: KvShape) -> usize {
    shape.head_dim.div_ceil(DEPTH)
}

/// Returns the number of lines of a head's keys.
const fn key_lines(shape: KvShape) -> usize {
    PAGE / LANES * steps(shape)
}

/// Returns the number of lines of a head's values.
const fn value_lines(shape: KvShape) -> usize {
    shape.head_dim.div_ceil(LANES) * PAGE / DEPTH
}

/// Returns the number of lines of all that is read with a head's keys: their scales, and
/// themselves.
const fn key_half_lines(shape: KvShape) -> usize {
    SCALE_LINES + key_lines(shape)
}

/// Returns the number of lines of all that is read with a head's values: their scales, and
/// themselves.
const fn value_half_lines(shape: KvShape) -> usize {
    SCALE_LINES + value_lines(shape)
}

/// Returns the number of lines of a head.
const fn head_lines(shape: KvShape) -> usize {
    key_half_lines(shape) + value_half_lines(shape)
}

impl<'a> Head<'a> {
    fn new(shape: KvShape, lines: &'a [Line], spans: usize) -> Self {
        let (key_half, value_half) = lines.split_at(key_half_lines(shape));
        let part = |lines: usize| SCALE_LINES + lines / (PAGE / SPAN) * spans;
        let key_half = &key_half[..part(key_lines(shape))];
        let value_half = &value_half[..part(value_lines(shape))];
        let (keys, values) = (&key_half[SCALE_LINES..], &value_half[SCALE_LINES..]);
        Self { spans, key_half, value_half, keys, values }
    }

    /// Returns the keys' scales, one per position.
    pub(crate) fn key_scales(&self) -> &'a [f32] {
        Line::numbers(&self.key_half[..SCALE_LINES])
    }

    /// Returns the values' scales, one per position.
    pub(crate) fn value_scales(&self) -> &'a [f32] {
        Line::numbers(&self.value_half[..SCALE_LINES])
    }
}

impl Layer {
    const fn lines(&self) -> usize {
        self.shape.kv_heads * head_lines(self.shape)
    }
}

impl Kv {
    /// Returns the lines that `kv_head` reads of the positions from `256 · chunk` on; the chunk
    /// must be one that has rows.
    pub(crate) fn head(&self, layer: usize, chunk: usize, kv_head: usize) -> Head<'_> {
        let layer = &self.layers[self.entered + layer];
        let count = head_lines(layer.shape);
        let lines = &self.slabs.slab(chunk)[layer.first + kv_head * count..][..count];
        let spans = layer.len.saturating_sub(chunk * PAGE).min(PAGE).div_ceil(SPAN);
        Head::new(layer.shape, lines, spans)
    }

    /// Makes room for the row at `position`, which is then to be put there. Rows come without
    /// gaps; a row that is there is replaced.
    pub(crate) fn make_room(&mut self, layer: usize, position: usize) -> RowTarget {
        let layer = self.entered + layer;
        let len = self.layers[layer].len;
        assert!(position <= len, "position {position} after {len} rows");
        if position / PAGE == self.slabs.len() {
            self.slabs.push();
        }
        let Layer { shape, first, .. } = self.layers[layer];
        self.layers[layer].len = len.max(position + 1);
        assert!(first + self.layers[layer].lines() <= self.slabs.lines(), "lines of a layer");
        // SAFETY: inside the slab, as asserted.
        let lines = unsafe { self.slabs.start(position / PAGE).add(first).cast() };
        RowTarget { shape, place: position % PAGE, lines }
    }

    /// Puts a row in its place, as [`Kv::make_room`] says.
    fn put(&mut self, layer: usize, position: usize, row: RowRef<'_>) {
        let target = self.make_room(layer, position);
        // SAFETY: the cache is borrowed here, and this is the only target that is written to.
        unsafe { target.put(row) };
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
        Self { layers, slabs: Slabs::new(lines), entered: 0 }
    }

    fn enter(&mut self, layer: usize) {
        self.entered = layer;
    }

    fn len(&self) -> usize {
        // default: a cache without layers holds no positions
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
            KvRow::parse(self.layers[self.entered + layer].shape, row)?;
        let row = RowRef {
            key_codes: &key_codes,
            value_codes: &value_codes,
            key_scales: &key_scales,
            value_scales: &value_scales,
        };
        self.put(layer, position, row);
        Ok(())
    }
}

impl ReadKv for Kv {
    fn read_row(&self, layer: usize, position: usize, out: &mut Vec<u8>) {
        let Layer { shape, len, .. } = self.layers[self.entered + layer];
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

/// The place for one position's row of a layer. Threads may write rows of different positions at
/// once: they lie in the same lines, but share no byte.
#[derive(Clone, Copy)]
pub(crate) struct RowTarget {
    shape: KvShape,
    /// The number of the position in its slab.
    place: usize,
    /// The layer's lines, byte by byte.
    lines: *mut u8,
}

// SAFETY: it points to plain numbers; `RowTarget::put` asks for what keeps writes apart.
unsafe impl Send for RowTarget {}
// SAFETY: as above.
unsafe impl Sync for RowTarget {}

impl RowTarget {
    /// Writes the row of the position.
    ///
    /// # Safety
    /// The cache that the target is in lives and is not truncated; meanwhile nobody else reads the
    /// layer or writes this position of it.
    pub(crate) unsafe fn put(self, row: RowRef<'_>) {
        let Self { shape, place, lines } = self;
        let scale_bytes = SCALE_LINES * size_of::<Line>();
        let key_half_bytes = key_half_lines(shape) * size_of::<Line>();
        let head_bytes = head_lines(shape) * size_of::<Line>();
        let keys = row.key_codes.chunks_exact(shape.head_dim).zip(row.key_scales);
        let values = row.value_codes.chunks_exact(shape.head_dim).zip(row.value_scales);
        for (head, ((key, &key_scale), (value, &value_scale))) in
            keys.zip(values).take(shape.kv_heads).enumerate()
        {
            // SAFETY: `Kv::make_room` has seen that there are lines for all heads, and what is
            // written of them belongs to this position.
            unsafe {
                let keys = lines.add(head * head_bytes);
                let values = keys.add(key_half_bytes);
                keys.cast::<f32>().add(place).write(key_scale);
                put_key(keys.add(scale_bytes), shape, place, key);
                values.cast::<f32>().add(place).write(value_scale);
                put_value(values.add(scale_bytes), place, value);
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
