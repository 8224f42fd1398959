//! A ring of servers: found among peers, asked, and audited.
//!
//! A [`Ring`] knows no home folder and keeps nothing: [`crate::client::Client`] adds that. What it
//! tells are values: [`Answering`] gives the events of an answer, [`crate::audit::Audit`] those of
//! an audit.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use lockstep_exact::digest::Digest;
use lockstep_exact::manifest::Manifest;
use lockstep_exact::vocabulary::Vocabulary;
use lockstep_node::driver::{self, Asking, Clock, Contact, Links, Peers, StatusError};
use lockstep_node::transport::{NodeId, PeerAddr};
use lockstep_proto::announcement::{Announcement, Status};
use lockstep_proto::client::{Ask, Client, ClientError};
use lockstep_proto::failure::{Failure, Reason};
use lockstep_proto::model::Model as ProtocolModel;
use lockstep_proto::now::Now;
use lockstep_proto::swarm::chooser::Source;
use lockstep_proto::swarm::demand::Demand;
use lockstep_proto::swarm::route::{RouteError, fastest};
use lockstep_verify::bundle::Bundle;
use lockstep_verify::draw::{Extent, TooLong, check_length};
use lockstep_verify::receipt::Receipt;
use lockstep_verify::request::{AuditSeed, Hop, Request};
use lockstep_verify::sign::Keypair;

use crate::own::OwnSecret;
use crate::random::{self, NoRandomness};
use crate::request::Question;

/// The positions for which the servers of a ring must have room: the shortest session's, because
/// the ring is found before anything is asked of it.
const SHORTEST: u32 = 1;

/// The model that a ring is asked for.
#[derive(Clone, Debug)]
pub struct Served {
    /// The digest of the manifest, which names the model.
    pub id: Digest,
    /// The manifest, decoded and checked.
    pub manifest: Arc<Manifest>,
    /// The bytes that each token stands for.
    pub vocabulary: Arc<Vocabulary>,
}

/// The answers of peers that were asked what they serve.
#[derive(Debug, Default)]
pub struct Statuses {
    /// The peers that answered, with what they serve.
    pub contacts: Vec<Contact>,
    /// The reasons why the other peers did not answer.
    pub silent: Vec<StatusError>,
}

/// The most members of a swarm that are asked beside the peers of tickets.
const MEMBERS_ASKED: usize = 64;

/// The servers whose addresses a ring knows, at most, beside those that were met last.
const ADDRESSES: usize = 1024;

impl Statuses {
    /// Asks peers what they serve, all at once, and so the servers of their swarms that serve the
    /// model `id`: of more than can be asked those that are `preferred`, and others that are drawn,
    /// so that nobody's choice of node ids keeps anybody out. Members that do not answer are left
    /// out: their announcements end soon.
    pub async fn ask(
        links: &Links,
        peers: &[PeerAddr],
        id: Digest,
        preferred: impl Fn(NodeId) -> bool,
    ) -> Self {
        let clock = Clock::start();
        let asking = (Self::of(links, peers), driver::swarm(links, clock, peers));
        let (mut statuses, known) = tokio::join!(asking.0, asking.1);
        let is_new = |node: NodeId| {
            peers.iter().all(|peer| peer.id != node) && node != links.endpoint().id()
        };
        let members = known.iter().filter(|one| one.status.manifest == id);
        let mut members: Vec<_> = members.filter(|one| is_new(one.status.node)).collect();
        // Without random bytes nothing can be asked anyway.
        let drawn = random::seed().unwrap_or(0).to_le_bytes();
        members.sort_by_cached_key(|one| {
            let node = one.status.node;
            (!preferred(node), Digest::derive("lockstep 2026 who is asked", &[&drawn, &node.0]))
        });
        members.truncate(MEMBERS_ASKED);
        let place = |one: &Arc<Announcement>| driver::peer_of(one.status.node, &one.address);
        let members: Vec<PeerAddr> = members.into_iter().map(place).collect();
        statuses.contacts.extend(Self::of(links, &members).await.contacts);
        statuses
    }

    /// Returns what the servers that answered tell of themselves.
    #[must_use]
    pub fn told(&self) -> Vec<Status> {
        self.contacts.iter().map(|contact| contact.status.clone()).collect()
    }

    /// Asks peers what they serve, all at once.
    async fn of(links: &Links, peers: &[PeerAddr]) -> Self {
        let mut statuses = Self::default();
        for status in driver::statuses(links, peers).await {
            match status {
                Ok(contact) => statuses.contacts.push(contact),
                Err(error) => statuses.silent.push(error),
            }
        }
        statuses
    }
}

/// Returns what every request needs of servers, without those that are `avoided`.
pub(crate) fn demand(served: &Served, avoided: &BTreeSet<NodeId>) -> Demand {
    let model = ProtocolModel::from(&*served.manifest);
    Demand { banned: avoided.clone(), ..Demand::of(&model, SHORTEST) }
}

/// A ring of servers that hold every layer of one model, with the links to ask them.
#[derive(Clone, Debug)]
pub struct Ring {
    served: Served,
    links: Links,
    clock: Clock,
    peers: Peers,
    route: Vec<Hop>,
}

/// The reasons why a question was not sent.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The system gave no random bytes.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// There is no ring over servers that may be used.
    #[error(transparent)]
    NoRoute(RouteError),
    /// The route leads over a server of which no address is known: a fault of this program.
    #[error("a route over unknown peers")]
    NoServers,
    /// No server could serve the request.
    #[error(transparent)]
    Request(#[from] ClientError),
    /// The longest answer could not be audited as far as it is to be.
    #[error(transparent)]
    TooLong(#[from] TooLong),
}

/// Why an answer broke off: server 1 could not be reached, or the session failed.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct BrokenOff(#[from] pub driver::AskError);

impl BrokenOff {
    /// Returns whether it was [`Answering::cancel`] that ended it.
    #[must_use]
    pub const fn is_cancelled(&self) -> bool {
        matches!(
            self,
            Self(driver::AskError::Session(ClientError::Failed(Failure {
                reason: Reason::Cancelled,
                ..
            })))
        )
    }
}

impl BrokenOff {
    /// Returns the server of `ring` for which it broke off, if one is named, and who has named it:
    /// what server 1 says of others is its word alone.
    pub(crate) fn named(&self, ring: &[Hop]) -> Option<(NodeId, Source)> {
        let place = match &self.0 {
            driver::AskError::Session(error) => error.reported().or_else(|| error.stage())?,
            driver::AskError::Connect(_) => 0,
            driver::AskError::Silent => return None,
        };
        let hop = ring.get(usize::try_from(place).ok()?)?;
        let source = match ring.first() {
            Some(first) if first.node != hop.node => Source::Reported(first.node),
            _ => Source::Own,
        };
        Some((hop.node, source))
    }

    /// Returns whether the request may do better on another ring, if it has no token yet.
    pub(crate) const fn is_of_ring(&self) -> bool {
        match &self.0 {
            driver::AskError::Session(error) => error.is_of_ring(),
            driver::AskError::Connect(_) => true,
            driver::AskError::Silent => false,
        }
    }

    /// Returns in how many milliseconds it is worth asking again, if a server had no room: as it
    /// said itself.
    #[must_use]
    pub const fn retry_ms(&self) -> Option<u32> {
        match &self.0 {
            driver::AskError::Session(error) => error.retry_ms(),
            driver::AskError::Connect(_) | driver::AskError::Silent => None,
        }
    }
}

/// The server at which an answer broke off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blame<'r> {
    /// The index of the server in the ring, where 0 is server 1.
    pub place: usize,
    /// The server and the layers that it holds.
    pub hop: &'r Hop,
    /// A sentence that says what happened.
    pub reason: String,
    /// The place of the server that says so, if it is not this client that saw it. What servers say
    /// of each other is unsigned, and came through server 1's hands.
    pub by: Option<u32>,
}

/// Why a request takes another ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// The index in the ring of the server for which it failed, where 0 is server 1, and the
    /// server; `None` if nobody is named.
    pub server: Option<(usize, Hop)>,
    /// A sentence that says what happened.
    pub reason: String,
    /// The place of the server that says so, if it is not this client that saw it.
    pub by: Option<u32>,
}

/// An event of an answer in the making. [`Event::Finished`] or [`Event::Failed`] is the last one.
#[derive(Debug)]
pub enum Event {
    /// Server 1 has opened the session.
    Accepted,
    /// The answer broke off; tokens that came before it are no answer.
    Failed(BrokenOff),
    /// The answer broke off before its first token, and is asked for on another ring.
    Moved(Moved),
    /// The answer is complete, and signed by every server.
    Finished(Box<Answer>),
    /// Another token of the answer came.
    Token {
        /// Its place in the answer, from 0.
        index: u32,
        /// The id of the token.
        token: u32,
    },
}

/// An answer in the making: the caller awaits [`next`](Self::next) until the last event. Dropping
/// it breaks the answer off.
#[derive(Debug)]
pub struct Answering {
    asking: Asking,
    secrets: Option<(Keypair, AuditSeed)>,
    extent: Extent,
    first_token: Option<Duration>,
}

/// An answer, and what is needed to audit it.
#[derive(Debug)]
pub struct Answer {
    /// The receipt: request, tokens, and the roots that every server signed.
    pub receipt: Receipt,
    /// From sending the request to the first token.
    pub first_token: Duration,
    /// From the first token to the last.
    pub rest: Duration,
    pub(crate) session: Keypair,
    pub(crate) seed: AuditSeed,
    /// The extent of the audit that the request was checked for.
    pub(crate) extent: Extent,
}

impl Answer {
    /// Returns the servers that signed the answer, server 1 first.
    pub(crate) fn route(&self) -> Vec<Hop> {
        let segments = self.receipt.segments.iter();
        segments.map(|one| Hop { node: one.node, first: one.first, end: one.end }).collect()
    }

    /// Returns the nanoseconds from one token to the next, on average; `None` of a single token.
    pub(crate) fn token_ns(&self) -> Option<u64> {
        let steps = u128::try_from(self.receipt.answer.len()).ok()?.checked_sub(1)?;
        u64::try_from(self.rest.as_nanos().checked_div(steps)?).ok()
    }

    /// Returns the bundle of this answer, of which nothing has been opened.
    #[must_use]
    pub fn unopened(&self) -> Bundle {
        let (receipt, seed) = (self.receipt.clone(), self.seed.clone());
        Bundle { receipt, extent: self.extent, seed, exchanges: Vec::new() }
    }
}

impl Answering {
    /// Returns the next event; `None` after the last. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Event> {
        self.secrets.as_ref()?;
        let Some(event) = self.asking.next().await else {
            self.secrets = None;
            return Some(Event::Failed(driver::AskError::Silent.into()));
        };
        Some(match event {
            driver::Answer::Accepted => Event::Accepted,
            driver::Answer::Token { index, token, after } => {
                self.first_token.get_or_insert(after);
                Event::Token { index, token }
            }
            driver::Answer::Failed(error) => {
                self.secrets = None;
                Event::Failed(error.into())
            }
            driver::Answer::Finished { receipt, after } => {
                let (session, seed) = self.secrets.take()?;
                let (receipt, extent) = (*receipt, self.extent);
                let first_token = self.first_token.unwrap_or(after);
                let rest = after.saturating_sub(first_token);
                let answer = Answer { receipt, first_token, rest, session, seed, extent };
                Event::Finished(Box::new(answer))
            }
        })
    }

    /// Wants no more of it: [`Event::Failed`] follows, with [`BrokenOff::is_cancelled`], unless the
    /// answer has ended already. Said again it does nothing.
    pub fn cancel(&mut self) {
        self.asking.cancel();
    }

    /// Waits for the end of the answer, and returns it or the error with which it broke off.
    ///
    /// # Errors
    /// [`BrokenOff`].
    pub async fn finish(mut self) -> Result<Answer, BrokenOff> {
        while let Some(event) = self.next().await {
            match event {
                Event::Accepted | Event::Moved(_) | Event::Token { .. } => {}
                Event::Failed(error) => return Err(error),
                Event::Finished(answer) => return Ok(*answer),
            }
        }
        Err(driver::AskError::Silent.into())
    }
}

impl Ring {
    /// Finds the fastest ring over the peers that told what they serve, without those that are
    /// `avoided`.
    ///
    /// # Errors
    /// [`RouteError`] says which layers nobody holds.
    pub fn over(
        served: Served,
        links: Links,
        statuses: &Statuses,
        avoided: &BTreeSet<NodeId>,
    ) -> Result<Self, RouteError> {
        let demand = demand(&served, avoided);
        let route = fastest(&statuses.told(), &demand)?.hops;
        let contacts = statuses.contacts.iter();
        let peers = contacts.map(|contact| (contact.peer.id, contact.peer.clone())).collect();
        Ok(Self { served, links, clock: Clock::start(), peers, route })
    }

    /// Returns the ring of this route over servers whose addresses are given.
    #[must_use]
    pub fn along(served: Served, links: Links, peers: Peers, route: Vec<Hop>) -> Self {
        Self { served, links, clock: Clock::start(), peers, route }
    }

    /// Returns another ring over servers whose addresses this one knows.
    #[must_use]
    pub fn with_route(&self, route: Vec<Hop>) -> Self {
        Self { route, ..self.clone() }
    }

    /// Returns the time by the clock of its requests.
    pub(crate) fn now(&self) -> Now {
        self.clock.now()
    }

    /// Learns the addresses of servers, so that rings over them can be asked. Of more than
    /// [`ADDRESSES`] those that are not among `contacts` are forgotten.
    pub(crate) fn meet(&mut self, contacts: &[Contact]) {
        let known = contacts.iter().map(|contact| (contact.peer.id, contact.peer.clone()));
        let mut peers: Peers = known.collect();
        std::mem::swap(&mut self.peers, &mut peers);
        let room = ADDRESSES.saturating_sub(self.peers.len());
        for (node, peer) in peers.into_iter().take(room) {
            self.peers.entry(node).or_insert(peer);
        }
    }

    /// Returns the servers, server 1 first.
    #[must_use]
    pub fn route(&self) -> &[Hop] {
        &self.route
    }

    /// Returns the model that is asked.
    #[must_use]
    pub const fn served(&self) -> &Served {
        &self.served
    }

    /// Asks the ring's servers for one answer to `question`. `own` seals the request, so that
    /// whoever has it knows the request again as its own. Nothing is asked if the longest answer
    /// could not be audited to the `extent` that is wanted. To be called inside a runtime of tokio.
    ///
    /// # Errors
    /// [`AskError`].
    pub fn ask(
        &self,
        question: Question,
        own: &OwnSecret,
        extent: Option<Extent>,
    ) -> Result<Answering, AskError> {
        let Question { prompt, sampling, stops } = question;
        let session = Keypair::from_secret(random::secret()?.expose());
        let seed = AuditSeed::new(random::secret()?);
        let request = Request {
            manifest: self.served.id,
            adapters: Vec::new(),
            prompt,
            sampling,
            stops,
            nonce: own.nonce(&session.id(), &seed.commitment())?,
            session_key: session.id(),
            audit_commitment: seed.commitment(),
        };
        let model = ProtocolModel::from(&*self.served.manifest);
        if let Some(extent) = extent {
            self.check_length(&model, &request, extent)?;
        }
        let ask = Ask { request, route: self.route.clone(), addresses: self.addresses() };
        let vocabulary = Arc::clone(&self.served.vocabulary);
        let machine = Client::new(self.clock.now(), ask, &session, &model, vocabulary)?;
        let first = self.route.first().and_then(|hop| self.peers.get(&hop.node));
        let first = first.ok_or(AskError::NoServers)?;
        let asking = driver::ask(&self.links, first, self.clock, machine);
        let extent = extent.unwrap_or(Extent::Sampled);
        Ok(Answering { asking, secrets: Some((session, seed)), extent, first_token: None })
    }

    /// Checks whether the longest answer to a request could be audited.
    fn check_length(
        &self,
        model: &ProtocolModel,
        request: &Request,
        extent: Extent,
    ) -> Result<(), TooLong> {
        // Without positions, or with a prompt that is too long, the client's machine says why.
        let positions = model.positions_needed(request);
        let (Some(positions), Ok(prompt_len)) = (positions, u32::try_from(request.prompt.len()))
        else {
            return Ok(());
        };
        let most = lockstep_verify::limits::AUDIT_CHALLENGES;
        check_length(most, &self.served.manifest, extent, prompt_len, positions)
    }

    fn addresses(&self) -> Vec<String> {
        let text = |hop: &Hop| self.peers.get(&hop.node).map_or_else(String::new, PeerAddr::text);
        self.route.iter().map(text).collect()
    }

    /// Returns the server at which an answer broke off, if that is known.
    #[must_use]
    pub fn blame(&self, error: &BrokenOff) -> Option<Blame<'_>> {
        let (stage, reason, by) = match &error.0 {
            driver::AskError::Session(ClientError::Failed(failure)) => {
                (failure.stage?, failure.reason.to_string(), failure.by)
            }
            driver::AskError::Connect(error) => (0, error.to_string(), None),
            driver::AskError::Session(_) | driver::AskError::Silent => return None,
        };
        let place = usize::try_from(stage).ok()?;
        Some(Blame { place, hop: self.route.get(place)?, reason, by })
    }

    /// Returns why a request leaves this ring that broke off on it.
    pub(crate) fn moved(&self, error: &BrokenOff) -> Moved {
        match self.blame(error) {
            Some(Blame { place, hop, reason, by }) => {
                Moved { server: Some((place, *hop)), reason, by }
            }
            None => Moved { server: None, reason: error.to_string(), by: None },
        }
    }

    /// Returns the links, addresses and clock with which an audit of an answer asks the servers.
    pub(crate) const fn wires(&self) -> (&Links, &Peers, Clock) {
        (&self.links, &self.peers, self.clock)
    }

    /// Closes all connections to the servers.
    pub async fn close(self) {
        self.links.close().await;
    }
}
