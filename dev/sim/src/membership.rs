//! Real gossip under churn: no ghosts, and no split views.
//!
//! Real here: the machine of gossip with every frame and signature, and announcements that end. A
//! model: the links.

use lockstep_proto::now::Now;
use lockstep_proto::swarm::gossip::lease_ms;
use lockstep_testing::gossip::World;
use lockstep_testing::numbers::Numbers;
use lockstep_verify::sign::NodeId;

use crate::report::Report;

/// The most nodes that gossip: each checks a signature of every other.
pub(crate) const MOST_NODES: usize = 24;
/// Seconds of churn, and of quiet afterwards.
const CHURN_S: u64 = 120;
const SECOND: u64 = 1_000_000;
/// Rounds of gossip after which everybody knows what is new, once nothing changes.
const QUIET_S: u64 = 60;

/// Lets nodes gossip while `percent` of them are lost in a minute, and checks what they know.
pub(crate) fn run(seed: u64, nodes: usize, percent: u64, report: &mut Report) {
    let nodes = nodes.clamp(2, MOST_NODES);
    let mut numbers = Numbers::new(seed);
    let mut world = World::new(seed, nodes);
    world.loss_percent = numbers.below(10);
    world.run(20 * SECOND);
    let every = (60 * 100 / (nodes as u64 * percent).max(1)).max(1);
    for second in 0..CHURN_S {
        if second % every == 0 {
            change(&mut world, &mut numbers, report);
        }
        world.run(SECOND);
        check_ghosts(&world, report);
    }
    world.loss_percent = 0;
    world.run(QUIET_S.max(lease_ms(world.nodes.len()) / 1000 * 2) * SECOND);
    check_ghosts(&world, report);
    check_views(&world, report);
    report.figures.insert("gossip_bytes_per_s", world.bytes_per_second() as f64);
}

/// One node is lost, leaves or comes back, and another one joins.
fn change(world: &mut World, numbers: &mut Numbers, report: &mut Report) {
    // The first node is in everybody's ticket.
    let living: Vec<usize> = world.living().map(|(at, _)| at).filter(|at| *at > 0).collect();
    let Some(&node) = living.get(numbers.below(living.len().max(1) as u64) as usize) else {
        return;
    };
    match numbers.below(3) {
        0 => {
            world.kill(node);
            report.marks.reach("gossip_crashed");
        }
        1 => {
            world.leave(node);
            report.marks.reach("gossip_left");
        }
        _ => {
            world.kill(node);
            world.run(numbers.below(10 * SECOND));
            world.revive(node);
            report.marks.reach("gossip_restarted");
            return;
        }
    }
    world.add();
    report.marks.reach("gossip_joined");
}

/// Nobody knows a node that has been dead for longer than its announcements were true.
fn check_ghosts(world: &World, report: &mut Report) {
    let lease_us = (lease_ms(world.nodes.len()) + 1_000) * 1000;
    let is_ghost =
        |node: NodeId| world.died(node).is_some_and(|died: Now| world.now().since(died) > lease_us);
    for (at, node) in world.living() {
        let known = node.members().iter().map(|member| member.announcement.status.node);
        let ghosts = known.filter(|node| is_ghost(*node)).count();
        if ghosts > 0 {
            report.ghosts += ghosts as u64;
            report.faults.push(format!("gossip: node {at} knows {ghosts} that are long dead"));
        }
    }
}

/// In the end every living node knows all others, and nobody else.
fn check_views(world: &World, report: &mut Report) {
    let others = world.living().count() - 1;
    for (at, node) in world.living() {
        let known = node.members().len();
        if known != others {
            report.split_views += 1;
            report.faults.push(format!("gossip: node {at} knows {known} of {others} others"));
        }
    }
}
