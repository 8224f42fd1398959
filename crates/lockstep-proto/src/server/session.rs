//! A session at this server, whatever its role, and the table of all of them.

use std::collections::{BTreeSet, VecDeque};

use lockstep_exact::digest::Digest;
use lockstep_verify::sign::{Keypair, NodeId};

use super::head::Head;
use super::links::End;
use super::seat::{Effect, Seat};
use super::stage::Stage;
use crate::failure::{Failure, Reason, Refusal};
use crate::frame::RingFrame;
use crate::job::Outcome;
use crate::limits;
use crate::now::Now;

/// What this server does in a session.
#[derive(Debug)]
pub(super) enum Role {
    Head(Box<Head>),
    Stage(Box<Stage>),
}

/// A session under way.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) seat: Seat,
    /// Who brought it: the client, or the stage before.
    pub(super) holder: NodeId,
    role: Role,
    opened: Now,
    /// Whether the lease has come round, if it is to come round here.
    round: bool,
    /// When something last moved.
    touched: Now,
    /// The deadline that the segment names.
    pub(super) retain_until: Now,
}

impl Session {
    pub(super) fn new(seat: Seat, holder: NodeId, role: Role, now: Now) -> Self {
        let round = seat.place > 0 || seat.is_last();
        Self { seat, holder, role, opened: now, round, touched: now, retain_until: now }
    }

    /// Whether no step has come yet, at a stage after the first.
    pub(super) const fn is_half_open(&self) -> bool {
        match &self.role {
            Role::Head(_) => false,
            Role::Stage(stage) => !stage.has_begun(),
        }
    }

    /// The client's link, at stage 0.
    pub(super) fn client(&self) -> Option<super::LinkId> {
        match &self.role {
            Role::Head(head) => Some(head.client),
            Role::Stage(_) => None,
        }
    }

    /// The links that the session uses now. Only a stage that has something to do for the session
    /// can be heard of: not the last one, at stage 0, before the lease has come round; and no stage
    /// that has passed on the close. Whoever holds those up must not be mistaken for them.
    pub(super) fn ends(&self) -> BTreeSet<End> {
        let (uses_prev, uses_next) = match &self.role {
            Role::Head(head) => (self.round, !head.is_closing()),
            Role::Stage(stage) => (!stage.is_closing(), true),
        };
        let is_ring = self.seat.stages() > 1;
        let prev = (is_ring && uses_prev).then_some(End::Stage(self.seat.prev.node));
        let next = (is_ring && uses_next).then_some(End::Stage(self.seat.next.node));
        let client = self.client().map(End::Client);
        client.into_iter().chain(prev).chain(next).collect()
    }

    /// Whether frames of a node may end this session.
    pub(super) fn is_neighbour(&self, node: NodeId) -> bool {
        self.ends().contains(&End::Stage(node))
    }

    /// The place of a node in the route.
    pub(super) fn place_of(&self, node: NodeId) -> Option<usize> {
        self.seat.lease.route.iter().position(|hop| hop.node == node)
    }

    /// Starts what this stage starts by itself.
    pub(super) fn start(&mut self, out: &mut Vec<Effect>) {
        if let Role::Head(head) = &mut self.role {
            if self.seat.is_last() {
                head.tell_runs(&self.seat, vec![self.seat.run.id()], out);
            }
            head.feed(&self.seat, out);
        }
    }

    /// A frame came from the stage before.
    pub(super) fn on_frame(
        &mut self,
        frame: RingFrame,
        now: Now,
        key: &Keypair,
        out: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        self.touched = now;
        let seat = &self.seat;
        match (frame, &mut self.role) {
            (RingFrame::Lease { lease, runs }, Role::Head(head)) if !self.round => {
                if *lease != *seat.lease {
                    // Any stage of the ring may have changed it.
                    let changed = Reason::Refused(Refusal::LeaseMismatch);
                    return Err(seat.failure(None, changed));
                }
                head.on_round(seat, runs, out)?;
                self.round = true;
                Ok(())
            }
            (RingFrame::Lease { .. }, _) => Err(seat.blame_prev(Reason::BadFrame)),
            (RingFrame::Step(step), Role::Head(head)) => head.on_step(seat, &step, out),
            (RingFrame::Step(step), Role::Stage(stage)) => stage.on_step(seat, &step, out),
            (RingFrame::Marks { position, trail, .. }, Role::Head(head)) => {
                head.on_marks(seat, position, trail, out)
            }
            (RingFrame::Marks { position, trail, .. }, Role::Stage(stage)) => {
                stage.on_marks(seat, position, trail, out)
            }
            (RingFrame::Close { segments, .. }, Role::Head(head)) => {
                head.on_close(seat, segments, key, out)
            }
            (RingFrame::Close { segments, .. }, Role::Stage(stage)) => {
                stage.on_close(seat, segments, out)
            }
            (RingFrame::Abort { .. } | RingFrame::Heartbeat, _) => Ok(()),
        }
    }

    /// The executor answered.
    pub(super) fn on_outcome(
        &mut self,
        outcome: Outcome,
        now: Now,
        retention_us: u64,
        key: &Keypair,
        out: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        self.touched = now;
        self.retain_until = now.after(retention_us);
        let (seat, until) = (&self.seat, self.retain_until.unix_ms());
        match &mut self.role {
            Role::Head(head) => head.on_outcome(seat, outcome, until, key, out),
            Role::Stage(stage) => stage.on_outcome(seat, outcome, until, key, out),
        }
    }

    /// Does one thing that is due.
    pub(super) fn settle(&mut self, key: &Keypair, out: &mut Vec<Effect>) -> Result<(), Failure> {
        match &mut self.role {
            Role::Head(head) => head.settle(&self.seat, key, out),
            Role::Stage(stage) => stage.settle(&self.seat, key, out),
        }
    }

    /// When the session ends if nothing moves.
    pub(super) fn deadline(&self) -> Now {
        match &self.role {
            Role::Head(_) if !self.round => self.opened.after(limits::ROUND_US),
            Role::Head(_) => self.touched.after(limits::PROGRESS_US),
            Role::Stage(_) if self.is_half_open() => self.opened.after(limits::FIRST_STEP_US),
            Role::Stage(_) => self.touched.after(limits::IDLE_US),
        }
    }

    /// Why it ends at that deadline.
    pub(super) fn overdue(&self) -> Failure {
        self.seat.failure(
            None,
            match &self.role {
                Role::Head(_) if !self.round => Reason::HandshakeTimeout,
                Role::Head(_) => Reason::Stalled,
                Role::Stage(_) => Reason::Idle,
            },
        )
    }
}

/// Sessions that ended here not long ago: their late frames are no news.
#[derive(Debug, Default)]
pub(super) struct Ended {
    order: VecDeque<Digest>,
    known: BTreeSet<Digest>,
}

impl Ended {
    pub(super) fn insert(&mut self, session: Digest) {
        if self.known.insert(session) {
            self.order.push_back(session);
        }
        if self.order.len() > limits::ENDED_SESSIONS {
            self.order.pop_front().map(|oldest| self.known.remove(&oldest));
        }
    }

    pub(super) fn contains(&self, session: &Digest) -> bool {
        self.known.contains(session)
    }
}
