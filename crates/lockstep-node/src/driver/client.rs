//! The loops of a client: statuses, one request, and challenges.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::future::Future;
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
