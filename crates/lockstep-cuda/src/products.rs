//! Weight matrices, stored as packages store them but for the distance of blocks, and their
//! products with a few rows.

use lockstep_exact::matrix::{Codec, Packed, Shape};

use crate::driver::{Argument, Buffer, Error};
use crate::gpu::{Gpu, same, size};
use crate::rows::{Codes, Rows, Sums};

/// Matrix rows that a block of threads takes.
const BLOCK_ROWS: u32 = 32;
/// The number of threads of a warp.
const WARP: u32 = 32;
/// Warps of a multiprocessor that keep its memory busy.
const BUSY_WARPS: u32 = 24;
/// The fewest warps of a block: more blocks at a time are shared more evenly by multiprocessors.
const WARPS_MIN: u32 = 4;

/// Bytes at whose multiples the blocks of 16 matrix rows begin: a line of the caches. A block that
/// begins in the middle of one takes a quarter more requests to read.
const LINE: usize = 128;
/// Bytes of blocks that are copied to the device at a time.
const PIECE: usize = 16 << 20;

/// Returns the bytes that a matrix takes in the device's memory.
pub(crate) const fn stored_bytes(shape: Shape) -> u64 {
    let block = shape.block_bytes();
    (shape.packed_bytes() / block * block.next_multiple_of(LINE)) as u64
}

/// A weight matrix in the device's memory: its packed blocks of 16 rows.
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
        let shape = matrix.shape();
        let (packed, stride) = (shape.block_bytes(), shape.block_bytes().next_multiple_of(LINE));
        let blocks = matrix.bytes().len() / packed;
        let mut bytes = Buffer::zeros(&gpu.context, blocks * stride)?;
        let together = (PIECE / stride).max(1);
        for (piece, blocks) in matrix.bytes().chunks(together * packed).enumerate() {
            let mut apart = vec![0; blocks.len() / packed * stride];
            for (to, from) in apart.chunks_mut(stride).zip(blocks.chunks(packed)) {
                to[..packed].copy_from_slice(from);
            }
            bytes.write(piece * together * stride, &apart)?;
        }
        Ok(Self { shape, bytes })
    }

    /// Returns the number of bytes from the start of a block of 16 rows to that of the next.
    pub(crate) const fn stride(&self) -> u64 {
        self.shape.block_bytes().next_multiple_of(LINE) as u64
    }

    /// Returns the size and codec, without padding.
    #[must_use]
    pub const fn shape(&self) -> Shape {
        self.shape
    }
}

impl Gpu {
    /// Computes the product of a matrix with each row, dequantised, plus the bias if there is one;
    /// and the exact sums, if they are asked for. It is made for a few rows: every four tiles of
    /// four rows read the matrix again.
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
        let Kernel { name, together, warps_max } = kernel(shape.codec, tiles);
        let grid = [rows.div_ceil(BLOCK_ROWS), tiles / together, 1];
        let warps = warps(grid[0] * grid[1], warps_max, self.info().processors);
        let arguments = [
            matrix.bytes.argument(),
            Argument::U64(matrix.stride()),
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
        self.launch(name, grid, warps * WARP, &arguments)
    }
}

/// One of the product kernels, as the last lines of `products.cuh` list them.
#[derive(Debug, PartialEq, Eq)]
struct Kernel {
    name: &'static str,
    /// Tiles that a block takes together.
    together: u32,
    /// The most warps that a block may have.
    warps_max: u32,
}

/// Returns the kernel for products of `tiles` tiles.
const fn kernel(codec: Codec, tiles: u32) -> Kernel {
    let (name, together, warps_max) = match (codec, tiles) {
        (Codec::W8, 0 | 1) => ("product_w8_tiles1", 1, 12),
        (Codec::W8, 2) => ("product_w8_tiles2", 2, 12),
        (Codec::W8, _) => ("product_w8_tiles4", 4, 6),
        (Codec::W4, 0 | 1) => ("product_w4_tiles1", 1, 12),
        (Codec::W4, 2) => ("product_w4_tiles2", 2, 12),
        (Codec::W4, _) => ("product_w4_tiles4", 4, 6),
    };
    Kernel { name, together, warps_max }
}

/// Returns the number of warps of each of `blocks` blocks: the fewer blocks there are, the more
/// warps.
fn warps(blocks: u32, warps_max: u32, processors: u32) -> u32 {
    let wanted = BUSY_WARPS.saturating_mul(processors).div_ceil(blocks.max(1));
    wanted.clamp(WARPS_MIN, warps_max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::TEXTS;

    #[test]
    fn few_blocks_have_many_warps_and_none_more_than_the_kernel_has_room_for() {
        assert_eq!(warps(128, 12, 132), 12);
        assert_eq!(warps(400, 12, 132), 8);
        assert_eq!(warps(4008, 12, 132), 4);
        assert_eq!(warps(0, 6, 132), 6);
    }

    #[test]
    fn a_block_has_at_most_the_threads_that_its_kernel_is_compiled_for() {
        for codec in Codec::ALL {
            for tiles in [0, 1, 2, 4, 8] {
                let Kernel { name, warps_max, .. } = kernel(codec, tiles);
                for text in &TEXTS {
                    let entry = text.ptx.split(".visible .entry ").find(|e| e.starts_with(name));
                    let limit = entry.and_then(|entry| entry.split(".maxntid ").nth(1)).unwrap();
                    let limit: u32 = limit.split(',').next().unwrap().parse().unwrap();
                    assert_eq!(limit, warps_max * WARP, "{name} for {}", text.target);
                }
            }
        }
    }
}
