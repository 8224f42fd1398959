//! Challenges to the stages of an answer: one link to each, dialled or kept, in the loop of their
//! machine.

use std::collections::BTreeMap;
use std::future::pending;

use bytes::Bytes;
use lockstep_proto::client::{ChallengeInput, ChallengeOutput, Challenger, Exchange, Loss};
use lockstep_verify::sign::NodeId;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::body;
use super::clock::Clock;
use super::drive::{Next, Port, drive};
use super::links::Links;
use crate::limits;
use crate::transport::{ConnectFailure, Link, LinkFailure, PeerAddr, Sender};

/// The addresses of peers, by their node ids.
pub type Peers = BTreeMap<NodeId, PeerAddr>;

/// An event on one of the links of an audit.
struct LinkReport {
    stage: u32,
    /// The link's number: what an older link of the stage says is no news.
    link: u64,
    event: LinkEvent,
}

enum LinkEvent {
    Connected(Box<Link>),
    Frame(Bytes),
    Lost(Loss),
}

/// The state of the link to one stage.
enum StageLink {
    /// The stage is being dialled; these frames wait for the link.
    Dialling(Vec<Bytes>),
    /// Read by a task that gives the link back, or ends it, when it is told to.
    Open(Sender, oneshot::Sender<After>),
}

/// What becomes of a link when nothing is asked on it any more.
enum After {
    /// It is kept for later requests.
    Kept,
    /// It ends: something that was asked on it may still be answered, and no later request is to
    /// hear that.
    Ended,
}

/// The links to the stages of an answer, dialled when first needed.
struct StageLinks {
    kept: Links,
    heard: mpsc::Sender<LinkReport>,
    tasks: JoinSet<()>,
    by_stage: BTreeMap<u32, (u64, StageLink)>,
    links: u64,
}

impl StageLinks {
    /// Sends a frame, over a new link if there is none. Says how that failed.
    fn send(&mut self, stage: u32, peer: Option<&PeerAddr>, frame: Bytes) -> Result<(), Loss> {
        match self.by_stage.get_mut(&stage) {
            Some((_, StageLink::Dialling(waiting))) => waiting.push(frame),
            Some((_, StageLink::Open(sender, _))) => {
                if let Err(error) = sender.post(frame) {
                    self.by_stage.remove(&stage);
                    return Err(loss_of(&error.why));
                }
            }
            None => {
                let peer = peer.ok_or(Loss::Silent)?;
                self.links += 1;
                let link = self.links;
                self.by_stage.insert(stage, (link, StageLink::Dialling(vec![frame])));
                self.dial(stage, link, peer.clone());
            }
        }
        Ok(())
    }

    fn dial(&mut self, stage: u32, link: u64, peer: PeerAddr) {
        let (kept, heard) = (self.kept.clone(), self.heard.clone());
        self.tasks.spawn(async move {
            // One that its other end closes at this moment is lost, and the machine tries again.
            let event = match kept.take(&peer).await {
                Ok(taken) => LinkEvent::Connected(Box::new(taken.link)),
                Err(error) => LinkEvent::Lost(no_way(&error.why)),
            };
            heard.send(LinkReport { stage, link, event }).await.ok();
        });
    }

    /// Takes up a link that has been opened: the frames that waited for it are sent, and a task
    /// begins to read it.
    fn connected(&mut self, stage: u32, link: Link) {
        let Some((number, entry)) = self.by_stage.get_mut(&stage) else { return };
        let (leave, left) = oneshot::channel();
        let open = StageLink::Open(link.sender.clone(), leave);
        if let StageLink::Dialling(waiting) = std::mem::replace(entry, open) {
            for frame in waiting {
                // The reader says that the link has ended.
                link.sender.post(frame).ok();
            }
        }
        let (number, heard) = (*number, self.heard.clone());
        self.tasks.spawn(read(heard, (stage, number), link, (self.kept.clone(), left)));
    }

    /// Ends the work: the links that are open are kept for later requests, but for those of stages
    /// that may still answer something.
    fn leave(mut self, is_clear: impl Fn(u32) -> bool) {
        for (stage, (_, entry)) in self.by_stage {
            if let StageLink::Open(_, leave) = entry {
                leave.send(if is_clear(stage) { After::Kept } else { After::Ended }).ok();
            }
        }
        // They end as soon as they have given their links back.
        self.tasks.detach_all();
    }

    /// Turns an event of a link into an input for the machine; `None` if the event is that of an
    /// old link, or only concerns this driver.
    fn hear(&mut self, LinkReport { stage, link, event }: LinkReport) -> Option<ChallengeInput> {
        if self.by_stage.get(&stage).is_none_or(|(number, _)| *number != link) {
            return None;
        }
        match event {
            LinkEvent::Connected(link) => {
                self.connected(stage, *link);
                None
            }
            LinkEvent::Frame(body) => Some(ChallengeInput::Frame { stage, body: body.into() }),
            LinkEvent::Lost(why) => {
                self.by_stage.remove(&stage);
                Some(ChallengeInput::Lost { stage, why })
            }
        }
    }
}

/// Sends challenges to all stages. The exchanges come through the channel that is returned, which
/// ends after the last. The caller calls [`Answers::taken`] for each answer that it is done with,
/// and before that no more is asked of its stage: so memory is bounded however slowly answers are
/// checked. Dropping the channel ends the work.
#[must_use]
pub fn challenge(links: &Links, peers: &Peers, clock: Clock, machine: Challenger) -> Answers {
    let (output, answers) = mpsc::unbounded_channel();
    let (taken, given_back) = mpsc::unbounded_channel();
    let (links, peers) = (links.clone(), peers.clone());
    let mut task = JoinSet::new();
    task.spawn(pose(links, peers, clock, machine, (output, given_back)));
    Answers { answers, taken, _task: task }
}

/// The exchanges of an audit, each as soon as it is complete.
pub struct Answers {
    /// At most as many as the machine lets wait for each stage.
    answers: mpsc::UnboundedReceiver<Exchange>,
    taken: mpsc::UnboundedSender<u32>,
    /// The task that asks the stages; it ends when this value is dropped.
    _task: JoinSet<()>,
}

impl Answers {
    /// Returns one more exchange, or `None` when all have come.
    pub async fn next(&mut self) -> Option<Exchange> {
        self.answers.recv().await
    }

    /// Says that the caller is done with an answer of this stage, so that the next is asked for.
    pub fn taken(&self, stage: u32) {
        // Where all have come nobody waits for it.
        self.taken.send(stage).ok();
    }
}

async fn pose(
    kept: Links,
    peers: Peers,
    clock: Clock,
    mut machine: Challenger,
    (output, given_back): (mpsc::UnboundedSender<Exchange>, mpsc::UnboundedReceiver<u32>),
) {
    let (heard, inbox) = mpsc::channel(limits::DRIVER_INBOX);
    let stage_links =
        StageLinks { kept, heard, tasks: JoinSet::new(), by_stage: BTreeMap::new(), links: 0 };
    let mut port = ChallengePort { stage_links, peers, inbox, output, given_back };
    match drive(clock, &mut machine, &mut port).await {
        End::Done => port.stage_links.leave(|stage| machine.is_clear(stage)),
        End::Unwanted => {}
    }
}

/// How challenges end.
enum End {
    /// What came of all of them is told.
    Done,
    /// Nobody waits for answers any more.
    Unwanted,
}

/// What the machine of challenges waits for.
enum Arrival {
    Taken(u32),
    Report(LinkReport),
}

/// What connects the machine of challenges to its links and to whoever checks the answers.
struct ChallengePort {
    stage_links: StageLinks,
    peers: Peers,
    inbox: mpsc::Receiver<LinkReport>,
    output: mpsc::UnboundedSender<Exchange>,
    given_back: mpsc::UnboundedReceiver<u32>,
}

impl Port<Challenger> for ChallengePort {
    type Arrival = Arrival;
    type End = End;

    async fn hear(&mut self) -> Arrival {
        tokio::select! {
            Some(report) = self.inbox.recv() => Arrival::Report(report),
            Some(stage) = self.given_back.recv() => Arrival::Taken(stage),
            else => pending::<Arrival>().await,
        }
    }

    async fn take(&mut self, _: &mut Challenger, heard: Arrival) -> Next<ChallengeInput, End> {
        match heard {
            Arrival::Taken(stage) => Next::Input(ChallengeInput::Taken { stage }),
            Arrival::Report(report) => match self.stage_links.hear(report) {
                Some(input) => Next::Input(input),
                None => Next::Nothing,
            },
        }
    }

    fn perform(&mut self, output: ChallengeOutput) -> Next<ChallengeInput, End> {
        match output {
            ChallengeOutput::Answered(exchange) => match self.output.send(*exchange) {
                Ok(()) => Next::Nothing,
                Err(_) => Next::Over(End::Unwanted),
            },
            ChallengeOutput::Done => Next::Over(End::Done),
            ChallengeOutput::Send { stage, node, wire } => {
                match self.stage_links.send(stage, self.peers.get(&node), body(wire)) {
                    Ok(()) => Next::Nothing,
                    Err(why) => Next::Input(ChallengeInput::Lost { stage, why }),
                }
            }
        }
    }

    fn ended(&self, _: &Challenger) -> Option<End> {
        None
    }
}

/// Reads a link until it ends, or until it is to be kept.
async fn read(
    heard: mpsc::Sender<LinkReport>,
    (stage, number): (u32, u64),
    mut link: Link,
    (kept, mut left): (Links, oneshot::Receiver<After>),
) {
    let why = loop {
        let frame = tokio::select! {
            frame = link.receiver.recv() => frame,
            said = &mut left => match said {
                Ok(After::Kept) => return kept.keep(link),
                // The link was given up, if nobody said anything: nothing that comes on it is news,
                // and whoever is at its other end must not keep it open.
                Ok(After::Ended) | Err(_) => return,
            },
        };
        match frame {
            Ok(Some(body)) => {
                let event = LinkEvent::Frame(body);
                if heard.send(LinkReport { stage, link: number, event }).await.is_err() {
                    return;
                }
            }
            Ok(None) => break Loss::HungUp,
            Err(error) => break loss_of(&error.why),
        }
    };
    heard.send(LinkReport { stage, link: number, event: LinkEvent::Lost(why) }).await.ok();
}

/// Returns the loss that a failed link is: hung up if the other end ended it, silent if nothing was
/// heard of that end.
fn loss_of(why: &LinkFailure) -> Loss {
    match why {
        LinkFailure::HungUp(_)
        | LinkFailure::Crowded
        | LinkFailure::Oversize { .. }
        | LinkFailure::Stalled { .. }
        | LinkFailure::Truncated { .. } => Loss::HungUp,
        LinkFailure::ClosedHere
        | LinkFailure::Network(_)
        | LinkFailure::QueueFull { .. }
        | LinkFailure::Silent { .. }
        | LinkFailure::Unread { .. } => Loss::Silent,
    }
}

/// Returns the loss that a failed dial is: hung up if the stage let nobody in, silent if nothing
/// was heard of it.
fn no_way(why: &ConnectFailure) -> Loss {
    match why {
        ConnectFailure::Busy
        | ConnectFailure::Closed
        | ConnectFailure::Incompatible { .. }
        | ConnectFailure::NotAllowed => Loss::HungUp,
        ConnectFailure::Network(_)
        | ConnectFailure::NoAddress
        | ConnectFailure::NoAnswer { .. }
        | ConnectFailure::NotAKey
        | ConnectFailure::Oneself
        | ConnectFailure::OtherRelay(_)
        | ConnectFailure::WrongIdentity => Loss::Silent,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lockstep_exact::digest::Digest;
    use lockstep_proto::frame::{Frame as _, ToClient, ToServer};
    use lockstep_proto::server::Capacity;
    use lockstep_testing::hash_model::{HashModel, LAYERS, model, vocabulary};
    use lockstep_testing::ring::Ring;
    use lockstep_verify::challenge::Target;
    use lockstep_verify::opening::SignedOpening;
    use lockstep_verify::receipt::Receipt;
    use lockstep_verify::sign::{Keypair, NodeId, Statement as _};

    use super::*;
    use crate::transport::AllowList;
    use crate::transport::memory::Network;

    fn client(network: &Network) -> Links {
        Links::new(Arc::new(network.endpoint(NodeId([99; 32]), AllowList::Anyone)))
    }

    /// A receipt of one stage, which is the node of the key, with the session's key.
    fn receipt() -> (Receipt, Keypair, Keypair) {
        let made = (model(), vocabulary());
        let with = |_| HashModel::default();
        let mut ring = Ring::new(1, made, &[LAYERS], Capacity::default(), with);
        let request = ring.request(0, vec![1, 2, 3], 2);
        let route = ring.route();
        assert_eq!(ring.ask(request, route), Ok(0));
        assert!(ring.run_to_the_end(10_000_000));
        let mut receipt = ring.outcome(0).expect("ended").as_ref().expect("answered").clone();
        // The ring has a time of its own.
        receipt.segments[0].deadline_unix_ms = u64::from(u32::MAX) * 1000;
        (*receipt, Ring::<HashModel>::server_key(0), Ring::<HashModel>::client_key(0))
    }

    #[tokio::test]
    async fn a_link_on_which_an_answer_may_still_come_is_not_kept_after_an_audit() {
        let (receipt, stage, session) = receipt();
        for is_garbage in [false, true] {
            let network = Network::new();
            let client = client(&network);
            let server = network.endpoint(stage.id(), AllowList::Anyone);
            let peer = PeerAddr { id: stage.id(), addrs: Vec::new() };
            let peers = Peers::from([(stage.id(), peer.clone())]);
            let head = |position| (0, Target::Head { positions: vec![position] });
            let plan = vec![head(2), head(3)];
            let (prices, clock) = (model().prices, Clock::start());
            let machine = Challenger::new(clock.now(), &receipt, plan, &session, prices, 0);
            let mut answers = challenge(&client, &peers, clock, machine);
            let mut link = server.accept().await.expect("it asks");
            for _ in 0..2 {
                let frame = link.receiver.recv().await.expect("open").expect("a challenge");
                let Ok(ToServer::Challenge(asked)) = ToServer::from_body(&frame) else {
                    panic!("no challenge: {frame:?}");
                };
                // After garbage the client waits for nothing more, and the other answer may come.
                let opening = SignedOpening::new(asked.statement(), Vec::new(), &stage);
                let answer = match is_garbage {
                    true => ToClient::Accepted(Digest::ZERO),
                    false => ToClient::Opening(Box::new(opening)),
                };
                link.sender.post(body(answer.to_wire().expect("short"))).expect("open");
                if is_garbage {
                    break;
                }
            }
            let mut count = 0;
            while let Some(exchange) = answers.next().await {
                assert_eq!(exchange.answer.is_err(), is_garbage, "{exchange:?}");
                answers.taken(exchange.stage);
                count += 1;
            }
            assert_eq!(count, 2);
            for _ in 0..16 {
                tokio::task::yield_now().await;
            }
            let taken = client.take(&peer).await.expect("a link");
            assert_eq!(taken.is_kept, !is_garbage, "garbage: {is_garbage}");
        }
    }
}
