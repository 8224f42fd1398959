//! A model that a swarm serves and this machine has not: its manifest, and just the files that a
//! server of some of its layers needs, from the servers that hold them.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use lockstep_exact::Digest;
use lockstep_exact::manifest::Manifest;
use lockstep_node::driver::{FetchError, Fetched, Node, View, fetch, holders, wanted};
use lockstep_node::limits;
use lockstep_node::store::{ModelName, StoreError, span_blobs};
use lockstep_node::ticket::Ticket;
use lockstep_proto::announcement::{Announcement, State};
use lockstep_proto::swarm::fetch::{Length, Wanted};
use tokio::sync::watch;

use crate::model::{Model, canonical};
use crate::place::Place;
use crate::random::{self, NoRandomness};

/// The reasons why it is not known which model of a swarm is meant.
#[derive(Debug, thiserror::Error)]
pub enum WhichModel {
    /// The servers of the swarm serve several models.
    #[error("the swarm serves several models, say which: {}", ids(.0))]
    Several(Vec<Digest>),
    /// No server of the swarm serves a model of this name or id.
    #[error("no server of the swarm serves a model {text:?}; it serves {}", ids(served))]
    NotServed {
        /// The name or id that was given.
        text: String,
        /// The models that are served.
        served: Vec<Digest>,
    },
    /// No server of the swarm serves anything.
    #[error("no server of the swarm answered, so it is not known what it serves")]
    Nothing,
}

fn ids(models: &[Digest]) -> String {
    models.iter().map(Digest::short).collect::<Vec<_>>().join(", ")
}

/// Why the files of a model could not be had from a swarm.
#[derive(Debug, thiserror::Error)]
pub enum FromSwarmError {
    /// The files could not be fetched from any server.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The store can't take them.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system gave no random bytes.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

/// Returns the model that a server is to serve that joins the swarm of these tickets: the one that
/// `text` names, as a ticket calls it or by its id; without that the only one, or the tickets' own.
///
/// # Errors
/// [`WhichModel`].
pub fn which(
    text: Option<&str>,
    tickets: &[Ticket],
    known: &[Arc<Announcement>],
) -> Result<Digest, WhichModel> {
    let is_there = |one: &&Arc<Announcement>| one.status.state != State::Left;
    let served: BTreeSet<Digest> =
        known.iter().filter(is_there).map(|one| one.status.manifest).collect();
    let listed = || served.iter().copied().collect::<Vec<_>>();
    if served.is_empty() {
        return Err(WhichModel::Nothing);
    }
    let of_tickets = tickets.iter().filter_map(|ticket| Some((ticket, ticket.manifest?)));
    let of_tickets = of_tickets.filter(|(_, model)| served.contains(model));
    let found: BTreeSet<Digest> = match text {
        None => {
            let own: BTreeSet<Digest> = of_tickets.map(|(_, model)| model).collect();
            if own.is_empty() { served.clone() } else { own }
        }
        Some(text) => {
            let name = canonical(text);
            let called = of_tickets.filter(|(ticket, _)| ticket.called == name);
            let digits = text.to_lowercase();
            let is_it = |model: &&Digest| {
                digits.len() >= limits::MODEL_ID_DIGITS && model.to_string().starts_with(&digits)
            };
            called.map(|(_, model)| model).chain(served.iter().filter(is_it).copied()).collect()
        }
    };
    match (found.first(), text) {
        (Some(only), _) if found.len() == 1 => Ok(*only),
        (Some(_), _) => Err(WhichModel::Several(found.into_iter().collect())),
        (None, text) => Err(WhichModel::NotServed {
            text: text.unwrap_or_default().to_owned(),
            served: listed(),
        }),
    }
}

/// Returns what the tickets call a model; a word of its id if they don't.
#[must_use]
pub fn called(model: Digest, tickets: &[Ticket]) -> String {
    let called = tickets.iter().filter(|ticket| ticket.manifest == Some(model));
    let mut called = called.map(|ticket| ticket.called.clone()).filter(|name| !name.is_empty());
    called.next().unwrap_or_else(|| model.short())
}

/// Fetches the manifest of a model, which the servers of `known` serve, and keeps it in the store
/// under a name like `called`, or another one if that stands for another model.
///
/// # Errors
/// [`FromSwarmError`].
pub async fn manifest(
    place: &Place,
    node: &Node,
    (model, called): (Digest, &str),
    known: &[Arc<Announcement>],
    tell: &mut (dyn FnMut(Fetched) + Send),
) -> Result<Model, FromSwarmError> {
    let store = &place.store;
    // Another process that imports or fetches does not take away what has come.
    let import = store.begin()?;
    let want = [Wanted { blob: model, len: Length::AtMost(limits::MANIFEST_BYTES) }];
    let who = || holders(known, model, None);
    let (endpoint, clock) = (node.links().endpoint(), node.clock());
    let random = random::seed()?;
    fetch(endpoint, clock, store, (&want, random), &who, None, tell).await?;
    let manifest = store.manifest_of(model)?;
    let name = free_name(place, model, called)?;
    let source = if called.starts_with("hf:") { called } else { "servers of a swarm" };
    import.publish_part(&name, &manifest, source)?;
    Ok(Model { record: store.record(&name)?, name, manifest })
}

/// Returns a name for a model: one that stands for it already, or else one like `called` that
/// stands for nothing.
fn free_name(place: &Place, model: Digest, called: &str) -> Result<ModelName, StoreError> {
    let models = place.store.models()?;
    if let Some((name, _)) = models.iter().find(|(_, record)| record.manifest == model) {
        return Ok(name.clone());
    }
    let by_id = || ModelName::made_of(&format!("model-{}", model.short()));
    let base = ModelName::made_of(called).or_else(by_id);
    let base = base.ok_or(StoreError::NoName { id: model })?;
    if !models.contains_key(&base) {
        return Ok(base);
    }
    let mut numbered = (2..=limits::NAMES_TRIED).filter_map(|number| base.numbered(number));
    let free = numbered.find(|name| !models.contains_key(name));
    free.ok_or(StoreError::NoName { id: model })
}

/// Fetches what a server of the span needs and the store has not: its layers, with the first one
/// embedding and head, and of every model vocabulary and tokenizer. Servers are those of `known`,
/// and later those of `view`.
///
/// # Errors
/// [`FromSwarmError`].
pub async fn span(
    place: &Place,
    node: &Node,
    (model, span): (&Model, Range<u32>),
    (known, view): (&[Arc<Announcement>], Option<watch::Receiver<Arc<View>>>),
    tell: &mut (dyn FnMut(Fetched) + Send),
) -> Result<(), FromSwarmError> {
    let missing = place.store.missing(&model.manifest, &needs(&model.manifest, span));
    if missing.is_empty() {
        return Ok(());
    }
    let (id, later) = (model.record.manifest, view.clone());
    let who = || {
        let seen = later.as_ref().map(|view| view.borrow().announcements.clone());
        let all: Vec<_> = seen.into_iter().flatten().chain(known.iter().cloned()).collect();
        holders(&all, id, Some(&model.manifest))
    };
    let (endpoint, clock, random) = (node.links().endpoint(), node.clock(), random::seed()?);
    let wanted = wanted(&missing);
    fetch(endpoint, clock, &place.store, (&wanted, random), &who, view, tell).await?;
    Ok(())
}

/// Returns the files that a server of a span needs, by their index in the manifest; of an empty
/// span vocabulary and tokenizer.
#[must_use]
pub fn needs(manifest: &Manifest, span: Range<u32>) -> BTreeSet<u32> {
    let texts = [manifest.vocabulary_blob, manifest.tokenizer_blob];
    let layers = if span.is_empty() { BTreeSet::new() } else { span_blobs(manifest, span) };
    layers.into_iter().chain(texts).collect()
}

#[cfg(test)]
mod tests {
    use lockstep_proto::announcement::Status;
    use lockstep_testing::gossip::{START, announcement, key};
    use lockstep_testing::tiny_model::TinyModel;

    use super::*;

    fn serving(number: usize, model: u8) -> Arc<Announcement> {
        let one = announcement(&key(number), START, 30_000, "192.0.2.1:1");
        let status = Status { manifest: Digest([model; 32]), ..one.status.clone() };
        Arc::new(Announcement { status, ..one })
    }

    fn ticket(model: u8, called: &str) -> Ticket {
        let manifest = Some(Digest([model; 32]));
        Ticket { peers: Vec::new(), manifest, called: called.to_owned() }
    }

    #[test]
    fn the_model_is_the_only_one_or_the_one_that_is_named() {
        let (one, two) = ([serving(1, 5)], [serving(1, 5), serving(2, 6)]);
        let tickets = [ticket(6, "qwen")];
        let model = |number: u8| Digest([number; 32]);
        assert_eq!(which(None, &[], &one).unwrap(), model(5));
        assert_eq!(which(None, &tickets, &two).unwrap(), model(6), "the ticket's own");
        assert_eq!(which(Some("qwen"), &tickets, &two).unwrap(), model(6));
        let id = model(5).to_string();
        assert_eq!(which(Some(&id[..10]), &tickets, &two).unwrap(), model(5));
        assert!(matches!(which(None, &[], &two), Err(WhichModel::Several(all)) if all.len() == 2));
        assert!(matches!(which(None, &tickets, &[]), Err(WhichModel::Nothing)));
        let other = which(Some("llama"), &tickets, &two);
        assert!(matches!(other, Err(WhichModel::NotServed { .. })), "{other:?}");
        // A ticket of a model that nobody serves any more says nothing.
        assert_eq!(which(None, &[ticket(9, "old")], &one).unwrap(), model(5));
        assert_eq!((called(model(6), &tickets).as_str()), "qwen");
        assert_eq!(called(model(5), &tickets), model(5).short());
    }

    #[test]
    fn a_server_needs_its_layers_and_the_texts_and_with_layer_0_the_head() {
        let manifest = TinyModel::new(3).manifest;
        let texts = BTreeSet::from([manifest.vocabulary_blob, manifest.tokenizer_blob]);
        assert_eq!(needs(&manifest, 1..1), texts);
        let layer = manifest.layers[1].blob;
        assert_eq!(needs(&manifest, 1..2), texts.iter().copied().chain([layer]).collect());
        assert!(needs(&manifest, 0..1).contains(&manifest.head.embedding_blob));
        assert!(!needs(&manifest, 1..2).contains(&manifest.head.embedding_blob));
    }
}
