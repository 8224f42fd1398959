//! Nobody is named who did nothing: not by a client's error, not by an opening that is missing.
//!
//! Errors are of two kinds. What *convicts* must never name an honest server, whatever happened.
//! What *complains* - a lost link, silence, a job that is overdue - may name a server that
//! something was done to, or whose link to the client suffered. Two things are nobody's blame:
//!
//! - A **link that is lost** has two ends. A stage whose process slept finds its links closed by
//!   neighbours that took it for dead, and reports what is so: the link to the neighbour is gone.
//!   So the end that reports it may have suffered in place of the one that is named. Silence is
//!   another matter: whoever slept must not hold its own pause against others.
//! - A **complaint about a liar** names the liar, whatever the reason. One that is alone in its
//!   ring gets its own lie back as an input, and says that its executor failed. One that keeps
//!   frames back is silent.

use lockstep_proto::client::{ClientError, NoAnswer};
use lockstep_proto::failure::{Failure, Reason, Refusal};
use lockstep_testing::ring::Point;

use super::super::world::{Asked, World};
use crate::report::Report;

/// Checks whom an error names, and asks again without that server.
pub(super) fn check_error(world: &mut World, report: &mut Report, at: usize, error: &ClientError) {
    let asked = &world.asked[at];
    let named = world.server_of(asked, error);
    match judge_error(world, asked, error) {
        Ok(mark) => world.marks.reach(mark),
        Err(why) => {
            report.honest_blamed += u64::from(named.is_some());
            let client = asked.client;
            report.faults.push(format!("client {client}: {error}: {why} (server {named:?})"));
        }
    }
    world.ask_again(at, named);
}

/// Returns the path that was taken, or why the error must not be.
fn judge_error(
    world: &World,
    asked: &Asked,
    error: &ClientError,
) -> Result<&'static str, &'static str> {
    let has_liar = asked.servers.iter().any(|server| world.servers[*server].script.is_some());
    let named = world.server_of(asked, error);
    let is_liar = named.is_some_and(|server| world.servers[server].script.is_some());
    match error {
        ClientError::Busy(busy) => judge_refusal(world, asked, named, busy.refusal),
        ClientError::Refused(refusal) => judge_refusal(world, asked, named, *refusal),
        ClientError::Failed(failure) => judge_failure(world, asked, named, failure),
        ClientError::Request(_) | ClientError::TooLong(_) => Err("every request can be sent"),
        ClientError::Fed { .. }
        | ClientError::Frame(_)
        | ClientError::Head(_)
        | ClientError::HeadMark { .. }
        | ClientError::Mark { .. }
        | ClientError::Order(_)
        | ClientError::Segment { .. }
        | ClientError::Stops { .. }
        | ClientError::Token { .. } => {
            let is_right = if error.stage().is_some() { is_liar } else { has_liar };
            let mark = "liar_caught_on_the_way";
            if is_right { Ok(mark) } else { Err("convicts an honest server") }
        }
    }
}

fn judge_refusal(
    world: &World,
    asked: &Asked,
    named: Option<usize>,
    refusal: Refusal,
) -> Result<&'static str, &'static str> {
    let lies = |server: usize| world.servers[server].claims.is_some();
    match refusal {
        Refusal::Busy => Ok("refused_busy"),
        Refusal::NoRoom => Ok("refused_no_room"),
        Refusal::CannotKeep => Ok("refused_cannot_keep"),
        Refusal::PeerShare => Ok("refused_share"),
        Refusal::Draining => Ok("refused_draining"),
        Refusal::SpanNotHeld | Refusal::NotHead if named.is_some_and(lies) => {
            Ok("claimed_layers_refused")
        }
        // A lie about the lease ends so.
        Refusal::LeaseMismatch | Refusal::BadSignature if has_script(world, asked) => {
            Ok("liar_caught_on_the_way")
        }
        Refusal::ExecutorFailed if named.is_some_and(|server| is_liar(world, server)) => {
            Ok("liar_caught_on_the_way")
        }
        // A stage that is stuck, or that has crashed in between.
        Refusal::ExecutorFailed if named.is_some_and(|server| suffered(world, server)) => {
            Ok("executor_failed")
        }
        _ => Err("no server has a reason to refuse so"),
    }
}

fn judge_failure(
    world: &World,
    asked: &Asked,
    named: Option<usize>,
    failure: &Failure,
) -> Result<&'static str, &'static str> {
    let client = asked.client;
    let anybody_suffered = world.servers.iter().any(|local| local.is_harmed)
        || world.harmed_clients.contains(&client)
        || !world.network.borrow().harmed.is_empty();
    let may_complain = match named {
        Some(server) => {
            suffered(world, server)
                || is_liar(world, server)
                || (failure.by.is_none() && client_suffered(world, client))
        }
        None => anybody_suffered || world.slow_reader_bytes_per_s.is_some(),
    };
    let reporter = failure.by.and_then(|by| asked.servers.get(by as usize));
    let may_lose = may_complain || reporter.is_some_and(|server| suffered(world, *server));
    let if_so = |may, mark| if may { Ok(mark) } else { Err("nothing happened to it") };
    let complaint = |mark| if_so(may_complain, mark);
    match failure.reason {
        Reason::Busy(busy) => judge_refusal(world, asked, named, busy.refusal),
        Reason::Refused(refusal) => judge_refusal(world, asked, named, refusal),
        Reason::Cancelled if asked.is_given_up => Ok("ended_by_cancel"),
        Reason::Cancelled => Err("nobody has cancelled it"),
        Reason::BadFrame | Reason::BadMark | Reason::BadState => {
            if has_script(world, asked) {
                Ok("liar_caught_on_the_way")
            } else {
                Err("nobody lies")
            }
        }
        Reason::ClientLost => complaint("client_was_lost"),
        Reason::LinkLost => if_so(may_lose, "found_lost"),
        Reason::StageSilent => complaint("found_silent"),
        Reason::JobOverdue => complaint("job_overdue"),
        Reason::Leaving => complaint("ended_by_leaving"),
        Reason::HandshakeTimeout => complaint("handshake_timeout"),
        Reason::Idle => complaint("found_idle"),
        Reason::Stalled => complaint("found_stalled"),
    }
}

fn has_script(world: &World, asked: &Asked) -> bool {
    asked.servers.iter().any(|server| is_liar(world, *server))
}

fn is_liar(world: &World, server: usize) -> bool {
    world.servers[server].script.is_some()
}

/// Whether something was done to a server or its links.
fn suffered(world: &World, server: usize) -> bool {
    world.servers[server].is_harmed
        || world.network.borrow().harmed.contains(&Point::Server(server))
}

fn client_suffered(world: &World, client: usize) -> bool {
    world.harmed_clients.contains(&client)
        || world.network.borrow().harmed.contains(&Point::Client(client))
}

/// Checks who is said to withhold openings, once all of an answer are there or given up.
pub(super) fn check_openings(world: &mut World, report: &mut Report, at: usize) {
    let asked = &world.asked[at];
    let client = asked.client;
    let Some(exchanges) = world.ring.exchanges(client).filter(|_| asked.is_challenged) else {
        return;
    };
    let mut marks = Vec::new();
    let mut faults = Vec::new();
    for exchange in exchanges {
        let server = asked.servers.get(exchange.stage as usize).copied();
        let may_withhold = server.is_some_and(|server| {
            world.servers[server].script.is_some() || suffered(world, server)
        });
        match exchange.answer {
            Ok(_) => marks.push("opened"),
            Err(_) if exchange.is_withheld && may_withhold => {
                let lies = server.is_some_and(|server| world.servers[server].script.is_some());
                marks.push(if lies { "liar_withheld" } else { "withheld_by_a_dead_server" });
            }
            Err(NoAnswer::NotPosed(_) | NoAnswer::NoStage) => faults.push("was not posed"),
            Err(_) if exchange.is_withheld => faults.push("an honest server is said to withhold"),
            Err(_) => marks.push("not_opened"),
        }
    }
    world.asked[at].is_challenged = false;
    marks.into_iter().for_each(|mark| world.marks.reach(mark));
    report.honest_blamed += faults.len() as u64;
    report.faults.extend(faults.iter().map(|fault| format!("client {client}: {fault}")));
}
