//! The manifest: everything that defines a model's answers, by digest.
//!
//! A manifest lists content-addressed blobs and, per layer, a [`LayerPlan`] that says what the
//! layer is made of and where in its blob each part lies. The model's id is the BLAKE3 digest of
//! the manifest's canonical bytes, which `codec` defines; `check` refuses a manifest whose parts
//! contradict each other.
#![deny(clippy::indexing_slicing, clippy::string_slice)]

mod check;
mod codec;

pub use check::ManifestError;
pub use codec::VERSION;

use crate::bytes::Canonical;
use crate::digest::Digest;
use crate::figure::Figure;
use crate::plan::{HeadPlan, LayerPlan};

/// A content-addressed file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobRef {
    /// The BLAKE3 digest of the file's bytes.
    pub digest: Digest,
    /// The length of the file in bytes.
    pub len: u64,
}

/// Returns the bytes of all these files together. The lengths of a manifest are what its author
/// wrote: if they come to more than a `u64` counts, that is returned.
#[must_use]
pub fn total_bytes(blobs: &[BlobRef]) -> u64 {
    blobs.iter().fold(0, |sum, blob| sum.saturating_add(blob.len))
}

/// A rotary table: per pair of elements, the turn per position as a fraction of 2^64.
///
/// Element `i` of a head pairs with element `i + pairs` (the half-split pairing); elements from
/// `2 · pairs` on are not rotated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RopeTable {
    /// The turn per position of each pair, as a fraction of 2^64.
    pub frequencies: Vec<u64>,
}

/// The origin of the model and its terms of use; shown to people, part of the id.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Provenance {
    /// The name that the model's source gives it.
    pub name: String,
    /// Its architecture as its source names it ("llama").
    pub architecture: String,
    /// Licence name or SPDX expression, or "unknown".
    pub license: String,
    /// The type that most weights of the source were stored in ("Q4_1"; "unquantised" for floats
    /// of 16 or 32 bits). How they are stored here, each matrix says.
    pub source_format: String,
    /// The quality that whoever made the manifest measured of the model; an import measures
    /// nothing.
    pub figures: Vec<Figure>,
}

/// Everything that defines a model's answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// The model's name, architecture, licence, source format and measured quality.
    pub provenance: Provenance,
    /// The number of elements of a state.
    pub hidden: u32,
    /// The number of token ids of the model.
    pub vocabulary: u32,
    /// Most positions a session may have.
    pub context: u32,
    /// The files of the package, which plans name by their index here.
    pub blobs: Vec<BlobRef>,
    /// Which blob lists the bytes of every token ([`crate::vocabulary`]).
    pub vocabulary_blob: u32,
    /// Which blob holds tokenizer and chat template; its format belongs to the importer.
    pub tokenizer_blob: u32,
    /// Tokens that end an answer.
    pub end_tokens: Vec<u32>,
    /// Rotary tables that layers refer to.
    pub ropes: Vec<RopeTable>,
    /// The plan of the embedding and the head.
    pub head: HeadPlan,
    /// The plans of the layers, in order.
    pub layers: Vec<LayerPlan>,
}

impl Manifest {
    /// Returns the model's id: the BLAKE3 digest of the canonical bytes.
    #[must_use]
    pub fn id(&self) -> Digest {
        Digest::of(&self.to_bytes())
    }

    /// Returns the number of bytes of one state row on the wire and in a column.
    #[must_use]
    pub const fn state_row_bytes(&self) -> usize {
        crate::state::row_bytes(self.hidden as usize)
    }

    /// Returns how many layers the model has. [`LAYERS`](crate::limits::LAYERS) is the most that a
    /// manifest may have; one that was never checked may have more, and counts as many as a `u32`
    /// holds.
    #[must_use]
    pub fn layer_count(&self) -> u32 {
        // default: no model has so many layers, so nothing that is compared with it fits
        u32::try_from(self.layers.len()).unwrap_or(u32::MAX)
    }
}
