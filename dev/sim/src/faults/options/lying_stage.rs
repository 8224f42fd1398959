//! A server that lies, in one of the ways of the catalogue that the hash model can tell.

use lockstep_testing::hash_model::LAYERS;
use lockstep_testing::lie::{Lie, Teller};

use super::super::node::executor;
use super::{Fault, World, nothing};

pub(super) const FAULT: Fault = Fault {
    name: "lying-stage",
    begin,
    strike: nothing,
    marks: &["liar_convicted", "liar_caught_on_the_way", "liar_withheld", "frame_forged"],
};

/// Those that need no weights.
const LIES: [Lie; 17] = [
    Lie::AnotherPrompt,
    Lie::EarlyEnd,
    Lie::FalseOverflow,
    Lie::HiddenTail,
    Lie::IgnoredSeed,
    Lie::NonCanonicalState,
    Lie::OtherInputRoot,
    Lie::OtherKvRoot,
    Lie::OtherLease,
    Lie::OtherMarkInput,
    Lie::OtherStatesRoot,
    Lie::ReceivesOther,
    Lie::SendsOther,
    Lie::StreamsOther,
    Lie::TwoMarks,
    Lie::Withheld,
    Lie::WrongMark,
];

fn begin(world: &mut World) {
    let server = world.draw_server();
    let span = world.servers[server].span.clone();
    let layer = span.start + world.numbers.below(u64::from(span.end - span.start)) as u32;
    let position = world.numbers.below(200) as u32;
    let is_first = span.start == 0;
    let can_tell = |lie: &Lie| match lie.teller() {
        Teller::Any | Teller::Passing => true,
        Teller::First => is_first,
        Teller::Later => !is_first,
        Teller::Handing => span.end < LAYERS,
    };
    let lies: Vec<Lie> = LIES.into_iter().filter(can_tell).collect();
    let lie = lies[world.numbers.below(lies.len() as u64) as usize];
    let script = lie.at(layer, position);
    world.servers[server].script = Some(script);
    if lie.is_told_in_frames() {
        world.network.borrow_mut().forgers.insert(server, script);
    } else if let Some(node) = world.ring.executor(server) {
        *node = executor(Some(script));
    }
}
