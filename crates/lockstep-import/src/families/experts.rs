//! Reads the experts of a model: how many, how large, how they are chosen.

use lockstep_exact::feed_forward::Rule;
use lockstep_exact::limits as exact_limits;

use super::{Family, FamilyError, Keys, limit};
use crate::gguf::required;

/// The experts that a family's layers can have in place of one feed-forward product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mixture {
    /// Layers of the family never have experts.
    None,
    /// Experts of the size of the dense part, if the file counts some; their weights add up to
    /// one.
    Allowed,
    /// Every layer with a router has experts, and the file states their size.
    Required {
        /// Whether the weights of the chosen ones add up to one, if the file does not say.
        normalise: bool,
        /// Whether there is a shared expert, which every row uses.
        shared: bool,
    },
}

/// The experts of a model, in the layers that have a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ExpertSizes {
    pub(crate) count: u32,
    pub(crate) rule: Rule,
    /// The feed-forward size of each expert.
    pub(crate) inner: u32,
    /// Feed-forward size of the shared one, if there is one.
    pub(crate) shared: Option<u32>,
}

impl ExpertSizes {
    /// Reads them; `inner` is the size of a dense part.
    pub(super) fn read(
        keys: &Keys<'_, '_>,
        family: &Family,
        inner: u32,
    ) -> Result<Option<Self>, FamilyError> {
        let is_counted = keys.gguf.optional_u64(&keys.full("expert_count"))?.is_some_and(|n| n > 0);
        let (normalise, has_shared) = match family.experts {
            Mixture::None => return Ok(None),
            Mixture::Allowed if !is_counted => return Ok(None),
            Mixture::Allowed => (true, false),
            Mixture::Required { normalise, shared } => (normalise, shared),
        };
        let count = keys.size("expert_count", limit(exact_limits::EXPERTS))?;
        let used = keys.size("expert_used_count", count)?;
        let stated = keys.gguf.optional_bool(&keys.full("expert_weights_norm"))?;
        let size = |name: &str| keys.optional_size(name, limit(exact_limits::INNER));
        let own = size("expert_feed_forward_length")?;
        let inner = match family.experts {
            Mixture::Required { .. } => required(own, &keys.full("expert_feed_forward_length"))?,
            Mixture::None | Mixture::Allowed => own.unwrap_or(inner),
        };
        const SHARED: &str = "expert_shared_feed_forward_length";
        let shared = match has_shared {
            true => Some(required(size(SHARED)?, &keys.full(SHARED))?),
            false => None,
        };
        let rule = Rule { used, normalise: stated.unwrap_or(normalise) };
        Ok(Some(Self { count, rule, inner, shared }))
    }
}
