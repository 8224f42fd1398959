//! The kernels themselves: an instruction set, threads, and how batches are cut for them.

use lockstep_exact::matrix::Codec;

use crate::isa::Isa;
use crate::matmul::Chooser;
use crate::pool::Pool;
use crate::{FloatModeError, StartError, float_mode};

/// Elements of a batch that are worth sharing between threads, and the fewest of a part: a region
/// costs about as much as an operation on some hundred elements.
const SHARED_ELEMENTS: usize = 2 * 1024;
const PART_ELEMENTS: usize = 1024;
/// Parts that a region is cut into, per thread: enough to even out what is uneven.
pub(super) const PARTS_PER_THREAD: usize = 4;

/// The operations, on the processor's best or a chosen instruction set, on some threads.
///
/// Gives the same bits as [`lockstep_exact::reference::Reference`] for any instruction set and any
/// number of threads.
#[derive(Debug)]
pub struct Kernels {
    pub(super) isa: Isa,
    pub(super) pool: Pool,
    pub(super) fetch: Chooser,
}

impl Kernels {
    /// Creates kernels for `isa` on `threads` threads, the caller included: one thread spawns none.
    ///
    /// # Errors
    /// When a thread cannot be started, or one (the caller's included) has a floating-point mode
    /// that the arithmetic is not defined for.
    pub fn new(isa: Isa, threads: usize) -> Result<Self, StartError> {
        Ok(Self { isa, pool: Pool::new(threads)?, fetch: Chooser::default() })
    }

    /// Creates kernels for the instruction set that [`Isa::detect`] gives.
    ///
    /// # Errors
    /// As [`Isa::detect`] and [`Kernels::new`].
    pub fn detect(threads: usize) -> Result<Self, StartError> {
        Self::new(Isa::detect()?, threads)
    }

    /// Checks the calling thread's floating-point mode: for threads that call operations and are
    /// not the one that made the kernels.
    ///
    /// # Errors
    /// [`FloatModeError`].
    pub fn check_thread() -> Result<(), FloatModeError> {
        float_mode::check()
    }

    /// Returns the instruction set that the kernels use.
    #[must_use]
    pub const fn isa(&self) -> Isa {
        self.isa
    }

    /// Returns the prefetch hint that products with one row and weights of `codec` have been found
    /// to be fastest with, by name; `None` until enough of them have been timed, and where the
    /// instruction set has no such choice.
    #[must_use]
    pub fn prefetch_hint(&self, codec: Codec) -> Option<String> {
        self.fetch.chosen(codec).map(|hint| hint.to_string())
    }

    /// Returns the number of threads that compute, the caller included.
    #[must_use]
    pub const fn threads(&self) -> usize {
        self.pool.threads()
    }

    pub(crate) const fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Returns the number of rows, of `rows` rows of `width` elements each, that make a part of an
    /// element-wise region.
    pub(super) const fn rows_each(&self, rows: usize, width: usize) -> usize {
        if self.pool.threads() == 1 || rows * width < SHARED_ELEMENTS {
            return if rows == 0 { 1 } else { rows };
        }
        let (even, least) =
            (rows.div_ceil(self.pool.threads() * PARTS_PER_THREAD), PART_ELEMENTS / width);
        if even > least { even } else { least }
    }
}
