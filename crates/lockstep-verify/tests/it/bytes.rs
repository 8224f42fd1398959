//! Bytes: golden encodings, unique decoding, and hostile input that never panics.

use crate::drive;
use lockstep_exact::Digest;
use lockstep_exact::bytes::{Canonical, DecodeReason};
use lockstep_exact::reference::Reference;
use lockstep_exact::sample::Finish;
use lockstep_verify::audit::{Unverified, audit};
use lockstep_verify::bundle::{Bundle, START_BYTES};
use lockstep_verify::challenge::{Challenge, Side, Target};
use lockstep_verify::draw::Extent;
use lockstep_verify::opening::{Inputs, Opening, SignedOpening};
use lockstep_verify::request::{AuditSeed, Hop, Lease, Request, Reuse};
use lockstep_verify::secret::Secret;
use lockstep_verify::sign::{NodeId, Signature, Statement as _};
use lockstep_verify::statement::{
    HeadStatement, LayerRoots, Mark, Run, RunId, Segment, Step, Takeover,
};
use proptest::prelude::*;

use lockstep_testing::proofs::{Ask, Ring, key, model, node};

/// Fields in hexadecimal; `xx*n` is a byte n times.
fn golden(fields: &[&str]) -> Vec<u8> {
    let byte = |digits: &str| u8::from_str_radix(digits, 16).unwrap();
    let mut out = Vec::new();
    for field in fields {
        for word in field.split(' ') {
            match word.split_once('*') {
                Some((digits, n)) => {
                    out.resize(out.len() + n.parse::<usize>().unwrap(), byte(digits));
                }
                None => {
                    let digits = word.as_bytes().chunks(2).map(|d| str::from_utf8(d).unwrap());
                    out.extend(digits.map(byte));
                }
            }
        }
    }
    out
}

fn is_golden<T: Canonical + PartialEq + std::fmt::Debug>(value: &T, fields: &[&str]) {
    let bytes = golden(fields);
    assert_eq!(value.to_bytes(), bytes, "encoding of {value:?}");
    assert_eq!(T::from_bytes(&bytes).as_ref(), Ok(value));
}

fn a_mark() -> Mark {
    Mark {
        first: 2,
        end: 5,
        epoch: 0,
        position: 300,
        count: 1,
        chain_before: Digest([0x11; 32]),
        input: Digest([0x22; 32]),
        output: Digest([0x33; 32]),
        signature: Signature([0x44; 64]),
    }
}

const A_MARK: [&str; 9] = [
    "02000000", // first
    "05000000", // end
    "00000000", // epoch
    "2c010000", // position
    "01000000", // count
    "11*32",    // chain before
    "22*32",    // input
    "33*32",    // output
    "44*64",    // signature
];

#[test]
fn a_mark_has_these_bytes() {
    is_golden(&a_mark(), &A_MARK);
}

#[test]
fn a_step_has_these_bytes() {
    let step = Step { position: 300, count: 1, marks: vec![a_mark()] };
    let head = [
        "2c010000", // position
        "01000000", // count
        "01000000", // marks
    ];
    is_golden(&step, &[&head[..], &A_MARK].concat());
}

#[test]
fn a_segment_has_these_bytes() {
    let segment = Segment {
        session: Digest([0x11; 32]),
        lease: Digest([0x88; 32]),
        before: RunId(Digest([0x99; 32])),
        takeovers: vec![Takeover { position: 8, run: RunId(Digest([0xbb; 32])) }],
        run_value: Digest([0xaa; 32]),
        node: NodeId([0x22; 32]),
        first: 2,
        end: 3,
        first_position: 7,
        positions: 301,
        input_root: Digest([0x33; 32]),
        layers: vec![LayerRoots { states: Digest([0x44; 32]), kv: Digest([0x55; 32]) }],
        chain: Digest([0x66; 32]),
        deadline_unix_ms: 1_800_000_000_000,
        signature: Signature([0x77; 64]),
    };
    is_golden(
        &segment,
        &[
            "11*32",            // session
            "88*32",            // lease
            "99*32",            // run of the stage before
            "01000000",         // takeovers before it
            "08000000",         // from which position on
            "bb*32",            // by which run
            "aa*32",            // run value
            "22*32",            // node
            "02000000",         // first
            "03000000",         // end
            "07000000",         // first position
            "2d010000",         // positions
            "33*32",            // input root
            "01000000",         // layers
            "44*32",            // states
            "55*32",            // kv
            "66*32",            // chain
            "00505c18a3010000", // deadline
            "77*64",            // signature
        ],
    );
}

#[test]
fn a_head_statement_has_these_bytes() {
    let head = HeadStatement {
        session: Digest([0x11; 32]),
        before: RunId(Digest([0x55; 32])),
        takeovers: Vec::new(),
        tokens: Digest([0x22; 32]),
        finish: Finish::Overflow,
        chain: Digest([0x33; 32]),
        signature: Signature([0x44; 64]),
    };
    is_golden(
        &head,
        &[
            "11*32",    // session
            "55*32",    // run of the last stage
            "00000000", // takeovers before it
            "22*32",    // tokens
            "04",       // finish: overflow
            "33*32",    // chain
            "44*64",    // signature
        ],
    );
}

#[test]
fn a_lease_has_these_bytes() {
    let lease = Lease {
        session: Digest([0x11; 32]),
        epoch: 1,
        manifest: Digest([0x22; 32]),
        adapters: vec![Digest([0x66; 32])],
        reuse: Some(Reuse { session: Digest([0x77; 32]), length: 9 }),
        session_key: NodeId([0x33; 32]),
        prompt_len: 12,
        max_positions: 40,
        route: vec![Hop { node: NodeId([0x44; 32]), first: 0, end: 6 }],
        addresses: vec!["ab".to_owned()],
        signature: Signature([0x55; 64]),
    };
    is_golden(
        &lease,
        &[
            "11*32",         // session
            "01000000",      // epoch
            "22*32",         // manifest
            "01000000",      // adapters
            "66*32",         // adapter
            "01",            // takes over a part of another session
            "77*32",         // that session
            "09000000",      // how many positions
            "33*32",         // session key
            "0c000000",      // prompt length
            "28000000",      // most positions
            "01000000",      // hops
            "44*32",         // node
            "00000000",      // first
            "06000000",      // end
            "01000000",      // addresses
            "02000000 6162", // address
            "55*64",         // signature
        ],
    );
}

#[test]
fn a_challenge_has_these_bytes() {
    let of = |target| Challenge {
        session: Digest([0x11; 32]),
        run: RunId(Digest([0x44; 32])),
        receipt: Digest([0x22; 32]),
        target,
        signature: Signature([0x33; 64]),
    };
    // Layer 3, KV rows 1 to 6, 2 positions: 1, 5; and without any.
    let layer = "00 03000000 01000000 07000000 02000000 01000000 05000000";
    let rows = "00 03000000 00000000 01000000 00000000";
    let head = "01 01000000 09000000"; // 1 position: 9
    let mark = "03 04000000 09000000"; // layer 4, frame at 9
    let edge = "02 04000000 01 00000000 07000000"; // layer 4, sent, from 0, 7 positions
    for (target, bytes) in [
        (Target::Layer { layer: 3, first: 1, end: 7, positions: vec![1, 5] }, layer),
        (Target::Layer { layer: 3, first: 0, end: 1, positions: vec![] }, rows),
        (Target::Head { positions: vec![9] }, head),
        (Target::Edge { layer: 4, side: Side::Sent, first: 0, count: 7 }, edge),
        (Target::Mark { layer: 4, position: 9 }, mark),
    ] {
        is_golden(
            &of(target),
            &[
                "11*32", // session
                "44*32", // run
                "22*32", // receipt
                bytes,   // target
                "33*64", // signature
            ],
        );
    }
}

#[test]
fn challenged_positions_increase_and_lie_among_the_kv_rows_that_are_opened() {
    let refused = |target: Target| Target::from_bytes(&target.to_bytes()).is_err();
    let layer = |first, end, positions: &[u32]| Target::Layer {
        layer: 0,
        first,
        end,
        positions: positions.to_vec(),
    };
    assert!(!refused(layer(2, 6, &[2, 3, 5])) && !refused(layer(2, 6, &[])));
    for (first, end, positions) in [
        (2, 6, &[3, 3][..]),
        (2, 6, &[4, 3]),
        (2, 6, &[1, 3]),
        (2, 6, &[3, 6]),
        (2, 2, &[]),
        (3, 2, &[]),
    ] {
        assert!(refused(layer(first, end, positions)), "{first}..{end}, {positions:?}");
    }
    assert!(refused(Target::Head { positions: vec![] }));
    assert!(refused(Target::Head { positions: vec![5, 4] }));
    let edge = |first, count| Target::Edge { layer: 0, side: Side::Sent, first, count };
    assert!(refused(edge(4, 0)) && refused(edge(u32::MAX, 1)) && !refused(edge(4, 1)));
}

#[test]
fn unknown_kinds_and_other_versions_are_refused() {
    assert!(Side::from_bytes(&[2]).is_err());
    assert!(Extent::from_bytes(&[2]).is_err());
    let challenged = Target::Mark { layer: 0, position: 0 }.to_bytes();
    assert!(Target::from_bytes(&[&[4], &challenged[1..]].concat()).is_err());
    let rows = Inputs::Embeddings(Vec::new()).to_bytes();
    assert!(Inputs::from_bytes(&[&[2], &rows[1..]].concat()).is_err());
    let opening = Opening::Mark(Box::new(a_mark())).to_bytes();
    assert!(Opening::from_bytes(&opening).is_ok());
    assert!(Opening::from_bytes(&[&[4], &opening[1..]].concat()).is_err());
    let (bundle, _, _) = samples();
    // The first and the last of eight letters, and the version after them.
    for at in [0, 7, 8, 9] {
        let mut other = bundle.clone();
        other[at] ^= 1;
        assert!(Bundle::from_bytes(&other).is_err(), "byte {at}");
    }
    let request = Bundle::from_bytes(&bundle).unwrap().receipt.request.to_bytes();
    for at in [0, 1] {
        let mut other = request.clone();
        other[at] ^= 1;
        assert!(Request::from_bytes(&other).is_err(), "byte {at}");
    }
}

#[test]
fn the_lengths_in_a_bundle_are_those_of_its_parts() {
    let (bundle, _, _) = samples();
    let count = |at: usize| u32::from_le_bytes(bundle[at..at + 4].try_into().unwrap());
    // Of receipt, extent and seed; and of the first exchange.
    let head = START_BYTES;
    let exchange = head + 4 + count(head) as usize;
    for at in [head, exchange] {
        for other in [count(at) - 1, count(at) + 1] {
            let mut changed = bundle.clone();
            changed[at..at + 4].copy_from_slice(&other.to_le_bytes());
            let error = Bundle::from_bytes(&changed).unwrap_err();
            assert_eq!(error.reason, DecodeReason::Invalid("has another length"));
        }
    }
}

#[test]
fn a_signed_opening_has_these_bytes() {
    let opening = SignedOpening {
        challenge: Digest([0x11; 32]),
        body: vec![0xab, 0xcd],
        signature: Signature([0x22; 64]),
    };
    is_golden(
        &opening,
        &[
            "11*32",         // challenge
            "02000000 abcd", // body
            "22*64",         // signature
        ],
    );
}

/// What is signed may not change unnoticed: the digests that signatures are over.
#[test]
fn statements_have_these_digests() {
    let session = Digest([0x11; 32]);
    let request = Ring::new(model(), &[]).request(&Ask::new(1, 3, 2));
    let (lease, before, value) =
        (Digest([0x44; 32]), RunId(Digest([0x55; 32])), Digest([0x66; 32]));
    let run = Run { session, lease, before, value, first: 2, end: 5, first_position: 0 };
    let signed = |mark: Mark| mark.signed(run.id(), &node(0)).signature;
    let head = HeadStatement {
        session,
        before,
        takeovers: Vec::new(),
        tokens: Digest([0x22; 32]),
        finish: Finish::Length,
        chain: Digest([0x33; 32]),
        signature: Signature::NONE,
    };
    let challenge = Challenge {
        session,
        run: run.id(),
        receipt: Digest([0x22; 32]),
        target: Target::Head { positions: vec![9] },
        signature: Signature::NONE,
    };
    let got = [
        ("session", request.session().to_string()),
        ("audit seed", AuditSeed::new(Secret::of(&[7; 32])).commitment().to_string()),
        ("challenge", challenge.statement().to_string()),
        ("chain", a_mark().chain_after().to_string()),
        ("run", run.id().0.to_string()),
        ("chain start", Mark::chain_start(run.id()).to_string()),
        ("head", Digest::of(&head.signed(run.id(), &node(0)).signature.0).to_string()),
        ("mark", Digest::of(&signed(a_mark()).0).to_string()),
    ];
    let text: String = got.iter().map(|(name, digest)| format!("{name} {digest}\n")).collect();
    assert_eq!(text, include_str!("statements.txt"), "got:\n{text}");
}

fn samples() -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let session = Ring::new(model(), &[3]).run(&Ask::new(41, 5, 2));
    let bundle = session.bundle(Extent::Sampled).unwrap();
    let opening = bundle.exchanges[0].opening.body.clone();
    (bundle.to_bytes(), opening, key().to_file().to_vec())
}

/// A way to damage bytes.
#[derive(Clone, Debug)]
enum Damage {
    Flip(usize, u8),
    Cut(usize),
    Insert(usize, u8),
    Set(usize, [u8; 4]),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        (any::<usize>(), 1..=255_u8).prop_map(|(at, bits)| Damage::Flip(at, bits)),
        any::<usize>().prop_map(Damage::Cut),
        (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Damage::Insert(at, byte)),
        (any::<usize>(), any::<[u8; 4]>()).prop_map(|(at, bytes)| Damage::Set(at, bytes)),
    ]
}

fn damaged(bytes: &[u8], damage: &[Damage]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for damage in damage {
        let len = bytes.len().max(1);
        match *damage {
            Damage::Flip(at, bits) => {
                if let Some(byte) = bytes.get_mut(at % len) {
                    *byte ^= bits;
                }
            }
            Damage::Cut(at) => bytes.truncate(at % len),
            Damage::Insert(at, byte) => bytes.insert(at % len % (bytes.len() + 1), byte),
            Damage::Set(at, new) => {
                let at = at % len;
                if let Some(old) = bytes.get_mut(at..at + 4) {
                    old.copy_from_slice(&new);
                }
            }
        }
    }
    bytes
}

#[test]
fn fuzz_bundle() {
    let (bundle, _, _) = samples();
    let config = ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() };
    proptest!(config, |(changes in proptest::collection::vec(damage(), 1..4))| {
        let bytes = damaged(&bundle, &changes);
        drive::bundle(&bytes);
        if let Ok(changed) = Bundle::from_bytes(&bytes) && bytes != bundle {
            // A flipped bit of a deadline or a signature cannot go unnoticed either.
            let verdict = audit(&Reference, key(), &changed);
            prop_assert!(verdict.is_err());
        }
    });
}

#[test]
fn fuzz_opening() {
    let (bundle, opening, _) = samples();
    let honest = Bundle::from_bytes(&bundle).unwrap();
    let config = ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() };
    proptest!(config, |(changes in proptest::collection::vec(damage(), 1..4))| {
        let body = damaged(&opening, &changes);
        drive::opening(&body);
        let mut bundle = honest.clone();
        let exchange = &mut bundle.exchanges[0];
        exchange.opening =
            SignedOpening::new(exchange.challenge.statement(), body.clone(), &node(0));
        match audit(&Reference, key(), &bundle) {
            Ok(_) => prop_assert_eq!(body, opening.clone(), "a changed opening passed"),
            Err(Unverified::Failed(fault)) => prop_assert_eq!(fault.stage(), Some(0)),
            Err(other) => prop_assert!(false, "{}", other),
        }
    });
}

#[test]
fn fuzz_key() {
    let (_, _, file) = samples();
    let config = ProptestConfig { cases: 100, failure_persistence: None, ..Default::default() };
    proptest!(config, |(changes in proptest::collection::vec(damage(), 1..4))| {
        drive::key(&damaged(&file, &changes));
    });
}
