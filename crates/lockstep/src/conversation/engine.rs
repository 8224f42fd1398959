//! The side that answers a conversation's questions: a ring of servers, or this process alone.

use std::future::{self, Future};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use lockstep_client::audit::{Audit as CellAudit, Audited, Event as AuditEvent};
use lockstep_client::canary::Checker;
use lockstep_client::client::{Client, Settled};
use lockstep_client::here::Here;
use lockstep_client::model::Model;
use lockstep_client::place::Place;
use lockstep_client::receipts::{self, NotKept};
use lockstep_client::request::Question;
use lockstep_client::ring::{Answer, Event, Ring};
use lockstep_exact::sample::Finish;
use lockstep_import::tokenizer::Tokenizer;
use lockstep_node::driver::AskError;
use lockstep_node::receipts::Pruned;
use lockstep_verify::audit::Unverified;
use lockstep_verify::draw::Extent;
use lockstep_verify::key::Key;
use lockstep_verify::request::Hop;
use tracing::warn;

use crate::args::{Audit, Checking};
use crate::backend::{backend, threads};
use crate::exit::Exit;
use crate::interrupt::interrupted;
use crate::key_making;
use crate::output::{self, Printer, human_bytes};
use crate::ring;
use crate::verdict::Report;

/// The side that computes the answers of a conversation.
pub(crate) enum Engine<'a> {
    /// Servers, whose answers this machine verifies.
    Ring(Box<Asker<'a>>),
    /// This process computes the answers.
    Here(Box<Here<'a>>),
}

/// A client of a ring, with the key that its answers are checked with.
pub(crate) struct Asker<'a> {
    place: &'a Place,
    model: &'a Model,
    tokenizer: &'a Tokenizer,
    client: Client<'a>,
    /// The servers that have the request, or had the last one; before, those that would get it.
    route: Vec<Hop>,
    key: Option<Key>,
}

/// An answer as it came from the engine.
pub(crate) struct Answered {
    /// The tokens of the answer.
    pub(crate) tokens: Vec<u32>,
    /// Why it ended; `None` if the person ended it.
    pub(crate) finish: Option<Finish>,
    /// The time from the request to the first token.
    pub(crate) first_token: Duration,
    /// Time from the first token to the last.
    pub(crate) rest: Duration,
    /// The receipt and whatever else an audit needs, if servers made the answer.
    evidence: Option<Answer>,
}

/// The result of an answer's audit, and where the receipt is kept.
pub(crate) struct Proof {
    /// The verdict, ready to be shown.
    pub(crate) report: Report,
    /// The file of the receipt, or why there is none.
    pub(crate) receipt: Result<PathBuf, NotKept>,
    /// Openings that were checked, the time to get them, and the time to check them.
    pub(crate) audit: Option<(usize, Duration, Duration)>,
}

impl Proof {
    /// Returns the exit code of the program if this is its only answer.
    pub(crate) fn exit(&self) -> Exit {
        match self.receipt {
            Ok(_) => self.report.exit,
            Err(_) => self.report.exit.worse(Exit::Error),
        }
    }
}

impl<'a> Engine<'a> {
    /// Creates a ring, with the key that its answers are audited with, if they are to be.
    pub(crate) fn of_ring(
        (place, model, tokenizer): (&'a Place, &'a Model, &'a Tokenizer),
        client: Client<'a>,
        key: Option<Key>,
    ) -> Self {
        let route = client.ring().route().to_vec();
        Self::Ring(Box::new(Asker { place, model, tokenizer, client, route, key }))
    }

    /// Returns the model that answers.
    pub(crate) fn model(&self) -> &Model {
        match self {
            Self::Ring(asker) => asker.model,
            Self::Here(here) => here.model,
        }
    }

    /// Returns the tokenizer of the model.
    pub(crate) fn tokenizer(&self) -> &'a Tokenizer {
        match self {
            Self::Ring(asker) => asker.tokenizer,
            Self::Here(here) => here.tokenizer,
        }
    }

    /// Returns how many servers there are.
    pub(crate) fn servers(&self) -> usize {
        match self {
            Self::Ring(asker) => asker.route.len(),
            Self::Here(_) => 0,
        }
    }

    /// Gets an answer that is to be audited so; `token` hears of every token. The person's
    /// interrupt ends it.
    ///
    /// # Errors
    /// Whatever broke it off; of a ring, an interrupt too.
    pub(crate) async fn ask(
        &mut self,
        question: Question,
        audit: Audit,
        token: impl FnMut(u32),
    ) -> Result<Answered> {
        match self {
            Self::Ring(asker) => {
                let extent = match audit {
                    Audit::Sampled => Some(Extent::Sampled),
                    Audit::Full => Some(Extent::Full),
                    Audit::Off => None,
                };
                let answer = asker.ask(question, extent, token).await?;
                Ok(Answered {
                    tokens: answer.receipt.answer.clone(),
                    finish: Some(answer.receipt.finish),
                    first_token: answer.first_token,
                    rest: answer.rest,
                    evidence: Some(answer),
                })
            }
            Self::Here(here) => {
                let is_over = Arc::new(AtomicBool::new(false));
                let (interrupt, flag) = (interrupted(), Arc::clone(&is_over));
                let listener = tokio::spawn(async move {
                    interrupt.await;
                    flag.store(true, Ordering::Relaxed);
                });
                let stop = || is_over.load(Ordering::Relaxed) || output::is_unread();
                let computed = here.answer(&question, token, stop);
                listener.abort();
                let computed = computed?;
                Ok(Answered {
                    tokens: computed.tokens,
                    finish: computed.finish,
                    first_token: computed.first_token,
                    rest: computed.rest,
                    evidence: None,
                })
            }
        }
    }

    /// Keeps the receipt of an answer and audits it, if servers made it. `interrupt` ends the audit
    /// and not the program.
    pub(crate) async fn prove(
        &mut self,
        answered: &mut Answered,
        checking: &Checking,
        interrupt: impl Future<Output = ()>,
    ) -> Result<Option<Proof>> {
        let (Self::Ring(asker), Some(answer)) = (self, answered.evidence.take()) else {
            return Ok(None);
        };
        // The receipt is kept whatever becomes of its audit, and the verdict stands whatever
        // becomes of the receipt.
        let printer = Printer::new(checking.json);
        let saved = asker.client.save(&answer, checking.receipt.as_deref());
        if checking.audit() == Audit::Off {
            let pruned = receipts::prune(asker.place, saved.as_deref().ok());
            say_pruned(asker.place, pruned, printer);
            return Ok(Some(Proof { report: Report::off(), receipt: saved, audit: None }));
        }
        let audited = tokio::select! {
            audited = asker.audit(&answer, saved.as_deref().ok()) => audited?,
            () = interrupt => {
                let report = Report::unchecked("the audit was interrupted");
                return Ok(Some(Proof { report, receipt: saved, audit: None }));
            }
        };
        Ok(Some(asker.settle(&answer, saved, audited, printer)))
    }

    /// Does what there is to do while the person writes: looks after the view of the swarm, and
    /// has servers tried that have shown nothing yet. Goes on until it is dropped, and says what it
    /// does if it `tells`: on a terminal that would be in the middle of a line.
    pub(crate) async fn idle(&mut self, tells: bool) {
        if let Self::Ring(asker) = self {
            asker.idle(tells).await;
        }
        future::pending().await
    }

    /// Closes the links to the servers.
    pub(crate) async fn close(self) {
        if let Self::Ring(asker) = self {
            asker.client.close().await;
        }
    }
}

impl Asker<'_> {
    /// Gets an answer; `token` hears of every token. The person's interrupt ends it, and so does a
    /// reader who has gone away.
    async fn ask(
        &mut self,
        question: Question,
        extent: Option<Extent>,
        mut token: impl FnMut(u32),
    ) -> Result<Answer> {
        let interrupt = interrupted();
        self.client.refresh().await;
        if let (false, Some(key)) = (self.client.has_ring(), &self.key) {
            // Others may have come in the place of those that left.
            let ops = backend(threads(self.place, None)?)?;
            let tell = &mut |notice| ring::say(Printer::new(false), notice);
            self.client.try_until_there_is_a_ring(Checker { ops: &ops, key }, tell).await;
        }
        let mut answering = self.client.ask(question, extent).map_err(ring::in_flags)?;
        self.say_ring(answering.ring());
        let cancel = async {
            tokio::select! {
                () = interrupt => {}
                () = output::unread() => {}
            }
        };
        tokio::pin!(cancel);
        let (mut is_cancelled, printer) = (false, Printer::new(false));
        loop {
            let event = tokio::select! {
                event = answering.next() => event,
                () = &mut cancel, if !is_cancelled => {
                    is_cancelled = true;
                    answering.cancel();
                    continue;
                }
            };
            match event {
                Some(Event::Accepted) => {}
                Some(Event::Token { token: id, .. }) => token(id),
                Some(Event::Finished(answer)) => {
                    self.say_ring(answering.ring());
                    return Ok(*answer);
                }
                Some(Event::Moved(moved)) => printer.note(ring::moved(&moved)),
                Some(Event::Failed(error)) => {
                    return Err(ring::broken_off(&self.client, answering.ring(), error));
                }
                None => return Err(AskError::Silent.into()),
            }
        }
    }

    /// Audits an answer and keeps what is opened in its bundle, if there is one.
    async fn audit(&mut self, answer: &Answer, bundle: Option<&Path>) -> Result<Audited> {
        if self.key.is_none() {
            self.key = Some(key_making::ensure(self.place, self.model)?);
        }
        let key = self.key.as_ref().context("no key to audit with")?;
        let ops = backend(threads(self.place, None)?)?;
        audited(&mut CellAudit::begin(self.client.ring(), &ops, key, answer, bundle)).await
    }

    /// Says what became of an audited answer's files, and what was found.
    fn settle(
        &self,
        answer: &Answer,
        saved: Result<PathBuf, NotKept>,
        mut audited: Audited,
        printer: Printer,
    ) -> Proof {
        let Settled { receipt, pruned, remembered } =
            self.client.settle(answer, saved, &mut audited);
        say_pruned(self.place, pruned, printer);
        if let Err(error) = remembered {
            printer.note(format!("how the servers answered is not remembered: {error}"));
        }
        if let Err(Unverified::Failed(fault)) = &audited.verdict
            && let Some(node) = fault.node()
        {
            // Nothing goes over it from now on; remembered it is unless the servers were started
            // for this conversation.
            warn!(node = %node.short(), is_remembered = self.client.remembers(), "banned");
        }
        let Audited { openings, opening, checking, .. } = audited;
        let report = Report::of_audit(&audited);
        Proof { report, receipt, audit: Some((openings, opening, checking)) }
    }

    /// Looks after the view of the swarm for as long as nothing is asked.
    async fn idle(&mut self, tells: bool) {
        // Without threads nobody can be tried, and the next audit says why.
        let ops = threads(self.place, None).and_then(backend).ok();
        let checker = match (&ops, &self.key) {
            (Some(ops), Some(key)) if self.client.remembers() => Some(Checker { ops, key }),
            _ => None,
        };
        let tell = |notice| {
            if tells {
                ring::say(Printer::new(false), notice);
            }
        };
        self.client.idle(checker, tell).await;
    }

    /// Says which servers have a request, if they are others than those that were shown.
    fn say_ring(&mut self, ring: &Ring) {
        if self.route != ring.route() {
            self.route = ring.route().to_vec();
            Printer::new(false).aside(format!("ring: {} -> s1", self.route()));
        }
    }

    /// Returns the servers in a line: who holds what.
    pub(crate) fn route(&self) -> String {
        ring::hops_text(&self.route)
    }
}

/// Runs an audit to its end, and shows how far it is.
pub(crate) async fn audited(audit: &mut CellAudit<'_>) -> Result<Audited> {
    let bar = output::steps_bar("auditing", audit.challenges() as u64);
    while let Some(event) = audit.next().await {
        match event {
            AuditEvent::Opened { .. } | AuditEvent::Unanswered { .. } => bar.inc(1),
            AuditEvent::Finished(audited) => {
                bar.finish_and_clear();
                return Ok(*audited);
            }
        }
    }
    bail!("the audit ended without a verdict")
}

/// Says what keeping the receipts folder within its limit has cost.
fn say_pruned(place: &Place, pruned: io::Result<Pruned>, printer: Printer) {
    match pruned {
        Ok(pruned) if pruned.receipts == 0 => {}
        Ok(pruned) => printer.note(format!(
            "{} of the oldest receipts are removed ({}): the receipts folder keeps {} (the setting \
             receipts_mib)",
            pruned.receipts,
            human_bytes(pruned.bytes),
            human_bytes(place.config.receipts()),
        )),
        Err(error) => printer.note(format!("old receipts can't be removed: {error}")),
    }
}
