//! Frames between the stages of a ring.

use lockstep_exact::bytes::{Canonical, DecodeError, Reader, put_bytes, put_list};
use lockstep_exact::digest::Digest;
use lockstep_verify::request::Lease;
use lockstep_verify::sign::NodeId;
use lockstep_verify::statement::{Mark, RunId, Segment};

use super::Frame;
use crate::failure::Failure;
use crate::fair::Weight;
use crate::limits;

/// The states of consecutive positions, for the next stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The name of the session.
    pub session: Digest,
    /// Always 0; leaves room for speculation (*planned*).
    pub epoch: u32,
    /// The first position of the step.
    pub position: u32,
    /// The states: canonical rows, one for each position.
    pub state: Vec<u8>,
}

/// On whose behalf a session is, as far as the stages behind stage 0 get to know: they share out
/// their time between tenants. Stage 0 alone knows the client. What it says here costs nobody more
/// than its own clients' share, since each stage 0 has labels of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// A number by which stage 0 tells its clients apart, and which tells nobody else who they are.
    pub label: u64,
    /// The weight that stage 0 gives the client.
    pub weight: Weight,
}

impl Tenant {
    /// Returns the name of the tenant's account at any stage of a ring whose stage 0 is `node`.
    #[must_use]
    pub fn account(self, node: NodeId) -> Digest {
        Digest::derive("lockstep 2026 tenant", &[&node.0, &self.label.to_le_bytes()])
    }
}

impl Canonical for Tenant {
    fn encode(&self, out: &mut Vec<u8>) {
        self.label.encode(out);
        self.weight.encode(out);
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { label: u64::decode(input)?, weight: Weight::decode(input)? })
    }
}

/// A frame that a stage sends to a neighbour. `Abort` and `Heartbeat` go both ways, the rest to the
/// next stage only.
#[derive(Clone, Debug, PartialEq)]
pub enum RingFrame {
    /// The session is over; nobody's part of it counts.
    Abort {
        /// The session.
        session: Digest,
        /// Why.
        failure: Failure,
    },
    /// The last step was sent; goes round the ring once and collects what every stage signs.
    Close {
        /// The session.
        session: Digest,
        /// Of the stages so far, in order.
        segments: Vec<Segment>,
    },
    /// Says that the stage is alive, and nothing else.
    Heartbeat,
    /// Opens a session; goes round the ring once and collects the runs of the stages.
    Lease {
        /// The lease.
        lease: Box<Lease>,
        /// On whose behalf the session is, says stage 0.
        tenant: Tenant,
        /// The runs of the stages so far, in order. The last is the sender's own; of the others its
        /// receiver believes nothing.
        runs: Vec<RunId>,
    },
    /// The marks of a step, sent behind its states.
    Marks {
        /// The session.
        session: Digest,
        /// The step's first position.
        position: u32,
        /// Of the stages so far, in order.
        trail: Vec<Mark>,
    },
    /// States for the next stage to go on with.
    Step(Step),
}

impl RingFrame {
    /// Returns the session that the frame is about; a heartbeat is about none.
    #[must_use]
    pub const fn session(&self) -> Option<Digest> {
        match self {
            Self::Abort { session, .. }
            | Self::Close { session, .. }
            | Self::Marks { session, .. } => Some(*session),
            Self::Heartbeat => None,
            Self::Lease { lease, .. } => Some(lease.session),
            Self::Step(step) => Some(step.session),
        }
    }
}

impl Frame for RingFrame {
    const LIMIT: usize = limits::RING_BYTES;

    fn limit_of(tag: u8) -> usize {
        match tag {
            0 => limits::LEASE_BYTES,
            1 => limits::RING_BYTES,
            2 => limits::TRAIL_BYTES,
            3 => limits::SEGMENTS_BYTES,
            _ => limits::SMALL_FRAME_BYTES,
        }
    }
}

impl Canonical for RingFrame {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Lease { lease, tenant, runs } => {
                let start = out.len();
                out.push(0);
                lease.encode(out);
                tenant.encode(out);
                put_list(out, runs);
                super::pad(out, start, lease);
            }
            Self::Step(step) => {
                out.push(1);
                step.session.encode(out);
                step.epoch.encode(out);
                step.position.encode(out);
                put_bytes(out, &step.state);
            }
            Self::Marks { session, position, trail } => {
                out.push(2);
                session.encode(out);
                position.encode(out);
                put_list(out, trail);
            }
            Self::Close { session, segments } => {
                out.push(3);
                session.encode(out);
                put_list(out, segments);
            }
            Self::Abort { session, failure } => {
                out.push(4);
                session.encode(out);
                failure.encode(out);
            }
            Self::Heartbeat => out.push(5),
        }
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let start = input.position();
        Ok(match u8::decode(input)? {
            0 => {
                let lease = Box::new(Lease::decode(input)?);
                let tenant = Tenant::decode(input)?;
                let runs = input.list("runs", limits::STAGES, 32)?;
                super::unpad(input, start, &lease)?;
                Self::Lease { lease, tenant, runs }
            }
            1 => Self::Step(Step {
                session: Digest::decode(input)?,
                epoch: u32::decode(input)?,
                position: u32::decode(input)?,
                state: input.bytes("states", limits::RING_BYTES)?.to_vec(),
            }),
            2 => Self::Marks {
                session: Digest::decode(input)?,
                position: u32::decode(input)?,
                trail: input.list("trail", limits::STAGES, 180)?,
            },
            3 => Self::Close {
                session: Digest::decode(input)?,
                segments: input.list("segments", limits::STAGES, 320)?,
            },
            4 => Self::Abort { session: Digest::decode(input)?, failure: Failure::decode(input)? },
            5 => Self::Heartbeat,
            tag => return Err(input.unknown_tag("frame between stages", tag)),
        })
    }
}
