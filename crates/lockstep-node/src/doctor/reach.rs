//! Checks of what lies between this machine and others: whether a server could listen, whether
//! peers can be reached, and whether the clocks agree.

use std::net::UdpSocket;
use std::time::Instant;

use lockstep_proto::limits as protocol;
use tokio::task::JoinSet;

use super::{Check, Status};
use crate::driver::{self, Clock, Contact, Links, StatusError};
use crate::transport::{ConnectError, ConnectFailure, Listen, NodeId, PeerAddr};

/// Milliseconds by which clocks may differ without a word: far less than an announcement lives.
const SKEW_MS: i64 = 5_000;
/// Milliseconds by which a clock may be ahead of others: beyond that it takes announcements, which
/// are true for [`protocol::ANNOUNCEMENT_MS`] and renewed three times in it, for expired ones.
const AHEAD_MS: i64 = (protocol::ANNOUNCEMENT_MS * 2 / 3) as i64;
/// Milliseconds by which a clock may be behind others: beyond that it takes announcements for ones
/// of the future.
const BEHIND_MS: i64 = (protocol::ANNOUNCEMENT_MOST_MS - protocol::ANNOUNCEMENT_MS) as i64;

/// Checks whether a server could listen on these addresses, by binding each for a moment.
pub fn listening(listen: &Listen) -> Check {
    const NAME: &str = "listening";
    for address in listen.addrs() {
        if let Err(error) = UdpSocket::bind(address) {
            let taken = error.kind() == std::io::ErrorKind::AddrInUse;
            let next = match taken {
                true => {
                    "another program has it, perhaps a server that runs: `--bind` with another \
                         port, or port 0, serves beside it"
                }
                false => "choose an address of this machine and a port that you may use (--bind)",
            };
            let detail = format!("UDP {address} can't be bound: {error}");
            return if taken {
                Check::warn(NAME, detail, next)
            } else {
                Check::fail(NAME, detail, next)
            };
        }
    }
    let addresses: Vec<String> = listen.addrs().iter().map(ToString::to_string).collect();
    let addresses = addresses.join(", ");
    let is_local = listen.addrs().iter().all(|address| address.ip().is_loopback());
    let who = if is_local { " (for this machine alone: --bind)" } else { "" };
    Check::ok(NAME, format!("a server can listen on UDP {addresses}{who}"))
}

/// The answer of a peer, as far as distance and clock go.
#[derive(Clone, Debug)]
struct Answered {
    /// The node id of the peer.
    node: NodeId,
    /// Microseconds from the question to the answer, over a link that was open.
    round_trip_us: u64,
    /// The milliseconds by which the peer's clock is ahead of this machine's; negative if it is
    /// behind. Known to half of the round trip.
    ahead_ms: i64,
}

/// Asks a peer twice: over a new link, and then over the open one.
async fn ask(links: &Links, clock: Clock, peer: &PeerAddr) -> Result<Answered, StatusError> {
    driver::status(links, peer).await?;
    let (began, sent) = (Instant::now(), clock.now());
    let Contact { announced_unix_ms, .. } = driver::status(links, peer).await?;
    let round_trip_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    let middle_ms = sent.after(round_trip_us / 2).unix_ms();
    let ahead_ms = i128::from(announced_unix_ms) - i128::from(middle_ms);
    let ahead_ms = i64::try_from(ahead_ms).unwrap_or(i64::MAX);
    Ok(Answered { node: peer.id, round_trip_us, ahead_ms })
}

/// Asks peers, all at once, and returns a check of the way to each, and one of the clocks.
pub async fn reach(links: &Links, peers: &[PeerAddr]) -> Vec<Check> {
    let clock = Clock::start();
    let mut asking = JoinSet::new();
    for (at, peer) in peers.iter().cloned().enumerate() {
        let links = links.clone();
        asking.spawn(async move { (at, peer.id, ask(&links, clock, &peer).await) });
    }
    let mut answers = asking.join_all().await;
    answers.sort_by_key(|(at, _, _)| *at);
    let answered = answers.iter().filter_map(|(_, _, answer)| answer.as_ref().ok().cloned());
    let answered: Vec<Answered> = answered.collect();
    let ways = answers.iter().map(|(_, node, answer)| way(*node, answer));
    let mut checks: Vec<Check> = ways.collect();
    checks.push(clocks(&answered));
    checks
}

/// Judges the way to a peer.
fn way(node: NodeId, answer: &Result<Answered, StatusError>) -> Check {
    const NAME: &str = "reachability";
    let error = match answer {
        Ok(answered) => {
            let ms = answered.round_trip_us as f64 / 1e3;
            return Check::ok(NAME, format!("{} answers in {ms:.1} ms", node.short()));
        }
        Err(error) => error,
    };
    let next = match error {
        StatusError::Connect(ConnectError { why, .. }) => after_dialling(why),
        StatusError::Link(_) | StatusError::Timeout { .. } => {
            "it let this machine in and then said nothing: it may be overloaded or stopped; see \
             its log and `lockstep status`"
        }
        StatusError::NoStatus { .. }
        | StatusError::OtherNode { .. }
        | StatusError::Announcement { .. } => {
            "it is no server of this version: use the ticket that it prints now"
        }
    };
    Check::fail(NAME, error.to_string(), next)
}

/// Returns the next step after a peer could not be dialled.
const fn after_dialling(why: &ConnectFailure) -> &'static str {
    match why {
        ConnectFailure::NoAnswer { .. } => {
            "does the server still run, and at the address of the ticket? If so, UDP is blocked on \
             the way: open its UDP port in its firewall, forward it in its router and state the \
             outer address with --advertise; some networks let no UDP out at all"
        }
        ConnectFailure::Busy => "it has too many links: try again, or ask another server",
        ConnectFailure::Closed => "it is shutting down: use the ticket of another server",
        ConnectFailure::Incompatible { .. } => {
            "it runs another version: install the same on both machines"
        }
        ConnectFailure::Network(_) => {
            "this machine has no way to that address: check its network, and whether it has IPv6 \
             if the address is one"
        }
        ConnectFailure::NoAddress => "the ticket has no address: ask for one that has",
        ConnectFailure::NotAKey => "the ticket is damaged: ask for it again",
        ConnectFailure::NotAllowed => {
            "its operator must allow this node: `lockstep id` prints its id, and --as-node uses it"
        }
        ConnectFailure::Oneself => "the ticket is this machine's own: use --as-node elsewhere",
        ConnectFailure::OtherRelay(_) => {
            "servers behind that relay are reached by those that use the same one: \
             `lockstep relay` and the setting `relay`"
        }
        ConnectFailure::WrongIdentity => {
            "another server is at the address now: use the ticket that it prints"
        }
    }
}

/// Judges this machine's clock by those of the peers that answered: by their median, so that one
/// wrong clock among several is not taken for this machine's.
fn clocks(answered: &[Answered]) -> Check {
    const NAME: &str = "clock";
    let mut skews: Vec<i64> = answered.iter().map(|one| one.ahead_ms).collect();
    skews.sort_unstable();
    let Some(&median) = skews.get(skews.len() / 2) else {
        return Check::warn(NAME, "no peer answered, so it is compared with none", "see above");
    };
    let (word, seconds) = match median {
        0.. => ("behind", median as f64 / 1e3),
        _ => ("ahead of", -median as f64 / 1e3),
    };
    let of = match answered {
        [one] => one.node.short(),
        _ => format!("the median of {} peers", answered.len()),
    };
    let own = format!("this machine's is {seconds:.1} s {word} that of {of}");
    let set = "set this machine's clock (an NTP service keeps it right)";
    let other = answered.iter().find(|one| (one.ahead_ms - median).abs() > SKEW_MS);
    if !(-AHEAD_MS..=BEHIND_MS).contains(&median) {
        let effect = "others' announcements look expired, or made in the future";
        return Check::fail(NAME, format!("{own}: {effect}"), set);
    }
    match (median.abs() > SKEW_MS, other) {
        (true, _) => Check::warn(NAME, own, set),
        (false, Some(other)) => Check::warn(
            NAME,
            format!("that of {} is {:.1} s off", other.node.short(), other.ahead_ms as f64 / 1e3),
            "its operator should set it: others may not see its announcements",
        ),
        (false, None) => Check { name: NAME, status: Status::Ok, detail: own, next: None },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::transport::Class;

    fn answered(skews: &[i64]) -> Vec<Answered> {
        let one = |(number, ahead_ms): (u8, &i64)| Answered {
            node: NodeId([number; 32]),
            round_trip_us: 1_500,
            ahead_ms: *ahead_ms,
        };
        (0..).zip(skews).map(one).collect()
    }

    #[test]
    fn clocks_are_judged_by_the_median_and_by_what_a_skew_does() {
        let rows: &[(&[i64], Status, &str)] = &[
            (&[], Status::Warn, "no peer answered"),
            (&[0], Status::Ok, "0.0 s behind"),
            (&[-900, 4_000, 900], Status::Ok, "0.9 s behind"),
            (&[6_000], Status::Warn, "6.0 s behind"),
            (&[-6_000, -6_100], Status::Warn, "6.0 s ahead of"),
            (&[-20_001], Status::Fail, "look expired"),
            (&[570_001], Status::Fail, "in the future"),
            (&[3_600_000, 1, 2], Status::Warn, "00000000"),
        ];
        for (skews, status, text) in rows {
            let check = clocks(&answered(skews));
            assert_eq!((check.status, check.next.is_none()), (*status, *status == Status::Ok));
            assert!(check.detail.contains(text), "{skews:?}: {check:?}");
        }
    }

    #[test]
    fn each_reason_why_a_peer_is_not_reached_has_a_next_step() {
        let node = NodeId([7; 32]);
        let reasons = [
            (ConnectFailure::NoAnswer { after: Duration::from_secs(5) }, "UDP is blocked"),
            (ConnectFailure::NotAllowed, "lockstep id"),
            (ConnectFailure::WrongIdentity, "the ticket that it prints"),
            (ConnectFailure::Network("no route".to_owned()), "IPv6"),
            (ConnectFailure::NoAddress, "no address"),
        ];
        for (why, next) in reasons {
            let error = ConnectError { peer: node, class: Class::Control, why };
            let check = way(node, &Err(StatusError::Connect(error)));
            assert_eq!(check.status, Status::Fail);
            assert!(check.next.as_ref().is_some_and(|step| step.contains(next)), "{check:?}");
        }
        let check = way(node, &Err(StatusError::Timeout { peer: node }));
        assert!(check.next.is_some_and(|step| step.contains("overloaded")));
        assert!(way(node, &Ok(answered(&[0]).remove(0))).detail.contains("1.5 ms"));
    }

    #[test]
    fn an_address_that_is_taken_is_told_and_one_that_is_not_this_machines_fails() {
        let taken = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let listen = |text: &str| text.parse::<Listen>().expect("an address");
        let address = taken.local_addr().expect("bound").to_string();
        let check = listening(&listen(&address));
        assert_eq!(check.status, Status::Warn);
        assert!(check.detail.contains(&address) && check.next.is_some(), "{check:?}");
        let check = listening(&listen("192.0.2.1:0"));
        assert_eq!(check.status, Status::Fail, "{check:?}");
        let check = listening(&listen("127.0.0.1:0"));
        assert_eq!(check.status, Status::Ok);
        assert!(check.detail.contains("this machine alone"), "{check:?}");
    }
}
