//! Columns: append-only bytes over a session's positions, committed by their BLAKE3 root.
//!
//! A stage keeps one column of input rows and, per layer, one of states and one of KV rows. Rows
//! are collected and hashed in pieces of 16 KiB, where BLAKE3 is fastest. A [`Recorder`] fills
//! [`Columns`] as the [`Probe`] of a forward pass; nothing is hashed that an audit can re-derive.

use core::ops::Range;
use std::sync::OnceLock;

use lockstep_exact::Digest;
use lockstep_exact::forward::{Probe, Row, Sees};
use lockstep_exact::invariant::Broken;
use lockstep_exact::state::State;

use crate::slice::{Pieces, Tree};
use crate::statement::LayerRoots;

/// Bytes collected before they are hashed.
const PIECE_BYTES: usize = 16 * 1024;

/// Whether a column keeps its bytes, so that it can be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Only the root will be asked for.
    Root,
    /// Slices will be asked for.
    Bytes,
}

/// Append-only bytes with a BLAKE3 root.
#[derive(Clone, Debug)]
pub struct Column {
    hasher: blake3::Hasher,
    pending: Vec<u8>,
    kept: Option<Vec<u8>>,
    /// Of what is kept, once a slice has been asked for: it is opened part by part.
    pieces: OnceLock<Pieces>,
    len: u64,
}

impl Column {
    /// Creates an empty column, which keeps its bytes if `keep` says so.
    #[must_use]
    pub fn new(keep: Keep) -> Self {
        let kept = match keep {
            Keep::Root => None,
            Keep::Bytes => Some(Vec::new()),
        };
        let (hasher, pending) = (blake3::Hasher::new(), Vec::new());
        Self { hasher, pending, kept, pieces: OnceLock::new(), len: 0 }
    }

    /// Appends `bytes` to the column.
    pub fn append(&mut self, bytes: &[u8]) {
        self.len = self.len.saturating_add(bytes.len() as u64);
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(bytes);
            self.pieces.take();
        }
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= PIECE_BYTES {
            self.hasher.update(&self.pending);
            self.pending.clear();
        }
    }

    /// Returns the BLAKE3 root of everything appended so far.
    #[must_use]
    pub fn root(&self) -> Digest {
        let mut hasher = self.hasher.clone();
        hasher.update(&self.pending);
        Digest(*hasher.finalize().as_bytes())
    }

    /// Returns the number of bytes appended so far.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Returns whether nothing was appended.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the bytes appended so far, or `None` if the column does not keep them.
    #[must_use]
    pub fn bytes(&self) -> Option<&[u8]> {
        self.kept.as_deref()
    }

    /// Returns the hash tree with which slices are proven, or `None` if the column does not keep
    /// its bytes. All is hashed when the first is.
    #[must_use]
    pub fn tree(&self) -> Option<Tree<'_>> {
        let kept = self.bytes()?;
        Some(Tree::with_pieces(kept, self.pieces.get_or_init(|| Pieces::of(kept))))
    }

    /// Makes room for so many bytes, so that none are moved while they come; if there is no room,
    /// they will be.
    fn reserve(&mut self, bytes: usize) {
        if let Some(kept) = &mut self.kept {
            let _grows_later = kept.try_reserve_exact(bytes).is_err();
        }
    }

    /// Moves the bytes out, with a column that has them; this one goes on with its root only.
    fn split_bytes(&mut self) -> Self {
        let kept = self.kept.take();
        Self { kept, ..self.clone() }
    }
}

/// The columns of one layer.
#[derive(Clone, Debug)]
pub struct LayerColumns {
    /// State rows after the layer; in the model's last layer only of positions that feed the head.
    pub states: Column,
    /// The KV rows of the layer, in order of positions.
    pub kv: Column,
}

/// All columns of one session in one stage.
#[derive(Clone, Debug)]
pub struct Columns {
    first: u32,
    /// State rows received; for server 1, BLAKE3 of each embedding row.
    pub input: Column,
    /// One entry per layer of the span.
    pub layers: Vec<LayerColumns>,
}

impl Columns {
    /// Creates empty columns for the layers `span`.
    #[must_use]
    pub fn new(span: Range<u32>, keep: Keep) -> Self {
        let layer = |_| LayerColumns { states: Column::new(keep), kv: Column::new(keep) };
        let first = span.start;
        Self { first, input: Column::new(keep), layers: span.map(layer).collect() }
    }

    /// Makes room for `rows` rows of these sizes in each column that keeps its bytes.
    pub fn reserve(&mut self, rows: usize, state_row: usize, kv_row: usize) {
        self.input.reserve(rows.saturating_mul(state_row));
        for layer in &mut self.layers {
            layer.states.reserve(rows.saturating_mul(state_row));
            layer.kv.reserve(rows.saturating_mul(kv_row));
        }
    }

    /// Appends received state rows to the input column.
    pub fn receive(&mut self, state_bytes: &[u8]) {
        self.input.append(state_bytes);
    }

    /// Appends the digests of embedding rows to the input column.
    pub fn receive_embeddings(&mut self, embeddings: &State) {
        let mut bytes = Vec::new();
        for row in 0..embeddings.rows() {
            bytes.clear();
            embeddings.write_row(row, &mut bytes);
            self.input.append(&Digest::of(&bytes).0);
        }
    }

    /// Returns the layers whose columns these are.
    #[must_use]
    pub fn span(&self) -> Range<u32> {
        let last = (self.first..).zip(&self.layers).last();
        self.first..last.map_or(self.first, |(last, _)| last.saturating_add(1))
    }

    /// Returns whether every column has kept its bytes.
    #[must_use]
    pub fn has_bytes(&self) -> bool {
        self.all().all(|column| column.bytes().is_some())
    }

    /// Moves the states after the last layer out.
    pub(crate) fn take_last_states(&mut self) -> Option<Column> {
        self.layers.pop().map(|layer| layer.states)
    }

    /// Every column.
    fn all(&self) -> impl Iterator<Item = &Column> {
        let layers = self.layers.iter().flat_map(|layer| [&layer.states, &layer.kv]);
        layers.chain([&self.input])
    }

    /// Returns the number of bytes that all columns keep to open slices of.
    #[must_use]
    pub fn kept_bytes(&self) -> usize {
        self.all().filter_map(Column::bytes).map(<[u8]>::len).fold(0, usize::saturating_add)
    }

    /// Moves the kept bytes into columns of their own, which are returned; these go on with their
    /// roots only.
    #[must_use]
    pub fn take_bytes(&mut self) -> Option<Self> {
        if !self.has_bytes() {
            return None;
        }
        let layers = self.layers.iter_mut().map(|layer| LayerColumns {
            states: layer.states.split_bytes(),
            kv: layer.kv.split_bytes(),
        });
        let layers = layers.collect();
        Some(Self { first: self.first, input: self.input.split_bytes(), layers })
    }

    /// Returns the roots of all layers, in order.
    #[must_use]
    pub fn roots(&self) -> Vec<LayerRoots> {
        let roots =
            |layer: &LayerColumns| LayerRoots { states: layer.states.root(), kv: layer.kv.root() };
        self.layers.iter().map(roots).collect()
    }

    /// Returns the columns of a layer, by its index in the model, or `None` for a layer outside the
    /// span.
    #[must_use]
    pub fn layer(&self, layer: u32) -> Option<&LayerColumns> {
        self.layers.get(layer.checked_sub(self.first)? as usize)
    }

    fn layer_mut(&mut self, layer: u32) -> Option<&mut LayerColumns> {
        self.layers.get_mut(layer.checked_sub(self.first)? as usize)
    }
}

/// Records a forward pass over several sessions: slot `i` of the batch into `sessions[i]`.
pub struct Recorder<'a, 'b> {
    sessions: &'a mut [&'b mut Columns],
    /// Why a row was not recorded, if one was not.
    broken: Option<Broken>,
}

impl<'a, 'b> Recorder<'a, 'b> {
    /// Records into the columns of each slot.
    #[must_use]
    pub const fn new(sessions: &'a mut [&'b mut Columns]) -> Self {
        Self { sessions, broken: None }
    }

    /// Ends the recording of a forward pass.
    ///
    /// # Soundness
    /// Columns of which a row is missing are not to be signed: whoever signs them is convicted of
    /// what its own program did.
    ///
    /// # Errors
    /// [`Broken`] if there was no column for a row: the pass ran layers or slots that are not those
    /// of the sessions.
    pub const fn finish(self) -> Result<(), Broken> {
        match self.broken {
            Some(broken) => Err(broken),
            None => Ok(()),
        }
    }
}

impl Probe for Recorder<'_, '_> {
    const SEES: Sees = Sees { kv: true, state: true, ..Sees::NOTHING };

    fn kv(&mut self, layer: u32, rows: &[Row], kv: &[u8]) {
        let Some(row_bytes) = kv.len().checked_div(rows.len()) else { return };
        let bytes_of = kv.chunks_exact(row_bytes.max(1));
        if bytes_of.len() != rows.len() {
            self.broken = Some(Broken::new("not one KV row for each row"));
            return;
        }
        for (row, bytes) in rows.iter().zip(bytes_of) {
            let Some(columns) = self.column(row, layer) else {
                self.broken = Some(Broken::new("a KV row has no column"));
                return;
            };
            columns.kv.append(bytes);
        }
    }

    fn state(&mut self, layer: u32, rows: &[Row], state: &State) {
        let mut bytes = Vec::new();
        for (index, row) in rows.iter().enumerate() {
            bytes.clear();
            state.write_row(index, &mut bytes);
            let Some(columns) = self.column(row, layer) else {
                self.broken = Some(Broken::new("a state has no column"));
                return;
            };
            columns.states.append(&bytes);
        }
    }
}

impl Recorder<'_, '_> {
    fn column(&mut self, row: &Row, layer: u32) -> Option<&mut LayerColumns> {
        self.sessions.get_mut(row.place.slot)?.layer_mut(layer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_exact::ops::Place;

    // Where a panic ends the program, as in WebAssembly, none can be caught.
    #[cfg(panic = "unwind")]
    #[test]
    fn rows_without_a_column_are_told_at_the_end_of_a_recording() {
        let recorded = |layer, slot| {
            let mut columns = Columns::new(2..4, Keep::Root);
            let place = Place { slot, position: 0 };
            let row = Row { place, feeds_head: true };
            let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let sessions = &mut [&mut columns];
                let mut recorder = Recorder::new(sessions);
                let states = State::zeros(1, 32);
                recorder.state(layer, &[row], &states);
                recorder.finish().is_ok()
            }));
            // With debug assertions it panics.
            told.unwrap_or(false)
        };
        assert!(recorded(2, 0) && recorded(3, 0));
        assert!(!recorded(1, 0) && !recorded(4, 0), "another layer");
        assert!(!recorded(2, 1), "another slot");
    }

    #[test]
    fn a_column_is_the_plain_hash_of_its_bytes_however_they_came() {
        let data: Vec<u8> = (0..100_000_u32).map(|i| (i % 251) as u8).collect();
        for piece in [1, 7, 1170, 16_384, 99_999] {
            let mut column = Column::new(Keep::Bytes);
            for bytes in data.chunks(piece) {
                column.append(bytes);
            }
            assert_eq!(column.root(), Digest::of(&data), "pieces of {piece}");
            assert_eq!(column.bytes(), Some(data.as_slice()));
            assert_eq!(column.len(), 100_000);
        }
    }

    #[test]
    fn columns_give_up_their_bytes_once_and_keep_their_roots() {
        let mut columns = Columns::new(2..4, Keep::Bytes);
        columns.receive(&[1; 3000]);
        columns.layers[1].kv.append(&[2; 5000]);
        let roots = columns.roots();
        assert_eq!(columns.kept_bytes(), 8000);
        let taken = columns.take_bytes().unwrap();
        assert_eq!((columns.kept_bytes(), taken.kept_bytes()), (0, 8000));
        assert_eq!(taken.input.root(), Digest::of(&[1; 3000]));
        assert_eq!(taken.layer(3).unwrap().kv.bytes(), Some([2; 5000].as_slice()));
        columns.receive(&[3; 10]);
        assert_eq!((columns.roots(), taken.roots()), (roots.clone(), roots));
        assert_eq!(columns.input.len(), 3010);
        assert!(columns.take_bytes().is_none());
    }
}
