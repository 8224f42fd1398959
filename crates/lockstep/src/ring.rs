//! A client of a ring: asks, streams, audits, keeps the bundle, and says what was verified.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lockstep_client::bundle_file::{Keeping, NotWritten};
use lockstep_client::model::Model;
use lockstep_client::own::OwnSecret;
use lockstep_client::place::Place;
use lockstep_client::random;
use lockstep_client::request::Question;
use lockstep_client::standing;
use lockstep_import::tokenizer::Tokenizer;
use lockstep_node::config;
use lockstep_node::driver::{self, AskError, Clock, Contact, Peers, StatusError};
use lockstep_node::record::{Deeds, Record, RecordError};
use lockstep_node::ticket::{Ticket, TicketError};
use lockstep_node::transport::{
    AllowList, ConnectError, ConnectFailure, Endpoint, Identity, Listen, NodeId, PeerAddr,
};
use lockstep_proto::client::{Ask, Challenger, Client, ClientError, Conduct};
use lockstep_proto::failure::{Failure, Reason};
use lockstep_proto::model::Model as ProtocolModel;
use lockstep_proto::route::find_route;
use lockstep_verify::audit::{Auditing, Taken, Unverified, Verified};
use lockstep_verify::bundle::{Bundle, Exchange};
use lockstep_verify::draw::{Extent, check_length};
use lockstep_verify::key::Key;
use lockstep_verify::price::Prices;
use lockstep_verify::receipt::Receipt;
use lockstep_verify::request::{AuditSeed, Hop, Request};
use lockstep_verify::sign::Keypair;

use crate::backend::{backend, threads};
use crate::exit::usage;
use crate::interrupt::interrupted;
use crate::output::{self, Voice};

/// A ring that can be asked.
pub(crate) struct Ring<'a> {
    /// Home folder and store.
    pub(crate) place: &'a Place,
    /// The model that is asked.
    pub(crate) model: &'a Model,
    /// Tokenizer and vocabulary.
    pub(crate) tokenizer: &'a Tokenizer,
    endpoint: Arc<Endpoint>,
    remembers: bool,
    clock: Clock,
    peers: Peers,
    /// The servers, server 1 first.
    pub(crate) route: Vec<Hop>,
}

/// Who a client is to the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Nobody they know: a fresh identity each time.
    Fresh,
    /// This machine's own node.
    Node,
    /// Whoever has started them: a fresh identity, and nothing to be remembered of them.
    Starter,
}

impl Caller {
    /// Why a server did not tell its status, and what to do if it keeps an allow-list.
    fn advise(self, error: &StatusError, own: NodeId) -> String {
        match error {
            StatusError::Connect(ConnectError { why: ConnectFailure::NotAllowed, .. }) => {
                match self {
                    Self::Fresh | Self::Starter => {
                        format!("{error}; --as-node shows it this machine's own node id")
                    }
                    Self::Node => format!("{error}; its operator can add --allow {own}"),
                }
            }
            _ => error.to_string(),
        }
    }
}

/// An answer, and what is needed to audit it.
pub(crate) struct Answer {
    /// Signed by every server.
    pub(crate) receipt: Receipt,
    session: Keypair,
    seed: AuditSeed,
    /// How much of it is to be opened.
    extent: Extent,
    /// From sending the request to the first token.
    pub(crate) first_token: Duration,
    /// From the first token to the last.
    pub(crate) rest: Duration,
}

/// An audited answer.
pub(crate) struct Audited {
    /// How many openings came.
    pub(crate) openings: usize,
    /// The verdict with its coverage.
    pub(crate) verdict: Result<Verified<Receipt>, Unverified>,
    /// How each server answered.
    pub(crate) conduct: Vec<Conduct>,
    /// How long getting the openings took, without the time in which they were checked.
    pub(crate) opening: Duration,
    /// How long checking them took.
    pub(crate) checking: Duration,
    /// Why the openings are not all in the bundle, if they are not.
    pub(crate) kept: Result<(), NotWritten>,
}

impl<'a> Ring<'a> {
    /// Finds a route among the peers of some tickets; `identity` is who the servers see.
    pub(crate) async fn find(
        place: &'a Place,
        model: &'a Model,
        tokenizer: &'a Tokenizer,
        tickets: &[Ticket],
        identity: Caller,
    ) -> Result<Self> {
        let asked = distinct_peers(tickets)?;
        let addrs: Vec<_> = asked.iter().flat_map(|peer| peer.addrs.iter().copied()).collect();
        let listen = Listen::to_reach(&addrs);
        let own = match identity {
            Caller::Fresh | Caller::Starter => Identity::generate(),
            Caller::Node => Identity::load_or_create(&place.home.node_key())?,
        };
        let endpoint = Endpoint::bind(&own, listen, AllowList::Only([].into())).await?;
        match Self::route(place, &endpoint, &asked, model, identity).await {
            Ok((peers, route)) => {
                let (endpoint, clock) = (Arc::new(endpoint), Clock::start());
                let remembers = identity != Caller::Starter;
                Ok(Self { place, model, tokenizer, endpoint, remembers, clock, peers, route })
            }
            Err(error) => {
                endpoint.close().await;
                Err(error)
            }
        }
    }

    /// Asks the peers what they hold, and finds a route over those that tell.
    async fn route(
        place: &Place,
        endpoint: &Endpoint,
        asked: &[PeerAddr],
        model: &Model,
        identity: Caller,
    ) -> Result<(Peers, Vec<Hop>)> {
        let mut contacts: Vec<Contact> = Vec::new();
        let mut errors = Vec::new();
        for told in driver::statuses(endpoint, asked).await {
            match told {
                Ok(contact) => contacts.push(contact),
                Err(error) => errors.push(identity.advise(&error, endpoint.id())),
            }
        }
        let remembers = identity != Caller::Starter;
        let avoided = if remembers { avoided(place, &contacts) } else { Vec::new() };
        let usable = contacts.iter().filter(|contact| !avoided.contains(&contact.peer.id));
        let statuses: Vec<_> = usable.map(|contact| contact.status.clone()).collect();
        if !avoided.is_empty() {
            errors.push("avoided nodes can be forgiven with `lockstep nodes --forget ID`".into());
        }
        let layers = model.manifest.layers.len() as u32;
        let route =
            find_route(&statuses, &model.record.manifest, layers, &[]).with_context(|| {
                let unreached = match errors.is_empty() {
                    true => String::new(),
                    false => format!(" ({})", errors.join("; ")),
                };
                let name = &model.name;
                format!(
                    "no route for {name} over the {} of {} peers that answered{unreached}; \
                     `lockstep serve {name} --layers FIRST..END` serves what is missing, and its \
                     ticket goes beside the others",
                    contacts.len(),
                    asked.len(),
                )
            })?;
        let peers = contacts.into_iter().map(|contact| (contact.peer.id, contact.peer)).collect();
        Ok((peers, route))
    }

    /// Asks for one answer; `token` hears of every token. Nothing is asked if the longest answer
    /// could not be audited to the extent that is wanted.
    pub(crate) async fn ask(
        &self,
        question: Question,
        extent: Option<Extent>,
        mut token: impl FnMut(u32),
    ) -> Result<Answer> {
        let Question { prompt, sampling, stops } = question;
        let session = Keypair::from_secret(random::secret()?.expose());
        let seed = AuditSeed::new(random::secret()?);
        let secret = OwnSecret::load_or_create(&self.place.home)?;
        let request = Request {
            manifest: self.model.record.manifest,
            adapters: Vec::new(),
            prompt,
            sampling,
            stops,
            nonce: secret.nonce(&session.id(), &seed.commitment())?,
            session_key: session.id(),
            audit_commitment: seed.commitment(),
        };
        let model = ProtocolModel::from(&self.model.manifest);
        if let Some(extent) = extent {
            self.check_length(&model, &request, extent)?;
        }
        let ask = Ask { request, route: self.route.clone(), addresses: self.addresses() };
        let vocabulary = Arc::clone(self.tokenizer.vocabulary());
        let machine = Client::new(self.clock.now(), ask, &session, &model, vocabulary)?;
        let first = self.route.first().context("a route without servers")?;
        let first = self.peers.get(&first.node).context("a route over unknown peers")?;
        let start = Instant::now();
        let mut first_token = None;
        let heard = |_, id| {
            first_token.get_or_insert_with(|| start.elapsed());
            token(id);
        };
        let interrupt = interrupted();
        let cancel = async {
            tokio::select! {
                () = interrupt => {}
                () = output::unread() => {}
            }
        };
        let receipt = driver::ask(&self.endpoint, first, self.clock, machine, heard, cancel).await;
        let receipt = receipt.map_err(|error| self.broken_off(error))?;
        let all = start.elapsed();
        let first_token = first_token.unwrap_or(all);
        let rest = all.saturating_sub(first_token);
        let extent = extent.unwrap_or(Extent::Sampled);
        Ok(Answer { receipt, session, seed, extent, first_token, rest })
    }

    /// Whether the longest answer to a request could be audited.
    fn check_length(&self, model: &ProtocolModel, request: &Request, extent: Extent) -> Result<()> {
        // Without positions the client's machine says why.
        let Some(positions) = model.positions_needed(request) else { return Ok(()) };
        let prompt_len = u32::try_from(request.prompt.len())?;
        let most = lockstep_verify::limits::AUDIT_CHALLENGES;
        check_length(most, &self.model.manifest, extent, prompt_len, positions)
            .map_err(|why| usage(format!("{why} (--audit sampled, -n TOKENS)")))
    }

    /// The error in one sentence: which server, what happened, and what to do.
    fn broken_off(&self, error: AskError) -> anyhow::Error {
        let (stage, reason, by) = match &error {
            AskError::Session(ClientError::Failed(Failure {
                reason: Reason::Cancelled, ..
            })) => {
                return error.into();
            }
            AskError::Session(ClientError::Failed(failure)) => {
                (failure.stage, failure.reason.to_string(), failure.by)
            }
            AskError::Connect(error) => (Some(0), error.to_string(), None),
            AskError::Session(_) => return error.into(),
        };
        let place = stage.and_then(|stage| usize::try_from(stage).ok());
        let Some((place, hop)) = place.and_then(|place| Some((place, self.route.get(place)?)))
        else {
            return error.into();
        };
        // What other servers say is unsigned and came through server 1's hands.
        let says = match by {
            Some(by) => format!(" (s{} says so, unsigned)", by.saturating_add(1)),
            None => String::new(),
        };
        let Hop { node, first, end } = hop;
        let server = format!("s{} [{first}..{end}] {}", place + 1, node.short());
        let next = if self.remembers {
            "ask again; if that server was started anew since, leave and chat with its new ticket"
        } else {
            "ask again; the log of that server is above"
        };
        anyhow::anyhow!("the answer broke off at {server}: {reason}{says}. Next: {next}")
    }

    fn addresses(&self) -> Vec<String> {
        let text = |hop: &Hop| self.peers.get(&hop.node).map(PeerAddr::text).unwrap_or_default();
        self.route.iter().map(text).collect()
    }

    /// The bundle of an answer of which nothing has been opened.
    pub(crate) fn unopened(&self, answer: &Answer) -> Bundle {
        let Answer { receipt, seed, extent, .. } = answer;
        let (receipt, seed) = (receipt.clone(), seed.clone());
        Bundle { receipt, extent: *extent, seed, exchanges: Vec::new() }
    }

    /// Has the servers open cells. Each opening is checked and appended to the bundle as it comes,
    /// and dropped before the next of the same server is asked for.
    pub(crate) async fn audit(
        &self,
        key: &Key,
        answer: &Answer,
        bundle: Option<&Path>,
    ) -> Result<Audited> {
        let Answer { receipt, session, seed, extent, .. } = answer;
        let start = Instant::now();
        let mut conduct = Conduct::before_challenges(receipt);
        let mut keeping = Keeping::of(bundle);
        let ops = backend(threads(self.place, None)?)?;
        let begun = Auditing::begin(&ops, key, receipt, seed, *extent);
        let mut checking = start.elapsed();
        let mut auditing = match begun {
            Ok(auditing) => auditing,
            Err(why) => {
                let (openings, opening) = (0, Duration::ZERO);
                let (verdict, kept) = (Err(why), Ok(()));
                return Ok(Audited { openings, verdict, conduct, opening, checking, kept });
            }
        };
        let targets: Vec<_> = auditing.plan().into_iter().map(|(_, target)| target).collect();
        let bar = output::steps_bar("auditing", targets.len() as u64);
        let took = u64::try_from((answer.first_token + answer.rest).as_micros())?;
        let prices = Arc::new(Prices::of(&self.model.manifest));
        let machine = Challenger::new(self.clock.now(), receipt, targets, session, prices, took);
        let mut answers = driver::challenge(&self.endpoint, &self.peers, self.clock, machine);
        let mut openings = 0;
        while let Some(answered) = answers.next().await {
            bar.inc(1);
            Conduct::count(&mut conduct, &answered);
            let Ok(opening) = answered.answer else { continue };
            openings += 1;
            let exchange = Exchange { challenge: answered.challenge, opening };
            let begin = Instant::now();
            let taken = auditing.take(&exchange);
            checking += begin.elapsed();
            // Only what is checked is kept, so no server makes the file longer than an honest one.
            if taken != Ok(Taken::Unchecked) {
                keeping.append(&exchange);
            }
            // Whoever is convicted must not hold the verdict up with the answers that are left.
            if taken.is_err() {
                break;
            }
            answers.taken(answered.stage);
        }
        drop(answers);
        bar.finish_and_clear();
        let kept = keeping.finish();
        let opening = start.elapsed().saturating_sub(checking);
        let begin = Instant::now();
        let verdict = auditing.finish();
        checking += begin.elapsed();
        Ok(Audited { openings, verdict, conduct, opening, checking, kept })
    }

    /// Adds what was seen of the servers to this machine's record, if they are others'.
    pub(crate) fn remember(&self, seen: Vec<(NodeId, Deeds)>) -> Result<(), RecordError> {
        if self.remembers { standing::remember(self.place, seen) } else { Ok(()) }
    }

    /// Closes all connections.
    pub(crate) async fn close(self) {
        self.endpoint.close().await;
    }
}

/// Whether an answer broke off because the person wanted no more of it.
pub(crate) fn is_interrupt(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref(),
        Some(AskError::Session(ClientError::Failed(failure))) if failure.reason == Reason::Cancelled
    )
}

/// The peers of tickets, each once.
///
/// # Errors
/// If two tickets name one node at different addresses: two servers with one identity, or a ticket
/// of earlier days.
fn distinct_peers(tickets: &[Ticket]) -> Result<Vec<PeerAddr>> {
    let mut peers: Vec<PeerAddr> = Vec::new();
    for peer in tickets.iter().flat_map(|ticket| &ticket.peers) {
        match peers.iter().find(|other| other.id == peer.id) {
            None => peers.push(peer.clone()),
            Some(other) if other.addrs == peer.addrs => {}
            Some(other) => {
                let list = |peer: &PeerAddr| {
                    let addrs: Vec<_> = peer.addrs.iter().map(ToString::to_string).collect();
                    addrs.join(" ")
                };
                return Err(usage(format!(
                    "two tickets have the same node id {}, at {} and at {}: if they are of two \
                     servers, start one of them with --ephemeral or from another --home; if one \
                     is of an earlier run, leave it out",
                    peer.id.short(),
                    list(other),
                    list(peer),
                )));
            }
        }
    }
    Ok(peers)
}

/// The nodes among these that this machine avoids; it says so.
fn avoided(place: &Place, contacts: &[Contact]) -> Vec<NodeId> {
    let voice = Voice::new(false);
    let record = Record::read(&place.home.nodes()).unwrap_or_else(|error| {
        voice.note(format!("nobody is avoided: {error}"));
        Record::default()
    });
    let mut avoided = Vec::new();
    for node in contacts.iter().map(|contact| contact.peer.id) {
        if let Some(why) = standing::why_avoided(&record.deeds(&node)) {
            voice.note(format!("avoiding {node}: {why} (`lockstep nodes`)"));
            avoided.push(node);
        }
    }
    avoided
}

/// Parses tickets: each text holds one, or several with commas or white space between them.
pub(crate) fn parse(texts: &[String]) -> Result<Vec<Ticket>> {
    let wrong = |error| match error {
        TicketError::Prefix => usage(format!(
            "ticket: {error}; `lockstep run NAME` and `lockstep up NAME` chat with a model by its \
             name"
        )),
        error => usage(format!("ticket: {error}")),
    };
    let parts = texts.iter().flat_map(|text| config::parts(text));
    parts.map(|text| text.parse().map_err(wrong)).collect()
}

/// Whether no two tickets are for different models.
pub(crate) fn one_model(tickets: &[Ticket]) -> Result<()> {
    let mut models = tickets.iter().filter_map(|ticket| ticket.manifest);
    if let Some(first) = models.next()
        && let Some(other) = models.find(|model| *model != first)
    {
        bail!("the tickets are for different models: {} and {}", first.short(), other.short());
    }
    Ok(())
}
