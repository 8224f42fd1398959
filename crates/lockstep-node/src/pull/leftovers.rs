//! The files that interrupted pulls left in the downloads folder: kept so that the next pull goes
//! on from there, until somebody wants the room.
//!
//! A file or directory that another process holds is never touched: each is locked by whoever
//! writes it.

use std::fs;
use std::path::{Path, PathBuf};

use super::{PullError, http};
use crate::home::Home;
use crate::store::Removed;

/// Returns how many files interrupted pulls left, and their bytes; those of pulls that run now are
/// not counted.
///
/// # Errors
/// [`PullError::Io`] if the folder can't be read.
pub fn leftovers(home: &Home) -> Result<Removed, PullError> {
    let all = abandoned(&home.downloads())?;
    Ok(all.iter().fold(Removed::default(), |sum, (path, _)| sum.and(size(path))))
}

/// Removes the files that interrupted pulls left, and returns their number and bytes.
///
/// # Errors
/// [`PullError::Io`].
pub fn remove_leftovers(home: &Home) -> Result<Removed, PullError> {
    let mut removed = Removed::default();
    for (path, held) in abandoned(&home.downloads())? {
        let size = size(&path);
        let gone = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        gone.map_err(PullError::io("remove", &path))?;
        drop(held);
        removed = removed.and(size);
    }
    Ok(removed)
}

/// Entries of the folder that nobody holds, each with what keeps others from it meanwhile.
fn abandoned(downloads: &Path) -> Result<Vec<(PathBuf, Option<http::Part>)>, PullError> {
    let entries = match fs::read_dir(downloads) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(PullError::io("read", downloads))?,
    };
    let mut all = Vec::new();
    for entry in entries {
        let path = entry.map_err(PullError::io("read", downloads))?.path();
        let lock = match path.is_dir() {
            true => Some(path.join(super::set::LOCK)),
            false => path.extension().is_some_and(|end| end == "part").then(|| path.clone()),
        };
        match lock.as_deref().map(http::Part::open).transpose() {
            Ok(held) => all.push((path, held)),
            // Somebody writes it now; or it can't be written to, and so not be removed.
            Err(PullError::Busy { .. } | PullError::Io { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// Files at a path or below it, and their bytes.
fn size(path: &Path) -> Removed {
    if !path.is_dir() {
        let bytes = fs::symlink_metadata(path).map_or(0, |metadata| metadata.len());
        return Removed { blobs: 1, bytes };
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.fold(Removed::default(), |sum, entry| sum.and(size(&entry.path())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testdir::TestDir;

    #[test]
    fn what_a_dead_pull_left_is_counted_and_freed_and_what_a_living_one_writes_is_not() {
        let dir = TestDir::new("leftovers");
        let home = Home::at(dir.path());
        assert_eq!(leftovers(&home).expect("no folder"), Removed::default());
        let downloads = home.downloads();
        for folder in ["dead", "alive", "pip-0123"] {
            fs::create_dir_all(downloads.join(folder)).expect("made");
            fs::write(downloads.join(folder).join("file"), b"12345").expect("written");
        }
        fs::write(downloads.join("dead.part"), b"123").expect("written");
        let living = http::Part::open(&downloads.join("alive.part")).expect("held");
        let set = http::Part::open(&downloads.join("alive").join(super::super::set::LOCK));
        let set = set.expect("held");
        // The locks of the two dead directories are files too, once they were looked at.
        let expected = Removed { blobs: 5, bytes: 13 };
        assert_eq!(leftovers(&home).expect("counted"), expected);
        assert_eq!(remove_leftovers(&home).expect("freed"), expected);
        let mut left: Vec<_> = fs::read_dir(&downloads)
            .expect("there")
            .map(|e| e.expect("entry").file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["alive", "alive.part"]);
        drop((living, set));
        remove_leftovers(&home).expect("freed");
        assert_eq!(fs::read_dir(&downloads).expect("there").count(), 0);
    }
}
