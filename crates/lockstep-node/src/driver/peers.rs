//! The links of a server to the stages beside it: one to each, dialled when it is needed for the
//! first time.

use std::collections::BTreeMap;

use bytes::Bytes;
use lockstep_verify::sign::NodeId;

use crate::limits;
use crate::transport::{Class, HangUp, LinkError, LinkFailure, Sender};

/// The side that opened a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Here,
    There,
}

/// A link that frames are written to.
#[derive(Debug)]
struct Open {
    link: u64,
    sender: Sender,
    opened_by: Side,
    /// Whether the stage has written on this link.
    is_answered: bool,
    /// A link that the stage opened while this one was there.
    spare: Option<(u64, Sender)>,
}

/// The state of the link to one stage.
#[derive(Debug)]
enum Peer {
    /// The stage is being dialled, by the dial of this number; these frames wait for the link.
    Dialling(u64, Vec<Bytes>),
    Open(Box<Open>),
}

/// Returns the bytes that a waiting frame counts for.
const fn cost(frame: &Bytes) -> usize {
    frame.len() + limits::SEND_QUEUE_FRAME_COST_BYTES
}

impl Peer {
    fn waiting_bytes(&self) -> usize {
        match self {
            Self::Dialling(_, waiting) => waiting.iter().map(cost).sum(),
            Self::Open(_) => 0,
        }
    }

    fn sender(self) -> Option<Sender> {
        match self {
            Self::Dialling(..) => None,
            Self::Open(open) => Some(open.sender),
        }
    }
}

/// The result of sending a frame.
#[derive(Debug)]
pub(super) enum Sent {
    /// The frame is queued, for a link that is open or is being dialled.
    Queued,
    /// The frame waits for a link that the caller has to dial now, by the dial of this number.
    Dial(u64),
    /// The link to the stage has failed and is forgotten.
    Lost(LinkError),
}

/// The links to all stages. Every link has a number of its own.
///
/// Both ends may dial at once; then each goes on writing to the link that it dialled. A stage that
/// lost the link between the two dials anew and writes there, so a link dialled from here is left
/// for the stage's once both have been written on by the stage: on the first it writes no more.
///
/// What waits for stages that are being dialled is at most [`limits::DIALLING_BYTES`].
#[derive(Debug, Default)]
pub(super) struct Peers {
    peers: BTreeMap<NodeId, Peer>,
    /// The number of the dial that was asked for last.
    dials: u64,
    /// The bytes of the frames that wait for stages which are being dialled.
    dialling: usize,
}

impl Peers {
    /// Sends a frame, or keeps it until the stage has been dialled.
    pub(super) fn send(&mut self, node: NodeId, frame: Bytes) -> Sent {
        let fits = self.dialling + cost(&frame) <= limits::DIALLING_BYTES;
        match self.peers.get_mut(&node) {
            Some(Peer::Dialling(..)) | None if !fits => {
                self.take(node);
                let why = LinkFailure::Unread { cap: limits::DIALLING_BYTES };
                return Sent::Lost(LinkError { peer: node, class: Class::Ring, why });
            }
            Some(Peer::Dialling(_, waiting)) => {
                self.dialling += cost(&frame);
                waiting.push(frame);
            }
            Some(Peer::Open(open)) => {
                if let Err(error) = open.sender.post(frame) {
                    open.sender.hang_up(HangUp::Unread);
                    self.take(node);
                    return Sent::Lost(error);
                }
            }
            None => {
                self.dialling += cost(&frame);
                self.dials += 1;
                self.peers.insert(node, Peer::Dialling(self.dials, vec![frame]));
                return Sent::Dial(self.dials);
            }
        }
        Sent::Queued
    }

    /// Takes up a link that was dialled, and sends what waited for it. An earlier dial, which was
    /// given up, is as good as the one that is under way.
    pub(super) fn dialled(&mut self, node: NodeId, link: u64, sender: &Sender) {
        if matches!(self.peers.get(&node), Some(Peer::Dialling(..))) {
            self.open(node, link, sender, Side::Here);
        }
    }

    /// Notes that a dial has failed. Returns whether the stage is lost: it may have dialled
    /// meanwhile, or a later dial may be under way, of which this one says nothing.
    pub(super) fn unreachable(&mut self, node: NodeId, dial: u64) -> bool {
        let under_way = self.peers.get(&node);
        let is_its = matches!(under_way, Some(Peer::Dialling(number, _)) if *number == dial);
        is_its && self.take(node).is_some()
    }

    /// Takes up a link that the stage has dialled.
    pub(super) fn accepted(&mut self, node: NodeId, link: u64, sender: &Sender) {
        match self.peers.get_mut(&node) {
            Some(Peer::Open(open)) if open.opened_by == Side::Here => {
                open.spare = Some((link, sender.clone()));
            }
            // A stage dials again when it has lost the link that it dialled before.
            _ => self.open(node, link, sender, Side::There),
        }
    }

    /// Notes that the stage has written on a link, and moves to the stage's own link if both ends
    /// dialled.
    pub(super) fn heard(&mut self, node: NodeId, link: u64) {
        let Some(Peer::Open(open)) = self.peers.get_mut(&node) else { return };
        if open.link == link {
            open.is_answered = true;
        } else if open.is_answered
            && let Some((link, sender)) = open.spare.take_if(|(spare, _)| *spare == link)
        {
            let (opened_by, is_answered) = (Side::There, true);
            **open = Open { link, sender, opened_by, is_answered, spare: None };
        }
    }

    /// Forgets a link that has ended. Returns whether the stage is lost: it may have a newer link.
    pub(super) fn lost(&mut self, node: NodeId, link: u64) -> bool {
        let Some(Peer::Open(open)) = self.peers.get_mut(&node) else { return false };
        if open.link == link {
            return self.take(node).is_some();
        }
        open.spare.take_if(|(spare, _)| *spare == link);
        false
    }

    /// Forgets a stage; its link is to be closed.
    pub(super) fn close(&mut self, node: NodeId) -> Option<Sender> {
        self.take(node)?.sender()
    }

    /// Returns the senders of all open links.
    pub(super) fn into_senders(self) -> impl Iterator<Item = Sender> {
        self.peers.into_values().filter_map(Peer::sender)
    }

    /// Takes a stage out, with what waits for it.
    fn take(&mut self, node: NodeId) -> Option<Peer> {
        let peer = self.peers.remove(&node)?;
        self.dialling = self.dialling.saturating_sub(peer.waiting_bytes());
        Some(peer)
    }

    /// Begins to write to a link; the frames that waited are sent before all others.
    fn open(&mut self, node: NodeId, link: u64, sender: &Sender, opened_by: Side) {
        if let Some(Peer::Dialling(_, waiting)) = self.take(node) {
            // With one frame missing the link is of no use.
            if waiting.into_iter().any(|frame| sender.post(frame).is_err()) {
                sender.hang_up(HangUp::Unread);
            }
        }
        let sender = sender.clone();
        let open = Open { link, sender, opened_by, is_answered: false, spare: None };
        self.peers.insert(node, Peer::Open(Box::new(open)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::memory::Network;
    use crate::transport::{AllowList, Class, Endpoint, Link, PeerAddr};

    const STAGE: NodeId = NodeId([1; 32]);

    /// This server and a stage.
    fn pair() -> (Endpoint, Endpoint) {
        let network = Network::new();
        let end = |id| network.endpoint(id, AllowList::Anyone);
        (end(NodeId([0; 32])), end(STAGE))
    }

    /// A link from one end to another: both of its ends.
    async fn link(from: &Endpoint, to: &Endpoint) -> (Link, Link) {
        let address = PeerAddr { id: to.id(), addrs: Vec::new() };
        let dialled = from.connect(&address, Class::Ring).await.expect("on the network");
        (dialled, to.accept().await.expect("dialled"))
    }

    async fn arrives(link: &mut Link, text: &'static str) {
        let frame = link.receiver.recv().await.expect("open").expect("not finished");
        assert_eq!(frame, text.as_bytes());
    }

    #[tokio::test]
    async fn what_waits_for_stages_that_are_dialled_is_bounded_for_all_together() {
        let frame = Bytes::from(vec![0; 1 << 20]);
        let stage = |number: u8| NodeId([number; 32]);
        let mut peers = Peers::default();
        let (mut lost, mut dials) = (Vec::new(), BTreeMap::new());
        for round in 0..40 {
            for number in 2..6 {
                match peers.send(stage(number), frame.clone()) {
                    Sent::Lost(error) => lost.push((round, error.why)),
                    Sent::Dial(dial) => drop(dials.insert(number, dial)),
                    Sent::Queued => {}
                }
                assert!(peers.dialling <= limits::DIALLING_BYTES);
            }
        }
        let why = LinkFailure::Unread { cap: limits::DIALLING_BYTES };
        assert_eq!(lost.first(), Some(&(15, why)));
        for (number, dial) in dials {
            peers.unreachable(stage(number), dial);
        }
        assert_eq!(peers.dialling, 0);
        assert!(matches!(peers.send(stage(9), frame), Sent::Dial(_)), "there is room again");
    }

    #[tokio::test]
    async fn a_stage_that_takes_nothing_is_given_up_and_told_so() {
        let (here, there) = pair();
        let (mut peers, _mine, mut theirs) = dialled(&here, &there).await;
        let frame = Bytes::from(vec![0; 8 << 20]);
        let most = limits::SEND_QUEUE_BYTES / frame.len() + 1;
        let lost = (0..most).find_map(|_| match peers.send(STAGE, frame.clone()) {
            Sent::Lost(error) => Some(error.why),
            Sent::Dial(_) | Sent::Queued => None,
        });
        assert_eq!(lost, Some(LinkFailure::QueueFull { cap: limits::SEND_QUEUE_BYTES }));
        let told = LinkFailure::HungUp(HangUp::Unread);
        assert_eq!(theirs.receiver.recv().await.expect_err("over").why, told);
    }

    /// Sends a frame for which the stage has to be dialled.
    fn dial(peers: &mut Peers, text: &'static str) -> u64 {
        match peers.send(STAGE, Bytes::from_static(text.as_bytes())) {
            Sent::Dial(dial) => dial,
            sent => panic!("{sent:?}"),
        }
    }

    fn send(peers: &mut Peers, text: &'static str) {
        assert!(matches!(peers.send(STAGE, Bytes::from_static(text.as_bytes())), Sent::Queued));
    }

    /// A stage that was dialled from here, with its end of the link.
    async fn dialled(here: &Endpoint, there: &Endpoint) -> (Peers, Link, Link) {
        let mut peers = Peers::default();
        let first = peers.send(STAGE, Bytes::from_static(b"first"));
        assert!(matches!(first, Sent::Dial(_)));
        let (mine, mut theirs) = link(here, there).await;
        peers.dialled(STAGE, 1, &mine.sender);
        arrives(&mut theirs, "first").await;
        (peers, mine, theirs)
    }

    #[tokio::test]
    async fn a_stage_that_dials_anew_after_it_has_answered_is_written_to_there() {
        let (here, there) = pair();
        let (mut peers, _mine, old) = dialled(&here, &there).await;
        peers.heard(STAGE, 1);
        // Frozen and awake again, it has forgotten the link. Here nothing has been noticed yet.
        let (mut new, mine) = link(&there, &here).await;
        peers.accepted(STAGE, 2, &mine.sender);
        peers.heard(STAGE, 2);
        send(&mut peers, "next session");
        arrives(&mut new, "next session").await;
        drop(old);
        assert!(!peers.lost(STAGE, 1), "that link was left before");
        send(&mut peers, "and on");
        arrives(&mut new, "and on").await;
        assert!(peers.lost(STAGE, 2));
    }

    #[tokio::test]
    async fn when_both_dial_at_once_each_keeps_its_link() {
        let (here, there) = pair();
        let (mut peers, _mine, mut old) = dialled(&here, &there).await;
        let (_new, mine) = link(&there, &here).await;
        peers.accepted(STAGE, 2, &mine.sender);
        // The stage writes to its own and never answers on ours.
        peers.heard(STAGE, 2);
        send(&mut peers, "still here");
        arrives(&mut old, "still here").await;
        assert!(!peers.lost(STAGE, 2), "nothing was written there");
        assert!(peers.lost(STAGE, 1));
    }

    #[tokio::test]
    async fn a_second_link_on_which_nothing_was_written_changes_nothing() {
        let (here, there) = pair();
        let (mut peers, _mine, mut old) = dialled(&here, &there).await;
        let (_new, mine) = link(&there, &here).await;
        peers.accepted(STAGE, 2, &mine.sender);
        // The stage chose ours; frames must not overtake each other on another link.
        peers.heard(STAGE, 1);
        send(&mut peers, "in order");
        arrives(&mut old, "in order").await;
    }

    #[tokio::test]
    async fn a_stage_that_dialled_before_is_written_to_on_its_newest_link() {
        let (here, there) = pair();
        let mut peers = Peers::default();
        let (_old, first) = link(&there, &here).await;
        peers.accepted(STAGE, 1, &first.sender);
        let (mut new, second) = link(&there, &here).await;
        peers.accepted(STAGE, 2, &second.sender);
        send(&mut peers, "newest");
        arrives(&mut new, "newest").await;
        assert!(!peers.lost(STAGE, 1));
        assert!(peers.lost(STAGE, 2));
    }

    #[tokio::test]
    async fn a_stage_that_dialled_while_it_could_not_be_dialled_is_not_lost() {
        let (here, there) = pair();
        let mut peers = Peers::default();
        let first = dial(&mut peers, "waits");
        let (mut theirs, mine) = link(&there, &here).await;
        peers.accepted(STAGE, 1, &mine.sender);
        arrives(&mut theirs, "waits").await;
        assert!(!peers.unreachable(STAGE, first));
        assert!(peers.close(STAGE).is_some());
        let again = dial(&mut peers, "again");
        assert!(peers.unreachable(STAGE, again));
        assert!(!peers.unreachable(STAGE, again));
    }

    #[tokio::test]
    async fn a_dial_that_was_given_up_says_nothing_of_the_one_after_it() {
        let (here, there) = pair();
        let mut peers = Peers::default();
        let first = dial(&mut peers, "of a session that ended");
        assert!(peers.close(STAGE).is_none(), "its session has ended, and nobody else's uses it");
        let second = dial(&mut peers, "of the next session");
        assert!(!peers.unreachable(STAGE, first), "the next session's dial is under way");
        let (mine, mut theirs) = link(&here, &there).await;
        peers.dialled(STAGE, 1, &mine.sender);
        arrives(&mut theirs, "of the next session").await;
        assert!(!peers.unreachable(STAGE, second), "a link is there");
        assert_eq!(peers.dialling, 0);
    }
}
