//! What servers sign: marks as a session runs, segments and the head's statement at its end.
//!
//! # Soundness
//! Every statement is signed over the id of its stage's [`Run`]: the session, the lease that the
//! stage got, the run of the stage before it, and a value that the stage drew for this run alone.
//! So no statement fits beside those of another session, lease or run, and two statements of one
//! run that contradict each other convict their signer whatever has been left out around them.

use lockstep_exact::Digest;
use lockstep_exact::bytes::{Canonical, DecodeError, Reader, put_list};
use lockstep_exact::canonical_struct;
use lockstep_exact::sample::Finish;

use crate::limits;
pub use crate::run_id::RunId;
use crate::sign::{NodeId, Signature};
use crate::signed_struct;

/// One execution of a session by one stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The name of the session.
    pub session: Digest,
    /// [`crate::request::Lease::digest`] of the lease that the stage got.
    pub lease: Digest,
    /// The run of the stage before, whose marks this one checks; [`RunId::NONE`] for server 1's
    /// span. For the head it is that of the last stage.
    pub before: RunId,
    /// Drawn by the server for this run: it has used it for no other.
    pub value: Digest,
    /// First layer of the stage; the number of layers for the head.
    pub first: u32,
    /// Layer after its last; the number of layers for the head.
    pub end: u32,
    /// The first position whose states went on from this run: 0, unless the stage took over from
    /// another one that had sent those before. What it marks begins at position 0 all the same.
    pub first_position: u32,
}

impl Run {
    /// Returns the name of the run: the digest of all its fields.
    #[must_use]
    pub fn id(&self) -> RunId {
        let parts: [&[u8]; 7] = [
            &self.session.0,
            &self.lease.0,
            &self.before.0.0,
            &self.value.0,
            &self.first.to_le_bytes(),
            &self.end.to_le_bytes(),
            &self.first_position.to_le_bytes(),
        ];
        RunId(Digest::derive("lockstep 2026 run", &parts))
    }

    /// Returns the run of the head, if this is the run of server 1's span, `last` that of the last
    /// stage and `layers` the number of layers of the model.
    #[must_use]
    pub const fn of_head(self, last: RunId, layers: u32) -> Self {
        Self { before: last, first: layers, end: layers, first_position: 0, ..self }
    }
}

/// A stage's commitment for one frame.
///
/// `input` and `output` are BLAKE3 of the state bytes received and sent; for server 1's span
/// `input` is [`tokens_digest`]; `output` is zero where the model's last layer gives no row. The
/// head's mark has `first = end =` number of layers, BLAKE3 of the state row as input and
/// [`token_digest`] as output, or zero where the head gives no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The lowest layer of the stage.
    pub first: u32,
    /// The layer after the highest of the stage.
    pub end: u32,
    /// The verify window: how often positions were given up again before this frame, because they
    /// were computed from tokens that were then not chosen. 0, because none are guessed yet.
    pub epoch: u32,
    /// The first position of the frame.
    pub position: u32,
    /// The number of positions of the frame.
    pub count: u32,
    /// The stage's chain before this mark; before its first one, the digest of its run.
    pub chain_before: Digest,
    /// The digest of the states that came in.
    pub input: Digest,
    /// The digest of the states that went out.
    pub output: Digest,
    /// By the stage, over its run and all of the above.
    pub signature: Signature,
}
signed_struct!(Mark("lockstep 2026 mark", in a run) {
    first,
    end,
    epoch,
    position,
    count,
    chain_before,
    input,
    output,
});

impl Mark {
    /// Returns the chain of a stage that has marked nothing yet.
    #[must_use]
    pub const fn chain_start(run: RunId) -> Digest {
        run.0
    }

    /// Returns the chain after this mark.
    #[must_use]
    pub fn chain_after(&self) -> Digest {
        let parts: [&[u8]; 3] = [&self.chain_before.0, &self.input.0, &self.output.0];
        Digest::derive("lockstep 2026 chain", &parts)
    }
}

/// A takeover, as the stage after it states it: from `position` on, the frames that this stage got
/// are those of `run`, another run of the stage before, which took over there.
///
/// # Soundness
/// A stage signs it once it has got, and checked, that run's marks for all frames from there on. At
/// position 0 it replaces the run that the stage began with: then the one that took over has marked
/// all frames again, with the outputs that had been got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Takeover {
    /// The first position of the first such frame.
    pub position: u32,
    /// The run that took over there.
    pub run: RunId,
}
canonical_struct!(Takeover { position, run });

/// Returns the digest of a list of tokens: those that server 1 embeds in one frame, or those of the
/// answer.
#[must_use]
pub fn tokens_digest(tokens: &[u32]) -> Digest {
    let mut bytes = Vec::with_capacity(4 + 4 * tokens.len());
    put_list(&mut bytes, tokens);
    Digest::derive("lockstep 2026 tokens", &[&bytes])
}

/// Returns the digest of a sampled token, as the head's mark carries it.
#[must_use]
pub fn token_digest(token: u32) -> Digest {
    Digest::derive("lockstep 2026 token", &[&token.to_le_bytes()])
}

/// The marks of one frame, in the order of segments, server 1's first: of every stage that computed
/// it, first or again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The first position of the step.
    pub position: u32,
    /// The number of positions.
    pub count: u32,
    /// One mark for each segment that goes beyond `position`.
    pub marks: Vec<Mark>,
}

impl Canonical for Step {
    fn encode(&self, out: &mut Vec<u8>) {
        self.position.encode(out);
        self.count.encode(out);
        put_list(out, &self.marks);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            position: u32::decode(input)?,
            count: u32::decode(input)?,
            marks: input.list("marks", limits::SEGMENTS, 180)?,
        })
    }
}

/// The roots of a layer's two columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerRoots {
    /// BLAKE3 of the state rows after the layer, positions in order; in the model's last layer only
    /// positions that feed the head.
    pub states: Digest,
    /// BLAKE3 of the KV rows, positions in order.
    pub kv: Digest,
}
canonical_struct!(LayerRoots { states, kv });

/// The segment of a stage: what it signs at the end of a session, with a root over everything that
/// it computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The name of the session.
    pub session: Digest,
    /// [`crate::request::Lease::digest`] of the lease that the stage got.
    pub lease: Digest,
    /// The run of the stage before when this one began; [`RunId::NONE`] at server 1.
    pub before: RunId,
    /// The places where others took over from that run, in the order of positions.
    pub takeovers: Vec<Takeover>,
    /// The value that the stage drew for its run.
    pub run_value: Digest,
    /// The node id of the stage.
    pub node: NodeId,
    /// The lowest layer of the stage.
    pub first: u32,
    /// The layer after the highest of the stage.
    pub end: u32,
    /// The first position whose states went on from here: those before had been sent by the stage
    /// that this one took over from.
    pub first_position: u32,
    /// Positions computed, from 0: the tile ends there.
    pub positions: u32,
    /// BLAKE3 of the state rows received; for server 1, of the BLAKE3 digests of the embedding
    /// rows, 32 bytes per position.
    pub input_root: Digest,
    /// The roots of the columns of each layer.
    pub layers: Vec<LayerRoots>,
    /// The chain after the stage's last mark.
    pub chain: Digest,
    /// Until when it answers challenges, in milliseconds of Unix time.
    pub deadline_unix_ms: u64,
    /// The signature by the stage.
    pub signature: Signature,
}

signed_struct!(Segment("lockstep 2026 segment", by node) {
    session,
    lease,
    before,
    takeovers[limits::TAKEOVERS, 36],
    run_value,
    node,
    first,
    end,
    first_position,
    positions,
    input_root,
    layers[lockstep_exact::limits::LAYERS, 64],
    chain,
    deadline_unix_ms,
});

impl Segment {
    /// Returns the run that the segment ends.
    #[must_use]
    pub const fn run(&self) -> Run {
        let (session, lease, before, value) =
            (self.session, self.lease, self.before, self.run_value);
        let (first, end, first_position) = (self.first, self.end, self.first_position);
        Run { session, lease, before, value, first, end, first_position }
    }

    /// Returns the root of the states that leave the stage; `None` for a segment without layers.
    #[must_use]
    pub fn output_root(&self) -> Option<Digest> {
        self.layers.last().map(|roots| roots.states)
    }
}

/// The statement of the head at the end: the answer, and why it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadStatement {
    /// The name of the session.
    pub session: Digest,
    /// The run of the last stage when the session began.
    pub before: RunId,
    /// The places where others took over from that run, in the order of positions.
    pub takeovers: Vec<Takeover>,
    /// [`tokens_digest`] of the answer.
    pub tokens: Digest,
    /// The reason why the answer ended.
    pub finish: Finish,
    /// The head's chain after its last mark.
    pub chain: Digest,
    /// By server 1, over the head's run and all of the above.
    pub signature: Signature,
}
signed_struct!(HeadStatement("lockstep 2026 head", in a run) {
    session,
    before,
    takeovers[limits::TAKEOVERS, 36],
    tokens,
    finish,
    chain,
});
