//! The memory in which columns of finished sessions are computed again, and who waits for it.
//!
//! A rebuild begins when all that asked before it have begun and there is room for it. What was
//! computed stays, to be opened again, until another rebuild needs the room.

use std::collections::{BTreeMap, VecDeque};

use lockstep_exact::Digest;
use lockstep_exact::invariant::Broken;
use lockstep_exact::weights::Backend;
use lockstep_proto::failure::Refusal;

use super::session::Session;

/// The room, and the sessions whose challenges need it.
#[derive(Debug)]
pub(super) struct Rebuilds {
    /// In bytes.
    room: u64,
    /// Sessions with a challenge that is unfinished, in the order in which they came.
    queue: VecDeque<Digest>,
    /// Sessions whose columns are kept though no challenge waits for them, oldest first.
    idle: VecDeque<Digest>,
}

impl Rebuilds {
    /// Creates an empty queue of rebuilds, with `room` bytes for their columns.
    pub(super) const fn new(room: u64) -> Self {
        Self { room, queue: VecDeque::new(), idle: VecDeque::new() }
    }

    /// Returns the bytes that rebuilt columns may take.
    pub(super) const fn room(&self) -> u64 {
        self.room
    }

    /// Adds a session to the queue, unless it is there: a challenge of it needs columns that are
    /// not there.
    pub(super) fn join(&mut self, session: Digest) {
        self.idle.retain(|idle| *idle != session);
        if !self.queue.contains(&session) {
            self.queue.push_back(session);
        }
    }

    /// Takes a session out of the queue, none of whose challenges is unfinished any more; what was
    /// computed for it is kept.
    pub(super) fn leave(&mut self, session: Digest) {
        self.forget(session);
        self.idle.push_back(session);
    }

    /// Takes a session out of the queue and of those whose columns are kept.
    pub(super) fn forget(&mut self, session: Digest) {
        self.queue.retain(|waiting| *waiting != session);
        self.idle.retain(|idle| *idle != session);
    }

    /// Returns the session whose rebuild is next, in the turn of one that wants a layer: its own,
    /// which is begun if there is room for it, or the one that came first.
    ///
    /// # Errors
    /// [`Refusal`] of a session that can't begin.
    pub(super) fn next<O: Backend>(
        &mut self,
        session: Digest,
        layer: u32,
        sessions: &mut BTreeMap<Digest, Session<O>>,
    ) -> Result<Digest, Refusal> {
        let found = |name: &Digest| sessions.get(name);
        if found(&session).is_some_and(|session| session.rebuilds_layer(layer)) {
            return Ok(session);
        }
        let mut before = self.queue.iter().take_while(|waiting| **waiting != session);
        let waits = before.any(|name| found(name).is_some_and(|it| it.rebuilt_bytes() == 0));
        if waits || !self.make_room(session, sessions) {
            // The session itself has joined it.
            let first = self.queue.front().copied();
            return first.ok_or_else(|| Broken::new("nobody waits for a rebuild").into());
        }
        if let Some(found) = sessions.get_mut(&session) {
            found.begin_rebuild(layer)?;
        }
        Ok(session)
    }

    /// Frees what no challenge waits for until there is room for a session; says whether there is.
    fn make_room<O: Backend>(
        &mut self,
        session: Digest,
        sessions: &mut BTreeMap<Digest, Session<O>>,
    ) -> bool {
        let needed = sessions.get(&session).map_or(0, Session::rebuild_bytes);
        loop {
            let others = sessions.iter().filter(|(name, _)| **name != session);
            let taken = others.map(|(_, other)| other.rebuilt_bytes());
            if taken.fold(needed, u64::saturating_add) <= self.room {
                return true;
            }
            let Some(oldest) = self.idle.pop_front() else { return false };
            sessions.get_mut(&oldest).into_iter().for_each(Session::forget_rebuilt);
        }
    }
}
