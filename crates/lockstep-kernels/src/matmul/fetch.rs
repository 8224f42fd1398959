//! Software prefetch of weights for products with one input row, chosen by measuring.
//!
//! A product with one row reads each weight once, so its speed is that of memory, and which
//! prefetch instruction keeps most lines under way differs between processors: the non-temporal
//! hint is the best or equal on some, and on others it is bounded by the few line buffers of the
//! first-level cache and halves the speed (docs/performance.md, "Fetching ahead"). A table of
//! processors would be wrong for the next one. So [`Chooser`] times the products that a server runs
//! anyway, each hint in turn, and then stays with the fastest. A prefetch cannot change a result.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use lockstep_exact::matrix::{Codec, Shape};

/// Products that pass before the first is timed: the first pass over mapped weights also waits for
/// the pages.
const UNTIMED_PRODUCTS: usize = 64;
/// The number of timed products for each hint. Layers have four kinds of matrices, so each hint
/// gets each kind.
const TIMED_PRODUCTS: usize = 16;
/// The least bytes of a matrix that is timed: smaller ones may still lie in a cache.
const TIMED_BYTES: usize = 1 << 20;
/// Spans of 64 columns from which on a matrix is wide. Below, blocks are so short that the
/// processor's own prefetchers do better than any hint.
pub(super) const WIDE_SPANS: usize = 25;
/// A hint other than the first replaces it where it takes less than this share of its time.
const BETTER: f64 = 0.97;

/// A prefetch instruction: which levels of the cache the weights are fetched to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hint {
    /// Into all caches (`prefetcht0`), 2 KiB ahead.
    Near,
    /// Into the second-level cache (`prefetcht1`) 4 KiB ahead, and into the first 512 bytes ahead.
    Staged,
    /// Past the outer caches (`prefetchnta`): what else is in them stays.
    NonTemporal,
}

impl Hint {
    /// All hints, in the order in which they are tried; the default stands at the beginning.
    pub(crate) const ALL: [Self; 3] = [Self::Near, Self::Staged, Self::NonTemporal];

    fn from_index(index: u8) -> Option<Self> {
        Self::ALL.get(usize::from(index)).copied()
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Near => "t0",
            Self::Staged => "t1+t0",
            Self::NonTemporal => "nta",
        })
    }
}

/// Chooses a hint for each codec while products run.
#[derive(Debug, Default)]
pub(crate) struct Chooser {
    w8: Trials,
    w4: Trials,
}

impl Chooser {
    /// Starts a product with one row and a matrix of `shape`.
    pub(crate) fn start(&self, shape: Shape) -> Trial<'_> {
        let trials = self.of(shape.codec);
        let index = trials.chosen.load(Ordering::Relaxed);
        if let Some(hint) = index.checked_sub(1).and_then(Hint::from_index) {
            return Trial { trials, hint, timed: None };
        }
        let is_timed = shape.spans() >= WIDE_SPANS && shape.packed_bytes() >= TIMED_BYTES;
        let turn = if is_timed { trials.next_turn() } else { None };
        match turn {
            Some(hint) => {
                Trial { trials, hint, timed: Some((Instant::now(), shape.packed_bytes())) }
            }
            None => Trial { trials, hint: Hint::Near, timed: None },
        }
    }

    /// Returns the hint that has been chosen for a codec, once it has been.
    pub(crate) fn chosen(&self, codec: Codec) -> Option<Hint> {
        let index = self.of(codec).chosen.load(Ordering::Relaxed);
        index.checked_sub(1).and_then(Hint::from_index)
    }

    const fn of(&self, codec: Codec) -> &Trials {
        match codec {
            Codec::W8 => &self.w8,
            Codec::W4 => &self.w4,
        }
    }
}

/// The timings of one codec so far.
#[derive(Debug, Default)]
struct Trials {
    /// The index of the chosen hint plus 1, or 0 as long as there is none.
    chosen: AtomicU8,
    times: Mutex<Times>,
}

#[derive(Debug, Default)]
struct Times {
    /// The number of products that have been started.
    started: usize,
    /// For each hint the times in nanoseconds per byte.
    each: [Vec<f64>; Hint::ALL.len()],
}

impl Trials {
    /// Returns the hint whose turn it is to be timed; `None` for the first products, and while
    /// another thread holds the times.
    fn next_turn(&self) -> Option<Hint> {
        // Nothing is worth waiting for here: another thread's trial is as good.
        // default: another product measures: this one takes no time
        let mut times = self.times.try_lock().ok()?;
        let started = times.started;
        times.started += 1;
        let turn = started.checked_sub(UNTIMED_PRODUCTS)?;
        Some(Hint::ALL[turn % Hint::ALL.len()])
    }

    fn record(&self, hint: Hint, nanoseconds_per_byte: f64) {
        let Ok(mut times) = self.times.try_lock() else { return };
        // default: every hint is among all hints; this chooses speed, never bits
        let index = Hint::ALL.iter().position(|one| *one == hint).unwrap_or(0);
        times.each[index].push(nanoseconds_per_byte);
        if times.each.iter().all(|each| each.len() >= TIMED_PRODUCTS) {
            let best = fastest(&times.each.clone().map(median));
            let index = u8::try_from(best).map_or(1, |best| best + 1);
            self.chosen.store(index, Ordering::Relaxed);
        }
    }
}

/// Returns the index of the hint to stay with, given the median time of each: the first, unless
/// another takes less than [`BETTER`] of its time.
fn fastest(medians: &[f64; Hint::ALL.len()]) -> usize {
    let mut best = 0;
    for (index, time) in medians.iter().enumerate() {
        let bar = if best == 0 { medians[0] * BETTER } else { medians[best] };
        if *time < bar {
            best = index;
        }
    }
    best
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    // default: what was never timed is never the fastest
    times.get(times.len() / 2).copied().unwrap_or(f64::INFINITY)
}

/// One product under way; dropping it ends its time.
#[must_use]
pub(crate) struct Trial<'a> {
    trials: &'a Trials,
    hint: Hint,
    timed: Option<(Instant, usize)>,
}

impl Trial<'_> {
    /// Returns the hint that the product is to use.
    pub(crate) const fn hint(&self) -> Hint {
        self.hint
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        if let Some((start, bytes)) = self.timed {
            self.trials.record(self.hint, start.elapsed().as_nanos() as f64 / bytes as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wide(codec: Codec) -> Shape {
        codec.shape(1024, 4096)
    }

    /// Runs products until a hint is chosen, where each hint takes the time that `time` gives.
    fn choose(chooser: &Chooser, codec: Codec, time: impl Fn(Hint, usize) -> f64) -> Hint {
        let trials = chooser.of(codec);
        for product in 0..UNTIMED_PRODUCTS + Hint::ALL.len() * TIMED_PRODUCTS {
            assert_eq!(chooser.chosen(codec), None);
            if let Some(hint) = trials.next_turn() {
                trials.record(hint, time(hint, product));
            }
        }
        chooser.chosen(codec).expect("all hints have been timed")
    }

    #[test]
    fn the_fastest_hint_is_chosen_for_each_codec_by_itself() {
        let chooser = Chooser::default();
        let nta = |hint, _| if hint == Hint::NonTemporal { 0.05 } else { 0.1 };
        assert_eq!(choose(&chooser, Codec::W8, nta), Hint::NonTemporal);
        assert_eq!(chooser.chosen(Codec::W4), None);
        let staged = |hint, _| if hint == Hint::Staged { 0.05 } else { 0.1 };
        assert_eq!(choose(&chooser, Codec::W4, staged), Hint::Staged);
        assert_eq!(chooser.start(wide(Codec::W8)).hint(), Hint::NonTemporal);
        assert_eq!(chooser.start(wide(Codec::W4)).hint(), Hint::Staged);
    }

    #[test]
    fn a_few_products_that_the_system_held_up_decide_nothing() {
        let slow = |hint, product: usize| {
            let held_up = product % 16 < 6;
            let own = if hint == Hint::Staged { 0.08 } else { 0.1 };
            if held_up && hint == Hint::Staged { own * 50.0 } else { own }
        };
        assert_eq!(choose(&Chooser::default(), Codec::W8, slow), Hint::Staged);
    }

    #[test]
    fn the_default_stays_where_others_are_hardly_better() {
        let near = |hint, _| if hint == Hint::Near { 0.1 } else { 0.098 };
        assert_eq!(choose(&Chooser::default(), Codec::W8, near), Hint::Near);
    }

    #[test]
    fn small_and_narrow_matrices_are_not_timed() {
        let chooser = Chooser::default();
        for shape in [Codec::W8.shape(16, 4096), Codec::W8.shape(1 << 14, 576)] {
            for _ in 0..2 * (UNTIMED_PRODUCTS + Hint::ALL.len() * TIMED_PRODUCTS) {
                assert!(chooser.start(shape).timed.is_none());
            }
        }
        assert_eq!(chooser.chosen(Codec::W8), None);
    }

    #[test]
    fn products_that_run_are_timed_by_themselves() {
        let chooser = Chooser::default();
        for _ in 0..UNTIMED_PRODUCTS + Hint::ALL.len() * TIMED_PRODUCTS {
            drop(chooser.start(wide(Codec::W8)));
        }
        assert!(chooser.chosen(Codec::W8).is_some());
    }
}
