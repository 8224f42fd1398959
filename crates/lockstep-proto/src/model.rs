//! What the protocol needs to know of a model.

use std::sync::Arc;

use lockstep_exact::digest::Digest;
use lockstep_exact::manifest::Manifest;
use lockstep_verify::price::Prices;
use lockstep_verify::request::Request;

/// The facts of a manifest that the protocol needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// The id of the model: the digest of its manifest.
    pub manifest: Digest,
    /// The number of layers of the model.
    pub layers: u32,
    /// The number of elements of a state.
    pub hidden: u32,
    /// The most positions of a session.
    pub context: u32,
    /// The number of token ids of the model.
    pub vocabulary: u32,
    /// The token ids that end an answer.
    pub end_tokens: Vec<u32>,
    /// The prices of opening cells.
    pub prices: Arc<Prices>,
}

impl From<&Manifest> for Model {
    fn from(manifest: &Manifest) -> Self {
        Self {
            manifest: manifest.id(),
            layers: manifest.layer_count(),
            hidden: manifest.hidden,
            context: manifest.context,
            vocabulary: manifest.vocabulary,
            end_tokens: manifest.end_tokens.clone(),
            prices: Arc::new(Prices::of(manifest)),
        }
    }
}

impl Model {
    /// Returns the number of positions that a request can take: every token of prompt and answer
    /// but the answer's last. `None` if the prompt is empty or leaves no room for an answer.
    #[must_use]
    pub fn positions_needed(&self, request: &Request) -> Option<u32> {
        let prompt = match u32::try_from(request.prompt.len()) {
            Ok(prompt) if (1..self.context).contains(&prompt) => prompt,
            Ok(_) | Err(_) => return None,
        };
        let answer = request.stops.max_tokens.saturating_sub(1);
        Some(prompt.saturating_add(answer).min(self.context.saturating_sub(1)))
    }
}
