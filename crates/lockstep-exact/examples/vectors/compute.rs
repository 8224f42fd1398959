//! Every operation of the vector files: from a case's inputs to its outputs, by the reference.

use lockstep_exact::digest::Digest;
use lockstep_exact::flags::Flags;
use lockstep_exact::kv::{KvCache, KvRow, KvShape, ReadKv as _, ReferenceKv};
use lockstep_exact::matrix::{self, Codec, Packed, QuantisedRow, Shape};
use lockstep_exact::norm::{HeadNorms, Norm};
use lockstep_exact::ops::{AttentionLayer, Device, FieldDots, Host, Place, Products};
use lockstep_exact::plan::AttentionPlan;
use lockstep_exact::reference::{Codes, Reference, Rows, Sums};
use lockstep_exact::state::{self, State};
use lockstep_exact::{blob::Blob, field, num};
use serde_json::{Map, Value, json};

use crate::value::{Input, f32_text, f32s_text, hex, hexes, u64s_text};
use crate::{encodings, model};

/// The outputs of one operation.
pub(crate) fn compute(op: &str, input: &Map<String, Value>) -> Value {
    let input = Input(input);
    let Some((_, function)) = OPS.iter().find(|(name, _)| *name == op) else {
        panic!("no operation is called {op}");
    };
    function(input)
}

type Operation = fn(Input<'_>) -> Value;

/// All operations that vectors know.
pub(crate) const OPS: &[(&str, Operation)] = &[
    ("rne", rne),
    ("f32_of_integer", f32_of_integer),
    ("pow2", pow2),
    ("exp2_fraction", |input| map(input, num::exp2_fraction)),
    ("exp_of_negative", |input| map(input, num::exp_of_negative)),
    ("sigmoid", |input| map(input, num::sigmoid)),
    ("gelu_tanh", |input| map(input, num::gelu_tanh)),
    ("sin_cos_of_turn", sin_cos_of_turn),
    ("block_exponent", block_exponent),
    ("block_i16", block_i16),
    ("quantise", quantise),
    ("embed", embed),
    ("norm", norm),
    ("norm_rows", norm_rows),
    ("quantise_rows", quantise_rows),
    ("matmul", matmul),
    ("dequant", dequant),
    ("add_bias", add_bias),
    ("append", append),
    ("attend", attend),
    ("gate", gate),
    ("choose", choose),
    ("accumulate", accumulate),
    ("residual", residual),
    ("pack", pack),
    ("matrix_bytes", matrix_bytes),
    ("state_bytes", state_bytes),
    ("kv_row", kv_row),
    ("kv_bytes", kv_bytes),
    ("field_reduce", field_reduce),
    ("field_arithmetic", field_arithmetic),
    ("field_dot", field_dot),
    ("digest", encodings::digest),
    ("digest_parts", encodings::digest_parts),
    ("vocabulary", encodings::vocabulary),
    ("manifest", encodings::manifest),
    ("manifest_bytes", encodings::manifest_bytes),
    ("sampling_bytes", encodings::sampling_bytes),
    ("sampling_check", encodings::sampling_check),
    ("stops_bytes", encodings::stops_bytes),
    ("finish_bytes", encodings::finish_bytes),
    ("random", encodings::random),
    ("sample", encodings::sample),
    ("stop", encodings::stop),
    ("fixture_numbers", model::fixture_numbers),
    ("model", model::model),
];

fn map(input: Input<'_>, function: fn(f32) -> f32) -> Value {
    let out: Vec<f32> = input.f32s("x").into_iter().map(function).collect();
    json!({ "y": f32s_text(&out) })
}

fn rne(input: Input<'_>) -> Value {
    let out: Vec<i32> = input.f32s("x").into_iter().map(num::rne).collect();
    json!({ "y": out })
}

fn f32_of_integer(input: Input<'_>) -> Value {
    let integer = |value: &Value| value.as_str().and_then(|text| text.parse::<i64>().ok());
    let integers = input.list("x").iter().map(|value| integer(value).expect("a decimal integer"));
    let out: Vec<f32> = integers.map(|x| x as f32).collect();
    json!({ "y": f32s_text(&out) })
}

fn pow2(input: Input<'_>) -> Value {
    let out: Vec<f32> = input.ints("exponent").into_iter().map(num::pow2).collect();
    json!({ "y": f32s_text(&out) })
}

fn sin_cos_of_turn(input: Input<'_>) -> Value {
    let (sine, cosine): (Vec<f32>, Vec<f32>) =
        input.u64s("phase").into_iter().map(num::sin_cos_of_turn).unzip();
    json!({ "sine": f32s_text(&sine), "cosine": f32s_text(&cosine) })
}

fn block_exponent(input: Input<'_>) -> Value {
    let exponent = |x: f32| match num::block_exponent(x.to_bits() & 0x7fff_ffff) {
        Ok(exponent) => json!(exponent),
        Err(num::Overflow) => json!("overflow"),
    };
    json!({ "e": input.f32s("amax").into_iter().map(exponent).collect::<Vec<_>>() })
}

fn block_i16(input: Input<'_>) -> Value {
    let values = input.f32s("x");
    let mut mantissas = vec![0_i16; values.len()];
    match state::encode_group(&values, &mut mantissas) {
        Ok(byte) => json!({ "mantissas": mantissas, "byte": byte }),
        Err(num::Overflow) => json!({ "overflow": true }),
    }
}

fn quantise(input: Input<'_>) -> Value {
    let values = input.f32s("x");
    let mut codes = vec![0_i16; values.len()];
    match num::quantise(&values, input.int::<i16>("qmax").into(), &mut codes) {
        Ok(scale) => json!({ "codes": codes, "scale": f32_text(scale) }),
        Err(num::Overflow) => json!({ "overflow": true }),
    }
}

pub(crate) fn codec_of(input: Input<'_>) -> Codec {
    Codec::named(input.text("codec")).expect("a codec")
}

fn shape(input: Input<'_>) -> Shape {
    codec_of(input).shape(input.int("rows"), input.int("columns"))
}

fn packed(input: Input<'_>) -> Packed {
    let blob = Blob::new(input.bytes("packed"));
    let slice = blob.slice(0, blob.as_slice().len()).expect("all of it");
    Packed::new(shape(input), slice).expect("a packed matrix")
}

fn state_of(input: Input<'_>) -> State {
    State::parse(input.int("width"), &input.bytes("state")).expect("a state")
}

/// Rows of f32, `width` elements each.
fn rows(width: usize, data: Vec<f32>) -> Rows {
    Rows { width, data }
}

fn no_flags(rows: usize) -> Flags {
    Flags::of(&State::zeros(rows, 1))
}

fn flagged(flags: &Flags, rows: usize) -> Vec<usize> {
    (0..rows).filter(|&row| flags.get(row)).collect()
}

fn embed(input: Input<'_>) -> Value {
    let mut out = State::default();
    Reference.embed(&packed(input), input.f32("scale"), &input.ints("tokens"), &mut out);
    json!({ "state": hex(&out.to_bytes()) })
}

fn norm(input: Input<'_>) -> Value {
    let mut out = Rows::default();
    Reference.norm(&state_of(input), input.f32("eps"), &input.f32s("gain"), &mut out);
    json!({ "y": f32s_text(&out.data) })
}

fn norm_rows(input: Input<'_>) -> Value {
    let gain = input.f32s("gain");
    let mut rows = rows(gain.len(), input.f32s("x"));
    let count = rows.data.len() / rows.width;
    let mut flags = no_flags(count);
    Reference.norm_rows(input.f32("eps"), &gain, &mut rows, &mut flags);
    json!({ "y": f32s_text(&rows.data), "flagged": flagged(&flags, count) })
}

fn quantise_rows(input: Input<'_>) -> Value {
    let x = rows(input.int("width"), input.f32s("x"));
    let count = x.data.len() / x.width;
    let (mut out, mut flags) = (Codes::default(), no_flags(count));
    Reference.quantise(&x, &mut out, &mut flags);
    let flagged = flagged(&flags, count);
    json!({ "codes": out.codes, "scales": f32s_text(&out.scales), "flagged": flagged })
}

fn matmul(input: Input<'_>) -> Value {
    let weights = packed(input);
    let x = Codes { width: weights.shape().columns, codes: input.ints("codes"), scales: vec![] };
    let mut out = Sums::default();
    let Ok(()) = Reference.matmul(&weights, &x, &mut out);
    json!({ "sums": out.data })
}

fn dequant(input: Input<'_>) -> Value {
    let sums = Sums { width: input.int("width"), data: input.ints("sums") };
    let scales = input.f32s("token_scales");
    let x = Codes { width: 1, codes: vec![0; scales.len()], scales };
    let mut out = Rows::default();
    Reference.dequant(&sums, &x, &input.f32s("row_scales"), &mut out);
    json!({ "y": f32s_text(&out.data) })
}

fn add_bias(input: Input<'_>) -> Value {
    let bias = input.f32s("bias");
    let mut rows = rows(bias.len(), input.f32s("x"));
    Reference.add_bias(&bias, &mut rows);
    json!({ "y": f32s_text(&rows.data) })
}

fn attention_plan(input: Input<'_>) -> AttentionPlan {
    AttentionPlan {
        heads: input.int("heads"),
        kv_heads: input.int("kv_heads"),
        head_dim: input.int("head_dim"),
        rope: 0,
        window: if input.has("window") { input.int("window") } else { 0 },
        score_scale: if input.has("score_scale") { input.f32("score_scale") } else { 1.0 },
    }
}

fn kv_shape(input: Input<'_>) -> KvShape {
    KvShape { kv_heads: input.int("kv_heads"), head_dim: input.int("head_dim") }
}

fn places(input: Input<'_>) -> Vec<Place> {
    input.ints("positions").into_iter().map(|position| Place { slot: 0, position }).collect()
}

/// Rows at any positions: positions before them hold zeros here, and are no part of the result.
fn append(input: Input<'_>) -> Value {
    let (plan, places) = (attention_plan(input), places(input));
    let frequencies = input.u64s("rope");
    let norm = |gain| Norm::new(input.f32("eps"), input.f32s(gain));
    let norms =
        input.has("eps").then(|| HeadNorms { query: norm("query_gain"), key: norm("key_gain") });
    let norms = norms.as_ref();
    let layer = AttentionLayer { plan: &plan, rope: &frequencies, norms, index: 0 };
    let qkv = rows(plan.qkv_width(), input.f32s("qkv"));
    let mut cache: ReferenceKv = KvCache::new(&[kv_shape(input)]);
    for position in 0..places[0].position {
        cache.put(0, position, KvRow::default());
    }
    let (mut queries, mut flags) = (Codes::default(), no_flags(places.len()));
    let (wanted, caches) = (input.ints("wanted"), &mut [&mut cache]);
    Reference.append(layer, &qkv, &places, &wanted, caches, &mut queries, &mut flags);
    let row = |place: &Place| {
        let mut row = Vec::new();
        cache.read_row(0, place.position, &mut row);
        row
    };
    json!({
        "kv_rows": hexes(&places.iter().map(row).collect::<Vec<_>>()),
        "codes": queries.codes,
        "scales": f32s_text(&queries.scales),
        "flagged": flagged(&flags, places.len()),
    })
}

/// `kv_rows` are those of the positions from `first` on.
fn attend(input: Input<'_>) -> Value {
    let (plan, places) = (attention_plan(input), places(input));
    let layer = AttentionLayer { plan: &plan, rope: &Vec::new(), norms: None, index: 0 };
    let mut cache: ReferenceKv = KvCache::new(&[kv_shape(input)]);
    let first: usize = input.int("first");
    for position in 0..first {
        cache.put(0, position, KvRow::default());
    }
    for (index, row) in input.byte_strings("kv_rows").iter().enumerate() {
        cache.write_row(0, first + index, row).expect("a KV row");
    }
    let codes = input.ints("codes");
    let queries = Codes { width: plan.query_width(), codes, scales: input.f32s("scales") };
    let (mut out, mut flags) = (Rows::default(), no_flags(places.len()));
    Reference.attend(layer, &queries, &places, &[&mut cache], &mut out, &mut flags);
    json!({ "y": f32s_text(&out.data), "flagged": flagged(&flags, places.len()) })
}

fn gate(input: Input<'_>) -> Value {
    let gate_up = rows(2 * input.int::<usize>("inner"), input.f32s("gate_up"));
    let mut out = Rows::default();
    let activation = encodings::activation_of(input.text("activation"));
    Reference.gate(activation, &gate_up, &mut out);
    json!({ "y": f32s_text(&out.data) })
}

/// The experts of each row, and their weights.
fn choose(input: Input<'_>) -> Value {
    let (experts, logits) = (input.int::<usize>("experts"), input.f32s("logits"));
    let count = logits.len() / experts;
    let (rule, mut flags) = (encodings::rule_of(input), no_flags(count));
    let Ok(choice) = Reference.choose(rule, experts, &rows(experts, logits), &mut flags);
    let mut weights: Vec<Vec<f32>> = vec![Vec::new(); count];
    for group in choice.groups(experts) {
        group.rows.iter().zip(&group.weights).for_each(|(&row, &w)| weights[row].push(w));
    }
    json!({
        "experts": (0..count).map(|row| choice.of_row(row)).collect::<Vec<_>>(),
        "weights": weights.iter().map(|row| f32s_text(row)).collect::<Vec<_>>(),
        "flagged": flagged(&flags, count),
    })
}

fn accumulate(input: Input<'_>) -> Value {
    let width = input.int("width");
    let mut out = rows(width, input.f32s("out"));
    let (x, weights) = (rows(width, input.f32s("x")), input.f32s("weights"));
    Reference.accumulate(&x, &input.ints("rows"), &weights, &mut out);
    json!({ "y": f32s_text(&out.data) })
}

fn residual(input: Input<'_>) -> Value {
    let x = state_of(input);
    let delta = rows(x.width(), input.f32s("delta"));
    let (mut out, mut flags) = (State::default(), no_flags(x.rows()));
    input.ints("flagged").into_iter().for_each(|row| flags.set(row));
    Reference.residual(&x, &delta, &mut out, &mut flags);
    json!({ "state": hex(&out.to_bytes()), "flagged": flagged(&flags, x.rows()) })
}

fn pack(input: Input<'_>) -> Value {
    let row = |row: Input<'_>| QuantisedRow {
        codes: row.ints("codes"),
        group_scales: row.ints("group_scales"),
        shifts: row.ints("shifts"),
        scale: row.f32("scale"),
    };
    let rows: Vec<QuantisedRow> = input.objects("matrix").into_iter().map(row).collect();
    let packed = matrix::pack(shape(input), rows);
    json!({ "packed": hex(&packed), "digest": Digest::of(&packed).to_string() })
}

fn matrix_bytes(input: Input<'_>) -> Value {
    let blob = Blob::new(input.bytes("packed"));
    let slice = blob.slice(0, blob.as_slice().len()).expect("all of it");
    json!({ "accepted": Packed::new(shape(input), slice).is_ok() })
}

fn state_bytes(input: Input<'_>) -> Value {
    let Ok(state) = State::parse(input.int("width"), &input.bytes("state")) else {
        return json!({ "accepted": false });
    };
    let value = |row| (0..state.width()).map(move |element| (row, element));
    let values: Vec<f32> =
        (0..state.rows()).flat_map(value).map(|(row, e)| state.value(row, e)).collect();
    let markers: Vec<usize> = (0..state.rows()).filter(|&row| state.overflowed(row)).collect();
    json!({ "accepted": true, "values": f32s_text(&values), "markers": markers })
}

fn kv_row(input: Input<'_>) -> Value {
    let row = KvRow {
        key_codes: input.ints("key_codes"),
        value_codes: input.ints("value_codes"),
        key_scales: input.f32s("key_scales"),
        value_scales: input.f32s("value_scales"),
    };
    let mut bytes = Vec::new();
    row.write(&mut bytes);
    json!({ "bytes": hex(&bytes) })
}

fn kv_bytes(input: Input<'_>) -> Value {
    json!({ "accepted": KvRow::parse(kv_shape(input), &input.bytes("bytes")).is_ok() })
}

fn field_reduce(input: Input<'_>) -> Value {
    let x = u128::from_str_radix(input.text("x"), 16).expect("hexadecimal");
    json!({ "y": u64s_text(&[field::reduce(x)]) })
}

fn field_arithmetic(input: Input<'_>) -> Value {
    let (a, b) = (input.u64("a"), input.u64("b"));
    json!({
        "sum": u64s_text(&[field::add(a, b)]),
        "difference": u64s_text(&[field::sub(a, b)]),
        "product": u64s_text(&[field::mul(a, b)]),
    })
}

fn field_dot(input: Input<'_>) -> Value {
    let weights = input.u64s("weights");
    let long: Vec<i64> = input.ints("values");
    let short: Option<Vec<i16>> = long.iter().map(|&x| i16::try_from(x).ok()).collect();
    let mut dot = [0];
    Reference.field_dots_i64(&weights, &long, &mut dot);
    if let Some(short) = short {
        let mut of_short = [0];
        Reference.field_dots_i16(&weights, &short, &mut of_short);
        assert_eq!(of_short, dot, "both widths");
    }
    json!({ "y": u64s_text(&dot) })
}
