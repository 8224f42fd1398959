//! The command `lockstep doctor`, which checks this machine.

use anyhow::Result;
use lockstep_client::place::Place;
use lockstep_node::doctor::{self, Status};
use serde_json::json;

use crate::args::Doctor;
use crate::device;
use crate::exit::Exit;
use crate::output::Printer;

/// Runs all checks; exit code 1 if one of them fails.
pub(crate) fn run(place: &Place, args: &Doctor) -> Result<Exit> {
    let printer = Printer::new(args.json);
    let mut checks = doctor::examine(&place.home, &place.config);
    checks.push(device::check());
    checks.extend(doctor::examine_store(&place.home, &place.store, args.deep));
    let word = |status| match status {
        Status::Ok => "ok",
        Status::Warn => "warn",
        Status::Fail => "FAIL",
    };
    if !args.json {
        for check in &checks {
            printer.line(format!("{:<5} {:<16} {}", word(check.status), check.name, check.detail));
            if let Some(next) = &check.next {
                printer.line(format!("{:<22} -> {next}", ""));
            }
        }
    }
    let list: Vec<_> = checks
        .iter()
        .map(|check| {
            json!({
                "name": check.name,
                "status": word(check.status).to_lowercase(),
                "detail": check.detail,
                "next": check.next,
            })
        })
        .collect();
    printer.json(&json!({ "checks": list }));
    let failed = checks.iter().any(|check| check.status == Status::Fail);
    Ok(if failed { Exit::Error } else { Exit::Done })
}
