//! From a model file to a package: content-addressed blobs, and the manifest that names them.
//!
//! [`ModelFile::open`] checks everything that can be checked without reading the weights;
//! [`ModelFile::import`] then writes one blob after another into a [`Sink`], so memory stays near
//! the size of the largest blob. What is written is a pure function of the file's bytes: the same
//! file gives the same manifest on every machine.
//!
//! Blobs: the bytes of every token, the tokenizer, the embedding (with the final norm if it is the
//! output matrix too), the head (if it is not), then one per layer. Inside a blob sections start
//! at multiples of 64 and gaps are zero.

use std::collections::BTreeMap;
use std::convert::Infallible;

use lockstep_exact::bytes::Canonical;
use lockstep_exact::manifest::{
    Activation, AttentionPlan, BiasesPlan, BlobRef, HeadPlan, LayerPlan, Manifest, ManifestError,
    MatrixRef, NormPlan, Provenance, RopeTable, VectorRef,
};
use lockstep_exact::matrix::{self, BLOCK_ROWS, Shape};
use lockstep_exact::{Digest, limits, num};

use crate::gguf::{Gguf, GgufError, Matrix, TensorType};
use crate::llama::{self, Llama, LlamaError};
use crate::quantise;
use crate::tokenizer::{self, FromGguf, TokenizerError};

/// Where sections of a blob may start.
const SECTION: usize = 64;

/// Takes the blobs of a package, one after another.
pub trait Sink {
    /// Why a blob could not be kept.
    type Error;

    /// Keeps a blob and returns the BLAKE3 digest of its bytes.
    ///
    /// # Errors
    /// The blob could not be kept.
    fn put_blob(&mut self, bytes: Vec<u8>) -> Result<Digest, Self::Error>;
}

/// Keeps blobs in memory.
#[derive(Debug, Clone, Default)]
pub struct MemorySink {
    blobs: BTreeMap<Digest, Vec<u8>>,
}

impl MemorySink {
    /// The blob with this digest, if it was put.
    pub fn get(&self, digest: &Digest) -> Option<&[u8]> {
        self.blobs.get(digest).map(Vec::as_slice)
    }

    /// Takes the blob with this digest out.
    pub fn take(&mut self, digest: &Digest) -> Option<Vec<u8>> {
        self.blobs.remove(digest)
    }
}

impl Sink for MemorySink {
    type Error = Infallible;

    fn put_blob(&mut self, bytes: Vec<u8>) -> Result<Digest, Infallible> {
        let digest = Digest::of(&bytes);
        self.blobs.insert(digest, bytes);
        Ok(digest)
    }
}

/// How far an import is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Weights done.
    pub done: u64,
    /// Weights of the model.
    pub total: u64,
}

/// What a model file holds, known before its weights are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Name, architecture, licence and source format, as the manifest will state them.
    pub provenance: Provenance,
    /// Number of weights, in matrices.
    pub weights: u64,
    /// Layers.
    pub layers: u32,
    /// Elements of a state.
    pub hidden: u32,
    /// Token ids.
    pub vocabulary: u32,
    /// Most positions of a session.
    pub context: u32,
    /// Bytes that all blobs of the package take together.
    pub package_bytes: u64,
    /// Bytes of the largest blob: importing takes about this much memory.
    pub largest_blob_bytes: u64,
}

/// A checked model file.
#[derive(Debug)]
pub struct ModelFile<'a> {
    gguf: Gguf<'a>,
    llama: Llama,
    text: FromGguf,
    provenance: Provenance,
}

impl<'a> ModelFile<'a> {
    /// Reads and checks a GGUF file, all but the numbers in it.
    ///
    /// # Errors
    /// The file is malformed, or holds something that cannot be imported.
    pub fn open(file: &'a [u8]) -> Result<Self, ModelError> {
        let gguf = Gguf::parse(file)?;
        llama::check_kind(&gguf)?;
        let text = tokenizer::read(&gguf)?;
        let llama = Llama::read(&gguf, text.vocabulary.len())?;
        llama.check_names(&gguf)?;
        llama.head(&gguf)?;
        for layer in 0..llama.layers {
            llama.layer(&gguf, layer)?;
        }
        let provenance = provenance(&gguf)?;
        Ok(Self { gguf, llama, text, provenance })
    }

    /// What the file holds.
    pub fn facts(&self) -> Facts {
        let llama = &self.llama;
        let head = Shape { rows: llama.vocabulary as usize, columns: llama.hidden as usize };
        let is_tied = self.gguf.tensor(llama::OUTPUT).is_none();
        let heads = if is_tied { 1 } else { 2 };
        let shapes = layer_shapes(llama);
        let weights = |shape: &Shape| shape.rows as u64 * shape.columns as u64;
        let packed = |shape: &Shape| shape.packed_bytes() as u64;
        let norm = u64::from(llama.hidden) * 4;
        let layer = shapes.iter().map(packed).sum::<u64>() + 2 * norm;
        let layers = u64::from(llama.layers);
        let text = self.text.vocabulary.to_bytes().len() + self.text.definition.to_bytes().len();
        Facts {
            provenance: self.provenance.clone(),
            weights: shapes.iter().map(weights).sum::<u64>() * layers + weights(&head) * heads,
            layers: llama.layers,
            hidden: llama.hidden,
            vocabulary: llama.vocabulary,
            context: llama.context,
            package_bytes: layer * layers + packed(&head) * heads + norm + text as u64,
            largest_blob_bytes: layer.max(packed(&head) + norm),
        }
    }

    /// Writes the package into `sink` and returns its manifest, which the sink did not see.
    ///
    /// # Errors
    /// The file holds numbers that cannot be imported, or the sink fails.
    pub fn import<S: Sink>(
        &self,
        sink: &mut S,
        progress: impl FnMut(Progress),
    ) -> Result<Manifest, ImportError<S::Error>> {
        let total = self.facts().weights;
        let mut writer = Writer { sink, blobs: Vec::new(), progress, done: 0, total };
        let vocabulary_blob = writer.put(self.text.vocabulary.to_bytes())?;
        let tokenizer_blob = writer.put(self.text.definition.to_bytes())?;
        let head = self.import_head(&mut writer)?;
        let layers = (0..self.llama.layers)
            .map(|layer| self.import_layer(&mut writer, layer))
            .collect::<Result<Vec<_>, _>>()?;
        let frequencies = self.llama.frequencies.clone();
        let manifest = Manifest {
            provenance: self.provenance.clone(),
            hidden: self.llama.hidden,
            vocabulary: self.llama.vocabulary,
            context: self.llama.context,
            blobs: writer.blobs,
            vocabulary_blob,
            tokenizer_blob,
            end_tokens: self.text.end_tokens.clone(),
            ropes: vec![RopeTable { frequencies }],
            head,
            layers,
        };
        manifest.check().map_err(ModelError::Manifest)?;
        Ok(manifest)
    }

    fn import_head<S: Sink, P: FnMut(Progress)>(
        &self,
        writer: &mut Writer<'_, S, P>,
    ) -> Result<HeadPlan, ImportError<S::Error>> {
        let tensors = self.llama.head(&self.gguf).map_err(ModelError::from)?;
        let mut blob = Vec::new();
        let embedding = writer.matrix(&mut blob, &[Part::plain(tensors.embedding)])?;
        let Some(output) = tensors.output else {
            let norm = self.norm(&mut blob, &tensors.norm);
            let blob = writer.put(blob)?;
            return Ok(head_plan((blob, embedding), (blob, norm, embedding)));
        };
        let embedding_blob = writer.put(blob)?;
        let mut blob = Vec::new();
        let norm = self.norm(&mut blob, &tensors.norm);
        let output = writer.matrix(&mut blob, &[Part::plain(output)])?;
        let blob = writer.put(blob)?;
        Ok(head_plan((embedding_blob, embedding), (blob, norm, output)))
    }

    fn import_layer<S: Sink, P: FnMut(Progress)>(
        &self,
        writer: &mut Writer<'_, S, P>,
        layer: u32,
    ) -> Result<LayerPlan, ImportError<S::Error>> {
        let llama = &self.llama;
        let tensors = llama.layer(&self.gguf, layer).map_err(ModelError::from)?;
        let head_dim = llama.head_dim as usize;
        let query = Part::interleaved(tensors.query, head_dim);
        let key = Part::interleaved(tensors.key, head_dim);
        let mut blob = Vec::new();
        let attention_norm = self.norm(&mut blob, &tensors.attention_norm);
        let qkv = writer.matrix(&mut blob, &[query, key, Part::plain(tensors.value)])?;
        let output = writer.matrix(&mut blob, &[Part::plain(tensors.output)])?;
        let ffn_norm = self.norm(&mut blob, &tensors.ffn_norm);
        let gate_up = [Part::plain(tensors.gate), Part::plain(tensors.up)];
        let gate_up = writer.matrix(&mut blob, &gate_up)?;
        let down = writer.matrix(&mut blob, &[Part::plain(tensors.down)])?;
        Ok(LayerPlan {
            blob: writer.put(blob)?,
            attention_norm,
            qkv,
            attention: attention(llama),
            output,
            ffn_norm,
            gate_up,
            activation: Activation::Silu,
            down,
            biases: BiasesPlan::default(),
            head_norms: None,
            post_norms: None,
        })
    }

    fn norm(&self, blob: &mut Vec<u8>, gains: &[f32]) -> NormPlan {
        let offset = start_section(blob);
        blob.extend(gains.iter().flat_map(|gain| gain.to_le_bytes()));
        NormPlan { eps: self.llama.eps, gain: VectorRef { offset, len: self.llama.hidden } }
    }
}

fn head_plan(embedding: (u32, MatrixRef), output: (u32, NormPlan, MatrixRef)) -> HeadPlan {
    let (embedding_blob, embedding) = embedding;
    let (blob, norm, output) = output;
    HeadPlan { embedding_blob, embedding, embedding_scale: 1.0, blob, norm, output }
}

fn attention(llama: &Llama) -> AttentionPlan {
    AttentionPlan {
        heads: llama.heads,
        kv_heads: llama.kv_heads,
        head_dim: llama.head_dim,
        rope: 0,
        window: 0,
        score_scale: num::LOG2_E / (llama.head_dim as f32).sqrt(),
    }
}

/// Shapes of a layer's matrices: qkv, output, gate and up, down.
fn layer_shapes(llama: &Llama) -> [Shape; 4] {
    let (hidden, inner) = (llama.hidden as usize, llama.inner as usize);
    let queries = llama.query_width();
    [
        Shape { rows: queries + 2 * llama.kv_width(), columns: hidden },
        Shape { rows: hidden, columns: queries },
        Shape { rows: 2 * inner, columns: hidden },
        Shape { rows: hidden, columns: inner },
    ]
}

/// Pads `blob` to where a section may start.
fn start_section(blob: &mut Vec<u8>) -> u64 {
    blob.resize(blob.len().next_multiple_of(SECTION), 0);
    blob.len() as u64
}

/// What the file says about itself, for the manifest.
fn provenance(gguf: &Gguf<'_>) -> Result<Provenance, ModelError> {
    let text = |keys: &[&'static str], absent: &str, limit: usize| {
        for key in keys {
            let Some(text) = gguf.optional_str(key)? else { continue };
            if text.len() > limit {
                return Err(ModelError::LongText { key, got: text.len(), limit });
            }
            return Ok(text.to_owned());
        }
        Ok(absent.to_owned())
    };
    let license = ["general.license", "general.license.name"];
    Ok(Provenance {
        name: text(&["general.name", "general.basename"], "unnamed", limits::NAME_BYTES)?,
        architecture: text(&["general.architecture"], "unknown", limits::NAME_BYTES)?,
        license: text(&license, "unknown", limits::LICENSE_BYTES)?,
        source_format: source_format(gguf).to_owned(),
    })
}

/// The coarsest type in which most matrix elements are stored; unquantised types are one.
fn source_format(gguf: &Gguf<'_>) -> &'static str {
    let mut elements: BTreeMap<&'static str, u64> = BTreeMap::new();
    for tensor in gguf.tensors() {
        let name = match tensor.ty() {
            TensorType::F32 | TensorType::F16 | TensorType::Bf16 => "unquantised",
            quantised => quantised.name(),
        };
        let len: u64 = tensor.dims().iter().product();
        *elements.entry(name).or_default() += len;
    }
    let most = elements.into_iter().max_by_key(|(_, len)| *len);
    most.map_or("unquantised", |(name, _)| name)
}

/// Rows of a source matrix, in the order the package has them.
#[derive(Debug, Clone, Copy)]
struct Part<'a> {
    matrix: Matrix<'a>,
    /// Size of a head whose rows are interleaved for rotation: 0, d/2, 1, d/2 + 1, ...
    interleaved: Option<usize>,
}

impl<'a> Part<'a> {
    fn plain(matrix: Matrix<'a>) -> Self {
        Self { matrix, interleaved: None }
    }

    /// Query and key rows as files store them; the package pairs row `i` of a head with `i + d/2`.
    fn interleaved(matrix: Matrix<'a>, head_dim: usize) -> Self {
        Self { matrix, interleaved: Some(head_dim) }
    }

    /// The source row that becomes row `row`.
    fn source_row(&self, row: usize) -> usize {
        let Some(head_dim) = self.interleaved else { return row };
        let (head, within) = (row / head_dim, row % head_dim);
        let pairs = head_dim / 2;
        head * head_dim + within % pairs * 2 + within / pairs
    }
}

/// Writes blobs in order and counts.
struct Writer<'s, S, P> {
    sink: &'s mut S,
    blobs: Vec<BlobRef>,
    progress: P,
    done: u64,
    total: u64,
}

impl<S: Sink, P: FnMut(Progress)> Writer<'_, S, P> {
    /// Hands a finished blob over and returns its index.
    fn put(&mut self, blob: Vec<u8>) -> Result<u32, ImportError<S::Error>> {
        let len = blob.len() as u64;
        let digest = self.sink.put_blob(blob).map_err(ImportError::Sink)?;
        self.blobs.push(BlobRef { digest, len });
        Ok(self.blobs.len() as u32 - 1)
    }

    /// Appends the rows of `parts`, one below the other, as one packed matrix.
    fn matrix(&mut self, blob: &mut Vec<u8>, parts: &[Part<'_>]) -> Result<MatrixRef, ModelError> {
        let offset = start_section(blob);
        let columns = parts.first().map_or(0, |part| part.matrix.cols());
        let mut numbers = vec![0.0; columns];
        let mut rows =
            parts.iter().flat_map(|part| (0..part.matrix.rows()).map(move |row| (part, row)));
        let mut count = 0;
        loop {
            let mut block = Vec::with_capacity(BLOCK_ROWS);
            for (part, row) in rows.by_ref().take(BLOCK_ROWS) {
                let source = part.source_row(row);
                part.matrix.read_row(source, &mut numbers)?;
                let tensor = || part.matrix.name().to_owned();
                let too_large = |_| ModelError::RowScale { tensor: tensor(), row: source };
                block.push(quantise::row(&numbers).map_err(too_large)?);
            }
            if block.is_empty() {
                break;
            }
            let shape = Shape { rows: block.len(), columns };
            count += shape.rows;
            blob.extend(matrix::pack(shape, block));
            self.advance(shape);
        }
        let digest = Digest::of(blob.get(offset as usize..).unwrap_or(&[]));
        Ok(MatrixRef { offset, rows: count as u32, columns: columns as u32, digest })
    }

    fn advance(&mut self, shape: Shape) {
        self.done += shape.rows as u64 * shape.columns as u64;
        (self.progress)(Progress { done: self.done, total: self.total });
    }
}

/// Why a model file cannot be imported.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ModelError {
    /// The file's form.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The model inside it.
    #[error(transparent)]
    Llama(#[from] LlamaError),
    /// A text for the manifest is too long.
    #[error("{key} has {got} bytes; the limit is {limit}")]
    LongText {
        /// The metadata key.
        key: &'static str,
        /// Its bytes.
        got: usize,
        /// The bound.
        limit: usize,
    },
    /// The parts do not make a model that the exact arithmetic takes.
    #[error(transparent)]
    Manifest(ManifestError),
    /// A row holds numbers so large that its scale would be out of range.
    #[error("tensor {tensor:?}: the numbers of row {row} are too large")]
    RowScale {
        /// The tensor's name.
        tensor: String,
        /// The row.
        row: usize,
    },
    /// Its tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// Why an import failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ImportError<E> {
    /// The model file.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The place where blobs go.
    #[error("could not keep a blob: {0}")]
    Sink(E),
}
