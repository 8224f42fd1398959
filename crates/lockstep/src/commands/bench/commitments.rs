//! Measures the cost of committing to every state: the same work with and without it, alternately.

use lockstep_exact::forward::Probe;
use lockstep_node::local::CHUNK;
use lockstep_verify::column::{Columns, Keep, Recorder};
use serde_json::{Value, json};
use std::hint::black_box;
use std::time::Instant;

use super::samples::{Rates, Samples};
use super::{Subject, prompt};
use crate::args::Bench;
use crate::output::{self, Printer};

/// Measures prefill, and decoding after it, both ways.
pub(super) fn measure(subject: &Subject, args: &Bench, report: &mut Value, printer: Printer) {
    let prompt = prompt(&subject.manifest, args.prefill);
    let layers = subject.manifest.layers.len() as u32;
    let (mut plain, mut committed) = (Rates::default(), Rates::default());
    let bar = output::steps_bar("commitments", args.repetitions as u64);
    for _ in 0..args.repetitions {
        plain.push(rates(subject, &prompt, args.decode, &mut ()));
        let mut columns = Columns::new(0..layers, Keep::Root);
        let mut sessions = [&mut columns];
        let mut recorder = Recorder::new(&mut sessions);
        committed.push(rates(subject, &prompt, args.decode, &mut recorder));
        if let Err(broken) = recorder.finish() {
            printer.line(broken.to_string());
        }
        black_box(columns.roots());
        bar.inc(1);
    }
    bar.finish_and_clear();
    let cost = |with: &Samples, without: &Samples| 100.0 * (without.median() / with.median() - 1.0);
    let prefill = cost(&committed.prefill, &plain.prefill);
    let decode = cost(&committed.decode, &plain.decode);
    plain.show("without commitments", printer);
    committed.show("with commitments", printer);
    printer.line(format!(
        "  commitments cost          prefill {prefill:+.1} %   decode {decode:+.1} %"
    ));
    report["without_commitments"] = plain.json();
    report["with_commitments"] = committed.json();
    report["commitment_cost_prefill_percent"] = json!(prefill);
    report["commitment_cost_decode_percent"] = json!(decode);
}

/// Runs a prompt and a decoding with `probe`, and returns the tokens per second of each.
fn rates<P: Probe>(subject: &Subject, prompt: &[u32], decode: usize, probe: &mut P) -> (f64, f64) {
    let mut session = subject.local.session();
    let start = Instant::now();
    black_box(subject.local.feed(&mut session, prompt, CHUNK, false, probe));
    let prefill = prompt.len() as f64 / start.elapsed().as_secs_f64();
    let start = Instant::now();
    for token in prompt.iter().cycle().take(decode) {
        black_box(subject.local.feed(&mut session, &[*token], 1, false, probe));
    }
    (prefill, decode as f64 / start.elapsed().as_secs_f64())
}
