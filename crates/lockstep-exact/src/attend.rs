//! Attention of one query head, in one pass over keys and values, in integers.
//!
//! Scores are in log2 units. Positions come in chunks of 256 consecutive *absolute* positions, so
//! the result does not depend on how the sequence was fed in. Each chunk has its own integer
//! maximum and its own block-i16 of weights; chunks are combined by shifts. `docs/arithmetic.md`
//! derives the ranges.

use std::ops::Range;

use crate::kv::PAGE;
use crate::num::{self, Overflow};

/// One quantised query head at one position.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// The codes of the head's elements, in ±32512.
    pub codes: &'a [i16],
    /// Their scale, times the layer's score scale.
    pub scale: f32,
}

/// Key and value of one position, one head.
#[derive(Clone, Copy, Debug)]
pub struct Past<'a> {
    /// The codes of the key's elements, in ±127.
    pub key: &'a [i8],
    /// The number that a key code is multiplied by.
    pub key_scale: f32,
    /// The codes of the value's elements, in ±127.
    pub value: &'a [i8],
    /// The number that a value code is multiplied by.
    pub value_scale: f32,
}

/// Returns the first position that a query at `position` sees; a window of 0 sees all.
#[must_use]
pub const fn first_position(window: u32, position: usize) -> usize {
    if window == 0 { 0 } else { (position + 1).saturating_sub(window as usize) }
}

/// A score in parts: `2^t = m · 2^n`, m in [2^-1/2, 2^1/2].
#[derive(Clone, Copy, Debug)]
pub struct Score {
    /// The integer nearest to the score `t`; of two, the even one.
    pub n: i32,
    /// 2 to the power of the fraction.
    pub m: f32,
}

impl Score {
    /// The parts of a score of 0.
    pub(crate) const ZERO: Self = Self { n: 0, m: 1.0 };
}

/// Splits the score `t = f32(dot) · (query_scale · key_scale)` into its parts.
///
/// # Errors
/// [`Overflow`] when |t| is 2^20 or more, or not a number.
pub fn score(dot: i32, query_scale: f32, key_scale: f32) -> Result<Score, Overflow> {
    split(dot as f32 * (query_scale * key_scale))
}

/// Splits a score `t`, in log2 units, into its parts.
///
/// # Errors
/// As [`score`].
pub fn split(t: f32) -> Result<Score, Overflow> {
    // 2^20, by bits: infinity and NaN are above it too.
    if t.to_bits() & 0x7fff_ffff >= (127 + 20) << 23 {
        return Err(Overflow);
    }
    let n = num::rne(t);
    Ok(Score { n, m: num::exp2_fraction(t - n as f32) })
}

/// The contribution of the positions of one chunk to the attention of one head.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// The largest integer part of its scores.
    pub top: i32,
    /// Σ rne(m · 2^(30 - (top - n))), below 2^39.
    pub denominator: u64,
    /// Exponent of its numerator, `None` if all weights are zero.
    pub exponent: Option<i32>,
}

/// Computes the weight of a score in the denominator's integer sum, rne(m · 2^(30 - (top - n))): 0
/// where the score is 32 or more powers of two below `top`.
#[must_use]
pub fn denominator_weight(score: Score, top: i32) -> i32 {
    let below = top - score.n;
    if below > 40 { 0 } else { num::rne(score.m * num::pow2(30 - below)) }
}

/// Computes the weight of a value in its chunk, m · 2^-(top - n) · `value_scale`, before block-i16;
/// 0 where the score is more than 40 powers of two below `top`.
#[must_use]
pub fn numerator_weight(score: Score, top: i32, value_scale: f32) -> f32 {
    let below = top - score.n;
    if below > 40 { 0.0 } else { (score.m * num::pow2(-below)) * value_scale }
}

/// Combines chunks: sums with integer shifts, one division per element.
#[derive(Clone, Debug)]
pub struct Combined {
    top: i32,
    /// `None` if no chunk has a numerator.
    exponent: Option<i32>,
    denominator: u64,
}

impl Combined {
    /// Computes the common top and exponent of all chunks, and the whole denominator.
    #[must_use]
    pub fn new(chunks: &[Chunk]) -> Self {
        // default: without chunks there is nothing that the top would shift
        let top = chunks.iter().map(|chunk| chunk.top).max().unwrap_or(0);
        let exponent = chunks.iter().filter_map(|c| c.exponent.map(|e| e + c.top)).max();
        let share = |c: &Chunk| (c.denominator << 12) >> u32::min(63, (top - c.top) as u32);
        Self { top, exponent, denominator: chunks.iter().map(share).sum() }
    }

    /// Computes one chunk's share of an element's numerator: the chunk's sum, shifted to the common
    /// exponent.
    #[must_use]
    pub fn share(&self, chunk: &Chunk, numerator: i32) -> i64 {
        match (self.exponent, chunk.exponent) {
            (Some(largest), Some(exponent)) => {
                let below = (largest - (exponent + chunk.top)) as u32;
                (i64::from(numerator) << 20) >> below.min(63)
            }
            _ => 0,
        }
    }

    /// Computes an element of the output from the sum of its shares.
    #[must_use]
    pub fn finish(&self, numerator: i64) -> f32 {
        // Without a numerator there is no power of two either: the top alone may be anything.
        match self.exponent.map(|exponent| exponent - self.top + 22) {
            Some(power) if power >= -100 => {
                (numerator as f32 / self.denominator as f32) * num::pow2(power)
            }
            _ => 0.0,
        }
    }
}

/// Computes the attention of one head over `positions` (not empty), in order, into `out`.
///
/// # Errors
/// [`Overflow`] of a score or of a chunk's weights; `out` is then unspecified.
pub fn head<'a>(
    query: Query<'_>,
    positions: Range<usize>,
    past: impl Fn(usize) -> Past<'a>,
    out: &mut [f32],
) -> Result<(), Overflow> {
    let mut chunks = Vec::new();
    let mut numerators: Vec<Vec<i32>> = Vec::new();
    for chunk in positions.start / PAGE..positions.end.div_ceil(PAGE) {
        let start = positions.start.max(chunk * PAGE);
        let end = positions.end.min((chunk + 1) * PAGE);
        let (summary, numerator) = attend_chunk(query, start..end, &past)?;
        chunks.push(summary);
        numerators.push(numerator);
    }
    let combined = Combined::new(&chunks);
    for (element, out) in out.iter_mut().enumerate() {
        let shares = chunks.iter().zip(&numerators);
        *out = combined.finish(shares.map(|(c, n)| combined.share(c, n[element])).sum());
    }
    Ok(())
}

fn attend_chunk<'a>(
    query: Query<'_>,
    positions: Range<usize>,
    past: &impl Fn(usize) -> Past<'a>,
) -> Result<(Chunk, Vec<i32>), Overflow> {
    let mut scores = Vec::with_capacity(PAGE);
    for position in positions.clone() {
        let past = past(position);
        let products = query.codes.iter().zip(past.key);
        let dot: i32 = products.map(|(&q, &k)| i32::from(q) * i32::from(k)).sum();
        scores.push(score(dot, query.scale, past.key_scale)?);
    }
    // default: without scores there is nothing that the top would shift
    let top = scores.iter().map(|score| score.n).max().unwrap_or(0);
    let denominator = scores.iter().map(|&score| denominator_weight(score, top) as u64).sum();
    let weight = |(position, &score)| numerator_weight(score, top, past(position).value_scale);
    let weights: Vec<f32> = positions.clone().zip(&scores).map(weight).collect();
    let exponent = num::block_exponent(num::amax_bits(&weights))?;
    let mut numerator = vec![0_i32; query.codes.len()];
    if let Some(exponent) = exponent {
        let factor = num::pow2(-exponent);
        for (position, weight) in positions.zip(weights) {
            let p = num::rne(weight * factor);
            for (sum, &value) in numerator.iter_mut().zip(past(position).value) {
                *sum += p * i32::from(value);
            }
        }
    }
    Ok((Chunk { top, denominator, exponent }, numerator))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attend(keys: &[(i8, f32)], values: &[(i8, f32)], scale: f32) -> Result<f32, Overflow> {
        let past = |position: usize| Past {
            key: std::slice::from_ref(&keys[position].0),
            key_scale: keys[position].1,
            value: std::slice::from_ref(&values[position].0),
            value_scale: values[position].1,
        };
        let mut out = [0.0];
        head(Query { codes: &[100], scale }, 0..keys.len(), past, &mut out).map(|()| out[0])
    }

    #[test]
    fn the_score_of_zero_is_what_zero_splits_into() {
        let zero = split(0.0).map(|score| (score.n, score.m));
        assert_eq!(zero, Ok((Score::ZERO.n, Score::ZERO.m)));
    }

    #[test]
    fn equal_scores_average_the_values() {
        let keys = vec![(1, 1.0); 600];
        let values: Vec<(i8, f32)> =
            (0..600).map(|i| (if i % 2 == 0 { 100 } else { 50 }, 0.5)).collect();
        assert_eq!(attend(&keys, &values, 0.01), Ok(37.5));
    }

    #[test]
    fn a_needle_far_away_is_found_at_full_weight() {
        let mut keys = vec![(0, 1.0); 5000];
        let mut values = vec![(1, 1e-3); 5000];
        keys[17] = (127, 1.0);
        values[17] = (127, 1.0);
        let got = attend(&keys, &values, 0.01).unwrap();
        assert!((got - 127.0).abs() < 0.01, "{got}");
    }

    #[test]
    fn values_of_zero_give_zero_at_every_score() {
        // A top of -106 once met 2^128: zero times infinity, an overflow out of nothing.
        for score in (-400..400).chain([-1_000_000, 1_000_000]) {
            let keys = vec![(100, score as f32 / 10_000.0); 300];
            let got = attend(&keys, &[(0, 0.0); 300], 1.0).map(f32::to_bits);
            assert_eq!(got, Ok(0), "scores of {score}");
        }
    }

    #[test]
    fn a_score_of_two_to_the_twenty_overflows() {
        assert_eq!(attend(&[(127, 1e4)], &[(1, 1.0)], 1.0), Err(Overflow));
        assert_eq!(attend(&[(0, 1.0)], &[(1, 1.0)], f32::NAN), Err(Overflow));
        assert_eq!(attend(&[(1, 1.0)], &[(1, f32::INFINITY)], 0.01), Err(Overflow));
    }
}
