//! The matrix products: [`Products`] on the threads.

use std::convert::Infallible;

use lockstep_exact::matrix::{BLOCK_ROWS, Packed};
use lockstep_exact::ops::Products;
use lockstep_exact::weights::{Backend, PrepareError};

use super::kernels::{Kernels, PARTS_PER_THREAD};
use super::values::{Codes, Rows, Sums};
use crate::matmul::{self, Columns, Deal, RowProduct};
use crate::pool::Chunks;
use crate::rows;

/// Bytes of weights, times input rows, that are worth sharing between threads.
const SHARED_WEIGHTS: usize = 64 * 1024;
impl Kernels {
    /// A product with one input row whose scale is `scale`.
    fn product_of_row(&self, row: RowProduct<'_>, scale: f32, out: &mut [f32]) {
        let shape = row.shape();
        let trial = self.fetch.start(shape);
        let deal = Deal::of_row(shape, self.pool.threads());
        let columns = Columns::new(out, shape.rows);
        self.pool.run(deal.lanes(), |lane| {
            while let Some(pairs) = deal.claim(lane) {
                // SAFETY: `deal` gives each pair, hence its columns, once.
                unsafe { row.multiply(pairs, scale, trial.hint(), &columns) };
            }
        });
    }

    /// How many blocks make a part of a product.
    const fn blocks_each(&self, matrix: &Packed, rows: usize) -> usize {
        let shape = matrix.shape();
        let blocks = shape.blocks();
        if self.pool.threads() == 1 || shape.packed_bytes() * rows < SHARED_WEIGHTS {
            return blocks;
        }
        // An even number: kernels take blocks in pairs.
        blocks.div_ceil(self.pool.threads() * PARTS_PER_THREAD).next_multiple_of(2)
    }
}

impl Products for Kernels {
    type Device = Self;
    type Matrix = Packed;
    type Error = Infallible;

    fn device(&self) -> &Self {
        self
    }

    fn matmul(&self, weights: &Packed, x: &Codes, out: &mut Sums) -> Result<(), Infallible> {
        let Some(inputs) = x.inputs() else { unreachable!("queries are no inputs of a product") };
        let rows = inputs.rows();
        out.reshape(rows, weights.shape().rows);
        let each = self.blocks_each(weights, rows);
        let blocks = weights.shape().blocks();
        let parts = out.data.chunks_mut((each * rows).max(1)).enumerate().collect();
        self.pool.each(parts, |(part, sums)| {
            let blocks = part * each..((part + 1) * each).min(blocks);
            matmul::multiply(self.isa, weights, blocks, inputs, sums);
        });
        Ok(())
    }

    fn product(
        &self,
        weights: &Packed,
        _scales: &Vec<f32>,
        x: &Codes,
        sums: &mut Sums,
        out: &mut Rows,
    ) -> Result<(), Infallible> {
        let Some(inputs) = x.inputs() else { unreachable!("queries are no inputs of a product") };
        let (rows, shape) = (inputs.rows(), weights.shape());
        out.reshape(rows, shape.rows);
        if let ([scale], Some(row)) = (&x.scales[..], RowProduct::new(self.isa, weights, inputs)) {
            self.product_of_row(row, *scale, &mut out.data);
            return Ok(());
        }
        let deal = Deal::of_product(shape, rows, self.pool.threads());
        // Working memory: each thread's sums stay in its cache.
        sums.reshape(rows, deal.lanes() * deal.each() * BLOCK_ROWS);
        let columns = Columns::new(&mut out.data, shape.rows);
        let parts = Chunks::new(&mut sums.data, (deal.each() * rows).max(1));
        self.pool.parts(parts, |lane, sums| {
            while let Some(blocks) = deal.claim(lane) {
                let sums = &mut sums[..blocks.len() * rows];
                matmul::multiply(self.isa, weights, blocks.clone(), inputs, sums);
                // SAFETY: `deal` gives each block, hence these columns, once.
                let mut out =
                    unsafe { columns.stripe(blocks.start * BLOCK_ROWS..blocks.end * BLOCK_ROWS) };
                rows::dequant_blocks(self.isa, weights, blocks, sums, &x.scales, &mut out);
            }
        });
        Ok(())
    }
}

impl Backend for Kernels {
    fn prepare(&self, matrix: Packed) -> Result<Packed, PrepareError<Infallible>> {
        Ok(matrix)
    }
}
