//! Fifty clients at two replicas of a ring of three servers: nobody gets more than its share, and
//! nothing is left behind.

mod support;

use lockstep_proto::announcement::Status;
use lockstep_proto::failure::Reason;
use lockstep_proto::limits;
use lockstep_proto::now::Now;
use lockstep_proto::server::Capacity;
use lockstep_proto::swarm::chooser::{Chooser, Source};
use lockstep_proto::swarm::demand::Demand;
use lockstep_proto::swarm::trust::Experience;
use lockstep_testing::hash_model::{HashModel, model, vocabulary};
use lockstep_testing::numbers::Numbers;
use lockstep_testing::ring::Ring;
use lockstep_verify::request::{Hop, Request};
use support::{SECOND, error_of, nothing_is_left, prompt, receipt_of, refusal_of};

const CLIENTS: usize = 50;
const SERVERS: usize = 6;
/// Clients that want as many answers at once as [`GREED`].
const GREEDY: usize = 5;
const GREED: usize = 6;

/// A request under way.
struct Running {
    number: usize,
    request: Request,
    route: Vec<Hop>,
    /// When its client wants no more of it.
    until: Option<Now>,
}

/// One of the clients, which asks again and again.
struct Visitor {
    chooser: Chooser,
    running: Vec<Running>,
    all: Vec<usize>,
    /// When it asks next, after a refusal or a pause.
    next: Now,
}

/// The crowd, its servers, and what was seen of them.
struct Crowd {
    ring: Ring<HashModel>,
    numbers: Numbers,
    visitors: Vec<Visitor>,
    asked: usize,
    answers: usize,
    cancelled: usize,
    refused: usize,
    /// The most requests that waited at a server, and the longest queue of work.
    most_waiting: usize,
    most_queued: u32,
}

fn statuses(ring: &Ring<HashModel>) -> Vec<Status> {
    (0..SERVERS).filter_map(|server| Some(ring.server(server)?.status())).collect()
}

impl Crowd {
    fn new(seed: u64) -> Self {
        let capacity = Capacity { sessions: 16, ..Capacity::default() };
        let replica = || vec![(0..2, capacity), (2..4, capacity), (4..6, capacity)];
        let spans = [replica(), replica()].concat();
        let mut ring =
            Ring::of_spans(seed, (model(), vocabulary()), spans, |_| HashModel::default());
        ring.weather.item_us = 5_000;
        let demand = Demand::of(&model(), 1);
        let mut own = Experience::new(seed);
        statuses(&ring).iter().for_each(|status| own.named(status.node));
        let visitor = |_| Visitor {
            chooser: Chooser::new(demand.clone(), statuses(&ring), own.clone()),
            running: Vec::new(),
            all: Vec::new(),
            next: ring.now(),
        };
        let visitors = (0..CLIENTS).map(visitor).collect();
        let numbers = Numbers::new(seed);
        Self {
            ring,
            numbers,
            visitors,
            asked: 0,
            answers: 0,
            cancelled: 0,
            refused: 0,
            most_waiting: 0,
            most_queued: 0,
        }
    }

    /// Has a client ask once more.
    fn ask(&mut self, client: usize) {
        let now = self.ring.now();
        let Ok(route) = self.visitors[client].chooser.begin(now) else {
            self.visitors[client].next = now.after(SECOND);
            return;
        };
        let number = self.asked;
        self.asked += 1;
        self.ring.connect_as(number, 1_000_000 + client);
        let length = 5 + u32::try_from(self.numbers.below(200)).unwrap();
        let tokens = 8 + u32::try_from(self.numbers.below(8)).unwrap();
        let mut request = self.ring.request(number, prompt(length), tokens);
        request.stops.ignore_end = true;
        assert_eq!(self.ring.ask(request.clone(), route.clone()), Ok(number));
        let gives_up = self.numbers.below(8) == 0;
        let until = gives_up.then(|| now.after(self.numbers.below(4 * SECOND)));
        let visitor = &mut self.visitors[client];
        visitor.running.push(Running { number, request, route, until });
        visitor.all.push(number);
        visitor.next = now.after(self.numbers.below(SECOND / 5));
    }

    /// Looks after the requests of a client: what has ended, and what is cancelled.
    fn look_after(&mut self, client: usize) {
        let now = self.ring.now();
        for one in std::mem::take(&mut self.visitors[client].running) {
            let is_over = self.ring.outcome(one.number).is_some();
            if !is_over && one.until.is_some_and(|until| until <= now) {
                self.ring.cancel(one.number);
                self.cancelled += 1;
                self.visitors[client].chooser.ended();
            } else if !is_over {
                self.visitors[client].running.push(one);
            } else {
                self.visitors[client].chooser.ended();
                self.end(client, &one);
            }
        }
    }

    /// Notes how a request ended that was not cancelled.
    fn end(&mut self, client: usize, one: &Running) {
        if matches!(self.ring.outcome(one.number), Some(Ok(_))) {
            receipt_of(&self.ring, one.number, &one.request);
            self.answers += 1;
            return;
        }
        let error = error_of(&self.ring, one.number);
        assert!(refusal_of(&error).is_some(), "client {client}: {error}");
        let retry_ms = error.retry_ms().unwrap();
        let place = error.reported().or_else(|| error.stage()).unwrap_or_default() as usize;
        let visitor = &mut self.visitors[client];
        let source = match place {
            0 => Source::Own,
            _ => Source::Reported(one.route[0].node),
        };
        let now = self.ring.now();
        visitor.chooser.refused(now, one.route[place].node, retry_ms, source);
        visitor.next = self.ring.now().after(u64::from(retry_ms) * 1000 / 2);
        self.refused += 1;
    }

    /// Lets clients come and go for a while.
    fn run_for(&mut self, us: u64) {
        let end = self.ring.now().after(us);
        while self.ring.now() < end {
            self.ring.run_for(20_000);
            let seen = statuses(&self.ring);
            for client in 0..CLIENTS {
                self.look_after(client);
                self.visitors[client].chooser.see(seen.clone());
                let wants = if client < GREEDY { GREED } else { 1 };
                let visitor = &self.visitors[client];
                if visitor.running.len() < wants && visitor.next <= self.ring.now() {
                    self.ask(client);
                }
            }
            for server in (0..SERVERS).filter_map(|server| self.ring.server(server)) {
                self.most_waiting = self.most_waiting.max(server.waiting());
                self.most_queued = self.most_queued.max(server.status().queue);
            }
        }
    }

    /// The tokens that a client has got, of all its requests.
    fn service(&self, client: usize) -> f64 {
        self.visitors[client].all.iter().map(|number| self.ring.tokens(*number).len() as f64).sum()
    }
}

/// Jain's index: 1 if all have the same, 1/n if one has everything.
fn jain(served: &[f64]) -> f64 {
    let sum: f64 = served.iter().sum();
    let squares: f64 = served.iter().map(|one| one * one).sum();
    sum * sum / (served.len() as f64 * squares)
}

#[test]
fn fifty_clients_that_come_and_go_share_two_replicas_and_leave_nothing() {
    let mut crowd = Crowd::new(1);
    crowd.run_for(30 * SECOND);
    let served: Vec<f64> = (0..CLIENTS).map(|client| crowd.service(client)).collect();
    let index = jain(&served);
    let Crowd { answers, cancelled, refused, most_waiting, most_queued, asked, .. } = crowd;
    println!(
        "{asked} requests: {answers} answers, {cancelled} cancelled, {refused} refused; \
         {:.0} tokens, Jain index {index:.3}, {most_waiting} waited, queue {most_queued}",
        served.iter().sum::<f64>(),
    );
    println!("tokens of each client: {served:?}");
    assert!(index >= 0.9, "Jain index {index}: {served:?}");
    assert!(answers > 200 && cancelled > 20, "{answers} answers, {cancelled} cancelled");
    assert!(most_waiting > 5 && most_waiting <= limits::WAITING, "{most_waiting} waited");
    assert!(most_queued as usize <= 64 * limits::LANE_ITEMS, "{most_queued} items waited");
    let left: Vec<usize> = crowd
        .visitors
        .iter()
        .flat_map(|visitor| visitor.running.iter().map(|one| one.number))
        .collect();
    left.iter().for_each(|number| crowd.ring.cancel(*number));
    crowd.ring.run_for(SECOND);
    for number in left {
        if let Some(Err(error)) = crowd.ring.outcome(number) {
            let is_cancelled = error.to_string().contains(&Reason::Cancelled.to_string());
            assert!(is_cancelled || refusal_of(error).is_some(), "{error}");
        }
    }
    nothing_is_left(&mut crowd.ring, 0..SERVERS);
}
