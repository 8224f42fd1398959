//! The record of how other nodes answered this machine's audits.
//!
//! One file in the home folder, a line of counts per node id. It is this machine's own experience
//! and nobody else's word: it convicts nobody, it only decides whom routes avoid. The rule is
//! [`Deeds::standing`]. Of a node that an audit convicted it says where the evidence is: the
//! receipt with the openings that convict, which [`receipts::prune`](crate::receipts::prune) leaves
//! where it is.
//!
//! The file is replaced as a whole; two programs that change it wait for each other. It holds at
//! most [`limits::RECORD_NODES`] nodes: the ones not met for longest are forgotten first, those
//! with a bad standing last. A file that is damaged is an error and is not overwritten.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::home::Home;
use crate::transport::{NodeId, parse_node_id};
use crate::{home, limits, store};

/// The version of the record's file format.
const VERSION: u32 = 0;

/// The counts of how one node answered this machine's audits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Deeds {
    /// Answers that were audited and in which it had a part.
    pub answers: u64,
    /// Answers that were verified.
    pub verified: u64,
    /// Those in which it was convicted.
    pub failed: u64,
    /// Those in which it withheld something.
    pub withheld: u64,
    /// Openings that the node was asked for.
    pub openings_asked: u64,
    /// Openings that the node gave.
    pub openings_answered: u64,
    /// Openings that it owed and did not give.
    pub openings_withheld: u64,
    /// When it was last met, in seconds since the Unix epoch.
    pub last_unix_s: u64,
}

/// The conviction of a node by an audit, and the evidence for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conviction {
    /// The fault that the audit found, in words.
    pub reason: String,
    /// The file of the receipt with the openings that convict; relative to the receipts folder.
    /// Empty if it could not be kept, or has a name that is no text.
    pub receipt: String,
    /// When it was convicted, in seconds since the Unix epoch.
    pub unix_s: u64,
}

impl Conviction {
    /// Creates the conviction for `reason` at the time `unix_s`, with the receipt at `path`, if it
    /// was kept.
    #[must_use]
    pub fn new(home: &Home, reason: &str, path: Option<&Path>, unix_s: u64) -> Self {
        let short: String = reason.chars().take(limits::CONVICTION_CHARS).collect();
        let inside = path.map(|path| path.strip_prefix(home.receipts()).unwrap_or(path));
        let receipt = inside.and_then(Path::to_str).unwrap_or("").to_owned();
        Self { reason: short, receipt, unix_s }
    }

    /// Returns the path of the receipt, if it was kept.
    #[must_use]
    pub fn evidence(&self, home: &Home) -> Option<PathBuf> {
        (!self.receipt.is_empty()).then(|| home.receipts().join(&self.receipt))
    }
}

/// Whether a route may lead over a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Routes may lead over the node.
    Good,
    /// The node has failed an audit: routes avoid it until it is forgotten.
    Failed,
    /// The node withholds openings too often: routes avoid it until it is forgotten.
    Withholds,
}

impl Deeds {
    /// Returns the standing that these deeds give a node: failed if an audit has ever convicted it,
    /// withholding if it withheld openings of at least [`limits::WITHHELD_ANSWERS`] answers and of
    /// at least a quarter of all, else good. Routes avoid it in both of the first two.
    #[must_use]
    pub const fn standing(&self) -> Standing {
        if self.failed > 0 {
            return Standing::Failed;
        }
        let often = self.withheld.saturating_mul(limits::WITHHELD_SHARE) >= self.answers;
        if self.withheld >= limits::WITHHELD_ANSWERS && often {
            return Standing::Withholds;
        }
        Standing::Good
    }

    /// Adds what was seen of the node in one more answer, or in several.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            answers: self.answers.saturating_add(other.answers),
            verified: self.verified.saturating_add(other.verified),
            failed: self.failed.saturating_add(other.failed),
            withheld: self.withheld.saturating_add(other.withheld),
            openings_asked: self.openings_asked.saturating_add(other.openings_asked),
            openings_answered: self.openings_answered.saturating_add(other.openings_answered),
            openings_withheld: self.openings_withheld.saturating_add(other.openings_withheld),
            last_unix_s: self.last_unix_s.max(other.last_unix_s),
        }
    }
}

/// Why the record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Another program holds the record's lock.
    #[error("{} is in use by another program", path.display())]
    Busy {
        /// The path of the record's file.
        path: PathBuf,
    },
    /// The file does not hold a record.
    #[error("{} is no record of nodes ({detail}); remove it to start anew", path.display())]
    Damaged {
        /// The path of the record's file.
        path: PathBuf,
        /// A description of what is wrong with it.
        detail: String,
    },
    /// The system refused to read or write the file.
    #[error("{}: {source}", path.display())]
    Io {
        /// The path of the record's file.
        path: PathBuf,
        /// The error that the system reported.
        source: io::Error,
    },
}

/// The record of how other nodes answered this machine's audits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    nodes: BTreeMap<NodeId, Deeds>,
    /// The first conviction of each node that was convicted.
    convictions: BTreeMap<NodeId, Conviction>,
}

/// The layout of the file, as serde reads and writes it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    nodes: BTreeMap<String, Deeds>,
    #[serde(default)]
    convictions: BTreeMap<String, Conviction>,
}

impl Record {
    /// Reads the record; one that isn't there remembers nobody.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn read(path: &Path) -> Result<Self, RecordError> {
        let text = match home::read_capped(path, limits::RECORD_BYTES) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(RecordError::Io { path: path.to_owned(), source }),
        };
        Self::parse(&text).map_err(|detail| RecordError::Damaged { path: path.to_owned(), detail })
    }

    fn parse(text: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(text).map_err(|_| "not UTF-8".to_owned())?;
        let file: File = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        if file.version != VERSION {
            return Err(format!("version {}, this program reads {VERSION}", file.version));
        }
        Ok(Self { nodes: by_node(file.nodes)?, convictions: by_node(file.convictions)? })
    }

    /// Changes the record in its file, alone: other programs wait.
    ///
    /// # Errors
    /// [`RecordError`]; then the file is as it was.
    pub fn change(path: &Path, change: impl FnOnce(&mut Self)) -> Result<Self, RecordError> {
        let io = |source| RecordError::Io { path: path.to_owned(), source };
        home::create_private_dir(home::folder_of(path)).map_err(io)?;
        let beside = path.with_extension("lock");
        let lock = store::lock::StoreLock::exclusive(&beside, limits::STORE_LOCK_DEADLINE);
        let Some(_lock) = lock.map_err(io)? else {
            return Err(RecordError::Busy { path: path.to_owned() });
        };
        let mut record = Self::read(path)?;
        change(&mut record);
        record.limit(limits::RECORD_NODES);
        let bytes = record.to_bytes().map_err(io)?;
        home::write_private(path, &bytes).map_err(io)?;
        Ok(record)
    }

    fn to_bytes(&self) -> io::Result<Vec<u8>> {
        let nodes = self.nodes.iter().map(|(node, deeds)| (node.to_string(), *deeds));
        let convictions = self.convictions.iter();
        let convictions = convictions.map(|(node, why)| (node.to_string(), why.clone()));
        let (nodes, convictions) = (nodes.collect(), convictions.collect());
        let file = File { version: VERSION, nodes, convictions };
        let text = toml::to_string(&file).map_err(io::Error::other)?;
        Ok(text.into_bytes())
    }

    /// Returns all nodes that are remembered.
    pub fn nodes(&self) -> impl Iterator<Item = (&NodeId, &Deeds)> {
        self.nodes.iter()
    }

    /// Returns the counts of a node; all are 0 if it is not known.
    #[must_use]
    pub fn deeds(&self, node: &NodeId) -> Deeds {
        self.nodes.get(node).copied().unwrap_or_default()
    }

    /// Adds the counts of one more answer to those of a node.
    pub fn add(&mut self, node: NodeId, deeds: Deeds) {
        let known = self.nodes.entry(node).or_default();
        *known = known.plus(deeds);
    }

    /// Keeps the evidence for the conviction of a node. Of several convictions the first is kept.
    pub fn convict(&mut self, node: NodeId, conviction: Conviction) {
        self.convictions.entry(node).or_insert(conviction);
    }

    /// Returns the conviction of a node, if its evidence is known.
    #[must_use]
    pub fn conviction(&self, node: &NodeId) -> Option<&Conviction> {
        self.convictions.get(node)
    }

    /// Returns the receipts that convict the nodes of this record.
    #[must_use]
    pub fn evidence(&self, home: &Home) -> BTreeSet<PathBuf> {
        self.convictions.values().filter_map(|one| one.evidence(home)).collect()
    }

    /// Forgets all that is known of a node, its conviction too. Returns whether it was known.
    pub fn forget(&mut self, node: &NodeId) -> bool {
        let was_convicted = self.convictions.remove(node).is_some();
        self.nodes.remove(node).is_some() || was_convicted
    }

    /// Forgets the nodes that were not met for longest, those of good standing first.
    fn limit(&mut self, most: usize) {
        let mut order: Vec<(bool, u64, NodeId)> = self
            .nodes
            .iter()
            .map(|(node, deeds)| (deeds.standing() != Standing::Good, deeds.last_unix_s, *node))
            .collect();
        order.sort_unstable();
        for (.., node) in order.into_iter().take(self.nodes.len().saturating_sub(most)) {
            self.nodes.remove(&node);
        }
        self.convictions.retain(|node, _| self.nodes.contains_key(node));
    }
}

/// Reads the node ids by which a table of the file is ordered.
fn by_node<T>(table: BTreeMap<String, T>) -> Result<BTreeMap<NodeId, T>, String> {
    let parse = |(id, value): (String, T)| {
        let node = parse_node_id(&id).map_err(|error| format!("{id:?}: {error}"))?;
        Ok((node, value))
    };
    table.into_iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testdir::TestDir;
    use crate::transport::Identity;

    fn node(seed: u8) -> NodeId {
        Identity::from_secret(&[seed; 32]).id()
    }

    fn answer() -> Deeds {
        Deeds { answers: 1, verified: 1, last_unix_s: 10, ..Deeds::default() }
    }

    fn withheld() -> Deeds {
        Deeds { answers: 1, withheld: 1, openings_withheld: 3, ..Deeds::default() }
    }

    #[test]
    fn a_conviction_is_enough_and_withholding_must_be_a_habit() {
        let of = |good: u64, bad: u64| {
            let good = (0..good).fold(Deeds::default(), |deeds, _| deeds.plus(answer()));
            (0..bad).fold(good, |deeds, _| deeds.plus(withheld())).standing()
        };
        assert_eq!(Deeds::default().standing(), Standing::Good);
        assert_eq!(of(0, 1), Standing::Good, "once may be a server that was restarted");
        assert_eq!(of(0, 2), Standing::Withholds);
        assert_eq!(of(6, 2), Standing::Withholds);
        assert_eq!(of(7, 2), Standing::Good);
        let failed = Deeds { failed: 1, answers: 1, ..Deeds::default() };
        assert_eq!(
            (0..99).fold(failed, |deeds, _| deeds.plus(answer())).standing(),
            Standing::Failed
        );
    }

    #[test]
    fn what_was_seen_is_there_in_the_next_run_until_it_is_forgotten() {
        let dir = TestDir::new("record");
        let path = dir.path().join("nodes.toml");
        assert_eq!(Record::read(&path).expect("nobody"), Record::default());
        Record::change(&path, |record| record.add(node(1), withheld())).expect("written");
        Record::change(&path, |record| record.add(node(1), withheld())).expect("written");
        let record = Record::read(&path).expect("read");
        assert_eq!(record.deeds(&node(1)), withheld().plus(withheld()));
        assert_eq!(record.deeds(&node(2)), Deeds::default());
        Record::change(&path, |record| assert!(record.forget(&node(1)))).expect("written");
        assert_eq!(Record::read(&path).expect("read"), Record::default());
    }

    #[test]
    fn the_evidence_of_a_conviction_is_kept_with_it_and_forgotten_with_it() {
        let dir = TestDir::new("record-evidence");
        let home = Home::at(dir.path());
        let (inside, elsewhere) = (home.receipts().join("00aa.receipt"), dir.path().join("mine"));
        let failed = Deeds { answers: 1, failed: 1, ..Deeds::default() };
        let why = |path: Option<&Path>| Conviction::new(&home, "wrong product", path, 7);
        Record::change(&home.nodes(), |record| {
            for (seed, path) in [(1, Some(&*inside)), (2, Some(&*elsewhere)), (3, None)] {
                record.add(node(seed), failed);
                record.convict(node(seed), why(path));
            }
            // A later one does not take the place of the first.
            record.convict(node(1), why(Some(&elsewhere)));
        })
        .expect("written");
        let read = Record::read(&home.nodes()).expect("read");
        let of = |seed| read.conviction(&node(seed)).expect("convicted");
        assert_eq!(
            (of(1).receipt.as_str(), of(1).evidence(&home)),
            ("00aa.receipt", Some(inside.clone()))
        );
        assert_eq!((of(2).evidence(&home), of(3).evidence(&home)), (Some(elsewhere.clone()), None));
        assert_eq!(read.evidence(&home), BTreeSet::from([inside, elsewhere]));
        Record::change(&home.nodes(), |record| assert!(record.forget(&node(1)))).expect("written");
        assert_eq!(Record::read(&home.nodes()).expect("read").conviction(&node(1)), None);
    }

    #[test]
    fn a_damaged_record_is_named_and_kept() {
        let dir = TestDir::new("record-damaged");
        let path = dir.path().join("nodes.toml");
        for text in ["version", "version = 1\n[nodes]\n", "version = 0\n[nodes.ab]\nanswers = 1\n"]
        {
            std::fs::write(&path, text).expect("written");
            let error = Record::read(&path).expect_err(text);
            assert!(matches!(error, RecordError::Damaged { .. }), "{error}");
            Record::change(&path, |_| ()).expect_err("not overwritten");
            assert_eq!(std::fs::read_to_string(&path).expect("kept"), text);
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_that_cannot_be_written_is_an_error_and_no_crash() {
        let dir = TestDir::new("record-read-only");
        let file = dir.path().join("file");
        std::fs::write(&file, "in the way").expect("written");
        let path = file.join("nodes.toml");
        let error = Record::change(&path, |_| ()).expect_err("no folder");
        assert!(matches!(error, RecordError::Io { .. }), "{error}");
    }

    #[test]
    fn the_number_of_nodes_is_bounded_and_bad_ones_are_forgotten_last() {
        let mut record = Record::default();
        for seed in 0..10 {
            let last_unix_s = seed.into();
            record.add(node(seed), Deeds { last_unix_s, ..answer() });
        }
        record.add(node(0), Deeds { failed: 1, ..Deeds::default() });
        record.limit(3);
        let mut left: Vec<NodeId> = record.nodes().map(|(node, _)| *node).collect();
        left.sort_unstable_by_key(|node| record.deeds(node).last_unix_s);
        assert_eq!(left[1..], [node(8), node(9)]);
        assert_eq!(record.deeds(&node(0)).standing(), Standing::Failed);
    }
}
