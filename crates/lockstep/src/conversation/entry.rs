//! The inputs of the person of a chat.

/// One input of the person of a chat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// The input has ended, and so has the chat.
    End,
    /// Ctrl-C at the prompt, which clears the line.
    Interrupt {
        /// Whether the line at the prompt was empty.
        is_empty: bool,
    },
    /// The person entered a line that is not UTF-8.
    NotText,
    /// A line, or lines that belong together.
    Text(String),
}
