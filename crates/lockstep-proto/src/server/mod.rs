//! The machine of a server process: all its sessions, whatever its stage in each.
//!
//! Inputs are frames, lost links, the executor's answers and time; outputs are frames, jobs and
//! events. A session comes with a frame of a client (then this server is stage 0 of it) or of the
//! stage before, and ends once: it finishes and is kept for challenges, or it fails and everybody
//! whom its lease names is told. Frames of a session count only from the neighbour that the lease
//! names. Every wait has a deadline.
//!
//! | module | what it has |
//! |---|---|
//! | `holding`, `quota` | what this server serves, how much, and how much of it for one peer |
//! | `open` | what begins: sessions, challenges, questions |
//! | `admit`, `waiting` | which requests get a place, which wait for one, and for how long |
//! | `seat` | a stage's place in a session |
//! | `flight` | the steps between their arrival and their signed marks |
//! | `head`, `session` | what stage 0 does beside; what every stage does |
//! | `effect` | what a session wants of the server |
//! | `ring` | frames of neighbours, results of jobs, and what sessions make of them |
//! | `control`, `ended` | how sessions end, and everything that is due because of the time |
//! | `retained` | finished sessions and their challenges |
//! | `tally` | the counters of what it has done |
//! | `links`, `guests` | which links are alive, and which clients ask nothing |

mod admit;
mod control;
mod effect;
mod ended;
mod flight;
mod guests;
mod head;
mod holding;
mod links;
mod open;
mod quota;
mod retained;
mod ring;
mod seat;
mod session;
mod tally;
mod waiting;

use std::collections::{BTreeMap, VecDeque};

use lockstep_exact::digest::Digest;
use lockstep_exact::invariant::Broken;
use lockstep_verify::secret::Secret;
use lockstep_verify::sign::{Keypair, NodeId};

pub use holding::{Capacity, Holding};
pub use tally::{Counters, Figures, JobKind, Refused};

use crate::announcement::{Announcement, Announcer, Neighbour, Speed, State, Status, Tag};
use crate::failure::{Failure, Reason, Refusal};
use crate::fair::Weight;
use crate::frame::{Frame as _, RingFrame, ToClient};
use crate::job::{Done, Job};
use crate::limits;
use crate::now::Now;
use crate::schedule::Scheduler;
use crate::swarm::gossip::lease_ms;
use ended::Ended;
use guests::Guests;
use links::{End, Links};
use quota::{Held, Owner};
use retained::{Asked, Retained};
use session::Session;
use tally::Tally;
use waiting::{Pace, Waiting};

/// A client's connection, numbered by the driver and never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkId(pub u64);

/// An input of the machine: what its driver tells it.
#[derive(Debug)]
pub enum Input {
    /// A frame's body came on a client's connection.
    ClientFrame {
        /// The number of the connection.
        link: LinkId,
        /// The node that the transport authenticated.
        peer: NodeId,
        /// The body of the frame: what follows the length.
        body: Vec<u8>,
    },
    /// A client's connection closed, or its queue of outgoing bytes is full.
    ClientLost(LinkId),
    /// A frame's body came from a stage. Frames of one node come in the order they were sent.
    PeerFrame {
        /// The node that the transport authenticated.
        node: NodeId,
        /// What follows the length.
        body: Vec<u8>,
    },
    /// The connection to a stage closed or could not be opened.
    PeerLost(NodeId),
    /// The executor has run a job.
    Ran {
        /// The number of the job.
        job: u64,
        /// The answers, one for each item.
        done: Vec<Done>,
    },
    /// The time of the deadline has come.
    Tick,
}

/// An output of the machine: what its driver has to do.
#[derive(Debug)]
pub enum Output {
    /// Tell the swarm this announcement, which replaces the one before.
    Announce(Box<Announcement>),
    /// Close a client's connection: it sent what no client sends.
    CloseClient(LinkId),
    /// Close the connections to a node, behind everything sent to it before: it sent what no stage
    /// sends, or it was silent and no session uses them any more. What comes next for the node goes
    /// over a new connection.
    ClosePeer {
        /// The node id of the stage.
        node: NodeId,
        /// The reason: what was wrong with it.
        why: Reason,
    },
    /// Log this event and count it.
    Event(Event),
    /// Run a job and bring [`Input::Ran`].
    Run(Job),
    /// Send the bytes `wire` to a client.
    ToClient {
        /// The number of the connection.
        link: LinkId,
        /// The bytes to send: length and body.
        wire: Vec<u8>,
    },
    /// Send bytes to a stage behind everything sent to it before.
    ToPeer {
        /// The node id of the stage.
        node: NodeId,
        /// The address at which the stage may be dialled if it is not connected, in the transport's
        /// text form. Nobody has proved that it is there: only the lease says so, whose sender has
        /// paid for the dial with the length of its frame.
        address: Option<String>,
        /// Length and body.
        wire: Vec<u8>,
    },
}

/// An event, for logs and counters. It never holds tokens or prompts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An invariant of this server's own program does not hold: a frame could not be sent. Nothing
    /// that a peer does causes it; a session that lacks the frame ends at its deadline.
    Broken(Broken),
    /// A session ended before its answer did.
    Ended {
        /// The name of the session.
        session: Digest,
        /// The failure with which it ended.
        failure: Failure,
    },
    /// A session closed and is kept for challenges.
    Finished {
        /// The name of the session.
        session: Digest,
    },
    /// A session was opened here.
    Opened {
        /// The session.
        session: Digest,
        /// The place of this server in its route.
        place: usize,
    },
    /// A session or a challenge was refused.
    Refused {
        /// What was refused.
        what: Refused,
        /// The name of the session, or the digest of the challenge.
        about: Digest,
        /// The node that asked.
        node: NodeId,
        /// Why it was refused.
        refusal: Refusal,
    },
    /// A frame came from somebody who has no part in its session.
    Stranger {
        /// The session.
        session: Digest,
        /// The node that sent the frame.
        node: NodeId,
    },
}

/// The values that name this server's runs of sessions: none comes twice.
///
/// # Soundness
/// The secret must be drawn afresh each time that a server starts. A server that repeats a value
/// signs two runs as one, and is convicted by what it says in both.
#[derive(Clone)]
pub struct RunValues {
    secret: Secret,
    given: u64,
}

impl RunValues {
    /// Creates the values of a server that starts, from random bytes.
    #[must_use]
    pub const fn new(secret: Secret) -> Self {
        Self { secret, given: 0 }
    }

    /// Returns a value for a run of a session.
    fn next(&mut self, session: &Digest) -> Digest {
        self.given = self.given.saturating_add(1);
        let parts: [&[u8]; 3] = [self.secret.expose(), &self.given.to_le_bytes(), &session.0];
        Digest::derive("lockstep 2026 run value", &parts)
    }

    /// Returns the number by which this server tells a client apart from others, as long as it
    /// runs.
    fn label(&self, client: NodeId) -> u64 {
        let parts: [&[u8]; 2] = [self.secret.expose(), &client.0];
        let digest = Digest::derive("lockstep 2026 client label", &parts);
        // A digest has that many bytes.
        digest.0.first_chunk::<8>().map_or(0, |first| u64::from_le_bytes(*first))
    }
}

impl core::fmt::Debug for RunValues {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "RunValues({} given)", self.given)
    }
}

/// Work that waits until everything urgent is out.
#[derive(Debug)]
enum Due {
    Answer { asked: Asked, body: Vec<u8> },
    Session(Digest),
}

/// The machine of a server process.
///
/// It is driven as every [`Machine`](crate::machine::Machine): [`Server::poll`] until there is
/// nothing, then wait until something comes or [`Server::deadline`], then [`Server::handle`]. Only
/// [`Output::Run`] is answered later, with [`Input::Ran`]; everything else is done when it was
/// polled. Frames to one node must leave in the order in which they were polled, and frames of one
/// node must be handed in in the order in which it sent them.
///
/// To leave, call [`Server::drain`] and go on until [`Server::is_drained`].
#[derive(Debug)]
pub struct Server {
    key: Keypair,
    holding: Holding,
    capacity: Capacity,
    runs: RunValues,
    /// The weights of clients that have another one than most.
    weights: BTreeMap<NodeId, Weight>,
    announcer: Announcer,
    /// When the swarm is told the next announcement; none if this server is in no swarm.
    announce_at: Option<Now>,
    now: Now,
    /// When sessions that are still under way end: this server is about to leave.
    leaving: Option<Now>,
    /// When a session last finished or was challenged.
    last_proof: Now,
    /// Sessions that are over and whose pages the executor has not freed yet: whose they were, and
    /// what they hold.
    dropping: BTreeMap<Digest, (Owner, Held)>,
    sessions: BTreeMap<Digest, Session>,
    retained: Retained,
    ended: Ended,
    guests: Guests,
    links: Links,
    /// Requests that wait for a place.
    waiting: Waiting,
    pace: Pace,
    scheduler: Scheduler,
    tally: Tally,
    /// When the oldest job at the executor must have run.
    job_deadline: Option<Now>,
    /// A job was not done in time and is still under way.
    stuck: bool,
    out: VecDeque<Output>,
    due: VecDeque<Due>,
}

impl Server {
    /// Creates a server without sessions, which signs with `key`, serves what `holding` says, takes
    /// on as much as `capacity` allows and names its runs by `runs`.
    #[must_use]
    pub fn new(key: Keypair, holding: Holding, capacity: Capacity, runs: RunValues) -> Self {
        Self {
            key,
            holding,
            capacity,
            runs,
            weights: BTreeMap::new(),
            announcer: Announcer::default(),
            announce_at: None,
            now: Now::default(),
            leaving: None,
            last_proof: Now::default(),
            dropping: BTreeMap::new(),
            sessions: BTreeMap::new(),
            retained: Retained::default(),
            ended: Ended::default(),
            guests: Guests::default(),
            links: Links::default(),
            waiting: Waiting::default(),
            pace: Pace::default(),
            scheduler: Scheduler::new(capacity.batch_positions),
            tally: Tally::default(),
            job_deadline: None,
            stuck: false,
            out: VecDeque::new(),
            due: VecDeque::new(),
        }
    }

    /// Gives a client's work this weight beside that of others, at all stages of the rings whose
    /// stage 0 is here, from its next session on.
    pub fn weigh(&mut self, client: NodeId, weight: Weight) {
        self.weights.insert(client, weight);
    }

    /// Says where this server can be reached, comma-separated in the transport's text form: its
    /// announcements carry it from now on. Addresses that do not fit are left out.
    pub fn reachable_at(&mut self, address: &str) {
        self.announcer.reachable_at(address);
    }

    /// Announces from now on whether this server is joining: it is not to be used yet, because it
    /// has not been tried. It refuses nothing for it, so that it can be tried, and is ready when
    /// the first session that went over it has finished.
    pub const fn joining(&mut self, is_joining: bool) {
        self.announcer.is_joining = is_joining;
    }

    /// Announces from now on how fast this server computes.
    pub const fn measured(&mut self, speed: Speed) {
        self.announcer.speed = speed;
    }

    /// Announces from now on the measured links of this server to other nodes. Of more than
    /// [`limits::NEIGHBOURS`] those with the shortest round trips are announced.
    pub fn linked_to(&mut self, neighbours: Vec<Neighbour>) {
        self.announcer.linked_to(self.key.id(), neighbours);
    }

    /// Announces from now on these words about this server, at most [`limits::TAGS`] of them.
    pub fn tagged(&mut self, tags: Vec<Tag>) {
        self.announcer.tagged(tags);
    }

    /// Announces from now on the version of the program: `software` as far as it is printable ASCII
    /// and fits [`limits::SOFTWARE_BYTES`].
    pub fn runs(&mut self, software: &str) {
        self.announcer.runs(software);
    }

    /// Announces this server from now on to a swarm of this many other nodes, again and again: the
    /// larger the swarm, the more rarely, and the longer each announcement is true.
    pub fn swarm_has(&mut self, nodes: usize) {
        self.announcer.lease_ms = lease_ms(nodes);
        let now = self.now;
        self.announce_at.get_or_insert(now);
    }

    /// Signs that this server has left: its last announcement.
    pub fn leave(&mut self, now: Now) -> Announcement {
        self.announce_at = None;
        let status = Status { state: State::Left, ..self.status() };
        self.sign(now, status)
    }

    /// Signs what this server is now: for who tells others of it before the machine is driven.
    pub fn announcement(&mut self, now: Now) -> Announcement {
        let status = self.status();
        self.sign(now, status)
    }

    fn sign(&mut self, now: Now, status: Status) -> Announcement {
        self.now = self.now.max(now);
        self.announcer.announce(status, self.now, &self.key)
    }

    /// Tells the swarm this server's announcement, if it is time.
    fn announce(&mut self) {
        if self.announce_at.is_some_and(|at| at <= self.now) {
            let every_us = self.announcer.lease_ms.saturating_mul(1000) / limits::RENEWALS;
            self.announce_at = Some(self.now.after(every_us));
            let announcement = self.announcement(self.now);
            self.out.push_back(Output::Announce(Box::new(announcement)));
        }
    }

    /// Takes an input at the time `now`. An earlier time than that of the last call counts as that.
    pub fn handle(&mut self, now: Now, input: Input) {
        self.now = self.now.max(now);
        self.links.wake(self.now);
        self.tally.comes(&input, self.now, self.scheduler.queue_depth());
        match input {
            Input::ClientFrame { link, peer, body } => self.on_client_frame(link, peer, &body),
            Input::ClientLost(link) => self.on_client_lost(link),
            Input::PeerFrame { node, body } => self.on_peer_frame(node, &body),
            Input::PeerLost(node) => self.on_peer_lost(node),
            Input::Ran { job, done } => self.on_ran(job, done),
            Input::Tick => {}
        }
        self.on_time();
        self.admit_waiting();
        self.announce();
    }

    /// Returns the next output, or `None` when the server waits for an input. Frames come first,
    /// then the next job, and only then what costs signatures, so that neither a state nor the
    /// executor waits for one.
    pub fn poll(&mut self) -> Option<Output> {
        let output = self.next_output()?;
        self.tally.goes(&output, self.now);
        Some(output)
    }

    fn next_output(&mut self) -> Option<Output> {
        loop {
            if let Some(output) = self.out.pop_front() {
                return Some(output);
            }
            if let Some(job) = self.next_job() {
                return Some(Output::Run(job));
            }
            match self.due.pop_front()? {
                Due::Answer { asked, body } => self.sign_opening(&asked, body),
                Due::Session(session) => self.settle(session),
            }
        }
    }

    /// Returns the time at which [`Input::Tick`] must come, if nothing else does.
    #[must_use]
    pub fn deadline(&self) -> Option<Now> {
        let sessions = self.sessions.values().map(Session::deadline).min();
        let all = [
            self.links.deadline(),
            self.guests.deadline(),
            self.retained.deadline(None),
            self.waiting.deadline(),
            self.job_deadline,
            self.announce_at,
            sessions,
            self.leaving.filter(|until| self.now < *until),
            self.leaving.map(|_| self.last_challenge()).filter(|last| self.now < *last),
        ];
        all.into_iter().flatten().min()
    }

    /// Returns the number of requests that wait for a place.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Returns the number of sessions under way.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Returns the number of finished sessions that can be challenged.
    #[must_use]
    pub fn retained(&self) -> usize {
        self.retained.len()
    }

    /// Returns whether the executor holds nothing, as far as this machine knows.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        self.sessions.is_empty()
            && self.waiting.is_empty()
            && self.retained.len() == 0
            && self.scheduler.queue_depth() == 0
            && self.scheduler.running() == 0
    }

    /// Takes no new sessions from now on; those under way have [`limits::DRAIN_US`] to finish.
    pub fn drain(&mut self, now: Now) {
        self.now = self.now.max(now);
        let until = self.now.after(limits::DRAIN_US);
        self.leaving.get_or_insert(until);
        // At once, so that nobody asks for new sessions.
        let now = self.now;
        self.announce_at = self.announce_at.map(|_| now);
        self.refuse_waiting(Refusal::Draining);
    }

    /// Returns whether this server may leave: sessions have finished and been challenged, or their
    /// time is up.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        let Some(until) = self.leaving else {
            return false;
        };
        let is_done = self.sessions.is_empty() && self.last_challenge() <= self.now;
        (is_done && self.scheduler.running() == 0) || until <= self.now
    }

    /// Returns the time after which nobody is expected to challenge a session any more, for a
    /// server that leaves.
    fn last_challenge(&self) -> Now {
        let was_used = self.last_proof > Now::default();
        if was_used { self.last_proof.after(limits::LAST_CHALLENGE_US) } else { Now::default() }
    }

    /// Pages of keys and values that new sessions may take.
    fn kv_pages_free(&self) -> u64 {
        let running = self.sessions.values().map(|session| session.seat.kv_pages());
        let taken = running.chain(self.dropping.values().map(|(_, held)| held.pages));
        let taken = taken.fold(0, u64::saturating_add);
        u64::from(self.capacity.kv_pages).saturating_sub(taken)
    }

    /// Returns what each session holds of the server, and on whose account.
    fn held(&self) -> impl Iterator<Item = (Owner, Held)> {
        let running = self.sessions.values();
        running
            .map(|session| (Owner::of(session.holder, &session.seat), Held::of_session(session)))
            .chain(self.dropping.values().copied())
            .chain(self.retained.held())
    }

    fn tell(&mut self, link: LinkId, frame: &ToClient) {
        self.links.spoken(End::Client(link), self.now);
        self.out.push_back(match frame.to_wire() {
            Ok(wire) => Output::ToClient { link, wire },
            Err(_) => Output::Event(Event::Broken(Broken::new("a client's frame is too long"))),
        });
    }

    fn send(&mut self, node: NodeId, frame: &RingFrame) {
        self.send_to(node, None, frame);
    }

    /// Sends a frame to a node that may be dialled for it.
    fn send_to(&mut self, node: NodeId, address: Option<String>, frame: &RingFrame) {
        self.links.spoken(End::Stage(node), self.now);
        self.out.push_back(match frame.to_wire() {
            Ok(wire) => Output::ToPeer { node, address, wire },
            Err(_) => Output::Event(Event::Broken(Broken::new("a stage's frame is too long"))),
        });
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Arc;

    use lockstep_verify::price::Prices;

    use super::*;
    use crate::frame::Step;
    use crate::model::Model;

    const NODE: NodeId = NodeId([7; 32]);

    fn server() -> Server {
        let key = Keypair::from_secret(&[1; 32]);
        let model = Model {
            manifest: Digest::ZERO,
            layers: 1,
            hidden: 32,
            vocabulary: 1,
            context: 1,
            end_tokens: Vec::new(),
            prices: Arc::new(Prices { layers: Vec::new(), head_cell: 1, state_row: 68 }),
        };
        let holding = Holding { model, span: 0..1, head: None };
        Server::new(key, holding, Capacity::default(), RunValues::new(Secret::of(&[2; 32])))
    }

    #[test]
    fn a_frame_that_is_above_its_limit_is_told_as_a_broken_invariant_and_never_sent() {
        let mut server = server();
        let state = vec![0; limits::RING_BYTES];
        let step = Step { session: Digest::ZERO, epoch: 0, position: 0, state };
        let sent = catch_unwind(AssertUnwindSafe(|| {
            server.send(NODE, &RingFrame::Step(step));
            server.poll()
        }));
        assert_eq!(sent.is_err(), cfg!(debug_assertions), "it is loud only where it is tested");
        if let Ok(output) = sent {
            assert!(matches!(output, Some(Output::Event(Event::Broken(_)))), "{output:?}");
        }
        assert!(server.poll().is_none(), "nothing is sent in its place");
        // What fits goes on.
        let failure = Failure { stage: None, by: None, reason: Reason::Refused(Refusal::Busy) };
        server.send(NODE, &RingFrame::Abort { session: Digest::ZERO, failure });
        assert!(matches!(server.poll(), Some(Output::ToPeer { node: NODE, .. })));
    }
}
