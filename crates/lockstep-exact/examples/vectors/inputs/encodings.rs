//! Digests, the vocabulary, parameters and finish reasons.

use lockstep_exact::bytes::Canonical;
use lockstep_exact::vocabulary::Vocabulary;
use serde_json::json;

use super::{Cases, Dice};
use crate::value::{hex, hexes, u64s_text};

pub(crate) fn cases() -> Cases {
    let mut cases = digests();
    cases.extend(vocabularies());
    cases.extend(parameters());
    cases
}

fn digests() -> Cases {
    let mut dice = Dice::new(5);
    let mut cases = Cases::new();
    // Around blocks of 64 bytes and chunks of 1024, and trees of two and more chunks.
    for len in [0, 1, 63, 64, 65, 1023, 1024, 1025, 2048, 2049, 3073, 5000] {
        let bytes: Vec<u8> = (0..len).map(|_| dice.word() as u8).collect();
        cases.push(("digest", json!({ "bytes": hex(&bytes) })));
    }
    let parts: [&[&[u8]]; 5] = [&[], &[b""], &[b"ab", b"c"], &[b"a", b"bc"], &[&[7; 1500], b"x"]];
    for context in ["lockstep 2026 vectors", "lockstep 2026 sampler randomness"] {
        for parts in parts {
            cases.push(("digest_parts", json!({ "context": context, "parts": hexes(parts) })));
        }
    }
    cases
}

fn vocabularies() -> Cases {
    let tokens: [&[u8]; 4] = [b"a", b"", b"\xff\x00", b"<end>"];
    let good = Vocabulary::new(tokens).expect("short tokens").to_bytes();
    let mut long = good.clone();
    long.push(0);
    let mut too_long = vec![1, 0, 0, 0, 1, 4];
    too_long.extend([b'x'; 1025]);
    let mut longest = vec![1, 0, 0, 0, 0, 4];
    longest.extend([b'x'; 1024]);
    let short = good[..good.len() - 1].to_vec();
    let claims = vec![255, 255, 15, 0, 0, 0];
    let tried = [good, long, short, longest, too_long, claims, vec![0; 4], vec![0; 3]];
    tried.iter().map(|bytes| ("vocabulary", json!({ "bytes": hex(bytes) }))).collect()
}

fn parameters() -> Cases {
    let full = json!({
        "temperature": "3f4ccccd", "top_k": 40, "top_p": "3f733333", "min_p": "3d4ccccd",
        "repetition_penalty": "3f8ccccd", "presence_penalty": "3e800000",
        "frequency_penalty": "be800000",
        "logit_bias": [{ "token": 3, "bias": "c0a00000" }, { "token": 9, "bias": "41200000" }],
        "seed": u64s_text(&[0x0123_4567_89ab_cdef]),
    });
    let stops = |max, ignore, strings: &[&[u8]]| {
        let strings = hexes(strings);
        json!({ "stops": { "max_tokens": max, "ignore_end": ignore, "strings": strings } })
    };
    let mut cases = vec![
        ("sampling_bytes", json!({ "sampling": {} })),
        ("sampling_bytes", json!({ "sampling": full })),
        ("stops_bytes", stops(16, false, &[])),
        ("stops_bytes", stops(4_000_000_000_u32, true, &[b"\n\n", b"</s>"])),
    ];
    for finish in ["end token", "stop string", "length", "context", "overflow"] {
        cases.push(("finish_bytes", json!({ "finish": finish })));
    }
    cases
}
