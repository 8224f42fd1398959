//! A tiny model from a seed, in memory: what golden vectors and the tests of every crate compute
//! with.

use std::ops::Range;

use lockstep_exact::blob::{Blob, append_section};
use lockstep_exact::bytes::Canonical;
use lockstep_exact::digest::Digest;
use lockstep_exact::feed_forward::{Experts, FeedForward, Gated, Rule, Shared};
use lockstep_exact::manifest::{BlobRef, Manifest, Provenance, RopeTable};
use lockstep_exact::matrix::{self, Codec, QuantisedRow, Shape, seeded_weight_size};
use lockstep_exact::num;
use lockstep_exact::plan::{
    Activation, AttentionPlan, HeadNormsPlan, HeadPlan, LayerPlan, MatrixRef, NormPlan,
    PostNormsPlan, ProductPlan, VectorRef,
};
use lockstep_exact::tree::LayerTree;
use lockstep_exact::vocabulary::Vocabulary;

use crate::numbers::Numbers;

/// The sizes of a tiny model.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// The number of layers of the model.
    pub layers: u32,
    /// Elements of a state, a multiple of 32.
    pub hidden: u32,
    /// The number of query heads of a layer.
    pub heads: u32,
    /// The number of key and value heads of a layer.
    pub kv_heads: u32,
    /// The number of elements of an attention head.
    pub head_dim: u32,
    /// The number of elements between the products of a feed-forward part.
    pub inner: u32,
    /// The number of token ids of the model.
    pub vocabulary: u32,
    /// The most positions that a session may have.
    pub context: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            layers: 6,
            hidden: 64,
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            inner: 96,
            vocabulary: 272,
            context: 2048,
        }
    }
}

/// The parts that only some model families have; the default is none of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Every product of a layer has a bias.
    pub biases: bool,
    /// Query and key heads are normalised.
    pub head_norms: bool,
    /// Each part of a layer is normalised before it is added to the state.
    pub post_norms: bool,
    /// The gate is [`Activation::GeluTanh`].
    pub gelu: bool,
    /// Layers with an odd index turn by a second table, of half as many pairs.
    pub second_rope: bool,
    /// Layers with an odd index see this many positions; 0 is all.
    pub window: u32,
    /// Every layer but the first has [`EXPERTS`] experts of half the feed-forward size.
    pub experts: bool,
    /// Those layers have a shared expert too, and the weights of the others do not add up to one.
    pub shared_expert: bool,
    /// The matrices of layers are [`Codec::W4`].
    pub w4: bool,
}

/// Experts of a layer, and how many of them are used.
pub const EXPERTS: (u32, u32) = (5, 2);

impl Features {
    /// The features of a plain Llama, which has none.
    pub const NONE: Self = Self {
        biases: false,
        head_norms: false,
        post_norms: false,
        gelu: false,
        second_rope: false,
        window: 0,
        experts: false,
        shared_expert: false,
        w4: false,
    };

    /// All of a dense model together.
    pub const ALL: Self = Self {
        biases: true,
        head_norms: true,
        post_norms: true,
        gelu: true,
        second_rope: true,
        window: 5,
        experts: false,
        shared_expert: false,
        w4: true,
    };

    /// Each alone, with its name, and all together, dense and with experts.
    pub const EACH: [(&'static str, Self); 11] = {
        let none = Self::NONE;
        [
            ("biases", Self { biases: true, ..none }),
            ("head norms", Self { head_norms: true, ..none }),
            ("post-norms", Self { post_norms: true, ..none }),
            ("gelu", Self { gelu: true, ..none }),
            ("a second rotary table", Self { second_rope: true, ..none }),
            ("windows", Self { window: 5, ..none }),
            ("4-bit weights", Self { w4: true, ..none }),
            ("all", Self::ALL),
            ("experts", Self { experts: true, ..none }),
            ("a shared expert", Self { experts: true, shared_expert: true, ..none }),
            ("all with experts", Self { experts: true, shared_expert: true, ..Self::ALL }),
        ]
    };
}

/// A model that is wholly in memory, with weights from a seed.
#[derive(Clone, Debug)]
pub struct TinyModel {
    /// The manifest that defines the model.
    pub manifest: Manifest,
    /// The blobs it names, in order.
    pub blobs: Vec<Blob>,
}

impl TinyModel {
    /// Builds a model of the default sizes with weights from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::with_sizes(seed, Sizes::default())
    }

    /// Builds a model; the same seed and sizes give the same bytes.
    ///
    /// # Panics
    /// When the sizes are not those of a model.
    #[must_use]
    pub fn with_sizes(seed: u64, sizes: Sizes) -> Self {
        Self::with_features(seed, sizes, Features::default())
    }

    /// Builds a model as [`TinyModel::with_sizes`] does, with parts that only some model families
    /// have.
    ///
    /// # Panics
    /// When the sizes are not those of a model.
    #[must_use]
    pub fn with_features(seed: u64, sizes: Sizes, features: Features) -> Self {
        Builder { numbers: Numbers::new(seed), sizes, features, blobs: Vec::new() }.build()
    }

    /// Returns the blob with this index in the manifest.
    #[must_use]
    pub fn blob(&self, index: u32) -> Blob {
        self.blobs[index as usize].clone()
    }

    /// Returns the range of all layers of the model.
    #[must_use]
    pub fn span(&self) -> Range<u32> {
        0..self.manifest.layers.len() as u32
    }

    /// Returns the bytes of every token of the model.
    ///
    /// # Panics
    /// Never: the blob was made here.
    #[must_use]
    pub fn vocabulary(&self) -> Vocabulary {
        let blob = self.blob(self.manifest.vocabulary_blob);
        Vocabulary::from_bytes(blob.as_slice()).expect("made here")
    }
}

struct Builder {
    numbers: Numbers,
    sizes: Sizes,
    features: Features,
    blobs: Vec<Vec<u8>>,
}

impl Builder {
    fn build(mut self) -> TinyModel {
        let sizes = self.sizes;
        let embedding = self.embedding_and_head();
        let layers: Vec<LayerPlan> = (0..sizes.layers).map(|index| self.layer(index)).collect();
        let vocabulary_blob = self.add(self.vocabulary());
        let tokenizer_blob = self.add(b"no tokenizer".to_vec());
        let manifest = Manifest {
            provenance: Provenance {
                name: "tiny".to_owned(),
                architecture: "llama".to_owned(),
                license: "MIT OR Apache-2.0".to_owned(),
                source_format: "seeded numbers".to_owned(),
                figures: Vec::new(),
            },
            hidden: sizes.hidden,
            vocabulary: sizes.vocabulary,
            context: sizes.context,
            blobs: self
                .blobs
                .iter()
                .map(|b| BlobRef { digest: Digest::of(b), len: b.len() as u64 })
                .collect(),
            vocabulary_blob,
            tokenizer_blob,
            end_tokens: vec![sizes.vocabulary - 1],
            ropes: self.ropes(),
            head: embedding,
            layers,
        };
        debug_assert_eq!(manifest.check(), Ok(()));
        TinyModel { manifest, blobs: self.blobs.into_iter().map(Blob::new).collect() }
    }

    fn ropes(&self) -> Vec<RopeTable> {
        let pairs = self.sizes.head_dim / 2;
        // Halving from a quarter turn per position.
        let table = |pairs: u32| RopeTable {
            frequencies: (0..pairs).map(|pair| (1_u64 << 62) >> pair.min(40)).collect(),
        };
        if self.features.second_rope {
            vec![table(pairs), table(pairs / 2)]
        } else {
            vec![table(pairs)]
        }
    }

    fn vocabulary(&self) -> Vec<u8> {
        let token = |id: u32| match u8::try_from(id) {
            Ok(byte) => vec![byte],
            Err(_) => format!("<{id}>").into_bytes(),
        };
        let tokens: Vec<Vec<u8>> = (0..self.sizes.vocabulary).map(token).collect();
        Vocabulary::new(tokens.iter().map(Vec::as_slice)).expect("short tokens").to_bytes()
    }

    fn embedding_and_head(&mut self) -> HeadPlan {
        let Sizes { hidden, vocabulary, .. } = self.sizes;
        let mut blob = Vec::new();
        let embedding = self.matrix(&mut blob, Codec::W8, vocabulary, hidden);
        let embedding_blob = self.add(blob);
        let mut blob = Vec::new();
        let norm = self.norm(&mut blob, hidden);
        let output = self.matrix(&mut blob, Codec::W8, vocabulary, hidden);
        let blob = self.add(blob);
        HeadPlan { embedding_blob, embedding, embedding_scale: 1.0, blob, norm, output }
    }

    fn layer(&mut self, index: u32) -> LayerPlan {
        let hidden = self.sizes.hidden;
        let attention = self.attention(index);
        let codec = if self.features.w4 { Codec::W4 } else { Codec::W8 };
        let mut bytes = Vec::new();
        let attention_norm = self.norm(&mut bytes, hidden);
        let qkv = self.matrix(&mut bytes, codec, attention.qkv_width() as u32, hidden);
        let output = self.matrix(&mut bytes, codec, hidden, attention.query_width() as u32);
        let ffn_norm = self.norm(&mut bytes, hidden);
        let matrices = self.feed_forward(&mut bytes, codec, index);
        let mut product =
            |matrix: MatrixRef| ProductPlan { matrix, bias: self.bias(&mut bytes, matrix.rows) };
        let [qkv, output] = [qkv, output].map(&mut product);
        let feed_forward = matrices.map(|_, &matrix| product(matrix));
        let head_norms = self.features.head_norms.then(|| HeadNormsPlan {
            query: self.norm(&mut bytes, attention.head_dim),
            key: self.norm(&mut bytes, attention.head_dim),
        });
        let post_norms = self.features.post_norms.then(|| PostNormsPlan {
            attention: self.norm(&mut bytes, hidden),
            ffn: self.norm(&mut bytes, hidden),
        });
        let blob = self.add(bytes);
        let parts = LayerTree {
            attention_norm,
            qkv,
            output,
            ffn_norm,
            feed_forward,
            head_norms,
            post_norms,
        };
        let activation = if self.features.gelu { Activation::GeluTanh } else { Activation::Silu };
        LayerPlan { blob, attention, activation, parts }
    }

    fn feed_forward(
        &mut self,
        blob: &mut Vec<u8>,
        codec: Codec,
        index: u32,
    ) -> FeedForward<MatrixRef> {
        let Sizes { hidden, inner, .. } = self.sizes;
        if !self.features.experts || index == 0 {
            return FeedForward::Dense(self.gated(blob, codec, inner));
        }
        let (count, used) = EXPERTS;
        let router = self.matrix(blob, codec, count, hidden);
        let experts = (0..count).map(|_| self.gated(blob, codec, inner / 2)).collect();
        let shared = self.features.shared_expert.then(|| Shared {
            gate: self.matrix(blob, codec, 1, hidden),
            gated: self.gated(blob, codec, inner),
        });
        let rule = Rule { used, normalise: !self.features.shared_expert };
        FeedForward::Experts(Experts { rule, router, experts, shared })
    }

    fn gated(&mut self, blob: &mut Vec<u8>, codec: Codec, inner: u32) -> Gated<MatrixRef> {
        let hidden = self.sizes.hidden;
        let gate_up = self.matrix(blob, codec, 2 * inner, hidden);
        Gated { gate_up, down: self.matrix(blob, codec, hidden, inner) }
    }

    fn attention(&self, index: u32) -> AttentionPlan {
        let Sizes { heads, kv_heads, head_dim, .. } = self.sizes;
        let odd = index % 2;
        AttentionPlan {
            heads,
            kv_heads,
            head_dim,
            rope: if self.features.second_rope { odd } else { 0 },
            window: self.features.window * odd,
            score_scale: num::LOG2_E / (head_dim as f32).sqrt(),
        }
    }

    fn add(&mut self, blob: Vec<u8>) -> u32 {
        self.blobs.push(blob);
        self.blobs.len() as u32 - 1
    }

    fn matrix(&mut self, blob: &mut Vec<u8>, codec: Codec, rows: u32, columns: u32) -> MatrixRef {
        let shape = codec.shape(rows as usize, columns as usize);
        let quantised: Vec<QuantisedRow> = (0..rows).map(|_| self.row(shape)).collect();
        let packed = matrix::pack(shape, quantised);
        let digest = Digest::of(&packed);
        MatrixRef { offset: append_section(blob, &packed), rows, columns, codec, digest }
    }

    fn row(&mut self, shape: Shape) -> QuantisedRow {
        let numbers = &mut self.numbers;
        let (codes, group_scales, shifts) = match shape.codec {
            Codec::W8 => (127, 32, 0),
            Codec::W4 => (8, 128, shape.groups()),
        };
        // As many codes below 0 as above, but for w4 one more; scales in the upper half.
        let levels = if shape.codec == Codec::W8 { 255 } else { 16 };
        let code = |_| (numbers.below(levels) as i32 - codes) as i8;
        let codes = (0..shape.columns).map(code).collect();
        let group_scale = |_| (group_scales + numbers.below(group_scales)) as u8;
        let group_scales = (0..shape.groups()).map(group_scale).collect();
        let shifts = (0..shifts).map(|_| (numbers.below(255) as i32 - 127) as i8).collect();
        let gain = 1.0 + 0.5 * numbers.signed_unit();
        let scale = gain / ((shape.columns as f32).sqrt() * seeded_weight_size(shape.codec));
        QuantisedRow { codes, group_scales, shifts, scale }
    }

    fn norm(&mut self, blob: &mut Vec<u8>, len: u32) -> NormPlan {
        NormPlan::new(1e-5, self.vector(blob, len, |unit| 1.0 + 0.25 * unit))
    }

    fn bias(&mut self, blob: &mut Vec<u8>, len: u32) -> Option<VectorRef> {
        self.features.biases.then(|| self.vector(blob, len, |unit| 0.5 * unit))
    }

    /// A vector of numbers made of seeded ones in [-1, 1).
    fn vector(&mut self, blob: &mut Vec<u8>, len: u32, of: fn(f32) -> f32) -> VectorRef {
        let values = (0..len).map(|_| of(self.numbers.signed_unit()));
        let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
        VectorRef { offset: append_section(blob, &bytes), len }
    }
}
