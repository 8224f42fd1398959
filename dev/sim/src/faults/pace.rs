//! How long a server's jobs take: the time model of a machine.

use std::cell::Cell;
use std::rc::Rc;

use lockstep_proto::job::{Job, Work};
use lockstep_testing::numbers::Numbers;

/// The pace of a machine: how long its jobs take.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    layers: u64,
    /// The nanoseconds of one layer in any job, however many rows it has: its weights are read.
    pub(crate) layer_ns: u64,
    /// The nanoseconds of one layer for each row.
    pub(crate) row_ns: u64,
    /// The nanoseconds of the head for each token.
    pub(crate) head_ns: u64,
    /// Microseconds for which the next job is stuck.
    pub(crate) stuck_us: Rc<Cell<u64>>,
}

impl Pace {
    /// Draws a machine; the slowest takes eight times as long as the fastest.
    pub(crate) fn draw(numbers: &mut Numbers, layers: u32) -> Self {
        let slowness = 1 + numbers.below(8);
        Self {
            layers: u64::from(layers),
            layer_ns: 100_000 * slowness,
            row_ns: 20_000 * slowness,
            head_ns: 150_000 * slowness,
            stuck_us: Rc::new(Cell::new(0)),
        }
    }

    /// Returns the microseconds that a job takes.
    pub(crate) fn job_us(&self, job: &Job) -> u64 {
        let (mut rows, mut heads, mut others) = (0, 0, 0);
        for item in &job.items {
            match &item.work {
                Work::Tokens { ids, .. } => rows += ids.len() as u64,
                Work::States { state, .. } => rows += state.rows() as u64,
                Work::Head { .. } => heads += 1,
                Work::Answer { .. }
                | Work::Begin { .. }
                | Work::Drop
                | Work::Finish
                | Work::Forget => others += 1,
            }
        }
        let weights = if rows > 0 { self.layers * self.layer_ns } else { 0 };
        let ns = weights + rows * self.layers * self.row_ns + heads * self.head_ns;
        ns / 1000 + others * 20 + self.stuck_us.take()
    }
}
