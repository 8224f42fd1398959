//! Many gossiping nodes in one thread, with virtual time and links that lose frames.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use lockstep_exact::digest::Digest;
use lockstep_proto::announcement::{Announcement, Speed, State, Status};
use lockstep_proto::limits;
use lockstep_proto::now::Now;
use lockstep_proto::swarm::gossip::{ExchangeId, Gossip, Input, Output, Seed, lease_ms};
use lockstep_proto::version::VERSION;
use lockstep_verify::sign::{Keypair, NodeId, Signature};

use crate::numbers::Numbers;

/// The id of the model that all servers of a world hold.
pub const MODEL: Digest = Digest([7; 32]);
/// The time at which every world begins.
pub const START: Now = Now(5_000_000_000_000);
const LATENCY_US: u64 = 20_000;

/// Returns the key of node number `number`.
#[must_use]
pub fn key(number: usize) -> Keypair {
    Keypair::from_secret(&Digest::derive("gossiping node", &[&number.to_le_bytes()]).0)
}

/// Makes the status of a server of a span of [`MODEL`], with all room and nothing to do, which has
/// measured nothing.
#[must_use]
pub const fn status(node: NodeId, span: Range<u32>) -> Status {
    Status {
        version: VERSION,
        node,
        manifest: MODEL,
        first: span.start,
        end: span.end,
        head: span.start == 0,
        state: State::Ready,
        sessions: 0,
        sessions_limit: 8,
        queue: 0,
        kv_pages_free: 100,
        speed: Speed::UNKNOWN,
        neighbours: Vec::new(),
        adapters: Vec::new(),
        tags: Vec::new(),
        software: String::new(),
    }
}

/// Signs an announcement of a server that is ready, at this time and for this long.
#[must_use]
pub fn announcement(key: &Keypair, now: Now, lease_ms: u64, address: &str) -> Announcement {
    let announcement = Announcement {
        sequence: now.unix_ms(),
        expires_unix_ms: now.unix_ms() + lease_ms,
        address: address.to_owned(),
        status: status(key.id(), 0..4),
        signature: Signature::NONE,
    };
    announcement.signed(key)
}

enum Arrival {
    Frame { exchange: (usize, u64), body: Vec<u8> },
    Lost { exchange: (usize, u64) },
}

/// Nodes that gossip, and the links between them. An exchange is called by who began it and the
/// number there.
pub struct World {
    /// The machine of each node, dead ones among them.
    pub nodes: Vec<Gossip>,
    ids: Vec<NodeId>,
    alive: Vec<bool>,
    readers: BTreeSet<usize>,
    /// When each dead node died.
    died: BTreeMap<usize, Now>,
    announced: Vec<Now>,
    half: Option<usize>,
    /// The percentage of frames that are lost.
    pub loss_percent: u64,
    numbers: Numbers,
    now: Now,
    arrivals: BTreeMap<(Now, u64), (usize, Arrival)>,
    /// The acceptor of each exchange, and its number there.
    accepted: BTreeMap<(usize, u64), (usize, u64)>,
    /// The address at which each exchange was dialled, until it is answered.
    dialled: BTreeMap<(usize, u64), String>,
    /// The exchange that each acceptor calls by a number.
    called: BTreeMap<(usize, u64), (usize, u64)>,
    /// When each living node next does something by itself, in the order of time.
    due: BTreeSet<(Now, usize)>,
    due_of: Vec<Option<Now>>,
    numbers_of: BTreeMap<NodeId, usize>,
    put: u64,
    /// The bytes that all nodes sent.
    pub bytes: u64,
}

impl World {
    /// Creates a world of nodes that know the first one from its ticket.
    pub fn new(seed: u64, nodes: usize) -> Self {
        let mut world = Self {
            nodes: Vec::new(),
            ids: Vec::new(),
            alive: Vec::new(),
            readers: BTreeSet::new(),
            died: BTreeMap::new(),
            announced: Vec::new(),
            half: None,
            loss_percent: 0,
            numbers: Numbers::new(seed),
            now: START,
            arrivals: BTreeMap::new(),
            accepted: BTreeMap::new(),
            dialled: BTreeMap::new(),
            called: BTreeMap::new(),
            due: BTreeSet::new(),
            due_of: Vec::new(),
            numbers_of: BTreeMap::new(),
            put: 0,
            bytes: 0,
        };
        for _ in 0..nodes {
            world.add();
        }
        world
    }

    /// Adds a node that knows the first one from its ticket, and returns its number.
    pub fn add(&mut self) -> usize {
        let number = self.nodes.len();
        self.add_with(key(number).id())
    }

    fn add_with(&mut self, id: NodeId) -> usize {
        let random = self.numbers.next_u64();
        self.nodes.push(Gossip::new(id, seeds(), random));
        self.ids.push(id);
        self.alive.push(true);
        self.announced.push(Now::default());
        self.due_of.push(None);
        let number = self.nodes.len() - 1;
        self.numbers_of.insert(id, number);
        // Leases are longer in larger swarms.
        (0..=number).for_each(|at| self.plan(at));
        number
    }

    /// Adds a node that announces nothing, and returns its number.
    pub fn add_reader(&mut self) -> usize {
        let reader = self.add_with(key(usize::MAX).id());
        self.readers.insert(reader);
        reader
    }

    /// Ends a node's process at once.
    pub fn kill(&mut self, node: usize) {
        self.alive[node] = false;
        self.died.insert(node, self.now);
        self.plan(node);
    }

    /// Lets a node say that it leaves; it is gone a second later.
    pub fn leave(&mut self, node: usize) {
        let mut last = announcement(&key(node), self.now, 30_000, &address_of(node));
        last.status.state = State::Left;
        let last = last.signed(&key(node));
        self.nodes[node].handle(self.now, Input::Announce(Arc::new(last)));
        self.announced[node] = self.now.after(1 << 40);
        self.pump(node);
        self.run(1_000_000);
        self.kill(node);
    }

    /// Starts a process of the same key, which remembers nothing.
    pub fn revive(&mut self, node: usize) {
        let random = self.numbers.next_u64();
        self.nodes[node] = Gossip::new(self.ids[node], seeds(), random);
        self.announced[node] = Now::default();
        self.alive[node] = true;
        self.died.remove(&node);
        self.plan(node);
    }

    /// Lets nothing pass from now on between the nodes before this one and the others.
    pub fn part_at(&mut self, node: usize) {
        self.half = Some(node);
    }

    /// Ends what [`World::part_at`] began.
    pub fn join(&mut self) {
        self.half = None;
    }

    /// Returns the living nodes with their numbers.
    pub fn living(&self) -> impl Iterator<Item = (usize, &Gossip)> {
        self.nodes.iter().enumerate().filter(|(at, _)| self.alive[*at])
    }

    /// Returns the bytes that a node sent per second, on average.
    #[must_use]
    pub fn bytes_per_second(&self) -> u64 {
        let seconds = self.now.since(START) / 1_000_000;
        self.bytes / seconds.max(1) / self.nodes.len() as u64
    }

    /// Runs until every living node knows this many others, and returns the rounds that it took.
    ///
    /// # Panics
    /// Panics if that is not so after a thousand rounds.
    pub fn rounds_until_all_know(&mut self, others: usize) -> u64 {
        for round in 1..=1_000 {
            self.run(limits::GOSSIP_ROUND_US);
            if self.living().all(|(_, node)| node.members().len() == others) {
                return round;
            }
        }
        let known: Vec<usize> = self.living().map(|(_, node)| node.members().len()).collect();
        panic!("not everybody knows {others} others: {known:?}");
    }

    /// Lets this many microseconds pass.
    pub fn run(&mut self, us: u64) {
        let end = self.now.after(us);
        loop {
            let arrival = self.arrivals.first_key_value().map(|((at, _), _)| *at);
            let due = self.due.first().copied();
            let next = arrival.into_iter().chain(due.map(|(at, _)| at)).min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = next.max(self.now);
            if arrival == Some(next) {
                let (_, (to, arrival)) = self.arrivals.pop_first().expect("it is there");
                self.arrive(to, arrival);
            } else if let Some((_, at)) = due {
                self.wake(at);
            }
        }
        self.now = end;
    }

    /// Notes when a node next does something by itself.
    fn plan(&mut self, at: usize) {
        if let Some(before) = self.due_of[at].take() {
            self.due.remove(&(before, at));
        }
        if let Some(next) = self.next_of(at).filter(|_| self.alive[at]) {
            self.due_of[at] = Some(next);
            self.due.insert((next, at));
        }
    }

    /// When a node next does something by itself.
    fn next_of(&self, at: usize) -> Option<Now> {
        let renewal = self.announced[at].after(lease_ms(self.nodes.len()) * 1000 / 3);
        let renewal = Some(renewal).filter(|_| !self.is_reader(at));
        renewal.into_iter().chain(self.nodes[at].deadline()).min()
    }

    /// Returns when a node died, by its id; `None` while it lives.
    #[must_use]
    pub fn died(&self, node: NodeId) -> Option<Now> {
        self.died.get(self.numbers_of.get(&node)?).copied()
    }

    /// Returns the virtual time of the world.
    #[must_use]
    pub const fn now(&self) -> Now {
        self.now
    }

    fn is_reader(&self, at: usize) -> bool {
        self.readers.contains(&at)
    }

    fn wake(&mut self, at: usize) {
        let lease_ms = lease_ms(self.nodes.len());
        let is_due = self.announced[at].after(lease_ms * 1000 / 3) <= self.now;
        let input = if is_due && !self.is_reader(at) {
            self.announced[at] = self.now;
            let own = announcement(&key(at), self.now, lease_ms, &address_of(at));
            Input::Announce(Arc::new(own))
        } else {
            Input::Tick
        };
        self.nodes[at].handle(self.now, input);
        self.pump(at);
    }

    fn arrive(&mut self, to: usize, arrival: Arrival) {
        if !self.alive[to] {
            return;
        }
        let (exchange, body) = match arrival {
            Arrival::Frame { exchange, body } => (exchange, Some(body)),
            Arrival::Lost { exchange } => (exchange, None),
        };
        let is_dialler = exchange.0 == to;
        let peer = if is_dialler { self.accepted[&exchange].0 } else { exchange.0 };
        let id = if is_dialler {
            ExchangeId::Dialled(exchange.1)
        } else {
            ExchangeId::Accepted(self.accepted[&exchange].1)
        };
        let peer = self.ids[peer];
        if is_dialler
            && body.is_some()
            && let Some(address) = self.dialled.remove(&exchange)
        {
            self.nodes[to].handle(self.now, Input::Reached { exchange: id, address });
        }
        let input = match body {
            Some(body) => Input::Frame { exchange: id, peer, body },
            None => Input::Lost(id),
        };
        self.nodes[to].handle(self.now, input);
        self.pump(to);
    }

    fn pump(&mut self, from: usize) {
        while let Some(output) = self.nodes[from].poll() {
            match output {
                Output::Dial { exchange, node, address, wire } => {
                    let ExchangeId::Dialled(number) = exchange else { panic!("{exchange:?}") };
                    let to = *self.numbers_of.get(&node).expect("a node");
                    self.put += 1;
                    self.accepted.insert((from, number), (to, self.put));
                    self.dialled.insert((from, number), address);
                    self.called.insert((to, self.put), (from, number));
                    self.post(from, (from, number), Some(wire));
                }
                Output::Send { exchange, wire } => {
                    let exchange = self.of(from, exchange);
                    self.post(from, exchange, Some(wire));
                }
                Output::Close { exchange, .. } => {
                    let exchange = self.of(from, exchange);
                    self.post(from, exchange, None);
                }
                Output::Event(_) => {}
            }
        }
        self.plan(from);
    }

    fn of(&self, at: usize, id: ExchangeId) -> (usize, u64) {
        match id {
            ExchangeId::Dialled(number) => (at, number),
            ExchangeId::Accepted(number) => *self.called.get(&(at, number)).expect("accepted"),
        }
    }

    /// Puts a frame, or the end of a link, on its way to the other end of an exchange.
    fn post(&mut self, from: usize, exchange: (usize, u64), wire: Option<Vec<u8>>) {
        let other = if exchange.0 == from { self.accepted[&exchange].0 } else { exchange.0 };
        let is_lost = wire.is_some() && self.numbers.below(100) < self.loss_percent;
        let is_parted = self.half.is_some_and(|half| (from < half) != (other < half));
        self.put += 1;
        let at = self.now.after(LATENCY_US);
        if !self.alive[other] || is_parted {
            // Nobody is there: the sender notices.
            let lost = Arrival::Lost { exchange };
            self.arrivals.insert((self.now.after(5_000_000), self.put), (from, lost));
            return;
        }
        self.bytes += wire.as_ref().map_or(0, |wire| wire.len() as u64);
        let arrival = match wire {
            Some(wire) if !is_lost => {
                Arrival::Frame { exchange, body: wire[limits::LENGTH_BYTES..].to_vec() }
            }
            Some(_) | None => Arrival::Lost { exchange },
        };
        self.arrivals.insert((at, self.put), (other, arrival));
    }
}

fn seeds() -> Vec<Seed> {
    vec![Seed { node: key(0).id(), address: address_of(0) }]
}

/// Returns the address of a node, of which every one has a host of its own.
fn address_of(node: usize) -> String {
    format!("10.{}.{}.{}:1", node >> 16 & 255, node >> 8 & 255, node & 255)
}
