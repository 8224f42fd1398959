//! Tensors of a GGUF file and the types their numbers are stored in.

use std::fmt;

use super::GgufError;
use super::decode;
use crate::limits::MAX_TENSOR_DIMS;

/// A type in which tensor elements are stored, and which can be read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorType {
    /// IEEE-754 binary32.
    F32,
    /// IEEE-754 binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
    /// 4-bit codes around zero, one scale per 32.
    Q4_0,
    /// 4-bit codes, one scale and one minimum per 32.
    Q4_1,
    /// 5-bit codes around zero, one scale per 32.
    Q5_0,
    /// 5-bit codes, one scale and one minimum per 32.
    Q5_1,
    /// 8-bit codes, one scale per 32.
    Q8_0,
}

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
            30 => Self::Bf16,
            _ => {
                let ty = foreign_name(id).map_or_else(|| format!("type {id}"), str::to_owned);
                return Err(GgufError::UnsupportedTensorType { tensor: tensor.to_owned(), ty });
            }
        })
    }

    /// Elements of one block, the unit in which numbers are stored.
    pub fn block_len(self) -> u64 {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
        }
    }

    /// Bytes of one block.
    pub fn block_bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
        }
    }

    /// The name exporters use.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
        }
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Names of the types that the format defines and that are not read here.
fn foreign_name(id: u32) -> Option<&'static str> {
    Some(match id {
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        12 => "Q4_K",
        13 => "Q5_K",
        14 => "Q6_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
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
}

impl<'a> Tensor<'a> {
    pub(super) fn new(
        name: &'a str,
        dims: [u64; MAX_TENSOR_DIMS],
        ty: TensorType,
        bytes: &'a [u8],
    ) -> Self {
        Self { name, dims, ty, bytes }
    }

    /// The tensor's name.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// Dimensions, fastest first, padded with ones.
    pub fn dims(&self) -> [u64; MAX_TENSOR_DIMS] {
        self.dims
    }

    /// The type its elements are stored in.
    pub fn ty(&self) -> TensorType {
        self.ty
    }

    /// Bytes it takes in the file.
    pub fn byte_len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The tensor as a matrix of `rows` × `cols`.
    ///
    /// # Errors
    /// The tensor has another shape.
    pub fn matrix(&self, rows: usize, cols: usize) -> Result<Matrix<'a>, GgufError> {
        let wrong =
            || GgufError::WrongShape { tensor: self.name.to_owned(), got: self.dims, rows, cols };
        let [c, r, 1, 1] = self.dims else { return Err(wrong()) };
        if (r, c) != (rows as u64, cols as u64) {
            return Err(wrong());
        }
        let row_bytes = c / self.ty.block_len() * self.ty.block_bytes();
        let row_bytes = usize::try_from(row_bytes).map_err(|_| wrong())?;
        Ok(Matrix { name: self.name, ty: self.ty, rows, cols, row_bytes, bytes: self.bytes })
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
}

impl<'a> Matrix<'a> {
    /// The tensor's name.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// Number of rows (outputs).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns (inputs).
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Writes row `row` into `out`, which must hold exactly `cols` numbers.
    ///
    /// The steps are scalar and in a fixed order, so every machine gets the same bits.
    ///
    /// # Errors
    /// The row holds an infinity or a NaN, or there is no such row of that length.
    pub fn read_row(&self, row: usize, out: &mut [f32]) -> Result<(), GgufError> {
        let start = row.checked_mul(self.row_bytes);
        let bytes = start.and_then(|start| self.bytes.get(start..)?.get(..self.row_bytes));
        let absent = || GgufError::WrongShape {
            tensor: self.name.to_owned(),
            got: [self.cols as u64, self.rows as u64, 1, 1],
            rows: row.saturating_add(1),
            cols: out.len(),
        };
        let bytes = bytes.filter(|_| out.len() == self.cols).ok_or_else(absent)?;
        decode::row(self.ty, bytes, out);
        match out.iter().position(|x| !x.is_finite()) {
            None => Ok(()),
            Some(column) => Err(GgufError::NotFinite { tensor: self.name.to_owned(), row, column }),
        }
    }
}
