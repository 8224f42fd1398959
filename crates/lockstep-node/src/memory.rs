//! The memory that there is, and how much of it serving and importing a model take.
//!
//! Asked before the work, so that a machine that is too small says so in a sentence and neither
//! swaps nor is killed in the middle. Weights are mapped files: they are counted whole, because a
//! server that can't keep them in memory reads them from disk for every token.

use std::fmt;
use std::fs;
use std::ops::Range;

use lockstep_exact::kv::{KvShape, PAGE};
use lockstep_exact::manifest::Manifest;
use lockstep_exact::state::row_bytes;
use lockstep_proto::swarm::place::Sizes;

use crate::cgroup;
use crate::limits;
use crate::store;

/// Returns the number of bytes that this program can still get: what the machine has, and no more
/// than the control groups leave that a container or service is in; `None` where the system can't
/// be asked.
pub fn available() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| parse_meminfo(&text));
    machine.into_iter().chain(cgroup::memory_left()).min()
}

/// Returns the number of bytes of memory that this process has resident, mapped weights among them;
/// `None` where the system can't be asked.
pub fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    kib_after("VmRSS:", &status)
}

fn parse_meminfo(text: &str) -> Option<u64> {
    kib_after("MemAvailable:", text)
}

/// Returns the bytes of the line that begins with `name` and states KiB.
fn kib_after(name: &str, text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The memory that this process may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLimit {
    /// The number of bytes that the process may take.
    pub bytes: u64,
    /// The limit that this number comes from.
    pub bound: Bound,
}

/// The limit of the memory that a process may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// The machine and its control groups have no more available.
    Available,
    /// The setting `memory_mib` allows no more.
    Setting,
}

impl MemoryLimit {
    /// Returns the bytes of this that a server takes: of what is available it leaves a part to
    /// others.
    #[must_use]
    pub const fn for_serving(self) -> u64 {
        match self.bound {
            Bound::Available => self.bytes - self.bytes / limits::MEMORY_LEFT_SHARE,
            Bound::Setting => self.bytes,
        }
    }

    /// Returns the memory that is available now, or the bytes of the setting if they are fewer;
    /// `None` if neither is known.
    pub fn now(setting: Option<u64>) -> Option<Self> {
        Self::of(available(), setting)
    }

    fn of(available: Option<u64>, setting: Option<u64>) -> Option<Self> {
        let available = available.map(|bytes| Self { bytes, bound: Bound::Available });
        let setting = setting.map(|bytes| Self { bytes, bound: Bound::Setting });
        available.into_iter().chain(setting).min_by_key(|room| room.bytes)
    }
}

/// The error that there is not enough memory for some work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct OutOfMemory {
    /// The work that was refused, for people.
    pub what: String,
    /// The number of bytes that it would take.
    pub needed: u64,
    /// The memory that the process may take.
    pub room: MemoryLimit,
    /// A suggestion of what would take less memory.
    pub instead: &'static str,
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, needed, room, instead } = self;
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        let (needed, there) = (mib(*needed), room.bytes >> 20);
        write!(f, "not enough memory for {what}: {needed} MiB are needed, but ")?;
        match room.bound {
            Bound::Available => write!(f, "only {there} MiB are available; close other programs")?,
            Bound::Setting => write!(f, "memory_mib allows only {there} MiB; raise it")?,
        }
        write!(f, ", or {instead}")
    }
}

/// Checks whether an import of `what` that takes `needed` bytes of memory fits into `room`.
///
/// # Errors
/// [`OutOfMemory`].
pub fn check_import(what: &str, needed: u64, room: Option<MemoryLimit>) -> Result<(), OutOfMemory> {
    let instead = "import it on a larger machine and copy the home folder";
    check(&format!("importing {what}"), needed, room, instead)
}

/// Checks before a download of `bytes` bytes whether an import of the files could fit into memory:
/// the exact figure is known only when the files are here.
///
/// # Errors
/// [`OutOfMemory`].
pub fn check_download(
    what: &str,
    bytes: u64,
    room: Option<MemoryLimit>,
) -> Result<(), OutOfMemory> {
    check_import(what, bytes / limits::IMPORT_LEAST_SHARE, room)
}

/// Checks whether all of a model and one session of `positions` positions fit into this process.
///
/// # Errors
/// [`OutOfMemory`].
pub fn check_local(
    what: &str,
    manifest: &Manifest,
    positions: usize,
    room: Option<MemoryLimit>,
) -> Result<(), OutOfMemory> {
    let layers = manifest.layers.len() as u64;
    let serving = Serving::of(manifest, &(0..manifest.layers.len() as u32));
    let pages = (positions as u64).div_ceil(PAGE as u64).saturating_mul(layers);
    let needed = serving.weights.saturating_add(pages.saturating_mul(serving.page));
    let instead =
        "take a smaller model, --weights w4, or servers that hold some of its layers each";
    check(&format!("running {what}"), needed, room, instead)
}

fn check(
    what: &str,
    needed: u64,
    room: Option<MemoryLimit>,
    instead: &'static str,
) -> Result<(), OutOfMemory> {
    match room.filter(|room| needed > room.bytes) {
        Some(room) => Err(OutOfMemory { what: what.to_owned(), needed, room, instead }),
        None => Ok(()),
    }
}

/// The memory that a server of one span takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serving {
    /// Bytes of the blobs that it maps: the span's, and the head's if the span starts at layer 0.
    pub weights: u64,
    /// Most bytes of one page: the keys and values of 256 positions of one layer, and that layer's
    /// share of what is kept of those positions for audits.
    pub page: u64,
    /// Pages of one session of [`limits::SERVE_LEAST_POSITIONS`], or of the whole context if that
    /// is shorter.
    pub least_pages: u64,
    /// Bytes that computing the columns of a layer of that session again takes, for challenges.
    pub least_rebuild: u64,
}

/// The division of a server's room for sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// Pages of sessions under way: at least those of one session.
    pub pages: u32,
    /// Bytes of what is kept of sessions for audits.
    pub kept_bytes: u64,
    /// Bytes in which columns are computed again for audits.
    pub rebuild_bytes: u64,
}

/// Returns the sizes of a model that decide how much of it a machine can hold, if there is to be
/// room for `room` positions of all sessions together in each of its layers;
/// [`limits::SERVE_LEAST_POSITIONS`] if none is given, or fewer.
#[must_use]
pub fn sizes(manifest: &Manifest, room: Option<u32>) -> Sizes {
    let layers = manifest.layer_count();
    let of = |layer: u32| Serving::of(manifest, &(layer..layer.saturating_add(1)));
    let others = (1..layers).map(of);
    let layer_bytes = others.clone().map(|one| one.weights).max().unwrap_or(0);
    let pages = room.map_or(0, u64::from).div_ceil(PAGE as u64);
    let room = |one: Serving| one.least_pages.max(pages).saturating_mul(one.page);
    Sizes {
        manifest: manifest.id(),
        layers,
        layer_bytes,
        kv_bytes: others.map(room).max().unwrap_or(0),
        // With the head comes layer 0, which is as large as another.
        head_bytes: of(0).weights.saturating_sub(layer_bytes),
        state_bytes: row_bytes(manifest.hidden as usize) as u64,
    }
}

impl Serving {
    /// Computes the memory that a server of `span` of this model takes.
    pub fn of(manifest: &Manifest, span: &Range<u32>) -> Self {
        let blobs = store::span_blobs(manifest, span.clone());
        let len = |blob: u32| manifest.blobs.get(blob as usize).map_or(0, |blob| blob.len);
        let layers = manifest.layers.get(span.start as usize..span.end as usize);
        let layers = layers.unwrap_or_default();
        let row = |shape: KvShape| shape.row_bytes() as u64;
        let shapes = layers.iter().map(|layer| KvShape {
            kv_heads: layer.attention.kv_heads as usize,
            head_dim: layer.attention.head_dim as usize,
        });
        let state = row_bytes(manifest.hidden as usize);
        let kept = state.div_ceil(layers.len().max(1)) as u64;
        let largest = shapes.map(row).max().unwrap_or(0);
        let positions = u64::from(manifest.context).min(limits::SERVE_LEAST_POSITIONS);
        Self {
            weights: blobs.into_iter().map(len).fold(0, u64::saturating_add),
            page: (largest + kept) * PAGE as u64,
            least_pages: positions.div_ceil(PAGE as u64) * layers.len() as u64,
            least_rebuild: rebuild_row_bytes(state as u64, largest).saturating_mul(positions),
        }
    }

    /// Returns how many pages fit beside the weights; as many as anyone can count if the room is
    /// unknown.
    ///
    /// # Errors
    /// [`OutOfMemory`] if not even one session fits.
    pub fn pages(&self, what: &str, room: Option<MemoryLimit>) -> Result<u32, OutOfMemory> {
        let Some(mut room) = room else { return Ok(u32::MAX) };
        room.bytes = room.for_serving();
        let needed = self.weights.saturating_add(self.least_pages.saturating_mul(self.page));
        let instead = "serve fewer layers with --layers";
        check(&format!("serving {what}"), needed, Some(room), instead)?;
        let pages = (room.bytes - self.weights) / self.page.max(1);
        Ok(u32::try_from(pages).unwrap_or(u32::MAX))
    }

    /// Divides the room of `pages` pages between sessions that are kept for audits, columns that
    /// are computed again for them, and sessions under way.
    #[must_use]
    pub fn shares(&self, pages: u32) -> Shares {
        let all = u64::from(pages).saturating_mul(self.page);
        let kept_bytes = (all / limits::KEPT_SHARE).min(lockstep_proto::limits::KEPT_BYTES);
        let rebuild_bytes = (all / limits::REBUILD_SHARE).max(self.least_rebuild);
        let rebuild_bytes = rebuild_bytes.min(limits::REBUILD_BYTES);
        let left = all.saturating_sub(kept_bytes).saturating_sub(rebuild_bytes);
        let left = left.checked_div(self.page).unwrap_or(0);
        let left = left.max(self.least_pages).min(pages.into());
        Shares { pages: u32::try_from(left).unwrap_or(u32::MAX), kept_bytes, rebuild_bytes }
    }
}

/// Returns the bytes that computing the columns of one layer again takes for each position: the
/// states before and after the layer, and its keys and values, both as they are committed and as
/// attention reads them.
#[must_use]
pub const fn rebuild_row_bytes(state_row: u64, kv_row: u64) -> u64 {
    state_row.saturating_add(kv_row).saturating_mul(2)
}

#[cfg(test)]
mod tests {
    use lockstep_testing::tiny_model::TinyModel;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn available_memory_is_read_from_its_line() {
        let text = "MemTotal:       24000000 kB\nMemAvailable:   12000000 kB\n";
        assert_eq!(parse_meminfo(text), Some(12_000_000 * 1024));
        assert_eq!(parse_meminfo("MemTotal: 1 kB"), None);
    }

    #[test]
    fn more_room_for_sessions_takes_more_memory_in_each_layer_and_less_is_not_taken() {
        let manifest = TinyModel::new(1).manifest;
        let usual = sizes(&manifest, None);
        let least = u64::from(manifest.context).min(limits::SERVE_LEAST_POSITIONS);
        let least = u32::try_from(least.next_multiple_of(PAGE as u64)).unwrap();
        assert_eq!(sizes(&manifest, Some(1)), usual);
        let four = sizes(&manifest, Some(4 * least));
        assert_eq!(four.kv_bytes, 4 * usual.kv_bytes);
        assert_eq!(Sizes { kv_bytes: usual.kv_bytes, ..four }, usual);
    }

    #[test]
    fn the_smaller_of_what_there_is_and_what_is_allowed_bounds() {
        let available = MemoryLimit { bytes: 5, bound: Bound::Available };
        let setting = MemoryLimit { bytes: 3, bound: Bound::Setting };
        assert_eq!(MemoryLimit::of(Some(5), Some(3)), Some(setting));
        assert_eq!(MemoryLimit::of(Some(5), Some(7)), Some(available));
        assert_eq!(MemoryLimit::of(Some(5), None), Some(available));
        assert_eq!(MemoryLimit::of(None, Some(3)), Some(setting));
        assert_eq!(MemoryLimit::of(None, None), None);
    }

    #[test]
    fn an_import_that_does_not_fit_says_needed_available_and_what_to_do() {
        let room = |bound| Some(MemoryLimit { bytes: 100 * MIB, bound });
        assert_eq!(check_import("m", 100 * MIB, room(Bound::Available)), Ok(()));
        assert_eq!(check_import("m", u64::MAX, None), Ok(()));
        let error = check_import("m", 100 * MIB + 1, room(Bound::Available)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "not enough memory for importing m: 101 MiB are needed, but only 100 MiB are \
             available; close other programs, or import it on a larger machine and copy the home \
             folder"
        );
        let error = check_import("m", 101 * MIB, room(Bound::Setting)).unwrap_err().to_string();
        assert!(error.contains("memory_mib allows only 100 MiB; raise it"), "{error}");
        assert!(check_download("m", 100 * MIB, room(Bound::Setting)).is_ok());
        // The files of a model of 70 billion weights in BF16; a layer of it has 0.9 GB.
        let large = Some(MemoryLimit { bytes: 2048 * MIB, bound: Bound::Available });
        assert!(check_download("m", 141_000_000_000, large).is_ok());
        let hopeless = 101 * MIB * limits::IMPORT_LEAST_SHARE;
        assert!(check_download("m", hopeless, room(Bound::Setting)).is_err());
    }

    #[test]
    fn a_model_in_one_process_takes_all_blobs_and_the_pages_of_its_session() {
        let manifest = TinyModel::new(1).manifest;
        let all: u64 = manifest.blobs.iter().map(|blob| blob.len).sum();
        let page = Serving::of(&manifest, &(0..manifest.layers.len() as u32)).page;
        let needed = all + 2 * page * manifest.layers.len() as u64;
        let room = |bytes| Some(MemoryLimit { bytes, bound: Bound::Setting });
        assert_eq!(check_local("m", &manifest, 257, room(needed)), Ok(()));
        let error = check_local("m", &manifest, 257, room(needed - 1)).unwrap_err();
        assert_eq!(error.needed, needed);
        assert!(error.to_string().contains("memory_mib allows only"), "{error}");
    }

    #[test]
    fn a_span_takes_its_blobs_and_its_pages() {
        let manifest = TinyModel::new(1).manifest;
        let layers = manifest.layers.len() as u32;
        let (first, rest) = (Serving::of(&manifest, &(0..1)), Serving::of(&manifest, &(1..layers)));
        let all: u64 = manifest.blobs.iter().map(|blob| blob.len).sum();
        assert_eq!(first.weights + rest.weights, all);
        assert!(rest.page < first.page, "a layer's share of what is kept is smaller");
        let sessions = u64::from(manifest.context).min(limits::SERVE_LEAST_POSITIONS);
        assert_eq!(first.least_pages, sessions.div_ceil(256));
        assert_eq!(rest.least_pages, first.least_pages * u64::from(layers - 1));
    }

    #[test]
    fn pages_fill_what_weights_leave_and_a_span_without_a_session_is_refused() {
        let serving = Serving { weights: 1000, page: 10, least_pages: 4, least_rebuild: 30 };
        let pages = |bytes, bound| serving.pages("m", Some(MemoryLimit { bytes, bound }));
        assert_eq!(pages(1040, Bound::Setting), Ok(4));
        assert_eq!(pages(1049, Bound::Setting), Ok(4));
        assert_eq!(pages(2000, Bound::Setting), Ok(100));
        assert_eq!(pages(2000, Bound::Available), Ok(75), "an eighth is left to others");
        assert_eq!(serving.pages("m", None), Ok(u32::MAX));
        let shares = |pages, kept_bytes, rebuild_bytes| Shares { pages, kept_bytes, rebuild_bytes };
        // An eighth is for what is kept, a quarter for what is computed again.
        assert_eq!(serving.shares(80), shares(50, 100, 200));
        assert_eq!(serving.shares(4), shares(4, 5, 30), "but one session has what it takes");
        let all = serving.shares(u32::MAX);
        assert_eq!(all.kept_bytes, lockstep_proto::limits::KEPT_BYTES);
        assert_eq!(all.rebuild_bytes, limits::REBUILD_BYTES);
        let error = pages(1039, Bound::Setting).unwrap_err();
        assert_eq!((error.needed, error.room.bytes), (1040, 1039));
        assert!(error.to_string().contains("serve fewer layers with --layers"), "{error}");
    }
}
