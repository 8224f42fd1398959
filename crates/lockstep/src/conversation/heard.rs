//! What comes from the person of a chat.

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Nothing more will come.
    End,
    /// Ctrl-C at the prompt, which clears the line.
    Interrupt {
        /// Whether the line was empty.
        is_empty: bool,
    },
    /// A line that is not UTF-8.
    NotText,
    /// A line, or lines that belong together.
    Text(String),
}
