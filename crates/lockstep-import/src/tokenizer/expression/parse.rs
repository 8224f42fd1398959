//! Parses the text of a regular expression.

use super::set::Set;
use crate::limits::{MAX_EXPRESSION_BYTES, MAX_EXPRESSION_DEPTH, MAX_EXPRESSION_REPEATS};

/// A part of a regular expression.
#[derive(Debug, Clone)]
pub(super) enum Node {
    /// Matches one character of a set.
    One(Set),
    /// Matches a part several times in a row.
    Repeat { part: Box<Self>, least: u32, most: Option<u32>, greed: Greed },
    /// Matches parts one after the other.
    All(Vec<Self>),
    /// The first of several parts that leads to a match.
    Any(Vec<Self>),
    /// Demands that a part matches, or does not match, before or after this place.
    Look { part: Box<Self>, behind: bool, negative: bool },
    /// The first match of a part, whatever comes behind it.
    Atomic(Box<Self>),
    /// Matches a place between two characters.
    At(Place),
}

/// Which repetitions are tried first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Greed {
    /// Matches as often as possible, then less often.
    Greedy,
    /// Matches as rarely as possible, then more often.
    Lazy,
    /// Matches as often as possible, and in no other way.
    Possessive,
}

/// A place between two characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    TextStart,
    TextEnd,
    LineStart,
    LineEnd,
    WordEdge,
    NoWordEdge,
}

impl Node {
    /// Returns the least and the most characters that a match has; none if there is no most.
    pub(super) fn width(&self) -> (u32, Option<u32>) {
        match self {
            Self::One(_) => (1, Some(1)),
            Self::Look { .. } | Self::At(_) => (0, Some(0)),
            Self::Atomic(part) => part.width(),
            Self::Repeat { part, least, most, .. } => {
                let (short, long) = part.width();
                let long = long.zip(*most).map(|(long, most)| long.saturating_mul(most));
                (short.saturating_mul(*least), long)
            }
            Self::All(parts) => parts.iter().map(Self::width).fold((0, Some(0)), |sum, part| {
                let long = sum.1.zip(part.1).map(|(a, b)| a.saturating_add(b));
                (sum.0.saturating_add(part.0), long)
            }),
            Self::Any(parts) => {
                let widths = || parts.iter().map(Self::width);
                let short = widths().map(|(short, _)| short).min().unwrap_or(0);
                let long = widths().try_fold(0, |most, (_, long)| Some(long?.max(most)));
                (short, long)
            }
        }
    }
}

/// Why a text is not taken for an expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason} (at character {at} of the expression)")]
pub struct ExpressionError {
    /// The reason: what is wrong, or not supported.
    pub reason: String,
    /// The character's place, counted from 0.
    pub at: usize,
}

/// Parses a regular expression.
pub(super) fn parse(text: &str) -> Result<Node, ExpressionError> {
    if text.len() > MAX_EXPRESSION_BYTES {
        let reason = format!("{} bytes; the limit is {MAX_EXPRESSION_BYTES}", text.len());
        return Err(ExpressionError { reason, at: 0 });
    }
    let mut parser = Parser { letters: text.chars().collect(), at: 0, ignore_case: false };
    let node = parser.any(0)?;
    match parser.peek() {
        None => Ok(node),
        Some(_) => Err(parser.error("a closing bracket without an opening one")),
    }
}

struct Parser {
    letters: Vec<char>,
    at: usize,
    ignore_case: bool,
}

impl Parser {
    fn peek(&self) -> Option<char> {
        self.letters.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let letter = self.peek();
        self.at += usize::from(letter.is_some());
        letter
    }

    /// Steps over `text`, if it stands here.
    fn take(&mut self, text: &str) -> bool {
        let stands_here = text
            .chars()
            .enumerate()
            .all(|(offset, letter)| self.letters.get(self.at + offset) == Some(&letter));
        if stands_here {
            self.at += text.chars().count();
        }
        stands_here
    }

    fn error(&self, reason: impl Into<String>) -> ExpressionError {
        ExpressionError { reason: reason.into(), at: self.at }
    }

    /// Alternatives, up to a closing bracket or the end. A flag that is set among them counts up
    /// to there.
    fn any(&mut self, depth: usize) -> Result<Node, ExpressionError> {
        if depth > MAX_EXPRESSION_DEPTH {
            return Err(self.error("brackets too deep in each other"));
        }
        let ignore_case = self.ignore_case;
        let mut choices = vec![self.all(depth)?];
        while self.take("|") {
            choices.push(self.all(depth)?);
        }
        self.ignore_case = ignore_case;
        match choices.len() {
            1 => Ok(choices.remove(0)),
            _ => Ok(Node::Any(choices)),
        }
    }

    fn all(&mut self, depth: usize) -> Result<Node, ExpressionError> {
        let mut parts = Vec::new();
        while self.peek().is_some_and(|letter| letter != '|' && letter != ')') {
            if let Some(part) = self.one(depth)? {
                parts.push(self.repeated(part)?);
            }
        }
        Ok(Node::All(parts))
    }

    /// Returns a part, without what says how often it comes; none if only a flag was set.
    fn one(&mut self, depth: usize) -> Result<Option<Node>, ExpressionError> {
        let start = self.at;
        let Some(letter) = self.next() else { return Err(self.error("the end, too early")) };
        Ok(Some(match letter {
            '(' => return self.group(depth),
            '[' => {
                self.class_end()?;
                self.set(start)?
            }
            '\\' => return self.escape(start).map(Some),
            '^' => Node::At(Place::LineStart),
            '$' => Node::At(Place::LineEnd),
            '.' => self.set(start)?,
            '*' | '+' | '?' => {
                self.at = start;
                return Err(self.error("a repetition of nothing"));
            }
            // A bracket that opens no repetition stands for itself.
            '{' | '}' | ']' => self.read_set(&format!("\\{letter}"))?,
            _ => self.set(start)?,
        }))
    }

    /// Returns the set that is written from `start` up to here.
    fn set(&self, start: usize) -> Result<Node, ExpressionError> {
        let text: String = self.letters.iter().skip(start).take(self.at - start).collect();
        self.read_set(&text)
    }

    fn read_set(&self, text: &str) -> Result<Node, ExpressionError> {
        let set = Set::read(text, self.ignore_case);
        let shown = |reason: String| {
            // The reader's message draws its complaint over several lines; the last says it.
            let last = reason.lines().last().unwrap_or_default();
            self.error(format!("{text:?}: {last}"))
        };
        set.map(Node::One).map_err(shown)
    }

    /// Steps behind the class whose opening bracket was read.
    fn class_end(&mut self) -> Result<(), ExpressionError> {
        let mut depth = 1;
        self.take("^");
        self.take("]");
        while depth > 0 {
            match self.next() {
                Some('\\') => {
                    self.next();
                }
                Some('[') => {
                    depth += 1;
                    self.take("^");
                }
                Some(']') => depth -= 1,
                Some(_) => {}
                None => return Err(self.error("a class that doesn't end")),
            }
        }
        Ok(())
    }

    fn escape(&mut self, start: usize) -> Result<Node, ExpressionError> {
        let place = match self.next() {
            Some('A') => Place::TextStart,
            Some('z') => Place::TextEnd,
            Some('b') => Place::WordEdge,
            Some('B') => Place::NoWordEdge,
            Some('p' | 'P' | 'x' | 'u') if self.take("{") => {
                while self.next().is_some_and(|letter| letter != '}') {}
                return self.set(start);
            }
            Some('p' | 'P') => {
                self.next();
                return self.set(start);
            }
            Some('x') => {
                self.at += 2;
                return self.set(start);
            }
            Some('u') => {
                self.at += 4;
                return self.set(start);
            }
            Some(letter) if "dDsSwWrntfva".contains(letter) => return self.set(start),
            Some(letter) if letter.is_ascii_punctuation() || letter == ' ' => {
                return self.read_set(&format!("\\x{{{:x}}}", u32::from(letter)));
            }
            Some(letter) if !letter.is_ascii() => return self.read_set(&letter.to_string()),
            Some(letter) => {
                return Err(self.error(format!("\\{letter} is not supported")));
            }
            None => return Err(self.error("a backslash at the end")),
        };
        Ok(Node::At(place))
    }

    fn group(&mut self, depth: usize) -> Result<Option<Node>, ExpressionError> {
        let ignore_case = self.ignore_case;
        let look = |behind, negative| Some((behind, negative));
        let looks = [("?=", look(false, false)), ("?!", look(false, true))];
        let looks_behind = [("?<=", look(true, false)), ("?<!", look(true, true))];
        for (mark, kind) in looks.into_iter().chain(looks_behind) {
            if self.take(mark)
                && let Some((behind, negative)) = kind
            {
                let part = Box::new(self.closed(depth)?);
                return Ok(Some(Node::Look { part, behind, negative }));
            }
        }
        if self.take("?>") {
            return Ok(Some(Node::Atomic(Box::new(self.closed(depth)?))));
        }
        if self.take("?P<") || self.take("?<") {
            while self.next().is_some_and(|letter| letter != '>') {}
        } else if self.take("?") && !self.take(":") {
            self.ignore_case = !self.take("-");
            if !self.take("i") {
                return Err(self.error("only the flag i and plain groups are supported"));
            }
            // A flag without a group counts up to the end of the group it stands in.
            if self.take(")") {
                return Ok(None);
            }
            if !self.take(":") {
                return Err(self.error("only the flag i and plain groups are supported"));
            }
        }
        let part = self.closed(depth)?;
        self.ignore_case = ignore_case;
        Ok(Some(part))
    }

    /// Alternatives and the bracket behind them.
    fn closed(&mut self, depth: usize) -> Result<Node, ExpressionError> {
        let part = self.any(depth + 1)?;
        if self.take(")") { Ok(part) } else { Err(self.error("a bracket that isn't closed")) }
    }

    /// Wraps `part` in the repetition that stands after it, if there is one.
    fn repeated(&mut self, mut part: Node) -> Result<Node, ExpressionError> {
        loop {
            let (least, most, is_counted) = match self.peek() {
                Some('*') => (0, None, false),
                Some('+') => (1, None, false),
                Some('?') => (0, Some(1), false),
                Some('{') => match self.counts() {
                    Some((least, most)) => (least, most, true),
                    None => return Ok(part),
                },
                _ => return Ok(part),
            };
            if !is_counted {
                self.at += 1;
            }
            if least > MAX_EXPRESSION_REPEATS || most.is_some_and(|n| n > MAX_EXPRESSION_REPEATS) {
                let reason = format!("more than {MAX_EXPRESSION_REPEATS} repetitions");
                return Err(self.error(reason));
            }
            if most.is_none() && part.width().0 == 0 {
                return Err(self.error("a repetition without end of what may be empty"));
            }
            let greed = if self.take("?") {
                Greed::Lazy
            } else if is_counted && self.peek() == Some('+') {
                return Err(self.error("a + behind counts has two readings, and is refused"));
            } else if self.take("+") {
                Greed::Possessive
            } else {
                Greed::Greedy
            };
            part = Node::Repeat { part: Box::new(part), least, most, greed };
        }
    }

    /// Reads `{2}`, `{2,}`, `{,3}` or `{2,3}`; anything else is left where it is.
    fn counts(&mut self) -> Option<(u32, Option<u32>)> {
        let start = self.at;
        let text: String =
            self.letters.iter().skip(start + 1).take_while(|letter| **letter != '}').collect();
        let number = |text: &str| text.parse::<u32>().ok();
        let counts = match text.split_once(',') {
            None => number(&text).map(|n| (n, Some(n))),
            Some(("", most)) => number(most).map(|most| (0, Some(most))),
            Some((least, "")) => number(least).map(|least| (least, None)),
            Some((least, most)) => number(least).zip(number(most).map(Some)),
        };
        let counts = counts.filter(|(least, most)| most.is_none_or(|most| *least <= most))?;
        self.at += text.chars().count() + 2;
        (self.at <= self.letters.len()).then_some(counts)
    }
}
