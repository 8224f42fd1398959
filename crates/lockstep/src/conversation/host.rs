//! The place where a conversation's model runs: in this process, in servers that are started for
//! it, or in servers that run already.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Result, bail};
use lockstep_client::canary::Checker;
use lockstep_client::client::{Asking, Caller};
use lockstep_client::here::Here;
use lockstep_client::model::Model;
use lockstep_client::place::Place;
use lockstep_import::tokenizer::Tokenizer;
use lockstep_node::ticket::Ticket;
use lockstep_node::transport::NodeId;

use super::{Chat, Ended, Engine, Leave, Setup, once};
use crate::args::Audit;
use crate::backend::{backend, threads};
use crate::chat_format;
use crate::exit::{self, Exit};
use crate::interrupt::interrupted;
use crate::key_making;
use crate::local_servers::{Fleet, LocalServers};
use crate::models;
use crate::output::Printer;
use crate::ring;

/// The place where the model of a conversation runs.
#[derive(Clone, Debug)]
pub(crate) enum Host {
    /// The model runs in this process.
    Here {
        /// The number of threads that compute; one for each core if it is `None`.
        threads: Option<usize>,
    },
    /// The model runs in servers that are started for the conversation.
    Servers(Fleet),
    /// The model runs in servers that are running already.
    Tickets {
        /// The tickets that say where the servers are.
        tickets: Vec<Ticket>,
        /// The nodes among them that a person named.
        named: BTreeSet<NodeId>,
        /// The identity under which this client connects to them.
        caller: Caller,
    },
}

/// The work that is done with one model: a single prompt or a chat.
enum Task<'a> {
    Once(&'a str),
    Chat(&'a mut Chat),
}

/// The way in which the work with one model ended.
enum Left {
    Ended(Ended),
    Chat(Leave),
}

impl Host {
    /// Answers a prompt, or chats, with a model and with those that the person changes to; at the
    /// end comes the report for scripts.
    pub(crate) fn converse(
        &self,
        place: &Place,
        model: Model,
        setup: Setup,
        prompt: Option<&str>,
    ) -> Result<Exit> {
        let printer = Printer::new(setup.checking.json);
        let Ended { exit, json } = self.talk(place, model, setup, prompt)?;
        printer.json(&json);
        Ok(exit)
    }

    fn talk(
        &self,
        place: &Place,
        model: Model,
        setup: Setup,
        prompt: Option<&str>,
    ) -> Result<Ended> {
        if let Some(prompt) = prompt {
            return match self.hold(place, &model, &setup, Task::Once(prompt))? {
                Left::Ended(ended) => Ok(ended),
                Left::Chat(_) => bail!("one prompt became a chat"),
            };
        }
        let mut chat = Chat::open(&place.home, setup.clone())?;
        let (mut current, mut before) = (model, None);
        loop {
            match self.hold(place, &current, &setup, Task::Chat(&mut chat)) {
                Ok(Left::Chat(Leave::Model(name))) => match self.other(place, &name) {
                    Ok(next) => before = Some(std::mem::replace(&mut current, next)),
                    Err(error) => chat.note(exit::in_full(&error)),
                },
                Ok(_) => return Ok(chat.ended()),
                Err(error) => {
                    // A model that can't be used: the one before it is still there.
                    let Some(model) = before.take() else { return Err(error) };
                    chat.note(format!("error: {}", exit::in_full(&error)));
                    current = model;
                }
            }
        }
    }

    /// Returns another model to go on with.
    fn other(&self, place: &Place, name: &str) -> Result<Model> {
        if matches!(self, Self::Tickets { .. }) {
            bail!("servers that run already have one model: leave, and chat with other tickets");
        }
        models::installed(place, name)
    }

    /// Loads one model, does the task with it, and closes what it used. Returns how the task ended.
    fn hold(&self, place: &Place, model: &Model, setup: &Setup, task: Task<'_>) -> Result<Left> {
        let start = Instant::now();
        let tokenizer = model.tokenizer(&place.store)?;
        if !setup.asking.raw {
            // Known before weights are read and servers are asked.
            let left_out = setup.format.check(&tokenizer).map_err(chat_format::in_flags)?;
            for left_out in left_out {
                Printer::new(setup.checking.json).note(format!("warning: {left_out}"));
            }
        }
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build()?;
        runtime.block_on(async {
            let mut setup = setup.clone();
            let (mut engine, servers) = tokio::select! {
                started = self.start(place, model, &tokenizer, &setup) => started?,
                () = interrupted() => bail!("interrupted"),
            };
            setup.loading = start.elapsed();
            let left = match task {
                Task::Once(prompt) => once(&mut engine, &setup, prompt).await.map(Left::Ended),
                Task::Chat(chat) => {
                    let usable = |name: &str| self.other(place, name).map(drop);
                    chat.run(&mut engine, &setup, usable).await.map(Left::Chat)
                }
            };
            engine.close().await;
            if let Some(servers) = servers {
                servers.stop().await;
            }
            left
        })
    }

    async fn start<'a>(
        &self,
        place: &'a Place,
        model: &'a Model,
        tokenizer: &'a Tokenizer,
        setup: &Setup,
    ) -> Result<(Engine<'a>, Option<LocalServers>)> {
        // Made or read before servers are started and asked.
        let key = || match setup.checking.audit() {
            Audit::Off => Ok(None),
            Audit::Sampled | Audit::Full => key_making::ensure(place, model).map(Some),
        };
        match self {
            Self::Here { threads } => {
                let here = Here::load(place, model, tokenizer, *threads)?;
                Ok((Engine::Here(Box::new(here)), None))
            }
            Self::Servers(fleet) => {
                let key = key()?;
                let servers = LocalServers::start(place, model, *fleet).await?;
                for (index, address) in servers.metrics().enumerate() {
                    let printer = Printer::new(setup.checking.json);
                    printer.note(format!("metrics of s{}: {address}", index + 1));
                }
                let (asked, tickets) = ((model, tokenizer), servers.tickets());
                let client = ring::find_unchecked(place, asked, &tickets, Caller::Starter).await?;
                Ok((Engine::of_ring((place, model, tokenizer), client, key), Some(servers)))
            }
            Self::Tickets { tickets, named, caller } => {
                let (key, ops) = (key()?, backend(threads(place, None)?)?);
                let checker = key.as_ref().map(|key| Checker { ops: &ops, key });
                let asking = Asking { tickets, named, caller: *caller, checker };
                let client = ring::find(place, model, tokenizer, asking).await?;
                Ok((Engine::of_ring((place, model, tokenizer), client, key), None))
            }
        }
    }
}
