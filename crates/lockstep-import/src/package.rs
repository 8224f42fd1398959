//! Turns a model file into a package: content-addressed blobs, and the manifest that names them.
//!
//! [`ModelFile::open`] checks everything that can be checked without reading the weights;
//! [`ModelFile::import`] then writes one blob after another into a [`Sink`]; each is allocated
//! once, so memory stays near the size of the largest ([`Facts::memory_bytes`]). What is written is
//! a pure function of the file's bytes: the same file gives the same manifest on every machine.
//!
//! Blobs: the bytes of every token, the tokenizer, the embedding (with the final norm if it is the
//! output matrix too), the head (if it is not), then one per layer. Inside a blob sections start
//! at multiples of 64 and gaps are zero.

mod layer;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::mem;

use lockstep_exact::blob::{SECTION, start_section};
use lockstep_exact::bytes::Canonical;
use lockstep_exact::manifest::{BlobRef, Manifest, ManifestError, Provenance, RopeTable};
use lockstep_exact::matrix::{self, BLOCK_ROWS, Codec, QuantisedRow, Shape};
use lockstep_exact::norm::Norm;
use lockstep_exact::plan::{HeadPlan, MatrixRef, NormPlan, VectorRef};
use lockstep_exact::{Digest, limits};

use self::layer::LayerSizes;
use crate::families::{self, FamilyError, Model, ProductTensors, Rows, Tensors};
use crate::gguf::{Gguf, GgufError, TensorType};
use crate::oddity::{Oddity, Seen};
use crate::quantise;
use crate::safetensors::Translated;
use crate::tokenizer::{self, FromGguf, TokenizerError};

/// The version of the rules by which files become packages: another one where the same file may
/// become another package. It is part of what says that a file has been imported already.
pub const RULES: u32 = 1;

/// Takes the blobs of a package, one after another.
pub trait Sink {
    /// The error with which a blob can't be kept.
    type Error;

    /// Keeps a blob and returns the BLAKE3 digest of its bytes.
    ///
    /// # Errors
    /// The blob could not be kept.
    fn put_blob(&mut self, bytes: Vec<u8>) -> Result<Digest, Self::Error>;
}

/// A sink that keeps blobs in memory.
#[derive(Debug, Clone, Default)]
pub struct MemorySink {
    blobs: BTreeMap<Digest, Vec<u8>>,
}

impl MemorySink {
    /// Returns the blob with this digest, if it was put.
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

/// The progress of an import, counted in weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The number of weights that are done.
    pub done: u64,
    /// The number of weights of the model.
    pub total: u64,
}

/// The loss of quantising: how far the weights of a package's layers are from those of the file.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Loss {
    squares: f64,
    errors: f64,
}

impl Loss {
    /// Returns the root mean square of all errors, relative to that of the numbers.
    #[must_use]
    pub fn relative(&self) -> f64 {
        if self.squares > 0.0 { (self.errors / self.squares).sqrt() } else { 0.0 }
    }

    fn add(&mut self, codec: Codec, numbers: &[f32], row: &QuantisedRow) {
        for (column, &number) in numbers.iter().enumerate() {
            let number = f64::from(number);
            let off = number - f64::from(row.weight(codec, column)) * f64::from(row.scale);
            self.squares += number * number;
            self.errors += off * off;
        }
    }
}

/// The facts about a model that are known before its weights are read.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// Name, architecture, licence and source format, as the manifest will state them.
    pub provenance: Provenance,
    /// The number of weights in matrices.
    pub weights: u64,
    /// The number of layers of the model.
    pub layers: u32,
    /// The number of elements of a state.
    pub hidden: u32,
    /// The number of token ids of the model.
    pub vocabulary: u32,
    /// The most positions that a session may have.
    pub context: u32,
    /// Bytes that all blobs of the package take together.
    pub package_bytes: u64,
    /// Bytes of memory that importing takes beside the file: the largest blob, the rows that are
    /// being packed, and the texts.
    pub memory_bytes: u64,
}

/// A model file whose form, family and tokenizer have been checked.
#[derive(Debug)]
pub struct ModelFile<'a> {
    gguf: Gguf<'a>,
    model: Model,
    text: FromGguf,
    provenance: Provenance,
    layers: Vec<LayerSizes>,
    /// The codec of the layers' matrices, but for those that [`layer::codec_of`] keeps in 8 bits.
    codec: Codec,
    takes_odd_weights: bool,
}

impl<'a> ModelFile<'a> {
    /// Reads and checks a GGUF file, all but the numbers in it.
    ///
    /// # Errors
    /// The file is malformed, or holds something that cannot be imported.
    pub fn open(file: &'a [u8]) -> Result<Self, ModelError> {
        Self::of(Gguf::parse(file)?)
    }

    /// Reads and checks all files of a model that was split into several, given in any order.
    ///
    /// # Errors
    /// As [`open`](Self::open); or the files are not all parts of one model.
    pub fn open_shards(files: &[&'a [u8]]) -> Result<Self, ModelError> {
        Self::of(Gguf::parse_shards(files)?)
    }

    /// Checks a model that came as a folder of safetensors files.
    ///
    /// # Errors
    /// The model is one that cannot be imported.
    pub fn open_folder(folder: &'a Translated<'_>) -> Result<Self, ModelError> {
        Self::of(folder.gguf()?)
    }

    fn of(gguf: Gguf<'a>) -> Result<Self, ModelError> {
        families::check_kind(&gguf)?;
        if gguf.tensors().is_empty() {
            return Err(FamilyError::VocabularyOnly.into());
        }
        let text = tokenizer::read(&gguf)?;
        let tensors = Tensors::new(&gguf);
        let model = Model::read(&tensors, text.vocabulary.len())?;
        tensors.head(&model)?;
        let sizes = |layer| Ok(LayerSizes::of(&tensors.layer(&model, layer)?));
        let layers = (0..model.layers).map(sizes).collect::<Result<_, FamilyError>>()?;
        tensors.check_all_taken(&model)?;
        let provenance = provenance(&gguf)?;
        Ok(Self {
            gguf,
            model,
            text,
            provenance,
            layers,
            codec: Codec::W8,
            takes_odd_weights: false,
        })
    }

    /// Returns the same, to be imported with the matrices of its layers in this codec. Embedding
    /// and head, the products of queries, keys and values, routers and the gates of shared experts
    /// stay w8.
    #[must_use]
    pub fn with_weights(self, codec: Codec) -> Self {
        Self { codec, ..self }
    }

    /// Returns the same, to be imported also where matrices are as no training leaves them: zero,
    /// constant or of absurd size.
    #[must_use]
    pub fn with_odd_weights(self, takes_odd_weights: bool) -> Self {
        Self { takes_odd_weights, ..self }
    }

    /// Returns the file, and the description of the model in it.
    pub(crate) fn parts(&self) -> (&Gguf<'a>, &Model) {
        (&self.gguf, &self.model)
    }

    /// Returns what a user should know about the model's tokenizer, although it can be imported.
    pub fn warnings(&self) -> &[tokenizer::Warning] {
        &self.text.warnings
    }

    /// Returns the facts about the model that are known before its weights are read.
    pub fn facts(&self) -> Facts {
        let model = &self.model;
        let head = self.head_shape();
        let heads = if self.is_tied() { 1 } else { 2 };
        let shapes = || self.layers.iter().flat_map(|layer| layer.shapes(self.codec));
        let weights = |shape: &Shape| shape.rows as u64 * shape.columns as u64;
        let in_layers = shapes().map(|shape| weights(&shape)).sum::<u64>();
        let text = self.text.vocabulary.to_bytes().len() + self.text.definition.to_bytes().len();
        let [first, rest] = self.head_bytes();
        let layer_bytes = || self.layers.iter().map(|layer| layer.blob_bytes(self.codec));
        let layers = layer_bytes().sum::<usize>();
        let largest = layer_bytes().fold(first.max(rest), usize::max);
        let packing = shapes().chain([head]).map(|shape| packing_bytes(&shape)).max().unwrap_or(0);
        Facts {
            provenance: self.provenance.clone(),
            weights: in_layers + weights(&head) * heads,
            layers: model.layers,
            hidden: model.hidden,
            vocabulary: model.vocabulary,
            context: model.context,
            package_bytes: (layers + first + rest + text) as u64,
            memory_bytes: (largest + packing + text) as u64,
        }
    }

    fn is_tied(&self) -> bool {
        self.gguf.tensor(families::OUTPUT).is_none()
    }

    fn head_shape(&self) -> Shape {
        Codec::W8.shape(self.model.vocabulary as usize, self.model.hidden as usize)
    }

    /// Returns the number of bytes of the embedding's blob and of the head's; the latter is 0 if
    /// they are one.
    fn head_bytes(&self) -> [usize; 2] {
        let (packed, norm) = (self.head_shape().packed_bytes(), self.model.hidden as usize * 4);
        if self.is_tied() { [packed + norm, 0] } else { [packed, section(norm) + packed] }
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
        self.import_measured(sink, progress).map(|(manifest, _)| manifest)
    }

    /// Imports the model as [`import`](Self::import) does, and returns the loss of quantising its
    /// layers too.
    ///
    /// # Errors
    /// As [`import`](Self::import).
    pub fn import_measured<S: Sink>(
        &self,
        sink: &mut S,
        progress: impl FnMut(Progress),
    ) -> Result<(Manifest, Loss), ImportError<S::Error>> {
        let (total, loss) = (self.facts().weights, Loss::default());
        let takes_odd_weights = self.takes_odd_weights;
        let blobs = Vec::new();
        let mut writer = Writer { sink, blobs, progress, done: 0, total, loss, takes_odd_weights };
        let vocabulary_blob = writer.put(self.text.vocabulary.to_bytes())?;
        let tokenizer_blob = writer.put(self.text.definition.to_bytes())?;
        let head = self.import_head(&mut writer)?;
        // The head is stored in one way only; what counts is what a choice costs.
        writer.loss = Loss::default();
        let layers = (0..self.model.layers)
            .map(|layer| self.import_layer(&mut writer, layer))
            .collect::<Result<Vec<_>, _>>()?;
        let ropes = self.model.positions.ropes.iter().cloned();
        let manifest = Manifest {
            provenance: self.provenance.clone(),
            hidden: self.model.hidden,
            vocabulary: self.model.vocabulary,
            context: self.model.context,
            blobs: writer.blobs,
            vocabulary_blob,
            tokenizer_blob,
            end_tokens: self.text.end_tokens.clone(),
            ropes: ropes.map(|frequencies| RopeTable { frequencies }).collect(),
            head,
            layers,
        };
        manifest.check().map_err(ModelError::Manifest)?;
        Ok((manifest, writer.loss))
    }

    fn import_head<S: Sink, P: FnMut(Progress)>(
        &self,
        writer: &mut Writer<'_, S, P>,
    ) -> Result<HeadPlan, ImportError<S::Error>> {
        let tensors = Tensors::new(&self.gguf).head(&self.model).map_err(ModelError::from)?;
        let [first, rest] = self.head_bytes();
        let mut blob = Vec::with_capacity(first);
        let embedding = writer.whole(&mut blob, tensors.embedding)?;
        let embedding_scale = self.model.embedding_scale;
        let Some(output) = tensors.output else {
            let norm = norm(&mut blob, &tensors.norm);
            let blob = writer.put(blob)?;
            let (embedding_blob, output) = (blob, embedding);
            return Ok(HeadPlan { embedding_blob, embedding, embedding_scale, blob, norm, output });
        };
        let embedding_blob = writer.put(blob)?;
        let mut blob = Vec::with_capacity(rest);
        let norm = norm(&mut blob, &tensors.norm);
        let output = writer.whole(&mut blob, output)?;
        let blob = writer.put(blob)?;
        Ok(HeadPlan { embedding_blob, embedding, embedding_scale, blob, norm, output })
    }
}

/// Appends the vectors of a normalisation to the blob.
fn norm(blob: &mut Vec<u8>, norm: &Norm) -> NormPlan {
    let Ok(plan) = norm.try_map(|numbers| Ok::<_, Infallible>(vector(blob, numbers)));
    plan
}

/// Appends a section of f32 numbers to the blob.
fn vector(blob: &mut Vec<u8>, values: &[f32]) -> VectorRef {
    let offset = start_section(blob);
    blob.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    VectorRef { offset, len: values.len() as u32 }
}

/// Returns the number of bytes of a section with the gap to the next one.
const fn section(bytes: usize) -> usize {
    bytes.next_multiple_of(SECTION)
}

/// Returns the number of bytes that [`Writer::matrix`] takes beside the blob: a row of numbers, and
/// a block of rows before and after it is packed.
fn packing_bytes(shape: &Shape) -> usize {
    let row = shape.columns + shape.groups();
    4 * shape.columns + BLOCK_ROWS * row + shape.block_bytes()
}

/// Reads what the file says about itself, for the manifest.
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
        figures: Vec::new(),
    })
}

/// Returns the coarsest type in which most matrix elements are stored; unquantised types are one.
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

/// Writes blobs in order and counts.
struct Writer<'s, S, P> {
    sink: &'s mut S,
    blobs: Vec<BlobRef>,
    progress: P,
    done: u64,
    total: u64,
    loss: Loss,
    takes_odd_weights: bool,
}

impl<S: Sink, P: FnMut(Progress)> Writer<'_, S, P> {
    /// Hands a finished blob over and returns its index.
    fn put(&mut self, blob: Vec<u8>) -> Result<u32, ImportError<S::Error>> {
        let len = blob.len() as u64;
        let digest = self.sink.put_blob(blob).map_err(ImportError::Sink)?;
        self.blobs.push(BlobRef { digest, len });
        Ok(self.blobs.len() as u32 - 1)
    }

    /// Appends the rows of `parts`, one below the other, as one packed matrix; row `n` of them all
    /// is multiplied by `factor(n)`.
    fn matrix(
        &mut self,
        blob: &mut Vec<u8>,
        codec: Codec,
        parts: &ProductTensors<'_>,
        factor: impl Fn(usize) -> f32,
    ) -> Result<MatrixRef, ModelError> {
        let offset = start_section(blob);
        let [_, columns] = parts.size();
        let mut numbers = vec![0.0; columns];
        let mut rows = parts.each_row().enumerate();
        let (mut count, mut seen) = (0, Seen::default());
        loop {
            let mut block = Vec::with_capacity(BLOCK_ROWS);
            for (at, (part, row)) in rows.by_ref().take(BLOCK_ROWS) {
                part.read(row, &mut numbers)?;
                seen.row(&numbers);
                numbers.iter_mut().for_each(|number| *number *= factor(at));
                if row + 1 == part.count {
                    self.check(part, &mem::take(&mut seen))?;
                }
                let tensor = || part.matrix.name().to_owned();
                let row = part.source_row(row);
                let too_large = |_| ModelError::RowScale { tensor: tensor(), row };
                let quantised = quantise::row(codec, &numbers).map_err(too_large)?;
                self.loss.add(codec, &numbers, &quantised);
                block.push(quantised);
            }
            if block.is_empty() {
                break;
            }
            let shape = codec.shape(block.len(), columns);
            count += shape.rows;
            blob.extend(matrix::pack(shape, block));
            self.advance(shape);
        }
        let digest = Digest::of(blob.get(offset as usize..).unwrap_or(&[]));
        let (rows, columns) = (count as u32, columns as u32);
        Ok(MatrixRef { offset, rows, columns, codec, digest })
    }

    /// Appends all rows of a matrix to the blob as they are, in 8 bits.
    fn whole(&mut self, blob: &mut Vec<u8>, rows: Rows<'_>) -> Result<MatrixRef, ModelError> {
        self.matrix(blob, Codec::W8, &ProductTensors::of(vec![rows]), |_| 1.0)
    }

    /// Refuses weights that are odd, unless they are welcome.
    fn check(&self, part: &Rows<'_>, seen: &Seen) -> Result<(), ModelError> {
        match seen.oddity().filter(|_| !self.takes_odd_weights) {
            None => Ok(()),
            Some(oddity) => {
                let tensor = part.matrix.name().to_owned();
                Err(ModelError::Odd { tensor, oddity })
            }
        }
    }

    fn advance(&mut self, shape: Shape) {
        self.done += shape.rows as u64 * shape.columns as u64;
        (self.progress)(Progress { done: self.done, total: self.total });
    }
}

/// Why a model file cannot be imported.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ModelError {
    /// The form of the file is not that of GGUF.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The model in the file can't be imported.
    #[error(transparent)]
    Family(#[from] FamilyError),
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
    /// A matrix as no training leaves it.
    #[error(
        "tensor {tensor:?}: {oddity}, as no training leaves it; the file is damaged or was \
         converted wrongly: get it again, or import it as it is with --odd-weights"
    )]
    Odd {
        /// The tensor's name.
        tensor: String,
        /// What is odd about it.
        oddity: Oddity,
    },
    /// A row holds numbers so large that its scale would be out of range.
    #[error("tensor {tensor:?}: the numbers of row {row} are too large")]
    RowScale {
        /// The tensor's name.
        tensor: String,
        /// The row.
        row: usize,
    },
    /// The tokenizer of the model can't be imported.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// The reasons why an import failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ImportError<E> {
    /// The model file can't be imported.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The sink could not keep a blob.
    #[error("could not keep a blob: {0}")]
    Sink(E),
}
