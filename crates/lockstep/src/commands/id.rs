//! `lockstep id`: who this home is to servers that keep an allow-list.

use anyhow::{Context, Result};
use lockstep_client::place::Place;
use lockstep_node::transport::Identity;
use serde_json::json;

use crate::args::Id;
use crate::exit::Exit;
use crate::output::Printer;

/// Runs the command: the id is made if there is none yet.
pub(crate) fn run(place: &Place, args: &Id) -> Result<Exit> {
    let printer = Printer::new(args.json);
    let identity = Identity::load_or_create(&place.home.node_key());
    let node = identity.context("this home has no node id that can be used")?.id().to_string();
    if !args.json {
        printer.line(&node);
        printer.note(
            "`lockstep serve --allow ID` lets this node in, which then asks with `lockstep chat \
             --as-node`.",
        );
    }
    printer.json(&json!({ "node": node }));
    Ok(Exit::Done)
}
