//! One row of numbers to integer codes: the rule that decides every weight of an imported model.
//! That of 4-bit codes is in `quantise/w4.rs`; the rest of this text is about 8-bit codes.
//!
//! With `a` the row's largest magnitude, the row scale is `s = a / 8001` (8001 = 127 · 63), so that
//! every number is `s` times something in ±8001. A group of 64 columns takes an integer scale `g`
//! in 1..=63, and its codes are `rne(w / (s · g))`, clamped to ±127. The group whose magnitude is
//! largest needs `g = 63`; any other may choose between the largest `g` that clips its largest
//! number and the smallest that clips nothing. The choice with the smaller squared error wins, the
//! finer one in a tie; errors are integers, in units of `s / 16`.
//!
//! Steps are binary32 divisions and products in a fixed order, then integers. A row that is zero,
//! or so small that its scale is below 2^-60, becomes zero with scale 1.

use lockstep_exact::matrix::{Codec, GROUP, QuantisedRow, WEIGHT_MAX};

mod w4;

/// Bits of 2^-60 and 2^40, the bounds of a row scale.
const SCALE_BITS_MIN: u32 = (127 - 60) << 23;
const SCALE_BITS_MAX: u32 = (127 + 40) << 23;
/// The largest magnitude of a code.
const CODE_MAX: i32 = 127;
/// The largest scale of a group of columns.
const GROUP_SCALE_MAX: i32 = 63;
/// The number of units of error in one step of a row's scale.
const FINE: i32 = 16;

const _: () = assert!(WEIGHT_MAX == (CODE_MAX * GROUP_SCALE_MAX) as i64);
// `nearest` is exact below 2^22, and a group's squared error fits i32: a number is off by at most
// one clipped step of 127 row scales.
const _: () = assert!(FINE as i64 * (WEIGHT_MAX + 1) < 1 << 22);
const _: () =
    assert!((FINE as i64 * (CODE_MAX as i64 + 2)).pow(2) * GROUP as i64 <= i32::MAX as i64);

/// A row scale that would be 2^40 or more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ScaleTooLarge;

/// Quantises one row of finite numbers.
pub(crate) fn row(codec: Codec, numbers: &[f32]) -> Result<QuantisedRow, ScaleTooLarge> {
    match codec {
        Codec::W8 => w8(numbers),
        Codec::W4 => w4::row(numbers),
    }
}

fn w8(numbers: &[f32]) -> Result<QuantisedRow, ScaleTooLarge> {
    let scale = amax(numbers) / WEIGHT_MAX as f32;
    if scale.to_bits() > SCALE_BITS_MAX {
        return Err(ScaleTooLarge);
    }
    let mut codes = vec![0_i8; numbers.len()];
    let mut group_scales = vec![1_u8; numbers.len().div_ceil(GROUP)];
    if scale.to_bits() < SCALE_BITS_MIN {
        return Ok(QuantisedRow { codes, group_scales, shifts: Vec::new(), scale: 1.0 });
    }
    let groups = numbers.chunks(GROUP).zip(codes.chunks_mut(GROUP));
    for ((numbers, codes), group_scale) in groups.zip(&mut group_scales) {
        *group_scale = group(numbers, scale, codes);
    }
    Ok(QuantisedRow { codes, group_scales, shifts: Vec::new(), scale })
}

/// Writes a group's codes and returns its scale.
fn group(numbers: &[f32], scale: f32, codes: &mut [i8]) -> u8 {
    // At most 63: the row's largest magnitude over its scale is 8001 up to rounding.
    let needed = amax(numbers) / scale / CODE_MAX as f32;
    let finer = (needed as i32).clamp(1, GROUP_SCALE_MAX);
    let coarser = if finer as f32 >= needed { finer } else { (finer + 1).min(GROUP_SCALE_MAX) };
    let finer_error = encode(numbers, scale, finer, codes);
    if coarser == finer {
        return finer as u8;
    }
    let mut coarser_codes = [0; GROUP];
    if encode(numbers, scale, coarser, &mut coarser_codes) >= finer_error {
        return finer as u8;
    }
    codes.iter_mut().zip(coarser_codes).for_each(|(code, coarser)| *code = coarser);
    coarser as u8
}

/// Writes the codes under one group scale and returns their squared error in (`scale` / 16)².
fn encode(numbers: &[f32], scale: f32, group_scale: i32, codes: &mut [i8]) -> i32 {
    let step = scale * group_scale as f32;
    let mut error = 0;
    for (number, code) in numbers.iter().zip(codes) {
        let nearest_code = nearest(number / step).clamp(-CODE_MAX, CODE_MAX);
        let exact = nearest(number / scale * FINE as f32);
        let off = exact - FINE * group_scale * nearest_code;
        error += off * off;
        *code = nearest_code as i8;
    }
    error
}

/// 1.5 · 2^23: adding it leaves no bit for a fraction, so the addition itself rounds.
const SHIFT: f32 = 12_582_912.0;

/// Returns the nearest integer, ties to even, for |x| < 2^22.
fn nearest(x: f32) -> i32 {
    (x + SHIFT).to_bits().cast_signed() - SHIFT.to_bits().cast_signed()
}

/// Rounds a number to the nearest integer as [`nearest`] does, and returns it as a float.
#[inline(always)]
fn round(x: f32) -> f32 {
    (x + SHIFT) - SHIFT
}

/// Returns the largest magnitude of finite numbers.
fn amax(numbers: &[f32]) -> f32 {
    let largest = numbers.iter().map(|number| number.to_bits() & 0x7fff_ffff).max();
    f32::from_bits(largest.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use lockstep_exact::num;
    use lockstep_testing::numbers::Numbers;

    use super::*;

    fn value(row: &QuantisedRow, column: usize) -> f32 {
        let weight = i32::from(row.group_scales[column / GROUP]) * i32::from(row.codes[column]);
        weight as f32 * row.scale
    }

    fn numbers(seed: u64, len: usize) -> Vec<f32> {
        let mut numbers = Numbers::new(seed);
        (0..len).map(|_| numbers.signed_unit() * num::pow2(-(numbers.below(12) as i32))).collect()
    }

    #[test]
    fn the_largest_number_of_a_row_has_the_largest_weight() {
        let row = w8(&[0.5, -2.0, 0.25]).unwrap();
        assert_eq!((row.codes[1], row.group_scales[0]), (-127, 63));
        assert_eq!(row.scale, 2.0 / 8001.0);
    }

    #[test]
    fn no_number_is_off_by_more_than_half_its_groups_step_or_one_clipped_step() {
        for seed in 0..200 {
            let numbers = numbers(seed, 150);
            let row = w8(&numbers).unwrap();
            for (column, number) in numbers.iter().enumerate() {
                let group_scale = f32::from(row.group_scales[column / GROUP]);
                let clipped = row.codes[column].unsigned_abs() == 127;
                let bound = if clipped { 127.5 } else { 0.51 * group_scale };
                let off = (value(&row, column) - number).abs();
                assert!(off <= bound * row.scale, "seed {seed}, column {column}: {off}");
            }
        }
    }

    #[test]
    fn of_the_two_group_scales_around_what_is_needed_the_better_is_chosen() {
        let mut coarser_chosen = 0;
        for seed in 0..200 {
            let numbers = numbers(seed, GROUP);
            let row = w8(&[&numbers[..], &[2.0]].concat()).unwrap();
            let needed = (amax(&numbers) / row.scale / 127.0) as i32;
            let chosen = i32::from(row.group_scales[0]);
            assert!(chosen == needed || chosen == needed + 1, "seed {seed}");
            let error_of = |g: i32| encode(&numbers, row.scale, g, &mut [0; GROUP]);
            let other = 2 * needed + 1 - chosen;
            assert!(error_of(chosen) <= error_of(other), "seed {seed}: {chosen} vs {other}");
            coarser_chosen += i32::from(chosen > needed);
        }
        assert!((1..200).contains(&coarser_chosen), "both choices occur: {coarser_chosen}");
    }

    #[test]
    fn zero_and_vanishing_rows_become_zero_and_huge_ones_are_refused() {
        for tiny in [0.0, -0.0, f32::MIN_POSITIVE, num::pow2(-60)] {
            let row = w8(&[tiny; 65]).unwrap();
            assert_eq!(row.scale, 1.0);
            assert!(row.codes.iter().all(|c| *c == 0) && row.group_scales == [1, 1]);
        }
        assert_eq!(w8(&[num::pow2(54)]), Err(ScaleTooLarge));
        assert!(w8(&[num::pow2(52)]).is_ok());
        assert_eq!(w8(&[f32::MAX]), Err(ScaleTooLarge));
    }

    #[test]
    fn rounding_is_to_the_nearest_even() {
        for (x, expected) in
            [(0.5, 0), (1.5, 2), (-0.5, 0), (-1.5, -2), (2.4, 2), (128_016.5, 128_016)]
        {
            assert_eq!(nearest(x), expected, "{x}");
            assert_eq!(nearest(x), num::rne(x));
        }
    }
}
