//! Memory on the device in which a pass gathers what the host is to see, copied to it piece by
//! piece while the pass goes on.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use super::{SharedTray, lock};
use crate::driver::{Buffer, Element, Error, Landing};
use crate::gpu::Gpu;
use crate::limits::TRAY;

/// Bytes at whose multiples the places on a tray begin.
const PLACE: usize = 16;

/// A piece of the device's memory that is filled place by place, and then copied as a whole.
#[derive(Debug)]
pub(super) struct Tray {
    bytes: Buffer<u8>,
    used: usize,
    landing: Landing,
    /// Whether it is on its way to the host; nothing is put on it any more.
    is_sent: bool,
}

impl Tray {
    /// Takes a place for `bytes` bytes, if there is room.
    const fn take(&mut self, bytes: usize) -> Option<Range<usize>> {
        let end = self.used + bytes;
        if self.is_sent || end > self.bytes.len() {
            return None;
        }
        let place = self.used..end;
        self.used = end.next_multiple_of(PLACE);
        Some(place)
    }

    /// Has the tray copied to the host, if it is not on its way.
    fn send(&mut self) -> Result<(), Error> {
        if !self.is_sent {
            self.is_sent = true;
            self.landing.copy_later(&self.bytes, self.used.min(self.bytes.len()))?;
        }
        Ok(())
    }

    /// Reads numbers of a place, from its byte `at` on; waits until they are on the host.
    pub(super) fn read<T: Element>(
        &mut self,
        place: &Range<usize>,
        at: usize,
        to: &mut [T],
    ) -> Result<(), Error> {
        self.send()?;
        self.landing.read(place.start + at, to)
    }
}

/// The trays that tickets are of, and those that wait for their next use.
#[derive(Debug, Default)]
pub(super) struct Trays {
    filling: Option<SharedTray>,
    others: Vec<SharedTray>,
}

impl Trays {
    /// Takes a place for `bytes` bytes, and has `fill` put them there.
    pub(super) fn put(
        &mut self,
        gpu: &Gpu,
        bytes: usize,
        fill: impl FnOnce(&mut Buffer<u8>, usize) -> Result<(), Error>,
    ) -> Result<(SharedTray, Range<usize>), Error> {
        let filling = self.filling.as_ref();
        let found = filling.and_then(|tray| Some((Arc::clone(tray), lock(tray).take(bytes)?)));
        let (tray, place) = match found {
            Some(found) => found,
            None => self.another(gpu, bytes)?,
        };
        fill(&mut lock(&tray).bytes, place.start)?;
        Ok((tray, place))
    }

    /// Sends the tray that is being filled, and takes a place for `bytes` bytes on another: one of
    /// which there is no ticket any more, or a new one.
    fn another(&mut self, gpu: &Gpu, bytes: usize) -> Result<(SharedTray, Range<usize>), Error> {
        if let Some(full) = self.filling.take() {
            lock(&full).send()?;
            self.others.push(full);
        }
        let is_free = |tray: &SharedTray| Arc::strong_count(tray) == 1;
        self.others.retain(|tray| !is_free(tray) || lock(tray).bytes.len() >= bytes);
        let tray = match self.others.iter().position(is_free) {
            Some(free) => self.others.swap_remove(free),
            None => {
                let size = bytes.max(TRAY);
                let landing = Landing::new(&gpu.context, size)?;
                let bytes = Buffer::room(&gpu.context, size)?;
                Arc::new(Mutex::new(Tray { bytes, used: 0, landing, is_sent: false }))
            }
        };
        {
            let mut tray = lock(&tray);
            (tray.used, tray.is_sent) = (bytes.next_multiple_of(PLACE), false);
        }
        self.filling = Some(Arc::clone(&tray));
        Ok((tray, 0..bytes))
    }
}
