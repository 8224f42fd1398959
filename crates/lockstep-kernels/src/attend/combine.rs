//! Combines the results of all chunks of a head into its output.

use lockstep_exact::attend::Chunk;
use lockstep_exact::num::Overflow;

use super::Partial;
use crate::isa::Isa;
use crate::isa::per_isa;
use crate::line::LANES;
use crate::rows::pow2;

/// Elements of a head that are summed together.
const TOGETHER: usize = 64;

/// The results of all chunks for one row and head.
#[derive(Clone, Copy)]
pub(super) struct HeadResults<'a> {
    pub(super) partials: &'a [Partial],
    /// The numerators, as `[partials][padded_head]`.
    pub(super) numerators: &'a [i32],
    /// The index of the earliest chunk's partial; the next ones follow at a distance of `stride`.
    pub(super) first: usize,
    pub(super) stride: usize,
    pub(super) padded_head: usize,
}

/// How many bits a chunk's numerators are below those of the largest chunk, and where they are.
pub(super) type Share = (u32, usize);

impl<'a> HeadResults<'a> {
    /// Returns the chunks that the row sees, each with the place of its numerators.
    fn seen(&self) -> impl Iterator<Item = (usize, Result<&'a Chunk, Overflow>)> {
        let partials = self.partials.iter().enumerate().skip(self.first).step_by(self.stride);
        let padded = self.padded_head;
        partials.filter_map(move |(at, partial)| match partial {
            None => None,
            Some(Ok(chunk)) => Some((at * padded, Ok(chunk))),
            Some(Err(Overflow)) => Some((at * padded, Err(Overflow))),
        })
    }
}

/// Combines what chunks gave into the output of a head, as [`lockstep_exact::attend::Combined`]
/// does; after an overflow it is 0. `shares` is scratch.
pub(super) fn combine(
    isa: Isa,
    results: &HeadResults<'_>,
    shares: &mut Vec<Share>,
    out: &mut [f32],
) -> Result<(), Overflow> {
    out.fill(0.0);
    let exponent = |chunk: &Chunk| chunk.exponent.map(|exponent| exponent + chunk.top);
    let (mut top, mut largest) = (None, None);
    for (_, chunk) in results.seen() {
        let chunk = chunk?;
        top = top.max(Some(chunk.top));
        largest = largest.max(exponent(chunk));
    }
    // Without a numerator there is no power of two either: the top alone may be anything.
    let (Some(top), Some(largest)) = (top, largest) else { return Ok(()) };
    let mut denominator = 0_u64;
    shares.clear();
    for (numerators, chunk) in results.seen() {
        let chunk = chunk?;
        denominator += (chunk.denominator << 12) >> (top - chunk.top).min(63);
        if let Some(exponent) = exponent(chunk) {
            shares.push(((largest - exponent).min(63).cast_unsigned(), numerators));
        }
    }
    let power = largest - top + 22;
    if power >= -100 {
        divide(isa, results.numerators, shares, denominator, pow2(power), out);
    }
    Ok(())
}

per_isa! {
    fn divide(
        isa: Isa,
        numerators: &[i32],
        shares: &[Share],
        denominator: u64,
        unit: f32,
        out: &mut [f32],
    ) {
        let denominator = denominator as f32;
        for (first, out) in (0..).step_by(TOGETHER).zip(out.chunks_mut(TOGETHER)) {
            let mut sums = [0_i64; TOGETHER];
            let sums = &mut sums[..out.len().next_multiple_of(LANES)];
            for &(shift, place) in shares {
                let numerators = &numerators[place + first..][..sums.len()];
                for (sum, &numerator) in sums.iter_mut().zip(numerators) {
                    *sum += (i64::from(numerator) << 20) >> shift;
                }
            }
            for (out, &sum) in out.iter_mut().zip(&*sums) {
                *out = (sum as f32 / denominator) * unit;
            }
        }
    }
}
