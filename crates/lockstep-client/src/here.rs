//! A whole model in this process: answers without servers, with nothing to verify.
//!
//! What a conversation has computed is kept, so that the next question feeds only what is new.

use std::time::{Duration, Instant};

use lockstep_exact::sample::{Finish, History, StopTracker, sample};
use lockstep_import::tokenizer::Tokenizer;
use lockstep_node::limits;
use lockstep_node::local::{CHUNK, Local, LocalSession, Logits};
use lockstep_node::memory::{self, MemoryLimit, OutOfMemory};

use crate::backend::Backend;
use crate::model::{LoadModelError, Model};
use crate::place::Place;
use crate::request::Question;

/// Why a model can't be loaded, or gives no answer.
#[derive(Debug, thiserror::Error)]
pub enum HereError {
    /// The model could not be loaded from the store.
    #[error(transparent)]
    Load(#[from] LoadModelError),
    /// The model and one session don't fit into memory.
    #[error(transparent)]
    Memory(#[from] OutOfMemory),
    /// A forward pass has left no logits: a fault of this program.
    #[error("a forward pass without logits")]
    NoLogits,
}

/// A model that is loaded, and what its session holds.
pub struct Here<'a> {
    /// The description of the model.
    pub model: &'a Model,
    /// The tokenizer of the model.
    pub tokenizer: &'a Tokenizer,
    local: Local<Backend>,
    session: LocalSession<Backend>,
    /// The tokens that the session holds.
    fed: Vec<u32>,
    /// Memory that there was before the model was loaded.
    room: Option<MemoryLimit>,
}

/// An answer that was computed here.
pub struct Computed {
    /// The tokens of the answer, in order.
    pub tokens: Vec<u32>,
    /// Why it ended; `None` if it was broken off.
    pub finish: Option<Finish>,
    /// The time from the start to the first token.
    pub first_token: Duration,
    /// Time from the first token to the last.
    pub rest: Duration,
}

impl<'a> Here<'a> {
    /// Loads a model, on `threads` threads or as many as the settings say.
    ///
    /// # Errors
    /// [`HereError`].
    pub fn load(
        place: &Place,
        model: &'a Model,
        tokenizer: &'a Tokenizer,
        threads: Option<usize>,
    ) -> Result<Self, HereError> {
        // MemoryLimit for a session of some length, as a server needs it.
        let least = usize::try_from(limits::SERVE_LEAST_POSITIONS).unwrap_or(usize::MAX);
        let positions = least.min(model.manifest.context as usize);
        let room = place.room();
        memory::check_local(model.name.as_str(), &model.manifest, positions, room)?;
        let local = model.load(place, threads)?;
        let session = local.session();
        Ok(Self { model, tokenizer, local, session, fed: Vec::new(), room })
    }

    /// Computes an answer; `token` hears of every token, `is_over` breaks it off.
    ///
    /// # Errors
    /// [`HereError`].
    pub fn answer(
        &mut self,
        question: &Question,
        mut token: impl FnMut(u32),
        is_over: impl Fn() -> bool,
    ) -> Result<Computed, HereError> {
        let Question { prompt, sampling, stops } = question;
        let context = self.model.manifest.context as usize;
        self.check_room(prompt.len(), stops.max_tokens)?;
        let ends = &self.model.manifest.end_tokens;
        let mut tracker = StopTracker::new(stops.clone(), ends, context, prompt.len());
        let start = Instant::now();
        let mut rows = self.prefill(prompt, &is_over);
        let mut first_token = None;
        let mut answer: Vec<u32> = Vec::new();
        let finish = loop {
            if is_over() {
                break None;
            }
            let row = rows.pop().ok_or(HereError::NoLogits)?;
            let history = History { prompt, answer: &answer };
            let Ok(next) = row.and_then(|row| sample(&row, sampling, history, None)) else {
                break Some(Finish::Overflow);
            };
            answer.push(next);
            first_token.get_or_insert_with(|| start.elapsed());
            token(next);
            if let Some(finish) = tracker.push(next, self.tokenizer.vocabulary()) {
                break Some(finish);
            }
            rows = self.local.feed(&mut self.session, &[next], 1, false, &mut ());
            self.fed.push(next);
        };
        let all = start.elapsed();
        let first_token = first_token.unwrap_or(all);
        let rest = all.saturating_sub(first_token);
        Ok(Computed { tokens: answer, finish, first_token, rest })
    }

    /// Checks that a prompt fits into memory with its answer; an answer without a limit may be one
    /// token.
    fn check_room(&self, prompt_tokens: usize, max_tokens: u32) -> Result<(), HereError> {
        let answer = if max_tokens == u32::MAX { 1 } else { max_tokens as usize };
        let context = self.model.manifest.context as usize;
        let positions = prompt_tokens.saturating_add(answer).min(context);
        let what = format!(
            "{} with a prompt of {prompt_tokens} tokens and an answer of {}",
            self.model.name,
            positions - prompt_tokens
        );
        Ok(memory::check_local(&what, &self.model.manifest, positions, self.room)?)
    }

    /// Feeds what of a prompt the session does not hold yet, and at least the last token.
    fn prefill(&mut self, prompt: &[u32], is_over: impl Fn() -> bool) -> Vec<Logits> {
        let common = self.fed.iter().zip(prompt).take_while(|(fed, token)| fed == token).count();
        let common = common.min(prompt.len().saturating_sub(1));
        self.session.truncate(common);
        self.fed.truncate(common);
        let mut rows = Vec::new();
        for part in prompt.get(common..).unwrap_or_default().chunks(CHUNK) {
            if is_over() {
                break;
            }
            rows = self.local.feed(&mut self.session, part, CHUNK, false, &mut ());
            self.fed.extend_from_slice(part);
        }
        rows
    }
}
