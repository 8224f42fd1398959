//! Gossip: the machine by which the nodes of a swarm come to know each other's announcements.
//!
//! Once in a round each node picks another at random and compares notes with it: it sends a summary
//! of what it knows (16 bytes a node), gets what the other has newer, and sends what it has newer.
//! So an announcement reaches everybody in a number of rounds that grows with the logarithm of the
//! number of nodes, each node is sent every byte of news about once, and whatever was lost on the
//! way is repaired by the next exchange: there is no message that must not be missed. Rounds and
//! leases become longer as the swarm grows, so that each node's share of the traffic stays the
//! same.
//!
//! ```text
//!   dialler                         acceptor
//!      │  Summary(all that I know)     │
//!      │ ────────────────────────────► │
//!      │  News(newer here, wanted)     │
//!      │ ◄──────────────────────────── │
//!      │  News(what was wanted)        │      only if something was
//!      │ ────────────────────────────► │
//!      └──────────── closed ───────────┘
//! ```
//!
//! A node that has no announcement of its own takes part as a reader: a client that looks for a
//! ring, or somebody who watches.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use lockstep_exact::bytes::Canonical as _;
use lockstep_verify::sign::NodeId;

use super::draws::Draws;
use super::members::{Dialled, Member, MemberFault, Members, Taken};
use super::peers::{AT_ONCE, Peers, Stock};
use crate::announcement::addresses::{self, Address};
use crate::announcement::{Announcement, AnnouncementFault, State};
use crate::counters::Traffic;
use crate::frame::{Frame as _, Known, ShortId, SwarmFrame};
use crate::limits;
use crate::now::Now;

/// The number of an exchange: those dialled here are numbered by the machine, those accepted by the
/// driver; no number is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ExchangeId {
    /// An exchange that this node has dialled.
    Dialled(u64),
    /// An exchange that the other node has dialled.
    Accepted(u64),
}

/// An input of the machine.
#[derive(Debug)]
pub enum Input {
    /// This node's own announcement is a new one.
    Announce(Arc<Announcement>),
    /// A frame's body came in an exchange.
    Frame {
        /// The exchange.
        exchange: ExchangeId,
        /// The node that the transport authenticated.
        peer: NodeId,
        /// The body of the frame.
        body: Vec<u8>,
    },
    /// A node was found otherwise than by a ticket; it is dialled as one that a ticket names. Where
    /// a ticket says that a node is goes before where it was found, and of more than
    /// [`limits::GOSSIP_SEEDS`] those that were found last count.
    Found(Seed),
    /// The link of an exchange ended, or the peer could not be dialled.
    Lost(ExchangeId),
    /// A node that was dialled is there: it has proved its name at this address, in the transport's
    /// text form.
    Reached {
        /// The exchange for which it was dialled.
        exchange: ExchangeId,
        /// The one address at which it has answered.
        address: String,
    },
    /// The time of the deadline has come.
    Tick,
}

/// An output of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Close the link of an exchange behind everything that was sent on it.
    Close {
        /// The exchange.
        exchange: ExchangeId,
        /// Whether the peer sent what no node sends.
        is_fault: bool,
    },
    /// Dial a node and send it a frame.
    Dial {
        /// The exchange that begins.
        exchange: ExchangeId,
        /// The node.
        node: NodeId,
        /// Where it may be, comma-separated. Only its own signature says so.
        address: String,
        /// Length and body of the first frame.
        wire: Vec<u8>,
    },
    /// Something has changed, or is refused.
    Event(Event),
    /// Send a frame in an exchange.
    Send {
        /// The exchange.
        exchange: ExchangeId,
        /// Length and body.
        wire: Vec<u8>,
    },
}

/// An event for logs, counters and whoever plans with the members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An exchange with a peer is complete: that node is there.
    Compared {
        /// The peer.
        peer: NodeId,
        /// Microseconds from the summary to the news: a round trip, and the peer's work.
        after_us: u64,
    },
    /// A node was not known before.
    Joined(NodeId),
    /// A node is gone: it said so, or its announcement has ended.
    Left(NodeId),
    /// A node has a newer announcement.
    Renewed(NodeId),
    /// A peer brought an announcement that is not taken.
    Refused {
        /// The peer that brought it.
        peer: NodeId,
        /// The node that it is about.
        node: NodeId,
        /// Why it is not taken.
        fault: MemberFault,
    },
    /// A peer has this node's announcement of this sequence: it was sent, and the peer closed.
    Told {
        /// The peer.
        peer: NodeId,
        /// The sequence of the announcement.
        sequence: u64,
    },
    /// Somebody else announces this node's own id: two processes have the same key.
    Twin,
}

/// The counters of a node's part in a swarm, from its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// The frames of all exchanges.
    pub traffic: Traffic,
    /// The number of exchanges that this node has dialled and that are complete.
    pub compared: u64,
    /// The number of exchanges that were lost, late, or broken off for a fault of the peer.
    pub failed: u64,
    /// The number of announcements that peers brought and that were not taken.
    pub refused: u64,
    /// The number of times that a node became known.
    pub joined: u64,
    /// The number of times that a node left or was gone.
    pub left: u64,
}

impl Counters {
    /// Counts an output that is given to the driver.
    fn goes(&mut self, output: &Output) {
        let count = match output {
            Output::Dial { wire, .. } | Output::Send { wire, .. } => {
                return self.traffic.sent(wire);
            }
            Output::Event(Event::Compared { .. }) => &mut self.compared,
            Output::Event(Event::Refused { .. }) => &mut self.refused,
            Output::Event(Event::Joined(_)) => &mut self.joined,
            Output::Event(Event::Left(_)) => &mut self.left,
            Output::Event(Event::Renewed(_) | Event::Told { .. } | Event::Twin)
            | Output::Close { .. } => return,
        };
        *count = count.saturating_add(1);
    }
}

/// A node that is dialled although no announcement of it is known: a ticket names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// The id of the node to be dialled.
    pub node: NodeId,
    /// Its addresses, comma-separated.
    pub address: String,
}

#[derive(Clone, Debug)]
struct Exchange {
    peer: NodeId,
    began: Now,
    deadline: Now,
    stage: Stage,
    /// The sequence of this node's own announcement, if that was sent.
    told: Option<u64>,
    /// The addresses at which the peer was dialled although it was never found there.
    strange: Vec<Address>,
    /// The address at which it has answered.
    reached: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The summary was sent; news must come.
    Asked,
    /// News were sent, and some were wanted.
    Told,
    /// Everything was sent; the other end closes.
    Closing,
}

/// The machine of gossip, driven as every [`Machine`](crate::machine::Machine).
#[derive(Debug)]
pub struct Gossip {
    node: NodeId,
    own: Option<Arc<Announcement>>,
    members: Members,
    seeds: Vec<Seed>,
    /// Nodes that were found otherwise, the one found last at the end.
    found: VecDeque<Seed>,
    exchanges: BTreeMap<ExchangeId, Exchange>,
    peers: Peers,
    /// The rounds that may begin before their time.
    at_once: Stock,
    /// The state of the pseudo-random choice of peers.
    draws: Draws,
    dialled: u64,
    now: Now,
    round: Now,
    counters: Counters,
    out: VecDeque<Output>,
}

impl Gossip {
    /// Creates the machine of a node that knows only the nodes of its tickets. The choice of peers
    /// follows from `random`, which should be drawn afresh.
    #[must_use]
    pub fn new(node: NodeId, seeds: Vec<Seed>, random: u64) -> Self {
        Self {
            node,
            own: None,
            members: Members::default(),
            seeds: seeds.into_iter().filter(|seed| seed.node != node).collect(),
            found: VecDeque::new(),
            exchanges: BTreeMap::new(),
            peers: Peers::default(),
            at_once: Stock::full(AT_ONCE),
            draws: Draws::new(random),
            dialled: 0,
            now: Now::default(),
            round: Now::default(),
            counters: Counters::default(),
            out: VecDeque::new(),
        }
    }

    /// Returns the members that are known; this node is not among them.
    #[must_use]
    pub const fn members(&self) -> &Members {
        &self.members
    }

    /// Never takes an announcement of a node again.
    pub fn ban(&mut self, node: NodeId) {
        self.members.ban(node);
    }

    /// Takes an input at the time `now`. An earlier time than that of the last call counts as that.
    pub fn handle(&mut self, now: Now, input: Input) {
        self.now = self.now.max(now);
        match input {
            Input::Announce(announcement) => self.on_own(announcement),
            Input::Frame { exchange, peer, body } => {
                self.counters.traffic.received(&body);
                self.on_frame(exchange, peer, &body);
            }
            Input::Found(seed) => self.on_found(seed),
            Input::Lost(exchange) => self.on_lost(exchange),
            Input::Reached { exchange, address } => {
                if let Some(exchange) = self.exchanges.get_mut(&exchange) {
                    exchange.reached = Some(address);
                }
            }
            Input::Tick => {}
        }
        self.on_time();
    }

    /// Returns the next output; `None` when the machine waits for an input.
    pub fn poll(&mut self) -> Option<Output> {
        let output = self.out.pop_front()?;
        self.counters.goes(&output);
        Some(output)
    }

    /// Returns what this machine has counted since its start.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// Returns the time at which [`Input::Tick`] must come, if nothing else does.
    #[must_use]
    pub fn deadline(&self) -> Option<Now> {
        let exchanges = self.exchanges.values().map(|exchange| exchange.deadline).min();
        let all = [Some(self.round), exchanges, self.members.deadline()];
        all.into_iter().flatten().min()
    }

    /// Returns the microseconds from one round to the next in a swarm as large as this one.
    #[must_use]
    pub fn round_us(&self) -> u64 {
        round_us(self.members.len())
    }

    /// Takes this node's newest announcement. That it leaves is told to several nodes at once:
    /// there is no next round in which to tell more.
    fn on_own(&mut self, announcement: Arc<Announcement>) {
        let leaves = announcement.status.state == State::Left;
        self.own = Some(announcement);
        for _ in 0..if leaves { limits::GOSSIP_FAREWELLS } else { 0 } {
            if let Some(picked) = self.pick(false) {
                self.dial(picked);
            }
        }
    }

    fn on_found(&mut self, seed: Seed) {
        let is_ticket = self.seeds.iter().any(|known| known.node == seed.node);
        if is_ticket || seed.node == self.node {
            return;
        }
        self.found.retain(|known| known.node != seed.node);
        if self.found.len() >= limits::GOSSIP_SEEDS {
            self.found.pop_front();
        }
        self.found.push_back(seed);
    }

    fn on_time(&mut self) {
        for node in self.members.expire(self.now) {
            self.out.push_back(Output::Event(Event::Left(node)));
        }
        let now = self.now;
        let late = self.exchanges.iter().filter(|(_, exchange)| exchange.deadline <= now);
        for exchange in late.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.out.push_back(Output::Close { exchange, is_fault: false });
            self.on_late(exchange);
        }
        if self.round <= now {
            let spread = self.draws.below(self.round_us() / 2);
            self.round = now.after((self.round_us() * 3 / 4).saturating_add(spread));
            // If all that are drawn are strangers for whom it is not time, one is dialled that was
            // found before.
            let picked = (0..limits::GOSSIP_PICKS).find_map(|_| self.pick(false));
            if let Some(picked) = picked.or_else(|| self.pick(true)) {
                self.dial(picked);
            }
        }
    }

    /// Begins an exchange with a node.
    fn dial(&mut self, Dialled { node, address, is_found }: Dialled) {
        let Ok(wire) = SwarmFrame::Summary(self.summary()).to_wire() else {
            return;
        };
        self.dialled = self.dialled.saturating_add(1);
        let exchange = ExchangeId::Dialled(self.dialled);
        self.begin(exchange, node, Stage::Asked);
        if let Some(begun) = self.exchanges.get_mut(&exchange).filter(|_| !is_found) {
            // default: what does not parse is not dialled
            begun.strange = addresses::read(&address).unwrap_or_default();
        }
        self.out.push_back(Output::Dial { exchange, node, address, wire });
    }

    fn begin(&mut self, id: ExchangeId, peer: NodeId, stage: Stage) {
        let (began, deadline) = (self.now, self.now.after(limits::EXCHANGE_US));
        let (told, strange, reached) = (None, Vec::new(), None);
        let exchange = Exchange { peer, began, deadline, stage, told, strange, reached };
        self.exchanges.insert(id, exchange);
    }

    /// Everything that this node knows, itself included, in short.
    fn summary(&self) -> Vec<Known> {
        let mut summary = self.members.summary();
        if let Some(own) = &self.own {
            let known = Known { node: self.node.into(), sequence: own.sequence };
            if let Err(at) = summary.binary_search_by_key(&known.node, |known| known.node) {
                summary.insert(at, known);
            }
        }
        summary
    }

    /// Picks the node with which to compare notes in this round: mostly a member at random,
    /// sometimes one that a ticket names or that is gone. The latter two join what a broken network
    /// has separated for longer than announcements are true. With `is_found` only a member is
    /// picked that was found before.
    fn pick(&mut self, is_found: bool) -> Option<Dialled> {
        let is_for_others = self.draws.below(limits::GOSSIP_FORMER_ONE_IN) == 0;
        let others = if is_found { Vec::new() } else { self.others() };
        let picked = if !others.is_empty() && (is_for_others || self.members.is_empty()) {
            let at = self.draws.index(others.len());
            others.into_iter().nth(at)
        } else if is_found {
            let found: Vec<Dialled> =
                self.members.iter().map(Member::dialled).filter(|one| one.is_found).collect();
            let at = self.draws.index(found.len());
            found.into_iter().nth(at)
        } else {
            let at = self.draws.index(self.members.len());
            self.members.iter().nth(at).map(Member::dialled)
        };
        picked.filter(|picked| self.may_dial(picked))
    }

    /// Returns the nodes of tickets, and former members, that are no members now. A ticket says
    /// where a node is on behalf of whoever gave it to this node's owner.
    fn others(&self) -> Vec<Dialled> {
        let of = |is_found: bool| {
            move |Seed { node, address }: Seed| Dialled { node, address, is_found }
        };
        let seeds = self.seeds.iter().cloned().map(of(true));
        let found = self.found.iter().cloned().map(of(false));
        let former = self.members.former().cloned();
        let is_unknown = |one: &Dialled| self.members.get(one.node).is_none();
        seeds.chain(found).chain(former).filter(is_unknown).collect()
    }

    /// Returns whether a node may be dialled now, and counts the addresses at which it was never
    /// found.
    fn may_dial(&mut self, picked: &Dialled) -> bool {
        let Dialled { node, address, is_found } = picked;
        let is_at_it = self.exchanges.values().any(|exchange| exchange.peer == *node);
        let has_place = self.dialled_now() < limits::EXCHANGES - limits::EXCHANGES_ACCEPTED;
        let is_free = *node != self.node && !is_at_it && has_place;
        is_free
            && self.peers.may_be_dialled(*node, self.now)
            && (*is_found
                || addresses::read(address).is_ok_and(|at| self.peers.may_look(&at, self.now)))
    }

    /// Returns the number of exchanges under way that this node has begun.
    fn dialled_now(&self) -> usize {
        self.exchanges.keys().filter(|id| matches!(id, ExchangeId::Dialled(_))).count()
    }

    /// Returns whether one more exchange of a peer has a place among those that others have begun.
    fn has_place_for(&self, peer: NodeId) -> bool {
        let accepted = || {
            let all = self.exchanges.iter();
            all.filter(|(id, _)| matches!(id, ExchangeId::Accepted(_)))
        };
        let of_peer = accepted().filter(|(_, exchange)| exchange.peer == peer).count();
        accepted().count() < limits::EXCHANGES_ACCEPTED
            && of_peer < limits::EXCHANGES_ACCEPTED_OF_PEER
    }

    fn on_frame(&mut self, id: ExchangeId, peer: NodeId, body: &[u8]) {
        let frame = SwarmFrame::from_body(body);
        let stage = self.exchanges.get(&id).map(|exchange| exchange.stage);
        match (frame, id, stage) {
            (Ok(SwarmFrame::Summary(known)), ExchangeId::Accepted(_), None) => {
                self.on_summary(id, peer, &known);
            }
            (
                Ok(SwarmFrame::News { announcements, wanted, has_more }),
                ExchangeId::Dialled(_),
                Some(Stage::Asked),
            ) => self.on_answer(id, announcements, &wanted, has_more),
            (
                Ok(SwarmFrame::News { announcements, .. }),
                ExchangeId::Accepted(_),
                Some(Stage::Told),
            ) => {
                self.exchanges.remove(&id);
                let is_fault = self.learn(peer, announcements).is_err();
                self.out.push_back(Output::Close { exchange: id, is_fault });
            }
            // The exchange was given up here, with its news on their way.
            (Ok(SwarmFrame::News { .. }), _, None) => {
                self.out.push_back(Output::Close { exchange: id, is_fault: false });
            }
            (Ok(_) | Err(_), _, _) => {
                self.exchanges.remove(&id);
                self.punish(peer);
                self.out.push_back(Output::Close { exchange: id, is_fault: true });
            }
        }
    }

    /// Answers a summary with what is newer here, and asks for what is newer there.
    fn on_summary(&mut self, id: ExchangeId, peer: NodeId, known: &[Known]) {
        if !self.has_place_for(peer) || !self.peers.may_begin(peer, self.now) {
            self.out.push_back(Output::Close { exchange: id, is_fault: false });
            return;
        }
        let own = self.summary();
        let sequence_of = |list: &[Known], node: ShortId| match list
            .binary_search_by_key(&node, |known| known.node)
        {
            Ok(at) => list.get(at).map(|known| known.sequence),
            Err(_) => None,
        };
        let is_news = |mine: &&Known| {
            sequence_of(known, mine.node).is_none_or(|theirs| theirs < mine.sequence)
        };
        let newer: Vec<ShortId> = own.iter().filter(is_news).map(|mine| mine.node).collect();
        let is_wanted = |theirs: &&Known| {
            theirs.node != ShortId::from(self.node)
                && sequence_of(&own, theirs.node).is_none_or(|mine| mine < theirs.sequence)
        };
        let wanted: Vec<ShortId> =
            known.iter().filter(is_wanted).map(|theirs| theirs.node).collect();
        self.peers.is_there(peer);
        let stage = if wanted.is_empty() { Stage::Closing } else { Stage::Told };
        self.begin(id, peer, stage);
        self.tell(id, &newer, wanted);
    }

    /// Takes the news of an exchange that was begun here, and sends what the peer wants.
    fn on_answer(
        &mut self,
        id: ExchangeId,
        announcements: Vec<Arc<Announcement>>,
        wanted: &[ShortId],
        has_more: bool,
    ) {
        let Some(Exchange { peer, began, reached, .. }) = self.exchanges.remove(&id) else {
            return;
        };
        let after_us = self.now.since(began);
        self.peers.is_there(peer);
        self.out.push_back(Output::Event(Event::Compared { peer, after_us }));
        let learned = self.learn(peer, announcements);
        if let Some(address) = reached {
            self.members.found(peer, &address);
        }
        let Ok(learned) = learned else {
            self.out.push_back(Output::Close { exchange: id, is_fault: true });
            return;
        };
        if wanted.is_empty() {
            self.out.push_back(Output::Close { exchange: id, is_fault: false });
        } else {
            self.begin(id, peer, Stage::Closing);
            self.tell(id, wanted, Vec::new());
        }
        // Go on at once while it brings something: a node that joins learns of everybody so.
        if has_more && learned > 0 && self.at_once.take(1, self.now) {
            self.round = self.now;
        }
    }

    /// Sends the announcements of these nodes, as many as fit.
    fn tell(&mut self, exchange: ExchangeId, nodes: &[ShortId], wanted: Vec<ShortId>) {
        let mut left = limits::SWARM_FRAME_BYTES
            .saturating_sub(64)
            .saturating_sub(wanted.len().saturating_mul(8));
        let own = self.own.iter().filter(|own| nodes.contains(&ShortId::from(own.status.node)));
        let mut announcements: Vec<Arc<Announcement>> = own.cloned().collect();
        let own_bytes: usize = announcements.iter().map(|own| own.to_bytes().len()).sum();
        left = left.saturating_sub(own_bytes);
        if let Some(under_way) = self.exchanges.get_mut(&exchange) {
            under_way.told = announcements.first().map(|own| own.sequence);
        }
        let mut has_more = false;
        // From a random one on, so that those that do not fit are others each time.
        let from = self.draws.index(nodes.len());
        let in_turn = nodes.iter().skip(from).chain(nodes.iter().take(from));
        for member in in_turn.flat_map(|short| self.members.called(*short)) {
            let bytes = member.announcement.to_bytes().len();
            has_more |= bytes > left;
            if bytes <= left {
                left = left.saturating_sub(bytes);
                announcements.push(Arc::clone(&member.announcement));
            }
        }
        if let Ok(wire) = (SwarmFrame::News { announcements, wanted, has_more }).to_wire() {
            self.out.push_back(Output::Send { exchange, wire });
        }
    }

    /// Takes the announcements that a peer has brought; returns how many of them were news.
    ///
    /// What costs nothing is looked at first, and so many signatures are checked as the peer may
    /// have checked; another exchange brings the rest.
    ///
    /// # Errors
    /// [`Forger`] if one is not signed by its node: whoever hands announcements on has checked
    /// them, so the peer is left alone, and nothing else that it brought is looked at.
    fn learn(
        &mut self,
        peer: NodeId,
        announcements: Vec<Arc<Announcement>>,
    ) -> Result<usize, Forger> {
        let mut learned = 0_usize;
        for announcement in announcements {
            let node = announcement.status.node;
            let taken = match self.learn_one(peer, announcement) {
                Ok(taken) => taken,
                // It came from two sides, or is this node's own.
                Err(None | Some(MemberFault::Announcement(AnnouncementFault::Old))) => continue,
                Err(Some(MemberFault::Unchecked)) => break,
                Err(Some(fault)) => {
                    self.out.push_back(Output::Event(Event::Refused { peer, node, fault }));
                    if fault.is_forgery() {
                        self.punish(peer);
                        return Err(Forger);
                    }
                    continue;
                }
            };
            learned = learned.saturating_add(1);
            self.out.push_back(Output::Event(match taken {
                Taken::Joined => Event::Joined(node),
                Taken::Renewed => Event::Renewed(node),
                Taken::Left => Event::Left(node),
            }));
        }
        self.peers.is_well(peer);
        Ok(learned)
    }

    /// Takes one announcement that a peer has brought. The error is `None` for one of this node
    /// itself that is no news.
    fn learn_one(
        &mut self,
        peer: NodeId,
        announcement: Arc<Announcement>,
    ) -> Result<Taken, Option<MemberFault>> {
        let is_own = announcement.status.node == self.node;
        let newest = self.own.as_ref().map(|own| own.sequence);
        // What this node announced before it was started anew comes back to it.
        if is_own && newest.is_none_or(|newest| announcement.sequence <= newest) {
            return Err(None);
        }
        if !is_own {
            self.members.screen(&announcement, peer, self.now)?;
        }
        if !self.peers.may_check(peer, self.now) {
            return Err(Some(MemberFault::Unchecked));
        }
        if is_own {
            let forged = |bad| MemberFault::Announcement(AnnouncementFault::Signature(bad));
            announcement.verify().map_err(forged)?;
            // What is newer than its own newest was signed by another process.
            self.out.push_back(Output::Event(Event::Twin));
            return Err(None);
        }
        Ok(self.members.take(announcement, peer, self.now)?)
    }

    /// Ends an exchange that is past its deadline.
    fn on_late(&mut self, id: ExchangeId) {
        let Some(exchange) = self.exchanges.remove(&id) else {
            return;
        };
        match (exchange.stage, id) {
            // It keeps a place that others could have.
            (Stage::Told | Stage::Closing, ExchangeId::Accepted(_)) => self.punish(exchange.peer),
            _ => self.miss(&exchange),
        }
    }

    fn on_lost(&mut self, id: ExchangeId) {
        let Some(exchange) = self.exchanges.remove(&id) else {
            return;
        };
        match exchange.stage {
            Stage::Asked => self.miss(&exchange),
            Stage::Told => {}
            Stage::Closing => {
                let Exchange { peer, told, .. } = exchange;
                self.peers.is_well(peer);
                let event = told.map(|sequence| Output::Event(Event::Told { peer, sequence }));
                self.out.extend(event);
            }
        }
    }

    /// Leaves a peer alone for a while that did what no node does.
    fn punish(&mut self, peer: NodeId) {
        self.counters.failed = self.counters.failed.saturating_add(1);
        self.peers.at_fault(peer, self.now);
    }

    /// Does not dial a peer for a while that was dialled in vain. An address that nobody has proved
    /// is so dialled rarely by each node.
    fn miss(&mut self, exchange: &Exchange) {
        self.counters.failed = self.counters.failed.saturating_add(1);
        self.peers.missed(exchange.peer, &exchange.strange, self.now);
        self.members.lost(exchange.peer);
    }
}

/// The error that a peer has brought an announcement which its node has not signed.
#[derive(Clone, Copy, Debug)]
struct Forger;

/// Returns the microseconds from one round to the next in a swarm of this many nodes: a summary has
/// 16 bytes a node, so its bytes per second stay below 16 KB/s.
#[must_use]
pub fn round_us(nodes: usize) -> u64 {
    (nodes as u64).saturating_mul(limits::GOSSIP_ROUND_OF_NODE_US).max(limits::GOSSIP_ROUND_US)
}

/// Returns for how many milliseconds a node of a swarm of this many nodes announces itself: the
/// announcements of all are renewed within a third of it.
#[must_use]
pub fn lease_ms(nodes: usize) -> u64 {
    let lease = (nodes as u64).saturating_mul(limits::ANNOUNCEMENT_OF_NODE_MS);
    lease.clamp(limits::ANNOUNCEMENT_MS, limits::ANNOUNCEMENT_MOST_MS)
}
