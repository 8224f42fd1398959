//! The steps before tokens merge: they rewrite the text, and cut it into pieces.
//!
//! A package says it step by step, as `tokenizer.json` does, so that a model's rule needs no name
//! here. Rules that GGUF files only name are written out when they are imported ([`super::rules`]).
//! Decoding refuses lists that are too long, expressions that don't read, and text that would be
//! spelled in the byte alphabet twice.

use lockstep_exact::bytes::{Canonical, DecodeError, Reader, put_bytes, put_list};

use super::expression::{Behavior, Expression, ExpressionError};
use super::spelling::SPACE;
use crate::limits::{MAX_EXPRESSION_BYTES, MAX_REWRITE_BYTES, MAX_STEPS};

/// All steps from text to the pieces inside which tokens merge.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Steps {
    /// The steps that rewrite the text.
    pub(crate) rewrites: Vec<Rewrite>,
    /// The steps that then cut the text, each applied to what the ones before left.
    pub(crate) cuts: Vec<Cut>,
}

/// A way to rewrite text: the `normalizer` of `tokenizer.json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Rewrite {
    Nfc,
    Nfd,
    Nfkc,
    Nfkd,
    Lowercase,
    StripAccents,
    /// Control characters go, other white space becomes a space.
    Nmt,
    /// Removes white space at the ends.
    Strip {
        left: bool,
        right: bool,
    },
    /// Replaces what an expression matches by another text.
    Replace {
        expression: Expression,
        content: String,
    },
    /// A text is put before what isn't empty.
    Prepend(String),
}

/// A way to cut text: the `pre_tokenizer` of `tokenizer.json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Splits where an expression matches, or with `invert` where it doesn't.
    Split { expression: Expression, behavior: Behavior, invert: bool },
    /// From here on bytes are spelled in the byte alphabet.
    Spell,
    /// A space is put before each piece that doesn't begin with one.
    SpacePrefix,
    /// Spaces become `mark`, one may be put in front, and pieces may begin at each.
    Metaspace { mark: char, prefix: Prefix, split: bool },
}

/// Before which text a space is put, if none stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prefix {
    /// No text gets a space before it.
    Never,
    /// Before what begins the whole text.
    First,
    /// Before what begins the whole text or follows a special token.
    Always,
}

impl Steps {
    /// Returns whether tokens are spelled in the byte alphabet.
    pub fn spells_bytes(&self) -> bool {
        self.cuts.contains(&Cut::Spell)
    }

    /// Returns whether the pieces of a text, joined, are the text as it was rewritten.
    pub fn keeps_text(&self) -> bool {
        self.cuts.iter().all(|cut| match cut {
            Cut::Split { behavior, .. } => *behavior != Behavior::Removed,
            Cut::Spell => true,
            Cut::SpacePrefix => false,
            Cut::Metaspace { prefix, .. } => *prefix == Prefix::Never,
        })
    }

    /// Adds what SentencePiece does by its flags: spaces in a row become one and those at the ends
    /// go, and a space is put in front.
    ///
    /// # Errors
    /// An expression does not read, which tests exclude.
    pub(crate) fn add_sentencepiece(
        &mut self,
        prefix: bool,
        merges_spaces: bool,
    ) -> Result<(), ExpressionError> {
        let replace = |text: &str, content: &str| -> Result<Rewrite, ExpressionError> {
            Ok(Rewrite::Replace { expression: Expression::new(text)?, content: content.to_owned() })
        };
        if merges_spaces {
            self.rewrites.extend([replace(r"\A +| +\z", "")?, replace("  +", " ")?]);
        }
        if prefix {
            self.rewrites.push(Rewrite::Prepend(" ".to_owned()));
        }
        self.cuts.push(Cut::Metaspace { mark: SPACE, prefix: Prefix::Never, split: false });
        Ok(())
    }

    /// Checks whether each rule of the layout holds.
    ///
    /// # Errors
    /// The rule that doesn't.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        if self.rewrites.len() > MAX_STEPS || self.cuts.len() > MAX_STEPS {
            return Err("too many steps");
        }
        if self.cuts.iter().filter(|cut| **cut == Cut::Spell).count() > 1 {
            return Err("text is spelled in the byte alphabet twice");
        }
        let is_long = |rewrite: &Rewrite| match rewrite {
            Rewrite::Replace { content, .. } | Rewrite::Prepend(content) => {
                content.len() > MAX_REWRITE_BYTES
            }
            _ => false,
        };
        if self.rewrites.iter().any(is_long) {
            return Err("a text that is put in is too long");
        }
        Ok(())
    }
}

impl Canonical for Steps {
    fn encode(&self, out: &mut Vec<u8>) {
        put_list(out, &self.rewrites);
        put_list(out, &self.cuts);
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let rewrites = input.list("rewriting steps", MAX_STEPS, 1)?;
        let cuts = input.list("cutting steps", MAX_STEPS, 1)?;
        let steps = Self { rewrites, cuts };
        match steps.check() {
            Ok(()) => Ok(steps),
            Err(why) => Err(input.invalid("tokenizer steps", why)),
        }
    }
}

impl Canonical for Rewrite {
    fn encode(&self, out: &mut Vec<u8>) {
        let tag: u8 = match self {
            Self::Nfc => 0,
            Self::Nfd => 1,
            Self::Nfkc => 2,
            Self::Nfkd => 3,
            Self::Lowercase => 4,
            Self::StripAccents => 5,
            Self::Nmt => 6,
            Self::Strip { .. } => 7,
            Self::Replace { .. } => 8,
            Self::Prepend(_) => 9,
        };
        tag.encode(out);
        match self {
            Self::Strip { left, right } => {
                left.encode(out);
                right.encode(out);
            }
            Self::Replace { expression, content } => {
                expression.encode(out);
                put_bytes(out, content.as_bytes());
            }
            Self::Prepend(text) => put_bytes(out, text.as_bytes()),
            _ => {}
        }
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match u8::decode(input)? {
            0 => Self::Nfc,
            1 => Self::Nfd,
            2 => Self::Nfkc,
            3 => Self::Nfkd,
            4 => Self::Lowercase,
            5 => Self::StripAccents,
            6 => Self::Nmt,
            7 => Self::Strip { left: bool::decode(input)?, right: bool::decode(input)? },
            8 => Self::Replace {
                expression: Expression::decode(input)?,
                content: input.text("replacement", MAX_REWRITE_BYTES)?,
            },
            9 => Self::Prepend(input.text("text put in front", MAX_REWRITE_BYTES)?),
            tag => return Err(input.unknown_tag("rewriting step", tag)),
        })
    }
}

impl Canonical for Cut {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Split { expression, behavior, invert } => {
                out.push(0);
                expression.encode(out);
                out.push(*behavior as u8);
                invert.encode(out);
            }
            Self::Spell => out.push(1),
            Self::SpacePrefix => out.push(2),
            Self::Metaspace { mark, prefix, split } => {
                out.push(3);
                u32::from(*mark).encode(out);
                out.push(*prefix as u8);
                split.encode(out);
            }
        }
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match u8::decode(input)? {
            0 => {
                let expression = Expression::decode(input)?;
                let tag = u8::decode(input)?;
                let behavior = Behavior::ALL.get(usize::from(tag)).copied();
                let behavior = behavior.ok_or_else(|| input.unknown_tag("behaviour", tag))?;
                Self::Split { expression, behavior, invert: bool::decode(input)? }
            }
            1 => Self::Spell,
            2 => Self::SpacePrefix,
            3 => {
                let mark = char::from_u32(u32::decode(input)?);
                let mark = mark.ok_or_else(|| input.invalid("mark", "is no character"))?;
                let tag = u8::decode(input)?;
                let prefix = [Prefix::Never, Prefix::First, Prefix::Always];
                let prefix = prefix.get(usize::from(tag)).copied();
                let prefix = prefix.ok_or_else(|| input.unknown_tag("prefix", tag))?;
                Self::Metaspace { mark, prefix, split: bool::decode(input)? }
            }
            tag => return Err(input.unknown_tag("cutting step", tag)),
        })
    }
}

impl Canonical for Expression {
    fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(out, self.text().as_bytes());
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let text = input.text("expression", MAX_EXPRESSION_BYTES)?;
        let refused = "is no expression that can be searched for";
        let expression = Self::new(&text).map_err(|_| input.invalid("expression", refused))?;
        if expression.text() == text {
            Ok(expression)
        } else {
            Err(input.invalid("expression", "has a line break or tab that is no escape"))
        }
    }
}
