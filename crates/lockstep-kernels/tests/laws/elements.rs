//! Laws of the element-wise operations.

use lockstep_exact::blob::Blob;
use lockstep_exact::field::{self, P};
use lockstep_exact::flags::Flags;
use lockstep_exact::matrix::{Codec, Packed, QuantisedRow, pack};
use lockstep_exact::ops::{Device, FieldDots, Host};
use lockstep_exact::plan::Activation;
use lockstep_exact::reference::{self, Reference};
use lockstep_exact::state::State;
use lockstep_kernels::Kernels;
use lockstep_testing::numbers::Numbers;

use crate::values::{any_floats, assert_bits, flags, floats, matrix, rows, states};

/// Widths with and without whole groups and registers, and one that is worth sharing.
const WIDTHS: [usize; 6] = [1, 31, 32, 96, 576, 1000];
const COUNTS: [usize; 4] = [1, 2, 7, 70];

pub(crate) fn embedding_rows_are_exact(kernels: &Kernels) {
    for (width, scale) in [(32, 1.0), (96, 11.3), (160, 1e30), (576, 1e-12)] {
        for codec in Codec::ALL {
            let table = matrix(width as u64, codec.shape(50, width));
            for count in COUNTS {
                let tokens: Vec<u32> = (0..count as u32).map(|i| i * 17 % 50).collect();
                let (mut fast, mut slow) = (State::default(), State::default());
                kernels.embed(&table, scale, &tokens, &mut fast);
                Reference.embed(&table, scale, &tokens, &mut slow);
                assert_eq!(fast, slow, "{count} rows of {width}, scale {scale}");
            }
        }
    }
}

pub(crate) fn norms_are_exact_on_states_of_any_spread(kernels: &Kernels) {
    let mut numbers = Numbers::new(1);
    for width in WIDTHS {
        let gain = floats(&mut numbers, width);
        for count in COUNTS {
            let state = states(&mut numbers, count, width);
            for eps in [1e-5, 0.0, 1e-30] {
                let (mut fast, mut slow) = Default::default();
                kernels.norm(&state, eps, &gain, &mut fast);
                Reference.norm(&state, eps, &gain, &mut slow);
                assert_bits(&kernels.read_rows(&fast).unwrap(), &slow.data);
            }
        }
    }
}

pub(crate) fn norms_of_rows_are_exact_and_flag_overflow(kernels: &Kernels) {
    let mut numbers = Numbers::new(6);
    for width in WIDTHS {
        let gain = floats(&mut numbers, width);
        for count in COUNTS {
            let wild = any_floats(&mut numbers, width * count, numbers_are_few(width));
            for data in [wild, floats(&mut numbers, width * count), vec![0.0; width * count]] {
                let (mut fast, mut slow) = rows(width, data);
                let (mut fast_flags, mut slow_flags) = (flags(count), flags(count));
                kernels.norm_rows(1e-6, &gain, &mut fast, &mut fast_flags);
                Reference.norm_rows(1e-6, &gain, &mut slow, &mut slow_flags);
                assert_bits(&kernels.read_rows(&fast).unwrap(), &slow.data);
                assert_eq!(fast_flags, slow_flags, "{count} rows of {width}");
            }
        }
    }
}

pub(crate) fn biases_are_added_to_every_row(kernels: &Kernels) {
    let mut numbers = Numbers::new(7);
    for width in WIDTHS {
        let bias = any_floats(&mut numbers, width, false);
        for count in COUNTS {
            let (mut fast, mut slow) = rows(width, any_floats(&mut numbers, width * count, true));
            kernels.add_bias(&bias, &mut fast);
            Reference.add_bias(&bias, &mut slow);
            assert_bits(&kernels.read_rows(&fast).unwrap(), &slow.data);
        }
    }
}

pub(crate) fn quantised_rows_are_exact_up_to_both_edges(kernels: &Kernels) {
    let mut numbers = Numbers::new(2);
    for width in WIDTHS {
        for count in COUNTS {
            check_quantise(kernels, width, any_floats(&mut numbers, width * count, false));
            check_quantise(kernels, width, any_floats(&mut numbers, width * count, true));
            check_quantise(kernels, width, floats(&mut numbers, width * count));
        }
    }
    // One unit around the bits of 2^-40 and of 2^55, and ties.
    for peak in [87_u32 << 23, 182 << 23] {
        for bits in peak - 2..=peak + 2 {
            check_quantise(kernels, 4, vec![f32::from_bits(bits), 1e-13, -4e-13, 0.0]);
        }
    }
    let ties = (0..64).map(|i| if i == 0 { 32_512.0 } else { i as f32 - 31.5 }).collect();
    check_quantise(kernels, 64, ties);
}

fn check_quantise(kernels: &Kernels, width: usize, data: Vec<f32>) {
    let count = data.len() / width;
    let (fast_rows, slow_rows) = rows(width, data);
    let (mut fast, mut slow): (_, reference::Codes) = Default::default();
    let (mut fast_flags, mut slow_flags) = (flags(count), flags(count));
    kernels.quantise(&fast_rows, &mut fast, &mut fast_flags);
    Reference.quantise(&slow_rows, &mut slow, &mut slow_flags);
    assert_eq!(kernels.read_codes(&fast).unwrap(), slow.codes, "{count} rows of {width}");
    assert_eq!(fast_flags, slow_flags, "{count} rows of {width}");
    // Scales show in what is dequantised with them.
    let (mut fast_sums, mut slow_sums) = Default::default();
    kernels.write_sums(1, &vec![1; count], &mut fast_sums);
    Reference.write_sums(1, &vec![1; count], &mut slow_sums);
    let (mut fast_out, mut slow_out) = Default::default();
    kernels.dequant(&fast_sums, &fast, &vec![1.0], &mut fast_out);
    Reference.dequant(&slow_sums, &slow, &vec![1.0], &mut slow_out);
    assert_bits(&kernels.read_rows(&fast_out).unwrap(), &slow_out.data);
}

pub(crate) fn gates_are_exact_on_every_kind_of_number(kernels: &Kernels) {
    let mut numbers = Numbers::new(3);
    for inner in WIDTHS {
        for count in COUNTS {
            let mut data = any_floats(&mut numbers, 2 * inner * count, true);
            let edges = [-87.0, -87.000_01, 87.0, -86.999_99, 100.0, -0.0];
            for (value, edge) in data.iter_mut().step_by(5).zip(edges) {
                *value = edge;
            }
            let (fast_rows, slow_rows) = rows(2 * inner, data);
            for activation in [Activation::Silu, Activation::GeluTanh] {
                let (mut fast, mut slow) = Default::default();
                kernels.gate(activation, &fast_rows, &mut fast);
                Reference.gate(activation, &slow_rows, &mut slow);
                assert_bits(&kernels.read_rows(&fast).unwrap(), &slow.data);
            }
        }
    }
}

pub(crate) fn rows_are_selected_and_added_up_where_they_belong(kernels: &Kernels) {
    let mut numbers = Numbers::new(8);
    for width in WIDTHS {
        for count in COUNTS {
            let (fast_from, slow_from) = rows(width, any_floats(&mut numbers, width * count, true));
            let (mut fast_out, mut slow_out) = Default::default();
            kernels.zero_rows(count, width, &mut fast_out);
            Reference.zero_rows(count, width, &mut slow_out);
            for step in [1, 2, 3] {
                let indexes: Vec<usize> = (step - 1..count).step_by(step).collect();
                let weights = any_floats(&mut numbers, indexes.len(), false);
                let (mut fast, mut slow) = Default::default();
                kernels.select_rows(&fast_from, &indexes, &mut fast);
                Reference.select_rows(&slow_from, &indexes, &mut slow);
                assert_bits(&kernels.read_rows(&fast).unwrap(), &slow.data);
                kernels.accumulate(&fast, &indexes, &weights, &mut fast_out);
                Reference.accumulate(&slow, &indexes, &weights, &mut slow_out);
                assert_bits(&kernels.read_rows(&fast_out).unwrap(), &slow_out.data);
            }
        }
    }
}

pub(crate) fn residuals_are_exact_and_mark_overflow(kernels: &Kernels) {
    let mut numbers = Numbers::new(4);
    for width in [32, 96, 576, 1024] {
        for count in COUNTS {
            for special in [false, true] {
                let state = states(&mut numbers, count, width);
                let delta = match special {
                    true => any_floats(&mut numbers, count * width, numbers_are_few(width)),
                    false => floats(&mut numbers, count * width),
                };
                let (fast_delta, slow_delta) = rows(width, delta);
                let (mut fast, mut slow) = (State::zeros(3, 7), State::default());
                let (mut fast_flags, mut slow_flags) = (Flags::of(&state), Flags::of(&state));
                kernels.residual(&state, &fast_delta, &mut fast, &mut fast_flags);
                Reference.residual(&state, &slow_delta, &mut slow, &mut slow_flags);
                assert_eq!(fast, slow, "{count} rows of {width}");
                assert_eq!(fast_flags, slow_flags);
            }
        }
    }
}

/// Infinities only in narrow rows, so that others do not all overflow.
const fn numbers_are_few(width: usize) -> bool {
    width <= 96
}

pub(crate) fn field_dots_are_those_of_the_definition(kernels: &Kernels) {
    let mut numbers = Numbers::new(5);
    for len in (0..=200).chain([1023, 1024, 1025, 4095, 16_383, 16_384, 16_391, 40_000]) {
        for rows in if len < 210 { 0..10 } else { 5..6 } {
            for bits in [1, 17, 41, 43, 45, 48, 49, 64] {
                let weights: Vec<u64> = (0..len).map(|_| numbers.below(P)).collect();
                let values = (0..len * rows).map(|_| numbers.next_u64().cast_signed());
                let values = values.map(|value| value >> (64 - bits)).collect::<Vec<i64>>();
                check_dots(kernels, &weights, &values, rows);
            }
        }
    }
}

pub(crate) fn field_dots_of_the_largest_numbers_do_not_overflow(kernels: &Kernels) {
    let mut edges = vec![0, 1, -1, i64::MAX, i64::MIN, i64::MIN + 1];
    edges.extend([15, 42, 43, 44, 46, 47, 48, 52, 61].iter().flat_map(|&bits| {
        let edge = 1_i64 << bits;
        [edge - 1, edge, edge + 1, -edge - 1, -edge, 1 - edge]
    }));
    edges.extend([P.cast_signed(), -P.cast_signed(), P.cast_signed() - 1]);
    for len in [1, 4, 7, 8, 200, 1024, 33_000] {
        for weight in [0, 1, (1 << 52) - 1, 1 << 52, P - 1] {
            for &value in &edges {
                check_dots(kernels, &vec![weight; len], &vec![value; len * 3], 3);
            }
        }
    }
    // One value that is too large for the fast way, anywhere, spoils no other row.
    let mut numbers = Numbers::new(6);
    let weights: Vec<u64> = (0..77).map(|_| numbers.below(P)).collect();
    for at in 0..5 * 77 {
        let mut values = vec![-(1 << 41); 5 * 77];
        values[at] = i64::MIN;
        check_dots(kernels, &weights, &values, 5);
    }
}

fn check_dots(kernels: &Kernels, weights: &[u64], values: &[i64], rows: usize) {
    let codes: Vec<i16> = values.iter().map(|&value| value as i16).collect();
    let (mut fast, mut slow) = (vec![P; rows], vec![0; rows]);
    kernels.field_dots_i64(weights, values, &mut fast);
    Reference.field_dots_i64(weights, values, &mut slow);
    assert_eq!(fast, slow, "{rows} rows of {} i64", weights.len());
    kernels.field_dots_i16(weights, &codes, &mut fast);
    Reference.field_dots_i16(weights, &codes, &mut slow);
    assert_eq!(fast, slow, "{rows} rows of {} i16", weights.len());
}

pub(crate) fn keys_are_the_transposed_products(kernels: &Kernels) {
    let mut numbers = Numbers::new(7);
    for (rows, columns) in [(1, 1), (16, 64), (40, 70), (129, 200), (300, 130)] {
        let random: Vec<u64> = (0..rows).map(|_| numbers.below(P)).collect();
        for codec in Codec::ALL {
            let matrix = matrix(rows as u64, codec.shape(rows, columns));
            let fixed = [vec![P - 1; rows], vec![0x8080_8080_8080_8080 >> 3; rows]];
            for residues in [&random].into_iter().chain(&fixed) {
                let expected = Reference.field_transposed(&matrix, residues);
                let got = kernels.field_transposed(&matrix, residues);
                assert_eq!(got, expected, "{}", matrix.shape());
            }
        }
    }
}

pub(crate) fn keys_of_the_tallest_matrices_do_not_overflow(kernels: &Kernels) {
    for (codec, code, shifts, weight) in
        [(Codec::W8, 127, vec![], 8001), (Codec::W4, 7, vec![127], 255 * (7 * 16 + 127))]
    {
        let group_scales = vec![codec.group_scale_max() as u8];
        let row = QuantisedRow { codes: vec![code; 3], group_scales, shifts, scale: 1.0 };
        let shape = codec.shape((1 << 17) + 40, 3);
        let bytes = pack(shape, vec![row; shape.rows]);
        let len = bytes.len();
        let matrix = Packed::new(shape, Blob::new(bytes).slice(0, len).unwrap()).unwrap();
        for residue in [P - 1, P / 63, 0x7f7f_7f7f_7f7f_7f7f / 63 % P] {
            let column = field::mul(field::mul(residue, weight), shape.rows as u64);
            assert_eq!(kernels.field_transposed(&matrix, &vec![residue; shape.rows]), [column; 3]);
        }
    }
}
