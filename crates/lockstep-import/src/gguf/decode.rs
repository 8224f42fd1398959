//! Stored numbers to `f32`, one scalar step after another.
//!
//! Each element is one product (`code × scale`), or one product and one sum (`code × scale +
//! minimum`), each rounded to nearest even: nothing here may be reassociated or fused, because
//! these numbers decide the identity of an imported model. Types whose blocks hold several scales
//! are in [`nested`], those below 4 bits in [`codebook`].

mod codebook;
mod grids;
mod nested;

use super::TensorType;

/// Elements of a quantised block with one scale.
const BLOCK: usize = 32;

/// Decodes one row of numbers into `out`. `bytes` holds exactly the blocks of `out`; if one of the
/// two is longer, its end is ignored.
pub(super) fn row(ty: TensorType, bytes: &[u8], out: &mut [f32]) {
    match ty {
        TensorType::F32 => scalars(bytes, out, f32::from_le_bytes),
        TensorType::F16 => scalars(bytes, out, |b| f16_to_f32(u16::from_le_bytes(b))),
        TensorType::Bf16 => {
            scalars(bytes, out, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16));
        }
        TensorType::Q4_0 => blocks(bytes, out, q4_0),
        TensorType::Q4_1 => blocks(bytes, out, q4_1),
        TensorType::Q5_0 => blocks(bytes, out, q5_0),
        TensorType::Q5_1 => blocks(bytes, out, q5_1),
        TensorType::Q8_0 => blocks(bytes, out, q8_0),
        TensorType::Iq4Nl => blocks(bytes, out, iq4_nl),
        TensorType::Iq4Xs => blocks(bytes, out, nested::iq4_xs),
        TensorType::Q2K => blocks(bytes, out, nested::q2_k),
        TensorType::Q3K => blocks(bytes, out, nested::q3_k),
        TensorType::Q4K => blocks(bytes, out, nested::q4_k),
        TensorType::Q5K => blocks(bytes, out, nested::q5_k),
        TensorType::Q6K => blocks(bytes, out, nested::q6_k),
        TensorType::Iq1M => blocks(bytes, out, codebook::iq1_m),
        TensorType::Iq1S => blocks(bytes, out, codebook::iq1_s),
        TensorType::Iq2S => blocks(bytes, out, codebook::iq2_s),
        TensorType::Iq2Xs => blocks(bytes, out, codebook::iq2_xs),
        TensorType::Iq2Xxs => blocks(bytes, out, codebook::iq2_xxs),
        TensorType::Iq3S => blocks(bytes, out, codebook::iq3_s),
        TensorType::Iq3Xxs => blocks(bytes, out, codebook::iq3_xxs),
        TensorType::Tq1_0 => blocks(bytes, out, codebook::tq1_0),
        TensorType::Tq2_0 => blocks(bytes, out, codebook::tq2_0),
        TensorType::Mxfp4 => blocks(bytes, out, mxfp4),
    }
}

fn scalars<const N: usize>(bytes: &[u8], out: &mut [f32], decode: impl Fn([u8; N]) -> f32) {
    let (stored, _) = bytes.as_chunks::<N>();
    for (number, stored) in out.iter_mut().zip(stored) {
        *number = decode(*stored);
    }
}

fn blocks<const N: usize, const LEN: usize>(
    bytes: &[u8],
    out: &mut [f32],
    decode: impl Fn(&[u8; N], &mut [f32; LEN]),
) {
    let (stored, _) = bytes.as_chunks::<N>();
    let (numbers, _) = out.as_chunks_mut::<LEN>();
    for (numbers, stored) in numbers.iter_mut().zip(stored) {
        decode(stored, numbers);
    }
}

/// `[scale f16][16 bytes: low nibbles are elements 0..16, high nibbles 16..32]`
fn q4_0(stored: &[u8; 18], out: &mut [f32; BLOCK]) {
    let [s0, s1, codes @ ..] = stored;
    let scale = f16_to_f32(u16::from_le_bytes([*s0, *s1]));
    nibbles(codes, 0, out, |code| (f32::from(code) - 8.0) * scale);
}

/// `[scale f16][minimum f16][16 bytes as in Q4_0]`
fn q4_1(stored: &[u8; 20], out: &mut [f32; BLOCK]) {
    let [s0, s1, m0, m1, codes @ ..] = stored;
    let scale = f16_to_f32(u16::from_le_bytes([*s0, *s1]));
    let minimum = f16_to_f32(u16::from_le_bytes([*m0, *m1]));
    nibbles(codes, 0, out, |code| f32::from(code) * scale + minimum);
}

/// `[scale f16][fifth bits u32][16 bytes as in Q4_0]`
fn q5_0(stored: &[u8; 22], out: &mut [f32; BLOCK]) {
    let [s0, s1, h0, h1, h2, h3, codes @ ..] = stored;
    let scale = f16_to_f32(u16::from_le_bytes([*s0, *s1]));
    let high = u32::from_le_bytes([*h0, *h1, *h2, *h3]);
    nibbles(codes, high, out, |code| (f32::from(code) - 16.0) * scale);
}

/// `[scale f16][minimum f16][fifth bits u32][16 bytes as in Q4_0]`
fn q5_1(stored: &[u8; 24], out: &mut [f32; BLOCK]) {
    let [s0, s1, m0, m1, h0, h1, h2, h3, codes @ ..] = stored;
    let scale = f16_to_f32(u16::from_le_bytes([*s0, *s1]));
    let minimum = f16_to_f32(u16::from_le_bytes([*m0, *m1]));
    let high = u32::from_le_bytes([*h0, *h1, *h2, *h3]);
    nibbles(codes, high, out, |code| f32::from(code) * scale + minimum);
}

/// `[scale f16][32 × i8]`
fn q8_0(stored: &[u8; 34], out: &mut [f32; BLOCK]) {
    let [s0, s1, codes @ ..] = stored;
    let scale = f16_to_f32(u16::from_le_bytes([*s0, *s1]));
    for (number, code) in out.iter_mut().zip(codes) {
        *number = f32::from(code.cast_signed()) * scale;
    }
}

/// The sixteen levels of the 4-bit types whose levels are not evenly spaced.
const LEVELS: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0,
    89.0, 113.0,
];

/// Returns the level that the low four bits of `code` name.
fn level(code: u8) -> f32 {
    LEVELS.get(usize::from(code & 15)).copied().unwrap_or_default()
}

/// `[scale f16][16 bytes as in Q4_0]`, each code naming a level.
fn iq4_nl(stored: &[u8; 18], out: &mut [f32; BLOCK]) {
    let [s0, s1, codes @ ..] = stored;
    let scale = f16_to_f32(u16::from_le_bytes([*s0, *s1]));
    nibbles(codes, 0, out, |code| scale * level(code));
}

/// Twice the numbers that the 4-bit floats E2M1 stand for.
const E2M1: [f32; 16] =
    [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 0.0, -1.0, -2.0, -3.0, -4.0, -6.0, -8.0, -12.0];

/// `[exponent u8 of a power of two, biased by 127][16 bytes of E2M1 floats as in Q4_0]`
fn mxfp4(stored: &[u8; 17], out: &mut [f32; BLOCK]) {
    let [exponent, codes @ ..] = stored;
    // Half of the power, as the table has twice the numbers: below 2^-126 it is subnormal.
    let scale = match u32::from(*exponent) {
        tiny @ 0..2 => f32::from_bits(0x0020_0000 << tiny),
        exponent => f32::from_bits((exponent - 1) << 23),
    };
    nibbles(codes, 0, out, |code| {
        E2M1.get(usize::from(code & 15)).copied().unwrap_or_default() * scale
    });
}

/// Hands the 32 codes of a block to `number`; bit `i` of `high` is bit 4 of code `i`.
fn nibbles(codes: &[u8; 16], high: u32, out: &mut [f32; BLOCK], number: impl Fn(u8) -> f32) {
    let fifth = |at: usize| ((high >> at & 1) as u8) << 4;
    let (low_half, high_half) = out.split_at_mut(BLOCK / 2);
    for (i, ((low, high), byte)) in low_half.iter_mut().zip(high_half).zip(codes).enumerate() {
        *low = number(byte & 15 | fifth(i));
        *high = number(byte >> 4 | fifth(i + 16));
    }
}

/// Returns the value of a binary16, exactly.
fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let exponent = u32::from(bits >> 10 & 0x1f);
    let fraction = u32::from(bits & 0x3ff);
    let magnitude = match exponent {
        // Subnormal: a multiple of 2^-24, which a binary32 holds exactly.
        0 => (fraction as f32 * f32::from_bits((127 - 24) << 23)).to_bits(),
        31 => 0x7f80_0000 | fraction << 13,
        _ => (exponent + 127 - 15) << 23 | fraction << 13,
    };
    f32::from_bits(sign | magnitude)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_binary16_has_its_value() {
        for bits in 0..=u16::MAX {
            let sign = if bits >> 15 == 1 { -1.0_f64 } else { 1.0 };
            let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
            let got = f16_to_f32(bits);
            match exponent {
                31 if fraction > 0.0 => assert!(got.is_nan(), "{bits:#x}"),
                31 => assert_eq!(f64::from(got), sign * f64::INFINITY),
                0 => assert_eq!(f64::from(got), sign * fraction * 2.0_f64.powi(-24)),
                _ => {
                    let expected = sign * (1.0 + fraction / 1024.0) * 2.0_f64.powi(exponent - 15);
                    assert_eq!(f64::from(got), expected, "{bits:#x}");
                }
            }
        }
    }

    /// scale 0.5, minimum -3
    const SCALE: [u8; 2] = [0x00, 0x38];
    const MINIMUM: [u8; 2] = [0x00, 0xc2];

    fn decoded(ty: TensorType, parts: &[&[u8]]) -> Vec<f32> {
        let mut out = vec![f32::NAN; 32];
        row(ty, &parts.concat(), &mut out);
        out
    }

    /// Code `i` is `(7 * i) mod 2^bits`, stored with element `i + 16` in the high nibble.
    fn codes(bits: u32) -> (Vec<u8>, [u8; 16], [u8; 4]) {
        let codes: Vec<u8> = (0..32_u8).map(|i| i.wrapping_mul(7) & ((1 << bits) - 1)).collect();
        let mut packed = [0; 16];
        for (i, byte) in packed.iter_mut().enumerate() {
            *byte = codes[i] & 15 | (codes[i + 16] & 15) << 4;
        }
        let high = (0..32).map(|i| u32::from(codes[i] >> 4) << i).sum::<u32>();
        (codes, packed, high.to_le_bytes())
    }

    #[test]
    fn four_bit_blocks_decode_to_code_times_scale() {
        let (codes, packed, _) = codes(4);
        let q4_0 = decoded(TensorType::Q4_0, &[&SCALE, &packed]);
        let q4_1 = decoded(TensorType::Q4_1, &[&SCALE, &MINIMUM, &packed]);
        for (i, code) in codes.iter().enumerate() {
            assert_eq!(q4_0[i], 0.5 * (f32::from(*code) - 8.0));
            assert_eq!(q4_1[i], 0.5 * f32::from(*code) - 3.0);
        }
    }

    #[test]
    fn five_bit_blocks_take_their_top_bit_from_the_mask() {
        let (codes, packed, high) = codes(5);
        let q5_0 = decoded(TensorType::Q5_0, &[&SCALE, &high, &packed]);
        let q5_1 = decoded(TensorType::Q5_1, &[&SCALE, &MINIMUM, &high, &packed]);
        for (i, code) in codes.iter().enumerate() {
            assert_eq!(q5_0[i], 0.5 * (f32::from(*code) - 16.0));
            assert_eq!(q5_1[i], 0.5 * f32::from(*code) - 3.0);
        }
    }

    #[test]
    fn eight_bit_blocks_are_signed() {
        let codes: Vec<u8> = (0..32_u8).map(|i| i.wrapping_mul(37)).collect();
        let got = decoded(TensorType::Q8_0, &[&SCALE, &codes]);
        for (number, code) in got.iter().zip(codes) {
            assert_eq!(*number, 0.5 * f32::from(code as i8));
        }
    }

    #[test]
    fn plain_floats_decode_to_themselves() {
        let numbers = [1.0_f32, -2.5, 3.0e-3, 65504.0];
        let mut out = [0.0; 4];
        let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        row(TensorType::F32, &bytes, &mut out);
        assert_eq!(out, numbers);
        let bytes: Vec<u8> =
            numbers.iter().map(|x| (x.to_bits() >> 16) as u16).flat_map(u16::to_le_bytes).collect();
        row(TensorType::Bf16, &bytes, &mut out);
        for (got, x) in out.iter().zip(numbers) {
            assert_eq!(got.to_bits(), x.to_bits() & 0xffff_0000);
        }
    }
}
