//! The network between servers and clients: how late each frame is, and whether its link breaks.
//!
//! A link is as QUIC gives it: frames between two ends arrive in order or not at all, and a link
//! that loses one is lost as a whole. Frames on different links overtake each other.

use std::collections::{BTreeMap, BTreeSet};

use lockstep_exact::digest::Digest;
use lockstep_proto::frame::{Frame as _, RingFrame, ToClient};
use lockstep_proto::now::Now;
use lockstep_testing::liar::frames::{Forger, To};
use lockstep_testing::lie::Script;
use lockstep_testing::numbers::Numbers;
use lockstep_testing::ring::{Meddle, Packet, Point, Ring};

use super::node::Node;
use crate::report::Marks;

/// Bytes that wait for one slow link; past them the sender gives the link up.
pub(crate) const BACKLOG_BYTES: u64 = 4 << 10;
/// The silence after which a transport gives a link up.
pub(crate) const IDLE_TIMEOUT_US: u64 = 10_000_000;

/// A link that is worse than others.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Link {
    /// The microseconds by which each frame arrives later.
    pub(crate) latency_us: u64,
    /// And up to how much more.
    pub(crate) jitter_us: u64,
    /// The bytes that it carries in a second; 0 is without limit.
    pub(crate) bytes_per_s: u64,
}

/// A part of the network that nothing leaves or reaches for a while.
#[derive(Clone, Debug)]
pub(crate) struct Partition {
    /// The servers and clients on one side.
    pub(crate) side: BTreeSet<Point>,
    /// The time at which the partition ends.
    pub(crate) until: Now,
    /// The time at which links across it are given up; `None` if it ends before that.
    pub(crate) gives_up_at: Option<Now>,
}

/// The network, which decides about every frame.
pub(crate) struct Network {
    numbers: Numbers,
    pub(crate) links: BTreeMap<(Point, Point), Link>,
    /// When each slow link has carried what was sent.
    free_at: BTreeMap<(Point, Point), Now>,
    pub(crate) partition: Option<Partition>,
    /// One frame in so many breaks its link; 0: none.
    pub(crate) loss_one_in: u64,
    /// One frame in so many is late by up to [`Network::spike_us`]; 0: none.
    pub(crate) spike_one_in: u64,
    /// The most microseconds by which such a frame is late.
    pub(crate) spike_us: u64,
    /// Servers that forge frames.
    pub(crate) forgers: BTreeMap<usize, Script>,
    forging: BTreeMap<(usize, Digest), Forger>,
    /// The servers of each session, in the order of its route.
    pub(crate) routes: BTreeMap<Digest, Vec<usize>>,
    /// Both ends of every link that broke or was slow.
    pub(crate) harmed: BTreeSet<Point>,
    /// The paths that were taken.
    pub(crate) marks: Marks,
    /// The most bytes that waited for one link.
    pub(crate) most_backlog: u64,
}

impl Network {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            numbers: Numbers::new(seed),
            links: BTreeMap::new(),
            free_at: BTreeMap::new(),
            partition: None,
            loss_one_in: 0,
            spike_one_in: 0,
            spike_us: 0,
            forgers: BTreeMap::new(),
            forging: BTreeMap::new(),
            routes: BTreeMap::new(),
            harmed: BTreeSet::new(),
            marks: Marks::default(),
            most_backlog: 0,
        }
    }

    /// Decides what becomes of a frame.
    pub(crate) fn meddle(&mut self, packet: &Packet) -> Meddle {
        if let Some(bodies) = self.forge(packet) {
            self.marks.reach("frame_forged");
            return Meddle::Replace(bodies);
        }
        let ends = (packet.from, packet.to);
        if self.loss_one_in > 0 && self.numbers.below(self.loss_one_in) == 0 {
            self.marks.reach("link_lost");
            self.harmed.extend([packet.from, packet.to]);
            return Meddle::Break;
        }
        let partition = self.partition.as_ref();
        if let Some(partition) = partition.filter(|it| packet.sent < it.until)
            && partition.side.contains(&packet.from) != partition.side.contains(&packet.to)
        {
            // What is sent later goes over a new link, which is there when the partition ends.
            if partition.gives_up_at.is_some_and(|at| packet.sent < at) {
                self.marks.reach("frame_dropped_in_partition");
                return Meddle::Replace(Vec::new());
            }
            self.marks.reach("frame_held_in_partition");
            return Meddle::Delay(partition.until.since(packet.sent));
        }
        let link = self.links.get(&ends).copied().unwrap_or_default();
        let mut delay = link.latency_us;
        delay += self.numbers.below(link.jitter_us + 1);
        if self.spike_one_in > 0 && self.numbers.below(self.spike_one_in) == 0 {
            self.marks.reach("frame_overtaken");
            delay += self.numbers.below(self.spike_us + 1);
        }
        if link.bytes_per_s > 0 {
            let free = self.free_at.get(&ends).copied().unwrap_or_default().max(packet.sent);
            let backlog = free.since(packet.sent) * link.bytes_per_s / 1_000_000;
            self.most_backlog = self.most_backlog.max(backlog);
            if backlog > BACKLOG_BYTES {
                self.marks.reach("slow_reader_given_up");
                self.free_at.remove(&ends);
                return Meddle::Break;
            }
            let free = free.after(packet.body.len() as u64 * 1_000_000 / link.bytes_per_s);
            self.free_at.insert(ends, free);
            delay += free.since(packet.sent);
        }
        if delay == 0 { Meddle::Pass } else { Meddle::Delay(delay) }
    }

    /// What a lying server sends in place of a frame, or takes in place of one.
    fn forge(&mut self, packet: &Packet) -> Option<Vec<Vec<u8>>> {
        let (from, to) = (packet.from, packet.to);
        let (liar, kind) = match (from, to) {
            (Point::Server(from), Point::Client(_)) => (from, Some(To::Client)),
            (Point::Server(from), Point::Server(to)) => match self.forgers.get(&from) {
                Some(_) => (from, Some(To::Stage)),
                None => (to, None),
            },
            (Point::Client(_), _) => return None,
        };
        let script = *self.forgers.get(&liar)?;
        let session = session_of(packet)?;
        let route = self.routes.get(&session)?;
        let place = route.iter().position(|server| *server == liar)?;
        let key = Ring::<Node>::server_key(liar);
        let forger = self.forging.entry((liar, session));
        let forger = forger.or_insert_with(|| Forger::new(script, place, key));
        match kind {
            Some(kind) => forger.sent(place, kind, &packet.body),
            None if place == 0 => forger.got(&packet.body),
            None => None,
        }
    }
}

/// The session that a frame of a server is about.
fn session_of(packet: &Packet) -> Option<Digest> {
    match packet.to {
        Point::Client(_) => match ToClient::from_body(&packet.body).ok()? {
            ToClient::Finished { head, .. } => Some(head.session),
            ToClient::Overflow { session, .. }
            | ToClient::Runs { session, .. }
            | ToClient::Step { session, .. }
            | ToClient::Token { session, .. } => Some(session),
            _ => None,
        },
        Point::Server(_) => match RingFrame::from_body(&packet.body).ok()? {
            RingFrame::Lease { lease, .. } => Some(lease.session),
            RingFrame::Marks { session, .. } | RingFrame::Close { session, .. } => Some(session),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(sent: u64) -> Packet {
        let (from, to) = (Point::Server(0), Point::Server(1));
        Packet { from, to, body: vec![0; 10], sent: Now(sent) }
    }

    /// A link that lost a frame and carried the next would be no link of QUIC's.
    #[test]
    fn only_what_is_sent_before_a_link_is_given_up_is_lost_with_it() {
        let mut network = Network::new(1);
        let meddle = |network: &mut Network, sent| network.meddle(&packet(sent));
        let side: BTreeSet<Point> = [Point::Server(0)].into();
        let gives_up_at = Some(Now(100));
        let partition = Partition { side, until: Now(150), gives_up_at };
        network.partition = Some(partition.clone());
        assert_eq!(meddle(&mut network, 99), Meddle::Replace(Vec::new()));
        assert_eq!(meddle(&mut network, 100), Meddle::Delay(50));
        assert_eq!(meddle(&mut network, 150), Meddle::Pass);
        network.partition = Some(Partition { gives_up_at: None, ..partition });
        assert_eq!(meddle(&mut network, 99), Meddle::Delay(51));
    }
}
