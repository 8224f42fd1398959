//! The world of the scenario `faults`: real servers and clients in virtual time, users who ask, and
//! a list of what is still to happen.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;

use lockstep_proto::announcement::Status;
use lockstep_proto::client::ClientError;
use lockstep_proto::limits;
use lockstep_proto::now::Now;
use lockstep_proto::server::Capacity;
use lockstep_proto::swarm::demand::Demand;
use lockstep_proto::swarm::route::{fastest, in_order};
use lockstep_testing::hash_model::{LAYERS, model, vocabulary};
use lockstep_testing::lie::Script;
use lockstep_testing::numbers::Numbers;
use lockstep_testing::ring::{Point, Ring};
use lockstep_verify::request::{Hop, Request};

use super::network::Network;
use super::node::{Node, executor};
use super::pace::Pace;
use crate::report::Marks;

/// A second of virtual time.
pub(crate) const SECOND: u64 = 1_000_000;
/// Users who ask, one request after the other.
pub(crate) const USERS: u64 = 12;
/// How often a user tries a request.
const ATTEMPTS: u32 = 3;

/// A server, as the simulator knows it.
pub(crate) struct Local {
    pub(crate) span: Range<u32>,
    pub(crate) capacity: Capacity,
    pub(crate) pace: Pace,
    /// The lie that it tells, if it does.
    pub(crate) script: Option<Script>,
    /// The change of its status with which it lies in its announcements.
    pub(crate) claims: Option<fn(&mut Status)>,
    /// The status that it announced last.
    pub(crate) announced: Option<Status>,
    /// Whether something was done to it or its links.
    pub(crate) is_harmed: bool,
    pub(crate) is_paused: bool,
}

/// A request of a user, on one route.
pub(crate) struct Asked {
    /// The number of the client that asks, which makes one request.
    pub(crate) client: usize,
    pub(crate) user: u64,
    pub(crate) request: Request,
    /// The servers of the route, in its order.
    pub(crate) servers: Vec<usize>,
    pub(crate) attempt: u32,
    /// Servers that the user asks no more for this request.
    pub(crate) avoided: BTreeSet<usize>,
    /// Whether the user gave it up, or its process died.
    pub(crate) is_given_up: bool,
    /// Whether its outcome was looked at.
    pub(crate) is_settled: bool,
    /// Whether cells of its answer were asked for.
    pub(crate) is_challenged: bool,
}

type Later = Box<dyn FnOnce(&mut World)>;

/// Servers, clients, users, and what happens to them.
pub(crate) struct World {
    pub(crate) ring: Ring<Node>,
    pub(crate) numbers: Numbers,
    pub(crate) network: Rc<RefCell<Network>>,
    pub(crate) servers: Vec<Local>,
    pub(crate) asked: Vec<Asked>,
    pub(crate) marks: Marks,
    /// What is to happen at a time.
    later: BTreeMap<(Now, u64), Later>,
    /// Users with slow or unreliable machines.
    pub(crate) harmed_clients: BTreeSet<usize>,
    /// Whether the next clients are slow readers.
    pub(crate) slow_reader_bytes_per_s: Option<u64>,
    /// By how much the clocks of the next clients may be wrong, in microseconds.
    pub(crate) skew_us: u64,
    /// Whether answers are audited before they are accepted.
    pub(crate) is_audited: bool,
}

impl World {
    /// Draws servers in one to four spans, each held by one server or several, from the seed.
    pub(crate) fn new(seed: u64, nodes: usize) -> Self {
        let mut numbers = Numbers::new(seed);
        let servers = draw_servers(&mut numbers, nodes);
        let spans = servers.iter().map(|local| (local.span.clone(), local.capacity)).collect();
        let executor = |_| executor(None);
        let mut ring = Ring::of_spans(seed, (model(), vocabulary()), spans, executor);
        let network = Rc::new(RefCell::new(Network::new(seed)));
        let shared = Rc::clone(&network);
        ring.meddle(move |packet| shared.borrow_mut().meddle(packet));
        ring.weather.latency_us = 10 + numbers.below(40_000);
        ring.weather.jitter_us = numbers.below(20_000);
        for (number, local) in servers.iter().enumerate() {
            let pace = local.pace.clone();
            ring.time_jobs(number, move |job| pace.job_us(job));
        }
        Self {
            ring,
            numbers,
            network,
            servers,
            asked: Vec::new(),
            marks: Marks::default(),
            later: BTreeMap::new(),
            harmed_clients: BTreeSet::new(),
            slow_reader_bytes_per_s: None,
            skew_us: 0,
            is_audited: true,
        }
    }

    /// Draws the number of a server.
    pub(crate) fn draw_server(&mut self) -> usize {
        self.numbers.below(self.servers.len() as u64) as usize
    }

    /// Draws a request that is under way.
    pub(crate) fn draw_request(&mut self) -> Option<usize> {
        let going = |asked: &&Asked| !asked.is_settled && !asked.is_given_up;
        let clients: Vec<usize> = self.asked.iter().filter(going).map(|it| it.client).collect();
        let at = self.numbers.below(clients.len().max(1) as u64) as usize;
        clients.get(at).copied()
    }

    /// Lets something be done to a server, or with its links.
    pub(crate) fn harm(&mut self, server: usize) {
        if let Some(local) = self.servers.get_mut(server) {
            local.is_harmed = true;
        }
    }

    /// Lets something happen after this many microseconds.
    pub(crate) fn later(&mut self, us: u64, action: impl FnOnce(&mut Self) + 'static) {
        let number = self.later.last_key_value().map_or(0, |((_, number), _)| number + 1);
        let number = number.max(self.later.len() as u64);
        let mut key = (self.ring.now().after(us), number);
        while self.later.contains_key(&key) {
            key.1 += 1;
        }
        self.later.insert(key, Box::new(action));
    }

    /// Lets time pass, with all that is to happen in it.
    pub(crate) fn run_for(&mut self, us: u64) {
        let end = self.ring.now().after(us);
        while let Some(entry) = self.later.first_entry().filter(|entry| entry.key().0 <= end) {
            let ((at, _), action) = entry.remove_entry();
            self.ring.run_for(at.since(self.ring.now()));
            action(self);
        }
        self.ring.run_for(end.since(self.ring.now()));
    }

    /// Lets everything happen that was to happen later.
    pub(crate) fn run_out(&mut self) {
        while let Some(((at, _), _)) = self.later.first_key_value() {
            let us = at.since(self.ring.now());
            self.run_for(us);
        }
    }

    /// Lets a user ask for an answer to a prompt of random length.
    pub(crate) fn ask(&mut self) {
        let user = self.numbers.below(USERS);
        self.try_to_ask(user, 1, BTreeSet::new());
    }

    /// A user tries to ask on a route without these servers.
    fn try_to_ask(&mut self, user: u64, attempt: u32, avoided: BTreeSet<usize>) {
        let Some(route) = self.find_route(&avoided) else {
            self.marks.reach("no_route");
            return;
        };
        let client = self.asked.len();
        let (prompt_len, tokens) = (1 + self.numbers.below(300), 1 + self.numbers.below(10));
        let prompt = (0..prompt_len).map(|index| ((index * 7 + prompt_len) % 90) as u32);
        let mut request = self.ring.request(client, prompt.collect(), tokens as u32);
        request.sampling.seed = self.numbers.next_u64();
        request.stops.ignore_end = self.numbers.below(2) == 0;
        let servers: Vec<usize> = route.iter().filter_map(|hop| self.number_of(hop)).collect();
        self.network.borrow_mut().routes.insert(request.session(), servers.clone());
        self.prepare_client(client);
        self.ring.connect_as(client, user as usize);
        let asked = self.ring.ask(request.clone(), route);
        assert_eq!(asked, Ok(client), "every request can be made");
        self.asked.push(Asked {
            client,
            user,
            request,
            servers,
            attempt,
            avoided,
            is_given_up: false,
            is_settled: false,
            is_challenged: false,
        });
    }

    /// Gives the next client its clock and its line.
    fn prepare_client(&mut self, client: usize) {
        if self.skew_us > 0 {
            let skew = self.draw_skew();
            self.ring.skew(Point::Client(client), skew);
        }
        if let Some(bytes_per_s) = self.slow_reader_bytes_per_s
            && self.numbers.below(2) == 0
        {
            self.harmed_clients.insert(client);
            let mut network = self.network.borrow_mut();
            for server in 0..self.servers.len() {
                let ends = (Point::Server(server), Point::Client(client));
                network.links.entry(ends).or_default().bytes_per_s = bytes_per_s;
            }
        }
    }

    /// Draws by how much a clock is wrong.
    pub(crate) fn draw_skew(&mut self) -> i64 {
        let us = self.numbers.below(2 * self.skew_us + 1);
        us.cast_signed() - self.skew_us.cast_signed()
    }

    fn number_of(&self, hop: &Hop) -> Option<usize> {
        let is_its = |server: &usize| Ring::<Node>::server_key(*server).id() == hop.node;
        (0..self.servers.len()).find(is_its)
    }

    /// Finds a route over what servers announce: the fastest, or a random one.
    fn find_route(&mut self, avoided: &BTreeSet<usize>) -> Option<Vec<Hop>> {
        self.announce();
        let known: Vec<Status> = (0..)
            .zip(&self.servers)
            .filter(|(number, _)| !avoided.contains(number))
            .filter_map(|(_, local)| local.announced.clone())
            .collect();
        let order = if self.numbers.below(2) == 0 { Vec::new() } else { self.draw_chain(&known) };
        let demand = Demand::of(&model(), 512);
        let route = if order.is_empty() {
            fastest(&known, &demand)
        } else {
            in_order(&known, &demand, &order)
        };
        route.ok().map(|route| route.hops)
    }

    /// Draws nodes that follow each other from the first layer to the last; whether that is a route
    /// is for the real function to say.
    fn draw_chain(&mut self, known: &[Status]) -> Vec<lockstep_verify::sign::NodeId> {
        let (mut chain, mut next) = (Vec::new(), 0);
        while next < LAYERS {
            let holds = |status: &&Status| status.first <= next && next < status.end;
            let holders: Vec<&Status> = known.iter().filter(holds).collect();
            let at = self.numbers.below(holders.len().max(1) as u64) as usize;
            let Some(status) = holders.get(at) else {
                return Vec::new();
            };
            chain.push(status.node);
            next = status.end;
        }
        chain
    }

    /// Takes what living servers say of themselves, true or not. What a dead one said last is still
    /// known.
    fn announce(&mut self) {
        for (number, local) in self.servers.iter_mut().enumerate() {
            let is_heard = !local.is_paused && !self.ring.is_dead(Point::Server(number));
            if let Some(server) = self.ring.server(number).filter(|_| is_heard) {
                let mut status = server.status();
                local.claims.into_iter().for_each(|claims| claims(&mut status));
                local.announced = Some(status);
            }
        }
    }

    /// Asks again on another route, if the user still tries; `blamed` is left out.
    pub(crate) fn ask_again(&mut self, at: usize, blamed: Option<usize>) {
        let Some(asked) = self.asked.get(at) else { return };
        if asked.attempt >= ATTEMPTS || asked.is_given_up {
            return;
        }
        let (user, attempt) = (asked.user, asked.attempt + 1);
        let mut avoided = asked.avoided.clone();
        avoided.extend(blamed);
        self.marks.reach("asked_again");
        self.try_to_ask(user, attempt, avoided);
    }

    /// Returns the server that an error is about, whoever says so.
    pub(crate) fn server_of(&self, asked: &Asked, error: &ClientError) -> Option<usize> {
        let stage = error.stage().or_else(|| error.reported())?;
        asked.servers.get(stage as usize).copied()
    }
}

/// Draws spans that are covered, with what each server can hold and how fast it is.
fn draw_servers(numbers: &mut Numbers, nodes: usize) -> Vec<Local> {
    let stages = 1 + numbers.below(nodes.clamp(1, 4) as u64) as u32;
    let local = |number: usize, numbers: &mut Numbers| {
        let stage = number as u32 % stages;
        let first = LAYERS * stage / stages;
        let end = (LAYERS * (stage + 1) / stages + numbers.below(2) as u32).min(LAYERS);
        let capacity = Capacity {
            sessions: 8 + numbers.below(24) as usize,
            retained: 60 + numbers.below(90) as usize,
            kv_pages: 200,
            batch_positions: 1 + numbers.below(400) as u32,
            ..Capacity::default()
        };
        Local {
            span: first..end,
            capacity,
            pace: Pace::draw(numbers, end - first),
            script: None,
            claims: None,
            announced: None,
            is_harmed: false,
            is_paused: false,
        }
    };
    (0..nodes).map(|number| local(number, numbers)).collect()
}

/// Virtual time after which no finished session can be challenged, however often it was.
pub(crate) const RETENTION_END_US: u64 =
    limits::RETENTION_US + 2 * limits::CHALLENGES_BEYOND_AUDIT * limits::CHALLENGE_PACE_US + SECOND;
