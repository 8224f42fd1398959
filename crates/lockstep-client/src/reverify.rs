//! Verifies a saved bundle again: offline, without weights and servers.

use std::path::{Path, PathBuf};

use lockstep_exact::manifest::Manifest;
use lockstep_exact::vocabulary::Vocabulary;
use lockstep_node::home::Home;
use lockstep_node::receipts;
use lockstep_verify::audit::{Auditing, Unverified, Verified};
use lockstep_verify::bundle::Bundle;
use lockstep_verify::fault::Fault;
use lockstep_verify::key::Key;
use lockstep_verify::links::{Linked, Rules};
use lockstep_verify::receipt::Receipt;

use crate::backend::Backend;
use crate::bundle_file::{BundleError, BundleReader};
use crate::own::{OwnSecret, OwnSecretError};

/// Returns the file that somebody names: a path, or the id of a receipt in the receipts folder.
#[must_use]
pub fn find(home: &Home, named: &Path) -> PathBuf {
    let kept = named.to_str().map(|name| receipts::file(home, name));
    let is_name = named.file_name() == Some(named.as_os_str());
    kept.filter(|kept| is_name && !named.exists() && kept.exists())
        .unwrap_or_else(|| named.to_owned())
}

/// A bundle that was saved to a file earlier.
pub struct Saved {
    /// The receipt, and how the cells were drawn. The openings are read as they are checked.
    pub bundle: Bundle,
    exchanges: BundleReader,
}

impl Saved {
    /// Opens the file of a bundle and reads its receipt.
    ///
    /// # Errors
    /// [`BundleError`].
    pub fn open(path: &Path) -> Result<Self, BundleError> {
        let (exchanges, bundle) = BundleReader::open(path)?;
        Ok(Self { bundle, exchanges })
    }

    /// Returns whether the request was made from this home. Rates of detection hold for an honest
    /// draw of the cells, which nobody but whoever made the request can know.
    ///
    /// # Errors
    /// [`OwnSecretError`].
    pub fn is_own(&self, home: &Home) -> Result<bool, OwnSecretError> {
        let secret = OwnSecret::load(home)?;
        Ok(secret.is_some_and(|secret| secret.made(&self.bundle.receipt.request)))
    }

    /// Audits what was opened with a key, one exchange after the other.
    ///
    /// # Errors
    /// [`BundleError`]: the file can't be read to its end. The verdict is the value.
    pub fn audit(
        mut self,
        ops: &Backend,
        key: &Key,
    ) -> Result<Result<Verified<Receipt>, Unverified>, BundleError> {
        let Bundle { receipt, extent, seed, .. } = &self.bundle;
        let mut auditing = match Auditing::begin(ops, key, receipt, seed, *extent) {
            Ok(auditing) => auditing,
            Err(why) => return Ok(Err(why)),
        };
        while let Some(exchange) = self.exchanges.next_exchange()? {
            if let Err(fault) = auditing.take(&exchange) {
                return Ok(Err(fault.into()));
            }
        }
        Ok(auditing.finish())
    }

    /// Checks signatures, links and stop rules alone, for which no key is needed. It says nothing
    /// of what was computed.
    ///
    /// # Errors
    /// The [`Fault`] that was found.
    pub fn check_links(&self, manifest: &Manifest, vocabulary: &Vocabulary) -> Result<(), Fault> {
        Linked::check(&self.bundle.receipt, Rules { manifest, vocabulary }).map(drop)
    }
}
