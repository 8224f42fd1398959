//! Verified slices: a range of bytes with the proof that it lies in data with a given BLAKE3 root.
//!
//! The tree is BLAKE3's own over 1 KiB chunks, so a commitment is the plain hash of the data and
//! costs nothing more. A slice holds the chunks that cover the range and the chaining values of the
//! subtrees beside them, in the order of a walk from the root, left before right (as bao does). For
//! one root, length and range there is exactly one valid slice.
//!
//! Source: the BLAKE3 specification, section 2.1 (tree structure).

use core::fmt;
use core::ops::Range;
use std::collections::BTreeMap;

use blake3::CHUNK_LEN;
use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};
use lockstep_exact::Digest;
use lockstep_exact::bytes::{Canonical, DecodeError, Reader, put_bytes, put_list};

use crate::limits;

/// Siblings of one slice: two per level of a tree over 2^54 chunks.
const SIBLINGS: usize = 128;
const CHUNK: u64 = CHUNK_LEN as u64;
/// Bytes that are hashed at once: as many chunks as the widest registers take side by side.
const PIECE_BYTES: usize = 16 * CHUNK_LEN;
const PIECE: u64 = PIECE_BYTES as u64;

/// A range of committed bytes with its proof.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Slice {
    /// The chunks that cover the range, whole.
    pub bytes: Vec<u8>,
    /// Chaining values of the subtrees outside the range, in order of a walk from the root.
    pub siblings: Vec<[u8; 32]>,
}

impl Canonical for Slice {
    fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(out, &self.bytes);
        put_list(out, &self.siblings);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            bytes: input.bytes("slice", limits::OPENING_BYTES)?.to_vec(),
            siblings: input.list("slice siblings", SIBLINGS, 32)?,
        })
    }
}

/// A slice that is not the one of its root, length and range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SliceError {
    /// The bytes do not belong to the root.
    Root,
    /// The range is empty or outside the data.
    Range {
        /// The number of bytes of the whole data.
        total: u64,
    },
    /// Too few or too many bytes or siblings for the range.
    Shape,
}

impl fmt::Display for SliceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str("bytes that are not under the committed root"),
            Self::Range { total } => write!(f, "a range outside the column's {total} bytes"),
            Self::Shape => f.write_str("too few or too many bytes or siblings for the range"),
        }
    }
}

impl core::error::Error for SliceError {}

/// Proves a range of `data`, and returns it as a slice.
///
/// # Errors
/// [`SliceError::Range`] when the range is empty or not inside.
pub fn prove(data: &[u8], range: Range<u64>) -> Result<Slice, SliceError> {
    Tree::new(data).prove(range)
}

/// The chaining values of all whole pieces of some data: with them a range of it is proven without
/// hashing the rest again. They take 1/512 of the data.
#[derive(Clone, Debug, Default)]
pub struct Pieces(Vec<ChainingValue>);

impl Pieces {
    /// Hashes the pieces of `data`.
    #[must_use]
    pub fn of(data: &[u8]) -> Self {
        let pieces = data.chunks_exact(PIECE_BYTES).zip((0..).step_by(PIECE_BYTES));
        Self(pieces.map(|(piece, at)| subtree(piece, at)).collect())
    }

    /// Returns the hash of a piece that is a subtree.
    fn get(&self, node: &Range<u64>) -> Option<ChainingValue> {
        let Ok(at) = usize::try_from(node.start.checked_div(PIECE)?) else { return None };
        self.0.get(at).copied()
    }
}

/// Data of which several ranges are proven: each part is hashed once.
pub struct Tree<'a> {
    data: &'a [u8],
    pieces: Option<&'a Pieces>,
    /// Subtrees of at least [`PIECE`] bytes, by their range.
    known: BTreeMap<(u64, u64), ChainingValue>,
}

impl<'a> Tree<'a> {
    /// Creates the tree of `data`, of which nothing is hashed yet.
    #[must_use]
    pub const fn new(data: &'a [u8]) -> Self {
        Self { data, pieces: None, known: BTreeMap::new() }
    }

    /// Creates the tree of `data` whose pieces have been hashed.
    #[must_use]
    pub const fn with_pieces(data: &'a [u8], pieces: &'a Pieces) -> Self {
        Self { data, pieces: Some(pieces), known: BTreeMap::new() }
    }

    /// Proves a range of the data, and returns it as a slice.
    ///
    /// # Errors
    /// [`SliceError::Range`] when the range is empty or not inside.
    pub fn prove(&mut self, range: Range<u64>) -> Result<Slice, SliceError> {
        let total = self.data.len() as u64;
        let covered = covering(total, &range)?;
        let mut siblings = Vec::new();
        self.collect_siblings(0..total, &covered, &mut siblings)?;
        let bytes = part(self.data, 0, &covered).ok_or(SliceError::Shape)?.to_vec();
        Ok(Slice { bytes, siblings })
    }

    fn collect_siblings(
        &mut self,
        node: Range<u64>,
        covered: &Range<u64>,
        siblings: &mut Vec<[u8; 32]>,
    ) -> Result<(), SliceError> {
        if disjoint(&node, covered) {
            siblings.push(self.subtree(node)?);
            return Ok(());
        }
        if contains(covered, &node) {
            return Ok(());
        }
        let (left, right) = halves(&node);
        self.collect_siblings(left, covered, siblings)?;
        self.collect_siblings(right, covered, siblings)
    }

    fn subtree(&mut self, node: Range<u64>) -> Result<ChainingValue, SliceError> {
        let key = (node.start, node.end);
        if let Some(known) = self.known.get(&key) {
            return Ok(*known);
        }
        let size = node.end.saturating_sub(node.start);
        if size < PIECE {
            return Ok(subtree(part(self.data, 0, &node).ok_or(SliceError::Shape)?, node.start));
        }
        let known = self.pieces.filter(|_| size == PIECE).and_then(|pieces| pieces.get(&node));
        let value = if let Some(known) = known {
            known
        } else if size == PIECE {
            subtree(part(self.data, 0, &node).ok_or(SliceError::Shape)?, node.start)
        } else {
            let (left, right) = halves(&node);
            let (left, right) = (self.subtree(left)?, self.subtree(right)?);
            merge_subtrees_non_root(&left, &right, Mode::Hash)
        };
        self.known.insert(key, value);
        Ok(value)
    }
}

/// Checks a slice against a root and returns the bytes of the range.
///
/// # Soundness
/// `total` must be the length of the committed data by the verifier's own reckoning, not one that
/// came with the slice. A slice that does not reach the last chunk proves the place of its bytes,
/// not the exact length of the data.
///
/// # Errors
/// [`SliceError`].
pub fn check<'a>(
    slice: &'a Slice,
    root: &Digest,
    total: u64,
    range: Range<u64>,
) -> Result<&'a [u8], SliceError> {
    let covered = covering(total, &range)?;
    if slice.bytes.len() as u64 != covered.end.saturating_sub(covered.start) {
        return Err(SliceError::Shape);
    }
    let mut walk = Walk { slice, covered: covered.clone(), next: 0 };
    let got = walk.root(total)?;
    if walk.next != slice.siblings.len() {
        return Err(SliceError::Shape);
    }
    if got != root.0 {
        return Err(SliceError::Root);
    }
    part(&slice.bytes, covered.start, &range).ok_or(SliceError::Shape)
}

/// Returns the whole chunks that cover a range.
fn covering(total: u64, range: &Range<u64>) -> Result<Range<u64>, SliceError> {
    if range.start >= range.end || range.end > total {
        return Err(SliceError::Range { total });
    }
    let start = range.start.saturating_sub(range.start % CHUNK);
    let end = range.end.checked_next_multiple_of(CHUNK).map_or(total, |end| end.min(total));
    Ok(start..end)
}

/// Returns the bytes `range` of data that starts at `offset`.
fn part<'a>(data: &'a [u8], offset: u64, range: &Range<u64>) -> Option<&'a [u8]> {
    let bounds = (range.start.checked_sub(offset)?, range.end.checked_sub(offset)?);
    // What no address reaches is outside.
    match (usize::try_from(bounds.0), usize::try_from(bounds.1)) {
        (Ok(start), Ok(end)) => data.get(start..end),
        _ => None,
    }
}

const fn disjoint(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.end <= b.start || b.end <= a.start
}

/// Returns whether `inner` lies in `outer`.
const fn contains(outer: &Range<u64>, inner: &Range<u64>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

/// Returns the subtrees of a node of more than one chunk.
fn halves(node: &Range<u64>) -> (Range<u64>, Range<u64>) {
    let left = left_subtree_len(node.end.saturating_sub(node.start));
    let middle = node.start.saturating_add(left);
    (node.start..middle, middle..node.end)
}

fn subtree(data: &[u8], offset: u64) -> ChainingValue {
    blake3::Hasher::new().set_input_offset(offset).update(data).finalize_non_root()
}

/// The verifier's walk over the tree.
struct Walk<'a> {
    slice: &'a Slice,
    covered: Range<u64>,
    next: usize,
}

impl Walk<'_> {
    fn root(&mut self, total: u64) -> Result<[u8; 32], SliceError> {
        if total <= CHUNK {
            return Ok(*blake3::hash(&self.slice.bytes).as_bytes());
        }
        let (left, right) = self.children(0..total)?;
        Ok(*merge_subtrees_root(&left, &right, Mode::Hash).as_bytes())
    }

    fn children(&mut self, node: Range<u64>) -> Result<(ChainingValue, ChainingValue), SliceError> {
        let (left, right) = halves(&node);
        Ok((self.node(left)?, self.node(right)?))
    }

    fn node(&mut self, node: Range<u64>) -> Result<ChainingValue, SliceError> {
        if disjoint(&node, &self.covered) {
            let sibling = self.slice.siblings.get(self.next).ok_or(SliceError::Shape)?;
            self.next = self.next.saturating_add(1);
            return Ok(*sibling);
        }
        // A whole subtree is hashed at once: many chunks side by side. A single chunk is inside
        // what is covered, or beside it.
        if contains(&self.covered, &node) {
            let bytes = part(&self.slice.bytes, self.covered.start, &node);
            return Ok(subtree(bytes.ok_or(SliceError::Shape)?, node.start));
        }
        let (left, right) = self.children(node)?;
        Ok(merge_subtrees_non_root(&left, &right, Mode::Hash))
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "test data is small")]
mod tests {
    use super::*;
    use lockstep_testing::numbers::Numbers;

    fn data(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 31 + i / 251) as u8).collect()
    }

    #[test]
    fn every_slice_of_data_of_many_sizes_checks_against_the_plain_hash() {
        let mut numbers = Numbers::new(5);
        for len in [1, 5, 1023, 1024, 1025, 2048, 3000, 5120, 16_384, 70_001, 102_400] {
            let data = data(len);
            let root = Digest::of(&data);
            for _ in 0..40 {
                let start = numbers.below(len as u64);
                let end = start + 1 + numbers.below(len as u64 - start);
                let slice = prove(&data, start..end).unwrap();
                let got = check(&slice, &root, len as u64, start..end);
                assert_eq!(got, Ok(&data[start as usize..end as usize]), "{start}..{end} of {len}");
            }
        }
    }

    #[test]
    fn a_tree_proves_every_range_as_a_fresh_one_does() {
        let mut numbers = Numbers::new(6);
        for len in [1, 1025, 16_384, 16_385, 32_768, 70_001, 163_840] {
            let data = data(len);
            let mut tree = Tree::new(&data);
            let pieces = Pieces::of(&data);
            for _ in 0..60 {
                let start = numbers.below(len as u64);
                let end = start + 1 + numbers.below(len as u64 - start);
                let fresh = prove(&data, start..end);
                assert_eq!(tree.prove(start..end), fresh, "{start}..{end}");
                let mut with_pieces = Tree::with_pieces(&data, &pieces);
                assert_eq!(with_pieces.prove(start..end), fresh, "{start}..{end}");
            }
            let whole = tree.prove(0..len as u64).unwrap();
            assert_eq!((whole.bytes.len(), whole.siblings.len()), (len, 0));
        }
    }

    #[test]
    fn a_changed_byte_sibling_length_or_range_is_refused() {
        let data = data(9000);
        let (root, range) = (Digest::of(&data), 3000..3500_u64);
        let good = prove(&data, range.clone()).unwrap();
        let refused = |slice: &Slice, total, range| check(slice, &root, total, range).is_err();
        for at in 0..good.bytes.len() {
            let mut bad = good.clone();
            bad.bytes[at] ^= 1;
            assert!(refused(&bad, 9000, range.clone()), "byte {at}");
        }
        for at in 0..good.siblings.len() {
            let mut bad = good.clone();
            bad.siblings[at][7] ^= 1;
            assert!(refused(&bad, 9000, range.clone()), "sibling {at}");
        }
        let mut longer = good.clone();
        longer.siblings.push([0; 32]);
        assert!(refused(&longer, 9000, range.clone()));
        let mut longer = good.clone();
        longer.bytes.push(0);
        assert!(refused(&longer, 9000, range.clone()));
        let mut shorter = good.clone();
        shorter.siblings.pop();
        assert_eq!(check(&shorter, &root, 9000, range.clone()), Err(SliceError::Shape));
        // Another number of chunks is another tree.
        assert!(refused(&good, 20_000, range.clone()));
        assert!(refused(&good, 9000, 0..500));
        // Slices that are right, of ranges that are none.
        let range = Err(SliceError::Range { total: 9000 });
        let one = prove(&data, 3000..3001).unwrap();
        assert_eq!(check(&one, &root, 9000, 3000..3000), range);
        let rest = prove(&data, 3000..9000).unwrap();
        assert_eq!(check(&rest, &root, 9000, 3000..9001), range);
    }
}
