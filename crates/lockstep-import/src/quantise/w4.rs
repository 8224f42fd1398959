//! One row of numbers to 4-bit codes.
//!
//! A group of 32 columns is `step · (code + shift / 16)`, codes in -8..=7. Without clipping it
//! needs a step of a fifteenth of its range, which is taken to include 0; the largest of these is
//! 255 times 16 row scales, and a group's step is `16 · row scale · g` with g in 1..=255. Smaller
//! steps clip the ends of a group and are finer in between; which g and shift give the least
//! squared error is searched: g from what clips nothing down to 7/10 of it, first in even steps,
//! then one by one around the best; for each g the shift that centres the codes in the range, and
//! then the one that centres the errors. Of equally good ones the first is taken.
//!
//! Steps are binary32 in a fixed order: sums have eight lanes, added up in order at the end.

use lockstep_exact::matrix::{Codec, QuantisedRow, SHIFT_MAX};

use super::{ScaleTooLarge, nearest, round};

/// The number of columns that share a scale.
const GROUP: usize = Codec::W4.group();
/// The largest scale of a group of columns.
const LARGEST: f32 = Codec::W4.group_scale_max() as f32;
/// Steps between the ends of a range.
const STEPS: f32 = 15.0;
/// The lowest and highest code, and what lies in the middle.
const CODES: (f32, f32) = (-8.0, 7.0);
const MIDDLE: f32 = -0.5;
/// Shifts are in these parts of a step.
const SHIFTS: f32 = 16.0;
/// Even steps of the search, and where it ends.
const SEARCH: usize = 16;
const FINEST: f32 = 0.7;
/// The number of lanes in which sums are computed.
const LANES: usize = 8;

/// Numbers of a group in units of a step with group scale 1. What is not there is 0 and counts for
/// nothing.
struct Group {
    values: [f32; GROUP],
    used: [f32; GROUP],
    count: f32,
}

/// The scale and shift with which a group could be written.
#[derive(Clone, Copy)]
struct Choice {
    scale: f32,
    shift: f32,
    error: f32,
}

pub(super) fn row(numbers: &[f32]) -> Result<QuantisedRow, ScaleTooLarge> {
    let groups = numbers.len().div_ceil(GROUP);
    let widest = numbers.chunks(GROUP).map(range).fold(0.0, |most, (low, high)| {
        let width = high - low;
        if width > most { width } else { most }
    });
    let scale = widest / STEPS / (LARGEST * SHIFTS);
    let mut row = QuantisedRow {
        codes: vec![0; numbers.len()],
        group_scales: vec![1; groups],
        shifts: vec![0; groups],
        scale: 1.0,
    };
    // Also where numbers so large are apart that their distance is infinite.
    if scale > Codec::W4.row_scale_max() {
        return Err(ScaleTooLarge);
    }
    if scale < Codec::W4.row_scale_min() {
        return Ok(row);
    }
    row.scale = scale;
    let parts = row.group_scales.iter_mut().zip(&mut row.shifts);
    let codes = row.codes.chunks_mut(GROUP);
    for ((numbers, codes), (group_scale, shift)) in numbers.chunks(GROUP).zip(codes).zip(parts) {
        let group = Group::of(numbers, scale * SHIFTS);
        let choice = group.search();
        group.encode(choice, codes);
        *group_scale = choice.scale as u8;
        *shift = choice.shift as i8;
    }
    Ok(row)
}

/// Returns the smallest and the largest of some numbers and 0.
fn range(numbers: &[f32]) -> (f32, f32) {
    numbers.iter().fold((0.0, 0.0), |(low, high), &number| {
        (if number < low { number } else { low }, if number > high { number } else { high })
    })
}

impl Group {
    fn of(numbers: &[f32], step: f32) -> Self {
        let mut group =
            Self { values: [0.0; GROUP], used: [0.0; GROUP], count: numbers.len() as f32 };
        for ((value, used), number) in group.values.iter_mut().zip(&mut group.used).zip(numbers) {
            (*value, *used) = (number / step, 1.0);
        }
        group
    }

    fn search(&self) -> Choice {
        let (low, high) = range(&self.values);
        let needed = (high - low) / STEPS;
        let middle = (low + high) / 2.0;
        let mut best = Choice { scale: 1.0, shift: 0.0, error: f32::INFINITY };
        let mut last = 0.0;
        for at in 0..=SEARCH {
            let part = at as f32 / SEARCH as f32;
            let scale = round(needed * (1.02 - (1.02 - FINEST) * part)).clamp(1.0, LARGEST);
            if scale != last {
                self.try_scale(scale, middle, &mut best);
            }
            last = scale;
        }
        let (first, apart) = (best.scale, needed * (1.02 - FINEST) / SEARCH as f32);
        let mut off = 1.0;
        while off < apart {
            for scale in [first - off, first + off] {
                if (1.0..=LARGEST).contains(&scale) {
                    self.try_scale(scale, middle, &mut best);
                }
            }
            off += 1.0;
        }
        best
    }

    /// Tries the shifts that fit a group scale.
    fn try_scale(&self, scale: f32, middle: f32, best: &mut Choice) {
        let clamp = |shift: f32| round(shift).clamp(-(SHIFT_MAX as f32), SHIFT_MAX as f32);
        let mut shift = clamp((middle / scale - MIDDLE) * SHIFTS);
        for _ in 0..2 {
            let (error, bias) = self.error(scale, shift);
            if error < best.error {
                *best = Choice { scale, shift, error };
            }
            let centred = clamp(shift + bias / self.count * SHIFTS);
            if centred == shift {
                break;
            }
            shift = centred;
        }
    }

    /// Returns the squared error of a choice, and the sum of its errors in steps.
    fn error(&self, scale: f32, shift: f32) -> (f32, f32) {
        let (inverse, shift) = (1.0 / scale, shift / SHIFTS);
        let (mut squares, mut sums) = ([0.0_f32; LANES], [0.0_f32; LANES]);
        let (values, _) = self.values.as_chunks::<LANES>();
        let (used, _) = self.used.as_chunks::<LANES>();
        for (values, used) in values.iter().zip(used) {
            let lanes = values.iter().zip(used).zip(squares.iter_mut().zip(&mut sums));
            for ((value, used), (square, sum)) in lanes {
                let place = value * inverse - shift;
                let off = (place - code(place)) * used;
                *square += off * off;
                *sum += off;
            }
        }
        let total = |lanes: [f32; LANES]| lanes.iter().fold(0.0, |sum, lane| sum + lane);
        (total(squares) * (scale * scale), total(sums))
    }

    fn encode(&self, choice: Choice, codes: &mut [i8]) {
        let (inverse, shift) = (1.0 / choice.scale, choice.shift / SHIFTS);
        for (out, value) in codes.iter_mut().zip(self.values) {
            *out = nearest(code(value * inverse - shift)) as i8;
        }
    }
}

/// Returns the nearest code, as a number.
#[inline(always)]
fn code(place: f32) -> f32 {
    let (low, high) = CODES;
    let place = if place < low { low } else { place };
    round(if place > high { high } else { place })
}

#[cfg(test)]
mod tests {
    use lockstep_exact::num;
    use lockstep_testing::numbers::Numbers;

    use super::*;

    fn error(numbers: &[f32], row: &QuantisedRow) -> f64 {
        let value = |column| row.weight(Codec::W4, column) as f32 * row.scale;
        let off = |(column, number): (usize, &f32)| f64::from(number - value(column)).powi(2);
        numbers.iter().enumerate().map(off).sum()
    }

    /// Numbers whose groups have any range and middle.
    fn numbers(seed: u64, len: usize) -> Vec<f32> {
        let mut numbers = Numbers::new(seed);
        let mut out = Vec::new();
        while out.len() < len {
            let (size, middle) = (num::pow2(-(numbers.below(5) as i32)), numbers.signed_unit());
            let mut number = || {
                let unit = numbers.signed_unit() + numbers.signed_unit() + numbers.signed_unit();
                (unit + middle) * size
            };
            out.extend((0..GROUP).map(|_| number()));
        }
        out.truncate(len);
        out
    }

    #[test]
    fn what_is_in_4_bits_already_comes_back_as_it_is() {
        let mut numbers = Numbers::new(3);
        for _ in 0..50 {
            let group_scales: Vec<u8> = (0..4)
                .map(|group| if group == 2 { 255 } else { 1 + numbers.below(255) as u8 })
                .collect();
            // Every group has its lowest and its highest code, and 0 between them.
            let shifts: Vec<i8> = (0..4).map(|_| (numbers.below(200) as i32 - 100) as i8).collect();
            let mut codes: Vec<i8> = (0..4 * GROUP).map(|_| numbers.below(16) as i8 - 8).collect();
            for group in codes.chunks_exact_mut(GROUP) {
                (group[3], group[9]) = (-8, 7);
            }
            let source = QuantisedRow { codes, group_scales, shifts, scale: num::pow2(-12) };
            let value = |column| source.weight(Codec::W4, column) as f32 * source.scale;
            let values: Vec<f32> = (0..4 * GROUP).map(value).collect();
            assert_eq!(row(&values).unwrap(), source);
        }
    }

    #[test]
    fn the_search_is_never_worse_than_the_whole_range_in_even_steps() {
        let mut better = 0.0;
        for seed in 0..100 {
            let numbers = numbers(seed, 100);
            let row = row(&numbers).unwrap();
            let mut plain = row.clone();
            let groups = numbers.chunks(GROUP).zip(plain.codes.chunks_mut(GROUP));
            for (at, (numbers, codes)) in groups.enumerate() {
                let group = Group::of(numbers, row.scale * SHIFTS);
                let (low, high) = range(&group.values);
                let scale = ((high - low) / STEPS).ceil().clamp(1.0, LARGEST);
                let shift = round(((low + high) / 2.0 / scale - MIDDLE) * SHIFTS);
                group.encode(Choice { scale, shift, error: 0.0 }, codes);
                (plain.group_scales[at], plain.shifts[at]) = (scale as u8, shift as i8);
            }
            let (searched, plain) = (error(&numbers, &row), error(&numbers, &plain));
            assert!(searched <= plain * 1.0001, "seed {seed}: {searched} and {plain}");
            better += searched / plain;
        }
        assert!(better < 90.0, "on average the error is well below: {better} %");
    }

    #[test]
    fn no_number_is_off_by_more_than_what_clipping_costs() {
        for seed in 0..100 {
            let numbers = numbers(seed, 150);
            let row = row(&numbers).unwrap();
            for (column, number) in numbers.iter().enumerate() {
                let step = 16.0 * f32::from(row.group_scales[column / GROUP]) * row.scale;
                let off = (row.weight(Codec::W4, column) as f32 * row.scale - number).abs();
                // Half a step, or at an end what is cut off.
                let bound = if matches!(row.codes[column], -8 | 7) { 4.5 } else { 0.54 };
                assert!(off <= bound * step, "seed {seed}, column {column}: {off} of {step}");
            }
        }
    }

    #[test]
    fn zero_and_vanishing_rows_become_zero_and_huge_ones_are_refused() {
        for tiny in [0.0, -0.0, f32::MIN_POSITIVE, num::pow2(-60)] {
            let row = row(&[tiny; 33]).unwrap();
            assert_eq!(row.scale, 1.0);
            let parts = (row.codes.iter().all(|c| *c == 0), &row.group_scales, &row.shifts);
            assert_eq!(parts, (true, &vec![1, 1], &vec![0, 0]));
        }
        assert!(row(&[num::pow2(47)]).is_ok());
        assert_eq!(row(&[num::pow2(52)]), Err(ScaleTooLarge));
        assert_eq!(row(&[f32::MAX, f32::MIN]), Err(ScaleTooLarge));
        // A group of one sign, which no shift reaches by a sixteenth of a step; one of zeros.
        let same = row(&[3.0; 32]).unwrap();
        let off = same.weight(Codec::W4, 0) as f32 * same.scale - 3.0;
        assert!(off.abs() <= 0.07 * 3.0 / 15.0, "{off}");
        let numbers = [vec![0.0; 32], vec![-1.0, 5.0]].concat();
        assert!(error(&numbers, &row(&numbers).unwrap()) < 1e-9);
    }
}
