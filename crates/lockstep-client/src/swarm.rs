//! A look at a swarm: which servers there are, what they hold, and how busy they are.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lockstep_node::driver::{self, Clock, Contact, Links, StatusError};
use lockstep_node::transport::{NodeId, PeerAddr};
use lockstep_proto::announcement::Status;
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
        let entry = Seen { status: one.status.clone(), peer, round_trip: None };
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
    let Contact { peer, status } = driver::status(links, peer).await?;
    Ok(Seen { status, peer, round_trip: Some(began.elapsed()) })
}
