//! Cases of the operations on rows.

use lockstep_exact::blob::Blob;
use lockstep_exact::matrix::{Codec, Packed};
use lockstep_exact::norm::Norm;
use lockstep_exact::plan::Activation;
use lockstep_exact::state::State;
use lockstep_testing::numbers::Numbers;

use crate::record::Record;
use crate::subject::Subject;

/// Widths with and without whole groups, warps and blocks.
const WIDTHS: [usize; 9] = [1, 31, 32, 65, 96, 576, 1000, 2048, 5120];
const COUNTS: [usize; 4] = [1, 2, 7, 13];

/// Numbers of every kind: ordinary, zero, tiny, subnormal, huge; and infinite or NaN if `special`.
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

/// Ordinary numbers of magnitude up to `size`.
pub(crate) fn floats(numbers: &mut Numbers, count: usize, size: f32) -> Vec<f32> {
    (0..count).map(|_| numbers.signed_unit() * size).collect()
}

/// A matrix of random codes, group scales, shifts and row scales.
pub(crate) fn matrix(numbers: &mut Numbers, codec: Codec, rows: usize, columns: usize) -> Packed {
    use lockstep_exact::matrix::{QuantisedRow, pack};
    let shape = codec.shape(rows, columns);
    let row = |_| {
        let mut many = |count: usize, mut f: Box<dyn FnMut(u64) -> u8>| -> Vec<u8> {
            (0..count).map(|_| f(numbers.next_u64() >> 8)).collect()
        };
        let (codes, group_scales): (Vec<u8>, Vec<u8>) = match codec {
            Codec::W8 => (
                many(columns, Box::new(|x| (x % 255) as u8 ^ 0x80)),
                many(shape.groups(), Box::new(|x| 1 + (x % 63) as u8)),
            ),
            Codec::W4 => (
                many(columns, Box::new(|x| (x % 16) as u8)),
                many(shape.groups(), Box::new(|x| 1 + (x % 255) as u8)),
            ),
        };
        let codes = codes.into_iter().map(|code| match codec {
            Codec::W8 => (i16::from(code ^ 0x80) - 127) as i8,
            Codec::W4 => code as i8 - 8,
        });
        let codes = codes.collect();
        let shifts = match codec {
            Codec::W8 => Vec::new(),
            Codec::W4 => many(shape.groups(), Box::new(|x| ((x % 255) as i16 - 127) as i8 as u8)),
        };
        QuantisedRow {
            codes,
            group_scales,
            shifts: shifts.into_iter().map(|shift| shift as i8).collect(),
            scale: f32::from_bits((numbers.below(1 << 23) as u32) | (120 << 23)),
        }
    };
    let bytes = pack(shape, (0..rows).map(row).collect::<Vec<_>>());
    packed(codec, rows, columns, bytes)
}

/// Packed bytes as a checked matrix.
pub(crate) fn packed(codec: Codec, rows: usize, columns: usize, bytes: Vec<u8>) -> Packed {
    let len = bytes.len();
    Packed::new(codec.shape(rows, columns), Blob::new(bytes).slice(0, len).unwrap()).unwrap()
}

/// States of every kind of row: random with wild exponents, zero groups, overflow markers.
fn states(numbers: &mut Numbers, rows: usize, width: usize) -> State {
    let mut state = State::zeros(rows, width);
    for row in 0..rows {
        if numbers.below(9) == 0 {
            state.mark_overflow(row);
            continue;
        }
        let spread = if numbers.below(2) == 0 { 95 } else { 6 };
        let (mantissas, exponents) = state.row_mut(row);
        for (mantissas, byte) in mantissas.chunks_mut(32).zip(exponents) {
            if numbers.below(8) == 0 {
                continue;
            }
            *byte = (74 + numbers.below(spread)) as u8;
            for mantissa in mantissas.iter_mut() {
                *mantissa = (numbers.below(65_535) as i32 - 32_767) as i16;
            }
            mantissas[0] = if numbers.below(2) == 0 { 32_767 } else { -16_384 };
        }
    }
    state
}

/// Calls `body` for every width and number of rows.
fn sizes(mut body: impl FnMut(usize, usize)) {
    for width in WIDTHS {
        for count in COUNTS {
            if width * count <= 20_000 {
                body(width, count);
            }
        }
    }
}

pub(crate) fn norms_of_states(subject: &dyn Subject, numbers: &mut Numbers, record: &mut Record) {
    sizes(|width, count| {
        let state = states(numbers, count, width);
        let gain = floats(numbers, width, 4.0);
        for eps in [1e-5, 0.0, 1e-30] {
            let out = subject.norm(&state, &Norm::new(eps, gain.clone()));
            record.floats(format!("{count} rows of {width}, eps {eps}"), &out);
        }
    });
}

pub(crate) fn norms_of_rows(subject: &dyn Subject, numbers: &mut Numbers, record: &mut Record) {
    sizes(|width, count| {
        let norm = Norm::new(1e-6, floats(numbers, width, 4.0));
        let wild = any_floats(numbers, width * count, width <= 96);
        let zeros = vec![0.0; width * count];
        for data in [wild, floats(numbers, width * count, 4.0), zeros] {
            let (out, flags) = subject.norm_rows(&norm, &data);
            record.floats(format!("{count} rows of {width}"), &out);
            record.flags(format!("flags of {count} rows of {width}"), count, &flags);
        }
    });
}

pub(crate) fn residuals(subject: &dyn Subject, numbers: &mut Numbers, record: &mut Record) {
    sizes(|width, count| {
        for special in [false, true] {
            let state = states(numbers, count, width);
            let delta = match special {
                true => any_floats(numbers, width * count, width <= 96),
                false => floats(numbers, width * count, 4.0),
            };
            let (out, flags) = subject.residual(&state, &delta);
            record.state(format!("{count} rows of {width}"), &out);
            record.flags(format!("flags of {count} rows of {width}"), count, &flags);
        }
    });
}

fn quantise(subject: &dyn Subject, width: usize, data: &[f32], record: &mut Record) {
    let count = data.len() / width;
    let (codes, scales, flags) = subject.quantise(width, data);
    record.codes(format!("codes of {count} rows of {width}"), &codes);
    record.floats(format!("scales of {count} rows of {width}"), &scales);
    record.flags(format!("flags of {count} rows of {width}"), count, &flags);
}

pub(crate) fn quantised_rows(subject: &dyn Subject, numbers: &mut Numbers, record: &mut Record) {
    sizes(|width, count| {
        quantise(subject, width, &any_floats(numbers, width * count, false), record);
        quantise(subject, width, &any_floats(numbers, width * count, width <= 96), record);
        quantise(subject, width, &floats(numbers, width * count, 4.0), record);
    });
    // Rows enough for every number of tiles, and the widest there is.
    for count in 1..30 {
        quantise(subject, 65, &floats(numbers, 65 * count, 4.0), record);
    }
    quantise(subject, 131_072, &floats(numbers, 131_072, 4.0), record);
}

pub(crate) fn quantised_rows_at_both_edges(
    subject: &dyn Subject,
    numbers: &mut Numbers,
    record: &mut Record,
) {
    for peak in [87_u32 << 23, 182 << 23] {
        for bits in peak - 2..=peak + 2 {
            let small = numbers.signed_unit() * 1e-13;
            quantise(subject, 4, &[f32::from_bits(bits), small, -4e-13, 0.0], record);
        }
    }
    let ties: Vec<f32> = (0..64).map(|i| if i == 0 { 32_512.0 } else { i as f32 - 31.5 }).collect();
    quantise(subject, 64, &ties, record);
    // Every code there is.
    for part in 0..16 {
        let codes = (0..4096).map(|k| (part * 4096 + k) as f32 - 32_768.0);
        let codes = codes.filter(|code| (-32_512.0..=32_512.0).contains(code));
        let row: Vec<f32> = std::iter::once(32_512.0).chain(codes).collect();
        quantise(subject, row.len(), &row, record);
    }
}

pub(crate) fn gates(subject: &dyn Subject, numbers: &mut Numbers, record: &mut Record) {
    let mut check = |inner: usize, data: &[f32]| {
        for activation in [Activation::Silu, Activation::GeluTanh] {
            let out = subject.gate(activation, 2 * inner, data);
            record.floats(format!("{activation:?}, rows of {inner}"), &out);
        }
    };
    sizes(|inner, count| {
        let mut data = any_floats(numbers, 2 * inner * count, true);
        let edges = [-87.0, -87.000_01, 87.0, -86.999_99, 100.0, -0.0];
        for (value, edge) in data.iter_mut().step_by(5).zip(edges) {
            *value = edge;
        }
        check(inner, &data);
    });
    // Numbers of every exponent and sign, with ones.
    let bits = (0..65_536_u32).map(|high| high << 16 | numbers.next_u64() as u32 & 0xffff);
    let data: Vec<f32> = bits.map(f32::from_bits).chain(vec![1.0; 65_536]).collect();
    check(65_536, &data);
}

pub(crate) fn embeddings(subject: &dyn Subject, numbers: &mut Numbers, record: &mut Record) {
    let large = f32::from_bits(165 << 23);
    for (width, scale) in [(32, 1.0), (96, 11.3), (160, large), (70, 1e-12), (576, 1e30)] {
        for codec in Codec::ALL {
            let table = matrix(numbers, codec, 50, width);
            for count in COUNTS {
                let tokens: Vec<u32> = (0..count as u32).map(|i| i * 17 % 50).collect();
                let out = subject.embed(&table, scale, &tokens);
                record.state(format!("{count} rows of {width} {codec:?}, scale {scale}"), &out);
            }
        }
    }
}

pub(crate) fn large_logits(subject: &dyn Subject, numbers: &mut Numbers, record: &mut Record) {
    sizes(|width, count| {
        let mut data = floats(numbers, width * count, 4.0);
        for (row, edge) in data.chunks_exact_mut(width).zip([182 << 23, (182 << 23) - 1, 255 << 23])
        {
            row[numbers.below(width as u64) as usize] = f32::from_bits(edge | 0x8000_0000);
        }
        let flags = subject.large_logits(width, &data);
        record.flags(format!("{count} rows of {width}"), count, &flags);
    });
}

pub(crate) fn markers(subject: &dyn Subject, numbers: &mut Numbers, record: &mut Record) {
    for count in [1, 40, 255, 256, 257, 700] {
        for width in [1, 32, 100] {
            let flags = subject.markers(&states(numbers, count, width));
            record.flags(format!("{count} rows of {width}"), count, &flags);
        }
    }
}
