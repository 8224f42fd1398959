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

use lockstep_proto::client::{Challenger, Client};
use lockstep_proto::job::Execute;
use lockstep_proto::server::Server;
use lockstep_proto::swarm::gossip::Gossip;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::debug;

use super::ask::{Asking, ask};
use super::challenge::{Answers, Peers, challenge};
use super::clock::Clock;
use super::links::Links;
use super::server::{AlreadyServed, ServeError, serve_on};
use super::swarm::{Swarm, View};
use crate::limits;
use crate::transport::{Class, Endpoint, HangUp, Link, PeerAddr};

/// Who takes the links of each class that come in.
type Served = Arc<Mutex<BTreeMap<Class, mpsc::Sender<Link>>>>;

/// An endpoint and the machines on it. When it is dropped, no link is let in any more; what runs on
/// links that are open goes on until [`Node::close`].
#[derive(Debug)]
pub struct Node {
    links: Links,
    clock: Clock,
    served: Served,
    swarm: Option<Swarm>,
    /// Ends with this value.
    _accepting: JoinSet<()>,
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
        let served = Served::default();
        let mut accepting = JoinSet::new();
        accepting.spawn(hand_out(Arc::clone(&endpoint), Arc::clone(&served)));
        let (links, clock) = (Links::new(endpoint), Clock::start());
        Self { links, clock, served, swarm: None, _accepting: accepting }
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
    /// dropped.
    ///
    /// # Errors
    /// [`AlreadyServed`]; then none of the classes is served by this call.
    pub fn accept(&self, classes: &[Class]) -> Result<mpsc::Receiver<Link>, AlreadyServed> {
        let mut served = lock(&self.served);
        served.retain(|_, queue| !queue.is_closed());
        if let Some(&class) = classes.iter().find(|class| served.contains_key(*class)) {
            return Err(AlreadyServed { class });
        }
        let (queue, links) = mpsc::channel(limits::ACCEPT_QUEUE_LINKS);
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
        let inputs = (accepted, swarm);
        serve_on(endpoint, self.clock, inputs, (machine, executor), (drain, stop)).await
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
        let swarm = Swarm::start(endpoint, self.clock, accepted, machine);
        let view = swarm.handle().view();
        self.swarm = Some(swarm);
        Ok(view)
    }

    /// Closes the endpoint, and with it all links.
    pub async fn close(self) {
        self.links.close().await;
    }
}

fn lock(served: &Served) -> MutexGuard<'_, BTreeMap<Class, mpsc::Sender<Link>>> {
    served.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives each link that comes in to whoever serves its class, until the endpoint is closed.
async fn hand_out(endpoint: Arc<Endpoint>, served: Served) {
    while let Some(link) = endpoint.accept().await {
        let (class, peer) = (link.class, link.peer);
        let queue = lock(&served).get(&class).cloned();
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
    // Whoever serves hears that no link comes any more.
    lock(&served).clear();
}
