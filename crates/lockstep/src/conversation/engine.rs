//! What answers a conversation's questions: a ring of servers, or this process alone.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use lockstep_client::here::Here;
use lockstep_client::model::Model;
use lockstep_client::place::Place;
use lockstep_client::receipts::{self, NotKept};
use lockstep_client::request::Question;
use lockstep_client::standing;
use lockstep_exact::sample::Finish;
use lockstep_import::tokenizer::Tokenizer;
use lockstep_verify::draw::Extent;
use lockstep_verify::key::Key;

use crate::args::{Audit, Checking};
use crate::commands::key;
use crate::exit::Exit;
use crate::interrupt::interrupted;
use crate::output::{self, Voice, human_bytes};
use crate::ring::{Answer, Audited, Ring};
use crate::verdict::Report;

/// What answers.
pub(crate) enum Engine<'a> {
    /// Servers, whose answers this machine verifies.
    Ring(Box<Asker<'a>>),
    /// This process.
    Here(Box<Here<'a>>),
}

/// A ring with the key that its answers are checked with.
pub(crate) struct Asker<'a> {
    /// The servers.
    pub(crate) ring: Ring<'a>,
    key: Option<Key>,
}

/// An answer as it came.
pub(crate) struct Answered {
    /// Its tokens.
    pub(crate) tokens: Vec<u32>,
    /// Why it ended; `None` if the person ended it.
    pub(crate) finish: Option<Finish>,
    /// Time to the first token.
    pub(crate) first_token: Duration,
    /// Time from the first token to the last.
    pub(crate) rest: Duration,
    /// What its audit needs, if servers made it.
    evidence: Option<Answer>,
}

/// What was checked of an answer, and where the evidence is.
pub(crate) struct Proof {
    /// The verdict.
    pub(crate) report: Report,
    /// The file of the receipt, or why there is none.
    pub(crate) receipt: Result<PathBuf, NotKept>,
    /// Openings that were checked, the time to get them, and the time to check them.
    pub(crate) audit: Option<(usize, Duration, Duration)>,
}

impl Proof {
    /// How the program ends if this is its only answer.
    pub(crate) fn exit(&self) -> Exit {
        match self.receipt {
            Ok(_) => self.report.exit,
            Err(_) => self.report.exit.worse(Exit::Error),
        }
    }
}

impl<'a> Engine<'a> {
    /// A ring, with the key that its answers are audited with, if they are to be.
    pub(crate) fn of_ring(ring: Ring<'a>, key: Option<Key>) -> Self {
        Self::Ring(Box::new(Asker { ring, key }))
    }

    /// The model that answers.
    pub(crate) fn model(&self) -> &Model {
        match self {
            Self::Ring(asker) => asker.ring.model,
            Self::Here(here) => here.model,
        }
    }

    /// Its tokenizer.
    pub(crate) fn tokenizer(&self) -> &'a Tokenizer {
        match self {
            Self::Ring(asker) => asker.ring.tokenizer,
            Self::Here(here) => here.tokenizer,
        }
    }

    /// How many servers there are.
    pub(crate) fn servers(&self) -> usize {
        match self {
            Self::Ring(asker) => asker.ring.route.len(),
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
                let answer = asker.ring.ask(question, extent, token).await?;
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
        let place = asker.ring.place;
        let unopened = asker.ring.unopened(&answer);
        let receipt = receipts::save(place, &unopened, checking.receipt.as_deref());
        drop(unopened);
        if checking.audit() == Audit::Off {
            prune(place, receipt.as_deref().ok(), Voice::new(checking.json));
            return Ok(Some(Proof { report: Report::off(), receipt, audit: None }));
        }
        asker.ensure_key()?;
        let audited = tokio::select! {
            audited = asker.audit(&answer, receipt.as_deref().ok()) => audited?,
            () = interrupt => {
                let report = Report::unchecked("the audit was interrupted");
                return Ok(Some(Proof { report, receipt, audit: None }));
            }
        };
        let Audited { openings, verdict, conduct, kept, opening, checking: checked } = audited;
        let receipt = receipt.and_then(|file| receipts::finished(file, kept));
        prune(place, receipt.as_deref().ok(), Voice::new(checking.json));
        if let Err(error) = asker.ring.remember(standing::deeds(&verdict, &conduct)) {
            Voice::new(checking.json)
                .note(format!("how the servers answered is not remembered: {error}"));
        }
        Ok(Some(Proof {
            report: Report::of(&verdict).with_conduct(&conduct),
            receipt,
            audit: Some((openings, opening, checked)),
        }))
    }

    /// Takes leave of the servers.
    pub(crate) async fn close(self) {
        if let Self::Ring(asker) = self {
            asker.ring.close().await;
        }
    }
}

impl Asker<'_> {
    fn ensure_key(&mut self) -> Result<()> {
        if self.key.is_none() {
            self.key = Some(key::ensure(self.ring.place, self.ring.model)?);
        }
        Ok(())
    }

    /// Audits an answer and keeps what is opened in its bundle, if there is one.
    async fn audit(&self, answer: &Answer, bundle: Option<&Path>) -> Result<Audited> {
        let key = self.key.as_ref().ok_or_else(|| anyhow::anyhow!("no key to audit with"))?;
        self.ring.audit(key, answer, bundle).await
    }

    /// The servers in a line: who holds what.
    pub(crate) fn route(&self) -> String {
        let hops = self.ring.route.iter().enumerate().map(|(index, hop)| {
            let head = if index == 0 { " + head" } else { "" };
            format!("s{} [{}..{}{head}] {}", index + 1, hop.first, hop.end, hop.node.short())
        });
        hops.collect::<Vec<_>>().join(" -> ")
    }
}

/// Keeps the receipts folder within its limit, and says what it cost.
fn prune(place: &Place, newest: Option<&Path>, voice: Voice) {
    match receipts::prune(place, newest) {
        Ok(pruned) if pruned.receipts == 0 => {}
        Ok(pruned) => voice.note(format!(
            "{} of the oldest receipts are removed ({}): the receipts folder keeps {} (the setting \
             receipts_mib)",
            pruned.receipts,
            human_bytes(pruned.bytes),
            human_bytes(place.config.receipts()),
        )),
        Err(error) => voice.note(format!("old receipts can't be removed: {error}")),
    }
}
