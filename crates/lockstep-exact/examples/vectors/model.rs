//! The seeded tiny model, end to end: every column, the logits and the tokens of an answer.

use lockstep_exact::blob::Blob;
use lockstep_exact::digest::Digest;
use lockstep_exact::feed_forward::FeedForward;
use lockstep_exact::forward::{Probe, Row, Scratch, forward, logits};
use lockstep_exact::kv::{KvCache, ReferenceKv};
use lockstep_exact::manifest::Manifest;
use lockstep_exact::num::Overflow;
use lockstep_exact::ops::{Device, Place, Products};
use lockstep_exact::plan::MatrixRef;
use lockstep_exact::reference::Reference;
use lockstep_exact::sample::{History, sample};
use lockstep_exact::state::State;
use lockstep_exact::weights::{HeadWeights, LayerWeights, load_head, load_span};
use lockstep_testing::numbers::Numbers;
use lockstep_testing::tiny_model::{Features, Sizes, TinyModel};
use serde_json::{Value, json};

use crate::encodings::sampling_of;
use crate::value::{Input, f32s_text, u64s_text};

pub(crate) fn fixture_numbers(input: Input<'_>) -> Value {
    let mut numbers = Numbers::new(input.u64("seed"));
    let words: Vec<u64> = (0..input.int("count")).map(|_| numbers.next_u64()).collect();
    let units: Vec<f32> = (0..input.int("count")).map(|_| numbers.signed_unit()).collect();
    json!({ "words": u64s_text(&words), "units": f32s_text(&units) })
}

pub(crate) fn model(input: Input<'_>) -> Value {
    let model = built(input);
    let mut run = Run::new(&model);
    let prompt: Vec<u32> = input.ints("prompt");
    let sampling = sampling_of(input.object("sampling"));
    let mut answer = Vec::new();
    let mut logit_digests = Vec::new();
    let (mut fed, mut overflow) = (0, false);
    while !overflow && answer.len() < input.int::<usize>("answer_tokens") {
        let tokens: Vec<u32> = prompt.iter().chain(&answer).copied().skip(fed).collect();
        let Ok(logits) = run.step(fed, &tokens, input.int("chunk")) else {
            overflow = true;
            break;
        };
        fed += tokens.len();
        let bytes: Vec<u8> = logits.iter().flat_map(|x| x.to_le_bytes()).collect();
        logit_digests.push(Digest::of(&bytes).to_string());
        let history = History { prompt: &prompt, answer: &answer };
        match sample(&logits, &sampling, history, None) {
            Ok(token) => answer.push(token),
            Err(Overflow) => overflow = true,
        }
    }
    let texts = |columns: &[Vec<u8>]| -> Vec<String> {
        columns.iter().map(|column| Digest::of(column).to_string()).collect()
    };
    let columns = &run.columns;
    json!({
        "id": model.manifest.id().to_string(),
        "blobs": model.manifest.blobs.iter().map(|b| b.digest.to_string()).collect::<Vec<_>>(),
        "embeddings": Digest::of(&columns.embeddings).to_string(),
        "states": texts(&columns.states),
        "kv": texts(&columns.kv),
        "markers": columns.markers,
        "logits": logit_digests,
        "answer": answer,
        "overflow": overflow,
    })
}

/// The seeded model with the case's changes: windows, embedding scale, scales of matrix rows.
fn built(input: Input<'_>) -> TinyModel {
    let sizes = input.object("sizes");
    let sizes = Sizes {
        layers: sizes.int("layers"),
        hidden: sizes.int("hidden"),
        heads: sizes.int("heads"),
        kv_heads: sizes.int("kv_heads"),
        head_dim: sizes.int("head_dim"),
        inner: sizes.int("inner"),
        vocabulary: sizes.int("vocabulary"),
        context: sizes.int("context"),
    };
    let features = input.list("features");
    let has = |name: &str| features.iter().any(|feature| feature.as_str() == Some(name));
    let features = Features {
        biases: has("biases"),
        head_norms: has("head norms"),
        post_norms: has("post norms"),
        gelu: has("gelu"),
        second_rope: has("second rope"),
        window: 0,
        experts: has("experts"),
        shared_expert: has("shared expert"),
        w4: has("w4"),
    };
    let mut model = TinyModel::with_features(input.u64("seed"), sizes, features);
    for (layer, window) in model.manifest.layers.iter_mut().zip(input.ints("windows")) {
        layer.attention.window = window;
    }
    model.manifest.head.embedding_scale = input.f32("embedding_scale");
    input.objects("row_scales").into_iter().for_each(|edit| set_row_scale(&mut model, edit));
    model.manifest.check().expect("a consistent model");
    model
}

/// Writes a row's scale into its blob and names the changed blob and matrix anew.
fn set_row_scale(model: &mut TinyModel, edit: Input<'_>) {
    let (index, matrix) = matrix_mut(&mut model.manifest, edit);
    let (row, shape, start) = (edit.int::<usize>("row"), matrix.shape(), matrix.offset as usize);
    let at = row / 16 * shape.block_bytes() + shape.row_scales_offset() + row % 16 * 4;
    let mut bytes = model.blobs[index].as_slice().to_vec();
    bytes[start + at..][..4].copy_from_slice(&edit.f32("scale").to_le_bytes());
    matrix.digest = Digest::of(&bytes[start..][..shape.packed_bytes()]);
    model.manifest.blobs[index].digest = Digest::of(&bytes);
    model.blobs[index] = Blob::new(bytes);
}

/// A matrix and the index of its blob.
fn matrix_mut<'a>(manifest: &'a mut Manifest, edit: Input<'_>) -> (usize, &'a mut MatrixRef) {
    if edit.text("matrix") == "embedding" {
        return (manifest.head.embedding_blob as usize, &mut manifest.head.embedding);
    }
    let layer = &mut manifest.layers[edit.int::<usize>("layer")];
    let matrix = match edit.text("matrix") {
        "qkv" => &mut layer.parts.qkv.matrix,
        "output" => &mut layer.parts.output.matrix,
        other => match (&mut layer.parts.feed_forward, other) {
            (FeedForward::Dense(gated), "gate_up") => &mut gated.gate_up.matrix,
            (FeedForward::Dense(gated), "down") => &mut gated.down.matrix,
            (FeedForward::Experts(experts), "router") => &mut experts.router.matrix,
            (FeedForward::Experts(experts), "expert") => {
                &mut experts.experts[edit.int::<usize>("expert")].gate_up.matrix
            }
            _ => panic!("no matrix is called {other}"),
        },
    };
    (layer.blob as usize, matrix)
}

/// What a session commits to, and which of its states are overflow markers.
#[derive(Default)]
struct Columns {
    embeddings: Vec<u8>,
    states: Vec<Vec<u8>>,
    kv: Vec<Vec<u8>>,
    markers: Vec<Vec<usize>>,
}

impl Probe for Columns {
    fn kv(&mut self, layer: u32, _rows: &[Row], kv: &[u8]) {
        self.kv[layer as usize].extend_from_slice(kv);
    }

    fn state(&mut self, layer: u32, rows: &[Row], state: &State) {
        for (index, row) in rows.iter().enumerate() {
            state.write_row(index, &mut self.states[layer as usize]);
            if state.overflowed(index) {
                self.markers[layer as usize].push(row.place.position);
            }
        }
    }
}

/// One session over all layers.
struct Run {
    head: HeadWeights<<Reference as Products>::Matrix>,
    layers: Vec<LayerWeights<<Reference as Products>::Matrix>>,
    cache: ReferenceKv,
    scratch: Scratch<Reference>,
    columns: Columns,
}

impl Run {
    fn new(model: &TinyModel) -> Self {
        let head = load_head(&Reference, &model.manifest, |b| model.blob(b)).expect("a head");
        let layers = load_span(&Reference, &model.manifest, model.span(), |b| model.blob(b))
            .expect("layers");
        let cache = KvCache::new(&layers.iter().map(|l| l.kv_shape()).collect::<Vec<_>>());
        let columns = Columns {
            embeddings: Vec::new(),
            states: vec![Vec::new(); layers.len()],
            kv: vec![Vec::new(); layers.len()],
            markers: vec![Vec::new(); layers.len()],
        };
        Self { head, layers, cache, scratch: Scratch::default(), columns }
    }

    /// Feeds `tokens` from position `first` on, `chunk` at a time; the last one's logits.
    fn step(&mut self, first: usize, tokens: &[u32], chunk: usize) -> Result<Vec<f32>, Overflow> {
        let Self { head, layers, cache, scratch, columns } = self;
        let mut state = State::default();
        let mut rows = Vec::new();
        for (index, part) in tokens.chunks(chunk).enumerate() {
            let first_of_part = first + index * chunk;
            let row = |offset| Row {
                place: Place { slot: 0, position: first_of_part + offset },
                feeds_head: first_of_part + offset + 1 == first + tokens.len(),
            };
            rows = (0..part.len()).map(row).collect();
            Reference.embed(&head.embedding, head.embedding_scale, part, &mut state);
            columns.embeddings.extend(state.to_bytes());
            let caches = &mut [&mut *cache];
            let Ok(out) = forward(&Reference, layers, &rows, caches, state, scratch, columns);
            state = out;
        }
        rows.retain(|row| row.feeds_head);
        let Ok(mut out) = logits(&Reference, head, &rows, &state, scratch, &mut ());
        out.pop().expect("one row feeds the head")
    }
}
