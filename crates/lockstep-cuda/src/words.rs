//! The parameters of a decode step's launch, in words of eight bytes as `kernels/step.cuh` reads
//! them.

use lockstep_exact::matrix::Codec;

use crate::driver::{Buffer, Element, Error};
use crate::gpu::{Norm, size};
use crate::products::Matrix;

/// Words of the structure `LayerPlan`.
pub(crate) const LAYER: usize = 39;
/// The number of words of the structure `Step`.
pub(crate) const STEP: usize = 38;

/// A structure of a kernel's parameters, while it is written.
#[derive(Debug, Default)]
pub(crate) struct Words(pub(crate) Vec<u64>);

impl Words {
    /// Appends an address or a large number.
    pub(crate) fn word(&mut self, word: u64) {
        self.0.push(word);
    }

    /// Appends two numbers of four bytes.
    pub(crate) fn pair(&mut self, first: u32, second: u32) {
        let (first, second) = (u64::from(first), u64::from(second));
        self.0.push(if cfg!(target_endian = "big") {
            first << 32 | second
        } else {
            second << 32 | first
        });
    }

    /// Appends the structure `Weights`; all 0 if there is no matrix.
    pub(crate) fn matrix(
        &mut self,
        matrix: Option<&Matrix>,
        bias: Option<&Buffer<f32>>,
    ) -> Result<(), Error> {
        let Some(matrix) = matrix else {
            self.0.extend([0; 5]);
            return Ok(());
        };
        let shape = matrix.shape();
        self.word(matrix.bytes.address());
        self.word(matrix.stride());
        self.word(bias.map_or(0, Buffer::address));
        let spans = size("decode", "spans", shape.columns.div_ceil(64))?;
        self.pair(spans, size("decode", "rows of a matrix", shape.rows)?);
        self.word(match shape.codec {
            Codec::W8 => 8,
            Codec::W4 => 4,
        });
        Ok(())
    }

    /// Appends the structure `Norm`; all 0 if there is no norm.
    pub(crate) fn norm(&mut self, norm: Option<&Norm>) {
        self.word(norm.map_or(0, |norm| norm.gain.address()));
        self.pair(norm.map_or(0, |norm| norm.eps.to_bits()), 0);
    }

    /// Appends the address of a buffer.
    pub(crate) fn buffer<T: Element>(&mut self, buffer: &Buffer<T>) {
        self.word(buffer.address());
    }
}
