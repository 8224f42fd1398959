//! The home folder of a node: the paths of its files, and who may read them.
//!
//! Directories are made with mode 0700; keys, receipts, conversations and the history of chats are
//! files with mode 0600 from the moment they exist. Nothing here follows a setting that would
//! weaken that.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// The directory of a node and the places in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    root: PathBuf,
}

impl Home {
    /// Returns the home folder at `root`, which need not exist yet.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Returns the home that the environment names: `LOCKSTEP_HOME`, else `XDG_DATA_HOME/lockstep`,
    /// else `HOME/.local/share/lockstep`. Relative and empty values are passed over, as XDG asks.
    ///
    /// # Errors
    /// [`NoHome`] if none of the three is set.
    pub fn from_env(variable: impl Fn(&str) -> Option<String>) -> Result<Self, NoHome> {
        let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|p| p.is_absolute());
        if let Some(root) = variable("LOCKSTEP_HOME").filter(|root| !root.is_empty()) {
            return std::path::absolute(root).map(Self::at).map_err(|_| NoHome);
        }
        let data = absolute("XDG_DATA_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".local/share")));
        data.map(|data| Self::at(data.join("lockstep"))).ok_or(NoHome)
    }

    /// Makes the directory (mode 0700) if it isn't there.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(&self) -> io::Result<()> {
        create_private_dir(&self.root)
    }

    /// Returns the path of the home folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the path of the settings file.
    pub fn config(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    /// Returns the path of the node's secret key.
    pub fn node_key(&self) -> PathBuf {
        self.root.join("node.key")
    }

    /// Returns the path of the key of this home's relay.
    pub fn relay_key(&self) -> PathBuf {
        self.root.join("relay.key")
    }

    /// Returns the secret by which this home knows the requests that it made.
    pub fn own_secret(&self) -> PathBuf {
        self.root.join("own.key")
    }

    /// Returns the secret key of one of several servers that run from this home, from 1.
    pub fn numbered_node_key(&self, number: u32) -> PathBuf {
        match number {
            0 | 1 => self.node_key(),
            _ => self.root.join(format!("node-{number}.key")),
        }
    }

    /// Returns the path of the record of how other nodes answered audits.
    pub fn nodes(&self) -> PathBuf {
        self.root.join("nodes.toml")
    }

    /// Returns the folder of receipt bundles; they contain conversations.
    pub fn receipts(&self) -> PathBuf {
        self.root.join("receipts")
    }

    /// Returns the folder of verifiers' keys; they are secret.
    pub fn keys(&self) -> PathBuf {
        self.root.join("keys")
    }

    /// Returns the folder of conversations that were kept under a name.
    pub fn conversations(&self) -> PathBuf {
        self.root.join("conversations")
    }

    /// Returns the lines that were typed in chats on a terminal, as a JSON list; they may be
    /// secret.
    pub fn history(&self) -> PathBuf {
        self.root.join("history.json")
    }

    /// Returns the folder of model files that are being downloaded.
    pub fn downloads(&self) -> PathBuf {
        self.root.join("downloads")
    }

    /// Returns the folder for what servers keep until a retention deadline.
    pub fn spool(&self) -> PathBuf {
        self.root.join("spool")
    }
}

/// The environment names no home directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no home directory: set LOCKSTEP_HOME to a directory for models and keys")]
pub struct NoHome;

/// Whether others than the owner may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrecy {
    /// The owner alone, as far as this system can tell.
    Private,
    /// The group or everyone has some right to it.
    Exposed,
}

/// Looks at the mode of a file or directory.
///
/// # Errors
/// What the system says.
pub fn secrecy(path: &Path) -> io::Result<Secrecy> {
    Ok(secrecy_of(&fs::metadata(path)?))
}

fn secrecy_of(metadata: &fs::Metadata) -> Secrecy {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        if metadata.permissions().mode() & 0o077 != 0 {
            return Secrecy::Exposed;
        }
    }
    let _ = metadata;
    Secrecy::Private
}

/// Returns the directory that a file is in: the current one, if the path is a bare name.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Tries whether files can be made in a directory, which is made if it isn't there: a file is made
/// and removed again.
///
/// # Errors
/// What the system says.
pub fn try_writing(dir: &Path) -> io::Result<()> {
    create_private_dir(dir)?;
    let probe = dir.join(format!(".probe-{:016x}", unique()?));
    drop(create_private_file(&probe)?);
    fs::remove_file(&probe)
}

/// Makes a directory and its parents with mode 0700; one that is there keeps its mode.
///
/// # Errors
/// What the system says.
pub fn create_private_dir(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt as _;
        builder.mode(0o700);
    }
    builder.create(path)
}

/// Makes a new file with mode 0600.
///
/// # Errors
/// What the system says; `AlreadyExists` if there is such a file.
pub fn create_private_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).read(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    options.open(path)
}

/// The beginning of the names of files that are written beside the place where they will stand.
pub(crate) const BESIDE: &str = ".new-";

/// Returns whether the system refuses to write there at all: the file system can only be read, or
/// the directory is somebody else's.
pub fn is_refusal(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
}

/// Replaces `path` by a file of mode 0600 with these contents: a reader sees the old file or the
/// new one, also after a crash. What is there and is no file, such as `/dev/null`, stays.
///
/// # Errors
/// What the system says, or that it is no file; then what was there is still there.
pub fn write_private(path: &Path, contents: &[u8]) -> io::Result<()> {
    if is_no_file(path) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let parent = folder_of(path);
    create_private_dir(parent)?;
    let beside = parent.join(format!("{BESIDE}{:016x}", unique()?));
    let mut file = create_private_file(&beside)?;
    let placed = file
        .write_all(contents)
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&beside, path))
        .and_then(|()| sync_dir(parent));
    if placed.is_err() {
        // The error that matters is the first one.
        let _ = fs::remove_file(&beside);
    }
    placed
}

/// Returns whether something is at `path` that is no regular file and leads to none: a folder, a
/// device, a pipe or a socket, which a new file would take the place of.
pub fn is_no_file(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| !found.is_file())
}

/// Reads a whole file of at most `cap` bytes.
///
/// # Errors
/// What the system says; `FileTooLarge` past the cap.
pub fn read_capped(path: &Path, cap: u64) -> io::Result<Vec<u8>> {
    let mut contents = Vec::new();
    File::open(path)?.take(cap.saturating_add(1)).read_to_end(&mut contents)?;
    if contents.len() as u64 > cap {
        let detail = format!("longer than {cap} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, detail));
    }
    Ok(contents)
}

/// Why a file with a secret was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadSecretError {
    /// Others have some right to the file, so it may be no secret, or not the owner's.
    #[error("it can be read or changed by others: run chmod 600 on it")]
    Exposed,
    /// The file could not be read.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads a whole file of at most `cap` bytes that nobody but its owner has any right to. The bytes
/// are in one place, which is wiped when it is dropped.
///
/// # Errors
/// [`ReadSecretError`]; `FileTooLarge` past the cap.
pub fn read_secret(path: &Path, cap: u64) -> Result<Zeroizing<Vec<u8>>, ReadSecretError> {
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    if secrecy_of(&metadata) == Secrecy::Exposed {
        return Err(ReadSecretError::Exposed);
    }
    let too_large = |cap| {
        let detail = format!("longer than {cap} bytes");
        io::Error::new(io::ErrorKind::FileTooLarge, detail)
    };
    let len = usize::try_from(metadata.len().min(cap)).map_err(io::Error::other)?;
    // What grows leaves copies; one byte more shows whether the file is longer than it was.
    let mut contents = Zeroizing::new(vec![0; len.saturating_add(1)]);
    let mut read = 0;
    while let Some(rest) = contents.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(more) => read = read.saturating_add(more),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    if read > len {
        return Err(too_large(len).into());
    }
    contents.truncate(read);
    Ok(contents)
}

/// Makes renames in a directory survive a crash.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        File::open(dir)?.sync_all()
    }
    #[cfg(not(unix))]
    {
        let _ = dir;
        Ok(())
    }
}

/// Returns whether an open file is the one that lies at `path` now: not if it was renamed or
/// removed since it was opened. Where files have no numbers, whether one as long lies there.
pub(crate) fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let there = match fs::metadata(path) {
        Ok(there) => there,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let own = file.metadata()?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        Ok((own.dev(), own.ino()) == (there.dev(), there.ino()))
    }
    #[cfg(not(unix))]
    {
        Ok(own.len() == there.len())
    }
}

/// Returns a number that no other call, in any process, has given: for names of temporary files.
pub(crate) fn unique() -> io::Result<u64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testdir::TestDir;

    fn home(variables: &[(&str, &str)]) -> Result<Home, NoHome> {
        let find = |name: &str| {
            variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())
        };
        Home::from_env(find)
    }

    #[test]
    fn the_nearest_variable_names_the_home() {
        let all = [("LOCKSTEP_HOME", "/l"), ("XDG_DATA_HOME", "/x"), ("HOME", "/h")];
        assert_eq!(home(&all), Ok(Home::at("/l")));
        assert_eq!(home(&all[1..]), Ok(Home::at("/x/lockstep")));
        assert_eq!(home(&all[2..]), Ok(Home::at("/h/.local/share/lockstep")));
        assert_eq!(home(&[]), Err(NoHome));
    }

    #[test]
    fn empty_and_relative_variables_are_passed_over() {
        let variables = [("LOCKSTEP_HOME", ""), ("XDG_DATA_HOME", "rel"), ("HOME", "/h")];
        assert_eq!(home(&variables), Ok(Home::at("/h/.local/share/lockstep")));
    }

    #[cfg(unix)]
    #[test]
    fn what_is_written_is_private_from_the_start_and_replaced_whole() {
        let dir = TestDir::new("private");
        let path = dir.path().join("a/b/receipt.json");
        write_private(&path, b"one").expect("write");
        write_private(&path, b"two").expect("replace");
        assert_eq!(fs::read(&path).expect("read"), b"two");
        assert_eq!(secrecy(&path).expect("stat"), Secrecy::Private);
        assert_eq!(secrecy(&dir.path().join("a")).expect("stat"), Secrecy::Private);
        assert_eq!(fs::read_dir(dir.path().join("a/b")).expect("dir").count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_file_is_not_replaced_by_one() {
        use std::os::unix::net::UnixListener;

        // As /dev/null, but one that a test may try to replace.
        let dir = TestDir::new("special");
        let path = dir.path().join("socket");
        let _socket = UnixListener::bind(&path).expect("bind");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).expect("link");
        for path in [&path, &link] {
            let error = write_private(path, b"secret").expect_err("no file");
            assert!(error.to_string().contains("not a regular file"), "{error}");
            assert!(!path.metadata().expect("stat").is_file(), "it is what it was");
        }
        assert_eq!(fs::read_dir(dir.path()).expect("dir").count(), 2, "nothing is left beside");
    }

    #[test]
    fn a_bare_name_is_in_the_current_directory() {
        for (path, folder) in [("r2", "."), ("./r2", "."), ("sub/r2", "sub"), ("/r2", "/")] {
            assert_eq!(folder_of(Path::new(path)), Path::new(folder), "{path}");
        }
    }

    #[test]
    fn a_file_past_the_cap_is_not_read() {
        let dir = TestDir::new("capped");
        let path = dir.path().join("f");
        fs::write(&path, [0; 11]).expect("write");
        assert_eq!(read_capped(&path, 11).expect("fits").len(), 11);
        let error = read_capped(&path, 10).expect_err("too long");
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }
}
