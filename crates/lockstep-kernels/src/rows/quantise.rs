//! Quantisation of a row, or of one head of a row, with one scale.

use lockstep_exact::matrix::INPUT_MAX;
use lockstep_exact::num::{OVERFLOW_BITS, Overflow, TINY_BITS};

use super::{amax_bits, rne};
use crate::isa::per_isa;

/// The largest code of keys and values.
const KEY_VALUE_MAX: f32 = 127.0;

/// Returns `(factor, scale)` for codes up to `qmax`; `None` if all codes are 0.
#[inline(always)]
fn factor_and_scale(values: &[f32], qmax: f32) -> Result<Option<(f32, f32)>, Overflow> {
    let bits = amax_bits(values);
    if bits >= OVERFLOW_BITS {
        return Err(Overflow);
    }
    let amax = f32::from_bits(bits);
    Ok((bits >= TINY_BITS).then(|| (qmax / amax, amax / qmax)))
}

macro_rules! quantise {
    ($(#[$meta:meta])* $name:ident, $code:ty, $qmax:expr) => {
        per_isa! {
            $(#[$meta])*
            pub(crate) fn $name(
                isa: Isa,
                values: &[f32],
                codes: &mut [$code],
            ) -> Result<f32, Overflow> {
                match factor_and_scale(values, $qmax) {
                    Ok(Some((factor, scale))) => {
                        for (code, &value) in codes.iter_mut().zip(values) {
                            *code = rne(value * factor) as $code;
                        }
                        Ok(scale)
                    }
                    other => {
                        codes.fill(0);
                        other.map(|_| 0.0)
                    }
                }
            }
        }
    };
}

quantise! {
    /// To ±127; the scale, or codes 0 and [`Overflow`].
    quantise_i8, i8, KEY_VALUE_MAX
}
quantise! {
    /// To ±32512; the scale, or codes 0 and [`Overflow`].
    quantise_i16, i16, INPUT_MAX as f32
}
