//! The forward pass on a device of its own: whatever it computes with lies behind handles, the
//! bits are the reference's, and the host waits for nothing within a layer but the router's choice.

use lockstep_exact::forward::{self, Probe, Row, Scratch, Sees, logits};
use lockstep_exact::kv::{KvCache, KvShape};
use lockstep_exact::num::Overflow;
use lockstep_exact::ops::{Device, KvOf, Place, StateOf};
use lockstep_exact::reference::Reference;
use lockstep_exact::state::State;
use lockstep_exact::weights::{Backend, load_head, load_span};
use lockstep_testing::device::{Asked, Lost, Stub};
use lockstep_testing::shown::Everything;
use lockstep_testing::tiny_model::{Features, Sizes, TinyModel};

const TOKENS: [u32; 11] = [5, 17, 200, 31, 17, 64, 3, 3, 90, 1, 255];
/// Positions of a chunk: the last is shorter.
const CHUNK: usize = 4;
const CHUNKS: usize = TOKENS.len().div_ceil(CHUNK);

/// Sees only states.
#[derive(Default)]
struct States(usize);

impl Probe for States {
    const SEES: Sees = Sees { state: true, ..Sees::NOTHING };

    fn state(&mut self, _layer: u32, _rows: &[Row], _state: &State) {
        self.0 += 1;
    }
}

fn model(features: Features) -> TinyModel {
    TinyModel::with_features(7, Sizes { layers: 3, ..Sizes::default() }, features)
}

/// The bits of one row's logits.
type Logits = Result<Vec<u32>, Overflow>;

/// Serves tokens; the last of each chunk feeds the head.
fn serve<O: Backend>(
    ops: &O,
    model: &TinyModel,
    tokens: &[u32],
    probe: &mut impl Probe,
) -> Result<Vec<Logits>, O::Error> {
    let head = load_head(ops, &model.manifest, |b| model.blob(b)).unwrap();
    let layers = load_span(ops, &model.manifest, model.span(), |b| model.blob(b)).unwrap();
    let shapes: Vec<KvShape> = layers.iter().map(|layer| layer.kv_shape()).collect();
    let mut cache = KvOf::<O>::new(&shapes);
    let (mut scratch, mut out) = (Scratch::default(), Vec::new());
    for (chunk, tokens) in tokens.chunks(CHUNK).enumerate() {
        let row = |at: usize| Row {
            place: Place { slot: 0, position: chunk * CHUNK + at },
            feeds_head: at + 1 == tokens.len(),
        };
        let mut rows: Vec<Row> = (0..tokens.len()).map(row).collect();
        let mut state = StateOf::<O>::default();
        ops.device().embed(&head.embedding, head.embedding_scale, tokens, &mut state);
        let caches = &mut [&mut cache];
        let state = forward::serve(ops, &layers, &rows, caches, state, &mut scratch, probe)?;
        rows.retain(|row| row.feeds_head);
        let all = logits(ops, &head, &rows, &state, &mut scratch, probe)?;
        let bits = |row: Vec<f32>| row.iter().map(|logit| logit.to_bits()).collect();
        out.extend(all.into_iter().map(|row| row.map(bits)));
    }
    Ok(out)
}

#[test]
fn a_model_behind_handles_gives_the_same_bits_and_is_never_waited_for_in_a_layer() {
    for (name, features) in Features::EACH {
        let model = model(features);
        let mut expected = Everything::default();
        let Ok(logits) = serve(&Reference, &model, &TOKENS, &mut expected);
        assert_eq!(logits.len(), CHUNKS);
        let (stub, mut seen) = (Stub::default(), Everything::default());
        assert_eq!(serve(&stub, &model, &TOKENS, &mut seen), Ok(logits), "{name}");
        assert_eq!(seen, expected, "{name}");
        let tickets = expected.shown();
        let choices = expected.choices.len();
        assert_eq!(choices > 0, features.experts, "{name}");
        let asked = Asked { tickets, waits_in_layers: 0, waits: tickets, choices, logits: CHUNKS };
        assert_eq!(stub.asked(), asked, "{name}");
    }
}

#[test]
fn only_what_a_probe_looks_at_is_copied() {
    let model = model(Features::default());
    let stub = Stub::default();
    serve(&stub, &model, &TOKENS, &mut ()).unwrap();
    assert_eq!(stub.asked(), Asked { logits: CHUNKS, ..Asked::default() });
    let (stub, mut states) = (Stub::default(), States::default());
    serve(&stub, &model, &TOKENS, &mut states).unwrap();
    assert_eq!(states.0, CHUNKS * 3);
    let copies = Asked { tickets: states.0, waits: states.0, ..Asked::default() };
    assert_eq!(stub.asked(), Asked { logits: CHUNKS, ..copies });
}

#[test]
fn a_backend_that_computes_spans_at_once_is_asked_for_them_unless_sums_are_seen() {
    let model = model(Features::default());
    let mut expected = States::default();
    let Ok(logits) = serve(&Reference, &model, &TOKENS, &mut expected);
    let (stub, mut states) = (Stub::of_spans(), States::default());
    assert_eq!(serve(&stub, &model, &TOKENS, &mut states), Ok(logits.clone()));
    assert_eq!((states.0, stub.spans()), (expected.0, Some(CHUNKS)));
    let (stub, mut everything) = (Stub::of_spans(), Everything::default());
    assert_eq!(serve(&stub, &model, &TOKENS, &mut everything), Ok(logits));
    assert_eq!(stub.spans(), Some(0), "layer by layer");
    assert!(!everything.sums.is_empty());
}

#[test]
fn a_device_that_fails_ends_the_pass_with_its_error_wherever_it_fails() {
    let features = Features { experts: true, shared_expert: true, ..Features::default() };
    // Two chunks: every answer that can be the first to fail costs a run.
    let (model, tokens) = (model(features), &TOKENS[..CHUNK + 1]);
    let (stub, mut all) = (Stub::default(), Everything::default());
    serve(&stub, &model, tokens, &mut all).unwrap();
    let answers = all.shown() + all.choices.len() + 2;
    let mut shown = Vec::new();
    for times in 0..answers {
        let (stub, mut seen) = (Stub::that_answers(times), Everything::default());
        assert_eq!(serve(&stub, &model, tokens, &mut seen), Err(Lost), "after {times} answers");
        assert!(seen.shown() <= times, "nothing is shown that has not arrived");
        shown.push(seen.shown());
    }
    assert!(shown.is_sorted());
    let (stub, mut seen) = (Stub::that_answers(answers), Everything::default());
    assert!(serve(&stub, &model, tokens, &mut seen).is_ok());
    assert_eq!(seen, all);
}
