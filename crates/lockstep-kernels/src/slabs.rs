//! Memory that grows by slabs and is read from end to end: large pages where the system has them.
//!
//! A context of some thousand positions is read whole for every token, and with pages of 4 KiB a
//! good part of that time goes to translating addresses. So slabs lie one after the other in
//! *arenas*, reserved ranges of addresses that begin on a large page's boundary; memory is taken
//! from the system only where it is written.

use std::alloc::{Layout, handle_alloc_error};

use memmap2::{MmapMut, MmapRaw};

use crate::line::Line;

/// The number of bytes of a large page of memory.
const LARGE_PAGE: usize = 2 << 20;
/// Addresses that are reserved at once, at least.
const ARENA_BYTES: usize = 64 << 20;
/// From this many slabs on, a large page may reach beyond the last: before, the memory that it
/// would take would not be small beside what is used.
const MANY: usize = 4;

/// Memory that is given out in slabs of equal size. Fresh slabs are zeros.
#[derive(Debug, Default)]
pub(crate) struct Slabs {
    /// The number of lines of a slab.
    lines: usize,
    /// The number of slabs of an arena.
    each: usize,
    len: usize,
    arenas: Vec<Arena>,
}

/// Some neighbouring slabs that were allocated together.
#[derive(Debug)]
struct Arena {
    memory: MmapRaw,
    /// The line at which the earliest slab begins.
    start: usize,
}

impl Slabs {
    /// Creates an empty collection of slabs with `lines` lines each.
    pub(crate) fn new(lines: usize) -> Self {
        let each = (ARENA_BYTES / (lines * size_of::<Line>()).max(1)).max(1);
        Self { lines, each, len: 0, arenas: Vec::new() }
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Adds a slab; one that was there before [`Slabs::truncate`] holds what it held.
    pub(crate) fn push(&mut self) {
        let (arena, slab) = self.place(self.len);
        if arena == self.arenas.len() {
            self.arenas.push(Arena::new(self.each * self.bytes()));
        }
        self.len += 1;
        self.arenas[arena].advise((slab + 1) * self.bytes(), self.len >= MANY);
    }

    /// Leaves the first `len` slabs; memory of whole arenas beyond them goes back to the system.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        self.arenas.truncate(self.len.div_ceil(self.each));
    }

    /// Returns the number of lines of a slab.
    pub(crate) const fn lines(&self) -> usize {
        self.lines
    }

    /// Returns the lines of one slab.
    pub(crate) fn slab(&self, slab: usize) -> &[Line] {
        // SAFETY: inside the arena's memory, which is initialised; a line is any bytes.
        unsafe { std::slice::from_raw_parts(self.start(slab), self.lines) }
    }

    /// Returns where the lines of a slab begin, for whoever has exclusive use of what it writes
    /// there. No reference to them is made, so that an address stays valid when another is asked
    /// for.
    pub(crate) fn start(&self, slab: usize) -> *mut Line {
        assert!(slab < self.len, "slab {slab} of {}", self.len);
        let (arena, slab) = self.place(slab);
        let Arena { memory, start } = &self.arenas[arena];
        // SAFETY: inside the arena's memory, whose first slab lies on a large page's boundary.
        unsafe { memory.as_mut_ptr().add(*start).cast::<Line>().add(slab * self.lines) }
    }

    const fn bytes(&self) -> usize {
        self.lines * size_of::<Line>()
    }

    /// Returns the arena of a slab, and its number there.
    const fn place(&self, slab: usize) -> (usize, usize) {
        (slab / self.each, slab % self.each)
    }
}

impl Arena {
    /// Reserves room for `bytes` bytes. Ends the program if there are no addresses left, as any
    /// allocation does.
    fn new(bytes: usize) -> Self {
        let room = bytes + LARGE_PAGE;
        let Ok(memory) = MmapMut::map_anon(room) else {
            // default: the program ends here; it only says for how many bytes
            handle_alloc_error(Layout::from_size_align(room, 1).unwrap_or(Layout::new::<Line>()))
        };
        let memory = MmapRaw::from(memory);
        let start = memory.as_ptr().align_offset(LARGE_PAGE);
        assert!(start <= LARGE_PAGE, "room for a boundary");
        Self { memory, start }
    }

    /// Asks the system for large pages in the first `used` bytes and, if `beyond`, for one that
    /// reaches further. Whether it gives them changes nothing but speed.
    fn advise(&self, used: usize, beyond: bool) {
        let end =
            if beyond { used.next_multiple_of(LARGE_PAGE) } else { used / LARGE_PAGE * LARGE_PAGE };
        let end = end.min(self.memory.len() - self.start);
        #[cfg(target_os = "linux")]
        if end > 0 {
            // A system that has no large pages refuses, which is as well.
            let _ = self.memory.advise_range(memmap2::Advice::HugePage, self.start, end);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slabs_lie_apart_and_keep_what_is_written() {
        // Three of them fill an arena.
        let lines = ARENA_BYTES / size_of::<Line>() / 3 - 5;
        let mut slabs = Slabs::new(lines);
        for slab in 0..4 {
            slabs.push();
            assert_eq!(slabs.slab(slab).len(), lines);
            let line = |number: usize| Line([slab as u8 + number as u8; 64]);
            let start = slabs.start(slab);
            // SAFETY: the first and the last line.
            unsafe { (start.write(line(1)), start.add(lines - 1).write(line(11))) };
        }
        for slab in 0..4 {
            let lines = slabs.slab(slab);
            assert_eq!((lines[0].0[0], lines[1].0[0]), (slab as u8 + 1, 0));
            assert_eq!(lines[lines.len() - 1].0[63], slab as u8 + 11);
        }
        slabs.truncate(1);
        assert_eq!((slabs.len(), slabs.arenas.len()), (1, 1));
        assert_eq!(slabs.slab(0)[0].0[0], 1);
    }

    #[test]
    #[should_panic(expected = "slab 1 of 1")]
    fn a_slab_that_is_not_there_is_refused() {
        let mut slabs = Slabs::new(1);
        slabs.push();
        let _ = slabs.slab(1);
    }
}
