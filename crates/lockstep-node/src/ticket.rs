//! Tickets: one line of text that tells where the servers of a model are.
//!
//! A ticket lists peers (node id, socket addresses and relays) and, if it is for one model, the
//! digest of that model's manifest and what the model is called where it is served. It holds no
//! secret and grants nothing: a peer's allow-list decides who is let in, and a peer must prove its
//! node id, so a forged ticket leads nowhere worse than to the forger.
//!
//! Text: [`PREFIX`], then in base32 (RFC 4648, lower case, no padding) the canonical bytes followed
//! by the first four bytes of their digest. Upper case is read too; white space around it is
//! dropped. Refused: other prefixes, damaged text, bytes after the end, more than
//! [`limits::TICKET_PEERS`] peers, a peer named twice. Each ticket has one encoding.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use lockstep_exact::bytes::{Canonical, DecodeError, Reader, put_bytes, put_list};
use lockstep_exact::digest::Digest;

use crate::limits;
use crate::transport::{Address, NodeId, PeerAddr, Relay, is_key};

/// The text with which every ticket starts; the digit is the version of the format.
pub const PREFIX: &str = "lockstep1";

const CHECK_BYTES: usize = 4;
const CHECK_DOMAIN: &str = "lockstep 2026 ticket checksum v1";

/// The addresses of servers and the model that they serve, as a client needs them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The servers and how each is reached; no node id stands twice.
    pub peers: Vec<PeerAddr>,
    /// The model that the ticket is for.
    pub manifest: Option<Digest>,
    /// The name of the model at the servers, or where it comes from, for people: letters, digits
    /// and some signs. Nothing is taken to be true because of it. Empty if it is not stated.
    pub called: String,
}

/// Returns whether tickets can say a name: it may be shown, and copied into a shell.
pub fn is_plain_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:/+=@".contains(&byte);
    name.len() <= limits::TICKET_NAME_BYTES && name.bytes().all(is_plain)
}

/// The reasons why a text is no ticket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// The checksum differs: a character was lost or changed.
    #[error("the ticket is damaged (checksum); copy it again, whole")]
    Checksum,
    /// A character that base32 doesn't have.
    #[error("the ticket holds the character {found:?} at {at}; copy it again, whole")]
    Character {
        /// The character that base32 does not have.
        found: char,
        /// Its place in the text, from 0, in bytes.
        at: usize,
    },
    /// The text of the ticket is cut off.
    #[error("the ticket is cut off; copy it again, whole")]
    Incomplete,
    /// The checksum is right and the content makes no sense to this version.
    #[error("ticket: {0}")]
    Malformed(DecodeError),
    /// The text starts with something else.
    #[error("a ticket starts with {PREFIX}")]
    Prefix,
    /// More characters than any ticket has.
    #[error("a ticket of {got} characters, at most {limit} are allowed")]
    TooLong {
        /// The number of characters of the text.
        got: usize,
        /// The number of characters that a ticket may have.
        limit: usize,
    },
}

// What it says is part of what the error says, so it is no source: a chain says it once.
impl From<DecodeError> for TicketError {
    fn from(error: DecodeError) -> Self {
        Self::Malformed(error)
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = self.to_bytes();
        bytes.extend(checksum(&bytes));
        f.write_str(PREFIX)?;
        f.write_str(&base32(&bytes))
    }
}

impl Ticket {
    /// Returns whether a text begins as a ticket does, whatever follows.
    #[must_use]
    pub fn is_begun_by(text: &str) -> bool {
        let start = text.trim_start().get(..PREFIX.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Self, TicketError> {
        let text = text.trim();
        let limit = limits::TICKET_CHARS;
        if text.len() > limit {
            return Err(TicketError::TooLong { got: text.len(), limit });
        }
        let prefix = text.get(..PREFIX.len()).unwrap_or_default();
        if !prefix.eq_ignore_ascii_case(PREFIX) {
            return Err(TicketError::Prefix);
        }
        let bytes = from_base32(text, PREFIX.len())?;
        let (content, check) =
            bytes.split_last_chunk::<CHECK_BYTES>().ok_or(TicketError::Incomplete)?;
        if *check != checksum(content) {
            return Err(TicketError::Checksum);
        }
        Ok(Self::from_bytes(content)?)
    }
}

fn checksum(content: &[u8]) -> [u8; CHECK_BYTES] {
    let Digest([a, b, c, d, ..]) = Digest::derive(CHECK_DOMAIN, &[content]);
    [a, b, c, d]
}

impl Canonical for Ticket {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend((self.peers.len() as u32).to_le_bytes());
        for peer in &self.peers {
            peer.id.encode(out);
            put_list(out, &peer.addrs);
        }
        self.manifest.is_some().encode(out);
        self.manifest.iter().for_each(|manifest| manifest.encode(out));
        put_bytes(out, self.called.as_bytes());
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = input.count("peers", limits::TICKET_PEERS, 36)?;
        let mut peers = Vec::with_capacity(count);
        for _ in 0..count {
            let id = NodeId::decode(input)?;
            if !is_key(&id) {
                return Err(input.invalid("node id", "not an ed25519 public key"));
            }
            if peers.iter().any(|peer: &PeerAddr| peer.id == id) {
                return Err(input.invalid("node id", "named twice"));
            }
            let addrs = input.list("addresses", limits::PEER_ADDRESSES, 7)?;
            peers.push(PeerAddr { id, addrs });
        }
        let manifest = bool::decode(input)?.then(|| Digest::decode(input)).transpose()?;
        let called = input.text("name of a model", limits::TICKET_NAME_BYTES)?;
        if !is_plain_name(&called) {
            return Err(input.invalid("name of a model", "not letters, digits and ._-:/+=@"));
        }
        Ok(Self { peers, manifest, called })
    }
}

/// The tag of a relay, before its node id and its socket address.
const RELAY: u8 = 1;

/// A socket address is a tag (4 or 6), the address bytes, and the port; before that of a relay come
/// a tag and its node id.
impl Canonical for Address {
    fn encode(&self, out: &mut Vec<u8>) {
        let addr = match self {
            Self::Socket(addr) => addr,
            Self::Relay(relay) => {
                out.push(RELAY);
                relay.id.encode(out);
                &relay.addr
            }
        };
        match addr.ip() {
            IpAddr::V4(ip) => {
                out.push(4);
                out.extend(ip.octets());
            }
            IpAddr::V6(ip) => {
                out.push(6);
                out.extend(ip.octets());
            }
        }
        addr.port().encode(out);
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let socket = |tag: u8, input: &mut Reader<'_>| {
            let ip = match tag {
                4 => IpAddr::V4(Ipv4Addr::from(input.array::<4>("address")?)),
                6 => IpAddr::V6(Ipv6Addr::from(input.array::<16>("address")?)),
                tag => return Err(input.unknown_tag("address", tag)),
            };
            Ok(SocketAddr::new(ip, u16::decode(input)?))
        };
        let tag = u8::decode(input)?;
        if tag != RELAY {
            return Ok(Self::Socket(socket(tag, input)?));
        }
        let id = NodeId::decode(input)?;
        if !is_key(&id) {
            return Err(input.invalid("node id of a relay", "not an ed25519 public key"));
        }
        let tag = u8::decode(input)?;
        Ok(Self::Relay(Relay { id, addr: socket(tag, input)? }))
    }
}

const ALPHABET: [char; 32] = [
    'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'l', 'm', 'n', 'o', 'p', 'q', 'r', 's',
    't', 'u', 'v', 'w', 'x', 'y', 'z', '2', '3', '4', '5', '6', '7',
];

fn base32(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(5) * 8);
    let (mut bits, mut held) = (0u32, 0u32);
    for &byte in bytes {
        bits = bits << 8 | u32::from(byte);
        held += 8;
        while held >= 5 {
            held -= 5;
            text.extend(ALPHABET.get((bits >> held & 31) as usize));
        }
        bits &= (1 << held) - 1;
    }
    if held > 0 {
        text.extend(ALPHABET.get((bits << (5 - held) & 31) as usize));
    }
    text
}

/// Returns the bytes behind `text[from..]`; left-over bits must be zero and fewer than five.
fn from_base32(text: &str, from: usize) -> Result<Vec<u8>, TicketError> {
    let digits = text.get(from..).unwrap_or_default();
    let mut bytes = Vec::with_capacity(digits.len() * 5 / 8);
    let (mut bits, mut held) = (0u32, 0u32);
    for (offset, found) in digits.char_indices() {
        let lower = found.to_ascii_lowercase();
        let value = ALPHABET.iter().position(|&digit| digit == lower);
        let value = value.ok_or(TicketError::Character { found, at: from + offset })?;
        bits = bits << 5 | value as u32;
        held += 5;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    if held >= 5 || bits != 0 { Err(TicketError::Incomplete) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::Identity;
    use proptest::prelude::*;

    fn address() -> impl Strategy<Value = Address> {
        let relay = (any::<[u8; 32]>(), socket()).prop_map(|(seed, addr)| {
            Address::Relay(Relay { id: Identity::from_secret(&seed).id(), addr })
        });
        prop_oneof![socket().prop_map(Address::Socket), relay]
    }

    fn socket() -> impl Strategy<Value = SocketAddr> {
        let ip = prop_oneof![
            any::<[u8; 4]>().prop_map(IpAddr::from),
            any::<[u8; 16]>().prop_map(IpAddr::from),
        ];
        (ip, any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
    }

    fn ticket() -> impl Strategy<Value = Ticket> {
        let seeds = prop::collection::btree_set(any::<[u8; 32]>(), 0..5);
        let addrs = prop::collection::vec(address(), 0..limits::PEER_ADDRESSES);
        let manifest = prop::option::of(any::<[u8; 32]>().prop_map(Digest));
        let called = "[a-zA-Z0-9._:/+=@-]{0,40}";
        (seeds, addrs, manifest, called).prop_map(|(seeds, addrs, manifest, called)| {
            let peer =
                |seed| PeerAddr { id: Identity::from_secret(&seed).id(), addrs: addrs.clone() };
            Ticket { peers: seeds.into_iter().map(peer).collect(), manifest, called }
        })
    }

    proptest! {
        #[test]
        fn a_ticket_is_its_own_text(ticket in ticket()) {
            let text = ticket.to_string();
            prop_assert_eq!(text.parse::<Ticket>(), Ok(ticket.clone()));
            prop_assert_eq!(format!(" {}\n", text.to_uppercase()).parse::<Ticket>(), Ok(ticket));
        }

        #[test]
        fn a_changed_character_is_noticed(
            ticket in ticket(),
            at in any::<u16>(),
            to in 0usize..32,
        ) {
            let mut text: Vec<char> = ticket.to_string().chars().collect();
            let at = PREFIX.len() + at as usize % (text.len() - PREFIX.len());
            prop_assume!(text[at] != ALPHABET[to]);
            text[at] = ALPHABET[to];
            let error = String::from_iter(text).parse::<Ticket>().expect_err("damaged");
            prop_assert!(matches!(error, TicketError::Checksum | TicketError::Incomplete));
        }

        #[test]
        fn a_cut_ticket_is_refused(ticket in ticket(), keep in any::<u16>()) {
            let text = ticket.to_string();
            let cut = &text[..keep as usize % text.len()];
            prop_assert!(cut.parse::<Ticket>().is_err());
        }

        #[test]
        fn any_content_is_a_ticket_or_a_typed_error(
            content in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let text = sealed(&content);
            if let Ok(ticket) = text.parse::<Ticket>() {
                prop_assert_eq!(ticket.to_bytes(), content);
                prop_assert_eq!(ticket.to_string(), text);
            }
        }

        #[test]
        fn any_text_is_read_without_panic(text in any::<String>()) {
            let _ = text.parse::<Ticket>();
            let _ = format!("{PREFIX}{text}").parse::<Ticket>();
        }
    }

    /// Content with a right checksum.
    fn sealed(content: &[u8]) -> String {
        format!("{PREFIX}{}", base32(&[content, &checksum(content)].concat()))
    }

    #[test]
    fn the_format_does_not_drift() {
        let id = Identity::from_secret(&[1; 32]).id();
        let addrs = vec!["127.0.0.1:4848".parse().expect("address")];
        let (peers, manifest) = (vec![PeerAddr { id, addrs }], Some(Digest([0xab; 32])));
        let ticket = Ticket { peers, manifest, called: "tiny".to_owned() };
        let mut bytes = vec![1, 0, 0, 0]; // one peer
        bytes.extend(id.0); // its id
        bytes.extend([1, 0, 0, 0]); // one address
        bytes.extend([4, 127, 0, 0, 1, 0xf0, 0x12]); // IPv4, port 4848
        bytes.push(1); // a manifest follows
        bytes.extend([0xab; 32]);
        bytes.extend([4, 0, 0, 0]); // the length of its name
        bytes.extend(b"tiny");
        assert_eq!(ticket.to_bytes(), bytes);
        assert_eq!(ticket.to_string(), sealed(&bytes));
        assert_eq!(base32(b"foobar"), "mzxw6ytboi", "RFC 4648");
    }

    #[test]
    fn hostile_content_is_refused_with_the_reason() {
        let id = Identity::from_secret(&[1; 32]).id().0;
        let peer = |id: &[u8]| [id, &[0, 0, 0, 0][..]].concat();
        let twice = [&[2, 0, 0, 0][..], &peer(&id), &peer(&id), &[0]].concat();
        let not_a_key = [&[1, 0, 0, 0][..], &peer(&[2; 32]), &[0]].concat();
        let trailing = [&[0, 0, 0, 0][..], &[0], &[0, 0, 0, 0], &[9]].concat();
        let named = |name: &[u8]| {
            let len = u32::try_from(name.len()).expect("short").to_le_bytes();
            [&[0, 0, 0, 0][..], &[0], &len, name].concat()
        };
        let many = [&u32::MAX.to_le_bytes()[..], &[0]].concat();
        for (content, reason) in [
            (twice, "named twice"),
            (not_a_key, "not an ed25519 public key"),
            (trailing, "1 bytes follow"),
            (named(b"x; rm"), "not letters, digits"),
            (named(b"x\x1b[2J"), "not letters, digits"),
            (named(&[b'x'; 257]), "above the limit of 256"),
            (many, "above the limit of 64"),
        ] {
            let error = sealed(&content).parse::<Ticket>().expect_err("refused").to_string();
            assert!(error.contains(reason), "{error}");
        }
        for (text, error) in [
            ("", TicketError::Prefix),
            ("lockstep2aaaa", TicketError::Prefix),
            ("lockstep1", TicketError::Incomplete),
            ("lockstep1aa!a", TicketError::Character { found: '!', at: 11 }),
        ] {
            assert_eq!(text.parse::<Ticket>(), Err(error), "{text}");
        }
    }
}
