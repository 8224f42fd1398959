//! What a server announces of itself: signed, for a while, and the newest counts.
//!
//! An announcement can be handed on by anybody, because its signature says whose it is, its
//! sequence which of two is newer, and its end until when it is true. It is a server's own word
//! about itself: a route is planned with it, and it proves and promises nothing.

use core::fmt;

use lockstep_exact::canonical_struct;
use lockstep_exact::digest::Digest;
use lockstep_verify::sign::{BadSignature, Keypair, NodeId, Signature};
use lockstep_verify::{limits as proof, signed_struct};

use crate::limits;
use crate::now::Now;
use crate::version::VERSION;

/// The status of a server: what it serves, and how busy it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The version of the frames it speaks.
    pub version: u16,
    /// The node id of the server.
    pub node: NodeId,
    /// The digest of the manifest of the model that it serves.
    pub manifest: Digest,
    /// The lowest layer that it holds.
    pub first: u32,
    /// The layer after the highest that it holds.
    pub end: u32,
    /// Whether it holds embedding and head.
    pub head: bool,
    /// Whether it is about to leave and takes no new sessions.
    pub draining: bool,
    /// The number of sessions under way.
    pub sessions: u32,
    /// The most sessions that it takes at once.
    pub sessions_limit: u32,
    /// Items that wait for its executor.
    pub queue: u32,
    /// KV pages, 256 positions of one layer each, that new sessions may take.
    pub kv_pages_free: u32,
}

canonical_struct!(Status {
    version,
    node,
    manifest,
    first,
    end,
    head,
    draining,
    sessions,
    sessions_limit,
    queue,
    kv_pages_free,
});

impl Status {
    /// Returns whether a new session may be asked for: the shortest takes one page of every layer.
    #[must_use]
    pub const fn takes_sessions(&self) -> bool {
        let has_room = self.sessions < self.sessions_limit
            && self.kv_pages_free >= self.end.saturating_sub(self.first);
        !self.draining && has_room && self.version == VERSION
    }
}

/// A server's status, signed by the server that it is about, with where and until when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Larger in each announcement than in the one before, across restarts too: the milliseconds
    /// of Unix time at which it was made, or one more than the last sequence.
    pub sequence: u64,
    /// When it ceases to be true, in milliseconds of Unix time.
    pub expires_unix_ms: u64,
    /// The address at which the server can be reached, in the transport's own text form,
    /// comma-separated; empty if it does not say. Authenticated by nothing but the connection that
    /// it leads to.
    pub address: String,
    /// The status of the server; the node that it names signs the announcement.
    pub status: Status,
    /// The signature by the node of the status.
    pub signature: Signature,
}
signed_struct!(Announcement("lockstep 2026 announcement", by status.node) {
    sequence,
    expires_unix_ms,
    address as address,
    status,
});

/// The address of an announcement: a text of bounded length.
mod address {
    use lockstep_exact::bytes::{DecodeError, Reader, put_bytes};

    use super::proof;

    pub(super) fn encode(address: &str, out: &mut Vec<u8>) {
        put_bytes(out, address.as_bytes());
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Result<String, DecodeError> {
        input.text("address", proof::ADDRESS_BYTES)
    }
}

/// Why an announcement is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnnouncementFault {
    /// The announcement is not signed by the node that it is about.
    Signature(BadSignature),
    /// The node at the other end of the link announces another one.
    OtherNode {
        /// The node that the announcement names.
        announced: NodeId,
    },
    /// The announcement is past its end.
    Expired,
    /// The announcement would be valid for longer than one may be, or was made in the future.
    TooLong,
    /// The announcement is not newer than one of the same node that is known already.
    Old,
}

impl fmt::Display for AnnouncementFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signature(error) => write!(f, "the announcement is {error}"),
            Self::OtherNode { announced } => {
                write!(f, "the announcement is that of {}", announced.short())
            }
            Self::Expired => f.write_str("the announcement has expired"),
            Self::TooLong => write!(
                f,
                "the announcement ends more than {} s from now",
                limits::ANNOUNCEMENT_MOST_MS / 1000
            ),
            Self::Old => f.write_str("a newer announcement of the node is known"),
        }
    }
}

impl core::error::Error for AnnouncementFault {}

impl Announcement {
    /// Checks what a node said of itself on its own link. The link shows that it is new, so clocks
    /// are not compared.
    ///
    /// # Errors
    /// [`AnnouncementFault::OtherNode`] and [`AnnouncementFault::Signature`].
    pub fn check_from(&self, node: NodeId) -> Result<(), AnnouncementFault> {
        if self.status.node != node {
            return Err(AnnouncementFault::OtherNode { announced: self.status.node });
        }
        self.verify().map_err(AnnouncementFault::Signature)
    }

    /// Checks what somebody handed on at a time: that the node signed it, that it is true now, and
    /// that it is newer than the newest one known of this node, which has the sequence `newest`.
    /// Handed on twice it is refused the second time.
    ///
    /// Nothing calls this yet: that peers hand announcements on to each other (gossip) is
    /// *planned*.
    ///
    /// # Errors
    /// [`AnnouncementFault`].
    pub fn check_handed_on(
        &self,
        newest: Option<u64>,
        now_unix_ms: u64,
    ) -> Result<(), AnnouncementFault> {
        if newest.is_some_and(|newest| self.sequence <= newest) {
            return Err(AnnouncementFault::Old);
        }
        if self.expires_unix_ms <= now_unix_ms {
            return Err(AnnouncementFault::Expired);
        }
        // A sequence far ahead would make all that follow look old.
        let most = now_unix_ms.saturating_add(limits::ANNOUNCEMENT_MOST_MS);
        if self.expires_unix_ms > most || self.sequence > most {
            return Err(AnnouncementFault::TooLong);
        }
        self.verify().map_err(AnnouncementFault::Signature)
    }
}

/// The announcer of a server: it numbers its announcements, and knows the server's address.
#[derive(Debug, Default)]
pub(crate) struct Announcer {
    address: String,
    /// The sequence of the last announcement.
    last: u64,
}

impl Announcer {
    /// Sets the address at which the server can be reached. What does not fit an announcement is
    /// left out, from the last address on.
    pub(crate) fn reachable_at(&mut self, address: &str) {
        self.address.clear();
        for one in address.split(',').filter(|one| !one.is_empty()) {
            let comma = if self.address.is_empty() { "" } else { "," };
            let len = self.address.len().saturating_add(comma.len()).saturating_add(one.len());
            if len > proof::ADDRESS_BYTES {
                return;
            }
            self.address.push_str(comma);
            self.address.push_str(one);
        }
    }

    /// Signs the next announcement, of this status at this time.
    pub(crate) fn announce(&mut self, status: Status, now: Now, key: &Keypair) -> Announcement {
        let unix_ms = now.unix_ms();
        self.last = unix_ms.max(self.last.saturating_add(1));
        let announcement = Announcement {
            sequence: self.last,
            expires_unix_ms: unix_ms.saturating_add(limits::ANNOUNCEMENT_MS),
            address: self.address.clone(),
            status,
            signature: Signature::NONE,
        };
        announcement.signed(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now(5_000_000_000);

    fn key() -> Keypair {
        Keypair::from_secret(&[4; 32])
    }

    fn status() -> Status {
        Status {
            version: VERSION,
            node: key().id(),
            manifest: Digest([7; 32]),
            first: 0,
            end: 4,
            head: true,
            draining: false,
            sessions: 0,
            sessions_limit: 8,
            queue: 0,
            kv_pages_free: 100,
        }
    }

    fn made(announcer: &mut Announcer, now: Now) -> Announcement {
        announcer.announce(status(), now, &key())
    }

    #[test]
    fn an_announcement_is_taken_from_its_own_node_and_from_no_other() {
        let announcement = made(&mut Announcer::default(), NOW);
        assert_eq!(announcement.check_from(key().id()), Ok(()));
        let other = Keypair::from_secret(&[5; 32]);
        let fault = AnnouncementFault::OtherNode { announced: key().id() };
        assert_eq!(announcement.check_from(other.id()), Err(fault));
        // Another node that puts its own name to it has to sign it, too.
        let mut renamed = announcement;
        renamed.status.node = other.id();
        let fault = AnnouncementFault::Signature(BadSignature { by: other.id() });
        assert_eq!(renamed.check_from(other.id()), Err(fault));
    }

    #[test]
    fn every_field_is_signed() {
        let changes: [fn(&mut Announcement); 14] = [
            |a| a.sequence += 1,
            |a| a.expires_unix_ms -= 1,
            |a| a.address.push('1'),
            |a| a.signature.0[0] ^= 1,
            |a| a.status.version += 1,
            |a| a.status.manifest.0[0] ^= 1,
            |a| a.status.first += 1,
            |a| a.status.end += 1,
            |a| a.status.head ^= true,
            |a| a.status.draining ^= true,
            |a| a.status.sessions += 1,
            |a| a.status.sessions_limit += 1,
            |a| a.status.queue += 1,
            |a| a.status.kv_pages_free += 1,
        ];
        let announcement = made(&mut Announcer::default(), NOW);
        for (index, change) in changes.into_iter().enumerate() {
            let mut changed = announcement.clone();
            change(&mut changed);
            let fault = changed.check_from(key().id()).unwrap_err();
            assert!(matches!(fault, AnnouncementFault::Signature(_)), "change {index}");
            assert_eq!(changed.check_handed_on(None, NOW.unix_ms()), Err(fault), "change {index}");
        }
    }

    #[test]
    fn one_that_is_handed_on_is_taken_once_and_only_while_it_is_true() {
        let mut announcer = Announcer::default();
        let (first, second) = (made(&mut announcer, NOW), made(&mut announcer, NOW));
        let now = NOW.unix_ms();
        assert_eq!(first.check_handed_on(None, now), Ok(()));
        assert_eq!(second.check_handed_on(Some(first.sequence), now), Ok(()));
        let again = second.check_handed_on(Some(second.sequence), now);
        assert_eq!(again, Err(AnnouncementFault::Old));
        let older = first.check_handed_on(Some(second.sequence), now);
        assert_eq!(older, Err(AnnouncementFault::Old));
        let end = first.expires_unix_ms;
        assert_eq!(first.check_handed_on(None, end - 1), Ok(()));
        assert_eq!(first.check_handed_on(None, end), Err(AnnouncementFault::Expired));
    }

    #[test]
    fn nobody_announces_for_longer_than_may_be_or_from_the_future() {
        let now = NOW.unix_ms();
        let most = now + limits::ANNOUNCEMENT_MOST_MS;
        let of = |sequence, expires_unix_ms| {
            let made = made(&mut Announcer::default(), NOW);
            let made = Announcement { sequence, expires_unix_ms, ..made };
            made.signed(&key()).check_handed_on(None, now)
        };
        assert_eq!(of(now, most), Ok(()));
        assert_eq!(of(now, most + 1), Err(AnnouncementFault::TooLong));
        assert_eq!(of(most, most), Ok(()));
        assert_eq!(of(most + 1, most), Err(AnnouncementFault::TooLong));
        assert_eq!(of(u64::MAX, u64::MAX), Err(AnnouncementFault::TooLong));
    }

    #[test]
    fn each_is_newer_than_the_one_before_even_if_the_clock_stands_or_goes_back() {
        let mut announcer = Announcer::default();
        let times = [NOW, NOW, Now(NOW.0 - 1_000_000), Now(NOW.0 + 9_000)];
        let sequences = times.map(|now| made(&mut announcer, now).sequence);
        let now = NOW.unix_ms();
        assert_eq!(sequences, [now, now + 1, now + 2, now + 9]);
    }

    #[test]
    fn addresses_that_do_not_fit_are_left_out_whole() {
        let mut announcer = Announcer::default();
        let many = vec!["198.51.100.1:4433"; 40].join(",");
        announcer.reachable_at(&many);
        let told = made(&mut announcer, NOW).address;
        assert!(told.len() <= proof::ADDRESS_BYTES && many.starts_with(&told), "{told}");
        assert!(told.split(',').all(|one| one == "198.51.100.1:4433"), "{told}");
        assert_eq!(told.split(',').count(), (proof::ADDRESS_BYTES + 1) / 18);
        announcer.reachable_at("");
        assert_eq!(made(&mut announcer, NOW).address, "");
    }
}
