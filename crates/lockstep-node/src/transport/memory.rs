//! Links without sockets, for tests: the same types, the same limits, the same refusals.
//!
//! Works on a current-thread runtime with paused time, so a whole ring runs deterministically.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tokio::sync::mpsc;

use super::unread::Unread;
use super::wire::memory::{Reader, Wire};
use super::wire::{self, Queued, Source};
use super::{
    AllowList, Class, ConnectFailure, End, Endpoint, HangUp, Inner, Link, LinkFailure, NodeId,
    Receiver, Sender, SharedAllowList, permits,
};
use crate::limits;

/// A network in memory, for tests. Clones are handles of the same network.
#[derive(Clone, Debug, Default)]
pub struct Network {
    nodes: Arc<Mutex<BTreeMap<NodeId, Node>>>,
}

#[derive(Debug)]
struct Node {
    allow: SharedAllowList,
    accepted: mpsc::Sender<Link>,
    /// The bytes that wait for this node's peers to take them.
    unread: Unread,
    /// This node's end of each of its links.
    wires: Vec<Wire>,
}

impl Network {
    /// Creates an empty network.
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

/// The connection of one node to the network.
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
    let wire = wire::Wire::Memory(wire);
    let sender = Sender::new(peer, (class, end), (queue, room), outbox, wire);
    let receiver = Receiver { peer, class, source: Source::Memory(reader), _place: None };
    Link { peer, class, from: None, at: None, sender, receiver }
}
