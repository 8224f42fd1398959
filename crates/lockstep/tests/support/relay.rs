//! A relay of datagrams in user space, which makes a network slow: whatever comes to its address is
//! sent on to one target after a delay, and what the target answers goes back after the same delay.
//!
//! Senders are told apart as a router does that translates addresses: the target sees each of them
//! at an address of its own. Queues are bounded, and what does not fit is lost.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use lockstep_testing::numbers::Numbers;

/// The longest datagram.
const DATAGRAM_BYTES: usize = 65_536;
/// Datagrams under way at once, in both directions together.
const UNDER_WAY: usize = 8_192;
/// Senders that are told apart.
const SENDERS: usize = 256;

/// What happens to datagrams on their way.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    /// The time that every datagram takes in one direction.
    pub(crate) delay: Duration,
    /// The most time that one takes longer than that: each as long as is drawn for it.
    pub(crate) jitter: Duration,
    /// How many of a thousand are lost.
    pub(crate) lost_per_mille: u64,
    pub(crate) seed: u64,
}

/// What a relay has done so far.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) sent: AtomicU64,
    /// Lost as the weather wants it.
    pub(crate) lost: AtomicU64,
    /// Dropped because too many were under way.
    pub(crate) dropped: AtomicU64,
}

/// A relay, which runs until the process ends.
pub(crate) struct Relay {
    /// Where datagrams for the target go.
    pub(crate) address: SocketAddr,
    pub(crate) counts: Arc<Counts>,
}

/// A datagram under way; those that are due first come first.
struct Datagram {
    due: Instant,
    number: u64,
    by: Arc<UdpSocket>,
    /// None for the target, to which `by` is connected.
    to: Option<SocketAddr>,
    bytes: Vec<u8>,
}

impl Datagram {
    fn order(&self) -> (Instant, u64) {
        (self.due, self.number)
    }
}

impl PartialEq for Datagram {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}

impl Eq for Datagram {}

impl PartialOrd for Datagram {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Datagram {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order().cmp(&other.order())
    }
}

/// Everything that is under way.
struct Line {
    weather: Weather,
    counts: Arc<Counts>,
    queue: Mutex<Queue>,
    changed: Condvar,
}

struct Queue {
    under_way: BinaryHeap<Reverse<Datagram>>,
    numbers: Numbers,
    count: u64,
}

impl Relay {
    /// Starts a relay on the loopback for a target.
    pub(crate) fn start(target: SocketAddr, weather: Weather) -> Self {
        let front = Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap());
        let address = front.local_addr().unwrap();
        let counts = Arc::new(Counts::default());
        let queue =
            Queue { under_way: BinaryHeap::new(), numbers: Numbers::new(weather.seed), count: 0 };
        let line = Arc::new(Line {
            weather,
            counts: Arc::clone(&counts),
            queue: Mutex::new(queue),
            changed: Condvar::new(),
        });
        let sending = Arc::clone(&line);
        thread::spawn(move || sending.send());
        thread::spawn(move || take_in(&front, target, &line));
        Self { address, counts }
    }
}

/// Takes in what comes for the target, and opens a socket for each of its senders.
fn take_in(front: &Arc<UdpSocket>, target: SocketAddr, line: &Arc<Line>) {
    let mut backs: BTreeMap<SocketAddr, Arc<UdpSocket>> = BTreeMap::new();
    let mut bytes = vec![0; DATAGRAM_BYTES];
    loop {
        // An error is what an earlier datagram met, such as a target that is gone.
        let Ok((len, from)) = front.recv_from(&mut bytes) else { continue };
        if !backs.contains_key(&from) && backs.len() < SENDERS {
            let back = Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap());
            back.connect(target).unwrap();
            backs.insert(from, Arc::clone(&back));
            let (front, line) = (Arc::clone(front), Arc::clone(line));
            thread::spawn(move || take_back(&back, &front, from, &line));
        }
        if let Some(back) = backs.get(&from) {
            line.take(back, None, &bytes[..len]);
        }
    }
}

/// Takes in what the target answers to one sender.
fn take_back(back: &UdpSocket, front: &Arc<UdpSocket>, to: SocketAddr, line: &Line) {
    let mut bytes = vec![0; DATAGRAM_BYTES];
    loop {
        let Ok(len) = back.recv(&mut bytes) else { continue };
        line.take(front, Some(to), &bytes[..len]);
    }
}

impl Line {
    fn take(&self, by: &Arc<UdpSocket>, to: Option<SocketAddr>, bytes: &[u8]) {
        let came = Instant::now();
        let mut queue = self.queue.lock().unwrap();
        if queue.numbers.below(1000) < self.weather.lost_per_mille {
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if queue.under_way.len() >= UNDER_WAY {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let jitter_us = self.weather.jitter.as_micros() as u64;
        let longer_us = if jitter_us > 0 { queue.numbers.below(jitter_us) } else { 0 };
        let due = came + self.weather.delay + Duration::from_micros(longer_us);
        queue.count += 1;
        let (by, bytes) = (Arc::clone(by), bytes.to_vec());
        let datagram = Datagram { due, number: queue.count, by, to, bytes };
        queue.under_way.push(Reverse(datagram));
        self.changed.notify_one();
    }

    /// Sends each datagram when it is due.
    fn send(&self) {
        let mut queue = self.queue.lock().unwrap();
        loop {
            let left = |first: &Datagram| first.due.saturating_duration_since(Instant::now());
            let wait = queue.under_way.peek().map(|Reverse(first)| left(first));
            match wait {
                None => queue = self.changed.wait(queue).unwrap(),
                Some(wait) if !wait.is_zero() => {
                    queue = self.changed.wait_timeout(queue, wait).unwrap().0;
                }
                Some(_) => {
                    let Some(Reverse(datagram)) = queue.under_way.pop() else { continue };
                    drop(queue);
                    let Datagram { by, to, bytes, .. } = datagram;
                    // Whatever cannot be sent is lost, as on any network.
                    let sent = match to {
                        Some(to) => by.send_to(&bytes, to),
                        None => by.send(&bytes),
                    };
                    if sent.is_ok() {
                        self.counts.sent.fetch_add(1, Ordering::Relaxed);
                    }
                    queue = self.queue.lock().unwrap();
                }
            }
        }
    }
}

/// A port that is free now, on an address of the loopback on which no relay is.
pub(crate) fn free_port() -> SocketAddr {
    UdpSocket::bind("127.0.0.2:0").unwrap().local_addr().unwrap()
}
