//! Takeovers: segments that follow each other in one place. Honest ones are verified, each lie at
//! the boundary is caught and its teller named, and what others could have mixed up names nobody.

use lockstep_exact::reference::Reference;
use lockstep_verify::audit::{Auditing, Missing, Unverified, audit};
use lockstep_verify::draw::Extent;
use lockstep_verify::fault::{Blame, Fault, Reason};
use lockstep_verify::links::{Linked, Rules};
use lockstep_verify::receipt::Receipt;
use lockstep_verify::statement::{Mark, RunId, Takeover};

use lockstep_testing::lie::Lie;
use lockstep_testing::proofs::{
    Ask, Misdeed, Ring, SEED, Session, Slip, Taken, client, key, model, node, sign_chain, slip,
    standby, told,
};

const CUTS: [u32; 2] = [2, 4];

fn ask() -> Ask {
    Ask::new(21, 11, 6)
}

/// A ring of three stages with takeovers, each a place and the position before which it happens.
fn ring(handed: bool, taken: &[(usize, u32)]) -> Ring<'static> {
    let taken = taken.iter().map(|&(place, at)| Taken { place, at, is_handed: handed });
    Ring { taken: taken.collect(), ..Ring::new(model(), &CUTS) }
}

/// The prompt goes out in chunks of 5, 5 and 1, the answer token by token.
const SCENES: [&[(usize, u32)]; 8] = [
    &[(1, 12)],
    &[(2, 13)],
    &[(1, 5)],
    &[(2, 10)],
    &[(1, 12), (1, 14)],
    &[(1, 11), (2, 14)],
    &[(2, 12), (1, 13)],
    &[(1, 12), (2, 12)],
];

#[test]
fn a_session_whose_stages_were_replaced_is_verified_and_gives_the_same_answer() {
    let undisturbed = Ring::new(model(), &CUTS).run(&ask()).receipt;
    for scene in SCENES {
        for handed in [true, false] {
            let session = ring(handed, scene).run(&ask());
            assert_eq!(session.receipt.answer, undisturbed.answer, "{scene:?}");
            let added = if handed { scene.len() } else { 0 };
            assert_eq!(session.receipt.segments.len(), 3 + added, "{scene:?}");
            for extent in [Extent::Full, Extent::Sampled] {
                let verdict = session.verdict(extent);
                let verified = verdict.unwrap_or_else(|error| {
                    panic!("{scene:?}, handed {handed}, {extent}: {error}");
                });
                let coverage = verified.coverage();
                let is_full = coverage.cells_checked() == coverage.cells_total();
                assert_eq!(is_full, extent == Extent::Full, "{scene:?}: {coverage}");
                assert_eq!(coverage.stages.len(), session.receipt.segments.len());
            }
        }
    }
}

#[test]
fn the_cells_of_whoever_took_over_are_opened_from_position_0_on() {
    let session = ring(true, &[(1, 12)]).run(&ask());
    let coverage = session.verdict(Extent::Full).unwrap().coverage().clone();
    let cells: Vec<u64> = coverage.stages.iter().map(|stage| stage.cells_checked).collect();
    // 16 positions; 12 before the boundary.
    assert_eq!(cells, [32, 24, 32, 32]);
}

/// The fault of a lie told by a server in a ring with these takeovers, which must be that server's.
fn caught(who: usize, lie: Misdeed, handed: bool, scene: &[(usize, u32)], extent: Extent) -> Fault {
    let fault = ring(handed, scene).lying(who, lie).run(&ask()).fault(extent);
    assert_eq!(fault.node(), Some(node(who).id()), "{lie:?} by {who}, {extent}: {fault}");
    fault
}

#[test]
fn what_whoever_took_over_computes_wrongly_convicts_it_before_and_after_the_boundary() {
    for handed in [true, false] {
        for lie in [
            told(Lie::WrongKv, 2, 3),
            told(Lie::WrongKv, 3, 13),
            slip(Slip::KvRowCommitted(2, 4)),
            told(Lie::FlippedBit, 2, 3),
            told(Lie::FlippedBit, 3, 13),
            told(Lie::SkippedLayer, 3, 0),
            slip(Slip::Code(2)),
            told(Lie::ScaledRowScales, 3, 0),
            told(Lie::TruncatedContext, 3, 0),
            told(Lie::OtherStatesRoot, 2, 0),
            told(Lie::OtherKvRoot, 3, 0),
            told(Lie::SumOffByOne, 0, 0),
            slip(Slip::Chain),
        ] {
            let fault = caught(standby(1), lie, handed, &[(1, 12)], Extent::Full);
            assert_eq!(fault.stage(), Some(1), "the place: {fault}");
        }
    }
}

#[test]
fn whoever_handed_its_place_over_answers_for_what_it_did() {
    for lie in [
        told(Lie::WrongKv, 2, 3),
        told(Lie::FlippedBit, 2, 3),
        told(Lie::FlippedBit, 3, 11),
        told(Lie::SkippedLayer, 3, 0),
        told(Lie::OtherStatesRoot, 2, 0),
        told(Lie::OtherInputRoot, 0, 0),
        slip(Slip::OutputRoot),
        slip(Slip::SentColumn(3, 4)),
        slip(Slip::ReceivedColumn(4)),
        told(Lie::OtherMarkInput, 0, 0),
        slip(Slip::MarkInputShown),
        told(Lie::TwoMarks, 0, 11),
    ] {
        caught(1, lie, true, &[(1, 12)], Extent::Full);
    }
}

/// What it got, what it sent, and what it says of either.
const AT_THE_BOUNDARY: [Misdeed; 9] = [
    told(Lie::OtherMarkInput, 0, 0),
    slip(Slip::MarkInputShown),
    slip(Slip::ReceivedColumn(4)),
    slip(Slip::ReceivedColumn(13)),
    slip(Slip::SentColumn(3, 4)),
    told(Lie::OtherInputRoot, 0, 0),
    slip(Slip::OutputRoot),
    told(Lie::TwoMarks, 0, 13),
    told(Lie::TwoMarks, 0, 4),
];

#[test]
fn a_difference_at_the_boundary_is_decided_by_what_both_show() {
    for handed in [true, false] {
        for lie in AT_THE_BOUNDARY {
            for extent in [Extent::Full, Extent::Sampled] {
                let unsent = handed && lie == slip(Slip::SentColumn(3, 4));
                if unsent && extent == Extent::Sampled {
                    // That row went on to nobody: it is one wrong cell among many.
                    continue;
                }
                caught(standby(1), lie, handed, &[(1, 12)], extent);
            }
        }
    }
}

#[test]
fn a_sampled_audit_opens_both_sides_of_a_border_whose_columns_have_different_lengths() {
    // One row of many that is not what was marked: roots of other lengths can't tell it.
    let ask = Ask::new(22, 120, 8);
    for (who, lie) in [
        (0, slip(Slip::SentColumn(1, 60))),
        (1, slip(Slip::ReceivedColumn(60))),
        (1, slip(Slip::SentColumn(3, 60))),
        (2, slip(Slip::ReceivedColumn(60))),
    ] {
        let session = ring(true, &[(1, 125)]).lying(who, lie).run(&ask);
        let fault = session.fault(Extent::Sampled);
        assert_eq!(fault.node(), Some(node(who).id()), "{lie:?} by {who}: {fault}");
    }
}

#[test]
fn two_takeovers_at_once_or_one_after_the_other_are_told_apart() {
    let lies = [
        slip(Slip::MarkInputShown),
        slip(Slip::ReceivedColumn(4)),
        slip(Slip::OutputRoot),
        told(Lie::TwoMarks, 0, 13),
    ];
    for lie in lies {
        for handed in [true, false] {
            caught(standby(1), lie, handed, &[(1, 12), (2, 12)], Extent::Full);
            // Whoever was lost has signed no segment; whoever follows it has.
            caught(standby(2), lie, handed, &[(1, 12), (1, 13)], Extent::Full);
        }
        caught(standby(1), lie, true, &[(1, 12), (1, 14)], Extent::Full);
    }
}

#[test]
fn neighbours_of_a_place_that_was_taken_over_answer_for_what_they_did() {
    for handed in [true, false] {
        for who in [0, 2] {
            let (first, last) = if who == 0 { (0, 1) } else { (4, 5) };
            for lie in [
                told(Lie::FlippedBit, first, 4),
                told(Lie::FlippedBit, first, 13),
                told(Lie::WrongKv, last, 13),
                slip(Slip::OutputRoot),
                told(Lie::TwoMarks, 0, 13),
            ] {
                if who == 2 && lie == slip(Slip::OutputRoot) {
                    // The last stage's root is held against its rows.
                    continue;
                }
                caught(who, lie, handed, &[(1, 12)], Extent::Full);
            }
        }
        for lie in [
            told(Lie::OtherInputRoot, 0, 0),
            told(Lie::OtherMarkInput, 0, 0),
            slip(Slip::MarkInputShown),
            slip(Slip::ReceivedColumn(4)),
        ] {
            caught(2, lie, handed, &[(1, 12)], Extent::Full);
        }
    }
}

#[test]
fn a_sampled_audit_opens_all_of_both_where_a_rebuild_does_not_give_what_was_sent() {
    // One cell of many: only the difference of the marks tells where to look.
    let ask = Ask::new(22, 120, 8);
    for who in [1, standby(1)] {
        let ring = ring(true, &[(1, 125)]).lying(who, told(Lie::FlippedBit, 2, 60));
        let session = ring.run(&ask);
        let fault = session.fault(Extent::Sampled);
        assert_eq!(fault.node(), Some(node(who).id()), "{fault}");
        assert_eq!(fault.reason, Reason::Output, "{fault}");
    }
}

/// Nobody's fault, whatever of it has been signed.
fn nobodys(receipt: Receipt, session: &Session) -> Reason {
    let bundle = session.bundle(Extent::Full).unwrap();
    let bundle = lockstep_verify::bundle::Bundle { receipt, ..bundle };
    match audit(&Reference, key(), &bundle) {
        Err(Unverified::Failed(fault)) => {
            assert_eq!(fault.blame, Blame::Receipt, "{fault}");
            fault.reason
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("verified"),
    }
}

/// Every segment's stage signs it again.
fn signed_again(receipt: &mut Receipt, index: usize, who: usize) {
    receipt.segments[index] = receipt.segments[index].clone().signed(&node(who));
}

#[test]
fn gaps_overlaps_and_another_order_of_tiles_are_the_receipts_fault() {
    type Change = fn(&mut Receipt);
    let session = ring(true, &[(1, 12)]).run(&ask());
    let changes: [(&str, Change); 8] = [
        ("no first tile", |r| drop(r.segments.remove(1))),
        ("no second tile", |r| drop(r.segments.remove(2))),
        ("the wrong order", |r| r.segments.swap(1, 2)),
        ("twice the same", |r| r.segments.insert(2, r.segments[1].clone())),
        ("a gap", |r| {
            r.segments[2].first_position = 13;
            signed_again(r, 2, standby(1));
        }),
        ("an overlap", |r| {
            r.segments[2].first_position = 11;
            signed_again(r, 2, standby(1));
        }),
        ("an end that is not the next one's first", |r| {
            r.segments[1].positions = 11;
            signed_again(r, 1, 1);
        }),
        ("another span", |r| {
            r.segments[2].first = 3;
            signed_again(r, 2, standby(1));
        }),
    ];
    for (what, change) in changes {
        let mut receipt = session.receipt.clone();
        change(&mut receipt);
        let reason = nobodys(receipt, &session);
        // Where the second tile is missing, the next stage names a run that is not there.
        let is_tiling = matches!(reason, Reason::Tiling(_));
        assert!(is_tiling || what == "no second tile", "{what}: {reason:?}");
    }
}

#[test]
fn a_tile_is_of_a_lease_that_the_client_made_after_the_one_before() {
    type Change = fn(&mut Receipt);
    let session = ring(true, &[(1, 12), (1, 14)]).run(&ask());
    let changes: [(&str, Change, Reason); 7] = [
        ("a lease of the same epoch", |r| r.placements[0].epoch = 0, placement()),
        ("a lease is left out", |r| drop(r.placements.remove(0)), placement()),
        ("server 1 is another", |r| r.placements[0].route[0].node = node(7).id(), placement()),
        ("a node twice", |r| r.placements[0].route[1].node = node(2).id(), placement()),
        ("another span", |r| r.placements[0].route[1].end = 5, placement()),
        ("more positions", |r| r.placements[0].max_positions += 1, placement()),
        ("not signed", |r| r.placements[0].signature.0[0] ^= 1, Reason::Signature("lease")),
    ];
    for (what, change, expected) in changes {
        let mut receipt = session.receipt.clone();
        change(&mut receipt);
        if !matches!(expected, Reason::Signature(_)) {
            for placed in &mut receipt.placements {
                *placed = placed.clone().signed(&client());
            }
        }
        assert_eq!(nobodys(receipt, &session), expected, "{what}");
    }
    // The first server takes over from itself, under the same lease.
    let mut receipt = session.receipt.clone();
    receipt.segments[2].lease = receipt.lease.digest();
    signed_again(&mut receipt, 2, 1);
    assert_eq!(nobodys(receipt, &session), Reason::Tiling("segments"));
    // Server 1 takes over from itself, under a later one.
    let mut receipt = session.receipt.clone();
    let mut again = receipt.segments[0].clone();
    (again.first_position, again.lease) = (again.positions, receipt.placements[0].digest());
    receipt.segments.insert(1, again);
    signed_again(&mut receipt, 1, 0);
    assert_eq!(nobodys(receipt, &session), Reason::Tiling("segments"));
}

const fn placement() -> Reason {
    Reason::Lease("placement")
}

#[test]
fn who_got_its_frames_from_whom_is_said_by_who_got_them() {
    let session = ring(true, &[(1, 12)]).run(&ask());
    let run = |r: &Receipt, index: usize| r.segments[index].run().id();
    type Change = fn(&mut Receipt, RunId, RunId);
    let changes: [(&str, Change); 9] = [
        ("not told", |r, _, _| r.segments[3].takeovers.clear()),
        ("told too late", |r, _, _| r.segments[3].takeovers[0].position = 13),
        ("told too early", |r, _, _| r.segments[3].takeovers[0].position = 5),
        ("of the run that was there", |r, old, _| {
            r.segments[3].takeovers.insert(0, Takeover { position: 5, run: old });
        }),
        ("of the run that it began with", |r, _, new| r.segments[3].before = new),
        ("of another run", |r, old, _| r.segments[3].takeovers[0].run = old),
        ("of no run", |r, _, _| r.segments[3].takeovers[0].run = RunId::NONE),
        ("twice", |r, _, new| {
            r.segments[3].takeovers.push(Takeover { position: 12, run: new });
        }),
        ("after the end", |r, _, new| {
            r.segments[3].takeovers.push(Takeover { position: 99, run: new });
        }),
    ];
    for (what, change) in changes {
        let mut receipt = session.receipt.clone();
        let (old, new) = (run(&receipt, 1), run(&receipt, 2));
        change(&mut receipt, old, new);
        signed_again(&mut receipt, 3, 2);
        let reason = nobodys(receipt, &session);
        assert_eq!(reason, Reason::OtherRun { stage: 2 }, "{what}");
    }
}

#[test]
fn takeovers_are_in_the_order_of_their_positions_and_within_the_segment() {
    let run = |session: &Session, index: usize| session.receipt.segments[index].run().id();
    // The last server of place 1 takes over at 14, and then, so it is said, at 0 too.
    let session = ring(true, &[(1, 12), (1, 14)]).run(&ask());
    let mut receipt = session.receipt.clone();
    let [first, second, third] = [1, 2, 3].map(|index| run(&session, index));
    receipt.segments[4].before = first;
    receipt.segments[4].takeovers =
        vec![Takeover { position: 12, run: second }, Takeover { position: 0, run: third }];
    signed_again(&mut receipt, 4, 2);
    assert_eq!(nobodys(receipt, &session), Reason::OtherRun { stage: 2 });
    // Place 2 is handed over at 10: who had it before can't have got anything from 12 on.
    let session = ring(true, &[(2, 10), (1, 12)]).run(&ask());
    let mut receipt = session.receipt.clone();
    let run = run(&session, 2);
    assert_eq!((receipt.segments[3].positions, receipt.segments[4].takeovers.len()), (10, 1));
    receipt.segments[3].takeovers.push(Takeover { position: 12, run });
    signed_again(&mut receipt, 3, 2);
    assert_eq!(nobodys(receipt, &session), Reason::OtherRun { stage: 2 });
}

#[test]
fn a_frame_does_not_cross_the_end_of_a_tile() {
    // The first server says that it handed over inside the first chunk.
    let session = ring(true, &[(1, 5)]).run(&ask());
    let mut receipt = session.receipt.clone();
    receipt.segments[1].positions = 3;
    signed_again(&mut receipt, 1, 1);
    receipt.segments[2].first_position = 3;
    let run = receipt.segments[2].run().id();
    signed_again(&mut receipt, 2, standby(1));
    receipt.segments[3].takeovers[0] = Takeover { position: 3, run };
    signed_again(&mut receipt, 3, 2);
    assert_eq!(nobodys(receipt, &session), Reason::Tiling("frames"));
}

#[test]
fn openings_of_another_segment_of_the_same_place_are_no_answer() {
    let session = ring(true, &[(1, 12)]).run(&ask());
    let mut bundle = session.bundle(Extent::Full).unwrap();
    let of = |index: usize| session.receipt.segments[index].run().id();
    let at = |run| bundle.exchanges.iter().position(|one| one.challenge.run == run).unwrap();
    let (old, new) = (at(of(1)), at(of(2)));
    bundle.exchanges.swap(old, new);
    let opening = bundle.exchanges[old].opening.clone();
    bundle.exchanges[old].opening = bundle.exchanges[new].opening.clone();
    bundle.exchanges[new].opening = opening;
    match audit(&Reference, key(), &bundle) {
        Err(Unverified::Failed(fault)) => {
            assert_eq!(fault.reason, Reason::Signature("opening"));
            assert_eq!(fault.blame, Blame::Receipt);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn takeovers_that_did_not_happen_hide_no_state_that_a_stage_took_instead_of_what_it_got() {
    // One of the last states, which a sampled audit opens rarely: the roots differ.
    let ask = Ask::new(22, 120, 8);
    let liar = || Ring::new(model(), &CUTS).lying(1, slip(Slip::OtherInput(125))).run(&ask);
    let fault = liar().fault(Extent::Sampled);
    assert_eq!(fault.node(), Some(node(1).id()), "{fault}");
    // It says that others sent it the rest: then roots are not compared, and the borders opened.
    let (mut session, mut verdicts) = (liar(), Vec::new());
    let run = session.receipt.segments[0].run().id();
    for position in [1, 4, 5, 119, 120, 126] {
        session.receipt.segments[1].takeovers = vec![Takeover { position, run }];
        signed_again(&mut session.receipt, 1, 1);
        verdicts.push((position, session.verdict(Extent::Sampled).map(drop)));
    }
    let reason = Reason::OtherRun { stage: 1 };
    let expected = Err(Unverified::Failed(Fault { blame: Blame::Receipt, cell: None, reason }));
    assert!(verdicts.iter().all(|(_, verdict)| *verdict == expected), "{verdicts:#?}");
}

#[test]
fn a_stage_that_sent_nothing_on_is_nobodys_fault_and_need_not_sign() {
    // Before the first frame: there is nothing of it that could be opened.
    let fault = ring(true, &[(1, 0)]).run(&ask()).fault(Extent::Full);
    assert_eq!((fault.blame, &fault.reason), (Blame::Receipt, &Reason::Tiling("segments")));
    let session = ring(false, &[(1, 0)]).run(&ask());
    session.verdict(Extent::Full).unwrap();
}

#[test]
fn a_tile_that_ends_before_it_begins_is_the_receipts_fault() {
    let session = ring(true, &[(1, 12), (1, 14)]).run(&ask());
    let mut receipt = session.receipt.clone();
    // The second one of the place says that it sent nothing from position 10 on, the third one that
    // it took over there, before the second did.
    let mut chain = Mark::chain_start(receipt.segments[2].run().id());
    for step in &mut receipt.steps {
        match step.position {
            0..10 => chain = step.marks[2].chain_after(),
            10..12 => drop(step.marks.remove(2)),
            12..14 => drop(step.marks.remove(1)),
            _ => {}
        }
    }
    (receipt.segments[2].positions, receipt.segments[2].chain) = (10, chain);
    signed_again(&mut receipt, 2, standby(1));
    receipt.segments[3].first_position = 10;
    let run = receipt.segments[3].run().id();
    let marks = receipt.steps.iter_mut().map(|step| step.marks.iter_mut().rev().nth(1).unwrap());
    receipt.segments[3].chain = sign_chain(marks, run, standby(2));
    signed_again(&mut receipt, 3, standby(2));
    receipt.segments[4].takeovers = vec![Takeover { position: 10, run }];
    signed_again(&mut receipt, 4, 2);
    assert_eq!(nobodys(receipt, &session), Reason::Tiling("segments"));
}

#[test]
fn an_audit_takes_no_more_openings_than_it_may_however_often_stages_were_replaced() {
    let planned = |session: &Session, extent, most| {
        let receipt = &session.receipt;
        let begun = Auditing::begin_within(most, &Reference, key(), receipt, &SEED, extent);
        begun.map(|auditing| auditing.plan().len() as u64)
    };
    let undisturbed = Ring::new(model(), &CUTS).run(&ask());
    let replaced = ring(true, &[(1, 12), (1, 14)]).run(&ask());
    let most = planned(&undisturbed, Extent::Full, u64::MAX).unwrap();
    assert_eq!(planned(&undisturbed, Extent::Full, most), Ok(most));
    let takes = planned(&replaced, Extent::Full, u64::MAX).unwrap();
    assert!(takes > most, "{takes}");
    match planned(&replaced, Extent::Full, most) {
        Err(Unverified::NotChecked { why: Missing::TooLong(why), .. }) => {
            assert_eq!((why.extent, why.positions, why.most), (Extent::Full, 16, most));
            // Two layers of two more stages; edges, which nobody can choose, are not counted.
            assert_eq!(why.challenges, most + 4);
            assert_eq!(planned(&replaced, Extent::Full, most + 4), Ok(takes));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_places_of_segments_are_those_that_the_links_give_them() {
    for scene in SCENES {
        let session = ring(true, scene).run(&ask());
        let receipt = &session.receipt;
        let rules = Rules { manifest: key().manifest(), vocabulary: key().vocabulary() };
        let linked = Linked::check(receipt, rules).unwrap();
        let places: Vec<u32> =
            (0..).zip(&receipt.segments).map(|(index, _)| linked.place(index)).collect();
        assert_eq!(receipt.places(), places, "{scene:?}");
        let last = places.last().copied();
        assert_eq!((last, places.len()), (Some(2), 3 + scene.len()), "{scene:?}");
    }
}
