//! The machine that poses a client's challenges, driven by hand: what it sends and when, whom it
//! asks again, and what it holds against whom.

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};

use lockstep_exact::Digest;
use lockstep_exact::bytes::Canonical;
use lockstep_proto::announcement::Announcement;
use lockstep_proto::client::{
    ChallengeInput, ChallengeOutput, Challenger, Conduct, Exchange, Loss, NoAnswer,
};
use lockstep_proto::failure::Refusal;
use lockstep_proto::frame::{Frame, ToClient, ToServer};
use lockstep_proto::limits;
use lockstep_proto::now::Now;
use lockstep_proto::server::Capacity;
use lockstep_testing::hash_model::{HashModel, LAYERS, model};
use lockstep_testing::ring::{Ring, plan_of};
use lockstep_verify::challenge::{Challenge, Target};
use lockstep_verify::opening::SignedOpening;
use lockstep_verify::receipt::Receipt;
use lockstep_verify::sign::{Signature, Statement};
use support::{SECOND, all_layers, answered, ask, layer, ring_with};

/// A challenger that is driven by hand, and what it has told.
struct ByHand {
    machine: Challenger,
    told: Vec<Exchange>,
}

/// A challenger of a finished answer that poses one challenge for every layer.
fn challenger(ring: &Ring<HashModel>) -> ByHand {
    challenger_of(ring, all_layers())
}

fn challenger_of(ring: &Ring<HashModel>, targets: Vec<Target>) -> ByHand {
    let receipt = ring.outcome(0).unwrap().as_ref().unwrap();
    let key = Ring::<HashModel>::client_key(0);
    let plan = plan_of(receipt, targets);
    let machine = Challenger::new(ring.now(), receipt, plan, &key, model().prices, 0);
    ByHand { machine, told: Vec::new() }
}

impl ByHand {
    fn handle(&mut self, now: Now, input: ChallengeInput) {
        self.machine.handle(now, input);
    }

    fn deadline(&self) -> Option<Now> {
        self.machine.deadline()
    }

    /// What it wants to send, and its exchanges if it is done, in the order of the targets.
    fn poll(&mut self) -> (Vec<(u32, ToServer)>, Option<Vec<Exchange>>) {
        let (mut sent, mut done) = (Vec::new(), None);
        while let Some(output) = self.machine.poll() {
            match output {
                ChallengeOutput::Answered(exchange) => self.told.push(*exchange),
                ChallengeOutput::Done => {
                    self.told.sort_by_key(|exchange| exchange.index);
                    done = Some(self.told.clone());
                }
                ChallengeOutput::Send { stage, wire, .. } => {
                    sent.push((stage, ToServer::from_body(&wire[limits::LENGTH_BYTES..]).unwrap()));
                }
            }
        }
        (sent, done)
    }
}

#[test]
fn a_lost_link_is_tried_again_and_others_tell_whose_network_is_dead() {
    let ring = answered(2);
    for (others_live, hung_up) in [(true, false), (false, false), (false, true)] {
        let mut machine = challenger(&ring);
        let why = if hung_up { Loss::HungUp } else { Loss::Silent };
        let lost = |stage, why| ChallengeInput::Lost { stage, why };
        assert_eq!(machine.poll().0.len(), 4, "two each");
        let mut now = ring.now().after(1_000);
        machine.handle(now, lost(1, why));
        assert_eq!(machine.poll().0, [], "not at once");
        now = machine.deadline().unwrap();
        machine.handle(now, ChallengeInput::Tick);
        let (again, _) = machine.poll();
        assert!(again.iter().all(|(stage, _)| *stage == 1) && again.len() == 2);
        machine.handle(now, lost(1, why));
        // Stage 0 refuses everything; it is heard before the last loss, or after it.
        for exchange in 0..3 {
            assert!(machine.poll().1.is_none());
            let frame = ToClient::ChallengeRefused {
                challenge: challenge_of(&ring, exchange).statement(),
                refusal: Refusal::ChallengeLimit,
            };
            machine.handle(now, ChallengeInput::Frame { stage: 0, body: frame.to_bytes() });
        }
        let (asked, done) = machine.poll();
        let exchanges = if hung_up {
            done.unwrap()
        } else {
            assert_eq!(asked, [(0, ToServer::Status)], "is anybody there?");
            if others_live {
                let announcement = Announcement {
                    sequence: 1,
                    expires_unix_ms: 2,
                    address: String::new(),
                    status: ring.server(0).unwrap().status(),
                    signature: Signature::NONE,
                };
                let body = ToClient::Status(Box::new(announcement)).to_bytes();
                machine.handle(now.after(9), ChallengeInput::Frame { stage: 0, body });
            } else {
                machine.handle(machine.deadline().unwrap(), ChallengeInput::Tick);
            }
            machine.poll().1.unwrap()
        };
        for exchange in &exchanges[3..] {
            let expected = if hung_up { NoAnswer::HungUp } else { NoAnswer::LinkLost };
            assert_eq!(exchange.answer, Err(expected));
            assert_eq!(exchange.is_withheld, others_live || hung_up);
        }
        assert!(exchanges[..3].iter().all(|exchange| exchange.is_withheld));
        assert_eq!(machine.deadline(), None);
    }
}

/// The challenge that client 0 poses for one of [`all_layers`].
fn challenge_of(ring: &Ring<HashModel>, index: usize) -> Challenge {
    let receipt = ring.outcome(0).unwrap().as_ref().unwrap();
    Challenge {
        session: receipt.request.session(),
        run: receipt.segments[index * receipt.segments.len() / LAYERS as usize].run().id(),
        receipt: receipt.digest(),
        target: all_layers()[index].clone(),
        signature: Signature::NONE,
    }
}

#[test]
fn a_pause_of_the_clients_process_is_nobodys_silence() {
    let ring = answered(1);
    let mut machine = challenger(&ring);
    machine.poll();
    let late = machine.deadline().unwrap().after(100 * SECOND);
    machine.handle(late, ChallengeInput::Tick);
    assert!(machine.poll().1.is_none(), "the stage has time again");
    machine.handle(machine.deadline().unwrap(), ChallengeInput::Tick);
    let exchanges = machine.poll().1.unwrap();
    assert!(exchanges.iter().all(|exchange| exchange.answer == Err(NoAnswer::Timeout)));
}

#[test]
fn time_that_ran_out_while_the_client_slept_is_not_held_against_the_stage() {
    for sleeps in [false, true] {
        let capacity = Capacity { retention_us: 301 * SECOND, ..Capacity::default() };
        let mut ring = ring_with(1, 1, capacity);
        ask(&mut ring, 0, 20, 6);
        assert!(ring.run_to_the_end(10 * SECOND));
        let targets = (0..22).map(|at| layer(at % LAYERS, &[at / LAYERS])).collect();
        let (mut machine, start) = (challenger_of(&ring, targets), ring.now());
        // Each two are refused just in time, until two of the 22 are left.
        for at in (1..=10).map(|round| round * 29 * SECOND) {
            for (stage, asked) in machine.poll().0 {
                let ToServer::Challenge(challenge) = asked else { panic!("{asked:?}") };
                let challenge = challenge.statement();
                let frame = ToClient::ChallengeRefused { challenge, refusal: Refusal::Busy };
                let body = frame.to_bytes();
                machine.handle(start.after(at), ChallengeInput::Frame { stage, body });
            }
        }
        let until = if sleeps { 1_000 * SECOND } else { 0 };
        machine.handle(machine.deadline().unwrap().after(until), ChallengeInput::Tick);
        machine.handle(machine.deadline().unwrap_or(start), ChallengeInput::Tick);
        let exchanges = machine.poll().1.unwrap();
        let why = if sleeps { NoAnswer::DeadlineOver } else { NoAnswer::RanOut };
        let left = exchanges.iter().filter(|exchange| exchange.answer == Err(why)).count();
        let withheld = exchanges.iter().filter(|exchange| exchange.is_withheld).count();
        assert_eq!((left, withheld), (2, if sleeps { 20 } else { 22 }), "{sleeps}");
    }
}

/// A challenger with so many challenges for a stage that promises little more than it must, and
/// when it began.
fn challenger_of_a_short_promise(challenges: u32, took_us: u64) -> (ByHand, Now) {
    let retention_us = limits::LEAST_RETENTION_US + SECOND;
    let mut ring = ring_with(1, 1, Capacity { retention_us, ..Capacity::default() });
    ask(&mut ring, 0, 20, 6);
    assert!(ring.run_to_the_end(10 * SECOND));
    let receipt = ring.outcome(0).unwrap().as_ref().unwrap();
    let key = Ring::<HashModel>::client_key(0);
    let targets = (0..challenges).map(|at| layer(at % LAYERS, &[at % 20])).collect();
    let plan = plan_of(receipt, targets);
    let machine = Challenger::new(ring.now(), receipt, plan, &key, model().prices, took_us);
    (ByHand { machine, told: Vec::new() }, ring.now())
}

/// What comes of all challenges once time has passed until nothing is waited for.
fn wait_for_all(machine: &mut ByHand) -> Vec<Exchange> {
    loop {
        if let (_, Some(done)) = machine.poll() {
            return done;
        }
        let deadline = machine.deadline().unwrap();
        machine.handle(deadline, ChallengeInput::Tick);
    }
}

#[test]
fn a_stage_that_is_silent_until_the_promised_time_is_over_withholds() {
    // The answer took longer than the stage has promised, so an opening may too.
    let (mut machine, _) = challenger_of_a_short_promise(6, 2 * limits::LEAST_RETENTION_US);
    let silent = wait_for_all(&mut machine);
    assert!(silent.iter().all(|exchange| exchange.is_withheld), "{silent:?}");
    // It is slow at first, and closes its link before the last answers are due that it could owe.
    let (mut machine, start) = challenger_of_a_short_promise(40, 0);
    let key = Ring::<HashModel>::server_key(0);
    let each = limits::CHALLENGE_US - SECOND / 2;
    for step in 1..10 {
        for (stage, asked) in machine.poll().0 {
            let ToServer::Challenge(challenge) = asked else { panic!("{asked:?}") };
            let opening = SignedOpening::new(challenge.statement(), Vec::new(), &key);
            let body = ToClient::Opening(Box::new(opening)).to_bytes();
            let now = start.after(step * each);
            machine.handle(now, ChallengeInput::Frame { stage, body });
            machine.handle(now, ChallengeInput::Taken { stage });
        }
    }
    machine.poll();
    let lost = ChallengeInput::Lost { stage: 0, why: Loss::HungUp };
    machine.handle(start.after(10 * each), lost);
    let stalled = wait_for_all(&mut machine);
    let withheld = stalled.iter().filter(|exchange| exchange.is_withheld).count();
    let answered = stalled.iter().filter(|exchange| exchange.answer.is_ok()).count();
    assert_eq!((answered > 8, answered + withheld), (true, 40), "{withheld}");
}

#[test]
fn a_network_that_dies_as_the_promised_time_ends_is_not_held_against_the_stage() {
    let (mut machine, start) = challenger_of_a_short_promise(6, 2 * limits::LEAST_RETENTION_US);
    machine.poll();
    let lost = ChallengeInput::Lost { stage: 0, why: Loss::Silent };
    machine.handle(start.after(limits::LEAST_RETENTION_US), lost);
    let found = wait_for_all(&mut machine);
    assert!(found.iter().all(|exchange| exchange.answer == Err(NoAnswer::DeadlineOver)));
    assert!(found.iter().all(|exchange| !exchange.is_withheld), "{found:?}");
}

#[test]
fn answers_leave_in_the_order_asked_and_no_more_are_asked_for_than_are_taken() {
    let ring = answered(1);
    let mut machine = challenger(&ring);
    let key = Ring::<HashModel>::server_key(0);
    let opening = |index: usize| {
        let digest = challenge_of(&ring, index).statement();
        let opening = SignedOpening::new(digest, vec![index as u8], &key);
        let body = ToClient::Opening(Box::new(opening)).to_bytes();
        ChallengeInput::Frame { stage: 0, body }
    };
    let (now, asked) = (ring.now(), limits::CHALLENGES_ASKED);
    let indexes = |machine: &ByHand| -> Vec<usize> {
        machine.told.iter().map(|exchange| exchange.index).collect()
    };
    let mut first = 0;
    while first < LAYERS as usize {
        let window = first..(first + asked).min(LAYERS as usize);
        assert_eq!(machine.poll().0.len(), window.len());
        // The last that was asked for is answered first, and waits.
        for index in window.clone().rev() {
            assert_eq!(indexes(&machine), (0..first).collect::<Vec<_>>());
            machine.handle(now, opening(index));
            assert_eq!(machine.poll().0, [], "there is no room for another");
        }
        assert_eq!(indexes(&machine), (0..window.end).collect::<Vec<_>>());
        assert_eq!(machine.deadline(), None, "nothing is waited for but the caller");
        for _ in window.clone() {
            machine.handle(now, ChallengeInput::Taken { stage: 0 });
        }
        first = window.end;
    }
}

#[test]
fn time_in_which_the_client_checks_is_not_held_against_the_stage() {
    let capacity = Capacity { retention_us: 301 * SECOND, ..Capacity::default() };
    let mut ring = ring_with(1, 1, capacity);
    ask(&mut ring, 0, 20, 6);
    assert!(ring.run_to_the_end(10 * SECOND));
    let (mut machine, start) = (challenger(&ring), ring.now());
    let key = Ring::<HashModel>::server_key(0);
    // The stage answers at once; the client takes its time with every two answers.
    let mut now = start;
    for later in [280 * SECOND, 310 * SECOND] {
        for (stage, asked) in machine.poll().0 {
            let ToServer::Challenge(challenge) = asked else { panic!("{asked:?}") };
            let opening = SignedOpening::new(challenge.statement(), Vec::new(), &key);
            let body = ToClient::Opening(Box::new(opening)).to_bytes();
            machine.handle(now, ChallengeInput::Frame { stage, body });
        }
        now = start.after(later);
        (0..2).for_each(|_| machine.handle(now, ChallengeInput::Taken { stage: 0 }));
    }
    let exchanges = machine.poll().1.unwrap();
    let over: Vec<_> = exchanges.iter().filter_map(|it| it.answer.clone().err()).collect();
    assert_eq!(over, [NoAnswer::DeadlineOver; 2]);
    assert!(exchanges.iter().all(|exchange| !exchange.is_withheld));
}

#[test]
fn a_lost_link_does_not_change_the_order_of_answers() {
    let ring = answered(1);
    let mut machine = challenger(&ring);
    let key = Ring::<HashModel>::server_key(0);
    let opening = |index: usize| {
        let opening = SignedOpening::new(challenge_of(&ring, index).statement(), Vec::new(), &key);
        let body = ToClient::Opening(Box::new(opening)).to_bytes();
        ChallengeInput::Frame { stage: 0, body }
    };
    machine.poll();
    machine.handle(ring.now(), opening(1));
    machine.handle(ring.now(), ChallengeInput::Lost { stage: 0, why: Loss::HungUp });
    machine.poll();
    assert_eq!(machine.told, [], "the first is asked for again");
    let again = machine.deadline().unwrap();
    machine.handle(again, ChallengeInput::Tick);
    assert_eq!(machine.poll().0.len(), 1);
    machine.handle(again, opening(0));
    machine.poll();
    let indexes: Vec<usize> = machine.told.iter().map(|exchange| exchange.index).collect();
    assert_eq!(indexes, [0, 1]);
}

/// The receipt of an answer by three stages, the second of which handed its place over: the segment
/// of the server that took it over, number 7, follows its own.
fn taken_over(ring: &Ring<HashModel>) -> Receipt {
    let mut receipt: Receipt = (**ring.outcome(0).unwrap().as_ref().unwrap()).clone();
    let key = Ring::<HashModel>::server_key(7);
    let mut taken = receipt.segments[1].clone();
    (taken.node, taken.run_value, taken.first_position) = (key.id(), Digest([9; 32]), 22);
    receipt.segments.insert(2, taken.signed(&key));
    receipt
}

#[test]
fn after_a_takeover_each_challenge_goes_to_the_stage_that_it_was_drawn_for() {
    let ring = answered(3);
    let receipt = taken_over(&ring);
    // The same cells of both, at once.
    let plan: Vec<(u32, Target)> =
        [0, 2, 1, 3].map(|at| (at, layer(receipt.segments[at as usize].first, &[3]))).into();
    let session = Ring::<HashModel>::client_key(0);
    let mut machine =
        Challenger::new(ring.now(), &receipt, plan.clone(), &session, model().prices, 0);
    let mut told = Vec::new();
    let mut asked = Vec::new();
    while let Some(output) = machine.poll() {
        let ChallengeOutput::Send { stage, node, wire } = output else { panic!("{output:?}") };
        let frame = ToServer::from_body(&wire[limits::LENGTH_BYTES..]).unwrap();
        let ToServer::Challenge(challenge) = frame else { panic!("{frame:?}") };
        let segment = &receipt.segments[stage as usize];
        assert_eq!((node, challenge.run), (segment.node, segment.run().id()), "stage {stage}");
        assert!(plan.contains(&(stage, challenge.target.clone())));
        asked.push((stage, challenge));
    }
    assert_eq!(asked.len(), plan.len());
    // Whoever handed its place over signs both answers: its own counts, the other's does not.
    for (stage, challenge) in &asked {
        let signer = if *stage == 2 { 1 } else { *stage as usize };
        let signer = Ring::<HashModel>::server_key(if *stage == 3 { 2 } else { signer });
        let opening = SignedOpening::new(challenge.statement(), Vec::new(), &signer);
        let body = ToClient::Opening(Box::new(opening)).to_bytes();
        machine.handle(ring.now(), ChallengeInput::Frame { stage: *stage, body });
        while let Some(output) = machine.poll() {
            if let ChallengeOutput::Answered(exchange) = output {
                told.push(*exchange);
            }
        }
    }
    let mut conduct = Conduct::before_challenges(&receipt);
    told.iter().for_each(|exchange| Conduct::count(&mut conduct, exchange));
    let places: Vec<(u32, u32)> = conduct.iter().map(|it| (it.segment, it.stage)).collect();
    assert_eq!(places, [(0, 0), (1, 1), (2, 1), (3, 2)]);
    let counts: Vec<_> = conduct.iter().map(|it| (it.asked, it.answered, it.withheld)).collect();
    assert_eq!(counts, [(1, 1, 0), (1, 1, 0), (1, 0, 1), (1, 1, 0)]);
    assert_eq!(conduct[2].unanswered, [(NoAnswer::BadSignature, 1)].into());
    let nodes: Vec<_> = conduct.iter().map(|it| it.node).collect();
    assert_eq!(nodes[2], Ring::<HashModel>::server_key(7).id());
    assert_ne!(nodes[1], nodes[2]);
}

#[test]
fn a_challenge_that_no_frame_holds_is_the_clients_own_fault() {
    let ring = answered(1);
    let positions: Vec<u32> = (0..limits::CHALLENGE_BYTES as u32).collect();
    let too_long = Target::Layer { layer: 0, first: 0, end: 25, positions };
    let posed = catch_unwind(AssertUnwindSafe(|| {
        let mut machine = challenger_of(&ring, vec![too_long]);
        machine.poll().1.unwrap().remove(0)
    }));
    assert_eq!(posed.is_err(), cfg!(debug_assertions), "it is loud only where it is tested");
    let Ok(exchange) = posed else { return };
    assert!(matches!(exchange.answer, Err(NoAnswer::NotPosed(_))), "{exchange:?}");
    assert!(!exchange.is_withheld);
    let receipt = ring.outcome(0).unwrap().as_ref().unwrap();
    let mut conduct = Conduct::before_challenges(receipt);
    Conduct::count(&mut conduct, &exchange);
    assert_eq!((conduct[0].asked, conduct[0].withheld), (0, 0));
}
