//! One request: it streams an answer from stage 0 and keeps the link alive.

use std::future::{Future, pending};
use std::pin::pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lockstep_proto::client::{Client, ClientError, Event, Input, Output};
use lockstep_proto::failure::{Failure, Reason};
use lockstep_verify::receipt::Receipt;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::body;
use super::clock::Clock;
use super::drive::{Next, Port, drive};
use super::links::{Links, Taken};
use crate::transport::{ConnectError, Link, PeerAddr};

/// Time for what was queued to leave when a request has failed.
const FAREWELL: Duration = Duration::from_secs(1);

/// The reasons why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Stage 0 could not be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The session failed; the error names the stage.
    #[error(transparent)]
    Session(#[from] ClientError),
    /// The task of the request is gone without a word: a fault of this program.
    #[error("the request ended without an answer and without an error")]
    Silent,
}

/// An event of a request under way. [`Answer::Finished`] or [`Answer::Failed`] is the last one.
/// Times are counted from the call of [`ask`].
#[derive(Debug)]
pub enum Answer {
    /// Stage 0 has opened the session.
    Accepted,
    /// The request failed; tokens that came before are no answer.
    Failed(AskError),
    /// The answer is complete, and everything about it but its cells is checked.
    Finished {
        /// The receipt, signed by every stage.
        receipt: Box<Receipt>,
        /// The time from the call of [`ask`] to the last frame.
        after: Duration,
    },
    /// A token came, and the signatures for it were checked.
    Token {
        /// Its place in the answer, from 0.
        index: u32,
        /// The id of the token.
        token: u32,
        /// The time from the call of [`ask`] to the token.
        after: Duration,
    },
}

/// A request under way: the caller awaits [`next`](Self::next) until the last event. Dropping it
/// breaks the request off.
#[derive(Debug)]
pub struct Asking {
    /// At most as many as an answer has tokens, and two.
    events: mpsc::UnboundedReceiver<Answer>,
    cancel: Option<oneshot::Sender<()>>,
    /// The task that speaks with stage 0; it ends when this value is dropped.
    _task: JoinSet<()>,
}

impl Asking {
    /// Returns the next event; `None` after the last. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Answer> {
        self.events.recv().await
    }

    /// Waits for the end of the request, and returns the receipt or the error.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn finish(mut self) -> Result<Receipt, AskError> {
        while let Some(event) = self.next().await {
            match event {
                Answer::Accepted | Answer::Token { .. } => {}
                Answer::Failed(error) => return Err(error),
                Answer::Finished { receipt, .. } => return Ok(*receipt),
            }
        }
        Err(AskError::Silent)
    }

    /// Ends the request early: [`Answer::Failed`] with [`Reason::Cancelled`] follows, unless the
    /// answer has ended already. Said again it does nothing.
    pub fn cancel(&mut self) {
        if let Some(cancel) = self.cancel.take() {
            // A request that is over needs no end.
            cancel.send(()).ok();
        }
    }
}

/// Runs one request to its end, on a task of its own: however slowly its events are taken, the
/// servers hear that the client lives. To be called inside a runtime of tokio.
#[must_use]
pub fn ask(links: &Links, first: &PeerAddr, clock: Clock, machine: Client) -> Asking {
    let (events, taken) = mpsc::unbounded_channel();
    let (cancel, cancelled) = oneshot::channel();
    let (links, first) = (links.clone(), first.clone());
    let mut task = JoinSet::new();
    task.spawn(async move {
        let start = Instant::now();
        if let Err(error) = run((links, first), clock, machine, (&events, start, cancelled)).await {
            events.send(Answer::Failed(error)).ok();
        }
    });
    Asking { events: taken, cancel: Some(cancel), _task: task }
}

/// Runs one request; tells everything but its failure.
async fn run(
    (links, first): (Links, PeerAddr),
    clock: Clock,
    mut machine: Client,
    (events, start, cancelled): (&mpsc::UnboundedSender<Answer>, Instant, oneshot::Receiver<()>),
) -> Result<(), AskError> {
    let line = Line::new(links.take(&first).await?);
    let (links, cancelled) = (&links, pin!(wanted(cancelled)));
    let mut port = AskPort { links, first, line, events, start, cancelled, is_cancelled: false };
    match drive(clock, &mut machine, &mut port).await {
        End::Finished { receipt, after } => {
            // Nothing follows on it, so whoever hears of the end finds it kept.
            links.keep(port.line.link);
            events.send(Answer::Finished { receipt, after }).ok();
            Ok(())
        }
        End::Failed(error) => {
            // Stage 0 gets to know, unless it is gone.
            timeout(FAREWELL, port.line.link.sender.finish()).await.ok();
            Err(error.into())
        }
        End::Silent => {
            let failure = Failure { stage: Some(0), by: None, reason: Reason::LinkLost };
            Err(ClientError::Failed(failure).into())
        }
    }
}

/// How a request ends.
enum End {
    Failed(ClientError),
    Finished {
        receipt: Box<Receipt>,
        after: Duration,
    },
    /// The machine is over and has not said how.
    Silent,
}

/// What a request waits for.
enum Arrival {
    Cancelled,
    Frame(Option<Bytes>),
}

/// What connects the machine of a request to its link and to whoever asked.
struct AskPort<'a, Cancelled> {
    links: &'a Links,
    first: PeerAddr,
    line: Line,
    events: &'a mpsc::UnboundedSender<Answer>,
    start: Instant,
    cancelled: Cancelled,
    is_cancelled: bool,
}

/// The link to stage 0, with the frames that may have to be sent again.
struct Line {
    link: Link,
    /// The frames that were sent on a link which had been kept, as long as nothing came on it: its
    /// other end may have closed it before it got any of them, and then they are sent again on a
    /// new link. `None` for links that were dialled.
    unheard: Option<Vec<Bytes>>,
}

impl Line {
    fn new(taken: Taken) -> Self {
        Self { link: taken.link, unheard: taken.is_kept.then(Vec::new) }
    }

    /// Sends a frame; whoever reads hears that the link has ended.
    fn send(&mut self, frame: Bytes) {
        if let Some(unheard) = &mut self.unheard {
            unheard.push(frame.clone());
        }
        self.link.sender.post(frame).ok();
    }

    /// Returns the next frame; `None` when the link has ended.
    async fn next(&mut self) -> Option<Bytes> {
        let frame = self.link.receiver.recv().await.ok().flatten();
        if frame.is_some() {
            self.unheard = None;
        }
        frame
    }

    /// Sends all again over a new link, if the old one was kept and ended before anything came.
    async fn replace(&mut self, links: &Links, first: &PeerAddr) -> Result<(), Lost> {
        let unheard = self.unheard.take().ok_or(Lost)?;
        self.link = links.dial(first).await.map_err(|_| Lost)?;
        unheard.into_iter().for_each(|frame| self.send(frame));
        Ok(())
    }
}

/// The link to stage 0 is gone for good.
struct Lost;

impl<Cancelled: Future<Output = ()> + Send + Unpin> Port<Client> for AskPort<'_, Cancelled> {
    type Arrival = Arrival;
    type End = End;

    async fn hear(&mut self) -> Arrival {
        tokio::select! {
            frame = self.line.next() => Arrival::Frame(frame),
            () = &mut self.cancelled, if !self.is_cancelled => Arrival::Cancelled,
        }
    }

    async fn take(&mut self, _: &mut Client, heard: Arrival) -> Next<Input, End> {
        Next::Input(match heard {
            Arrival::Cancelled => {
                self.is_cancelled = true;
                Input::Cancel
            }
            Arrival::Frame(Some(body)) => Input::Frame(body.into()),
            Arrival::Frame(None) => match self.line.replace(self.links, &self.first).await {
                Ok(()) => Input::Tick,
                Err(Lost) => Input::Lost,
            },
        })
    }

    fn perform(&mut self, output: Output) -> Next<Input, End> {
        let after = self.start.elapsed();
        match output {
            Output::Send(wire) => self.line.send(body(wire)),
            Output::Event(Event::Accepted) => self.tell(Answer::Accepted),
            Output::Event(Event::Token { index, token }) => {
                self.tell(Answer::Token { index, token, after });
            }
            Output::Event(Event::Finished(receipt)) => {
                return Next::Over(End::Finished { receipt, after });
            }
            Output::Event(Event::Failed(error)) => return Next::Over(End::Failed(error)),
        }
        Next::Nothing
    }

    fn ended(&self, machine: &Client) -> Option<End> {
        machine.is_over().then_some(End::Silent)
    }
}

impl<Cancelled> AskPort<'_, Cancelled> {
    /// Sends an event to the caller. If the caller no longer listens, it has dropped this task with
    /// its handle.
    fn tell(&self, event: Answer) {
        self.events.send(event).ok();
    }
}

/// Waits until somebody says so; for ever if nobody can any more.
async fn wanted(said: oneshot::Receiver<()>) {
    if said.await.is_err() {
        pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lockstep_exact::digest::Digest;
    use lockstep_exact::sample::{Sampling, Stops};
    use lockstep_proto::client::Ask;
    use lockstep_proto::failure::Refusal;
    use lockstep_proto::frame::{Frame as _, ToClient, ToServer};
    use lockstep_testing::hash_model::{LAYERS, model, vocabulary};
    use lockstep_verify::request::{Hop, Request};
    use lockstep_verify::sign::{Keypair, NodeId};

    use super::*;
    use crate::transport::memory::Network;
    use crate::transport::{AllowList, Endpoint, HangUp};

    const SERVER: NodeId = NodeId([1; 32]);

    /// A network with a client's links and a server's end of it.
    fn network() -> (Links, Endpoint, PeerAddr) {
        let network = Network::new();
        let client = network.endpoint(NodeId([9; 32]), AllowList::Anyone);
        let server = network.endpoint(SERVER, AllowList::Anyone);
        (Links::new(Arc::new(client)), server, PeerAddr { id: SERVER, addrs: Vec::new() })
    }

    fn machine(clock: Clock) -> Client {
        let key = Keypair::from_secret(&[5; 32]);
        let request = Request {
            manifest: model().manifest,
            adapters: Vec::new(),
            prompt: vec![1, 2],
            sampling: Sampling::default(),
            stops: Stops { max_tokens: 4, ..Stops::default() },
            nonce: [3; 32],
            session_key: key.id(),
            audit_commitment: Digest::ZERO,
        };
        let route = vec![Hop { node: SERVER, first: 0, end: LAYERS }];
        let ask = Ask { request, route, addresses: vec![String::new()] };
        Client::new(clock.now(), ask, &key, &model(), vocabulary()).expect("a request")
    }

    /// Reads the opening of a session and refuses it.
    async fn refuse(link: &mut Link) {
        let frame = link.receiver.recv().await.expect("open").expect("a frame");
        let Ok(ToServer::Open { lease, .. }) = ToServer::from_body(&frame) else {
            panic!("not an opening: {frame:?}");
        };
        let refused = ToClient::Refused { session: lease.session, refusal: Refusal::Busy };
        link.sender.post(body(refused.to_wire().expect("short"))).expect("open");
    }

    async fn end_of(mut asking: Asking) -> Answer {
        let mut last = None;
        while let Some(event) = asking.next().await {
            last = Some(event);
        }
        last.expect("an end")
    }

    fn is_refusal(answer: &Answer) -> bool {
        matches!(answer, Answer::Failed(AskError::Session(ClientError::Refused(Refusal::Busy))))
    }

    #[tokio::test]
    async fn a_request_over_a_kept_link_that_ends_before_anything_came_is_asked_over_a_new_one() {
        let (links, server, peer) = network();
        links.keep(links.take(&peer).await.expect("dialled").link);
        let mut old = server.accept().await.expect("the link that is kept");
        let clock = Clock::start();
        let asking = ask(&links, &peer, clock, machine(clock));
        // The request is sent, and the other end closes without a word of it.
        old.receiver.recv().await.expect("open").expect("the request");
        old.sender.hang_up(HangUp::Done);
        let new = timeout(crate::limits::CONNECT_DEADLINE, server.accept()).await;
        let mut new = new.expect("it asks again").expect("a new link");
        refuse(&mut new).await;
        let end = end_of(asking).await;
        assert!(is_refusal(&end), "{end:?}");
    }

    #[tokio::test]
    async fn a_request_over_a_new_link_that_ends_has_failed_and_is_not_asked_twice() {
        let (links, server, peer) = network();
        let clock = Clock::start();
        let asking = ask(&links, &peer, clock, machine(clock));
        let mut link = server.accept().await.expect("a link");
        link.receiver.recv().await.expect("open").expect("the request");
        link.sender.hang_up(HangUp::Done);
        let end = end_of(asking).await;
        let Answer::Failed(AskError::Session(ClientError::Failed(failure))) = &end else {
            panic!("{end:?}");
        };
        assert_eq!((failure.stage, failure.reason), (Some(0), Reason::LinkLost));
        // A second one would have been dialled before the end was told.
        links.dial(&peer).await.expect("dialled");
        server.accept().await.expect("the one that was dialled just now");
    }

    #[tokio::test]
    async fn a_request_that_is_cancelled_ends_and_server_1_hears_of_it() {
        let (links, server, peer) = network();
        let clock = Clock::start();
        let mut asking = ask(&links, &peer, clock, machine(clock));
        let mut link = server.accept().await.expect("a link");
        link.receiver.recv().await.expect("open").expect("the request");
        asking.cancel();
        asking.cancel();
        let frame = link.receiver.recv().await.expect("open").expect("a frame");
        assert!(matches!(ToServer::from_body(&frame), Ok(ToServer::Cancel(_))), "{frame:?}");
        drop(link);
        let end = end_of(asking).await;
        let Answer::Failed(AskError::Session(ClientError::Failed(failure))) = &end else {
            panic!("{end:?}");
        };
        assert_eq!(failure.reason, Reason::Cancelled);
    }
}
