//! What servers and links are counted as.

use lockstep_proto::announcement::{BATCHES, Speed};
use lockstep_proto::limits;
use lockstep_proto::swarm::cost::{Pace, hop_ns, wait_ns};

use crate::support::{peer, speed};

#[test]
fn a_batch_takes_what_was_measured_and_lies_on_straight_lines_between() {
    let pace = Pace::of(&Speed { decode_ns: [100, 160, 400], head_ns: [1; 3], prefill_ns: 9 });
    let times: Vec<u64> =
        [0, 1, 2, 3, 4, 10, 16, 32, 40].map(|batch| pace.layer_ns(batch)).to_vec();
    assert_eq!(times, [100, 100, 120, 140, 160, 280, 400, 800, 1_000]);
    assert_eq!((pace.best_batch(), pace.work_per_s()), (16, 16 * 1_000_000_000_000 / 400));
    assert_eq!(pace.prefill_ns(), 9);
}

#[test]
fn a_larger_batch_never_takes_less_whatever_was_measured() {
    for decode_ns in [[100, 1, 1], [1, u32::MAX, 1], [u32::MAX; 3], [5, 4, 3]] {
        let pace = Pace::of(&Speed { decode_ns, head_ns: decode_ns, prefill_ns: 1 });
        let times: Vec<u64> = (1..100).map(|batch| pace.layer_ns(batch)).collect();
        assert!(times.is_sorted(), "{decode_ns:?}: {times:?}");
        assert!(pace.work_per_s() > 0 && pace.layer_ns(u32::MAX) > 0);
    }
}

#[test]
fn a_server_that_has_measured_nothing_counts_as_slow() {
    let pace = Pace::of(&Speed::UNKNOWN);
    let unknown = u64::from(limits::UNKNOWN_DECODE_NS);
    assert_eq!(BATCHES.map(|batch| pace.layer_ns(batch)), [unknown; 3]);
    assert_eq!(pace.head_ns(1), unknown * u64::from(limits::UNKNOWN_HEAD_LAYERS));
    // One whose head is not measured is counted by its layers.
    let headless = Speed { decode_ns: [1_000; 3], head_ns: [0; 3], prefill_ns: 1 };
    let head = 1_000 * u64::from(limits::UNKNOWN_HEAD_LAYERS);
    assert_eq!(Pace::of(&headless).head_ns(4), head);
}

#[test]
fn a_busier_server_never_keeps_a_step_waiting_for_less() {
    let wait = |queue: u32, sessions: u32| {
        let mut peer = peer(1, 2, 12);
        peer.speed = speed(1_000);
        (peer.queue, peer.sessions) = (queue, sessions);
        wait_ns(&peer)
    };
    assert_eq!(wait(0, 0), 0);
    assert_eq!((wait(4, 0), wait(0, 1), wait(4, 1)), (10_000, 5_000, 10_000));
    for (least, most) in [(0, 1), (1, 2), (2, 40), (40, u32::MAX)] {
        assert!(wait(least, 0) <= wait(most, 0) && wait(0, least) <= wait(0, most));
        assert!(wait(least, most) <= wait(most, most));
    }
}

#[test]
fn a_hop_takes_half_of_the_round_trip_and_the_time_on_the_line() {
    assert_eq!(hop_ns(10, 1_000, 5), 5_000 + 5_000_000);
    assert_eq!(hop_ns(0, u64::MAX, 4_224), 0);
    // Absurd ones are cut off, and add up.
    let longest = hop_ns(u32::MAX, 0, u64::MAX);
    assert_eq!(hop_ns(u32::MAX, 1, u64::MAX), longest);
    assert!(longest.checked_mul(2 * limits::STAGES as u64).is_some());
}
