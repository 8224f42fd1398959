//! The canonical bytes of a manifest: its magic, its version, and the order of its fields.
//!
//! Refused is whatever the plain encoding of a manifest would not give; what the fields say is
//! checked afterwards, by `check`.

use super::{BlobRef, Manifest, Provenance, RopeTable};
use crate::bytes::{Canonical, DecodeError, Reader, put_bytes, put_list};
use crate::canonical_struct;
use crate::figure::Figure;
use crate::limits;
use crate::plan::HeadPlan;

/// The version of the arithmetic and of this format.
pub const VERSION: u16 = 0;
const MAGIC: [u8; 8] = *b"LOCKSTEP";

canonical_struct!(BlobRef { digest, len });

impl Canonical for RopeTable {
    fn encode(&self, out: &mut Vec<u8>) {
        put_list(out, &self.frequencies);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { frequencies: input.list("rotary table", limits::HEAD_DIM / 2, 8)? })
    }
}

impl Canonical for Provenance {
    fn encode(&self, out: &mut Vec<u8>) {
        for text in [&self.name, &self.architecture, &self.license, &self.source_format] {
            put_bytes(out, text.as_bytes());
        }
        put_list(out, &self.figures);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            name: input.text("model name", limits::NAME_BYTES)?,
            architecture: input.text("architecture", limits::NAME_BYTES)?,
            license: input.text("licence", limits::LICENSE_BYTES)?,
            source_format: input.text("source format", limits::NAME_BYTES)?,
            figures: input.list("figures", limits::FIGURES, Figure::LEAST_BYTES)?,
        })
    }
}

impl Canonical for Manifest {
    fn encode(&self, out: &mut Vec<u8>) {
        MAGIC.encode(out);
        VERSION.encode(out);
        self.provenance.encode(out);
        self.hidden.encode(out);
        self.vocabulary.encode(out);
        self.context.encode(out);
        put_list(out, &self.blobs);
        self.vocabulary_blob.encode(out);
        self.tokenizer_blob.encode(out);
        put_list(out, &self.end_tokens);
        put_list(out, &self.ropes);
        self.head.encode(out);
        put_list(out, &self.layers);
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if input.array::<8>("manifest")? != MAGIC {
            return Err(input.invalid("manifest", "does not start with LOCKSTEP"));
        }
        if u16::decode(input)? != VERSION {
            return Err(input.invalid("manifest version", "this build reads version 0 only"));
        }
        Ok(Self {
            provenance: Provenance::decode(input)?,
            hidden: u32::decode(input)?,
            vocabulary: u32::decode(input)?,
            context: u32::decode(input)?,
            blobs: input.list("blobs", limits::LAYERS + 8, 40)?,
            vocabulary_blob: u32::decode(input)?,
            tokenizer_blob: u32::decode(input)?,
            end_tokens: input.list("end tokens", limits::END_TOKENS, 4)?,
            ropes: input.list("rotary tables", limits::ROPE_TABLES, 4)?,
            head: HeadPlan::decode(input)?,
            layers: input.list("layers", limits::LAYERS, 64)?,
        })
    }
}
