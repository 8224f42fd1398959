//! The exchange of what the kernels hold with plain memory: [`Host`].

use std::borrow::Cow;

use lockstep_exact::flags::Flags;
use lockstep_exact::matrix::BLOCK_ROWS;
use lockstep_exact::num::Overflow;
use lockstep_exact::ops::Host;

use super::kernels::Kernels;
use super::values::{Codes, Form, Rows, Sums};
use crate::pool::Chunks;
use crate::rows;

impl Host for Kernels {
    fn read_rows<'a>(&self, rows: &'a Rows) -> Cow<'a, [f32]> {
        Cow::Borrowed(&rows.data)
    }

    fn read_logits(
        &self,
        rows: &Rows,
        width: usize,
        flags: &Flags,
    ) -> Vec<Result<Vec<f32>, Overflow>> {
        let count = rows.data.len().checked_div(width).unwrap_or(0);
        let mut out: Vec<_> = (0..count).map(|_| Err(Overflow)).collect();
        // What takes the time is memory that the system has to clear first.
        self.pool.parts(Chunks::new(&mut out, 1), |row, out| {
            let logits = &rows.data[row * width..][..width];
            if rows::fits(self.isa, logits) && !flags.get(row) {
                out.fill(Ok(logits.to_vec()));
            }
        });
        out
    }

    fn read_codes<'a>(&self, codes: &'a Codes) -> Cow<'a, [i16]> {
        match &codes.form {
            Form::Queries(codes) => Cow::Borrowed(codes),
            Form::Inputs(inputs) => match inputs.unpadded_codes() {
                Some(codes) => Cow::Borrowed(codes),
                None => (0..inputs.rows()).flat_map(|row| inputs.codes(row)).copied().collect(),
            },
        }
    }

    fn read_sums<'a>(&self, sums: &'a Sums) -> Cow<'a, [i64]> {
        if sums.rows == 1 {
            return Cow::Borrowed(&sums.data.as_flattened()[..sums.width]);
        }
        let mut out = Vec::with_capacity(sums.rows * sums.width);
        for row in 0..sums.rows {
            let blocks = sums.data.iter().skip(row).step_by(sums.rows);
            out.extend(blocks.flatten().take(sums.width));
        }
        Cow::Owned(out)
    }

    fn write_sums(&self, width: usize, values: &[i64], out: &mut Sums) {
        let rows = values.len().checked_div(width).unwrap_or(0);
        out.reshape(rows, width);
        for (row, values) in values.chunks_exact(width.max(1)).enumerate() {
            for (block, values) in values.chunks(BLOCK_ROWS).enumerate() {
                out.data[block * rows + row][..values.len()].copy_from_slice(values);
            }
        }
    }
}
