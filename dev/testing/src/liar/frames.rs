//! Frames that are not what the machine said: the lies that are told on the way, by a server that
//! signs again what it has changed.

use lockstep_exact::Digest;
use lockstep_exact::bytes::Canonical as _;
use lockstep_exact::sample::Finish;
use lockstep_proto::frame::{Frame as _, RingFrame, ToClient};
use lockstep_verify::request::Lease;
use lockstep_verify::sign::Keypair;
use lockstep_verify::statement::{Mark, RunId, Segment, tokens_digest};

use crate::lie::{Lie, Script};

/// The receiver of a frame that a liar sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// The client, from server 1.
    Client,
    /// Another stage of the ring.
    Stage,
}

/// A liar on its links, which changes frames and signs them again.
pub struct Forger {
    script: Script,
    /// The liar's place in the ring.
    stage: usize,
    key: Keypair,
    /// Segments of an earlier run of the session, for those who mix runs.
    pub earlier: Vec<Segment>,
    /// The runs of the stages and of the head, once they have been told.
    runs: Vec<RunId>,
    head: Option<RunId>,
    /// The chain of the marks that were signed again.
    chain: Option<Digest>,
    /// The lease as it came, where another was handed on.
    lease: Option<Box<Lease>>,
    /// What the client was told of an answer whose rest is kept back.
    told: Told,
}

#[derive(Default)]
struct Told {
    tokens: Vec<u32>,
    chain: Option<Digest>,
    head_chain: Option<Digest>,
    positions: u32,
}

impl Forger {
    /// Creates a liar that has sent nothing yet and stands at the place `stage` of the ring.
    #[must_use]
    pub fn new(script: Script, stage: usize, key: Keypair) -> Self {
        Self {
            script,
            stage,
            key,
            earlier: Vec::new(),
            runs: Vec::new(),
            head: None,
            chain: None,
            lease: None,
            told: Told::default(),
        }
    }

    /// Returns the frames that go out in place of the frame `body`; `None` if it goes out as it is.
    pub fn sent(&mut self, from: usize, to: To, body: &[u8]) -> Option<Vec<Vec<u8>>> {
        match to {
            To::Client => self.for_client(ToClient::from_body(body).ok()?),
            To::Stage if from == self.stage => self.for_stage(RingFrame::from_body(body).ok()?),
            To::Stage => None,
        }
    }

    /// Returns the frames that arrive at the liar in place of the frame `body`, or `None` if it
    /// arrives as it is: the liar takes back the lease that it changed as the one that it was
    /// given.
    pub fn got(&mut self, body: &[u8]) -> Option<Vec<Vec<u8>>> {
        let lease = self.lease.clone()?;
        let Ok(RingFrame::Lease { tenant, runs, .. }) = RingFrame::from_body(body) else {
            return None;
        };
        Some(vec![RingFrame::Lease { lease, tenant, runs }.to_bytes()])
    }

    fn for_stage(&mut self, frame: RingFrame) -> Option<Vec<Vec<u8>>> {
        let changed = match (self.script.lie, frame) {
            (
                Lie::OtherLease | Lie::OtherSessionKey,
                RingFrame::Lease { mut lease, tenant, runs },
            ) => {
                self.lease = Some(lease.clone());
                lease.max_positions += u32::from(self.script.lie == Lie::OtherLease);
                let lease = Box::new(lease.signed(&self.key));
                RingFrame::Lease { lease, tenant, runs }
            }
            (Lie::OtherMarkInput, RingFrame::Lease { lease, tenant, runs }) => {
                self.runs.clone_from(&runs);
                RingFrame::Lease { lease, tenant, runs }
            }
            (Lie::OtherMarkInput, RingFrame::Marks { session, position, mut trail }) => {
                let run = *self.runs.get(self.stage)?;
                let aim = self.script.aim.position;
                self.sign_again(run, trail.last_mut()?, |mark| {
                    if holds(mark, aim) {
                        mark.input.0[0] ^= 1;
                    }
                });
                RingFrame::Marks { session, position, trail }
            }
            (Lie::OtherMarkInput, RingFrame::Close { session, mut segments }) => {
                self.end_chain(segments.last_mut()?);
                RingFrame::Close { session, segments }
            }
            _ => return None,
        };
        Some(vec![changed.to_bytes()])
    }

    fn for_client(&mut self, frame: ToClient) -> Option<Vec<Vec<u8>>> {
        if let ToClient::Runs { runs, head, .. } = &frame {
            self.runs.clone_from(runs);
            self.head = Some(*head);
        }
        let changed = match self.script.lie {
            Lie::HiddenTail => return self.hide(frame),
            Lie::MixedRuns => self.mix(frame)?,
            Lie::StreamsOther => self.stream_other(frame)?,
            Lie::TwoMarks => self.mark_twice(frame)?,
            _ => return None,
        };
        Some(vec![changed.to_bytes()])
    }

    fn stream_other(&self, frame: ToClient) -> Option<ToClient> {
        let ToClient::Token { session, index, token, mark } = frame else { return None };
        if mark.position < self.script.aim.position {
            return None;
        }
        let token = if token == 0 { 1 } else { token - 1 };
        Some(ToClient::Token { session, index, token, mark })
    }

    /// Another mark of the liar's for the client than the next server got.
    fn mark_twice(&mut self, frame: ToClient) -> Option<ToClient> {
        match frame {
            ToClient::Step { session, mut step } => {
                let (run, aim) = (*self.runs.get(self.stage)?, self.script.aim.position);
                self.sign_again(run, step.marks.get_mut(self.stage)?, |mark| {
                    if holds(mark, aim) {
                        mark.output.0[0] ^= 1;
                    }
                });
                Some(ToClient::Step { session, step })
            }
            ToClient::Finished { head, mut segments } => {
                self.end_chain(segments.get_mut(self.stage)?);
                Some(ToClient::Finished { head, segments })
            }
            _ => None,
        }
    }

    /// Another server's segment of an earlier run.
    fn mix(&self, frame: ToClient) -> Option<ToClient> {
        let ToClient::Finished { head, mut segments } = frame else { return None };
        let of_layer =
            |segment: &&mut Segment| (segment.first..segment.end).contains(&self.script.aim.layer);
        let segment = segments.iter_mut().find(of_layer)?;
        *segment = self.earlier.iter().find(|earlier| earlier.first == segment.first)?.clone();
        Some(ToClient::Finished { head, segments })
    }

    /// The answer as if it had ended with its first token.
    fn hide(&mut self, frame: ToClient) -> Option<Vec<Vec<u8>>> {
        match frame {
            ToClient::Step { step, .. } if self.told.tokens.is_empty() => {
                self.told.chain = step.marks.first().map(Mark::chain_after);
                self.told.positions = step.position + step.count;
                None
            }
            ToClient::Token { token, mark, .. } if self.told.tokens.is_empty() => {
                self.told.tokens.push(token);
                self.told.head_chain = Some(mark.chain_after());
                None
            }
            ToClient::Step { .. } | ToClient::Token { .. } => Some(Vec::new()),
            ToClient::Finished { mut head, mut segments } => {
                head.tokens = tokens_digest(&self.told.tokens);
                (head.finish, head.chain) = (Finish::EndToken, self.told.head_chain?);
                let head = Box::new(head.signed(self.head?, &self.key));
                let own = segments.first_mut()?;
                (own.positions, own.chain) = (self.told.positions, self.told.chain?);
                *own = own.clone().signed(&self.key);
                Some(vec![ToClient::Finished { head, segments }.to_bytes()])
            }
            _ => None,
        }
    }

    /// Signs a mark again, after the one that was signed again before it.
    fn sign_again(&mut self, run: RunId, mark: &mut Mark, change: impl FnOnce(&mut Mark)) {
        mark.chain_before = self.chain.unwrap_or(mark.chain_before);
        change(mark);
        *mark = mark.signed(run, &self.key);
        self.chain = Some(mark.chain_after());
    }

    /// Signs the segment that ends the chain of marks that were signed again.
    fn end_chain(&self, segment: &mut Segment) {
        segment.chain = self.chain.unwrap_or(segment.chain);
        *segment = segment.clone().signed(&self.key);
    }
}

fn holds(mark: &Mark, position: u32) -> bool {
    (mark.position..mark.position + mark.count).contains(&position)
}
