//! One endpoint and all machines that run on it: a server, beside it the requests of clients, and
//! whatever else will speak a protocol of its own.
//!
//! Machines run side by side, each in a loop of its own, so that none waits for another's
//! signatures. They share the endpoint with its limits of links and bytes for each peer, and the
//! links that clients keep ([`Links`]). A link that comes in goes to whoever serves its class
//! ([`Node::accept`]), through a queue of its own: a class that is slow to take its links keeps no
//! other waiting. A link that nobody serves, or for which there is no room, is refused as
//! [`HangUp::Busy`].

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lockstep_exact::manifest::Manifest;
use lockstep_proto::announcement::Announcement;
use lockstep_proto::client::{Challenger, Client};
use lockstep_proto::job::Execute;
use lockstep_proto::server::Server;
use lockstep_proto::swarm::gossip::{Gossip, Seed};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::debug;

use super::ask::{Asking, ask};
use super::challenge::{Answers, Peers, challenge};
use super::clock::Clock;
use super::figures::Observer;
use super::links::Links;
use super::server::{AlreadyServed, ServeError, serve_on};
use super::share::Sharing;
use super::swarm::{Handle, Swarm, View};
use crate::limits;
use crate::store::{ModelRecord, Store};
use crate::transport::{Class, Endpoint, HangUp, Link, PeerAddr};

/// Who takes the links of each class that come in; `None` when none comes any more.
type Served = Arc<Mutex<Option<BTreeMap<Class, mpsc::Sender<Link>>>>>;

/// An endpoint and the machines on it. When it is dropped, no link is let in any more; what runs on
/// links that are open goes on until [`Node::close`].
#[derive(Debug)]
pub struct Node {
    links: Links,
    clock: Clock,
    served: Served,
    swarm: Option<Swarm>,
    sharing: Option<Sharing>,
    observer: Observer,
    /// Ends with this value.
    _accepting: JoinSet<()>,
}

/// Tells a node's swarm of nodes that are found otherwise than by a ticket.
#[derive(Clone, Debug)]
pub struct Finder(Option<Handle>);

impl Finder {
    /// Has the swarm's machine compare notes with a node.
    pub fn found(&self, peer: &PeerAddr) {
        if let Some(swarm) = &self.0 {
            swarm.found(Seed { node: peer.id, address: peer.text() });
        }
    }
}

/// A server process that does nothing else: everything [`serve`] needs.
pub struct Serving<E> {
    /// The endpoint at which links come in and go out.
    pub endpoint: Arc<Endpoint>,
    /// The protocol machine of the server.
    pub machine: Server,
    /// The executor, which runs jobs on a thread of its own.
    pub executor: E,
}

/// Serves until `stop`, then closes the endpoint. From `drain` on no new session is taken, and the
/// endpoint is closed as soon as those under way have finished and been challenged, or their time
/// is up.
///
/// # Errors
/// [`ServeError`].
pub async fn serve<E: Execute + Send + 'static>(
    serving: Serving<E>,
    drain: impl Future<Output = ()> + Send,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let Serving { endpoint, machine, executor } = serving;
    let node = Node::new(endpoint);
    node.serve(machine, executor, drain, stop).await?;
    node.close().await;
    Ok(())
}

impl Node {
    /// Takes an endpoint over: nobody else may accept links there. To be called inside a runtime of
    /// tokio.
    #[must_use]
    pub fn new(endpoint: Arc<Endpoint>) -> Self {
        let served = Served::new(Mutex::new(Some(BTreeMap::new())));
        let mut accepting = JoinSet::new();
        accepting.spawn(hand_out(Arc::clone(&endpoint), Arc::clone(&served)));
        let (links, clock) = (Links::new(endpoint), Clock::start());
        let observer = Observer::default();
        let swarm = None;
        Self { links, clock, served, swarm, sharing: None, observer, _accepting: accepting }
    }

    /// Returns the links that clients on this endpoint share.
    #[must_use]
    pub const fn links(&self) -> &Links {
        &self.links
    }

    /// Returns the clock by which the machines are driven.
    #[must_use]
    pub const fn clock(&self) -> Clock {
        self.clock
    }

    /// Returns the receiver of the links of these classes that come in from now on, until it is
    /// dropped. On an endpoint that is closed the receiver says at once that none comes.
    ///
    /// # Errors
    /// [`AlreadyServed`]; then none of the classes is served by this call.
    pub fn accept(&self, classes: &[Class]) -> Result<mpsc::Receiver<Link>, AlreadyServed> {
        let (queue, links) = mpsc::channel(limits::ACCEPT_QUEUE_LINKS);
        let mut served = lock(&self.served);
        let Some(served) = served.as_mut() else { return Ok(links) };
        served.retain(|_, queue| !queue.is_closed());
        if let Some(&class) = classes.iter().find(|class| served.contains_key(*class)) {
            return Err(AlreadyServed { class });
        }
        served.extend(classes.iter().map(|&class| (class, queue.clone())));
        Ok(links)
    }

    /// Serves with a machine and what computes for it until `stop`. From `drain` on no new session
    /// is taken, and this returns as soon as those under way have finished and been challenged, or
    /// their time is up. The endpoint stays open for whatever else runs on it.
    ///
    /// # Errors
    /// [`ServeError`].
    pub async fn serve<E: Execute + Send + 'static>(
        &self,
        machine: Server,
        executor: E,
        drain: impl Future<Output = ()> + Send,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<(), ServeError> {
        let accepted = self.accept(&[Class::Control, Class::Ring])?;
        let endpoint = Arc::clone(self.links.endpoint());
        let swarm = self.swarm.as_ref().map(Swarm::handle);
        let inputs = (accepted, self.observer.server.open(), swarm);
        serve_on(endpoint, self.clock, inputs, (machine, executor), (drain, stop)).await
    }

    /// Returns what asks the machines of this node for their figures, those that start later among
    /// them.
    #[must_use]
    pub fn observer(&self) -> Observer {
        self.observer.clone()
    }

    /// Tells the swarm, if this node is in one, what it is to know of this node until a server
    /// serves here and is announced by itself.
    pub fn announce(&self, announcement: Announcement) {
        if let Some(swarm) = &self.swarm {
            swarm.handle().announce(announcement);
        }
    }

    /// Returns what tells the swarm's machine, if this node is in one, of nodes that are found
    /// otherwise than by a ticket.
    #[must_use]
    pub fn finder(&self) -> Finder {
        Finder(self.swarm.as_ref().map(Swarm::handle))
    }

    /// Takes part in no swarm any more, and gives no files. What serves must have ended.
    pub fn rest(&mut self) {
        (self.swarm, self.sharing) = (None, None);
    }

    /// Runs one request, as [`ask`] does.
    #[must_use]
    pub fn ask(&self, first: &PeerAddr, machine: Client) -> Asking {
        ask(&self.links, first, self.clock, machine)
    }

    /// Poses challenges, as [`challenge`] does.
    #[must_use]
    pub fn challenge(&self, peers: &Peers, machine: Challenger) -> Answers {
        challenge(&self.links, peers, self.clock, machine)
    }

    /// Takes part in a swarm with the machine of gossip from now on. A server that serves here
    /// later is announced there. Returns what this node knows of the swarm, which changes with it.
    ///
    /// # Errors
    /// [`AlreadyServed`]: this node takes part already.
    pub fn join(&mut self, machine: Gossip) -> Result<watch::Receiver<Arc<View>>, AlreadyServed> {
        let accepted = self.accept(&[Class::Swarm])?;
        let endpoint = Arc::clone(self.links.endpoint());
        let asked = self.observer.swarm.open();
        let swarm = Swarm::start(endpoint, self.clock, (accepted, asked), machine);
        let view = swarm.handle().view();
        self.swarm = Some(swarm);
        Ok(view)
    }

    /// Gives the files of a model that are in the store to whoever may connect and asks for them,
    /// from now on, at `bytes_per_s` at most if that is given.
    ///
    /// # Errors
    /// [`AlreadyServed`]: this node shares a model already.
    pub fn share(
        &mut self,
        store: &Store,
        model: (&ModelRecord, &Manifest),
        bytes_per_s: Option<u64>,
    ) -> Result<(), AlreadyServed> {
        let accepted = self.accept(&[Class::Blobs])?;
        let sharing = Sharing::start(self.clock, accepted, store.clone(), model, bytes_per_s);
        self.sharing = Some(sharing);
        Ok(())
    }

    /// Closes the endpoint, and with it all links.
    pub async fn close(self) {
        self.links.close().await;
    }
}

fn lock(served: &Served) -> MutexGuard<'_, Option<BTreeMap<Class, mpsc::Sender<Link>>>> {
    served.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives each link that comes in to whoever serves its class, until the endpoint is closed.
async fn hand_out(endpoint: Arc<Endpoint>, served: Served) {
    while let Some(link) = endpoint.accept().await {
        let (class, peer) = (link.class, link.peer);
        let queue = lock(&served).as_ref().and_then(|served| served.get(&class).cloned());
        let refused = match queue {
            Some(queue) => match queue.try_send(link) {
                Ok(()) => continue,
                Err(error) => error.into_inner(),
            },
            None => link,
        };
        debug!(%class, peer = %peer.short(), "refused: nobody here serves it, or too many wait");
        refused.sender.hang_up(HangUp::Busy);
    }
    // Whoever serves hears that no link comes any more, and so does whoever begins to.
    lock(&served).take();
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::time::Duration;

    use lockstep_exact::digest::Digest;
    use lockstep_exact::sample::{Sampling, Stops};
    use lockstep_proto::client::Ask;
    use lockstep_proto::job::{Done, Job};
    use lockstep_proto::server::{Capacity, Holding, RunValues};
    use lockstep_testing::hash_model::{HashModel, LAYERS, model, vocabulary};
    use lockstep_verify::request::{Hop, Request};
    use lockstep_verify::secret::Secret;
    use lockstep_verify::sign::{Keypair, NodeId};
    use tokio::time::timeout;

    use super::*;
    use crate::transport::AllowList;
    use crate::transport::memory::Network;

    /// No test waits longer than this for anything.
    const WATCHDOG: Duration = Duration::from_secs(60);

    fn key() -> Keypair {
        Keypair::from_secret(&[1; 32])
    }

    fn machine() -> Server {
        let holding = Holding { model: model(), span: 0..LAYERS, head: Some(vocabulary()) };
        let runs = RunValues::new(Secret::of(&[2; 32]));
        Server::new(key(), holding, Capacity::default(), runs)
    }

    /// An executor with a fault: it panics in its first job.
    struct Faulty;

    impl Execute for Faulty {
        fn run(&mut self, job: Job) -> Vec<Done> {
            panic!("job {} can't be run", job.id)
        }
    }

    /// A request for the whole model at the one server.
    fn client(clock: Clock) -> Client {
        let session = Keypair::from_secret(&[5; 32]);
        let request = Request {
            manifest: model().manifest,
            adapters: Vec::new(),
            prompt: vec![1, 2],
            sampling: Sampling::default(),
            stops: Stops { max_tokens: 4, ..Stops::default() },
            nonce: [3; 32],
            session_key: session.id(),
            audit_commitment: Digest::ZERO,
        };
        let route = vec![Hop { node: key().id(), first: 0, end: LAYERS }];
        let ask = Ask { request, route, addresses: Vec::new() };
        Client::new(clock.now(), ask, &session, &model(), vocabulary()).expect("a request")
    }

    #[tokio::test]
    async fn a_server_whose_executor_has_died_ends_with_an_error_and_its_clients_hear_of_it() {
        let network = Network::new();
        let node = |id| Node::new(Arc::new(network.endpoint(id, AllowList::Anyone)));
        let (server, asking) = (node(key().id()), node(NodeId([9; 32])));
        let peer = PeerAddr { id: key().id(), addrs: Vec::new() };
        let serving = server.serve(machine(), Faulty, pending::<()>(), pending::<()>());
        let answer = asking.ask(&peer, client(asking.clock())).finish();
        let both = async { tokio::join!(serving, answer) };
        let (served, answer) = timeout(WATCHDOG, both).await.expect("no hang");
        assert!(matches!(served, Err(ServeError::ExecutorDied)), "{served:?}");
        answer.expect_err("nobody has computed anything");
    }

    #[tokio::test]
    async fn whoever_begins_to_serve_on_an_endpoint_that_is_closed_is_told_at_once() {
        let network = Network::new();
        let node = Node::new(Arc::new(network.endpoint(key().id(), AllowList::Anyone)));
        node.links().close().await;
        let serving = node.serve(machine(), HashModel::default(), pending::<()>(), pending::<()>());
        timeout(WATCHDOG, serving).await.expect("it ends").expect("nothing is wrong");
    }
}
