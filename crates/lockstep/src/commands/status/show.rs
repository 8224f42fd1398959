//! A look at a swarm as lines of text: each server on a line if there are few, spans and the
//! servers that are worth a look if there are many.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use lockstep_client::forecast::{self, Window, bottleneck, tokens_per_s};
use lockstep_client::standing::why_avoided;
use lockstep_client::swarm::{Change, Seen};
use lockstep_node::record::Deeds;
use lockstep_node::transport::{NodeId, Way};
use lockstep_proto::announcement::{State, Status};

use super::{Served, View, health, milliseconds};
use crate::table::{Table, wrapped};

/// Servers of a model that are shown one by one, unless all are asked for.
const SHOWN: usize = 24;
/// Servers of many that are shown because they are worth a look.
const WORTH: usize = 10;
/// Windows of layers that are shown one by one.
const WINDOWS: usize = 12;
/// Changes that are shown.
const CHANGES: usize = 16;

/// The columns of the table of servers; those of the highest rank go first where there is no room.
const SERVERS: [(&str, u8); 10] = [
    ("node", 0),
    ("layers", 0),
    ("state", 0),
    ("sessions", 1),
    ("queue", 2),
    ("free pages", 5),
    ("ms/layer", 3),
    ("tokens/s", 6),
    ("round trip", 4),
    ("audits", 7),
];

/// The columns of the table of spans.
const SPANS: [(&str, u8); 7] = [
    ("layers", 0),
    ("ready", 0),
    ("servers", 1),
    ("sessions", 2),
    ("queue", 3),
    ("free pages", 5),
    ("tokens/s", 4),
];

impl View {
    /// Returns the lines of the table, in at most `width` characters where that is possible; every
    /// server has one if `shows_all`.
    pub(super) fn lines(&self, width: Option<usize>, shows_all: bool) -> Vec<String> {
        let mut lines = Vec::new();
        for model in &self.models {
            let servers = self.seen.iter().filter(|one| one.status.manifest == model.manifest);
            let servers: Vec<&Seen> = servers.collect();
            lines.push(model.title(&servers));
            if servers.len() <= SHOWN || shows_all {
                lines.extend(self.servers(&servers).lines(width));
            } else {
                lines.extend(spans(&servers).lines(width));
                let worth = self.worth_a_look(&servers);
                if !worth.is_empty() {
                    lines.push("worth a look (--all shows every server):".to_owned());
                    lines.extend(self.servers(&worth).lines(width));
                }
            }
            lines.extend(coverage(&model.windows, width));
            lines.extend(model.rates());
        }
        lines.extend(self.changed());
        lines
    }

    /// Returns what is to be said beside the table.
    pub(super) fn notes(&self) -> Vec<String> {
        let silent = self.silent.iter().map(|error| format!("no answer: {error}"));
        let record = self.no_record.iter();
        let record =
            record.map(|error| format!("how servers answered before is not known: {error}"));
        silent.chain(record).collect()
    }

    fn servers(&self, servers: &[&Seen]) -> Table {
        let mut table = Table::new(&SERVERS);
        for one in servers {
            table.row(row(one, &self.deeds(&one.status.node)));
        }
        table
    }

    /// Returns the servers of many that are worth a look: those that are avoided, silent or not
    /// ready first, and then the busiest.
    fn worth_a_look<'s>(&self, servers: &[&'s Seen]) -> Vec<&'s Seen> {
        let mut worth: Vec<&Seen> = servers.to_vec();
        worth.retain(|one| self.badness(one) > 0);
        worth.sort_by_key(|one| Reverse((self.badness(one), one.status.queue)));
        worth.truncate(WORTH);
        worth
    }

    /// Returns how much a server is worth a look: 0 if nothing is wrong with it.
    fn badness(&self, one: &Seen) -> u8 {
        let Status { node, state, sessions, sessions_limit, .. } = &one.status;
        if why_avoided(&self.deeds(node)).is_some() {
            4
        } else if one.round_trip.is_none() {
            3
        } else if *state != State::Ready {
            2
        } else {
            u8::from(sessions >= sessions_limit)
        }
    }

    fn changed(&self) -> Vec<String> {
        let line =
            |(node, change): &(NodeId, Change)| format!("changed: {} {change}", node.short());
        let mut lines: Vec<String> = self.changes.iter().take(CHANGES).map(line).collect();
        let more = self.changes.len().saturating_sub(CHANGES);
        if more > 0 {
            lines.push(format!("changed: and {more} more"));
        }
        lines
    }
}

impl Served {
    fn title(&self, servers: &[&Seen]) -> String {
        let name = self.name.as_ref().map_or(String::new(), |name| format!("{name} "));
        let is_there = |one: &&&Seen| one.round_trip.is_some();
        let ready = servers.iter().filter(is_there);
        let ready = ready.filter(|one| one.status.state == State::Ready).count();
        let sessions: u64 = servers.iter().map(|one| u64::from(one.status.sessions)).sum();
        format!(
            "model {name}{}: {} layers, {ready} of {} servers ready, {sessions} sessions",
            self.manifest.short(),
            self.layers,
            servers.len(),
        )
    }

    /// Returns what the swarm is expected to give, if that is known.
    fn rates(&self) -> Vec<String> {
        let Some(forecast) = &self.forecast else {
            return vec!["rates: not known, the model is not on this machine".to_owned()];
        };
        let ring = match &forecast.ring {
            Ok(route) => {
                let rate = tokens_per_s(route.token_ns);
                let many = forecast.many.map_or(String::new(), |(bound, _)| {
                    format!("; many clients at most {bound:.1}")
                });
                format!(
                    "rates: one client {rate:.1} tokens/s over {} servers{many} (predicted)",
                    route.hops.len()
                )
            }
            Err(error) => format!("rates: no ring: {error}"),
        };
        vec![ring]
    }
}

/// Returns the cells of a server.
fn row(one: &Seen, deeds: &Deeds) -> [String; 10] {
    let status = &one.status;
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let is_relayed = one.way == Some(Way::Relayed);
    let by = if is_relayed { " relayed" } else { "" };
    let trip = one.round_trip.map(|time| format!("{:.1} ms{by}", time.as_secs_f64() * 1e3));
    let rate = status.speed.is_known().then(|| format!("{:.1}", forecast::rate(status)));
    let audits = (deeds.answers > 0).then(|| match (deeds.failed, deeds.withheld) {
        (0, 0) => format!("{} of {} verified", deeds.verified, deeds.answers),
        (0, withheld) => format!("{withheld} of {} withheld", deeds.answers),
        (failed, _) => format!("{failed} of {} FAILED", deeds.answers),
    });
    [
        status.node.short(),
        span_of(status),
        health(one, deeds),
        format!("{} of {}", status.sessions, status.sessions_limit),
        status.queue.to_string(),
        status.kv_pages_free.to_string(),
        or_dash(milliseconds(status.speed.decode_ns[0]).map(|ms| format!("{ms:.3}"))),
        or_dash(rate),
        or_dash(trip),
        or_dash(audits),
    ]
}

fn span_of(status: &Status) -> String {
    format!("{}..{}{}", status.first, status.end, if status.head { " +head" } else { "" })
}

/// Returns the table of spans: the servers of each together.
fn spans(servers: &[&Seen]) -> Table {
    let mut by_span: BTreeMap<(u32, u32, bool), Vec<&Seen>> = BTreeMap::new();
    for one in servers {
        let Status { first, end, head, .. } = one.status;
        by_span.entry((first, end, head)).or_default().push(one);
    }
    let mut table = Table::new(&SPANS);
    for same in by_span.values() {
        let sum = |of: fn(&Status) -> u32| -> u64 {
            same.iter().map(|one| u64::from(of(&one.status))).sum()
        };
        let ready = same.iter().filter(|one| one.round_trip.is_some());
        let ready = ready.filter(|one| one.status.state == State::Ready);
        let rates = ready.clone().map(|one| forecast::rate(&one.status));
        // The sum of no numbers is -0.
        let rate = rates.fold(0.0, |sum: f64, rate| sum + rate);
        table.row([
            same.first().map_or(String::new(), |one| span_of(&one.status)),
            ready.count().to_string(),
            same.len().to_string(),
            format!("{} of {}", sum(|one| one.sessions), sum(|one| one.sessions_limit)),
            sum(|one| one.queue).to_string(),
            sum(|one| one.kv_pages_free).to_string(),
            format!("{rate:.1}"),
        ]);
    }
    table
}

/// Returns how many servers hold which layers, and which are the weakest.
fn coverage(windows: &[Window], width: Option<usize>) -> Vec<String> {
    let weakest = bottleneck(windows);
    let is_weakest = |window: &&Window| weakest.iter().any(|one| one.first == window.first);
    let word = |window: &Window| {
        let Window { first, end, ready, joining, .. } = window;
        let more = if *joining > 0 { format!(" +{joining} joining") } else { String::new() };
        let note = match ready {
            0 => " NOBODY",
            _ if weakest.len() < windows.len() && is_weakest(&window) => " weakest",
            _ => "",
        };
        format!("{first}..{end} x{ready}{more}{note}")
    };
    let words: Vec<String> = if windows.len() <= WINDOWS {
        windows.iter().map(word).collect()
    } else {
        let shown = windows.iter().filter(|one| one.ready == 0 || is_weakest(one));
        let head = format!("{} windows, of them", windows.len());
        std::iter::once(head).chain(shown.take(WINDOWS).map(word)).collect()
    };
    wrapped("coverage: ", &words, width)
}

#[cfg(test)]
mod tests;
