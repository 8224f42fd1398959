//! The machine that asks the stages of an answer to open cells.
//!
//! A stage that refuses, is silent or answers with something unsigned is *not checked*: that is no
//! fault, and it never holds up the other stages.

use core::fmt;
use std::collections::VecDeque;

use lockstep_exact::digest::Digest;
use lockstep_verify::challenge::{Challenge, Target};
use lockstep_verify::opening::SignedOpening;
use lockstep_verify::receipt::Receipt;
use lockstep_verify::sign::{Keypair, NodeId, Signature, Statement as _};

use crate::failure::Refusal;
use crate::frame::{Frame as _, ToClient, ToServer};
use crate::limits;
use crate::now::Now;

/// Why a challenge has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// The stage sent something that is no answer.
    BadFrame,
    /// The answer is not signed by the stage.
    BadSignature,
    /// The link closed or could not be opened.
    LinkLost,
    /// No stage of the answer computed the cell.
    NoStage,
    /// The stage refused.
    Refused(Refusal),
    /// Nothing came in time.
    Timeout,
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadFrame => f.write_str("it sent something that is no answer"),
            Self::BadSignature => f.write_str("its answer is not signed"),
            Self::LinkLost => f.write_str("its link closed"),
            Self::NoStage => f.write_str("no stage computed the cell"),
            Self::Refused(refusal) => write!(f, "it refused: {refusal}"),
            Self::Timeout => f.write_str("no answer in time"),
        }
    }
}

impl core::error::Error for NoAnswer {}

/// A challenge and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// The stage asked, by its place in the route.
    pub stage: u32,
    /// What was asked.
    pub challenge: Challenge,
    /// The stage's signed answer; its contents are not checked here.
    pub answer: Result<SignedOpening, NoAnswer>,
}

/// What a driver tells the machine.
#[derive(Debug)]
pub enum ChallengeInput {
    /// A frame's body came from a stage.
    Frame {
        /// The stage, by its place in the route.
        stage: u32,
        /// What follows the length.
        body: Vec<u8>,
    },
    /// The connection to a stage closed or could not be opened.
    Lost {
        /// The stage.
        stage: u32,
    },
    /// Time has passed.
    Tick,
}

/// What the machine wants of its driver.
#[derive(Debug)]
pub enum ChallengeOutput {
    /// All challenges are answered or given up, in the order in which they were given.
    Done(Vec<Exchange>),
    /// Send bytes to a stage on a connection of this client's own, connecting first if need be.
    Send {
        /// The stage, by its place in the route.
        stage: u32,
        /// Its node.
        node: NodeId,
        /// Length and body.
        wire: Vec<u8>,
    },
}

#[derive(Debug)]
struct Stage {
    node: NodeId,
    /// Challenges that have not been sent.
    todo: VecDeque<usize>,
    /// Challenges under way, oldest first.
    asked: VecDeque<(usize, Now)>,
}

#[derive(Debug)]
struct Posed {
    stage: u32,
    challenge: Challenge,
    digest: Digest,
    answer: Option<Result<SignedOpening, NoAnswer>>,
}

/// The machine that poses challenges.
#[derive(Debug)]
pub struct Challenger {
    stages: Vec<Stage>,
    posed: Vec<Posed>,
    now: Now,
    is_done: bool,
    out: VecDeque<ChallengeOutput>,
}

impl Challenger {
    /// Poses a challenge for every target to the stage that computed it.
    #[must_use]
    pub fn new(now: Now, receipt: &Receipt, targets: Vec<Target>, session: &Keypair) -> Self {
        let stage = |node| Stage { node, todo: VecDeque::new(), asked: VecDeque::new() };
        let stages = receipt.segments.iter().map(|segment| stage(segment.node)).collect();
        let mut machine =
            Self { stages, posed: Vec::new(), now, is_done: false, out: VecDeque::new() };
        let (name, id) = (receipt.digest(), receipt.request.session());
        for target in targets {
            let at = stage_of(receipt, &target);
            let challenge =
                Challenge { session: id, receipt: name, target, signature: Signature::NONE };
            let challenge = challenge.signed(session);
            let digest = challenge.statement();
            let index = machine.posed.len();
            let known = at.and_then(|at| machine.stages.get_mut(at));
            let answer = known.is_none().then_some(Err(NoAnswer::NoStage));
            if let Some(stage) = known {
                stage.todo.push_back(index);
            }
            let stage = at.and_then(|at| u32::try_from(at).ok()).unwrap_or_default();
            machine.posed.push(Posed { stage, challenge, digest, answer });
        }
        machine.advance();
        machine
    }

    /// Takes an input.
    pub fn handle(&mut self, now: Now, input: ChallengeInput) {
        self.now = self.now.max(now);
        match input {
            ChallengeInput::Frame { stage, body } => self.on_frame(stage, &body),
            ChallengeInput::Lost { stage } => self.give_up(stage, NoAnswer::LinkLost),
            ChallengeInput::Tick => {}
        }
        let late: Vec<u32> = (0..)
            .zip(&self.stages)
            .filter(|(_, stage)| stage.deadline().is_some_and(|deadline| deadline <= self.now))
            .map(|(at, _)| at)
            .collect();
        for stage in late {
            self.give_up(stage, NoAnswer::Timeout);
        }
        self.advance();
    }

    /// The next output, if there is one.
    pub fn poll(&mut self) -> Option<ChallengeOutput> {
        self.out.pop_front()
    }

    /// When [`ChallengeInput::Tick`] must come, if nothing else does.
    #[must_use]
    pub fn deadline(&self) -> Option<Now> {
        self.stages.iter().filter_map(Stage::deadline).min()
    }

    fn on_frame(&mut self, at: u32, body: &[u8]) {
        let (digest, answer) = match ToClient::from_body(body) {
            Ok(ToClient::ChallengeRefused { challenge, refusal }) => {
                (challenge, Err(NoAnswer::Refused(refusal)))
            }
            Ok(ToClient::Opening(opening)) => (opening.challenge, Ok(*opening)),
            Ok(ToClient::Heartbeat | ToClient::Status(_)) => return,
            Ok(
                ToClient::Accepted(_)
                | ToClient::Failed { .. }
                | ToClient::Finished { .. }
                | ToClient::Refused { .. }
                | ToClient::Step { .. }
                | ToClient::Token { .. },
            )
            | Err(_) => return self.give_up(at, NoAnswer::BadFrame),
        };
        let Some(stage) = self.stages.get_mut(at as usize) else {
            return;
        };
        let posed = &self.posed;
        let is_it = |index: &usize| posed.get(*index).is_some_and(|posed| posed.digest == digest);
        let Some(place) = stage.asked.iter().position(|(index, _)| is_it(index)) else {
            return self.give_up(at, NoAnswer::BadFrame);
        };
        let node = stage.node;
        let Some((index, _)) = stage.asked.remove(place) else {
            return;
        };
        let answer = answer.and_then(|opening| {
            opening.verify(node).map(|()| opening).map_err(|_| NoAnswer::BadSignature)
        });
        if let Some(posed) = self.posed.get_mut(index) {
            posed.answer = Some(answer);
        }
    }

    /// A stage gives no more answers.
    fn give_up(&mut self, at: u32, why: NoAnswer) {
        let Some(stage) = self.stages.get_mut(at as usize) else {
            return;
        };
        let asked = stage.asked.drain(..).map(|(index, _)| index);
        for index in asked.chain(stage.todo.drain(..)) {
            if let Some(posed) = self.posed.get_mut(index) {
                posed.answer = Some(Err(why));
            }
        }
    }

    /// Sends what may be sent, and reports when all is done.
    fn advance(&mut self) {
        for (at, stage) in (0..).zip(&mut self.stages) {
            while stage.asked.len() < limits::CHALLENGES_ASKED {
                let Some(index) = stage.todo.pop_front() else {
                    break;
                };
                let Some(posed) = self.posed.get(index) else {
                    continue;
                };
                let frame = ToServer::Challenge(Box::new(posed.challenge.clone()));
                stage.asked.push_back((index, self.now.after(limits::CHALLENGE_US)));
                let wire = frame.to_wire();
                let send = |wire| ChallengeOutput::Send { stage: at, node: stage.node, wire };
                self.out.extend(wire.ok().map(send));
            }
        }
        let is_idle = |stage: &Stage| stage.asked.is_empty() && stage.todo.is_empty();
        if !self.is_done && self.stages.iter().all(is_idle) {
            self.is_done = true;
            let posed = std::mem::take(&mut self.posed);
            let exchange = |posed: Posed| Exchange {
                stage: posed.stage,
                challenge: posed.challenge,
                answer: posed.answer.unwrap_or(Err(NoAnswer::Timeout)),
            };
            let exchanges = posed.into_iter().map(exchange).collect();
            self.out.push_back(ChallengeOutput::Done(exchanges));
        }
    }
}

impl Stage {
    fn deadline(&self) -> Option<Now> {
        self.asked.front().map(|(_, deadline)| *deadline)
    }
}

/// The place in the route of the stage that computed a cell; the head is at stage 0.
fn stage_of(receipt: &Receipt, target: &Target) -> Option<usize> {
    match target {
        Target::Head { .. } => Some(0),
        Target::Layer { layer, .. } | Target::Edge { layer, .. } => {
            receipt.segments.iter().position(|segment| (segment.first..segment.end).contains(layer))
        }
    }
}
