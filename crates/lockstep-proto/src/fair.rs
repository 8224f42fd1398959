//! A queue that shares what is taken from it fairly: between the neighbours that bring work here,
//! and then between the clients of each, by their weights ([`Account`]); start-time fair queueing.
//!
//! Each client has a finish tag: what it has been given, divided by its weight, on one virtual
//! clock for all. Its next item starts where its last one finished, or now, if it had nothing
//! waiting; the item that starts first is taken first, and the clock stands where that one started.
//! So of two clients that both wait all the time neither gets more than its share by more than one
//! item of each ([`limits::fair_lag`]), whoever has more items or larger ones, and a client that
//! was away is owed nothing for it. Nothing is held back: whatever waits can be taken. Between
//! neighbours it is the same, with all items of a neighbour in the place of those of a client; so
//! one that invents clients, or weights of them, has no more of it.
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

/// The account on which something waits.
///
/// What there is is shared out three times: between the neighbours that bring work to this server,
/// all alike; between the stages 0 of which each neighbour brings work, all alike; and between the
/// clients of each of these, by their weights. Only the neighbour has proved who it is. What it
/// says of stages 0, clients and weights shares out its own part and nobody else's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// The node that brings the work: the stage before, or at stage 0 this server itself.
    pub neighbour: Digest,
    /// The stage 0 whose client it is.
    pub first: Digest,
    /// The name of the client: whatever tells clients apart.
    pub client: Digest,
    /// The weight of the client.
    pub weight: Weight,
}

impl Account {
    /// Returns whose parts the account is in, the largest first.
    const fn path(self) -> [Share; 3] {
        [
            Share { name: self.neighbour, weight: Weight::ONE },
            Share { name: self.first, weight: Weight::ONE },
            Share { name: self.client, weight: self.weight },
        ]
    }
}

/// A name, and its weight among others of its kind.
#[derive(Clone, Copy, Debug)]
struct Share {
    name: Digest,
    weight: Weight,
}

/// The time on the virtual clock that a cost of 1 takes at a weight of 1: every weight up to
/// [`limits::CLIENT_WEIGHT_MOST`] divides it.
const UNIT: u64 = 720_720;

impl Weight {
    /// Returns how far a cost takes an account of this weight on the virtual clock.
    fn length(self, cost: u64) -> u64 {
        let length = cost.saturating_mul(UNIT);
        // default: a weight is never 0
        length.checked_div(self.0.into()).unwrap_or(length)
    }
}

/// The place of an item in the queue, with which it can be taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    account: Account,
    number: u64,
}

/// The time on the virtual clock at which the next item of a flow starts, and the number of that
/// item: of two that start together the older one is first.
type Start = (u64, u64);

#[derive(Debug)]
struct Waiting<T> {
    account: Account,
    cost: u64,
    item: T,
}

/// What one neighbour, stage 0 or client has in the queue.
#[derive(Debug)]
struct Flow<T> {
    weight: Weight,
    /// The time on the virtual clock at which its last item ended.
    finish: u64,
    /// Where its next item stands in the order, while it has one.
    start: Option<Start>,
    inside: Level<T>,
}

/// What is shared out between flows, on a virtual clock of its own; or the items of one client.
#[derive(Debug)]
struct Level<T> {
    /// The items of a client by their numbers.
    items: BTreeMap<u64, Waiting<T>>,
    flows: BTreeMap<Digest, Flow<T>>,
    /// The flows that have items, by the starts of their next ones.
    order: BTreeMap<Start, Digest>,
    /// The flows that have no items, and have had more than is due by now.
    ahead: BTreeSet<(u64, Digest)>,
    /// The virtual time: when the item started that was taken last.
    time: u64,
    /// The number of flows without items, here and inside.
    absent: usize,
}

impl<T> Default for Level<T> {
    fn default() -> Self {
        Self {
            items: BTreeMap::new(),
            flows: BTreeMap::new(),
            order: BTreeMap::new(),
            ahead: BTreeSet::new(),
            time: 0,
            absent: 0,
        }
    }
}

/// A queue of items of many clients.
#[derive(Debug)]
pub(crate) struct Fair<T> {
    all: Level<T>,
    next_number: u64,
}

impl<T> Default for Fair<T> {
    fn default() -> Self {
        Self { all: Level::default(), next_number: 0 }
    }
}

impl<T> Fair<T> {
    /// Puts an item that costs `cost` behind all others of its client, and returns its place. The
    /// weight of a client is that of its last item.
    pub(crate) fn push(&mut self, account: Account, cost: u64, item: T) -> Place {
        let number = self.next_number;
        self.next_number = number.saturating_add(1);
        self.all.push(&account.path(), number, Waiting { account, cost, item });
        Place { account, number }
    }

    /// Returns an item that waits.
    pub(crate) fn get(&self, place: Place) -> Option<&T> {
        let items = &self.all.of(&place.account.path())?.items;
        items.get(&place.number).map(|waiting| &waiting.item)
    }

    /// Takes an item out of the queue as one that was never given: its client is not charged for
    /// it.
    pub(crate) fn remove(&mut self, place: Place) -> Option<T> {
        let is_charged = false;
        self.all.take(&place.account.path(), place.number, is_charged).map(|waiting| waiting.item)
    }

    /// Takes an item and charges its client for it, and everybody in whose part that is.
    pub(crate) fn take(&mut self, place: Place) -> Option<T> {
        let is_charged = true;
        self.all.take(&place.account.path(), place.number, is_charged).map(|waiting| waiting.item)
    }

    /// Returns the items in the order in which they are due, as if each was taken in its turn, with
    /// their costs.
    pub(crate) fn in_order(&self) -> InOrder<'_, T> {
        self.all.in_order()
    }

    /// Returns the items of one client, the oldest first.
    pub(crate) fn of_client(&self, account: &Account) -> impl Iterator<Item = &T> {
        let level = self.all.of(&account.path());
        level.into_iter().flat_map(|level| level.items.values().map(|one| &one.item))
    }
}

impl<T> Level<T> {
    /// Returns what is inside the flows of this path.
    fn of(&self, path: &[Share]) -> Option<&Self> {
        match path.split_first() {
            Some((share, inside)) => self.flows.get(&share.name)?.inside.of(inside),
            None => Some(self),
        }
    }

    fn push(&mut self, path: &[Share], number: u64, waiting: Waiting<T>) {
        let Some((share, path)) = path.split_first() else {
            self.items.insert(number, waiting);
            return;
        };
        let name = share.name;
        let flow = self.flows.entry(name).or_insert_with(|| Flow {
            weight: share.weight,
            finish: 0,
            start: None,
            inside: Self::default(),
        });
        flow.weight = share.weight;
        let before = flow.inside.absent;
        flow.inside.push(path, number, waiting);
        self.absent = self.absent.saturating_add(flow.inside.absent).saturating_sub(before);
        if self.ahead.remove(&(flow.finish, name)) {
            self.absent = self.absent.saturating_sub(1);
        }
        if flow.start.is_none() {
            let start = (flow.finish.max(self.time), number);
            flow.start = Some(start);
            self.order.insert(start, name);
        }
    }

    /// Takes out an item. If it is charged, every flow of its path moves on by what it costs.
    fn take(&mut self, path: &[Share], number: u64, is_charged: bool) -> Option<Waiting<T>> {
        let Some((share, path)) = path.split_first() else {
            return self.items.remove(&number);
        };
        let flow = self.flows.get_mut(&share.name)?;
        let before = flow.inside.absent;
        let waiting = flow.inside.take(path, number, is_charged)?;
        self.absent = self.absent.saturating_add(flow.inside.absent).saturating_sub(before);
        let start = flow.start.map_or(flow.finish, |(start, _)| start);
        if !is_charged {
            self.stand_again(share.name, start);
            return Some(waiting);
        }
        flow.finish = start.saturating_add(flow.weight.length(waiting.cost));
        let finish = flow.finish;
        self.stand_again(share.name, finish);
        self.move_clock(start);
        Some(waiting)
    }

    /// Returns the number of the item that is due first.
    fn next_number(&self) -> Option<u64> {
        if let Some((number, _)) = self.items.first_key_value() {
            return Some(*number);
        }
        let (_, name) = self.order.first_key_value()?;
        self.flows.get(name)?.inside.next_number()
    }

    /// Puts a flow whose items have changed where its next one starts, if it has any.
    fn stand_again(&mut self, name: Digest, start: u64) {
        let Some(flow) = self.flows.get_mut(&name) else {
            return;
        };
        if let Some(before) = flow.start.take() {
            self.order.remove(&before);
        }
        if let Some(number) = flow.inside.next_number() {
            flow.start = Some((start, number));
            self.order.insert((start, number), name);
        } else if flow.finish > self.time {
            self.ahead.insert((flow.finish, name));
            self.absent = self.absent.saturating_add(1);
            self.forget_debts();
        } else {
            self.forget(name);
        }
    }

    /// Moves the virtual clock on to `time`, unless it is there already.
    fn move_clock(&mut self, time: u64) {
        self.time = self.time.max(time);
        while self.ahead.first().is_some_and(|(finish, _)| *finish <= self.time) {
            self.forget_first();
        }
    }

    /// Forgets the smallest advances of flows that have no items, if there are too many.
    fn forget_debts(&mut self) {
        while self.absent > limits::FAIR_ABSENT && self.ahead.len() > 1 {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some((_, name)) = self.ahead.pop_first() {
            self.absent = self.absent.saturating_sub(1);
            self.forget(name);
        }
    }

    /// Forgets a flow that has no items, and what it has had.
    fn forget(&mut self, name: Digest) {
        if let Some(flow) = self.flows.remove(&name) {
            self.absent = self.absent.saturating_sub(flow.inside.absent);
        }
    }

    fn in_order(&self) -> InOrder<'_, T> {
        InOrder {
            items: self.items.iter(),
            flows: &self.flows,
            first: self.order.iter().peekable(),
            again: BTreeMap::new(),
        }
    }
}

/// The rest of a flow's items, of which some have come.
type Rest<'a, T> = Box<Peekable<InOrder<'a, T>>>;

/// The items of a queue in the order in which they are due: see [`Fair::in_order`].
pub(crate) struct InOrder<'a, T> {
    items: btree_map::Iter<'a, u64, Waiting<T>>,
    flows: &'a BTreeMap<Digest, Flow<T>>,
    /// The flows of which no item has come yet.
    first: Peekable<btree_map::Iter<'a, Start, Digest>>,
    /// The others, by the starts of their next items.
    again: BTreeMap<Start, (Weight, Rest<'a, T>)>,
}

impl<'a, T> Iterator for InOrder<'a, T> {
    type Item = (Place, &'a T, u64);

    fn next(&mut self) -> Option<Self::Item> {
        if let Some((&number, waiting)) = self.items.next() {
            let place = Place { account: waiting.account, number };
            return Some((place, &waiting.item, waiting.cost));
        }
        let first = self.first.peek().map(|(start, _)| **start);
        let again = self.again.first_key_value().map(|(start, _)| *start);
        let is_first = match (first, again) {
            (Some(first), Some(again)) => first < again,
            (first, _) => first.is_some(),
        };
        let (start, weight, mut rest) = if is_first {
            let ((start, _), name) = self.first.next()?;
            let flow = self.flows.get(name)?;
            (*start, flow.weight, Box::new(flow.inside.in_order().peekable()))
        } else {
            let ((start, _), (weight, rest)) = self.again.pop_first()?;
            (start, weight, rest)
        };
        let (place, item, cost) = rest.next()?;
        let finish = start.saturating_add(weight.length(cost));
        if let Some(number) = rest.peek().map(|(place, _, _)| place.number) {
            self.again.insert((finish, number), (weight, rest));
        }
        Some((place, item, cost))
    }
}

#[cfg(test)]
mod tests {
    use lockstep_testing::numbers::Numbers;

    use super::*;

    fn account(client: u8, weight: u8) -> Account {
        of_neighbour(0, 0, client, weight)
    }

    fn of_neighbour(neighbour: u8, first: u8, client: u8, weight: u8) -> Account {
        let [neighbour, first, client] = [neighbour, first, client].map(|one| Digest([one; 32]));
        Account { neighbour, first, client, weight: Weight(weight) }
    }

    /// An account that nobody has had before, of the largest weight.
    fn invented(neighbour: u8, first: u64, client: u64) -> Account {
        let mut account = of_neighbour(neighbour, 0, 0, limits::CLIENT_WEIGHT_MOST);
        account.first.0[..8].copy_from_slice(&first.to_le_bytes());
        account.client.0[..8].copy_from_slice(&client.to_le_bytes());
        account
    }

    /// Takes the item that is due.
    fn next<T: Copy>(fair: &mut Fair<T>) -> Option<(u8, T, u64)> {
        let (place, item, cost) = fair.in_order().next().map(|(p, item, cost)| (p, *item, cost))?;
        fair.take(place).unwrap();
        Some((place.account.client.0[0], item, cost))
    }

    /// Takes the item that is due, and returns its neighbour and its stage 0.
    fn next_of<T: Copy>(fair: &mut Fair<T>) -> Option<(u8, u8)> {
        let (place, _, _) = fair.in_order().next()?;
        fair.take(place).unwrap();
        Some((place.account.neighbour.0[0], place.account.first.0[0]))
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
                let account = of_neighbour(client % 2, client % 3, client, 1 + client % 3);
                fair.push(account, 1 + below(&mut numbers, 40), item);
                if below(&mut numbers, 4) == 0 {
                    next(&mut fair).unwrap();
                }
            }
            let shown: Vec<u32> = fair.in_order().map(|(_, item, _)| *item).collect();
            let taken: Vec<u32> =
                std::iter::from_fn(|| next(&mut fair).map(|(_, item, _)| item)).collect();
            assert_eq!(shown, taken, "seed {seed}");
            assert!(fair.all.order.is_empty() && fair.all.next_number().is_none());
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
    fn a_neighbour_that_invents_clients_and_weights_has_no_more_than_its_part() {
        // It has a thousand clients that wait, of which each is a new one when it was served; or
        // the clients are those of a thousand stages 0 that it names.
        for is_first in [false, true] {
            let mut fair = Fair::default();
            let mut number = 0;
            let mut invent = |fair: &mut Fair<()>| {
                number += 1;
                fair.push(invented(1, if is_first { number } else { 7 }, number), 10, ());
            };
            (0..1_000).for_each(|_| invent(&mut fair));
            let honest = of_neighbour(2, 2, 2, 1);
            for _ in 0..2 {
                fair.push(honest, 10, ());
            }
            let mut had = [0_u32; 3];
            for _ in 0..400 {
                let (neighbour, _) = next_of(&mut fair).unwrap();
                had[usize::from(neighbour)] += 1;
                match neighbour {
                    1 => invent(&mut fair),
                    _ => {
                        fair.push(honest, 10, ());
                    }
                }
            }
            assert!(had[1].abs_diff(had[2]) <= 1, "{had:?}");
        }
    }

    #[test]
    fn a_stage_0_that_invents_clients_has_no_more_than_others_behind_the_same_neighbour() {
        let mut fair = Fair::default();
        let mut number = 0;
        let mut invent = |fair: &mut Fair<()>| {
            number += 1;
            fair.push(invented(1, 7, number), 10, ());
        };
        (0..1_000).for_each(|_| invent(&mut fair));
        let honest = of_neighbour(1, 2, 2, 1);
        for _ in 0..2 {
            fair.push(honest, 10, ());
        }
        let mut of_honest = 0;
        for _ in 0..400 {
            match next_of(&mut fair).unwrap() {
                (1, 2) => {
                    of_honest += 1;
                    fair.push(honest, 10, ());
                }
                _ => invent(&mut fair),
            }
        }
        assert!((199..=201).contains(&of_honest), "{of_honest} of 400");
    }

    #[test]
    fn clients_without_items_are_forgotten_beyond_a_limit() {
        // Of one stage 0, or of many, or of many neighbours.
        for kind in 0..3 {
            let mut fair = Fair::default();
            for number in 0..2 * limits::FAIR_ABSENT as u64 {
                let (neighbour, first) = match kind {
                    0 => (0, 0),
                    1 => (0, number % 64),
                    _ => (u8::try_from(number % 64).unwrap(), number % 8),
                };
                // All start at the same time, so that all are ahead of it when they have had
                // theirs.
                fair.push(invented(neighbour, first, number), 10, 0);
            }
            while next(&mut fair).is_some() {}
            let clients = |level: &Level<i32>| -> usize {
                let firsts = level.flows.values().flat_map(|flow| flow.inside.flows.values());
                firsts.map(|flow| flow.inside.flows.len()).sum()
            };
            let left = clients(&fair.all);
            assert!(left <= limits::FAIR_ABSENT && left > limits::FAIR_ABSENT / 4, "{left}");
            // Once the clock has come there, nobody is ahead any more.
            for _ in 0..3_000 {
                fair.push(of_neighbour(255, 1, 255, 1), 10, 0);
                next(&mut fair).unwrap();
            }
            assert_eq!((fair.all.flows.len(), fair.all.absent), (1, 3));
        }
    }
}
