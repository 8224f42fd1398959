//! Products with one input row, for instruction sets that have a kernel of their own for it.

use lockstep_exact::matrix::{Packed, Shape};

use super::Activations;
use crate::isa::Isa;
#[cfg(target_arch = "x86_64")]
use crate::isa::Kind;

/// A matrix and its only input row.
///
/// Blocks are taken in pairs, block `i` with block `i` of the second half of the blocks.
#[derive(Clone, Copy)]
pub(crate) struct RowProduct<'a> {
    pub(super) matrix: &'a Packed,
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "AVX-512 reads it"))]
    pub(super) input: &'a Activations,
}

impl<'a> RowProduct<'a> {
    /// Returns the product, if `isa` has a kernel for it and for the codec, and `inputs` is one
    /// row.
    ///
    /// # Panics
    /// When `inputs` has other columns than `matrix`, or is prepared for another instruction set.
    pub(crate) fn new(isa: Isa, matrix: &'a Packed, inputs: &'a Activations) -> Option<Self> {
        let shape = matrix.shape();
        assert_eq!(inputs.columns(), shape.columns, "columns of inputs for a {shape} matrix");
        assert_eq!(inputs.isa(), isa, "inputs are prepared for the same instruction set");
        #[cfg(target_arch = "x86_64")]
        let has_kernel = isa.0 == Kind::Avx512;
        #[cfg(not(target_arch = "x86_64"))]
        let has_kernel = false;
        (has_kernel && inputs.rows() == 1).then_some(Self { matrix, input: inputs })
    }

    /// Returns the shape of the matrix: a row for each output.
    pub(crate) const fn shape(&self) -> Shape {
        self.matrix.shape()
    }

    /// Returns the blocks of a pair; the last may be alone.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "AVX-512 needs it"))]
    pub(super) fn pair(&self, pair: usize) -> (usize, Option<usize>) {
        let blocks = self.shape().blocks();
        let second = pair + blocks.div_ceil(2);
        (pair, (second < blocks).then_some(second))
    }
}
