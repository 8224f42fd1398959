//! Normalisations of a layer: in a plan over places in a blob, in weights over numbers.

/// RMS normalisation: `x / sqrt(mean(x²) + eps) · gain`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm<V = Vec<f32>> {
    /// The number that is added to the mean of squares.
    pub eps: f32,
    /// The gains, one per element.
    pub gain: V,
}

/// Normalisation of every query and key head, between product and rotation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadNorms<V = Vec<f32>> {
    /// One gain per element of a query head.
    pub query: Norm<V>,
    /// One gain per element of a key head.
    pub key: Norm<V>,
}

/// Normalisation of what a part of a layer gives, before it is added to the state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PostNorms<V = Vec<f32>> {
    /// The norm of the attention output.
    pub attention: Norm<V>,
    /// The norm of the feed-forward output.
    pub ffn: Norm<V>,
}
