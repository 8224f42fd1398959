//! What connects the machine of gossip to the world: a link for each exchange, and a view of the
//! members for whoever plans with them.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use lockstep_proto::announcement::{Announcement, Neighbour};
use lockstep_proto::frame::{Frame as _, SwarmFrame};
use lockstep_proto::limits as protocol;
use lockstep_proto::swarm::gossip::{Event, ExchangeId, Gossip, Input, Output, Seed};
use lockstep_proto::swarm::members::Members;
use lockstep_verify::sign::NodeId;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::body;
use super::book::parse;
use super::clock::Clock;
use super::drive::{Next, Port, drive};
use super::figures::{Question, SwarmFigures};
use super::links::Links;
use super::status::StatusError;
use crate::limits;
use crate::transport::{Class, Endpoint, HangUp, Link, PeerAddr, Sender};

/// The knowledge that a node has of its swarm at one time.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The announcements of the other nodes, in the order of their node ids.
    pub announcements: Vec<Arc<Announcement>>,
    /// Microseconds of the fastest exchange with each node that this one has compared notes with: a
    /// round trip, and the other's work.
    pub exchange_us: BTreeMap<NodeId, u64>,
    /// The sequence of this node's newest announcement that another node has; 0 if none has one.
    pub told: u64,
}

/// A node's part in a swarm, which goes on until this is dropped.
#[derive(Debug)]
pub(super) struct Swarm {
    handle: Handle,
    /// Ends when this is dropped.
    _driving: JoinSet<()>,
}

/// What a server needs of its node's part in a swarm.
#[derive(Clone, Debug)]
pub(super) struct Handle {
    inputs: mpsc::Sender<Input>,
    view: watch::Receiver<Arc<View>>,
}

impl Swarm {
    /// Begins to drive the machine of gossip on an endpoint, whose links of the swarm's class come
    /// through `accepted`. To be called inside a runtime of tokio.
    pub(super) fn start(
        endpoint: Arc<Endpoint>,
        clock: Clock,
        (accepted, asked): (mpsc::Receiver<Link>, mpsc::Receiver<Question<SwarmFigures>>),
        mut machine: Gossip,
    ) -> Self {
        let (given, inputs) = mpsc::channel(limits::ANNOUNCED);
        let (viewed, view) = watch::channel(Arc::default());
        let (events, inbox) = mpsc::channel(limits::DRIVER_INBOX);
        let mut driving = JoinSet::new();
        driving.spawn(async move {
            let mut port = SwarmPort {
                endpoint,
                accepted,
                asked,
                inputs,
                viewed,
                events,
                inbox,
                senders: BTreeMap::new(),
                exchange_us: BTreeMap::new(),
                slow: BTreeSet::new(),
                told: 0,
                accepted_count: 0,
                has_changed: Cell::new(false),
                tasks: JoinSet::new(),
            };
            drive(clock, &mut machine, &mut port).await;
        });
        Self { handle: Handle { inputs: given, view }, _driving: driving }
    }

    /// Returns what a server needs of this.
    pub(super) fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

impl Handle {
    /// Tells the swarm this node's newest announcement. One for which there is no room is dropped:
    /// another follows.
    pub(super) fn announce(&self, announcement: Announcement) {
        self.inputs.try_send(Input::Announce(Arc::new(announcement))).ok();
    }

    /// Has the swarm's machine compare notes with a node that was found otherwise than by a ticket.
    /// One for which there is no room is dropped: it is found again.
    pub(super) fn found(&self, seed: Seed) {
        self.inputs.try_send(Input::Found(seed)).ok();
    }

    /// Returns what this node knows of the swarm, which changes with it.
    pub(super) fn view(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// Returns the number of other nodes of the swarm.
    pub(super) fn len(&self) -> usize {
        self.view.borrow().announcements.len()
    }

    /// Returns the measured links to other nodes, in the order of their node ids.
    pub(super) fn neighbours(&self) -> Vec<Neighbour> {
        let view = self.view.borrow();
        let neighbour = |(node, us): (&NodeId, &u64)| Neighbour {
            node: *node,
            rtt_us: u32::try_from(*us).unwrap_or(u32::MAX),
            bytes_per_s: 0,
        };
        view.exchange_us.iter().map(neighbour).collect()
    }

    /// Tells the swarm the last announcement of a node that leaves, and waits until another node
    /// knows it, if there is one, but not for long.
    pub(super) async fn leave(&mut self, last: Announcement) {
        let sequence = last.sequence;
        if self.len() == 0 || self.inputs.send(Input::Announce(Arc::new(last))).await.is_err() {
            return;
        }
        let telling = self.view.wait_for(|view| view.told >= sequence);
        timeout(limits::FAREWELL_DEADLINE, telling).await.ok();
    }
}

/// Waits until what is known of a swarm changes; for ever without a swarm.
pub(super) async fn changed(swarm: &mut Option<Handle>) {
    let has_changed = match swarm {
        Some(swarm) => swarm.view.changed().await.is_ok(),
        None => false,
    };
    if !has_changed {
        std::future::pending().await
    }
}

/// Asks a peer for everything that it knows of its swarm. What is not signed, or not true now, is
/// left out.
///
/// # Errors
/// [`StatusError`], at the latest after [`limits::STATUS_DEADLINE`].
pub async fn members(
    endpoint: &Endpoint,
    clock: Clock,
    peer: &PeerAddr,
) -> Result<Vec<Arc<Announcement>>, StatusError> {
    let mut known = Members::default();
    let asking = async {
        // Each exchange brings as much as fits a frame.
        while ask(endpoint, clock, peer, &mut known).await? {}
        Ok(())
    };
    let late = StatusError::Timeout { peer: peer.id };
    timeout(limits::STATUS_DEADLINE, asking).await.unwrap_or(Err(late))?;
    Ok(known.iter().map(|member| Arc::clone(&member.announcement)).collect())
}

/// Asks peers for everything that they know of their swarms, all at once: of each node the newest
/// announcement. Peers that do not answer, or are in no swarm, are left out.
pub async fn swarm(links: &Links, clock: Clock, peers: &[PeerAddr]) -> Vec<Arc<Announcement>> {
    let mut asking = JoinSet::new();
    for peer in peers {
        let (endpoint, peer) = (Arc::clone(links.endpoint()), peer.clone());
        asking.spawn(async move { members(&endpoint, clock, &peer).await });
    }
    let mut newest: BTreeMap<NodeId, Arc<Announcement>> = BTreeMap::new();
    while let Some(told) = asking.join_next().await {
        for one in told.into_iter().flatten().flatten() {
            let known = newest.entry(one.status.node).or_insert_with(|| Arc::clone(&one));
            if known.sequence < one.sequence {
                *known = one;
            }
        }
    }
    newest.into_values().collect()
}

/// Returns the address of a node as an announcement gives it; what does not parse is left out.
#[must_use]
pub fn peer_of(node: NodeId, address: &str) -> PeerAddr {
    PeerAddr { id: node, addrs: parse(address) }
}

/// Compares notes with a peer once; returns whether there is more to learn.
async fn ask(
    endpoint: &Endpoint,
    clock: Clock,
    peer: &PeerAddr,
    known: &mut Members,
) -> Result<bool, StatusError> {
    let none = || StatusError::NoStatus { peer: peer.id };
    let mut link = endpoint.connect(peer, Class::Swarm).await?;
    let summary = SwarmFrame::Summary(known.summary()).to_wire().map_err(|_| none())?;
    link.sender.post(body(summary))?;
    let answer = link.receiver.recv().await?.ok_or_else(none)?;
    link.sender.hang_up(HangUp::Done);
    let Ok(SwarmFrame::News { announcements, has_more, .. }) = SwarmFrame::from_body(&answer)
    else {
        return Err(none());
    };
    let now = clock.now();
    let mut is_news = false;
    for announcement in announcements {
        match known.take(announcement, peer.id, now) {
            Ok(_) => is_news = true,
            // Whoever hands announcements on has checked them.
            Err(fault) if fault.is_forgery() => return Err(none()),
            Err(_) => {}
        }
    }
    Ok(has_more && is_news)
}

/// What the links of exchanges tell.
enum Told {
    Connected { exchange: ExchangeId, link: Option<Box<Link>> },
    Frame { exchange: ExchangeId, peer: NodeId, body: Bytes },
    Lost(ExchangeId),
}

enum Arrival {
    Accepted(Option<Box<Link>>),
    Asked(Question<SwarmFigures>),
    Given(Option<Input>),
    Told(Option<Told>),
    TaskEnded,
}

struct SwarmPort {
    endpoint: Arc<Endpoint>,
    accepted: mpsc::Receiver<Link>,
    asked: mpsc::Receiver<Question<SwarmFigures>>,
    inputs: mpsc::Receiver<Input>,
    viewed: watch::Sender<Arc<View>>,
    events: mpsc::Sender<Told>,
    inbox: mpsc::Receiver<Told>,
    /// The links of exchanges; none for one that is being dialled.
    senders: BTreeMap<ExchangeId, Option<Sender>>,
    exchange_us: BTreeMap<NodeId, u64>,
    /// The nodes whose last exchange took far longer than their fastest.
    slow: BTreeSet<NodeId>,
    told: u64,
    accepted_count: u64,
    /// Whether the view is not what the machine knows.
    has_changed: Cell<bool>,
    tasks: JoinSet<()>,
}

impl Port<Gossip> for SwarmPort {
    type Arrival = Arrival;
    type End = ();

    async fn hear(&mut self) -> Arrival {
        tokio::select! {
            told = self.inbox.recv() => Arrival::Told(told),
            link = self.accepted.recv() => Arrival::Accepted(link.map(Box::new)),
            Some(asked) = self.asked.recv() => Arrival::Asked(asked),
            input = self.inputs.recv() => Arrival::Given(input),
            Some(_) = self.tasks.join_next() => Arrival::TaskEnded,
        }
    }

    async fn take(&mut self, machine: &mut Gossip, heard: Arrival) -> Next<Input, ()> {
        match heard {
            Arrival::Accepted(Some(link)) => {
                self.accepted_count += 1;
                let exchange = ExchangeId::Accepted(self.accepted_count);
                self.open(exchange, *link);
                Next::Nothing
            }
            Arrival::Asked(question) => {
                let (counters, members) = (machine.counters(), machine.members().len());
                // Whoever asked may wait no longer.
                question.send(SwarmFigures { counters, members }).ok();
                Next::Nothing
            }
            Arrival::Given(Some(input)) => Next::Input(input),
            Arrival::Told(Some(told)) => self.told(told),
            Arrival::TaskEnded => Next::Nothing,
            // The endpoint is closed, or nobody wants to know the swarm any more.
            Arrival::Accepted(None) | Arrival::Given(None) | Arrival::Told(None) => Next::Over(()),
        }
    }

    fn perform(&mut self, output: Output) -> Next<Input, ()> {
        match output {
            Output::Close { exchange, is_fault } => {
                if let Some(Some(sender)) = self.senders.remove(&exchange) {
                    self.tasks.spawn(close(sender, is_fault));
                }
            }
            Output::Dial { exchange, node, address, wire } => {
                self.senders.insert(exchange, None);
                self.dial(exchange, node, &address, wire);
            }
            Output::Event(event) => self.on_event(event),
            Output::Send { exchange, wire } => {
                let sender = self.senders.get(&exchange).and_then(Option::as_ref);
                if let Some(error) = sender.and_then(|sender| sender.post(body(wire)).err()) {
                    debug!(%error, "a node can't be written to");
                    self.senders.remove(&exchange);
                    return Next::Input(Input::Lost(exchange));
                }
            }
        }
        Next::Nothing
    }

    fn ended(&self, machine: &Gossip) -> Option<()> {
        // Here because the machine has nothing left to do, and everybody who looks sees all of it.
        if self.has_changed.replace(false) {
            let members = machine.members().iter();
            let view = View {
                announcements: members.map(|member| Arc::clone(&member.announcement)).collect(),
                exchange_us: self.exchange_us.clone(),
                told: self.told,
            };
            self.viewed.send_replace(Arc::new(view));
        }
        None
    }
}

impl SwarmPort {
    fn told(&mut self, told: Told) -> Next<Input, ()> {
        match told {
            Told::Frame { exchange, peer, body } => {
                Next::Input(Input::Frame { exchange, peer, body: body.into() })
            }
            Told::Connected { exchange, link } => match link {
                // It took longer than an exchange may.
                Some(_) if !self.senders.contains_key(&exchange) => Next::Nothing,
                Some(link) => {
                    let at = link.at;
                    self.open(exchange, *link);
                    at.map_or(Next::Nothing, |at| {
                        Next::Input(Input::Reached { exchange, address: at.to_string() })
                    })
                }
                None => {
                    self.senders.remove(&exchange);
                    Next::Input(Input::Lost(exchange))
                }
            },
            Told::Lost(exchange) => {
                self.senders.remove(&exchange);
                Next::Input(Input::Lost(exchange))
            }
        }
    }

    /// Begins to read the link of an exchange.
    fn open(&mut self, exchange: ExchangeId, link: Link) {
        let Link { sender, mut receiver, peer, .. } = link;
        self.senders.insert(exchange, Some(sender.clone()));
        let events = self.events.clone();
        self.tasks.spawn(async move {
            // The link lives as long as both of its halves.
            let _sender = sender;
            let reading = async {
                while let Ok(Some(body)) = receiver.recv().await {
                    if events.send(Told::Frame { exchange, peer, body }).await.is_err() {
                        return;
                    }
                }
            };
            timeout(limits::EXCHANGE_DEADLINE, reading).await.ok();
            events.send(Told::Lost(exchange)).await.ok();
        });
    }

    fn dial(&mut self, exchange: ExchangeId, node: NodeId, address: &str, wire: Vec<u8>) {
        let peer = peer_of(node, address);
        let (endpoint, events) = (Arc::clone(&self.endpoint), self.events.clone());
        self.tasks.spawn(async move {
            let link = match endpoint.connect(&peer, Class::Swarm).await {
                Ok(link) => link.sender.post(body(wire)).map(|()| Box::new(link)).ok(),
                Err(error) => {
                    debug!(%error, "a node can't be reached");
                    None
                }
            };
            events.send(Told::Connected { exchange, link }).await.ok();
        });
    }

    /// Logs when a node becomes slow, and when it is not any more.
    fn note_pace(&mut self, peer: NodeId, after_us: u64, usual_us: u64) {
        let is_slow =
            after_us >= limits::SLOW_PEER_US && after_us / limits::SLOW_PEER_TIMES >= usual_us;
        if is_slow && self.slow.insert(peer) {
            warn!(node = %peer.short(), after_us, usual_us, "slow peer");
        } else if !is_slow && self.slow.remove(&peer) {
            info!(node = %peer.short(), after_us, usual_us, "peer is not slow any more");
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Compared { peer, after_us } => {
                if self.exchange_us.len() >= protocol::SWARM_NODES {
                    self.exchange_us.clear();
                    self.slow.clear();
                }
                let fastest = self.exchange_us.entry(peer).or_insert(after_us);
                *fastest = (*fastest).min(after_us);
                let usual_us = *fastest;
                self.note_pace(peer, after_us, usual_us);
                self.has_changed.set(true);
            }
            Event::Joined(node) => {
                info!(node = %node.short(), "a node has joined the swarm");
                self.has_changed.set(true);
            }
            Event::Left(node) => {
                info!(node = %node.short(), "a node has left the swarm");
                self.exchange_us.remove(&node);
                self.slow.remove(&node);
                self.has_changed.set(true);
            }
            Event::Renewed(_) => self.has_changed.set(true),
            Event::Told { sequence, .. } => {
                self.told = self.told.max(sequence);
                self.has_changed.set(true);
            }
            Event::Refused { peer, node, fault } => {
                let (peer, node) = (peer.short(), node.short());
                debug!(%peer, %node, %fault, "an announcement is not taken");
            }
            Event::Twin => warn!(
                "another process announces itself under this node's id: two servers must not share \
                 a key"
            ),
        }
    }
}

/// Closes the link of an exchange; what was queued goes out first, unless the peer is at fault.
async fn close(sender: Sender, is_fault: bool) {
    if is_fault {
        return sender.hang_up(HangUp::BadFrame);
    }
    timeout(limits::FLUSH_DEADLINE, sender.clone().finish()).await.ok();
    sender.hang_up(HangUp::Done);
}
