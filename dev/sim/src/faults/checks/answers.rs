//! An answer that is accepted is that of a single process; an audit convicts liars and nobody else.

use lockstep_testing::hash_model::HashModel;
use lockstep_verify::challenge::Target;
use lockstep_verify::receipt::Receipt;

use super::super::world::World;
use crate::judge::{Verdict, judge};
use crate::report::Report;

/// Audits an answer, and counts it if it is accepted.
pub(super) fn check(world: &mut World, report: &mut Report, at: usize, receipt: &Receipt) {
    let asked = &world.asked[at];
    let lies = |stage: u32| {
        let server = asked.servers.get(stage as usize);
        server.is_some_and(|server| world.servers[*server].script.is_some())
    };
    let client = asked.client;
    let verdict = if world.is_audited { judge(receipt) } else { Verdict::Sound };
    let liar = match verdict {
        Verdict::Sound => return accept(world, report, at, receipt),
        Verdict::Convicts(stage) => (lies(stage), asked.servers.get(stage as usize).copied()),
        Verdict::Disputed(stage) => (lies(stage) || stage > 0 && lies(stage - 1), None),
    };
    let (is_liar, server) = liar;
    if is_liar {
        let mark = if server.is_some() { "liar_convicted" } else { "liar_disputed" };
        world.marks.reach(mark);
        world.ask_again(at, server);
    } else {
        report.honest_blamed += 1;
        report.faults.push(format!("client {client}: the audit convicts honest server {server:?}"));
    }
}

/// Holds an answer that nothing speaks against to that of a single process, and asks for cells of
/// some.
fn accept(world: &mut World, report: &mut Report, at: usize, receipt: &Receipt) {
    let asked = &world.asked[at];
    let client = asked.client;
    let expected = HashModel::whole_answer(&asked.request);
    if (receipt.answer.clone(), receipt.finish) != expected
        || world.ring.tokens(client) != receipt.answer
    {
        report.wrong_tokens += 1;
        report.faults.push(format!("client {client}: a wrong answer was accepted"));
    }
    report.tokens += receipt.answer.len() as u64;
    world.marks.reach("answered");
    if asked.attempt > 1 {
        world.marks.reach("answered_by_others");
    }
    if world.numbers.below(3) == 0 {
        let positions = receipt.segments.first().map_or(0, |segment| segment.positions);
        let last = positions.saturating_sub(1);
        let layer =
            |layer| Target::Layer { layer, first: 0, end: positions, positions: vec![last] };
        let layers = receipt.segments.iter().map(|segment| layer(segment.first));
        let targets = layers.chain([Target::Head { positions: vec![last] }]).collect();
        world.asked[at].is_challenged = true;
        world.ring.challenge(client, targets);
    }
}
