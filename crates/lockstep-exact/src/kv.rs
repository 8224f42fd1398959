//! Keys and values of past positions, in pages of 256 absolute positions (attention's chunks).
//!
//! A row (one position, one layer) has one canonical form: key codes `[kv_heads][head_dim]` i8,
//! value codes the same, key scales `[kv_heads]` f32 little-endian, value scales the same.
//! Attention reads exactly what that row says; there is no second copy.

use crate::num;

/// Positions of a page and of an attention chunk.
pub const PAGE: usize = 256;

/// The size of a row of keys and values of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// The number of heads of keys and of values.
    pub kv_heads: usize,
    /// The number of elements of a head.
    pub head_dim: usize,
}

impl KvShape {
    /// Returns the number of elements of all heads.
    #[must_use]
    pub const fn width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Returns the number of bytes of a canonical row.
    #[must_use]
    pub const fn row_bytes(&self) -> usize {
        2 * self.width() + 8 * self.kv_heads
    }
}

/// A session's keys and values for a span of layers. Positions are absolute; pages are allocated as
/// they are first written and freed by [`KvCache::truncate`].
pub trait KvCache {
    /// Creates an empty cache, with one shape per layer of the span.
    fn new(layers: &[KvShape]) -> Self;

    /// Makes a layer of the span, counted from the first, the one from which all other functions
    /// count layers until this is called again. That is the first in a new cache. So sessions with
    /// different spans go through the layers that they share as one batch.
    fn enter(&mut self, layer: usize);

    /// Returns the number of positions that every layer has a row for.
    fn len(&self) -> usize;

    /// Returns whether no position has been written.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of pages in use, over all layers.
    fn pages(&self) -> usize;

    /// Forgets all positions from `len` on.
    fn truncate(&mut self, len: usize);

    /// Writes the canonical row of a position; rows are written without gaps.
    ///
    /// # Errors
    /// [`KvRowError`] when the bytes have the wrong length or a scale that no quantisation gives.
    fn write_row(&mut self, layer: usize, position: usize, row: &[u8]) -> Result<(), KvRowError>;
}

/// A cache in the host's memory, whose rows can be read where they are. Rows of a device's cache
/// come by [`crate::ops::Host::take_kv`].
pub trait ReadKv: KvCache {
    /// Appends the canonical row of a position that has been written.
    fn read_row(&self, layer: usize, position: usize, out: &mut Vec<u8>);
}

/// Bytes that are not a canonical KV row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvRowError {
    /// A code is -128, which no quantisation gives.
    Code,
    /// The row has another number of bytes than its shape demands.
    Length {
        /// The number of bytes of a row.
        expected: usize,
        /// The number of bytes found.
        got: usize,
    },
    /// A scale that is not 0 and not in the range that quantisation gives.
    Scale,
}

impl core::fmt::Display for KvRowError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Code => f.write_str("KV row: code -128 (codes are -127..=127)"),
            Self::Length { expected, got } => {
                write!(f, "KV row: expected {expected} bytes, got {got}")
            }
            Self::Scale => f.write_str("KV row: a scale that no quantisation gives"),
        }
    }
}

impl core::error::Error for KvRowError {}

/// The codes and scales of a decoded canonical row.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct KvRow {
    /// The codes of the keys, head after head.
    pub key_codes: Vec<i8>,
    /// The codes of the values, head after head.
    pub value_codes: Vec<i8>,
    /// The scales of the keys, one per head.
    pub key_scales: Vec<f32>,
    /// The scales of the values, one per head.
    pub value_scales: Vec<f32>,
}

impl KvRow {
    /// Decodes a canonical row of this shape.
    ///
    /// # Errors
    /// [`KvRowError`].
    pub fn parse(shape: KvShape, row: &[u8]) -> Result<Self, KvRowError> {
        let (expected, got) = (shape.row_bytes(), row.len());
        if expected != got {
            return Err(KvRowError::Length { expected, got });
        }
        let (codes, scales) = row.split_at(2 * shape.width());
        if codes.contains(&0x80) {
            return Err(KvRowError::Code);
        }
        let codes: Vec<i8> = codes.iter().map(|&byte| byte as i8).collect();
        let scales: Vec<f32> = scales
            .chunks_exact(4)
            .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            .collect();
        if !scales.iter().all(|&scale| is_scale(scale)) {
            return Err(KvRowError::Scale);
        }
        let (key_codes, value_codes) = codes.split_at(shape.width());
        let (key_scales, value_scales) = scales.split_at(shape.kv_heads);
        Ok(Self {
            key_codes: key_codes.to_vec(),
            value_codes: value_codes.to_vec(),
            key_scales: key_scales.to_vec(),
            value_scales: value_scales.to_vec(),
        })
    }

    /// Appends the canonical bytes of the row to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.key_codes.iter().map(|&code| code as u8));
        out.extend(self.value_codes.iter().map(|&code| code as u8));
        for scale in self.key_scales.iter().chain(&self.value_scales) {
            out.extend_from_slice(&scale.to_le_bytes());
        }
    }
}

/// Returns whether a scale is +0 or in [2^-40/127, 2^55/127], rounded: what quantisation with 127
/// gives.
#[must_use]
pub fn is_scale(scale: f32) -> bool {
    let low = f32::from_bits(num::TINY_BITS) / 127.0;
    let high = f32::from_bits(num::OVERFLOW_BITS) / 127.0;
    scale.to_bits() == 0 || (low..=high).contains(&scale)
}

/// The reference cache: canonical rows, decoded, in pages.
#[derive(Clone, Debug, Default)]
pub struct ReferenceKv {
    shapes: Vec<KvShape>,
    layers: Vec<Vec<Vec<KvRow>>>,
    /// The layer from which layers are counted.
    entered: usize,
}

impl ReferenceKv {
    /// Returns the row of a position in a layer.
    #[must_use]
    pub fn row(&self, layer: usize, position: usize) -> &KvRow {
        &self.layers[self.entered + layer][position / PAGE][position % PAGE]
    }

    /// Puts a row in its place; a row that is there already is replaced.
    pub fn put(&mut self, layer: usize, position: usize, row: KvRow) {
        let pages = &mut self.layers[self.entered + layer];
        if position / PAGE == pages.len() {
            pages.push(Vec::with_capacity(PAGE));
        }
        let page = &mut pages[position / PAGE];
        match position % PAGE {
            place if place == page.len() => page.push(row),
            place => page[place] = row,
        }
    }
}

impl KvCache for ReferenceKv {
    fn new(layers: &[KvShape]) -> Self {
        Self { shapes: layers.to_vec(), layers: vec![Vec::new(); layers.len()], entered: 0 }
    }

    fn enter(&mut self, layer: usize) {
        self.entered = layer;
    }

    fn len(&self) -> usize {
        let positions = |pages: &Vec<Vec<KvRow>>| pages.iter().map(Vec::len).sum();
        // default: a cache of no layers holds no position
        self.layers.iter().map(positions).min().unwrap_or(0)
    }

    fn pages(&self) -> usize {
        self.layers.iter().map(Vec::len).sum()
    }

    fn truncate(&mut self, len: usize) {
        for pages in &mut self.layers {
            pages.truncate(len.div_ceil(PAGE));
            if let Some(page) = pages.get_mut(len / PAGE) {
                page.truncate(len % PAGE);
            }
        }
    }

    fn write_row(&mut self, layer: usize, position: usize, row: &[u8]) -> Result<(), KvRowError> {
        let row = KvRow::parse(self.shapes[self.entered + layer], row)?;
        self.put(layer, position, row);
        Ok(())
    }
}

impl ReadKv for ReferenceKv {
    fn read_row(&self, layer: usize, position: usize, out: &mut Vec<u8>) {
        self.row(layer, position).write(out);
    }
}
