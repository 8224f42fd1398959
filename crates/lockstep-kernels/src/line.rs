//! A line of codes: the 64 bytes that one step of attention's products reads.

/// The number of lanes of a line.
pub(crate) const LANES: usize = 16;
/// The number of codes of a lane.
pub(crate) const DEPTH: usize = 4;

/// 16 lanes of 4 codes: what one step of a product reads.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Line(pub(crate) [u8; LANES * DEPTH]);

impl Line {
    /// Returns lines as numbers, 16 to a line.
    pub(crate) const fn numbers(lines: &[Self]) -> &[f32] {
        // SAFETY: a line is 64 bytes, well aligned, and any bytes are f32.
        unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * LANES) }
    }
}
