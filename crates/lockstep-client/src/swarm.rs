//! A look at a swarm: which servers there are, what they hold, and how busy they are.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::time::{Duration, Instant};

use lockstep_node::driver::{self, Clock, Contact, Links, StatusError};
use lockstep_node::transport::{NodeId, PeerAddr, Way};
use lockstep_proto::announcement::{State, Status};
use tokio::task::JoinSet;

/// A server of a swarm, as it was seen.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The status that the server told just now, or its last announcement's if it did not answer.
    pub status: Status,
    /// The address at which the server can be reached.
    pub peer: PeerAddr,
    /// The time that one question to the server took, over a link that was open; none if it did not
    /// answer.
    pub round_trip: Option<Duration>,
    /// The way that packets to the server took; none if it did not answer.
    pub way: Option<Way>,
}

/// A change of a server between two looks at a swarm.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The server was not seen before.
    Joined,
    /// The server is not seen any more.
    Left,
    /// The server holds other layers than these, which it held before.
    Moved(Range<u32>),
    /// The server was in this state before.
    State(State),
    /// The server does not answer any more.
    Silent,
    /// The server answers again.
    Answers,
    /// The server computes a layer more slowly than before: how many times as long it takes.
    Slower(f64),
    /// A question to it takes longer than before: how many times as long.
    Farther(f64),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Joined => f.write_str("joined"),
            Self::Left => f.write_str("left"),
            Self::Moved(from) => write!(f, "moved from layers {}..{}", from.start, from.end),
            Self::State(before) => write!(f, "was {before}"),
            Self::Silent => f.write_str("does not answer any more"),
            Self::Answers => f.write_str("answers again"),
            Self::Slower(times) => write!(f, "slower: {times:.1} times as long for a layer"),
            Self::Farther(times) => write!(f, "farther: {times:.1} times as long to answer"),
        }
    }
}

/// How many times as long as before something takes that is slower; less is no change.
const SLOWER_TIMES: f64 = 1.5;
/// The round trips below this are no longer ones, whatever they were before.
const SHORT_TRIP: Duration = Duration::from_millis(50);

/// Returns what has changed from one look at a swarm to the next, in the order of the later look,
/// and then those that left.
#[must_use]
pub fn changes(before: &[Seen], now: &[Seen]) -> Vec<(NodeId, Change)> {
    let old: BTreeMap<NodeId, &Seen> = before.iter().map(|one| (one.status.node, one)).collect();
    let mut changes = Vec::new();
    for one in now {
        let node = one.status.node;
        match old.get(&node) {
            None => changes.push((node, Change::Joined)),
            Some(old) => changes.extend(changed(old, one).map(|change| (node, change))),
        }
    }
    let is_gone = |node: &NodeId| now.iter().all(|one| one.status.node != *node);
    changes.extend(old.into_keys().filter(is_gone).map(|node| (node, Change::Left)));
    changes
}

/// Returns the changes of one server.
fn changed(old: &Seen, new: &Seen) -> impl Iterator<Item = Change> {
    let span = old.status.first..old.status.end;
    let moved = (span != (new.status.first..new.status.end)).then_some(Change::Moved(span));
    let state = (old.status.state != new.status.state).then_some(Change::State(old.status.state));
    let answers = match (old.round_trip, new.round_trip) {
        (Some(_), None) => Some(Change::Silent),
        (None, Some(_)) => Some(Change::Answers),
        (Some(old), Some(new)) if new >= SHORT_TRIP => {
            longer(old.as_secs_f64(), new.as_secs_f64()).map(Change::Farther)
        }
        (Some(_), Some(_)) | (None, None) => None,
    };
    let [old, _, _] = old.status.speed.decode_ns;
    let [new, _, _] = new.status.speed.decode_ns;
    let slower = longer(f64::from(old), f64::from(new)).map(Change::Slower);
    [moved, state, answers, slower].into_iter().flatten()
}

/// Returns how many times as long as before something takes, if it was measured and is slower.
fn longer(before: f64, now: f64) -> Option<f64> {
    let times = now / before;
    (before > 0.0 && times >= SLOWER_TIMES).then_some(times)
}

/// The servers of a swarm that are asked themselves. Of the others, announcements are shown.
const ASKED: usize = 256;

/// Looks at the swarm of some peers: asks them for what they know, and then every server that they
/// know. Returns the servers in the order of their models and layers, and the reasons why peers
/// did not answer.
pub async fn look(links: &Links, peers: &[PeerAddr]) -> (Vec<Seen>, Vec<StatusError>) {
    let known = driver::swarm(links, Clock::start(), peers).await;
    let mut seen: BTreeMap<NodeId, Seen> = BTreeMap::new();
    for one in known {
        let peer = driver::peer_of(one.status.node, &one.address);
        let status = one.status.clone();
        let entry = Seen { status, peer, round_trip: None, way: None };
        seen.insert(one.status.node, entry);
    }
    let announced = seen.values().map(|one| one.peer.clone());
    let announced = announced.filter(|one| peers.iter().all(|peer| peer.id != one.id));
    let mut asking = JoinSet::new();
    for peer in peers.iter().cloned().chain(announced).take(ASKED) {
        let links = links.clone();
        asking.spawn(async move { ask(&links, &peer).await });
    }
    let mut silent = Vec::new();
    while let Some(answer) = asking.join_next().await {
        match answer {
            Ok(Ok(one)) => {
                seen.insert(one.peer.id, one);
            }
            Ok(Err(error)) => silent.push(error),
            // A task that was cancelled or died asked nobody.
            Err(_) => {}
        }
    }
    let mut seen: Vec<Seen> = seen.into_values().collect();
    seen.sort_by_key(|one| {
        let Status { manifest, first, end, node, .. } = &one.status;
        (*manifest, *first, *end, *node)
    });
    (seen, silent)
}

/// Asks a server for its status, and again over the same link, to see how long that takes.
async fn ask(links: &Links, peer: &PeerAddr) -> Result<Seen, StatusError> {
    driver::status(links, peer).await?;
    let began = Instant::now();
    let Contact { peer, status, way, .. } = driver::status(links, peer).await?;
    Ok(Seen { status, peer, round_trip: Some(began.elapsed()), way })
}

#[cfg(test)]
mod tests {
    use lockstep_testing::gossip::status;

    use super::*;

    fn seen(number: u8, span: Range<u32>, trip_ms: Option<u64>) -> Seen {
        let node = NodeId([number; 32]);
        let mut status = status(node, span);
        status.speed.decode_ns = [1_000_000; 3];
        let peer = PeerAddr { id: node, addrs: Vec::new() };
        Seen { status, peer, round_trip: trip_ms.map(Duration::from_millis), way: None }
    }

    #[test]
    fn what_changed_is_told_of_each_server_and_what_did_not_is_not() {
        let before: Vec<Seen> = (1..=7).map(|number| seen(number, 0..4, Some(20))).collect();
        assert_eq!(changes(&before, &before), []);
        let mut now = before.clone();
        now.remove(0);
        now[0].status.first = 2;
        now[1].status.state = State::Draining;
        now[2].round_trip = None;
        now[3].status.speed.decode_ns = [1_499_999; 3];
        now[3].round_trip = Some(Duration::from_millis(49));
        now[4].status.speed.decode_ns = [3_000_000; 3];
        now[5].round_trip = Some(Duration::from_millis(60));
        now.push(seen(9, 0..4, None));
        let id = |number: u8| NodeId([number; 32]);
        let all = [
            (id(2), Change::Moved(0..4)),
            (id(3), Change::State(State::Ready)),
            (id(4), Change::Silent),
            (id(6), Change::Slower(3.0)),
            (id(7), Change::Farther(3.0)),
            (id(9), Change::Joined),
            (id(1), Change::Left),
        ];
        assert_eq!(changes(&before, &now), all);
        assert_eq!(changes(&now[2..3], &before[3..4]), [(id(4), Change::Answers)]);
    }
}
