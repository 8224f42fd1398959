//! The machine that asks the stages of an answer to open cells.
//!
//! A stage is named by the index of its segment in the receipt, as [`Auditing::plan`] names it.
//! That is its place in the route, unless a place was taken over: then several stages have computed
//! cells of the same layers, each has a segment of its own, and only the one that a challenge was
//! drawn for can answer it.
//!
//! Each stage has signed until when it answers challenges. A stage that refuses, is silent or
//! answers with garbage within that time *withholds*: that convicts nobody, but it is told and
//! remembered. What the client could not ask, because the time was over or its own link was dead,
//! is not held against anybody. No stage holds up the others.
//!
//! Answers leave the machine as they come, each stage's in the order in which they were asked for.
//! What is not answered yet or not taken by the caller yet is bounded for each stage, and what is
//! longer than an opening of its cells can be is no answer, so memory is that of a few openings of
//! each stage, however many there are.
//!
//! [`Auditing::plan`]: lockstep_verify::audit::Auditing::plan

use core::fmt;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use lockstep_exact::digest::Digest;
use lockstep_exact::invariant::Broken;
use lockstep_verify::challenge::{Challenge, Target};
use lockstep_verify::opening::SignedOpening;
use lockstep_verify::price::Prices;
use lockstep_verify::receipt::Receipt;
use lockstep_verify::sign::{Keypair, NodeId, Signature, Statement as _};
use lockstep_verify::statement::{RunId, Segment};

use crate::failure::Refusal;
use crate::frame::{Frame as _, ToClient, ToServer};
use crate::limits;
use crate::now::Now;
use crate::promise::Promise;

/// The reasons why a challenge has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NoAnswer {
    /// The stage sent something that is no answer.
    BadFrame,
    /// The answer is not signed by the stage.
    BadSignature,
    /// The time for which the stage promised answers was over, and was not the stage's to use: the
    /// client began late, took its time over the answers that it had, or was cut off.
    DeadlineOver,
    /// The stage closed the link, or let nobody in.
    HungUp,
    /// The link fell silent or could not be opened.
    LinkLost,
    /// The receipt has no segment with the index that the plan gives: it is a plan of another one.
    NoStage,
    /// The client's own program could not pose the challenge: an invariant of it does not hold.
    NotPosed(Broken),
    /// The stage answered so slowly that the time for which it promised answers ran out, although
    /// each answer prolongs it by [`limits::CHALLENGE_PACE_US`].
    RanOut,
    /// The stage refused the challenge.
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
            Self::NoStage => f.write_str("the receipt has no such segment"),
            Self::NotPosed(broken) => write!(f, "it was not posed: {broken}"),
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
    /// The index of the target among all targets.
    pub index: usize,
    /// The stage asked, by the index of its segment in the receipt.
    pub stage: u32,
    /// The challenge that was sent; without a signature if it never was.
    pub challenge: Challenge,
    /// The stage's signed answer; its contents are not checked here.
    pub answer: Result<SignedOpening, NoAnswer>,
    /// Whether the stage owed an answer and gave none: within the time that it signed, and while
    /// the client's own network is known to have worked.
    pub is_withheld: bool,
}

/// The ways in which a link ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The other end closed it, refused it, or broke its rules.
    HungUp,
    /// Nothing was heard: the other end or the network is dead.
    Silent,
}

/// An input of the machine: what its driver tells it.
#[derive(Debug)]
pub enum ChallengeInput {
    /// A frame's body came from a stage.
    Frame {
        /// The stage, by the index of its segment in the receipt.
        stage: u32,
        /// The body of the frame: what follows the length.
        body: Vec<u8>,
    },
    /// The connection to a stage closed or could not be opened; what is sent next goes over a new
    /// one.
    Lost {
        /// The place of the stage in the route.
        stage: u32,
        /// The way in which the link ended.
        why: Loss,
    },
    /// The caller is through with an answer of this stage, and has room for another.
    Taken {
        /// The place of the stage in the route.
        stage: u32,
    },
    /// The time of the deadline has come.
    Tick,
}

/// An output of the machine: what its driver has to do.
#[derive(Debug)]
pub enum ChallengeOutput {
    /// Hands over the exchange of one challenge. [`ChallengeInput::Taken`] is to follow each that
    /// has an answer.
    Answered(Box<Exchange>),
    /// All challenges are answered or given up, and all have been output.
    Done,
    /// Send bytes to a stage on a connection of this client's own, connecting first if need be.
    Send {
        /// The stage, by the index of its segment in the receipt.
        stage: u32,
        /// The node id of the stage.
        node: NodeId,
        /// The bytes to send: length and body.
        wire: Vec<u8>,
    },
}

#[derive(Debug)]
struct Stage {
    node: NodeId,
    run: RunId,
    /// The promise that says until when the stage owes answers.
    promise: Promise,
    /// Targets that have not been sent, each with its place among all.
    todo: VecDeque<(usize, Target)>,
    /// Challenges under way, oldest first.
    asked: VecDeque<Asked>,
    /// Answers that came before one that was asked for earlier.
    early: BTreeMap<usize, (Challenge, SignedOpening)>,
    /// Answers that were output and not taken.
    untaken: usize,
    /// For how long there was nothing to do for it, because answers were not taken.
    idle_us: u64,
    /// When a link that was lost is tried again; it is, once.
    again: Option<Now>,
    /// When one that was refused for haste is posed again.
    calm: Option<Now>,
    /// The number of waits for haste since the stage last answered with an opening.
    hasty: u32,
    /// When its link fell silent, or it could not be reached, if it was not heard since.
    silent: Option<Now>,
    /// The time at which it last answered a challenge.
    answered: Option<Now>,
    /// Whether it was given up while it was asked: it may answer after all.
    is_left: bool,
}

#[derive(Debug)]
struct Asked {
    index: usize,
    challenge: Challenge,
    digest: Digest,
    /// The time at which the challenge is given up.
    deadline: Now,
}

/// The machine that poses challenges.
#[derive(Debug)]
pub struct Challenger {
    session: Digest,
    receipt: Digest,
    key: Keypair,
    prices: Arc<Prices>,
    /// The time that a stage has for an answer, in microseconds.
    patience_us: u64,
    stages: Vec<Stage>,
    /// Unanswered challenges of which it is known at the end whether they are withheld: it depends
    /// on what is heard until then.
    undecided: Vec<Exchange>,
    now: Now,
    /// When the first challenges were sent.
    began: Now,
    /// Whether this process has not run for a while since: what ran out then is nobody's fault.
    has_slept: bool,
    /// The time at which any stage was last heard.
    heard: Option<Now>,
    /// Until when those that could be reached are asked for a sign of life.
    probe: Option<Now>,
    is_done: bool,
    out: VecDeque<ChallengeOutput>,
}

impl Challenger {
    /// Poses each challenge of a `plan` to the stage that it was drawn for, which the plan names by
    /// the index of its segment in the receipt. A stage has as long for an
    /// answer as the ring had for all of its own, `took_us` microseconds, and
    /// [`limits::CHALLENGE_US`] at least: if it has dropped its columns, it computes a layer again.
    /// No answer is taken that is longer than the model's `prices` say.
    #[must_use]
    pub fn new(
        now: Now,
        receipt: &Receipt,
        plan: Vec<(u32, Target)>,
        session: &Keypair,
        prices: Arc<Prices>,
        took_us: u64,
    ) -> Self {
        let mut machine = Self {
            session: receipt.request.session(),
            receipt: receipt.digest(),
            key: session.clone(),
            prices,
            patience_us: took_us.max(limits::CHALLENGE_US),
            stages: Vec::new(),
            undecided: Vec::new(),
            now,
            began: now,
            has_slept: false,
            heard: None,
            probe: None,
            is_done: false,
            out: VecDeque::new(),
        };
        machine.stages = (0..)
            .zip(&receipt.segments)
            .map(|(at, segment)| {
                let before_head = receipt.lease.prompt_len.saturating_sub(1);
                let heads = if at == 0 { segment.positions.saturating_sub(before_head) } else { 0 };
                Stage::of(segment, heads, &machine.prices)
            })
            .collect();
        for (index, (at, target)) in plan.into_iter().enumerate() {
            match machine.stages.get_mut(at as usize) {
                Some(stage) => stage.todo.push_back((index, target)),
                None => {
                    let challenge = machine.challenge(RunId::NONE, target);
                    machine.put((at, index), challenge, Err(NoAnswer::NoStage));
                }
            }
        }
        machine.advance();
        machine
    }

    fn challenge(&self, run: RunId, target: Target) -> Challenge {
        let (session, receipt) = (self.session, self.receipt);
        Challenge { session, run, receipt, target, signature: Signature::NONE }
    }

    /// Takes an input at the time `now`; outputs are then taken by [`poll`](Self::poll).
    pub fn handle(&mut self, now: Now, input: ChallengeInput) {
        self.excuse(now);
        let passed = now.since(self.now);
        let idle = |stage: &&mut Stage| stage.asked.is_empty() && stage.untaken > 0;
        for stage in self.stages.iter_mut().filter(idle) {
            stage.idle_us = stage.idle_us.saturating_add(passed);
        }
        self.now = self.now.max(now);
        match input {
            ChallengeInput::Frame { stage, body } => self.on_frame(stage, &body),
            ChallengeInput::Lost { stage, why } => self.on_lost(stage, why),
            ChallengeInput::Taken { stage } => {
                if let Some(stage) = self.stages.get_mut(stage as usize) {
                    stage.untaken = stage.untaken.saturating_sub(1);
                }
            }
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

    /// Returns the next output, if there is one.
    pub fn poll(&mut self) -> Option<ChallengeOutput> {
        self.out.pop_front()
    }

    /// Returns whether a stage has answered or refused all that it was asked, so that nothing more
    /// will come on its link.
    #[must_use]
    pub fn is_clear(&self, stage: u32) -> bool {
        let stage = self.stages.get(stage as usize);
        stage.is_some_and(|stage| stage.asked.is_empty() && !stage.is_left)
    }

    /// Returns the time at which [`ChallengeInput::Tick`] must come, if nothing else does.
    #[must_use]
    pub fn deadline(&self) -> Option<Now> {
        let stages = self.stages.iter().filter_map(|stage| stage.deadline(self.now));
        stages.chain(self.probe.filter(|_| !self.is_done)).min()
    }

    fn on_frame(&mut self, at: u32, body: &[u8]) {
        self.heard = Some(self.now);
        if let Some(stage) = self.stages.get_mut(at as usize) {
            stage.silent = None;
        }
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
                | ToClient::Busy { .. }
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
        let prices = &self.prices;
        let is_answer = |asked: &Asked| {
            let most = prices.longest_opening(&asked.challenge.target);
            let is_short = |opening: &SignedOpening| opening.body.len() as u64 <= most;
            asked.digest == digest && answer.as_ref().map_or(true, is_short)
        };
        let Some(place) = stage.asked.iter().position(is_answer) else {
            return self.give_up(at, NoAnswer::BadFrame);
        };
        let node = stage.node;
        let Some(asked) = stage.asked.remove(place) else {
            return;
        };
        stage.answered = Some(self.now);
        if answer == Err(NoAnswer::Refused(Refusal::TooManyWaiting)) && stage.calm_down(self.now) {
            return stage.put_back(asked);
        }
        let answer = answer.and_then(|opening| {
            opening.verify(node).map(|()| opening).map_err(|_| NoAnswer::BadSignature)
        });
        match answer {
            Ok(opening) => {
                stage.promise.prolong(prices, &asked.challenge.target);
                stage.hasty = 0;
                stage.early.insert(asked.index, (asked.challenge, opening));
            }
            Err(why) => self.settle(at, asked.index, asked.challenge, why),
        }
        self.release(at);
    }

    /// Outputs the answers of a stage that no earlier challenge is waited for.
    fn release(&mut self, at: u32) {
        while let Some(stage) = self.stages.get_mut(at as usize) {
            let todo = stage.todo.front().map(|(index, _)| *index);
            let first = stage.asked.iter().map(|asked| asked.index).chain(todo).min();
            let next = stage.early.first_entry();
            let Some(next) = next.filter(|next| first.is_none_or(|first| *next.key() < first))
            else {
                return;
            };
            let (index, (challenge, opening)) = next.remove_entry();
            stage.untaken += 1;
            self.put((at, index), challenge, Ok(opening));
        }
    }

    /// Excuses a pause of this process, which is nobody's silence: a machine that was not woken at
    /// its own deadline gives the stages as much time again.
    fn excuse(&mut self, now: Now) {
        let slept = self.deadline().map_or(0, |deadline| now.since(deadline));
        let again = now.after(self.patience_us);
        if slept > 2 * limits::HEARTBEAT_US {
            self.has_slept = true;
            let asked = self.stages.iter_mut().flat_map(|stage| &mut stage.asked);
            asked.for_each(|asked| asked.deadline = again);
            self.probe = self.probe.map(|_| now.after(limits::HANDSHAKE_US));
        }
    }

    /// Takes the loss of a link, which is then tried once more.
    fn on_lost(&mut self, at: u32, why: Loss) {
        let Some(stage) = self.stages.get_mut(at as usize) else {
            return;
        };
        stage.silent = (why == Loss::Silent).then_some(self.now);
        if stage.again.is_none() {
            stage.again = Some(self.now.after(limits::CHALLENGE_AGAIN_US));
            for asked in std::mem::take(&mut stage.asked) {
                stage.put_back(asked);
            }
            return;
        }
        match why {
            Loss::HungUp => self.give_up(at, NoAnswer::HungUp),
            Loss::Silent => self.give_up(at, NoAnswer::LinkLost),
        }
    }

    /// Settles a challenge that has no answer. Nothing is owed once the promised time is over.
    fn settle(&mut self, at: u32, index: usize, challenge: Challenge, why: NoAnswer) {
        let until = self.stages.get(at as usize).map(|stage| stage.promise.until());
        let is_over = until.is_some_and(|until| until < self.now);
        self.put((at, index), challenge, Err(if is_over { NoAnswer::DeadlineOver } else { why }));
    }

    /// Outputs what came of a challenge.
    fn put(
        &mut self,
        (stage, index): (u32, usize),
        challenge: Challenge,
        answer: Result<SignedOpening, NoAnswer>,
    ) {
        let (is_withheld, is_known) = match &answer {
            Ok(_) | Err(NoAnswer::NoStage | NoAnswer::NotPosed(_)) => (false, true),
            Err(NoAnswer::DeadlineOver | NoAnswer::LinkLost) => (false, false),
            Err(
                NoAnswer::BadFrame
                | NoAnswer::BadSignature
                | NoAnswer::HungUp
                | NoAnswer::RanOut
                | NoAnswer::Refused(_)
                | NoAnswer::Timeout,
            ) => (true, true),
        };
        let exchange = Exchange { index, stage, challenge, answer, is_withheld };
        if is_known {
            self.out.push_back(ChallengeOutput::Answered(Box::new(exchange)));
        } else {
            self.undecided.push(exchange);
        }
    }

    /// Gives up a stage, which gives no more answers.
    fn give_up(&mut self, at: u32, why: NoAnswer) {
        let Some(stage) = self.stages.get_mut(at as usize) else {
            return;
        };
        let run = stage.run;
        let asked = std::mem::take(&mut stage.asked);
        let todo = std::mem::take(&mut stage.todo);
        stage.is_left |= !asked.is_empty();
        for asked in asked {
            self.settle(at, asked.index, asked.challenge, why);
        }
        for (index, target) in todo {
            let challenge = self.challenge(run, target);
            self.settle(at, index, challenge, why);
        }
        self.release(at);
    }

    /// Sends what may be sent, and reports when all is done.
    fn advance(&mut self) {
        let all: Vec<u32> = (0..).zip(&self.stages).map(|(at, _)| at).collect();
        for at in all {
            while let Some((index, target)) = self.next_of(at) {
                self.pose(at, index, target);
            }
            self.release(at);
        }
        let is_idle = |stage: &Stage| stage.asked.is_empty() && stage.todo.is_empty();
        if !self.is_done && self.stages.iter().all(is_idle) && self.is_network_known() {
            self.finish();
        }
    }

    /// Returns the next target that may be sent to a stage.
    fn next_of(&mut self, at: u32) -> Option<(usize, Target)> {
        let now = self.now;
        let stage = self.stages.get_mut(at as usize)?;
        let waits = stage.again.max(stage.calm).is_some_and(|until| now < until);
        let held = stage.asked.len() + stage.early.len() + stage.untaken;
        let is_full = held >= limits::CHALLENGES_ASKED;
        // What is asked of nobody any more needs no room.
        let is_over = stage.promise.until() < now;
        if waits || (is_full && !is_over) { None } else { stage.todo.pop_front() }
    }

    /// Sends a challenge, unless the promised time is over.
    fn pose(&mut self, at: u32, index: usize, target: Target) {
        let Some(stage) = self.stages.get(at as usize) else { return };
        let (node, run) = (stage.node, stage.run);
        let challenge = self.challenge(run, target);
        if stage.promise.until() < self.now {
            return self.put((at, index), challenge, Err(NoAnswer::DeadlineOver));
        }
        let challenge = challenge.signed(&self.key);
        match send(at, node, &ToServer::Challenge(Box::new(challenge.clone()))) {
            Ok(sent) => self.out.push_back(sent),
            // Nothing was asked, so the stage withholds nothing.
            Err(broken) => {
                return self.put((at, index), challenge, Err(NoAnswer::NotPosed(broken)));
            }
        }
        let (digest, deadline) = (challenge.statement(), self.now.after(self.patience_us));
        if let Some(stage) = self.stages.get_mut(at as usize) {
            stage.asked.push_back(Asked { index, challenge, digest, deadline });
        }
    }

    /// Returns whether it is known if the client's own network works, as far as that matters: where
    /// a stage fell silent, the others are asked for a sign of life.
    fn is_network_known(&mut self) -> bool {
        if self.undecided.is_empty() {
            return true;
        }
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
            others.flat_map(|(at, stage)| send(at, stage.node, &ToServer::Status)).collect();
        if asked.is_empty() {
            return true;
        }
        self.out.extend(asked);
        self.probe = Some(self.now.after(limits::HANDSHAKE_US));
        false
    }

    /// Returns whether it is by a stage's own slowness that some challenges have no answer although
    /// its promise is over: it had time for one more, and was given as long as one may take or
    /// answered to the end. The time in which it waited for the caller does not count.
    fn has_let_time_run_out(&self, stage: &Stage) -> bool {
        let given = stage.promise.signed().since(self.began).saturating_sub(stage.idle_us);
        let to_the_end = |at: Now| stage.promise.until().since(at) <= self.patience_us;
        // However long its answers may take: half of the least promise is enough for one. Or it
        // could be silent all the time, or be so at the end over a link that it closes once.
        let enough = self.patience_us.min(limits::LEAST_RETENTION_US >> 1);
        let is_slow = given >= enough || stage.answered.is_some_and(to_the_end);
        // Without a word from anybody since, the dead network may be the client's own.
        let is_cut_off = stage.silent.is_some() && self.heard <= stage.silent;
        stage.promise.had_time(self.began, stage.idle_us)
            && is_slow
            && !is_cut_off
            && !self.has_slept
    }

    /// Reports that all is done, and what was left open until then.
    fn finish(&mut self) {
        self.is_done = true;
        for mut exchange in std::mem::take(&mut self.undecided) {
            let stage = self.stages.get(exchange.stage as usize);
            exchange.is_withheld = match exchange.answer {
                // Without a word from anybody since, the dead network may be the client's own.
                Err(NoAnswer::LinkLost) => self.heard > stage.and_then(|stage| stage.silent),
                _ => stage.is_some_and(|stage| self.has_let_time_run_out(stage)),
            };
            if exchange.is_withheld && exchange.answer == Err(NoAnswer::DeadlineOver) {
                exchange.answer = Err(NoAnswer::RanOut);
            }
            self.out.push_back(ChallengeOutput::Answered(Box::new(exchange)));
        }
        self.out.push_back(ChallengeOutput::Done);
    }
}

impl Stage {
    /// Creates the state of the stage that signed a segment, of which `heads` cells of the head can
    /// be opened.
    fn of(segment: &Segment, heads: u32, prices: &Prices) -> Self {
        let deadline = Now(segment.deadline_unix_ms.saturating_mul(1000));
        let (span, positions) = (segment.first..segment.end, segment.positions);
        Self {
            node: segment.node,
            run: segment.run().id(),
            promise: Promise::new(deadline, prices, span, positions, heads),
            todo: VecDeque::new(),
            asked: VecDeque::new(),
            early: BTreeMap::new(),
            untaken: 0,
            idle_us: 0,
            again: None,
            calm: None,
            hasty: 0,
            silent: None,
            answered: None,
            is_left: false,
        }
    }

    /// Puts a challenge back among those that are to be posed, which are in order.
    fn put_back(&mut self, asked: Asked) {
        let place = self.todo.partition_point(|(index, _)| *index < asked.index);
        self.todo.insert(place, (asked.index, asked.challenge.target));
    }

    /// Notes that the stage has refused a challenge because too many of this client's wait there:
    /// those of other audits may be among them. Returns whether it is sent again later: not if that
    /// has been waited for as often as it may be.
    fn calm_down(&mut self, now: Now) -> bool {
        if self.calm.is_some_and(|calm| now < calm) {
            return true;
        }
        if self.hasty >= limits::HASTE_WAITS {
            return false;
        }
        self.hasty += 1;
        self.calm = Some(now.after(limits::CHALLENGE_AGAIN_US));
        true
    }

    /// Returns the time at which the oldest challenge is given up.
    fn overdue(&self) -> Option<Now> {
        self.asked.front().map(|asked| asked.deadline)
    }

    /// Returns the time at which a challenge is given up or may be sent, whichever comes first;
    /// `None` if nothing is waited for.
    fn deadline(&self, now: Now) -> Option<Now> {
        let waits = self.asked.is_empty() && !self.todo.is_empty();
        let again = self.again.filter(|again| waits && now < *again);
        let calm = self.calm.filter(|calm| !self.todo.is_empty() && now < *calm);
        self.overdue().or(again).into_iter().chain(calm).min()
    }
}

/// Returns the output that sends a frame. The draw puts no more cells into a challenge than a frame
/// holds.
fn send(stage: u32, node: NodeId, frame: &ToServer) -> Result<ChallengeOutput, Broken> {
    match frame.to_wire() {
        Ok(wire) => Ok(ChallengeOutput::Send { stage, node, wire }),
        Err(_) => Err(Broken::new("a challenge is longer than a frame may be")),
    }
}
