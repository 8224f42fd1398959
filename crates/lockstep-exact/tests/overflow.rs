//! Overflow end to end: a number that is too large becomes a marker at its cell and stays one,
//! and other positions compute on.

use lockstep_exact::blob::Blob;
use lockstep_exact::forward::{Probe, Row, Scratch, forward, logits};
use lockstep_exact::kv::{KvCache, KvRow, KvShape, ReferenceKv};
use lockstep_exact::num::Overflow;
use lockstep_exact::ops::{Device, Place};
use lockstep_exact::plan::MatrixRef;
use lockstep_exact::reference::Reference;
use lockstep_exact::state::State;
use lockstep_exact::weights::{load_head, load_span};
use lockstep_testing::tiny_model::{Sizes, TinyModel};

const TOKENS: [u32; 6] = [5, 17, 200, 31, 17, 64];

fn tiny() -> TinyModel {
    TinyModel::with_sizes(9, Sizes { layers: 4, hidden: 32, inner: 48, ..Sizes::default() })
}

/// States after each layer, per position, and the KV rows.
#[derive(Default)]
struct Seen {
    shapes: Vec<KvShape>,
    middles: Vec<State>,
    states: Vec<State>,
    kv: Vec<Vec<KvRow>>,
}

impl Seen {
    fn markers(&self, layer: usize) -> Vec<usize> {
        markers(&self.states[layer])
    }
}

fn markers(state: &State) -> Vec<usize> {
    (0..state.rows()).filter(|&row| state.overflowed(row)).collect()
}

impl Probe for Seen {
    fn kv(&mut self, layer: u32, rows: &[Row], kv: &[u8]) {
        let parsed = |row| KvRow::parse(self.shapes[layer as usize], row).unwrap();
        self.kv.push(kv.chunks_exact(kv.len() / rows.len()).map(parsed).collect());
    }

    fn middle(&mut self, _layer: u32, _rows: &[Row], state: &State) {
        self.middles.push(state.clone());
    }

    fn state(&mut self, _layer: u32, _rows: &[Row], state: &State) {
        self.states.push(state.clone());
    }
}

/// Runs all tokens, all of which feed the head.
fn run(model: &TinyModel) -> (Seen, Vec<Result<Vec<f32>, Overflow>>) {
    let head = load_head(&Reference, &model.manifest, |b| model.blob(b)).unwrap();
    let layers = load_span(&Reference, &model.manifest, model.span(), |b| model.blob(b)).unwrap();
    let mut cache: ReferenceKv =
        KvCache::new(&layers.iter().map(|l| l.kv_shape()).collect::<Vec<_>>());
    let row = |position| Row { place: Place { slot: 0, position }, feeds_head: true };
    let rows: Vec<Row> = (0..TOKENS.len()).map(row).collect();
    let (mut state, mut scratch) = (State::default(), Scratch::default());
    let shapes = layers.iter().map(|l| l.kv_shape()).collect();
    let mut seen = Seen { shapes, ..Seen::default() };
    Reference.embed(&head.embedding, head.embedding_scale, &TOKENS, &mut state);
    let caches = &mut [&mut cache];
    let Ok(state) = forward(&Reference, &layers, &rows, caches, state, &mut scratch, &mut seen);
    let Ok(logits) = logits(&Reference, &head, &rows, &state, &mut scratch, &mut ());
    (seen, logits)
}

/// Writes an f32 into a blob.
fn patch(model: &mut TinyModel, blob: u32, at: u64, value: f32) {
    let mut bytes = model.blob(blob).as_slice().to_vec();
    bytes[at as usize..][..4].copy_from_slice(&value.to_le_bytes());
    model.blobs[blob as usize] = Blob::new(bytes);
}

/// Makes a row's scale the largest that there is.
fn patch_row_scale(model: &mut TinyModel, blob: u32, matrix: MatrixRef, row: usize) {
    let shape = matrix.shape();
    let at = row / 16 * shape.block_bytes() + shape.row_scales_offset() + row % 16 * 4;
    patch(model, blob, matrix.offset + at as u64, f32::from_bits((127 + 40) << 23));
}

fn is_zero(row: &KvRow) -> bool {
    let codes = row.key_codes.iter().chain(&row.value_codes);
    let scales = row.key_scales.iter().chain(&row.value_scales);
    codes.into_iter().all(|&code| code == 0) && scales.into_iter().all(|&scale| scale == 0.0)
}

#[test]
fn a_model_within_bounds_never_overflows() {
    let (seen, logits) = run(&tiny());
    assert!((0..4).all(|layer| seen.markers(layer).is_empty()));
    assert!(logits.iter().all(Result::is_ok));
}

#[test]
fn a_gain_that_blows_scores_up_marks_its_layer_and_all_after_it() {
    let mut model = tiny();
    let plan = model.manifest.layers[1].clone();
    for element in 0..32 {
        let at = plan.parts.attention_norm.gain.offset + 4 * element;
        patch(&mut model, plan.blob, at, 5e11);
    }
    let (seen, logits) = run(&model);
    let all: Vec<usize> = (0..TOKENS.len()).collect();
    assert_eq!(seen.markers(0), []);
    assert_eq!(markers(&seen.middles[1]), all, "attention overflows before the feed-forward part");
    for layer in 1..4 {
        assert_eq!(seen.markers(layer), all, "layer {layer}");
        let bytes = seen.states[layer].to_bytes();
        assert_eq!(State::parse(32, &bytes).as_ref(), Ok(&seen.states[layer]), "markers travel");
    }
    assert!(!seen.kv[1].iter().any(is_zero), "keys and values themselves still fit");
    assert!(seen.kv[2].iter().chain(&seen.kv[3]).all(is_zero), "a marker reads as zeros");
    assert!(logits.iter().all(|row| *row == Err(Overflow)));
}

#[test]
fn a_row_scale_that_overflows_values_zeroes_that_head_only() {
    let mut model = tiny();
    let plan = model.manifest.layers[2].clone();
    // Row of the second value head: 4 query heads, 2 key heads, 1 value head before it. The norm's
    // gains help the row scale, which alone may not be large enough.
    patch_row_scale(&mut model, plan.blob, plan.parts.qkv.matrix, 7 * 16 + 3);
    // Smaller queries and keys, so that no score overflows first.
    model.manifest.layers[2].attention.score_scale = 1e-15;
    for element in 0..32 {
        let at = plan.parts.attention_norm.gain.offset + 4 * element;
        patch(&mut model, plan.blob, at, 3e5);
    }
    let (seen, _) = run(&model);
    let flagged: Vec<usize> =
        (0..TOKENS.len()).filter(|&p| seen.kv[2][p].value_scales[1] == 0.0).collect();
    assert!(!flagged.is_empty());
    for &position in &flagged {
        let row = &seen.kv[2][position];
        assert!(row.value_codes[16..].iter().all(|&code| code == 0));
        assert!(row.value_scales[0] > 0.0 && row.key_scales.iter().all(|&scale| scale > 0.0));
        assert!(seen.markers(2).contains(&position), "position {position}");
    }
}

#[test]
fn a_position_that_overflows_leaves_earlier_positions_alone_and_stays_marked() {
    let plain = run(&tiny()).0;
    let mut model = tiny();
    // The embedding of token 17, at positions 1 and 4.
    let (blob, matrix) = (model.manifest.head.embedding_blob, model.manifest.head.embedding);
    patch_row_scale(&mut model, blob, matrix, 17);
    model.manifest.head.embedding_scale = 1e3;
    let mut same_scale = tiny();
    same_scale.manifest.head.embedding_scale = 1e3;
    let (seen, logits) = run(&model);
    let (unmarked, _) = run(&same_scale);
    assert_ne!(plain.states[0], unmarked.states[0], "the scale has an effect");
    for layer in 0..4 {
        assert_eq!(seen.markers(layer), [1, 4], "layer {layer}");
        let first = |seen: &Seen| seen.states[layer].select(&[0]).to_bytes();
        assert_eq!(first(&seen), first(&unmarked), "position 0 sees nothing of it");
        assert!(is_zero(&seen.kv[layer][1]) && is_zero(&seen.kv[layer][4]));
    }
    let overflowed: Vec<bool> = logits.iter().map(Result::is_err).collect();
    assert_eq!(overflowed, [false, true, false, false, true, false]);
}

#[test]
fn logits_that_overflow_in_the_head_are_no_logits() {
    let mut model = tiny();
    let head = model.manifest.head;
    patch_row_scale(&mut model, head.blob, head.output, 0);
    for element in 0..32 {
        patch(&mut model, head.blob, head.norm.gain.offset + 4 * element, 5e11);
    }
    let (seen, logits) = run(&model);
    assert_eq!(seen.markers(3), []);
    assert!(logits.iter().all(|row| *row == Err(Overflow)));
}
