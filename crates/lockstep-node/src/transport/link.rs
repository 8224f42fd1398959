//! A link and its two halves, the same over QUIC and in memory.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, mpsc, oneshot};
use tokio::time::timeout;

use super::unread::Outbox;
use super::way::Way;
use super::wire::{Queued, Source, Wire};
use super::{Address, Class, End, HangUp, LinkError, LinkFailure, NodeId, door, frame};
use crate::limits;

/// One connection to one peer for one class of traffic.
///
/// The connection ends when both halves are dropped, or when either side hangs up. Keep reading
/// the receiver even if no frame is expected: that is how the end of the link is heard.
#[derive(Debug)]
pub struct Link {
    /// The peer, who has proved this name.
    pub peer: NodeId,
    /// The class of the link, which says what its frames are for.
    pub class: Class,
    /// The address of the peer, if the peer opened the link: it has shown that it receives what is
    /// sent there. `None` on the dialler's end, and without sockets.
    pub from: Option<SocketAddr>,
    /// The address at which the peer has answered, if this node opened the link; `None` on the
    /// acceptor's end, and without sockets.
    pub at: Option<Address>,
    /// The half that sends frames to the peer.
    pub sender: Sender,
    /// The half that receives frames from the peer.
    pub receiver: Receiver,
}

/// The sending half of a link. Clones share one queue; frames leave in the order in which they were
/// queued.
#[derive(Clone, Debug)]
pub struct Sender {
    peer: NodeId,
    class: Class,
    end: End,
    queue: mpsc::UnboundedSender<Queued>,
    /// One permit per byte that may still be queued; closed when the link ends.
    room: Arc<Semaphore>,
    /// Counts what waits for the peer, here and on its other links.
    outbox: Outbox,
    finished: Arc<AtomicBool>,
    wire: Wire,
}

impl Sender {
    pub(super) fn new(
        peer: NodeId,
        (class, end): (Class, End),
        (queue, room): (mpsc::UnboundedSender<Queued>, Arc<Semaphore>),
        outbox: Outbox,
        wire: Wire,
    ) -> Self {
        Self { peer, class, end, queue, room, outbox, finished: Arc::default(), wire }
    }

    /// Queues a frame if there is room now. Never waits.
    ///
    /// # Errors
    /// [`LinkFailure::QueueFull`], [`LinkFailure::Unread`] and [`LinkFailure::Oversize`] leave the
    /// link as it was; anything else says that the link has ended.
    pub fn post(&self, frame: impl Into<Bytes>) -> Result<(), LinkError> {
        let frame = frame.into();
        let cost = self.cost(&frame)?;
        match Arc::clone(&self.room).try_acquire_many_owned(cost) {
            Ok(room) => self.load(frame, cost, room),
            Err(TryAcquireError::NoPermits) => Err(self.error(QUEUE_FULL)),
            Err(TryAcquireError::Closed) => Err(self.ended()),
        }
    }

    /// Queues a frame, waiting for room for at most `patience`.
    ///
    /// # Errors
    /// As [`Sender::post`]; [`LinkFailure::QueueFull`] after `patience`.
    pub async fn send(&self, frame: impl Into<Bytes>, patience: Duration) -> Result<(), LinkError> {
        let frame = frame.into();
        let cost = self.cost(&frame)?;
        match timeout(patience, Arc::clone(&self.room).acquire_many_owned(cost)).await {
            Ok(Ok(room)) => self.load(frame, cost, room),
            Ok(Err(_closed)) => Err(self.ended()),
            Err(_elapsed) => Err(self.error(QUEUE_FULL)),
        }
    }

    /// Waits until everything that was queued on this link has left the queue, for at most
    /// `patience`.
    ///
    /// # Errors
    /// [`LinkFailure::Stalled`] after `patience`; anything else says that the link has ended.
    pub async fn drained(&self, patience: Duration) -> Result<(), LinkError> {
        // All the room there is: nothing waits any more.
        let all = limits::SEND_QUEUE_BYTES as u32;
        match timeout(patience, self.room.acquire_many(all)).await {
            Ok(Ok(_all)) => Ok(()),
            Ok(Err(_closed)) => Err(self.ended()),
            Err(_elapsed) => Err(self.error(LinkFailure::Stalled { after: patience })),
        }
    }

    /// Ends this direction: waits until the peer has everything that was queued.
    ///
    /// # Errors
    /// Why not everything could be delivered, at the latest after [`limits::FLUSH_DEADLINE`].
    pub async fn finish(self) -> Result<(), LinkError> {
        let (done, outcome) = oneshot::channel();
        self.enqueue(Queued::Finish(done))?;
        self.finished.store(true, Ordering::Relaxed);
        self.room.close();
        let stalled = LinkFailure::Stalled { after: limits::FLUSH_DEADLINE };
        match timeout(limits::FLUSH_DEADLINE, outcome).await {
            Ok(Ok(outcome)) => outcome.map_err(|why| self.error(why)),
            Ok(Err(_gone)) => Err(self.error(self.wire.failure())),
            Err(_elapsed) => Err(self.error(stalled)),
        }
    }

    /// Ends the link at once, both directions, and tells the peer why. What is queued is lost.
    pub fn hang_up(&self, why: HangUp) {
        self.wire.hang_up(why);
    }

    /// Returns the peer at the other end.
    pub fn peer(&self) -> NodeId {
        self.peer
    }

    /// Returns the way that packets to the peer take now; `None` without sockets, or if none is
    /// open.
    #[must_use]
    pub fn way(&self) -> Option<Way> {
        self.wire.way()
    }

    fn cost(&self, frame: &Bytes) -> Result<u32, LinkError> {
        let cap = self.class.frame_cap(self.end);
        frame::length_field(frame.len(), cap).map_err(|why| self.error(why))?;
        let cost = frame.len() + limits::SEND_QUEUE_FRAME_COST_BYTES;
        u32::try_from(cost).map_err(|_| self.error(QUEUE_FULL))
    }

    fn load(&self, frame: Bytes, cost: u32, room: OwnedSemaphorePermit) -> Result<(), LinkError> {
        let frame = self.outbox.load(frame, cost as usize).map_err(|why| self.error(why))?;
        self.enqueue(Queued::Frame(frame, room))
    }

    fn enqueue(&self, queued: Queued) -> Result<(), LinkError> {
        self.queue.send(queued).map_err(|_| self.ended())
    }

    fn ended(&self) -> LinkError {
        match self.finished.load(Ordering::Relaxed) {
            true => self.error(LinkFailure::ClosedHere),
            false => self.error(self.wire.failure()),
        }
    }

    fn error(&self, why: LinkFailure) -> LinkError {
        LinkError { peer: self.peer, class: self.class, why }
    }
}

const QUEUE_FULL: LinkFailure = LinkFailure::QueueFull { cap: limits::SEND_QUEUE_BYTES };

/// The receiving half of a link, which yields whole frames.
#[derive(Debug)]
pub struct Receiver {
    pub(super) peer: NodeId,
    pub(super) class: Class,
    pub(super) source: Source,
    /// An accepted link's place among those that came in.
    pub(super) _place: Option<door::Place>,
}

impl Receiver {
    /// Returns the next frame; `None` once the peer has ended its direction in good order.
    ///
    /// Waits as long as the peer is alive: silence between frames is no fault. Dropping the
    /// future loses nothing.
    ///
    /// # Errors
    /// Why the link ended; every later call says the same.
    pub async fn recv(&mut self) -> Result<Option<Bytes>, LinkError> {
        let (peer, class) = (self.peer, self.class);
        let frame = match &mut self.source {
            Source::Quic(reader) => reader.recv().await,
            Source::Memory(reader) => reader.recv().await,
        };
        frame.map_err(|why| LinkError { peer, class, why })
    }

    /// Returns the peer at the other end.
    pub fn peer(&self) -> NodeId {
        self.peer
    }
}
