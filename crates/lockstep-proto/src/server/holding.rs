//! What a server holds and how much it takes on, and which requests and leases fit that.

use core::ops::Range;
use std::sync::Arc;

use lockstep_exact::vocabulary::Vocabulary;
use lockstep_verify::request::{Hop, Lease, Request};
use lockstep_verify::sign::NodeId;

use crate::failure::Refusal;
use crate::limits;
use crate::model::Model;

/// The part of a model that a server serves.
#[derive(Clone, Debug)]
pub struct Holding {
    /// The model that the server serves.
    pub model: Model,
    /// The range of layers that it holds.
    pub span: Range<u32>,
    /// The bytes of every token, at a server that holds embedding and head.
    pub head: Option<Arc<Vocabulary>>,
}

impl Holding {
    /// Checks that a lease's route holds every layer once and has this server in the right place,
    /// and returns that place.
    ///
    /// # Errors
    /// The first thing that does not fit.
    pub(super) fn admit_lease(&self, lease: &Lease, node: NodeId) -> Result<usize, Refusal> {
        if lease.manifest != self.model.manifest {
            return Err(Refusal::WrongModel);
        }
        if !lease.adapters.is_empty() {
            return Err(Refusal::AdaptersUnsupported);
        }
        if lease.reuse.is_some() {
            return Err(Refusal::ReuseUnsupported);
        }
        if lease.epoch != 0 {
            return Err(Refusal::TakeoverUnsupported);
        }
        check_route(&lease.route, self.model.layers)?;
        if !lease.addresses.is_empty() && lease.addresses.len() != lease.route.len() {
            return Err(Refusal::RouteInvalid);
        }
        let place = lease.route.iter().position(|hop| hop.node == node);
        let place = place.ok_or(Refusal::NotInRoute)?;
        let hop = lease.route.get(place).ok_or(Refusal::NotInRoute)?;
        if hop.first < self.span.start || hop.end > self.span.end {
            return Err(Refusal::SpanNotHeld);
        }
        let positions = lease.prompt_len..=self.model.context;
        if lease.prompt_len == 0 || !positions.contains(&lease.max_positions) {
            return Err(Refusal::PromptLength);
        }
        lease.verify().map_err(|_| Refusal::BadSignature)?;
        Ok(place)
    }

    /// Checks that a request can be served, and that the lease is that of the request.
    ///
    /// # Errors
    /// The first thing that does not fit.
    pub(super) fn admit_request(&self, request: &Request, lease: &Lease) -> Result<(), Refusal> {
        if !request.adapters.is_empty() {
            return Err(Refusal::AdaptersUnsupported);
        }
        let needed = self.model.positions_needed(request).ok_or(Refusal::PromptLength)?;
        let fits = lease.session == request.session()
            && lease.manifest == request.manifest
            && lease.adapters == request.adapters
            && lease.session_key == request.session_key
            && u32::try_from(request.prompt.len()) == Ok(lease.prompt_len)
            && lease.max_positions >= needed;
        if !fits {
            return Err(Refusal::LeaseMismatch);
        }
        let known = request.prompt.iter().all(|&token| token < self.model.vocabulary);
        let stops = request.stops.max_tokens > 0;
        if !known || !stops || request.sampling.check(self.model.vocabulary).is_err() {
            return Err(Refusal::BadParameter);
        }
        Ok(())
    }
}

/// Checks that a route's spans follow each other over all layers, and that every node is in it
/// once.
fn check_route(route: &[Hop], layers: u32) -> Result<(), Refusal> {
    let mut next = 0;
    for (place, hop) in route.iter().enumerate() {
        let again = route.iter().take(place).any(|other| other.node == hop.node);
        if hop.first != next || hop.end <= hop.first || again {
            return Err(Refusal::RouteInvalid);
        }
        next = hop.end;
    }
    let tiles = next == layers && !route.is_empty() && route.len() <= limits::STAGES;
    if tiles { Ok(()) } else { Err(Refusal::RouteInvalid) }
}

/// The capacity of a server: how much it takes on.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// The most sessions at once that clients open here. Stages before bring at most
    /// [`limits::BROUGHT_PER_PLACE`] times as many beside them.
    pub sessions: usize,
    /// Sessions kept for challenges, those under way among them: what will have to be kept has its
    /// room from the start.
    pub retained: usize,
    /// For how long they are kept, in microseconds.
    pub retention_us: u64,
    /// Pages of keys and values that sessions may take together: 256 positions of one layer each.
    pub kv_pages: u32,
    /// Bytes of what is kept of sessions for challenges, those under way counted at their longest.
    pub kept_bytes: u64,
    /// Positions that the steps of one job compute together: the rows of one batch, of which decode
    /// steps have the first. With more, prompts of several sessions are read at once and every
    /// token waits longer for them; with fewer than a chunk and the decode steps, chunks take turns
    /// with decode steps. No answer depends on it.
    pub batch_positions: u32,
}

impl Default for Capacity {
    fn default() -> Self {
        Self {
            sessions: limits::SESSIONS,
            retained: limits::RETAINED_SESSIONS,
            retention_us: limits::RETENTION_US,
            kv_pages: u32::MAX,
            kept_bytes: limits::KEPT_BYTES,
            batch_positions: limits::BATCH_POSITIONS,
        }
    }
}
