//! Sampling with each parameter, the generator, parameter ranges and stop rules.

use lockstep_exact::num::OVERFLOW_BITS;
use serde_json::{Value, json};

use super::{Cases, Dice};
use crate::value::{f32_text, f32s_text, hexes, u64s_text};

pub(crate) fn cases() -> Cases {
    let mut cases = randoms();
    cases.extend(samples());
    cases.extend(edges());
    cases.extend(ranges());
    cases.extend(stops());
    cases
}

fn randoms() -> Cases {
    let mut dice = Dice::new(6);
    let mut pairs = vec![(0, 0), (0, 1), (1, 0), (u64::MAX, 1 << 20)];
    pairs.extend((0..8).map(|_| (dice.word(), dice.below(5000))));
    let case = |(seed, position): &(u64, u64)| {
        ("random", json!({ "seed": u64s_text(&[*seed]), "position": position }))
    };
    pairs.iter().map(case).collect()
}

fn case(logits: &[f32], sampling: Value, prompt: &[u32], answer: &[u32]) -> (&'static str, Value) {
    let logits = f32s_text(logits);
    let input =
        json!({ "logits": logits, "sampling": sampling, "prompt": prompt, "answer": answer });
    ("sample", input)
}

/// One parameter after the other, then all of them, several draws of each.
fn samples() -> Cases {
    let mut dice = Dice::new(7);
    let logits: Vec<f32> = (0..48).map(|_| dice.f32(-3, 2)).collect();
    let text = f32_text;
    let parameters = [
        json!({}),
        json!({ "temperature": text(0.7) }),
        json!({ "temperature": text(100.0) }),
        json!({ "temperature": text(0.01) }),
        json!({ "temperature": text(1.0), "top_k": 3 }),
        json!({ "temperature": text(2.0), "top_k": 1000 }),
        json!({ "temperature": text(1.0), "top_p": text(0.5) }),
        json!({ "temperature": text(1.0), "top_p": text(1e-9) }),
        json!({ "temperature": text(1.0), "min_p": text(0.2) }),
        json!({ "temperature": text(1.0), "min_p": text(1.0) }),
        json!({ "temperature": text(1.0), "repetition_penalty": text(1.7) }),
        json!({ "temperature": text(1.0), "presence_penalty": text(1.5) }),
        json!({ "temperature": text(1.0), "frequency_penalty": text(0.75) }),
        json!({ "repetition_penalty": text(3.0), "presence_penalty": text(-2.0) }),
        json!({ "logit_bias": [
            { "token": 0, "bias": text(9.5) }, { "token": 47, "bias": text(9.25) },
        ] }),
        json!({
            "temperature": text(1.3), "top_k": 20, "top_p": text(0.9), "min_p": text(0.02),
            "repetition_penalty": text(1.2), "presence_penalty": text(0.3),
            "frequency_penalty": text(0.1), "logit_bias": [{ "token": 5, "bias": text(1.0) }],
        }),
    ];
    let history: Vec<u32> = (0..30).map(|_| dice.below(48) as u32).collect();
    let mut cases = Cases::new();
    for parameters in parameters {
        for round in 0..4 {
            let mut sampling = parameters.clone();
            sampling["seed"] = u64s_text(&[dice.word()]);
            let (prompt, answer) = history.split_at(10 + 5 * round);
            cases.push(case(&logits, sampling, prompt, answer));
        }
    }
    cases
}

fn edges() -> Cases {
    let text = f32_text;
    let hot = json!({ "temperature": text(1.0) });
    let limit = f32::from_bits(OVERFLOW_BITS);
    let below = f32::from_bits(OVERFLOW_BITS - 1);
    let two_equal = json!({ "temperature": text(1.0), "top_k": 1 });
    let mut cases = vec![
        case(&[-1.0, -0.0, 0.0], json!({}), &[], &[]),
        case(&[0.0, 3.0, 3.0], json!({}), &[], &[]),
        case(&[0.0, 3.0, 3.0], two_equal, &[], &[]),
        case(&[-0.0, 0.0, -0.0], json!({ "temperature": text(1.0), "top_k": 2 }), &[], &[]),
        case(&[1.0, f32::NAN], json!({}), &[], &[]),
        case(&[1.0, -limit], json!({}), &[], &[]),
        case(&[1.0, below, -below], hot.clone(), &[], &[]),
        case(&[1.0, below], json!({ "repetition_penalty": text(0.5) }), &[1], &[]),
        case(&[1.0, -below], json!({ "repetition_penalty": text(2.0) }), &[], &[1]),
        case(&[3.0, 2.0], json!({ "repetition_penalty": text(2.0) }), &[0, 0], &[0]),
        // Only tokens within 30 powers of two have a weight.
        case(&[0.0, -21.4, -21.5, -100.0], hot.clone(), &[4, 4, 4], &[]),
        // A token that the model does not have.
        case(&[1.0, 2.0], json!({ "repetition_penalty": text(2.0) }), &[7], &[9]),
    ];
    let mut allowed = |ids: &[u32], sampling: &Value| {
        let mut masked = case(&[5.0, 4.0, 3.0, 3.0], sampling.clone(), &[1], &[2]);
        masked.1["allowed"] = json!(ids);
        cases.push(masked);
    };
    allowed(&[1, 2, 3], &json!({}));
    allowed(&[2, 3], &hot);
    allowed(&[], &json!({}));
    // Equal weights, where the shares meet top_p and min_p exactly.
    for seed in 0..4 {
        for (name, value) in [("top_p", 0.5), ("min_p", 1.0)] {
            let mut sampling = json!({ "temperature": text(1.0), "seed": u64s_text(&[seed]) });
            sampling[name] = text(value);
            cases.push(case(&[1.0, 1.0], sampling, &[], &[]));
        }
    }
    // A word so large that the draw falls among the 400 tokens whose weight rounds to 1.
    let mut tail = vec![-21.0; 401];
    tail[0] = 0.0;
    let rare = json!({ "temperature": text(1.0), "seed": u64s_text(&[587_176]) });
    cases.push(case(&tail, rare, &[], &[]));
    cases
}

fn ranges() -> Cases {
    let text = f32_text;
    let bias = |tokens: &[u32], bias: f32| -> Vec<Value> {
        tokens.iter().map(|token| json!({ "token": token, "bias": text(bias) })).collect()
    };
    let tried = [
        json!({}),
        json!({ "temperature": text(0.01), "top_p": text(1e-30), "min_p": text(1.0) }),
        json!({ "temperature": text(0.009) }),
        json!({ "temperature": text(100.1) }),
        json!({ "temperature": text(-0.0) }),
        json!({ "temperature": text(f32::NAN) }),
        json!({ "top_p": text(0.0) }),
        json!({ "top_p": text(1.000_001) }),
        json!({ "min_p": text(-0.1) }),
        json!({ "min_p": text(1.1) }),
        json!({ "repetition_penalty": text(0.0) }),
        json!({ "repetition_penalty": text(101.0) }),
        json!({ "presence_penalty": text(-100.5) }),
        json!({ "frequency_penalty": text(f32::INFINITY) }),
        json!({ "logit_bias": bias(&[0, 9], 1000.0) }),
        json!({ "logit_bias": bias(&[0, 10], 0.0) }),
        json!({ "logit_bias": bias(&[3, 3], 0.0) }),
        json!({ "logit_bias": bias(&[4, 3], 0.0) }),
        json!({ "logit_bias": bias(&[3], 1000.1) }),
    ];
    let case = |sampling| ("sampling_check", json!({ "sampling": sampling, "vocabulary": 10 }));
    tried.into_iter().map(case).collect()
}

fn stops() -> Cases {
    let words: [&[u8]; 6] = [b"ab", b"cd", b"x", b"<end>", b"", b"bcdab"];
    let case = |strings: &[&[u8]], max: u32, ignore: bool, context: u32, tokens: &[u32]| {
        let stops = json!({ "max_tokens": max, "ignore_end": ignore, "strings": hexes(strings) });
        let input = json!({
            "vocabulary": hexes(&words), "end_tokens": [3], "context": context, "prompt_len": 10,
            "stops": stops, "tokens": tokens,
        });
        ("stop", input)
    };
    vec![
        case(&[b"bcd"], 9, false, 100, &[0, 1, 2]),
        case(&[b"bcd"], 9, false, 100, &[0, 4, 1, 2]),
        case(&[b"bcd"], 9, false, 100, &[0, 2, 1, 3]),
        case(&[b"abcdx", b"zz"], 9, false, 100, &[2, 0, 1, 2]),
        case(&[b"cda"], 9, false, 100, &[2, 5, 2]),
        case(&[b"<end>"], 9, false, 100, &[3]),
        case(&[b"<end>"], 9, true, 100, &[2, 3]),
        case(&[], 9, true, 100, &[3, 3, 2]),
        case(&[], 3, false, 100, &[2, 2, 2, 2]),
        case(&[], 0, false, 100, &[2, 2]),
        case(&[], 9, false, 12, &[2, 2, 2]),
        case(&[], 2, false, 12, &[2, 2, 2]),
        case(&[b"x"], 1, false, 11, &[2]),
        case(&[], 1, false, 11, &[3]),
        case(&[], 9, false, 5, &[2, 2]),
        case(&[b"ababab"], 9, false, 100, &[0, 0, 2, 0, 0, 0]),
        case(&[b"y"], 9, false, 100, &[0, 99, 2]),
    ]
}
