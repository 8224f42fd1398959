//! Clients that come and go at a swarm of real servers: each has a node id of its own, asks again
//! and again for prompts, lengths and after pauses from a seed, and cancels some of its requests.

use std::collections::BTreeSet;
use std::future;
use std::time::{Duration, Instant};

use lockstep_client::client::{Asking, Caller, Client};
use lockstep_client::model::Model;
use lockstep_client::place::Place;
use lockstep_client::request::Question;
use lockstep_client::ring::Event;
use lockstep_exact::sample::{Sampling, Stops};
use lockstep_import::tokenizer::{ControlText, Tokenizer};
use lockstep_node::ticket::Ticket;
use lockstep_testing::numbers::Numbers;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{MODEL, PATIENCE, home};

/// The prompts that clients ask. All answers to one of them begin with the same tokens.
const PROMPTS: [&str; 4] = [
    "The capital of France is",
    "Once upon a time there was a",
    "Water boils at",
    "To make bread you need flour,",
];
/// One request in so many is cancelled.
const CANCELLED_ONE_IN: u64 = 8;

/// What the clients do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) clients: usize,
    pub(crate) seed: u64,
    pub(crate) asks: Asks,
    /// The most tokens of an answer; each has a quarter of them at least.
    pub(crate) tokens: u32,
    /// The longest pause between two requests of a client.
    pub(crate) pause: Duration,
}

/// How often a client asks.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Asks {
    Times(usize),
    /// Again and again until this time is over; what is under way then may finish.
    For(Duration),
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Answered,
    /// Its client wanted no more of it.
    Cancelled,
    /// There was no room for as long as a client waits; the words of the refusal.
    Refused(String),
    /// It broke off or was never answered: nothing of the kind may happen.
    Lost(String),
}

/// A request that has ended.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) prompt: usize,
    pub(crate) end: End,
    pub(crate) tokens: Vec<u32>,
    /// When each token came.
    pub(crate) came: Vec<Instant>,
}

/// Everything that the clients asked, by client.
#[derive(Debug)]
pub(crate) struct Told(pub(crate) Vec<Vec<Asked>>);

impl Told {
    pub(crate) fn all(&self) -> impl Iterator<Item = &Asked> {
        self.0.iter().flatten()
    }

    /// How many requests ended so.
    pub(crate) fn count(&self, is_so: impl Fn(&End) -> bool) -> usize {
        self.all().filter(|asked| is_so(&asked.end)).count()
    }

    /// The words of all that was lost.
    pub(crate) fn lost(&self) -> Vec<&str> {
        let lost = self.all().filter_map(|asked| match &asked.end {
            End::Lost(why) => Some(why.as_str()),
            End::Answered | End::Cancelled | End::Refused(_) => None,
        });
        lost.collect()
    }

    /// How many requests got other tokens than another one with the same prompt.
    pub(crate) fn contradictions(&self) -> usize {
        let longest = |prompt: usize| {
            let same = self.all().filter(|asked| asked.prompt == prompt);
            same.map(|asked| asked.tokens.as_slice()).max_by_key(|tokens| tokens.len())
        };
        let longest: Vec<_> = (0..PROMPTS.len()).map(longest).collect();
        let is_like = |asked: &&Asked| {
            longest[asked.prompt].is_some_and(|longest| longest.starts_with(&asked.tokens))
        };
        self.all().count() - self.all().filter(is_like).count()
    }

    /// The tokens that each client got within a time.
    pub(crate) fn service(&self, from: Instant, until: Instant) -> Vec<usize> {
        let of = |asked: &Asked| asked.came.iter().filter(|at| (from..until).contains(*at)).count();
        self.0.iter().map(|client| client.iter().map(of).sum()).collect()
    }
}

/// Lets clients come and go at the swarms of tickets, with commas between them, until all that they
/// asked has ended.
pub(crate) fn crowd(tickets: &str, plan: Plan) -> Told {
    let place: &'static Place = Box::leak(Box::new(Place::open(Some(home()), |_| None).unwrap()));
    let model = Model::installed(&place.store, MODEL).unwrap();
    let tokenizer = model.tokenizer(&place.store).unwrap();
    let tickets: Vec<Ticket> = tickets.split(',').map(|ticket| ticket.parse().unwrap()).collect();
    runtime().block_on(async {
        let mut visits = JoinSet::new();
        let named = BTreeSet::new();
        for client in 0..plan.clients {
            // They audit nothing, so they take the word of every server.
            let (tickets, caller, checker) = (&tickets, Caller::Fresh, None);
            let asking = Asking { tickets, named: &named, caller, checker };
            let found = Client::find(place, (&model, &tokenizer), asking, drop);
            let visitor = Visitor {
                client: found.await.unwrap(),
                prompts: PROMPTS.map(|text| prompt(&tokenizer, text)),
                numbers: Numbers::new(plan.seed << 16 | client as u64),
                plan,
            };
            visits.spawn(async move { (client, visitor.visit().await) });
        }
        let mut told = visits.join_all().await;
        told.sort_by_key(|(client, _)| *client);
        Told(told.into_iter().map(|(_, asked)| asked).collect())
    })
}

fn runtime() -> Runtime {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(1).enable_all().build().unwrap()
}

fn prompt(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode(text, ControlText::Plain).unwrap()
}

/// One client.
struct Visitor {
    client: Client<'static>,
    prompts: [Vec<u32>; PROMPTS.len()],
    numbers: Numbers,
    plan: Plan,
}

impl Visitor {
    async fn visit(mut self) -> Vec<Asked> {
        let (mut asked, began, asks) = (Vec::new(), Instant::now(), self.plan.asks);
        let goes_on = |count: usize| match asks {
            Asks::Times(times) => count < times,
            Asks::For(time) => began.elapsed() < time,
        };
        while goes_on(asked.len()) {
            let pause_us = self.plan.pause.as_micros() as u64;
            if pause_us > 0 {
                let pause = Duration::from_micros(self.numbers.below(pause_us));
                // It is the time of a person between two questions, not a wait for anything.
                timeout(pause, future::pending::<()>()).await.ok();
            }
            self.client.refresh().await;
            asked.push(self.ask().await);
        }
        self.client.close().await;
        asked
    }

    /// Asks once, and waits for the end.
    async fn ask(&mut self) -> Asked {
        let prompt = self.numbers.below(PROMPTS.len() as u64) as usize;
        let least = self.plan.tokens.div_ceil(4);
        let more = u64::from(self.plan.tokens - least) + 1;
        let max_tokens = least + self.numbers.below(more) as u32;
        let cancels = self.numbers.below(CANCELLED_ONE_IN) == 0;
        let after = self.numbers.below(u64::from(max_tokens)) as usize;
        let cancel_after = cancels.then_some(after);
        let question = Question {
            prompt: self.prompts[prompt].clone(),
            sampling: Sampling::default(),
            stops: Stops { max_tokens, ignore_end: true, strings: Vec::new() },
        };
        let mut asked = Asked { prompt, end: End::Answered, tokens: Vec::new(), came: Vec::new() };
        asked.end = self.follow(question, cancel_after, &mut asked).await;
        asked
    }

    /// Follows a request to its end.
    async fn follow(
        &self,
        question: Question,
        cancel_after: Option<usize>,
        asked: &mut Asked,
    ) -> End {
        let mut answering = match self.client.ask(question, None) {
            Ok(answering) => answering,
            Err(error) => return End::Lost(format!("not asked: {error}")),
        };
        loop {
            if cancel_after == Some(asked.tokens.len()) {
                answering.cancel();
            }
            match timeout(PATIENCE, answering.next()).await {
                Err(_) => return End::Lost(format!("nothing came for {PATIENCE:?}")),
                Ok(None) => return End::Lost("it ended without an event".to_owned()),
                Ok(Some(Event::Accepted | Event::Moved(_))) => {}
                Ok(Some(Event::Token { token, .. })) => {
                    asked.tokens.push(token);
                    asked.came.push(Instant::now());
                }
                Ok(Some(Event::Finished(_))) => return End::Answered,
                Ok(Some(Event::Failed(error))) if error.is_cancelled() => return End::Cancelled,
                Ok(Some(Event::Failed(error))) if error.retry_ms().is_some() => {
                    return End::Refused(error.to_string());
                }
                Ok(Some(Event::Failed(error))) => return End::Lost(error.to_string()),
            }
        }
    }
}

/// Jain's index of fairness: 1 if all have the same, 1/n if one has everything.
pub(crate) fn jain(served: &[usize]) -> f64 {
    let sum: f64 = served.iter().map(|one| *one as f64).sum();
    let squares: f64 = served.iter().map(|one| (*one as f64).powi(2)).sum();
    sum * sum / (served.len() as f64 * squares)
}
