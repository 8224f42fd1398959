//! Huge pages for large tables that are read from end to end: fewer address translations.

/// Sizes and places that are whole pages on every system.
#[cfg(target_os = "linux")]
const ALIGN: usize = 1 << 16;

/// Reserves room for `len` elements and asks the system for huge pages there. Whether it gives
/// them changes nothing but speed.
pub(crate) fn with_capacity<T>(len: usize) -> Vec<T> {
    let memory: Vec<T> = Vec::with_capacity(len);
    #[cfg(target_os = "linux")]
    advise(memory.as_ptr().addr(), memory.as_ptr().addr() + len * size_of::<T>());
    memory
}

#[cfg(target_os = "linux")]
fn advise(start: usize, end: usize) {
    const MADV_HUGEPAGE: i32 = 14;
    unsafe extern "C" {
        fn madvise(start: *mut u8, len: usize, advice: i32) -> i32;
    }
    let (start, end) = (start.next_multiple_of(ALIGN), end / ALIGN * ALIGN);
    if start < end {
        // SAFETY: a hint about whole pages of an allocation; it changes no contents. A system
        // that has no huge pages refuses it, which is as well.
        let _ =
            unsafe { madvise(std::ptr::without_provenance_mut(start), end - start, MADV_HUGEPAGE) };
    }
}
