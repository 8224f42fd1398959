//! Lets this machine recognise the requests that it made: by their nonces, which hold a seal that
//! only the holder of the home's secret can make.
//!
//! A bundle proves who computed what. That its cells were drawn by chance, and before the servers
//! had answered, is known only to whoever drew them: for a request of one's own, and no other.

use std::io;
use std::path::PathBuf;

use lockstep_exact::digest::Digest;
use lockstep_node::home::{self, Home, ReadSecretError};
use lockstep_verify::request::Request;
use lockstep_verify::secret::Secret;
use lockstep_verify::sign::NodeId;

use crate::path_text::PathText;
use crate::random::{self, NoRandomness, random};

const DOMAIN: &str = "lockstep 2026 seal of an own request";
/// Bytes of a nonce that are drawn; the others are the seal.
const DRAWN: usize = 16;

/// Why the home's secret can't be used.
#[derive(Debug, thiserror::Error)]
pub enum OwnSecretError {
    /// Other users of the machine can read or change the file.
    #[error("{path} can be read by others: run chmod 600 {path}", path = PathText(path))]
    Exposed {
        /// The path of the secret's file.
        path: PathBuf,
    },
    /// The system gave no random bytes.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// The file does not hold a secret of the right length.
    #[error("{} is not a secret of 32 bytes: remove it, and a new one is made", PathText(path))]
    NotASecret {
        /// The path of the file.
        path: PathBuf,
    },
    /// The secret's file could not be read.
    #[error("can't read {}", PathText(path))]
    Read {
        /// The path of the file.
        path: PathBuf,
        /// The error of reading it.
        source: ReadSecretError,
    },
    /// The secret's file could not be written.
    #[error("can't write {}", PathText(path))]
    Write {
        /// The path of the file.
        path: PathBuf,
        /// The error that the system reports.
        source: io::Error,
    },
}

/// The secret of a home folder, with which it seals its requests and later recognises them.
pub struct OwnSecret(Secret);

impl OwnSecret {
    /// Reads the secret of a home folder, or makes one. In a home folder that can only be read, the
    /// new secret is used once and not kept: `verify` will then not recognise the request as this
    /// machine's own.
    ///
    /// # Errors
    /// [`OwnSecretError`].
    pub fn load_or_create(home: &Home) -> Result<Self, OwnSecretError> {
        if let Some(secret) = Self::load(home)? {
            return Ok(secret);
        }
        let secret = random::secret()?;
        let path = home.own_secret();
        match home::write_private(&path, secret.expose()) {
            Err(error) if home::is_refusal(&error) => {}
            written => written.map_err(|source| OwnSecretError::Write { path, source })?,
        }
        Ok(Self(secret))
    }

    /// Reads the secret; none if this home never asked anything, or if the secret is another
    /// user's.
    ///
    /// # Errors
    /// [`OwnSecretError`].
    pub fn load(home: &Home) -> Result<Option<Self>, OwnSecretError> {
        let path = home.own_secret();
        let bytes = match home::read_secret(&path, 32) {
            Err(ReadSecretError::Io(error))
                if error.kind() == io::ErrorKind::NotFound || home::is_refusal(&error) =>
            {
                return Ok(None);
            }
            Err(ReadSecretError::Exposed) => return Err(OwnSecretError::Exposed { path }),
            Err(source) => return Err(OwnSecretError::Read { path, source }),
            Ok(bytes) => bytes,
        };
        match bytes.as_array::<32>() {
            Some(secret) => Ok(Some(Self(Secret::of(secret)))),
            None => Err(OwnSecretError::NotASecret { path }),
        }
    }

    /// Returns a fresh secret that is kept nowhere, for a program without a home folder.
    ///
    /// # Errors
    /// [`NoRandomness`].
    pub fn draw() -> Result<Self, NoRandomness> {
        Ok(Self(random::secret()?))
    }

    /// Returns a fresh nonce for a request with this session key and this commitment to its audit
    /// seed.
    ///
    /// # Errors
    /// [`NoRandomness`].
    pub fn nonce(
        &self,
        session_key: &NodeId,
        commitment: &Digest,
    ) -> Result<[u8; 32], NoRandomness> {
        let drawn: [u8; DRAWN] = random()?;
        let seal = self.seal(&drawn, session_key, commitment);
        let mut nonce = [0; 32];
        for (byte, value) in nonce.iter_mut().zip(drawn.into_iter().chain(seal)) {
            *byte = value;
        }
        Ok(nonce)
    }

    /// Returns whether this home made a request.
    #[must_use]
    pub fn made(&self, request: &Request) -> bool {
        let (drawn, seal) = request.nonce.split_at(DRAWN);
        self.seal(drawn, &request.session_key, &request.audit_commitment).as_slice() == seal
    }

    fn seal(&self, drawn: &[u8], session_key: &NodeId, commitment: &Digest) -> [u8; DRAWN] {
        let parts: [&[u8]; 4] = [self.0.expose(), drawn, &session_key.0, &commitment.0];
        let digest = Digest::derive(DOMAIN, &parts);
        let mut seal = [0; DRAWN];
        seal.iter_mut().zip(digest.0).for_each(|(byte, value)| *byte = value);
        seal
    }
}

#[cfg(test)]
mod tests {
    use lockstep_exact::sample::{Sampling, Stops};

    use super::*;

    fn request(secret: &OwnSecret) -> Request {
        let (session_key, audit_commitment) = (NodeId([1; 32]), Digest([2; 32]));
        Request {
            manifest: Digest([3; 32]),
            adapters: Vec::new(),
            prompt: vec![1],
            sampling: Sampling::default(),
            stops: Stops::default(),
            nonce: secret.nonce(&session_key, &audit_commitment).unwrap(),
            session_key,
            audit_commitment,
        }
    }

    #[test]
    fn a_home_knows_its_requests_and_no_others() {
        let of = |byte| OwnSecret(Secret::of(&[byte; 32]));
        let (own, other) = (of(7), of(8));
        let made = request(&own);
        assert!(own.made(&made) && !other.made(&made));
        assert_ne!(made.nonce, request(&own).nonce, "no two are the same");
        // A seal is for one session key and one commitment: it can't be moved to another draw.
        let mut moved = made.clone();
        moved.audit_commitment.0[0] ^= 1;
        assert!(!own.made(&moved));
        let mut moved = made.clone();
        moved.session_key.0[0] ^= 1;
        assert!(!own.made(&moved));
        for at in 0..32 {
            let mut changed = made.clone();
            changed.nonce[at] ^= 1;
            assert!(!own.made(&changed), "{at}");
        }
    }

    #[test]
    fn the_secret_is_made_once_and_for_its_owner_alone() {
        let folder = std::env::temp_dir().join(format!("lockstep-own-{}", std::process::id()));
        let home = Home::at(&folder);
        assert!(OwnSecret::load(&home).unwrap().is_none());
        let first = OwnSecret::load_or_create(&home).unwrap();
        assert_eq!(OwnSecret::load_or_create(&home).unwrap().0, first.0);
        assert_eq!(home::secrecy(&home.own_secret()).unwrap(), home::Secrecy::Private);
        std::fs::write(home.own_secret(), "short").unwrap();
        let error = OwnSecret::load(&home).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("32 bytes"), "{error}");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
