//! The identity of a node: an ed25519 key. The public half names the node everywhere; the secret
//! half lives in one file that only its owner may read.

use std::fmt;
use std::fs::{File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use iroh::{PublicKey, SecretKey};
use lockstep_verify::secret::Secret;
use lockstep_verify::sign::{Keypair, NodeId};
use zeroize::Zeroizing;

use crate::home::{self, Home, ReadSecretError};
use crate::limits;

/// Reads a node id from its text: 64 lower-case hexadecimal digits of an ed25519 public key.
///
/// # Errors
/// [`NodeIdError`].
pub fn parse_node_id(text: &str) -> Result<NodeId, NodeIdError> {
    let mut id = NodeId([0; 32]);
    parse_hex(text.as_bytes(), &mut id.0).ok_or(NodeIdError::NotHex)?;
    if is_key(&id) { Ok(id) } else { Err(NodeIdError::NotAKey) }
}

/// Returns whether a node id is a point of the curve: only such a one can be dialled.
pub fn is_key(id: &NodeId) -> bool {
    public_key(id).is_some()
}

/// Returns the id as the transport's key.
pub(super) fn public_key(id: &NodeId) -> Option<PublicKey> {
    PublicKey::from_bytes(&id.0).ok()
}

/// Why a text does not name a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeIdError {
    /// The bytes are not an ed25519 public key.
    #[error("not an ed25519 public key")]
    NotAKey,
    /// The text is not 64 lower-case hexadecimal digits.
    #[error("a node id is 64 lower-case hexadecimal digits")]
    NotHex,
}

/// The secret key of a node. It is never printed, and its memory is wiped when it is dropped.
#[derive(Clone)]
pub struct Identity(Box<SecretKey>);

impl Identity {
    /// Returns a fresh identity from the system's randomness.
    pub fn generate() -> Self {
        Self(Box::new(SecretKey::generate()))
    }

    /// Returns the identity with this secret seed.
    pub fn from_secret(seed: &[u8; 32]) -> Self {
        Self(Box::new(SecretKey::from_bytes(seed)))
    }

    /// Reads the identity kept in `path`, or makes one there (file mode 0600) if there is none.
    ///
    /// # Errors
    /// [`IdentityError`] if the file can't be read or written, holds something else, or can be
    /// read by others.
    pub fn load_or_create(path: &Path) -> Result<Self, IdentityError> {
        match Self::load(path) {
            Err(IdentityError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let fresh = Self::generate();
        match fresh.create(path) {
            Ok(()) => Ok(fresh),
            // Another process was first: its key is the node's key.
            Err(source) if source.kind() == io::ErrorKind::AlreadyExists => Self::load(path),
            Err(source) => Err(IdentityError::Io { path: path.to_owned(), source }),
        }
    }

    /// Takes an identity of a home that no other server has: the node's key, or with several
    /// servers from one home, the next key that is free. It is this process's until the value is
    /// dropped.
    ///
    /// # Errors
    /// [`IdentityError`] if a key file can't be used, or all keys are taken.
    pub fn hold(home: &Home) -> Result<Held, IdentityError> {
        for number in 1..=limits::NODES_OF_A_HOME {
            let path = home.numbered_node_key(number);
            Self::load_or_create(&path)?;
            let io = |source| IdentityError::Io { path: path.clone(), source };
            let lock = File::open(&path).map_err(io)?;
            match lock.try_lock() {
                Ok(()) => {
                    return Ok(Held { identity: Self::load(&path)?, number, _lock: lock });
                }
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(source)) => return Err(io(source)),
            }
        }
        Err(IdentityError::AllTaken { home: home.root().to_owned() })
    }

    fn load(path: &Path) -> Result<Self, IdentityError> {
        let io = |source| IdentityError::Io { path: path.to_owned(), source };
        let text = match home::read_secret(path, 256) {
            Ok(text) => text,
            Err(ReadSecretError::Exposed) => {
                return Err(IdentityError::Exposed { path: path.to_owned() });
            }
            Err(ReadSecretError::Io(source)) => return Err(io(source)),
        };
        let malformed = || IdentityError::Malformed { path: path.to_owned() };
        let seed = Secret::draw(|seed| parse_hex(text.trim_ascii_end(), seed).ok_or(()));
        seed.map(|seed| Self::from_secret(seed.expose())).map_err(|()| malformed())
    }

    /// Writes the key beside its place and links it there, so that no reader sees half a key.
    fn create(&self, path: &Path) -> io::Result<()> {
        let parent = home::folder_of(path);
        home::create_private_dir(parent)?;
        let beside = parent.join(format!(".node-key-{:016x}", home::unique()?));
        let mut file = home::create_private_file(&beside)?;
        let placed = file
            .write_all(&self.line())
            .and_then(|()| file.sync_all())
            .and_then(|()| std::fs::hard_link(&beside, path));
        std::fs::remove_file(&beside)?;
        placed
    }

    /// Returns the content of the key's file.
    fn line(&self) -> Zeroizing<Vec<u8>> {
        let seed = Zeroizing::new(self.0.to_bytes());
        let mut line = Zeroizing::new(Vec::with_capacity(2 * seed.len() + 1));
        for byte in seed.iter() {
            line.extend([byte >> 4, byte & 15].map(digit_of));
        }
        line.push(b'\n');
        line
    }

    /// Returns the bytes of the secret.
    pub(super) fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// Returns the public name that goes with this secret.
    pub fn id(&self) -> NodeId {
        NodeId(*self.0.public().as_bytes())
    }

    /// Returns the same key, for signing statements in this node's name.
    pub fn keypair(&self) -> Keypair {
        Keypair::from_secret(&Zeroizing::new(self.0.to_bytes()))
    }

    pub(super) fn key(&self) -> SecretKey {
        SecretKey::clone(&self.0)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.id().short())
    }
}

/// An identity that no other process has while this value lives.
#[derive(Debug)]
pub struct Held {
    /// The identity that this process holds.
    pub identity: Identity,
    /// Which of the home's keys it is, from 1.
    pub number: u32,
    /// The system frees it if the process dies.
    _lock: File,
}

/// Why a node's key file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// All identities that a home folder keeps are in use by servers.
    #[error(
        "{}: {} servers run from this home and have all of its keys; start this one with \
         --ephemeral, or from another --home", home.display(), limits::NODES_OF_A_HOME
    )]
    AllTaken {
        /// The path of the home folder.
        home: PathBuf,
    },
    /// Other users of this machine can read the key.
    #[error("{} can be read by others: run chmod 600 {}, or remove it, and a new one is made",
        path.display(), path.display())]
    Exposed {
        /// The path of the key file.
        path: PathBuf,
    },
    /// The file could not be read or written.
    #[error("node key {}: {source}", path.display())]
    Io {
        /// The path of the key file.
        path: PathBuf,
        /// The error that the system reported.
        source: io::Error,
    },
    /// The file holds something else than a key.
    #[error("{} is not a node key of 64 hexadecimal digits: remove it, and a new one is made",
        path.display())]
    Malformed {
        /// The path of the key file.
        path: PathBuf,
    },
}

/// Reads two lower-case hexadecimal digits for each byte, and nothing else.
fn parse_hex(text: &[u8], bytes: &mut [u8]) -> Option<()> {
    let (pairs, []) = text.as_chunks::<2>() else { return None };
    if pairs.len() != bytes.len() {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = hex_digit(*high)? << 4 | hex_digit(*low)?;
    }
    Some(())
}

/// Returns the hexadecimal digit of a number below 16.
const fn digit_of(number: u8) -> u8 {
    match number {
        0..=9 => b'0' + number,
        _ => b'a' + number - 10,
    }
}

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_is_made_once_and_read_again() {
        let dir = crate::testdir::TestDir::new("identity-once");
        let path = dir.path().join("node.key");
        let first = Identity::load_or_create(&path).expect("made");
        let second = Identity::load_or_create(&path).expect("read");
        assert_eq!(first.id(), second.id());
        assert_eq!(std::fs::read_dir(dir.path()).expect("dir").count(), 1, "nothing left beside");
    }

    #[cfg(unix)]
    #[test]
    fn a_key_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = crate::testdir::TestDir::new("identity-exposed");
        let path = dir.path().join("node.key");
        Identity::load_or_create(&path).expect("made");
        let mode = std::fs::metadata(&path).expect("stat").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).expect("chmod");
        let error = Identity::load_or_create(&path).expect_err("exposed");
        assert!(matches!(error, IdentityError::Exposed { .. }), "{error}");
    }

    #[test]
    fn a_file_that_is_no_key_is_refused_and_kept() {
        let dir = crate::testdir::TestDir::new("identity-garbage");
        let path = dir.path().join("node.key");
        let mut file = home::create_private_file(&path).expect("create");
        file.write_all(b"not a key\n").expect("write");
        let error = Identity::load_or_create(&path).expect_err("garbage");
        assert!(matches!(error, IdentityError::Malformed { .. }), "{error}");
        assert_eq!(std::fs::read(&path).expect("kept"), b"not a key\n");
    }

    #[test]
    fn servers_of_one_home_have_identities_of_their_own_and_have_them_again() {
        let dir = crate::testdir::TestDir::new("identity-held");
        let home = Home::at(dir.path());
        let first = Identity::hold(&home).expect("the node's own");
        assert_eq!(first.number, 1);
        let node = Identity::load_or_create(&home.node_key()).expect("read beside");
        assert_eq!(first.identity.id(), node.id());
        let second = Identity::hold(&home).expect("another");
        assert_eq!(second.number, 2);
        assert_ne!(first.identity.id(), second.identity.id());
        let id = second.identity.id();
        drop(second);
        assert_eq!(Identity::hold(&home).expect("again").identity.id(), id);
        let all: Vec<_> = (2..=limits::NODES_OF_A_HOME).map(|_| Identity::hold(&home)).collect();
        assert!(all.iter().all(Result::is_ok));
        let error = Identity::hold(&home).expect_err("no more").to_string();
        assert!(error.contains("--ephemeral") && error.contains("--home"), "{error}");
    }

    #[test]
    fn a_node_id_is_its_own_text() {
        let id = Identity::from_secret(&[7; 32]).id();
        assert_eq!(parse_node_id(&id.to_string()), Ok(id));
        assert_eq!(parse_node_id(&id.to_string().to_uppercase()), Err(NodeIdError::NotHex));
        assert_eq!(parse_node_id("00"), Err(NodeIdError::NotHex));
        assert_eq!(parse_node_id(&"02".repeat(32)), Err(NodeIdError::NotAKey));
    }

    #[test]
    fn the_transport_and_the_signer_have_one_key() {
        let identity = Identity::from_secret(&[7; 32]);
        assert_eq!(identity.keypair().id(), identity.id());
    }
}
