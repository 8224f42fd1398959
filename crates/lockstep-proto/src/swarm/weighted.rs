//! A ring for each request of many clients, along the shares of a flow.
//!
//! Every layer is dealt out by interleaved weighted round-robin: a server is owed its share of all
//! rings so far, and whoever is owed most is next. A ring stays with a server as long as that is
//! not ahead of its share by a ring, so that it changes servers seldom. The same requests get the
//! same rings.

use lockstep_verify::request::Hop;
use lockstep_verify::sign::NodeId;

use crate::limits;

/// The rates at which a server serves its layers, by any measure that all servers of a layer share.
#[derive(Clone, Debug)]
pub(super) struct Share {
    /// The node id.
    pub(super) node: NodeId,
    /// The lowest layer that it serves.
    pub(super) first: usize,
    /// The rates of that layer and those above.
    pub(super) rates: Vec<u128>,
}

/// One ring, in the measure of what a server is owed.
const RING: u64 = 1 << 32;

/// The most that a server is owed, or is ahead of its share.
const OWED: u64 = RING.saturating_mul(limits::RINGS_OWED);

/// How much more a server's account of all its layers counts than that of one: it evens out what a
/// server has to do in layers that nobody else can take.
const OVERALL: i128 = 16;

/// A server's account of one layer.
#[derive(Clone, Copy, Debug)]
struct Account {
    /// Its part of every ring, of [`RING`].
    share: u64,
    /// What it has had: [`RING`] for each ring, and what was forgiven because it had no room.
    had: u128,
}

impl Account {
    /// Counts what it had of the ring `number`. If it is `forgiven`, it is never more than [`OWED`]
    /// ahead: who stands in for others is not held to it for ever.
    fn take(&mut self, had: u64, number: u128, forgiven: bool) {
        let due = u128::from(self.share).saturating_mul(number);
        let most = if forgiven { due.saturating_add(u128::from(OWED)) } else { u128::MAX };
        self.had = self.had.saturating_add(u128::from(had)).min(most);
    }

    /// Returns what it is owed once the ring `number` is out.
    fn owed(&self, number: u64) -> i128 {
        // default: neither comes near what an i128 holds
        let signed = |sum: u128| i128::try_from(sum).unwrap_or(i128::MAX);
        let due = u128::from(self.share).saturating_mul(u128::from(number));
        signed(due).saturating_sub(signed(self.had))
    }
}

/// A server with its accounts.
#[derive(Clone, Debug)]
struct Server {
    node: NodeId,
    first: usize,
    accounts: Vec<Account>,
    /// Its account of all of its layers together, as of a layer that is their average.
    overall: Account,
}

impl Server {
    fn new(share: &Share, accounts: Vec<Account>) -> Self {
        let sum: u64 = accounts.iter().map(|one| one.share).fold(0, u64::saturating_add);
        let average = sum.checked_div(accounts.len() as u64);
        // default: a server without layers has no share
        let overall = Account { share: average.unwrap_or(0), had: 0 };
        Self { node: share.node, first: share.first, accounts, overall }
    }

    fn account(&self, layer: usize) -> Option<&Account> {
        self.accounts.get(layer.checked_sub(self.first)?)
    }

    fn account_mut(&mut self, layer: usize) -> Option<&mut Account> {
        self.accounts.get_mut(layer.checked_sub(self.first)?)
    }

    fn end(&self) -> usize {
        self.first.saturating_add(self.accounts.len())
    }
}

/// How a ring is put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Walk {
    /// By the shares: a server that has had its share is left.
    Shares,
    /// By the shares, but a server is left at the end of its span alone.
    Ends,
    /// With the fewest stages.
    Furthest,
}

/// The rings of many requests, handed out one after another.
#[derive(Clone, Debug)]
pub struct Weighted {
    servers: Vec<Server>,
    /// For each layer the places of the servers that serve it.
    holders: Vec<Vec<usize>>,
    /// Rings that were handed out.
    given: u64,
}

impl Weighted {
    /// Creates the rings over `layers` layers along these shares.
    pub(super) fn new(layers: usize, shares: &[Share]) -> Self {
        let mut sums = vec![0_u128; layers];
        let mut holders = vec![Vec::new(); layers];
        for (place, share) in shares.iter().enumerate() {
            let layers = sums.iter_mut().zip(&mut holders).skip(share.first);
            for ((sum, holders), rate) in layers.zip(&share.rates) {
                *sum = sum.saturating_add(*rate);
                holders.push(place);
            }
        }
        let server = |share: &Share| {
            let account = |(rate, sum): (&u128, &u128)| {
                // Both lose the same bits, so that the product fits.
                let (rate, sum) = (rate >> 16, (sum >> 16).max(1));
                let share = rate.saturating_mul(u128::from(RING)).checked_div(sum);
                // default: a part is never more than the whole
                let share = share.and_then(|share| u64::try_from(share).ok()).unwrap_or(RING);
                Account { share, had: 0 }
            };
            let sums = sums.iter().skip(share.first);
            let accounts = share.rates.iter().zip(sums).map(account).collect();
            Server::new(share, accounts)
        };
        Self { servers: shares.iter().map(server).collect(), holders, given: 0 }
    }

    /// Returns the stages of the next request's ring, server 1 first, over servers for which
    /// `has_room` returns true. `None` if these hold no ring.
    pub fn next_ring(&mut self, mut has_room: impl FnMut(NodeId) -> bool) -> Option<Vec<Hop>> {
        let rooms: Vec<bool> = self.servers.iter().map(|server| has_room(server.node)).collect();
        let walks = [Walk::Shares, Walk::Ends, Walk::Furthest].into_iter();
        let ring = walks
            .filter_map(|walk| self.walk(walk, &rooms))
            .find(|ring| ring.len() <= limits::STAGES)?;
        self.given = self.given.saturating_add(1);
        let number = u128::from(self.given);
        let is_short = rooms.contains(&false);
        for &(place, first, end) in &ring {
            let Some(server) = self.servers.get_mut(place) else { continue };
            for layer in first..end {
                if let Some(account) = server.account_mut(layer) {
                    account.take(RING, number, true);
                }
            }
            let layers = RING.saturating_mul(end.saturating_sub(first) as u64);
            if let Some(average) = layers.checked_div(server.accounts.len() as u64) {
                server.overall.take(average, number, is_short);
            }
        }
        self.forgive(&rooms);
        // default: layers are counted by a u32 where they come from
        let number = |layer: usize| u32::try_from(layer).unwrap_or(u32::MAX);
        let hop = |(place, first, end): (usize, usize, usize)| {
            let node = self.servers.get(place)?.node;
            Some(Hop { node, first: number(first), end: number(end) })
        };
        Some(ring.into_iter().filter_map(hop).collect())
    }

    /// Walks through the layers, and returns the stages: the server's place, first layer and end.
    fn walk(&self, walk: Walk, rooms: &[bool]) -> Option<Vec<(usize, usize, usize)>> {
        let number = self.given.saturating_add(1);
        let mut ring: Vec<(usize, usize, usize)> = Vec::new();
        for (layer, holders) in self.holders.iter().enumerate() {
            let after = layer.saturating_add(1);
            let owed = |place: usize| {
                let server = self.servers.get(place)?;
                let overall = server.overall.owed(number).saturating_mul(OVERALL);
                Some(server.account(layer)?.owed(number).saturating_add(overall))
            };
            // The server that the ring is at, if it serves this layer, too.
            let here = ring.last().and_then(|(place, _, _)| owed(*place));
            let stays = here.is_some_and(|owed| walk != Walk::Shares || owed > -i128::from(RING));
            let is_new = |place: &usize| ring.iter().all(|(other, _, _)| other != place);
            let has_room = |place: &usize| rooms.get(*place).is_some_and(|room| *room);
            let candidates = holders.iter().filter(|place| has_room(place) && is_new(place));
            let rank = |place: &&usize| {
                let end = self.servers.get(**place).map(Server::end);
                // The first of equals counts, so the larger place ranks lower.
                let first = usize::MAX.saturating_sub(**place);
                let far = if walk == Walk::Furthest { end } else { None };
                (far, owed(**place), end, first)
            };
            let next = if stays { None } else { candidates.max_by_key(rank).copied() };
            // Whoever is ahead of its share is left for somebody who is owed more.
            let next = next.filter(|next| here.is_none() || owed(*next) > here);
            match (next, ring.last_mut()) {
                (Some(next), _) => ring.push((next, layer, after)),
                (None, Some((_, _, end))) if here.is_some() => *end = after,
                (None, _) => return None,
            }
        }
        Some(ring)
    }

    /// Limits what servers without room are owed.
    fn forgive(&mut self, rooms: &[bool]) {
        let number = u128::from(self.given);
        let full = self.servers.iter_mut().zip(rooms).filter(|(_, room)| !**room);
        for (server, _) in full {
            for account in server.accounts.iter_mut().chain([&mut server.overall]) {
                let due = u128::from(account.share).saturating_mul(number);
                account.had = account.had.max(due.saturating_sub(u128::from(OWED)));
            }
        }
    }
}
