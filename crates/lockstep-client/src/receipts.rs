//! Keeps receipts in files. A receipt that can't be kept costs no answer its verdict.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use lockstep_exact::bytes::Canonical as _;
use lockstep_node::receipts::Pruned;
use lockstep_node::record::Record;
use lockstep_node::{home, receipts};
use lockstep_verify::bundle::Bundle;

use crate::bundle_file::NotWritten;
use crate::path_text::PathText;
use crate::place::Place;

/// The reasons why a receipt was not kept.
#[derive(Debug, thiserror::Error)]
pub enum NotKept {
    /// The path that was given can't be that of a file.
    #[error("expected the name of a file, got {}", PathText(path))]
    NotAFile {
        /// The path that was given.
        path: PathBuf,
    },
    /// Not all that was opened could be written: a receipt that says less than it could would be
    /// taken for that of an answer that was not audited, so it is removed.
    #[error(transparent)]
    Openings(#[from] NotWritten),
    /// The receipt's file could not be written.
    #[error("can't write the receipt {}", PathText(path))]
    Receipt {
        /// The path of the receipt's file.
        path: PathBuf,
        /// The error that the system reports.
        source: io::Error,
    },
}

/// Checks before anything is asked that a receipt can be kept where somebody wants it.
///
/// # Errors
/// [`NotKept`].
pub fn check(wanted: Option<&Path>) -> Result<(), NotKept> {
    let Some(path) = wanted else { return Ok(()) };
    if home::is_no_file(path) || path.file_name().is_none() {
        return Err(NotKept::NotAFile { path: path.to_owned() });
    }
    let tried = home::try_writing(home::folder_of(path));
    Ok(tried.map_err(|source| NotWritten { path: path.to_owned(), source })?)
}

/// Writes a bundle, for its owner's eyes only: where somebody wants it, or in the receipts folder.
/// Returns the file.
///
/// # Errors
/// [`NotKept`].
pub fn save(place: &Place, bundle: &Bundle, wanted: Option<&Path>) -> Result<PathBuf, NotKept> {
    let session = bundle.receipt.request.session().short();
    let own = receipts::file(&place.home, &session);
    let path = wanted.map_or(own, Path::to_owned);
    let bytes = bundle.to_bytes();
    match home::write_private(&path, &bytes) {
        Ok(()) => Ok(path),
        // A home that can only be read: a receipt is worth keeping elsewhere.
        Err(error) if home::is_refusal(&error) && wanted.is_none() => {
            let path = std::env::temp_dir().join(format!("{session}.receipt"));
            match home::write_private(&path, &bytes) {
                Ok(()) => Ok(path),
                Err(source) => Err(NotKept::Receipt { path, source }),
            }
        }
        Err(source) => Err(NotKept::Receipt { path, source }),
    }
}

/// Returns a receipt's file after the audit. It is removed if not all that was opened could be kept
/// in it: one that says less than it could would be taken for that of an answer that was not
/// audited.
pub(crate) fn finished(file: PathBuf, kept: Result<(), NotWritten>) -> Result<PathBuf, NotKept> {
    match kept {
        Ok(()) => Ok(file),
        Err(why) => {
            // What went wrong is said already.
            let _ = fs::remove_file(&file);
            Err(why.into())
        }
    }
}

/// Keeps the receipts folder within the limit of the settings: removes the oldest, and never
/// `newest`, which has just been written, or the evidence against a node that is banned. Returns
/// what was removed.
///
/// # Errors
/// What the system says, or that it is not known what is evidence. In a home that can only be read
/// there is nothing to do.
pub fn prune(place: &Place, newest: Option<&Path>) -> io::Result<Pruned> {
    let most = place.config.receipts();
    let record = Record::read(&place.home.nodes()).map_err(io::Error::other)?;
    let mut kept = record.evidence(&place.home);
    kept.extend(newest.map(Path::to_owned));
    match receipts::prune(&place.home, most, &kept) {
        Err(error) if home::is_refusal(&error) => Ok(Pruned::default()),
        pruned => pruned,
    }
}
