//! Servers behind a slow network: the relay of datagrams that tests and benchmarks put before them
//! keeps its word, and a ring over such relays gives the answer that it gives without them.
//!
//! `cargo bench -p lockstep --bench swarm -- delay` measures how fast.

mod support;

use std::net::UdpSocket;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use support::process::Process;
use support::relay::{Relay, Weather};
use support::ring::{Ring, THREE, behind};
use support::{PATIENCE, WATCHDOG, command, tokens};

/// A socket that waits for no longer than the watchdog.
fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(WATCHDOG)).unwrap();
    socket
}

fn hear(socket: &UdpSocket) -> Vec<u8> {
    let mut bytes = [0; 64];
    let (len, _) = socket.recv_from(&mut bytes).unwrap();
    bytes[..len].to_vec()
}

#[test]
fn datagrams_come_in_their_order_not_before_their_time_and_answers_find_their_sender() {
    let target = socket();
    let delay = Duration::from_millis(30);
    let weather = Weather { delay, ..Weather::default() };
    let relay = Relay::start(target.local_addr().unwrap(), weather);
    let senders = [socket(), socket()];
    let began = Instant::now();
    for number in 0..10_u8 {
        for sender in &senders {
            sender.send_to(&[number], relay.address).unwrap();
        }
    }
    let mut heard: std::collections::BTreeMap<_, Vec<u8>> = std::collections::BTreeMap::new();
    for _ in 0..20 {
        let mut byte = [0];
        let (_, from) = target.recv_from(&mut byte).unwrap();
        assert!(began.elapsed() >= delay);
        heard.entry(from).or_default().push(byte[0]);
    }
    let in_order: Vec<u8> = (0..10).collect();
    assert!(heard.len() == 2 && heard.values().all(|bytes| *bytes == in_order), "{heard:?}");
    for (from, number) in heard.keys().zip(100_u8..) {
        target.send_to(&[number], from).unwrap();
    }
    let mut answers: Vec<_> = senders.iter().map(hear).collect();
    assert!(began.elapsed() >= 2 * delay);
    answers.sort();
    assert_eq!(answers, [[100], [101]]);
    assert_eq!(relay.counts.dropped.load(Ordering::Relaxed), 0);
}

#[test]
fn what_the_weather_loses_is_lost_by_the_seed() {
    let lost = |seed| {
        let target = socket();
        let weather = Weather { lost_per_mille: 300, seed, ..Weather::default() };
        let relay = Relay::start(target.local_addr().unwrap(), weather);
        let sender = socket();
        let mut came = Vec::new();
        for number in 0..40_u8 {
            sender.send_to(&[number], relay.address).unwrap();
            let counts = &relay.counts;
            let sum = || counts.sent.load(Ordering::Relaxed) + counts.lost.load(Ordering::Relaxed);
            let began = Instant::now();
            while sum() <= u64::from(number) {
                assert!(began.elapsed() < WATCHDOG);
                std::thread::yield_now();
            }
            if counts.sent.load(Ordering::Relaxed) > came.len() as u64 {
                came.push(hear(&target));
            }
        }
        came
    };
    assert_eq!(lost(7), lost(7));
    assert!((15..40).contains(&lost(7).len()));
}

#[test]
fn a_ring_over_slow_links_gives_the_same_tokens() {
    let prompt = ["--prompt", "The capital of France is", "-n", "6", "--json"];
    let near = Ring::start(&THREE, &[]);
    let weather = Weather { delay: Duration::from_millis(20), ..Weather::default() };
    let (far, relays) = behind(&THREE, weather, &[]);
    let ask = |ring: &Ring| {
        let tickets = ring.tickets();
        let arguments = [&["chat", &tickets][..], &prompt].concat();
        let report = Process::spawn(command(&arguments)).end(PATIENCE).expect_code(0).json();
        assert_eq!(report["verdict"], "verified", "{report}");
        tokens(&report)
    };
    assert_eq!(ask(&far), ask(&near));
    // Connections begin there, and go on by the shorter way as soon as QUIC has found it.
    for relay in relays {
        assert!(relay.counts.sent.load(Ordering::Relaxed) > 12, "{}", relay.address);
    }
}
