//! Types with 256 elements a block, whose scales are themselves codes times one scale.
//!
//! The written order of steps is that of the format's reference: first `scale × scale code` and
//! `minimum × minimum code`, each rounded; then the product with the element's code, rounded; then
//! the difference, rounded.

use super::{f16_to_f32, level};

/// The number of elements of a block.
const BLOCK: usize = 256;

/// Returns a binary16 at the beginning of `bytes`.
pub(super) fn half(bytes: &[u8]) -> f32 {
    bytes.first_chunk().map_or(0.0, |half| f16_to_f32(u16::from_le_bytes(*half)))
}

/// Writes `scale × code - minimum` for every code.
fn scaled(out: &mut [f32], codes: impl Iterator<Item = u8>, scale: f32, minimum: f32) {
    for (number, code) in out.iter_mut().zip(codes) {
        *number = scale * f32::from(code) - minimum;
    }
}

/// `[16 bytes: scale code low, minimum code high, one per 16 elements][64 bytes: 2-bit codes]`
/// `[scale f16][minimum f16]`
///
/// Each 32 bytes hold 128 elements: bits 0..2 of every byte first, then bits 2..4, and so on.
pub(super) fn q2_k(stored: &[u8; 84], out: &mut [f32; BLOCK]) {
    let (scales, rest) = stored.split_at(16);
    let (codes, rest) = rest.split_at(64);
    let (scale, minimum) = (half(rest), half(rest.get(2..).unwrap_or(&[])));
    let mut scales = scales.iter();
    for (half, codes) in out.chunks_exact_mut(128).zip(codes.chunks_exact(32)) {
        for (quarter, shift) in half.chunks_exact_mut(32).zip([0, 2, 4, 6]) {
            let groups = quarter.chunks_exact_mut(16).zip(codes.chunks_exact(16));
            for ((group, codes), packed) in groups.zip(scales.by_ref()) {
                let codes = codes.iter().map(|byte| byte >> shift & 3);
                let (low, high) = (f32::from(packed & 15), f32::from(packed >> 4));
                scaled(group, codes, scale * low, minimum * high);
            }
        }
    }
}

/// `[32 bytes: third bits][64 bytes: codes as in Q2_K][12 bytes: 16 6-bit scales][scale f16]`
///
/// Bit `b` of third-bit byte `i` belongs to element `32 b + i`; a cleared one means 4 less.
pub(super) fn q3_k(stored: &[u8; 110], out: &mut [f32; BLOCK]) {
    let (thirds, rest) = stored.split_at(32);
    let (codes, rest) = rest.split_at(64);
    let (packed, rest) = rest.split_at(12);
    let scale = half(rest);
    let mut scales = q3_k_scales(packed).into_iter();
    let mut bit = 0;
    for (half, codes) in out.chunks_exact_mut(128).zip(codes.chunks_exact(32)) {
        for (quarter, shift) in half.chunks_exact_mut(32).zip([0, 2, 4, 6]) {
            let sources = codes.chunks_exact(16).zip(thirds.chunks_exact(16));
            let groups = quarter.chunks_exact_mut(16).zip(sources);
            for ((group, (codes, thirds)), code) in groups.zip(scales.by_ref()) {
                let scale = scale * f32::from(code);
                for ((number, low), high) in group.iter_mut().zip(codes).zip(thirds) {
                    let code = (low >> shift & 3) | (high >> bit & 1) << 2;
                    *number = scale * (f32::from(code) - 4.0);
                }
            }
            bit += 1;
        }
    }
}

/// Returns the sixteen scale codes of a Q3_K block, in -32..32. The low four bits of code `i` are a
/// nibble of byte `i mod 8`, the low one for the earlier eight codes; its high two bits are in byte
/// `8 + i mod 4`, at bit `2 (i / 4)`.
fn q3_k_scales(packed: &[u8]) -> [i8; 16] {
    let (low, high) = packed.split_at_checked(8).unwrap_or((&[], &[]));
    let mut codes = [0; 16];
    for (half, shift) in codes.chunks_exact_mut(8).zip([0, 4]) {
        for (code, byte) in half.iter_mut().zip(low) {
            *code = (byte >> shift & 15).cast_signed();
        }
    }
    for (quarter, shift) in codes.chunks_exact_mut(4).zip([0, 2, 4, 6]) {
        for (code, byte) in quarter.iter_mut().zip(high) {
            *code = (*code | ((byte >> shift & 3) << 4).cast_signed()) - 32;
        }
    }
    codes
}

/// Eight 6-bit scale codes and eight 6-bit minimum codes of 12 bytes.
///
/// Codes 0..4 are the low six bits of bytes 0..4 and 4..8; codes 4..8 have their low four bits in
/// a nibble of bytes 8..12 (scale low, minimum high) and their high two in bits 6..8 of those.
fn six_bit_pairs(packed: &[u8]) -> [(u8, u8); 8] {
    let mut pairs = [(0, 0); 8];
    let (first, second) = pairs.split_at_mut(4);
    let (scales, rest) = packed.split_at_checked(4).unwrap_or((&[], &[]));
    let (minimums, nibbles) = rest.split_at_checked(4).unwrap_or((&[], &[]));
    let sources = scales.iter().zip(minimums).zip(nibbles);
    for ((early, late), ((scale, minimum), nibbles)) in first.iter_mut().zip(second).zip(sources) {
        *early = (scale & 63, minimum & 63);
        *late = (nibbles & 15 | scale >> 6 << 4, nibbles >> 4 | minimum >> 6 << 4);
    }
    pairs
}

/// `[scale f16][minimum f16][12 bytes: six-bit pairs][128 bytes: 4-bit codes]`
///
/// Each 32 bytes hold 64 elements: the low nibbles first.
pub(super) fn q4_k(stored: &[u8; 144], out: &mut [f32; BLOCK]) {
    q4_or_q5(stored, &[0; 32], stored.get(16..).unwrap_or(&[]), out);
}

/// `[scale f16][minimum f16][12 bytes: six-bit pairs][32 bytes: fifth bits][128 bytes as in Q4_K]`
///
/// Bit `b` of fifth-bit byte `i` belongs to element `32 b + i`.
pub(super) fn q5_k(stored: &[u8; 176], out: &mut [f32; BLOCK]) {
    let (_, rest) = stored.split_at(16);
    let (fifths, codes) = rest.split_at(32);
    q4_or_q5(stored, fifths, codes, out);
}

fn q4_or_q5(head: &[u8], fifths: &[u8], codes: &[u8], out: &mut [f32; BLOCK]) {
    let (scale, minimum) = (half(head), half(head.get(2..).unwrap_or(&[])));
    let pairs = six_bit_pairs(head.get(4..16).unwrap_or(&[]));
    let codes = codes.chunks_exact(32).flat_map(|codes| [(codes, 0), (codes, 4)]);
    let groups = out.chunks_exact_mut(32).zip(codes).zip(pairs);
    for (bit, ((group, (codes, shift)), (scale_code, minimum_code))) in groups.enumerate() {
        let fifths = fifths.iter().map(|byte| (byte >> bit & 1) << 4);
        let codes = codes.iter().zip(fifths).map(|(byte, fifth)| byte >> shift & 15 | fifth);
        let scale = scale * f32::from(scale_code);
        scaled(group, codes, scale, minimum * f32::from(minimum_code));
    }
}

/// `[128 bytes: low four bits][64 bytes: high two bits][16 scale codes i8][scale f16]`
///
/// Each half of 128 elements takes 64 bytes of low bits - the low nibbles are its first 64
/// elements - and 32 bytes of high bits, two for every quarter in turn.
pub(super) fn q6_k(stored: &[u8; 210], out: &mut [f32; BLOCK]) {
    let (low, rest) = stored.split_at(128);
    let (high, rest) = rest.split_at(64);
    let (scales, rest) = rest.split_at(16);
    let scale = half(rest);
    let mut scales = scales.iter();
    let halves = low.chunks_exact(64).zip(high.chunks_exact(32));
    for (half, (low, high)) in out.chunks_exact_mut(128).zip(halves) {
        let (first, second) = low.split_at_checked(32).unwrap_or((&[], &[]));
        let sources = [(first, 0, 0), (second, 0, 2), (first, 4, 4), (second, 4, 6)];
        for (quarter, (low, low_shift, high_shift)) in half.chunks_exact_mut(32).zip(sources) {
            let bytes = low.chunks_exact(16).zip(high.chunks_exact(16));
            let groups = quarter.chunks_exact_mut(16).zip(bytes);
            for ((group, (low, high)), code) in groups.zip(scales.by_ref()) {
                let scale = scale * f32::from(code.cast_signed());
                for ((number, low), high) in group.iter_mut().zip(low).zip(high) {
                    let code = low >> low_shift & 15 | (high >> high_shift & 3) << 4;
                    *number = scale * (f32::from(code) - 32.0);
                }
            }
        }
    }
}

/// `[scale f16][high scale bits u16][4 bytes: low scale bits][128 bytes: codes as in IQ4_NL]`
///
/// Scale `i` of eight has its low four bits in a nibble of byte `i / 2`, the low one first, and
/// its high two at bit `2 i` of the 16; 32 is taken off.
pub(super) fn iq4_xs(stored: &[u8; 136], out: &mut [f32; BLOCK]) {
    let [s0, s1, h0, h1, rest @ ..] = stored;
    let scale = f16_to_f32(u16::from_le_bytes([*s0, *s1]));
    let high = u16::from_le_bytes([*h0, *h1]);
    let (low, codes) = rest.split_at(4);
    let low = low.iter().flat_map(|byte| [byte & 15, byte >> 4]);
    let groups = out.chunks_exact_mut(32).zip(codes.chunks_exact(16)).zip(low);
    for (at, ((group, codes), low)) in groups.enumerate() {
        let code = low | ((high >> (2 * at) & 3) as u8) << 4;
        let scale = scale * (f32::from(code) - 32.0);
        for (half, shift) in group.chunks_exact_mut(16).zip([0, 4]) {
            for (number, byte) in half.iter_mut().zip(codes) {
                *number = scale * level(byte >> shift);
            }
        }
    }
}
