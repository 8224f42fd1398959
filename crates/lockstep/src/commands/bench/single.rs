//! Measures one process: prefill, decode, several sessions at once, long contexts, and the matrix
//! products alone, each beside the limits of the machine.
//!
//! Shares count the bytes of weights once per token and the multiply-adds of both planes of the
//! products that a prompt needs; everything else is overhead. The machine's limits are measured
//! before and after in the same run, on the same threads and over memory that is mapped like the
//! weights; the higher counts.

use std::hint::black_box;
use std::time::Instant;

use anyhow::Result;
use lockstep_client::backend::Backend;
use lockstep_client::place::Place;
use lockstep_exact::flags::Flags;
use lockstep_exact::matrix::{Codec, Packed};
use lockstep_exact::names::ProductName;
use lockstep_exact::ops::{Device as _, Products as _};
use lockstep_exact::weights::LayerWeights;
use lockstep_kernels::{Codes, Kernels, Rows, Sums, machine};
use lockstep_node::local::{CHUNK, LocalSession};
use serde_json::{Map, Value, json};

use super::samples::Samples;
use super::work::Work;
use super::{Subject, prompt};
use crate::args::Bench;
use crate::output::{self, Printer};

/// Bytes read to measure memory bandwidth: far more than any cache.
const BANDWIDTH_BYTES: usize = 1 << 30;
const BANDWIDTH_PIECES: usize = 256;
/// Passes over all matrices that measure products of one row.
const PASSES: usize = 8;
/// A batch, and a long context, decode this part of the tokens that one session does.
const FEWER: usize = 4;

/// The limits of the machine, as they were measured.
#[derive(Clone, Copy, Default)]
struct Machine {
    read_gb_s: f64,
    peak_gmac_s: Option<f64>,
}

impl Machine {
    fn measure(kernels: &Kernels, memory: &[u8]) -> Self {
        Self {
            read_gb_s: machine::read_gb_s(kernels, memory),
            peak_gmac_s: machine::int8_peak_gmac_s(kernels),
        }
    }

    fn best(self, other: Self) -> Self {
        let peak = self.peak_gmac_s.zip(other.peak_gmac_s).map(|(a, b)| a.max(b));
        Self { read_gb_s: self.read_gb_s.max(other.read_gb_s), peak_gmac_s: peak }
    }
}

/// The speeds that were measured of one process.
#[derive(Default)]
struct Speeds {
    prefill: Samples,
    decode: Samples,
    /// Sessions, and their tokens per second together.
    batches: Vec<(usize, Samples)>,
    /// Tokens per second of a long prompt, of decoding after it, and of decoding at no context.
    long: Option<(Samples, Samples)>,
    /// Tokens per second, were there only matrix products.
    prefill_products: Samples,
    decode_products: Samples,
}

/// Measures the speeds of one process and adds them to `report`.
pub(super) fn measure(
    place: &Place,
    subject: &Subject,
    args: &Bench,
    report: &mut Value,
    printer: Printer,
) -> Result<()> {
    let work = Work::of(&subject.manifest, args.prefill);
    if args.rates_only {
        let speeds = repeat(subject, args);
        report["prefetch_hints"] = prefetch_hints(subject.local.ops());
        Table { args, speeds: &speeds, machine: None, work }.show(report, printer);
        return Ok(());
    }
    let kernels = subject.local.ops();
    let piece = vec![1; BANDWIDTH_BYTES / BANDWIDTH_PIECES];
    let memory = place.store.map_unnamed(&[piece.as_slice(); BANDWIDTH_PIECES])?;
    let before = Machine::measure(kernels, &memory);
    let speeds = repeat(subject, args);
    let machine = Some(before.best(Machine::measure(kernels, &memory)));
    report["prefetch_hints"] = prefetch_hints(kernels);
    Table { args, speeds: &speeds, machine, work }.show(report, printer);
    Ok(())
}

/// Returns the prefetch hint that the kernels have found to be the fastest, for each codec that
/// they timed.
fn prefetch_hints(kernels: &Kernels) -> Value {
    let chosen = |codec| Some((codec, kernels.prefetch_hint(codec)?));
    let chosen = [Codec::W8, Codec::W4].into_iter().filter_map(chosen);
    chosen.map(|(codec, hint)| (codec.to_string(), json!(hint))).collect::<Map<_, _>>().into()
}

/// Runs all repetitions, and returns the speeds of each.
fn repeat(subject: &Subject, args: &Bench) -> Speeds {
    let runner = Runner { subject, prompt: prompt(&subject.manifest, args.prefill) };
    let counts = args.batch.iter().filter(|count| **count > 0);
    let mut speeds = Speeds {
        batches: counts.map(|count| (*count, Samples::default())).collect(),
        long: args.context.map(|_| Default::default()),
        ..Speeds::default()
    };
    let long = args.context.map(|context| prompt(&subject.manifest, context));
    // Once unmeasured, as llama-bench does: buffers are made, threads are on cores of their own.
    runner.feed(&mut subject.local.session(), &runner.prompt);
    let bar = output::steps_bar("one process", args.repetitions as u64);
    for _ in 0..args.repetitions {
        speeds.prefill.push(runner.prefill(&mut subject.local.session(), &runner.prompt));
        speeds.decode.push(runner.decode(&mut subject.local.session(), args.decode));
        for (count, rates) in &mut speeds.batches {
            rates.push(runner.batch(*count, args.decode.div_ceil(FEWER)));
        }
        if !args.rates_only {
            speeds.prefill_products.push(runner.prefill_products());
            speeds.decode_products.push(runner.decode_products());
        }
        if let (Some((prefill, decode)), Some(long)) = (&mut speeds.long, &long) {
            let mut session = subject.local.session();
            prefill.push(runner.prefill(&mut session, long));
            decode.push(runner.decode(&mut session, args.decode.div_ceil(FEWER)));
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    speeds
}

/// Measures one thing once, in tokens per second.
struct Runner<'a> {
    subject: &'a Subject,
    prompt: Vec<u32>,
}

impl Runner<'_> {
    fn feed(&self, session: &mut LocalSession<Backend>, tokens: &[u32]) {
        black_box(self.subject.local.feed(session, tokens, CHUNK, false, &mut ()));
    }

    fn prefill(&self, session: &mut LocalSession<Backend>, prompt: &[u32]) -> f64 {
        rate(prompt.len(), || self.feed(session, prompt))
    }

    fn decode(&self, session: &mut LocalSession<Backend>, count: usize) -> f64 {
        let tokens = self.prompt.iter().cycle().take(count);
        rate(count, || tokens.for_each(|token| self.feed(session, &[*token])))
    }

    /// Measures `steps` decoding steps of `sessions` sessions together, and returns their tokens
    /// per second.
    fn batch(&self, sessions: usize, steps: usize) -> f64 {
        let local = &self.subject.local;
        let tokens: Vec<u32> = self.prompt.iter().copied().cycle().take(sessions).collect();
        let mut sessions: Vec<_> = (0..sessions).map(|_| local.session()).collect();
        rate(steps * tokens.len(), || {
            for _ in 0..steps {
                black_box(local.step(&mut sessions, &tokens, &mut ()));
            }
        })
    }

    /// Measures the matrix products of a prompt alone, in the forward pass's order, and returns the
    /// tokens per second.
    fn prefill_products(&self) -> f64 {
        let local = &self.subject.local;
        let Some((last, layers)) = local.layers().split_last() else { return f64::NAN };
        let mut product = Multiplier::new(local.ops());
        let (len, head) = (self.prompt.len(), [&local.head().output.matrix]);
        rate(len, || {
            for start in (0..len).step_by(CHUNK) {
                let rows = CHUNK.min(len - start);
                layers.iter().flat_map(matrices).for_each(|matrix| product.run(matrix, rows));
                let of_last = matrices(last);
                let Some((qkv, rest)) = of_last.split_first() else { continue };
                product.run(qkv, rows);
                if start + rows == len {
                    rest.iter().chain(&head).for_each(|matrix| product.run(matrix, 1));
                }
            }
        })
    }

    /// Measures the matrix products of some decoded tokens alone, in the forward pass's order, and
    /// returns the tokens per second.
    fn decode_products(&self) -> f64 {
        let local = &self.subject.local;
        let mut product = Multiplier::new(local.ops());
        rate(PASSES, || {
            for _ in 0..PASSES {
                let layers = local.layers().iter().flat_map(matrices);
                layers.chain([&local.head().output.matrix]).for_each(|m| product.run(m, 1));
            }
        })
    }
}

/// Runs `body`, and returns `count` divided by the seconds that it took.
fn rate(count: usize, body: impl FnOnce()) -> f64 {
    let start = Instant::now();
    body();
    count as f64 / start.elapsed().as_secs_f64()
}

/// Returns the matrices of a layer that a token uses, in order of use; of experts the first ones.
fn matrices(layer: &LayerWeights<Packed>) -> Vec<&Packed> {
    let used = layer.parts.feed_forward.experts().map_or(1, |experts| experts.rule.used);
    let is_used = |name: ProductName| name.expert().is_none_or(|expert| expert < used);
    let products = layer.parts.products().into_iter().filter(|(name, _)| is_used(*name));
    products.map(|(_, product)| &product.matrix).collect()
}

/// Multiplies with inputs that it makes when it first needs them.
struct Multiplier<'a> {
    kernels: &'a Kernels,
    /// The inputs of matrix products, by rows and columns.
    inputs: Vec<((usize, usize), Codes)>,
    sums: Sums,
    out: Rows,
}

impl<'a> Multiplier<'a> {
    fn new(kernels: &'a Kernels) -> Self {
        Self { kernels, inputs: Vec::new(), sums: Sums::default(), out: Rows::default() }
    }

    fn run(&mut self, matrix: &Packed, rows: usize) {
        let key = (rows, matrix.shape().columns);
        if !self.inputs.iter().any(|(known, _)| *known == key) {
            let value = |at: usize| (at * 7919 % 2001) as f32 - 1000.0;
            let values = (0..key.0 * key.1).map(value).collect();
            let mut codes = Codes::default();
            let rows = Rows::new(key.1, values);
            self.kernels.quantise(&rows, &mut codes, &mut Flags::none(key.0));
            self.inputs.push((key, codes));
        }
        let Self { kernels, inputs, sums, out } = self;
        for (_, codes) in inputs.iter().filter(|(known, _)| *known == key) {
            // As in a forward pass that commits to nothing but its states: with dequantisation.
            kernels.scope(|| {
                let Ok(()) = kernels.product(matrix, &Vec::new(), codes, sums, out);
            });
        }
        black_box(&self.out);
    }
}

/// The figures, beside what the machine can if that was measured.
struct Table<'a> {
    args: &'a Bench,
    speeds: &'a Speeds,
    machine: Option<Machine>,
    work: Work,
}

impl Table<'_> {
    /// Prints everything and puts it into the report.
    fn show(&self, report: &mut Value, printer: Printer) {
        self.show_rates(report, printer);
        if let Some(machine) = self.machine {
            Shares { table: self, machine }.show(report, printer);
        }
        if let (Some((prefill, decode)), Some(context)) = (&self.speeds.long, self.args.context) {
            self.show_long(context, prefill, decode, report, printer);
        }
    }

    fn show_rates(&self, report: &mut Value, printer: Printer) {
        let Self { args, speeds, .. } = self;
        line(printer, &format!("prefill {}", args.prefill), &speeds.prefill, "");
        line(printer, &format!("decode {}", args.decode), &speeds.decode, "");
        let mut batches = Map::new();
        for (sessions, rates) in &speeds.batches {
            let share = 100.0 * rates.median() / speeds.prefill.median();
            let note = format!("{share:.0} % of prefill");
            line(printer, &format!("decode of {sessions} sessions"), rates, &note);
            batches.insert(sessions.to_string(), rates.json());
        }
        report["prefill_tokens"] = json!(args.prefill);
        report["decode_tokens"] = json!(args.decode);
        report["prefill_tokens_per_s"] = json!(speeds.prefill.median());
        report["decode_tokens_per_s"] = json!(speeds.decode.median());
        if let Some((sessions, rates)) = speeds.batches.first() {
            report["batch_sessions"] = json!(sessions);
            report["batch_decode_tokens_per_s"] = json!(rates.median());
        }
        report["single"] = json!({
            "prefill_tokens_per_s": speeds.prefill.json(),
            "decode_tokens_per_s": speeds.decode.json(),
            "batch_decode_tokens_per_s": batches,
        });
    }

    fn show_long(
        &self,
        context: usize,
        prefill: &Samples,
        decode: &Samples,
        report: &mut Value,
        printer: Printer,
    ) {
        let speeds = self.speeds;
        let share = 100.0 * prefill.median() / speeds.prefill.median();
        let note = format!("{share:.0} % of prefill {}", self.args.prefill);
        line(printer, &format!("prefill {context}"), prefill, &note);
        // The part of a token that is not there without context.
        let attention = 1.0 - decode.median() / speeds.decode.median();
        let note = format!("{:.0} % of it for the context", 100.0 * attention);
        line(printer, &format!("decode at {context}"), decode, &note);
        report["context"] = json!({
            "tokens": context,
            "prefill_tokens_per_s": prefill.json(),
            "decode_tokens_per_s": decode.json(),
            "attention_share": attention,
        });
    }
}

/// The shares of the machine's limits that were reached.
struct Shares<'a> {
    table: &'a Table<'a>,
    machine: Machine,
}

impl Shares<'_> {
    /// Returns the share of the read bandwidth that decoding at these tokens per second takes.
    fn bandwidth(&self, tokens: &Samples) -> f64 {
        tokens.median() * self.table.work.token_bytes as f64 / 1e9 / self.machine.read_gb_s
    }

    /// Returns the share of the int8 peak that a prompt at these tokens per second takes.
    fn peak(&self, tokens: &Samples) -> Option<f64> {
        let prompts = tokens.median() / self.table.args.prefill as f64;
        let gmac_s = prompts * self.table.work.prompt_multiply_adds as f64 / 1e9;
        self.machine.peak_gmac_s.map(|peak| gmac_s / peak)
    }

    fn show(&self, report: &mut Value, printer: Printer) {
        let Self { table: Table { speeds, work, .. }, machine } = self;
        let peak = machine.peak_gmac_s.map_or_else(|| "unknown".into(), |g| format!("{g:.0}"));
        printer.line(format!(
            "  the machine reads {:.1} GB/s; int8 peak {peak} GMAC/s; a token reads {}",
            machine.read_gb_s,
            output::human_bytes(work.token_bytes),
        ));
        let percent = |share: Option<f64>| {
            share.map_or_else(|| "unknown".to_owned(), |share| format!("{:.0} %", 100.0 * share))
        };
        let (prefill, decode) = (&speeds.prefill, &speeds.decode);
        let (alone, alone_decode) = (&speeds.prefill_products, &speeds.decode_products);
        printer.line(format!(
            "  prefill reaches {} of the peak, its matrix products alone {}",
            percent(self.peak(prefill)),
            percent(self.peak(alone)),
        ));
        printer.line(format!(
            "  decode reaches {} of the bandwidth, its matrix products alone {}",
            percent(Some(self.bandwidth(decode))),
            percent(Some(self.bandwidth(alone_decode))),
        ));
        for (codec, hint) in report["prefetch_hints"].as_object().into_iter().flatten() {
            printer.line(format!(
                "  of {codec} prefetch hints {} was the fastest",
                hint.as_str().unwrap_or("?")
            ));
        }
        report["token_bytes"] = json!(work.token_bytes);
        report["read_bandwidth_gb_s"] = json!(machine.read_gb_s);
        report["decode_bandwidth_share"] = json!(self.bandwidth(decode));
        report["decode_products_bandwidth_share"] = json!(self.bandwidth(alone_decode));
        report["int8_peak_gmac_s"] = json!(machine.peak_gmac_s);
        report["prefill_peak_share"] = json!(self.peak(prefill));
        report["prefill_products_peak_share"] = json!(self.peak(alone));
        report["single"]["prefill_products_tokens_per_s"] = alone.json();
        report["single"]["decode_products_tokens_per_s"] = alone_decode.json();
    }
}

fn line(printer: Printer, what: &str, rates: &Samples, note: &str) {
    printer.line(format!("  {what:<24} {:>26} tokens/s   {note}", rates.text(1)).trim_end());
}
