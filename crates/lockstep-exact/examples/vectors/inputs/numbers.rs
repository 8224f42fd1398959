//! Numbers, blocks, quantisation and the field.

use lockstep_exact::field::P;
use serde_json::json;

use super::{Cases, Dice};
use crate::value::{f32s_text, u64s_text};

const EDGES: [u32; 26] = [
    0x0000_0000,
    0x8000_0000,
    0x0000_0001,
    0x8000_0001,
    0x007f_ffff,
    0x0080_0000,
    0x3eff_ffff,
    0x3f00_0000,
    0x3f00_0001,
    0xbf00_0000,
    0x3f80_0000,
    0x3fbf_ffff,
    0x3fc0_0000,
    0x3fc0_0001,
    0x4020_0000,
    0xc020_0000,
    0x4060_0000,
    0x42ae_0000,
    0xc2ae_0000,
    0xc2ae_0001,
    0xc2ad_ffff,
    0x4a7f_ffff,
    0xca7f_ffff,
    0x4b00_0001,
    0x4eff_ffff,
    0xceff_ffff,
];

pub(crate) fn cases() -> Cases {
    let mut dice = Dice::new(1);
    let mut cases = elementary(&mut dice);
    cases.extend(block_exponents());
    cases.extend(blocks(&mut dice));
    cases.extend(quantisations(&mut dice));
    cases
}

fn elementary(dice: &mut Dice) -> Cases {
    let edges = EDGES.map(f32::from_bits);
    let mut rounded = edges.to_vec();
    rounded.extend((-8..=8).map(|halves| halves as f32 * 0.5));
    rounded.extend(dice.f32s(60, -3, 29));
    let mut integers: Vec<i64> = vec![0, 1, -1, 16_777_217, -16_777_217, 16_777_219];
    for bits in [25, 26, 31, 40, 52, 53, 54, 61] {
        let middle = (1_i64 << bits) + (1 << (bits - 24));
        integers.extend([middle - 1, middle, middle + 1, -middle, (1 << bits) - 1]);
    }
    integers.extend((0..40).map(|_| dice.word() as i64 >> (1 + dice.below(40))));
    let integers: Vec<String> = integers.iter().map(ToString::to_string).collect();
    // At the last one, one unit more in the last coefficient would show.
    let mut fractions = vec![0.0, -0.0, 0.5, -0.5, f32::from_bits(1), f32::from_bits(0xbee6_e987)];
    fractions.extend(dice.f32s(80, -30, -2));
    let mut negatives: Vec<f32> = edges.iter().map(|x| -x.abs()).collect();
    negatives.extend((0..64).map(|step| step as f32 * -1.37));
    negatives.extend(dice.f32s(100, -20, 6).iter().map(|x| -x.abs()));
    negatives.extend([f32::NEG_INFINITY, f32::NAN]);
    let mut any = edges.to_vec();
    any.extend(dice.f32s(120, -20, 8));
    any.extend([f32::INFINITY, f32::NEG_INFINITY]);
    let mut phases: Vec<u64> = (0..8).map(|octant| octant << 61).collect();
    phases.extend((0..8).map(|octant: u64| (octant << 61).wrapping_sub(1)));
    phases.extend((0..8).map(|octant: u64| (octant << 61) + (1 << 37)));
    // As above, for the sine.
    phases.push(0x1e06fd244b073263);
    phases.extend((0..120).map(|_| dice.word()));
    vec![
        ("rne", json!({ "x": f32s_text(&rounded) })),
        ("f32_of_integer", json!({ "x": integers })),
        ("pow2", json!({ "exponent": (-130..128).collect::<Vec<i32>>() })),
        ("exp2_fraction", json!({ "x": f32s_text(&fractions) })),
        ("exp_of_negative", json!({ "x": f32s_text(&negatives) })),
        ("sigmoid", json!({ "x": f32s_text(&any) })),
        ("gelu_tanh", json!({ "x": f32s_text(&any) })),
        ("sin_cos_of_turn", json!({ "phase": u64s_text(&phases) })),
    ]
}

fn block_exponents() -> Cases {
    let mut peaks = vec![0.0, f32::INFINITY, f32::NAN, f32::MAX, f32::from_bits(1)];
    for exponent in [-41, -40, -39, -1, 0, 1, 53, 54, 55] {
        let bits = ((exponent + 127) as u32) << 23;
        let around = [bits - 0x101, bits - 0x100, bits - 0xff, bits - 1, bits, bits + 1];
        peaks.extend(around.map(f32::from_bits));
    }
    vec![("block_exponent", json!({ "amax": f32s_text(&peaks) }))]
}

fn blocks(dice: &mut Dice) -> Cases {
    let two_to = |exponent: i32| f32::from_bits(((exponent + 127) as u32) << 23);
    // Below the next power of two by half a unit of the mantissa, and by a little more.
    let (carry, no_carry) = (f32::from_bits(0x3f7f_ff00), f32::from_bits(0x3f7f_feff));
    let ties: Vec<f32> = (0..32).map(|i| (16_384.0 + i as f32 * 0.5) / 16_384.0).collect();
    let mut groups = vec![
        vec![0.0; 32],
        vec![-0.0; 3],
        vec![two_to(-41), f32::from_bits(two_to(-40).to_bits() - 1)],
        vec![two_to(-40), 0.0, -two_to(-54), two_to(-55), 3.0 * two_to(-56)],
        vec![carry, -carry, 0.25, two_to(-15), 3.0 * two_to(-16)],
        vec![no_carry, -no_carry, 0.25, two_to(-15), 3.0 * two_to(-16)],
        vec![two_to(54), -two_to(54), 1.0, f32::from_bits(1)],
        vec![f32::from_bits(two_to(55).to_bits() - 0x101)],
        vec![f32::from_bits(two_to(55).to_bits() - 0x100)],
        vec![two_to(55)],
        vec![1.0, f32::INFINITY],
        vec![f32::NAN, 1.0],
        vec![-f32::MAX],
        vec![1.0, f32::from_bits(1), -f32::from_bits(0x0080_0000)],
        ties,
    ];
    groups.extend((0..12).map(|_| dice.f32s(32, -6, 4)));
    groups.extend((0..6).map(|_| dice.f32s(32, -60, 53)));
    groups.into_iter().map(|x| ("block_i16", json!({ "x": f32s_text(&x) }))).collect()
}

fn quantisations(dice: &mut Dice) -> Cases {
    let mut rows = vec![
        vec![0.0, -0.0],
        vec![f32::from_bits((87 << 23) - 1)],
        vec![f32::from_bits(87 << 23), f32::from_bits(86 << 23)],
        vec![f32::from_bits((182 << 23) - 1), 1.0, -3e16],
        vec![f32::from_bits(182 << 23)],
        vec![f32::NEG_INFINITY, 0.0],
        vec![0.0, f32::NAN],
        vec![127.0, 0.5, 1.5, 2.5, -0.5, -1.5, 126.5],
        vec![32_512.0, 0.5, 1.5, 2.5, -0.5, -1.5, 32_511.5],
        vec![-1.0, 1.0, f32::from_bits(1)],
    ];
    rows.extend((0..10).map(|_| dice.f32s(16, -8, 3)));
    rows.extend((0..4).map(|_| dice.f32s(16, -60, 54)));
    let case = |x: &Vec<f32>, qmax| ("quantise", json!({ "x": f32s_text(x), "qmax": qmax }));
    rows.iter().flat_map(|x| [case(x, 127), case(x, 32_512)]).collect()
}

pub(crate) fn field_cases() -> Cases {
    let mut dice = Dice::new(2);
    let mut cases = Cases::new();
    let wide = [0, 1, u128::from(P), u128::from(P) + 1, 1 << 61, u128::MAX, u128::from(P).pow(2)];
    let random = (0..8).map(|_| u128::from(dice.word()) << 64 | u128::from(dice.word()));
    for x in wide.into_iter().chain(random.collect::<Vec<_>>()) {
        cases.push(("field_reduce", json!({ "x": format!("{x:032x}") })));
    }
    let mut pairs = vec![(0, 0), (P - 1, 1), (P - 1, P - 1), (0, P - 1), (1 << 60, 1 << 60)];
    pairs.extend((0..8).map(|_| (dice.word() % P, dice.word() % P)));
    for (a, b) in pairs {
        let (a, b) = (u64s_text(&[a]), u64s_text(&[b]));
        cases.push(("field_arithmetic", json!({ "a": a, "b": b })));
    }
    let bounds = [1, 127, 32_512, 1 << 44, (1 << 53) - 1];
    for (count, bound) in [0, 1, 5, 33, 64].into_iter().zip(bounds) {
        let weights: Vec<u64> = (0..count).map(|_| dice.word() % P).collect();
        let values: Vec<i64> = (0..count).map(|_| dice.signed(bound)).collect();
        let case = json!({ "weights": u64s_text(&weights), "values": values });
        cases.push(("field_dot", case));
    }
    cases
}
