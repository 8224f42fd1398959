//! Why a client has no answer, or does not accept the one it got.

use core::fmt;

use lockstep_exact::sample::Finish;

use crate::chain::MarkFault;
use crate::failure::{Busy, Failure, Reason, Refusal};
use crate::frame::FrameError;

/// The faults of the statements at the end of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentFault {
    /// The segment names another chain than the marks that came.
    Chain,
    /// The segment does not have one pair of roots for each layer.
    Layers,
    /// The stage was given another lease than the client's: it was handed over so.
    Lease,
    /// The segment is about fewer positions than the stage has marked.
    FewPositions,
    /// The promise was long enough when the session began, and is too short now that it comes: it
    /// was signed early or held up, and nobody can see by whom.
    Late,
    /// The segment is about more positions than the steps that came: steps were held back.
    MorePositions,
    /// The segment is about another session, node or span.
    Place,
    /// The segment promises to answer challenges until less than
    /// [`crate::limits::LEAST_RETENTION_US`] after the session began.
    Promise,
    /// The segment is about another run than the marks that came, or runs were mixed.
    Run,
    /// The segment is not signed by the stage.
    Signature,
    /// The head's statement is about other tokens than were streamed.
    Tokens,
}

impl fmt::Display for SegmentFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Chain => "names another chain than the marks that came",
            Self::FewPositions => "is about fewer positions than it has marked",
            Self::Late => {
                "comes so late that the time in which it promises answers to audits is nearly over \
                 (or this machine's clock is wrong)"
            }
            Self::Layers => "has not one pair of roots a layer",
            Self::Lease => "is about another lease than the client's: it was handed over so",
            Self::MorePositions => "is about more positions than the steps that came",
            Self::Place => "is about something else",
            Self::Promise => {
                "promises answers to audits for too short a time (or this machine's clock is wrong)"
            }
            Self::Run => "is about another run than the marks that came",
            Self::Signature => "is not signed by the stage",
            Self::Tokens => "is about other tokens than were streamed",
        })
    }
}

/// The reasons why a request got no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientError {
    /// Stage 0 has no room for the session now.
    Busy(Busy),
    /// Stage 0 marked other tokens than those of prompt and answer.
    Fed {
        /// The step's first position.
        position: u32,
    },
    /// The ring said, or the client saw, that the session ended.
    Failed(Failure),
    /// Stage 0 sent something that is not a frame.
    Frame(FrameError),
    /// The head's statement at the end does not hold.
    Head(SegmentFault),
    /// The head's mark of a token does not hold.
    HeadMark {
        /// The position of the state.
        position: u32,
        /// What is wrong.
        fault: MarkFault,
    },
    /// A stage's mark does not hold. It came through other hands, so nobody is named by this.
    Mark {
        /// Whose it should be.
        stage: u32,
        /// The step's first position.
        position: u32,
        /// What is wrong.
        fault: MarkFault,
    },
    /// Stage 0 sent a frame out of order.
    Order(&'static str),
    /// Stage 0 refused the request.
    Refused(Refusal),
    /// The request or the route is not one that could be sent.
    Request(Refusal),
    /// A stage's segment does not hold. Only what the stage itself has signed is held against it.
    Segment {
        /// Whose it should be.
        stage: u32,
        /// What is wrong.
        fault: SegmentFault,
    },
    /// The answer did not end as the stop rules say.
    Stops {
        /// What the rules say; `None`: it should have gone on.
        expected: Option<Finish>,
        /// What the head says; `None`: it went on.
        got: Option<Finish>,
    },
    /// The request and the lease are longer than a frame may be.
    TooLong(FrameError),
    /// The head signed another token than it streamed, or one that the model does not have.
    Token {
        /// The token's place in the answer.
        index: u32,
    },
}

impl ClientError {
    /// Returns the stage that the client itself holds responsible, by its place in the route: by
    /// what came on its own link to stage 0, or by what the stage has signed.
    #[must_use]
    pub const fn stage(&self) -> Option<u32> {
        match self {
            Self::Mark { .. } | Self::Request(_) | Self::TooLong(_) => None,
            Self::Failed(failure) => match failure.by {
                None => failure.stage,
                Some(_) => None,
            },
            Self::Busy(_)
            | Self::Fed { .. }
            | Self::Frame(_)
            | Self::Head(_)
            | Self::HeadMark { .. }
            | Self::Order(_)
            | Self::Refused(_)
            | Self::Stops { .. }
            | Self::Token { .. } => Some(0),
            Self::Segment { stage, fault } => match fault {
                SegmentFault::Late
                | SegmentFault::Lease
                | SegmentFault::MorePositions
                | SegmentFault::Place
                | SegmentFault::Run
                | SegmentFault::Signature => None,
                SegmentFault::Chain
                | SegmentFault::FewPositions
                | SegmentFault::Layers
                | SegmentFault::Promise
                | SegmentFault::Tokens => Some(*stage),
            },
        }
    }
}

impl ClientError {
    /// Returns in how many milliseconds it is worth asking again, if what failed is that there was
    /// no room: as the server said that had none.
    #[must_use]
    pub const fn retry_ms(&self) -> Option<u32> {
        if let Self::Busy(busy) | Self::Failed(Failure { reason: Reason::Busy(busy), .. }) = self {
            Some(busy.retry_ms)
        } else {
            None
        }
    }

    /// Returns whether the request may do better on another ring: everything but what this client
    /// has decided itself, and a lack of room, after which it is worth asking the same servers
    /// again.
    #[must_use]
    pub const fn is_of_ring(&self) -> bool {
        match self {
            Self::Failed(failure) => !matches!(failure.reason, Reason::Cancelled | Reason::Busy(_)),
            Self::Busy(_) | Self::Request(_) | Self::TooLong(_) => false,
            Self::Fed { .. }
            | Self::Frame(_)
            | Self::Head(_)
            | Self::HeadMark { .. }
            | Self::Mark { .. }
            | Self::Order(_)
            | Self::Refused(_)
            | Self::Segment { .. }
            | Self::Stops { .. }
            | Self::Token { .. } => true,
        }
    }

    /// Returns the stage that other stages say the failure is about. Nobody has signed that, and it
    /// came through stage 0's hands: it helps a person to look and a client to route, and no more.
    #[must_use]
    pub const fn reported(&self) -> Option<u32> {
        if let Self::Failed(Failure { stage, by: Some(_), .. }) = self { *stage } else { None }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy(busy) => busy.fmt(f),
            Self::Fed { position } => {
                write!(f, "stage 0: marked other tokens at position {position} than it was fed")
            }
            Self::Failed(failure) if failure.by.is_some() => {
                write!(f, "stage 0 reports: {failure}")
            }
            Self::Failed(failure) => failure.fmt(f),
            Self::Frame(error) => write!(f, "stage 0: {error}"),
            Self::Head(fault) => write!(f, "stage 0: the head's statement {fault}"),
            Self::HeadMark { position, fault } => {
                write!(f, "stage 0: the head's mark at position {position} {fault}")
            }
            Self::Mark { stage, position, fault } => {
                write!(f, "the mark that came for stage {stage} at position {position} {fault}")
            }
            Self::Order(what) => write!(f, "stage 0: {what}"),
            Self::Refused(refusal) => write!(f, "stage 0 refused: {refusal}"),
            Self::Request(refusal) => write!(f, "the request cannot be sent: {refusal}"),
            Self::TooLong(error) => write!(f, "the request cannot be sent: {error}"),
            Self::Segment { stage, fault } if self.stage().is_some() => {
                write!(f, "stage {stage}: its segment {fault}")
            }
            Self::Segment { stage, fault } => {
                write!(f, "the segment that came for stage {stage} {fault}")
            }
            Self::Stops { expected, got } => {
                let word = |finish: &Option<Finish>| {
                    finish.map_or_else(|| "going on".to_owned(), |finish| format!("{finish:?}"))
                };
                write!(f, "stage 0: the stop rules say {}, not {}", word(expected), word(got))
            }
            Self::Token { index } => {
                write!(f, "stage 0: token {index} is not the one that the head signed")
            }
        }
    }
}

impl core::error::Error for ClientError {}
