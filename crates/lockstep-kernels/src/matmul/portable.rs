//! Plain Rust.
use std::ops::Range;

use super::{BLOCK, GROUP, Packed, Planes};

pub(super) fn sums(w: Packed<'_>, blocks: Range<usize>, x: &Planes, out: &mut [[i64; BLOCK]]) {
    let rows = x.rows();
    for (b, out) in blocks.zip(out.chunks_exact_mut(rows)) {
        let part = w.part(b, &(0..w.groups));
        for (m, out) in out.iter_mut().enumerate() {
            let codes = &x.codes[m * w.groups * GROUP..][..w.groups * GROUP];
            for (g, x) in codes.chunks_exact(GROUP).enumerate() {
                let mut acc = [0i32; BLOCK];
                for (s, x) in x.chunks_exact(4).enumerate() {
                    let w = &part.codes[(g * 16 + s) * 64..][..64];
                    for r in 0..BLOCK {
                        for c in 0..4 {
                            acc[r] += (i32::from(w[r * 4 + c]) - 128) * i32::from(x[c]);
                        }
                    }
                }
                for r in 0..BLOCK {
                    out[r] += i64::from(acc[r]) * i64::from(part.scales[g * BLOCK + r]);
                }
            }
        }
    }
}
