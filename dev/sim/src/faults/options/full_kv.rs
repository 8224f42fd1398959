//! Servers whose memory for keys and values is full sooner than they say.

use super::{Fault, World, nothing};

pub(super) const FAULT: Fault =
    Fault { name: "full-kv", begin, strike: nothing, marks: &["refused_no_room"] };

fn begin(world: &mut World) {
    for server in 0..world.servers.len() {
        if world.numbers.below(2) == 0 {
            let room = world.numbers.below(3) as usize;
            if let Some(executor) = world.ring.executor(server) {
                executor.inner().room = Some(room);
            }
        }
    }
}
