//! A request of a client: it takes a ring of its own, and another one if that has no room, or fails
//! before the first token.
//!
//! Which ring, and when, is decided by [`Chooser`]. A request that has got no token yet is made
//! anew for the next ring. Of a refusal for want of room the caller hears nothing but its end; of
//! another failure by [`Event::Moved`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lockstep_node::driver::AskError as DriverError;
use lockstep_proto::client::ClientError;
use lockstep_proto::failure::{Failure, Reason};
use lockstep_proto::now::Now;
use lockstep_proto::swarm::chooser::{Attempts, Chooser, Next};
use lockstep_verify::draw::Extent;
use tokio::time::sleep;

use crate::own::OwnSecret;
use crate::random;
use crate::request::Question;
use crate::ring::{Answer, Answering, AskError, BrokenOff, Event, Moved, Ring};

/// The view of the swarm that all requests of a client share.
pub(crate) type Shared = Arc<Mutex<Chooser>>;

/// Runs `act` on what all requests know together. It is as it was before, if a thread has died in
/// here.
pub(crate) fn with<T>(chooser: &Shared, act: impl FnOnce(&mut Chooser) -> T) -> T {
    act(&mut chooser.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Returns whether a request of a user may go over a ring that was found earlier.
fn may_be_asked(chooser: &Shared, known: &Ring) -> bool {
    let route = known.route();
    !route.is_empty() && with(chooser, |chooser| chooser.allows(route))
}

/// Where a request is.
#[derive(Debug)]
enum Phase {
    /// A ring has it.
    Asking(Answering),
    /// It waits until it may ask again; it was refused or failed with this error.
    Pausing { until: Now, error: BrokenOff },
    /// The caller has heard of its end.
    Over,
}

/// A request under way: the caller awaits [`next`](Self::next) until the last event. Dropping it
/// breaks the request off.
pub struct Asked {
    chooser: Shared,
    /// The ring that has it, or had it last.
    ring: Ring,
    question: Question,
    own: OwnSecret,
    extent: Option<Extent>,
    attempts: Attempts,
    has_tokens: bool,
    /// Whether the request counts as under way.
    is_counted: bool,
    phase: Phase,
}

impl Asked {
    /// Begins a request on a ring that `chooser` gives, over servers that `known` has addresses of.
    ///
    /// # Errors
    /// [`AskError`].
    pub(crate) fn begin(
        chooser: Shared,
        known: &Ring,
        (question, own): (Question, OwnSecret),
        extent: Option<Extent>,
    ) -> Result<Self, AskError> {
        let now = known.now();
        let hops = with(&chooser, |chooser| chooser.begin(now));
        let (has_tokens, is_counted, attempts) = (false, hops.is_ok(), Attempts::new(now));
        let ring = match hops {
            Ok(hops) => known.with_route(hops),
            // Whoever could be asked before is asked, and says itself what is wrong, but for those
            // of whom something bad is known by now.
            Err(_) if may_be_asked(&chooser, known) => known.clone(),
            Err(error) => return Err(AskError::NoRoute(error)),
        };
        let phase = Phase::Over;
        let mut asked =
            Self { chooser, ring, question, own, extent, attempts, has_tokens, is_counted, phase };
        asked.phase = Phase::Asking(asked.ask()?);
        Ok(asked)
    }

    /// Returns the ring that has the request, or had it last.
    #[must_use]
    pub const fn ring(&self) -> &Ring {
        &self.ring
    }

    /// Returns the next event; `None` after the last. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            match &mut self.phase {
                Phase::Over => return None,
                Phase::Pausing { until, .. } => {
                    let wait = until.since(self.ring.now());
                    sleep(Duration::from_micros(wait)).await;
                    if let Err(error) = self.ask_again() {
                        return self.end(error);
                    }
                }
                Phase::Asking(answering) => match answering.next().await {
                    None => return None,
                    Some(Event::Failed(error)) => match self.pause(error) {
                        Ok(None) => {}
                        Ok(Some(moved)) => return Some(Event::Moved(moved)),
                        Err(error) => return self.end(error),
                    },
                    Some(event) => {
                        self.has_tokens |= matches!(event, Event::Token { .. });
                        return Some(event);
                    }
                },
            }
        }
    }

    /// Wants no more of it: [`Event::Failed`] follows, with [`BrokenOff::is_cancelled`], unless the
    /// answer has ended already. Said again it does nothing.
    pub fn cancel(&mut self) {
        match &mut self.phase {
            Phase::Asking(answering) => answering.cancel(),
            Phase::Pausing { until, error } => {
                let cancelled = Failure { stage: None, by: None, reason: Reason::Cancelled };
                *until = Now::default();
                *error = BrokenOff(DriverError::Session(ClientError::Failed(cancelled)));
            }
            Phase::Over => {}
        }
    }

    /// Waits for the end of the request, and returns the answer or the error with which it broke
    /// off.
    ///
    /// # Errors
    /// [`BrokenOff`].
    pub async fn finish(&mut self) -> Result<Answer, BrokenOff> {
        while let Some(event) = self.next().await {
            match event {
                Event::Accepted | Event::Moved(_) | Event::Token { .. } => {}
                Event::Failed(error) => return Err(error),
                Event::Finished(answer) => return Ok(*answer),
            }
        }
        Err(DriverError::Silent.into())
    }

    fn ask(&self) -> Result<Answering, AskError> {
        self.ring.ask(self.question.clone(), &self.own, self.extent)
    }

    /// Tells the caller of the end.
    fn end(&mut self, error: BrokenOff) -> Option<Event> {
        self.phase = Phase::Over;
        Some(Event::Failed(error))
    }

    /// Decides what follows from a failure: a pause, which may be over at once, or the end. Returns
    /// why the request takes another ring, if that is not for want of room.
    fn pause(&mut self, error: BrokenOff) -> Result<Option<Moved>, BrokenOff> {
        if self.has_tokens {
            return Err(error);
        }
        let (now, attempts) = (self.ring.now(), &mut self.attempts);
        let named = error.named(self.ring.route());
        let (next, moved) = match (error.retry_ms(), named) {
            (Some(retry_ms), Some((node, source))) => {
                let Ok(drawn) = random::seed() else {
                    return Err(error);
                };
                let next = with(&self.chooser, |chooser| {
                    chooser.refused(now, node, retry_ms, source);
                    attempts.refused(now, chooser, source, drawn)
                });
                (next, None)
            }
            (None, named) if error.is_of_ring() => {
                let next = with(&self.chooser, |chooser| {
                    attempts.failed(now, chooser, self.ring.route(), named)
                });
                (next, Some(self.ring.moved(&error)))
            }
            _ => return Err(error),
        };
        match next {
            Next::GiveUp => Err(error),
            Next::Again(until) => {
                self.phase = Phase::Pausing { until, error };
                Ok(moved)
            }
        }
    }

    /// Asks another ring, or the same one again.
    fn ask_again(&mut self) -> Result<(), BrokenOff> {
        let Phase::Pausing { error, .. } = std::mem::replace(&mut self.phase, Phase::Over) else {
            return Ok(());
        };
        if error.is_cancelled() {
            return Err(error);
        }
        let (now, attempts) = (self.ring.now(), &self.attempts);
        let begun = with(&self.chooser, |chooser| {
            chooser.ended();
            attempts.begin(now, chooser)
        });
        self.is_counted = begun.is_ok();
        match begun {
            Ok(hops) => self.ring = self.ring.with_route(hops),
            // The ring that refused is asked again.
            Err(_) if may_be_asked(&self.chooser, &self.ring) => {}
            Err(_) => return Err(error),
        }
        let answering = self.ask().map_err(|_| error)?;
        self.phase = Phase::Asking(answering);
        Ok(())
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if self.is_counted {
            with(&self.chooser, Chooser::ended);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use lockstep_exact::bytes::Canonical as _;
    use lockstep_exact::digest::Digest;
    use lockstep_node::driver::{Links, Serving, serve};
    use lockstep_node::executor::{Executor, Weights};
    use lockstep_node::transport::{AllowList, Endpoint, Identity, Listen, PeerAddr};
    use lockstep_proto::model::Model;
    use lockstep_proto::server::{Capacity, Holding, RunValues, Server};
    use lockstep_proto::swarm::trust::Experience;
    use lockstep_testing::tiny_model::TinyModel;
    use tokio::task::{AbortHandle, JoinSet};
    use tokio::time::timeout;

    use super::*;
    use crate::backend::backend;
    use crate::request::Parameters;
    use crate::ring::{Served, Statuses, demand};

    /// Starts a server of the whole model, which keeps one session of each client.
    async fn start(model: &TinyModel, tasks: &mut JoinSet<()>) -> (PeerAddr, AbortHandle) {
        let identity = Identity::generate();
        let endpoint = Endpoint::bind(&identity, Listen::default(), AllowList::Anyone).await;
        let endpoint = endpoint.expect("a socket");
        let peer = endpoint.addr();
        let (ops, layers) = (backend(Some(1)).expect("a backend"), model.span());
        let blob = |index| model.blob(index);
        let weights = Weights::load(&ops, &model.manifest, layers.clone(), blob).expect("weights");
        let executor = Executor::new(ops, &model.manifest, weights);
        let head = Some(Arc::new(model.vocabulary()));
        let holding = Holding { model: Model::from(&model.manifest), span: layers, head };
        let capacity = Capacity { retained: 4, ..Capacity::default() };
        let runs = RunValues::new(random::secret().expect("random bytes"));
        let machine = Server::new(identity.keypair(), holding, capacity, runs);
        let serving = Serving { endpoint: Arc::new(endpoint), machine, executor };
        let task = tasks.spawn(async {
            drop(serve(serving, std::future::pending(), std::future::pending()).await);
        });
        (peer, task)
    }

    /// The ring of a client of these servers, and what its requests know together.
    async fn client(model: &TinyModel, peers: &[PeerAddr]) -> (Ring, Shared) {
        let nobody = AllowList::Only(BTreeSet::new());
        let endpoint = Endpoint::bind(&Identity::generate(), Listen::default(), nobody).await;
        let links = Links::new(Arc::new(endpoint.expect("a socket")));
        let id = Digest::of(&model.manifest.to_bytes());
        let statuses = Statuses::ask(&links, peers, id, |_| false).await;
        let (manifest, vocabulary) =
            (Arc::new(model.manifest.clone()), Arc::new(model.vocabulary()));
        let served = Served { id, manifest, vocabulary };
        let mut own = Experience::new(1);
        peers.iter().for_each(|peer| own.named(peer.id));
        let chooser = Chooser::new(demand(&served, &BTreeSet::new()), statuses.told(), own);
        let ring = Ring::over(served, links, &statuses, &BTreeSet::new()).expect("a ring");
        (ring, Arc::new(Mutex::new(chooser)))
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_request_without_room_at_one_server_is_answered_by_the_other_and_given_up_at_last() {
        let asking = async {
            let model = TinyModel::new(7);
            let mut tasks = JoinSet::new();
            let peers = [start(&model, &mut tasks).await.0, start(&model, &mut tasks).await.0];
            let (ring, shared) = client(&model, &peers).await;
            let parameters =
                Parameters { max_tokens: 3, ignore_end: true, ..Parameters::default() };
            let question = parameters.question(vec![1, 2, 3], &model.manifest).expect("checked");
            let mut answers = Vec::new();
            for _ in 0..2 {
                let own = OwnSecret::draw().expect("random bytes");
                let (shared, question) = (Arc::clone(&shared), (question.clone(), own));
                let mut asked = Asked::begin(shared, &ring, question, None).expect("sent");
                let answer = asked.finish().await.expect("an answer");
                answers.push((asked.ring().route()[0].node, answer.receipt.answer));
            }
            assert_ne!(answers[0].0, answers[1].0, "the first one keeps as much as it may");
            assert_eq!(answers[0].1, answers[1].1);
            // Neither has room for as long as it has promised to keep what audits need.
            let own = OwnSecret::draw().expect("random bytes");
            let mut asked =
                Asked::begin(Arc::clone(&shared), &ring, (question, own), None).expect("sent");
            let error = asked.finish().await.expect_err("there is no room");
            assert!(error.retry_ms().is_some_and(|ms| ms > 500_000), "{error}");
            assert!(asked.next().await.is_none(), "nothing comes after the end");
            ring.close().await;
        };
        timeout(Duration::from_secs(120), asking).await.expect("it hangs");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_request_whose_server_is_gone_is_answered_by_the_other_and_says_so() {
        let asking = async {
            let model = TinyModel::new(8);
            let mut tasks = JoinSet::new();
            let servers = [start(&model, &mut tasks).await, start(&model, &mut tasks).await];
            let peers = servers.each_ref().map(|(peer, _)| peer.clone());
            let (ring, shared) = client(&model, &peers).await;
            let first = with(&shared, |chooser| {
                let ring = chooser.begin(ring.now()).expect("a ring");
                chooser.ended();
                ring[0]
            });
            // It is gone without a word.
            let (_, gone) = servers.iter().find(|(peer, _)| peer.id == first.node).expect("there");
            gone.abort();
            let parameters =
                Parameters { max_tokens: 3, ignore_end: true, ..Parameters::default() };
            let question = parameters.question(vec![1, 2, 3], &model.manifest).expect("checked");
            let own = OwnSecret::draw().expect("random bytes");
            let mut asked = Asked::begin(shared, &ring, (question, own), None).expect("sent");
            assert_eq!(asked.ring().route()[0], first);
            let mut moves = Vec::new();
            let answer = loop {
                match asked.next().await.expect("an end") {
                    Event::Accepted | Event::Token { .. } => {}
                    Event::Failed(error) => panic!("{error}"),
                    Event::Finished(answer) => break answer,
                    Event::Moved(moved) => moves.push(moved.server),
                }
            };
            assert_eq!(moves, [Some((0, first))]);
            assert_eq!(answer.receipt.answer.len(), 3);
            assert_ne!(asked.ring().route()[0].node, first.node);
            ring.close().await;
        };
        timeout(Duration::from_secs(120), asking).await.expect("it hangs");
    }
}
