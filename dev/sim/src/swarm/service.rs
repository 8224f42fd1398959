//! Clients, queues and batches in virtual time.
//!
//! Every client has one request at a time and makes the next at once. A step goes round its ring;
//! a machine computes what waits in batches, and a batch takes what the real cost model says of the
//! machine's measured times: the nanoseconds of each layer for as many steps as are in that layer,
//! and of the head. Prompts, frames and signatures are left out.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use lockstep_proto::limits::DECODE_BATCH;
use lockstep_proto::swarm::cost::Pace;
use lockstep_testing::numbers::Numbers;

use super::machines::{LAYERS, Machine, SESSIONS};

/// A stage of a ring: a machine, and the layers that it computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stage {
    pub(crate) machine: usize,
    pub(crate) first: u32,
    pub(crate) end: u32,
}

/// Seconds in which every request ends.
const LAST_END_S: f64 = 10_000.0;
/// Nanoseconds after which a client asks again that found no ring, or whose ring broke.
const AGAIN_NS: u64 = 250_000_000;
/// The fewest tokens of an answer, and how many more there may be.
const TOKENS: (u64, u64) = (16, 33);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A step arrives at the stage where its client's request is.
    Arrive { client: usize, request: u64 },
    /// A machine has computed its batch.
    Done { machine: usize, start: u64 },
    /// A client makes a request.
    Ask { client: usize },
}

#[derive(Clone, Copy, Debug)]
struct Item {
    client: usize,
    request: u64,
    is_head: bool,
    first: u32,
    end: u32,
}

struct Runtime {
    pace: Pace,
    latency_us: u64,
    waiting: VecDeque<Item>,
    running: Vec<Item>,
    sessions: u32,
    is_alive: bool,
    is_busy: bool,
    /// The number of the batch that runs.
    start: u64,
}

#[derive(Default)]
struct Client {
    ring: Vec<Stage>,
    at: usize,
    left: u64,
    /// The number of its request, so that steps of earlier ones count no more.
    request: u64,
    tokens: u64,
    /// The tokens that it had, and the time, when its request began.
    began: (u64, u64),
}

/// The end of a request, for who learns from it.
#[derive(Clone, Debug)]
pub(crate) struct Ending {
    pub(crate) client: usize,
    pub(crate) ring: Vec<Stage>,
    /// The tokens that came, and the nanoseconds from one to the next, on average.
    pub(crate) tokens: u64,
    pub(crate) token_ns: u64,
    /// Whether the answer is complete; else the ring was refused or broke.
    pub(crate) is_whole: bool,
}

/// The counts since the counters were last set back.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) tokens: u64,
    /// Requests that ended because a machine of their ring was lost.
    pub(crate) broken: u64,
    /// Requests that were not opened because a machine of their ring was gone already.
    pub(crate) not_opened: u64,
    /// The times that a client found no ring.
    pub(crate) no_ring: u64,
    /// The most steps that waited for one machine.
    pub(crate) most_waiting: usize,
}

/// Machines and clients in virtual time.
pub(crate) struct Service {
    machines: Vec<Runtime>,
    clients: Vec<Client>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    now_ns: u64,
    put: u64,
    numbers: Numbers,
    /// Whether nobody asks any more.
    is_closed: bool,
    /// The client that asks for a ring now.
    asking: usize,
    /// The first of the clients whose answers all have as many tokens, and that number, if any do.
    short: Option<(usize, u64)>,
    /// The requests that ended since they were taken the last time, if anybody wants them.
    endings: Option<Vec<Ending>>,
    /// Since the last time that the counters were set back.
    pub(crate) counts: Counts,
    /// Requests that were made, and those that ended, since the beginning.
    pub(crate) asked: u64,
    pub(crate) ended: u64,
}

impl Service {
    /// Creates machines that idle, and clients who all ask within the first second.
    pub(crate) fn new(seed: u64, machines: &[Machine], clients: usize) -> Self {
        let mut service = Self {
            machines: Vec::new(),
            clients: Vec::new(),
            events: BinaryHeap::new(),
            now_ns: 0,
            put: 0,
            numbers: Numbers::new(seed),
            is_closed: false,
            asking: 0,
            short: None,
            endings: None,
            counts: Counts::default(),
            asked: 0,
            ended: 0,
        };
        machines.iter().for_each(|machine| service.add(machine));
        for client in 0..clients {
            service.clients.push(Client::default());
            let at = service.numbers.below(1_000_000_000);
            service.put(at, Event::Ask { client });
        }
        service
    }

    /// Adds a machine; its number is that of machines before.
    pub(crate) fn add(&mut self, machine: &Machine) {
        self.machines.push(Runtime {
            pace: Pace::of(&machine.speed),
            latency_us: machine.latency_us,
            waiting: VecDeque::new(),
            running: Vec::new(),
            sessions: 0,
            is_alive: true,
            is_busy: false,
            start: 0,
        });
    }

    /// Ends the process of a machine at once. Requests over it end when somebody notices: the step
    /// that is there, or the next that comes, is lost, and the client asks again.
    pub(crate) fn kill(&mut self, machine: usize) {
        if let Some(runtime) = self.machines.get_mut(machine) {
            runtime.is_alive = false;
            let lost: Vec<Item> =
                runtime.waiting.drain(..).chain(runtime.running.drain(..)).collect();
            for item in lost {
                self.fail(item.client, item.request);
            }
        }
    }

    /// Returns whether a machine takes another session, if it lives: who looks for a ring does not
    /// see that.
    pub(crate) fn has_room(&self, machine: usize) -> bool {
        self.machines.get(machine).is_some_and(|it| it.sessions < SESSIONS)
    }

    /// Returns the number of sessions of a machine.
    pub(crate) fn sessions(&self, machine: usize) -> u32 {
        self.machines.get(machine).map_or(0, |it| it.sessions)
    }

    /// Returns the client that asks for a ring now.
    pub(crate) const fn asking(&self) -> usize {
        self.asking
    }

    /// Has each answer of the clients from `first` on `tokens` tokens, at least one.
    pub(crate) const fn answer_shortly(&mut self, first: usize, tokens: u64) {
        self.short = Some((first, tokens));
    }

    /// Returns the requests that ended since the last call; none at the first.
    pub(crate) fn take_endings(&mut self) -> Vec<Ending> {
        self.endings.replace(Vec::new()).unwrap_or_default()
    }

    /// Ends the request of a client that has waited for long enough; it asks again.
    pub(crate) fn give_up(&mut self, client: usize) {
        if let Some(request) = self.clients.get(client).map(|it| it.request) {
            self.fail(client, request);
        }
    }

    /// Returns the seconds of virtual time so far.
    pub(crate) fn now_s(&self) -> f64 {
        self.now_ns as f64 / 1e9
    }

    /// Returns the tokens of each client since the counters were last set back.
    pub(crate) fn shares(&self) -> Vec<f64> {
        self.clients.iter().map(|client| client.tokens as f64).collect()
    }

    /// Returns the number of sessions that machines hold now.
    pub(crate) fn held(&self) -> u64 {
        self.machines.iter().map(|machine| u64::from(machine.sessions)).sum()
    }

    /// Returns the average number of stages of the rings that requests use now.
    pub(crate) fn mean_stages(&self) -> f64 {
        let asking = self.clients.iter().filter(|client| !client.ring.is_empty()).count();
        self.held() as f64 / asking.max(1) as f64
    }

    /// Sets all counters of machines and clients back.
    pub(crate) fn reset(&mut self) {
        self.counts = Counts::default();
        self.clients.iter_mut().for_each(|client| client.tokens = 0);
    }

    /// Runs to a time, in seconds. `ring` gives a ring for a request, over machines that have room.
    pub(crate) fn run_to(&mut self, end_s: f64, mut ring: impl FnMut(&Self) -> Option<Vec<Stage>>) {
        let end_ns = (end_s * 1e9) as u64;
        while let Some(Reverse((at, _, event))) = self.events.peek().copied() {
            if at > end_ns {
                break;
            }
            self.events.pop();
            self.now_ns = at;
            match event {
                Event::Ask { client } => {
                    self.asking = client;
                    let found = ring(self);
                    self.ask(client, found);
                }
                Event::Arrive { client, request } => self.arrive(client, request),
                Event::Done { machine, start } => self.done(machine, start),
            }
        }
        self.now_ns = end_ns;
    }

    /// Lets all requests come to their end, and nobody make another.
    pub(crate) fn close(&mut self) {
        self.is_closed = true;
        self.run_to(self.now_s() + LAST_END_S, |_| None);
    }

    fn put(&mut self, at: u64, event: Event) {
        self.put += 1;
        self.events.push(Reverse((at, self.put, event)));
    }

    fn ask(&mut self, client: usize, ring: Option<Vec<Stage>>) {
        if self.is_closed {
            return;
        }
        let Some(ring) = ring.filter(|ring| !ring.is_empty()) else {
            self.counts.no_ring += 1;
            return self.put(self.now_ns + AGAIN_NS, Event::Ask { client });
        };
        let lives = |stage: &Stage| self.machines.get(stage.machine).is_some_and(|it| it.is_alive);
        if !ring.iter().all(lives) {
            // The lease does not come round.
            self.counts.not_opened += 1;
            let ending = Ending { client, ring, tokens: 0, token_ns: 0, is_whole: false };
            self.endings.iter_mut().for_each(|all| all.push(ending.clone()));
            return self.put(self.now_ns + AGAIN_NS, Event::Ask { client });
        }
        self.asked += 1;
        for stage in &ring {
            if let Some(machine) = self.machines.get_mut(stage.machine) {
                machine.sessions += 1;
            }
        }
        let drawn = TOKENS.0 + self.numbers.below(TOKENS.1);
        let left = self.short.filter(|(first, _)| client >= *first).map_or(drawn, |(_, left)| left);
        if let Some(asking) = self.clients.get_mut(client) {
            (asking.ring, asking.at, asking.left) = (ring, 0, left);
            asking.request += 1;
            asking.began = (asking.tokens, self.now_ns);
            let request = asking.request;
            self.put(self.now_ns, Event::Arrive { client, request });
        }
    }

    fn arrive(&mut self, client: usize, request: u64) {
        let Some(asking) = self.clients.get(client).filter(|it| it.request == request) else {
            return;
        };
        // Behind the last stage a step comes back to the first, to the head.
        let is_head = asking.at >= asking.ring.len();
        let stage = asking.ring.get(if is_head { 0 } else { asking.at }).copied();
        let Some(stage) = stage else { return };
        let item = Item { client, request, is_head, first: stage.first, end: stage.end };
        let machine = self.machines.get_mut(stage.machine).filter(|machine| machine.is_alive);
        let Some(machine) = machine else {
            return self.fail(client, request);
        };
        machine.waiting.push_back(item);
        self.counts.most_waiting = self.counts.most_waiting.max(machine.waiting.len());
        self.start(stage.machine);
    }

    /// Begins the next batch of a machine that idles.
    fn start(&mut self, number: usize) {
        let Some(machine) = self.machines.get_mut(number) else { return };
        if machine.is_busy || machine.waiting.is_empty() {
            return;
        }
        let most = machine.waiting.len().min(DECODE_BATCH);
        machine.running = machine.waiting.drain(..most).collect();
        machine.start += 1;
        machine.is_busy = true;
        let (start, at) = (machine.start, self.now_ns + cost_ns(&machine.pace, &machine.running));
        self.put(at, Event::Done { machine: number, start });
    }

    fn done(&mut self, number: usize, start: u64) {
        let Some(machine) = self.machines.get_mut(number).filter(|it| it.start == start) else {
            return;
        };
        for item in std::mem::take(&mut machine.running) {
            self.computed(number, item);
        }
        if let Some(machine) = self.machines.get_mut(number) {
            machine.is_busy = false;
        }
        self.start(number);
    }

    /// Sends a computed step on.
    fn computed(&mut self, number: usize, item: Item) {
        let client = item.client;
        let Some(asking) = self.clients.get_mut(client).filter(|it| it.request == item.request)
        else {
            return;
        };
        if item.is_head {
            (asking.tokens, asking.left, asking.at) = (asking.tokens + 1, asking.left - 1, 0);
            self.counts.tokens += 1;
            if asking.left == 0 {
                self.release(client, true);
                return self.put(self.now_ns, Event::Ask { client });
            }
            // The next step begins where the head is.
            return self.arrive(client, item.request);
        }
        asking.at += 1;
        let next = asking.ring.get(asking.at).or_else(|| asking.ring.first()).copied();
        let Some(next) = next else { return };
        let latency = |at: usize| self.machines.get(at).map_or(0, |it| it.latency_us * 1000);
        let hop = if next.machine == number { 0 } else { latency(number) + latency(next.machine) };
        self.put(self.now_ns + hop, Event::Arrive { client, request: item.request });
    }

    /// Ends a request whose ring is broken; its client asks again.
    fn fail(&mut self, client: usize, request: u64) {
        if self.clients.get(client).is_some_and(|it| it.request == request && !it.ring.is_empty()) {
            self.counts.broken += 1;
            self.release(client, false);
            self.put(self.now_ns + AGAIN_NS, Event::Ask { client });
        }
    }

    /// Frees what a request holds on all machines of its ring.
    fn release(&mut self, client: usize, is_whole: bool) {
        let Some(asking) = self.clients.get_mut(client) else { return };
        asking.request += 1;
        self.ended += 1;
        let ring = std::mem::take(&mut asking.ring);
        let (before, began) = asking.began;
        let tokens = asking.tokens.saturating_sub(before);
        let token_ns = (self.now_ns - began) / tokens.max(1);
        if let Some(endings) = &mut self.endings {
            endings.push(Ending { client, ring: ring.clone(), tokens, token_ns, is_whole });
        }
        for stage in ring {
            if let Some(machine) = self.machines.get_mut(stage.machine) {
                machine.sessions -= 1;
            }
        }
    }
}

/// The nanoseconds of a batch.
fn cost_ns(pace: &Pace, items: &[Item]) -> u64 {
    let heads = items.iter().filter(|item| item.is_head).count();
    let mut ns = if heads > 0 { pace.head_ns(heads as u32) } else { 0 };
    // How many steps begin and end at each layer.
    let mut changes = [0_i32; LAYERS as usize + 1];
    for item in items.iter().filter(|item| !item.is_head) {
        changes[item.first as usize] += 1;
        changes[item.end as usize] -= 1;
    }
    let mut count = 0;
    for change in changes {
        count += change;
        if count > 0 {
            ns += pace.layer_ns(count.cast_unsigned());
        }
    }
    ns
}
