//! A line of codes: what one step of a product of attention reads.

/// Lanes of a line.
pub(crate) const LANES: usize = 16;
/// Depth of a line.
pub(crate) const DEPTH: usize = 4;

/// 16 lanes of 4 codes: what one step of a product reads.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Line(pub(crate) [u8; LANES * DEPTH]);

impl Line {
    /// Lines as numbers, 16 to a line.
    pub(crate) const fn numbers(lines: &[Self]) -> &[f32] {
        // SAFETY: a line is 64 bytes, well aligned, and any bytes are f32.
        unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * LANES) }
    }
}
