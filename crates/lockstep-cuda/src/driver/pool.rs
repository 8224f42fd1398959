//! Device memory that was given back and waits for its next use.
//!
//! All work of a context is done in one order, so memory that a later operation gets is touched
//! only after every earlier one is through with it: no waiting, and no call of the driver.

use std::collections::BTreeMap;

use super::api::Address;
use crate::limits::{POOL_PIECE, POOL_STEP};

/// Pieces of memory that nobody uses, by their size in bytes.
#[derive(Debug, Default)]
pub(super) struct Pool(BTreeMap<usize, Vec<Address>>);

impl Pool {
    /// Returns the number of bytes that are allocated for `bytes`: one of few sizes where pieces
    /// are kept, so that they fit again.
    pub(super) const fn rounded(bytes: usize) -> usize {
        if bytes > POOL_PIECE {
            bytes
        } else if bytes > POOL_STEP {
            bytes.next_multiple_of(POOL_STEP)
        } else {
            bytes.next_power_of_two()
        }
    }

    /// Returns whether pieces of this rounded size are kept.
    pub(super) const fn keeps(bytes: usize) -> bool {
        bytes <= POOL_PIECE
    }

    /// Takes a piece of this rounded size, if there is one.
    pub(super) fn take(&mut self, bytes: usize) -> Option<Address> {
        self.0.get_mut(&bytes)?.pop()
    }

    /// Keeps a piece of this rounded size.
    pub(super) fn put(&mut self, bytes: usize, address: Address) {
        self.0.entry(bytes).or_default().push(address);
    }

    /// Takes out all pieces.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Address> {
        std::mem::take(&mut self.0).into_values().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_comes_back_for_any_size_that_rounds_to_its_own() {
        let mut pool = Pool::default();
        assert_eq!(Pool::rounded(1000), 1024);
        assert_eq!(Pool::rounded(POOL_STEP + 1), 2 * POOL_STEP);
        assert_eq!(Pool::rounded(POOL_PIECE + 1), POOL_PIECE + 1);
        assert!(Pool::keeps(Pool::rounded(POOL_PIECE)) && !Pool::keeps(POOL_PIECE + 1));
        pool.put(1024, 7);
        assert_eq!(pool.take(Pool::rounded(2000)), None);
        assert_eq!(pool.take(Pool::rounded(600)), Some(7));
        assert_eq!(pool.take(1024), None, "it is in use");
        pool.put(1024, 7);
        pool.put(2048, 8);
        assert_eq!(pool.drain().collect::<Vec<_>>(), [7, 8]);
        assert_eq!(pool.take(1024), None);
    }
}
