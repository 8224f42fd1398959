//! What connects a server's machine to the world: links and an executor thread around [`Server`].

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use lockstep_kernels::{FloatModeError, Kernels};
use lockstep_proto::failure::Reason;
use lockstep_proto::job::{Done, Execute, Job};
use lockstep_proto::limits as protocol;
use lockstep_proto::server::{self, Input, LinkId, Output, Server};
use lockstep_verify::sign::NodeId;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, error, info, warn};

use super::body;
use super::book::Book;
use super::clock::Clock;
use super::drive::{Next, Port, drive};
use super::figures::Question;
use super::peers::{Peers, Sent};
use super::swarm::{Handle, changed};
use crate::limits;
use crate::transport::{Class, Endpoint, HangUp, Link, PeerAddr, Sender};

/// What links and the executor tell a server's loop.
enum Event {
    Frame { from: From, body: Bytes },
    Lost { from: From },
    Connected { node: NodeId, dial: u64, link: Option<Box<Link>> },
    Ran { job: u64, done: Vec<Done> },
}

/// The link on which a frame came.
#[derive(Clone, Copy, Debug)]
enum From {
    Client { link: LinkId, peer: NodeId },
    Stage { node: NodeId, link: u64 },
}

/// A machine on this endpoint serves the class already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a machine of this node serves every {class} already")]
pub struct AlreadyServed {
    /// The class of links that is taken.
    pub class: Class,
}

/// The reasons why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The thread that was to compute would compute something else.
    #[error(transparent)]
    FloatMode(#[from] FloatModeError),
    /// Another machine on this endpoint serves.
    #[error(transparent)]
    AlreadyServed(#[from] AlreadyServed),
    /// The thread that computes has ended although jobs could come: a fault of this program.
    #[error("the thread that computes has died: nothing can be served any more; start it again")]
    ExecutorDied,
    /// The system gave no thread to compute on.
    #[error("the thread that computes could not be started: {0}")]
    Thread(#[source] io::Error),
}

/// What comes to a server's loop from its node: links, questions for its figures, the swarm.
pub(super) type Inputs =
    (mpsc::Receiver<Link>, mpsc::Receiver<Question<server::Figures>>, Option<Handle>);

/// Drives a server's machine on an endpoint whose links of its classes come through `accepted`,
/// until it has drained or `stop`.
///
/// # Errors
/// [`ServeError`].
pub(super) async fn serve_on<E, Drain, Stop>(
    endpoint: Arc<Endpoint>,
    clock: Clock,
    (accepted, asked, swarm): Inputs,
    (mut machine, executor): (Server, E),
    (drain, stop): (Drain, Stop),
) -> Result<(), ServeError>
where
    E: Execute + Send + 'static,
    Drain: Future<Output = ()> + Send,
    Stop: Future<Output = ()> + Send,
{
    let (events, inbox) = mpsc::channel(limits::DRIVER_INBOX);
    let (jobs, died) = start_executor(executor, events.clone(), Kernels::check_thread).await?;
    let (drain, stop) = (pin!(drain), pin!(stop));
    if let Some(swarm) = &swarm {
        machine.swarm_has(swarm.len());
        machine.handle(clock.now(), Input::Tick);
    }
    let mut port = ServerPort {
        clock,
        swarm,
        links: ServerLinks::new(endpoint, events, jobs),
        inbox,
        accepted,
        asked,
        died,
        is_draining: false,
        drain,
        stop,
    };
    let end = drive(clock, &mut machine, &mut port).await;
    if let Some(swarm) = &mut port.swarm {
        swarm.leave(machine.leave(clock.now())).await;
    }
    match end {
        End::Drained => port.links.finish().await,
        End::ExecutorDied => return Err(ServeError::ExecutorDied),
        End::Stopped => {}
    }
    Ok(())
}

/// Ends with an error when the thread of the executor does, however that ends.
type Died = oneshot::Receiver<Infallible>;

/// Runs jobs one at a time on a thread of their own, until no more can come. `check` says there,
/// before the first, whether that thread computes as the arithmetic is defined. Gives the queue of
/// jobs, and what tells that the thread has ended.
async fn start_executor<E: Execute + Send + 'static>(
    mut executor: E,
    events: mpsc::Sender<Event>,
    check: impl FnOnce() -> Result<(), FloatModeError> + Send + 'static,
) -> Result<(mpsc::Sender<Job>, Died), ServeError> {
    // The machine has no more jobs under way at a time.
    let (jobs, mut queue) = mpsc::channel::<Job>(protocol::JOBS_AT_EXECUTOR);
    let (say, checked) = oneshot::channel();
    let (alive, died) = oneshot::channel();
    let executing = move || {
        // Dropped with all that the thread has, also when the executor panics.
        let _alive = alive;
        let mode = check();
        let is_exact = mode.is_ok();
        if say.send(mode).is_err() || !is_exact {
            return;
        }
        while let Some(job) = queue.blocking_recv() {
            let id = job.id;
            let done = executor.run(job);
            if events.blocking_send(Event::Ran { job: id, done }).is_err() {
                break;
            }
        }
    };
    let thread = thread::Builder::new().name("executor".to_owned());
    thread.spawn(executing).map_err(ServeError::Thread)?;
    let at_once = |_| ServeError::Thread(io::Error::other("it died at once"));
    checked.await.map_err(at_once)??;
    Ok((jobs, died))
}

/// How a server's loop ends.
enum End {
    /// All sessions are over and challenged, or their time is up.
    Drained,
    /// Nothing can be computed any more.
    ExecutorDied,
    /// It was stopped, or nobody can reach it any more.
    Stopped,
}

/// What the loop of a server waits for.
enum Arrival {
    Accepted(Option<Box<Link>>),
    Asked(Question<server::Figures>),
    Died,
    Drain,
    SwarmChanged,
    Event(Option<Event>),
    Stop,
    TaskEnded,
}

/// What connects a server's machine to links, the executor, and those who run it.
struct ServerPort<Drain, Stop> {
    clock: Clock,
    swarm: Option<Handle>,
    links: ServerLinks,
    inbox: mpsc::Receiver<Event>,
    accepted: mpsc::Receiver<Link>,
    asked: mpsc::Receiver<Question<server::Figures>>,
    died: Died,
    is_draining: bool,
    drain: Drain,
    stop: Stop,
}

impl<Drain, Stop> Port<Server> for ServerPort<Drain, Stop>
where
    Drain: Future<Output = ()> + Send + Unpin,
    Stop: Future<Output = ()> + Send + Unpin,
{
    type Arrival = Arrival;
    type End = End;

    async fn hear(&mut self) -> Arrival {
        tokio::select! {
            () = &mut self.stop => Arrival::Stop,
            () = &mut self.drain, if !self.is_draining => Arrival::Drain,
            _ = &mut self.died => Arrival::Died,
            event = self.inbox.recv() => Arrival::Event(event),
            () = changed(&mut self.swarm) => Arrival::SwarmChanged,
            link = self.accepted.recv() => Arrival::Accepted(link.map(Box::new)),
            Some(asked) = self.asked.recv() => Arrival::Asked(asked),
            Some(_) = self.links.tasks.join_next() => Arrival::TaskEnded,
        }
    }

    async fn take(&mut self, machine: &mut Server, heard: Arrival) -> Next<Input, End> {
        match heard {
            Arrival::Accepted(Some(link)) => {
                self.links.accept(*link);
                Next::Nothing
            }
            Arrival::Asked(question) => {
                // Whoever asked may wait no longer.
                question.send(machine.figures()).ok();
                Next::Nothing
            }
            Arrival::Drain => {
                self.is_draining = true;
                info!(sessions = machine.sessions(), "no new sessions from now on");
                machine.drain(self.clock.now());
                Next::Input(Input::Tick)
            }
            Arrival::Event(Some(event)) => match self.links.hear(event) {
                Some(input) => Next::Input(input),
                None => Next::Nothing,
            },
            Arrival::Died => Next::Over(End::ExecutorDied),
            Arrival::SwarmChanged => {
                if let Some(swarm) = &self.swarm {
                    machine.swarm_has(swarm.len());
                    machine.linked_to(swarm.neighbours());
                }
                Next::Nothing
            }
            Arrival::TaskEnded => Next::Nothing,
            Arrival::Accepted(None) | Arrival::Event(None) | Arrival::Stop => {
                Next::Over(End::Stopped)
            }
        }
    }

    fn perform(&mut self, output: Output) -> Next<Input, End> {
        let output = match (output, &self.swarm) {
            (Output::Announce(announcement), Some(swarm)) => {
                swarm.announce(*announcement);
                return Next::Nothing;
            }
            (output, _) => output,
        };
        match self.links.perform(output) {
            Some(input) => Next::Input(input),
            None => Next::Nothing,
        }
    }

    fn ended(&self, machine: &Server) -> Option<End> {
        machine.is_drained().then_some(End::Drained)
    }
}

/// A server's links: those of its clients by their numbers, those to other stages by their nodes.
struct ServerLinks {
    endpoint: Arc<Endpoint>,
    events: mpsc::Sender<Event>,
    jobs: mpsc::Sender<Job>,
    clients: BTreeMap<LinkId, Sender>,
    peers: Peers,
    book: Book,
    /// Dials under way because leases asked for them.
    dials: Arc<Semaphore>,
    next_link: u64,
    tasks: JoinSet<()>,
}

impl ServerLinks {
    fn new(endpoint: Arc<Endpoint>, events: mpsc::Sender<Event>, jobs: mpsc::Sender<Job>) -> Self {
        Self {
            endpoint,
            events,
            jobs,
            clients: BTreeMap::new(),
            peers: Peers::default(),
            book: Book::default(),
            dials: Arc::new(Semaphore::new(limits::DIALS)),
            next_link: 0,
            tasks: JoinSet::new(),
        }
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
    fn hear(&mut self, event: Event) -> Option<Input> {
        match event {
            Event::Frame { from: From::Client { link, peer }, body } => {
                Some(Input::ClientFrame { link, peer, body: body.into() })
            }
            Event::Frame { from: From::Stage { node, link }, body } => {
                self.peers.heard(node, link);
                Some(Input::PeerFrame { node, body: body.into() })
            }
            Event::Lost { from: From::Client { link, .. } } => {
                self.clients.remove(&link);
                Some(Input::ClientLost(link))
            }
            Event::Lost { from: From::Stage { node, link } } => {
                self.peers.lost(node, link).then_some(Input::PeerLost(node))
            }
            Event::Connected { node, dial, link } => self.connected(node, dial, link),
            Event::Ran { job, done } => Some(Input::Ran { job, done }),
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
            // The node gives links of these classes to whoever takes part in the swarm.
            Class::Swarm | Class::Blobs => link.sender.hang_up(HangUp::Busy),
            Class::Ring => {
                let node = link.peer;
                if let Some(from) = link.from {
                    self.book.came_from(node, from.into());
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

    fn connected(&mut self, node: NodeId, dial: u64, link: Option<Box<Link>>) -> Option<Input> {
        let Some(link) = link else {
            self.book.is_not_there(node);
            return self.peers.unreachable(node, dial).then_some(Input::PeerLost(node));
        };
        let id = self.number();
        self.peers.dialled(node, id, &link.sender);
        self.read(From::Stage { node, link: id }, *link);
        None
    }

    /// Starts a task that reads a link until it ends.
    fn read(&mut self, from: From, link: Link) {
        let events = self.events.clone();
        let Link { sender, mut receiver, .. } = link;
        self.tasks.spawn(async move {
            // The link lives as long as both of its halves.
            let _sender = sender;
            while let Ok(Some(body)) = receiver.recv().await {
                if events.send(Event::Frame { from, body }).await.is_err() {
                    return;
                }
            }
            events.send(Event::Lost { from }).await.ok();
        });
    }

    /// Does what the machine wants; an input follows if that can't be done.
    fn perform(&mut self, output: Output) -> Option<Input> {
        match output {
            // This server is in no swarm.
            Output::Announce(_) => {}
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
                    warn!("the executor is gone");
                }
            }
            Output::ToClient { link, wire } => return self.send_to_client(link, wire),
            Output::ToPeer { node, address, wire } => {
                return self.send_to_peer(node, address.as_deref(), wire);
            }
        }
        None
    }

    fn send_to_client(&mut self, link: LinkId, wire: Vec<u8>) -> Option<Input> {
        let sender = self.clients.get(&link)?;
        let error = sender.post(body(wire)).err()?;
        debug!(%error, "a client can't be written to");
        sender.hang_up(HangUp::Unread);
        self.clients.remove(&link);
        Some(Input::ClientLost(link))
    }

    fn send_to_peer(
        &mut self,
        node: NodeId,
        address: Option<&str>,
        wire: Vec<u8>,
    ) -> Option<Input> {
        match self.peers.send(node, body(wire)) {
            Sent::Queued => None,
            Sent::Dial(dial) => self.dial(node, dial, address),
            Sent::Lost(error) => {
                debug!(%error, "a stage can't be written to");
                Some(Input::PeerLost(node))
            }
        }
    }

    /// Dials a stage where it is known to be, or else where a lease says that it is.
    fn dial(&mut self, node: NodeId, dial: u64, address: Option<&str>) -> Option<Input> {
        let peer = PeerAddr { id: node, addrs: self.book.addresses(node, address) };
        let place = Arc::clone(&self.dials).try_acquire_owned();
        let (Ok(place), false) = (place, peer.addrs.is_empty()) else {
            debug!(node = %node.short(), "not dialled: no address, or too many dials at once");
            return self.peers.unreachable(node, dial).then_some(Input::PeerLost(node));
        };
        let (endpoint, events) = (Arc::clone(&self.endpoint), self.events.clone());
        self.tasks.spawn(async move {
            let _place = place;
            let link = endpoint.connect(&peer, Class::Ring).await;
            if let Err(error) = &link {
                warn!(%error, "a stage can't be reached");
            }
            let link = link.ok().map(Box::new);
            events.send(Event::Connected { node, dial, link }).await.ok();
        });
        None
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

fn log(event: &server::Event) {
    match event {
        // What clients do is no trouble of the server's.
        server::Event::Ended { session, failure }
            if matches!(failure.reason, Reason::Cancelled | Reason::ClientLost) =>
        {
            info!(session = %session.short(), %failure, "session ended");
        }
        server::Event::Broken(broken) => error!(%broken, "a frame is not sent"),
        server::Event::Ended { session, failure } => {
            warn!(session = %session.short(), %failure, "session ended");
        }
        server::Event::Finished { session } => {
            info!(session = %session.short(), "session finished")
        }
        server::Event::Opened { session, place } => {
            info!(session = %session.short(), stage = place, "session opened");
        }
        server::Event::Refused { what, about, node, refusal } => {
            let what = match what {
                server::Refused::Challenge => "challenge refused",
                server::Refused::Session => "session refused",
            };
            info!(about = %about.short(), node = %node.short(), %refusal, "{what}");
        }
        server::Event::Stranger { session, node } => {
            debug!(session = %session.short(), node = %node.short(), "frame of a stranger");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::memory::Network;
    use crate::transport::{AllowList, LinkFailure};

    /// Says that it ran.
    struct Tattler(std::sync::mpsc::Sender<()>);

    impl Execute for Tattler {
        fn run(&mut self, _: Job) -> Vec<Done> {
            self.0.send(()).expect("somebody listens");
            Vec::new()
        }
    }

    /// The links of a server, and its place on the network.
    fn links(network: &Network) -> (ServerLinks, Arc<Endpoint>) {
        let endpoint = Arc::new(network.endpoint(NodeId([1; 32]), AllowList::Anyone));
        let ((events, _), (jobs, _)) = (mpsc::channel(1), mpsc::channel(1));
        (ServerLinks::new(Arc::clone(&endpoint), events, jobs), endpoint)
    }

    /// A client's link, which the server has taken in.
    async fn client(server: &mut ServerLinks, client: &Endpoint) -> (LinkId, Link) {
        let address = PeerAddr { id: server.endpoint.id(), addrs: Vec::new() };
        let link = client.connect(&address, Class::Control).await.expect("let in");
        let endpoint = Arc::clone(&server.endpoint);
        server.accept(endpoint.accept().await.expect("dialled"));
        (LinkId(server.next_link), link)
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_nothing_is_let_go_over_all_its_links_and_others_are_served() {
        const ANSWER_BYTES: usize = 20 << 20;
        let network = Network::new();
        let (mut server, _endpoint) = links(&network);
        let hoarder = network.endpoint(NodeId([8; 32]), AllowList::Anyone);
        let honest = network.endpoint(NodeId([9; 32]), AllowList::Anyone);
        let (known, mut reader) = client(&mut server, &honest).await;
        let mut hoard = Vec::new();
        for _ in 0..limits::LINKS_OF_PEER {
            hoard.push(client(&mut server, &hoarder).await);
        }
        // One answer to each link, as long as an opening may be.
        for (link, _) in &hoard {
            server.send_to_client(*link, vec![0; ANSWER_BYTES]);
        }
        let most = limits::UNREAD_PEER_BYTES / ANSWER_BYTES;
        let left = hoard.iter().filter(|(link, _)| server.clients.contains_key(link)).count();
        assert_eq!(left, most, "of {} links", hoard.len());
        for (_, link) in hoard.iter_mut().skip(most) {
            let error = link.receiver.recv().await.expect_err("let go");
            assert_eq!(error.why, LinkFailure::HungUp(HangUp::Unread));
        }
        // Whoever reads is served, also while all that waits is the hoarder's.
        for _ in 0..8 {
            server.send_to_client(known, vec![0; ANSWER_BYTES]);
            let frame = reader.receiver.recv().await.expect("open").expect("a frame");
            assert_eq!(frame.len(), ANSWER_BYTES - 4);
        }
        // What it has read counts no more.
        let (link, reading) = &mut hoard[0];
        reading.receiver.recv().await.expect("open").expect("its answer");
        server.send_to_client(*link, vec![0; ANSWER_BYTES]);
        assert!(server.clients.contains_key(link), "there is room again");
    }

    #[tokio::test]
    async fn a_thread_that_would_round_otherwise_computes_nothing() {
        let (ran, runs) = std::sync::mpsc::channel();
        let (events, _inbox) = mpsc::channel(1);
        let (say, checked_on) = std::sync::mpsc::channel();
        let flushes = FloatModeError { got: 0x9f80, mask: 0x8000 };
        let check = move || {
            say.send(thread::current().name().map(str::to_owned)).expect("somebody listens");
            Err(flushes)
        };
        let started = start_executor(Tattler(ran), events, check).await;
        assert!(matches!(started, Err(ServeError::FloatMode(error)) if error == flushes));
        assert_eq!(checked_on.recv().expect("checked"), Some("executor".to_owned()));
        assert!(runs.recv().is_err(), "the executor is gone and has not run");
    }

    #[tokio::test]
    async fn a_thread_that_rounds_as_it_should_runs_jobs() {
        let (ran, runs) = std::sync::mpsc::channel();
        let (events, mut inbox) = mpsc::channel(1);
        let started = start_executor(Tattler(ran), events, Kernels::check_thread).await;
        let (jobs, mut died) = started.expect("started");
        jobs.try_send(Job { id: 7, items: Vec::new() }).expect("room");
        assert!(matches!(inbox.recv().await, Some(Event::Ran { job: 7, .. })));
        assert!(runs.recv().is_ok());
        assert!(matches!(died.try_recv(), Err(oneshot::error::TryRecvError::Empty)), "it lives");
        drop(jobs);
        died.await.expect_err("it ends when no more jobs can come");
    }
}
