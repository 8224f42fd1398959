//! Nothing of a secret stays in memory once it is dropped, and none is printed.
//!
//! The test looks through its own memory, as the system shows it. Only the stack of the thread that
//! had the secrets is not looked at: what is computed leaves traces there.

#![cfg(target_os = "linux")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use lockstep_kernels::{Isa, Kernels};
use lockstep_node::home::{self, ReadSecretError};
use lockstep_node::transport::Identity;
use lockstep_proto::server::RunValues;
use lockstep_testing::tiny_model::TinyModel;
use lockstep_verify::key::Key;
use lockstep_verify::request::AuditSeed;
use lockstep_verify::secret::Secret;
use lockstep_verify::sign::Keypair;

/// Bytes that are looked for; kept inverted, so that it is not found itself.
struct Trace {
    what: &'static str,
    inverted: Vec<u8>,
}

impl Trace {
    fn of(what: &'static str, bytes: &[u8]) -> Self {
        Self { what, inverted: bytes.iter().map(|byte| !byte).collect() }
    }

    fn is_at(&self, bytes: &[u8]) -> bool {
        let both = self.inverted.iter().zip(bytes);
        bytes.len() >= self.inverted.len()
            && both.into_iter().all(|(inverted, byte)| *inverted == !*byte)
    }
}

/// The second half of 32 secret bytes, which no other test input has: an allocator may write over
/// the first half of what is freed.
fn tail(what: &'static str, secret: &[u8; 32]) -> Trace {
    Trace::of(what, &secret[16..])
}

/// Secrets that nobody else has.
fn fresh() -> Secret {
    Secret::draw(getrandom::fill).expect("randomness")
}

/// What is found anywhere in this process's memory but on the stack of this thread.
fn found(traces: &[Trace]) -> Vec<&'static str> {
    let here = 0_u8;
    let stack = std::ptr::from_ref(&here).addr() as u64;
    let maps = fs::read_to_string("/proc/self/maps").expect("the system's map");
    let memory = File::open("/proc/self/mem").expect("own memory");
    let mut begins = [false; 256];
    traces.iter().for_each(|trace| begins[usize::from(!trace.inverted[0])] = true);
    let mut seen = Vec::new();
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let (range, rights) = (fields.next().expect("range"), fields.next().expect("rights"));
        let name = fields.nth(3).unwrap_or_default();
        let (from, to) = range.split_once('-').expect("a range");
        let address = |text| u64::from_str_radix(text, 16).expect("an address");
        let (from, to) = (address(from), address(to));
        let is_looked_at = rights.starts_with("rw") && (name.is_empty() || name == "[heap]");
        if !is_looked_at || (from..to).contains(&stack) {
            continue;
        }
        let mut page = vec![0; 64 << 10];
        let mut at = from;
        // Parts overlap, so that nothing hides at a border.
        while at < to {
            let len = page.len().min((to - at) as usize);
            // What the system does not give has nobody.
            if memory.read_exact_at(&mut page[..len], at).is_ok() {
                let page = &page[..len];
                let starts =
                    page.iter().enumerate().filter(|(_, byte)| begins[usize::from(**byte)]);
                for (start, _) in starts {
                    let hits = traces.iter().filter(|trace| trace.is_at(&page[start..]));
                    seen.extend(hits.map(|trace| trace.what));
                }
            }
            page.fill(0);
            at += (len as u64).saturating_sub(256).max(4096.min(len as u64));
        }
    }
    seen.sort_unstable();
    seen.dedup();
    seen
}

/// Where a test's files are, and that they go.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

fn folder(name: &str) -> Folder {
    let name = format!("lockstep-secrets-{name}-{}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    fs::create_dir_all(&folder).expect("a folder");
    Folder(folder)
}

/// The words of a verifier's key file that another key for the same model does not have: the
/// secret, and what is derived from it. The checksum at the end is public.
fn secret_parts(file: &[u8], other: &[u8]) -> Vec<Trace> {
    let body = file.len() - 32;
    let mut traces = Vec::new();
    let mut at = 0;
    while at + 16 <= body {
        let (own, others) = (&file[at..at + 16], &other[at..at + 16]);
        if own.iter().zip(others).filter(|(own, other)| own != other).count() > 12 {
            traces.push(Trace::of("a part of a verifier's key", own));
            at += file.len() / 12;
        }
        at += 16;
    }
    assert!(traces.len() > 4, "{} secret parts", traces.len());
    traces
}

#[test]
fn nothing_of_a_secret_is_left_in_memory() {
    let folder = folder("memory");
    let isa = Isa::detect().expect("a processor");
    let (ops, model) = (Kernels::new(isa, 1).expect("threads"), TinyModel::new(3));
    let key = |secret| {
        Key::generate(&ops, model.manifest.clone(), secret, |b| model.blob(b), |_| ()).expect("key")
    };
    let mut traces = Vec::new();

    // A node's identity: made, written, read, used.
    let path = folder.0.join("node.key");
    let made = Identity::load_or_create(&path).expect("made");
    let text = home::read_secret(&path, 256).expect("read");
    traces.push(Trace::of("a node's key in hexadecimal digits", &text[32..64]));
    let digit = |byte: u8| (byte as char).to_digit(16).expect("a digit") as u8;
    let digits = text[32..64].chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1]));
    let inverted = digits.map(|byte| !byte).collect();
    traces.push(Trace { what: "a node's key", inverted });
    let again = Identity::load_or_create(&path).expect("read");
    assert_eq!(made.keypair().id(), again.keypair().id());
    let moved = vec![made.clone(), again];

    // The secrets of a client and of a server that starts.
    let (session, seed, runs) = (fresh(), fresh(), fresh());
    traces.push(tail("a session's key", session.expose()));
    traces.push(tail("an audit seed", seed.expose()));
    traces.push(tail("the secret of run values", runs.expose()));
    let pair = Keypair::from_secret(session.expose());
    let pairs = vec![pair.clone(), pair];
    let seed = AuditSeed::new(seed);
    let seeds = vec![seed.clone(), seed];
    let runs = RunValues::new(runs);

    // A verifier's key: made, written, read back.
    let secret = fresh();
    traces.push(tail("a verifier's secret", secret.expose()));
    let (first, other) = (key(secret), key(fresh()));
    let file = first.to_file();
    traces.extend(secret_parts(&file, &other.to_file()));
    let path = folder.0.join("model.key");
    home::write_private(&path, &file).expect("written");
    let bytes = home::read_secret(&path, file.len() as u64).expect("read");
    let read = Key::from_file(&bytes).expect("a key");
    assert!(Key::from_file(&bytes[..bytes.len() - 1]).is_err());

    let there = found(&traces).len();
    assert_eq!(there, 7, "of 7 kinds, and all are seen while they are there");
    drop((made, moved, text, session, pairs, seeds, runs, first, other, file, bytes, read, ops));
    assert_eq!(found(&traces), [""; 0]);
}

#[test]
fn no_secret_is_printed() {
    let secret = [0xd7; 32];
    let model = TinyModel::new(3);
    let ops = lockstep_exact::reference::Reference;
    let key =
        Key::generate(&ops, model.manifest.clone(), Secret::of(&secret), |b| model.blob(b), |_| ());
    let key = key.expect("key");
    let identity = Identity::from_secret(&secret);
    let shown = format!(
        "{:?} {:#?} {:?} {:?} {:?} {:?} {:?} {:?}",
        Secret::of(&secret),
        AuditSeed::new(Secret::of(&secret)),
        RunValues::new(Secret::of(&secret)),
        Keypair::from_secret(&secret),
        identity,
        key,
        key.layer(0),
        key.head().output,
    );
    for digits in ["d7d7", "D7D7", "215, 215", "0xd7"] {
        assert!(!shown.contains(digits), "{shown}");
    }
    assert!(shown.contains(&identity.id().short()), "{shown}");
    // The vectors of a layer's products, which are derived from it.
    let file = key.to_file();
    let words = file.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word).to_string());
    let long = words.filter(|word| word.len() > 15);
    assert_eq!(long.filter(|word| shown.contains(word)).count(), 0);
}

#[test]
fn a_secret_that_others_have_a_right_to_is_not_read() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = folder("modes");
    let path = folder.0.join("others.key");
    home::write_private(&path, &[7; 40]).expect("written");
    assert_eq!(home::read_secret(&path, 40).expect("private").len(), 40);
    let error = home::read_secret(&path, 39).expect_err("too long");
    assert!(matches!(error, ReadSecretError::Io(_)), "{error}");
    for mode in [0o604, 0o640, 0o620, 0o602, 0o666, 0o601, 0o610] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
        let error = home::read_secret(&path, 40).expect_err("exposed");
        assert!(matches!(error, ReadSecretError::Exposed), "{mode:o}: {error}");
    }
}
