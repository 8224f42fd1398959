//! Matching: a backtracking machine that pays for each step.

use super::parse::{ExpressionError, Greed, Node, Place};
use super::{Budget, Set, Spent};
use crate::limits::{MAX_EXPRESSION_OPERATIONS, MAX_SPLIT_CHOICES};

/// A program that matches an expression: operations in order.
#[derive(Debug, Clone, Default)]
pub(super) struct Program {
    operations: Vec<Operation>,
    sets: Vec<Set>,
    /// Whether it begins with a run without upper end, before which no choice is made.
    begins_with_run: bool,
}

#[derive(Debug, Clone, Copy)]
enum Operation {
    /// Matches one character of a set.
    One(usize),
    /// Matches as many characters of a set as there are, then fewer.
    Run { set: usize, least: u32, most: u32 },
    /// The first way; if it leads nowhere, the second.
    Try(usize, usize),
    /// Goes on at another operation.
    Jump(usize),
    /// Demands that what stands between here and `end` matches, or does not; `back` is the number
    /// of characters by which it begins before this place.
    Look { end: usize, back: Option<u32>, negative: bool },
    /// The first match of what stands here, up to `end`.
    Atomic { end: usize },
    /// Demands a place between two characters.
    At(Place),
    /// The end of a program or of a part that is matched for itself.
    Done,
}

/// A way that has not been tried yet.
enum Choice {
    /// Another way to go on: at this operation and this place.
    Way { at: usize, place: usize },
    /// On at this operation with a run that ends before `place`, but not before `least`.
    Shorter { at: usize, least: usize, place: usize },
}

impl Program {
    /// Returns the operations of an expression.
    pub(super) fn of(node: &Node) -> Result<Self, ExpressionError> {
        let mut program = Self::default();
        program.put(node)?;
        program.push(Operation::Done)?;
        program.begins_with_run =
            matches!(program.operations.first(), Some(Operation::Run { most: u32::MAX, .. }));
        Ok(program)
    }

    fn push(&mut self, operation: Operation) -> Result<usize, ExpressionError> {
        if self.operations.len() >= MAX_EXPRESSION_OPERATIONS {
            let reason = format!("more than {MAX_EXPRESSION_OPERATIONS} operations");
            return Err(ExpressionError { reason, at: 0 });
        }
        self.operations.push(operation);
        Ok(self.operations.len() - 1)
    }

    fn set(&mut self, at: usize, operation: Operation) {
        if let Some(place) = self.operations.get_mut(at) {
            *place = operation;
        }
    }

    fn index_of(&mut self, set: &Set) -> usize {
        let known = self.sets.iter().position(|other| other == set);
        known.unwrap_or_else(|| {
            self.sets.push(set.clone());
            self.sets.len() - 1
        })
    }

    fn put(&mut self, node: &Node) -> Result<(), ExpressionError> {
        match node {
            Node::One(set) => {
                let set = self.index_of(set);
                self.push(Operation::One(set))?;
            }
            Node::All(parts) => parts.iter().try_for_each(|part| self.put(part))?,
            Node::Any(choices) => self.put_choices(choices)?,
            Node::Repeat { part, least, most, greed } => {
                self.put_repeat(part, *least, *most, *greed)?;
            }
            Node::Look { part, behind, negative } => {
                let back = match (behind, part.width()) {
                    (false, _) => None,
                    (true, (short, Some(long))) if short == long => Some(short),
                    (true, _) => {
                        let reason = "looking back over parts of different lengths".to_owned();
                        return Err(ExpressionError { reason, at: 0 });
                    }
                };
                let look = self.push(Operation::Done)?;
                self.put(part)?;
                let end = self.push(Operation::Done)?;
                self.set(look, Operation::Look { end, back, negative: *negative });
            }
            Node::Atomic(part) => {
                let atomic = self.push(Operation::Done)?;
                self.put(part)?;
                let end = self.push(Operation::Done)?;
                self.set(atomic, Operation::Atomic { end });
            }
            Node::At(place) => {
                self.push(Operation::At(*place))?;
            }
        }
        Ok(())
    }

    fn put_choices(&mut self, choices: &[Node]) -> Result<(), ExpressionError> {
        let mut ends = Vec::new();
        let Some((last, before)) = choices.split_last() else { return Ok(()) };
        for choice in before {
            let fork = self.push(Operation::Done)?;
            self.put(choice)?;
            ends.push(self.push(Operation::Done)?);
            self.set(fork, Operation::Try(fork + 1, self.operations.len()));
        }
        self.put(last)?;
        let end = self.operations.len();
        ends.into_iter().for_each(|at| self.set(at, Operation::Jump(end)));
        Ok(())
    }

    fn put_repeat(
        &mut self,
        part: &Node,
        least: u32,
        most: Option<u32>,
        greed: Greed,
    ) -> Result<(), ExpressionError> {
        match (part, greed) {
            (_, Greed::Possessive) => {
                let atomic = self.push(Operation::Done)?;
                self.put_repeat(part, least, most, Greed::Greedy)?;
                let end = self.push(Operation::Done)?;
                self.set(atomic, Operation::Atomic { end });
            }
            (Node::One(set), Greed::Greedy) => {
                let set = self.index_of(set);
                let most = most.unwrap_or(u32::MAX);
                self.push(Operation::Run { set, least, most })?;
            }
            _ => {
                let fork = |on, out| match greed {
                    Greed::Lazy => Operation::Try(out, on),
                    _ => Operation::Try(on, out),
                };
                (0..least).try_for_each(|_| self.put(part))?;
                let Some(most) = most else {
                    let start = self.push(Operation::Done)?;
                    self.put(part)?;
                    self.push(Operation::Jump(start))?;
                    self.set(start, fork(start + 1, self.operations.len()));
                    return Ok(());
                };
                let mut forks = Vec::new();
                for _ in least..most {
                    forks.push(self.push(Operation::Done)?);
                    self.put(part)?;
                }
                let end = self.operations.len();
                forks.into_iter().for_each(|at| self.set(at, fork(at + 1, end)));
            }
        }
        Ok(())
    }

    /// Returns the first match that begins at or behind `from`.
    pub(super) fn find(
        &self,
        text: &str,
        from: usize,
        budget: &Budget,
    ) -> Result<Option<(usize, usize)>, Spent> {
        let mut start = from;
        while start <= text.len() {
            if let Some(end) = self.run(text, 0, start, budget)? {
                return Ok(Some((start, end)));
            }
            let next = super::after(text, start);
            // A match that begins within a run would end where one from the run's start would.
            start = match self.operations.first() {
                Some(Operation::Run { set, .. }) if self.begins_with_run => {
                    let (end, steps) = self.run_end(text, *set, start, u32::MAX);
                    budget.pay(u64::from(steps))?;
                    next.max(end)
                }
                _ => next,
            };
        }
        Ok(None)
    }

    /// Returns where a run of at most `most` characters of the set ends, and how many it has.
    fn run_end(&self, text: &str, set: usize, place: usize, most: u32) -> (usize, u32) {
        let Some(set) = self.sets.get(set) else { return (place, 0) };
        let (mut end, mut count) = (place, 0);
        for letter in text.get(place..).unwrap_or_default().chars() {
            if count == most || !set.contains(letter) {
                break;
            }
            end += letter.len_utf8();
            count += 1;
        }
        (end, count)
    }

    /// Returns where the match ends that begins at `place` with the operation at `at`, if there is
    /// one.
    fn run(
        &self,
        text: &str,
        at: usize,
        place: usize,
        budget: &Budget,
    ) -> Result<Option<usize>, Spent> {
        let (mut at, mut place) = (at, place);
        let mut choices = Vec::new();
        loop {
            budget.pay(1)?;
            if choices.len() > MAX_SPLIT_CHOICES {
                budget.pay(u64::MAX)?;
            }
            let next = match self.operations.get(at) {
                None | Some(Operation::Done) => return Ok(Some(place)),
                Some(operation) => self.step(text, at, place, *operation, &mut choices, budget)?,
            };
            let Some(next) = next.or_else(|| back(text, &mut choices)) else { return Ok(None) };
            (at, place) = next;
        }
    }

    /// Runs one operation, and returns the next operation and its place; `None` if the text does
    /// not fit.
    fn step(
        &self,
        text: &str,
        at: usize,
        place: usize,
        operation: Operation,
        choices: &mut Vec<Choice>,
        budget: &Budget,
    ) -> Result<Option<(usize, usize)>, Spent> {
        Ok(match operation {
            Operation::One(set) => {
                let (end, count) = self.run_end(text, set, place, 1);
                (count == 1).then_some((at + 1, end))
            }
            Operation::Run { set, least, most } => {
                let (end, count) = self.run_end(text, set, place, most);
                budget.pay(u64::from(count))?;
                if count > least {
                    let (shortest, _) = self.run_end(text, set, place, least);
                    choices.push(Choice::Shorter { at: at + 1, least: shortest, place: end });
                }
                (count >= least).then_some((at + 1, end))
            }
            Operation::Try(first, second) => {
                choices.push(Choice::Way { at: second, place });
                Some((first, place))
            }
            Operation::Jump(to) => Some((to, place)),
            Operation::Look { end, back, negative } => {
                let found = match back {
                    None => self.run(text, at + 1, place, budget)?.is_some(),
                    Some(back) => {
                        budget.pay(u64::from(back))?;
                        let start = before(text, place, back);
                        match start {
                            Some(start) => self.run(text, at + 1, start, budget)?.is_some(),
                            None => false,
                        }
                    }
                };
                (found != negative).then_some((end + 1, place))
            }
            Operation::Atomic { end } => {
                self.run(text, at + 1, place, budget)?.map(|place| (end + 1, place))
            }
            Operation::At(kind) => is_at(text, place, kind).then_some((at + 1, place)),
            Operation::Done => Some((at, place)),
        })
    }
}

/// Returns the way to try next, if there is one.
fn back(text: &str, choices: &mut Vec<Choice>) -> Option<(usize, usize)> {
    match choices.pop()? {
        Choice::Way { at, place } => Some((at, place)),
        Choice::Shorter { at, least, place } => {
            let place = before(text, place, 1)?;
            if place > least {
                choices.push(Choice::Shorter { at, least, place });
            }
            Some((at, place))
        }
    }
}

/// Returns the place `count` characters before `place`.
fn before(text: &str, place: usize, count: u32) -> Option<usize> {
    let mut letters = text.get(..place)?.chars();
    let mut start = place;
    for _ in 0..count {
        start -= letters.next_back()?.len_utf8();
    }
    Some(start)
}

fn is_at(text: &str, place: usize, kind: Place) -> bool {
    let before = text.get(..place).and_then(|before| before.chars().next_back());
    let behind = text.get(place..).and_then(|behind| behind.chars().next());
    let is_word = |letter: Option<char>| letter.is_some_and(is_word);
    match kind {
        Place::TextStart => before.is_none(),
        Place::TextEnd => behind.is_none(),
        Place::LineStart => before.is_none_or(|letter| letter == '\n' && behind.is_some()),
        Place::LineEnd => behind.is_none_or(|letter| letter == '\n'),
        Place::WordEdge => is_word(before) != is_word(behind),
        Place::NoWordEdge => is_word(before) == is_word(behind),
    }
}

/// Returns whether words hold the character: letters, marks, digits and what joins them.
pub(in crate::tokenizer) fn is_word(letter: char) -> bool {
    regex_syntax::is_word_character(letter)
}
