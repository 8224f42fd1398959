//! Rotation, KV rows and attention.

use lockstep_exact::kv::{KvRow, KvShape};
use lockstep_exact::num;
use serde_json::{Value, json};

use super::{Cases, Dice};
use crate::value::{f32_text, f32s_text, hex, hexes, u64s_text};

pub(crate) fn cases() -> Cases {
    let mut dice = Dice::new(4);
    let mut cases = appends(&mut dice);
    cases.extend(kv_rows(&mut dice));
    cases.extend(attentions(&mut dice));
    cases.extend(edges(&mut dice));
    cases.extend(appends_with_norms(&mut dice));
    cases
}

fn appends(dice: &mut Dice) -> Cases {
    let mut cases = Cases::new();
    // Heads, KV heads, head size, rotated pairs, first position.
    for (heads, kv_heads, head_dim, pairs, first) in
        [(2, 1, 8, 4, 0), (4, 2, 8, 4, 1000), (3, 3, 6, 2, 70_001), (1, 1, 2, 0, 5)]
    {
        let rope: Vec<u64> = (0..pairs).map(|_| dice.word() >> dice.below(24)).collect();
        let width = (heads + 2 * kv_heads) * head_dim;
        let mut qkv = dice.f32s(3 * width, -4, 3);
        if heads == 4 {
            // A key that overflows in row 0, a query in row 1, and a row of zeros.
            qkv[heads * head_dim] = 1e17;
            qkv[width] = f32::NAN;
            qkv[2 * width..].fill(0.0);
        }
        let positions: Vec<usize> = (first..first + 3).collect();
        let wanted: Vec<usize> = if heads == 3 { vec![2] } else { vec![0, 1, 2] };
        let input = json!({
            "heads": heads, "kv_heads": kv_heads, "head_dim": head_dim,
            "rope": u64s_text(&rope), "score_scale": f32_text(0.510_07), "qkv": f32s_text(&qkv),
            "positions": positions, "wanted": wanted,
        });
        cases.push(("append", input));
    }
    cases
}

/// Queries and keys are normalised per head; a key and a query overflow before that.
fn appends_with_norms(dice: &mut Dice) -> Cases {
    let mut cases = Cases::new();
    for (heads, kv_heads, head_dim, first) in [(4, 2, 8, 1000), (2, 1, 40, 3)] {
        let rope: Vec<u64> = (0..head_dim / 2).map(|_| dice.word() >> dice.below(24)).collect();
        let width = (heads + 2 * kv_heads) * head_dim;
        let mut qkv = dice.f32s(3 * width, -9, 9);
        qkv[heads * head_dim] = 1e17;
        qkv[width] = f32::NAN;
        qkv[2 * width..2 * width + head_dim].fill(0.0);
        let positions: Vec<usize> = (first..first + 3).collect();
        let (query, key) = (dice.f32s(head_dim, -3, 3), dice.f32s(head_dim, -3, 3));
        cases.push((
            "append",
            json!({
                "heads": heads, "kv_heads": kv_heads, "head_dim": head_dim,
                "rope": u64s_text(&rope), "score_scale": f32_text(0.510_07),
                "eps": f32_text(1e-6), "query_gain": f32s_text(&query),
                "key_gain": f32s_text(&key), "qkv": f32s_text(&qkv),
                "positions": positions, "wanted": [0, 1, 2],
            }),
        ));
    }
    cases
}

fn random_row(dice: &mut Dice, shape: KvShape, value_exponent: i32) -> KvRow {
    let codes = |dice: &mut Dice| (0..shape.width()).map(|_| dice.signed(127) as i8).collect();
    let scales = |dice: &mut Dice, exponent: i32| {
        (0..shape.kv_heads).map(|_| dice.f32(exponent - 1, exponent + 1).abs()).collect()
    };
    KvRow {
        key_codes: codes(dice),
        value_codes: codes(dice),
        key_scales: scales(dice, -6),
        value_scales: scales(dice, value_exponent),
    }
}

fn bytes(row: &KvRow) -> Vec<u8> {
    let mut bytes = Vec::new();
    row.write(&mut bytes);
    bytes
}

fn kv_rows(dice: &mut Dice) -> Cases {
    let shape = KvShape { kv_heads: 2, head_dim: 4 };
    let row = random_row(dice, shape, -6);
    let mut cases = vec![(
        "kv_row",
        json!({
            "key_codes": row.key_codes, "value_codes": row.value_codes,
            "key_scales": f32s_text(&row.key_scales), "value_scales": f32s_text(&row.value_scales),
        }),
    )];
    let good = bytes(&row);
    let low = (f32::from_bits(num::TINY_BITS) / 127.0).to_bits();
    let high = (f32::from_bits(num::OVERFLOW_BITS) / 127.0).to_bits();
    let with_scale = |bits: u32| {
        let mut bytes = good.clone();
        bytes[28..].copy_from_slice(&bits.to_le_bytes());
        bytes
    };
    let mut with_code = good.clone();
    with_code[15] = 0x80;
    let mut tried = vec![good.clone(), good[1..].to_vec(), with_code];
    let nothing = [0x8000_0000, 1, f32::NAN.to_bits(), f32::INFINITY.to_bits(), 0xbf80_0000];
    tried.extend([0, low - 1, low, high, high + 1].into_iter().chain(nothing).map(with_scale));
    for bytes in tried {
        let input = json!({ "kv_heads": 2, "head_dim": 4, "bytes": hex(&bytes) });
        cases.push(("kv_bytes", input));
    }
    cases
}

/// A case with rows of random codes from `first` on.
struct Attention {
    heads: usize,
    shape: KvShape,
    window: usize,
    first: usize,
    rows: Vec<KvRow>,
    scale: f32,
    positions: Vec<usize>,
}

impl Attention {
    fn case(&self, dice: &mut Dice) -> (&'static str, Value) {
        let count = self.positions.len() * self.heads;
        let codes: Vec<i64> =
            (0..count * self.shape.head_dim).map(|_| dice.signed(32_512)).collect();
        self.case_of(&codes, &vec![self.scale; count])
    }

    fn case_of(&self, codes: &[i64], scales: &[f32]) -> (&'static str, Value) {
        let rows: Vec<Vec<u8>> = self.rows.iter().map(bytes).collect();
        let input = json!({
            "heads": self.heads, "kv_heads": self.shape.kv_heads,
            "head_dim": self.shape.head_dim, "window": self.window, "first": self.first,
            "kv_rows": hexes(&rows), "codes": codes, "scales": f32s_text(scales),
            "positions": self.positions,
        });
        ("attend", input)
    }
}

fn attentions(dice: &mut Dice) -> Cases {
    let mut cases = Cases::new();
    // Heads, KV heads, head size, window, first row, rows, query scale, positions.
    type Sizes = (usize, usize, usize, usize, usize, usize, f32, &'static [usize]);
    let sizes: [Sizes; 7] = [
        (1, 1, 2, 0, 0, 1, 1e-4, &[0]),
        (4, 2, 4, 0, 0, 9, 1e-4, &[0, 3, 8]),
        (1, 1, 4, 0, 0, 515, 2e-4, &[254, 255, 256, 257, 511, 512, 514]),
        (2, 1, 4, 100, 180, 160, 2e-4, &[279, 280, 300, 339]),
        (1, 1, 4, 256, 256, 300, 1e-3, &[511, 512, 555]),
        (1, 1, 4, 1, 256, 2, 1e-3, &[256, 257]),
        (2, 2, 16, 0, 0, 40, 1e-2, &[39]),
    ];
    for (heads, kv_heads, head_dim, window, first, count, scale, positions) in sizes {
        let shape = KvShape { kv_heads, head_dim };
        let rows = (0..count).map(|_| random_row(dice, shape, -6)).collect();
        let positions = positions.to_vec();
        let case = Attention { heads, shape, window, first, rows, scale, positions }.case(dice);
        cases.push(case);
    }
    cases
}

/// One head of one element: the score is `code · scale · 100`.
fn plain(rows: &[(i8, f32, i8, f32)], scale: f32) -> (&'static str, Value) {
    let row = |&(key, key_scale, value, value_scale): &(i8, f32, i8, f32)| KvRow {
        key_codes: vec![key],
        value_codes: vec![value],
        key_scales: vec![key_scale],
        value_scales: vec![value_scale],
    };
    let shape = KvShape { kv_heads: 1, head_dim: 1 };
    let attention = Attention {
        heads: 1,
        shape,
        window: 0,
        first: 0,
        rows: rows.iter().map(row).collect(),
        scale,
        positions: vec![rows.len() - 1],
    };
    attention.case_of(&[100], &[scale])
}

fn edges(dice: &mut Dice) -> Cases {
    let needle = |at: usize, count: usize| {
        let mut rows = vec![(0, 1.0, 1, 1e-3); count];
        rows[at] = (127, 1.0, 127, 1.0);
        rows
    };
    let ramp: Vec<(i8, f32, i8, f32)> =
        (0..127).map(|i| (i as i8, 1.0, dice.signed(127) as i8, 0.5)).collect();
    let far: Vec<(i8, f32, i8, f32)> = (0..300)
        .map(|i| if i < 256 { (-127, 1.0, 100, 1.0) } else { (127, 1.0, 0, 0.0) })
        .collect();
    // Values in one chunk only, and the scores of the next one this much higher.
    let apart = |powers: i8| {
        let low = -powers / 2;
        let mut rows = vec![(low, 1.0, 100, 1.0); 256];
        rows.push((low + powers, 1.0, 0, 0.0));
        rows
    };
    let two_to = |exponent: i32| f32::from_bits(((exponent + 127) as u32) << 23);
    vec![
        plain(&vec![(1, 1.0, 77, 0.5); 300], 0.01),
        plain(&needle(17, 300), 0.01),
        plain(&needle(299, 300), 0.01),
        plain(&ramp, 0.01),
        plain(&ramp, -0.013),
        // Differences beyond 40 powers in a chunk, 63 between chunks, 100 in the result.
        plain(&ramp, 0.1),
        plain(&far, 0.002),
        plain(&far, 0.0035),
        plain(&far, 0.005),
        plain(&far, 1.0),
        // Values of zero, at a top of -106 and at others; no numerator at all.
        plain(&[(-106, 1.0, 0, 0.0)], 0.01),
        plain(&vec![(-106, 1.0, 5, 0.0); 260], 0.01),
        plain(&[(106, 1.0, 0, 0.0), (-127, 1.0, 3, 1.0)], 1.0),
        plain(&[(0, 0.0, 127, 1e14), (0, 0.0, -127, 1e14)], 0.0),
        // The last difference that counts in a chunk, in the result, and the next one.
        plain(&[(40, 1.0, 0, 0.0), (0, 1.0, 100, 1000.0)], 0.01),
        plain(&[(41, 1.0, 0, 0.0), (0, 1.0, 100, 1000.0)], 0.01),
        plain(&apart(108), 0.01),
        plain(&apart(109), 0.01),
        // Scores at and beyond the limit, and a product that is no number.
        plain(&[(127, 1.0, 1, 1.0)], 82.0),
        plain(&[(127, 1.0, 1, 1.0)], 82.6),
        plain(&[(64, 1.0, 1, 1.0)], f32::from_bits(0x4323_d709)),
        plain(&[(64, 1.0, 1, 1.0)], f32::from_bits(0x4323_d70a)),
        plain(&[(-64, 1.0, 1, 1.0)], f32::from_bits(0x4323_d70a)),
        plain(&[(0, 2e14, 1, 1.0)], two_to(81)),
        plain(&[(0, 1.0, 1, 1.0)], f32::NAN),
        // The smallest and the largest scales that a KV row can have.
        plain(&[(1, 1.0, 127, two_to(-40) / 127.0), (1, 1.0, 127, 0.0)], 0.01),
        plain(&[(1, 1.0, 127, two_to(-39) / 127.0 * 127.0), (1, 1.0, 127, 0.0)], 0.01),
        plain(&[(1, 1.0, 127, two_to(55) / 127.0)], 0.01),
    ]
}
