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

/// Input rows from which on a product is done in panels: there are more than the kernels for few
/// rows take in one reading of the matrix.
const PANEL_FROM: usize = 17;
/// Matrix rows of a panel.
const PANEL_ROWS: u32 = 128;
/// Tiles of a panel.
const PANEL_TILES: u32 = 16;
/// The number of threads of a block that takes a panel.
const PANEL_THREADS: u32 = 256;
/// Blocks of threads that a multiprocessor has room for at most, each with a panel.
const PANELS_TOGETHER: u32 = 2;
/// The most blocks that share the columns of a panel.
const PARTS_MAX: u32 = 8;
/// Spans of a block's share of the columns, at least.
const PART_SPANS: u32 = 8;

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

/// Returns how many blocks share the columns of each of `panels` panels: all blocks together are
/// no more than the device has on it at once, which is `blocks`.
const fn parts(panels: u32, spans: u32, blocks: u32) -> u32 {
    let room = match blocks.checked_div(panels) {
        Some(room) => room,
        None => 1,
    };
    let most = if spans / PART_SPANS < PARTS_MAX { spans / PART_SPANS } else { PARTS_MAX };
    let shared = if room < most { room } else { most };
    if shared > 1 { shared } else { 1 }
}

impl Gpu {
    /// Computes the product of a matrix with each row, dequantised, plus the bias if there is one;
    /// and the exact sums, if they are asked for. Up to 16 rows read the matrix once, more of them
    /// once for every 64.
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
        let spans = size(operation, "spans", shape.columns.div_ceil(64))?;
        let mut arguments = vec![
            matrix.bytes.argument(),
            Argument::U64(matrix.stride()),
            Argument::U32(spans),
            Argument::U32(rows),
            x.codes.argument(),
            x.scales.argument(),
            Argument::U32(tiles),
            Argument::U32(size(operation, "rows", x.rows)?),
            bias.map_or(Argument::U64(0), Buffer::argument),
            out.data.argument(),
            sums_address,
        ];
        if x.rows >= PANEL_FROM {
            let Panel { name, shared, together } = panel(shape.codec, self.target());
            let numbers = (PANEL_ROWS * PANEL_TILES * 4) as usize;
            let blocks = (PANELS_TOGETHER * self.info().processors) as usize;
            arguments.extend(self.partial_sums.arguments(&self.context, blocks, numbers)?);
            let grid = [tiles.div_ceil(PANEL_TILES), rows.div_ceil(PANEL_ROWS)];
            let parts = parts(grid[0] * grid[1], spans, together * self.info().processors);
            let grid = [grid[0], grid[1], parts];
            return self.launch_with(name, grid, PANEL_THREADS, shared, &arguments);
        }
        let Kernel { name, together, warps_max } = kernel(shape.codec, tiles);
        let grid = [rows.div_ceil(BLOCK_ROWS), tiles / together, 1];
        let warps = warps(grid[0] * grid[1], warps_max, self.info().processors);
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

/// One of the kernels for products in panels, as `panels.cuh` and `warpgroups.cuh` have them.
struct Panel {
    name: &'static str,
    /// Bytes of shared memory of its stages.
    shared: u32,
    /// Blocks of threads that a multiprocessor has room for.
    together: u32,
}

/// Returns the kernel for products in panels of the text for `target`.
fn panel(codec: Codec, target: &str) -> Panel {
    let stages = if target == "sm_75" { 3 } else { 4 };
    match (codec, target) {
        // By warpgroups, whose stages begin at a multiple of 1024 bytes.
        (Codec::W8, "sm_90a") => Panel {
            name: "panel_w8",
            shared: 6 * (8 * 1024 + PANEL_TILES * 512) + 1024,
            together: 2,
        },
        (Codec::W8, _) => Panel {
            name: "panel_w8",
            shared: stages * (8 * 1024 + PANEL_TILES * 512 + 8 * 16),
            together: 2,
        },
        (Codec::W4, _) => Panel {
            name: "panel_w4",
            shared: stages * (8 * 512 + PANEL_TILES * 512 + 8 * 64),
            together: 1,
        },
    }
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
    fn blocks_share_the_columns_of_few_panels_and_are_all_on_the_device() {
        assert_eq!(parts(32, 64, 264), 8);
        assert_eq!(parts(48, 64, 264), 5);
        assert_eq!(parts(96, 224, 264), 2);
        assert_eq!(parts(224, 64, 264), 1);
        assert_eq!(parts(1, 9, 264), 1);
        assert_eq!(parts(1, 40, 264), 5);
        assert_eq!(parts(0, 64, 264), 1);
        assert_eq!(parts(70_000, 64, 264), 1);
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
