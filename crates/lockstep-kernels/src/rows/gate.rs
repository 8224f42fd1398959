//! The gated activation of the feed-forward part.

use lockstep_exact::num::{GELU, LOG2_E};

use super::{exp2_fraction, pow2, rne};
use crate::isa::per_isa;

per_isa! {
    /// Computes `(gate · sigmoid(gate)) · up`.
    pub(crate) fn silu_gate(isa: Isa, gate: &[f32], up: &[f32], out: &mut [f32]) {
        for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
            *out = (gate * sigmoid(gate)) * up;
        }
    }
}

per_isa! {
    /// Computes `(gate · sigmoid(gate · (c0 + c1 · (gate · gate)))) · up`, the tanh form of GELU.
    pub(crate) fn gelu_gate(isa: Isa, gate: &[f32], up: &[f32], out: &mut [f32]) {
        for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
            *out = (gate * sigmoid(gate * (GELU[0] + GELU[1] * (gate * gate)))) * up;
        }
    }
}

/// Computes [`lockstep_exact::num::sigmoid`], bit for bit.
#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    let e = exp_of_negative(f32::from_bits(x.to_bits() | 0x8000_0000));
    let numerator = if x < 0.0 { e } else { 1.0 };
    numerator / (1.0 + e)
}

/// Computes [`lockstep_exact::num::exp_of_negative`], bit for bit, without a branch.
#[inline(always)]
fn exp_of_negative(x: f32) -> f32 {
    let in_range = x >= -87.0;
    let t = if in_range { x * LOG2_E } else { 0.0 };
    let n = rne(t);
    let value = exp2_fraction(t - n as f32) * pow2(n);
    if in_range { value } else { 0.0 }
}
