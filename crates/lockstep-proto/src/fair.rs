//! A queue that shares what is taken from it fairly between clients, by their weights: start-time
//! fair queueing.
//!
//! Each client has a finish tag: what it has been given, divided by its weight, on one virtual
//! clock for all. Its next item starts where its last one finished, or now, if it had nothing
//! waiting; the item that starts first is taken first, and the clock stands where that one started.
//! So of two clients that both wait all the time neither gets more than its share by more than one
//! item of each ([`limits::fair_lag`]), whoever has more items or larger ones, and a client that
//! was away is owed nothing for it. Nothing is held back: whatever waits can be taken.
//!
//! Putting in, taking out and looking at the next one take a number of steps that grows with the
//! logarithm of what waits.

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::iter::Peekable;

use lockstep_exact::bytes::{Canonical, DecodeError, Reader};
use lockstep_exact::digest::Digest;

use crate::limits;

/// The weight of a client among others: with 2 it gets twice what one with 1 gets, where both want
/// more than there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Weight(u8);

impl Weight {
    /// The weight of everybody of whom nothing else was said.
    pub const ONE: Self = Self(1);

    /// Returns the weight `weight`, if it is from 1 to [`limits::CLIENT_WEIGHT_MOST`].
    #[must_use]
    pub const fn new(weight: u8) -> Option<Self> {
        if weight >= 1 && weight <= limits::CLIENT_WEIGHT_MOST { Some(Self(weight)) } else { None }
    }

    /// Returns the number, which is never 0.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl Default for Weight {
    /// Returns [`Weight::ONE`].
    fn default() -> Self {
        Self::ONE
    }
}

impl Canonical for Weight {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let number = u8::decode(input)?;
        Self::new(number).ok_or_else(|| input.invalid("weight", "is not from 1 to 16"))
    }
}

/// The client on whose account something waits, and its weight among all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    /// The name of the account: whatever tells clients apart.
    pub(crate) client: Digest,
    /// The weight of the client.
    pub(crate) weight: Weight,
}

/// The time on the virtual clock that a cost of 1 takes at a weight of 1: every weight up to
/// [`limits::CLIENT_WEIGHT_MOST`] divides it.
const UNIT: u64 = 720_720;

impl Account {
    /// Returns how far a cost takes the account on the virtual clock.
    fn length(self, cost: u64) -> u64 {
        let length = cost.saturating_mul(UNIT);
        // default: a weight is never 0
        length.checked_div(self.weight.0.into()).unwrap_or(length)
    }
}

/// The place of an item in the queue, with which it can be taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    client: Digest,
    number: u64,
}

/// The time on the virtual clock at which a client's next item starts, and the number of that item:
/// of two that start together the older one is first.
type Start = (u64, u64);

#[derive(Debug)]
struct Waiting<T> {
    cost: u64,
    item: T,
}

/// What one client has in the queue.
#[derive(Debug)]
struct Flow<T> {
    account: Account,
    /// The time on the virtual clock at which the client's last item ended.
    finish: u64,
    /// Its items by their numbers.
    items: BTreeMap<u64, Waiting<T>>,
    /// Where its next item stands in the order, while it has one.
    start: Option<Start>,
}

/// A queue of items of many clients.
#[derive(Debug)]
pub(crate) struct Fair<T> {
    flows: BTreeMap<Digest, Flow<T>>,
    /// The clients that have items, by the starts of their next ones.
    order: BTreeMap<Start, Digest>,
    /// The clients that have no items, and have had more than is due by now.
    ahead: BTreeSet<(u64, Digest)>,
    /// The virtual time: when the item started that was taken last.
    time: u64,
    next_number: u64,
}

impl<T> Default for Fair<T> {
    fn default() -> Self {
        Self {
            flows: BTreeMap::new(),
            order: BTreeMap::new(),
            ahead: BTreeSet::new(),
            time: 0,
            next_number: 0,
        }
    }
}

impl<T> Fair<T> {
    /// Puts an item that costs `cost` behind all others of its client, and returns its place. The
    /// weight of a client is that of its last item.
    pub(crate) fn push(&mut self, account: Account, cost: u64, item: T) -> Place {
        let number = self.next_number;
        self.next_number = number.saturating_add(1);
        let client = account.client;
        let flow = self.flows.entry(client).or_insert_with(|| Flow {
            account,
            finish: 0,
            items: BTreeMap::new(),
            start: None,
        });
        flow.account = account;
        flow.items.insert(number, Waiting { cost, item });
        self.ahead.remove(&(flow.finish, client));
        if flow.start.is_none() {
            let start = (flow.finish.max(self.time), number);
            flow.start = Some(start);
            self.order.insert(start, client);
        }
        Place { client, number }
    }

    /// Returns an item that waits.
    pub(crate) fn get(&self, place: Place) -> Option<&T> {
        self.flows.get(&place.client)?.items.get(&place.number).map(|waiting| &waiting.item)
    }

    /// Takes an item out of the queue as one that was never given: its client is not charged for
    /// it.
    pub(crate) fn remove(&mut self, place: Place) -> Option<T> {
        let flow = self.flows.get_mut(&place.client)?;
        let waiting = flow.items.remove(&place.number)?;
        let start = flow.start.map(|(start, _)| start);
        self.stand_again(place.client, start);
        Some(waiting.item)
    }

    /// Takes an item and charges its client for it.
    pub(crate) fn take(&mut self, place: Place) -> Option<T> {
        let flow = self.flows.get_mut(&place.client)?;
        let waiting = flow.items.remove(&place.number)?;
        let start = flow.start.map_or(flow.finish, |(start, _)| start);
        flow.finish = start.saturating_add(flow.account.length(waiting.cost));
        let finish = flow.finish;
        self.stand_again(place.client, Some(finish));
        self.move_clock(start);
        Some(waiting.item)
    }

    /// Returns the items in the order in which they are due, as if each was taken in its turn, with
    /// their costs.
    pub(crate) fn in_order(&self) -> InOrder<'_, T> {
        InOrder { flows: &self.flows, first: self.order.iter().peekable(), again: BTreeMap::new() }
    }

    /// Returns the items of one client, the oldest first.
    pub(crate) fn of_client(&self, client: &Digest) -> impl Iterator<Item = &T> {
        self.flows.get(client).into_iter().flat_map(|flow| flow.items.values().map(|one| &one.item))
    }

    /// Puts a client whose items have changed where its next one starts, if it has any.
    fn stand_again(&mut self, client: Digest, start: Option<u64>) {
        let Some(flow) = self.flows.get_mut(&client) else {
            return;
        };
        if let Some(before) = flow.start.take() {
            self.order.remove(&before);
        }
        if let (Some(start), Some((&number, _))) = (start, flow.items.first_key_value()) {
            flow.start = Some((start, number));
            self.order.insert((start, number), client);
        } else if flow.finish > self.time {
            self.ahead.insert((flow.finish, client));
            self.forget_debts();
        } else {
            self.flows.remove(&client);
        }
    }

    /// Moves the virtual clock on to `time`, unless it is there already.
    fn move_clock(&mut self, time: u64) {
        self.time = self.time.max(time);
        while self.ahead.first().is_some_and(|(finish, _)| *finish <= self.time)
            && let Some((_, client)) = self.ahead.pop_first()
        {
            self.flows.remove(&client);
        }
    }

    /// Forgets the smallest advances of clients that have no items, if there are too many.
    fn forget_debts(&mut self) {
        while self.ahead.len() > limits::FAIR_ABSENT
            && let Some((_, client)) = self.ahead.pop_first()
        {
            self.flows.remove(&client);
        }
    }
}

/// The items of a queue in the order in which they are due: see [`Fair::in_order`].
pub(crate) struct InOrder<'a, T> {
    flows: &'a BTreeMap<Digest, Flow<T>>,
    /// The clients of which no item has come yet.
    first: Peekable<btree_map::Iter<'a, Start, Digest>>,
    /// The others, by the starts of their next items.
    again: BTreeMap<Start, &'a Flow<T>>,
}

impl<'a, T> Iterator for InOrder<'a, T> {
    type Item = (Place, &'a T, u64);

    fn next(&mut self) -> Option<Self::Item> {
        let first = self.first.peek().map(|(start, _)| **start);
        let again = self.again.first_key_value().map(|(start, _)| *start);
        let is_first = match (first, again) {
            (Some(first), Some(again)) => first < again,
            (first, _) => first.is_some(),
        };
        let ((start, number), flow) = match is_first {
            true => {
                let (start, client) = self.first.next()?;
                (*start, self.flows.get(client)?)
            }
            false => self.again.pop_first()?,
        };
        let waiting = flow.items.get(&number)?;
        let finish = start.saturating_add(flow.account.length(waiting.cost));
        let mut later = flow.items.range(number.saturating_add(1)..);
        if let Some((&number, _)) = later.next() {
            self.again.insert((finish, number), flow);
        }
        let place = Place { client: flow.account.client, number };
        Some((place, &waiting.item, waiting.cost))
    }
}

#[cfg(test)]
mod tests {
    use lockstep_testing::numbers::Numbers;

    use super::*;

    fn account(client: u8, weight: u8) -> Account {
        Account { client: Digest([client; 32]), weight: Weight(weight) }
    }

    /// Takes the item that is due.
    fn next<T: Copy>(fair: &mut Fair<T>) -> Option<(u8, T, u64)> {
        let (place, item, cost) = fair.in_order().next().map(|(p, item, cost)| (p, *item, cost))?;
        fair.take(place).unwrap();
        Some((place.client.0[0], item, cost))
    }

    fn below(numbers: &mut Numbers, bound: u64) -> u64 {
        numbers.below(bound)
    }

    /// The difference of what two clients have had, each divided by its weight, while both have
    /// waited all the time: its least and its greatest value, in 1/weights.
    #[derive(Clone, Copy)]
    struct Lag {
        now: i128,
        least: i128,
        greatest: i128,
    }

    #[test]
    fn while_two_clients_wait_neither_gets_more_than_its_share_by_more_than_an_item_of_each() {
        for seed in 0..40 {
            let mut numbers = Numbers::new(seed);
            let clients = 2 + usize::try_from(below(&mut numbers, 5)).unwrap();
            let weights: Vec<u8> =
                (0..clients).map(|_| u8::try_from(1 + below(&mut numbers, 16)).unwrap()).collect();
            let largest = 1 + below(&mut numbers, 128);
            let greed = 1 + below(&mut numbers, 6);
            let mut fair = Fair::default();
            let mut waiting = vec![0_u64; clients];
            let mut lags: BTreeMap<(usize, usize), Lag> = BTreeMap::new();
            for _ in 0..2_000 {
                // The first client is the greediest.
                for client in 0..clients {
                    let wants = if client == 0 { 8 } else { greed };
                    if below(&mut numbers, 8) < wants && waiting[client] < 6 {
                        let cost = 1 + below(&mut numbers, largest);
                        let number = u8::try_from(client).unwrap();
                        fair.push(account(number, weights[client]), cost, ());
                        waiting[client] += 1;
                    }
                }
                let Some((client, (), cost)) = next(&mut fair) else { continue };
                let got = usize::from(client);
                waiting[got] -= 1;
                for one in 0..clients {
                    for other in one + 1..clients {
                        let gain = |client: usize, other: usize| {
                            let had = if client == got { cost } else { 0 };
                            i128::from(had) * i128::from(weights[other])
                        };
                        let lag = lags.entry((one, other)).or_insert(Lag {
                            now: 0,
                            least: 0,
                            greatest: 0,
                        });
                        lag.now += gain(one, other) - gain(other, one);
                        lag.least = lag.least.min(lag.now);
                        lag.greatest = lag.greatest.max(lag.now);
                        let (a, b) = (weights[one], weights[other]);
                        let bound = i128::from(limits::fair_lag(largest, (a, b)));
                        let most = bound * i128::from(a) * i128::from(b) / 1000;
                        assert!(lag.greatest - lag.least <= most, "seed {seed}: {one} and {other}");
                        if waiting[one] == 0 || waiting[other] == 0 {
                            lags.remove(&(one, other));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn the_order_that_is_shown_is_the_one_in_which_items_are_taken() {
        for seed in 0..40 {
            let mut numbers = Numbers::new(seed);
            let mut fair = Fair::default();
            for item in 0..60_u32 {
                let client = u8::try_from(below(&mut numbers, 6)).unwrap();
                fair.push(account(client, 1 + client % 3), 1 + below(&mut numbers, 40), item);
                if below(&mut numbers, 4) == 0 {
                    next(&mut fair).unwrap();
                }
            }
            let shown: Vec<u32> = fair.in_order().map(|(_, item, _)| *item).collect();
            let taken: Vec<u32> =
                std::iter::from_fn(|| next(&mut fair).map(|(_, item, _)| item)).collect();
            assert_eq!(shown, taken, "seed {seed}");
            assert!(fair.order.is_empty());
        }
    }

    #[test]
    fn who_leaves_and_comes_back_is_still_charged_for_what_it_has_had() {
        let mut fair = Fair::default();
        for _ in 0..20 {
            fair.push(account(1, 1), 100, 0);
        }
        // The other one has one item at a time, and puts the next in when that was taken.
        let mut of_other = 0;
        fair.push(account(2, 1), 100, 0);
        for _ in 0..20 {
            if next(&mut fair).unwrap().0 == 2 {
                of_other += 1;
                fair.push(account(2, 1), 100, 0);
            }
        }
        assert_eq!(of_other, 10);
    }

    #[test]
    fn who_was_away_is_owed_nothing_for_it() {
        let mut fair = Fair::default();
        for _ in 0..100 {
            fair.push(account(1, 1), 10, 0);
            next(&mut fair).unwrap();
        }
        for _ in 0..8 {
            fair.push(account(1, 1), 10, 0);
            fair.push(account(2, 1), 10, 0);
        }
        let order: Vec<u8> = (0..8).map(|_| next(&mut fair).unwrap().0).collect();
        assert_eq!(order.iter().filter(|client| **client == 2).count(), 4, "{order:?}");
    }

    #[test]
    fn what_is_removed_costs_nothing_and_the_next_takes_its_turn() {
        let mut fair = Fair::default();
        let first = fair.push(account(1, 1), 10, 1);
        fair.push(account(1, 1), 10, 2);
        fair.push(account(2, 1), 10, 3);
        assert_eq!(fair.remove(first), Some(1));
        assert_eq!(fair.remove(first), None);
        assert_eq!(fair.take(first), None);
        assert_eq!([next(&mut fair), next(&mut fair)].map(|one| one.unwrap().1), [2, 3]);
        assert_eq!(next(&mut fair), None);
    }

    #[test]
    fn clients_without_items_are_forgotten_beyond_a_limit() {
        let mut fair = Fair::default();
        for number in 0..limits::FAIR_ABSENT + 50 {
            let mut client = Digest::ZERO;
            client.0[..8].copy_from_slice(&number.to_le_bytes());
            // All start at the same time, so that all are ahead of it when they have had theirs.
            fair.push(Account { client, weight: Weight::ONE }, 10, 0);
        }
        while next(&mut fair).is_some() {}
        assert_eq!(fair.flows.len(), limits::FAIR_ABSENT);
        assert_eq!(fair.ahead.len(), limits::FAIR_ABSENT);
        // Once the clock has come there, nobody is ahead any more.
        for _ in 0..3 {
            fair.push(account(255, 1), 10, 0);
            next(&mut fair).unwrap();
        }
        assert_eq!(fair.flows.len(), 1);
    }
}
