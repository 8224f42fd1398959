//! The scenario `balance`: uneven machines place themselves, clients ask all the time, and what
//! they get is held against the maximum flow.
//!
//! Real here: the flow, the rings along it and the cost of batches. Models: machines as what they
//! can compute per second ([`crate::swarm`]), everybody's view as the truth.

use std::ops::Range;

use lockstep_testing::numbers::Numbers;

use crate::report::{Report, jain};
use crate::swarm::bound::{max_flow, of_any_placement};
use crate::swarm::machines::Machine;
use crate::swarm::policy::Policy;
use crate::swarm::service::Service;

/// Clients for each machine: enough that every machine has a full batch.
const CLIENTS: usize = 64;
/// Tokens of each client in the time that is measured, if the bound is reached.
const TOKENS: f64 = 60.0;
/// The part of that time which passes before anything is measured.
const WARM_UP: f64 = 0.5;
/// The least shares that the scenario promises of our own policy.
const LEAST_SHARE: f64 = 0.9;
const LEAST_JAIN: f64 = 0.9;

/// Draws the machines of a swarm.
pub(crate) fn draw_machines(numbers: &mut Numbers, nodes: usize) -> Vec<Machine> {
    (0..nodes).map(|number| Machine::draw(numbers, number)).collect()
}

/// Returns the bound of machines with these spans, in tokens per second.
pub(crate) fn bound(machines: &[Machine], spans: &[Range<u32>]) -> f64 {
    let placed = |(machine, span): (&Machine, &Range<u32>)| (machine.layers_per_s(), span.clone());
    max_flow(&machines.iter().zip(spans).map(placed).collect::<Vec<_>>())
}

/// Runs the scenario `balance` from a seed.
#[must_use]
pub fn run(seed: u64, nodes: usize, policy: Policy) -> Report {
    let mut report = Report::default();
    let mut numbers = Numbers::new(seed);
    let machines = draw_machines(&mut numbers, nodes);
    let spans = policy.place(&machines);
    let flow = bound(&machines, &spans);
    if flow <= 0.0 {
        report.faults.push(format!("{policy}: the machines do not hold every layer"));
        report.share_of_max_flow = Some(0.0);
        return report;
    }
    let mut router = policy.router(&machines, &spans, &vec![true; nodes], seed);
    let clients = CLIENTS * nodes;
    let mut service = Service::new(seed, &machines, clients);
    let measured_s = TOKENS * clients as f64 / flow;
    let warm_s = measured_s * WARM_UP;
    service.run_to(warm_s, |service| router.next(|machine| service.has_room(machine)));
    service.reset();
    service.run_to(warm_s + measured_s, |service| router.next(|machine| service.has_room(machine)));
    let rate = service.counts.tokens as f64 / measured_s;
    let best = of_any_placement(machines.iter().map(Machine::layers_per_s));
    report.share_of_max_flow = Some(rate / flow);
    report.jain = jain(&service.shares());
    report.figures.insert("tokens_per_s", rate);
    report.figures.insert("max_flow_tokens_per_s", flow);
    report.figures.insert("share_of_best_placement", rate / best);
    report.figures.insert("max_flow_share_of_best_placement", flow / best);
    report.figures.insert("no_ring", service.counts.no_ring as f64);
    report.figures.insert("stages", service.mean_stages());
    report.figures.insert("most_waiting", service.counts.most_waiting as f64);
    report.tokens = service.counts.tokens;
    report.virtual_us = (service.now_s() * 1e6) as u64;
    end(&mut service, &mut report);
    if policy == Policy::Ours {
        promise(&mut report);
    }
    report
}

/// Lets all requests end, and checks that they do and that machines then hold nothing.
pub(crate) fn end(service: &mut Service, report: &mut Report) {
    service.close();
    (report.sessions, report.ended) = (service.asked, service.ended);
    report.leaked_pages = service.held();
    if report.sessions != report.ended || report.leaked_pages > 0 {
        let (asked, ended, held) = (report.sessions, report.ended, report.leaked_pages);
        report.faults.push(format!("{ended} of {asked} requests ended, {held} are still held"));
    }
}

fn promise(report: &mut Report) {
    let (share, jain) = (report.share_of_max_flow, report.jain);
    if share.is_none_or(|share| share < LEAST_SHARE) {
        report.faults.push(format!("{share:?} of the maximum flow is less than {LEAST_SHARE}"));
    }
    if jain.is_none_or(|jain| jain < LEAST_JAIN) {
        report.faults.push(format!("Jain's index {jain:?} is less than {LEAST_JAIN}"));
    }
}
