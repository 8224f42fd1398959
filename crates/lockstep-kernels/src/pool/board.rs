//! The board on which a region of work is posted, claimed part by part, and reported as done.
//!
//! One thread posts at a time; any number of workers wait. Everything that crosses threads in a
//! region lies in one cache line, so that a worker which polls the line gets the job together with
//! the news of it. A thread reads the job only while it holds a part that it has claimed and not
//! reported, and the next job is posted only when every part has been reported. Hence a job never
//! changes while it is read; a worker that the system does not let run holds up nobody unless it
//! holds a part; and a worker that comes late claims parts of a later region, which is as good.
//!
//! Written against `super::sync`: the standard library's primitives in the program, those of a
//! model checker in `tests/pool.rs`, which runs every interleaving of these very lines.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::sync::{
    AtomicBool, AtomicUsize, Cell, Condvar, Demand, Mutex, Ordering, Patience, fence, locked,
};

/// The payload of a panic in a part.
pub(crate) type Payload = Box<dyn Any + Send>;

/// The work of a region: a function that is called with the number of each part.
#[derive(Clone, Copy)]
pub(crate) struct Job {
    call: unsafe fn(body: *const (), part: usize),
    /// The closure that `call` calls.
    body: *const (),
}

/// The parts that nobody has claimed, a range: its start in the high half of the number, its end
/// in the low half.
#[derive(Clone, Copy)]
struct Left(usize);

/// The end of the range at which a thread claims parts. The poster claims from the front and
/// workers from the back, so that the same thread tends to get the same rows in region after region
/// and finds them in its cache.
#[derive(Clone, Copy)]
enum End {
    First,
    Last,
}

const HALF: u32 = usize::BITS / 2;
/// The most parts that a region may have.
pub(crate) const MOST_PARTS: usize = (1 << HALF) - 1;

/// The board on which one thread posts regions and others claim parts of them, as the module
/// describes.
#[repr(align(128))]
pub(crate) struct Board {
    /// The unclaimed parts, encoded as [`Left`].
    left: AtomicUsize,
    /// Parts that workers have finished: not those of the posting thread.
    done: AtomicUsize,
    job: Cell<Job>,
    rest: Rest,
}

/// The fields that are seldom written, on cache lines of their own.
#[repr(align(128))]
struct Rest {
    demand: Demand,
    workers: Sleepers,
    poster: Sleepers,
    stop: AtomicBool,
    panicked: AtomicBool,
    payload: Mutex<Option<Payload>>,
}

// SAFETY: a job is written while no part of an earlier one is unreported, and read only by
// threads that hold a part of it; what it points to is `Sync` and outlives the region (`run`).
unsafe impl Sync for Board {}
// SAFETY: as above; what a job points to is not used outside its region.
unsafe impl Send for Board {}

impl Job {
    fn new<F: Fn(usize) + Sync>(body: &F) -> Self {
        unsafe fn call<F: Fn(usize)>(body: *const (), part: usize) {
            // SAFETY: `body` was made from `&F` in `new`; `Board::run` keeps it borrowed.
            unsafe { (*body.cast::<F>())(part) }
        }
        Self { call: call::<F>, body: (&raw const *body).cast() }
    }
}

impl Left {
    const fn all(parts: usize) -> Self {
        Self(parts)
    }

    const fn is_empty(self) -> bool {
        self.0 >> HALF >= self.0 & MOST_PARTS
    }

    /// Returns a part, and what is left without it.
    const fn take(self, end: End) -> Option<(usize, Self)> {
        if self.is_empty() {
            return None;
        }
        Some(match end {
            End::First => (self.0 >> HALF, Self(self.0 + (1 << HALF))),
            End::Last => ((self.0 & MOST_PARTS) - 1, Self(self.0 - 1)),
        })
    }
}

impl Board {
    pub(crate) fn new() -> Self {
        const unsafe fn nothing(_: *const (), _: usize) {}
        let job = Job { call: nothing, body: std::ptr::null() };
        let rest = Rest {
            demand: Demand::new(),
            workers: Sleepers::new(),
            poster: Sleepers::new(),
            stop: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
            payload: Mutex::new(None),
        };
        Self { left: AtomicUsize::new(0), done: AtomicUsize::new(0), job: Cell::new(job), rest }
    }

    /// Returns the record of the demand, which says whether threads should expect regions soon.
    pub(crate) const fn demand(&self) -> &Demand {
        &self.rest.demand
    }

    /// Calls `body` once with each number below `parts`, here and on workers, and returns when
    /// all calls have; the first panic among them is the error.
    ///
    /// # Safety
    /// There are [`MOST_PARTS`] at most. No other call of this is on for the same board.
    pub(crate) unsafe fn run<F: Fn(usize) + Sync>(
        &self,
        parts: usize,
        body: &F,
    ) -> Result<(), Payload> {
        // SAFETY: every part of the last job was reported before its `run` returned, and what is
        // not claimed cannot be: so nobody reads the job.
        unsafe { self.job.write(Job::new(body)) };
        self.done.store(0, Ordering::Relaxed);
        // What is written above is seen by whoever claims a part.
        self.left.store(Left::all(parts).0, Ordering::Release);
        self.rest.workers.wake();
        let elsewhere = parts - self.claim_all(End::First);
        // What workers have written in their parts is seen from here on.
        let is_done = || self.done.load(Ordering::Acquire) == elsewhere;
        let mut patience = Patience::new();
        while !is_done() {
            if !patience.poll(&self.rest.demand, Demand::poster_limit) {
                self.rest.poster.sleep_unless(is_done);
            }
        }
        if !self.rest.panicked.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.rest.panicked.store(false, Ordering::Relaxed);
        locked(&self.rest.payload).take().map_or(Ok(()), Err)
    }

    /// Runs a worker: claims and computes parts until [`Board::stop`].
    pub(crate) fn work(&self) {
        while self.await_parts() {
            let finished = self.claim_all(End::Last);
            if finished > 0 {
                // From here on the job may change.
                self.done.fetch_add(finished, Ordering::Release);
                self.rest.poster.wake();
            }
        }
    }

    /// Ends the workers, once they have run what they claimed.
    pub(crate) fn stop(&self) {
        self.rest.stop.store(true, Ordering::Relaxed);
        self.rest.workers.wake();
    }

    /// Wakes the workers that sleep, because they are expected to be wanted soon.
    pub(crate) fn wake(&self) {
        self.rest.workers.wake();
    }

    /// Waits until there may be parts to claim. False when the workers are to end.
    fn await_parts(&self) -> bool {
        let stop = || self.rest.stop.load(Ordering::Relaxed);
        let posted = || !Left(self.left.load(Ordering::Relaxed)).is_empty();
        let mut patience = Patience::new();
        loop {
            if stop() {
                return false;
            }
            if posted() {
                return true;
            }
            if !patience.poll(&self.rest.demand, Demand::worker_limit) {
                self.rest.workers.sleep_unless(|| posted() || stop());
                patience = Patience::new();
            }
        }
    }

    /// Claims and runs parts until there are none left; says how many. A part that panics counts.
    fn claim_all(&self, end: End) -> usize {
        let mut count = 0;
        let mut left = Left(self.left.load(Ordering::Relaxed));
        while let Some((part, rest)) = left.take(end) {
            let (ok, fail) = (Ordering::Acquire, Ordering::Relaxed);
            if let Err(now) = self.left.compare_exchange(left.0, rest.0, ok, fail) {
                left = Left(now);
                continue;
            }
            // SAFETY: this thread holds a part that is not reported.
            let job = unsafe { self.job.read() };
            // SAFETY: `run` has borrowed the body until this part is reported.
            let call = AssertUnwindSafe(|| unsafe { (job.call)(job.body, part) });
            if let Err(payload) = catch_unwind(call) {
                locked(&self.rest.payload).get_or_insert(payload);
                self.rest.panicked.store(true, Ordering::Relaxed);
            }
            count += 1;
            left = rest;
        }
        count
    }
}

/// A place where threads sleep until something that they wait for has happened.
struct Sleepers {
    /// Whether a thread may be asleep here. Written under the lock.
    may_sleep: AtomicBool,
    lock: Mutex<()>,
    alarm: Condvar,
}

impl Sleepers {
    fn new() -> Self {
        let (may_sleep, lock, alarm) = (AtomicBool::new(false), Mutex::new(()), Condvar::new());
        Self { may_sleep, lock, alarm }
    }

    /// Sleeps until `due` holds. Whoever makes it hold calls [`Sleepers::wake`] afterwards.
    fn sleep_unless(&self, due: impl Fn() -> bool) {
        let mut lock = locked(&self.lock);
        loop {
            self.may_sleep.store(true, Ordering::Relaxed);
            // The fence here and the one in `wake` are ordered: either `due` sees what was done
            // before the other, or `wake` sees that a thread may be asleep.
            fence(Ordering::SeqCst);
            if due() {
                return;
            }
            lock = match self.alarm.wait(lock) {
                Ok(lock) => lock,
                Err(poisoned) => poisoned.into_inner(),
            };
        }
    }

    /// Wakes whoever is asleep: something has changed.
    fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.may_sleep.load(Ordering::Relaxed) {
            // Whoever holds the lock has looked before, and is asleep once it is free.
            let lock = locked(&self.lock);
            self.may_sleep.store(false, Ordering::Relaxed);
            drop(lock);
            self.alarm.notify_all();
        }
    }
}
