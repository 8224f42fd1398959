//! Frames on a byte stream: a little-endian `u32` length, then that many bytes.
//!
//! [`Assembler`] is the whole parser and does no I/O: it is told what arrived and says what to ask
//! for. The length is compared with the cap before anything is allocated for it, and memory grows
//! only with bytes that did arrive.

use bytes::{Buf as _, Bytes, BytesMut};

use super::LinkFailure;

/// The number of bytes of the length field.
pub(super) const LENGTH_BYTES: usize = 4;
/// The number of bytes that are reserved for a frame before its bytes arrive.
const FIRST_RESERVE_BYTES: usize = 64 << 10;

/// Returns the length field of a frame, or [`LinkFailure::Oversize`].
pub(super) fn length_field(len: usize, cap: usize) -> Result<[u8; LENGTH_BYTES], LinkFailure> {
    let oversize = LinkFailure::Oversize { len, cap };
    match u32::try_from(len) {
        Ok(length) if len <= cap => Ok(length.to_le_bytes()),
        _ => Err(oversize),
    }
}

/// Puts frames together from pieces of any size.
pub(super) struct Assembler<K> {
    cap: usize,
    /// Most bytes of a frame that begins with this byte.
    cap_of_kind: K,
    stage: Stage,
}

enum Stage {
    Length { seen: [u8; LENGTH_BYTES], filled: usize },
    Body { len: usize, body: BytesMut },
}

impl Stage {
    const START: Self = Self::Length { seen: [0; LENGTH_BYTES], filled: 0 };
}

impl<K: Fn(u8) -> usize> Assembler<K> {
    /// Creates a reader of frames of at most `cap` bytes, and of at most what `cap_of_kind` allows
    /// for their first byte.
    pub(super) fn new(cap: usize, cap_of_kind: K) -> Self {
        Self { cap, cap_of_kind, stage: Stage::START }
    }

    /// Returns the most bytes that the next piece may have; never 0.
    pub(super) fn wanted(&self) -> usize {
        match &self.stage {
            Stage::Length { filled, .. } => LENGTH_BYTES.saturating_sub(*filled).max(1),
            Stage::Body { len, body } => len.saturating_sub(body.len()).max(1),
        }
    }

    /// Returns whether a frame has been begun and not ended.
    pub(super) fn inside_frame(&self) -> bool {
        !matches!(&self.stage, Stage::Length { filled: 0, .. })
    }

    /// Checks what the end of the stream means now: between frames it is in order, otherwise the
    /// frame is cut short.
    pub(super) fn end(&self) -> Result<(), LinkFailure> {
        match &self.stage {
            Stage::Length { filled: 0, .. } => Ok(()),
            Stage::Length { filled, .. } => {
                Err(LinkFailure::Truncated { got: *filled, expected: LENGTH_BYTES })
            }
            Stage::Body { len, body } => Err(LinkFailure::Truncated {
                got: LENGTH_BYTES + body.len(),
                expected: LENGTH_BYTES + len,
            }),
        }
    }

    /// Takes a piece of at most [`Self::wanted`] bytes; gives the frame that it completes.
    pub(super) fn push(&mut self, piece: Bytes) -> Result<Option<Bytes>, LinkFailure> {
        match &mut self.stage {
            Stage::Length { seen, filled } => {
                for byte in piece {
                    if let Some(slot) = seen.get_mut(*filled) {
                        *slot = byte;
                        *filled += 1;
                    }
                }
                if *filled < LENGTH_BYTES {
                    return Ok(None);
                }
                let len = u32::from_le_bytes(*seen) as usize;
                self.begin_body(len)
            }
            Stage::Body { len, body } => {
                if body.is_empty()
                    && let Some(&kind) = piece.first()
                {
                    let (len, cap) = (*len, (self.cap_of_kind)(kind));
                    if len > cap {
                        return Err(LinkFailure::Oversize { len, cap });
                    }
                }
                // One piece often is the whole frame; then nothing is copied.
                let whole = body.is_empty() && piece.len() == *len;
                let mut piece = piece;
                piece.truncate(len.saturating_sub(body.len()));
                if !whole {
                    body.extend_from_slice(&piece);
                    piece.advance(piece.len());
                    if body.len() < *len {
                        return Ok(None);
                    }
                    piece = std::mem::take(body).freeze();
                }
                self.stage = Stage::START;
                Ok(Some(piece))
            }
        }
    }

    fn begin_body(&mut self, len: usize) -> Result<Option<Bytes>, LinkFailure> {
        if len > self.cap {
            return Err(LinkFailure::Oversize { len, cap: self.cap });
        }
        if len == 0 {
            self.stage = Stage::START;
            return Ok(Some(Bytes::new()));
        }
        let body = BytesMut::with_capacity(len.min(FIRST_RESERVE_BYTES));
        self.stage = Stage::Body { len, body };
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn on_the_wire(frames: &[Vec<u8>]) -> Vec<u8> {
        let mut wire = Vec::new();
        for frame in frames {
            wire.extend(length_field(frame.len(), 1 << 20).expect("short"));
            wire.extend(frame);
        }
        wire
    }

    fn assemble(cap: usize, wire: &[u8], piece: usize) -> Result<Vec<Bytes>, LinkFailure> {
        let mut assembler = Assembler::new(cap, |_| cap);
        let mut rest = Bytes::copy_from_slice(wire);
        let mut frames = Vec::new();
        while !rest.is_empty() {
            let take = assembler.wanted().min(piece).min(rest.len());
            frames.extend(assembler.push(rest.split_to(take))?);
        }
        assembler.end()?;
        Ok(frames)
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8),
            piece in 1usize..400,
        ) {
            let got = assemble(300, &on_the_wire(&frames), piece).expect("well formed");
            prop_assert_eq!(got, frames);
        }

        #[test]
        fn any_bytes_are_frames_or_a_typed_error(
            wire in prop::collection::vec(any::<u8>(), 0..64),
            piece in 1usize..70,
        ) {
            match assemble(1 << 10, &wire, piece) {
                Ok(frames) => {
                    let frames: Vec<Vec<u8>> = frames.iter().map(|f| f.to_vec()).collect();
                    prop_assert_eq!(on_the_wire(&frames), wire);
                }
                Err(LinkFailure::Oversize { len, cap }) => prop_assert!(len > cap),
                Err(LinkFailure::Truncated { got, expected }) => prop_assert!(got < expected),
                Err(other) => prop_assert!(false, "{other}"),
            }
        }
    }

    #[test]
    fn an_oversize_length_is_refused_before_any_of_its_bytes() {
        let error = assemble(8, &9u32.to_le_bytes(), 4).expect_err("9 > 8");
        assert_eq!(error, LinkFailure::Oversize { len: 9, cap: 8 });
        assert_eq!(length_field(9, 8), Err(LinkFailure::Oversize { len: 9, cap: 8 }));
    }

    #[test]
    fn a_frame_longer_than_its_kind_allows_is_refused_at_its_first_byte() {
        let mut assembler = Assembler::new(1000, |kind| if kind == 7 { 10 } else { 1000 });
        for (kind, len, refused) in [(7, 10, false), (7, 11, true), (8, 1000, false)] {
            assert_eq!(assembler.push(Bytes::copy_from_slice(&u32::to_le_bytes(len))), Ok(None));
            let first = assembler.push(Bytes::copy_from_slice(&[kind]));
            match refused {
                true => {
                    let oversize = LinkFailure::Oversize { len: len as usize, cap: 10 };
                    assert_eq!(first, Err(oversize));
                    assembler.stage = Stage::START;
                }
                false => {
                    let rest = Bytes::from(vec![0; len as usize - 1]);
                    assert_eq!(first, Ok(None));
                    assert_eq!(assembler.push(rest).unwrap().unwrap().len(), len as usize);
                }
            }
        }
    }

    #[test]
    fn a_large_announcement_reserves_little() {
        let mut assembler = Assembler::new(1 << 30, |_| 1 << 30);
        let length = Bytes::copy_from_slice(&(1u32 << 29).to_le_bytes());
        assert_eq!(assembler.push(length), Ok(None));
        let Stage::Body { body, .. } = &assembler.stage else { panic!("in the body") };
        assert!(body.capacity() <= 2 * FIRST_RESERVE_BYTES);
    }
}
