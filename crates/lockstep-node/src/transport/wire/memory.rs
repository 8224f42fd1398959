//! The layer below a link in memory: two ends that know why they ended, and the peer's send queue.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, watch};

use super::Queued;
use crate::limits;
use crate::transport::{HangUp, LinkFailure};

/// One end of a link: why it ended, and the room in its send queue.
#[derive(Debug)]
pub(crate) struct Side {
    pub(crate) failure: watch::Sender<Option<LinkFailure>>,
    pub(crate) room: Arc<Semaphore>,
}

impl Side {
    fn new() -> Arc<Self> {
        let room = Arc::new(Semaphore::new(limits::SEND_QUEUE_BYTES));
        Arc::new(Self { failure: watch::Sender::new(None), room })
    }

    /// Ends this side of the link; the first reason stands.
    pub(crate) fn end(&self, why: LinkFailure) {
        self.failure.send_if_modified(|failure| {
            let first = failure.is_none();
            failure.get_or_insert(why);
            first
        });
        self.room.close();
    }
}

/// A link as one of its two ends sees it.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    pub(crate) mine: Arc<Side>,
    pub(crate) theirs: Arc<Side>,
}

impl Wire {
    /// Returns the two views of a new link.
    pub(crate) fn pair() -> [Self; 2] {
        let (one, other) = (Side::new(), Side::new());
        let mirrored = Self { mine: Arc::clone(&other), theirs: Arc::clone(&one) };
        [Self { mine: one, theirs: other }, mirrored]
    }

    pub(crate) fn hang_up(&self, why: HangUp) {
        self.hang_up_for(LinkFailure::ClosedHere, why);
    }

    pub(crate) fn hang_up_for(&self, reason: LinkFailure, told: HangUp) {
        self.mine.end(reason);
        self.theirs.end(LinkFailure::HungUp(told));
    }

    pub(crate) fn failure(&self) -> LinkFailure {
        let failure = self.mine.failure.borrow().clone();
        failure.unwrap_or(LinkFailure::HungUp(HangUp::Done))
    }
}

/// Takes frames out of the peer's send queue.
pub(crate) struct Reader {
    pub(crate) queued: mpsc::UnboundedReceiver<Queued>,
    pub(crate) ended: bool,
    pub(crate) wire: Wire,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl Drop for Reader {
    /// Wakes those who wait for room in the peer's queue, because nobody will read from it any
    /// more.
    fn drop(&mut self) {
        self.wire.theirs.room.close();
    }
}

impl Reader {
    pub(crate) async fn recv(&mut self) -> Result<Option<Bytes>, LinkFailure> {
        if self.ended {
            return Ok(None);
        }
        let mut failure = self.wire.mine.failure.subscribe();
        let queued = tokio::select! {
            biased;
            _ = failure.wait_for(Option::is_some) => return Err(self.wire.failure()),
            queued = self.queued.recv() => queued,
        };
        match queued {
            Some(Queued::Frame(frame, _room)) => return Ok(Some(frame)),
            Some(Queued::Finish(done)) => {
                // Nobody has to wait for the answer.
                let _ = done.send(Ok(()));
            }
            None => {}
        }
        self.ended = true;
        Ok(None)
    }
}
