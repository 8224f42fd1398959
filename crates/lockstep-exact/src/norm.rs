//! Normalisations of a layer: in a plan over places in a blob, in weights over numbers.

/// RMS normalisation: `x / sqrt(mean(x²) + eps) · gain`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm<V = Vec<f32>> {
    /// The number that is added to the mean of squares.
    pub eps: f32,
    /// The gains, one per element.
    pub gain: V,
}

impl<V> Norm<V> {
    /// Makes a normalisation of the number `eps` and its gains.
    #[must_use]
    pub const fn new(eps: f32, gain: V) -> Self {
        Self { eps, gain }
    }

    /// Makes the same normalisation with other vectors: `vector` makes each of the old one.
    ///
    /// # Errors
    /// The first error that `vector` gives.
    pub fn try_map<'a, W, E>(
        &'a self,
        mut vector: impl FnMut(&'a V) -> Result<W, E>,
    ) -> Result<Norm<W>, E> {
        Ok(Norm { eps: self.eps, gain: vector(&self.gain)? })
    }
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
