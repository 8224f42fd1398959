//! Servers that announce what is not true: layers and speeds that they do not have, numbers that
//! cannot be.

use lockstep_proto::announcement::{Speed, State, Status};
use lockstep_testing::hash_model::LAYERS;

use super::{Fault, World, nothing};

pub(super) const FAULT: Fault = Fault {
    name: "lying-announcement",
    begin,
    strike: nothing,
    marks: &["claimed_layers_refused", "absurd_claim"],
};

const CLAIMS: [fn(&mut Status); 6] = [
    all_layers,
    impossible_span,
    more_layers_than_there_are,
    no_time_at_all,
    room_without_end,
    another_model,
];

fn begin(world: &mut World) {
    let server = world.draw_server();
    let at = world.numbers.below(CLAIMS.len() as u64) as usize;
    world.servers[server].claims = CLAIMS.get(at).copied();
    if at > 0 {
        world.marks.reach("absurd_claim");
    }
}

/// It claims every layer and the head.
fn all_layers(status: &mut Status) {
    (status.first, status.end, status.head, status.state) = (0, LAYERS, true, State::Ready);
}

fn impossible_span(status: &mut Status) {
    (status.first, status.end) = (status.end.max(1), 0);
}

fn more_layers_than_there_are(status: &mut Status) {
    (status.first, status.end) = (0, u32::MAX);
}

fn no_time_at_all(status: &mut Status) {
    status.speed = Speed { decode_ns: [1; 3], head_ns: [1; 3], prefill_ns: 1 };
}

fn room_without_end(status: &mut Status) {
    (status.sessions_limit, status.kv_pages_free) = (u32::MAX, u32::MAX);
    (status.sessions, status.queue) = (0, 0);
}

fn another_model(status: &mut Status) {
    status.manifest.0[0] ^= 1;
}
