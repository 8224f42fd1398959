//! The answer does not depend on splits, batches or chunks.

use lockstep_exact::forward::{Row, Scratch, forward, logits};
use lockstep_exact::kv::{KvCache, ReferenceKv};
use lockstep_exact::ops::{Device, Place};
use lockstep_exact::reference::Reference;
use lockstep_exact::state::State;
use lockstep_exact::weights::{load_head, load_span};
use lockstep_testing::tiny_model::{Features, Sizes, TinyModel};

fn prompt(len: usize) -> Vec<u32> {
    (0..len as u32).map(|i| (i * 37 + 11) % 256).collect()
}

/// The last position's logits, as bits, of a prompt fed in chunks through spans that end at `cuts`.
fn run(model: &TinyModel, prompt: &[u32], cuts: &[u32], chunk: usize) -> Vec<u32> {
    let ops = Reference;
    let head = load_head(&ops, &model.manifest, |b| model.blob(b)).unwrap();
    let mut bounds = vec![0];
    bounds.extend_from_slice(cuts);
    bounds.push(model.span().end);
    let spans: Vec<_> = bounds
        .windows(2)
        .map(|w| load_span(&ops, &model.manifest, w[0]..w[1], |b| model.blob(b)).unwrap())
        .collect();
    let mut caches: Vec<ReferenceKv> = spans
        .iter()
        .map(|span| KvCache::new(&span.iter().map(|l| l.kv_shape()).collect::<Vec<_>>()))
        .collect();
    let mut scratch = Scratch::default();
    let mut state = State::default();
    for (index, tokens) in prompt.chunks(chunk).enumerate() {
        let rows: Vec<Row> = (0..tokens.len())
            .map(|i| index * chunk + i)
            .map(|position| Row {
                place: Place { slot: 0, position },
                feeds_head: position + 1 == prompt.len(),
            })
            .collect();
        ops.embed(&head.embedding, head.embedding_scale, tokens, &mut state);
        for (span, cache) in spans.iter().zip(&mut caches) {
            let caches = &mut [cache];
            state = forward(&ops, span, &rows, caches, state, &mut scratch, &mut ()).unwrap();
        }
    }
    let row = Row { place: Place { slot: 0, position: prompt.len() - 1 }, feeds_head: true };
    let out = logits(&ops, &head, &[row], &state, &mut scratch, &mut ()).unwrap();
    out[0].as_ref().unwrap().iter().map(|x| x.to_bits()).collect()
}

#[test]
fn splits_and_chunks_do_not_change_a_bit_of_any_family() {
    let prompt = prompt(30);
    let sizes = Sizes { layers: 3, ..Sizes::default() };
    let plain = run(&TinyModel::with_sizes(1, sizes), &prompt, &[], 30);
    for (name, features) in Features::EACH {
        let model = TinyModel::with_features(1, sizes, features);
        let whole = run(&model, &prompt, &[], 30);
        assert_ne!(whole, plain, "{name} changes the answer");
        for (cuts, chunk) in [(&[1][..], 30), (&[2], 7), (&[1, 2], 1)] {
            assert_eq!(run(&model, &prompt, cuts, chunk), whole, "{name}");
        }
    }
}

#[test]
fn splits_and_chunks_do_not_change_a_bit() {
    let model = TinyModel::new(1);
    let prompt = prompt(70);
    let whole = run(&model, &prompt, &[], 70);
    assert!(whole.iter().any(|&bits| bits != whole[0]), "logits differ from each other");
    for cut in 1..6 {
        assert_eq!(run(&model, &prompt, &[cut], 70), whole, "cut at {cut}");
    }
    assert_eq!(run(&model, &prompt, &[1, 2, 3, 4, 5], 70), whole);
    for chunk in [1, 7, 64] {
        assert_eq!(run(&model, &prompt, &[2], chunk), whole, "chunks of {chunk}");
    }
}

#[test]
fn a_model_is_a_pure_function_of_its_seed() {
    assert_eq!(TinyModel::new(1).manifest.id(), TinyModel::new(1).manifest.id());
    assert_ne!(TinyModel::new(1).manifest.id(), TinyModel::new(2).manifest.id());
}

/// As [`run`], for a model whose layers differ in their windows, over a border of chunks.
#[test]
fn rows_fed_one_at_a_time_attend_as_rows_fed_together_across_chunks_and_windows() {
    let sizes =
        Sizes { layers: 3, hidden: 32, heads: 2, kv_heads: 1, inner: 32, ..Sizes::default() };
    let mut model = TinyModel::with_sizes(8, sizes);
    for (layer, window) in model.manifest.layers.iter_mut().zip([0, 100, 1]) {
        layer.attention.window = window;
    }
    let prompt = prompt(300);
    let whole = run(&model, &prompt, &[], 300);
    for (cuts, chunk) in [(&[][..], 1), (&[1][..], 13), (&[1, 2][..], 256), (&[2][..], 255)] {
        assert_eq!(run(&model, &prompt, cuts, chunk), whole, "cuts {cuts:?}, chunks of {chunk}");
    }
    model.manifest.layers[1].attention.window = 101;
    assert_ne!(run(&model, &prompt, &[], 300), whole, "a window is seen");
}

#[test]
fn sessions_in_one_batch_do_not_see_each_other() {
    let model = TinyModel::new(6);
    let ops = Reference;
    let head = load_head(&ops, &model.manifest, |b| model.blob(b)).unwrap();
    let span = load_span(&ops, &model.manifest, model.span(), |b| model.blob(b)).unwrap();
    let shapes: Vec<_> = span.iter().map(|l| l.kv_shape()).collect();
    let (one, two) = (prompt(9), prompt(20)[9..].to_vec());
    let mut caches: [ReferenceKv; 2] = [KvCache::new(&shapes), KvCache::new(&shapes)];
    let [first, second] = &mut caches;
    // Rows of both sessions alternate while both have some.
    let mut rows = Vec::new();
    let mut tokens = Vec::new();
    for position in 0..one.len().max(two.len()) {
        for (slot, prompt) in [&one, &two].into_iter().enumerate() {
            if let Some(&token) = prompt.get(position) {
                let feeds_head = position + 1 == prompt.len();
                rows.push(Row { place: Place { slot, position }, feeds_head });
                tokens.push(token);
            }
        }
    }
    let (mut state, mut scratch) = (State::default(), Scratch::default());
    ops.embed(&head.embedding, head.embedding_scale, &tokens, &mut state);
    let caches = &mut [first, second];
    let state = forward(&ops, &span, &rows, caches, state, &mut scratch, &mut ()).unwrap();
    rows.retain(|row| row.feeds_head);
    let out = logits(&ops, &head, &rows, &state, &mut scratch, &mut ()).unwrap();
    let bits = |row: usize| -> Vec<u32> {
        out[row].as_ref().unwrap().iter().map(|x| x.to_bits()).collect()
    };
    assert_eq!(bits(0), run(&model, &one, &[], one.len()));
    assert_eq!(bits(1), run(&model, &two, &[], two.len()));
}
