//! The command `lockstep receipts`, which lists receipts and removes them.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use lockstep_client::place::Place;
use lockstep_node::receipts::{self, Kept};
use lockstep_node::record::Record;
use serde_json::{Value, json};

use crate::args::Receipts;
use crate::exit::Exit;
use crate::output::{Printer, human_bytes};
use crate::printable::{Foreign, ForeignPath};

/// Runs `lockstep receipts`, and returns its exit code.
pub(crate) fn run(place: &Place, args: &Receipts) -> Result<Exit> {
    let printer = Printer::new(args.json);
    let kept = || receipts::list(&place.home).context("can't read the receipts folder");
    let record = Record::read(&place.home.nodes())?;
    let evidence = record.evidence(&place.home);
    let mut chosen = chosen(kept()?, &args.rm)?;
    // Who means the evidence against a banned node says its name.
    let is_meant = |one: &Kept| args.rm.contains(&one.name) || !evidence.contains(&one.path);
    let count = chosen.len();
    chosen.retain(is_meant);
    if chosen.len() < count {
        printer.note(format!(
            "{} receipts stay: they convict banned nodes (`lockstep nodes --banned`), and go with \
             --rm ID",
            count - chosen.len()
        ));
    }
    for receipt in &chosen {
        let cant = || format!("can't remove {}", ForeignPath(&receipt.path));
        receipts::remove(receipt).with_context(cant)?;
        if !args.json {
            printer.line(format!("Removed {} ({})", Foreign(&receipt.name), size(receipt)));
        }
    }
    let kept = kept()?;
    let (bytes, most): (u64, u64) =
        (kept.iter().map(|receipt| receipt.bytes).sum(), place.config.receipts());
    printer.json(&json!({
        "receipts": kept.iter().map(facts).collect::<Vec<_>>(),
        "bytes": bytes,
        "bytes_limit": most,
        "removed": chosen.iter().map(facts).collect::<Vec<_>>(),
    }));
    if args.json || !args.rm.is_empty() {
        return Ok(Exit::Done);
    }
    let now = SystemTime::now();
    for receipt in &kept {
        let name = Foreign(&receipt.name).to_string();
        printer.line(format!("{name:<14} {:>12}  {}", size(receipt), age(receipt, now)));
    }
    printer.line(format!(
        "{} receipts, {} in {}; past {} the oldest go (the setting receipts_mib)",
        kept.len(),
        human_bytes(bytes),
        ForeignPath(&place.home.receipts()),
        human_bytes(most),
    ));
    Ok(Exit::Done)
}

/// Returns the receipts that have one of these names; "all" names every one.
fn chosen(kept: Vec<Kept>, names: &[String]) -> Result<Vec<Kept>> {
    let is_all = names.iter().any(|name| name == "all");
    for name in names.iter().filter(|name| *name != "all") {
        if !kept.iter().any(|receipt| receipt.name == *name) {
            bail!("no receipt {name:?} is kept: `lockstep receipts` lists them");
        }
    }
    Ok(kept.into_iter().filter(|receipt| is_all || names.contains(&receipt.name)).collect())
}

fn size(receipt: &Kept) -> String {
    human_bytes(receipt.bytes)
}

fn age(receipt: &Kept, now: SystemTime) -> String {
    let seconds = now.duration_since(receipt.written).unwrap_or_default().as_secs();
    match (seconds / 60, seconds / 3_600, seconds / 86_400) {
        (minutes, 0, _) => format!("{minutes} minutes ago"),
        (_, hours, 0) => format!("{hours} hours ago"),
        (_, _, days) => format!("{days} days ago"),
    }
}

fn facts(receipt: &Kept) -> Value {
    let written = receipt.written.duration_since(UNIX_EPOCH);
    json!({
        "id": receipt.name,
        "path": receipt.path,
        "bytes": receipt.bytes,
        "written_unix_s": written.map_or(0, |since| since.as_secs()),
    })
}
