//! A client with a home folder: it asks a ring, keeps the receipts, and remembers how servers
//! answered.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lockstep_import::tokenizer::Tokenizer;
use lockstep_node::driver::{Links, Peers, StatusError};
use lockstep_node::receipts::Pruned;
use lockstep_node::record::{Record, RecordError};
use lockstep_node::ticket::Ticket;
use lockstep_node::transport::{
    AllowList, BindError, Endpoint, Identity, IdentityError, Listen, NodeId, PeerAddr,
};
use lockstep_proto::swarm::chooser::Chooser;
use lockstep_proto::swarm::route::RouteError;
use lockstep_proto::swarm::trust::Standing as Proof;
use lockstep_verify::audit::Unverified;
use lockstep_verify::draw::Extent;
use lockstep_verify::fault::Fault;
use tokio::time::sleep;

use crate::asked::{self, Asked, Shared};
use crate::audit::Audited;
use crate::canary::{self, Checker, Sent};
use crate::model::Model;
use crate::outcome::Outcome;
use crate::own::{OwnSecret, OwnSecretError};
use crate::place::Place;
use crate::random::{self, NoRandomness};
use crate::receipts::{self, NotKept};
use crate::request::Question;
use crate::ring::{Answer, AskError, Ring, Served, Statuses, demand};
use crate::standing::{self, Avoided};

/// Time for which a view of how busy servers are is taken as it was.
pub const VIEW: Duration = Duration::from_secs(5);

/// Looks at a swarm, while nothing is asked, after which they become less frequent.
const FREQUENT_LOOKS: u32 = 12;
/// The longest time between two looks at a swarm while nothing is asked.
const LONGEST_LOOK: Duration = Duration::from_secs(80);
/// The most servers, beside those of tickets, that are asked who else is in their swarm.
const SEEDS: usize = 8;
/// The most canaries that are sent before it is given up to find a ring.
const TRIES: usize = 16;

/// Which servers a client asks, and what it takes their word for.
#[derive(Clone, Copy)]
pub struct Asking<'t> {
    /// The tickets of the servers that are asked first.
    pub tickets: &'t [Ticket],
    /// The nodes that a person named: requests go over them from the beginning.
    pub named: &'t BTreeSet<NodeId>,
    /// The identity under which servers are asked.
    pub caller: Caller,
    /// The key and operations that check canaries, which go over servers that nobody named before
    /// a request does. Without them nothing is verified, so nobody can show anything, and each
    /// server's word is taken.
    pub checker: Option<Checker<'t>>,
}

/// The identity under which a client connects to servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Nobody they know: a fresh identity each time.
    Fresh,
    /// This machine's own node id, which the home folder keeps.
    Node,
    /// Whoever has started them: a fresh identity, and nothing to be remembered of them.
    Starter,
}

/// A message for the person who waits while a ring is looked for.
#[derive(Debug)]
pub enum Notice {
    /// A server is not asked, because of what is remembered of it.
    Avoiding {
        /// The server that is not asked.
        node: NodeId,
        /// The reason why it is avoided.
        why: Avoided,
    },
    /// The record of how servers answered can't be read, so no server is avoided.
    NobodyAvoided(RecordError),
    /// A canary is sent over these servers, of which nothing is known yet.
    Trying(Vec<NodeId>),
    /// A canary showed nothing, for this reason; no request goes over those servers.
    ShownNothing(String),
}

/// The peers that answered hold no ring between them.
#[derive(Debug, thiserror::Error)]
#[error("no route over the {answered} of {asked} peers that answered")]
pub struct NoRoute {
    /// The layers that no peer holds.
    pub source: RouteError,
    /// The number of peers that told what they serve.
    pub answered: usize,
    /// The number of peers that were asked.
    pub asked: usize,
    /// The reasons why the other peers did not answer.
    pub silent: Vec<StatusError>,
    /// Those that answered and are avoided.
    pub avoided: BTreeSet<NodeId>,
    /// The node id under which this client asked.
    pub own: NodeId,
}

/// The reasons why no ring was found.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// No socket could be opened to reach the peers.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// This machine's node has no identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The system gave no random bytes.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// The peers that answered hold no ring between them.
    #[error(transparent)]
    NoRoute(Box<NoRoute>),
    /// Two tickets name one node at different addresses: two servers with one identity, or a ticket
    /// of earlier days.
    #[error(
        "two tickets have the same node id {}, at {} and at {}",
        one.id.short(), addresses(one), addresses(other)
    )]
    TwoPlaces {
        /// The peer as one of the tickets gives it.
        one: PeerAddr,
        /// The peer as the other ticket gives it.
        other: PeerAddr,
    },
}

/// Returns the addresses of a peer in one line.
#[must_use]
pub fn addresses(peer: &PeerAddr) -> String {
    peer.addrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// Why a client with a home asked nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientAskError {
    /// The ring could not be asked.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The home's secret can't be used.
    #[error(transparent)]
    Own(#[from] OwnSecretError),
}

/// The result of [`Client::settle`]: which files of an audited answer were kept or removed.
#[derive(Debug)]
pub struct Settled {
    /// The receipt's file with all openings that were checked, or why there is none.
    pub receipt: Result<PathBuf, NotKept>,
    /// Old receipts that were removed for it.
    pub pruned: io::Result<Pruned>,
    /// Whether what was seen of the servers could be remembered.
    pub remembered: Result<(), RecordError>,
}

/// A client of one ring, with a home folder.
pub struct Client<'a> {
    place: &'a Place,
    /// The fastest ring when servers were looked for, with the addresses of all of them.
    ring: Ring,
    /// The peers of the tickets.
    peers: Vec<PeerAddr>,
    chooser: Shared,
    /// When servers were last asked what they serve and how busy they are.
    seen: Instant,
    remembers: bool,
    /// Whether every server's word is taken, because nothing is verified.
    believes: bool,
}

impl<'a> Client<'a> {
    /// Finds a ring for a model over servers that have shown what they can, or that a person named.
    /// If there is none, canaries are sent over others until there is one. `tell` hears what is
    /// worth saying.
    ///
    /// # Errors
    /// [`FindError`].
    pub async fn find(
        place: &'a Place,
        (model, tokenizer): (&Model, &Tokenizer),
        asking: Asking<'_>,
        mut tell: impl FnMut(Notice),
    ) -> Result<Self, FindError> {
        let Asking { tickets, named, caller, checker } = asking;
        let peers = distinct_peers(tickets)?;
        let links = links_to(place, &peers, caller).await?;
        let remembers = caller != Caller::Starter;
        let served = Served {
            id: model.record.manifest,
            manifest: Arc::new(model.manifest.clone()),
            vocabulary: Arc::clone(tokenizer.vocabulary()),
        };
        let record = if remembers { record(place, &mut tell) } else { Record::default() };
        let experience = standing::experience(&record, named, random::seed()?);
        let is_proven = |node| experience.standing(node) == Proof::Proven;
        let statuses = Statuses::ask(&links, &peers, served.id, is_proven).await;
        let avoided = avoided(&record, &statuses, &mut tell);
        let wanted = demand(&served, &avoided);
        let chooser = Chooser::new(wanted, Vec::new(), experience);
        let ring = Ring::along(served, links, Peers::new(), Vec::new());
        let (chooser, seen) = (Arc::new(Mutex::new(chooser)), Instant::now());
        let believes = checker.is_none();
        let mut client = Self { place, ring, peers, chooser, seen, remembers, believes };
        client.see(&statuses);
        if let Some(checker) = checker {
            client.try_until_there_is_a_ring(checker, &mut tell).await;
        }
        match asked::with(&client.chooser, |chooser| chooser.fastest()) {
            Ok(route) => {
                client.ring = client.ring.with_route(route);
                Ok(client)
            }
            Err(source) => {
                let (answered, asked) = (statuses.contacts.len(), client.peers.len());
                let own = client.ring.wires().0.endpoint().id();
                client.close().await;
                let silent = statuses.silent;
                let none = NoRoute { source, answered, asked, silent, avoided, own };
                Err(FindError::NoRoute(Box::new(none)))
            }
        }
    }

    /// Plans with what servers tell of themselves from now on.
    fn see(&mut self, statuses: &Statuses) {
        self.ring.meet(&statuses.contacts);
        let told = statuses.told();
        let believed: Vec<NodeId> = told.iter().map(|one| one.node).collect();
        asked::with(&self.chooser, |chooser| {
            chooser.see(told);
            if self.believes {
                chooser.learn(|own| believed.into_iter().for_each(|node| own.named(node)));
            }
        });
    }

    /// Returns whether there is a ring over servers that may be used, busy or not.
    #[must_use]
    pub fn has_ring(&self) -> bool {
        asked::with(&self.chooser, |chooser| chooser.fastest()).is_ok()
    }

    /// Sends canaries until there is a ring, nobody is left to try, or `TRIES` were sent.
    pub async fn try_until_there_is_a_ring(
        &mut self,
        checker: Checker<'_>,
        tell: &mut impl FnMut(Notice),
    ) {
        for _ in 0..TRIES {
            if self.has_ring() || !self.try_somebody(checker, tell).await {
                return;
            }
        }
    }

    /// Sends a canary over servers that have shown nothing yet, if it is anybody's turn, and learns
    /// from what comes of it. Returns whether one was sent.
    pub async fn try_somebody(
        &mut self,
        checker: Checker<'_>,
        tell: &mut impl FnMut(Notice),
    ) -> bool {
        let now = self.ring.now();
        let Some(hops) = asked::with(&self.chooser, |chooser| chooser.canary(now)) else {
            return false;
        };
        let standing = |node| asked::with(&self.chooser, |chooser| chooser.standing(node));
        let nodes = hops.iter().map(|hop| hop.node);
        let tried: Vec<NodeId> = nodes.filter(|node| standing(*node) == Proof::Unproven).collect();
        tell(Notice::Trying(tried.clone()));
        let sent = canary::send(self.place, &self.ring.with_route(hops), checker).await;
        let why = match sent {
            Ok(Sent { answer, mut audited, saved }) => {
                // Whatever can't be written now is written with the next one.
                let (receipt, _) = self.conclude(&answer, saved, &mut audited);
                let is_evidence = audited.outcome() == Outcome::Failed;
                if let (Ok(receipt), false) = (&receipt, is_evidence) {
                    // It was nobody's question.
                    let _ = std::fs::remove_file(receipt);
                }
                match &audited.verdict {
                    Ok(_) if audited.outcome() == Outcome::Verified => return true,
                    Ok(_) => Outcome::Withheld.to_string(),
                    Err(Unverified::Failed(fault)) => fault.to_string(),
                    Err(why) => Outcome::of(&Err(why.clone())).to_string(),
                }
            }
            Err(error) => error.to_string(),
        };
        tell(Notice::ShownNothing(why));
        let now = self.ring.now();
        asked::with(&self.chooser, |chooser| {
            chooser.learn(|own| {
                // Whoever was beside a convicted one has done nothing wrong.
                let has_convicted = tried.iter().any(|node| own.standing(*node) == Proof::Banned);
                let failed = tried.iter().filter(|_| !has_convicted);
                failed.for_each(|node| own.failed(*node, now));
            });
        });
        true
    }

    /// Asks who is in the swarm by now and how busy they are, if that was [`VIEW`] ago or longer:
    /// requests take their rings by it. Ends at the latest after twice
    /// [`STATUS_DEADLINE`](lockstep_node::limits::STATUS_DEADLINE).
    pub async fn refresh(&mut self) {
        if self.seen.elapsed() < VIEW {
            return;
        }
        let standing = |node| asked::with(&self.chooser, |chooser| chooser.standing(node));
        let is_proven = |node| standing(node) == Proof::Proven;
        let (links, known, _) = self.ring.wires();
        let mut seeds = self.peers.clone();
        let others = known.values().filter(|peer| is_proven(peer.id));
        let others = others.filter(|peer| self.peers.iter().all(|seed| seed.id != peer.id));
        seeds.extend(others.take(SEEDS).cloned());
        let statuses = Statuses::ask(links, &seeds, self.ring.served().id, is_proven).await;
        self.see(&statuses);
        self.seen = Instant::now();
    }

    /// Looks after the view of the swarm for as long as nothing is asked: who is there, and whether
    /// somebody is to be tried. It looks less often the longer nothing is asked, and goes on until
    /// it is dropped, which loses nothing.
    pub async fn idle(&mut self, checker: Option<Checker<'_>>, mut tell: impl FnMut(Notice)) {
        let (mut wait, mut looks) = (VIEW, 0u32);
        loop {
            sleep(wait).await;
            self.refresh().await;
            if let Some(checker) = checker {
                self.try_somebody(checker, &mut tell).await;
            }
            looks = looks.saturating_add(1);
            if looks >= FREQUENT_LOOKS {
                wait = (wait * 2).min(LONGEST_LOOK);
            }
        }
    }

    /// Returns the fastest ring when servers were looked for. Each request takes a ring of its own.
    #[must_use]
    pub const fn ring(&self) -> &Ring {
        &self.ring
    }

    /// Returns whether what is seen of the servers is remembered: not if they were started for this
    /// client.
    #[must_use]
    pub const fn remembers(&self) -> bool {
        self.remembers
    }

    /// Asks for one answer, as [`Ring::ask`], on a ring of its own, and on another one if that has
    /// no room; knows the request again as this home's own.
    ///
    /// # Errors
    /// [`ClientAskError`].
    pub fn ask(&self, question: Question, extent: Option<Extent>) -> Result<Asked, ClientAskError> {
        let own = OwnSecret::load_or_create(&self.place.home)?;
        let chooser = Arc::clone(&self.chooser);
        Ok(Asked::begin(chooser, &self.ring, (question, own), extent)?)
    }

    /// Keeps the receipt of an answer before anything is opened, where somebody wants it or in the
    /// receipts folder: it is kept whatever becomes of the audit.
    ///
    /// # Errors
    /// [`NotKept`]: the answer stands all the same.
    pub fn save(&self, answer: &Answer, wanted: Option<&Path>) -> Result<PathBuf, NotKept> {
        receipts::save(self.place, &answer.unopened(), wanted)
    }

    /// Does with an audited answer what is to be done: completes or removes the receipt that was
    /// saved, remembers how the servers answered, keeps the receipts folder within its limit, and
    /// has the next request go over nobody who was convicted. The audit's own [`Audited::kept`]
    /// goes into the receipt.
    #[must_use]
    pub fn settle(
        &self,
        answer: &Answer,
        saved: Result<PathBuf, NotKept>,
        audited: &mut Audited,
    ) -> Settled {
        let (receipt, remembered) = self.conclude(answer, saved, audited);
        let pruned = receipts::prune(self.place, receipt.as_deref().ok());
        Settled { receipt, pruned, remembered }
    }

    /// Completes or removes the receipt of an audited answer, and learns from the audit.
    fn conclude(
        &self,
        answer: &Answer,
        saved: Result<PathBuf, NotKept>,
        audited: &mut Audited,
    ) -> (Result<PathBuf, NotKept>, Result<(), RecordError>) {
        let kept = std::mem::replace(&mut audited.kept, Ok(()));
        let receipt = saved.and_then(|file| receipts::finished(file, kept));
        self.learn(answer, audited);
        let remembered = self.remember(audited, receipt.as_deref().ok());
        (receipt, remembered)
    }

    /// Plans the next rings with what an audit has shown of servers, and with the time that theirs
    /// took.
    fn learn(&self, answer: &Answer, audited: &Audited) {
        let convicted = standing::fault(&audited.verdict).and_then(Fault::node);
        let ring = answer.route();
        asked::with(&self.chooser, |chooser| {
            if let Some(node) = convicted {
                chooser.learn(|own| own.convicted(node));
            }
            if audited.outcome() == Outcome::Verified {
                chooser.learn(|own| ring.iter().for_each(|hop| own.verified(hop.node)));
                answer.token_ns().into_iter().for_each(|ns| chooser.timed(&ring, ns));
            }
        });
    }

    /// Adds what was seen of servers to the record, and avoids those that withhold by habit.
    fn remember(&self, audited: &Audited, receipt: Option<&Path>) -> Result<(), RecordError> {
        if !self.remembers {
            return Ok(());
        }
        let seen = standing::deeds(&audited.verdict, &audited.conduct);
        let fault = standing::fault(&audited.verdict);
        let record = standing::remember(self.place, &seen, fault, receipt)?;
        let is_avoided = |node: &NodeId| standing::why_avoided(&record.deeds(node)).is_some();
        asked::with(&self.chooser, |chooser| {
            let avoided = seen.iter().map(|(node, _)| *node).filter(is_avoided);
            avoided.for_each(|node| chooser.avoid(node));
        });
        Ok(())
    }

    /// Closes all connections to servers.
    pub async fn close(self) {
        self.ring.close().await;
    }
}

/// Opens an endpoint from which peers can be asked, and to which nobody can connect.
///
/// # Errors
/// [`FindError::Bind`] and [`FindError::Identity`].
pub async fn links_to(
    place: &Place,
    peers: &[PeerAddr],
    caller: Caller,
) -> Result<Links, FindError> {
    let addrs: Vec<_> = peers.iter().flat_map(|peer| peer.addrs.iter().copied()).collect();
    let own = match caller {
        Caller::Fresh | Caller::Starter => Identity::generate(),
        Caller::Node => Identity::load_or_create(&place.home.node_key())?,
    };
    let nobody = AllowList::Only([].into());
    let endpoint = Endpoint::bind(&own, Listen::to_reach(&addrs), nobody).await?;
    Ok(Links::new(Arc::new(endpoint)))
}

/// Returns the peers of tickets, each once.
fn distinct_peers(tickets: &[Ticket]) -> Result<Vec<PeerAddr>, FindError> {
    let mut peers: Vec<PeerAddr> = Vec::new();
    for peer in tickets.iter().flat_map(|ticket| &ticket.peers) {
        match peers.iter().find(|other| other.id == peer.id) {
            None => peers.push(peer.clone()),
            Some(one) if one.addrs == peer.addrs => {}
            Some(one) => {
                return Err(FindError::TwoPlaces { one: one.clone(), other: peer.clone() });
            }
        }
    }
    Ok(peers)
}

/// Reads how servers answered before.
fn record(place: &Place, tell: &mut impl FnMut(Notice)) -> Record {
    Record::read(&place.home.nodes()).unwrap_or_else(|error| {
        tell(Notice::NobodyAvoided(error));
        Record::default()
    })
}

/// Returns the nodes that this machine avoids, and tells of those that have answered.
fn avoided(
    record: &Record,
    statuses: &Statuses,
    tell: &mut impl FnMut(Notice),
) -> BTreeSet<NodeId> {
    let mut avoided = BTreeSet::new();
    for (&node, deeds) in record.nodes() {
        let Some(why) = standing::why_avoided(deeds) else { continue };
        avoided.insert(node);
        if statuses.contacts.iter().any(|contact| contact.peer.id == node) {
            tell(Notice::Avoiding { node, why });
        }
    }
    avoided
}
