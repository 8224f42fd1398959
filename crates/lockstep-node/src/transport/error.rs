//! The errors between two nodes. Every error names the peer and the class of traffic.

use std::fmt;
use std::io;
use std::net::UdpSocket;
use std::time::Duration;

use super::{Class, Listen, NodeId, Relay};

/// An endpoint could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("can't listen on {addr}: {detail}")]
pub struct BindError {
    /// The address that was asked for, or all of them if it isn't known which it was.
    pub addr: String,
    /// The error that the system reported, and what to do.
    pub detail: String,
}

impl BindError {
    /// Finds out which address it was, and why.
    pub(super) fn of(listen: &Listen, detail: String) -> Self {
        let tried = listen.addrs().iter().map(|addr| (addr, UdpSocket::bind(addr)));
        let failed = tried.filter_map(|(addr, bound)| Some((addr, bound.err()?))).next();
        let Some((addr, error)) = failed else {
            return Self { addr: listen.to_string(), detail };
        };
        let next = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "; another program has the port: choose another one, or port 0 for any"
            }
            io::ErrorKind::AddrNotAvailable => {
                "; this machine has no such address: bind one that it has, or 0.0.0.0 or [::] for \
                 all of them, and state others with --advertise"
            }
            io::ErrorKind::PermissionDenied => "; ports below 1024 are for the administrator",
            _ => "",
        };
        Self { addr: addr.to_string(), detail: format!("{error}{next}") }
    }
}

/// The error that a peer could not be reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("node {}: can't open {class}: {why}", peer.short())]
pub struct ConnectError {
    /// The node id of the peer that was dialled.
    pub peer: NodeId,
    /// The class of the link that was to be opened.
    pub class: Class,
    /// The reason why it could not be reached.
    pub why: ConnectFailure,
}

/// Why a peer could not be reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectFailure {
    /// The peer has no room for another link.
    #[error("it is busy")]
    Busy,
    /// The peer, or this endpoint, is shutting down.
    #[error("shutting down")]
    Closed,
    /// The peer answers, but doesn't speak this version of the protocol.
    #[error("it does not speak this version ({})", String::from_utf8_lossy(alpn))]
    Incompatible {
        /// The protocol name that it refused.
        alpn: &'static [u8],
    },
    /// Something else, in the words of the layer below.
    #[error("{0}")]
    Network(String),
    /// No socket address is known for the peer.
    #[error("no address is known")]
    NoAddress,
    /// The peer did not answer in time.
    #[error("no answer within {:.1} s", after.as_secs_f32())]
    NoAnswer {
        /// The time for which it was tried.
        after: Duration,
    },
    /// The peer's node id is no ed25519 public key.
    #[error("its node id is no key")]
    NotAKey,
    /// The peer keeps an allow-list, and this node is not on it.
    #[error("it does not accept this node (not on its allow-list)")]
    NotAllowed,
    /// The peer can be reached over a relay only, which this node does not use.
    #[error("it is reached over the relay {0}, which this node does not use (--relay)")]
    OtherRelay(Relay),
    /// The address is that of this node, which can't dial itself.
    #[error("that is this very node")]
    Oneself,
    /// Whoever answers at the address is another node.
    #[error("another node answers at its address")]
    WrongIdentity,
}

/// A link ended, or refused a frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("node {}: {class}: {why}", peer.short())]
pub struct LinkError {
    /// The node id of the peer at the other end.
    pub peer: NodeId,
    /// The class of the link that failed.
    pub class: Class,
    /// The reason why the link ended.
    pub why: LinkFailure,
}

/// Why a link ended, or why a frame was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkFailure {
    /// This side has closed the link.
    #[error("closed by this node")]
    ClosedHere,
    /// Too many bytes of frames that were unfinished, or that nobody took, in either direction: the
    /// peer's own, or this link had the most of all.
    #[error("too many bytes of frames on their way")]
    Crowded,
    /// The peer closed the link and said why.
    #[error("the peer hung up: {0}")]
    HungUp(HangUp),
    /// The transport below failed, with its message.
    #[error("{0}")]
    Network(String),
    /// The frame is longer than its class allows.
    #[error("a frame of {len} bytes, at most {cap} are allowed")]
    Oversize {
        /// The length of the frame in bytes.
        len: usize,
        /// The limit of the frame's class in bytes.
        cap: usize,
    },
    /// The send queue is full: the peer takes frames more slowly than they are made.
    #[error("the send queue is full ({cap} bytes)")]
    QueueFull {
        /// The limit of the queue in bytes.
        cap: usize,
    },
    /// The peer gave no sign of life.
    #[error("silent for {:.1} s", after.as_secs_f32())]
    Silent {
        /// The time for which nothing was heard.
        after: Duration,
    },
    /// A frame was begun and not ended, or not taken, in time; the peer is alive.
    #[error("a frame did not get across within {:.1} s", after.as_secs_f32())]
    Stalled {
        /// The time for which it was waited.
        after: Duration,
    },
    /// Too many bytes wait for the peer to take them, over all its links, so nothing more is sent
    /// to it.
    #[error("{cap} bytes of frames wait for the peer, which does not take them")]
    Unread {
        /// The limit of one peer in bytes.
        cap: usize,
    },
    /// The peer stopped in the middle of a frame.
    #[error("the stream ended inside a frame ({got} of {expected} bytes)")]
    Truncated {
        /// Bytes that came, with the length field.
        got: usize,
        /// Bytes that were announced, with the length field.
        expected: usize,
    },
}

/// The reason that one side gives the other for closing a link: a number on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HangUp {
    /// A frame could not be decoded.
    BadFrame,
    /// The node has no room for this link.
    Busy,
    /// The node has nothing more to say.
    Done,
    /// The peer's node id is not on the allow-list.
    NotAllowed,
    /// A frame was longer than its limit.
    Oversize,
    /// The node is shutting down.
    ShuttingDown,
    /// A frame was begun and not ended, or not taken, in time.
    Stalled,
    /// The peer did not take what was sent to it.
    Unread,
    /// A number that this version does not know.
    Other(u32),
}

impl HangUp {
    /// Returns the number of the reason on the wire.
    pub fn code(self) -> u32 {
        match self {
            Self::Done => 0,
            Self::BadFrame => 400,
            Self::NotAllowed => 403,
            Self::Stalled => 408,
            Self::Oversize => 413,
            Self::Busy => 429,
            Self::Unread => 431,
            Self::ShuttingDown => 503,
            Self::Other(code) => code,
        }
    }

    /// Returns the reason that the other end gave by this code of the connection's end;
    /// [`Self::Other`] for one that this version does not know.
    pub fn from_code(code: u64) -> Self {
        match code {
            0 => Self::Done,
            400 => Self::BadFrame,
            403 => Self::NotAllowed,
            408 => Self::Stalled,
            413 => Self::Oversize,
            429 => Self::Busy,
            431 => Self::Unread,
            503 => Self::ShuttingDown,
            other => Self::Other(u32::try_from(other).unwrap_or(u32::MAX)),
        }
    }
}

impl fmt::Display for HangUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadFrame => f.write_str("it could not read a frame"),
            Self::Busy => f.write_str("it is busy"),
            Self::Done => f.write_str("it is done"),
            Self::NotAllowed => f.write_str("this node is not on its allow-list"),
            Self::Oversize => f.write_str("a frame was too long for it"),
            Self::ShuttingDown => f.write_str("it is shutting down"),
            Self::Stalled => f.write_str("a frame did not get across in time"),
            Self::Unread => f.write_str("this node did not take what was sent to it"),
            Self::Other(code) => write!(f, "reason {code}"),
        }
    }
}

impl From<LinkError> for io::Error {
    fn from(error: LinkError) -> Self {
        Self::other(error)
    }
}

/// Returns the innermost message of a library's error: the outer ones only say that there was one.
pub(crate) fn deepest(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
