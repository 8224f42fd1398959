//! What a stage keeps of a session until its deadline, and how it answers challenges from that.
//!
//! The archive holds only what came in: tokens, or the states that were received, and at server 1
//! the states that the head read. Columns that were not kept are rebuilt through the forward pass
//! that served, one layer after the other, as challenges come to them, and must give the roots that
//! were signed; sums are derived again for the cells that are asked for.

use core::fmt;
use core::ops::Range;
use std::collections::BTreeMap;

use lockstep_exact::Digest;
use lockstep_exact::bytes::Canonical as _;
use lockstep_exact::forward::{Probe, Row, Scratch, Sees, forward, logits};
use lockstep_exact::invariant::Broken;
use lockstep_exact::kv::KvCache;
use lockstep_exact::names::ProductName;
use lockstep_exact::ops::{Device as _, Host as _, KvOf, Place, Products, StateOf};
use lockstep_exact::plan::LayerPlan;
use lockstep_exact::state::{State, StateError};
use lockstep_exact::weights::{HeadOf, LayerOf};

use crate::challenge::{Challenge, Side, Target};
use crate::column::{Column, Columns, Keep, Recorder};
use crate::opening::{HeadOpening, Inputs, LayerOpening, Opening, SignedOpening, runs};
use crate::run::{Filled, LayerRun, ROWS, RunError};
use crate::sign::{Keypair, Statement as _};
use crate::slice::{Slice, SliceError, Tree};
use crate::slots::{Slot, slots};
use crate::statement::LayerRoots;
use crate::{limits, sums};

/// Positions of one chunk of a rebuild.
const CHUNK: usize = 128;

/// The archive of a session: what a stage keeps of it for challenges.
#[derive(Clone, Debug)]
pub struct Archive {
    span: Range<u32>,
    prompt_len: u32,
    tokens: Vec<u32>,
    states: Vec<u8>,
    head: Vec<u8>,
}

impl Archive {
    /// Creates the archive of a session in which nothing has happened, for a span of layers.
    #[must_use]
    pub const fn new(span: Range<u32>, prompt_len: u32) -> Self {
        Self { span, prompt_len, tokens: Vec::new(), states: Vec::new(), head: Vec::new() }
    }

    /// Adds tokens that server 1 has embedded.
    pub fn tokens(&mut self, tokens: &[u32]) {
        self.tokens.extend_from_slice(tokens);
    }

    /// Adds state rows that came in at any other server.
    pub fn states(&mut self, bytes: &[u8]) {
        self.states.extend_from_slice(bytes);
    }

    /// Adds the state row that the head of server 1 read.
    pub fn head_state(&mut self, row: &[u8]) {
        self.head.extend_from_slice(row);
    }

    /// Returns the range of the layers.
    pub(crate) const fn span(&self) -> Range<u32> {
        self.span.start..self.span.end
    }

    /// Returns the number of bytes kept.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        let tokens = self.tokens.len().saturating_mul(4);
        tokens.saturating_add(self.states.len()).saturating_add(self.head.len())
    }

    /// Returns the layers that have to be run again for the columns of `layer`, if the columns
    /// `before` are there: none if `before` has those of the layer; those from the end of `before`
    /// on if it ends in the span at or before the layer; else all from the span's first on.
    /// `before` counts only with its bytes. From this the cost of a rebuild is known beforehand.
    #[must_use]
    pub fn layers_to_rebuild(&self, layer: u32, before: Option<&Columns>) -> Range<u32> {
        let end = layer.saturating_add(1);
        let held = before.filter(|columns| columns.has_bytes()).map(Columns::span);
        match held {
            Some(held) if held.contains(&layer) => end..end,
            Some(held) if self.span.contains(&held.end) && held.end <= layer => held.end..end,
            Some(_) | None => self.span.start..end,
        }
    }

    const fn first_head(&self) -> u32 {
        self.prompt_len.saturating_sub(1)
    }
}

/// Why a challenge is not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// The device failed, or refused a product.
    Device {
        /// What it says.
        error: String,
    },
    /// The archive does not give the roots that were signed: this machine computed wrongly.
    Diverged,
    /// An invariant of this program does not hold.
    Internal(Broken),
    /// A cell that this stage did not compute.
    OutOfRange,
    /// A kept state that is not canonical.
    State(StateError),
    /// The opening would be larger than a frame may be.
    TooLarge {
        /// The number of bytes of the opening.
        bytes: usize,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device { error } => write!(f, "the device: {error}"),
            Self::Diverged => f.write_str("the rebuilt columns do not have the signed roots"),
            Self::Internal(broken) => broken.fmt(f),
            Self::OutOfRange => f.write_str("a cell that this stage did not compute"),
            Self::State(error) => write!(f, "archive: {error}"),
            Self::TooLarge { bytes } => {
                write!(f, "an opening of {bytes} bytes (at most {})", limits::OPENING_BYTES)
            }
        }
    }
}

impl core::error::Error for OpenError {}

impl From<Broken> for OpenError {
    fn from(broken: Broken) -> Self {
        Self::Internal(broken)
    }
}

/// What is told of a device that has failed.
fn failed(error: impl fmt::Display) -> OpenError {
    OpenError::Device { error: error.to_string() }
}

impl From<SliceError> for OpenError {
    fn from(_: SliceError) -> Self {
        Self::OutOfRange
    }
}

impl From<StateError> for OpenError {
    fn from(error: StateError) -> Self {
        Self::State(error)
    }
}

/// A rebuild of the columns of one layer: layer by layer from what the archive holds, or from the
/// columns of the layer before. [`Prover::advance`] does a slice of it at a time, so that others
/// need not wait for all of it. Of the layers between only the states are held, so the memory is
/// that of one layer: its states, before and after, and its KV rows, once as they are committed and
/// once as attention reads them (`K`).
#[derive(Debug)]
pub struct Rebuild<K> {
    /// The layer whose columns are wanted.
    layer: u32,
    /// The layers that are not through, the one under way first.
    layers: Range<u32>,
    under_way: Option<LayerUnderWay<K>>,
    /// The columns of the last layer that is through.
    columns: Columns,
}

/// A layer of a rebuild whose rows have gone through it in part.
#[derive(Debug)]
struct LayerUnderWay<K> {
    columns: Columns,
    /// The states after the layer before; none for the first of the span.
    input: Option<Column>,
    cache: K,
    /// The next position, of so many.
    position: usize,
    count: usize,
}

impl<K> Rebuild<K> {
    /// Begins to rebuild the columns of a layer, from the columns of a layer before it if these are
    /// `before`.
    ///
    /// # Errors
    /// [`OpenError::OutOfRange`] for a layer that is not the archive's.
    pub fn begin(
        archive: &Archive,
        layer: u32,
        before: Option<Columns>,
    ) -> Result<Self, OpenError> {
        if !archive.span.contains(&layer) {
            return Err(OpenError::OutOfRange);
        }
        let layers = archive.layers_to_rebuild(layer, before.as_ref());
        let columns = match before {
            Some(before) if layers.start > archive.span.start => before,
            Some(_) | None => Columns::new(0..0, Keep::Bytes),
        };
        Ok(Self { layer, layers, under_way: None, columns })
    }

    /// Returns the layer whose columns are rebuilt.
    #[must_use]
    pub const fn layer(&self) -> u32 {
        self.layer
    }

    /// Returns the columns of the layer, once [`Prover::advance`] has said that the rebuild is
    /// done.
    #[must_use]
    pub fn into_columns(self) -> Columns {
        self.columns
    }
}

impl<K> LayerUnderWay<K> {
    /// Returns the columns, with what went into the layer.
    fn into_columns(self) -> Columns {
        let Self { mut columns, input, .. } = self;
        if let Some(input) = input {
            columns.input = input;
        }
        columns
    }
}

/// A stage that answers challenges to one session.
pub struct Prover<'a, O: Products> {
    ops: &'a O,
    weights: &'a [LayerOf<O>],
    head: Option<&'a HeadOf<O>>,
    hidden: usize,
    archive: &'a Archive,
    columns: Columns,
}

impl<'a, O: Products> Prover<'a, O> {
    /// Rebuilds the columns of one layer at once: [`Rebuild`] to its end. `head` is server 1's.
    ///
    /// # Errors
    /// [`OpenError::State`] for an archive whose states are damaged, [`OpenError::OutOfRange`] for
    /// a layer that is not the archive's, [`OpenError::Device`] for a device that fails.
    pub fn rebuild(
        ops: &'a O,
        weights: &'a [LayerOf<O>],
        head: Option<&'a HeadOf<O>>,
        archive: &'a Archive,
        layer: u32,
        before: Option<Columns>,
    ) -> Result<Self, OpenError> {
        let mut rebuild = Rebuild::begin(archive, layer, before)?;
        let none = Columns::new(0..0, Keep::Bytes);
        let mut prover = Self::with_columns(ops, weights, head, archive, none);
        while !prover.advance(&mut rebuild)? {}
        prover.columns = rebuild.into_columns();
        Ok(prover)
    }

    /// Answers from columns that were kept with their bytes.
    #[must_use]
    pub fn with_columns(
        ops: &'a O,
        weights: &'a [LayerOf<O>],
        head: Option<&'a HeadOf<O>>,
        archive: &'a Archive,
        columns: Columns,
    ) -> Self {
        let hidden = weights.first().map_or(0, |layer| layer.hidden());
        Self { ops, weights, head, hidden, archive, columns }
    }

    /// Returns the columns that challenges are answered from: of one layer after a rebuild, of the
    /// whole span where they were kept.
    #[must_use]
    pub const fn columns(&self) -> &Columns {
        &self.columns
    }

    /// Returns the columns, to answer from again.
    #[must_use]
    pub fn into_columns(self) -> Columns {
        self.columns
    }

    /// Compares the roots of the columns that challenges are answered from, and the root of what
    /// went into their first layer, with those that the stage signed: `input_root`, and `signed`
    /// for each layer of the span.
    ///
    /// # Errors
    /// [`OpenError::Diverged`].
    pub fn compare(&self, input_root: Digest, signed: &[LayerRoots]) -> Result<(), OpenError> {
        let span = self.columns.span();
        let at = span.start.saturating_sub(self.archive.span.start) as usize;
        let before = match at.checked_sub(1) {
            Some(before) => signed.get(before).map(|roots| roots.states),
            None => Some(input_root),
        };
        let same_before = before == Some(self.columns.input.root());
        let signed = signed.get(at..at.saturating_add(span.len()));
        let same = signed == Some(self.columns.roots().as_slice());
        if same_before && same { Ok(()) } else { Err(OpenError::Diverged) }
    }

    /// Runs one slice of a rebuild, which is about the work of a chunk of a prompt: as many chunks
    /// of one layer each as the span has layers. Returns whether the rebuild is done.
    ///
    /// # Errors
    /// [`OpenError::State`] for an archive whose states are damaged, [`OpenError::OutOfRange`] for
    /// tokens that the model does not have, or a rebuild of another archive,
    /// [`OpenError::Device`] for a device that fails.
    pub fn advance(&self, rebuild: &mut Rebuild<KvOf<O>>) -> Result<bool, OpenError> {
        let mut scratch = Scratch::default();
        for _ in self.archive.span() {
            if rebuild.layers.is_empty() {
                break;
            }
            let mut under_way = match rebuild.under_way.take() {
                Some(under_way) => under_way,
                None => self.start_layer(rebuild.layers.start, &mut rebuild.columns)?,
            };
            if under_way.position < under_way.count {
                self.run_chunk(rebuild.layers.start, &mut under_way, &mut scratch)?;
            }
            if under_way.position < under_way.count {
                rebuild.under_way = Some(under_way);
            } else {
                rebuild.columns = under_way.into_columns();
                rebuild.layers.start = rebuild.layers.start.saturating_add(1);
            }
        }
        Ok(rebuild.layers.is_empty())
    }

    /// Begins a layer that goes on from the states of the columns before it.
    fn start_layer(
        &self,
        layer: u32,
        before: &mut Columns,
    ) -> Result<LayerUnderWay<KvOf<O>>, OpenError> {
        let is_first = layer == self.archive.span.start;
        let row_bytes = lockstep_exact::state::row_bytes(self.hidden);
        let mut columns = Columns::new(layer..layer.saturating_add(1), Keep::Bytes);
        let input = if is_first {
            None
        } else {
            let states = before.take_last_states();
            Some(states.ok_or_else(|| Broken::new("a rebuild lacks the states of a layer"))?)
        };
        *before = Columns::new(0..0, Keep::Bytes);
        let shape = self.layer(layer)?.kv_shape();
        let rows = self.input_rows(input.as_ref())?;
        let count = match layer {
            0 => self.archive.tokens.len(),
            _ => rows.chunks_exact(row_bytes.max(1)).len(),
        };
        columns.reserve(count, row_bytes, shape.row_bytes());
        Ok(LayerUnderWay { columns, input, cache: KvOf::<O>::new(&[shape]), position: 0, count })
    }

    /// Puts the next chunk of rows through the layer that is under way.
    fn run_chunk(
        &self,
        layer: u32,
        under_way: &mut LayerUnderWay<KvOf<O>>,
        scratch: &mut Scratch<O::Device>,
    ) -> Result<(), OpenError> {
        let LayerUnderWay { columns, input, cache, position, count } = under_way;
        let run = *position..position.saturating_add(CHUNK).min(*count);
        let state = self.chunk(layer, self.input_rows(input.as_ref())?, run.clone())?;
        if layer == self.archive.span.start {
            let rows = self.ops.device().read_state(&state).map_err(failed)?;
            if layer == 0 {
                columns.receive_embeddings(&rows);
            } else {
                columns.receive(&rows.to_bytes());
            }
        }
        let row = |position: usize| Row {
            place: Place { slot: 0, position },
            feeds_head: position >= self.archive.first_head() as usize,
        };
        let batch: Vec<Row> = run.clone().map(row).collect();
        let weights = core::slice::from_ref(self.layer(layer)?);
        let sessions = &mut [columns];
        let mut recorder = Recorder::new(sessions);
        forward(self.ops, weights, &batch, &mut [cache], state, scratch, &mut recorder)
            .map_err(failed)?;
        recorder.finish()?;
        *position = run.end;
        Ok(())
    }

    /// Returns the bytes of the states that go into a layer: of the archive, or after the layer
    /// before.
    fn input_rows<'b>(&'b self, input: Option<&'b Column>) -> Result<&'b [u8], OpenError> {
        Ok(match input {
            Some(column) => column.bytes().ok_or(OpenError::OutOfRange)?,
            None => &self.archive.states,
        })
    }

    /// Returns the input rows of the positions `run` of a layer, on the device: embeddings of
    /// tokens in layer 0, states elsewhere.
    fn chunk(&self, layer: u32, rows: &[u8], run: Range<usize>) -> Result<StateOf<O>, OpenError> {
        if layer == 0 {
            return self.embed(self.archive.tokens.get(run).ok_or(OpenError::OutOfRange)?);
        }
        let row_bytes = lockstep_exact::state::row_bytes(self.hidden);
        let bytes = run.start.saturating_mul(row_bytes)..run.end.saturating_mul(row_bytes);
        let rows = State::parse(self.hidden, rows.get(bytes).ok_or(OpenError::OutOfRange)?)?;
        let rows = self.ops.device().put_state(rows).map_err(failed)?;
        Ok(rows)
    }

    fn layer(&self, layer: u32) -> Result<&'a LayerOf<O>, OpenError> {
        let at = layer.checked_sub(self.archive.span.start).map(|at| at as usize);
        at.and_then(|at| self.weights.get(at)).ok_or(OpenError::OutOfRange)
    }

    const fn row_bytes(&self) -> u64 {
        lockstep_exact::state::row_bytes(self.hidden) as u64
    }

    fn embed(&self, tokens: &[u32]) -> Result<StateOf<O>, OpenError> {
        let head = self.head.ok_or(OpenError::OutOfRange)?;
        let known = head.embedding.shape().rows;
        if tokens.iter().any(|&token| token as usize >= known) {
            return Err(OpenError::OutOfRange);
        }
        let mut state = StateOf::<O>::default();
        self.ops.device().embed(&head.embedding, head.embedding_scale, tokens, &mut state);
        Ok(state)
    }
}

impl<O: Products> Prover<'_, O> {
    /// Answers a challenge with an opening that `stage` signs.
    ///
    /// # Soundness
    /// The caller has checked the challenge's signature, session, run and limits.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn answer(
        &self,
        challenge: &Challenge,
        stage: &Keypair,
    ) -> Result<SignedOpening, OpenError> {
        let body = self.open(&challenge.target)?.to_bytes();
        if body.len() > limits::OPENING_BYTES {
            return Err(OpenError::TooLarge { bytes: body.len() });
        }
        Ok(SignedOpening::new(challenge.statement(), body, stage))
    }

    /// Opens the cells that a challenge names.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(&self, target: &Target) -> Result<Opening, OpenError> {
        match target {
            Target::Layer { layer, first, end, positions } => {
                Ok(Opening::Layer(self.open_layer(*layer, *first..*end, positions)?))
            }
            Target::Head { positions } => Ok(Opening::Head(self.open_head(positions)?)),
            Target::Edge { layer, side, first, count } => {
                let run = *first..first.saturating_add(*count);
                Ok(Opening::Edge(self.open_edge(*layer, *side, run)?))
            }
            // What came in as marks is not in the archive: the stage's machine keeps it.
            Target::Mark { .. } => Err(OpenError::OutOfRange),
        }
    }

    fn open_edge(&self, layer: u32, side: Side, run: Range<u32>) -> Result<Slice, OpenError> {
        let column = match side {
            Side::Received
                if layer == self.archive.span.start && layer == self.columns.span().start =>
            {
                &self.columns.input
            }
            Side::Sent if layer.checked_add(1) == Some(self.archive.span.end) => {
                &self.columns.layer(layer).ok_or(OpenError::OutOfRange)?.states
            }
            Side::Received | Side::Sent => return Err(OpenError::OutOfRange),
        };
        let base = match side {
            Side::Received => 0,
            Side::Sent => self.base_of(layer)?,
        };
        slice_of(&mut tree_of(column)?, base, self.row_bytes(), run)
    }

    /// Returns the position of a states column's first row.
    fn base_of(&self, layer: u32) -> Result<u32, OpenError> {
        let weights = self.layer(layer)?;
        Ok(if weights.is_last { self.archive.first_head() } else { 0 })
    }

    fn open_layer(
        &self,
        layer: u32,
        kv: Range<u32>,
        positions: &[u32],
    ) -> Result<LayerOpening, OpenError> {
        let weights = self.layer(layer)?;
        let columns = self.columns.layer(layer).ok_or(OpenError::OutOfRange)?;
        let kv_row = weights.kv_shape().row_bytes() as u64;
        let end = positions.last().map_or(0, |last| last.saturating_add(1));
        let kv = slice_of(&mut tree_of(&columns.kv)?, 0, kv_row, kv)?;
        let runs = runs(positions);
        let (inputs, rows) = self.layer_inputs(layer, &runs)?;
        let first_output = if weights.is_last { self.archive.first_head() } else { 0 };
        let with_state = runs.iter().map(|run| run.start.max(first_output)..run.end);
        let with_state = with_state.filter(|run| !run.is_empty());
        let mut tree = tree_of(&columns.states)?;
        let output = |run| slice_of(&mut tree, first_output, self.row_bytes(), run);
        let outputs = with_state.map(output).collect::<Result<_, _>>()?;
        // Only cells need the rows before theirs.
        let mut run = LayerRun {
            ops: self.ops,
            weights,
            first_head: self.archive.first_head(),
            kv: slice_bytes(&columns.kv, 0, kv_row, 0..end)?,
            first: 0,
            filled: &mut Filled::new(weights.kv_shape()),
            scratch: Scratch::default(),
        };
        let mut taken = TakenSums::new(&weights.plan);
        let mut at = 0;
        for piece in positions.chunks(ROWS) {
            let indexes: Vec<usize> = (at..at + piece.len()).collect();
            at += piece.len();
            match run.through(piece, rows.select(&indexes), &mut taken) {
                Ok(()) => {}
                Err(RunError::Kv { .. }) => return Err(OpenError::Diverged),
                Err(RunError::Products(error)) => return Err(failed(error)),
            }
        }
        Ok(LayerOpening { kv, inputs, outputs, sums: taken.into_sums() })
    }

    /// Returns the input rows of the runs: as they are opened, and as states.
    fn layer_inputs(&self, layer: u32, runs: &[Range<u32>]) -> Result<(Inputs, State), OpenError> {
        if layer == 0 {
            let mut tokens = Vec::new();
            for run in runs {
                let known = self.archive.tokens.get(run.start as usize..run.end as usize);
                tokens.extend_from_slice(known.ok_or(OpenError::OutOfRange)?);
            }
            let rows = self.embed(&tokens)?;
            let rows = self.ops.device().read_state(&rows).map_err(failed)?;
            return Ok((Inputs::Embeddings(rows.to_bytes()), rows.into_owned()));
        }
        let column = if layer == self.columns.span().start {
            &self.columns.input
        } else {
            let before = self.columns.layer(layer.saturating_sub(1));
            &before.ok_or(OpenError::OutOfRange)?.states
        };
        let mut tree = tree_of(column)?;
        let opened = |run: &Range<u32>| slice_of(&mut tree, 0, self.row_bytes(), run.clone());
        let slices = runs.iter().map(opened).collect::<Result<_, _>>()?;
        let mut rows = Vec::new();
        for run in runs {
            rows.extend_from_slice(slice_bytes(column, 0, self.row_bytes(), run.clone())?);
        }
        Ok((Inputs::Slices(slices), State::parse(self.hidden, &rows)?))
    }

    fn open_head(&self, positions: &[u32]) -> Result<HeadOpening, OpenError> {
        let head = self.head.ok_or(OpenError::OutOfRange)?;
        let row_bytes = lockstep_exact::state::row_bytes(self.hidden);
        let mut states = Vec::new();
        for position in positions {
            let at = position.checked_sub(self.archive.first_head());
            let at = at.ok_or(OpenError::OutOfRange)? as usize;
            let start = at.saturating_mul(row_bytes);
            let row = self.archive.head.get(start..start.saturating_add(row_bytes));
            states.extend_from_slice(row.ok_or(OpenError::OutOfRange)?);
        }
        let state = State::parse(self.hidden, &states)?;
        let row = |&position: &u32| Row {
            place: Place { slot: 0, position: position as usize },
            feeds_head: true,
        };
        let rows: Vec<Row> = positions.iter().map(row).collect();
        let mut taken = TakenLogits { shape: head.output_shape, sums: Vec::new() };
        let state = self.ops.device().put_state(state).map_err(failed)?;
        logits(self.ops, head, &rows, &state, &mut Scratch::default(), &mut taken)
            .map_err(failed)?;
        Ok(HeadOpening { states, sums: taken.sums })
    }
}

/// Returns the bytes of a run of rows of a kept column whose first row is of position `base`.
fn slice_bytes(
    column: &Column,
    base: u32,
    row_bytes: u64,
    run: Range<u32>,
) -> Result<&[u8], OpenError> {
    let range = byte_range(base, row_bytes, run)?;
    let start = usize::try_from(range.start).map_err(|_| OpenError::OutOfRange)?;
    let end = usize::try_from(range.end).map_err(|_| OpenError::OutOfRange)?;
    column.bytes().and_then(|bytes| bytes.get(start..end)).ok_or(OpenError::OutOfRange)
}

fn tree_of(column: &Column) -> Result<Tree<'_>, OpenError> {
    column.tree().ok_or(OpenError::OutOfRange)
}

fn slice_of(
    tree: &mut Tree<'_>,
    base: u32,
    row_bytes: u64,
    run: Range<u32>,
) -> Result<Slice, OpenError> {
    Ok(tree.prove(byte_range(base, row_bytes, run)?)?)
}

fn byte_range(base: u32, row_bytes: u64, run: Range<u32>) -> Result<Range<u64>, OpenError> {
    let at = |position: u32| {
        let row = position.checked_sub(base).ok_or(OpenError::OutOfRange)?;
        u64::from(row).checked_mul(row_bytes).ok_or(OpenError::OutOfRange)
    };
    Ok(at(run.start)?..at(run.end)?)
}

/// Takes the sums of a layer's products out of a forward pass: per slot and position. Experts come
/// in increasing order, so a position's sums lie in that order.
struct TakenSums(Vec<(Slot, BTreeMap<usize, Vec<u8>>)>);

impl TakenSums {
    fn new(plan: &LayerPlan) -> Self {
        Self(slots(plan).into_iter().map(|slot| (slot, BTreeMap::new())).collect())
    }

    fn into_sums(self) -> Vec<Vec<u8>> {
        self.0.into_iter().map(|(_, taken)| taken.into_values().flatten().collect()).collect()
    }
}

impl Probe for TakenSums {
    const SEES: Sees = Sees { sums: true, ..Sees::NOTHING };

    fn sums(&mut self, _: u32, name: ProductName, rows: &[Row], sums: &[i64]) {
        let slot = self.0.iter_mut().find(|(slot, _)| slot.kind == name.kind());
        // A stage that loaded another layer in the place of this one computes products that an
        // opening of this one does not have. It shows those that it has, and they convict it.
        let Some((slot, taken)) = slot else { return };
        for (row, sums) in rows.iter().zip(sums.chunks_exact(slot.shape.rows.max(1))) {
            let out = taken.entry(row.place.position).or_default();
            sums::encode(slot.shape, sums, out);
        }
    }
}

/// Takes the sums of the logits product.
struct TakenLogits {
    shape: lockstep_exact::matrix::Shape,
    sums: Vec<u8>,
}

impl Probe for TakenLogits {
    const SEES: Sees = Sees { sums: true, ..Sees::NOTHING };

    fn sums(&mut self, _: u32, _: ProductName, _: &[Row], sums: &[i64]) {
        sums::encode(self.shape, sums, &mut self.sums);
    }
}
