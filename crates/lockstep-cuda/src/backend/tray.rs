//! Memory on the device in which a pass gathers what the host is to see, copied to it once.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use super::{SharedTray, lock, missing};
use crate::driver::{Buffer, Error};
use crate::gpu::Gpu;
use crate::limits::TRAY;

/// Bytes at whose multiples the places on a tray begin.
const PLACE: usize = 16;

/// A piece of the device's memory that is filled place by place, and then read as a whole.
#[derive(Debug)]
pub(super) struct Tray {
    bytes: Buffer<u8>,
    used: usize,
    /// What was read last; its memory is used again.
    read: Vec<u8>,
    /// Whether `read` is what is on the tray; nothing is put on it any more.
    is_read: bool,
}

impl Tray {
    /// Takes a place for `bytes` bytes, if there is room.
    const fn take(&mut self, bytes: usize) -> Option<Range<usize>> {
        let end = self.used + bytes;
        if self.is_read || end > self.bytes.len() {
            return None;
        }
        let place = self.used..end;
        self.used = end.next_multiple_of(PLACE);
        Some(place)
    }

    /// Returns the bytes of a place. The first time it waits for the device, and reads all places.
    pub(super) fn bytes(&mut self, place: &Range<usize>) -> Result<&[u8], Error> {
        if !self.is_read {
            self.bytes.read_to(0..self.used.min(self.bytes.len()), &mut self.read)?;
            self.is_read = true;
        }
        self.read.get(place.clone()).ok_or(missing("bytes of a tray"))
    }
}

/// The trays that tickets are of; the last is being filled.
#[derive(Debug, Default)]
pub(super) struct Trays(Vec<SharedTray>);

impl Trays {
    /// Takes a place for `bytes` bytes, and has `fill` put them there.
    pub(super) fn put(
        &mut self,
        gpu: &Gpu,
        bytes: usize,
        fill: impl FnOnce(&mut Buffer<u8>, usize) -> Result<(), Error>,
    ) -> Result<(SharedTray, Range<usize>), Error> {
        self.clear();
        let found =
            self.0.last().and_then(|tray| Some((Arc::clone(tray), lock(tray).take(bytes)?)));
        let (tray, place) = match found {
            Some(found) => found,
            None => self.another(gpu, bytes)?,
        };
        fill(&mut lock(&tray).bytes, place.start)?;
        Ok((tray, place))
    }

    /// Lets go of trays of which there is no ticket any more, but for the last: it is used again.
    fn clear(&mut self) {
        let last = self.0.pop();
        self.0.retain(|tray| Arc::strong_count(tray) > 1);
        if let Some(last) = last {
            if Arc::strong_count(&last) == 1 {
                let mut tray = lock(&last);
                (tray.used, tray.is_read) = (0, false);
            }
            self.0.push(last);
        }
    }

    /// Makes a tray with a place for `bytes` bytes, at least twice as large as the last.
    fn another(&mut self, gpu: &Gpu, bytes: usize) -> Result<(SharedTray, Range<usize>), Error> {
        let twice = self.0.last().map_or(TRAY, |last| lock(last).bytes.len().saturating_mul(2));
        let size = twice.max(bytes);
        let bytes_of = Buffer::room(&gpu.context, size)?;
        let used = bytes.next_multiple_of(PLACE);
        let tray = Tray { bytes: bytes_of, used, read: Vec::new(), is_read: false };
        let tray = Arc::new(Mutex::new(tray));
        self.0.push(Arc::clone(&tray));
        Ok((tray, 0..bytes))
    }
}
