//! A stage's place in a session: its hop, its neighbours and what a step looks like there.

use std::sync::Arc;

use lockstep_exact::digest::Digest;
use lockstep_exact::invariant::Broken;
use lockstep_exact::kv::PAGE;
use lockstep_exact::state::row_bytes;
use lockstep_verify::limits as proof;
use lockstep_verify::request::{Hop, Lease};
use lockstep_verify::sign::{Keypair, NodeId, Signature};
use lockstep_verify::statement::{LayerRoots, Run, RunId, Segment};

use crate::chain::Positions;
use crate::failure::{Failure, Reason, Refusal};
use crate::fair::Account;
use crate::frame::{Step, Tenant};
use crate::job::Forwarded;
use crate::limits;

/// The seat of a stage: its place in a session's route.
#[derive(Clone, Debug)]
pub(super) struct Seat {
    pub(super) lease: Arc<Lease>,
    /// The place in the route: the index of this server's hop.
    pub(super) place: u32,
    /// The hop of this stage: its node and layers.
    pub(super) hop: Hop,
    /// On whose behalf the session is.
    pub(super) tenant: Tenant,
    /// This stage's run of the session.
    pub(super) run: Run,
    /// The stage before; for stage 0 the last one.
    pub(super) prev: Hop,
    /// The place in the route of the stage before.
    prev_place: u32,
    /// The stage after; for the last one stage 0.
    pub(super) next: Hop,
    /// The number of elements of a state.
    pub(super) hidden: usize,
    /// Layers of the model: where the route ends.
    layers: u32,
}

impl Seat {
    /// Finds the place of a node in a route, and makes its run in it; `None` if it is not in it.
    /// `value` was never used before, `before` is the run of the stage before.
    pub(super) fn find(
        lease: Arc<Lease>,
        node: NodeId,
        hidden: usize,
        (value, before): (Digest, RunId),
        tenant: Tenant,
    ) -> Option<Self> {
        let hops = || (0_u32..).zip(lease.route.iter().copied());
        let (place, hop) = hops().find(|(_, hop)| hop.node == node)?;
        let last = hops().last()?;
        // The last stage comes before stage 0, and stage 0 after the last one.
        let (prev_place, prev) = hops().take_while(|(at, _)| *at < place).last().or(Some(last))?;
        let (_, next) = hops().find(|(at, _)| *at > place).or_else(|| hops().next())?;
        let layers = last.1.end;
        let run = Run {
            session: lease.session,
            lease: lease.digest(),
            before,
            value,
            first: hop.first,
            end: hop.end,
            first_position: 0,
        };
        Some(Self { lease, place, hop, tenant, run, prev, prev_place, next, hidden, layers })
    }

    pub(super) fn session(&self) -> Digest {
        self.lease.session
    }

    /// Returns the account on which the session's work is here: that of its client, in the part of
    /// the stage that brings it. The clients of this server itself, if it is stage 0, have one part
    /// together.
    pub(super) fn account(&self) -> Account {
        // default: a lease without stages has no seat
        let first = self.lease.route.first().map_or(self.hop.node, |hop| hop.node);
        let neighbour = if self.place == 0 { self.hop.node } else { self.prev.node };
        Account {
            neighbour: Digest(neighbour.0),
            first: Digest(first.0),
            client: self.tenant.account(first),
            weight: self.tenant.weight,
        }
    }

    /// Returns the number of stages of the ring.
    pub(super) fn stages(&self) -> usize {
        self.lease.route.len()
    }

    /// Returns the number of pages of keys and values that the session takes here once all its
    /// positions are there.
    pub(super) fn kv_pages(&self) -> u64 {
        let of_a_layer = u64::from(self.lease.max_positions).div_ceil(PAGE as u64);
        of_a_layer.saturating_mul(u64::from(self.hop.end.saturating_sub(self.hop.first)))
    }

    /// The bytes that are kept here for challenges of a session with `positions` positions: the
    /// rows that came in, or at stage 0 the tokens and the rows that the head read; and one mark of
    /// the stage before for each of them.
    pub(super) fn kept_bytes(&self, positions: u32) -> u64 {
        let row = self.row_bytes() as u64;
        let positions = u64::from(positions);
        let rows = match self.place {
            0 => {
                let read = positions.saturating_sub(self.first_head_position().into());
                // The request has the prompt a second time.
                read.saturating_mul(row).saturating_add(positions.saturating_mul(8))
            }
            _ => positions.saturating_mul(row),
        };
        let marks = positions.saturating_mul(proof::MARK_BYTES);
        rows.saturating_add(marks).saturating_add(limits::KEPT_SESSION_BYTES)
    }

    /// Returns the number of layers of the model.
    pub(super) const fn layers(&self) -> u32 {
        self.layers
    }

    /// Returns whether the model's last layer is here.
    pub(super) fn is_last(&self) -> bool {
        self.place.saturating_add(1) as usize == self.stages()
    }

    /// Returns the address at which the next stage can be reached, as far as the lease says.
    pub(super) fn address_of_next(&self) -> Option<String> {
        let mut hops = self.lease.route.iter().zip(&self.lease.addresses);
        let next = hops.find(|(hop, _)| hop.node == self.next.node);
        next.map(|(_, address)| address.clone()).filter(|address| !address.is_empty())
    }

    /// Returns the number of bytes of a state row.
    pub(super) const fn row_bytes(&self) -> usize {
        row_bytes(self.hidden)
    }

    /// Returns the first position whose state the head reads.
    pub(super) fn first_head_position(&self) -> u32 {
        self.lease.prompt_len.saturating_sub(1)
    }

    /// Returns the positions of a step whose states leave this stage.
    fn leaving(&self, at: Positions) -> Positions {
        if !self.is_last() {
            return at;
        }
        let first = at.first.max(self.first_head_position());
        Positions { first, count: at.end().saturating_sub(first) }
    }

    /// Returns a step's states for the next stage or the head, if any leave this stage.
    ///
    /// # Errors
    /// The executor gave another number of rows than that.
    pub(super) fn leaving_step(
        &self,
        at: Positions,
        done: Forwarded,
    ) -> Result<Option<Step>, Failure> {
        let leaving = self.leaving(at);
        let bytes = self.row_bytes().checked_mul(leaving.count as usize);
        if bytes != Some(done.state.len()) {
            return Err(self.executor_failure());
        }
        if leaving.count == 0 {
            return Ok(None);
        }
        let (session, position) = (self.session(), leaving.first);
        Ok(Some(Step { session, epoch: 0, position, state: done.state }))
    }

    /// Returns a failure of a stage, as seen from here.
    pub(super) const fn failure(&self, stage: Option<u32>, reason: Reason) -> Failure {
        Failure { stage, by: Some(self.place), reason }
    }

    /// Returns the failure that this stage cannot go on.
    pub(super) const fn own_failure(&self, reason: Reason) -> Failure {
        self.failure(Some(self.place), reason)
    }

    /// Returns the failure that the executor answered something that was not asked.
    pub(super) const fn executor_failure(&self) -> Failure {
        self.own_failure(Reason::Refused(Refusal::ExecutorFailed))
    }

    /// Returns the failure that an invariant of this server's own program does not hold.
    pub(super) fn internal(&self, broken: Broken) -> Failure {
        self.own_failure(Reason::Refused(broken.into()))
    }

    /// Returns the failure that the stage before sent something that it must not send.
    pub(super) const fn blame_prev(&self, reason: Reason) -> Failure {
        self.failure(Some(self.prev_place), reason)
    }

    /// Signs what this stage computed, as a segment.
    pub(super) fn segment(&self, roots: Roots, key: &Keypair) -> Segment {
        let Roots { positions, input_root, layers, chain, deadline_unix_ms } = roots;
        let segment = Segment {
            session: self.session(),
            lease: self.run.lease,
            before: self.run.before,
            takeovers: Vec::new(),
            run_value: self.run.value,
            node: self.hop.node,
            first: self.hop.first,
            end: self.hop.end,
            first_position: self.run.first_position,
            positions,
            input_root,
            layers,
            chain,
            deadline_unix_ms,
            signature: Signature::NONE,
        };
        segment.signed(key)
    }

    /// Returns whether the executor's roots are those of this stage's layers.
    pub(super) fn fits(&self, layers: &[LayerRoots]) -> bool {
        is_of(&self.hop, layers)
    }

    /// Returns whether `segments` are those of the first `stages` stages of the route, each with as
    /// many roots as the stage has layers: then all of them fit a frame.
    pub(super) fn fit(&self, stages: usize, segments: &[Segment]) -> bool {
        let mut hops = self.lease.route.iter().zip(segments);
        segments.len() == stages && hops.all(|(hop, segment)| is_of(hop, &segment.layers))
    }
}

/// Returns whether a hop has as many layers as there are roots.
fn is_of(hop: &Hop, layers: &[LayerRoots]) -> bool {
    u32::try_from(layers.len()) == Ok(hop.end.saturating_sub(hop.first))
}

/// The contents of a segment at a session's end.
#[derive(Debug)]
pub(super) struct Roots {
    pub(super) positions: u32,
    pub(super) input_root: Digest,
    pub(super) layers: Vec<LayerRoots>,
    pub(super) chain: Digest,
    pub(super) deadline_unix_ms: u64,
}
