//! Seeded values to test with, and comparison by bits.

use lockstep_exact::blob::Blob;
use lockstep_exact::flags::Flags;
use lockstep_exact::matrix::{Codec, Packed, QuantisedRow, Shape, pack};
use lockstep_exact::ops::{Device, Host};
use lockstep_exact::reference::{self, Reference};
use lockstep_exact::state::State;
use lockstep_kernels::{Codes, Kernels, Rows};
use lockstep_testing::numbers::Numbers;

/// A matrix of random codes, group scales and shifts.
pub(crate) fn matrix(seed: u64, shape: Shape) -> Packed {
    let mut numbers = Numbers::new(seed);
    matrix_of(shape, |_, _| match shape.codec {
        Codec::W8 => (numbers.below(255) as i32 - 127, 1 + numbers.below(63) as u8, 0),
        Codec::W4 => {
            let shift = numbers.below(255) as i32 - 127;
            (numbers.below(16) as i32 - 8, 1 + numbers.below(255) as u8, shift)
        }
    })
}

/// A matrix with the codes, group scales and shifts that `value` gives for a row and column.
pub(crate) fn matrix_of(
    shape: Shape,
    mut value: impl FnMut(usize, usize) -> (i32, u8, i32),
) -> Packed {
    let groups = |values: &[(i32, u8, i32)]| -> std::vec::IntoIter<(i32, u8, i32)> {
        values.iter().copied().step_by(shape.codec.group()).collect::<Vec<_>>().into_iter()
    };
    let rows: Vec<QuantisedRow> = (0..shape.rows)
        .map(|row| {
            let values: Vec<_> = (0..shape.columns).map(|column| value(row, column)).collect();
            QuantisedRow {
                codes: values.iter().map(|(code, ..)| *code as i8).collect(),
                group_scales: groups(&values).map(|(_, scale, _)| scale).collect(),
                shifts: match shape.codec {
                    Codec::W8 => Vec::new(),
                    Codec::W4 => groups(&values).map(|(.., shift)| shift as i8).collect(),
                },
                scale: f32::from_bits(((row * 7919) as u32 & 0x7f_ffff) | (120 << 23)),
            }
        })
        .collect();
    let bytes = pack(shape, rows);
    let len = bytes.len();
    Packed::new(shape, Blob::new(bytes).slice(0, len).unwrap()).unwrap()
}

/// Numbers of every kind: ordinary, zero, tiny, subnormal, huge; `special` of them infinite or
/// NaN.
pub(crate) fn any_floats(numbers: &mut Numbers, count: usize, special: bool) -> Vec<f32> {
    (0..count)
        .map(|_| match numbers.below(if special { 16 } else { 12 }) {
            0 => 0.0,
            1 => -0.0,
            2 => numbers.signed_unit() * f32::from_bits(90 << 23),
            3 => f32::from_bits(numbers.below(1 << 23) as u32),
            4 => numbers.signed_unit() * f32::from_bits(160 << 23),
            12 => f32::INFINITY,
            13 => f32::NEG_INFINITY,
            14 => f32::NAN,
            15 => f32::from_bits(numbers.next_u64() as u32),
            _ => numbers.signed_unit() * 8.0,
        })
        .collect()
}

/// Ordinary numbers.
pub(crate) fn floats(numbers: &mut Numbers, count: usize) -> Vec<f32> {
    (0..count).map(|_| numbers.signed_unit() * 4.0).collect()
}

/// Both forms of the same rows.
pub(crate) fn rows(width: usize, data: Vec<f32>) -> (Rows, reference::Rows) {
    (Rows::new(width, data.clone()), reference::Rows { width, data })
}

/// Both forms of rows of product inputs with these codes. The first code of each row becomes
/// 32512, so that quantising leaves the codes as they are.
pub(crate) fn inputs(
    kernels: &Kernels,
    width: usize,
    mut codes: Vec<i16>,
) -> (Codes, reference::Codes) {
    for row in codes.chunks_exact_mut(width) {
        row[0] = 32_512;
    }
    let values: Vec<f32> = codes.iter().map(|&code| f32::from(code)).collect();
    let mut flags = Flags::none(values.len() / width);
    let (rows, reference_rows) = rows(width, values);
    let (mut fast, mut slow) = Default::default();
    kernels.quantise(&rows, &mut fast, &mut flags);
    Reference.quantise(&reference_rows, &mut slow, &mut flags);
    assert_eq!(slow.codes, codes, "codes are kept");
    assert_eq!(kernels.read_codes(&fast).unwrap(), codes, "codes are kept");
    (fast, slow)
}

/// Flags for `rows` rows, none set.
pub(crate) fn flags(rows: usize) -> Flags {
    Flags::of(&State::zeros(rows, 32))
}

/// Equality of bits; any two NaN are equal, because none of them ever leaves an operation.
#[track_caller]
pub(crate) fn assert_bits(got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len());
    for (at, (got, expected)) in got.iter().zip(expected).enumerate() {
        let equal = got.to_bits() == expected.to_bits() || (got.is_nan() && expected.is_nan());
        assert!(equal, "element {at}: got {got} ({:#x}), expected {expected}", got.to_bits());
    }
}

/// States of every kind of row: random with wild exponents, zero blocks, overflow markers.
pub(crate) fn states(numbers: &mut Numbers, rows: usize, width: usize) -> State {
    let mut state = State::zeros(rows, width);
    for row in 0..rows {
        if numbers.below(9) == 0 {
            state.mark_overflow(row);
            continue;
        }
        let wild = numbers.below(2) == 0;
        let (mantissas, exponents) = state.row_mut(row);
        for (mantissas, byte) in mantissas.chunks_mut(32).zip(exponents) {
            if numbers.below(8) == 0 {
                continue;
            }
            let spread = if wild { 95 } else { 6 };
            *byte = (74 + numbers.below(spread)) as u8;
            for mantissa in mantissas.iter_mut() {
                *mantissa = (numbers.below(65_535) as i32 - 32_767) as i16;
            }
            mantissas[0] = if numbers.below(2) == 0 { 32_767 } else { -16_384 };
        }
    }
    state
}
