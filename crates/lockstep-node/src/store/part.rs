//! A blob that is fetched piece by piece and is not whole yet.
//!
//! Its file lies in the folder `partial` under the blob's digest, for as long as a model uses that
//! blob, so that the next fetch goes on where one was interrupted. One process writes it at a time;
//! a second one that fetches the same blob has a file of its own, which nobody else sees. What an
//! earlier fetch left is believed as far as its pieces are those of the blob.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use lockstep_exact::digest::Digest;
use lockstep_exact::pieces::Outline;

use super::import::make_read_only;
use super::{Store, StoreError};
use crate::home;

/// The file of a blob that is not whole yet. Dropped, it keeps what has come, unless another
/// process writes the one that is kept.
#[derive(Debug)]
pub(crate) struct Part {
    file: File,
    path: PathBuf,
    blob: Digest,
    is_kept: bool,
}

impl Store {
    /// Opens the file of a blob that is not whole yet, with what an earlier fetch left of it.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub(crate) fn part(&self, blob: Digest) -> Result<Part, StoreError> {
        let path = self.partial().join(blob.to_string());
        let file = open_kept(&path).map_err(StoreError::io("open", &path))?;
        let kept = lock_kept(&file, &path).map_err(StoreError::io("lock", &path))?;
        if kept {
            return Ok(Part { file, path, blob, is_kept: true });
        }
        let dir = self.temporary();
        let unique = home::unique().map_err(StoreError::io("name a file in", &dir))?;
        let path = dir.join(format!("{unique:016x}"));
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).open(&path);
        let file = file.map_err(StoreError::io("create", &path))?;
        Ok(Part { file, path, blob, is_kept: false })
    }

    pub(super) fn partial(&self) -> PathBuf {
        self.root.join("partial")
    }
}

/// Opens the file in which a blob's pieces are kept, or creates it.
fn open_kept(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    options.open(path)
}

/// Locks the file that was opened at `path`, and returns whether it is this process's to write.
/// It is not if another process writes it; and not if another one has finished it between the
/// opening and the locking, for then it is a blob in its place by now, which nobody may touch.
fn lock_kept(file: &File, path: &Path) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => home::is_at(file, path),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

impl Part {
    /// Reads the pieces that are there from the beginning, and cuts off what follows the last one
    /// that is right. Returns how many are.
    pub(crate) fn keep_right(&mut self, outline: &Outline) -> Result<u64, StoreError> {
        let kept = self.right_pieces(outline).and_then(|pieces| {
            self.file.set_len(outline.range(pieces).start)?;
            Ok(pieces)
        });
        kept.map_err(StoreError::io("read", &self.path))
    }

    fn right_pieces(&mut self, outline: &Outline) -> io::Result<u64> {
        let len = self.file.metadata()?.len();
        self.file.seek(SeekFrom::Start(0))?;
        for index in 0..outline.count() {
            let range = outline.range(index);
            if range.end > len {
                return Ok(index);
            }
            let mut piece = vec![0; (range.end - range.start) as usize];
            self.file.read_exact(&mut piece)?;
            if !outline.holds(index, &piece) {
                return Ok(index);
            }
        }
        Ok(outline.count())
    }

    /// Writes a piece, whose bytes have been checked, at its place.
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let seek = self.file.seek(SeekFrom::Start(offset));
        let written = seek.and_then(|_| self.file.write_all(bytes));
        written.map_err(StoreError::io("write", &self.path))
    }

    /// Makes the blob durable and puts it in its place in the store.
    pub(crate) fn finish(self, store: &Store) -> Result<(), StoreError> {
        let place = store.blob_path(&self.blob);
        let put = || {
            make_read_only(&self.file)?;
            self.file.sync_all()?;
            fs::rename(&self.path, &place)?;
            home::sync_dir(&store.blobs())
        };
        put().map_err(StoreError::io("store", &place))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.is_kept {
            // It is not there any more if it was finished; what is left goes with the next import
            // that runs alone.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use lockstep_exact::pieces::PIECE_BYTES;

    use super::*;
    use crate::home::Home;
    use crate::testdir::TestDir;

    fn blob() -> (Vec<u8>, Outline) {
        let bytes: Vec<u8> = (0..3 * PIECE_BYTES + 9).map(|at| (at * 7 + at / 255) as u8).collect();
        let outline = Outline::of(&bytes);
        (bytes, outline)
    }

    #[test]
    fn what_an_earlier_fetch_left_counts_as_far_as_it_is_right() {
        let dir = TestDir::new("part");
        let store = Store::open(&Home::at(dir.path()), 0).unwrap();
        let (bytes, outline) = blob();
        let digest = Digest::of(&bytes);
        let mut part = store.part(digest).unwrap();
        assert_eq!(part.keep_right(&outline).unwrap(), 0);
        let two = 2 * PIECE_BYTES as usize;
        part.write(0, &bytes[..two]).unwrap();
        part.write(2 * PIECE_BYTES, &bytes[two..two + 100]).unwrap();
        drop(part);
        let mut part = store.part(digest).unwrap();
        assert_eq!(part.keep_right(&outline).unwrap(), 2);
        assert_eq!(fs::metadata(&part.path).unwrap().len(), 2 * PIECE_BYTES, "the rest is cut off");
        part.write(PIECE_BYTES + 1, &[!bytes[PIECE_BYTES as usize + 1]]).unwrap();
        assert_eq!(part.keep_right(&outline).unwrap(), 1);
        part.write(PIECE_BYTES, &bytes[PIECE_BYTES as usize..]).unwrap();
        assert_eq!(part.keep_right(&outline).unwrap(), outline.count());
        part.finish(&store).unwrap();
        assert_eq!(fs::read(store.blob_path(&digest)).unwrap(), bytes);
        assert_eq!(fs::read_dir(store.partial()).unwrap().count(), 0);
    }

    #[test]
    fn two_that_fetch_the_same_blob_do_not_write_into_each_others_files() {
        let dir = TestDir::new("part-twice");
        let store = Store::open(&Home::at(dir.path()), 0).unwrap();
        let (bytes, outline) = blob();
        let digest = Digest::of(&bytes);
        let mut first = store.part(digest).unwrap();
        first.write(0, &bytes[..PIECE_BYTES as usize]).unwrap();
        let mut second = store.part(digest).unwrap();
        assert_eq!(second.keep_right(&outline).unwrap(), 0);
        second.write(0, &bytes).unwrap();
        second.finish(&store).unwrap();
        assert_eq!(first.keep_right(&outline).unwrap(), 1);
        let third = store.part(digest).unwrap();
        drop(third);
        assert_eq!(fs::read_dir(store.temporary()).unwrap().count(), 0, "nothing is left");
    }

    #[test]
    fn what_another_process_has_finished_meanwhile_is_not_written() {
        let dir = TestDir::new("part-finished");
        let store = Store::open(&Home::at(dir.path()), 0).unwrap();
        let (bytes, outline) = blob();
        let digest = Digest::of(&bytes);
        let path = store.partial().join(digest.to_string());
        let mut first = store.part(digest).unwrap();
        first.write(0, &bytes).unwrap();
        // The second one opens the file before the first one puts it in its place, and locks it
        // afterwards.
        let opened = open_kept(&path).unwrap();
        assert!(!lock_kept(&opened, &path).unwrap(), "the first one has it");
        first.finish(&store).unwrap();
        assert!(!lock_kept(&opened, &path).unwrap(), "it is a blob by now");
        drop(opened);
        // Nor if a third one has begun anew at the same path.
        let opened = open_kept(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let third = store.part(digest).unwrap();
        assert!(third.is_kept && !lock_kept(&opened, &path).unwrap());
        let mut second = store.part(digest).unwrap();
        assert!(!second.is_kept);
        assert_eq!(second.keep_right(&outline).unwrap(), 0);
        assert_eq!(fs::read(store.blob_path(&digest)).unwrap(), bytes);
    }

    #[test]
    fn a_part_of_a_blob_that_no_model_uses_is_swept() {
        let dir = TestDir::new("part-swept");
        let store = Store::open(&Home::at(dir.path()), 0).unwrap();
        let (bytes, _) = blob();
        let mut part = store.part(Digest::of(&bytes)).unwrap();
        part.write(0, &bytes[..100]).unwrap();
        drop(part);
        let swept = store.sweep().unwrap();
        assert_eq!((swept.blobs, swept.bytes), (1, 100));
        assert_eq!(fs::read_dir(store.partial()).unwrap().count(), 0);
    }
}
