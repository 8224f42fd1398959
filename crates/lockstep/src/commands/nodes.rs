//! `lockstep nodes`: how other nodes answered this machine's audits, whom it avoids or has banned
//! for it, and where the evidence is.

use anyhow::Result;
use lockstep_client::place::Place;
use lockstep_client::standing::why_avoided;
use lockstep_node::home::Home;
use lockstep_node::record::{Conviction, Deeds, Record, Standing};
use lockstep_node::transport::{NodeId, parse_node_id};
use serde_json::{Value, json};

use crate::args::Nodes;
use crate::exit::{Exit, usage};
use crate::output::Printer;
use crate::printable::{Foreign, ForeignPath};

/// Runs `lockstep nodes`, and returns its exit code.
pub(crate) fn run(place: &Place, args: &Nodes) -> Result<Exit> {
    let printer = Printer::new(args.json);
    let path = place.home.nodes();
    let record = if args.forget.is_empty() {
        Record::read(&path)?
    } else {
        forget(place, &args.forget, printer)?
    };
    let mut nodes: Vec<(&NodeId, &Deeds)> = record.nodes().collect();
    nodes.sort_by_key(|(node, deeds)| (std::cmp::Reverse(deeds.last_unix_s), **node));
    nodes.retain(|(_, deeds)| !args.banned || deeds.standing() == Standing::Failed);
    let evidence = |node: &NodeId| Some((record.conviction(node)?, &place.home));
    if args.json {
        let facts = nodes.iter().map(|one| facts(one, evidence(one.0)));
        printer.json(&json!({ "nodes": facts.collect::<Vec<_>>() }));
        return Ok(Exit::Done);
    }
    if nodes.is_empty() {
        let what = if args.banned { "No nodes are banned." } else { "No nodes are remembered." };
        printer.line(what);
    }
    for (node, deeds) in nodes {
        printer.line(format!("{node}"));
        printer.line(format!(
            "  {} answers: {} verified, {} failed, {} withheld; {} of {} openings given, {} \
             withheld",
            deeds.answers,
            deeds.verified,
            deeds.failed,
            deeds.withheld,
            deeds.openings_answered,
            deeds.openings_asked,
            deeds.openings_withheld,
        ));
        match (why_avoided(deeds), evidence(node)) {
            (None, _) => {}
            (Some(why), None) if deeds.standing() == Standing::Failed => {
                printer.line(format!("  banned: {why} (--forget {node} lifts the ban)"));
            }
            (Some(why), None) => printer.line(format!("  avoided: {why}")),
            (Some(why), Some((conviction, home))) => {
                printer.line(format!("  banned: {why} (--forget {node} lifts the ban)"));
                printer.line(format!("  found: {}", Foreign(&conviction.reason)));
                if let Some(path) = conviction.evidence(home) {
                    printer.line(format!("  evidence: {}", ForeignPath(&path)));
                }
            }
        }
    }
    Ok(Exit::Done)
}

fn forget(place: &Place, texts: &[String], printer: Printer) -> Result<Record> {
    let parse = |text: &String| {
        parse_node_id(text).map_err(|error| usage(format!("--forget {text:?}: {error}")))
    };
    let nodes: Vec<NodeId> = texts.iter().map(parse).collect::<Result<_>>()?;
    let mut unknown = Vec::new();
    let record = Record::change(&place.home.nodes(), |record| {
        unknown = nodes.into_iter().filter(|node| !record.forget(node)).collect();
    })?;
    for node in unknown {
        printer.note(format!("{node} was not remembered"));
    }
    Ok(record)
}

fn facts((node, deeds): &(&NodeId, &Deeds), evidence: Option<(&Conviction, &Home)>) -> Value {
    json!({
        "node": node.to_string(),
        "answers": deeds.answers,
        "verified": deeds.verified,
        "failed": deeds.failed,
        "withheld": deeds.withheld,
        "openings": {
            "asked": deeds.openings_asked,
            "answered": deeds.openings_answered,
            "withheld": deeds.openings_withheld,
        },
        "last_unix_s": deeds.last_unix_s,
        "avoided": why_avoided(deeds).map(|why| why.to_string()),
        "banned": deeds.standing() == Standing::Failed,
        "conviction": evidence.map(|(conviction, home)| json!({
            "reason": conviction.reason,
            "receipt": conviction.evidence(home),
            "unix_s": conviction.unix_s,
        })),
    })
}
