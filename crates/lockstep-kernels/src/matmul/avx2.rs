//! AVX2.
use std::ops::Range;

use super::{BLOCK, Packed, Planes};

pub(super) fn sums(w: Packed<'_>, blocks: Range<usize>, x: &Planes, out: &mut [[i64; BLOCK]]) {
    super::portable::sums(w, blocks, x, out);
}
