//! Where receipts are kept, and that one that can't be kept costs no answer its verdict.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use lockstep_exact::bytes::Canonical as _;
use lockstep_node::{home, receipts};
use lockstep_verify::bundle::Bundle;

use crate::exit::{self, usage};
use crate::models::Place;
use crate::output::{Voice, human_bytes};
use crate::printable::ForeignPath;

/// Checks before anything is asked that a receipt can be kept where the command line says.
pub(crate) fn check(wanted: Option<&Path>) -> Result<()> {
    let Some(path) = wanted else { return Ok(()) };
    let shown = ForeignPath(path);
    if path.is_dir() || path.file_name().is_none() {
        return Err(usage(format!("--receipt: expected the name of a file, got {shown}")));
    }
    home::try_writing(home::folder_of(path)).with_context(|| format!("can't write {shown}"))
}

/// Writes a bundle, for its owner's eyes only: where the command line says, or in the receipts
/// folder.
///
/// # Errors
/// Why it is not kept, in words.
pub(crate) fn save(
    place: &Place,
    bundle: &Bundle,
    wanted: Option<&Path>,
) -> Result<PathBuf, String> {
    written(place, bundle, wanted).map_err(|error| exit::in_full(&error))
}

/// A receipt's file after the audit. It is removed if not all that was opened could be kept in it:
/// one that says less than it could would be taken for that of an answer that was not audited.
pub(crate) fn finished(file: PathBuf, kept: &Result<(), String>) -> Result<PathBuf, String> {
    match kept {
        Ok(()) => Ok(file),
        Err(why) => {
            // What went wrong is said already.
            let _ = fs::remove_file(&file);
            Err(why.clone())
        }
    }
}

fn written(place: &Place, bundle: &Bundle, wanted: Option<&Path>) -> Result<PathBuf> {
    let session = bundle.receipt.request.session().short();
    let own = receipts::file(&place.home, &session);
    let path = wanted.map_or(own, Path::to_owned);
    let bytes = bundle.to_bytes();
    match home::write_private(&path, &bytes) {
        // A home that can only be read: a receipt is worth keeping elsewhere.
        Err(error) if home::is_refusal(&error) && wanted.is_none() => {
            let elsewhere = std::env::temp_dir().join(format!("{session}.receipt"));
            home::write_private(&elsewhere, &bytes)
                .with_context(|| format!("can't write the receipt {}", ForeignPath(&elsewhere)))?;
            Ok(elsewhere)
        }
        written => {
            written.with_context(|| format!("can't write the receipt {}", ForeignPath(&path)))?;
            Ok(path)
        }
    }
}

/// Keeps the receipts folder within its limit, and says what it cost.
pub(crate) fn prune(place: &Place, newest: Option<&Path>, voice: Voice) {
    let most = place.config.receipts();
    match receipts::prune(&place.home, most, newest.unwrap_or_else(|| Path::new(""))) {
        Ok(pruned) if pruned.receipts == 0 => {}
        Ok(pruned) => voice.note(format!(
            "{} of the oldest receipts are removed ({}): the receipts folder keeps {} (the setting \
             receipts_mib)",
            pruned.receipts,
            human_bytes(pruned.bytes),
            human_bytes(most),
        )),
        // In a home that can only be read there is nothing to do.
        Err(error) if home::is_refusal(&error) => {}
        Err(error) => voice.note(format!("old receipts can't be removed: {error}")),
    }
}
