//! The book of addresses at which stages can be dialled.
//!
//! A stage that has connected to this one has shown that it gets what is sent to the address from
//! which it came: that address is remembered, for the [`limits::KNOWN_ADDRESSES`] stages that came
//! last, and goes before all others. Of any other stage only a lease says where it is, and nobody
//! has proved that. So a dial there must cost its victim no more than it cost whoever wanted it:
//! at most [`protocol::DIALLED_ADDRESSES`] addresses are tried, once, for a lease whose frame was
//! longer than what is sent in vain.

use std::collections::{BTreeMap, VecDeque};

use lockstep_proto::limits as protocol;
use lockstep_verify::sign::NodeId;

use crate::limits;
use crate::transport::Address;

/// The addresses at which stages can be dialled, because they have connected from there.
#[derive(Debug, Default)]
pub(super) struct Book {
    known: BTreeMap<NodeId, Address>,
    /// In the order in which they came.
    order: VecDeque<NodeId>,
}

impl Book {
    /// Remembers that a stage has connected from an address; the oldest of too many is forgotten.
    pub(super) fn came_from(&mut self, node: NodeId, from: Address) {
        self.is_not_there(node);
        self.known.insert(node, from);
        self.order.push_back(node);
        if self.order.len() > limits::KNOWN_ADDRESSES
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    /// Forgets the address of a stage that could not be reached there.
    pub(super) fn is_not_there(&mut self, node: NodeId) {
        if self.known.remove(&node).is_some() {
            self.order.retain(|other| *other != node);
        }
    }

    /// Returns the addresses at which to dial a stage: the one from which it has connected,
    /// otherwise those that a lease names.
    pub(super) fn addresses(&self, node: NodeId, leased: Option<&str>) -> Vec<Address> {
        match self.known.get(&node) {
            Some(known) => vec![*known],
            None => leased.map(parse).unwrap_or_default(),
        }
    }
}

/// Parses the addresses of a lease, which commas separate; what does not parse is left out, and so
/// is where no single node can be.
pub(super) fn parse(text: &str) -> Vec<Address> {
    let first = text.split(',').take(protocol::DIALLED_ADDRESSES);
    let parsed = first.filter_map(|address| address.trim().parse().ok());
    parsed.filter(Address::is_dialable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: usize) -> NodeId {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&number.to_le_bytes());
        NodeId(id)
    }

    #[test]
    fn where_a_stage_came_from_goes_before_what_a_lease_says_until_it_is_not_there() {
        let mut book = Book::default();
        let (known, leased) = ("10.0.0.1:7".parse().unwrap(), "10.9.9.9:9");
        assert_eq!(book.addresses(node(1), None), []);
        assert_eq!(book.addresses(node(1), Some(leased)), [leased.parse().unwrap()]);
        book.came_from(node(1), known);
        assert_eq!(book.addresses(node(1), Some(leased)), [known]);
        assert_eq!(book.addresses(node(2), Some(leased)), [leased.parse().unwrap()]);
        book.is_not_there(node(1));
        assert_eq!(book.addresses(node(1), Some(leased)), [leased.parse().unwrap()]);
    }

    #[test]
    fn a_lease_names_few_addresses_and_stages_that_are_known_are_bounded() {
        let many = (1..=9).map(|last| format!("10.0.0.{last}:1")).collect::<Vec<_>>().join(",");
        let mut book = Book::default();
        assert_eq!(book.addresses(node(1), Some(&many)).len(), protocol::DIALLED_ADDRESSES);
        assert_eq!(book.addresses(node(1), Some("nonsense,,:::")), []);
        let groups = "224.0.0.1:1,255.255.255.255:1,0.0.0.0:1,[ff02::1]:1,10.0.0.1:0";
        assert_eq!(book.addresses(node(1), Some(groups)), []);
        let from: Address = "10.0.0.1:7".parse().unwrap();
        for number in 0..3 * limits::KNOWN_ADDRESSES {
            book.came_from(node(number), from);
            book.came_from(node(number), from);
        }
        assert_eq!(book.known.len(), limits::KNOWN_ADDRESSES);
        assert_eq!(book.order.len(), limits::KNOWN_ADDRESSES);
    }
}
