//! Many clients at a swarm of real servers: every request ends in an answer, a cancel or a typed
//! refusal, answers to one question are the same over every ring, and nothing is left behind.
//!
//! `cargo bench -p lockstep --bench swarm -- load` does it with more of all, and with figures.

mod support;

use std::time::Duration;

use support::load::{Asks, End, Plan, crowd};
use support::ring::{Server, are_ready, joining, starting, wait_for};
use support::{PATIENCE, WATCHDOG};

#[test]
fn clients_that_come_go_and_cancel_get_their_answers_and_leave_nothing_behind() {
    let first = Server::ready(starting(0..15, &["-v"]));
    let more = [15..30, 0..15, 15..30].map(|span| joining(span, &first.ticket));
    wait_for(&first.ticket, "four servers", |seen| are_ready(seen, 4));
    let servers: Vec<&Server> = [&first].into_iter().chain(&more).collect();
    let free = |server: &&Server| {
        server.wait_idle(WATCHDOG);
        server.status().unwrap().kv_pages_free
    };
    let before: Vec<u32> = servers.iter().map(free).collect();
    let plan =
        Plan { clients: 8, seed: 1, asks: Asks::Times(4), tokens: 12, pause: Duration::ZERO };
    let told = crowd(&first.ticket, plan);
    assert!(told.0.iter().all(|asked| asked.len() == 4));
    let lost = told.lost();
    assert!(lost.is_empty(), "{lost:?}\n{}", first.process.stderr.text());
    assert_eq!(told.contradictions(), 0);
    let answered = told.count(|end| *end == End::Answered);
    let cancelled = told.count(|end| *end == End::Cancelled);
    assert!(answered > 16 && cancelled > 0, "{answered} answered, {cancelled} cancelled");
    for (server, before) in servers.iter().zip(before) {
        server.wait_idle(PATIENCE);
        assert_eq!(server.status().unwrap().kv_pages_free, before, "{}", server.node);
    }
}
