//! The scenario `sybils`: to an honest swarm come nodes that announce what is not so, and what its
//! users get is held against what they get without those nodes.
//!
//! Real here: trust ([`lockstep_proto::swarm::trust`]), placement, the flow and the rings along it.
//! Models: machines and clients as what they can compute ([`crate::swarm`]), and audits, which
//! convict a server that computes something else in every canary and in one answer of two.
//!
//! Each user has its own experience, begins with two servers that a person named, and sends one
//! canary at a time beside its requests. The same is run with users who believe every announcement.
//!
//! It fails if a request of a user goes over a liar that has not shown what it can, or if such
//! liars get a twentieth of all tokens, canaries' included. How much of the honest throughput is
//! left beside liars is shown, and is no condition.

use std::collections::BTreeMap;
use std::ops::Range;

use lockstep_proto::announcement::{Speed, Status};
use lockstep_proto::now::Now;
use lockstep_proto::swarm::demand::Demand;
use lockstep_proto::swarm::flow::flow;
use lockstep_proto::swarm::trust::{Experience, Standing};
use lockstep_proto::swarm::weighted::Weighted;
use lockstep_testing::numbers::Numbers;
use lockstep_verify::request::Hop;
use lockstep_verify::sign::NodeId;

use crate::balance::draw_machines;
use crate::report::Report;
use crate::swarm::machines::{LAYERS, Machine};
use crate::swarm::policy::{Policy, demand};
use crate::swarm::service::{Ending, Service, Stage};

/// Users, each with its own experience.
const USERS: usize = 4;
/// Clients of all users together for each honest machine.
const CLIENTS: usize = 16;
/// Seconds of virtual time before anything is measured, and seconds that are measured.
const WARM_UP_S: f64 = 240.0;
const MEASURED_S: f64 = 120.0;
/// Seconds between two looks at what came of requests.
const LOOK_S: f64 = 1.0;
/// The tokens of a canary's answer, and the seconds after which it is given up.
const CANARY_TOKENS: u64 = 4;
const CANARY_S: f64 = 30.0;
/// The most that nodes may get of all tokens, canaries' included, which lie and have not shown what
/// they can to who asks.
const MOST_UNEARNED: f64 = 0.05;

/// What a lying node does behind its announcement of every layer in next to no time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    /// It holds nothing and refuses every session.
    Empty,
    /// It computes something else, in the time that it announces.
    False,
    /// It computes what it should, eight times slower than the slowest honest machine.
    Slow,
}

/// The swarm: honest machines and then liars, with what each announces.
struct Swarm {
    machines: Vec<Machine>,
    announced: Vec<Status>,
    /// For each machine its lie, if it lies.
    lies: Vec<Option<Lie>>,
    numbers: BTreeMap<NodeId, usize>,
}

impl Swarm {
    /// Draws honest machines, which place themselves, and liars beside them.
    fn draw(seed: u64, honest: usize, liars: usize) -> Self {
        let mut numbers = Numbers::new(seed);
        let mut machines = draw_machines(&mut numbers, honest);
        let spans: Vec<Range<u32>> = Policy::Ours.place(&machines);
        let placed = machines.iter().zip(&spans).filter(|(_, span)| !span.is_empty());
        let mut announced: Vec<Status> =
            placed.map(|(machine, span)| machine.status(span)).collect();
        let mut lies = vec![None; machines.len()];
        for number in 0..liars {
            let mut liar = Machine::draw(&mut numbers, honest + number);
            let status = liar.status(&(0..LAYERS));
            announced.push(Status { speed: evenly(1), ..status });
            let lie = [Lie::Empty, Lie::False, Lie::Slow][number % 3];
            let slower = if lie == Lie::Slow { 64 } else { 1 };
            let ns = 4_000_000 * slower / if lie == Lie::False { 64 } else { 1 };
            liar.speed = evenly(ns);
            machines.push(liar);
            lies.push(Some(lie));
        }
        let numbers = (0..).zip(&machines).map(|(at, machine)| (machine.node, at)).collect();
        Self { machines, announced, lies, numbers }
    }

    fn lie_of(&self, stage: &Stage) -> Option<Lie> {
        self.lies.get(stage.machine).copied().flatten()
    }

    fn hops(&self, ring: &[Stage]) -> Vec<Hop> {
        let hop = |stage: &Stage| {
            let node = self.machines[stage.machine].node;
            Hop { node, first: stage.first, end: stage.end }
        };
        ring.iter().map(hop).collect()
    }

    fn stages(&self, ring: &[Hop]) -> Option<Vec<Stage>> {
        let stage = |hop: &Hop| {
            let machine = *self.numbers.get(&hop.node)?;
            Some(Stage { machine, first: hop.first, end: hop.end })
        };
        ring.iter().map(stage).collect()
    }
}

/// The speed of a server that takes `ns` for a layer, whatever the batch.
const fn evenly(ns: u32) -> Speed {
    Speed { decode_ns: [ns; 3], head_ns: [ns; 3], prefill_ns: ns }
}

/// A user: what it has seen, and the rings of its requests and of its canary.
struct User {
    experience: Experience,
    rings: Option<Weighted>,
    canary: Option<Vec<Stage>>,
    /// When its canary began that is under way.
    canary_s: Option<f64>,
}

impl User {
    fn new(swarm: &Swarm, number: usize, numbers: &mut Numbers) -> Self {
        let mut experience = Experience::new(number as u64);
        for _ in 0..2 {
            let honest = swarm.lies.iter().filter(|lie| lie.is_none()).count();
            let at = numbers.below(honest as u64) as usize;
            experience.named(swarm.machines[at].node);
        }
        Self { experience, rings: None, canary: None, canary_s: None }
    }

    /// Plans anew with what was seen.
    fn plan(&mut self, swarm: &Swarm, believes: bool, now: Now, demand: &Demand) {
        if believes {
            self.rings = flow(&swarm.announced, demand).ok().map(|flow| flow.rings);
            return;
        }
        let believed = self.experience.believed(&swarm.announced);
        let users = self.experience.of_users(demand);
        self.rings = flow(&believed, &users).ok().map(|flow| flow.rings);
        let canary = self.experience.canary(&swarm.announced, demand, now);
        self.canary = canary.and_then(|ring| swarm.stages(&ring));
    }

    /// Learns from how a request ended, whose audit finds what is wrong if `is_found`.
    fn learn(&mut self, swarm: &Swarm, (ending, is_found): (&Ending, bool), now: Now) {
        let ring = swarm.hops(&ending.ring);
        let lies = |lie: Lie| ending.ring.iter().filter(move |it| swarm.lie_of(it) == Some(lie));
        if !ending.is_whole {
            let standing = |hop: &&Hop| self.experience.standing(hop.node);
            let unproven = ring.iter().filter(|hop| standing(hop) == Standing::Unproven);
            let unproven: Vec<NodeId> = unproven.map(|hop| hop.node).collect();
            unproven.into_iter().for_each(|node| self.experience.failed(node, now));
        } else if let Some(stage) = lies(Lie::False).next() {
            if is_found {
                self.experience.convicted(swarm.machines[stage.machine].node);
            }
        } else {
            ring.iter().for_each(|hop| self.experience.verified(hop.node));
        }
        if ending.is_whole {
            let ns = ending.token_ns;
            self.experience.timed(&swarm.announced, &demand(), &ring, ns);
        }
    }
}

/// What users got in the time that was measured.
#[derive(Default)]
struct Got {
    /// The tokens of answers that were computed as they should be.
    right: u64,
    /// The tokens of other answers.
    wrong: u64,
    /// The canaries of the whole run.
    canaries: u64,
    /// Requests of users that went over a liar before it had shown what it can, in the whole run.
    users_unearned: u64,
    /// The tokens of such requests and of canaries, and the tokens of all, in the whole run.
    tokens_unearned: u64,
    tokens_all: u64,
    /// Seconds until every user had a ring.
    all_have_rings_s: f64,
    banned: u64,
    asked: u64,
    ended: u64,
    held: u64,
}

impl Got {
    /// Counts a request, or a canary, of a user who has not learned from it yet. The tokens of a
    /// request count if they are `measured`.
    fn add(
        &mut self,
        swarm: &Swarm,
        user: &User,
        (ending, is_canary): (&Ending, bool),
        measured: bool,
    ) {
        let is_false = |stage: &Stage| swarm.lie_of(stage) == Some(Lie::False);
        self.canaries += u64::from(is_canary);
        if !is_canary && measured {
            let is_wrong = ending.ring.iter().any(is_false);
            *(if is_wrong { &mut self.wrong } else { &mut self.right }) += ending.tokens;
        }
        let is_unearned = |stage: &Stage| {
            let node = swarm.machines.get(stage.machine).map(|machine| machine.node);
            let standing = node.map(|node| user.experience.standing(node));
            swarm.lie_of(stage).is_some() && standing == Some(Standing::Unproven)
        };
        // A canary that is refused counts as its answer would.
        let tokens = ending.tokens.max(1);
        self.tokens_all += tokens;
        if ending.ring.iter().any(is_unearned) {
            self.tokens_unearned += tokens;
            self.users_unearned += u64::from(!is_canary);
        }
    }
}

/// Runs a swarm; users believe every announcement if `believes`.
fn serve(seed: u64, swarm: &mut Swarm, believes: bool) -> Got {
    let honest = swarm.lies.iter().filter(|lie| lie.is_none()).count();
    let mut numbers = Numbers::new(seed);
    // The last clients are those that send canaries.
    let clients = (honest * CLIENTS).next_multiple_of(USERS);
    let mut service = Service::new(seed, &swarm.machines, clients + USERS);
    for (machine, _) in swarm.lies.iter().enumerate().filter(|(_, it)| **it == Some(Lie::Empty)) {
        service.kill(machine);
    }
    let mut users: Vec<User> =
        (0..USERS).map(|number| User::new(swarm, number, &mut numbers)).collect();
    let demand = demand();
    let (mut got, mut now_s) = (Got::default(), 0.0);
    service.answer_shortly(clients, CANARY_TOKENS);
    service.take_endings();
    while now_s < WARM_UP_S + MEASURED_S {
        let now = Now((now_s * 1e6) as u64);
        for status in &mut swarm.announced {
            let machine = swarm.numbers.get(&status.node).copied();
            status.sessions = machine.map_or(0, |machine| service.sessions(machine));
        }
        for user in &mut users {
            user.plan(swarm, believes, now, &demand);
        }
        if users.iter().any(|user| user.rings.is_none()) {
            got.all_have_rings_s = now_s + LOOK_S;
        }
        now_s += LOOK_S;
        service.run_to(now_s, |service| {
            let client = service.asking();
            let user = users.get_mut(client % USERS)?;
            if client >= clients {
                let ring = user.canary.take()?;
                user.canary_s = Some(service.now_s());
                return Some(ring);
            }
            let has_room = |node: NodeId| {
                swarm.numbers.get(&node).is_some_and(|machine| service.has_room(*machine))
            };
            swarm.stages(&user.rings.as_mut()?.next_ring(has_room)?)
        });
        for (number, user) in users.iter_mut().enumerate() {
            if user.canary_s.is_some_and(|began| now_s - began > CANARY_S) {
                service.give_up(clients + number);
            }
        }
        for ending in service.take_endings() {
            let is_canary = ending.client >= clients;
            if let Some(user) = users.get_mut(ending.client % USERS) {
                got.add(swarm, user, (&ending, is_canary), now_s > WARM_UP_S);
                if is_canary {
                    user.canary_s = None;
                }
                // Of a canary every cell is opened.
                let is_found = is_canary || numbers.below(2) == 0;
                user.learn(swarm, (&ending, is_found), now);
            }
        }
    }
    let nodes = || swarm.machines.iter().map(|machine| machine.node);
    let is_banned = |user: &User| {
        let standing = |node: &NodeId| user.experience.standing(*node) == Standing::Banned;
        nodes().filter(standing).count() as u64
    };
    got.banned = users.iter().map(is_banned).sum();
    service.close();
    Got { asked: service.asked, ended: service.ended, held: service.held(), ..got }
}

/// Runs the scenario `sybils` from a seed: `nodes` honest machines, and `liars` percent as many
/// nodes beside them that lie.
#[must_use]
pub fn run(seed: u64, nodes: usize, liars: u64) -> Report {
    let mut report = Report::default();
    let lying = (nodes as u64 * liars / 100) as usize;
    let alone = serve(seed, &mut Swarm::draw(seed, nodes, 0), true);
    let mut swarm = Swarm::draw(seed, nodes, lying);
    let [ours, believing] = [false, true].map(|believes| serve(seed, &mut swarm, believes));
    let unearned = |got: &Got| got.tokens_unearned as f64 / got.tokens_all.max(1) as f64;
    let share = |got: &Got| got.right as f64 / alone.right.max(1) as f64;
    (report.sessions, report.ended) = (ours.asked, ours.ended);
    (report.tokens, report.leaked_pages) = (ours.right, ours.held);
    report.virtual_us = ((WARM_UP_S + MEASURED_S) * 1e6) as u64;
    let figures = [
        ("honest_tokens_per_s", alone.right as f64 / MEASURED_S),
        ("share_of_honest", share(&ours)),
        ("share_if_all_is_believed", share(&believing)),
        ("wrong_share", ours.wrong as f64 / (ours.right + ours.wrong).max(1) as f64),
        ("wrong_share_if_all_is_believed", {
            believing.wrong as f64 / (believing.right + believing.wrong).max(1) as f64
        }),
        ("unearned_share", unearned(&ours)),
        ("unearned_share_if_all_is_believed", unearned(&believing)),
        ("users_over_unproven", ours.users_unearned as f64),
        ("canaries_of_a_user", ours.canaries as f64 / USERS as f64),
        ("banned_by_a_user", ours.banned as f64 / USERS as f64),
        ("seconds_until_all_have_rings", ours.all_have_rings_s),
    ];
    report.figures.extend(figures);
    if unearned(&ours) >= MOST_UNEARNED || ours.users_unearned > 0 {
        let (share, users) = (unearned(&ours), ours.users_unearned);
        report.faults.push(format!(
            "liars got {share:.3} of the tokens before they had earned any, and {users} requests \
             of users"
        ));
    }
    report
}
