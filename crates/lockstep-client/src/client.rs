//! A client with a home folder: it asks a ring, keeps the receipts, and remembers how servers
//! answered.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lockstep_import::tokenizer::Tokenizer;
use lockstep_node::driver::{Links, StatusError};
use lockstep_node::receipts::Pruned;
use lockstep_node::record::{Record, RecordError};
use lockstep_node::ticket::Ticket;
use lockstep_node::transport::{
    AllowList, BindError, Endpoint, Identity, IdentityError, Listen, NodeId, PeerAddr,
};
use lockstep_proto::swarm::chooser::Chooser;
use lockstep_proto::swarm::route::RouteError;
use lockstep_verify::draw::Extent;

use crate::asked::{self, Asked, Shared};
use crate::audit::Audited;
use crate::model::Model;
use crate::own::{OwnSecret, OwnSecretError};
use crate::place::Place;
use crate::receipts::{self, NotKept};
use crate::request::Question;
use crate::ring::{Answer, AskError, Ring, Served, Statuses, demand};
use crate::standing::{self, Avoided};

/// Time for which a view of how busy servers are is taken as it was.
pub const VIEW: Duration = Duration::from_secs(5);

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
    seen: Mutex<Instant>,
    remembers: bool,
}

impl<'a> Client<'a> {
    /// Finds a ring for a model over the peers of some tickets. `tell` hears what is worth saying.
    ///
    /// # Errors
    /// [`FindError`].
    pub async fn find(
        place: &'a Place,
        (model, tokenizer): (&Model, &Tokenizer),
        tickets: &[Ticket],
        caller: Caller,
        tell: impl FnMut(Notice),
    ) -> Result<Self, FindError> {
        let peers = distinct_peers(tickets)?;
        let links = links_to(place, &peers, caller).await?;
        let remembers = caller != Caller::Starter;
        let served = Served {
            id: model.record.manifest,
            manifest: Arc::new(model.manifest.clone()),
            vocabulary: Arc::clone(tokenizer.vocabulary()),
        };
        let statuses = Statuses::ask(&links, &peers, served.id).await;
        let avoided = if remembers { avoided(place, &statuses, tell) } else { BTreeSet::new() };
        let chooser = Chooser::new(demand(&served, &avoided), statuses.told());
        match Ring::over(served, links.clone(), &statuses, &avoided) {
            Ok(ring) => {
                let (chooser, seen) = (Arc::new(Mutex::new(chooser)), Mutex::new(Instant::now()));
                Ok(Self { place, ring, peers, chooser, seen, remembers })
            }
            Err(source) => {
                links.close().await;
                let (answered, asked) = (statuses.contacts.len(), peers.len());
                let (silent, own) = (statuses.silent, links.endpoint().id());
                let none = NoRoute { source, answered, asked, silent, avoided, own };
                Err(FindError::NoRoute(Box::new(none)))
            }
        }
    }

    /// Asks the servers again how busy they are, if that was [`VIEW`] ago or longer: requests take
    /// their rings by it. Servers that were not known when this client was made are not taken.
    pub async fn refresh(&self) {
        let is_old = |seen: &Instant| seen.elapsed() >= VIEW;
        let was_old = {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let was_old = is_old(&seen);
            if was_old {
                *seen = Instant::now();
            }
            was_old
        };
        if was_old {
            let (links, _, _) = self.ring.wires();
            let statuses = Statuses::ask(links, &self.peers, self.ring.served().id).await;
            let mut told = statuses.told();
            told.retain(|status| self.ring.knows(&status.node));
            asked::with(&self.chooser, |chooser| chooser.see(told));
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

    /// Does with the files of an audited answer what is to be done: completes or removes the
    /// receipt that was saved, keeps the receipts folder within its limit, and remembers how the
    /// servers answered. The audit's own [`Audited::kept`] goes into the receipt.
    #[must_use]
    pub fn settle(&self, saved: Result<PathBuf, NotKept>, audited: &mut Audited) -> Settled {
        let kept = std::mem::replace(&mut audited.kept, Ok(()));
        let receipt = saved.and_then(|file| receipts::finished(file, kept));
        let pruned = receipts::prune(self.place, receipt.as_deref().ok());
        let remembered = match self.remembers {
            true => {
                let seen = standing::deeds(&audited.verdict, &audited.conduct);
                standing::remember(self.place, seen)
            }
            false => Ok(()),
        };
        Settled { receipt, pruned, remembered }
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

/// Returns the nodes among these that this machine avoids.
fn avoided(place: &Place, statuses: &Statuses, mut tell: impl FnMut(Notice)) -> BTreeSet<NodeId> {
    let record = Record::read(&place.home.nodes()).unwrap_or_else(|error| {
        tell(Notice::NobodyAvoided(error));
        Record::default()
    });
    let mut avoided = BTreeSet::new();
    for node in statuses.contacts.iter().map(|contact| contact.peer.id) {
        if let Some(why) = standing::why_avoided(&record.deeds(&node)) {
            tell(Notice::Avoiding { node, why });
            avoided.insert(node);
        }
    }
    avoided
}
