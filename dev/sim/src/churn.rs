//! The scenario `churn`: machines join, leave and crash all the time, and what everybody knows of
//! it is late.
//!
//! Real here: the flow, the rings along it, the cost of batches, and the times of gossip and
//! leases. Models: machines as what they can compute per second ([`crate::swarm`]), and news that
//! are everywhere a few rounds of gossip later; `membership` runs real gossip.

use std::collections::BTreeMap;
use std::ops::Range;

use lockstep_proto::limits;
use lockstep_proto::swarm::gossip::{lease_ms, round_us};
use lockstep_testing::numbers::Numbers;

use crate::balance::{bound, draw_machines, end};
use crate::membership;
use crate::report::{Report, jain};
use crate::swarm::bound::of_any_placement;
use crate::swarm::machines::Machine;
use crate::swarm::policy::{Policy, Router};
use crate::swarm::service::Service;

/// Clients for each machine.
const CLIENTS: usize = 64;
/// Milliseconds of virtual time before anything is measured, and altogether.
const WARM_MS: u64 = 30_000;
const END_MS: u64 = 210_000;
/// From one plan to the next.
const PLAN_MS: u64 = 5_000;
/// To fetch and load a layer.
const LOAD_LAYER_MS: u64 = 1_000;
/// The least shares that the scenario promises.
const LEAST_SHARE: f64 = 0.75;
const LEAST_JAIN: f64 = 0.9;

/// What happens at a time.
#[derive(Clone, Copy, Debug)]
enum Change {
    /// A machine dies, or is told to leave; another one joins somewhere else.
    Lose,
    Join,
    /// A machine has loaded its layers.
    Loaded(usize),
    /// Everybody knows of a machine, or knows no more of it.
    Known(usize),
    Forgotten(usize),
    /// A machine that was told to leave is gone.
    Gone(usize),
    /// The router plans again with what is known.
    Plan,
}

struct Swarm {
    numbers: Numbers,
    machines: Vec<Machine>,
    spans: Vec<Range<u32>>,
    is_alive: Vec<bool>,
    is_known: Vec<bool>,
    /// Machines that have loaded their layers and were not told to leave.
    is_serving: Vec<bool>,
    later: BTreeMap<(u64, u64), Change>,
    put: u64,
    service: Service,
    router: Router,
    report: Report,
    seed: u64,
    percent: u64,
}

/// Runs the scenario with `percent` of the machines lost in a minute, and as many new ones.
#[must_use]
pub fn run(seed: u64, nodes: usize, percent: u64) -> Report {
    let mut swarm = Swarm::new(seed, nodes, percent);
    let lost = (nodes as u64 * percent).div_ceil(100);
    for at in (0..END_MS * lost).step_by(60_000) {
        let at = at / lost.max(1);
        let (soon, later) = (swarm.numbers.below(1_000), swarm.numbers.below(10_000));
        swarm.put(at + soon, Change::Lose);
        swarm.put(at + later, Change::Join);
    }
    for at in (PLAN_MS..END_MS).step_by(PLAN_MS as usize) {
        swarm.put(at, Change::Plan);
    }
    swarm.run();
    swarm.finish()
}

impl Swarm {
    fn new(seed: u64, nodes: usize, percent: u64) -> Self {
        let mut numbers = Numbers::new(seed);
        let machines = draw_machines(&mut numbers, nodes);
        let spans = Policy::Ours.place(&machines);
        let service = Service::new(seed, &machines, CLIENTS * nodes);
        let router = Policy::Ours.router(&machines, &spans, &vec![true; nodes], seed);
        Self {
            numbers,
            machines,
            spans,
            is_alive: vec![true; nodes],
            is_known: vec![true; nodes],
            is_serving: vec![true; nodes],
            later: BTreeMap::new(),
            put: 0,
            service,
            router,
            report: Report::default(),
            seed,
            percent,
        }
    }

    fn put(&mut self, at_ms: u64, change: Change) {
        self.put += 1;
        self.later.insert((at_ms, self.put), change);
    }

    fn run(&mut self) {
        let (mut at, mut could, mut is_warm) = (0, 0.0, false);
        while let Some(((next, _), change)) = self.later.pop_first() {
            let next = next.min(END_MS);
            if !is_warm && next >= WARM_MS {
                is_warm = true;
                self.service.reset();
                (at, could) = (next, 0.0);
            }
            could += self.bound() * (next - at) as f64 / 1000.0;
            let router = &mut self.router;
            let give = |service: &Service| router.next(|machine| service.has_room(machine));
            self.service.run_to(next as f64 / 1000.0, give);
            at = next;
            if next >= END_MS {
                break;
            }
            self.happen(next, change);
        }
        let got = self.service.counts.tokens as f64;
        self.report.share_of_max_flow = (could > 0.0).then(|| got / could);
        let seconds = (at - WARM_MS) as f64 / 1000.0;
        self.report.figures.insert("tokens_per_s", got / seconds);
    }

    /// Returns the bound of the machines that serve.
    fn bound(&self) -> f64 {
        let is_it = |at: &usize| self.is_serving[*at];
        let living: Vec<usize> = (0..self.machines.len()).filter(is_it).collect();
        let machines: Vec<Machine> = living.iter().map(|at| self.machines[*at].clone()).collect();
        let spans: Vec<Range<u32>> = living.iter().map(|at| self.spans[*at].clone()).collect();
        bound(&machines, &spans)
    }

    /// Milliseconds in which news are everywhere: as many rounds of gossip as it takes to double
    /// those who know until all do, and half as many again.
    fn gossip_ms(&self) -> u64 {
        let nodes = self.is_alive.iter().filter(|alive| **alive).count();
        let rounds = u64::from(nodes.max(2).ilog2() + 1) * 3 / 2;
        rounds * round_us(nodes) / 1000
    }

    fn happen(&mut self, now: u64, change: Change) {
        match change {
            Change::Lose => self.lose(now),
            Change::Join => self.join(now),
            Change::Loaded(machine) => self.is_serving[machine] = self.is_alive[machine],
            Change::Known(machine) => self.is_known[machine] = self.is_alive[machine],
            Change::Forgotten(machine) => self.is_known[machine] = false,
            Change::Gone(machine) => {
                (self.is_alive[machine], self.is_serving[machine]) = (false, false);
                self.service.kill(machine);
            }
            Change::Plan => {
                let (machines, known) = (&self.machines, &self.is_known);
                self.router = Policy::Ours.router(machines, &self.spans, known, self.seed);
            }
        }
    }

    fn lose(&mut self, now: u64) {
        let is_it = |at: &usize| self.is_alive[*at];
        let living: Vec<usize> = (0..self.machines.len()).filter(is_it).collect();
        let at = self.numbers.below(living.len().max(1) as u64) as usize;
        let Some(&machine) = living.get(at).filter(|_| living.len() > 1) else { return };
        if self.numbers.below(2) == 0 {
            self.report.marks.reach("crashed");
            self.put(now + lease_ms(living.len()), Change::Forgotten(machine));
            self.happen(now, Change::Gone(machine));
        } else {
            self.report.marks.reach("left");
            self.is_serving[machine] = false;
            self.put(now + self.gossip_ms(), Change::Forgotten(machine));
            self.put(now + limits::DRAIN_US / 1000, Change::Gone(machine));
        }
    }

    /// A new machine looks at what is known, takes a span, loads it and tells.
    fn join(&mut self, now: u64) {
        self.report.marks.reach("joined");
        let number = self.machines.len();
        let machine = Machine::draw(&mut self.numbers, number);
        let known = (0..number).filter(|at| self.is_known[*at]);
        let others = known.map(|at| self.machines[at].status(&self.spans[at]));
        let span = Policy::join(&machine, &others.collect::<Vec<_>>());
        let load_ms = u64::from(span.end - span.start) * LOAD_LAYER_MS;
        self.service.add(&machine);
        self.machines.push(machine);
        self.spans.push(span);
        self.is_known.push(false);
        self.is_serving.push(false);
        self.put(now + load_ms, Change::Loaded(number));
        self.is_alive.push(true);
        self.put(now + load_ms + self.gossip_ms(), Change::Known(number));
    }

    fn finish(mut self) -> Report {
        let mut report = std::mem::take(&mut self.report);
        report.jain = jain(&self.service.shares());
        report.tokens = self.service.counts.tokens;
        report.virtual_us = (self.service.now_s() * 1e6) as u64;
        let best = of_any_placement(
            (0..self.machines.len())
                .filter(|at| self.is_alive[*at])
                .map(|at| self.machines[at].layers_per_s()),
        );
        report.figures.insert("max_flow_share_of_best_placement", self.bound() / best);
        let counts = self.service.counts.clone();
        let marks = [("ring_broken", counts.broken), ("ring_not_opened", counts.not_opened)];
        for (mark, _) in marks.iter().filter(|(_, count)| *count > 0) {
            report.marks.reach(mark);
        }
        report.figures.extend(marks.map(|(mark, count)| (mark, count as f64)));
        report.figures.insert("no_ring", counts.no_ring as f64);
        report.figures.insert("most_waiting", counts.most_waiting as f64);
        end(&mut self.service, &mut report);
        let promises = [
            ("share of the maximum flow", report.share_of_max_flow, LEAST_SHARE),
            ("Jain's index", report.jain, LEAST_JAIN),
        ];
        for (what, got, least) in promises {
            if got.is_none_or(|got| got < least) {
                report.faults.push(format!("{what} is {got:?}, less than {least}"));
            }
        }
        membership::run(self.seed, self.is_alive.len(), self.percent, &mut report);
        report
    }
}
