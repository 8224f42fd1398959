//! Blame safety: whoever makes a receipt puts together what he likes of everything that the same
//! nodes have ever signed about a request, with a liar's own statements among it, leaves out what
//! he likes, and shows what openings he likes. Stages that took over, and those that they follow,
//! are among them. No honest stage is ever convicted.

use lockstep_exact::Digest;
use lockstep_exact::reference::Reference;
use lockstep_testing::numbers::Numbers;
use lockstep_verify::audit::{Unverified, audit, plan};
use lockstep_verify::bundle::{Bundle, Exchange};
use lockstep_verify::challenge::{Challenge, Target};
use lockstep_verify::draw::Extent;
use lockstep_verify::fault::{Blame, Fault};
use lockstep_verify::opening::SignedOpening;
use lockstep_verify::receipt::Receipt;
use lockstep_verify::sign::{NodeId, Signature, Statement as _};
use lockstep_verify::statement::{Mark, RunId, Segment, Step, token_digest, tokens_digest};

use lockstep_testing::lie::Lie;
use lockstep_testing::proofs::{
    Ask, OtherLease, Ring, SEED, Session, Taken, client, key, model, node, standby, told,
};

/// The nodes of a ring, and of the one that takes over.
fn nodes() -> [usize; 4] {
    [0, 1, 2, standby(1)]
}

/// Who signed a segment.
fn who(segment: &Segment) -> usize {
    nodes().into_iter().find(|who| node(*who).id() == segment.node).unwrap()
}

/// Everything that the nodes have signed: runs of one request, with other frames, other leases and
/// another server 1, and a run of another request.
struct Past {
    sessions: Vec<Session>,
    /// Which nodes lied in each of them.
    liars: Vec<Vec<usize>>,
}

impl Past {
    fn new() -> Self {
        let ask = Ask::new(40, 5, 3);
        let (mut sessions, mut liars) = (Vec::new(), Vec::new());
        let mut add = |ring: Ring<'static>, ask: &Ask, who: &[usize]| {
            let run = u8::try_from(sessions.len() + 1).unwrap();
            sessions.push(Ring { run, ..ring }.run(ask));
            liars.push(who.to_vec());
        };
        let ring = || Ring::new(model(), &[2, 4]);
        let chunk = |chunk| Ring { chunk, ..ring() };
        add(chunk(2), &ask, &[]);
        add(chunk(2), &ask, &[]);
        add(chunk(5), &ask, &[]);
        // Leases that server 1, or a client with it, has changed.
        for stage in [1, 2] {
            let changes: [fn(&mut lockstep_verify::request::Lease); 2] =
                [|lease| lease.max_positions += 1, |lease| lease.prompt_len -= 1];
            for change in changes {
                let leases = vec![(stage, OtherLease { change, key: client })];
                add(Ring { leases, ..chunk(5) }, &ask, &[0]);
            }
        }
        // Another request; and server 1 has the ring run more positions than it tells.
        let mut long = ask.clone();
        long.stops.max_tokens += 2;
        add(chunk(2), &long, &[]);
        add(Ring { tail: 1, ..chunk(2) }, &ask, &[0]);
        add(Ring { tail: 2, ..chunk(2) }, &ask, &[0]);
        // Places that are taken over: the one before signs what it did, or is lost with it.
        let taken =
            |place, at, is_handed| Ring { taken: vec![Taken { place, at, is_handed }], ..chunk(2) };
        for is_handed in [true, false] {
            add(taken(1, 4, is_handed), &ask, &[]);
            add(taken(2, 6, is_handed), &ask, &[]);
        }
        add(taken(1, 4, true), &ask, &[]);
        for (liar, lie) in [
            (1, told(Lie::FlippedBit, 2, 1)),
            (standby(1), told(Lie::FlippedBit, 2, 1)),
            (standby(1), told(Lie::FlippedBit, 3, 5)),
            (standby(1), told(Lie::TwoMarks, 0, 5)),
            (2, told(Lie::OtherMarkInput, 0, 0)),
        ] {
            add(taken(1, 4, true).lying(liar, lie), &ask, &[liar]);
        }
        for stage in 0..3 {
            add(chunk(2).lying(stage, told(Lie::TwoMarks, 0, 6)), &ask, &[stage]);
            add(chunk(2).lying(stage, told(Lie::FlippedBit, 2 * stage as u32, 4)), &ask, &[stage]);
        }
        add(chunk(2).lying(1, told(Lie::OtherMarkInput, 0, 0)), &ask, &[1]);
        Self { sessions, liars }
    }
}

/// One mixture.
struct Maker<'a> {
    past: &'a Past,
    numbers: Numbers,
    liars: Vec<usize>,
    /// The sessions in which nobody but these liars lied.
    known: Vec<usize>,
}

impl<'a> Maker<'a> {
    fn new(past: &'a Past, seed: u64) -> Self {
        let mut numbers = Numbers::new(seed);
        let liars: Vec<usize> = nodes().into_iter().filter(|_| numbers.below(3) == 0).collect();
        let liars = if liars.len() == nodes().len() { vec![1] } else { liars };
        let is_known = |at: &usize| past.liars[*at].iter().all(|liar| liars.contains(liar));
        let known = (0..past.sessions.len()).filter(is_known).collect();
        Self { past, numbers, liars, known }
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.numbers.below(bound.max(1) as u64)).unwrap()
    }

    fn some(&mut self) -> &'a Receipt {
        let at = self.below(self.known.len());
        &self.past.sessions[self.known[at]].receipt
    }

    /// Puts a receipt together.
    fn receipt(&mut self) -> Receipt {
        let mut receipt = self.some().clone();
        for _ in 0..self.below(4) {
            self.mix(&mut receipt);
        }
        // The liars sign again what they say, so that it hangs together as far as they can.
        for liar in self.liars.clone() {
            if self.below(2) == 0 {
                let is_its = |at: &usize| who(&receipt.segments[*at]) == liar;
                let its: Vec<usize> = (0..receipt.segments.len()).filter(is_its).collect();
                its.into_iter().for_each(|at| self.mend(&mut receipt, at, liar));
            }
        }
        receipt
    }

    /// Takes something from elsewhere, or leaves something out.
    fn mix(&mut self, receipt: &mut Receipt) {
        let other = self.some();
        let stage = self.below(receipt.segments.len().max(other.segments.len()));
        let step = self.below(receipt.steps.len());
        if receipt.steps.is_empty() {
            return;
        }
        match self.below(20) {
            0 => copy(&mut receipt.segments, &other.segments, stage),
            1 => {
                let from = self.below(other.steps.len());
                if let Some(step) = receipt.steps.get_mut(step) {
                    copy(&mut step.marks, &other.steps[from].marks, stage);
                }
            }
            2 => {
                for (step, other) in receipt.steps.iter_mut().zip(&other.steps) {
                    copy(&mut step.marks, &other.marks, stage);
                }
            }
            3 => receipt.steps = other.steps.clone(),
            4 => receipt.steps.truncate(step.max(1)),
            5 if receipt.steps.len() > 1 => drop(receipt.steps.remove(step)),
            6 => receipt.steps.insert(step, receipt.steps[step].clone()),
            7 => receipt.steps.swap(step, 0),
            8 => receipt.head = other.head.clone(),
            9 => receipt.head_marks.clone_from(&other.head_marks),
            10 => {
                receipt.answer.clone_from(&other.answer);
                receipt.finish = other.finish;
            }
            11 => {
                receipt.answer.pop();
                receipt.head_marks.pop();
                receipt.steps.pop();
            }
            12 => receipt.lease = other.lease.clone(),
            13 | 14 => {
                // Everything that the stages from here on signed.
                for stage in stage..other.segments.len() {
                    copy(&mut receipt.segments, &other.segments, stage);
                    for (step, other) in receipt.steps.iter_mut().zip(&other.steps) {
                        copy(&mut step.marks, &other.marks, stage);
                    }
                }
            }
            15..=18 => self.mix_tiles(receipt, other, stage),
            _ => {
                // The client signs what it likes.
                receipt.lease.max_positions += self.below(2) as u32;
                receipt.lease = receipt.lease.clone().signed(&client());
            }
        }
    }

    /// One tile more or less, with its marks; other placements; or all but the client's own words.
    fn mix_tiles(&mut self, receipt: &mut Receipt, other: &Receipt, stage: usize) {
        match self.below(4) {
            0 => {
                let at = stage.min(receipt.segments.len());
                let Some(segment) = other.segments.get(stage) else { return };
                receipt.segments.insert(at, segment.clone());
                for (step, other) in receipt.steps.iter_mut().zip(&other.steps) {
                    let at = at.min(step.marks.len());
                    step.marks.splice(at..at, other.marks.get(stage).copied());
                }
            }
            1 if receipt.segments.len() > 1 && stage < receipt.segments.len() => {
                receipt.segments.remove(stage);
                for step in receipt.steps.iter_mut().filter(|step| stage < step.marks.len()) {
                    step.marks.remove(stage);
                }
            }
            2 => receipt.placements.clone_from(&other.placements),
            _ => {
                let lease = receipt.lease.clone();
                *receipt = Receipt { lease, ..other.clone() };
            }
        }
    }

    /// A liar signs its marks and a segment of its own again, in the run that the segment names or
    /// in another of its own.
    fn mend(&mut self, receipt: &mut Receipt, index: usize, liar: usize) {
        let other = self.some();
        if self.below(3) == 0
            && let Some(other) = other.segments.get(index)
        {
            receipt.segments[index].run_value = other.run_value;
        }
        let of_place = |segment: &Segment| (segment.first, segment.end);
        let place = of_place(&receipt.segments[index]);
        let previous = index.checked_sub(1).map(|at| &receipt.segments[at]);
        let before = match previous {
            // It follows another one of its place: its frames are from the same run.
            Some(previous) if of_place(previous) == place => receipt.segments[index].before,
            Some(previous) => previous.run().id(),
            None => RunId::NONE,
        };
        let placed = receipt.placements.first().filter(|_| liar == standby(1));
        let lease = placed.unwrap_or(&receipt.lease).digest();
        let segment = &mut receipt.segments[index];
        (segment.lease, segment.before) = (lease, before);
        let run = segment.run().id();
        let wrong = self.below(4);
        let mut chain = Mark::chain_start(run);
        let mut positions = 0;
        let segments = receipt.segments.clone();
        for step in &mut receipt.steps {
            let Some(at) = place_of_mark(&segments, index, step) else { continue };
            let before = at.checked_sub(1).map(|at| step.marks[at].output);
            let next = step.marks.get(at + 1).map(|mark| mark.input);
            let mark = &mut step.marks[at];
            (mark.position, mark.count, mark.chain_before) = (step.position, step.count, chain);
            match wrong {
                0 => mark.input = before.unwrap_or(mark.input),
                1 => mark.output = next.unwrap_or(mark.output),
                2 => mark.output.0[0] ^= 1,
                _ => {}
            }
            *mark = mark.signed(run, &node(liar));
            chain = mark.chain_after();
            positions += step.count;
        }
        let segment = &mut receipt.segments[index];
        (segment.positions, segment.chain) = (positions, chain);
        *segment = segment.clone().signed(&node(liar));
        if liar == 0 {
            self.mend_head(receipt);
        }
    }

    /// Server 1 signs its head's words again, about what the receipt has.
    fn mend_head(&mut self, receipt: &mut Receipt) {
        let (first, last) = (&receipt.segments[0], receipt.segments.last().unwrap());
        receipt.head.before = last.run().id();
        let run = first.run().of_head(receipt.head.before, last.end).id();
        let wrong = self.below(3) == 0;
        let mut chain = Mark::chain_start(run);
        for (index, mark) in receipt.head_marks.iter_mut().enumerate() {
            let token = receipt.answer.get(index);
            (mark.chain_before, mark.input.0[1]) = (chain, mark.input.0[1] ^ u8::from(wrong));
            mark.output = token.map_or(Digest::ZERO, |token| token_digest(*token));
            *mark = mark.signed(run, &node(0));
            chain = mark.chain_after();
        }
        receipt.head.tokens = tokens_digest(&receipt.answer);
        (receipt.head.finish, receipt.head.chain) = (receipt.finish, chain);
        receipt.head = receipt.head.clone().signed(run, &node(0));
    }

    /// What comes of a challenge: an honest stage's answer, if it gives one; a liar's, as it likes.
    fn answer(
        &mut self,
        index: usize,
        segment: &Segment,
        challenge: &Challenge,
    ) -> Option<SignedOpening> {
        let kept = self.past.sessions.iter();
        let honest = kept.filter_map(|session| session.honest_answer(challenge)).next();
        let asked = who(segment);
        if !self.liars.contains(&asked) {
            return honest;
        }
        let mut body = match self.below(3) {
            0 => honest?.body,
            _ => {
                let at = self.below(self.past.sessions.len());
                let session = &self.past.sessions[at];
                let run = session.receipt.segments.get(index)?.run().id();
                session.honest_answer(&Challenge { run, ..challenge.clone() })?.body
            }
        };
        if self.below(8) == 0 {
            let at = self.below(body.len());
            body[at] ^= 1;
        }
        Some(SignedOpening::new(challenge.statement(), body, &node(asked)))
    }

    /// Poses all challenges, and keeps those answers that the maker wants to be seen.
    fn bundle(&mut self, receipt: Receipt, targets: Vec<(u32, Target)>) -> Bundle {
        let (session, digest) = (receipt.request.session(), receipt.digest());
        let mut exchanges = Vec::new();
        let leaves_out = self.below(3) == 0;
        for (stage, target) in targets {
            let place = stage as usize;
            let segment = &receipt.segments[place];
            let mut run = segment.run().id();
            if self.below(12) == 0 {
                run = self.some().segments.get(place).map_or(run, |other| other.run().id());
            }
            let signature = Signature::NONE;
            let challenge = Challenge { session, run, receipt: digest, target, signature };
            let challenge = challenge.signed(&client());
            if leaves_out && self.below(2) == 0 {
                continue;
            }
            let opening = self.answer(place, segment, &challenge);
            exchanges.extend(opening.map(|opening| Exchange { challenge, opening }));
        }
        Bundle { receipt, extent: Extent::Full, seed: SEED.clone(), exchanges }
    }
}

/// Replaces one of a list by that of another list at the same place, if both have one there.
fn copy<T: Clone>(to: &mut [T], from: &[T], at: usize) {
    if let (Some(to), Some(from)) = (to.get_mut(at), from.get(at)) {
        *to = from.clone();
    }
}

/// Which mark of a frame is that of a segment's stage, if it marked the frame.
fn place_of_mark(segments: &[Segment], index: usize, step: &Step) -> Option<usize> {
    let span = |segment: &Segment| (segment.first, segment.end);
    let marks = |at: &usize| {
        let ends = segments.get(at + 1).map(span) != Some(span(&segments[*at]));
        ends || step.position < segments[*at].positions
    };
    let before = (0..index).filter(marks).count();
    (marks(&index) && before < step.marks.len()).then_some(before)
}

/// How mixtures end.
#[derive(Debug, Default)]
struct Ends {
    verified: u32,
    not_checked: u32,
    nobody: u32,
    liar: u32,
    /// Of those, by what was opened or shown.
    by_opening: u32,
    /// Receipts with a place that was taken over whose links hold.
    taken: u32,
}

/// Makes a mixture and checks who is blamed.
fn tell(past: &Past, seed: u64, ends: &mut Ends) {
    let mut maker = Maker::new(past, seed);
    let receipt = maker.receipt();
    let liars = maker.liars.clone();
    let is_honest = |node_id: NodeId| {
        nodes().into_iter().any(|at| node(at).id() == node_id && !liars.contains(&at))
    };
    let is_taken = !receipt.placements.is_empty();
    let blamed = |ends: &mut Ends, fault: &Fault, opened: bool| match fault.blame {
        Blame::Receipt => ends.nobody += 1,
        Blame::Verifier => panic!("seed {seed}, liars {liars:?}: {fault}"),
        Blame::Stage { node, .. } => {
            assert!(!is_honest(node), "seed {seed}, liars {liars:?}: {fault}");
            ends.liar += 1;
            ends.by_opening += u32::from(opened);
        }
    };
    let targets = match plan(key(), &receipt, &SEED, Extent::Full) {
        Ok(targets) => targets,
        Err(fault) => return blamed(ends, &fault, false),
    };
    ends.taken += u32::from(is_taken);
    let bundle = maker.bundle(receipt, targets);
    match audit(&Reference, key(), &bundle) {
        Ok(_) => ends.verified += 1,
        Err(Unverified::NotChecked { .. }) => ends.not_checked += 1,
        Err(Unverified::Failed(fault)) => blamed(ends, &fault, true),
    }
}

fn tell_all(seeds: std::ops::Range<u64>) -> Ends {
    let (past, mut ends) = (Past::new(), Ends::default());
    for seed in seeds {
        tell(&past, seed, &mut ends);
    }
    ends
}

#[test]
fn no_honest_stage_is_convicted_whatever_is_mixed_and_left_out() {
    let ends = tell_all(0..600);
    // Mixtures get as far as every end.
    let all =
        [ends.verified, ends.not_checked, ends.nobody, ends.liar, ends.by_opening, ends.taken];
    assert!(all.iter().all(|count| *count > 0), "{ends:?}");
}

/// `cargo test --release -p lockstep-verify --test it -- --ignored mixed_and_left_out --nocapture`
#[test]
#[ignore = "takes minutes: 50,000 mixtures"]
fn no_honest_stage_is_convicted_in_fifty_thousand_mixed_and_left_out() {
    println!("{:?}", tell_all(1_000..51_000));
}
