//! Tensors of a GGUF file and the types their numbers are stored in.

use super::{GgufError, TensorType, decode};
use crate::limits::MAX_TENSOR_DIMS;

impl TensorType {
    pub(super) fn from_id(id: u32, tensor: &str) -> Result<Self, GgufError> {
        Ok(match id {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            10 => Self::Q2K,
            11 => Self::Q3K,
            12 => Self::Q4K,
            13 => Self::Q5K,
            14 => Self::Q6K,
            16 => Self::Iq2Xxs,
            17 => Self::Iq2Xs,
            18 => Self::Iq3Xxs,
            19 => Self::Iq1S,
            20 => Self::Iq4Nl,
            21 => Self::Iq3S,
            22 => Self::Iq2S,
            23 => Self::Iq4Xs,
            29 => Self::Iq1M,
            30 => Self::Bf16,
            34 => Self::Tq1_0,
            35 => Self::Tq2_0,
            39 => Self::Mxfp4,
            _ => {
                let (ty, reason) = match foreign(id) {
                    Some((name, reason)) => (name.to_owned(), reason),
                    None => (format!("type {id}"), "a type that is not known here"),
                };
                let tensor = tensor.to_owned();
                return Err(GgufError::UnsupportedTensorType { tensor, ty, reason });
            }
        })
    }
}

/// Returns the names of the types that the format defines and that are not read here, and why not.
fn foreign(id: u32) -> Option<(&'static str, &'static str)> {
    const INTERMEDIATE: &str = "a type for intermediate results, not for weights";
    const INTEGERS: &str = "integers, not weights";
    const REORDERED: &str = "a type for one kind of processor, which llama.cpp dropped";
    Some(match id {
        9 => ("Q8_1", INTERMEDIATE),
        15 => ("Q8_K", INTERMEDIATE),
        24 => ("I8", INTEGERS),
        25 => ("I16", INTEGERS),
        26 => ("I32", INTEGERS),
        27 => ("I64", INTEGERS),
        28 => ("F64", "64-bit floats, in which no model is published"),
        4 | 5 => ("Q4_2 or Q4_3", "a type of early 2023, which llama.cpp dropped"),
        31..=33 => ("Q4_0 in another order", REORDERED),
        36..=38 => ("IQ4_NL in another order", REORDERED),
        40 => ("NVFP4", "4-bit floats with a scale in another tensor, which are not read here"),
        _ => return None,
    })
}

/// A tensor: its name, shape and type, and exactly the bytes these imply.
#[derive(Debug, Clone, Copy)]
pub struct Tensor<'a> {
    name: &'a str,
    dims: [u64; MAX_TENSOR_DIMS],
    ty: TensorType,
    bytes: &'a [u8],
    half_split: Option<usize>,
    less_one: bool,
}

impl<'a> Tensor<'a> {
    pub(crate) fn new(
        name: &'a str,
        dims: [u64; MAX_TENSOR_DIMS],
        ty: TensorType,
        bytes: &'a [u8],
    ) -> Self {
        Self { name, dims, ty, bytes, half_split: None, less_one: false }
    }

    /// Says that the rows of each head of this size stand half-split, where GGUF files interleave
    /// them; rows are then read in the order that GGUF files have.
    pub(crate) fn half_split(self, head_dim: Option<usize>) -> Self {
        Self { half_split: head_dim.filter(|dim| *dim > 0), ..self }
    }

    /// Says that the numbers are stored less 1, which is added when they are read.
    pub(crate) fn less_one(self, less_one: bool) -> Self {
        Self { less_one, ..self }
    }

    /// Returns the name of the tensor in the file.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// Returns the tensor's dimensions, fastest first, padded with ones.
    pub fn dims(&self) -> [u64; MAX_TENSOR_DIMS] {
        self.dims
    }

    /// Returns the type its elements are stored in.
    pub fn ty(&self) -> TensorType {
        self.ty
    }

    /// Returns the number of bytes it takes in the file.
    pub fn byte_len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Returns the tensor as a matrix of `rows` × `cols`.
    ///
    /// # Errors
    /// The tensor has another shape.
    pub fn matrix(&self, rows: usize, cols: usize) -> Result<Matrix<'a>, GgufError> {
        self.stack(1, rows, cols)
    }

    /// Returns the tensor as `count` matrices of `rows` × `cols`, one below the other.
    ///
    /// # Errors
    /// The tensor has another shape.
    pub fn stack(&self, count: usize, rows: usize, cols: usize) -> Result<Matrix<'a>, GgufError> {
        let all = rows.saturating_mul(count);
        let wrong = || GgufError::WrongShape {
            tensor: self.name.to_owned(),
            got: self.dims,
            rows: all,
            cols,
        };
        let [c, r, n, 1] = self.dims else { return Err(wrong()) };
        if (n, r, c) != (count as u64, rows as u64, cols as u64) {
            return Err(wrong());
        }
        let row_bytes = c / self.ty.block_len() * self.ty.block_bytes();
        let row_bytes = usize::try_from(row_bytes).map_err(|_| wrong())?;
        let Self { name, ty, bytes, half_split, less_one, .. } = *self;
        Ok(Matrix { name, ty, rows: all, cols, row_bytes, bytes, half_split, less_one })
    }
}

/// A two-dimensional tensor whose shape is the one the model needs.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    name: &'a str,
    ty: TensorType,
    rows: usize,
    cols: usize,
    row_bytes: usize,
    bytes: &'a [u8],
    half_split: Option<usize>,
    less_one: bool,
}

impl<'a> Matrix<'a> {
    /// Returns the name of the tensor in the file.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// Returns the number of rows (outputs).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Returns the number of columns (inputs).
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Returns the row of the file at which row `row` of the package stands. Row `i` of the first
    /// half of a half-split head is row `2 i` of an interleaved one, and row `i` of the second half
    /// is row `2 i + 1`.
    fn stored_row(&self, row: usize) -> usize {
        let Some(head_dim) = self.half_split else { return row };
        let within = row % head_dim;
        row - within + within % 2 * (head_dim / 2) + within / 2
    }

    /// Reads a matrix of one row as a vector. The elements of a vector have the order that the
    /// rows of its matrix have.
    pub(super) fn read_vector(&self) -> Result<Vec<f32>, GgufError> {
        let mut stored = vec![0.0; self.cols];
        Self { half_split: None, ..*self }.read_row(0, &mut stored)?;
        let at = |element| stored.get(self.stored_row(element)).copied().unwrap_or_default();
        Ok((0..self.cols).map(at).collect())
    }

    /// Writes row `row` into `out`, which must hold exactly `cols` numbers.
    ///
    /// The steps are scalar and in a fixed order, so every machine gets the same bits.
    ///
    /// # Errors
    /// The row holds an infinity or a NaN, or there is no such row of that length.
    pub fn read_row(&self, row: usize, out: &mut [f32]) -> Result<(), GgufError> {
        let start = self.stored_row(row).checked_mul(self.row_bytes);
        let bytes = start.and_then(|start| self.bytes.get(start..)?.get(..self.row_bytes));
        let absent = || GgufError::WrongShape {
            tensor: self.name.to_owned(),
            got: [self.cols as u64, self.rows as u64, 1, 1],
            rows: row.saturating_add(1),
            cols: out.len(),
        };
        let bytes = bytes.filter(|_| out.len() == self.cols).ok_or_else(absent)?;
        decode::row(self.ty, bytes, out);
        if self.less_one {
            out.iter_mut().for_each(|number| *number += 1.0);
        }
        match out.iter().position(|x| !x.is_finite()) {
            None => Ok(()),
            Some(column) => Err(GgufError::NotFinite { tensor: self.name.to_owned(), row, column }),
        }
    }
}
