//! What computes a server's layers: the processor, or an NVIDIA GPU.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use anyhow::{Context as _, Result};
use lockstep_cuda::{Cuda, DeviceInfo, Driver, Error, Needs};
use lockstep_exact::manifest::Manifest;
use lockstep_node::doctor::{Check, Status};
use lockstep_node::limits::SERVE_LEAST_POSITIONS;
use lockstep_node::memory::Serving;

/// The share of the device memory beside the weights in which columns are computed again for
/// audits: one part of so many.
const REBUILD_SHARE: u64 = 8;

/// The device that a server is asked to compute on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The first GPU that can, else the processor.
    Auto,
    /// The processor of this machine.
    Cpu,
    /// The GPU with this number.
    Cuda(usize),
}

/// A text that names no device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NoDevice;

impl fmt::Display for NoDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected cpu, auto, or a GPU such as cuda:0")
    }
}

impl std::error::Error for NoDevice {}

impl FromStr for Wanted {
    type Err = NoDevice;

    fn from_str(text: &str) -> Result<Self, NoDevice> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            _ => {
                let number = text.strip_prefix("cuda:").ok_or(NoDevice)?;
                // `parse` would take a sign.
                let digits = number.bytes().all(|byte| byte.is_ascii_digit());
                number.parse().ok().filter(|_| digits).map(Self::Cuda).ok_or(NoDevice)
            }
        }
    }
}

/// The device that computes a server's layers.
pub(crate) enum Device {
    /// The processor of this machine.
    Cpu,
    /// An open GPU with its kernels.
    Cuda(Box<Cuda>),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(cuda) => write!(f, "cuda:{} ({})", cuda.info().ordinal, cuda.info().name),
        }
    }
}

impl Device {
    /// Opens the device that is wanted. Where `Auto` finds no GPU of use, it is the processor.
    ///
    /// # Errors
    /// The GPU that is wanted is not there, or can't be used.
    pub(crate) fn open(wanted: Wanted) -> Result<Self> {
        let open = |driver: &Driver, ordinal| Cuda::open(driver, ordinal).map(Box::new);
        match wanted {
            Wanted::Cpu => Ok(Self::Cpu),
            Wanted::Cuda(ordinal) => {
                let opened = Driver::load().and_then(|driver| open(&driver, ordinal));
                let hint = || format!("cuda:{ordinal} can't be used; --device cpu needs no GPU");
                Ok(Self::Cuda(opened.with_context(hint)?))
            }
            Wanted::Auto => {
                let Ok(driver) = Driver::load() else { return Ok(Self::Cpu) };
                let devices = driver.devices()?;
                let found = devices.iter().find_map(|info| open(&driver, info.ordinal).ok());
                Ok(found.map_or(Self::Cpu, Self::Cuda))
            }
        }
    }

    /// Returns the host memory that serving takes, of what it takes on a processor: a GPU keeps
    /// weights in its own, but for the embedding.
    pub(crate) fn on_host(&self, serving: Serving, manifest: &Manifest, first: u32) -> Serving {
        match self {
            Self::Cpu => serving,
            Self::Cuda(_) => {
                let blob = manifest.blobs.get(manifest.head.embedding_blob as usize);
                let embedding = blob.filter(|_| first == 0).map_or(0, |blob| blob.len);
                Serving { weights: embedding.min(serving.weights), ..serving }
            }
        }
    }

    /// Returns how many pages of keys and values the device has room for beside the weights of
    /// `span`; as many as anyone can count on a processor, whose memory is the host's.
    ///
    /// # Errors
    /// [`GpuMemory`] if not even one session of `least_pages` fits.
    pub(crate) fn pages(
        &self,
        what: &str,
        manifest: &Manifest,
        span: &Range<u32>,
        rows: u32,
        least_pages: u64,
    ) -> Result<u32> {
        let Self::Cuda(cuda) = self else { return Ok(u32::MAX) };
        let positions = SERVE_LEAST_POSITIONS.min(manifest.context.into());
        let needs = Needs::of(manifest, span, rows.into(), positions);
        let (free, _) = cuda.memory()?;
        Ok(pages(what, &needs, least_pages, free, cuda.info())?)
    }
}

/// The error that a GPU has not enough memory for a span.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct GpuMemory {
    what: String,
    needed: u64,
    free: u64,
    ordinal: usize,
    name: String,
}

impl fmt::Display for GpuMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, needed, free, ordinal, name } = self;
        let (needed, free) = (needed.div_ceil(1 << 20), free >> 20);
        write!(f, "not enough GPU memory for serving {what}: {needed} MiB are needed, but only ")?;
        write!(f, "{free} MiB of cuda:{ordinal} ({name}) are free; serve fewer layers with ")?;
        f.write_str("--layers, or use --device cpu")
    }
}

impl std::error::Error for GpuMemory {}

/// Returns how many pages fit into `free` bytes, for sessions under way.
fn pages(
    what: &str,
    needs: &Needs,
    least_pages: u64,
    free: u64,
    info: &DeviceInfo,
) -> Result<u32, GpuMemory> {
    let all = needs.pages(free);
    let left = all - all / REBUILD_SHARE;
    if left < least_pages {
        let least = least_pages.saturating_mul(REBUILD_SHARE).div_ceil(REBUILD_SHARE - 1);
        let needed = needs.weights + needs.scratch + least.saturating_mul(needs.page);
        let (what, name) = (what.to_owned(), info.name.clone());
        return Err(GpuMemory { what, needed, free, ordinal: info.ordinal, name });
    }
    Ok(u32::try_from(left).unwrap_or(u32::MAX))
}

/// Checks which GPUs there are.
pub(crate) fn check() -> Check {
    let found = Driver::load().and_then(|driver| Ok((driver.version(), driver.devices()?)));
    match found {
        Ok((cuda, devices)) if !devices.is_empty() => of_devices(&cuda, &devices),
        Ok(_) => of(Status::Ok, "none: the CUDA driver shows no device".to_owned(), None),
        Err(error @ Error::NoDriver { .. }) => {
            of(Status::Ok, format!("none that is used: {error}"), None)
        }
        Err(error) => of(Status::Warn, error.to_string(), Some(CPU)),
    }
}

/// The next step where a GPU can't be used.
const CPU: &str = "everything works on the processor; a newer driver or GPU would be used";

fn of_devices(cuda: &impl fmt::Display, devices: &[DeviceInfo]) -> Check {
    let line = |info: &DeviceInfo| {
        let DeviceInfo { ordinal, name, capability, memory, .. } = info;
        let why_not = info.check().err().map_or_else(String::new, |error| format!(" ({error})"));
        format!("cuda:{ordinal} {name}, {} MiB, capability {capability}{why_not}", memory >> 20)
    };
    let list: Vec<String> = devices.iter().map(line).collect();
    let detail = format!("{}; driver for CUDA {cuda}", list.join("; "));
    match devices.iter().any(|info| info.check().is_ok()) {
        true => of(Status::Ok, format!("{detail}; `serve --device cuda:N` uses one"), None),
        false => of(Status::Warn, detail, Some(CPU)),
    }
}

fn of(status: Status, detail: String, next: Option<&str>) -> Check {
    Check { name: "GPU", status, detail, next: next.map(str::to_owned) }
}

#[cfg(test)]
mod tests {
    use lockstep_cuda::{Capability, Version};

    use super::*;

    #[test]
    fn a_device_is_named_by_its_kind_and_number() {
        assert_eq!("cpu".parse(), Ok(Wanted::Cpu));
        assert_eq!("auto".parse(), Ok(Wanted::Auto));
        assert_eq!("cuda:0".parse(), Ok(Wanted::Cuda(0)));
        assert_eq!("cuda:12".parse(), Ok(Wanted::Cuda(12)));
        for wrong in ["", "gpu", "cuda", "cuda:", "cuda:+1", "cuda:-1", "cuda: 1", "CPU", "cuda:1x"]
        {
            assert_eq!(wrong.parse::<Wanted>(), Err(NoDevice), "{wrong}");
        }
        assert!(format!("cuda:{}0", u64::MAX).parse::<Wanted>().is_err());
    }

    fn info(major: u32) -> DeviceInfo {
        DeviceInfo {
            ordinal: 1,
            name: "NVIDIA Test".to_owned(),
            capability: Capability { major, minor: 0 },
            memory: 8 << 30,
            processors: 20,
            shared: 99_000,
        }
    }

    #[test]
    fn pages_fill_what_weights_leave_and_a_span_that_does_not_fit_says_what_it_needs() {
        let needs = Needs { weights: 700 << 20, scratch: 100 << 20, page: 1 << 20 };
        let pages = |least, free| pages("layers 0..2 of m", &needs, least, free, &info(8));
        assert_eq!(pages(70, 880 << 20), Ok(70), "an eighth is for columns computed again");
        let error = pages(71, 880 << 20).unwrap_err();
        assert_eq!(
            error.to_string(),
            "not enough GPU memory for serving layers 0..2 of m: 882 MiB are needed, but only 880 \
             MiB of cuda:1 (NVIDIA Test) are free; serve fewer layers with --layers, or use \
             --device cpu"
        );
        assert!(pages(71, 882 << 20).is_ok(), "it needs no more than it says");
        assert!(pages(1, 0).is_err());
    }

    #[test]
    fn doctor_lists_gpus_and_warns_where_none_of_them_will_do() {
        let cuda = Version { major: 12, minor: 4 };
        let check = of_devices(&cuda, &[info(6), info(9)]);
        assert_eq!(check.status, Status::Ok, "{check:?}");
        for part in ["cuda:1 NVIDIA Test, 8192 MiB, capability 9.0", "CUDA 12.4", "7.5 or newer"] {
            assert!(check.detail.contains(part), "{check:?}");
        }
        let check = of_devices(&cuda, &[info(6)]);
        assert_eq!((check.status, check.next.is_some()), (Status::Warn, true));
    }
}
