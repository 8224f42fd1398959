//! The loop of a server process: links and an executor thread around [`Server`].

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use lockstep_kernels::{FloatModeError, Kernels};
use lockstep_proto::failure::Reason;
use lockstep_proto::job::{Done, Execute, Job};
use lockstep_proto::limits as protocol;
use lockstep_proto::server::{Event, Input, LinkId, Output, Server};
use lockstep_verify::sign::NodeId;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, error, info, warn};

use super::body;
use super::book::Book;
use super::clock::{Clock, until};
use super::peers::{Peers, Sent};
use crate::limits;
use crate::transport::{Class, Endpoint, HangUp, Link, PeerAddr, Sender};

/// An event that the server's loop takes up.
enum Heard {
    Frame { from: From, body: Bytes },
    Lost { from: From },
    Connected { node: NodeId, link: Option<Box<Link>> },
    Ran { job: u64, done: Vec<Done> },
}

/// The link on which a frame came.
#[derive(Clone, Copy, Debug)]
enum From {
    Client { link: LinkId, peer: NodeId },
    Stage { node: NodeId, link: u64 },
}

/// A server process: everything [`serve`] needs.
pub struct Serving<E> {
    /// The endpoint that accepts and dials links.
    pub endpoint: Arc<Endpoint>,
    /// The protocol state machine of the server.
    pub machine: Server,
    /// The executor, which computes on a thread of its own.
    pub executor: E,
}

/// The reasons why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The thread that was to compute would compute something else.
    #[error(transparent)]
    FloatMode(#[from] FloatModeError),
    /// The system gave no thread to compute on.
    #[error("the thread that computes could not be started: {0}")]
    Thread(#[source] io::Error),
}

/// Serves until `stop`, then closes the endpoint. From `drain` on no new session is taken, and the
/// endpoint is closed as soon as those under way have finished and been challenged, or their time
/// is up.
///
/// # Errors
/// [`ServeError`].
pub async fn serve<E: Execute + Send + 'static>(
    serving: Serving<E>,
    drain: impl Future<Output = ()>,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let Serving { endpoint, machine, executor } = serving;
    let (heard, inbox) = mpsc::channel(limits::DRIVER_INBOX);
    let jobs = start_executor(executor, heard.clone(), Kernels::check_thread).await?;
    let driver = Driver::new(Arc::clone(&endpoint), machine, heard, jobs);
    driver.run(inbox, drain, stop).await;
    endpoint.close().await;
    Ok(())
}

/// Runs jobs one at a time on a thread of their own, until no more can come. `check` says there,
/// before the first, whether that thread computes as the arithmetic is defined.
async fn start_executor<E: Execute + Send + 'static>(
    mut executor: E,
    heard: mpsc::Sender<Heard>,
    check: impl FnOnce() -> Result<(), FloatModeError> + Send + 'static,
) -> Result<mpsc::Sender<Job>, ServeError> {
    // The machine has no more jobs under way at a time.
    let (jobs, mut queue) = mpsc::channel::<Job>(protocol::JOBS_AT_EXECUTOR);
    let (say, checked) = oneshot::channel();
    let executing = move || {
        let mode = check();
        let is_exact = mode.is_ok();
        if say.send(mode).is_err() || !is_exact {
            return;
        }
        while let Some(job) = queue.blocking_recv() {
            let id = job.id;
            let done = executor.run(job);
            if heard.blocking_send(Heard::Ran { job: id, done }).is_err() {
                break;
            }
        }
    };
    let thread = thread::Builder::new().name("executor".to_owned());
    thread.spawn(executing).map_err(ServeError::Thread)?;
    let died = |_| ServeError::Thread(io::Error::other("it died at once"));
    checked.await.map_err(died)??;
    Ok(jobs)
}

struct Driver {
    endpoint: Arc<Endpoint>,
    machine: Server,
    clock: Clock,
    heard: mpsc::Sender<Heard>,
    jobs: mpsc::Sender<Job>,
    clients: BTreeMap<LinkId, Sender>,
    peers: Peers,
    book: Book,
    /// Dials under way because leases asked for them.
    dials: Arc<Semaphore>,
    next_link: u64,
    tasks: JoinSet<()>,
}

impl Driver {
    fn new(
        endpoint: Arc<Endpoint>,
        machine: Server,
        heard: mpsc::Sender<Heard>,
        jobs: mpsc::Sender<Job>,
    ) -> Self {
        Self {
            endpoint,
            machine,
            clock: Clock::start(),
            heard,
            jobs,
            clients: BTreeMap::new(),
            peers: Peers::default(),
            book: Book::default(),
            dials: Arc::new(Semaphore::new(limits::DIALS)),
            next_link: 0,
            tasks: JoinSet::new(),
        }
    }

    async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Heard>,
        drain: impl Future<Output = ()>,
        stop: impl Future<Output = ()>,
    ) {
        tokio::pin!(drain, stop);
        let mut draining = false;
        let endpoint = Arc::clone(&self.endpoint);
        while !self.machine.is_drained() {
            let deadline = self.machine.deadline();
            let input = tokio::select! {
                () = &mut stop => return,
                () = &mut drain, if !draining => {
                    draining = true;
                    info!(sessions = self.machine.sessions(), "no new sessions from now on");
                    self.machine.drain(self.clock.now());
                    Some(Input::Tick)
                }
                heard = inbox.recv() => match heard {
                    Some(heard) => self.hear(heard),
                    None => return,
                },
                link = endpoint.accept() => match link {
                    Some(link) => {
                        self.accept(link);
                        None
                    }
                    None => return,
                },
                () = until(self.clock, deadline) => Some(Input::Tick),
                Some(_) = self.tasks.join_next() => None,
            };
            if let Some(input) = input {
                self.machine.handle(self.clock.now(), input);
                self.perform();
            }
        }
        self.finish().await;
    }

    /// Waits until the frames that were queued have left.
    async fn finish(self) {
        let mut leaving = JoinSet::new();
        for sender in self.peers.into_senders().chain(self.clients.into_values()) {
            leaving.spawn(async move { sender.finish().await.ok() });
        }
        timeout(limits::FLUSH_DEADLINE, leaving.join_all()).await.ok();
    }

    /// Turns what was heard into an input of the machine.
    fn hear(&mut self, heard: Heard) -> Option<Input> {
        match heard {
            Heard::Frame { from: From::Client { link, peer }, body } => {
                Some(Input::ClientFrame { link, peer, body: body.into() })
            }
            Heard::Frame { from: From::Stage { node, link }, body } => {
                self.peers.heard(node, link);
                Some(Input::PeerFrame { node, body: body.into() })
            }
            Heard::Lost { from: From::Client { link, .. } } => {
                self.clients.remove(&link);
                Some(Input::ClientLost(link))
            }
            Heard::Lost { from: From::Stage { node, link } } => {
                self.peers.lost(node, link).then_some(Input::PeerLost(node))
            }
            Heard::Connected { node, link } => self.connected(node, link),
            Heard::Ran { job, done } => Some(Input::Ran { job, done }),
        }
    }

    fn accept(&mut self, link: Link) {
        let id = self.number();
        match link.class {
            Class::Control => {
                let from = From::Client { link: LinkId(id), peer: link.peer };
                self.clients.insert(LinkId(id), link.sender.clone());
                self.read(from, link);
            }
            Class::Ring => {
                let node = link.peer;
                if let Some(from) = link.from {
                    self.book.came_from(node, from);
                }
                self.peers.accepted(node, id, &link.sender);
                self.read(From::Stage { node, link: id }, link);
            }
        }
    }

    fn number(&mut self) -> u64 {
        self.next_link += 1;
        self.next_link
    }

    fn connected(&mut self, node: NodeId, link: Option<Box<Link>>) -> Option<Input> {
        let Some(link) = link else {
            self.book.is_not_there(node);
            return self.peers.unreachable(node).then_some(Input::PeerLost(node));
        };
        let id = self.number();
        self.peers.dialled(node, id, &link.sender);
        self.read(From::Stage { node, link: id }, *link);
        None
    }

    /// Starts a task that reads a link until it ends.
    fn read(&mut self, from: From, link: Link) {
        let heard = self.heard.clone();
        let Link { sender, mut receiver, .. } = link;
        self.tasks.spawn(async move {
            // The link lives as long as both of its halves.
            let _sender = sender;
            while let Ok(Some(body)) = receiver.recv().await {
                if heard.send(Heard::Frame { from, body }).await.is_err() {
                    return;
                }
            }
            heard.send(Heard::Lost { from }).await.ok();
        });
    }

    /// Does all that the machine asks for.
    fn perform(&mut self) {
        while let Some(output) = self.machine.poll() {
            match output {
                Output::CloseClient(link) => {
                    if let Some(sender) = self.clients.remove(&link) {
                        sender.hang_up(HangUp::BadFrame);
                    }
                }
                Output::ClosePeer { node, why } => {
                    if let Some(sender) = self.peers.close(node) {
                        self.tasks.spawn(close(sender, why));
                    }
                }
                Output::Event(event) => log(&event),
                Output::Run(job) => {
                    if self.jobs.try_send(job).is_err() {
                        warn!("the executor is gone; its jobs will be overdue");
                    }
                }
                Output::ToClient { link, wire } => self.send_to_client(link, wire),
                Output::ToPeer { node, address, wire } => {
                    self.send_to_peer(node, address.as_deref(), wire);
                }
            }
        }
    }

    fn send_to_client(&mut self, link: LinkId, wire: Vec<u8>) {
        let Some(sender) = self.clients.get(&link) else { return };
        if let Err(error) = sender.post(body(wire)) {
            debug!(%error, "a client can't be written to");
            sender.hang_up(HangUp::Unread);
            self.clients.remove(&link);
            self.machine.handle(self.clock.now(), Input::ClientLost(link));
        }
    }

    fn send_to_peer(&mut self, node: NodeId, address: Option<&str>, wire: Vec<u8>) {
        match self.peers.send(node, body(wire)) {
            Sent::Queued => {}
            Sent::Dial => self.dial(node, address),
            Sent::Lost(error) => {
                debug!(%error, "a stage can't be written to");
                self.machine.handle(self.clock.now(), Input::PeerLost(node));
            }
        }
    }

    /// Dials a stage where it is known to be, or else where a lease says that it is.
    fn dial(&mut self, node: NodeId, address: Option<&str>) {
        let peer = PeerAddr { id: node, addrs: self.book.addresses(node, address) };
        let place = Arc::clone(&self.dials).try_acquire_owned();
        let (Ok(place), false) = (place, peer.addrs.is_empty()) else {
            debug!(node = %node.short(), "not dialled: no address, or too many dials at once");
            if self.peers.unreachable(node) {
                self.machine.handle(self.clock.now(), Input::PeerLost(node));
            }
            return;
        };
        let (endpoint, heard) = (Arc::clone(&self.endpoint), self.heard.clone());
        self.tasks.spawn(async move {
            let _place = place;
            let link = endpoint.connect(&peer, Class::Ring).await;
            if let Err(error) = &link {
                warn!(%error, "a stage can't be reached");
            }
            heard.send(Heard::Connected { node, link: link.ok().map(Box::new) }).await.ok();
        });
    }
}

/// Closes a link; what was queued for a stage that was only silent goes out first.
async fn close(sender: Sender, why: Reason) {
    if why == Reason::BadFrame {
        return sender.hang_up(HangUp::BadFrame);
    }
    timeout(limits::FLUSH_DEADLINE, sender.clone().finish()).await.ok();
    sender.hang_up(HangUp::Done);
}

fn log(event: &Event) {
    match event {
        // What clients do is no trouble of the server's.
        Event::Ended { session, failure }
            if matches!(failure.reason, Reason::Cancelled | Reason::ClientLost) =>
        {
            info!(session = %session.short(), %failure, "session ended");
        }
        Event::Broken(broken) => error!(%broken, "a frame is not sent"),
        Event::Ended { session, failure } => {
            warn!(session = %session.short(), %failure, "session ended");
        }
        Event::Finished { session } => info!(session = %session.short(), "session finished"),
        Event::Opened { session, place } => {
            info!(session = %session.short(), stage = place, "session opened");
        }
        Event::Stranger { session, node } => {
            debug!(session = %session.short(), node = %node.short(), "frame of a stranger");
        }
    }
}

#[cfg(test)]
mod tests {
    use lockstep_proto::server::{Capacity, Holding, RunValues};
    use lockstep_testing::hash_model::{LAYERS, model, vocabulary};
    use lockstep_verify::secret::Secret;

    use super::*;
    use crate::transport::memory::Network;
    use crate::transport::{AllowList, Identity, LinkFailure};

    /// Says that it ran.
    struct Tattler(std::sync::mpsc::Sender<()>);

    impl Execute for Tattler {
        fn run(&mut self, _: Job) -> Vec<Done> {
            self.0.send(()).expect("somebody listens");
            Vec::new()
        }
    }

    /// The loop of a server of the hash model, and its place on the network.
    fn driver(network: &Network) -> (Driver, Arc<Endpoint>) {
        let key = Identity::from_secret(&[1; 32]).keypair();
        let endpoint = Arc::new(network.endpoint(key.id(), AllowList::Anyone));
        let holding = Holding { model: model(), span: 0..LAYERS, head: Some(vocabulary()) };
        let runs = RunValues::new(Secret::of(&[2; 32]));
        let machine = Server::new(key, holding, Capacity::default(), runs);
        let ((heard, _), (jobs, _)) = (mpsc::channel(1), mpsc::channel(1));
        (Driver::new(Arc::clone(&endpoint), machine, heard, jobs), endpoint)
    }

    /// A client's link; the server's loop has taken it in.
    async fn client(driver: &mut Driver, client: &Endpoint) -> (LinkId, Link) {
        let server = PeerAddr { id: driver.endpoint.id(), addrs: Vec::new() };
        let link = client.connect(&server, Class::Control).await.expect("let in");
        let endpoint = Arc::clone(&driver.endpoint);
        driver.accept(endpoint.accept().await.expect("dialled"));
        (LinkId(driver.next_link), link)
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_nothing_is_let_go_over_all_its_links_and_others_are_served() {
        const ANSWER_BYTES: usize = 20 << 20;
        let network = Network::new();
        let (mut driver, _endpoint) = driver(&network);
        let hoarder = network.endpoint(NodeId([8; 32]), AllowList::Anyone);
        let honest = network.endpoint(NodeId([9; 32]), AllowList::Anyone);
        let (known, mut reader) = client(&mut driver, &honest).await;
        let mut hoard = Vec::new();
        for _ in 0..limits::LINKS_OF_PEER {
            hoard.push(client(&mut driver, &hoarder).await);
        }
        // One answer to each link, as long as an opening may be.
        for (link, _) in &hoard {
            driver.send_to_client(*link, vec![0; ANSWER_BYTES]);
        }
        let most = limits::UNREAD_PEER_BYTES / ANSWER_BYTES;
        let left = hoard.iter().filter(|(link, _)| driver.clients.contains_key(link)).count();
        assert_eq!(left, most, "of {} links", hoard.len());
        for (_, link) in hoard.iter_mut().skip(most) {
            let error = link.receiver.recv().await.expect_err("let go");
            assert_eq!(error.why, LinkFailure::HungUp(HangUp::Unread));
        }
        // Whoever reads is served, also while all that waits is the hoarder's.
        for _ in 0..8 {
            driver.send_to_client(known, vec![0; ANSWER_BYTES]);
            let frame = reader.receiver.recv().await.expect("open").expect("a frame");
            assert_eq!(frame.len(), ANSWER_BYTES - 4);
        }
        // What it has read counts no more.
        let (link, reading) = &mut hoard[0];
        reading.receiver.recv().await.expect("open").expect("its answer");
        driver.send_to_client(*link, vec![0; ANSWER_BYTES]);
        assert!(driver.clients.contains_key(link), "there is room again");
    }

    #[tokio::test]
    async fn a_thread_that_would_round_otherwise_computes_nothing() {
        let (ran, runs) = std::sync::mpsc::channel();
        let (heard, _inbox) = mpsc::channel(1);
        let (say, checked_on) = std::sync::mpsc::channel();
        let flushes = FloatModeError { got: 0x9f80, mask: 0x8000 };
        let check = move || {
            say.send(thread::current().name().map(str::to_owned)).expect("somebody listens");
            Err(flushes)
        };
        let started = start_executor(Tattler(ran), heard, check).await;
        assert!(matches!(started, Err(ServeError::FloatMode(error)) if error == flushes));
        assert_eq!(checked_on.recv().expect("checked"), Some("executor".to_owned()));
        assert!(runs.recv().is_err(), "the executor is gone and has not run");
    }

    #[tokio::test]
    async fn a_thread_that_rounds_as_it_should_runs_jobs() {
        let (ran, runs) = std::sync::mpsc::channel();
        let (heard, mut inbox) = mpsc::channel(1);
        let jobs = start_executor(Tattler(ran), heard, Kernels::check_thread).await;
        jobs.expect("started").try_send(Job { id: 7, items: Vec::new() }).expect("room");
        assert!(matches!(inbox.recv().await, Some(Heard::Ran { job: 7, .. })));
        assert!(runs.recv().is_ok());
    }
}
