//! Strings that know which of their bytes a user wrote.
//!
//! Every operation of a template copies spans together with bytes, so that a part of a message is a
//! user's text wherever the template puts it, cut, joined, in upper case or as JSON. The tokenizer
//! then reads control tokens only in what the template itself wrote.

use std::ops::Range;
use std::rc::Rc;

use super::budget::{Budget, Error, Fault, Result};
use crate::limits::MAX_RENDERED_BYTES;

/// The number of bytes that a string counts for beside its own.
const OVERHEAD: usize = 64;

/// The author of a piece of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The template, or this program itself.
    Template,
    /// Somebody whose text must never steer the model.
    User,
}

/// A string and the spans of it that users wrote.
#[derive(Debug, Clone)]
pub(crate) struct Text(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    text: String,
    /// In order, not empty, not touching each other.
    user: Vec<Range<usize>>,
    /// Whether it is marked as safe HTML, which Python joins with escaping.
    markup: bool,
}

impl Text {
    /// Creates a text that is all of one origin.
    pub(crate) fn new(budget: &Budget, text: &str, origin: Origin) -> Result<Self> {
        let mut out = Builder::new(budget);
        out.push_str(text, origin)?;
        out.finish()
    }

    /// Creates a text that the template wrote.
    pub(super) fn template(budget: &Budget, text: &str) -> Result<Self> {
        Self::new(budget, text, Origin::Template)
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0.text
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.text.is_empty()
    }

    pub(super) fn chars(&self) -> usize {
        self.0.text.chars().count()
    }

    pub(super) fn is_markup(&self) -> bool {
        self.0.markup
    }

    /// Returns the spans that users wrote.
    pub(crate) fn user_spans(&self) -> &[Range<usize>] {
        &self.0.user
    }

    /// Returns the origin of what is made out of this as a whole: a user's if any byte of it is.
    pub(super) fn any_origin(&self) -> Origin {
        if self.0.user.is_empty() { Origin::Template } else { Origin::User }
    }

    /// Returns the part of the text at the bytes `at`.
    pub(super) fn slice(&self, budget: &Budget, at: Range<usize>) -> Result<Self> {
        if at == (0..self.0.text.len()) {
            budget.work(1)?;
            return Ok(self.clone());
        }
        let mut out = Builder::new(budget);
        out.push_slice(self, at)?;
        out.finish_like(self)
    }

    /// Returns the same text, marked as safe HTML or not.
    pub(super) fn with_markup(&self, budget: &Budget, markup: bool) -> Result<Self> {
        if self.0.markup == markup {
            return Ok(self.clone());
        }
        let mut out = Builder::new(budget);
        out.push(self)?;
        out.markup = markup;
        out.finish()
    }

    /// Returns the text that `change` makes of each run of one origin.
    pub(super) fn map_runs(
        &self,
        budget: &Budget,
        change: impl Fn(&str) -> String,
    ) -> Result<Self> {
        budget.make_times(self.0.text.len(), 3)?;
        let mut out = Builder::new(budget);
        for (run, origin) in self.runs(0..self.0.text.len()) {
            out.push_str(&change(run), origin)?;
        }
        out.finish_like(self)
    }

    /// Returns the runs of one origin within `at`.
    pub(super) fn runs(&self, at: Range<usize>) -> impl Iterator<Item = (&str, Origin)> {
        let first = self.0.user.partition_point(|span| span.end <= at.start);
        let spans = self.0.user.get(first..).unwrap_or_default();
        let mut spans = spans.iter().take_while(move |span| span.start < at.end);
        let (mut from, mut pending): (usize, Option<Range<usize>>) = (at.start, None);
        std::iter::from_fn(move || {
            if let Some(span) = pending.take() {
                from = span.end;
                return Some((self.0.text.get(span)?, Origin::User));
            }
            if from >= at.end {
                return None;
            }
            match spans.next() {
                None => {
                    let run = self.0.text.get(from..at.end)?;
                    from = at.end;
                    Some((run, Origin::Template))
                }
                Some(span) => {
                    let user = span.start.max(at.start)..span.end.min(at.end);
                    if user.start > from {
                        let run = self.0.text.get(from..user.start)?;
                        pending = Some(user);
                        return Some((run, Origin::Template));
                    }
                    from = user.end;
                    Some((self.0.text.get(user)?, Origin::User))
                }
            }
        })
    }

    /// Returns the whole, as bytes and spans.
    pub(crate) fn into_parts(self) -> (String, Vec<Range<usize>>) {
        match Rc::try_unwrap(self.0) {
            Ok(inner) => (inner.text, inner.user),
            Err(shared) => (shared.text.clone(), shared.user.clone()),
        }
    }
}

/// Builds a [`Text`], paying for each byte.
pub(super) struct Builder<'b> {
    budget: &'b Budget,
    text: String,
    user: Vec<Range<usize>>,
    markup: bool,
    limit: usize,
}

impl<'b> Builder<'b> {
    /// Creates an empty text.
    pub(super) fn new(budget: &'b Budget) -> Self {
        Self { budget, text: String::new(), user: Vec::new(), markup: false, limit: usize::MAX }
    }

    /// Returns an empty text that may become at most as long as a prompt.
    pub(super) fn output(budget: &'b Budget) -> Self {
        Self { limit: MAX_RENDERED_BYTES, ..Self::new(budget) }
    }

    pub(super) fn budget(&self) -> &'b Budget {
        self.budget
    }

    pub(super) fn len(&self) -> usize {
        self.text.len()
    }

    pub(super) fn push_str(&mut self, part: &str, origin: Origin) -> Result<()> {
        if part.len() > self.limit.saturating_sub(self.text.len()) {
            return Err(Error::new(Fault::LongOutput));
        }
        self.budget.make(part.len())?;
        self.mark(self.text.len()..self.text.len() + part.len(), origin)?;
        self.text.push_str(part);
        Ok(())
    }

    /// Appends what the template or this program wrote.
    pub(super) fn own(&mut self, part: &str) -> Result<()> {
        self.push_str(part, Origin::Template)
    }

    pub(super) fn push(&mut self, part: &Text) -> Result<()> {
        self.push_slice(part, 0..part.as_str().len())
    }

    pub(super) fn push_slice(&mut self, from: &Text, at: Range<usize>) -> Result<()> {
        for (run, origin) in from.runs(at) {
            self.push_str(run, origin)?;
        }
        Ok(())
    }

    /// Appends `part` as many `times`.
    pub(super) fn push_times(&mut self, part: &Text, times: usize) -> Result<()> {
        let bytes = part.as_str().len().saturating_mul(times);
        if bytes > self.limit.saturating_sub(self.text.len()) {
            return Err(Error::new(Fault::LongOutput));
        }
        self.budget.make(bytes)?;
        if part.user_spans().is_empty() {
            self.text.push_str(&part.as_str().repeat(times));
            return Ok(());
        }
        for _ in 0..if bytes == 0 { 0 } else { times } {
            self.push(part)?;
        }
        Ok(())
    }

    /// Says that the bytes at `at` are of `origin`.
    fn mark(&mut self, at: Range<usize>, origin: Origin) -> Result<()> {
        if origin == Origin::Template || at.is_empty() {
            return Ok(());
        }
        if let Some(last) = self.user.last_mut()
            && last.end == at.start
        {
            last.end = at.end;
            return Ok(());
        }
        self.budget.make(size_of::<Range<usize>>())?;
        self.user.push(at);
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Text> {
        self.budget.make(OVERHEAD)?;
        let Self { text, user, markup, .. } = self;
        Ok(Text(Rc::new(Inner { text, user, markup })))
    }

    /// Returns the text, marked as safe HTML if `like` is.
    pub(super) fn finish_like(mut self, like: &Text) -> Result<Text> {
        self.markup = like.is_markup();
        self.finish()
    }
}

/// Writes `text` with the characters that HTML reads as markup replaced by entities.
pub(super) fn escape(out: &mut Builder<'_>, text: &Text) -> Result<()> {
    for (run, origin) in text.runs(0..text.as_str().len()) {
        for part in run.split_inclusive(['&', '<', '>', '\'', '"']) {
            let entity = match part.as_bytes().last() {
                Some(b'&') => "&amp;",
                Some(b'<') => "&lt;",
                Some(b'>') => "&gt;",
                Some(b'\'') => "&#39;",
                Some(b'"') => "&#34;",
                _ => {
                    out.push_str(part, origin)?;
                    continue;
                }
            };
            out.push_str(part.get(..part.len() - 1).unwrap_or_default(), origin)?;
            out.push_str(entity, origin)?;
        }
    }
    Ok(())
}
