//! Fetching blobs in virtual time: from honest holders at once, in spite of each kind of hostile
//! one, and behind what an earlier fetch has left; and what a holder gives away at most.

#[path = "support/blobs.rs"]
mod support;

use lockstep_exact::digest::Digest;
use lockstep_exact::pieces::{Outline, PIECE_BYTES};
use lockstep_proto::frame::{BlobRefusal, Frame as _, FromHolder, ToHolder};
use lockstep_proto::limits;
use lockstep_proto::now::Now;
use lockstep_proto::swarm::fetch::{self, Event, Fault, Fetch, Holder, Length, Wanted};
use lockstep_proto::swarm::uploads::{Input, Output, Uploads};
use lockstep_verify::sign::NodeId;
use support::{Behaviour, World, blob, node};

/// Lengths of the blobs of a small model: one short, one of a piece, the others of several.
const LENGTHS: [u64; 5] =
    [700, PIECE_BYTES, 3 * PIECE_BYTES + 5, 9 * PIECE_BYTES, 12 * PIECE_BYTES - 1];

#[test]
fn several_holders_give_different_blobs_at_once_and_all_bytes_are_right() {
    let mut world = World::new(1, &LENGTHS);
    let holders = [1, 2, 3].map(|number| world.add(number, Behaviour::Honest));
    world.run().expect("all is there");
    world.check_stored();
    for holder in holders {
        assert!(world.given(holder) > 0, "{} gave nothing", holder.short());
    }
    assert!(world.most_at_once() >= 2, "blobs came one after another");
    assert!(world.dropped().is_empty(), "{:?}", world.dropped());
    // No byte came twice.
    let all: u64 = holders.iter().map(|holder| world.given(*holder)).sum();
    assert_eq!(all, LENGTHS.iter().sum::<u64>());
}

#[test]
fn holders_are_asked_for_what_they_announce_first_and_others_only_if_nobody_does() {
    let mut world = World::new(2, &LENGTHS);
    let (first, last) = (world.add(1, Behaviour::Honest), world.add(2, Behaviour::Honest));
    world.announces(first, 0..2);
    world.announces(last, 2..4);
    world.run().expect("all is there");
    world.check_stored();
    assert_eq!(world.given_of(first, 0..2), LENGTHS[..2].iter().sum::<u64>());
    assert_eq!(world.given_of(last, 2..4), LENGTHS[2..4].iter().sum::<u64>());
    assert_eq!(world.given_of(first, 4..5) + world.given_of(last, 4..5), LENGTHS[4]);
}

/// A kind of holder that is no good: in words, what it does, and whether a fault is what it is
/// dropped for.
type BadKind = (&'static str, Behaviour, fn(&Fault) -> bool);

fn bad_kinds() -> Vec<BadKind> {
    fn wrong(fault: &Fault) -> bool {
        matches!(fault, Fault::WrongBytes { .. })
    }
    fn frame(fault: &Fault) -> bool {
        *fault == Fault::BadFrame
    }
    // An honest one may be there to take over before the deadline.
    fn silent(fault: &Fault) -> bool {
        matches!(fault, Fault::Stalled | Fault::Slow)
    }
    vec![
        ("a bit of a late piece is wrong", Behaviour::FlipsPiece(2), wrong),
        ("a bit of the first piece is wrong", Behaviour::FlipsPiece(0), wrong),
        ("pieces are cut short", Behaviour::Truncates, wrong),
        ("pieces are too long", Behaviour::Lengthens, frame),
        ("the outline is another blob's", Behaviour::WrongOutline, wrong),
        ("the outline has too many values", Behaviour::LongOutline, wrong),
        ("it says another length", Behaviour::WrongLength, wrong),
        ("pieces come in another order", Behaviour::Reorders, frame),
        ("the piece of another blob comes", Behaviour::OtherBlob, frame),
        ("garbage", Behaviour::Garbage, frame),
        ("frames come without end", Behaviour::Endless, frame),
        ("an outline is sent a second time", Behaviour::RepeatsOutline, frame),
        ("another blob is refused", Behaviour::RefusesAnother, frame),
        ("a piece comes before any was asked for", Behaviour::Pushes, frame),
        ("it answers nothing", Behaviour::Silent, silent),
        ("it stops in the middle", Behaviour::SilentAfter(3), silent),
        ("the link ends in the middle", Behaviour::LostAfter(3), |fault| *fault == Fault::Lost),
        ("it can't be reached", Behaviour::Unreachable, |fault| *fault == Fault::Lost),
        ("it never answers the dial", Behaviour::NoDial, |fault| *fault == Fault::Stalled),
        ("it is much slower", Behaviour::Slow(40), |fault| *fault == Fault::Slow),
        ("it is always busy", Behaviour::Refuses(BlobRefusal::Busy), |fault| {
            *fault == Fault::Refused(BlobRefusal::Busy)
        }),
    ]
}

#[test]
fn each_kind_of_bad_holder_is_named_and_an_honest_one_gives_what_is_missing() {
    for (what, behaviour, is_it) in bad_kinds() {
        for seed in 1..4 {
            let mut world = World::new(seed, &LENGTHS);
            // The bad one is asked first for some of the blobs, whichever it is.
            let bad = world.add(9, behaviour);
            let good = world.add(3, Behaviour::Honest);
            world.run().unwrap_or_else(|error| panic!("{what}: {error}"));
            world.check_stored();
            let dropped = world.dropped();
            assert!(dropped.iter().all(|(node, _)| *node == bad), "{what}: {dropped:?}");
            // What is over before the dial's time is misses nobody.
            let is_missed = behaviour != Behaviour::NoDial || !dropped.is_empty();
            let is_named = dropped.iter().any(|(_, fault)| is_it(fault));
            assert!(is_named || !is_missed, "{what}: {dropped:?}");
            let hostile = dropped.iter().filter(|(_, fault)| fault.is_hostile()).count();
            assert!(hostile <= 1, "{what}: asked again after {dropped:?}");
            assert!(world.given(good) > 0);
        }
    }
}

#[test]
fn with_bad_holders_alone_a_fetch_ends_in_time_and_names_them() {
    for (what, behaviour, is_it) in bad_kinds() {
        if matches!(behaviour, Behaviour::Slow(_)) {
            continue;
        }
        let mut world = World::new(5, &LENGTHS);
        let bad = world.add(9, behaviour);
        let given_up = world.run().expect_err(what);
        let (node, fault) = given_up.faults.first().expect(what);
        assert_eq!(*node, bad, "{what}");
        assert!(is_it(fault), "{what}: {given_up}");
        let most = limits::BLOB_PATIENCE_US + 6 * limits::BLOB_STALL_US;
        assert!(world.elapsed_us() <= most, "{what}: {} us", world.elapsed_us());
        world.check_no_wrong_byte();
    }
}

#[test]
fn a_slow_holder_that_is_alone_gives_everything() {
    let mut world = World::new(6, &LENGTHS);
    world.add(9, Behaviour::Slow(40));
    world.run().expect("slowly");
    world.check_stored();
}

#[test]
fn a_holder_that_refuses_for_good_is_asked_for_other_blobs() {
    for why in [BlobRefusal::NotHeld, BlobRefusal::NoSuchPiece, BlobRefusal::Spent] {
        let mut world = World::new(7, &LENGTHS);
        let without = world.add(1, Behaviour::Lacks(3, why));
        let with = world.add(2, Behaviour::Honest);
        world.run().expect("the other one has it");
        world.check_stored();
        assert_eq!((world.given_of(without, 3..4), world.given_of(with, 3..4)), (0, LENGTHS[3]));
        let mut alone = World::new(7, &LENGTHS);
        alone.add(1, Behaviour::Lacks(3, why));
        let error = alone.run().expect_err("nobody has it");
        assert_eq!((error.blob, error.is_late), (Digest::of(&blob(3, LENGTHS[3])), false));
        assert_eq!(error.faults, [(node(1), Fault::Refused(why))]);
    }
}

#[test]
fn what_an_earlier_fetch_left_is_kept_as_far_as_it_is_right() {
    let mut world = World::new(8, &[10 * PIECE_BYTES]);
    let holder = world.add(1, Behaviour::Honest);
    world.left_by_an_earlier_fetch(0, 6, None);
    world.run().expect("the rest comes");
    world.check_stored();
    assert_eq!(world.given(holder), 4 * PIECE_BYTES);
    // Everything behind a piece that is not right is fetched again.
    let mut world = World::new(8, &[10 * PIECE_BYTES]);
    let holder = world.add(1, Behaviour::Honest);
    world.left_by_an_earlier_fetch(0, 6, Some(2));
    world.run().expect("the rest comes");
    world.check_stored();
    assert_eq!(world.given(holder), 8 * PIECE_BYTES);
    // All of it was there.
    let mut world = World::new(8, &[10 * PIECE_BYTES]);
    let holder = world.add(1, Behaviour::Honest);
    world.left_by_an_earlier_fetch(0, 10, None);
    world.run().expect("it is there");
    assert_eq!(world.given(holder), 0);
}

#[test]
fn who_takes_over_goes_on_behind_what_was_right() {
    let mut world = World::new(9, &[12 * PIECE_BYTES]);
    let first = world.add(1, Behaviour::LostAfter(5));
    let second = world.add_later(2, Behaviour::Honest, 100_000);
    world.run().expect("together they have it");
    world.check_stored();
    assert!(world.given(first) >= 4 * PIECE_BYTES);
    let both = world.given(first) + world.given(second);
    assert_eq!(both, 12 * PIECE_BYTES, "pieces came twice");
}

#[test]
fn no_holder_at_all_is_said_at_once_and_a_manifest_may_not_be_too_long() {
    let mut world = World::new(10, &LENGTHS);
    let error = world.run().expect_err("nobody");
    assert!(error.faults.is_empty() && !error.is_late, "{error}");
    assert_eq!(world.elapsed_us(), 0);
    let mut world = World::new(10, &[5 * PIECE_BYTES]);
    let holder = world.add(1, Behaviour::Honest);
    world.of_unknown_length(0, 5 * PIECE_BYTES - 1);
    let error = world.run().expect_err("too long");
    assert!(matches!(error.faults[..], [(node, Fault::TooLong { .. })] if node == holder));
    let mut world = World::new(10, &[5 * PIECE_BYTES]);
    world.add(1, Behaviour::Honest);
    world.of_unknown_length(0, 5 * PIECE_BYTES);
    world.run().expect("as long as may be");
    world.check_stored();
}

#[test]
fn whoever_claims_a_false_length_is_found_out_and_nobody_else_is_blamed() {
    fn wrong(fault: &Fault) -> bool {
        matches!(fault, Fault::WrongBytes { .. })
    }
    let rows: [BadKind; 6] = [
        ("one piece", Behaviour::ClaimsOnePiece, wrong),
        ("one piece, and is gone", Behaviour::ClaimsOnePieceAndLeaves, |fault| {
            *fault == Fault::Lost
        }),
        ("a byte less", Behaviour::ClaimsShorter(1), wrong),
        ("most of the last piece less", Behaviour::ClaimsShorter(PIECE_BYTES - 2), wrong),
        ("a byte more", Behaviour::WrongLength, wrong),
        ("more than may be", Behaviour::ClaimsTooLong, |_| false),
    ];
    for (what, behaviour, is_it) in rows {
        let mut named = 0;
        for (seed, numbers) in (1..9).zip([[9, 3], [3, 9]].iter().cycle()) {
            let mut world = World::new(seed, &[4 * PIECE_BYTES - 1]);
            world.of_unknown_length(0, 64 * PIECE_BYTES);
            let bad = world.add(numbers[0], behaviour);
            let good = world.add(numbers[1], Behaviour::Honest);
            world.run().unwrap_or_else(|error| panic!("{what}: {error}"));
            world.check_stored();
            let dropped = world.dropped();
            assert!(dropped.iter().all(|(node, fault)| *node == bad && is_it(fault)), "{what}");
            named += dropped.len();
            assert_eq!(world.given(good), 4 * PIECE_BYTES - 1, "no byte comes twice");
        }
        assert!(named > 0 || behaviour == Behaviour::ClaimsTooLong, "{what}: never asked");
    }
}

#[test]
fn a_blob_of_unknown_length_goes_on_where_an_earlier_fetch_left_it() {
    for (pieces, wrong, missing) in
        [(0, None, 4), (3, None, 1), (4, None, 1), (4, Some(1), 3), (3, Some(2), 2)]
    {
        let mut world = World::new(13, &[4 * PIECE_BYTES]);
        world.of_unknown_length(0, 64 * PIECE_BYTES);
        let holder = world.add(1, Behaviour::Honest);
        world.left_by_an_earlier_fetch(0, pieces, wrong);
        world.run().expect("the rest comes");
        world.check_stored();
        // The last piece comes in any case: it proves the length.
        assert_eq!(world.given(holder), missing * PIECE_BYTES, "{pieces} pieces, {wrong:?} wrong");
    }
}

#[test]
fn who_refuses_one_piece_and_answers_those_behind_it_is_not_hostile() {
    for seed in 1..6 {
        let mut world = World::new(seed, &[12 * PIECE_BYTES]);
        let refusing = world.add(1, Behaviour::RefusesThird);
        world.add_later(2, Behaviour::Honest, 30_000);
        world.run().expect("the other one goes on");
        world.check_stored();
        assert!(world.given(refusing) > 0);
        assert!(world.dropped().is_empty(), "{:?}", world.dropped());
    }
}

#[test]
fn holders_that_have_nothing_to_give_keep_nobody_else_out() {
    let rows = [
        ("they hold nothing", Behaviour::Refuses(BlobRefusal::NotHeld)),
        ("they have sent enough", Behaviour::Refuses(BlobRefusal::Spent)),
        ("they are busy", Behaviour::Refuses(BlobRefusal::Busy)),
        ("they drip", Behaviour::Drips),
        ("they are quick at first", Behaviour::DripsAfter(5)),
        ("they can't be reached", Behaviour::Unreachable),
        ("they never answer a dial", Behaviour::NoDial),
        ("they answer nothing", Behaviour::Silent),
        ("they send garbage", Behaviour::Garbage),
    ];
    for (what, behaviour) in rows {
        for is_announcing in [true, false] {
            let mut world = World::new(14, &[20 * PIECE_BYTES; 12]);
            for number in 1..=3 * limits::BLOB_HOLDERS as u8 {
                world.add(number, behaviour);
            }
            let good = world.add_later(99, Behaviour::Honest, 15_000);
            if !is_announcing {
                world.announces(good, 0..0);
            }
            world.run().unwrap_or_else(|error| panic!("{what}: {error}"));
            world.check_stored();
            let most = 6 * limits::BLOB_STALL_US;
            assert!(world.elapsed_us() <= most, "{what}: {} us", world.elapsed_us());
            assert!(world.given(good) > 0, "{what}");
        }
    }
}

#[test]
fn any_number_of_node_ids_shut_nobody_out() {
    let rows = [
        ("can't be reached", Behaviour::Unreachable, true),
        ("can't be reached, of many hosts", Behaviour::Unreachable, false),
        ("never answer a dial", Behaviour::NoDial, true),
        ("send garbage, of many hosts", Behaviour::Garbage, false),
        ("answer nothing", Behaviour::Silent, true),
        ("drip", Behaviour::Drips, true),
        ("hold nothing, of many hosts", Behaviour::Refuses(BlobRefusal::NotHeld), false),
    ];
    for (what, behaviour, is_one_host) in rows {
        for (good_number, after_us) in [(250, 0), (0, 15_000), (120, 15_000)] {
            let mut world = World::new(15, &[2 * PIECE_BYTES; 12]);
            for number in (1..=140).filter(|number| *number != good_number) {
                let bad = world.add(number, behaviour);
                if is_one_host {
                    world.is_at(bad, &format!("198.51.100.1:{number}"));
                }
            }
            let good = world.add_later(good_number, Behaviour::Honest, after_us);
            world.run().unwrap_or_else(|error| panic!("{what}, {good_number}: {error}"));
            world.check_stored();
            let most = 2 * limits::BLOB_STALL_US + 2 * limits::BLOB_DIAL_US;
            assert!(world.elapsed_us() <= most, "{what}: {} us", world.elapsed_us());
            assert!(world.given(good) > 0, "{what}");
        }
    }
}

#[test]
fn ids_that_fill_all_memory_for_holders_make_room_for_nodes_that_are_there() {
    let digest = Digest::of(&blob(0, 700));
    let wanted = [Wanted { blob: digest, len: Length::Exactly(700) }];
    let likely = std::sync::Arc::new([digest].into());
    // What is no address is one host: it does not count as many.
    for (fakes_at, is_text) in [("198.51.100.1:1", false), ("nowhere", true)] {
        let fake = |number: usize| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&(number as u64).to_be_bytes());
            let address = if is_text { format!("{fakes_at}{number}") } else { fakes_at.to_owned() };
            Holder { node: NodeId(id), address, likely: std::sync::Arc::clone(&likely) }
        };
        let fakes = |range: std::ops::Range<usize>| range.map(fake).collect::<Vec<_>>();
        let mut fetch = Fetch::new(&wanted, fakes(0..limits::BLOB_HOLDERS_OFFERED), 3);
        let mut dialled = Vec::new();
        let mut handle = |input| {
            fetch.handle(NOW, input);
            let dial = |output| match output {
                fetch::Output::Dial { node, .. } => Some(node),
                _ => None,
            };
            let new: Vec<NodeId> = std::iter::from_fn(|| fetch.poll()).filter_map(dial).collect();
            dialled.extend(new.clone());
            new
        };
        let first = handle(fetch::Input::Tick);
        assert_eq!(first.len(), limits::BLOB_HOLDERS);
        let end = limits::BLOB_HOLDERS_OFFERED;
        handle(fetch::Input::Holders(fakes(end..end + limits::BLOB_HOLDERS_KNOWN)));
        let honest = Holder { address: "192.0.2.1:1".to_owned(), ..fake(usize::MAX) };
        let node = honest.node;
        let there: Vec<Holder> = fakes(0..end / 2).into_iter().chain([honest]).collect();
        handle(fetch::Input::Holders(there));
        assert_eq!(handle(fetch::Input::Lost(first[0])), [node], "it is dialled next");
    }
}

#[test]
fn a_holder_that_hashes_for_long_before_it_sends_is_not_slow() {
    let mut world = World::new(18, &[40 * PIECE_BYTES]);
    let good = world.add(1, Behaviour::Hashes(12_000_000));
    let idle = world.add_later(2, Behaviour::Honest, 12_100_000);
    world.run().expect("it comes");
    world.check_stored();
    assert!(world.dropped().is_empty(), "{:?}", world.dropped());
    assert_eq!((world.given(good), world.given(idle)), (40 * PIECE_BYTES, 0));
}

#[test]
fn who_drips_is_relieved_by_one_that_has_not_been_tried() {
    // What it gave at once at first does not count for ever.
    for quick in [0, 12, 60] {
        let behaviour = Behaviour::DripsAfter(quick);
        let mut world = World::new(16, &[80 * PIECE_BYTES]);
        let slow = world.add(1, behaviour);
        let good = world.add_later(2, Behaviour::Honest, 1_000_000);
        world.run().expect("the other one takes over");
        world.check_stored();
        assert_eq!(world.dropped(), [(slow, Fault::Slow)]);
        assert!(world.given(good) >= 10 * PIECE_BYTES);
        assert!(world.elapsed_us() < 5 * limits::BLOB_STALL_US, "{} us", world.elapsed_us());
    }
}

#[test]
fn who_sends_other_bytes_on_its_next_link_is_named() {
    let mut world = World::new(17, &[12 * PIECE_BYTES]);
    let bad = world.add(1, Behaviour::Switches);
    let error = world.run().expect_err("it lies");
    assert!(matches!(error.faults[..], [(node, Fault::WrongBytes { .. })] if node == bad));
    assert_eq!(world.dropped().len(), 2, "{:?}", world.dropped());
    world.check_no_wrong_byte();
}

#[test]
fn a_holder_that_closes_a_link_on_which_nothing_is_asked_has_not_failed() {
    let digest = Digest::of(&blob(0, 700));
    let wanted = [Wanted { blob: digest, len: Length::Exactly(700) }];
    let holder = |number| Holder {
        node: node(number),
        address: format!("192.0.2.{number}:1"),
        likely: std::sync::Arc::new([digest].into()),
    };
    let mut fetch = Fetch::new(&wanted, vec![holder(1), holder(2)], 1);
    let mut told = Vec::new();
    let mut handle = |fetch: &mut Fetch, input| {
        fetch.handle(NOW, input);
        let new: Vec<_> = std::iter::from_fn(|| fetch.poll()).collect();
        told.extend(new.clone());
        new
    };
    handle(&mut fetch, fetch::Input::Tick);
    let asked = handle(&mut fetch, fetch::Input::Connected(node(1)));
    assert!(matches!(asked[..], [fetch::Output::Send { .. }]), "{asked:?}");
    handle(&mut fetch, fetch::Input::Connected(node(2)));
    assert_eq!(handle(&mut fetch, fetch::Input::Lost(node(2))), []);
    // The other one owes an answer.
    let lost = Event::Dropped { node: node(1), why: Fault::Lost };
    let told = handle(&mut fetch, fetch::Input::Lost(node(1)));
    assert!(told.contains(&fetch::Output::Event(lost)), "{told:?}");
}

#[test]
fn memory_for_pieces_on_their_way_is_bounded_when_the_disk_is_slow() {
    let mut world = World::new(11, &[40 * PIECE_BYTES, 40 * PIECE_BYTES]);
    for number in 1..4 {
        world.add(number, Behaviour::Honest);
    }
    world.disk_us = 500_000;
    world.run().expect("all is there");
    world.check_stored();
    let most = 2 * limits::BLOB_PIECES_ASKED;
    assert!(world.most_unwritten() <= most, "{} pieces waited", world.most_unwritten());
}

const NOW: Now = Now(5_000_000_000_000);

/// A holder of one blob of this length, with a link of each of these nodes.
fn holder(len: u64, bytes_per_s: Option<u64>, links: &[u8]) -> (Uploads, Digest) {
    let digest = Digest::of(&blob(0, len));
    let mut uploads = Uploads::new([(digest, len)].into(), bytes_per_s);
    for (link, peer) in links.iter().enumerate() {
        let peer = NodeId([*peer; 32]);
        uploads.handle(NOW, Input::Opened { link: link as u64, peer });
    }
    (uploads, digest)
}

fn asked(uploads: &mut Uploads, now: Now, link: u64, frame: ToHolder) -> Vec<Output> {
    let body = frame.to_wire().expect("short")[limits::LENGTH_BYTES..].to_vec();
    uploads.handle(now, Input::Frame { link, body });
    outputs(uploads)
}

fn outputs(uploads: &mut Uploads) -> Vec<Output> {
    std::iter::from_fn(|| uploads.poll()).collect()
}

/// The refusal that is sent, if that is all.
fn refused(outputs: &[Output]) -> Option<BlobRefusal> {
    match outputs {
        [Output::Send { wire, .. }] => match FromHolder::from_body(&wire[limits::LENGTH_BYTES..]) {
            Ok(FromHolder::Refused { why, .. }) => Some(why),
            _ => None,
        },
        _ => None,
    }
}

#[test]
fn a_holder_shares_its_model_alone_and_no_piece_behind_the_end() {
    let (mut uploads, blob) = holder(2 * PIECE_BYTES, None, &[1]);
    let other = Digest([9; 32]);
    let frames = [ToHolder::Outline { blob: other }, ToHolder::Piece { blob: other, index: 0 }];
    for frame in frames {
        assert_eq!(refused(&asked(&mut uploads, NOW, 0, frame)), Some(BlobRefusal::NotHeld));
        uploads.handle(NOW, Input::Sent(0));
    }
    for index in [2, u32::MAX] {
        let told = asked(&mut uploads, NOW, 0, ToHolder::Piece { blob, index });
        assert_eq!(refused(&told), Some(BlobRefusal::NoSuchPiece));
        uploads.handle(NOW, Input::Sent(0));
    }
    let told = asked(&mut uploads, NOW, 0, ToHolder::Piece { blob, index: 1 });
    let read = Output::Read { link: 0, blob, offset: PIECE_BYTES, len: PIECE_BYTES };
    assert_eq!(told, [read]);
    // The file can't be read any more.
    uploads.handle(NOW, Input::Read { link: 0, bytes: None });
    assert_eq!(refused(&outputs(&mut uploads)), Some(BlobRefusal::NotHeld));
}

#[test]
fn a_holder_serves_so_many_links_at_once_of_all_and_of_one_node_and_others_later() {
    let peers: Vec<u8> = (0..=limits::BLOB_UPLOADS as u8).collect();
    let (mut uploads, blob) = holder(4 * PIECE_BYTES, None, &peers);
    let last = limits::BLOB_UPLOADS as u64;
    let piece = ToHolder::Piece { blob, index: 0 };
    for link in 0..last {
        assert!(matches!(asked(&mut uploads, NOW, link, piece)[..], [Output::Read { .. }]));
    }
    assert_eq!(refused(&asked(&mut uploads, NOW, last, piece)), Some(BlobRefusal::Busy));
    // Who is served goes on being served, with the refused one waiting.
    uploads.handle(NOW, Input::Read { link: 0, bytes: Some(vec![0; 8]) });
    uploads.handle(NOW, Input::Sent(0));
    outputs(&mut uploads);
    assert!(matches!(asked(&mut uploads, NOW, 0, piece)[..], [Output::Read { .. }]));
    // A place is free when its link is gone, or quiet for some time.
    uploads.handle(NOW, Input::Sent(last));
    uploads.handle(NOW, Input::Lost(3));
    assert!(matches!(asked(&mut uploads, NOW, last, piece)[..], [Output::Read { .. }]));
    let (mut uploads, blob) = holder(4 * PIECE_BYTES, None, &[1; 3]);
    let piece = ToHolder::Piece { blob, index: 0 };
    for link in 0..limits::BLOB_UPLOADS_OF_PEER as u64 {
        asked(&mut uploads, NOW, link, piece);
        uploads.handle(NOW, Input::Read { link, bytes: Some(vec![0; 8]) });
        uploads.handle(NOW, Input::Sent(link));
    }
    outputs(&mut uploads);
    assert_eq!(refused(&asked(&mut uploads, NOW, 2, piece)), Some(BlobRefusal::Busy));
    uploads.handle(NOW, Input::Sent(2));
    let later = NOW.after(limits::BLOB_PLACE_US);
    assert!(matches!(asked(&mut uploads, later, 2, piece)[..], [Output::Read { .. }]));
}

/// A holder whose places are all taken, by links that have had a piece, and one more link.
fn full_holder(len: u64) -> (Uploads, Digest, u64) {
    let peers: Vec<u8> = (0..=limits::BLOB_UPLOADS as u8).collect();
    let (mut uploads, blob) = holder(len, None, &peers);
    let last = limits::BLOB_UPLOADS as u64;
    for link in 0..last {
        let piece = ToHolder::Piece { blob, index: 0 };
        assert!(matches!(asked(&mut uploads, NOW, link, piece)[..], [Output::Read { .. }]));
        answered(&mut uploads, NOW, link, PIECE_BYTES as usize);
    }
    (uploads, blob, last)
}

/// The file is read for a link, and its frame leaves.
fn answered(uploads: &mut Uploads, now: Now, link: u64, len: usize) {
    uploads.handle(now, Input::Read { link, bytes: Some(vec![0; len]) });
    uploads.handle(now, Input::Sent(link));
    outputs(uploads);
}

#[test]
fn a_place_is_kept_by_bytes_that_are_taken_and_by_nothing_else() {
    let len = 2 * PIECE_BYTES + 9;
    let seconds = |count: u64| NOW.after(count * 1_000_000);
    type Row = (&'static str, fn(&mut Uploads, Now, u64, Digest), bool);
    let rows: [Row; 5] = [
        ("nothing is asked", |_, _, _, _| {}, false),
        (
            "what is asked is refused",
            |uploads, now, link, _| {
                asked(uploads, now, link, ToHolder::Outline { blob: Digest([9; 32]) });
                uploads.handle(now, Input::Sent(link));
            },
            false,
        ),
        (
            "a few bytes are asked for",
            |uploads, now, link, blob| {
                asked(uploads, now, link, ToHolder::Piece { blob, index: 2 });
                answered(uploads, now, link, 9);
            },
            false,
        ),
        (
            "the answer is not taken",
            |uploads, now, link, blob| {
                asked(uploads, now, link, ToHolder::Piece { blob, index: 1 });
                uploads.handle(now, Input::Read { link, bytes: Some(vec![0; 99]) });
            },
            false,
        ),
        (
            "pieces are taken",
            |uploads, now, link, blob| {
                asked(uploads, now, link, ToHolder::Piece { blob, index: 1 });
                answered(uploads, now, link, PIECE_BYTES as usize);
            },
            true,
        ),
    ];
    for (what, act, is_kept) in rows {
        let (mut uploads, blob, last) = full_holder(len);
        let piece = ToHolder::Piece { blob, index: 0 };
        // The newcomer asks, and then again some seconds later, as fetching nodes do.
        assert_eq!(refused(&asked(&mut uploads, seconds(4), last, piece)), Some(BlobRefusal::Busy));
        uploads.handle(seconds(4), Input::Sent(last));
        for second in 1..8 {
            for link in 0..last {
                act(&mut uploads, seconds(second), link, blob);
            }
            outputs(&mut uploads);
        }
        let told = asked(&mut uploads, seconds(8), last, piece);
        assert_eq!(refused(&told), is_kept.then_some(BlobRefusal::Busy), "{what}: {told:?}");
    }
    // What this machine takes to read is no fault of the other end's.
    let (mut uploads, blob, last) = full_holder(len);
    for link in 0..last {
        asked(&mut uploads, NOW, link, ToHolder::Piece { blob, index: 1 });
    }
    for link in 0..last {
        let read = Input::Read { link, bytes: Some(vec![0; PIECE_BYTES as usize]) };
        uploads.handle(seconds(9), read);
    }
    outputs(&mut uploads);
    let piece = ToHolder::Piece { blob, index: 0 };
    assert_eq!(refused(&asked(&mut uploads, seconds(12), last, piece)), Some(BlobRefusal::Busy));
}

#[test]
fn a_link_on_which_all_is_refused_is_closed_in_the_end() {
    let (mut uploads, _) = holder(4 * PIECE_BYTES, None, &[1]);
    let mut now = NOW;
    let other = ToHolder::Outline { blob: Digest([9; 32]) };
    while now.since(NOW) < limits::BLOB_IDLE_US {
        assert_eq!(refused(&asked(&mut uploads, now, 0, other)), Some(BlobRefusal::NotHeld));
        uploads.handle(now, Input::Sent(0));
        now = now.after(1_000_000);
    }
    uploads.handle(now, Input::Tick);
    assert_eq!(outputs(&mut uploads), [Output::Close { link: 0, is_fault: false }]);
}

#[test]
fn a_node_gets_so_many_bytes_in_some_hours_and_then_others_all_the_same() {
    let len = 100 * PIECE_BYTES;
    let (mut uploads, blob) = holder(len, None, &[1, 2]);
    let mut get = |now: Now, link| {
        let told = asked(&mut uploads, now, link, ToHolder::Piece { blob, index: 1 });
        if refused(&told).is_none() {
            uploads.handle(now, Input::Read { link, bytes: Some(vec![0; PIECE_BYTES as usize]) });
        }
        uploads.handle(now, Input::Sent(link));
        outputs(&mut uploads);
        refused(&told)
    };
    let most = limits::BLOB_PACKAGES_OF_PEER * 100;
    for count in 0..most {
        assert_eq!(get(NOW, 0), None, "after {count}");
    }
    assert_eq!(get(NOW, 0), Some(BlobRefusal::Spent));
    assert_eq!(get(NOW, 1), None);
    // A part comes back in a part of the time.
    let later = NOW.after(limits::BLOB_REFILL_US / most + 1);
    assert_eq!((get(later, 0), get(later, 0)), (None, Some(BlobRefusal::Spent)));
}

#[test]
fn a_capped_uplink_is_never_used_faster_and_links_share_it_evenly() {
    let rate = 1_000_000;
    let mut world = World::new(12, &[8 * PIECE_BYTES]);
    let first = world.add(1, Behaviour::Honest);
    world.cap(first, rate);
    world.run().expect("slowly");
    world.check_stored();
    let least = 7 * PIECE_BYTES * 1_000_000 / rate;
    let took = world.elapsed_us();
    assert!((least..least + 1_500_000).contains(&took), "{took} us, at least {least}");
    // Three links that always have a question get the same.
    let (mut uploads, blob) = holder(4 * PIECE_BYTES, Some(rate), &[1, 2, 3]);
    let mut counts = [0u32; 3];
    let mut now = NOW;
    for link in 0..3 {
        for index in 0..4 {
            let frame = ToHolder::Piece { blob, index };
            let body = frame.to_wire().expect("short")[limits::LENGTH_BYTES..].to_vec();
            uploads.handle(now, Input::Frame { link, body });
        }
    }
    let mut reads = Vec::new();
    for _ in 0..9 {
        for output in outputs(&mut uploads) {
            if let Output::Read { link, .. } = output {
                reads.push(now);
                counts[link as usize] += 1;
                uploads.handle(now, Input::Read { link, bytes: Some(vec![0; 16]) });
                uploads.handle(now, Input::Sent(link));
            }
        }
        now = uploads.deadline().expect("more is waiting");
        uploads.handle(now, Input::Tick);
    }
    assert_eq!(counts, [3; 3]);
    let piece_us = PIECE_BYTES * 1_000_000 / rate;
    assert!(reads.windows(2).all(|two| two[1].since(two[0]) >= piece_us), "{reads:?}");
}

#[test]
fn who_floods_sends_garbage_or_falls_silent_loses_the_link() {
    let (mut uploads, blob) = holder(4 * PIECE_BYTES, None, &[1, 2, 3]);
    uploads.handle(NOW, Input::Frame { link: 1, body: vec![7, 7] });
    assert_eq!(outputs(&mut uploads), [Output::Close { link: 1, is_fault: true }]);
    let piece = ToHolder::Piece { blob, index: 0 };
    let mut told = Vec::new();
    for _ in 0..limits::BLOB_QUESTIONS + 2 {
        told.extend(asked(&mut uploads, NOW, 0, piece));
    }
    assert_eq!(told.last(), Some(&Output::Close { link: 0, is_fault: true }), "{told:?}");
    assert_eq!(told.len(), 2, "one is read meanwhile: {told:?}");
    let deadline = uploads.deadline().expect("the third is idle");
    assert_eq!(deadline, NOW.after(limits::BLOB_IDLE_US));
    uploads.handle(deadline, Input::Tick);
    assert_eq!(outputs(&mut uploads), [Output::Close { link: 2, is_fault: false }]);
    assert_eq!(uploads.deadline(), None, "nothing of a link that is gone is left");
}

#[test]
fn frames_of_blobs_survive_their_encoding_and_nothing_longer_is_one() {
    let bytes = blob(1, 2 * PIECE_BYTES);
    let outline = Outline::of(&bytes);
    let blob = Digest::of(&bytes);
    let values = outline.values().to_vec();
    let frames = [
        FromHolder::Outline { blob, len: outline.len(), values },
        FromHolder::Piece { blob, index: 1, bytes: bytes[..PIECE_BYTES as usize].to_vec() },
        FromHolder::Refused { blob, why: BlobRefusal::Spent },
    ];
    for frame in frames {
        let wire = frame.to_wire().expect("within its limit");
        assert_eq!(FromHolder::from_body(&wire[limits::LENGTH_BYTES..]), Ok(frame));
    }
    let asked = ToHolder::Piece { blob: Digest([0xab; 32]), index: 7 };
    let wire = [&[37, 0, 0, 0, 1][..], &[0xab; 32], &[7, 0, 0, 0]].concat();
    assert_eq!(asked.to_wire(), Ok(wire), "golden bytes");
    let refused = FromHolder::Refused { blob: Digest([0xab; 32]), why: BlobRefusal::Busy };
    let wire = [&[34, 0, 0, 0, 2][..], &[0xab; 32], &[1]].concat();
    assert_eq!(refused.to_wire(), Ok(wire), "golden bytes");
    let long = FromHolder::Piece { blob, index: 1, bytes: bytes.clone() };
    long.to_wire().expect_err("longer than a piece");
    let most = FromHolder::Outline { blob, len: 0, values: vec![blob; limits::BLOB_PIECES] };
    most.to_wire().expect("the longest outline fits");
}
