//! The constants of a layer's normalisations.

/// A normalisation's constants.
#[derive(Clone, Debug, PartialEq)]
pub struct Norm {
    /// Added to the mean of squares.
    pub eps: f32,
    /// One gain per element.
    pub gain: Vec<f32>,
}

/// The constants of query and key heads' normalisation.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadNorms {
    /// Of every query head.
    pub query: Norm,
    /// Of every key head.
    pub key: Norm,
}

/// The constants of normalisation before the residual additions.
#[derive(Clone, Debug, PartialEq)]
pub struct PostNorms {
    /// Of the attention output.
    pub attention: Norm,
    /// Of the feed-forward output.
    pub ffn: Norm,
}
