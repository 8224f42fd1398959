//! Data cut into parts that threads may write at the same time, without a list of them.

use std::marker::PhantomData;

/// Data that is cut into numbered parts.
///
/// # Safety
/// Parts of different numbers share no memory that can be written through one of them.
pub(crate) unsafe trait Parts: Sync {
    /// The type of one part.
    type Part;

    /// Returns the number of parts.
    fn count(&self) -> usize;

    /// Returns the part of a number below [`Parts::count`].
    ///
    /// # Safety
    /// Each number is asked for once at most.
    unsafe fn part(&self, number: usize) -> Self::Part;
}

/// A slice in chunks of `each` elements; the last may be shorter.
pub(crate) struct Chunks<'a, T> {
    start: *mut T,
    len: usize,
    each: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: this is an exclusive borrow of a slice whose elements may be sent to other threads.
unsafe impl<T: Send> Send for Chunks<'_, T> {}
// SAFETY: as above; no two threads ask for the same chunk.
unsafe impl<T: Send> Sync for Chunks<'_, T> {}

impl<'a, T> Chunks<'a, T> {
    /// Cuts `slice` into chunks of `each` elements.
    ///
    /// # Panics
    /// When `each` is 0.
    pub(crate) const fn new(slice: &'a mut [T], each: usize) -> Self {
        assert!(each > 0, "chunks of something");
        Self { start: slice.as_mut_ptr(), len: slice.len(), each, slice: PhantomData }
    }
}

// SAFETY: chunks do not overlap.
unsafe impl<'a, T: Send> Parts for Chunks<'a, T> {
    type Part = &'a mut [T];

    fn count(&self) -> usize {
        self.len.div_ceil(self.each)
    }

    unsafe fn part(&self, number: usize) -> &'a mut [T] {
        let first = number * self.each;
        assert!(first < self.len, "chunk {number} of {}", self.count());
        let len = self.each.min(self.len - first);
        // SAFETY: inside the slice, as asserted; borrowed once at most, as the caller promises.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(first), len) }
    }
}

/// Parts that belong together have the same number.
macro_rules! together {
    ($($name:ident $at:tt),+) => {
        // SAFETY: the parts of each are apart, and they borrow different data.
        unsafe impl<$($name: Parts),+> Parts for ($($name,)+) {
            type Part = ($($name::Part,)+);

            fn count(&self) -> usize {
                let counts = [$(self.$at.count()),+];
                assert!(counts.iter().all(|&count| count == counts[0]), "as many parts of each");
                counts[0]
            }

            unsafe fn part(&self, number: usize) -> Self::Part {
                // SAFETY: the caller's.
                unsafe { ($(self.$at.part(number),)+) }
            }
        }
    };
}

together!(A 0, B 1);
together!(A 0, B 1, C 2);
together!(A 0, B 1, C 2, D 3);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_a_slice_without_overlap() {
        for (len, each) in [(0, 1), (1, 5), (10, 3), (12, 4)] {
            let mut data = vec![0_u32; len];
            let chunks = Chunks::new(&mut data, each);
            for number in 0..chunks.count() {
                // SAFETY: each number once.
                let chunk = unsafe { chunks.part(number) };
                chunk.iter_mut().for_each(|value| *value += 1 + number as u32);
            }
            assert!(data.iter().enumerate().all(|(at, &value)| value == 1 + (at / each) as u32));
        }
    }

    #[test]
    #[should_panic(expected = "as many parts of each")]
    fn parts_that_do_not_match_are_refused() {
        let (mut a, mut b) = ([0; 10], [0; 10]);
        (Chunks::new(&mut a, 5), Chunks::new(&mut b, 2)).count();
    }
}
