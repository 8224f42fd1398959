//! The audit of an answer: servers open cells, each opening is checked as it comes.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lockstep_node::driver::{self, Answers};
use lockstep_proto::client::{Challenger, Conduct, Exchange as Answered, NoAnswer};
use lockstep_verify::audit::{Auditing, Taken, Unverified, Verified};
use lockstep_verify::bundle::Exchange;
use lockstep_verify::key::Key;
use lockstep_verify::price::Prices;
use lockstep_verify::receipt::Receipt;

use crate::backend::Backend;
use crate::bundle_file::{Keeping, NotWritten};
use crate::outcome::Outcome;
use crate::ring::{Answer, Ring};

/// An event of an audit under way. [`Event::Finished`] is the last one.
#[derive(Debug)]
pub enum Event {
    /// The audit is over, and this is its result.
    Finished(Box<Audited>),
    /// An opening came and was checked. What is wrong with it is told at the end.
    Opened {
        /// The server, by its place in the ring, from 0.
        stage: u32,
    },
    /// An opening that was asked for did not come.
    Unanswered {
        /// The server, by its place in the ring, from 0.
        stage: u32,
        /// The reason why it did not come.
        why: NoAnswer,
        /// Whether the server had promised this opening, so that it counts as withheld.
        is_withheld: bool,
    },
}

/// The result of an audit: the verdict, and how each server answered.
#[derive(Debug)]
pub struct Audited {
    /// The number of openings that came.
    pub openings: usize,
    /// The verdict with its coverage, or why the answer is not verified.
    pub verdict: Result<Verified<Receipt>, Unverified>,
    /// The conduct of each server: the number of openings that it was asked for, gave and withheld,
    /// and the reasons for those that did not come.
    pub conduct: Vec<Conduct>,
    /// The time that getting the openings took, without the time in which they were checked.
    pub opening: Duration,
    /// The time that checking the openings took.
    pub checking: Duration,
    /// Why the openings are not all in the bundle, if they are not.
    pub kept: Result<(), NotWritten>,
}

impl Audited {
    /// Returns the verdict in one word, withheld openings considered.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        Outcome::of(&self.verdict).with(&self.conduct)
    }
}

/// An audit under way: the caller awaits [`next`](Self::next) until [`Event::Finished`]. Dropping
/// it ends the audit.
pub struct Audit<'a> {
    /// The check of the openings; `None` once the verdict has been told.
    auditing: Option<Result<Auditing<'a, Backend>, Unverified>>,
    /// Until the last has come, or a server is convicted.
    answers: Option<Answers>,
    keeping: Keeping,
    conduct: Vec<Conduct>,
    challenges: usize,
    openings: usize,
    start: Instant,
    checking: Duration,
}

impl<'a> Audit<'a> {
    /// Has the servers of a ring open cells of an answer that it gave. Each opening is appended to
    /// `bundle`, if there is one, as it comes, and dropped before the next of the same server is
    /// asked for. To be called inside a runtime of tokio.
    ///
    /// # Soundness
    /// As [`Auditing::begin`]: the key must be secret, and made by somebody whom the caller trusts.
    #[must_use]
    pub fn begin(
        ring: &Ring,
        ops: &'a Backend,
        key: &'a Key,
        answer: &'a Answer,
        bundle: Option<&Path>,
    ) -> Self {
        let Answer { receipt, session, seed, extent, first_token, rest } = answer;
        let start = Instant::now();
        let begun = Auditing::begin(ops, key, receipt, seed, *extent);
        let checking = start.elapsed();
        let plan = begun.as_ref().map(Auditing::plan);
        let challenges = plan.as_ref().map_or(0, Vec::len);
        let answers = plan.ok().map(|plan| {
            let took = (*first_token + *rest).as_micros();
            let took = u64::try_from(took).unwrap_or(u64::MAX);
            let prices = Arc::new(Prices::of(&ring.served().manifest));
            let (links, peers, clock) = ring.wires();
            let machine = Challenger::new(clock.now(), receipt, plan, session, prices, took);
            driver::challenge(links, peers, clock, machine)
        });
        let conduct = Conduct::before_challenges(receipt);
        let (auditing, keeping) = (Some(begun), Keeping::of(bundle));
        Self { auditing, answers, keeping, conduct, challenges, openings: 0, start, checking }
    }

    /// Returns how many openings the servers are asked for.
    #[must_use]
    pub const fn challenges(&self) -> usize {
        self.challenges
    }

    /// Returns the next event; `None` after the last. Openings are checked inside of this call.
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Event> {
        if let Some(answers) = &mut self.answers {
            match answers.next().await {
                Some(answered) => return Some(self.take(answered)),
                None => self.answers = None,
            }
        }
        self.finish()
    }

    fn take(&mut self, answered: Answered) -> Event {
        Conduct::count(&mut self.conduct, &answered);
        let Answered { stage: segment, challenge, answer, is_withheld, .. } = answered;
        let stage = self.conduct.iter().find(|conduct| conduct.segment == segment);
        let stage = stage.map_or(segment, |conduct| conduct.stage);
        let opening = match answer {
            Ok(opening) => opening,
            Err(why) => return Event::Unanswered { stage, why, is_withheld },
        };
        self.openings += 1;
        let exchange = Exchange { challenge, opening };
        if let Some(Ok(auditing)) = &mut self.auditing {
            let begin = Instant::now();
            let taken = auditing.take(&exchange);
            self.checking += begin.elapsed();
            // Only what is checked is kept, so no server makes the file longer than an honest one.
            if taken != Ok(Taken::Unchecked) {
                self.keeping.append(&exchange);
            }
            match (&self.answers, taken) {
                (Some(answers), Ok(_)) => answers.taken(segment),
                // Whoever is convicted must not hold the verdict up with the answers that are left.
                (_, Err(_)) => self.answers = None,
                (None, Ok(_)) => {}
            }
        }
        Event::Opened { stage }
    }

    fn finish(&mut self) -> Option<Event> {
        let auditing = self.auditing.take()?;
        let kept = std::mem::replace(&mut self.keeping, Keeping::of(None)).finish();
        let opening = self.start.elapsed().saturating_sub(self.checking);
        let begin = Instant::now();
        let verdict = auditing.and_then(Auditing::finish);
        let checking = self.checking + begin.elapsed();
        let (openings, conduct) = (self.openings, std::mem::take(&mut self.conduct));
        let audited = Audited { openings, verdict, conduct, opening, checking, kept };
        Some(Event::Finished(Box::new(audited)))
    }
}
