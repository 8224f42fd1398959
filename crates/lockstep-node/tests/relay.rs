//! A relay on this machine: whom it serves, who believes it, and who uses which.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use lockstep_node::limits;
use lockstep_node::relay::{Running, Terms};
use lockstep_node::transport::{
    Address, AllowList, Class, ConnectFailure, Endpoint, Identity, Listen, PeerAddr, Relay,
};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// No test waits longer than this for anything.
const WATCHDOG: Duration = Duration::from_secs(60);
const LOOPBACK: &str = "127.0.0.1:0";

fn identity(seed: u8) -> Identity {
    Identity::from_secret(&[seed; 32])
}

fn loopback() -> SocketAddr {
    LOOPBACK.parse().expect("an address")
}

async fn relay(allow: AllowList) -> (Running, Relay) {
    let terms = Terms { allow, bytes_per_second: None };
    let running = Running::start(&identity(100), loopback(), terms).await.expect("a relay");
    let relay = running.at(running.bound());
    (running, relay)
}

async fn endpoint(seed: u8, relays: &[Relay]) -> Endpoint {
    let listen = Listen::from(loopback()).through(relays.iter().copied());
    Endpoint::bind(&identity(seed), listen, AllowList::Anyone).await.expect("bound")
}

fn over(relay: Relay, peer: &Endpoint) -> PeerAddr {
    PeerAddr { id: peer.id(), addrs: vec![Address::Relay(relay)] }
}

/// Opens a link from one node to another over a relay; each end names the other one.
async fn reaches(client: &Endpoint, server: &Endpoint, relay: Relay) {
    let accepting = async { server.accept().await.expect("a link").peer };
    let to = over(relay, server);
    let (from, link) = tokio::join!(accepting, client.connect(&to, Class::Control));
    assert_eq!((from, link.expect("a link").peer), (client.id(), server.id()));
}

#[tokio::test]
async fn a_node_is_reached_through_the_relay_that_it_states() {
    let (running, relay) = relay(AllowList::Anyone).await;
    let (server, client) = (endpoint(1, &[relay]).await, endpoint(2, &[relay]).await);
    assert!(server.addr().addrs.contains(&Address::Relay(relay)), "{:?}", server.addr());
    reaches(&client, &server, relay).await;
    server.close().await;
    client.close().await;
    running.stop().await;
}

#[tokio::test]
async fn a_relay_that_the_user_has_not_named_is_not_used() {
    let (running, relay) = relay(AllowList::Anyone).await;
    let (server, client) = (endpoint(1, &[relay]).await, endpoint(2, &[]).await);
    let error = client.connect(&over(relay, &server), Class::Control).await.expect_err("refused");
    assert_eq!(error.why, ConnectFailure::OtherRelay(relay));
    assert!(error.to_string().contains("--relay"), "{error}");
    server.close().await;
    client.close().await;
    running.stop().await;
}

#[tokio::test]
async fn nobody_stands_in_for_a_relay_and_a_relay_keeps_its_list() {
    // The same address under another key: nothing is said to it, so no address is stated.
    let (running, real) = relay(AllowList::Only([identity(1).id()].into())).await;
    let other = Relay { id: identity(101).id(), ..real };
    let (others, reals) = ([other], [real]);
    let (believing, listed, stranger) =
        tokio::join!(endpoint(3, &others), endpoint(1, &reals), endpoint(2, &reals));
    let states =
        |endpoint: &Endpoint, relay| endpoint.addr().addrs.contains(&Address::Relay(relay));
    assert!(!states(&believing, other), "{:?}", believing.addr());
    assert!(states(&listed, real), "{:?}", listed.addr());
    // One that is not let in may state it; nobody reaches it there.
    let error = listed.connect(&over(real, &stranger), Class::Control).await.expect_err("nobody");
    assert!(matches!(error.why, ConnectFailure::NoAnswer { .. }), "{error}");
    for endpoint in [believing, listed, stranger] {
        endpoint.close().await;
    }
    running.stop().await;
}

#[tokio::test]
async fn an_address_that_is_taken_is_an_error_that_names_it() {
    let (running, _) = relay(AllowList::Anyone).await;
    let second = Running::start(&identity(102), running.bound(), Terms::default()).await;
    let error = second.expect_err("taken").to_string();
    assert!(error.contains(&running.bound().to_string()), "{error}");
    running.stop().await;
}

/// Returns whether the other end closes a connection on which nothing is said.
async fn is_closed(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0]).await {
        Ok(read) => read == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

#[tokio::test]
async fn one_address_has_so_many_connections_to_a_relay() {
    let (running, relay) = relay(AllowList::Anyone).await;
    let mut open = Vec::new();
    for _ in 0..limits::RELAY_CONNECTIONS_OF_SOURCE {
        open.push(TcpStream::connect(relay.addr).await.expect("accepted"));
    }
    // Connections are accepted in their order: the next one is too many, whatever it would say.
    let mut last = TcpStream::connect(relay.addr).await.expect("accepted");
    assert!(timeout(WATCHDOG, is_closed(&mut last)).await.expect("at once"));
    // When they are gone there is room.
    drop(open);
    let (server, client) = (endpoint(1, &[relay]).await, endpoint(2, &[relay]).await);
    reaches(&client, &server, relay).await;
    server.close().await;
    client.close().await;
    running.stop().await;
}
