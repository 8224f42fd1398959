//! Several machines on one endpoint, over real sockets: two nodes that each serve and ask at the
//! same time.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use lockstep_exact::sample::{Sampling, Stops};
use lockstep_node::driver::{AlreadyServed, Node, Peers};
use lockstep_node::transport::{
    AllowList, Class, ConnectFailure, Endpoint, HangUp, Identity, LinkFailure, PeerAddr,
};
use lockstep_proto::client::{Ask, Challenger, Client};
use lockstep_proto::server::{Capacity, Holding, RunValues, Server};
use lockstep_testing::hash_model::{HashModel, LAYERS, model, vocabulary};
use lockstep_verify::challenge::Target;
use lockstep_verify::receipt::Receipt;
use lockstep_verify::request::{AuditSeed, Hop, Request};
use lockstep_verify::secret::Secret;
use lockstep_verify::sign::Keypair;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// No test waits longer than this for anything.
const WATCHDOG: Duration = Duration::from_secs(60);
const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const SPLIT: u32 = LAYERS / 2;

/// A node on loopback, which serves the whole model and can ask others.
struct Neighbour {
    machines: Arc<Node>,
    identity: Identity,
    peer: PeerAddr,
}

impl Neighbour {
    async fn start() -> Self {
        let identity = Identity::generate();
        let bound = Endpoint::bind(&identity, LOOPBACK, AllowList::Anyone).await;
        let endpoint = Arc::new(bound.expect("loopback"));
        let peer = endpoint.addr();
        Self { machines: Arc::new(Node::new(endpoint)), identity, peer }
    }

    /// Serves on a task of its own, until it is told to stop.
    fn serve(&self) -> (JoinHandle<()>, Arc<Notify>) {
        let holding = Holding { model: model(), span: 0..LAYERS, head: Some(vocabulary()) };
        let runs = RunValues::new(Secret::of(&Identity::generate().id().0));
        let machine = Server::new(self.identity.keypair(), holding, Capacity::default(), runs);
        let (machines, stop) = (Arc::clone(&self.machines), Arc::new(Notify::new()));
        let stopped = Arc::clone(&stop);
        let serving = tokio::spawn(async move {
            let never = std::future::pending();
            let served = machines.serve(machine, HashModel::default(), never, stopped.notified());
            served.await.expect("it serves");
        });
        (serving, stop)
    }

    /// Asks for an answer on a route, and checks that it is the model's. `number` is the request's.
    async fn ask(&self, number: u8, route: &[(&Self, u32)]) -> (Receipt, Keypair) {
        let session = Keypair::from_secret(&Identity::generate().id().0);
        let request = Request {
            manifest: model().manifest,
            adapters: Vec::new(),
            prompt: (1..200).map(|token| (token + u32::from(number)) % 90).collect(),
            sampling: Sampling::default(),
            stops: Stops { max_tokens: 12, ignore_end: true, ..Stops::default() },
            nonce: [number; 32],
            session_key: session.id(),
            audit_commitment: AuditSeed::new(Secret::of(&[7; 32])).commitment(),
        };
        let mut first = 0;
        let hops = route.iter().map(|(node, end)| {
            let hop = Hop { node: node.peer.id, first, end: *end };
            first = *end;
            hop
        });
        let addresses = route.iter().map(|(node, _)| node.peer.text()).collect();
        let ask = Ask { request: request.clone(), route: hops.collect(), addresses };
        let now = self.machines.clock().now();
        let machine = Client::new(now, ask, &session, &model(), vocabulary()).expect("good");
        let asking = self.machines.ask(&route[0].0.peer, machine);
        let answer = timeout(WATCHDOG, asking.finish()).await.expect("no hang");
        let receipt = answer.expect("an answer");
        assert_eq!(receipt.answer, HashModel::answer(&request, 12));
        (receipt, session)
    }

    /// Has cells of the first stage's layers opened.
    async fn challenge(&self, receipt: &Receipt, session: &Keypair, first: &Self, layers: u32) {
        let target = |layer| Target::Layer { layer, first: 0, end: 8, positions: vec![1, 7] };
        let targets = (0..layers).map(|layer| (0, target(layer))).collect();
        let (now, prices) = (self.machines.clock().now(), model().prices);
        let machine = Challenger::new(now, receipt, targets, session, prices, 0);
        let peers: Peers = BTreeMap::from([(first.peer.id, first.peer.clone())]);
        let mut answers = self.machines.challenge(&peers, machine);
        let mut opened = 0;
        while let Some(exchange) = timeout(WATCHDOG, answers.next()).await.expect("no hang") {
            answers.taken(exchange.stage);
            opened += usize::from(exchange.answer.is_ok());
        }
        assert_eq!(opened, layers as usize);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_serve_each_other_ask_each_other_over_the_same_endpoints() {
    let (one, other) = (Neighbour::start().await, Neighbour::start().await);
    let ((serving, stop), _other) = (one.serve(), other.serve());
    for round in 0..3 {
        // Each is stage 0 for the other and stage 1 for itself, at the same time.
        let routes = [[(&other, SPLIT), (&one, LAYERS)], [(&one, SPLIT), (&other, LAYERS)]];
        let asked = (one.ask(round, &routes[0]), other.ask(round + 9, &routes[1]));
        let (mine, theirs) = tokio::join!(asked.0, asked.1);
        tokio::join!(
            one.challenge(&mine.0, &mine.1, &other, SPLIT),
            other.challenge(&theirs.0, &theirs.1, &one, SPLIT)
        );
    }
    // Requests and challenges shared one link.
    let taken = one.machines.links().take(&other.peer).await.expect("a link");
    assert!(taken.is_kept);
    one.machines.links().keep(taken.link);
    // Where the server has ended, the client goes on.
    stop.notify_waiters();
    timeout(WATCHDOG, serving).await.expect("no hang").expect("it stops");
    one.ask(50, &[(&other, LAYERS)]).await;
    // And a server may begin there again.
    let (_serves, _stop) = one.serve();
    other.ask(60, &[(&one, LAYERS)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_class_is_served_once_and_what_nobody_serves_is_refused() {
    let (node, caller) = (Neighbour::start().await, Neighbour::start().await);
    let ring = node.machines.accept(&[Class::Ring]).expect("nobody serves it");
    let refused = node.machines.accept(&[Class::Control, Class::Ring]).map(drop);
    assert_eq!(refused, Err(AlreadyServed { class: Class::Ring }));
    let endpoint = caller.machines.links().endpoint();
    // The caller hears it as it dials, or as soon as it reads.
    match endpoint.connect(&node.peer, Class::Control).await {
        Err(error) => assert_eq!(error.why, ConnectFailure::Busy),
        Ok(mut control) => {
            let ended = timeout(WATCHDOG, control.receiver.recv()).await.expect("no hang");
            assert_eq!(ended.expect_err("refused").why, LinkFailure::HungUp(HangUp::Busy));
        }
    }
    // Each class has its links, whatever becomes of the other's.
    let mut ring = ring;
    let mut control = node.machines.accept(&[Class::Control]).expect("nobody serves it");
    for (class, served) in [(Class::Control, &mut control), (Class::Ring, &mut ring)] {
        let link = endpoint.connect(&node.peer, class).await.expect("let in");
        let came = timeout(WATCHDOG, served.recv()).await.expect("no hang").expect("a link");
        assert_eq!((came.class, came.peer), (class, caller.peer.id));
        link.sender.hang_up(HangUp::Done);
    }
}
