//! Servers on real sockets under hostile peers: what a lease can make a server send, and whether
//! honest clients are served beside thirteen ways to misbehave at once.
//!
//! The long version of the soak:
//! `cargo test --release -p lockstep-node --test enemies -- --ignored --nocapture soak`

#[path = "enemies/attacks.rs"]
mod attacks;
#[path = "enemies/town.rs"]
mod town;

use std::net::UdpSocket;
use std::time::Duration;

use lockstep_exact::bytes::Canonical as _;
use lockstep_node::limits;
use lockstep_node::transport::Class;
use lockstep_proto::frame::{Frame as _, RingFrame};
use lockstep_proto::limits as protocol;
use tokio::time::timeout;
use town::{LOOPBACK, Town, endpoint, memory, pause};

/// No test waits longer than this for anything.
const WATCHDOG: Duration = Duration::from_secs(60);

/// Sockets that never answer.
fn silent_sockets(count: usize) -> (Vec<UdpSocket>, String) {
    let bind = |_| UdpSocket::bind(LOOPBACK).expect("loopback");
    let sockets: Vec<UdpSocket> = (0..count).map(bind).collect();
    let addresses = sockets.iter().map(|it| it.local_addr().expect("bound").to_string());
    let addresses = addresses.collect::<Vec<_>>().join(",");
    (sockets, addresses)
}

/// Datagrams and bytes that have come.
fn received(sockets: &[UdpSocket]) -> (usize, usize) {
    let (mut datagrams, mut bytes) = (0, 0);
    for socket in sockets {
        socket.set_nonblocking(true).expect("set");
        while let Ok(len) = socket.recv(&mut [0; 2048]) {
            datagrams += 1;
            bytes += len;
        }
    }
    (datagrams, bytes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_makes_a_server_send_less_than_was_sent_to_it() {
    let town = Town::start();
    let attacker = endpoint().await;
    for count in [1, 3, 8] {
        let (sockets, addresses) = silent_sockets(count);
        let mut link = attacker.connect(&town.peer(1), Class::Ring).await.expect("let in");
        let lease = town.lease(attacker.id(), town::random_key().id(), &addresses);
        let frame = town::lease_frame(lease).to_bytes();
        let sent = frame.len();
        assert!(sent >= count.min(protocol::DIALLED_ADDRESSES) * protocol::DIAL_BYTES);
        link.sender.post(frame).expect("room");
        // The dial is over when the session is.
        let over = async {
            while let Ok(Some(body)) = link.receiver.recv().await {
                if matches!(RingFrame::from_body(&body), Ok(RingFrame::Abort { .. })) {
                    return;
                }
            }
            panic!("the link ended");
        };
        timeout(WATCHDOG, over).await.expect("an end");
        let (datagrams, bytes) = received(&sockets);
        println!("{count} addresses: {sent} bytes in, {datagrams} datagrams, {bytes} bytes out");
        assert!(datagrams > 0, "it dials at all");
        assert!(bytes < sent, "{bytes} bytes for a lease of {sent}");
    }
    // Nobody dials the stage before, whatever its lease says and however it leaves.
    let (sockets, addresses) = silent_sockets(1);
    let mut lease = town.lease(attacker.id(), town::random_key().id(), "");
    lease.addresses = vec![addresses, String::new(), String::new()];
    let lease = lease.signed(&town::random_key());
    let link = attacker.connect(&town.peer(1), Class::Ring).await.expect("let in");
    link.sender.post(town::lease_frame(lease).to_bytes()).expect("room");
    link.sender.finish().await.expect("delivered");
    town.stop().await;
    assert_eq!(received(&sockets), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_never_greet_keep_nobody_out() {
    let town = Town::start();
    let mute = attacks::raw_endpoint().await;
    let mut silent = Vec::new();
    for _ in 0..limits::HANDSHAKES_OF_SOURCE + 8 {
        let connection = mute.connect(attacks::raw_addr(&town.peer(0)), Class::Control.alpn());
        silent.push(connection.await.expect("a handshake"));
    }
    for _ in 0..3 {
        timeout(WATCHDOG, town.answer()).await.expect("no hang").expect("an answer");
    }
    drop(silent);
    town.stop().await;
}

/// Runs all attacks for so long beside honest clients, which must all be served. Gives what came of
/// it, in lines.
async fn soak(time: Duration) -> String {
    let town = Town::start();
    timeout(WATCHDOG, town.answer()).await.expect("no hang").expect("an answer in peace");
    let before = memory();
    let (sockets, addresses) = silent_sockets(4);
    let attacks = attacks::all(&town, &addresses);
    let honest: Vec<_> = (0..3)
        .map(|_| {
            let town = town.clone();
            tokio::spawn(async move {
                let start = tokio::time::Instant::now();
                let (mut answers, mut refused, mut slowest) = (0, 0, Duration::ZERO);
                while start.elapsed() < time || answers == 0 {
                    let asked = tokio::time::Instant::now();
                    let answer = timeout(WATCHDOG, town.answer()).await.expect("no hang");
                    refused += answer.expect("an answer, and every opening of it");
                    slowest = slowest.max(asked.elapsed());
                    answers += 1;
                }
                (answers, refused, slowest)
            })
        })
        .collect();
    let mut most = before;
    let watch = async {
        loop {
            most = most.max(memory());
            pause(Duration::from_millis(100)).await;
        }
    };
    let served = async {
        let mut all = Vec::new();
        for client in honest {
            all.push(client.await.expect("no panic"));
        }
        all
    };
    let served = tokio::select! {
        served = served => served,
        () = watch => Vec::new(),
    };
    let done: Vec<(&str, usize)> = attacks.stop().await;
    let mut said = String::new();
    for (name, times) in &done {
        said += &format!("{name}: {times} times\n");
        assert!(*times > 0, "{name} did nothing");
    }
    for (answers, refused, slowest) in &served {
        said += &format!(
            "an honest client: {answers} answers, {refused} refusals, at most {slowest:?}\n"
        );
    }
    assert_eq!((done.len(), served.len()), (13, 3));
    said += &format!("memory of this process: {before} MiB before, {most} MiB at most\n");
    let bound = before + (limits::FLIGHT_BYTES >> 20) as u64 * 2 + 256;
    assert!(most < bound, "{most} MiB, bound {bound} MiB");
    let (datagrams, bytes) = received(&sockets);
    said += &format!("reflected: {datagrams} datagrams, {bytes} bytes\n");
    town.stop().await;
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn honest_clients_are_served_beside_thirteen_enemies() {
    println!("{}", soak(Duration::from_secs(4)).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a minute: the long version of the test above"]
async fn the_soak_of_a_minute() {
    println!("{}", soak(Duration::from_secs(60)).await);
}
