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

/// Returns the microseconds to wait after `failures` trials in a row that failed, before the next
/// one: 2 s after the first, twice as long each time, up to 64 s, and up to half of that on top by
/// `random`, so that servers that join together are not tried at the same moments.
#[must_use]
pub fn again_us(failures: u32, random: u64) -> u64 {
    let doublings = failures.clamp(1, limits::TRIAL_BACKOFF_DOUBLINGS);
    let wait = limits::TRIAL_BACKOFF_US << doublings;
    // default: the time is a constant that is not zero
    wait.saturating_add(random.checked_rem(wait / 2).unwrap_or(0))
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
    fn trials_that_fail_are_further_and_further_apart_and_not_at_the_same_moments() {
        let waits: Vec<u64> = (0..9).map(|failures| again_us(failures, 0) / 1_000_000).collect();
        assert_eq!(waits, [2, 2, 4, 8, 16, 32, 64, 64, 64]);
        let random = 0x9e37_79b9_7f4a_7c15;
        let spread: Vec<u64> =
            (0..20).map(|at| again_us(3, u64::wrapping_mul(random, at))).collect();
        assert!(spread.iter().all(|us| (8_000_000..12_000_000).contains(us)), "{spread:?}");
        assert!(spread.iter().max().unwrap() - spread.iter().min().unwrap() > 2_000_000);
        assert!((64_000_000..96_000_000).contains(&again_us(u32::MAX, u64::MAX)));
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
