//! The exchange of what the kernels hold with plain memory: [`Host`].

use std::borrow::Cow;
use std::convert::Infallible;

use lockstep_exact::experts::Choice;
use lockstep_exact::feed_forward::Rule;
use lockstep_exact::flags::Flags;
use lockstep_exact::matrix::BLOCK_ROWS;
use lockstep_exact::num::Overflow;
use lockstep_exact::ops::{Copied, CopiedOf, Host, Place, read_kv};
use lockstep_exact::state::State;

use super::kernels::Kernels;
use super::values::{Codes, Form, Rows, Sums};
use crate::kv::Kv;
use crate::pool::Chunks;
use crate::rows;

impl Host for Kernels {
    type Ticket<T> = Infallible;

    fn wait<T>(&self, ticket: Infallible) -> Result<T, Infallible> {
        match ticket {}
    }

    fn put_vector(&self, values: Vec<f32>) -> Result<Vec<f32>, Infallible> {
        Ok(values)
    }

    fn put_rope(&self, turns: Vec<u64>) -> Result<Vec<u64>, Infallible> {
        Ok(turns)
    }

    fn put_state(&self, state: State) -> Result<State, Infallible> {
        Ok(state)
    }

    fn take_state<'a>(&self, state: &'a State) -> CopiedOf<'a, Self, State> {
        Copied::Here(Cow::Borrowed(state))
    }

    fn take_kv(
        &self,
        caches: &[&mut Kv],
        layer: usize,
        places: &[Place],
    ) -> CopiedOf<'static, Self, [u8]> {
        Copied::Here(Cow::Owned(read_kv(caches, layer, places)))
    }

    fn take_rows<'a>(&self, rows: &'a Rows) -> CopiedOf<'a, Self, [f32]> {
        Copied::Here(Cow::Borrowed(&rows.data))
    }

    fn take_codes<'a>(&self, codes: &'a Codes) -> CopiedOf<'a, Self, [i16]> {
        Copied::Here(match &codes.form {
            Form::Queries(codes) => Cow::Borrowed(codes),
            Form::Inputs(inputs) => match inputs.unpadded_codes() {
                Some(codes) => Cow::Borrowed(codes),
                None => (0..inputs.rows()).flat_map(|row| inputs.codes(row)).copied().collect(),
            },
        })
    }

    fn take_sums<'a>(&self, sums: &'a Sums) -> CopiedOf<'a, Self, [i64]> {
        if sums.rows == 1 {
            return Copied::Here(Cow::Borrowed(&sums.data.as_flattened()[..sums.width]));
        }
        let mut out = Vec::with_capacity(sums.rows * sums.width);
        for row in 0..sums.rows {
            let blocks = sums.data.iter().skip(row).step_by(sums.rows);
            out.extend(blocks.flatten().take(sums.width));
        }
        Copied::Here(Cow::Owned(out))
    }

    fn read_logits(
        &self,
        rows: &Rows,
        width: usize,
        flags: &Flags,
    ) -> Result<Vec<Result<Vec<f32>, Overflow>>, Infallible> {
        // default: rows without columns are none
        let count = rows.data.len().checked_div(width).unwrap_or(0);
        let mut out: Vec<_> = (0..count).map(|_| Err(Overflow)).collect();
        // What takes the time is memory that the system has to clear first.
        self.pool.parts(Chunks::new(&mut out, 1), |row, out| {
            let logits = &rows.data[row * width..][..width];
            if rows::fits(self.isa, logits) && !flags.get(row) {
                out.fill(Ok(logits.to_vec()));
            }
        });
        Ok(out)
    }

    fn choose(
        &self,
        rule: Rule,
        experts: usize,
        logits: &Rows,
        flags: &mut Flags,
    ) -> Result<Choice, Infallible> {
        Ok(Choice::new(rule, experts, &logits.data, flags))
    }

    fn write_sums(&self, width: usize, values: &[i64], out: &mut Sums) {
        // default: rows without columns are none
        let rows = values.len().checked_div(width).unwrap_or(0);
        out.reshape(rows, width);
        for (row, values) in values.chunks_exact(width.max(1)).enumerate() {
            for (block, values) in values.chunks(BLOCK_ROWS).enumerate() {
                out.data[block * rows + row][..values.len()].copy_from_slice(values);
            }
        }
    }
}
