//! The receipts that are kept in the home directory, and how they stay within a limit.
//!
//! A receipt with its openings has some hundreds of kilobytes to hundreds of megabytes. Those that
//! the program named itself are its to remove, the oldest first; what a person has named stays,
//! also in this directory, and so does the evidence against a node that is banned.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use crate::home::Home;

/// The ending of the names of receipts.
const ENDING: &str = ".receipt";
/// Hexadecimal digits of the session in a name that the program gave.
const DIGITS: usize = 12;

/// A receipt in the home directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The beginning of its session's id, or the name that a person gave it.
    pub name: String,
    /// The path of the receipt's file.
    pub path: PathBuf,
    /// The length of the file in bytes.
    pub bytes: u64,
    /// The time at which the file was written.
    pub written: SystemTime,
}

/// The receipts that were removed to make room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// The number of receipts that were removed.
    pub receipts: usize,
    /// The number of bytes that they had.
    pub bytes: u64,
}

/// Returns the file of a receipt of this name, which is that of its session or one that a person
/// gave.
pub fn file(home: &Home, name: &str) -> PathBuf {
    home.receipts().join(format!("{name}{ENDING}"))
}

/// Returns all receipts of the home directory, the newest first.
///
/// # Errors
/// What the system says; a directory that isn't there holds none.
pub fn list(home: &Home) -> io::Result<Vec<Kept>> {
    let entries = match fs::read_dir(home.receipts()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut kept = Vec::new();
    for entry in entries {
        let entry = entry?;
        let file_name = entry.file_name().to_string_lossy().into_owned();
        let Some(name) = file_name.strip_suffix(ENDING) else { continue };
        let metadata = match entry.metadata() {
            // Another process has removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            metadata => metadata?,
        };
        if metadata.is_file() {
            let (bytes, written) = (metadata.len(), metadata.modified()?);
            kept.push(Kept { name: name.to_owned(), path: entry.path(), bytes, written });
        }
    }
    kept.sort_by(|one, two| (two.written, &two.name).cmp(&(one.written, &one.name)));
    Ok(kept)
}

/// Returns whether the program gave this name, and no person.
fn is_own(name: &str) -> bool {
    name.len() == DIGITS && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Removes the oldest receipts until all of them have at most `most` bytes. Those in `kept` stay -
/// one that has just been written, and those that convict a node - and what a person has named.
///
/// # Errors
/// What the system says.
pub fn prune(home: &Home, most: u64, kept: &BTreeSet<PathBuf>) -> io::Result<Pruned> {
    let mut pruned = Pruned::default();
    let all = list(home)?;
    let mut bytes: u64 = all.iter().map(|receipt| receipt.bytes).sum();
    let oldest_first = all.iter().rev();
    for old in oldest_first.filter(|old| is_own(&old.name) && !kept.contains(&old.path)) {
        if bytes <= most {
            break;
        }
        remove(old)?;
        bytes = bytes.saturating_sub(old.bytes);
        pruned.receipts += 1;
        pruned.bytes = pruned.bytes.saturating_add(old.bytes);
    }
    Ok(pruned)
}

/// Removes a receipt; one that is gone already is no error.
///
/// # Errors
/// What the system says.
pub fn remove(receipt: &Kept) -> io::Result<()> {
    match fs::remove_file(&receipt.path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::home;
    use crate::testdir::TestDir;

    #[test]
    fn the_oldest_go_first_and_what_a_person_named_or_convicts_and_the_newest_stay() {
        let dir = TestDir::new("receipts");
        let home = Home::at(dir.path());
        assert_eq!(list(&home).expect("no directory"), []);
        let names = ["00000000000a", "mine", "00000000000b", "00000000000c", "00000000000d"];
        for (age, name) in names.into_iter().enumerate() {
            let path = file(&home, name);
            home::write_private(&path, &[0; 10]).expect("write");
            let open = fs::File::options().write(true).open(&path).expect("open");
            let written = SystemTime::UNIX_EPOCH + Duration::from_secs(1 + age as u64);
            open.set_modified(written).expect("date");
        }
        fs::write(home.receipts().join("a note"), [0; 1000]).expect("write");
        let left = || list(&home).expect("list").into_iter().map(|kept| kept.name);
        assert_eq!(left().collect::<Vec<_>>(), names.iter().rev().copied().collect::<Vec<_>>());
        let newest = [file(&home, names[4])].into();
        let nothing = prune(&home, 50, &newest).expect("prune");
        assert_eq!(nothing, Pruned::default());
        let one = prune(&home, 49, &newest).expect("prune");
        assert_eq!(one, Pruned { receipts: 1, bytes: 10 });
        assert_eq!(left().next_back().as_deref(), Some("mine"));
        // The oldest one that is left convicts a node.
        let kept = [file(&home, names[4]), file(&home, names[2])].into();
        let one = prune(&home, 39, &kept).expect("prune");
        assert_eq!(one, Pruned { receipts: 1, bytes: 10 });
        assert_eq!(left().collect::<Vec<_>>(), ["00000000000d", "00000000000b", "mine"]);
        prune(&home, 0, &newest).expect("prune");
        assert_eq!(left().collect::<Vec<_>>(), ["00000000000d", "mine"]);
        assert!(home.receipts().join("a note").exists());
    }
}
