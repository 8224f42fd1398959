//! Numbers: the few operations that the answer is made of.
//!
//! Reductions are over integers. Element-wise steps are IEEE-754 binary32, round to nearest even,
//! with `+ - * /`, `sqrt`, comparison and conversion only; each is written out here so that nothing
//! else is needed elsewhere.

use core::fmt;

/// A magnitude of 2^55 or more, infinity or NaN, where numbers become integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overflow;

impl fmt::Display for Overflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number is 2^55 or more, infinite or not a number")
    }
}

impl core::error::Error for Overflow {}

/// Bits of 2^55, the smallest magnitude that overflows.
pub const OVERFLOW_BITS: u32 = (127 + 55) << 23;
/// Bits of 2^-40, the smallest magnitude that is not flushed to zero by quantisation.
pub const TINY_BITS: u32 = (127 - 40) << 23;

/// Rounds to the nearest integer, ties to even. Saturates; every caller's range is inside i32.
#[must_use]
pub const fn rne(x: f32) -> i32 {
    x.round_ties_even() as i32
}

/// Returns two to the power of `exponent`, by exponent bits; 0 below -126. Callers keep `exponent`
/// below 128.
#[must_use]
pub const fn pow2(exponent: i32) -> f32 {
    if exponent < -126 { 0.0 } else { f32::from_bits(((exponent + 127) as u32) << 23) }
}

/// Returns the largest magnitude, as bits: ordered like the numbers, with infinity and NaN on top.
#[must_use]
pub fn amax_bits(values: &[f32]) -> u32 {
    values.iter().fold(0, |top, value| {
        let bits = value.to_bits() & 0x7fff_ffff;
        if bits > top { bits } else { top }
    })
}

/// Returns the mantissa exponent of a block whose largest magnitude has these bits: `None` for a
/// block that is flushed to zero.
///
/// # Errors
/// [`Overflow`] when the largest magnitude rounds to 2^55 or more.
pub const fn block_exponent(amax_bits: u32) -> Result<Option<i32>, Overflow> {
    if amax_bits < TINY_BITS {
        return Ok(None);
    }
    // 0x100 is half a unit of a 15-bit mantissa: magnitudes that round up to the next power of two
    // take its exponent, so a mantissa never reaches 32768.
    let rounded = amax_bits + 0x100;
    if rounded >= OVERFLOW_BITS {
        return Err(Overflow);
    }
    Ok(Some((rounded >> 23) as i32 - 127 - 14))
}

/// Quantises to integers of magnitude at most `qmax`: returns the scale, so that
/// `value ≈ code · scale`. All codes and the scale are 0 when every magnitude is below 2^-40.
///
/// # Errors
/// [`Overflow`]; codes are then 0.
pub fn quantise<T: Code>(values: &[f32], qmax: f32, codes: &mut [T]) -> Result<f32, Overflow> {
    let bits = amax_bits(values);
    if !(TINY_BITS..OVERFLOW_BITS).contains(&bits) {
        codes.fill(T::from_rounded(0));
        return if bits < TINY_BITS { Ok(0.0) } else { Err(Overflow) };
    }
    let amax = f32::from_bits(bits);
    let factor = qmax / amax;
    for (code, &value) in codes.iter_mut().zip(values) {
        *code = T::from_rounded(rne(value * factor));
    }
    Ok(amax / qmax)
}

/// An integer type that [`quantise`] writes.
pub trait Code: Copy {
    /// Narrows a rounded value that is known to fit.
    fn from_rounded(value: i32) -> Self;
}

impl Code for i8 {
    fn from_rounded(value: i32) -> Self {
        value as Self
    }
}

impl Code for i16 {
    fn from_rounded(value: i32) -> Self {
        value as Self
    }
}

/// Coefficients of [`exp2_fraction`]: a Chebyshev-node interpolation of (2^f - 1)/f on
/// [-1/2, 1/2], relative error of 2^f below 10^-8 before rounding.
pub const EXP2: [f32; 6] = [
    f32::from_bits(0x3f31_7218),
    f32::from_bits(0x3e75_fdf0),
    f32::from_bits(0x3d63_57b6),
    f32::from_bits(0x3c1d_952a),
    f32::from_bits(0x3aaf_8448),
    f32::from_bits(0x3922_09c5),
];

/// Computes 2^f for f in [-1/2, 1/2]: `1 + f·(c0 + f·(c1 + ...))`, innermost first.
#[must_use]
pub fn exp2_fraction(f: f32) -> f32 {
    let mut sum = EXP2[5];
    for index in (0..5).rev() {
        sum = EXP2[index] + f * sum;
    }
    1.0 + f * sum
}

/// The constant log2(e), rounded to f32.
pub const LOG2_E: f32 = f32::from_bits(0x3fb8_aa3b);

/// Computes e^x for x ≤ 0; 0 below -87 (and for NaN).
#[must_use]
pub fn exp_of_negative(x: f32) -> f32 {
    if x >= -87.0 {
        let t = x * LOG2_E;
        let n = rne(t);
        exp2_fraction(t - n as f32) * pow2(n)
    } else {
        0.0
    }
}

/// Computes 1/(1 + e^-x), from e^-|x|.
#[must_use]
pub fn sigmoid(x: f32) -> f32 {
    let negative_magnitude = f32::from_bits(x.to_bits() | 0x8000_0000);
    let e = exp_of_negative(negative_magnitude);
    let numerator = if x < 0.0 { e } else { 1.0 };
    numerator / (1.0 + e)
}

/// 2·sqrt(2/π), and 0.044715 times it: coefficients of [`gelu_tanh`].
pub const GELU: [f32; 2] = [f32::from_bits(0x3fcc_422a), f32::from_bits(0x3d92_2279)];

/// Computes the tanh form of GELU, x·(1 + tanh(z/2))/2 = x·sigmoid(z) with z = x·(c0 + c1·(x·x)).
#[must_use]
pub fn gelu_tanh(x: f32) -> f32 {
    x * sigmoid(x * (GELU[0] + GELU[1] * (x * x)))
}

/// Coefficients of sin(π/4·u) as an odd polynomial in u, lowest power first.
pub const SIN: [f32; 5] = [
    f32::from_bits(0x3f49_0fdb),
    f32::from_bits(0xbda5_5de7),
    f32::from_bits(0x3b23_35e3),
    f32::from_bits(0xb819_6966),
    f32::from_bits(0x34a8_3c1a),
];
/// Coefficients of cos(π/4·u) as an even polynomial in u, lowest power first.
pub const COS: [f32; 6] = [
    f32::from_bits(0x3f80_0000),
    f32::from_bits(0xbe9d_e9e6),
    f32::from_bits(0x3c81_e0f8),
    f32::from_bits(0xb9aa_e9e4),
    f32::from_bits(0x3670_fa83),
    f32::from_bits(0xb2d3_68f9),
];

fn horner<const N: usize>(coefficients: &[f32; N], x: f32) -> f32 {
    let mut sum = coefficients[N - 1];
    for index in (0..N - 1).rev() {
        sum = coefficients[index] + x * sum;
    }
    sum
}

/// Computes sine and cosine of a phase given as a fraction of a turn in units of 2^-64.
///
/// The top 3 bits choose the octant and the next 24 the place in it, u in [0, 1): exact f32.
#[must_use]
pub fn sin_cos_of_turn(phase: u64) -> (f32, f32) {
    let octant = (phase >> 61) as u32;
    let place = ((phase >> 37) & 0x00ff_ffff) as u32;
    // Odd octants run backwards from the next multiple of a quarter turn.
    let place = if octant & 1 == 1 { (1 << 24) - place } else { place };
    let u = place as f32 * pow2(-24);
    let square = u * u;
    let (sine, cosine) = (horner(&SIN, square) * u, horner(&COS, square));
    match octant {
        0 => (sine, cosine),
        1 => (cosine, sine),
        2 => (cosine, -sine),
        3 => (sine, -cosine),
        4 => (-sine, -cosine),
        5 => (-cosine, -sine),
        6 => (-cosine, sine),
        _ => (-sine, cosine),
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "the platform's functions are what tests compare with"
)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_two_are_exact_and_flush_below_normal_numbers() {
        assert_eq!(pow2(0), 1.0);
        assert_eq!(pow2(-126), f32::MIN_POSITIVE);
        assert_eq!(pow2(-127), 0.0);
        assert_eq!(pow2(127), 1.701_411_8e38);
    }

    #[test]
    fn a_block_exponent_leaves_room_for_rounding_up() {
        let exponent = |x: f32| block_exponent(x.to_bits());
        assert_eq!(exponent(1.0), Ok(Some(-14)));
        assert_eq!(exponent(1.999_999), Ok(Some(-13)));
        assert_eq!(exponent(1.999_9), Ok(Some(-14)));
        assert_eq!(exponent(0.0), Ok(None));
        assert_eq!(exponent(f32::INFINITY), Err(Overflow));
        assert_eq!(exponent(f32::NAN), Err(Overflow));
        assert_eq!(exponent(pow2(55)), Err(Overflow));
        assert_eq!(exponent(f32::from_bits(OVERFLOW_BITS - 1)), Err(Overflow));
        assert_eq!(exponent(pow2(54)), Ok(Some(40)));
    }

    #[test]
    fn the_elementary_functions_are_close_to_the_real_ones() {
        for step in 0..4000 {
            let x = -(step as f32) / 50.0;
            let (got, want) = (f64::from(exp_of_negative(x)), f64::from(x).exp());
            assert!((got - want).abs() <= want * 1e-5 + 1e-37, "exp({x}) = {got}, not {want}");
            let z = f64::from(x) / 10.0;
            let tanh = ((2.0 / core::f64::consts::PI).sqrt() * (z + 0.044_715 * z.powi(3))).tanh();
            for (x, want) in [(z, 0.5 * z * (1.0 + tanh)), (-z, -0.5 * z * (1.0 - tanh))] {
                let got = f64::from(gelu_tanh(x as f32));
                assert!((got - want).abs() <= 1e-6 * want.abs().max(1e-2), "gelu({x}) = {got}");
            }
            let turn = f64::from(step) / 4000.0;
            let (sine, cosine) = sin_cos_of_turn((turn * 18_446_744_073_709_551_616.0) as u64);
            let angle = turn * core::f64::consts::TAU;
            assert!((f64::from(sine) - angle.sin()).abs() < 3e-7, "sin of turn {turn}");
            assert!((f64::from(cosine) - angle.cos()).abs() < 3e-7, "cos of turn {turn}");
        }
    }
}
