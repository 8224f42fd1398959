//! Links without sockets, for tests: the same types, the same limits, the same refusals.
//!
//! Works on a current-thread runtime with paused time, so a whole ring runs deterministically.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, watch};

use super::link::{self, Queued, Source};
use super::unread::Unread;
use super::{
    AllowList, Class, ConnectFailure, End, Endpoint, HangUp, Inner, Link, LinkFailure, NodeId,
    Receiver, Sender, SharedAllowList, permits,
};
use crate::limits;

/// A network in memory. Clones are the same network.
#[derive(Clone, Debug, Default)]
pub struct Network {
    nodes: Arc<Mutex<BTreeMap<NodeId, Node>>>,
}

#[derive(Debug)]
struct Node {
    allow: SharedAllowList,
    accepted: mpsc::Sender<Link>,
    /// What waits for its peers.
    unread: Unread,
    /// This node's end of each of its links.
    wires: Vec<Wire>,
}

impl Network {
    /// An empty network.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a node on the network; a node of the same name is replaced.
    pub fn endpoint(&self, id: NodeId, allow: AllowList) -> Endpoint {
        let allow = Arc::new(RwLock::new(allow));
        let (accepted, inbox) = mpsc::channel(limits::ACCEPT_QUEUE_LINKS);
        let unread = Unread::default();
        let node = Node { allow: Arc::clone(&allow), accepted, unread, wires: Vec::new() };
        self.lock().insert(id, node);
        let port = Port { id, network: self.clone() };
        let (inbox, inner) = (tokio::sync::Mutex::new(inbox), Inner::Memory(port));
        Endpoint { id, allow, inbox, inner }
    }

    /// Takes a node off the network as a crash would: its peers see silence.
    pub fn kill(&self, id: NodeId) {
        self.remove(id, &LinkFailure::Silent { after: limits::PEER_SILENCE });
    }

    fn remove(&self, id: NodeId, seen_by_peers: &LinkFailure) {
        let node = self.lock().remove(&id);
        for wire in node.iter().flat_map(|node| &node.wires) {
            wire.mine.end(LinkFailure::ClosedHere);
            wire.theirs.end(seen_by_peers.clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A node's place on the network.
#[derive(Debug)]
pub(super) struct Port {
    id: NodeId,
    network: Network,
}

impl Port {
    pub(super) fn dial(&self, peer: NodeId, class: Class) -> Result<Link, ConnectFailure> {
        let mut nodes = self.network.lock();
        let caller = nodes.get(&self.id).ok_or(ConnectFailure::Closed)?;
        let unread_here = caller.unread.clone();
        let nobody = ConnectFailure::NoAnswer { after: limits::CONNECT_DEADLINE };
        let callee = nodes.get_mut(&peer).ok_or(nobody)?;
        if !permits(&callee.allow, &self.id) {
            return Err(ConnectFailure::NotAllowed);
        }
        let place = callee.accepted.try_reserve().map_err(|error| match error {
            mpsc::error::TrySendError::Full(()) => ConnectFailure::Busy,
            mpsc::error::TrySendError::Closed(()) => ConnectFailure::Closed,
        })?;
        let [here, there] = Wire::pair();
        let (to_there, from_here) = mpsc::unbounded_channel();
        let (to_here, from_there) = mpsc::unbounded_channel();
        callee.wires.push(there.clone());
        let unread = &callee.unread;
        place.send(half((self.id, class, End::Acceptor), (to_here, from_here), there, unread));
        if let Some(caller) = nodes.get_mut(&self.id) {
            caller.wires.push(here.clone());
        }
        Ok(half((peer, class, End::Dialler), (to_there, from_there), here, &unread_here))
    }

    pub(super) fn close(&self) {
        self.network.remove(self.id, &LinkFailure::HungUp(HangUp::Done));
    }
}

/// One end of a link: why it ended, and the room in its send queue.
#[derive(Debug)]
struct Side {
    failure: watch::Sender<Option<LinkFailure>>,
    room: Arc<Semaphore>,
}

impl Side {
    fn new() -> Arc<Self> {
        let room = Arc::new(Semaphore::new(limits::SEND_QUEUE_BYTES));
        Arc::new(Self { failure: watch::Sender::new(None), room })
    }

    /// Ends this side of the link; the first reason stands.
    fn end(&self, why: LinkFailure) {
        self.failure.send_if_modified(|failure| {
            let first = failure.is_none();
            failure.get_or_insert(why);
            first
        });
        self.room.close();
    }
}

fn half(
    (peer, class, end): (NodeId, Class, End),
    (queue, queued): (mpsc::UnboundedSender<Queued>, mpsc::UnboundedReceiver<Queued>),
    wire: Wire,
    unread: &Unread,
) -> Link {
    let room = Arc::clone(&wire.mine.room);
    let reader = Reader { queued, ended: false, wire: wire.clone() };
    let given_up = wire.clone();
    let outbox =
        unread.link(peer, move || given_up.hang_up_for(LinkFailure::Crowded, HangUp::Busy));
    let wire = link::Wire::Memory(wire);
    let sender = Sender::new(peer, (class, end), (queue, room), outbox, wire);
    let receiver = Receiver { peer, class, source: Source::Memory(reader), _place: None };
    Link { peer, class, from: None, sender, receiver }
}

/// A link as one of its two ends sees it.
#[derive(Clone, Debug)]
pub(super) struct Wire {
    mine: Arc<Side>,
    theirs: Arc<Side>,
}

impl Wire {
    /// The two views of a new link.
    fn pair() -> [Self; 2] {
        let (one, other) = (Side::new(), Side::new());
        let mirrored = Self { mine: Arc::clone(&other), theirs: Arc::clone(&one) };
        [Self { mine: one, theirs: other }, mirrored]
    }

    pub(super) fn hang_up(&self, why: HangUp) {
        self.hang_up_for(LinkFailure::ClosedHere, why);
    }

    fn hang_up_for(&self, reason: LinkFailure, told: HangUp) {
        self.mine.end(reason);
        self.theirs.end(LinkFailure::HungUp(told));
    }

    pub(super) fn failure(&self) -> LinkFailure {
        let failure = self.mine.failure.borrow().clone();
        failure.unwrap_or(LinkFailure::HungUp(HangUp::Done))
    }
}

/// Takes frames out of the peer's send queue.
pub(super) struct Reader {
    queued: mpsc::UnboundedReceiver<Queued>,
    ended: bool,
    wire: Wire,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl Drop for Reader {
    /// Nobody will read any more: whoever waits for room in the peer's queue must hear of it.
    fn drop(&mut self) {
        self.wire.theirs.room.close();
    }
}

impl Reader {
    pub(super) async fn recv(&mut self) -> Result<Option<Bytes>, LinkFailure> {
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
