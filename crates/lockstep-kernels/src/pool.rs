//! Compute threads for regions of microseconds: spin first, then yield, then park.
//!
//! One *region* at a time is shared by the caller and the workers: parts are claimed by number
//! from a counter, so a part may run anywhere, and what it computes must not depend on where. A
//! worker joins a region only while it is open; the caller never waits for a worker that the
//! system has not let run yet, only for those that are inside. That keeps an oversubscribed
//! machine moving.
//!
//! With one thread nothing is spawned and nothing is locked.

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::float_mode;
use crate::{FloatModeError, StartError};

/// In [`Shared::gate`]: a region is open to join.
const OPEN: u64 = 1 << 31;
/// In [`Shared::gate`]: the lowest bit of the region's number. Below [`OPEN`]: workers inside.
const REGION: u64 = 1 << REGION_SHIFT;
const REGION_SHIFT: u32 = 32;
/// Polls before a waiting thread starts to yield its core: some microseconds.
const SPINS: u32 = 2_000;
/// How long a worker stays awake outside a scope, and inside one.
const AWAKE: Duration = Duration::from_micros(50);
const AWAKE_IN_SCOPE: Duration = Duration::from_millis(5);

/// Threads that share regions of work. Dropping it ends the workers.
#[derive(Debug)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held by the thread whose region it is.
    turn: Mutex<()>,
}

#[derive(Debug)]
struct Shared {
    /// Number of the region, whether it is open, how many workers are inside.
    gate: AtomicU64,
    /// Written by the holder of the turn while the gate is closed and nobody is inside.
    job: UnsafeCell<Job>,
    /// The next part to claim.
    next: AtomicUsize,
    /// Scopes that are entered: workers stay awake longer.
    scopes: AtomicUsize,
    /// Workers that are parked or about to be.
    asleep: AtomicUsize,
    bed: Mutex<()>,
    alarm: Condvar,
    panicked: AtomicBool,
    stop: AtomicBool,
}

#[derive(Clone, Copy, Debug)]
struct Job {
    /// Runs a part; `body` is what it was made with.
    call: unsafe fn(body: *const (), part: usize),
    body: *const (),
    parts: usize,
}

// SAFETY: `job` is only written while no worker is inside a region and only read inside one; what
// `body` points to is `Sync` and outlives the region (`Pool::run`).
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer in `job` is not used outside a region.
unsafe impl Send for Shared {}

impl Pool {
    /// A pool of `threads` threads, the caller included.
    pub(crate) fn new(threads: usize) -> Result<Self, StartError> {
        float_mode::check()?;
        let shared = Arc::new(Shared::new());
        let (report, reports) = std::sync::mpsc::channel::<Result<(), FloatModeError>>();
        let mut pool = Self { shared, workers: Vec::new(), turn: Mutex::new(()) };
        for index in 1..threads {
            let (shared, report) = (Arc::clone(&pool.shared), report.clone());
            let name = format!("lockstep-compute-{index}");
            let worker = thread::Builder::new().name(name).spawn(move || {
                let mode = float_mode::check();
                let usable = mode.is_ok();
                if report.send(mode).is_ok() && usable {
                    shared.work();
                }
            });
            pool.workers.push(worker.map_err(StartError::Spawn)?);
        }
        for mode in reports.iter().take(pool.workers.len()) {
            mode?;
        }
        Ok(pool)
    }

    /// Threads, the caller included.
    pub(crate) const fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `body` with the workers awake.
    pub(crate) fn scope<R>(&self, body: impl FnOnce() -> R) -> R {
        if self.workers.is_empty() {
            return body();
        }
        let _scope = Scope::enter(&self.shared);
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

    /// Calls `body` once with each number below `parts`, on any thread, in any order. A panic in
    /// one of them is passed on.
    pub(crate) fn run<F: Fn(usize) + Sync>(&self, parts: usize, body: F) {
        let turn = if self.workers.is_empty() || parts < 2 { None } else { self.take_turn() };
        if turn.is_none() {
            return (0..parts).for_each(body);
        }
        unsafe fn call<F: Fn(usize)>(body: *const (), part: usize) {
            // SAFETY: `body` was made from `&F` in `run`, which is still on.
            unsafe { (*body.cast::<F>())(part) }
        }
        let job = Job { call: call::<F>, body: (&raw const body).cast(), parts };
        let region = Region::open(&self.shared, job);
        self.shared.claim(job);
        drop(region);
        if self.shared.panicked.swap(false, Ordering::Relaxed) {
            resume_unwind(Box::new("a compute thread panicked"));
        }
    }
}

impl Pool {
    /// `None` while another thread's region is on: this one then computes alone, with equal
    /// results.
    fn take_turn(&self) -> Option<MutexGuard<'_, ()>> {
        match self.turn.try_lock() {
            Ok(turn) => Some(turn),
            // A region that panicked was closed like any other.
            Err(TryLockError::Poisoned(turn)) => Some(turn.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.wake();
        for worker in self.workers.drain(..) {
            // A worker catches panics of its parts, so there is nothing to learn here.
            let _ = worker.join();
        }
    }
}

/// An item that one thread takes.
struct Slot<T>(UnsafeCell<Option<T>>);

// SAFETY: each slot is touched by one thread only, which takes the item (`Pool::each`).
unsafe impl<T: Send> Sync for Slot<T> {}

/// An entered scope.
struct Scope<'a>(&'a Shared);

impl<'a> Scope<'a> {
    fn enter(shared: &'a Shared) -> Self {
        shared.scopes.fetch_add(1, Ordering::SeqCst);
        shared.wake();
        Self(shared)
    }
}

impl Drop for Scope<'_> {
    fn drop(&mut self) {
        self.0.scopes.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An open region. Dropping it closes it and waits for the workers inside, also when unwinding:
/// what they use is borrowed from the caller.
struct Region<'a>(&'a Shared);

impl<'a> Region<'a> {
    /// The caller holds the turn.
    fn open(shared: &'a Shared, job: Job) -> Self {
        // SAFETY: the last region's holder waited until nobody was inside, and the gate is closed.
        unsafe { *shared.job.get() = job };
        shared.next.store(0, Ordering::Relaxed);
        let number = shared.gate.load(Ordering::Relaxed) / REGION + 1;
        shared.gate.store(number << REGION_SHIFT | OPEN, Ordering::SeqCst);
        shared.wake();
        Self(shared)
    }
}

impl Drop for Region<'_> {
    fn drop(&mut self) {
        self.0.gate.fetch_and(!OPEN, Ordering::AcqRel);
        let mut spins = 0;
        while self.0.gate.load(Ordering::Acquire) & (OPEN - 1) != 0 {
            wait(&mut spins);
        }
    }
}

/// One poll of a waiting thread: spin for a while, then let others have the core.
fn wait(spins: &mut u32) {
    if *spins < SPINS {
        *spins += 1;
        std::hint::spin_loop();
    } else {
        thread::yield_now();
    }
}

impl Shared {
    const fn new() -> Self {
        const unsafe fn nothing(_: *const (), _: usize) {}
        Self {
            gate: AtomicU64::new(0),
            job: UnsafeCell::new(Job { call: nothing, body: std::ptr::null(), parts: 0 }),
            next: AtomicUsize::new(0),
            scopes: AtomicUsize::new(0),
            asleep: AtomicUsize::new(0),
            bed: Mutex::new(()),
            alarm: Condvar::new(),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        }
    }

    /// A worker's life.
    fn work(&self) {
        let mut last = 0;
        while let Some(region) = self.next_region(last) {
            last = region;
            // SAFETY: this worker is inside the region, so the job stays as it is.
            let job = unsafe { *self.job.get() };
            if catch_unwind(AssertUnwindSafe(|| self.claim(job))).is_err() {
                self.panicked.store(true, Ordering::Relaxed);
            }
            self.gate.fetch_sub(1, Ordering::Release);
        }
    }

    /// Claims and runs parts until there are none left.
    fn claim(&self, job: Job) {
        loop {
            let part = self.next.fetch_add(1, Ordering::Relaxed);
            if part >= job.parts {
                return;
            }
            // SAFETY: the region is on: its caller waits for everyone inside.
            unsafe { (job.call)(job.body, part) };
        }
    }

    /// Waits for a region other than `last` and joins it. `None` when the pool ends.
    fn next_region(&self, last: u64) -> Option<u64> {
        let mut spins = 0;
        let mut awake_since = None;
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return None;
            }
            let gate = self.gate.load(Ordering::Acquire);
            if is_new(gate, last) {
                let (ok, fail) = (Ordering::AcqRel, Ordering::Relaxed);
                if self.gate.compare_exchange(gate, gate + 1, ok, fail).is_ok() {
                    return Some(gate / REGION);
                }
                continue;
            }
            wait(&mut spins);
            if spins == SPINS {
                let since = *awake_since.get_or_insert_with(Instant::now);
                let in_scope = self.scopes.load(Ordering::Relaxed) > 0;
                if since.elapsed() > if in_scope { AWAKE_IN_SCOPE } else { AWAKE } {
                    self.park(last);
                    (spins, awake_since) = (0, None);
                }
            }
        }
    }

    /// Sleeps until the next alarm, unless there is something to do already.
    fn park(&self, last: u64) {
        self.asleep.fetch_add(1, Ordering::SeqCst);
        {
            // `asleep` is raised before the gate is read and `wake` reads it after the gate was
            // written (all SeqCst): one of the two sees the other.
            let bed = self.bed.lock().unwrap_or_else(PoisonError::into_inner);
            let due =
                is_new(self.gate.load(Ordering::SeqCst), last) || self.stop.load(Ordering::SeqCst);
            if !due {
                drop(self.alarm.wait(bed).unwrap_or_else(PoisonError::into_inner));
            }
        }
        self.asleep.fetch_sub(1, Ordering::SeqCst);
    }

    /// Wakes whoever is asleep.
    fn wake(&self) {
        if self.asleep.load(Ordering::SeqCst) > 0 {
            drop(self.bed.lock().unwrap_or_else(PoisonError::into_inner));
            self.alarm.notify_all();
        }
    }
}

/// Whether a region is open that has another number than `last`.
const fn is_new(gate: u64, last: u64) -> bool {
    gate & OPEN != 0 && gate / REGION != last
}

#[cfg(test)]
mod tests {
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
    fn parked_workers_do_not_keep_a_region_from_ending() {
        let pool = Pool::new(3).unwrap();
        for _ in 0..20 {
            // Long enough for the workers to go to sleep.
            let start = Instant::now();
            while pool.shared.asleep.load(Ordering::SeqCst) < 2 {
                assert!(start.elapsed() < Duration::from_secs(30), "workers park when idle");
                thread::yield_now();
            }
            let total = AtomicUsize::new(0);
            pool.run(64, |part| {
                total.fetch_add(part, Ordering::Relaxed);
            });
            assert_eq!(total.into_inner(), 64 * 63 / 2);
        }
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
