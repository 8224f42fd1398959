//! Memory that is reused from batch to batch.

use std::ops::{Deref, DerefMut};

/// Elements that are written before they are read. It never shrinks, so that a buffer that is
/// used for narrow and wide rows in turns is not cleared again and again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Buffer<T> {
    all: Vec<T>,
    len: usize,
}

impl<T: Copy + Default> Buffer<T> {
    /// Makes this `len` elements, whose values are unspecified.
    pub(crate) fn resize(&mut self, len: usize) {
        if self.all.len() < len {
            self.all.resize(len, T::default());
        }
        self.len = len;
    }
}

impl<T> From<Vec<T>> for Buffer<T> {
    fn from(all: Vec<T>) -> Self {
        Self { len: all.len(), all }
    }
}

impl<T> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.all[..self.len]
    }
}

impl<T> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.all[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_has_as_many_elements_as_asked_for_last() {
        let mut buffer = Buffer::from(vec![1, 2, 3]);
        for len in [3, 5, 0, 2] {
            buffer.resize(len);
            assert_eq!(buffer.len(), len);
            buffer.fill(7);
        }
        assert_eq!(*buffer, [7, 7]);
    }
}
