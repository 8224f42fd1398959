//! Frames between a client and a server.

use lockstep_exact::bytes::{Canonical, DecodeError, Reader, put_list};
use lockstep_exact::digest::Digest;
use lockstep_verify::challenge::Challenge;
use lockstep_verify::opening::SignedOpening;
use lockstep_verify::request::{Lease, Request};
use lockstep_verify::statement::{HeadStatement, Mark, RunId, Segment, Step};

use super::Frame;
use crate::announcement::Announcement;
use crate::failure::{Busy, Failure, Refusal};
use crate::limits;

/// A frame that a client sends to a server.
#[derive(Clone, Debug, PartialEq)]
pub enum ToServer {
    /// Ends a session that this link opened.
    Cancel(Digest),
    /// Asks to open cells of a finished session.
    Challenge(Box<Challenge>),
    /// Says that the client is alive, and nothing else.
    Heartbeat,
    /// Opens a session, at the stage that holds the head.
    Open {
        /// What is asked.
        request: Box<Request>,
        /// What the other stages get to know of it.
        lease: Box<Lease>,
    },
    /// Asks for the server's status, which comes as [`ToClient::Status`].
    Status,
}

impl Frame for ToServer {
    const LIMIT: usize = limits::TO_SERVER_BYTES;

    fn limit_of(tag: u8) -> usize {
        match tag {
            1 => limits::TO_SERVER_BYTES,
            4 => limits::CHALLENGE_BYTES,
            _ => limits::SMALL_FRAME_BYTES,
        }
    }
}

impl Canonical for ToServer {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Status => out.push(0),
            Self::Open { request, lease } => {
                let start = out.len();
                out.push(1);
                request.encode(out);
                lease.encode(out);
                super::pad(out, start, lease);
            }
            Self::Cancel(session) => {
                out.push(2);
                session.encode(out);
            }
            Self::Heartbeat => out.push(3),
            Self::Challenge(challenge) => {
                out.push(4);
                challenge.encode(out);
            }
        }
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let start = input.position();
        Ok(match u8::decode(input)? {
            0 => Self::Status,
            1 => {
                let request = Box::new(Request::decode(input)?);
                let lease = Box::new(Lease::decode(input)?);
                super::unpad(input, start, &lease)?;
                Self::Open { request, lease }
            }
            2 => Self::Cancel(Digest::decode(input)?),
            3 => Self::Heartbeat,
            4 => Self::Challenge(Box::new(Challenge::decode(input)?)),
            tag => return Err(input.unknown_tag("frame to a server", tag)),
        })
    }
}

/// A frame that a server sends to a client.
#[derive(Clone, Debug, PartialEq)]
pub enum ToClient {
    /// The session is open; the answer follows.
    Accepted(Digest),
    /// The session was not opened, because there is no room for it now.
    Busy {
        /// The session.
        session: Digest,
        /// What there is no room for, and when it is worth asking again.
        busy: Busy,
    },
    /// Says that there will be no opening for this challenge.
    ChallengeRefused {
        /// The challenge's digest.
        challenge: Digest,
        /// Why.
        refusal: Refusal,
    },
    /// The session ended before its answer did.
    Failed {
        /// The session.
        session: Digest,
        /// Why.
        failure: Failure,
    },
    /// The answer is complete; every stage signed what it did.
    Finished {
        /// The head's word on tokens and finish.
        head: Box<HeadStatement>,
        /// One segment a stage, in order.
        segments: Vec<Segment>,
    },
    /// Says that the server is alive, and nothing else.
    Heartbeat,
    /// The opening that answers a challenge.
    Opening(Box<SignedOpening>),
    /// The head gives no token: the answer ends here.
    Overflow {
        /// The session.
        session: Digest,
        /// The head's mark for the state that it read; its output is zero.
        mark: Box<Mark>,
    },
    /// The session was not opened, for this reason.
    Refused {
        /// The session.
        session: Digest,
        /// Why.
        refusal: Refusal,
    },
    /// The lease has come round: the runs of all stages, in order. The marks of a stage are signed
    /// for its run; what a run is, its segment says at the end.
    Runs {
        /// The session.
        session: Digest,
        /// One a stage.
        runs: Vec<RunId>,
        /// The head's.
        head: RunId,
    },
    /// The status of the server, as a signed announcement.
    Status(Box<Announcement>),
    /// The marks of all stages for one step.
    Step {
        /// The session.
        session: Digest,
        /// Position, count and marks in the order of stages.
        step: Step,
    },
    /// The next token of the answer.
    Token {
        /// The session.
        session: Digest,
        /// Its place in the answer.
        index: u32,
        /// The token.
        token: u32,
        /// The head's mark for it.
        mark: Box<Mark>,
    },
}

impl Frame for ToClient {
    const LIMIT: usize = limits::TO_CLIENT_BYTES;

    fn limit_of(tag: u8) -> usize {
        match tag {
            4 => limits::TRAIL_BYTES,
            5 => limits::SEGMENTS_BYTES,
            8 => limits::TO_CLIENT_BYTES,
            _ => limits::SMALL_FRAME_BYTES,
        }
    }
}

impl Canonical for ToClient {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Status(announcement) => {
                out.push(0);
                announcement.encode(out);
            }
            Self::Accepted(session) => {
                out.push(1);
                session.encode(out);
            }
            Self::Refused { session, refusal } => {
                out.push(2);
                session.encode(out);
                refusal.encode(out);
            }
            Self::Token { session, index, token, mark } => {
                out.push(3);
                session.encode(out);
                index.encode(out);
                token.encode(out);
                mark.encode(out);
            }
            Self::Step { session, step } => {
                out.push(4);
                session.encode(out);
                step.encode(out);
            }
            Self::Finished { head, segments } => {
                out.push(5);
                head.encode(out);
                put_list(out, segments);
            }
            Self::Failed { session, failure } => {
                out.push(6);
                session.encode(out);
                failure.encode(out);
            }
            Self::Heartbeat => out.push(7),
            Self::Opening(opening) => {
                out.push(8);
                opening.encode(out);
            }
            Self::ChallengeRefused { challenge, refusal } => {
                out.push(9);
                challenge.encode(out);
                refusal.encode(out);
            }
            Self::Runs { session, runs, head } => {
                out.push(11);
                session.encode(out);
                put_list(out, runs);
                head.encode(out);
            }
            Self::Busy { session, busy } => {
                out.push(12);
                session.encode(out);
                busy.encode(out);
            }
            Self::Overflow { session, mark } => {
                out.push(10);
                session.encode(out);
                mark.encode(out);
            }
        }
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match u8::decode(input)? {
            0 => Self::Status(Box::new(Announcement::decode(input)?)),
            1 => Self::Accepted(Digest::decode(input)?),
            2 => {
                Self::Refused { session: Digest::decode(input)?, refusal: Refusal::decode(input)? }
            }
            3 => Self::Token {
                session: Digest::decode(input)?,
                index: u32::decode(input)?,
                token: u32::decode(input)?,
                mark: Box::new(Mark::decode(input)?),
            },
            4 => Self::Step { session: Digest::decode(input)?, step: Step::decode(input)? },
            5 => Self::Finished {
                head: Box::new(HeadStatement::decode(input)?),
                segments: input.list("segments", limits::STAGES, 320)?,
            },
            6 => Self::Failed { session: Digest::decode(input)?, failure: Failure::decode(input)? },
            7 => Self::Heartbeat,
            8 => Self::Opening(Box::new(SignedOpening::decode(input)?)),
            9 => Self::ChallengeRefused {
                challenge: Digest::decode(input)?,
                refusal: Refusal::decode(input)?,
            },
            10 => Self::Overflow {
                session: Digest::decode(input)?,
                mark: Box::new(Mark::decode(input)?),
            },
            11 => Self::Runs {
                session: Digest::decode(input)?,
                runs: input.list("runs", limits::STAGES, 32)?,
                head: RunId::decode(input)?,
            },
            12 => Self::Busy { session: Digest::decode(input)?, busy: Busy::decode(input)? },
            tag => return Err(input.unknown_tag("frame to a client", tag)),
        })
    }
}
