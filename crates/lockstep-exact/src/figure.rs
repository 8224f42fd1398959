//! Figures of quality: what somebody measured of a model, in its manifest.
//!
//! A claim of whoever made the manifest, and not proved by anything here; but text, windows and
//! reference are named, so that anyone can measure again. Nothing that computes reads a figure.
#![deny(clippy::indexing_slicing, clippy::string_slice)]

use crate::bytes::{Canonical, DecodeError, Reader, put_bytes};
use crate::digest::Digest;
use crate::limits;

/// The figures that were measured of a model on a text, beside those of a reference.
///
/// The text's tokens are cut into windows of [`window`](Self::window) tokens, and the second half
/// of each is scored; tokens that fill no window are left out.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// The name of the text, for people.
    pub text: String,
    /// The BLAKE3 digest of the text's bytes.
    pub text_digest: Digest,
    /// The number of tokens of a window.
    pub window: u32,
    /// Windows that were measured, from the text's beginning.
    pub windows: u32,
    /// Positions that were scored, in all windows together.
    pub positions: u64,
    /// The name of what the model was compared with, such as "f32 of model.gguf".
    pub reference: String,
    /// e to the mean negative log-probability of the text's tokens.
    pub perplexity: f32,
    /// The perplexity of the reference.
    pub reference_perplexity: f32,
    /// Mean KL divergence in nats, of this model from the reference.
    pub kl: f32,
    /// Share of positions at which both have the same most likely token.
    pub same_top: f32,
}

impl Canonical for Figure {
    fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(out, self.text.as_bytes());
        self.text_digest.encode(out);
        self.window.encode(out);
        self.windows.encode(out);
        self.positions.encode(out);
        put_bytes(out, self.reference.as_bytes());
        for number in [self.perplexity, self.reference_perplexity, self.kl, self.same_top] {
            number.encode(out);
        }
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            text: input.text("figure's text", limits::NAME_BYTES)?,
            text_digest: Digest::decode(input)?,
            window: u32::decode(input)?,
            windows: u32::decode(input)?,
            positions: u64::decode(input)?,
            reference: input.text("figure's reference", limits::NAME_BYTES)?,
            perplexity: f32::decode(input)?,
            reference_perplexity: f32::decode(input)?,
            kl: f32::decode(input)?,
            same_top: f32::decode(input)?,
        })
    }
}

impl Figure {
    /// Least bytes of an encoding: two empty texts.
    pub(crate) const LEAST_BYTES: usize = 4 + 32 + 4 + 4 + 8 + 4 + 4 * 4;

    /// Returns the earliest part that is outside its range: its name, what was expected, and what
    /// it is.
    pub(crate) fn fault(&self) -> Option<(&'static str, &'static str, String)> {
        let scored = u64::from(self.window / 2) * u64::from(self.windows);
        let fits = |number: f32, low: f32, high: f32| {
            // -0 would be a second way to say 0.
            (low..=high).contains(&number) && number.is_sign_positive()
        };
        // 2^40: as every scale of a manifest.
        let high = f32::from_bits(167 << 23);
        let longest = 2 * limits::CONTEXT as u32;
        let short = |text: &str| text.len() <= limits::NAME_BYTES;
        let length = |text: &str| format!("{} bytes", text.len());
        let parts = [
            ("text", short(&self.text), "at most 256 bytes", length(&self.text)),
            ("reference", short(&self.reference), "at most 256 bytes", length(&self.reference)),
            ("window", (2..=longest).contains(&self.window), "2 to 2^21", self.window.to_string()),
            ("windows", self.windows >= 1, "1 or more", self.windows.to_string()),
            (
                "positions",
                (1..=scored).contains(&self.positions),
                "1 to half of all windows' tokens",
                self.positions.to_string(),
            ),
            (
                "perplexity",
                fits(self.perplexity, 1.0, high),
                "a number in [1, 2^40]",
                self.perplexity.to_string(),
            ),
            (
                "reference perplexity",
                fits(self.reference_perplexity, 1.0, high),
                "a number in [1, 2^40]",
                self.reference_perplexity.to_string(),
            ),
            ("KL", fits(self.kl, 0.0, high), "a number in [0, 2^40]", self.kl.to_string()),
            (
                "same top-1",
                fits(self.same_top, 0.0, 1.0),
                "a number in [0, 1]",
                self.same_top.to_string(),
            ),
        ];
        let fault = parts.into_iter().find(|(_, fits, ..)| !fits)?;
        Some((fault.0, fault.2, fault.3))
    }
}
