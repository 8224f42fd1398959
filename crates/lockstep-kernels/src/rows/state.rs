//! Rounds rows of f32 to states in block-i16.

use lockstep_exact::num::{Overflow, block_exponent};
use lockstep_exact::state::{GROUP, exponent};

use super::{amax_bits, pow2, rne};
use crate::isa::per_isa;

/// The number that is added to an exponent when it is stored.
const BIAS: i32 = 128;

/// A state row in block-i16 that is to be written.
pub(crate) struct StateRow<'a> {
    pub(crate) mantissas: &'a mut [i16],
    pub(crate) exponents: &'a mut [u8],
}

per_isa! {
    /// Encodes `values`; false is overflow, `out` is then unspecified.
    pub(crate) fn encode(isa: Isa, values: &[f32], out: StateRow<'_>) -> bool {
        let groups = values.chunks(GROUP).zip(out.mantissas.chunks_mut(GROUP));
        let mut fits = true;
        for ((values, mantissas), byte) in groups.zip(out.exponents) {
            fits &= encode_group(values, mantissas, byte);
        }
        fits
    }
}

per_isa! {
    /// Encodes `x + delta`; false is overflow, `out` is then unspecified.
    pub(crate) fn add(
        isa: Isa,
        mantissas: &[i16],
        exponents: &[u8],
        delta: &[f32],
        out: StateRow<'_>,
    ) -> bool {
        let x = mantissas.chunks(GROUP).zip(exponents).zip(delta.chunks(GROUP));
        let groups = out.mantissas.chunks_mut(GROUP).zip(out.exponents);
        let mut fits = true;
        let mut values = [0.0; GROUP];
        for (((mantissas, &byte), delta), (out, out_byte)) in x.zip(groups) {
            let unit = pow2(exponent(byte));
            let values = &mut values[..delta.len()];
            for ((value, &m), delta) in values.iter_mut().zip(mantissas).zip(delta) {
                *value = f32::from(m) * unit + delta;
            }
            fits &= encode_group(values, out, out_byte);
        }
        fits
    }
}

#[inline(always)]
fn encode_group(values: &[f32], mantissas: &mut [i16], byte: &mut u8) -> bool {
    match block_exponent(amax_bits(values)) {
        Ok(Some(exponent)) => {
            let scale = pow2(-exponent);
            for (mantissa, &value) in mantissas.iter_mut().zip(values) {
                *mantissa = rne(value * scale) as i16;
            }
            *byte = (exponent + BIAS) as u8;
            true
        }
        empty_or_overflow => {
            mantissas.fill(0);
            *byte = 0;
            empty_or_overflow != Err(Overflow)
        }
    }
}
