//! What the kernels work on: rows of f32, of codes and of exact sums.

use lockstep_exact::matrix::BLOCK_ROWS;

use crate::buffer::Buffer;
use crate::matmul::{Activations, BlockSums};
use crate::pool::Chunks;

/// Rows of f32 numbers, all of one width.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    pub(super) width: usize,
    pub(super) data: Buffer<f32>,
}

/// Rows of quantised numbers: inputs of a product with one scale per row, or queries with one
/// scale per head.
#[derive(Clone, Debug, Default)]
pub struct Codes {
    pub(super) form: Form,
    pub(super) scales: Vec<f32>,
}

#[derive(Clone, Debug)]
pub(super) enum Form {
    Inputs(Activations),
    /// Row after row.
    Queries(Vec<i16>),
}

impl Default for Form {
    fn default() -> Self {
        Self::Inputs(Activations::default())
    }
}

/// Rows of exact sums, `[blocks of 16 outputs][rows][16]`.
#[derive(Clone, Debug, Default)]
pub struct Sums {
    pub(super) rows: usize,
    pub(super) width: usize,
    pub(super) data: Buffer<BlockSums>,
}

impl Rows {
    /// Takes `data` as rows of `width` numbers each, one after the other.
    ///
    /// # Panics
    /// When `data` is not whole rows.
    #[must_use]
    pub fn new(width: usize, data: Vec<f32>) -> Self {
        assert_eq!(data.len() % width, 0, "whole rows of {width}");
        Self { width, data: data.into() }
    }

    pub(super) fn reshape(&mut self, rows: usize, width: usize) {
        self.width = width;
        self.data.resize(rows * width);
    }

    pub(super) fn count(&self) -> usize {
        // default: rows without columns are none
        self.data.len().checked_div(self.width).unwrap_or(0)
    }

    pub(super) fn row(&self, row: usize) -> &[f32] {
        &self.data[row * self.width..][..self.width]
    }

    /// Returns all rows, `each` at a time.
    pub(super) fn parts_mut(&mut self, each: usize) -> Chunks<'_, f32> {
        Chunks::new(&mut self.data, (each * self.width).max(1))
    }
}

impl Sums {
    pub(super) fn reshape(&mut self, rows: usize, width: usize) {
        (self.rows, self.width) = (rows, width);
        self.data.resize(rows * width.div_ceil(BLOCK_ROWS));
    }
}

impl Codes {
    /// The inputs of a product; none if these are queries.
    pub(super) fn inputs(&self) -> Option<&Activations> {
        match &self.form {
            Form::Inputs(inputs) => Some(inputs),
            Form::Queries(_) => None,
        }
    }

    pub(super) fn inputs_mut(&mut self) -> (&mut Activations, &mut Vec<f32>) {
        if let Form::Queries(_) = self.form {
            self.form = Form::default();
        }
        match &mut self.form {
            Form::Inputs(inputs) => (inputs, &mut self.scales),
            Form::Queries(_) => unreachable!("replaced above"),
        }
    }

    pub(super) fn queries(&self) -> &[i16] {
        match &self.form {
            Form::Inputs(_) => &[],
            Form::Queries(codes) => codes,
        }
    }
}
