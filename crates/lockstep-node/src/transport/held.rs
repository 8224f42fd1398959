//! Counts the bytes that are held for each peer, and for all of them together.

use std::collections::BTreeMap;

use super::NodeId;

/// The number of bytes that are held for each peer, and for all.
#[derive(Debug, Default)]
pub(super) struct Held {
    all: usize,
    peers: BTreeMap<NodeId, usize>,
}

impl Held {
    /// Returns the number of bytes held for all peers.
    pub(super) const fn all(&self) -> usize {
        self.all
    }

    /// Returns whether no peer is remembered.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// Returns the number of bytes held for one peer, over all its links.
    pub(super) fn of(&self, peer: &NodeId) -> usize {
        self.peers.get(peer).copied().unwrap_or(0)
    }

    /// Counts `bytes` more bytes for a peer.
    pub(super) fn take(&mut self, peer: NodeId, bytes: usize) {
        self.all += bytes;
        *self.peers.entry(peer).or_default() += bytes;
    }

    /// Counts bytes no more; a peer for which none are left is forgotten.
    pub(super) fn give(&mut self, peer: NodeId, bytes: usize) {
        self.all = self.all.saturating_sub(bytes);
        if let Some(held) = self.peers.get_mut(&peer) {
            *held = held.saturating_sub(bytes);
            if *held == 0 {
                self.peers.remove(&peer);
            }
        }
    }
}
