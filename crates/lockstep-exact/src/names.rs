//! The names of matrix products and vectors: how plan, weights, key, opening and audit speak of
//! one.

/// The matrix products of a layer and of the head, in order of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProductName {
    /// The product of queries, keys and values.
    Qkv,
    /// The output product of attention.
    Output,
    /// Gate and up of a dense feed-forward part.
    GateUp,
    /// Output of a dense feed-forward part.
    Down,
    /// The logits by which experts are chosen.
    Router,
    /// Gate and up of the expert with this index.
    ExpertGateUp(u32),
    /// Down of the expert with this index.
    ExpertDown(u32),
    /// The number whose sigmoid weights the shared expert.
    SharedGate,
    /// Gate and up of the shared expert.
    SharedGateUp,
    /// Down of the shared expert.
    SharedDown,
    /// The head's output product: logits.
    Logits,
}

impl ProductName {
    /// The products of a dense feed-forward part.
    pub const DENSE: [Self; 2] = [Self::GateUp, Self::Down];
    /// The products of the shared expert.
    pub const SHARED: [Self; 2] = [Self::SharedGateUp, Self::SharedDown];

    /// Returns the names of the products of the expert with this index, in order of use.
    #[must_use]
    pub const fn of_expert(expert: u32) -> [Self; 2] {
        [Self::ExpertGateUp(expert), Self::ExpertDown(expert)]
    }

    /// Returns the index of the expert that the product belongs to, if it belongs to one that is
    /// chosen.
    #[must_use]
    pub const fn expert(self) -> Option<u32> {
        match self {
            Self::ExpertGateUp(expert) | Self::ExpertDown(expert) => Some(expert),
            Self::Qkv
            | Self::Output
            | Self::GateUp
            | Self::Down
            | Self::Router
            | Self::SharedGate
            | Self::SharedGateUp
            | Self::SharedDown
            | Self::Logits => None,
        }
    }

    /// Returns the name that stands for all products of the same kind: of an expert, that of expert
    /// 0.
    #[must_use]
    pub const fn kind(self) -> Self {
        match self {
            Self::ExpertGateUp(_) => Self::ExpertGateUp(0),
            Self::ExpertDown(_) => Self::ExpertDown(0),
            Self::Qkv
            | Self::Output
            | Self::GateUp
            | Self::Down
            | Self::Router
            | Self::SharedGate
            | Self::SharedGateUp
            | Self::SharedDown
            | Self::Logits => self,
        }
    }
}

impl core::fmt::Display for ProductName {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Qkv => "qkv",
            Self::Output => "attention output",
            Self::GateUp => "gate and up",
            Self::Down => "down",
            Self::Router => "router",
            Self::ExpertGateUp(expert) => return write!(f, "expert {expert}: gate and up"),
            Self::ExpertDown(expert) => return write!(f, "expert {expert}: down"),
            Self::SharedGate => "shared expert: gate",
            Self::SharedGateUp => "shared expert: gate and up",
            Self::SharedDown => "shared expert: down",
            Self::Logits => "logits",
        })
    }
}

/// The vectors of a layer, but for biases, which belong to their products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VectorName {
    /// Gains of the normalisation before attention.
    AttentionNorm,
    /// Gains of the normalisation before the feed-forward part.
    FfnNorm,
    /// Gains of the normalisation of query heads.
    QueryNorm,
    /// Gains of the normalisation of key heads.
    KeyNorm,
    /// Gains of the normalisation of the attention output.
    AttentionPostNorm,
    /// Gains of the normalisation of the feed-forward output.
    FfnPostNorm,
}

impl VectorName {
    /// Every vector that a layer can have, in the order of [`crate::tree::LayerTree`].
    pub const ALL: [Self; 6] = [
        Self::AttentionNorm,
        Self::FfnNorm,
        Self::QueryNorm,
        Self::KeyNorm,
        Self::AttentionPostNorm,
        Self::FfnPostNorm,
    ];
}

impl core::fmt::Display for VectorName {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::AttentionNorm => "attention norm",
            Self::FfnNorm => "feed-forward norm",
            Self::QueryNorm => "query norm",
            Self::KeyNorm => "key norm",
            Self::AttentionPostNorm => "attention post-norm",
            Self::FfnPostNorm => "feed-forward post-norm",
        })
    }
}
