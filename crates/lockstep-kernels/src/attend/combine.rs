//! Chunks to outputs.

use lockstep_exact::attend::Chunk;
use lockstep_exact::num::Overflow;

use super::{Batch, Output, Partial};
use crate::isa::Isa;
use crate::kv::LANES;
use crate::rows::{per_isa, pow2};

/// The largest head.
const HEAD_MAX: usize = 512;

/// A chunk's numerators and how far its bits are below those of the largest chunk.
type Share<'a> = (u32, &'a [i32]);

/// Combines what the units of one key head gave (`[chunks][vectors]`) into that head's part of
/// the tile's rows.
pub(super) fn combine(
    isa: Isa,
    batch: &Batch<'_>,
    output: &mut Output<'_>,
    kv_head: usize,
    partials: &[Partial],
    numerators: &[i32],
) {
    let (group, head_dim, padded) = (batch.group_heads(), batch.head_dim(), batch.padded_head());
    let (chunks, vectors) = (output.tile.chunks.len(), batch.vectors(&output.tile));
    let mut seen: Vec<(&Chunk, &[i32])> = Vec::with_capacity(chunks);
    let mut shares: Vec<Share<'_>> = Vec::with_capacity(chunks);
    for vector in 0..vectors {
        let (row, head) = (vector / group, kv_head * group + vector % group);
        let out = &mut output.out[(row * batch.heads() + head) * head_dim..][..head_dim];
        seen.clear();
        let mut overflow = false;
        for chunk in 0..chunks {
            let index = chunk * vectors + vector;
            match &partials[index] {
                None => {}
                Some(Ok(chunk)) => seen.push((chunk, &numerators[index * padded..][..padded])),
                Some(Err(Overflow)) => overflow = true,
            }
        }
        if overflow {
            out.fill(0.0);
            output.overflows[row] = true;
        } else {
            combine_head(isa, &seen, &mut shares, out);
        }
    }
}

/// As [`lockstep_exact::attend::Combined`], a whole head at a time.
fn combine_head<'a>(
    isa: Isa,
    seen: &[(&Chunk, &'a [i32])],
    shares: &mut Vec<Share<'a>>,
    out: &mut [f32],
) {
    let top = seen.iter().map(|(chunk, _)| chunk.top).max().unwrap_or(0);
    let exponent = |chunk: &Chunk| chunk.exponent.map(|exponent| exponent + chunk.top);
    // Without a numerator there is no power of two either: the top alone may be anything.
    let Some(largest) = seen.iter().filter_map(|(chunk, _)| exponent(chunk)).max() else {
        out.fill(0.0);
        return;
    };
    let mut denominator = 0_u64;
    shares.clear();
    for (chunk, numerators) in seen {
        denominator += (chunk.denominator << 12) >> (top - chunk.top).min(63);
        if let Some(exponent) = exponent(chunk) {
            shares.push(((largest - exponent).min(63).cast_unsigned(), numerators));
        }
    }
    let power = largest - top + 22;
    if power < -100 {
        out.fill(0.0);
    } else {
        divide(isa, shares, denominator, pow2(power), out);
    }
}

per_isa! {
    fn divide(isa: Isa, shares: &[Share<'_>], denominator: u64, unit: f32, out: &mut [f32]) {
        let denominator = denominator as f32;
        let mut sums = [0_i64; HEAD_MAX];
        let padded = &mut sums[..out.len().next_multiple_of(LANES)];
        for (block, sums) in padded.chunks_exact_mut(LANES).enumerate() {
            let mut block_sums = [0_i64; LANES];
            for (shift, numerators) in shares {
                let numerators = &numerators[block * LANES..][..LANES];
                for (sum, &numerator) in block_sums.iter_mut().zip(numerators) {
                    *sum += (i64::from(numerator) << 20) >> shift;
                }
            }
            sums.copy_from_slice(&block_sums);
        }
        for (out, &sum) in out.iter_mut().zip(&sums) {
            *out = (sum as f32 / denominator) * unit;
        }
    }
}
