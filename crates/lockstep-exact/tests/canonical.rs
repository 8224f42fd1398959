//! Laws of canonical bytes: what is accepted re-encodes to itself, nothing panics, and every
//! inconsistent manifest is refused by name.

use lockstep_exact::bytes::Canonical;
use lockstep_exact::digest::Digest;
use lockstep_exact::feed_forward::{Experts, Gated, Shared};
use lockstep_exact::figure::Figure;
use lockstep_exact::limits;
use lockstep_exact::manifest::{Manifest, ManifestError};
use lockstep_exact::matrix::Codec;
use lockstep_exact::plan::{HeadNormsPlan, PostNormsPlan, ProductPlan};
use lockstep_exact::reference::Reference;
use lockstep_exact::sample::{Bias, Finish, Sampling, Stops};
use lockstep_exact::vocabulary::Vocabulary;
use lockstep_exact::weights::{load_head, load_span};
use lockstep_testing::numbers::Numbers;
use lockstep_testing::tiny_model::{Features, Sizes, TinyModel};

const SIZES: Sizes = Sizes {
    layers: 2,
    hidden: 32,
    heads: 4,
    kv_heads: 2,
    head_dim: 16,
    inner: 32,
    vocabulary: 272,
    context: 64,
};

fn tiny() -> TinyModel {
    TinyModel::with_sizes(3, SIZES)
}

/// Every cut, one more byte, and every changed bit of `value`'s bytes: an error, or another value
/// with exactly these bytes.
fn check_laws<T: Canonical + PartialEq + std::fmt::Debug>(value: &T) {
    let bytes = value.to_bytes();
    assert_eq!(T::from_bytes(&bytes).as_ref(), Ok(value));
    for len in 0..bytes.len() {
        assert!(T::from_bytes(&bytes[..len]).is_err(), "cut to {len}");
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(T::from_bytes(&longer).is_err(), "a byte too many");
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        if let Ok(other) = T::from_bytes(&changed) {
            assert_eq!(other.to_bytes(), changed, "bit {bit}");
            // As text: -0 and 0 are different values of a field.
            assert_ne!(format!("{other:?}"), format!("{value:?}"), "bit {bit}");
        }
    }
}

#[test]
fn each_value_has_one_encoding() {
    check_laws(&tiny().manifest);
    check_laws(&full().manifest);
    check_laws(&with_experts().manifest);
    check_laws(&Vocabulary::new([b"a".as_slice(), b"", b"\xff\0", b"<end>"]).unwrap());
    check_laws(&Sampling::default());
    let logit_bias = vec![Bias { token: 1, bias: -3.5 }, Bias { token: 9, bias: 100.0 }];
    check_laws(&Sampling { temperature: 0.7, top_k: 40, logit_bias, ..Sampling::default() });
    let strings = vec![b"\n\n".to_vec(), b"x".to_vec()];
    check_laws(&Stops { max_tokens: 9, ignore_end: true, strings });
    for finish in [Finish::EndToken, Finish::StopString, Finish::Length, Finish::Context] {
        check_laws(&finish);
    }
    check_laws(&Finish::Overflow);
}

#[test]
fn random_bytes_in_a_manifest_never_panic_and_never_have_two_encodings() {
    for model in [tiny(), full(), with_experts()] {
        change_at_random(&model.manifest.to_bytes());
    }
}

fn change_at_random(bytes: &[u8]) {
    let mut numbers = Numbers::new(5);
    for _ in 0..20_000 {
        let mut changed = bytes.to_vec();
        for _ in 0..1 + numbers.below(4) {
            let at = numbers.below(changed.len() as u64) as usize;
            let edges = [0, 1, 0x7f, 0x80, 0xff, numbers.next_u64() as u8];
            changed[at] = edges[numbers.below(6) as usize];
        }
        changed.truncate(bytes.len() - numbers.below(40).saturating_sub(30) as usize);
        if let Ok(manifest) = Manifest::parse(&changed) {
            assert_eq!(manifest.to_bytes(), changed);
        }
    }
}

#[test]
fn a_manifest_that_parses_loads_or_is_refused_but_never_panics() {
    loads_or_is_refused(&tiny());
    loads_or_is_refused(&full());
    loads_or_is_refused(&with_experts());
}

fn loads_or_is_refused(model: &TinyModel) {
    let bytes = model.manifest.to_bytes();
    // Head and layers are the last part; digests of matrices change nothing here.
    let start = bytes.len() - 1000;
    let mut loaded = 0;
    for (at, shift) in (start..bytes.len()).flat_map(|at| [0, 5, 7].map(|shift| (at, shift))) {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << shift;
        let Ok(manifest) = Manifest::parse(&changed) else { continue };
        // A blob may be missing from a store's answer: then it is empty.
        let head = load_head(&Reference, &manifest, |blob| model.blob(blob));
        let layers = load_span(&Reference, &manifest, model.span(), |blob| model.blob(blob));
        loaded += u32::from(head.is_ok() && layers.is_ok());
    }
    assert!(loaded > 100, "{loaded}");
}

#[test]
fn tokens_and_vocabularies_have_limits() {
    let longest = vec![b'x'; limits::TOKEN_BYTES];
    assert!(Vocabulary::new([longest.as_slice()]).is_ok());
    let too_long = vec![b'x'; limits::TOKEN_BYTES + 1];
    assert!(Vocabulary::new([too_long.as_slice()]).is_err());
    let mut bytes = Vec::new();
    1_u32.encode(&mut bytes);
    (limits::TOKEN_BYTES as u16 + 1).encode(&mut bytes);
    bytes.extend(&too_long);
    assert!(Vocabulary::from_bytes(&bytes).is_err());
    let too_many = (limits::VOCABULARY as u32 + 1).to_le_bytes();
    assert!(Vocabulary::from_bytes(&too_many).is_err());
    let vocabulary = Vocabulary::new([b"ab".as_slice(), b"", b"c"]).unwrap();
    let tokens: Vec<&[u8]> = (0..5).map(|id| vocabulary.token(id)).collect();
    assert_eq!(tokens, [b"ab".as_slice(), b"", b"c", b"", b""]);
    assert_eq!((vocabulary.len(), Vocabulary::default().is_empty()), (3, true));
}

/// A figure of quality in its range.
fn figure() -> Figure {
    Figure {
        text: "opticks.txt".to_owned(),
        text_digest: Digest::of(b"text"),
        window: 512,
        windows: 3,
        positions: 765,
        reference: "f32 of a.gguf".to_owned(),
        perplexity: 22.1,
        reference_perplexity: 22.0,
        kl: 0.0025,
        same_top: 0.97,
    }
}

type FigureChange = fn(&mut Figure);

const FIGURES_OUT_OF_RANGE: &[(&str, FigureChange)] = &[
    ("text", |f| f.text = "x".repeat(257)),
    ("reference", |f| f.reference = "x".repeat(257)),
    ("window", |f| f.window = 1),
    ("window", |f| f.window = u32::MAX),
    ("windows", |f| f.windows = 0),
    ("positions", |f| f.positions = 0),
    ("positions", |f| f.positions = 769),
    ("perplexity", |f| f.perplexity = 0.99),
    ("perplexity", |f| f.perplexity = f32::NAN),
    ("reference perplexity", |f| f.reference_perplexity = f32::INFINITY),
    ("KL", |f| f.kl = -0.0),
    ("KL", |f| f.kl = -1.0),
    ("same top-1", |f| f.same_top = 1.01),
];

#[test]
fn figures_are_part_of_the_bytes_and_checked() {
    let mut manifest = tiny().manifest;
    let bare = manifest.id();
    manifest.provenance.figures.push(figure());
    assert_eq!(manifest.check(), Ok(()));
    assert_ne!(manifest.id(), bare);
    check_laws(&manifest);
    for (part, change) in FIGURES_OUT_OF_RANGE {
        let mut bad = manifest.clone();
        bad.provenance.figures.push(figure());
        change(&mut bad.provenance.figures[1]);
        let Err(ManifestError::Inconsistent { at, .. }) = bad.check() else {
            panic!("{part} was accepted");
        };
        assert_eq!(at, format!("figure 1: {part}"));
    }
    manifest.provenance.figures = vec![figure(); limits::FIGURES + 1];
    let error = Manifest::parse(&manifest.to_bytes()).unwrap_err().to_string();
    assert!(error.contains("figures"), "{error}");
}

type Change = fn(&mut Manifest);

/// A change of a consistent manifest and the part that must be named.
const INCONSISTENT: &[(&str, Change)] = &[
    ("hidden size", |m| m.hidden = 0),
    ("hidden size", |m| m.hidden = limits::HIDDEN as u32 + 32),
    ("hidden size modulo 32", |m| m.hidden = 33),
    ("vocabulary", |m| m.vocabulary = 0),
    ("vocabulary", |m| m.vocabulary = limits::VOCABULARY as u32 + 1),
    ("context", |m| m.context = 0),
    ("context", |m| m.context = limits::CONTEXT as u32 + 1),
    ("number of layers", |m| m.layers.clear()),
    ("vocabulary blob", |m| m.vocabulary_blob = 99),
    ("tokenizer blob", |m| m.tokenizer_blob = u32::MAX),
    ("end token", |m| m.end_tokens.push(m.vocabulary)),
    ("embedding: rows", |m| m.head.embedding.rows += 1),
    ("end token", |m| m.vocabulary -= 1),
    ("embedding: columns", |m| m.head.embedding.columns = 64),
    ("embedding: offset modulo 64", |m| m.head.embedding.offset = 1),
    ("embedding", |m| m.head.embedding.offset = 64),
    ("embedding", |m| m.head.embedding.offset = u64::MAX - 63),
    ("embedding", |m| m.head.embedding_blob = 99),
    ("embedding", |m| m.blobs[0].len -= 1),
    ("output matrix: rows", |m| m.head.output.rows -= 1),
    ("output matrix: columns", |m| m.head.output.columns += 1),
    ("output matrix", |m| m.head.blob = 99),
    ("final norm: length", |m| m.head.norm.gain.len -= 1),
    ("final norm: eps", |m| m.head.norm.eps = 0.0),
    ("final norm: eps", |m| m.head.norm.eps = -1e-5),
    ("final norm: eps", |m| m.head.norm.eps = 2e12),
    ("final norm", |m| m.head.norm.gain.offset = 1 << 40),
    ("embedding scale", |m| m.head.embedding_scale = 0.0),
    ("embedding scale", |m| m.head.embedding_scale = f32::NAN),
    ("layer 0: heads", |m| m.layers[0].attention.heads = 0),
    ("layer 0: heads", |m| m.layers[0].attention.heads = limits::HEADS as u32 + 1),
    ("layer 0: kv heads", |m| m.layers[0].attention.kv_heads = 0),
    ("layer 1: kv heads", |m| m.layers[1].attention.kv_heads = 5),
    ("layer 1: heads modulo kv heads", |m| m.layers[1].attention.kv_heads = 3),
    ("layer 0: head size", |m| m.layers[0].attention.head_dim = 0),
    ("layer 0: head size", |m| m.layers[0].attention.head_dim = limits::HEAD_DIM as u32 + 2),
    ("layer 0: head size modulo 2", |m| m.layers[0].attention.head_dim = 15),
    ("layer 0: score scale", |m| m.layers[0].attention.score_scale = -0.5),
    ("layer 0: rotary table", |m| m.layers[0].attention.rope = 1),
    ("layer 0: rotary table", |m| m.ropes.clear()),
    ("layer 0: rotary pairs", |m| m.ropes[0].frequencies.push(1)),
    ("layer 0: feed-forward size", |m| dense(m).down.matrix.columns = 0),
    ("layer 0: feed-forward size", |m| dense(m).down.matrix.columns = limits::INNER as u32 + 1),
    ("layer 1: attention norm: length", |m| m.layers[1].parts.attention_norm.gain.len = 31),
    ("layer 1: attention norm: eps", |m| m.layers[1].parts.attention_norm.eps = f32::INFINITY),
    ("layer 1: attention norm", |m| m.layers[1].blob = 99),
    ("layer 0: qkv: rows", |m| m.layers[0].parts.qkv.matrix.rows += 16),
    ("layer 0: qkv: rows", |m| m.layers[0].attention.kv_heads = 1),
    ("layer 0: qkv: columns", |m| m.layers[0].parts.qkv.matrix.columns += 1),
    ("layer 0: qkv", |m| m.layers[0].parts.qkv.matrix.offset = 1 << 20),
    ("layer 0: attention output: rows", |m| m.layers[0].parts.output.matrix.rows = 64),
    ("layer 0: attention output: columns", |m| m.layers[0].parts.output.matrix.columns = 63),
    ("layer 0: feed-forward norm: length", |m| m.layers[0].parts.ffn_norm.gain.len = 0),
    ("layer 0: gate and up: rows", |m| dense(m).gate_up.matrix.rows -= 1),
    ("layer 0: gate and up: columns", |m| dense(m).gate_up.matrix.columns = 31),
    ("layer 0: down: rows", |m| dense(m).down.matrix.rows = 31),
    ("layer 0: gate and up: rows", |m| dense(m).down.matrix.columns += 1),
    ("layer 0: down: offset modulo 64", |m| dense(m).down.matrix.offset += 32),
    ("layer 0: down", |m| dense(m).down.matrix.offset += 64),
    ("layer 1: attention norm", |m| m.blobs[m.layers[1].blob as usize].len = 64),
];

/// The same for a layer with all that only some families have.
const INCONSISTENT_FULL: &[(&str, Change)] = &[
    ("layer 0: qkv bias: length", |m| m.layers[0].parts.qkv.bias = dense(m).down.bias),
    ("layer 1: attention output bias: length", |m| {
        m.layers[1].parts.output.bias.as_mut().unwrap().len += 1;
    }),
    ("layer 0: gate and up bias: offset modulo 64", |m| {
        dense(m).gate_up.bias.as_mut().unwrap().offset += 4;
    }),
    ("layer 0: down bias", |m| dense(m).down.bias.as_mut().unwrap().offset = u64::MAX - 63),
    ("layer 0: query norm: length", |m| head_norms(m).query.gain.len = 8),
    ("layer 0: query norm: eps", |m| head_norms(m).query.eps = 0.0),
    ("layer 0: key norm: length", |m| head_norms(m).key.gain.len = 32),
    ("layer 0: key norm", |m| head_norms(m).key.gain.offset = 1 << 40),
    ("layer 0: attention post-norm: length", |m| post_norms(m).attention.gain.len -= 1),
    ("layer 0: attention post-norm: eps", |m| post_norms(m).attention.eps = f32::NAN),
    ("layer 0: feed-forward post-norm: length", |m| post_norms(m).ffn.gain.len = 0),
    ("layer 0: feed-forward post-norm: offset modulo 64", |m| post_norms(m).ffn.gain.offset += 8),
];

/// The same for a layer with experts.
const INCONSISTENT_EXPERTS: &[(&str, Change)] = &[
    ("layer 1: experts", |m| experts(m).experts.clear()),
    ("layer 1: experts used", |m| experts(m).rule.used = 0),
    ("layer 1: experts used", |m| experts(m).rule.used = 6),
    ("layer 1: router: rows", |m| experts(m).experts.truncate(4)),
    ("layer 1: router: columns", |m| experts(m).router.matrix.columns = 33),
    ("layer 1: router bias: length", |m| experts(m).router.bias.as_mut().unwrap().len = 1),
    ("layer 1: expert 0: feed-forward size", |m| {
        experts(m).experts[0].down.matrix.columns = limits::INNER as u32 + 1;
    }),
    ("layer 1: expert 3: feed-forward size", |m| experts(m).experts[3].down.matrix.columns = 15),
    ("layer 1: expert 3: codecs", |m| experts(m).experts[3].gate_up.matrix.codec = Codec::W8),
    ("layer 1: expert 1: codecs", |m| experts(m).experts[1].down.matrix.codec = Codec::W8),
    ("layer 1: experts used", |m| {
        experts(m).rule.used = 5;
        experts(m).experts[0].down.matrix.columns = limits::INNER as u32;
    }),
    ("layer 1: expert 4: gate and up: rows", |m| experts(m).experts[4].gate_up.matrix.rows += 1),
    ("layer 1: expert 2: down", |m| experts(m).experts[2].down.matrix.offset = 1 << 40),
    ("layer 1: shared expert: down: rows", |m| shared(m).gated.down.matrix.rows = 31),
    ("layer 1: shared expert: gate: rows", |m| shared(m).gate.matrix.rows = 2),
    ("layer 1: shared expert: gate bias: length", |m| {
        shared(m).gate.bias.as_mut().unwrap().len = 2;
    }),
];

fn dense(manifest: &mut Manifest) -> &mut Gated<ProductPlan> {
    manifest.layers[0].parts.feed_forward.dense_mut().unwrap()
}

fn experts(manifest: &mut Manifest) -> &mut Experts<ProductPlan> {
    manifest.layers[1].parts.feed_forward.experts_mut().unwrap()
}

fn shared(manifest: &mut Manifest) -> &mut Shared<ProductPlan> {
    experts(manifest).shared.as_mut().unwrap()
}

fn head_norms(manifest: &mut Manifest) -> &mut HeadNormsPlan {
    manifest.layers[0].parts.head_norms.as_mut().unwrap()
}

fn post_norms(manifest: &mut Manifest) -> &mut PostNormsPlan {
    manifest.layers[0].parts.post_norms.as_mut().unwrap()
}

fn full() -> TinyModel {
    TinyModel::with_features(1, SIZES, Features::ALL)
}

fn with_experts() -> TinyModel {
    let features = Features { experts: true, shared_expert: true, ..Features::ALL };
    TinyModel::with_features(1, SIZES, features)
}

#[test]
fn every_inconsistent_manifest_is_refused_and_the_part_named() {
    refuses_each(&tiny().manifest, INCONSISTENT);
    refuses_each(&full().manifest, INCONSISTENT_FULL);
    refuses_each(&with_experts().manifest, INCONSISTENT_EXPERTS);
}

fn refuses_each(good: &Manifest, changes: &[(&str, Change)]) {
    assert_eq!(good.check(), Ok(()));
    for (index, (part, change)) in changes.iter().enumerate() {
        let mut bad = good.clone();
        change(&mut bad);
        let Err(ManifestError::Inconsistent { at, .. }) = bad.check() else {
            panic!("change {index} ({part}) was accepted");
        };
        assert_eq!(at, *part, "change {index}");
    }
}

#[test]
fn a_manifest_in_range_that_names_the_same_section_twice_is_consistent() {
    let mut tied = tiny().manifest;
    tied.head.blob = tied.head.embedding_blob;
    tied.head.output = tied.head.embedding;
    tied.head.norm.gain.offset = 0;
    assert_eq!(tied.check(), Ok(()));
}
