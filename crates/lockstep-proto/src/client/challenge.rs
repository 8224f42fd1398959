//! The machine that asks the stages of an answer to open cells.
//!
//! Each stage has signed until when it answers challenges. A stage that refuses, is silent or
//! answers with garbage within that time *withholds*: that convicts nobody, but it is told and
//! remembered. What the client could not ask, because the time was over or its own link was dead,
//! is not held against anybody. No stage holds up the others.

use core::fmt;
use std::collections::VecDeque;

use lockstep_exact::digest::Digest;
use lockstep_verify::challenge::{Challenge, Target};
use lockstep_verify::opening::SignedOpening;
use lockstep_verify::receipt::Receipt;
use lockstep_verify::sign::{Keypair, NodeId, Signature, Statement as _};
use lockstep_verify::statement::{RunId, Segment};

use crate::failure::Refusal;
use crate::frame::{Frame as _, ToClient, ToServer};
use crate::limits;
use crate::now::Now;

/// Why a challenge has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NoAnswer {
    /// The stage sent something that is no answer.
    BadFrame,
    /// The answer is not signed by the stage.
    BadSignature,
    /// The time for which the stage promised answers was over, and was too short for so many
    /// challenges or not the stage's to use.
    DeadlineOver,
    /// The stage closed the link, or let nobody in.
    HungUp,
    /// The link fell silent or could not be opened.
    LinkLost,
    /// No stage of the answer computed the cell.
    NoStage,
    /// The stage answered so slowly that the time for which it promised answers ran out, which was
    /// long enough: [`limits::CHALLENGE_PACE_US`] for each challenge.
    RanOut,
    /// The stage refused.
    Refused(Refusal),
    /// Nothing came in time, though the link was alive.
    Timeout,
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadFrame => f.write_str("it sent something that is no answer"),
            Self::BadSignature => f.write_str("its answer is not signed"),
            Self::DeadlineOver => f.write_str("the time for which it promised answers was over"),
            Self::HungUp => f.write_str("it closed the link"),
            Self::LinkLost => f.write_str("it can't be reached"),
            Self::NoStage => f.write_str("no stage computed the cell"),
            Self::RanOut => f.write_str("it let the time run out for which it promised answers"),
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
    /// Whether the stage owed an answer and gave none: within the time that it signed, and while
    /// the client's own network is known to have worked.
    pub is_withheld: bool,
}

/// How a link ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The other end closed it, refused it, or broke its rules.
    HungUp,
    /// Nothing was heard: the other end or the network is dead.
    Silent,
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
    /// The connection to a stage closed or could not be opened; what is sent next goes over a new
    /// one.
    Lost {
        /// The stage.
        stage: u32,
        /// How.
        why: Loss,
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
    /// Until when it has promised to answer.
    until: Now,
    /// Challenges that have not been sent.
    todo: VecDeque<usize>,
    /// Challenges under way, oldest first, with the time at which each is given up.
    asked: VecDeque<(usize, Now)>,
    /// When a link that was lost is tried again; it is, once.
    again: Option<Now>,
    /// When it could not be reached any more.
    silent: Option<Now>,
    /// How many challenges it is posed.
    posed: u64,
    /// When it last answered one.
    answered: Option<Now>,
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
    /// When the first challenges were sent.
    began: Now,
    /// Whether this process has not run for a while since: what ran out then is nobody's fault.
    has_slept: bool,
    /// When any stage was last heard.
    heard: Option<Now>,
    /// Until when those that could be reached are asked for a sign of life.
    probe: Option<Now>,
    is_done: bool,
    out: VecDeque<ChallengeOutput>,
}

impl Challenger {
    /// Poses a challenge for every target to the stage that computed it.
    #[must_use]
    pub fn new(now: Now, receipt: &Receipt, targets: Vec<Target>, session: &Keypair) -> Self {
        let stages = receipt.segments.iter().map(Stage::of).collect();
        let mut machine = Self {
            stages,
            posed: Vec::new(),
            now,
            began: now,
            has_slept: false,
            heard: None,
            probe: None,
            is_done: false,
            out: VecDeque::new(),
        };
        let (name, id) = (receipt.digest(), receipt.request.session());
        for target in targets {
            let at = stage_of(receipt, &target);
            let run = at.and_then(|at| receipt.segments.get(at));
            let run = run.map_or(RunId::NONE, |segment| segment.run().id());
            let signature = Signature::NONE;
            let challenge = Challenge { session: id, run, receipt: name, target, signature };
            let challenge = challenge.signed(session);
            let digest = challenge.statement();
            let index = machine.posed.len();
            let known = at.and_then(|at| machine.stages.get_mut(at));
            let answer = known.is_none().then_some(Err(NoAnswer::NoStage));
            if let Some(stage) = known {
                stage.todo.push_back(index);
                stage.posed = stage.posed.saturating_add(1);
            }
            let stage = at.and_then(|at| u32::try_from(at).ok()).unwrap_or_default();
            machine.posed.push(Posed { stage, challenge, digest, answer });
        }
        machine.advance();
        machine
    }

    /// Takes an input.
    pub fn handle(&mut self, now: Now, input: ChallengeInput) {
        self.excuse(now);
        self.now = self.now.max(now);
        match input {
            ChallengeInput::Frame { stage, body } => self.on_frame(stage, &body),
            ChallengeInput::Lost { stage, why } => self.on_lost(stage, why),
            ChallengeInput::Tick => {}
        }
        let late: Vec<u32> = (0..)
            .zip(&self.stages)
            .filter(|(_, stage)| stage.overdue().is_some_and(|deadline| deadline <= self.now))
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
        let stages = self.stages.iter().filter_map(Stage::deadline);
        stages.chain(self.probe.filter(|_| !self.is_done)).min()
    }

    fn on_frame(&mut self, at: u32, body: &[u8]) {
        self.heard = Some(self.now);
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
                | ToClient::Overflow { .. }
                | ToClient::Refused { .. }
                | ToClient::Runs { .. }
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
        stage.answered = Some(self.now);
        let answer = answer.and_then(|opening| {
            opening.verify(node).map(|()| opening).map_err(|_| NoAnswer::BadSignature)
        });
        self.settle(at, index, answer);
    }

    /// A pause of this process is nobody's silence: whoever was not woken at its own deadline gives
    /// the stages as much time again.
    fn excuse(&mut self, now: Now) {
        let slept = self.deadline().map_or(0, |deadline| now.since(deadline));
        if slept > 2 * limits::HEARTBEAT_US {
            self.has_slept = true;
            let asked = self.stages.iter_mut().flat_map(|stage| &mut stage.asked);
            asked.for_each(|(_, deadline)| *deadline = now.after(limits::CHALLENGE_US));
            self.probe = self.probe.map(|_| now.after(limits::HANDSHAKE_US));
        }
    }

    /// A link was lost: it is tried once more.
    fn on_lost(&mut self, at: u32, why: Loss) {
        let Some(stage) = self.stages.get_mut(at as usize) else {
            return;
        };
        if stage.again.is_none() {
            stage.again = Some(self.now.after(limits::CHALLENGE_AGAIN_US));
            for (index, _) in stage.asked.drain(..).rev() {
                stage.todo.push_front(index);
            }
            return;
        }
        match why {
            Loss::HungUp => self.give_up(at, NoAnswer::HungUp),
            Loss::Silent => {
                stage.silent = Some(self.now);
                self.give_up(at, NoAnswer::LinkLost);
            }
        }
    }

    /// What came of a challenge. Nothing is owed once the promised time is over.
    fn settle(&mut self, at: u32, index: usize, answer: Result<SignedOpening, NoAnswer>) {
        let until = self.stages.get(at as usize).map(|stage| stage.until);
        let is_over = until.is_some_and(|until| until < self.now);
        if let Some(posed) = self.posed.get_mut(index) {
            let late = |why| if is_over { NoAnswer::DeadlineOver } else { why };
            posed.answer = Some(answer.map_err(late));
        }
    }

    /// A stage gives no more answers.
    fn give_up(&mut self, at: u32, why: NoAnswer) {
        let Some(stage) = self.stages.get_mut(at as usize) else {
            return;
        };
        let asked = stage.asked.drain(..).map(|(index, _)| index);
        let left: Vec<usize> = asked.chain(stage.todo.drain(..)).collect();
        for index in left {
            self.settle(at, index, Err(why));
        }
    }

    /// Sends what may be sent, and reports when all is done.
    fn advance(&mut self) {
        let mut over = Vec::new();
        for (at, stage) in (0..).zip(&mut self.stages) {
            if stage.again.is_some_and(|again| self.now < again) {
                continue;
            }
            while stage.asked.len() < limits::CHALLENGES_ASKED {
                let Some(index) = stage.todo.pop_front() else {
                    break;
                };
                if stage.until < self.now {
                    over.push((at, index));
                    continue;
                }
                let Some(posed) = self.posed.get(index) else {
                    continue;
                };
                let frame = ToServer::Challenge(Box::new(posed.challenge.clone()));
                stage.asked.push_back((index, self.now.after(limits::CHALLENGE_US)));
                self.out.extend(send(at, stage.node, &frame));
            }
        }
        for (at, index) in over {
            self.settle(at, index, Err(NoAnswer::DeadlineOver));
        }
        let is_idle = |stage: &Stage| stage.asked.is_empty() && stage.todo.is_empty();
        if !self.is_done && self.stages.iter().all(is_idle) && self.is_network_known() {
            self.finish();
        }
    }

    /// Whether it is known if the client's own network works, as far as that matters: where a stage
    /// fell silent, the others are asked for a sign of life.
    fn is_network_known(&mut self) -> bool {
        let Some(silent) = self.stages.iter().filter_map(|stage| stage.silent).max() else {
            return true;
        };
        if self.heard.is_some_and(|heard| heard > silent) {
            return true;
        }
        if let Some(probe) = self.probe {
            return probe <= self.now;
        }
        let others = (0..).zip(&self.stages).filter(|(_, stage)| stage.silent.is_none());
        let asked: Vec<_> =
            others.filter_map(|(at, stage)| send(at, stage.node, &ToServer::Status)).collect();
        if asked.is_empty() {
            return true;
        }
        self.out.extend(asked);
        self.probe = Some(self.now.after(limits::HANDSHAKE_US));
        false
    }

    /// Whether a stage that answered to the end was given enough time for all, so that it is by its
    /// own slowness that some have no answer.
    fn has_let_time_run_out(&self, stage: &Stage) -> bool {
        let needed = stage.posed.saturating_mul(limits::CHALLENGE_PACE_US);
        let is_enough = stage.until.since(self.began) >= needed;
        let to_the_end = |at: Now| stage.until.since(at) <= limits::CHALLENGE_US;
        is_enough && stage.answered.is_some_and(to_the_end) && !self.has_slept
    }

    /// Reports what came of all challenges.
    fn finish(&mut self) {
        self.is_done = true;
        let (posed, heard) = (std::mem::take(&mut self.posed), self.heard);
        let exchange = |posed: Posed| {
            let stage = self.stages.get(posed.stage as usize);
            let ran_out = stage.is_some_and(|stage| self.has_let_time_run_out(stage));
            let why = |why| {
                if ran_out && why == NoAnswer::DeadlineOver { NoAnswer::RanOut } else { why }
            };
            let answer = posed.answer.unwrap_or(Err(NoAnswer::Timeout)).map_err(why);
            let is_withheld = match &answer {
                Ok(_) | Err(NoAnswer::DeadlineOver | NoAnswer::NoStage) => false,
                // Without a word from anybody since, the dead network may be the client's own.
                Err(NoAnswer::LinkLost) => heard > stage.and_then(|stage| stage.silent),
                Err(
                    NoAnswer::BadFrame
                    | NoAnswer::BadSignature
                    | NoAnswer::HungUp
                    | NoAnswer::RanOut
                    | NoAnswer::Refused(_)
                    | NoAnswer::Timeout,
                ) => true,
            };
            Exchange { stage: posed.stage, challenge: posed.challenge, answer, is_withheld }
        };
        let exchanges = posed.into_iter().map(exchange).collect();
        self.out.push_back(ChallengeOutput::Done(exchanges));
    }
}

impl Stage {
    fn of(segment: &Segment) -> Self {
        Self {
            node: segment.node,
            until: Now(segment.deadline_unix_ms.saturating_mul(1000)),
            todo: VecDeque::new(),
            asked: VecDeque::new(),
            again: None,
            silent: None,
            posed: 0,
            answered: None,
        }
    }

    /// When the oldest challenge is given up.
    fn overdue(&self) -> Option<Now> {
        self.asked.front().map(|(_, deadline)| *deadline)
    }

    /// When something is due.
    fn deadline(&self) -> Option<Now> {
        let again = self.again.filter(|_| self.asked.is_empty() && !self.todo.is_empty());
        self.overdue().or(again)
    }
}

fn send(stage: u32, node: NodeId, frame: &ToServer) -> Option<ChallengeOutput> {
    frame.to_wire().ok().map(|wire| ChallengeOutput::Send { stage, node, wire })
}

/// The place in the route of the stage that computed a cell; the head is at stage 0.
fn stage_of(receipt: &Receipt, target: &Target) -> Option<usize> {
    let end = receipt.segments.last().map(|segment| segment.end);
    match target {
        Target::Head { .. } => Some(0),
        Target::Mark { layer, .. } if Some(*layer) == end => Some(0),
        Target::Layer { layer, .. } | Target::Edge { layer, .. } | Target::Mark { layer, .. } => {
            receipt.segments.iter().position(|segment| (segment.first..segment.end).contains(layer))
        }
    }
}
