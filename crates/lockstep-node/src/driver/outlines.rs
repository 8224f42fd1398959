//! The outlines of files that are shared. Each takes reading and hashing a whole file, so it is
//! computed once: whoever asks meanwhile waits for that, and for no other file. How long anybody
//! waits is the protocol machine's to bound: it closes a link that gets nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use lockstep_exact::digest::Digest;
use lockstep_exact::pieces::Outline;
use lockstep_proto::now::Now;
use tokio::sync::{OnceCell, Semaphore};
use tokio::task::spawn_blocking;

use crate::limits;

/// An outline, once it is computed; none of a file that is not here, or not what it was.
type Cell = Arc<OnceCell<Option<Arc<Outline>>>>;

/// The outlines that have been computed, or are being.
#[derive(Debug)]
pub(super) struct Outlines {
    /// With the time of the question for which each is computed.
    known: Mutex<BTreeMap<Digest, (Now, Cell)>>,
    places: Semaphore,
}

impl Outlines {
    pub(super) fn new() -> Self {
        Self { known: Mutex::default(), places: Semaphore::new(limits::OUTLINES_AT_ONCE) }
    }

    /// Returns the outline of a file, from those that are known, or as `compute` gives it on a
    /// thread of its own. That there is none is believed for some time.
    pub(super) async fn get(
        &self,
        now: Now,
        blob: Digest,
        compute: impl FnOnce() -> Option<Outline> + Send + 'static,
    ) -> Option<Arc<Outline>> {
        let cell = self.cell(now, blob);
        let computed = cell.get_or_init(|| async {
            // The semaphore is never closed.
            let _place = self.places.acquire().await;
            spawn_blocking(compute).await.ok().flatten().map(Arc::new)
        });
        computed.await.clone()
    }

    fn cell(&self, now: Now, blob: Digest) -> Cell {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, cell) = known.entry(blob).or_insert_with(|| (now, Cell::default()));
        let has_none = cell.get().is_some_and(Option::is_none);
        if has_none && now.since(*since) >= limits::OUTLINE_AGAIN_US {
            (*since, *cell) = (now, Cell::default());
        }
        Arc::clone(cell)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;

    use tokio::sync::oneshot;
    use tokio::time::timeout;

    use super::*;

    const NOW: Now = Now(1_000_000);
    /// No test waits longer than this for anything.
    const WATCHDOG: Duration = Duration::from_secs(60);

    fn digest(number: u8) -> Digest {
        Digest([number; 32])
    }

    #[tokio::test]
    async fn each_file_is_hashed_once_and_keeps_nobody_waiting_for_another_one() {
        let outlines = Arc::new(Outlines::new());
        let other = outlines.get(NOW, digest(2), || Some(Outline::of(b"two"))).await;
        let (release, gate) = mpsc::channel::<()>();
        let (begun, has_begun) = oneshot::channel();
        let count = Arc::new(AtomicU32::new(0));
        let counting = |count: &Arc<AtomicU32>| {
            let count = Arc::clone(count);
            move || count.fetch_add(1, Ordering::Relaxed)
        };
        let (add, of_first) = (counting(&count), Arc::clone(&outlines));
        let first = tokio::spawn(async move {
            let compute = move || {
                add();
                begun.send(()).ok();
                gate.recv().ok();
                Some(Outline::of(b"one"))
            };
            of_first.get(NOW, digest(1), compute).await
        });
        has_begun.await.expect("it is being hashed");
        let (add, of_second) = (counting(&count), Arc::clone(&outlines));
        let second = tokio::spawn(async move {
            let compute = move || {
                add();
                Some(Outline::of(b"one"))
            };
            of_second.get(NOW, digest(1), compute).await
        });
        // Meanwhile others are answered, known or not.
        let known = outlines.get(NOW, digest(2), || unreachable!("it is known"));
        assert_eq!(timeout(WATCHDOG, known).await.expect("at once"), other);
        let new = outlines.get(NOW, digest(3), || Some(Outline::of(b"three")));
        assert!(timeout(WATCHDOG, new).await.expect("beside it").is_some());
        assert!(!second.is_finished());
        release.send(()).expect("it waits");
        let expected = Some(Arc::new(Outline::of(b"one")));
        for task in [first, second] {
            let outline = timeout(WATCHDOG, task).await.expect("in time").expect("no panic");
            assert_eq!(outline, expected);
        }
        assert_eq!(count.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_damaged_file_is_not_hashed_again_for_each_who_asks() {
        let outlines = Outlines::new();
        assert_eq!(outlines.get(NOW, digest(1), || None).await, None);
        let soon = NOW.after(limits::OUTLINE_AGAIN_US - 1);
        assert_eq!(outlines.get(soon, digest(1), || Some(Outline::of(b"one"))).await, None);
        // It may have been repaired.
        let later = NOW.after(limits::OUTLINE_AGAIN_US);
        assert!(outlines.get(later, digest(1), || Some(Outline::of(b"one"))).await.is_some());
    }
}
