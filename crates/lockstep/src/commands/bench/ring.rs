//! A ring of server processes on this machine: its speed, its marks, its audit.

use std::hint::black_box;
use std::time::Instant;

use anyhow::{Context, Result};
use lockstep_client::audit::Audit;
use lockstep_client::client::Caller;
use lockstep_client::model::Model;
use lockstep_client::place::Place;
use lockstep_client::request::Question;
use lockstep_exact::Digest;
use lockstep_exact::sample::{Sampling, Stops};
use lockstep_node::local::CHUNK;
use lockstep_verify::draw::Extent;
use lockstep_verify::sign::{Keypair, Signature};
use lockstep_verify::statement::{Mark, RunId};
use serde_json::{Value, json};

use super::prompt;
use super::samples::{Rates, Samples};
use crate::args::Bench;
use crate::backend::{backend, threads};
use crate::commands::up;
use crate::conversation::audited;
use crate::key_making;
use crate::local_servers::{Fleet, LocalServers};
use crate::output::{self, Printer};
use crate::ring;

/// The number of signatures over which the time of one is measured.
const SIGNATURES: u32 = 200;

/// Measures a ring of server processes on this machine, and the audit of its answers.
pub(super) fn measure(
    place: &Place,
    model: &Model,
    args: &Bench,
    report: &mut Value,
    printer: Printer,
) -> Result<()> {
    let tokenizer = model.tokenizer(&place.store)?;
    let key = key_making::ensure(place, model)?;
    let each = args.threads.unwrap_or_else(|| up::threads_each(args.servers));
    let prompt = prompt(&model.manifest, args.prefill);
    let stops = Stops { max_tokens: args.decode as u32 + 1, ignore_end: true, strings: Vec::new() };
    let mut rates = Rates::default();
    let mut audit = Samples::default();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let fleet = Fleet { servers: args.servers, threads: each, metrics: None };
        let servers = LocalServers::start(place, model, fleet).await?;
        let tickets = servers.tickets();
        let client =
            ring::find_unchecked(place, (model, &tokenizer), &tickets, Caller::Starter).await?;
        let ops = backend(threads(place, None)?)?;
        let bar = output::steps_bar("ring", args.repetitions as u64);
        for _ in 0..args.repetitions {
            let (tokens, sampling) = (prompt.clone(), Sampling::default());
            let question = Question { prompt: tokens, sampling, stops: stops.clone() };
            let mut answering =
                client.ask(question, Some(Extent::Sampled)).map_err(ring::in_flags)?;
            let answer = answering.finish().await;
            let answer =
                answer.map_err(|error| ring::broken_off(&client, answering.ring(), error))?;
            let decode = args.decode as f64 / answer.rest.as_secs_f64();
            rates.push((prompt.len() as f64 / answer.first_token.as_secs_f64(), decode));
            let mut auditing = Audit::begin(client.ring(), &ops, &key, &answer, None);
            let audited = audited(&mut auditing).await?;
            audited.verdict.context("the audit of an honest ring")?;
            audit.push((audited.opening + audited.checking).as_secs_f64());
            bar.inc(1);
        }
        bar.finish_and_clear();
        client.close().await;
        servers.stop().await;
        anyhow::Ok(())
    })?;
    let stages = args.servers;
    rates.show(&format!("{stages} servers"), printer);
    let (sign, verify) = signature_seconds();
    // All stages and the head sign. A stage's mark is checked by the one after it, the last stage's
    // by the head unless they are one, and all by the client.
    let checks = if stages > 1 { 2 * stages + 1 } else { 2 };
    let per_step = f64::from(stages + 1) * sign + f64::from(checks) * verify;
    let decode_share = 100.0 * per_step * rates.decode.median();
    let chunks = (args.prefill as f64 / CHUNK as f64).ceil();
    let prefill_share = 100.0 * per_step * chunks * rates.prefill.median() / args.prefill as f64;
    printer.line(format!(
        "  marks: sign {:.0} us, check {:.0} us; all processes together {decode_share:.1} % of \
         decode, {prefill_share:.1} % of prefill",
        sign * 1e6,
        verify * 1e6,
    ));
    printer.line(format!("  sampled audit             {} s an answer", audit.text(3)));
    report["ring"] = rates.json();
    report["servers"] = json!(stages);
    report["marks_share_decode_percent"] = json!(decode_share);
    report["marks_share_prefill_percent"] = json!(prefill_share);
    report["audit_s"] = json!(audit.median());
    Ok(())
}

/// Seconds to sign a mark and to check it.
fn signature_seconds() -> (f64, f64) {
    let keypair = Keypair::from_secret(&[7; 32]);
    let digest = Digest::of(b"bench");
    let run = RunId(digest);
    let mark = Mark {
        first: 0,
        end: 1,
        epoch: 0,
        position: 0,
        count: 1,
        chain_before: digest,
        input: digest,
        output: digest,
        signature: Signature::NONE,
    };
    let start = Instant::now();
    let mut signed = mark;
    for position in 0..SIGNATURES {
        signed = Mark { position, ..mark }.signed(run, &keypair);
    }
    let sign = start.elapsed().as_secs_f64() / f64::from(SIGNATURES);
    let start = Instant::now();
    for _ in 0..SIGNATURES {
        black_box(black_box(&signed).verify(run, keypair.id()).is_ok());
    }
    (sign, start.elapsed().as_secs_f64() / f64::from(SIGNATURES))
}
