//! Paths in errors: on one line, whatever their bytes are. What commands a terminal is escaped by
//! whoever prints.

use std::fmt::{self, Display};
use std::path::Path;

/// A path in a line: bytes that are no text are shown as `\xNN`, line breaks as `\n`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PathText<'a>(pub(crate) &'a Path);

impl Display for PathText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.as_os_str().as_encoded_bytes().utf8_chunks() {
            for (index, line) in chunk.valid().split('\n').enumerate() {
                f.write_str(if index == 0 { "" } else { "\\n" })?;
                f.write_str(line)?;
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}
