//! A chat: messages and commands until the person leaves.

use anyhow::{Result, bail};
use lockstep_client::random;
use lockstep_client::request::{Input as Asked, RequestBuilder};
use lockstep_exact::sample::Finish;
use lockstep_node::home::Home;
use serde_json::{Value, json};

use super::command::{Command, HELP};
use super::engine::{Answered, Engine, Proof};
use super::entry::Entry;
use super::input::Input;
use super::setting::{Settings, WhenFull};
use super::talk::Talk;
use super::{Ended, Setup, Speed, add_proof, question, show, show_audit, show_figures, show_route};
use super::{show_table, summary};
use crate::exit::{self, Exit};
use crate::interrupt::Interrupts;
use crate::output::{self, Printer, Style};
use crate::prompt;
use crate::ring;

/// The reason why a chat with one model ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// The person has left the chat.
    End,
    /// The person wants to go on with this model.
    Model(String),
}

/// A chat that outlives the model that answers it.
pub(crate) struct Chat {
    home: Home,
    settings: Settings,
    setup: Setup,
    printer: Printer,
    input: Input,
    talk: Talk,
    proof: Option<Proof>,
    /// The exit code of the worst of all answers.
    exit: Exit,
    json: Value,
    /// The last message, if it got no answer.
    unanswered: Option<String>,
    /// Interrupts since the last answer was whole: one that comes while its verdict is shown is
    /// for the prompt that follows.
    interrupts: Option<Interrupts>,
    /// Whether Ctrl-C has come and nothing since.
    is_leaving: bool,
    is_greeted: bool,
}

impl Chat {
    /// Opens a chat whose lines come from standard input.
    pub(crate) fn open(home: &Home, setup: Setup) -> Result<Self> {
        if setup.asking.raw {
            bail!(
                "--raw needs --prompt or --prompt-file: a chat is written by the model's template"
            );
        }
        let talk = Talk { system: setup.asking.system.clone(), ..Talk::default() };
        Ok(Self {
            home: home.clone(),
            settings: Settings {
                asking: setup.asking.clone(),
                checking: setup.checking.clone(),
                verbose: setup.verbose,
                when_full: WhenFull::Ask,
            },
            printer: Printer::new(setup.checking.json),
            input: Input::open(home, setup.keeps_history)?,
            setup,
            talk,
            proof: None,
            exit: Exit::Done,
            json: json!({ "verdict": "not checked" }),
            unanswered: None,
            interrupts: None,
            is_leaving: false,
            is_greeted: false,
        })
    }

    /// Returns how the chat ended.
    pub(crate) fn ended(self) -> Ended {
        Ended { exit: self.exit, json: self.json }
    }

    /// Says something that is no answer.
    pub(crate) fn note(&self, text: impl std::fmt::Display) {
        self.printer.note(text);
    }

    /// Talks with a model until the person leaves it; `usable` says why another one can't be used.
    pub(crate) async fn run(
        &mut self,
        engine: &mut Engine<'_>,
        setup: &Setup,
        usable: impl Fn(&str) -> Result<()>,
    ) -> Result<Leave> {
        self.setup.loading = setup.loading;
        self.talk.model = engine.model().record.manifest.to_string();
        show_route(engine, self.printer);
        if self.input.is_terminal() && !self.is_greeted {
            self.printer
                .note(format!("{}: type a message; /help lists the commands", engine.model().name));
            self.is_greeted = true;
        }
        loop {
            let tells = !self.input.is_terminal();
            let next = tokio::select! {
                biased;
                next = self.next() => next,
                () = engine.idle(tells) => None,
            };
            let Some(text) = next else { return Ok(Leave::End) };
            match Command::of(&text) {
                Command::Bye => return Ok(Leave::End),
                Command::Model(Some(name)) => match usable(&name) {
                    Ok(()) => {
                        self.printer.aside(format!("loading {name}"));
                        return Ok(Leave::Model(name));
                    }
                    Err(error) => self.printer.note(exit::in_full(&error)),
                },
                Command::Message(text) => {
                    self.talk.ask(text);
                    self.answer(engine).await;
                }
                Command::Retry => self.retry(engine).await,
                other => self.obey(other, engine),
            }
            if output::is_unread() {
                return Ok(Leave::End);
            }
        }
    }

    /// Returns the next message or command; nothing when the person has left.
    async fn next(&mut self) -> Option<String> {
        let mut interrupts = self.interrupts.take().unwrap_or_else(Interrupts::listen);
        let (is_terminal, is_edited) = (self.input.is_terminal(), self.input.is_edited());
        loop {
            let entry = tokio::select! {
                entry = self.input.next() => entry,
                () = interrupts.next(), if !is_edited => match is_terminal {
                    true => Entry::Interrupt { is_empty: true },
                    false => return None,
                },
            };
            match entry {
                Entry::Text(text) => {
                    self.is_leaving = false;
                    return Some(text);
                }
                Entry::End => return None,
                Entry::NotText => self.printer.note("that line is not UTF-8: it was left out"),
                Entry::Interrupt { is_empty: true } if self.is_leaving => return None,
                Entry::Interrupt { .. } => {
                    self.is_leaving = true;
                    self.printer.note("Ctrl-C again leaves, and so do Ctrl-D and /bye");
                }
            }
        }
    }

    /// Does what needs no answer of the model.
    fn obey(&mut self, command: Command, engine: &Engine<'_>) {
        match command {
            Command::Clear => {
                self.talk.turns.clear();
                self.printer.note("The conversation starts over.");
            }
            Command::Drop(count) => {
                let dropped = self.talk.drop_oldest(count);
                self.say_dropped(dropped);
            }
            Command::Help => HELP.lines().for_each(|line| self.printer.note(line)),
            Command::Load(name) => match Talk::load(&self.home, &name) {
                Ok(talk) => {
                    let model = std::mem::take(&mut self.talk.model);
                    self.talk = Talk { model, ..talk };
                    self.printer.note(format!("{name}: {} turns", self.talk.turns.len()));
                }
                Err(error) => self.printer.note(exit::in_full(&error)),
            },
            Command::Model(_) => {
                self.printer.note(format!("{} ({})", engine.model().name, self.talk.model));
            }
            Command::Proof => match &self.proof {
                Some(proof) => show_table(proof, self.printer),
                None => self.printer.note("There is no answer of servers yet to prove."),
            },
            Command::Save(name) => match self.talk.save(&self.home, &name) {
                Ok(path) => self.printer.note(format!("kept in {}", path.display())),
                Err(error) => self.printer.note(exit::in_full(&error)),
            },
            Command::Set(None) => {
                for line in self.settings.lines() {
                    self.printer.note(line);
                }
            }
            Command::Set(Some((name, _))) if name == "audit" && engine.servers() == 0 => {
                self.printer.note("/set audit: this process answers alone, so nothing is audited");
            }
            Command::Set(Some((name, value))) => match self.settings.set(&name, &value) {
                Ok(line) => self.printer.aside(line),
                Err(why) => self.printer.note(why),
            },
            Command::System(None) => {
                let system = self.talk.system.as_deref();
                self.printer.note(system.unwrap_or("(the model's own system message)"));
            }
            Command::System(Some(text)) => {
                self.talk.system = Some(text);
                self.printer.aside("The system message is set.");
            }
            Command::Wrong(why) => self.printer.note(why),
            Command::Bye | Command::Message(_) | Command::Nothing | Command::Retry => {}
        }
    }

    fn say_dropped(&self, dropped: usize) {
        let turns = if dropped == 1 { "turn" } else { "turns" };
        let left = self.talk.turns.len();
        self.printer.note(format!("dropped the {dropped} oldest {turns}; {left} are left"));
    }

    /// Answers the last message of the person again.
    async fn retry(&mut self, engine: &mut Engine<'_>) {
        let was_answered = self.unanswered.is_none();
        match (self.unanswered.take(), self.talk.turns.last_mut()) {
            (Some(message), _) => self.talk.ask(message),
            (None, Some(turn)) => turn.assistant = None,
            (None, None) => {
                return self.printer.note("There is no message yet to answer again.");
            }
        }
        let sampling = &self.settings.asking.sampling;
        if was_answered && (sampling.temperature == 0.0 || sampling.seed.is_some()) {
            self.printer.note(
                "The same answer will come: its choices are fixed (/set temperature 0.8 with no \
                 seed makes others)",
            );
        }
        match random::seed() {
            Ok(seed) => self.setup.drawn_seed = seed,
            Err(error) => return self.printer.note(error),
        }
        self.answer(engine).await;
    }

    /// Answers the message that waits; what goes wrong is said.
    async fn answer(&mut self, engine: &mut Engine<'_>) {
        self.setup.asking = self.settings.asking.clone();
        self.setup.checking = self.settings.checking.clone();
        self.unanswered = None;
        let tokens = match self.fitted(engine) {
            Ok(Some(tokens)) => tokens,
            Ok(None) => return self.take_back(),
            Err(error) => {
                self.printer.note(format!("error: {}", exit::in_full(&error)));
                return self.take_back();
            }
        };
        if let Err(error) = self.exchange(engine, tokens).await {
            self.printer.note(format!("error: {}", exit::in_full(&error)));
            self.exit = self.exit.worse(Exit::Error);
            self.take_back();
        }
    }

    /// Takes a message that got no answer out of the conversation; `/retry` has it.
    fn take_back(&mut self) {
        self.unanswered = self.talk.unask();
    }

    /// Returns the tokens of the conversation, if they fit into the context.
    fn fitted(&mut self, engine: &Engine<'_>) -> Result<Option<Vec<u32>>> {
        let context = engine.model().manifest.context as usize;
        let mut dropped = 0;
        loop {
            let request =
                RequestBuilder::messages(self.talk.messages()).format(self.setup.format.clone());
            let tokens = request.tokens(engine.tokenizer()).map_err(prompt::in_flags)?;
            if tokens.len() < context {
                if dropped > 0 {
                    self.say_dropped(dropped);
                }
                let room = context - tokens.len();
                let wanted = self.settings.asking.max_tokens;
                if wanted != u32::MAX && (wanted as usize) > room {
                    self.printer.aside(format!(
                        "{} of {context} tokens: the answer has room for {room}; /drop makes more",
                        tokens.len()
                    ));
                }
                return Ok(Some(tokens));
            }
            if self.settings.when_full == WhenFull::Drop && self.talk.drop_oldest(1) == 1 {
                dropped += 1;
                continue;
            }
            let others = self.talk.turns.len().saturating_sub(1);
            let next = match others {
                0 => "this message alone is too long".to_owned(),
                _ => format!(
                    "/drop forgets the oldest of {others} turns, /set full drop does it each time, \
                     /clear starts over"
                ),
            };
            self.printer
                .note(format!("{} prompt tokens, the model takes {context}: {next}", tokens.len()));
            return Ok(None);
        }
    }

    /// Gets an answer, shows it and its verdict, and keeps it in the conversation.
    async fn exchange(&mut self, engine: &mut Engine<'_>, tokens: Vec<u32>) -> Result<()> {
        let prompt_tokens = tokens.len();
        let Setup { asking, format, drawn_seed, .. } = &self.setup;
        let request = prompt::of_input(Asked::Tokens(tokens), asking, format, *drawn_seed)?;
        let question = question(engine, &request)?;
        let (text, answered) =
            show(engine, question, self.setup.checking.audit(), self.printer).await;
        let mut answered = match answered {
            Err(error) if ring::is_interrupt(&error) => return self.broken_off(text),
            other => other?,
        };
        if answered.finish.is_none() {
            return self.broken_off(text);
        }
        let mut interrupts = Interrupts::listen();
        let proof = engine.prove(&mut answered, &self.setup.checking, interrupts.next()).await?;
        self.interrupts = Some(interrupts);
        self.show_verdict(engine, &answered, proof.as_ref());
        if let Some(Err(why)) = proof.as_ref().map(|proof| &proof.receipt) {
            self.printer.note(format!("error: {}", exit::all_of(why)));
        }
        if self.settings.verbose {
            show_figures(&answered, prompt_tokens, self.setup.loading, self.printer);
            if let Some(proof) = &proof {
                show_audit(proof, self.printer);
                if let Ok(receipt) = &proof.receipt {
                    self.printer.aside(format!("receipt {}", receipt.display()));
                }
            }
        }
        self.json = summary(engine, &text, &answered, prompt_tokens);
        if let Some(proof) = &proof {
            add_proof(&mut self.json, proof);
        }
        let exit = proof.as_ref().map_or(Exit::Done, Proof::exit);
        self.exit = self.exit.worse(exit);
        self.proof = proof;
        if exit == Exit::Failed {
            self.take_back();
            self.printer.note("The answer is left out of the conversation; /retry asks again.");
            return Ok(());
        }
        self.talk.answer(text);
        self.say_fullness(engine, prompt_tokens + answered.tokens.len(), answered.finish);
        Ok(())
    }

    /// Keeps what came of an answer before the person ended it.
    fn broken_off(&mut self, text: String) -> Result<()> {
        if text.is_empty() {
            self.take_back();
        } else {
            self.talk.answer(text);
        }
        self.printer.verdict(Style::Doubt, "not checked · interrupted");
        Ok(())
    }

    /// Shows the verdict of an answer in one line.
    fn show_verdict(&self, engine: &Engine<'_>, answered: &Answered, proof: Option<&Proof>) {
        let speed = Speed::of(answered, 0);
        let count = answered.tokens.len();
        let rate = format!("{count} tokens, {:.1} tokens/s", speed.decode);
        match proof {
            Some(proof) => {
                let report = &proof.report;
                let servers = match engine.servers() {
                    1 => "1 server".to_owned(),
                    servers => format!("{servers} servers"),
                };
                let line = format!("{} · {servers} · {rate} · /proof", report.brief);
                self.printer.verdict(report.style(), line);
            }
            None => {
                let line = format!("computed on this machine, nothing to verify · {rate}");
                self.printer.verdict(Style::Dim, line);
            }
        }
    }

    /// Says how full the context is, before it is.
    fn say_fullness(&self, engine: &Engine<'_>, used: usize, finish: Option<Finish>) {
        let context = engine.model().manifest.context as usize;
        if finish == Some(Finish::Context) {
            self.printer.note(format!(
                "The answer ended because the context of {context} tokens is full: /drop forgets \
                 the oldest turn, /clear starts over."
            ));
        } else if used.saturating_mul(4) >= context.saturating_mul(3) {
            self.printer.aside(format!(
                "{used} of {context} tokens of context are used; /drop forgets the oldest turn"
            ));
        }
    }
}
