//! Why a request was refused or a session ended: whose stage, who says so, and the reason.
//!
//! These travel between peers, so they are small tags without free text. They are what a peer
//! *says*: nobody is convicted by them, they only decide what a person reads and where a client
//! tries next.

use core::fmt;

use lockstep_exact::bytes::{Canonical, DecodeError, Reader};
use lockstep_exact::invariant::Broken;

use crate::limits;

/// An enum without fields whose variants are wire tags and sentences.
macro_rules! tagged {
    (
        $(#[$meta:meta])*
        pub enum $name:ident ($what:literal) { $($variant:ident = $tag:literal, $text:literal;)* }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name {
            $(#[doc = concat!("\"", $text, "\".")] $variant,)*
        }

        impl $name {
            /// Every variant, in the order of their tags.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $text,)* })
            }
        }

        impl Canonical for $name {
            fn encode(&self, out: &mut Vec<u8>) {
                out.push(match self { $(Self::$variant => $tag,)* });
            }
            fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
                match u8::decode(input)? {
                    $($tag => Ok(Self::$variant),)*
                    tag => Err(input.unknown_tag($what, tag)),
                }
            }
        }
    };
}

tagged! {
    /// Why something that was asked for is not done.
    pub enum Refusal ("refusal") {
        AdaptersUnsupported = 0, "this server serves no adapters";
        BadParameter = 1, "a sampling or stop parameter is out of range";
        BadSignature = 2, "a signature does not verify";
        Busy = 3, "all sessions are taken";
        CellOutOfRange = 4, "the challenge names a cell that this stage did not compute";
        ChallengeLimit = 5, "the session's challenges are used up";
        Draining = 6, "the server takes no new sessions";
        Duplicate = 7, "the session is known already";
        ExecutorFailed = 8, "the executor could not do it";
        LeaseMismatch = 9, "the lease is not that of the request";
        NoRoom = 10, "there is no memory for a session of this length now";
        NotHead = 11, "this server does not hold the head";
        NotInRoute = 12, "the lease does not name this server in this place";
        PromptLength = 13, "the prompt is empty or fills the context";
        RouteInvalid = 14, "the route does not hold every layer once";
        SpanNotHeld = 15, "the server does not hold these layers";
        TooManyWaiting = 16, "too much is waiting already";
        UnknownSession = 17, "the session is not known, or no longer";
        WrongModel = 18, "the server serves another model";
        CannotKeep = 19, "there is no room to keep the session for as long as audits are promised";
        PeerShare = 20, "this peer holds its share of the server's room already";
        TooExpensive = 21, "the challenge asks for more than an opening may hold";
        OtherRun = 22, "the challenge is about another run of the session";
        ReuseUnsupported = 23, "this server takes over nothing from another session";
        TakeoverUnsupported = 24, "this server takes no lost server's place in a session";
        Internal = 25, "the server's own program is at fault";
    }
}

impl From<Broken> for Refusal {
    fn from(_: Broken) -> Self {
        Self::Internal
    }
}

/// Why there is no room for a session now, and when it is worth asking again: what a server says
/// that would serve it at another time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Busy {
    /// The kind of room that is missing.
    pub refusal: Refusal,
    /// The milliseconds after which there may be room, from 1 to [`limits::RETRY_MS`], as the
    /// server expects it by what waits there and by the pace at which its sessions have ended.
    pub retry_ms: u32,
}

impl Busy {
    /// Returns a refusal with this time until it is worth asking again, brought into its range.
    #[must_use]
    pub fn new(refusal: Refusal, retry_us: u64) -> Self {
        let retry_ms = retry_us.div_ceil(1000).clamp(1, limits::RETRY_MS.into());
        // default: it is not above the limit
        Self { refusal, retry_ms: u32::try_from(retry_ms).unwrap_or(limits::RETRY_MS) }
    }
}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = self.retry_ms.div_ceil(100);
        let (s, tenth) = (tenths / 10, tenths % 10);
        write!(f, "server busy ({}): try again in {s}.{tenth} s", self.refusal)
    }
}

impl Canonical for Busy {
    fn encode(&self, out: &mut Vec<u8>) {
        self.refusal.encode(out);
        self.retry_ms.encode(out);
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let refusal = Refusal::decode(input)?;
        let retry_ms = u32::decode(input)?;
        if !(1..=limits::RETRY_MS).contains(&retry_ms) {
            return Err(input.invalid("time to ask again", "is not from 1 ms to 10 minutes"));
        }
        Ok(Self { refusal, retry_ms })
    }
}

/// Why a session ended before its answer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The stage sent a frame that does not decode or does not belong where it came.
    BadFrame,
    /// The stage's mark is not signed, not linked, or not about what it sent.
    BadMark,
    /// The stage sent a state that is not canonical.
    BadState,
    /// The stage has no room for the session now.
    Busy(Busy),
    /// The client has cancelled the request.
    Cancelled,
    /// The link to the client is gone.
    ClientLost,
    /// The lease did not come round in time.
    HandshakeTimeout,
    /// Nothing came for the session for a long time.
    Idle,
    /// The stage's job took longer than a job may.
    JobOverdue,
    /// The stage's server is shutting down, and the session did not finish in time.
    Leaving,
    /// The link to the stage closed or could not be opened.
    LinkLost,
    /// The stage has refused the session.
    Refused(Refusal),
    /// The stage was silent longer than a stage may be.
    StageSilent,
    /// All links live, but the session makes no progress.
    Stalled,
}

impl Reason {
    /// Returns the refusal that is the reason; `None` if the reason is none.
    #[must_use]
    pub const fn refusal(self) -> Option<Refusal> {
        if let Self::Refused(refusal) | Self::Busy(Busy { refusal, .. }) = self {
            Some(refusal)
        } else {
            None
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadFrame => "sent a frame that does not belong there",
            Self::BadMark => "sent a mark that does not hold",
            Self::BadState => "sent a state that is not canonical",
            Self::Busy(busy) => return busy.fmt(f),
            Self::Cancelled => "cancelled by the client",
            Self::ClientLost => "the client is gone",
            Self::HandshakeTimeout => "the lease did not come round in time",
            Self::Idle => "nothing came for the session",
            Self::JobOverdue => "did not finish a job in time",
            Self::Leaving => "is shutting down",
            Self::LinkLost => "its link closed",
            Self::Refused(refusal) => return write!(f, "refused: {refusal}"),
            Self::StageSilent => "is silent",
            Self::Stalled => "the session makes no progress",
        })
    }
}

impl Canonical for Reason {
    fn encode(&self, out: &mut Vec<u8>) {
        let tag = match self {
            Self::BadFrame => 0,
            Self::BadMark => 1,
            Self::BadState => 2,
            Self::Cancelled => 3,
            Self::ClientLost => 4,
            Self::HandshakeTimeout => 5,
            Self::Idle => 6,
            Self::JobOverdue => 7,
            Self::LinkLost => 8,
            Self::Refused(_) => 9,
            Self::StageSilent => 10,
            Self::Stalled => 11,
            Self::Leaving => 12,
            Self::Busy(_) => 13,
        };
        out.push(tag);
        if let Self::Refused(refusal) = self {
            refusal.encode(out);
        }
        if let Self::Busy(busy) = self {
            busy.encode(out);
        }
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match u8::decode(input)? {
            0 => Self::BadFrame,
            1 => Self::BadMark,
            2 => Self::BadState,
            3 => Self::Cancelled,
            4 => Self::ClientLost,
            5 => Self::HandshakeTimeout,
            6 => Self::Idle,
            7 => Self::JobOverdue,
            8 => Self::LinkLost,
            9 => Self::Refused(Refusal::decode(input)?),
            10 => Self::StageSilent,
            11 => Self::Stalled,
            12 => Self::Leaving,
            13 => Self::Busy(Busy::decode(input)?),
            tag => return Err(input.unknown_tag("failure reason", tag)),
        })
    }
}

/// Why a session ended, about which stage, and who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The stage it is about, by its place in the route; `None` if it is about none.
    pub stage: Option<u32>,
    /// The stage that says so; `None` is the client.
    pub by: Option<u32>,
    /// The reason why the session ended.
    pub reason: Reason,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(stage) = self.stage {
            write!(f, "stage {stage}: ")?;
        }
        write!(f, "{}", self.reason)?;
        match self.by {
            Some(by) if Some(by) != self.stage => write!(f, " (says stage {by})"),
            _ => Ok(()),
        }
    }
}

impl core::error::Error for Failure {}

impl Canonical for Failure {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_option(self.stage, out);
        encode_option(self.by, out);
        self.reason.encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            stage: decode_option(input)?,
            by: decode_option(input)?,
            reason: Reason::decode(input)?,
        })
    }
}

/// Appends a tag byte, and then the value if there is one.
fn encode_option<T: Canonical>(value: Option<T>, out: &mut Vec<u8>) {
    value.is_some().encode(out);
    if let Some(value) = value {
        value.encode(out);
    }
}

/// Reads what [`encode_option`] wrote.
fn decode_option<T: Canonical>(input: &mut Reader<'_>) -> Result<Option<T>, DecodeError> {
    Ok(if bool::decode(input)? { Some(T::decode(input)?) } else { None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_its_own_tag_and_reads_back() {
        for (tag, refusal) in Refusal::ALL.iter().enumerate() {
            let bytes = refusal.to_bytes();
            assert_eq!(bytes, [u8::try_from(tag).unwrap()]);
            assert_eq!(Refusal::from_bytes(&bytes), Ok(*refusal));
        }
        let unknown = u8::try_from(Refusal::ALL.len()).unwrap();
        assert!(Refusal::from_bytes(&[unknown]).is_err());
    }

    #[test]
    fn a_failure_says_which_stage_and_who_says_so() {
        let failure = Failure { stage: Some(1), by: Some(2), reason: Reason::StageSilent };
        assert_eq!(failure.to_string(), "stage 1: is silent (says stage 2)");
        assert_eq!(Failure::from_bytes(&failure.to_bytes()), Ok(failure));
        let refused =
            Failure { stage: Some(1), by: Some(1), reason: Reason::Refused(Refusal::WrongModel) };
        assert_eq!(refused.to_string(), "stage 1: refused: the server serves another model");
        assert_eq!(Failure::from_bytes(&refused.to_bytes()), Ok(refused));
    }

    #[test]
    fn who_is_busy_says_when_to_ask_again() {
        let busy = Busy::new(Refusal::Busy, 3_123_456);
        assert_eq!(busy.to_string(), "server busy (all sessions are taken): try again in 3.2 s");
        let failure = Failure { stage: Some(2), by: Some(2), reason: Reason::Busy(busy) };
        assert_eq!(Failure::from_bytes(&failure.to_bytes()), Ok(failure));
        assert_eq!(Busy::new(Refusal::Busy, 0).retry_ms, 1);
        assert_eq!(Busy::new(Refusal::Busy, u64::MAX).retry_ms, limits::RETRY_MS);
        for retry_ms in [0, limits::RETRY_MS + 1] {
            let bytes = Busy { retry_ms, ..busy }.to_bytes();
            assert!(Busy::from_bytes(&bytes).is_err(), "{retry_ms} ms");
        }
    }
}
