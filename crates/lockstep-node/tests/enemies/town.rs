//! Two servers of the hash model on loopback, and honest clients of theirs.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use lockstep_exact::sample::{Sampling, Stops};
use lockstep_node::driver::{self, Clock, Links, Peers, Serving, serve};
use lockstep_node::transport::{AllowList, Endpoint, Identity, NodeId, PeerAddr};
use lockstep_proto::client::{Ask, Challenger, Client};
use lockstep_proto::fair::Weight;
use lockstep_proto::frame::{RingFrame, Tenant};
use lockstep_proto::server::{Capacity, Holding, RunValues, Server};
use lockstep_testing::hash_model::{HashModel, LAYERS, model, vocabulary};
use lockstep_verify::challenge::Target;
use lockstep_verify::request::{AuditSeed, Hop, Lease, Request};
use lockstep_verify::secret::Secret;
use lockstep_verify::sign::{Keypair, Signature};
use lockstep_verify::statement::RunId;
use tokio::runtime;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

pub(crate) const LOOPBACK: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const SPLIT: u32 = LAYERS / 2;

/// A key that nobody has used.
pub(crate) fn random_key() -> Keypair {
    Identity::generate().keypair()
}

/// A lease as stage 0 hands it on.
pub(crate) fn lease_frame(lease: Lease) -> RingFrame {
    let tenant = Tenant { label: 0, weight: Weight::ONE };
    RingFrame::Lease { runs: vec![RunId(lease.digest())], tenant, lease: Box::new(lease) }
}

/// An endpoint of somebody whom nobody knows.
pub(crate) async fn endpoint() -> Arc<Endpoint> {
    let endpoint = Endpoint::bind(&Identity::generate(), LOOPBACK, AllowList::Anyone).await;
    Arc::new(endpoint.expect("loopback"))
}

/// Lets time pass.
pub(crate) async fn pause(time: Duration) {
    timeout(time, std::future::pending::<()>()).await.ok();
}

/// Memory of this process in MiB; 0 where the system can't be asked.
pub(crate) fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

/// Two servers that hold the model between them.
#[derive(Clone)]
pub(crate) struct Town {
    peers: Vec<PeerAddr>,
    stop: Arc<Notify>,
}

impl Town {
    /// Starts the servers, each on a runtime of its own.
    pub(crate) fn start() -> Self {
        let stop = Arc::new(Notify::new());
        let server = |span: core::ops::Range<u32>| {
            let (say, told) = oneshot::channel();
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                let runtime = runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime").block_on(async move {
                    let identity = Identity::generate();
                    let bound = Endpoint::bind(&identity, LOOPBACK, AllowList::Anyone).await;
                    let endpoint = Arc::new(bound.expect("loopback"));
                    say.send(endpoint.addr()).expect("somebody waits");
                    let head = (span.start == 0).then(vocabulary);
                    let holding = Holding { model: model(), span, head };
                    let runs = RunValues::new(Secret::of(&Identity::generate().id().0));
                    let capacity = Capacity::default();
                    let machine = Server::new(identity.keypair(), holding, capacity, runs);
                    let serving = Serving { endpoint, machine, executor: HashModel::default() };
                    let never = std::future::pending();
                    serve(serving, never, stop.notified()).await.expect("it serves");
                });
            });
            told.blocking_recv().expect("it listens")
        };
        let peers = thread::scope(|scope| {
            scope.spawn(|| [0..SPLIT, SPLIT..LAYERS].map(server)).join().expect("started")
        });
        Self { peers: peers.to_vec(), stop }
    }

    pub(crate) async fn stop(&self) {
        self.stop.notify_waiters();
    }

    pub(crate) fn peer(&self, server: usize) -> PeerAddr {
        self.peers[server].clone()
    }

    pub(crate) fn route(&self) -> Vec<Hop> {
        vec![
            Hop { node: self.peers[0].id, first: 0, end: SPLIT },
            Hop { node: self.peers[1].id, first: SPLIT, end: LAYERS },
        ]
    }

    fn addresses(&self) -> Vec<String> {
        self.peers.iter().map(|peer| peer.addrs[0].to_string()).collect()
    }

    /// A request for so many tokens.
    pub(crate) fn request(&self, session: &Keypair, prompt: u32, max_tokens: u32) -> Request {
        Request {
            manifest: model().manifest,
            adapters: Vec::new(),
            prompt: (1..=prompt).map(|token| token % 90).collect(),
            sampling: Sampling::default(),
            stops: Stops { max_tokens, ..Stops::default() },
            nonce: random_key().id().0,
            session_key: session.id(),
            audit_commitment: AuditSeed::new(Secret::of(&[7; 32])).commitment(),
        }
    }

    /// The machine of a client that asks for so many tokens.
    pub(crate) fn client(&self, session: &Keypair, prompt: u32, tokens: u32) -> Client {
        let request = self.request(session, prompt, tokens);
        let ask = Ask { request, route: self.route(), addresses: self.addresses() };
        let now = Clock::start().now();
        Client::new(now, ask, session, &model(), vocabulary()).expect("a good request")
    }

    /// A lease of somebody who says that server 1 is the second stage of three, before a stage that
    /// is at these addresses.
    pub(crate) fn lease(&self, first: NodeId, last: NodeId, addresses: &str) -> Lease {
        let session = random_key();
        let request = self.request(&session, 9, 100);
        let end = LAYERS - 1;
        let lease = Lease {
            session: request.session(),
            epoch: 0,
            manifest: request.manifest,
            adapters: Vec::new(),
            reuse: None,
            session_key: session.id(),
            prompt_len: 9,
            max_positions: 100,
            route: vec![
                Hop { node: first, first: 0, end: SPLIT },
                Hop { node: self.peers[1].id, first: SPLIT, end },
                Hop { node: last, first: end, end: LAYERS },
            ],
            addresses: vec![String::new(), String::new(), addresses.to_owned()],
            signature: Signature::NONE,
        };
        lease.signed(&session)
    }

    /// An honest client that asks again, a few times, when it is refused: how often it was.
    pub(crate) async fn answer(&self) -> Result<usize, String> {
        let is_refusal = |error: &str| error.contains("refused") || error.contains("server busy");
        let mut refused = 0;
        loop {
            match self.answer_at_once().await {
                Ok(()) => return Ok(refused),
                Err(error) if is_refusal(&error) && refused < 20 => refused += 1,
                Err(error) => return Err(error),
            }
            pause(Duration::from_millis(50)).await;
        }
    }

    /// An honest client, new to everybody: one answer, and the opening of a cell of every layer.
    async fn answer_at_once(&self) -> Result<(), String> {
        let links = Links::new(endpoint().await);
        let (session, clock) = (random_key(), Clock::start());
        let machine = self.client(&session, 20, 4);
        let asking = driver::ask(&links, &self.peers[0], clock, machine);
        let receipt = asking.finish().await.map_err(|error| error.to_string())?;
        let target = |layer| Target::Layer { layer, first: 0, end: 8, positions: vec![1, 7] };
        let stage = |layer| if layer < SPLIT { 0 } else { 1 };
        let plan = (0..LAYERS).map(|layer| (stage(layer), target(layer))).collect();
        let machine = Challenger::new(clock.now(), &receipt, plan, &session, model().prices, 0);
        let peers: Peers = self.peers.iter().map(|peer| (peer.id, peer.clone())).collect();
        let mut answers = driver::challenge(&links, &peers, clock, machine);
        let mut missing = None;
        while let Some(exchange) = answers.next().await {
            answers.taken(exchange.stage);
            missing = missing.or_else(|| exchange.answer.err());
        }
        links.close().await;
        missing.map_or(Ok(()), |why| Err(format!("an opening is missing: {why}")))
    }
}
