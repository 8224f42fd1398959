//! Cases of the products with matrices.

use lockstep_exact::matrix::{COLUMNS_MAX, Codec, Packed, QuantisedRow, pack};
use lockstep_testing::numbers::Numbers;

use crate::elements::{any_floats, matrix, packed};
use crate::record::Record;
use crate::subject::Subject;

/// Shapes with and without whole spans, blocks and pairs of blocks, and more spans than a warp's
/// i32 sums hold before they go to i64.
const SHAPES: [(usize, usize); 13] = [
    (1, 1),
    (16, 64),
    (17, 63),
    (15, 65),
    (33, 128),
    (48, 130),
    (65, 192),
    (100, 576),
    (20, 2050),
    (40, 4500),
    (5, 8300),
    (3, 17_000),
    (1000, 200),
];

/// Numbers that quantising makes codes of as they are: the first of each row is the largest.
fn inputs(numbers: &mut Numbers, count: usize, columns: usize) -> Vec<f32> {
    let code =
        |k: usize, x: u64| if k.is_multiple_of(columns) { 32_512 } else { x as i32 - 32_512 };
    (0..count * columns).map(|k| code(k, numbers.below(65_025)) as f32).collect()
}

fn check(
    subject: &dyn Subject,
    matrix: &Packed,
    data: &[f32],
    bias: Option<&[f32]>,
    record: &mut Record,
) {
    let (sums, out) = subject.product(matrix, data, bias);
    let (shape, count) = (matrix.shape(), data.len() / matrix.shape().columns);
    record.sums(format!("sums of {count} rows, {shape}"), &sums);
    record.floats(format!("numbers of {count} rows, {shape}"), &out);
}

fn products(subject: &dyn Subject, codec: Codec, numbers: &mut Numbers, record: &mut Record) {
    for (rows, columns) in SHAPES {
        let matrix = matrix(numbers, codec, rows, columns);
        for count in [1, 3, 4, 5, 8, 9, 16, 33] {
            if rows * columns * count > 300_000 {
                continue;
            }
            let data = inputs(numbers, count, columns);
            let bias = (count % 2 == 0).then(|| any_floats(numbers, rows, false));
            check(subject, &matrix, &data, bias.as_deref(), record);
        }
    }
}

pub(crate) fn products_of_8_bit_weights(
    subject: &dyn Subject,
    numbers: &mut Numbers,
    record: &mut Record,
) {
    products(subject, Codec::W8, numbers, record);
}

pub(crate) fn products_of_4_bit_weights(
    subject: &dyn Subject,
    numbers: &mut Numbers,
    record: &mut Record,
) {
    products(subject, Codec::W4, numbers, record);
}

/// A matrix of the largest codes, scales and shifts, of both signs.
fn largest(codec: Codec, columns: usize) -> Packed {
    let shape = codec.shape(5, columns);
    let rows = (0..5).map(|row| {
        let (code, shift) = match (codec, row % 2) {
            (Codec::W8, 0) => (127, None),
            (Codec::W8, _) => (-127, None),
            (Codec::W4, 0) => (7, Some(127)),
            (Codec::W4, _) => (-8, Some(-127)),
        };
        QuantisedRow {
            codes: vec![code; columns],
            group_scales: vec![codec.group_scale_max() as u8; shape.groups()],
            shifts: shift.map_or(Vec::new(), |shift| vec![shift; shape.groups()]),
            scale: codec.row_scale_max() * if row == 4 { -1.0 } else { 1.0 },
        }
    });
    packed(codec, 5, columns, pack(shape, rows))
}

/// The largest codes, scales, shifts and inputs that there are, of both signs.
pub(crate) fn products_of_the_largest_numbers(
    subject: &dyn Subject,
    numbers: &mut Numbers,
    record: &mut Record,
) {
    for columns in [64, 2048, 2112, 16_384, 33_000, COLUMNS_MAX] {
        for codec in Codec::ALL {
            let matrix = largest(codec, columns);
            let data = extremes(numbers, 3, columns);
            check(subject, &matrix, &data, None, record);
        }
    }
}

/// Rows of the largest magnitudes, of both signs.
fn extremes(numbers: &mut Numbers, count: usize, columns: usize) -> Vec<f32> {
    let mut row = |index: usize| -> Vec<f32> {
        let mut flip = |_| if numbers.below(2) == 0 { 32_512.0 } else { -32_512.0 };
        match index % 3 {
            0 => vec![32_512.0; columns],
            1 => vec![-32_512.0; columns],
            _ => (0..columns).map(&mut flip).collect(),
        }
    };
    (0..count).flat_map(&mut row).collect()
}

/// Batches of prompts and of many sessions: whole panels and parts of them, in rows of the matrix
/// and of the input, and sums that go on past what 32 bits hold.
pub(crate) fn products_of_many_rows(
    subject: &dyn Subject,
    numbers: &mut Numbers,
    record: &mut Record,
) {
    for codec in Codec::ALL {
        let shapes =
            [(300, 200, 17), (129, 64, 64), (64, 130, 65), (257, 65, 130), (128, 192, 200)];
        for (rows, columns, count) in shapes {
            let matrix = matrix(numbers, codec, rows, columns);
            let data = inputs(numbers, count, columns);
            let bias = (count % 2 == 0).then(|| any_floats(numbers, rows, false));
            check(subject, &matrix, &data, bias.as_deref(), record);
        }
        for (rows, columns, count) in [(20, 4500, 33), (33, 2112, 17), (5, 8300, 18)] {
            let matrix = matrix(numbers, codec, rows, columns);
            check(subject, &matrix, &inputs(numbers, count, columns), None, record);
        }
        for columns in [256, 320, 2048, 2112, 16_384] {
            let matrix = largest(codec, columns);
            check(subject, &matrix, &extremes(numbers, 19, columns), None, record);
        }
    }
}

pub(crate) fn products_of_every_code(
    subject: &dyn Subject,
    numbers: &mut Numbers,
    record: &mut Record,
) {
    // Each place of a span has each code and each shift in some row.
    let w8 = (0..255).map(|row| QuantisedRow {
        codes: (0..64).map(|k| ((row + k) % 255 - 127) as i8).collect(),
        group_scales: vec![1 + (row % 63) as u8],
        shifts: Vec::new(),
        scale: 1.0,
    });
    let w8 = packed(Codec::W8, 255, 64, pack(Codec::W8.shape(255, 64), w8));
    let w4 = (0..16 * 255).map(|row: i32| QuantisedRow {
        codes: (0..64).map(|k| ((row + k) % 16 - 8) as i8).collect(),
        group_scales: vec![1 + (row % 255) as u8, 255 - (row % 255) as u8],
        shifts: vec![(row / 16 - 127) as i8, (127 - row / 16) as i8],
        scale: 1.0,
    });
    let w4 = packed(Codec::W4, 16 * 255, 64, pack(Codec::W4.shape(16 * 255, 64), w4));
    for matrix in [w8, w4] {
        for count in [1, 6] {
            check(subject, &matrix, &inputs(numbers, count, 64), None, record);
        }
    }
}
