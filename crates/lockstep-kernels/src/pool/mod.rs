//! Compute threads for regions of microseconds: poll first, then sleep.
//!
//! One *region* at a time is shared by the caller and the workers: parts are claimed by number
//! from a range, so a part may run anywhere, and what it computes must not depend on where. The
//! caller never waits for a worker that the system has not let run yet, only for those that hold
//! a part. Inside a *scope* workers stay awake from region to region, so that a layer is one long
//! region of many steps. That, and how long threads poll ([`patience`]), keeps an oversubscribed
//! machine moving.
//!
//! With one thread nothing is spawned and nothing is locked.
//!
//! ```text
//! caller: run(parts, body)                  worker: until the pool is dropped
//!   if another region is on:                  poll until parts are left,
//!     call body with every part, alone          or sleep when patience ends
//!   post body, parts left = 0..parts          while a part is left:
//!   wake the workers that sleep                 claim the last one
//!   while a part is left:                       body(part)
//!     claim the first one                     report how many were run
//!     body(part)                              wake the caller if it sleeps
//!   poll until workers have reported
//!     the rest, or sleep
//!   pass on the first panic
//! ```

use std::cell::UnsafeCell;
use std::fmt;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::thread::{self, JoinHandle};

use crate::float_mode;
use crate::{FloatModeError, StartError};

mod board;
mod parts;
mod patience;
mod sync;

use board::{Board, MOST_PARTS};
pub(crate) use parts::{Chunks, Parts};

/// Threads that share regions of work. Dropping it ends the workers.
pub(crate) struct Pool {
    board: Arc<Board>,
    workers: Vec<JoinHandle<()>>,
    /// Held by the thread whose region it is.
    turn: Mutex<()>,
}

impl Pool {
    /// Creates a pool of `threads` threads, the caller included.
    pub(crate) fn new(threads: usize) -> Result<Self, StartError> {
        float_mode::check()?;
        let board = Arc::new(Board::new());
        let (report, reports) = std::sync::mpsc::channel::<Result<(), FloatModeError>>();
        let mut pool = Self { board, workers: Vec::new(), turn: Mutex::new(()) };
        for index in 1..threads {
            let (board, report) = (Arc::clone(&pool.board), report.clone());
            let name = format!("lockstep-compute-{index}");
            let worker = thread::Builder::new().name(name).spawn(move || {
                let mode = float_mode::check();
                let usable = mode.is_ok();
                if report.send(mode).is_ok() && usable {
                    board.work();
                }
            });
            pool.workers.push(worker.map_err(StartError::Spawn)?);
        }
        for mode in reports.iter().take(pool.workers.len()) {
            mode?;
        }
        Ok(pool)
    }

    /// Returns the number of threads, the caller included.
    pub(crate) const fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `body` with the workers awake.
    pub(crate) fn scope<R>(&self, body: impl FnOnce() -> R) -> R {
        if self.workers.is_empty() {
            return body();
        }
        let _scope = Scope::enter(&self.board);
        body()
    }

    /// Calls `body` once with each of `items`, on any thread, in any order.
    pub(crate) fn each<T: Send>(&self, items: Vec<T>, body: impl Fn(T) + Sync) {
        if self.workers.is_empty() || items.len() < 2 {
            return items.into_iter().for_each(body);
        }
        let parts = items.len();
        let slots: Vec<Slot<T>> = items.into_iter().map(|item| Slot(Some(item).into())).collect();
        self.run(parts, |part| {
            // SAFETY: `run` gives each part's number to one call only.
            if let Some(item) = unsafe { (*slots[part].0.get()).take() } {
                body(item);
            }
        });
    }

    /// Calls `body` once with each of `parts` and its number, on any thread, in any order.
    /// Allocates nothing.
    pub(crate) fn parts<P: Parts>(&self, parts: P, body: impl Fn(usize, P::Part) + Sync) {
        self.run(parts.count(), |number| {
            // SAFETY: `run` gives each number to one call only.
            body(number, unsafe { parts.part(number) });
        });
    }

    /// Calls `body` once with each number below `parts`, on any thread, in any order. A panic in
    /// one of them is passed on when all calls have ended.
    pub(crate) fn run<F: Fn(usize) + Sync>(&self, parts: usize, body: F) {
        let is_shared = !self.workers.is_empty() && (2..=MOST_PARTS).contains(&parts);
        let turn = if is_shared { self.take_turn() } else { None };
        if turn.is_none() {
            return (0..parts).for_each(body);
        }
        // SAFETY: whoever calls this holds the turn, and these are not too many parts.
        let outcome = unsafe { self.board.run(parts, &body) };
        drop(turn);
        if let Err(payload) = outcome {
            resume_unwind(payload);
        }
    }

    /// Takes the board for a region of this thread; `None` while another thread's region is on it:
    /// this thread then computes alone, with equal results.
    fn take_turn(&self) -> Option<MutexGuard<'_, ()>> {
        match self.turn.try_lock() {
            Ok(turn) => Some(turn),
            // A region that panicked was ended like any other.
            Err(TryLockError::Poisoned(turn)) => Some(turn.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.board.stop();
        for worker in self.workers.drain(..) {
            // A worker catches panics of its parts, so there is nothing to learn here.
            let _ = worker.join();
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads()).finish_non_exhaustive()
    }
}

/// An item that exactly one thread takes.
struct Slot<T>(UnsafeCell<Option<T>>);

// SAFETY: each slot is touched by one thread only, which takes the item (`Pool::each`).
unsafe impl<T: Send> Sync for Slot<T> {}

/// The time in which regions are expected one soon after the other; it ends when this is dropped.
struct Scope<'a>(&'a Board);

impl<'a> Scope<'a> {
    fn enter(board: &'a Board) -> Self {
        board.demand().enter_scope();
        board.wake();
        Self(board)
    }
}

impl Drop for Scope<'_> {
    fn drop(&mut self) {
        self.0.demand().leave_scope();
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn every_part_runs_once_whatever_the_number_of_threads() {
        for threads in 1..=4 {
            let pool = Pool::new(threads).unwrap();
            for parts in [0, 1, 2, 3, 100] {
                for _ in 0..200 {
                    let counts: Vec<AtomicUsize> =
                        (0..parts).map(|_| AtomicUsize::new(0)).collect();
                    pool.scope(|| {
                        pool.run(parts, |part| {
                            counts[part].fetch_add(1, Ordering::Relaxed);
                        });
                    });
                    assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
                }
            }
        }
    }

    #[test]
    fn one_thread_spawns_nothing() {
        assert!(Pool::new(1).unwrap().workers.is_empty());
    }

    #[test]
    fn items_are_handed_over_by_value() {
        let pool = Pool::new(2).unwrap();
        let mut data = vec![0_u32; 1000];
        let items: Vec<(usize, &mut [u32])> = data.chunks_mut(7).enumerate().collect();
        pool.each(items, |(index, chunk)| chunk.fill(index as u32));
        assert!(data.iter().enumerate().all(|(at, &value)| value == at as u32 / 7));
    }

    #[test]
    fn a_panic_in_a_part_reaches_the_caller_and_leaves_the_pool_usable() {
        let pool = Pool::new(2).unwrap();
        let result = catch_unwind(AssertUnwindSafe(|| {
            pool.run(16, |part| assert!(part != 11, "part 11"));
        }));
        assert!(result.is_err());
        let total = AtomicUsize::new(0);
        pool.run(16, |_| {
            total.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(total.into_inner(), 16);
    }

    #[test]
    fn regions_of_several_callers_and_inside_each_other_all_complete() {
        let pool = Pool::new(2).unwrap();
        let total = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        pool.run(4, |_| {
                            pool.run(4, |_| {
                                total.fetch_add(1, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 3 * 100 * 16);
    }
}
