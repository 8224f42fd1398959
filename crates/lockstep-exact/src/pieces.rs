//! Pieces of a blob, each of which can be checked by itself against the blob's digest.
//!
//! BLAKE3 hashes a tree: the digest of a blob follows from the values of its subtrees. An
//! [`Outline`] lists the value of each subtree of [`PIECE_BYTES`]. Whoever has the digest can check
//! an outline that a stranger sent, and with it each piece as it comes, in any order and from any
//! number of strangers. A wrong piece is noticed before the next one is asked for.

use core::ops::Range;

use blake3::hazmat::{self, HasherExt as _, Mode};

use crate::digest::Digest;

/// The bytes of a piece; the last one of a blob may be shorter. A power of two and of BLAKE3's
/// chunks, so that each piece is a subtree.
pub const PIECE_BYTES: u64 = 256 << 10;

/// The values of all pieces of a blob, which give the blob's digest together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline {
    len: u64,
    /// The value of each piece in the tree; of a blob of one piece its digest.
    values: Vec<Digest>,
}

impl Outline {
    /// Computes the outline of a blob with these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let len = bytes.len() as u64;
        let value = |index| value_of(piece_of(bytes, &range(len, index)), index, len);
        Self { len, values: (0..count(len)).map(value).collect() }
    }

    /// Takes the outline that somebody claims the blob `digest` to have, if it is that of a blob of
    /// `len` bytes: as many values as such a blob has pieces, which give the digest together.
    ///
    /// # Soundness
    /// The values are the blob's if `len` is its length. A stranger can claim another length for
    /// the same digest, also one of fewer or more pieces, with values higher or lower in the tree.
    /// Unless the length is known otherwise, the last piece must come before anybody is measured by
    /// this: if it [holds](Self::holds), the length is the blob's, because the blob's last chunk is
    /// hashed with its number, and nothing is right of it in the tree.
    #[must_use]
    pub fn checked(digest: Digest, len: u64, values: Vec<Digest>) -> Option<Self> {
        let outline = Self { len, values };
        let is_whole = outline.values.len() as u64 == count(len);
        (is_whole && outline.digest() == digest).then_some(outline)
    }

    /// Returns the length of the blob in bytes. Of an outline that was [`checked`](Self::checked)
    /// it is certain once the last piece has been.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Returns whether the blob has no bytes; it has one piece all the same, which is empty.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the number of pieces, which is at least 1.
    #[must_use]
    pub const fn count(&self) -> u64 {
        count(self.len)
    }

    /// Returns the value of each piece in the tree.
    #[must_use]
    pub fn values(&self) -> &[Digest] {
        &self.values
    }

    /// Returns the bytes of the blob that are the piece `index`; none behind the last piece.
    #[must_use]
    pub fn range(&self, index: u64) -> Range<u64> {
        range(self.len, index)
    }

    /// Returns whether `bytes` are the piece `index` of the blob.
    #[must_use]
    pub fn holds(&self, index: u64, bytes: &[u8]) -> bool {
        let range = self.range(index);
        // default: there is no piece behind what a usize counts
        let value = usize::try_from(index).ok().and_then(|index| self.values.get(index));
        bytes.len() as u64 == range.end - range.start
            && value.is_some_and(|value| value_of(bytes, index, self.len) == *value)
    }

    /// Returns the digest of the blob, as it follows from the values.
    fn digest(&self) -> Digest {
        match self.values.as_slice() {
            [only] => *only,
            values => {
                let (left, right) = halves(values, self.len);
                Digest(*hazmat::merge_subtrees_root(&left, &right, Mode::Hash).as_bytes())
            }
        }
    }
}

/// Returns the number of pieces of a blob.
#[must_use]
pub const fn count(len: u64) -> u64 {
    if len == 0 { 1 } else { len.div_ceil(PIECE_BYTES) }
}

fn range(len: u64, index: u64) -> Range<u64> {
    let start = index.saturating_mul(PIECE_BYTES).min(len);
    start..start.saturating_add(PIECE_BYTES).min(len)
}

fn piece_of<'a>(bytes: &'a [u8], range: &Range<u64>) -> &'a [u8] {
    // default: the range of a piece lies inside of the bytes from whose length it was made
    bytes.get(range.start as usize..range.end as usize).unwrap_or_default()
}

/// Computes the value of the piece `index` of a blob of `len` bytes.
fn value_of(bytes: &[u8], index: u64, len: u64) -> Digest {
    if count(len) == 1 {
        return Digest::of(bytes);
    }
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(index.saturating_mul(PIECE_BYTES)).update(bytes);
    Digest(hasher.finalize_non_root())
}

/// Returns the values of the two subtrees under the top of a tree over `len` bytes, whose pieces
/// have these values: two or more.
fn halves(values: &[Digest], len: u64) -> ([u8; 32], [u8; 32]) {
    // More than one piece is more than one of BLAKE3's chunks, which this needs.
    let left_len = hazmat::left_subtree_len(len);
    let (left, right) = values.split_at(values.len().min((left_len / PIECE_BYTES) as usize));
    (subtree(left, left_len), subtree(right, len.saturating_sub(left_len)))
}

fn subtree(values: &[Digest], len: u64) -> [u8; 32] {
    match values {
        [] => [0; 32],
        [only] => only.0,
        values => {
            let (left, right) = halves(values, len);
            hazmat::merge_subtrees_non_root(&left, &right, Mode::Hash)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(len: u64) -> Vec<u8> {
        (0..len).map(|at| (at * 31 + at / 251) as u8).collect()
    }

    /// Lengths at and around the ends of chunks, pieces and subtrees.
    const LENGTHS: [u64; 12] = [
        0,
        1,
        1024,
        PIECE_BYTES - 1,
        PIECE_BYTES,
        PIECE_BYTES + 1,
        2 * PIECE_BYTES,
        2 * PIECE_BYTES + 1,
        3 * PIECE_BYTES - 5,
        4 * PIECE_BYTES,
        5 * PIECE_BYTES + 77,
        7 * PIECE_BYTES,
    ];

    #[test]
    fn an_outline_gives_the_digest_of_the_blob_and_holds_its_pieces_alone() {
        for len in LENGTHS {
            let blob = bytes(len);
            let digest = Digest::of(&blob);
            let outline = Outline::of(&blob);
            assert_eq!(outline.values().len() as u64, outline.count());
            let values = outline.values().to_vec();
            assert_eq!(Outline::checked(digest, len, values).as_ref(), Some(&outline), "{len}");
            for index in 0..outline.count() {
                let Range { start, end } = outline.range(index);
                let piece = &blob[start as usize..end as usize];
                assert!(outline.holds(index, piece), "{len}: {index}");
                assert!(!outline.holds(index + 1, piece) || len == 0, "{len}: {index}");
                if let Some((last, short)) = piece.split_last() {
                    let wrong = [short, &[last ^ 1]].concat();
                    assert!(!outline.holds(index, &wrong) && !outline.holds(index, short));
                }
                assert!(!outline.holds(index, &[piece, &[0]].concat()));
            }
            assert!(!outline.holds(outline.count(), &[]));
        }
    }

    #[test]
    fn an_outline_that_is_not_of_the_blob_is_refused() {
        for len in LENGTHS {
            let blob = bytes(len);
            let (digest, values) = (Digest::of(&blob), Outline::of(&blob).values().to_vec());
            for at in 0..values.len() {
                let mut changed = values.clone();
                changed[at].0[0] ^= 1;
                assert_eq!(Outline::checked(digest, len, changed), None);
            }
            let more = [values.clone(), vec![Digest::ZERO]].concat();
            assert_eq!(Outline::checked(digest, len, more), None);
            assert_eq!(Outline::checked(digest, len, values[1..].to_vec()), None);
            assert_eq!(Outline::checked(digest, u64::MAX, values), None);
        }
    }

    #[test]
    fn a_wrong_length_is_noticed_at_the_last_piece_whatever_number_of_pieces_it_makes() {
        let blob = bytes(2 * PIECE_BYTES + 200_000);
        let (digest, len) = (Digest::of(&blob), blob.len() as u64);
        let values = Outline::of(&blob).values().to_vec();
        // The first two values merged, and the last one split into its subtrees.
        let merged = [Digest(subtree(&values[..2], 2 * PIECE_BYTES)), values[2]];
        let part = |range: Range<u64>| {
            let mut hasher = blake3::Hasher::new();
            hasher.set_input_offset(range.start);
            hasher.update(&blob[range.start as usize..range.end as usize]);
            Digest(hasher.finalize_non_root())
        };
        let half = 2 * PIECE_BYTES + PIECE_BYTES / 2;
        let split = [values[0], values[1], part(2 * PIECE_BYTES..half), part(half..len)];
        let claims: [(u64, &[Digest]); 6] = [
            (1, &[digest]),
            (PIECE_BYTES, &[digest]),
            (PIECE_BYTES + 200_000, &merged),
            (len - 1, &values),
            (len + 1, &values),
            (3 * PIECE_BYTES + 1, &split),
        ];
        for (claimed, values) in claims {
            let outline = Outline::checked(digest, claimed, values.to_vec()).expect("it fits");
            let last = outline.count() - 1;
            let claimed_range = outline.range(last);
            let rest = &blob[claimed_range.start.min(len) as usize..];
            for piece in [rest, &blob[..], &blob[len as usize - 1..], &blob[half as usize..], &[]] {
                assert!(!outline.holds(last, piece), "{claimed}: {} bytes", piece.len());
            }
            let shorter = rest.get(..(claimed_range.end - claimed_range.start) as usize);
            assert!(shorter.is_none_or(|piece| !outline.holds(last, piece)), "{claimed}");
        }
        let outline = Outline::checked(digest, len, values).expect("it is right");
        assert!(outline.holds(2, &blob[2 * PIECE_BYTES as usize..]));
    }
}
