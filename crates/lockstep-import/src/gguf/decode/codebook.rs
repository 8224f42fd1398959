//! Types below 4 bits with 256 elements a block.
//!
//! The codes of IQ1, IQ2 and IQ3 each name a row of four or eight elements in a table; signs stand
//! apart. The codes of TQ1_0 and TQ2_0 are ternary digits. Steps and their order are those of
//! llama.cpp's `dequantize_row_*`: the scale of a group first, each product rounded, then the
//! product with the element.

use super::grids;
use super::nested::half;

/// The number of elements of a block.
const BLOCK: usize = 256;
/// Magnitudes of the 2-bit fields in the tables of IQ2; no row has the last one.
const LEVELS_IQ2: [f32; 4] = [8.0, 25.0, 43.0, 0.0];
/// Elements of the 2-bit fields in the table of IQ1; no row has the last one.
const LEVELS_IQ1: [f32; 4] = [-1.0, 0.0, 1.0, 0.0];
/// Magnitudes of the 4-bit fields in the table of IQ3_XXS.
const LEVELS_IQ3_XXS: [f32; 8] = [4.0, 12.0, 20.0, 28.0, 36.0, 44.0, 52.0, 62.0];
/// Magnitudes of the 4-bit fields in the table of IQ3_S.
const LEVELS_IQ3_S: [f32; 8] = [1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0];
/// The number that is added to the elements of an IQ1 row, or subtracted from them.
const DELTA: f32 = 0.125;

/// Returns the row that `code` names; codes have as many bits as the table needs.
fn row(table: &[u16], code: u16) -> u16 {
    table.get(usize::from(code)).copied().unwrap_or_default()
}

fn level(levels: &[f32], field: u16) -> f32 {
    levels.get(usize::from(field)).copied().unwrap_or_default()
}

/// Writes `scale × magnitude` for each field of `bits` bits in `row`, by the table `levels`; bit
/// `i` of `signs` makes element `i` negative.
fn signed(out: &mut [f32], scale: f32, (levels, bits): (&[f32], usize), row: u16, signs: u8) {
    let mask = (1 << bits) - 1;
    for (at, number) in out.iter_mut().enumerate() {
        let magnitude = scale * level(levels, row >> (bits * at) & mask);
        *number = if signs >> at & 1 == 1 { -magnitude } else { magnitude };
    }
}

/// Writes eight elements of an IQ2 type, by the row of the codebook and their signs.
fn eight(out: &mut [f32], scale: f32, row: u16, signs: u8) {
    signed(out, scale, (&LEVELS_IQ2, 2), row, signs);
}

/// Returns eight signs of which seven are stored: the number of negative ones is even.
fn even_signs(stored: u32) -> u8 {
    let seven = (stored & 127) as u8;
    seven | ((seven.count_ones() & 1) as u8) << 7
}

/// Returns the nibbles of bytes, the low one first.
fn nibbles(bytes: &[u8]) -> impl Iterator<Item = u8> {
    bytes.iter().flat_map(|byte| [byte & 15, byte >> 4])
}

/// Returns the `N` fields of `bits` bits each, from the lowest, of every 16-bit word in `bytes`.
fn fields<const N: usize>(bytes: &[u8], bits: usize) -> impl Iterator<Item = u16> {
    let words = bytes.as_chunks::<2>().0.iter().map(|word| u16::from_le_bytes(*word));
    words.flat_map(move |word| {
        let mut at = 0;
        [(); N].map(|()| {
            let field = word >> at & ((1 << bits) - 1);
            at += bits;
            field
        })
    })
}

/// `[scale f16]`, then 8 × `[4 codes u8][four 7-bit signs and a 4-bit scale u32]`
pub(super) fn iq2_xxs(stored: &[u8; 66], out: &mut [f32; BLOCK]) {
    let (scale, groups) = stored.split_at(2);
    let scale = half(scale);
    for (out, group) in out.chunks_exact_mut(32).zip(groups.as_chunks::<8>().0) {
        let [codes @ .., p0, p1, p2, p3] = group;
        let packed = u32::from_le_bytes([*p0, *p1, *p2, *p3]);
        let scale = scale * (0.5 + (packed >> 28) as f32) * 0.25;
        for (at, (out, code)) in out.chunks_exact_mut(8).zip(codes).enumerate() {
            let row = row(&grids::IQ2_XXS, (*code).into());
            eight(out, scale, row, even_signs(packed >> (7 * at)));
        }
    }
}

/// `[scale f16][32 × u16: 9-bit code, seven signs][8 bytes: 4-bit scales, one per 16 elements]`
pub(super) fn iq2_xs(stored: &[u8; 74], out: &mut [f32; BLOCK]) {
    let (scale, rest) = stored.split_at(2);
    let (codes, scales) = rest.split_at(64);
    let scale = half(scale);
    let groups = out.chunks_exact_mut(16).zip(codes.as_chunks::<4>().0).zip(nibbles(scales));
    for ((out, codes), code) in groups {
        let scale = scale * (0.5 + f32::from(code)) * 0.25;
        for (out, word) in out.chunks_exact_mut(8).zip(codes.as_chunks::<2>().0) {
            let word = u16::from_le_bytes(*word);
            let row = row(&grids::IQ2_XS, word & 511);
            eight(out, scale, row, even_signs((word >> 9).into()));
        }
    }
}

/// `[scale f16][32 codes: low 8 bits][32 bytes of signs][8 bytes: high 2 bits][8 bytes as in
/// IQ2_XS]`
pub(super) fn iq2_s(stored: &[u8; 82], out: &mut [f32; BLOCK]) {
    let (scale, rest) = stored.split_at(2);
    let (low, rest) = rest.split_at(32);
    let (signs, rest) = rest.split_at(32);
    let (high, scales) = rest.split_at(8);
    let scale = half(scale);
    let scales = nibbles(scales).flat_map(|code| [code; 2]);
    let high = high.iter().flat_map(|byte| [0, 2, 4, 6].map(|at| byte >> at & 3));
    let groups = out.chunks_exact_mut(8).zip(low).zip(signs).zip(high).zip(scales);
    for ((((out, low), signs), high), code) in groups {
        let scale = scale * (0.5 + f32::from(code)) * 0.25;
        let code = u16::from(*low) | u16::from(high) << 8;
        eight(out, scale, row(&grids::IQ2_S, code), *signs);
    }
}

/// `[scale f16][64 codes u8, one per 4 elements][8 × u32 as in IQ2_XXS]`
pub(super) fn iq3_xxs(stored: &[u8; 98], out: &mut [f32; BLOCK]) {
    let (scale, rest) = stored.split_at(2);
    let (codes, packed) = rest.split_at(64);
    let scale = half(scale);
    let groups = out.chunks_exact_mut(32).zip(codes.as_chunks::<8>().0);
    for ((out, codes), packed) in groups.zip(packed.as_chunks::<4>().0) {
        let packed = u32::from_le_bytes(*packed);
        let scale = scale * (0.5 + (packed >> 28) as f32) * 0.5;
        for (at, (out, code)) in out.chunks_exact_mut(4).zip(codes).enumerate() {
            let signs = even_signs(packed >> (7 * (at / 2))) >> (4 * (at % 2));
            let row = row(&grids::IQ3_XXS, (*code).into());
            signed(out, scale, (&LEVELS_IQ3_XXS, 4), row, signs);
        }
    }
}

/// `[scale f16][64 codes: low 8 bits][8 bytes: ninth bits][32 bytes of signs][4 bytes: 4-bit
/// scales]`
pub(super) fn iq3_s(stored: &[u8; 110], out: &mut [f32; BLOCK]) {
    let (scale, rest) = stored.split_at(2);
    let (low, rest) = rest.split_at(64);
    let (ninth, rest) = rest.split_at(8);
    let (signs, scales) = rest.split_at(32);
    let scale = half(scale);
    let scales = nibbles(scales).flat_map(|code| [code; 8]);
    let signs = nibbles(signs);
    let ninth = ninth.iter().flat_map(|byte| [0, 1, 2, 3, 4, 5, 6, 7].map(|at| byte >> at & 1));
    let groups = out.chunks_exact_mut(4).zip(low).zip(signs).zip(ninth).zip(scales);
    for ((((out, low), signs), ninth), code) in groups {
        let scale = scale * f32::from(1 + 2 * code);
        let row = row(&grids::IQ3_S, u16::from(*low) | u16::from(ninth) << 8);
        signed(out, scale, (&LEVELS_IQ3_S, 4), row, signs);
    }
}

/// Writes `scale × (element ± 1/8)` for eight elements of a row of IQ1.
fn shifted(out: &mut [f32], scale: f32, row: u16, is_lower: bool) {
    let delta = if is_lower { -DELTA } else { DELTA };
    for (at, number) in out.iter_mut().enumerate() {
        *number = scale * (level(&LEVELS_IQ1, row >> (2 * at) & 3) + delta);
    }
}

/// `[scale f16][32 codes: low 8 bits][8 × u16: four times 3 high bits, 3-bit scale, lower or not]`
pub(super) fn iq1_s(stored: &[u8; 50], out: &mut [f32; BLOCK]) {
    let (scale, rest) = stored.split_at(2);
    let (low, high) = rest.split_at(32);
    let scale = half(scale);
    let groups = out.chunks_exact_mut(32).zip(low.as_chunks::<4>().0);
    for ((out, low), high) in groups.zip(high.as_chunks::<2>().0) {
        let word = u16::from_le_bytes(*high);
        let scale = scale * f32::from(2 * (word >> 12 & 7) + 1);
        for ((out, low), top) in out.chunks_exact_mut(8).zip(low).zip(fields::<4>(high, 3)) {
            let row = row(&grids::IQ1_S, u16::from(*low) | top << 8);
            shifted(out, scale, row, word >> 15 == 1);
        }
    }
}

/// `[32 codes: low 8 bits][32 nibbles: 3 high bits, lower or not][4 × u16: four 3-bit scales, one
/// per 16 elements, and a nibble of the scale f16, the lowest first]`
pub(super) fn iq1_m(stored: &[u8; 56], out: &mut [f32; BLOCK]) {
    let (low, rest) = stored.split_at(32);
    let (high, scales) = rest.split_at(16);
    let tops = scales.as_chunks::<2>().0.iter().zip([12, 8, 4, 0]);
    let tops = tops.map(|(word, down)| (u16::from_le_bytes(*word) & 0xf000) >> down);
    let scale = half(&tops.fold(0, |all, top| all | top).to_le_bytes());
    let scales = fields::<4>(scales, 3).flat_map(|code| [code; 2]);
    let groups = out.chunks_exact_mut(8).zip(low).zip(nibbles(high)).zip(scales);
    for (((out, low), high), code) in groups {
        let scale = scale * f32::from(2 * code + 1);
        let row = row(&grids::IQ1_S, u16::from(*low) | u16::from(high & 7) << 8);
        shifted(out, scale, row, high >> 3 == 1);
    }
}

/// `[32 + 16 bytes of five ternary digits][4 bytes of four][scale f16]`, less 1 each
///
/// A byte is the digits as a fraction of 256 in base 3: times a power of three (modulo 256), its
/// first digit is that of the power. Each run of bytes holds first digits, then second ones, ...
pub(super) fn tq1_0(stored: &[u8; 54], out: &mut [f32; BLOCK]) {
    let (fives, rest) = stored.split_at(48);
    let (fours, scale) = rest.split_at(4);
    let scale = half(scale);
    let (first, second) = fives.split_at(32);
    let runs = [(first, 5), (second, 5), (fours, 4)];
    let digits = runs.into_iter().flat_map(|(bytes, digits)| {
        [1_u8, 3, 9, 27, 81].into_iter().take(digits).flat_map(move |power| {
            bytes.iter().map(move |byte| (u16::from(byte.wrapping_mul(power)) * 3) >> 8)
        })
    });
    for (number, digit) in out.iter_mut().zip(digits) {
        *number = (f32::from(digit) - 1.0) * scale;
    }
}

/// `[64 bytes: 2-bit codes as in Q2_K][scale f16]`, less 1 each
pub(super) fn tq2_0(stored: &[u8; 66], out: &mut [f32; BLOCK]) {
    let (codes, scale) = stored.split_at(64);
    let scale = half(scale);
    for (half, codes) in out.chunks_exact_mut(128).zip(codes.chunks_exact(32)) {
        for (quarter, shift) in half.chunks_exact_mut(32).zip([0, 2, 4, 6]) {
            for (number, byte) in quarter.iter_mut().zip(codes) {
                *number = (f32::from(byte >> shift & 3) - 1.0) * scale;
            }
        }
    }
}
