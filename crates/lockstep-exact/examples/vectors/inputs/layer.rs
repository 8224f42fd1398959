//! Embedding, norm, products, gate, residual, packed matrices and states.

use lockstep_exact::flags::Flags;
use lockstep_exact::matrix::{self, Codec, QuantisedRow, Shape};
use lockstep_exact::ops::Device;
use lockstep_exact::reference::{Reference, Rows};
use lockstep_exact::state::State;
use serde_json::{Value, json};

use super::{Cases, Dice};
use crate::value::{f32_text, f32s_text, hex};

pub(crate) fn cases() -> Cases {
    let mut dice = Dice::new(3);
    let mut cases = packed_matrices(&mut dice);
    cases.extend(states(&mut dice));
    cases.extend(embeddings(&mut dice));
    cases.extend(norms(&mut dice));
    cases.extend(products(&mut dice));
    cases.extend(gates_and_residuals(&mut dice));
    cases.extend(norms_of_rows_and_biases(&mut dice));
    cases.extend(choices(&mut dice));
    cases
}

fn row(dice: &mut Dice, shape: Shape) -> QuantisedRow {
    let code = |dice: &mut Dice| match shape.codec {
        Codec::W8 => dice.signed(127) as i8,
        Codec::W4 => dice.below(16) as i8 - 8,
    };
    let most = shape.codec.group_scale_max() as u64;
    let shifts = if shape.codec == Codec::W4 { shape.groups() } else { 0 };
    QuantisedRow {
        codes: (0..shape.columns).map(|_| code(dice)).collect(),
        group_scales: (0..shape.groups()).map(|_| 1 + dice.below(most) as u8).collect(),
        shifts: (0..shifts).map(|_| dice.signed(127) as i8).collect(),
        scale: dice.f32(-14, -9),
    }
}

fn matrix(dice: &mut Dice, codec: Codec, rows: usize, columns: usize) -> (Shape, Vec<u8>) {
    let shape = codec.shape(rows, columns);
    let quantised: Vec<QuantisedRow> = (0..rows).map(|_| row(dice, shape)).collect();
    (shape, matrix::pack(shape, quantised))
}

fn with_matrix((shape, packed): &(Shape, Vec<u8>), rest: Value) -> Value {
    let mut input = json!({
        "rows": shape.rows, "columns": shape.columns, "codec": shape.codec.name(),
        "packed": hex(packed),
    });
    if let (Some(input), Value::Object(rest)) = (input.as_object_mut(), rest) {
        input.extend(rest);
    }
    input
}

fn packed_matrices(dice: &mut Dice) -> Cases {
    let mut cases = Cases::new();
    for codec in Codec::ALL {
        for (rows, columns) in [(1, 1), (3, 5), (17, 64), (16, 65)] {
            cases.push(("pack", packed_case(dice, codec.shape(rows, columns))));
        }
    }
    cases.extend(bytes_of_w8(dice));
    cases.extend(bytes_of_w4(dice));
    cases
}

fn packed_case(dice: &mut Dice, shape: Shape) -> Value {
    let row = |row: QuantisedRow| {
        json!({
            "codes": row.codes, "group_scales": row.group_scales, "shifts": row.shifts,
            "scale": f32_text(row.scale),
        })
    };
    let matrix: Vec<Value> = (0..shape.rows).map(|_| row(self::row(dice, shape))).collect();
    let codec = shape.codec.name();
    json!({ "rows": shape.rows, "columns": shape.columns, "codec": codec, "matrix": matrix })
}

/// A matrix with bytes changed, and with one byte less.
fn changed((shape, good): (Shape, Vec<u8>), edits: &[&[(usize, u8)]]) -> Cases {
    let mut cases = Cases::new();
    for edits in edits {
        let mut bytes = good.clone();
        edits.iter().for_each(|&(at, byte)| bytes[at] = byte);
        cases.push(("matrix_bytes", with_matrix(&(shape, bytes), json!({}))));
    }
    let short = good[..good.len() - 1].to_vec();
    cases.push(("matrix_bytes", with_matrix(&(shape, short), json!({}))));
    cases
}

fn bytes_of_w8(dice: &mut Dice) -> Cases {
    let (shape, good) = matrix(dice, Codec::W8, 3, 5);
    // Code -128; padding of columns, of rows and of group scales; group scales 0 and 64; row
    // scales NaN, too small, too large and of a padding row; bytes after the row scales.
    let (groups, scales) = (shape.group_scales_offset(), shape.row_scales_offset());
    let last = good.len() - 1;
    let edits: [&[(usize, u8)]; 17] = [
        &[],
        &[(0, 0)],
        &[(65, 129)],
        &[(12, 129)],
        &[(groups, 0)],
        &[(groups, 64)],
        &[(groups, 63)],
        &[(groups + 3, 2)],
        &[(scales + 2, 0xc0), (scales + 3, 0x7f)],
        &[(scales + 3, 0x20)],
        &[(scales + 3, 0x54)],
        &[(scales, 0), (scales + 1, 0), (scales + 2, 0x80), (scales + 3, 0x53)],
        &[(scales, 1), (scales + 1, 0), (scales + 2, 0x80), (scales + 3, 0x53)],
        &[(scales, 0), (scales + 1, 0), (scales + 2, 0x80), (scales + 3, 0xa1)],
        &[(scales, 0xff), (scales + 1, 0xff), (scales + 2, 0x7f), (scales + 3, 0x21)],
        &[(scales + 12, 1)],
        &[(last, 1)],
    ];
    changed((shape, good), &edits)
}

fn bytes_of_w4(dice: &mut Dice) -> Cases {
    let (shape, good) = matrix(dice, Codec::W4, 3, 5);
    // Padding of columns, in both halves of a byte, and of rows; scales 0 and 255, and of padding
    // groups and rows; shifts -128 and -127, and of padding groups and rows; row scales at both
    // ends of their range and beyond.
    let (groups, scales) = (shape.group_scales_offset(), shape.row_scales_offset());
    let shifts = groups + 32;
    let edits: [&[(usize, u8)]; 16] = [
        &[],
        &[(0, 0)],
        &[(1, 0x08)],
        &[(64, 0x87)],
        &[(12, 0x89)],
        &[(groups, 0)],
        &[(groups, 255)],
        &[(groups + 1, 2)],
        &[(groups + 6, 2)],
        &[(shifts, 128)],
        &[(shifts, 129)],
        &[(shifts + 1, 1)],
        &[(shifts + 6, 1)],
        &[(scales, 0), (scales + 1, 0), (scales + 2, 0x80), (scales + 3, 0x51)],
        &[(scales, 1), (scales + 1, 0), (scales + 2, 0x80), (scales + 3, 0x51)],
        &[(scales, 0xff), (scales + 1, 0xff), (scales + 2, 0x7f), (scales + 3, 0x21)],
    ];
    changed((shape, good), &edits)
}

/// A state of random rows; `markers` are overflow markers.
pub(crate) fn state(
    dice: &mut Dice,
    rows: usize,
    width: usize,
    spread: i32,
    markers: &[usize],
) -> State {
    let data: Vec<f32> = (0..rows * width)
        .map(|at| {
            // Some groups are all zeros.
            let zero = at / 32 % 5 == 4;
            if zero { 0.0 } else { dice.f32(-spread, spread) }
        })
        .collect();
    let (mut out, mut flags) = (State::default(), Flags::of(&State::zeros(rows, 1)));
    markers.iter().for_each(|&row| flags.set(row));
    let zeros = State::zeros(rows, width);
    Reference.residual(&zeros, &Rows { width, data }, &mut out, &mut flags);
    out
}

fn states(dice: &mut Dice) -> Cases {
    let case = |width: usize, bytes: &[u8]| {
        ("state_bytes", json!({ "width": width, "state": hex(bytes) }))
    };
    let mut cases = Cases::new();
    let good = state(dice, 3, 40, 20, &[1]).to_bytes();
    cases.push(case(40, &good));
    cases.push(case(40, &good[..good.len() - 1]));
    cases.push(case(40, &[]));
    let group = |mantissas: [i16; 2], byte: u8| {
        let mut row: Vec<u8> = mantissas.iter().flat_map(|m| m.to_le_bytes()).collect();
        row.push(byte);
        row
    };
    let edges: [([i16; 2], u8); 16] = [
        ([0, 0], 0),
        ([1, 0], 0),
        ([0, 0], 128),
        ([0, 0], 255),
        ([1, 0], 255),
        ([16_384, 0], 74),
        ([16_384, 0], 73),
        ([16_383, 0], 74),
        ([32_767, -32_767], 168),
        ([32_767, 0], 169),
        ([-32_768, 0], 128),
        ([-16_384, 1], 128),
        ([-16_383, 1], 128),
        ([16_384, 0], 254),
        ([0, 0], 254),
        ([0, 0], 1),
    ];
    cases.extend(edges.map(|(mantissas, byte)| case(2, &group(mantissas, byte))));
    // A marker byte in one group of two.
    let mut half = vec![0; 80];
    half.extend([255, 0]);
    cases.push(case(40, &half));
    cases
}

fn embeddings(dice: &mut Dice) -> Cases {
    let table = matrix(dice, Codec::W8, 5, 40);
    let small = matrix(dice, Codec::W4, 5, 40);
    let mut huge = table.clone();
    let at = table.0.row_scales_offset() + 4;
    huge.1[at..at + 4].copy_from_slice(&f32::from_bits(167 << 23).to_le_bytes());
    let case = |table, scale: f32| {
        let rest = json!({ "scale": f32_text(scale), "tokens": [4, 0, 1, 1, 3] });
        ("embed", with_matrix(table, rest))
    };
    let small = case(&small, 1.5);
    vec![case(&table, 1.0), case(&table, 25.3), case(&table, 1e-12), case(&huge, 9.0), small]
}

fn norms(dice: &mut Dice) -> Cases {
    let mut cases = Cases::new();
    for (width, spread) in [(32, 0), (40, 3), (64, 12), (96, 30), (160, 50)] {
        let x = state(dice, 3, width, spread, &[2]);
        let eps = if width == 64 { f32::from_bits(67 << 23) } else { 1e-5 };
        let gain = dice.f32s(width, -3, 3);
        let (eps, gain, state) = (f32_text(eps), f32s_text(&gain), hex(&x.to_bytes()));
        let input = json!({ "width": width, "state": state, "eps": eps, "gain": gain });
        cases.push(("norm", input));
    }
    // The largest and the smallest state: the sum of squares at both ends of its range.
    for (mantissa, byte) in [(32_767_i16, 168_u8), (16_384, 74)] {
        let mut bytes: Vec<u8> = [mantissa; 64].iter().flat_map(|m| m.to_le_bytes()).collect();
        bytes.extend([byte; 2]);
        let (eps, gain) = (f32_text(1e-6), f32s_text(&[1.0; 64]));
        let input = json!({ "width": 64, "state": hex(&bytes), "eps": eps, "gain": gain });
        cases.push(("norm", input));
    }
    cases
}

fn norms_of_rows_and_biases(dice: &mut Dice) -> Cases {
    let mut cases = Cases::new();
    for (width, spread) in [(32, 0), (40, 4), (80, 30), (5, 2)] {
        let mut x = dice.f32s(4 * width, -spread, spread);
        // A row of zeros, one that overflows by rounding, one that holds no number.
        x[width..2 * width].fill(0.0);
        x[2 * width + 3] = f32::from_bits((182 << 23) - 0x100);
        x[4 * width - 1] = f32::NAN;
        let gain = dice.f32s(width, -3, 3);
        let (eps, gain, x) = (f32_text(1e-6), f32s_text(&gain), f32s_text(&x));
        cases.push(("norm_rows", json!({ "eps": eps, "gain": gain, "x": x })));
    }
    let mut x = dice.f32s(2 * 7, -20, 20);
    (x[0], x[1], x[2]) = (-0.0, f32::INFINITY, f32::NAN);
    let bias = dice.f32s(7, -20, 20);
    let (bias, x) = (f32s_text(&bias), f32s_text(&x));
    cases.push(("add_bias", json!({ "bias": bias, "x": x })));
    cases
}

fn choices(dice: &mut Dice) -> Cases {
    let case = |experts: usize, used: u32, normalise: bool, logits: &[f32]| {
        let logits = f32s_text(logits);
        let input = json!({
            "experts": experts, "used": used, "normalise": normalise, "logits": logits,
        });
        ("choose", input)
    };
    let mut cases = Cases::new();
    for (experts, used) in [(1, 1), (5, 2), (8, 2), (64, 8), (9, 9)] {
        let logits = dice.f32s(3 * experts, -4, 4);
        cases.extend([true, false].map(|normalise| case(experts, used, normalise, &logits)));
    }
    // Ties, zeros of both signs, scores far apart, and what overflows.
    let ties = [1.0, 2.0, 2.0, 2.0, -0.0, 0.0, -0.0, -1.0, -50.0, 27.0, -1.0, -1.0];
    cases.extend([true, false].map(|normalise| case(4, 2, normalise, &ties)));
    let large = f32::from_bits(0x4931_7218);
    let below = f32::from_bits(large.to_bits() - 2);
    let mut huge = vec![0.0, f32::NAN, 1.0, 1.0, -f32::INFINITY, 0.0, large, 0.0, 2.0];
    huge.extend([below, 0.0, -below]);
    cases.extend([true, false].map(|normalise| case(3, 2, normalise, &huge)));
    let (mut x, mut out) = (dice.f32s(2 * 7, -20, 20), dice.f32s(4 * 7, -20, 20));
    (x[0], x[1], out[9]) = (f32::INFINITY, f32::NAN, 0.0);
    let (x, out, weights) = (f32s_text(&x), f32s_text(&out), f32s_text(&[0.3, 0.71]));
    let rows = [1, 3];
    let input = json!({ "width": 7, "rows": rows, "weights": weights, "x": x, "out": out });
    cases.push(("accumulate", input));
    cases
}

fn products(dice: &mut Dice) -> Cases {
    let mut rows = dice.f32s(3 * 40, -4, 4);
    rows[40] = f32::INFINITY;
    rows[80..].fill(0.0);
    let mut cases = vec![("quantise_rows", json!({ "width": 40, "x": f32s_text(&rows) }))];
    for (n, k) in [(1, 1), (5, 40), (18, 130)] {
        for codec in Codec::ALL {
            let weights = matrix(dice, codec, n, k);
            let codes: Vec<i64> = (0..2 * k).map(|_| dice.signed(32_512)).collect();
            cases.push(("matmul", with_matrix(&weights, json!({ "codes": codes }))));
        }
    }
    for (codec, low, high) in [(Codec::W8, -127, 127), (Codec::W4, -8, 7)] {
        let shape = codec.shape(2, 128);
        let shifts = if codec == Codec::W4 { 4 } else { 0 };
        let extreme = |code: i8| QuantisedRow {
            codes: vec![code; 128],
            group_scales: vec![codec.group_scale_max() as u8; shape.groups()],
            shifts: vec![127 * code.signum(); shifts],
            scale: 1.0,
        };
        let weights = (shape, matrix::pack(shape, [extreme(high), extreme(low)]));
        cases.push(("matmul", with_matrix(&weights, json!({ "codes": vec![32_512; 128] }))));
    }
    let sums: Vec<i64> = [0, 1, -1, (1 << 45) - 1, -(1 << 44) - 12_345]
        .into_iter()
        .chain((0..7).map(|_| dice.signed(1 << 40)))
        .collect();
    let scales = [2e-4, f32::from_bits(167 << 23), f32::from_bits(67 << 23), -1.5e-3];
    let tokens = [3e-5, 0.0, f32::from_bits(0x5380_0000)];
    let (row_scales, token_scales) = (f32s_text(&scales), f32s_text(&tokens));
    let input = json!({
        "width": 4, "sums": sums, "token_scales": token_scales, "row_scales": row_scales,
    });
    cases.push(("dequant", input));
    cases
}

fn gates_and_residuals(dice: &mut Dice) -> Cases {
    let mut gate_up = dice.f32s(4 * 24, -6, 6);
    gate_up[..6].copy_from_slice(&[0.0, -0.0, 90.0, -90.0, f32::INFINITY, f32::NAN]);
    gate_up[48] = 1e30;
    gate_up[48 + 24] = 1e30;
    let gate = |activation| {
        let gate_up = f32s_text(&gate_up);
        ("gate", json!({ "inner": 24, "activation": activation, "gate_up": gate_up }))
    };
    let mut cases = vec![gate("silu"), gate("gelu_tanh")];
    let case = |x: &State, delta: &[f32], flagged: &[usize]| {
        let (state, delta) = (hex(&x.to_bytes()), f32s_text(delta));
        let width = x.width();
        let input = json!({ "width": width, "state": state, "delta": delta, "flagged": flagged });
        ("residual", input)
    };
    let x = state(dice, 4, 40, 2, &[3]);
    let mut delta = dice.f32s(4 * 40, -8, 2);
    cases.push(case(&x, &delta, &[]));
    cases.push(case(&x, &delta, &[1, 3]));
    // Row 0 cancels to zeros, row 1 overflows by rounding, row 2 by a number that is none.
    let negated: Vec<f32> = (0..40).map(|element| -x.value(0, element)).collect();
    delta[..40].copy_from_slice(&negated);
    delta[40] = f32::from_bits((182 << 23) - 0x100);
    delta[119] = f32::NAN;
    cases.push(case(&x, &delta, &[]));
    cases
}
