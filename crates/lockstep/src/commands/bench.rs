//! `lockstep bench`: speed of one process and of a ring, and what proof costs.
//!
//! Every figure is the median of the repetitions with its range. What is compared is measured
//! alternately in one run, because machines drift.

use std::hint::black_box;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};
use lockstep_exact::Digest;
use lockstep_exact::sample::{Sampling, Stops};
use lockstep_node::local::{CHUNK, Local};
use lockstep_verify::column::{Columns, Keep, Recorder};
use lockstep_verify::sign::{Keypair, Signature};
use lockstep_verify::statement::Mark;
use serde_json::{Value, json};

use crate::args::{Audit, Bench};
use crate::backend::{self, Backend};
use crate::commands::{generate, key, up};
use crate::exit::Exit;
use crate::models::{Model, Place};
use crate::output::{self, Voice};
use crate::ring::{Caller, Ring};

/// Bytes read to measure memory bandwidth: far more than any cache.
const BANDWIDTH_BYTES: usize = 1 << 30;
/// Signatures made to measure one.
const SIGNATURES: u32 = 200;

/// Runs the command.
pub(crate) fn run(place: &Place, args: &Bench) -> Result<Exit> {
    let voice = Voice::new(args.json);
    let model = Model::ensure(place, &args.model, voice)?;
    let threads = args.threads.unwrap_or_else(backend::cores);
    voice.line(format!(
        "{} ({}), {} threads, median of {} (min-max)",
        model.name,
        model.record.manifest.short(),
        threads,
        args.repetitions,
    ));
    let mut report = json!({ "model": model.record.manifest.to_string(), "threads": threads });
    single(place, &model, args, threads, &mut report, voice)?;
    if args.servers > 0 {
        ring(place, &model, args, &mut report, voice)?;
    }
    voice.json(&report);
    Ok(Exit::Done)
}

/// One process, with and without commitments.
fn single(
    place: &Place,
    model: &Model,
    args: &Bench,
    threads: usize,
    report: &mut Value,
    voice: Voice,
) -> Result<()> {
    let local = generate::load(place, model, Some(threads))?;
    let prompt = prompt(model, args.prefill);
    let mut plain = Rates::default();
    let mut committed = Rates::default();
    let bar = output::steps_bar("one process", args.repetitions as u64);
    for _ in 0..args.repetitions {
        plain.push(measure(&local, model, &prompt, args.decode, false));
        committed.push(measure(&local, model, &prompt, args.decode, true));
        bar.inc(1);
    }
    bar.finish_and_clear();
    let bandwidth = read_bandwidth(threads);
    let bytes: u64 = weight_bytes(model);
    let floor = bandwidth * 1e9 / bytes as f64;
    let decode = plain.decode.median();
    plain.show("one process", voice);
    committed.show("  with commitments", voice);
    let cost = |with: &Samples, without: &Samples| 100.0 * (without.median() / with.median() - 1.0);
    let prefill_cost = cost(&committed.prefill, &plain.prefill);
    let decode_cost = cost(&committed.decode, &plain.decode);
    voice.line(format!(
        "  commitments cost          prefill {prefill_cost:+.1} %   decode {decode_cost:+.1} %"
    ));
    voice.line(format!(
        "  decode reads {} a token: {:.1} of {bandwidth:.1} GB/s, {:.2}x the memory floor of \
         {floor:.0} tokens/s",
        output::human_bytes(bytes),
        decode * bytes as f64 / 1e9,
        floor / decode,
    ));
    report["single"] = plain.json();
    report["single_with_commitments"] = committed.json();
    report["commitment_cost_prefill_percent"] = json!(prefill_cost);
    report["commitment_cost_decode_percent"] = json!(decode_cost);
    report["prefill_tokens_per_s"] = json!(plain.prefill.median());
    report["decode_tokens_per_s"] = json!(decode);
    report["read_bandwidth_gb_s"] = json!(bandwidth);
    report["decode_bandwidth_share"] = json!(decode * bytes as f64 / 1e9 / bandwidth);
    Ok(())
}

/// Prefill and decode rates of one run.
fn measure(
    local: &Local<Backend>,
    model: &Model,
    prompt: &[u32],
    decode: usize,
    commit: bool,
) -> (f64, f64) {
    let layers = model.manifest.layers.len() as u32;
    let mut columns = Columns::new(0..layers, Keep::Root);
    let mut session = local.session();
    let mut feed = |tokens: &[u32]| {
        let rows = if commit {
            let mut sessions = [&mut columns];
            let mut recorder = Recorder { sessions: &mut sessions };
            local.feed(&mut session, tokens, CHUNK, false, &mut recorder)
        } else {
            local.feed(&mut session, tokens, CHUNK, false, &mut ())
        };
        black_box(rows);
    };
    let start = Instant::now();
    feed(prompt);
    let prefill = prompt.len() as f64 / start.elapsed().as_secs_f64();
    let start = Instant::now();
    for step in 0..decode {
        feed(&prompt[step % prompt.len()..][..1]);
    }
    let rate = decode as f64 / start.elapsed().as_secs_f64();
    black_box(columns.roots());
    (prefill, rate)
}

/// A ring of server processes on this machine, and the audit of its answers.
fn ring(
    place: &Place,
    model: &Model,
    args: &Bench,
    report: &mut Value,
    voice: Voice,
) -> Result<()> {
    let text = model.text(place)?;
    let key = key::ensure(place, model)?;
    let threads = args.threads.unwrap_or_else(|| up::threads_each(args.servers));
    let prompt = prompt(model, args.prefill);
    let stops = Stops { max_tokens: args.decode as u32 + 1, ignore_end: true, strings: Vec::new() };
    let mut rates = Rates::default();
    let mut audit = Samples::default();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let servers = up::LocalServers::start(place, model, args.servers, threads).await?;
        let ring = Ring::find(place, model, &text, &servers.tickets(), Caller::Fresh).await?;
        let bar = output::steps_bar("ring", args.repetitions as u64);
        for _ in 0..args.repetitions {
            let asked = ring.ask(prompt.clone(), Sampling::default(), stops.clone(), |_| ());
            let answer = asked.await?;
            let decode = args.decode as f64 / answer.rest.as_secs_f64();
            rates.push((prompt.len() as f64 / answer.first_token.as_secs_f64(), decode));
            let audited = ring.audit(&key, answer, Audit::Sampled).await?;
            audited.verdict.context("the audit of an honest ring")?;
            audit.push((audited.opening + audited.checking).as_secs_f64());
            bar.inc(1);
        }
        bar.finish_and_clear();
        ring.close().await;
        servers.stop().await;
        anyhow::Ok(())
    })?;
    let stages = args.servers;
    rates.show(&format!("{stages} servers"), voice);
    let (sign, verify) = signature_seconds();
    let per_step = f64::from(stages + 1) * sign + f64::from(stages + 1) * 2.0 * verify;
    let decode_share = 100.0 * per_step * rates.decode.median();
    let chunks = (args.prefill as f64 / CHUNK as f64).ceil();
    let prefill_share = 100.0 * per_step * chunks * rates.prefill.median() / args.prefill as f64;
    voice.line(format!(
        "  marks: sign {:.0} us, check {:.0} us; all processes together {decode_share:.1} % of \
         decode, {prefill_share:.1} % of prefill",
        sign * 1e6,
        verify * 1e6,
    ));
    voice.line(format!("  sampled audit             {} s an answer", audit.text(3)));
    report["ring"] = rates.json();
    report["servers"] = json!(stages);
    report["marks_share_decode_percent"] = json!(decode_share);
    report["marks_share_prefill_percent"] = json!(prefill_share);
    report["audit_s"] = json!(audit.median());
    Ok(())
}

fn prompt(model: &Model, len: usize) -> Vec<u32> {
    let token = |index: usize| {
        let digest = Digest::derive("lockstep 2026 bench prompt", &[&index.to_le_bytes()]);
        let [a, b, c, d, ..] = digest.0;
        u32::from_le_bytes([a, b, c, d]) % model.manifest.vocabulary
    };
    (0..len).map(token).collect()
}

/// Bytes of weights that one token reads.
fn weight_bytes(model: &Model) -> u64 {
    let layers = model
        .manifest
        .layers
        .iter()
        .flat_map(|layer| [&layer.qkv, &layer.output, &layer.gate_up, &layer.down]);
    let all = layers.chain([&model.manifest.head.output]);
    all.map(|matrix| matrix.shape().packed_bytes() as u64).sum()
}

/// Seconds to sign a mark and to check it.
fn signature_seconds() -> (f64, f64) {
    let keypair = Keypair::from_secret(&[7; 32]);
    let session = Digest::of(b"bench");
    let mark = Mark {
        first: 0,
        end: 1,
        epoch: 0,
        position: 0,
        count: 1,
        chain_before: session,
        input: session,
        output: session,
        signature: Signature::NONE,
    };
    let start = Instant::now();
    let mut signed = mark;
    for position in 0..SIGNATURES {
        signed = Mark { position, ..mark }.signed(&session, &keypair);
    }
    let sign = start.elapsed().as_secs_f64() / f64::from(SIGNATURES);
    let start = Instant::now();
    for _ in 0..SIGNATURES {
        black_box(black_box(&signed).verify(&session, keypair.id()).is_ok());
    }
    (sign, start.elapsed().as_secs_f64() / f64::from(SIGNATURES))
}

/// GB/s of reading memory: the best of 7.
fn read_bandwidth(threads: usize) -> f64 {
    let words = vec![1_u64; BANDWIDTH_BYTES / 8];
    let part = words.len().div_ceil(threads.max(1));
    let once = || {
        let start = Instant::now();
        thread::scope(|scope| {
            for part in words.chunks(part) {
                scope.spawn(move || black_box(sum(part)));
            }
        });
        BANDWIDTH_BYTES as f64 / start.elapsed().as_secs_f64() / 1e9
    };
    (0..7).map(|_| once()).fold(0.0, f64::max)
}

fn sum(words: &[u64]) -> u64 {
    let mut lanes = [0_u64; 32];
    for chunk in words.chunks_exact(32) {
        for (lane, word) in lanes.iter_mut().zip(chunk) {
            *lane = lane.wrapping_add(*word);
        }
    }
    lanes.iter().fold(0, |sum, lane| sum.wrapping_add(*lane))
}

/// One quantity, measured several times.
#[derive(Default)]
struct Samples(Vec<f64>);

impl Samples {
    fn push(&mut self, value: f64) {
        self.0.push(value);
        self.0.sort_by(f64::total_cmp);
    }

    fn median(&self) -> f64 {
        self.0.get(self.0.len() / 2).copied().unwrap_or(f64::NAN)
    }

    fn text(&self, digits: usize) -> String {
        let (low, high) = (self.0.first().unwrap_or(&0.0), self.0.last().unwrap_or(&0.0));
        format!("{:.digits$} ({low:.digits$}-{high:.digits$})", self.median())
    }

    fn json(&self) -> Value {
        json!({ "median": self.median(), "min": self.0.first(), "max": self.0.last() })
    }
}

/// Tokens per second.
#[derive(Default)]
struct Rates {
    prefill: Samples,
    decode: Samples,
}

impl Rates {
    fn push(&mut self, (prefill, decode): (f64, f64)) {
        self.prefill.push(prefill);
        self.decode.push(decode);
    }

    fn show(&self, what: &str, voice: Voice) {
        voice.line(format!(
            "{what:<26} prefill {} tokens/s   decode {} tokens/s",
            self.prefill.text(0),
            self.decode.text(1)
        ));
    }

    fn json(&self) -> Value {
        json!({
            "prefill_tokens_per_s": self.prefill.json(),
            "decode_tokens_per_s": self.decode.json(),
        })
    }
}
