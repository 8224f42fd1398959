//! The kinds of tokens, by what they are for.

/// The purpose of a token in its vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// Ordinary bytes, reached by merging.
    Text,
    /// Steers the model; its text counts only in trusted text such as a rendered template.
    Control,
    /// Text that is always read as this token, whatever it stands in.
    Added,
    /// A place in the vocabulary that text never reaches.
    Unused,
    /// One byte, for text that no other token of a SentencePiece model spells.
    Byte,
}

impl TokenKind {
    pub(super) const fn tag(self) -> u8 {
        match self {
            Self::Text => 0,
            Self::Control => 1,
            Self::Added => 2,
            Self::Unused => 3,
            Self::Byte => 4,
        }
    }

    pub(super) const fn from_tag(tag: u8) -> Option<Self> {
        Some(match tag {
            0 => Self::Text,
            1 => Self::Control,
            2 => Self::Added,
            3 => Self::Unused,
            4 => Self::Byte,
            _ => return None,
        })
    }

    /// Returns whether texts are searched for the token.
    pub(super) const fn is_special(self) -> bool {
        matches!(self, Self::Control | Self::Added)
    }
}
