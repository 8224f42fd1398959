//! Memory for exact sums of which several blocks of threads compute parts.

use std::sync::{Mutex, PoisonError};

use crate::driver::{Argument, Buffer, Context, Error};

/// Memory in which blocks of threads leave their parts of exact sums for the block that adds them.
/// It is allocated when it is first used, and kept: launches use it one after the other.
#[derive(Debug, Default)]
pub(crate) struct PartialSums(Mutex<Option<Memory>>);

#[derive(Debug)]
struct Memory {
    sums: Buffer<i64>,
    /// How many parts of each sum are there: 0 between launches.
    done: Buffer<u32>,
}

impl PartialSums {
    /// Returns the addresses of the sums and of the counters, as kernels take them: room for
    /// `numbers` sums of each of `blocks` blocks, and a counter for each block.
    ///
    /// # Errors
    /// [`Error::Memory`]; [`Error::Lost`], [`Error::Call`].
    pub(crate) fn arguments(
        &self,
        context: &Context,
        blocks: usize,
        numbers: usize,
    ) -> Result<[Argument; 2], Error> {
        let mut memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let memory = match &mut *memory {
            Some(memory) => memory,
            none => none.insert(Memory {
                sums: Buffer::zeros(context, blocks * numbers)?,
                done: Buffer::zeros(context, blocks)?,
            }),
        };
        Ok([memory.sums.argument(), memory.done.argument()])
    }
}
