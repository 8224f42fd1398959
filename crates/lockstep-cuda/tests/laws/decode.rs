//! Cases of whole decode steps.

use lockstep_exact::matrix::{Codec, Packed};
use lockstep_exact::reference::Reference;
use lockstep_exact::state::State;
use lockstep_exact::weights::{self, HeadWeights, LayerWeights};
use lockstep_testing::numbers::Numbers;
use lockstep_testing::tiny_model::{Features, Sizes, TinyModel};

use crate::attention::{around, written};
use crate::record::Record;
use crate::shapes::{self, random_model};
use crate::subject::Subject;

/// Sessions with positions already written, and what they decode.
pub(crate) struct Steps {
    pub(crate) layers: Vec<LayerWeights<Packed>>,
    pub(crate) head: HeadWeights<Packed>,
    /// Whether the span ends with the head.
    pub(crate) to_logits: bool,
    /// `[session][layer]`: canonical rows of the positions so far.
    pub(crate) written: Vec<Vec<Vec<u8>>>,
    pub(crate) inputs: Inputs,
}

/// What the steps begin with.
pub(crate) enum Inputs {
    /// `[step][session]`.
    Tokens(Vec<Vec<u32>>),
    /// One for each step.
    States(Vec<State>),
}

/// What a step gave.
pub(crate) struct Stepped {
    /// Before the first layer, and after each.
    pub(crate) states: Vec<State>,
    /// `[layer][session]`.
    pub(crate) kv_rows: Vec<Vec<Vec<u8>>>,
    /// Of each session; `None` is overflow.
    pub(crate) logits: Vec<Option<Vec<f32>>>,
}

fn check(subject: &dyn Subject, steps: &Steps, what: &str, record: &mut Record) {
    let sessions = steps.written.len();
    for (step, got) in subject.decode(steps).into_iter().enumerate() {
        let what = format!("{what}, {sessions} sessions, step {step}");
        for (layer, rows) in got.kv_rows.iter().enumerate() {
            record.bytes(format!("{what}: KV rows of layer {layer}"), &rows.concat());
        }
        for (layer, state) in got.states.iter().enumerate() {
            record.state(format!("{what}: state {layer}"), state);
        }
        for (session, logits) in got.logits.iter().enumerate() {
            record.bytes(format!("{what}: overflow of {session}"), &[logits.is_none().into()]);
            record.floats(format!("{what}: logits of {session}"), logits.as_deref().unwrap_or(&[]));
        }
    }
}

/// Sessions that have so many positions each, and tokens for some steps.
fn steps(
    numbers: &mut Numbers,
    layers: Vec<LayerWeights<Packed>>,
    head: HeadWeights<Packed>,
    lengths: &[usize],
    count: usize,
) -> Steps {
    let mut of_session = |&length: &usize| {
        let of_layer = |layer: &LayerWeights<Packed>| {
            written(numbers, &layer.plan.attention, length, around(0.01))
        };
        layers.iter().map(of_layer).collect()
    };
    let written: Vec<Vec<Vec<u8>>> = lengths.iter().map(&mut of_session).collect();
    let vocabulary = head.embedding.shape().rows as u64;
    let mut tokens = |_| lengths.iter().map(|_| numbers.below(vocabulary) as u32).collect();
    let inputs = Inputs::Tokens((0..count).map(&mut tokens).collect());
    Steps { layers, head, to_logits: true, written, inputs }
}

fn tiny(
    seed: u64,
    sizes: Sizes,
    features: Features,
) -> (Vec<LayerWeights<Packed>>, HeadWeights<Packed>) {
    let model = TinyModel::with_features(seed, sizes, features);
    let blob = |index| model.blob(index);
    let layers = weights::load_span(&Reference, &model.manifest, model.span(), blob).unwrap();
    (layers, weights::load_head(&Reference, &model.manifest, blob).unwrap())
}

/// Lengths around the ends of pages, for up to 8 sessions.
const LENGTHS: [usize; 8] = [255, 0, 600, 3, 256, 511, 40, 1];

pub(crate) fn decode_of_every_feature(
    subject: &dyn Subject,
    numbers: &mut Numbers,
    record: &mut Record,
) {
    let features = Features::EACH.into_iter().filter(|(_, features)| !features.experts);
    for (name, features) in std::iter::once(("none", Features::NONE)).chain(features) {
        let sizes = Sizes { layers: 3, ..Sizes::default() };
        let (layers, head) = tiny(numbers.next_u64(), sizes, features);
        for sessions in [1, 3, 8] {
            let steps = steps(numbers, layers.clone(), head.clone(), &LENGTHS[..sessions], 2);
            check(subject, &steps, name, record);
        }
    }
}

pub(crate) fn decode_of_every_number_of_sessions(
    subject: &dyn Subject,
    numbers: &mut Numbers,
    record: &mut Record,
) {
    let (layers, head) = tiny(1, Sizes { layers: 2, ..Sizes::default() }, Features::NONE);
    for sessions in 1..=8 {
        let mut steps = steps(numbers, layers.clone(), head.clone(), &LENGTHS[..sessions], 3);
        check(subject, &steps, "to logits", record);
        steps.to_logits = false;
        check(subject, &steps, "to states", record);
    }
}

pub(crate) fn decode_of_odd_sizes(
    subject: &dyn Subject,
    numbers: &mut Numbers,
    record: &mut Record,
) {
    let sizes = |hidden, heads, kv_heads, head_dim, inner| Sizes {
        layers: 2,
        hidden,
        heads,
        kv_heads,
        head_dim,
        inner,
        vocabulary: 300,
        context: 2048,
    };
    for sizes in [
        sizes(32, 1, 1, 2, 16),
        sizes(96, 8, 1, 6, 48),
        sizes(160, 10, 2, 34, 112),
        sizes(288, 4, 4, 80, 320),
        sizes(64, 2, 1, 256, 1040),
    ] {
        for features in [Features::NONE, Features::ALL] {
            let (layers, head) = tiny(numbers.next_u64(), sizes, features);
            for sessions in [1, 2, 6] {
                let lengths = &LENGTHS[2..2 + sessions];
                let steps = steps(numbers, layers.clone(), head.clone(), lengths, 1);
                check(subject, &steps, &format!("{sizes:?}"), record);
            }
        }
    }
}

pub(crate) fn decode_of_real_sizes(
    subject: &dyn Subject,
    numbers: &mut Numbers,
    record: &mut Record,
) {
    for (codec, sizes, layers, lengths) in [
        (Codec::W8, shapes::SMOLLM2, 3, &[700_usize][..]),
        (Codec::W8, shapes::SMOLLM2, 1, &LENGTHS[..5]),
        (Codec::W4, shapes::SMOLLM2, 1, &[300]),
        (Codec::W8, shapes::LLAMA_1B, 1, &[300]),
    ] {
        let sizes = Sizes { vocabulary: 4800, ..sizes };
        let (layer, head) = random_model(1 + numbers.below(1 << 40), codec, sizes);
        let steps = steps(numbers, vec![layer; layers], head, lengths, 1);
        check(subject, &steps, &format!("{codec:?} {sizes:?}"), record);
    }
}

/// States of any canonical size, one of them the overflow marker.
fn states(numbers: &mut Numbers, rows: usize, width: usize) -> State {
    let mut state = State::zeros(rows, width);
    for row in 0..rows {
        let (mantissas, exponents) = state.row_mut(row);
        let largest = [128, 168, 90, 74, 140][row % 5];
        for (mantissas, exponent) in mantissas.chunks_mut(32).zip(exponents) {
            for mantissa in mantissas.iter_mut() {
                *mantissa = (numbers.below(65_535) as i32 - 32_767) as i16;
            }
            mantissas[0] = 32_767;
            *exponent = largest;
        }
        if row % 4 == 3 {
            state.mark_overflow(row);
        }
    }
    state
}

pub(crate) fn decode_of_states_of_any_size(
    subject: &dyn Subject,
    numbers: &mut Numbers,
    record: &mut Record,
) {
    for features in [Features::NONE, Features::ALL] {
        let sizes = Sizes { layers: 2, ..Sizes::default() };
        let (layers, head) = tiny(numbers.next_u64(), sizes, features);
        for sessions in [1, 4, 8] {
            for to_logits in [false, true] {
                let lengths = &LENGTHS[..sessions];
                let mut steps = steps(numbers, layers.clone(), head.clone(), lengths, 0);
                let state = |_| states(numbers, sessions, sizes.hidden as usize);
                steps.inputs = Inputs::States((0..2).map(state).collect());
                steps.to_logits = to_logits;
                check(subject, &steps, "states", record);
            }
        }
        // The marker alone.
        let mut steps = steps(numbers, layers, head, &LENGTHS[..1], 0);
        let mut marker = State::zeros(1, sizes.hidden as usize);
        marker.mark_overflow(0);
        steps.inputs = Inputs::States(vec![marker]);
        check(subject, &steps, "marker", record);
    }
}

pub(crate) fn decode_that_overflows(
    subject: &dyn Subject,
    numbers: &mut Numbers,
    record: &mut Record,
) {
    type Change = fn(&mut LayerWeights<Packed>);
    let scale = |gain: &mut [f32], factor: f32| gain.iter_mut().for_each(|gain| *gain *= factor);
    let changes: [(&str, Change); 4] = [
        ("scores", |layer| {
            layer.parts.attention_norm.gain.iter_mut().for_each(|gain| *gain *= 1e9)
        }),
        ("gates", |layer| layer.parts.ffn_norm.gain.iter_mut().for_each(|gain| *gain *= 1e11)),
        ("norms", |layer| {
            layer.parts.attention_norm.gain.iter_mut().for_each(|gain| *gain *= 1e20)
        }),
        ("sums", |layer| layer.parts.ffn_norm.gain.iter_mut().for_each(|gain| *gain *= 1e8)),
    ];
    for (name, change) in changes {
        for features in [Features::NONE, Features::ALL] {
            let sizes = Sizes { layers: 3, ..Sizes::default() };
            let (mut layers, mut head) = tiny(numbers.next_u64(), sizes, features);
            change(&mut layers[1]);
            for sessions in [1, 4, 7] {
                let lengths = &LENGTHS[..sessions];
                let steps = steps(numbers, layers.clone(), head.clone(), lengths, 2);
                check(subject, &steps, name, record);
            }
            // Logits that are too large, and an input of the head that is.
            let layers = tiny(numbers.next_u64(), sizes, features).0;
            for factor in [1e16, 1e10] {
                scale(&mut head.norm.gain, factor);
                let steps = steps(numbers, layers.clone(), head.clone(), &LENGTHS[..2], 1);
                check(subject, &steps, &format!("head, {factor}"), record);
            }
        }
    }
}
