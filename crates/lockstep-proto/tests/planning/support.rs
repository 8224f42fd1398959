//! Swarms from a seed, and what they cost by the definitions.

use std::collections::BTreeMap;

use lockstep_proto::announcement::{Neighbour, Speed, Status};
use lockstep_proto::limits;
use lockstep_proto::swarm::demand::Demand;
pub(crate) use lockstep_testing::gossip::MODEL;
use lockstep_testing::gossip::status;
use lockstep_testing::numbers::Numbers;
use lockstep_verify::request::Hop;
use lockstep_verify::sign::NodeId;

pub(crate) fn node(number: u32) -> NodeId {
    let mut id = [0; 32];
    id[..4].copy_from_slice(&number.to_be_bytes());
    NodeId(id)
}

/// A server of `first..end` with all room and nothing to do, which has measured nothing.
pub(crate) fn peer(number: u32, first: u32, end: u32) -> Status {
    status(node(number), first..end)
}

/// The speed of a server that takes `ns` for a layer and one session.
pub(crate) fn speed(ns: u32) -> Speed {
    Speed {
        decode_ns: [ns, ns * 2, ns * 4],
        head_ns: [ns * 3, ns * 6, ns * 12],
        prefill_ns: ns / 4,
    }
}

pub(crate) fn demand(layers: u32) -> Demand {
    Demand {
        manifest: MODEL,
        layers,
        state_bytes: 4_224,
        positions: 1,
        adapters: Default::default(),
        allowed: None,
        proven: None,
        banned: Default::default(),
        first_on: None,
        last_on: None,
        tags: Default::default(),
    }
}

pub(crate) fn between(numbers: &mut Numbers, least: u64, most: u64) -> u32 {
    (least + numbers.below(most - least + 1)) as u32
}

/// A swarm over `layers` layers, of servers that are as different as can be.
pub(crate) fn swarm(numbers: &mut Numbers, count: u32, layers: u32) -> Vec<Status> {
    let mut peers: Vec<Status> = (0..count)
        .map(|number| {
            let first =
                if numbers.below(3) == 0 { 0 } else { between(numbers, 0, u64::from(layers) - 1) };
            let end = between(numbers, u64::from(first) + 1, u64::from(layers));
            let mut peer = peer(number, first, end);
            peer.head = numbers.below(4) > 0;
            if numbers.below(5) > 0 {
                peer.speed = speed(between(numbers, 100_000, 30_000_000));
            }
            if numbers.below(3) == 0 {
                peer.queue = between(numbers, 0, 20);
                peer.sessions = between(numbers, 0, 7);
            }
            peer
        })
        .collect();
    for at in 0..peers.len() {
        let links = peers.iter().map(|peer| peer.node).filter(|_| numbers.below(2) == 0);
        let mut links: Vec<NodeId> = links.take(limits::NEIGHBOURS).collect();
        links.retain(|node| *node != peers[at].node);
        let neighbours = links.into_iter().map(|node| Neighbour {
            node,
            rtt_us: between(numbers, 0, 200_000),
            bytes_per_s: numbers.below(3) * 10_000_000,
        });
        peers[at].neighbours = neighbours.collect();
    }
    peers
}

pub(crate) fn shuffled(numbers: &mut Numbers, peers: &[Status]) -> Vec<Status> {
    let mut peers = peers.to_vec();
    for at in (1..peers.len()).rev() {
        peers.swap(at, numbers.below(at as u64 + 1) as usize);
    }
    peers
}

/// What a ring costs, by the definitions of `swarm::cost`, for one session.
pub(crate) struct Costs {
    peers: BTreeMap<NodeId, Status>,
    state_bytes: u64,
}

impl Costs {
    pub(crate) fn of(peers: &[Status], demand: &Demand) -> Self {
        let peers = peers.iter().map(|peer| (peer.node, peer.clone())).collect();
        Self { peers, state_bytes: demand.state_bytes }
    }

    fn times(peer: &Status) -> ([u64; 3], u64) {
        if peer.speed == Speed::UNKNOWN {
            let layer = u64::from(limits::UNKNOWN_DECODE_NS);
            return ([layer; 3], layer * u64::from(limits::UNKNOWN_HEAD_LAYERS));
        }
        (peer.speed.decode_ns.map(u64::from), u64::from(peer.speed.head_ns[0]))
    }

    /// The time of a batch, for times that are twice as long at 4 and four times at 16 or all the
    /// same: straight lines between.
    fn batch(times: [u64; 3], batch: u64) -> u64 {
        match batch {
            1 => times[0],
            2..=4 => times[0] + ((times[1] - times[0]) * (batch - 1)).div_ceil(3),
            5..=16 => times[1] + ((times[2] - times[1]) * (batch - 4)).div_ceil(12),
            _ => unreachable!("swarms here have few sessions"),
        }
    }

    pub(crate) fn wait(&self, node: NodeId) -> u64 {
        let peer = &self.peers[&node];
        let (times, _) = Self::times(peer);
        let queued = (u64::from(peer.queue) * times[2]).div_ceil(16);
        let sessions = u64::from(peer.sessions);
        let half = if sessions == 0 { 0 } else { Self::batch(times, sessions).div_ceil(2) };
        u64::from(peer.end - peer.first) * queued.max(half)
    }

    pub(crate) fn hop(&self, from: NodeId, to: NodeId) -> u64 {
        let said = |by: NodeId, of: NodeId| {
            self.peers[&by].neighbours.iter().find(|link| link.node == of).copied()
        };
        let (there, back) = (said(from, to), said(to, from));
        let rtt = there.iter().chain(&back).map(|link| u64::from(link.rtt_us)).max();
        let rtt = rtt.unwrap_or_else(|| u64::from(limits::UNKNOWN_RTT_US));
        let rate = there.map(|link| link.bytes_per_s).filter(|rate| *rate > 0);
        let rate = rate.unwrap_or(limits::UNKNOWN_BYTES_PER_S);
        rtt * 500 + self.state_bytes * 1_000_000_000 / rate
    }

    pub(crate) fn ring(&self, hops: &[Hop]) -> u64 {
        let mut ns = Self::times(&self.peers[&hops[0].node]).1;
        for (at, hop) in hops.iter().enumerate() {
            let (times, _) = Self::times(&self.peers[&hop.node]);
            ns += u64::from(hop.end - hop.first) * times[0] + self.wait(hop.node);
            let next = hops[(at + 1) % hops.len()].node;
            if next != hop.node {
                ns += self.hop(hop.node, next);
            }
        }
        ns
    }

    /// The cheapest of all rings, found by trying every one.
    pub(crate) fn cheapest(&self, layers: u32) -> Option<u64> {
        let mut best = None;
        self.extend(&mut Vec::new(), layers, &mut best);
        best
    }

    fn extend(&self, ring: &mut Vec<Hop>, layers: u32, best: &mut Option<u64>) {
        let next = ring.last().map_or(0, |hop| hop.end);
        if next == layers {
            let ns = self.ring(ring);
            *best = Some(best.map_or(ns, |best: u64| best.min(ns)));
            return;
        }
        for peer in self.peers.values() {
            let holds = peer.first <= next && next < peer.end && (next > 0 || peer.head);
            if !holds || ring.iter().any(|hop| hop.node == peer.node) {
                continue;
            }
            for end in next + 1..=peer.end {
                ring.push(Hop { node: peer.node, first: next, end });
                self.extend(ring, layers, best);
                ring.pop();
            }
        }
    }
}

/// Checks that a ring holds every layer once at servers that hold them, each once, from a head on.
pub(crate) fn check_ring(hops: &[Hop], peers: &[Status], layers: u32) {
    let mut next = 0;
    for (at, hop) in hops.iter().enumerate() {
        let peer = peers.iter().find(|peer| peer.node == hop.node).expect("a peer");
        assert_eq!(hop.first, next, "{hops:?}");
        assert!(peer.first <= hop.first && hop.first < hop.end && hop.end <= peer.end, "{hops:?}");
        assert!(at > 0 || peer.head, "{hops:?}");
        assert!(hops[..at].iter().all(|other| other.node != hop.node), "twice in {hops:?}");
        next = hop.end;
    }
    assert_eq!(next, layers, "{hops:?}");
    assert!(hops.len() <= limits::STAGES);
}
