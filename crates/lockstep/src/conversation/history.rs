//! The lines that a person typed in chats, kept in a file for the next chat.
//!
//! The file is a JSON list of texts, readable by its owner alone, of a bounded number of entries of
//! a bounded length. A line that begins with a space is not kept, as shells do it. A file that
//! can't be read is said and starts over; one that can't be written is no reason to end a chat.

use std::io;
use std::path::PathBuf;

use lockstep_node::home;

/// The most lines that are kept; the oldest go first.
pub(super) const LINES: usize = 1000;
/// The longest line that is kept, in bytes: a pasted document is not one to bring back.
const LINE_BYTES: usize = 4 << 10;
/// The longest file that is read, in bytes: escapes make a byte six.
const FILE_BYTES: u64 = (LINES * (LINE_BYTES + 1) * 6) as u64;

/// The file that keeps the lines which were typed in chats.
pub(super) struct History {
    path: PathBuf,
}

impl History {
    /// Returns a history in this file, which may not be there yet.
    pub(super) const fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Returns the lines that were kept, the oldest first.
    pub(super) fn lines(&self) -> Vec<String> {
        let read = home::read_capped(&self.path, FILE_BYTES)
            .and_then(|text| serde_json::from_slice(&text).map_err(io::Error::from));
        match read {
            Ok(lines) => lines,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                let path = self.path.display();
                tracing::warn!(%path, %error, "the history can't be read and starts over");
                Vec::new()
            }
        }
    }

    /// Keeps a line after those that any chat has kept so far, if it is one to be kept.
    pub(super) fn add(&self, line: &str) {
        if !is_to_be_kept(line) {
            return;
        }
        let mut lines = self.lines();
        if lines.last().is_some_and(|last| last == line) {
            return;
        }
        lines.push(line.to_owned());
        let first = lines.len().saturating_sub(LINES);
        let written = serde_json::to_vec(&lines[first..])
            .map_err(io::Error::from)
            .and_then(|text| home::write_private(&self.path, &text));
        if let Err(error) = written {
            tracing::debug!(path = %self.path.display(), %error, "the history can't be written");
        }
    }
}

/// Returns whether a line belongs into a history: not if it is blank, begins with a space or is
/// long.
pub(super) fn is_to_be_kept(line: &str) -> bool {
    !line.starts_with(' ') && !line.trim().is_empty() && line.len() <= LINE_BYTES
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use lockstep_node::home::{Secrecy, secrecy};

    use super::*;

    /// A folder that is removed at the end of a test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("lockstep-{name}-{}", std::process::id()));
            fs::remove_dir_all(&path).ok();
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn history(&self) -> History {
            History::at(self.0.join("history.json"))
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).ok();
        }
    }

    fn permit_all(path: &Path) {
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap();
        }
    }

    #[test]
    fn lines_are_kept_in_order_for_their_owner_alone() {
        let folder = Folder::new("history-order");
        let history = folder.history();
        for line in ["one", "two\nlines", "two\nlines", " a secret", "  ", "größe 👩\u{200d}👧"]
        {
            history.add(line);
        }
        history.add(&"x".repeat(LINE_BYTES + 1));
        let kept = ["one", "two\nlines", "größe 👩\u{200d}👧"];
        assert_eq!(folder.history().lines(), kept);
        permit_all(&history.path);
        history.add("four");
        assert_eq!(secrecy(&history.path).unwrap(), Secrecy::Private, "whatever it was before");
    }

    #[test]
    fn a_history_is_bounded_and_its_longest_file_can_be_read() {
        let folder = Folder::new("history-bounds");
        let history = folder.history();
        let longest: Vec<String> = vec!["\u{1}".repeat(LINE_BYTES); LINES];
        fs::write(&history.path, serde_json::to_vec(&longest).unwrap()).unwrap();
        history.add("newest");
        let lines = history.lines();
        assert_eq!((lines.len(), lines[LINES - 1].as_str()), (LINES, "newest"));
    }

    #[test]
    fn a_damaged_history_starts_over_and_two_chats_share_one() {
        let folder = Folder::new("history-damaged");
        fs::write(folder.history().path, b"[\"one\"").unwrap();
        let (one, other) = (folder.history(), folder.history());
        one.add("mine");
        other.add("theirs");
        one.add("mine again");
        assert_eq!(one.lines(), ["mine", "theirs", "mine again"]);
    }
}
