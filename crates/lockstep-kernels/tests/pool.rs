//! The pool's board in every interleaving that a model checker can find, with the weak memory
//! order of the language rather than this processor's. The lines under test are the program's
//! own: only `sync` differs, in which threads lose patience at once, so that all of them sleep.

#[allow(dead_code, reason = "scopes are not modelled: they only make threads more patient")]
#[path = "../src/pool/board.rs"]
mod board;

use loom::cell::UnsafeCell;
use loom::model::Builder;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread::{self, JoinHandle};

use board::Board;

/// What the board is made of, from the model checker.
mod sync {
    use std::sync::PoisonError;

    use loom::cell::UnsafeCell;
    use loom::sync::MutexGuard;

    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
    pub(crate) use loom::sync::{Condvar, Mutex};

    /// The model checker sees a read beside a write, and a read that is not ordered after one.
    pub(crate) struct Cell<T>(UnsafeCell<T>);

    impl<T: Copy> Cell<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(UnsafeCell::new(value))
        }

        pub(crate) unsafe fn read(&self) -> T {
            // SAFETY: the model checker watches.
            self.0.with(|value| unsafe { *value })
        }

        pub(crate) unsafe fn write(&self, new: T) {
            // SAFETY: the model checker watches.
            self.0.with_mut(|value| unsafe { *value = new });
        }
    }

    pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) struct Demand;

    impl Demand {
        pub(crate) const fn new() -> Self {
            Self
        }

        pub(crate) const fn worker_limit(&self) {}

        pub(crate) const fn poster_limit(&self) {}
    }

    /// None.
    pub(crate) struct Patience;

    impl Patience {
        pub(crate) const fn new() -> Self {
            Self
        }

        #[expect(clippy::needless_pass_by_ref_mut, reason = "as the program's")]
        pub(crate) fn poll(&mut self, _: &Demand, _: impl Fn(&Demand)) -> bool {
            false
        }
    }
}

/// Runs `body` with a board and `workers` workers in every interleaving with at most
/// `preemptions` of them at arbitrary places, then ends the workers.
fn in_every_interleaving(
    workers: usize,
    preemptions: usize,
    body: impl Fn(&Board) + Send + Sync + 'static,
) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(move || {
        let board = Arc::new(Board::new());
        let spawn = |_| {
            let board = Arc::clone(&board);
            thread::spawn(move || board.work())
        };
        let workers: Vec<JoinHandle<()>> = (0..workers).map(spawn).collect();
        body(&board);
        board.stop();
        for worker in workers {
            worker.join().unwrap();
        }
    });
}

/// What parts write without any care: the model checker sees two at once, and a write that is
/// not visible to whoever reads it.
struct Cells(Vec<UnsafeCell<usize>>);

// SAFETY: a lie, which the model checker is there to find.
unsafe impl Sync for Cells {}

impl Cells {
    fn new(parts: usize) -> Self {
        Self((0..parts).map(|_| UnsafeCell::new(0)).collect())
    }

    fn add(&self, part: usize) {
        // SAFETY: the model checker watches.
        self.0[part].with_mut(|value| unsafe { *value += 1 });
    }

    fn assert_all(&self, expected: usize) {
        for cell in &self.0 {
            // SAFETY: the model checker watches.
            assert_eq!(cell.with(|value| unsafe { *value }), expected, "times that a part ran");
        }
    }
}

#[test]
fn every_part_runs_once_and_the_poster_returns_after_all_of_them() {
    in_every_interleaving(1, 3, |board| {
        for parts in [2, 3] {
            let cells = Cells::new(parts);
            // SAFETY: nobody else posts.
            let outcome = unsafe { board.run(parts, &|part| cells.add(part)) };
            assert!(outcome.is_ok());
            cells.assert_all(1);
        }
    });
}

#[test]
fn every_part_runs_once_with_two_workers() {
    in_every_interleaving(2, 2, |board| {
        let cells = Cells::new(3);
        // SAFETY: nobody else posts.
        let outcome = unsafe { board.run(3, &|part| cells.add(part)) };
        assert!(outcome.is_ok());
        cells.assert_all(1);
    });
}

/// Two threads that wait for each other.
struct Meeting(Mutex<usize>, Condvar);

impl Meeting {
    fn new() -> Self {
        Self(Mutex::new(0), Condvar::new())
    }

    fn attend(&self) {
        let mut present = self.0.lock().unwrap();
        *present += 1;
        self.1.notify_all();
        while *present < 2 {
            present = self.1.wait(present).unwrap();
        }
    }
}

#[test]
fn a_worker_that_sleeps_is_always_woken_for_a_region() {
    // Each part waits for the other: if the worker slept on, the poster would wait for ever.
    in_every_interleaving(1, 2, |board| {
        for _ in 0..2 {
            let meeting = Meeting::new();
            // SAFETY: nobody else posts.
            let outcome = unsafe { board.run(2, &|_| meeting.attend()) };
            assert!(outcome.is_ok());
        }
    });
}

#[test]
fn workers_end_wherever_they_are_when_they_are_stopped() {
    in_every_interleaving(2, 3, |_| {});
}

#[test]
fn a_panic_reaches_the_poster_once_and_every_part_still_runs() {
    in_every_interleaving(1, 2, |board| {
        let runs = AtomicUsize::new(0);
        // SAFETY: nobody else posts.
        let outcome = unsafe {
            board.run(3, &|part| {
                runs.fetch_add(1, Ordering::Relaxed);
                // Not `panic!`: thousands of interleavings would print thousands of messages.
                if part == 1 {
                    std::panic::resume_unwind(Box::new("part 1"));
                }
            })
        };
        let payload = outcome.unwrap_err();
        assert_eq!(payload.downcast_ref(), Some(&"part 1"));
        assert_eq!(runs.load(Ordering::Relaxed), 3);
        let cells = Cells::new(2);
        // SAFETY: nobody else posts.
        let outcome = unsafe { board.run(2, &|part| cells.add(part)) };
        assert!(outcome.is_ok());
        cells.assert_all(1);
    });
}
