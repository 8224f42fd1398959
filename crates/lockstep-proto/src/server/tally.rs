//! The counters of a server: what it has done since it started.
//!
//! They are kept where inputs come in and outputs go out ([`Server::handle`], [`Server::poll`]), so
//! that no part of the server has to think of them. There are bounded numbers of them: reasons are
//! those of an enum, and only the neighbours that were used last have counters of their own.

use std::collections::{BTreeMap, VecDeque};

use lockstep_verify::sign::NodeId;

use super::{Event, Input, Output, Server};
use crate::announcement::Status;
use crate::counters::{Times, Traffic};
use crate::failure::{Reason, Refusal};
use crate::job::Job;
use crate::limits;
use crate::now::Now;
use crate::schedule::{Class, rows};

/// The kind of a job, by its items: it decides how long the job takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum JobKind {
    /// Allocations and ends of sessions alone.
    Control,
    /// Decode steps and heads: one position of each session.
    Decode,
    /// Decode steps, and chunks of prompts beside them.
    Mixed,
    /// An answer to a challenge, or a slice of one.
    Opening,
    /// Chunks of prompts alone.
    Prompt,
}

impl JobKind {
    fn of(job: &Job) -> Self {
        let has = |class| job.items.iter().any(|item| Class::of(&item.work) == class);
        match (has(Class::Opening), has(Class::Prefill), has(Class::Decode)) {
            (true, _, _) => Self::Opening,
            (false, true, true) => Self::Mixed,
            (false, true, false) => Self::Prompt,
            (false, false, true) => Self::Decode,
            (false, false, false) => Self::Control,
        }
    }
}

/// The kind of a thing that a server has refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refused {
    /// A challenge to a finished session.
    Challenge,
    /// A session, at whatever stage.
    Session,
}

/// The counters of a server, from its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// The number of sessions that were opened here as stage 0, for a client.
    pub opened_first: u64,
    /// The number of sessions that were opened here as any other stage.
    pub opened_other: u64,
    /// The number of sessions that closed and are or were kept for challenges.
    pub finished: u64,
    /// The number of sessions that ended before their answer did, by the reason.
    pub ended: BTreeMap<Reason, u64>,
    /// The number of sessions and challenges that were refused, by the reason.
    pub refused: BTreeMap<(Refused, Refusal), u64>,
    /// The number of frames that came from nodes which have no part in the frame's session.
    pub strangers: u64,
    /// The number of challenges that were answered with an opening.
    pub answered: u64,
    /// The bytes of those openings.
    pub opening_bytes: u64,
    /// The number of tokens that clients were told.
    pub tokens: u64,
    /// The time from a session's request to its first token, at stage 0.
    pub first_token: Times,
    /// The time from one token of a session to the next, at stage 0.
    pub next_token: Times,
    /// The time for which the executor computed each job, by the kind of the job.
    pub jobs: BTreeMap<JobKind, Times>,
    /// The number of decode positions that were computed, the head's among them.
    pub decode_positions: u64,
    /// The number of positions of prompts that were computed.
    pub prompt_positions: u64,
    /// The number of items that the executor was given.
    pub items: u64,
    /// The microseconds for which items waited before that, all of them together.
    pub waited_us: u64,
    /// The frames to and from clients.
    pub clients: Traffic,
    /// The frames to and from each of the neighbours that were used last, at most
    /// [`limits::COUNTED_HOPS`].
    pub hops: BTreeMap<NodeId, Traffic>,
    /// The frames to and from all nodes that had counters of their own before.
    pub other_hops: Traffic,
}

/// The figures of a server at one moment: what it announces, holds and has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figures {
    /// The status that it announces.
    pub status: Status,
    /// The counters since its start.
    pub counters: Counters,
    /// The KV pages that it has for sessions, 256 positions of one layer each.
    pub kv_pages: u32,
    /// The number of finished sessions that are kept for challenges.
    pub retained: usize,
    /// The bytes that are kept, or have been promised to be kept, for challenges.
    pub kept_bytes: u64,
    /// The number of jobs at the executor.
    pub running: usize,
    /// The number of requests that wait for a place.
    pub waiting: usize,
}

/// A job at the executor.
#[derive(Debug)]
struct Given {
    job: u64,
    kind: JobKind,
    at: Now,
}

/// Keeps the counters of a server.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) counters: Counters,
    /// The jobs at the executor, in the order in which it runs them.
    given: VecDeque<Given>,
    /// When the executor last finished a job.
    ran: Now,
    /// When the waiting items were counted last; none before the first input.
    waited: Option<Now>,
    /// When each neighbour with counters of its own was last sent something or heard.
    used: BTreeMap<NodeId, Now>,
}

fn one_more<K: Ord>(counts: &mut BTreeMap<K, u64>, key: K) {
    let count = counts.entry(key).or_default();
    *count = count.saturating_add(1);
}

impl Tally {
    /// Counts an input that comes at a time when `waiting` items wait for the executor.
    pub(super) fn comes(&mut self, input: &Input, now: Now, waiting: usize) {
        let since = self.waited.replace(now).map_or(0, |last| now.since(last));
        let waited = since.saturating_mul(waiting as u64);
        self.counters.waited_us = self.counters.waited_us.saturating_add(waited);
        match input {
            Input::ClientFrame { body, .. } => self.counters.clients.received(body),
            Input::PeerFrame { node, body } => self.hop(*node, now).received(body),
            Input::Ran { job, .. } => self.ran(*job, now),
            Input::ClientLost(_) | Input::PeerLost(_) | Input::Tick => {}
        }
    }

    /// Counts an output that is given to the driver.
    pub(super) fn goes(&mut self, output: &Output, now: Now) {
        match output {
            Output::ToClient { wire, .. } => self.counters.clients.sent(wire),
            Output::ToPeer { node, wire, .. } => self.hop(*node, now).sent(wire),
            Output::Run(job) => self.given(job, now),
            Output::Event(event) => self.event(event),
            Output::Announce(_) | Output::CloseClient(_) | Output::ClosePeer { .. } => {}
        }
    }

    fn event(&mut self, event: &Event) {
        let counters = &mut self.counters;
        let count = match event {
            Event::Ended { failure, .. } => {
                // Whatever time it names, it is the same reason.
                let reason = failure.reason.refusal().map_or(failure.reason, Reason::Refused);
                return one_more(&mut counters.ended, reason);
            }
            Event::Refused { what, refusal, .. } => {
                return one_more(&mut counters.refused, (*what, *refusal));
            }
            Event::Broken(_) => return,
            Event::Finished { .. } => &mut counters.finished,
            Event::Opened { place: 0, .. } => &mut counters.opened_first,
            Event::Opened { .. } => &mut counters.opened_other,
            Event::Stranger { .. } => &mut counters.strangers,
        };
        *count = count.saturating_add(1);
    }

    fn given(&mut self, job: &Job, now: Now) {
        let counters = &mut self.counters;
        counters.items = counters.items.saturating_add(job.items.len() as u64);
        for item in &job.items {
            let positions = match Class::of(&item.work) {
                Class::Decode => &mut counters.decode_positions,
                Class::Prefill => &mut counters.prompt_positions,
                Class::Control | Class::Opening => continue,
            };
            *positions = positions.saturating_add(rows(&item.work) as u64);
        }
        self.given.push_back(Given { job: job.id, kind: JobKind::of(job), at: now });
    }

    fn ran(&mut self, job: u64, now: Now) {
        // Nobody else's numbers count, as in the scheduler.
        if let Some(given) = self.given.pop_front_if(|given| given.job == job) {
            // A job behind another one begins when that has run.
            let began = given.at.max(self.ran);
            self.counters.jobs.entry(given.kind).or_default().took(now.since(began));
            self.ran = now;
        }
    }

    /// Counts an opening of `bytes` bytes that answers a challenge.
    pub(super) fn answered(&mut self, bytes: usize) {
        self.counters.answered = self.counters.answered.saturating_add(1);
        self.counters.opening_bytes = self.counters.opening_bytes.saturating_add(bytes as u64);
    }

    /// Counts a token that a client is told at the time `now`, of a session that was opened at
    /// `opened` and had its last token, if it had one, at `last`.
    pub(super) fn token(&mut self, (opened, last): (Now, Option<Now>), now: Now) {
        self.counters.tokens = self.counters.tokens.saturating_add(1);
        match last {
            None => self.counters.first_token.took(now.since(opened)),
            Some(last) => self.counters.next_token.took(now.since(last)),
        }
    }

    /// Returns the counters of a neighbour. When there are too many, the one that was not used for
    /// the longest time is counted with the others from then on.
    fn hop(&mut self, node: NodeId, now: Now) -> &mut Traffic {
        if !self.used.contains_key(&node) && self.used.len() >= limits::COUNTED_HOPS {
            let oldest = self.used.iter().min_by_key(|(_, used)| **used).map(|(node, _)| *node);
            if let Some(oldest) = oldest {
                self.used.remove(&oldest);
                let counted = self.counters.hops.remove(&oldest);
                // default: nothing was counted of it
                let counted = counted.unwrap_or_default();
                self.counters.other_hops = self.counters.other_hops.plus(counted);
            }
        }
        self.used.insert(node, now);
        self.counters.hops.entry(node).or_default()
    }
}

impl Server {
    /// Returns what this server is now, and its counters.
    #[must_use]
    pub fn figures(&self) -> Figures {
        Figures {
            status: self.status(),
            counters: self.tally.counters.clone(),
            kv_pages: self.capacity.kv_pages,
            retained: self.retained(),
            kept_bytes: self.held().fold(0, |sum, (_, held)| sum.saturating_add(held.kept_bytes)),
            running: self.scheduler.running(),
            waiting: self.waiting.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use lockstep_exact::digest::Digest;

    use super::*;
    use crate::job::{Item, Work};

    fn node(number: u64) -> NodeId {
        NodeId(Digest::derive("tally", &[&number.to_le_bytes()]).0)
    }

    fn frame(number: u64) -> Input {
        Input::PeerFrame { node: node(number), body: vec![0; 6] }
    }

    #[test]
    fn of_too_many_neighbours_the_latest_have_their_own_counters_and_no_frame_is_lost() {
        let mut tally = Tally::default();
        let most = limits::COUNTED_HOPS as u64;
        for number in 0..most + 5 {
            tally.comes(&frame(number), Now(number), 0);
            tally.comes(&frame(7), Now(number), 0);
        }
        let counters = &tally.counters;
        assert_eq!(counters.hops.len(), limits::COUNTED_HOPS);
        assert!(counters.hops.contains_key(&node(7)) && !counters.hops.contains_key(&node(0)));
        let all = counters.hops.values().fold(counters.other_hops, |sum, one| sum.plus(*one));
        assert_eq!((all.received_frames, all.received_bytes), (2 * most + 10, 20 * most + 100));
    }

    #[test]
    fn a_job_behind_another_is_computed_from_the_others_end_and_items_wait_together() {
        let mut tally = Tally::default();
        let job =
            |id, work| Output::Run(Job { id, items: vec![Item { session: Digest::ZERO, work }] });
        let ran = |job| Input::Ran { job, done: Vec::new() };
        tally.comes(&Input::Tick, Now(1_000), 0);
        tally.goes(&job(0, Work::Tokens { position: 0, ids: vec![1, 2, 3] }), Now(1_000));
        tally.goes(&job(1, Work::Tokens { position: 3, ids: vec![4] }), Now(2_000));
        tally.comes(&ran(0), Now(11_000), 2);
        tally.comes(&ran(9), Now(12_000), 2);
        tally.comes(&ran(1), Now(14_000), 1);
        let counters = &tally.counters;
        assert_eq!(counters.jobs[&JobKind::Prompt].sum_us, 10_000);
        assert_eq!(counters.jobs[&JobKind::Decode].sum_us, 3_000);
        assert_eq!(counters.waited_us, 2 * 10_000 + 2 * 1_000 + 2_000);
        assert_eq!((counters.prompt_positions, counters.decode_positions), (3, 1));
        assert_eq!(counters.items, 2);
    }

    #[test]
    fn the_first_token_counts_from_the_request_and_others_from_the_one_before() {
        let mut tally = Tally::default();
        tally.token((Now(1_000), None), Now(5_000));
        tally.token((Now(1_000), Some(Now(5_000))), Now(7_000));
        assert_eq!(tally.counters.first_token.sum_us, 4_000);
        assert_eq!(tally.counters.next_token.sum_us, 2_000);
        assert_eq!(tally.counters.tokens, 2);
    }
}
