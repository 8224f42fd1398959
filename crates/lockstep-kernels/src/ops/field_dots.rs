//! The dot products that a verifier compares products with: [`FieldDots`] on the threads.

use lockstep_exact::matrix::Packed;
use lockstep_exact::ops::FieldDots;

use super::kernels::Kernels;
use crate::field;

impl FieldDots for Kernels {
    fn field_dots_i64(&self, weights: &[u64], values: &[i64], out: &mut [u64]) {
        field::dots(self.isa, &self.pool, weights, values, out);
    }

    fn field_dots_i16(&self, weights: &[u64], values: &[i16], out: &mut [u64]) {
        field::dots(self.isa, &self.pool, weights, values, out);
    }

    fn field_transposed(&self, matrix: &Packed, residues: &[u64]) -> Vec<u64> {
        field::transposed(self.isa, matrix, residues)
    }
}
