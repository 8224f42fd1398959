//! Weight matrices, stored as packages store them, and their products with a few rows.

use lockstep_exact::matrix::{Codec, Packed, Shape};

use crate::driver::{Argument, Buffer, Error};
use crate::gpu::{Gpu, same, size};
use crate::rows::{Codes, Rows, Sums};

/// Matrix rows that a block of threads takes.
const BLOCK_ROWS: u32 = 32;
/// Threads of a block.
const THREADS: u32 = 256;

/// A weight matrix in the device's memory: its packed bytes.
#[derive(Debug)]
pub struct Matrix {
    shape: Shape,
    pub(crate) bytes: Buffer<u8>,
}

impl Matrix {
    /// Copies a checked matrix to the device.
    ///
    /// # Errors
    /// [`Error::Memory`]; [`Error::Lost`], [`Error::Call`].
    pub fn new(gpu: &Gpu, matrix: &Packed) -> Result<Self, Error> {
        Ok(Self { shape: matrix.shape(), bytes: gpu.buffer(matrix.bytes())? })
    }

    /// The size and codec, without padding.
    #[must_use]
    pub const fn shape(&self) -> Shape {
        self.shape
    }
}

impl Gpu {
    /// The product of a matrix with each row, dequantised, plus the bias if there is one; and the
    /// exact sums, if they are asked for. Made for a few rows: each four tiles of four rows read
    /// the matrix again.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Memory`]; [`Error::Lost`], [`Error::Call`].
    pub fn product(
        &self,
        matrix: &Matrix,
        x: &Codes,
        bias: Option<&Buffer<f32>>,
        sums: Option<&mut Sums>,
        out: &mut Rows,
    ) -> Result<(), Error> {
        let (operation, shape, tiles) = ("product", matrix.shape, x.tiles());
        same(operation, "width of the rows", shape.columns, x.width)?;
        if let Some(bias) = bias {
            same(operation, "numbers of the bias", shape.rows, bias.len())?;
        }
        out.fit(operation, x.rows, shape.rows)?;
        let mut sums_address = Argument::U64(0);
        if let Some(sums) = sums {
            sums.data.fit(x.rows * shape.rows)?;
            (sums.rows, sums.width) = (x.rows, shape.rows);
            sums_address = sums.data.argument();
        }
        let rows = size(operation, "rows of the matrix", shape.rows)?;
        let tiles = size(operation, "tiles", tiles)?;
        let (kernel, together) = kernel(shape.codec, tiles);
        let arguments = [
            matrix.bytes.argument(),
            Argument::U64(shape.block_bytes() as u64),
            Argument::U32(size(operation, "spans", shape.columns.div_ceil(64))?),
            Argument::U32(rows),
            x.codes.argument(),
            x.scales.argument(),
            Argument::U32(tiles),
            Argument::U32(size(operation, "rows", x.rows)?),
            bias.map_or(Argument::U64(0), Buffer::argument),
            out.data.argument(),
            sums_address,
        ];
        self.launch(kernel, [rows.div_ceil(BLOCK_ROWS), tiles / together, 1], THREADS, &arguments)
    }
}

/// The kernel for so many tiles, and how many of them a block takes together.
const fn kernel(codec: Codec, tiles: u32) -> (&'static str, u32) {
    match (codec, tiles) {
        (Codec::W8, 0 | 1) => ("product_w8_tiles1", 1),
        (Codec::W8, 2) => ("product_w8_tiles2", 2),
        (Codec::W8, _) => ("product_w8_tiles4", 4),
        (Codec::W4, 0 | 1) => ("product_w4_tiles1", 1),
        (Codec::W4, 2) => ("product_w4_tiles2", 2),
        (Codec::W4, _) => ("product_w4_tiles4", 4),
    }
}
