//! Laws of the matrix products.

use lockstep_exact::matrix::{COLUMNS_MAX, Codec, Packed};
use lockstep_exact::ops::{Device, Host, Products};
use lockstep_exact::reference::{self, Reference};
use lockstep_kernels::{Codes, Kernels};
use lockstep_testing::numbers::Numbers;

use crate::values::{assert_bits, inputs, matrix, matrix_of};

pub(crate) fn products_are_exact_for_every_shape_and_row_count(kernels: &Kernels) {
    let shapes = [
        (1, 1),
        (16, 64),
        (17, 63),
        (15, 65),
        (33, 128),
        (48, 130),
        (100, 576),
        // More groups than are multiplied in one go.
        (20, 2048),
        (20, 2050),
        (40, 4500),
        // More than have their sums kept until scales are read, a pair of blocks and a lone one.
        (33, 8300),
        // Enough bytes to be shared between threads.
        (1000, 200),
    ];
    for (rows, columns) in shapes {
        for codec in Codec::ALL {
            let weights = matrix((rows * 31 + columns) as u64, codec.shape(rows, columns));
            let mut numbers = Numbers::new(columns as u64);
            for count in [1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 25, 32, 70] {
                if rows * columns * count <= 2_000_000 {
                    let codes = codes(&mut numbers, count * columns);
                    check(kernels, &weights, inputs(kernels, columns, codes));
                }
            }
        }
    }
}

fn codes(numbers: &mut Numbers, count: usize) -> Vec<i16> {
    (0..count).map(|_| (numbers.below(65_025) as i32 - 32_512) as i16).collect()
}

fn check(kernels: &Kernels, weights: &Packed, (fast, slow): (Codes, reference::Codes)) {
    let (mut fast_sums, mut slow_sums) = Default::default();
    let Ok(()) = kernels.matmul(weights, &fast, &mut fast_sums);
    let Ok(()) = Reference.matmul(weights, &slow, &mut slow_sums);
    let shape = weights.shape();
    assert_eq!(kernels.read_sums(&fast_sums).unwrap(), slow_sums.data, "a {shape} matrix");
    let scales = weights.row_scales();
    let (mut fast_out, mut slow_out) = Default::default();
    kernels.dequant(&fast_sums, &fast, &scales, &mut fast_out);
    Reference.dequant(&slow_sums, &slow, &scales, &mut slow_out);
    assert_bits(&kernels.read_rows(&fast_out).unwrap(), &slow_out.data);
    let Ok(()) = kernels.product(weights, &scales, &fast, &mut fast_sums, &mut fast_out);
    assert_bits(&kernels.read_rows(&fast_out).unwrap(), &slow_out.data);
}

pub(crate) fn products_of_the_largest_numbers_do_not_overflow(kernels: &Kernels) {
    // The sign patterns that make every partial sum as large as it can be, in either direction and
    // within one group, one chunk or the whole row.
    let alternate = |period: usize, at: usize| 1 - 2 * (at / period % 2) as i32;
    for (rows, columns) in [(16, 64), (18, 2048), (17, 2112), (32, 9000)] {
        for period in [1, 2, 4, 32, 64, 2048, 100_000] {
            for codec in Codec::ALL {
                let sign = |row: usize| [-1, 1, 1][row % 3];
                let weights = matrix_of(codec.shape(rows, columns), |row, column| {
                    // Shifts with their codes and against them.
                    let shift = if row % 2 == 0 { 1 } else { -1 };
                    largest(codec, sign(row) * alternate(period, column), shift)
                });
                for count in [1, 2, 6] {
                    let row =
                        (0..columns).map(|column| (32_512 * alternate(period, column)) as i16);
                    let codes: Vec<i16> = row.collect::<Vec<_>>().repeat(count);
                    check(kernels, &weights, inputs(kernels, columns, codes));
                }
            }
        }
    }
    // The largest number of columns, all at the bound.
    for codec in Codec::ALL {
        let shape = codec.shape(3, COLUMNS_MAX);
        let weights = matrix_of(shape, |row, _| largest(codec, if row == 1 { -1 } else { 1 }, 1));
        check(kernels, &weights, inputs(kernels, shape.columns, vec![32_512; shape.columns]));
    }
}

/// Code, group scale and shift of the largest weight of this sign; the shift's sign may be turned.
fn largest(codec: Codec, sign: i32, shift: i32) -> (i32, u8, i32) {
    match codec {
        Codec::W8 => (127 * sign, 63, 0),
        Codec::W4 => (if sign < 0 { -8 } else { 7 }, 255, 127 * sign * shift),
    }
}

pub(crate) fn every_input_code_and_weight_code_multiplies_exactly(kernels: &Kernels) {
    // One column with a code, all others 0, so that a sum is one product.
    let weights = matrix_of(Codec::W8.shape(255, 64), |row, column| {
        (if column == 1 { row as i32 - 127 } else { 0 }, 1, 0)
    });
    let all: Vec<i16> = (-32_512..=32_512).step_by(13).chain([-127, 127, -128, 255]).collect();
    for some in all.chunks(500) {
        let codes: Vec<i16> = some.iter().flat_map(|&code| row_with(code)).collect();
        let (fast, _) = inputs(kernels, 64, codes);
        let mut sums = Default::default();
        let Ok(()) = kernels.matmul(&weights, &fast, &mut sums);
        let expected =
            some.iter().flat_map(|&code| (-127..=127).map(move |weight| i64::from(code) * weight));
        assert!(kernels.read_sums(&sums).unwrap().iter().copied().eq(expected));
    }
}

pub(crate) fn every_4_bit_code_and_shift_multiplies_exactly(kernels: &Kernels) {
    // Each place of a group of 32 columns has each code and each shift in some row.
    let weights = matrix_of(Codec::W4.shape(16 * 255, 64), |row, column| {
        ((row + column) as i32 % 16 - 8, 1 + (row % 3) as u8, (row / 16) as i32 - 127)
    });
    let mut numbers = Numbers::new(4);
    for count in [1, 2, 6] {
        let codes = codes(&mut numbers, count * 64);
        check(kernels, &weights, inputs(kernels, 64, codes));
    }
}

fn row_with(code: i16) -> [i16; 64] {
    let mut row = [0; 64];
    row[1] = code;
    row
}

pub(crate) fn written_sums_are_read_back_and_dequantised(kernels: &Kernels) {
    let mut numbers = Numbers::new(9);
    for width in [1, 16, 17, 100] {
        for count in [1, 2, 70] {
            // Sums of every size up to 2^53: a conversion by way of f32 parts would round twice.
            let values: Vec<i64> = (0..width * count)
                .map(|_| (numbers.next_u64().cast_signed() >> 10) >> numbers.below(50))
                .collect();
            let (fast, slow) = inputs(kernels, 1, vec![0; count]);
            let (mut fast_sums, mut slow_sums) = Default::default();
            kernels.write_sums(width, &values, &mut fast_sums);
            Reference.write_sums(width, &values, &mut slow_sums);
            assert_eq!(kernels.read_sums(&fast_sums).unwrap(), values);
            let scales: Vec<f32> = (0..width).map(|_| numbers.signed_unit()).collect();
            let (mut fast_out, mut slow_out) = Default::default();
            kernels.dequant(&fast_sums, &fast, &scales, &mut fast_out);
            Reference.dequant(&slow_sums, &slow, &scales, &mut slow_out);
            assert_bits(&kernels.read_rows(&fast_out).unwrap(), &slow_out.data);
        }
    }
}
