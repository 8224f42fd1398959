//! The weights of a span of layers and of the head, taken from a package's blobs.

use core::fmt;
use std::ops::Range;

use crate::blob::{Blob, Slice};
use crate::digest::Digest;
use crate::kv::KvShape;
use crate::manifest::Manifest;
use crate::matrix::{MatrixError, Packed, Shape};
use crate::norm::Norm;
use crate::ops::{Device, Host, KvOf, Products, RopeOf, StateOf, VectorOf};
use crate::plan::{LayerPlan, MatrixRef, NormPlan, VectorRef};
use crate::probe::{Probe, Row};
use crate::tree::LayerTree;

/// A matrix product with the f32 scale of each of its rows; `V` is a device's vector.
#[derive(Clone, Debug)]
pub struct Product<M, V = Vec<f32>> {
    /// The matrix of integer weights, as the backend prepared it.
    pub matrix: M,
    /// The scales, one per output.
    pub scales: V,
    /// The bias, which is added to the outputs; `None` if the product has none.
    pub bias: Option<V>,
}

/// The weights of one layer, loaded for a backend; `V` is a device's vector, `R` its turns of
/// rotated pairs.
#[derive(Clone, Debug)]
pub struct LayerWeights<M, V = Vec<f32>, R = Vec<u64>> {
    /// The index of the layer in the model.
    pub layer: u32,
    /// Whether it is the model's last: positions that feed no head stop after keys and values.
    pub is_last: bool,
    /// The plan of the layer, as the manifest has it.
    pub plan: LayerPlan,
    /// Turn per position of each rotated pair.
    pub rope: R,
    /// The products and vectors of the layer.
    pub parts: LayerTree<Product<M, V>, V>,
}

impl<M, V, R> LayerWeights<M, V, R> {
    /// Returns the number of elements of a state.
    #[must_use]
    pub const fn hidden(&self) -> usize {
        self.plan.parts.qkv.matrix.shape().columns
    }

    /// Returns the size of this layer's KV rows.
    #[must_use]
    pub const fn kv_shape(&self) -> KvShape {
        kv_shape(&self.plan)
    }
}

/// Returns the size of the KV rows of a layer with this plan.
#[must_use]
pub const fn kv_shape(plan: &LayerPlan) -> KvShape {
    KvShape {
        kv_heads: plan.attention.kv_heads as usize,
        head_dim: plan.attention.head_dim as usize,
    }
}

/// The weights of the head: embedding, final norm and output product; `V` is a device's vector.
#[derive(Clone, Debug)]
pub struct HeadWeights<M, V = Vec<f32>> {
    /// The embedding, with one row per token.
    pub embedding: Packed,
    /// Multiplied into every embedding element.
    pub embedding_scale: f32,
    /// Normalisation before the output product.
    pub norm: Norm<V>,
    /// The output product, with one row per token.
    pub output: Product<M, V>,
    /// The size and codec of the output matrix.
    pub output_shape: Shape,
}

/// A product as the backend `O` holds it.
pub type ProductOf<O> = Product<<O as Products>::Matrix, VectorOf<O>>;
/// The weights of a layer as the backend `O` holds them.
pub type LayerOf<O> = LayerWeights<<O as Products>::Matrix, VectorOf<O>, RopeOf<O>>;
/// The weights of the head as the backend `O` holds them.
pub type HeadOf<O> = HeadWeights<<O as Products>::Matrix, VectorOf<O>>;

/// Products on a device that serve a model: they take in its weights, and may compute a whole span
/// of layers at once.
pub trait Backend: Products + Sized {
    /// Prepares a checked matrix for [`Products::matmul`].
    ///
    /// # Errors
    /// [`PrepareError`].
    fn prepare(
        &self,
        matrix: Packed,
    ) -> Result<Self::Matrix, PrepareError<<Self::Device as Device>::Error>>;

    /// Puts a batch through a whole span of layers at once, where the backend can do so for this
    /// batch and for what `P` looks at. Returns `None` where it can't: nothing has been done then.
    ///
    /// The returned states, the caches, and what the probe is shown, are bit for bit those of
    /// [`crate::forward::forward`]. An audit never asks for this: it computes layer by layer.
    ///
    /// # Errors
    /// [`Products::Error`]: the device has failed.
    fn span<P: Probe>(
        &self,
        _layers: &[LayerOf<Self>],
        _rows: &[Row],
        _caches: &mut [&mut KvOf<Self>],
        _state: &StateOf<Self>,
        _probe: &mut P,
    ) -> Result<Option<StateOf<Self>>, Self::Error> {
        Ok(None)
    }
}

/// Why a backend has not taken in a matrix.
#[derive(Clone, Debug, PartialEq)]
pub enum PrepareError<E> {
    /// The device has failed, or has too little memory.
    Device(E),
    /// The backend can't take a matrix of this form.
    Matrix(MatrixError),
}

impl<E: fmt::Display> fmt::Display for PrepareError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(error) => error.fmt(f),
            Self::Matrix(error) => error.fmt(f),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> core::error::Error for PrepareError<E> {}

/// Why weights could not be loaded.
#[derive(Clone, Debug, PartialEq)]
pub enum LoadError {
    /// The manifest names a blob that it does not list.
    Blob {
        /// The blob's index.
        blob: u32,
    },
    /// The device failed to take in a part of the weights.
    Device {
        /// Which.
        at: String,
        /// What the device says.
        error: String,
    },
    /// A blob's bytes are not those that the manifest names.
    Digest {
        /// The index of the blob in the manifest.
        blob: u32,
        /// The digest that the manifest states.
        expected: Digest,
        /// The digest of the bytes that were found.
        got: Digest,
    },
    /// A matrix is not in canonical packed form.
    Matrix {
        /// Which.
        at: String,
        /// Why.
        error: MatrixError,
    },
    /// A section lies outside its blob.
    Section {
        /// Which.
        at: String,
    },
    /// A span that the model does not have.
    Span {
        /// The range of layers that was asked for.
        span: Range<u32>,
        /// The number of layers of the model.
        layers: u32,
    },
    /// A vector holds a number that is not finite or is 2^40 or more.
    Vector {
        /// Which.
        at: String,
        /// The element.
        element: usize,
    },
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Digest { blob, expected, got } => {
                write!(f, "blob {blob}: expected digest {expected}, got {got}")
            }
            Self::Device { at, error } => {
                write!(f, "{at}: the device could not take it in: {error}")
            }
            Self::Blob { blob } => write!(f, "the manifest lists no blob {blob}, but names it"),
            Self::Matrix { at, error } => write!(f, "{at}: {error}"),
            Self::Section { at } => write!(f, "{at}: lies outside its blob"),
            Self::Span { span, layers } => {
                write!(f, "layers {}..{} of a model with {layers} layers", span.start, span.end)
            }
            Self::Vector { at, element } => {
                write!(f, "{at}: element {element} is not a number below 2^40")
            }
        }
    }
}

impl core::error::Error for LoadError {}

/// Loads the layers `span` of a model.
///
/// # Soundness
/// `blob` must return bytes whose digest is the manifest's: this function checks ranges and forms,
/// not digests.
///
/// # Errors
/// [`LoadError`].
pub fn load_span<O: Backend>(
    ops: &O,
    manifest: &Manifest,
    span: Range<u32>,
    mut blob: impl FnMut(u32) -> Blob,
) -> Result<Vec<LayerOf<O>>, LoadError> {
    let layers = manifest.layers.len() as u32;
    if span.start >= span.end || span.end > layers {
        return Err(LoadError::Span { span, layers });
    }
    let load = |layer| load_layer(ops, manifest, layer, &mut blob);
    span.map(load).collect()
}

fn load_layer<O: Backend>(
    ops: &O,
    manifest: &Manifest,
    layer: u32,
    blob: &mut impl FnMut(u32) -> Blob,
) -> Result<LayerOf<O>, LoadError> {
    let plan = manifest.layers[layer as usize].clone();
    let source = Source { blob: blob(plan.blob), name: format!("layer {layer}") };
    let device = ops.device();
    let rope = manifest.ropes[plan.attention.rope as usize].frequencies.clone();
    let rope = device.put_rope(rope).map_err(|error| source.failed("rope", &error))?;
    Ok(LayerWeights {
        layer,
        is_last: layer as usize + 1 == manifest.layers.len(),
        rope,
        parts: plan.parts.try_map(
            &mut (),
            |(), name, of| source.product(ops, &name.to_string(), &of.matrix, of.bias),
            |(), name, of| source.put_vector(device, &name.to_string(), of),
        )?,
        plan,
    })
}

/// Loads the head of a model: embedding, final norm and output matrix.
///
/// # Soundness
/// As [`load_span`].
///
/// # Errors
/// [`LoadError`].
pub fn load_head<O: Backend>(
    ops: &O,
    manifest: &Manifest,
    mut blob: impl FnMut(u32) -> Blob,
) -> Result<HeadOf<O>, LoadError> {
    let plan = &manifest.head;
    let embedding = Source { blob: blob(plan.embedding_blob), name: "head".to_owned() };
    let source = Source { blob: blob(plan.blob), name: "head".to_owned() };
    Ok(HeadWeights {
        embedding: embedding.packed("embedding", &plan.embedding)?,
        embedding_scale: plan.embedding_scale,
        norm: plan.norm.try_map(|of| source.put_vector(ops.device(), "final norm", of))?,
        output: source.product(ops, "output", &plan.output, None)?,
        output_shape: plan.output.shape(),
    })
}

/// A blob and the name of what is in it, for errors.
pub struct Source {
    /// The bytes of the blob, shared with whoever loaded it.
    pub blob: Blob,
    /// The name of the part in errors, such as "layer 3".
    pub name: String,
}

impl Source {
    /// Reads a vector of f32 numbers.
    ///
    /// # Errors
    /// [`LoadError::Section`], [`LoadError::Vector`].
    pub fn vector(&self, part: &str, vector: &VectorRef) -> Result<Vec<f32>, LoadError> {
        let at = || format!("{}: {part}", self.name);
        let slice = self
            .section(vector.offset, u64::from(vector.len) * 4)
            .ok_or_else(|| LoadError::Section { at: at() })?;
        let bytes = slice.as_slice().chunks_exact(4);
        let values: Vec<f32> =
            bytes.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        // 2^40 by bits: infinity and NaN are above it too.
        let bad = |value: &f32| value.to_bits() & 0x7fff_ffff >= (127 + 40) << 23;
        match values.iter().position(bad) {
            None => Ok(values),
            Some(element) => Err(LoadError::Vector { at: at(), element }),
        }
    }

    /// Reads a vector of f32 and gives it to a device.
    fn put_vector<D: Host>(
        &self,
        device: &D,
        part: &str,
        vector: &VectorRef,
    ) -> Result<D::Vector, LoadError> {
        let values = self.vector(part, vector)?;
        device.put_vector(values).map_err(|error| self.failed(part, &error))
    }

    /// The device has failed to take in a part.
    fn failed(&self, part: &str, error: &impl fmt::Display) -> LoadError {
        LoadError::Device { at: format!("{}: {part}", self.name), error: error.to_string() }
    }

    /// Reads a normalisation: its eps and its gains.
    ///
    /// # Errors
    /// As [`Source::vector`].
    pub fn norm(&self, part: &str, norm: &NormPlan) -> Result<Norm, LoadError> {
        norm.try_map(|vector| self.vector(part, vector))
    }

    /// Reads what is added to a product's outputs, if anything is.
    ///
    /// # Errors
    /// As [`Source::vector`].
    pub fn bias(&self, part: &str, bias: Option<VectorRef>) -> Result<Option<Vec<f32>>, LoadError> {
        bias.map(|bias| self.vector(&format!("{part} bias"), &bias)).transpose()
    }

    /// Reads a matrix in packed form, and checks that the form is canonical.
    ///
    /// # Errors
    /// [`LoadError::Section`], [`LoadError::Matrix`].
    pub fn packed(&self, part: &str, matrix: &MatrixRef) -> Result<Packed, LoadError> {
        let at = || format!("{}: {part}", self.name);
        let slice = self
            .section(matrix.offset, matrix.shape().stored_bytes())
            .ok_or_else(|| LoadError::Section { at: at() })?;
        Packed::new(matrix.shape(), slice).map_err(|error| LoadError::Matrix { at: at(), error })
    }

    /// Returns the `len` bytes at `offset` of the blob; `None` if they are not in it, or are at
    /// addresses that this machine does not have.
    fn section(&self, offset: u64, len: u64) -> Option<Slice> {
        match (usize::try_from(offset), usize::try_from(len)) {
            (Ok(offset), Ok(len)) => self.blob.slice(offset, len),
            // What no address reaches is outside.
            _ => None,
        }
    }

    fn product<O: Backend>(
        &self,
        ops: &O,
        part: &str,
        matrix: &MatrixRef,
        bias: Option<VectorRef>,
    ) -> Result<ProductOf<O>, LoadError> {
        let at = || format!("{}: {part}", self.name);
        let packed = self.packed(part, matrix)?;
        let device = ops.device();
        let scales = device.put_vector(packed.row_scales());
        let scales = scales.map_err(|error| self.failed(part, &error))?;
        let matrix = ops.prepare(packed).map_err(|error| match error {
            PrepareError::Matrix(error) => LoadError::Matrix { at: at(), error },
            PrepareError::Device(error) => self.failed(part, &error),
        })?;
        let bias = bias.map(|bias| self.put_vector(device, &format!("{part} bias"), &bias));
        Ok(Product { matrix, scales, bias: bias.transpose()? })
    }
}
