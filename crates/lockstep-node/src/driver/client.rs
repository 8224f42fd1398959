//! The loops of a client: statuses, one request, and challenges.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::future::{Future, poll_fn};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use lockstep_proto::client::{
    ChallengeInput, ChallengeOutput, Challenger, Client, ClientError, Event, Exchange, Input,
    Output,
};
use lockstep_proto::failure::{Failure, Reason};
use lockstep_proto::frame::{Frame as _, Status, ToClient, ToServer};
use lockstep_verify::receipt::Receipt;
use lockstep_verify::sign::NodeId;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::body;
use super::clock::{Clock, until};
use crate::limits;
use crate::transport::{Class, ConnectError, Endpoint, Link, LinkError, PeerAddr, Sender};

/// Addresses by node.
pub type Peers = BTreeMap<NodeId, PeerAddr>;

/// A peer and what it says of itself.
#[derive(Clone, Debug)]
pub struct Contact {
    /// How it was reached.
    pub peer: PeerAddr,
    /// What it says.
    pub status: Status,
}

/// Why a peer did not tell its status.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// It can't be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// It closed the link.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// It answered with something else.
    #[error("{} answered with something that is no status", peer.short())]
    NoStatus {
        /// The peer.
        peer: NodeId,
    },
    /// It did not answer in time.
    #[error("{} did not tell its status in {} s", peer.short(), limits::STATUS_DEADLINE.as_secs())]
    Timeout {
        /// The peer.
        peer: NodeId,
    },
}

/// Asks a peer what it serves.
///
/// # Errors
/// [`StatusError`], at the latest after [`limits::STATUS_DEADLINE`].
pub async fn status(endpoint: &Endpoint, peer: &PeerAddr) -> Result<Contact, StatusError> {
    let answer = async {
        let mut link = endpoint.connect(peer, Class::Control).await?;
        let none = || StatusError::NoStatus { peer: peer.id };
        link.sender.post(body(ToServer::Status.to_wire().map_err(|_| none())?))?;
        let body = link.receiver.recv().await?.ok_or_else(none)?;
        match ToClient::from_body(&body) {
            Ok(ToClient::Status(status)) => Ok(Contact { peer: peer.clone(), status }),
            _ => Err(none()),
        }
    };
    timeout(limits::STATUS_DEADLINE, answer)
        .await
        .unwrap_or(Err(StatusError::Timeout { peer: peer.id }))
}

/// Asks peers what they serve, all at once: the answers, in the order of the peers, at the latest
/// after [`limits::STATUS_DEADLINE`], however many are silent.
pub async fn statuses(
    endpoint: &Endpoint,
    peers: &[PeerAddr],
) -> Vec<Result<Contact, StatusError>> {
    let mut asked: Vec<_> =
        peers.iter().map(|peer| (Box::pin(status(endpoint, peer)), None)).collect();
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

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Server 1 can't be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The session failed; the error names the stage.
    #[error(transparent)]
    Session(#[from] ClientError),
}

/// Runs one request to its end; `token` hears of every token. `cancel` ends it early.
///
/// # Errors
/// [`AskError`]: an answer is complete or it is an error.
pub async fn ask(
    endpoint: &Endpoint,
    first: &PeerAddr,
    clock: Clock,
    mut machine: Client,
    mut token: impl FnMut(u32, u32),
    cancel: impl Future<Output = ()>,
) -> Result<Receipt, AskError> {
    let mut link = endpoint.connect(first, Class::Control).await?;
    tokio::pin!(cancel);
    let mut cancelled = false;
    loop {
        while let Some(output) = machine.poll() {
            match output {
                Output::Send(wire) => {
                    if link.sender.post(body(wire)).is_err() {
                        machine.handle(clock.now(), Input::Lost);
                    }
                }
                Output::Event(Event::Accepted) => {}
                Output::Event(Event::Token { index, token: id }) => token(index, id),
                Output::Event(Event::Finished(receipt)) => {
                    finish(link.sender).await;
                    return Ok(*receipt);
                }
                Output::Event(Event::Failed(error)) => {
                    finish(link.sender).await;
                    return Err(error.into());
                }
            }
        }
        if machine.is_over() {
            let failure = Failure { stage: Some(0), by: None, reason: Reason::LinkLost };
            return Err(ClientError::Failed(failure).into());
        }
        let deadline = machine.deadline();
        let input = tokio::select! {
            frame = link.receiver.recv() => match frame {
                Ok(Some(body)) => Input::Frame(body.into()),
                Ok(None) | Err(_) => Input::Lost,
            },
            () = until(clock, deadline) => Input::Tick,
            () = &mut cancel, if !cancelled => {
                cancelled = true;
                Input::Cancel
            }
        };
        machine.handle(clock.now(), input);
    }
}

/// Lets what was queued leave, for a moment: the other end may be gone.
async fn finish(sender: Sender) {
    timeout(Duration::from_secs(1), sender.finish()).await.ok();
}

/// What the links of a challenge bring.
struct Heard {
    stage: u32,
    body: Option<Bytes>,
}

/// Poses challenges to all stages and collects their answers; `progress` hears how many exchanges
/// have brought a frame.
pub async fn challenge(
    endpoint: &Endpoint,
    peers: &Peers,
    clock: Clock,
    mut machine: Challenger,
    mut progress: impl FnMut(usize),
) -> Vec<Exchange> {
    let (heard, mut inbox) = mpsc::channel(limits::DRIVER_INBOX);
    let mut links: BTreeMap<u32, Sender> = BTreeMap::new();
    let mut readers = JoinSet::new();
    let mut frames = 0;
    loop {
        while let Some(output) = machine.poll() {
            match output {
                ChallengeOutput::Done(exchanges) => {
                    readers.abort_all();
                    return exchanges;
                }
                ChallengeOutput::Send { stage, node, wire } => {
                    if let Entry::Vacant(place) = links.entry(stage)
                        && let Some(link) = connect(endpoint, peers, node).await
                    {
                        place.insert(link.sender.clone());
                        read(&mut readers, heard.clone(), stage, link);
                    }
                    let posted = links.get(&stage).map(|sender| sender.post(body(wire)));
                    if !matches!(posted, Some(Ok(()))) {
                        machine.handle(clock.now(), ChallengeInput::Lost { stage });
                    }
                }
            }
        }
        let deadline = machine.deadline();
        let input = tokio::select! {
            Some(Heard { stage, body }) = inbox.recv() => match body {
                Some(body) => {
                    frames += 1;
                    progress(frames);
                    ChallengeInput::Frame { stage, body: body.into() }
                }
                None => ChallengeInput::Lost { stage },
            },
            () = until(clock, deadline) => ChallengeInput::Tick,
        };
        machine.handle(clock.now(), input);
    }
}

async fn connect(endpoint: &Endpoint, peers: &Peers, node: NodeId) -> Option<Link> {
    endpoint.connect(peers.get(&node)?, Class::Control).await.ok()
}

fn read(readers: &mut JoinSet<()>, heard: mpsc::Sender<Heard>, stage: u32, link: Link) {
    let Link { sender, mut receiver, .. } = link;
    readers.spawn(async move {
        let _sender = sender;
        while let Ok(Some(body)) = receiver.recv().await {
            if heard.send(Heard { stage, body: Some(body) }).await.is_err() {
                return;
            }
        }
        heard.send(Heard { stage, body: None }).await.ok();
    });
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lockstep_exact::digest::Digest;
    use tokio::sync::Barrier;

    use super::*;
    use crate::transport::AllowList;
    use crate::transport::memory::Network;

    fn status_of(node: NodeId) -> Status {
        Status {
            version: 0,
            node,
            manifest: Digest::ZERO,
            first: 0,
            end: 1,
            head: true,
            draining: false,
            sessions: 0,
            sessions_limit: 1,
            queue: 0,
            kv_pages_free: 1,
        }
    }

    /// Answers one question, once everybody has been asked theirs.
    async fn answer(server: Endpoint, all_asked: Arc<Barrier>) {
        let mut link = server.accept().await.expect("somebody asks");
        link.receiver.recv().await.expect("a frame");
        all_asked.wait().await;
        let wire = ToClient::Status(status_of(server.id())).to_wire().expect("short");
        link.sender.post(body(wire)).expect("open");
        // The link lives until the client has read the answer.
        link.receiver.recv().await.ok();
    }

    #[tokio::test]
    async fn no_peer_waits_for_another_and_dead_ones_hide_nobody() {
        let network = Network::new();
        let client = network.endpoint(NodeId([99; 32]), AllowList::Anyone);
        let nodes: Vec<NodeId> = (0..12).map(|number| NodeId([number; 32])).collect();
        let lives = |node: &NodeId| !node.0[0].is_multiple_of(3);
        let alive: Vec<NodeId> = nodes.iter().copied().filter(lives).collect();
        // Asked one after another, the first would never answer: it waits for the last.
        let all_asked = Arc::new(Barrier::new(alive.len()));
        let mut servers = JoinSet::new();
        for node in &alive {
            let server = network.endpoint(*node, AllowList::Anyone);
            servers.spawn(answer(server, Arc::clone(&all_asked)));
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
}
