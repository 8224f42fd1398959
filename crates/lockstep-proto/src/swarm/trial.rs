//! The ring in which a server is tried before it counts as ready.

use lockstep_verify::request::Hop;

use crate::announcement::{State, Status};
use crate::limits;
use crate::version::VERSION;

/// Returns a ring that goes over the whole span of the server `own`, for a model of `layers`
/// layers: before and after it over servers that are ready, or are joining and have loaded their
/// layers, each as far as it reaches. `None` if the others do not hold what is missing.
///
/// Servers that join together are so tried together: the first ring that they make shows that all
/// of them work.
#[must_use]
pub fn ring_through(own: &Status, others: &[Status], layers: u32) -> Option<Vec<Hop>> {
    let may_help = |one: &&Status| {
        // A server measures itself when it has loaded its layers: before that it takes no frames.
        let has_loaded = one.state == State::Joining && one.speed.is_known();
        let is_up = one.state == State::Ready || has_loaded;
        let is_same = one.manifest == own.manifest && one.version == VERSION;
        is_up && is_same && one.node != own.node && one.end <= layers
    };
    let mut route: Vec<Hop> = Vec::new();
    let mut next = 0;
    while next < layers {
        let (holder, end) = if next == own.first {
            (own, own.end)
        } else {
            let most = if next < own.first { own.first } else { layers };
            let is_new = |one: &&Status| route.iter().all(|hop| hop.node != one.node);
            let holds = |one: &&Status| {
                one.first <= next && next < one.end && (next > 0 || (one.head && one.first == 0))
            };
            let others = others.iter().filter(may_help).filter(is_new).filter(holds);
            let reach = |one: &&Status| one.end.min(most);
            let rank = |one: &&Status| (reach(one), one.state == State::Ready, one.node);
            let holder = others.max_by_key(rank)?;
            (holder, holder.end.min(most))
        };
        if next == 0 && !holder.head {
            return None;
        }
        route.push(Hop { node: holder.node, first: next, end });
        next = end;
    }
    let has_own = route.iter().any(|hop| hop.node == own.node);
    (has_own && route.len() <= limits::STAGES).then_some(route)
}

#[cfg(test)]
mod tests {
    use lockstep_exact::digest::Digest;
    use lockstep_verify::sign::NodeId;

    use super::*;
    use crate::announcement::Speed;

    fn server(number: u8, first: u32, end: u32, state: State) -> Status {
        Status {
            version: VERSION,
            node: NodeId([number; 32]),
            manifest: Digest([7; 32]),
            first,
            end,
            head: first == 0,
            state,
            sessions: 0,
            sessions_limit: 8,
            queue: 0,
            kv_pages_free: 100,
            speed: Speed { decode_ns: [1; 3], head_ns: [1; 3], prefill_ns: 1 },
            neighbours: Vec::new(),
            adapters: Vec::new(),
            tags: Vec::new(),
            software: String::new(),
        }
    }

    fn spans(own: &Status, others: &[Status]) -> Option<Vec<(u8, u32, u32)>> {
        let route = ring_through(own, others, 30)?;
        Some(route.iter().map(|hop| (hop.node.0[0], hop.first, hop.end)).collect())
    }

    #[test]
    fn a_ring_has_the_whole_span_of_the_server_and_is_completed_by_others() {
        let own = server(1, 10, 20, State::Joining);
        let others = [server(2, 0, 15, State::Ready), server(3, 15, 30, State::Joining)];
        assert_eq!(spans(&own, &others), Some(vec![(2, 0, 10), (1, 10, 20), (3, 20, 30)]));
        let first = server(1, 0, 12, State::Joining);
        let last = [server(2, 0, 30, State::Ready)];
        assert_eq!(spans(&first, &last), Some(vec![(1, 0, 12), (2, 12, 30)]));
        assert_eq!(spans(&server(1, 0, 30, State::Joining), &[]), Some(vec![(1, 0, 30)]));
    }

    #[test]
    fn ready_servers_go_before_those_that_join() {
        let own = server(1, 10, 30, State::Joining);
        let others = [server(3, 0, 10, State::Joining), server(2, 0, 10, State::Ready)];
        assert_eq!(spans(&own, &others), Some(vec![(2, 0, 10), (1, 10, 30)]));
    }

    #[test]
    fn there_is_no_ring_without_every_layer_a_head_and_servers_that_are_up() {
        let own = server(1, 10, 20, State::Joining);
        let before = || server(2, 0, 10, State::Ready);
        let after = || server(3, 20, 30, State::Ready);
        assert!(spans(&own, &[before(), after()]).is_some());
        assert_eq!(spans(&own, &[before()]), None);
        assert_eq!(spans(&own, &[after()]), None);
        let changes: [fn(&mut Status); 7] = [
            |one| (one.state, one.speed) = (State::Joining, Speed::UNKNOWN),
            |one| one.state = State::Draining,
            |one| one.state = State::Left,
            |one| one.manifest = Digest::ZERO,
            |one| one.version += 1,
            |one| one.end = 9,
            |one| one.head = false,
        ];
        for (index, change) in changes.into_iter().enumerate() {
            let mut other = before();
            change(&mut other);
            assert_eq!(spans(&own, &[other, after()]), None, "change {index}");
        }
        // Nobody is in a ring twice.
        let both = Status { end: 30, ..before() };
        assert_eq!(spans(&own, &[both]), None);
    }
}
