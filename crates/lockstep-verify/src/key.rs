//! A verifier's key: what checks a matrix product without the matrix (Freivalds, 1977).
//!
//! For every matrix W the key has a secret random vector r and v = Wᵀr modulo p = 2^61 - 1. A
//! claimed y = W·x is right if r·y = v·x; a wrong one passes with probability 1/p. The key also
//! holds what the exact re-computation needs and the products do not cover: row scales, norm gains,
//! the plan, the digest of every token's embedding, the bytes of every token. The weights can be
//! deleted.
//!
//! # Soundness
//! r and v are secrets of whoever verifies: r is derived from `secret` and the matrix' digest, v
//! from r and the weights. They are nowhere but in the key and its file, which must stay secret: a
//! fault names stage, cell and matrix, never r·y, v·x or their difference. A key made by somebody
//! else is as good as that somebody.

use core::convert::Infallible;
use core::fmt;

use lockstep_exact::Digest;
use lockstep_exact::blob::Blob;
use lockstep_exact::bytes::{Canonical, DecodeError, Reader, put_bytes, put_list};
use lockstep_exact::field;
use lockstep_exact::limits as exact_limits;
use lockstep_exact::manifest::{Manifest, ManifestError};
use lockstep_exact::matrix::{Codec, Packed, Shape};
use lockstep_exact::norm::Norm;
use lockstep_exact::ops::FieldDots;
use lockstep_exact::plan::{LayerPlan, MatrixRef, ProductPlan, VectorRef};
use lockstep_exact::tree::LayerTree;
use lockstep_exact::vocabulary::Vocabulary;
use lockstep_exact::weights::{LayerWeights, LoadError, Source};
use zeroize::Zeroizing;

use crate::device::AuditDevice;
use crate::secret::Secret;

const MAGIC: [u8; 8] = *b"LOCKSKEY";
const VERSION: u16 = 0;
/// Embeddings that are computed at once.
const EMBEDDINGS: usize = 256;

/// The key of one matrix product, which checks claimed products.
#[derive(Clone)]
pub struct ProductKey {
    shape: Shape,
    scales: Vec<f32>,
    bias: Option<Vec<f32>>,
    r: Zeroizing<Vec<u64>>,
    v: Zeroizing<Vec<u64>>,
}

impl ProductKey {
    /// Returns the shape of the product's matrix: a row for each output, a column for each input.
    #[must_use]
    pub const fn shape(&self) -> Shape {
        self.shape
    }

    /// Returns the f32 scales, one for each output.
    #[must_use]
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// Returns the bias that is added to the outputs, if there is one.
    #[must_use]
    pub fn bias(&self) -> Option<&[f32]> {
        self.bias.as_deref()
    }

    /// Returns the first row of `sums` that is not the product with the same row of `inputs`; row 0
    /// if these are not equally many whole rows. A wrong row passes with probability 1/p.
    ///
    /// Each row is checked for itself; they share one pass over the key.
    ///
    /// # Soundness
    /// Sums must have been checked against [`Shape::sum_bound`]: otherwise a sum shifted by p
    /// passes.
    #[must_use]
    pub fn first_wrong<D: FieldDots>(
        &self,
        device: &D,
        inputs: &[i16],
        sums: &[i64],
    ) -> Option<usize> {
        let (inputs_each, sums_each) = (self.v.len().max(1), self.r.len().max(1));
        let rows = sums.chunks_exact(sums_each).len();
        let whole = sums.len() == rows.saturating_mul(sums_each)
            && inputs.len() == rows.saturating_mul(inputs_each);
        if !whole {
            return Some(0);
        }
        // Enough of these would give v away.
        let mut left = Zeroizing::new(vec![0; rows]);
        let mut right = Zeroizing::new(vec![0; rows]);
        device.field_dots_i64(&self.r, sums, &mut left);
        device.field_dots_i16(&self.v, inputs, &mut right);
        left.iter().zip(right.iter()).position(|(left, right)| left != right)
    }
}

impl ProductKey {
    /// Creates the key of `left · rightᵀ`, with random r, for measuring.
    pub(crate) fn of_outer(secret: &[u8; 32], left: &[i64], right: &[i64]) -> Self {
        let shape = Codec::W8.shape(left.len(), right.len());
        let r = residues(secret, &Digest::of(b"outer product"), shape.rows);
        let dot = field::dot_i64(&r, left);
        let element = |&element| field::mul(dot, field::from_i64(element));
        let v = Zeroizing::new(right.iter().map(element).collect());
        Self { shape, scales: vec![1.0; shape.rows], bias: None, r, v }
    }
}

impl fmt::Debug for ProductKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProductKey({})", self.shape)
    }
}

/// The key of one layer: a key for each product, and the vectors as they are.
pub type LayerKey = LayerTree<ProductKey, Vec<f32>>;

/// The key of the final norm and the LM head.
#[derive(Clone, Debug)]
pub struct HeadKey {
    /// Normalisation before the output product.
    pub norm: Norm,
    /// The key of the product that gives the logits.
    pub output: ProductKey,
}

/// A verifier's key for one model.
#[derive(Clone)]
pub struct Key {
    manifest: Manifest,
    id: Digest,
    secret: Secret,
    layers: Vec<LayerKey>,
    head: HeadKey,
    embeddings: Vec<Digest>,
    vocabulary: Vocabulary,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key(model {}, {} layers)", self.id.short(), self.layers.len())
    }
}

/// Why a key could not be made or read.
#[derive(Clone, Debug, PartialEq)]
pub enum KeyError {
    /// A key file that is damaged: its checksum is wrong.
    Checksum,
    /// A key file, or the vocabulary of a model, that does not decode.
    Decode(DecodeError),
    /// The weights are not those of the manifest.
    Load(LoadError),
    /// The manifest in a key file is not one.
    Manifest(ManifestError),
    /// Parts of a key file that do not fit its manifest.
    Shape(&'static str),
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Checksum => f.write_str("key file is damaged (wrong checksum): make a new key"),
            Self::Decode(error) => write!(f, "key file: {error}"),
            Self::Load(error) => write!(f, "weights: {error}"),
            Self::Manifest(error) => write!(f, "key file: {error}"),
            Self::Shape(part) => write!(f, "key file: {part} does not fit the manifest"),
        }
    }
}

impl core::error::Error for KeyError {}

impl From<DecodeError> for KeyError {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}

impl From<LoadError> for KeyError {
    fn from(error: LoadError) -> Self {
        Self::Load(error)
    }
}

/// Derives the key of one layer; `None` if the weights are not of their plan.
///
/// # Soundness
/// As [`Key::generate`]; the caller has checked that the weights are the right ones.
#[must_use]
pub fn layer_key_of<D: FieldDots>(
    device: &D,
    secret: &[u8; 32],
    weights: &LayerWeights<Packed>,
) -> Option<LayerKey> {
    let parts = weights.plan.parts.zip(&weights.parts)?;
    Some(parts.map(
        |_, (plan, product)| {
            product_key(device, secret, &plan.matrix, &product.matrix, product.bias.clone())
        },
        |_, (_, vector)| vector.to_vec(),
    ))
}

impl Key {
    /// Makes a key in one pass over a model's weights, checking every blob against the manifest.
    /// `device` multiplies and computes the embeddings' states; `blob` gives the bytes of a blob by
    /// its index; `progress` hears how many layers are done.
    ///
    /// # Soundness
    /// `secret` must be fresh randomness that nobody else ever sees.
    ///
    /// # Errors
    /// [`KeyError::Load`] when a blob is not the manifest's or does not hold what the plans say,
    /// [`KeyError::Decode`] when the vocabulary's blob is no vocabulary.
    pub fn generate<D: AuditDevice>(
        device: &D,
        manifest: Manifest,
        secret: Secret,
        mut blob: impl FnMut(u32) -> Blob,
        mut progress: impl FnMut(u32),
    ) -> Result<Self, KeyError> {
        let mut checked = |index: u32| checked_blob(&manifest, index, blob(index));
        let mut layers = Vec::with_capacity(manifest.layers.len());
        for (index, plan) in (0_u32..).zip(&manifest.layers) {
            let source = Source { blob: checked(plan.blob)?, name: format!("layer {index}") };
            layers.push(layer_key(device, secret.expose(), &source, plan)?);
            progress(index.saturating_add(1));
        }
        let head = &manifest.head;
        let source = Source { blob: checked(head.blob)?, name: "head".to_owned() };
        let output = source.packed("output", &head.output)?;
        let head_key = HeadKey {
            norm: source.norm("final norm", &head.norm)?,
            output: product_key(device, secret.expose(), &head.output, &output, None),
        };
        let source = match head.embedding_blob == head.blob {
            true => source,
            false => Source { blob: checked(head.embedding_blob)?, name: "head".to_owned() },
        };
        let table = match head.embedding == head.output {
            true => output,
            false => source.packed("embedding", &head.embedding)?,
        };
        let embeddings =
            embedding_digests(device, &table, head.embedding_scale, manifest.vocabulary);
        let vocabulary = Vocabulary::from_bytes(checked(manifest.vocabulary_blob)?.as_slice())?;
        let id = manifest.id();
        Ok(Self { manifest, id, secret, layers, head: head_key, embeddings, vocabulary })
    }

    /// Returns the manifest of the model.
    #[must_use]
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Returns the id of the model.
    #[must_use]
    pub const fn id(&self) -> Digest {
        self.id
    }

    /// Returns the key of a layer, by its index in the model; `None` beyond the last.
    #[must_use]
    pub fn layer(&self, layer: u32) -> Option<&LayerKey> {
        self.layers.get(layer as usize)
    }

    /// Returns the key of the final norm and the LM head.
    #[must_use]
    pub const fn head(&self) -> &HeadKey {
        &self.head
    }

    /// Returns the BLAKE3 digest of a token's embedding row; `None` for an id that the vocabulary
    /// does not have.
    #[must_use]
    pub fn embedding(&self, token: u32) -> Option<Digest> {
        self.embeddings.get(token as usize).copied()
    }

    /// Returns the bytes of every token.
    #[must_use]
    pub const fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// Returns the bytes of the key file: a secret, which is wiped when it is dropped.
    #[must_use]
    pub fn to_file(&self) -> Zeroizing<Vec<u8>> {
        let manifest = self.manifest.to_bytes();
        let mut rest = Vec::new();
        put_list(&mut rest, &self.embeddings);
        self.vocabulary.encode(&mut rest);
        // What grows leaves copies of what it held, so the length comes first.
        let len = self.file_len(&manifest, &rest);
        let mut file = Zeroizing::new(Vec::with_capacity(len));
        let out: &mut Vec<u8> = &mut file;
        MAGIC.encode(out);
        VERSION.encode(out);
        put_bytes(out, &manifest);
        self.secret.expose().encode(out);
        for layer in &self.layers {
            let Ok(_) = layer.try_map(
                out,
                |out, _, product| {
                    put_product(out, product);
                    Ok::<(), Infallible>(())
                },
                |out, _, vector| {
                    put_list(out, vector);
                    Ok(())
                },
            );
        }
        put_list(out, &self.head.norm.gain);
        put_product(out, &self.head.output);
        out.extend_from_slice(&rest);
        let checksum = Digest::derive("lockstep 2026 key file", &[out.as_slice()]);
        checksum.encode(out);
        file
    }

    /// Returns the length in bytes of the key file that holds `manifest`, the key's products and
    /// vectors, and `rest`.
    fn file_len(&self, manifest: &[u8], rest: &[u8]) -> usize {
        let count = size_of::<u32>();
        let vector = |vector: &[f32]| count.saturating_add(size_of_val(vector));
        let layer = |layer: &LayerKey| {
            let vectors = layer.vectors().into_iter().map(|(_, of)| vector(of));
            let products = layer.products().into_iter().map(|(_, of)| of.file_len());
            vectors.chain(products).fold(0, usize::saturating_add)
        };
        let parts = [
            size_of_val(&MAGIC),
            size_of_val(&VERSION),
            count.saturating_add(manifest.len()),
            size_of_val(self.secret.expose()),
            vector(&self.head.norm.gain),
            self.head.output.file_len(),
            rest.len(),
            size_of::<Digest>(),
        ];
        parts.into_iter().chain(self.layers.iter().map(layer)).fold(0, usize::saturating_add)
    }

    /// Reads a key from the bytes of its file.
    ///
    /// # Errors
    /// [`KeyError`] says what is wrong with it.
    pub fn from_file(bytes: &[u8]) -> Result<Self, KeyError> {
        let mut input = Reader::new(bytes);
        if input.array::<8>("key file")? != MAGIC {
            return Err(input.invalid("key file", "does not start with LOCKSKEY").into());
        }
        if u16::decode(&mut input)? != VERSION {
            return Err(input.invalid("key file", "this build reads version 0 only").into());
        }
        let (body, checksum) = bytes.split_last_chunk::<32>().ok_or(KeyError::Checksum)?;
        if Digest::derive("lockstep 2026 key file", &[body]).0 != *checksum {
            return Err(KeyError::Checksum);
        }
        let manifest =
            Manifest::parse(input.bytes("manifest", bytes.len())?).map_err(KeyError::Manifest)?;
        let secret = Secret::of(&Zeroizing::new(input.array("secret")?));
        let mut reader = KeyReader { input, secret: &secret };
        let plans = manifest.layers.iter();
        let layers = plans.map(|plan| reader.layer(plan)).collect::<Result<Vec<_>, _>>()?;
        let head = HeadKey {
            norm: manifest.head.norm.try_map(|vector| reader.vector(vector))?,
            output: reader.product(&manifest.head.output, None)?,
        };
        let mut input = reader.input;
        let embeddings: Vec<Digest> =
            input.list("embedding digests", exact_limits::VOCABULARY, 32)?;
        let vocabulary = Vocabulary::decode(&mut input)?;
        let _checksum: [u8; 32] = input.array("checksum")?;
        input.finish()?;
        if u32::try_from(embeddings.len()) != Ok(manifest.vocabulary) {
            return Err(KeyError::Shape("the table of embeddings"));
        }
        let id = manifest.id();
        Ok(Self { manifest, id, secret, layers, head, embeddings, vocabulary })
    }
}

/// Reads the parts of a key file that depend on its manifest.
struct KeyReader<'a> {
    input: Reader<'a>,
    secret: &'a Secret,
}

impl KeyReader<'_> {
    fn layer(&mut self, plan: &LayerPlan) -> Result<LayerKey, KeyError> {
        plan.parts.try_map(
            self,
            |reader, _, product| reader.product(&product.matrix, product.bias),
            |reader, _, vector| reader.vector(vector),
        )
    }

    fn vector(&mut self, plan: &VectorRef) -> Result<Vec<f32>, KeyError> {
        let gain: Vec<f32> = self.input.list("norm gains", exact_limits::HIDDEN, 4)?;
        if u32::try_from(gain.len()) == Ok(plan.len) {
            Ok(gain)
        } else {
            Err(KeyError::Shape("a norm"))
        }
    }

    fn product(
        &mut self,
        matrix: &MatrixRef,
        bias: Option<VectorRef>,
    ) -> Result<ProductKey, KeyError> {
        let shape = matrix.shape();
        let scales: Vec<f32> = self.input.list("row scales", shape.rows, 4)?;
        let bias = bias.map(|_| self.input.list("bias", shape.rows, 4)).transpose()?;
        let len = self.input.count("check vector", shape.columns, 8)?;
        let mut v = Zeroizing::new(Vec::with_capacity(len));
        for _ in 0..len {
            v.push(u64::decode(&mut self.input)?);
        }
        let canonical = v.iter().all(|&residue| residue < field::P);
        let whole = bias.as_ref().is_none_or(|bias: &Vec<f32>| bias.len() == shape.rows);
        if scales.len() != shape.rows || !whole || v.len() != shape.columns || !canonical {
            return Err(KeyError::Shape("a product"));
        }
        Ok(ProductKey { shape, scales, bias, r: secret_vector(self.secret.expose(), matrix), v })
    }
}

fn put_product(out: &mut Vec<u8>, product: &ProductKey) {
    put_list(out, &product.scales);
    product.bias.iter().for_each(|bias| put_list(out, bias));
    put_list(out, &product.v);
}

impl ProductKey {
    /// Returns the number of bytes that [`put_product`] writes.
    fn file_len(&self) -> usize {
        let list = |bytes: usize| bytes.saturating_add(size_of::<u32>());
        let bias = self.bias.as_deref().map_or(0, |bias| list(size_of_val(bias)));
        let scales = list(size_of_val(self.scales.as_slice()));
        bias.saturating_add(scales).saturating_add(list(size_of_val(self.v.as_slice())))
    }
}

fn checked_blob(manifest: &Manifest, index: u32, blob: Blob) -> Result<Blob, LoadError> {
    let expected = manifest.blobs.get(index as usize).map(|blob| blob.digest);
    let expected = expected.ok_or(LoadError::Blob { blob: index })?;
    let got = Digest::of(blob.as_slice());
    if got == expected { Ok(blob) } else { Err(LoadError::Digest { blob: index, expected, got }) }
}

fn layer_key<D: FieldDots>(
    device: &D,
    secret: &[u8; 32],
    source: &Source,
    plan: &LayerPlan,
) -> Result<LayerKey, LoadError> {
    plan.parts.try_map(
        &mut (),
        |(), name, ProductPlan { matrix, bias }| {
            let part = name.to_string();
            let bias = source.bias(&part, *bias)?;
            let packed = source.packed(&part, matrix)?;
            Ok(product_key(device, secret, matrix, &packed, bias))
        },
        |(), name, vector| source.vector(&name.to_string(), vector),
    )
}

/// Derives r, and v in one pass over the packed codes.
fn product_key<D: FieldDots>(
    device: &D,
    secret: &[u8; 32],
    matrix: &MatrixRef,
    packed: &Packed,
    bias: Option<Vec<f32>>,
) -> ProductKey {
    let r = secret_vector(secret, matrix);
    let v = Zeroizing::new(device.field_transposed(packed, &r));
    ProductKey { shape: packed.shape(), scales: packed.row_scales(), bias, r, v }
}

/// Derives the vector r of a matrix from the secret.
fn secret_vector(secret: &[u8; 32], matrix: &MatrixRef) -> Zeroizing<Vec<u64>> {
    residues(secret, &matrix.digest, matrix.shape().rows)
}

/// Residues from BLAKE3's output stream, keyed by the secret and a matrix' digest; 61 bits each,
/// rejected if they are p.
fn residues(secret: &[u8; 32], digest: &Digest, count: usize) -> Zeroizing<Vec<u64>> {
    let mut hasher = blake3::Hasher::new_derive_key("lockstep 2026 key vector");
    hasher.update(secret);
    hasher.update(&digest.0);
    let mut stream = hasher.finalize_xof();
    let mut residues = Zeroizing::new(Vec::with_capacity(count));
    let mut buffer = Zeroizing::new([0; 4096]);
    while residues.len() < count {
        stream.fill(buffer.as_mut_slice());
        let words = buffer.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes));
        let drawn = words.map(|word| word >> 3).filter(|&residue| residue < field::P);
        // No more than there is room for: what grows leaves a copy.
        let missing = count.saturating_sub(residues.len());
        residues.extend(drawn.take(missing));
    }
    residues
}

fn embedding_digests<D: AuditDevice>(
    device: &D,
    table: &Packed,
    scale: f32,
    vocabulary: u32,
) -> Vec<Digest> {
    let mut state = D::State::default();
    let (mut bytes, mut digests) = (Vec::new(), Vec::new());
    let tokens: Vec<u32> = (0..vocabulary).collect();
    for tokens in tokens.chunks(EMBEDDINGS) {
        device.embed(table, scale, tokens, &mut state);
        let Ok(state) = device.read_state(&state);
        for row in 0..state.rows() {
            bytes.clear();
            state.write_row(row, &mut bytes);
            digests.push(Digest::of(&bytes));
        }
    }
    digests
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_exact::bytes::DecodeReason;
    use lockstep_exact::ops::Products;
    use lockstep_exact::reference::{Codes, Reference, Sums};
    use lockstep_exact::weights::Backend as _;
    use lockstep_testing::tiny_model::TinyModel;

    fn key(model: &TinyModel) -> Key {
        let secret = Secret::of(&[7; 32]);
        Key::generate(&Reference, model.manifest.clone(), secret, |b| model.blob(b), |_| ())
            .unwrap()
    }

    fn down_plan(plan: &LayerPlan) -> MatrixRef {
        plan.parts.feed_forward.dense().unwrap().down.matrix
    }

    fn down_of(key: &Key, layer: u32) -> &ProductKey {
        &key.layer(layer).unwrap().feed_forward.dense().unwrap().down
    }

    #[test]
    fn a_product_is_accepted_and_one_that_differs_anywhere_is_not() {
        let model = TinyModel::new(3);
        let key = key(&model);
        let plan = &model.manifest.layers[2];
        let source = Source { blob: model.blob(plan.blob), name: "layer".to_owned() };
        let matrix = Reference.prepare(source.packed("down", &down_plan(plan)).unwrap()).unwrap();
        let code = |i: i32| i16::try_from(i * 225 - 32_512).unwrap();
        let codes: Vec<i16> = (0..3 * 96).map(code).collect();
        let input = Codes { width: 96, codes: codes.clone(), scales: vec![1.0; 3] };
        let mut sums = Sums::default();
        Reference.matmul(&matrix, &input, &mut sums).unwrap();
        let down = down_of(&key, 2);
        assert_eq!(down.first_wrong(&Reference, &codes, &sums.data), None);
        for index in 0..sums.data.len() {
            let mut wrong = sums.data.clone();
            wrong[index] += 1;
            let row = Some(index / down.shape().rows);
            assert_eq!(down.first_wrong(&Reference, &codes, &wrong), row, "sum {index}");
        }
        let other = down_of(&key, 3);
        assert_eq!(other.first_wrong(&Reference, &codes, &sums.data), Some(0));
        assert_eq!(down.first_wrong(&Reference, &codes, &sums.data[1..]), Some(0));
        assert_eq!(down.first_wrong(&Reference, &codes[1..], &sums.data), Some(0));
        assert_eq!(down.first_wrong(&Reference, &codes[96..], &sums.data), Some(0));
        // Nor does anything follow the last whole row.
        let longer = [&sums.data[..], &[0]].concat();
        assert_eq!(down.first_wrong(&Reference, &codes, &longer), Some(0));
        let longer = [&codes[..], &[0]].concat();
        assert_eq!(down.first_wrong(&Reference, &longer, &sums.data), Some(0));
    }

    #[test]
    fn a_key_file_reads_back_and_damage_is_noticed() {
        let model = TinyModel::new(3);
        let key = key(&model);
        let file = key.to_file();
        assert_eq!(file.capacity(), file.len(), "it grew, and left copies of its secrets");
        let again = Key::from_file(&file).unwrap();
        assert_eq!(again.to_file(), file);
        assert_eq!(again.id(), model.manifest.id());
        for at in (0..file.len()).step_by(97) {
            let mut bad = file.clone();
            bad[at] ^= 4;
            assert!(Key::from_file(&bad).is_err(), "byte {at}");
        }
        assert!(Key::from_file(&file[..100]).is_err());
    }

    /// What reading a file says whose checksum is right.
    fn read_body(body: &[u8]) -> KeyError {
        let checksum = Digest::derive("lockstep 2026 key file", &[body]);
        Key::from_file(&[body, &checksum.0].concat()).unwrap_err()
    }

    #[test]
    fn a_file_of_another_kind_or_version_or_length_is_no_key_whatever_its_checksum() {
        let file = key(&TinyModel::new(3)).to_file();
        let body = &file[..file.len() - 32];
        for at in [0, 7, 8, 9] {
            let mut other = body.to_vec();
            other[at] ^= 1;
            assert!(matches!(read_body(&other), KeyError::Decode(_)), "byte {at}");
        }
        let longer = [body, &[0]].concat();
        assert!(matches!(read_body(&longer), KeyError::Decode(_)));
    }

    #[test]
    fn a_file_whose_parts_do_not_fit_its_manifest_is_no_key() {
        let features = lockstep_testing::tiny_model::Features::ALL;
        let sizes = lockstep_testing::tiny_model::Sizes::default();
        let model = TinyModel::with_features(3, sizes, features);
        type Change = fn(&mut Key);
        let changes: [(&str, Change); 7] = [
            ("a norm", |k| k.layers[0].attention_norm.gain.truncate(3)),
            ("a product", |k| k.layers[1].qkv.scales.truncate(3)),
            ("a product", |k| k.layers[1].qkv.bias.as_mut().unwrap().truncate(3)),
            ("a product", |k| k.layers[1].qkv.v.truncate(3)),
            // p is 0 modulo p: the second encoding of one residue.
            ("a product", |k| k.layers[1].qkv.v[0] = field::P),
            ("the table of embeddings", |k| k.embeddings.truncate(3)),
            ("the table of embeddings", |k| k.embeddings.push(Digest::ZERO)),
        ];
        for (part, change) in changes {
            let mut key = key(&model);
            change(&mut key);
            assert_eq!(Key::from_file(&key.to_file()).unwrap_err(), KeyError::Shape(part));
        }
    }

    #[test]
    fn a_file_with_longer_parts_than_its_manifest_or_any_has_is_no_key() {
        let features = lockstep_testing::tiny_model::Features::ALL;
        let sizes = lockstep_testing::tiny_model::Sizes::default();
        let model = TinyModel::with_features(3, sizes, features);
        type Change = fn(&mut Key);
        let changes: [(&str, Change); 5] = [
            ("norm gains", |k| k.layers[0].ffn_norm.gain.resize(exact_limits::HIDDEN + 1, 1.0)),
            ("row scales", |k| k.layers[1].qkv.scales.push(1.0)),
            ("bias", |k| k.layers[1].qkv.bias.as_mut().unwrap().push(1.0)),
            ("check vector", |k| k.layers[1].qkv.v.push(1)),
            ("embedding digests", |k| {
                k.embeddings.resize(exact_limits::VOCABULARY + 1, Digest::ZERO);
            }),
        ];
        for (part, change) in changes {
            let mut key = key(&model);
            change(&mut key);
            match Key::from_file(&key.to_file()) {
                Err(KeyError::Decode(error)) => {
                    assert_eq!(error.what, part);
                    let reason = error.reason;
                    assert!(matches!(reason, DecodeReason::TooLong { .. }), "{part}: {error}");
                }
                other => panic!("{part}: {other:?}"),
            }
        }
    }

    #[test]
    fn weights_that_are_not_the_manifests_make_no_key() {
        let model = TinyModel::new(3);
        let other = TinyModel::new(4);
        let (blob, secret) = (|b| other.blob(b), Secret::of(&[7; 32]));
        let made = Key::generate(&Reference, model.manifest.clone(), secret, blob, |_| ());
        let made = made.unwrap_err();
        assert!(matches!(made, KeyError::Load(LoadError::Digest { .. })), "{made}");
    }
}
