//! What a session leaves behind: its receipt, and the stages that answer challenges.

use lockstep_exact::Digest;
use lockstep_exact::bytes::Canonical as _;
use lockstep_exact::matrix::Packed;
use lockstep_exact::reference::Reference;
use lockstep_exact::weights::HeadWeights;
use lockstep_verify::archive::{Archive, OpenError, Prover};
use lockstep_verify::audit::{Unverified, Verified, audit, plan};
use lockstep_verify::bundle::{Bundle, Exchange};
use lockstep_verify::challenge::{Challenge, Target};
use lockstep_verify::column::Columns;
use lockstep_verify::draw::Extent;
use lockstep_verify::fault::Fault;
use lockstep_verify::key::Key;
use lockstep_verify::opening::{Opening, SignedOpening};
use lockstep_verify::receipt::Receipt;
use lockstep_verify::sign::{Signature, Statement as _};
use lockstep_verify::statement::{HeadStatement, Mark, RunId, tokens_digest};
use lockstep_verify::sums;

use super::misdeed::{Misdeed, Slip, aim, slip};
use super::stage::Stage;
use super::{SEED, client, key, node};
use crate::lie::Lie;

/// A finished session: its receipt, and everything that its stages open cells from.
pub struct Session {
    /// The receipt that the client has.
    pub receipt: Receipt,
    pub(super) stages: Vec<Stage>,
    pub(super) head: HeadWeights<Packed>,
    /// The marks that the head got.
    pub(super) head_received: Vec<Mark>,
    pub(super) misdeeds: Vec<(usize, Misdeed)>,
    pub(super) other: Option<Box<Self>>,
}

impl Session {
    fn prover(&self, stage: usize) -> Prover<'_, Reference> {
        let Stage { weights, archive, columns, .. } = &self.stages[stage];
        let head = (stage == 0).then_some(&self.head);
        Prover::with_columns(&Reference, weights, head, archive, columns.clone())
    }

    /// Returns the prover of a stage whose columns were computed again from the archive, for the
    /// layer `layer`; `before` are columns rebuilt for a layer below, if there are any. Panics
    /// where the columns are not those that the stage signed.
    pub fn rebuilt(
        &self,
        stage: usize,
        layer: u32,
        before: Option<Columns>,
    ) -> Prover<'_, Reference> {
        let rebuilt = self.rebuild(stage, layer, before).unwrap();
        let segment = &self.receipt.segments[stage];
        rebuilt.compare(segment.input_root, &segment.layers).unwrap();
        rebuilt
    }

    /// Computes the columns of a stage again from its archive, as [`Session::rebuilt`] does, and
    /// returns the error if that fails. The columns are not compared with the signed roots.
    pub fn rebuild(
        &self,
        stage: usize,
        layer: u32,
        before: Option<Columns>,
    ) -> Result<Prover<'_, Reference>, OpenError> {
        self.rebuild_of(stage, &self.stages[stage].archive, layer, before)
    }

    /// Computes the columns of a stage again from `archive` in place of the stage's own.
    pub fn rebuild_of<'a>(
        &'a self,
        stage: usize,
        archive: &'a Archive,
        layer: u32,
        before: Option<Columns>,
    ) -> Result<Prover<'a, Reference>, OpenError> {
        let weights = &self.stages[stage].weights;
        let head = (stage == 0).then_some(&self.head);
        Prover::rebuild(&Reference, weights, head, archive, layer, before)
    }

    /// What the server of a stage does wrong.
    fn misdeeds(&self, stage: u32) -> Vec<Misdeed> {
        let who = self.stages[stage as usize].place;
        self.misdeeds.iter().filter(|(of, _)| *of == who).map(|(_, misdeed)| *misdeed).collect()
    }

    fn tells(&self, stage: u32, lie: Lie) -> bool {
        aim(&self.misdeeds(stage), lie).is_some()
    }

    fn makes(&self, stage: u32, wanted: Slip) -> bool {
        self.misdeeds(stage).contains(&slip(wanted))
    }

    /// Returns the signed opening with which a stage, misdeeds and all, answers a challenge.
    pub fn answer(&self, stage: u32, challenge: &Challenge) -> SignedOpening {
        let who = self.stages[stage as usize].place;
        let signer = node(who);
        let opening = self.opening(stage, &challenge.target);
        let mut body = opening.to_bytes();
        for misdeed in self.misdeeds(stage) {
            if let Misdeed::Slip(Slip::OpeningByte(at)) = misdeed {
                let at = at % body.len();
                body[at] ^= 0x10;
            }
        }
        SignedOpening::new(challenge.statement(), body, &signer)
    }

    /// The mark that a stage or the head shows as the one that it got.
    fn shown(&self, stage: u32, position: u32) -> Mark {
        let received = match stage {
            0 => &self.head_received,
            stage => &self.stages[stage as usize].received,
        };
        let mut mark = *received.iter().find(|mark| mark.position == position).unwrap();
        if self.makes(stage, Slip::MarkInputShown) {
            mark.output.0[0] ^= 1;
            let Stage { run, place, .. } = self.stages[stage as usize];
            mark = mark.signed(run.before, &node(place));
        }
        mark
    }

    /// Returns an honest stage's answer to a challenge: `None`, unless the challenge is about a run
    /// of its own and about what it computed or got in it.
    pub fn honest_answer(&self, challenge: &Challenge) -> Option<SignedOpening> {
        let index = self.stages.iter().position(|stage| stage.run.id() == challenge.run)?;
        let stage = &self.stages[index];
        let signed = |opening: Opening| {
            SignedOpening::new(challenge.statement(), opening.to_bytes(), &node(stage.place))
        };
        if let Target::Mark { position, .. } = challenge.target {
            let received = if index == 0 { &self.head_received } else { &stage.received };
            let mark = received.iter().find(|mark| mark.position == position)?;
            return Some(signed(Opening::Mark(Box::new(*mark))));
        }
        self.prover(index).open(&challenge.target).ok().map(signed)
    }

    fn opening(&self, stage: u32, asked: &Target) -> Opening {
        if let Target::Mark { position, .. } = asked {
            return Opening::Mark(Box::new(self.shown(stage, *position)));
        }
        let prover = self.prover(stage as usize);
        if self.tells(stage, Lie::OtherSession) {
            let other = self.other.as_ref().unwrap();
            if let Ok(opening) = other.prover(stage as usize).open(asked) {
                return opening;
            }
        }
        let mut target = asked.clone();
        if self.tells(stage, Lie::OtherPosition) {
            move_back(&mut target);
        }
        let Ok(mut opening) = prover.open(&target) else {
            // The head has none before its first: it opens what it was asked for.
            target = asked.clone();
            return prover.open(&target).unwrap();
        };
        let (sums, shape, rows) = match (&mut opening, &target) {
            (Opening::Layer(opening), Target::Layer { layer, positions, .. }) => {
                let Stage { span, weights, .. } = &self.stages[stage as usize];
                let plan = &weights[(layer - span.start) as usize].plan;
                if self.makes(stage, Slip::SumsSwapped)
                    && let [_, _, _, gate_up, ..] = opening.sums.as_mut_slice()
                {
                    let (_, times, product) = plan.parts.products_of_a_row()[3];
                    let rows = positions.len() * times;
                    let mut values = sums::decode(product.shape(), rows, gate_up).unwrap();
                    let half = values.len() / 2;
                    values.rotate_left(half);
                    gate_up.clear();
                    sums::encode(product.shape(), &values, gate_up);
                }
                (&mut opening.sums[0], plan.parts.qkv.shape(), positions.len())
            }
            (Opening::Head(opening), Target::Head { positions }) => {
                (&mut opening.sums, self.head.output_shape, positions.len())
            }
            _ => return opening,
        };
        let wrong = self.tells(stage, Lie::SumOffByOne);
        let out_of_range = self.tells(stage, Lie::SumOutOfRange);
        if wrong || out_of_range {
            let mut values = sums::decode(shape, rows, sums).unwrap();
            values[0] = if wrong { values[0] + 1 } else { shape.sum_bound() + 1 };
            sums.clear();
            sums::encode(shape, &values, sums);
        }
        opening
    }

    /// Draws the client's challenges with [`key`], and signs them; each comes with the index of its
    /// segment.
    pub fn challenges(&self, extent: Extent) -> Result<Vec<(u32, Challenge)>, Fault> {
        self.challenges_with(key(), extent)
    }

    fn challenges_with(&self, key: &Key, extent: Extent) -> Result<Vec<(u32, Challenge)>, Fault> {
        let targets = plan(key, &self.receipt, &SEED, extent)?;
        let (session, receipt) = (self.receipt.request.session(), self.receipt.digest());
        let challenge = |stage: u32, target| {
            let run = self.receipt.segments[stage as usize].run().id();
            let signature = Signature::NONE;
            Challenge { session, run, receipt, target, signature }.signed(&client())
        };
        Ok(targets.into_iter().map(|(stage, target)| (stage, challenge(stage, target))).collect())
    }

    /// Draws challenges with [`key`], has the stages answer them all, and returns the receipt with
    /// both.
    pub fn bundle(&self, extent: Extent) -> Result<Bundle, Fault> {
        self.bundle_with(key(), extent)
    }

    /// Makes a bundle as [`Session::bundle`] does, with the key of another model than
    /// [`model`](super::model).
    pub fn bundle_with(&self, key: &Key, extent: Extent) -> Result<Bundle, Fault> {
        let challenges = self.challenges_with(key, extent)?;
        let exchange =
            |(stage, challenge)| Exchange { opening: self.answer(stage, &challenge), challenge };
        let exchanges = challenges.into_iter().map(exchange).collect();
        Ok(Bundle { receipt: self.receipt.clone(), extent, seed: SEED.clone(), exchanges })
    }

    /// Audits the session's bundle with [`key`], and returns the verdict.
    pub fn verdict(&self, extent: Extent) -> Result<Verified<Receipt>, Unverified> {
        audit(&Reference, key(), &self.bundle(extent)?)
    }

    /// Returns the fault that the audit of the session finds; panics when it finds none.
    pub fn fault(&self, extent: Extent) -> Fault {
        match self.verdict(extent) {
            Err(Unverified::Failed(fault)) => fault,
            Err(other) => panic!("expected a fault of {:?}, got {other}", self.misdeeds),
            Ok(_) => panic!("expected a fault of {:?}, got none", self.misdeeds),
        }
    }
}

/// Puts the position before in the place of each challenged one where that is not challenged too.
fn move_back(target: &mut Target) {
    let (first, positions) = match target {
        Target::Layer { first, positions, .. } => (*first, positions),
        Target::Head { positions } => (0, positions),
        Target::Edge { .. } | Target::Mark { .. } => return,
    };
    let asked = positions.clone();
    for position in positions.iter_mut().filter(|position| **position > first) {
        if !asked.contains(&(*position - 1)) {
            *position -= 1;
        }
    }
}

/// Has every stage and the head sign again what a receipt has of theirs: their marks in one chain
/// each, and their statements about these.
pub fn sign_again(receipt: &mut Receipt) {
    for (place, segment) in receipt.segments.iter_mut().enumerate() {
        let run = segment.run().id();
        let marks = receipt.steps.iter_mut().map(|step| &mut step.marks[place]);
        segment.chain = sign_chain(marks, run, place);
        *segment = segment.clone().signed(&node(place));
    }
    let last = receipt.segments.last().unwrap();
    let run = receipt.segments[0].run().of_head(last.run().id(), last.end).id();
    let chain = sign_chain(receipt.head_marks.iter_mut(), run, 0);
    let (tokens, finish) = (tokens_digest(&receipt.answer), receipt.finish);
    let head =
        HeadStatement { tokens, finish, chain, before: last.run().id(), ..receipt.head.clone() };
    receipt.head = head.signed(run, &node(0));
}

/// Has a stage sign its marks in one chain. Returns the chain.
pub fn sign_chain<'a>(
    marks: impl Iterator<Item = &'a mut Mark>,
    run: RunId,
    place: usize,
) -> Digest {
    let mut chain = Mark::chain_start(run);
    for mark in marks {
        mark.chain_before = chain;
        *mark = mark.signed(run, &node(place));
        chain = mark.chain_after();
    }
    chain
}
