//! Writes the golden vectors.
//!
//! `cargo run --release -p lockstep-exact --example vectors -- --bless` writes `vectors/*.json`
//! from the inputs of [`inputs`] and the reference. Without `--bless` it compares and says which
//! file differs. `tests/vectors.rs` checks the outputs of the files as they are.

mod compute;
mod encodings;
mod inputs;
mod model;
mod value;

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

fn main() -> ExitCode {
    let bless = std::env::args().nth(1).is_some_and(|argument| argument == "--bless");
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../vectors"));
    let mut differ = Vec::new();
    for file in inputs::files() {
        let path = folder.join(file.name);
        let text = contents(&file);
        if bless {
            std::fs::write(&path, text).expect("vectors/ can be written");
        } else if std::fs::read_to_string(&path).ok() != Some(text) {
            differ.push(file.name);
        }
    }
    if differ.is_empty() {
        return ExitCode::SUCCESS;
    }
    let text = format!("differ from the reference: {}\n", differ.join(", "));
    std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes()).expect("standard error");
    ExitCode::FAILURE
}

/// A file's text: one case per line, so that a difference is a line.
fn contents(file: &inputs::File) -> String {
    let mut text = format!("{{\n\"about\": {},\n\"cases\": [\n", json!(file.about));
    for (index, (op, input)) in file.cases.iter().enumerate() {
        let fields = input.as_object().expect("inputs are an object");
        let out = compute::compute(op, fields);
        let comma = if index + 1 == file.cases.len() { "" } else { "," };
        let case = json!({ "op": op, "in": input, "out": out });
        writeln!(text, "{case}{comma}").expect("a string takes everything");
    }
    text.push_str("]\n}\n");
    text
}
