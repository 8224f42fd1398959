//! The recorded vectors hold: every output in `vectors/` follows from the inputs beside it.
//!
//! The inputs come from the files, not from the program that wrote them, so that the files are a
//! contract that a change of this crate can break.

#[path = "../examples/vectors/compute.rs"]
mod compute;
#[path = "../examples/vectors/encodings.rs"]
mod encodings;
#[path = "../examples/vectors/model.rs"]
mod model;
#[path = "../examples/vectors/value.rs"]
mod value;

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::Value;

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../vectors"))
}

fn cases(file: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(folder().join(file)).unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    document["cases"].as_array().unwrap().clone()
}

fn check(file: &str) {
    for (index, case) in cases(file).iter().enumerate() {
        let op = case["op"].as_str().unwrap();
        let got = compute::compute(op, case["in"].as_object().unwrap());
        assert_eq!(got, case["out"], "{file}: case {index} ({op})");
    }
}

macro_rules! files {
    ($($test:ident: $file:literal),* $(,)?) => {
        const FILES: &[&str] = &[$($file),*];
        $(
            #[test]
            fn $test() {
                check($file);
            }
        )*
    };
}

files! {
    the_vectors_of_attention_hold: "attention.json",
    the_vectors_of_encodings_hold: "encodings.json",
    the_vectors_of_the_field_hold: "field.json",
    the_vectors_of_layers_hold: "layer.json",
    the_vectors_of_manifests_hold: "manifest.json",
    the_vectors_of_models_hold: "model.json",
    the_vectors_of_numbers_hold: "numbers.json",
    the_vectors_of_the_sampler_hold: "sampler.json",
}

#[test]
fn every_file_is_checked_and_every_operation_has_vectors() {
    let found: BTreeSet<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".json"))
        .collect();
    assert_eq!(found, FILES.iter().map(ToString::to_string).collect());
    let cases = FILES.iter().flat_map(|file| cases(file));
    let used: BTreeSet<String> = cases.map(|case| case["op"].as_str().unwrap().into()).collect();
    assert_eq!(used, compute::OPS.iter().map(|(name, _)| name.to_string()).collect());
}
