//! Chunks to outputs.

use lockstep_exact::attend::Chunk;
use lockstep_exact::kv::PAGE;
use lockstep_exact::num::Overflow;

use super::{Batch, Partial, Tile};
use crate::isa::Isa;
use crate::pool::Pool;
use crate::rows::{per_isa, pow2};

/// The rows of a tile, to be written.
struct Output<'a> {
    tile: &'a Tile,
    partials: &'a [Partial],
    numerators: &'a [i32],
    out: &'a mut [f32],
    overflows: &'a mut [bool],
}

/// Combines what the units of `tiles` gave (in their order) into the rows of `out`.
#[expect(clippy::too_many_arguments, reason = "two inputs and two outputs of a whole batch")]
pub(super) fn combine(
    isa: Isa,
    pool: &Pool,
    batch: &Batch<'_>,
    tiles: &[Tile],
    partials: &[Partial],
    numerators: &[i32],
    out: &mut [f32],
    overflows: &mut [bool],
) {
    let width = batch.heads() * batch.head_dim();
    let Some(first_row) = tiles.first().map(|tile| tile.rows.start) else { return };
    let shared = partials.len() * PAGE >= super::SHARED_SCORES;
    let (mut partials, mut numerators) = (partials, numerators);
    let (mut out, mut overflows) = (&mut out[first_row * width..], &mut overflows[first_row..]);
    let mut outputs = Vec::with_capacity(tiles.len());
    for tile in tiles {
        let count = batch.partials(tile);
        let (now, later) = partials.split_at(count);
        partials = later;
        let (sums, later) = numerators.split_at(count * batch.padded_head());
        numerators = later;
        let (rows, later) = out.split_at_mut(tile.rows.len() * width);
        out = later;
        let (flags, later) = overflows.split_at_mut(tile.rows.len());
        overflows = later;
        let output = Output { tile, partials: now, numerators: sums, out: rows, overflows: flags };
        outputs.push(output);
    }
    if shared {
        pool.each(outputs, |output| combine_tile(isa, batch, output));
    } else {
        outputs.into_iter().for_each(|output| combine_tile(isa, batch, output));
    }
}

fn combine_tile(isa: Isa, batch: &Batch<'_>, output: Output<'_>) {
    let Output { tile, partials, numerators, out, overflows } = output;
    let (group, head_dim, padded) = (batch.group_heads(), batch.head_dim(), batch.padded_head());
    let per_chunk = tile.rows.len() * group;
    let mut shares = Vec::with_capacity(tile.chunks.len());
    let mut sums = vec![0; head_dim];
    for (at, out) in out.chunks_exact_mut(head_dim).enumerate() {
        let (row, head) = (at / batch.heads(), at % batch.heads());
        let (kv_head, vector) = (head / group, row * group + head % group);
        shares.clear();
        let mut overflow = false;
        for chunk in 0..tile.chunks.len() {
            let index = (kv_head * tile.chunks.len() + chunk) * per_chunk + vector;
            match &partials[index] {
                None => {}
                Some(Ok(chunk)) => {
                    shares.push((chunk, &numerators[index * padded..][..head_dim]));
                }
                Some(Err(Overflow)) => overflow = true,
            }
        }
        if overflow {
            out.fill(0.0);
            overflows[row] = true;
        } else {
            combine_head(isa, &shares, &mut sums, out);
        }
    }
}

/// As [`lockstep_exact::attend::Combined`], a whole head at a time.
fn combine_head(isa: Isa, shares: &[(&Chunk, &[i32])], sums: &mut [i64], out: &mut [f32]) {
    let top = shares.iter().map(|(chunk, _)| chunk.top).max().unwrap_or(0);
    let exponent = |chunk: &Chunk| chunk.exponent.map(|exponent| exponent + chunk.top);
    // Without a numerator there is no power of two either: the top alone may be anything.
    let Some(largest) = shares.iter().filter_map(|(chunk, _)| exponent(chunk)).max() else {
        out.fill(0.0);
        return;
    };
    let mut denominator = 0_u64;
    sums.fill(0);
    for (chunk, numerators) in shares {
        denominator += (chunk.denominator << 12) >> (top - chunk.top).min(63);
        if let Some(exponent) = exponent(chunk) {
            add_shifted(isa, numerators, (largest - exponent).min(63).cast_unsigned(), sums);
        }
    }
    let power = largest - top + 22;
    if power < -100 {
        out.fill(0.0);
    } else {
        divide(isa, sums, denominator, pow2(power), out);
    }
}

per_isa! {
    fn add_shifted(isa: Isa, numerators: &[i32], shift: u32, sums: &mut [i64]) {
        for (sum, &numerator) in sums.iter_mut().zip(numerators) {
            *sum += (i64::from(numerator) << 20) >> shift;
        }
    }
}

per_isa! {
    fn divide(isa: Isa, sums: &[i64], denominator: u64, unit: f32, out: &mut [f32]) {
        let denominator = denominator as f32;
        for (out, &sum) in out.iter_mut().zip(sums) {
            *out = (sum as f32 / denominator) * unit;
        }
    }
}
