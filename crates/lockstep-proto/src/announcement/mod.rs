//! What a server announces of itself: signed, for a while, and the newest counts.
//!
//! An announcement can be handed on by anybody, because its signature says whose it is, its
//! sequence which of two is newer, and its end until when it is true. It is a server's own word
//! about itself: a route is planned with it, and it proves and promises nothing.
//!
//! | module | what it has |
//! |---|---|
//! | [`addresses`] | where a node says that it can be reached |
//! | `status` | [`Status`], the body: what a server serves, and how busy it is |
//! | `speed` | [`Speed`]: how fast it computes |

pub mod addresses;
mod speed;
mod status;

use core::fmt;

use lockstep_verify::sign::{BadSignature, Keypair, NodeId, Signature};
use lockstep_verify::{limits as proof, signed_struct};

use addresses::{Address, AddressFault};
pub use speed::{BATCHES, Speed};
pub use status::{BadTag, Neighbour, State, Status, Tag};

use crate::limits;
use crate::now::Now;

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
    /// The announcement does not say where its node can be reached, in the form that it must have.
    Address(AddressFault),
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
            Self::Address(fault) => write!(f, "the addresses of the announcement: {fault}"),
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

    /// Checks what somebody handed on at a time: that the node signed it, that it is true now, that
    /// it is newer than the newest one known of this node, which has the sequence `newest`, and
    /// that a node can be where it says. Handed on twice it is refused the second time.
    ///
    /// # Errors
    /// [`AnnouncementFault`].
    pub fn check_handed_on(
        &self,
        newest: Option<u64>,
        now_unix_ms: u64,
    ) -> Result<(), AnnouncementFault> {
        self.check_unverified(newest, now_unix_ms)?;
        self.verify().map_err(AnnouncementFault::Signature)
    }

    /// Checks everything of [`Announcement::check_handed_on`] but the signature, which costs far
    /// more than the rest, and returns the addresses.
    ///
    /// # Errors
    /// [`AnnouncementFault`].
    pub(crate) fn check_unverified(
        &self,
        newest: Option<u64>,
        now_unix_ms: u64,
    ) -> Result<Vec<Address>, AnnouncementFault> {
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
        addresses::read(&self.address).map_err(AnnouncementFault::Address)
    }
}

/// The announcer of a server: it numbers its announcements, and knows what its driver has told of
/// the server: the address, whether it is joining, and what was measured.
#[derive(Debug, Default)]
pub(crate) struct Announcer {
    address: String,
    /// Whether the server is not to be used yet.
    pub(crate) is_joining: bool,
    /// The speed at which the server computes.
    pub(crate) speed: Speed,
    neighbours: Vec<Neighbour>,
    tags: Vec<Tag>,
    software: String,
    /// The sequence of the last announcement.
    last: u64,
    /// For how many milliseconds announcements are true, if the swarm is so large that it is longer
    /// than [`limits::ANNOUNCEMENT_MS`].
    pub(crate) lease_ms: u64,
}

impl Announcer {
    /// Sets the address at which the server can be reached. What does not fit an announcement is
    /// left out, from the last address on, and so is every address at which no node can be.
    pub(crate) fn reachable_at(&mut self, address: &str) {
        self.address.clear();
        let good = address
            .split(',')
            .map(str::trim)
            .filter(|one| matches!(addresses::read(one), Ok(read) if !read.is_empty()));
        for one in good.take(limits::DIALLED_ADDRESSES) {
            let comma = if self.address.is_empty() { "" } else { "," };
            let len = self.address.len().saturating_add(comma.len()).saturating_add(one.len());
            if len > proof::ADDRESS_BYTES {
                return;
            }
            self.address.push_str(comma);
            self.address.push_str(one);
        }
    }

    /// Sets the measured links of the node `own` to other nodes. Of one node the last one counts,
    /// and of too many those with the shortest round trips.
    pub(crate) fn linked_to(&mut self, own: NodeId, mut neighbours: Vec<Neighbour>) {
        neighbours.reverse();
        neighbours.retain(|neighbour| neighbour.node != own);
        neighbours.sort_by_key(|neighbour| neighbour.node);
        neighbours.dedup_by_key(|neighbour| neighbour.node);
        neighbours.sort_by_key(|neighbour| (neighbour.rtt_us, neighbour.node));
        neighbours.truncate(limits::NEIGHBOURS);
        neighbours.sort_by_key(|neighbour| neighbour.node);
        self.neighbours = neighbours;
    }

    /// Sets the words about the server. Of too many the first in ascending order are kept.
    pub(crate) fn tagged(&mut self, mut tags: Vec<Tag>) {
        tags.sort();
        tags.dedup();
        tags.truncate(limits::TAGS);
        self.tags = tags;
    }

    /// Sets the version of the server's program, without characters that are not printable ASCII
    /// and those that are too many.
    pub(crate) fn runs(&mut self, software: &str) {
        let plain = software.bytes().filter(|byte| status::is_printable(*byte));
        self.software = plain.take(limits::SOFTWARE_BYTES).map(char::from).collect();
    }

    /// Returns `status` with everything that the server's driver has told.
    pub(crate) fn completed(&self, status: Status) -> Status {
        Status {
            speed: self.speed,
            neighbours: self.neighbours.clone(),
            tags: self.tags.clone(),
            software: self.software.clone(),
            ..status
        }
    }

    /// Signs the next announcement, of this status at this time.
    pub(crate) fn announce(&mut self, status: Status, now: Now, key: &Keypair) -> Announcement {
        let unix_ms = now.unix_ms();
        self.last = unix_ms.max(self.last.saturating_add(1));
        let announcement = Announcement {
            sequence: self.last,
            expires_unix_ms: unix_ms.saturating_add(self.lease_ms.max(limits::ANNOUNCEMENT_MS)),
            address: self.address.clone(),
            status,
            signature: Signature::NONE,
        };
        announcement.signed(key)
    }
}

#[cfg(test)]
mod tests {
    use lockstep_exact::bytes::{Canonical as _, DecodeReason};
    use lockstep_exact::digest::Digest;

    use super::*;
    use crate::version::VERSION;

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
            state: State::Ready,
            sessions: 0,
            sessions_limit: 8,
            queue: 0,
            kv_pages_free: 100,
            speed: Speed { decode_ns: [5, 6, 7], head_ns: [8, 9, 10], prefill_ns: 11 },
            neighbours: [1, 2].map(|number| neighbour(number, 300)).to_vec(),
            adapters: vec![Digest([1; 32]), Digest([2; 32])],
            tags: ["de", "eu"].map(tag).to_vec(),
            software: "lockstep 0.1.0".to_owned(),
        }
    }

    fn neighbour(number: u8, rtt_us: u32) -> Neighbour {
        Neighbour { node: NodeId([number; 32]), rtt_us, bytes_per_s: 1_000_000 }
    }

    fn tag(text: &str) -> Tag {
        Tag::new(text).unwrap()
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
        let changes: [fn(&mut Announcement); 24] = [
            |a| a.sequence += 1,
            |a| a.expires_unix_ms -= 1,
            |a| a.address.push_str("192.0.2.1:1"),
            |a| a.signature.0[0] ^= 1,
            |a| a.status.version += 1,
            |a| a.status.manifest.0[0] ^= 1,
            |a| a.status.first += 1,
            |a| a.status.end += 1,
            |a| a.status.head ^= true,
            |a| a.status.state = State::Joining,
            |a| a.status.sessions += 1,
            |a| a.status.sessions_limit += 1,
            |a| a.status.queue += 1,
            |a| a.status.kv_pages_free += 1,
            |a| a.status.speed.decode_ns[1] += 1,
            |a| a.status.speed.head_ns[2] += 1,
            |a| a.status.speed.prefill_ns += 1,
            |a| a.status.speed = Speed::UNKNOWN,
            |a| a.status.neighbours[0].rtt_us += 1,
            |a| a.status.neighbours[0].bytes_per_s += 1,
            |a| a.status.neighbours[1].node.0[0] ^= 1,
            |a| a.status.adapters.truncate(1),
            |a| a.status.tags.truncate(1),
            |a| a.status.software.push('1'),
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
        let relay = format!("{}@198.51.100.1:4433", "a".repeat(64));
        for (one, most) in [
            ("198.51.100.1:4433", limits::DIALLED_ADDRESSES),
            (&relay, (proof::ADDRESS_BYTES + 1) / (relay.len() + 1)),
        ] {
            let many = vec![one; 40].join(",");
            announcer.reachable_at(&many);
            let told = made(&mut announcer, NOW);
            assert!(told.address.len() <= proof::ADDRESS_BYTES, "{}", told.address);
            assert!(told.address.split(',').all(|told| told == one), "{}", told.address);
            assert_eq!(told.address.split(',').count(), most);
            assert_eq!(told.check_handed_on(None, NOW.unix_ms()), Ok(()));
        }
        announcer.reachable_at("0.0.0.0:1, 192.0.2.1:7,,[ff02::1]:1,nonsense");
        assert_eq!(made(&mut announcer, NOW).address, "192.0.2.1:7");
        announcer.reachable_at("");
        assert_eq!(made(&mut announcer, NOW).address, "");
    }

    /// Statuses that no server may announce: how each differs from [`status`], and the error.
    type Malformed = (fn(&mut Status), &'static str, &'static str);

    const PART: &str = "some of its times are zero and others are not";
    const UNORDERED: &str = "not in ascending order";
    const MALFORMED: [Malformed; 19] = [
        (|s| s.speed.decode_ns[0] = 0, "speed", PART),
        (|s| s.speed.decode_ns = [0; 3], "speed", PART),
        (|s| s.speed.head_ns[1] = 0, "speed", PART),
        (|s| s.speed.prefill_ns = 0, "speed", PART),
        (|s| s.neighbours.reverse(), "neighbours", "not in ascending order of node ids"),
        (|s| s.neighbours[0] = s.neighbours[1], "neighbours", "not in ascending order of node ids"),
        (|s| s.neighbours[0].node = s.node, "neighbours", "not in ascending order of node ids"),
        (|s| s.neighbours[1].node = s.node, "neighbours", "the node is its own neighbour"),
        (
            |s| s.neighbours = (0..17).map(|number| neighbour(number, 1)).collect(),
            "neighbours",
            "length 17 is above the limit of 16",
        ),
        (|s| s.adapters.reverse(), "adapters", UNORDERED),
        (|s| s.adapters[0] = s.adapters[1], "adapters", UNORDERED),
        (
            |s| s.adapters = (0..33).map(|number| Digest([number; 32])).collect(),
            "adapters",
            "length 33 is above the limit of 32",
        ),
        (|s| s.tags.reverse(), "tags", UNORDERED),
        (|s| s.tags[0] = s.tags[1].clone(), "tags", UNORDERED),
        (
            |s| s.tags = (0..9).map(|number| tag(&format!("t{number}"))).collect(),
            "tags",
            "length 9 is above the limit of 8",
        ),
        (|s| s.software = "x".repeat(33), "software", "length 33 is above the limit of 32"),
        (|s| s.software = "new\nline".to_owned(), "software", "not printable ASCII"),
        (|s| s.software = "\u{1b}[31m".to_owned(), "software", "not printable ASCII"),
        (|s| s.software = "é".to_owned(), "software", "not printable ASCII"),
    ];

    #[test]
    fn a_malformed_status_is_no_status() {
        for (index, (change, what, reason)) in MALFORMED.into_iter().enumerate() {
            let mut changed = status();
            assert_eq!(Status::from_bytes(&changed.to_bytes()).as_ref(), Ok(&changed));
            change(&mut changed);
            let error = Status::from_bytes(&changed.to_bytes()).unwrap_err();
            assert_eq!(error.what, what, "row {index}");
            assert!(error.to_string().ends_with(reason), "row {index}: {error}");
        }
    }

    #[test]
    fn a_state_or_tag_that_is_none_is_refused_in_its_place() {
        let bytes = status().to_bytes();
        let state = 2 + 32 + 32 + 4 + 4 + 1;
        let mut unknown = bytes.clone();
        unknown[state] = 4;
        let error = Status::from_bytes(&unknown).unwrap_err();
        let at = (error.what, error.at, error.reason);
        assert_eq!(at, ("state", state, DecodeReason::UnknownTag(4)));
        let tag = bytes.windows(2).position(|two| two == b"de").unwrap();
        for bad in [b'D', b' ', b'\n', b'/', 0, 0x7f] {
            let mut changed = bytes.clone();
            changed[tag] = bad;
            let error = Status::from_bytes(&changed).unwrap_err();
            assert_eq!((error.what, error.at), ("tag", tag - 4), "{bad}");
        }
        for bad in ["", "De", "d e", "dé", &"x".repeat(33)] {
            assert_eq!(Tag::new(bad), Err(BadTag), "{bad}");
        }
        assert_eq!(Tag::new(&"x".repeat(32)).unwrap().text().len(), 32);
    }

    #[test]
    fn the_longest_announcement_fits_its_limit() {
        let longest = Status {
            neighbours: (0..16).map(|number| neighbour(number, u32::MAX)).collect(),
            adapters: (0..32).map(|number| Digest([number; 32])).collect(),
            tags: (0..8).map(|number| tag(&format!("{number}{}", "x".repeat(31)))).collect(),
            software: "x".repeat(limits::SOFTWARE_BYTES),
            ..status()
        };
        let mut announcement = Announcer::default().announce(longest, NOW, &key());
        announcement.address = "x".repeat(proof::ADDRESS_BYTES);
        let bytes = announcement.to_bytes();
        assert_eq!(Announcement::from_bytes(&bytes), Ok(announcement));
        assert!(bytes.len() <= limits::ANNOUNCEMENT_BYTES, "{}", bytes.len());
    }

    #[test]
    fn whatever_the_driver_tells_becomes_a_status_that_is_well_formed() {
        let mut announcer = Announcer::default();
        let far = (0..40).map(|number| neighbour(39 - number, 1_000 - u32::from(number)));
        announcer.linked_to(key().id(), far.chain([neighbour(39, 1)]).collect());
        announcer.tagged(["eu", "de", "eu"].into_iter().map(tag).collect());
        announcer.runs(&format!("lock\u{1b}step é{}", "1".repeat(40)));
        let told = announcer.completed(status());
        let nodes: Vec<_> = told.neighbours.iter().map(|one| (one.node.0[0], one.rtt_us)).collect();
        let expected = (0..15).map(|node| (node, 961 + u32::from(node))).chain([(39, 1)]);
        assert_eq!(nodes, expected.collect::<Vec<_>>());
        assert_eq!(told.tags, ["de", "eu"].map(tag));
        assert_eq!(told.software, format!("lockstep {}", "1".repeat(23)));
        assert_eq!(Status::from_bytes(&told.to_bytes()), Ok(told));
        announcer.linked_to(NodeId([1; 32]), [1, 2].map(|node| neighbour(node, 5)).to_vec());
        assert_eq!(announcer.completed(status()).neighbours, [neighbour(2, 5)]);
    }
}
