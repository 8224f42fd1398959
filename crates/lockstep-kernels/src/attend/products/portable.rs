//! The products of attention in plain Rust, for any processor.

use super::Product;
use crate::line::{DEPTH, LANES};

pub(super) fn multiply(product: &Product<'_>, sums: &mut [i32], width: usize) {
    let flip = product.vectors.signs.flip();
    for block in 0..product.panel.side {
        for vector in 0..product.vectors.count {
            let [codes] = product.codes(vector);
            let mut acc = [0_i32; LANES];
            for (line, codes) in product.block(block).zip(codes.chunks_exact(DEPTH)) {
                for (acc, lane) in acc.iter_mut().zip(line.0.chunks_exact(DEPTH)) {
                    for (&byte, &code) in lane.iter().zip(codes) {
                        *acc += i32::from((byte ^ flip).cast_signed()) * i32::from(code);
                    }
                }
            }
            sums[vector * width + block * LANES..][..LANES].copy_from_slice(&acc);
        }
    }
}
