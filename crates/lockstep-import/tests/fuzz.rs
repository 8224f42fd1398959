//! The fuzz targets in bounds: damaged files and blobs neither panic nor break a promise.

mod support;

use std::sync::OnceLock;

use lockstep_exact::bytes::Canonical;
use lockstep_import::package::{MemorySink, ModelFile};
use lockstep_testing::tiny_model::TinyModel;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::Value;
use support::{File, Meta, drive, tiny, tiny_pieces};

/// Places in a file of `len` bytes to overwrite, often near its beginning, with what.
fn damages(len: usize) -> impl Strategy<Value = Vec<(usize, u8)>> {
    let place = prop_oneof![0..len.min(600), 0..len];
    let byte = prop_oneof![any::<u8>(), Just(0), Just(255), Just(1), Just(128)];
    prop::collection::vec((place, byte), 1..5)
}

fn damaged(whole: &[u8], damages: &[(usize, u8)], keep: usize) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    for (place, byte) in damages {
        bytes[*place] = *byte;
    }
    bytes.truncate(keep);
    bytes
}

fn tiny_file() -> &'static [u8] {
    static FILE: OnceLock<Vec<u8>> = OnceLock::new();
    FILE.get_or_init(|| tiny().bytes())
}

/// Types of 256 elements a block, and the bytes of one.
const LONG_TYPES: [(u32, usize); 15] = [
    (10, 84),
    (11, 110),
    (12, 144),
    (13, 176),
    (14, 210),
    (16, 66),
    (17, 74),
    (18, 98),
    (19, 50),
    (21, 110),
    (22, 82),
    (23, 136),
    (29, 56),
    (34, 54),
    (35, 66),
];
/// Types of 32 elements a block.
const SHORT_TYPES: [(u32, usize); 3] = [(20, 18), (39, 17), (8, 34)];

/// Bytes in which no scale is infinite.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 % 60) as u8).collect()
}

/// Tiny models in which every matrix whose rows are long enough is in K-quants and the like.
fn quantised_files() -> &'static [Vec<u8>] {
    static FILES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    let file = |(at, pair): (usize, &[(u32, usize)])| {
        let mut file = tiny();
        file.set("llama.feed_forward_length", Meta::U32(256));
        for layer in 0..2 {
            let (ty, size) = SHORT_TYPES[at % SHORT_TYPES.len()];
            for part in ["ffn_gate", "ffn_up"] {
                let tensor = file.tensor(&format!("blk.{layer}.{part}.weight"));
                tensor.dims = vec![32, 256];
                (tensor.ty, tensor.bytes) = (ty, pattern(256 * size));
            }
            let tensor = file.tensor(&format!("blk.{layer}.ffn_down.weight"));
            tensor.dims = vec![256, 32];
            let (ty, size) = pair[layer % pair.len()];
            (tensor.ty, tensor.bytes) = (ty, pattern(32 * size));
        }
        file.bytes()
    };
    FILES.get_or_init(|| LONG_TYPES.chunks(2).enumerate().map(file).collect())
}

fn tiny_pieces_file() -> &'static [u8] {
    static FILE: OnceLock<Vec<u8>> = OnceLock::new();
    FILE.get_or_init(|| tiny_pieces().bytes())
}

/// The tokenizer target's input for a tiny model: vocabulary length, vocabulary, definition.
fn tokenizer_of(file: &File) -> Vec<u8> {
    let mut sink = MemorySink::default();
    let file = file.bytes();
    let model = ModelFile::open(&file).unwrap();
    let manifest = model.import(&mut sink, |_| ()).unwrap();
    let blob = |index: u32| sink.get(&manifest.blobs[index as usize].digest).unwrap();
    let vocabulary = blob(manifest.vocabulary_blob);
    let len = u16::try_from(vocabulary.len()).unwrap().to_le_bytes();
    [&len[..], vocabulary, blob(manifest.tokenizer_blob)].concat()
}

fn tiny_tokenizer() -> &'static [u8] {
    static BLOBS: OnceLock<Vec<u8>> = OnceLock::new();
    BLOBS.get_or_init(|| tokenizer_of(&tiny()))
}

fn pieces_tokenizer() -> &'static [u8] {
    static BLOBS: OnceLock<Vec<u8>> = OnceLock::new();
    BLOBS.get_or_init(|| tokenizer_of(&tiny_pieces()))
}

fn tiny_manifest() -> &'static [u8] {
    static MANIFEST: OnceLock<Vec<u8>> = OnceLock::new();
    MANIFEST.get_or_init(|| TinyModel::new(1).manifest.to_bytes())
}

/// Sources of chat templates: every construct that is tested, and those of some families.
fn templates() -> &'static [Vec<u8>] {
    static SOURCES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    SOURCES.get_or_init(|| {
        let features: Value = serde_json::from_str(include_str!("golden/features.json")).unwrap();
        let features = features.as_array().unwrap().iter();
        let constructs = features.map(|feature| feature["template"].as_str().unwrap());
        let families = [
            include_str!("golden/templates/llama3.2.jinja"),
            include_str!("golden/templates/mistral-v3.jinja"),
            include_str!("golden/templates/qwen3.jinja"),
        ];
        constructs.chain(families).map(|source| source.as_bytes().to_vec()).collect()
    })
}

/// What templates are made of.
const MARKS: [&str; 28] = [
    "{{",
    "}}",
    "{%",
    "%}",
    "{#",
    "#}",
    "-",
    "'",
    "\"",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ".",
    ",",
    "|",
    ":",
    "~",
    "*",
    "**",
    "%",
    "999999999",
    "messages",
    "loop",
    "endfor",
    "\u{e9}",
];

/// A template with the end of another, and marks put in at some places.
fn spliced(one: usize, other: usize, cuts: (usize, usize), marks: &[(usize, usize)]) -> Vec<u8> {
    let (one, other) = (&templates()[one], &templates()[other]);
    let mut source = one[..cuts.0 % (one.len() + 1)].to_vec();
    source.extend(&other[cuts.1 % (other.len() + 1)..]);
    for (place, mark) in marks {
        let at = place % (source.len() + 1);
        source.splice(at..at, MARKS[mark % MARKS.len()].bytes());
    }
    source
}

/// Enough cases to matter, from a fixed seed, so that every run is the same.
fn config() -> ProptestConfig {
    let rng_seed = RngSeed::Fixed(20_261_123);
    ProptestConfig { cases: 3000, rng_seed, failure_persistence: None, ..Default::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn fuzz_gguf_with_damaged_bytes(
        damages in damages(tiny_file().len()),
        keep in prop_oneof![9 => Just(usize::MAX), 1 => 0..20_000_usize],
    ) {
        drive::gguf(&damaged(tiny_file(), &damages, keep));
    }

    #[test]
    fn fuzz_quantised_gguf_with_damaged_bytes(
        which in 0..quantised_files().len(),
        damages in damages(quantised_files().iter().map(Vec::len).min().unwrap()),
        pieces_damages in damages(tiny_pieces_file().len()),
    ) {
        drive::gguf(&damaged(&quantised_files()[which], &damages, usize::MAX));
        drive::gguf(&damaged(tiny_pieces_file(), &pieces_damages, usize::MAX));
    }

    #[test]
    fn fuzz_pieces_tokenizer_with_damaged_bytes(
        damages in damages(pieces_tokenizer().len()),
        keep in prop_oneof![9 => Just(usize::MAX), 1 => 0..3000_usize],
    ) {
        drive::tokenizer(&damaged(pieces_tokenizer(), &damages, keep));
    }

    #[test]
    fn fuzz_manifest_with_damaged_bytes(
        damages in damages(tiny_manifest().len()),
        keep in prop_oneof![9 => Just(usize::MAX), 1 => 0..3000_usize],
    ) {
        drive::manifest(&damaged(tiny_manifest(), &damages, keep));
    }

    #[test]
    fn fuzz_tokenizer_with_damaged_bytes(
        damages in damages(tiny_tokenizer().len()),
        keep in prop_oneof![9 => Just(usize::MAX), 1 => 0..3000_usize],
    ) {
        drive::tokenizer(&damaged(tiny_tokenizer(), &damages, keep));
    }

    #[test]
    fn fuzz_template_with_spliced_and_damaged_sources(
        chat in any::<u8>(),
        (one, other) in (0..templates().len(), 0..templates().len()),
        cuts in (any::<usize>(), any::<usize>()),
        is_cut in any::<bool>(),
        marks in prop::collection::vec((any::<usize>(), any::<usize>()), 0..3),
    ) {
        // Half of them are whole templates but for the marks.
        let cuts = if is_cut { cuts } else { (templates()[one].len(), templates()[other].len()) };
        drive::template(&[&[chat], &spliced(one, other, cuts, &marks)[..]].concat());
    }

    #[test]
    fn fuzz_gguf_with_arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        drive::gguf(&[b"GGUF\x03\0\0\0", &bytes[..]].concat());
        drive::gguf(&bytes);
        drive::tokenizer(&bytes);
        drive::manifest(&bytes);
        drive::template(&bytes);
    }
}

#[test]
fn undamaged_inputs_reach_the_end_of_each_target() {
    drive::gguf(tiny_file());
    for file in quantised_files().iter().map(Vec::as_slice).chain([tiny_pieces_file()]) {
        let model = ModelFile::open(file).unwrap();
        model.import(&mut MemorySink::default(), |_| ()).unwrap();
        drive::gguf(file);
    }
    drive::tokenizer(pieces_tokenizer());
    drive::manifest(tiny_manifest());
    drive::tokenizer(tiny_tokenizer());
}
