//! What servers say of themselves, as a client asks them.

use std::future::{Future as _, poll_fn};
use std::task::Poll;

use lockstep_proto::announcement::{AnnouncementFault, Status};
use lockstep_proto::frame::{Frame as _, ToClient, ToServer};
use lockstep_verify::sign::NodeId;
use tokio::time::timeout;

use super::body;
use super::links::Links;
use crate::limits;
use crate::transport::{ConnectError, Link, LinkError, PeerAddr, Way};

/// A peer and what it says of itself.
#[derive(Clone, Debug)]
pub struct Contact {
    /// The address at which the peer was reached.
    pub peer: PeerAddr,
    /// The status that the peer announces.
    pub status: Status,
    /// When the peer made this announcement, by its own clock: milliseconds since 1970.
    pub announced_unix_ms: u64,
    /// The way that the packets of its answer took; `None` without sockets.
    pub way: Option<Way>,
}

/// Why a peer did not tell its status.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The peer could not be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The link ended before the peer answered.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The peer answered with something other than its status.
    #[error("{} answered with something that is no status", peer.short())]
    NoStatus {
        /// The node id of the peer.
        peer: NodeId,
    },
    /// The announcement names another node than the one that the transport has authenticated. It is
    /// not taken for the other node's, which is neither asked nor blamed for it.
    #[error(
        "{} says that it is {}; the ticket must lead to the node that it names",
        peer.short(), claimed.short()
    )]
    OtherNode {
        /// The node id that the transport has authenticated.
        peer: NodeId,
        /// The node id that the announcement names.
        claimed: NodeId,
    },
    /// The announcement is not signed as it must be. Nothing of it is used.
    #[error("{}: {fault}", peer.short())]
    Announcement {
        /// The node id of the peer.
        peer: NodeId,
        /// The fault of the announcement.
        fault: AnnouncementFault,
    },
    /// The peer did not answer in time.
    #[error("{} did not tell its status in {} s", peer.short(), limits::STATUS_DEADLINE.as_secs())]
    Timeout {
        /// The node id of the peer.
        peer: NodeId,
    },
}

/// Asks a peer for its status, over a link that was kept or a new one.
///
/// # Errors
/// [`StatusError`], at the latest after [`limits::STATUS_DEADLINE`].
pub async fn status(links: &Links, peer: &PeerAddr) -> Result<Contact, StatusError> {
    let answer = async {
        let mut taken = links.take(peer).await?;
        let answer = match status_over(&mut taken.link).await {
            // It was closed at the moment it was taken.
            Err(StatusError::Link(_)) if taken.is_kept => {
                taken.link = links.dial(peer).await?;
                status_over(&mut taken.link).await
            }
            answer => answer,
        };
        let way = taken.link.sender.way();
        if answer.is_ok() {
            links.keep(taken.link);
        }
        let (status, announced_unix_ms) = answer?;
        Ok(Contact { peer: peer.clone(), status, announced_unix_ms, way })
    };
    timeout(limits::STATUS_DEADLINE, answer)
        .await
        .unwrap_or(Err(StatusError::Timeout { peer: peer.id }))
}

/// Asks over a link; returns the status, and when it was announced.
async fn status_over(link: &mut Link) -> Result<(Status, u64), StatusError> {
    let none = || StatusError::NoStatus { peer: link.peer };
    link.sender.post(body(ToServer::Status.to_wire().map_err(|_| none())?))?;
    let mut told = ToClient::Heartbeat;
    // A kept link may bring a sign of life that was on its way.
    while told == ToClient::Heartbeat {
        let body = link.receiver.recv().await?.ok_or_else(none)?;
        told = ToClient::from_body(&body).map_err(|_| none())?;
    }
    match told {
        ToClient::Status(told) => match told.check_from(link.peer) {
            // The sequence is the time at which it was made.
            Ok(()) => Ok((told.status, told.sequence)),
            Err(AnnouncementFault::OtherNode { announced }) => {
                Err(StatusError::OtherNode { peer: link.peer, claimed: announced })
            }
            Err(fault) => Err(StatusError::Announcement { peer: link.peer, fault }),
        },
        _ => Err(none()),
    }
}

/// Asks peers what they serve, all at once: the answers, in the order of the peers, at the latest
/// after [`limits::STATUS_DEADLINE`], however many are silent.
pub async fn statuses(links: &Links, peers: &[PeerAddr]) -> Vec<Result<Contact, StatusError>> {
    let mut asked: Vec<_> =
        peers.iter().map(|peer| (Box::pin(status(links, peer)), None)).collect();
    poll_fn(|context| {
        for (asking, told) in asked.iter_mut().filter(|(_, told)| told.is_none()) {
            if let Poll::Ready(answer) = asking.as_mut().poll(context) {
                *told = Some(answer);
            }
        }
        let is_done = asked.iter().all(|(_, told)| told.is_some());
        if is_done { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    asked.into_iter().filter_map(|(_, told)| told).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lockstep_exact::digest::Digest;
    use lockstep_proto::announcement::{Announcement, Speed, State};
    use lockstep_proto::frame::VERSION;
    use lockstep_verify::sign::{BadSignature, Keypair, Signature, Statement as _};
    use tokio::sync::Barrier;
    use tokio::task::JoinSet;

    use super::*;
    use crate::transport::memory::Network;
    use crate::transport::{AllowList, Endpoint};

    fn client(network: &Network) -> Links {
        Links::new(Arc::new(network.endpoint(NodeId([99; 32]), AllowList::Anyone)))
    }

    fn key(number: u8) -> Keypair {
        Keypair::from_secret(&[number; 32])
    }

    fn announced(status: Status, signer: &Keypair) -> ToClient {
        let mut announcement = Announcement {
            sequence: 1,
            expires_unix_ms: 2,
            address: String::new(),
            status,
            signature: Signature::NONE,
        };
        announcement.signature = signer.sign(&announcement.statement());
        ToClient::Status(Box::new(announcement))
    }

    fn status_of(node: NodeId) -> Status {
        Status {
            version: VERSION,
            node,
            manifest: Digest::ZERO,
            first: 0,
            end: 1,
            head: true,
            state: State::Ready,
            sessions: 0,
            sessions_limit: 1,
            queue: 0,
            kv_pages_free: 1,
            speed: Speed::UNKNOWN,
            neighbours: Vec::new(),
            adapters: Vec::new(),
            tags: Vec::new(),
            software: String::new(),
        }
    }

    /// Answers one question, once everybody has been asked theirs.
    async fn answer(server: Endpoint, key: Keypair, all_asked: Arc<Barrier>) {
        let mut link = server.accept().await.expect("somebody asks");
        link.receiver.recv().await.expect("a frame");
        all_asked.wait().await;
        let wire = announced(status_of(server.id()), &key).to_wire().expect("short");
        link.sender.post(body(wire)).expect("open");
        // The link lives until the client has read the answer.
        link.receiver.recv().await.ok();
    }

    #[tokio::test]
    async fn a_peer_that_says_it_is_another_node_is_a_spoof_and_no_contact_of_either() {
        let network = Network::new();
        let client = client(&network);
        let (spoof, other) = (key(1).id(), key(2).id());
        let told = one_that_tells(&network, &client, announced(status_of(other), &key(2))).await;
        match &told[..] {
            [Err(error @ StatusError::OtherNode { peer, claimed })] => {
                assert_eq!((*peer, *claimed), (spoof, other));
                assert!(error.to_string().starts_with(&spoof.short()), "{error}");
            }
            told => panic!("{told:?}"),
        }
    }

    #[tokio::test]
    async fn a_status_that_its_node_has_not_signed_is_no_contact() {
        let network = Network::new();
        let client = client(&network);
        let told = one_that_tells(&network, &client, announced(status_of(key(1).id()), &key(2)));
        match &told.await[..] {
            [Err(error @ StatusError::Announcement { peer, fault })] => {
                let fault_of = AnnouncementFault::Signature(BadSignature { by: key(1).id() });
                assert_eq!((*peer, *fault), (key(1).id(), fault_of));
                assert!(error.to_string().contains("not signed by"), "{error}");
            }
            told => panic!("{told:?}"),
        }
    }

    /// What a client makes of the node of key 1 if that answers its question so.
    async fn one_that_tells(
        network: &Network,
        client: &Links,
        frame: ToClient,
    ) -> Vec<Result<Contact, StatusError>> {
        let server = network.endpoint(key(1).id(), AllowList::Anyone);
        let answering = tokio::spawn(async move {
            let mut link = server.accept().await.expect("somebody asks");
            link.receiver.recv().await.expect("a frame");
            link.sender.post(body(frame.to_wire().expect("short"))).expect("open");
            link.receiver.recv().await.ok();
        });
        let told = statuses(client, &[PeerAddr { id: key(1).id(), addrs: Vec::new() }]).await;
        answering.abort();
        told
    }

    #[tokio::test]
    async fn no_peer_waits_for_another_and_dead_ones_hide_nobody() {
        let network = Network::new();
        let client = client(&network);
        let keys: Vec<Keypair> = (0..12).map(key).collect();
        let nodes: Vec<NodeId> = keys.iter().map(Keypair::id).collect();
        let lives = |node: &NodeId| {
            nodes.iter().position(|other| other == node).is_some_and(|at| at % 3 != 0)
        };
        let alive: Vec<NodeId> = nodes.iter().copied().filter(lives).collect();
        // Asked one after another, the first would never answer: it waits for the last.
        let all_asked = Arc::new(Barrier::new(alive.len()));
        let mut servers = JoinSet::new();
        for key in keys.iter().filter(|key| lives(&key.id())) {
            let server = network.endpoint(key.id(), AllowList::Anyone);
            servers.spawn(answer(server, key.clone(), Arc::clone(&all_asked)));
        }
        let peers: Vec<PeerAddr> =
            nodes.iter().map(|&id| PeerAddr { id, addrs: Vec::new() }).collect();
        let told = statuses(&client, &peers).await;
        assert_eq!(told.len(), nodes.len());
        for (told, node) in told.iter().zip(&nodes) {
            match told {
                Ok(contact) => {
                    assert_eq!((contact.peer.id, &contact.status), (*node, &status_of(*node)));
                    assert!(lives(node));
                }
                Err(StatusError::Connect(_)) => assert!(!lives(node)),
                Err(other) => panic!("{}: {other}", node.short()),
            }
        }
        assert!(statuses(&client, &[]).await.is_empty());
    }

    #[tokio::test]
    async fn a_peer_that_is_asked_again_is_asked_over_the_same_link() {
        let network = Network::new();
        let client = client(&network);
        let server = network.endpoint(key(1).id(), AllowList::Anyone);
        let peer = PeerAddr { id: server.id(), addrs: Vec::new() };
        let answering = tokio::spawn(async move {
            // Nobody takes a second link, so what is asked there is not answered.
            let mut link = server.accept().await.expect("somebody asks");
            for _ in 0..3 {
                link.receiver.recv().await.expect("a frame");
                let alive = ToClient::Heartbeat.to_wire().expect("short");
                link.sender.post(body(alive)).expect("open");
                let told = announced(status_of(server.id()), &key(1));
                link.sender.post(body(told.to_wire().expect("short"))).expect("open");
            }
        });
        for _ in 0..3 {
            status(&client, &peer).await.expect("an answer");
        }
        answering.await.expect("all were asked over one link");
    }
}
